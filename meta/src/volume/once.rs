//! A change that somebody elsewhere asked for, and that is done once however often it is asked for: also by whoever leads the volume
//! next. That it is done is noted in its own transaction ([`Window`]); of a long one in its last.

use std::sync::atomic::{AtomicU64, Ordering};

use proto::id::SessionId;

use crate::account::Secret;
use crate::key;
use crate::ops::Step;
use crate::record::window::{Outcome, Window};
use crate::store::{Attr, Ino, MetaError, Time, Unlinked};
use crate::txn::Txn;
use crate::wire::made::Made;

/// What has an outcome.
pub(crate) trait Comes {
    /// What it came to; `None`: it is not done yet.
    fn outcome(&self) -> Option<Outcome>;
}

impl Comes for () {
    fn outcome(&self) -> Option<Outcome> {
        Some(Outcome::Done)
    }
}

impl Comes for Secret {
    fn outcome(&self) -> Option<Outcome> {
        Some(Outcome::Done)
    }
}

impl Comes for Attr {
    fn outcome(&self) -> Option<Outcome> {
        Some(Outcome::Attr(self.ino))
    }
}

impl Comes for Unlinked {
    fn outcome(&self) -> Option<Outcome> {
        Some(Outcome::Unlinked(Some(*self)))
    }
}

impl Comes for Option<Unlinked> {
    fn outcome(&self) -> Option<Outcome> {
        Some(Outcome::Unlinked(*self))
    }
}

impl<T: Comes, P> Comes for Step<T, P> {
    fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::More(_) => None,
            Self::Done(done) => done.outcome(),
        }
    }
}

/// One change.
pub(crate) struct Once {
    number: u64,
    /// Its client has heard what became of all up to here.
    heard: u64,
    at: Time,
    /// It was made and answered before, by a leader who did not make it durable.
    again: bool,
    /// Of an inode that it makes; 0: none yet.
    ino: AtomicU64,
    /// 0: it is not made.
    order: AtomicU64,
}

impl Once {
    /// A new one, at this time; or one that was made `before`, at the time of then and with the number that an inode got then.
    pub(crate) fn new((number, heard): (u64, u64), now: Time, before: Option<Made>) -> Self {
        let (at, again) = (before.map_or(now, |before| before.at), before.is_some());
        let ino = before.and_then(|before| before.ino).map_or(0, |ino| ino.0);
        let (ino, order) = (AtomicU64::new(ino), AtomicU64::new(0));
        Self { number, heard, at, again, ino, order }
    }

    /// Was it answered before? Then there was room for it.
    pub(crate) fn is_again(&self) -> bool {
        self.again
    }

    /// The time of it.
    pub(crate) fn at(&self) -> Time {
        self.at
    }

    /// The number of the inode that it makes.
    pub(crate) fn ino(&self) -> Option<Ino> {
        Some(Ino(self.ino.load(Ordering::SeqCst))).filter(|ino| ino.0 != 0)
    }

    /// An inode gets this number.
    pub(crate) fn takes(&self, ino: Ino) {
        self.ino.store(ino.0, Ordering::SeqCst);
    }

    /// Notes in its transaction that it is made. `orders`: how many of its session were.
    ///
    /// # Errors
    /// When the session is over, and whatever the view says.
    pub(crate) fn note(
        &self,
        txn: &mut Txn<'_>,
        session: SessionId,
        orders: &AtomicU64,
        outcome: Outcome,
    ) -> Result<(), MetaError> {
        let key = key::session::key(session);
        let window = txn.get(&key)?.as_deref().and_then(Window::decode);
        // It was closed meanwhile.
        let mut window = window.ok_or(MetaError::Invalid("the session is over"))?;
        window.note(self.number, self.heard, outcome);
        txn.put(key, &window.encode());
        // One transaction at a time runs, so that this is their order.
        self.order.store(orders.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Ok(())
    }

    /// How it was made; `None`: it was not. `batch`: the one that is being gathered.
    pub(crate) fn made(&self, batch: u64) -> Option<Made> {
        let order = self.order.load(Ordering::SeqCst);
        (order > 0).then(|| Made { order, batch, at: self.at, ino: self.ino() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Caller, MetaStore, NewNode, ROOT};
    use crate::volume::in_memory;
    use crate::wire::samples;

    #[tokio::test]
    async fn what_is_made_again_gets_no_number_that_is_anothers() {
        let keeper = in_memory(&samples::a_volume(), (0, 0, 0o755));
        let volume = keeper.opened_on();
        let window = Window::new([7; 32], "a test".to_owned());
        let session = volume.open_session_elsewhere(&window).await.unwrap();
        let caller = Caller::default();
        let own = session.create(caller, ROOT, b"own", 0o644, NewNode::File).await.unwrap().ino.0;
        let again = async |number: u64, ino| {
            let before = Made { order: 1, batch: 1, at: Time::default(), ino: Some(Ino(ino)) };
            let again = session.once(Once::new((number, 0), volume.now(), Some(before)));
            let name = number.to_string().into_bytes();
            again.create(caller, ROOT, &name, 0o644, NewNode::File).await
        };
        assert_eq!(again(1, own + 1).await.map(|made| made.ino), Ok(Ino(own + 1)));
        for (number, ino) in [(2, ROOT.0), (3, own), (4, own + 1), (5, own + (1 << 20))] {
            let refused = again(number, ino).await;
            assert!(matches!(refused, Err(MetaError::Invalid(_))), "{ino}: {refused:?}");
        }
        assert_eq!(volume.check().await.unwrap().problems, Vec::<String>::new());
    }
}
