//! Random operations against a simple model of a filesystem: every answer is compared, and now and
//! then everything there is. In between the volume crashes, or is closed and opened again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use proto::id::{BlobId, VolumeId};
use proto::scheme::Scheme;

use super::{ADMIN, blob, format, open, wait, weak_hash};
use crate::engine::Kv;
use crate::engine::memory::MemoryKv;
use crate::journal::tables::{Bounds, JournaledKv};
use crate::journal::takeover::{Leading, TakeOver};
use crate::key::volume::VolumeRecord;
use crate::rules::extent;
use crate::rules::name::{self, Hasher};
use crate::store::{
    Extent, Fate, FileUpdate, Ino, Kind, MetaError, MetaStore, NewNode, Place, ROOT, Relocation,
    RenameMode, Replaces, Takes, Time, Unlinked,
};
use crate::testing::MemoryStore;
use crate::volume::session::Session;

/// Bytes of a file that the model knows.
const CELLS: usize = 160;
const BLOB: u32 = 256;

/// What a byte is: a hole, allocated zeros, or a byte of a blob.
type Cell = Option<Option<(u64, u32)>>;

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    names: u32,
    parent: Ino,
    entries: BTreeMap<Vec<u8>, Ino>,
    cells: Vec<Cell>,
    size: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    orphan_of: Option<u64>,
    trashed: Option<Trashed>,
}

/// Where something in the trash was, who deleted it, and whether somebody wants it gone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trashed {
    dir: Ino,
    name: Vec<u8>,
    by: u32,
    given_up: bool,
}

impl Node {
    fn new(kind: Kind, parent: Ino) -> Self {
        Self {
            kind,
            names: 1,
            parent,
            entries: BTreeMap::new(),
            cells: vec![None; CELLS],
            size: 0,
            xattrs: BTreeMap::new(),
            orphan_of: None,
            trashed: None,
        }
    }

    fn has_name(&self) -> bool {
        self.names > 0 && self.trashed.is_none()
    }

    fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }
}

#[derive(Clone, Debug)]
struct Model {
    nodes: BTreeMap<Ino, Node>,
    blobs: BTreeSet<u64>,
    session: u64,
}

impl Model {
    fn dir(&self, ino: Ino) -> Result<&Node, MetaError> {
        let node = self.nodes.get(&ino).ok_or(MetaError::NotFound)?;
        if node.is_dir() { Ok(node) } else { Err(MetaError::NotDirectory) }
    }

    fn living(&self, ino: Ino) -> Result<&Node, MetaError> {
        let node = self.dir(ino)?;
        if node.has_name() { Ok(node) } else { Err(MetaError::NotFound) }
    }

    fn file(&mut self, ino: Ino) -> Result<&mut Node, MetaError> {
        let node = self.nodes.get_mut(&ino).ok_or(MetaError::NotFound)?;
        match node.kind {
            Kind::File => Ok(node),
            Kind::Directory => Err(MetaError::IsDirectory),
            _ => Err(MetaError::Invalid("not a regular file")),
        }
    }

    fn entry(&self, dir: Ino, name: &[u8]) -> Result<Ino, MetaError> {
        self.dir(dir)?.entries.get(name).copied().ok_or(MetaError::NotFound)
    }

    fn create(&mut self, dir: Ino, name: &[u8], kind: Kind, ino: Ino) -> Result<(), MetaError> {
        if self.living(dir)?.entries.contains_key(name) {
            return Err(MetaError::Exists);
        }
        self.nodes.get_mut(&dir).unwrap().entries.insert(name.to_vec(), ino);
        self.nodes.insert(ino, Node::new(kind, dir));
        Ok(())
    }

    /// Answers how many names it has.
    fn create_nameless(&mut self, dir: Ino, ino: Ino) -> Result<u32, MetaError> {
        self.living(dir)?;
        let node = Node::new(Kind::File, dir);
        let orphan_of = Some(self.session);
        self.nodes.insert(ino, Node { names: 0, orphan_of, ..node });
        Ok(0)
    }

    fn place(
        &mut self,
        ino: Ino,
        dir: Ino,
        name: &[u8],
        replaces: Replaces,
        fate: Fate,
    ) -> Result<Option<Unlinked>, MetaError> {
        let node = self.nodes.get(&ino).ok_or(MetaError::NotFound)?;
        self.living(dir)?;
        if node.names > 0 || node.is_dir() || node.orphan_of != Some(self.session) {
            let why = "only what was made without a name can be given one";
            return Err(MetaError::Invalid(why));
        }
        let before = self.entry(dir, name).ok();
        match (replaces, before) {
            (Replaces::Nothing, Some(_)) => return Err(MetaError::Exists),
            (Replaces::Only(_), None) => return Err(MetaError::NotFound),
            (Replaces::Only(only), Some(before)) if only != before => {
                return Err(MetaError::Exists);
            }
            _ => {}
        }
        if before.is_some_and(|before| self.nodes[&before].is_dir()) {
            return Err(MetaError::IsDirectory);
        }
        self.nodes.get_mut(&dir).unwrap().entries.insert(name.to_vec(), ino);
        let node = self.nodes.get_mut(&ino).unwrap();
        (node.names, node.orphan_of) = (1, None);
        Ok(before.map(|before| self.drop_name(before, (dir, name), fate)))
    }

    fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Result<(), MetaError> {
        let node = self.nodes.get(&ino).ok_or(MetaError::NotFound)?;
        if node.is_dir() {
            return Err(MetaError::NotPermitted);
        }
        let parent = self.living(dir)?;
        if !node.has_name() {
            return Err(MetaError::NotFound);
        }
        if parent.entries.contains_key(name) {
            return Err(MetaError::Exists);
        }
        self.nodes.get_mut(&dir).unwrap().entries.insert(name.to_vec(), ino);
        self.nodes.get_mut(&ino).unwrap().names += 1;
        Ok(())
    }

    /// Is something in the trash that was in there?
    fn held(&self, dir: Ino) -> bool {
        self.nodes.values().any(|node| node.trashed.as_ref().is_some_and(|was| was.dir == dir))
    }

    fn drop_name(&mut self, ino: Ino, (dir, name): (Ino, &[u8]), fate: Fate) -> Unlinked {
        let (session, keeps) = (self.session, self.nodes[&ino].is_dir() && self.held(ino));
        let node = self.nodes.get_mut(&ino).unwrap();
        let by = match fate {
            Fate::Trash { by } => Some(by),
            Fate::Gone => keeps.then_some(ADMIN.uid),
        };
        if let Some(by) = by.filter(|_| node.names == 1) {
            node.trashed = Some(Trashed { dir, name: name.to_vec(), by, given_up: false });
            return Unlinked { ino, orphan: false };
        }
        node.names -= 1;
        if node.names == 0 {
            node.orphan_of = Some(session);
        }
        Unlinked { ino, orphan: node.names == 0 }
    }

    fn remove(&mut self, dir: Ino, name: &[u8], directory: bool) -> Result<Unlinked, MetaError> {
        let ino = self.entry(dir, name)?;
        let node = &self.nodes[&ino];
        match (directory, node.is_dir()) {
            (true, false) => return Err(MetaError::NotDirectory),
            (false, true) => return Err(MetaError::IsDirectory),
            (true, true) if !node.entries.is_empty() => return Err(MetaError::NotEmpty),
            _ => {}
        }
        self.nodes.get_mut(&dir).unwrap().entries.remove(name);
        Ok(self.drop_name(ino, (dir, name), Fate::Gone))
    }

    fn discard(
        &mut self,
        dir: Ino,
        name: &[u8],
        takes: Takes,
        by: u32,
    ) -> Result<Unlinked, MetaError> {
        let ino = self.entry(dir, name)?;
        let node = &self.nodes[&ino];
        match (takes, node.is_dir()) {
            (Takes::NoDirectory, true) => return Err(MetaError::IsDirectory),
            (Takes::EmptyDirectory, false) => return Err(MetaError::NotDirectory),
            (Takes::EmptyDirectory, true) if !node.entries.is_empty() => {
                return Err(MetaError::NotEmpty);
            }
            (Takes::Only(only), _) if only != ino => return Err(MetaError::Exists),
            _ => {}
        }
        self.nodes.get_mut(&dir).unwrap().entries.remove(name);
        Ok(self.drop_name(ino, (dir, name), Fate::Trash { by }))
    }

    fn trashed(&self, ino: Ino) -> Result<&Trashed, MetaError> {
        self.nodes.get(&ino).and_then(|node| node.trashed.as_ref()).ok_or(MetaError::NotFound)
    }

    fn restore(
        &mut self,
        ino: Ino,
        (dir, name): (Ino, &[u8]),
        replaces: bool,
        by: u32,
    ) -> Result<Option<Unlinked>, MetaError> {
        if self.trashed(ino)?.given_up {
            return Err(MetaError::NotFound);
        }
        self.living(dir)?;
        let mut at = dir;
        while at != ROOT {
            if !self.nodes[&at].has_name() {
                return Err(MetaError::NotFound);
            }
            at = self.nodes[&at].parent;
        }
        let before = self.entry(dir, name).ok();
        if before.is_some() && !replaces {
            return Err(MetaError::Exists);
        }
        let gone = before.map(|before| self.drop_name(before, (dir, name), Fate::Trash { by }));
        self.nodes.get_mut(&dir).unwrap().entries.insert(name.to_vec(), ino);
        let node = self.nodes.get_mut(&ino).unwrap();
        (node.parent, node.trashed) = (dir, None);
        Ok(gone)
    }

    fn delete(&mut self, ino: Ino) -> Result<Unlinked, MetaError> {
        let was = self.trashed(ino)?.clone();
        let node = &self.nodes[&ino];
        if node.is_dir() && (!node.entries.is_empty() || self.held(ino)) {
            return Err(MetaError::NotEmpty);
        }
        self.nodes.get_mut(&ino).unwrap().trashed = None;
        Ok(self.drop_name(ino, (was.dir, &was.name), Fate::Gone))
    }

    /// Is `ino` at `below` or above it?
    fn is_above(&self, ino: Ino, mut below: Ino) -> bool {
        loop {
            if below == ino {
                return true;
            }
            if below == ROOT {
                return false;
            }
            below = self.nodes[&below].parent;
        }
    }

