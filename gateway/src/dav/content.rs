//! Files out and in, and folders made.
//!
//! What is put comes in under no name, and takes its name in one step once it is whole and durable; it has the permissions
//! and properties of the file that it replaces, and its owner where the door may give files away.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use meta::{Attr, FILE_MAX, Kind, Replaces};

use super::asked::Asked;
use super::headers::is_part;
use super::locks::Reach;
use crate::place::{named, no_folder, refused, replaced, takes_after};
use crate::refusal::{Code, Refusal};
use crate::{conditions, transfer};

/// A folder gets or loses a name.
const NAMED: Reach = Reach { below: false, folder: true };

/// GET and HEAD of a file.
pub(super) async fn get(asked: &Asked) -> Result<Response, Refusal> {
    let attr = asked.view.stat(&asked.at.path).await.map_err(|e| refused(&e))?;
    if attr.kind == Kind::Directory {
        return Err(Refusal::new(Code::WrongMethod, "this is a folder: PROPFIND lists it"));
    }
    let file = asked.view.open(&asked.at.path).await.map_err(|e| refused(&e))?;
    Ok(transfer::send(&asked.headers, file, asked.door.who.sending()))
}

/// PUT: all of the body, in its place.
///
/// # Errors
/// Whatever is wrong; nothing has changed then.
pub(super) async fn put(asked: &Asked, body: &mut Body) -> Result<Response, Refusal> {
    let path = &asked.at.path;
    if asked.at.slash {
        return Err(Refusal::new(Code::WrongMethod, "an address of a folder: MKCOL makes one"));
    }
    if is_part(&asked.headers) {
        let why = "a part of a file (Content-Range) cannot be put, only the whole";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    allowed(asked).await?;
    let mut upload = asked.view.upload(path).await.map_err(|e| no_folder(&e))?;
    transfer::receive(&asked.headers, body, &mut upload, FILE_MAX).await?;
    // What is there, or locked, may have changed since; and again, as others put something there, too.
    let mut looks = 0;
    let (before, replaces) = loop {
        let (before, replaces) = allowed(asked).await?;
        if takes_after(&upload, before.as_ref(), &mut looks).await? {
            break (before, replaces);
        }
    };
    let attr = upload.finish(replaces).await.map_err(|e| conditions::refused(&e, replaces))?;
    let status = if before.is_some() { StatusCode::NO_CONTENT } else { StatusCode::CREATED };
    let mut response = status.into_response();
    transfer::describe(&mut response, &attr);
    Ok(response)
}

/// What a PUT would replace, which it may, and what it may replace at its end.
async fn allowed(asked: &Asked) -> Result<(Option<Attr>, Replaces), Refusal> {
    let path = &asked.at.path;
    let (before, replaces) = replaced(&asked.view, path, &asked.headers, Code::WrongMethod).await?;
    let reach = if before.is_some() { Reach::default() } else { NAMED };
    asked.unlocked(path, reach)?;
    Ok((before, replaces))
}

/// MKCOL: an empty folder.
pub(super) async fn make_folder(asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    if !body.is_empty() {
        let why = "a folder is made without any body";
        return Err(Refusal::new(Code::Unsupported, why));
    }
    let path = &asked.at.path;
    let exists = || Refusal::new(Code::WrongMethod, "something has this name already");
    if named(&asked.view, path).await?.is_some() {
        return Err(exists());
    }
    asked.unlocked(path, NAMED)?;
    let made = asked.view.make_directory(path).await;
    made.map_err(|e| if e.is_there_already() { exists() } else { no_folder(&e) })?;
    let mut response = StatusCode::CREATED.into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    Ok(response)
}
