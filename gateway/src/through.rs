//! Work that is carried through, whoever waits for it or goes away: half a change would be no answer to anybody.

use crate::refusal::{Code, Refusal};

/// Carries it through. `what`: for the log, where it panics.
///
/// # Errors
/// Its own; when it panics.
pub(crate) async fn carried<T: Send + 'static>(
    what: &'static str,
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let broken = |why: String| Refusal::new(Code::Broken, why);
    match tokio::spawn(proto::guard::caught_in(what, work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(panicked)) => Err(broken(panicked.to_string())),
        Err(ended) => Err(broken(ended.to_string())),
    }
}
