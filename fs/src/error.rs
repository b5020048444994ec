//! Why a system call did not do what was asked: the errors of the data plane, and those of the filesystem above it.
//! What the caller is told is in `errno.rs`.

use meta::MetaError;
use proto::guard::Panicked;
use proto::id::BlobId;
use proxy::BlobError;

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// Metadata refused.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The data plane refused.
    #[error(transparent)]
    Data(#[from] DataError),
    /// EOPNOTSUPP.
    #[error("not supported")]
    NotSupported,
    /// EPERM.
    #[error("operation not permitted")]
    NotPermitted,
    /// ERANGE: the value is longer than the caller's buffer.
    #[error("buffer too small")]
    BufferTooSmall,
    /// ENXIO: no data or hole after this offset.
    #[error("offset beyond the end")]
    BeyondEnd,
    /// EISDIR.
    #[error("is a directory")]
    IsDirectory,
    /// EINVAL.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// ENOTCONN: the mount is being taken down.
    #[error("the mount has ended")]
    Stopped,
    /// EIO: it was not done to its end.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// What an operation answers.
pub type FsResult<T> = Result<T, FsError>;

/// Why the data plane did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The store has no room.
    #[error("no space left")]
    NoSpace,
    /// The store cannot say or do it now.
    #[error("{0}")]
    Unavailable(String),
    /// Metadata names a blob that the store proves not to have: bytes are lost.
    #[error("blob {0} is lost")]
    Lost(BlobId),
    /// Bytes that were written, and not stored, are lost. Trying again is in vain.
    #[error("{0}")]
    Gone(String),
    /// Metadata refused.
    #[error("{0}")]
    Meta(MetaError),
}

impl From<MetaError> for DataError {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::NoSpace => Self::NoSpace,
            error => Self::Meta(error),
        }
    }
}

impl From<BlobError> for DataError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Full => Self::NoSpace,
            BlobError::NotFound(id) => Self::Lost(id),
            BlobError::Unavailable { .. }
            | BlobError::TooFewSlots { .. }
            | BlobError::Fenced { .. }
            | BlobError::Conflict(_)
            | BlobError::Invalid(_) => Self::Unavailable(error.to_string()),
        }
    }
}
