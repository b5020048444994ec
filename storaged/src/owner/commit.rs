//! The owner of a disk: one thread that writes, so that there is one order of records.
//!
//! It takes all requests there are, lays them out as one batch, writes it with one vectored write,
//! makes it durable with one sync, and answers. The index is not written on this path: what the
//! batch changes goes into its layer in memory, and from there into redb with a checkpoint. Nor is room made on it:
//! who finds none waits, and others are served ([`crate::owner::room`]).
//!
//! Invariants:
//! * A request is answered after its record is durable and the index knows it.
//! * A batch lies in one file; a file is synced before the next is begun.
//! * A put under a key or blob that the batch itself changes waits for the next one, so that every
//!   decision is made on what is durable.
//! * The group and its generation are checked here, in the order of requests: what is asked under an older
//!   generation is refused from the first request on that knows a newer one, which the slot remembers durably
//!   before it does anything under it.
//! * So is to whom a volume is promised: what was asked before a fence and is decided after it is refused.
//! * After a failed write or sync nothing is written any more: the disk is read-only. What such a batch left in
//!   the log counts for nothing before it was made durable, and read, anew ([`crate::disk::replay`]); nor does what the
//!   file had before, until it was read back ([`crate::owner::read_back`]).
//! * Nothing is acknowledged that went into files without a name for longer than a look takes ([`crate::owner::watch`]).

use std::collections::{HashSet, VecDeque};
use std::io::{self, IoSlice};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use proto::buffer::Aligned;
use proto::checksum::Checked;
use proto::id::{BlobId, PartKey, SlotId, VolumeId};
use proto::limits::DISK_BLOCK;
use proto::part_store::{Issuer, PartError};

use crate::index::fill::{FileState, Stage};
use crate::index::{IndexResult, Mark, is_no_room};
use crate::io::direct::is_no_space;
use crate::log::block_file::BlockFile;
use crate::log::record::{
    Membership, Place, What, decode_fence, decode_parts, encode_blobs, encode_fence, encode_parts,
    encode_rebuilt, encode_slot, footprint,
};
use crate::owner::ahead::REGION;
use crate::owner::batch::{FULL_BATCH, Layout, MAX_RECORDS, Planned};
use crate::owner::{NO_ROOM, Owner, RunningCheckpoint, read_back};
use crate::shared::queue::{Ask, Request, To};

const BLOCK: u64 = DISK_BLOCK as u64;
/// Changes in memory from which on a checkpoint is written.
const CHECKPOINT_CHANGES: usize = 32 << 10;
/// Bytes of log from which on a checkpoint is written: they are read again after a crash.
const CHECKPOINT_BYTES: u64 = 128 << 20;
/// A disk with nothing to do writes its checkpoint after this time.
const CHECKPOINT_IDLE: Duration = Duration::from_secs(2);
/// Changes in memory, while there is no room for them in redb, from which on nothing new is taken.
const MAX_CHANGES: usize = 16 * CHECKPOINT_CHANGES;
/// How soon to look again after a checkpoint, or for the next slice of compaction.
const SOON: Duration = Duration::from_millis(10);
/// Scratch memory that an idle disk may keep.
const IDLE_SCRATCH: usize = 256 << 10;

/// What is written ahead of the log, for all disks.
static ZEROS: LazyLock<Aligned> = LazyLock::new(|| Aligned::zeroed(REGION as usize * DISK_BLOCK));

/// The records gathered for one write.
#[derive(Default)]
struct Batch {
    records: Vec<Planned>,
    blocks: u32,
    data: u64,
    puts: HashSet<(SlotId, PartKey)>,
    put_blobs: HashSet<(SlotId, BlobId)>,
    deleted: HashSet<(SlotId, BlobId)>,
    fenced: HashSet<(SlotId, VolumeId)>,
}

