//! Tags of objects and of buckets: asked for, set and taken away.

use axum::response::{IntoResponse, Response};
use fs::tree::TreePath;
use http::StatusCode;

use super::asked::Asked;
use super::attributes::{FOLDER, TAGS};
use super::error::{S3Error, S3Result, Wrong};
use super::keys::Key;
use super::object::{FolderMark, open};
use super::tags::{BUCKET, OBJECT, Tags};

/// Has the file or folder of this path these tags from now on.
async fn set(asked: &Asked, path: &TreePath, tags: &Tags) -> S3Result<()> {
    let done = match tags.kept() {
        Some(kept) => asked.view.set_attribute(path, TAGS, &kept).await,
        None if asked.view.attribute(path, TAGS).await.is_ok_and(|kept| kept.is_none()) => Ok(()),
        None => asked.view.remove_attribute(path, TAGS).await,
    };
    done.map_err(|e| S3Error::of(&e, Wrong::NoSuchKey))
}

/// The same, of a folder. One that is given tags is an object from then on, as if it had been put: so it does not go with
/// what lies in it.
async fn set_of_folder(asked: &Asked, key: &Key, tags: Tags) -> S3Result<()> {
    let failed = |e: fs::tree::TreeError| S3Error::of(&e, Wrong::NoSuchKey);
    // Nobody else puts it meanwhile, or takes it away.
    let _alone = asked.door.folders.write().await;
    drop(open(asked, key).await?);
    let kept = asked.view.attribute(&key.path, FOLDER).await.map_err(failed)?;
    let mark = FolderMark::read(kept.as_deref()).unwrap_or_default();
    if mark.tags == tags {
        return Ok(());
    }
    let kept = FolderMark { put: true, tags, ..mark }.kept();
    asked.view.set_attribute(&key.path, FOLDER, &kept).await.map_err(failed)
}

/// `?tagging` of an object.
///
/// # Errors
/// When there is none, or tags are more than may be.
pub(super) async fn of_object(asked: &Asked, body: &[u8]) -> S3Result<Response> {
    asked.of_this_version()?;
    let key = asked.key()?;
    let object = open(asked, &key).await?;
    let (tags, status) = match asked.method.as_str() {
        "PUT" => (Tags::of_document(body, OBJECT)?, StatusCode::OK),
        "DELETE" => (Tags::default(), StatusCode::NO_CONTENT),
        _ => return Ok(object.tags.document()),
    };
    if key.folder {
        set_of_folder(asked, &key, tags).await?;
    } else {
        set(asked, &key.path, &tags).await?;
    }
    Ok(status.into_response())
}

/// `?tagging` of a bucket.
///
/// # Errors
/// The same.
pub(super) async fn of_bucket(asked: &Asked, body: &[u8]) -> S3Result<Response> {
    let (path, _) = asked.there().await?;
    let tags = match asked.method.as_str() {
        "PUT" => Tags::of_document(body, BUCKET)?,
        "DELETE" => Tags::default(),
        _ => {
            let kept = asked.view.attribute(&path, TAGS).await;
            let kept = kept.map_err(|e| S3Error::of(&e, Wrong::NoSuchBucket))?;
            let tags = Tags::read(kept.as_deref());
            return match tags.is_empty() {
                true => Err(S3Error::new(Wrong::NoSuchTagSet, "the bucket has no tags")),
                false => Ok(tags.document()),
            };
        }
    };
    set(asked, &path, &tags).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
