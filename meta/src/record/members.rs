//! Where a volume's blobs are: the slots it has used, and since and until when. Pure.
//!
//! A cluster file says which slots there *are*. Whether that is the whole of what a volume was stored on
//! only the volume itself can tell, so it keeps this list beside its metadata. A disk in the place of another counts
//! as that one: what is missing on it its slot knows. Blobs carry the session
//! that made them: a slot that is not in the file any more matters as long as there is a blob of a
//! session that used it.

use std::collections::{BTreeMap, BTreeSet};

use proto::cluster::{Cluster, Level, Slot};
use proto::id::{DiskId, Generation, SessionId, SlotId};

/// One slot that the volume uses or has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The disk it is on, or the first that was in that one's place.
    pub disk: DiskId,
    /// Its number there.
    pub slot: SlotId,
    /// The host that it was in, or the rack where journals lie apart by racks.
    pub domain: String,
    /// The rack that its host was in. Empty: there was none, or it is not known.
    pub rack: String,
    /// First session that used it so.
    pub since: SessionId,
    /// First session that did not any more; `None`: it is in use.
    pub until: Option<SessionId>,
    /// It has answered as what it should be.
    pub met: bool,
    /// It was to be emptied, and said last that it holds nothing: nobody misses it when it goes.
    pub emptied: bool,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Of the cluster file that the volume was mounted with last.
    pub generation: Generation,
    /// In no particular order; a slot that changed its domain is there more than once.
    pub slots: Vec<Member>,
}

/// How a cluster file differs from what a volume's blobs were stored by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Disks that blobs have parts on.
    pub disks: usize,
    /// Fail domains, by their names then, that these were in.
    pub domains: usize,
    /// Disks with parts that are not in the file, in order.
    pub gone: Vec<DiskId>,
    /// Fail domains that those were in.
    pub gone_domains: usize,
    /// Disks that are in another fail domain than then, with both names.
    pub moved: Vec<(DiskId, String, String)>,
    /// Most fail domains of then that are one domain of the file.
    pub joined: usize,
    /// Most racks of then that are one rack of the file, as far as they are known.
    pub joined_racks: usize,
    /// The list of slots is not the one of the last mount.
    pub changed: bool,
}

impl Members {
    /// Those of a cluster file, used from `session` on, with what they are called at a level.
    pub fn of(cluster: &Cluster, session: SessionId, level: Level) -> Self {
        let member = |slot: &Slot| Member {
            disk: slot.stands_for(),
            slot: slot.slot,
            domain: slot.unit(level),
            rack: rack_above(slot, level),
            since: session,
            until: None,
            met: false,
            emptied: false,
        };
        let slots = cluster.slots.iter().map(member).collect();
        Self { generation: cluster.generation, slots }
    }

    /// Forgets those that no blob has a part on: `oldest` made the oldest that there is.
    pub fn forget(&mut self, oldest: Option<SessionId>) {
        self.slots.retain(|member| {
            oldest.is_some_and(|oldest| member.until.is_none_or(|until| oldest < until))
        });
    }

    /// What the file says otherwise.
    pub fn difference(&self, cluster: &Cluster, level: Level) -> Difference {
        let named = |slot: &Slot| {
            ((slot.stands_for(), slot.slot), (slot.unit(level), rack_above(slot, level)))
        };
        let file: BTreeMap<_, (String, String)> = cluster.slots.iter().map(named).collect();
        let disks: BTreeSet<DiskId> = self.slots.iter().map(|member| member.disk).collect();
        let (mut domains, mut gone, mut gone_domains) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut moved = Vec::new();
        let mut joined: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut joined_racks = joined.clone();
        for member in &self.slots {
            domains.insert(member.domain.as_str());
            let Some((now, rack)) = file.get(&(member.disk, member.slot)) else {
                if !member.emptied {
                    gone.insert(member.disk);
                    gone_domains.insert(member.domain.as_str());
                }
                continue;
            };
            joined.entry(now).or_default().insert(&member.domain);
            if !member.rack.is_empty() {
                joined_racks.entry(rack).or_default().insert(&member.rack);
            }
            if *now != member.domain {
                moved.push((member.disk, member.domain.clone(), now.clone()));
            }
        }
        let used: BTreeMap<_, &Member> = self
            .slots
            .iter()
            .filter(|member| member.until.is_none())
            .map(|member| ((member.disk, member.slot), member))
            .collect();
        let as_used = |(slot, (domain, rack)): (&(DiskId, SlotId), &(String, String))| {
            used.get(slot).is_some_and(|member| member.domain == *domain && member.is_in(rack))
        };
        let same = used.len() == file.len() && file.iter().all(as_used);
        let most = |joined: &BTreeMap<&str, BTreeSet<&str>>| {
            joined.values().map(BTreeSet::len).max().unwrap_or(0)
        };
        Difference {
            disks: disks.len(),
            domains: domains.len(),
            gone: gone.into_iter().collect(),
            gone_domains: gone_domains.len(),
            moved,
            joined: most(&joined),
            joined_racks: most(&joined_racks),
            changed: !used.is_empty() && !same,
        }
    }

