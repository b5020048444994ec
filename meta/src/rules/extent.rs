//! The map of a file's ranges, as pure arithmetic: what changes when a range is replaced.
//!
//! Invariants of a file's extents: not empty, in order, not overlapping, and no two neighbours that
//! could be one (contiguous in the file and in their blob, or both allocated zeros).

use std::ops::Range;

use crate::store::{Extent, Place};

/// First byte behind an extent.
pub(crate) fn end(extent: &Extent) -> u64 {
    extent.offset + extent.len
}

/// The part of an extent that lies in the range; `None` when that is empty.
pub(crate) fn clip(extent: &Extent, range: &Range<u64>) -> Option<Extent> {
    let start = extent.offset.max(range.start);
    let end = end(extent).min(range.end);
    (start < end).then(|| Extent {
        offset: start,
        len: end - start,
        place: extent.place.map(|p| forward(p, start - extent.offset)),
    })
}

/// The place `by` bytes further on.
pub(crate) fn forward(place: Place, by: u64) -> Place {
    Place { offset: place.offset + by as u32, ..place }
}

/// Are the two one run of bytes?
pub(crate) fn joins(left: &Extent, right: &Extent) -> bool {
    end(left) == right.offset
        && match (left.place, right.place) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                a.blob == b.blob && u64::from(a.offset) + left.len == u64::from(b.offset)
            }
            _ => false,
        }
}

/// Appends an extent, joined to the last one if they are one run.
pub(crate) fn push(list: &mut Vec<Extent>, extent: Extent) {
    match list.last_mut() {
        Some(last) if joins(last, &extent) => last.len += extent.len,
        _ => list.push(extent),
    }
}

/// What takes the place of `touching` when `range` is replaced by `new` (or by a hole).
///
/// `touching` are all extents that overlap the range or end or start at its bounds, in order: the
/// neighbours are there to be joined. The answer covers what they covered outside the range.
pub(crate) fn replace(
    touching: &[Extent],
    range: &Range<u64>,
    new: &[Extent],
    out: &mut Vec<Extent>,
) {
    out.clear();
    let left = 0..range.start;
    let right = range.end..u64::MAX;
    touching.iter().filter_map(|e| clip(e, &left)).for_each(|e| push(out, e));
    new.iter().for_each(|e| push(out, *e));
    touching.iter().filter_map(|e| clip(e, &right)).for_each(|e| push(out, e));
}

/// What extents of a file are that overlap, or of which neighbours could be one, in whatever order: where two have the same
/// bytes of the file, the one counts whose blob was made later; allocated zeros give way to all.
pub(crate) fn straightened(crooked: &[Extent]) -> Vec<Extent> {
    let mut sorted = crooked.to_vec();
    sorted.sort_by_key(|extent| extent.offset);
    let (mut straight, mut rest) = (Vec::new(), &sorted[..]);
    while let Some(first) = rest.first() {
        let mut until = end(first);
        let overlapping = rest[1..].iter().take_while(|extent| {
            let within = extent.offset < until;
            until = until.max(end(extent));
            within
        });
        let (group, behind) = rest.split_at(1 + overlapping.count());
        over_one_another(group).into_iter().for_each(|extent| push(&mut straight, extent));
        rest = behind;
    }
    straight
}

/// Extents that overlap, the later ones over the earlier ones.
fn over_one_another(group: &[Extent]) -> Vec<Extent> {
    let made = |extent: &Extent| extent.place.map(|p| (p.blob.session(), p.blob.sequence()));
    let mut by_age = group.to_vec();
    by_age.sort_by_key(made);
    let (mut list, mut next) = (Vec::new(), Vec::new());
    for extent in by_age {
        replace(&list, &(extent.offset..end(&extent)), &[extent], &mut next);
        std::mem::swap(&mut list, &mut next);
    }
    list
}

