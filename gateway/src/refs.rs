//! Refs: whole files, streamed in and out under a name of the client's choice, by `/refs/{ref}`. They are the files of
//! the directory `refs`.
//!
//! A body that breaks off leaves nothing; one that is whole replaces what had the ref before in one step, and is durable
//! when it is answered. Two at once: one after the other, and neither is seen half.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fs::tree::TreePath;
use http::{HeaderValue, StatusCode, header};
use meta::FILE_MAX;
use serde_json::json;

use crate::names::decoded;
use crate::refusal::{Code, Refusal};
use crate::shelf::Shelf;
use crate::who::{Who, logged_in, seen};
use crate::{metrics, transfer};

/// Where they are.
const DIRECTORY: &[u8] = b"refs";

/// All that begins with `/refs/`.
pub(crate) fn routes(who: Arc<Who>) -> Router {
    let methods = get(download).post(upload).put(upload).delete(remove);
    Router::new()
        .route("/refs/{*ref}", methods)
        .layer(from_fn_with_state(who.clone(), logged_in))
        .layer(from_fn(async |request: Request, next: Next| {
            metrics::counted("refs", request, next).await
        }))
        .with_state(who)
}

fn shelf(request: &Request) -> Shelf {
    let directory = TreePath::of_name(DIRECTORY).expect("it is a name");
    Shelf::new(seen(request), directory, Code::NoSuchRef)
}

fn key(request: &Request) -> Vec<u8> {
    decoded(request.uri().path().strip_prefix("/refs/").unwrap_or_default())
}

async fn download(State(who): State<Arc<Who>>, request: Request) -> Result<Response, Refusal> {
    let file = shelf(&request).open(&key(&request)).await?;
    Ok(transfer::send(request.headers(), file, who.sending()))
}

async fn upload(request: Request) -> Result<Response, Refusal> {
    let (shelf, key) = (shelf(&request), key(&request));
    let (head, mut body) = request.into_parts();
    let stored = shelf.store(&key, (&head.headers, &mut body), FILE_MAX).await;
    let attr = transfer::settled(stored, &head.headers, body).await?;
    let said = format!("{}\n", json!({ "size": attr.size }));
    let mut response = (StatusCode::CREATED, said).into_response();
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    transfer::describe(&mut response, &attr);
    Ok(response)
}

async fn remove(request: Request) -> Result<StatusCode, Refusal> {
    shelf(&request).remove(&key(&request), request.headers()).await?;
    Ok(StatusCode::NO_CONTENT)
}
