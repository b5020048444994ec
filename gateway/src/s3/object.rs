//! Objects out: GET and HEAD, and what else is told of one.

use std::ops::Range;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fs::tree::OpenFile;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_range_header::{EndPosition, StartPosition};
use md5::{Digest, Md5};
use meta::{Attr, Kind};
use serde::{Deserialize, Serialize};

use super::asked::{Asked, no_key};
use super::attributes::{Described, FOLDER, HEADERS, STATE, Seen, State, TAGS};
use super::conditions::{self, Read};
use super::document::{document, insert};
use super::error::{S3Error, S3Result, Wrong};
use super::keys::Key;
use super::signature::hex;
use super::tags::Tags;
use super::xml::Xml;
use super::{checksums, times};
use crate::transfer;

/// Headers of an answer that a request may set.
const SET_BY_QUERY: [(&str, HeaderName); 6] = [
    ("response-content-type", header::CONTENT_TYPE),
    ("response-content-language", header::CONTENT_LANGUAGE),
    ("response-expires", header::EXPIRES),
    ("response-cache-control", header::CACHE_CONTROL),
    ("response-content-disposition", header::CONTENT_DISPOSITION),
    ("response-content-encoding", header::CONTENT_ENCODING),
];

/// Why a folder is there: because somebody has put an object with its key, or, without any content, because what lies in
/// it was put.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct FolderMark {
    /// It is an object itself.
    pub(super) put: bool,
    /// The inode that was made for objects: a copy by the mount has the same mark, and was not.
    #[serde(default)]
    pub(super) made: u64,
    /// Its content, in base64.
    #[serde(default)]
    pub(super) content: String,
    #[serde(default)]
    pub(super) described: Described,
    #[serde(default)]
    pub(super) tags: Tags,
}

impl FolderMark {
    /// Of a folder that was made for objects in it.
    pub(super) fn made(folder: &Attr) -> Self {
        Self { made: folder.ino.0, ..Self::default() }
    }

    /// Is this folder there for objects in it alone?
    pub(super) fn is_for_objects(&self, folder: &Attr) -> bool {
        !self.put && self.made == folder.ino.0
    }

    /// As it is kept.
    pub(super) fn read(kept: Option<&[u8]>) -> Option<Self> {
        kept.and_then(|kept| serde_json::from_slice(kept).ok())
    }

    /// The same.
    pub(super) fn kept(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it is plain data")
    }

    /// Its content.
    pub(super) fn bytes(&self) -> Vec<u8> {
        STANDARD.decode(&self.content).unwrap_or_default()
    }

    /// As an object is seen.
    pub(super) fn seen(&self) -> Seen {
        let tag = hex(&Md5::digest(self.bytes()));
        Seen { tag: tag.clone(), state: Some(State::new(tag)) }
    }
}

/// Where an object's bytes are.
pub(super) enum Content {
    File(OpenFile),
    /// Of a folder.
    Bytes(Vec<u8>),
}

/// An object that is read.
pub(super) struct Object {
    /// Of a folder, with the size of its content.
    pub(super) attr: Attr,
    pub(super) seen: Seen,
    pub(super) described: Described,
    pub(super) tags: Tags,
    pub(super) content: Content,
}

/// Opens an object.
///
/// # Errors
/// When there is none, or it may not be read.
pub(super) async fn open(asked: &Asked, key: &Key) -> S3Result<Object> {
    if key.folder {
        return folder(asked, key).await;
    }
    let file = match asked.view.open(&key.path).await {
        Ok(file) => file,
        Err(e) => return Err(asked.missing(&e).await),
    };
    let attribute = async |name: &[u8]| {
        file.attribute(name).await.map_err(|e| S3Error::of(&e, Wrong::NoSuchKey))
    };
    let attr = *file.attr();
    let seen = Seen::of(&attr, attribute(STATE).await?.as_deref());
    let described = Described::read(attribute(HEADERS).await?.as_deref());
    let tags = Tags::read(attribute(TAGS).await?.as_deref());
    Ok(Object { attr, seen, described, tags, content: Content::File(file) })
}

/// A folder is an object if it was put as one, or is empty.
async fn folder(asked: &Asked, key: &Key) -> S3Result<Object> {
    let looked = async {
        let attr = asked.view.stat(&key.path).await?;
        if attr.kind != Kind::Directory {
            return Ok::<_, fs::tree::TreeError>((attr, None, false));
        }
        let mark = FolderMark::read(asked.view.attribute(&key.path, FOLDER).await?.as_deref());
        let is_put = mark.as_ref().is_some_and(|mark| mark.put);
        let is_one = is_put || asked.view.list(&key.path).await?.next().await?.is_empty();
        Ok((attr, mark, is_one))
    };
    let (mut attr, mark, is_one) = match looked.await {
        Ok(looked) => looked,
        Err(e) => return Err(asked.missing(&e).await),
    };
    if !is_one {
        return Err(no_key());
    }
    let mark = mark.unwrap_or_default();
    let bytes = mark.bytes();
    attr.size = bytes.len() as u64;
    let seen = mark.seen();
    let FolderMark { described, tags, .. } = mark;
    Ok(Object { attr, seen, described, tags, content: Content::Bytes(bytes) })
}

