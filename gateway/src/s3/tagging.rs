//! Tags of objects and of buckets.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use fs::tree::TreePath;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::attributes::{FOLDER, TAGS};
use super::error::{S3Error, S3Result, Wrong};
use super::object::{FolderMark, open};
use super::query::Query;
use super::xml::{self, Seen, Xml};
use crate::s3::serve::document;

/// Tags of an object, and of a bucket, as AWS has it.
const OBJECT: usize = 10;
const BUCKET: usize = 50;
/// Letters of a key, and of a value.
const KEY: usize = 128;
const VALUE: usize = 256;

/// Names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Tags(BTreeMap<String, String>);

fn wrong(why: impl Into<String>) -> S3Error {
    S3Error::new(Wrong::InvalidTag, why)
}

impl Tags {
    /// Are there none?
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, key: String, value: String) -> S3Result<()> {
        if key.is_empty() || key.chars().count() > KEY || value.chars().count() > VALUE {
            return Err(wrong(format!("a key has 1 to {KEY} letters, a value up to {VALUE}")));
        }
        match self.0.insert(key, value) {
            Some(_) => Err(wrong("a key that is there twice")),
            None => Ok(()),
        }
    }

    fn at_most(self, most: usize) -> S3Result<Self> {
        let wrong = || wrong(format!("{} tags; {most} are possible", self.len()));
        if self.len() > most { Err(wrong()) } else { Ok(self) }
    }

    /// As `x-amz-tagging` has them.
    ///
    /// # Errors
    /// When they are more than may be.
    pub(super) fn of_header(asked: &Asked) -> S3Result<Self> {
        let mut tags = Self::default();
        // A form's, in which a plus is a space.
        let text = asked.header("x-amz-tagging").unwrap_or_default().replace('+', "%20");
        for (key, value) in Query::parse(&text)?.all() {
            tags.add(key.to_owned(), value.to_owned())?;
        }
        tags.at_most(OBJECT)
    }

    pub(super) fn of_document(body: &[u8], most: usize) -> S3Result<Self> {
        let (mut tags, mut all) = (Self::default(), Vec::<(String, String)>::new());
        xml::read(body, |path, seen| {
            match (path, seen) {
                (["Tagging", "TagSet", "Tag"], Seen::Begin) => all.push(Default::default()),
                (["Tagging", "TagSet", "Tag", name], Seen::Leaf(text)) => {
                    if let Some((key, value)) = all.last_mut() {
                        match *name {
                            "Key" => *key = text.to_owned(),
                            "Value" => *value = text.to_owned(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        for (key, value) in all {
            tags.add(key, value)?;
        }
        tags.at_most(most)
    }

    /// As they are kept.
    pub(super) fn kept(&self) -> Option<Vec<u8>> {
        (!self.is_empty()).then(|| serde_json::to_vec(self).expect("it is plain data"))
    }

    /// As they were kept.
    pub(super) fn read(kept: Option<&[u8]>) -> Self {
        kept.and_then(|kept| serde_json::from_slice(kept).ok()).unwrap_or_default()
    }

    fn document(&self) -> Response {
        let mut xml = Xml::new("Tagging");
        xml.open("TagSet");
        for (key, value) in &self.0 {
            xml.open("Tag").text("Key", key).text("Value", value).close("Tag");
        }
        xml.close("TagSet");
        document(xml.end("Tagging"))
    }
}

/// Has the file or folder of this path these tags from now on.
async fn set(asked: &Asked, path: &TreePath, tags: &Tags) -> S3Result<()> {
    let done = match tags.kept() {
        Some(kept) => asked.view.set_attribute(path, TAGS, &kept).await,
        None if asked.view.attribute(path, TAGS).await.is_ok_and(|kept| kept.is_none()) => Ok(()),
        None => asked.view.remove_attribute(path, TAGS).await,
    };
    done.map_err(|e| S3Error::of(&e, Wrong::NoSuchKey))
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
        let read = |e| S3Error::of(&e, Wrong::NoSuchKey);
        let kept = asked.view.attribute(&key.path, FOLDER).await.map_err(read)?;
        let mark = FolderMark::read(kept.as_deref()).unwrap_or_default();
        let kept = FolderMark { tags, ..mark }.kept();
        asked.view.set_attribute(&key.path, FOLDER, &kept).await.map_err(read)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_documents() {
        let tag =
            |key: &str, value: &str| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>");
        let read = |tags: String| {
            Tags::of_document(
                format!("<Tagging><TagSet>{tags}</TagSet></Tagging>").as_bytes(),
                OBJECT,
            )
        };
        let tags = read(tag("a", "1") + &tag("b", "")).unwrap();
        assert_eq!(Tags::read(tags.kept().as_deref()), tags);
        assert_eq!(tags.len(), 2);
        for bad in [
            tag("a", "1") + &tag("a", "2"),
            tag("", "1"),
            tag(&"k".repeat(129), "1"),
            tag("k", &"v".repeat(257)),
            (0..11).map(|n| tag(&n.to_string(), "")).collect(),
        ] {
            assert_eq!(read(bad).unwrap_err().wrong, Wrong::InvalidTag);
        }
        assert!(read(String::new()).unwrap().kept().is_none());
    }
}
