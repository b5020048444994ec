//! Objects that come in by parts: begun, sent in any order and again, completed or aborted. Completing one moves no data:
//! the object has the extents of its parts.

use std::ops::Range;

use axum::response::{IntoResponse, Response};
use fs::tree::Upload;
use http::StatusCode;
use md5::{Digest, Md5};

use super::asked::Asked;
use super::attributes::{Described, State};
use super::body::Incoming;
use super::checksums::{self, Algorithm, Checksum, Kind as Of};
use super::document::{document, insert};
use super::elements::{self, Seen};
use super::error::{S3Error, S3Result, Wrong};
use super::keys::Key;
use super::object::{self, Content, tell_checksum, write_checksum};
use super::parts::{self, Ending, NUMBER_MAX, Part, Record};
use super::put::{self, With};
use super::signature::{hex, of_hex};
use super::tags::Tags;
use super::times;
use super::xml::Xml;

/// Smallest part but for the last, in bytes, as AWS has it.
const PART_MIN: u64 = 5 << 20;

fn bad(why: &str) -> S3Error {
    S3Error::new(Wrong::InvalidArgument, why)
}

/// CreateMultipartUpload.
///
/// # Errors
/// When there is no such bucket, or the key cannot be.
pub(super) async fn create(asked: &Asked) -> S3Result<Response> {
    put::possible(asked)?;
    let key = asked.key()?;
    if key.folder {
        let why = "a key that ends with a slash is a folder, which has no parts";
        return Err(S3Error::new(Wrong::InvalidKey, why));
    }
    // Whoever may not write it hears so now.
    drop(put::begin(asked, &key).await?);
    put::allowed(asked, &key).await?;
    let (_, bucket) = asked.there().await?;
    let algorithm = asked.header("x-amz-checksum-algorithm").map(Algorithm::of_word).transpose()?;
    let kind = match asked.header("x-amz-checksum-type") {
        None => algorithm.map(Algorithm::usual),
        Some("COMPOSITE") => Some(Of::Composite),
        Some("FULL_OBJECT") => Some(Of::FullObject),
        Some(_) => return Err(bad("x-amz-checksum-type is COMPOSITE or FULL_OBJECT")),
    };
    let is_of_hashes = matches!(algorithm, Some(Algorithm::Sha1 | Algorithm::Sha256));
    if is_of_hashes && kind == Some(Of::FullObject) {
        let why = "SHA1 and SHA256 of a whole cannot be made of those of its parts: COMPOSITE";
        return Err(S3Error::new(Wrong::InvalidRequest, why));
    }
    let record = Record {
        bucket: bucket.ino.0,
        key: hex(&key.bytes),
        uid: asked.view.viewer().uid,
        user: asked.user.clone(),
        began: meta::wall_clock().secs,
        described: Described::of(&asked.headers)?,
        tags: Tags::of_header(asked)?,
        algorithm,
        kind,
    };
    let id = parts::create(&asked.door, &record).await?;
    let mut xml = Xml::new("InitiateMultipartUploadResult");
    xml.text("Bucket", String::from_utf8_lossy(&asked.bucket)).text("Key", key.text());
    xml.text("UploadId", id);
    let mut response = document(xml.end("InitiateMultipartUploadResult"));
    if let (Some(algorithm), Some(kind)) = (algorithm, kind) {
        insert(&mut response, "x-amz-checksum-algorithm", algorithm.word());
        insert(&mut response, "x-amz-checksum-type", kind.word());
    }
    Ok(response)
}

/// The upload that a request is about: of this bucket and key, by this user.
///
/// # Errors
/// When there is none.
pub(super) async fn open(asked: &Asked) -> S3Result<(Key, String, Record)> {
    let key = asked.key()?;
    let (_, bucket) = asked.there().await?;
    let id = asked.query.get("uploadId").unwrap_or_default().to_owned();
    let record = parts::find(&asked.door, &id).await?;
    let uid = asked.view.viewer().uid;
    let is_his = uid == 0 || uid == record.uid;
    match is_his && record.bucket == bucket.ino.0 && record.key == hex(&key.bytes) {
        true => Ok((key, id, record)),
        false => {
            let why = "there is no such upload of this key";
            Err(S3Error::new(Wrong::NoSuchUpload, why))
        }
    }
}

