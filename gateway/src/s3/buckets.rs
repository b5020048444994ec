//! Buckets: the folders at the top of what an account sees, but for those whose names begin with a dot.

use std::collections::BinaryHeap;

use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fs::tree::TreePath;
use http::StatusCode;
use meta::{Kind, Replaces, Time};

use super::asked::Asked;
use super::document::{document, insert};
use super::elements::{self, Seen};
use super::error::{S3Error, S3Result, Wrong};
use super::xml::Xml;
use super::{answers, keys, times};

/// Buckets of an answer at most.
const BUCKETS: u32 = 10_000;

/// GET without a bucket: all there are.
///
/// # Errors
/// When they cannot be listed.
pub(super) async fn all(asked: &Asked) -> S3Result<Response> {
    let failed = |e: fs::tree::TreeError| S3Error::of(&e, Wrong::NoSuchBucket);
    let most = asked.query.number("max-buckets", BUCKETS)?.unwrap_or(BUCKETS) as usize;
    let prefix = asked.query.bytes("prefix").unwrap_or_default();
    let token = asked.query.get("continuation-token").unwrap_or_default();
    let after = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
    let mut first: BinaryHeap<(Vec<u8>, Time)> = BinaryHeap::new();
    let mut more = false;
    let mut listing = asked.view.list(&TreePath::default()).await.map_err(failed)?;
    loop {
        let entries = listing.next().await.map_err(failed)?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            let is_one = entry.attr.kind == Kind::Directory && keys::is_shown(&entry.name);
            if is_one && entry.name.starts_with(prefix) && entry.name > after {
                first.push((entry.name, entry.attr.btime));
            }
            if first.len() > most.max(1) {
                first.pop();
                more = true;
            }
        }
    }
    let sorted = first.into_sorted_vec();
    let mut xml = Xml::new("ListAllMyBucketsResult");
    xml.owner("Owner", &asked.user).open("Buckets");
    for (name, made) in &sorted {
        xml.open("Bucket").text("Name", String::from_utf8_lossy(name));
        xml.text("CreationDate", times::iso(*made)).close("Bucket");
    }
    xml.close("Buckets");
    if let Some((last, _)) = sorted.last().filter(|_| more) {
        xml.text("ContinuationToken", URL_SAFE_NO_PAD.encode(last));
    }
    Ok(document(xml.end("ListAllMyBucketsResult")))
}

/// PUT of a bucket.
///
/// # Errors
/// When it may not be made, or a file has the name.
pub(super) async fn make(asked: &Asked, body: &[u8]) -> S3Result<Response> {
    if !keys::may_be_made(&asked.bucket) {
        let why = "a bucket has 3 to 63 lower-case letters, digits, dots and hyphens, as names of hosts have them";
        return Err(S3Error::new(Wrong::InvalidBucketName, why));
    }
    answers::canned(asked)?;
    if asked.header("x-amz-bucket-object-lock-enabled").is_some_and(|word| word == "true") {
        return Err(S3Error::not_there("object lock"));
    }
    if asked.header("x-amz-object-ownership").is_some_and(|word| word != "BucketOwnerEnforced") {
        let why = "objects belong to who puts them, as files do, and there are no lists of access: BucketOwnerEnforced is the only ownership";
        return Err(S3Error::new(Wrong::InvalidArgument, why));
    }
    if !body.is_empty() {
        // Wherever it is said to be, it is here.
        elements::read(body, |_, _: Seen<'_>| Ok(()))?;
    }
    match asked.view.make_directory(&asked.bucket()?).await {
        Ok(_) => {}
        // As AWS in its first region: it is the bucket of whoever asks.
        Err(e) if e.is_there_already() => drop(asked.there().await?),
        Err(e) => return Err(S3Error::of(&e, Wrong::NoSuchBucket)),
    }
    let mut response = StatusCode::OK.into_response();
    insert(&mut response, "location", &format!("/{}", String::from_utf8_lossy(&asked.bucket)));
    Ok(response)
}

/// DELETE of an empty bucket.
///
/// # Errors
/// When it is not empty, or not there.
pub(super) async fn remove(asked: &Asked) -> S3Result<Response> {
    let (path, _) = asked.there().await?;
    let _alone = asked.door.folders.write().await;
    let itself = asked.view.stat_itself(&path).await;
    let itself = itself.map_err(|e| S3Error::of(&e, Wrong::NoSuchBucket))?;
    if itself.kind != Kind::Directory {
        let why =
            "the bucket is a symbolic link that the mount has made, and there it can be deleted";
        return Err(S3Error::new(Wrong::KeyConflict, why));
    }
    match asked.view.remove(&path, Replaces::Only(itself.ino)).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(e) if e.trouble() == fs::tree::Trouble::WrongKind => {
            Err(S3Error::new(Wrong::BucketNotEmpty, "there is something in the bucket"))
        }
        Err(e) => Err(S3Error::of(&e, Wrong::NoSuchBucket)),
    }
}

/// HEAD of a bucket.
///
/// # Errors
/// When it is not there.
pub(super) async fn head(asked: &Asked) -> S3Result<Response> {
    asked.there().await?;
    let mut response = StatusCode::OK.into_response();
    insert(&mut response, "x-amz-bucket-region", "us-east-1");
    Ok(response)
}
