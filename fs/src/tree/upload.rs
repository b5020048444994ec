//! Writing a new file: under no name until it is whole and stored, then in its place in one step. What had the name is
//! replaced, and who has that open goes on reading it.
//!
//! Nobody sees a file that is being written. Dropped, it is deleted; after a crash it is, too, as all that has no name.

use std::ops::Range;

use bytes::Bytes;
use meta::{Attr, Ino, Kind, MetaError, Outdated, Replaces, Time};

use super::folder::Folder;
use super::may::ACCESS_LIST;
use super::read::OpenFile;
use super::walk::Last;
use super::{BadPath, TreePath, TreeResult, View, renamed};
use crate::error::FsError;
use crate::filesystem::beside::Held;
use crate::filesystem::{Change, SetTime};

/// Permissions that a new file is asked for with.
const FILE_MODE: u32 = 0o666;
/// What of a mode another file gets, too: never set-id bits.
const PERMISSIONS: u32 = 0o777;
/// What of that a file's group may do.
const GROUP: u32 = 0o070;
/// Attributes that users give.
const USERS: &[u8] = b"user.";

/// A file that is being written.
pub struct Upload {
    view: View,
    held: Held,
    path: TreePath,
    written: u64,
}

impl View {
    /// Begins to write a file that is to be at `path`.
    ///
    /// # Errors
    /// When there is no directory for it, a directory has its name, or it may not be created.
    pub async fn upload(&self, path: &TreePath) -> TreeResult<Upload> {
        self.writes()?;
        let (dir, _) = self.may_put(path).await?;
        let mode = self.mode_to_create(&dir, Kind::File, FILE_MODE);
        let held = self.filesystem.create_nameless(self.caller(), dir.ino, mode).await?;
        Ok(Upload { view: self.clone(), held, path: path.clone(), written: 0 })
    }

    /// The directory where a new file may be put at `path`, and what it would replace.
    pub(super) async fn may_put(&self, path: &TreePath) -> TreeResult<(Attr, Option<Attr>)> {
        let (dir, _, before) = self.walk(path, Last::Itself).await?.entry()?;
        self.may(&dir, |who, dir| match &before {
            Some(before) => who.remove(dir, before),
            None => who.create(dir, Kind::File),
        })
        .await?;
        match before {
            Some(before) if before.kind == Kind::Directory => Err(FsError::IsDirectory.into()),
            before => Ok((dir, before)),
        }
    }
}

