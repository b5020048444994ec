//! The code itself, as the library has it, for the same interval of all parts. Encoders and decoders keep their working
//! space, one per thread.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use proto::id::PartIndex;
use proto::scheme::Scheme;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

/// Unit of the code, in bytes: it mixes bytes within such a unit, never across.
pub(crate) const UNIT: u32 = 64;

thread_local! {
    static ENCODER: RefCell<Option<ReedSolomonEncoder>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<ReedSolomonDecoder>> = const { RefCell::new(None) };
}

/// Parts that do not make a blob: a bug of ours or of whoever stored them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("decoding: {0}")]
pub struct CodecError(pub(crate) String);

fn codec_error(error: reed_solomon_simd::Error) -> CodecError {
    CodecError(error.to_string())
}

/// Fills in the same interval of all parity parts.
pub(crate) fn encode(
    scheme: Scheme,
    data: &[Bytes],
    parity: &mut [&mut [u8]],
    range: Range<usize>,
) {
    const FITS: &str = "a scheme's numbers and a part's length suit the code";
    let (k, m) = (scheme.data_parts(), scheme.parity_parts());
    ENCODER.with_borrow_mut(|slot| {
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
            out[range.clone()].copy_from_slice(shard);
        }
    });
}

/// Restores the same interval of the data parts `wanted` from that of k others.
pub(crate) fn decode(
    scheme: Scheme,
    parts: &[(PartIndex, Bytes)],
    wanted: &[PartIndex],
) -> Result<Vec<Bytes>, CodecError> {
    let (k, m, len) = (scheme.data_parts(), scheme.parity_parts(), parts[0].1.len());
    DECODER.with_borrow_mut(|slot| {
        let decoder = match slot {
            Some(decoder) => {
                decoder.reset(k, m, len).map_err(codec_error)?;
                decoder
            }
            None => slot.insert(ReedSolomonDecoder::new(k, m, len).map_err(codec_error)?),
        };
        for (part, bytes) in parts {
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
