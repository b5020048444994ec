//! How much user data the group has room for. Pure.
//!
//! Parts spread evenly over the units of a scheme, k+m distinct ones per blob; a full unit is passed
//! over as long as k+m others remain. So the room is like water that rises in all units alike:
//! it stops when fewer than k+m of them still take any. Where a host gets a share of each blob, its units take
//! that share together.
//!
//! Water has no grain, parts have: the fewer of them a unit has room for, the more of that is left unused,
//! by chance and as remainders. So blobs are smaller where units are small ([`blob_len`]).

use proto::cluster::Level;
use proto::limits::{CHECK_BLOCK, TARGET_BLOB};
use proto::part_store::Fill;
use proto::scheme::Scheme;

use crate::blob_store::Space;
use crate::placement::Group;
use crate::placement::quorum::{SlotSet, room};
use crate::rules::VolumeRules;

/// How many parts of the blobs that large data are cut into a unit should have room for.
const PARTS: u64 = 64;
/// Least bytes of such a blob: as many whole copies as small ones are kept in.
const LEAST_BLOB: u32 = 4 * CHECK_BLOCK;

/// Bytes of the blobs that large data of a scheme should be cut into, where units take so many bytes each:
/// a half, or a half of that, of [`TARGET_BLOB`].
pub fn blob_len(scheme: Scheme, capacity: u64) -> u32 {
    let mut len = TARGET_BLOB;
    while len > LEAST_BLOB && u64::from(scheme.part_len(len)) * PARTS > capacity {
        len /= 2;
    }
    len
}

/// What chance leaves unused of a unit of so many, as it puts `parts` of each blob on as many of them.
/// Where it puts n parts on each, it misses that by the square root of n, less what is certain.
fn skew(capacity: u64, part: u32, parts: usize, domains: usize) -> u64 {
    let chance = domains.saturating_sub(parts) as u64;
    let square = u128::from(capacity) * u128::from(part) * u128::from(chance) / domains as u128;
    u64::try_from(square.isqrt()).unwrap_or(u64::MAX)
}

/// Room for blobs of `scheme` of a volume with such rules on some of the slots, given the fill of all: those of
/// which none is known count as none.
///
/// With fewer disks than parts, every disk gets its share of each blob; with so few that one of
/// them would hold more parts than may be lost, or that metadata cannot be stored, there is no room.
pub(crate) fn space(
    group: &Group,
    scheme: Scheme,
    rules: VolumeRules,
    slots: SlotSet,
    fills: &[Option<Fill>],
) -> Space {
    let slots =
        SlotSet::that_are(fills.len(), |slot| slots.contains(slot) && fills[slot].is_some());
    let of = |scheme, room: fn(&Fill) -> u64| {
        rooms(group, scheme, slots, &|slot| fills[slot].as_ref().map_or(0, room))
    };
    let capacities = of(scheme, |fill| fill.capacity);
    let available = of(scheme, |fill| fill.available);
    let metadata = of(scheme.as_copies(), |fill| fill.available + fill.spare);
    let blob = blob_len(scheme, level(scheme.parts(), &mut capacities.clone()));
    let (large, small) = (scheme.part_len(blob), scheme.as_copies());
    let skew = |capacity: &u64| {
        let of_large = skew(*capacity, large, scheme.parts(), capacities.len());
        of_large.max(skew(*capacity, CHECK_BLOCK, small.parts(), capacities.len()))
    };
    let skews = capacities.iter().map(skew).collect();
    let (takers, needed) = takers(group, scheme, rules, slots);
    Space {
        capacity: user_bytes(scheme, capacities),
        available: if takers < needed { 0 } else { user_bytes(scheme, available) },
        metadata: user_bytes(scheme.as_copies(), metadata),
        uneven: user_bytes(scheme, skews),
        blob,
        takers,
        needed,
        away: 0,
    }
}

/// How many disks take writes, and how many must: data double up where they may, metadata never.
fn takers(group: &Group, scheme: Scheme, rules: VolumeRules, slots: SlotSet) -> (usize, usize) {
    let disks = group.count(Level::Disk, slots);
    let needed = scheme.parts().div_ceil(room(scheme, rules.min_spare.into()));
    let (units, apart) = (group.count(rules.layout.unit, slots), scheme.parity_parts() + 1);
    if units < apart && needed <= disks { (units, apart) } else { (disks, needed) }
}

