//! Lists of uploads by parts that are open, and of the parts of one.

use std::collections::BTreeMap;

use axum::response::Response;
use meta::Time;

use super::asked::Asked;
use super::document::document;
use super::error::S3Result;
use super::multipart::open;
use super::parts::{self, Part};
use super::xml::Xml;
use super::{list, times};

/// Parts, and uploads, of one answer.
const LISTED: u32 = 1000;

/// ListParts.
///
/// # Errors
/// When there is no such upload.
pub(super) async fn parts_of_one(asked: &Asked) -> S3Result<Response> {
    let after = asked.query.number("part-number-marker", u32::MAX)?.unwrap_or(0);
    let most =
        asked.query.number("max-parts", i32::MAX.unsigned_abs())?.unwrap_or(LISTED).min(LISTED);
    let (key, id, record) = open(asked).await?;
    let numbers = parts::numbers(&asked.door, &id).await?;
    let mut behind = numbers.into_iter().filter(|number| *number > after);
    let page: Vec<u32> = behind.by_ref().take(most as usize).collect();
    let more = behind.next().is_some();
    let mut xml = Xml::new("ListPartsResult");
    xml.text("Bucket", String::from_utf8_lossy(&asked.bucket)).text("Key", key.text());
    xml.text("UploadId", &id).owner("Initiator", &record.user).owner("Owner", &record.user);
    xml.text("StorageClass", "STANDARD").text("PartNumberMarker", after);
    xml.text("NextPartNumberMarker", page.last().copied().unwrap_or(0));
    xml.text("MaxParts", most).text("IsTruncated", more);
    if let (Some(algorithm), Some(kind)) = (record.algorithm, record.kind) {
        xml.text("ChecksumAlgorithm", algorithm.word()).text("ChecksumType", kind.word());
    }
    for number in page {
        let Some((_, Part { attr, state })) = parts::open(&asked.door, &id, number).await? else {
            continue;
        };
        xml.open("Part").text("PartNumber", number).text("LastModified", times::iso(attr.mtime));
        xml.text("ETag", format!("\"{}\"", state.tag)).text("Size", attr.size);
        if let Some(checksum) = &state.checksum {
            xml.text(&checksum.algorithm.element(), &checksum.value);
        }
        xml.close("Part");
    }
    Ok(document(xml.end("ListPartsResult")))
}

/// ListMultipartUploads: those that whoever asks has begun.
///
/// # Errors
/// When there is no such bucket.
pub(super) async fn all(asked: &Asked) -> S3Result<Response> {
    let (_, bucket) = asked.there().await?;
    let bytes = |name: &str| asked.query.bytes(name).unwrap_or_default().to_vec();
    let (prefix, delimiter) = (bytes("prefix"), bytes("delimiter"));
    let id_after = asked.query.get("upload-id-marker").unwrap_or_default().to_owned();
    let (after, encoded) = ((bytes("key-marker"), id_after), list::are_encoded(asked)?);
    let written = |key: &[u8]| list::written(key, encoded);
    let most =
        asked.query.number("max-uploads", i32::MAX.unsigned_abs())?.unwrap_or(LISTED).min(LISTED);
    let uid = asked.view.viewer().uid;
    let (mut first, mut more) = (BTreeMap::new(), false);
    parts::all(&asked.door, |id, record| {
        let key = key_of(&record.key);
        let is_his = record.bucket == bucket.ino.0 && (uid == 0 || uid == record.uid);
        let is_behind = match after.1.is_empty() {
            true => after.0.is_empty() || key > after.0,
            false => (&key, &id) > (&after.0, &after.1),
        };
        if is_his && is_behind && key.starts_with(&prefix) {
            first.insert((key, id), record);
        }
        if first.len() > most as usize {
            more = first.pop_last().is_some() && most > 0;
        }
    })
    .await?;
    let mut xml = Xml::new("ListMultipartUploadsResult");
    xml.text("Bucket", String::from_utf8_lossy(&asked.bucket)).text("KeyMarker", written(&after.0));
    xml.text("UploadIdMarker", &after.1).text("Prefix", written(&prefix)).text("MaxUploads", most);
    xml.text("IsTruncated", more);
    if encoded {
        xml.text("EncodingType", "url");
    }
    if let Some(((key, id), _)) = first.last_key_value().filter(|_| more) {
        xml.text("NextKeyMarker", written(key)).text("NextUploadIdMarker", id);
    }
    let mut folders = Vec::<&[u8]>::new();
    for ((key, id), record) in &first {
        if let Some(folder) = list::common(key, &prefix, &delimiter) {
            folders.push(folder);
            continue;
        }
        let began = Time { secs: record.began, nanos: 0 };
        xml.open("Upload").text("Key", written(key)).text("UploadId", id);
        xml.owner("Initiator", &record.user).owner("Owner", &record.user);
        xml.text("StorageClass", "STANDARD").text("Initiated", times::iso(began)).close("Upload");
    }
    folders.dedup();
    for key in folders {
        xml.open("CommonPrefixes").text("Prefix", written(key)).close("CommonPrefixes");
    }
    Ok(document(xml.end("ListMultipartUploadsResult")))
}

/// A key of its digits.
fn key_of(digits: &str) -> Vec<u8> {
    (0..digits.len() / 2)
        .filter_map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::signature::hex;

    #[test]
    fn keys_that_are_kept_are_had_again() {
        assert_eq!(key_of(&hex(b"a/\xff\0")), b"a/\xff\0");
    }
}
