//! Which blobs the cleaner empties: the emptiest, out of one scan over all records for many rounds.
//!
//! A scan costs in proportion to the blobs there are, so its list is used until as many victims were
//! taken as pay for the next one. An entry may be out of date, but hardly too hopeful: live bytes
//! only become fewer, unless they are cloned. Whoever takes one asks metadata again. That nothing is to be
//! gained is only what a new list says: an old one does not know of what has died since.

use std::collections::BinaryHeap;

use meta::BlobRecord;
use proto::id::BlobId;

use crate::data::Data;
use crate::data::reach::WHOLE;
use crate::error::DataError;

/// Most candidates kept of one scan.
const MOST: usize = 16 << 10;
/// Records whose scan one victim pays for.
const RECORDS_PER_VICTIM: usize = 16;
/// Victims that are taken of each list at least.
const LEAST: usize = 16;
/// Records asked for at once.
const PAGE: usize = 1024;

/// What makes a blob worth emptying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Worth {
    /// Less than a quarter of it is alive.
    #[default]
    Quarter,
    /// It takes at least one seventieth more room than its live bytes would in a full blob.
    Anything,
}

/// The emptiest blobs of a scan, the emptiest last.
#[derive(Default)]
pub(crate) struct Candidates {
    worth: Worth,
    left: Vec<(u64, BlobId)>,
    /// How many more are to be taken before the next scan.
    budget: usize,
    /// There were no more than these.
    whole: bool,
    /// Some were taken in a round before: others may have become worthy since.
    old: bool,
}

impl Candidates {
    /// May victims be taken of this list, or is it time for a new one?
    pub(crate) fn are_good_for(&self, worth: Worth) -> bool {
        self.worth == worth && self.budget > 0 && !self.left.is_empty()
    }

    /// The next.
    pub(crate) fn next(&mut self) -> Option<BlobId> {
        self.budget = self.budget.checked_sub(1)?;
        self.left.pop().map(|(_, id)| id)
    }

    /// Was this all there is?
    pub(crate) fn is_whole(&self) -> bool {
        self.whole && !self.old && self.left.is_empty()
    }

    /// Does it not know of what has become worthy since the rounds before?
    pub(crate) fn is_old(&self) -> bool {
        self.old
    }

    /// A round has taken what it needs.
    pub(crate) fn grow_old(&mut self) {
        self.old = true;
    }
}

impl Data {
    /// How much of the room that it gives back when it is deleted is alive, in thousandths.
    pub(crate) fn alive(&self, record: &BlobRecord, worth: Worth) -> u64 {
        let takes = match worth {
            Worth::Quarter => u64::from(record.id.len()),
            Worth::Anything => self.gives_back(&record.id),
        };
        record.live.saturating_mul(1000) / takes.max(1)
    }

    /// Is there enough to gain?
    pub(crate) fn is_worth(&self, record: &BlobRecord, worth: Worth) -> bool {
        let most = match worth {
            Worth::Quarter => 250,
            // Where slots are away, each byte that is moved takes more than it gives back.
            Worth::Anything if self.known_reach(&record.id) < WHOLE => 500,
            Worth::Anything => self.space.packed() - 14,
        };
        record.live > 0 && self.alive(record, worth) < most
    }

    /// Scans all records.
    pub(crate) async fn candidates(
        &self,
        worth: Worth,
        leave: impl Fn(&BlobRecord) -> bool,
    ) -> Result<Candidates, DataError> {
        let mut found: BinaryHeap<(u64, BlobId)> = BinaryHeap::new();
        let (mut after, mut scanned, mut whole) = (None, 0, true);
        loop {
            let page = self.meta.blobs(after, PAGE).await?;
            scanned += page.len();
            for record in page.iter().filter(|record| self.is_worth(record, worth)) {
                if leave(record) {
                    continue;
                }
                found.push((self.alive(record, worth), record.id));
                if found.len() > MOST {
                    found.pop();
                    whole = false;
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.id),
                _ => break,
            }
        }
        let mut left = found.into_sorted_vec();
        left.reverse();
        let budget = (scanned / RECORDS_PER_VICTIM).max(LEAST);
        Ok(Candidates { worth, left, budget, whole, old: false })
    }
}
