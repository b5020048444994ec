//! Blobs to parts and back.
//!
//! Data parts are slices of the blob, without a copy, except the last ones, which carry the zero
//! padding. The code works on 64-byte units, the same unit of every part at a time: so any interval
//! of parts that begins and ends on a unit can be encoded and decoded alone.
//!
//! Encoders and decoders keep their working space, one per thread.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use proto::checksum::Checked;
use proto::id::{BlobId, PartIndex};
use proto::scheme::Scheme;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

/// Unit of the code, in bytes: it mixes bytes within such a unit, never across.
const UNIT: u32 = 64;
/// Bytes of each part encoded at a time: the working space of all parts stays in the CPU's cache.
const STEP: usize = 16 << 10;

thread_local! {
    static ENCODER: RefCell<Option<ReedSolomonEncoder>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<ReedSolomonDecoder>> = const { RefCell::new(None) };
}

/// Parts that do not make a blob: a bug of ours or of whoever stored them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("decoding: {0}")]
pub(crate) struct CodecError(String);

fn codec_error(error: reed_solomon_simd::Error) -> CodecError {
    CodecError(error.to_string())
}

/// All parts of a blob, in order, with their checksums.
///
/// # Panics
/// If `data` is not as long as the id says.
pub(crate) fn encode(id: BlobId, data: &Bytes) -> Vec<Checked> {
    assert_eq!(data.len(), id.len() as usize, "a blob is as long as its id says");
    let scheme = id.scheme();
    if scheme.is_copies() {
        return vec![Checked::compute(data.clone()); scheme.parts()];
    }
    let mut parts = data_parts(scheme, data, id.part_len() as usize);
    let parity = parity_of(scheme, &parts, id.part_len() as usize);
    parts.extend(parity.into_iter().map(Bytes::from));
    parts.into_iter().map(Checked::compute).collect()
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

fn parity_of(scheme: Scheme, data: &[Bytes], part_len: usize) -> Vec<Vec<u8>> {
    const FITS: &str = "a scheme's numbers and a part's length suit the code";
    let (k, m) = (scheme.data_parts(), scheme.parity_parts());
    let mut parity: Vec<_> = (0..m).map(|_| Vec::with_capacity(part_len)).collect();
    ENCODER.with_borrow_mut(|slot| {
        for start in (0..part_len).step_by(STEP) {
            let range = start..(start + STEP).min(part_len);
            let encoder = match slot {
                Some(encoder) => {
                    encoder.reset(k, m, range.len()).expect(FITS);
                    encoder
                }
                None => slot.insert(ReedSolomonEncoder::new(k, m, range.len()).expect(FITS)),
            };
            for part in data {
                encoder.add_original_shard(&part[range.clone()]).expect(FITS);
            }
            let result = encoder.encode().expect(FITS);
            for (out, shard) in parity.iter_mut().zip(result.recovery_iter()) {
                out.extend_from_slice(shard);
            }
        }
    });
    parity
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
pub(crate) fn decode(
    scheme: Scheme,
    parts: &[(PartIndex, Bytes)],
    wanted: &[PartIndex],
) -> Result<Vec<Bytes>, CodecError> {
    let (k, m) = (scheme.data_parts(), scheme.parity_parts());
    let [(_, first), ..] = parts else { return Err(CodecError("no parts".to_owned())) };
    if scheme.is_copies() {
        return Ok(vec![first.clone(); wanted.len()]);
    }
    let len = first.len();
    DECODER.with_borrow_mut(|slot| {
        let decoder = match slot {
            Some(decoder) => {
                decoder.reset(k, m, len).map_err(codec_error)?;
                decoder
            }
            None => slot.insert(ReedSolomonDecoder::new(k, m, len).map_err(codec_error)?),
        };
        for (part, bytes) in &parts[..k.min(parts.len())] {
            match part.get() {
                data if data < k => decoder.add_original_shard(data, bytes),
                parity => decoder.add_recovery_shard(parity - k, bytes),
            }
            .map_err(codec_error)?;
        }
        let result = decoder.decode().map_err(codec_error)?;
        let restored = |part: &PartIndex| {
            let bytes = result.restored_original(part.get()).map(Bytes::copy_from_slice);
            bytes.ok_or_else(|| CodecError(format!("part {part} was not missing")))
        };
        wanted.iter().map(restored).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::id::{SessionId, VolumeId};

    fn id(scheme: Scheme, len: u32) -> BlobId {
        BlobId::new(VolumeId(1), SessionId(1), 1, len, scheme).unwrap()
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
