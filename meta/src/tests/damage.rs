//! The check finds what it is there to find.

use super::{ADMIN, blob, volume, wait};
use crate::account::tests::pass;
use crate::account::{Account, AccountKind};
use crate::engine::{Batch, Kv, Value};
use crate::key::{self, Key};
use crate::rules::name;
use crate::store::{
    Extent, FileUpdate, Ino, MetaError, MetaStore, NewNode, Place, ROOT, Relocation, Takes, Time,
    Trashed,
};
use crate::volume::session::Session;

#[test]
fn every_kind_of_damage_is_reported() {
    // What is overwritten or removed, and a word of what must be said about it.
    type Damage = (&'static str, fn(&dyn Fn(Key) -> Vec<u8>, Ino, Ino) -> (Key, Option<Vec<u8>>));
    let cases: [Damage; 19] = [
        ("not there", |_, file, _| (key::inode::key(file), None)),
        ("damaged", |_, file, _| (key::inode::key(file), Some(vec![9; 20]))),
        ("links", |get, file, _| change(get, key::inode::key(file), 8)),
        ("entries", |get, _, dir| change(get, key::inode::key(dir), 76)),
        ("stored", |get, file, _| change(get, key::inode::key(file), 84)),
        ("attributes", |get, file, _| change(get, key::inode::key(file), 24)),
        ("another place", |get, _, dir| change(get, key::inode::key(dir), 92)),
        ("live bytes of blob", |_, _, _| {
            (key::blob::key(&blob(1, 4096)), Some(vec![0, 0, 0, 0, 0, 0, 0, 1]))
        }),
        ("no record", |_, _, _| (key::blob::key(&blob(1, 4096)), None)),
        ("garbage", |_, _, _| (key::garbage::key(&blob(1, 4096)), Some(vec![]))),
        ("garbage", |_, _, _| (key::garbage::key(&blob(2, 4096)), None)),
        ("orphan", |_, file, _| (key::orphan::key(proto::id::SessionId(1), file), Some(vec![]))),
        ("overlaps", |_, file, _| (key::extent::key(file, 60), Some(zeros(60)))),
        ("a reference is missing", |_, file, _| (reference(1, file, 110), None)),
        ("a reference is dangling", |_, file, _| (reference(2, file, 110), Some(vec![]))),
        ("is damaged", |_, _, _| (key::account::key(AccountKind::User, "ann"), Some(vec![9; 20]))),
        ("is of no user", |_, _, _| {
            let stray = Account::Pass(pass(AccountKind::Token, "t", "nobody"));
            (key::account::key(AccountKind::Token, "t"), Some(stray.encode()))
        }),
        ("link target", |_, file, _| (key::symlink::key(file), Some(vec![1]))),
        ("number of inodes", |get, _, _| change(get, key::counters::key(), 0)),
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
        let blobs = [id, blob(2, 4096)];
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
        kv.transact(&mut |_| Ok(Batch::from([(key, value.as_deref().map(Value::from))]).into()))
            .unwrap();
        let report = wait(meta.opened_on().check()).unwrap();
        assert!(
            report.problems.iter().any(|problem| problem.contains(expected)),
            "{expected:?} is not in {:?}",
            report.problems
        );
        repaired_and_at_work(&meta, expected, file, place);
    }
}

#[test]
fn what_is_damaged_in_the_trash_hides_nothing_that_was_deleted_before_it() {
    let (kv, _, meta) = volume(name::hash);
    let delete = |number: u32| {
        let name = format!("f{number}");
        let made = meta.create(ADMIN, ROOT, name.as_bytes(), 0o644, NewNode::File);
        let ino = wait(made).unwrap().ino;
        wait(meta.discard(ROOT, name.as_bytes(), Takes::Only(ino), 0)).unwrap();
        ino
    };
    let inos: Vec<Ino> = (0..6).map(delete).collect();
    let nonsense = |ino: &Ino| (key::trash::key(ROOT, *ino), Some(Value::from(&[9u8][..])));
    let damage = Batch::from_iter(inos[1..5].iter().map(nonsense));
    kv.transact(&mut |_| Ok(damage.clone().into())).unwrap();
    let of = |all: Result<Vec<Trashed>, MetaError>| -> Vec<Ino> {
        all.unwrap().iter().map(|one| one.attr.ino).collect()
    };
    // As many as are asked for: fewer would be the last.
    let until = Time { secs: i64::MAX, nanos: 0 };
    assert_eq!(of(wait(meta.newest_trash(None, 2))), [inos[5], inos[0]]);
    assert_eq!(of(wait(meta.oldest_trash(until, None, 2))), [inos[0], inos[5]]);
    assert_eq!(of(wait(meta.trash_of(ROOT, None, 2))), [inos[0], inos[5]]);
    assert_eq!(of(wait(meta.newest_trash(None, 1))), [inos[5]]);
}

#[test]
fn what_is_in_the_trash_is_told_by_where_it_was() {
    let (_, _, meta) = volume(name::hash);
    let new = |parent: Ino, name: &[u8], node| {
        wait(meta.create(ADMIN, parent, name, 0o755, node)).unwrap().ino
    };
    let dir = new(ROOT, b"dir", NewNode::Directory);
    let (file, other) = (new(dir, b"file", NewNode::File), new(dir, b"other", NewNode::File));
    let told = || {
        let paths = wait(meta.opened_on().paths([file, other].into())).unwrap();
        [file, other].map(|ino| paths[&ino].clone())
    };
    wait(meta.discard(dir, b"file", Takes::Only(file), 0)).unwrap();
    assert_eq!(told(), ["/dir/file, which is in the trash", "/dir/other"]);
    wait(meta.discard(ROOT, b"dir", Takes::Only(dir), 0)).unwrap();
    assert_eq!(told(), ["/dir/file, which is in the trash", "/dir/other, which is in the trash"]);
}

/// A repair puts it right, and another finds nothing; its bytes are where they were, and it can be worked on.
fn repaired_and_at_work(meta: &Session, expected: &str, file: Ino, place: Option<Place>) {
    let repaired = wait(meta.opened_on().repair()).unwrap();
    if expected == "overlaps" {
        assert!(!repaired.left.is_clean(), "which of two extents counts is not known");
        return;
    }
    let mended = repaired.mended.iter().any(|mended| mended.contains(expected));
    assert!(mended, "{expected:?} is not in {:?}", repaired.mended);
    assert_eq!(repaired.left.problems, Vec::<String>::new(), "{expected}");
    super::assert_clean(meta);
    let again = wait(meta.opened_on().repair()).unwrap();
    assert_eq!(again.mended, Vec::<String>::new(), "{expected}");
    assert_eq!(wait(meta.extents(file, 0..200, 9)).unwrap()[0].place, place, "{expected}");
    wait(meta.create(ADMIN, ROOT, b"more", 0o644, NewNode::File)).unwrap();
    wait(meta.unlink(ROOT, b"f")).unwrap();
    wait(meta.reap(&[file])).unwrap();
    super::assert_clean(meta);
}

/// What has lost its name is in `lost+found`, with all that is in it.
#[test]
fn what_lost_its_name_is_found_again() {
    let (kv, _, meta) = volume(name::hash);
    let new =
        |dir, name: &[u8], node| wait(meta.create(ADMIN, dir, name, 0o755, node)).unwrap().ino;
    let dir = new(ROOT, b"d", NewNode::Directory);
    let inner = new(dir, b"inner", NewNode::File);
    let file = new(ROOT, b"f", NewNode::File);
    let mut keys = Vec::new();
    let found = kv.read(&mut |view| {
        let all = key::dentry::of(ROOT);
        view.scan(all..all.after_prefix(), crate::engine::Direction::Forward, &mut |key, _| {
            keys.push(*key);
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .map(drop)
    });
    found.unwrap();
    // One is gone, the other makes no sense.
    let spoilt = [None, Some(Value::from(&[9][..]))];
    let batch: Batch = keys.into_iter().zip(spoilt).collect();
    kv.transact(&mut |_| Ok(batch.clone().into())).unwrap();
    let repaired = wait(meta.opened_on().repair()).unwrap();
    assert_eq!(repaired.left.problems, Vec::<String>::new(), "{:?}", repaired.mended);
    super::assert_clean(&meta);
    let home = wait(meta.lookup(ROOT, b"lost+found")).unwrap();
    assert_eq!((home.mode, home.nlink), (0o700, 3));
    let named = |ino: Ino| format!("#{}", ino.0).into_bytes();
    assert_eq!(wait(meta.lookup(home.ino, &named(file))).unwrap().ino, file);
    assert_eq!(wait(meta.lookup(home.ino, &named(dir))).unwrap().ino, dir);
    assert_eq!(wait(meta.lookup(dir, b"inner")).unwrap().ino, inner);
    wait(meta.rename(
        (home.ino, &named(dir)),
        (ROOT, b"d"),
        crate::RenameMode::Replace,
        crate::Fate::Gone,
    ))
    .unwrap();
    super::assert_clean(&meta);
}

/// What cannot be read is not taken for absent: nothing is called needless on its account.
#[test]
fn a_damaged_extent_makes_no_blob_garbage() {
    let (kv, _, meta) = volume(name::hash);
    let file = wait(meta.create(ADMIN, ROOT, b"f", 0o755, NewNode::File)).unwrap().ino;
    let place = Some(Place { blob: blob(1, 4096), offset: 0 });
    let extents = vec![Extent { offset: 0, len: 100, place }];
    let update = FileUpdate { ino: file, extents, size_at_least: None, mtime: None };
    wait(meta.commit(&[blob(1, 4096)], &[update])).unwrap();
    let senseless = Some(Value::from(&[9; 3][..]));
    let batch = Batch::from([(key::extent::key(file, 100), senseless)]);
    kv.transact(&mut |_| Ok(batch.clone().into())).unwrap();
    let repaired = wait(meta.opened_on().repair()).unwrap();
    let left: Vec<String> = repaired.left.sentences().collect();
    assert!(left.iter().any(|text| text.starts_with("/f: an extent of inode")), "{left:?}");
    assert_eq!(repaired.mended, Vec::<String>::new());
    assert_eq!(wait(meta.blob(blob(1, 4096))).unwrap().unwrap().live, 100);
    wait(meta.sync()).unwrap();
    assert_eq!(wait(meta.garbage(None, 9)).unwrap(), []);
    // Once it is removed it is gone, and then its bytes are nobody's.
    wait(meta.unlink(ROOT, b"f")).unwrap();
    let repaired = wait(meta.opened_on().repair()).unwrap();
    assert_eq!(repaired.left.problems, Vec::<String>::new(), "{:?}", repaired.mended);
    wait(meta.sync()).unwrap();
    assert_eq!(wait(meta.garbage(None, 9)).unwrap(), [blob(1, 4096)]);
}

/// The next numbers are lost: they go on beyond all that may have been used.
#[test]
fn lost_numbers_go_on_far_beyond_those_that_are_known() {
    let (kv, record, meta) = volume(name::hash);
    let file = wait(meta.create(ADMIN, ROOT, b"f", 0o755, NewNode::File)).unwrap().ino;
    let lost = Batch::from([(key::numbers::key(), None), (key::counters::key(), None)]);
    kv.transact(&mut |_| Ok(lost.clone().into())).unwrap();
    let repaired = wait(meta.opened_on().repair()).unwrap();
    assert_eq!(repaired.left.problems, Vec::<String>::new(), "{:?}", repaired.mended);
    super::assert_clean(&meta);
    wait(meta.close_session()).unwrap();
    let next = super::open(kv, &record, name::hash);
    assert!(next.session().0 > 1000);
    let made = wait(next.create(ADMIN, ROOT, b"g", 0o755, NewNode::File)).unwrap().ino;
    assert!(made.0 > file.0 + 1000);
    super::assert_clean(&next);
}

fn zeros(len: u64) -> Vec<u8> {
    let (value, used) = key::extent::encode(&Extent { offset: 0, len, place: None });
    value[..used].to_vec()
}

fn reference(n: u64, ino: Ino, end: u64) -> Key {
    key::reference::key(&blob(n, 4096), ino, end).unwrap()
}

/// One number of a record is another one.
fn change(get: &dyn Fn(Key) -> Vec<u8>, key: Key, at: usize) -> (Key, Option<Vec<u8>>) {
    (key, Some(changed(get(key), at)))
}

/// The value with one more in a little-endian number.
fn changed(mut value: Vec<u8>, at: usize) -> Vec<u8> {
    value[at] = value[at].wrapping_add(1);
    value
}

/// What is damaged, and whether a commit to the file itself still goes.
type Spoilt = (&'static str, fn(Ino) -> Key, Option<Vec<u8>>, bool);

/// One record of one file makes no sense: all else is as good as ever, and the check names it.
#[test]
fn a_damaged_record_costs_its_own_file_and_nothing_else() {
    let senseless = || Some(vec![9; 3]);
    let cases: [Spoilt; 6] = [
        ("its inode", key::inode::key, senseless(), false),
        ("its inode is gone", key::inode::key, None, true),
        ("its extents", |ino| key::extent::key(ino, 100), senseless(), false),
        ("its blob's record", |_| key::blob::key(&blob(1, 4096)), senseless(), true),
        ("its blob has no record", |_| key::blob::key(&blob(1, 4096)), None, true),
        ("its attributes", |ino| key::xattr::key(ino, 7), senseless(), true),
    ];
    for (what, key, value, commits) in cases {
        println!("{what}");
        let (kv, record, meta) = volume(name::hash);
        let new =
            |name: &[u8]| wait(meta.create(ADMIN, ROOT, name, 0o644, NewNode::File)).unwrap().ino;
        let [bad, good, gone] = [&b"bad"[..], b"good", b"gone"].map(new);
        let place = |n| Some(Place { blob: blob(n, 4096), offset: 0 });
        let update = |ino, n| {
            let extents = vec![Extent { offset: 0, len: 100, place: place(n) }];
            FileUpdate { ino, extents, size_at_least: Some(100), mtime: None }
        };
        let put = |n| blob(n, 4096);
        wait(meta.commit(&[put(1)], &[update(bad, 1)])).unwrap();
        wait(meta.commit(&[put(2)], &[update(good, 2)])).unwrap();
        let value = value.as_deref().map(Value::from);
        kv.transact(&mut |_| Ok(Batch::from([(key(bad), value.clone())]).into())).unwrap();
        // Names: all of them are listed, and the others can be used and go.
        let listed = wait(meta.readdir(ROOT, 0, 10)).unwrap();
        let damaged = |name: &[u8]| listed.iter().find(|e| e.name == name).map(|e| e.damaged);
        assert_eq!(damaged(b"good"), Some(false));
        assert_eq!(damaged(b"bad"), Some(what.contains("inode")));
        assert_eq!(listed.len(), 5);
        assert_eq!(wait(meta.lookup(ROOT, b"good")).unwrap().ino, good);
        wait(meta.unlink(ROOT, b"gone")).unwrap();
        // Content: what is committed together is committed apart.
        let both = [update(bad, 3), update(good, 3)];
        let together = wait(meta.commit(&[put(3)], &both));
        assert_eq!(together.is_ok(), commits, "{together:?}");
        if !commits {
            assert!(matches!(together, Err(MetaError::Damaged(_))), "{together:?}");
            wait(meta.commit(&[put(3)], &both[1..])).unwrap();
        }
        assert_eq!(wait(meta.extents(good, 0..100, 9)).unwrap()[0].place, place(3));
        // Housekeeping: each goes on for the others.
        let read = Time { secs: 77, nanos: 0 };
        wait(meta.accessed(&[(bad, read), (good, read)])).unwrap();
        assert_eq!(wait(meta.getattr(good)).unwrap().atime, read);
        let moved = |ino| Relocation {
            ino,
            offset: 0,
            len: 100,
            from: place(3).unwrap(),
            to: place(4).unwrap(),
        };
        wait(meta.relocate(&[put(4)], &[moved(bad), moved(good)])).unwrap();
        assert_eq!(wait(meta.extents(good, 0..100, 9)).unwrap()[0].place, place(4));
        wait(meta.reap(&[bad, gone])).unwrap();
        assert!(matches!(wait(meta.getattr(gone)), Err(MetaError::NotFound)));
        let known = wait(meta.blobs(None, 10)).unwrap();
        assert!(known.iter().any(|record| record.id == blob(2, 4096)));
        wait(meta.sync()).unwrap();
        let garbage = wait(meta.garbage(None, 10)).unwrap();
        assert!(garbage.contains(&blob(2, 4096)));
        wait(meta.forget_blobs(&garbage)).unwrap();
        wait(meta.unlink(ROOT, b"good")).unwrap();
        let report = wait(meta.opened_on().check()).unwrap();
        assert!(!report.is_clean(), "the check says nothing");
        wait(meta.close_session()).unwrap();
        assert_eq!(wait(super::crash(&kv, &record, name::hash).orphans()).unwrap(), []);
    }
}

/// An orphan that cannot be deleted does not keep the others, nor the end of the session.
#[test]
fn a_damaged_orphan_stays_alone() {
    let (kv, record, meta) = volume(name::hash);
    let names = [&b"a"[..], b"b", b"c"];
    let inos = names.map(|name| {
        let ino = wait(meta.create(ADMIN, ROOT, name, 0o644, NewNode::File)).unwrap().ino;
        wait(meta.unlink(ROOT, name)).unwrap();
        ino
    });
    let senseless = Some(Value::from(&[9; 20][..]));
    kv.transact(&mut |_| Ok(Batch::from([(key::inode::key(inos[1]), senseless.clone())]).into()))
        .unwrap();
    wait(meta.close_session()).unwrap();
    let next = super::crash(&kv, &record, name::hash);
    assert_eq!(wait(next.orphans()).unwrap(), [inos[1]]);
    assert_eq!(wait(next.dead_sessions()).unwrap(), []);
}
