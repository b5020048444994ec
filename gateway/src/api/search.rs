//! Looks for names in all that is below a folder, and tells of each that it finds at once, as lines of JSON.
//!
//! How far it looks is bounded, and for how long; what may not be seen is not looked into. The last line says how far it
//! came, and what was too deep; one that says what went wrong is the last, too. Without either it has broken off.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fs::tree::{BadPath, TreeError, TreePath, Trouble, View};
use http::{HeaderValue, Method, header};
use meta::{DirEntry, Kind};
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

use super::asked::Asked;
use super::entry::Entry;
use super::shares::{Share, Shares};
use crate::address;
use crate::place::refused;
use crate::refusal::{Code, Refusal};
use crate::through::{BrokenOff, told};
use crate::trees::walk::{Step, Walk};

/// Names that are found, unless something else is said, and at most.
const FOUND: usize = 1000;
const FOUND_MAX: usize = 10_000;
/// Names that are looked at.
const LOOKED_AT: u64 = 1_000_000;

/// How long one goes on, and waits for somebody to take its end.
const LASTS: Duration = Duration::from_secs(300);
const END: Duration = Duration::from_secs(10);
/// Folders that are named because what is in them is too deep to have a path.
const NAMED: usize = 10;

/// GET /search/PATH.
pub(super) async fn search(
    looks: &Shares,
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
    let turn = looks.turn(&asked.account()).await.ok_or_else(|| {
        Refusal::new(
            Code::Busy,
            "as many searches are under way as may be at once: wait for one of them",
        )
    })?;
    let lines = match *method {
        Method::HEAD => Body::empty(),
        _ => told("a search by the API", |teller| {
            let (view, deep) = (asked.view.clone(), Vec::new());
            let search =
                Search { view, name, left: limit, looked_at: 0, deep, teller, _turn: turn };
            search.tell(asked.path.clone(), attr.ino)
        }),
    };
    let mut response = lines.into_response();
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
    /// Folders of which something was left out that is too deep, the first [`NAMED`].
    deep: Vec<TreePath>,
    teller: Sender<Bytes>,
    _turn: Share,
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
    async fn tell(mut self, folder: TreePath, ino: meta::Ino) -> Result<(), BrokenOff> {
        let looking = tokio::time::timeout(LASTS, self.look(folder, ino)).await;
        let last = match looking.unwrap_or(Err(Ended::Enough)) {
            Err(Ended::Gone) => return Ok(()),
            Err(Ended::Failed(e)) => refused(&e).json(),
            ended => {
                let (looked_at, more) = (self.looked_at, ended.is_err());
                let mut said = json!({ "done": true, "looked_at": looked_at, "more": more });
                if !self.deep.is_empty() {
                    said["too_deep"] = self.deep.iter().map(address::write).collect();
                }
                said
            }
        };
        let end = self.teller.send_timeout(line(&last).into(), END).await;
        end.map_err(|_| BrokenOff("nobody takes the end of a search".to_owned()))
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
                Step::Failed(at, TreeError::Path(BadPath::Long)) => {
                    self.is_too_deep(&at);
                    Ok(())
                }
                Step::Failed(_, e) => Err(Ended::Failed(e)),
            };
            if self.teller.is_closed() {
                return Err(Ended::Gone);
            }
            if !lines.is_empty() {
                self.teller.send(lines.into()).await.map_err(|_| Ended::Gone)?;
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
            let Ok(at) = folder.join(&found.name) else {
                self.is_too_deep(folder);
                continue;
            };
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

    /// Something in this folder has a longer path than there may be.
    fn is_too_deep(&mut self, folder: &TreePath) {
        if self.deep.len() < NAMED && !self.deep.contains(folder) {
            self.deep.push(folder.clone());
        }
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
