//! Long operations: files of very many extents, and crashes half-way through.

use std::future::Future;
use std::task::{Context, Waker};

use super::{ADMIN, assert_clean, blob, crash, volume, wait};
use crate::ops::{STEP, Step, content, orphans};
use crate::rules::name;
use crate::store::{Extent, FileUpdate, Ino, MetaError, MetaStore, NewNode, Place, ROOT};
use crate::volume::session::Session;

/// More than two steps' worth, each of four bytes, with a hole between each two.
const COUNT: u64 = 2 * STEP as u64 + 100;
const LEN: u32 = 1 << 20;

fn scattered(meta: &Session, name: &str) -> Ino {
    let file = wait(meta.create(ADMIN, ROOT, name.as_bytes(), 0o644, NewNode::File)).unwrap().ino;
    let id = blob(file.0, LEN);
    let place = |i: u64| Some(Place { blob: id, offset: 5 * i as u32 });
    let extents: Vec<_> =
        (0..COUNT).map(|i| Extent { offset: 8 * i, len: 4, place: place(i) }).collect();
    let update = FileUpdate { ino: file, extents, size_at_least: Some(8 * COUNT), mtime: None };
    wait(meta.commit(&[id], &[update])).unwrap();
    file
}

fn all(meta: &Session, ino: Ino) -> Vec<Extent> {
    wait(meta.extents(ino, 0..u64::MAX, usize::MAX)).unwrap()
}

#[test]
fn a_truncate_goes_from_the_tail_and_a_crash_in_between_leaves_order() {
    let (kv, record, meta) = volume(name::hash);
    let file = scattered(&meta, "f");
    let step = wait(meta.write(|txn| content::truncate(txn, file, 10))).unwrap();
    assert_eq!(step, Step::More(()));
    wait(meta.sync()).unwrap();
    let after = crash(&kv, &record, name::hash);
    let size = wait(after.getattr(file)).unwrap().size;
    assert_eq!(size, 8 * (COUNT - STEP as u64));
    assert_eq!(all(&after, file).len() as u64, COUNT - STEP as u64);
    assert_clean(&after);
    let attr = wait(meta.truncate(file, 10)).unwrap();
    assert_eq!((attr.size, attr.stored), (10, 6));
    assert_eq!(all(&meta, file).len(), 2);
    assert_clean(&meta);
}

#[test]
fn whoever_asks_first_for_a_long_operation_has_done_with_it_after_a_step() {
    let (_, _, meta) = volume(name::hash);
    let (file, copy) = (scattered(&meta, "f"), scattered(&meta, "t"));
    let size = wait(meta.getattr(file)).unwrap().size;
    let mut work = [
        Box::pin(async { meta.clone_range(file, 0..size, copy, 2).await.map(drop) })
            as std::pin::Pin<Box<dyn Future<Output = Result<(), MetaError>> + '_>>,
        Box::pin(async { meta.allocate(file, 0..size, false).await.map(drop) }),
        Box::pin(async { meta.clear_range(copy, 0..size, false, false).await.map(drop) }),
        Box::pin(async { meta.truncate(file, 1).await.map(drop) }),
    ];
    let mut context = Context::from_waker(Waker::noop());
    for (nth, work) in work.iter_mut().enumerate() {
        assert!(work.as_mut().poll(&mut context).is_pending(), "operation {nth}");
        let name = format!("between {nth}");
        wait(meta.create(ADMIN, ROOT, name.as_bytes(), 0o644, NewNode::File)).unwrap();
        wait(work.as_mut()).unwrap();
    }
    assert_clean(&meta);
}

#[test]
fn an_orphan_is_one_to_its_last_extent() {
    let (kv, record, meta) = volume(name::hash);
    let file = scattered(&meta, "f");
    let small = wait(meta.create(ADMIN, ROOT, b"small", 0o644, NewNode::File)).unwrap().ino;
    for name in [&b"f"[..], b"small"] {
        wait(meta.unlink(ROOT, name)).unwrap();
    }
    let step = wait(meta.write(|txn| orphans::reap(txn, &[small, file]))).unwrap();
    assert_eq!(step, Step::More(1));
    wait(meta.sync()).unwrap();
    let after = crash(&kv, &record, name::hash);
    assert_eq!(wait(after.orphans()).unwrap(), [file]);
    assert_clean(&after);
    wait(after.reap(&[file])).unwrap();
    assert_clean(&after);
    let usage = wait(after.usage()).unwrap();
    assert_eq!((usage.inodes, usage.live_bytes, usage.blobs), (1, 0, 1));
}

#[test]
fn ranges_of_very_many_extents_are_cloned_filled_and_cleared() {
    let (_, _, meta) = volume(name::hash);
    let (from, to) = (scattered(&meta, "f"), scattered(&meta, "t"));
    wait(meta.clone_range(from, 0..8 * COUNT, to, 2)).unwrap();
    let mut expected = vec![Extent { len: 2, ..all(&meta, to)[0] }];
    expected.extend(all(&meta, from).iter().map(|e| Extent { offset: e.offset + 2, ..*e }));
    // Too long to be printed.
    assert!(all(&meta, to) == expected);
    assert_clean(&meta);
    let attr = wait(meta.allocate(to, 0..9 * COUNT, false)).unwrap();
    assert_eq!((attr.stored, attr.size), (9 * COUNT, 8 * COUNT + 2));
    assert_clean(&meta);
    let attr = wait(meta.clear_range(to, 0..9 * COUNT, true, true)).unwrap();
    assert_eq!((attr.stored, attr.size), (9 * COUNT, 9 * COUNT));
    assert_eq!(all(&meta, to).len(), 1);
    let attr = wait(meta.clear_range(from, 4..8 * COUNT, false, false)).unwrap();
    assert_eq!((attr.stored, attr.size), (4, 8 * COUNT));
    assert_clean(&meta);
}
