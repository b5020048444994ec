//! The rules one by one: errors, limits, times, ownership, sessions, garbage.

use proto::id::BlobId;

use super::{ADMIN, assert_clean, blob, crash, volume, wait, weak_hash};
use crate::rules::name;
use crate::store::{
    Attr, Caller, Extent, FILE_MAX, Fate, FileUpdate, Ino, Kind, LINK_MAX, MetaError, MetaStore,
    NewNode, Place, ROOT, RenameMode, SYMLINK_MAX, SetAttr, Time, XATTR_COUNT_MAX, XATTR_VALUE_MAX,
};
use crate::volume::session::Session;

const ANN: Caller = Caller { uid: 10, gid: 100, umask: 0 };

fn new(meta: &Session, who: Caller, dir: Ino, name: &str, mode: u32, node: NewNode) -> Ino {
    wait(meta.create(who, dir, name.as_bytes(), mode, node)).unwrap().ino
}

fn stat(meta: &Session, ino: Ino) -> Attr {
    wait(meta.getattr(ino)).unwrap()
}

fn file_update(ino: Ino, sequence: u64, offset: u64, len: u64) -> FileUpdate {
    let place = Some(Place { blob: blob(sequence, 4096), offset: 0 });
    let extents = vec![Extent { offset, len, place }];
    FileUpdate { ino, extents, size_at_least: Some(offset + len), mtime: None }
}

fn new_blob(sequence: u64) -> BlobId {
    blob(sequence, 4096)
}

#[test]
fn names_that_cannot_be() {
    let (_, _, meta) = volume(name::hash);
    let file = new(&meta, ADMIN, ROOT, "file", 0o644, NewNode::File);
    let long = [b'x'; 256];
    let invalid = MetaError::Invalid("empty name");
    let create = |dir, name: &[u8], node| wait(meta.create(ADMIN, dir, name, 0, node)).err();
    assert_eq!(create(ROOT, b"", NewNode::File), Some(invalid));
    assert_eq!(create(ROOT, b".", NewNode::File), Some(MetaError::Exists));
    assert_eq!(create(ROOT, b"..", NewNode::Directory), Some(MetaError::Exists));
    assert_eq!(create(ROOT, b"file", NewNode::File), Some(MetaError::Exists));
    assert_eq!(create(ROOT, &long, NewNode::File), Some(MetaError::NameTooLong));
    assert_eq!(create(ROOT, &long[1..], NewNode::File), None);
    assert_eq!(create(Ino(77), b"a", NewNode::File), Some(MetaError::NotFound));
    assert_eq!(create(file, b"a", NewNode::File), Some(MetaError::NotDirectory));
    let link = |len| NewNode::Symlink(vec![b't'; len]);
    assert_eq!(create(ROOT, b"l0", link(0)), Some(MetaError::NotFound));
    assert_eq!(create(ROOT, b"l1", link(SYMLINK_MAX)), None);
    assert_eq!(create(ROOT, b"l2", link(SYMLINK_MAX + 1)), Some(MetaError::NameTooLong));
    let special = NewNode::Special(Kind::File, 0);
    assert!(matches!(create(ROOT, b"s", special), Some(MetaError::Invalid(_))));
    let look = |dir, name: &[u8]| wait(meta.lookup(dir, name)).map(|attr| attr.ino);
    assert_eq!(look(ROOT, b".."), Ok(ROOT));
    assert_eq!(look(ROOT, b"none"), Err(MetaError::NotFound));
    assert_eq!(look(file, b"none"), Err(MetaError::NotDirectory));
    assert_eq!(look(file, b"."), Err(MetaError::NotDirectory));
    assert_eq!(look(ROOT, &long), Err(MetaError::NameTooLong));
    assert!(matches!(wait(meta.rmdir(ROOT, b".")), Err(MetaError::Invalid(_))));
    assert_eq!(wait(meta.rmdir(ROOT, b"..")), Err(MetaError::NotEmpty));
    let to = (ROOT, &b"b"[..]);
    let dots = wait(meta.rename((ROOT, b"."), to, RenameMode::Replace, Fate::Gone));
    assert!(matches!(dots, Err(MetaError::Invalid(_))));
    assert_clean(&meta);
}

