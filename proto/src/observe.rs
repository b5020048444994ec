//! Seeing what a program does: logs to stderr, alike in every binary; for metrics see
//! [`crate::metrics_server`].

use std::io::IsTerminal;
use std::net::SocketAddr;

use tracing_subscriber::EnvFilter;

/// Why logs or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The log filter is not one.
    #[error("{filter:?} is not a log filter (try info, debug or storaged=debug): {why}")]
    Filter {
        /// What was given.
        filter: String,
        /// The parser's words.
        why: String,
    },
    /// The metrics address cannot be listened on.
    #[error("metrics on {address}: {why}")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why not.
        why: String,
    },
}

/// An error and its causes as one line. Some errors say their cause themselves: not twice.
pub fn sentence(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Logs go to stderr. The level is `filter`, else RUST_LOG, else `info`.
pub fn init_logs(filter: Option<&str>) -> Result<(), ObserveError> {
    init_logs_without(filter, None)
}

/// The same, with nothing from `target` unless the filter names its library.
pub fn init_logs_without(filter: Option<&str>, target: Option<&str>) -> Result<(), ObserveError> {
    let from_env = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let filter = filter.or(from_env.as_deref()).unwrap_or("info");
    let mut parsed = EnvFilter::try_new(filter)
        .map_err(|e| ObserveError::Filter { filter: filter.to_owned(), why: e.to_string() })?;
    let library = target.and_then(|target| target.split("::").next()).unwrap_or_default();
    if let Some(target) = target.filter(|_| !filter.contains(library)) {
        let off = format!("{target}=off").parse().expect("a target is a directive");
        parsed = parsed.add_directive(off);
    }
    // A second subscriber in one process (the embedded mode) is the first one.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    Ok(())
}
