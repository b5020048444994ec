//! Lists of a bucket's keys, version 1 and 2, and of their versions, of which each has one.

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::asked::Asked;
use super::document::document;
use super::error::{S3Error, S3Result, Wrong};
use super::times;
use super::walk::{Found, Listed, Walk};
use super::xml::Xml;

/// Keys of an answer at most.
const KEYS: u32 = 1000;
/// No path has more bytes, and so no key.
const LONGEST: usize = fs::tree::path::PATH_MAX;
/// What is written as it is in a key, where keys are encoded.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/').remove(b'*');

/// What is asked for.
struct Wanted {
    prefix: Vec<u8>,
    delimiter: Vec<u8>,
    marker: Vec<u8>,
    most: usize,
    /// Keys are percent-encoded.
    encoded: bool,
}

/// What is found.
#[derive(Default)]
struct Page {
    objects: Vec<Listed>,
    folders: Vec<Vec<u8>>,
    /// The last of them, if there are more.
    next: Option<Vec<u8>>,
}

/// Are keys to be percent-encoded in the answer?
///
/// # Errors
/// When they are to be written in another way.
pub(super) fn are_encoded(asked: &Asked) -> S3Result<bool> {
    match asked.query.get("encoding-type") {
        None | Some("") => Ok(false),
        Some("url") => Ok(true),
        Some(other) => {
            let why = format!("encoding-type={other}: url is the only one");
            Err(S3Error::new(Wrong::InvalidArgument, why))
        }
    }
}

/// A key as it stands in an answer. One that is no UTF-8 is whole only where it is encoded.
pub(super) fn written(key: &[u8], encoded: bool) -> String {
    match encoded {
        true => percent_encode(key, ENCODED).to_string(),
        false => String::from_utf8_lossy(key).into_owned(),
    }
}

/// What stands for a key that has the delimiter behind the prefix.
pub(super) fn common<'k>(key: &'k [u8], prefix: &[u8], delimiter: &[u8]) -> Option<&'k [u8]> {
    let rest = key.get(prefix.len()..).filter(|_| !delimiter.is_empty())?;
    let at = rest.windows(delimiter.len()).position(|part| part == delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

impl Wanted {
    fn of(asked: &Asked, mut marker: Vec<u8>) -> S3Result<Self> {
        // What comes behind it is the same.
        marker.truncate(LONGEST + 1);
        let bytes = |name: &str| asked.query.bytes(name).unwrap_or_default().to_vec();
        let most = asked.query.number("max-keys", i32::MAX.unsigned_abs())?.unwrap_or(KEYS);
        Ok(Self {
            prefix: bytes("prefix"),
            delimiter: bytes("delimiter"),
            marker,
            most: most.min(KEYS) as usize,
            encoded: are_encoded(asked)?,
        })
    }

    fn written(&self, key: &[u8]) -> String {
        written(key, self.encoded)
    }

    /// What stands for a key that has the delimiter behind the prefix.
    fn common<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        common(key, &self.prefix, &self.delimiter)
    }

    async fn page(&self, asked: &Asked) -> S3Result<Page> {
        let (bucket, _) = asked.there().await?;
        let mut page = Page::default();
        if self.most == 0 || self.prefix.len() > LONGEST {
            return Ok(page);
        }
        let Ok(_turn) = asked.door.lists.acquire().await else { return Ok(page) };
        let flat = self.delimiter == b"/";
        let walk = Walk::new((asked, &bucket), (&self.prefix, &self.marker), flat);
        let mut walk = walk.await?;
        let mut last = Vec::new();
        while let Some(found) = walk.next().await? {
            let key = match &found {
                Found::Object(listed) => &listed.key,
                Found::Folder(key) => key,
            };
            let common = self.common(key).map(<[u8]>::to_vec);
            if let Some(common) = &common {
                walk.pass(common);
            }
            if common.as_ref().is_some_and(|common| *common == self.marker || *common == last) {
                continue;
            }
            if page.objects.len() + page.folders.len() == self.most {
                page.next = Some(last);
                return Ok(page);
            }
            last = common.clone().unwrap_or_else(|| key.clone());
            match (common, found) {
                (None, Found::Object(listed)) => page.objects.push(*listed),
                (Some(common), _) | (None, Found::Folder(common)) => page.folders.push(common),
            }
        }
        Ok(page)
    }

    /// What all lists begin with.
    fn head(&self, asked: &Asked, xml: &mut Xml, page: &Page) {
        xml.text("Name", String::from_utf8_lossy(&asked.bucket));
        xml.text("Prefix", self.written(&self.prefix)).text("MaxKeys", self.most);
        xml.text("IsTruncated", page.next.is_some());
        if !self.delimiter.is_empty() {
            xml.text("Delimiter", self.written(&self.delimiter));
        }
        if self.encoded {
            xml.text("EncodingType", "url");
        }
    }

    fn folders(&self, xml: &mut Xml, page: &Page) {
        for key in &page.folders {
            xml.open("CommonPrefixes").text("Prefix", self.written(key)).close("CommonPrefixes");
        }
    }
}