impl Batch {
    /// Can the request join, or must it wait until this batch is durable?
    fn accepts(&self, request: &Request, free: u32) -> bool {
        if self.records.is_empty() {
            return true;
        }
        let slot = request.to.slot;
        let independent = match &request.ask {
            Ask::Put(key, ..) | Ask::DropPart(key, _) => {
                !self.puts.contains(&(slot, *key))
                    && !self.deleted.contains(&(slot, key.blob))
                    && !self.fenced.contains(&(slot, key.blob.volume()))
            }
            Ask::Delete(blobs, _) | Ask::Forget(blobs, _) => !blobs.iter().any(|blob| {
                self.put_blobs.contains(&(slot, *blob))
                    || self.deleted.contains(&(slot, *blob))
                    || self.fenced.contains(&(slot, blob.volume()))
            }),
            Ask::Fence(volume, _) | Ask::Rebuilt(volume, _) => {
                !self.fenced.contains(&(slot, *volume))
            }
            Ask::Serve | Ask::Turn => true,
        };
        independent
            && self.records.len() < MAX_RECORDS
            && u64::from(self.blocks) * BLOCK < FULL_BATCH
            && self.blocks + request.ask.blocks() <= free
    }

    fn push(&mut self, record: Planned) {
        self.blocks += record.blocks();
        match record.what {
            What::Put(key) | What::Lost(key) => {
                self.data += footprint(key.blob.part_len());
                self.puts.insert((record.slot, key));
                self.put_blobs.insert((record.slot, key.blob));
            }
            What::Delete | What::Forget => {
                self.deleted.extend(record.blobs.iter().map(|blob| (record.slot, *blob)));
            }
            What::Fence => {
                let fence = decode_fence(record.payload.data());
                self.fenced.extend(fence.map(|(volume, _)| (record.slot, volume)));
            }
            What::Drop => {
                for key in decode_parts(record.payload.data()) {
                    self.puts.insert((record.slot, key));
                    self.put_blobs.insert((record.slot, key.blob));
                }
            }
            What::Slot | What::Rebuilt => {}
        }
        self.records.push(record);
    }
}

/// When a request is decided.
enum Turn {
    Now,
    /// With the next batch.
    Next,
    /// Once there is room.
    Later,
}

/// What to do about a request.
enum Decision {
    Write(What, Checked, Vec<BlobId>, Option<Place>),
    Done,
    Wait,
    Refuse(PartError),
}

impl Owner {
    /// Serves requests until the queue is closed, then leaves everything in redb.
    pub(crate) fn run(mut self) {
        while self.turn(self.patience()) {}
        self.end();
    }

    /// Gives back what is left to be, and leaves everything in redb.
    pub(crate) fn end(&mut self) {
        self.punch_last();
        self.finish_checkpoint();
        if let Err(e) = self.checkpoint_now() {
            tracing::error!(disk = %self.shared.disk, "last checkpoint: {e}");
        }
    }

    /// Serves the requests there are, after waiting at most so long for the first, and does a little of what is to
    /// be done besides. `false`: the queue is closed, and they were the last.
    pub(crate) fn turn(&mut self, patience: Duration) -> bool {
        let (mut pending, closed) = self.shared.queue.take(patience);
        let idle = pending.is_empty() && self.waiting.is_empty();
        self.closing = closed;
        self.resume(&mut pending);
        if pending.is_empty() && !closed {
            self.background(idle);
        }
        while !pending.is_empty() {
            self.one_batch(&mut pending);
            self.background(false);
        }
        !closed
    }

    /// How soon there is something to do besides, without requests.
    pub(crate) fn patience(&self) -> Duration {
        // Of what was begun nothing is gone on with; and who waits is answered in the next turn.
        if self.shared.read_only().is_some() && self.waiting.is_empty() {
            return CHECKPOINT_IDLE;
        }
        let wanted = self.debt > 0 || !self.waiting.is_empty();
        let goes_on = self.compaction.is_some() || self.checkpoint.is_some();
        match wanted {
            true if !self.frees_soon() => Duration::ZERO,
            false if !goes_on && !self.owes_something_back() => CHECKPOINT_IDLE,
            _ => SOON,
        }
    }

