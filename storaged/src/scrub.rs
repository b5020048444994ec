//! The scrub of a disk: all of it is read again and again, so that damage is known before what it hit is needed.
//!
//! A pass reads the log from its first record to where it ended when the pass began, and verifies every part that
//! the index has there, header, table and payload; then it walks the index and looks at the place of each entry.
//! Compaction moves records to the end of the log only, and no number of a file is used twice: so a place in
//! the log is a position that stays right, and what was moved behind the end is new. New records are read
//! apart from the pass, within an hour.
//!
//! What is damaged is noted as a read would ([`Shared::note_damage`]). What index and log disagree about is looked
//! into by [`mend`], and put right.
//!
//! Invariants:
//! * Only what the index has taken in is looked at ([`Shared::written`]), and nothing is called damaged or unknown
//!   that was not so twice: users, compaction and deletes go on meanwhile.
//! * Memory is bounded: one record, one window, [`MAX_SUSPECTS`].
//! * It gives way to users, for a while ([`pace`]), and never holds a lock of theirs while it reads.
//!
//! [`check`] says what is checked, [`position`] what is kept.

mod check;
mod mend;
mod pace;
pub(crate) mod position;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::limits::DISK_BLOCK;
use proto::part_store::{PartError, ScrubState};

use crate::format::init::DEFAULT_BLOCK_FILE;
use crate::format::superblock::Superblock;
use crate::log::block_file::{BlockFile, Found, Scan};
use crate::log::record::Place;
use crate::owner::Owner;
use crate::shared::Shared;
use crate::shared::wish::Wish;
use check::{Lies, Verdict};
use mend::Inquiry;
use position::{Phase, Position, SlotPart};

/// Days in which everything is read, unless said otherwise.
pub const DEFAULT_DAYS: u32 = 14;
/// Longest that may be asked for, in days.
pub const MAX_DAYS: u32 = 3650;
/// New records are read so many seconds after those before.
const FRESH: u64 = 20 * 60;
/// Seconds in which new records are read.
const FRESH_IN: u64 = 20 * 60;
/// Bytes read in one step, but for one record.
const STEP: u64 = 1 << 20;
/// Records looked at in one step.
const STEP_RECORDS: usize = 256;
/// Entries of the index compared in one step.
const STEP_ENTRIES: usize = 64;
/// Parts that are looked into at once. With more the whole index is not to be relied on.
const MAX_SUSPECTS: usize = if cfg!(test) { 1024 } else { 4096 };
/// Seconds between two inquiries that do not wait for the end of a pass: each reads all headers.
const INQUIRE: u64 = 3600;
/// A disk that was just opened is left alone for so long.
pub(crate) const BEGIN: Duration =
    if cfg!(test) { Duration::ZERO } else { Duration::from_secs(60) };
/// How often a scrub with nothing to do looks whether there is something.
const LOOK: Duration = Duration::from_secs(10);
/// Pause after what failed.
const BACK_OFF: Duration = Duration::from_secs(60);
/// How often the position is saved.
const SAVE: Duration = Duration::from_secs(60);
/// How often it is looked whether users are busy still.
const BUSY: Duration = Duration::from_millis(2);

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Nothing, for now.
    None,
    /// So many bytes were read; so many are left, to be read in so many seconds.
    Done { bytes: u64, left: u64, seconds: u64 },
}

/// The scrub of one disk.
pub(crate) struct Scrub {
    shared: Arc<Shared>,
    days: u32,
    position: Position,
    /// Parts that were damaged when the disk was opened before.
    again: Vec<SlotPart>,
    suspects: BTreeSet<SlotPart>,
    /// New records are being read, up to here.
    fresh_until: Option<Place>,
    inquiry: Option<Inquiry>,
    /// No inquiry by itself before this.
    inquire_from: u64,
    /// Somebody has asked for this pass: it is read as fast as users allow.
    asked: bool,
}

/// Has the owner of the disk do something.
type AskOwner<'a> = &'a mut dyn FnMut(Wish) -> Result<usize, PartError>;

/// What a turn of a scrub was, and how long it rests then.
enum Turn {
    /// There is nothing to do.
    Idle,
    /// So many bytes were read, at so many a second.
    Read { bytes: u64, rate: u64 },
    /// It went wrong.
    Failed(PartError),
}

impl Turn {
    /// The rest after one that has taken so long.
    fn rest(&self, took: Duration) -> Duration {
        match self {
            Self::Idle => LOOK,
            Self::Read { bytes, rate } => pace::pause(*bytes, *rate, took),
            Self::Failed(_) => BACK_OFF,
        }
    }
}

