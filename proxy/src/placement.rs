//! Placement: which slots a blob's parts belong on. A pure function of the blob's name and the
//! group.
//!
//! Rendezvous hashing over fail domains: every domain draws a number from (volume, session,
//! sequence) and its own name, and the highest draws come first. So a domain that joins or leaves
//! moves only what it gains or loses. Within a domain with several slots, these draw in the same
//! way.
//!
//! ```text
//! order   | first slot of each domain, best draw first      | second slots | third ...
//!         | main for part 0 | 1 | .. | k+m-1 | handoff .... | handoff ................
//! ```

use proto::id::{BlobId, DiskId};
use proto::limits::MAX_SLOTS;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::quorum::SlotSet;

/// The slots of a group and what fails together.
#[derive(Debug)]
pub struct Group {
    slots: Vec<Slot>,
    domain_keys: Vec<u64>,
}

#[derive(Debug)]
struct Slot {
    key: u64,
    domain: u8,
    /// The other slots of its domain.
    neighbours: SlotSet,
}

/// Slots in the order in which one blob prefers them.
#[derive(Clone, Copy)]
pub struct Placement {
    order: [u8; MAX_SLOTS],
    len: u8,
    domains: u8,
}

impl Group {
    /// The slots, as the disk and the fail domain of each.
    ///
    /// # Panics
    /// With no slots, or more than [`MAX_SLOTS`].
    pub fn new<'a>(slots: impl IntoIterator<Item = (DiskId, &'a str)>) -> Self {
        let slots: Vec<_> = slots.into_iter().collect();
        assert!((1..=MAX_SLOTS).contains(&slots.len()), "a group has 1 to {MAX_SLOTS} slots");
        let mut names: Vec<&str> = slots.iter().map(|(_, domain)| *domain).collect();
        names.sort_unstable();
        names.dedup();
        let domain = |name: &str| names.binary_search(&name).expect("every name is in the list");
        let describe = |(index, (disk, name)): (usize, &(DiskId, &str))| {
            // A disk may carry several slots: they differ by how many came before.
            let earlier = slots[..index].iter().filter(|(other, _)| other == disk).count();
            let others = slots.iter().enumerate().filter(|(i, s)| *i != index && s.1 == *name);
            let mut neighbours = SlotSet::EMPTY;
            others.for_each(|(i, _)| neighbours.insert(i));
            let key = xxh3_64_with_seed(disk.as_bytes(), earlier as u64);
            Slot { key, domain: domain(name) as u8, neighbours }
        };
        let described = slots.iter().enumerate().map(describe).collect();
        let domain_keys = names.iter().map(|name| xxh3_64(name.as_bytes())).collect();
        Self { slots: described, domain_keys }
    }

    /// Number of slots.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Number of fail domains.
    pub(crate) fn domains(&self) -> usize {
        self.domain_keys.len()
    }

    /// The fail domain of a slot, from 0.
    pub(crate) fn domain(&self, slot: usize) -> usize {
        self.slots[slot].domain.into()
    }

    /// How many fail domains have at least one of `slots`.
    pub(crate) fn domains_of(&self, slots: SlotSet) -> usize {
        let domains = slots.iter().fold(0u64, |set, slot| set | 1 << self.slots[slot].domain);
        domains.count_ones() as usize
    }

    /// Where the blob's parts belong.
    pub fn place(&self, blob: BlobId) -> Placement {
        let mut name = [0; 20];
        name[0..4].copy_from_slice(&blob.volume().0.to_be_bytes());
        name[4..12].copy_from_slice(&blob.session().0.to_be_bytes());
        name[12..20].copy_from_slice(&blob.sequence().to_be_bytes());
        let draw = |key: u64| xxh3_64_with_seed(&name, key);

        let len = self.slots.len();
        // Round (8 bits), draw (the upper 48, complemented), slot (8): ascending is best first.
        let mut ranked = [0u64; MAX_SLOTS];
        for (index, slot) in self.slots.iter().enumerate() {
            let domain_draw = draw(self.domain_keys[usize::from(slot.domain)]);
            let round = if slot.neighbours.is_empty() {
                0
            } else {
                let own = (draw(slot.key), index);
                let better = |other: &usize| (draw(self.slots[*other].key), *other) > own;
                slot.neighbours.iter().filter(better).count() as u64
            };
            ranked[index] = (round << 56) | ((!domain_draw >> 16) << 8) | index as u64;
        }
        ranked[..len].sort_unstable();
        let mut order = [0; MAX_SLOTS];
        for (place, rank) in order.iter_mut().zip(&ranked[..len]) {
            *place = *rank as u8;
        }
        Placement { order, len: len as u8, domains: self.domains() as u8 }
    }
}

impl Placement {
    /// The slot that should hold the part; `None` when there are fewer domains than that.
    pub fn main(&self, part: usize) -> Option<usize> {
        (part < usize::from(self.domains)).then(|| self.order[part].into())
    }

    /// All slots, best first.
    pub fn order(&self) -> impl Iterator<Item = usize> {
        self.order[..usize::from(self.len)].iter().map(|slot| usize::from(*slot))
    }

    /// The slots that are main for no part of a blob of so many parts, best first.
    pub fn handoff(&self, parts: usize) -> impl Iterator<Item = usize> {
        self.order().skip(parts.min(self.domains.into()))
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
        let scheme = "ec(4,2)".parse().unwrap();
        BlobId::new(VolumeId(1), SessionId(7), sequence, GroupId(0), 4096, scheme).unwrap()
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
    fn main_slots_are_on_distinct_domains_and_share_the_load_within_one() {
        let group = group(&["a", "a", "a", "b", "b", "b", "c", "c", "c", "d"]);
        let mut main_on = [0u32; 10];
        for sequence in 0..9000 {
            let placement = group.place(blob(sequence));
            let mut main = SlotSet::EMPTY;
            (0..4).for_each(|part| main.insert(placement.main(part).unwrap()));
            assert_eq!(placement.main(4), None);
            assert_eq!(group.domains_of(main), 4);
            assert_eq!(placement.handoff(4).count(), 6);
            main.iter().for_each(|slot| main_on[slot] += 1);
        }
        assert_eq!(main_on[9], 9000);
        assert!(main_on[..9].iter().all(|n| (2700..3300).contains(n)), "{main_on:?}");
    }

    #[test]
    fn a_new_domain_takes_its_share_and_moves_nothing_else() {
        let before = group(&EIGHT);
        let after = group(&["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
        for sequence in 0..500 {
            let old: Vec<_> = before.place(blob(sequence)).order().collect();
            let new: Vec<_> = after.place(blob(sequence)).order().filter(|s| *s != 8).collect();
            assert_eq!(old, new);
        }
    }
}
