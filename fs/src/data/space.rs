//! Room in the store: what of it is promised, what is free, and what is kept back.
//!
//! The store is a log: an overwrite takes new room before the old bytes' room comes back by cleaning.
//! So there are two accounts, both in bytes of user data after redundancy.
//!
//! **Promised** is what files have: bytes stored (each as often as files refer to it, so a clone
//! counts as the copy that its user sees), allocated zeros, and bytes written that are not stored
//! yet. New bytes are taken while that stays below the *limit*; bytes that replace promised ones are
//! always taken. What df says is this account.
//!
//! **Free** is what the store can take at this moment. It is less than what is not promised, by dead
//! bytes and by how small blobs are kept; the cleaner turns those into free room, and who needs more
//! than there is waits for it.
//!
//! ```text
//! 0                                 limit                        potential
//! |-- promised ---|-- available -----|-- metadata --|-- kept back -|
//! ```
//!
//! The limit falls a little as disks fill unevenly. What is promised by then stays promised: what is
//! given up of it can be promised anew.
//!
//! Metadata are kept on the same disks. One twelfth of all is theirs, so much that every block of 4 KiB may be
//! written by itself (an extent of some 67 bytes in m + 1 copies, in the table, in the journal, and once more
//! while the table is written anew). Where they take more, the limit falls; where all is promised then, names go
//! on to be made until a part of what is kept back is gone ([`NAMES_SHARE`]), and again once something is given
//! up.
//!
//! The potential is what all blobs of the volume take and what is free. What is kept back, one
//! sixteenth (of a small volume more) and what chance leaves uneven among disks, is nobody's to
//! promise: it is where overwrites go before they are cleaned after, so that the cleaner moves a bounded
//! number of bytes for each that it gains. It must be room for many blobs, or what is dead of them cannot
//! be told from what is being written: on small disks blobs are smaller ([`proxy::blob_len`]).
//!
//! While slots are away, bytes that were stored before have fewer parts on the others than those that
//! replace them ([`crate::data::reach`]), and so does what is allocated: replacing it takes of what is kept
//! back, for as long as they are away. It may take all but what the cleaner needs to go on. From then on
//! room is *tight*: only what has been stored since can be overwritten, and that for ever.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use meta::Usage;
use parking_lot::Mutex;
use proto::id::BlobId;
use proto::limits::{DISK_BLOCK, TARGET_BLOB, footprint};
use proto::scheme::Scheme;
use proxy::Space;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::DataError;

/// Share of the potential that is kept back, and of a small one, which keeps back at most so many bytes.
const KEPT_SHARE: u64 = 16;
const KEPT_SHARE_OF_SMALL: u64 = 5;
const KEPT_OF_SMALL: u64 = 6 * TARGET_BLOB as u64;
/// Share of what is kept back by which the limit may fall below what is promised, and this be kept.
const OVER_SHARE: u64 = 8;
/// Share of the potential that is the metadata's.
const METADATA_SHARE: u64 = 12;
/// Inline blobs may have this share of the limit, or so many bytes.
const INLINE_SHARE: u64 = 256;
const INLINE_LEAST: u64 = 256 << 10;
/// Share of it that names may take where all is promised.
const NAMES_SHARE: u64 = 16;
/// Share of the room that full blobs take for what is lost where ranges are cut, in thousandths.
const CUT: u64 = 10;
/// What is kept free for the cleaner itself, at most, in blobs.
const CLEANERS: u64 = 2;
/// Free room from which on the cleaner need not hurry on any volume, in bytes.
const PLENTY: u64 = 256 << 20;
/// Metadata and the store are asked one after the other: what is under way between them is missed
/// by both. The highest answer of so long a time counts.
const SAMPLES: Duration = Duration::from_secs(5);

/// How long too few disks that take writes are waited for before anything is refused.
const JUST: Duration = Duration::from_secs(2);

/// How long bytes that there is no room for are waited with, in case some comes back.
pub(crate) const FULL_PATIENCE: Duration = Duration::from_secs(3);

/// What a full blob has of padding, at most, in bytes.
const PADDING: u32 = 2 * DISK_BLOCK as u32;

