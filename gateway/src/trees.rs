//! Folders with all that is in them: deleted, copied, moved.
//!
//! A move is one step; where it replaces a folder, or a folder something, and whatever is deleted goes to the trash, that goes there
//! in the same step; else it is put aside before, under a name of its own, and deleted once what comes has its place. A copy gets such a place when it is whole, and what was there stays when it cannot
//! become so. Copies of files move no data. What of a folder cannot be deleted or copied is named in the answer, and the rest is
//! done.

use fs::tree::{TreeError, TreePath, TreeResult, View};
use futures::StreamExt;
use meta::{Attr, Ino, Kind, RenameMode, Replaces};

use crate::address::{is_in, write};
use crate::conditions;
use crate::place::{no_folder, refused};
use crate::refusal::{Code, Refusal};

mod beside;
pub(crate) mod tidy;
pub(crate) mod walk;

use beside::{Beside, What};
use walk::{Step, Walk};

/// Changes at once, which share what makes them durable.
const AT_ONCE: usize = 32;
/// Failures that an answer names.
const NAMED: usize = 100;

/// What could not be done, of all that was to be.
#[derive(Default)]
pub(crate) struct Failures {
    /// Those that are named.
    pub(crate) all: Vec<(TreePath, TreeError)>,
    /// How many there were besides.
    pub(crate) more: usize,
}

impl Failures {
    fn add(&mut self, path: &TreePath, error: TreeError) {
        match self.all.len() < NAMED {
            true => self.all.push((path.clone(), error)),
            false => self.more += 1,
        }
    }

    /// May this still be there, of what was to be deleted: with what could not be, or in it?
    pub(crate) fn keep(&self, path: &TreePath) -> bool {
        self.more > 0 || self.all.iter().any(|(kept, _)| is_in(kept, path) || is_in(path, kept))
    }
}

/// Deletes what is there, with all that is in it, if it is what `which` allows.
///
/// # Errors
/// When it is the root, or a file that cannot be deleted.
pub(crate) async fn delete(
    view: &View,
    path: &TreePath,
    (there, which): (&Attr, Replaces),
) -> Result<Failures, Refusal> {
    not_root(path)?;
    if there.kind == Kind::Directory {
        return Ok(remove_tree(view, path, there.ino, Goes::AsAll).await);
    }
    view.remove(path, which).await.map_err(|e| not_removed(&e, which))?;
    Ok(Failures::default())
}

/// Puts what is there into the trash, with all that is in it, if it is what `which` allows: as a whole, or, where not all in it
/// may be deleted, one after the other what may. Answers its number there, if it is there.
///
/// # Errors
/// When it is the root, or may not be deleted.
pub(crate) async fn discard(
    view: &View,
    path: &TreePath,
    (there, which): (&Attr, Replaces),
) -> Result<(Option<Ino>, Failures), Refusal> {
    not_root(path)?;
    match view.discard(path, which).await {
        Err(TreeError::NotWhole) => {
            let failures = remove_tree(view, path, there.ino, Goes::ToTrash).await;
            Ok((failures.all.is_empty().then_some(there.ino), failures))
        }
        kept => Ok((kept.map_err(|e| not_removed(&e, which))?, Failures::default())),
    }
}

/// Deletes what is there for good, in the same way, where whatever is deleted goes to the trash.
///
/// # Errors
/// When it is the root, or may not be deleted.
pub(crate) async fn delete_for_good(
    view: &View,
    path: &TreePath,
    (there, which): (&Attr, Replaces),
) -> Result<Failures, Refusal> {
    not_root(path)?;
    match view.delete_for_good(path, which).await {
        Err(TreeError::NotWhole) => Ok(remove_tree(view, path, there.ino, Goes::ForGood).await),
        gone => gone.map(|()| Failures::default()).map_err(|e| not_removed(&e, which)),
    }
}

