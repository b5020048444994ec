//! Machines with disks, and what goes wrong with them.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::id::{ClusterId, Generation};

use crate::dice::Dice;
use crate::leader::Map;
use crate::machine::Machine;
use crate::model::Model;
use crate::note;
use crate::storage::Wrong;
use crate::trace::Trace;
use crate::wire::Weather;

/// Some machines, and the group that they are.
pub struct Site {
    /// All that chance decides.
    pub dice: Dice,
    /// What happens.
    pub trace: Trace,
    /// What must be true.
    pub model: Arc<Model>,
    /// The machines.
    pub machines: Vec<Arc<Machine>>,
    /// The newest map of them.
    pub map: Map,
    /// The machines whose disks have lied, and cannot be trusted until they are replaced.
    pub liars: BTreeSet<usize>,
    /// Losses that everything survives.
    pub m: usize,
}

impl Site {
    /// So many machines, with empty disks, that run.
    ///
    /// # Panics
    /// If a new disk does not start.
    pub fn new(seed: u64, mut dice: Dice, trace: Trace, count: usize, m: usize) -> Self {
        let model = Arc::new(Model::new(seed, trace.clone()));
        let cluster = ClusterId::random();
        let machine = |n| Machine::new(n, cluster, dice.split(), trace.clone());
        let machines: Vec<_> = (0..count).map(machine).collect();
        let disks = machines.iter().map(|machine| (machine.disk_id(), machine.disk_id()));
        let map = Map { generation: Generation(1), disks: disks.collect() };
        machines.iter().for_each(|machine| assert!(machine.start(), "a new disk starts"));
        Self { dice, trace, model, machines, map, liars: BTreeSet::new(), m }
    }

    /// Some machine.
    pub fn machine(&mut self) -> Arc<Machine> {
        self.machines[self.dice.below(self.machines.len() as u64) as usize].clone()
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
        let count = self.machines.len() as u64;
        let ways = if self.dice.one_in(3) { count } else { 1 + self.dice.below(2) };
        let first = self.dice.below(count);
        for n in (0..ways).map(|n| ((first + n) % count) as usize) {
            note!(self.trace, "way of {whose} to machine {n}: {weather:?}");
            *weathers[n].lock() = weather;
            self.model.trouble(n, true);
        }
    }

    /// A device fails or is full, or lies if that may be survived.
    pub fn harm_device(&mut self) {
        let machine = self.machine();
        let n = machine.number;
        let storage = machine.storage();
        let how = self.dice.below(8);
        note!(self.trace, "machine {n}: device, {how}");
        self.model.trouble(n, true);
        match how {
            0 => storage.let_go_wrong(Wrong::Read),
            1 => storage.let_go_wrong(Wrong::Write),
            2 => storage.let_go_wrong(Wrong::Sync),
            3 => storage.set_full(true),
            how if self.may_lose(n) => {
                self.model.lose(n);
                self.liars.insert(n);
                match how {
                    4 => storage.let_go_wrong(Wrong::Lost),
                    5 => storage.let_go_wrong(Wrong::Misdirected),
                    _ => storage.rot(|path| !path.ends_with("index.redb")),
                }
            }
            _ => {}
        }
    }

    /// May what this machine holds be lost, too?
    pub fn may_lose(&self, machine: usize) -> bool {
        let mut lost = self.model.lost();
        lost.insert(machine);
        lost.len() <= if self.model.some_degraded() { 1 } else { self.m }
    }

    /// A disk is gone for good, and an empty one is in its place; whoever uses the group has to be told.
    pub fn replace_disk(&mut self, machine: &Arc<Machine>) {
        let n = machine.number;
        note!(self.trace, "machine {n}: an empty disk");
        self.model.lose(n);
        self.model.trouble(n, true);
        machine.stop(true);
        self.map.disks[n].0 = machine.replace_disk();
        self.map.generation.0 += 1;
        self.liars.remove(&n);
        machine.start();
    }

    /// Whatever is wrong with a machine is not any more. `reached`: all ways to it are good.
    pub fn mend(&self, machine: &Arc<Machine>, reached: bool) {
        machine.storage().is_well();
        machine.set_hung(false);
        machine.set_slowness(1);
        if !machine.is_well() {
            machine.stop(false);
        }
        // The first time may end a crash in the middle of the start before.
        let well = machine.start() || machine.start();
        if well && reached {
            self.model.trouble(machine.number, false);
        }
    }
}
