//! What changes the map: disks that are replaced, exchanged, emptied and pulled, that leave it and come to it; and when whoever
//! leads hears of that.

use std::time::Duration;

use proto::id::DiskId;
use proxy::BlobStore;
use tokio::time::{Instant, sleep};

use super::{SETTLES, World};
use crate::leader::VOLUME;
use crate::note;

impl World {
    /// The group has changed: whoever leads is told.
    pub(super) async fn tell_leader(&mut self) {
        self.leader().follow(&self.site.ground).await;
        self.unsettled = Instant::now();
    }

    /// The group has changed, which whoever leads hears of at once, or when slots know of it already and refuse what it asks.
    async fn announce(&mut self) {
        if !self.site.dice.one_in(4) {
            return self.tell_leader().await;
        }
        let (onlooker, m) = (self.comer(), self.site.m);
        self.site.model.outdated(true);
        let told = onlooker.live.promised(VOLUME, m).await.is_ok();
        let generation = self.site.ground.map.generation.0;
        note!(self.site.trace, "slots hear of generation {generation} first, most of them {told}");
        sleep(Duration::from_millis(self.site.dice.below(5000))).await;
        self.tell_leader().await;
        self.site.model.outdated(false);
    }

    /// A disk is gone for good, and an empty one takes its place.
    pub(super) async fn lose_disk(&mut self) {
        let machine = self.site.machine();
        if self.site.may_lose(machine.number) {
            self.site.lose_disk(&machine);
            self.announce().await;
        }
    }

    /// Two disks change places; then they are back, or the map is changed.
    pub(super) async fn swap_disks(&mut self) {
        let (a, b) = (self.site.machine(), self.site.machine());
        if a.number == b.number {
            return;
        }
        self.site.swap_disks(&a, &b);
        sleep(Duration::from_millis(self.site.dice.below(20_000))).await;
        if self.site.dice.one_in(2) {
            return self.site.swap_disks(&a, &b);
        }
        self.site.model.moved();
        self.site.move_in_map(a.number, b.number);
        self.announce().await;
    }

    /// A disk is to be emptied, or those that were are not any more.
    pub(super) async fn drain(&mut self) {
        let drained = self.site.ground.map.places.iter().find(|place| place.drains);
        match drained.map(|place| place.machine) {
            Some(machine) => self.site.drain(machine, false),
            None => {
                let machine = self.site.machine().number;
                if !self.site.may_empty(machine) {
                    return;
                }
                self.site.drain(machine, true);
            }
        }
        self.announce().await;
    }

    /// A disk that was to be emptied, and is called empty, is pulled: nothing is lost by that.
    pub(super) async fn pull_what_is_empty(&mut self) {
        let leader = self.leader();
        let Some(healer) = leader.healer.lock().clone() else { return };
        let report = healer.glance();
        let mut drained = self.site.ground.map.places.iter().filter(|place| place.drains);
        let is_empty = |disk: DiskId| {
            let id = disk.to_string();
            report.drains.iter().any(|drain| drain.empty && drain.id == id)
        };
        let Some(place) = drained.find(|place| is_empty(place.disk)) else { return };
        let machine = self.site.ground.machines[place.machine].clone();
        let n = machine.number;
        let settled = self.unsettled.elapsed() > SETTLES && machine.is_well();
        if settled && self.site.dice.one_in(2) {
            note!(self.site.trace, "machine {n}: its disk is empty, and pulled");
            match self.site.may_leave(n) && self.site.dice.one_in(2) {
                true => self.site.take_out(&machine, false),
                false => self.site.replace_disk(&machine),
            }
            self.announce().await;
        }
    }

    /// A disk leaves the map with all it holds, or an empty one comes to it.
    pub(super) async fn reshape(&mut self) {
        let machine = self.site.machine();
        let n = machine.number;
        if let Some(comes) = self.site.may_come() {
            self.site.put_in(comes);
        } else if self.site.may_leave(n) && self.site.may_lose(n) {
            self.site.take_out(&machine, true);
        } else {
            return;
        }
        self.announce().await;
    }
}
