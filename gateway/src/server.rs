//! Listeners and their connections, and what bounds them: how many there are, and how long one may be of no use. How long
//! one may not take what it is sent is `patient`'s.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::guests::{Guest, Guests, UnderWay, room_for};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::metrics::Connected;
use crate::patient::Patient;
use crate::tls::{Wire, agree};

/// Connections to a door at once, and at most half of the file descriptors that are left.
const CONNECTIONS: usize = 1024;
/// For the head of a request, and between two of a connection.
const HEAD: Duration = Duration::from_secs(30);
/// What counts as the address of one who has gone already.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// Bytes of a connection in memory, each way; also the longest head of a request.
const BUFFER: usize = 64 << 10;

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) from: IpAddr,
    /// It has come to an address that only this machine has.
    pub(crate) within: bool,
}

/// Who sends a request.
pub(crate) fn peer<B>(request: &Request<B>) -> Peer {
    *request.extensions().get().expect("the server says who asks")
}

/// Who serves connections, until they have to end.
#[derive(Clone)]
pub(crate) struct Server {
    /// No further requests.
    pub(crate) stop: CancellationToken,
    /// Not those either that are under way.
    pub(crate) cut: CancellationToken,
    /// All of them.
    pub(crate) tasks: TaskTracker,
}

impl Server {
    /// Takes connections for HTTP. Answers where.
    ///
    /// # Errors
    /// When the listener is of no use.
    pub(crate) fn serve_http(
        &self,
        listener: (std::net::TcpListener, Option<TlsAcceptor>),
        routes: Router,
    ) -> io::Result<SocketAddr> {
        self.serve(listener, move |server, stream, known| {
            server.attend_http(stream, known, routes.clone())
        })
    }

    /// Takes connections for whatever it is, with TLS if there is an acceptor, which ends soon when it is told to stop. Answers where.
    ///
    /// # Errors
    /// When the listener is of no use.
    pub(crate) fn serve<F: Future<Output = ()> + Send + 'static>(
        &self,
        (listener, tls): (std::net::TcpListener, Option<TlsAcceptor>),
        attend: impl Fn(Self, Wire, (Arc<Guest>, Peer)) -> F + Clone + Send + Sync + 'static,
    ) -> io::Result<SocketAddr> {
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let server = self.clone();
        self.tasks.spawn(async move {
            let guests = Guests::new(room_for(CONNECTIONS));
            let stop = server.stop.clone();
            while let Some((stream, guest)) =
                stop.run_until_cancelled(guests.accept(&listener)).await
            {
                // Small answers are not to wait for one another.
                let _late = stream.set_nodelay(true);
                // One who has gone already is served all the same, to his end.
                let from = stream.peer_addr().map_or(NOBODY, |peer| peer.ip());
                let peer = Peer { from, within: address.ip().is_loopback() };
                let guest = Arc::new(guest);
                let known = (guest.clone(), peer);
                let (attend, tls) = (attend.clone(), tls.clone());
                let (served, cut) = (server.clone(), server.cut.clone());
                let attending = async move {
                    if let Some(wire) = agree(Patient::new(stream), tls).await {
                        attend(served, wire, known).await;
                    }
                };
                server.tasks.spawn(async move {
                    let _connected = Connected::new();
                    tokio::select! {
                        () = attending => {}
                        () = guest.leave() => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        });
        Ok(address)
    }

    async fn attend_http(self, stream: Wire, (known, peer): (Arc<Guest>, Peer), routes: Router) {
        let answer = move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let under_way = known.begin();
            let answer = routes.clone().call(request);
            async move {
                let response: Response<Body> = answer.await?;
                let whole = |body| Answer { body, _under_way: under_way };
                Ok::<_, Infallible>(response.map(whole))
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::pin!(connection);
        let mut stopping = false;
        loop {
            tokio::select! {
                // Whatever went wrong, the connection is closed.
                _ = &mut connection => return,
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// An answer's body: its request is under way until all of it is sent.
struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
