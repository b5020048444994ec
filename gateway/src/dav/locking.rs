//! LOCK and UNLOCK. What is locked and not there yet is made, as an empty file.

use std::time::Instant;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};
use meta::{Kind, Replaces};

use super::asked::Asked;
use super::find::answer;
use super::headers::{Depth, depth, timeout, token};
use super::locks::{Lock, MOST, NoLock, Reach, Wanted};
use super::properties::active;
use super::xml::{Element, document, read};
use crate::conditions;
use crate::place::{named, no_folder, refused};
use crate::refusal::{Code, Refusal};

/// Bytes of what a client says of its user.
const OWNER: usize = 4096;

/// LOCK: a new one, or, without a body, one that lasts longer.
pub(super) async fn lock(asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    let lasts = timeout(&asked.headers)?;
    let path = &asked.at.path;
    if body.is_empty() {
        let now = Instant::now();
        let refreshed = asked.locks.refresh(path, &asked.tokens, lasts, now);
        let why = "no lock here has a token that If names, so none can be refreshed";
        let lock = refreshed.ok_or_else(|| Refusal::new(Code::Precondition, why))?;
        return Ok(told(StatusCode::OK, &lock));
    }
    let deep = match depth(&asked.headers)? {
        None | Some(Depth::Infinity) => true,
        Some(Depth::Zero) => false,
        Some(Depth::One) => {
            let why = "a lock is of a folder (Depth: 0) or of all in it, too (infinity)";
            return Err(Refusal::new(Code::BadRequest, why));
        }
    };
    let (shared, owner) = wanted(body)?;
    let before = named(&asked.view, path).await?;
    conditions::replaces(&asked.headers, before.as_ref())?;
    if before.is_none() {
        // A name in a folder, which may be locked itself.
        asked.unlocked(path, Reach { below: false, folder: true })?;
    }
    let wanted = Wanted { path: path.clone(), deep, shared, owner, lasts };
    let lock = asked.locks.lock(wanted, Instant::now()).map_err(|e| in_the_way(&e))?;
    if before.is_some_and(|attr| matches!(attr.kind, Kind::File | Kind::Directory | Kind::Symlink))
    {
        return Ok(told(StatusCode::OK, &lock));
    }
    match make(asked).await {
        Ok(()) => Ok(told(StatusCode::CREATED, &lock)),
        Err(refusal) => {
            asked.locks.unlock(path, &lock.token, Instant::now());
            Err(refusal)
        }
    }
}

fn in_the_way(why: &NoLock) -> Refusal {
    match why {
        NoLock::Locked(path) => {
            let at = super::address::write(path, false);
            Refusal::new(Code::Locked, format!("{at} is locked by another already"))
        }
        NoLock::TooMany => {
            Refusal::new(Code::NoSpace, format!("there are {MOST} locks, and more cannot be"))
        }
    }
}

/// An empty file, unless somebody has made one meanwhile.
async fn make(asked: &Asked) -> Result<(), Refusal> {
    let upload = asked.view.upload(&asked.at.path).await.map_err(|e| no_folder(&e))?;
    match upload.finish(Replaces::Nothing).await {
        Err(e) if e.is_there_already() => Ok(()),
        made => made.map(drop).map_err(|e| refused(&e)),
    }
}

/// Whether others may lock it, too, and what the client says of its user.
pub(super) fn wanted(body: &[u8]) -> Result<(bool, Option<String>), Refusal> {
    let bad = |why: &str| Refusal::new(Code::BadRequest, why);
    let root = read(body)?;
    if !root.name.is("lockinfo") {
        return Err(bad("the XML of a LOCK is a lockinfo of DAV:"));
    }
    if root.child("locktype").and_then(|kind| kind.child("write")).is_none() {
        return Err(bad("there are locks for writing alone"));
    }
    let scope = root.child("lockscope").and_then(|scope| scope.elements().next());
    let shared = match scope.map(|scope| &scope.name) {
        Some(name) if name.is("exclusive") => false,
        Some(name) if name.is("shared") => true,
        _ => return Err(bad("a lock is exclusive or shared")),
    };
    let owner = root.child("owner").map(written);
    match owner.as_ref().is_some_and(|owner| owner.len() > OWNER) {
        true => Err(bad("an owner of a lock of more than 4096 bytes")),
        false => Ok((shared, owner)),
    }
}

fn written(element: &Element) -> String {
    let mut text = String::new();
    element.write(&mut text);
    text
}

fn told(status: StatusCode, lock: &Lock) -> Response {
    let inner = format!("<D:lockdiscovery>{}</D:lockdiscovery>", active(lock));
    let mut response = answer(status, document("prop", &inner));
    let token = HeaderValue::from_str(&format!("<{}>", lock.token));
    let token = token.expect("it is made of digits and letters");
    response.headers_mut().insert("lock-token", token);
    response
}

/// UNLOCK.
pub(super) fn unlock(asked: &Asked) -> Result<Response, Refusal> {
    let token = token(&asked.headers)?;
    match asked.locks.unlock(&asked.at.path, token, Instant::now()) {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(Refusal::new(Code::Conflict, "there is no such lock here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lock_is_to_be() {
        let of = |inner: &str| {
            wanted(format!("<D:lockinfo xmlns:D='DAV:'>{inner}</D:lockinfo>").as_bytes())
        };
        let kind = "<D:locktype><D:write/></D:locktype>";
        let scope = |scope: &str| format!("<D:lockscope><D:{scope}/></D:lockscope>{kind}");
        assert_eq!(of(&scope("exclusive")), Ok((false, None)));
        let owner = "<D:owner>a &amp; <D:href>b</D:href></D:owner>";
        let written = "<owner xmlns=\"DAV:\">a &amp; <href>b</href></owner>";
        assert_eq!(of(&(scope("shared") + owner)), Ok((true, Some(written.to_owned()))));
        let long = format!("<D:owner>{}</D:owner>", "a".repeat(OWNER));
        for wrong in [
            "",
            kind,
            "<D:lockscope><D:shared/></D:lockscope>",
            &scope("none"),
            &(scope("shared") + &long),
        ] {
            assert_eq!(of(wrong).map_err(|e| e.code), Err(Code::BadRequest), "{wrong:.60}");
        }
    }
}
