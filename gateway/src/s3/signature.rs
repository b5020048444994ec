//! Signatures of AWS, version 4: what was signed, and with what. Pure.
//!
//! A request is signed by a header, or by its address (presigned). The bytes that are signed are made anew of what came:
//! method, path, query, the headers that are said to be signed, and a hash of the body, or a word in its place. Each chunk
//! of a body that is sent in signed chunks is signed over the signature before it, and so are trailers.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, header};
use meta::Secret;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::{S3Error, S3Result, Wrong};
use super::query::Query;
use super::times;

/// The one algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far a client's clock may be off.
const SKEW: Duration = Duration::from_secs(15 * 60);
/// Longest time for which an address may be signed.
const LASTS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Headers that may be signed.
const SIGNED_MAX: usize = 100;

/// What is not written as it is in what is signed.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The same, in a path.
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// Says what the body's hash is.
pub(super) const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// What a request says of its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signed {
    /// Access key.
    pub(super) key: String,
    /// `DATE/REGION/SERVICE/aws4_request`.
    scope: String,
    /// When, as it was written.
    time: String,
    /// Headers, in lower case and in order.
    names: Vec<String>,
    signature: String,
    /// By its address.
    pub(super) presigned: bool,
}

/// Signs what comes behind the head of a request: chunks and trailers.
#[derive(Clone)]
pub(super) struct Chain {
    key: [u8; 32],
    time: String,
    scope: String,
    last: String,
}

fn malformed(why: &str) -> S3Error {
    S3Error::new(Wrong::AuthorizationHeaderMalformed, why)
}

fn denied(why: &str) -> S3Error {
    S3Error::new(Wrong::AccessDenied, why)
}

/// What of the head of a request says who signs it. `None`: nothing does.
///
/// # Errors
/// When it makes no sense, or is of another time than now (seconds since the epoch).
pub(super) fn find(headers: &HeaderMap, query: &Query, now: u64) -> S3Result<Option<Signed>> {
    let presigned = query.has("X-Amz-Signature") || query.has("X-Amz-Algorithm");
    match (headers.get(header::AUTHORIZATION), presigned) {
        (None, false) if query.has("Signature") => Err(other_version()),
        (None, false) => Ok(None),
        (Some(_), true) => {
            let why = "a header Authorization and a signed address: one says who signs";
            Err(S3Error::new(Wrong::InvalidArgument, why))
        }
        (None, true) => by_address(query, now).map(Some),
        (Some(value), false) => {
            let text = value.to_str().map_err(|_| malformed("Authorization is no text"))?;
            by_header(text, headers, now).map(Some)
        }
    }
}

fn other_version() -> S3Error {
    let why = "signatures of version 4 (AWS4-HMAC-SHA256) alone are known here";
    S3Error::new(Wrong::InvalidRequest, why)
}

fn by_header(text: &str, headers: &HeaderMap, now: u64) -> S3Result<Signed> {
    let Some(rest) = text.strip_prefix(ALGORITHM) else {
        return Err(if text.trim().is_empty() {
            denied("Authorization says nothing")
        } else {
            other_version()
        });
    };
    let (mut credential, mut names, mut signature) = (None, None, None);
    for word in rest.split(',').map(str::trim) {
        match word.split_once('=') {
            Some(("Credential", value)) => credential = Some(value),
            Some(("SignedHeaders", value)) => names = Some(value),
            Some(("Signature", value)) => signature = Some(value),
            _ => {
                return Err(malformed("Authorization has Credential, SignedHeaders and Signature"));
            }
        }
    }
    let (Some(credential), Some(names), Some(signature)) = (credential, names, signature) else {
        return Err(malformed("Authorization has Credential, SignedHeaders and Signature"));
    };
    let date = headers.get("x-amz-date").and_then(|value| value.to_str().ok());
    let time = match date {
        Some(text) => text.to_owned(),
        None => {
            let date = headers.get(header::DATE).and_then(|value| value.to_str().ok());
            let secs = date.and_then(times::of_http);
            basic(secs.ok_or_else(|| denied("there is no header X-Amz-Date"))?)
        }
    };
    let signed = Signed::of((credential, names, signature), time, false)?;
    signed.is_of(now, SKEW, SKEW)?;
    Ok(signed)
}

