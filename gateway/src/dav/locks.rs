//! Locks of clients, by paths: who may change what is locked says a token of it. Pure: what time it is, is said.
//!
//! They are in memory, each for at most an hour unless it is refreshed, and end with the process. They hold among clients of
//! WebDAV alone; a lock of the root of the tree, say, keeps no program on the mount from writing.

use std::time::{Duration, Instant};

use fs::tree::TreePath;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::address::is_in;

/// Locks at once.
pub(super) const MOST: usize = 1024;

/// What is locked, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) token: String,
    pub(super) path: TreePath,
    /// With all that is in the folder.
    pub(super) deep: bool,
    /// Others may have a shared one, too.
    pub(super) shared: bool,
    /// What the client says of its user, as XML.
    pub(super) owner: Option<String>,
    /// How long it lasts from the last time that it was asked for.
    pub(super) lasts: Duration,
    until: Instant,
}

/// What a client wants to lock.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) path: TreePath,
    pub(super) deep: bool,
    pub(super) shared: bool,
    pub(super) owner: Option<String>,
    pub(super) lasts: Duration,
}

/// Why there is no lock.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoLock {
    /// This one is in the way.
    Locked(TreePath),
    /// There are too many.
    TooMany,
}

/// What a change reaches beside what it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// All that is in it.
    pub(super) below: bool,
    /// The folder that it is in, which gets or loses a name.
    pub(super) folder: bool,
}

/// All of a volume.
#[derive(Default)]
pub(super) struct Locks(Mutex<Vec<Lock>>);

impl Lock {
    fn covers(&self, path: &TreePath) -> bool {
        if self.deep { is_in(path, &self.path) } else { *path == self.path }
    }

    /// What is left of it.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }
}

