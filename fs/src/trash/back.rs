//! Putting something back from the trash: where it was, or at another place.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use meta::{Ino, Kind, MetaError, MetaStore, Outdated, Time, Trashed};

use super::look::{Entry, Look, Wish, is_whose};

/// What is looked at in one transaction.
const PAGE: usize = 1000;
/// What was deleted from a folder longer than this before what was deleted from it next was deleted by itself, in seconds.
const TOGETHER: i64 = 3600;

/// A directory, and a name in it.
type Named = (Ino, Box<[u8]>);

/// Where something is put back, and what has to be put back before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Folders in the trash that come first: each with its place.
    folders: Vec<(Ino, Named)>,
    /// Where it comes to.
    pub(crate) to: Named,
    /// One of the folders is in the trash of others.
    pub(crate) of_others: bool,
}

/// What was put back.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// What the kernel has to forget.
    pub(crate) outdated: Vec<Outdated>,
    /// All that has come back.
    pub(crate) inos: Vec<Ino>,
}

impl Done {
    fn note(&mut self, ino: Ino, (dir, name): &Named) {
        let name = Outdated::Name(*dir, name.clone());
        self.outdated.extend([name, Outdated::Content(*dir), Outdated::Attributes(ino)]);
        self.inos.push(ino);
    }
}

impl Plan {
    /// To this place.
    pub(crate) fn to(dir: Ino, name: &[u8]) -> Self {
        Self { folders: Vec::new(), to: (dir, name.into()), of_others: false }
    }

    /// To where it was. Of a folder on the way that is in the trash, another one may have the name by now: then it comes into
    /// that one.
    ///
    /// # Errors
    /// [`MetaError::Exists`] when something else has the name of such a folder; when metadata cannot be had.
    pub(crate) async fn home(
        meta: &dyn MetaStore,
        root: Ino,
        entry: &Entry,
    ) -> Result<Self, MetaError> {
        let (mut folders, mut at, mut stays) = (Vec::new(), root, true);
        let mut of_others = false;
        for step in entry.way.steps() {
            if stays && !step.in_trash {
                at = step.ino;
                continue;
            }
            stays = false;
            match meta.lookup(at, &step.name).await {
                Ok(there) if there.kind == Kind::Directory => at = there.ino,
                Err(MetaError::NotFound) if step.in_trash => {
                    of_others |= step.of_others;
                    folders.push((step.ino, (at, step.name.clone())));
                    at = step.ino;
                }
                Ok(_) | Err(MetaError::NotFound) => return Err(MetaError::Exists),
                Err(why) => return Err(why),
            }
        }
        Ok(Self { folders, to: (at, entry.trashed.name.clone().into()), of_others })
    }

    /// The directories that something is put into.
    pub(crate) fn into(&self) -> impl Iterator<Item = Ino> {
        self.folders.iter().map(|(_, (dir, _))| *dir).chain([self.to.0])
    }

    /// Puts it back, with all that comes with it, and notes in `done` what has come back, all of it or not. `replaces`: what is
    /// there goes to the trash in its place, else it is [`MetaError::Exists`]. `by`: the user who does it; `whose`: of whom
    /// something comes with it, `None`: of anybody.
    ///
    /// # Errors
    /// When it is not there any more, or the place is gone, or metadata cannot be changed. Folders that came first stay.
    pub(crate) async fn carry_out(
        &self,
        meta: &dyn MetaStore,
        trashed: &Trashed,
        replaces: bool,
        (by, whose): (u32, Option<u32>),
        done: &mut Done,
    ) -> Result<(), MetaError> {
        for (ino, to) in &self.folders {
            meta.restore(*ino, (to.0, &to.1), false, by).await?;
            done.note(*ino, to);
        }
        let ino = trashed.attr.ino;
        let gone = meta.restore(ino, (self.to.0, &self.to.1), replaces, by).await?;
        done.note(ino, &self.to);
        done.outdated.extend(gone.map(|gone| Outdated::Attributes(gone.ino)));
        if trashed.attr.kind == Kind::Directory {
            contents(meta, trashed, (by, whose), done).await?;
        }
        Ok(())
    }
}