/// GET and HEAD.
///
/// # Errors
/// When there is none, or a condition does not hold.
pub(super) async fn get(asked: &Asked) -> S3Result<Response> {
    asked.of_this_version()?;
    let object = open(asked, &asked.key()?).await?;
    let read = conditions::read(&asked.headers, "", &object.seen, &object.attr)?;
    if read == Read::NotModified {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        describe(&mut response, &object);
        // Of content that is not sent.
        response.headers_mut().remove(header::CONTENT_TYPE);
        return Ok(response);
    }
    let (range, is_part) = range(asked, &object)?;
    let whole = 0..object.attr.size;
    let said = format!("bytes {}-{}/{}", range.start, range.end.max(1) - 1, object.attr.size);
    let mut response = Response::default();
    describe(&mut response, &object);
    let is_checked =
        asked.header("x-amz-checksum-mode").is_some_and(|m| m.eq_ignore_ascii_case("enabled"));
    if is_checked && range == whole {
        tell_checksum(&mut response, object.seen.state.as_ref());
    }
    if let (Some(state), true) = (&object.seen.state, asked.query.has("partNumber")) {
        insert(&mut response, "x-amz-mp-parts-count", &state.part_count().max(1).to_string());
    }
    let head = std::mem::take(response.headers_mut());
    let mut response = sent(asked, object.content, range);
    // What is said of the object stands before what is said of any file.
    response.headers_mut().extend(head);
    if is_part {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        insert(&mut response, "content-range", &said);
    }
    for (word, name) in SET_BY_QUERY {
        if let Some(value) = asked.query.get(word) {
            let wrong = |_| S3Error::new(Wrong::InvalidArgument, format!("{word} is no header"));
            response.headers_mut().insert(name, HeaderValue::from_str(value).map_err(wrong)?);
        }
    }
    Ok(response)
}

fn sent(asked: &Asked, content: Content, range: Range<u64>) -> Response {
    match content {
        Content::File(file) => transfer::content(file, range, asked.door.who.sending()),
        Content::Bytes(bytes) => {
            let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
            Body::from(bytes[at(range.start)..at(range.end)].to_vec()).into_response()
        }
    }
}

/// Says of an answer which object it is about, and all that is kept of it.
fn describe(response: &mut Response, object: &Object) {
    insert(response, "content-type", "binary/octet-stream");
    object.described.write(response.headers_mut());
    insert(response, "etag", &object.seen.quoted());
    insert(response, "last-modified", &times::http(object.attr.mtime));
    insert(response, "accept-ranges", "bytes");
    if !object.tags.is_empty() {
        insert(response, "x-amz-tagging-count", &object.tags.len().to_string());
    }
}

/// Says the checksum, if there is one.
pub(super) fn tell_checksum(response: &mut Response, state: Option<&State>) {
    if let Some(checksum) = state.and_then(|state| state.checksum.as_ref()) {
        insert(response, &checksum.algorithm.header(), &checksum.value);
        insert(response, "x-amz-checksum-type", checksum.kind.word());
    }
}

/// What of an object is asked for, and is that a part?
fn range(asked: &Asked, object: &Object) -> S3Result<(Range<u64>, bool)> {
    let size = object.attr.size;
    if let Some(number) = asked.query.number("partNumber", super::parts::NUMBER_MAX)? {
        let state = object.seen.state.as_ref().filter(|state| state.part_count() > 0);
        if let Some(state) = state.filter(|state| state.parts.is_empty()) {
            let why = format!(
                "the object came by {} parts of more sizes than are kept: read it by ranges",
                state.part_count()
            );
            return Err(S3Error::new(Wrong::NotImplemented, why));
        }
        let part = match state {
            Some(state) => state.part(number),
            None => (number == 1).then_some((0, size)),
        };
        let none = || S3Error::new(Wrong::InvalidPartNumber, "there is no such part");
        // An empty one has no range that could be named.
        return part.map(|(start, end)| (start..end, size > 0)).ok_or_else(none);
    }
    match ranged(&asked.headers, size, conditions::is_outdated(&asked.headers, &object.seen)) {
        Some(range) if range.is_empty() => {
            let why = format!("the object has {size} bytes");
            Err(S3Error { size: Some(size), ..S3Error::new(Wrong::InvalidRange, why) })
        }
        Some(range) => Ok((range, true)),
        None => Ok((0..size, false)),
    }
}