    /// From `session` on the file is what counts; what was otherwise before is remembered.
    pub fn follow(&mut self, cluster: &Cluster, session: SessionId, level: Level) {
        let Self { generation, slots } = Self::of(cluster, session, level);
        self.generation = generation;
        let same = |a: &Member, b: &Member| {
            a.until.is_none()
                && (a.disk, a.slot, &a.domain) == (b.disk, b.slot, &b.domain)
                && a.is_in(&b.rack)
        };
        for member in self.slots.iter_mut().filter(|member| member.until.is_none()) {
            match slots.iter().find(|new| same(member, new)) {
                Some(new) => member.rack.clone_from(&new.rack),
                None => member.until = Some(session),
            }
        }
        let new = slots.into_iter().filter(|new| !self.slots.iter().any(|old| same(old, new)));
        let new: Vec<Member> = new.collect();
        self.slots.extend(new);
    }

    /// Notes which disks hold nothing of those that are to be emptied: when they go nobody misses them. `None`:
    /// nobody knows, and what was noted stays. Answers whether there was any news.
    pub fn note_emptied(&mut self, emptied: impl Fn(DiskId) -> Option<bool>) -> bool {
        let mut changed = false;
        for member in self.slots.iter_mut().filter(|member| member.until.is_none()) {
            let is = emptied(member.disk).unwrap_or(member.emptied);
            changed |= std::mem::replace(&mut member.emptied, is) != is;
        }
        changed
    }

    /// All parts of all blobs lie where they belong by what is in use: what slots were called before counts no more, nor
    /// does what lies on slots that are in use no more. Answers whether there was any such.
    pub fn settle(&mut self) -> bool {
        let before = self.slots.len();
        self.slots.retain(|member| member.until.is_none());
        self.slots.len() < before
    }

    /// The slot has answered as what it should be.
    pub fn meet(&mut self, disk: DiskId, slot: SlotId) {
        let this = |member: &&mut Member| {
            member.until.is_none() && (member.disk, member.slot) == (disk, slot)
        };
        self.slots.iter_mut().filter(this).for_each(|member| member.met = true);
    }

    /// Has the slot ever answered as what it should be?
    pub fn has_met(&self, disk: DiskId, slot: SlotId) -> bool {
        self.slots.iter().any(|member| member.met && (member.disk, member.slot) == (disk, slot))
    }
}

impl Member {
    /// Was its host in this rack, as far as is known?
    fn is_in(&self, rack: &str) -> bool {
        self.rack.is_empty() || self.rack == rack
    }
}

