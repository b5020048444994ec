//! Keys of a bucket in the order of their bytes, from somewhere on: a walk down and up its folders, of which it keeps no
//! more than their names' places.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use fs::tree::{Folder, TreeError, TreePath, TreeResult, Trouble};
use futures::future::BoxFuture;
use meta::{Attr, Ino, Kind, Looked};

use super::asked::Asked;
use super::attributes::{FOLDER, STATE, Seen};
use super::error::{S3Error, S3Result, Wrong};
use super::names::{From, Names};
use super::object::FolderMark;

/// Names that are looked at together, once so many before were wanted in a row.
const AT_ONCE: usize = 64;

/// What is found.
pub(super) enum Found {
    /// An object.
    Object(Box<Listed>),
    /// A folder that is not gone into: its key, with the slash.
    Folder(Vec<u8>),
}

/// An object in a list.
pub(super) struct Listed {
    pub(super) key: Vec<u8>,
    pub(super) attr: Attr,
    pub(super) seen: Seen,
}

/// A folder on the way.
struct Level {
    path: TreePath,
    /// What the keys in it begin with.
    key: Vec<u8>,
    folder: Folder,
    /// What its names that are wanted begin with.
    prefix: Vec<u8>,
    from: From,
    names: Option<Arc<Names>>,
    /// Files that were looked at before their turn, in the order of names.
    ahead: VecDeque<(Vec<u8>, Option<Looked>)>,
    /// So many are looked at the next time.
    at_once: usize,
}

impl Level {
    /// What this name of a file is, with what is known of it as an object. Those that come next are looked at with it: more of
    /// them each time that they were wanted.
    async fn look(&mut self, name: &[u8]) -> TreeResult<Option<Looked>> {
        match self.ahead.pop_front() {
            Some((next, looked)) if next == name => return Ok(looked),
            _ => self.ahead.clear(),
        }
        let names = self.names.as_ref().map(|names| names.files(name, self.at_once));
        let mut names = names.unwrap_or_else(|| vec![name.to_vec()]);
        self.at_once = (self.at_once * 2).min(AT_ONCE);
        let found = match self.folder.look_at(&names, STATE).await {
            // It may be one of the others that cannot be looked at, and perhaps is not wanted.
            Err(_) if names.len() > 1 => {
                names.truncate(1);
                self.leave();
                self.folder.look_at(&names, STATE).await?
            }
            found => found?,
        };
        self.ahead = names.into_iter().zip(found).collect();
        Ok(self.ahead.pop_front().and_then(|(_, looked)| looked))
    }

    /// Others are wanted first.
    fn leave(&mut self) {
        self.ahead.clear();
        self.at_once = 1;
    }
}

fn failed(error: TreeError) -> S3Error {
    S3Error::of(&error, Wrong::NoSuchBucket)
}

/// A folder, that of this key, cannot be looked into: a list without it would be believed to be whole.
fn not_seen(error: &TreeError, key: &[u8]) -> S3Error {
    let mut why = S3Error::of(error, Wrong::NoSuchBucket);
    if error.trouble() == Trouble::Denied && !key.is_empty() {
        let key = String::from_utf8_lossy(key);
        why.message = format!("you may not look into {key}, so that this list would not be whole");
    }
    why
}

/// Did it go, or become another thing, meanwhile?
fn went(error: &TreeError) -> bool {
    matches!(error.trouble(), Trouble::NotFound | Trouble::WrongKind)
}

/// Keys that begin with a prefix and are greater than a marker.
pub(super) struct Walk<'a> {
    asked: &'a Asked,
    marker: Vec<u8>,
    /// Folders below the prefix are found, and not gone into.
    flat: bool,
    levels: Vec<Level>,
    /// Folders that are looked into: links cannot be among them, but a folder may be moved while it is.
    on_the_way: HashSet<Ino>,
    /// The folder that the prefix names, which may be an object itself.
    first: Option<Found>,
    request: u64,
}

