//! A bay: where a disk should be, with the disk in it or not.
//!
//! Every disk is opened by a thread of its own, so that one that hangs, is damaged or is not there
//! keeps no other waiting. A disk that cannot be opened is *out*, with the reason, and its thread tries
//! again from time to time until it is in; then its thread ends. A disk that cannot go on (its index
//! turned out to be damaged) is out again, until it is opened anew.
//!
//! Invariants:
//! * A disk is let in only where it belongs: it is of the cluster, it is the one that is named for its
//!   bay, and no other bay has a disk of the same id. Nothing is written to any other.
//! * What is asked of a bay without its disk fails at once, as unreachable.
//! * A bay that is retired never has a disk again.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use proto::id::{ClusterId, DiskId};
use proto::part_store::PartError;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::disk::Disk;
use crate::disk::late::all_but_late;
use crate::disk::open::DiskOptions;
use crate::error::{DiskProblem, panic_text};
use crate::format::superblock::Superblock;

/// Pauses between attempts to open a disk that is out: the first, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Whoever had the disk before may be on its way out: for so long it is not out.
const LEAVING: Duration = Duration::from_secs(3);

/// What is in a bay.
#[derive(Clone)]
pub enum BayState {
    /// Not known yet: the disk is being opened.
    Opening,
    /// The disk.
    In(Arc<Disk>),
    /// No disk, and why.
    Out {
        /// The reason.
        why: String,
        /// Another process has it.
        in_use: bool,
    },
}

/// Where one disk should be.
pub struct Bay {
    dir: PathBuf,
    /// The disk that belongs here; `None`: any of the cluster.
    named: Option<DiskId>,
    /// The disk whose superblock was seen here last.
    seen: Mutex<Option<DiskId>>,
    state: RwLock<BayState>,
    /// Nobody wants its disk any more.
    retired: AtomicBool,
}

impl Bay {
    /// For the disk in this directory.
    fn new(dir: PathBuf, named: Option<DiskId>, seen: Option<DiskId>) -> Self {
        let (seen, state) = (Mutex::new(seen), RwLock::new(BayState::Opening));
        Self { dir, named, seen, state, retired: AtomicBool::new(false) }
    }

    /// With a disk that is open.
    pub(crate) fn of(disk: Arc<Disk>) -> Self {
        let (dir, id) = (disk.path().to_owned(), Some(disk.id()));
        let (seen, state) = (Mutex::new(id), RwLock::new(BayState::In(disk)));
        Self { dir, named: id, seen, state, retired: AtomicBool::new(false) }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The disk that is here or should be, as far as that is known.
    pub fn disk_id(&self) -> Option<DiskId> {
        self.named.or(*self.seen.lock())
    }

    /// Does nobody want its disk any more?
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// What is in it.
    pub fn state(&self) -> BayState {
        self.state.read().clone()
    }

    /// The disk.
    ///
    /// # Errors
    /// That the slots on it cannot be reached, and why.
    pub(crate) fn disk(&self) -> Result<Arc<Disk>, PartError> {
        match &*self.state.read() {
            BayState::In(disk) => Ok(disk.clone()),
            BayState::Opening => Err(PartError::Unreachable("out: it is being opened".to_owned())),
            BayState::Out { why, .. } => Err(PartError::Unreachable(format!("out: {why}"))),
        }
    }
}

/// Told of every change of a bay, and of what was in it before.
pub type Observer = dyn Fn(&Bay, &BayState) + Send + Sync;

/// The bays of a machine, or of an embedded store.
pub struct Bays {
    cluster: ClusterId,
    scrub_days: u32,
    bays: Vec<Arc<Bay>>,
    by_disk: RwLock<HashMap<DiskId, usize>>,
    observer: Box<Observer>,
    closed: Mutex<bool>,
    closing: Condvar,
}

/// A bay to be.
#[derive(Clone, Debug)]
pub struct BayPlan {
    /// The disk's directory.
    pub dir: PathBuf,
    /// The disk that belongs there; `None`: any of the cluster.
    pub disk: Option<DiskId>,
    /// The disk that was seen there a moment ago.
    pub seen: Option<DiskId>,
}

impl Bays {
    /// Opens all disks at once. Returns when each is in or out; one that takes much longer than the
    /// others may still be on its way. Must be called within a tokio runtime.
    pub async fn open(
        cluster: ClusterId,
        plans: Vec<BayPlan>,
        observer: impl Fn(&Bay, &BayState) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::open_scrubbed(cluster, plans, DiskOptions::default().scrub_days, observer).await
    }

