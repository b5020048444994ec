//! Where the parts of one blob belong while its slots stand as they do, and what is to be done about those that lie
//! elsewhere. Pure.
//!
//! A part belongs on its main slot, if that is there. The part of a slot that is *away* for a moment is waited for; of
//! one that is gone for long it belongs where a put would hand it to ([`Bounds`]): a unit that has no other, on a host
//! and a rack that have not got their share, best placed first. Only where there is none do parts go beyond shares or
//! double up, and only if that leaves the blob with more to spare. What lies on a slot that is to be left goes the same way,
//! if there is a place for it that is as good.
//!
//! What a blob has to *spare* is how many units it can lose, m at most. Where a host, or a rack, gets a share of a
//! blob, it is less by as many as fewer of these may be lost than could be, were all parts apart.
//!
//! Invariants:
//! * Following a plan step by step, a blob never has less to spare than before, whatever silent slots have of it.
//! * Nothing is planned for a blob of which fewer than k parts are found.

use proto::cluster::Level;
use proto::id::{PartIndex, PartSet};
use proto::limits::MAX_SLOTS;
use proto::scheme::Scheme;

use crate::placement::bounds::{Bounds, Fit};
use crate::placement::quorum::{SlotSet, Spread};
use crate::placement::{Group, Placement};

/// Sets of lost units that are tried, at most, to find what a blob with doubled parts has to spare.
const MOST_SETS: u32 = 20_000;

/// How the slots of a group stand. Those in neither set are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attendance {
    /// They say what they hold.
    pub(crate) up: SlotSet,
    /// They take parts, too.
    pub(crate) takes: SlotSet,
    /// What they have can be dropped, though they may have no room.
    pub(crate) writable: SlotSet,
    /// They are up, and nothing is to stay there that can be elsewhere.
    pub(crate) leaves: SlotSet,
    /// They say nothing, and may be back soon: what belongs there is taken to be there.
    pub(crate) away: SlotSet,
}

impl Attendance {
    /// All of a group are there.
    pub(crate) fn all(slots: usize) -> Self {
        let all = SlotSet::first(slots);
        Self { up: all, takes: all, writable: all, ..Self::default() }
    }

    /// The same, without one that has not answered: it may soon.
    pub(crate) fn without(mut self, slot: usize) -> Self {
        self.up = self.up.minus(SlotSet::only(slot));
        self.takes = self.takes.minus(SlotSet::only(slot));
        self.writable = self.writable.minus(SlotSet::only(slot));
        if self.leaves.contains(slot) {
            // Nobody waits for what is there.
            self.leaves = self.leaves.minus(SlotSet::only(slot));
            return self;
        }
        self.away.insert(slot);
        self
    }
}

/// A blob and the group that it lies in.
#[derive(Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) group: &'a Group,
    pub(crate) placement: Placement,
    pub(crate) scheme: Scheme,
    pub(crate) spread: Spread,
    pub(crate) attendance: Attendance,
}

/// Where a part belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// Not found out yet.
    Unknown,
    /// On this slot.
    At(usize),
    /// On this one, which is away and has it, as far as is known.
    Awaited(usize),
    /// There is no place that would make the blob safer.
    Nowhere,
}

/// A part on a slot.
pub(crate) type Lying = (PartIndex, usize);

/// What is to be done about a blob.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// What the blob can lose now, and after the puts; `None`: too few of its parts are found.
    pub(crate) spare: Option<usize>,
    pub(crate) spare_after: Option<usize>,
    /// First these: parts that their home lacks, and those whose other copies are to be dropped.
    pub(crate) puts: Vec<Lying>,
    /// Then these, each once its part's home has it.
    pub(crate) drops: Vec<Lying>,
    /// Parts that have no place.
    pub(crate) placeless: PartSet,
    /// Parts that stay on slots that are to be left.
    pub(crate) staying: usize,
    /// Parts that nobody has who answers, and that are taken to be on slots that are away.
    pub(crate) awaited: usize,
}

impl Plan {
    /// Is there anything to do?
    pub(crate) fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.drops.is_empty()
    }
}