#[test]
fn devices_keep_their_number_and_pipes_have_none() {
    let (_, _, meta) = volume(name::hash);
    let cases = [(Kind::CharDevice, 7), (Kind::BlockDevice, 7), (Kind::Fifo, 0), (Kind::Socket, 0)];
    for (i, (kind, rdev)) in cases.into_iter().enumerate() {
        let node = NewNode::Special(kind, 7);
        let attr = stat(&meta, new(&meta, ADMIN, ROOT, &i.to_string(), 0o600, node));
        assert_eq!((attr.kind, attr.rdev), (kind, rdev));
    }
}

#[test]
fn an_inode_has_a_bounded_number_of_names() {
    let (_, _, meta) = volume(name::hash);
    let file = new(&meta, ADMIN, ROOT, "f", 0o644, NewNode::File);
    for i in 1..LINK_MAX {
        wait(meta.link(file, ROOT, i.to_string().as_bytes())).unwrap();
    }
    assert_eq!(wait(meta.link(file, ROOT, b"more")), Err(MetaError::TooManyLinks));
    wait(meta.unlink(ROOT, b"1")).unwrap();
    assert_eq!(wait(meta.link(file, ROOT, b"more")).unwrap().nlink, LINK_MAX);
    assert_clean(&meta);
}

#[test]
fn times_follow_what_changed() {
    let (_, _, meta) = volume(name::hash);
    let dir = new(&meta, ADMIN, ROOT, "d", 0o755, NewNode::Directory);
    let file = new(&meta, ADMIN, dir, "f", 0o644, NewNode::File);
    // Which times of the directory and of the file move: (dir mtime, dir ctime, mtime, ctime).
    let moved = |what: &str, change: &dyn Fn(), expected: [bool; 4]| {
        let before = (stat(&meta, dir), stat(&meta, file));
        change();
        let after = (stat(&meta, dir), stat(&meta, file));
        let found = [
            before.0.mtime < after.0.mtime,
            before.0.ctime < after.0.ctime,
            before.1.mtime < after.1.mtime,
            before.1.ctime < after.1.ctime,
        ];
        assert_eq!(found, expected, "{what}");
    };
    let (y, n) = (true, false);
    let set = |set: SetAttr| assert!(wait(meta.setattr(file, set)).is_ok());
    let rename = |from: &[u8], to: &[u8]| {
        wait(meta.rename((dir, from), (dir, to), RenameMode::Replace, Fate::Gone)).unwrap();
    };
    moved("lookup", &|| assert!(wait(meta.lookup(dir, b"f")).is_ok()), [n, n, n, n]);
    moved("link", &|| assert!(wait(meta.link(file, dir, b"g")).is_ok()), [y, y, n, y]);
    moved("rename to itself", &|| rename(b"f", b"g"), [n, n, n, n]);
    moved("unlink", &|| assert!(wait(meta.unlink(dir, b"g")).is_ok()), [y, y, n, y]);
    moved("rename", &|| rename(b"f", b"h"), [y, y, n, y]);
    moved("chmod", &|| set(SetAttr { mode: Some(0o600), ..SetAttr::default() }), [n, n, n, y]);
    let read = Time { secs: 1 << 39, nanos: 7 };
    let gone = Ino(1 << 40);
    let times = [(gone, read), (file, read)];
    moved("reads", &|| wait(meta.accessed(&times)).unwrap(), [n, n, n, n]);
    assert_eq!(stat(&meta, file).atime, read);
    moved("truncate", &|| assert!(wait(meta.truncate(file, 9)).is_ok()), [n, n, y, y]);
    moved("setxattr", &|| wait(meta.setxattr(file, b"user.a", b"", None)).unwrap(), [n, n, n, y]);
    let late = Time { secs: 1 << 40, nanos: 5 };
    let update = FileUpdate { mtime: Some(late), ..file_update(file, 1, 0, 10) };
    moved(
        "commit",
        &|| wait(meta.commit(&[new_blob(1)], std::slice::from_ref(&update))).unwrap(),
        [n, n, y, y],
    );
    assert_eq!(stat(&meta, file).mtime, late);
    let early = Time { secs: -5, nanos: 999_999_999 };
    set(SetAttr { atime: Some(early), ctime: Some(early), ..SetAttr::default() });
    let attr = stat(&meta, file);
    assert_eq!((attr.atime, attr.ctime, attr.mtime), (early, early, late));
    let bad = SetAttr { atime: Some(Time { secs: 0, nanos: 1_000_000_000 }), ..SetAttr::default() };
    assert!(wait(meta.setattr(file, bad)).is_err());
}

