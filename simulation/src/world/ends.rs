//! How a run ends: nothing goes wrong any more, and then everything must be whole again within [`BOUND`], and be there
//! with any m machines away, or any host. Where more was lost than can be, that holds of what is left.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use proto::id::{BlobId, PartKey};
use proxy::BlobStore;
use tokio::time::{Instant, sleep};

use super::{World, delete_all};
use crate::model::Fate;
use crate::note;
use crate::wire::Weather;

/// After the last fault everything is whole again within this time.
const BOUND: Duration = Duration::from_secs(1800);

impl World {
    /// Nothing goes wrong any more.
    pub(super) async fn calm(&mut self) {
        note!(self.site.trace, "calm");
        for leader in &self.leaders {
            leader.weather.iter().for_each(|weather| *weather.lock() = Weather::default());
        }
        for machine in self.site.ground.in_use() {
            if self.site.ground.place_on(machine.number).drains {
                self.site.drain(machine.number, false);
            }
            // Of a blob that is lost as it is nobody mends what rots.
            let rots = self.doom.is_some() && self.site.rotten.contains(&machine.number);
            if rots || self.site.liars.contains(&machine.number) {
                machine.set_hung(false);
                self.site.lose_disk(&machine);
            }
            self.tell_leader().await;
            self.mend(&machine);
            assert!(machine.is_well(), "machine {} is well", machine.number);
        }
        // One that is in no slot may come to the map yet.
        self.site.ground.machines.iter().for_each(|machine| machine.put_right());
        while self.asked.join_next().await.is_some() {}
        // Whoever began to take over without success stands in everybody's way until somebody has it.
        for attempt in 0..40 {
            let next = self.comer();
            if self.enthrone(next).await {
                return;
            }
            if attempt == 20 {
                self.accept_loss().await;
            }
            sleep(Duration::from_secs(1)).await;
        }
        let why = format_args!("nobody can take the volume over, though all are there");
        self.site.model.broken(why);
    }

    /// More was lost than can be, and with it perhaps who has the volume: somebody decides to go on all the same.
    async fn accept_loss(&mut self) {
        if self.doom.is_none() {
            return;
        }
        let lost = self.site.model.lost();
        let places = self.site.ground.map.places.iter();
        let disks: Vec<_> =
            places.filter(|place| lost.contains(&place.machine)).map(|place| place.disk).collect();
        self.site.model.give_up();
        let given_up = self.leader().live.current().give_up(&disks).await;
        note!(self.site.trace, "given up {lost:?}: {given_up:?}");
    }

    /// All is as it should be, within a bound; and once more when a disk has lost all it had, or the map is another, and
    /// nothing else happens: nobody else begins to lead, and to count.
    pub(super) async fn whole_again(&mut self) {
        self.until_whole().await;
        match self.site.dice.below(4) {
            0 => self.wipe_disk(),
            1 => self.reshape().await,
            _ => {}
        }
        self.until_whole().await;
        let there = self.parts_there();
        for id in self.site.model.those(|fate| matches!(fate, Fate::Stored { .. })) {
            if let Err(why) = is_whole(id, &there) {
                self.site.model.broken(format_args!("{why}"));
            }
        }
        self.without_some().await;
    }

