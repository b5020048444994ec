//! Placement: which slots a blob's parts belong on. A pure function of the blob's name, its scheme and the
//! group.
//!
//! Slots fail together in levels: those of a disk, the disks of a host, the hosts of a rack. The parts of a blob
//! lie apart on the *units* of its scheme: the highest level that has enough of them, for every part to have its
//! own and for a journal to be taken over ([`Group::unit`]). Where the levels above have too few, each of their
//! members gets as few parts as arithmetic allows ([`Group::shares`]).
//!
//! Rendezvous hashing: every host, or rack, draws a number from (volume, session, sequence) and its own name, and
//! the highest draws come first. So one that joins or leaves moves only what it gains or loses. What is within
//! draws in the same way. Units are taken from hosts in turn, and these from racks in turn:
//!
//! ```text
//! order, units are hosts | first slot of each host, best draw first   | second slots | third ...
//! order, units are disks | first disk of each host | second disks ...  | second slots of disks
//!                        | main for part 0 | 1 | .. | k+m-1 | handoff .... | handoff ............
//! ```
//!
//! Without racks the two are the same order: a group whose unit changes with the scheme moves nothing.

pub(crate) mod bounds;
pub(crate) mod quorum;
pub(crate) mod space;

use proto::cluster::Level;
use proto::id::{BlobId, DiskId};
use proto::limits::MAX_SLOTS;
use proto::scheme::Scheme;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::blob_store::SlotStatus;
use crate::placement::quorum::{SlotSet, Spread, room};
use crate::rules::Layout;

/// Where a slot is, for [`Group::new`].
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Its disk.
    pub disk: DiskId,
    /// Its host; the disk's own id where it has none.
    pub host: &'a str,
    /// Its rack; empty where it has none.
    pub rack: &'a str,
}

impl<'a> From<(DiskId, &'a str)> for Site<'a> {
    fn from((disk, host): (DiskId, &'a str)) -> Self {
        Self { disk, host, rack: "" }
    }
}

/// The slots of a group and what fails together.
#[derive(Debug)]
pub struct Group {
    slots: Vec<Slot>,
    /// Of each level: the key of each of its members, and their slots.
    levels: [Vec<(u64, SlotSet)>; 3],
    /// The levels that the map knows: those that have a name for anything but a disk.
    named: [bool; 3],
}

#[derive(Debug)]
struct Slot {
    key: u64,
    /// Which member of each level it is in.
    at: [u8; 3],
}

/// Most parts of one blob that each level's members hold while the blob is not degraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    unit: Level,
    most: [usize; 3],
}

impl Shares {
    /// What each part has for itself.
    pub(crate) fn unit(&self) -> Level {
        self.unit
    }

    /// Most parts of a blob on one member of a level.
    pub(crate) fn most(&self, level: Level) -> usize {
        self.most[level as usize]
    }

    /// Are so many parts on one member of a level more than its share?
    pub(crate) fn are_exceeded(&self, level: Level, parts: usize) -> bool {
        level >= self.unit && parts > self.most[level as usize]
    }
}

/// Slots in the order in which one blob prefers them.
#[derive(Clone, Copy)]
pub struct Placement {
    order: [u8; MAX_SLOTS],
    len: u8,
    units: u8,
}