impl Scrub {
    /// Goes on where the last one was.
    pub(crate) fn new(shared: Arc<Shared>, days: u32, now: u64) -> Self {
        let position = Position::read(&shared.dir, shared.disk);
        Self::resume(shared, days, position, now)
    }

    /// Goes on from there, or begins.
    pub(crate) fn resume(
        shared: Arc<Shared>,
        days: u32,
        position: Option<Position>,
        now: u64,
    ) -> Self {
        let end = shared.written();
        let mut position = position.unwrap_or_else(|| Position::begin(now, end));
        // A torn batch may have been cut off since.
        position.until = position.until.min(end);
        position.fresh = position.fresh.min(end);
        let (again, suspects) =
            (position.damaged.clone(), position.suspects.iter().copied().collect());
        let scrub = Self {
            shared,
            days,
            position,
            again,
            suspects,
            fresh_until: None,
            inquiry: None,
            inquire_from: 0,
            asked: false,
        };
        scrub.tell();
        scrub
    }

    /// Begins a pass, whatever was under way: somebody has asked for it.
    fn begin_asked(&mut self, now: u64) {
        self.asked = true;
        self.position.again(now, self.shared.written());
        self.tell();
    }

    /// Does a little of what is to be done. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// When the index fails, or the disk does.
    fn step(&mut self, now: u64, owner: AskOwner<'_>) -> Result<Work, PartError> {
        let done = self.step_of(now, owner);
        self.tell();
        done
    }

    /// The same, or the begin of a pass that somebody has asked for.
    fn turn(&mut self, owner: AskOwner<'_>) -> Turn {
        if self.shared.take_scrub_asked() {
            self.begin_asked(seconds_now());
        }
        match self.step(seconds_now(), owner) {
            Ok(Work::None) => Turn::Idle,
            Ok(Work::Done { bytes, left, seconds }) => {
                Turn::Read { bytes, rate: pace::rate(left, seconds) }
            }
            Err(why) => {
                self.inquiry = None;
                Turn::Failed(why)
            }
        }
    }

    /// A turn of a disk whose owner does what it is asked for when it is asked: how long it rests after it.
    pub(crate) fn step_beside(&mut self, owner: &mut Owner) -> Duration {
        let turn = self
            .turn(&mut |wish| owner.fulfil(wish).map_err(|why| owner.shared.index_failed(&why)));
        turn.rest(Duration::ZERO)
    }

    fn step_of(&mut self, now: u64, owner: AskOwner<'_>) -> Result<Work, PartError> {
        if let Some((slot, key)) = self.again.pop() {
            self.shared.is_whole(slot, key)?;
            return Ok(self.did(now, u64::from(key.blob.part_len())));
        }
        if self.inquiry.is_some() {
            return self.inquire(now, owner);
        }
        if self.suspects.len() >= MAX_SUSPECTS {
            return Err(self.shared.index_is_wrong());
        }
        let ends_phase = match self.position.phase {
            Phase::Log => self.position.log >= self.position.until,
            Phase::Index => false,
            Phase::Done => true,
        };
        let rests = self.position.log.block == 0 || self.position.phase == Phase::Index;
        let may_mend = !self.suspects.is_empty() && self.shared.read_only().is_none();
        if may_mend && (ends_phase || rests && now >= self.inquire_from) {
            return self.begin_inquiry(now, owner);
        }
        if let Some(done) = self.read_new(now)? {
            return Ok(done);
        }
        match self.position.phase {
            Phase::Log if ends_phase => {
                self.position.phase = Phase::Index;
                Ok(self.did(now, 0))
            }
            Phase::Log => {
                let (at, bytes) = self.read_log(self.position.log, self.position.until)?;
                self.position.log = at;
                Ok(self.did(now, bytes))
            }
            Phase::Index => self.compare(now),
            Phase::Done => {
                if now < self.position.began.saturating_add(pace::pass_seconds(self.days)) {
                    return Ok(Work::None);
                }
                self.position.again(now, self.shared.written());
                Ok(self.did(now, 0))
            }
        }
    }

    /// What a step of the pass was, and what is left of it.
    fn did(&mut self, now: u64, bytes: u64) -> Work {
        self.position.done += bytes;
        let time = if self.asked { 0 } else { pace::pass_seconds(self.days) };
        let ends = self.position.began.saturating_add(time);
        // What somebody waits for is read at the highest rate, however little it is.
        let left = if self.asked { u64::MAX } else { self.left() };
        Work::Done { bytes, left, seconds: ends.saturating_sub(now) }
    }

