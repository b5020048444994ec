//! What every engine must do, and what redb's must survive: I/O errors and power losses.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use proto::guard::caught;
use redb::{Database, StorageBackend};

use super::log::Log;
use super::memory::MemoryKv;
use super::redb::{RedbKv, RedbSettings};
use super::{Batch, Direction, Kv, Value, View};
use crate::dice::Dice;
use crate::key::Key;
use crate::store::MetaError;

type Model = BTreeMap<Key, Vec<u8>>;

const SETTINGS: RedbSettings =
    RedbSettings { interval: Duration::from_secs(3600), table_bytes: 1 << 20 };

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn key(n: u64) -> Key {
    Key::tag(b'K').with(n)
}

/// All that a view shows of a range.
fn listed(
    view: &dyn View,
    from: u64,
    to: u64,
    direction: Direction,
    most: usize,
) -> Vec<(Key, Vec<u8>)> {
    let mut found = Vec::new();
    let _ = view
        .scan(key(from)..key(to), direction, &mut |key, value| {
            found.push((*key, value.to_vec()));
            Ok(if found.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })
        .unwrap();
    found
}

fn assert_is(view: &dyn View, model: &Model, dice: &mut Dice) {
    for n in 0..64 {
        let found = view.get(&key(n)).unwrap();
        assert_eq!(found.as_deref(), model.get(&key(n)).map(|v| &v[..]), "key {n}");
    }
    let (a, b) = (dice.below(64), dice.below(64));
    let (from, to) = (a.min(b), a.max(b));
    let most = 1 + dice.below(20) as usize;
    let expected = model.range(key(from)..key(to)).map(|(k, v)| (*k, v.clone()));
    let forward: Vec<_> = expected.clone().take(most).collect();
    let backward: Vec<_> = expected.rev().take(most).collect();
    assert_eq!(listed(view, from, to, Direction::Forward, most), forward);
    assert_eq!(listed(view, from, to, Direction::Backward, most), backward);
}

fn random_batch(dice: &mut Dice) -> Batch {
    (0..1 + dice.below(8))
        .map(|_| {
            let value = vec![dice.below(256) as u8; dice.below(40) as usize];
            (key(dice.below(64)), (dice.below(3) > 0).then(|| Value::from(&value[..])))
        })
        .collect()
}

fn apply(model: &mut Model, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => drop(model.insert(*key, value.to_vec())),
            None => drop(model.remove(key)),
        }
    }
}

fn with_view(kv: &dyn Kv, mut body: impl FnMut(&dyn View)) {
    kv.read(&mut |view| {
        body(view);
        Ok(())
    })
    .unwrap();
}

fn conforms(kv: &dyn Kv, seed: u64) {
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    let mut model = Model::new();
    for _ in 0..300 {
        let batch = random_batch(&mut dice);
        kv.transact(&mut |view| {
            assert_is(view, &model, &mut Dice::new(seed));
            Ok(batch.clone())
        })
        .unwrap();
        apply(&mut model, &batch);
        let refused = kv.transact(&mut |_| Err(MetaError::Exists));
        assert_eq!(refused, Err(MetaError::Exists));
        if dice.below(10) == 0 {
            block_on(kv.sync()).unwrap();
            kv.read_durable(&mut |view| {
                assert_is(view, &model, &mut dice);
                Ok(())
            })
            .unwrap();
        }
        with_view(kv, |view| assert_is(view, &model, &mut dice));
    }
}

#[test]
fn memory_conforms() {
    for seed in 0..5 {
        conforms(&MemoryKv::default(), seed);
    }
}

#[test]
fn redb_conforms() {
    for seed in 0..5 {
        let disk = Disk::new(Image::default());
        conforms(&disk.start(SETTINGS).unwrap(), seed);
    }
}

#[test]
fn redb_conforms_while_it_flushes_all_the_time() {
    let settings = RedbSettings { interval: Duration::from_micros(50), table_bytes: 2000 };
    for seed in 0..5 {
        let disk = Disk::new(Image::default());
        conforms(&disk.start(settings).unwrap(), seed);
    }
}

