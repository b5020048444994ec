//! Shares of what there is little of: so much in all, so much for each account, and no more than half for those who come by share
//! links, which anybody may have got. So nobody keeps all others waiting.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::asked::Account;

/// How long somebody waits for his share.
const WAITS: Duration = Duration::from_secs(2);

/// What is shared.
pub(super) struct Shares {
    all: Arc<Semaphore>,
    /// What of it those have who come by links.
    links: Arc<Semaphore>,
    /// What of it one account may have.
    each: usize,
    /// What is left for those who have a share, or wait for one.
    own: Mutex<HashMap<Account, Weak<Semaphore>>>,
}

/// A share, until it is dropped.
pub(super) struct Share {
    _held: Vec<OwnedSemaphorePermit>,
}

impl Shares {
    /// Of so much, of which one account may have this.
    pub(super) fn new(all: usize, each: usize) -> Self {
        let (links, own) = (Arc::new(Semaphore::new(all / 2)), Mutex::default());
        Self { all: Arc::new(Semaphore::new(all)), links, each, own }
    }

    /// What a share of this account is of, its own first: who waits for that keeps nobody else waiting.
    fn of(&self, account: &Account) -> Vec<Arc<Semaphore>> {
        let mut all = self.own.lock();
        all.retain(|_, own| own.strong_count() > 0);
        let own = all.get(account).and_then(Weak::upgrade).unwrap_or_else(|| {
            let own = Arc::new(Semaphore::new(self.each));
            all.insert(account.clone(), Arc::downgrade(&own));
            own
        });
        let links = matches!(account, Account::Link(_)).then(|| self.links.clone());
        [Some(own), links, Some(self.all.clone())].into_iter().flatten().collect()
    }

    /// So much of it, if that is left. `None`: it is not.
    pub(super) fn take(&self, account: &Account, much: u32) -> Option<Share> {
        let held = self.of(account).into_iter();
        let held = held.map(|of| of.try_acquire_many_owned(much).ok()).collect::<Option<_>>();
        held.map(|held| Share { _held: held })
    }

    /// One of it, after a while if need be. `None`: none was left in that time.
    pub(super) async fn turn(&self, account: &Account) -> Option<Share> {
        let taking = async {
            let mut held = Vec::new();
            for of in self.of(account) {
                held.push(of.acquire_owned().await.ok()?);
            }
            Some(Share { _held: held })
        };
        tokio::time::timeout(WAITS, taking).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Account {
        Account::User(name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_has_it_all_and_links_have_half() {
        let shares = Shares::new(8, 2);
        let mut held: Vec<Share> = (0..2).filter_map(|_| shares.take(&user("ann"), 1)).collect();
        assert_eq!(held.len(), 2);
        assert!(shares.turn(&user("ann")).await.is_none(), "she has hers");
        assert!(
            shares.take(&user("bob"), 3).is_none() && shares.turn(&user("bob")).await.is_some()
        );
        for link in 0..8 {
            held.extend(shares.take(&Account::Link(link.to_string()), 1));
        }
        assert_eq!(held.len(), 6, "four of eight by links");
        held.extend(
            [shares.turn(&user("bob")).await, shares.turn(&Account::Nobody).await]
                .into_iter()
                .flatten(),
        );
        assert!(held.len() == 8 && shares.turn(&user("cid")).await.is_none(), "all are taken");
        let waiting = user("ann");
        let (waited, ()) = tokio::join!(shares.turn(&waiting), async { held.clear() });
        assert!(waited.is_some(), "who waits gets what is given back");
        drop(waited);
        assert!(shares.take(&Account::Nobody, 1).is_some());
        assert_eq!(shares.own.lock().len(), 1, "nothing is remembered of those who have none");
    }
}