fn write(xml: &mut Xml, wanted: &Wanted, listed: &Listed, owner: Option<&str>) {
    xml.text("Key", wanted.written(&listed.key));
    xml.text("LastModified", times::iso(listed.attr.mtime)).text("ETag", listed.seen.quoted());
    if let Some(checksum) = listed.seen.state.as_ref().and_then(|state| state.checksum.as_ref()) {
        xml.text("ChecksumAlgorithm", checksum.algorithm.word());
        xml.text("ChecksumType", checksum.kind.word());
    }
    xml.text("Size", listed.attr.size).text("StorageClass", "STANDARD");
    if let Some(owner) = owner {
        xml.owner("Owner", owner);
    }
}

/// ListObjects.
///
/// # Errors
/// When there is no such bucket, or what is asked for makes no sense.
pub(super) async fn first_version(asked: &Asked) -> S3Result<Response> {
    let marker = asked.query.bytes("marker").unwrap_or_default().to_vec();
    let wanted = Wanted::of(asked, marker)?;
    let page = wanted.page(asked).await?;
    let mut xml = Xml::new("ListBucketResult");
    wanted.head(asked, &mut xml, &page);
    xml.text("Marker", wanted.written(&wanted.marker));
    if let Some(next) = page.next.as_ref().filter(|_| !wanted.delimiter.is_empty()) {
        xml.text("NextMarker", wanted.written(next));
    }
    for listed in &page.objects {
        xml.open("Contents");
        write(&mut xml, &wanted, listed, Some(&asked.user));
        xml.close("Contents");
    }
    wanted.folders(&mut xml, &page);
    Ok(document(xml.end("ListBucketResult")))
}

/// ListObjectsV2.
///
/// # Errors
/// The same.
pub(super) async fn second_version(asked: &Asked) -> S3Result<Response> {
    let after = asked.query.bytes("start-after").unwrap_or_default();
    let token = asked.query.get("continuation-token");
    let marker = match token.filter(|token| !token.is_empty()) {
        None => after.to_vec(),
        Some(token) => URL_SAFE_NO_PAD.decode(token).map_err(|_| {
            S3Error::new(Wrong::InvalidArgument, "continuation-token is none that was given here")
        })?,
    };
    let wanted = Wanted::of(asked, marker)?;
    let page = wanted.page(asked).await?;
    let mut xml = Xml::new("ListBucketResult");
    wanted.head(asked, &mut xml, &page);
    xml.text("KeyCount", page.objects.len() + page.folders.len());
    xml.maybe("ContinuationToken", token);
    if asked.query.has("start-after") {
        xml.text("StartAfter", wanted.written(after));
    }
    xml.maybe("NextContinuationToken", page.next.as_ref().map(|key| URL_SAFE_NO_PAD.encode(key)));
    let owner = asked.query.get("fetch-owner").filter(|word| *word == "true");
    for listed in &page.objects {
        xml.open("Contents");
        write(&mut xml, &wanted, listed, owner.map(|_| asked.user.as_str()));
        xml.close("Contents");
    }
    wanted.folders(&mut xml, &page);
    Ok(document(xml.end("ListBucketResult")))
}

/// ListObjectVersions: versions are off.
///
/// # Errors
/// The same.
pub(super) async fn versions(asked: &Asked) -> S3Result<Response> {
    let marker = asked.query.bytes("key-marker").unwrap_or_default().to_vec();
    let wanted = Wanted::of(asked, marker)?;
    let page = wanted.page(asked).await?;
    let mut xml = Xml::new("ListVersionsResult");
    wanted.head(asked, &mut xml, &page);
    xml.text("KeyMarker", wanted.written(&wanted.marker)).text("VersionIdMarker", "");
    if let Some(next) = &page.next {
        xml.text("NextKeyMarker", wanted.written(next)).text("NextVersionIdMarker", "null");
    }
    for listed in &page.objects {
        xml.open("Version").text("VersionId", "null").text("IsLatest", true);
        write(&mut xml, &wanted, listed, Some(&asked.user));
        xml.close("Version");
    }
    wanted.folders(&mut xml, &page);
    Ok(document(xml.end("ListVersionsResult")))
}
