//! An op: what a session asks of its metad, one of many in an ask.

use proto::rpc::metad as wire;
use proto::rpc::metad::op::Op as Wire;

use super::accounts::AccountOp;
use super::content::ContentOp;
use super::look::Look;
use super::names::{AttrOp, NameOp};
use super::trash::TrashOp;
use super::values::small;
use crate::store::{MetaError, XATTR_VALUE_MAX};

/// Bytes of an entry of a page, about.
const ENTRY: usize = 256;

/// A method of [`crate::store::MetaStore`], with what it is called with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Look(Look),
    Names(NameOp),
    Attrs(AttrOp),
    Content(ContentOp),
    Trash(TrashOp),
    Accounts(AccountOp),
    SetMinSpare(u8),
    SetTrashDays(u16),
    Sync,
    Close,
}

/// What an op that was done leaves to be done by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    Nothing,
    /// Something in the trash may have to go.
    Trash,
    /// Blobs are to lie in another way.
    Rules,
    /// The session has ended.
    All,
}

impl Op {
    /// What is there to do for others once it was done?
    pub(crate) fn leaves(&self) -> Leaves {
        match self {
            Self::Trash(TrashOp::GiveUp(_)) | Self::SetTrashDays(_) => Leaves::Trash,
            Self::SetMinSpare(_) => Leaves::Rules,
            Self::Close => Leaves::All,
            Self::Look(_)
            | Self::Names(_)
            | Self::Attrs(_)
            | Self::Content(_)
            | Self::Trash(_)
            | Self::Accounts(_)
            | Self::Sync => Leaves::Nothing,
        }
    }

    /// Is it the same however often it is done? All others are to be done once.
    pub(crate) fn is_same_again(&self) -> bool {
        match self {
            Self::Look(_)
            | Self::SetMinSpare(_)
            | Self::SetTrashDays(_)
            | Self::Sync
            | Self::Names(NameOp::Reap(_))
            | Self::Attrs(AttrOp::Accessed(_))
            | Self::Content(ContentOp::AdoptGarbage(_)) => true,
            Self::Trash(op) => op.looks(),
            Self::Accounts(op) => op.looks(),
            Self::Names(_) | Self::Attrs(_) | Self::Content(_) | Self::Close => false,
        }
    }

    /// Bytes of memory that its answer may take, about.
    pub(crate) fn memory(&self) -> usize {
        let entries = match self {
            Self::Look(Look::Readdir { limit, .. } | Look::Extents { limit, .. }) => *limit,
            Self::Trash(
                TrashOp::Newest { limit, .. }
                | TrashOp::Oldest { limit, .. }
                | TrashOp::Of { limit, .. },
            )
            | Self::Accounts(AccountOp::List { limit, .. }) => *limit,
            Self::Look(Look::At { names, .. }) => names.len() * (1 + XATTR_VALUE_MAX / ENTRY),
            Self::Trash(TrashOp::Above(dirs)) => dirs.len(),
            Self::Look(Look::InlineBytes(_) | Look::Getxattr(..) | Look::Listxattr(_)) => 64,
            _ => 1,
        };
        entries * ENTRY
    }

    pub(crate) fn to_wire(&self) -> wire::Op {
        let (min_spare, trash_days) = (None, None);
        let op = match self {
            Self::Look(look) => Wire::Look(look.to_wire()),
            Self::Names(op) => Wire::Names(op.to_wire()),
            Self::Attrs(op) => Wire::Attrs(op.to_wire()),
            Self::Content(op) => Wire::Content(op.to_wire()),
            Self::Trash(op) => Wire::Trash(op.to_wire()),
            Self::Accounts(op) => Wire::Accounts(op.to_wire()),
            Self::SetMinSpare(spare) => {
                let min_spare = Some((*spare).into());
                Wire::SetVolume(wire::SetVolume { min_spare, trash_days })
            }
            Self::SetTrashDays(days) => {
                let trash_days = Some((*days).into());
                Wire::SetVolume(wire::SetVolume { min_spare, trash_days })
            }
            Self::Sync => Wire::Sync(wire::Done {}),
            Self::Close => Wire::Close(wire::Done {}),
        };
        wire::Op { op: Some(op) }
    }

