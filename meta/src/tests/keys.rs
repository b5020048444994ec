//! What operations read and write: two that have nothing to do with one another share no key.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{ADMIN, blob, format, open, wait};
use crate::engine::memory::MemoryKv;
use crate::engine::{Direction, Kv, Read, Scanned, Value, View, Visit, Write};
use crate::key::Key;
use crate::key::counters::Counters;
use crate::rules::name;
use crate::store::{Extent, FileUpdate, Ino, MetaError, MetaStore, NewNode, Place, ROOT};
use crate::volume::session::Session;

/// Keeps the keys that transactions read and write.
#[derive(Default)]
struct Watched {
    kv: MemoryKv,
    read: Arc<Mutex<BTreeSet<Key>>>,
    written: Mutex<BTreeSet<Key>>,
}

struct Watching<'a> {
    view: &'a dyn View,
    read: &'a Mutex<BTreeSet<Key>>,
}

impl View for Watching<'_> {
    fn get(&self, key: &Key) -> Result<Option<Value>, MetaError> {
        self.read.lock().insert(*key);
        self.view.get(key)
    }

    fn scan(&self, range: Range<Key>, direction: Direction, visit: &mut Visit<'_>) -> Scanned {
        self.view.scan(range, direction, &mut |key, value| {
            self.read.lock().insert(*key);
            visit(key, value)
        })
    }

    fn counters(&self) -> Result<Counters, MetaError> {
        panic!("an operation reads the counters");
    }
}

#[async_trait]
impl Kv for Watched {
    fn read(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        self.kv.read(body)
    }

    fn read_durable(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        self.kv.read_durable(body)
    }

    fn transact(&self, body: &mut Write<'_>) -> Result<(), MetaError> {
        self.kv.transact(&mut |view| {
            let change = body(&Watching { view, read: &self.read })?;
            self.written.lock().extend(change.writes.keys());
            Ok(change)
        })
    }

    fn batch(&self) -> u64 {
        self.kv.batch()
    }

    fn durable_batches(&self) -> u64 {
        self.kv.durable_batches()
    }

    async fn sync(&self) -> Result<(), MetaError> {
        self.kv.sync().await
    }
}

impl Watched {
    /// The keys that were read and those that were written since this was asked.
    fn taken(&self) -> (BTreeSet<Key>, BTreeSet<Key>) {
        (std::mem::take(&mut self.read.lock()), std::mem::take(&mut self.written.lock()))
    }
}

/// A bit of everything, in one directory.
fn work(meta: &Session, dir: Ino, number: u64) {
    let create = |name: &[u8]| wait(meta.create(ADMIN, dir, name, 0o644, NewNode::File)).unwrap();
    let (file, other) = (create(b"file").ino, create(b"other").ino);
    for round in 0..3 {
        let id = blob(number * 10 + round, 4096);
        let place = Some(Place { blob: id, offset: 0 });
        let extents = vec![Extent { offset: 4096 * (round % 2), len: 4096, place }];
        let update = FileUpdate { ino: file, extents, size_at_least: Some(8192), mtime: None };
        wait(meta.commit(&[id], &[update])).unwrap();
    }
    wait(meta.allocate(other, 0..9000, true)).unwrap();
    wait(meta.truncate(file, 100)).unwrap();
    wait(meta.rename(
        (dir, b"other"),
        (dir, b"file"),
        crate::RenameMode::Replace,
        crate::Fate::Gone,
    ))
    .unwrap();
    wait(meta.reap(&[file])).unwrap();
    wait(meta.unlink(dir, b"file")).unwrap();
    wait(meta.reap(&[other])).unwrap();
}

#[test]
fn changes_of_different_directories_share_no_key() {
    let kv = Arc::new(Watched::default());
    let record = format(&*kv);
    let one = open(kv.clone(), &record, name::hash);
    let two = wait(one.opened_on().open_session()).unwrap();
    let sessions = [one, two];
    let dirs = [&b"a"[..], b"b"].map(|name| {
        wait(sessions[0].create(ADMIN, ROOT, name, 0o755, NewNode::Directory)).unwrap().ino
    });
    // Each has a range of numbers for its inodes.
    for session in &sessions {
        let made = wait(session.create(ADMIN, ROOT, b"x", 0o644, NewNode::File)).unwrap();
        wait(session.unlink(ROOT, b"x")).unwrap();
        wait(session.reap(&[made.ino])).unwrap();
    }
    kv.taken();
    for (first, second) in [(0, 1), (0, 0)] {
        work(&sessions[first], dirs[0], 1);
        let (_, written) = kv.taken();
        work(&sessions[second], dirs[1], 2);
        let (read, also_written) = kv.taken();
        let shared: Vec<_> = read.union(&also_written).filter(|k| written.contains(k)).collect();
        assert_eq!(shared, Vec::<&Key>::new(), "sessions {first} and {second}");
        assert!(written.len() > 10 && also_written.len() > 10);
        for (dir, number) in [(dirs[0], 1), (dirs[1], 2)] {
            let ids: Vec<_> = (0..3).map(|round| blob(number * 10 + round, 4096)).collect();
            wait(sessions[0].sync()).unwrap();
            wait(sessions[0].forget_blobs(&ids)).unwrap();
            assert_eq!(wait(sessions[0].readdir(dir, 0, 9)).unwrap().len(), 2);
        }
        kv.taken();
    }
    super::assert_clean(&sessions[0]);
}
