//! Operations on ranges of a file: truncate, allocate, punch, clone, seek.
//!
//! Each that changes something holds the file's `order`, so that no commit comes between; changes
//! metadata; then cuts what is in memory. Where the range's bytes were what made the file so long,
//! that length is told to metadata first.
//!
//! Holes are found by whole blocks, as on local filesystems: programs take the distance of two edges
//! for a block's size. What is stored is exact to the byte all the same.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use meta::{Access, Attr, FILE_MAX, FileUpdate, Ino, MetaError};

use crate::data::BLOCK;
use crate::data::Data;
use crate::data::open_inode::OpenInode;
use crate::data::queue::Scope;
use crate::error::DataError;

/// Extents asked for at once by a seek: the edge is mostly near.
const PAGE: usize = 16;
/// So many looks at metadata go without letting others go in between.
const LOOKS: usize = 64;

/// Where the block of a byte starts.
fn block_of(offset: u64) -> u64 {
    offset - offset % u64::from(BLOCK)
}

/// A file of very many extents is not looked through on the thread that asks, nor in one go.
async fn let_others(looks: &mut usize) {
    *looks += 1;
    if looks.is_multiple_of(LOOKS) {
        tokio::task::yield_now().await;
    }
}

fn checked(range: &Range<u64>) -> Result<(), MetaError> {
    if range.is_empty() {
        return Err(MetaError::Invalid("an empty range"));
    }
    if range.end > FILE_MAX {
        return Err(MetaError::FileTooLarge);
    }
    Ok(())
}

impl Data {
    /// Sets the size. Answers the attributes as they are then.
    ///
    /// # Errors
    /// Metadata's.
    pub async fn truncate(&self, ino: Ino, size: u64) -> Result<Attr, DataError> {
        if size > FILE_MAX {
            return Err(MetaError::FileTooLarge.into());
        }
        let open_inode = self.open_inodes.open(ino);
        let _pins = self.using(&[(&open_inode, Access::Write)]).await?;
        let _order = open_inode.order.lock().await;
        let attr = self.meta.truncate(ino, size).await?;
        self.note_stored().await;
        self.cut(&open_inode, size..u64::MAX, &attr);
        Ok(attr)
    }

    /// fallocate(2): holes in the range become allocated zeros; grows the file if `grow`.
    ///
    /// # Errors
    /// Metadata's.
    pub async fn fallocate(
        self: &Arc<Self>,
        ino: Ino,
        range: Range<u64>,
        grow: bool,
    ) -> Result<Attr, DataError> {
        checked(&range)?;
        let open_inode = self.open_inodes.open(ino);
        let _pins = self.using(&[(&open_inode, Access::Write)]).await?;
        let _promising = self.promising.lock().await;
        self.admit(self.holes_in(ino, range.clone()).await?).await?;
        let _order = open_inode.order.lock().await;
        self.tell_size(&open_inode).await?;
        let attr = self.meta.allocate(ino, range, grow).await?;
        self.note_stored().await;
        self.cut(&open_inode, 0..0, &attr);
        Ok(attr)
    }

    /// Makes the range a hole; the size stays.
    ///
    /// # Errors
    /// Metadata's.
    pub async fn punch(&self, ino: Ino, range: Range<u64>) -> Result<Attr, DataError> {
        checked(&range)?;
        let open_inode = self.open_inodes.open(ino);
        let _pins = self.using(&[(&open_inode, Access::Write)]).await?;
        self.clear(&open_inode, range, false, false).await
    }

    /// Makes the range allocated zeros; grows the file if `grow`.
    ///
    /// # Errors
    /// Metadata's.
    pub async fn zero(
        self: &Arc<Self>,
        ino: Ino,
        range: Range<u64>,
        grow: bool,
    ) -> Result<Attr, DataError> {
        checked(&range)?;
        let open_inode = self.open_inodes.open(ino);
        let _pins = self.using(&[(&open_inode, Access::Write)]).await?;
        let _promising = self.promising.lock().await;
        self.admit(self.holes_in(ino, range.clone()).await?).await?;
        self.clear(&open_inode, range, true, grow).await
    }

    /// The caller has pinned the file.
    async fn clear(
        &self,
        open_inode: &Arc<OpenInode>,
        range: Range<u64>,
        allocate: bool,
        grow: bool,
    ) -> Result<Attr, DataError> {
        let _order = open_inode.order.lock().await;
        self.tell_size(open_inode).await?;
        let attr = self.meta.clear_range(open_inode.ino, range.clone(), allocate, grow).await?;
        self.note_stored().await;
        self.cut(open_inode, range, &attr);
        Ok(attr)
    }

