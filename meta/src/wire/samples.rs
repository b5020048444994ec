//! Any op and any answer, for tests.

use std::ops::Range;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proto::cluster::Level;
use proto::id::{BlobId, ClusterId, GroupId, SessionId, VolumeId};
use proto::limits::{MAX_BLOB, MAX_ENTRIES};
use proto::scheme::Scheme;
use proxy::{Layout, VolumeRules};

use super::accounts::AccountOp;
use super::answer::Answer;
use super::content::ContentOp;
use super::look::Look;
use super::names::{AttrOp, NameOp};
use super::op::Op;
use super::trash::TrashOp;
use crate::account::{Account, AccountKind, Pass, Secret, User, UserChange};
use crate::store::{
    Above, Attr, Caller, DirEntry, Extent, Fate, FileUpdate, Ino, Kind, Looked, NewNode, Place,
    RenameMode, Replaces, SetAttr, Takes, Time, Trashed, Unlinked, Usage, VolumeInfo,
};

fn ino() -> impl Strategy<Value = Ino> {
    any::<u64>().prop_map(Ino)
}

fn name() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn named() -> impl Strategy<Value = (Ino, Bytes)> {
    (ino(), name())
}

fn limit() -> impl Strategy<Value = usize> {
    0..=MAX_ENTRIES
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(secs, nanos)| Time { secs, nanos })
}

fn range() -> impl Strategy<Value = Range<u64>> {
    (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a.min(b)..a.max(b))
}

fn blob() -> impl Strategy<Value = BlobId> {
    (any::<u32>(), any::<u64>(), any::<u64>(), 1..=MAX_BLOB).prop_map(
        |(volume, session, sequence, len)| {
            let scheme = Scheme::erasure(4, 2).expect("a valid scheme");
            let (volume, session) = (VolumeId(volume), SessionId(session));
            BlobId::new(volume, session, sequence, GroupId(7), len, scheme).expect("a valid id")
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::File),
        Just(Kind::Directory),
        Just(Kind::Symlink),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        Just(Kind::CharDevice),
        Just(Kind::BlockDevice),
    ]
}

fn caller() -> impl Strategy<Value = Caller> {
    any::<(u32, u32, u32)>().prop_map(|(uid, gid, umask)| Caller { uid, gid, umask })
}

fn fate() -> impl Strategy<Value = Fate> {
    option::of(any::<u32>()).prop_map(|by| by.map_or(Fate::Gone, |by| Fate::Trash { by }))
}

fn extent() -> impl Strategy<Value = Extent> {
    let place = (blob(), any::<u32>()).prop_map(|(blob, offset)| Place { blob, offset });
    (any::<u64>(), any::<u64>(), option::of(place)).prop_map(|(offset, len, place)| Extent {
        offset,
        len,
        place,
    })
}

fn attr() -> impl Strategy<Value = Attr> {
    let numbers = any::<(u32, u32, u32, u32, u32, u32, u64, u64)>();
    (ino(), kind(), numbers, time(), time(), time(), time()).prop_map(
        |(ino, kind, numbers, atime, mtime, ctime, btime)| {
            let (mode, nlink, uid, gid, rdev, xattrs, size, stored) = numbers;
            Attr {
                ino,
                kind,
                mode,
                nlink,
                uid,
                gid,
                rdev,
                xattrs,
                size,
                stored,
                atime,
                mtime,
                ctime,
                btime,
            }
        },
    )
}

fn look() -> impl Strategy<Value = Look> {
    prop_oneof![
        named().prop_map(|(parent, name)| Look::Lookup(parent, name)),
        (ino(), vec(name(), 0..5), name()).prop_map(|(parent, names, attribute)| Look::At {
            parent,
            names,
            attribute
        }),
        (ino(), any::<u64>(), limit()).prop_map(|(ino, cookie, limit)| Look::Readdir {
            ino,
            cookie,
            limit
        }),
        ino().prop_map(Look::Getattr),
        ino().prop_map(Look::Readlink),
        named().prop_map(|(ino, name)| Look::Getxattr(ino, name)),
        ino().prop_map(Look::Listxattr),
        (ino(), range(), limit()).prop_map(|(ino, range, limit)| Look::Extents {
            ino,
            range,
            limit
        }),
        blob().prop_map(Look::InlineBytes),
        Just(Look::Usage),
    ]
}

