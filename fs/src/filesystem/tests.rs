//! The filesystem's own rules: what needs metadata and the data plane together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use meta::{Caller, Ino, MetaStore, NewNode, ROOT, RenameMode, Time, VolumeInfo};
use nix::errno::Errno;
use proto::id::{ClusterId, VolumeId};
use proto::scheme::Scheme;

use crate::data::{Data, DataSettings};
use crate::error::FsError;
use crate::filesystem::outdated::Told;
use crate::filesystem::privileges::Requester;
use crate::filesystem::{Change, Filesystem, STATUS_XATTR, SetTime};
use crate::testing::MemoryBlobs;

const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const ROOT_ASKS: Requester = Requester { uid: 0, gid: 0, thread: 0 };
const USER_ASKS: Requester = Requester { uid: 1000, gid: 1000, thread: 0 };

/// A filesystem over metadata and blobs in memory. Nothing is stored before it is asked for.
fn mounted() -> (Arc<Filesystem>, Arc<meta::Session>) {
    let info = VolumeInfo {
        name: "v".to_owned(),
        id: VolumeId(1),
        cluster: ClusterId::random(),
        scheme: Scheme::erasure(4, 2).unwrap(),
        rules: proxy::VolumeRules::default(),
    };
    let meta = meta::in_memory(&info, (0, 0, 0o755));
    let blobs = Arc::new(MemoryBlobs::new());
    let settings =
        DataSettings { flush_interval: std::time::Duration::from_secs(3600), ..Default::default() };
    let data = Data::start(meta.clone(), blobs.clone(), settings);
    (Filesystem::start(meta.clone(), data, blobs), meta)
}

async fn file(fs: &Filesystem, name: &[u8], mode: u32) -> Ino {
    fs.create(ROOT_USER, ROOT, name, mode, NewNode::File).await.unwrap().ino
}

/// Returns when files get a later time than before: the clock moves with the kernel's ticks.
fn a_tick_later() {
    let before = crate::filesystem::now();
    while crate::filesystem::now() == before {
        std::thread::yield_now();
    }
}

async fn write(fs: &Filesystem, ino: Ino, data: &'static [u8]) {
    fs.write(ino, 0, Bytes::from_static(data), None).await.unwrap();
}

#[tokio::test]
async fn attributes_show_what_is_not_stored_yet() {
    let (fs, meta) = mounted();
    let ino = file(&fs, b"f", 0o644).await;
    write(&fs, ino, b"hello").await;
    let attr = fs.getattr(ino).await.unwrap();
    assert_eq!((attr.size, attr.stored), (5, 5));
    assert_eq!(meta.getattr(ino).await.unwrap().size, 0, "metadata does not know yet");
    assert_eq!(fs.lookup(ROOT, b"f").await.unwrap().unwrap().size, 5);
    fs.fsync(ino).await.unwrap();
    assert_eq!(meta.getattr(ino).await.unwrap().size, 5);
    assert_eq!(fs.getattr(ino).await.unwrap().stored, 5);
}

#[tokio::test]
async fn a_time_that_was_set_stays_and_a_later_write_replaces_it() {
    let (fs, _) = mounted();
    let ino = file(&fs, b"f", 0o644).await;
    write(&fs, ino, b"before").await;
    let future = Time { secs: 5_000_000_000, nanos: 7 };
    let change = Change { mtime: Some(SetTime::To(future)), ..Change::default() };
    fs.setattr(ROOT_ASKS, ino, change).await.unwrap();
    fs.fsync(ino).await.unwrap();
    assert_eq!(fs.getattr(ino).await.unwrap().mtime, future, "storing older writes leaves it");
    write(&fs, ino, b"after").await;
    assert!(fs.getattr(ino).await.unwrap().mtime < future);
    fs.fsync(ino).await.unwrap();
    assert!(fs.getattr(ino).await.unwrap().mtime < future);
}

#[tokio::test]
async fn a_chown_to_nobody_is_one_to_the_owner() {
    let (fs, _) = mounted();
    let ino = file(&fs, b"f", 0o4755).await;
    let long_ago = Time { secs: 1, nanos: 0 };
    let change = Change { ctime: Some(long_ago), ..Change::default() };
    assert_eq!(fs.setattr(ROOT_ASKS, ino, change).await.unwrap().ctime, long_ago);
    let attr = fs.setattr(USER_ASKS, ino, Change::default()).await.unwrap();
    assert_eq!((attr.uid, attr.mode), (0, 0o755), "setuid goes with any chown");
    assert!(attr.ctime > long_ago);
}