/// The holes of a range, given the extents that touch it in order.
pub(crate) fn holes(touching: &[Extent], range: &Range<u64>) -> Vec<Range<u64>> {
    let mut holes = Vec::new();
    let mut at = range.start;
    for extent in touching.iter().filter_map(|e| clip(e, range)) {
        if at < extent.offset {
            holes.push(at..extent.offset);
        }
        at = end(&extent);
    }
    if at < range.end {
        holes.push(at..range.end);
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::id::{BlobId, GroupId, SessionId, VolumeId};
    use proto::scheme::Scheme;

    fn blob(n: u64) -> BlobId {
        let scheme = Scheme::copies(3).unwrap();
        BlobId::new(VolumeId(1), SessionId(1), n, GroupId(0), 1 << 20, scheme).unwrap()
    }

    fn extent(offset: u64, len: u64, place: Option<(u64, u32)>) -> Extent {
        let place = place.map(|(n, offset)| Place { blob: blob(n), offset });
        Extent { offset, len, place }
    }

    proptest! {
        #[test]
        fn the_latest_blob_counts_where_extents_overlap(
            of in proptest::collection::vec((0u64..40, 1u64..12, proptest::option::of(0u32..50)), 0..9),
        ) {
            let numbered = of.into_iter().zip(1..);
            let crooked: Vec<Extent> = numbered
                .map(|((offset, len, place), n)| extent(offset, len, place.map(|at| (n, at))))
                .collect();
            let straight = straightened(&crooked);
            prop_assert!(straight.is_sorted_by(|a, b| end(a) <= b.offset && !joins(a, b)));
            let at = |list: &[Extent], byte: u64| -> Vec<Extent> {
                list.iter().filter_map(|e| clip(e, &(byte..byte + 1))).collect()
            };
            for byte in 0..60 {
                let latest = at(&crooked, byte).into_iter().max_by_key(|e| e.place.map(|p| p.blob));
                prop_assert_eq!(at(&straight, byte), latest.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn what_a_replacement_leaves() {
        let old = [extent(0, 10, Some((1, 0))), extent(10, 10, Some((2, 5)))];
        let cases = [
            // hole in the middle of both
            (5..15, vec![], vec![extent(0, 5, Some((1, 0))), extent(15, 5, Some((2, 10)))]),
            // joined with the left neighbour's bytes
            (
                10..15,
                vec![extent(10, 5, Some((1, 10)))],
                vec![extent(0, 15, Some((1, 0))), extent(15, 5, Some((2, 10)))],
            ),
            // joined with the right one's
            (
                9..10,
                vec![extent(9, 1, Some((2, 4)))],
                vec![extent(0, 9, Some((1, 0))), extent(9, 11, Some((2, 4)))],
            ),
            // all of it
            (0..20, vec![extent(0, 20, None)], vec![extent(0, 20, None)]),
            // behind the end: nothing joins
            (20..30, vec![extent(20, 10, None)], vec![old[0], old[1], extent(20, 10, None)]),
        ];
        for (range, new, expected) in cases {
            let mut out = Vec::new();
            replace(&old, &range, &new, &mut out);
            assert_eq!(out, expected, "{range:?} by {new:?}");
        }
    }

    #[test]
    fn holes_of_a_range() {
        let map = [extent(10, 10, None), extent(20, 5, Some((1, 0))), extent(40, 10, None)];
        assert_eq!(holes(&map, &(0..60)), [0..10, 25..40, 50..60]);
        assert_eq!(holes(&map, &(12..45)), vec![25..40]);
        assert_eq!(holes(&map, &(12..22)), []);
        assert_eq!(holes(&[], &(3..4)), vec![3..4]);
    }

    proptest! {
        /// Byte by byte: every byte outside the range is as before, every one inside as asked.
        #[test]
        fn each_byte_is_what_it_should_be(
            steps in proptest::collection::vec((0u64..60, 1u64..20, proptest::option::of(0u64..3)), 1..40),
        ) {
            let mut bytes: Vec<Option<Option<(u64, u32)>>> = vec![None; 100];
            let mut map: Vec<Extent> = Vec::new();
            for (i, (start, len, kind)) in steps.into_iter().enumerate() {
                let range = start..start + len;
                // Kind 0 punches, None allocates, others write bytes of a blob at their own offset.
                let new: Vec<Extent> = match kind {
                    Some(0) => vec![],
                    None => vec![extent(start, len, None)],
                    Some(n) => vec![extent(start, len, Some((n + i as u64 % 2, start as u32)))],
                };
                for at in range.clone() {
                    bytes[at as usize] = new.first().map(|e| {
                        clip(e, &(at..at + 1)).unwrap().place.map(|p| (p.blob.sequence(), p.offset))
                    });
                }
                let touches = |e: &Extent| e.offset <= range.end && end(e) >= range.start;
                let touching: Vec<_> = map.iter().copied().filter(touches).collect();
                let mut out = Vec::new();
                replace(&touching, &range, &new, &mut out);
                map.retain(|e| !touches(e));
                map.extend(out);
                map.sort_by_key(|e| e.offset);
                prop_assert!(map.iter().all(|e| e.len > 0));
                for pair in map.windows(2) {
                    prop_assert!(end(&pair[0]) <= pair[1].offset && !joins(&pair[0], &pair[1]));
                }
                for (at, expected) in bytes.iter().enumerate() {
                    let at = at as u64;
                    let found = map.iter().find_map(|e| clip(e, &(at..at + 1)))
                        .map(|e| e.place.map(|p| (p.blob.sequence(), p.offset)));
                    prop_assert_eq!(&found, expected, "byte {}", at);
                }
            }
        }
    }
}
