//! What everybody stands on: machines on hosts in racks, which disk is where, and who sees what becomes of it.

use std::sync::Arc;

use proto::id::{DiskId, Generation};
use proto::scheme::Scheme;
use proxy::{Layout, VolumeRules};

use crate::machine::Machine;
use crate::witness::Witness;

/// Machines, and what is stored on them.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Racks of hosts of so many machines (disks with a daemon of their own). One rack: there is no word of racks;
    /// hosts of one machine each: nor of hosts.
    pub racks: &'static [&'static [usize]],
    /// The scheme of blobs over them.
    pub scheme: &'static str,
}

impl Shape {
    /// The host of each machine, and its rack, if there is a word of racks.
    pub fn homes(&self) -> Vec<(String, String)> {
        let mut homes = Vec::new();
        for (rack, hosts) in self.racks.iter().enumerate() {
            let rack = if self.racks.len() > 1 { format!("rack{rack}") } else { String::new() };
            for (host, machines) in hosts.iter().enumerate() {
                let host = format!("host{rack}{host}");
                homes.extend((0..*machines).map(|_| (host.clone(), rack.clone())));
            }
        }
        homes
    }
}

/// A slot of the group.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The disk that should be there.
    pub disk: DiskId,
    /// The one in whose place it is.
    pub stands_for: DiskId,
    /// The machine that it is in.
    pub machine: usize,
    /// It is to be emptied.
    pub drains: bool,
}

/// The group as somebody knows it.
#[derive(Clone, Debug)]
pub struct Map {
    /// Its generation.
    pub generation: Generation,
    /// Its slots.
    pub places: Vec<Place>,
}

/// Machines, the newest map of them, and who sees what they do.
#[derive(Clone)]
pub struct Ground {
    /// The machines.
    pub machines: Vec<Arc<Machine>>,
    /// The group that they are.
    pub map: Map,
    /// Sees what is decided.
    pub witness: Arc<Witness>,
}

impl Ground {
    /// The machines that have a slot by the map.
    pub fn in_use(&self) -> Vec<Arc<Machine>> {
        let has_slot = |machine: &&Arc<Machine>| {
            self.map.places.iter().any(|place| place.machine == machine.number)
        };
        self.machines.iter().filter(has_slot).cloned().collect()
    }

    /// What is in the map of the disk that is in this machine by it.
    ///
    /// # Panics
    /// There is none: the machine has no slot.
    pub fn place_on(&mut self, machine: usize) -> &mut Place {
        let mut places = self.map.places.iter_mut();
        places.find(|place| place.machine == machine).expect("the machine has a slot")
    }

    /// The rules of a volume of this scheme that is made on the map as it is.
    pub fn rules(&self, scheme: Scheme, min_spare: u8) -> VolumeRules {
        VolumeRules::new(self.layout(scheme.parity_parts()), min_spare)
    }

    fn layout(&self, m: usize) -> Layout {
        let sites = self.map.places.iter().map(|place| {
            let (host, rack) = &self.machines[place.machine].home;
            proxy::Site { disk: place.stands_for, host, rack }
        });
        proxy::Group::new(sites).layout(m)
    }
}
