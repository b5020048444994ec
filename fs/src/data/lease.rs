//! Grants: what of a file may be kept here, where others have the volume, too.
//!
//! A file's content is read under [`Access::Read`] and changed under [`Access::Write`]. Who works with it pins what was
//! granted ([`Pins`]), and a grant that is wanted back is given when nobody does, and all that was written under it is
//! stored. Nothing is asked for while something is pinned, nor with a lock: who needs several files asks for all of them
//! together. So nobody who has a grant waits for another, and no two wait for each other.
//!
//! Where nobody else has the volume, everything is ours and nothing is pinned.

use std::sync::Arc;

use meta::{Access, Ino, Wish};

use crate::data::Data;
use crate::data::open_inode::{OpenInode, Pins};
use crate::data::queue::Scope;
use crate::error::DataError;

impl Data {
    /// Returns when all these files may be used in these ways, until the answer is dropped. Ready at once where that is so
    /// already. Not to be called with pins, nor with locks.
    ///
    /// # Errors
    /// Metadata's.
    pub(crate) async fn using(
        &self,
        wanted: &[(&Arc<OpenInode>, Access)],
    ) -> Result<Pins, DataError> {
        let Some(leases) = self.open_inodes.leases() else { return Ok(Pins::default()) };
        loop {
            if let Some(pins) = Pins::take(wanted) {
                return Ok(pins);
            }
            let wishes: Vec<Wish> = wanted
                .iter()
                .map(|&(open_inode, access)| Wish { ino: open_inode.ino, access })
                .collect();
            leases.obtain(&wishes).await?;
            for (open_inode, _) in wanted {
                let mut state = open_inode.state.lock();
                state.access = leases.access(open_inode.ino);
            }
        }
    }

    /// A file is wanted by others: gives back what is beyond `to`. Returns when nobody works with the file any more, what was
    /// written to it is stored, and nothing of it is remembered.
    ///
    /// # Errors
    /// Why its bytes cannot be stored. They stay, and so does the grant.
    pub async fn give_back(self: &Arc<Self>, ino: Ino, to: Access) -> Result<(), DataError> {
        let Some(leases) = self.open_inodes.leases() else { return Ok(()) };
        let open_inode = self.open_inodes.open(ino);
        loop {
            self.settle(&Scope::One(&open_inode)).await?;
            let unpinned = open_inode.unpinned.notified();
            tokio::pin!(unpinned);
            unpinned.as_mut().enable();
            {
                let mut state = open_inode.state.lock();
                if state.lower(to) {
                    leases.gave_back(ino, state.access);
                    return Ok(());
                }
                if !state.is_pinned() {
                    // Something was written meanwhile.
                    continue;
                }
            }
            unpinned.await;
        }
    }
}