    fn one_batch(&mut self, pending: &mut VecDeque<Request>) {
        let mut batch = Batch::default();
        let mut turns = Vec::new();
        while let Some(request) = pending.pop_front() {
            match self.turn_of(&request, &batch) {
                Ok(Turn::Now) if matches!(request.ask, Ask::Turn) => {
                    turns.push(request.waiter);
                    continue;
                }
                Ok(Turn::Now) if batch.accepts(&request, self.spare_blocks()) => {}
                Ok(Turn::Now | Turn::Next) => {
                    pending.push_front(request);
                    break;
                }
                Ok(Turn::Later) => {
                    self.wait(request);
                    continue;
                }
                Err(why) => {
                    request.waiter.answer(Err(why));
                    continue;
                }
            }
            match self.decide(&request, &batch) {
                Decision::Write(what, payload, blobs, replaced) => {
                    let (slot, waiter) = (request.to.slot, Some(request.waiter));
                    batch.push(Planned { slot, what, payload, blobs, replaced, waiter });
                }
                Decision::Done => request.waiter.answer(Ok(())),
                Decision::Wait => self.wait(request),
                Decision::Refuse(why) => request.waiter.answer(Err(why)),
            }
        }
        if !batch.records.is_empty() {
            let put = batch.data;
            // Whoever waits was told.
            if self.commit(batch.records).is_ok() {
                self.owe(put);
            }
        }
        turns.into_iter().for_each(|turn| turn.answer(Ok(())));
    }

    /// When the request is decided. What is news about its group is written by itself, before what brought it.
    fn turn_of(&mut self, request: &Request, batch: &Batch) -> Result<Turn, PartError> {
        // A disk that takes no writes has nothing that an older generation could change.
        if !self.shared.admits(request.to)? && self.shared.read_only().is_none() {
            if !batch.records.is_empty() {
                return Ok(Turn::Next);
            }
            if !self.learn(request)? {
                return Ok(Turn::Later);
            }
        }
        Ok(if self.waiting.concerns(request) { Turn::Later } else { Turn::Now })
    }

    /// Remembers the group and generation that a request comes with, durably. A slot that hears of its group for
    /// the first time may have been in it before it lost all it had, unless it hears that it is to serve. `false`: it
    /// has no room for that yet.
    fn learn(&mut self, request: &Request) -> Result<bool, PartError> {
        let (To { slot, group, generation }, ask) = (request.to, &request.ask);
        let rebuilding = !self.shared.serves(slot) && !matches!(ask, Ask::Serve);
        let payload = encode_slot(Membership { group, generation, rebuilding });
        let record = Planned {
            slot,
            what: What::Slot,
            payload,
            blobs: Vec::new(),
            replaced: None,
            waiter: None,
        };
        if !self.find_room(request.waits_since, record.blocks(), false)? {
            return Ok(false);
        }
        self.commit(vec![record]).map(|()| true)
    }

