//! The data plane over the real metadata.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meta::{Caller, MetaStore, NewNode, ROOT, Time};

use super::*;

#[tokio::test]
async fn files_read_as_written_over_local_metadata_which_stay_consistent() {
    for seed in 1..=4 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let meta = meta::in_memory(&MemoryMeta::new().volume(), (0, 0, 0o755));
        let caller = Caller { uid: 0, gid: 0, umask: 0 };
        let attr = meta.create(caller, ROOT, b"file", 0o644, NewNode::File).await.unwrap();
        let blobs = Arc::new(MemoryBlobs::new());
        blobs.inner.lock().failing_percent = 20;
        let settings =
            DataSettings { garbage_interval: Duration::from_millis(2), ..super::small() };
        let data = Data::start(meta.clone(), blobs.clone(), settings);
        let mut model: Vec<u8> = Vec::new();
        for nth in 0..600 {
            let start = random.below(400_000) as usize;
            let len = 1 + random.below(20_000) as usize;
            match random.below(10) {
                0..4 => {
                    let bytes = random.bytes(len);
                    let now = Time { secs: nth, nanos: 0 };
                    let written = Bytes::from(bytes.clone());
                    data.write(attr.ino, start as u64, written, now).await.unwrap();
                    model.resize(model.len().max(start + len), 0);
                    model[start..start + len].copy_from_slice(&bytes);
                }
                4..7 => {
                    let got = data.read(attr.ino, start as u64..(start + len) as u64).await;
                    let end = model.len();
                    assert!(got.unwrap() == model[start.min(end)..(start + len).min(end)]);
                }
                7 => {
                    data.truncate(attr.ino, start as u64).await.unwrap();
                    model.resize(start, 0);
                }
                8 => {
                    data.punch(attr.ino, start as u64..(start + len) as u64).await.unwrap();
                    let end = model.len();
                    model[start.min(end)..(start + len).min(end)].fill(0);
                }
                // A store that fails makes fsync fail; the bytes stay.
                _ => drop(data.fsync(attr.ino).await),
            }
        }
        blobs.inner.lock().failing_percent = 0;
        data.stop().await.unwrap();
        assert_eq!(meta.getattr(attr.ino).await.unwrap().size, model.len() as u64);
        let again = Data::start(meta.clone(), blobs, super::small());
        assert!(again.read(attr.ino, 0..1 << 20).await.unwrap() == model);
    }
}
