//! A request, whose it is, and what it is about.

use std::sync::Arc;

use fs::tree::{TreeError, TreePath, Trouble, View};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use meta::{Attr, Kind};

use super::door::Door;
use super::error::{S3Error, S3Result, Wrong};
use super::keys::{self, Key};
use super::login::{LetIn, Payload, let_in};
use super::query::Query;
use super::signature::Chain;
use crate::refusal::Refusal;
use crate::server::Peer;

/// One request.
pub(super) struct Asked {
    pub(super) door: Arc<Door>,
    pub(super) view: View,
    /// Whose name it is.
    pub(super) user: String,
    pub(super) method: Method,
    /// Empty: none.
    pub(super) bucket: Vec<u8>,
    /// Empty: the bucket is meant.
    pub(super) key: Vec<u8>,
    pub(super) query: Query,
    /// Also those that a signed address has in their place.
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    pub(super) chain: Option<Chain>,
}

impl Asked {
    /// As the head of a request says.
    ///
    /// # Errors
    /// When whoever sends it is not let in, or it makes no sense.
    pub(super) async fn of(
        door: &Arc<Door>,
        head: &Parts,
        from: (Peer, Result<(), Refusal>),
    ) -> S3Result<Self> {
        let query = Query::parse(head.uri.query().unwrap_or_default())?;
        query.once()?;
        let let_in = let_in(door, head, &query, from).await?;
        let LetIn { view, user, payload, chain, presigned } = let_in;
        let mut headers = head.headers.clone();
        if presigned {
            add_signed(&mut headers, &query);
        }
        let path = head.uri.path();
        let (bucket, key) = match bucket_of_host(&headers, &door.hosts) {
            Some(bucket) => (bucket, keys::split(&format!("/-{path}")).1),
            None => keys::split(path),
        };
        let (door, method) = (door.clone(), head.method.clone());
        Ok(Self { door, view, user, method, bucket, key, query, headers, payload, chain })
    }

    /// A header, as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap_or_default())
    }

    /// The bucket's folder.
    ///
    /// # Errors
    /// When it is no name.
    pub(super) fn bucket(&self) -> S3Result<TreePath> {
        keys::bucket(&self.bucket)
    }

    /// The key.
    ///
    /// # Errors
    /// When no file can have it.
    pub(super) fn key(&self) -> S3Result<Key> {
        Key::of(&self.bucket()?, self.key.clone())
    }

    /// The bucket's folder, which is there.
    ///
    /// # Errors
    /// When it is not.
    pub(super) async fn there(&self) -> S3Result<(TreePath, Attr)> {
        let path = self.bucket()?;
        let attr = self.view.stat(&path).await.map_err(|e| no_bucket(&e))?;
        match attr.kind {
            Kind::Directory => Ok((path, attr)),
            _ => Err(S3Error::new(Wrong::NoSuchBucket, "there is no such bucket")),
        }
    }

    /// What is said of an object that cannot be had: is it the object that is not there, or its bucket?
    pub(super) async fn missing(&self, error: &TreeError) -> S3Error {
        match error.trouble() {
            Trouble::NotFound | Trouble::WrongKind => match self.there().await {
                Ok(_) => no_key(),
                Err(why) => why,
            },
            _ => S3Error::of(error, Wrong::NoSuchKey),
        }
    }

    /// Versions are off: the one of an object is `null`.
    ///
    /// # Errors
    /// When another one is asked for.
    pub(super) fn of_this_version(&self) -> S3Result<()> {
        match self.query.get("versionId") {
            None | Some("null") => Ok(()),
            Some(_) => {
                let why = "versions are off here: the only one of an object is null";
                Err(S3Error::new(Wrong::NoSuchVersion, why))
            }
        }
    }
}

/// There is no such object.
pub(super) fn no_key() -> S3Error {
    S3Error::new(Wrong::NoSuchKey, "there is no such object")
}

/// What is said of a bucket that cannot be had.
pub(super) fn no_bucket(error: &TreeError) -> S3Error {
    match error.trouble() {
        Trouble::NotFound | Trouble::WrongKind => {
            S3Error::new(Wrong::NoSuchBucket, "there is no such bucket")
        }
        _ => S3Error::of(error, Wrong::NoSuchBucket),
    }
}

/// Headers that are said by a signed address.
fn add_signed(headers: &mut HeaderMap, query: &Query) {
    for (name, value) in query.all() {
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
        let value = HeaderValue::from_bytes(value);
        if let (Ok(name), Ok(value)) = (name, value)
            && name.as_str().starts_with("x-amz-")
            && !headers.contains_key(&name)
        {
            headers.insert(name, value);
        }
    }
}

/// The bucket that a request names by its host: what stands before a name of this machine, or before one that begins
/// with `s3.`, as names of this machine may, too.
fn bucket_of_host(headers: &HeaderMap, hosts: &[String]) -> Option<Vec<u8>> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_ascii_lowercase();
    let before =
        |known: &String| name.strip_suffix(&*known.to_ascii_lowercase())?.strip_suffix('.');
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    let bucket = hosts.iter().find_map(before).or_else(|| name.split_once(".s3.").map(|two| two.0));
    let bucket = bucket.map(|bucket| bucket.strip_suffix(".s3").unwrap_or(bucket));
    bucket
        .filter(|bucket| !bucket.is_empty() && *bucket != "s3" && !is_address)
        .map(|bucket| bucket.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_before_hosts() {
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned(), "Box".to_owned()];
        let bucket = |host: &str| {
            let headers = [(header::HOST, host.parse().unwrap())].into_iter().collect();
            bucket_of_host(&headers, &hosts).map(|name| String::from_utf8(name).unwrap())
        };
        assert_eq!(bucket("photos.localhost:7482"), Some("photos".into()));
        assert_eq!(bucket("a.b.box"), Some("a.b".into()));
        assert_eq!(bucket("photos.s3.example.org"), Some("photos".into()));
        assert_eq!(bucket("Photos.s3.box:7482"), Some("photos".into()));
        for none in [
            "localhost:7482",
            "127.0.0.1",
            "s3.example.org:1",
            "s3.box:7482",
            "s3.localhost",
            "example.org",
            "[::1]:7",
            ".box",
            "xbox",
        ] {
            assert_eq!(bucket(none), None, "{none}");
        }
    }
}
