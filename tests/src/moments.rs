//! What a crash may leave of a directory. A [`History`] looks at an ext4 directory after each call,
//! since the last moment at which everything was durable, and says whether what Ashlar has after a
//! crash is as it was at *one* moment since then, as docs/semantics.md promises:
//!
//! * names and attributes are as after one of the calls, none earlier than what was synced;
//! * what truncate, fallocate and copy_file_range did to files is there up to the same call;
//! * of what write(2) wrote until then each byte is there or not, unless the file was synced since, or
//!   renamed over another or copied from, before that call: then all of them are.
//!
//! One call may have changed names or attributes, and not the content yet (a write that takes setuid
//! away): never the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Stat, openat, statat,
};

use crate::calls::{At, Call, SLOTS, Stamp, Step};
use crate::runs::{Content, Runs};
use crate::side::{Answer, Outcome, is_far, xattrs};

/// Everything in a file from an offset on.
const END: u64 = u64::MAX;

/// A time, as far as it can be told before it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    /// Somebody has set it.
    Set(i64, i64),
    /// About now.
    Recent,
}

impl When {
    fn new(secs: i64, nanos: u64) -> Self {
        if is_far(secs) { Self::Set(secs, nanos as i64) } else { Self::Recent }
    }
}

/// A name and what it stands for, but for what writes change later: content, size and mtime of files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    mode: u32,
    links: u64,
    owner: (u32, u32),
    device: u64,
    /// Access and modification.
    times: [Option<When>; 2],
    target: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, (usize, u64)>,
    /// Which of the file's names is the first.
    first: PathBuf,
}

/// A directory and everything below it, by path.
#[derive(Debug, PartialEq, Eq)]
struct State {
    names: BTreeMap<PathBuf, Named>,
    inodes: BTreeMap<PathBuf, u64>,
}

impl State {
    fn of(root: &Path) -> io::Result<Self> {
        let (mut names, mut inodes, mut open) =
            (BTreeMap::new(), BTreeMap::new(), vec![PathBuf::new()]);
        while let Some(path) = open.pop() {
            let full = if path == Path::new("") { root.to_owned() } else { root.join(&path) };
            let stat = statat(CWD, &full, AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory {
                for entry in std::fs::read_dir(&full)? {
                    open.push(path.join(entry?.file_name()));
                }
            }
            names.insert(path.clone(), Named::of(&full, &stat)?);
            inodes.insert(path, stat.st_ino);
        }
        let mut firsts = BTreeMap::new();
        for (path, named) in &mut names {
            named.first.clone_from(firsts.entry(inodes[path]).or_insert_with(|| path.clone()));
        }
        Ok(Self { names, inodes })
    }

    /// One name of each regular file.
    fn files(&self) -> impl Iterator<Item = (&PathBuf, u64)> {
        let file = |named: &Named| FileType::from_raw_mode(named.mode) == FileType::RegularFile;
        let files =
            self.names.iter().filter(move |(path, named)| file(named) && **path == named.first);
        files.map(|(path, _)| (path, self.inodes[path]))
    }

    fn differences(&self, other: &Self) -> Vec<String> {
        let paths: BTreeSet<&PathBuf> = self.names.keys().chain(other.names.keys()).collect();
        let differs = |path: &&&PathBuf| self.names.get(**path) != other.names.get(**path);
        let tell = |path: &PathBuf| {
            format!(
                "{path:?}\n  was   {:?}\n  found {:?}",
                self.names.get(path),
                other.names.get(path)
            )
        };
        paths.iter().filter(differs).map(|path| tell(path)).collect()
    }
}

impl Named {
    fn of(full: &Path, stat: &Stat) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let atime = When::new(stat.st_atime, stat.st_atime_nsec);
        let mtime = When::new(stat.st_mtime, stat.st_mtime_nsec);
        let times = match kind {
            FileType::Directory | FileType::Symlink => [Some(atime), Some(mtime)],
            FileType::RegularFile => [Some(atime), None],
            // The kernel's own pipes, sockets and devices: FUSE does not note when they are used.
            _ => [None, None],
        };
        let target = match kind {
            FileType::Symlink => std::fs::read_link(full)?.as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        Ok(Self {
            mode: stat.st_mode,
            links: stat.st_nlink,
            owner: (stat.st_uid, stat.st_gid),
            device: stat.st_rdev,
            times,
            target,
            xattrs: xattrs(full)?,
            first: PathBuf::new(),
        })
    }
}

/// Values that a byte may have.
#[derive(Clone, Copy, PartialEq, Eq)]
struct AnyOf([u64; 4]);

impl AnyOf {
    fn only(byte: u8) -> Self {
        Self([0; 4]).or(byte)
    }

