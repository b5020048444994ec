//! Guests: the connections of a listener, bounded in number, and in how long they may be of no use.
//!
//! Anybody can connect. Whoever has made a whole request is *known*; who has not after [`UNKNOWN`] is
//! asked to leave, and so is within a second whose certificate was revoked. There are [`STRANGERS`] at most who are not known. When there are as many as there may be, the one of least use makes room: one that is not known before one that is, and one with nothing under way before that the one
//! that has been idle for longest. Who has just come is heard first ([`HEARD`]). A client that is shown the door connects again when it has
//! something to ask. So strangers cost a bounded amount, and do not keep clients out.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::tls::credentials::Peer;
use crate::tls::wire::Wire;

/// How long a connection may be without having made a whole request.
pub const UNKNOWN: Duration = Duration::from_secs(10);
/// Most that are not known at once: each may be agreeing on TLS.
pub const STRANGERS: usize = 1024;
/// How long who has just come stays in any case: what he asks is on its way to be read.
const HEARD: Duration = Duration::from_millis(100);
/// How often those are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Shortest and longest pause when no connection can be accepted, for want of file descriptors say.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// An outage is over when no connection was refused for so long.
const QUIET: Duration = Duration::from_secs(10);
/// File descriptors that a process may ask for, where it may ask for any number.
const MOST_FILES: u64 = 1 << 20;

/// What is known of one connection.
#[derive(Debug)]
struct Entry {
    /// Of its last request, or since when it is there.
    last: Instant,
    known: bool,
    under_way: usize,
    leave: CancellationToken,
    /// Who it is, if that is known by a certificate.
    peer: Option<Peer>,
}

#[derive(Debug, Default)]
struct Book {
    here: HashMap<u64, Entry>,
    next: u64,
    outage: Option<Outage>,
}

/// Connections cannot be accepted.
#[derive(Debug)]
struct Outage {
    since: Instant,
    last: Instant,
    pause: Duration,
}

impl Book {
    /// Is there a place for one more, of at most so many?
    fn has_place(&self, limit: usize) -> bool {
        let strangers = || self.here.values().filter(|entry| !entry.known).count();
        self.here.len() < limit && (self.here.len() < STRANGERS || strangers() < STRANGERS)
    }

    /// Shows the one of least use the door, unless all are at work. It has left when its place is free.
    fn make_room(&mut self) {
        let heard = |entry: &Entry| entry.known || entry.last.elapsed() >= HEARD;
        let idle =
            |entry: &&Entry| entry.under_way == 0 && heard(entry) && !entry.leave.is_cancelled();
        let idle = self.here.values().filter(idle);
        if let Some(least) = idle.min_by_key(|entry| (entry.known, entry.last)) {
            least.leave.cancel();
        }
    }
}

/// The connections of one listener.
#[derive(Debug)]
pub struct Guests {
    book: Mutex<Book>,
    limit: usize,
    /// A place has become free.
    freed: Notify,
}

impl Guests {
    /// At most so many at once. Must be called within a tokio runtime.
    pub fn new(limit: usize) -> Arc<Self> {
        let guests =
            Arc::new(Self { book: Mutex::default(), limit: limit.max(1), freed: Notify::new() });
        tokio::spawn(Self::sweep_forever(Arc::downgrade(&guests)));
        guests
    }

    /// The next connection. Lasts until there is one, and a place for it. May be dropped and called
    /// again.
    pub async fn accept(self: &Arc<Self>, listener: &TcpListener) -> (TcpStream, Guest) {
        loop {
            self.place().await;
            match listener.accept().await {
                Ok((stream, _)) => return (stream, self.admit()),
                // The listener is as it was: what is short is most often file descriptors.
                Err(e) => tokio::time::sleep(self.refused(&e)).await,
            }
        }
    }

    /// Waits until there is a place. Where all are at work, who comes waits to be accepted.
    async fn place(&self) {
        loop {
            {
                let mut book = self.book.lock();
                if book.has_place(self.limit) {
                    return;
                }
                book.make_room();
            }
            // Asked again: one who has been shown the door may be slow, and others are heard by then.
            let _ = tokio::time::timeout(HEARD, self.freed.notified()).await;
        }
    }