#[test]
fn memory_forgets_what_was_not_synced() {
    let kv = MemoryKv::default();
    let put =
        |n: u64| kv.transact(&mut |_| Ok(Batch::from([(key(n), Some(Value::from(&[1][..])))])));
    put(1).unwrap();
    block_on(kv.sync()).unwrap();
    put(2).unwrap();
    let after = kv.crash();
    with_view(&after, |view| {
        assert_eq!(listed(view, 0, 9, Direction::Forward, 9).len(), 1);
    });
}

/// A disk that keeps what was synced apart from what was not, and can fail or stand still.
#[derive(Debug)]
struct Disk {
    state: Mutex<DiskState>,
    /// While true, syncs wait.
    gate: Mutex<Gate>,
    moved: Condvar,
    failing: AtomicBool,
    /// Only the log.
    log_failing: AtomicBool,
    /// The next write or sync of the database panics, or the next read.
    panicking: [AtomicBool; 2],
    /// Transactions that were acknowledged as durable.
    acknowledged: AtomicU64,
}

/// What lies in the database file and in the log.
type Image = [Vec<u8>; 2];
const DATABASE: usize = 0;
const LOG: usize = 1;
/// Which operations panic.
const WRITE: usize = 0;
const READ: usize = 1;

#[derive(Debug, Default)]
struct DiskState {
    durable: Image,
    now: Image,
    /// Writes since the last sync of each.
    pending: [Vec<(u64, Vec<u8>)>; 2],
    /// Syncs of each.
    syncs: [u64; 2],
    /// Power fails at this operation.
    fails_in: Option<u64>,
    dice: Option<Dice>,
    crashed: Option<(Image, u64)>,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    waiting: bool,
}

impl Disk {
    fn new(content: Image) -> Arc<Self> {
        let state = DiskState { durable: content.clone(), now: content, ..DiskState::default() };
        Arc::new(Self {
            state: Mutex::new(state),
            gate: Mutex::default(),
            moved: Condvar::new(),
            failing: AtomicBool::new(false),
            log_failing: AtomicBool::new(false),
            panicking: Default::default(),
            acknowledged: AtomicU64::new(0),
        })
    }

    fn start(self: &Arc<Self>, settings: RedbSettings) -> Result<RedbKv, MetaError> {
        let disk = Arc::downgrade(self);
        let log = Log::new(Box::new(Backend(disk.clone(), LOG))).unwrap();
        let open = move || Database::builder().create_with_backend(Backend(disk.clone(), DATABASE));
        RedbKv::start(Box::new(open), Some(log), settings)
    }

    /// At the operation after so many, what would be left is kept as `crashed`.
    fn fail_power_in(&self, operations: u64, seed: u64) {
        let mut state = self.state.lock();
        state.dice = Some(Dice::new(seed));
        state.fails_in = Some(operations);
    }

    /// What a crash of the process leaves: all that was written.
    fn killed(&self) -> Arc<Self> {
        Self::new(self.state.lock().now.clone())
    }

    /// Any subset of the writes since the last sync may have reached the medium.
    fn operation(&self, state: &mut DiskState, file: usize) -> io::Result<()> {
        let panics = file == DATABASE && self.panicking[WRITE].swap(false, Ordering::SeqCst);
        assert!(!panics, "the test says so");
        if let Some(left) = &mut state.fails_in {
            if *left == 0 && state.crashed.is_none() {
                let acknowledged = self.acknowledged.load(Ordering::SeqCst);
                let mut image = state.durable.clone();
                let dice = state.dice.as_mut().unwrap();
                for (file, writes) in state.pending.iter().enumerate() {
                    for (at, bytes) in writes {
                        // Of a long one, any of its blocks.
                        for (block, bytes) in bytes.chunks(4096).enumerate() {
                            if dice.below(2) == 0 {
                                write_at(&mut image[file], at + block as u64 * 4096, bytes);
                            }
                        }
                    }
                }
                state.crashed = Some((image, acknowledged));
            }
            *left = left.saturating_sub(1);
        }
        let log = file == LOG && self.log_failing.load(Ordering::SeqCst);
        if log || self.failing.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk fails"));
        }
        Ok(())
    }
}

fn write_at(image: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let (start, end) = (at as usize, at as usize + bytes.len());
    if image.len() < end {
        image.resize(end, 0);
    }
    image[start..end].copy_from_slice(bytes);
}

