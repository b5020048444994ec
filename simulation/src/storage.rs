//! A filesystem in memory that does what a power cut, a bad device and a full one do.
//!
//! What was written is read back at once, and is safe only after a sync: at a crash each write since then is there,
//! not there, or torn, and so is each change of a directory that was not synced (of those a prefix stays, as of a
//! filesystem's journal). A sync that fails has written nothing, and later ones do not write it either.
//!
//! A full one has room for what was set aside for a file, and for what is there already; what is new fails, in the middle
//! of a write perhaps.
//!
//! A crash comes when it is asked for, or in the middle of what is being done: with the n-th call from now on
//! ([`Storage::crash_after`]). From then on every call of those who have files open fails, until they are opened anew.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::libc::{EIO, ENOSPC};
use parking_lot::Mutex;
use storaged::medium::{Medium, MediumFile, Mode};
use tokio::time::Instant;

use crate::dice::Dice;

/// Bytes that are kept together; a write of one of them is torn at a multiple of [`SECTOR`].
const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// How a record of a block file begins, where its kind is, and that of parts (docs/formats.md).
const RECORD: &[u8] = b"ASHLREC\n";
const RECORD_KIND: usize = 10;
const PUT: u8 = 1;

type Page = Box<[u8; PAGE]>;

/// What a device does wrong with a call, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A read fails.
    Read,
    /// A write fails, and may be there in part.
    Write,
    /// A sync fails.
    Sync,
    /// A write succeeds and is not there.
    Lost,
    /// A write succeeds and is elsewhere, in this file or in another.
    Misdirected,
    /// There is no room for a write, though it may be there in part: not even where room was set aside, as on a
    /// filesystem that overwrites nothing in place.
    NoRoom,
}

/// The filesystem of one machine.
#[derive(Clone, Debug)]
pub struct Storage(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    dice: Dice,
    files: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    /// Changes of names that are not safe: what was there before each.
    renamed: Vec<(PathBuf, Option<usize>)>,
    /// Rises with each crash: files that were opened before are gone.
    life: u64,
    down: bool,
    crash_after: Option<u64>,
    wrong: Vec<Wrong>,
    full: bool,
    /// It is full when so many calls more have needed room.
    full_after: Option<u64>,
    calls: u64,
    /// When a write was lost, or went elsewhere.
    lied: Option<Instant>,
    /// Nothing that was asked for goes wrong now.
    undisturbed: bool,
}

#[derive(Debug, Default)]
struct Node {
    pages: BTreeMap<u64, Page>,
    len: u64,
    /// Bytes from its beginning that were set aside.
    set_aside: u64,
    /// Writes that are not safe: the page, and what was there before each.
    unsafe_pages: Vec<(u64, Option<Page>)>,
    /// The length that is safe.
    unsafe_len: Option<u64>,
    /// Those of them that a failed sync has given up.
    dropped: Vec<(u64, Option<Page>)>,
}

