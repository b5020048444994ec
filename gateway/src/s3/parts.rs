//! Uploads by parts that are open: each is a folder below `.ashlar-uploads`, at the top of what the door shows, with a file
//! for each part. They belong to whoever serves the volume, and nobody else may look into them; no account sees them by
//! this door. Whatever lies there for a day without a part that begins or comes is taken away.
//!
//! Whoever may make names at the top might make that one, or a link in its place. So nothing there is believed but a folder
//! of whoever serves the volume, for him alone, and in it nothing but such folders again; they are looked for in the folder
//! that was found, not by its name, and what a path leads to has to be the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fs::tree::{Folder, OpenFile, TreePath, TreeResult, Upload, View};
use futures::StreamExt;
use meta::{Attr, Ino, Kind, RenameMode, Replaces, Steady, Time};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::attributes::{Described, STATE, State};
use super::checksums::{Algorithm, Kind as Of};
use super::door::Door;
use super::error::{S3Error, S3Result, Wrong};
use super::tags::Tags;

/// Highest number of a part, from one.
pub(super) const NUMBER_MAX: u32 = 10_000;
/// Where they are.
const ABOVE: &[u8] = b".ashlar-uploads";
/// What is kept of one, at its folder.
const RECORD: &[u8] = b"user.s3.upload";
/// When a part was begun, at its folder too: it is changed by that.
const BEGUN: &[u8] = b"user.s3.begun";
/// What the folder of one that has ended begins with.
const ENDED: &[u8] = b"ended-";
/// How long one lies open without a part that comes.
const LASTS: i64 = 24 * 3600;
/// How often those are looked for that lie too long.
const LOOKS: Duration = Duration::from_secs(3600);
/// That a part begins is kept no more often than so, in seconds.
const TOUCHES: i64 = 3600;
/// How long another request is waited for that ends the same upload: less than clients wait.
const ENDS: Duration = Duration::from_secs(25);
/// Parts that are taken away at once.
const AT_ONCE: usize = 32;
/// Those that are open at once: of an account; of all.
const EACH: usize = 1024;
const ALL: usize = 10_000;
/// How often a part may be replaced by another while it is opened.
const REPLACED: usize = 10;

/// An upload that is open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The inode of its bucket: a name may become another one's.
    pub(super) bucket: u64,
    /// Its key, in hexadecimal digits: not all are text.
    pub(super) key: String,
    /// Who has begun it.
    pub(super) uid: u32,
    pub(super) user: String,
    /// When, in seconds since the epoch.
    pub(super) began: i64,
    pub(super) described: Described,
    pub(super) tags: Tags,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) kind: Option<Of>,
}

/// A part that is there.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) attr: Attr,
    pub(super) state: State,
}

fn above() -> TreePath {
    TreePath::of_name(ABOVE).unwrap_or_default()
}

fn no_upload() -> S3Error {
    let why = "there is no such upload: it was completed, aborted, or lay open for more than a day";
    S3Error::new(Wrong::NoSuchUpload, why)
}

fn failed(error: fs::tree::TreeError) -> S3Error {
    S3Error::of(&error, Wrong::NoSuchUpload)
}

fn foreign() -> S3Error {
    let why = format!(
        "{} at the top is no folder that this server has made for itself alone: uploads by parts are not possible until it is moved away",
        String::from_utf8_lossy(ABOVE)
    );
    S3Error::new(Wrong::KeyConflict, why)
}

fn is_id(name: &[u8]) -> bool {
    name.len() == 32 && name.iter().all(u8::is_ascii_hexdigit)
}

/// Where an upload is.
fn path_of(id: &str) -> S3Result<TreePath> {
    let path = above().join(id.as_bytes()).ok().filter(|_| is_id(id.as_bytes()));
    path.ok_or_else(no_upload)
}

/// Where one is that has ended.
fn path_of_ended(id: &str) -> S3Result<TreePath> {
    above().join(&[ENDED, id.as_bytes()].concat()).map_err(|_| no_upload())
}