#[tokio::test]
async fn a_rename_over_a_file_stores_the_new_content_first() {
    let (fs, meta) = mounted();
    let (old, new) = (file(&fs, b"old", 0o644).await, file(&fs, b"new", 0o644).await);
    write(&fs, old, b"old content").await;
    write(&fs, new, b"new content").await;
    fs.rename(0, (ROOT, b"new"), (ROOT, b"old"), RenameMode::Replace).await.unwrap();
    let attr = meta.lookup(ROOT, b"old").await.unwrap();
    assert_eq!((attr.ino, attr.size), (new, 11), "a crash from here on finds the new content");
    let other = file(&fs, b"other", 0o644).await;
    write(&fs, other, b"fresh").await;
    fs.rename(0, (ROOT, b"other"), (ROOT, b"name"), RenameMode::Replace).await.unwrap();
    assert_eq!(meta.getattr(other).await.unwrap().size, 0, "a mere rename does not wait");
}

#[tokio::test]
async fn an_unlinked_file_lives_until_the_kernel_forgets_it() {
    let (fs, meta) = mounted();
    let ino = file(&fs, b"f", 0o644).await;
    fs.lookup(ROOT, b"f").await.unwrap();
    write(&fs, ino, b"still here").await;
    fs.unlink(0, ROOT, b"f").await.unwrap();
    assert_eq!(&fs.read(ino, 0, 100).await.unwrap()[..], b"still here");
    assert_eq!(fs.getattr(ino).await.unwrap().nlink, 0);
    fs.forget(ino, 1);
    tokio::task::yield_now().await;
    assert!(meta.getattr(ino).await.is_ok(), "one lookup is still held");
    fs.forget(ino, 1);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        if meta.getattr(ino).await.is_err() {
            return;
        }
    }
    panic!("the inode is not reaped");
}

#[tokio::test]
async fn setuid_goes_when_the_unprivileged_write_and_whoever_caches_is_told() {
    let (fs, _) = mounted();
    let ino = file(&fs, b"f", 0o6777).await;
    let told = Arc::new(AtomicU64::new(0));
    let seen = told.clone();
    fs.watch(Box::new(move |told| match told {
        Told::AtOnce(ino) => seen.store(ino.0, Ordering::SeqCst),
        Told::Forget(..) => panic!("nobody is beside the kernel"),
    }));
    fs.write(ino, 0, Bytes::from_static(b"root"), None).await.unwrap();
    assert_eq!(fs.getattr(ino).await.unwrap().mode, 0o6777);
    fs.write(ino, 0, Bytes::from_static(b"user"), Some(USER_ASKS)).await.unwrap();
    assert_eq!(fs.getattr(ino).await.unwrap().mode, 0o777);
    assert_eq!(told.load(Ordering::SeqCst), ino.0);
    let mode = Change { mode: Some(0o6777), ..Change::default() };
    fs.setattr(ROOT_ASKS, ino, mode).await.unwrap();
    let size = Change { size: Some(1), ..Change::default() };
    assert_eq!(fs.setattr(USER_ASKS, ino, size).await.unwrap().mode, 0o777);
}

#[tokio::test]
async fn setgid_goes_even_unexecutable_when_an_outsider_changes_something() {
    let (fs, _) = mounted();
    let ino = file(&fs, b"f", 0o644).await;
    let chown = Change { uid: Some(7), gid: Some(0), ..Change::default() };
    let size = Change { size: Some(1), ..Change::default() };
    let insider = Requester { gid: 0, ..USER_ASKS };
    let cases = [
        (ROOT_ASKS, chown, 0o2660),
        (insider, chown, 0o2660),
        (USER_ASKS, chown, 0o660),
        (ROOT_ASKS, size, 0o6660),
        (insider, size, 0o2660),
        (USER_ASKS, size, 0o660),
    ];
    for (requester, change, expected) in cases {
        let mode = Change { mode: Some(0o6660), ..Change::default() };
        fs.setattr(ROOT_ASKS, ino, mode).await.unwrap();
        let mode = fs.setattr(requester, ino, change).await.unwrap().mode;
        assert_eq!(mode, expected, "{requester:?} {change:?}");
    }
}