    async fn until_whole(&mut self) {
        let began = Instant::now();
        let leader = self.leader();
        loop {
            // What rots is found by a scrub, though nobody reads it.
            if self.site.are_unscrubbed() {
                self.scrub().await;
            }
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
    }

    /// Of more than can be lost, what is left is as it should be within a bound; the rest is called lost, and absent never.
    pub(super) async fn as_whole_as_can_be(&mut self) {
        let (began, leader) = (Instant::now(), self.leader());
        loop {
            sleep(Duration::from_secs(1)).await;
            let there = self.parts_there();
            let stored = self.site.model.those(|fate| matches!(fate, Fate::Stored { .. }));
            let (left, lost): (Vec<BlobId>, Vec<BlobId>) = stored
                .into_iter()
                .partition(|id| parts_of(*id, &there) >= id.scheme().data_parts());
            let wrong = left.iter().find_map(|id| is_whole(*id, &there).err());
            let report = leader.healer.lock().clone().expect("who leads repairs").glance();
            let counted = report.counts.lost + report.counts.unavailable == lost.len() as u64;
            if wrong.is_none() && counted && report.censuses > 0 {
                note!(self.site.trace, "{} are left, {} are lost", left.len(), lost.len());
                break;
            }
            if began.elapsed() > BOUND {
                self.site.model.broken(format_args!(
                    "not as whole as can be: {wrong:?}, lost {lost:?}: {report:?}"
                ));
            }
        }
        self.read_all(false).await;
    }

    /// Every part that there is, with the machine that has it. All are good that anybody may want; of what was deleted there is none.
    fn parts_there(&self) -> BTreeSet<(PartKey, usize)> {
        let mut there = BTreeSet::new();
        let given_up = !self.site.model.lost().is_empty();
        for machine in &self.site.ground.in_use() {
            let disk = machine.disk().expect("all run");
            let all = disk.each_part(|slot, key| {
                let (model, n) = (&self.site.model, machine.number);
                let fate = model.fate(key.blob);
                // What is left of a put that failed is swept by who has the metadata, rotten or not.
                if let (Err(why), true) = (disk.read_part(slot, key), fate != Some(Fate::Unsure)) {
                    model.broken(format_args!("{key} on machine {n}: {why}"));
                }
                if fate == Some(Fate::Deleted) && !given_up {
                    model.broken(format_args!("{key} was deleted, and is on machine {n}"));
                }
                there.insert((key, n));
                true
            });
            all.expect("a disk tells what it has");
        }
        there
    }

    /// Everything can be read without any m machines, or any host if that can be lost.
    async fn without_some(&mut self) {
        let machines = self.site.ground.in_use();
        let host = &machines[self.site.dice.below(machines.len() as u64) as usize].home.0;
        let mut away: Vec<_> = machines.iter().filter(|machine| machine.home.0 == *host).collect();
        if away.len() > self.site.m || self.site.dice.one_in(2) {
            away = machines.iter().collect();
            while away.len() > self.site.m {
                away.remove(self.site.dice.below(away.len() as u64) as usize);
            }
        }
        let numbers: Vec<usize> = away.iter().map(|machine| machine.number).collect();
        note!(self.site.trace, "without {numbers:?}");
        away.iter().for_each(|machine| machine.stop(true));
        self.read_all(true).await;
    }

    /// Reads every blob there ever was. What is stored can be read (`all`), or is not called absent at least.
    async fn read_all(&self, all: bool) {
        let leader = self.leader();
        let reading = self.site.model.those(|_| true).into_iter().map(|id| {
            let (leader, model) = (leader.clone(), self.site.model.clone());
            async move {
                let (known, since) = (model.fate(id), Instant::now());
                let read = leader.live.get(id, 0..id.len()).await;
                if let (Some(Fate::Stored { .. }), Err(why), true) = (known, &read, all) {
                    model.broken(format_args!("{id} cannot be read at the end: {why}"));
                }
                model.check_read(id, (known, since), &read, &[], false);
            }
        });
        join_all(reading).await;
    }
}

/// How many different parts of the blob are there?
fn parts_of(id: BlobId, there: &BTreeSet<(PartKey, usize)>) -> usize {
    let mine = there.iter().filter(|(key, _)| key.blob == id);
    mine.map(|(key, _)| key.part.get()).collect::<BTreeSet<_>>().len()
}

/// Is every part of the blob there, each on a machine of its own? Why not.
fn is_whole(id: BlobId, there: &BTreeSet<(PartKey, usize)>) -> Result<(), String> {
    let mine = there.iter().filter(|(key, _)| key.blob == id);
    let homes: BTreeSet<usize> = mine.map(|(_, machine)| *machine).collect();
    let (parts, all) = (parts_of(id, there), id.scheme().parts());
    if parts < all || homes.len() < all {
        return Err(format!("of {id} there are only {parts} parts, on {homes:?}"));
    }
    Ok(())
}
