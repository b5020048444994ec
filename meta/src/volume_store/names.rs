//! What the blobs of a volume's metadata are called.
//!
//! A blob's id starts with volume, session and sequence, and slots list their blobs in that order. The
//! upper two bits of the session say what a blob is, the rest is the epoch of the leader that wrote it:
//!
//! | bits | what                            | sequence                           |
//! |------|---------------------------------|------------------------------------|
//! | 00   | data of files                   | a number within the session        |
//! | 01   | a chunk of a snapshot           | a number within the epoch          |
//! | 10   | an entry of the journal         | its LSN                            |
//! | 11   | the manifest of a snapshot      | LSN of the last batch it has       |

use proto::id::{BlobId, GroupId, SessionId, VolumeId};
use proto::scheme::Scheme;

const SHIFT: u32 = SessionId::ROLE_SHIFT;
/// Highest epoch there can be. Nobody leads under it: it is that of a volume that is being destroyed.
pub(crate) const EPOCH_MAX: u64 = (1 << SHIFT) - 1;

/// What a blob of a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Data of files.
    Data = 0,
    /// A chunk of a snapshot.
    Chunk = 1,
    /// An entry of the journal.
    Entry = 2,
    /// The manifest of a snapshot.
    Manifest = 3,
}

impl Role {
    /// The session that blobs of this kind carry, of a leader with this epoch.
    pub(crate) fn session(self, epoch: u64) -> SessionId {
        debug_assert!(epoch <= EPOCH_MAX, "epochs count up from 1");
        SessionId((self as u64) << SHIFT | epoch)
    }

    /// What a session says a blob is, and the epoch of who wrote it.
    pub(crate) fn of(session: SessionId) -> (Self, u64) {
        let role = [Self::Data, Self::Chunk, Self::Entry, Self::Manifest];
        (role[(session.0 >> SHIFT) as usize], session.0 & EPOCH_MAX)
    }
}

/// Names the blobs that one leader of a volume writes for its metadata.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namer {
    /// The volume.
    pub(crate) volume: VolumeId,
    /// Of the leader.
    pub(crate) epoch: u64,
    /// Whose slots they go to.
    pub(crate) group: GroupId,
    /// How they are protected.
    pub(crate) scheme: Scheme,
}

impl Namer {
    /// A blob of `len` bytes; `None` if none can be so long.
    pub(crate) fn name(&self, role: Role, sequence: u64, len: usize) -> Option<BlobId> {
        let len = u32::try_from(len).ok()?;
        let session = role.session(self.epoch);
        BlobId::new(self.volume, session, sequence, self.group, len, self.scheme)
    }
}
