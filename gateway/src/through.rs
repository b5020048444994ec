//! Work that is carried through, whoever waits for it or goes away: half a change would be no answer to anybody. And work that
//! tells what it finds while it goes on, as long as somebody listens.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use bytes::Bytes;
use proto::guard::caught_in;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Sender, channel};

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
    match tokio::spawn(caught_in(what, work)).await {
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

/// Why an answer breaks off: nobody takes it for whole.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BrokenOff(pub(crate) String);

/// A body that work tells piece by piece, no faster than it is taken. It ends with the work, and breaks off where that fails, or
/// panics.
pub(crate) fn told<F>(what: &'static str, work: impl FnOnce(Sender<Bytes>) -> F) -> Body
where
    F: Future<Output = Result<(), BrokenOff>> + Send + 'static,
{
    let (teller, told) = channel(1);
    let (open, work) = (teller.clone(), work(teller));
    let broken = Arc::new(OnceLock::new());
    let why = broken.clone();
    tokio::spawn(async move {
        let done = caught_in(what, work).await.unwrap_or_else(|e| Err(BrokenOff(e.to_string())));
        if let Err(failed) = done {
            why.get_or_init(|| failed);
        }
        // Its end is not seen before it is known which one it is.
        drop(open);
    });
    let pieces = futures::stream::unfold(Some(told), move |told| {
        let broken = broken.clone();
        async move {
            let mut told = told?;
            match told.recv().await {
                Some(piece) => Some((Ok(piece), Some(told))),
                None => broken.get().cloned().map(|why| (Err(why), None)),
            }
        }
    });
    Body::from_stream(pieces)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn piece(body: &mut Body) -> Option<Result<Bytes, ()>> {
        let frame = body.frame().await?;
        Some(frame.map_err(|_| ()).and_then(|frame| frame.into_data().map_err(|_| ())))
    }

    #[tokio::test]
    async fn what_fails_or_panics_breaks_off_and_what_ends_ends() {
        for (word, breaks) in [("ends", false), ("fails", true), ("panics", true)] {
            let mut body = told("a test", move |teller| async move {
                teller.send("one".into()).await.unwrap();
                assert!(word != "panics", "on purpose");
                if word == "fails" { Err(BrokenOff(word.to_owned())) } else { Ok(()) }
            });
            assert_eq!(piece(&mut body).await, Some(Ok("one".into())));
            assert_eq!(piece(&mut body).await, breaks.then_some(Err(())), "{word}");
        }
    }
}
