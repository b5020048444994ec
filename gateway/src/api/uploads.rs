//! Uploads that may break off and go on: what came stays, for whoever sent it, until the whole gets its name in one step. Nobody
//! else sees anything of it before. They are this process's: with it, they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use fs::tree::{TreePath, Upload, Viewer};
use http::{HeaderMap, StatusCode};
use meta::{AccountKind, Attr, FILE_MAX, Kind, Replaces};
use serde_json::json;
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use super::asked::{Account, Asked, json};
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

/// One that has begun.
struct Begun {
    /// Who began it: nobody else goes on with it, nor the same account when it may another thing by now.
    viewer: Viewer,
    since: Instant,
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
pub(super) struct Uploads(Kept<Account, Begun>);

impl Begun {
    fn is_of(&self, asked: &Asked) -> bool {
        self.viewer == *asked.view.viewer()
    }

    fn is_at(&self, path: &TreePath, asked: &Asked) -> bool {
        self.is_of(asked) && self.path == *path
    }
}

/// Is it the user himself, who may end what was begun by his passes?
fn is_the_user(asked: &Asked) -> bool {
    asked.entered.visitor.as_ref().is_some_and(|visitor| visitor.by == AccountKind::User)
}

fn written(id: Uuid) -> String {
    format!("{MARK}{}", id.simple())
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

    /// One of the account that asks; `any`: also by whom it may be ended alone.
    fn of(&self, asked: &Asked, id: &str, any: bool) -> Result<(Uuid, Arc<Begun>), Refusal> {
        let parsed = id.strip_prefix(MARK).and_then(|id| Uuid::try_parse(id).ok());
        let found =
            parsed.and_then(|id| Some((id, self.0.of(id, &asked.account(), Instant::now())?)));
        let found = found.filter(|(_, begun)| begun.is_of(asked) || any && is_the_user(asked));
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
        self.0.has_room(&asked.account()).map_err(|full| self.refused(full, asked))?;
        let (folder, _) = path.split().ok_or_else(|| conflict("a folder has this name"))?;
        view.make_directories(&folder).await.map_err(|e| no_folder(&e))?;
        allowed(asked, path, replace).await?;
        let upload = view.upload(path).await.map_err(|e| no_folder(&e))?;
        let upload = Arc::new(Mutex::new(State::Open(upload)));
        let (path, offset) = (path.clone(), AtomicU64::new(0));
        let last = parking_lot::Mutex::new(path.clone());
        let (viewer, since) = (view.viewer().clone(), Instant::now());
        let begun = Begun { viewer, since, path, size, modified, replace, offset, upload, last };
        let kept = self.0.keep(asked.account(), begun, since);
        let id = kept.map_err(|full| self.refused(full, asked))?;
        json(StatusCode::CREATED, &json!({ "id": written(id), "offset": 0 }))
    }

    /// There is no room; where it is his own that take it, with one that he may end: of this very path, if there is one.
    fn refused(&self, full: Full, asked: &Asked) -> Refusal {
        let why = match full {
            Full::All(all) => {
                format!("{all} uploads are not finished, and there is room for no more")
            }
            Full::Own(most) => {
                let own = self.own(asked, Instant::now());
                let same = own.iter().find(|(_, begun, _)| begun.is_at(&asked.path, asked));
                let named =
                    same.or(own.first()).map(|(id, ..)| format!(", {} first", written(*id)));
                let named = named.unwrap_or_default();
                format!(
                    "{most} of your uploads are not finished: finish or delete some{named} (GET /api/v1/uploads lists them)"
                )
            }
        };
        Refusal::new(Code::Busy, why)
    }

    /// Those that whoever asks may end.
    fn own(&self, asked: &Asked, now: Instant) -> Vec<(Uuid, Arc<Begun>, Duration)> {
        let all = self.0.all_of(&asked.account(), now).into_iter();
        all.filter(|(_, begun, _)| begun.is_of(asked) || is_the_user(asked)).collect()
    }

    /// GET /uploads: those that whoever asks has begun, and not finished, the one that was silent for longest first.
    pub(super) fn list(&self, asked: &Asked) -> Result<Response, Refusal> {
        let now = Instant::now();
        let one = |(id, begun, silent): &(Uuid, Arc<Begun>, Duration)| {
            let mut said = json!({
                "id": written(*id),
                "offset": begun.offset.load(Ordering::Relaxed),
                "age": now.saturating_duration_since(begun.since).as_secs(),
                "silent": silent.as_secs(),
            });
            // By another of his passes he sees another folder.
            if begun.is_of(asked) {
                said["path"] = address::write(&begun.path).into();
            }
            if let Some(size) = begun.size {
                said["size"] = size.into();
            }
            said
        };
        let own: Vec<_> = self.own(asked, now).iter().map(one).collect();
        json(StatusCode::OK, &json!({ "uploads": own }))
    }

    /// GET /uploads/ID: how far it is.
    pub(super) fn state(&self, asked: &Asked, id: &str) -> Result<Response, Refusal> {
        let (_, begun) = self.of(asked, id, false)?;
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
        let (_, begun) = self.of(asked, id, false)?;
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
        let _known = self.of(asked, id, false);
        json(StatusCode::OK, &json!({ "offset": offset }))
    }

    /// POST /uploads/ID/finish: it gets its name, or that of `?path=`. Where it cannot, it stays as it was. Who asks again is
    /// answered the same.
    pub(super) async fn finish(&self, asked: &Asked, id: &str) -> Result<Response, Refusal> {
        let (id, begun) = self.of(asked, id, false)?;
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
        let (path, attr) = match upload.has_name().await.map_err(|e| refused(&e))? {
            // What makes that durable has failed.
            true => {
                let settled = upload.settle().await.map_err(|e| refused(&e))?;
                (begun.last.lock().clone(), settled)
            }
            false => {
                let attr = placed(asked, &begun, upload, (&path, replace)).await?;
                (path, attr)
            }
        };
        let entry = Entry::of(&asked.view, &path, &attr).await.map_err(|e| refused(&e))?;
        let answer = json!({ "entry": entry });
        *state = State::Finished(answer.clone());
        self.0.close(id, Instant::now());
        json(StatusCode::CREATED, &answer)
    }

    /// DELETE /uploads/ID: nothing comes of it.
    pub(super) fn give_up(&self, asked: &Asked, id: &str) -> Result<Response, Refusal> {
        let (id, begun) = self.of(asked, id, true)?;
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
) -> Result<(Replaces, Option<Attr>), Refusal> {
    let none = HeaderMap::new();
    let (before, replaces) = replaced(&asked.view, path, &none, Code::Conflict).await?;
    match &before {
        Some(before) if !replace => Err(taken(before.kind)),
        None if !replace => Ok((Replaces::Nothing, before)),
        _ => Ok((replaces, before)),
    }
}

/// Puts an upload in its place.
async fn placed(
    asked: &Asked,
    begun: &Begun,
    upload: &Upload,
    (path, replace): (&TreePath, bool),
) -> Result<Attr, Refusal> {
    let replaces = prepared(asked, upload, (path, replace)).await?;
    if let Some(at) = begun.modified {
        upload.modified_at(time(at)).await.map_err(|e| refused(&e))?;
    }
    begun.last.lock().clone_from(path);
    match upload.finish_at(path, replaces).await {
        Err(e) if replaces == Replaces::Nothing && e.is_there_already() => {
            let there = asked.view.stat_itself(path).await.map_err(|e| refused(&e))?;
            Err(taken(there.kind))
        }
        done => done.map_err(|e| conditions::refused(&e, replaces)),
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