/// The two accounts.
pub(crate) struct StoreRoom {
    scheme: Scheme,
    /// Bytes of a full blob.
    blob: AtomicU32,
    /// Most bytes that may be promised; `u64::MAX` before the store was heard.
    limit: AtomicU64,
    /// Most bytes that may be promised while names are made.
    names: AtomicU64,
    /// What metadata take, and their share: data may be promised the less the less of it they take.
    metadata: Mutex<(u64, u64)>,
    /// By how much metadata may grow within their share.
    growth: AtomicU64,
    /// The most that was promised since that is more than the limit would be; else 0.
    over: AtomicU64,
    /// What is promised of it, as metadata knows.
    stored: AtomicU64,
    /// What is written and not stored.
    unstored: AtomicU64,
    free: AtomicU64,
    kept: AtomicU64,
    /// Cost of puts that the store has not counted yet.
    taken: AtomicU64,
    /// Garbage whose record only waits for slots that are away.
    deleted: AtomicU64,
    /// The slots that take no writes, a bit for each.
    away: AtomicU64,
    potential: Mutex<Option<(u64, Instant)>>,
    /// Those who wait for free room.
    waiting: AtomicU64,
    refused: AtomicBool,
    exhausted: AtomicBool,
    cut_off: AtomicBool,
    why_cut_off: Mutex<Option<String>>,
    cut_off_since: Mutex<Option<Instant>>,
    /// Told when there is more free room, or the cleaner has found none.
    pub(crate) freed: Notify,
    /// Tells the cleaner that somebody waits.
    pub(crate) wanted: Notify,
}

/// Free room that a put has taken.
pub(crate) struct Taken<'a> {
    room: &'a StoreRoom,
    cost: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.cost, Relaxed);
    }
}

/// One who waits for free room.
pub(crate) struct Waiting<'a>(&'a StoreRoom);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl StoreRoom {
    /// Of a volume of this scheme; nothing is known yet.
    pub(crate) fn new(scheme: Scheme) -> Self {
        Self {
            scheme,
            blob: AtomicU32::new(TARGET_BLOB),
            limit: AtomicU64::new(u64::MAX),
            names: AtomicU64::new(u64::MAX),
            metadata: Mutex::default(),
            growth: AtomicU64::new(0),
            over: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            unstored: AtomicU64::new(0),
            free: AtomicU64::new(u64::MAX),
            kept: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
            away: AtomicU64::new(0),
            potential: Mutex::default(),
            waiting: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            exhausted: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            why_cut_off: Mutex::default(),
            cut_off_since: Mutex::default(),
            freed: Notify::new(),
            wanted: Notify::new(),
        }
    }

    fn user_bytes(&self, on_disks: u64) -> u64 {
        on_disks / self.scheme.parts() as u64 * self.scheme.data_parts() as u64
    }

    /// Room that a blob takes: a small one, kept as whole copies with a header each, takes several
    /// times its length.
    pub(crate) fn cost(&self, id: &BlobId) -> u64 {
        self.user_bytes(id.disk_bytes())
    }

    /// Bytes of a full blob: what large data are cut into.
    pub(crate) fn blob(&self) -> u32 {
        self.blob.load(Relaxed)
    }

    /// How much of the room that a full blob takes is its data, in thousandths: headers and padding are
    /// the rest.
    pub(crate) fn packed(&self) -> u64 {
        let blob = self.blob();
        let takes =
            self.user_bytes(footprint(self.scheme.part_len(blob)) * self.scheme.parts() as u64);
        u64::from(blob - PADDING) * 1000 / takes
    }

    /// What the store and metadata say now; these take so many bytes of disk themselves.
    pub(crate) fn learn(&self, space: Space, usage: &Usage, metadata: u64) {
        self.note_stored(usage);
        self.note_cut_off(space);
        self.away.store(space.away, Relaxed);
        if space.capacity == 0 {
            return;
        }
        self.blob.store(space.blob, Relaxed);
        let ours = self.user_bytes(usage.disk_bytes).saturating_sub(self.deleted.load(Relaxed));
        let potential = self.sample((space.available + ours).min(space.capacity));
        let small = (potential / KEPT_SHARE_OF_SMALL).min(KEPT_OF_SMALL);
        let kept = (potential / KEPT_SHARE).max(small) + space.uneven;
        let kept = kept.min(potential / 2);
        let metadata = self.user_bytes(metadata);
        let share = (potential + metadata) / METADATA_SHARE;
        *self.metadata.lock() = (metadata, share);
        let growth = share.saturating_sub(metadata);
        self.growth.store(growth, Relaxed);
        let limit = (potential - kept).saturating_sub(growth) / 1000 * (self.packed() - CUT);
        self.kept.store(kept, Relaxed);
        // Names need fewer disks than data, and have room of their own: what metadata have not taken yet.
        let beyond = limit + growth + kept / NAMES_SHARE;
        let names = if space.is_cut_off() { u64::MAX } else { beyond };
        self.names.store(names, Relaxed);
        self.keep_limit(limit, kept);
        let free = space.available.saturating_sub(self.taken.load(Relaxed));
        let before = self.free.swap(free, Relaxed);
        if free > before {
            self.refused.store(false, Relaxed);
            self.freed.notify_waiters();
        }
    }