fn failed(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl Node {
    fn page(&self, page: u64) -> [u8; PAGE] {
        self.pages.get(&page).map_or([0; PAGE], |bytes| **bytes)
    }

    fn set(&mut self, page: u64, bytes: Option<Page>) {
        let before = match bytes {
            Some(bytes) => self.pages.insert(page, bytes),
            None => self.pages.remove(&page),
        };
        self.unsafe_pages.push((page, before));
        self.dropped.retain(|(given_up, _)| *given_up != page);
    }

    fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (page, within) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
            let count = bytes.len().min(PAGE - within);
            let mut whole = self.page(page);
            whole[within..within + count].copy_from_slice(&bytes[..count]);
            self.set(page, Some(Box::new(whole)));
            (offset, bytes) = (offset + count as u64, &bytes[count..]);
        }
        if offset > self.len {
            self.set_len(offset);
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let within = (len % PAGE as u64) as usize;
            let kept = len.div_ceil(PAGE as u64);
            let beyond: Vec<u64> = self.pages.range(kept..).map(|(page, _)| *page).collect();
            beyond.into_iter().for_each(|page| self.set(page, None));
            if within > 0 && self.pages.contains_key(&(kept - 1)) {
                let mut last = self.page(kept - 1);
                last[within..].fill(0);
                self.set(kept - 1, Some(Box::new(last)));
            }
        }
        self.unsafe_len.get_or_insert(self.len);
        self.len = len;
        self.set_aside = self.set_aside.min(len);
    }

    /// Do so many bytes need room that the file has not?
    fn grows_by(&self, offset: u64, len: u64) -> bool {
        let mut pages = offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64);
        let is_new =
            |page: u64| page * PAGE as u64 >= self.set_aside && !self.pages.contains_key(&page);
        pages.any(is_new)
    }

    fn put_back(&mut self, page: u64, before: Option<Page>) {
        match before {
            Some(bytes) => drop(self.pages.insert(page, bytes)),
            None => drop(self.pages.remove(&page)),
        }
    }

    fn sync(&mut self) {
        self.unsafe_pages.clear();
        self.unsafe_len = None;
    }

    /// What a failed sync gave up is not there: the device never had it.
    fn forget(&mut self) {
        for (page, before) in std::mem::take(&mut self.dropped).into_iter().rev() {
            self.put_back(page, before);
        }
    }

    /// The power is cut: what is safe is there, and of the rest whatever chance leaves.
    fn crash(&mut self, dice: &mut Dice) {
        let written = std::mem::take(&mut self.unsafe_pages);
        let (kept, each) = match dice.below(4) {
            0 => (0, false),
            1 => (written.len(), false),
            2 => (dice.below(written.len() as u64 + 1) as usize, false),
            _ => (0, true),
        };
        let mut lot: BTreeMap<u64, bool> = BTreeMap::new();
        for (number, (page, before)) in written.into_iter().enumerate().rev() {
            let stays = match each {
                true => *lot.entry(page).or_insert_with(|| dice.one_in(2)),
                false => number < kept,
            };
            if stays {
                continue;
            }
            let torn = !each && number == kept && dice.one_in(2);
            let whole = self.page(page);
            self.put_back(page, before);
            if torn {
                let cut = SECTOR * dice.below((PAGE / SECTOR) as u64) as usize;
                let mut mixed = self.page(page);
                mixed[..cut].copy_from_slice(&whole[..cut]);
                self.pages.insert(page, Box::new(mixed));
            }
        }
        if let Some(len) = self.unsafe_len.take()
            && kept == 0
            && (!each || dice.one_in(2))
        {
            self.len = len;
            self.set_aside = self.set_aside.min(len);
            drop(self.pages.split_off(&len.div_ceil(PAGE as u64)));
        }
        self.forget();
    }
}

impl Inner {
    /// A call that may be the last before a crash.
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        match &mut self.crash_after {
            _ if self.down => Err(failed(EIO)),
            Some(0) => {
                (self.crash_after, self.down) = (None, true);
                Err(failed(EIO))
            }
            left => {
                left.iter_mut().for_each(|left| *left -= 1);
                Ok(())
            }
        }
    }

    fn goes_wrong(&mut self, how: Wrong) -> bool {
        if self.undisturbed {
            return false;
        }
        let found = self.wrong.iter().position(|wrong| *wrong == how);
        let wrong = found.map(|at| self.wrong.swap_remove(at)).is_some();
        if wrong && matches!(how, Wrong::Lost | Wrong::Misdirected) {
            self.lied = Some(Instant::now());
        }
        wrong
    }

    /// Is there no room for more? Asked by each call that needs some.
    fn is_full(&mut self) -> bool {
        match &mut self.full_after {
            Some(0) => (self.full_after, self.full) = (None, true),
            Some(left) => *left -= 1,
            None => {}
        }
        self.full
    }

    /// Why a write of so many bytes fails, if it does.
    fn write_fails(&mut self, node: usize, offset: u64, len: u64) -> Option<i32> {
        if self.call().is_err() || self.goes_wrong(Wrong::Write) {
            return Some(EIO);
        }
        let no_room = self.goes_wrong(Wrong::NoRoom)
            || self.files[node].grows_by(offset, len) && self.is_full();
        no_room.then_some(ENOSPC)
    }

    /// Where a write goes that goes astray: somewhere in the file or in any other that has a name, perhaps where something is.
    fn astray(&mut self, node: usize) -> (usize, u64) {
        let files: Vec<usize> = self.names.values().copied().collect();
        let stays = files.is_empty() || self.dice.one_in(2);
        let node = if stays { node } else { self.dice.of(&files) };
        let there: Vec<u64> = self.files[node].pages.keys().copied().collect();
        let page = match there.is_empty() || self.dice.one_in(2) {
            true => self.dice.below((self.files[node].len / PAGE as u64).max(1)),
            false => self.dice.of(&there),
        };
        (node, PAGE as u64 * page)
    }

    fn name(&mut self, path: &Path, node: Option<usize>) {
        let before = match node {
            Some(node) => self.names.insert(path.to_owned(), node),
            None => self.names.remove(path),
        };
        self.renamed.push((path.to_owned(), before));
    }
}

