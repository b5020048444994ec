//! Blobs to parts and back.
//!
//! Data parts are slices of the blob, without a copy, except the last ones, which carry the zero
//! padding. The code works on 64-byte units, the same unit of every part at a time: so any interval
//! of parts that begins and ends on a unit can be encoded and decoded alone.
//!
//! Short intervals are restored by tables, see `decode_tables`, longer ones by the library (`reed_solomon`). Parity is
//! made in aligned buffers that are used again, so that a disk in this process writes it without a copy. Checksums
//! are computed while the bytes are still in the CPU's cache.

pub(crate) mod decode_tables;
pub(crate) mod reed_solomon;

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use crc32c::crc32c;
use proto::buffer::Pool;
use proto::checksum::{Checked, block_count};
use proto::id::{BlobId, PartIndex, PartSet};
use proto::limits::{CHECK_BLOCK, TARGET_BLOB};
use proto::scheme::Scheme;

pub use crate::codec::reed_solomon::CodecError;
use crate::codec::reed_solomon::UNIT;

/// Bytes of each part encoded at a time: the working space of all parts stays in the CPU's cache.
const STEP: usize = 16 << 10;
/// Bytes of the parity of a full blob of ec(4,2), which a buffer of the pool holds.
const PARITY_LEN: usize = TARGET_BLOB as usize / 2;
/// Buffers kept: as many as a mount has puts under way.
const PARITY_KEPT: usize = 8;

/// Bytes of a part up to which tables restore it sooner than the decoder of the library.
const SHORT: usize = 128 << 10;

static PARITY: LazyLock<Arc<Pool>> = LazyLock::new(|| Pool::new(PARITY_LEN, PARITY_KEPT));

/// All parts of a blob, in order, with their checksums.
///
/// # Panics
/// If `data` is not as long as the id says.
pub fn encode(id: BlobId, data: &Bytes) -> Vec<Checked> {
    assert_eq!(data.len(), id.len() as usize, "a blob is as long as its id says");
    with_parity(id, data_parts(id.scheme(), data, id.part_len() as usize))
}

/// All parts of a blob from its data parts, padding included.
fn with_parity(id: BlobId, data: Vec<Bytes>) -> Vec<Checked> {
    let (scheme, part_len) = (id.scheme(), id.part_len() as usize);
    if let (true, [only]) = (scheme.is_copies(), data.as_slice()) {
        return vec![Checked::compute(only.clone()); scheme.parts()];
    }
    let mut parity = PARITY.take(scheme.parity_parts() * part_len);
    let checks = fill_parity(scheme, &data, parity.bytes_mut(), part_len);
    let parity = parity.freeze();
    let parity = (0..scheme.parity_parts()).map(|n| parity.slice(n * part_len..(n + 1) * part_len));
    let checked = |(bytes, checks)| Checked::received(bytes, checks).expect("a check per block");
    data.into_iter().chain(parity).zip(checks).map(checked).collect()
}

/// Makes parts of a blob from any k of them, in whole, and nothing beside them: neither the blob nor, where no parity is
/// wanted, any.
///
/// # Errors
/// When there are fewer than k, or their lengths differ.
pub(crate) fn restore(
    id: BlobId,
    given: &[(PartIndex, Bytes)],
    wanted: &[PartIndex],
) -> Result<Vec<Checked>, CodecError> {
    let scheme = id.scheme();
    let here = |part: PartIndex| given.iter().find(|(p, _)| *p == part).map(|(_, bytes)| bytes);
    let data: Vec<_> = (0..scheme.data_parts()).filter_map(PartIndex::new).collect();
    let takes_all = wanted.iter().any(|part| !data.contains(part));
    let missing = data.iter().filter(|part| takes_all || wanted.contains(part));
    let missing: Vec<_> = missing.filter(|part| here(**part).is_none()).copied().collect();
    let made = if missing.is_empty() { Vec::new() } else { decode(scheme, given, &missing)? };
    let of = |part: &PartIndex| {
        let made = missing.iter().position(|p| p == part).map(|nth| &made[nth]);
        made.or_else(|| here(*part)).cloned()
    };
    let lacking =
        || CodecError("a part that is to be made is neither given nor missing".to_owned());
    if takes_all {
        let data: Option<Vec<_>> = data.iter().map(of).collect();
        let all = with_parity(id, data.ok_or_else(lacking)?);
        return Ok(wanted.iter().map(|part| all[part.get()].clone()).collect());
    }
    wanted.iter().map(|part| of(part).map(Checked::compute).ok_or_else(lacking)).collect()
}

