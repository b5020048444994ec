//! A machine with one disk: the real disk over a simulated filesystem, with a task that is its owner's time.
//!
//! Everything that a machine does takes time, by lot; a disk that hangs does nothing until it goes on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use proto::id::{ClusterId, DiskId, Generation, GroupId, SlotId, VolumeId};
use proto::part_store::{Condition, PartError, PartStore};
use storaged::clients::Clients;
use storaged::superblock::Superblock;
use storaged::{Disk, DiskOptions, Stepped};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::dice::Dice;
use crate::note;
use crate::storage::Storage;
use crate::trace::Trace;

/// Bytes of a block file, and of a disk: as few as there may be, so that compaction has something to do.
const BLOCK_FILE: u64 = 16 << 20;
const CAPACITY: u64 = 8 * BLOCK_FILE;
/// Memory of the index's cache, in bytes.
const MEMORY: usize = 64 << 10;
/// The directory of the disk.
const HOME: &str = "/disk";

/// One machine.
pub struct Machine {
    /// Its number.
    pub number: usize,
    /// The host that it is on, and its rack, if it has one.
    pub home: (String, String),
    cluster: ClusterId,
    trace: Trace,
    dice: Mutex<Dice>,
    state: Mutex<State>,
    /// It hangs.
    hung: watch::Sender<bool>,
    /// Something is asked of the disk.
    wake: Notify,
}

