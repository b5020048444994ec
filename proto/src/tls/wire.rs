//! A connection, with TLS or without, whole or in two halves.
//!
//! The half that is written to is written to by whoever has something to say, without waiting: what the kernel does not
//! take at once stays with the caller, or, once it is encrypted, here until [`Writing::flush`].

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use rustls::{AlertDescription, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::TlsStream;
use tokio_util::either::Either;

use super::credentials::Peer;

/// What is spoken on a connection between machines: agreed on within TLS; without it the first byte tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Requests to slots ([`crate::link`]).
    Link,
    /// A session on a volume ([`crate::metad`]).
    Session,
    /// gRPC.
    Grpc,
}

impl Protocol {
    /// As both ends call it.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Link => b"ashlar/link",
            Self::Session => b"ashlar/session",
            Self::Grpc => b"h2",
        }
    }
}

/// A connection, and who is at its other end.
#[derive(Debug)]
pub struct Wire {
    /// As it is, or with TLS.
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    peer: Option<Peer>,
}

impl From<TcpStream> for Wire {
    fn from(stream: TcpStream) -> Self {
        Self { stream: Either::Left(stream), peer: None }
    }
}

impl Wire {
    /// With TLS, to who is known or a stranger.
    pub(super) fn secured(stream: TlsStream<TcpStream>, peer: Option<Peer>) -> Self {
        Self { stream: Either::Right(Box::new(stream)), peer }
    }

    /// The connection below.
    pub fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Either::Left(stream) => stream,
            Either::Right(stream) => stream.get_ref().0,
        }
    }

    /// Who is at the other end; `None`: a stranger, or without TLS nobody knows.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// What both have agreed to speak; `None`: without TLS nothing is agreed on.
    pub fn agreed(&self) -> Option<&[u8]> {
        match &self.stream {
            Either::Left(_) => None,
            Either::Right(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// Its two halves.
    pub fn split(self) -> (Reading, Writing) {
        match self.stream {
            Either::Left(stream) => {
                let (read, write) = stream.into_split();
                (read.into(), write.into())
            }
            Either::Right(stream) => {
                let both = Arc::new(Mutex::new(*stream));
                (Reading(Read::Tls(both.clone())), Writing(Write::Tls(both)))
            }
        }
    }
}

/// A peer that closes the connection without a word of TLS has closed it: what matters says by itself how long it is.
fn closed(read: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    match read {
        Poll::Ready(Err(e)) if e.kind() == ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
        Poll::Ready(Err(e)) => Poll::Ready(Err(told(e))),
        read => read,
    }
}

/// What the other end says of this machine, for people. It may say so after it was agreed on TLS.
pub(super) fn told(why: io::Error) -> io::Error {
    let error = why.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let text = match error {
        Some(Error::AlertReceived(AlertDescription::CertificateRevoked)) => {
            "it says that this machine's certificate was revoked".to_owned()
        }
        Some(Error::AlertReceived(AlertDescription::CertificateExpired)) => {
            "it says that this machine's certificate has expired".to_owned()
        }
        Some(Error::AlertReceived(other)) => format!("it refuses this machine: {other:?}"),
        _ => return why,
    };
    io::Error::new(ErrorKind::PermissionDenied, text)
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        closed(Pin::new(&mut self.stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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

/// Both halves of a connection with TLS: what is read may change how is written.
type Both = Arc<Mutex<TlsStream<TcpStream>>>;

/// The half that is read from.
#[derive(Debug)]
pub struct Reading(Read);

#[derive(Debug)]
enum Read {
    Plain(OwnedReadHalf),
    Tls(Both),
}

impl From<OwnedReadHalf> for Reading {
    fn from(stream: OwnedReadHalf) -> Self {
        Self(Read::Plain(stream))
    }
}

impl AsyncRead for Reading {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Read::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Read::Tls(both) => closed(Pin::new(&mut *both.lock()).poll_read(cx, buf)),
        }
    }
}

/// The half that is written to.
#[derive(Debug)]
pub struct Writing(Write);

#[derive(Debug)]
enum Write {
    Plain(OwnedWriteHalf),
    Tls(Both),
}

impl From<OwnedWriteHalf> for Writing {
    fn from(stream: OwnedWriteHalf) -> Self {
        Self(Write::Plain(stream))
    }
}

/// What cannot go on at once.
fn at_once<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

impl Writing {
    /// Takes what it can at once: how many bytes, which may be waiting for [`Self::flush`] then. Only while nobody waits
    /// for it to be [writable](Self::writable).
    ///
    /// # Errors
    /// `WouldBlock` when it takes none; what the connection says.
    pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Write::Plain(stream) => stream.try_write_vectored(bufs),
            Write::Tls(both) => {
                // Nobody is to be woken: whoever waits next says so.
                let mut cx = Context::from_waker(Waker::noop());
                at_once(Pin::new(&mut *both.lock()).poll_write_vectored(&mut cx, bufs))
            }
        }
    }

    /// Sends what was taken and not sent, as far as that goes at once.
    ///
    /// # Errors
    /// `WouldBlock` when something is left; what the connection says.
    pub fn flush(&self) -> io::Result<()> {
        match &self.0 {
            Write::Plain(_) => Ok(()),
            Write::Tls(both) => {
                let mut cx = Context::from_waker(Waker::noop());
                at_once(Pin::new(&mut *both.lock()).poll_flush(&mut cx))
            }
        }
    }

    /// Returns when the kernel takes bytes. One waiter at a time.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn writable(&self) -> io::Result<()> {
        match &self.0 {
            Write::Plain(stream) => stream.writable().await,
            Write::Tls(both) => {
                let ready = |cx: &mut Context<'_>| both.lock().get_ref().0.poll_write_ready(cx);
                std::future::poll_fn(ready).await
            }
        }
    }
}