    fn rename(
        &mut self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        fate: Fate,
    ) -> Result<Option<Unlinked>, MetaError> {
        const LOOP: MetaError = MetaError::Invalid("a directory cannot be moved into itself");
        self.dir(from.0)?;
        self.living(to.0)?;
        let source = self.entry(from.0, from.1)?;
        let target = self.entry(to.0, to.1).ok();
        match (mode, target) {
            (RenameMode::NoReplace | RenameMode::Whiteout { replace: false, .. }, Some(_)) => {
                return Err(MetaError::Exists);
            }
            (RenameMode::ReplaceWhole(only), Some(target)) if target != only => {
                return Err(MetaError::Exists);
            }
            (RenameMode::Exchange, None) => return Err(MetaError::NotFound),
            _ => {}
        }
        if self.nodes[&source].is_dir() && self.is_above(source, to.0) {
            return Err(LOOP);
        }
        let exchange = mode == RenameMode::Exchange;
        let whole = matches!((mode, fate), (RenameMode::ReplaceWhole(_), Fate::Trash { .. }));
        if let Some(target) = target {
            if self.nodes[&target].is_dir() && self.is_above(target, from.0) {
                return Err(if exchange { LOOP } else { MetaError::NotEmpty });
            }
            if target == source {
                return Ok(None);
            }
            let (s, t) = (&self.nodes[&source], &self.nodes[&target]);
            match (s.is_dir(), t.is_dir()) {
                _ if exchange || whole => {}
                (true, false) => return Err(MetaError::NotDirectory),
                (false, true) => return Err(MetaError::IsDirectory),
                (true, true) if !t.entries.is_empty() => return Err(MetaError::NotEmpty),
                _ => {}
            }
        }
        let put = |model: &mut Self, at: (Ino, &[u8]), ino: Ino| {
            model.nodes.get_mut(&at.0).unwrap().entries.insert(at.1.to_vec(), ino);
            model.nodes.get_mut(&ino).unwrap().parent = at.0;
        };
        self.nodes.get_mut(&from.0).unwrap().entries.remove(from.1);
        put(self, to, source);
        match target {
            Some(target) if exchange => {
                put(self, from, target);
                Ok(None)
            }
            Some(target) => Ok(Some(self.drop_name(target, to, fate))),
            None => Ok(None),
        }
    }

    fn forget(&mut self, ino: Ino) {
        if self.nodes.get(&ino).is_some_and(|node| node.names == 0) {
            self.nodes.remove(&ino);
        }
    }

    fn live(&self, sequence: u64) -> u64 {
        let cells = self.nodes.values().flat_map(|node| &node.cells);
        cells.filter(|cell| matches!(cell, Some(Some((s, _))) if *s == sequence)).count() as u64
    }
}

enum Home {
    Memory(Arc<MemoryKv>),
    Journal(Journal),
}

/// A volume in a store, with a machine that has mounted it.
struct Journal {
    store: Arc<MemoryStore>,
    cache: tempfile::TempDir,
    leading: Option<Leading>,
}

impl Journal {
    fn new() -> Self {
        let cache = tempfile::tempdir().unwrap();
        Self { store: Arc::default(), cache, leading: None }
    }

    /// Takes the volume over, from whoever has it.
    fn open(&mut self) -> JournaledKv {
        if let Some(leading) = self.leading.take() {
            leading.kill();
        }
        self.store = Arc::new(self.store.another());
        let bounds = Bounds {
            interval: std::time::Duration::from_millis(1),
            batch_bytes: 1000,
            entry_bytes: 900,
            snapshot_bytes: 3000,
            snapshot_entries: 20,
        };
        let taking = TakeOver {
            store: self.store.clone(),
            volume: VolumeId(3),
            scheme: Scheme::copies(3).unwrap(),
            cache: Some(self.cache.path().to_owned()),
            cache_bytes: 30_000,
            bounds,
            holder: "a test".to_owned(),
        };
        let (tables, leading) = wait(async { taking.run().await.unwrap().start("test") });
        self.leading = Some(leading);
        wait(JournaledKv::open(tables)).unwrap()
    }
}

struct World {
    home: Home,
    record: VolumeRecord,
    hasher: Hasher,
    meta: Option<Session>,
    model: Model,
    synced: Model,
    next_blob: u64,
}

/// Raw numbers that an operation is made of, so that cases shrink well.
type Raw = [u16; 6];

fn fate(n: u16) -> Fate {
    if n.is_multiple_of(2) { Fate::Gone } else { Fate::Trash { by: u32::from(n % 3) } }
}

fn name(n: u16) -> Vec<u8> {
    format!("n{}", n % 5).into_bytes()
}

impl World {
    fn new(journaled: bool, hasher: Hasher) -> Self {
        let (home, record) = if journaled {
            let mut journal = Journal::new();
            let kv = journal.open();
            let record = format(&kv);
            wait(kv.sync()).unwrap();
            (Home::Journal(journal), record)
        } else {
            let kv = MemoryKv::default();
            let record = format(&kv);
            (Home::Memory(Arc::new(kv)), record)
        };
        let mut root = Node::new(Kind::Directory, ROOT);
        root.names = 1;
        let model = Model { nodes: [(ROOT, root)].into(), blobs: BTreeSet::new(), session: 0 };
        let synced = model.clone();
        let mut world = Self { home, record, hasher, meta: None, model, synced, next_blob: 0 };
        world.open();
        world
    }

