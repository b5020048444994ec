//! How much of a blob lies on slots that are up, which is what deleting it gives back there.
//!
//! While slots are away, a blob put before has fewer parts on the others than one that replaces it, so
//! that the room of a volume shrinks as it is overwritten. Nothing but the slots themselves knows where
//! all the parts are: they are asked, once for each blob that it matters for. As long as no slot is away
//! every blob is whole, and nobody is asked.

use std::collections::HashMap;

use meta::is_inline;
use parking_lot::Mutex;
use proto::id::BlobId;

use crate::data::Data;

/// All of it, in thousandths.
pub(crate) const WHOLE: u64 = 1000;
/// Most blobs that are remembered.
const MOST: usize = 1 << 16;

/// What slots have said since the last of them went, or came.
#[derive(Default)]
pub(crate) struct Reach {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    away: u64,
    blobs: HashMap<BlobId, u64>,
}

impl Known {
    fn of(&mut self, away: u64) -> &mut HashMap<BlobId, u64> {
        if self.away != away || self.blobs.len() >= MOST {
            (self.away, self.blobs) = (away, HashMap::new());
        }
        &mut self.blobs
    }
}

impl Data {
    /// The share of a blob that is in reach, in thousandths, as far as is known without asking.
    pub(crate) fn known_reach(&self, id: &BlobId) -> u64 {
        match self.space.away() {
            0 => WHOLE,
            away => self.reach.known.lock().of(away).get(id).copied().unwrap_or(WHOLE),
        }
    }

    /// The share of a blob that is in reach, in thousandths.
    pub(crate) async fn reach(&self, id: &BlobId) -> u64 {
        let away = self.space.away();
        if away == 0 || is_inline(id) {
            return WHOLE;
        }
        if let Some(known) = self.reach.known.lock().of(away).get(id) {
            return *known;
        }
        let parts = self.blobs.in_reach(*id).await as u64;
        let share = parts * WHOLE / id.scheme().parts() as u64;
        self.reach.known.lock().of(away).insert(*id, share);
        share
    }

    /// Room that deleting a blob gives back now.
    pub(crate) fn gives_back(&self, id: &BlobId) -> u64 {
        if is_inline(id) {
            return 0;
        }
        self.space.cost(id) * self.known_reach(id) / WHOLE
    }
}