/// Puts back what had been deleted together with a folder that has come back empty, and with folders that come back so.
async fn contents(
    meta: &dyn MetaStore,
    folder: &Trashed,
    (by, whose): (u32, Option<u32>),
    done: &mut Done,
) -> Result<(), MetaError> {
    let mut folders = vec![folder.clone()];
    while let Some(folder) = folders.pop() {
        // `.` and `..` are listed, too.
        if meta.readdir(folder.attr.ino, 0, 3).await?.len() > 2 {
            continue;
        }
        let all = all_of(meta, folder.attr.ino).await?;
        for (name, one) in together(&folder, all, whose) {
            let to = (folder.attr.ino, name);
            match meta.restore(one.attr.ino, (to.0, &to.1), false, by).await {
                // Somebody was faster.
                Err(MetaError::Exists | MetaError::NotFound) => continue,
                restored => drop(restored?),
            }
            done.note(one.attr.ino, &to);
            if one.attr.kind == Kind::Directory {
                folders.push(one);
            }
        }
    }
    Ok(())
}

/// All in the trash that was in a folder.
async fn all_of(meta: &dyn MetaStore, folder: Ino) -> Result<Vec<Trashed>, MetaError> {
    let mut all: Vec<Trashed> = Vec::new();
    loop {
        let after = all.last().map(|one| one.attr.ino);
        let page = meta.trash_of(folder, after, PAGE).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

/// Of all that was deleted from a folder what went with it, as `rm -r` has it go: by the same user, one after the other up to the
/// folder itself. Of each name what was deleted last.
fn together(
    folder: &Trashed,
    mut all: Vec<Trashed>,
    whose: Option<u32>,
) -> BTreeMap<Box<[u8]>, Trashed> {
    let given_up = Time::default();
    all.retain(|one| one.when != given_up && one.by == folder.by && is_whose(one, whose));
    all.sort_by_key(|one| Reverse((one.when, one.attr.ino)));
    let (mut found, mut next) = (BTreeMap::new(), folder.when);
    for one in all {
        if next.secs.saturating_sub(one.when.secs) > TOGETHER {
            break;
        }
        next = one.when;
        found.entry(one.name.clone().into()).or_insert(one);
    }
    found
}

/// All that anybody has at a path in the trash, or below: what was deleted last first, and each with the folders that it was in.
///
/// # Errors
/// When metadata cannot be had.
pub(crate) async fn at_or_below(
    meta: &dyn MetaStore,
    root: Ino,
    wish: &Wish,
) -> Result<Vec<Entry>, MetaError> {
    let (mut look, mut after) = (Look::new(meta, root, None), None);
    let mut all = Vec::new();
    loop {
        let (page, next) = look.list(wish, after, PAGE).await?;
        if let Some(exact) = page.iter().find(|entry| entry.path() == wish.under) {
            return Ok(vec![exact.clone()]);
        }
        all.extend(page);
        match next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use meta::Attr;

    use super::*;

    fn deleted(ino: u64, name: &str, secs: i64, by: u32) -> Trashed {
        let when = Time { secs, nanos: 0 };
        let attr = Attr {
            ino: Ino(ino),
            kind: Kind::File,
            mode: 0,
            nlink: 0,
            uid: 7,
            gid: 7,
            rdev: 0,
            xattrs: 0,
            size: 0,
            stored: 0,
            atime: when,
            mtime: when,
            ctime: when,
            btime: when,
        };
        Trashed { attr, dir: Ino(2), name: name.into(), when, by }
    }

    #[test]
    fn a_folder_comes_back_with_what_went_with_it_and_not_with_what_was_deleted_long_before() {
        const AT: i64 = 1_000_000;
        let folder = deleted(2, "folder", AT, 7);
        let all = vec![
            deleted(3, "a", AT - 90 * 60, 7),
            deleted(4, "b", AT - 50 * 60, 7),
            deleted(5, "b", AT - 10, 7),
            deleted(6, "others", AT - 20, 8),
            deleted(7, "c", AT - 90 * 60 - TOGETHER - 1, 7),
            deleted(8, "given up", 0, 7),
            // By a clock that was set back meanwhile.
            deleted(9, "later", AT + 5, 7),
        ];
        let found = |whose| {
            let found = together(&folder, all.clone(), whose).into_values();
            found.map(|one| one.attr.ino.0).collect::<Vec<_>>()
        };
        assert_eq!(found(None), [3, 5, 9]);
        assert_eq!(found(Some(7)), [3, 5, 9]);
        assert!(found(Some(9)).is_empty());
    }
}
