//! One run: machines, leaders and faults, step by step, and what must be true at the end.
//!
//! Of a seed follow the number of machines, the scheme, what is asked and what goes wrong. No more is harmed for good
//! than the scheme promises to survive; away for a time may be as much as chance wants. When the steps are over nothing
//! goes wrong any more: then everything must be whole again within [`BOUND`], and be there with any m machines away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use proto::id::{BlobId, GroupId, PartKey, SessionId};
use proto::scheme::Scheme;
use proxy::BlobStore;
use proxy::repair::{Health, Report};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::dice::Dice;
use crate::leader::{Leader, VOLUME};
use crate::machine::Machine;
use crate::model::{Fate, Model, content};
use crate::note;
use crate::site::Site;
use crate::trace::Trace;
use crate::wire::Weather;

/// After the last fault everything is whole again within this time.
const BOUND: Duration = Duration::from_secs(1800);
/// What repair says is believed when it has had so much time since something changed.
const SETTLES: Duration = Duration::from_secs(10);
/// Machines, and the scheme of blobs over them.
const SHAPES: &[(usize, &str)] = &[
    (8, "ec(4,2)"),
    (7, "ec(4,2)"),
    (4, "ec(2,1)"),
    (5, "ec(2,2)"),
    (5, "copies(3)"),
    (6, "ec(3,2)"),
];

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Hash of all that happened.
    pub trace: u64,
    /// How much that was.
    pub events: u64,
}

/// Runs a seed to its end, within a runtime whose time is paused. A broken promise ends the process.
pub async fn run(seed: u64, shown: bool) -> Ended {
    let trace = Trace::new(shown);
    let mut world = World::new(seed, trace.clone());
    world.found().await;
    for _ in 0..world.steps {
        world.step().await;
    }
    world.calm().await;
    world.whole_again().await;
    world.without_any().await;
    for machine in &world.site.machines {
        let (calls, sum) = machine.storage().sum();
        note!(trace, "machine {}: {calls} calls, {sum:08x}", machine.number);
    }
    let (trace, events) = trace.hash();
    Ended { trace, events }
}

struct World {
    site: Site,
    scheme: Scheme,
    steps: u64,
    leaders: Vec<Arc<Leader>>,
    /// What is under way.
    asked: JoinSet<()>,
    /// Blobs so far.
    blobs: u64,
    /// When something was lost last, or somebody else began to repair.
    unsettled: Instant,
}

impl World {
    fn new(seed: u64, trace: Trace) -> Self {
        let mut dice = Dice::new(seed);
        let (count, scheme) = dice.of(SHAPES);
        note!(trace, "seed {seed}: {count} machines, {scheme}");
        let scheme: Scheme = scheme.parse().expect("a scheme");
        let steps = 20 + dice.below(40);
        Self {
            site: Site::new(seed, dice, trace, count, scheme.parity_parts()),
            scheme,
            steps,
            leaders: Vec::new(),
            asked: JoinSet::new(),
            blobs: 0,
            unsettled: Instant::now(),
        }
    }

    /// Who has the volume.
    fn leader(&self) -> Arc<Leader> {
        self.leaders.last().expect("there is one").clone()
    }

    async fn found(&mut self) {
        let first = Leader::new(1, &self.site.machines, &self.site.map, self.site.dice.split());
        first.live.current().roll_call(Duration::from_secs(5)).await;
        let founded = first.live.current().found().await;
        note!(self.site.trace, "founded: {founded:?}");
        let led = first.take_over(self.site.m).await;
        assert!(led.is_ok(), "nothing is in the way of the first: {led:?}");
        first.heal(&self.site.model);
        self.leaders.push(first);
    }

    async fn step(&mut self) {
        match self.site.dice.below(24) {
            0..=8 => self.ask(),
            9..=10 => self.list(),
            11..=12 => self.delete(),
            13 => self.site.harm_power(),
            14 => self.site.harm_speed(),
            15 => {
                let leader = self.somebody();
                self.site.harm_ways(leader.number, &leader.weather);
            }
            16 => self.site.harm_device(),
            17 => self.lose_disk().await,
            18 => self.change_leader().await,
            19..=21 => self.mend_something(),
            _ => self.ask(),
        }
        let pause = match self.site.dice.below(10) {
            0 => self.site.dice.below(40_000),
            1..=3 => self.site.dice.below(3000),
            _ => self.site.dice.below(200),
        };
        sleep(Duration::from_millis(pause)).await;
        while self.asked.try_join_next().is_some() {}
        self.look_whether_whole();
    }

