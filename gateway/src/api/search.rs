//! Looks for names in all that is below a folder, and tells of each that it finds at once, as lines of JSON.
//!
//! How far it looks is bounded, and how many look at once; what may not be seen is not looked into. The last line says how far it
//! came; one that says what went wrong is the last, too.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fs::tree::{TreeError, TreePath, Trouble, View};
use http::{HeaderValue, Method, header};
use meta::{DirEntry, Kind};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::asked::Asked;
use super::entry::Entry;
use crate::address;
use crate::place::refused;
use crate::refusal::{Code, Refusal};
use crate::trees::walk::{Step, Walk};

/// Searches at once.
const AT_ONCE: usize = 8;
/// Names that are found, unless something else is said, and at most.
const FOUND: usize = 1000;
const FOUND_MAX: usize = 10_000;
/// Names that are looked at.
const LOOKED_AT: u64 = 1_000_000;

/// Turns for searches. Cheap to clone.
#[derive(Clone)]
pub(super) struct Searches(Arc<Semaphore>);

impl Default for Searches {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

/// GET /search/PATH.
pub(super) async fn search(
    searches: &Searches,
    asked: &Asked,
    method: &Method,
) -> Result<Response, Refusal> {
    let bad = |why: String| Refusal::new(Code::BadRequest, why);
    let name = asked.query.one("name")?.unwrap_or_default();
    let name = std::str::from_utf8(name).map_err(|_| bad("name is no text".to_owned()))?;
    let name = name.to_lowercase();
    if name.is_empty() {
        return Err(bad("name says what the names have in them that are looked for".to_owned()));
    }
    let limit = asked.query.read("limit", "a number")?.unwrap_or(FOUND);
    if limit == 0 || limit > FOUND_MAX {
        return Err(bad(format!("limit has to be from 1 to {FOUND_MAX}")));
    }
    let attr = asked.view.stat(&asked.path).await.map_err(|e| refused(&e))?;
    if attr.kind != Kind::Directory {
        return Err(Refusal::new(Code::Conflict, "this is a file, and nothing is in it"));
    }
    let turn = searches.0.clone().try_acquire_owned().map_err(|_| {
        Refusal::new(Code::Busy, format!("{AT_ONCE} searches are under way, and no more can be"))
    })?;
    let (sender, receiver) = channel(1);
    let search =
        Search { view: asked.view.clone(), name, left: limit, looked_at: 0, sender, _turn: turn };
    if method != Method::HEAD {
        tokio::spawn(search.tell(asked.path.clone(), attr.ino));
    }
    let lines = futures::stream::unfold(receiver, |mut receiver| async move {
        let lines: Bytes = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(lines), receiver))
    });
    let mut response = Body::from_stream(lines).into_response();
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// A search that is under way.
struct Search {
    view: View,
    /// In lower case.
    name: String,
    /// How many more there may be.
    left: usize,
    looked_at: u64,
    sender: Sender<Bytes>,
    _turn: OwnedSemaphorePermit,
}

/// Why a search ends before its end.
enum Ended {
    /// So many were found, or looked at.
    Enough,
    /// Nobody listens any more.
    Gone,
    Failed(TreeError),
}

fn line(said: &Value) -> String {
    format!("{said}\n")
}

impl Search {
    async fn tell(mut self, folder: TreePath, ino: meta::Ino) {
        let ended = self.look(folder, ino).await;
        let last = match ended {
            Err(Ended::Gone) => return,
            Err(Ended::Failed(e)) => refused(&e).json(),
            ended => {
                json!({ "done": true, "looked_at": self.looked_at, "more": ended.is_err() })
            }
        };
        // Whoever has gone needs no end.
        let _gone = self.sender.send(line(&last).into()).await;
    }

    async fn look(&mut self, folder: TreePath, ino: meta::Ino) -> Result<(), Ended> {
        let view = self.view.clone();
        let mut walk = Walk::from(&view, &folder, ino);
        while let Some(step) = walk.next().await {
            let mut lines = String::new();
            let met = match step {
                Step::Leave(..) => Ok(()),
                Step::Enter(at) if at == folder => Ok(()),
                Step::Enter(at) => self.folder(&at, &mut lines).await,
                Step::Others(folder, entries) => self.others(&folder, &entries, &mut lines).await,
                // What may not be seen, or has gone, is not there.
                Step::Failed(_, e) if is_hidden(&e) => Ok(()),
                Step::Failed(_, e) => Err(Ended::Failed(e)),
            };
            if self.sender.is_closed() {
                return Err(Ended::Gone);
            }
            if !lines.is_empty() {
                self.sender.send(lines.into()).await.map_err(|_| Ended::Gone)?;
            }
            met?;
            // A long search lets others go in between.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn folder(&mut self, at: &TreePath, lines: &mut String) -> Result<(), Ended> {
        let name = at.names().last().map_or(&[][..], |name| name);
        if self.is_wanted(name)?
            && let Ok(attr) = self.view.stat_itself(at).await
        {
            let entry = Entry::of(&self.view, at, &attr).await.map_err(Ended::Failed)?;
            self.found(at, &entry, lines)?;
        }
        Ok(())
    }

    async fn others(
        &mut self,
        folder: &TreePath,
        entries: &[DirEntry],
        lines: &mut String,
    ) -> Result<(), Ended> {
        for found in entries {
            if !self.is_wanted(&found.name)? {
                continue;
            }
            let at = folder.join(&found.name).map_err(|e| Ended::Failed(e.into()))?;
            let entry = match found.damaged {
                true => Ok(Entry::damaged(&found.name)),
                false => Entry::of(&self.view, &at, &found.attr).await,
            };
            match entry {
                Err(e) if e.is_not_found() => {}
                entry => self.found(&at, &entry.map_err(Ended::Failed)?, lines)?,
            }
        }
        Ok(())
    }

    fn is_wanted(&mut self, name: &[u8]) -> Result<bool, Ended> {
        if self.looked_at >= LOOKED_AT {
            return Err(Ended::Enough);
        }
        self.looked_at += 1;
        Ok(String::from_utf8_lossy(name).to_lowercase().contains(&self.name))
    }

    fn found(&mut self, at: &TreePath, entry: &Entry, lines: &mut String) -> Result<(), Ended> {
        self.left = self.left.checked_sub(1).ok_or(Ended::Enough)?;
        lines.push_str(&line(&json!({ "path": address::write(at), "entry": entry })));
        Ok(())
    }
}

fn is_hidden(error: &TreeError) -> bool {
    matches!(error.trouble(), Trouble::Denied | Trouble::NotFound | Trouble::WrongKind)
}
