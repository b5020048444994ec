//! The journal as a whole: leaders that follow one another on one store, with faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proto::id::{BlobId, VolumeId};
use proto::scheme::Scheme;
use tempfile::TempDir;

use super::entry::Entry;
use super::takeover::remains::Losses;
use super::takeover::{Leading, TakeOver, TakeOverError};
use crate::dice::Dice;
use crate::engine::{Batch, Direction, Kv, Value};
use crate::journal::tables::{Bounds, JournaledKv};
use crate::key::Key;
use crate::store::MetaError;
use crate::testing::{Fault, MemoryStore};
use crate::volume_store::names::Role;
use crate::volume_store::{StoreError, VolumeStore};

type Model = BTreeMap<Key, Value>;

/// So small that everything happens all the time.
const TINY: Bounds = Bounds {
    interval: Duration::from_millis(50),
    batch_bytes: 2_000,
    entry_bytes: 700,
    snapshot_bytes: 8_000,
    snapshot_entries: 12,
};

/// A mount of the one volume.
struct Mount {
    kv: JournaledKv,
    leading: Leading,
    store: Arc<MemoryStore>,
}

impl Mount {
    async fn open(store: MemoryStore, cache: Option<&TempDir>) -> Result<Self, TakeOverError> {
        Self::open_with(store, cache, TINY).await
    }

    async fn open_with(
        store: MemoryStore,
        cache: Option<&TempDir>,
        bounds: Bounds,
    ) -> Result<Self, TakeOverError> {
        let store = Arc::new(store);
        let led = TakeOver {
            store: store.clone(),
            volume: VolumeId(3),
            scheme: Scheme::copies(3).unwrap(),
            cache: cache.map(|dir| dir.path().to_owned()),
            cache_bytes: 40_000,
            bounds,
            holder: "a test".to_owned(),
        };
        let led = led.run().await?;
        assert!(led.name.as_deref().is_none_or(|name| name == "home"));
        let garbage = led.garbage.clone();
        let (tables, leading) = led.start("home");
        let kv = JournaledKv::open(tables).await.unwrap();
        let mount = Self { kv, leading, store };
        // As opening a session does: nothing is deleted before an entry is there.
        let session = Batch::from([(Key::tag(254), Some(Value::from(&b"session"[..])))]);
        mount.kv.transact(&mut |_| Ok(session.clone().into())).unwrap();
        while let Err(error) = mount.kv.sync().await {
            if error.to_string().contains("taken over") {
                return Err(StoreError::Fenced(0).into());
            }
        }
        mount.store.delete(&garbage).await?;
        Ok(mount)
    }

    async fn transact(&self, batch: &Batch) -> Result<(), MetaError> {
        self.kv.room().await?;
        self.kv.transact(&mut |_| Ok(batch.clone().into()))
    }

    /// All keys, by one scan.
    async fn all(&self) -> Model {
        self.scan(Key::tag(0), Key::tag(254), Direction::Forward).await.into_iter().collect()
    }

    async fn scan(&self, from: Key, to: Key, direction: Direction) -> Vec<(Key, Value)> {
        loop {
            let mut found = Vec::new();
            let read = self.kv.read(&mut |view| {
                found.clear();
                view.scan(from..to, direction, &mut |key, value| {
                    found.push((*key, Value::from(value)));
                    Ok(std::ops::ControlFlow::Continue(()))
                })
                .map(drop)
            });
            match read {
                Err(MetaError::Elsewhere(missing)) => self.kv.fetch(&missing).await.unwrap(),
                read => {
                    read.unwrap();
                    return found;
                }
            }
        }
    }

    async fn get(&self, key: &Key) -> Option<Value> {
        loop {
            let mut found = None;
            match self.kv.read(&mut |view| view.get(key).map(|value| found = value)) {
                Err(MetaError::Elsewhere(missing)) => self.kv.fetch(&missing).await.unwrap(),
                read => {
                    read.unwrap();
                    return found;
                }
            }
        }
    }

