//! Listing a directory, a page at a time.

use meta::may::{EXECUTE, READ};
use meta::{Attr, DirEntry, Ino, MetaError};

use super::{TreePath, TreeResult, View};
use crate::filesystem::beside::Held;

/// Entries that one look at a directory fetches.
const PAGE: usize = 256;

/// A directory that is being listed. What comes and goes meanwhile may be in it or not; what stays is in it once.
pub struct Listing {
    held: Held,
    cookie: u64,
    ended: bool,
}

impl View {
    /// Begins to list a directory.
    ///
    /// # Errors
    /// When it is none, or may not be read.
    pub async fn list(&self, path: &TreePath) -> TreeResult<Listing> {
        self.list_after(path, 0).await
    }

    /// The same, behind the entry with this [`DirEntry::cookie`].
    ///
    /// # Errors
    /// As [`View::list`].
    pub async fn list_after(&self, path: &TreePath, cookie: u64) -> TreeResult<Listing> {
        let attr = self.directory(path).await?;
        Ok(Listing { cookie, ..self.begin_list(&attr).await? })
    }

    /// Begins to list this directory, and no other that the path leads to by now, by a link say.
    ///
    /// # Errors
    /// As [`View::list`]; when it is not there any more.
    pub async fn list_only(&self, path: &TreePath, directory: Ino) -> TreeResult<Listing> {
        let attr = self.directory(path).await?;
        match attr.ino == directory {
            true => self.begin_list(&attr).await,
            false => Err(MetaError::NotFound.into()),
        }
    }

    async fn begin_list(&self, attr: &Attr) -> TreeResult<Listing> {
        // More than names is told of what is in it.
        self.may(attr, |who, dir| who.access(dir, READ | EXECUTE)).await?;
        let held = self.filesystem.hold(attr.ino).await?.ok_or(MetaError::NotFound)?.0;
        Ok(Listing { held, cookie: 0, ended: false })
    }
}

impl Listing {
    /// The next entries, in an order of the directory's own, without `.` and `..`. Empty: there are no more.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn next(&mut self) -> TreeResult<Vec<DirEntry>> {
        let (ino, filesystem) = (self.held.ino(), self.held.filesystem());
        while !self.ended {
            let mut entries = filesystem.readdir(ino, self.cookie, PAGE).await?;
            filesystem.was_listed(ino);
            self.ended = entries.len() < PAGE;
            if let Some(last) = entries.last() {
                self.cookie = last.cookie;
            }
            entries.retain(|entry| !matches!(&entry.name[..], b"." | b".."));
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
        Ok(Vec::new())
    }
}