fn name_of(number: u32) -> String {
    format!("{number:05}")
}

/// A folder that whoever serves the volume has made for himself alone?
fn is_own(own: &View, attr: &Attr) -> bool {
    attr.kind == Kind::Directory && attr.uid == own.viewer().uid && attr.mode & 0o077 == 0
}

/// The folder where all are. `None`: there is none so far.
async fn home(own: &View) -> S3Result<Option<Folder>> {
    let itself = match own.stat_itself(&above()).await {
        Err(e) if e.is_not_found() => return Ok(None),
        itself => itself.map_err(failed)?,
    };
    if !is_own(own, &itself) {
        return Err(foreign());
    }
    let folder = own.folder(&above()).await.map_err(failed)?;
    match folder.attr().ino == itself.ino {
        true => Ok(Some(folder)),
        false => Err(foreign()),
    }
}

/// The folder of an upload.
async fn folder(own: &View, id: &str) -> S3Result<(TreePath, Folder)> {
    let path = path_of(id)?;
    let home = home(own).await?.ok_or_else(no_upload)?;
    let found = home.look(id.as_bytes()).await.map_err(failed)?;
    let found = found.filter(|attr| is_own(own, attr)).ok_or_else(no_upload)?;
    let folder = own.folder(&path).await.map_err(failed)?;
    match folder.attr().ino == found.ino {
        true => Ok((path, folder)),
        false => Err(no_upload()),
    }
}

fn record(kept: Option<Vec<u8>>) -> Option<Record> {
    serde_json::from_slice(&kept?).ok()
}

/// Is there room for another one of this account?
fn has_room(open: &HashMap<String, u32>, uid: u32) -> S3Result<()> {
    if open.values().filter(|other| **other == uid).count() >= EACH {
        let why = format!(
            "{EACH} uploads by parts of this account are open: complete or abort some of them (ListMultipartUploads), or wait until they have lain for a day"
        );
        return Err(S3Error::new(Wrong::InvalidRequest, why));
    }
    if open.len() >= ALL {
        let why = format!("{ALL} uploads by parts are open, of all accounts: try again later");
        return Err(S3Error::new(Wrong::SlowDown, why));
    }
    Ok(())
}

/// Counts one that is to be open.
async fn count(door: &Door, id: &str, uid: u32) -> S3Result<()> {
    let mut open = door.open.lock().await;
    if open.is_none() {
        let mut found = HashMap::new();
        all(door, |id, record| {
            found.insert(id, record.uid);
        })
        .await?;
        *open = Some(found);
    }
    let open = open.get_or_insert_default();
    has_room(open, uid)?;
    open.insert(id.to_owned(), uid);
    Ok(())
}

async fn uncount(door: &Door, id: &str) {
    if let Some(open) = door.open.lock().await.as_mut() {
        open.remove(id);
    }
}

/// Begins one. Answers its id.
///
/// # Errors
/// When there is no room for it, too many are open, or their folder is none of ours.
pub(super) async fn create(door: &Door, record: &Record) -> S3Result<String> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    match door.own.make_private_directory(&above()).await {
        Err(e) if e.is_there_already() => {}
        made => drop(made.map_err(failed)?),
    }
    count(door, &id, record.uid).await?;
    let made = make(door, &id, record).await;
    if made.is_err() {
        uncount(door, &id).await;
    }
    made.map(|()| id)
}

async fn make(door: &Door, id: &str, record: &Record) -> S3Result<()> {
    home(&door.own).await?.ok_or_else(no_upload)?;
    door.own.make_private_directory(&path_of(id)?).await.map_err(failed)?;
    let (path, _) = folder(&door.own, id).await?;
    let kept = serde_json::to_vec(record).expect("it is plain data");
    door.own.set_attribute(&path, RECORD, &kept).await.map_err(failed)
}

