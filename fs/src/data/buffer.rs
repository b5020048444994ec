//! Chunks: the memory that dirty bytes lie in until they are packed. Used again, because fresh memory
//! costs a page fault per 4 KiB.

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use proto::buffer::{note_kept, note_taken};

/// Most bytes of one chunk of dirty data.
pub(crate) const CHUNK: usize = 1 << 20;
/// Free chunks kept: what the flights of one volume need.
const CHUNKS_KEPT: usize = 24;

/// Free chunks of this process, all empty and with room for [`CHUNK`] bytes.
static CHUNKS: Mutex<Vec<BytesMut>> = Mutex::new(Vec::new());

/// An empty chunk with room for `len` bytes.
pub(crate) fn chunk(len: usize) -> BytesMut {
    let kept = if len == CHUNK { CHUNKS.lock().pop() } else { None };
    kept.inspect(|_| note_taken(CHUNK)).unwrap_or_else(|| BytesMut::with_capacity(len))
}

/// Bytes of a chunk are not needed any more: its memory is used again if nobody else has it.
pub(crate) fn recycle(bytes: Bytes) {
    if bytes.len() == CHUNK
        && let Ok(mut chunk) = bytes.try_into_mut()
    {
        chunk.clear();
        let mut chunks = CHUNKS.lock();
        if chunk.capacity() == CHUNK && chunks.len() < CHUNKS_KEPT {
            chunks.push(chunk);
            note_kept(CHUNK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_used_again_unless_somebody_reads_them() {
        let mut full = chunk(CHUNK);
        full.resize(CHUNK, 7);
        let bytes = full.freeze();
        let reader = bytes.slice(..10);
        recycle(bytes);
        assert_eq!(reader[..], [7; 10]);
        let chunk = chunk(CHUNK);
        assert_eq!((chunk.len(), chunk.capacity()), (0, CHUNK));
    }
}
