//! Machines with disks, and what goes wrong with them; which of them are in the map is changed in [`reshaping`].

mod reshaping;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use proto::id::{ClusterId, Generation};
use proto::scheme::Scheme;

use crate::ambient;
use crate::dice::Dice;
use crate::ground::{Ground, Map, Place, Shape};
use crate::leader::VOLUME;
use crate::machine::Machine;
use crate::model::Model;
use crate::note;
use crate::storage::Wrong;
use crate::trace::Trace;
use crate::wire::Weather;
use crate::witness::Witness;

/// Seconds by which somebody sets the clock, forwards or back.
const CLOCKS: &[u64] = &[2, 90, 3600, 86_400, 40 * 86_400, 4000 * 86_400];

/// Some machines, and the group that they are.
pub struct Site {
    /// All that chance decides.
    pub dice: Dice,
    /// What happens.
    pub trace: Trace,
    /// What must be true.
    pub model: Arc<Model>,
    /// The machines, and the newest map of them.
    pub ground: Ground,
    /// The machines whose disks have lied, and cannot be trusted until they are replaced.
    pub liars: BTreeSet<usize>,
    /// Those that hold parts which have rotted, until a scrub has read everything and repair has nothing to do.
    pub rotten: BTreeSet<usize>,
    /// Those of them that a scrub reads, in this life, and whether it has.
    scrubbing: BTreeMap<usize, (u64, bool)>,
    /// Those whose disks came back empty under their own ids, until they say that they are filled.
    wiped: BTreeSet<usize>,
    /// The machine that is in no slot, if there is one.
    spare: Option<usize>,
    /// A disk has come to the map, or left it, and perhaps not all that belongs elsewhere by that has moved.
    reshaped: bool,
    scheme: Scheme,
    /// Losses that everything survives.
    pub m: usize,
}

impl Site {
    /// Machines of this shape, with empty disks, that run. What is stored while some are away has `min_spare` to spare.
    ///
    /// # Panics
    /// If a new disk does not start.
    pub fn new(seed: u64, mut dice: Dice, trace: Trace, shape: &Shape, min_spare: usize) -> Self {
        let scheme: Scheme = shape.scheme.parse().expect("a scheme");
        let homes = shape.homes();
        let mut names: Vec<&str> = homes.iter().map(|(host, _)| &host[..]).collect();
        names.dedup();
        let host = |(name, _): &(String, String)| names.iter().position(|host| host == name);
        let hosts: Vec<usize> = homes.iter().filter_map(host).collect();
        let model = Arc::new(Model::new(seed, trace.clone(), min_spare, hosts));
        let cluster = ClusterId::random();
        let machine = |(n, home)| Machine::new(n, home, cluster, dice.split(), trace.clone());
        let machines: Vec<_> = homes.iter().cloned().enumerate().map(machine).collect();
        let place = |machine: &Arc<Machine>| {
            let disk = machine.disk_id();
            Place { disk, stands_for: disk, machine: machine.number, drains: false }
        };
        let map = Map { generation: Generation(1), places: machines.iter().map(place).collect() };
        let witness = Arc::new(Witness::new(model.clone(), machines.clone()));
        machines.iter().for_each(|machine| assert!(machine.start(), "a new disk starts"));
        let ground = Ground { machines, map, witness };
        let [liars, rotten, wiped] = <[BTreeSet<usize>; 3]>::default();
        Self {
            dice,
            trace,
            model,
            ground,
            liars,
            rotten,
            scrubbing: BTreeMap::new(),
            wiped,
            spare: None,
            reshaped: false,
            scheme,
            m: scheme.parity_parts(),
        }
    }

    /// What they say of themselves at the end.
    pub fn tell(&self) {
        for machine in &self.ground.machines {
            let (calls, sum) = machine.storage().sum();
            note!(self.trace, "machine {}: {calls} calls, {sum:08x}", machine.number);
        }
    }

