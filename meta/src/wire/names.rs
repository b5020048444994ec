//! Ops on names, and on attributes.

use bytes::Bytes;
use proto::rpc::metad as wire;
use proto::rpc::metad::attr_op::Op as WireAttr;
use proto::rpc::metad::name_op::Op as Wire;
use proto::rpc::metad::new_node::{Node, Special};
use proto::rpc::metad::{place, rename};

use super::values::{
    caller_from_wire, caller_to_wire, fate_from_wire, fate_to_wire, kind_from_wire, kind_to_wire,
    maybe_time, name_from_wire, name_to_wire, time_from_wire, time_to_wire,
};
use super::{bad, few, inos_from_wire, inos_to_wire, owned, there};
use crate::store::{Caller, Fate, Ino, MetaError, NewNode, RenameMode, Replaces, SetAttr, Time};

/// An op on names: a method of [`crate::store::MetaStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NameOp {
    Create { caller: Caller, parent: Ino, name: Bytes, mode: u32, node: NewNode },
    CreateNameless { caller: Caller, parent: Ino, mode: u32 },
    Place { ino: Ino, parent: Ino, name: Bytes, replaces: Replaces, fate: Fate },
    Link { ino: Ino, parent: Ino, name: Bytes },
    Unlink(Ino, Bytes),
    Rmdir(Ino, Bytes),
    Rename { from: (Ino, Bytes), to: (Ino, Bytes), mode: RenameMode, fate: Fate },
    Reap(Vec<Ino>),
}

impl NameOp {
    pub(crate) fn to_wire(&self) -> wire::NameOp {
        let op = match self {
            Self::Create { caller, parent, name, mode, node } => Wire::Create(wire::Create {
                caller: Some(caller_to_wire(*caller)),
                parent: parent.0,
                name: name.clone(),
                mode: *mode,
                node: Some(node_to_wire(node)),
            }),
            Self::CreateNameless { caller, parent, mode } => {
                let (caller, parent) = (Some(caller_to_wire(*caller)), parent.0);
                Wire::CreateNameless(wire::CreateNameless { caller, parent, mode: *mode })
            }
            Self::Place { ino, parent, name, replaces, fate } => {
                let (replaces, only) = replaces_to_wire(*replaces);
                Wire::Place(wire::Place {
                    ino: ino.0,
                    parent: parent.0,
                    name: name.clone(),
                    replaces: replaces.into(),
                    only,
                    trash_by: fate_to_wire(*fate),
                })
            }
            Self::Link { ino, parent, name } => {
                Wire::Link(wire::Link { ino: ino.0, parent: parent.0, name: name.clone() })
            }
            Self::Unlink(parent, name) => Wire::Unlink(name_to_wire(*parent, name)),
            Self::Rmdir(parent, name) => Wire::Rmdir(name_to_wire(*parent, name)),
            Self::Rename { from, to, mode, fate } => {
                let (mode, owner, only) = mode_to_wire(*mode);
                Wire::Rename(wire::Rename {
                    from: Some(name_to_wire(from.0, &from.1)),
                    to: Some(name_to_wire(to.0, &to.1)),
                    mode: mode.into(),
                    owner,
                    trash_by: fate_to_wire(*fate),
                    only,
                })
            }
            Self::Reap(inos) => Wire::Reap(wire::Inodes { inos: inos_to_wire(inos) }),
        };
        wire::NameOp { op: Some(op) }
    }