    fn left(&self) -> u64 {
        let (fill, parts) = self.shared.view();
        (fill.used + parts * pace::READ).saturating_sub(self.position.done)
    }

    /// Reads on in what was written since the last time, when that is due.
    fn read_new(&mut self, now: u64) -> Result<Option<Work>, PartError> {
        let until = match self.fresh_until {
            Some(until) => until,
            // A clock that went back is no reason to wait.
            None if now.abs_diff(self.position.fresh_at) < FRESH => return Ok(None),
            None => *self.fresh_until.insert(self.shared.written()),
        };
        let (at, bytes) = self.read_log(self.position.fresh, until)?;
        self.position.fresh = at;
        if at >= until {
            self.fresh_until = None;
            self.position.fresh_at = now;
        }
        let left = u64::from(until.file - at.file.min(until.file)) * DEFAULT_BLOCK_FILE
            + u64::from(until.block) * DISK_BLOCK as u64;
        let seconds = (self.position.fresh_at + FRESH + FRESH_IN).saturating_sub(now);
        Ok(Some(Work::Done { bytes, left, seconds }))
    }

    /// Reads records from a place on; answers where to go on, and how much was read.
    fn read_log(&mut self, at: Place, until: Place) -> Result<(Place, u64), PartError> {
        let shared = self.shared.clone();
        let mut failed = None;
        let walked = walk(&shared, at, until, |file, scan, found| {
            match shared.check_record(file, scan, found) {
                Ok(Verdict::Unknown(slot, key)) => {
                    self.suspects.insert((slot, key));
                    u64::from(found.end() - found.block)
                }
                Ok(Verdict::Idle) => read_over(found),
                Ok(verdict) => {
                    shared.metrics.scrubbed(found.entry.payload_len, verdict == Verdict::Damaged);
                    u64::from(found.end() - found.block)
                }
                Err(e) => {
                    failed = Some(e);
                    STEP
                }
            }
        });
        failed.map_or(Ok((walked.at, walked.bytes)), Err)
    }

    /// Compares the next entries of the index with what lies at their places.
    fn compare(&mut self, now: u64) -> Result<Work, PartError> {
        let entries = self.shared.index.parts_after(self.position.entry, STEP_ENTRIES);
        let entries = entries.map_err(|e| self.shared.index_failed(&e))?;
        for (slot, key, place) in &entries {
            let Some(lies) = self.shared.check_entry(*slot, *key, *place)? else { continue };
            let (disk, file, block) = (self.shared.disk, place.file, place.block);
            tracing::warn!(%disk, %slot, %key, file, block, ?lies, "the index has a part where it does not lie");
            // Where nothing makes sense it may have been the part. If it lies elsewhere the log has told.
            if lies == Lies::Another {
                self.suspects.insert((*slot, *key));
            }
        }
        if let Some((slot, key, _)) = entries.last() {
            self.position.entry = Some((*slot, *key));
            return Ok(self.did(now, entries.len() as u64 * pace::READ));
        }
        (self.position.phase, self.position.ended) = (Phase::Done, now);
        self.asked = false;
        let damaged = self.shared.damaged();
        tracing::info!(disk = %self.shared.disk, damaged, "all of the disk was read, and compared with its index");
        Ok(self.did(now, 0))
    }

    fn begin_inquiry(&mut self, now: u64, owner: AskOwner<'_>) -> Result<Work, PartError> {
        self.inquire_from = now + INQUIRE;
        // Where not all of the log can be read, it has no last word.
        if self.shared.unread.is_some() {
            self.suspects.clear();
            return Ok(self.did(now, 0));
        }
        owner(Wish::Hold)?;
        self.inquiry = Some(Inquiry::new(self.suspects.iter().copied(), self.shared.written()));
        Ok(self.did(now, 0))
    }

    fn inquire(&mut self, now: u64, owner: AskOwner<'_>) -> Result<Work, PartError> {
        let Some(mut inquiry) = self.inquiry.take() else { return Ok(Work::None) };
        let (at, until) = (inquiry.at, inquiry.until);
        if at < until {
            let walked = walk(&self.shared, at, until, |file, scan, found| {
                inquiry.hear(file, scan, found);
                read_over(found)
            });
            if walked.skipped {
                self.suspects.clear();
                owner(Wish::Mend(Vec::new()))?;
                return Ok(self.did(now, 0));
            }
            inquiry.at = walked.at;
            self.inquiry = Some(inquiry);
            return Ok(Work::Done { bytes: walked.bytes, left: u64::MAX, seconds: 1 });
        }
        self.suspects.clear();
        let mended = owner(Wish::Mend(inquiry.end()))?;
        self.shared.metrics.mended(mended);
        Ok(self.did(now, 0))
    }