/// The rack of a slot, where what is called apart at `level` lies below racks; empty where it has none.
fn rack_above(slot: &Slot, level: Level) -> String {
    if level < Level::Rack { slot.rack.clone() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// A cluster of disks, each with its domain.
    fn cluster(slots: &[(u8, &str)]) -> Cluster {
        let mut text = String::from("cluster = \"5ad0c2f0-0000-4000-8000-000000000000\"\n");
        for (disk, domain) in slots {
            text += &format!("[[slot]]\ndisk = \"0b6c0000-0000-4000-8000-0000000000{disk:02}\"\n");
            text += &format!("path = \"d{disk}\"\ndomain = \"{domain}\"\n");
        }
        Cluster::parse(&text, Path::new("/")).unwrap()
    }

    fn id(disk: u8) -> DiskId {
        format!("0b6c0000-0000-4000-8000-0000000000{disk:02}").parse().unwrap()
    }

    #[test]
    fn the_order_of_slots_is_no_difference() {
        let members =
            Members::of(&cluster(&[(1, "a"), (2, "b"), (3, "c")]), SessionId(1), Level::Host);
        let other = members.difference(&cluster(&[(3, "c"), (1, "a"), (2, "b")]), Level::Host);
        assert_eq!(other, Difference { disks: 3, domains: 3, joined: 1, ..Difference::default() });
    }

    #[test]
    fn disks_that_go_are_missed_until_no_blob_is_older() {
        let mut members =
            Members::of(&cluster(&[(1, "a"), (2, "b"), (3, "c")]), SessionId(1), Level::Host);
        let new = cluster(&[(1, "a"), (2, "b"), (4, "c")]);
        members.follow(&new, SessionId(5), Level::Host);
        for oldest in [1, 4] {
            members.forget(Some(SessionId(oldest)));
            let difference = members.difference(&new, Level::Host);
            assert_eq!((difference.gone, difference.gone_domains), (vec![id(3)], 1));
            assert!(!difference.changed);
        }
        // Or until it was made good.
        let mut settled = members.clone();
        assert!(settled.settle());
        assert_eq!(settled.difference(&new, Level::Host).gone, []);
        let mut empty = members.clone();
        empty.forget(None);
        assert_eq!(empty.difference(&cluster(&[(7, "z")]), Level::Host), Difference::default());
        members.forget(Some(SessionId(5)));
        assert_eq!(members.difference(&new, Level::Host).gone, []);
    }

    #[test]
    fn domains_that_are_joined_are_counted_and_so_again_at_the_next_mount() {
        let mut members =
            Members::of(&cluster(&[(1, "a"), (2, "b"), (3, "c")]), SessionId(1), Level::Host);
        let new = cluster(&[(1, "a"), (2, "a"), (3, "c")]);
        for changed in [true, false] {
            let difference = members.difference(&new, Level::Host);
            assert_eq!(difference.moved, [(id(2), "b".to_owned(), "a".to_owned())]);
            assert_eq!((difference.joined, difference.changed), (2, changed));
            members.follow(&new, SessionId(2), Level::Host);
        }
        // Until everything lies by the names of now. What lay on one that is in use no more is on others then.
        members.follow(&cluster(&[(1, "a"), (2, "a")]), SessionId(3), Level::Host);
        assert!(members.settle() && !members.settle());
        let difference = members.difference(&new, Level::Host);
        assert_eq!((difference.moved, difference.joined), (vec![], 1));
        assert_eq!(members.difference(&cluster(&[(1, "a"), (2, "a")]), Level::Host).gone, []);
    }

    #[test]
    fn a_disk_in_the_place_of_another_is_no_difference() {
        let first = cluster(&[(1, "a"), (2, "b"), (3, "c")]);
        let members = Members::of(&first, SessionId(1), Level::Host);
        let mut replaced = cluster(&[(1, "a"), (7, "b"), (3, "c")]);
        replaced.slots[1].replaces = Some(id(2));
        let difference = members.difference(&replaced, Level::Host);
        assert_eq!(
            difference,
            Difference { disks: 3, domains: 3, joined: 1, ..Difference::default() }
        );
        assert_eq!(Members::of(&replaced, SessionId(1), Level::Host), members);
    }

    #[test]
    fn a_disk_that_was_emptied_is_not_missed_however_long_ago_it_went() {
        let first = cluster(&[(1, "a"), (2, "b"), (3, "c")]);
        let mut members = Members::of(&first, SessionId(1), Level::Host);
        let left = cluster(&[(1, "a"), (2, "b")]);
        assert!(members.note_emptied(|disk| Some(disk == id(3))));
        assert!(!members.note_emptied(|disk| Some(disk == id(3))), "that is known");
        assert!(!members.note_emptied(|_| None), "nobody knows better");
        for _ in 0..2 {
            let difference = members.difference(&left, Level::Host);
            assert_eq!((difference.gone, difference.gone_domains), (vec![], 0));
            members.follow(&left, SessionId(2), Level::Host);
        }
        // Something was put on it after all.
        let mut members = Members::of(&first, SessionId(1), Level::Host);
        members.note_emptied(|disk| Some(disk == id(3)));
        assert!(members.note_emptied(|_| Some(false)));
        assert_eq!(members.difference(&left, Level::Host).gone, [id(3)]);
    }

    /// The same with a rack for each disk.
    fn in_racks(slots: &[(u8, &str, &str)]) -> Cluster {
        let named: Vec<(u8, &str)> = slots.iter().map(|(disk, host, _)| (*disk, *host)).collect();
        let mut cluster = cluster(&named);
        for (slot, (_, _, rack)) in cluster.slots.iter_mut().zip(slots) {
            slot.rack = (*rack).to_owned();
        }
        cluster
    }

    #[test]
    fn racks_are_remembered_beside_hosts() {
        let first = in_racks(&[(1, "a", "x"), (2, "b", "y"), (3, "c", "z")]);
        let mut members = Members::of(&first, SessionId(1), Level::Host);
        assert_eq!(members.difference(&first, Level::Host).joined_racks, 1);
        // The hosts are called as they were, and two are in one rack now.
        let joined = in_racks(&[(1, "a", "x"), (2, "b", "x"), (3, "c", "z")]);
        for changed in [true, false] {
            let difference = members.difference(&joined, Level::Host);
            assert_eq!((difference.joined, difference.joined_racks), (1, 2));
            assert_eq!(difference.changed, changed);
            members.follow(&joined, SessionId(2), Level::Host);
        }
        // Of what was noted before racks were, nothing is known, and it is taken for what the file says.
        let mut older = Members::of(&first, SessionId(1), Level::Host);
        older.slots.iter_mut().for_each(|member| member.rack.clear());
        let difference = older.difference(&first, Level::Host);
        assert_eq!((difference.joined_racks, difference.changed), (0, false));
        older.follow(&first, SessionId(2), Level::Host);
        assert_eq!(older.slots.len(), 3);
        assert_eq!(older.difference(&joined, Level::Host).joined_racks, 2);
        // Where journals lie apart by racks these are the domains.
        let members = Members::of(&first, SessionId(1), Level::Rack);
        let difference = members.difference(&joined, Level::Rack);
        assert_eq!((difference.joined, difference.joined_racks), (2, 0));
    }

    #[test]
    fn a_slot_is_met_once_for_all() {
        let file = cluster(&[(1, "a"), (2, "b")]);
        let mut members = Members::of(&file, SessionId(1), Level::Host);
        members.meet(id(2), SlotId(0));
        members.follow(&file, SessionId(2), Level::Host);
        assert!(members.has_met(id(2), SlotId(0)) && !members.has_met(id(1), SlotId(0)));
    }
}