    /// What was lost is restored, as soon as repair says so of what it has counted since.
    fn look_whether_whole(&mut self) {
        if self.rests().is_ok() {
            self.site.model.restored(|machine| !self.site.liars.contains(&machine));
            self.site.model.all_whole();
        }
    }

    /// Has repair nothing more to do?
    fn rests(&self) -> Result<(), Box<Report>> {
        let leader = self.leader();
        let healer = leader.healer.lock().clone().expect("who leads repairs");
        let report = healer.glance();
        let done = report.health == Health::Healthy && report.disks_rebuilding == 0;
        let idle = report.queue == 0 && !report.counting && report.stuck.is_empty();
        // Who has just begun knows nothing yet.
        let knows = report.censuses > 0 && self.unsettled.elapsed() > SETTLES;
        if done && idle && knows { Ok(()) } else { Err(report.into()) }
    }

    /// One of those who lead, or did.
    fn somebody(&mut self) -> Arc<Leader> {
        match self.site.dice.below(4) {
            0 => self.leaders[self.site.dice.below(self.leaders.len() as u64) as usize].clone(),
            _ => self.leader(),
        }
    }

    fn ask(&mut self) {
        for _ in 0..=self.site.dice.below(4) {
            match self.site.dice.below(3) {
                0 | 1 if self.blobs < 60 => self.put(),
                _ => self.get(),
            }
        }
    }

    fn put(&mut self) {
        self.blobs += 1;
        let len = match self.site.dice.below(6) {
            0 => 1 + self.site.dice.below(600_000),
            1..=2 => 1 + self.site.dice.below(70_000),
            _ => 1 + self.site.dice.below(5000),
        };
        let leader = self.somebody();
        let apart = self.site.dice.one_in(3);
        let (session, scheme) = match apart {
            true => {
                let role = SessionId(1 << SessionId::ROLE_SHIFT | leader.number);
                (role, Scheme::copies(self.site.m + 1).expect("copies"))
            }
            false => (leader.session(), self.scheme),
        };
        let id = BlobId::new(VOLUME, session, self.blobs, GroupId(0), len as u32, scheme);
        let id = id.expect("a blob");
        self.site.model.set(id, Fate::Unsure);
        let (model, trace) = (self.site.model.clone(), self.site.trace.clone());
        let lied = !self.site.liars.is_empty();
        self.asked.spawn(async move {
            let deposed = leader.is_deposed();
            let put = match apart {
                true => leader.live.put_apart(id, content(id)).await,
                false => leader.live.put(id, content(id)).await,
            };
            note!(trace, "{} puts {id}: {put:?}", leader.number);
            match put {
                Ok(_) if deposed && apart && !lied => {
                    model.broken(format_args!("{id} was stored by a leader that was taken over"))
                }
                // Of disks that may have lied two may be gone at once, and it survives the loss of one.
                Ok(stored) if stored.degraded && model.lost().len() > 1 => {}
                Ok(stored) => {
                    let degraded = stored.degraded.then(Instant::now);
                    model.set(id, Fate::Stored { degraded });
                }
                Err(_) => {}
            }
        });
    }

    /// Some blob that there may be, or have been.
    fn some_blob(&mut self) -> Option<BlobId> {
        let all = self.site.model.those(|_| true);
        (!all.is_empty()).then(|| self.site.dice.of(&all))
    }

    fn get(&mut self) {
        let Some(id) = self.some_blob() else { return };
        let leader = self.somebody();
        let restores = id.session().is_metadata() && self.site.dice.one_in(2);
        let restores = restores && Arc::ptr_eq(&leader, &self.leader());
        let (start, len) = (self.site.dice.below(id.len().into()), id.len());
        let range = if self.site.dice.one_in(2) { 0..len } else { start as u32..len };
        let (model, trace) = (self.site.model.clone(), self.site.trace.clone());
        self.asked.spawn(async move {
            let known = (model.fate(id), Instant::now());
            if restores {
                let read = leader.live.restore_read(id).await;
                let said = read.as_ref().map(|bytes| bytes.len());
                note!(trace, "{} restores {id}: {said:?}", leader.number);
                if read.is_ok() && model.fate(id) == Some(Fate::Unsure) {
                    model.set(id, Fate::Stored { degraded: None });
                }
                // It needs a place for every part, too: that it fails says little.
                if let Ok(_) | Err(proxy::BlobError::NotFound(_)) = read {
                    model.check_read(id, known, &read, &[]);
                }
                return;
            }
            let read = leader.live.get(id, range.clone()).await;
            let said = read.as_ref().map(|bytes| bytes.len());
            note!(trace, "{} reads {range:?} of {id}: {said:?}", leader.number);
            let whole = content(id);
            let read = read.map(|bytes| match bytes == whole[range.start as usize..] {
                true => whole,
                false => bytes,
            });
            // One that is outdated may have to be told so first.
            let others: Vec<usize> = match leader.is_deposed() {
                true => (0..64).collect(),
                false => leader.cut_off(),
            };
            model.check_read(id, known, &read, &others);
        });
    }

