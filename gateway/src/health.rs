//! Whether the process is alive and of use, and what it counts: `/healthz`, `/readyz`, `/metrics`. They are for everybody,
//! but the last, for which whoever comes from elsewhere than this machine has to log in.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fs::filesystem::Filesystem;
use http::{HeaderName, StatusCode, header};
use proto::metrics_server::Metrics;

use crate::guard::for_this_machine;
use crate::who::{Who, logged_in_from_elsewhere};

const TEXT: (HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
const PROMETHEUS: (HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; version=0.0.4");

pub(crate) fn routes(filesystem: Arc<Filesystem>, who: Arc<Who>, counted: Metrics) -> Router {
    let metrics = get(async move || ([PROMETHEUS], counted.render()));
    let metrics = metrics.layer(from_fn_with_state(who, logged_in_from_elsewhere));
    Router::new()
        .route("/healthz", get(async || ([TEXT], "alive\n")))
        .route("/metrics", metrics)
        .route("/readyz", get(ready).with_state(filesystem))
        .layer(from_fn(for_this_machine))
}

/// Ready: everything that is stored can be read, and more can be stored.
async fn ready(State(filesystem): State<Arc<Filesystem>>) -> Response {
    match filesystem.why_not_ready().await {
        None => ([TEXT], "ready\n").into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, [TEXT], format!("{why}\n")).into_response(),
    }
}
