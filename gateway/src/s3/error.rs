//! What a client of S3 is told that goes wrong: a code as AWS has it, or one of ours, and a sentence.

use axum::response::{IntoResponse, Response};
use fs::tree::{TreeError, Trouble};
use http::{HeaderValue, StatusCode, header};

use super::xml::Xml;
use crate::refusal::{Code, Refusal};

/// Seconds after which it is worth trying again what the disks could not do.
const AGAIN: &str = "5";

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $code:ident, $status:ident, $counted:ident;)*) => {
        /// What programs tell apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Wrong { $($(#[doc = $doc])* $code),* }

        impl Wrong {
            /// As it is written.
            pub(super) fn word(self) -> &'static str {
                match self { $(Self::$code => stringify!($code)),* }
            }

            /// The status of an answer.
            pub(super) fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status),* }
            }

            /// As what it is counted.
            fn counted(self) -> Code {
                match self { $(Self::$code => Code::$counted),* }
            }
        }
    };
}

// A macro, so that a code cannot be without its status.
codes! {
    AccessControlListNotSupported, BAD_REQUEST, BadRequest;
    AccessDenied, FORBIDDEN, Denied;
    AuthorizationHeaderMalformed, BAD_REQUEST, BadRequest;
    BadDigest, BAD_REQUEST, BadRequest;
    BucketNotEmpty, CONFLICT, Conflict;
    EntityTooLarge, BAD_REQUEST, TooLarge;
    EntityTooSmall, BAD_REQUEST, BadRequest;
    IncompleteBody, BAD_REQUEST, BadRequest;
    InsufficientStorage, INSUFFICIENT_STORAGE, NoSpace;
    InternalError, INTERNAL_SERVER_ERROR, Broken;
    InvalidAccessKeyId, FORBIDDEN, NotLoggedIn;
    InvalidArgument, BAD_REQUEST, BadRequest;
    InvalidBucketName, BAD_REQUEST, BadRequest;
    InvalidDigest, BAD_REQUEST, BadRequest;
    /// A key that no file can have (ours).
    InvalidKey, BAD_REQUEST, BadRequest;
    InvalidPart, BAD_REQUEST, BadRequest;
    InvalidPartNumber, RANGE_NOT_SATISFIABLE, BadRequest;
    InvalidPartOrder, BAD_REQUEST, BadRequest;
    InvalidRange, RANGE_NOT_SATISFIABLE, BadRequest;
    InvalidRequest, BAD_REQUEST, BadRequest;
    InvalidStorageClass, BAD_REQUEST, BadRequest;
    InvalidTag, BAD_REQUEST, BadRequest;
    InvalidURI, BAD_REQUEST, BadRequest;
    /// A file where a folder would have to be, or the other way round (ours).
    KeyConflict, CONFLICT, Conflict;
    KeyTooLongError, BAD_REQUEST, BadRequest;
    MalformedXML, BAD_REQUEST, BadRequest;
    MetadataTooLarge, BAD_REQUEST, BadRequest;
    MethodNotAllowed, METHOD_NOT_ALLOWED, WrongMethod;
    MissingContentLength, LENGTH_REQUIRED, BadRequest;
    NoSuchBucket, NOT_FOUND, NoSuchFile;
    NoSuchBucketPolicy, NOT_FOUND, NoSuchFile;
    NoSuchCORSConfiguration, NOT_FOUND, NoSuchFile;
    NoSuchKey, NOT_FOUND, NoSuchFile;
    NoSuchLifecycleConfiguration, NOT_FOUND, NoSuchFile;
    NoSuchObjectLockConfiguration, NOT_FOUND, NoSuchFile;
    NoSuchPublicAccessBlockConfiguration, NOT_FOUND, NoSuchFile;
    NoSuchTagSet, NOT_FOUND, NoSuchFile;
    NoSuchUpload, NOT_FOUND, NoSuchFile;
    NoSuchVersion, NOT_FOUND, NoSuchFile;
    NoSuchWebsiteConfiguration, NOT_FOUND, NoSuchFile;
    NotImplemented, NOT_IMPLEMENTED, Unsupported;
    ObjectLockConfigurationNotFoundError, NOT_FOUND, NoSuchFile;
    OperationAborted, CONFLICT, Conflict;
    PreconditionFailed, PRECONDITION_FAILED, Precondition;
    ReplicationConfigurationNotFoundError, NOT_FOUND, NoSuchFile;
    RequestTimeout, BAD_REQUEST, TooSlow;
    RequestTimeTooSkewed, FORBIDDEN, NotLoggedIn;
    ServerSideEncryptionConfigurationNotFoundError, NOT_FOUND, NoSuchFile;
    ServiceUnavailable, SERVICE_UNAVAILABLE, TooFewDisks;
    SignatureDoesNotMatch, FORBIDDEN, NotLoggedIn;
    SlowDown, SERVICE_UNAVAILABLE, TooManyTries;
    XAmzContentSHA256Mismatch, BAD_REQUEST, BadRequest;
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct S3Error {
    pub(super) wrong: Wrong,
    pub(super) message: String,
    /// Bytes of the object, where others were asked for.
    pub(super) size: Option<u64>,
}

/// What a request is answered.
pub(super) type S3Result<T> = Result<T, S3Error>;

impl S3Error {
    /// With these words.
    pub(super) fn new(wrong: Wrong, message: impl Into<String>) -> Self {
        Self { wrong, message: message.into(), size: None }
    }

    /// There is no such feature.
    pub(super) fn not_there(what: &str) -> Self {
        Self::new(Wrong::NotImplemented, format!("{what} is not offered here"))
    }

    /// By the tree, where what is not there is this.
    pub(super) fn of(error: &TreeError, missing: Wrong) -> Self {
        if error.trouble() == Trouble::NotFound {
            return Self::new(missing, error.to_string());
        }
        Refusal::of(error, Code::NoSuchFile).into()
    }

    /// The answer, to a request of this id for this address.
    pub(super) fn answer(&self, resource: &str, id: &str) -> Response {
        let mut xml = Xml::plain("Error");
        xml.text("Code", self.wrong.word()).text("Message", &self.message);
        xml.text("Resource", resource).text("RequestId", id).text("HostId", "ashlar");
        let mut response = (self.wrong.status(), xml.end("Error")).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        let size = self.size.map(|size| HeaderValue::try_from(format!("bytes */{size}")));
        if let Some(Ok(size)) = size {
            headers.insert(header::CONTENT_RANGE, size);
        }
        if self.wrong.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(AGAIN));
        }
        // For whoever counts answers.
        response.extensions_mut().insert(self.wrong.counted());
        response
    }
}

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> Self {
        let wrong = match refusal.code {
            Code::NoSuchKey
            | Code::NoSuchDatabase
            | Code::NoSuchRef
            | Code::NoSuchUpload
            | Code::NoSuchFile
            | Code::NoSuchPage => Wrong::NoSuchKey,
            Code::TooFewDisks | Code::Busy | Code::NotConnected => Wrong::ServiceUnavailable,
            Code::BadRequest | Code::Unsupported | Code::OtherServer => Wrong::InvalidRequest,
            Code::WrongMethod => Wrong::MethodNotAllowed,
            Code::TooLarge => Wrong::EntityTooLarge,
            Code::TooSlow => Wrong::RequestTimeout,
            Code::NotLoggedIn | Code::Denied | Code::OtherSite => Wrong::AccessDenied,
            Code::TooManyTries => Wrong::SlowDown,
            Code::Locked | Code::Conflict => Wrong::KeyConflict,
            Code::Precondition => Wrong::PreconditionFailed,
            Code::NoSpace => Wrong::InsufficientStorage,
            Code::Broken => Wrong::InternalError,
        };
        Self::new(wrong, refusal.message)
    }
}
