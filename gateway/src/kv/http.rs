//! Key-value by HTTP: `/kv/{db}/{key}` with GET, PUT and DELETE; `/kv/{db}?after=&limit=` lists keys.
//!
//! Everything behind the database's number and a slash is the key, percent-decoded: any bytes. A list is JSON, in which
//! keys are text; where one is none, or with `encoding=base64`, all of them, and `next`, are in base64.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;

use super::text::{Encoding, Keys};
use super::{Database, KEYS, KEYS_MAX, VALUE_MAX};
use crate::names::decoded;
use crate::refusal::{Code, Refusal};
use crate::who::{Who, logged_in, seen};
use crate::{guard, metrics, transfer};

/// All that begins with `/kv/`.
pub(crate) fn routes(who: Arc<Who>) -> Router {
    Router::new()
        .route("/kv/{db}/{*key}", get(read).put(put).post(put).delete(remove))
        .route("/kv/{db}", get(list))
        .layer(from_fn_with_state(who.clone(), logged_in))
        .layer(from_fn(guard::not_from_elsewhere))
        .layer(from_fn(async |request: Request, next: Next| {
            metrics::counted("kv", request, next).await
        }))
        .with_state(who)
}

/// The database of an address, and the key in it.
fn place(request: &Request) -> Result<(Database, Vec<u8>), Refusal> {
    let path = request.uri().path().strip_prefix("/kv/").unwrap_or_default();
    let (number, key) = path.split_once('/').unwrap_or((path, ""));
    Ok((Database::of(seen(request), database(number)?), decoded(key)))
}

/// The number of a database, as it is written.
pub(super) fn database(text: &str) -> Result<u32, Refusal> {
    let number = text.parse().ok().filter(|number: &u32| number.to_string() == text);
    let why = || format!("{text:?} is no number of a database (0 to {})", u32::MAX);
    number.ok_or_else(|| Refusal::new(Code::BadRequest, why()))
}

async fn read(State(who): State<Arc<Who>>, request: Request) -> Result<Response, Refusal> {
    let (database, key) = place(&request)?;
    let file = database.open(&key).await?;
    Ok(transfer::send(request.headers(), file, who.sending()))
}

async fn put(request: Request) -> Result<Response, Refusal> {
    let (database, key) = place(&request)?;
    let (head, mut body) = request.into_parts();
    let stored = database.shelf.store(&key, (&head.headers, &mut body), VALUE_MAX).await;
    let attr = transfer::settled(stored, &head.headers, body).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    transfer::describe(&mut response, &attr);
    Ok(response)
}

async fn remove(request: Request) -> Result<StatusCode, Refusal> {
    let (database, key) = place(&request)?;
    database.delete(&key, request.headers()).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    pub(super) after: String,
    limit: Option<usize>,
    #[serde(default)]
    pub(super) encoding: Encoding,
    /// It was looked at already.
    #[serde(rename = "link")]
    _link: Option<String>,
}

async fn list(request: Request) -> Result<Response, Refusal> {
    let bad = |why: String| Refusal::new(Code::BadRequest, why);
    let Query(Asked { after, limit, encoding, .. }) =
        Query::try_from_uri(request.uri()).map_err(|e| bad(e.body_text()))?;
    let (database, _) = place(&request)?;
    let after = encoding.read(&after).map_err(bad)?;
    let limit = limit.unwrap_or(KEYS).clamp(1, KEYS_MAX);
    let page = database.keys(&after, limit).await?;
    let mut response = format!("{}\n", Keys::of(&page, encoding).json()).into_response();
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_have_plain_numbers() {
        assert_eq!(database("0").ok(), Some(0));
        assert_eq!(database("4294967295").ok(), Some(u32::MAX));
        for text in ["", "-1", "+1", "01", "1.0", "4294967296", "a", "0x1", " 1", "%30"] {
            assert_eq!(database(text).unwrap_err().code, Code::BadRequest, "{text}");
        }
    }
}
