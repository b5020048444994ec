//! Bodies, on their way in: taken out of their chunks, and compared with all that is said of them. Nothing of one may be
//! believed before [`Incoming::end`].

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fs::tree::Upload;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use md5::Md5;
use sha2::{Digest, Sha256};

use super::checksums::{self, Algorithm, Sum};
use super::chunks::Chunks;
use super::error::{S3Error, S3Result, Wrong};
use super::login::Payload;
use super::signature::Chain;
use crate::metrics;
use crate::transfer::STALLED;

/// Most of one that is stored, in bytes: 5 TiB are the most that any client sends.
pub(super) const CONTENT: u64 = 5 << 40;

/// A body that is being received.
pub(super) struct Incoming {
    body: Body,
    chunks: Option<Chunks>,
    came: Bytes,
    received: u64,
    /// Bytes that are said to come.
    len: Option<u64>,
    md5: (Md5, Option<[u8; 16]>),
    sha256: Option<(Sha256, [u8; 32])>,
    sum: Option<(Algorithm, Sum)>,
    /// What the checksum has to be, if a header said it.
    said: Option<String>,
    /// It is said behind the body.
    in_trailer: bool,
}

/// What came of one.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) md5: [u8; 16],
    pub(super) checksum: Option<(Algorithm, String)>,
}

impl Incoming {
    /// As the head of its request says, without its bytes so far.
    ///
    /// # Errors
    /// When that makes no sense.
    pub(super) fn of(
        headers: &HeaderMap,
        payload: &Payload,
        chain: Option<Chain>,
    ) -> S3Result<Self> {
        let number = |name: &str| {
            let value = headers.get(name)?;
            let number = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
            let why = || S3Error::new(Wrong::InvalidArgument, format!("{name} is no length"));
            Some(number.ok_or_else(why))
        };
        let (chunks, len) = match payload {
            Payload::Chunks => {
                (Some(Chunks::new(chain)), number("x-amz-decoded-content-length").transpose()?)
            }
            _ => (None, number("content-length").transpose()?),
        };
        let is_sent = len.is_some() || headers.contains_key(header::TRANSFER_ENCODING);
        if !is_sent || payload_is_chunks(payload) && len.is_none() {
            let why = "the length of the body is not said";
            return Err(S3Error::new(Wrong::MissingContentLength, why));
        }
        let said = checksums::said(headers)?;
        let trailer = headers.get("x-amz-trailer").and_then(|value| value.to_str().ok());
        let unknown = |name: &str| {
            let why = format!("no trailer {name} is known here");
            S3Error::new(Wrong::InvalidRequest, why)
        };
        let trailer =
            trailer.map(|name| Algorithm::of_header(name.trim()).ok_or_else(|| unknown(name)));
        let trailer = trailer.transpose()?;
        let wanted = headers.get("x-amz-sdk-checksum-algorithm").and_then(|v| v.to_str().ok());
        let wanted = wanted.map(Algorithm::of_word).transpose()?;
        let algorithm = said.as_ref().map(|(algorithm, _)| *algorithm).or(trailer).or(wanted);
        let in_trailer = said.is_none() && trailer.is_some();
        let sha256 = match payload {
            Payload::Hash(hash) => Some((Sha256::new(), *hash)),
            _ => None,
        };
        Ok(Self {
            body: Body::empty(),
            chunks,
            came: Bytes::new(),
            received: 0,
            len,
            md5: (Md5::new(), content_md5(headers)?),
            sha256,
            sum: algorithm.map(|algorithm| (algorithm, Sum::new(algorithm))),
            said: said.map(|(_, value)| value),
            in_trailer,
        })
    }

    /// With these.
    pub(super) fn of_body(self, body: Body) -> Self {
        Self { body, ..self }
    }