    /// Where a little more is promised than the limit, the most that was promised since is the limit,
    /// until it is above that again.
    fn keep_limit(&self, limit: u64, kept: u64) {
        let promised = self.over.load(Relaxed).max(self.stored.load(Relaxed));
        let over = promised.min(limit + kept / OVER_SHARE);
        self.over.store(if over > limit { over } else { 0 }, Relaxed);
        self.limit.store(limit.max(over), Relaxed);
    }

    fn note_cut_off(&self, space: Space) {
        let (takers, needed) = (space.takers, space.needed);
        let why = format!(
            "too few disks take writes: {needed} are needed that can fail independently, {takers} do"
        );
        *self.why_cut_off.lock() = space.is_cut_off().then_some(why);
        let mut since = self.cut_off_since.lock();
        *since = space.is_cut_off().then(|| since.unwrap_or_else(Instant::now));
        drop(since);
        self.cut_off.store(space.is_cut_off(), Relaxed);
    }

    fn sample(&self, potential: u64) -> u64 {
        let mut highest = self.potential.lock();
        match *highest {
            Some((of, at)) if of > potential && at.elapsed() < SAMPLES => of,
            _ => highest.insert((potential, Instant::now())).0,
        }
    }

    /// Bytes of user room that metadata take, and their share.
    pub(crate) fn metadata(&self) -> (u64, u64) {
        *self.metadata.lock()
    }

    /// What metadata says is promised.
    pub(crate) fn note_stored(&self, usage: &Usage) {
        self.stored.store(usage.live_bytes + usage.allocated_bytes, Relaxed);
    }

    /// Bytes that wait to be stored were so many and are so many now.
    pub(crate) fn note_unstored(&self, before: u64, after: u64) {
        self.unstored.fetch_add(after.wrapping_sub(before), Relaxed);
    }

    /// Bytes that wait to be stored.
    pub(crate) fn unstored(&self) -> u64 {
        self.unstored.load(Relaxed)
    }

    /// Bytes that inline blobs may have: few beside what the volume has room for.
    pub(crate) fn inline_most(&self) -> u64 {
        self.limit().map_or(0, |limit| (limit / INLINE_SHARE).max(INLINE_LEAST))
    }

    /// May so many new bytes be promised?
    pub(crate) fn fits(&self, len: u64) -> bool {
        let promised = self.stored.load(Relaxed) + self.unstored.load(Relaxed);
        let fits = promised + len <= self.limit.load(Relaxed);
        fits && !self.cut_off.load(Relaxed) && !self.is_tight()
    }

    /// May names and attributes be made, which take room of what is kept back where all is promised?
    ///
    /// # Errors
    /// [`DataError::NoSpace`].
    pub(crate) fn admit_names(&self) -> Result<(), DataError> {
        let promised = self.stored.load(Relaxed) + self.unstored.load(Relaxed);
        if promised <= self.names.load(Relaxed) { Ok(()) } else { Err(DataError::NoSpace) }
    }

    /// The slots that take no writes, a bit for each.
    pub(crate) fn away(&self) -> u64 {
        self.away.load(Relaxed)
    }

    /// Are slots away, and has what was replaced since, or waits to be stored, taken of the others what
    /// may be taken?
    pub(crate) fn is_tight(&self) -> bool {
        self.is_tight_for(self.unstored.load(Relaxed))
    }

    fn is_tight_for(&self, unstored: u64) -> bool {
        let left = self.free.load(Relaxed).saturating_sub(unstored);
        self.away() != 0 && left < self.plenty()
    }

    /// Do too few disks take writes?
    pub(crate) fn is_cut_off(&self) -> bool {
        self.cut_off.load(Relaxed)
    }

    /// Do too few disks take writes, and was that not so a moment ago? They may be back at once: a machine that stood still
    /// has lost all its connections.
    pub(crate) fn is_just_cut_off(&self) -> bool {
        self.cut_off_since.lock().is_some_and(|since| since.elapsed() < JUST)
    }

    /// Why nothing can be written, if so few disks take writes.
    pub(crate) fn why_cut_off(&self) -> Option<String> {
        self.why_cut_off.lock().clone()
    }

