//! The end of a volume, on a store in memory: whatever interrupts it, nobody gets half a volume, others
//! are left alone, and it can be brought to its end; and what is listed of volumes that cannot be read.

#![allow(clippy::unwrap_used)] // it is a test throughout

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meta::testing::MemoryStores;
use meta::{
    Caller, Destroyed, Directories, MetaSettings, MetaStore, MountedBy, NewNode, ROOT, Session,
    VolumeError, VolumeInfo, VolumeLock, VolumeState, VolumeStores,
};
use proto::id::{BlobId, ClusterId, GroupId, SessionId, VolumeId};
use proto::scheme::Scheme;

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const V: VolumeId = VolumeId(8);
const W: VolumeId = VolumeId(9);

/// A cluster, and a machine that formats and mounts its volumes.
struct Site {
    stores: MemoryStores,
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self { stores: MemoryStores::default(), dir: tempfile::tempdir().unwrap() }
    }

    fn lock(&self, name: &str) -> VolumeLock {
        let by = MountedBy { pid: 1, mountpoint: PathBuf::from("/mnt/here") };
        VolumeLock::take(&Directories::only(self.dir.path()), name, &by).unwrap()
    }

    async fn format(&self, name: &str, id: VolumeId) -> Result<(), VolumeError> {
        let cluster = ClusterId::from_slice(&[5; 16]).unwrap();
        let scheme = Scheme::erasure(4, 2).unwrap();
        let info = VolumeInfo {
            name: name.to_owned(),
            id,
            cluster,
            scheme,
            rules: proxy::VolumeRules::default(),
        };
        meta::format(&self.stores, &self.lock(name), &info, (0, 0, 0o755)).await
    }

    async fn open(&self, name: &str) -> Result<Arc<Session>, VolumeError> {
        let volume = meta::open(&self.stores, self.lock(name), MetaSettings::default()).await?;
        Ok(Arc::new(volume.open_session().await.unwrap()))
    }

    /// Blobs of data, of three sessions, of a volume that is not there yet.
    async fn put_data(&self, id: VolumeId) {
        let store = self.stores.condemned(id);
        for number in 0..30 {
            let (session, scheme) = (SessionId(number % 3), Scheme::erasure(4, 2).unwrap());
            let blob = BlobId::new(id, session, number, GroupId(2), 5, scheme).unwrap();
            store.put(blob, Bytes::from_static(b"bytes")).await.unwrap();
        }
    }

    /// A volume with data, and with metadata in a snapshot and beyond it.
    async fn fill(&self, name: &str, id: VolumeId) {
        self.put_data(id).await;
        self.format(name, id).await.unwrap();
        for round in 0..2 {
            let meta = self.open(name).await.unwrap();
            for n in 0..if round == 0 { 2000 } else { 10 } {
                let file = format!("{round}-{n}");
                meta.create(CALLER, ROOT, file.as_bytes(), 0o644, NewNode::File).await.unwrap();
                if n % 100 == 0 {
                    meta.sync().await.unwrap();
                }
            }
            meta.close_session().await.unwrap();
            meta.opened_on().close().await;
        }
    }

    /// Names and states of the volumes.
    async fn list(&self) -> Vec<(Option<String>, VolumeState)> {
        let found = meta::list(&self.stores).await.volumes;
        found.into_iter().map(|found| (found.name, found.state)).collect()
    }

    async fn destroy(&self, id: VolumeId) -> Destroyed {
        meta::destroy(&self.stores, id, &|_| {}).await.unwrap()
    }
}

fn whole(name: &str) -> (Option<String>, VolumeState) {
    (Some(name.to_owned()), VolumeState::Whole)
}

#[tokio::test(start_paused = true)]
async fn a_destroyed_volume_leaves_nothing_and_the_others_alone() {
    let site = Site::new();
    site.fill("v", V).await;
    site.fill("w", W).await;
    assert_eq!(site.list().await, [whole("v"), whole("w")]);
    assert_eq!(meta::scheme_of(&site.stores, V).await, Some(Scheme::erasure(4, 2).unwrap()));
    let blobs = site.stores.store(V).names();
    let told = std::sync::Mutex::new(Vec::new());
    let hears = |at: Destroyed| told.lock().unwrap().push(at.deleted);
    let destroyed = meta::destroy(&site.stores, V, &hears).await.unwrap();
    let of_v = blobs.iter().filter(|id| id.volume() == V).count() as u64;
    assert_eq!(destroyed, Destroyed { deleted: of_v, unconfirmed: 0 });
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted() && told.len() > 3 && told.last() == Some(&of_v), "{told:?}");
    let left = site.stores.store(V).names();
    assert_eq!(left, blobs.into_iter().filter(|id| id.volume() == W).collect::<Vec<_>>());
    assert_eq!(site.list().await, [whole("w")]);
    assert!(matches!(site.open("v").await, Err(VolumeError::NotFound { .. })));
    assert_eq!(site.destroy(V).await, Destroyed::default());
    // Its name is free, with another number.
    site.fill("v", VolumeId(10)).await;
    assert_eq!(site.open("v").await.unwrap().usage().await.unwrap().inodes, 2011);
    assert_eq!(site.open("w").await.unwrap().usage().await.unwrap().inodes, 2011);
}