    /// As a crash of the process ends it.
    fn crash(self) -> MemoryStore {
        self.store.cut();
        self.leading.kill();
        self.store.another()
    }

    async fn end(self) -> MemoryStore {
        self.kv.sync().await.unwrap();
        self.leading.end().await;
        self.store.another()
    }
}

fn key(n: u64) -> Key {
    Key::tag(b'I').with(n)
}

fn random_batch(dice: &mut Dice) -> Batch {
    let changes = 1 + dice.below(6);
    (0..changes)
        .map(|_| {
            let value = (dice.below(4) > 0)
                .then(|| Value::from(vec![dice.below(250) as u8; dice.below(90) as usize]));
            (key(dice.below(400)), value)
        })
        .collect()
}

fn apply(model: &mut Model, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => model.insert(*key, value.clone()),
            None => model.remove(key),
        };
    }
}

/// Asserts that the mount shows what the model has, by every way to look.
async fn assert_shows(mount: &Mount, model: &Model, dice: &mut Dice, seed: u64) {
    assert_eq!(&mount.all().await, model, "seed {seed}");
    for _ in 0..5 {
        let key = key(dice.below(400));
        assert_eq!(mount.get(&key).await.as_ref(), model.get(&key), "seed {seed}");
    }
    let (a, b) = (dice.below(400), dice.below(400));
    let (from, to) = (key(a.min(b)), key(a.max(b)));
    let mut expected: Vec<_> = model.range(from..to).map(|(k, v)| (*k, v.clone())).collect();
    assert_eq!(mount.scan(from, to, Direction::Forward).await, expected, "seed {seed}");
    expected.reverse();
    assert_eq!(mount.scan(from, to, Direction::Backward).await, expected, "seed {seed}");
}

