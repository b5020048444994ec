//! Uploads that may break off and go on: what came stays, for whoever sent it, until the whole gets its name in one step. Nobody
//! else sees anything of it before. They are this process's: with it, they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use fs::tree::{TreePath, Upload, Viewer};
use http::{HeaderMap, StatusCode};
use meta::{FILE_MAX, Kind, Replaces};
use serde_json::json;
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use super::asked::{Asked, json};
use super::entry::{Entry, time};
use super::kept::{Full, Kept};
use crate::place::{no_folder, refused, replaced, takes_after};
use crate::refusal::{Code, Refusal};
use crate::through::carried;
use crate::{address, conditions, metrics, transfer};

/// How often those are looked for that nobody goes on with.
const SWEEP: Duration = Duration::from_secs(600);

/// What ids begin with: see `routes`.
const MARK: char = '!';

/// Whose an upload is: nobody else goes on with it, nor he, when he may another thing by now.
#[derive(PartialEq)]
struct Owner {
    user: Option<String>,
    viewer: Viewer,
}

impl Owner {
    fn of(asked: &Asked) -> Self {
        let user = asked.entered.visitor.as_ref().map(|visitor| visitor.user.clone());
        Self { user, viewer: asked.view.viewer().clone() }
    }
}

/// One that has begun.
struct Begun {
    path: TreePath,
    /// How long it is to be, where that was said.
    size: Option<u64>,
    /// When the file was last changed, in milliseconds since 1970.
    modified: Option<i64>,
    replace: bool,
    /// What came so far, for those who ask while more is coming.
    offset: AtomicU64,
    /// Somebody adds to it, or finishes it: one at a time.
    upload: Arc<Mutex<State>>,
    /// The name that it was to get last.
    last: parking_lot::Mutex<TreePath>,
}

/// How far one is.
enum State {
    Open(Upload),
    /// It has its name, and is durable: what was answered, for who asks again since the answer was lost.
    Finished(serde_json::Value),
}

/// All of them.
#[derive(Default)]
pub(super) struct Uploads(Kept<Owner, Begun>);

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        let why = match full {
            Full::Own(own) => {
                format!("{own} of your uploads are not finished: finish or delete some")
            }
            Full::All(all) => {
                format!("{all} uploads are not finished, and there is room for no more")
            }
        };
        Self::new(Code::Busy, why)
    }
}

fn conflict(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::Conflict, why)
}

impl Uploads {
    /// Gives up what nobody goes on with, for ever.
    pub(super) async fn sweep_forever(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.0.sweep(Instant::now());
        }
    }

    fn of(&self, asked: &Asked, id: &str) -> Result<(Uuid, Arc<Begun>), Refusal> {
        let parsed = id.strip_prefix(MARK).and_then(|id| Uuid::try_parse(id).ok());
        let found =
            parsed.and_then(|id| Some((id, self.0.of(id, &Owner::of(asked), Instant::now())?)));
        found.ok_or_else(|| {
            let why = "there is no such upload of yours: it was finished or deleted, nobody went on with it for 24 h, or the volume was mounted anew";
            Refusal::new(Code::NoSuchUpload, why)
        })
    }

    /// POST /uploads/PATH: begins one. Folders that are not there are made.
    pub(super) async fn begin(&self, asked: &Asked) -> Result<Response, Refusal> {
        let (view, path) = (&asked.view, &asked.path);
        let replace = asked.query.flag("replace")?;
        let size: Option<u64> = asked.query.read("size", "a number of bytes")?;
        let modified = asked.query.modified()?;
        if size.is_some_and(|size| size > FILE_MAX) {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("a file has {FILE_MAX} bytes at most"),
            ));
        }
        self.0.has_room(&Owner::of(asked))?;
        let (folder, _) = path.split().ok_or_else(|| conflict("a folder has this name"))?;
        view.make_directories(&folder).await.map_err(|e| no_folder(&e))?;
        allowed(asked, path, replace).await?;
        let upload = view.upload(path).await.map_err(|e| no_folder(&e))?;
        let upload = Arc::new(Mutex::new(State::Open(upload)));
        let (path, offset) = (path.clone(), AtomicU64::new(0));
        let last = parking_lot::Mutex::new(path.clone());
        let begun = Begun { path, size, modified, replace, offset, upload, last };
        let id = self.0.keep(Owner::of(asked), begun, Instant::now())?;
        json(StatusCode::CREATED, &json!({ "id": format!("{MARK}{}", id.simple()), "offset": 0 }))
    }

    /// GET /uploads/ID: how far it is.
    pub(super) fn state(&self, asked: &Asked, id: &str) -> Result<Response, Refusal> {
        let (_, begun) = self.of(asked, id)?;
        let offset = begun.offset.load(Ordering::Relaxed);
        let mut said = json!({ "offset": offset, "path": address::write(&begun.path) });
        if let Some(size) = begun.size {
            said["size"] = size.into();
        }
        json(StatusCode::OK, &said)
    }

    /// PATCH /uploads/ID: adds to it. What came before something broke off stays. It is carried through to where the body ends, or
    /// breaks off: a write that is given up in its middle might be there in part.
    ///
    /// # Errors
    /// Whatever is wrong. What is left of the body is left in it.
    pub(super) async fn add(
        &self,
        asked: &Asked,
        id: &str,
        body: &mut Body,
    ) -> Result<Response, Refusal> {
        let (_, begun) = self.of(asked, id)?;
        let from: Option<u64> = asked.query.read("offset", "a number of bytes")?;
        let from = from.ok_or_else(|| {
            let why = "offset says where the bytes belong, and it is not there";
            Refusal::new(Code::BadRequest, why)
        })?;
        let mut upload = alone(&begun)?;
        let there = open(&upload)?.written();
        if open(&upload)?.has_name().await.map_err(|e| refused(&e))? {
            return Err(finished());
        }
        if from != there {
            let why = format!("{there} bytes have come, so the next ones belong there");
            return Err(Refusal { offset: Some(there), ..conflict(why) });
        }
        let mut taken = std::mem::take(body);
        let (added, left) = carried("an upload by the API", async move {
            let added = match &mut *upload {
                State::Open(upload) => add_all(&begun, upload, &mut taken).await,
                State::Finished(_) => Err(finished()),
            };
            Ok::<_, Refusal>((added, taken))
        })
        .await?;
        *body = left;
        let offset = added?;
        // Silence begins when the last of it has come.
        let _known = self.of(asked, id);
        json(StatusCode::OK, &json!({ "offset": offset }))
    }

    /// POST /uploads/ID/finish: it gets its name, or that of `?path=`. Where it cannot, it stays as it was. Who asks again is
    /// answered the same.
    pub(super) async fn finish(&self, asked: &Asked, id: &str) -> Result<Response, Refusal> {
        let (id, begun) = self.of(asked, id)?;
        let replace = match asked.query.one("replace")? {
            None => begun.replace,
            Some(_) => asked.query.flag("replace")?,
        };
        let path = match asked.query.one("path")? {
            None => begun.path.clone(),
            Some(path) => address::read_bytes(path)?,
        };
        let mut state = alone(&begun)?;
        let upload = match &*state {
            State::Open(upload) => upload,
            State::Finished(answer) => return json(StatusCode::CREATED, answer),
        };
        let there = upload.written();
        if let Some(size) = begun.size.filter(|size| *size != there) {
            let why = format!("{there} of {size} bytes have come: send the others first");
            return Err(Refusal { offset: Some(there), ..conflict(why) });
        }
        let (path, replaces) = match upload.has_name().await.map_err(|e| refused(&e))? {
            // What makes that durable has failed.
            true => (begun.last.lock().clone(), Replaces::Anything),
            false => {
                let replaces = prepared(asked, upload, (&path, replace)).await?;
                if let Some(at) = begun.modified {
                    upload.modified_at(time(at)).await.map_err(|e| refused(&e))?;
                }
                (path, replaces)
            }
        };
        begun.last.lock().clone_from(&path);
        let attr = match upload.finish_at(&path, replaces).await {
            Err(e) if replaces == Replaces::Nothing && e.is_there_already() => {
                let there = asked.view.stat_itself(&path).await.map_err(|e| refused(&e))?;
                return Err(taken(there.kind));
            }
            done => done.map_err(|e| conditions::refused(&e, replaces))?,
        };
        let entry = Entry::of(&asked.view, &path, &attr).await.map_err(|e| refused(&e))?;
        let answer = json!({ "entry": entry });
        *state = State::Finished(answer.clone());
        self.0.close(id, Instant::now());
        json(StatusCode::CREATED, &answer)
    }

    /// DELETE /uploads/ID: nothing comes of it.
    pub(super) fn give_up(&self, asked: &Asked, id: &str) -> Result<Response, Refusal> {
        let (id, begun) = self.of(asked, id)?;
        // Not while it gets its name: then something comes of it.
        let state = alone(&begun)?;
        open(&state)?;
        self.0.end(id);
        Ok(StatusCode::NO_CONTENT.into_response())
    }
}

