//! Mending an index whose entries were damaged: what the log says counts.
//!
//! A scrub finds what is suspect: a part in the log of which the index knows nothing, or an entry at whose place
//! something else lies. What is right of such a part is what a rebuild from the block files would find, so all
//! headers are read for the newest word about it ([`Inquiry`]), and the owner puts that into the index, or takes
//! the entry out of it. While that goes on no delete is forgotten: one that the inquiry cannot have seen is
//! remembered when the owner decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use proto::id::{BlobId, PartIndex, PartKey, SlotId};
use proto::part_store::PartError;

use super::check::Lies;
use super::position::SlotPart;
use crate::index::IndexResult;
use crate::index::fill::Stage;
use crate::log::block_file::{BlockFile, Found, Scan};
use crate::log::record::{Place, What, decode_blobs, decode_parts, footprint};
use crate::owner::Owner;
use crate::shared::Shared;
use crate::shared::wish::{Finding, Wish};

/// How often somebody who waits for the owner looks whether there still is one.
const LOOK: Duration = Duration::from_millis(50);

/// The newest word about a part.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    /// Its newest record: whether it has the bytes (they never change), sequence and place.
    put: Option<(bool, u64, Place)>,
    /// Sequence of the newest record that it was taken away, or its blob deleted.
    gone: u64,
}

/// Looks for the newest words about some parts, through all of the log.
pub(super) struct Inquiry {
    words: BTreeMap<(SlotId, BlobId), BTreeMap<PartIndex, Word>>,
    /// The next record to look at.
    pub(super) at: Place,
    /// Where it ends.
    pub(super) until: Place,
}

impl Inquiry {
    /// About these parts, up to a place.
    pub(super) fn new(parts: impl Iterator<Item = SlotPart>, until: Place) -> Self {
        let mut words: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (slot, key) in parts {
            words.entry((slot, key.blob)).or_default().insert(key.part, Word::default());
        }
        Self { words, at: Place { file: 0, block: 0 }, until }
    }

    /// Takes in a record.
    pub(super) fn hear(&mut self, file: &BlockFile, scan: &Scan<'_>, found: &Found) {
        let (slot, sequence) = (found.entry.slot, found.entry.sequence);
        match found.entry.what {
            What::Put(key) | What::Lost(key) => {
                let parts = self.words.get_mut(&(slot, key.blob));
                let word = parts.and_then(|parts| parts.get_mut(&key.part));
                let whole = matches!(found.entry.what, What::Put(_));
                if let Some(word) = word
                    && word.put.is_none_or(|(has, before, _)| (has, before) < (whole, sequence))
                {
                    let place = Place { file: file.number, block: found.block };
                    word.put = Some((whole, sequence, place));
                }
            }
            What::Delete => {
                let payload = scan.payload(found).ok().filter(|p| p.verify().is_ok());
                let Some(payload) = payload else { return };
                for blob in decode_blobs(payload.data()) {
                    let parts = self.words.get_mut(&(slot, blob)).into_iter().flatten();
                    parts.for_each(|(_, word)| word.gone = word.gone.max(sequence));
                }
            }
            What::Drop => {
                let payload = scan.payload(found).ok().filter(|p| p.verify().is_ok());
                let Some(payload) = payload else { return };
                for key in decode_parts(payload.data()) {
                    let parts = self.words.get_mut(&(slot, key.blob));
                    if let Some(word) = parts.and_then(|parts| parts.get_mut(&key.part)) {
                        word.gone = word.gone.max(sequence);
                    }
                }
            }
            What::Forget | What::Slot | What::Fence | What::Rebuilt => {}
        }
    }

    /// What was found.
    pub(super) fn end(self) -> Vec<Finding> {
        let one = |(slot, blob): (SlotId, BlobId), (part, word): (PartIndex, Word)| {
            let newest = word.put.filter(|(_, sequence, _)| *sequence > word.gone);
            Finding { slot, key: PartKey { blob, part }, place: newest.map(|(_, _, place)| place) }
        };
        let all = self.words.into_iter();
        all.flat_map(|(blob, parts)| parts.into_iter().map(move |part| one(blob, part))).collect()
    }
}

impl Shared {
    /// Has the owner do something, and waits for it.
    ///
    /// # Errors
    /// When the disk takes no writes, or has no owner any more.
    pub(super) fn wish(&self, wish: Wish) -> Result<usize, PartError> {
        let (done, answer) = sync_channel(1);
        self.wishes.lock().push((wish, done));
        self.wished(&answer)
    }