fn node() -> impl Strategy<Value = NewNode> {
    prop_oneof![
        Just(NewNode::File),
        Just(NewNode::Directory),
        name().prop_map(|target| NewNode::Symlink(target.into())),
        (kind(), any::<u32>()).prop_map(|(kind, rdev)| NewNode::Special(kind, rdev)),
    ]
}

fn mode() -> impl Strategy<Value = RenameMode> {
    prop_oneof![
        Just(RenameMode::Replace),
        ino().prop_map(RenameMode::ReplaceWhole),
        Just(RenameMode::NoReplace),
        Just(RenameMode::Exchange),
        (any::<bool>(), caller())
            .prop_map(|(replace, owner)| RenameMode::Whiteout { replace, owner }),
    ]
}

fn replaces() -> impl Strategy<Value = Replaces> {
    prop_oneof![Just(Replaces::Anything), Just(Replaces::Nothing), ino().prop_map(Replaces::Only),]
}

fn names() -> impl Strategy<Value = NameOp> {
    prop_oneof![
        (caller(), named(), any::<u32>(), node()).prop_map(
            |(caller, (parent, name), mode, node)| NameOp::Create {
                caller,
                parent,
                name,
                mode,
                node
            }
        ),
        (caller(), ino(), any::<u32>()).prop_map(|(caller, parent, mode)| NameOp::CreateNameless {
            caller,
            parent,
            mode
        }),
        (ino(), named(), replaces(), fate()).prop_map(|(ino, (parent, name), replaces, fate)| {
            NameOp::Place { ino, parent, name, replaces, fate }
        }),
        (ino(), named()).prop_map(|(ino, (parent, name))| NameOp::Link { ino, parent, name }),
        named().prop_map(|(parent, name)| NameOp::Unlink(parent, name)),
        named().prop_map(|(parent, name)| NameOp::Rmdir(parent, name)),
        (named(), named(), mode(), fate()).prop_map(|(from, to, mode, fate)| NameOp::Rename {
            from,
            to,
            mode,
            fate
        }),
        vec(ino(), 0..5).prop_map(NameOp::Reap),
    ]
}

fn set() -> impl Strategy<Value = SetAttr> {
    let number = || option::of(any::<u32>());
    let when = || option::of(time());
    (number(), number(), number(), when(), when(), when(), any::<bool>()).prop_map(
        |(mode, uid, gid, atime, mtime, ctime, outsider)| SetAttr {
            mode,
            uid,
            gid,
            atime,
            mtime,
            ctime,
            outsider,
        },
    )
}

fn attrs() -> impl Strategy<Value = AttrOp> {
    prop_oneof![
        (ino(), set()).prop_map(|(ino, set)| AttrOp::Setattr(ino, set)),
        vec((ino(), time()), 0..5).prop_map(AttrOp::Accessed),
        (ino(), any::<bool>())
            .prop_map(|(ino, outsider)| AttrOp::ClearPrivileges { ino, outsider }),
        (named(), name(), option::of(any::<bool>()))
            .prop_map(|((ino, name), value, must)| AttrOp::Setxattr { ino, name, value, must }),
        named().prop_map(|(ino, name)| AttrOp::Removexattr(ino, name)),
    ]
}

fn file() -> impl Strategy<Value = FileUpdate> {
    (ino(), vec(extent(), 0..4), option::of(any::<u64>()), option::of(time())).prop_map(
        |(ino, extents, size_at_least, mtime)| FileUpdate { ino, extents, size_at_least, mtime },
    )
}

