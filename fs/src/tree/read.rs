//! Reading a file: it is held while it is open, and comes in chunks, whose memory is bounded however many read how
//! slowly.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use meta::may::READ;
use meta::{Attr, Ino, MetaError, Outdated};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{TreePath, TreeResult, View, regular};
use crate::error::{DataError, FsError};
use crate::filesystem::beside::Held;

/// A chunk, in bytes, as long as there is memory for it.
const CHUNK: u64 = 1 << 20;
/// A chunk when there is none: what every reader may have.
const LITTLE: u64 = 64 << 10;
/// Chunks of the first kind that all readers of a process have at once.
const CHUNKS: usize = 32;

/// How often a file may be replaced by another between its being found and its being held.
const REPLACED: usize = 100;

/// Memory for what is being sent, shared by all who read. Cheap to clone.
#[derive(Clone)]
pub struct Sending(Arc<Semaphore>);

impl Default for Sending {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CHUNKS)))
    }
}

/// A chunk, and its share of the memory.
struct Sent {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A file that is open for reading.
pub struct OpenFile {
    held: Held,
    attr: Attr,
}

impl View {
    /// Opens a file. What is renamed over it, or whether it is taken away, does not change what is read then.
    ///
    /// # Errors
    /// When it is none, or may not be read.
    pub async fn open(&self, path: &TreePath) -> TreeResult<OpenFile> {
        let (held, attr) = self.hold(path).await?;
        if self.data().is_mapped(attr.ino) {
            // What was stored there in a mapping, and the kernel has not sent, comes first.
            self.filesystem.outdate(vec![Outdated::Content(attr.ino)]).await;
        }
        Ok(OpenFile { held, attr })
    }
}

impl View {
    /// Holds a file that may be read. One that loses its name to another one meanwhile is looked for again.
    async fn hold(&self, path: &TreePath) -> TreeResult<(Held, Attr)> {
        for _ in 0..REPLACED {
            let attr = self.stat(path).await?;
            self.may(&attr, |who, file| who.open(file, READ, false)).await?;
            regular(&attr)?;
            if let Some(held) = self.filesystem.hold(attr.ino).await? {
                return Ok(held);
            }
        }
        let why = "the file is replaced by others faster than it can be opened";
        Err(DataError::Unavailable(why.to_owned()).into())
    }
}

impl OpenFile {
    /// As it was when it was opened.
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// Has somebody written to it since it was opened?
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn has_changed(&self) -> TreeResult<bool> {
        let now = self.held.filesystem().getattr(self.held.ino()).await?;
        Ok((now.size, now.mtime) != (self.attr.size, self.attr.mtime))
    }

    /// An attribute that users gave it (`user.`), which may be read by whoever may read it.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn attribute(&self, name: &[u8]) -> TreeResult<Option<Vec<u8>>> {
        match self.held.filesystem().getxattr(self.held.ino(), name).await {
            Ok(value) => Ok(Some(value)),
            Err(FsError::Meta(MetaError::NoAttribute)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Which inode it is.
    pub(super) fn ino(&self) -> Ino {
        self.held.ino()
    }

    /// Its bytes in a range, short at the end of the file.
    ///
    /// # Errors
    /// When they cannot be had.
    pub async fn read(&self, range: Range<u64>) -> TreeResult<Bytes> {
        let len = range.end.saturating_sub(range.start);
        let bytes = self.held.filesystem().read(self.held.ino(), range.start, len).await?;
        self.held.filesystem().was_read(self.held.ino());
        Ok(bytes)
    }

    /// The next chunk of a range.
    async fn chunk(&self, range: &Range<u64>, memory: &Sending) -> TreeResult<Bytes> {
        let left = range.end - range.start;
        let share = match left > LITTLE {
            true => memory.0.clone().try_acquire_owned().ok(),
            false => None,
        };
        let len = left.min(if share.is_some() { CHUNK } else { LITTLE });
        let bytes = self.read(range.start..range.start + len).await?;
        if bytes.is_empty() {
            return Err(DataError::Gone("the file became shorter while it was read".into()).into());
        }
        Ok(match share {
            Some(_share) => Bytes::from_owner(Sent { bytes, _share }),
            // Not a part of a larger piece of memory, which it would keep.
            None => Bytes::copy_from_slice(&bytes),
        })
    }

    /// Streams a range that lies within the file. It breaks off with an error if the file becomes shorter meanwhile.
    pub fn stream(
        self,
        range: Range<u64>,
        memory: Sending,
    ) -> impl Stream<Item = TreeResult<Bytes>> + Send + 'static {
        futures::stream::try_unfold((self, range, memory), |(file, mut range, memory)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let bytes = file.chunk(&range, &memory).await?;
            range.start += bytes.len() as u64;
            Ok(Some((bytes, (file, range, memory))))
        })
    }
}