    fn decide(&mut self, request: &Request, batch: &Batch) -> Decision {
        if let Some(why) = self.shared.read_only() {
            return Decision::Refuse(PartError::Io(format!("read-only: {why}")));
        }
        if self.ledger.index.pending() >= MAX_CHANGES {
            return Decision::Refuse(PartError::Full);
        }
        if let Err(why) = self.check_issuer(request) {
            return Decision::Refuse(why);
        }
        let slot = request.to.slot;
        let decided = match &request.ask {
            Ask::Put(key, data, _) => self.decide_put(slot, *key, data),
            Ask::Delete(blobs, _) => self.decide_delete(slot, blobs),
            Ask::Forget(blobs, _) => self.decide_forget(slot, blobs),
            Ask::DropPart(key, _) => self.decide_drop(slot, *key),
            Ask::Rebuilt(volume, _) => Ok(self.decide_rebuilt(slot, *volume)),
            Ask::Serve => Ok(self.decide_serve(slot)),
            Ask::Fence(volume, issuer) => Ok(self.decide_fence(slot, *volume, *issuer)),
            Ask::Turn => Ok(Decision::Done),
        };
        let decision = decided.unwrap_or_else(|e| Decision::Refuse(self.shared.index_failed(&e)));
        if let Decision::Write(what, payload, ..) = &decision {
            let new_data = matches!(what, What::Put(_));
            let bytes = footprint(payload.data().len() as u32);
            if let What::Put(key) = what
                && !self.ledger.space.admits(batch.data + bytes, key.blob.session().is_metadata())
            {
                return Decision::Refuse(PartError::Full);
            }
            // Within a batch there is room, `accepts` asked for it; but new data may not have all of it.
            let blocks = (bytes / BLOCK) as u32;
            if batch.records.is_empty() || new_data {
                match self.find_room(request.waits_since, blocks, new_data) {
                    Ok(true) => {}
                    Ok(false) => return Decision::Wait,
                    Err(e) => return Decision::Refuse(e),
                }
            }
        }
        decision
    }

    /// Is what the request would change the issuer's to change?
    fn check_issuer(&self, request: &Request) -> Result<(), PartError> {
        let slot = request.to.slot;
        let check = |volume, issuer| Issuer::check(issuer, self.shared.promise(slot, volume));
        match &request.ask {
            Ask::Put(key, _, issuer) | Ask::DropPart(key, issuer) => {
                check(key.blob.volume(), *issuer)
            }
            Ask::Rebuilt(volume, issuer) => check(*volume, *issuer),
            Ask::Delete(blobs, issuer) | Ask::Forget(blobs, issuer) => {
                blobs.iter().try_for_each(|blob| check(blob.volume(), *issuer))
            }
            Ask::Fence(..) | Ask::Serve | Ask::Turn => Ok(()),
        }
    }

    fn decide_drop(&self, slot: SlotId, key: PartKey) -> IndexResult<Decision> {
        Ok(match self.ledger.index.part(slot, key)? {
            Some(_) => Decision::Write(What::Drop, encode_parts(&[key]), Vec::new(), None),
            None => Decision::Done,
        })
    }

    fn decide_rebuilt(&self, slot: SlotId, volume: VolumeId) -> Decision {
        match self.shared.may_be_rebuilt(slot, volume) {
            Ok(true) => Decision::Write(What::Rebuilt, encode_rebuilt(volume), Vec::new(), None),
            Ok(false) => Decision::Done,
            Err(why) => Decision::Refuse(why),
        }
    }

    fn decide_serve(&self, slot: SlotId) -> Decision {
        let known = self.shared.slots.read().get(&slot).copied();
        match known.filter(|member| member.rebuilding) {
            Some(member) => {
                let payload = encode_slot(Membership { rebuilding: false, ..member });
                Decision::Write(What::Slot, payload, Vec::new(), None)
            }
            None => Decision::Done,
        }
    }

    fn decide_fence(&self, slot: SlotId, volume: VolumeId, issuer: Issuer) -> Decision {
        match self.shared.may_promise(slot, volume, issuer) {
            Ok(true) => {
                Decision::Write(What::Fence, encode_fence(volume, issuer), Vec::new(), None)
            }
            Ok(false) => Decision::Done,
            Err(why) => Decision::Refuse(why),
        }
    }

    fn decide_put(&self, slot: SlotId, key: PartKey, data: &Checked) -> IndexResult<Decision> {
        let index = &self.ledger.index;
        if index.tombstone(slot, key.blob)?.is_some() {
            return Ok(Decision::Refuse(PartError::Deleted));
        }
        let place = index.part(slot, key)?;
        let write = Decision::Write(What::Put(key), data.clone(), Vec::new(), place);
        let Some(place) = place else { return Ok(write) };
        Ok(match self.shared.stored_checks(place, slot, key) {
            Ok(checks) if checks[..] != *data.checks() => Decision::Refuse(PartError::Conflict),
            // A retry. If what lies there has rotted meanwhile, it is written anew.
            Ok(_) if self.shared.read_at(place, slot, key, 0..key.blob.part_len()).is_ok() => {
                self.shared.reads_well(slot, key);
                Decision::Done
            }
            _ => write,
        })
    }

