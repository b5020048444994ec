//! DELETE, COPY and MOVE, as far as they are WebDAV's: what they need to hold, and how they are answered. `crate::trees` does
//! them.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use meta::{Attr, Kind};

use super::address::{named, write};
use super::asked::Asked;
use super::find::answer;
use super::headers::{Depth, depth, destination, overwrite};
use super::locks::Reach;
use super::properties::failed;
use super::xml::document;
use crate::conditions;
use crate::place::{self, refused};
use crate::refusal::{Code, Refusal};
use crate::trees::{self, Ends, Failures, apart};

/// All that is in it, and the folder that it is in.
const WHOLE: Reach = Reach { below: true, folder: true };

/// The answer: this status, unless something failed.
fn answered(failures: Failures, status: StatusCode) -> Response {
    let Failures { all, more } = failures;
    if all.is_empty() {
        let mut response = status.into_response();
        if status == StatusCode::CREATED {
            let none = HeaderValue::from_static("0");
            response.headers_mut().insert(header::CONTENT_LENGTH, none);
        }
        return response;
    }
    let mut said = String::new();
    for (path, error) in &all {
        let Refusal { code, message, .. } = refused(error);
        failed(&write(path, false), code.status(), &message, &mut said);
    }
    if more > 0 {
        said += &format!("<D:responsedescription>and {more} more</D:responsedescription>");
    }
    answer(StatusCode::MULTI_STATUS, document("multistatus", &said))
}

/// DELETE.
pub(super) async fn delete(asked: &Asked) -> Result<Response, Refusal> {
    let path = &asked.at.path;
    let there = asked.view.stat_itself(path).await.map_err(|e| refused(&e))?;
    if there.kind == Kind::Directory
        && !matches!(depth(&asked.headers)?, None | Some(Depth::Infinity))
    {
        let why = "a folder is deleted with all that is in it (Depth: infinity)";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    let which = conditions::replaces(&asked.headers, Some(&there))?;
    asked.unlocked(path, WHOLE)?;
    let locked = asked.locks.tokens_in(path);
    let failures = trees::delete(&asked.view, path, (&there, which)).await?;
    asked.locks.forget(&locked, |at| !failures.keep(at));
    Ok(answered(failures, StatusCode::NO_CONTENT))
}

/// `follows`: of a link it is what it leads to that comes.
async fn ends(asked: &Asked, follows: bool) -> Result<Ends, Refusal> {
    let from = asked.at.path.clone();
    let source = asked.view.stat_itself(&from).await.map_err(|e| refused(&e))?;
    let to = named(&asked.headers, destination(&asked.headers)?)?.path;
    conditions::replaces(&asked.headers, Some(&source))?;
    let target = place::named(&asked.view, &to).await?;
    let ends = Ends { from, source, to, target };
    apart(&asked.view, &ends, follows).await?;
    if target.is_some() && !overwrite(&asked.headers)? {
        let why = "something is there already, and is not to be replaced (Overwrite: F)";
        return Err(Refusal::new(Code::Precondition, why));
    }
    asked.unlocked(
        &ends.to,
        if target.is_some() { Reach { below: true, folder: false } } else { WHOLE },
    )?;
    Ok(ends)
}

fn status(ends: &Ends) -> StatusCode {
    if ends.target.is_some() { StatusCode::NO_CONTENT } else { StatusCode::CREATED }
}

/// MOVE.
pub(super) async fn move_to(asked: &Asked) -> Result<Response, Refusal> {
    let ends = ends(asked, false).await?;
    asked.unlocked(&asked.at.path, WHOLE)?;
    let locks = &asked.locks;
    let (moved, replaced) = (locks.tokens_in(&ends.from), locks.tokens_in(&ends.to));
    let failures = trees::move_to(&asked.view, &ends).await?;
    locks.forget(&moved, |_| true);
    locks.forget(&replaced, |at| *at != ends.to);
    Ok(answered(failures, status(&ends)))
}

/// COPY.
pub(super) async fn copy(asked: &Asked) -> Result<Response, Refusal> {
    let all = match depth(&asked.headers)? {
        None | Some(Depth::Infinity) => true,
        Some(Depth::Zero) => false,
        Some(Depth::One) => {
            let why = "a folder is copied with all that is in it (infinity) or nothing (0)";
            return Err(Refusal::new(Code::BadRequest, why));
        }
    };
    let ends = ends(asked, true).await?;
    let replaced = asked.locks.tokens_in(&ends.to);
    let failures = trees::copy(&asked.view, &ends, all).await?;
    let there = asked.view.stat_itself(&ends.to).await;
    let stays = |there: Attr| ends.target.is_some_and(|target| target.ino == there.ino);
    if !there.is_ok_and(stays) {
        // What had the name had its own locks in it.
        asked.locks.forget(&replaced, |at| *at != ends.to);
    }
    Ok(answered(failures, status(&ends)))
}
