//! Ops on the trash.

use bytes::Bytes;
use proto::rpc::metad as wire;
use proto::rpc::metad::trash_op::Op as Wire;
use proto::rpc::metad::{discard, places};

use super::values::{
    attr_from_wire, attr_to_wire, name_from_wire, name_to_wire, time_from_wire, time_to_wire,
};
use super::{bad, inos_from_wire, inos_to_wire, limit_from_wire, limit_to_wire, owned, there};
use crate::store::{Above, Ino, MetaError, Takes, Time, Trashed};

/// One of them: a method of [`crate::store::MetaStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TrashOp {
    Discard { parent: Ino, name: Bytes, takes: Takes, by: u32 },
    Trashed(Ino),
    Newest { before: Option<(Time, Ino)>, limit: usize },
    Oldest { until: Time, after: Option<(Time, Ino)>, limit: usize },
    Of { dir: Ino, after: Option<Ino>, limit: usize },
    Above(Vec<Ino>),
    Restore { ino: Ino, to: (Ino, Bytes), replaces: bool, by: u32 },
    GiveUp(Vec<Ino>),
    Delete(Ino),
}

impl TrashOp {
    /// Does it only look?
    pub(crate) fn looks(&self) -> bool {
        match self {
            Self::Trashed(_)
            | Self::Newest { .. }
            | Self::Oldest { .. }
            | Self::Of { .. }
            | Self::Above(_) => true,
            Self::Discard { .. } | Self::Restore { .. } | Self::GiveUp(_) | Self::Delete(_) => {
                false
            }
        }
    }

    pub(crate) fn to_wire(&self) -> wire::TrashOp {
        let op = match self {
            Self::Discard { parent, name, takes, by } => {
                let (takes, only) = takes_to_wire(*takes);
                let (parent, name, takes) = (parent.0, name.clone(), takes.into());
                Wire::Discard(wire::Discard { parent, name, takes, only, by: *by })
            }
            Self::Trashed(ino) => Wire::Trashed(ino.0),
            Self::Newest { before, limit } => {
                let (before, limit) = (before.map(place_to_wire), limit_to_wire(*limit));
                Wire::Newest(wire::NewestTrash { before, limit })
            }
            Self::Oldest { until, after, limit } => {
                let (until, after) = (Some(time_to_wire(*until)), after.map(place_to_wire));
                Wire::Oldest(wire::OldestTrash { until, after, limit: limit_to_wire(*limit) })
            }
            Self::Of { dir, after, limit } => {
                let (dir, after) = (dir.0, after.map(|ino| ino.0));
                Wire::Of(wire::TrashOf { dir, after, limit: limit_to_wire(*limit) })
            }
            Self::Above(dirs) => Wire::Above(wire::Inodes { inos: inos_to_wire(dirs) }),
            Self::Restore { ino, to, replaces, by } => Wire::Restore(wire::Restore {
                ino: ino.0,
                to: Some(name_to_wire(to.0, &to.1)),
                replaces: *replaces,
                by: *by,
            }),
            Self::GiveUp(inos) => Wire::GiveUp(wire::Inodes { inos: inos_to_wire(inos) }),
            Self::Delete(ino) => Wire::Delete(ino.0),
        };
        wire::TrashOp { op: Some(op) }
    }

    /// # Errors
    /// For what makes no sense, or is not known.
    pub(crate) fn from_wire(op: wire::TrashOp) -> Result<Self, MetaError> {
        Ok(match op.op.ok_or(MetaError::NotSupported)? {
            Wire::Discard(wire::Discard { parent, name, takes, only, by }) => Self::Discard {
                parent: Ino(parent),
                name,
                takes: takes_from_wire(takes, only)?,
                by,
            },
            Wire::Trashed(ino) => Self::Trashed(Ino(ino)),
            Wire::Newest(wire::NewestTrash { before, limit }) => {
                let before = before.map(place_from_wire).transpose()?;
                Self::Newest { before, limit: limit_from_wire(limit)? }
            }
            Wire::Oldest(wire::OldestTrash { until, after, limit }) => {
                let until = time_from_wire(there(until)?)?;
                let after = after.map(place_from_wire).transpose()?;
                Self::Oldest { until, after, limit: limit_from_wire(limit)? }
            }
            Wire::Of(wire::TrashOf { dir, after, limit }) => {
                Self::Of { dir: Ino(dir), after: after.map(Ino), limit: limit_from_wire(limit)? }
            }
            Wire::Above(wire::Inodes { inos }) => Self::Above(inos_from_wire(inos)?),
            Wire::Restore(wire::Restore { ino, to, replaces, by }) => {
                Self::Restore { ino: Ino(ino), to: name_from_wire(to)?, replaces, by }
            }
            Wire::GiveUp(wire::Inodes { inos }) => Self::GiveUp(inos_from_wire(inos)?),
            Wire::Delete(ino) => Self::Delete(Ino(ino)),
        })
    }
}

fn takes_to_wire(takes: Takes) -> (discard::Takes, u64) {
    match takes {
        Takes::NoDirectory => (discard::Takes::NoDirectory, 0),
        Takes::EmptyDirectory => (discard::Takes::EmptyDirectory, 0),
        Takes::Only(ino) => (discard::Takes::Only, ino.0),
    }
}

fn takes_from_wire(takes: i32, only: u64) -> Result<Takes, MetaError> {
    let takes = discard::Takes::try_from(takes).map_err(|_| bad("an unknown way to discard"))?;
    Ok(match takes {
        discard::Takes::NoDirectory => Takes::NoDirectory,
        discard::Takes::EmptyDirectory => Takes::EmptyDirectory,
        discard::Takes::Only => Takes::Only(Ino(only)),
    })
}

fn place_to_wire((when, ino): (Time, Ino)) -> wire::TrashPlace {
    wire::TrashPlace { when: Some(time_to_wire(when)), ino: ino.0 }
}

fn place_from_wire(place: wire::TrashPlace) -> Result<(Time, Ino), MetaError> {
    Ok((time_from_wire(there(place.when)?)?, Ino(place.ino)))
}

pub(crate) fn trashed_to_wire(trashed: Trashed) -> wire::Trashed {
    let Trashed { attr, dir, name, when, by } = trashed;
    let (attr, when) = (Some(attr_to_wire(&attr)), Some(time_to_wire(when)));
    wire::Trashed { attr, dir: dir.0, name: name.into(), when, by }
}

pub(crate) fn trashed_from_wire(trashed: wire::Trashed) -> Result<Trashed, MetaError> {
    let wire::Trashed { attr, dir, name, when, by } = trashed;
    let (attr, when) = (attr_from_wire(there(attr)?)?, time_from_wire(there(when)?)?);
    Ok(Trashed { attr, dir: Ino(dir), name: owned(name), when, by })
}

pub(crate) fn above_to_wire((ino, above): (Ino, Above)) -> places::Place {
    let Above { dir, name, in_trash } = above;
    places::Place { ino: ino.0, dir: dir.0, name: name.into(), in_trash }
}

pub(crate) fn above_from_wire(place: places::Place) -> (Ino, Above) {
    let places::Place { ino, dir, name, in_trash } = place;
    (Ino(ino), Above { dir: Ino(dir), name: owned(name), in_trash })
}
