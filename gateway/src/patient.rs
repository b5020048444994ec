//! A connection that breaks when the other end takes nothing for too long.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long a client may take nothing of what it is sent.
const STALLED: Duration = Duration::from_secs(30);

/// A connection that breaks when the other end takes nothing for too long.
pub(crate) struct Patient {
    stream: TcpStream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// Over this one.
    pub(crate) fn new(stream: TcpStream) -> Self {
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A connection, and its other end.
    fn connected() -> (Patient, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        far.set_nonblocking(true).unwrap();
        (Patient::new(TcpStream::from_std(far).unwrap()), near)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_breaks_whose_other_end_takes_nothing() {
        let (mut patient, _takes_nothing) = connected();
        let began = tokio::time::Instant::now();
        let broken = loop {
            if let Err(why) = patient.write(&[7; 64 << 10]).await {
                break why;
            }
        };
        assert_eq!(broken.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= STALLED, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_something_has_all_the_time_again() {
        let (mut patient, _other_end) = connected();
        for _ in 0..5 {
            let waits =
                poll_fn(|cx| Poll::Ready(patient.sent::<usize>(cx, Poll::Pending).is_pending()));
            assert!(waits.await, "it breaks, though something was taken in time");
            tokio::time::advance(STALLED - Duration::from_secs(1)).await;
            let waits =
                poll_fn(|cx| Poll::Ready(patient.sent::<usize>(cx, Poll::Pending).is_pending()));
            assert!(waits.await, "it breaks too soon");
            let sent = poll_fn(|cx| patient.sent(cx, Poll::Ready(Ok(1))));
            assert_eq!(sent.await.unwrap(), 1);
        }
        let broken = poll_fn(|cx| patient.sent::<usize>(cx, Poll::Pending)).await;
        assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