impl Case<'_> {
    /// What is to be done about a blob whose parts lie so, as the slots that are up have said.
    pub(crate) fn plan(&self, located: &[Lying]) -> Plan {
        if self.is_whole(located) {
            let spare = Some(self.scheme.parity_parts());
            return Plan { spare, spare_after: spare, ..Plan::default() };
        }
        let spare = self.spare(located.iter().copied());
        if spare.is_none() {
            return Plan::default();
        }
        let mut homes = self.homes(located);
        self.refuse_what_does_not_help(located, &mut homes);
        let nowhere = |part: &PartIndex| homes[part.get()] == Home::Nowhere;
        let placeless = PartSet::first(homes.len()).iter().filter(nowhere).collect();
        let awaits = |home: &&Home| matches!(home, Home::Awaited(_));
        let awaited = homes.iter().filter(awaits).count();
        let staying = at(&homes).filter(|(_, slot)| self.attendance.leaves.contains(*slot)).count();
        let lacking = at(&homes).filter(|home| !located.contains(home));
        let mut puts: Vec<Lying> = lacking.collect();
        let after = || located.iter().copied().chain(puts.iter().copied());
        let spare_after = self.spare(after());
        let drops = self.drops(&homes, after().collect(), spare_after);
        // A copy goes only when its part's home has acknowledged it anew: what it says it holds may be rotten.
        let proven = at(&homes).filter(|(part, _)| drops.iter().any(|(p, _)| p == part));
        let unproven: Vec<Lying> = proven.filter(|home| !puts.contains(home)).collect();
        puts.extend(unproven);
        Plan { spare, spare_after, puts, drops, placeless, staying, awaited }
    }

    /// Does each part lie on its main slot, and nowhere else, and may stay there?
    fn is_whole(&self, located: &[Lying]) -> bool {
        let at_home = |(part, slot): &Lying| {
            self.placement.main(part.get()) == Some(*slot)
                && !self.attendance.leaves.contains(*slot)
        };
        located.len() == self.scheme.parts() && located.iter().all(at_home)
    }

    fn bounds(&self) -> Bounds<'_> {
        Bounds::new(self.group, self.scheme, self.spread)
    }

    /// What a blob has to spare whose parts lie so; `None`: too few parts are there as it is. Where parts lie twice it
    /// may be said to be one less than it is.
    pub(crate) fn spare(&self, located: impl Iterator<Item = Lying>) -> Option<usize> {
        let located: Vec<Lying> = located.collect();
        let found: PartSet = located.iter().map(|(part, _)| *part).collect();
        (found.len() >= self.scheme.data_parts()).then_some(())?;
        let (bounds, m) = (self.bounds(), self.scheme.parity_parts());
        let levels = Level::ALL.into_iter().filter(|level| *level >= bounds.unit());
        let fewer = levels.map(|level| {
            let could = m / bounds.share(level);
            could - self.losses(level, could, &located)
        });
        Some(m - fewer.max().expect("a unit is of a level"))
    }

    /// How many members of a level, whichever they are, may be lost of a blob whose parts lie so, `most` at most.
    fn losses(&self, level: Level, most: usize, located: &[Lying]) -> usize {
        let mut held = [0u32; MAX_SLOTS];
        for (part, slot) in located {
            held[self.group.at(level, *slot)] |= 1 << part.get();
        }
        let mut held: Vec<u32> = held.into_iter().filter(|parts| *parts != 0).collect();
        held.sort_unstable_by_key(|parts| std::cmp::Reverse(parts.count_ones()));
        let enough = self.scheme.data_parts() as u32;
        let breaks = |losses: &usize| {
            let mut sets = MOST_SETS;
            can_break(&held, *losses, enough, 0, &mut sets)
        };
        (1..=most).find(breaks).map_or(most, |losses| losses - 1)
    }

    /// What it has to spare where it lies as well as it can with all slots there.
    pub(crate) fn best(&self) -> usize {
        let attendance = Attendance::all(self.group.len());
        let homes = Case { attendance, ..*self }.homes(&[]);
        self.spare(at(&homes)).unwrap_or(0)
    }

    fn homes(&self, located: &[Lying]) -> Vec<Home> {
        let Attendance { up, takes, leaves, away, .. } = self.attendance;
        let found: PartSet = located.iter().map(|(part, _)| *part).collect();
        let mut homes = vec![Home::Unknown; self.scheme.parts()];
        for part in PartSet::first(homes.len()).iter() {
            let Some(main) = self.placement.main(part.get()) else { continue };
            let may_be_there = takes.contains(main) || located.contains(&(part, main));
            if up.contains(main) && !leaves.contains(main) && may_be_there {
                homes[part.get()] = Home::At(main);
            } else if away.contains(main) && !found.contains(part) {
                homes[part.get()] = Home::Awaited(main);
            }
        }
        let bounds = self.bounds();
        while let Some((part, slot)) = self.next_home(&bounds, located, &homes) {
            homes[part] = Home::At(slot);
        }
        for home in homes.iter_mut().filter(|home| **home == Home::Unknown) {
            *home = Home::Nowhere;
        }
        homes
    }

    /// Of the parts that have no home yet one that has the best of those that are left, which is where it lies
    /// already rather than elsewhere.
    fn next_home(
        &self,
        bounds: &Bounds<'_>,
        located: &[Lying],
        homes: &[Home],
    ) -> Option<(usize, usize)> {
        let homeless: PartSet = PartSet::first(homes.len())
            .iter()
            .filter(|part| homes[part.get()] == Home::Unknown)
            .collect();
        let lies = |part: &PartIndex| located.iter().any(|(other, _)| other == part);
        // One that lies nowhere first: the others may stay where they are.
        let first = homeless.iter().min_by_key(lies)?;
        let places = self.placement.order().enumerate().filter_map(|(rank, slot)| {
            let (fit, load) = bounds.crowd(slot, |level, at| self.load(homes, level, at));
            let here = located.iter().filter(|(_, at)| *at == slot).map(|(part, _)| *part);
            let stays = here.filter(|part| homeless.contains(*part)).min();
            let comes = || self.attendance.takes.contains(slot).then_some(first);
            let part = stays.or_else(comes).filter(|_| fit != Fit::Not)?;
            // A slot takes a second part only where its unit has no other.
            let doubled = homes.contains(&Home::At(slot));
            // Nor does one stay that can be elsewhere where nothing is to stay.
            let leaves = self.attendance.leaves.contains(slot);
            Some(((fit, leaves, load, doubled, stays.is_none(), rank), (part.get(), slot)))
        });
        places.min().map(|(_, home)| home)
    }

    /// Parts that have their home on a member of a level.
    fn load(&self, homes: &[Home], level: Level, member: usize) -> usize {
        let there = |home: &&Home| match home {
            Home::At(at) | Home::Awaited(at) => self.group.at(level, *at) == member,
            Home::Unknown | Home::Nowhere => false,
        };
        homes.iter().filter(there).count()
    }

    /// Parts that are missing, and that the blob would be no safer with where they could go, are not made.
    fn refuse_what_does_not_help(&self, located: &[Lying], homes: &mut [Home]) {
        let bounds = self.bounds();
        let crowded = |homes: &[Home], slot: usize| {
            let load = |level| self.load(homes, level, self.group.at(level, slot));
            Level::ALL.into_iter().any(|level| load(level) > bounds.share(level))
        };
        for part in PartSet::first(homes.len()).iter() {
            let Home::At(slot) = homes[part.get()] else { continue };
            if !crowded(homes, slot) || located.iter().any(|(p, _)| *p == part) {
                continue;
            }
            let with = self.spare(at(homes));
            homes[part.get()] = Home::Nowhere;
            if self.spare(at(homes)) < with {
                homes[part.get()] = Home::At(slot);
            }
        }
    }

    /// Copies that are superfluous once every home has its part: not those that leave more to spare.
    fn drops(&self, homes: &[Home], mut lying: Vec<Lying>, spare: Option<usize>) -> Vec<Lying> {
        let mut drops = Vec::new();
        for (part, slot) in lying.clone() {
            let elsewhere = matches!(homes[part.get()], Home::At(home) if home != slot);
            if !elsewhere || !self.attendance.writable.contains(slot) {
                continue;
            }
            let rest: Vec<Lying> =
                lying.iter().copied().filter(|other| *other != (part, slot)).collect();
            if self.may_drop_to(&rest, spare) {
                lying = rest;
                drops.push((part, slot));
            }
        }
        drops
    }

    /// May a copy go that leaves these, of a blob that had so much to spare? Nobody knows what silent slots have, nor which
    /// copies make that worth something: while there are such slots, what is left has to be as safe as can be without it.
    pub(crate) fn may_drop_to(&self, left: &[Lying], spare: Option<usize>) -> bool {
        let left = self.spare(left.iter().copied());
        let all_heard = self.attendance.up == SlotSet::first(self.group.len());
        left >= spare && (all_heard || left >= Some(self.best()))
    }
}

