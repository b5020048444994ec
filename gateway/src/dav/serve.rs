//! Which request is answered by what.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, options};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::asked::Asked;
use super::door::Door;
use super::{content, find, locking, patch, trees, xml};
use crate::refusal::{Code, Refusal};
use crate::through::in_turn;
use crate::who::{Who, logged_in};
use crate::{metrics, transfer};

/// All that can be asked for.
const METHODS: &str =
    "OPTIONS, GET, HEAD, PUT, DELETE, PROPFIND, PROPPATCH, MKCOL, COPY, MOVE, LOCK, UNLOCK";

/// All that begins with `/dav/`.
pub(crate) fn routes(who: Arc<Who>) -> Router {
    Router::new()
        .route("/dav", any(answer))
        .route("/dav/", any(answer))
        .route("/dav/{*path}", any(answer))
        .layer(from_fn_with_state(who.clone(), logged_in))
        // What clients of Windows ask before anything else.
        .route("/", options(async || can_do()))
        .layer(from_fn(async |request: Request, next: Next| {
            metrics::counted("dav", request, next).await
        }))
        .with_state(Arc::new(Door::new(who)))
}

async fn answer(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answered = match parts.method.as_str() {
        "OPTIONS" => Ok(can_do()),
        "PUT" => put(&door, &parts, body).await,
        _ => other(&door, &parts, body).await,
    };
    answered.unwrap_or_else(|refusal| {
        let mut response = refusal.into_response();
        if refusal_is_of_method(&response) {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
        }
        response
    })
}

fn refusal_is_of_method(response: &Response) -> bool {
    response.status() == StatusCode::METHOD_NOT_ALLOWED
}

/// What this door can do.
fn can_do() -> Response {
    let mut response = StatusCode::OK.into_response();
    let said = [
        (HeaderName::from_static("dav"), "1, 2"),
        (header::ALLOW, METHODS),
        (HeaderName::from_static("ms-author-via"), "DAV"),
        (header::CONTENT_LENGTH, "0"),
    ];
    for (name, value) in said {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn put(door: &Arc<Door>, parts: &Parts, mut body: Body) -> Result<Response, Refusal> {
    let stored = match Asked::of(door, parts).await {
        Ok(asked) => content::put(&asked, &mut body).await,
        Err(refusal) => Err(refusal),
    };
    transfer::settled(stored, &parts.headers, body).await
}

async fn other(door: &Arc<Door>, parts: &Parts, mut body: Body) -> Result<Response, Refusal> {
    let known = METHODS.split(", ").any(|method| method == parts.method.as_str());
    let read = match known {
        true => transfer::small(&parts.headers, &mut body, xml::BODY).await,
        false => Err(Refusal::new(Code::WrongMethod, "this cannot be done by WebDAV")),
    };
    let body = transfer::settled(read, &parts.headers, body).await?;
    let asked = Asked::of(door, parts).await?;
    let method = parts.method.clone();
    in_turn("a request by WebDAV", async move { carried_out(&asked, method.as_str(), &body).await })
        .await
}

async fn carried_out(asked: &Asked, method: &str, body: &[u8]) -> Result<Response, Refusal> {
    match method {
        "PROPFIND" => find::find(asked, body).await,
        "PROPPATCH" => patch::patch(asked, body).await,
        "MKCOL" => content::make_folder(asked, body).await,
        "DELETE" => trees::delete(asked).await,
        "COPY" => trees::copy(asked).await,
        "MOVE" => trees::move_to(asked).await,
        "LOCK" => locking::lock(asked, body).await,
        "UNLOCK" => locking::unlock(asked),
        _ => content::get(asked).await,
    }
}
