//! Work that is carried through, whoever waits for it or goes away: half a change would be no answer to anybody.

use tokio::sync::Semaphore;

use crate::refusal::{Code, Refusal};

/// So many changes are carried through at once; others wait for their turn as long as their connections do.
static TURNS: Semaphore = Semaphore::const_new(64);

/// Carries it through. `what`: for the log, where it panics.
///
/// # Errors
/// Its own; when it panics.
pub(crate) async fn carried<T: Send + 'static, E: From<Refusal> + Send + 'static>(
    what: &'static str,
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E> {
    let broken = |why: String| Refusal::new(Code::Broken, why).into();
    match tokio::spawn(proto::guard::caught_in(what, work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(panicked)) => Err(broken(panicked.to_string())),
        Err(ended) => Err(broken(ended.to_string())),
    }
}

/// The same, in its turn: for changes, which may go on for long after whoever wanted them has gone.
///
/// # Errors
/// As [`carried`].
pub(crate) fn in_turn<T: Send + 'static>(
    what: &'static str,
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> impl Future<Output = Result<T, Refusal>> {
    // It may be large, and whoever waits for it is not to be.
    let work = Box::pin(work);
    async move {
        let turn = TURNS.acquire().await.map_err(|e| Refusal::new(Code::Broken, e.to_string()))?;
        let work = async move {
            let _turn = turn;
            work.await
        };
        carried(what, work).await
    }
}