    /// Deletes are idempotent: what is remembered and not here needs no new record.
    fn decide_delete(&self, slot: SlotId, blobs: &[BlobId]) -> IndexResult<Decision> {
        let index = &self.ledger.index;
        let mut wanted = Vec::new();
        for blob in blobs {
            if index.tombstone(slot, *blob)?.is_none() && !wanted.contains(blob) {
                wanted.push(*blob);
            }
        }
        Ok(Self::batch_of(What::Delete, wanted))
    }

    fn decide_forget(&self, slot: SlotId, blobs: &[BlobId]) -> IndexResult<Decision> {
        let index = &self.ledger.index;
        let mut wanted = Vec::new();
        for blob in blobs {
            if index.tombstone(slot, *blob)?.is_some_and(|tombstone| !tombstone.forgotten) {
                wanted.push(*blob);
            }
        }
        Ok(Self::batch_of(What::Forget, wanted))
    }

    fn batch_of(what: What, blobs: Vec<BlobId>) -> Decision {
        if blobs.is_empty() {
            return Decision::Done;
        }
        Decision::Write(what, encode_blobs(&blobs), blobs, None)
    }

    /// Begins the next file and seals the current one. `false`: the filesystem has no room.
    pub(crate) fn roll(&mut self) -> Result<bool, PartError> {
        let number = self.shared.take_file_number();
        let len = u64::from(self.ledger.space.file_blocks()) * BLOCK;
        let file = match BlockFile::create(&self.shared.dir, number, len, &self.shared.calls) {
            Ok(file) => Arc::new(file),
            Err(e) if is_no_space(&e) => {
                tracing::warn!(disk = %self.shared.disk, "there is no room for a block file: {e}");
                self.no_room_below();
                return Ok(false);
            }
            Err(e) => return Err(self.fail("creating a block file", &e)),
        };
        if let Some(old) = self.current.take() {
            self.ledger.space.file(old.number).stage = Stage::Sealed;
            self.cut_off(&old)?;
        }
        self.shared.files.write().insert(number, file.clone());
        self.ledger.space.files.insert(number, FileState::open());
        self.current = Some(file);
        Ok(true)
    }

    /// The disk takes no more writes; one that is not where it was is lost, and so is opened anew when it is back.
    pub(crate) fn fail(&self, doing: &str, e: &dyn std::fmt::Display) -> PartError {
        let why = format!("{doing}: {e}");
        if let Some(gone) = self.watch.as_ref().and_then(|watch| watch.gone(&self.shared)) {
            self.shared.lose(gone);
        }
        tracing::error!(disk = %self.shared.disk, "the disk is read-only now: {why}");
        self.shared.set_read_only(&why);
        PartError::Io(format!("read-only: {why}"))
    }

    /// The same after what was written to a block file, or should have become durable, may have been lost.
    pub(crate) fn doubt(&self, file: u32, doing: &str, e: &dyn std::fmt::Display) -> PartError {
        let failed = self.fail(doing, e);
        read_back::begin(&self.shared, file);
        failed
    }

    /// Writes the records, makes them durable, and answers those who wait.
    pub(crate) fn commit(&mut self, records: Vec<Planned>) -> Result<(), PartError> {
        let result = self.write(&records).and_then(|places| {
            self.apply(&records, &places).map_err(|e| self.shared.index_failed(&e))?;
            Ok(())
        });
        self.shared.publish(&self.ledger.space);
        self.tell_end();
        self.shared.metrics.batch(records.len(), result.is_ok());
        for record in records {
            record.answer(result.clone());
        }
        self.punch();
        self.changed_at = Instant::now();
        result
    }

