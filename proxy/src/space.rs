//! How much user data the group has room for. Pure.
//!
//! Parts spread evenly over the fail domains, k+m distinct ones per blob; a full domain is passed
//! over as long as k+m others remain. So the room is like water that rises in all domains alike:
//! it stops when fewer than k+m of them still take any.
//!
//! Water has no grain, parts have: the fewer of them a domain has room for, the more of that is left unused,
//! by chance and as remainders. So blobs are smaller where domains are small ([`blob_len`]).

use proto::limits::{CHECK_BLOCK, TARGET_BLOB};
use proto::part_store::Fill;
use proto::scheme::Scheme;

use crate::blob_store::Space;
use crate::quorum::{Spread, room};

/// How many parts of the blobs that large data are cut into a domain should have room for.
const PARTS: u64 = 64;
/// Least bytes of such a blob: as many whole copies as small ones are kept in.
const LEAST_BLOB: u32 = 4 * CHECK_BLOCK;

/// Bytes of the blobs that large data of a scheme should be cut into, where domains take so many bytes each:
/// a half, or a half of that, of [`TARGET_BLOB`].
pub fn blob_len(scheme: Scheme, capacity: u64) -> u32 {
    let mut len = TARGET_BLOB;
    while len > LEAST_BLOB && u64::from(scheme.part_len(len)) * PARTS > capacity {
        len /= 2;
    }
    len
}

/// What chance leaves unused of a domain of so many, as it puts `parts` of each blob on as many of them.
/// Where it puts n parts on each, it misses that by the square root of n, less what is certain.
fn skew(capacity: u64, part: u32, parts: usize, domains: usize) -> u64 {
    let chance = domains.saturating_sub(parts) as u64;
    let square = u128::from(capacity) * u128::from(part) * u128::from(chance) / domains as u128;
    u64::try_from(square.isqrt()).unwrap_or(u64::MAX)
}

/// Room for blobs of `scheme`, given the sums of the fill of each fail domain's slots.
///
/// With fewer domains than parts, every domain gets its share of each blob; with so few that one of
/// them would hold more parts than may be lost, there is no room.
pub(crate) fn space(scheme: Scheme, domains: &[Fill]) -> Space {
    let capacities: Vec<u64> = domains.iter().map(|fill| fill.capacity).collect();
    let available = domains.iter().map(|fill| fill.available);
    let metadata = domains.iter().map(|fill| fill.available + fill.spare).collect();
    let blob = blob_len(scheme, level(scheme, &mut capacities.clone()));
    let (large, small) = (scheme.part_len(blob), scheme.as_copies());
    let skew = |capacity: &u64| {
        let of_large = skew(*capacity, large, scheme.parts(), domains.len());
        of_large.max(skew(*capacity, CHECK_BLOCK, small.parts(), domains.len()))
    };
    let skews = capacities.iter().map(skew).collect();
    let (takers, needed) =
        (domains.len(), scheme.parts().div_ceil(room(scheme, Spread::AsPossible)));
    Space {
        capacity: user_bytes(scheme, capacities),
        available: if takers < needed { 0 } else { user_bytes(scheme, available.collect()) },
        metadata: user_bytes(scheme.as_copies(), metadata),
        uneven: user_bytes(scheme, skews),
        blob,
        takers,
        needed,
        away: 0,
    }
}

fn user_bytes(scheme: Scheme, mut rooms: Vec<u64>) -> u64 {
    let level = level(scheme, &mut rooms);
    let taken: u64 = rooms.iter().map(|room| (*room).min(level)).sum();
    taken / scheme.parts() as u64 * scheme.data_parts() as u64
}

/// How high the water rises at most: then too few domains are left.
fn level(scheme: Scheme, rooms: &mut [u64]) -> u64 {
    rooms.sort_unstable();
    let last = rooms.len() - scheme.parts().min(rooms.len());
    rooms.get(last).copied().unwrap_or(0)
}

