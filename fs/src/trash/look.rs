//! A look at the trash: what is in it that was within a subtree, and where.

use std::collections::{BTreeSet, HashMap};
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

/// A way down from the subtree's root to a directory. Ways share what they have in common: a clone costs nothing, however deep.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way(Option<Arc<Step>>);

/// A directory on a way.
#[derive(Debug)]
pub(crate) struct Step {
    above: Way,
    /// It.
    pub(crate) ino: Ino,
    /// Its name in the one above.
    pub(crate) name: Box<[u8]>,
    /// It is in the trash.
    pub(crate) in_trash: bool,
    /// It is there, and not for whoever looks: others have deleted it, and it is theirs.
    pub(crate) of_others: bool,
}

impl Drop for Step {
    fn drop(&mut self) {
        // One after the other: there may be more of them than a stack has room for.
        let mut next = self.above.0.take();
        while let Some(step) = next {
            next = Arc::into_inner(step).and_then(|mut step| step.above.0.take());
        }
    }
}

impl Way {
    /// From its end up.
    fn up(&self) -> impl Iterator<Item = &Step> {
        std::iter::successors(self.0.as_deref(), |step| step.above.0.as_deref())
    }

    /// Its directories, the first one below the root first.
    pub(crate) fn steps(&self) -> Vec<&Step> {
        let mut steps: Vec<&Step> = self.up().collect();
        steps.reverse();
        steps
    }

    /// Does what is at its end come back with something else that whoever looks is shown?
    fn comes_back_with_another(&self) -> bool {
        self.up().any(|step| step.in_trash && !step.of_others)
    }
}

/// Something in the trash, and where it was.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// It.
    pub(crate) trashed: Trashed,
    /// The way to the directory that it was in.
    pub(crate) way: Way,
}

impl Entry {
    /// Its path from the subtree's root.
    pub(crate) fn path(&self) -> Vec<Box<[u8]>> {
        let own = self.trashed.name.clone().into_boxed_slice();
        let above = self.way.steps().into_iter().map(|step| step.name.clone());
        above.chain([own]).collect()
    }
}

/// What shall be shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    /// Also what was deleted from folders that are shown themselves: it comes back with them.
    pub(crate) all: bool,
    /// What is at this path or below.
    pub(crate) under: Vec<Box<[u8]>>,
}

/// Looks at the trash from the root of a subtree. It remembers ways, and so is for one answer.
pub(crate) struct Look<'a> {
    meta: &'a dyn MetaStore,
    root: Ino,
    /// What this user has deleted, or is his; `None`: all of it.
    whose: Option<u32>,
    /// `None`: it is not in the subtree.
    known: HashMap<Ino, Option<Way>>,
    /// Where directories are whose ways are not known yet.
    above: HashMap<Ino, Above>,
}

impl<'a> Look<'a> {
    /// From this root, for this user; `None`: all of it is shown.
    pub(crate) fn new(meta: &'a dyn MetaStore, root: Ino, whose: Option<u32>) -> Self {
        Self { meta, root, whose, known: HashMap::new(), above: HashMap::new() }
    }

    /// Learns where these directories are, and those above them, as far as that is not known: all that are as deep at once, so that
    /// a directory that has many of them is not looked through for each.
    async fn learn(&mut self, dirs: impl Iterator<Item = Ino>) -> Result<(), MetaError> {
        let mut wanted: BTreeSet<Ino> = dirs.filter(|dir| self.is_new(*dir)).collect();
        let mut depth = 0;
        while !wanted.is_empty() && depth <= DEPTH_MOST {
            let all: Vec<Ino> = wanted.into_iter().collect();
            let found = self.meta.above(&all).await?;
            let next = found.values().map(|above| above.dir);
            wanted = next.filter(|dir| self.is_new(*dir) && !found.contains_key(dir)).collect();
            self.above.extend(found);
            depth += 1;
        }
        Ok(())
    }

    fn is_new(&self, dir: Ino) -> bool {
        let is_end = dir == self.root || dir == ROOT;
        !is_end && !self.known.contains_key(&dir) && !self.above.contains_key(&dir)
    }

    /// The way to a directory; `None`: it is not in the subtree.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub(crate) async fn way_to(&mut self, dir: Ino) -> Result<Option<Way>, MetaError> {
        self.learn(std::iter::once(dir)).await?;
        let mut up: Vec<(Ino, Above)> = Vec::new();
        let mut at = dir;
        let mut way = loop {
            if at == self.root {
                break Some(Way::default());
            }
            if at == ROOT || up.len() > DEPTH_MOST {
                break None;
            }
            if let Some(known) = self.known.get(&at) {
                break known.clone();
            }
            // It has no name any more, or what is above is damaged.
            let Some(above) = self.above.remove(&at) else { break None };
            let next = above.dir;
            up.push((at, above));
            at = next;
        };
        for (ino, Above { name, in_trash, .. }) in up.into_iter().rev() {
            way = match way {
                None => None,
                Some(above) => {
                    let of_others = in_trash && self.is_of_others(ino).await?;
                    let name = name.into();
                    Some(Way(Some(Arc::new(Step { above, ino, name, in_trash, of_others }))))
                }
            };
            self.known.insert(ino, way.clone());
        }
        if way.is_none() {
            self.known.insert(dir, None);
        }
        Ok(way)
    }

    /// Is this one in the trash of others? What somebody wants gone hides what was in it from all.
    async fn is_of_others(&self, ino: Ino) -> Result<bool, MetaError> {
        match self.meta.trashed(ino).await {
            Ok(trashed) => Ok(!is_whose(&trashed, self.whose)),
            Err(MetaError::NotFound | MetaError::Damaged(_)) => Ok(false),
            Err(why) => Err(why),
        }
    }

    /// Something in the trash; `None`: it is not there, or not for whoever looks.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub(crate) async fn one(&mut self, ino: Ino) -> Result<Option<Entry>, MetaError> {
        let trashed = match self.meta.trashed(ino).await {
            Err(MetaError::NotFound) => return Ok(None),
            found => found?,
        };
        if !is_whose(&trashed, self.whose) {
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
            let own: Vec<Ino> = page
                .iter()
                .filter(|trashed| is_whose(trashed, self.whose))
                .map(|trashed| trashed.dir)
                .collect();
            self.learn(own.into_iter()).await?;
            for trashed in page {
                if found.len() == limit || looked == LOOKED_MOST {
                    return Ok((found, after));
                }
                looked += 1;
                after = Some((trashed.when, trashed.attr.ino));
                if !is_whose(&trashed, self.whose) {
                    continue;
                }
                let Some(way) = self.way_to(trashed.dir).await? else { continue };
                let entry = Entry { trashed, way };
                let shown = wish.all || !entry.way.comes_back_with_another();
                if shown && (wish.under.is_empty() || entry.path().starts_with(&wish.under)) {
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
pub(crate) fn is_whose(trashed: &Trashed, whose: Option<u32>) -> bool {
    whose.is_none_or(|uid| trashed.by == uid || trashed.attr.uid == uid)
}
