//! Tags: names and values, as they are sent, kept and answered.

use std::collections::BTreeMap;

use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::document::document;
use super::elements::{self, Seen};
use super::error::{S3Error, S3Result, Wrong};
use super::query::Query;
use super::xml::Xml;

/// Tags of an object, as AWS has it.
pub(super) const OBJECT: usize = 10;
/// Tags of a bucket, as AWS has it.
pub(super) const BUCKET: usize = 50;
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
            let value = std::str::from_utf8(value).map_err(|_| wrong("it is not in UTF-8"))?;
            tags.add(key.to_owned(), value.to_owned())?;
        }
        tags.at_most(OBJECT)
    }

    pub(super) fn of_document(body: &[u8], most: usize) -> S3Result<Self> {
        let (mut tags, mut all) = (Self::default(), Vec::<(String, String)>::new());
        elements::read(body, |path, seen| {
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

    /// As an answer.
    pub(super) fn document(&self) -> Response {
        let mut xml = Xml::new("Tagging");
        xml.open("TagSet");
        for (key, value) in &self.0 {
            xml.open("Tag").text("Key", key).text("Value", value).close("Tag");
        }
        xml.close("TagSet");
        document(xml.end("Tagging"))
    }
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
