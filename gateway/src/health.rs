//! Whether the process is alive and of use, and what it counts: `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fs::filesystem::Filesystem;
use http::{HeaderName, StatusCode, header};
use proto::metrics_server::Metrics;

const TEXT: (HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
const PROMETHEUS: (HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; version=0.0.4");

pub(crate) fn routes(filesystem: Arc<Filesystem>, counted: Metrics) -> Router {
    let metrics = get(async move || ([PROMETHEUS], counted.render()));
    Router::new()
        .route("/healthz", get(async || ([TEXT], "alive\n")))
        .route("/metrics", metrics)
        .route("/readyz", get(ready).with_state(filesystem))
}

/// Ready: everything that is stored can be read, and more can be stored.
async fn ready(State(filesystem): State<Arc<Filesystem>>) -> Response {
    match filesystem.why_not_ready().await {
        None => ([TEXT], "ready\n").into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, [TEXT], format!("{why}\n")).into_response(),
    }
}
