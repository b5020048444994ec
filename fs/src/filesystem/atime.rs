//! When files were read, until metadata is told.
//!
//! A read makes no transaction: it is noted here, and told to metadata seconds later, with all
//! others, in few transactions. Whether it counts (`relatime`) is decided when it is told, or shown
//! by stat(2): only there the other times are at hand. So a read costs a look into a map, and what a
//! crash takes is access times alone.
//!
//! What reaches us are requests of the kernel: who reads its cached pages is not seen, and neither is
//! who only opens.
//!
//! Invariants:
//! * a time that somebody set is not replaced by that of an earlier read;
//! * what is told stays noted until metadata has it, and [`Atimes::told`] moves before it goes, so
//!   that whoever asks both can tell that he has met a time in neither.

use std::collections::HashMap;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;

use meta::{Attr, Ino, Kind, MetaError, MetaStore, Time};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{MutexGuard, Notify};
use tokio::time::timeout;

use crate::options::{Atime, MountOptions};

/// Reads are told to metadata so long after the first of them, unless there are very many.
const TELL_READS: Duration = Duration::from_secs(10);
/// Access times that are set in one transaction: who sets a time waits for no more than these.
const TELL_BATCH: usize = 128;
/// With `relatime`, an access time as old as this is replaced by any read.
const OLD: i64 = 24 * 3600;
/// Session threads rarely meet in one shard.
const SHARDS: usize = 16;
/// So many inodes with reads that metadata does not know of are told at once.
const CROWDED: usize = 1 << 16;

/// Which reads count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AtimeRules {
    files: Atime,
    directories: Atime,
}

impl AtimeRules {
    /// As a mount was asked for.
    pub(crate) fn of(options: &MountOptions) -> Self {
        let files = match options.atime {
            _ if options.read_only => Atime::Never,
            chosen => chosen.unwrap_or(Atime::Relative),
        };
        let directories = if options.nodiratime { Atime::Never } else { files };
        Self { files, directories }
    }

    /// As the kernel shows a mount's options, where `strictatime` is the lack of a word.
    pub(crate) fn shown(words: &str) -> Self {
        let says = |word| words.split(',').any(|said| said == word);
        let atime = match () {
            () if says("noatime") => Atime::Never,
            () if says("relatime") => Atime::Relative,
            () => Atime::Strict,
        };
        Self::of(&MountOptions {
            read_only: says("ro"),
            nodiratime: says("nodiratime"),
            atime: Some(atime),
            ..MountOptions::default()
        })
    }

    fn of_kind(self, kind: Kind) -> Atime {
        if kind == Kind::Directory { self.directories } else { self.files }
    }
}

/// Reads of one inode that metadata does not know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reads {
    first: Time,
    last: Time,
}

impl Reads {
    /// The access time after these reads of what has these times.
    fn atime(self, rule: Atime, attr: &Attr) -> Time {
        let changed = attr.mtime.max(attr.ctime);
        let is_old = self.last.secs.saturating_sub(attr.atime.secs) >= OLD;
        match rule {
            Atime::Never => attr.atime,
            Atime::Strict => self.last,
            Atime::Relative if attr.atime > changed && !is_old => attr.atime,
            // The first one counted, the change made it old, and so another one did.
            Atime::Relative if self.first <= changed && changed < self.last => self.last,
            Atime::Relative => self.first,
        }
    }
}

/// Reads that metadata does not know of.
pub(crate) struct Atimes {
    rules: RwLock<AtimeRules>,
    shards: [Mutex<HashMap<Ino, Reads>>; SHARDS],
    noted: AtomicUsize,
    told: AtomicU64,
    telling: tokio::sync::Mutex<()>,
    /// There is something to tell, sooner or later.
    some: Notify,
    /// There is much of it.
    many: Notify,
}

impl Atimes {
    /// None, under the rules of a plain mount.
    pub(crate) fn new() -> Self {
        Self {
            rules: RwLock::new(AtimeRules::of(&MountOptions::default())),
            shards: std::array::from_fn(|_| Mutex::default()),
            noted: AtomicUsize::new(0),
            told: AtomicU64::new(0),
            telling: tokio::sync::Mutex::default(),
            some: Notify::new(),
            many: Notify::new(),
        }
    }