/// The room of the units that a blob's parts are put on. Where a host, or a rack, has more units than parts of a
/// blob go to it, it counts as so many that share what it has room for.
fn rooms(group: &Group, scheme: Scheme, slots: SlotSet, room: &impl Fn(usize) -> u64) -> Vec<u64> {
    let sum = |slots: SlotSet| slots.iter().map(room).sum();
    if !group.spreads(scheme, slots) {
        let disks = group.members(Level::Disk).map(|disk| disk.both(slots));
        return disks.filter(|disk| !disk.is_empty()).map(sum).collect();
    }
    let shares = group.shares(scheme);
    let mut parts: Vec<(SlotSet, Vec<u64>)> = group
        .members(shares.unit())
        .map(|unit| (unit, vec![sum(unit.both(slots))]))
        .filter(|(unit, _)| !unit.both(slots).is_empty())
        .collect();
    for level in Level::ALL.into_iter().filter(|level| *level > shares.unit()) {
        let share = shares.most(level);
        let together = |member: SlotSet| {
            let within = parts.iter().filter(|(slots, _)| !slots.both(member).is_empty());
            let mut rooms: Vec<u64> = within.flat_map(|(_, rooms)| rooms).copied().collect();
            if rooms.len() > share {
                let taken = taken(share, &mut rooms);
                rooms = vec![taken / share as u64; share];
            }
            (member, rooms)
        };
        parts = group.members(level).map(together).collect();
    }
    parts.into_iter().flat_map(|(_, rooms)| rooms).collect()
}

fn user_bytes(scheme: Scheme, mut rooms: Vec<u64>) -> u64 {
    taken(scheme.parts(), &mut rooms) / scheme.parts() as u64 * scheme.data_parts() as u64
}

/// What the water is in the end, where it needs so many places at a time.
fn taken(parts: usize, rooms: &mut [u64]) -> u64 {
    let level = level(parts, rooms);
    rooms.iter().map(|room| (*room).min(level)).sum()
}

/// How high the water rises at most: then too few places are left.
fn level(parts: usize, rooms: &mut [u64]) -> u64 {
    rooms.sort_unstable();
    let last = rooms.len() - parts.min(rooms.len());
    rooms.get(last).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::id::DiskId;
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

    /// Hosts of so many disks.
    fn group(hosts: &[u8]) -> Group {
        let names: Vec<String> = (0..hosts.len()).map(|n| format!("host-{n}")).collect();
        let slots = names.iter().zip(hosts).flat_map(|(name, n)| vec![name.as_str(); (*n).into()]);
        let disk = |n: usize| DiskId::from_slice(&[n as u8 + 1; 16]).unwrap();
        Group::new(slots.enumerate().map(|(n, name)| (disk(n), name)))
    }

    #[test]
    fn a_host_has_room_for_its_share_of_each_blob() {
        let of = |scheme: &str, hosts: &[u8]| {
            let (group, scheme) = (group(hosts), scheme.parse().unwrap());
            user_bytes(scheme, rooms(&group, scheme, group.all(), &|_| 600))
        };
        assert_eq!(of("ec(4,2)", &[2, 2, 2]), 2400);
        assert_eq!(of("ec(4,2)", &[3, 3, 3]), 3600);
        // Two parts of each blob on each: those of two disks are full, whatever the others have.
        assert_eq!(of("ec(4,2)", &[8, 2, 2]), 2400);
        assert_eq!(of("ec(4,2)", &[2, 2, 2, 2, 2, 2]), 4800);
        assert_eq!(of("copies(3)", &[8, 1, 1]), 600);
    }

    #[test]
    fn too_few_domains_are_no_room_but_not_a_full_store() {
        let (room, level) = (9 << 30, FillLevel::Green);
        let fill = Fill { capacity: room, used: 0, available: room, spare: 0, level };
        let of = |scheme: &str, count: usize| {
            let group = group(&[1; 12]);
            let slots = SlotSet::first(count);
            let rules = VolumeRules::default();
            space(&group, scheme.parse().unwrap(), rules, slots, &[Some(fill); 12])
        };
        for (scheme, least) in [("ec(4,2)", 3), ("ec(8,3)", 4), ("copies(1)", 1), ("copies(3)", 3)]
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
