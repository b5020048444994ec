//! What went wrong, as far as whoever comes by a door does something else about it: one exhaustive match, so that a new
//! variant does not compile until somebody has decided.

use meta::MetaError;

use super::TreeError;
use crate::error::{DataError, FsError};

/// Kinds of trouble that people and programs tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There is no such thing.
    NotFound,
    /// Something has the name.
    Exists,
    /// A directory where a file is meant, or the other way round, or something in a directory.
    WrongKind,
    /// It may not be done by whoever asks.
    Denied,
    /// What was asked for makes no sense, or is more than may be.
    BadRequest,
    /// The disks are full.
    NoSpace,
    /// Too few disks are there, now.
    TooFewDisks,
    /// The volume is not served here any more.
    NotConnected,
    /// What was stored is damaged, or a fault of this program.
    Broken,
}

impl TreeError {
    /// What kind of trouble it is.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Fs(e) => of_filesystem(e),
            Self::Path(_) | Self::TooManyLinks | Self::Special => Trouble::BadRequest,
            Self::LeadsOut | Self::ReadOnly | Self::NotWhole | Self::FolderOfOthers => {
                Trouble::Denied
            }
        }
    }

    /// Is it that there is no such thing?
    pub fn is_not_found(&self) -> bool {
        is(self, &MetaError::NotFound)
    }

    /// Is it that something has the name?
    pub fn is_there_already(&self) -> bool {
        is(self, &MetaError::Exists)
    }
}

/// Is it this word of the metadata?
pub(super) fn is(error: &TreeError, word: &MetaError) -> bool {
    match error {
        TreeError::Fs(FsError::Meta(e) | FsError::Data(DataError::Meta(e))) => e == word,
        _ => false,
    }
}

fn of_filesystem(error: &FsError) -> Trouble {
    match error {
        FsError::Meta(e) => of_metadata(e),
        FsError::Data(e) => of_data(e),
        FsError::NotPermitted => Trouble::Denied,
        FsError::IsDirectory => Trouble::WrongKind,
        FsError::Stopped => Trouble::NotConnected,
        FsError::NotSupported
        | FsError::BufferTooSmall
        | FsError::BeyondEnd
        | FsError::Invalid(_) => Trouble::BadRequest,
        FsError::Panicked(_) => Trouble::Broken,
    }
}

fn of_data(error: &DataError) -> Trouble {
    match error {
        DataError::NoSpace => Trouble::NoSpace,
        DataError::Unavailable(_) => Trouble::TooFewDisks,
        DataError::Lost(_) | DataError::Gone(_) => Trouble::Broken,
        DataError::Meta(e) => of_metadata(e),
    }
}

fn of_metadata(error: &MetaError) -> Trouble {
    match error {
        MetaError::NotFound | MetaError::NoAttribute => Trouble::NotFound,
        MetaError::Exists => Trouble::Exists,
        MetaError::NotDirectory | MetaError::IsDirectory | MetaError::NotEmpty => {
            Trouble::WrongKind
        }
        MetaError::NotPermitted | MetaError::AccessDenied => Trouble::Denied,
        MetaError::NameTooLong
        | MetaError::Invalid(_)
        | MetaError::TooManyLinks
        | MetaError::AttributeTooLarge
        | MetaError::FileTooLarge
        | MetaError::NotSupported => Trouble::BadRequest,
        MetaError::NoSpace => Trouble::NoSpace,
        // It could not be written, or fetched.
        MetaError::Engine(_) => Trouble::TooFewDisks,
        MetaError::Ended(_) => Trouble::NotConnected,
        MetaError::Damaged(_) | MetaError::Elsewhere(_) => Trouble::Broken,
    }
}
