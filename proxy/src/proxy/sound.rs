//! Which of the parts that were located are sound.
//!
//! That a slot says it holds a part does not say that the part is. So those that a restore-read has located
//! ([`crate::machines::restore`]) are read, once the bytes are there, and a rotten one counts as not located: it is written again.

use futures::future::join_all;
use proto::awake;
use proto::id::{BlobId, PartIndex, PartKey};
use proto::part_store::PartError;

use crate::machines::driver::SLOT_TIMEOUT;
use crate::proxy::Proxy;
use crate::slots::slot_client::Ask;

/// What reading all of a copy has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Every byte is as it was put.
    Sound,
    /// It is not, or not there.
    Rotten,
    /// The slot has not said.
    Unanswered,
}

impl Proxy {
    /// Of parts that slots say they hold, those that are sound: each is read that was not just now. A slot that does not
    /// answer is believed.
    pub(crate) async fn sound_parts(
        &self,
        id: BlobId,
        located: &[(PartIndex, usize)],
        read: &[(PartIndex, usize)],
    ) -> Vec<(PartIndex, usize)> {
        let unread = located.iter().copied().filter(|copy| !read.contains(copy));
        let unread: Vec<_> = unread.collect();
        let said = self.read_parts(id, &unread).await;
        let is_sound = |copy: &(PartIndex, usize)| !said.contains(&(*copy, Read::Rotten));
        located.iter().copied().filter(is_sound).collect()
    }

    /// Reads copies of parts, all at once.
    pub(crate) async fn read_parts(
        &self,
        id: BlobId,
        located: &[(PartIndex, usize)],
    ) -> Vec<((PartIndex, usize), Read)> {
        let reading = located.iter().map(|&(part, slot)| async move {
            let client = &self.slots[slot];
            let key = PartKey { blob: id, part };
            let read = client.get(Ask::IfUp, key, 0..id.part_len());
            let read = match awake::timeout(SLOT_TIMEOUT, read).await {
                Ok(Ok(_)) => Read::Sound,
                Ok(Err(
                    why @ (PartError::Corrupt(_)
                    | PartError::NotFound
                    | PartError::NotRebuilt
                    | PartError::Io(_)),
                )) => {
                    tracing::warn!(place = %client.place, "part {part} of blob {id}: {why}");
                    Read::Rotten
                }
                _ => Read::Unanswered,
            };
            ((part, slot), read)
        });
        join_all(reading).await
    }
}
