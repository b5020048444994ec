//! How many losses a volume survives: what its scheme promises on the map that there is. Pure.
//!
//! Reads and writes are two questions, and each level of the map has its own answers. A blob that is not degraded
//! has so many parts at most on a host ([`crate::placement::Group::parts_on`]), and whoever mounts needs answers
//! about its journal. A put needs a home for every part on the disks that are left, none of them home to more than
//! [`room`] (see [`crate::machines::put`]), and metadata m+1 units.
//!
//! Which members of a level are lost is not known: each question is asked of the worst there are, so that no more
//! is promised than holds.

use std::fmt;

use proto::cluster::{Cluster, Level, Slot};
use proto::scheme::Scheme;

use crate::blob_store::SlotStatus;
use crate::placement::quorum::room;
use crate::placement::{Group, Site};
use crate::rules::VolumeRules;

/// So many of one kind of thing may be lost, whichever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Losses {
    /// And what is stored can still be read, and the volume be mounted.
    pub reads: usize,
    /// And whoever has it mounted can still store new data.
    pub writes: usize,
}

/// What a scheme promises on a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Safety {
    /// Of each level that fails otherwise than the one below, the highest first: how many there are of it, and how
    /// many may be lost.
    pub levels: Vec<(Level, usize, Losses)>,
    /// What there is to beware of, in a sentence each.
    pub warnings: Vec<String>,
}

/// The group of a cluster file's slots.
fn group_of(cluster: &Cluster) -> Group {
    let hosts: Vec<String> = cluster.slots.iter().map(Slot::domain).collect();
    let site = |(slot, host)| {
        let slot: &Slot = slot;
        Site { disk: slot.stands_for(), host, rack: &slot.rack }
    };
    Group::new(cluster.slots.iter().zip(hosts.iter().map(String::as_str)).map(site))
}

impl Safety {
    /// Of a volume with such rules on the slots of a group.
    pub fn new(scheme: Scheme, rules: VolumeRules, group: &Group) -> Self {
        let question = Question { scheme, rules, group };
        let differs =
            |level: &Level| *level == Level::Disk || group.size(*level) < group.size(below(*level));
        let levels = group.named().rev().filter(differs);
        let levels: Vec<_> = levels
            .map(|level| {
                let most = |survives: &dyn Fn(usize) -> bool| {
                    (1..=group.size(level)).take_while(|lost| survives(*lost)).count()
                };
                let reads = most(&|lost| question.can_read(level, lost));
                let writes = most(&|lost| question.can_write(level, lost));
                (level, group.size(level), Losses { reads, writes })
            })
            .collect();
        let warnings = question.warnings(&levels);
        Self { levels, warnings }
    }

    /// Of a new volume, on the map of a cluster file, and how its journal lies apart there.
    pub fn of_new(scheme: Scheme, min_spare: u8, cluster: &Cluster) -> (Self, VolumeRules) {
        let group = group_of(cluster);
        let rules = VolumeRules::new(group.layout(scheme.parity_parts()), min_spare);
        (Self::new(scheme, rules, &group), rules)
    }

    /// On the map of a cluster file.
    pub fn of(scheme: Scheme, rules: VolumeRules, cluster: &Cluster) -> Self {
        Self::new(scheme, rules, &group_of(cluster))
    }

    /// On the slots that a mount has.
    pub fn of_slots(scheme: Scheme, rules: VolumeRules, slots: &[SlotStatus]) -> Option<Self> {
        Some(Self::new(scheme, rules, &Group::of_slots(slots)?))
    }

    /// How many disks may be lost.
    pub fn of_disks(&self) -> Losses {
        self.levels.last().expect("disks are a level").2
    }
}

/// The level below one that is not the lowest.
fn below(level: Level) -> Level {
    if level == Level::Rack { Level::Host } else { Level::Disk }
}

/// What can be done without so many of a level?
struct Question<'a> {
    scheme: Scheme,
    rules: VolumeRules,
    group: &'a Group,
}

