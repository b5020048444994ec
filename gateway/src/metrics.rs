//! What doors count. All names start with `ashlar_door_`; served at `/metrics`, and by `--metrics ADDRESS`.

use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use metrics::{counter, gauge, histogram};

use crate::refusal::Code;

proto::metric_names! {
    histogram SECONDS = "ashlar_door_seconds":
        "Seconds from a request at a door to the head of its answer, by door and kind of request";
    counter ERRORS = "ashlar_door_errors_total": "Answers of doors that are an error, by door and code";
    counter RECEIVED = "ashlar_door_received_bytes_total": "Bytes of content that came in by a door";
    counter SENT = "ashlar_door_sent_bytes_total": "Bytes of content that went out by a door";
    gauge CONNECTIONS = "ashlar_door_connections": "Connections to doors";
}

/// A connection, as long as it lasts.
pub(crate) struct Connected;

impl Connected {
    /// One more.
    pub(crate) fn new() -> Self {
        gauge!(CONNECTIONS).increment(1.0);
        Self
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        gauge!(CONNECTIONS).decrement(1.0);
    }
}

/// A request was answered, by this door.
pub(crate) fn answered(door: &'static str, op: &'static str, since: Instant, error: Option<Code>) {
    histogram!(SECONDS, "door" => door, "op" => op).record(since.elapsed());
    if let Some(code) = error {
        counter!(ERRORS, "door" => door, "code" => code.word()).increment(1);
    }
}

/// So many bytes of content came in.
pub(crate) fn received(bytes: usize) {
    counter!(RECEIVED).increment(bytes as u64);
}

/// So many went out.
pub(crate) fn sent(bytes: usize) {
    counter!(SENT).increment(bytes as u64);
}

/// Counts the requests of a door by HTTP.
pub(crate) async fn counted(door: &'static str, request: Request, next: Next) -> Response {
    let since = Instant::now();
    let op = match *request.method() {
        http::Method::GET => "get",
        http::Method::HEAD => "head",
        http::Method::PUT | http::Method::POST => "put",
        http::Method::DELETE => "delete",
        _ => "other",
    };
    let response = next.run(request).await;
    answered(door, op, since, response.extensions().get::<Code>().copied());
    response
}