fn not_root(path: &TreePath) -> Result<(), Refusal> {
    match path.names().is_empty() {
        true => Err(Refusal::new(Code::Denied, "the root of the tree cannot be deleted")),
        false => Ok(()),
    }
}

fn not_removed(error: &TreeError, which: Replaces) -> Refusal {
    match which {
        Replaces::Only(_) => conditions::refused(error, which),
        _ => refused(error),
    }
}

/// Where what is deleted goes to.
#[derive(Clone, Copy)]
enum Goes {
    /// As the volume says.
    AsAll,
    ToTrash,
    ForGood,
}

impl Goes {
    /// One thing, with nothing in it.
    async fn take(self, view: &View, path: &TreePath, which: Replaces) -> TreeResult<()> {
        match self {
            Self::AsAll => view.remove(path, which).await,
            Self::ToTrash => view.discard(path, which).await.map(drop),
            Self::ForGood => view.delete_for_good(path, which).await,
        }
    }
}

/// What is copied or moved, and where to.
pub(crate) struct Ends {
    /// From where.
    pub(crate) from: TreePath,
    /// What is there, a link itself.
    pub(crate) source: Attr,
    /// Where to.
    pub(crate) to: TreePath,
    /// What is there so far, which may be replaced.
    pub(crate) target: Option<Attr>,
}

/// Refuses what would be put into itself, or lies in what it would replace: by inodes, as links lead to one place by many
/// paths. `follows`: of a link it is what it leads to that comes.
///
/// # Errors
/// That.
pub(crate) async fn apart(view: &View, ends: &Ends, follows: bool) -> Result<(), Refusal> {
    let Ends { from, source, to, target } = ends;
    let denied = |why: &str| Err(Refusal::new(Code::Denied, why));
    let copied = match source.kind {
        Kind::Symlink if follows => view.stat(from).await.ok(),
        _ => Some(*source),
    };
    let same = |attr: &Attr| target.is_some_and(|target| target.ino == attr.ino);
    if same(source) || copied.as_ref().is_some_and(same) {
        return denied("it is there already: both addresses are of the same");
    }
    if let Some(folder) = copied.filter(|attr| attr.kind == Kind::Directory)
        && view.lies_in(to, folder.ino).await.map_err(|e| no_folder(&e))?
    {
        return denied("a folder cannot be put into itself");
    }
    if let Some(target) = target
        && view.lies_in(from, target.ino).await.map_err(|e| refused(&e))?
    {
        return denied("it lies in what it would replace");
    }
    Ok(())
}

fn is_folder(attr: Option<&Attr>) -> bool {
    attr.is_some_and(|attr| attr.kind == Kind::Directory)
}

/// Somebody else was there.
const CHANGED: &str = "what is there has changed meanwhile";

/// Why something did not get its place, where nothing was or this.
fn late(error: &TreeError) -> Refusal {
    match error.is_there_already() {
        true => Refusal::new(Code::Precondition, CHANGED),
        false => no_folder(error),
    }
}

/// Moves it, over what is there.
///
/// # Errors
/// When it did not get its place; then both are where they were.
pub(crate) async fn move_to(view: &View, ends: &Ends) -> Result<Failures, Refusal> {
    let Ends { from, source, to, target } = ends;
    let folders = is_folder(Some(source)) || is_folder(target.as_ref());
    if let Some(target) = target.as_ref().filter(|_| folders) {
        return replace(view, from, to, target).await;
    }
    let mode = match target {
        None => RenameMode::NoReplace,
        Some(_) => RenameMode::Replace,
    };
    view.rename(from, to, mode).await.map_err(|e| late(&e))?;
    Ok(Failures::default())
}