    /// # Errors
    /// For what makes no sense, or is not known.
    pub(crate) fn from_wire(op: wire::NameOp) -> Result<Self, MetaError> {
        Ok(match op.op.ok_or(MetaError::NotSupported)? {
            Wire::Create(wire::Create { caller, parent, name, mode, node }) => {
                let (caller, node) = (caller_from_wire(caller)?, node_from_wire(node)?);
                Self::Create { caller, parent: Ino(parent), name, mode, node }
            }
            Wire::CreateNameless(wire::CreateNameless { caller, parent, mode }) => {
                let (caller, parent) = (caller_from_wire(caller)?, Ino(parent));
                Self::CreateNameless { caller, parent, mode }
            }
            Wire::Place(wire::Place { ino, parent, name, replaces, only, trash_by }) => {
                let replaces = replaces_from_wire(replaces, only)?;
                let (ino, parent, fate) = (Ino(ino), Ino(parent), fate_from_wire(trash_by));
                Self::Place { ino, parent, name, replaces, fate }
            }
            Wire::Link(wire::Link { ino, parent, name }) => {
                Self::Link { ino: Ino(ino), parent: Ino(parent), name }
            }
            Wire::Unlink(wire::Name { parent, name }) => Self::Unlink(Ino(parent), name),
            Wire::Rmdir(wire::Name { parent, name }) => Self::Rmdir(Ino(parent), name),
            Wire::Rename(wire::Rename { from, to, mode, owner, trash_by, only }) => {
                let (from, to) = (name_from_wire(from)?, name_from_wire(to)?);
                let mode = mode_from_wire(mode, owner, only)?;
                Self::Rename { from, to, mode, fate: fate_from_wire(trash_by) }
            }
            Wire::Reap(wire::Inodes { inos }) => Self::Reap(inos_from_wire(inos)?),
        })
    }
}

fn node_to_wire(node: &NewNode) -> wire::NewNode {
    let node = match node {
        NewNode::File => Node::File(wire::Done {}),
        NewNode::Directory => Node::Directory(wire::Done {}),
        NewNode::Symlink(target) => Node::Symlink(Bytes::copy_from_slice(target)),
        NewNode::Special(kind, rdev) => {
            Node::Special(Special { kind: kind_to_wire(*kind), rdev: *rdev })
        }
    };
    wire::NewNode { node: Some(node) }
}

fn node_from_wire(node: Option<wire::NewNode>) -> Result<NewNode, MetaError> {
    Ok(match there(there(node)?.node)? {
        Node::File(wire::Done {}) => NewNode::File,
        Node::Directory(wire::Done {}) => NewNode::Directory,
        Node::Symlink(target) => NewNode::Symlink(owned(target)),
        Node::Special(Special { kind, rdev }) => NewNode::Special(kind_from_wire(kind)?, rdev),
    })
}

fn replaces_to_wire(replaces: Replaces) -> (place::Replaces, u64) {
    match replaces {
        Replaces::Anything => (place::Replaces::Anything, 0),
        Replaces::Nothing => (place::Replaces::Nothing, 0),
        Replaces::Only(ino) => (place::Replaces::Only, ino.0),
    }
}

fn replaces_from_wire(replaces: i32, only: u64) -> Result<Replaces, MetaError> {
    let replaces = place::Replaces::try_from(replaces);
    Ok(match replaces.map_err(|_| bad("an unknown way to replace"))? {
        place::Replaces::Anything => Replaces::Anything,
        place::Replaces::Nothing => Replaces::Nothing,
        place::Replaces::Only => Replaces::Only(Ino(only)),
    })
}

/// With whose a whiteout is, and what may be replaced whole.
fn mode_to_wire(mode: RenameMode) -> (rename::Mode, Option<wire::Caller>, u64) {
    let whiteout = |mode, owner| (mode, Some(caller_to_wire(owner)), 0);
    match mode {
        RenameMode::Replace => (rename::Mode::Replace, None, 0),
        RenameMode::ReplaceWhole(only) => (rename::Mode::ReplaceWhole, None, only.0),
        RenameMode::NoReplace => (rename::Mode::NoReplace, None, 0),
        RenameMode::Exchange => (rename::Mode::Exchange, None, 0),
        RenameMode::Whiteout { replace: false, owner } => whiteout(rename::Mode::Whiteout, owner),
        RenameMode::Whiteout { replace: true, owner } => {
            whiteout(rename::Mode::WhiteoutReplace, owner)
        }
    }
}