/// Begins a part that comes, of an upload that may have one: which, and of what number.
async fn place(asked: &Asked) -> S3Result<(Upload, String, u32)> {
    let number = asked.query.number("partNumber", NUMBER_MAX)?.filter(|number| *number > 0);
    let number = number.ok_or_else(|| bad("partNumber is from 1 to 10000"))?;
    let (_, id, _) = open(asked).await?;
    if !asked.view.viewer().write {
        return Err(S3Error::new(Wrong::AccessDenied, "only reading is allowed"));
    }
    let begun = parts::begin(&asked.door, &id, number).await?;
    Ok((begun, id, number))
}

/// UploadPart.
///
/// # Errors
/// When there is no such upload, or the body is not whole.
pub(super) async fn put(asked: &Asked, body: &mut Incoming) -> S3Result<Response> {
    let (mut upload, id, number) = place(asked).await?;
    let received = body.store(&mut upload).await?;
    let mut state = put::state(&received);
    parts::keep(&asked.door, (&id, number), upload, &mut state).await?;
    let mut response = StatusCode::OK.into_response();
    insert(&mut response, "etag", &format!("\"{}\"", state.tag));
    tell_checksum(&mut response, Some(&state));
    response.headers_mut().remove("x-amz-checksum-type");
    Ok(response)
}

/// UploadPartCopy.
///
/// # Errors
/// When there is no such upload, or nothing to copy.
pub(super) async fn copy(asked: &Asked) -> S3Result<Response> {
    let from = put::source(asked)?;
    let source = put::open_source(asked, &from).await?;
    let range = source_range(asked.header("x-amz-copy-source-range"), source.attr.size)?;
    let (mut upload, id, number) = place(asked).await?;
    let as_opened = match source.content {
        Content::File(file) => put::copy_file(&mut upload, &file, range.clone()).await,
        Content::Bytes(bytes) => {
            let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
            upload.write(bytes[at(range.start)..at(range.end)].to_vec().into()).await.map(|()| true)
        }
    };
    if !as_opened.map_err(|e| S3Error::of(&e, Wrong::NoSuchUpload))? {
        let why = "what is copied was changed meanwhile: copy it again";
        return Err(S3Error::new(Wrong::OperationAborted, why));
    }
    let is_whole = range == (0..source.attr.size) && of_hex::<16>(&source.seen.tag).is_some();
    let tag = match is_whole {
        true => source.seen.tag,
        // Its bytes are not read, so that no data move: it is the tag of these bytes all the same.
        false => hex(&Md5::digest(format!("{} {range:?}", source.seen.tag))),
    };
    let mut state = State::new(tag);
    let attr = parts::keep(&asked.door, (&id, number), upload, &mut state).await?;
    let mut xml = Xml::new("CopyPartResult");
    xml.text("LastModified", times::iso(attr.mtime)).text("ETag", format!("\"{}\"", state.tag));
    Ok(document(xml.end("CopyPartResult")))
}

/// What of a source is copied: all, or `bytes=FIRST-LAST`.
pub(super) fn source_range(said: Option<&str>, size: u64) -> S3Result<Range<u64>> {
    let Some(text) = said else { return Ok(0..size) };
    let ends = text.strip_prefix("bytes=").and_then(|ends| ends.split_once('-'));
    let number = |text: &str| text.parse::<u64>().ok();
    let ends = ends.and_then(|(first, last)| Some((number(first)?, number(last)?)));
    match ends {
        Some((first, last)) if first <= last && last < size => Ok(first..last + 1),
        Some((first, last)) if first <= last => {
            let why = format!("what is to be copied has {size} bytes");
            Err(S3Error::new(Wrong::InvalidRange, why))
        }
        _ => Err(bad("x-amz-copy-source-range is bytes=FIRST-LAST")),
    }
}

/// A part that an upload is completed with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    number: u32,
    tag: String,
    checksum: Option<(Algorithm, String)>,
}