/// Puts what is at `from` in the place of `target`, which is at `to` and is deleted then; or leaves both as they are.
/// Whatever breaks it off, neither is lost: what was replaced has a name of its own until it is deleted.
async fn replace(
    view: &View,
    from: &TreePath,
    to: &TreePath,
    target: &Attr,
) -> Result<Failures, Refusal> {
    if view.trash_days() > 0 {
        // It goes to the trash whole, by the name that it had, in the step in which something else gets that.
        let mode = RenameMode::ReplaceWhole(target.ino);
        view.rename(from, to, mode).await.map_err(|e| late(&e))?;
        return Ok(Failures::default());
    }
    let by = view.stat_itself(from).await.map_err(|e| refused(&e))?;
    let aside = Beside::of(view, to, What::replaced(to, target, &by)).await?;
    let replaced = put_aside(view, from, (to, target), &aside.path).await;
    aside.done(view).await;
    replaced
}

async fn put_aside(
    view: &View,
    from: &TreePath,
    (to, target): (&TreePath, &Attr),
    aside: &TreePath,
) -> Result<Failures, Refusal> {
    view.rename(to, aside, RenameMode::NoReplace).await.map_err(|e| late(&e))?;
    let moved = match view.stat_itself(aside).await {
        Ok(attr) if attr.ino == target.ino => {
            view.rename(from, to, RenameMode::NoReplace).await.map_err(|e| late(&e))
        }
        Ok(_) => Err(Refusal::new(Code::Precondition, CHANGED)),
        Err(e) => Err(late(&e)),
    };
    if let Err(refusal) = moved {
        if let Err(e) = view.rename(aside, to, RenameMode::NoReplace).await {
            let (aside, to) = (write(aside), write(to));
            tracing::error!("what was at {to} is at {aside} now, and cannot be put back: {e}");
        }
        return Err(refusal);
    }
    Ok(remove(view, aside, target.ino).await)
}

/// Copies it, over what is there. `all`: of a folder not only itself. What a link leads to is what is copied; links in
/// folders stay links.
///
/// # Errors
/// When it did not get its place; then what was there still is.
pub(crate) async fn copy(view: &View, ends: &Ends, all: bool) -> Result<Failures, Refusal> {
    let Ends { from, to, target, .. } = ends;
    let source = view.stat(from).await.map_err(|e| refused(&e))?;
    let folder = is_folder(Some(&source));
    let replaced = target.filter(|target| folder || is_folder(Some(target)));
    let Some(replaced) = replaced else {
        return match folder {
            true => Ok(copy_tree(view, from, to, all).await),
            false => {
                let replaces = target.map_or(Replaces::Nothing, |there| Replaces::Only(there.ino));
                view.copy(from, to, replaces).await.map_err(|e| late(&e))?;
                Ok(Failures::default())
            }
        };
    };
    let place = Beside::of(view, to, What::Copied).await?;
    let copied = match folder {
        true => Ok(copy_tree(view, from, &place.path, all).await),
        false => {
            let copied = view.copy(from, &place.path, Replaces::Nothing).await;
            copied.map(|_| Failures::default()).map_err(|e| late(&e))
        }
    };
    let done = match copied {
        Ok(failures) if failures.all.is_empty() => replace(view, &place.path, to, &replaced).await,
        copied => copied,
    };
    if !done.as_ref().is_ok_and(|failures| failures.all.is_empty())
        && let Ok(copied) = view.stat_itself(&place.path).await
    {
        // It did not get its place.
        remove(view, &place.path, copied.ino).await;
    }
    place.done(view).await;
    done
}

/// Whatever is there, with all that is in it, if it is this one.
async fn remove(view: &View, path: &TreePath, which: Ino) -> Failures {
    let mut failures = Failures::default();
    match view.stat_itself(path).await {
        Ok(attr) if attr.ino != which => {}
        Ok(attr) if attr.kind == Kind::Directory => {
            return remove_tree(view, path, which, Goes::AsAll).await;
        }
        Ok(_) => {
            if let Err(e) = view.remove(path, Replaces::Only(which)).await {
                failures.add(path, e);
            }
        }
        Err(e) if e.is_not_found() => {}
        Err(e) => failures.add(path, e),
    }
    failures
}

