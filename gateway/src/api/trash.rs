//! The trash: what was deleted and can be had back, by whoever deleted it, or whose it is.

use axum::response::Response;
use fs::tree::{InTrash, TrashPlace, TreeError, TreePath, View};
use http::StatusCode;
use meta::{Ino, Kind, Time};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::asked::{Asked, json, said};
use super::door::Door;
use super::entries::is_by_link;
use super::entry::{milliseconds, time};
use super::shares::Share;
use crate::address;
use crate::place::{no_folder, refused};
use crate::refusal::{Code, Refusal, word};

/// Entries of an answer, unless something else is said, and at most.
const LIMIT: usize = 1000;
const LIMIT_MAX: usize = 10_000;
/// After all that ever was.
const ALL: Time = Time { secs: i64::MAX, nanos: 0 };

/// Something in the trash.
#[derive(Serialize)]
struct Trashed {
    id: String,
    name: String,
    /// Where it was, as in addresses.
    path: String,
    kind: &'static str,
    size: u64,
    /// In milliseconds since 1970.
    modified: i64,
    /// The same: when it was deleted.
    deleted: i64,
    /// The number of the user who did.
    by: u32,
    owner: u32,
}

impl Trashed {
    fn of(found: &InTrash) -> Self {
        let name = found.path.names().last().map_or(&[][..], |name| name);
        Self {
            id: found.attr.ino.0.to_string(),
            name: String::from_utf8_lossy(name).into_owned(),
            path: address::write(&found.path),
            kind: word(found.attr.kind),
            size: if found.attr.kind == Kind::File { found.attr.size } else { 0 },
            modified: milliseconds(found.attr.mtime),
            deleted: milliseconds(found.when),
            by: found.by,
            owner: found.attr.uid,
        }
    }
}

/// Whoever has a link that somebody gave away has deleted nothing.
fn check(asked: &Asked) -> Result<(), Refusal> {
    match is_by_link(asked) {
        true => Err(Refusal::new(Code::Denied, "a share link does not show the trash")),
        false => Ok(()),
    }
}

/// A turn to look through the trash, which may be long.
async fn turn(door: &Door, asked: &Asked) -> Result<Share, Refusal> {
    let busy = "as much is looked for in the trash as may be at once: wait for some of it";
    let turn = door.trash.turn(&asked.account()).await;
    turn.ok_or_else(|| Refusal::new(Code::Busy, busy))
}

fn not_there(error: &TreeError) -> Refusal {
    match error.is_not_found() {
        true => Refusal::new(Code::NoSuchFile, "there is no such thing in the trash"),
        false => refused(error),
    }
}

fn id(text: &str) -> Result<Ino, Refusal> {
    let bad = |_| Refusal::new(Code::BadRequest, "this is no id of something in the trash");
    text.parse().map(Ino).map_err(bad)
}

/// Where a list goes on, as text.
fn cursor((at, ino): TrashPlace) -> String {
    format!("{}.{}.{}", at.secs, at.nanos, ino.0)
}

fn read_cursor(text: &[u8]) -> Option<TrashPlace> {
    let mut parts = std::str::from_utf8(text).ok()?.splitn(3, '.');
    let (secs, nanos) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let place = (Time { secs, nanos }, Ino(parts.next()?.parse().ok()?));
    (nanos < 1_000_000_000).then_some(place)
}

/// GET /trash.
pub(super) async fn list(door: &Door, asked: &Asked) -> Result<Response, Refusal> {
    check(asked)?;
    let after = match asked.query.one("after")? {
        None => None,
        Some(text) => {
            let bad =
                || Refusal::new(Code::BadRequest, "after has to be what an answer had as next");
            Some(read_cursor(text).ok_or_else(bad)?)
        }
    };
    let limit = asked.query.read("limit", "a number")?.unwrap_or(LIMIT);
    if limit == 0 || limit > LIMIT_MAX {
        let why = format!("limit has to be from 1 to {LIMIT_MAX}");
        return Err(Refusal::new(Code::BadRequest, why));
    }
    let _turn = turn(door, asked).await?;
    let (found, next) = asked.view.trash(after, limit).await.map_err(|e| refused(&e))?;
    let entries: Vec<Trashed> = found.iter().map(Trashed::of).collect();
    let mut answer = json!({ "days": asked.view.kept_days(), "entries": entries });
    if let Some(next) = next {
        answer["next"] = cursor(next).into();
    }
    json(StatusCode::OK, &answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    id: String,
    to: Option<String>,
    #[serde(default)]
    replace: bool,
}

/// POST /trash/restore.
pub(super) async fn restore(asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    check(asked)?;
    let Wanted { id: text, to, replace } = said(body)?;
    let (ino, to) = (id(&text)?, to.map(|to| address::read(&to)).transpose()?);
    let view = &asked.view;
    let path = match (view.was_at(ino).await, &to) {
        // What lay too deep to have a path comes to another place.
        (Ok(_) | Err(TreeError::Path(_)), Some(to)) => to.clone(),
        (was_at, _) => was_at.map_err(|e| not_there(&e))?,
    };
    match view.restore(ino, to.as_ref(), replace).await {
        Ok(()) => json(StatusCode::OK, &json!({ "path": address::write(&path) })),
        Err(e) if e.is_there_already() => Err(in_the_way(view, &path).await),
        Err(e) => Err(no_folder(&e)),
    }
}

/// Why something cannot have this place, which is taken, or that of a folder above.
async fn in_the_way(view: &View, path: &TreePath) -> Refusal {
    if let Ok(there) = view.stat_itself(path).await {
        let why = "something is there already: give replace: true, which puts that into the trash, or another place with to";
        return Refusal::taken(there.kind, why);
    }
    let why = "something else is where a folder was that it was in, or has its name: give another place with to";
    Refusal::new(Code::Conflict, why)
}

/// DELETE /trash/ID.
pub(super) async fn delete(door: &Door, asked: &Asked, text: &str) -> Result<Response, Refusal> {
    check(asked)?;
    let id = id(text)?;
    let _turn = turn(door, asked).await?;
    asked.view.delete_in_trash(id).await.map_err(|e| not_there(&e))?;
    json(StatusCode::OK, &json!({ "deleted": 1, "denied": 0 }))
}

/// DELETE /trash.
pub(super) async fn empty(door: &Door, asked: &Asked) -> Result<Response, Refusal> {
    check(asked)?;
    let before: Option<i64> = asked.query.read("before", "milliseconds since 1970")?;
    let before = before.map_or(ALL, time);
    let _turn = turn(door, asked).await?;
    let (deleted, denied) = asked.view.empty_trash(before).await.map_err(|e| refused(&e))?;
    json(StatusCode::OK, &json!({ "deleted": deleted, "denied": denied }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_where_it_was() {
        let place = (Time { secs: 1_764_000_000, nanos: 4_000_000 }, Ino(77));
        assert_eq!(read_cursor(cursor(place).as_bytes()), Some(place));
        for bad in ["", "1", "1.2", "a.2.3", "1.1000000000.3", "1.2.3.4"] {
            assert_eq!(read_cursor(bad.as_bytes()), None, "{bad}");
        }
    }
}
