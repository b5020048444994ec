//! Sees what slots decide, and holds repair to its word: no step of it leaves a blob with less to spare.
//!
//! A step of repair is one mend, which is a task: it asks slots what they hold of a blob, puts parts, and drops copies.
//! When a slot has dropped one, what the mend was told of must have as much to spare as when it had asked; and of a part
//! that read well there must be another copy that does, on whatever machine, unless a disk has lost something in between.
//! What a mend before was told of, and this one is not, as a slot is silent now, counts for nothing: nor does it for repair.
//!
//! What machines hold is what they have said that they hold; of one that starts it is asked anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::id::{BlobId, PartKey, SlotId};
use tokio::task;
use tokio::time::Instant;

use crate::machine::Machine;
use crate::model::{Fate, Model};

/// A mend takes no longer, by far.
const MEND: Duration = Duration::from_secs(30);

/// Who stands by and looks.
pub struct Witness {
    model: Arc<Model>,
    machines: Vec<Arc<Machine>>,
    /// Of each level, from machines on: which of its members each machine is in.
    levels: [Vec<usize>; 3],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Parts of each blob, and the machines that hold them.
    holdings: BTreeMap<BlobId, BTreeSet<Lying>>,
    /// What was asked of a blob, and may be a mend of it, by who asks.
    asked: BTreeMap<(Asker, BlobId), Vec<Round>>,
    /// Somebody wants to be rid of these.
    going: BTreeSet<BlobId>,
}

/// A part, and the machine that holds it.
type Lying = (usize, usize);

/// Who asks: the number of a leader, and the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker {
    leader: u64,
    task: Option<task::Id>,
}

impl Asker {
    /// The task that runs now, in the name of this leader.
    pub fn current(leader: u64) -> Self {
        Self { leader, task: task::try_id() }
    }
}

/// What slots were asked at one moment. A mend asks all at once, and does so again when it has found a part rotten; and a
/// get that it needs asks, too.
struct Round {
    at: Instant,
    /// What slots have told, and have done for who asked since.
    lying: BTreeSet<Lying>,
    /// What the blob had to spare when who asked began to act.
    before: Option<Option<usize>>,
}

/// A copy that is about to be dropped.
pub struct Dropping {
    by: Asker,
    key: PartKey,
    machine: usize,
    was_good: bool,
}

impl Witness {
    /// Of these machines.
    pub fn new(model: Arc<Model>, machines: Vec<Arc<Machine>>) -> Self {
        let name = |machine: &Arc<Machine>, level| match (level, &machine.home) {
            (0, _) => machine.number.to_string(),
            (2, (_, rack)) if !rack.is_empty() => rack.clone(),
            (_, (host, _)) => host.clone(),
        };
        let levels = [0, 1, 2].map(|level| {
            let mut names: Vec<String> = machines.iter().map(|one| name(one, level)).collect();
            let of = names.clone();
            names.sort_unstable();
            names.dedup();
            of.iter().filter_map(|name| names.binary_search(name).ok()).collect()
        });
        Self { model, machines, levels, state: Mutex::default() }
    }

    /// A machine has begun to run: what it holds is what its disk says.
    pub fn starts(&self, machine: usize) {
        let Some(disk) = self.machines[machine].disk() else { return };
        self.leaves(machine);
        let mut state = self.state.lock();
        let all = disk.each_part(|_, key| {
            state.holdings.entry(key.blob).or_default().insert((key.part.get(), machine));
            true
        });
        // What a disk cannot tell it does not hold, for all who ask.
        drop(all);
    }

    /// A machine is in the group no more: nobody finds what it holds.
    pub fn leaves(&self, machine: usize) {
        let mut state = self.state.lock();
        state.holdings.values_mut().for_each(|held| held.retain(|(_, at)| *at != machine));
    }

    /// A machine has put a part.
    pub fn put(&self, machine: usize, key: PartKey) {
        self.state.lock().holdings.entry(key.blob).or_default().insert((key.part.get(), machine));
    }

    /// Some machine is asked to delete blobs.
    pub fn deletes(&self, blobs: &[BlobId]) {
        self.state.lock().going.extend(blobs);
    }

    /// A machine has deleted blobs.
    pub fn deleted(&self, machine: usize, blobs: &[BlobId]) {
        let mut state = self.state.lock();
        for blob in blobs {
            if let Some(held) = state.holdings.get_mut(blob) {
                held.retain(|(_, at)| *at != machine);
            }
        }
    }

    /// Somebody asks what is held of a blob: perhaps to mend it.
    pub fn asks(&self, by: Asker, blob: BlobId) -> Instant {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.asked.retain(|_, rounds| rounds.last().is_some_and(|last| last.at.elapsed() < MEND));
        let rounds = state.asked.entry((by, blob)).or_default();
        if rounds.last().is_none_or(|last| last.at != now) {
            rounds.push(Round { at: now, lying: BTreeSet::new(), before: None });
        }
        now
    }

    /// It is told what it has asked at that moment.
    pub fn tells(
        &self,
        (by, at): (Asker, Instant),
        blob: BlobId,
        parts: impl Iterator<Item = usize>,
        machine: usize,
    ) {
        let mut state = self.state.lock();
        let mut rounds = state.asked.get_mut(&(by, blob)).into_iter().flatten();
        if let Some(round) = rounds.find(|round| round.at == at) {
            round.lying.extend(parts.map(|part| (part, machine)));
        }
    }

