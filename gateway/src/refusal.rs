//! What a client is told that goes wrong: a word that programs tell apart, and a sentence for people.

use axum::response::{IntoResponse, Response};
use fs::tree::{TreeError, Trouble};
use http::{HeaderValue, StatusCode, header};
use meta::Kind;
use serde_json::json;

use crate::faults;

/// Seconds after which it is worth trying again what the disks could not do.
const AGAIN: &str = "5";
/// How one logs in, for browsers.
const WAY_IN: &str = "Basic realm=\"ashlar\", charset=\"UTF-8\"";

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $code:ident = $word:literal, $status:ident;)*) => {
        /// What programs tell apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code { $($(#[doc = $doc])* $code),* }

        impl Code {
            /// As it is written.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$code => $word),* }
            }

            /// The status of an answer by HTTP.
            pub(crate) fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status),* }
            }
        }
    };
}

// A macro, so that a code cannot be without its word and its status.
codes! {
    /// The database has no such key.
    NoSuchKey = "no_such_key", NOT_FOUND;
    /// Nothing was ever put into this database.
    NoSuchDatabase = "no_such_database", NOT_FOUND;
    /// There is no such ref.
    NoSuchRef = "no_such_ref", NOT_FOUND;
    /// There is no such upload, or none of whoever asks.
    NoSuchUpload = "no_such_upload", NOT_FOUND;
    /// There is no such file or folder.
    NoSuchFile = "no_such_file", NOT_FOUND;
    /// The address leads nowhere.
    NoSuchPage = "no_such_page", NOT_FOUND;
    /// Too few disks are there to do it now.
    TooFewDisks = "too_few_disks", SERVICE_UNAVAILABLE;
    /// Too much of it is under way.
    Busy = "busy", SERVICE_UNAVAILABLE;
    /// The volume is not served here any more.
    NotConnected = "not_connected", SERVICE_UNAVAILABLE;
    /// It makes no sense.
    BadRequest = "bad_request", BAD_REQUEST;
    /// There is no such thing to be done there.
    WrongMethod = "wrong_method", METHOD_NOT_ALLOWED;
    /// It is more than may be.
    TooLarge = "too_large", PAYLOAD_TOO_LARGE;
    /// The body did not come.
    TooSlow = "too_slow", REQUEST_TIMEOUT;
    /// Whoever asks has not said who he is, or that is not valid.
    NotLoggedIn = "not_logged_in", UNAUTHORIZED;
    /// There were too many failed attempts.
    TooManyTries = "too_many_tries", TOO_MANY_REQUESTS;
    /// Whoever asks may not.
    Denied = "denied", FORBIDDEN;
    /// The request is meant for another server, or comes from another site's page.
    OtherSite = "other_site", FORBIDDEN;
    /// The other address is on another server.
    OtherServer = "other_server", BAD_GATEWAY;
    /// A body where none belongs.
    Unsupported = "unsupported", UNSUPPORTED_MEDIA_TYPE;
    /// A client of WebDAV has locked it.
    Locked = "locked", LOCKED;
    /// Something else has the name.
    Conflict = "conflict", CONFLICT;
    /// A condition of the request does not hold.
    Precondition = "precondition_failed", PRECONDITION_FAILED;
    /// The disks are full.
    NoSpace = "no_space", INSUFFICIENT_STORAGE;
    /// What was stored is damaged, or a fault of this program.
    Broken = "broken", INTERNAL_SERVER_ERROR;
}

/// What something is, for programs.
pub(crate) fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "folder",
        Kind::Symlink => "link",
        _ => "other",
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Seconds after which it is worth trying again, where that is known.
    pub(crate) wait: Option<u64>,
    /// Bytes of an upload that have come, where the client believes otherwise.
    pub(crate) offset: Option<u64>,
    /// What has the name already that was to be given, and could be replaced.
    pub(crate) there: Option<&'static str>,
}

impl Refusal {
    /// With these words.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), wait: None, offset: None, there: None }
    }

    /// What is there has the name that was to be given.
    pub(crate) fn taken(there: Kind, message: impl Into<String>) -> Self {
        Self { there: Some(word(there)), ..Self::new(Code::Conflict, message) }
    }

    /// By the tree, where what is not there is this.
    pub(crate) fn of(error: &TreeError, missing: Code) -> Self {
        let code = match error.trouble() {
            Trouble::NotFound => missing,
            Trouble::Exists | Trouble::WrongKind => Code::Conflict,
            Trouble::Denied => Code::Denied,
            Trouble::BadRequest => Code::BadRequest,
            Trouble::NoSpace => Code::NoSpace,
            Trouble::TooFewDisks => Code::TooFewDisks,
            Trouble::NotConnected => Code::NotConnected,
            Trouble::Broken => Code::Broken,
        };
        if matches!(code, Code::TooFewDisks | Code::Broken) {
            tracing::error!(code = code.word(), "a door: {error}");
            faults::note(&error.to_string());
        }
        Self::new(code, error.to_string())
    }

    /// As JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut said = json!({ "error": self.code.word(), "message": self.message });
        if let Some(offset) = self.offset {
            said["offset"] = offset.into();
        }
        if let Some(there) = self.there {
            said["there"] = there.into();
        }
        said
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), format!("{}\n", self.json())).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        if self.code.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(AGAIN));
        }
        if let Some(wait) = self.wait {
            headers.insert(header::RETRY_AFTER, wait.into());
        }
        if self.code == Code::NotLoggedIn {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(WAY_IN));
        }
        // For whoever counts answers.
        response.extensions_mut().insert(self.code);
        response
    }
}
