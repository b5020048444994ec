//! Restoring short intervals: the code as plain linear maps.
//!
//! The library's decoder transforms its whole field in every call, which takes some 160 us however
//! short the parts are: too much for a read of 4 KiB whose disk is lost. But what comes out is a linear
//! map of what goes in, the same for every **element**: 16 bits, byte i of the lower and byte i of the
//! upper half of a unit of 64 bytes. So for each set of parts the decoder is asked once, for all basis
//! elements at the same time; from the answer tables are made, and they are kept.
//!
//! This needs no knowledge of the field, only that the code is linear and where its elements lie.

use std::num::NonZero;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use proto::id::{PartIndex, PartSet};
use proto::scheme::Scheme;

use crate::codec::reed_solomon::{self, CodecError, UNIT};

/// Bits of an element.
const BITS: usize = 16;
/// Elements of a unit.
const ELEMENTS: usize = UNIT as usize / 2;
/// Sets of parts whose tables are kept: all of ec(4,2) with up to two disks lost, with room for other
/// schemes. Each takes some KiB.
const KEPT: NonZero<usize> = NonZero::new(64).expect("not zero");

static TABLES: LazyLock<Mutex<LruCache<Key, Arc<DecodeTables>>>> =
    LazyLock::new(|| Mutex::new(LruCache::new(KEPT)));

/// Which parts are restored from which.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    scheme: Scheme,
    given: PartSet,
    wanted: PartSet,
}

/// What an element of one part adds to that of another, by the values of its two bytes.
struct Table {
    low: [u16; 256],
    high: [u16; 256],
}

/// For each wanted part one table for each given one, both in order.
struct DecodeTables(Vec<Vec<Table>>);

/// Restores parts as [`reed_solomon::decode`] does, from k distinct ones of equally many whole units.
pub(crate) fn restore(
    scheme: Scheme,
    parts: &[(PartIndex, Bytes)],
    wanted: &[PartIndex],
) -> Result<Vec<Bytes>, CodecError> {
    let mut given: Vec<_> = parts.iter().collect();
    given.sort_unstable_by_key(|(part, _)| *part);
    let key = Key {
        scheme,
        given: given.iter().map(|(part, _)| *part).collect(),
        wanted: wanted.iter().copied().collect(),
    };
    let kept = TABLES.lock().get(&key).cloned();
    let tables = match kept {
        Some(tables) => tables,
        None => {
            let made = Arc::new(DecodeTables::ask(key)?);
            TABLES.lock().put(key, Arc::clone(&made));
            made
        }
    };
    let bytes: Vec<&[u8]> = given.iter().map(|(_, bytes)| bytes.as_ref()).collect();
    let restored: Vec<Bytes> = tables.0.iter().map(|tables| apply(tables, &bytes)).collect();
    let nth = |part: &PartIndex| key.wanted.iter().position(|wanted| wanted == *part);
    Ok(wanted.iter().filter_map(nth).map(|nth| restored[nth].clone()).collect())
}

impl DecodeTables {
    /// Has parts decoded in which each basis element of each given part stands alone.
    fn ask(key: Key) -> Result<Self, CodecError> {
        let given = key.given.iter().count();
        let len = (given * BITS).div_ceil(ELEMENTS) * UNIT as usize;
        let basis = |(nth, part): (usize, PartIndex)| {
            let mut bytes = vec![0; len];
            for bit in 0..BITS {
                let (low, high) = places(nth * BITS + bit);
                let place = if bit < 8 { low } else { high };
                bytes[place] = 1 << (bit % 8);
            }
            (part, Bytes::from(bytes))
        };
        let basis: Vec<_> = key.given.iter().enumerate().map(basis).collect();
        let wanted: Vec<_> = key.wanted.iter().collect();
        let images = reed_solomon::decode(key.scheme, &basis, &wanted)?;
        let tables = |image: &Bytes| (0..given).map(|nth| Table::new(image, nth)).collect();
        Ok(Self(images.iter().map(tables).collect()))
    }
}

/// Where an element's two bytes lie in a part.
fn places(element: usize) -> (usize, usize) {
    let low = element / ELEMENTS * UNIT as usize + element % ELEMENTS;
    (low, low + ELEMENTS)
}

impl Table {
    /// From the images of all basis elements, of which the `nth` part's count here.
    fn new(image: &[u8], nth: usize) -> Self {
        let of_bit = |bit: usize| {
            let (low, high) = places(nth * BITS + bit);
            u16::from_le_bytes([image[low], image[high]])
        };
        let sum = |value: usize, first: usize| {
            let bits = (0..8).filter(|bit| value >> bit & 1 == 1);
            bits.fold(0, |sum, bit| sum ^ of_bit(first + bit))
        };
        Self {
            low: std::array::from_fn(|value| sum(value, 0)),
            high: std::array::from_fn(|value| sum(value, 8)),
        }
    }
}

/// One part, of as many bytes as each of the given ones has.
fn apply(tables: &[Table], given: &[&[u8]]) -> Bytes {
    let mut out = vec![0; given[0].len()];
    for (at, unit) in out.chunks_exact_mut(UNIT as usize).enumerate() {
        let mut sums = [0u16; ELEMENTS];
        let at = at * UNIT as usize;
        for (table, bytes) in tables.iter().zip(given) {
            let (low, high) = bytes[at..at + UNIT as usize].split_at(ELEMENTS);
            for ((sum, low), high) in sums.iter_mut().zip(low).zip(high) {
                *sum ^= table.low[usize::from(*low)] ^ table.high[usize::from(*high)];
            }
        }
        let (low, high) = unit.split_at_mut(ELEMENTS);
        for ((sum, low), high) in sums.iter().zip(low).zip(high) {
            [*low, *high] = sum.to_le_bytes();
        }
    }
    out.into()
}
