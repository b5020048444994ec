//! Checksums of content: which there are, how they are written, and what they make of parts. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::{CrcAlgorithm, checksum_combine};
use http::HeaderMap;
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::error::{S3Error, S3Result, Wrong};

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

use Algorithm::{Crc32, Crc32c, Crc64Nvme};

const ALL: [Algorithm; 5] = [Crc32, Crc32c, Crc64Nvme, Algorithm::Sha1, Algorithm::Sha256];

/// Of which bytes a checksum is, where they came in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Kind {
    /// Of all.
    FullObject,
    /// Of the parts' checksums.
    Composite,
}

impl Kind {
    /// As it is written.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }
}

/// A checksum, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checksum {
    pub(super) algorithm: Algorithm,
    pub(super) value: String,
    pub(super) kind: Kind,
}

impl Algorithm {
    /// As it is written.
    pub(super) fn word(self) -> &'static str {
        match self {
            Crc32 => "CRC32",
            Crc32c => "CRC32C",
            Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header or trailer that has one.
    pub(super) fn header(self) -> String {
        format!("x-amz-checksum-{}", self.word().to_ascii_lowercase())
    }

    /// The element that has one.
    pub(super) fn element(self) -> String {
        format!("Checksum{}", self.word())
    }

    /// The one of this word.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn of_word(word: &str) -> S3Result<Self> {
        let found = ALL.into_iter().find(|one| one.word().eq_ignore_ascii_case(word));
        found.ok_or_else(|| {
            let why = format!(
                "{word} is no checksum: there are CRC32, CRC32C, CRC64NVME, SHA1 and SHA256"
            );
            S3Error::new(Wrong::InvalidRequest, why)
        })
    }

    /// The one of this element.
    pub(super) fn of_element(name: &str) -> Option<Self> {
        ALL.into_iter().find(|one| one.element() == name)
    }

    /// The one of this header or trailer.
    pub(super) fn of_header(name: &str) -> Option<Self> {
        ALL.into_iter().find(|one| one.header() == name)
    }

    /// Of which bytes it is of parts, unless somebody says so.
    pub(super) fn usual(self) -> Kind {
        match self {
            Crc64Nvme => Kind::FullObject,
            _ => Kind::Composite,
        }
    }

    fn crc(self) -> Option<(CrcAlgorithm, usize)> {
        match self {
            Crc32 => Some((CrcAlgorithm::Crc32IsoHdlc, 4)),
            Crc32c => Some((CrcAlgorithm::Crc32Iscsi, 4)),
            Crc64Nvme => Some((CrcAlgorithm::Crc64Nvme, 8)),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// Bytes of one.
    fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            _ => self.crc().map_or(0, |(_, len)| len),
        }
    }
}

/// Headers that say one.
pub(super) fn names() -> impl Iterator<Item = String> {
    ALL.into_iter().map(Algorithm::header)
}

/// The one checksum that headers say.
///
/// # Errors
/// When they say two, or what is none.
pub(super) fn said(headers: &HeaderMap) -> S3Result<Option<(Algorithm, String)>> {
    let mut found = None;
    for algorithm in ALL {
        let Some(value) = headers.get(algorithm.header()) else { continue };
        let value = value.to_str().unwrap_or_default().trim().to_owned();
        if found.replace((algorithm, value)).is_some() {
            let why = "there are two headers x-amz-checksum-: one is possible";
            return Err(S3Error::new(Wrong::InvalidRequest, why));
        }
    }
    if let Some((algorithm, value)) = &found {
        // That of parts together has their number behind it.
        is_one(*algorithm, value.split('-').next().unwrap_or_default())?;
    }
    Ok(found)
}

/// Refuses what is no such checksum.
pub(super) fn is_one(algorithm: Algorithm, value: &str) -> S3Result<()> {
    match STANDARD.decode(value).is_ok_and(|bytes| bytes.len() == algorithm.len()) {
        true => Ok(()),
        false => {
            let why = format!("the value of {} is no such checksum", algorithm.header());
            Err(S3Error::new(Wrong::BadDigest, why))
        }
    }
}