/// The parts that have a slot for a home.
fn at(homes: &[Home]) -> impl Iterator<Item = Lying> {
    let part = |n| PartIndex::new(n).expect("a scheme's part is a part");
    homes.iter().enumerate().filter_map(move |(n, home)| match home {
        Home::At(slot) => Some((part(n), *slot)),
        _ => None,
    })
}

/// Do fewer than `enough` parts remain after the loss of some `losses` of what holds them? `kept` are those that stay;
/// `sets` is what may still be tried: beyond it the answer is yes.
fn can_break(held: &[u32], losses: usize, enough: u32, kept: u32, sets: &mut u32) -> bool {
    let rest = held.iter().fold(kept, |all, parts| all | parts).count_ones();
    if losses == 0 || held.is_empty() {
        return rest < enough;
    }
    // The heaviest come first: with those gone that can go, no fewer can remain.
    let most: u32 = held.iter().take(losses).map(|parts| parts.count_ones()).sum();
    if rest >= enough + most {
        return false;
    }
    if *sets == 0 {
        return true;
    }
    *sets -= 1;
    can_break(&held[1..], losses - 1, enough, kept, sets)
        || can_break(&held[1..], losses, enough, kept | held[0], sets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Site;
    use proto::id::{BlobId, DiskId, GroupId, SessionId, VolumeId};

    /// What becomes of a slot.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        Up,
        ReadOnly,
        /// It is up, and has lost everything.
        Emptied,
        Away,
        Gone,
        /// It is up, and to be emptied.
        Leaves,
    }

    const FATES: [Fate; 6] =
        [Fate::Up, Fate::ReadOnly, Fate::Emptied, Fate::Away, Fate::Gone, Fate::Leaves];

    /// A disk on each of the hosts, those behind a bar in another rack.
    fn group(hosts: &str) -> Group {
        let racks: Vec<&str> = if hosts.contains('|') { vec!["x", "y", "z"] } else { vec![""] };
        let names: Vec<(String, &str)> = hosts
            .split('|')
            .zip(racks)
            .flat_map(|(hosts, rack)| hosts.chars().map(move |host| (host.to_string(), rack)))
            .collect();
        let disk = |n: usize| DiskId::from_slice(&[n as u8; 16]).unwrap();
        let site = |(n, (host, rack))| Site { disk: disk(n), host, rack };
        Group::new(
            names.iter().enumerate().map(|(n, (host, rack))| site((n, (host.as_str(), *rack)))),
        )
    }

    const DOUBLED: Spread = Spread::AsPossible { spare: 1 };

    /// As metadata lie in the group.
    fn apart(group: &Group, scheme: &str) -> Spread {
        Spread::Apart(group.layout(scheme.parse::<Scheme>().unwrap().parity_parts()))
    }

    fn case<'a>(group: &'a Group, scheme: &str, sequence: u64, spread: Spread) -> Case<'a> {
        let scheme: Scheme = scheme.parse().unwrap();
        let blob = BlobId::new(VolumeId(1), SessionId(7), sequence, GroupId(0), 4096, scheme);
        let attendance = attendance(&vec![Fate::Up; group.len()]);
        Case { group, placement: group.place(blob.unwrap()), scheme, spread, attendance }
    }

    fn attendance(fates: &[Fate]) -> Attendance {
        let those = |which: &[Fate]| SlotSet::that_are(fates.len(), |n| which.contains(&fates[n]));
        Attendance {
            up: those(&[Fate::Up, Fate::ReadOnly, Fate::Emptied, Fate::Leaves]),
            takes: those(&[Fate::Up, Fate::Emptied, Fate::Leaves]),
            writable: those(&[Fate::Up, Fate::Emptied, Fate::Leaves]),
            leaves: those(&[Fate::Leaves]),
            away: those(&[Fate::Away]),
        }
    }

    /// Every way in which so many slots can fare.
    fn fates(slots: usize) -> impl Iterator<Item = Vec<Fate>> {
        (0..FATES.len().pow(slots as u32)).map(move |mut n| {
            let next = |_| {
                let fate = FATES[n % FATES.len()];
                n /= FATES.len();
                fate
            };
            (0..slots).map(next).collect()
        })
    }

    /// Where a put leaves the parts while the slots `down` are.
    fn put(case: &Case<'_>, down: u32) -> Option<Vec<Lying>> {
        let up = SlotSet::that_are(case.group.len(), |slot| down >> slot & 1 == 0);
        let attendance = Attendance { up, takes: up, writable: up, ..Attendance::default() };
        let lying: Vec<Lying> = at(&Case { attendance, ..*case }.homes(&[])).collect();
        (lying.len() == case.scheme.parts()).then_some(lying)
    }

    /// Follows a plan step by step; no step leaves the blob with less to spare, in what is seen of it.
    fn follow(case: &Case<'_>, seen: &mut Vec<Lying>, told: &dyn Fn() -> String) {
        let plan = case.plan(seen);
        let mut before = case.spare(seen.iter().copied());
        assert_eq!(plan.spare, before, "{}", told());
        for home in &plan.puts {
            assert!(case.attendance.takes.contains(home.1), "{}: {plan:?}", told());
            if !seen.contains(home) {
                seen.push(*home);
            }
            let after = case.spare(seen.iter().copied());
            assert!(after >= before, "{}: {plan:?}, put {home:?}: {before:?} to {after:?}", told());
            before = after;
        }
        assert_eq!(plan.spare_after, before, "{}: {plan:?}", told());
        for copy in &plan.drops {
            let proven = plan.puts.iter().any(|(part, slot)| *part == copy.0 && *slot != copy.1);
            assert!(proven, "{}: {plan:?}, {copy:?} is dropped unproven", told());
            seen.retain(|other| other != copy);
            let after = case.spare(seen.iter().copied());
            assert!(
                after >= before,
                "{}: {plan:?}, drop {copy:?}: {before:?} to {after:?}",
                told()
            );
            before = after;
        }
    }

    /// After a put with any slots down, and whatever becomes of slots since, mending makes a blob no less safe in any
    /// step, comes to an end, and once all slots are back each part lies where it belongs.
    #[test]
    fn every_fate_of_the_slots_of_small_groups() {
        let groups = [
            ("abcd", "ec(2,1)", Some(DOUBLED)),
            ("abc", "ec(2,1)", Some(DOUBLED)),
            ("abc", "ec(2,1)", Some(Spread::ANY)),
            ("aabbc", "ec(2,1)", Some(DOUBLED)),
            ("aabb", "ec(2,1)", Some(DOUBLED)),
            ("abcd", "copies(3)", None),
            ("aabbc", "copies(2)", None),
            ("abcd", "copies(2)", Some(DOUBLED)),
            ("abcde", "ec(2,2)", Some(DOUBLED)),
            ("aabbc", "ec(2,2)", Some(DOUBLED)),
            ("abc", "ec(4,2)", Some(DOUBLED)),
        ];
        for (hosts, scheme, spread) in groups {
            let group = group(hosts);
            let spread = spread.unwrap_or_else(|| apart(&group, scheme));
            for (sequence, down) in (0..1u32 << group.len()).map(|down| (u64::from(down) % 3, down))
            {
                let case = case(&group, scheme, sequence, spread);
                let Some(lying) = put(&case, down) else { continue };
                for fates in fates(group.len()) {
                    let told = || format!("{scheme} on {hosts}, {down:b}, {lying:?}, {fates:?}");
                    every_step(&case, &lying, &fates, &told);
                }
            }
        }
    }

    /// The same on hosts and racks of more disks, of which too many sets can fail to try them all.
    #[test]
    fn any_fates_of_the_slots_of_hosts_and_racks() {
        let groups = [
            ("aabbcc", "ec(4,2)", Some(DOUBLED)),
            ("aabbcc", "ec(4,2)", Some(Spread::AsPossible { spare: 2 })),
            ("aabbcc", "copies(3)", None),
            ("aaabbbccc", "ec(4,2)", Some(DOUBLED)),
            ("aaabbbccc", "copies(3)", None),
            ("abccccdd", "ec(4,2)", Some(DOUBLED)),
            ("aabbccddeeff", "ec(4,2)", Some(DOUBLED)),
            ("aabb|ccdd|eeff", "ec(4,2)", Some(DOUBLED)),
            ("aab|ccddd", "ec(3,2)", Some(DOUBLED)),
            ("ab|cd|ef", "copies(3)", None),
        ];
        let mut random = Random(1);
        for (hosts, scheme, spread) in groups {
            let group = group(hosts);
            let spread = spread.unwrap_or_else(|| apart(&group, scheme));
            for _ in 0..2_000 {
                let case = case(&group, scheme, random.below(1 << 20), spread);
                // Most of them are as most often: up.
                let down = random.below(1 << group.len()) & random.below(1 << group.len());
                let Some(lying) = put(&case, down as u32) else { continue };
                let fate = |_| match random.below(2) {
                    0 => Fate::Up,
                    _ => FATES[random.below(FATES.len() as u64) as usize],
                };
                let fates: Vec<Fate> = (0..group.len()).map(fate).collect();
                let told = || format!("{scheme} on {hosts}, {down:b}, {lying:?}, {fates:?}");
                every_step(&case, &lying, &fates, &told);
            }
        }
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % n
        }
    }

    fn every_step(case: &Case<'_>, lying: &[Lying], fates: &[Fate], told: &dyn Fn() -> String) {
        let is = |slot: usize, those: &[Fate]| those.contains(&fates[slot]);
        let (mut seen, mut unseen) = (Vec::new(), Vec::new());
        for home in lying {
            match home.1 {
                slot if is(slot, &[Fate::Up, Fate::ReadOnly, Fate::Leaves]) => seen.push(*home),
                slot if is(slot, &[Fate::Away, Fate::Gone]) => unseen.push(*home),
                _ => {}
            }
        }
        let now = Case { attendance: attendance(fates), ..*case };
        let few = now.spare(seen.iter().copied()).is_none();
        follow(&now, &mut seen, told);
        let rest = now.plan(&seen);
        assert!(rest.is_empty(), "{}: still {rest:?} with {seen:?}", told());
        if few {
            assert!(seen.iter().all(|home| lying.contains(home)), "{}: it was touched", told());
        }
        // All come back, with what they had.
        seen.extend(unseen);
        let mut whole = seen;
        if case.spare(whole.iter().copied()).is_none() {
            return;
        }
        follow(case, &mut whole, told);
        let rest = case.plan(&whole);
        assert!(rest.is_empty(), "{}: at last {rest:?} with {whole:?}", told());
        assert_eq!(case.spare(whole.iter().copied()), Some(case.best()), "{}: {whole:?}", told());
        for part in PartSet::first(case.scheme.parts()).iter() {
            let main = case.placement.main(part.get());
            let home = |(p, slot): &Lying| *p == part && main.is_none_or(|main| main == *slot);
            assert!(whole.iter().any(home), "{}: part {part} is not at home: {whole:?}", told());
        }
        assert_eq!(whole.len(), case.scheme.parts(), "{}: copies are left: {whole:?}", told());
    }

    #[test]
    fn what_a_blob_has_to_spare_is_what_every_set_of_losses_says() {
        // Where units are disks, of which a host has one part or two, and where they are hosts.
        for (hosts, scheme, share) in
            [("aabbcd", "ec(2,2)", 1), ("aabbcc", "ec(2,2)", 2), ("aabcde", "ec(2,2)", 1)]
        {
            let group = group(hosts);
            let case = case(&group, scheme, 1, DOUBLED);
            assert_eq!(case.bounds().share(Level::Host), share, "{hosts}");
            // Every part on every set of slots, up to two.
            let places: Vec<u32> = (0u32..1 << 6).filter(|set| set.count_ones() <= 2).collect();
            let mut random = Random(1);
            for _ in 0..20_000 {
                let lying: Vec<Lying> = (0..4)
                    .flat_map(|n| {
                        let set = places[random.below(places.len() as u64) as usize];
                        let part = PartIndex::new(n).unwrap();
                        (0..6)
                            .filter(move |slot| set >> slot & 1 == 1)
                            .map(move |slot| (part, slot))
                    })
                    .collect();
                let survives = |level: Level, losses: usize| {
                    (0u32..1 << 6).filter(|lost| lost.count_ones() as usize == losses).all(|lost| {
                        let left = lying
                            .iter()
                            .filter(|(_, slot)| lost >> group.at(level, *slot) & 1 == 0);
                        left.map(|(part, _)| *part).collect::<PartSet>().len() >= 2
                    })
                };
                let losses = |level, most: usize| {
                    (0..=most).take_while(|losses| survives(level, *losses)).last()
                };
                let expected = match (case.bounds().unit(), losses(Level::Host, 2 / share)) {
                    (_, None) => None,
                    (Level::Disk, Some(hosts)) => {
                        losses(Level::Disk, 2).map(|disks| disks.min(2 - (2 / share - hosts)))
                    }
                    (_, Some(hosts)) => Some(hosts),
                };
                assert_eq!(case.spare(lying.iter().copied()), expected, "{hosts}: {lying:?}");
            }
        }
    }

    #[test]
    fn a_slot_that_is_to_be_left_is_emptied_while_others_take_what_it_has() {
        let group = group("abcdefgh");
        let case = case(&group, "ec(4,2)", 1, DOUBLED);
        let mains: Vec<Lying> = put(&case, 0).unwrap();
        let (part, slot) = mains[2];
        let mut fates = [Fate::Up; 8];
        fates[slot] = Fate::Leaves;
        let leaving = Case { attendance: attendance(&fates), ..case };
        let plan = leaving.plan(&mains);
        let handoff = case.placement.handoff(6).next().unwrap();
        assert_eq!((plan.puts, plan.drops), (vec![(part, handoff)], vec![(part, slot)]));
        assert_eq!((plan.spare, plan.spare_after, plan.staying), (Some(2), Some(2), 0));
        // Its disk is full: that is no reason to keep what it has.
        let mut full = leaving;
        full.attendance.takes = full.attendance.takes.minus(SlotSet::only(slot));
        assert_eq!(full.plan(&mains).drops, [(part, slot)]);
        // It is the only one that is left for the part.
        case.placement.handoff(6).for_each(|other| fates[other] = Fate::Gone);
        let leaving = Case { attendance: attendance(&fates), ..case };
        let plan = leaving.plan(&mains);
        assert_eq!((plan.is_empty(), plan.staying), (true, 1));
    }

    #[test]
    fn parts_of_a_slot_that_is_away_are_waited_for_and_of_one_that_is_gone_made_anew() {
        let group = group("abcdefgh");
        let case = case(&group, "ec(4,2)", 1, DOUBLED);
        let mains: Vec<Lying> = put(&case, 0).unwrap();
        let (lost, slot) = mains[2];
        let seen: Vec<Lying> = mains.iter().copied().filter(|home| home.1 != slot).collect();
        let mut fates = [Fate::Up; 8];
        fates[slot] = Fate::Away;
        let away = Case { attendance: attendance(&fates), ..case };
        assert_eq!(
            away.plan(&seen),
            Plan { spare: Some(1), spare_after: Some(1), awaited: 1, ..Plan::default() }
        );
        fates[slot] = Fate::Gone;
        let gone = Case { attendance: attendance(&fates), ..case };
        let handoff = case.placement.handoff(6).next().unwrap();
        let plan = gone.plan(&seen);
        assert_eq!((plan.puts, plan.drops), (vec![(lost, handoff)], vec![]));
        assert_eq!((plan.spare, plan.spare_after), (Some(1), Some(2)));
        // It is back, with its part: the other goes.
        let both: Vec<Lying> = mains.iter().copied().chain([(lost, handoff)]).collect();
        let plan = case.plan(&both);
        assert_eq!((plan.puts, plan.drops), (vec![(lost, slot)], vec![(lost, handoff)]));
    }
}