    /// It is told that a part has been put.
    pub fn acknowledges(&self, by: Asker, key: PartKey, machine: usize) {
        let mut state = self.state.lock();
        for round in state.asked.get_mut(&(by, key.blob)).into_iter().flatten() {
            round.before.get_or_insert_with(|| self.spare(&round.lying, key.blob));
            round.lying.insert((key.part.get(), machine));
        }
    }

    /// A machine is asked to drop a copy.
    pub fn drops(&self, by: Asker, machine: usize, key: PartKey) -> Dropping {
        Dropping { by, key, machine, was_good: self.is_good(machine, key) }
    }

    /// It has.
    pub fn dropped(&self, dropping: &Dropping) {
        let Dropping { by, key, machine, was_good } = *dropping;
        let (blob, part) = (key.blob, key.part.get());
        let mut state = self.state.lock();
        state.holdings.entry(blob).or_default().remove(&(part, machine));
        // Of metadata the model knows nothing; the others are not acknowledged, or are to go.
        let counts = matches!(self.model.fate(blob), None | Some(Fate::Stored { .. }));
        if !counts || state.going.contains(&blob) || self.something_was_lost() {
            return;
        }
        let held = state.holdings.entry(blob).or_default();
        let others: Vec<usize> =
            held.iter().filter(|(p, _)| *p == part).map(|(_, at)| *at).collect();
        // One that does not run is what it was.
        let has_good = |at: &usize| self.machines[*at].disk().is_none() || self.is_good(*at, key);
        if was_good && !others.iter().any(has_good) {
            self.model.broken(format_args!(
                "{} has dropped {key} on machine {machine}, the last good one: others on {others:?}",
                by.leader
            ));
        }
        let Some(rounds) = state.asked.get_mut(&(by, blob)) else { return };
        let mut less = Vec::new();
        for round in &mut *rounds {
            let before = *round.before.get_or_insert_with(|| self.spare(&round.lying, blob));
            round.lying.remove(&(part, machine));
            let after = self.spare(&round.lying, blob);
            if after < before {
                less.push(format!(
                    "it had {before:?} to spare, and has {after:?}, on {:?}",
                    round.lying
                ));
            }
        }
        // On which of them it acts it alone knows, but not on one that too few parts were found by. Repair counts no copy
        // that it has found rotten.
        let may_be = rounds.iter().filter(|round| round.before != Some(None)).count();
        if was_good && may_be > 0 && less.len() == may_be {
            let why =
                format_args!("{} has dropped {key} on machine {machine}: {less:?}", by.leader);
            self.model.broken(why);
        }
    }

    /// Has a disk lost something within the time of a mend?
    fn something_was_lost(&self) -> bool {
        let lied = |machine: &Arc<Machine>| machine.storage().has_lied(MEND);
        self.model.lost_within(MEND) || self.machines.iter().any(lied)
    }

    fn is_good(&self, machine: usize, key: PartKey) -> bool {
        let Some(disk) = self.machines[machine].disk() else { return false };
        self.machines[machine].storage().undisturbed(|| disk.read_part(SlotId(0), key).is_ok())
    }

    /// How many units, m at most, a blob can lose whose parts lie so, less as many as fewer hosts or racks can be lost
    /// than could be; `None`: it cannot be read as it is.
    fn spare(&self, held: &BTreeSet<Lying>, blob: BlobId) -> Option<usize> {
        let scheme = blob.scheme();
        let (k, m) = (scheme.data_parts(), scheme.parity_parts());
        let size = |level: usize| self.levels[level].iter().max().map_or(0, |last| last + 1);
        let unit = (0..3).rev().find(|level| size(*level) >= scheme.units()).unwrap_or(0);
        let mut fewer = 0;
        for level in unit..3 {
            let could = m / if level == unit { 1 } else { scheme.parts().div_ceil(size(level)) };
            let losses = losses(held, could, k, |at| self.levels[level][at])?;
            fewer = fewer.max(could - losses);
        }
        Some(m - fewer)
    }
}

/// How many of what `of` says that machines are in can be lost, `most` at most, whichever they are.
fn losses(
    held: &BTreeSet<Lying>,
    most: usize,
    enough: usize,
    of: impl Fn(usize) -> usize,
) -> Option<usize> {
    let mut members: BTreeMap<usize, u64> = BTreeMap::new();
    for (part, at) in held {
        *members.entry(of(*at)).or_default() |= 1 << part;
    }
    let members: Vec<u64> = members.into_values().collect();
    (0..=most).take_while(|losses| survives(&members, *losses, enough, 0)).last()
}

/// Are enough parts left without any so many of these, beside those of `kept`?
fn survives(members: &[u64], losses: usize, enough: usize, kept: u64) -> bool {
    let all = members.iter().fold(kept, |all, parts| all | parts);
    match members {
        [first, rest @ ..] if losses > 0 => {
            survives(rest, losses - 1, enough, kept) && survives(rest, losses, enough, kept | first)
        }
        _ if losses > 0 => kept.count_ones() as usize >= enough,
        _ => all.count_ones() as usize >= enough,
    }
}
