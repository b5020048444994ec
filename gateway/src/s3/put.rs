//! Objects in: PUT of a body, and copies, which move no data.
//!
//! What comes in is under no name until it is whole, checked and durable, and takes its place in one step; so it does with
//! all that is known of it. Folders that it needs are made then, and marked, so that they go with the last object in them;
//! who makes and fills them, and who takes empty ones away, do not get in each other's way (`Door::folders`).

use std::ops::Range;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fs::tree::{OpenFile, TreePath, TreeResult, Trouble, Upload};
use http::StatusCode;
use meta::{Attr, Ino, Kind, Replaces, Time};
use nix::time::ClockId;

use super::asked::{Asked, no_bucket};
use super::attributes::{Described, FOLDER, HEADERS, STATE, Seen, State, TAGS};
use super::body::{Incoming, Received};
use super::checksums::{Checksum, Kind as Of};
use super::delete::tidy_above;
use super::document::{document, insert};
use super::error::{S3Error, S3Result, Wrong};
use super::keys::{self, Key};
use super::object::{self, Content, FolderMark, Object, tell_checksum};
use super::signature::hex;
use super::tags::Tags;
use super::xml::Xml;
use super::{conditions, times};
use crate::place::takes_after;
use crate::through::carried;

/// Content of an object that is a folder, in bytes.
const FOLDER_CONTENT: usize = 4 << 10;
/// What a file is begun as. It never gets this name.
const BEGUN: &[u8] = b".ashlar-begun";

/// All that an object has beside its bytes.
#[derive(Clone, Default)]
pub(super) struct With {
    pub(super) state: Option<State>,
    pub(super) described: Described,
    pub(super) tags: Tags,
    /// What it is a copy of: it may be read by the same, where nothing is replaced.
    pub(super) copy_of: Option<Attr>,
    /// It is to replace nothing but this.
    pub(super) instead_of: Option<Ino>,
}

/// Refuses what would have to be done with an object, and is not.
///
/// # Errors
/// When something like that is asked for.
pub(super) fn possible(asked: &Asked) -> S3Result<()> {
    let says = |name: &str| asked.headers.contains_key(name);
    let encrypted =
        asked.headers.keys().any(|name| name.as_str().starts_with("x-amz-server-side-encryption"));
    if encrypted {
        return Err(S3Error::not_there("encryption by the server"));
    }
    if asked.headers.keys().any(|name| name.as_str().starts_with("x-amz-object-lock-")) {
        return Err(S3Error::new(Wrong::InvalidRequest, "the bucket has no object lock"));
    }
    if says("x-amz-website-redirect-location") {
        return Err(S3Error::not_there("a website"));
    }
    if says("x-amz-write-offset-bytes") {
        return Err(S3Error::not_there("adding to an object"));
    }
    if asked.header("x-amz-storage-class").is_some_and(|class| class != "STANDARD") {
        let why = "STANDARD is the only storage class";
        return Err(S3Error::new(Wrong::InvalidStorageClass, why));
    }
    super::answers::canned(asked)
}

/// PUT of an object.
///
/// # Errors
/// Whatever is wrong; nothing has changed then.
pub(super) async fn put(asked: &Arc<Asked>, body: &mut Incoming) -> S3Result<Response> {
    possible(asked)?;
    let key = asked.key()?;
    let (described, tags) = (Described::of(&asked.headers)?, Tags::of_header(asked)?);
    let with = With { described, tags, ..With::default() };
    if key.folder {
        return put_folder(asked, key, with, body).await;
    }
    allowed(asked, &key).await?;
    let mut upload = begin(asked, &key).await?;
    let received = body.store(&mut upload).await?;
    let with = With { state: Some(state(&received)), ..with };
    let asked = asked.clone();
    carried("an object put by S3", async move {
        let (_, with) = place(&asked, &key, upload, with).await?;
        let mut response = StatusCode::OK.into_response();
        if let Some(state) = &with.state {
            insert(&mut response, "etag", &format!("\"{}\"", state.tag));
            tell_checksum(&mut response, Some(state));
        }
        Ok(response)
    })
    .await
}

