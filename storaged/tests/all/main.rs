//! Disks in directories and daemons on loopback: what is acknowledged is there, through crashes, rot
//! and a lost index, and what makes no sense is refused.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, which clippy cannot see here

mod basics;
mod crash;
mod daemon;
mod fence;
mod model;
mod mounted;
mod order;
mod raw;
mod read_only;
mod rebuilding;
mod rot;
mod space;
mod strangers;
mod tls;
mod vanish;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proto::checksum::Checked;
use proto::id::{BlobId, ClusterId, Generation, GroupId, PartKey, SessionId, SlotId, VolumeId};
use proto::part_store::{PartError, PartStore, Scope};
use storaged::{Disk, DiskOptions, InitOptions, init_disk};
use tempfile::TempDir;

use raw::Raw;

const MIB: u64 = 1 << 20;
const SMALL: InitOptions = InitOptions { capacity: Some(96 * MIB), block_file: 16 * MIB };

/// A disk of which nothing was ever asked.
fn bare() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    init_disk(&dir.path().join("d"), ClusterId::random(), SMALL).unwrap();
    dir
}

/// A disk whose slot 0 serves a group that is new.
fn fresh() -> TempDir {
    let dir = bare();
    futures::executor::block_on(slot(&open(dir.path())).serve()).unwrap();
    dir
}

fn open(dir: &Path) -> Arc<Disk> {
    Disk::open(&dir.join("d"), DiskOptions::default()).unwrap()
}

fn slot(disk: &Arc<Disk>) -> Arc<dyn PartStore> {
    disk.slot(SlotId(0), GroupId(0), Generation(1))
}

fn key(sequence: u64, len: u32) -> PartKey {
    let scheme = "copies(3)".parse().unwrap();
    let blob = BlobId::new(VolumeId(1), SessionId(1), sequence, GroupId(0), len, scheme).unwrap();
    PartKey::new(blob, 1).unwrap()
}

/// Bytes that depend on the key alone.
fn content(key: PartKey) -> Bytes {
    let seed = key.blob.sequence().wrapping_mul(0x9e37_79b9_7f4a_7c15) + key.part.get() as u64;
    let bytes = (0..key.blob.part_len()).map(|i| (seed >> (i % 56)) as u8 ^ (i >> 8) as u8);
    bytes.collect::<Vec<u8>>().into()
}

async fn put(slot: &Arc<dyn PartStore>, key: PartKey) -> Result<(), PartError> {
    slot.put(key, Checked::compute(content(key)), None).await
}

async fn get(slot: &Arc<dyn PartStore>, key: PartKey) -> Result<Bytes, PartError> {
    slot.get(key, 0..key.blob.part_len()).await
}

/// What a crash leaves: the files as they are now.
fn copy(from: &Path, to: &Path) {
    let script = "cp -a --sparse=always \"$0\" \"$1\"";
    let done = std::process::Command::new("sh").arg("-c").arg(script).arg(from).arg(to).status();
    assert!(done.unwrap().success());
}
