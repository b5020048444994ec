//! How much of a blob lies on slots that are up, which is what deleting it gives back there.
//!
//! While slots are away, a blob put before has fewer parts on the others than one that replaces it, so
//! that the room of a volume shrinks as it is overwritten. Nothing but the slots themselves knows where
//! all the parts are: they are asked, once for each blob that it matters for. As long as no slot is away
//! every blob is whole, and nobody is asked.

use std::collections::HashMap;

use parking_lot::Mutex;
use proto::id::BlobId;

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

impl Reach {
    /// What is known of a blob while these slots are away.
    pub(crate) fn known(&self, away: u64, id: &BlobId) -> Option<u64> {
        self.known.lock().of(away).get(id).copied()
    }

    /// Remembers it.
    pub(crate) fn learn(&self, away: u64, id: BlobId, share: u64) {
        self.known.lock().of(away).insert(id, share);
    }
}

impl Known {
    fn of(&mut self, away: u64) -> &mut HashMap<BlobId, u64> {
        if self.away != away || self.blobs.len() >= MOST {
            (self.away, self.blobs) = (away, HashMap::new());
        }
        &mut self.blobs
    }
}