    fn meta(&self) -> &Session {
        self.meta.as_ref().unwrap()
    }

    fn open(&mut self) {
        let meta = match &mut self.home {
            Home::Memory(kv) => open(kv.clone(), &self.record, self.hasher),
            Home::Journal(journal) => open(Arc::new(journal.open()), &self.record, self.hasher),
        };
        self.model.session = meta.session().0;
        self.meta = Some(meta);
        self.synced = self.model.clone();
    }

    /// Memory loses what was not synced; the journal was synced, and is taken over.
    fn reopen(&mut self) {
        if let Home::Journal(_) = self.home {
            wait(self.meta().sync()).unwrap();
        }
        self.meta = None;
        if let Home::Memory(kv) = &mut self.home {
            *kv = Arc::new(kv.crash());
            self.model = self.synced.clone();
        }
        self.open();
        let found = wait(self.meta().orphans()).unwrap();
        let orphans = self.model.nodes.iter().filter(|(_, node)| node.names == 0);
        let mut expected: Vec<_> = orphans.map(|(ino, node)| (node.orphan_of, *ino)).collect();
        expected.sort();
        assert_eq!(found, expected.into_iter().map(|(_, ino)| ino).collect::<Vec<_>>());
    }

    /// One of the inodes there are, sometimes one that never was.
    fn any(&self, n: u16) -> Ino {
        let all: Vec<_> = self.model.nodes.keys().collect();
        all.get(usize::from(n) % (all.len() + 1)).map_or(Ino(9999), |ino| **ino)
    }

    /// Mostly a directory.
    fn dir(&self, n: u16) -> Ino {
        let is_dir = |(ino, node): (&Ino, &Node)| node.is_dir().then_some(*ino);
        let dirs: Vec<_> = self.model.nodes.iter().filter_map(is_dir).collect();
        if n.is_multiple_of(16) { self.any(n / 16) } else { dirs[usize::from(n) % dirs.len()] }
    }

    /// Mostly a file.
    fn file(&self, n: u16) -> Ino {
        let is_file = |(ino, node): (&Ino, &Node)| (node.kind == Kind::File).then_some(*ino);
        let files: Vec<_> = self.model.nodes.iter().filter_map(is_file).collect();
        match files.get(usize::from(n) % files.len().max(1)) {
            Some(ino) if !n.is_multiple_of(16) => *ino,
            _ => self.any(n / 16),
        }
    }

    /// A rename has left one here, unless it renamed a file to another name of itself.
    fn whiteout(&mut self, (dir, name): (Ino, &[u8])) {
        if self.model.entry(dir, name).is_err() {
            let attr = wait(self.meta().lookup(dir, name)).unwrap();
            assert_eq!((attr.kind, attr.rdev, attr.mode), (Kind::CharDevice, 0, 0));
            // Also in a directory that is in the trash, out of which somebody moves something.
            self.model.nodes.get_mut(&dir).unwrap().entries.insert(name.to_vec(), attr.ino);
            self.model.nodes.insert(attr.ino, Node::new(attr.kind, dir));
        }
    }

    fn step(&mut self, [op, a, b, c, d, e]: Raw) {
        match op % 26 {
            0..3 => self.create(a, b, c),
            20 => self.create_nameless(a),
            21 => self.place([a, b, c, d, e]),
            22 | 23 => self.discard(a, b, c, d),
            24 => self.restore([a, b, c, d, e]),
            25 => self.delete(a, b),
            3 => {
                let (ino, dir, name) = (self.any(a), self.dir(b), name(c));
                let found = wait(self.meta().link(ino, dir, &name)).map(drop);
                assert_eq!(found, self.model.link(ino, dir, &name));
            }
            4 => {
                let (dir, name) = (self.dir(a), name(b));
                let found = wait(self.meta().unlink(dir, &name));
                assert_eq!(found, self.model.remove(dir, &name, false));
            }
            5 => {
                let (dir, name) = (self.dir(a), name(b));
                let found = wait(self.meta().rmdir(dir, &name));
                assert_eq!(found, self.model.remove(dir, &name, true));
            }
            6..9 => {
                let (from, to) = ((self.dir(a), name(b)), (self.dir(c), name(d)));
                let (from, to) = ((from.0, &from.1[..]), (to.0, &to.1[..]));
                // What is there, or as good as surely something else.
                let there = self.model.entry(to.0, to.1).unwrap_or(from.0);
                let modes = [
                    RenameMode::Replace,
                    RenameMode::ReplaceWhole(there),
                    RenameMode::ReplaceWhole(from.0),
                    RenameMode::NoReplace,
                    RenameMode::Exchange,
                    RenameMode::Whiteout { replace: true, owner: ADMIN },
                    RenameMode::Whiteout { replace: false, owner: ADMIN },
                ];
                let mode = modes[usize::from(e) % modes.len()];
                let fate = fate(e / 7);
                let found = wait(self.meta().rename(from, to, mode, fate));
                let expected = self.model.rename(from, to, mode, fate);
                assert_eq!(found, expected, "{from:?} {to:?} {mode:?} {fate:?}");
                if found.is_ok() && matches!(mode, RenameMode::Whiteout { .. }) {
                    self.whiteout(from);
                }
            }
            9..12 => self.commit([a, b, c, d, e]),
            12 => self.truncate(a, b),
            13 => self.clear(a, b, c, d),
            14 => self.clone_range(a, b, c, d, e),
            15 => self.xattr(a, b, c, d),
            16 => self.reap(a),
            17 => self.relocate(a),
            18 => self.collect_garbage(),
            _ => match a % 4 {
                0 => self.reopen(),
                _ => {
                    wait(self.meta().sync()).unwrap();
                    self.synced = self.model.clone();
                }
            },
        }
    }