    /// copy_file_range(2) without moving data: `to` gets what `from` has in the range, which ends
    /// within the file. Ranges of one file must not overlap.
    ///
    /// # Errors
    /// Metadata's, or why the source could not be stored first.
    pub async fn clone_range(
        self: &Arc<Self>,
        from: Ino,
        range: Range<u64>,
        to: Ino,
        to_offset: u64,
    ) -> Result<Attr, DataError> {
        checked(&range)?;
        let len = range.end - range.start;
        let target = to_offset..to_offset.checked_add(len).ok_or(MetaError::FileTooLarge)?;
        checked(&target)?;
        let source = self.open_inodes.open(from);
        let open_inode = self.open_inodes.open(to);
        let _pins = self.using(&[(&source, Access::Read), (&open_inode, Access::Write)]).await?;
        self.settle(&Scope::One(&source)).await?;
        let _promising = self.promising.lock().await;
        // A clone counts as the copy that it is to whoever asked for one: all of it can be
        // overwritten.
        let more = self.promised_in(from, range.clone()).await?;
        self.admit(more.saturating_sub(self.promised_in(to, target.clone()).await?)).await?;
        let (_first, _second);
        if from == to {
            _first = source.order.lock().await;
        } else {
            let (a, b) = if from < to { (&source, &open_inode) } else { (&open_inode, &source) };
            _first = a.order.lock().await;
            _second = b.order.lock().await;
        }
        self.tell_size(&open_inode).await?;
        let attr = self.meta.clone_range(from, range, to, to_offset).await?;
        self.note_stored().await;
        self.cut(&open_inode, target, &attr);
        Ok(attr)
    }

    /// Tells metadata how long unstored bytes make the file. The caller holds its order.
    async fn tell_size(&self, open_inode: &Arc<OpenInode>) -> Result<(), DataError> {
        let (size, mtime) = {
            let state = open_inode.state.lock();
            (state.dirty_ranges.end(), state.mtime)
        };
        if size == 0 {
            return Ok(());
        }
        let size_at_least = Some(size);
        let update = FileUpdate { ino: open_inode.ino, extents: Vec::new(), size_at_least, mtime };
        self.meta.commit(&[], &[update]).await?;
        // Counted like a flight: the size is about to leave memory.
        self.queue.commits.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Metadata has changed to `attr`: cuts the range out of memory. The caller holds the order.
    fn cut(&self, open_inode: &Arc<OpenInode>, range: Range<u64>, attr: &Attr) {
        let mut state = open_inode.state.lock();
        // It took the time of this change, which is later than those of the writes.
        state.mtime = None;
        state.layout_changed(Some(attr.size));
        self.change(open_inode, &mut state, 0, |ranges| ranges.cut(range));
        self.queue.settle(open_inode, &mut state);
    }

    /// First byte from `offset` on that lies in a block with data; `None` when there is none.
    ///
    /// # Errors
    /// Metadata's.
    pub async fn seek_data(&self, ino: Ino, offset: u64) -> Result<Option<u64>, DataError> {
        let open_inode = self.open_inodes.open(ino);
        let _pins = self.using(&[(&open_inode, Access::Read)]).await?;
        let size = self.size(&open_inode).await?;
        if offset >= size {
            return Ok(None);
        }
        let data = self.next_data(ino, block_of(offset)..size).await?;
        Ok(data.map(|data| block_of(data.start).max(offset)))
    }

    /// First byte from `offset` on that lies in a block without data, the end of the file being one;
    /// `None` beyond it.
    ///
    /// # Errors
    /// Metadata's.
    pub async fn seek_hole(&self, ino: Ino, offset: u64) -> Result<Option<u64>, DataError> {
        let open_inode = self.open_inodes.open(ino);
        let _pins = self.using(&[(&open_inode, Access::Read)]).await?;
        let size = self.size(&open_inode).await?;
        if offset >= size {
            return Ok(None);
        }
        let mut block = block_of(offset);
        let mut looks = 0;
        while let Some(data) = self.next_data(ino, block..size).await?
            && block_of(data.start) == block
        {
            block = data.end.next_multiple_of(BLOCK.into());
            if block >= size {
                return Ok(Some(size));
            }
            let_others(&mut looks).await;
        }
        Ok(Some(block.max(offset)))
    }

    /// The first run of data in the range, in memory or stored; it may go on behind its end.
    async fn next_data(
        &self,
        ino: Ino,
        range: Range<u64>,
    ) -> Result<Option<Range<u64>>, DataError> {
        let unstored = self.next_unstored(ino, range.clone());
        let limit = unstored.as_ref().map_or(range.end, |run| run.start);
        let mut at = range.start;
        let mut looks = 0;
        while at < limit {
            let page = self.meta.extents(ino, at..limit, PAGE).await?;
            let_others(&mut looks).await;
            let mut data: Option<Range<u64>> = None;
            for extent in page.iter().filter(|extent| extent.place.is_some()) {
                let run = data.get_or_insert(extent.offset.max(at)..extent.offset);
                if extent.offset > run.end {
                    break;
                }
                run.end = extent.offset + extent.len;
            }
            match page.last() {
                _ if data.is_some() => return Ok(data),
                Some(last) if page.len() == PAGE => at = last.offset + last.len,
                _ => break,
            }
        }
        Ok(unstored)
    }

    /// Is any byte of the range in memory alone?
    pub(crate) fn is_unstored(&self, ino: Ino, range: Range<u64>) -> bool {
        self.next_unstored(ino, range).is_some()
    }

    fn next_unstored(&self, ino: Ino, range: Range<u64>) -> Option<Range<u64>> {
        let open_inode = self.open_inodes.get(ino)?;
        let state = open_inode.state.lock();
        state.dirty_ranges.next_run(range)
    }

    async fn size(&self, open_inode: &OpenInode) -> Result<u64, DataError> {
        // In this order: bytes that land in between are counted by metadata.
        let unstored = open_inode.state.lock().dirty_ranges.end();
        Ok(self.meta.getattr(open_inode.ino).await?.size.max(unstored))
    }
}
