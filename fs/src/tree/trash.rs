//! The trash as a viewer sees it: what was within the subtree and he has deleted, or is his; root sees all of it.
//!
//! What is deleted by a door on purpose goes there in one step, a folder with all that is in it, whatever the volume does with
//! what others delete. To put something back one needs what a rename to that place needs.

use meta::may::WRITE;
use meta::{Attr, Ino, Kind, MetaError, Replaces, Time};

use super::change::Named;
use super::walk::Last;
use super::{TreeError, TreePath, TreeResult, Trouble, View};
use crate::error::FsError;
use crate::trash::back::{Done, Plan};
use crate::trash::look::{Entry, Look, Wish, is_whose};

pub use crate::trash::look::Place as TrashPlace;

/// What is looked at in one step.
const PAGE: usize = 256;

/// Something in the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InTrash {
    /// It, with its number; it has no links.
    pub attr: Attr,
    /// Where it was.
    pub path: TreePath,
    /// When it was deleted.
    pub when: Time,
    /// The user who did.
    pub by: u32,
}

/// What is in a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// All that can be seen there.
    Tree,
    /// And what had been deleted from it.
    AndTrash,
}

impl View {
    /// Days that whatever is deleted stays in the trash. 0: only what is put there on purpose does.
    pub fn trash_days(&self) -> u16 {
        self.filesystem.trash_days()
    }

    /// Days that what is in the trash is kept.
    pub fn kept_days(&self) -> u16 {
        self.filesystem.kept_days()
    }

    /// Puts something into the trash, a folder with all that is in it, if it is what `which` allows. Answers its number there;
    /// `None`: it has other names yet, and is not there.
    ///
    /// # Errors
    /// As [`View::remove`], but that a folder need not be empty; then whoever deletes it has to be allowed to write to it, and
    /// it is [`TreeError::NotWhole`] when something in it may not be deleted.
    pub async fn discard(&self, path: &TreePath, which: Replaces) -> TreeResult<Option<Ino>> {
        self.writes()?;
        let (view, path) = (self.clone(), path.clone());
        Self::through(async move {
            let named = view.removable(&path, which).await?;
            view.may_go_whole(&named.found).await?;
            let kept = view.put_into_trash(&named).await?;
            view.removed(&named).await?;
            Ok(kept)
        })
        .await
    }

    /// Deletes something for good, a folder with all that is in it, if it is what `which` allows, also where whatever is
    /// deleted goes to the trash.
    ///
    /// # Errors
    /// As [`View::discard`]; also when others have something in the trash that was in it.
    pub async fn delete_for_good(&self, path: &TreePath, which: Replaces) -> TreeResult<()> {
        self.writes()?;
        let (view, path) = (self.clone(), path.clone());
        Self::through(async move {
            let named = view.removable(&path, which).await?;
            view.may_go_with(&named.found, Inside::AndTrash).await?;
            if let Some(kept) = view.put_into_trash(&named).await? {
                view.filesystem.give_up_trash(&[kept]).await?;
            }
            view.removed(&named).await
        })
        .await
    }

    async fn put_into_trash(&self, named: &Named) -> TreeResult<Option<Ino>> {
        let found = &named.found;
        self.filesystem.discard(self.viewer().uid, named.entry(), found.ino).await?;
        Ok((found.kind == Kind::Directory || found.nlink == 1).then_some(found.ino))
    }

    /// May this go to the trash with all that is in it? When its days are over all of that goes, and nobody is asked.
    pub(super) async fn may_go_whole(&self, there: &Attr) -> TreeResult<()> {
        self.may_go_with(there, Inside::Tree).await
    }

    async fn may_go_with(&self, there: &Attr, inside: Inside) -> TreeResult<()> {
        if there.kind != Kind::Directory {
            return Ok(());
        }
        self.may(there, |who, dir| who.access(dir, WRITE)).await?;
        match self.may_delete_all(there, inside).await {
            Err(e) if e.trouble() == Trouble::Denied => Err(TreeError::NotWhole),
            may => may,
        }
    }

    fn whose(&self) -> Option<u32> {
        Some(self.viewer().uid).filter(|uid| *uid != 0)
    }

