//! What is known of an object beside its bytes, as extended attributes of its file. Pure.
//!
//! `user.s3.state`: its tag and checksums, with the size and the time of change that the file had then. Whoever changes
//! the file by the mount or another door changes these, so what was computed of other bytes is not believed. (That time is
//! taken from a finer clock than the filesystem's own, so that no change of the same moment has it.)
//! `user.s3.headers`: content headers and metadata of users. `user.s3.tags`. Of folders, `user.s3.folder`: why it is there.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use meta::{Attr, Time};
use serde::{Deserialize, Serialize};

use super::checksums::Checksum;
use super::error::{S3Error, S3Result, Wrong};
use crate::conditions;

/// Names of attributes.
pub(super) const STATE: &[u8] = b"user.s3.state";
pub(super) const HEADERS: &[u8] = b"user.s3.headers";
pub(super) const TAGS: &[u8] = b"user.s3.tags";
pub(super) const FOLDER: &[u8] = b"user.s3.folder";

/// Bytes of users' metadata, names and values, as AWS has it.
const METADATA: usize = 2048;
/// Bytes of content headers.
const CONTENT_HEADERS: usize = 16 << 10;
/// Headers of the content that are kept.
const KEPT: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];
/// Runs of parts of one size that are kept: an attribute has no room for many more.
const RUNS: usize = 2000;
/// What users' metadata begin with.
pub(super) const META: &str = "x-amz-meta-";

/// What was computed of a file's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// MD5 in hexadecimal digits, or of MD5s, and how many.
    pub(super) tag: String,
    size: u64,
    secs: i64,
    nanos: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) checksum: Option<Checksum>,
    /// Sizes of its parts: so large, so many. None, where they are too many to be kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<(u64, u32)>,
    /// The upload by parts that it came by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upload: Option<String>,
}

/// A file as it is seen by S3.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) tag: String,
    /// If it was not changed since.
    pub(super) state: Option<State>,
}

impl State {
    /// With this tag.
    pub(super) fn new(tag: String) -> Self {
        Self { tag, ..Self::default() }
    }

    /// As it is kept of a file that is so.
    pub(super) fn kept(&mut self, attr: &Attr) -> Vec<u8> {
        let Time { secs, nanos } = attr.mtime;
        (self.size, self.secs, self.nanos) = (attr.size, secs, nanos);
        serde_json::to_vec(self).expect("it is plain data")
    }

    /// Where a part begins and ends. `None`: there is none of this number (from one).
    pub(super) fn part(&self, number: u32) -> Option<(u64, u64)> {
        let (mut at, mut left) = (0u64, number.checked_sub(1)?);
        // Anybody may set attributes: sizes that make no sense are of no part.
        let behind =
            |at: u64, size: u64, count: u32| at.checked_add(size.checked_mul(count.into())?);
        for (size, count) in &self.parts {
            if left < *count {
                let start = behind(at, *size, left)?;
                return Some((start, start.checked_add(*size)?)).filter(|part| part.1 <= self.size);
            }
            (at, left) = (behind(at, *size, *count)?, left - count);
        }
        None
    }

    /// How many parts there were.
    pub(super) fn part_count(&self) -> u32 {
        match self.parts.is_empty() {
            // The tag of parts ends with their number.
            true => {
                self.tag.rsplit_once('-').and_then(|(_, count)| count.parse().ok()).unwrap_or(0)
            }
            false => self.parts.iter().fold(0, |all: u32, (_, count)| all.saturating_add(*count)),
        }
    }

    /// Remembers sizes of parts, if they are not too many.
    pub(super) fn of_parts(&mut self, sizes: impl Iterator<Item = u64>) {
        for size in sizes {
            match self.parts.last_mut() {
                Some((last, count)) if *last == size => *count += 1,
                _ => self.parts.push((size, 1)),
            }
        }
        if self.parts.len() > RUNS {
            self.parts.clear();
        }
    }
}

impl Seen {
    /// A file that is so, with this attribute.
    pub(super) fn of(attr: &Attr, kept: Option<&[u8]>) -> Self {
        let state: Option<State> = kept.and_then(|kept| serde_json::from_slice(kept).ok());
        let is_of = |state: &State| {
            let Time { secs, nanos } = attr.mtime;
            (state.size, state.secs, state.nanos) == (attr.size, secs, nanos)
        };
        let state = state.filter(is_of);
        // No MD5, as everybody sees who compares.
        let other = || conditions::tag(attr).trim_matches('"').to_owned();
        Self { tag: state.as_ref().map_or_else(other, |state| state.tag.clone()), state }
    }

    /// As a header has it.
    pub(super) fn quoted(&self) -> String {
        format!("\"{}\"", self.tag)
    }
}

/// Content headers and metadata, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Described(BTreeMap<String, String>);