    fn create(&mut self, a: u16, b: u16, c: u16) {
        let (dir, name) = (self.dir(a), name(b));
        let (kind, node) = match c % 5 {
            0 => (Kind::Symlink, NewNode::Symlink(b"to/where".to_vec())),
            1 | 2 => (Kind::Directory, NewNode::Directory),
            _ => (Kind::File, NewNode::File),
        };
        let found = wait(self.meta().create(ADMIN, dir, &name, 0o755, node));
        let ino = found.as_ref().map_or(Ino(0), |attr| attr.ino);
        assert!(!self.model.nodes.contains_key(&ino), "a number is used again");
        assert_eq!(found.map(drop), self.model.create(dir, &name, kind, ino));
    }

    fn create_nameless(&mut self, a: u16) {
        let dir = self.dir(a);
        let found = wait(self.meta().create_nameless(ADMIN, dir, 0o755));
        let ino = found.as_ref().map_or(Ino(0), |attr| attr.ino);
        assert!(!self.model.nodes.contains_key(&ino), "a number is used again");
        assert_eq!(found.map(|attr| attr.nlink), self.model.create_nameless(dir, ino));
    }

    fn place(&mut self, [a, b, c, d, e]: [u16; 5]) {
        let nameless = |(ino, node): (&Ino, &Node)| (node.names == 0).then_some(*ino);
        let nameless: Vec<_> = self.model.nodes.iter().filter_map(nameless).collect();
        let ino = match nameless.get(usize::from(a) % nameless.len().max(1)) {
            Some(ino) if !a.is_multiple_of(8) => *ino,
            _ => self.any(a / 8),
        };
        let (dir, name) = (self.dir(b), name(c));
        let replaces = match d % 4 {
            0 => Replaces::Nothing,
            1 => Replaces::Only(self.model.entry(dir, &name).unwrap_or(ino)),
            2 => Replaces::Only(self.any(e)),
            _ => Replaces::Anything,
        };
        let fate = fate(e);
        let found = wait(self.meta().place(ino, dir, &name, replaces, fate));
        let expected = self.model.place(ino, dir, &name, replaces, fate);
        assert_eq!(found, expected, "{ino:?} {dir:?} {name:?}");
    }

    fn discard(&mut self, a: u16, b: u16, c: u16, d: u16) {
        let (dir, name, by) = (self.dir(a), name(b), u32::from(d % 3));
        let takes = match c % 5 {
            0 => Takes::NoDirectory,
            1 => Takes::EmptyDirectory,
            2 => Takes::Only(self.any(d)),
            _ => Takes::Only(self.model.entry(dir, &name).unwrap_or(ROOT)),
        };
        let found = wait(self.meta().discard(dir, &name, takes, by));
        let expected = self.model.discard(dir, &name, takes, by);
        assert_eq!(found, expected, "{dir:?} {name:?} {takes:?}");
    }

    /// Mostly something in the trash.
    fn in_trash(&self, n: u16) -> Ino {
        let trashed = |(ino, node): (&Ino, &Node)| node.trashed.as_ref().map(|_| *ino);
        let all: Vec<_> = self.model.nodes.iter().filter_map(trashed).collect();
        match all.get(usize::from(n / 16) % all.len().max(1)) {
            Some(ino) if !n.is_multiple_of(16) => *ino,
            _ => self.any(n / 16),
        }
    }

    fn restore(&mut self, [a, b, c, d, e]: [u16; 5]) {
        let ino = self.in_trash(a);
        let was = self.model.trashed(ino).cloned();
        let to = match (was, b % 2) {
            (Ok(was), 0) => (was.dir, was.name),
            _ => (self.dir(c), name(d)),
        };
        let (to, replaces, by) = ((to.0, &to.1[..]), e.is_multiple_of(2), u32::from(e % 3));
        let found = wait(self.meta().restore(ino, to, replaces, by));
        assert_eq!(found, self.model.restore(ino, to, replaces, by), "{ino:?} {to:?} {replaces}");
    }

    fn delete(&mut self, a: u16, b: u16) {
        let ino = self.in_trash(a);
        if b.is_multiple_of(2) {
            let found = wait(self.meta().delete_trash(ino));
            return assert_eq!(found, self.model.delete(ino), "{ino:?}");
        }
        assert_eq!(wait(self.meta().give_up_trash(&[ino])), Ok(()));
        if let Some(was) = self.model.nodes.get_mut(&ino).and_then(|node| node.trashed.as_mut()) {
            was.given_up = true;
        }
    }