/// The record of one.
///
/// # Errors
/// When there is none.
pub(super) async fn find(door: &Door, id: &str) -> S3Result<Record> {
    let (_, folder) = folder(&door.own, id).await?;
    let kept = folder.attribute_of(folder.attr(), RECORD).await.map_err(failed)?;
    record(kept).ok_or_else(no_upload)
}

/// All that are open, in no order: `see` is told of each.
///
/// # Errors
/// When they cannot be listed.
pub(super) async fn all(door: &Door, mut see: impl FnMut(String, Record)) -> S3Result<()> {
    let Some(home) = home(&door.own).await? else { return Ok(()) };
    let listing = door.own.list_only(&above(), home.attr().ino).await;
    let mut listing = listing.map_err(failed)?;
    loop {
        let entries = listing.next().await.map_err(failed)?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            if !is_id(&entry.name) || !is_own(&door.own, &entry.attr) {
                continue;
            }
            let kept = home.attribute_of(&entry.attr, RECORD).await.map_err(failed)?;
            if let Some(record) = record(kept) {
                see(String::from_utf8_lossy(&entry.name).into_owned(), record);
            }
        }
    }
}

/// Begins to write a part.
///
/// # Errors
/// When there is no such upload, or no room.
pub(super) async fn begin(door: &Door, id: &str, number: u32) -> S3Result<Upload> {
    let (path, folder) = folder(&door.own, id).await?;
    let now = meta::wall_clock().secs;
    // One that is long on its way counts from now on.
    if changed(folder.attr()).secs + TOUCHES < now {
        let begun = now.to_string();
        door.own.set_attribute(&path, BEGUN, begun.as_bytes()).await.map_err(failed)?;
    }
    let path = path.join(name_of(number).as_bytes()).map_err(|_| no_upload())?;
    door.own.upload(&path).await.map_err(failed)
}

/// A part is whole: it gets its name in the folder of its upload, whatever else is called so by now.
///
/// # Errors
/// When it cannot be stored, or the upload has ended.
pub(super) async fn keep(
    door: &Door,
    (id, number): (&str, u32),
    upload: Upload,
    state: &mut State,
) -> S3Result<Attr> {
    upload.stored().await.map_err(failed)?;
    let attr = upload.attr().await.map_err(failed)?;
    upload.set_attribute(STATE, &state.kept(&attr)).await.map_err(failed)?;
    let (_, folder) = folder(&door.own, id).await?;
    let kept = upload.finish_in(&folder, name_of(number).as_bytes(), Replaces::Anything).await;
    kept.map_err(failed)
}

/// Opens a part. `None`: it is not there.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn open(door: &Door, id: &str, number: u32) -> S3Result<Option<(OpenFile, Part)>> {
    let (path, folder) = folder(&door.own, id).await?;
    let name = name_of(number);
    let path = path.join(name.as_bytes()).map_err(|_| no_upload())?;
    for _ in 0..REPLACED {
        let found = folder.look(name.as_bytes()).await.map_err(failed)?;
        let Some(found) = found.filter(|attr| attr.kind == Kind::File) else { return Ok(None) };
        let file = match door.own.open(&path).await {
            Err(e) if e.is_not_found() => return Ok(None),
            file => file.map_err(failed)?,
        };
        let attr = *file.attr();
        if attr.ino != found.ino {
            continue;
        }
        let kept = file.attribute(STATE).await.map_err(failed)?;
        let state: Option<State> = kept.and_then(|kept| serde_json::from_slice(&kept).ok());
        // What nothing is known of is no part.
        return Ok(state.map(|state| (file, Part { attr, state })));
    }
    Ok(None)
}

/// Numbers of the parts that are there, in order.
///
/// # Errors
/// When they cannot be listed.
pub(super) async fn numbers(door: &Door, id: &str) -> S3Result<Vec<u32>> {
    let mut numbers: Vec<u32> = Vec::new();
    let (path, folder) = folder(&door.own, id).await?;
    let listing = door.own.list_only(&path, folder.attr().ino).await;
    let mut listing = listing.map_err(failed)?;
    loop {
        let entries = listing.next().await.map_err(failed)?;
        if entries.is_empty() {
            numbers.sort_unstable();
            return Ok(numbers);
        }
        let names = entries.iter().map(|entry| String::from_utf8_lossy(&entry.name));
        numbers.extend(names.filter_map(|name| name.parse::<u32>().ok()));
    }
}

