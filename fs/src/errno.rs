//! What a system call returns for every way an operation can fail: one exhaustive match, so that a
//! new variant does not compile until somebody has decided.

use meta::MetaError;
use nix::errno::Errno;

use crate::error::DataError;
use crate::error::FsError;

impl FsError {
    /// The errno of the caller.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Meta(e) => meta_errno(e),
            Self::Data(e) => data_errno(e),
            Self::NotSupported => Errno::EOPNOTSUPP,
            Self::NotPermitted => Errno::EPERM,
            Self::BufferTooSmall => Errno::ERANGE,
            Self::BeyondEnd => Errno::ENXIO,
            Self::IsDirectory => Errno::EISDIR,
            Self::Invalid(_) => Errno::EINVAL,
            Self::Stopped => Errno::ENOTCONN,
            Self::Panicked(_) => Errno::EIO,
        }
    }
}

fn meta_errno(error: &MetaError) -> Errno {
    match error {
        MetaError::NotFound => Errno::ENOENT,
        MetaError::Exists => Errno::EEXIST,
        MetaError::NotDirectory => Errno::ENOTDIR,
        MetaError::IsDirectory => Errno::EISDIR,
        MetaError::NotEmpty => Errno::ENOTEMPTY,
        MetaError::NotPermitted => Errno::EPERM,
        MetaError::AccessDenied => Errno::EACCES,
        MetaError::NameTooLong => Errno::ENAMETOOLONG,
        MetaError::Invalid(_) => Errno::EINVAL,
        MetaError::TooManyLinks => Errno::EMLINK,
        MetaError::NoAttribute => Errno::ENODATA,
        MetaError::AttributeTooLarge | MetaError::NoSpace => Errno::ENOSPC,
        MetaError::FileTooLarge => Errno::EFBIG,
        MetaError::NotSupported => Errno::EOPNOTSUPP,
        MetaError::Engine(_)
        | MetaError::Ended(_)
        | MetaError::Damaged(_)
        | MetaError::Elsewhere(_) => Errno::EIO,
    }
}

fn data_errno(error: &DataError) -> Errno {
    match error {
        DataError::NoSpace => Errno::ENOSPC,
        DataError::Meta(e) => meta_errno(e),
        // Data we promised to keep is out of reach or gone: never ENOENT, never zeros.
        DataError::Unavailable(_) | DataError::Lost(_) | DataError::Gone(_) => Errno::EIO,
    }
}