    fn commit(&mut self, [a, b, c, d, e]: [u16; 5]) {
        self.next_blob += 1;
        let sequence = self.next_blob;
        let id = blob(sequence, BLOB);
        let ino = self.file(a);
        // Two extents side by side in the file, sometimes in the blob too.
        let (start, len, more) = (u64::from(b % 100), 1 + u64::from(c % 20), u64::from(d % 20));
        let second = if e % 2 == 0 { len as u32 } else { 100 };
        let place = |offset| Some(Place { blob: id, offset });
        let mut extents = vec![Extent { offset: start, len, place: place(0) }];
        if more > 0 {
            let offset = start + len + u64::from(e % 3);
            extents.push(Extent { offset, len: more, place: place(second) });
        }
        let size = (e % 5 > 0).then_some(start + len + more);
        let update = FileUpdate { ino, extents, size_at_least: size, mtime: None };
        let found = wait(self.meta().commit(&[id], std::slice::from_ref(&update)));
        let node = match self.model.file(ino) {
            Ok(node) => Some(node),
            Err(MetaError::NotFound) => None,
            Err(error) => return assert_eq!(found, Err(error)),
        };
        assert_eq!(found, Ok(()));
        if let Some(node) = node {
            for new in &update.extents {
                for i in 0..new.len {
                    let at = new.place.unwrap().offset + i as u32;
                    node.cells[(new.offset + i) as usize] = Some(Some((sequence, at)));
                }
            }
            node.size = node.size.max(size.unwrap_or(0));
        }
        self.model.blobs.insert(sequence);
    }

    fn truncate(&mut self, a: u16, b: u16) {
        let (ino, size) = (self.file(a), u64::from(b % CELLS as u16));
        let found = wait(self.meta().truncate(ino, size)).map(|attr| attr.size);
        let expected = self.model.file(ino).map(|node| {
            node.size = size;
            node.cells[size as usize..].fill(None);
            size
        });
        assert_eq!(found, expected);
    }

    fn clear(&mut self, a: u16, b: u16, c: u16, d: u16) {
        let ino = self.file(a);
        let (start, end) = (u64::from(b % 100), u64::from(b % 100) + 1 + u64::from(c % 50));
        let (allocate, grow, fill) = (d & 1 == 0, d & 2 == 0, d & 4 == 0);
        let found = if fill {
            wait(self.meta().allocate(ino, start..end, grow))
        } else {
            wait(self.meta().clear_range(ino, start..end, allocate, grow))
        };
        let expected = self.model.file(ino).map(|node| {
            for cell in &mut node.cells[start as usize..end as usize] {
                *cell = match *cell {
                    Some(there) if fill => Some(there),
                    None if fill => Some(None),
                    _ => allocate.then_some(None),
                };
            }
            node.size = if grow { node.size.max(end) } else { node.size };
            node.size
        });
        assert_eq!(found.map(|attr| attr.size), expected);
    }

    fn clone_range(&mut self, a: u16, b: u16, c: u16, d: u16, e: u16) {
        let (from, to) = (self.file(a), self.file(b));
        let (start, len, at) = (u64::from(c % 80), 1 + u64::from(d % 40), u64::from(e % 100));
        let found = wait(self.meta().clone_range(from, start..start + len, to, at));
        let (size, cells) = match self.model.file(from) {
            Ok(node) => (node.size, node.cells.clone()),
            Err(error) => return assert_eq!(found, Err(error)),
        };
        let len = len.min(size.saturating_sub(start));
        let expected = self.model.file(to).and_then(|node| {
            if len == 0 {
                return Ok(node.size);
            }
            if from == to && start < at + len && at < start + len {
                return Err(MetaError::Invalid("ranges overlap"));
            }
            for i in 0..len {
                node.cells[(at + i) as usize] = cells[(start + i) as usize];
            }
            node.size = node.size.max(at + len);
            Ok(node.size)
        });
        assert_eq!(found.map(|attr| attr.size), expected);
    }

    fn xattr(&mut self, a: u16, b: u16, c: u16, d: u16) {
        let (ino, name, value) = (self.any(a), name(b), vec![7; usize::from(c % 9)]);
        let must = [None, Some(true), Some(false)][usize::from(d) % 3];
        let (remove, meta) = (d.is_multiple_of(5), self.meta.as_ref().unwrap());
        let found = if remove {
            wait(meta.removexattr(ino, &name))
        } else {
            wait(meta.setxattr(ino, &name, &value, must))
        };
        let node = self.model.nodes.get_mut(&ino).ok_or(MetaError::NotFound);
        let expected = node.and_then(|node| {
            let there = node.xattrs.contains_key(&name);
            match (remove, there, must) {
                (true, true, _) => drop(node.xattrs.remove(&name)),
                (true, false, _) | (false, false, Some(true)) => {
                    return Err(MetaError::NoAttribute);
                }
                (false, true, Some(false)) => return Err(MetaError::Exists),
                _ => drop(node.xattrs.insert(name, value)),
            }
            Ok(())
        });
        assert_eq!(found, expected);
    }

    fn reap(&mut self, a: u16) {
        let inos = [self.any(a), self.any(a / 7), self.any(a / 50)];
        wait(self.meta().reap(&inos)).unwrap();
        inos.into_iter().for_each(|ino| self.model.forget(ino));
    }

