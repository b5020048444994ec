//! What must be true of every blob, whatever happens: the model that each answer is held against.
//!
//! | a blob that | may be found | may be called absent | must be readable |
//! |---|---|---|---|
//! | was put, or read by restore-read, with success | with its own bytes | never, but for disks that lie | while its spare losses last |
//! | is being put, or whose put failed | with its own bytes | yes | no |
//! | is being deleted | with its own bytes | yes | no |
//! | was deleted with success | never | yes | never |

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::id::BlobId;
use proxy::BlobError;
use tokio::time::Instant;

use crate::dice::Dice;
use crate::note;
use crate::trace::Trace;

/// So long after a machine was in trouble it is not relied on: whoever asks may not have noticed yet that it is back.
const SETTLES: std::time::Duration = std::time::Duration::from_secs(20);

/// What is known of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its put is on its way, or has failed.
    Unsure,
    /// It was acknowledged, or restored.
    Stored {
        /// Since then its parts share fail domains, and it has no more to spare than the volume asks for.
        degraded: Option<Instant>,
    },
    /// Its delete is on its way, or was not confirmed.
    Deleting,
    /// Its delete was confirmed.
    Deleted,
}

/// All blobs, and the machines as far as they matter for them.
pub struct Model {
    seed: u64,
    trace: Trace,
    /// Losses that a blob survives which was put while machines were away.
    min_spare: usize,
    /// The number of each machine's host.
    hosts: Vec<usize>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<BlobId, Fate>,
    /// Machines that are in trouble, or were: until when; `None`: still.
    trouble: BTreeMap<usize, Option<Instant>>,
    /// Machines of which what they held is lost, or cannot be trusted, and not restored yet.
    lost: BTreeSet<usize>,
    /// When that happened last.
    lost_at: Option<Instant>,
    /// Those of them that may have forgotten whom they are promised to.
    forgetful: BTreeSet<usize>,
    /// Those of them that have left the map with what they held: nobody knows any more what they might have had.
    left: BTreeSet<usize>,
    /// Whoever leads knows an older map than slots do; and when that was so last.
    outdated: bool,
    outdated_until: Option<Instant>,
    /// Machines that are emptied, or were since all was restored last.
    emptied: BTreeSet<usize>,
    /// Disks are on other hosts than parts were put for.
    moved: bool,
    /// What cannot be restored was given up: it may be called absent.
    given_up: bool,
}

/// Bytes of a blob: they follow from its id.
pub fn content(id: BlobId) -> Bytes {
    let mut dice = Dice::new(id.sequence() << 32 | u64::from(id.len()));
    let mut bytes = Vec::with_capacity(id.len() as usize + 8);
    while bytes.len() < id.len() as usize {
        bytes.extend(dice.below(u64::MAX).to_le_bytes());
    }
    bytes.truncate(id.len() as usize);
    bytes.into()
}

impl Model {
    /// Of a run that has begun, of a volume that asks for so much to spare, on machines on hosts of these numbers.
    pub fn new(seed: u64, trace: Trace, min_spare: usize, hosts: Vec<usize>) -> Self {
        Self { seed, trace, min_spare, hosts, state: Mutex::default() }
    }

    /// Losses that a blob survives which was put while machines were away.
    pub fn min_spare(&self) -> usize {
        self.min_spare
    }

    /// A promise is broken: the run ends here.
    pub fn broken(&self, why: std::fmt::Arguments<'_>) -> ! {
        note!(self.trace, "BROKEN: {why}");
        println!("seed {}: {why}", self.seed);
        std::process::exit(1)
    }

    /// What is known of the blob.
    pub fn fate(&self, id: BlobId) -> Option<Fate> {
        self.state.lock().blobs.get(&id).copied()
    }

    /// This is known of it from now on.
    pub fn set(&self, id: BlobId, fate: Fate) {
        self.state.lock().blobs.insert(id, fate);
    }

    /// Those of which this holds.
    pub fn those(&self, are: impl Fn(Fate) -> bool) -> Vec<BlobId> {
        let state = self.state.lock();
        state.blobs.iter().filter(|(_, fate)| are(**fate)).map(|(id, _)| *id).collect()
    }

