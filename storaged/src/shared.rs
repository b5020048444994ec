//! What the owner, the readers and the scrub of a disk share: its files, slots, promises and damage, whether it can go
//! on, and who may ask what of it.

pub(crate) mod beats;
pub(crate) mod doubts;
pub(crate) mod hands;
pub(crate) mod queue;
pub(crate) mod wish;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::{Condvar, Mutex, RwLock};
use proto::id::{BlobId, DiskId, Generation, GroupId, PartKey, SlotId, VolumeId};
use proto::part_store::{Fill, Issuer, PartError, ScrubState};

use crate::index::fill::Space;
use crate::index::{self, Fences, Index, is_echo, is_no_room};
use crate::io::calls::Calls;
use crate::io::medium::DiskDir;
use crate::log::block_file::BlockFile;
use crate::log::record::{Membership, Place, decode_fence, decode_rebuilt, decode_slot};
use crate::metrics::DiskMetrics;
use crate::shared::beats::Beats;
use crate::shared::doubts::Doubts;
use crate::shared::hands::Hands;
use crate::shared::queue::{Queue, To};
use crate::shared::wish::Wished;

/// Records whose checksum tables are kept in memory, of each disk.
const TABLES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Damaged parts that are remembered.
pub(crate) const MAX_DAMAGED: usize = 10_000;
/// Slots that one disk may have.
const MAX_DISK_SLOTS: usize = 1024;
/// Volumes that may be promised on one disk: each is kept in memory.
const MAX_FENCES: usize = 64 << 10;

/// What the owner, the readers and the scrub of a disk share.
pub(crate) struct Shared {
    pub(crate) dir: DiskDir,
    pub(crate) disk: DiskId,
    /// Who does what is done beside the owner.
    pub(crate) hands: Arc<dyn Hands>,
    pub(crate) queue: Queue,
    pub(crate) index: Arc<Index>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) files: RwLock<HashMap<u32, Arc<BlockFile>>>,
    pub(crate) slots: RwLock<BTreeMap<SlotId, Membership>>,
    /// Volumes of which a slot that is rebuilding has all it should.
    pub(crate) rebuilt: RwLock<BTreeSet<(SlotId, VolumeId)>>,
    pub(crate) fences: RwLock<Fences>,
    /// What owners of volumes have said last.
    pub(crate) beats: Beats,
    pub(crate) tables: Mutex<LruCache<Place, Arc<[u32]>>>,
    pub(crate) metrics: DiskMetrics,
    /// A block file that nobody could read, and that may hold anything.
    pub(crate) unread: Option<u32>,
    highest_file: AtomicU32,
    view: Mutex<(Fill, u64)>,
    read_only: RwLock<Option<String>>,
    /// What is not answered for, though the index has it.
    pub(crate) doubts: Doubts,
    end: Mutex<End>,
    ended: Condvar,
    damaged: Mutex<BTreeSet<(SlotId, PartKey)>>,
    /// Where the log ends of which the index knows all.
    written: AtomicU64,
    /// What the scrub asks of the owner.
    pub(crate) wishes: Mutex<Vec<Wished>>,
    scrub: Mutex<Option<ScrubState>>,
}

impl Shared {
    /// Why the disk takes no writes, if so.
    pub(crate) fn read_only(&self) -> Option<String> {
        self.read_only.read().clone()
    }

    /// From now on it takes none. The first reason stays.
    pub(crate) fn set_read_only(&self, why: &str) {
        self.read_only.write().get_or_insert_with(|| why.to_owned());
    }

    /// The index cannot be relied on any more, or the owner's thread is gone: the disk can only be
    /// opened anew. The first reason stays.
    pub(crate) fn lose(&self, why: String) {
        let mut end = self.end.lock();
        if end.lost.is_none() {
            tracing::error!(disk = %self.disk, "the disk cannot go on: {why}");
            self.set_read_only(&why);
            end.lost = Some(why);
            self.ended.notify_all();
        }
    }

    /// Has that happened?
    pub(crate) fn is_lost(&self) -> bool {
        self.end.lock().lost.is_some()
    }

    /// Is it lost, or closed?
    pub(crate) fn is_over(&self) -> bool {
        let end = self.end.lock();
        end.closed || end.lost.is_some()
    }

    /// Waits for so long. `false`: the disk is lost, or closed.
    pub(crate) fn rest(&self, time: Duration) -> bool {
        self.rest_until(time, |_| false)
    }

    /// The same, or until somebody asks for a scrub.
    pub(crate) fn rest_unless_asked(&self, time: Duration) -> bool {
        self.rest_until(time, |end| end.scrub_asked)
    }

