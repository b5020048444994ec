//! Volumes in real directories: format, open, lock, and what a reopened volume holds.

#![allow(clippy::unwrap_used)] // it is a test throughout

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meta::{
    Caller, Extent, FileUpdate, LocalMeta, MetaSettings, MetaStore, MountedBy, NewBlob, NewNode,
    Place, ROOT, RenameMode, VolumeError, VolumeInfo,
};
use proto::id::{BlobId, ClusterId, GroupId, SessionId, VolumeId};
use proto::scheme::Scheme;

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

fn info(name: &str) -> VolumeInfo {
    VolumeInfo {
        name: name.to_owned(),
        id: VolumeId(7),
        cluster: ClusterId::random(),
        scheme: Scheme::erasure(4, 2).unwrap(),
    }
}

fn here() -> MountedBy {
    MountedBy { pid: std::process::id(), mountpoint: PathBuf::from("/mnt/here") }
}

fn open(dir: &Path, name: &str) -> Result<Arc<LocalMeta>, VolumeError> {
    meta::open(dir, name, here(), MetaSettings::default())
}

#[tokio::test]
async fn a_volume_is_as_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let info = info("home");
    meta::format(dir.path(), &info, (10, 20, 0o1777)).unwrap();
    let meta = open(dir.path(), "home").unwrap();
    assert_eq!(meta.volume(), info);
    assert_eq!(meta.session(), SessionId(1));
    let root = meta.getattr(ROOT).await.unwrap();
    assert_eq!((root.uid, root.gid, root.mode, root.nlink), (10, 20, 0o1777, 2));
    let file = meta.create(CALLER, ROOT, b"a", 0o644, NewNode::File).await.unwrap();
    meta.sync().await.unwrap();
    meta.close_session().await.unwrap();
    drop(meta);
    let meta = open(dir.path(), "home").unwrap();
    assert_eq!(meta.lookup(ROOT, b"a").await.unwrap(), file);
    assert_eq!(meta.session(), SessionId(2));
    assert_eq!(meta.dead_sessions().await.unwrap(), []);
    assert_eq!(meta.check().unwrap().problems, Vec::<String>::new());
}

#[tokio::test]
async fn a_session_that_was_not_closed_is_dead_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    meta::format(dir.path(), &info("v"), (0, 0, 0o755)).unwrap();
    drop(open(dir.path(), "v").unwrap());
    let meta = open(dir.path(), "v").unwrap();
    assert_eq!(meta.dead_sessions().await.unwrap(), [SessionId(1)]);
    assert!(meta.forget_session(meta.session()).await.is_err());
    meta.forget_session(SessionId(1)).await.unwrap();
    assert_eq!(meta.dead_sessions().await.unwrap(), []);
    meta.close_session().await.unwrap();
    drop(meta);
    let meta = open(dir.path(), "v").unwrap();
    assert_eq!(meta.session(), SessionId(3));
    assert_eq!(meta.dead_sessions().await.unwrap(), []);
}

#[test]
fn a_second_open_is_refused_and_names_the_first() {
    let dir = tempfile::tempdir().unwrap();
    meta::format(dir.path(), &info("v"), (0, 0, 0o755)).unwrap();
    assert_eq!(meta::lock_holder(dir.path(), "v").unwrap(), None);
    let first = open(dir.path(), "v").unwrap();
    let error = open(dir.path(), "v").err().unwrap().to_string();
    let expected = format!("volume v is mounted at /mnt/here by process {}", std::process::id());
    assert_eq!(error, expected);
    assert_eq!(meta::lock_holder(dir.path(), "v").unwrap(), Some(here()));
    assert!(matches!(
        meta::format(dir.path(), &info("v"), (0, 0, 0)),
        Err(VolumeError::Mounted { .. })
    ));
    drop(first);
    assert_eq!(meta::lock_holder(dir.path(), "v").unwrap(), None);
    open(dir.path(), "v").unwrap();
}

#[test]
fn what_cannot_be_formatted_or_opened_says_why() {
    let dir = tempfile::tempdir().unwrap();
    for bad in ["", "A", "a/b", "..", ".hidden", "-x", "ü", &"x".repeat(65)] {
        let error = meta::format(dir.path(), &info(bad), (0, 0, 0)).unwrap_err();
        assert!(matches!(error, VolumeError::BadName(_)), "{bad}: {error}");
    }
    assert!(matches!(open(dir.path(), "none"), Err(VolumeError::NotFound { .. })));
    meta::format(dir.path(), &info("a.b"), (0, 0, 0)).unwrap();
    meta::format(dir.path(), &info("a"), (0, 0, 0)).unwrap();
    assert!(matches!(meta::format(dir.path(), &info("a"), (0, 0, 0)), Err(VolumeError::Exists(_))));
    assert_eq!(meta::volumes(dir.path()).unwrap(), ["a", "a.b"]);
    for garbage in [&b""[..], b"not a database", &[0; 9000]] {
        std::fs::write(dir.path().join("junk.redb"), garbage).unwrap();
        let error = open(dir.path(), "junk").err().unwrap();
        assert!(matches!(error, VolumeError::Damaged { .. }), "{error}");
    }
}

