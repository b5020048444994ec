//! How much user data the group has room for. Pure.
//!
//! Parts spread evenly over the fail domains, k+m distinct ones per blob; a full domain is passed
//! over as long as k+m others remain. So the room is like water that rises in all domains alike:
//! it stops when fewer than k+m of them still take any.

use proto::part_store::Fill;
use proto::scheme::Scheme;

use crate::blob_store::Space;
use crate::quorum::room;

/// A large part, in bytes: chance spreads so many bytes at a time.
const LARGE_PART: u64 = 1 << 20;

/// What chance leaves unused of a domain. It spreads n parts evenly but for the square root of n or
/// so.
fn skew(capacity: u64) -> u64 {
    capacity.saturating_mul(LARGE_PART).isqrt() / 2
}

/// Room for blobs of `scheme`, given the sums of the fill of each fail domain's slots.
///
/// With fewer domains than parts, every domain gets its share of each blob; with so few that one of
/// them would hold more parts than may be lost, there is no room.
pub(crate) fn space(scheme: Scheme, domains: &[Fill]) -> Space {
    let capacities = domains.iter().map(|fill| fill.capacity).collect();
    let available = domains.iter().map(|fill| fill.available);
    let skews = domains.iter().map(|fill| skew(fill.capacity)).collect();
    let (takers, needed) = (domains.len(), scheme.parts().div_ceil(room(scheme)));
    Space {
        capacity: user_bytes(scheme, capacities),
        available: if takers < needed { 0 } else { user_bytes(scheme, available.collect()) },
        uneven: user_bytes(scheme, skews),
        takers,
        needed,
        away: 0,
    }
}

fn user_bytes(scheme: Scheme, mut rooms: Vec<u64>) -> u64 {
    let parts = scheme.parts();
    rooms.sort_unstable();
    let Some(last) = rooms.len().checked_sub(parts.min(rooms.len())) else { return 0 };
    let Some(&level) = rooms.get(last) else { return 0 };
    let taken: u64 = rooms.iter().map(|room| (*room).min(level)).sum();
    taken / parts as u64 * scheme.data_parts() as u64
}

/// The fill of a domain: that of its slots together.
pub(crate) fn sum(fills: impl Iterator<Item = Fill>) -> Option<Fill> {
    fills.reduce(|a, b| Fill {
        capacity: a.capacity + b.capacity,
        used: a.used + b.used,
        available: a.available + b.available,
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
    fn too_few_domains_are_no_room_but_not_a_full_store() {
        let fill = Fill { capacity: 9 << 30, used: 0, available: 9 << 30, level: FillLevel::Green };
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