impl Group {
    /// The slots, as the disk and the host of each, or with their racks.
    ///
    /// # Panics
    /// With no slots, or more than [`MAX_SLOTS`].
    pub fn new<'a, S: Into<Site<'a>>>(slots: impl IntoIterator<Item = S>) -> Self {
        let sites: Vec<Site<'a>> = slots.into_iter().map(Into::into).collect();
        assert!((1..=MAX_SLOTS).contains(&sites.len()), "a group has 1 to {MAX_SLOTS} slots");
        let name = |level: Level, site: &Site<'a>| match level {
            Level::Disk => site.disk.to_string(),
            Level::Rack if !site.rack.is_empty() => site.rack.to_owned(),
            Level::Host | Level::Rack => site.host.to_owned(),
        };
        let mut at = vec![[0; 3]; sites.len()];
        let levels = Level::ALL.map(|level| {
            let mut names: Vec<String> = sites.iter().map(|site| name(level, site)).collect();
            names.sort_unstable();
            names.dedup();
            let mut members: Vec<_> =
                names.iter().map(|name| (xxh3_64(name.as_bytes()), SlotSet::EMPTY)).collect();
            for (slot, site) in sites.iter().enumerate() {
                let member = names.binary_search(&name(level, site));
                let member = member.expect("every name is in the list");
                members[member].1.insert(slot);
                at[slot][level as usize] = member as u8;
            }
            members
        });
        let key = |(index, site): (usize, &Site<'a>)| {
            // A disk may carry several slots: they differ by how many came before.
            let earlier = sites[..index].iter().filter(|other| other.disk == site.disk).count();
            Slot { key: xxh3_64_with_seed(site.disk.as_bytes(), earlier as u64), at: at[index] }
        };
        let slots = sites.iter().enumerate().map(key).collect();
        let hosts = sites.iter().any(|site| site.host != site.disk.to_string());
        let racks = sites.iter().any(|site| !site.rack.is_empty());
        Self { slots, levels, named: [true, hosts, racks] }
    }

    /// That of the slots that a mount has; `None`: it has none.
    pub fn of_slots(slots: &[SlotStatus]) -> Option<Self> {
        let disks: Option<Vec<DiskId>> = slots.iter().map(|slot| slot.disk.parse().ok()).collect();
        let disks = disks.filter(|disks| !disks.is_empty())?;
        Some(Self::new(
            slots.iter().zip(disks).map(|(SlotStatus { domain, rack, .. }, disk)| Site {
                disk,
                host: domain,
                rack,
            }),
        ))
    }

    /// Number of slots.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// All slots.
    pub(crate) fn all(&self) -> SlotSet {
        SlotSet::first(self.len())
    }

    /// Which member of a level the slot is in, from 0.
    pub(crate) fn at(&self, level: Level, slot: usize) -> usize {
        self.slots[slot].at[level as usize].into()
    }

    /// The slots of each member of a level.
    pub(crate) fn members(&self, level: Level) -> impl Iterator<Item = SlotSet> {
        self.levels[level as usize].iter().map(|(_, slots)| *slots)
    }

    /// How many members of a level have at least one of `slots`.
    pub(crate) fn count(&self, level: Level, slots: SlotSet) -> usize {
        let found = slots.iter().fold(0u64, |set, slot| set | 1 << self.at(level, slot));
        found.count_ones() as usize
    }

    /// How many members a level has.
    pub(crate) fn size(&self, level: Level) -> usize {
        self.levels[level as usize].len()
    }

    /// The levels that the map knows of, from the lowest on.
    pub(crate) fn named(&self) -> impl DoubleEndedIterator<Item = Level> {
        Level::ALL.into_iter().filter(|level| self.named[*level as usize])
    }

    /// The level that parts of blobs of the scheme lie apart on: the highest that has enough members.
    pub(crate) fn unit(&self, scheme: Scheme) -> Level {
        let enough = |level: &Level| self.size(*level) >= scheme.units();
        self.named().rev().find(enough).unwrap_or(Level::Disk)
    }

    /// Most parts of one blob that members of each level get as long as none is away: as few as arithmetic allows.
    pub(crate) fn shares(&self, scheme: Scheme) -> Shares {
        let unit = self.unit(scheme);
        let mut most = [1; 3];
        if scheme.parts() <= self.size(Level::Rack) {
            return Shares { unit, most };
        }
        let mut above = (scheme.parts(), vec![self.all()]);
        for level in Level::ALL.into_iter().rev().filter(|level| *level > unit) {
            let within = |outer: SlotSet| {
                let inner = self.members(level).map(move |slots| slots.both(outer));
                inner.filter(|slots| !slots.is_empty())
            };
            let fair = |outer: &SlotSet| {
                let sizes: Vec<usize> =
                    within(*outer).map(|slots| self.count(unit, slots)).collect();
                fair_share(above.0.min(sizes.iter().sum()), &sizes)
            };
            let share = above.1.iter().map(fair).max().expect("a group has a member of each level");
            most[level as usize] = share;
            above = (share, self.members(level).collect());
        }
        Shares { unit, most }
    }

    /// Can a blob be stored on these slots alone, without being degraded?
    pub(crate) fn spreads(&self, scheme: Scheme, slots: SlotSet) -> bool {
        let shares = self.shares(scheme);
        self.capacity(&shares, None, slots) >= scheme.parts()
    }

    /// How many parts of a blob that is not degraded fit on these slots of one member of `level`; `None`: of the
    /// whole group.
    fn capacity(&self, shares: &Shares, level: Option<Level>, slots: SlotSet) -> usize {
        let (below, most) = match level {
            Some(level) if level == shares.unit => return (!slots.is_empty()).into(),
            Some(Level::Rack) => (Level::Host, shares.most[Level::Rack as usize]),
            Some(_) => (Level::Disk, shares.most[Level::Host as usize]),
            None => (Level::Rack, usize::MAX),
        };
        let parts = self.members(below).map(|member| member.both(slots));
        let parts = parts.filter(|within| !within.is_empty());
        parts.map(|within| self.capacity(shares, Some(below), within)).sum::<usize>().min(most)
    }

    /// Are the parts of a blob, whose homes these are, less spread out than they can be? Repair moves those.
    pub(crate) fn is_degraded(&self, shares: &Shares, homes: &[usize]) -> bool {
        Level::ALL.into_iter().any(|level| {
            let parts = |home: &usize| {
                let here = self.at(level, *home);
                homes.iter().filter(|other| self.at(level, **other) == here).count()
            };
            shares.are_exceeded(level, homes.iter().map(parts).max().unwrap_or(0))
        })
    }

    /// Most parts of a blob that is not degraded on these slots.
    pub(crate) fn parts_on(&self, scheme: Scheme, slots: SlotSet) -> usize {
        let shares = self.shares(scheme);
        let above = Level::ALL.into_iter().filter(|level| *level >= shares.unit);
        let on = above.map(|level| self.count(level, slots) * shares.most[level as usize]);
        on.min().expect("there is a highest level").min(scheme.parts())
    }

    /// Is every blob that is not degraded readable without these slots?
    pub(crate) fn survives(&self, scheme: Scheme, lost: SlotSet) -> bool {
        self.parts_on(scheme, lost) <= scheme.parity_parts()
    }

    /// The same, of slots by their numbers.
    pub fn can_lose(&self, scheme: Scheme, lost: &[usize]) -> bool {
        self.survives(scheme, SlotSet::that_are(self.len(), |slot| lost.contains(&slot)))
    }

    /// How the journal of a volume that is formatted now, and survives m losses, lies apart.
    pub fn layout(&self, m: usize) -> Layout {
        let unit = self.unit(Scheme::copies(m + 1).expect("m copies more than one are a scheme"));
        let above = self.named().filter(|level| *level > unit && m > 0);
        let whole = above.filter(|level| self.one_may_be_silent(unit, *level, m));
        Layout { unit, whole: whole.fold(0, |bits, level| bits | 1 << level as u8) }
    }

    /// Of two who both do without one member of a level, or without m units: have they an answer in common?
    pub(crate) fn one_may_be_silent(&self, unit: Level, level: Level, m: usize) -> bool {
        let beside = |member: SlotSet| self.count(unit, self.all().minus(member));
        self.size(level) >= 3 && self.members(level).all(|member| beside(member) > m)
    }

    /// May an answer of the group about a journal that lies so, in m+1 copies, be relied on without these slots?
    ///
    /// Two such answers have a unit in common that gave both. And what is put in m+1 copies is not on the silent
    /// slots alone: they are m units, or one host or rack, which never has all of them.
    pub(crate) fn may_be_silent(&self, layout: Layout, m: usize, silent: SlotSet) -> bool {
        let whole =
            |level| self.count(level, silent) <= 1 && self.one_may_be_silent(layout.unit, level, m);
        self.count(layout.unit, silent) <= m || layout.wholes().any(whole)
    }

    /// Most parts of one acknowledged blob that silent slots may hide.
    pub(crate) fn hidden(&self, scheme: Scheme, spread: Spread, silent: SlotSet) -> usize {
        let most = match spread {
            // However the levels were named, and whatever was away: of disks this always held.
            Spread::AsPossible { spare } => self.count(Level::Disk, silent) * room(scheme, spare),
            Spread::Apart(layout) => {
                let m = scheme.parity_parts();
                let wholes = layout.wholes().map(|level| self.count(level, silent) * m);
                wholes.chain([self.count(layout.unit, silent)]).min().expect("units are counted")
            }
        };
        most.min(scheme.parts())
    }

    /// Where the blob's parts belong.
    pub fn place(&self, blob: BlobId) -> Placement {
        let mut name = [0; 20];
        name[0..4].copy_from_slice(&blob.volume().0.to_be_bytes());
        name[4..12].copy_from_slice(&blob.session().0.to_be_bytes());
        name[12..20].copy_from_slice(&blob.sequence().to_be_bytes());
        let draw = |key: u64| xxh3_64_with_seed(&name, key);
        let unit = self.unit(blob.scheme());
        let len = self.slots.len();
        let mut ranked = [0u128; MAX_SLOTS];
        for (index, rank) in ranked[..len].iter_mut().enumerate() {
            *rank = self.rank(unit, index, &draw);
        }
        ranked[..len].sort_unstable();
        if self.named[Level::Rack as usize] {
            self.take_from_racks_in_turn(&mut ranked[..len], &draw);
        }
        let mut order = [0; MAX_SLOTS];
        for (place, rank) in order.iter_mut().zip(&ranked[..len]) {
            *place = *rank as u8;
        }
        Placement { order, len: len as u8, units: self.size(unit) as u8 }
    }

    /// Best is least: how many slots of its unit are better than the slot (8 bits), how many units of its host are
    /// better than its unit (8), the host's draw (the upper 48 bits, complemented), and the slot (8).
    fn rank(&self, unit: Level, slot: usize, draw: &impl Fn(u64) -> u64) -> u128 {
        let together = |level, slot| self.levels[level as usize][self.at(level, slot)].1;
        let (disk, host) = (together(Level::Disk, slot), together(Level::Host, slot));
        let better = |among: SlotSet, than: usize| {
            let own = (draw(self.slots[than].key), than);
            let better = |other: &usize| (draw(self.slots[*other].key), *other) > own;
            among.iter().filter(better).count() as u128
        };
        // A disk with several slots draws by its first.
        let first = |slot: usize| together(Level::Disk, slot).iter().next().unwrap_or(slot);
        let (round, turn) = match unit {
            _ if host.len() == 1 => (0, 0),
            Level::Disk => {
                let firsts = SlotSet::that_are(self.len(), |slot| first(slot) == slot);
                (better(disk, slot), better(host.both(firsts), first(slot)))
            }
            Level::Host | Level::Rack => (better(host, slot), 0),
        };
        let host_draw = draw(self.levels[Level::Host as usize][self.at(Level::Host, slot)].0);
        (round << 72) | (turn << 64) | u128::from(((!host_draw >> 16) << 8) | slot as u64)
    }

    /// Slots that are ranked within their racks are ranked by how many of their rack come before them, and by the
    /// racks' draws.
    fn take_from_racks_in_turn(&self, ranked: &mut [u128], draw: &impl Fn(u64) -> u64) {
        let mut taken = [0u128; MAX_SLOTS];
        for rank in ranked.iter_mut() {
            let slot = *rank as u8;
            let round = *rank >> 72;
            let rack = self.at(Level::Rack, slot.into());
            let (turn, rack_draw) = (taken[rack], !draw(self.levels[Level::Rack as usize][rack].0));
            taken[rack] += 1;
            *rank = (round << 88) | (turn << 80) | (u128::from(rack_draw) << 8) | u128::from(slot);
        }
        ranked.sort_unstable();
    }
}