/// It has ended: nobody finds it any more, and its parts are taken away, behind the answer.
///
/// # Errors
/// When there is no such upload.
pub(super) async fn end(door: &Arc<Door>, id: &str) -> S3Result<()> {
    let (path, folder) = folder(&door.own, id).await?;
    let (ended, ino) = (path_of_ended(id)?, folder.attr().ino);
    door.own.rename(&path, &ended, RenameMode::NoReplace).await.map_err(failed)?;
    uncount(door, id).await;
    let (door, id) = (door.clone(), id.to_owned());
    door.tasks.clone().spawn(async move {
        match discard(&door.own, &ended, ino).await {
            Err(e) if !e.is_not_found() => {
                tracing::warn!("parts of the upload {id} are left, and are taken away later: {e}");
            }
            _ => {}
        }
    });
    Ok(())
}

/// Takes the folder of an upload away, which is this one, with all that is in it.
async fn discard(own: &View, path: &TreePath, ino: Ino) -> TreeResult<()> {
    loop {
        let entries = own.list_only(path, ino).await?.next().await?;
        if entries.is_empty() {
            break;
        }
        let removals = futures::stream::iter(entries).map(|entry| async move {
            let which = Replaces::Only(entry.attr.ino);
            match own.remove(&path.join(&entry.name)?, which).await {
                Err(e) if !e.is_not_found() => Err(e),
                _ => Ok(()),
            }
        });
        let done: Vec<TreeResult<()>> = removals.buffer_unordered(AT_ONCE).collect().await;
        done.into_iter().collect::<TreeResult<()>>()?;
    }
    own.remove(path, Replaces::Only(ino)).await
}

/// When a part came or was begun last.
fn changed(attr: &Attr) -> Time {
    attr.mtime.max(attr.ctime)
}

/// Has nothing come for so long that it is given up?
fn lies(last: Time, now: i64) -> bool {
    last.secs.saturating_add(LASTS) < now
}

/// That nobody else ends the same upload, as long as this is there.
pub(super) struct Ending<'a>(&'a Door, &'a str);

impl<'a> Ending<'a> {
    fn begin(door: &'a Door, id: &'a str) -> Option<Self> {
        door.ending.lock().insert(id.to_owned()).then(|| Self(door, id))
    }

    /// As soon as whoever ends it now has done that, or has failed: a client who has not heard for long asks again
    /// meanwhile.
    ///
    /// # Errors
    /// When that lasts.
    pub(super) async fn wait(door: &'a Door, id: &'a str) -> S3Result<Self> {
        let begun = async {
            loop {
                // Before the look, so that no end goes by unseen.
                let ended = door.ended.notified();
                match Self::begin(door, id) {
                    Some(alone) => return alone,
                    None => ended.await,
                }
            }
        };
        tokio::time::timeout(ENDS, begun).await.map_err(|_| {
            let why = "another request completes or aborts this upload right now: ask again";
            S3Error::new(Wrong::SlowDown, why)
        })
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.ending.lock().remove(self.1);
        self.0.ended.notify_waiters();
    }
}

impl Door {
    /// Takes away what lies open for too long, until it is told to stop.
    pub(crate) async fn tidy(self: Arc<Self>, stop: CancellationToken) {
        let mut clock = Steady::new(LOOKS);
        loop {
            match stop.run_until_cancelled(sweep(&self, clock.look())).await {
                None => return,
                Some(Err(e)) => {
                    let why = e.message;
                    tracing::warn!("uploads by S3 that lie open are not looked after: {why}");
                }
                Some(Ok(())) => {}
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOKS)).await.is_none() {
                return;
            }
        }
    }
}