    fn rest_until(&self, time: Duration, enough: impl Fn(&End) -> bool) -> bool {
        let until = Instant::now() + time;
        let mut end = self.end.lock();
        while !end.closed && end.lost.is_none() {
            if enough(&end) || self.ended.wait_until(&mut end, until).timed_out() {
                return true;
            }
        }
        false
    }

    /// All that the disk holds is to be read and verified from now on. `false`: nobody scrubs it.
    pub(crate) fn ask_for_scrub(&self) -> bool {
        let mut scrub = self.scrub.lock();
        let Some(state) = scrub.as_mut() else { return false };
        // From now on, so that whoever waits for its end does not take the last one for it.
        state.asked = true;
        drop(scrub);
        self.end.lock().scrub_asked = true;
        self.ended.notify_all();
        true
    }

    /// Was that asked for since the last time?
    pub(crate) fn take_scrub_asked(&self) -> bool {
        std::mem::take(&mut self.end.lock().scrub_asked)
    }

    /// The log says so much that the index does not that it has to be made anew.
    pub(crate) fn index_is_wrong(&self) -> PartError {
        self.index_failed(&redb::Error::Corrupted(
            "too much of it is not what the log says".to_owned(),
        ))
    }

    /// Redb has failed, and will go on failing: the disk has to be opened anew. What is wrong in the
    /// index's file would be met again, so that is made anew, too; want of room is not wrong with it,
    /// and whoever met what is has said so before any echo.
    pub(crate) fn index_failed(&self, e: &redb::Error) -> PartError {
        if self.end.lock().closed {
            return PartError::Io("the disk is closed".to_owned());
        }
        let lost = self.end.lock().lost.is_some();
        if !lost
            && !is_no_room(e)
            && !is_echo(e)
            && let Err(e) = index::set_aside(&self.dir)
        {
            tracing::error!(disk = %self.disk, "the index stays: {e}");
        }
        self.lose(format!("the index cannot be used: {e}"));
        PartError::Io(format!("index: {e}"))
    }

    /// Does the index know of all that the disk has?
    pub(crate) fn check_all_read(&self) -> Result<(), PartError> {
        match self.unread {
            None => Ok(()),
            Some(file) => Err(PartError::Io(format!(
                "not known here, but block file {file} cannot be opened and may have it"
            ))),
        }
    }

    /// Waits until the disk cannot go on, and answers why. `None`: it was closed. Blocks.
    pub(crate) fn until_lost(&self) -> Option<String> {
        let mut end = self.end.lock();
        while end.lost.is_none() && !end.closed {
            self.ended.wait(&mut end);
        }
        end.lost.clone().filter(|_| !end.closed)
    }

    /// How full the disk is, and how many parts it holds.
    pub(crate) fn view(&self) -> (Fill, u64) {
        *self.view.lock()
    }