fn data_parts(scheme: Scheme, data: &Bytes, part_len: usize) -> Vec<Bytes> {
    let mut parts = Vec::with_capacity(scheme.parts());
    for index in 0..scheme.data_parts() {
        let start = (index * part_len).min(data.len());
        let end = (start + part_len).min(data.len());
        parts.push(if end - start == part_len {
            data.slice(start..end)
        } else {
            let mut padded = vec![0; part_len];
            padded[..end - start].copy_from_slice(&data[start..end]);
            padded.into()
        });
    }
    parts
}

/// Fills in the parity parts, one after the other; answers the checksums of all parts in order.
fn fill_parity(
    scheme: Scheme,
    data: &[Bytes],
    parity: &mut [u8],
    part_len: usize,
) -> Vec<Vec<u32>> {
    let mut checks = vec![Vec::with_capacity(block_count(part_len as u32)); scheme.parts()];
    let mut parity: Vec<&mut [u8]> = parity.chunks_exact_mut(part_len).collect();
    for start in (0..part_len).step_by(CHECK_BLOCK as usize) {
        let block = start..(start + CHECK_BLOCK as usize).min(part_len);
        for step in block.clone().step_by(STEP) {
            reed_solomon::encode(scheme, data, &mut parity, step..(step + STEP).min(block.end));
        }
        let blocks = data.iter().map(|part| &part[block.clone()]);
        let blocks = blocks.chain(parity.iter().map(|part| &part[block.clone()]));
        blocks.zip(&mut checks).for_each(|(bytes, checks)| checks.push(crc32c(bytes)));
    }
    checks
}

/// The interval of other parts that is needed to restore `range` of one part.
pub(crate) fn interval(scheme: Scheme, range: Range<u32>) -> Range<u32> {
    if scheme.is_copies() {
        return range;
    }
    range.start / UNIT * UNIT..range.end.next_multiple_of(UNIT)
}