/// As `20261127T021008Z`.
fn basic(secs: u64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_secs(secs);
    humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':'], "")
}

fn by_address(query: &Query, now: u64) -> S3Result<Signed> {
    let get = |name: &str| {
        query.get(name).ok_or_else(|| denied("a signed address lacks X-Amz-Algorithm, -Credential, -Date, -Expires, -SignedHeaders or -Signature"))
    };
    if get("X-Amz-Algorithm")? != ALGORITHM {
        return Err(other_version());
    }
    let words = (get("X-Amz-Credential")?, get("X-Amz-SignedHeaders")?, get("X-Amz-Signature")?);
    let lasts = get("X-Amz-Expires")?.parse().ok().map(Duration::from_secs);
    let lasts = lasts.filter(|lasts| !lasts.is_zero() && *lasts <= LASTS);
    let lasts = lasts.ok_or_else(|| denied("X-Amz-Expires is from 1 to 604800 seconds"))?;
    let signed = Signed::of(words, get("X-Amz-Date")?.to_owned(), true)?;
    signed.is_of(now, lasts, SKEW).map_err(|why| match why.wrong {
        Wrong::RequestTimeTooSkewed => denied("this signed address has expired"),
        _ => why,
    })?;
    Ok(signed)
}

impl Signed {
    fn of(words: (&str, &str, &str), time: String, presigned: bool) -> S3Result<Self> {
        let (credential, names, signature) = words;
        let parts: Vec<&str> = credential.rsplitn(5, '/').collect();
        let [end, service, region, date, key] = parts[..] else {
            return Err(malformed("Credential is KEY/DATE/REGION/s3/aws4_request"));
        };
        if end != "aws4_request" || service != "s3" || !time.starts_with(date) || date.len() != 8 {
            return Err(malformed("Credential is KEY/DATE/REGION/s3/aws4_request, of that date"));
        }
        let names: Vec<String> = names.split(';').map(str::to_ascii_lowercase).collect();
        if names.len() > SIGNED_MAX || !names.iter().any(|name| name == "host") {
            return Err(malformed("SignedHeaders has host in it, and at most 100 names"));
        }
        let scope = format!("{date}/{region}/{service}/{end}");
        let (key, signature) = (key.to_owned(), signature.to_owned());
        Ok(Self { key, scope, time, names, signature, presigned })
    }

    /// Was it signed so long before now at most, and not so long behind it?
    fn is_of(&self, now: u64, before: Duration, behind: Duration) -> S3Result<()> {
        let then = times::of_basic(&self.time).ok_or_else(|| denied("X-Amz-Date is no time"))?;
        let (before, behind) = (before.as_secs(), behind.as_secs());
        match then.saturating_add(before) < now || then > now.saturating_add(behind) {
            true => {
                let why = "the clocks of client and server differ by more than 15 minutes";
                Err(S3Error::new(Wrong::RequestTimeTooSkewed, why))
            }
            false => Ok(()),
        }
    }

