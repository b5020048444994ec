//! What this machine has of a volume's chunks: files of whole chunks, and blocks in memory.
//!
//! Nothing here is needed: what is missing, cut or rotten is fetched from the store again. A look never
//! waits for the store; it says what is missing ([`Missing`]), and whoever looked fetches that and looks
//! again. Files are written without a sync, as whatever a crash leaves of them is checked when it is read.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirBuilderExt as _, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use lru::LruCache;
use parking_lot::Mutex;
use proto::id::{BlobId, VolumeId};
use proto::on_wake;

use super::chunk::{BadChunk, Block, FOOTER, Index};
use super::run::{ChunkRef, WantedBlock};
use crate::missing::Missing;
use crate::store::MetaError;
use crate::volume_store::{StoreError, VolumeStore};

#[cfg(test)]
mod tests;

/// Chunks whose index is in memory and whose file is open.
const OPEN_CHUNKS: NonZeroUsize = NonZeroUsize::new(256).expect("is not zero");

/// So many chunks are fetched at once for one who waits: each takes its whole length of memory meanwhile.
const FETCHES: usize = 8;

/// Blocks in memory, files beside them, the store behind them.
pub(crate) struct Cache {
    volume: VolumeId,
    store: Arc<dyn VolumeStore>,
    /// `None`: nothing is kept on this machine.
    dir: Option<PathBuf>,
    open: Mutex<LruCache<BlobId, Arc<OpenChunk>>>,
    blocks: Mutex<Blocks>,
    fetching: Turns,
}