fn mode_from_wire(
    mode: i32,
    owner: Option<wire::Caller>,
    only: u64,
) -> Result<RenameMode, MetaError> {
    let mode = rename::Mode::try_from(mode).map_err(|_| bad("an unknown way to rename"))?;
    let whiteout = |replace| {
        let owner = caller_from_wire(owner)?;
        Ok(RenameMode::Whiteout { replace, owner })
    };
    match mode {
        rename::Mode::Replace => Ok(RenameMode::Replace),
        rename::Mode::ReplaceWhole => Ok(RenameMode::ReplaceWhole(Ino(only))),
        rename::Mode::NoReplace => Ok(RenameMode::NoReplace),
        rename::Mode::Exchange => Ok(RenameMode::Exchange),
        rename::Mode::Whiteout => whiteout(false),
        rename::Mode::WhiteoutReplace => whiteout(true),
    }
}

/// An op on attributes: a method of [`crate::store::MetaStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttrOp {
    Setattr(Ino, SetAttr),
    Accessed(Vec<(Ino, Time)>),
    ClearPrivileges { ino: Ino, outsider: bool },
    Setxattr { ino: Ino, name: Bytes, value: Bytes, must: Option<bool> },
    Removexattr(Ino, Bytes),
}

impl AttrOp {
    pub(crate) fn to_wire(&self) -> wire::AttrOp {
        let op = match self {
            Self::Setattr(ino, set) => {
                let SetAttr { mode, uid, gid, atime, mtime, ctime, outsider } = *set;
                let time = |time: Option<Time>| time.map(time_to_wire);
                let (atime, mtime, ctime) = (time(atime), time(mtime), time(ctime));
                let ino = ino.0;
                WireAttr::Setattr(wire::Setattr {
                    ino,
                    mode,
                    uid,
                    gid,
                    atime,
                    mtime,
                    ctime,
                    outsider,
                })
            }
            Self::Accessed(reads) => {
                let read = |(ino, at): &(Ino, Time)| wire::accessed::Read {
                    ino: ino.0,
                    at: Some(time_to_wire(*at)),
                };
                WireAttr::Accessed(wire::Accessed { reads: reads.iter().map(read).collect() })
            }
            Self::ClearPrivileges { ino, outsider } => {
                let (ino, outsider) = (ino.0, *outsider);
                WireAttr::ClearPrivileges(wire::ClearPrivileges { ino, outsider })
            }
            Self::Setxattr { ino, name, value, must } => WireAttr::Setxattr(wire::Setxattr {
                ino: ino.0,
                name: name.clone(),
                value: value.clone(),
                must: *must,
            }),
            Self::Removexattr(ino, name) => {
                WireAttr::Removexattr(wire::Getxattr { ino: ino.0, name: name.clone() })
            }
        };
        wire::AttrOp { op: Some(op) }
    }

    /// # Errors
    /// For what makes no sense, or is not known.
    pub(crate) fn from_wire(op: wire::AttrOp) -> Result<Self, MetaError> {
        Ok(match op.op.ok_or(MetaError::NotSupported)? {
            WireAttr::Setattr(set) => {
                let wire::Setattr { ino, mode, uid, gid, atime, mtime, ctime, outsider } = set;
                let (atime, mtime) = (maybe_time(atime)?, maybe_time(mtime)?);
                let ctime = maybe_time(ctime)?;
                Self::Setattr(Ino(ino), SetAttr { mode, uid, gid, atime, mtime, ctime, outsider })
            }
            WireAttr::Accessed(wire::Accessed { reads }) => {
                few(&reads)?;
                let read = |read: wire::accessed::Read| {
                    Ok((Ino(read.ino), time_from_wire(there(read.at)?)?))
                };
                Self::Accessed(reads.into_iter().map(read).collect::<Result<_, MetaError>>()?)
            }
            WireAttr::ClearPrivileges(wire::ClearPrivileges { ino, outsider }) => {
                Self::ClearPrivileges { ino: Ino(ino), outsider }
            }
            WireAttr::Setxattr(wire::Setxattr { ino, name, value, must }) => {
                Self::Setxattr { ino: Ino(ino), name, value, must }
            }
            WireAttr::Removexattr(wire::Getxattr { ino, name }) => {
                Self::Removexattr(Ino(ino), name)
            }
        })
    }
}