#[tokio::test]
async fn attribute_namespaces() {
    let (fs, _) = mounted();
    let ino = file(&fs, b"f", 0o644).await;
    for name in [&b"user.a"[..], b"trusted.b", b"security.c"] {
        fs.setxattr(USER_ASKS, ino, name, b"x", None).await.unwrap();
    }
    for name in [&b"system.posix_acl"[..], b"system.nfs4_acl", b"other.x"] {
        let error = fs.setxattr(USER_ASKS, ino, name, b"x", None).await.unwrap_err();
        assert!(matches!(error, FsError::NotSupported), "{name:?}: {error}");
    }
    let nameless = fs.setxattr(USER_ASKS, ino, b"user.", b"x", None).await.unwrap_err();
    assert_eq!(nameless.errno(), Errno::EINVAL);
    let absent = |name| fs.getxattr(ino, name);
    assert_eq!(absent(b"security.none").await.unwrap_err().errno(), Errno::ENODATA);
    assert_eq!(absent(b"security.selinux").await.unwrap_err().errno(), Errno::EOPNOTSUPP);
    let count = |list: Vec<u8>| list.split(|&b| b == 0).filter(|n| !n.is_empty()).count();
    assert_eq!(count(fs.listxattr(ROOT_ASKS, ino).await.unwrap()), 3);
    assert_eq!(count(fs.listxattr(USER_ASKS, ino).await.unwrap()), 2, "trusted is root's");
    let status = fs.getxattr(ROOT, STATUS_XATTR.as_bytes()).await.unwrap();
    let status: crate::filesystem::status::Status = serde_json::from_slice(&status).unwrap();
    assert_eq!(status.mount.unwrap().volume, "v");
    assert!(fs.setxattr(USER_ASKS, ROOT, STATUS_XATTR.as_bytes(), b"", None).await.is_err());
    assert!(fs.listxattr(ROOT_ASKS, ROOT).await.unwrap().is_empty(), "it is not listed");
}

#[tokio::test]
async fn copy_file_range_is_cut_at_the_end_and_refuses_overlap() {
    let (fs, _) = mounted();
    let (a, b) = (file(&fs, b"a", 0o644).await, file(&fs, b"b", 0o644).await);
    write(&fs, a, b"0123456789").await;
    assert_eq!(fs.copy_range(ROOT_ASKS, (a, 4), (b, 0), 100).await.unwrap(), 6);
    assert_eq!(&fs.read(b, 0, 100).await.unwrap()[..], b"456789");
    assert_eq!(fs.copy_range(ROOT_ASKS, (a, 10), (b, 0), 100).await.unwrap(), 0);
    let overlap = fs.copy_range(ROOT_ASKS, (a, 0), (a, 3), 5).await.unwrap_err();
    assert_eq!(overlap.errno(), Errno::EINVAL);
}

#[tokio::test]
async fn copies_of_small_files_just_written_are_packed_with_all_others() {
    let (fs, meta) = mounted();
    let content = |n: u8| vec![n; 100 + usize::from(n)];
    let mut copies = Vec::new();
    for n in 100..150 {
        let (a, b) = (file(&fs, &[b'a', n], 0o644).await, file(&fs, &[b'b', n], 0o644).await);
        fs.write(a, 0, Bytes::from(content(n)), None).await.unwrap();
        assert_eq!(
            fs.copy_range(ROOT_ASKS, (a, 0), (b, 0), 4096).await.unwrap(),
            content(n).len() as u64
        );
        copies.push((n, b));
    }
    assert_eq!(fs.data.status().blobs_put, 0, "each copy would store its source by itself");
    fs.data.sync_all().await.unwrap();
    assert_eq!(fs.data.status().blobs_put, 1);
    // What is stored is shared.
    let (n, b) = copies[7];
    let c = file(&fs, b"c", 0o644).await;
    fs.copy_range(ROOT_ASKS, (b, 0), (c, 0), 4096).await.unwrap();
    assert_eq!(
        meta.extents(b, 0..4096, 9).await.unwrap(),
        meta.extents(c, 0..4096, 9).await.unwrap()
    );
    copies.push((n, c));
    for (n, ino) in copies {
        assert_eq!(&fs.read(ino, 0, 4096).await.unwrap()[..], content(n));
    }
}