/// Gives an inode the attributes that users gave another one, as far as they may be read.
pub(super) async fn copy_attributes(view: &View, from: &Attr, to: Ino) -> TreeResult<()> {
    let (filesystem, requester) = (&view.filesystem, view.requester());
    let list = filesystem.listxattr(requester, from.ino).await?;
    for name in list.split(|byte| *byte == 0).filter(|name| name.starts_with(USERS)) {
        if view.may(from, |who, inode| who.getxattr(inode, name)).await.is_err() {
            continue;
        }
        match filesystem.getxattr(from.ino, name).await {
            Ok(value) => filesystem.setxattr(requester, to, name, &value, None).await?,
            // Somebody took it away meanwhile.
            Err(FsError::Meta(MetaError::NoAttribute)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

impl Upload {
    /// Adds bytes at its end. Waits while there is too much that is not stored.
    ///
    /// # Errors
    /// When there is no room, or nothing can be stored. It can only be dropped then.
    pub async fn write(&mut self, bytes: Bytes) -> TreeResult<()> {
        let len = bytes.len() as u64;
        if len > 0 {
            let filesystem = self.held.filesystem();
            filesystem.write(self.held.ino(), self.written, bytes, None).await?;
            self.written += len;
        }
        Ok(())
    }

    /// Adds bytes of a file at its end, short at the end of that, which moves none that are stored: it has the same
    /// extents.
    ///
    /// # Errors
    /// As [`Upload::write`].
    pub async fn write_copy(&mut self, from: &OpenFile, range: Range<u64>) -> TreeResult<()> {
        let (filesystem, requester) = (self.held.filesystem(), self.view.requester());
        let mut at = range.start;
        while at < range.end {
            let (from, to) = ((from.ino(), at), (self.held.ino(), self.written));
            let more = filesystem.copy_range(requester, from, to, range.end - at).await?;
            if more == 0 {
                break;
            }
            (at, self.written) = (at + more, self.written + more);
        }
        Ok(())
    }

    /// Gives it an attribute of users (`user.`).
    ///
    /// # Errors
    /// When it has no room.
    pub async fn set_attribute(&self, name: &[u8], value: &[u8]) -> TreeResult<()> {
        let filesystem = self.held.filesystem();
        Ok(filesystem.setxattr(self.view.requester(), self.ino(), name, value, None).await?)
    }

    /// Takes an attribute of users (`user.`) away, if it has that.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn remove_attribute(&self, name: &[u8]) -> TreeResult<()> {
        match self.held.filesystem().removexattr(self.ino(), name).await {
            Err(FsError::Meta(MetaError::NoAttribute)) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// Its attributes so far.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn attr(&self) -> TreeResult<Attr> {
        Ok(self.held.filesystem().getattr(self.ino()).await?)
    }

    /// Gives it all that belongs to the file that it replaces beside its bytes, and the owner, too, where that can be
    /// given away.
    ///
    /// # Errors
    /// When it has no room, or cannot be had.
    pub async fn in_place_of(&self, before: &Attr) -> TreeResult<()> {
        let (viewer, requester) = (self.view.viewer(), self.view.requester());
        let filesystem = self.held.filesystem();
        let uid = (viewer.uid == 0).then_some(before.uid);
        let gid = (viewer.uid == 0 || viewer.gids.contains(&before.gid)).then_some(before.gid);
        if uid.is_some() || gid.is_some() {
            let change = Change { uid, gid, ..Change::default() };
            filesystem.setattr(requester, self.ino(), change).await?;
        }
        match gid {
            Some(_) => self.like(before).await,
            // What its group might do is not for another one.
            None => {
                self.permit(before.mode & !GROUP, None).await?;
                copy_attributes(&self.view, before, self.ino()).await
            }
        }
    }

    /// It was last changed then, and not when it came in.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub async fn modified_at(&self, time: Time) -> TreeResult<()> {
        let change = Change { mtime: Some(SetTime::To(time)), ..Change::default() };
        let filesystem = self.held.filesystem();
        filesystem.setattr(self.view.requester(), self.ino(), change).await?;
        Ok(())
    }

    /// Gives it the permissions, and the attributes of users as far as they may be read, of the file that it is a
    /// copy of.
    ///
    /// # Errors
    /// When they have no room, or cannot be had.
    pub async fn like(&self, other: &Attr) -> TreeResult<()> {
        let list = self.view.stored_access_list(other.ino).await?;
        self.permit(other.mode, list.as_deref()).await?;
        copy_attributes(&self.view, other, self.ino()).await
    }

    /// Gives it these permissions, and no others than this access list allows: what it has got of its directory's default
    /// list goes.
    async fn permit(&self, mode: u32, list: Option<&[u8]>) -> TreeResult<()> {
        let (filesystem, own) = (self.held.filesystem(), self.ino());
        let requester = self.view.requester();
        match list {
            Some(list) => filesystem.setxattr(requester, own, ACCESS_LIST, list, None).await?,
            None => filesystem.removexattr(own, ACCESS_LIST).await?,
        }
        let mode = mode & PERMISSIONS;
        if filesystem.getattr(own).await?.mode & PERMISSIONS != mode {
            let change = Change { mode: Some(mode), ..Change::default() };
            filesystem.setattr(requester, own, change).await?;
        }
        Ok(())
    }

    /// The inode that it will be.
    pub(super) fn ino(&self) -> Ino {
        self.held.ino()
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// It is whole: puts it in its place. Answers its attributes; all of it is durable then.
    ///
    /// # Errors
    /// [`MetaError::Exists`] or [`MetaError::NotFound`] when something else has its name than `replaces` allows. Where
    /// it could not be stored, it may have got its name or not.
    pub async fn finish(self, replaces: Replaces) -> TreeResult<Attr> {
        View::through(async move { self.finish_at(&self.path, replaces).await }).await
    }

    /// Has it got its name? It may have before what makes that durable has failed.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub async fn has_name(&self) -> TreeResult<bool> {
        Ok(self.held.filesystem().getattr(self.ino()).await?.nlink > 0)
    }

    /// Makes durable what has got its name. Answers its attributes.
    ///
    /// # Errors
    /// When that cannot be done.
    pub async fn settle(&self) -> TreeResult<Attr> {
        self.view.writes()?;
        self.view.settle(Vec::new()).await?;
        Ok(self.held.filesystem().getattr(self.ino()).await?)
    }

    /// The same as [`Upload::finish`], at this path, wherever it was meant to be; and where it gets no name it stays as it was.
    /// Not for one that has got its name already. Whoever waits for it has to wait to the end.
    ///
    /// # Errors
    /// As [`Upload::finish`].
    pub async fn finish_at(&self, path: &TreePath, replaces: Replaces) -> TreeResult<Attr> {
        let view = &self.view;
        // What only reads by now may have begun when it did not.
        view.writes()?;
        let (dir, before) = view.may_put(path).await?;
        let (_, name) = path.split().ok_or(BadPath::Root)?;
        if before.is_none() && matches!(replaces, Replaces::Only(_)) {
            return Err(MetaError::NotFound.into());
        }
        self.named(dir.ino, name, replaces).await
    }

    /// The same, under a name of this very directory, whatever its path leads to by now.
    ///
    /// # Errors
    /// As [`Upload::finish_at`].
    pub async fn finish_in(
        self,
        folder: &Folder,
        name: &[u8],
        replaces: Replaces,
    ) -> TreeResult<Attr> {
        self.view.writes()?;
        let dir = *folder.attr();
        let before = folder.look(name).await?;
        self.view
            .may(&dir, |who, dir| match &before {
                Some(before) => who.remove(dir, before),
                None => who.create(dir, Kind::File),
            })
            .await?;
        if before.is_some_and(|before| before.kind == Kind::Directory) {
            return Err(FsError::IsDirectory.into());
        }
        let name = name.to_vec();
        View::through(async move { self.named(dir.ino, &name, replaces).await }).await
    }

    /// Gives it this name, and returns when that is durable.
    async fn named(&self, dir: Ino, name: &[u8], replaces: Replaces) -> TreeResult<Attr> {
        let Self { view, held, .. } = self;
        let gone = held.filesystem().place(held, dir, name, (replaces, view.viewer().uid)).await?;
        let mut outdated: Vec<Outdated> = renamed(dir, name).into();
        outdated.extend(gone.map(Outdated::Attributes));
        view.settle(outdated).await?;
        Ok(held.filesystem().getattr(held.ino()).await?)
    }

    /// Returns when all that was written so far is stored: what is left to do for its name is short then.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn stored(&self) -> TreeResult<()> {
        Ok(self.held.filesystem().store(&self.held).await?)
    }
}
