//! Grants that are often refused.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use meta::{Access, Ino, Leases, MetaError, Wish};
use parking_lot::Mutex;

use super::Random;

/// What a session has of a volume whose other users want all of it, too.
pub(crate) struct Grudging {
    inner: Mutex<Inner>,
}

struct Inner {
    random: Random,
    granted: HashMap<Ino, Access>,
    refused: usize,
    returned: usize,
}

impl Grudging {
    /// Nothing is granted at first.
    pub(crate) fn new(seed: u64) -> Self {
        let (random, granted) = (Random(seed), HashMap::new());
        Self { inner: Mutex::new(Inner { random, granted, refused: 0, returned: 0 }) }
    }

    /// How often wishes were refused, and how often something was given back.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.refused, inner.returned)
    }
}

#[async_trait]
impl Leases for Grudging {
    fn access(&self, ino: Ino) -> Access {
        self.inner.lock().granted.get(&ino).copied().unwrap_or_default()
    }

    async fn obtain(&self, wishes: &[Wish]) -> Result<(), MetaError> {
        let wait = Duration::from_millis(self.inner.lock().random.below(4));
        tokio::time::sleep(wait).await;
        let mut inner = self.inner.lock();
        if inner.random.below(3) == 0 {
            // Somebody else had it, and was gone before it could be used.
            inner.refused += 1;
            return Ok(());
        }
        for wish in wishes {
            let has = inner.granted.entry(wish.ino).or_default();
            *has = wish.access.max(*has);
        }
        Ok(())
    }

    fn gave_back(&self, ino: Ino, kept: Access) {
        let mut inner = self.inner.lock();
        inner.granted.insert(ino, kept);
        inner.returned += 1;
    }
}
