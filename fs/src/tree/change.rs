//! Names: directories made, and whatever taken away, moved or copied.

use meta::{Attr, Ino, Kind, MetaError, NewNode, Outdated, RenameMode, Replaces};

use super::upload::copy_attributes;
use super::walk::Last;
use super::{TreePath, TreeResult, View, renamed};
use crate::filesystem::privileges::Requester;

/// Permissions that a new directory or link is asked for with.
const MODE: u32 = 0o777;
/// What its owner alone may use.
const PRIVATE: u32 = 0o700;

/// No thread of this machine asks.
const NOBODY: Requester = Requester { uid: 0, gid: 0, thread: 0 };

/// What has a name of a directory.
pub(super) struct Named {
    dir: Ino,
    name: Box<[u8]>,
    /// It.
    pub(super) found: Attr,
}

impl Named {
    /// The directory, and the name.
    pub(super) fn entry(&self) -> (Ino, &[u8]) {
        (self.dir, &self.name[..])
    }
}

impl View {
    /// mkdir(2).
    ///
    /// # Errors
    /// When something has the name, or it may not be created.
    pub async fn make_directory(&self, path: &TreePath) -> TreeResult<Attr> {
        self.writes()?;
        self.make(path, Kind::Directory, MODE, NewNode::Directory, None).await
    }

    /// The same, of a directory for its owner alone.
    ///
    /// # Errors
    /// As [`View::make_directory`].
    pub async fn make_private_directory(&self, path: &TreePath) -> TreeResult<Attr> {
        self.writes()?;
        self.make(path, Kind::Directory, PRIVATE, NewNode::Directory, None).await
    }

    /// The same, of a directory that nobody may use who may not use that one, with the attributes of users that it has.
    ///
    /// # Errors
    /// As [`View::make_directory`].
    pub async fn make_directory_like(&self, path: &TreePath, other: &Attr) -> TreeResult<Attr> {
        self.writes()?;
        // With an access list, what a mode says of the group is what any of those in the list may at most.
        let group = match self.stored_access_list(other.ino).await? {
            Some(_) => 0,
            None => 0o070,
        };
        let mode = other.mode & (0o707 | group) | 0o700;
        self.make(path, Kind::Directory, mode, NewNode::Directory, Some(*other)).await
    }

    /// Makes a symbolic link with the target of another one.
    ///
    /// # Errors
    /// When there is no such link, something has the name, or it may not be created.
    pub async fn copy_link(&self, from: &TreePath, to: &TreePath) -> TreeResult<Attr> {
        self.writes()?;
        let source = self.stat_itself(from).await?;
        let target = self.filesystem.readlink(source.ino).await?;
        self.make(to, Kind::Symlink, MODE, NewNode::Symlink(target), None).await
    }

    /// With the attributes that users gave `other`, if any.
    async fn make(
        &self,
        path: &TreePath,
        kind: Kind,
        mode: u32,
        node: NewNode,
        other: Option<Attr>,
    ) -> TreeResult<Attr> {
        let (view, path) = (self.clone(), path.clone());
        Self::through(async move {
            let (dir, name, before) = view.walk(&path, Last::Itself).await?.entry()?;
            if before.is_some() {
                return Err(MetaError::Exists.into());
            }
            view.may(&dir, |who, dir| who.create(dir, kind)).await?;
            let filesystem = &view.filesystem;
            let made = filesystem.create(view.caller(), dir.ino, &name, mode, node).await?;
            // Nobody has it open.
            filesystem.forget(made.ino, 1);
            let alike = match other {
                Some(other) => copy_attributes(&view, &other, made.ino).await,
                None => Ok(()),
            };
            // It is there in any case.
            view.settle(renamed(dir.ino, &name).into()).await?;
            alike?;
            Ok(made)
        })
        .await
    }