#[tokio::test]
async fn the_end_stores_everything_and_refuses_what_comes_after() {
    let (fs, meta) = mounted();
    let ino = file(&fs, b"f", 0o644).await;
    write(&fs, ino, b"kept").await;
    fs.stop().await.unwrap();
    assert!(fs.is_stopped());
    assert_eq!(meta.getattr(ino).await.unwrap().size, 4);
}

#[tokio::test]
async fn a_read_shows_at_once_and_comes_to_metadata_without_touching_ctime() {
    let (fs, meta) = mounted();
    let ino = file(&fs, b"f", 0o644).await;
    let before = fs.getattr(ino).await.unwrap();
    a_tick_later();
    fs.was_read(ino);
    let read = fs.getattr(ino).await.unwrap();
    assert!(read.atime > before.atime);
    assert_eq!((read.mtime, read.ctime), (before.mtime, before.ctime));
    assert_eq!(meta.getattr(ino).await.unwrap(), before, "nobody has told metadata");
    fs.was_read(ino);
    assert_eq!(fs.getattr(ino).await.unwrap(), read, "nothing changed since it was read");
    fs.stop().await.unwrap();
    assert_eq!(meta.getattr(ino).await.unwrap(), read);
}

#[tokio::test]
async fn an_access_time_that_was_set_is_not_replaced_by_an_earlier_read() {
    let (fs, _) = mounted();
    let ino = file(&fs, b"f", 0o644).await;
    fs.was_read(ino);
    let long_ago = Time { secs: 1, nanos: 2 };
    let change = Change { atime: Some(SetTime::To(long_ago)), ..Change::default() };
    assert_eq!(fs.setattr(ROOT_ASKS, ino, change).await.unwrap().atime, long_ago);
    // A write is no read, and the next read counts.
    write(&fs, ino, b"hello").await;
    assert_eq!(fs.getattr(ino).await.unwrap().atime, long_ago);
    a_tick_later();
    fs.was_read(ino);
    let attr = fs.getattr(ino).await.unwrap();
    assert!(attr.atime > attr.mtime);
}

/// Very many reads wait to be told: who sets a time does not wait for all of them.
#[tokio::test]
async fn setting_a_time_waits_for_a_part_of_what_is_told_of_reads() {
    let (fs, _) = mounted();
    let ino = file(&fs, b"f", 0o644).await;
    const READS: u64 = 65_000;
    (1000..1000 + READS).for_each(|ino| fs.was_read(Ino(ino)));
    let set = async {
        let long_ago = SetTime::To(Time { secs: 1, nanos: 0 });
        let change = Change { atime: Some(long_ago), mtime: Some(long_ago), ..Change::default() };
        fs.setattr(ROOT_ASKS, ino, change).await.unwrap();
        fs.atimes.waiting()
    };
    let ((), left) = tokio::join!(fs.tell_reads(), set);
    assert!(left as u64 > READS - 1000, "{left} of {READS} were left when the time was set");
    assert_eq!(fs.atimes.waiting(), 0, "all are told in the end");
}

/// A request that panics, at once or later, is answered, and so are others.
#[tokio::test]
async fn a_request_that_panics_is_answered_with_an_error() {
    let (fs, _) = mounted();
    let synced = Arc::new(crate::fuse::synced::Synced::new(false, false));
    let ttl = std::time::Duration::from_secs(1);
    let (door, _ended) = crate::fuse::Door::new(fs, tokio::runtime::Handle::current(), synced, ttl);
    let answers = Arc::new(parking_lot::Mutex::new(Vec::new()));
    for (number, panics) in [true, false, true, false].into_iter().enumerate() {
        let (told, answers) = (Arc::new(tokio::sync::Notify::new()), answers.clone());
        let tell = told.clone();
        let work = async move {
            if number >= 2 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            assert!(!panics, "request {number} panics");
            Ok(())
        };
        door.answer(crate::metrics::Op::Getattr, work, move |result| {
            answers.lock().push(result.map_err(|e| e.code()));
            tell.notify_one();
        });
        let bound = std::time::Duration::from_secs(20);
        tokio::time::timeout(bound, told.notified()).await.expect("it is answered");
    }
    let eio = Err(Errno::EIO as i32);
    assert_eq!(*answers.lock(), [eio, Ok(()), eio, Ok(())]);
}