impl Storage {
    /// An empty one.
    pub fn new(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            dice,
            files: Vec::new(),
            names: BTreeMap::new(),
            renamed: Vec::new(),
            life: 0,
            down: false,
            crash_after: None,
            wrong: Vec::new(),
            full: false,
            full_after: None,
            calls: 0,
            lied: None,
            undisturbed: false,
        })))
    }

    /// Does something that is no part of what is simulated: nothing goes wrong with it.
    pub fn undisturbed<T>(&self, does: impl FnOnce() -> T) -> T {
        self.0.lock().undisturbed = true;
        let done = does();
        self.0.lock().undisturbed = false;
        done
    }

    /// Has a write been lost, or gone elsewhere, within this time?
    pub fn has_lied(&self, within: Duration) -> bool {
        self.0.lock().lied.is_some_and(|at| at.elapsed() < within)
    }

    /// Has the power been cut?
    pub fn is_down(&self) -> bool {
        self.0.lock().down
    }

    /// The power is cut with the call after so many.
    pub fn crash_after(&self, calls: u64) {
        self.0.lock().crash_after = Some(calls);
    }

    /// The power is cut now, unless it is already; and is back.
    pub fn crash(&self) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        for node in &mut inner.files {
            node.crash(&mut inner.dice);
        }
        let renamed = std::mem::take(&mut inner.renamed);
        let kept = inner.dice.below(renamed.len() as u64 + 1) as usize;
        for (path, before) in renamed.into_iter().skip(kept).rev() {
            match before {
                Some(node) => drop(inner.names.insert(path, node)),
                None => drop(inner.names.remove(&path)),
            }
        }
        inner.new_life();
    }

    /// Whoever has files open is gone, and nothing of what they did is lost: the program ended, not the machine.
    pub fn abandon(&self) {
        self.0.lock().new_life();
    }

    /// This will go wrong, once.
    pub fn let_go_wrong(&self, how: Wrong) {
        self.0.lock().wrong.push(how);
    }

    /// There is no room for anything new, once so many calls more have needed some.
    pub fn full_after(&self, calls: u64) {
        self.0.lock().full_after = Some(calls);
    }

    /// Nothing that is still to go wrong does.
    pub fn is_well(&self) {
        let mut inner = self.0.lock();
        inner.wrong.clear();
        (inner.crash_after, inner.full_after, inner.full) = (None, None, false);
    }

    /// Some bit of some page of a file that `which` holds for flips.
    pub fn rot(&self, which: impl Fn(&Path) -> bool) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let nodes: Vec<usize> =
            inner.names.iter().filter(|(path, _)| which(path)).map(|(_, node)| *node).collect();
        let pages: Vec<(usize, u64)> = nodes
            .into_iter()
            .flat_map(|node| inner.files[node].pages.keys().map(move |page| (node, *page)))
            .collect();
        inner.flip_in_one_of(&pages);
    }

    /// One bit flips in one of so many pages of files that `which` holds for, but for the first page of each.
    pub fn rot_much(&self, one_in: u64, which: impl Fn(&Path) -> bool) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        for node in inner.names.iter().filter(|(path, _)| which(path)).map(|(_, node)| *node) {
            for (_, bytes) in inner.files[node].pages.iter_mut().filter(|(page, _)| **page > 0) {
                if inner.dice.one_in(one_in) {
                    let bit = inner.dice.below(8 * PAGE as u64) as usize;
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
    }

    /// A bit flips in a record of a part, in its header or its bytes, of a block file: one that `which` holds for.
    pub fn rot_part(&self, which: impl Fn(&Path) -> bool) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let mut pages: Vec<(usize, u64)> = Vec::new();
        for node in inner.names.iter().filter(|(path, _)| which(path)).map(|(_, node)| *node) {
            let mut of_part = false;
            for (page, bytes) in &inner.files[node].pages {
                if bytes.starts_with(RECORD) {
                    of_part = bytes[RECORD_KIND] == PUT;
                }
                if of_part {
                    pages.push((node, *page));
                }
            }
        }
        inner.flip_in_one_of(&pages);
    }

    /// Calls so far, and a checksum of all there is.
    pub fn sum(&self) -> (u64, u32) {
        let inner = self.0.lock();
        let mut sum = 0;
        for (path, node) in &inner.names {
            sum = crc32c::crc32c_append(sum, path.as_os_str().as_encoded_bytes());
            for (page, bytes) in &inner.files[*node].pages {
                sum = crc32c::crc32c_append(sum, &page.to_le_bytes());
                sum = crc32c::crc32c_append(sum, &**bytes);
            }
        }
        (inner.calls, sum)
    }
}

