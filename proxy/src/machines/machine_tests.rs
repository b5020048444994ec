//! The put and get machines against a model of a group: every set of failed slots, answers in every
//! order where that is feasible, else in many seeded ones.
//!
//! What must hold: a put is acknowledged only with a home for each part, so spread that the blob
//! survives what it promises; and whatever is acknowledged is read as long as k parts can be had,
//! and is never said to be absent.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use proto::cluster::Level;
use proto::id::{BlobId, DiskId, GroupId, PartIndex, PartSet, SessionId, VolumeId};
use proto::part_store::{Held, PartError};
use proto::scheme::Scheme;

use crate::machines::driver::Machine;
use crate::machines::get::{Get, GetCall, GetOutcome, GetReply};
use crate::machines::put::{Put, PutCall, PutOutcome};
use crate::machines::restore::Find;
use crate::machines::safety::Safety;
use crate::placement::Group;
use crate::placement::quorum::{SlotSet, Spread, room};
use crate::rules::VolumeRules;

/// Decides what happens next.
pub(crate) enum Chooser {
    Seeded(u64),
    /// The choices made so far, each with how many there were to choose from: an odometer.
    Exhaustive {
        script: Vec<(usize, usize)>,
        at: usize,
    },
}

impl Chooser {
    pub(crate) fn pick(&mut self, of: usize) -> usize {
        match self {
            Self::Seeded(state) => {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (*state >> 33) as usize % of
            }
            Self::Exhaustive { script, at } => {
                if *at == script.len() {
                    script.push((0, of));
                }
                *at += 1;
                assert_eq!(script[*at - 1].1, of, "the same choices lead to the same place");
                script[*at - 1].0
            }
        }
    }

    /// Goes on to the next order; false after the last.
    pub(crate) fn next(&mut self) -> bool {
        let Self::Exhaustive { script, at } = self else { unreachable!("only these are counted") };
        *at = 0;
        while let Some((choice, of)) = script.pop() {
            if choice + 1 < of {
                script.push((choice + 1, of));
                return true;
            }
        }
        false
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Good,
    /// Known to be out of reach.
    Down,
    /// Refuses.
    Refusing,
    /// Never answers; the driver gives up on the call in the end.
    Hung,
    Full,
    /// Answers, and is not sure of what it does not hold.
    Rebuilding,
    /// Has lost all it had, and says so as if it never had anything.
    Empty,
}

const MOODS: [Mood; 5] = [Mood::Good, Mood::Down, Mood::Refusing, Mood::Hung, Mood::Full];

pub(crate) struct World {
    pub(crate) group: Group,
    pub(crate) moods: Vec<Mood>,
    /// Slot and part.
    pub(crate) parts: BTreeSet<(usize, usize)>,
    /// Disks that can be lost after a put; the least that this ever was.
    pub(crate) spare: usize,
}

impl World {
    /// Slots per host.
    pub(crate) fn new(hosts: &[usize]) -> Self {
        let names: Vec<String> = (0..hosts.len()).map(|n| format!("host{n}")).collect();
        let slots = hosts.iter().zip(&names).flat_map(|(n, name)| vec![name.as_str(); *n]);
        let disks = slots
            .enumerate()
            .map(|(n, name)| (DiskId::from_slice(&[n as u8 + 1; 16]).unwrap(), name));
        let group = Group::new(disks);
        Self { moods: vec![Mood::Good; group.len()], group, parts: BTreeSet::new(), spare: 1 }
    }

    /// The disk of the slot is replaced by an empty one.
    pub(crate) fn wipe(&mut self, slot: usize) {
        self.parts.retain(|(at, _)| *at != slot);
        self.moods[slot] = Mood::Rebuilding;
    }

    /// How parts lie of a journal that survives as much as the blob.
    pub(crate) fn apart(&self, id: BlobId) -> Spread {
        Spread::Apart(self.group.layout(id.scheme().parity_parts()))
    }

    pub(crate) fn as_possible(&self) -> Spread {
        Spread::AsPossible { spare: self.spare }
    }

    pub(crate) fn in_mood(&self, mood: Mood) -> SlotSet {
        SlotSet::that_are(self.moods.len(), |slot| self.moods[slot] == mood)
    }