/// The fill of a domain: that of its slots together.
pub(crate) fn sum(fills: impl Iterator<Item = Fill>) -> Option<Fill> {
    fills.reduce(|a, b| Fill {
        capacity: a.capacity + b.capacity,
        used: a.used + b.used,
        available: a.available + b.available,
        spare: a.spare + b.spare,
        level: a.level.max(b.level),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::part_store::FillLevel;

    fn room_for(scheme: &str, rooms: &[u64]) -> u64 {
        user_bytes(scheme.parse().unwrap(), rooms.to_vec())
    }

    #[test]
    fn water_rises_until_too_few_domains_take_any() {
        assert_eq!(room_for("ec(4,2)", &[600; 8]), 3200);
        assert_eq!(room_for("ec(4,2)", &[600; 6]), 2400);
        assert_eq!(room_for("copies(3)", &[600; 8]), 1600);
        assert_eq!(room_for("ec(4,2)", &[0, 0, 600, 600, 600, 600, 600, 600]), 2400);
        assert_eq!(room_for("ec(4,2)", &[0, 0, 0, 600, 600, 600, 600, 600]), 0);
        assert_eq!(room_for("copies(1)", &[100, 700]), 800);
        assert_eq!(room_for("ec(4,2)", &[600; 4]), 1600);
        assert_eq!(room_for("ec(4,2)", &[]), 0);
    }

    #[test]
    fn blobs_are_as_small_as_domains_ask_for() {
        let of = |scheme: &str, mib: u64| blob_len(scheme.parse().unwrap(), mib << 20) >> 10;
        assert_eq!(of("ec(4,2)", 1 << 20), 4096);
        assert_eq!((of("ec(4,2)", 64), of("ec(4,2)", 63), of("ec(4,2)", 16)), (4096, 2048, 1024));
        assert_eq!(
            (of("copies(3)", 256), of("copies(3)", 16), of("ec(8,3)", 16)),
            (4096, 256, 2048)
        );
        assert_eq!(of("ec(4,2)", 0), 256, "there is no room for any");
    }

    #[test]
    fn chance_leaves_nothing_uneven_where_every_domain_has_a_part_of_each_blob() {
        assert_eq!(skew(16 << 20, 1 << 20, 6, 6), 0);
        assert_eq!(skew(16 << 20, 1 << 20, 6, 8), 2 << 20);
        assert_eq!(skew(16 << 20, 256 << 10, 6, 8), 1 << 20);
    }

    #[test]
    fn too_few_domains_are_no_room_but_not_a_full_store() {
        let (room, level) = (9 << 30, FillLevel::Green);
        let fill = Fill { capacity: room, used: 0, available: room, spare: 0, level };
        let of = |scheme: &str, count: usize| space(scheme.parse().unwrap(), &vec![fill; count]);
        for (scheme, least) in [("ec(4,2)", 3), ("ec(8,3)", 4), ("copies(1)", 1), ("copies(3)", 2)]
        {
            let (enough, too_few) = (of(scheme, least), of(scheme, least - 1));
            assert!(enough.available > 0 && !enough.is_cut_off(), "{scheme}: {enough:?}");
            assert!(too_few.available == 0 && too_few.is_cut_off(), "{scheme}: {too_few:?}");
        }
    }

    proptest! {
        /// Blob after blob onto the k+m emptiest domains: what was promised fits.
        #[test]
        fn what_is_said_to_be_available_can_be_written(
            mut rooms in prop::collection::vec(0u64..2000, 6..12),
        ) {
            let blobs = room_for("ec(4,2)", &rooms) / 4;
            for _ in 0..blobs.saturating_sub(rooms.len() as u64) {
                rooms.sort_unstable_by(|a, b| b.cmp(a));
                prop_assert!(rooms[5] > 0, "{rooms:?}");
                rooms[..6].iter_mut().for_each(|room| *room -= 1);
            }
        }
    }
}
