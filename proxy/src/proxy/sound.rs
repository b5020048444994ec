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

impl Proxy {
    /// Of parts that slots say they hold, those that are sound: each is read. A slot that does not answer is believed.
    pub(crate) async fn sound_parts(
        &self,
        id: BlobId,
        located: &[(PartIndex, usize)],
    ) -> Vec<(PartIndex, usize)> {
        let reading = located.iter().map(|&(part, slot)| async move {
            let client = &self.slots[slot];
            let key = PartKey { blob: id, part };
            let read = client.get(Ask::IfUp, key, 0..id.part_len());
            match awake::timeout(SLOT_TIMEOUT, read).await {
                Ok(Err(
                    why @ (PartError::Corrupt(_)
                    | PartError::NotFound
                    | PartError::NotRebuilt
                    | PartError::Io(_)),
                )) => {
                    let place = &client.place;
                    tracing::warn!(%place, "part {part} of blob {id} is written again: {why}");
                    None
                }
                _ => Some((part, slot)),
            }
        });
        join_all(reading).await.into_iter().flatten().collect()
    }
}
