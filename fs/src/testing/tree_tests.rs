//! Random operations on whole trees by one to three tasks at once, against a [`Reference`]: every
//! answer is compared, and after each round everything there is. In between the volume is mounted
//! again, or crashes and is opened from what was durable, with blobs in the air.
//!
//! Buffers and cache are so small, and the store so slow, that packing, storing, cleaning and reading
//! back happen between any two operations. `PROPTEST_CASES` makes a run longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meta::{
    Caller, Ino, Kind, MemoryVolume, MetaStore, NewNode, ROOT, RenameMode, Session, is_inline,
};
use nix::errno::Errno;
use proptest::prelude::*;
use proto::id::{ClusterId, VolumeId};
use proto::scheme::Scheme;

use super::reference::{Names, Reference, node};
use super::*;
use crate::error::{FsError, FsResult};
use crate::filesystem::privileges::Requester;
use crate::filesystem::{Allocate, Change, Filesystem, Seek};

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const REQUESTER: Requester = Requester { uid: 0, gid: 0, thread: 0 };
/// Files are about as long as this.
const LEN: u64 = 20_000;

/// Numbers that an operation is made of, so that cases shrink well.
type Raw = [u16; 6];

/// Operations of up to three tasks, and what happens when all have done theirs.
#[derive(Clone, Debug)]
struct Round {
    tasks: Vec<Vec<Raw>>,
    then: u8,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let task = proptest::collection::vec(any::<Raw>(), 0..30);
    let tasks = proptest::collection::vec(task, 1..4);
    let round = (tasks, any::<u8>()).prop_map(|(tasks, then)| Round { tasks, then });
    proptest::collection::vec(round, 1..8)
}

fn settings() -> DataSettings {
    DataSettings {
        dirty_bytes: 64 << 10,
        cache_bytes: 32 << 10,
        read_ahead: 16 << 10,
        puts_in_flight: 2,
        flush_interval: Duration::from_millis(7),
        garbage_interval: Duration::from_millis(20),
        inline_bytes: 64 << 10,
        stall_limit: Duration::from_secs(5),
        ..DataSettings::default()
    }
}

/// A mounted volume over memory.
struct Mounted {
    volume: MemoryVolume,
    meta: Arc<Session>,
    blobs: Arc<MemoryBlobs>,
    fs: Arc<Filesystem>,
}

impl Mounted {
    fn over(volume: MemoryVolume, blobs: Arc<MemoryBlobs>) -> Self {
        let meta = volume.open();
        let data = Data::start(meta.clone(), blobs.clone(), settings());
        let fs = Filesystem::start(meta.clone(), data, blobs.clone());
        Self { volume, meta, blobs, fs }
    }

    async fn remount(self) -> Self {
        self.fs.stop().await.unwrap();
        Self::over(self.volume, self.blobs)
    }

    /// kill -9: whatever was going on never ends, and only what was durable is there.
    fn crash(self) -> Self {
        let after = self.volume.after_crash();
        let mut left = self.blobs.inner.lock();
        left.stalled = true;
        let blobs = Arc::new(MemoryBlobs::new());
        {
            let mut inner = blobs.inner.lock();
            inner.blobs = left.blobs.clone();
            inner.deleted = left.deleted.clone();
            inner.delay = left.delay;
        }
        drop(left);
        Self::over(after, blobs)
    }
}

/// One task: its subtree as it should be, and which files it has open.
struct Task {
    fs: Arc<Filesystem>,
    is: Reference,
    open: BTreeSet<Ino>,
}

fn name(number: u16) -> Vec<u8> {
    format!("n{}", number % 5).into_bytes()
}

fn fails_with<T>(result: FsResult<T>, want: Errno) {
    match result {
        Err(error) => assert_eq!(error.errno(), want, "{error}"),
        Ok(_) => panic!("it should have failed with {want}"),
    }
}

/// The store may refuse for a moment; then nothing has changed.
fn unless_refused<T>(result: FsResult<T>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(error) if error.errno() == Errno::EIO => None,
        Err(error) => panic!("{error}"),
    }
}

impl Task {
    fn some(&self, kind: Kind, number: u16) -> Option<Ino> {
        let all = self.is.all(kind);
        all.get(usize::from(number) % all.len().max(1)).copied()
    }