/// What is known of what was received.
pub(super) fn state(received: &Received) -> State {
    let mut state = State::new(hex(&received.md5));
    state.checksum = received.checksum.clone().map(|(algorithm, value)| Checksum {
        algorithm,
        value,
        kind: Of::FullObject,
    });
    state
}

/// A key that ends with a slash: the folder is an object itself.
async fn put_folder(
    asked: &Arc<Asked>,
    key: Key,
    With { described, tags, .. }: With,
    body: &mut Incoming,
) -> S3Result<Response> {
    let (bytes, received) = body.whole(FOLDER_CONTENT, Wrong::EntityTooLarge).await?;
    let content = STANDARD.encode(bytes);
    let mark = FolderMark { put: true, content, described, tags, ..FolderMark::default() };
    let asked = asked.clone();
    carried("a folder put by S3", async move {
        keep_folder(&asked, &key, &mark).await?;
        let mut response = StatusCode::OK.into_response();
        insert(&mut response, "etag", &mark.seen().quoted());
        tell_checksum(&mut response, Some(&state(&received)));
        Ok(response)
    })
    .await
}

async fn keep_folder(asked: &Asked, key: &Key, mark: &FolderMark) -> S3Result<()> {
    asked.there().await?;
    // Alone: nobody else puts it between the look at what is there and the change.
    let _alone = asked.door.folders.write().await;
    if conditions::are_there(&asked.headers) {
        let before = folder_before(asked, key).await?;
        conditions::replaces(&asked.headers, before.as_ref().map(|(seen, attr)| (seen, attr)))?;
    }
    folders(asked, &key.path).await?;
    let done = asked.view.set_attribute(&key.path, FOLDER, &mark.kept()).await;
    done.map_err(|e| S3Error::of(&e, Wrong::NoSuchKey))
}

/// The object that a folder is so far.
async fn folder_before(asked: &Asked, key: &Key) -> S3Result<Option<(Seen, Attr)>> {
    match object::open(asked, key).await {
        Ok(Object { seen, attr, .. }) => Ok(Some((seen, attr))),
        Err(e) if e.wrong == Wrong::NoSuchKey => Ok(None),
        Err(e) => Err(e),
    }
}

/// Begins to write what is to have a key.
///
/// # Errors
/// When there is no such bucket, a file is where a folder would have to be, or it may not be written.
pub(super) async fn begin(asked: &Asked, key: &Key) -> S3Result<Upload> {
    let (bucket, _) = asked.there().await?;
    let mut at = key.path.clone();
    loop {
        at = match at.split() {
            Some((above, _)) => above,
            None => return Err(no_bucket(&fs::tree::BadPath::Root.into())),
        };
        match asked.view.stat(&at).await {
            Ok(attr) if attr.kind == Kind::Directory => break,
            Ok(_) => return Err(a_file_above()),
            Err(e) if e.trouble() == Trouble::NotFound && at != bucket => {}
            Err(e) if e.trouble() == Trouble::WrongKind && at != bucket => {
                return Err(a_file_above());
            }
            Err(e) => return Err(no_bucket(&e)),
        }
    }
    let path = at.join(BEGUN).map_err(|e| S3Error::new(Wrong::KeyTooLongError, e.to_string()))?;
    let begun = asked.view.upload(&path).await;
    begun.map_err(|e| S3Error::of(&e, Wrong::NoSuchBucket))
}

fn a_file_above() -> S3Error {
    let why = "another object has as its key what stands before a slash in this one, and cannot be a folder, too";
    S3Error::new(Wrong::KeyConflict, why)
}