    /// Does some blob that must be readable have less to spare than its scheme promises?
    pub fn some_degraded(&self) -> bool {
        let degraded = |fate: &Fate| matches!(fate, Fate::Stored { degraded: Some(_) });
        self.state.lock().blobs.values().any(degraded)
    }

    /// Repair has nothing to do: blobs that were put a while ago have all their parts where they belong.
    pub fn all_whole(&self) {
        let mut state = self.state.lock();
        state.moved = false;
        for fate in state.blobs.values_mut() {
            if let Fate::Stored { degraded } = fate {
                *degraded = degraded.filter(|since| since.elapsed() < SETTLES);
            }
        }
    }

    /// A machine is in trouble, or is so no more.
    pub fn trouble(&self, machine: usize, troubled: bool) {
        let until = (!troubled).then(Instant::now);
        let mut state = self.state.lock();
        if troubled || state.trouble.contains_key(&machine) {
            state.trouble.insert(machine, until);
        }
    }

    /// What the machine held is lost.
    pub fn lose(&self, machine: usize) {
        let mut state = self.state.lock();
        state.lost.insert(machine);
        state.lost_at = Some(Instant::now());
    }

    /// What the machine held is lost, and with it whom it was promised to.
    pub fn forget(&self, machine: usize) {
        self.lose(machine);
        self.state.lock().forgetful.insert(machine);
    }

    /// What the machine held is lost, and nothing is in its place by the map: whoever says so answers for that
    /// (`storaged disk lost`).
    pub fn leave(&self, machine: usize) {
        self.lose(machine);
        self.state.lock().left.insert(machine);
    }

    /// Whoever leads knows an older map than slots do, which refuse what it asks; or does so no more.
    pub fn outdated(&self, outdated: bool) {
        let mut state = self.state.lock();
        (state.outdated, state.outdated_until) = (outdated, Some(Instant::now()));
    }

    /// Has some machine forgotten whom it is promised to, as far as is known? Together with those that never heard of it,
    /// as they were away then, there may be more of such than anybody promises anything of.
    pub fn some_forgot(&self) -> bool {
        !self.state.lock().forgetful.is_empty()
    }

    /// Was something lost within this time?
    pub fn lost_within(&self, time: std::time::Duration) -> bool {
        self.state.lock().lost_at.is_some_and(|at| at.elapsed() < time)
    }

    /// The disks of two machines were exchanged.
    pub fn exchanged(&self, a: usize, b: usize) {
        let mut state = self.state.lock();
        let State { lost, emptied, forgetful, .. } = &mut *state;
        for those in [lost, emptied, forgetful] {
            let (had_a, had_b) = (those.remove(&a), those.remove(&b));
            let have = [(b, had_a), (a, had_b)].into_iter().filter(|(_, had)| *had);
            those.extend(have.map(|(machine, _)| machine));
        }
    }

    /// What the machine holds is to go to others.
    pub fn empty(&self, machine: usize) {
        self.state.lock().emptied.insert(machine);
    }

    /// All that was to go to others is there, but for what these hold.
    pub fn settled(&self, still: BTreeSet<usize>) {
        self.state.lock().emptied = still;
    }

    /// The machines of which what they held may be lost if those are lost, once more perhaps, that are lost already: their
    /// parts, too, may have gone there, to an empty disk or to one that has lied and will be replaced.
    pub fn at_stake(&self) -> BTreeSet<usize> {
        let state = self.state.lock();
        state.lost.union(&state.emptied).copied().collect()
    }

    /// Some disk is on another host.
    pub fn moved(&self) {
        self.state.lock().moved = true;
    }

    /// What cannot be restored is done without.
    pub fn give_up(&self) {
        self.state.lock().given_up = true;
    }

    /// All is restored of those for which this holds.
    pub fn restored(&self, these: impl Fn(usize) -> bool) {
        let mut state = self.state.lock();
        let State { lost, forgetful, left, .. } = &mut *state;
        lost.retain(|machine| !these(*machine));
        forgetful.retain(|machine| lost.contains(machine));
        left.retain(|machine| lost.contains(machine));
    }