    fn no_symlink(&self, number: u16) -> Ino {
        let all = [self.is.all(Kind::File), self.is.all(Kind::Directory)].concat();
        all[usize::from(number) % all.len()]
    }

    fn dir(&self, number: u16) -> Ino {
        self.some(Kind::Directory, number).expect("the root is one")
    }

    /// A name is gone: is its file still open?
    fn gone(&mut self, gone: Option<Ino>) {
        if let Some(ino) = gone
            && !self.open.contains(&ino)
            && self.is.names.contains_key(&ino)
        {
            self.is.forget(ino);
        }
    }

    fn close(&mut self, ino: Ino) {
        if self.open.remove(&ino) {
            self.fs.forget(ino, 1);
            if self.is.names.get(&ino).is_some_and(|node| node.links == 0) {
                self.is.forget(ino);
            }
        }
    }

    async fn step(&mut self, [op, a, b, c, d, e]: Raw) {
        match op % 40 {
            0..6 => self.create(a, b, c).await,
            6..8 => self.link(a, b, c).await,
            8..11 => self.remove(a, b, c % 4 == 0).await,
            11..16 => self.rename((a, b), (c, d), e).await,
            16 => self.attributes(a, b, c).await,
            17 => self.xattr(a, b, c).await,
            18 => {
                if let Some(ino) = self.some(Kind::File, a) {
                    self.close(ino);
                }
            }
            19 => tokio::time::sleep(Duration::from_millis(u64::from(a % 30))).await,
            _ => {
                if let Some(ino) = self.some(Kind::File, a) {
                    self.content(ino, op % 40, [b, c, d, e]).await;
                }
            }
        }
    }

    async fn create(&mut self, a: u16, b: u16, c: u16) {
        let (dir, name) = (self.dir(a), name(b));
        let mode = u32::from(c) % 0o1000;
        let (new, kind) = match c % 8 {
            0 => (NewNode::Symlink(b"to/where".to_vec()), Kind::Symlink),
            1..3 => (NewNode::Directory, Kind::Directory),
            _ => (NewNode::File, Kind::File),
        };
        let made = self.fs.create(CALLER, dir, &name, mode, new).await;
        if self.is.entry(dir, &name).is_some() {
            return fails_with(made, Errno::EEXIST);
        }
        let attr = made.unwrap();
        assert_eq!((attr.kind, attr.size == 8), (kind, kind == Kind::Symlink));
        assert!(!self.is.names.contains_key(&attr.ino), "a number is used again");
        let mut new = node(kind, attr.mode, (0, 0));
        if kind == Kind::Symlink {
            new.target = b"to/where".to_vec();
        } else {
            // A directory inherits setgid.
            let inherited =
                if kind == Kind::Directory { self.is.names[&dir].mode & 0o2000 } else { 0 };
            assert_eq!(attr.mode, mode | inherited);
        }
        self.is.create(dir, &name, attr.ino, new);
        if kind == Kind::File && c.is_multiple_of(3) {
            self.open.insert(attr.ino);
        } else {
            self.fs.forget(attr.ino, 1);
        }
    }

    async fn link(&mut self, a: u16, b: u16, c: u16) {
        let (Some(ino), dir, name) = (self.some(Kind::File, a), self.dir(b), name(c)) else {
            return;
        };
        let linked = self.fs.link(ino, dir, &name).await;
        if self.is.names[&ino].links == 0 {
            return fails_with(linked, Errno::ENOENT);
        }
        if self.is.entry(dir, &name).is_some() {
            return fails_with(linked, Errno::EEXIST);
        }
        self.is.link(ino, dir, &name);
        assert_eq!(linked.unwrap().nlink, self.is.names[&ino].links);
        self.fs.forget(ino, 1);
    }