    /// Has everybody know how far it is.
    fn tell(&self) {
        let (left, done) = (self.left(), self.position.done);
        let (percent, left) = match self.position.phase {
            Phase::Done => (100, 0),
            _ => ((done * 100).checked_div(done + left).unwrap_or(0).min(99), left),
        };
        let (ended, asked) = (self.position.ended, self.asked);
        self.shared.scrub_is(ScrubState { ended, percent, asked, left });
    }

    /// Saves where it is.
    pub(crate) fn save(&mut self) {
        self.position.damaged = self.shared.damaged_parts();
        self.position.damaged.extend(&self.again);
        self.position.suspects = self.suspects.iter().copied().collect();
        // Another disk may be where this one was.
        let there = Superblock::read(&self.shared.dir);
        if !there.is_ok_and(|there| there.disk == self.shared.disk) {
            return;
        }
        if let Err(e) = self.position.write(&self.shared.dir, self.shared.disk) {
            tracing::debug!(disk = %self.shared.disk, "the position of the scrub is not saved: {e}");
        }
    }

    /// The life of its thread.
    pub(crate) fn run(mut self) {
        let shared = self.shared.clone();
        let mut saved = Instant::now();
        let mut rest = if self.again.is_empty() { BEGIN } else { Duration::ZERO };
        let mut changed = true;
        while shared.rest_unless_asked(rest) {
            let began = Instant::now();
            let turn = self.turn(&mut |wish| shared.wish(wish));
            rest = turn.rest(began.elapsed());
            match turn {
                Turn::Idle => {}
                Turn::Read { .. } => {
                    changed = true;
                    give_way(&shared, pace::patience(rest));
                }
                Turn::Failed(e) => tracing::debug!(disk = %shared.disk, "scrub: {e}"),
            }
            if changed && saved.elapsed() >= SAVE {
                self.save();
                (saved, changed) = (Instant::now(), false);
            }
        }
        if changed && !shared.is_lost() {
            self.save();
        }
    }
}

/// Waits while users are busy with the disk, within bounds.
fn give_way(shared: &Shared, patience: Duration) {
    let began = Instant::now();
    while shared.calls.are_busy() && began.elapsed() < patience && shared.rest(BUSY) {}
}

/// What a record costs of which only the header is read, in blocks.
fn read_over(found: &Found) -> u64 {
    u64::from(found.end() - found.block).min(pace::READ / DISK_BLOCK as u64)
}

/// Seconds since 1970.
pub(crate) fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What one step of a walk through the log came to.
struct Walked {
    /// Where to go on.
    at: Place,
    /// Bytes read.
    bytes: u64,
    /// A file could not be read at all, and was passed over.
    skipped: bool,
}

/// Looks at records from a place on, as many as are one step. `look` answers how many blocks of the record it
/// read.
fn walk(
    shared: &Shared,
    at: Place,
    until: Place,
    mut look: impl FnMut(&BlockFile, &Scan<'_>, &Found) -> u64,
) -> Walked {
    let Some(file) = shared.file_from(at.file).filter(|file| file.number <= until.file) else {
        return Walked { at: until, bytes: 0, skipped: false };
    };
    let start = if file.number == at.file { at.block } else { 0 };
    let last = file.number == until.file;
    let next = if last { until } else { Place { file: file.number + 1, block: 0 } };
    let end = if last { until.block } else { u32::MAX };
    // What the index has in such a file is found by the walk over the index.
    let Ok(mut scan) = Scan::new(&file, shared.disk, start, end) else {
        return Walked { at: next, bytes: 0, skipped: true };
    };
    let (mut bytes, mut records) = (0, 0);
    while let Some(found) = scan.next() {
        bytes += look(&file, &scan, &found) * DISK_BLOCK as u64;
        records += 1;
        if bytes >= STEP || records >= STEP_RECORDS {
            let at = Place { file: file.number, block: found.end() };
            return Walked { at, bytes, skipped: false };
        }
    }
    Walked { at: next, bytes, skipped: false }
}
