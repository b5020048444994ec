//! Extended attributes.

use meta::{Attr, MetaError, Outdated};

use super::{TreePath, TreeResult, View};
use crate::filesystem::privileges::Requester;

impl View {
    /// getxattr(2). `None`: there is no such attribute.
    ///
    /// # Errors
    /// When there is no such file, or it may not be asked.
    pub async fn attribute(&self, path: &TreePath, name: &[u8]) -> TreeResult<Option<Vec<u8>>> {
        let attr = self.stat(path).await?;
        let value = async {
            self.may(&attr, |who, inode| who.getxattr(inode, name)).await?;
            Ok(self.filesystem.getxattr(attr.ino, name).await?)
        };
        match value.await {
            Ok(value) => Ok(Some(value)),
            Err(e) if super::trouble::is(&e, &MetaError::NoAttribute) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// listxattr(2).
    ///
    /// # Errors
    /// When there is no such file.
    pub async fn attributes(&self, path: &TreePath) -> TreeResult<Vec<Vec<u8>>> {
        let attr = self.stat(path).await?;
        let list = self.filesystem.listxattr(self.requester(), attr.ino).await?;
        let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    /// setxattr(2), whether it was there or not.
    ///
    /// # Errors
    /// When there is no such file, or it may not be set, or has no room.
    pub async fn set_attribute(
        &self,
        path: &TreePath,
        name: &[u8],
        value: &[u8],
    ) -> TreeResult<()> {
        let (name, value) = (name.to_vec(), value.to_vec());
        self.change_attribute(path, name, Some(value)).await
    }

    /// removexattr(2).
    ///
    /// # Errors
    /// When there is no such file or attribute, or it may not be removed.
    pub async fn remove_attribute(&self, path: &TreePath, name: &[u8]) -> TreeResult<()> {
        self.change_attribute(path, name.to_vec(), None).await
    }

    async fn change_attribute(
        &self,
        path: &TreePath,
        name: Vec<u8>,
        value: Option<Vec<u8>>,
    ) -> TreeResult<()> {
        self.writes()?;
        let (view, path) = (self.clone(), path.clone());
        Self::through(async move {
            let attr: Attr = view.stat(&path).await?;
            view.may(&attr, |who, inode| who.setxattr(inode, &name)).await?;
            let (filesystem, ino) = (&view.filesystem, attr.ino);
            match value {
                Some(value) => {
                    filesystem.setxattr(view.requester(), ino, &name, &value, None).await?;
                }
                None => filesystem.removexattr(ino, &name).await?,
            }
            // Access lists are kept with the attributes by the kernel.
            view.settle(vec![Outdated::Attributes(ino)]).await
        })
        .await
    }

    pub(super) fn requester(&self) -> Requester {
        let caller = self.caller();
        // No thread of this machine asks.
        Requester { uid: caller.uid, gid: caller.gid, thread: 0 }
    }
}