    /// # Errors
    /// For what makes no sense, or is not known.
    pub(crate) fn from_wire(op: wire::Op) -> Result<Self, MetaError> {
        Ok(match op.op.ok_or(MetaError::NotSupported)? {
            Wire::Look(look) => Self::Look(Look::from_wire(look)?),
            Wire::Names(op) => Self::Names(NameOp::from_wire(op)?),
            Wire::Attrs(op) => Self::Attrs(AttrOp::from_wire(op)?),
            Wire::Content(op) => Self::Content(ContentOp::from_wire(op)?),
            Wire::Trash(op) => Self::Trash(TrashOp::from_wire(op)?),
            Wire::Accounts(op) => Self::Accounts(AccountOp::from_wire(op)?),
            Wire::SetVolume(wire::SetVolume { min_spare: Some(spare), trash_days: None }) => {
                Self::SetMinSpare(small(spare)?)
            }
            Wire::SetVolume(wire::SetVolume { min_spare: None, trash_days: Some(days) }) => {
                Self::SetTrashDays(small(days)?)
            }
            Wire::Sync(wire::Done {}) => Self::Sync,
            Wire::Close(wire::Done {}) => Self::Close,
            Wire::SetVolume(_) => return Err(MetaError::NotSupported),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use proto::limits::{MAX_ENTRIES, MAX_LOOKS};

    use super::*;
    use crate::store::Ino;
    use crate::wire::samples;

    proptest! {
        #[test]
        fn ops_arrive_as_they_were_sent(op in samples::op()) {
            prop_assert_eq!(Op::from_wire(op.to_wire()), Ok(op));
        }
    }

    #[test]
    fn what_changes_something_is_not_the_same_again() {
        let ino = Ino(7);
        let name = || Bytes::from_static(b"name");
        for op in [Op::Look(Look::Getattr(ino)), Op::Sync, Op::Names(NameOp::Reap(vec![ino]))] {
            assert!(op.is_same_again(), "{op:?}");
        }
        for op in [
            Op::Names(NameOp::Unlink(ino, name())),
            Op::Attrs(AttrOp::Removexattr(ino, name())),
            Op::Content(ContentOp::Truncate { ino, size: 0 }),
            Op::Trash(TrashOp::Delete(ino)),
            Op::Close,
        ] {
            assert!(!op.is_same_again(), "{op:?}");
        }
    }

    #[test]
    fn what_this_version_does_not_know_is_not_supported() {
        let empty = wire::Op { op: None };
        let empty_look = wire::Op { op: Some(Wire::Look(wire::Look { look: None })) };
        let both = wire::SetVolume { min_spare: Some(1), trash_days: Some(1) };
        let both = wire::Op { op: Some(Wire::SetVolume(both)) };
        for op in [empty, empty_look, both] {
            assert_eq!(Op::from_wire(op), Err(MetaError::NotSupported));
        }
    }

    #[test]
    fn nobody_asks_for_more_than_can_be_answered() {
        let at = |names| {
            let names = vec![Bytes::from_static(b"name"); names];
            Op::Look(Look::At { parent: Ino(1), names, attribute: Bytes::new() })
        };
        let above = |dirs| Op::Trash(TrashOp::Above(vec![Ino(1); dirs]));
        for most in [at(MAX_LOOKS), above(MAX_ENTRIES)] {
            assert!(most.memory() < 7 << 20, "{} bytes", most.memory());
            assert_eq!(Op::from_wire(most.to_wire()), Ok(most));
        }
        for more in [at(MAX_LOOKS + 1), above(MAX_ENTRIES + 1)] {
            assert!(matches!(Op::from_wire(more.to_wire()), Err(MetaError::Invalid(_))));
        }
    }
}