    fn admit(self: &Arc<Self>) -> Guest {
        let mut book = self.book.lock();
        let (number, leave) = (book.next, CancellationToken::new());
        book.next += 1;
        let last = Instant::now();
        let entry = Entry { last, known: false, under_way: 0, leave: leave.clone(), peer: None };
        book.here.insert(number, entry);
        Guest { guests: self.clone(), number, leave }
    }

    /// A connection cannot be accepted, which is said once per outage: how long to wait.
    fn refused(&self, why: &io::Error) -> Duration {
        let mut book = self.book.lock();
        book.make_room();
        let now = Instant::now();
        let outage = book.outage.get_or_insert_with(|| {
            tracing::warn!("no connection can be accepted: {why}; trying on");
            Outage { since: now, last: now, pause: PAUSES.0 }
        });
        outage.last = now;
        let pause = outage.pause;
        outage.pause = (pause * 2).min(PAUSES.1);
        pause
    }

    async fn sweep_forever(guests: Weak<Self>) {
        let mut due = tokio::time::interval(SWEEP);
        loop {
            due.tick().await;
            match guests.upgrade() {
                Some(guests) => guests.sweep(),
                None => return,
            }
        }
    }

    /// Shows those the door who have said nothing of use for too long, or are nobody any more.
    fn sweep(&self) {
        let mut book = self.book.lock();
        let useless = |entry: &&Entry| {
            !entry.known && entry.under_way == 0 && entry.last.elapsed() >= UNKNOWN
        };
        let revoked = |entry: &&Entry| entry.peer.as_ref().is_some_and(Peer::is_revoked);
        let leaving = book.here.values().filter(|entry| useless(entry) || revoked(entry));
        leaving.for_each(|entry| entry.leave.cancel());
        if let Some(outage) = book.outage.take_if(|outage| outage.last.elapsed() >= QUIET) {
            let lasted = outage.last - outage.since;
            tracing::warn!(
                "connections are accepted again; the last was refused after {lasted:.1?}"
            );
        }
    }
}

/// One connection's place. It is free when this is dropped.
#[derive(Debug)]
pub struct Guest {
    guests: Arc<Guests>,
    number: u64,
    leave: CancellationToken,
}

impl Guest {
    /// Returns when the connection has to be closed.
    pub async fn leave(&self) {
        self.leave.cancelled().await;
    }

    /// Who it is, if its connection knows.
    pub fn know(&self, peer: Option<&Peer>) {
        if let Some(entry) = self.guests.book.lock().here.get_mut(&self.number) {
            entry.peer = peer.cloned();
        }
    }

    /// Who it is, if that is known.
    pub fn peer(&self) -> Option<Peer> {
        self.guests.book.lock().here.get(&self.number)?.peer.clone()
    }

    /// A whole request has arrived; it is under way until the answer is dropped.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        if let Some(entry) = self.guests.book.lock().here.get_mut(&self.number) {
            entry.known = true;
            entry.under_way += 1;
        }
        UnderWay(self.clone())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.book.lock().here.remove(&self.number);
        self.guests.freed.notify_one();
    }
}

/// A request of a guest.
#[derive(Debug)]
pub struct UnderWay(Arc<Guest>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(entry) = self.0.guests.book.lock().here.get_mut(&self.0.number) {
            entry.under_way -= 1;
            entry.last = Instant::now();
        }
    }
}

/// A guest's connection, for a server that knows nothing of guests: it breaks when the guest has to
/// leave.
#[derive(Debug)]
pub struct GuestStream {
    stream: Wire,
    guest: Arc<Guest>,
    leave: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl GuestStream {
    /// Of this connection.
    pub fn new(stream: impl Into<Wire>, guest: Arc<Guest>) -> Self {
        let leave = Box::pin(guest.leave.clone().cancelled_owned());
        Self { stream: stream.into(), guest, leave }
    }
}

impl Connected for GuestStream {
    type ConnectInfo = Arc<Guest>;