    /// What counts from now on. What was noted before goes by the new rules, unless it was told.
    pub(crate) fn obey(&self, rules: AtimeRules) {
        *self.rules.write() = rules;
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Reads>> {
        &self.shards[ino.0 as usize % SHARDS]
    }

    /// Somebody read what is of this kind.
    pub(crate) fn note(&self, ino: Ino, kind: Kind, now: Time) {
        if self.rules.read().of_kind(kind) == Atime::Never {
            return;
        }
        let mut shard = self.shard(ino).lock();
        let before = shard.len();
        shard.entry(ino).or_insert(Reads { first: now, last: now }).last = now;
        if shard.len() > before {
            match self.noted.fetch_add(1, Relaxed) {
                0 => self.some.notify_one(),
                CROWDED => self.many.notify_one(),
                _ => {}
            }
        }
    }

    /// The access time that stat(2) shows of what metadata, and what is not stored, say this of.
    pub(crate) fn atime(&self, attr: &Attr) -> Time {
        if self.noted.load(Relaxed) == 0 {
            return attr.atime;
        }
        let reads = self.shard(attr.ino).lock().get(&attr.ino).copied();
        let rule = self.rules.read().of_kind(attr.kind);
        reads.map_or(attr.atime, |reads| reads.atime(rule, attr))
    }

    /// Discards reads of an inode, so that a time can be set: until the answer is dropped, nothing
    /// is told. Waits for a batch that is being told, not for all there is.
    pub(crate) async fn discard(&self, ino: Ino) -> MutexGuard<'_, ()> {
        let telling = self.telling.lock().await;
        if self.shard(ino).lock().remove(&ino).is_some() {
            self.noted.fetch_sub(1, Relaxed);
        }
        telling
    }

    /// The mount ends: nobody waits for more to tell.
    pub(crate) fn end(&self) {
        self.some.notify_one();
        self.many.notify_one();
    }

    /// How often something was told: see the invariants.
    pub(crate) fn told(&self) -> u64 {
        self.told.load(SeqCst)
    }

    /// So many inodes have reads that metadata does not know of.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.noted.load(Relaxed)
    }

    /// Of which inodes there is something to tell, in order.
    fn noted(&self) -> Vec<Ino> {
        let noted =
            |shard: &Mutex<HashMap<Ino, Reads>>| shard.lock().keys().copied().collect::<Vec<_>>();
        let mut inos: Vec<_> = self.shards.iter().flat_map(noted).collect();
        inos.sort_unstable();
        inos
    }

    /// What there still is to tell of these.
    async fn tell(&self, inos: &[Ino]) -> Telling<'_> {
        let guard = self.telling.lock().await;
        let noted = |ino: &Ino| Some((*ino, *self.shard(*ino).lock().get(ino)?));
        let reads = inos.iter().filter_map(noted).collect();
        Telling { atimes: self, reads, _guard: guard }
    }
}

/// Reads that are being told, and no time is set meanwhile.
struct Telling<'a> {
    atimes: &'a Atimes,
    /// In order of inode.
    reads: Vec<(Ino, Reads)>,
    _guard: MutexGuard<'a, ()>,
}

impl Telling<'_> {
    async fn tell(
        &self,
        meta: &dyn MetaStore,
        shown: &(impl Fn(Attr) -> Attr + Send + Sync),
    ) -> Result<(), MetaError> {
        let mut times = Vec::with_capacity(self.reads.len());
        for &(ino, _) in &self.reads {
            let known = match meta.getattr(ino).await {
                Err(MetaError::NotFound | MetaError::Damaged(_)) => continue,
                known => known?,
            };
            let atime = shown(known).atime;
            if atime != known.atime {
                times.push((ino, atime));
            }
        }
        if !times.is_empty() {
            meta.accessed(&times).await?;
        }
        Ok(())
    }

    /// Metadata has all of it. Who was read meanwhile stays noted.
    fn done(self) {
        self.atimes.told.fetch_add(1, SeqCst);
        for (ino, reads) in &self.reads {
            let mut shard = self.atimes.shard(*ino).lock();
            if shard.get(ino) == Some(reads) {
                shard.remove(ino);
                self.atimes.noted.fetch_sub(1, Relaxed);
            }
        }
    }
}

impl Atimes {
    /// Waits until there is something to tell, and for more of it: not for long, nor when there is much, or when the
    /// mount ends.
    pub(crate) async fn due(&self) {
        self.some.notified().await;
        let _early = timeout(TELL_READS, self.many.notified()).await;
    }