    /// Some machine that has a slot.
    pub fn machine(&mut self) -> Arc<Machine> {
        let all = self.ground.in_use();
        all[self.dice.below(all.len() as u64) as usize].clone()
    }

    /// A machine loses its power, now or in the middle of something, or its program is killed.
    pub fn harm_power(&mut self) {
        let machine = self.machine();
        let (n, how) = (machine.number, self.dice.below(4));
        note!(self.trace, "machine {n}: power, {how}");
        self.model.trouble(n, true);
        match how {
            0 => machine.stop(false),
            1 => machine.stop(true),
            _ => machine.storage().crash_after(self.dice.below(30)),
        }
    }

    /// All machines of a host lose their power, or their programs are killed.
    pub fn harm_host(&mut self) {
        let (host, _) = &self.machine().home;
        note!(self.trace, "power of {host}");
        let crash = self.dice.one_in(2);
        for machine in self.ground.in_use().iter().filter(|machine| machine.home.0 == *host) {
            self.model.trouble(machine.number, true);
            machine.stop(crash);
        }
    }

    /// Somebody sets the clock on the wall, which all look at.
    pub fn set_clock(&mut self) {
        let by = self.dice.of(CLOCKS) as i64;
        let by = if self.dice.one_in(2) { by } else { -by };
        note!(self.trace, "the clock is set by {by} s");
        ambient::set_clock(by);
    }

    /// A machine hangs, or is slow.
    pub fn harm_speed(&mut self) {
        let machine = self.machine();
        note!(self.trace, "machine {}: speed", machine.number);
        self.model.trouble(machine.number, true);
        match self.dice.below(2) {
            0 => machine.set_hung(true),
            _ => machine.set_slowness(self.dice.of(&[10, 100, 1000])),
        }
    }

    /// Some ways of somebody to the machines are bad.
    pub fn harm_ways(&mut self, whose: u64, weathers: &[Arc<Mutex<Weather>>]) {
        let rare = |dice: &mut Dice| if dice.one_in(2) { 0 } else { 3 + dice.below(20) };
        let weather = Weather {
            deaf: self.dice.one_in(4),
            mute: self.dice.one_in(4),
            loses: rare(&mut self.dice),
            doubles: rare(&mut self.dice),
            stalls: rare(&mut self.dice),
        };
        let count = self.ground.machines.len() as u64;
        let ways = if self.dice.one_in(3) { count } else { 1 + self.dice.below(2) };
        let first = self.dice.below(count);
        for n in (0..ways).map(|n| ((first + n) % count) as usize) {
            note!(self.trace, "way of {whose} to machine {n}: {weather:?}");
            *weathers[n].lock() = weather;
            if self.spare != Some(n) {
                self.model.trouble(n, true);
            }
        }
    }

    /// A device fails or is full, or lies if that may be survived.
    pub fn harm_device(&mut self) {
        let machine = self.machine();
        let n = machine.number;
        let storage = machine.storage();
        let how = self.dice.below(10);
        note!(self.trace, "machine {n}: device, {how}");
        self.model.trouble(n, true);
        match how {
            0 => storage.let_go_wrong(Wrong::Read),
            1 => storage.let_go_wrong(Wrong::Write),
            2 => storage.let_go_wrong(Wrong::Sync),
            3 => storage.let_go_wrong(Wrong::NoRoom),
            // Now, or in the middle of something; somebody makes room when it is mended.
            4 => storage.full_after(0),
            5 => storage.full_after(self.dice.below(12)),
            how if self.may_lie(n) => {
                self.model.lose(n);
                self.liars.insert(n);
                match how {
                    6 => storage.let_go_wrong(Wrong::Lost),
                    7 => storage.let_go_wrong(Wrong::Misdirected),
                    _ => storage.rot(|path| !path.ends_with("index.redb")),
                }
            }
            _ => {}
        }
    }