    fn connect_info(&self) -> Arc<Guest> {
        self.guest.clone()
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.leave.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for GuestStream {
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
        bufs: &[io::IoSlice<'_>],
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

/// Lets this process have as many file descriptors as it may ask for; answers how many.
pub fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, hard)| {
        let more = hard.min(MOST_FILES);
        let raised = more > soft && setrlimit(Resource::RLIMIT_NOFILE, more, hard).is_ok();
        if raised { more } else { soft }
    });
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// How many connections this process has file descriptors for, at most `wanted`: half of what is left.
pub fn room_for(wanted: usize) -> usize {
    let used = std::fs::read_dir("/proc/self/fd").map_or(64, Iterator::count);
    wanted.min(raise_file_limit().saturating_sub(used) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_to_leave(guest: &Arc<Guest>) -> bool {
        guest.leave.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_of_least_use_makes_room() {
        let guests = Guests::new(4);
        let admit = || Arc::new(guests.admit());
        let (working, known, stranger, late) = (admit(), admit(), admit(), admit());
        let at_work = working.begin();
        drop(known.begin());
        tokio::time::advance(SWEEP).await;
        let make_room = || guests.book.lock().make_room();
        make_room();
        let strangers = [&stranger, &late].map(has_to_leave);
        assert!(strangers[0] != strangers[1] && !has_to_leave(&known), "one stranger");
        make_room();
        assert!(has_to_leave(&stranger) && has_to_leave(&late), "before who is known");
        let next = admit();
        drop(next.begin());
        make_room();
        assert!(has_to_leave(&known) && !has_to_leave(&next), "who has been idle for longest");
        let next_at_work = next.begin();
        make_room();
        assert!(!has_to_leave(&next) && !has_to_leave(&working), "who is at work stays");
        let mut waiting = Box::pin(guests.place());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop((known, stranger));
        waiting.await;
        drop((at_work, next_at_work, working, late, next));
        assert!(guests.book.lock().here.is_empty(), "places are given back");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_only_so_many_strangers_whatever_place_there_is() {
        let guests = Guests::new(2 * STRANGERS);
        let mut all: Vec<_> = (0..STRANGERS).map(|_| Arc::new(guests.admit())).collect();
        tokio::time::advance(HEARD).await;
        let mut waiting = Box::pin(guests.place());
        assert!(futures::poll!(&mut waiting).is_pending());
        let leaving: Vec<_> = (0..all.len()).filter(|at| has_to_leave(&all[*at])).collect();
        assert_eq!(leaving.len(), 1, "one makes room");
        drop(all.swap_remove(leaving[0]));
        waiting.await;
        let known = Arc::new(guests.admit());
        assert!(futures::poll!(Box::pin(guests.place())).is_pending(), "as many as before");
        drop(known.begin());
        assert!(futures::poll!(Box::pin(guests.place())).is_ready(), "one of them is none");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_come_is_heard_first() {
        let guests = Guests::new(2);
        let admit = || Arc::new(guests.admit());
        let known = admit();
        drop(known.begin());
        tokio::time::advance(SWEEP).await;
        let newcomer = admit();
        let make_room = || guests.book.lock().make_room();
        make_room();
        assert!(has_to_leave(&known) && !has_to_leave(&newcomer), "before he could be heard");
        make_room();
        assert!(!has_to_leave(&newcomer), "nobody else is left to go");
        tokio::time::advance(HEARD).await;
        make_room();
        assert!(has_to_leave(&newcomer), "he has asked nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_of_use_has_to_leave() {
        let guests = Guests::new(4);
        let (known, stranger) = (Arc::new(guests.admit()), Arc::new(guests.admit()));
        drop(known.begin());
        tokio::time::advance(UNKNOWN / 2).await;
        guests.sweep();
        assert!(!has_to_leave(&stranger));
        tokio::time::advance(UNKNOWN).await;
        guests.sweep();
        assert!(has_to_leave(&stranger) && !has_to_leave(&known));
    }
}
