//! A look at the trash: what is in it that was within a subtree, and where.

use std::collections::HashMap;
use std::sync::Arc;

use meta::{Above, Ino, MetaError, MetaStore, ROOT, Time, Trashed};

/// What is looked at in one transaction.
const PAGE: usize = 256;
/// What is looked at for one answer, whatever of it is shown.
const LOOKED_MOST: usize = 20_000;
/// Longest way up that is followed, in directories.
const DEPTH_MOST: usize = 4096;

/// Where to go on: behind what was deleted then, and is this.
pub type Place = (Time, Ino);

/// A way down from the subtree's root to a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Way {
    /// The names.
    pub(crate) names: Vec<Box<[u8]>>,
    /// The directories, the last one first below the root.
    pub(crate) dirs: Vec<Step>,
}

/// A directory on a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// It.
    pub(crate) ino: Ino,
    /// It is in the trash.
    pub(crate) in_trash: bool,
}

impl Way {
    /// Does it lead through something that is in the trash itself?
    pub(crate) fn is_in_trash(&self) -> bool {
        self.dirs.iter().any(|step| step.in_trash)
    }
}

/// Something in the trash, and where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// It.
    pub(crate) trashed: Trashed,
    /// The way to the directory that it was in.
    pub(crate) way: Arc<Way>,
}

impl Entry {
    /// Its path from the subtree's root.
    pub(crate) fn path(&self) -> Vec<Box<[u8]>> {
        let own = self.trashed.name.clone().into_boxed_slice();
        self.way.names.iter().cloned().chain([own]).collect()
    }
}

/// What shall be shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    /// What this user has deleted, or is his; `None`: all of it.
    pub(crate) whose: Option<u32>,
    /// Also what was deleted from folders that are in the trash themselves: it comes back with them.
    pub(crate) all: bool,
    /// What is at this path or below.
    pub(crate) under: Vec<Box<[u8]>>,
}

/// Looks at the trash from the root of a subtree. It remembers ways, and so is for one answer.
pub(crate) struct Look<'a> {
    meta: &'a dyn MetaStore,
    root: Ino,
    /// `None`: it is not in the subtree.
    known: HashMap<Ino, Option<Arc<Way>>>,
}

impl<'a> Look<'a> {
    /// From this root.
    pub(crate) fn new(meta: &'a dyn MetaStore, root: Ino) -> Self {
        Self { meta, root, known: HashMap::new() }
    }

    /// The way to a directory; `None`: it is not in the subtree.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub(crate) async fn way_to(&mut self, dir: Ino) -> Result<Option<Arc<Way>>, MetaError> {
        let mut up: Vec<(Ino, Above)> = Vec::new();
        let mut at = dir;
        let mut way = loop {
            if at == self.root {
                break Some(Arc::default());
            }
            if at == ROOT || up.len() > DEPTH_MOST {
                break None;
            }
            if let Some(known) = self.known.get(&at) {
                break known.clone();
            }
            let above = match self.meta.above(at).await {
                // It has no name any more, or what is above is damaged.
                Err(MetaError::NotFound | MetaError::Damaged(_)) => break None,
                above => above?,
            };
            let next = above.dir;
            up.push((at, above));
            at = next;
        };
        for (ino, Above { name, in_trash, .. }) in up.into_iter().rev() {
            way = way.map(|way| {
                let mut way = Way::clone(&way);
                way.names.push(name.into());
                way.dirs.push(Step { ino, in_trash });
                Arc::new(way)
            });
            self.known.insert(ino, way.clone());
        }
        Ok(way)
    }

    /// Something in the trash; `None`: it is not there, or not for who wishes so.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub(crate) async fn one(
        &mut self,
        ino: Ino,
        whose: Option<u32>,
    ) -> Result<Option<Entry>, MetaError> {
        let trashed = match self.meta.trashed(ino).await {
            Err(MetaError::NotFound) => return Ok(None),
            found => found?,
        };
        if !is_whose(&trashed, whose) {
            return Ok(None);
        }
        let way = self.way_to(trashed.dir).await?;
        Ok(way.map(|way| Entry { trashed, way }))
    }

    /// What is in the trash, what was deleted last first, at most `limit`; and where to go on. `None`: there is no more. A
    /// list may be short, or empty, and not the last.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub(crate) async fn list(
        &mut self,
        wish: &Wish,
        mut after: Option<Place>,
        limit: usize,
    ) -> Result<(Vec<Entry>, Option<Place>), MetaError> {
        let (mut found, mut looked) = (Vec::new(), 0);
        loop {
            let page = self.meta.newest_trash(after, PAGE).await?;
            let is_last = page.len() < PAGE;
            for trashed in page {
                if found.len() == limit || looked == LOOKED_MOST {
                    return Ok((found, after));
                }
                looked += 1;
                after = Some((trashed.when, trashed.attr.ino));
                if !is_whose(&trashed, wish.whose) {
                    continue;
                }
                let Some(way) = self.way_to(trashed.dir).await? else { continue };
                let entry = Entry { trashed, way };
                let shown = wish.all || !entry.way.is_in_trash();
                if shown && entry.path().starts_with(&wish.under) {
                    found.push(entry);
                }
            }
            if is_last {
                return Ok((found, None));
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Has this user deleted it, or is it his?
fn is_whose(trashed: &Trashed, whose: Option<u32>) -> bool {
    whose.is_none_or(|uid| trashed.by == uid || trashed.attr.uid == uid)
}
