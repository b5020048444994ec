//! Whether the process is alive and of use, and what it counts: `/healthz`, `/readyz`, `/metrics`. They are for everybody,
//! but the last, for which whoever comes from elsewhere than this machine has to log in.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fs::filesystem::Filesystem;
use http::{HeaderName, StatusCode, header};
use proto::metrics_server::Metrics;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::guard::for_this_machine;
use crate::server::peer;
use crate::who::{Who, logged_in_from_elsewhere};

const TEXT: (HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
const PROMETHEUS: (HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; version=0.0.4");

pub(crate) fn routes(filesystem: Arc<Filesystem>, who: Arc<Who>, counted: Metrics) -> Router {
    let metrics = get(async move || ([PROMETHEUS], counted.render()));
    let metrics = metrics.layer(from_fn_with_state(who, logged_in_from_elsewhere));
    Router::new()
        .route("/healthz", get(async || ([TEXT], "alive\n")))
        .route("/metrics", metrics)
        .route("/readyz", get(ready).with_state(Arc::new(Looks::at(filesystem))))
        .layer(from_fn(for_this_machine))
}

/// How long it is remembered how it is.
const FRESH: Duration = Duration::from_secs(1);
/// So many wait for one look.
const WAITING: usize = 16;

/// Looks at whether the volume is of use: one at a time, whoever asks and however many do.
struct Looks {
    filesystem: Arc<Filesystem>,
    waiting: Semaphore,
    /// When, and why it was not ready, if so.
    last: Mutex<Option<(Instant, Option<String>)>>,
}

impl Looks {
    fn at(filesystem: Arc<Filesystem>) -> Self {
        Self { filesystem, waiting: Semaphore::new(WAITING), last: Mutex::default() }
    }

    /// Why it is not ready, if it is not.
    async fn why_not(&self) -> Option<String> {
        let Ok(_waits) = self.waiting.try_acquire() else {
            return Some("others wait to know it already".to_owned());
        };
        recent(&self.last, || self.filesystem.why_not_ready()).await
    }
}

/// What was found a moment ago, or is now.
async fn recent<T: Clone, F: Future<Output = T>>(
    last: &Mutex<Option<(Instant, T)>>,
    look: impl FnOnce() -> F,
) -> T {
    let mut last = last.lock().await;
    if let Some((at, found)) = &*last
        && at.elapsed() < FRESH
    {
        return found.clone();
    }
    let found = look().await;
    *last = Some((Instant::now(), found.clone()));
    found
}

/// Ready: everything that is stored can be read, and more can be stored.
async fn ready(State(looks): State<Arc<Looks>>, request: Request) -> Response {
    let why = match looks.why_not().await {
        None => return ([TEXT], "ready\n").into_response(),
        // What disks and machines there are is nothing for everybody.
        Some(_) if !peer(&request).within => "not ready".to_owned(),
        Some(why) => why,
    };
    (StatusCode::SERVICE_UNAVAILABLE, [TEXT], why + "\n").into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_there_is_one_look_a_second() {
        let (last, looks) = (Mutex::default(), AtomicU32::new(0));
        let ask = || {
            recent(&last, || async {
                tokio::time::sleep(FRESH * 3).await;
                looks.fetch_add(1, Ordering::Relaxed)
            })
        };
        let all = futures::future::join_all((0..100).map(|_| ask())).await;
        assert!(all.into_iter().all(|found| found == 0), "they are told what one has found");
        tokio::time::advance(FRESH).await;
        assert_eq!(ask().await, 1);
    }
}