    /// The call with which something happens next. In every order, of slots that hold nothing and are in one
    /// mood it does not matter which tells so first.
    fn one_of<C: Question>(
        &self,
        pending: &[(C, bool)],
        chooser: &mut Chooser,
        slot_of: &impl Fn(C) -> usize,
    ) -> usize {
        if matches!(chooser, Chooser::Seeded(_)) {
            return chooser.pick(pending.len());
        }
        let empty = |slot| !self.parts.iter().any(|(at, _)| *at == slot);
        let twins = |(a, slow): (C, bool), (b, also): (C, bool)| {
            let (here, there) = (slot_of(a), slot_of(b));
            let same = slow == also && self.moods[here] == self.moods[there];
            same && a.is_what_is_held() && b.is_what_is_held() && empty(here) && empty(there)
        };
        let first = |i: &usize| !pending[..*i].iter().any(|other| twins(*other, pending[*i]));
        let choices: Vec<usize> = (0..pending.len()).filter(first).collect();
        choices[chooser.pick(choices.len())]
    }

    /// Lets calls answer, be slow and time out in the order chosen, until the machine has settled.
    fn run<M: Machine>(
        &mut self,
        machine: &mut M,
        chooser: &mut Chooser,
        slot_of: impl Fn(M::Call) -> usize,
        mut answer: impl FnMut(&mut Self, M::Call) -> Option<Result<M::Reply, PartError>>,
    ) where
        M::Call: Question,
    {
        let mut pending = Vec::new();
        for _ in 0..1000 {
            while let Some(call) = machine.next_call() {
                pending.push((call, false));
            }
            if machine.settled() {
                return;
            }
            assert!(!pending.is_empty(), "it neither settles nor asks");
            let index = self.one_of(&pending, chooser, &slot_of);
            let (call, slow) = pending[index];
            // In every order, only what stays silent is slow: there would be too many.
            let may_be_slow =
                matches!(chooser, Chooser::Seeded(_)) || self.moods[slot_of(call)] == Mood::Hung;
            let odds = if matches!(chooser, Chooser::Seeded(_)) { 3 } else { 2 };
            if !slow && may_be_slow && chooser.pick(odds) == 0 {
                pending[index].1 = true;
                machine.slow(call);
                continue;
            }
            let silent = || PartError::Unreachable("no answer".to_owned());
            pending.remove(index);
            let reply = answer(self, call).unwrap_or_else(|| Err(silent()));
            machine.replied(call, reply);
        }
        panic!("it does not settle");
    }

    pub(crate) fn put(&mut self, id: BlobId, chooser: &mut Chooser) -> PutOutcome {
        self.put_spread(id, self.as_possible(), chooser)
    }

    pub(crate) fn put_spread(
        &mut self,
        id: BlobId,
        spread: Spread,
        chooser: &mut Chooser,
    ) -> PutOutcome {
        let (group, down) =
            (std::mem::replace(&mut self.group, Group::new(one_slot())), self.in_mood(Mood::Down));
        let (place, scheme) = (group.place(id), id.scheme());
        let mut put = Put::new(&group, place, scheme, spread, down, SlotSet::EMPTY, &[]);
        self.run(&mut put, chooser, |call| call.slot, Self::take);
        let outcome = put.outcome().unwrap().clone();
        drop(put);
        self.group = group;
        outcome
    }

    /// What a slot does with a part.
    fn take(&mut self, PutCall { part, slot }: PutCall) -> Option<Result<(), PartError>> {
        match self.moods[slot] {
            Mood::Good | Mood::Empty | Mood::Rebuilding => {
                self.parts.insert((slot, part.get()));
                Some(Ok(()))
            }
            Mood::Refusing => Some(Err(PartError::Unreachable("refused".to_owned()))),
            Mood::Full => Some(Err(PartError::Full)),
            Mood::Hung => None,
            Mood::Down => panic!("asked a slot that is down"),
        }
    }

    /// What a slot says to a question of a get.
    fn tell(&mut self, call: GetCall) -> Option<Result<GetReply, PartError>> {
        match self.moods[call.slot()] {
            Mood::Good | Mood::Full | Mood::Empty | Mood::Rebuilding => Some(self.answer(call)),
            Mood::Refusing => Some(Err(PartError::Unreachable("refused".to_owned()))),
            Mood::Hung => None,
            Mood::Down => panic!("asked a slot that is down"),
        }
    }

    /// A restore-read: how its first half ended, and its second, if it came to that.
    fn restore_read(
        &mut self,
        id: BlobId,
        spread: Spread,
        chooser: &mut Chooser,
    ) -> (GetOutcome, Option<PutOutcome>) {
        let (group, down) =
            (std::mem::replace(&mut self.group, Group::new(one_slot())), self.in_mood(Mood::Down));
        let mut find = Find::new(&group, group.place(id), id, spread, down);
        self.run(&mut find, chooser, GetCall::slot, Self::tell);
        let located = find.located().to_vec();
        assert!(
            located.iter().all(|(part, slot)| self.parts.contains(&(*slot, part.get()))),
            "what is located is there"
        );
        let found = find.into_get().outcome().unwrap();
        let put = (found == GetOutcome::Data).then(|| {
            let (place, scheme) = (group.place(id), id.scheme());
            let mut put = Put::new(&group, place, scheme, spread, down, SlotSet::EMPTY, &located);
            self.run(&mut put, chooser, |call| call.slot, Self::take);
            put.outcome().unwrap().clone()
        });
        self.group = group;
        (found, put)
    }

