//! Doors: ways in to a volume's tree beside the kernel's. Each is an adapter over [`fs::tree`], as FUSE is one over the
//! filesystem; none has data of its own, so what comes in by one is seen by all.
//!
//! * `server`: listeners, connections and their bounds; `guard`: whom a browser is not let in for; `who`: which user
//!   whoever comes in stands for.
//! * `dav`: `/dav/`, the whole tree by WebDAV. `refs`: `/refs/{ref}`, whole files by HTTP. `kv`: numbered databases of keys and values, by HTTP and as lines of
//!   JSON. `health`: `/metrics`, `/healthz`, `/readyz`.
//! * What they share: `names` (of keys, as files), `shelf` (files by their keys), `transfer` (bodies in and out), `conditions`, `refusal` (what clients
//!   are told that goes wrong), `metrics`.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

use std::pin::Pin;
use std::sync::Arc;

use fs::doors::{DoorError, OpenDoors, Opening};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod conditions;
mod dav;
mod guard;
mod health;
mod kv;
mod metrics;
mod names;
mod refs;
mod refusal;
mod server;
mod shelf;
mod transfer;
mod who;

use server::Server;
use who::Who;

/// Opens the doors of a volume.
pub fn open(
    opening: Opening,
) -> Pin<Box<dyn Future<Output = Result<OpenDoors, DoorError>> + Send>> {
    Box::pin(open_all(opening))
}

async fn open_all(opening: Opening) -> Result<OpenDoors, DoorError> {
    let Opening { filesystem, root, http, kv } = opening;
    metrics::describe();
    let counted = proto::metrics_server::count().map_err(|e| DoorError::Open(e.to_string()))?;
    let who = Arc::new(Who::new(filesystem.clone(), root));
    let (stop, cut, tasks) =
        (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    let server = Server { stop: stop.clone(), cut: cut.clone(), tasks: tasks.clone() };
    let routes = axum::Router::new()
        .merge(refs::routes(who.clone()))
        .merge(dav::routes(who.clone()))
        .merge(kv::routes(who.clone()))
        .merge(health::routes(filesystem, counted));
    let http = http.map(|listener| server.serve_http(listener, guard::guarded(routes)));
    let lines = Arc::new(kv::Lines::new(who));
    let kv = kv.map(|listener| {
        server.serve(listener, move |server, stream, guest| {
            let lines = lines.clone();
            async move { lines.attend(stream, &guest, &server.stop).await }
        })
    });
    let failed = |e: std::io::Error| DoorError::Open(e.to_string());
    let (http, kv) = (http.transpose().map_err(failed)?, kv.transpose().map_err(failed)?);
    Ok(OpenDoors { http, kv, stop, cut, tasks })
}
