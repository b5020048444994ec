//! How often an operation over cold tables asks the store: what it can name, it names at once.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use proto::id::BlobId;

use super::{ADMIN, blob, format, open, wait};
use crate::engine::memory::MemoryKv;
use crate::engine::{Direction, Kv, Read, Scanned, Value, View, Visit, Write};
use crate::key::Key;
use crate::key::counters::Counters;
use crate::missing::Missing;
use crate::rules::name;
use crate::store::{
    Above, Extent, Fate, FileUpdate, Ino, MetaError, MetaStore, NewNode, Place, ROOT, Relocation,
    RenameMode, Time,
};
use crate::volume::session::Session;

/// Keeps what was fetched, and counts rounds. A chunk is all that one inode, session or directory has of a kind.
#[derive(Default)]
struct Cold {
    kv: MemoryKv,
    here: Mutex<BTreeSet<BlobId>>,
    rounds: AtomicUsize,
}

struct Far<'a> {
    view: &'a dyn View,
    here: &'a Mutex<BTreeSet<BlobId>>,
}

impl Far<'_> {
    fn look(&self, key: &Key) -> Result<(), MetaError> {
        let (tag, rest) = key.as_bytes().split_first().unwrap();
        // References are packed: they have no number of eight bytes.
        let number =
            rest.first_chunk().filter(|_| *tag != b'R').map_or(0, |n| u64::from_be_bytes(*n));
        let chunk = blob(number, u32::from(*tag));
        if self.here.lock().contains(&chunk) {
            return Ok(());
        }
        Err(MetaError::Elsewhere(Missing::one(chunk, None)))
    }
}

impl View for Far<'_> {
    fn get(&self, key: &Key) -> Result<Option<Value>, MetaError> {
        self.look(key)?;
        self.view.get(key)
    }

    fn scan(&self, range: Range<Key>, direction: Direction, visit: &mut Visit<'_>) -> Scanned {
        self.look(&range.start)?;
        self.view.scan(range, direction, &mut |key, value| {
            self.look(key)?;
            visit(key, value)
        })
    }

    fn counters(&self) -> Result<Counters, MetaError> {
        self.view.counters()
    }
}

#[async_trait]
impl Kv for Cold {
    fn read(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        self.kv.read(&mut |view| body(&Far { view, here: &self.here }))
    }

    fn read_durable(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        self.kv.read_durable(body)
    }

    fn transact(&self, body: &mut Write<'_>) -> Result<(), MetaError> {
        self.kv.transact(&mut |view| body(&Far { view, here: &self.here }))
    }

    async fn fetch(&self, missing: &Missing) -> Result<(), MetaError> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.here.lock().extend(missing.blocks().iter().map(|block| block.chunk));
        Ok(())
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

const FILES: u64 = 5;

/// A directory of files, each with its own blob, and another directory.
fn prepared(meta: &Session) -> (Ino, Ino, Vec<Ino>) {
    let dir =
        |name: &[u8]| wait(meta.create(ADMIN, ROOT, name, 0o755, NewNode::Directory)).unwrap().ino;
    let (here, there) = (dir(b"here"), dir(b"there"));
    let files = (0..FILES).map(|number| {
        let name = format!("file{number}");
        let made = meta.create(ADMIN, here, name.as_bytes(), 0o644, NewNode::File);
        let ino = wait(made).unwrap().ino;
        let id = blob(number, 4096);
        let extents = vec![written(id)];
        let update = FileUpdate { ino, extents, size_at_least: Some(4096), mtime: None };
        wait(meta.commit(&[id], &[update])).unwrap();
        ino
    });
    let files = files.collect();
    wait(meta.create(ADMIN, there, b"target", 0o644, NewNode::File)).unwrap();
    (here, there, files)
}

fn written(blob: BlobId) -> Extent {
    Extent { offset: 0, len: 4096, place: Some(Place { blob, offset: 0 }) }
}

/// A volume with its engine, of which nothing is at hand.
struct Site {
    kv: Arc<Cold>,
    meta: Session,
}

impl Site {
    fn new() -> Self {
        let kv = Arc::new(Cold::default());
        let record = format(&kv.kv);
        let meta = open(kv.clone(), &record, name::hash);
        Self { kv, meta }
    }