    /// Is this its signature? Answers what signs the rest. `payload`: the hash of the body, or a word for it.
    ///
    /// # Errors
    /// When it is not, or something came along that is not signed, and has to be.
    pub(super) fn check(&self, secret: &Secret, head: &Head<'_>, payload: &str) -> S3Result<Chain> {
        let unsigned = head.headers.keys().find(|name| {
            name.as_str().starts_with("x-amz-")
                && !self.names.iter().any(|known| known == name.as_str())
        });
        // Of a signed address, the hash of a body need not be known when it is signed.
        if let Some(name) = unsigned.filter(|name| !(self.presigned && *name == CONTENT_SHA256)) {
            return Err(denied(&format!("the header {name} is not signed, and has to be")));
        }
        let request = self.canonical(head, payload);
        let text = format!(
            "{ALGORITHM}\n{}\n{}\n{}",
            self.time,
            self.scope,
            hex(&Sha256::digest(&request))
        );
        let key = self.signing_key(secret);
        let signature = hex(&mac(&key, text.as_bytes()));
        match bool::from(signature.as_bytes().ct_eq(self.signature.as_bytes())) {
            true => {
                let (time, scope) = (self.time.clone(), self.scope.clone());
                Ok(Chain { key, time, scope, last: signature })
            }
            false => {
                let why = "the signature is not that of this request and key: look at the secret, and at the method and address that were signed";
                Err(S3Error::new(Wrong::SignatureDoesNotMatch, why))
            }
        }
    }

    fn signing_key(&self, secret: &Secret) -> [u8; 32] {
        let first = [&b"AWS4"[..], &secret.0].concat();
        self.scope
            .split('/')
            .fold(None, |key: Option<[u8; 32]>, word| {
                Some(match key {
                    None => mac(&first, word.as_bytes()),
                    Some(key) => mac(&key, word.as_bytes()),
                })
            })
            .unwrap_or_default()
    }

    /// What is signed of a request.
    fn canonical(&self, head: &Head<'_>, payload: &str) -> Vec<u8> {
        let mut all = Vec::new();
        let mut line = |text: &[u8]| {
            all.extend_from_slice(text);
            all.push(b'\n');
        };
        line(head.method.as_bytes());
        let path: Vec<u8> = percent_decode(head.path.as_bytes()).collect();
        line(percent_encode(&path, ENCODED_PATH).to_string().as_bytes());
        let encoded = |text: &[u8]| percent_encode(text, ENCODED).to_string();
        let signed = head.query.all().filter(|(name, _)| *name != "X-Amz-Signature");
        let mut pairs: Vec<(String, String)> =
            signed.map(|(name, value)| (encoded(name.as_bytes()), encoded(value))).collect();
        pairs.sort();
        let pairs: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        line(pairs.join("&").as_bytes());
        for name in &self.names {
            let mut text = format!("{name}:").into_bytes();
            for (at, value) in head.headers.get_all(name).iter().enumerate() {
                if at > 0 {
                    text.push(b',');
                }
                text.extend(trimmed(value.as_bytes()));
            }
            line(&text);
        }
        line(b"");
        line(self.names.join(";").as_bytes());
        all.extend_from_slice(payload.as_bytes());
        all
    }
}

/// The head of a request, as it came.
pub(super) struct Head<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a Query,
    pub(super) headers: &'a HeaderMap,
}

/// Without spaces around it, and with one for several.
fn trimmed(value: &[u8]) -> Vec<u8> {
    let mut words = value.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let mut text = words.next().unwrap_or_default().to_vec();
    for word in words {
        text.push(b' ');
        text.extend_from_slice(word);
    }
    text
}

impl Chain {
    /// Is this the signature of the next chunk, of this hash?
    pub(super) fn is_next(&mut self, hash: &[u8], signature: &[u8]) -> bool {
        let empty = hex(&Sha256::digest(b""));
        self.goes_on("AWS4-HMAC-SHA256-PAYLOAD", &format!("{empty}\n{}", hex(hash)), signature)
    }

    /// Is this the signature of these trailers, as they are signed?
    pub(super) fn is_end(&mut self, trailers: &[u8], signature: &[u8]) -> bool {
        let hash = hex(&Sha256::digest(trailers));
        self.goes_on("AWS4-HMAC-SHA256-TRAILER", &hash, signature)
    }

