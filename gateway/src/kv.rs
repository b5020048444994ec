//! Key-value: numbered databases that do not see each other, each a directory `kv/{number}` with a file for each key.
//!
//! A database is there once something was put into it. A put replaces in one step, and is durable when it is answered;
//! those that come at once share one entry of the metadata's journal. What cannot be told by HTTP and by lines of JSON
//! alike is here: the rest is `http`, `lines`, and `text` for both.

use std::collections::BinaryHeap;

use ::http::HeaderMap;
use bytes::Bytes;
use fs::tree::{OpenFile, TreePath, Upload, View};
use meta::{Kind, Replaces};

use crate::names::key_of;
use crate::refusal::{Code, Refusal};
use crate::shelf::Shelf;

#[cfg(any(test, feature = "decoders"))]
pub(crate) mod decoders;
mod http;
mod lines;
mod text;

pub(crate) use http::routes;
pub(crate) use lines::Lines;

/// Where databases are.
const DIRECTORY: &[u8] = b"kv";
/// Longest value, in bytes.
const VALUE_MAX: u64 = 16 << 20;
/// Keys of one answer, unless more or fewer are asked for; at most.
const KEYS: usize = 1000;
const KEYS_MAX: usize = 10_000;

/// One database.
struct Database {
    shelf: Shelf,
}

/// Keys in their order: the first so many behind some key.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    keys: Vec<Vec<u8>>,
    /// There are more behind them.
    more: bool,
}

/// Finds the keys of a page among any number in any order, of which it keeps no more than it needs.
struct Gather<'a> {
    after: &'a [u8],
    limit: usize,
    found: BinaryHeap<Vec<u8>>,
    more: bool,
}

impl<'a> Gather<'a> {
    fn new(after: &'a [u8], limit: usize) -> Self {
        Self { after, limit, found: BinaryHeap::new(), more: false }
    }

    fn add(&mut self, key: Vec<u8>) {
        if key.as_slice() <= self.after {
            return;
        }
        self.found.push(key);
        if self.found.len() > self.limit {
            self.found.pop();
            self.more = true;
        }
    }

    fn page(self) -> Page {
        Page { keys: self.found.into_sorted_vec(), more: self.more }
    }
}

impl Database {
    /// The one of this number, as he sees it whose view this is.
    fn of(view: View, number: u32) -> Self {
        let directory = TreePath::of_name(DIRECTORY).expect("it is a name");
        let directory = directory.join(number.to_string().as_bytes()).expect("and so is a number");
        Self { shelf: Shelf::new(view, directory, Code::NoSuchKey) }
    }

    /// Of what is not there: is it the key, or all of the database?
    async fn missing(&self, refusal: Refusal) -> Refusal {
        let directory = self.shelf.directory();
        let absent = match refusal.code {
            Code::NoSuchKey => self.shelf.view().stat(directory).await,
            _ => return refusal,
        };
        match absent {
            Err(e) if e.is_not_found() => {
                let why = "nothing was ever put into this database";
                Refusal::new(Code::NoSuchDatabase, why)
            }
            _ => refusal,
        }
    }

    async fn open(&self, key: &[u8]) -> Result<OpenFile, Refusal> {
        match self.shelf.open(key).await {
            Err(refusal) => Err(self.missing(refusal).await),
            opened => opened,
        }
    }

    async fn begin(&self, key: &[u8]) -> Result<Upload, Refusal> {
        self.shelf.begin(key).await
    }

    /// A value that is there as a whole.
    async fn put(&self, key: &[u8], value: Bytes) -> Result<(), Refusal> {
        if value.len() as u64 > VALUE_MAX {
            let why = format!("a value of {} bytes; {VALUE_MAX} are possible", value.len());
            return Err(Refusal::new(Code::TooLarge, why));
        }
        let mut upload = self.begin(key).await?;
        let written = async {
            upload.write(value).await?;
            upload.finish(Replaces::Anything).await
        };
        written.await.map(drop).map_err(|e| Refusal::of(&e, Code::Conflict))
    }

    /// If that is what the headers of a request allow.
    async fn delete(&self, key: &[u8], headers: &HeaderMap) -> Result<(), Refusal> {
        match self.shelf.remove(key, headers).await {
            Err(refusal) => Err(self.missing(refusal).await),
            removed => removed,
        }
    }

    /// The keys behind `after`, the first so many in the order of their bytes.
    async fn keys(&self, after: &[u8], limit: usize) -> Result<Page, Refusal> {
        let listed = async {
            let mut listing = self.shelf.view().list(self.shelf.directory()).await?;
            let mut gather = Gather::new(after, limit);
            loop {
                let entries = listing.next().await?;
                if entries.is_empty() {
                    return Ok(gather.page());
                }
                let files = entries.iter().filter(|entry| entry.attr.kind == Kind::File);
                files.filter_map(|entry| key_of(&entry.name)).for_each(|key| gather.add(key));
                // A long listing lets others go in between.
                tokio::task::yield_now().await;
            }
        };
        match listed.await {
            Ok(page) => Ok(page),
            Err(e) => Err(self.missing(self.shelf.refused(&e)).await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_first_keys_in_order_whatever_the_order_they_come_in() {
        let all: Vec<Vec<u8>> =
            (0..100u32).map(|n| format!("{:02}", n * 37 % 100).into()).collect();
        let page = |after: &[u8], limit| {
            let mut gather = Gather::new(after, limit);
            all.iter().cloned().for_each(|key| gather.add(key));
            assert!(gather.found.len() <= limit);
            let Page { keys, more } = gather.page();
            (
                keys.iter().map(|key| String::from_utf8(key.clone()).unwrap()).collect::<Vec<_>>(),
                more,
            )
        };
        assert_eq!(page(b"", 3), (vec!["00".into(), "01".into(), "02".into()], true));
        assert_eq!(page(b"96", 3), (vec!["97".into(), "98".into(), "99".into()], false));
        assert_eq!(page(b"97x", 3), (vec!["98".into(), "99".into()], false));
        assert_eq!(page(b"99", 3), (vec![], false));
    }
}
