//! A map that gets smaller and larger: a disk leaves the group, emptied before or lost, and another comes to it.
//!
//! One machine at most is in no slot. It is off: whoever takes a disk out of the cluster file pulls it, too.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Site;
use crate::ground::Place;
use crate::machine::Machine;
use crate::note;

impl Site {
    /// Can the group do with a machine less, and volumes go on with what is left as they were? Parts move then, also between
    /// the others: none of those may have lied, or what was moved to it would be lost with it.
    pub fn may_leave(&self, machine: usize) -> bool {
        let all = self.ground.in_use();
        let left: Vec<_> = all.iter().filter(|one| one.number != machine).cloned().collect();
        let needed = self.scheme.units();
        let falls =
            |of: fn(&Machine) -> &str| count(&all, of) >= needed && count(&left, of) < needed;
        let enough = left.len() >= needed && !falls(host) && !falls(rack);
        enough && self.spare.is_none() && !self.has_lied()
    }

    /// A disk is in the map no more, and off, and what it held is lost with it if there is anything (`lost`); whoever uses
    /// the group has to be told.
    pub fn take_out(&mut self, machine: &Arc<Machine>, lost: bool) {
        let n = machine.number;
        note!(self.trace, "machine {n}: its disk leaves the map, lost {lost}");
        if lost {
            self.model.leave(n);
        }
        // Whoever asks just now may meet it, and later nobody does.
        self.model.trouble(n, true);
        self.model.trouble(n, false);
        machine.stop(true);
        self.ground.map.places.retain(|place| place.machine != n);
        self.ground.witness.leaves(n);
        self.forget_state(n);
        self.spare = Some(n);
        self.reshape();
    }

    /// The machine that is in no slot, if an empty disk may come to the map with it: not before what it held is restored, or
    /// one machine would have lost two parts of a blob.
    pub fn may_come(&self) -> Option<usize> {
        self.spare.filter(|n| !self.has_lied() && !self.model.lost().contains(n))
    }

    /// An empty disk comes to the map, in the machine that was in no slot; whoever uses the group has to be told.
    pub fn put_in(&mut self, n: usize) {
        note!(self.trace, "machine {n}: an empty disk comes to the map");
        self.model.trouble(n, true);
        let machine = self.ground.machines[n].clone();
        let disk = machine.replace_disk();
        let place = Place { disk, stands_for: disk, machine: n, drains: false };
        self.ground.map.places.push(place);
        self.spare = None;
        self.reshape();
        self.start(&machine);
    }

    fn reshape(&mut self) {
        self.reshaped = true;
        self.model.moved();
        self.ground.map.generation.0 += 1;
    }
}

fn host(machine: &Machine) -> &str {
    &machine.home.0
}

fn rack(machine: &Machine) -> &str {
    &machine.home.1
}

/// How many different ones there are of these.
fn count(machines: &[Arc<Machine>], of: fn(&Machine) -> &str) -> usize {
    machines.iter().map(|machine| of(machine)).collect::<BTreeSet<_>>().len()
}