impl<'a> Walk<'a> {
    /// Of a bucket.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn new(
        (asked, bucket): (&'a Asked, &TreePath),
        (prefix, marker): (&[u8], &[u8]),
        flat: bool,
    ) -> S3Result<Self> {
        let end = prefix.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let (above, rest) = prefix.split_at(end);
        let request = u64::from_le_bytes(
            uuid::Uuid::new_v4().into_bytes()[..8].try_into().unwrap_or_default(),
        );
        let mut walk = Self {
            asked,
            marker: marker.to_vec(),
            flat,
            levels: Vec::new(),
            on_the_way: HashSet::new(),
            first: None,
            request,
        };
        let mut path = bucket.clone();
        for name in above.split(|byte| *byte == b'/').filter(|_| end > 0) {
            if name.is_empty() {
                continue;
            }
            match path.join(name) {
                Ok(below) => path = below,
                // No key begins so.
                Err(_) => return Ok(walk),
            }
        }
        if path.names().len() != bucket.names().len() + above.iter().filter(|b| **b == b'/').count()
        {
            return Ok(walk);
        }
        match asked.view.folder(&path).await {
            Ok(folder) => {
                let found =
                    if end > 0 { walk.enter(&folder, above, rest.is_empty()).await? } else { None };
                walk.push(path, above.to_vec(), folder, rest.to_vec());
                walk.first = found;
            }
            Err(e) if end > 0 && went(&e) => {}
            Err(e) => return Err(not_seen(&e, above)),
        }
        Ok(walk)
    }

