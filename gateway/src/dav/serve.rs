//! Which request is answered by what.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;

use super::asked::Asked;
use super::door::Door;
use super::{content, find, locking, patch, trees, xml};
use crate::refusal::{Code, Refusal};
use crate::who::{Who, logged_in};
use crate::{guard, metrics, transfer};

/// How long a client may send nothing of a body of XML.
const STALLED: Duration = Duration::from_secs(30);

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
        .route("/", any(root))
        .layer(from_fn(async |request: Request, next: Next| {
            metrics::counted("dav", request, next).await
        }))
        .with_state(Arc::new(Door::new(who)))
}

async fn root(method: Method) -> Response {
    match method {
        Method::OPTIONS => options(),
        _ => guard::missing().await.into_response(),
    }
}

async fn answer(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answered = match parts.method.as_str() {
        "OPTIONS" => Ok(options()),
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
fn options() -> Response {
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
        true => read(&parts.headers, &mut body).await,
        false => Err(Refusal::new(Code::WrongMethod, "this cannot be done by WebDAV")),
    };
    let body = transfer::settled(read, &parts.headers, body).await?;
    let asked = Asked::of(door, parts).await?;
    let method = parts.method.clone();
    // Whoever waits for it or goes away: half a change would be no answer to anybody.
    let done = tokio::spawn(proto::guard::caught_in("a request by WebDAV", async move {
        carried_out(&asked, method.as_str(), &body).await
    }));
    let broken = |why: String| Refusal::new(Code::Broken, why);
    match done.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panicked)) => Err(broken(panicked.to_string())),
        Err(ended) => Err(broken(ended.to_string())),
    }
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

/// All of a small body.
async fn read(headers: &HeaderMap, body: &mut Body) -> Result<Vec<u8>, Refusal> {
    let too_long = || {
        let why = format!("a body of more than {} bytes, where XML belongs", xml::BODY);
        Refusal::new(Code::TooLarge, why)
    };
    let said =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if said.is_some_and(|len: usize| len > xml::BODY) {
        return Err(too_long());
    }
    let mut whole = Vec::new();
    loop {
        let frame = match tokio::time::timeout(STALLED, body.frame()).await {
            Ok(None) => return Ok(whole),
            Ok(Some(frame)) => frame
                .map_err(|e| Refusal::new(Code::BadRequest, format!("the body broke off: {e}")))?,
            Err(_) => {
                let why = format!("nothing more of the body came for {} s", STALLED.as_secs());
                return Err(Refusal::new(Code::TooSlow, why));
            }
        };
        let Ok(bytes) = frame.into_data() else { continue };
        if whole.len() + bytes.len() > xml::BODY {
            return Err(too_long());
        }
        whole.extend_from_slice(&bytes);
    }
}