    /// Sees to it that there is a directory, and those above it.
    ///
    /// # Errors
    /// When something else is there, or one may not be created.
    pub async fn make_directories(&self, path: &TreePath) -> TreeResult<()> {
        let mut at = TreePath::default();
        for name in path.names() {
            at = at.join(name)?;
            match self.stat(&at).await {
                Ok(attr) if attr.kind == Kind::Directory => continue,
                Ok(_) => return Err(MetaError::NotDirectory.into()),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
            match self.make_directory(&at).await {
                // Somebody else was faster.
                Err(e) if e.is_there_already() => {}
                made => drop(made?),
            }
        }
        Ok(())
    }

    /// unlink(2) of a file or link, rmdir(2) of an empty directory, if it is what `which` allows.
    ///
    /// # Errors
    /// When there is none, it is not empty, or may not be taken away; [`MetaError::Exists`] when it is something else.
    pub async fn remove(&self, path: &TreePath, which: Replaces) -> TreeResult<()> {
        self.writes()?;
        let (view, path) = (self.clone(), path.clone());
        Self::through(async move {
            let named = view.removable(&path, which).await?;
            let filesystem = &view.filesystem;
            let fate = filesystem.fate(view.viewer().uid, path.names().iter().map(|name| &**name));
            filesystem.remove(named.entry(), named.found.kind, fate).await?;
            view.removed(&named).await
        })
        .await
    }

    /// What a path names, which this viewer may take away, if it is what `which` allows.
    pub(super) async fn removable(&self, path: &TreePath, which: Replaces) -> TreeResult<Named> {
        let (dir, name, found) = self.walk(path, Last::Itself).await?.entry()?;
        let found = found.ok_or(MetaError::NotFound)?;
        which.allow(Some(found.ino))?;
        self.may(&dir, |who, dir| who.remove(dir, &found)).await?;
        Ok(Named { dir: dir.ino, name, found })
    }

    /// It is away.
    pub(super) async fn removed(&self, named: &Named) -> TreeResult<()> {
        let mut outdated: Vec<Outdated> = renamed(named.dir, &named.name).into();
        outdated.push(Outdated::Attributes(named.found.ino));
        self.settle(outdated).await
    }

    /// rename(2). What is replaced whole has to be what whoever does it may put into the trash ([`View::discard`]).
    ///
    /// # Errors
    /// When there is nothing to move, something is in the way, or it may not be moved; then all is where it was.
    pub async fn rename(&self, from: &TreePath, to: &TreePath, mode: RenameMode) -> TreeResult<()> {
        self.writes()?;
        let (view, from, to) = (self.clone(), from.clone(), to.clone());
        Self::through(async move {
            let (from_dir, from_name, source) = view.walk(&from, Last::Itself).await?.entry()?;
            let source = source.ok_or(MetaError::NotFound)?;
            let (to_dir, to_name, target) = view.walk(&to, Last::Itself).await?.entry()?;
            let swap = matches!(mode, RenameMode::Exchange);
            view.may_rename((&from_dir, &source), (&to_dir, target.as_ref()), swap).await?;
            if let (RenameMode::ReplaceWhole(_), Some(target)) = (mode, &target) {
                view.may_go_whole(target).await?;
            }
            let ends = ((from_dir.ino, &from_name[..]), (to_dir.ino, &to_name[..]));
            view.filesystem.rename(view.viewer().uid, ends.0, ends.1, mode).await?;
            let mut outdated: Vec<Outdated> = renamed(from_dir.ino, &from_name).into();
            outdated.extend(renamed(to_dir.ino, &to_name));
            outdated.push(Outdated::Attributes(source.ino));
            outdated.extend(target.map(|target| Outdated::Attributes(target.ino)));
            view.settle(outdated).await
        })
        .await
    }

    /// Copies a file, which moves no data: the copy has the same extents, and the same permissions and attributes of
    /// users. It gets its name in one step.
    ///
    /// # Errors
    /// When there is no such file, or it may not be read, or the copy not be created.
    pub async fn copy(
        &self,
        from: &TreePath,
        to: &TreePath,
        replaces: Replaces,
    ) -> TreeResult<Attr> {
        self.writes()?;
        let (view, from, to) = (self.clone(), from.clone(), to.clone());
        Self::through(async move {
            let source = view.open(&from).await?;
            let size = source.attr().size;
            let upload = view.upload(&to).await?;
            upload.like(source.attr()).await?;
            let mut copied = 0;
            while copied < size {
                let (from, to) = ((source.attr().ino, copied), (upload.ino(), copied));
                let more = view.filesystem.copy_range(NOBODY, from, to, size - copied).await?;
                if more == 0 {
                    break;
                }
                copied += more;
            }
            upload.finish(replaces).await
        })
        .await
    }
}
