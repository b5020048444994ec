//! Listeners and their connections, and what bounds them: how many there are, how long one may be of no use, and how
//! long one may not take what it is sent.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::metrics::Connected;

/// Connections to a door at once, and at most half of the file descriptors that are left.
const CONNECTIONS: usize = 1024;
/// For the head of a request, and between two of a connection.
const HEAD: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what it is sent.
const STALLED: Duration = Duration::from_secs(30);
/// Bytes of a connection in memory, each way; also the longest head of a request.
const BUFFER: usize = 64 << 10;

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
        listener: std::net::TcpListener,
        routes: Router,
    ) -> io::Result<SocketAddr> {
        self.serve(listener, move |server, stream, guest| {
            server.attend_http(stream, guest, routes.clone())
        })
    }

    /// Takes connections for whatever it is, which ends soon when it is told to stop. Answers where.
    ///
    /// # Errors
    /// When the listener is of no use.
    pub(crate) fn serve<F: Future<Output = ()> + Send + 'static>(
        &self,
        listener: std::net::TcpListener,
        attend: impl Fn(Self, Patient, Arc<Guest>) -> F + Send + 'static,
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
                let guest = Arc::new(guest);
                let attending = attend(server.clone(), Patient::new(stream), guest.clone());
                let cut = server.cut.clone();
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

    async fn attend_http(self, stream: Patient, guest: Arc<Guest>, routes: Router) {
        let known = guest.clone();
        let answer = move |request: Request<Incoming>| {
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

/// A connection that breaks when the other end takes nothing for too long.
pub(crate) struct Patient {
    stream: TcpStream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream) -> Self {
        Self { stream, stalled: None }
    }

    fn sent<T>(&mut self, cx: &mut Context<'_>, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if sent.is_ready() {
            self.stalled = None;
            return sent;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.sent(cx, sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.sent(cx, sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