    fn goes_on(&mut self, what: &str, hashes: &str, signature: &[u8]) -> bool {
        let text = format!("{what}\n{}\n{}\n{}\n{hashes}", self.time, self.scope, self.last);
        self.last = hex(&mac(&self.key, text.as_bytes()));
        bool::from(self.last.as_bytes().ct_eq(signature))
    }
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// As hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

/// Bytes of hexadecimal digits.
pub(super) fn of_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of AWS's documentation ("Authenticating Requests: Using the Authorization Header", examples).
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const NOW: u64 = 1_369_353_600;
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn example(signature: &str) -> (HeaderMap, String) {
        let signed = "host;range;x-amz-content-sha256;x-amz-date";
        let shown = format!(
            "{ALGORITHM} Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders={signed},Signature={signature}"
        );
        let headers = headers(&[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
            ("authorization", &shown),
        ]);
        (headers, shown)
    }

    fn checked(headers: &HeaderMap, path: &str, query: &str, payload: &str) -> S3Result<Chain> {
        let query = Query::parse(query).unwrap();
        let signed = find(headers, &query, NOW)?.expect("it is signed");
        let head = Head { method: "GET", path, query: &query, headers };
        signed.check(&Secret(SECRET.into()), &head, payload)
    }

    #[test]
    fn the_examples_of_aws() {
        let right = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        let (mut good, _) = example(right);
        assert!(checked(&good, "/test.txt", "", EMPTY).is_ok());
        assert_eq!(
            checked(&good, "/test.txu", "", EMPTY).err().map(|e| e.wrong),
            Some(Wrong::SignatureDoesNotMatch)
        );
        good.insert("x-amz-meta-a", "b".parse().unwrap());
        assert_eq!(
            checked(&good, "/test.txt", "", EMPTY).err().map(|e| e.wrong),
            Some(Wrong::AccessDenied)
        );
        // "Authenticating Requests: Using Query Parameters".
        let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        let host = headers(&[("host", "examplebucket.s3.amazonaws.com")]);
        assert!(checked(&host, "/test.txt", query, "UNSIGNED-PAYLOAD").is_ok());
        let later = find(&host, &Query::parse(query).unwrap(), NOW + 86_401);
        assert_eq!(later.unwrap_err().wrong, Wrong::AccessDenied);
    }

    #[test]
    fn what_is_no_signature_of_now_is_refused() {
        let (good, shown) = example("0");
        let none = Query::default();
        let wrong = |headers: &HeaderMap, now| find(headers, &none, now).err().map(|e| e.wrong);
        assert_eq!(wrong(&good, NOW), None);
        assert_eq!(wrong(&good, NOW + 901), Some(Wrong::RequestTimeTooSkewed));
        assert_eq!(wrong(&good, NOW - 901), Some(Wrong::RequestTimeTooSkewed));
        for bad in [
            "AWS AKIA:xyz=",
            "Basic YTpi",
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host, Signature=0",
            &shown.replace("20130524/", "20130525/"),
            &shown.replace("host;", ""),
            &shown.replace("/s3/", "/iam/"),
        ] {
            let mut headers = good.clone();
            headers.insert("authorization", bad.parse().unwrap());
            assert!(find(&headers, &none, NOW).is_err(), "{bad}");
        }
        assert_eq!(find(&HeaderMap::new(), &none, NOW), Ok(None));
    }

    /// The seed and chunks of "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks".
    pub(in super::super) fn chain() -> Chain {
        let scope = "20130524/us-east-1/s3/aws4_request".to_owned();
        let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        let words = ("AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request", "host", seed);
        let signed = Signed::of(words, "20130524T000000Z".into(), false).unwrap();
        let key = signed.signing_key(&Secret(SECRET.into()));
        Chain { key, time: "20130524T000000Z".into(), scope, last: seed.into() }
    }

    #[test]
    fn the_chunks_of_aws() {
        let mut chain = chain();
        let chunks = [
            (65_536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
            (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
            (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
        ];
        for (len, signature) in chunks {
            assert!(chain.is_next(&Sha256::digest(vec![b'a'; len]), signature.as_bytes()), "{len}");
        }
        assert!(!chain.is_next(&Sha256::digest(b""), chunks[2].1.as_bytes()));
    }
}