    /// May what this machine holds be lost, too? Not twice while parts move between all disks, as they do when the map is
    /// another: of some blobs it would be two parts.
    pub fn may_lose(&self, machine: usize) -> bool {
        if self.reshaped && self.model.lost().contains(&machine) {
            return false;
        }
        let mut lost = self.model.at_stake();
        lost.insert(machine);
        lost.len() <= if self.model.some_degraded() { self.model.min_spare() } else { self.m }
    }

    /// May this machine lie, and be trusted no more until it is replaced? What moves to it meanwhile is lost with it.
    fn may_lie(&self, machine: usize) -> bool {
        !self.reshaped && self.may_lose(machine)
    }

    /// May a machine be emptied? What goes to a disk that has lied will be lost with it: a blob that has lost a part there
    /// loses another then.
    pub fn may_empty(&self, machine: usize) -> bool {
        !self.has_lied() || self.may_lose(machine)
    }

    /// Is there a disk that has lied, or has rotted?
    pub fn has_lied(&self) -> bool {
        !self.liars.is_empty() || !self.rotten.is_empty()
    }

    /// Parts on a disk in use rot, if they may be lost. Nobody is told: a scrub has to find it.
    pub fn rot_some(&mut self, machine: &Machine) {
        let n = machine.number;
        if !self.may_lie(n) {
            return;
        }
        note!(self.trace, "machine {n}: parts rot");
        self.model.trouble(n, true);
        self.model.lose(n);
        self.rotten.insert(n);
        self.scrubbing.remove(&n);
        for _ in 0..=self.dice.below(4) {
            machine.storage().rot_part(|path| !path.ends_with("index.redb"));
        }
    }

    /// Those that rot and were asked for a scrub begin one.
    pub fn scrubs(&mut self) {
        for n in &self.rotten {
            let machine = &self.ground.machines[*n];
            if machine.is_to_scrub() {
                self.scrubbing.insert(*n, (machine.life(), false));
            }
        }
    }

    /// Are there some that rot and have not begun one?
    pub fn are_unscrubbed(&self) -> bool {
        self.rotten.iter().any(|n| !self.scrubbing.contains_key(n))
    }

    /// Has a scrub of one of those come to its end since this was asked last? What it has found is forgotten when the
    /// machine stops.
    pub fn scrubbed(&mut self) -> bool {
        let machines = &self.ground.machines;
        self.scrubbing.retain(|n, (life, _)| machines[*n].life() == *life);
        let mut any = false;
        for (n, (_, ended)) in &mut self.scrubbing {
            if !*ended && !machines[*n].is_to_scrub() {
                note!(self.trace, "machine {n}: scrubbed");
                (*ended, any) = (true, true);
            }
        }
        any
    }

    /// Repair has nothing to do: what was lost is restored, and what was to go to others has.
    pub fn restored(&mut self) {
        self.scrubbing.retain(|n, (_, ended)| {
            if *ended {
                self.rotten.remove(n);
            }
            !*ended
        });
        self.wiped.clear();
        self.reshaped = false;
        let known = |machine| !self.liars.contains(&machine) && !self.rotten.contains(&machine);
        self.model.restored(known);
        if !self.has_lied() {
            let places = self.ground.map.places.iter();
            let still = places.filter(|place| place.drains).map(|place| place.machine);
            self.model.settled(still.collect());
        }
    }

    /// A machine is off, and what its disk holds rots, if that may be lost. True: it does.
    pub fn rot_away(&mut self, machine: &Arc<Machine>) -> bool {
        let n = machine.number;
        if !self.may_lie(n) {
            return false;
        }
        note!(self.trace, "machine {n}: off, and rots");
        self.model.trouble(n, true);
        self.model.lose(n);
        self.liars.insert(n);
        machine.stop(true);
        machine.storage().rot_much(3, |path| !path.ends_with("index.redb"));
        true
    }

