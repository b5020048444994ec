//! What a daemon does with a request to a slot: it has its place in the disk's order when [`begin`] returns, and
//! is answered when what that answers is done. Decides nothing itself.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::awake;
use proto::convert::payload_from_wire;
use proto::guard::caught_in;
use proto::link::request::{Reply, Request};
use proto::part_store::PartError;
use tokio::sync::OwnedSemaphorePermit;

use crate::disk::Disk;
use crate::shared::queue::{Ask, To};

/// Longest that a request waits for its disk: whoever sent it has given it up long before.
const ANSWER: Duration = Duration::from_secs(5);

/// A reply and its payload.
pub(crate) type Answer = Result<(Reply, Bytes), PartError>;

type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Begins what is asked of a slot of the disk. `room` is the request's share of the daemon's memory; what
/// enters the queue holds it for as long as it is there.
pub(crate) fn begin(
    disk: Arc<Disk>,
    to: To,
    request: Request,
    payload: Bytes,
    room: Option<OwnedSemaphorePermit>,
) -> Answering {
    let begun = match request {
        Request::Get { key, range } => Ok(boxed(async move {
            let (data, checks) = disk.get(to, key, range).await?.into_parts();
            Ok((Reply::Got(checks), data))
        })),
        Request::Put { key, checks, issuer } => payload_from_wire(key, payload, checks)
            .and_then(|data| changes(&disk, to, Ask::Put(key, data, issuer), room)),
        Request::Delete(blobs, issuer) if !blobs.is_empty() => {
            changes(&disk, to, Ask::Delete(blobs, issuer), room)
        }
        Request::Forget(blobs, issuer) if !blobs.is_empty() => {
            changes(&disk, to, Ask::Forget(blobs, issuer), room)
        }
        Request::Delete(..) | Request::Forget(..) => changes(&disk, to, Ask::Turn, room),
        Request::DropPart(key, issuer) => changes(&disk, to, Ask::DropPart(key, issuer), room),
        Request::Rebuilt(volume, issuer) => changes(&disk, to, Ask::Rebuilt(volume, issuer), room),
        Request::Serve => changes(&disk, to, Ask::Serve, room),
        Request::Fence(volume, issuer) => changes(&disk, to, Ask::Fence(volume, issuer), room),
        Request::Promised(volume) => push(&disk, to, Ask::Turn, room).map(|turn| {
            boxed(async move {
                turn.await?;
                Ok((Reply::Promised(disk.promised(to.slot, volume)?), Bytes::new()))
            })
        }),
        Request::Beat(volume, issuer, beat) => {
            let heard = disk.beat(to, volume, issuer, beat);
            Ok(boxed(std::future::ready(heard.map(|()| (Reply::Done, Bytes::new())))))
        }
        Request::LastBeat(volume) => {
            let last = disk.last_beat(to, volume);
            Ok(boxed(std::future::ready(last.map(|last| (Reply::LastBeat(last), Bytes::new())))))
        }
        Request::Condition(volume) => {
            let condition = disk.condition(to, volume).map(Reply::Condition);
            Ok(boxed(std::future::ready(condition.map(|reply| (reply, Bytes::new())))))
        }
        Request::Held(blob) => push(&disk, to, Ask::Turn, room).map(|turn| {
            boxed(async move {
                turn.await?;
                Ok((Reply::Held(disk.held(to.slot, blob).await?), Bytes::new()))
            })
        }),
        Request::List { scope, after, limit } => push(&disk, to, Ask::Turn, room).map(|turn| {
            boxed(async move {
                turn.await?;
                Ok((Reply::Page(disk.list(to.slot, scope, after, limit).await?), Bytes::new()))
            })
        }),
    };
    match begun {
        Ok(answering) => boxed(within(answering)),
        Err(why) => boxed(std::future::ready(Err(why))),
    }
}

fn boxed(answering: impl Future<Output = Answer> + Send + 'static) -> Answering {
    Box::pin(answering)
}

/// Has it entered in the disk's order.
fn push(
    disk: &Disk,
    to: To,
    ask: Ask,
    room: Option<OwnedSemaphorePermit>,
) -> Result<impl Future<Output = Result<(), PartError>> + Send + use<>, PartError> {
    disk.push(to, ask, room.expect("what enters a queue has its share of room"))
}

fn changes(
    disk: &Disk,
    to: To,
    ask: Ask,
    room: Option<OwnedSemaphorePermit>,
) -> Result<Answering, PartError> {
    let changed = push(disk, to, ask, room)?;
    Ok(boxed(async move { changed.await.map(|()| (Reply::Done, Bytes::new())) }))
}

/// Bounds the wait for a disk, and answers for a panic. What was asked of it may still be done.
async fn within<T>(work: impl Future<Output = Result<T, PartError>>) -> Result<T, PartError> {
    match awake::timeout(ANSWER, caught_in("a request", work)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panicked)) => Err(PartError::Io(panicked.to_string())),
        Err(_) => Err(PartError::Io(format!("the disk has not answered within {ANSWER:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_gets_an_answer_from_a_request_that_panics_or_hangs() {
        let panics = async { panic!("as a test") };
        let answer = within::<()>(panics).await.unwrap_err().to_string();
        assert!(answer.contains("a request panicked: as a test"), "{answer}");
        let answer = within::<()>(std::future::pending()).await.unwrap_err().to_string();
        assert!(answer.contains("has not answered within 5s"), "{answer}");
        assert_eq!(within(async { Ok(1) }).await, Ok(1));
    }
}