    fn list(&mut self) {
        let leader = self.leader();
        let session = SessionId(1 + self.site.dice.below(self.leaders.len() as u64));
        let (model, trace) = (self.site.model.clone(), self.site.trace.clone());
        self.asked.spawn(async move {
            let of_session = |id: &BlobId| id.session() == session;
            let mut stored = model.those(|fate| matches!(fate, Fate::Stored { .. }));
            let mut deleted = model.those(|fate| fate == Fate::Deleted);
            stored.retain(of_session);
            deleted.retain(of_session);
            if !model.lost().is_empty() {
                deleted.clear();
            }
            let listed = leader.live.list(VOLUME, session, None).await;
            let said = listed.as_ref().map(|listed| listed.blobs.len());
            note!(trace, "{} lists {session}: {said:?}", leader.number);
            if let Ok(listed) = listed {
                model.check_list(&stored, &deleted, &listed.blobs);
            }
        });
    }

    fn delete(&mut self) {
        let leader = self.leader();
        let mut some: Vec<BlobId> = Vec::new();
        for _ in 0..=self.site.dice.below(3) {
            let Some(id) = self.some_blob() else { return };
            // What is being put is not deleted.
            if matches!(self.site.model.fate(id), Some(Fate::Stored { .. } | Fate::Deleting))
                && !some.contains(&id)
            {
                some.push(id);
            }
        }
        let (model, trace) = (self.site.model.clone(), self.site.trace.clone());
        self.asked.spawn(delete_all(leader, model, trace, some));
    }

    /// A disk is gone for good, and an empty one takes its place.
    async fn lose_disk(&mut self) {
        let machine = self.site.machine();
        if self.site.may_lose(machine.number) {
            self.replace_disk(&machine).await;
        }
    }

    async fn replace_disk(&mut self, machine: &Arc<Machine>) {
        self.site.replace_disk(machine);
        self.leader().follow(&self.site.machines, &self.site.map).await;
        self.unsettled = Instant::now();
    }

    async fn change_leader(&mut self) {
        let number = self.leader().number + 1;
        let next = Leader::new(number, &self.site.machines, &self.site.map, self.site.dice.split());
        self.enthrone(next).await;
    }

    async fn enthrone(&mut self, next: Arc<Leader>) -> bool {
        let led = next.take_over(self.site.m).await;
        note!(self.site.trace, "{} takes over: {led:?}", next.number);
        if led.is_err() {
            return false;
        }
        self.leaders.iter().for_each(|leader| leader.depose());
        next.heal(&self.site.model);
        self.leaders.push(next);
        self.unsettled = Instant::now();
        true
    }

    fn mend_something(&mut self) {
        if self.site.dice.one_in(2) {
            let leader = self.leader();
            leader.weather.iter().for_each(|weather| *weather.lock() = Weather::default());
        }
        for _ in 0..1 + self.site.dice.below(3) {
            let machine = self.site.machine();
            self.mend(&machine);
        }
    }

    /// Whatever is wrong with a machine is not any more.
    fn mend(&self, machine: &Arc<Machine>) {
        let fine = |leader: &Arc<Leader>| leader.weather[machine.number].lock().is_fine();
        self.site.mend(machine, self.leaders.iter().all(fine));
    }