    fn look(&self) -> Look<'_> {
        Look::new(&*self.filesystem.meta, self.viewer().root, self.whose())
    }

    /// What is in the trash, what was deleted last first, at most `limit`, without what comes back with a folder, nor what lay
    /// too deep to have a path; and where to go on. A list may be short, or empty, and not the last.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn trash(
        &self,
        after: Option<TrashPlace>,
        limit: usize,
    ) -> TreeResult<(Vec<InTrash>, Option<TrashPlace>)> {
        let (page, next) = self.look().list(&Wish::default(), after, limit).await?;
        let found = page.iter().filter_map(|entry| {
            let path = TreePath::of_names(entry.path().iter()).ok()?;
            let attr = self.filesystem.overlay(entry.trashed.attr);
            Some(InTrash { attr, path, when: entry.trashed.when, by: entry.trashed.by })
        });
        Ok((found.collect(), next))
    }

    async fn entry_in_trash(&self, ino: Ino) -> TreeResult<Entry> {
        let found = self.look().one(ino).await?;
        found.ok_or_else(|| MetaError::NotFound.into())
    }

    /// Where something in the trash was.
    ///
    /// # Errors
    /// [`MetaError::NotFound`] when it is not there, for this viewer; [`TreeError::Path`] when it lay too deep to have a path.
    pub async fn was_at(&self, ino: Ino) -> TreeResult<TreePath> {
        let entry = self.entry_in_trash(ino).await?;
        Ok(TreePath::of_names(entry.path().iter())?)
    }

    /// Puts something back: where it was, with the folders that it was in, or to this place; if something is there, and
    /// `replace` says so, that goes to the trash. An empty folder comes back with what had been deleted together with it.
    ///
    /// # Errors
    /// When it is not there, for this viewer, or may not be put there; [`MetaError::Exists`] when something is there, or in the
    /// place of a folder that it was in.
    pub async fn restore(&self, ino: Ino, to: Option<&TreePath>, replace: bool) -> TreeResult<()> {
        self.writes()?;
        let (view, to) = (self.clone(), to.cloned());
        Self::through(async move {
            let entry = view.entry_in_trash(ino).await?;
            let (meta, root) = (&view.filesystem.meta, view.viewer().root);
            let plan = match to {
                None => Plan::home(&**meta, root, &entry).await?,
                Some(to) => {
                    let (dir, name, _) = view.walk(&to, Last::Itself).await?.entry()?;
                    Plan::to(dir.ino, &name)
                }
            };
            view.may_put_back(&plan, &entry.trashed.attr).await?;
            let by = (view.viewer().uid, view.whose());
            let mut done = Done::default();
            let restored = plan.carry_out(&**meta, &entry.trashed, replace, by, &mut done).await;
            // Folders may have come before it, or something with it, though it has not, or not all.
            let Done { outdated, inos } = done;
            view.filesystem.revived(&inos);
            view.settle(outdated).await?;
            Ok(restored?)
        })
        .await
    }

    async fn may_put_back(&self, plan: &Plan, attr: &Attr) -> TreeResult<()> {
        if plan.of_others {
            return Err(TreeError::FolderOfOthers);
        }
        for dir in plan.into() {
            let dir = self.filesystem.getattr(dir).await?;
            self.may(&dir, |who, dir| who.create(dir, attr.kind)).await?;
        }
        if attr.kind == Kind::Directory {
            self.may(attr, |who, dir| who.access(dir, WRITE)).await?;
        }
        let (dir, name) = &plan.to;
        if let Some(there) = self.filesystem.glance(*dir, name).await? {
            let dir = self.filesystem.getattr(*dir).await?;
            self.may(&dir, |who, dir| who.remove(dir, &there)).await?;
            self.may_go_whole(&there).await?;
        }
        Ok(())
    }

    /// Deletes something in the trash for good.
    ///
    /// # Errors
    /// When it is not there, for this viewer, or something in it may not be deleted, or others have something in the trash that
    /// was in it.
    pub async fn delete_in_trash(&self, ino: Ino) -> TreeResult<()> {
        self.writes()?;
        let view = self.clone();
        Self::through(async move {
            let entry = view.entry_in_trash(ino).await?;
            view.may_delete_all(&entry.trashed.attr, Inside::AndTrash).await?;
            view.filesystem.give_up_trash(&[ino]).await?;
            view.settle(Vec::new()).await
        })
        .await
    }

    /// Deletes all that this viewer sees in the trash for good, if it was deleted before this time. Answers how many, and how
    /// many of them may not be.
    ///
    /// # Errors
    /// When metadata cannot be had, or changed.
    pub async fn empty_trash(&self, before: Time) -> TreeResult<(u64, u64)> {
        self.writes()?;
        let view = self.clone();
        Self::through(async move {
            // What was deleted then, or later, is newer.
            let (mut after, mut gone, mut denied) = (Some((before, Ino(0))), 0, 0);
            let wish = Wish { all: true, ..Wish::default() };
            loop {
                let (page, next) = view.look().list(&wish, after, PAGE).await?;
                let mut inos = Vec::with_capacity(page.len());
                for Entry { trashed, .. } in page {
                    match view.may_delete_all(&trashed.attr, Inside::AndTrash).await {
                        Ok(()) => inos.push(trashed.attr.ino),
                        Err(_) => denied += 1,
                    }
                }
                view.filesystem.give_up_trash(&inos).await?;
                gone += inos.len() as u64;
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            view.settle(Vec::new()).await?;
            Ok((gone, denied))
        })
        .await
    }

    /// May all in a folder be deleted?
    async fn may_delete_all(&self, attr: &Attr, inside: Inside) -> TreeResult<()> {
        if self.viewer().uid == 0 || attr.kind != Kind::Directory {
            return Ok(());
        }
        let mut folders = vec![*attr];
        while let Some(folder) = folders.pop() {
            if inside == Inside::AndTrash {
                folders.extend(self.own_trash_of(folder.ino).await?);
            }
            let mut cookie = 0;
            loop {
                let page = self.filesystem.readdir(folder.ino, cookie, PAGE).await?;
                let is_last = page.len() < PAGE;
                cookie = page.last().map_or(cookie, |last| last.cookie);
                let inside = page.into_iter().filter(|e| !matches!(&e.name[..], b"." | b".."));
                for entry in inside {
                    if entry.damaged {
                        return Err(FsError::NotPermitted.into());
                    }
                    self.may(&folder, |who, dir| who.remove(dir, &entry.attr)).await?;
                    folders.extend(Some(entry.attr).filter(|attr| attr.kind == Kind::Directory));
                }
                if is_last {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Folders in the trash that were in this one. Refuses when anything is there that is not for this viewer.
    async fn own_trash_of(&self, folder: Ino) -> TreeResult<Vec<Attr>> {
        let (mut folders, mut after) = (Vec::new(), None);
        loop {
            let page = self.filesystem.meta.trash_of(folder, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(folders) };
            after = Some(last.attr.ino);
            // What is wanted gone goes in any case.
            for one in page.iter().filter(|one| one.when != Time::default()) {
                if !is_whose(one, self.whose()) {
                    return Err(FsError::NotPermitted.into());
                }
                folders.extend(Some(one.attr).filter(|attr| attr.kind == Kind::Directory));
            }
            tokio::task::yield_now().await;
        }
    }
}