fn content() -> impl Strategy<Value = ContentOp> {
    prop_oneof![
        (vec(blob(), 0..3), option::of(name()), vec(file(), 0..3))
            .prop_map(|(blobs, inline, files)| ContentOp::Commit { blobs, inline, files }),
        (ino(), any::<u64>()).prop_map(|(ino, size)| ContentOp::Truncate { ino, size }),
        (ino(), range(), any::<bool>(), any::<bool>()).prop_map(|(ino, range, allocate, grow)| {
            ContentOp::ClearRange { ino, range, allocate, grow }
        }),
        (ino(), range(), any::<bool>()).prop_map(|(ino, range, grow)| ContentOp::Allocate {
            ino,
            range,
            grow
        }),
        (ino(), range(), ino(), any::<u64>()).prop_map(|(from, range, to, to_offset)| {
            ContentOp::CloneRange { from, range, to, to_offset }
        }),
        vec(blob(), 0..5).prop_map(ContentOp::AdoptGarbage),
    ]
}

fn takes() -> impl Strategy<Value = Takes> {
    prop_oneof![Just(Takes::NoDirectory), Just(Takes::EmptyDirectory), ino().prop_map(Takes::Only),]
}

fn trash() -> impl Strategy<Value = TrashOp> {
    let place = || option::of((time(), ino()));
    prop_oneof![
        (named(), takes(), any::<u32>()).prop_map(|((parent, name), takes, by)| {
            TrashOp::Discard { parent, name, takes, by }
        }),
        ino().prop_map(TrashOp::Trashed),
        (place(), limit()).prop_map(|(before, limit)| TrashOp::Newest { before, limit }),
        (time(), place(), limit()).prop_map(|(until, after, limit)| TrashOp::Oldest {
            until,
            after,
            limit
        }),
        (ino(), option::of(ino()), limit()).prop_map(|(dir, after, limit)| TrashOp::Of {
            dir,
            after,
            limit
        }),
        vec(ino(), 0..5).prop_map(TrashOp::Above),
        (ino(), named(), any::<bool>(), any::<u32>())
            .prop_map(|(ino, to, replaces, by)| TrashOp::Restore { ino, to, replaces, by }),
        vec(ino(), 0..5).prop_map(TrashOp::GiveUp),
        ino().prop_map(TrashOp::Delete),
    ]
}

fn account_kind() -> impl Strategy<Value = AccountKind> {
    proptest::sample::select(AccountKind::ALL.to_vec())
}

fn secret() -> impl Strategy<Value = Secret> {
    vec(any::<u8>(), 0..40).prop_map(Secret)
}

fn text() -> impl Strategy<Value = String> {
    "[ -~ä]{0,12}"
}

fn account() -> impl Strategy<Value = Account> {
    let user =
        (text(), secret(), any::<u32>(), vec(any::<u32>(), 0..4), text(), any::<[bool; 2]>())
            .prop_map(|(name, password, uid, gids, folder, [write, disabled])| {
                Account::User(User { name, password, uid, gids, folder, write, disabled })
            });
    let texts = (text(), text(), text());
    let pass = (account_kind(), texts, any::<bool>(), any::<u64>(), any::<Option<u64>>(), secret())
        .prop_map(|(kind, (id, user, folder), write, created, expires, secret)| {
            Account::Pass(Pass { kind, id, user, folder, write, created, expires, secret })
        });
    prop_oneof![user, pass]
}

fn accounts() -> impl Strategy<Value = AccountOp> {
    let change = prop_oneof![
        secret().prop_map(UserChange::Password),
        any::<bool>().prop_map(UserChange::Disabled),
    ];
    prop_oneof![
        (account_kind(), text()).prop_map(|(kind, name)| AccountOp::Find(kind, name)),
        (account_kind(), option::of(text()), limit())
            .prop_map(|(kind, after, limit)| AccountOp::List { kind, after, limit }),
        Just(AccountOp::HasUsers),
        account().prop_map(AccountOp::Add),
        (text(), change).prop_map(|(name, change)| AccountOp::Change(name, change)),
        (account_kind(), text()).prop_map(|(kind, name)| AccountOp::Remove(kind, name)),
        Just(AccountOp::Signing),
        secret().prop_map(AccountOp::KeepSigning),
    ]
}