/// Adds a body to an upload. Answers how far it is then.
async fn add_all(begun: &Begun, upload: &mut Upload, body: &mut Body) -> Result<u64, Refusal> {
    let most = begun.size.unwrap_or(FILE_MAX);
    while let Some(bytes) = transfer::next(body).await? {
        metrics::received(bytes.len());
        if upload.written() + bytes.len() as u64 > most {
            let why = format!("more than the {most} bytes that it is to have");
            return Err(Refusal::new(Code::TooLarge, why));
        }
        upload.write(bytes).await.map_err(|e| Refusal::of(&e, Code::Conflict))?;
        begun.offset.store(upload.written(), Ordering::Relaxed);
    }
    Ok(upload.written())
}

/// One at a time.
fn alone(begun: &Begun) -> Result<OwnedMutexGuard<State>, Refusal> {
    begun.upload.clone().try_lock_owned().map_err(|_| {
        let why = "another request is adding to this upload: wait for its end, or a little";
        Refusal::new(Code::Busy, why)
    })
}

/// One that is not finished.
fn open(state: &State) -> Result<&Upload, Refusal> {
    match state {
        State::Open(upload) => Ok(upload),
        State::Finished(_) => Err(finished()),
    }
}

fn finished() -> Refusal {
    conflict("this upload has its name already, and is finished")
}

fn taken(there: Kind) -> Refusal {
    Refusal::taken(there, "something is there already, and is not to be replaced (replace: false)")
}

/// What an upload would replace, which it may.
async fn allowed(
    asked: &Asked,
    path: &TreePath,
    replace: bool,
) -> Result<(Replaces, Option<meta::Attr>), Refusal> {
    let none = HeaderMap::new();
    let (before, replaces) = replaced(&asked.view, path, &none, Code::Conflict).await?;
    match &before {
        Some(before) if !replace => Err(taken(before.kind)),
        None if !replace => Ok((Replaces::Nothing, before)),
        _ => Ok((replaces, before)),
    }
}

/// Gives an upload all that it takes over from what it replaces, which it may.
async fn prepared(
    asked: &Asked,
    upload: &Upload,
    (path, replace): (&TreePath, bool),
) -> Result<Replaces, Refusal> {
    let mut looks = 0;
    loop {
        let (replaces, before) = allowed(asked, path, replace).await?;
        if takes_after(upload, before.as_ref(), &mut looks).await? {
            return Ok(replaces);
        }
    }
}