    /// Everything of one blob goes to a new one, as the cleaner does it.
    fn relocate(&mut self, a: u16) {
        let known: Vec<_> = self.model.blobs.iter().copied().collect();
        let Some(old) = known.get(usize::from(a) % known.len().max(1)).copied() else { return };
        self.next_blob += 1;
        let new = self.next_blob;
        let inos: Vec<_> = self.model.nodes.keys().copied().collect();
        let place = |sequence, offset| Place { blob: blob(sequence, BLOB), offset };
        let moves: Vec<_> = inos
            .into_iter()
            .flat_map(|ino| (0..CELLS as u64).map(move |offset| (ino, offset)))
            .filter_map(|(ino, offset)| {
                // Every seventh byte is asked for wrongly, and must stay.
                let at = match self.model.nodes[&ino].cells[offset as usize] {
                    Some(Some((sequence, at))) if sequence == old => at,
                    _ if offset % 7 == 0 => offset as u32,
                    _ => return None,
                };
                let (from, to) = (place(old, at), place(new, at));
                Some(Relocation { ino, offset, len: 1, from, to })
            })
            .collect();
        let id = blob(new, BLOB);
        wait(self.meta().relocate(&[id], &moves)).unwrap();
        for node in self.model.nodes.values_mut() {
            for cell in node.cells.iter_mut().flatten().flatten().filter(|cell| cell.0 == old) {
                cell.0 = new;
            }
        }
        self.model.blobs.insert(new);
    }

    /// Garbage is what is dead in the synced state; half of it is deleted.
    fn collect_garbage(&mut self) {
        let found = wait(self.meta().garbage(None, usize::MAX)).unwrap();
        let dead = |model: &Model, sequence: u64| {
            model.blobs.contains(&sequence) && model.live(sequence) == 0
        };
        for id in &found {
            assert!(dead(&self.model, id.sequence()), "{id} is alive");
        }
        if let Home::Memory(_) = self.home {
            // Nothing but a sync makes anything durable there.
            let all = self.synced.blobs.iter().filter(|s| dead(&self.synced, **s));
            let all: Vec<_> = all.filter(|s| self.model.blobs.contains(s)).copied().collect();
            assert_eq!(found.iter().map(|id| id.sequence()).collect::<Vec<_>>(), all);
        }
        let half = &found[..found.len().div_ceil(2)];
        wait(self.meta().forget_blobs(half)).unwrap();
        for id in half {
            self.model.blobs.remove(&id.sequence());
        }
        // Blobs in use are left alone.
        let all: Vec<_> = self.model.blobs.iter().copied().collect();
        let used: Vec<_> = all.iter().filter(|s| self.model.live(**s) > 0).collect();
        let used: Vec<_> = used.into_iter().map(|s| blob(*s, BLOB)).collect();
        wait(self.meta().forget_blobs(&used)).unwrap();
        wait(self.meta().adopt_garbage(&used)).unwrap();
    }

    fn compare(&self) {
        let meta = self.meta();
        assert_eq!(wait(meta.opened_on().check()).unwrap().problems, Vec::<String>::new());
        assert_eq!(wait(meta.usage()).unwrap().inodes, self.model.nodes.len() as u64);
        for (ino, node) in &self.model.nodes {
            let attr = wait(meta.getattr(*ino)).unwrap();
            assert_eq!(attr.kind, node.kind);
            let names = wait(meta.listxattr(*ino)).unwrap();
            assert_eq!(names.len(), node.xattrs.len());
            assert_eq!(attr.xattrs as usize, names.len(), "as stat(2) would tell");
            for (name, value) in &node.xattrs {
                assert_eq!(wait(meta.getxattr(*ino, name)), Ok(value.clone()));
            }
            match node.kind {
                Kind::Directory => self.compare_directory(*ino, node),
                Kind::File => self.compare_file(*ino, node),
                Kind::Symlink => assert_eq!(wait(meta.readlink(*ino)).unwrap(), b"to/where"),
                _ => assert_eq!((attr.rdev, attr.mode), (0, 0)),
            }
        }
        self.compare_trash();
        let records = wait(meta.blobs(None, usize::MAX)).unwrap();
        let found: Vec<_> = records.iter().map(|r| (r.id.sequence(), r.live)).collect();
        let expected = self.model.blobs.iter().map(|s| (*s, self.model.live(*s)));
        assert_eq!(found, expected.collect::<Vec<_>>());
        self.compare_references(records.iter().map(|record| record.id));
    }