#[test]
fn a_setgid_directory_hands_its_group_down() {
    let (_, _, meta) = volume(name::hash);
    let dir =
        new(&meta, Caller { uid: 0, gid: 7, umask: 0 }, ROOT, "d", 0o2777, NewNode::Directory);
    let file = stat(&meta, new(&meta, ANN, dir, "f", 0o644, NewNode::File));
    let sub = stat(&meta, new(&meta, ANN, dir, "s", 0o755, NewNode::Directory));
    assert_eq!((file.uid, file.gid, file.mode), (10, 7, 0o644));
    assert_eq!((sub.uid, sub.gid, sub.mode), (10, 7, 0o2755));
}

#[test]
fn extended_attributes_have_limits() {
    let (_, _, meta) = volume(name::hash);
    let file = new(&meta, ADMIN, ROOT, "f", 0o644, NewNode::File);
    let set = |name: &[u8], value: &[u8], must| wait(meta.setxattr(file, name, value, must));
    assert_eq!(set(b"user.big", &vec![1; XATTR_VALUE_MAX], None), Ok(()));
    let too_big = vec![1; XATTR_VALUE_MAX + 1];
    assert_eq!(set(b"user.big", &too_big, None), Err(MetaError::AttributeTooLarge));
    assert_eq!(set(&[b'n'; 256], b"", None), Err(MetaError::NameTooLong));
    assert!(matches!(set(b"", b"", None), Err(MetaError::Invalid(_))));
    assert_eq!(set(b"user.a", b"", Some(true)), Err(MetaError::NoAttribute));
    for i in 1..XATTR_COUNT_MAX {
        set(format!("user.{i}").as_bytes(), b"v", Some(false)).unwrap();
    }
    assert_eq!(set(b"user.more", b"", None), Err(MetaError::AttributeTooLarge));
    assert_eq!(set(b"user.7", b"other", None), Ok(()));
    assert_eq!(wait(meta.listxattr(file)).unwrap().len(), XATTR_COUNT_MAX as usize);
    assert_eq!(wait(meta.getxattr(file, b"user.more")), Err(MetaError::NoAttribute));
    assert_eq!(wait(meta.removexattr(file, b"user.more")), Err(MetaError::NoAttribute));
    assert_clean(&meta);
    wait(meta.unlink(ROOT, b"f")).unwrap();
    wait(meta.reap(&[file])).unwrap();
    assert_clean(&meta);
}

#[test]
fn a_write_clears_privileges() {
    let (_, _, meta) = volume(name::hash);
    let file = new(&meta, ADMIN, ROOT, "f", 0o6755, NewNode::File);
    wait(meta.setxattr(file, b"security.capability", b"caps", None)).unwrap();
    wait(meta.setxattr(file, b"user.a", b"1", None)).unwrap();
    wait(meta.clear_privileges(file, false)).unwrap();
    let attr = stat(&meta, file);
    assert_eq!(attr.mode, 0o755);
    assert_eq!(wait(meta.listxattr(file)).unwrap(), [b"user.a".to_vec()]);
    wait(meta.clear_privileges(file, false)).unwrap();
    assert_eq!(stat(&meta, file), attr, "nothing to clear, nothing touched");
}

#[test]
fn orphans_live_until_they_are_reaped_and_outlive_a_crash() {
    let (kv, record, meta) = volume(name::hash);
    let file = new(&meta, ADMIN, ROOT, "f", 0o644, NewNode::File);
    let dir = new(&meta, ADMIN, ROOT, "d", 0o755, NewNode::Directory);
    wait(meta.commit(&[new_blob(1)], &[file_update(file, 1, 0, 100)])).unwrap();
    assert!(wait(meta.unlink(ROOT, b"f")).unwrap().orphan);
    assert!(wait(meta.rmdir(ROOT, b"d")).unwrap().orphan);
    assert_eq!(wait(meta.orphans()).unwrap(), [], "they may be open");
    assert_eq!(stat(&meta, file).nlink, 0);
    let create = wait(meta.create(ADMIN, dir, b"x", 0, NewNode::File));
    assert_eq!(create, Err(MetaError::NotFound));
    assert_eq!(wait(meta.link(file, ROOT, b"again")), Err(MetaError::NotFound));
    wait(meta.commit(&[new_blob(2)], &[file_update(file, 2, 50, 100)])).unwrap();
    assert_clean(&meta);
    wait(meta.sync()).unwrap();

    let after = crash(&kv, &record, name::hash);
    assert_eq!(wait(after.orphans()).unwrap(), [file, dir]);
    assert_clean(&after);
    wait(after.reap(&[file, dir, ROOT])).unwrap();
    assert_eq!(wait(after.usage()).unwrap().live_bytes, 0);
    assert_eq!(wait(after.getattr(file)), Err(MetaError::NotFound));
    assert_clean(&after);
    // The same on the way out of a mount.
    wait(meta.close_session()).unwrap();
    let after = crash(&kv, &record, name::hash);
    assert_eq!(wait(after.orphans()).unwrap(), []);
    assert_eq!(wait(after.usage()).unwrap().inodes, 1);
    assert_eq!(wait(after.dead_sessions()).unwrap(), []);
    assert_clean(&after);
}