/// One at a time for each chunk.
#[derive(Default)]
struct Turns(Mutex<HashMap<BlobId, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn turn(&self, id: BlobId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock();
            turns.retain(|_, turn| turn.strong_count() > 0);
            let taken = turns.get(&id).and_then(Weak::upgrade);
            taken.unwrap_or_else(|| {
                let turn = Arc::default();
                turns.insert(id, Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

/// A chunk whose index was checked.
struct OpenChunk {
    index: Index,
    file: Option<File>,
}

/// Blocks by chunk and number, and bytes of them.
struct Blocks {
    lru: LruCache<(BlobId, u32), Arc<Block>>,
    bytes: usize,
    most: usize,
}

impl Cache {
    /// With blocks of up to `bytes` in memory, over files in `dir`.
    pub(crate) fn new(
        volume: VolumeId,
        store: Arc<dyn VolumeStore>,
        dir: Option<PathBuf>,
        bytes: usize,
    ) -> Self {
        let blocks = Blocks { lru: LruCache::unbounded(), bytes: 0, most: bytes };
        Self {
            volume,
            store,
            dir,
            open: Mutex::new(LruCache::new(OPEN_CHUNKS)),
            blocks: Mutex::new(blocks),
            fetching: Turns::default(),
        }
    }

    /// How many blocks a chunk has.
    pub(crate) fn blocks_of(&self, chunk: &ChunkRef) -> Result<u32, MetaError> {
        Ok(self.open(chunk)?.index.blocks())
    }

    /// The number of the block of a chunk that the key would be in.
    pub(crate) fn find(&self, chunk: &ChunkRef, key: &crate::key::Key) -> Result<u32, MetaError> {
        Ok(self.open(chunk)?.index.find(key))
    }

    /// A block.
    ///
    /// # Errors
    /// [`MetaError::Elsewhere`] when it must be fetched first.
    pub(crate) fn block(&self, chunk: &ChunkRef, number: u32) -> Result<Arc<Block>, MetaError> {
        if let Some(block) = self.blocks.lock().lru.get(&(chunk.id, number)) {
            return Ok(block.clone());
        }
        let open = self.open(chunk)?;
        let missing = || MetaError::Elsewhere(Missing::one(chunk.id, Some(number)));
        let file = open.file.as_ref().ok_or_else(missing)?;
        let range = open.index.range(number);
        let mut bytes = vec![0; range.len()];
        let read = file.read_exact_at(&mut bytes, range.start.into());
        let block = read
            .map_err(|e| e.to_string())
            .and_then(|()| open.index.block(number, bytes.into()).map_err(|e| e.to_string()));
        match block {
            Ok(block) => Ok(self.blocks.lock().keep((chunk.id, number), block)),
            Err(why) => {
                self.drop_file(chunk.id, &why);
                Err(missing())
            }
        }
    }

    /// The index of a chunk, from memory or from its file.
    fn open(&self, chunk: &ChunkRef) -> Result<Arc<OpenChunk>, MetaError> {
        if let Some(open) = self.open.lock().get(&chunk.id) {
            return Ok(open.clone());
        }
        match self.open_file(chunk) {
            Ok(Some(open)) => Ok(self.keep_open(chunk.id, open)),
            Ok(None) => Err(MetaError::Elsewhere(Missing::one(chunk.id, None))),
            Err(why) => {
                self.drop_file(chunk.id, &why);
                Err(MetaError::Elsewhere(Missing::one(chunk.id, None)))
            }
        }
    }

    fn keep_open(&self, id: BlobId, open: OpenChunk) -> Arc<OpenChunk> {
        let open = Arc::new(open);
        self.open.lock().put(id, open.clone());
        open
    }

    /// Opens a chunk's file and checks its index; `None`: there is no such file.
    fn open_file(&self, chunk: &ChunkRef) -> Result<Option<OpenChunk>, String> {
        let Some(path) = self.path(chunk.id) else { return Ok(None) };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| e.to_string())?,
        };
        let len = chunk.id.len();
        let has = file.metadata().map_err(|e| e.to_string())?.len();
        if has != u64::from(len) {
            return Err(format!("it has {has} bytes instead of {len}"));
        }
        let read = |bytes: u32| {
            let mut end = vec![0; bytes as usize];
            file.read_exact_at(&mut end, (len - bytes).into()).map(|()| end)
        };
        let index = || -> Result<Index, String> {
            let footer = read(len.min(FOOTER as u32)).map_err(|e| e.to_string())?;
            let end = Index::len_of(&footer, self.volume, len).map_err(|e| e.to_string())?;
            let end = read(end).map_err(|e| e.to_string())?;
            Index::parse(&end, self.volume, len, chunk.crc).map_err(|e| e.to_string())
        };
        Ok(Some(OpenChunk { index: index()?, file: Some(file) }))
    }

    /// Fetches what a look has missed, several chunks at once.
    ///
    /// # Errors
    /// When the store cannot give it.
    pub(crate) async fn fetch(&self, wanted: &[WantedBlock]) -> Result<(), MetaError> {
        let fetches: Vec<_> = wanted.iter().map(|block| self.fetch_block(block)).collect();
        stream::iter(fetches).buffer_unordered(FETCHES).try_collect().await
    }

    /// Where several miss the same, one fetches it and the others find it.
    async fn fetch_block(&self, wanted: &WantedBlock) -> Result<(), MetaError> {
        let chunk = &wanted.chunk;
        let _turn = self.fetching.turn(chunk.id).await;
        if self.has(wanted) {
            return Ok(());
        }
        let bytes = self.stored(chunk).await?;
        // A file is written.
        on_wake::leave().await;
        let index = whole(self.volume, chunk, &bytes).map_err(|e| damaged(chunk.id, &e))?;
        let file = self.write_file(chunk.id, &bytes);
        if let (None, Some(number)) = (&file, wanted.block) {
            let range = index.range(number);
            // By itself: a slice would keep the whole chunk in memory, of which no more than the block is counted.
            let bytes = &bytes[range.start as usize..range.end as usize];
            let bytes = Bytes::copy_from_slice(bytes);
            let block = index.block(number, bytes).map_err(|e| damaged(chunk.id, &e))?;
            self.blocks.lock().keep((chunk.id, number), block);
        }
        self.keep_open(chunk.id, OpenChunk { index, file });
        Ok(())
    }

    fn has(&self, wanted: &WantedBlock) -> bool {
        match wanted.block {
            Some(number) => self.block(&wanted.chunk, number).is_ok(),
            None => self.open(&wanted.chunk).is_ok(),
        }
    }

    async fn stored(&self, chunk: &ChunkRef) -> Result<Bytes, MetaError> {
        self.store.get(chunk.id, 0..chunk.id.len()).await.map_err(|e| match e {
            StoreError::NotFound => MetaError::Damaged(format!(
                "chunk {} of the snapshot is gone (ashlar fsck --salvage goes on without it)",
                chunk.id
            )),
            e => MetaError::Engine(format!("reading chunk {}: {e}", chunk.id)),
        })
    }

    /// The whole of a chunk, past what is remembered: for a merge.
    pub(crate) async fn whole(&self, chunk: &ChunkRef) -> Result<(Index, Bytes), MetaError> {
        if let Some(path) = self.path(chunk.id)
            && let Ok(bytes) = fs::read(path)
            && let bytes = Bytes::from(bytes)
            && let Ok(index) = whole(self.volume, chunk, &bytes)
            && index.agrees(&bytes)
        {
            return Ok((index, bytes));
        }
        let bytes = self.stored(chunk).await?;
        let index = whole(self.volume, chunk, &bytes).map_err(|e| damaged(chunk.id, &e))?;
        Ok((index, bytes))
    }

    /// Keeps a new chunk on this machine too.
    pub(crate) fn add(&self, id: BlobId, bytes: &Bytes) {
        drop(self.write_file(id, bytes));
    }

    /// Chunks that are no more need no room here either.
    pub(crate) fn forget(&self, id: BlobId) {
        self.open.lock().pop(&id);
        if let Some(path) = self.path(id) {
            let _none = fs::remove_file(path);
        }
    }

    /// As on a machine that has never seen the volume.
    #[cfg(test)]
    pub(crate) fn forget_all(&self) {
        self.open.lock().clear();
        let mut blocks = self.blocks.lock();
        blocks.lru.clear();
        blocks.bytes = 0;
        drop(blocks);
        self.keep_only(|_| false);
    }

    /// Removes the files that are no chunk of these.
    pub(crate) fn keep_only(&self, keep: impl Fn(&Path) -> bool) {
        let Some(dir) = &self.dir else { return };
        let Ok(entries) = fs::read_dir(dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if !keep(&path) {
                let _gone = fs::remove_file(path);
            }
        }
    }

    /// The file that a chunk is kept in.
    pub(crate) fn path(&self, id: BlobId) -> Option<PathBuf> {
        let (session, sequence) = (id.session().0, id.sequence());
        Some(self.dir.as_ref()?.join(format!("{session:016x}-{sequence:x}.chunk")))
    }

    fn write_file(&self, id: BlobId, bytes: &Bytes) -> Option<File> {
        let path = self.path(id)?;
        let new = path.with_extension("new");
        let write = || {
            let mut file = self.new_file(&new)?;
            file.write_all(bytes)?;
            fs::rename(&new, &path)?;
            Ok(file)
        };
        write()
            .inspect_err(|error: &io::Error| {
                let path = path.display();
                tracing::debug!(%path, %error, "a chunk of metadata is not kept on this machine");
                let _none = fs::remove_file(&new);
            })
            .ok()
    }

    /// An empty file. Where somebody removed the directory it is made again: else each block would cost a whole chunk.
    fn new_file(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        match (options.open(path), &self.dir) {
            (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                options.open(path)
            }
            (opened, _) => opened,
        }
    }

    /// A file that is not what it should be goes; the store has what it should have been.
    fn drop_file(&self, id: BlobId, why: &str) {
        self.open.lock().pop(&id);
        if let Some(path) = self.path(id) {
            tracing::warn!(path = %path.display(), "a file of the metadata cache is fetched again: {why}");
            let _gone = fs::remove_file(path);
        }
    }
}

/// The index of a chunk that is all here. Its blocks are checked one by one, when they are looked at.
fn whole(volume: VolumeId, chunk: &ChunkRef, bytes: &Bytes) -> Result<Index, BadChunk> {
    let len = chunk.id.len();
    if bytes.len() != len as usize || bytes.len() < FOOTER {
        return Err(BadChunk::Damaged("too short"));
    }
    let end = Index::len_of(&bytes[bytes.len() - FOOTER..], volume, len)?;
    Index::parse(&bytes[(len - end) as usize..], volume, len, chunk.crc)
}

fn damaged(id: BlobId, why: &BadChunk) -> MetaError {
    MetaError::Damaged(format!("{why} ({id})"))
}

impl Blocks {
    /// Keeps a block, and lets go of those that were not used for longest.
    fn keep(&mut self, at: (BlobId, u32), block: Block) -> Arc<Block> {
        let block = Arc::new(block);
        self.bytes += block.memory();
        if let Some(old) = self.lru.put(at, block.clone()) {
            self.bytes -= old.memory();
        }
        while self.bytes > self.most && self.lru.len() > 1 {
            let Some((_, old)) = self.lru.pop_lru() else { break };
            self.bytes -= old.memory();
        }
        block
    }
}
