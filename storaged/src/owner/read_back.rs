//! After a failed write or sync: what the file had acknowledged is read from the device before it is answered for again.
//!
//! The kernel tells once that it could not write what it had. Then it takes it for written: a second sync that succeeds
//! proves nothing, and a read may be answered out of its memory. So nothing is synced again, and the disk takes no
//! writes until it is opened anew, which reads its log ([`crate::disk::replay`]). Until what the index has in the file was read
//! past the kernel's memory, nothing of it is served, and the disk does not say what it holds, for it may not hold it.
//! What reads well then is served; what does not is damaged, and said to be so, for repair to make it anew elsewhere.
//!
//! Invariant: a doubt ends only when every part in the file was read and verified, or noted as damaged.

use std::io;
use std::sync::Arc;

use proto::part_store::PartError;

use crate::shared::{MAX_DAMAGED, Shared};

/// Has what lies in a block file doubted, and read back. It is read by whoever asks where nobody else can.
pub(crate) fn begin(shared: &Arc<Shared>, file: u32) {
    if !shared.doubts.raise(file) {
        return;
    }
    let reading = shared.clone();
    let work = move || read(&reading, file);
    if shared.hands.start("read-back", Box::new(work)).is_err() {
        read(shared, file);
    }
}

fn read(shared: &Shared, file: u32) {
    match read_parts(shared, file) {
        Ok(Some((good, damaged))) => {
            let told = format!(
                "block file {file} was read back (good parts: {good}, damaged: {damaged}), and the disk takes writes \
                 again once it is opened anew"
            );
            tracing::warn!(disk = %shared.disk, "after a failed sync: {told}");
            shared.doubts.end(file, told);
        }
        Ok(None) => {}
        Err(why) => {
            tracing::error!(disk = %shared.disk, "block file {file} stays in doubt: {why}");
            shared.doubts.stays(file, why.reason());
        }
    }
}

/// How many parts were read well, and how many were not. `None`: the disk is not wanted any more.
fn read_parts(shared: &Shared, number: u32) -> Result<Option<(u64, u64)>, PartError> {
    let io = |e: io::Error| PartError::Io(e.to_string());
    let file = shared.files.read().get(&number).cloned();
    let Some(file) = file else { return Ok(None) };
    file.io.forget_cached().map_err(io)?;
    let parts = shared.index.parts_in(number).map_err(|e| shared.index_failed(&e))?;
    let (mut good, mut damaged) = (0, 0);
    for (slot, key, place) in parts {
        // What is remembered of the record was read, or written, before.
        shared.tables.lock().pop(&place);
        let read = shared.read_at(place, slot, key, 0..key.blob.part_len());
        if shared.is_over() {
            return Ok(None);
        }
        match read {
            Ok(_) => good += 1,
            Err(why) => {
                tracing::warn!(disk = %shared.disk, %slot, %key, "not read back: {why}");
                if !shared.note_damage(slot, key) {
                    return Err(PartError::Io(format!(
                        "more than {MAX_DAMAGED} parts of the disk are damaged, which are not all remembered"
                    )));
                }
                damaged += 1;
            }
        }
    }
    Ok(Some((good, damaged)))
}
