//! Files by their keys, in one directory of the tree: what refs and each database are.

use axum::body::Body;
use fs::tree::{OpenFile, TreeError, TreePath, TreeResult, Upload, View};
use http::HeaderMap;
use meta::{Attr, Kind, Replaces};

use crate::names::name_of;
use crate::refusal::{Code, Refusal};
use crate::{conditions, transfer};

/// A directory of files by their keys. It is made when the first is put there.
pub(crate) struct Shelf {
    view: View,
    directory: TreePath,
    /// What is said of a key that is not there.
    missing: Code,
}

impl Shelf {
    /// At this place.
    pub(crate) fn new(view: View, directory: TreePath, missing: Code) -> Self {
        Self { view, directory, missing }
    }

    /// What is seen.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &TreePath {
        &self.directory
    }

    fn path(&self, key: &[u8]) -> Result<TreePath, Refusal> {
        let joined = self.directory.join(&name_of(key)?);
        joined.map_err(|e| Refusal::new(Code::BadRequest, e.to_string()))
    }

    /// In words of this shelf.
    pub(crate) fn refused(&self, error: &TreeError) -> Refusal {
        let refusal = Refusal::of(error, self.missing);
        match refusal.code {
            code if code == self.missing => Refusal::new(code, "there is no such key here"),
            _ => refusal,
        }
    }

    /// What has this key so far.
    ///
    /// # Errors
    /// When it is no key, or cannot be found out.
    async fn before(&self, key: &[u8]) -> Result<Option<Attr>, Refusal> {
        match self.view.stat_itself(&self.path(key)?).await {
            Ok(attr) => Ok(Some(attr)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(self.refused(&e)),
        }
    }

    /// What the headers of a request allow to be replaced at this key.
    ///
    /// # Errors
    /// When it is not what is there.
    async fn allows(&self, key: &[u8], headers: &HeaderMap) -> Result<Replaces, Refusal> {
        match conditions::are_there(headers) {
            true => conditions::replaces(headers, self.before(key).await?.as_ref()),
            false => Ok(Replaces::Anything),
        }
    }

    /// Opens what has this key.
    ///
    /// # Errors
    /// When nothing has.
    pub(crate) async fn open(&self, key: &[u8]) -> Result<OpenFile, Refusal> {
        self.view.open(&self.path(key)?).await.map_err(|e| self.refused(&e))
    }

    /// Begins to write what is to have this key.
    ///
    /// # Errors
    /// When it may not be written, or has no room.
    pub(crate) async fn begin(&self, key: &[u8]) -> Result<Upload, Refusal> {
        let path = self.path(key)?;
        let begun: TreeResult<Upload> = async {
            match self.view.upload(&path).await {
                Err(e) if e.is_not_found() => {
                    self.view.make_directories(&self.directory).await?;
                    self.view.upload(&path).await
                }
                begun => begun,
            }
        }
        .await;
        begun.map_err(|e| Refusal::of(&e, Code::Conflict))
    }

    /// Puts a body of at most `limit` bytes there, if that is what the headers of its request allow.
    ///
    /// # Errors
    /// Whatever is wrong; nothing has changed then.
    pub(crate) async fn store(
        &self,
        key: &[u8],
        (headers, body): (&HeaderMap, &mut Body),
        limit: u64,
    ) -> Result<Attr, Refusal> {
        self.allows(key, headers).await?;
        let mut upload = self.begin(key).await?;
        transfer::receive(headers, body, &mut upload, limit).await?;
        // It may have changed since.
        let replaces = self.allows(key, headers).await?;
        upload.finish(replaces).await.map_err(|e| conditions::refused(&e, replaces))
    }

    /// Takes away what has this key, if that is what the headers of a request allow.
    ///
    /// # Errors
    /// When nothing has, or something else.
    pub(crate) async fn remove(&self, key: &[u8], headers: &HeaderMap) -> Result<(), Refusal> {
        let none = || Refusal::new(self.missing, "there is no such key here");
        let before = self.before(key).await?;
        let which = conditions::replaces(headers, before.as_ref())?;
        let before = before.ok_or_else(none)?;
        if before.kind == Kind::Directory {
            return Err(Refusal::new(Code::Conflict, "a directory has this name"));
        }
        let removed = self.view.remove(&self.path(key)?, which).await;
        removed.map_err(|e| match which {
            Replaces::Only(_) => conditions::refused(&e, which),
            _ => self.refused(&e),
        })
    }
}
