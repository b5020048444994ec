//! One run: machines, leaders and faults, step by step; what changes the map is in [`maps`], and what must be true at the end in
//! [`ends`].
//!
//! Of a seed follow the machines, the scheme, what is asked and what goes wrong. No more is harmed for good than the
//! scheme promises to survive, but for one run in eight, where once more disks are emptied than that: then nothing that was
//! stored may be called absent. Away for a time may be as much as chance wants.

mod ends;
mod maps;

use std::sync::Arc;
use std::time::Duration;

use proto::id::{BlobId, GroupId, SessionId};
use proto::scheme::Scheme;
use proxy::repair::HealSettings;
use proxy::{BlobStore, VolumeRules};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::dice::Dice;
use crate::ground::Shape;
use crate::leader::{Books, Leader, VOLUME};
use crate::machine::Machine;
use crate::model::{Fate, Model, content};
use crate::note;
use crate::site::Site;
use crate::trace::Trace;
use crate::wire::Weather;

/// What repair says is believed when it has had so much time since something changed.
const SETTLES: Duration = Duration::from_secs(10);
/// So long is a machine off whose disk rots: others have its parts by then.
const ROTS: Duration = Duration::from_secs(45);
/// Bytes per second of a repair that takes its time.
const SLOWLY: u64 = 20_000;

/// Machines, and the scheme of blobs over them.
const SHAPES: &[Shape] = &[
    Shape { racks: &[&[1; 8]], scheme: "ec(4,2)" },
    Shape { racks: &[&[1; 7]], scheme: "ec(4,2)" },
    Shape { racks: &[&[1; 4]], scheme: "ec(2,1)" },
    Shape { racks: &[&[1; 5]], scheme: "ec(2,2)" },
    Shape { racks: &[&[1; 5]], scheme: "copies(3)" },
    Shape { racks: &[&[1; 6]], scheme: "ec(3,2)" },
    Shape { racks: &[&[2, 2, 2]], scheme: "ec(4,2)" },
    Shape { racks: &[&[2, 2, 2, 2]], scheme: "ec(4,2)" },
    Shape { racks: &[&[2, 2, 2]], scheme: "ec(2,1)" },
    Shape { racks: &[&[1, 1], &[1, 1], &[1, 1]], scheme: "ec(2,1)" },
    Shape { racks: &[&[2], &[2], &[2]], scheme: "ec(4,2)" },
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
    for step in 0..world.steps {
        if world.doom == Some(step) {
            world.lose_too_much().await;
        }
        world.step().await;
    }
    world.calm().await;
    match world.doom {
        None => world.whole_again().await,
        Some(_) => world.as_whole_as_can_be().await,
    }
    world.site.tell();
    let (trace, events) = trace.hash();
    Ended { trace, events }
}

struct World {
    site: Site,
    scheme: Scheme,
    rules: VolumeRules,
    steps: u64,
    /// Before this one more is lost than can be.
    doom: Option<u64>,
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
        let shape = dice.of(SHAPES);
        let scheme: Scheme = shape.scheme.parse().expect("a scheme");
        let min_spare = dice.below(2);
        let steps = 20 + dice.below(40);
        let doom = dice.one_in(8).then(|| dice.below(steps));
        note!(trace, "seed {seed}: {shape:?}, {min_spare} to spare, doom {doom:?}");
        let site = Site::new(seed, dice, trace, &shape, min_spare as usize);
        let rules = site.ground.rules(scheme, min_spare as u8);
        Self {
            site,
            scheme,
            rules,
            steps,
            doom,
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

    /// One who leads nothing yet.
    fn comer(&mut self) -> Arc<Leader> {
        let number = self.leaders.last().map_or(0, |leader| leader.number) + 1;
        Leader::new(number, &self.site.ground, self.rules, self.site.dice.split())
    }

    async fn found(&mut self) {
        let first = self.comer();
        first.live.current().roll_call(Duration::from_secs(5)).await;
        let founded = first.live.current().found().await;
        note!(self.site.trace, "founded: {founded:?}");
        let led = first.take_over(self.site.m).await;
        assert!(led.is_ok(), "nothing is in the way of the first: {led:?}");
        self.heal(&first);
        self.leaders.push(first);
    }

    /// The leader repairs, fast or slowly.
    fn heal(&mut self, leader: &Leader) {
        let slowly = self.site.dice.one_in(3);
        let rate = if slowly { SLOWLY } else { HealSettings::default().rate };
        leader.heal(Arc::new(Books(self.site.model.clone())), rate);
    }

    async fn step(&mut self) {
        match self.site.dice.below(34) {
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
            22 => self.site.harm_host(),
            23 => self.site.set_clock(),
            24 => self.split().await,
            25 => self.rot_away().await,
            26 => self.swap_disks().await,
            27 => self.drain().await,
            28 => {
                let machine = self.site.machine();
                self.site.rot_some(&machine);
            }
            29 => self.scrub().await,
            30 => self.wipe_disk(),
            31 => self.reshape().await,
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
        self.pull_what_is_empty().await;
    }

    /// What was lost is restored, as soon as repair says so of what it has counted since.
    fn look_whether_whole(&mut self) {
        if self.site.scrubbed() {
            self.unsettled = Instant::now();
        }
        if self.rests().is_ok() {
            self.site.restored();
            self.site.model.all_whole();
        }
    }

    /// Has repair nothing more to do?
    fn rests(&self) -> Result<(), String> {
        let rests = self.leader().rests();
        // Who has just begun knows nothing yet, and nobody was told of a disk that was wiped.
        match rests {
            Ok(()) if self.site.is_filling() => {
                Err("a disk that was wiped is not filled".to_owned())
            }
            Ok(()) if self.unsettled.elapsed() <= SETTLES => {
                Err("something has changed".to_owned())
            }
            rests => rests,
        }
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
                0 | 1 if self.blobs < 60 => {
                    let (leader, apart) = (self.somebody(), self.site.dice.one_in(3));
                    self.put(leader, apart);
                }
                _ => self.get(),
            }
        }
    }

