//! Whose turn it is: of each client only the newest connection is served.
//!
//! A client that gives up a connection and makes another must not be overtaken by what it sent before: bytes of
//! a put may lie in the old connection for as long as the network likes. So a connection begins with who makes
//! it and its number among that client's, and it is served only when all older ones have *ended*: nothing is read
//! from them any more, and what was read is in the queue of its disk or dropped.
//!
//! Invariants:
//! * A connection with a lower number than one that was ever admitted, or the same, is not served.
//! * Of clients that have gone as many numbers are remembered as [`REMEMBERED`], the last ones that went.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use proto::id::ClientId;
use proto::link::request::Hello;
use tokio_util::sync::CancellationToken;

/// Clients without a connection that are remembered.
const REMEMBERED: usize = 16 << 10;

/// What is known of a client.
struct Known {
    /// Its newest connection.
    connection: u64,
    /// Tells that connection to end.
    leave: CancellationToken,
    /// Cancelled once it has ended, and of those before it that were there when it came.
    ended: Vec<CancellationToken>,
    /// When it ended, in the order of such ends.
    gone: Option<u64>,
}

#[derive(Default)]
struct Book {
    clients: HashMap<ClientId, Known>,
    /// Those without a connection, the one that went first to begin with.
    gone: BTreeMap<u64, ClientId>,
    ends: u64,
}

/// The clients of a daemon.
#[derive(Default)]
pub struct Clients {
    book: Mutex<Book>,
}

/// One connection, for as long as it is read from. Dropping it ends it.
pub struct Stay {
    clients: Arc<Clients>,
    leave: CancellationToken,
    ended: CancellationToken,
    admitted: Mutex<Option<Hello>>,
}

impl Clients {
    /// A connection that has not said yet whose it is.
    pub fn stay(self: &Arc<Self>) -> Stay {
        let (leave, ended) = (CancellationToken::new(), CancellationToken::new());
        Stay { clients: self.clone(), leave, ended, admitted: Mutex::default() }
    }
}

impl Stay {
    /// Ends the client's older connections, and waits until they have. `false`: this one is not its newest.
    pub async fn enter(&self, hello: Hello) -> bool {
        let Some(older) = self.admit(hello) else { return false };
        for ended in older {
            ended.cancelled().await;
        }
        true
    }

    fn admit(&self, hello: Hello) -> Option<Vec<CancellationToken>> {
        let mut book = self.clients.book.lock();
        let Book { clients, gone, .. } = &mut *book;
        let mut older = Vec::new();
        if let Some(known) = clients.get_mut(&hello.client) {
            if known.connection >= hello.connection {
                return None;
            }
            known.leave.cancel();
            if let Some(end) = known.gone {
                gone.remove(&end);
            }
            older = std::mem::take(&mut known.ended);
            older.retain(|ended| !ended.is_cancelled());
        }
        let mut ended = older.clone();
        ended.push(self.ended.clone());
        let (connection, leave) = (hello.connection, self.leave.clone());
        clients.insert(hello.client, Known { connection, leave, ended, gone: None });
        *self.admitted.lock() = Some(hello);
        Some(older)
    }

    /// Lasts until a newer connection of the client has come.
    pub async fn replaced(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.ended.cancel();
        let Some(hello) = *self.admitted.lock() else { return };
        let mut book = self.clients.book.lock();
        let Book { clients, gone, ends } = &mut *book;
        let Some(known) = clients.get_mut(&hello.client) else { return };
        if known.connection != hello.connection {
            return;
        }
        *ends += 1;
        known.gone = Some(*ends);
        gone.insert(*ends, hello.client);
        if gone.len() > REMEMBERED
            && let Some((_, client)) = gone.pop_first()
        {
            clients.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn hello(client: ClientId, connection: u64) -> Hello {
        Hello { client, connection }
    }

    #[test]
    fn a_newer_connection_waits_for_the_end_of_all_older_ones() {
        let clients = Arc::new(Clients::default());
        let client = ClientId::random();
        let (first, second, third) = (clients.stay(), clients.stay(), clients.stay());
        assert_eq!(first.enter(hello(client, 1)).now_or_never(), Some(true));
        let mut entering_second = Box::pin(second.enter(hello(client, 2)));
        assert_eq!(entering_second.as_mut().now_or_never(), None);
        assert!(first.replaced().now_or_never().is_some(), "it is told to end");
        // The second ends while it waits: the first may still be read from.
        let mut entering_third = Box::pin(third.enter(hello(client, 3)));
        assert_eq!(entering_third.as_mut().now_or_never(), None);
        drop(entering_second);
        drop(second);
        assert_eq!(entering_third.as_mut().now_or_never(), None);
        drop(first);
        assert_eq!(entering_third.now_or_never(), Some(true));
        assert!(third.replaced().now_or_never().is_none());
        let other = clients.stay();
        let entered = other.enter(hello(ClientId::random(), 1)).now_or_never();
        assert_eq!(entered, Some(true), "others have nothing to do with it");
    }

    #[test]
    fn an_older_connection_is_never_served_also_when_the_newer_has_gone() {
        let clients = Arc::new(Clients::default());
        let client = ClientId::random();
        let newer = clients.stay();
        assert_eq!(newer.enter(hello(client, 2)).now_or_never(), Some(true));
        let entered = |connection| clients.stay().enter(hello(client, connection)).now_or_never();
        assert_eq!([entered(1), entered(2)], [Some(false); 2]);
        drop(newer);
        assert_eq!([entered(1), entered(2)], [Some(false); 2]);
        assert_eq!(entered(3), Some(true));
    }

    #[test]
    fn what_is_remembered_of_those_who_went_is_bounded() {
        let clients = Arc::new(Clients::default());
        let first = ClientId::random();
        let here = clients.stay();
        assert_eq!(here.enter(hello(first, 1)).now_or_never(), Some(true));
        for _ in 0..REMEMBERED + 10 {
            let entered = clients.stay().enter(hello(ClientId::random(), 1)).now_or_never();
            assert_eq!(entered, Some(true));
        }
        let book = clients.book.lock();
        assert_eq!((book.clients.len(), book.gone.len()), (REMEMBERED + 1, REMEMBERED));
        assert!(book.clients.contains_key(&first), "who is here is not forgotten");
    }
}