    fn write(&mut self, records: &[Planned]) -> Result<Vec<Place>, PartError> {
        self.look();
        if let Some(why) = self.shared.read_only() {
            return Err(PartError::Io(format!("read-only: {why}")));
        }
        let current = self.current.clone().ok_or(PartError::Full)?;
        let at = Place { file: current.number, block: self.ledger.space.file(current.number).tail };
        let sequence = self.sequence + 1;
        self.sequence += records.len() as u64;
        let layout = Layout::new(self.shared.disk, at, sequence, records, &mut self.scratch);
        let bytes = u64::from(layout.end - at.block) * BLOCK;
        let zeros = self.ahead.zeros(at, layout.end, self.ledger.space.file_blocks());
        let mut buffers = layout.buffers(records, &self.scratch);
        if zeros > 0 {
            buffers.push(IoSlice::new(&ZEROS[..zeros as usize * DISK_BLOCK]));
        }
        let offset = u64::from(at.block) * BLOCK;
        let written = current.io.write_vectored_at(offset, &mut buffers).and_then(|()| {
            // A forgotten delete that comes back is only remembered longer.
            if records.iter().all(|record| record.what == What::Forget) {
                return Ok(());
            }
            let started = Instant::now();
            let synced = current.io.sync();
            self.shared.metrics.sync(started.elapsed());
            synced
        });
        drop(buffers);
        match written {
            Ok(()) => {}
            Err(e) if is_no_space(&e) => return Err(PartError::Full),
            Err(e) => return Err(self.doubt(current.number, "writing", &e)),
        }
        self.ahead.wrote(at, layout.end, zeros);
        self.logged += bytes;
        self.shared.metrics.written(bytes + u64::from(zeros) * BLOCK);
        self.ledger.space.file(at.file).tail = layout.end;
        Ok(layout.places)
    }

    fn apply(&mut self, records: &[Planned], places: &[Place]) -> IndexResult<()> {
        for (record, place) in records.iter().zip(places) {
            match record.what {
                What::Put(key) | What::Lost(key) => {
                    self.ledger.put(record.slot, key, *place, record.replaced);
                    if record.waiter.is_some() {
                        self.shared.reads_well(record.slot, key);
                    }
                }
                What::Delete => {
                    self.ledger.delete(record.slot, &record.blobs, *place)?;
                    let blobs = &record.blobs;
                    self.shared.damage_gone(|slot, other| {
                        slot == record.slot && blobs.contains(&other.blob)
                    });
                }
                What::Forget => self.ledger.forget(record.slot, &record.blobs)?,
                What::Drop => {
                    for key in decode_parts(record.payload.data()) {
                        self.ledger.drop_part(record.slot, key)?;
                        self.shared.damage_gone(|slot, other| (slot, other) == (record.slot, key));
                    }
                }
                What::Slot => self.shared.learn_slot(record.slot, record.payload.data()),
                What::Rebuilt => self.shared.learn_rebuilt(record.slot, record.payload.data()),
                What::Fence => self.shared.learn_fence(record.slot, record.payload.data()),
            }
        }
        Ok(())
    }

    /// Looks whether the disk is where it was, when it is time.
    fn look(&mut self) {
        let current = self.current.as_ref().map(|file| file.number);
        if let Some(watch) = &mut self.watch {
            watch.look(&self.shared, current, |number| self.doomed.contains_key(&number));
        }
    }

