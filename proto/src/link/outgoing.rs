//! Frames on their way out of a connection.
//!
//! Whoever sends writes to the socket itself, as far as it takes bytes at once: no other task has to
//! run. What it does not take is left to [`Outgoing::drain`]. Frames go out whole and in order, also
//! when the task that sent one is cancelled, because sending never waits.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::timeout;

use crate::tls::wire::Writing;

/// Most buffers given to the kernel in one call.
const GATHER: usize = 64;

/// A peer that takes no byte for so long is given up.
const STALLED: Duration = Duration::from_secs(20);

/// A sender's share of what may be under way: of its connection, and (where the answer is large) of what it
/// asked.
pub type Share = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

#[derive(Default)]
struct Queue {
    /// What is still to be written; of the first, only the rest.
    pieces: VecDeque<Piece>,
    /// What was written may not be on its way yet.
    unsent: bool,
    /// Nothing more can be written.
    broken: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && !self.unsent
    }

    /// Nothing of it will be written any more.
    fn give_up(&mut self) {
        (self.broken, self.unsent) = (true, false);
        self.pieces.clear();
    }
}

struct Piece {
    bytes: Bytes,
    /// The sender's share of what may be under way, given back when the bytes are out.
    _share: Option<Share>,
}

/// The sending half of a connection.
pub struct Outgoing {
    stream: Writing,
    queue: Mutex<Queue>,
    /// Bytes are left for `drain`.
    left: Notify,
    /// The queue has become empty, or will never be.
    done: Notify,
}

impl Outgoing {
    /// Of a connection.
    pub fn new(stream: impl Into<Writing>) -> Self {
        Self {
            stream: stream.into(),
            queue: Mutex::default(),
            left: Notify::new(),
            done: Notify::new(),
        }
    }

    /// Sends one frame: `head` as [`super::frame::encode`] made it, and its payload. `share` is
    /// held until all of it is written.
    ///
    /// # Errors
    /// When the connection is broken; nothing of the frame arrives whole then.
    pub fn send(&self, head: Bytes, payload: Bytes, share: Option<Share>) -> io::Result<()> {
        let mut queue = self.queue.lock();
        if queue.broken {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let idle = queue.is_empty();
        if payload.is_empty() {
            queue.pieces.push_back(Piece { bytes: head, _share: share });
        } else {
            queue.pieces.push_back(Piece { bytes: head, _share: None });
            queue.pieces.push_back(Piece { bytes: payload, _share: share });
        }
        if idle {
            self.write(&mut queue)?;
            if !queue.is_empty() {
                self.left.notify_one();
            }
        }
        Ok(())
    }

    /// Writes until all is written and sent, or the socket takes no more.
    fn write(&self, queue: &mut Queue) -> io::Result<()> {
        while !queue.pieces.is_empty() {
            let slices: Vec<IoSlice<'_>> =
                queue.pieces.iter().take(GATHER).map(|piece| IoSlice::new(&piece.bytes)).collect();
            match self.stream.try_write_vectored(&slices) {
                Ok(written) => {
                    advance(&mut queue.pieces, written);
                    queue.unsent = true;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.broken(queue, e)),
            }
        }
        match self.stream.flush() {
            Ok(()) => queue.unsent = false,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(self.broken(queue, e)),
        }
        self.done.notify_one();
        Ok(())
    }

    /// Nothing more can be written: everybody who waits learns it.
    fn broken(&self, queue: &mut Queue, why: io::Error) -> io::Error {
        queue.give_up();
        self.left.notify_one();
        self.done.notify_one();
        why
    }

    /// Writes what senders had to leave, for as long as the connection lives. May be dropped and
    /// called again.
    ///
    /// # Errors
    /// Always, in the end: why nothing can be written any more.
    pub async fn drain(&self) -> io::Error {
        loop {
            // Before the first wait: whoever drained before may have left something.
            while self.has_left() {
                let writable = timeout(STALLED, self.stream.writable()).await;
                if let Err(e) = writable.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
                    self.queue.lock().give_up();
                    self.done.notify_one();
                    return e;
                }
                if let Err(e) = self.write(&mut self.queue.lock()) {
                    return e;
                }
            }
            if self.queue.lock().broken {
                return ErrorKind::BrokenPipe.into();
            }
            self.left.notified().await;
        }
    }

    fn has_left(&self) -> bool {
        !self.queue.lock().is_empty()
    }

    /// Waits until everything sent so far is written, or never will be. One waiter at a time.
    pub async fn written(&self) {
        loop {
            {
                let queue = self.queue.lock();
                if queue.broken || queue.is_empty() {
                    return;
                }
            }
            self.done.notified().await;
        }
    }
}

fn advance(pieces: &mut VecDeque<Piece>, mut written: usize) {
    while let Some(first) = pieces.front_mut() {
        let len = first.bytes.len();
        if written < len {
            first.bytes.advance(written);
            return;
        }
        written -= len;
        pieces.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn what_one_drain_left_the_next_one_writes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut near, (far, _)) = (near.unwrap(), far.unwrap());
        let (_read, write) = far.into_split();
        let outgoing = Outgoing::new(write);
        // Far more than the sockets hold, so that something is left.
        let payload = Bytes::from(vec![7; 64 << 20]);
        outgoing.send(Bytes::from_static(b"head"), payload.clone(), None).unwrap();
        assert!(futures::FutureExt::now_or_never(outgoing.drain()).is_none());
        assert!(outgoing.has_left());
        let reading = async {
            let mut arrived = vec![0; 4 + payload.len()];
            near.read_exact(&mut arrived).await.unwrap();
            arrived
        };
        let all = async { tokio::join!(reading, outgoing.written()).0 };
        tokio::select! {
            arrived = all => assert!(arrived[..4] == *b"head" && arrived[4..] == payload[..]),
            error = outgoing.drain() => panic!("{error}"),
        }
        drop(near);
        let error = loop {
            if let Err(error) = outgoing.send(payload.clone(), Bytes::new(), None) {
                break error;
            }
            if let Some(error) = futures::FutureExt::now_or_never(outgoing.drain()) {
                break error;
            }
            tokio::task::yield_now().await;
        };
        assert!(outgoing.send(payload, Bytes::new(), None).is_err(), "after {error}");
        outgoing.written().await;
    }
}
