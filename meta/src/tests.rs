//! Tests of the whole: operations on an opened volume.

mod accounts;
mod acls;
mod damage;
mod keys;
mod model;
mod rounds;
mod rules;
mod steps;

use std::cell::Cell;
use std::sync::Arc;

use proto::id::{BlobId, ClusterId, GroupId, SessionId, VolumeId};
use proto::scheme::Scheme;

use crate::engine::Kv;
use crate::engine::memory::MemoryKv;
use crate::key::volume::VolumeRecord;
use crate::rules::name::Hasher;
use crate::store::{Caller, Time, VolumeInfo};
use crate::volume::initialise;
use crate::volume::opened::{Seams, Volume};
use crate::volume::session::Session;

const ADMIN: Caller = Caller { uid: 0, gid: 0, umask: 0 };

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(1) };
}

/// A clock that moves on by a second whenever it is read.
fn clock() -> Time {
    NOW.set(NOW.get() + 1);
    Time { secs: NOW.get(), nanos: 0 }
}

/// Three hashes for all names.
fn weak_hash(name: &[u8], _: u64) -> u64 {
    1 + name.iter().map(|b| u64::from(*b)).sum::<u64>() % 3
}

fn seams(hasher: Hasher) -> Seams {
    Seams { clock, hasher }
}

fn info() -> VolumeInfo {
    VolumeInfo {
        name: "test".to_owned(),
        id: VolumeId(1),
        cluster: ClusterId::from_slice(&[3; 16]).unwrap(),
        scheme: Scheme::erasure(4, 2).unwrap(),
        rules: proxy::VolumeRules::default(),
    }
}

fn blob(sequence: u64, len: u32) -> BlobId {
    BlobId::new(
        VolumeId(1),
        SessionId(1),
        sequence,
        GroupId(0),
        len,
        Scheme::erasure(4, 2).unwrap(),
    )
    .unwrap()
}

/// Runs on this thread, so that the clock is this test's own; what was spawned goes on meanwhile.
fn wait<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

fn format(kv: &dyn Kv) -> VolumeRecord {
    initialise(kv, &info(), (0, 0, 0o755)).unwrap()
}

fn open(kv: Arc<dyn Kv>, record: &VolumeRecord, hasher: Hasher) -> Session {
    wait(Volume::new(kv, record.clone(), seams(hasher), None).open_session()).unwrap()
}

/// A volume in memory, and its engine.
fn volume(hasher: Hasher) -> (Arc<MemoryKv>, VolumeRecord, Session) {
    let kv = Arc::new(MemoryKv::default());
    let record = format(&*kv);
    let meta = open(kv.clone(), &record, hasher);
    (kv, record, meta)
}

/// What is left after a power loss, opened.
fn crash(kv: &MemoryKv, record: &VolumeRecord, hasher: Hasher) -> Session {
    open(Arc::new(kv.crash()), record, hasher)
}

fn assert_clean(meta: &Session) {
    assert_eq!(wait(meta.opened_on().check()).unwrap().problems, Vec::<String>::new());
}