struct State {
    storage: Storage,
    superblock: Superblock,
    /// `None`: it does not run.
    disk: Option<Arc<Disk>>,
    /// Who has connections to it, in this life.
    clients: Arc<Clients>,
    /// Rises when it begins and ends to run: connections of before are broken.
    life: u64,
    /// How much longer everything takes.
    slowness: u32,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Machine {
    /// A machine with a new disk. It does not run yet.
    pub fn new(
        number: usize,
        home: (String, String),
        cluster: ClusterId,
        mut dice: Dice,
        trace: Trace,
    ) -> Arc<Self> {
        let storage = Storage::new(dice.split());
        let state = State {
            storage,
            superblock: superblock(cluster, &mut dice),
            disk: None,
            clients: Arc::default(),
            life: 0,
            slowness: 1,
            running: None,
        };
        let (dice, state) = (Mutex::new(dice), Mutex::new(state));
        let hung = watch::Sender::new(false);
        Arc::new(Self { number, home, cluster, trace, dice, state, hung, wake: Notify::new() })
    }

    /// The disk that is in it.
    pub fn disk_id(&self) -> DiskId {
        self.state.lock().superblock.disk
    }

    /// What its disk lies on.
    pub fn storage(&self) -> Storage {
        self.state.lock().storage.clone()
    }

    /// Its disk, if it runs.
    pub fn disk(&self) -> Option<Arc<Disk>> {
        self.state.lock().disk.clone()
    }

    /// Who has connections to it, if it runs.
    pub fn clients(&self) -> Option<Arc<Clients>> {
        let state = self.state.lock();
        state.disk.as_ref().map(|_| state.clients.clone())
    }

    /// Does it run, as fast as it should?
    pub fn is_well(&self) -> bool {
        let state = self.state.lock();
        state.slowness == 1
            && !*self.hung.borrow()
            && !state.storage.is_down()
            && state.disk.as_ref().is_some_and(|disk| disk.state().state == "ok")
    }

    /// Has somebody asked for a pass of its disk's scrub that has not ended yet?
    pub fn is_to_scrub(&self) -> bool {
        let scrub = self.disk().and_then(|disk| disk.state().scrub);
        scrub.is_some_and(|scrub| scrub.asked)
    }

    /// Which life it is in.
    pub fn life(&self) -> u64 {
        self.state.lock().life
    }

    /// Its slot, for who knows the group at this generation.
    ///
    /// # Errors
    /// It does not run, or has another disk.
    pub fn slot(
        &self,
        disk: DiskId,
        generation: Generation,
    ) -> Result<Arc<dyn PartStore>, PartError> {
        let state = self.state.lock();
        if state.superblock.disk != disk {
            return Err(PartError::WrongAddress("another disk is here".to_owned()));
        }
        match &state.disk {
            Some(disk) => Ok(disk.slot(SlotId(0), GroupId(0), generation)),
            None => Err(PartError::Unreachable("connection refused".to_owned())),
        }
    }

    /// Something was asked of its disk.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Returns when it does not hang.
    pub async fn goes_on(&self) {
        // The machine outlives who waits for it.
        let _ = self.hung.subscribe().wait_for(|hung| !hung).await;
    }

    /// Hangs, or goes on.
    pub fn set_hung(&self, hung: bool) {
        self.hung.send_replace(hung);
    }

    /// Its storage does as it should from now on, and in time.
    pub fn put_right(&self) {
        self.storage().is_well();
        self.set_hung(false);
        self.set_slowness(1);
    }

    /// Everything takes so many times as long.
    pub fn set_slowness(&self, times: u32) {
        self.state.lock().slowness = times;
    }

    /// Time that something takes.
    pub async fn spend(&self) {
        let slowness = self.state.lock().slowness;
        let millis = self.dice.lock().below(3) * u64::from(slowness);
        sleep(Duration::from_millis(millis)).await;
    }

    /// Begins to run, unless it does already. `false`: its disk cannot be opened.
    pub fn start(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if state.disk.is_some() {
            return true;
        }
        let options =
            DiskOptions { memory: MEMORY, rebuild_index: false, ..DiskOptions::default() };
        let medium = Arc::new(state.storage.clone());
        let opened = Stepped::open(medium, Path::new(HOME), state.superblock, &options);
        let stepped = match opened {
            Ok(stepped) => stepped,
            Err(why) => {
                note!(self.trace, "machine {} does not start: {why}", self.number);
                if state.storage.is_down() {
                    state.storage.crash();
                }
                return false;
            }
        };
        state.life += 1;
        state.clients = Arc::default();
        state.disk = Some(stepped.disk().clone());
        state.running = Some(tokio::spawn(self.clone().run(stepped, state.life)));
        note!(self.trace, "machine {} runs", self.number);
        true
    }

    /// The owner's time.
    async fn run(self: Arc<Self>, mut stepped: Stepped, life: u64) {
        let mut patience = Duration::ZERO;
        let mut scrubs_at = Instant::now() + Stepped::SCRUBBED_AFTER;
        loop {
            // Either way it is time for a step.
            let _ = timeout(patience, self.wake.notified()).await;
            self.goes_on().await;
            self.spend().await;
            if scrubs_at <= Instant::now() || self.is_to_scrub() {
                let rest = stepped.scrub().expect("it is scrubbed");
                scrubs_at = Instant::now() + rest;
            }
            match stepped.step() {
                Some(next) if !self.storage().is_down() => {
                    patience = next.min(scrubs_at.saturating_duration_since(Instant::now()));
                }
                goes_on => {
                    let why = if goes_on.is_none() { "its disk cannot go on" } else { "power cut" };
                    note!(self.trace, "machine {}: {why}", self.number);
                    drop(stepped);
                    return self.ended(life);
                }
            }
        }
    }

    /// The disk of that life is gone.
    fn ended(&self, life: u64) {
        let mut state = self.state.lock();
        if state.life != life {
            return;
        }
        state.life += 1;
        state.disk = None;
        match state.storage.is_down() {
            true => state.storage.crash(),
            false => state.storage.abandon(),
        }
    }

    /// Its power is cut (`crash`), or its program is killed.
    pub fn stop(&self, crash: bool) {
        let mut state = self.state.lock();
        let Some(running) = state.running.take() else { return };
        running.abort();
        (state.life, state.disk) = (state.life + 1, None);
        match crash || state.storage.is_down() {
            true => state.storage.crash(),
            false => state.storage.abandon(),
        }
    }

    /// The disks of the two change places. Neither may run.
    pub fn exchange_disks(&self, other: &Self) {
        let (mut mine, mut others) = (self.state.lock(), other.state.lock());
        let (mine, others) = (&mut *mine, &mut *others);
        std::mem::swap(&mut mine.storage, &mut others.storage);
        std::mem::swap(&mut mine.superblock, &mut others.superblock);
    }

    /// Its disk loses all it has, but for its id. It must not run.
    pub fn wipe_disk(&self) {
        let storage = Storage::new(self.dice.lock().split());
        self.state.lock().storage = storage;
    }

    /// Does its disk say that it has all that it should of the volume? Of a group of this generation.
    pub fn is_filled(&self, generation: Generation, volume: VolumeId) -> bool {
        let Ok(slot) = self.slot(self.disk_id(), generation) else { return false };
        let said = slot.condition(volume).now_or_never();
        matches!(said, Some(Ok(Condition { rebuilding: false, .. })))
    }

    /// An empty disk takes the place of its disk. It must not run.
    pub fn replace_disk(&self) -> DiskId {
        let mut dice = self.dice.lock();
        let mut state = self.state.lock();
        state.storage = Storage::new(dice.split());
        state.superblock = superblock(self.cluster, &mut dice);
        state.superblock.disk
    }
}

fn superblock(cluster: ClusterId, dice: &mut Dice) -> Superblock {
    let id: Vec<u8> = (0..16).map(|_| dice.below(256) as u8).collect();
    let disk = DiskId::from_slice(&id).expect("an id is 16 bytes");
    Superblock { cluster, disk, capacity: CAPACITY, block_file: BLOCK_FILE }
}