    async fn remove(&mut self, a: u16, b: u16, directory: bool) {
        let (dir, name) = (self.dir(a), name(b));
        let removed = if directory {
            self.fs.rmdir(0, dir, &name).await
        } else {
            self.fs.unlink(0, dir, &name).await
        };
        let Some(ino) = self.is.entry(dir, &name) else {
            return fails_with(removed, Errno::ENOENT);
        };
        match (directory, self.is.kind(ino) == Kind::Directory) {
            (true, false) => return fails_with(removed, Errno::ENOTDIR),
            (false, true) => return fails_with(removed, Errno::EISDIR),
            (true, true) if !self.is.names[&ino].entries.is_empty() => {
                return fails_with(removed, Errno::ENOTEMPTY);
            }
            _ => removed.unwrap(),
        }
        let gone = self.is.remove(dir, &name);
        self.gone(gone);
    }

    /// What a rename must fail with, if it must.
    fn refused(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Option<Errno> {
        let Some(source) = self.is.entry(from.0, from.1) else { return Some(Errno::ENOENT) };
        let target = self.is.entry(to.0, to.1);
        match (mode, target) {
            (RenameMode::NoReplace | RenameMode::Whiteout { replace: false, .. }, Some(_)) => {
                return Some(Errno::EEXIST);
            }
            (RenameMode::Exchange, None) => return Some(Errno::ENOENT),
            _ => {}
        }
        if self.is.is_above(source, to.0) {
            return Some(Errno::EINVAL);
        }
        let exchange = mode == RenameMode::Exchange;
        let target = target?;
        if self.is.is_above(target, from.0) {
            return Some(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        let is_dir = |ino| self.is.kind(ino) == Kind::Directory;
        match (is_dir(source), is_dir(target)) {
            _ if exchange || source == target => None,
            (true, false) => Some(Errno::ENOTDIR),
            (false, true) => Some(Errno::EISDIR),
            (true, true) if !self.is.names[&target].entries.is_empty() => Some(Errno::ENOTEMPTY),
            _ => None,
        }
    }

    async fn rename(&mut self, from: (u16, u16), to: (u16, u16), e: u16) {
        let (names, dirs) = ((name(from.1), name(to.1)), (self.dir(from.0), self.dir(to.0)));
        let (from, to) = ((dirs.0, &names.0[..]), (dirs.1, &names.1[..]));
        let modes = [
            RenameMode::Replace,
            RenameMode::NoReplace,
            RenameMode::Exchange,
            RenameMode::Whiteout { replace: e.is_multiple_of(2), owner: CALLER },
        ];
        let mode = modes[usize::from(e / 2) % modes.len()];
        let renamed = self.fs.rename(0, from, to, mode).await;
        if let Some(errno) = self.refused(from, to, mode) {
            // It may have been refused for want of the store before that.
            let error = renamed.expect_err("it must be refused").errno();
            return assert!(error == errno || error == Errno::EIO, "{error}, not {errno}");
        }
        if unless_refused(renamed).is_some() {
            let left = match mode {
                RenameMode::Whiteout { .. } => Some(self.fs.lookup(from.0, from.1).await.unwrap()),
                _ => None,
            };
            let left = left.map(|attr| attr.expect("a whiteout"));
            left.inspect(|attr| self.fs.forget(attr.ino, 1));
            let gone = self.is.rename(from, to, mode, left.map(|attr| attr.ino));
            self.gone(gone);
        }
    }

    async fn attributes(&mut self, a: u16, b: u16, c: u16) {
        let ino = self.no_symlink(a);
        let (mode, uid) = (u32::from(b) % 0o10_000, u32::from(c % 3));
        let change = Change { mode: Some(mode), ..Change::default() };
        self.fs.setattr(REQUESTER, ino, change).await.unwrap();
        let attr = self.fs.getattr(ino).await.unwrap();
        self.is.node(ino, |node| node.mode = attr.mode);
        assert_eq!(attr.mode, mode);
        let change = Change { uid: Some(uid), ..Change::default() };
        // A change of owner may clear set-id bits; which, meta's own tests say.
        let attr = self.fs.setattr(REQUESTER, ino, change).await.unwrap();
        assert_eq!((attr.uid, attr.gid), (uid, self.is.names[&ino].owner.1));
        self.is.node(ino, |node| {
            node.owner.0 = uid;
            node.mode = attr.mode;
        });
    }

    async fn xattr(&mut self, a: u16, b: u16, c: u16) {
        let ino = self.no_symlink(a);
        let (name, there) = (format!("user.x{}", b % 3).into_bytes(), &self.is.names[&ino].xattrs);
        let there = there.contains_key(&name);
        if c.is_multiple_of(4) {
            let removed = self.fs.removexattr(ino, &name).await;
            if !there {
                return fails_with(removed, Errno::ENODATA);
            }
            removed.unwrap();
            return self.is.node(ino, |node| drop(node.xattrs.remove(&name)));
        }
        let must = [None, Some(true), Some(false)][usize::from(c) % 3];
        let value = vec![c as u8; usize::from(c % 300)];
        let set = self.fs.setxattr(REQUESTER, ino, &name, &value, must).await;
        match must {
            Some(true) if !there => fails_with(set, Errno::ENODATA),
            Some(false) if there => fails_with(set, Errno::EEXIST),
            _ => {
                set.unwrap();
                self.is.node(ino, |node| drop(node.xattrs.insert(name, value)));
            }
        }
    }

    async fn content(&mut self, ino: Ino, op: u16, [b, c, d, e]: [u16; 4]) {
        let start = u64::from(b) % LEN;
        let end = start + 1 + u64::from(c) % [20, 3000, 9000][usize::from(d) % 3];
        let (from, to) = (start as usize, end as usize);
        match op {
            20..27 => {
                let bytes = Random(u64::from(d) << 16 | u64::from(e) | 1).bytes(to - from);
                self.fs.write(ino, start, Bytes::from(bytes.clone()), None).await.unwrap();
                self.is.write(ino, |is| {
                    is.resize(is.len().max(to), 0);
                    is[from..to].copy_from_slice(&bytes);
                });
            }
            27..31 => {
                let got = self.fs.read(ino, start, end - start).await.unwrap();
                let is = self.is.bytes(ino);
                assert!(got == is[from.min(is.len())..to.min(is.len())], "{ino:?} {start}..{end}");
            }
            31 => {
                let change = Change { size: Some(start), ..Change::default() };
                assert_eq!(self.fs.setattr(REQUESTER, ino, change).await.unwrap().size, start);
                self.is.write(ino, |is| is.resize(from, 0));
            }
            32 | 33 => self.fallocate(ino, start..end, d).await,
            34 => self.copy(ino, start..end, d, e).await,
            35..38 => {
                if unless_refused(self.fs.fsync(ino).await).is_some() {
                    self.is.synced(Some(ino));
                }
            }
            38 => {
                self.fs.fsyncdir().await.unwrap();
                self.is.synced(None);
            }
            _ => self.look_for_edges(ino, start).await,
        }
    }

    async fn fallocate(&mut self, ino: Ino, range: std::ops::Range<u64>, d: u16) {
        let grow = d.is_multiple_of(2);
        let how = match d % 5 {
            0 => Allocate::Reserve { grow },
            1..3 => Allocate::Punch,
            _ => Allocate::Zero { grow },
        };
        self.fs.fallocate(REQUESTER, ino, range.start, range.end - range.start, how).await.unwrap();
        self.is.write(ino, |is| {
            let (from, to) = (range.start as usize, range.end as usize);
            if grow && how != Allocate::Punch {
                is.resize(is.len().max(to), 0);
            }
            if !matches!(how, Allocate::Reserve { .. }) {
                let len = is.len();
                is[from.min(len)..to.min(len)].fill(0);
            }
        });
    }

    async fn copy(&mut self, ino: Ino, range: std::ops::Range<u64>, d: u16, e: u16) {
        let to = self.some(Kind::File, d).expect("there is one");
        let at = u64::from(e) % LEN;
        let source = self.is.bytes(ino).clone();
        let end = range.end.min(source.len() as u64);
        let len = end.saturating_sub(range.start);
        let asked = range.end - range.start;
        let copied = self.fs.copy_range(REQUESTER, (ino, range.start), (to, at), asked).await;
        if ino == to && len > 0 && range.start.abs_diff(at) < len {
            return fails_with(copied, Errno::EINVAL);
        }
        let Some(copied) = unless_refused(copied) else { return };
        assert_eq!(copied, len);
        if len > 0 {
            let piece = &source[range.start as usize..end as usize];
            self.is.write(to, |is| {
                let at = at as usize;
                is.resize(is.len().max(at + piece.len()), 0);
                is[at..at + piece.len()].copy_from_slice(piece);
            });
        }
    }

    async fn look_for_edges(&self, ino: Ino, start: u64) {
        let is = self.is.bytes(ino);
        match self.fs.seek(ino, start, Seek::Data).await {
            Ok(at) => assert!(is[start as usize..at as usize].iter().all(|byte| *byte == 0)),
            Err(FsError::BeyondEnd) => {
                assert!(is[(start as usize).min(is.len())..].iter().all(|byte| *byte == 0));
            }
            Err(error) => panic!("{error}"),
        }
        match self.fs.seek(ino, start, Seek::Hole).await {
            Ok(at) => assert!(start <= at && at <= is.len() as u64),
            Err(FsError::BeyondEnd) => assert!(start >= is.len() as u64),
            Err(error) => panic!("{error}"),
        }
    }

    /// Everything is as it should be; unlinked files that are open too.
    async fn compare(&self) {
        let (names, bytes) = look(&self.fs, self.is.root).await;
        let (named, unlinked): (Names, Names) =
            self.is.names.clone().into_iter().partition(|(_, node)| node.links > 0);
        assert_eq!(names, named);
        for (ino, bytes) in bytes {
            assert!(bytes == **self.is.bytes(ino), "{ino:?} has other bytes");
        }
        for ino in unlinked.into_keys() {
            assert_eq!(self.fs.getattr(ino).await.unwrap().nlink, 0);
            let got = self.fs.read(ino, 0, 4 * LEN).await.unwrap();
            assert!(got == **self.is.bytes(ino), "{ino:?}, which has no name, has other bytes");
        }
    }

    /// After a crash: some moment since the last sync, and no byte that never was there.
    async fn recover(&mut self, fs: &Arc<Filesystem>) {
        let (names, bytes) = look(fs, self.is.root).await;
        let moment = self.is.moment_of(&names);
        let moment = moment.unwrap_or_else(|| panic!("never were the names as now: {names:#?}"));
        for (ino, bytes) in &bytes {
            let held = self.is.may_hold(*ino, bytes, moment);
            held.unwrap_or_else(|why| panic!("{ino:?}: {why}"));
        }
        self.is = Reference::found(self.is.root, names, bytes);
        self.open.clear();
        self.fs = fs.clone();
    }
}

/// All names below a directory, and the bytes of all files.
async fn look(fs: &Filesystem, root: Ino) -> (Names, BTreeMap<Ino, Vec<u8>>) {
    let (mut names, mut bytes) = (Names::new(), BTreeMap::new());
    let mut open = vec![root];
    while let Some(ino) = open.pop() {
        let attr = fs.getattr(ino).await.unwrap();
        let mut found = node(attr.kind, attr.mode, (attr.uid, attr.gid));
        let list = fs.listxattr(REQUESTER, ino).await.unwrap();
        for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            found.xattrs.insert(name.to_vec(), fs.getxattr(ino, name).await.unwrap());
        }
        match attr.kind {
            Kind::Directory => {
                let mut subdirs = 0;
                for (name, child) in list_directory(fs, ino).await {
                    let attr = fs.lookup(ino, &name).await.unwrap().expect("it was listed");
                    fs.forget(attr.ino, 1);
                    assert_eq!(attr.ino, child);
                    subdirs += u32::from(attr.kind == Kind::Directory);
                    if !names.contains_key(&child) && !open.contains(&child) {
                        open.push(child);
                    }
                    assert_eq!(found.entries.insert(name, child), None, "listed twice");
                }
                assert_eq!(attr.nlink, 2 + subdirs);
            }
            Kind::File => {
                found.links = attr.nlink;
                let all = fs.read(ino, 0, 8 * LEN).await.unwrap();
                assert_eq!(attr.size, all.len() as u64);
                bytes.insert(ino, all.to_vec());
            }
            Kind::Symlink => found.target = fs.readlink(ino).await.unwrap(),
            _ => assert_eq!(attr.rdev, 0),
        }
        names.insert(ino, found);
    }
    (names, bytes)
}

async fn list_directory(fs: &Filesystem, ino: Ino) -> Vec<(Vec<u8>, Ino)> {
    let (mut cookie, mut all) = (0, Vec::new());
    loop {
        let page = fs.readdir(ino, cookie, 3).await.unwrap();
        let Some(last) = page.last() else { return all };
        cookie = last.cookie;
        let dots = |name: &[u8]| name == b"." || name == b"..";
        let named = page.into_iter().filter(|entry| !dots(&entry.name));
        all.extend(named.map(|entry| (entry.name, entry.attr.ino)));
    }
}

async fn start() -> (Mounted, Vec<Task>) {
    let info = meta::VolumeInfo {
        name: "v".to_owned(),
        id: VolumeId(1),
        cluster: ClusterId::random(),
        scheme: Scheme::erasure(4, 2).unwrap(),
        rules: proxy::VolumeRules::default(),
    };
    let volume = MemoryVolume::format(&info, (0, 0, 0o755));
    let mounted = Mounted::over(volume, Arc::new(MemoryBlobs::new()));
    let mut tasks = Vec::new();
    for nth in 0..3 {
        let name = format!("task {nth}");
        let made = mounted.fs.create(CALLER, ROOT, name.as_bytes(), 0o755, NewNode::Directory);
        let is = Reference::new(made.await.unwrap().ino);
        tasks.push(Task { fs: mounted.fs.clone(), is, open: BTreeSet::new() });
    }
    mounted.fs.fsyncdir().await.unwrap();
    (mounted, tasks)
}

async fn play(rounds: Vec<Round>) {
    let (mut mounted, mut tasks) = start().await;
    for (nth, Round { tasks: work, then }) in rounds.into_iter().enumerate() {
        {
            let mut inner = mounted.blobs.inner.lock();
            inner.delay = Duration::from_millis([0, 1, 15][nth % 3]);
            inner.failing_percent = [0, 20][usize::from(then) / 128];
        }
        let mut running = Vec::new();
        for steps in work {
            let mut task = tasks.remove(0);
            running.push(tokio::spawn(async move {
                for step in steps {
                    task.step(step).await;
                }
                task
            }));
        }
        for task in running {
            tasks.push(task.await.unwrap());
        }
        for task in &tasks {
            task.compare().await;
        }
        mounted.blobs.inner.lock().failing_percent = 0;
        mounted = end_of_round(mounted, &mut tasks, then % 5).await;
    }
    finish(mounted, tasks).await;
}

async fn end_of_round(mounted: Mounted, tasks: &mut [Task], then: u8) -> Mounted {
    match then {
        0 => {
            let mounted = mounted.remount().await;
            for task in tasks {
                task.fs = mounted.fs.clone();
                task.open.clear();
                task.is.names.retain(|_, node| node.links > 0);
                task.is.all_synced();
                task.compare().await;
            }
            mounted
        }
        1 | 2 => {
            let mounted = mounted.crash();
            for task in tasks {
                task.recover(&mounted.fs).await;
                task.compare().await;
            }
            mounted
        }
        3 => {
            mounted.fs.data.sync_all().await.unwrap();
            tasks.iter_mut().for_each(|task| task.is.all_synced());
            mounted
        }
        _ => mounted,
    }
}

/// Mounted a last time: metadata are in order, and no blob is left that nothing needs.
async fn finish(mounted: Mounted, mut tasks: Vec<Task>) {
    let mounted = end_of_round(mounted, &mut tasks, 0).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        mounted.meta.sync().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(mounted.meta.opened_on().check().await.unwrap().problems, Vec::<String>::new());
    let known = mounted.meta.blobs(None, usize::MAX).await.unwrap();
    let stored: Vec<_> = mounted.blobs.inner.lock().blobs.keys().copied().collect();
    let on_slots = known.iter().map(|blob| blob.id).filter(|id| !is_inline(id));
    assert_eq!(stored, on_slots.collect::<Vec<_>>());
    for task in &tasks {
        task.compare().await;
    }
    mounted.fs.stop().await.unwrap();
}

/// As many as are asked for, else as many as take some seconds.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(300, |text| text.parse().expect("a number of cases"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn trees_are_as_they_should_be_also_after_remounts_and_crashes(rounds in rounds()) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(rounds));
    }
}