/// Mounts that end and crash in turn, each of which must show a state that the one before had been in, no
/// older than its last sync.
async fn leaders_follow(seed: u64) {
    let mut dice = Dice::new(seed);
    let mut store = MemoryStore::default();
    if dice.below(2) == 0 {
        store.shuffle(seed);
    }
    // All states since the last sync.
    let mut states = vec![Model::new()];
    for _ in 0..8 {
        let cache = TempDir::new().unwrap();
        let cache = (dice.below(3) > 0).then_some(&cache);
        let mount = Mount::open(store, cache).await.unwrap();
        let shown = mount.all().await;
        let at = states.iter().rposition(|state| *state == shown);
        assert!(at.is_some(), "seed {seed}: a state that never was: {} keys", shown.len());
        let mut model = shown;
        assert_shows(&mount, &model, &mut dice, seed).await;
        mount.kv.sync().await.unwrap();
        states = vec![model.clone()];
        // Each is tried again a little later; so many that no transaction waits too long for room.
        let mut faults = 6;
        for _ in 0..dice.below(120) {
            let batch = random_batch(&mut dice);
            mount.transact(&batch).await.unwrap();
            apply(&mut model, &batch);
            states.push(model.clone());
            match dice.below(12) {
                0 if mount.kv.sync().await.is_ok() => states = vec![model.clone()],
                1 => assert_shows(&mount, &model, &mut dice, seed).await,
                2 => tokio::time::sleep(Duration::from_millis(dice.below(80))).await,
                fault @ 3..=4 if faults > 0 => {
                    faults -= 1;
                    mount.store.fail_next(&[[Fault::Lost, Fault::Partial][fault as usize - 3]]);
                }
                // Long enough for a snapshot that has failed to be tried again.
                5 if dice.below(4) == 0 => tokio::time::sleep(Duration::from_secs(6)).await,
                _ => {}
            }
        }
        if dice.below(3) == 0 {
            while mount.kv.sync().await.is_err() {}
            states = vec![model];
            store = mount.end().await;
        } else {
            store = mount.crash();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_what_can_change_no_more_rests() {
    let mount = Mount::open(MemoryStore::default(), None).await.unwrap();
    let change = Batch::from([(key(1), Some(Value::from(&b"late"[..])))]);
    mount.transact(&change).await.unwrap();
    mount.kv.tables.end("a test has torn it");
    // Time goes on only while nobody has anything to do.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(matches!(mount.kv.sync().await, Err(MetaError::Ended(_))));
    tokio::time::timeout(Duration::from_secs(60), mount.leading.end()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_leader_finds_what_the_one_before_had_made_durable() {
    for seed in 0..60 {
        leaders_follow(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_needed_any_more_is_deleted() {
    let mut store = MemoryStore::default();
    for round in 0..4 {
        let mount = Mount::open(store, None).await.unwrap();
        for n in 0..300 {
            mount
                .transact(&Batch::from([(key(n % 50), Some(Value::from(&[round; 60][..])))]))
                .await
                .unwrap();
            mount.kv.sync().await.unwrap();
        }
        store = mount.end().await;
    }
    let names = store.names();
    let of = |role| names.iter().filter(|id| Role::of(id.session()).0 == role).count();
    assert_eq!(of(Role::Manifest), 1, "{names:?}");
    assert!(of(Role::Entry) <= 2 * TINY.snapshot_entries && of(Role::Chunk) <= 8, "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_until_what_a_snapshot_made_needless_is_deleted() {
    let mount = Mount::open(MemoryStore::default(), None).await.unwrap();
    let gate = mount.store.hold_deletes();
    // By far more entries than a snapshot is taken from.
    for n in 0..10 * TINY.snapshot_entries as u64 {
        let batch = Batch::from([(key(n), Some(Value::from(&b"x"[..])))]);
        mount.transact(&batch).await.unwrap();
        let synced = tokio::time::timeout(Duration::from_secs(10), mount.kv.sync()).await;
        synced.expect("it waits for what is deleted").unwrap();
    }
    let of = |store: &MemoryStore, role| {
        let names = store.names();
        names.iter().filter(|id| Role::of(id.session()).0 == role).count()
    };
    assert!(of(&mount.store, Role::Manifest) > 0, "no snapshot was taken");
    assert!(of(&mount.store, Role::Entry) > 9 * TINY.snapshot_entries, "something was deleted");
    gate.add_permits(1);
    let store = mount.end().await;
    assert_eq!(of(&store, Role::Manifest), 1);
    assert!(of(&store, Role::Entry) <= 2 * TINY.snapshot_entries);
}

#[tokio::test(start_paused = true)]
async fn whoever_leads_no_more_deletes_nothing_any_more() {
    let mount = Mount::open(MemoryStore::default(), None).await.unwrap();
    let gate = mount.store.hold_deletes();
    for n in 0..2 * TINY.snapshot_entries as u64 {
        let batch = Batch::from([(key(n), Some(Value::from(&b"x"[..])))]);
        mount.transact(&batch).await.unwrap();
        mount.kv.sync().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let Mount { leading, store, .. } = mount;
    let before = store.names();
    let taken = before.iter().any(|id| Role::of(id.session()).0 == Role::Manifest);
    assert!(taken, "no snapshot was taken");
    leading.kill();
    tokio::time::sleep(Duration::from_secs(10)).await;
    gate.add_permits(1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(store.names(), before);
}

/// Bounds as a volume has them, but for a journal that a test can fill.
const FULL: Bounds = Bounds { snapshot_bytes: 1 << 20, batch_bytes: 256 << 10, ..TINY };

#[tokio::test(start_paused = true)]
async fn a_full_store_can_be_deleted_from() {
    let mount = Mount::open_with(MemoryStore::default(), None, FULL).await.unwrap();
    let value = Value::from(&[7; 500][..]);
    mount.store.limit_room(12 << 20);
    let mut keys = 0;
    while mount.kv.may_grow() {
        mount.transact(&Batch::from([(key(keys), Some(value.clone()))])).await.unwrap();
        keys += 1;
        if keys.is_multiple_of(50) {
            mount.kv.sync().await.unwrap();
        }
        assert!(keys < 100_000, "it grows for ever");
    }
    mount.kv.sync().await.unwrap();
    for n in 0..keys {
        mount.transact(&Batch::from([(key(n), None)])).await.unwrap();
    }
    mount.kv.sync().await.unwrap();
    // The snapshot is taken beside other work.
    for n in 0.. {
        mount.transact(&Batch::from([(key(n), None)])).await.unwrap();
        mount.kv.sync().await.unwrap();
        if mount.kv.may_grow() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(n < 60, "room never comes back");
    }
    let opened = Mount::open(mount.end().await, None).await.unwrap();
    for n in (0..keys).step_by(97) {
        assert_eq!(opened.get(&key(n)).await, None, "key {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_who_wait_share_few_entries() {
    let mount = Mount::open(MemoryStore::default(), None).await.unwrap();
    let before = mount.store.puts();
    let syncs = (0..64).map(|n| {
        let mount = &mount;
        async move {
            mount.transact(&Batch::from([(key(n), Some(Value::from(&b"x"[..])))])).await.unwrap();
            mount.kv.sync().await.unwrap();
        }
    });
    futures::future::join_all(syncs).await;
    let puts = mount.store.puts() - before;
    assert!(puts <= 6, "{puts} puts");
}

#[tokio::test(start_paused = true)]
async fn many_who_miss_the_same_chunk_fetch_it_once() {
    let mount = Mount::open(MemoryStore::default(), None).await.unwrap();
    for n in 0..100 {
        let value = Value::from(&[n as u8; 200][..]);
        mount.transact(&Batch::from([(key(n), Some(value))])).await.unwrap();
    }
    let cache = TempDir::new().unwrap();
    let store = mount.end().await;
    let mount = Mount::open(store, Some(&cache)).await.unwrap();
    let chunks = mount.store.names().into_iter();
    let chunks = chunks.filter(|id| Role::of(id.session()).0 == Role::Chunk).count() as u64;
    assert!(chunks > 0, "nothing is in a snapshot");
    // What opening it has fetched is gone.
    mount.kv.tables.cache.forget_all();
    let before = mount.store.requests();
    let looks = (0..64).map(|n| {
        let mount = &mount;
        async move { assert_eq!(mount.get(&key(n)).await.unwrap()[0], n as u8) }
    });
    futures::future::join_all(looks).await;
    let requests = mount.store.requests() - before;
    assert!((1..=chunks).contains(&requests), "{requests} requests for {chunks} chunks");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_taken_over_changes_nothing_and_says_why() {
    let old = Mount::open(MemoryStore::default(), None).await.unwrap();
    let put = |n: u64| Batch::from([(key(n), Some(Value::from(&b"x"[..])))]);
    old.transact(&put(1)).await.unwrap();
    old.kv.sync().await.unwrap();
    old.transact(&put(2)).await.unwrap();
    let new = Mount::open(old.store.another(), None).await.unwrap();
    new.transact(&put(3)).await.unwrap();
    new.kv.sync().await.unwrap();
    let error = old.kv.sync().await.unwrap_err().to_string();
    assert!(error.contains("taken over"), "{error}");
    assert!(old.transact(&put(4)).await.is_err());
    let newest = Mount::open(new.crash(), None).await.unwrap();
    assert_eq!(newest.all().await.into_keys().collect::<Vec<_>>(), [key(1), key(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_has_nothing_to_write_hears_that_it_was_taken_over() {
    let old = Mount::open(MemoryStore::default(), None).await.unwrap();
    let put = |n: u64| Batch::from([(key(n), Some(Value::from(&b"x"[..])))]);
    old.transact(&put(1)).await.unwrap();
    old.kv.sync().await.unwrap();
    let _new = Mount::open(old.store.another(), None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let error = old.kv.sync().await.unwrap_err().to_string();
    assert!(error.contains("taken over"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn whatever_is_missing_or_changed_in_the_store_is_said_and_nothing_is_deleted() {
    for seed in 0..150 {
        let mut dice = Dice::new(seed);
        let mount = Mount::open(MemoryStore::default(), None).await.unwrap();
        let mut model = Model::new();
        for _ in 0..60 {
            let batch = random_batch(&mut dice);
            mount.transact(&batch).await.unwrap();
            apply(&mut model, &batch);
            mount.kv.sync().await.unwrap();
        }
        let store = mount.end().await;
        let names = store.names();
        let victim = names[dice.below(names.len() as u64) as usize];
        let last = names.iter().filter(|id| Role::of(id.session()).0 == Role::Entry).max();
        let removed = dice.below(3) == 0;
        let bit = dice.below(u64::from(victim.len()) * 8);
        store.tamper(victim, |mut bytes| {
            bytes[bit as usize / 8] ^= 1 << (bit % 8);
            (!removed).then_some(bytes)
        });
        let left = store.names();
        match Mount::open(store.another(), None).await {
            // The last entry, gone from all slots, cannot be told from one that never was.
            Ok(_) if removed && Some(&victim) == last => {}
            Ok(mount) => {
                assert_eq!(Role::of(victim.session()).0, Role::Chunk, "seed {seed}: {victim}");
                let mut failed = false;
                for n in 0..400 {
                    failed |= loop {
                        let mut found = None;
                        match mount.kv.read(&mut |view| view.get(&key(n)).map(|v| found = v)) {
                            Err(MetaError::Elsewhere(missing)) => {
                                if mount.kv.fetch(&missing).await.is_err() {
                                    break true;
                                }
                            }
                            Ok(()) => {
                                assert_eq!(found.as_ref(), model.get(&key(n)), "seed {seed}");
                                break false;
                            }
                            Err(error) => panic!("seed {seed}: {error}"),
                        }
                    };
                }
                assert!(failed, "seed {seed}: damage of {victim} went unseen");
            }
            Err(_) => assert_eq!(store.names(), left, "seed {seed}"),
        }
    }
}

/// Takes the volume over with what is left of it.
async fn salvage(store: MemoryStore) -> (Mount, Losses) {
    let store = Arc::new(store);
    let taking = TakeOver {
        store: store.clone(),
        volume: VolumeId(3),
        scheme: Scheme::copies(3).unwrap(),
        cache: None,
        cache_bytes: 40_000,
        bounds: TINY,
        holder: "a test".to_owned(),
    };
    let (led, losses) = taking.run_with_remains().await.unwrap();
    assert!(led.garbage.is_empty(), "it would delete something");
    let (tables, leading) = led.start("home");
    (Mount { kv: JournaledKv::open(tables).await.unwrap(), leading, store }, losses)
}

/// Whatever is gone of the blobs that metadata are in: each key has a value that it once had, and the last one where an
/// entry says so that is left. Nothing is deleted, and from then on the volume is taken over as any other.
#[tokio::test(start_paused = true)]
async fn what_is_left_is_taken_over_when_that_is_ordered() {
    for seed in 0..150 {
        let mut dice = Dice::new(seed);
        let (mut store, mut model) = (MemoryStore::default(), Model::new());
        let mut had: BTreeMap<Key, Vec<Option<Value>>> = BTreeMap::new();
        for _ in 0..2 {
            let mount = Mount::open(store, None).await.unwrap();
            for _ in 0..30 {
                let batch = random_batch(&mut dice);
                mount.transact(&batch).await.unwrap();
                apply(&mut model, &batch);
                batch.into_iter().for_each(|(key, value)| had.entry(key).or_default().push(value));
                mount.kv.sync().await.unwrap();
            }
            store = mount.end().await;
        }
        let share = dice.below(5);
        for victim in store.names() {
            if dice.below(10) < share {
                store.tamper(victim, |_| None);
            }
        }
        let left = store.names();
        // What the entries say that are left: both leaders ended in order, so that all of them count.
        let mut said = Batch::new();
        let mut entries: Vec<BlobId> = left.clone();
        entries.retain(|id| Role::of(id.session()).0 == Role::Entry);
        entries.sort_by_key(BlobId::sequence);
        for id in entries {
            let bytes = store.get(id, 0..id.len()).await.unwrap();
            said.extend(Entry::decode(id, &bytes).unwrap().batch);
        }
        let (mount, losses) = salvage(store.another()).await;
        let there = mount.store.names();
        assert!(left.iter().all(|id| there.contains(id)), "seed {seed}: something was deleted");
        let found = mount.all().await;
        for n in 0..400 {
            let (key, value) = (key(n), found.get(&key(n)).cloned());
            let once = had.get(&key).is_some_and(|had| had.contains(&value));
            assert!(value.is_none() || once, "seed {seed}: key {n} never had {value:?}");
            if let Some(last) = said.get(&key) {
                assert_eq!(&value, last, "seed {seed}: key {n} of {losses:?}");
            }
        }
        if share == 0 {
            assert!(losses.is_none(), "seed {seed}: {losses:?}");
            assert_eq!(found, model, "seed {seed}");
        }
        let again = Mount::open(mount.crash(), None).await.unwrap();
        assert_eq!(again.all().await, found, "seed {seed}");
    }
}

/// Files of the cache are cut, changed and taken away at 2,000 places, after an end in order and after a crash.
#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_the_cache_nothing_is_lost() {
    let cache = TempDir::new().unwrap();
    let (mut dice, mut model) = (Dice::new(3), Model::new());
    // Of several blocks, and not all in memory.
    let bounds = Bounds { batch_bytes: 50_000, snapshot_bytes: 150_000, ..TINY };
    let mut mount = Mount::open_with(MemoryStore::default(), Some(&cache), bounds).await.unwrap();
    let many: Batch = (0..2000).map(|n| (key(n), Some(Value::from(&[n as u8; 40][..])))).collect();
    mount.transact(&many).await.unwrap();
    apply(&mut model, &many);
    let (mut places, mut most) = (0, 0);
    while places < 2000 {
        let batch = random_batch(&mut dice);
        mount.transact(&batch).await.unwrap();
        apply(&mut model, &batch);
        mount.kv.sync().await.unwrap();
        let store = if dice.below(2) == 0 { mount.end().await } else { mount.crash() };
        let files = std::fs::read_dir(cache.path()).unwrap();
        let files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        most = files.len().max(most);
        for file in files {
            let mut bytes = std::fs::read(&file).unwrap();
            if bytes.is_empty() || dice.below(8) == 0 {
                std::fs::remove_file(&file).unwrap();
                continue;
            }
            // Every other place is in the index, which is short.
            let index = bytes.len().min(200) as u64;
            let within = if dice.below(2) == 0 { index } else { bytes.len() as u64 };
            let at = bytes.len() - 1 - dice.below(within) as usize;
            match dice.below(6) {
                0 => bytes.truncate(at),
                1 => bytes[at..].fill(0),
                _ => bytes[at] ^= 1 << dice.below(8),
            }
            std::fs::write(&file, &bytes).unwrap();
            places += 1;
        }
        mount = Mount::open_with(store, Some(&cache), bounds).await.unwrap();
        for _ in 0..30 {
            let key = key(dice.below(2000));
            assert_eq!(mount.get(&key).await.as_ref(), model.get(&key), "after {places} places");
        }
        assert_eq!(mount.all().await, model, "after {places} places");
    }
    assert!(most > 1, "it was never more than one chunk");
}

/// A snapshot whose manifest is stored by halves is finished by the same manifest: whoever takes the volume over
/// finds one, and the journal does not grow for ever.
#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_manifest_failed_is_finished_with_the_same_bytes() {
    for fault in [Fault::Lost, Fault::Partial] {
        let mount = Mount::open(MemoryStore::default(), None).await.unwrap();
        let tries = Arc::new(AtomicUsize::new(0));
        let tried = tries.clone();
        mount.store.fail_if(move |id| {
            let manifest = Role::of(id.session()).0 == Role::Manifest;
            (manifest && tried.fetch_add(1, Ordering::Relaxed) < 3).then_some(fault)
        });
        let mut dice = Dice::new(5);
        let mut model = Model::new();
        for _ in 0..100 {
            let batch = random_batch(&mut dice);
            mount.transact(&batch).await.unwrap();
            apply(&mut model, &batch);
            mount.kv.sync().await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert!(tries.load(Ordering::Relaxed) > 4, "it was not tried again");
        let entries = |id: &&BlobId| Role::of(id.session()).0 == Role::Entry;
        let left = mount.store.names().iter().filter(entries).count();
        assert!(left <= 3 * TINY.snapshot_entries, "{left} entries are left");
        let next = Mount::open(mount.crash(), None).await.unwrap();
        assert_eq!(next.all().await, model, "{fault:?}");
    }
}

/// A snapshot that fails again and again takes no more and more room.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_fails_leaves_no_chunks_behind() {
    let mount = Mount::open(MemoryStore::default(), None).await.unwrap();
    let chunk = |id: BlobId| Role::of(id.session()).0 == Role::Chunk;
    mount.store.fail_if(move |id| chunk(id).then_some(Fault::Partial));
    for n in 0..40 {
        let value = Some(Value::from(&[7; 500][..]));
        mount.transact(&Batch::from([(key(n), value)])).await.unwrap();
        mount.kv.sync().await.unwrap();
    }
    // Whoever writes has it tried again.
    for n in 0..60 {
        mount.transact(&Batch::from([(key(n), None)])).await.unwrap();
        mount.kv.sync().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let left = mount.store.names().into_iter().filter(|id| chunk(*id)).count();
    assert!(left <= 1, "{left} chunks that nobody needs");
    mount.store.fail_if(|_| None);
    let found = Mount::open(mount.crash(), None).await.unwrap().all().await;
    assert_eq!(found.len(), 0);
}

/// A manifest that was never acknowledged lies on slots which are silent while another takes the volume over,
/// deletes the chunks that nothing it knows stands on, and writes. Then they are back.
#[tokio::test(start_paused = true)]
async fn a_manifest_that_a_later_leader_did_not_know_counts_for_nothing() {
    let mount = Mount::open(MemoryStore::default(), None).await.unwrap();
    let manifest = |id: BlobId| Role::of(id.session()).0 == Role::Manifest;
    let mut model = Model::new();
    let write = async |mount: &Mount, model: &mut Model, seed: u64| {
        let mut dice = Dice::new(seed);
        for _ in 0..30 {
            let batch = random_batch(&mut dice);
            mount.transact(&batch).await.unwrap();
            apply(model, &batch);
            mount.kv.sync().await.unwrap();
        }
    };
    write(&mount, &mut model, 1).await;
    assert!(mount.store.names().into_iter().any(manifest), "there is an older one");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let older: Vec<BlobId> = mount.store.names().into_iter().filter(|id| manifest(*id)).collect();
    mount.store.fail_if(move |id| manifest(id).then_some(Fault::Partial));
    write(&mount, &mut model, 2).await;
    let store = mount.crash();
    store.fail_if(|_| None);
    let unknown = store.names().into_iter().find(|id| manifest(*id) && !older.contains(id));
    let (unknown, mut bytes) = (unknown.expect("some slots have it"), Vec::new());
    store.tamper(unknown, |stored| {
        bytes = stored;
        None
    });
    let next = Mount::open(store, None).await.unwrap();
    assert_eq!(next.all().await, model);
    // Its garbage goes with its first entry, and it ends before it has written a snapshot.
    next.transact(&Batch::from([(key(0), Some(Value::from(&b"next"[..])))])).await.unwrap();
    model.insert(key(0), Value::from(&b"next"[..]));
    next.kv.sync().await.unwrap();
    let store = next.crash();
    store.turn_up(unknown, bytes);
    for _ in 0..2 {
        let last = Mount::open(store.another(), None).await.unwrap();
        assert_eq!(last.all().await, model);
    }
}

/// One mount's life over and over, cut off at each of its requests in turn: while it takes over, journals,
/// merges, or deletes what is needless.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_leaves_a_state_that_was() {
    for cut in 0.. {
        // Something to take over, with a snapshot and entries behind it.
        let mut dice = Dice::new(11);
        let mount = Mount::open(MemoryStore::default(), None).await.unwrap();
        let mut model = Model::new();
        for _ in 0..40 {
            let batch = random_batch(&mut dice);
            mount.transact(&batch).await.unwrap();
            apply(&mut model, &batch);
            mount.kv.sync().await.unwrap();
        }
        let store = mount.crash();
        store.cut_after(cut);
        let other = store.another();
        let mut states = vec![model.clone()];
        let life = async {
            let mount = Mount::open(store, None).await.unwrap();
            for _ in 0..60 {
                let batch = random_batch(&mut dice);
                mount.transact(&batch).await.unwrap();
                apply(&mut model, &batch);
                states.push(model.clone());
                mount.kv.sync().await.unwrap();
                states.drain(..states.len() - 1);
            }
            mount.store.requests()
        };
        let lived = tokio::time::timeout(Duration::from_secs(600), life).await;
        let names = other.names();
        let found = Mount::open(other, None).await.unwrap().all().await;
        assert!(states.contains(&found), "cut after {cut} requests");
        if let Ok(requests) = lived
            && requests < cut
        {
            assert!(cut > 60, "only {cut} requests");
            // It has taken a snapshot, and trimmed the journal, in its life.
            let epochs = |role| {
                let of =
                    names.iter().map(|id| Role::of(id.session())).filter(|(of, _)| *of == role);
                of.map(|(_, epoch)| epoch).collect::<std::collections::BTreeSet<_>>()
            };
            assert!(epochs(Role::Manifest).contains(&2) && !epochs(Role::Entry).contains(&1));
            return;
        }
    }
}

/// Two mounts on two machines, each of which is paused and goes on, and is mounted anew when it has lost the
/// volume: what either was told is durable is a state of one history.
async fn two_holders(seed: u64) {
    let mut dice = Dice::new(seed);
    let first = MemoryStore::default();
    first.shuffle(seed);
    let stores = [first.another(), first.another()];
    let mut mounts: [Option<Mount>; 2] = [None, None];
    // What was acknowledged last, and what may have become durable since; as numbers of one counter.
    let (mut number, mut acknowledged) = (0u64, 0u64);
    let mut pending: Vec<u64> = Vec::new();
    let counter = key(0);
    for _ in 0..40 {
        let who = dice.below(2) as usize;
        let Some(mount) = &mounts[who] else {
            let Ok(mount) = Mount::open(stores[who].another(), None).await else { continue };
            let found = mount.get(&counter).await;
            let found = found.map_or(0, |v| u64::from_le_bytes(v[..8].try_into().unwrap()));
            assert!(
                found == acknowledged || pending.contains(&found),
                "seed {seed}: {found} found, {acknowledged} acknowledged, {pending:?} pending"
            );
            // The other is paused, not dead: from now on nothing of it may count.
            pending.clear();
            acknowledged = found;
            mounts[who] = Some(mount);
            continue;
        };
        number += 1;
        let value = Value::from(&number.to_le_bytes()[..]);
        let wrote = mount.transact(&Batch::from([(counter, Some(value))])).await;
        let synced = match wrote {
            Ok(()) if dice.below(3) > 0 => mount.kv.sync().await,
            wrote => wrote,
        };
        match synced {
            Ok(()) if mount.kv.unsynced_bytes() == 0 => {
                acknowledged = number;
                pending.clear();
            }
            Ok(()) => pending.push(number),
            Err(_) => {
                // It was taken over, and says so; it mounts again later.
                mounts[who].take().expect("it was there").leading.kill();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_machines_never_both_have_a_volume() {
    let seeds = std::env::var("ASHLAR_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    for seed in 1..=seeds {
        two_holders(seed).await;
    }
}
