//! What the cache does when its directory goes, and what it keeps in memory.

use proto::id::SessionId;

use super::super::chunk::Builder;
use super::*;
use crate::key::Key;
use crate::testing::MemoryStore;

const VOLUME: VolumeId = VolumeId(3);

/// A chunk of several blocks that a store has, and its bytes there.
async fn stored() -> (Arc<MemoryStore>, ChunkRef, Bytes) {
    let store = Arc::new(MemoryStore::default());
    let mut builder = Builder::new(VOLUME);
    for n in 0..1000u32 {
        builder.add(Key::from_bytes(&n.to_be_bytes()).unwrap(), Some(&[n as u8; 100]));
    }
    let built = builder.finish().unwrap();
    let (scheme, len) = ("copies(3)".parse().unwrap(), built.bytes.len() as u32);
    let id = BlobId::new(VOLUME, SessionId(1), 1, store.group(), len, scheme).unwrap();
    store.fence(1, 1).await.unwrap();
    store.put(id, built.bytes.clone()).await.unwrap();
    (store, ChunkRef { id, crc: built.crc, first: built.first, last: built.last }, built.bytes)
}

#[tokio::test]
async fn a_directory_that_is_gone_is_made_again_and_each_chunk_fetched_once() {
    let (store, chunk, _) = stored().await;
    let home = tempfile::tempdir().unwrap();
    let cache = Cache::new(VOLUME, store, Some(home.path().join("cache/chunks")), 1 << 20);
    for block in [Some(0), None] {
        cache.fetch(&[WantedBlock { chunk, block }]).await.unwrap();
        for number in 0..cache.blocks_of(&chunk).unwrap() {
            cache.block(&chunk, number).expect("the chunk has a file");
        }
        std::fs::remove_dir_all(home.path().join("cache")).unwrap();
        cache.open.lock().clear();
        cache.blocks.lock().lru.clear();
    }
}

#[tokio::test]
async fn of_a_chunk_that_cannot_be_kept_in_a_file_one_block_is_in_memory() {
    let (store, chunk, bytes) = stored().await;
    let cache = Cache::new(VOLUME, store, None, 1 << 20);
    cache.fetch(&[WantedBlock { chunk, block: Some(1) }]).await.unwrap();
    let block = cache.block(&chunk, 1).unwrap();
    let (_, value) = block.entry(0);
    assert!(!bytes.as_ptr_range().contains(&value.unwrap().as_ptr()), "it keeps the whole chunk");
    assert!(matches!(cache.block(&chunk, 0), Err(MetaError::Elsewhere(_))));
}
