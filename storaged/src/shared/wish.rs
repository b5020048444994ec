//! What the scrub of a disk asks of the owner, who alone changes the index.

use std::sync::mpsc::SyncSender;

use proto::id::{PartKey, SlotId};

use crate::log::record::Place;

/// What the log says of a part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finding {
    pub(crate) slot: SlotId,
    pub(crate) key: PartKey,
    /// Where it lies; `None`: nowhere, or it is deleted.
    pub(crate) place: Option<Place>,
}

/// What a scrub asks of the owner.
pub(crate) enum Wish {
    /// Forget no delete from now on.
    Hold,
    /// Put right what was found wrong, and forget again.
    Mend(Vec<Finding>),
}

/// A wish, and who waits for the number of entries that were put right.
pub(crate) type Wished = (Wish, SyncSender<usize>);