    fn get(&mut self, id: BlobId, chooser: &mut Chooser) -> GetOutcome {
        let start = chooser.pick(id.len() as usize) as u32;
        let end = start + 1 + chooser.pick((id.len() - start) as usize) as u32;
        self.get_range(id, start..end, chooser)
    }

    pub(crate) fn get_range(
        &mut self,
        id: BlobId,
        range: Range<u32>,
        chooser: &mut Chooser,
    ) -> GetOutcome {
        let (group, down) =
            (std::mem::replace(&mut self.group, Group::new(one_slot())), self.in_mood(Mood::Down));
        let place = group.place(id);
        let mut get = Get::new(&group, place, id, self.as_possible(), range, down);
        self.run(&mut get, chooser, GetCall::slot, Self::tell);
        let outcome = get.outcome().unwrap();
        if outcome == GetOutcome::Data {
            let (interval, parts) = get.restorable();
            let distinct: BTreeSet<_> = parts.iter().map(|(part, _)| *part).collect();
            assert_eq!(distinct.len(), parts.len());
            assert!(parts.iter().all(|(_, bytes)| bytes.len() == interval.len()));
            for (piece, bytes) in get.pieces() {
                match bytes {
                    Some(bytes) => assert_eq!(bytes.len(), piece.in_part.len()),
                    None => {
                        let covers = interval.start <= piece.in_part.start
                            && piece.in_part.end <= interval.end;
                        let here = distinct.contains(&piece.part);
                        assert!(covers && (here || parts.len() >= id.scheme().data_parts()));
                    }
                }
            }
        }
        drop(get);
        self.group = group;
        outcome
    }

    fn answer(&self, call: GetCall) -> Result<GetReply, PartError> {
        let emptied = self.moods[call.slot()] == Mood::Empty;
        match call {
            GetCall::Held { .. } if emptied => Ok(GetReply::Held(Held::default())),
            GetCall::Read { .. } if emptied => Err(PartError::NotFound),
            GetCall::Held { slot } => {
                let here = self.parts.iter().filter(|(at, _)| *at == slot);
                let parts = here.map(|(_, part)| PartIndex::new(*part).unwrap()).collect();
                let rebuilding = self.moods[slot] == Mood::Rebuilding;
                Ok(GetReply::Held(Held { parts, deleted: false, rebuilding }))
            }
            GetCall::Read { part, slot, start, end, .. } => {
                let here = self.parts.contains(&(slot, part.get()));
                let bytes = Bytes::from(vec![0; (end - start) as usize]);
                match self.moods[slot] {
                    _ if here => Ok(GetReply::Bytes(bytes)),
                    Mood::Rebuilding => Err(PartError::NotRebuilt),
                    _ => Err(PartError::NotFound),
                }
            }
        }
    }

    /// Parts that can be had.
    pub(crate) fn within_reach(&self) -> PartSet {
        let answers =
            |slot: usize| matches!(self.moods[slot], Mood::Good | Mood::Full | Mood::Rebuilding);
        let parts = self.parts.iter().filter(|(slot, _)| answers(*slot));
        parts.map(|(_, part)| PartIndex::new(*part).unwrap()).collect()
    }

    /// Most parts that the loss of one member of the level would cost.
    pub(crate) fn cost_of_losing_one(&self, level: Level) -> usize {
        let all: BTreeSet<_> = self.parts.iter().map(|(_, part)| part).collect();
        let cost = |member: SlotSet| {
            let others = self.parts.iter().filter(|(slot, _)| !member.contains(*slot));
            all.len() - others.map(|(_, part)| part).collect::<BTreeSet<_>>().len()
        };
        self.group.members(level).map(cost).max().unwrap()
    }

    pub(crate) fn check_acknowledged(&self, id: BlobId, degraded: bool, context: &str) {
        let scheme = id.scheme();
        let parts: BTreeSet<usize> = self.parts.iter().map(|(_, part)| *part).collect();
        assert_eq!(parts.len(), scheme.parts(), "{context}: every part is stored");
        let most = self.cost_of_losing_one(Level::Disk);
        assert!(most <= room(scheme, self.spare), "{context}: a disk holds {most}");
        let shares = self.group.shares(scheme);
        for level in Level::ALL.into_iter().filter(|_| !degraded) {
            let most = self.cost_of_losing_one(level);
            assert!(!shares.are_exceeded(level, most), "{context}: a {level} holds {most}");
        }
    }