    /// What comes next.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(super) async fn next(&mut self) -> S3Result<Option<Found>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        while let Some(name) = self.name().await? {
            let Some(level) = self.levels.last() else { return Ok(None) };
            let key = [&level.key[..], &name].concat();
            let found = match name.strip_suffix(b"/") {
                Some(name) => self.below(name.to_vec(), key).await?,
                None => self.file(&name, key).await?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Goes on behind all keys that begin so: they are not looked at. One of them was found last.
    pub(super) fn pass(&mut self, begin: &[u8]) {
        while let Some(level) = self.levels.last_mut() {
            if let Some(rest) = begin.strip_prefix(&level.key[..])
                && let Some(from) = From::behind(rest)
            {
                level.from = from;
                level.leave();
                return;
            }
            // All of it begins so, or no name in it comes behind.
            self.pop();
        }
    }

    /// The next name of the folder where the walk is, or of one above.
    async fn name(&mut self) -> S3Result<Option<Vec<u8>>> {
        while let Some(level) = self.levels.last_mut() {
            let names = match level.names.take() {
                Some(names) => names,
                None => {
                    let cache = &self.asked.door.names;
                    let of = (&self.asked.view, &level.path, &level.folder);
                    match cache.names(of, &level.prefix, (&level.from, self.request)).await {
                        // It went meanwhile.
                        Err(e) if e.is_not_found() => {
                            self.pop();
                            continue;
                        }
                        names => names.map_err(|e| not_seen(&e, &level.key))?,
                    }
                }
            };
            match names.next(&level.from).map(<[u8]>::to_vec) {
                Some(name) => {
                    level.from = From::Beyond(name.clone());
                    level.names = Some(names);
                    return Ok(Some(name));
                }
                None if names.is_complete() => self.pop(),
                // The next of them are read.
                None => {}
            }
        }
        Ok(None)
    }

    fn pop(&mut self) {
        if let Some(level) = self.levels.pop() {
            let ino = level.folder.attr().ino;
            self.on_the_way.remove(&ino);
            self.asked.door.names.forget(ino, &level.prefix, self.request);
        }
    }

    fn push(&mut self, path: TreePath, key: Vec<u8>, folder: Folder, prefix: Vec<u8>) {
        let from = match self.marker.strip_prefix(&key[..]) {
            Some([]) => From::Start,
            Some(rest) => From::Within(rest.to_vec()),
            // All keys in it are before the marker.
            None if self.marker > key => return,
            None => From::Start,
        };
        if !self.on_the_way.insert(folder.attr().ino) {
            return;
        }
        // Names of this one and of that above are held on to. Those further above are found again, if they are still there.
        if let Some(far) = self.levels.iter_mut().rev().nth(1) {
            far.names = None;
        }
        if let Some(above) = self.levels.last_mut() {
            above.leave();
        }
        let ahead = VecDeque::new();
        self.levels.push(Level { path, key, folder, prefix, from, names: None, ahead, at_once: 1 });
    }

    /// A folder: it is found, or gone into.
    async fn below(&mut self, name: Vec<u8>, key: Vec<u8>) -> S3Result<Option<Found>> {
        let in_it = self.marker.starts_with(&key);
        if self.flat {
            let is_done = self.marker == key || in_it && !self.has_more(&key).await?;
            return Ok((!is_done).then_some(Found::Folder(key)));
        }
        let Some(level) = self.levels.last() else { return Ok(None) };
        let path = level.path.join(&name).map_err(|e| failed(e.into()))?;
        let folder = match self.asked.view.folder(&path).await {
            Ok(folder) => folder,
            Err(e) if went(&e) => return Ok(None),
            Err(e) => return Err(not_seen(&e, &key)),
        };
        let found = self.enter(&folder, &key, true).await?;
        self.push(path, key, folder, Vec::new());
        Ok(found)
    }

    /// Is there any key in this folder beyond the marker, which lies there? By a walk of its own, so in a box.
    fn has_more<'b>(&'b self, key: &'b [u8]) -> BoxFuture<'b, S3Result<bool>> {
        Box::pin(async move {
            let bucket = self.asked.bucket()?;
            let mut walk = Walk::new((self.asked, &bucket), (key, &self.marker), false).await?;
            Ok(walk.next().await?.is_some())
        })
    }

    /// The object that a folder is itself, if it is one that is wanted.
    async fn enter(&self, folder: &Folder, key: &[u8], wanted: bool) -> S3Result<Option<Found>> {
        if !wanted || self.marker.as_slice() >= key {
            return Ok(None);
        }
        let mut attr = *folder.attr();
        let kept = folder.attribute_of(&attr, FOLDER).await.map_err(failed)?;
        let mark = FolderMark::read(kept.as_deref());
        let is_put = mark.as_ref().is_some_and(|mark| mark.put);
        if !is_put && !folder.is_empty().await.map_err(failed)? {
            return Ok(None);
        }
        let mark = mark.unwrap_or_default();
        attr.size = mark.bytes().len() as u64;
        let listed = Listed { key: key.to_vec(), attr, seen: mark.seen() };
        Ok(Some(Found::Object(Box::new(listed))))
    }

    /// A file, or a link to one.
    async fn file(&mut self, name: &[u8], key: Vec<u8>) -> S3Result<Option<Found>> {
        let Some(level) = self.levels.last_mut() else { return Ok(None) };
        let Some(looked) = level.look(name).await.map_err(failed)? else { return Ok(None) };
        let Looked { attr, value: kept } = match looked.attr.kind {
            Kind::File => looked,
            Kind::Symlink => {
                let path = level.path.join(name).map_err(|e| failed(e.into()))?;
                // One that leads out or nowhere is not shown.
                let target = self.asked.view.stat(&path).await.ok();
                let target = target.filter(|target| target.kind == Kind::File);
                let Some(attr) = target else { return Ok(None) };
                let value = level.folder.attribute_of(&attr, STATE).await.map_err(failed)?;
                Looked { attr, value }
            }
            _ => return Ok(None),
        };
        let seen = Seen::of(&attr, kept.as_deref());
        Ok(Some(Found::Object(Box::new(Listed { key, attr, seen }))))
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        while !self.levels.is_empty() {
            self.pop();
        }
    }
}