#[test]
fn a_late_flush_does_not_turn_ctime_back() {
    let (_, _, meta) = volume(name::hash);
    let file = new(&meta, ADMIN, ROOT, "f", 0o644, NewNode::File);
    let written = stat(&meta, file).ctime;
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let changed = wait(meta.setattr(file, set)).unwrap().ctime;
    assert!(changed > written);
    let flush = |sequence, at| {
        let update = FileUpdate { mtime: Some(at), ..file_update(file, sequence, 0, 100) };
        wait(meta.commit(&[new_blob(sequence)], &[update])).unwrap();
        let attr = stat(&meta, file);
        (attr.mtime, attr.ctime)
    };
    assert_eq!(flush(1, written), (written, changed));
    let later = Time { secs: changed.secs + 1, ..changed };
    assert_eq!(flush(2, later), (later, later));
}

#[test]
fn garbage_is_told_only_when_it_is_durable() {
    let (_, _, meta) = volume(name::hash);
    let file = new(&meta, ADMIN, ROOT, "f", 0o644, NewNode::File);
    wait(meta.commit(&[new_blob(1)], &[file_update(file, 1, 0, 100)])).unwrap();
    wait(meta.sync()).unwrap();
    // Overwritten, and another put in vain.
    let gone = file_update(Ino(99), 3, 0, 10);
    let blobs = [new_blob(2), new_blob(3)];
    wait(meta.commit(&blobs, &[file_update(file, 2, 0, 100), gone])).unwrap();
    assert_eq!(wait(meta.garbage(None, 10)).unwrap(), []);
    wait(meta.sync()).unwrap();
    let (one, three) = (blob(1, 4096), blob(3, 4096));
    assert_eq!(wait(meta.garbage(None, 10)).unwrap(), [one, three]);
    assert_eq!(wait(meta.garbage(None, 1)).unwrap(), [one]);
    assert_eq!(wait(meta.garbage(Some(one), 10)).unwrap(), [three]);
    assert_eq!(wait(meta.garbage(Some(three), 10)).unwrap(), []);
    wait(meta.forget_blobs(&[one])).unwrap();
    assert_eq!(wait(meta.garbage(None, 1)).unwrap(), [three], "the forgotten one is skipped");
    let found = blob(9, 4096);
    wait(meta.adopt_garbage(&[found, blob(2, 4096)])).unwrap();
    wait(meta.sync()).unwrap();
    assert_eq!(wait(meta.garbage(None, 10)).unwrap(), [three, found]);
    let usage = wait(meta.usage()).unwrap();
    assert_eq!((usage.blobs, usage.blob_bytes, usage.live_bytes), (3, 3 * 4096, 100));
    assert_clean(&meta);
}