impl Locks {
    fn valid(&self, now: Instant) -> parking_lot::MutexGuard<'_, Vec<Lock>> {
        let mut locks = self.0.lock();
        locks.retain(|lock| lock.until > now);
        locks
    }

    /// Locks something.
    pub(super) fn lock(&self, wanted: Wanted, now: Instant) -> Result<Lock, NoLock> {
        let mut locks = self.valid(now);
        let Wanted { path, deep, shared, owner, lasts } = wanted;
        let meets = |lock: &&Lock| lock.covers(&path) || deep && is_in(&lock.path, &path);
        let in_the_way = |lock: &&Lock| meets(lock) && !(shared && lock.shared);
        if let Some(other) = locks.iter().find(in_the_way) {
            return Err(NoLock::Locked(other.path.clone()));
        }
        if locks.len() >= MOST {
            return Err(NoLock::TooMany);
        }
        let token = format!("urn:uuid:{}", Uuid::new_v4());
        let lock = Lock { token, path, deep, shared, owner, lasts, until: now + lasts };
        locks.push(lock.clone());
        Ok(lock)
    }

    /// Has the lock of one of these tokens that covers the path last longer. `None`: none does.
    pub(super) fn refresh(
        &self,
        path: &TreePath,
        tokens: &[String],
        lasts: Duration,
        now: Instant,
    ) -> Option<Lock> {
        let mut locks = self.valid(now);
        let lock =
            locks.iter_mut().find(|lock| lock.covers(path) && tokens.contains(&lock.token))?;
        (lock.lasts, lock.until) = (lasts, now + lasts);
        Some(lock.clone())
    }

    /// Ends a lock. Was it there?
    pub(super) fn unlock(&self, path: &TreePath, token: &str, now: Instant) -> bool {
        let mut locks = self.valid(now);
        let found = locks.iter().position(|lock| lock.covers(path) && lock.token == token);
        found.map(|at| locks.swap_remove(at)).is_some()
    }

    /// Those that cover a path.
    pub(super) fn of(&self, path: &TreePath, now: Instant) -> Vec<Lock> {
        self.valid(now).iter().filter(|lock| lock.covers(path)).cloned().collect()
    }

    /// Is this path locked by this token?
    pub(super) fn holds(&self, path: &TreePath, token: &str, now: Instant) -> bool {
        self.valid(now).iter().any(|lock| lock.covers(path) && lock.token == token)
    }

    /// May whoever has these tokens change this?
    ///
    /// # Errors
    /// What is locked.
    pub(super) fn allow(
        &self,
        path: &TreePath,
        reach: Reach,
        tokens: &[String],
        now: Instant,
    ) -> Result<(), TreePath> {
        let locks = self.valid(now);
        let folder = path.split().filter(|_| reach.folder).map(|(folder, _)| folder);
        // Of several that cover one place, which are shared, one token is enough.
        let told: Vec<&Lock> = locks.iter().filter(|lock| tokens.contains(&lock.token)).collect();
        let is_told = |at: &TreePath| told.iter().any(|lock| lock.covers(at));
        let below = locks.iter().filter(|lock| reach.below && is_in(&lock.path, path));
        let free = |at: &TreePath| is_told(at) || !locks.iter().any(|lock| lock.covers(at));
        match [Some(path), folder.as_ref()].into_iter().flatten().find(|at| !free(at)) {
            Some(at) => {
                Err(locks.iter().find(|lock| lock.covers(at)).map_or(at, |l| &l.path).clone())
            }
            None => below
                .map(|lock| &lock.path)
                .find(|at| !is_told(at))
                .map_or(Ok(()), |at| Err(at.clone())),
        }
    }

    /// The tokens of what is at a path and in it now.
    pub(super) fn tokens_in(&self, path: &TreePath) -> Vec<String> {
        let locks = self.0.lock();
        locks.iter().filter(|lock| is_in(&lock.path, path)).map(|lock| lock.token.clone()).collect()
    }

    /// Those of these locks are gone whose places are, as `is_gone` says: others have been taken since.
    pub(super) fn forget(&self, tokens: &[String], is_gone: impl Fn(&TreePath) -> bool) {
        self.0.lock().retain(|lock| !(tokens.contains(&lock.token) && is_gone(&lock.path)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    fn wanted(text: &str, deep: bool, shared: bool) -> Wanted {
        Wanted { path: path(text), deep, shared, owner: None, lasts: Duration::from_secs(10) }
    }

    const BELOW: Reach = Reach { below: true, folder: true };
    const HERE: Reach = Reach { below: false, folder: false };
    const NAME: Reach = Reach { below: false, folder: true };

    #[test]
    fn locks_exclude_one_another_unless_both_are_shared() {
        let now = Instant::now();
        for (first, second, both) in [
            (("a", false, false), ("a", false, false), false),
            (("a", false, true), ("a", false, true), true),
            (("a", false, true), ("a", false, false), false),
            (("a", false, false), ("a", false, true), false),
            (("a", false, false), ("b", false, false), true),
            (("a", false, false), ("a/b", false, false), true),
            (("a", true, false), ("a/b", false, false), false),
            (("a/b", false, false), ("a", true, false), false),
            (("a/b", false, false), ("a", false, false), true),
            (("a", true, true), ("a/b/c", true, true), true),
            (("", true, false), ("a", false, false), false),
            (("a", true, false), ("ab", false, false), true),
        ] {
            let locks = Locks::default();
            locks.lock(wanted(first.0, first.1, first.2), now).unwrap();
            let found = locks.lock(wanted(second.0, second.1, second.2), now);
            assert_eq!(found.is_ok(), both, "{first:?} {second:?}");
        }
    }

    #[test]
    fn what_is_locked_is_changed_by_who_has_the_token_alone() {
        let now = Instant::now();
        for (locked, deep, changed, reach, free) in [
            ("a", false, "a", HERE, false),
            ("a", false, "a/b", HERE, true),
            ("a", false, "a/b", NAME, false),
            ("a", true, "a/b", HERE, false),
            ("a/b", false, "a", HERE, true),
            ("a/b", false, "a", BELOW, false),
            ("a/b", false, "a/c", NAME, true),
        ] {
            let locks = Locks::default();
            let token = locks.lock(wanted(locked, deep, false), now).unwrap().token;
            let at = path(changed);
            let of = |tokens: &[String]| locks.allow(&at, reach, tokens, now);
            assert_eq!(of(&[]).is_ok(), free, "{locked} {changed}");
            assert_eq!(of(&["urn:other".to_owned()]).is_ok(), free, "{locked} {changed}");
            assert!(of(&[token]).is_ok(), "{locked} {changed}");
        }
        let locks = Locks::default();
        let one = locks.lock(wanted("a", false, true), now).unwrap().token;
        locks.lock(wanted("a", false, true), now).unwrap();
        assert!(locks.allow(&path("a"), HERE, &[one], now).is_ok(), "one of two shared ones");
        assert_eq!(locks.allow(&path("a"), HERE, &[], now), Err(path("a")));
        let locks = Locks::default();
        let above = locks.lock(wanted("a", true, true), now).unwrap().token;
        let below = locks.lock(wanted("a/b", true, true), now).unwrap().token;
        let of = |at: &str, token: &String| {
            locks.allow(&path(at), BELOW, std::slice::from_ref(token), now)
        };
        assert!(of("a/b/x", &above).is_ok() && of("a/b/x", &below).is_ok(), "both cover it");
        assert!(of("a", &above).is_ok() && of("a", &below).is_err(), "one of all that is in it");
    }

    #[test]
    fn locks_end() {
        let (now, locks) = (Instant::now(), Locks::default());
        let later = |seconds| now + Duration::from_secs(seconds);
        let token = locks.lock(wanted("a", false, false), now).unwrap().token;
        assert!(locks.holds(&path("a"), &token, later(9)));
        let more = Duration::from_secs(100);
        let refreshed = locks.refresh(&path("a"), std::slice::from_ref(&token), more, later(9));
        assert_eq!(refreshed.unwrap().left(later(10)), Duration::from_secs(99));
        assert!(locks.refresh(&path("b"), std::slice::from_ref(&token), more, later(9)).is_none());
        assert!(
            locks.of(&path("a"), later(108)).len() == 1
                && locks.of(&path("a"), later(109)).is_empty()
        );
        assert!(!locks.unlock(&path("a"), &token, later(109)), "it has ended by itself");

        let token = locks.lock(wanted("a", true, false), now).unwrap().token;
        assert!(!locks.unlock(&path("b"), &token, now) && !locks.unlock(&path("a"), "urn:x", now));
        assert!(locks.unlock(&path("a/b"), &token, now) && !locks.holds(&path("a"), &token, now));
        locks.lock(wanted("a/b", true, false), now).unwrap();
        let gone = locks.tokens_in(&path("a"));
        locks.lock(wanted("a/c", false, false), now).unwrap();
        locks.forget(&gone, |at| *at != path("a/b"));
        assert_eq!(locks.of(&path("a/b"), now).len(), 1, "it is still there");
        locks.forget(&gone, |_| true);
        assert_eq!(locks.lock(wanted("a", true, false), now), Err(NoLock::Locked(path("a/c"))));
        locks.forget(&locks.tokens_in(&path("a")), |_| true);
        assert!(locks.lock(wanted("a", true, false), now).is_ok(), "gone with what it was about");
    }

    #[test]
    fn there_are_only_so_many() {
        let (now, locks) = (Instant::now(), Locks::default());
        for number in 0..MOST {
            locks.lock(wanted(&number.to_string(), false, false), now).unwrap();
        }
        assert_eq!(locks.lock(wanted("one more", false, false), now), Err(NoLock::TooMany));
        let later = now + Duration::from_secs(10);
        assert!(locks.lock(wanted("one more", false, false), later).is_ok());
    }
}
