//! Uploads by parts that are open: each is a folder below `.ashlar-uploads`, at the top of what the door shows, with a file
//! for each part. They belong to whoever serves the volume, and nobody else may look into them; no account sees them by
//! this door. Whatever lies there for a day without a part that comes is taken away.

use std::sync::Arc;
use std::time::Duration;

use fs::tree::{OpenFile, TreePath, TreeResult, Upload, View};
use futures::StreamExt;
use meta::{Attr, Kind, RenameMode, Replaces};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::attributes::{Described, STATE, State};
use super::checksums::{Algorithm, Kind as Of};
use super::door::Door;
use super::error::{S3Error, S3Result, Wrong};
use super::tagging::Tags;

/// Highest number of a part, from one.
pub(super) const NUMBER_MAX: u32 = 10_000;
/// Where they are.
const ABOVE: &[u8] = b".ashlar-uploads";
/// What is kept of one, at its folder.
const RECORD: &[u8] = b"user.s3.upload";
/// What the folder of one that has ended begins with.
const ENDED: &[u8] = b"ended-";
/// How long one lies open without a part that comes.
const LASTS: i64 = 24 * 3600;
/// How often those are looked for that lie too long.
const LOOKS: Duration = Duration::from_secs(3600);
/// Parts that are taken away at once.
const AT_ONCE: usize = 32;

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

/// The folder of an upload.
fn folder(id: &str) -> S3Result<TreePath> {
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let path = above().join(id.as_bytes()).ok().filter(|_| is_id);
    path.ok_or_else(no_upload)
}

fn part(id: &str, number: u32) -> S3Result<TreePath> {
    folder(id)?.join(format!("{number:05}").as_bytes()).map_err(|_| no_upload())
}

/// Begins one. Answers its id.
///
/// # Errors
/// When there is no room for it.
pub(super) async fn create(door: &Door, record: &Record) -> S3Result<String> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let path = folder(&id)?;
    let made = async {
        match door.own.make_private_directory(&above()).await {
            Err(e) if e.is_there_already() => {}
            made => drop(made?),
        }
        door.own.make_private_directory(&path).await?;
        let kept = serde_json::to_vec(record).expect("it is plain data");
        door.own.set_attribute(&path, RECORD, &kept).await
    };
    made.await.map_err(failed)?;
    Ok(id)
}

/// The record of one.
///
/// # Errors
/// When there is none.
pub(super) async fn find(door: &Door, id: &str) -> S3Result<Record> {
    let kept = door.own.attribute(&folder(id)?, RECORD).await.map_err(failed)?;
    kept.and_then(|kept| serde_json::from_slice(&kept).ok()).ok_or_else(no_upload)
}

/// All that are open, in no order: `see` is told of each.
///
/// # Errors
/// When they cannot be listed.
pub(super) async fn all(door: &Door, mut see: impl FnMut(String, Record)) -> S3Result<()> {
    let mut listing = match door.own.list(&above()).await {
        Err(e) if e.is_not_found() => return Ok(()),
        listing => listing.map_err(failed)?,
    };
    loop {
        let entries = listing.next().await.map_err(failed)?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            let id = String::from_utf8_lossy(&entry.name).into_owned();
            match find(door, &id).await {
                Ok(record) => see(id, record),
                // It has ended meanwhile.
                Err(e) if e.wrong == Wrong::NoSuchUpload => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Begins to write a part.
///
/// # Errors
/// When there is no such upload, or no room.
pub(super) async fn begin(door: &Door, id: &str, number: u32) -> S3Result<Upload> {
    door.own.upload(&part(id, number)?).await.map_err(failed)
}

/// A part is whole.
///
/// # Errors
/// When it cannot be stored, or the upload has ended.
pub(super) async fn keep(upload: Upload, state: &mut State) -> S3Result<Attr> {
    let kept = async {
        let attr = upload.attr().await?;
        upload.set_attribute(STATE, &state.kept(&attr)).await?;
        upload.finish(Replaces::Anything).await
    };
    kept.await.map_err(failed)
}

/// Opens a part. `None`: it is not there.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn open(door: &Door, id: &str, number: u32) -> S3Result<Option<(OpenFile, Part)>> {
    let file = match door.own.open(&part(id, number)?).await {
        Err(e) if e.is_not_found() => return Ok(None),
        file => file.map_err(failed)?,
    };
    let kept = file.attribute(STATE).await.map_err(failed)?;
    let state = kept.and_then(|kept| serde_json::from_slice(&kept).ok()).unwrap_or_default();
    let attr = *file.attr();
    Ok(Some((file, Part { attr, state })))
}

/// Numbers of the parts that are there, in order.
///
/// # Errors
/// When they cannot be listed.
pub(super) async fn numbers(door: &Door, id: &str) -> S3Result<Vec<u32>> {
    let mut numbers: Vec<u32> = Vec::new();
    let mut listing = door.own.list(&folder(id)?).await.map_err(failed)?;
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
    let ended = above().join(&[ENDED, id.as_bytes()].concat()).map_err(|_| no_upload())?;
    door.own.rename(&folder(id)?, &ended, RenameMode::NoReplace).await.map_err(failed)?;
    let (door, id) = (door.clone(), id.to_owned());
    door.tasks.clone().spawn(async move {
        if let Err(e) = discard(&door.own, &ended).await {
            tracing::warn!("parts of the upload {id} are left, and are taken away later: {e}");
        }
    });
    Ok(())
}

/// Takes the folder of an upload away, with all that is in it.
async fn discard(own: &View, path: &TreePath) -> TreeResult<()> {
    loop {
        let entries = own.list(path).await?.next().await?;
        if entries.is_empty() {
            break;
        }
        let removals = futures::stream::iter(entries).map(|entry| async move {
            match own.remove(&path.join(&entry.name)?, Replaces::Anything).await {
                Err(e) if !e.is_not_found() => Err(e),
                _ => Ok(()),
            }
        });
        let done: Vec<TreeResult<()>> = removals.buffer_unordered(AT_ONCE).collect().await;
        done.into_iter().collect::<TreeResult<()>>()?;
    }
    own.remove(path, Replaces::Anything).await
}

impl Door {
    /// Takes away what lies open for too long, until it is told to stop.
    pub(crate) async fn tidy(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let swept = stop.run_until_cancelled(sweep(&self.own)).await;
            match swept {
                None => return,
                Some(Err(e)) if !e.is_not_found() => {
                    tracing::warn!(
                        "uploads by S3 that lie open for too long cannot be taken away: {e}"
                    );
                }
                Some(_) => {}
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOKS)).await.is_none() {
                return;
            }
        }
    }
}

async fn sweep(own: &View) -> TreeResult<()> {
    let mut listing = own.list(&above()).await?;
    let now = meta::wall_clock().secs;
    loop {
        let entries = listing.next().await?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries.iter().filter(|entry| entry.attr.kind == Kind::Directory) {
            // A part that comes changes the folder.
            if entry.name.starts_with(ENDED) || entry.attr.mtime.secs + LASTS < now {
                discard(own, &above().join(&entry.name)?).await?;
            }
        }
    }
}