/// Any op.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        look().prop_map(Op::Look),
        names().prop_map(Op::Names),
        attrs().prop_map(Op::Attrs),
        content().prop_map(Op::Content),
        trash().prop_map(Op::Trash),
        accounts().prop_map(Op::Accounts),
        any::<u8>().prop_map(Op::SetMinSpare),
        any::<u16>().prop_map(Op::SetTrashDays),
        Just(Op::Sync),
        Just(Op::Close),
    ]
}

fn entry() -> impl Strategy<Value = DirEntry> {
    (any::<u64>(), name(), attr(), any::<bool>()).prop_map(|(cookie, name, attr, damaged)| {
        DirEntry { cookie, name: name.into(), attr, damaged }
    })
}

fn usage() -> impl Strategy<Value = Usage> {
    any::<[u64; 7]>().prop_map(
        |[inodes, live_bytes, blob_bytes, dead_bytes, blobs, allocated_bytes, disk_bytes]| Usage {
            inodes,
            live_bytes,
            blob_bytes,
            dead_bytes,
            blobs,
            allocated_bytes,
            disk_bytes,
        },
    )
}

fn trashed() -> impl Strategy<Value = Trashed> {
    (attr(), named(), time(), any::<u32>()).prop_map(|(attr, (dir, name), when, by)| Trashed {
        attr,
        dir,
        name: name.into(),
        when,
        by,
    })
}

fn volume() -> impl Strategy<Value = VolumeInfo> {
    let levels = proptest::sample::select(Level::ALL.to_vec());
    (text(), any::<u32>(), levels, any::<[u8; 3]>()).prop_map(
        |(name, id, unit, [whole, min_spare, least_spare])| VolumeInfo {
            name,
            id: VolumeId(id),
            cluster: ClusterId::random(),
            scheme: Scheme::copies(3).expect("a valid scheme"),
            rules: VolumeRules { layout: Layout { unit, whole }, min_spare, least_spare },
        },
    )
}

/// A volume that is one.
pub(crate) fn a_volume() -> VolumeInfo {
    VolumeInfo {
        name: "photos".to_owned(),
        id: VolumeId(3),
        cluster: ClusterId::random(),
        scheme: Scheme::copies(3).expect("a valid scheme"),
        rules: VolumeRules::default(),
    }
}

/// Any answer. Inode 0 is none.
pub(crate) fn answer() -> impl Strategy<Value = Answer> {
    let unlinked =
        (1..=u64::MAX, any::<bool>()).prop_map(|(ino, orphan)| Unlinked { ino: Ino(ino), orphan });
    let looked = (attr(), option::of(vec(any::<u8>(), 0..9)))
        .prop_map(|(attr, value)| Looked { attr, value });
    let above = (named(), any::<bool>()).prop_map(|((dir, name), in_trash)| Above {
        dir,
        name: name.into(),
        in_trash,
    });
    prop_oneof![
        Just(Answer::Done),
        attr().prop_map(Answer::Attr),
        vec(entry(), 0..4).prop_map(Answer::Entries),
        vec(option::of(looked), 0..4).prop_map(Answer::Looks),
        option::of(unlinked).prop_map(Answer::Unlinked),
        option::of(name()).prop_map(Answer::Bytes),
        vec(vec(any::<u8>(), 0..9), 0..4).prop_map(Answer::Names),
        vec(extent(), 0..4).prop_map(Answer::Extents),
        (usage(), any::<u64>()).prop_map(|(usage, metadata)| Answer::Usage(usage, metadata)),
        vec(trashed(), 0..4).prop_map(Answer::Trash),
        btree_map(ino(), above, 0..4).prop_map(Answer::Places),
        vec(account(), 0..4).prop_map(Answer::Accounts),
        any::<bool>().prop_map(Answer::Yes),
        (volume(), any::<u16>()).prop_map(|(info, days)| Answer::Volume(info, days)),
    ]
}
