//! One directory whose names are looked at one by one: a door that lists names in an order of its own comes back to many
//! of them, and does not walk to it each time.

use meta::may::READ;
use meta::{Attr, Looked, MetaError};

use super::{TreePath, TreeResult, View};
use crate::error::FsError;
use crate::filesystem::beside::Held;

/// A directory that may be read and searched.
pub struct Folder {
    view: View,
    held: Held,
    attr: Attr,
}

impl View {
    /// A directory to look into.
    ///
    /// # Errors
    /// When it is none, or may not be read and searched.
    pub async fn folder(&self, path: &TreePath) -> TreeResult<Folder> {
        let attr = self.directory(path).await?;
        self.may(&attr, |who, dir| who.access(dir, READ)).await?;
        self.may(&attr, |who, dir| who.search(dir)).await?;
        let (held, attr) = self.filesystem.hold(attr.ino).await?.ok_or(MetaError::NotFound)?;
        Ok(Folder { view: self.clone(), held, attr })
    }
}

impl Folder {
    /// As it was when it was looked for.
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// What a name of it is, a link itself, if it is any.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn look(&self, name: &[u8]) -> TreeResult<Option<Attr>> {
        Ok(self.view.filesystem.glance(self.held.ino(), name).await?)
    }

    /// The same of many names, in their order, each with an attribute that users gave (`user.`), as far as that may be read.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn look_at(
        &self,
        names: &[Vec<u8>],
        attribute: &[u8],
    ) -> TreeResult<Vec<Option<Looked>>> {
        let filesystem = &self.view.filesystem;
        let mut found = filesystem.glance_at(self.held.ino(), names, attribute).await?;
        for one in found.iter_mut().flatten() {
            if one.value.is_none() {
                continue;
            }
            let may = self.view.may(&one.attr, |who, inode| who.getxattr(inode, attribute)).await;
            if may.is_err() {
                one.value = None;
            }
        }
        Ok(found)
    }

    /// Is there nothing in it?
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn is_empty(&self) -> TreeResult<bool> {
        // Beside `.` and `..`.
        Ok(self.view.filesystem.readdir(self.held.ino(), 0, 3).await?.len() < 3)
    }

    /// An attribute that users gave (`user.`) what a name of it is, as far as it may be read.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn attribute_of(&self, attr: &Attr, name: &[u8]) -> TreeResult<Option<Vec<u8>>> {
        if self.view.may(attr, |who, inode| who.getxattr(inode, name)).await.is_err() {
            return Ok(None);
        }
        match self.view.filesystem.getxattr(attr.ino, name).await {
            Ok(value) => Ok(Some(value)),
            // It went meanwhile.
            Err(FsError::Meta(MetaError::NoAttribute | MetaError::NotFound)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}