/// One range is obeyed. Several in one request are answered by the whole, as is what is no range.
fn ranged(headers: &HeaderMap, size: u64, outdated: bool) -> Option<Range<u64>> {
    let text = headers.get(header::RANGE)?.to_str().ok().filter(|_| !outdated)?;
    let parsed = http_range_header::parse_range_header(text).ok()?;
    let [one] = parsed.ranges.as_slice() else { return None };
    match (one.start, one.end) {
        (StartPosition::FromLast(len), _) => Some(size.saturating_sub(len)..size),
        (StartPosition::Index(from), EndPosition::LastByte) => Some(from..size),
        (StartPosition::Index(from), EndPosition::Index(last)) if last < from => None,
        (StartPosition::Index(from), EndPosition::Index(last)) => {
            Some(from..last.saturating_add(1).min(size))
        }
    }
}

/// GET of `?attributes`.
///
/// # Errors
/// When there is no such object.
pub(super) async fn attributes(asked: &Asked) -> S3Result<Response> {
    asked.of_this_version()?;
    let object = open(asked, &asked.key()?).await?;
    let wanted = asked.headers.get_all("x-amz-object-attributes").iter();
    let wanted: Vec<&str> = wanted.filter_map(|value| value.to_str().ok()).collect();
    let wanted = wanted.join(",");
    let wants = |name: &str| wanted.split(',').any(|word| word.trim() == name);
    let state = object.seen.state.as_ref();
    let mut xml = Xml::new("GetObjectAttributesResponse");
    if wants("ETag") {
        xml.text("ETag", &object.seen.tag);
    }
    if let (Some(checksum), true) = (state.and_then(|s| s.checksum.as_ref()), wants("Checksum")) {
        xml.open("Checksum").text(&checksum.algorithm.element(), &checksum.value);
        xml.text("ChecksumType", checksum.kind.word()).close("Checksum");
    }
    let (kept, unkept): (Option<&State>, Option<&State>) =
        match state.filter(|state| wants("ObjectParts") && state.part_count() > 0) {
            Some(state) if state.parts.is_empty() => (None, Some(state)),
            state => (state, None),
        };
    if let Some(state) = unkept {
        let count = state.part_count();
        xml.open("ObjectParts").text("PartsCount", count).close("ObjectParts");
    }
    if let Some(state) = kept {
        let most: Option<u32> = asked.header("x-amz-max-parts").and_then(|text| text.parse().ok());
        let after: Option<u32> =
            asked.header("x-amz-part-number-marker").and_then(|text| text.parse().ok());
        let (most, after) = (most.unwrap_or(1000).min(1000), after.unwrap_or(0));
        let last = state.part_count().min(after.saturating_add(most));
        xml.open("ObjectParts").text("PartNumberMarker", after).text("MaxParts", most);
        xml.text("NextPartNumberMarker", last).text("IsTruncated", last < state.part_count());
        xml.text("PartsCount", state.part_count());
        for number in after.saturating_add(1)..=last {
            let (start, end) = state.part(number).unwrap_or_default();
            xml.open("Part").text("PartNumber", number).text("Size", end - start).close("Part");
        }
        xml.close("ObjectParts");
    }
    if wants("StorageClass") {
        xml.text("StorageClass", "STANDARD");
    }
    if wants("ObjectSize") {
        xml.text("ObjectSize", object.attr.size);
    }
    let mut response = document(xml.end("GetObjectAttributesResponse"));
    insert(&mut response, "last-modified", &times::http(object.attr.mtime));
    Ok(response)
}

/// Elements for the checksum of an object.
pub(super) fn write_checksum(xml: &mut Xml, state: Option<&State>) {
    if let Some(checksums::Checksum { algorithm, value, kind }) =
        state.and_then(|state| state.checksum.as_ref())
    {
        xml.text(&algorithm.element(), value).text("ChecksumType", kind.word());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_a_part_and_what_is_none_means_the_whole() {
        for (text, expected) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=2-", Some(2..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-30", Some(0..10)),
            ("bytes=5-100", Some(5..10)),
            ("bytes=10-", Some(10..10)),
            ("bytes=0-1,4-5", None),
            ("bytes=5-2", None),
            ("lines=0-1", None),
        ] {
            let headers = [(header::RANGE, text.parse().unwrap())].into_iter().collect();
            assert_eq!(ranged(&headers, 10, false), expected, "{text}");
            assert_eq!(ranged(&headers, 10, true), None, "{text} of another state");
        }
    }
}