/// One look at all of them. `now`: the time, where the clock may be believed; else none is given up.
async fn sweep(door: &Door, now: Option<Time>) -> S3Result<()> {
    let own = &door.own;
    let Some(home) = home(own).await? else { return Ok(()) };
    let listing = own.list_only(&above(), home.attr().ino).await;
    let mut listing = listing.map_err(failed)?;
    loop {
        let entries = listing.next().await.map_err(failed)?;
        if entries.is_empty() {
            break;
        }
        for entry in &entries {
            if !is_own(own, &entry.attr) {
                continue;
            }
            let (name, last) = (&entry.name[..], changed(&entry.attr));
            let id = String::from_utf8_lossy(name.strip_prefix(ENDED).unwrap_or(name)).into_owned();
            let done = match is_id(id.as_bytes()) {
                false => Ok(()),
                true if name.starts_with(ENDED) => {
                    discard(own, &path_of_ended(&id)?, entry.attr.ino).await
                }
                true if now.is_some_and(|now| lies(last, now.secs)) => {
                    give_up(door, &home, (id.as_str(), &entry.attr)).await
                }
                true => Ok(()),
            };
            match done {
                Err(e) if !e.is_not_found() => {
                    tracing::warn!("the upload {id} cannot be taken away, and is tried again: {e}");
                }
                _ => {}
            }
        }
    }
    // Who counts next looks at what is there.
    *door.open.lock().await = None;
    Ok(())
}

/// Ends one that lies for too long, unless somebody ends it, or a part comes at the last moment.
async fn give_up(door: &Door, home: &Folder, (id, seen): (&str, &Attr)) -> TreeResult<()> {
    let Some(_alone) = Ending::begin(door, id) else { return Ok(()) };
    let (own, path) = (&door.own, above().join(id.as_bytes())?);
    let Some(found) = home.look(id.as_bytes()).await? else { return Ok(()) };
    if found.ino != seen.ino || changed(&found) != changed(seen) {
        return Ok(());
    }
    if record(home.attribute_of(&found, RECORD).await?).is_none() {
        // It was never begun: empty, or none of ours.
        return own.remove(&path, Replaces::Only(found.ino)).await;
    }
    let ended = above().join(&[ENDED, id.as_bytes()].concat())?;
    own.rename(&path, &ended, RenameMode::NoReplace).await?;
    let moved = own.stat_itself(&ended).await?;
    if moved.ino != found.ino || moved.mtime != found.mtime {
        return own.rename(&ended, &path, RenameMode::NoReplace).await;
    }
    discard(own, &ended, found.ino).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_this_door_makes() {
        let id = uuid::Uuid::new_v4().simple().to_string();
        assert!(is_id(id.as_bytes()) && path_of(&id).is_ok());
        for other in ["", "photos", "../../../../../../../../../../a", &id[1..], &format!("{id}0")]
        {
            assert!(path_of(other).is_err(), "{other}");
        }
    }

    #[test]
    fn so_many_are_open_and_no_more() {
        let ids = |count: usize, uid: u32| (0..count).map(move |n| (format!("{uid}-{n}"), uid));
        let refused = |open: &HashMap<String, u32>, uid| has_room(open, uid).map_err(|e| e.wrong);
        let mut open: HashMap<String, u32> = ids(EACH - 1, 1).collect();
        assert_eq!(refused(&open, 1), Ok(()));
        open.extend(ids(EACH, 1));
        assert_eq!(refused(&open, 1), Err(Wrong::InvalidRequest));
        assert_eq!(refused(&open, 2), Ok(()));
        for uid in 3..13 {
            open.extend(ids(EACH, uid));
        }
        assert_eq!(refused(&open, 2), Err(Wrong::SlowDown));
    }

    #[test]
    fn one_lies_for_a_day() {
        let at = |secs: i64| Time { secs, nanos: 0 };
        assert!(!lies(at(0), LASTS) && lies(at(0), LASTS + 1) && !lies(at(i64::MAX), 0));
    }
}
