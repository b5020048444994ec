//! Access lists: what sets them, what follows them, what inherits them.

use super::{ADMIN, assert_clean, volume, wait, weak_hash};
use crate::rules::name;
use crate::store::{Attr, Caller, Ino, Kind, MetaError, MetaStore, NewNode, ROOT, SetAttr};
use crate::volume::session::Session;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const MASKED: Caller = Caller { uid: 0, gid: 0, umask: 0o027 };

/// The bytes of a list; tags are the kernel's.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

const NONE: u32 = u32::MAX;

fn minimal(owner: u16, group: u16, others: u16) -> Vec<u8> {
    list(&[(1, owner, NONE), (4, group, NONE), (32, others, NONE)])
}

/// user::rwx, user:10:rwx, group::r-x, the mask, others
fn extended(owner: u16, mask: u16, others: u16) -> Vec<u8> {
    let named = [(2, 7, 10), (4, 5, NONE)];
    list(&[(1, owner, NONE), named[0], named[1], (16, mask, NONE), (32, others, NONE)])
}

fn new(meta: &Session, who: Caller, dir: Ino, name: &str, mode: u32, node: NewNode) -> Attr {
    wait(meta.create(who, dir, name.as_bytes(), mode, node)).unwrap()
}

fn mode(meta: &Session, ino: Ino) -> u32 {
    wait(meta.getattr(ino)).unwrap().mode
}

fn chmod(meta: &Session, ino: Ino, mode: u32) {
    wait(meta.setattr(ino, SetAttr { mode: Some(mode), ..SetAttr::default() })).unwrap();
}

fn get(meta: &Session, ino: Ino, name: &[u8]) -> Option<Vec<u8>> {
    match wait(meta.getxattr(ino, name)) {
        Err(MetaError::NoAttribute) => None,
        value => Some(value.unwrap()),
    }
}

#[test]
fn an_access_list_and_the_mode_follow_each_other() {
    for hasher in [name::hash, weak_hash] {
        let (_, _, meta) = volume(hasher);
        let file = new(&meta, ADMIN, ROOT, "f", 0o4600, NewNode::File).ino;
        let before = wait(meta.getattr(file)).unwrap().ctime;
        wait(meta.setxattr(file, ACCESS, &extended(7, 6, 4), None)).unwrap();
        assert_eq!(mode(&meta, file), 0o4764);
        assert!(wait(meta.getattr(file)).unwrap().ctime > before);
        assert_eq!(get(&meta, file, ACCESS), Some(extended(7, 6, 4)));
        assert_clean(&meta);
        chmod(&meta, file, 0o2510);
        assert_eq!(
            (mode(&meta, file), get(&meta, file, ACCESS)),
            (0o2510, Some(extended(5, 1, 0)))
        );
        assert_clean(&meta);
        // A list of three classes is the mode, and takes the extended one away.
        wait(meta.setxattr(file, ACCESS, &minimal(6, 4, 0), None)).unwrap();
        assert_eq!((mode(&meta, file), get(&meta, file, ACCESS)), (0o2640, None));
        assert_eq!(wait(meta.listxattr(file)).unwrap(), Vec::<Vec<u8>>::new());
        wait(meta.setxattr(file, ACCESS, &extended(7, 6, 4), None)).unwrap();
        wait(meta.setxattr(file, ACCESS, &list(&[]), None)).unwrap();
        assert_eq!((mode(&meta, file), get(&meta, file, ACCESS)), (0o2764, None), "the mode stays");
        wait(meta.setxattr(file, ACCESS, &extended(7, 5, 4), None)).unwrap();
        wait(meta.removexattr(file, ACCESS)).unwrap();
        assert_eq!(wait(meta.removexattr(file, ACCESS)), Err(MetaError::NoAttribute));
        assert_eq!(mode(&meta, file), 0o2754);
        assert_clean(&meta);
    }
}

#[test]
fn lists_where_they_cannot_be() {
    let (_, _, meta) = volume(name::hash);
    let file = new(&meta, ADMIN, ROOT, "f", 0o600, NewNode::File).ino;
    let link = new(&meta, ADMIN, ROOT, "l", 0o777, NewNode::Symlink(b"f".to_vec())).ino;
    let set = |ino, name, value: &[u8]| wait(meta.setxattr(ino, name, value, None));
    assert_eq!(set(file, DEFAULT, &minimal(7, 5, 5)), Err(MetaError::AccessDenied));
    assert_eq!(set(file, DEFAULT, &list(&[])), Ok(()), "nothing to take away");
    assert_eq!(set(link, ACCESS, &extended(7, 7, 7)), Err(MetaError::NotSupported));
    assert!(matches!(set(file, ACCESS, b"rubbish"), Err(MetaError::NotSupported)));
    assert!(matches!(set(file, ACCESS, &extended(9, 7, 7)), Err(MetaError::Invalid(_))));
    assert_eq!(mode(&meta, file), 0o600);
    assert_clean(&meta);
}

#[test]
fn the_umask_counts_where_no_default_list_decides() {
    let (_, _, meta) = volume(name::hash);
    let plain = new(&meta, MASKED, ROOT, "plain", 0o1777, NewNode::Directory);
    assert_eq!(plain.mode, 0o1750);
    wait(meta.setxattr(plain.ino, b"user.a", b"", None)).unwrap();
    assert_eq!(new(&meta, MASKED, plain.ino, "f", 0o4777, NewNode::File).mode, 0o4750);
    assert_eq!(new(&meta, MASKED, ROOT, "l", 0, NewNode::Symlink(b"f".to_vec())).mode, 0o777);

    let dir = new(&meta, ADMIN, ROOT, "d", 0o2755, NewNode::Directory).ino;
    wait(meta.setxattr(dir, DEFAULT, &extended(7, 7, 5), None)).unwrap();
    assert_eq!(mode(&meta, dir), 0o2755, "its own permissions stay");
    let file = new(&meta, MASKED, dir, "f", 0o666, NewNode::File);
    assert_eq!((file.mode, get(&meta, file.ino, ACCESS)), (0o664, Some(extended(6, 6, 4))));
    assert_eq!(get(&meta, file.ino, DEFAULT), None);
    let pipe = new(&meta, MASKED, dir, "p", 0o622, NewNode::Special(Kind::Fifo, 0));
    assert_eq!((pipe.mode, get(&meta, pipe.ino, ACCESS)), (0o620, Some(extended(6, 2, 0))));
    let sub = new(&meta, MASKED, dir, "s", 0o777, NewNode::Directory);
    assert_eq!((sub.mode, get(&meta, sub.ino, ACCESS)), (0o2775, Some(extended(7, 7, 5))));
    assert_eq!(get(&meta, sub.ino, DEFAULT), Some(extended(7, 7, 5)));
    let link = new(&meta, MASKED, dir, "l", 0, NewNode::Symlink(b"f".to_vec()));
    assert_eq!((link.mode, wait(meta.listxattr(link.ino)).unwrap().len()), (0o777, 0));
    assert_clean(&meta);

    // A default list of three classes takes the umask's place and leaves no list behind.
    wait(meta.setxattr(dir, DEFAULT, &minimal(7, 7, 7), None)).unwrap();
    let file = new(&meta, MASKED, dir, "g", 0o666, NewNode::File);
    assert_eq!((file.mode, get(&meta, file.ino, ACCESS)), (0o666, None));
    assert_clean(&meta);
    wait(meta.unlink(dir, b"f")).unwrap();
    wait(meta.reap(&[file.ino])).unwrap();
    assert_clean(&meta);
}
