//! Seeing what a program does: logs to stderr, alike in every binary; for metrics see
//! [`crate::metrics_server`].

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

use crate::listen::Listen;
use crate::log_file::Stderr;

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
    /// Metrics cannot be counted.
    #[error("counting metrics: {why}")]
    Count {
        /// Why not.
        why: String,
    },
    /// The metrics address cannot be listened on.
    #[error("metrics on {address}: {why}")]
    Metrics {
        /// Where.
        address: Listen,
        /// Why not.
        why: String,
    },
}

/// What was asked for; without that RUST_LOG, without that what the command says.
struct Wanted<'a> {
    filter: Option<&'a str>,
    default: &'a str,
    quiet: Option<&'a str>,
}

impl Wanted<'_> {
    fn parse(&self) -> Result<EnvFilter, ObserveError> {
        let from_env = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
        let filter = self.filter.or(from_env.as_deref()).unwrap_or(self.default);
        let parsed = EnvFilter::try_new(filter)
            .map_err(|e| ObserveError::Filter { filter: filter.to_owned(), why: e.to_string() })?;
        let library = self.quiet.and_then(|target| target.split("::").next()).unwrap_or_default();
        Ok(match self.quiet.filter(|_| !filter.contains(library)) {
            Some(target) => {
                let off = format!("{target}=off").parse().expect("a target is a directive");
                parsed.add_directive(off)
            }
            None => parsed,
        })
    }
}

type Change = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// How the filter of this process is changed, once it has one.
static CHANGE: OnceLock<Change> = OnceLock::new();

/// Logs go to stderr. The level is `filter`, else RUST_LOG, else `default`; with nothing from the
/// target `quiet` unless the filter names its library.
pub fn init_logs(
    filter: Option<&str>,
    default: &str,
    quiet: Option<&str>,
) -> Result<(), ObserveError> {
    let parsed = Wanted { filter, default, quiet }.parse()?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(|| Stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // Or it would tell stderr that stderr is closed, and panic.
        .log_internal_errors(false)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    // A second subscriber in one process (the embedded mode) is the first one.
    if builder.try_init().is_ok() {
        let change = move |filter| handle.reload(filter).expect("the subscriber is there for ever");
        CHANGE.get_or_init(|| Box::new(change));
    }
    Ok(())
}

/// Logs by another filter from now on, chosen as [`init_logs`] does.
pub fn change_filter(
    filter: Option<&str>,
    default: &str,
    quiet: Option<&str>,
) -> Result<(), ObserveError> {
    let parsed = Wanted { filter, default, quiet }.parse()?;
    if let Some(change) = CHANGE.get() {
        change(parsed);
    }
    Ok(())
}