    /// A disk comes back with nothing on it, under its own id: nobody is told, and whoever looks how it stands finds out.
    /// It has forgotten whom the volume is promised to as well, until somebody tells it.
    pub fn wipe_disk(&mut self, machine: &Arc<Machine>) {
        let n = machine.number;
        note!(self.trace, "machine {n}: its disk is wiped");
        self.model.trouble(n, true);
        self.model.forget(n);
        machine.stop(self.dice.one_in(2));
        machine.wipe_disk();
        self.forget_state(n);
        self.wiped.insert(n);
        self.start(machine);
    }

    /// Is there a disk that was wiped, and does not say yet that it has all it should?
    pub fn is_filling(&self) -> bool {
        let generation = self.ground.map.generation;
        let is_filled = |n: &usize| self.ground.machines[*n].is_filled(generation, VOLUME);
        !self.wiped.iter().all(is_filled)
    }

    /// A disk is gone for good, and an empty one is in its place; whoever uses the group has to be told.
    pub fn lose_disk(&mut self, machine: &Arc<Machine>) {
        self.model.lose(machine.number);
        self.replace_disk(machine);
    }

    /// An empty disk is in the place of one; whoever uses the group has to be told.
    pub fn replace_disk(&mut self, machine: &Arc<Machine>) {
        let n = machine.number;
        note!(self.trace, "machine {n}: an empty disk");
        self.model.trouble(n, true);
        machine.stop(true);
        let disk = machine.replace_disk();
        let place = self.ground.place_on(n);
        (place.disk, place.drains) = (disk, false);
        self.ground.map.generation.0 += 1;
        self.forget_state(n);
        self.start(machine);
    }

    /// What was wrong with the disk of this machine went with it.
    fn forget_state(&mut self, machine: usize) {
        for those in [&mut self.liars, &mut self.rotten, &mut self.wiped] {
            those.remove(&machine);
        }
        self.scrubbing.remove(&machine);
    }

    /// A disk is to be emptied, or is not any more; whoever uses the group has to be told.
    pub fn drain(&mut self, machine: usize, drains: bool) {
        note!(self.trace, "machine {machine}: drains {drains}");
        if drains {
            self.model.empty(machine);
        }
        self.ground.place_on(machine).drains = drains;
        self.ground.map.generation.0 += 1;
    }

    /// The disks of two machines are exchanged, which the map does not know.
    pub fn swap_disks(&mut self, a: &Arc<Machine>, b: &Arc<Machine>) {
        let (m, n) = (a.number, b.number);
        note!(self.trace, "the disks of machines {m} and {n} change places");
        for machine in [a, b] {
            self.model.trouble(machine.number, true);
            machine.stop(self.dice.one_in(2));
        }
        a.exchange_disks(b);
        self.model.exchanged(m, n);
        for those in [&mut self.liars, &mut self.rotten, &mut self.wiped] {
            let (had_m, had_n) = (those.remove(&m), those.remove(&n));
            let have = [(n, had_m), (m, had_n)].into_iter().filter(|(_, had)| *had);
            those.extend(have.map(|(machine, _)| machine));
        }
        self.start(a);
        self.start(b);
    }

    /// The map has it that the disks of two machines are exchanged; whoever uses the group has to be told.
    pub fn move_in_map(&mut self, m: usize, n: usize) {
        note!(self.trace, "the map moves the disks of machines {m} and {n}");
        for place in &mut self.ground.map.places {
            place.machine = match place.machine {
                at if at == m => n,
                at if at == n => m,
                at => at,
            };
        }
        self.ground.map.generation.0 += 1;
    }

    fn start(&self, machine: &Arc<Machine>) -> bool {
        // The first time may end a crash in the middle of the start before.
        let runs = machine.start() || machine.start();
        self.ground.witness.starts(machine.number);
        runs
    }

    /// Whatever is wrong with a machine is not any more. `reached`: all ways to it are good.
    pub fn mend(&self, machine: &Arc<Machine>, reached: bool) {
        machine.put_right();
        if !machine.is_well() {
            machine.stop(false);
        }
        let well = self.start(machine);
        if well && reached {
            self.model.trouble(machine.number, false);
        }
    }
}
