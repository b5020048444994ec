//! A check of the whole volume, which goes on after it was asked for: one at a time, with how far it is and what the last one found.

use std::sync::Arc;

use axum::response::Response;
use fs::filesystem::Filesystem;
use fs::mount::tasks::{self, Wish};
use http::StatusCode;
use parking_lot::Mutex;
use proto::guard::caught_in;
use serde::Serialize;
use serde_json::Value;

use super::asked::json;
use crate::refusal::{Code, Refusal};
use crate::server::Server;

/// The last one.
#[derive(Default)]
pub(super) struct Check(Mutex<State>);

/// How it is with it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
enum State {
    /// There was none since this process began.
    #[default]
    Never,
    /// It goes on: so many blobs of so many are looked at.
    Running { blobs: u64, of: u64 },
    /// It has ended.
    Done {
        #[serde(flatten)]
        found: Value,
    },
    /// It could not look.
    Failed { message: String },
}

impl State {
    /// Another one begins.
    fn begin(&mut self) -> Result<(), Refusal> {
        if let Self::Running { .. } = self {
            let why = "a check is under way: GET /api/v1/admin/check says how far it is";
            return Err(Refusal::new(Code::Conflict, why));
        }
        *self = Self::Running { blobs: 0, of: 0 };
        Ok(())
    }
}

impl Check {
    /// GET /admin/check.
    pub(super) fn told(&self) -> Result<Response, Refusal> {
        json(StatusCode::OK, &*self.0.lock())
    }

    /// POST /admin/check. It ends with the server.
    pub(super) fn begin(
        self: &Arc<Self>,
        filesystem: Arc<Filesystem>,
        wish: Wish,
        server: &Server,
    ) -> Result<Response, Refusal> {
        self.0.lock().begin()?;
        let (check, stop) = (self.clone(), server.stop.clone());
        let checking = async move {
            let told = |blobs, of| *check.0.lock() = State::Running { blobs, of };
            let looking = Box::pin(tasks::check(&filesystem, wish, &told));
            let found = caught_in("checking the volume", looking).await;
            *check.0.lock() = match found {
                Ok(Ok(found)) => State::Done { found },
                Ok(Err(message)) => State::Failed { message },
                Err(panicked) => State::Failed { message: panicked.to_string() },
            };
        };
        server.tasks.spawn(async move { stop.run_until_cancelled(checking).await });
        json(StatusCode::ACCEPTED, &*self.0.lock())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn there_is_one_at_a_time_and_what_it_found_is_told_until_the_next() {
        let told = |state: &State| serde_json::to_value(state).unwrap();
        let mut state = State::default();
        assert_eq!(told(&state), json!({ "state": "never" }));
        assert_eq!(state.begin(), Ok(()));
        assert_eq!(told(&state), json!({ "state": "running", "blobs": 0, "of": 0 }));
        assert_eq!(state.begin().map_err(|refusal| refusal.code), Err(Code::Conflict));
        state = State::Done { found: json!({ "in_order": true, "found": { "blobs": 3 } }) };
        let done = json!({ "state": "done", "in_order": true, "found": { "blobs": 3 } });
        assert_eq!(told(&state), done);
        assert_eq!(state.begin(), Ok(()));
    }
}