    /// What is in the trash is found by its time, from either end and in pages, and by where it was.
    fn compare_trash(&self) {
        let meta = self.meta();
        let trashed = self.model.nodes.iter().filter_map(|(ino, node)| {
            let Trashed { dir, name, by, given_up } = node.trashed.clone()?;
            Some((*ino, (dir, name, by, given_up)))
        });
        let all: BTreeMap<_, _> = trashed.collect();
        let mut left = all.clone();
        let (mut before, mut after) = (None, None);
        loop {
            let page = wait(meta.newest_trash(before, 2)).unwrap();
            let Some(last) = page.last() else { break };
            before = Some((last.when, last.attr.ino));
            for one in page {
                assert_eq!(wait(meta.trashed(one.attr.ino)), Ok(one.clone()));
                let expected = left.remove(&one.attr.ino);
                assert_eq!(expected, Some((one.dir, one.name, one.by, false)), "listed twice?");
            }
        }
        assert!(left.values().all(|(.., given_up)| *given_up), "{left:?}");
        let mut found = BTreeSet::new();
        loop {
            let page =
                wait(meta.oldest_trash(Time { secs: i64::MAX, nanos: 0 }, after, 3)).unwrap();
            let Some(last) = page.last() else { break };
            after = Some((last.when, last.attr.ino));
            assert!(page.iter().all(|one| found.insert(one.attr.ino)), "listed twice");
        }
        assert_eq!(found, all.keys().copied().collect());
        for dir in self.model.nodes.keys() {
            let found = wait(meta.trash_of(*dir, None, usize::MAX)).unwrap();
            let found: Vec<_> = found.iter().map(|one| one.attr.ino).collect();
            let was_there = all.iter().filter(|(_, (was, ..))| was == dir);
            assert_eq!(found, was_there.map(|(ino, _)| *ino).collect::<Vec<_>>());
        }
    }

    /// Blobs lead to the extents that lie in them, and to no others.
    fn compare_references(&self, blobs: impl Iterator<Item = BlobId>) {
        let meta = self.meta();
        let mut expected = BTreeMap::<BlobId, BTreeMap<(Ino, u64), Extent>>::new();
        for ino in self.model.nodes.keys() {
            for extent in wait(meta.extents(*ino, 0..u64::MAX, usize::MAX)).unwrap() {
                let Some(place) = extent.place else { continue };
                expected.entry(place.blob).or_default().insert((*ino, extent.offset), extent);
            }
        }
        for id in blobs {
            let (mut found, mut after) = (BTreeMap::new(), None);
            loop {
                let (page, next) = wait(meta.references(id, after, 3)).unwrap();
                assert!(page.len() <= 3);
                for (ino, extent) in page {
                    assert_eq!(found.insert((ino, extent.offset), extent), None, "named twice");
                }
                match next {
                    Some(_) => after = next,
                    None => break,
                }
            }
            assert_eq!(found, expected.remove(&id).unwrap_or_default(), "references of {id}");
        }
        assert_eq!(expected, BTreeMap::new(), "blobs without records");
    }

    fn compare_directory(&self, ino: Ino, node: &Node) {
        let subdirs = node.entries.values().filter(|e| self.model.nodes[e].is_dir()).count() as u32;
        let nlink = if node.has_name() { 2 + subdirs } else { 0 };
        assert_eq!(wait(self.meta().getattr(ino)).unwrap().nlink, nlink);
        let (mut cookie, mut found) = (0, BTreeMap::new());
        loop {
            let page = wait(self.meta().readdir(ino, cookie, 2)).unwrap();
            let Some(last) = page.last() else { break };
            assert!(page[0].cookie > cookie && last.cookie < 1 << 63);
            cookie = last.cookie;
            for entry in page {
                assert_eq!(found.insert(entry.name, entry.attr.ino), None, "listed twice");
            }
        }
        assert_eq!(found.remove(&b"."[..]), Some(ino));
        let up = found.remove(&b".."[..]).unwrap();
        assert!(node.names == 0 || up == node.parent);
        assert_eq!(found, node.entries);
        for (name, named) in &node.entries {
            assert_eq!(wait(self.meta().lookup(ino, name)).unwrap().ino, *named);
        }
    }

    fn compare_file(&self, ino: Ino, node: &Node) {
        let attr = wait(self.meta().getattr(ino)).unwrap();
        let names = if node.has_name() { node.names } else { 0 };
        assert_eq!((attr.size, attr.nlink), (node.size, names));
        let map = wait(self.meta().extents(ino, 0..u64::MAX, usize::MAX)).unwrap();
        let cell = |at: u64| {
            map.iter()
                .find_map(|e| extent::clip(e, &(at..at + 1)))
                .map(|e| e.place.map(|p| (p.blob.sequence(), p.offset)))
        };
        let cells: Vec<_> = (0..CELLS as u64).map(cell).collect();
        assert_eq!(cells, node.cells);
        assert_eq!(attr.stored, node.cells.iter().flatten().count() as u64);
    }
}

fn run(journaled: bool, hasher: Hasher, steps: Vec<Raw>) {
    let mut world = World::new(journaled, hasher);
    for (i, step) in steps.into_iter().enumerate() {
        world.step(step);
        if i % 40 == 39 {
            world.compare();
        }
    }
    world.compare();
    wait(world.meta().close_session()).unwrap();
    let own = |node: &Node| node.orphan_of == Some(world.model.session);
    let left = world.model.nodes.values().filter(|node| !own(node)).count();
    assert_eq!(wait(world.meta().usage()).unwrap().inodes, left as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn operations_do_what_the_model_does(steps in proptest::collection::vec(any::<Raw>(), 1..250)) {
        run(false, name::hash, steps);
    }

    #[test]
    fn names_that_collide_are_kept_apart(steps in proptest::collection::vec(any::<Raw>(), 1..250)) {
        run(false, weak_hash, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(15))]

    #[test]
    fn a_journal_does_what_the_model_does(steps in proptest::collection::vec(any::<Raw>(), 1..250)) {
        run(true, name::hash, steps);
    }
}