    /// Has an operation begin with nothing at hand, and counts its rounds.
    fn rounds<R>(
        &self,
        what: &str,
        most: usize,
        operation: impl Future<Output = Result<R, MetaError>>,
    ) -> R {
        self.kv.here.lock().clear();
        self.kv.rounds.store(0, Ordering::Relaxed);
        let answer = wait(operation).unwrap();
        let took = self.kv.rounds.load(Ordering::Relaxed);
        println!("{what}: {took} rounds");
        assert!(took <= most, "{what} took {took} rounds instead of {most}");
        assert!(took > 0, "{what} found everything at hand");
        answer
    }
}

#[test]
fn what_is_named_is_fetched_in_one_round() {
    let site = Site::new();
    let meta = &site.meta;
    let (here, there, files) = prepared(meta);
    site.rounds("getattr", 1, meta.getattr(files[0]));
    site.rounds("lookup: the name, then what it names", 2, meta.lookup(here, b"file0"));
    let what = "readdir: the directory with its names, then the inodes";
    assert_eq!(site.rounds(what, 2, meta.readdir(here, 0, 99)).len(), 2 + files.len());
    let what = "above: the directories, then the names in the one that they are in";
    let above = site.rounds(what, 2, meta.above(&[here, there, Ino(1 << 40)]));
    let at = |name: &[u8]| Above { dir: ROOT, name: name.to_vec(), in_trash: false };
    assert!(above.into_iter().eq([(here, at(b"here")), (there, at(b"there"))]));
    wait(meta.setxattr(files[2], b"user.a", b"value", None)).unwrap();
    let names = [&b"file2"[..], b"none", b"file0"].map(<[u8]>::to_vec);
    let what = "look: the names, then what they name, then their attributes";
    let looked = site.rounds(what, 3, meta.look(here, &names, b"user.a"));
    let looked = looked.into_iter().map(|one| one.map(|one| (one.attr.ino, one.value)));
    let value = Some(b"value".to_vec());
    assert!(looked.eq([Some((files[2], value)), None, Some((files[0], None))]));
    let new = meta.create(ADMIN, here, b"new", 0o644, NewNode::File);
    site.rounds("create", 1, new);
    site.rounds("link", 1, meta.link(files[0], there, b"link"));
    site.rounds("unlink: the name, then what it names", 2, meta.unlink(here, b"new"));
    let rename = meta.rename((here, b"file1"), (there, b"target"), RenameMode::Replace, Fate::Gone);
    site.rounds("rename over a name: the names, then what they name", 2, rename);
    let reads: Vec<_> = files.iter().map(|ino| (*ino, Time::default())).collect();
    site.rounds("access times", 1, meta.accessed(&reads));
    super::assert_clean(meta);
}

#[test]
fn what_has_bytes_is_fetched_in_one_round_and_its_blobs_in_another() {
    let site = Site::new();
    let meta = &site.meta;
    let (_, _, files) = prepared(meta);
    let (old, new) = (blob(100, 4096), blob(101, 4096));
    let update = |ino: &Ino| {
        let extents = vec![written(old)];
        FileUpdate { ino: *ino, extents, size_at_least: Some(4096), mtime: None }
    };
    let updates: Vec<_> = files.iter().map(update).collect();
    let flight = [old];
    site.rounds("a flight", 2, meta.commit(&flight, &updates));
    let place = |blob| Place { blob, offset: 0 };
    let (from, to) = (place(old), place(new));
    let one = |ino: &Ino| Relocation { ino: *ino, offset: 0, len: 4096, from, to };
    let moves: Vec<_> = files.iter().map(one).collect();
    let cleaner = [new];
    site.rounds("what the cleaner moves", 2, meta.relocate(&cleaner, &moves));
    let what = "whose a blob's bytes are: its references, then the extents";
    assert_eq!(site.rounds(what, 2, meta.references(new, None, 99)).0.len(), files.len());
    site.rounds("a clone", 2, meta.clone_range(files[2], 0..4096, files[3], 4096));
    super::assert_clean(meta);
}