/// Restores the same interval of the data parts `wanted` from that of k others.
///
/// `parts` holds the interval's bytes of at least k distinct parts, none of them wanted.
///
/// # Errors
/// When there are fewer, or their lengths differ.
pub fn decode(
    scheme: Scheme,
    parts: &[(PartIndex, Bytes)],
    wanted: &[PartIndex],
) -> Result<Vec<Bytes>, CodecError> {
    let [(_, first), ..] = parts else { return Err(CodecError("no parts".to_owned())) };
    if scheme.is_copies() {
        return Ok(vec![first.clone(); wanted.len()]);
    }
    let Some(parts) = parts.get(..scheme.data_parts()) else {
        return Err(CodecError(format!("{} parts of {}", parts.len(), scheme.data_parts())));
    };
    let given: PartSet = parts.iter().map(|(part, _)| *part).collect();
    if given.iter().count() < parts.len() || parts.iter().any(|(_, b)| b.len() != first.len()) {
        return Err(CodecError("parts are given twice, or their lengths differ".to_owned()));
    }
    if first.len() <= SHORT && first.len().is_multiple_of(UNIT as usize) {
        decode_tables::restore(scheme, parts, wanted)
    } else {
        reed_solomon::decode(scheme, parts, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::id::{GroupId, SessionId, VolumeId};

    fn id(scheme: Scheme, len: u32) -> BlobId {
        BlobId::new(VolumeId(1), SessionId(1), 1, GroupId(0), len, scheme).unwrap()
    }

    fn noise(len: u32, seed: u64) -> Bytes {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn whole_data_parts_are_not_copied() {
        let scheme = Scheme::erasure(4, 2).unwrap();
        let data = noise(4 << 20, 1);
        let parts = encode(id(scheme, 4 << 20), &data);
        assert_eq!(parts.len(), 6);
        for (part, slice) in parts.iter().zip(data.chunks(1 << 20)) {
            assert_eq!(part.data().as_ptr(), slice.as_ptr());
        }
    }

    #[test]
    fn encoding_in_steps_is_encoding_at_once() {
        let scheme = Scheme::erasure(5, 3).unwrap();
        let data = noise(5 * 48_000, 2);
        let parts = encode(id(scheme, 5 * 48_000), &data);
        let originals = parts[..5].iter().map(|p| p.data().clone());
        let at_once = reed_solomon_simd::encode(5, 3, originals).unwrap();
        for (part, expected) in parts[5..].iter().zip(at_once) {
            assert_eq!(part.data(), &expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Any k parts restore any interval of every other data part, alone.
        #[test]
        fn any_interval_is_restored_from_any_k_parts(
            k in 2usize..9, m in 1usize..5, len in 1u32..200_000, seed: u64, a: u32, b: u32,
        ) {
            let scheme = Scheme::erasure(k, m).unwrap();
            let parts = encode(id(scheme, len), &noise(len, seed));
            let part_len = scheme.part_len(len);
            let (a, b) = (a % part_len, b % part_len);
            let wide = interval(scheme, a.min(b)..a.max(b) + 1);
            prop_assert!(wide.end <= part_len);
            let range = wide.start as usize..wide.end as usize;

            // Keep k parts, chosen by the seed.
            let mut kept: Vec<usize> = (0..k + m).collect();
            let mut state = seed;
            while kept.len() > k {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                kept.remove((state >> 33) as usize % kept.len());
            }
            let index = |part| PartIndex::new(part).unwrap();
            let given: Vec<_> =
                kept.iter().map(|p| (index(*p), parts[*p].data().slice(range.clone()))).collect();
            let wanted: Vec<_> = (0..k).filter(|p| !kept.contains(p)).map(index).collect();
            let restored = decode(scheme, &given, &wanted).unwrap();
            for (part, bytes) in wanted.iter().zip(restored) {
                prop_assert_eq!(&bytes, &parts[part.get()].data().slice(range.clone()));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Any k parts make every part again, alone and all together, as it was with its checksums.
        #[test]
        fn parts_are_made_of_any_k_of_them(
            k in 1usize..9, m in 1usize..5, len in 1u32..200_000, seed: u64,
        ) {
            let scheme = Scheme::erasure(k, m).or_else(|_| Scheme::copies(m + 1)).unwrap();
            let (k, id) = (scheme.data_parts(), id(scheme, len));
            let parts = encode(id, &noise(len, seed));
            let mut order: Vec<usize> = (0..scheme.parts()).collect();
            order.rotate_left((seed % scheme.parts() as u64) as usize);
            let index = |part: usize| PartIndex::new(part).unwrap();
            let given: Vec<_> =
                order[..k].iter().map(|p| (index(*p), parts[*p].data().clone())).collect();
            let all: Vec<_> = (0..scheme.parts()).map(index).collect();
            for wanted in all.iter().map(std::slice::from_ref).chain([all.as_slice()]) {
                for (part, made) in wanted.iter().zip(restore(id, &given, wanted).unwrap()) {
                    prop_assert_eq!(made.data(), parts[part.get()].data());
                    prop_assert_eq!(made.checks(), parts[part.get()].checks());
                }
            }
            if k > 1 {
                prop_assert!(restore(id, &given[1..], &all).is_err());
            }
        }
    }

    #[test]
    fn too_few_parts_are_an_error() {
        let scheme = Scheme::erasure(4, 2).unwrap();
        let parts = encode(id(scheme, 1000), &noise(1000, 3));
        let given: Vec<_> =
            (0..3).map(|p| (PartIndex::new(p).unwrap(), parts[p].data().clone())).collect();
        assert!(decode(scheme, &given, &[PartIndex::new(3).unwrap()]).is_err());
        assert!(decode(scheme, &[], &[]).is_err());
    }
}