    fn or(mut self, byte: u8) -> Self {
        self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
        self
    }

    fn has(self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] & 1 << (byte % 64) != 0
    }
}

impl fmt::Debug for AnyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0..=u8::MAX).filter(|byte| self.has(*byte))).finish()
    }
}

/// A file's content and time of modification as they are.
struct Exact {
    content: Content,
    mtime: When,
}

impl Exact {
    fn of(path: &Path) -> io::Result<Self> {
        let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
        let mtime = When::new(stat.st_mtime, stat.st_mtime_nsec);
        Ok(Self { content: Content::of(&File::open(path)?)?, mtime })
    }

    fn bytes(&self) -> Runs<AnyOf> {
        self.content.bytes.merge(&Runs::all(()), |byte, ()| AnyOf::only(*byte))
    }
}

/// What a file's content may be after a crash.
#[derive(Clone)]
struct Possible {
    bytes: Runs<AnyOf>,
    size: RangeInclusive<u64>,
    mtimes: BTreeSet<When>,
}

impl Possible {
    fn only(now: &Exact) -> Self {
        let size = now.content.size;
        Self { bytes: now.bytes(), size: size..=size, mtimes: BTreeSet::from([now.mtime]) }
    }

    /// All of it is as it is, in metadata or stored.
    fn settled(&mut self, now: &Exact) {
        *self = Self::only(now);
    }

    /// Bytes were written, which may be stored or not.
    fn written(&mut self, now: &Exact) {
        self.bytes = self.bytes.merge(&now.content.bytes, |any, byte| any.or(*byte));
        self.size = *self.size.start()..=now.content.size.max(*self.size.end());
        self.mtimes.insert(now.mtime);
    }

    /// The range, the size and the time were changed in metadata.
    fn changed(&mut self, range: Range<u64>, now: &Exact) {
        let Possible { bytes, size, mtimes } = Self::only(now);
        *self = Self { bytes: self.bytes.replaced(range, &bytes), size, mtimes };
    }

    /// Why it cannot be this.
    fn refuses(&self, found: &Exact) -> Option<String> {
        let size = found.content.size;
        if !self.size.contains(&size) {
            return Some(format!("is {size} bytes long, not {:?}", self.size));
        }
        if !self.mtimes.contains(&found.mtime) {
            return Some(format!("has {:?} as mtime, not {:?}", found.mtime, self.mtimes));
        }
        let wrong = self
            .bytes
            .merge(&found.content.bytes, |any, byte| (!any.has(*byte)).then_some((*byte, *any)));
        let (at, wrong) = wrong.find(Option::is_some)?;
        let (byte, any) = wrong.as_ref()?;
        Some(format!("has {byte} at {at}, not {any:?}"))
    }
}

/// What has been since everything was durable.
pub struct History {
    /// ext4's directory.
    root: PathBuf,
    /// After each call. A crash may leave these; the first is durable.
    states: Vec<Arc<State>>,
    /// How many calls came before the first of them.
    before: usize,
    /// What each file may hold from a call on, by its inode.
    files: BTreeMap<u64, Vec<(usize, Possible)>>,
    /// Keeps the number of a removed file from being used again.
    held: BTreeMap<u64, OwnedFd>,
    /// Which open files were opened with O_SYNC.
    synced: [bool; SLOTS],
}

