//! Requests of gRPC are taken in whole before anybody works on them, within bounds of number and time.
//!
//! Most arrive in one piece and are passed on as they are. A message that comes in pieces may be as
//! long as its first bytes say, and costs memory while it does: so few of them arrive at once, and each
//! has [`ARRIVAL`] to do so. A stranger who announces much and sends little therefore takes up no more
//! than one of few places, for a short time, and none that small requests need.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::guests::Guest;
use crate::limits::MAX_MESSAGE;
use crate::link::frame::ARRIVAL;

/// In front of each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// A message of up to so many bytes is small.
const SMALL: usize = 64 << 10;
/// Small messages that arrive in pieces at once.
const SMALL_ONES: usize = 256;
/// Large messages that wait for their turn, each with its first piece.
const WAITING: usize = 128;

/// The places, for all connections of a server.
#[derive(Clone)]
pub struct Gather {
    small: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Gather {
    /// So many large messages at once.
    pub fn new(large: usize) -> Self {
        let places = |number| Arc::new(Semaphore::new(number));
        Self { small: places(SMALL_ONES), waiting: places(WAITING), large: places(large) }
    }

    /// The pieces of the one message of a request, and the place that it takes up until it is dropped.
    async fn whole(
        &self,
        mut body: Body,
    ) -> Result<(Vec<Bytes>, Option<OwnedSemaphorePermit>), Status> {
        let Some(first) = piece(&mut body).await? else { return Ok((Vec::new(), None)) };
        let mut have = first.len();
        let mut pieces = vec![first];
        if announced(&pieces).is_some_and(|len| have >= len) {
            return Ok((pieces, None));
        }
        let mut place = self.small.clone().try_acquire_owned().map_err(|_| busy())?;
        let mut large = false;
        loop {
            let len = announced(&pieces);
            if len.is_some_and(|len| have >= len) {
                return Ok((pieces, Some(place)));
            }
            if len.is_some_and(|len| len > PREFIX + MAX_MESSAGE) {
                return Err(Status::out_of_range(format!(
                    "no message has over {MAX_MESSAGE} bytes"
                )));
            }
            if len.is_some_and(|len| len > SMALL) && !large {
                let _waiting = self.waiting.clone().try_acquire_owned().map_err(|_| busy())?;
                place = self.large.clone().acquire_owned().await.map_err(|_| busy())?;
                large = true;
            }
            let Some(next) = piece(&mut body).await? else {
                return Err(Status::invalid_argument("the message is shorter than it says"));
            };
            have += next.len();
            pieces.push(next);
        }
    }
}

fn busy() -> Status {
    Status::resource_exhausted("too many requests arrive at once")
}

/// The next bytes, if there are any.
async fn piece(body: &mut Body) -> Result<Option<Bytes>, Status> {
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) if !data.is_empty() => return Ok(Some(data)),
            // Trailers, or nothing.
            _ => {}
        }
    }
    Ok(None)
}

/// Bytes of the message with its prefix, once that is there.
fn announced(pieces: &[Bytes]) -> Option<usize> {
    let mut start = pieces.iter().flat_map(|piece| piece.iter().copied());
    let mut prefix = [0; PREFIX];
    for byte in &mut prefix {
        *byte = start.next()?;
    }
    Some(PREFIX + (&prefix[1..]).get_u32() as usize)
}

impl<S> Layer<S> for Gather {
    type Service = Gathered<S>;

    fn layer(&self, inner: S) -> Gathered<S> {
        Gathered { inner, gather: self.clone() }
    }
}

/// A server behind [`Gather`].
#[derive(Clone)]
pub struct Gathered<S> {
    inner: S,
    gather: Gather,
}

impl<S> Service<Request<Body>> for Gathered<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        let gather = self.gather.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let whole = timeout(ARRIVAL, gather.whole(body)).await.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded(format!("no whole request within {ARRIVAL:?}")))
            });
            let (pieces, _place) = match whole {
                Ok(whole) => whole,
                Err(why) => return Ok(why.into_http()),
            };
            let _under_way = head.extensions.get::<Arc<Guest>>().map(Guest::begin);
            let pieces = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
            let body = Body::new(StreamBody::new(tokio_stream::iter(pieces)));
            ready.call(Request::from_parts(head, body)).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request of these pieces, which then ends or goes on for ever.
    fn body(pieces: &[&[u8]], ends: bool) -> Body {
        let pieces: Vec<_> = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
        let data = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let data = tokio_stream::iter(data);
        if ends {
            return Body::new(StreamBody::new(data));
        }
        Body::new(StreamBody::new(tokio_stream::StreamExt::chain(data, tokio_stream::pending())))
    }

    fn is_stuck(work: &mut (impl Future + Unpin)) -> bool {
        futures::FutureExt::now_or_never(work).is_none()
    }

    #[tokio::test]
    async fn what_has_arrived_is_passed_on_whatever_others_announce() {
        let gather = Gather::new(1);
        let large = [0, 0, 0x80, 0, 0];
        let mut stuck: Vec<_> =
            (0..3).map(|_| Box::pin(gather.whole(body(&[&large, b"x"], false)))).collect();
        assert!(stuck.iter_mut().all(is_stuck));
        let small = [0, 0, 0, 0, 3, 7, 8, 9];
        for ends in [true, false] {
            let (pieces, place) = gather.whole(body(&[&small], ends)).await.unwrap();
            assert_eq!((pieces.concat(), place.is_some()), (small.to_vec(), false));
            let (pieces, _) = gather.whole(body(&[&small[..2], &small[2..]], ends)).await.unwrap();
            assert_eq!(pieces.concat(), small);
        }
        drop(stuck);
        let long: Vec<u8> = large.iter().copied().chain(vec![1; 8 << 20]).collect();
        let (pieces, place) = gather.whole(body(&[&long[..9], &long[9..]], true)).await.unwrap();
        assert!(pieces.concat() == long && place.is_some());
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let gather = Gather::new(1);
        let refused = async |pieces: &[&[u8]]| gather.whole(body(pieces, true)).await.is_err();
        assert!(refused(&[&[0, 0, 0, 0, 3, 7]]).await, "too short");
        assert!(refused(&[&[0, 0xff, 0xff, 0xff, 0xff], b"x"]).await, "too long");
        assert!(!refused(&[]).await, "nothing is left to whoever reads it");
        assert_eq!(gather.small.available_permits(), SMALL_ONES);
    }
}