    /// What is done between batches: checkpoints, and a slice of compaction when one is due.
    pub(crate) fn background(&mut self, idle: bool) {
        self.look();
        if self.shared.read_only().is_some() {
            self.debt = 0;
            return;
        }
        self.fulfil_wishes();
        self.take_checkpoint(Receiver::try_recv);
        let pending = self.ledger.index.pending();
        // Whether the filesystem has room again is found out by trying, from the next one on.
        let refused = self.ledger.space.ceiling.is_some();
        let much = pending >= CHECKPOINT_CHANGES || self.logged >= CHECKPOINT_BYTES;
        // Where room runs short, what it gives back is not waited for.
        let short = !self.waiting.is_empty() || !self.ledger.space.may_open(true);
        let frees = short && self.frees_soon();
        let due = (much || refused || frees) && Instant::now() >= self.checkpoint_from;
        let rested = idle && self.changed_at.elapsed() >= CHECKPOINT_IDLE;
        let worthwhile = pending > 0 || self.logged > 0 || !self.doomed.is_empty();
        if self.checkpoint.is_none() && (due || rested && worthwhile) {
            self.start_checkpoint();
        }
        // The layer in memory is bounded, even if redb cannot keep up.
        if pending >= 4 * CHECKPOINT_CHANGES {
            self.finish_checkpoint();
        }
        self.give_back_again();
        if self.owes_something_back() {
            self.punch();
            self.strike_off_some();
        }
        if rested && self.scratch.len() > IDLE_SCRATCH {
            self.scratch = Aligned::zeroed(DISK_BLOCK);
        }
        self.compact();
    }

    /// Where the log ends.
    fn end_of_log(&mut self) -> Place {
        match &self.current {
            Some(file) => {
                Place { file: file.number, block: self.ledger.space.file(file.number).tail }
            }
            None => Place { file: self.shared.next_file_number(), block: 0 },
        }
    }

    /// Tells where the log ends, of which the index knows all.
    pub(crate) fn tell_end(&mut self) {
        let end = self.end_of_log();
        self.shared.wrote(end);
    }

    fn mark(&mut self) -> Mark {
        Mark { place: self.end_of_log(), sequence: self.sequence }
    }

    fn freeze(&mut self) -> (crate::index::Checkpoint, Vec<u32>) {
        self.logged = 0;
        self.changed_at = Instant::now();
        let mark = self.mark();
        if self.ledger.space.ceiling.take().is_some() {
            self.shared.publish(&self.ledger.space);
        }
        let checkpoint = self.ledger.index.freeze(self.shared.disk, &self.ledger.space, mark);
        (checkpoint, self.doomed.keys().copied().collect())
    }

    fn start_checkpoint(&mut self) {
        let (checkpoint, doomed) = self.freeze();
        let checkpoint = Arc::new(checkpoint);
        let (index, written) = (self.ledger.index.clone(), checkpoint.clone());
        let (done, end) = channel();
        let write = move || {
            // Whoever began it may be gone.
            let _ = done.send(index.write(&written));
        };
        match self.shared.hands.start("checkpoint", Box::new(write)) {
            Ok(()) => self.checkpoint = Some(RunningCheckpoint { end, doomed }),
            // Then by these.
            Err(_) => {
                let written = self.ledger.index.write(&checkpoint);
                drop(self.end_checkpoint(written, &doomed));
            }
        }
    }

    /// Waits for the checkpoint that is being written, if there is one.
    pub(crate) fn finish_checkpoint(&mut self) {
        self.take_checkpoint(|end| end.recv().map_err(|_| TryRecvError::Disconnected));
    }

    /// Takes the end of the checkpoint that is being written, if there is one and `take` has its end.
    fn take_checkpoint(
        &mut self,
        take: impl Fn(&Receiver<IndexResult<()>>) -> Result<IndexResult<()>, TryRecvError>,
    ) {
        let Some(running) = self.checkpoint.take() else { return };
        let written = match take(&running.end) {
            Ok(written) => written,
            Err(TryRecvError::Empty) => return self.checkpoint = Some(running),
            Err(TryRecvError::Disconnected) => {
                Err(redb::Error::Io(io::Error::other("the checkpoint's thread panicked")))
            }
        };
        drop(self.end_checkpoint(written, &running.doomed));
    }

    /// Writes a checkpoint and waits for it.
    pub(crate) fn checkpoint_now(&mut self) -> Result<(), PartError> {
        self.finish_checkpoint();
        if self.shared.read_only().is_some() {
            return Ok(());
        }
        let (checkpoint, doomed) = self.freeze();
        let written = self.ledger.index.write(&checkpoint);
        self.end_checkpoint(written, &doomed)
    }