    fn wished(&self, answer: &Receiver<usize>) -> Result<usize, PartError> {
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(count) => return Ok(count),
                Err(RecvTimeoutError::Timeout) if self.read_only().is_none() && !self.is_over() => {
                }
                Err(_) => return Err(PartError::Io("the index cannot be mended now".to_owned())),
            }
        }
    }
}

impl Owner {
    /// Does what the scrub has asked for.
    pub(crate) fn fulfil_wishes(&mut self) {
        let wishes = std::mem::take(&mut *self.shared.wishes.lock());
        for (wish, done) in wishes {
            match self.fulfil(wish) {
                // Whoever asked may have gone.
                Ok(count) => drop(done.send(count)),
                Err(e) => drop(self.shared.index_failed(&e)),
            }
        }
    }

    /// Does it: how many entries of the index were put right.
    pub(super) fn fulfil(&mut self, wish: Wish) -> IndexResult<usize> {
        match wish {
            Wish::Hold => {
                self.ledger.hold_tombstones();
                Ok(0)
            }
            Wish::Mend(findings) => self.mend_index(&findings),
        }
    }

    fn mend_index(&mut self, findings: &[Finding]) -> IndexResult<usize> {
        let mut touched = BTreeSet::new();
        let mut mended = 0;
        for finding in findings {
            if let Some(files) = self.mend_entry(*finding)? {
                touched.extend(files.map(|place| place.file));
                mended += 1;
            }
        }
        // What it has passed already it would take for lost.
        if self.compaction.as_ref().is_some_and(|work| touched.contains(&work.file)) {
            self.compaction = None;
        }
        for file in touched {
            self.recount(file)?;
        }
        self.ledger.release_tombstones()?;
        if mended > 0 {
            // Changes have to reach redb.
            self.logged += 1;
            self.shared.publish(&self.ledger.space);
        }
        Ok(mended)
    }

    /// Puts one entry right; answers the places that it was at and is at, if it was wrong.
    fn mend_entry(
        &mut self,
        Finding { slot, key, place }: Finding,
    ) -> IndexResult<Option<impl Iterator<Item = Place> + use<>>> {
        let index = &self.ledger.index;
        let before = index.part(slot, key)?;
        let lies = |place| self.shared.lies(slot, key, place);
        if before.is_some_and(|before| lies(before) == Lies::It) {
            return Ok(None);
        }
        let deleted = index.tombstone(slot, key.blob)?.is_some();
        let stays = |place: &Place| {
            self.ledger.space.files.get(&place.file).is_some_and(|file| file.stage != Stage::Doomed)
        };
        let after = match place.filter(|place| !deleted && stays(place)) {
            Some(place) if index.is_dead(slot, key, place)? => None,
            Some(place)
                if lies(place) == Lies::It || before.is_none() && lies(place) == Lies::Lost =>
            {
                Some(place)
            }
            _ => None,
        };
        // What makes no sense may be the part itself: it stays known, as damaged.
        let wrong = before.is_some_and(|before| deleted || lies(before) == Lies::Another);
        if after.is_none() && !wrong {
            return Ok(None);
        }
        let disk = self.shared.disk;
        match after {
            Some(Place { file, block }) => tracing::warn!(
                %disk, %slot, %key, file, block, "the index had lost a part: it is found in the log, and back"
            ),
            None => tracing::warn!(
                %disk, %slot, %key, "the index had a part that the log has not: it counts as missing"
            ),
        }
        index.correct_part(slot, key, after);
        self.shared.damage_gone(|other_slot, other| (other_slot, other) == (slot, key));
        Ok(Some(before.into_iter().chain(after)))
    }

    /// Counts anew what is live in a file.
    fn recount(&mut self, number: u32) -> IndexResult<()> {
        let file = self.shared.files.read().get(&number).cloned();
        let Some(file) = file else { return Ok(()) };
        let tail = self.ledger.space.file(number).tail;
        let Ok(scan) = Scan::new(&file, self.shared.disk, 0, tail) else { return Ok(()) };
        let mut live = 0;
        for found in scan {
            let (What::Put(key) | What::Lost(key)) = found.entry.what else { continue };
            let place = Place { file: number, block: found.block };
            if self.ledger.index.part(found.entry.slot, key)? == Some(place) {
                live += footprint(key.blob.part_len());
            }
        }
        let state = self.ledger.space.file(number);
        state.live = live;
        // Compaction may have given it up because its account did not add up.
        if state.stage == Stage::Kept {
            state.stage = Stage::Sealed;
        }
        Ok(())
    }
}