    /// The machines of which that has not happened.
    pub fn lost(&self) -> BTreeSet<usize> {
        self.state.lock().lost.clone()
    }

    /// Machines that cannot be relied on by who has asked at `since`; `others` neither.
    pub fn unreliable(&self, since: Instant, others: &[usize]) -> BTreeSet<usize> {
        let state = self.state.lock();
        let troubled = |until: &Option<Instant>| until.is_none_or(|until| until + SETTLES > since);
        let away = state.trouble.iter().filter(|(_, until)| troubled(until)).map(|(n, _)| *n);
        let mut all: BTreeSet<usize> = state.lost.clone();
        all.extend(away);
        all.extend(others);
        if state.outdated || state.outdated_until.is_some_and(|until| until + SETTLES > since) {
            all.extend(0..self.hosts.len());
        }
        all
    }

    /// Was something given up, and has something left the map with what it held that is not restored?
    fn gone(&self) -> (bool, bool) {
        let state = self.state.lock();
        (state.given_up, !state.left.is_empty())
    }

    /// Must a blob be readable without these machines?
    fn survives(&self, id: BlobId, degraded: bool, without: &BTreeSet<usize>) -> bool {
        let m = id.scheme().parity_parts();
        if degraded {
            return without.len() <= self.min_spare.min(m);
        }
        let hosts: BTreeSet<usize> = without.iter().map(|machine| self.hosts[*machine]).collect();
        let share =
            id.scheme().parts().div_ceil(self.hosts.iter().max().map_or(1, |last| last + 1));
        without.len() <= m || hosts.len() == 1 && share <= m && !self.state.lock().moved
    }

    /// A get that was asked at `since`, when this was known of the blob, has answered. It could not rely on `others`,
    /// either. `lied`: there was a disk that has lied. One that has lost its last writes, as by rot of where its log ends,
    /// takes that for a write that was torn, and is sure that it never had what it had. Of a blob that could not be read
    /// any more as it is, that may make an absence certain which is none; so may a disk that has left the map with what it
    /// held, of which somebody has said that it is lost.
    pub fn check_read(
        &self,
        id: BlobId,
        (known, since): (Option<Fate>, Instant),
        answer: &Result<Bytes, BlobError>,
        others: &[usize],
        lied: bool,
    ) {
        let now = self.fate(id);
        match answer {
            Ok(bytes) if *bytes != content(id) => self.broken(format_args!("{id} has other bytes")),
            Ok(_) if known == Some(Fate::Deleted) => {
                self.broken(format_args!("{id} was deleted, and is there again"))
            }
            Ok(_) => {}
            Err(why) => {
                let (Some(Fate::Stored { degraded }), Some(Fate::Stored { .. })) = (known, now)
                else {
                    return;
                };
                let (given_up, left) = self.gone();
                let without = self.unreliable(since, others);
                let survives = self.survives(id, degraded.is_some(), &without);
                let unsure = lied || left;
                if matches!(why, BlobError::NotFound(_)) && !given_up && (survives || !unsure) {
                    self.broken(format_args!("{id} was stored, and is called absent"));
                }
                if survives {
                    self.broken(format_args!(
                        "{id} was stored, {without:?} are away or lost, and it cannot be read: {why}"
                    ));
                }
            }
        }
    }

    /// A listing that was asked for when these were stored, and these deleted, holds these. A disk that has lied, of
    /// which it is not restored what it lost, may have lost a delete: then what it shows is for repair to take away.
    pub fn check_list(&self, stored: &[BlobId], deleted: &[BlobId], listed: &[BlobId]) {
        let (_, left) = self.gone();
        for id in stored {
            let still = matches!(self.fate(*id), Some(Fate::Stored { .. })) && !left;
            if still && !listed.contains(id) {
                self.broken(format_args!("{id} was stored, and is not listed"));
            }
        }
        if self.lost().is_empty()
            && let Some(id) = deleted.iter().find(|id| listed.contains(id))
        {
            self.broken(format_args!("{id} was deleted, and is listed"));
        }
    }
}