    fn put(&mut self, leader: Arc<Leader>, apart: bool) {
        self.blobs += 1;
        let len = match self.site.dice.below(6) {
            0 => 1 + self.site.dice.below(600_000),
            1..=2 => 1 + self.site.dice.below(70_000),
            _ => 1 + self.site.dice.below(5000),
        };
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
        let lied = self.site.has_lied();
        self.asked.spawn(async move {
            let deposed = leader.is_deposed();
            let put = match apart {
                true => leader.live.put_apart(id, content(id)).await,
                false => leader.live.put(id, content(id)).await,
            };
            note!(trace, "{} puts {id}: {put:?}", leader.number);
            match put {
                Ok(_) if deposed && apart && !lied && !model.some_forgot() => {
                    model.broken(format_args!("{id} was stored by a leader that was taken over"))
                }
                // Of disks that may have lied more may be gone at once than it survives.
                Ok(stored) if stored.degraded && model.lost().len() > model.min_spare() => {}
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
        let (machines, lied) = (self.site.ground.machines.len(), self.site.has_lied());
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
                    model.check_read(id, known, &read, &[], lied);
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
                true => (0..machines).collect(),
                false => leader.cut_off(),
            };
            model.check_read(id, known, &read, &others, lied);
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

    /// A disk comes back empty, as itself.
    fn wipe_disk(&mut self) {
        let machine = self.site.machine();
        if self.site.may_lose(machine.number) {
            self.site.wipe_disk(&machine);
            self.unsettled = Instant::now();
        }
    }

    /// More disks are gone for good, at once, than can be.
    async fn lose_too_much(&mut self) {
        let count = self.site.m + 1 + self.site.dice.below(2) as usize;
        let machines = self.site.ground.in_use();
        let first = self.site.dice.below(machines.len() as u64) as usize;
        note!(self.site.trace, "{count} disks are lost");
        for machine in machines.iter().cycle().skip(first).take(count) {
            self.site.lose_disk(machine);
        }
        self.tell_leader().await;
        for _ in 0..4 {
            self.get();
        }
    }

    /// What a disk holds rots while it is off, and others have its parts when it is back.
    async fn rot_away(&mut self) {
        let machine = self.site.machine();
        if self.site.rot_away(&machine) {
            sleep(ROTS).await;
            self.mend(&machine);
            self.unsettled = Instant::now();
        }
    }

    /// Whoever leads has all disks read everything, as far as it reaches them.
    async fn scrub(&mut self) {
        let healer = self.leader().healer.lock().clone();
        let Some(healer) = healer else { return };
        let begun = healer.scrub().await;
        note!(self.site.trace, "scrub: {begun:?}");
        self.site.scrubs();
    }

    async fn change_leader(&mut self) {
        let next = self.comer();
        self.enthrone(next).await;
    }

    /// The site falls apart: whoever leads reaches a few machines only, and somebody who reaches only the others wants
    /// the volume.
    async fn split(&mut self) {
        let (leader, next) = (self.leader(), self.comer());
        let machines = self.site.ground.in_use();
        let count = machines.len() as u64;
        let (first, few) = (self.site.dice.below(count), self.site.m as u64 + 1);
        let (deaf, mute) =
            [(true, false), (false, true), (true, true)][self.site.dice.below(3) as usize];
        let cut = Weather { deaf, mute, ..Weather::default() };
        for n in 0..count {
            let machine = machines[((first + n) % count) as usize].number;
            let whose = if n < few { &next } else { &leader };
            *whose.weather[machine].lock() = cut;
            self.site.model.trouble(machine, true);
        }
        note!(self.site.trace, "split: {few} machines from {first} on are {}'s", leader.number);
        self.enthrone(next).await;
        for _ in 0..3 {
            self.put(leader.clone(), true);
        }
        sleep(Duration::from_millis(self.site.dice.below(20_000))).await;
    }

    async fn enthrone(&mut self, next: Arc<Leader>) -> bool {
        let led = next.take_over(self.site.m).await;
        note!(self.site.trace, "{} takes over: {led:?}", next.number);
        if led.is_err() {
            return false;
        }
        self.leaders.iter().for_each(|leader| leader.depose());
        self.heal(&next);
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
        // What others reach says nothing of what whoever leads can rely on.
        let fine = self.leader().weather[machine.number].lock().is_fine();
        self.site.mend(machine, fine);
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