    /// Its next bytes. `None`: it has ended.
    ///
    /// # Errors
    /// When it breaks off, stalls, or is not as it was said to be.
    pub(super) async fn next(&mut self) -> S3Result<Option<Bytes>> {
        loop {
            let bytes = match &mut self.chunks {
                Some(chunks) => chunks.take(&mut self.came)?,
                None => Some(std::mem::take(&mut self.came)).filter(|bytes| !bytes.is_empty()),
            };
            if let Some(bytes) = bytes {
                self.received += bytes.len() as u64;
                if self.received > self.len.unwrap_or(CONTENT) {
                    return Err(S3Error::new(Wrong::EntityTooLarge, "more bytes than may come"));
                }
                self.md5.0.update(&bytes);
                if let Some((hash, _)) = &mut self.sha256 {
                    hash.update(&bytes);
                }
                if let Some((_, sum)) = &mut self.sum {
                    sum.update(&bytes);
                }
                return Ok(Some(bytes));
            }
            let frame = match tokio::time::timeout(STALLED, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(e))) => {
                    let why = format!("the body broke off: {e}");
                    return Err(S3Error::new(Wrong::IncompleteBody, why));
                }
                Err(_) => {
                    let why = format!("nothing more of the body came for {} s", STALLED.as_secs());
                    return Err(S3Error::new(Wrong::RequestTimeout, why));
                }
            };
            if let Ok(bytes) = frame.into_data() {
                metrics::received(bytes.len());
                self.came = bytes;
            }
        }
    }

    /// All of it is there.
    ///
    /// # Errors
    /// When it is not as it was said to be.
    pub(super) fn end(&mut self) -> S3Result<Received> {
        let wrong = |wrong, why: &str| Err(S3Error::new(wrong, why));
        let trailers = match &mut self.chunks {
            Some(chunks) => chunks.end()?,
            None => Vec::new(),
        };
        if self.len.is_some_and(|len| len != self.received) {
            return wrong(Wrong::IncompleteBody, "the body is shorter than it was said to be");
        }
        let md5: [u8; 16] = self.md5.0.finalize_reset().into();
        if self.md5.1.is_some_and(|said| said != md5) {
            return wrong(Wrong::BadDigest, "the content is not that of Content-MD5");
        }
        if let Some((hash, said)) = self.sha256.take()
            && hash.finalize()[..] != said
        {
            let why = "the content is not that of x-amz-content-sha256";
            return wrong(Wrong::XAmzContentSHA256Mismatch, why);
        }
        let checksum = self.sum.take().map(|(algorithm, sum)| (algorithm, sum.end()));
        if let Some((algorithm, value)) = &checksum {
            let name = algorithm.header();
            let behind = trailers.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
            if self.in_trailer && behind.is_none() {
                return wrong(Wrong::InvalidRequest, "the trailer with the checksum is missing");
            }
            if self.said.as_ref().or(behind).is_some_and(|said| said != value) {
                let why = format!("the content is not that of {name}");
                return wrong(Wrong::BadDigest, &why);
            }
        }
        Ok(Received { md5, checksum })
    }

    /// All of it into a file.
    ///
    /// # Errors
    /// As [`Incoming::next`] and [`Incoming::end`]; when it cannot be stored.
    pub(super) async fn store(&mut self, upload: &mut Upload) -> S3Result<Received> {
        while let Some(bytes) = self.next().await? {
            upload.write(bytes).await.map_err(|e| S3Error::of(&e, Wrong::NoSuchBucket))?;
        }
        self.end()
    }

    /// All of it, in memory.
    ///
    /// # Errors
    /// The same; when it has more than `limit` bytes, with `too_long`.
    pub(super) async fn whole(
        &mut self,
        limit: usize,
        too_long: Wrong,
    ) -> S3Result<(Vec<u8>, Received)> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > limit {
                let why = format!("a body of more than {limit} bytes");
                return Err(S3Error::new(too_long, why));
            }
            all.extend_from_slice(&bytes);
        }
        Ok((all, self.end()?))
    }

    /// What is left of it.
    pub(super) fn rest(self) -> Body {
        self.body
    }
}

fn payload_is_chunks(payload: &Payload) -> bool {
    matches!(payload, Payload::Chunks)
}

fn content_md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let Some(value) = headers.get("content-md5") else { return Ok(None) };
    let decoded = STANDARD.decode(value.as_bytes()).unwrap_or_default();
    let wrong = || S3Error::new(Wrong::InvalidDigest, "Content-MD5 is no MD5 in base64");
    <[u8; 16]>::try_from(decoded).map(Some).map_err(|_| wrong())
}