    /// Nothing goes wrong any more.
    async fn calm(&mut self) {
        note!(self.site.trace, "calm");
        for leader in &self.leaders {
            leader.weather.iter().for_each(|weather| *weather.lock() = Weather::default());
        }
        for machine in self.site.machines.clone() {
            if self.site.liars.contains(&machine.number) {
                machine.set_hung(false);
                self.replace_disk(&machine).await;
            }
            self.mend(&machine);
            assert!(machine.is_well(), "machine {} is well", machine.number);
        }
        while self.asked.join_next().await.is_some() {}
        // Whoever began to take over without success stands in everybody's way until somebody has it.
        for _ in 0..20 {
            let next = Leader::new(
                self.leader().number + 1,
                &self.site.machines,
                &self.site.map,
                self.site.dice.split(),
            );
            if self.enthrone(next).await {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
        self.site
            .model
            .broken(format_args!("nobody can take the volume over, though all are there"));
    }

    /// All is as it should be, within a bound.
    async fn whole_again(&mut self) {
        let began = Instant::now();
        let leader = self.leader();
        loop {
            let deleting = self.site.model.those(|fate| fate == Fate::Deleting);
            let left = deleting.len();
            let (model, trace) = (self.site.model.clone(), self.site.trace.clone());
            delete_all(leader.clone(), model, trace, deleting).await;
            self.look_whether_whole();
            let (lost, rests) = (self.site.model.lost(), self.rests());
            if rests.is_ok() && left == 0 && lost.is_empty() && !self.site.model.some_degraded() {
                break;
            }
            if began.elapsed() > BOUND {
                self.site.model.broken(format_args!(
                    "not whole again: {left} deletes left, {lost:?} not restored; {rests:?}"
                ));
            }
            sleep(Duration::from_secs(1)).await;
        }
        note!(self.site.trace, "whole again");
        self.check_parts();
    }

    /// Every part of every blob that is stored is there and good, each on a machine of its own; of what was deleted
    /// nothing is.
    fn check_parts(&self) {
        let mut there: BTreeSet<(PartKey, usize)> = BTreeSet::new();
        for machine in &self.site.machines {
            let disk = machine.disk().expect("all run");
            let all = disk.each_part(|slot, key| {
                let good = disk.read_part(slot, key);
                if let Err(why) = good {
                    self.site
                        .model
                        .broken(format_args!("{key} on machine {}: {why}", machine.number));
                }
                if self.site.model.fate(key.blob) == Some(Fate::Deleted) {
                    self.site.model.broken(format_args!(
                        "{key} was deleted, and is on machine {}",
                        machine.number
                    ));
                }
                there.insert((key, machine.number));
                true
            });
            all.expect("a disk tells what it has");
        }
        for id in self.site.model.those(|fate| matches!(fate, Fate::Stored { .. })) {
            let mine = there.iter().filter(|(key, _)| key.blob == id);
            let parts: BTreeSet<_> = mine.clone().map(|(key, _)| key.part.get()).collect();
            let homes: BTreeSet<_> = mine.map(|(_, machine)| *machine).collect();
            let all = id.scheme().parts();
            if parts.len() < all || homes.len() < all {
                self.site
                    .model
                    .broken(format_args!("of {id} there are only parts {parts:?}, on {homes:?}"));
            }
        }
    }

    /// Everything can be read without any m machines.
    async fn without_any(&mut self) {
        let mut away: Vec<usize> = (0..self.site.machines.len()).collect();
        while away.len() > self.site.m {
            let one = self.site.dice.below(away.len() as u64) as usize;
            away.remove(one);
        }
        note!(self.site.trace, "without {away:?}");
        away.iter().for_each(|n| self.site.machines[*n].stop(true));
        let leader = self.leader();
        let reading = self.site.model.those(|_| true).into_iter().map(|id| {
            let (leader, model) = (leader.clone(), self.site.model.clone());
            async move {
                let (known, since) = (model.fate(id), Instant::now());
                let read = leader.live.get(id, 0..id.len()).await;
                if let (Some(Fate::Stored { .. }), Err(why)) = (known, &read) {
                    model.broken(format_args!("{id} cannot be read at the end: {why}"));
                }
                model.check_read(id, (known, since), &read, &[]);
            }
        });
        join_all(reading).await;
    }
}

/// Deletes blobs, and asks again for those that were not confirmed before.
async fn delete_all(leader: Arc<Leader>, model: Arc<Model>, trace: Trace, some: Vec<BlobId>) {
    if some.is_empty() {
        return;
    }
    let deposed = leader.is_deposed();
    some.iter().for_each(|id| model.set(*id, Fate::Deleting));
    let unconfirmed = leader.live.delete(&some).await;
    note!(trace, "{} deletes {some:?}, unconfirmed {unconfirmed:?}", leader.number);
    for id in some.iter().filter(|id| !unconfirmed.contains(id)) {
        if deposed {
            model.broken(format_args!("{id} was deleted by a leader that was taken over"));
        }
        model.set(*id, Fate::Deleted);
    }
}