/// Killed at every moment.
#[tokio::test(start_paused = true)]
async fn an_interrupted_destruction_leaves_no_half_a_volume_and_can_go_on() {
    let (mut begun, mut ended) = (0, 0);
    for moment in 0.. {
        let site = Site::new();
        site.fill("v", V).await;
        site.fill("w", W).await;
        site.stores.store(V).shuffle(moment + 1);
        let killed = tokio::time::timeout(
            Duration::from_millis(moment * 7),
            meta::destroy(&site.stores, V, &|_| {}),
        )
        .await;
        let listed = site.list().await;
        assert_eq!(listed.last(), Some(&whole("w")), "moment {moment}");
        match &listed[..listed.len() - 1] {
            [] => {}
            [(name, VolumeState::Whole)] if name.as_deref() == Some("v") => {
                assert_eq!(site.open("v").await.unwrap().usage().await.unwrap().inodes, 2011);
            }
            [(name, VolumeState::Condemned)] if name.as_deref() == Some("v") => {
                begun += 1;
                let refused = site.open("v").await.err().unwrap().to_string();
                assert!(refused.contains("being destroyed"), "moment {moment}: {refused}");
                let lock = site.lock("v");
                let looked =
                    meta::look(&site.stores, "v", Some(&lock), MetaSettings::default()).await;
                let refused = looked.err().unwrap().to_string();
                drop(lock);
                assert!(refused.contains("being destroyed"), "moment {moment}: {refused}");
                assert!(matches!(site.format("v", V).await, Err(VolumeError::Exists(_))));
            }
            other => panic!("moment {moment}: {other:?}"),
        }
        assert!(site.destroy(V).await.is_whole());
        assert_eq!(site.list().await, [whole("w")], "moment {moment}");
        assert_eq!(site.open("w").await.unwrap().usage().await.unwrap().inodes, 2011);
        if killed.is_ok() {
            ended += 1;
        }
        if ended == 3 {
            break;
        }
    }
    println!("killed {begun} times in the midst");
    assert!(begun > 5, "it was killed {begun} times only");
}

#[tokio::test(start_paused = true)]
async fn a_mount_elsewhere_can_write_nothing_more_and_says_why() {
    let site = Site::new();
    site.fill("v", V).await;
    let elsewhere = site.open("v").await.unwrap();
    let holder = meta::holder(&site.stores, V, None).await.unwrap().unwrap();
    assert!(holder.name.contains("at /mnt/here"), "{holder}");
    assert_eq!(meta::holder(&site.stores, VolumeId(77), None).await, Ok(None));
    assert!(site.destroy(V).await.is_whole());
    let _ = elsewhere.create(CALLER, ROOT, b"late", 0o644, NewNode::File).await;
    let why = elsewhere.sync().await.unwrap_err().to_string();
    assert!(why.contains("taken over"), "{why}");
    assert_eq!(site.list().await, []);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_listed_beside_the_others_and_can_be_destroyed() {
    let site = Site::new();
    site.put_data(VolumeId(7)).await;
    site.fill("v", V).await;
    site.fill("w", W).await;
    let store = site.stores.store(V);
    // Its newest entries and its manifest: then nothing says what it is called.
    let metadata =
        store.names().into_iter().filter(|id| id.volume() == V && id.session().0 >> 62 > 1);
    let metadata: Vec<BlobId> = metadata.collect();
    for id in &metadata {
        store.tamper(*id, |mut bytes| {
            bytes[60] ^= 1;
            Some(bytes)
        });
    }
    let listed = site.list().await;
    assert_eq!(listed.len(), 3, "{listed:?}");
    for ((name, state), expected) in listed.iter().zip(["no metadata", "damaged"]) {
        let VolumeState::Damaged(why) = state else { panic!("{state:?}") };
        assert!(name.is_none() && why.contains(expected), "{why}");
    }
    assert_eq!(listed[2], whole("w"));
    assert_eq!(meta::scheme_of(&site.stores, V).await, None);
    // It is not hidden from who asks for it, and keeps nobody from the others.
    let refused = site.open("v").await.err().unwrap().to_string();
    assert!(refused.contains("no volume v") && refused.contains("number 8 ("), "{refused}");
    assert_eq!(site.open("w").await.unwrap().usage().await.unwrap().inodes, 2011);
    let refused = site.format("x", VolumeId(11)).await.err().unwrap().to_string();
    assert!(refused.contains("destroy --number 8"), "{refused}");
    for id in [VolumeId(7), V] {
        assert!(site.destroy(id).await.is_whole());
    }
    assert_eq!(site.list().await, [whole("w")]);
    site.format("x", VolumeId(11)).await.unwrap();
}
