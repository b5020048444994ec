//! Who has signed a request, and what its body is said to be.

use fs::tree::View;
use http::request::Parts;

use super::door::Door;
use super::error::{S3Error, S3Result, Wrong};
use super::query::Query;
use super::signature::{self, CONTENT_SHA256, Chain, Head};
use crate::refusal::{Code, Refusal};
use crate::server::Peer;

/// What clients are told who do not say whose they are.
const LOG_IN: &str = "sign the request with an access key: `ashlar key add` makes one";

/// What is said of a body's bytes before they come.
pub(super) enum Payload {
    /// Nothing.
    Unsaid,
    /// SHA-256 of all.
    Hash([u8; 32]),
    /// They come in chunks.
    Chunks,
}

/// Who was let in, and how.
pub(super) struct LetIn {
    pub(super) view: View,
    /// Whose name it is.
    pub(super) user: String,
    pub(super) payload: Payload,
    /// Signs what follows, where that is signed.
    pub(super) chain: Option<Chain>,
    /// By a signed address.
    pub(super) presigned: bool,
}

/// Lets in who has signed a request, or, where nobody has to, who has not. `named`: does that name this machine, where it has to?
///
/// # Errors
/// When he is not let in.
pub(super) async fn let_in(
    door: &Door,
    head: &Parts,
    query: &Query,
    (peer, named): (Peer, Result<(), Refusal>),
) -> S3Result<LetIn> {
    let headers = &head.headers;
    let now = u64::try_from(meta::wall_clock().secs).unwrap_or(0);
    let word = headers.get(CONTENT_SHA256).map(|value| value.to_str().unwrap_or_default());
    let Some(signed) = signature::find(headers, query, now)? else {
        named?;
        let view = door.who.let_in(None, peer, LOG_IN).await?.view;
        let payload = payload(word.unwrap_or("UNSIGNED-PAYLOAD"))?.0;
        return Ok(LetIn { view, user: "ashlar".into(), payload, chain: None, presigned: false });
    };
    let (secret, user, view) = door.who.signed_by(&signed.key).await.map_err(|refusal| {
        let unknown = refusal.code == Code::NotLoggedIn;
        let why = format!("there is no access key {} (any more)", signed.key);
        if unknown { S3Error::new(Wrong::InvalidAccessKeyId, why) } else { refusal.into() }
    })?;
    let word = match (word, signed.presigned) {
        (Some(word), _) => word,
        (None, true) => "UNSIGNED-PAYLOAD",
        (None, false) => {
            let why = "the header x-amz-content-sha256 is missing";
            return Err(S3Error::new(Wrong::InvalidRequest, why));
        }
    };
    let (payload, is_signed) = payload(word)?;
    let (method, path) = (head.method.as_str(), head.uri.path());
    let chain = signed.check(&secret, &Head { method, path, query, headers }, word)?;
    let chain = is_signed.then_some(chain);
    Ok(LetIn { view, user, payload, chain, presigned: signed.presigned })
}

/// What `x-amz-content-sha256` says: and are chunks signed?
fn payload(word: &str) -> S3Result<(Payload, bool)> {
    match word {
        "UNSIGNED-PAYLOAD" => Ok((Payload::Unsaid, false)),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok((Payload::Chunks, false)),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" | "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => {
            Ok((Payload::Chunks, true))
        }
        hash => {
            let why = "x-amz-content-sha256 is neither a SHA-256 in hexadecimal digits nor a word that is known here";
            let hash = signature::of_hex(hash);
            let hash = hash.ok_or_else(|| S3Error::new(Wrong::InvalidArgument, why))?;
            Ok((Payload::Hash(hash), false))
        }
    }
}