impl Question<'_> {
    /// Most members of `of` of which so many members of `level` can take something away.
    fn touched(&self, of: Level, level: Level, lost: usize) -> usize {
        if of >= level { lost.min(self.group.size(of)) } else { self.within(of, level, lost) }
    }

    /// Most members of `of` that so many members of `level` can take away as a whole.
    fn lost(&self, of: Level, level: Level, lost: usize) -> usize {
        if of <= level {
            return self.within(of, level, lost);
        }
        let mut sizes: Vec<usize> =
            self.group.members(of).map(|slots| self.group.count(level, slots)).collect();
        sizes.sort_unstable();
        let mut left = lost;
        let fits = |size: &&usize| {
            let fits = **size <= left;
            left = left.saturating_sub(**size);
            fits
        };
        sizes.iter().take_while(fits).count()
    }

    /// How many members of `of` the largest members of `level` have.
    fn within(&self, of: Level, level: Level, lost: usize) -> usize {
        let mut sizes: Vec<usize> =
            self.group.members(level).map(|slots| self.group.count(of, slots)).collect();
        sizes.sort_unstable();
        sizes.iter().rev().take(lost).sum()
    }

    fn can_read(&self, level: Level, lost: usize) -> bool {
        let m = self.scheme.parity_parts();
        let shares = self.group.shares(self.scheme);
        let above = Level::ALL.into_iter().filter(|of| *of >= shares.unit());
        let parts = above.map(|of| self.touched(of, level, lost) * shares.most(of)).min();
        let layout = self.rules.layout;
        let mut wholes =
            layout.wholes().filter(|of| self.group.one_may_be_silent(layout.unit, *of, m));
        let mounts = self.touched(layout.unit, level, lost) <= m
            || wholes.any(|of| self.touched(of, level, lost) <= 1);
        parts.is_some_and(|parts| parts <= m) && mounts
    }

    fn can_write(&self, level: Level, lost: usize) -> bool {
        let (group, layout) = (self.group, self.rules.layout);
        let left = |of| group.size(of) - self.lost(of, level, lost);
        let data = left(Level::Disk) * room(self.scheme, self.rules.min_spare.into());
        data >= self.scheme.parts()
            && left(layout.unit) > self.scheme.parity_parts()
            && layout.wholes().all(|of| left(of) >= 2)
    }

    fn warnings(&self, levels: &[(Level, usize, Losses)]) -> Vec<String> {
        let Self { scheme, rules, group } = self;
        let (m, disks) = (scheme.parity_parts(), group.size(Level::Disk));
        let mut warnings = Vec::new();
        for (level, all, Losses { reads, writes }) in levels {
            if *reads == 0 && m > 0 {
                warnings.push(format!(
                    "what is stored can only be read, and the volume be mounted, with every {level} there: \
                     the {all} {level}s are too few, or too uneven, for {scheme}"
                ));
            }
            if *writes == 0 && m > 0 {
                let again = Self { rules: rules.with_min_spare(0), ..*self };
                let or = match again.can_write(*level, 1) {
                    true => ", or --min-spare 0",
                    false => "",
                };
                let enough = scheme.parts().div_ceil(room(*scheme, rules.min_spare.into()));
                let would = match level {
                    Level::Disk => format!("; {} would do{or}", enough.max(m + 1) + 1),
                    _ => or.replacen(", or", "; with", 1),
                };
                warnings.push(format!(
                    "writes stop with the first {level} that is lost, and go on when it is back: \
                     {scheme} on {all} {level}s has none to spare{would}"
                ));
            }
        }
        let needed = scheme.as_copies().units();
        if disks < needed {
            warnings.push(format!(
                "two machines that reach different disks can both take the volume over: {needed} disks would \
                 make that impossible"
            ));
        }
        warnings
    }
}