/// Sees to it that there is this folder, and those above it, which is known to be for objects.
async fn folders(asked: &Asked, path: &TreePath) -> S3Result<()> {
    let failed = |e: fs::tree::TreeError| match e.trouble() {
        Trouble::WrongKind | Trouble::Exists => a_file_above(),
        _ => S3Error::of(&e, Wrong::NoSuchBucket),
    };
    let mut at = TreePath::default();
    for (depth, name) in path.names().iter().enumerate() {
        at = at.join(name).map_err(|e| failed(e.into()))?;
        match asked.view.stat(&at).await {
            Ok(attr) if attr.kind == Kind::Directory => continue,
            Ok(_) => return Err(a_file_above()),
            // A bucket is never made so.
            Err(e) if e.is_not_found() && depth > 0 => {}
            Err(e) => return Err(failed(e)),
        }
        match asked.view.make_directory(&at).await {
            Ok(made) => {
                let mark = FolderMark::made(&made).kept();
                asked.view.set_attribute(&at, FOLDER, &mark).await.map_err(failed)?;
            }
            // Somebody else was faster.
            Err(e) if e.is_there_already() => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(())
}

/// What has a key so far.
async fn before(asked: &Asked, key: &Key) -> S3Result<Option<(Seen, Attr)>> {
    let found = async {
        let attr = asked.view.stat_itself(&key.path).await?;
        let has_conditions = conditions::are_there(&asked.headers);
        let target = match attr.kind {
            // Who says what may be there has seen what a link leads to.
            Kind::Symlink if has_conditions => asked.view.stat(&key.path).await.ok(),
            _ => None,
        };
        let target = target.filter(|target| target.kind == Kind::File).unwrap_or(attr);
        // Who says nothing of what may be there need not be one who may read it.
        let kept = match target.kind {
            Kind::File if has_conditions => asked.view.attribute(&key.path, STATE).await?,
            _ => None,
        };
        Ok::<_, fs::tree::TreeError>((Seen::of(&target, kept.as_deref()), attr))
    };
    match found.await {
        Ok((_, attr)) if attr.kind == Kind::Directory => {
            let why = "other objects have this key and a slash before theirs, so that it is a folder, and cannot be a file, too";
            Err(S3Error::new(Wrong::KeyConflict, why))
        }
        Ok(found) => Ok(Some(found)),
        Err(e) => match e.trouble() {
            Trouble::NotFound | Trouble::WrongKind => Ok(None),
            _ => Err(S3Error::of(&e, Wrong::NoSuchKey)),
        },
    }
}

/// What may be replaced at this key.
///
/// # Errors
/// When it is not what is there, or a folder is.
pub(super) async fn allowed(asked: &Asked, key: &Key) -> S3Result<Replaces> {
    let before = before(asked, key).await?;
    if before.is_none() && conditions::are_there(&asked.headers) {
        asked.there().await?;
    }
    conditions::replaces(&asked.headers, before.as_ref().map(|(seen, attr)| (seen, attr)))
}

/// Gives what is whole its place, with all that is known of it.
///
/// # Errors
/// When a condition of the request does not hold, or it cannot be stored; nothing is left of it then.
pub(super) async fn place(
    asked: &Asked,
    key: &Key,
    upload: Upload,
    mut with: With,
) -> S3Result<(Attr, With)> {
    let failed = |e: fs::tree::TreeError| S3Error::of(&e, Wrong::NoSuchBucket);
    // What may last does not while others wait for the folders.
    upload.stored().await.map_err(failed)?;
    take_after(asked, key, &upload, with.copy_of.as_ref()).await?;
    upload.modified_at(now()).await.map_err(failed)?;
    let attr = upload.attr().await.map_err(failed)?;
    let state = with.state.as_mut().map(|state| state.kept(&attr));
    let all = [(STATE, state), (HEADERS, with.described.kept()), (TAGS, with.tags.kept())];
    for (name, value) in all {
        let kept = match value {
            Some(value) => upload.set_attribute(name, &value).await,
            None => upload.remove_attribute(name).await,
        };
        kept.map_err(failed)?;
    }
    let placed = in_place(asked, key, &upload, with.instead_of).await;
    if placed.is_err() {
        tidy_above(asked, &key.path).await;
    }
    Ok((placed?, with))
}

/// Gives it owner, permissions and attributes of the file that it replaces, or else the permissions of what it is a copy of.
async fn take_after(
    asked: &Asked,
    key: &Key,
    upload: &Upload,
    copy_of: Option<&Attr>,
) -> S3Result<()> {
    let mut looks = 0;
    loop {
        let before = match asked.view.stat_itself(&key.path).await {
            Ok(before) => Some(before),
            Err(e) if matches!(e.trouble(), Trouble::NotFound | Trouble::WrongKind) => None,
            Err(e) => return Err(S3Error::of(&e, Wrong::NoSuchBucket)),
        };
        if let (None, Some(source)) = (&before, copy_of) {
            let like = upload.like(source).await;
            return like.map_err(|e| S3Error::of(&e, Wrong::NoSuchKey));
        }
        if takes_after(upload, before.as_ref(), &mut looks).await? {
            return Ok(());
        }
    }
}

async fn in_place(
    asked: &Asked,
    key: &Key,
    upload: &Upload,
    instead_of: Option<Ino>,
) -> S3Result<Attr> {
    let _shared = asked.door.folders.read().await;
    let replaces = match (allowed(asked, key).await?, instead_of) {
        (Replaces::Anything, Some(ino)) => Replaces::Only(ino),
        (replaces, _) => replaces,
    };
    if let Some((above, _)) = key.path.split() {
        folders(asked, &above).await?;
    }
    upload.finish_at(&key.path, replaces).await.map_err(|e| conditions::refused(&e, replaces))
}

/// This moment, as finely as the machine knows it.
fn now() -> Time {
    let now = ClockId::CLOCK_REALTIME.now().map(|now| (now.tv_sec(), now.tv_nsec()));
    let Ok((secs, nanos)) = now else { return meta::wall_clock() };
    Time { secs, nanos: u32::try_from(nanos).unwrap_or(0) }
}

/// What is copied: a bucket's folder, and a key in it.
///
/// # Errors
/// When the header that says so makes no sense.
pub(super) fn source(asked: &Asked) -> S3Result<Key> {
    let wrong = |why: &str| S3Error::new(Wrong::InvalidArgument, why);
    let text = asked.header("x-amz-copy-source").unwrap_or_default();
    let (text, version) = text.split_once("?versionId=").unwrap_or((text, "null"));
    if version != "null" {
        let why = "versions are off here: the only one of an object is null";
        return Err(S3Error::new(Wrong::NoSuchVersion, why));
    }
    let (bucket, key) = keys::split(text.strip_prefix('/').unwrap_or(text));
    if bucket.is_empty() || key.is_empty() {
        return Err(wrong("x-amz-copy-source is BUCKET/KEY, percent-encoded"));
    }
    Key::of(&keys::bucket(&bucket)?, key)
}

/// Opens what is copied.
///
/// # Errors
/// When it is not there, or a condition does not hold.
pub(super) async fn open_source(asked: &Asked, key: &Key) -> S3Result<Object> {
    let object = match object::open(asked, key).await {
        Err(e) if matches!(e.wrong, Wrong::NoSuchKey | Wrong::NoSuchBucket) => {
            let bucket = TreePath::of_names(key.path.names().iter().take(1)).unwrap_or_default();
            return Err(match asked.view.stat(&bucket).await {
                Ok(_) => S3Error::new(Wrong::NoSuchKey, "there is no such object to copy"),
                Err(e) => no_bucket(&e),
            });
        }
        opened => opened?,
    };
    let read = conditions::read(&asked.headers, "x-amz-copy-source-", &object.seen, &object.attr)?;
    match read {
        conditions::Read::Goes => Ok(object),
        conditions::Read::NotModified => {
            let why = "what is to be copied is what x-amz-copy-source-if-none-match excludes";
            Err(S3Error::new(Wrong::PreconditionFailed, why))
        }
    }
}

/// Is a directive REPLACE, and not COPY?
fn replaced(asked: &Asked, name: &str) -> S3Result<bool> {
    match asked.header(name) {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => {
            let why = format!("{name} is COPY or REPLACE");
            Err(S3Error::new(Wrong::InvalidArgument, why))
        }
    }
}

/// Clones a range of a file. `false`: somebody has written to that meanwhile, so that it is not what is known of it.
///
/// # Errors
/// When there is no room for it.
pub(super) async fn copy_file(
    upload: &mut Upload,
    file: &OpenFile,
    range: Range<u64>,
) -> TreeResult<bool> {
    upload.write_copy(file, range.clone()).await?;
    Ok(upload.written() == range.end - range.start && !file.has_changed().await?)
}

/// What a copy may replace alone: the object itself that it is of, if it is to be that, and no other that has come meanwhile.
///
/// # Errors
/// When somebody has written to it meanwhile: that would be lost.
async fn onto_itself(
    asked: &Asked,
    (key, from): (&Key, &Key),
    opened: &Attr,
    as_opened: bool,
) -> S3Result<Option<Ino>> {
    let itself = match key.path == from.path {
        true => asked.view.stat_itself(&key.path).await.ok(),
        false => None,
    };
    // A link is replaced, and what it leads to is not.
    let is_it = itself.is_some_and(|itself| itself.kind == Kind::File);
    if is_it && !as_opened {
        let why = "the object was changed meanwhile: copy it again";
        return Err(S3Error::new(Wrong::OperationAborted, why));
    }
    Ok(is_it.then_some(opened.ino))
}

/// CopyObject.
///
/// # Errors
/// Whatever is wrong; nothing has changed then.
pub(super) async fn copy(asked: &Asked) -> S3Result<Response> {
    possible(asked)?;
    let (key, from) = (asked.key()?, source(asked)?);
    let other_described = replaced(asked, "x-amz-metadata-directive")?;
    let other_tags = replaced(asked, "x-amz-tagging-directive")?;
    if key.path == from.path && !other_described && !other_tags {
        let why = "an object is copied to itself, and nothing of it becomes another: x-amz-metadata-directive: REPLACE does that";
        return Err(S3Error::new(Wrong::InvalidRequest, why));
    }
    let Object { attr, seen, described, tags, content, .. } = open_source(asked, &from).await?;
    let described = if other_described { Described::of(&asked.headers)? } else { described };
    let tags = if other_tags { Tags::of_header(asked)? } else { tags };
    let state = seen.state.map(|mut state| {
        state.upload = None;
        state
    });
    let (changed, tag) = match content {
        Content::Bytes(bytes) if key.folder => {
            let content = STANDARD.encode(bytes);
            let mark = FolderMark { put: true, content, described, tags, ..FolderMark::default() };
            keep_folder(asked, &key, &mark).await?;
            (attr.mtime, Some(seen.tag))
        }
        _ if key.folder => {
            let why = "a file cannot be copied to a key that ends with a slash: that is a folder";
            return Err(S3Error::new(Wrong::KeyConflict, why));
        }
        content => {
            let mut upload = begin(asked, &key).await?;
            let as_opened = match content {
                Content::File(file) => copy_file(&mut upload, &file, 0..attr.size).await,
                Content::Bytes(bytes) => upload.write(bytes.into()).await.map(|()| true),
            };
            let as_opened = as_opened.map_err(|e| S3Error::of(&e, Wrong::NoSuchBucket))?;
            let copy_of = (attr.kind == Kind::File).then_some(attr);
            let instead_of = onto_itself(asked, (&key, &from), &attr, as_opened).await?;
            let state = state.filter(|_| as_opened);
            let with = With { state, described, tags, copy_of, instead_of };
            let (attr, with) = place(asked, &key, upload, with).await?;
            let tag = with.state.map_or_else(|| Seen::of(&attr, None).tag, |state| state.tag);
            (attr.mtime, Some(tag))
        }
    };
    let mut xml = Xml::new("CopyObjectResult");
    xml.text("LastModified", times::iso(changed));
    xml.text("ETag", format!("\"{}\"", tag.unwrap_or_default()));
    Ok(document(xml.end("CopyObjectResult")))
}