    /// The same with disks of which all is read and verified within so many days; 0: they are not.
    pub async fn open_scrubbed(
        cluster: ClusterId,
        plans: Vec<BayPlan>,
        scrub_days: u32,
        observer: impl Fn(&Bay, &BayState) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let bay = |plan: BayPlan| Arc::new(Bay::new(plan.dir, plan.disk, plan.seen));
        let bays = Arc::new(Self {
            cluster,
            scrub_days,
            bays: plans.into_iter().map(bay).collect(),
            by_disk: RwLock::default(),
            observer: Box::new(observer),
            closed: Mutex::new(false),
            closing: Condvar::new(),
        });
        let (sender, mut settled) = unbounded_channel();
        for bay in &bays.bays {
            let settled = Some(sender.clone());
            let keeper = Keeper { bays: bays.clone(), bay: bay.clone(), settled };
            let spawned =
                std::thread::Builder::new().name("bay".to_owned()).spawn(move || keeper.keep());
            if let Err(e) = spawned {
                let _settled = sender.send(());
                bays.set(bay, BayState::Out { why: e.to_string(), in_use: false });
            }
        }
        all_but_late(bays.bays.len(), &mut settled).await;
        bays
    }

    /// All of them, in the order in which they were asked for.
    pub fn all(&self) -> &[Arc<Bay>] {
        &self.bays
    }

    /// The cluster that all disks belong to.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// How many have their disk.
    pub fn count_in(&self) -> usize {
        self.bays.iter().filter(|bay| matches!(bay.state(), BayState::In(_))).count()
    }

    /// The disk with this id, and the number of its bay.
    ///
    /// # Errors
    /// [`PartError::WrongAddress`] if it cannot be here, [`PartError::Unreachable`] if it may be one of
    /// those that are out.
    pub(crate) fn find(&self, id: DiskId) -> Result<(usize, Arc<Disk>), PartError> {
        if let Some(bay) = self.by_disk.read().get(&id) {
            return Ok((*bay, self.bays[*bay].disk()?));
        }
        if let Some(bay) = self.bays.iter().position(|bay| bay.disk_id() == Some(id)) {
            return Ok((bay, self.bays[bay].disk()?));
        }
        let unknown = self.bays.iter().filter(|bay| bay.disk_id().is_none());
        let why = |bay: &Arc<Bay>| {
            Some(format!("{} is {}", bay.dir.display(), bay.disk().err()?.reason()))
        };
        let unknown: Vec<String> = unknown.filter_map(why).collect();
        if unknown.is_empty() {
            let why = format!("this daemon does not serve disk {id}");
            return Err(PartError::WrongAddress(why));
        }
        // Nobody can say which disks those are.
        Err(PartError::Unreachable(format!("out, or not served here: {}", unknown.join("; "))))
    }

    /// Lets no more disks in, brings those that are in to rest, and returns when that is done, or when
    /// it hangs for too long.
    pub async fn close(&self) {
        *self.closed.lock() = true;
        self.closing.notify_all();
        let disks = self.bays.iter().filter_map(|bay| bay.disk().ok());
        let closing: Vec<_> = disks.map(|disk| async move { disk.close().await }).collect();
        futures::future::join_all(closing).await;
    }

    /// Brings the disk of the `nth` bay to rest, and lets none in there any more. Returns when that is done, or when
    /// it hangs for too long.
    pub async fn retire(&self, nth: usize, why: &str) {
        let bay = &self.bays[nth];
        let disk = {
            // While this is held nobody lets it in.
            let _closed = self.closed.lock();
            bay.retired.store(true, Ordering::Relaxed);
            let disk = bay.disk().ok();
            self.set(bay, BayState::Out { why: why.to_owned(), in_use: false });
            disk
        };
        self.closing.notify_all();
        if let Some(disk) = disk {
            disk.close().await;
        }
    }

    fn set(&self, bay: &Arc<Bay>, state: BayState) {
        if let BayState::In(disk) = &state {
            let number = self.bays.iter().position(|other| Arc::ptr_eq(other, bay));
            self.by_disk.write().insert(disk.id(), number.expect("it is one of them"));
        }
        let before = std::mem::replace(&mut *bay.state.write(), state);
        (self.observer)(bay, &before);
    }

