//! Doors: ways in to a volume's tree beside the kernel's. Each is an adapter over [`fs::tree`], as FUSE is one over the
//! filesystem; none has data of its own, so what comes in by one is seen by all.
//!
//! * `server`: listeners, connections and their bounds (`patient`); `tls`: that nobody listens; `guard`: whom a browser is
//!   not let in for; `who`: which user whoever comes in stands for.
//! * `page`: `/`, for people. `api`: `/api/v1/`, for it and for programs.
//! * `dav`: `/dav/`, the whole tree by WebDAV. `refs`: `/refs/{ref}`, whole files by HTTP. `kv`: numbered databases of keys and values, by HTTP and as lines of
//!   JSON. `s3`: buckets and objects. `health`: `/metrics`, `/healthz`, `/readyz`.
//! * What they share: `names` (of keys, as files), `shelf` (files by their keys), `transfer` (bodies in and out), `conditions`, `refusal` (what clients
//!   are told that goes wrong), `faults`, `metrics`; `address`, `place` and `trees`: paths, what is there, and folders with all in them.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

use std::pin::Pin;
use std::sync::Arc;

use fs::doors::{DoorError, OpenDoors, Opening, Tls};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod address;
mod api;
mod conditions;
mod dav;
#[cfg(any(test, feature = "decoders"))]
pub mod decoders;
mod faults;
mod guard;
mod health;
mod kv;
mod metrics;
mod names;
mod page;
mod patient;
mod place;
mod refs;
mod refusal;
mod s3;
#[cfg(any(test, feature = "decoders"))]
mod samples;
mod server;
mod shelf;
mod through;
mod tls;
mod transfer;
mod trees;
mod who;

use server::Server;
use tls::Certificate;
use who::Who;

/// Opens the doors of a volume.
pub fn open(
    opening: Opening,
) -> Pin<Box<dyn Future<Output = Result<OpenDoors, DoorError>> + Send>> {
    Box::pin(open_all(opening))
}

async fn open_all(opening: Opening) -> Result<OpenDoors, DoorError> {
    let certificate = certificate(&opening)?;
    let Opening { filesystem, root, http, kv, s3, entry, names, own, .. } = opening;
    metrics::describe();
    let counted = proto::metrics_server::count().map_err(|e| DoorError::Open(e.to_string()))?;
    let who = Arc::new(Who::new(filesystem.clone(), root, entry.no_login));
    let left = trees::tidy::Left::by_others(&filesystem).await;
    let (stop, cut, tasks) =
        (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    let server = Server { stop: stop.clone(), cut: cut.clone(), tasks: tasks.clone() };
    let fingerprint = certificate.as_ref().map(|certificate| certificate.fingerprint());
    if let (Some(certificate), Some(known)) = (&certificate, &fingerprint) {
        tracing::info!("doors have the certificate SHA-256 {known}");
        tasks.spawn(certificate.clone().follow(stop.clone()));
    }
    let speaking = |protocols: &[&str]| {
        let acceptor = certificate.as_ref().map(|certificate| certificate.acceptor(protocols));
        acceptor.transpose().map_err(|e| DoorError::Open(e.to_string()))
    };
    if !filesystem.is_read_only() {
        let (stop, tidying) = (stop.clone(), left.tidy(filesystem.clone()));
        tasks.spawn(async move { stop.run_until_cancelled(tidying).await });
    }
    let doors =
        [http.as_ref().map(|_| "http"), kv.as_ref().map(|_| "kv"), s3.as_ref().map(|_| "s3")];
    let doors = doors.into_iter().flatten().collect();
    let (of_api, counts) = (who.clone(), counted.clone());
    let about = api::About { who: of_api, counted: counts, doors, own, server: &server };
    let api = api::routes(about).map_err(|e| DoorError::Open(e.to_string()))?;
    let (https, kvs) = (speaking(&["http/1.1"])?, speaking(&[])?);
    let objects = s3.map(|listener| {
        let door = Arc::new(s3::Door::new(who.clone(), names, tasks.clone()));
        tasks.spawn(door.clone().tidy(stop.clone()));
        let routes = s3::in_documents(guard::guarded(s3::routes(door)));
        server.serve_http((listener, https.clone()), routes)
    });
    let routes = axum::Router::new()
        .merge(refs::routes(who.clone()))
        .merge(dav::routes(who.clone()))
        .merge(page::routes())
        .merge(api)
        .merge(kv::routes(who.clone()))
        .merge(health::routes(filesystem, who.clone(), counted));
    let http = http.map(|listener| server.serve_http((listener, https), guard::guarded(routes)));
    let lines = Arc::new(kv::Lines::new(who));
    let kv = kv.map(|listener| {
        server.serve((listener, kvs), move |server, stream, (guest, peer)| {
            let lines = lines.clone();
            async move { lines.attend(stream, (&guest, peer), &server.stop).await }
        })
    });
    let failed = |e: std::io::Error| DoorError::Open(e.to_string());
    let (http, kv) = (http.transpose().map_err(failed)?, kv.transpose().map_err(failed)?);
    let s3 = objects.transpose().map_err(failed)?;
    Ok(OpenDoors { http, kv, s3, fingerprint, stop, cut, tasks })
}

/// The certificate of a volume's doors, if they have one.
fn certificate(opening: &Opening) -> Result<Option<Arc<Certificate>>, DoorError> {
    let certificate = match &opening.entry.tls {
        Tls::Within | Tls::Insecure => return Ok(None),
        Tls::Files(cert, key) => Certificate::read(cert.clone(), key.clone()),
        Tls::Own => Certificate::own(&opening.keep, opening.names.clone()),
    };
    certificate.map(Some).map_err(|e| DoorError::Open(e.to_string()))
}