/// A checksum that is being computed.
pub(super) enum Sum {
    Crc(crc_fast::Digest, usize),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Sum {
    /// Of nothing so far.
    pub(super) fn new(algorithm: Algorithm) -> Self {
        match (algorithm, algorithm.crc()) {
            (_, Some((crc, len))) => Self::Crc(crc_fast::Digest::new(crc), len),
            (Algorithm::Sha1, _) => Self::Sha1(Sha1::new()),
            _ => Self::Sha256(Sha256::new()),
        }
    }

    /// Of these bytes, too.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(crc, _) => crc.update(bytes),
            Self::Sha1(sum) => sum.update(bytes),
            Self::Sha256(sum) => sum.update(bytes),
        }
    }

    /// As it is written.
    pub(super) fn end(self) -> String {
        match self {
            Self::Crc(crc, len) => STANDARD.encode(&crc.finalize().to_be_bytes()[8 - len..]),
            Self::Sha1(sum) => STANDARD.encode(sum.finalize()),
            Self::Sha256(sum) => STANDARD.encode(sum.finalize()),
        }
    }
}

/// The checksum of a whole, of those of its parts and their sizes. `None`: it cannot be made of them.
pub(super) fn whole(algorithm: Algorithm, kind: Kind, parts: &[(&str, u64)]) -> Option<String> {
    let decoded: Vec<(Vec<u8>, u64)> = parts
        .iter()
        .map(|(value, size)| Some((STANDARD.decode(value).ok()?, *size)))
        .collect::<Option<_>>()?;
    match (kind, algorithm.crc()) {
        (Kind::Composite, _) => {
            let mut sum = Sum::new(algorithm);
            decoded.iter().for_each(|(value, _)| sum.update(value));
            Some(format!("{}-{}", sum.end(), parts.len()))
        }
        (Kind::FullObject, Some((crc, len))) => {
            let number =
                |value: &[u8]| value.iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
            let mut sums = decoded.iter().map(|(value, size)| (number(value), *size));
            let first = sums.next()?.0;
            let sum = sums.fold(first, |sum, (next, size)| checksum_combine(crc, sum, next, size));
            Some(STANDARD.encode(&sum.to_be_bytes()[8 - len..]))
        }
        (Kind::FullObject, None) => None,
    }
}

/// The tag of a whole, of those of its parts.
pub(super) fn tag_of_parts(tags: &[[u8; 16]]) -> String {
    let mut md5 = Md5::new();
    tags.iter().for_each(|tag| md5.update(tag));
    format!("{}-{}", super::signature::hex(&md5.finalize()), tags.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(algorithm: Algorithm, bytes: &[u8]) -> String {
        let mut sum = Sum::new(algorithm);
        sum.update(bytes);
        sum.end()
    }

    #[test]
    fn known_checksums() {
        for (algorithm, expected) in [
            (Crc32, "y/Q5Jg=="),
            (Crc32c, "4waSgw=="),
            (Crc64Nvme, "rosUhgp5mIg="),
            (Algorithm::Sha1, "98O8HYCOBHMq32eZZczDTKeuNEE="),
            (Algorithm::Sha256, "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
        ] {
            assert_eq!(sum(algorithm, b"123456789"), expected, "{algorithm:?}");
            assert!(is_one(algorithm, expected).is_ok() && is_one(algorithm, "QQ==").is_err());
            assert_eq!(Algorithm::of_word(algorithm.word()), Ok(algorithm));
        }
    }

    #[test]
    fn what_is_said_of_parts_together_has_their_number_behind_it() {
        let said = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-amz-checksum-sha256", value.parse().unwrap());
            super::said(&headers).map(|said| said.map(|(_, value)| value))
        };
        let whole = "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=-3";
        assert_eq!(said(whole).ok(), Some(Some(whole.to_owned())));
        assert!(said("QQ==-3").is_err() && said("bad").is_err());
    }

    #[test]
    fn a_whole_of_its_parts() {
        let (a, b) = (vec![1u8; 100_000], vec![2u8; 77]);
        for algorithm in [Crc32, Crc32c, Crc64Nvme] {
            let (first, second) = (sum(algorithm, &a), sum(algorithm, &b));
            let parts = [(&*first, a.len() as u64), (&*second, b.len() as u64)];
            let expected = sum(algorithm, &[&a[..], &b].concat());
            assert_eq!(whole(algorithm, Kind::FullObject, &parts), Some(expected));
            assert!(whole(algorithm, Kind::Composite, &parts).unwrap().ends_with("-2"));
        }
        assert_eq!(whole(Algorithm::Sha1, Kind::FullObject, &[]), None);
    }
}
