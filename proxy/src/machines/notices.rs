//! What puts and gets notice on their way: blobs that want mending. Whoever repairs a volume hears of them.
//!
//! Bounded: of more than [`MOST`] that nobody has taken, only that there were more is remembered.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use proto::id::{BlobId, VolumeId};
use tokio::sync::Notify;

/// Blobs that one volume remembers at most.
const MOST: usize = 4096;

/// Why a blob wants mending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// A part is not where it belongs, or shares its unit.
    Misplaced,
    /// A part is not there, or does not read well: what slots say they hold is not believed.
    Damaged,
}

/// What was noticed of one volume.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    blobs: Mutex<BTreeMap<BlobId, Why>>,
    overflowed: AtomicBool,
    /// There is something.
    pub(crate) wake: Notify,
}

impl Inbox {
    /// All that was noticed since, and whether there was more.
    pub(crate) fn take(&self) -> (BTreeMap<BlobId, Why>, bool) {
        (std::mem::take(&mut self.blobs.lock()), self.overflowed.swap(false, Ordering::Relaxed))
    }

    fn add(&self, blob: BlobId, why: Why) {
        let mut blobs = self.blobs.lock();
        if blobs.len() >= MOST && !blobs.contains_key(&blob) {
            self.overflowed.store(true, Ordering::Relaxed);
        } else {
            let known = blobs.entry(blob).or_insert(why);
            *known = why.max(*known);
        }
        drop(blobs);
        self.wake.notify_one();
    }
}

/// The inboxes of those who listen.
#[derive(Debug, Default)]
pub(crate) struct Notices(RwLock<HashMap<VolumeId, Arc<Inbox>>>);

impl Notices {
    /// From now on blobs of the volume are remembered.
    pub(crate) fn listen(&self, volume: VolumeId) -> Arc<Inbox> {
        self.0.write().entry(volume).or_default().clone()
    }

    /// Nobody listens any more.
    pub(crate) fn deafen(&self, volume: VolumeId) {
        self.0.write().remove(&volume);
    }

    /// A blob wants mending.
    pub(crate) fn tell(&self, blob: BlobId, why: Why) {
        if let Some(inbox) = self.0.read().get(&blob.volume()) {
            inbox.add(blob, why);
        }
    }
}
