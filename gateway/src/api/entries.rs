//! What is in a folder, a part at a time, and what is known of one thing; and who asks.
//!
//! A list is streamed as it is made, so that no list is in memory as a whole. One that cannot be had to its end breaks off:
//! nobody takes a part of it for all that was asked for.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fs::tree::{Listing, TreePath, TreeResult, View};
use http::{HeaderValue, StatusCode, header};
use meta::{AccountKind, DirEntry, Kind, ROOT};
use serde::Serialize;
use serde_json::json;

use super::asked::{Asked, json};
use super::entry::Entry;
use super::links;
use crate::place::refused;
use crate::refusal::{Code, Refusal};

/// Entries of an answer, unless something else is said, and at most.
const LIMIT: usize = 1000;
const LIMIT_MAX: usize = 10_000;
/// Bytes of an answer that are made at once.
const CHUNK: usize = 32 << 10;

/// Does somebody see all of the volume, as root or as whoever serves it? He is told how it is.
pub(super) fn is_administrator(asked: &Asked) -> bool {
    let viewer = asked.view.viewer();
    let may = match &asked.entered.visitor {
        None => true,
        Some(visitor) => viewer.uid == 0 && visitor.by != AccountKind::Link,
    };
    may && viewer.root == ROOT
}

/// Refuses whoever is none.
///
/// # Errors
/// When he is not.
pub(super) fn administrator(asked: &Asked) -> Result<(), Refusal> {
    let why = "this is for administrators: accounts with uid 0 that see the whole volume";
    match is_administrator(asked) {
        true => Ok(()),
        false => Err(Refusal::new(Code::Denied, why)),
    }
}

/// Does an administrator who asks change something? `writes`: something is kept that was not; what is taken back is so also where
/// the volume is only read.
///
/// # Errors
/// When he does not.
pub(super) fn may_change(asked: &Asked, writes: bool) -> Result<(), Refusal> {
    if !asked.view.viewer().write {
        return Err(Refusal::new(Code::Denied, "this account only reads"));
    }
    if writes && asked.view.is_read_only() {
        let why = "the volume is only read here (ro): change it where it is written to";
        return Err(Refusal::new(Code::Denied, why));
    }
    Ok(())
}

/// Does somebody ask who has no account, but a link that somebody gave away?
pub(super) fn is_by_link(asked: &Asked) -> bool {
    asked.entered.visitor.as_ref().is_some_and(|visitor| visitor.by == AccountKind::Link)
}

/// GET /me: who asks, and what he may.
pub(super) fn me(asked: &Asked) -> Result<Response, Refusal> {
    // Whose the link is, and where the folder lies, is not for all who have it.
    let visitor = asked.entered.visitor.as_ref().filter(|_| !is_by_link(asked));
    let said = json!({
        "volume": asked.view.volume(),
        "user": visitor.map(|visitor| &visitor.user),
        "uid": asked.view.viewer().uid,
        "folder": visitor.map_or("/", |visitor| &visitor.folder),
        "write": asked.view.may_write(),
        "share": links::may_make(asked),
        "admin": is_administrator(asked),
        "version": proto::VERSION,
    });
    json(StatusCode::OK, &said)
}

/// GET /entry/PATH: what is known of one thing, a link itself.
pub(super) async fn entry(asked: &Asked) -> Result<Response, Refusal> {
    let found = async {
        let attr = asked.view.stat_itself(&asked.path).await?;
        let entry = Entry::of(&asked.view, &asked.path, &attr).await?;
        TreeResult::Ok(entry.with(&asked.view.access_lists(&attr).await?))
    };
    json(StatusCode::OK, &found.await.map_err(|e| refused(&e))?)
}

/// GET /entries/PATH: what is in a folder.
pub(super) async fn list(asked: &Asked) -> Result<Response, Refusal> {
    let (view, folder) = (asked.view.clone(), asked.path.clone());
    let after: u64 = asked.query.read("after", "what an answer had as next")?.unwrap_or(0);
    let limit = asked.query.read("limit", "a number")?.unwrap_or(LIMIT);
    if limit == 0 || limit > LIMIT_MAX {
        let why = format!("limit has to be from 1 to {LIMIT_MAX}");
        return Err(Refusal::new(Code::BadRequest, why));
    }
    let attr = view.stat(&folder).await.map_err(|e| refused(&e))?;
    if attr.kind != Kind::Directory {
        return Err(Refusal::new(Code::Conflict, "this is a file, and nothing is in it"));
    }
    let entry = Entry::of(&view, &folder, &attr).await.map_err(|e| refused(&e))?;
    let listing = view.list_after(&folder, after).await.map_err(|e| refused(&e))?;
    let page = Vec::new();
    let mut list = List { view, folder, listing, page, left: limit, last: after, ended: false };
    let mut first = String::from("{\"folder\":");
    write(&entry, &mut first);
    first.push_str(",\"entries\":[");
    // What goes wrong at once is still said with a status.
    list.fill(&mut first, true).await.map_err(|e| refused(&e))?;
    let more = futures::stream::try_unfold(Some((list, first)), |state| async move {
        let Some((mut list, ready)) = state else { return Ok(None) };
        if list.ended {
            return Ok(Some((Bytes::from(ready), None)));
        }
        let mut next = String::new();
        list.fill(&mut next, false).await.inspect_err(|e| {
            tracing::error!("a door breaks off a list of a folder: {e}");
        })?;
        TreeResult::Ok(Some((Bytes::from(ready), Some((list, next)))))
    });
    let mut response = Body::from_stream(more).into_response();
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Writes JSON behind what is there.
pub(super) fn write(said: &impl Serialize, out: &mut String) {
    out.push_str(&serde_json::to_string(said).expect("what is said is plain data"));
}

/// A folder whose list is being written.
struct List {
    view: View,
    folder: TreePath,
    listing: Listing,
    /// Entries that are next, the last of them first.
    page: Vec<DirEntry>,
    /// How many more there may be.
    left: usize,
    /// The cookie of the one that was written last.
    last: u64,
    ended: bool,
}

impl List {
    /// Writes on, until that is enough for now, or all. `first`: nothing is there that a comma would be behind.
    async fn fill(&mut self, out: &mut String, first: bool) -> TreeResult<()> {
        let mut first = first;
        let begun = out.len();
        while out.len() - begun < CHUNK {
            if self.page.is_empty() {
                self.page = self.listing.next().await?;
                self.page.reverse();
                // A long listing lets others go in between.
                tokio::task::yield_now().await;
            }
            let Some(found) = self.page.pop_if(|_| self.left > 0) else {
                match self.page.is_empty() {
                    true => out.push_str("]}\n"),
                    false => out.push_str(&format!("],\"next\":\"{}\"}}\n", self.last)),
                }
                self.ended = true;
                return Ok(());
            };
            if let Some(entry) = self.entry(&found).await? {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                write(&entry, out);
            }
            self.left -= 1;
            self.last = found.cookie;
        }
        Ok(())
    }

    /// `None`: it has gone meanwhile.
    async fn entry(&self, found: &DirEntry) -> TreeResult<Option<Entry>> {
        if found.damaged {
            return Ok(Some(Entry::damaged(&found.name)));
        }
        let path = self.folder.join(&found.name)?;
        match Entry::of(&self.view, &path, &found.attr).await {
            Err(e) if e.is_not_found() => Ok(None),
            entry => entry.map(Some),
        }
    }
}