/// The least number that so many parts can be kept to on each of things that take so many each.
fn fair_share(parts: usize, sizes: &[usize]) -> usize {
    let fits = |share: &usize| sizes.iter().map(|size| size.min(share)).sum::<usize>() >= parts;
    (1..=parts).find(fits).unwrap_or(1)
}

impl Placement {
    /// The slot that should hold the part; `None` when there are fewer units than that.
    pub fn main(&self, part: usize) -> Option<usize> {
        (part < usize::from(self.units)).then(|| self.order[part].into())
    }

    /// All slots, best first.
    pub fn order(&self) -> impl Iterator<Item = usize> {
        self.order[..usize::from(self.len)].iter().map(|slot| usize::from(*slot))
    }

    /// The slots that are main for no part of a blob of so many parts, best first.
    pub fn handoff(&self, parts: usize) -> impl Iterator<Item = usize> {
        self.order().skip(parts.min(self.units.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{GroupId, SessionId, VolumeId};

    fn disk(n: u8) -> DiskId {
        DiskId::from_slice(&[n; 16]).unwrap()
    }

    fn group(domains: &[&str]) -> Group {
        Group::new(domains.iter().enumerate().map(|(n, domain)| (disk(n as u8), *domain)))
    }

    fn blob(sequence: u64) -> BlobId {
        of(sequence, "ec(4,2)")
    }

    fn of(sequence: u64, scheme: &str) -> BlobId {
        let scheme = scheme.parse().unwrap();
        BlobId::new(VolumeId(1), SessionId(7), sequence, GroupId(0), 4096, scheme).unwrap()
    }

    /// Racks of hosts of so many disks.
    fn racks(racks: &[&[u8]]) -> Group {
        let mut sites = Vec::new();
        for (rack, hosts) in racks.iter().enumerate() {
            for (host, disks) in hosts.iter().enumerate() {
                sites.extend(
                    (0..*disks).map(|_| (format!("rack-{rack}"), format!("host-{rack}-{host}"))),
                );
            }
        }
        Group::new(sites.iter().enumerate().map(|(n, (rack, host))| Site {
            disk: disk(n as u8 + 1),
            host,
            rack,
        }))
    }

    fn shares(group: &Group, scheme: &str) -> (Level, [usize; 3]) {
        let Shares { unit, most } = group.shares(scheme.parse().unwrap());
        (unit, most)
    }

    #[test]
    fn the_unit_is_the_highest_level_that_has_enough_and_what_is_above_gets_its_share() {
        use Level::{Disk, Host, Rack};
        type Case<'a> = (&'a str, &'a [&'a [u8]], (Level, [usize; 3]));
        let cases: [Case<'_>; 8] = [
            ("ec(4,2)", &[&[2, 2, 2]], (Disk, [1, 2, 6])),
            ("ec(4,2)", &[&[4, 4, 4]], (Disk, [1, 2, 6])),
            ("ec(4,2)", &[&[8, 1, 1]], (Disk, [1, 4, 6])),
            ("ec(4,2)", &[&[1, 1, 1], &[1, 1, 1]], (Host, [1, 1, 3])),
            ("ec(4,2)", &[&[2], &[2], &[2]], (Disk, [1, 2, 2])),
            // Enough hosts for the copies, and too few for a journal of them.
            ("copies(3)", &[&[2, 2, 2, 2]], (Disk, [1, 1, 3])),
            ("copies(3)", &[&[2], &[2], &[2], &[2], &[2]], (Rack, [1, 1, 1])),
            ("ec(2,1)", &[&[2, 1], &[1, 1]], (Host, [1, 1, 2])),
        ];
        for (scheme, map, expected) in cases {
            let group = racks(map);
            assert_eq!(shares(&group, scheme), expected, "{scheme} on {map:?}");
            let text: Scheme = scheme.parse().unwrap();
            assert!(group.spreads(text, group.all()));
            for sequence in 0..200 {
                let placement = group.place(of(sequence, scheme));
                let homes: Vec<usize> =
                    (0..text.parts()).map(|part| placement.main(part).unwrap()).collect();
                let degraded = group.is_degraded(&group.shares(text), &homes);
                assert!(!degraded, "{scheme} on {map:?}: {homes:?}");
            }
        }
    }

    /// The order before there were levels: hosts by their draws, and within each the slots.
    #[test]
    fn levels_move_nothing() {
        let maps: [&[&str]; 5] = [
            &["a", "b", "c", "d", "e", "f", "g", "h"],
            &["a", "a", "b", "b", "c", "c"],
            &["a", "a", "a", "b", "b", "c"],
            &["a", "b", "b", "c", "d", "e", "f", "g"],
            &["a"],
        ];
        for map in maps {
            let group = group(map);
            for (sequence, scheme) in
                (0..200).flat_map(|n| ["ec(4,2)", "copies(3)", "ec(2,1)"].map(|s| (n, s)))
            {
                let name =
                    [&1u32.to_be_bytes()[..], &7u64.to_be_bytes(), &u64::to_be_bytes(sequence)]
                        .concat();
                let draw = |key: u64| xxh3_64_with_seed(&name, key);
                let of_slot = |slot: usize| draw(xxh3_64_with_seed(disk(slot as u8).as_bytes(), 0));
                let mut order: Vec<usize> = (0..map.len()).collect();
                order.sort_by_key(|slot| {
                    let better = |other: &usize| {
                        map[*other] == map[*slot] && of_slot(*other) > of_slot(*slot)
                    };
                    let round = (0..map.len()).filter(better).count();
                    (round, !draw(xxh3_64(map[*slot].as_bytes())))
                });
                let placed: Vec<usize> = group.place(of(sequence, scheme)).order().collect();
                assert_eq!(placed, order, "{scheme} on {map:?}");
            }
        }
    }

    const EIGHT: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

    #[test]
    fn every_slot_appears_once_and_length_and_scheme_do_not_matter() {
        let group = group(&EIGHT);
        for sequence in 0..100 {
            let mut order: Vec<_> = group.place(blob(sequence)).order().collect();
            let other = BlobId::new(
                VolumeId(1),
                SessionId(7),
                sequence,
                GroupId(0),
                9,
                "copies(3)".parse().unwrap(),
            );
            assert_eq!(order, group.place(other.unwrap()).order().collect::<Vec<_>>());
            order.sort_unstable();
            assert_eq!(order, (0..8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn parts_spread_evenly() {
        let group = group(&EIGHT);
        let mut parts_on = [[0u32; 8]; 6];
        for sequence in 0..8000 {
            for (part, slot) in group.place(blob(sequence)).order().take(6).enumerate() {
                parts_on[part][slot] += 1;
            }
        }
        for count in parts_on.iter().flatten() {
            assert!((850..=1150).contains(count), "1000 expected: {parts_on:?}");
        }
    }

    #[test]
    fn main_slots_are_on_distinct_hosts_and_share_the_load_within_one() {
        let group = group(&["a", "a", "a", "b", "b", "b", "c", "c", "c", "d"]);
        let mut main_on = [0u32; 10];
        for sequence in 0..9000 {
            let placement = group.place(of(sequence, "ec(3,1)"));
            let mut main = SlotSet::EMPTY;
            (0..4).for_each(|part| main.insert(placement.main(part).unwrap()));
            assert_eq!(placement.main(4), None);
            assert_eq!(group.count(Level::Host, main), 4);
            assert_eq!(placement.handoff(4).count(), 6);
            main.iter().for_each(|slot| main_on[slot] += 1);
        }
        assert_eq!(main_on[9], 9000);
        assert!(main_on[..9].iter().all(|n| (2700..3300).contains(n)), "{main_on:?}");
    }

    #[test]
    fn a_new_host_takes_its_share_and_moves_nothing_else() {
        let before = group(&EIGHT);
        let after = group(&["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
        for sequence in 0..500 {
            let old: Vec<_> = before.place(blob(sequence)).order().collect();
            let new: Vec<_> = after.place(blob(sequence)).order().filter(|s| *s != 8).collect();
            assert_eq!(old, new);
        }
    }
}