impl Described {
    /// As a request says.
    ///
    /// # Errors
    /// When it is more than may be, or no text.
    pub(super) fn of(headers: &HeaderMap) -> S3Result<Self> {
        let mut all = BTreeMap::new();
        let (mut metadata, mut content) = (0, 0);
        for name in headers.keys() {
            let kept = KEPT.contains(&name.as_str());
            if !kept && !name.as_str().starts_with(META) {
                continue;
            }
            let values: Vec<&[u8]> = headers.get_all(name).iter().map(|v| v.as_bytes()).collect();
            let value = String::from_utf8(values.join(&b","[..]));
            let wrong = |_| S3Error::new(Wrong::InvalidArgument, format!("{name} is not in UTF-8"));
            let mut value = value.map_err(wrong)?;
            if name == "content-encoding" {
                let words = value.split(',').map(str::trim).filter(|word| *word != "aws-chunked");
                value = words.collect::<Vec<_>>().join(", ");
            }
            if kept && value.is_empty() {
                continue;
            }
            *(if kept { &mut content } else { &mut metadata }) += name.as_str().len() + value.len();
            all.insert(name.as_str().to_owned(), value);
        }
        if metadata > METADATA || content > CONTENT_HEADERS {
            let why = format!("metadata of more than {METADATA} bytes");
            return Err(S3Error::new(Wrong::MetadataTooLarge, why));
        }
        Ok(Self(all))
    }

    /// As they are kept.
    pub(super) fn kept(&self) -> Option<Vec<u8>> {
        (!self.0.is_empty()).then(|| serde_json::to_vec(self).expect("it is plain data"))
    }

    /// As they were kept. What is no such thing says nothing.
    pub(super) fn read(kept: Option<&[u8]>) -> Self {
        kept.and_then(|kept| serde_json::from_slice(kept).ok()).unwrap_or_default()
    }

    /// Says it in an answer.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            let name = HeaderName::from_bytes(name.as_bytes());
            let known = |name: &HeaderName| {
                KEPT.contains(&name.as_str()) || name.as_str().starts_with(META)
            };
            let value = HeaderValue::from_bytes(value.as_bytes());
            if let (Some(name), Ok(value)) = (name.ok().filter(known), value) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::a_file;

    #[test]
    fn a_tag_holds_until_the_file_changes() {
        let mut attr = a_file();
        let kept = State::new("900150983cd24fb0d6963f7d28e17f72".into()).kept(&attr);
        assert_eq!(Seen::of(&attr, Some(&kept)).quoted(), "\"900150983cd24fb0d6963f7d28e17f72\"");
        attr.ctime.secs += 1;
        assert!(Seen::of(&attr, Some(&kept)).state.is_some(), "renamed");
        attr.mtime.nanos += 1;
        let other = Seen::of(&attr, Some(&kept));
        assert!(other.state.is_none() && other.tag.contains('-'));
        assert_eq!(Seen::of(&attr, Some(b"nonsense")).tag, other.tag);
    }

    #[test]
    fn parts_are_where_their_sizes_say() {
        let mut state = State { size: 17, ..State::default() };
        state.of_parts([5, 5, 5, 2].into_iter());
        assert_eq!(state.parts, [(5, 3), (2, 1)]);
        assert_eq!(
            [1, 3, 4].map(|n| state.part(n)),
            [Some((0, 5)), Some((10, 15)), Some((15, 17))]
        );
        assert_eq!((state.part(0), state.part(5), state.part_count()), (None, None, 4));
        let most = u32::MAX;
        for (parts, third) in [
            (vec![(u64::MAX, 3)], None),
            (vec![(6, 3)], None),
            (vec![(1, most), (u64::MAX, most)], Some((2, 3))),
        ] {
            state.parts = parts;
            assert_eq!((state.part(3), state.part(most)), (third, None));
            assert!(state.part_count() >= 3);
        }
    }

    #[test]
    fn parts_of_ten_thousand_sizes_fit_into_an_attribute() {
        let size = |number: u64| (5u64 << 30) - number;
        let mut state = State::new("900150983cd24fb0d6963f7d28e17f72-10000".into());
        state.of_parts((0..10_000).map(size));
        assert!(state.kept(&a_file()).len() < 1000);
        assert_eq!((state.part_count(), state.part(1)), (10_000, None));
        let mut state = State::new("900150983cd24fb0d6963f7d28e17f72-2000".into());
        state.of_parts((0..2000).map(size));
        assert_eq!((state.part_count(), state.parts.len()), (2000, 2000));
        assert!(state.kept(&a_file()).len() < 48 << 10);
        assert_eq!(State::new("900150983cd24fb0d6963f7d28e17f72".into()).part_count(), 0);
    }

    #[test]
    fn headers_that_are_kept() {
        let pairs = [
            ("content-type", "text/plain"),
            ("content-encoding", "deflate, aws-chunked, gzip"),
            ("x-amz-meta-a", "b"),
            ("x-amz-date", "no"),
            ("host", "no"),
        ];
        let headers: HeaderMap = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let described = Described::of(&headers).unwrap();
        let again = Described::read(described.kept().as_deref());
        assert_eq!(again, described);
        let mut written = HeaderMap::new();
        again.write(&mut written);
        assert_eq!(written.len(), 3);
        assert_eq!(written["content-encoding"], "deflate, gzip");
        let mut large = HeaderMap::new();
        large.insert("x-amz-meta-a", "b".repeat(2048).parse().unwrap());
        assert_eq!(Described::of(&large).unwrap_err().wrong, Wrong::MetadataTooLarge);
    }
}