    /// How many parts are known to be damaged.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged.lock().len() as u64
    }

    /// Blobs of a volume of which a slot has damaged parts, in order: the first `limit` of them.
    pub(crate) fn damaged_blobs(
        &self,
        slot: SlotId,
        volume: VolumeId,
        limit: usize,
    ) -> Vec<BlobId> {
        let damaged = self.damaged.lock();
        let of = damaged.iter().filter(|(at, key)| *at == slot && key.blob.volume() == volume);
        let mut blobs: Vec<BlobId> = of.map(|(_, key)| key.blob).collect();
        blobs.dedup();
        blobs.truncate(limit);
        blobs
    }

    /// The parts that cannot be read as they should be, as far as is known.
    pub(crate) fn damaged_parts(&self) -> Vec<(SlotId, PartKey)> {
        self.damaged.lock().iter().copied().collect()
    }

    /// Nothing is taken any more.
    pub(crate) fn close(&self) {
        self.end.lock().closed = true;
        self.ended.notify_all();
        self.queue.close();
    }

    /// Its owner has ended: nobody is left waiting for it, and nothing of the disk is open any more.
    pub(crate) fn release(&self) {
        self.set_read_only("the disk is closed");
        self.queue.abandon();
        self.index.close();
        let files = std::mem::take(&mut *self.files.write());
        drop(files);
    }

    /// The part cannot be read as it should be. `false`: so many are that it is not remembered.
    pub(crate) fn note_damage(&self, slot: SlotId, key: PartKey) -> bool {
        let mut damaged = self.damaged.lock();
        let is_known = damaged.contains(&(slot, key));
        if is_known || damaged.len() >= MAX_DAMAGED {
            return is_known;
        }
        damaged.insert((slot, key));
        tracing::warn!(disk = %self.disk, %slot, %key, "a part is damaged");
        self.metrics.damaged(damaged.len());
        true
    }

    /// All of the part was read as it should be: what had kept it from that was not damage, or is gone.
    pub(crate) fn reads_well(&self, slot: SlotId, key: PartKey) {
        self.damage_gone(|other_slot, other| (other_slot, other) == (slot, key));
    }

    /// Parts for which `gone` holds were put again, or deleted.
    pub(crate) fn damage_gone(&self, gone: impl Fn(SlotId, PartKey) -> bool) {
        let mut damaged = self.damaged.lock();
        if !damaged.is_empty() {
            damaged.retain(|(slot, key)| !gone(*slot, *key));
            self.metrics.damaged(damaged.len());
        }
    }

    /// Where the log ends of which the index knows all.
    pub(crate) fn written(&self) -> Place {
        Place::unpack(self.written.load(Ordering::Acquire))
    }

    /// The index knows all of the log up to here.
    pub(crate) fn wrote(&self, end: Place) {
        self.written.store(end.pack(), Ordering::Release);
    }

    /// The block file with this number, or with the next one that there is.
    pub(crate) fn file_from(&self, number: u32) -> Option<Arc<BlockFile>> {
        let files = self.files.read();
        let next = || {
            files
                .iter()
                .filter(|(n, _)| **n > number)
                .min_by_key(|(n, _)| **n)
                .map(|(_, file)| file)
        };
        files.get(&number).or_else(next).cloned()
    }

    /// How far the scrub is; `None`: the disk is not scrubbed.
    pub(crate) fn scrub(&self) -> Option<ScrubState> {
        *self.scrub.lock()
    }

    /// The scrub is so far. A pass that was asked for meanwhile has still to begin.
    pub(crate) fn scrub_is(&self, mut state: ScrubState) {
        self.metrics.scrub(state.percent, state.ended);
        let mut scrub = self.scrub.lock();
        state.asked |= self.end.lock().scrub_asked;
        *scrub = Some(state);
    }

    /// Tells everyone how full the disk is.
    pub(crate) fn publish(&self, space: &Space) {
        let fill = space.fill();
        self.metrics.fill(&fill, space.parts);
        *self.view.lock() = (fill, space.parts);
    }

    /// A number that no file has had, taken.
    pub(crate) fn take_file_number(&self) -> u32 {
        self.highest_file.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The lowest number that the next file may have.
    pub(crate) fn next_file_number(&self) -> u32 {
        self.highest_file.load(Ordering::Relaxed) + 1
    }

    /// May the slot be addressed so, as far as is known now? `false`: it may, and what it is addressed as has
    /// to be remembered first.
    pub(crate) fn admits(&self, to: To) -> Result<bool, PartError> {
        let slots = self.slots.read();
        let known = slots.get(&to.slot).copied();
        if known.is_none() && slots.len() >= MAX_DISK_SLOTS {
            return Err(PartError::WrongAddress("the disk has no more slots".to_owned()));
        }
        Ok(fits(to.slot, known, to.group, to.generation)? == Some(to.generation))
    }

    /// Is the slot sure of what it does not hold, of whatever volume?
    pub(crate) fn serves(&self, slot: SlotId) -> bool {
        self.slots.read().get(&slot).is_some_and(|member| !member.rebuilding)
    }

    /// Might the slot have had of the volume what it does not hold?
    pub(crate) fn is_rebuilding(&self, slot: SlotId, volume: VolumeId) -> bool {
        !self.serves(slot) && !self.rebuilt.read().contains(&(slot, volume))
    }

    /// How many volumes that somebody has at present might slots have had something of that they do not hold? Of one
    /// that nobody has, nobody looks whether it is filled.
    pub(crate) fn filling(&self) -> u64 {
        let mut held = self.beats.held();
        held.retain(|(slot, volume)| self.is_rebuilding(*slot, *volume));
        held.len() as u64
    }

    /// Has it promised anything to anybody?
    pub(crate) fn has_promised(&self, slot: SlotId) -> bool {
        let all = (slot, VolumeId(0))..=(slot, VolumeId(u32::MAX));
        self.fences.read().range(all).next().is_some()
    }

    /// To whom the volume is promised.
    pub(crate) fn promise(&self, slot: SlotId, volume: VolumeId) -> Option<Issuer> {
        self.fences.read().get(&(slot, volume)).copied()
    }

    /// May the volume be promised so? `false`: it is already.
    pub(crate) fn may_promise(
        &self,
        slot: SlotId,
        volume: VolumeId,
        issuer: Issuer,
    ) -> Result<bool, PartError> {
        let promise = self.promise(slot, volume);
        Issuer::check(Some(issuer), promise)?;
        if promise.is_none() && self.fences.read().len() >= MAX_FENCES {
            return Err(PartError::Invalid("the disk can promise no more volumes".to_owned()));
        }
        Ok(promise != Some(issuer))
    }

    /// Takes over what a fence record says.
    pub(crate) fn learn_fence(&self, slot: SlotId, payload: &[u8]) {
        let Some((volume, promise)) = decode_fence(payload) else { return };
        let mut fences = self.fences.write();
        let known = fences.entry((slot, volume)).or_insert(promise);
        if promise.epoch > known.epoch {
            *known = promise;
        }
        self.index.set_fence(slot, volume, *known);
    }

    /// Takes over what a slot record says.
    pub(crate) fn learn_slot(&self, slot: SlotId, payload: &[u8]) {
        let Some(said) = decode_slot(payload) else { return };
        let mut slots = self.slots.write();
        let known = slots.entry(slot).or_insert(said);
        if known.group == said.group {
            known.generation = known.generation.max(said.generation);
            known.rebuilding = said.rebuilding;
            self.index.set_slot(slot, *known);
        }
        let serves = !known.rebuilding;
        drop(slots);
        if serves {
            let mut rebuilt = self.rebuilt.write();
            let done: Vec<_> = rebuilt.iter().filter(|(of, _)| *of == slot).copied().collect();
            for (slot, volume) in done {
                rebuilt.remove(&(slot, volume));
                self.index.set_rebuilt(slot, volume, false);
            }
        }
    }

    /// May one more volume be called rebuilt? `false`: it is already.
    pub(crate) fn may_be_rebuilt(&self, slot: SlotId, volume: VolumeId) -> Result<bool, PartError> {
        if !self.is_rebuilding(slot, volume) {
            return Ok(false);
        }
        if self.rebuilt.read().len() >= MAX_FENCES {
            return Err(PartError::Invalid("the disk can note no more volumes".to_owned()));
        }
        Ok(true)
    }

    /// Takes over what a rebuilt record says.
    pub(crate) fn learn_rebuilt(&self, slot: SlotId, payload: &[u8]) {
        let Some(volume) = decode_rebuilt(payload) else { return };
        self.rebuilt.write().insert((slot, volume));
        self.index.set_rebuilt(slot, volume, true);
    }

    /// Ready to be shared.
    pub(crate) fn new(
        dir: &DiskDir,
        disk: DiskId,
        index: Arc<Index>,
        hands: Arc<dyn Hands>,
    ) -> Self {
        Self {
            dir: dir.clone(),
            disk,
            hands,
            queue: Queue::new(),
            calls: index.calls.clone(),
            index,
            files: RwLock::default(),
            slots: RwLock::default(),
            rebuilt: RwLock::default(),
            fences: RwLock::default(),
            beats: Beats::default(),
            tables: Mutex::new(LruCache::new(TABLES)),
            metrics: DiskMetrics::new(disk),
            unread: None,
            highest_file: AtomicU32::new(0),
            view: Mutex::new((Space::new(0, 1).fill(), 0)),
            read_only: RwLock::default(),
            doubts: Doubts::default(),
            end: Mutex::default(),
            ended: Condvar::new(),
            damaged: Mutex::default(),
            written: AtomicU64::new(0),
            wishes: Mutex::default(),
            scrub: Mutex::default(),
        }
    }

    /// Numbers up to this one are taken.
    pub(crate) fn reserve_numbers(&self, highest: u32) {
        self.highest_file.fetch_max(highest, Ordering::Relaxed);
    }
}

/// What ends the life of an open disk.
#[derive(Default)]
struct End {
    /// Why it cannot go on.
    lost: Option<String>,
    /// It is not wanted any more.
    closed: bool,
    /// Its scrub is to begin a pass at once.
    scrub_asked: bool,
}

/// Whether a slot that is known as this may be addressed so; the newest generation that it knows.
pub(crate) fn fits(
    slot: SlotId,
    known: Option<Membership>,
    group: GroupId,
    generation: Generation,
) -> Result<Option<Generation>, PartError> {
    match known {
        Some(Membership { group: own, .. }) if own != group => Err(PartError::WrongAddress(
            format!("slot {slot} belongs to group {own}, not to group {group}"),
        )),
        Some(known) if generation < known.generation => {
            Err(PartError::StaleGeneration(known.generation))
        }
        known => Ok(known.map(|known| known.generation)),
    }
}