#[test]
fn a_commit_that_makes_no_sense_changes_nothing() {
    let (_, _, meta) = volume(name::hash);
    let file = new(&meta, ADMIN, ROOT, "f", 0o644, NewNode::File);
    wait(meta.commit(&[new_blob(1)], &[file_update(file, 1, 0, 100)])).unwrap();
    wait(meta.commit(&[new_blob(2)], &[file_update(file, 2, 0, 100)])).unwrap();
    let before = stat(&meta, file);
    let good = file_update(file, 3, 0, 10);
    let engine = |e: &MetaError| matches!(e, MetaError::Engine(_));
    let damaged = |e: &MetaError| matches!(e, MetaError::Damaged(_));
    let invalid = |e: &MetaError| matches!(e, MetaError::Invalid(_));
    let too_large = |e: &MetaError| *e == MetaError::FileTooLarge;
    let dir = |e: &MetaError| *e == MetaError::IsDirectory;
    let mut endless = file_update(file, 3, 7, 1);
    endless.extents[0].offset = u64::MAX;
    type Judge<'a> = &'a dyn Fn(&MetaError) -> bool;
    let cases: [(&str, FileUpdate, Judge<'_>); 7] = [
        ("an unknown blob", file_update(file, 77, 0, 10), &damaged),
        ("a blob that is garbage", file_update(file, 1, 0, 10), &engine),
        ("beyond the blob", file_update(file, 3, 0, 5000), &invalid),
        ("no bytes", file_update(file, 3, 7, 0), &invalid),
        ("beyond any file", file_update(file, 3, FILE_MAX, 1), &too_large),
        ("beyond any number", endless, &too_large),
        ("a directory", file_update(ROOT, 3, 0, 10), &dir),
    ];
    for (what, bad, judge) in cases {
        let error = wait(meta.commit(&[new_blob(3)], &[good.clone(), bad])).unwrap_err();
        assert!(judge(&error), "{what}: {error}");
    }
    assert_eq!(stat(&meta, file), before);
    assert_eq!(wait(meta.usage()).unwrap().blobs, 2);
    assert_clean(&meta);
}

#[test]
fn sizes_and_ranges_have_limits() {
    let (_, _, meta) = volume(name::hash);
    let file = new(&meta, ADMIN, ROOT, "f", 0o644, NewNode::File);
    let pipe = new(&meta, ADMIN, ROOT, "p", 0o644, NewNode::Special(Kind::Fifo, 0));
    assert_eq!(wait(meta.truncate(file, FILE_MAX)).unwrap().size, FILE_MAX);
    assert_eq!(wait(meta.truncate(file, FILE_MAX + 1)), Err(MetaError::FileTooLarge));
    assert_eq!(wait(meta.truncate(ROOT, 0)), Err(MetaError::IsDirectory));
    assert!(matches!(wait(meta.truncate(pipe, 0)), Err(MetaError::Invalid(_))));
    assert!(matches!(wait(meta.allocate(file, 5..5, true)), Err(MetaError::Invalid(_))));
    let beyond = wait(meta.allocate(file, 5..FILE_MAX + 1, true));
    assert_eq!(beyond, Err(MetaError::FileTooLarge));
    assert_eq!(wait(meta.allocate(file, 0..FILE_MAX, false)).unwrap().stored, FILE_MAX);
    let far = wait(meta.clone_range(file, 0..10, file, FILE_MAX - 5));
    assert_eq!(far, Err(MetaError::FileTooLarge));
    assert_eq!(wait(meta.clone_range(file, 0..10, file, u64::MAX)), Err(MetaError::FileTooLarge));
    assert_eq!(wait(meta.truncate(file, 0)).unwrap().stored, 0);
    assert_clean(&meta);
}

#[test]
fn a_listing_goes_on_where_it_was_whatever_came_and_went() {
    for hasher in [name::hash, weak_hash] {
        let (_, _, meta) = volume(hasher);
        let names: Vec<_> = (0..200).map(|i| format!("n{i}")).collect();
        for name in &names {
            new(&meta, ADMIN, ROOT, name, 0o644, NewNode::File);
        }
        let mut seen = Vec::new();
        let mut cookie = 0;
        for round in 0.. {
            let page = wait(meta.readdir(ROOT, cookie, 7)).unwrap();
            let Some(last) = page.last() else { break };
            cookie = last.cookie;
            // What was just listed goes, with the entry the cookie stands for; others come.
            for entry in page.iter().skip(2 * usize::from(round == 0)) {
                wait(meta.unlink(ROOT, &entry.name)).unwrap();
                seen.push(String::from_utf8(entry.name.clone()).unwrap());
            }
            if round < 20 {
                new(&meta, ADMIN, ROOT, &format!("late{round}"), 0o644, NewNode::File);
            }
        }
        seen.retain(|name| !name.starts_with("late"));
        seen.sort();
        let mut names = names;
        names.sort();
        assert_eq!(seen, names, "each exactly once");
        assert_clean(&meta);
    }
}