    /// The same of what was put apart.
    fn check_apart(&self, id: BlobId, context: &str) {
        let layout = self.group.layout(id.scheme().parity_parts());
        self.check_acknowledged(id, true, context);
        assert!(self.cost_of_losing_one(layout.unit) <= 1, "{context}: a unit holds more");
    }
}

/// A call of a machine.
pub(crate) trait Question: Copy {
    /// Does it ask a slot what it holds?
    fn is_what_is_held(self) -> bool;
}

impl Question for PutCall {
    fn is_what_is_held(self) -> bool {
        false
    }
}

impl Question for GetCall {
    fn is_what_is_held(self) -> bool {
        matches!(self, Self::Held { .. })
    }
}

fn one_slot() -> [(DiskId, &'static str); 1] {
    [(DiskId::from_slice(&[1; 16]).unwrap(), "only")]
}

pub(crate) fn blob(sequence: u64, scheme: &str) -> BlobId {
    let scheme = scheme.parse().unwrap();
    BlobId::new(VolumeId(1), SessionId(1), sequence, GroupId(0), 1000, scheme).unwrap()
}

const SCHEMES: [&str; 5] = ["ec(4,2)", "copies(3)", "ec(2,1)", "copies(1)", "ec(3,3)"];

/// What a put must come to when the slots in `lost` are all in one mood and the others good, each
/// slot a domain of its own.
fn expected(id: BlobId, good: usize, mood: Mood) -> PutOutcome {
    let (scheme, parts) = (id.scheme(), id.scheme().parts());
    match mood {
        _ if good >= parts => PutOutcome::Stored { degraded: false },
        Mood::Full => PutOutcome::Full,
        _ if good * room(scheme, 1) >= parts => PutOutcome::Stored { degraded: true },
        _ => PutOutcome::Unavailable,
    }
}

#[test]
fn puts_with_every_set_of_failed_slots_and_gets_with_every_other() {
    for (scheme, seed) in SCHEMES.into_iter().flat_map(|s| (1..4u64).map(move |seed| (s, seed))) {
        for mood in [Mood::Down, Mood::Refusing, Mood::Hung, Mood::Full] {
            for lost in 0..256u64 {
                let seed = seed * 1000 + lost;
                let context = format!("{scheme}, {:?} {mood:?}, seed {seed}", SlotSet(lost));
                let mut chooser = Chooser::Seeded(seed);
                let mut world = World::new(&[1; 8]);
                SlotSet(lost).iter().for_each(|slot| world.moods[slot] = mood);
                let id = blob(seed, scheme);
                let good = 8 - SlotSet(lost).len();
                let outcome = world.put(id, &mut chooser);
                assert_eq!(outcome, expected(id, good, mood), "{context}");
                let PutOutcome::Stored { degraded } = outcome else { continue };
                world.check_acknowledged(id, degraded, &context);
                check_gets(&mut world, id, &mut chooser, &context);
            }
        }
    }
}

/// With some 20 sets of lost slots, of all sizes, each lost in its own way.
fn check_gets(world: &mut World, id: BlobId, chooser: &mut Chooser, context: &str) {
    let slots = world.moods.len();
    for round in 0..20 {
        let lose = |chooser: &mut Chooser| match chooser.pick(20) > round {
            true => Mood::Good,
            false => MOODS[1 + chooser.pick(3)],
        };
        world.moods = (0..slots).map(|_| lose(chooser)).collect();
        let enough = world.within_reach().len() >= id.scheme().data_parts();
        let outcome = world.get(id, chooser);
        let moods = &world.moods;
        match outcome {
            GetOutcome::Data => {}
            GetOutcome::NotFound => panic!("{context}: an acknowledged blob is absent: {moods:?}"),
            GetOutcome::Unavailable => {
                assert!(!enough, "{context}: k parts were there: {moods:?}, {:?}", world.parts);
            }
        }
    }
}

#[test]
fn mixed_moods_and_domains_of_several_slots() {
    let shapes: [&[usize]; 4] = [&[2, 2, 2, 2], &[1, 2, 3, 1, 1, 1, 2], &[8], &[3, 1, 1, 1, 1, 1]];
    for seed in 0..6000u64 {
        let mut chooser = Chooser::Seeded(seed);
        let mut world = World::new(shapes[chooser.pick(shapes.len())]);
        let badness = 1 + chooser.pick(10);
        for slot in 0..world.moods.len() {
            if chooser.pick(10) < badness {
                world.moods[slot] = MOODS[chooser.pick(MOODS.len())];
            }
        }
        let id = blob(seed, SCHEMES[chooser.pick(SCHEMES.len())]);
        let context = format!("{id}, seed {seed}, {:?}", world.moods);
        match world.put(id, &mut chooser) {
            PutOutcome::Stored { degraded } => {
                world.check_acknowledged(id, degraded, &context);
                check_gets(&mut world, id, &mut chooser, &context);
            }
            PutOutcome::Full => assert!(!world.in_mood(Mood::Full).is_empty(), "{context}"),
            PutOutcome::Unavailable => {
                let alive = world.in_mood(Mood::Good);
                let alive = world.group.count(Level::Disk, alive);
                assert!(alive < id.scheme().parts(), "{context}");
            }
            other => panic!("{context}: {other:?}"),
        }
    }
}

/// Every set of lost disks, and every set of lost hosts: what is promised holds for each of so many, and for some
/// set of one more it does not, where that can be seen by a few blobs.
#[test]
fn what_is_promised_of_losses_is_what_puts_and_gets_do() {
    let maps: [&[usize]; 10] = [
        &[1; 3],
        &[1; 4],
        &[1; 6],
        &[1; 8],
        &[2, 2, 2],
        &[3, 3, 3],
        &[1, 2, 3],
        &[4, 1, 1, 1],
        &[1, 1, 2, 2, 3],
        &[2, 2, 2, 1, 1, 1],
    ];
    let schemes = ["ec(4,2)", "ec(2,1)", "ec(3,3)", "copies(1)", "copies(2)", "copies(3)"];
    for (map, text) in maps.iter().flat_map(|map| schemes.map(|scheme| (*map, scheme))) {
        let scheme: Scheme = text.parse().unwrap();
        let (slots, m) = (map.iter().sum::<usize>(), scheme.parity_parts());
        if slots < scheme.parts() {
            continue;
        }
        let group = World::new(map).group;
        for (spare, level) in [1, 0].into_iter().flat_map(|s| [(s, Level::Disk), (s, Level::Host)])
        {
            let rules = VolumeRules::new(group.layout(m), spare);
            let safety = Safety::new(scheme, rules, &group);
            let context = format!("{text} on {map:?}, {level}s, {spare} to spare: {safety}");
            let told = safety.levels.iter().find(|(of, ..)| *of == level);
            let Some((_, _, losses)) = told else { continue };
            let whole = |set: &SlotSet| {
                let lost =
                    group.members(level).filter(|slots| set.contains(slots.iter().next().unwrap()));
                lost.fold(SlotSet::EMPTY, SlotSet::union) == *set
            };
            let sets = (0..1u64 << slots).map(SlotSet).filter(whole);
            let (mut reads, mut writes) = (usize::MAX, usize::MAX);
            for set in sets {
                let lost = group.count(level, set);
                if lost <= losses.reads + 1
                    && lost <= reads
                    && !reads_survive(map, text, rules, set)
                {
                    reads = lost - 1;
                }
                if lost <= writes && !writes_survive(map, text, rules, set) {
                    writes = lost - 1;
                }
            }
            assert!(
                losses.reads <= reads && losses.writes == writes,
                "{context}: {reads}, {writes}"
            );
            assert!(level != Level::Disk || losses.reads == reads, "{context}: {reads}");
        }
    }
}

/// Of data, and of a journal.
fn writes_survive(map: &[usize], scheme: &str, rules: VolumeRules, lost: SlotSet) -> bool {
    let mut world = World::new(map);
    world.spare = rules.min_spare.into();
    lost.iter().for_each(|slot| world.moods[slot] = Mood::Down);
    let id = blob(lost.0 + 1, scheme);
    let copies = blob(lost.0 + 1, &id.scheme().as_copies().to_string());
    let data = world.put(id, &mut Chooser::Seeded(lost.0));
    let journal =
        world.put_spread(copies, Spread::Apart(rules.layout), &mut Chooser::Seeded(lost.0));
    [data, journal].iter().all(|put| matches!(put, PutOutcome::Stored { .. }))
}

/// Of a few blobs: some of them have a part on each disk. And can it be mounted?
fn reads_survive(map: &[usize], scheme: &str, rules: VolumeRules, lost: SlotSet) -> bool {
    let m = blob(1, scheme).scheme().parity_parts();
    let readable = |sequence| {
        let mut world = World::new(map);
        let mut chooser = Chooser::Seeded(sequence);
        let id = blob(sequence, scheme);
        assert_eq!(world.put(id, &mut chooser), PutOutcome::Stored { degraded: false });
        lost.iter().for_each(|slot| world.moods[slot] = Mood::Down);
        world.get_range(id, 0..id.len(), &mut chooser) == GetOutcome::Data
    };
    World::new(map).group.may_be_silent(rules.layout, m, lost) && (1..24).all(readable)
}

#[test]
fn blobs_of_failed_puts_are_never_data_out_of_too_few_parts() {
    for seed in 0..3000u64 {
        let mut chooser = Chooser::Seeded(seed);
        let mut world = World::new(&[1; 8]);
        let id = blob(seed, SCHEMES[chooser.pick(SCHEMES.len())]);
        // Any scattering of some of its parts.
        for part in 0..id.scheme().parts() {
            if chooser.pick(2) == 0 {
                world.parts.insert((chooser.pick(8), part));
            }
        }
        let all_well = chooser.pick(2) == 0;
        for slot in 0..8 {
            if !all_well && chooser.pick(3) == 0 {
                world.moods[slot] = MOODS[1 + chooser.pick(3)];
            }
        }
        let reachable = world.within_reach().len();
        let outcome = world.get(id, &mut chooser);
        let context = format!("{id}, seed {seed}, {:?}, {:?}", world.moods, world.parts);
        match outcome {
            // A range may lie in the very parts that are there.
            GetOutcome::Data => assert!(reachable > 0, "{context}"),
            GetOutcome::NotFound => {
                let complete = world.parts.len() == id.scheme().parts();
                let spread = world.cost_of_losing_one(Level::Disk) <= room(id.scheme(), 1);
                assert!(!(complete && spread), "{context}");
            }
            GetOutcome::Unavailable => assert!(!all_well, "{context}"),
        }
    }
}

#[test]
fn small_groups_in_every_order() {
    // (scheme, slots): small enough for every order of answers, slowness and time-outs.
    for (scheme, slots) in [("copies(2)", 3), ("copies(1)", 2)] {
        for moods in 0..5usize.pow(slots) {
            let mood = |slot: u32| MOODS[moods / 5usize.pow(slot) % 5];
            let mut chooser = Chooser::Exhaustive { script: Vec::new(), at: 0 };
            loop {
                let mut world = World::new(&vec![1; slots as usize]);
                world.moods = (0..slots).map(mood).collect();
                let id = blob(3, scheme);
                let context = format!("{id}, {:?}", world.moods);
                let outcome = world.put(id, &mut chooser);
                let good = world.in_mood(Mood::Good).len();
                match &outcome {
                    PutOutcome::Stored { degraded } => {
                        world.check_acknowledged(id, *degraded, &context);
                    }
                    _ => assert!(good < id.scheme().parts(), "{context}: {outcome:?}"),
                }
                if !chooser.next() {
                    break;
                }
            }
        }
    }
}

#[test]
fn gets_of_small_groups_in_every_order() {
    // One that was replaced, which has some of it again or nothing.
    const WIPED: usize = 5;
    let kinds = [Mood::Good, Mood::Down, Mood::Refusing, Mood::Hung, Mood::Rebuilding];
    for moods in 0..6usize.pow(3) {
        for layout in [[0, 1], [1, 2], [2, 0]] {
            let mut chooser = Chooser::Exhaustive { script: Vec::new(), at: 0 };
            let kind = |slot: usize| moods / 6usize.pow(slot as u32) % 6;
            loop {
                let mut world = World::new(&[1; 3]);
                world.moods = (0..3).map(|slot| kinds[kind(slot).min(4)]).collect();
                let scheme = "copies(2)".parse().unwrap();
                let id = BlobId::new(VolumeId(1), SessionId(1), 5, GroupId(0), 1, scheme).unwrap();
                let order: Vec<_> = world.group.place(id).order().collect();
                for (part, place) in layout.into_iter().enumerate() {
                    world.parts.insert((order[place], part));
                }
                (0..3).filter(|slot| kind(*slot) == WIPED).for_each(|slot| world.wipe(slot));
                let enough = !world.within_reach().is_empty();
                let outcome = world.get(id, &mut chooser);
                let context = format!("{:?} {:?}: {outcome:?}", world.moods, world.parts);
                assert_ne!(outcome, GetOutcome::NotFound, "{context}");
                assert_eq!(outcome == GetOutcome::Data, enough, "{context}");
                if !chooser.next() {
                    break;
                }
            }
        }
    }
}

/// Every set of slots that were replaced by empty ones, and the others in all moods.
#[test]
fn what_was_acknowledged_is_never_absent_while_slots_are_rebuilt() {
    let (mut got, mut unavailable, mut restored) = (0, 0, 0);
    for (scheme, round) in SCHEMES.into_iter().flat_map(|s| (0..6usize).map(move |n| (s, n))) {
        for wiped in 0..256u64 {
            let seed = wiped * 6 + round as u64;
            let mut chooser = Chooser::Seeded(seed);
            let mut world = World::new(&[1; 8]);
            let id = blob(seed, scheme);
            assert_eq!(world.put(id, &mut chooser), PutOutcome::Stored { degraded: false });
            for slot in 0..8 {
                if SlotSet(wiped).contains(slot) {
                    world.wipe(slot);
                } else if chooser.pick(12) < round {
                    world.moods[slot] = MOODS[1 + chooser.pick(3)];
                }
            }
            let reach = world.within_reach().len();
            let context = format!("{id}, seed {seed}, {:?}, {:?}", world.moods, world.parts);
            match world.get(id, &mut chooser) {
                GetOutcome::Data => got += usize::from(reach > 0),
                GetOutcome::NotFound => panic!("{context}: an acknowledged blob is absent"),
                GetOutcome::Unavailable => {
                    assert!(reach < id.scheme().data_parts(), "{context}: {reach} parts are there");
                    unavailable += 1;
                }
            }
            match world.restore_read(id, world.apart(id), &mut chooser) {
                (GetOutcome::Data, Some(PutOutcome::Stored { degraded })) => {
                    assert!(!degraded, "{context}");
                    world.check_acknowledged(id, false, &context);
                    if wiped % 16 == 5 {
                        check_restored(&mut world, id, seed, &context);
                    }
                    restored += 1;
                }
                (GetOutcome::NotFound, _) => panic!("{context}: restored as absent"),
                (GetOutcome::Data, Some(_)) => assert!(round > 0, "{context}: all take parts"),
                _ => assert!(reach < id.scheme().data_parts(), "{context}"),
            }
        }
    }
    assert!(
        [got, unavailable, restored].iter().all(|n| *n > 500),
        "{got} {unavailable} {restored}"
    );
}

/// After a restore-read that succeeded nobody may say that the blob is absent, whatever is lost then.
fn check_restored(world: &mut World, id: BlobId, seed: u64, context: &str) {
    let slots = world.moods.len();
    let before = world.moods.clone();
    for lost in 0..1u64 << slots {
        for mood in [Mood::Down, Mood::Refusing] {
            let lost = SlotSet(lost);
            let mood = |slot| if lost.contains(slot) { mood } else { Mood::Good };
            world.moods = (0..slots).map(mood).collect();
            let mut chooser = Chooser::Seeded(seed + lost.0);
            let context = format!("{context}; then {lost:?} lost; {:?}", world.parts);
            let got = world.get_range(id, 0..id.len(), &mut chooser);
            assert_ne!(got, GetOutcome::NotFound, "{context}");
            let m = id.scheme().parity_parts();
            if world.group.count(world.group.layout(m).unit, lost) <= m {
                assert_eq!(got, GetOutcome::Data, "{context}");
            }
            for spread in [world.apart(id), world.as_possible()] {
                let (parts, moods) = (world.parts.clone(), world.moods.clone());
                let (found, _) = world.restore_read(id, spread, &mut chooser);
                assert_ne!(found, GetOutcome::NotFound, "{context}, restored {spread:?}");
                (world.parts, world.moods) = (parts, moods);
            }
        }
    }
    world.moods = before;
}

#[test]
fn restore_reads_of_small_groups_in_every_order() {
    // (scheme, slots): small enough for every order of answers.
    let (mut restored, mut checked) = (0u64, BTreeSet::new());
    for (scheme, slots) in [("copies(2)", 3u32), ("copies(1)", 2)] {
        let id = blob(3, scheme);
        let (parts, places) = (id.scheme().parts() as u32, slots as usize + 1);
        // Full slots, and several that hang, are left to the seeded test.
        let hung = |moods: usize| (0..slots).filter(|n| moods / 4usize.pow(*n) % 4 == 3).count();
        for moods in (0..4usize.pow(slots)).filter(|moods| hung(*moods) <= 1) {
            // Each part on some slot, or on none: what a put that failed has left.
            for layout in 0..places.pow(parts) {
                let mut chooser = Chooser::Exhaustive { script: Vec::new(), at: 0 };
                loop {
                    let mut world = World::new(&vec![1; slots as usize]);
                    let mood = |slot: u32| MOODS[moods / 4usize.pow(slot) % 4];
                    world.moods = (0..slots).map(mood).collect();
                    for part in 0..parts {
                        let place = layout / places.pow(part) % places;
                        if place < slots as usize {
                            world.parts.insert((place, part as usize));
                        }
                    }
                    let context = format!("{id}, {:?}, {:?}", world.moods, world.parts);
                    let was = world.parts.clone();
                    let out = world.restore_read(id, world.apart(id), &mut chooser);
                    if let (GetOutcome::Data, Some(PutOutcome::Stored { degraded })) = out {
                        assert!(!degraded, "{context}");
                        world.check_apart(id, &context);
                        // What may follow depends on nothing but where parts are now.
                        if checked.insert((slots, world.parts.clone())) {
                            let seeds = 0..20;
                            seeds.for_each(|seed| {
                                check_restored(&mut world, id, 100 * seed, &context)
                            });
                        }
                        restored += 1;
                    }
                    let good = world.in_mood(Mood::Good).len() == slots as usize;
                    let expected =
                        if was.is_empty() { GetOutcome::NotFound } else { GetOutcome::Data };
                    assert!(!good || out.0 == expected, "{context}: {out:?}");
                    if !chooser.next() {
                        break;
                    }
                }
            }
        }
    }
    assert!(restored > 1000, "{restored}");
}

#[test]
fn restore_reads_with_every_set_of_failed_slots() {
    let mut outcomes = [0; 3];
    for (scheme, shape) in [
        ("copies(3)", &[1, 1, 1, 1, 1][..]),
        ("ec(2,1)", &[1, 1, 1, 1]),
        ("copies(2)", &[2, 1, 1]),
        ("ec(4,2)", &[1; 7]),
    ] {
        let slots: usize = shape.iter().sum();
        for mood in [Mood::Down, Mood::Refusing, Mood::Hung, Mood::Full] {
            for lost in 0..1u64 << slots {
                for layout in 0..24u64 {
                    let seed = (lost << 8 | layout) * 5 + mood as u64;
                    let context = format!("{scheme}, {:?} {mood:?}, seed {seed}", SlotSet(lost));
                    let mut chooser = Chooser::Seeded(seed);
                    let mut world = World::new(shape);
                    let id = blob(seed, scheme);
                    if layout % 2 == 0 {
                        // Put whole, on all slots or on those that are left.
                        let half = chooser.pick(2) == 0;
                        SlotSet(lost).iter().filter(|_| half).for_each(|s| world.moods[s] = mood);
                        world.put_spread(id, world.apart(id), &mut chooser);
                    } else {
                        for part in 0..id.scheme().parts() {
                            let (slot, there) = (chooser.pick(slots), chooser.pick(3) > 0);
                            there.then(|| world.parts.insert((slot, part)));
                        }
                    }
                    world.moods = vec![Mood::Good; slots];
                    SlotSet(lost).iter().for_each(|slot| world.moods[slot] = mood);
                    let out = world.restore_read(id, world.apart(id), &mut chooser);
                    match out {
                        (GetOutcome::Data, Some(PutOutcome::Stored { degraded })) => {
                            assert!(!degraded, "{context}");
                            world.check_apart(id, &context);
                            check_restored(&mut world, id, seed, &context);
                            outcomes[0] += 1;
                        }
                        (GetOutcome::NotFound, _) => outcomes[1] += 1,
                        _ => outcomes[2] += 1,
                    }
                }
            }
        }
    }
    assert!(outcomes.iter().all(|n| *n > 100), "all of them happen: {outcomes:?}");
}

#[test]
fn puts_that_are_to_lie_apart_never_double_up() {
    for scheme in SCHEMES {
        for (mood, lost) in [Mood::Down, Mood::Refusing, Mood::Hung, Mood::Full]
            .into_iter()
            .flat_map(|mood| (0..256u64).map(move |lost| (mood, lost)))
        {
            let mut chooser = Chooser::Seeded(lost + 7);
            let mut world = World::new(&[1; 8]);
            SlotSet(lost).iter().for_each(|slot| world.moods[slot] = mood);
            let (id, good) = (blob(lost, scheme), 8 - SlotSet(lost).len());
            let context = format!("{scheme}, {:?} {mood:?}", SlotSet(lost));
            match world.put_spread(id, world.apart(id), &mut chooser) {
                PutOutcome::Stored { degraded } => {
                    assert!(!degraded && good >= id.scheme().parts(), "{context}");
                    world.check_acknowledged(id, false, &context);
                }
                PutOutcome::Full if mood == Mood::Full => {}
                outcome => {
                    assert_eq!(outcome, PutOutcome::Unavailable, "{context}");
                    assert!(good < id.scheme().parts(), "{context}");
                }
            }
        }
    }
}