#[derive(Debug)]
struct Backend(Weak<Disk>, usize);

impl Backend {
    fn with<R>(&self, body: impl FnOnce(&Disk, &mut DiskState) -> io::Result<R>) -> io::Result<R> {
        let disk = self.0.upgrade().ok_or_else(|| io::Error::other("the test is over"))?;
        let mut state = disk.state.lock();
        body(&disk, &mut state)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.with(|_, state| Ok(state.now[self.1].len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|disk, state| {
            assert!(!disk.panicking[READ].swap(false, Ordering::SeqCst), "the test says so");
            let start = offset as usize;
            let bytes = state.now[self.1].get(start..start + out.len());
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|disk, state| {
            disk.operation(state, self.1)?;
            state.now[self.1].resize(len as usize, 0);
            // A length reaches the medium at once: only bytes may be late.
            state.durable[self.1].resize(len as usize, 0);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let disk = self.0.upgrade().ok_or_else(|| io::Error::other("the test is over"))?;
        {
            let mut gate = disk.gate.lock();
            gate.waiting = true;
            disk.moved.notify_all();
            disk.moved.wait_while(&mut gate, |gate| gate.closed);
            gate.waiting = false;
        }
        self.with(|disk, state| {
            disk.operation(state, self.1)?;
            state.durable[self.1] = state.now[self.1].clone();
            state.pending[self.1].clear();
            state.syncs[self.1] += 1;
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|disk, state| {
            disk.operation(state, self.1)?;
            write_at(&mut state.now[self.1], offset, data);
            state.pending[self.1].push((offset, data.to_vec()));
            Ok(())
        })
    }
}

#[test]
fn a_flush_under_way_is_seen_through() {
    let disk = Disk::new(Image::default());
    let kv = Arc::new(disk.start(SETTINGS).unwrap());
    let mut dice = Dice::new(7);
    let mut model = Model::new();
    for round in 0..20 {
        let commit = |model: &mut Model, dice: &mut Dice| {
            for _ in 0..3 {
                let batch = random_batch(dice);
                kv.transact(&mut |_| Ok(batch.clone())).unwrap();
                apply(model, &batch);
            }
        };
        commit(&mut model, &mut dice);
        *disk.gate.lock() = Gate { closed: true, waiting: false };
        let syncing = std::thread::spawn({
            let kv = Arc::clone(&kv);
            move || block_on(kv.sync())
        });
        disk.moved.wait_while(&mut disk.gate.lock(), |gate| !gate.waiting);
        let durable_before = model.clone();
        with_view(&*kv, |view| assert_is(view, &model, &mut dice));
        commit(&mut model, &mut dice);
        with_view(&*kv, |view| assert_is(view, &model, &mut dice));
        disk.gate.lock().closed = false;
        disk.moved.notify_all();
        syncing.join().unwrap().unwrap();
        with_view(&*kv, |view| assert_is(view, &model, &mut dice));
        kv.read_durable(&mut |view| {
            assert_is(view, &durable_before, &mut dice);
            Ok(())
        })
        .unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
}

#[test]
fn a_failed_commit_loses_nothing_and_is_tried_again() {
    let disk = Disk::new(Image::default());
    let kv = disk.start(SETTINGS).unwrap();
    let mut dice = Dice::new(3);
    let mut model = Model::new();
    for round in 0..10 {
        let batch = random_batch(&mut dice);
        kv.transact(&mut |_| Ok(batch.clone())).unwrap();
        apply(&mut model, &batch);
        disk.failing.store(true, Ordering::SeqCst);
        for _ in 0..1 + round % 2 {
            assert!(block_on(kv.sync()).is_err());
        }
        // What is in memory needs no disk.
        let more: Batch = [(key(3), Some(Value::from(&[round as u8][..])))].into();
        kv.transact(&mut |_| Ok(more.clone())).unwrap();
        apply(&mut model, &more);
        disk.failing.store(false, Ordering::SeqCst);
        block_on(kv.sync()).unwrap();
        with_view(&kv, |view| assert_is(view, &model, &mut dice));
    }
    drop(kv);
    let again = Disk::new(disk.state.lock().durable.clone());
    with_view(&again.start(SETTINGS).unwrap(), |view| assert_is(view, &model, &mut dice));
}

#[test]
fn a_panic_in_a_commit_fails_it_and_the_next_one_loses_nothing() {
    let disk = Disk::new(Image::default());
    // Without a log, so that each sync is a commit.
    let (opened, settings) = (Arc::downgrade(&disk), SETTINGS);
    let open = move || Database::builder().create_with_backend(Backend(opened.clone(), DATABASE));
    let kv = RedbKv::start(Box::new(open), None, settings).unwrap();
    let mut dice = Dice::new(11);
    let mut model = Model::new();
    for _ in 0..6 {
        let batch = random_batch(&mut dice);
        kv.transact(&mut |_| Ok(batch.clone())).unwrap();
        apply(&mut model, &batch);
        disk.panicking[WRITE].store(true, Ordering::SeqCst);
        let (sender, synced) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| sender.send(block_on(kv.sync())).unwrap());
            let synced = synced.recv_timeout(Duration::from_secs(60)).expect("nobody hangs");
            assert!(matches!(synced, Err(MetaError::Engine(_))), "{synced:?}");
        });
        block_on(kv.sync()).unwrap();
        with_view(&kv, |view| assert_is(view, &model, &mut dice));
    }
    drop(kv);
    let again = Disk::new(disk.state.lock().durable.clone());
    with_view(&again.start(SETTINGS).unwrap(), |view| assert_is(view, &model, &mut dice));
}

#[test]
fn a_read_that_panics_or_fails_is_one_error() {
    let disk = Disk::new(Image::default());
    let settings = RedbSettings { interval: Duration::from_millis(1), ..SETTINGS };
    let kv = disk.start(settings).unwrap();
    kv.transact(&mut |_| Ok((0..50).map(|n| (key(n), Some(Value::from(&[7][..])))).collect()))
        .unwrap();
    block_on(kv.sync()).unwrap();
    drop(kv);
    let kv = disk.start(settings).unwrap();
    let get = || {
        let mut found = None;
        let read = caught("a read", || {
            kv.read(&mut |view| {
                found = view.get(&key(7))?;
                Ok(())
            })
        });
        read.unwrap_or_else(|panicked| Err(panicked.into())).map(|()| found)
    };
    disk.panicking[READ].store(true, Ordering::SeqCst);
    let first = get();
    if disk.panicking[READ].load(Ordering::SeqCst) {
        println!("the page was in the cache");
        return;
    }
    assert!(matches!(first, Err(MetaError::Damaged(_))), "{first:?}");
    let found = get();
    assert_eq!(found.unwrap().as_deref(), Some(&[7][..]), "the next one is answered");
    kv.transact(&mut |_| Ok(Batch::from([(key(7), None)]))).unwrap();
    block_on(kv.sync()).unwrap();
}

#[test]
fn half_a_change_ends_all_further_ones_and_is_never_written() {
    let disk = Disk::new(Image::default());
    let kv = disk.start(SETTINGS).unwrap();
    let put = |n: u64| Batch::from([(key(n), Some(Value::from(&[1][..])))]);
    kv.transact(&mut |_| Ok(put(1))).unwrap();
    block_on(kv.sync()).unwrap();
    kv.transact(&mut |_| Ok(put(2))).unwrap();
    kv.tear();
    for _ in 0..2 {
        assert!(matches!(kv.transact(&mut |_| Ok(put(3))), Err(MetaError::Engine(_))));
        assert!(matches!(block_on(kv.sync()), Err(MetaError::Engine(_))));
    }
    with_view(&kv, |view| assert!(view.get(&key(1)).unwrap().is_some(), "reads go on"));
    drop(kv);
    let again = Disk::new(disk.state.lock().now.clone());
    with_view(&again.start(SETTINGS).unwrap(), |view| {
        assert_eq!(listed(view, 0, 9, Direction::Forward, 9).len(), 1);
    });
}

/// The writes of the n-th transaction of the crash test.
fn numbered(n: u64) -> Batch {
    let value = Value::from(&n.to_be_bytes()[..]);
    let mut batch = Batch::from([(key(n % 50), Some(value.clone())), (key(n * 7 % 50), None)]);
    batch.insert(key(63), Some(value));
    batch
}

#[test]
fn after_a_power_loss_everything_synced_is_there_and_what_is_there_is_a_prefix() {
    for seed in 0..120 {
        println!("seed {seed}");
        let mut dice = Dice::new(seed);
        let disk = Disk::new(Image::default());
        // Small tables go into redb all the time, large ones only into the log.
        let table_bytes = [1 << 20, 2000, 400][seed as usize % 3];
        let kv = disk.start(RedbSettings { table_bytes, ..SETTINGS }).unwrap();
        disk.fail_power_in(dice.below(150), seed + 1000);
        for n in 1..=200 {
            kv.transact(&mut |_| Ok(numbered(n))).unwrap();
            if dice.below(5) == 0 {
                block_on(kv.sync()).unwrap();
                disk.acknowledged.store(n, Ordering::SeqCst);
            }
        }
        let Some((image, acknowledged)) = disk.state.lock().crashed.take() else { continue };
        // Power fails again while the log is taken in, and once more.
        let mut after = Disk::new(image);
        for round in 0..2 {
            after.fail_power_in(dice.below(20), seed + 2000 + round);
            drop(after.start(SETTINGS).unwrap());
            let crashed = after.state.lock().crashed.take();
            if let Some((image, _)) = crashed {
                after = Disk::new(image);
            }
        }
        with_view(&after.start(SETTINGS).unwrap(), |view| {
            let last = view.get(&key(63)).unwrap();
            let last = last.map_or(0, |v| u64::from_be_bytes(v[..].try_into().unwrap()));
            assert!(last >= acknowledged, "{acknowledged} were promised, {last} are there");
            let mut model = Model::new();
            (1..=last).for_each(|n| apply(&mut model, &numbered(n)));
            assert_is(view, &model, &mut dice);
        });
    }
}

#[test]
fn many_syncs_at_once_share_commits() {
    let disk = Disk::new(Image::default());
    let kv = Arc::new(disk.start(SETTINGS).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let kv = &kv;
            scope.spawn(move || {
                for n in 0..20u64 {
                    let key = key(thread);
                    let value = Some(Value::from(&n.to_be_bytes()[..]));
                    kv.transact(&mut |_| Ok(Batch::from([(key, value.clone())]))).unwrap();
                    block_on(kv.sync()).unwrap();
                    kv.read_durable(&mut |view| {
                        assert_eq!(view.get(&key).unwrap(), value);
                        Ok(())
                    })
                    .unwrap();
                }
            });
        }
    });
}

fn put(kv: &RedbKv, model: &mut Model, n: u64, value: &[u8]) {
    let batch = Batch::from([(key(n), Some(Value::from(value)))]);
    kv.transact(&mut |_| Ok(batch.clone())).unwrap();
    apply(model, &batch);
}

#[test]
fn a_sync_of_little_costs_one_sync_of_the_log_and_none_of_the_database() {
    let disk = Disk::new(Image::default());
    let kv = disk.start(SETTINGS).unwrap();
    let (mut model, mut dice) = (Model::new(), Dice::new(1));
    put(&kv, &mut model, 0, b"the first goes into the database");
    block_on(kv.sync()).unwrap();
    let before = disk.state.lock().syncs;
    for n in 0..100 {
        put(&kv, &mut model, n % 60, &n.to_le_bytes());
        block_on(kv.sync()).unwrap();
    }
    let after = disk.state.lock().syncs;
    assert_eq!((after[DATABASE], after[LOG]), (before[DATABASE], before[LOG] + 100));
    // The process dies; its successor has all, and what it adds counts, too.
    for n in 0..3 {
        let next = disk.killed();
        let kv = next.start(SETTINGS).unwrap();
        with_view(&kv, |view| assert_is(view, &model, &mut dice));
        let mut model = model.clone();
        put(&kv, &mut model, 61 + n, b"more");
        block_on(kv.sync()).unwrap();
        with_view(&next.killed().start(SETTINGS).unwrap(), |view| {
            assert_is(view, &model, &mut dice);
        });
    }
}

#[test]
fn a_log_that_fails_is_done_without() {
    let disk = Disk::new(Image::default());
    let kv = disk.start(SETTINGS).unwrap();
    let (mut model, mut dice) = (Model::new(), Dice::new(1));
    for n in 0..30 {
        disk.log_failing.store(n % 3 == 1, Ordering::SeqCst);
        put(&kv, &mut model, n, b"promised");
        block_on(kv.sync()).unwrap();
        with_view(&disk.killed().start(SETTINGS).unwrap(), |view| {
            assert_is(view, &model, &mut dice);
        });
    }
}

#[test]
fn more_than_the_log_holds_goes_into_the_database() {
    let disk = Disk::new(Image::default());
    let kv = disk.start(RedbSettings { table_bytes: 64 << 20, ..SETTINGS }).unwrap();
    let (mut model, mut dice) = (Model::new(), Dice::new(1));
    // Most records are large, a few are too large.
    for n in 0..80 {
        let len = if n % 20 == 3 { 300_000 } else { 200_000 };
        put(&kv, &mut model, n % 64, &vec![n as u8; len]);
        block_on(kv.sync()).unwrap();
        if n % 13 == 0 {
            with_view(&disk.killed().start(SETTINGS).unwrap(), |view| {
                assert_is(view, &model, &mut dice);
            });
        }
    }
    let state = disk.state.lock();
    assert!(state.now[LOG].len() <= 8 << 20, "the log has {} bytes", state.now[LOG].len());
    assert!(state.syncs[LOG] >= 60, "only {} records were logged", state.syncs[LOG]);
}

#[test]
fn of_a_damaged_log_what_lies_before_the_damage_counts() {
    let disk = Disk::new(Image::default());
    let kv = disk.start(SETTINGS).unwrap();
    let mut models = vec![Model::new()];
    for n in 0..12 {
        let mut model = models[models.len() - 1].clone();
        // Every third record takes two blocks.
        put(&kv, &mut model, n, &vec![n as u8; if n % 3 == 2 { 5000 } else { 30 }]);
        block_on(kv.sync()).unwrap();
        models.push(model);
    }
    // The first went into the database; these are the blocks where the others begin.
    let starts = [0, 1, 3, 4, 5, 7, 8, 9, 11, 12, 13];
    let image = disk.killed().state.lock().now.clone();
    for (before, start) in starts.into_iter().enumerate() {
        for at in [0, 9, 17, 21, 25, 40] {
            let mut rotten = image.clone();
            rotten[LOG][start * 4096 + at] ^= 0x20;
            let kv = Disk::new(rotten).start(SETTINGS).unwrap();
            with_view(&kv, |view| assert_is(view, &models[before + 1], &mut Dice::new(1)));
        }
    }
}

#[test]
fn a_log_of_another_state_of_the_database_does_not_count() {
    let disk = Disk::new(Image::default());
    let kv = disk.start(SETTINGS).unwrap();
    let (mut model, mut dice) = (Model::new(), Dice::new(1));
    put(&kv, &mut model, 1, b"old");
    block_on(kv.sync()).unwrap();
    let (backup, then) = (disk.state.lock().now.clone(), model.clone());
    put(&kv, &mut model, 2, b"logged");
    block_on(kv.sync()).unwrap();
    // Ended in order: all is in the database, and the log means nothing any more.
    drop(kv);
    let [database, log] = disk.state.lock().now.clone();
    for (image, expected) in [
        ([database.clone(), Vec::new()], &model),
        ([database.clone(), vec![7; 100_000]], &model),
        ([database.clone(), log.clone()], &model),
        ([backup[DATABASE].clone(), Vec::new()], &then),
    ] {
        let kv = Disk::new(image).start(SETTINGS).unwrap();
        with_view(&kv, |view| assert_is(view, expected, &mut dice));
    }
    // A database put back over a log that went on in a later epoch.
    let kv = disk.start(SETTINGS).unwrap();
    put(&kv, &mut model, 3, b"of a new epoch");
    block_on(kv.sync()).unwrap();
    put(&kv, &mut model, 4, b"logged in it");
    block_on(kv.sync()).unwrap();
    let log = disk.state.lock().now[LOG].clone();
    let kv = Disk::new([backup[DATABASE].clone(), log]).start(SETTINGS).unwrap();
    with_view(&kv, |view| assert_is(view, &then, &mut dice));
}
