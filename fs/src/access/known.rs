//! Passwords that were right a moment ago: who sends his with every request has it hashed once.
//!
//! Neither passwords nor hashes are kept, but a MAC over both with a key that lives as long as this process. One with
//! another hash, because the password was changed, is another one.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use lru::LruCache;
use meta::Secret;
use sha2::Sha256;

use super::pass::random;

/// How long one counts as known who does not come again.
const LASTS: Duration = Duration::from_secs(300);
/// Most that are known, about 100 bytes each.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not zero");

/// Those of one volume.
pub(crate) struct Known {
    key: [u8; 32],
    since: LruCache<[u8; 32], Instant>,
}

impl Known {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { key: random(), since: LruCache::new(KNOWN_MAX) }
    }

    /// Was this the password of this user, with this hash?
    pub(crate) fn has(
        &mut self,
        user: &str,
        password: &Secret,
        hash: &Secret,
        now: Instant,
    ) -> bool {
        let mac = self.mac(user, password, hash);
        let fresh = |since: &Instant| now.saturating_duration_since(*since) < LASTS;
        match self.since.get(&mac).map(fresh) {
            Some(true) => self.since.put(mac, now).is_some(),
            Some(false) => self.since.pop(&mac).is_none(),
            None => false,
        }
    }

    /// It is.
    pub(crate) fn learn(&mut self, user: &str, password: &Secret, hash: &Secret, now: Instant) {
        self.since.put(self.mac(user, password, hash), now);
    }

    fn mac(&self, user: &str, password: &Secret, hash: &Secret) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key may have any length");
        for text in [user.as_bytes(), &password.0, &hash.0] {
            mac.update(&(text.len() as u64).to_le_bytes());
            mac.update(text);
        }
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_right_is_known_for_a_while_and_until_it_changes() {
        let secret = |text: &str| Secret(text.as_bytes().to_vec());
        let (password, hash, now) = (secret("correct horse"), secret("$1"), Instant::now());
        let mut known = Known::new();
        assert!(!known.has("ann", &password, &hash, now));
        known.learn("ann", &password, &hash, now);
        assert!(known.has("ann", &password, &hash, now + LASTS - Duration::from_secs(1)));
        for (user, shown, kept) in [
            ("bob", &password, &hash),
            ("ann", &secret("correct hors"), &hash),
            ("ann", &password, &secret("$2")),
            ("an", &secret("ncorrect horse"), &hash),
        ] {
            assert!(!known.has(user, shown, kept, now), "{user}");
        }
        let later = now + LASTS - Duration::from_secs(1);
        assert!(known.has("ann", &password, &hash, later + LASTS - Duration::from_secs(1)));
        assert!(!known.has("ann", &password, &hash, later + 2 * LASTS));
    }
}