    /// Tells metadata what was read so far. `shown`: attributes as stat(2) shows them. What metadata do not take stays
    /// noted.
    pub(crate) async fn tell_all(
        &self,
        meta: &dyn MetaStore,
        shown: impl Fn(Attr) -> Attr + Send + Sync,
    ) {
        for batch in self.noted().chunks(TELL_BATCH) {
            let telling = self.tell(batch).await;
            match telling.tell(meta, &shown).await {
                Ok(()) => telling.done(),
                Err(e) => {
                    tracing::warn!("access times stay in memory for now: {e}");
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
        if self.noted.load(Relaxed) > 0 {
            self.some.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Time {
        Time { secs, nanos: 0 }
    }

    fn attr(atime: i64, mtime: i64, ctime: i64) -> Attr {
        let (atime, mtime, ctime) = (at(atime), at(mtime), at(ctime));
        Attr { atime, mtime, ctime, ..crate::testing::empty_file(Ino(7), at(0)) }
    }

    #[test]
    fn relatime_counts_the_first_read_after_a_change_and_what_is_a_day_later() {
        let cases = [
            ("never read since it was made", (10, 10, 10), (20, 30), 20),
            ("read since its last change", (11, 10, 10), (20, 30), 11),
            ("its attributes changed since", (11, 10, 15), (20, 30), 20),
            ("changed between two reads", (11, 10, 25), (20, 30), 30),
            ("changed after them", (11, 35, 10), (20, 30), 20),
            ("read a day ago", (11, 10, 10), (11 + OLD, 12 + OLD), 11 + OLD),
        ];
        for (what, (atime, mtime, ctime), (first, last), expected) in cases {
            let (attr, reads) =
                (attr(atime, mtime, ctime), Reads { first: at(first), last: at(last) });
            assert_eq!(reads.atime(Atime::Relative, &attr), at(expected), "{what}");
            assert_eq!(reads.atime(Atime::Strict, &attr), at(last), "{what}");
            assert_eq!(reads.atime(Atime::Never, &attr), at(atime), "{what}");
            // What was shown stays what is shown, once metadata has it.
            let told = Attr { atime: at(expected), ..attr };
            assert_eq!(reads.atime(Atime::Strict, &told), at(last), "{what}");
            if expected > mtime.max(ctime) {
                assert_eq!(reads.atime(Atime::Relative, &told), at(expected), "{what}");
            }
        }
    }

    #[test]
    fn rules_are_read_as_they_are_asked_for_and_as_the_kernel_shows_them() {
        let rules = |files, directories| AtimeRules { files, directories };
        let cases = [
            ("rw,relatime,rw,user_id=0", rules(Atime::Relative, Atime::Relative)),
            ("rw,noatime,rw", rules(Atime::Never, Atime::Never)),
            ("rw,nodiratime,relatime", rules(Atime::Relative, Atime::Never)),
            ("rw,rw,user_id=0", rules(Atime::Strict, Atime::Strict)),
            ("ro,relatime,rw", rules(Atime::Never, Atime::Never)),
        ];
        for (words, expected) in cases {
            assert_eq!(AtimeRules::shown(words), expected, "{words}");
        }
        let plain = MountOptions::default();
        assert_eq!(AtimeRules::of(&plain), rules(Atime::Relative, Atime::Relative));
        let strict = MountOptions { atime: Some(Atime::Strict), nodiratime: true, ..plain };
        assert_eq!(AtimeRules::of(&strict), rules(Atime::Strict, Atime::Never));
    }

    #[tokio::test]
    async fn what_was_read_while_it_was_told_stays_noted() {
        let atimes = Atimes::new();
        atimes.note(Ino(7), Kind::File, at(20));
        atimes.note(Ino(8), Kind::File, at(20));
        assert_eq!(atimes.noted(), [Ino(7), Ino(8)]);
        let telling = atimes.tell(&[Ino(7), Ino(8)]).await;
        let both = Reads { first: at(20), last: at(20) };
        assert_eq!(telling.reads, [(Ino(7), both), (Ino(8), both)]);
        atimes.note(Ino(7), Kind::File, at(30));
        let told = atimes.told();
        telling.done();
        // Who has looked into metadata before, and here now, must look again.
        assert_ne!(atimes.told(), told);
        let again = Reads { last: at(30), ..both };
        assert_eq!(atimes.tell(&[Ino(7), Ino(8)]).await.reads, [(Ino(7), again)]);
        drop(atimes.discard(Ino(7)).await);
        assert_eq!(atimes.atime(&attr(10, 10, 10)), at(10));
        assert_eq!(atimes.noted.load(Relaxed), 0);
    }
}
