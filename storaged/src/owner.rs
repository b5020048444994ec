//! The state of a disk's one writer. What it does is in [`crate::owner::commit`] (batches and checkpoints),
//! [`crate::owner::room`] (who waits for room, and when it is made), [`crate::owner::compact`] and
//! [`crate::owner::give_back`].

pub(crate) mod ahead;
pub(crate) mod batch;
pub(crate) mod commit;
pub(crate) mod compact;
pub(crate) mod give_back;
pub(crate) mod read_back;
pub(crate) mod room;
pub(crate) mod waiting;
pub(crate) mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use proto::buffer::Aligned;
use proto::id::{BlobId, PartKey, SlotId};

use crate::index::IndexResult;
use crate::index::ledger::Ledger;
use crate::log::block_file::BlockFile;
use crate::log::record::Place;
use crate::owner::ahead::Ahead;
use crate::owner::waiting::Waiting;
use crate::owner::watch::Watch;
use crate::shared::Shared;

/// How long nothing is tried again that the filesystem had no room for.
pub(crate) const NO_ROOM: Duration = Duration::from_secs(2);

/// Dead records of a file that is to go, to be struck off once it is gone.
pub(crate) type Dead = Vec<(SlotId, PartKey, Place)>;

/// The state of a disk's one writer.
pub(crate) struct Owner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ledger: Ledger,
    /// The file that is written; `None` before the first and when none can be made.
    pub(crate) current: Option<Arc<BlockFile>>,
    /// Sequence of the last record.
    pub(crate) sequence: u64,
    pub(crate) scratch: Aligned,
    pub(crate) ahead: Ahead,
    /// Requests that wait for room.
    pub(crate) waiting: Waiting,
    /// Bytes of records that are to be moved before new data are taken: what was put while room ran short is paid so.
    pub(crate) debt: u64,
    /// The queue is closed: nobody waits for room any more.
    pub(crate) closing: bool,
    pub(crate) compaction: Option<Compaction>,
    /// No slice of compaction that nobody waits for before this.
    pub(crate) compact_from: Instant,
    /// None at all before this: the last one failed, or what it moved took as much as there was.
    pub(crate) gain_from: Instant,
    /// Files that had no room for what is needed of them although it was to be expected. Tried again after a checkpoint.
    pub(crate) unfit: BTreeSet<u32>,
    /// Files of stage doomed that are there still.
    pub(crate) doomed: HashMap<u32, Dead>,
    /// Files that are gone, with those of their dead records that are not struck off yet.
    pub(crate) gone: Vec<(u32, Dead)>,
    pub(crate) checkpoint: Option<RunningCheckpoint>,
    /// No checkpoint by itself before this.
    pub(crate) checkpoint_from: Instant,
    pub(crate) logged: u64,
    pub(crate) changed_at: Instant,
    pub(crate) declined: Declined,
    /// Looks whether the disk is still there.
    pub(crate) watch: Option<Watch>,
}

/// A checkpoint that is being written.
pub(crate) struct RunningCheckpoint {
    /// What came of it. Without an answer it has panicked.
    pub(crate) end: Receiver<IndexResult<()>>,
    pub(crate) doomed: Vec<u32>,
}

/// A file that is being emptied.
pub(crate) struct Compaction {
    pub(crate) file: u32,
    pub(crate) next: u32,
    /// Bytes of records moved so far.
    pub(crate) moved: u64,
    pub(crate) dead: Dead,
    /// Blobs in the deletes and forgets met so far: written again together.
    pub(crate) blobs: BTreeMap<SlotId, BTreeSet<BlobId>>,
    /// Parts that were taken away, in the records met so far: written again together, where that is needed.
    pub(crate) dropped: BTreeMap<SlotId, BTreeSet<PartKey>>,
    /// Something in the file is no record, or cannot be read.
    pub(crate) damaged: bool,
    /// Once it is read to the end: parts that the index has there, and damage has hidden, which are still to be
    /// written from the index.
    pub(crate) hidden: Option<Vec<(SlotId, PartKey, Place)>>,
}

/// What the filesystem has declined.
#[derive(Default)]
pub(crate) struct Declined {
    /// Nothing is tried again before this.
    pub(crate) until: Option<Instant>,
    /// It cannot make holes.
    pub(crate) no_holes: bool,
    pub(crate) said: HashSet<&'static str>,
}

impl Declined {
    /// Is it too early to try again?
    pub(crate) fn rests(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}