impl Inner {
    /// A bit flips in one of these pages of files.
    fn flip_in_one_of(&mut self, pages: &[(usize, u64)]) {
        if pages.is_empty() {
            return;
        }
        let (node, page) = self.dice.of(pages);
        let bit = self.dice.below(8 * PAGE as u64) as usize;
        if let Some(bytes) = self.files[node].pages.get_mut(&page) {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    fn new_life(&mut self) {
        self.life += 1;
        (self.down, self.crash_after) = (false, None);
        let named: Vec<usize> = self.names.values().copied().collect();
        let forgotten = |node: &usize| !named.contains(node);
        // What has no name, and nobody has open, is no more. Names that are not safe may bring it back.
        if self.renamed.is_empty() {
            for node in (0..self.files.len()).filter(forgotten) {
                self.files[node] = Node::default();
            }
        }
    }
}

impl Medium for Storage {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn MediumFile>> {
        let mut inner = self.0.lock();
        inner.call()?;
        let makes = matches!(mode, Mode::Create | Mode::CachedWrite);
        let node = match inner.names.get(path) {
            Some(_) if mode == Mode::Create => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(node) => *node,
            None if !makes => return Err(io::ErrorKind::NotFound.into()),
            None => {
                inner.files.push(Node::default());
                let node = inner.files.len() - 1;
                inner.name(path, Some(node));
                node
            }
        };
        Ok(Box::new(OpenFile { storage: self.clone(), node, life: inner.life }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.call()?;
        if !inner.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.name(path, None);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.call()?;
        let node = inner.names.get(from).copied().ok_or(io::ErrorKind::NotFound)?;
        inner.name(to, Some(node));
        inner.name(from, None);
        Ok(())
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let mut inner = self.0.lock();
        inner.call()?;
        let node = inner.names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(inner.files[node].len)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let mut inner = self.0.lock();
        inner.call()?;
        let here = inner.names.keys().filter(|path| path.parent() == Some(directory));
        Ok(here.filter_map(|path| path.file_name().map(Into::into)).collect())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.call()?;
        inner.renamed.retain(|(path, _)| path.parent() != Some(directory));
        Ok(())
    }
}

/// An open file.
#[derive(Debug)]
struct OpenFile {
    storage: Storage,
    node: usize,
    life: u64,
}

impl OpenFile {
    fn with<T>(&self, call: impl FnOnce(&mut Inner, usize) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.storage.0.lock();
        if inner.life != self.life {
            return Err(failed(EIO));
        }
        call(&mut inner, self.node)
    }
}

impl MediumFile for OpenFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|inner, node| {
            inner.call()?;
            Ok(inner.files[node].len)
        })
    }

    fn is_linked(&self) -> io::Result<bool> {
        self.with(|inner, node| Ok(inner.names.values().any(|named| *named == node)))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.with(|inner, node| {
            if inner.down || inner.goes_wrong(Wrong::Read) {
                return Err(failed(EIO));
            }
            let node = &inner.files[node];
            if offset + buf.len() as u64 > node.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut done = 0;
            while done < buf.len() {
                let at = offset + done as u64;
                let within = (at % PAGE as u64) as usize;
                let count = (buf.len() - done).min(PAGE - within);
                match node.pages.get(&(at / PAGE as u64)) {
                    Some(page) => buf[done..done + count].copy_from_slice(&page[within..][..count]),
                    None => buf[done..done + count].fill(0),
                }
                done += count;
            }
            Ok(())
        })
    }

    fn write_at(&self, mut offset: u64, buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.with(|inner, mut node| {
            if inner.down {
                return Err(failed(EIO));
            }
            let len: usize = buffers.iter().map(|buffer| buffer.len()).sum();
            let fails = inner.write_fails(node, offset, len as u64);
            if inner.goes_wrong(Wrong::Lost) {
                return Ok(());
            }
            if inner.goes_wrong(Wrong::Misdirected) {
                (node, offset) = inner.astray(node);
            }
            let count = buffers.len() as u64;
            let whole = if fails.is_some() { inner.dice.below(count + 1) } else { count };
            for buffer in buffers.iter().take(whole as usize) {
                inner.files[node].write(offset, buffer);
                offset += buffer.len() as u64;
            }
            fails.map_or(Ok(()), |errno| Err(failed(errno)))
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|inner, node| {
            inner.call()?;
            let wrong = inner.goes_wrong(Wrong::Sync);
            let node = &mut inner.files[node];
            if wrong {
                let lost = std::mem::take(&mut node.unsafe_pages);
                node.dropped.extend(lost);
                return Err(failed(EIO));
            }
            node.sync();
            Ok(())
        })
    }

    fn forget_cached(&self) -> io::Result<()> {
        self.with(|inner, node| {
            inner.call()?;
            inner.files[node].forget();
            Ok(())
        })
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.with(|inner, node| {
            inner.call()?;
            if inner.is_full() {
                return Err(failed(ENOSPC));
            }
            let node = &mut inner.files[node];
            if len > node.len {
                node.set_len(len);
            }
            node.set_aside = node.set_aside.max(len);
            Ok(())
        })
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.with(|inner, node| {
            inner.call()?;
            let node = &mut inner.files[node];
            let pages = offset.div_ceil(PAGE as u64)..(offset + len) / PAGE as u64;
            let there: Vec<u64> = node.pages.range(pages).map(|(page, _)| *page).collect();
            there.into_iter().for_each(|page| node.set(page, None));
            Ok(())
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.with(|inner, node| {
            inner.call()?;
            inner.files[node].set_len(len);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 2 * PAGE as u64;

    fn made(storage: &Storage, name: &str) -> Box<dyn MediumFile> {
        let file = storage.open(Path::new(name), Mode::Create).unwrap();
        file.preallocate(LEN).unwrap();
        file
    }

    fn write(file: &dyn MediumFile, offset: u64) -> Result<(), Option<i32>> {
        let page = [7; PAGE];
        let written = file.write_at(offset, &mut [IoSlice::new(&page)]);
        written.map_err(|e| e.raw_os_error())
    }

    fn sevens(file: &dyn MediumFile) -> Vec<u64> {
        let mut page = [0; PAGE];
        let written = [0, PAGE as u64].into_iter().filter(|at| {
            file.read_at(*at, &mut page).unwrap();
            page == [7; PAGE]
        });
        written.collect()
    }

    #[test]
    fn a_full_one_has_room_for_what_was_set_aside_and_for_all_once_somebody_has_made_some() {
        let storage = Storage::new(Dice::new(1));
        let file = made(&storage, "/a");
        storage.full_after(1);
        assert_eq!(write(&*file, LEN), Ok(()), "it is full with the next");
        for offset in [0, LEN, PAGE as u64] {
            assert_eq!(write(&*file, offset), Ok(()), "there is room at {offset}");
        }
        assert_eq!(write(&*file, 2 * LEN), Err(Some(ENOSPC)));
        let other = storage.open(Path::new("/b"), Mode::Create).unwrap();
        assert_eq!(other.preallocate(LEN).map_err(|e| e.raw_os_error()), Err(Some(ENOSPC)));
        storage.is_well();
        assert!(other.preallocate(LEN).is_ok());
        storage.let_go_wrong(Wrong::NoRoom);
        assert_eq!(write(&*other, 0), Err(Some(ENOSPC)), "even there, once");
        assert_eq!(write(&*other, 0), Ok(()));
    }

    #[test]
    fn what_goes_astray_is_once_in_this_file_or_in_another() {
        let mut elsewhere = [0; 2];
        for seed in 0..64 {
            let storage = Storage::new(Dice::new(seed));
            let (file, other) = (made(&storage, "/a"), made(&storage, "/b"));
            storage.let_go_wrong(Wrong::Misdirected);
            assert_eq!(write(&*file, 0), Ok(()));
            let (here, there) = (sevens(&*file).len(), sevens(&*other).len());
            assert_eq!(here + there, 1, "seed {seed}");
            elsewhere[there] += 1;
        }
        assert!(elsewhere.iter().all(|times| *times > 0), "{elsewhere:?}");
    }
}
