//! The check finds what it is there to find.

use super::{ADMIN, blob, volume, wait};
use crate::engine::{Batch, Kv, Value};
use crate::key::{self, Key};
use crate::name;
use crate::store::{Extent, FileUpdate, Ino, MetaStore, NewBlob, NewNode, Place, ROOT};

#[test]
fn every_kind_of_damage_is_reported() {
    // What is overwritten or removed, and a word of what must be said about it.
    type Damage = (&'static str, fn(&dyn Fn(Key) -> Vec<u8>, Ino, Ino) -> (Key, Option<Vec<u8>>));
    let cases: [Damage; 15] = [
        ("not there", |_, file, _| (key::inode::key(file), None)),
        ("damaged", |_, file, _| (key::inode::key(file), Some(vec![9; 20]))),
        ("links", |get, file, _| {
            (key::inode::key(file), Some(changed(get(key::inode::key(file)), 8)))
        }),
        ("entries", |get, _, dir| {
            (key::inode::key(dir), Some(changed(get(key::inode::key(dir)), 76)))
        }),
        ("stored", |get, file, _| {
            (key::inode::key(file), Some(changed(get(key::inode::key(file)), 84)))
        }),
        ("attributes", |get, file, _| {
            (key::inode::key(file), Some(changed(get(key::inode::key(file)), 24)))
        }),
        ("another place", |get, _, dir| {
            (key::inode::key(dir), Some(changed(get(key::inode::key(dir)), 92)))
        }),
        ("live bytes of blob", |_, _, _| {
            (key::blob::key(&blob(1, 4096)), Some(vec![0, 0, 0, 0, 0, 0, 0, 1, 0]))
        }),
        ("no record", |_, _, _| (key::blob::key(&blob(1, 4096)), None)),
        ("garbage", |_, _, _| (key::garbage::key(&blob(1, 4096)), Some(vec![]))),
        ("garbage", |_, _, _| (key::garbage::key(&blob(2, 4096)), None)),
        ("orphan", |_, file, _| (key::orphan::key(proto::id::SessionId(1), file), Some(vec![]))),
        ("overlaps", |_, file, _| (key::extent::key(file, 60), Some(60u64.to_be_bytes().to_vec()))),
        ("link target", |_, file, _| (key::symlink::key(file), Some(vec![1]))),
        ("number of inodes", |get, _, _| {
            (key::counters::key(), Some(changed(get(key::counters::key()), 16)))
        }),
    ];
    for (expected, damage) in cases {
        let (kv, _, meta) = volume(name::hash);
        let new =
            |name: &[u8], node| wait(meta.create(ADMIN, ROOT, name, 0o755, node)).unwrap().ino;
        let (file, dir) = (new(b"f", NewNode::File), new(b"d", NewNode::Directory));
        let id = blob(1, 4096);
        let place = Some(Place { blob: id, offset: 0 });
        let extents = vec![Extent { offset: 10, len: 100, place }];
        let update = FileUpdate { ino: file, extents, size_at_least: None, mtime: None };
        let blobs = [id, blob(2, 4096)].map(|id| NewBlob { id, degraded: false });
        wait(meta.commit(&blobs, &[update])).unwrap();
        wait(meta.setxattr(file, b"user.a", b"1", None)).unwrap();
        super::assert_clean(&meta);
        let get = |key: Key| {
            let mut value = None;
            kv.read(&mut |view| {
                value = view.get(&key)?;
                Ok(())
            })
            .unwrap();
            value.unwrap().to_vec()
        };
        let (key, value) = damage(&get, file, dir);
        kv.transact(&mut |_| Ok(Batch::from([(key, value.as_deref().map(Value::from))]))).unwrap();
        let report = meta.check().unwrap();
        assert!(
            report.problems.iter().any(|problem| problem.contains(expected)),
            "{expected:?} is not in {:?}",
            report.problems
        );
    }
}

/// The value with one more in a little-endian number.
fn changed(mut value: Vec<u8>, at: usize) -> Vec<u8> {
    value[at] = value[at].wrapping_add(1);
    value
}