impl History {
    /// Begins with a directory that is durable, without open files.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn start(root: &Path) -> io::Result<Self> {
        let mut history = Self {
            root: root.to_owned(),
            states: Vec::new(),
            before: 0,
            files: BTreeMap::new(),
            held: BTreeMap::new(),
            synced: [false; SLOTS],
        };
        history.look()?;
        Ok(history)
    }

    /// Calls since the start.
    pub fn calls(&self) -> usize {
        self.before + self.states.len() - 1
    }

    fn now(&self) -> &Arc<State> {
        self.states.last().expect("there is always one")
    }

    fn look(&mut self) -> io::Result<()> {
        let mut now = Arc::new(State::of(&self.root)?);
        if let Some(last) = self.states.last()
            && *last == now
        {
            now = Arc::clone(last);
        }
        self.states.push(Arc::clone(&now));
        for (path, ino) in &now.inodes {
            if !self.held.contains_key(ino) {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                self.held.insert(*ino, openat(CWD, self.root.join(path), flags, Mode::empty())?);
            }
        }
        for (path, ino) in now.files() {
            if !self.files.contains_key(&ino) {
                let exact = Exact::of(&self.root.join(path))?;
                self.files.insert(ino, vec![(self.calls(), Possible::only(&exact))]);
            }
        }
        Ok(())
    }

    /// ext4 has answered a call. Did it make all names durable? Only when Ashlar has `answered`, too.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn record(&mut self, step: &Step, answer: &Answer, answered: bool) -> io::Result<bool> {
        self.look()?;
        if let Call::Open { slot, flags, .. } = &step.call {
            self.synced[*slot] = flags.contains(OFlags::SYNC);
        }
        let Ok(outcome) = &answer.result else { return Ok(false) };
        if *outcome == Outcome::NoFile {
            return Ok(false);
        }
        let file = answer.inodes.first().copied().flatten();
        let some = *outcome != Outcome::Number(0);
        let keeping = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
        let synced = match &step.call {
            Call::Sync { .. } => true,
            // Pipes and devices are the kernel's: nobody hears of it.
            Call::Write { slot, .. } => {
                some && self.synced[*slot] && answer.kind() == Some(FileType::RegularFile)
            }
            _ => false,
        };
        if synced && answered {
            self.change(file, Possible::settled)?;
            self.names_are_durable();
            return Ok(true);
        }
        match &step.call {
            Call::Write { .. } if some => self.change(file, Possible::written)?,
            Call::Open { flags, .. } if flags.contains(OFlags::TRUNC) => {
                self.change(file, Possible::settled)?;
            }
            Call::Truncate { size, .. } => {
                self.change(file, |it, now| it.changed(*size..END, now))?
            }
            Call::Fallocate { mode, offset, len, .. } => {
                let clears = FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
                let range = if mode.intersects(clears) { *offset..offset + len } else { 0..0 };
                self.change(file, |it, now| it.changed(range, now))?;
            }
            Call::Copy { at, .. } if let Outcome::Number(copied @ 1..) = outcome => {
                let target = answer.inodes.get(1).copied().flatten();
                self.change(file, Possible::settled)?;
                self.change(target, |it, now| it.changed(*at..at + copied, now))?;
            }
            Call::Utimens { at, mtime, .. } if !matches!(mtime, Stamp::Omit) => {
                let itself = answer.inodes.get(1).copied().flatten();
                let file = if matches!(at, At::Path(_, false)) { itself } else { file };
                self.change(file, |it, now| it.mtimes = BTreeSet::from([now.mtime]))?;
            }
            Call::Rename { flags, .. } if !flags.intersects(keeping) => {
                for ino in self.put_in_place() {
                    self.change(Some(ino), Possible::settled)?;
                }
            }
            _ => {}
        }
        Ok(false)
    }

    /// What has got a name that was another's before the last call.
    fn put_in_place(&self) -> Vec<u64> {
        let [.., before, now] = &self.states[..] else { return Vec::new() };
        let others = |(path, ino): &(&PathBuf, &u64)| {
            before.inodes.get(*path).is_some_and(|before| before != *ino)
        };
        now.inodes.iter().filter(others).map(|(_, ino)| *ino).collect()
    }

    /// The last call changed the content of a file, if it is one and has a name.
    fn change(
        &mut self,
        ino: Option<u64>,
        change: impl FnOnce(&mut Possible, &Exact),
    ) -> io::Result<()> {
        let (calls, now) = (self.calls(), Arc::clone(self.now()));
        let file = now.files().find(|(_, file)| Some(*file) == ino);
        let Some((path, ino)) = file else { return Ok(()) };
        let exact = Exact::of(&self.root.join(path))?;
        let versions = self.files.get_mut(&ino).expect("what has a name was looked at");
        let mut last = versions.last().expect("one at least").1.clone();
        change(&mut last, &exact);
        versions.push((calls, last));
        Ok(())
    }

    /// All names and attributes are: none of them will be as before.
    pub fn names_are_durable(&mut self) {
        self.before = self.calls();
        let now = Arc::clone(self.now());
        self.states = vec![Arc::clone(&now)];
        let there: BTreeSet<u64> = now.inodes.values().copied().collect();
        self.held.retain(|ino, _| there.contains(ino));
        self.files.retain(|ino, _| there.contains(ino));
        for versions in self.files.values_mut() {
            versions.drain(..versions.len() - 1);
        }
    }

    /// Whether a crash may have left this of what a sync elsewhere had made durable up to the call
    /// `durable`.
    ///
    /// # Errors
    /// Why not.
    pub fn allows(&self, root: &Path, durable: usize) -> Result<()> {
        let found = State::of(root).context("walking the tree after the crash")?;
        let mut files = BTreeMap::new();
        for (path, _) in found.files() {
            let exact = Exact::of(&root.join(path));
            files.insert(path.clone(), exact.with_context(|| format!("reading {path:?}"))?);
        }
        let first = self.before.max(durable);
        let mut why = Vec::new();
        for call in first..=self.calls() {
            let then = &self.states[call - self.before];
            if then.names != found.names {
                continue;
            }
            // Its names and attributes may have come before its content.
            for content in [call, call.saturating_sub(1).max(first)] {
                let refused = files.iter().find_map(|(path, exact)| {
                    let possible = self.possible(then.inodes[path], content);
                    possible.refuses(exact).map(|why| format!("{path:?} {why}"))
                });
                match refused {
                    None => return Ok(()),
                    Some(refused) => why.push(format!("names as after call {call}, but {refused}")),
                }
            }
        }
        if why.is_empty() {
            self.tell_nearest(&found, first)?;
        }
        why.dedup();
        bail!("after the crash:\n{}", why.join("\n"))
    }

    fn possible(&self, ino: u64, call: usize) -> &Possible {
        let versions = &self.files[&ino];
        let until = versions.partition_point(|(since, _)| *since <= call);
        &versions[until.saturating_sub(1)].1
    }

    fn tell_nearest(&self, found: &State, first: usize) -> Result<()> {
        let calls = first..=self.calls();
        let differences =
            calls.map(|call| (self.states[call - self.before].differences(found), call));
        let (differences, call) =
            differences.min_by_key(|(all, _)| all.len()).expect("one at least");
        bail!(
            "names and attributes are as they never were since call {first}; after call {call} they differ least:\n{}",
            differences.join("\n")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_AGO: When = When::Set(0, 0);

    fn file(bytes: &[u8], mtime: When) -> Exact {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        Exact { content: Content::of(&file).unwrap(), mtime }
    }

    fn check(possible: &Possible, may: &[(&[u8], When)], may_not: &[(&[u8], When)]) {
        let refuses = |(bytes, mtime): &(&[u8], When)| possible.refuses(&file(bytes, *mtime));
        let refused: Vec<String> = may.iter().filter_map(refuses).collect();
        assert!(refused.is_empty(), "{refused:?}");
        assert_eq!(may_not.iter().find(|it| refuses(it).is_none()), None);
    }

    #[test]
    fn of_what_was_written_each_byte_may_be_there_and_no_other() {
        let mut possible = Possible::only(&file(b"aaaa", LONG_AGO));
        possible.written(&file(b"abbabb", When::Recent));
        check(
            &possible,
            &[(b"aaaa", LONG_AGO), (b"abbabb", When::Recent), (b"aaba\0b", When::Recent)],
            &[
                (b"caaa", LONG_AGO),
                (b"baaa", LONG_AGO),
                (b"aaa", LONG_AGO),
                (b"abbabb\0", When::Recent),
            ],
        );
    }

    #[test]
    fn what_was_changed_in_metadata_is_so_and_what_was_settled_too() {
        let mut possible = Possible::only(&file(b"aaaa", LONG_AGO));
        possible.written(&file(b"bbbb", When::Recent));
        possible.changed(2..END, &file(b"bb", LONG_AGO));
        check(
            &possible,
            &[(b"aa", LONG_AGO), (b"ab", LONG_AGO)],
            &[(b"aaaa", LONG_AGO), (b"aa", When::Recent), (b"a", LONG_AGO)],
        );
        possible.written(&file(b"bbbb", LONG_AGO));
        check(&possible, &[(b"bb\0b", LONG_AGO)], &[(b"aaaa", LONG_AGO)]);
        possible.settled(&file(b"bbbb", LONG_AGO));
        check(&possible, &[(b"bbbb", LONG_AGO)], &[(b"bb\0b", LONG_AGO)]);
    }
}