/// Deletes a folder and all in it: what has come to be elsewhere since it was listed, over a link say, is left alone.
async fn remove_tree(view: &View, path: &TreePath, which: Ino, goes: Goes) -> Failures {
    let mut failures = Failures::default();
    let mut walk = Walk::from(view, path, which);
    // Folders that keep something.
    let mut kept: Vec<TreePath> = Vec::new();
    while let Some(step) = walk.next().await {
        match step {
            Step::Enter(_) => {}
            Step::Failed(at, error) => {
                kept.push(at.clone());
                failures.add(&at, error);
            }
            Step::Others(folder, entries) => {
                let removed = futures::stream::iter(entries.into_iter().map(|entry| {
                    let folder = &folder;
                    async move {
                        let at =
                            folder.join(&entry.name).map_err(|e| (folder.clone(), e.into()))?;
                        let which = Replaces::Only(entry.attr.ino);
                        let removed = goes.take(view, &at, which).await;
                        removed.or_else(|e| if e.is_not_found() { Ok(()) } else { Err((at, e)) })
                    }
                }));
                let mut removed = removed.buffer_unordered(AT_ONCE);
                while let Some(one) = removed.next().await {
                    if let Err((at, error)) = one {
                        kept.push(folder.clone());
                        failures.add(&at, error);
                    }
                }
                kept.dedup();
            }
            Step::Leave(at, which) => {
                let keeps = kept.iter().any(|kept| is_in(kept, &at));
                kept.retain(|kept| !is_in(kept, &at));
                let which = Replaces::Only(which);
                match if keeps { Ok(()) } else { goes.take(view, &at, which).await } {
                    Err(e) if !e.is_not_found() => failures.add(&at, e),
                    _ if !keeps => continue,
                    _ => {}
                }
                // What it lies in keeps it.
                kept.extend(at.split().map(|(above, _)| above));
            }
        }
    }
    failures
}

async fn copy_tree(view: &View, from: &TreePath, to: &TreePath, all: bool) -> Failures {
    let mut failures = Failures::default();
    let source = match view.stat(from).await {
        Ok(source) => source,
        Err(e) => {
            failures.add(from, e);
            return failures;
        }
    };
    let mut walk = Walk::from(view, from, source.ino);
    let place = |at: &TreePath| {
        let below = &at.names()[from.names().len()..];
        below.iter().try_fold(to.clone(), |path, name| path.join(name))
    };
    while let Some(step) = walk.next().await {
        match step {
            Step::Leave(..) => {}
            Step::Failed(at, error) => failures.add(&at, error),
            Step::Enter(at) => {
                let made = async {
                    let folder = view.stat(&at).await?;
                    view.make_directory_like(&place(&at)?, &folder).await
                };
                if let Err(e) = made.await {
                    failures.add(&at, e);
                    walk.skip();
                } else if !all {
                    return failures;
                }
            }
            Step::Others(folder, entries) => {
                let copied = futures::stream::iter(entries.into_iter().map(|entry| {
                    let (folder, place) = (&folder, &place);
                    async move {
                        let at =
                            folder.join(&entry.name).map_err(|e| (folder.clone(), e.into()))?;
                        let copied = async {
                            let new = place(&at)?;
                            match entry.attr.kind {
                                Kind::Symlink => view.copy_link(&at, &new).await?,
                                _ => view.copy(&at, &new, Replaces::Nothing).await?,
                            };
                            TreeResult::Ok(())
                        };
                        match copied.await {
                            // What went away meanwhile is not there to be copied.
                            Err(e) if e.is_not_found() && is_gone(view, &at).await => Ok(()),
                            copied => copied.map_err(|e| (at, e)),
                        }
                    }
                }));
                let mut copied = copied.buffer_unordered(AT_ONCE);
                while let Some(one) = copied.next().await {
                    if let Err((at, error)) = one {
                        failures.add(&at, error);
                    }
                }
            }
        }
    }
    failures
}

async fn is_gone(view: &View, path: &TreePath) -> bool {
    view.stat_itself(path).await.is_err_and(|e| e.is_not_found())
}