/// Names, renames and content from several threads at once, with syncs in between; and a copy of
/// its files that nobody closed.
#[test]
fn many_threads_leave_a_volume_in_order() {
    const THREADS: u64 = 4;
    let dir = tempfile::tempdir().unwrap();
    meta::format(dir.path(), &info("v"), (0, 0, 0o755)).unwrap();
    let settings = MetaSettings { unsynced_bytes: 20_000, ..MetaSettings::default() };
    let meta = meta::open(dir.path(), "v", here(), settings).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let meta = &meta;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(work(meta, thread));
            });
        }
    });
    assert_eq!(meta.check().unwrap().problems, Vec::<String>::new());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(meta.sync()).unwrap();
    let usage = runtime.block_on(meta.usage()).unwrap();
    // The log first: should its content go over to the database in between, it is not needed.
    let second = tempfile::tempdir().unwrap();
    for name in ["v.log", "v.redb"] {
        std::fs::copy(dir.path().join(name), second.path().join(name)).unwrap();
    }
    let copy = open(second.path(), "v").unwrap();
    assert_eq!(copy.check().unwrap().problems, Vec::<String>::new());
    assert_eq!(runtime.block_on(copy.usage()).unwrap(), usage);
}

/// One thread's share: all of them fight for the same ten names.
async fn work(meta: &LocalMeta, thread: u64) {
    for i in 0..400u64 {
        let name = |n: u64| format!("n{}", n % 10).into_bytes();
        let (one, two) = (name(i * 7 + thread), name(i * 3));
        // Any of these may lose a race: what counts is what is left.
        let _ = meta.create(CALLER, ROOT, &one, 0o644, NewNode::File).await;
        let _ = meta.rename((ROOT, &one), (ROOT, &two), RenameMode::Replace).await;
        if let Ok(attr) = meta.lookup(ROOT, &two).await {
            let sequence = thread * 1_000_000 + i;
            let scheme = Scheme::erasure(4, 2).unwrap();
            let id =
                BlobId::new(VolumeId(7), SessionId(1), sequence, GroupId(0), 4096, scheme).unwrap();
            let place = Some(Place { blob: id, offset: 0 });
            let extents = vec![Extent { offset: i * 100, len: 4096, place }];
            let update = FileUpdate { ino: attr.ino, extents, size_at_least: Some(i), mtime: None };
            meta.commit(&[NewBlob { id, degraded: false }], &[update]).await.unwrap();
        }
        if let Ok(gone) = meta.unlink(ROOT, &two).await
            && gone.orphan
        {
            meta.reap(&[gone.ino]).await.unwrap();
        }
        if i % 50 == 0 {
            meta.sync().await.unwrap();
            let garbage = meta.garbage(None, 100).await.unwrap();
            meta.forget_blobs(&garbage).await.unwrap();
        }
    }
}

/// Names and attributes are in these files: nobody but their owner reads them.
#[tokio::test]
async fn what_a_volume_is_kept_in_is_closed_to_others() {
    use std::fs::{Permissions, metadata, set_permissions, write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("made/here");
    meta::format(&dir, &info("v"), (0, 0, 0o755)).unwrap();
    let mode = |name: &str| metadata(dir.join(name)).unwrap().mode() & 0o7777;
    assert_eq!([mode(""), mode("..")], [0o700, 0o700]);
    open(&dir, "v").unwrap().close_session().await.unwrap();
    let files = ["v.redb", "v.log", "v.lock"];
    assert_eq!(files.map(mode), [0o600; 3]);
    // As earlier versions left them.
    write(dir.join("v.messages"), "unlinked a-name").unwrap();
    write(dir.join("other"), "").unwrap();
    for name in ["v.redb", "v.log", "v.lock", "v.messages", "other"] {
        set_permissions(dir.join(name), Permissions::from_mode(0o644)).unwrap();
    }
    open(&dir, "v").unwrap().close_session().await.unwrap();
    assert_eq!(files.map(mode), [0o600; 3]);
    assert_eq!([mode("v.messages"), mode("other")], [0o600, 0o644]);
}