/// `reads go on with any 2 of the 8 disks lost, writes with any 5`.
impl fmt::Display for Safety {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (level, all, Losses { reads, writes })) in self.levels.iter().enumerate() {
            if number > 0 {
                write!(f, "; ")?;
            }
            match (reads, writes) {
                (0, 0) => write!(f, "no {level} of the {all} may be lost"),
                (0, writes) => write!(
                    f,
                    "no {level} may be lost without its data; writes go on with any {writes} of the {all} lost"
                ),
                (reads, 0) => write!(
                    f,
                    "reads go on with any {reads} of the {all} {level}s lost, writes with none"
                ),
                (reads, writes) => write!(
                    f,
                    "reads go on with any {reads} of the {all} {level}s lost, writes with any {writes}"
                ),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::DiskId;

    /// Hosts of so many disks.
    fn on(scheme: &str, min_spare: u8, hosts: &[usize]) -> Safety {
        let names: Vec<String> = (0..hosts.len()).map(|n| format!("host-{n}")).collect();
        let slots = names.iter().zip(hosts).flat_map(|(name, n)| vec![name.as_str(); *n]);
        let disk = |n: usize| DiskId::from_slice(&[n as u8 + 1; 16]).unwrap();
        let group = Group::new(slots.enumerate().map(|(n, name)| (disk(n), name)));
        let scheme: Scheme = scheme.parse().unwrap();
        let rules = VolumeRules::new(group.layout(scheme.parity_parts()), min_spare);
        Safety::new(scheme, rules, &group)
    }

    #[test]
    fn it_is_told_in_words() {
        let cases = [
            (
                "ec(4,2)",
                1,
                &[1; 8][..],
                "reads go on with any 2 of the 8 disks lost, writes with any 5",
            ),
            ("ec(2,1)", 1, &[1; 3], "reads go on with any 1 of the 3 disks lost, writes with none"),
            (
                "ec(2,1)",
                0,
                &[1; 3],
                "reads go on with any 1 of the 3 disks lost, writes with any 1",
            ),
            (
                "ec(2,1)",
                1,
                &[1; 4],
                "reads go on with any 1 of the 4 disks lost, writes with any 1",
            ),
            (
                "ec(4,2)",
                1,
                &[2; 3],
                "reads go on with any 1 of the 3 hosts lost, writes with any 1; \
                 reads go on with any 2 of the 6 disks lost, writes with any 3",
            ),
            (
                "ec(4,2)",
                1,
                &[4; 3],
                "reads go on with any 1 of the 3 hosts lost, writes with any 1; \
                 reads go on with any 2 of the 12 disks lost, writes with any 7",
            ),
            (
                "copies(3)",
                1,
                &[2; 5],
                "reads go on with any 2 of the 5 hosts lost, writes with any 2; \
                 reads go on with any 2 of the 10 disks lost, writes with any 5",
            ),
            ("copies(1)", 1, &[1; 1], "no disk of the 1 may be lost"),
        ];
        for (scheme, spare, hosts, expected) in cases {
            let told = on(scheme, spare, hosts).to_string();
            assert_eq!(told, expected, "{scheme} on {hosts:?}");
        }
    }

    #[test]
    fn what_a_map_cannot_keep_is_warned_of() {
        let cases = [
            ("ec(2,1)", 1, &[1; 3][..], &["4 would do, or --min-spare 0"][..]),
            ("ec(2,1)", 0, &[1; 3], &[]),
            ("ec(2,1)", 1, &[1; 4], &[]),
            ("copies(2)", 1, &[1; 2], &["3 would do", "3 disks would make"]),
            // Whoever is cut off from one of two hosts cannot know that it is lost.
            ("copies(2)", 1, &[3, 3], &["with every host there"]),
            ("ec(4,2)", 1, &[4, 1, 1], &["with every host there", "first host that is lost"]),
            ("ec(4,2)", 1, &[1; 6], &[]),
            ("ec(4,2)", 1, &[2; 3], &[]),
            // Nothing was promised to begin with.
            ("copies(1)", 1, &[1; 1], &[]),
        ];
        for (scheme, spare, hosts, expected) in cases {
            let warnings = on(scheme, spare, hosts).warnings;
            let told = warnings.len() == expected.len()
                && warnings.iter().zip(expected).all(|(said, part)| said.contains(part));
            assert!(told, "{scheme} on {hosts:?}: {warnings:?}");
        }
    }
}