pub(super) fn read(body: &[u8]) -> S3Result<Vec<Named>> {
    let malformed = |why: &str| S3Error::new(Wrong::MalformedXML, why);
    let mut all = Vec::<Named>::new();
    elements::read(body, |path, seen| {
        match (path, seen) {
            ([_, "Part"], Seen::Begin) => all.push(Named::default()),
            ([_, "Part", name], Seen::Leaf(text)) => {
                let Some(last) = all.last_mut() else { return Ok(()) };
                match (*name, Algorithm::of_element(name)) {
                    ("PartNumber", _) => last.number = text.trim().parse().unwrap_or(0),
                    ("ETag", _) => last.tag = text.trim().trim_matches('"').to_owned(),
                    (_, Some(algorithm)) => {
                        last.checksum = Some((algorithm, text.trim().to_owned()))
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    if all.is_empty() || all.iter().any(|part| part.number == 0 || part.number > NUMBER_MAX) {
        return Err(malformed("a list of parts belongs there, with numbers from 1 to 10000"));
    }
    match all.is_sorted_by(|one, next| one.number < next.number) {
        true => Ok(all),
        false => Err(S3Error::new(
            Wrong::InvalidPartOrder,
            "parts are named in the order of their numbers",
        )),
    }
}

/// CompleteMultipartUpload.
///
/// # Errors
/// When a part is not there, or too small, or a condition does not hold; the upload is as it was then.
pub(super) async fn complete(asked: &Asked, body: &[u8]) -> S3Result<Response> {
    let named = read(body)?;
    let id = asked.query.get("uploadId").unwrap_or_default();
    let _alone = Ending::wait(&asked.door, id).await?;
    let (key, id, record) = match open(asked).await {
        Err(e) if e.wrong == Wrong::NoSuchUpload => {
            return completed(asked).await.ok_or(e);
        }
        opened => opened?,
    };
    put::allowed(asked, &key).await?;
    let mut upload = put::begin(asked, &key).await?;
    let (mut all, count) = (Vec::with_capacity(named.len()), named.len());
    for (at, named) in named.iter().enumerate() {
        let missing = || {
            let why = format!("part {} is not there, or another one", named.number);
            S3Error::new(Wrong::InvalidPart, why)
        };
        let (file, part) =
            parts::open(&asked.door, &id, named.number).await?.ok_or_else(missing)?;
        if !fits(named, &part) {
            return Err(missing());
        }
        if part.attr.size < PART_MIN && at + 1 < count {
            return Err(S3Error::new(
                Wrong::EntityTooSmall,
                "a part has 5 MiB at least, but for the last",
            ));
        }
        let written = upload.write_copy(&file, 0..part.attr.size).await;
        written.map_err(|e| S3Error::of(&e, Wrong::NoSuchUpload))?;
        all.push(part);
    }
    let state = whole(asked, &id, &record, &all)?;
    let (described, tags) = (record.described, record.tags);
    let with = With { state: Some(state), described, tags, ..With::default() };
    let (_, with) = put::place(asked, &key, upload, with).await?;
    if let Err(e) = parts::end(&asked.door, &id).await {
        tracing::warn!(
            "parts of the upload {id}, which is complete, are left for a day: {}",
            e.message
        );
    }
    Ok(told(asked, &key, &with.state.unwrap_or_default()))
}

fn fits(named: &Named, part: &Part) -> bool {
    let has = part.state.checksum.as_ref().map(|checksum| (checksum.algorithm, &checksum.value));
    let same_sum = match (&named.checksum, has) {
        (Some((algorithm, value)), Some((own, has))) => *algorithm == own && value == has,
        _ => true,
    };
    part.state.tag == named.tag && same_sum
}

/// What is known of the whole.
fn whole(asked: &Asked, id: &str, record: &Record, all: &[Part]) -> S3Result<State> {
    let size: u64 = all.iter().map(|part| part.attr.size).sum();
    let said = asked.header("x-amz-mp-object-size").map(str::parse::<u64>);
    if said.is_some_and(|said| said != Ok(size)) {
        let why = format!("the parts have {size} bytes, and not what x-amz-mp-object-size says");
        return Err(S3Error::new(Wrong::InvalidRequest, why));
    }
    let tags: Vec<[u8; 16]> =
        all.iter().map(|part| of_hex(&part.state.tag).unwrap_or_default()).collect();
    let mut state = State::new(checksums::tag_of_parts(&tags));
    state.of_parts(all.iter().map(|part| part.attr.size));
    state.upload = Some(id.to_owned());
    let sums: Vec<&Checksum> = all.iter().filter_map(|part| part.state.checksum.as_ref()).collect();
    if let (Some(algorithm), Some(kind)) = (record.algorithm, record.kind)
        && sums.len() == all.len()
        && sums.iter().all(|sum| sum.algorithm == algorithm)
    {
        let values: Vec<(&str, u64)> =
            sums.iter().zip(all).map(|(sum, part)| (&*sum.value, part.attr.size)).collect();
        let value = checksums::whole(algorithm, kind, &values);
        state.checksum = value.map(|value| Checksum { algorithm, value, kind });
    }
    let said = checksums::said(&asked.headers)?;
    if let (None, Some((algorithm, _))) = (&state.checksum, &said) {
        let why =
            format!("the parts have no {}, so that of the whole is not known", algorithm.word());
        return Err(S3Error::new(Wrong::InvalidRequest, why));
    }
    if let Some(own) = &state.checksum
        && asked.header(&own.algorithm.header()).is_some_and(|said| said != own.value)
    {
        let why = format!("the parts together are not those of {}", own.algorithm.header());
        return Err(S3Error::new(Wrong::BadDigest, why));
    }
    Ok(state)
}

/// Who asks again, because he has not heard, is told the same.
async fn completed(asked: &Asked) -> Option<Response> {
    let key = asked.key().ok()?;
    let object = object::open(asked, &key).await.ok()?;
    let id = asked.query.get("uploadId");
    let state = object.seen.state.filter(|state| state.upload.as_deref() == id && id.is_some())?;
    Some(told(asked, &key, &state))
}

fn told(asked: &Asked, key: &Key, state: &State) -> Response {
    let bucket = String::from_utf8_lossy(&asked.bucket);
    let mut xml = Xml::new("CompleteMultipartUploadResult");
    xml.text("Location", format!("/{bucket}/{}", key.text())).text("Bucket", &bucket);
    xml.text("Key", key.text()).text("ETag", format!("\"{}\"", state.tag));
    write_checksum(&mut xml, Some(state));
    document(xml.end("CompleteMultipartUploadResult"))
}

/// AbortMultipartUpload.
///
/// # Errors
/// When there is no such upload.
pub(super) async fn abort(asked: &Asked) -> S3Result<Response> {
    if !asked.view.viewer().write {
        return Err(S3Error::new(Wrong::AccessDenied, "only reading is allowed"));
    }
    let id = asked.query.get("uploadId").unwrap_or_default();
    let _alone = Ending::wait(&asked.door, id).await?;
    let (_, id, _) = open(asked).await?;
    parts::end(&asked.door, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_parts() {
        let part =
            |n: u32| format!("<Part><PartNumber>{n}</PartNumber><ETag>\"t{n}\"</ETag></Part>");
        let list = |inner: &str| {
            let text =
                format!("<CompleteMultipartUpload xmlns='u'>{inner}</CompleteMultipartUpload>");
            read(text.as_bytes())
        };
        let all = list(&(part(1) + &part(3))).unwrap();
        assert_eq!((all[1].number, &*all[1].tag), (3, "t3"));
        assert_eq!(list(&(part(3) + &part(1))).unwrap_err().wrong, Wrong::InvalidPartOrder);
        assert_eq!(list(&(part(1) + &part(1))).unwrap_err().wrong, Wrong::InvalidPartOrder);
        for bad in [String::new(), part(0), part(10_001)] {
            assert_eq!(list(&bad).unwrap_err().wrong, Wrong::MalformedXML);
        }
    }

    #[test]
    fn ranges_of_sources() {
        let range = |text: &str| source_range(Some(text), 10).map_err(|e| e.wrong);
        assert_eq!(source_range(None, 10), Ok(0..10));
        assert_eq!(range("bytes=2-9"), Ok(2..10));
        assert_eq!(range("bytes=2-10"), Err(Wrong::InvalidRange));
        for bad in ["bytes=5-2", "bytes=-3", "bytes=3-", "3-4", "bytes=a-b", "bytes=0-1,2-3"] {
            assert_eq!(range(bad), Err(Wrong::InvalidArgument), "{bad}");
        }
    }
}