    /// Is the disk that was seen in the bay also in another one that nobody named a disk for?
    fn check_twin(&self, bay: &Arc<Bay>, disk: DiskId) -> Result<(), DiskProblem> {
        let twin = |other: &&Arc<Bay>| {
            !Arc::ptr_eq(other, bay) && other.named.is_none() && *other.seen.lock() == Some(disk)
        };
        match self.bays.iter().find(twin) {
            Some(other) if bay.named.is_none() => {
                Err(DiskProblem::Twice { disk, other: other.dir.clone() })
            }
            _ => Ok(()),
        }
    }

    fn attempt(&self, bay: &Arc<Bay>) -> Result<Arc<Disk>, DiskProblem> {
        let read = Superblock::read(&bay.dir);
        *bay.seen.lock() = read.as_ref().ok().map(|superblock| superblock.disk);
        let Superblock { cluster: found, disk: seen, .. } = read.map_err(|e| e.problem)?;
        if found != self.cluster {
            return Err(DiskProblem::ForeignCluster { found, expected: self.cluster });
        }
        self.check_twin(bay, seen)?;
        if let Some(named) = bay.named.filter(|named| *named != seen) {
            let home = self.bays.iter().find(|other| other.named == Some(seen));
            let home = home.map(|other| other.dir.clone());
            return Err(DiskProblem::OtherDisk { found: seen, named, home });
        }
        let options = DiskOptions {
            cluster: Some(self.cluster),
            disk: Some(seen),
            scrub_days: self.scrub_days,
            ..Default::default()
        };
        Disk::open(&bay.dir, options).map_err(|e| e.problem)
    }
}

/// Opens the disk of one bay.
struct Keeper {
    bays: Arc<Bays>,
    bay: Arc<Bay>,
    /// Told once, when it is in or out for the first time.
    settled: Option<UnboundedSender<()>>,
}

impl Keeper {
    /// Keeps the disk in as long as anybody wants it.
    fn keep(mut self) {
        while let Some(disk) = self.until_in() {
            let Some(why) = disk.until_lost() else { return };
            let why = format!("{why}: it is being opened anew");
            self.bays.set(&self.bay, BayState::Out { why, in_use: false });
            drop(disk);
            // Whoever was reading has to let go of it, and a fault that comes back has to wait.
            let mut closed = self.bays.closed.lock();
            if !*closed {
                self.bays.closing.wait_for(&mut closed, AGAIN.0);
            }
        }
    }

    /// Tries until the disk is in. `None`: nobody wants it any more.
    fn until_in(&mut self) -> Option<Arc<Disk>> {
        let began = Instant::now();
        let mut pause = AGAIN.0;
        let opened = loop {
            let bays = &self.bays;
            let opened = catch_unwind(AssertUnwindSafe(|| bays.attempt(&self.bay)))
                .unwrap_or_else(|panic| Err(DiskProblem::Panicked(panic_text(&*panic))));
            // While this is held nobody closes what is in.
            let mut closed = bays.closed.lock();
            if *closed || self.bay.retired.load(Ordering::Relaxed) {
                break None;
            }
            match opened {
                Ok(disk) => {
                    bays.set(&self.bay, BayState::In(disk.clone()));
                    break Some(disk);
                }
                Err(DiskProblem::InUse) if began.elapsed() < LEAVING => {
                    bays.closing.wait_for(&mut closed, AGAIN.0 / 10);
                    continue;
                }
                Err(why) => self.stays_out(&why),
            }
            if let Some(settled) = self.settled.take() {
                let _nobody_waits = settled.send(());
            }
            bays.closing.wait_for(&mut closed, pause);
            if *closed {
                break None;
            }
            pause = (pause * 2).min(AGAIN.1);
        };
        if let Some(settled) = self.settled.take() {
            let _nobody_waits = settled.send(());
        }
        opened
    }

    fn stays_out(&self, problem: &DiskProblem) {
        let in_use = matches!(problem, DiskProblem::InUse);
        let why = problem.to_string();
        let same = matches!(self.bay.state(), BayState::Out { why: before, .. } if before == why);
        if !same {
            self.bays.set(&self.bay, BayState::Out { why, in_use });
        }
    }
}