    /// Why little can be written: so few disks take writes, or those that do have no room for more.
    pub(crate) fn why_no_writes(&self) -> Option<String> {
        let tight = || {
            "disks are away, and the others have no room to take over what was stored on them: until they \
             are back, only what was stored since can be overwritten"
        };
        self.why_cut_off().or_else(|| self.is_tight_for(0).then(|| tight().to_owned()))
    }

    /// Why there is no room: the store is full, or its disks are out of reach.
    pub(crate) fn why_short(&self) -> DataError {
        self.why_cut_off().map_or(DataError::NoSpace, DataError::Unavailable)
    }

    /// All that may be promised; `None` when the store has not been heard.
    pub(crate) fn limit(&self) -> Option<u64> {
        let limit = self.limit.load(Relaxed);
        (limit != u64::MAX).then_some(limit)
    }

    /// What a writer may still write.
    pub(crate) fn available(&self) -> Option<u64> {
        let promised = self.stored.load(Relaxed) + self.unstored.load(Relaxed);
        let available = self.limit()?.saturating_sub(promised);
        Some(if self.is_cut_off() || self.is_tight_for(0) { 0 } else { available })
    }

    /// What df shows: all that files can have, and what of that a writer may still write. The rest is what they have: the
    /// room of disks that take no writes is not used, it is not there. Nothing before the store was heard.
    pub(crate) fn shown(&self) -> (u64, u64) {
        let (Some(limit), Some(available)) = (self.limit(), self.available()) else {
            return (0, 0);
        };
        let stored = self.stored.load(Relaxed);
        let promised = stored + self.unstored.load(Relaxed);
        ((promised + available).min(limit).max(stored + available), available)
    }

    // Free room.

    /// Free room that only the cleaner takes.
    fn cleaners(&self) -> u64 {
        (CLEANERS * u64::from(self.blob())).min(self.kept.load(Relaxed) / 6)
    }

    /// Free room for a blob that holds written bytes, if there is enough.
    pub(crate) fn take(&self, cost: u64) -> Option<Taken<'_>> {
        let spared = self.cleaners();
        let take = |free: u64| match free {
            u64::MAX => Some(free),
            _ => (free >= cost + spared).then(|| free - cost),
        };
        self.free.fetch_update(Relaxed, Relaxed, take).ok()?;
        self.taken.fetch_add(cost, Relaxed);
        Some(Taken { room: self, cost })
    }

    /// The cleaner has put a blob.
    pub(crate) fn spent(&self, cost: u64) {
        let take = |free: u64| (free != u64::MAX).then(|| free.saturating_sub(cost));
        // Nothing known yet is no error.
        let _ = self.free.fetch_update(Relaxed, Relaxed, take);
    }

    /// Garbage that slots have yet to confirm takes so much by the records.
    pub(crate) fn note_deleted(&self, cost: u64) {
        self.deleted.store(cost, Relaxed);
    }

    /// Waits in the sight of the cleaner.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Relaxed);
        self.wanted.notify_one();
        Waiting(self)
    }

    /// Free room below which the cleaner hurries: enough for a blob beside what is the cleaner's own,
    /// and little of what is kept back, so that much of that may be dead before it is cleaned.
    fn low(&self) -> u64 {
        let kept = self.kept.load(Relaxed);
        let blob = u64::from(self.blob()) * 5 / 4;
        (kept / 4).min(PLENTY).max(self.cleaners() + blob).min(kept / 2)
    }

    /// Is it time to clean blobs that are worth less?
    pub(crate) fn is_scarce(&self) -> bool {
        self.free.load(Relaxed) < self.low() || self.waiting.load(Relaxed) > 0
    }

    /// Is there so much free room that the cleaner may rest?
    pub(crate) fn is_plenty(&self) -> bool {
        self.free.load(Relaxed) >= self.plenty()
    }

    /// While slots are away that is more: who is refused what was stored before must know that the cleaner looked
    /// for all there is.
    fn plenty(&self) -> u64 {
        let growth = if self.away() == 0 { 0 } else { self.growth.load(Relaxed) };
        self.low() + self.low() / 2 + growth
    }

    /// The store refused a blob because it is full.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Relaxed);
        self.spent(u64::MAX - 1);
        self.wanted.notify_one();
    }

    /// Did the store refuse the last blob?
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// The cleaner has (not) found anything to gain.
    pub(crate) fn note_exhausted(&self, exhausted: bool) {
        self.exhausted.store(exhausted, Relaxed);
        if exhausted {
            self.freed.notify_waiters();
        }
    }

    /// Has the cleaner found nothing to gain?
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted.load(Relaxed)
    }
}