    /// Writes the checkpoint that ends a rebuild.
    pub(crate) fn first_checkpoint(&mut self) -> IndexResult<()> {
        let (checkpoint, _) = self.freeze();
        self.ledger.index.write(&checkpoint)?;
        self.ledger.index.thaw();
        Ok(())
    }

    fn end_checkpoint(
        &mut self,
        written: IndexResult<()>,
        doomed: &[u32],
    ) -> Result<(), PartError> {
        match written {
            Ok(()) => {
                self.ledger.index.thaw();
                self.unfit.clear();
                self.after_checkpoint(doomed);
                Ok(())
            }
            Err(e) if is_no_room(&e) && self.ledger.index.is_open() => {
                tracing::warn!(
                    disk = %self.shared.disk,
                    "the filesystem has no room for a checkpoint: what it would say stays in memory and in the log"
                );
                self.ledger.index.take_back();
                self.no_room_below();
                Err(PartError::Full)
            }
            Err(e) => Err(self.shared.index_failed(&e)),
        }
    }

    /// The filesystem has less room than the capacity promises: what there is, is all.
    fn no_room_below(&mut self) {
        self.checkpoint_from = Instant::now() + NO_ROOM;
        self.ledger.space.ceiling = Some(self.ledger.space.allocated());
        self.shared.publish(&self.ledger.space);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault_tests::{
        self, ask_put, content, fresh, get, key, log, place_of, put, recover,
    };
    use std::os::unix::fs::FileExt;

    fn used(owner: &Owner) -> Vec<(u32, u64)> {
        owner.ledger.space.files.iter().map(|(number, file)| (*number, file.live)).collect()
    }

    /// The disk is full, so what is to be replaced is moved to make room for what replaces it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_part_that_is_moved_while_room_is_made_for_it_is_replaced_where_it_is_then() {
        let dir = fresh();
        let rotten = key(1000, 300_000);
        {
            let (_disk, store) = fault_tests::open(&dir);
            put(&store, rotten).await.unwrap();
            let small = |n| key(n, 60_000);
            // Two files and a little, of which the first is mostly dead, and not worth a thought.
            for n in 0..560 {
                put(&store, small(n)).await.unwrap();
            }
            let blobs: Vec<BlobId> = (0..120).map(|n| small(n).blob).collect();
            store.delete(&blobs, None).await.unwrap();
        }
        let at = place_of(&log(&dir), rotten);
        let file = std::fs::File::options().write(true).open(log(&dir)).unwrap();
        file.write_all_at(b"rot", at + 4096 + 70_000).unwrap();

        let path = dir.path().join("d");
        let mut owner = recover(&dir);
        // So much is taken by others that nothing can be opened.
        let others = FileState { tail: 36 * 256, stage: Stage::Kept, ..FileState::open() };
        owner.ledger.space.files.insert(99, others);
        let before = owner.ledger.index.part(SlotId(0), rotten).unwrap();
        let asked = ask_put(&owner, rotten);
        owner.turn(Duration::ZERO);
        assert!(!owner.waiting.is_empty(), "it finds no room at once");
        while !owner.waiting.is_empty() {
            owner.turn(owner.patience());
        }
        assert_eq!(asked.await, Ok(()));
        assert!(!log(&dir).exists(), "room was made of the file with the part: {before:?}");
        assert!(owner.checkpoint_now().is_ok());
        owner.ledger.space.files.remove(&99);
        let counted = used(&owner);
        owner.ledger.index.close();
        drop(owner);
        std::fs::remove_file(path.join("index.redb")).unwrap();
        let owner = recover(&dir);
        assert_eq!(counted, used(&owner), "the account is that of the records there are");
        owner.ledger.index.close();
        drop(owner);
        let (_disk, store) = fault_tests::open(&dir);
        assert_eq!(get(&store, rotten).await.unwrap(), content(rotten));
    }
}
