//! DELETE, COPY and MOVE: of files, and of folders with all that is in them.
//!
//! A move is one step; where it replaces a folder, or a folder something, that is put aside before, under a name of its
//! own, and deleted once what comes has its place. A copy gets such a place when it is whole, and what was there stays when it cannot
//! become so. Copies of files move no data. What of a folder cannot be deleted or copied is named in the answer, and the rest is
//! done.

use std::vec::IntoIter;

use axum::response::{IntoResponse, Response};
use fs::tree::{Listing, TreeError, TreePath, TreeResult, View};
use futures::StreamExt;
use http::{HeaderValue, StatusCode, header};
use meta::{Attr, DirEntry, Ino, Kind, RenameMode, Replaces};
use uuid::Uuid;

use super::address::{is_in, named, write};
use super::asked::{Asked, no_folder, refused};
use super::find::answer;
use super::headers::{Depth, depth, destination, overwrite};
use super::locks::Reach;
use super::properties::failed;
use super::xml::document;
use crate::conditions;
use crate::refusal::{Code, Refusal};

/// Changes at once, which share what makes them durable.
const AT_ONCE: usize = 32;
/// Failures that an answer names.
const NAMED: usize = 100;
/// All that is in it, and the folder that it is in.
const WHOLE: Reach = Reach { below: true, folder: true };

/// What could not be done, of all that was to be.
#[derive(Default)]
struct Failures {
    all: Vec<(String, TreeError)>,
    more: usize,
}

impl Failures {
    fn add(&mut self, path: &TreePath, error: TreeError) {
        match self.all.len() < NAMED {
            true => self.all.push((write(path, false), error)),
            false => self.more += 1,
        }
    }

    /// The answer: this status, unless something failed.
    fn answer(self, status: StatusCode) -> Response {
        let Self { all, more } = self;
        if all.is_empty() {
            let mut response = status.into_response();
            if status == StatusCode::CREATED {
                let none = HeaderValue::from_static("0");
                response.headers_mut().insert(header::CONTENT_LENGTH, none);
            }
            return response;
        }
        let mut said = String::new();
        for (address, error) in &all {
            let Refusal { code, message, .. } = refused(error);
            failed(address, code.status(), &message, &mut said);
        }
        if more > 0 {
            said += &format!("<D:responsedescription>and {more} more</D:responsedescription>");
        }
        answer(StatusCode::MULTI_STATUS, document("multistatus", &said))
    }
}

/// DELETE.
pub(super) async fn delete(asked: &Asked) -> Result<Response, Refusal> {
    let path = &asked.at.path;
    let there = asked.view.stat_itself(path).await.map_err(|e| refused(&e))?;
    if path.names().is_empty() {
        return Err(Refusal::new(Code::Denied, "the root of the tree cannot be deleted"));
    }
    if there.kind == Kind::Directory
        && !matches!(depth(&asked.headers)?, None | Some(Depth::Infinity))
    {
        let why = "a folder is deleted with all that is in it (Depth: infinity)";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    let which = asked.replaces(Some(&there))?;
    asked.unlocked(path, WHOLE)?;
    let failures = match there.kind {
        Kind::Directory => remove_tree(&asked.view, path, there.ino).await,
        _ => {
            let removed = asked.view.remove(path, which).await;
            removed.map_err(|e| match which {
                Replaces::Only(_) => conditions::refused(&e, which),
                _ => refused(&e),
            })?;
            Failures::default()
        }
    };
    asked.locks.forget(path);
    Ok(failures.answer(StatusCode::NO_CONTENT))
}

/// What is copied or moved, and where to.
struct Ends {
    source: Attr,
    to: TreePath,
    /// What is there so far, which may be replaced.
    target: Option<Attr>,
}

async fn ends(asked: &Asked) -> Result<Ends, Refusal> {
    let path = &asked.at.path;
    let source = asked.view.stat_itself(path).await.map_err(|e| refused(&e))?;
    let to = named(&asked.headers, destination(&asked.headers)?)?.path;
    asked.replaces(Some(&source))?;
    let target = asked.named(&to).await?;
    apart(asked, (&source, &to), target.as_ref()).await?;
    if target.is_some() && !overwrite(&asked.headers)? {
        let why = "something is there already, and is not to be replaced (Overwrite: F)";
        return Err(Refusal::new(Code::Precondition, why));
    }
    asked.unlocked(
        &to,
        if target.is_some() { Reach { below: true, folder: false } } else { WHOLE },
    )?;
    Ok(Ends { source, to, target })
}

/// Refuses what would be put into itself, or lies in what it would replace: by inodes, as links lead to one place by many
/// paths.
async fn apart(
    asked: &Asked,
    (source, to): (&Attr, &TreePath),
    target: Option<&Attr>,
) -> Result<(), Refusal> {
    let (path, view) = (&asked.at.path, &asked.view);
    let denied = |why: &str| Err(Refusal::new(Code::Denied, why));
    // What a link leads to is what is copied.
    let copied = match source.kind {
        Kind::Symlink => view.stat(path).await.ok(),
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
        && view.lies_in(path, target.ino).await.map_err(|e| refused(&e))?
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

/// MOVE.
pub(super) async fn move_to(asked: &Asked) -> Result<Response, Refusal> {
    let path = &asked.at.path;
    let Ends { source, to, target } = ends(asked).await?;
    asked.unlocked(path, WHOLE)?;
    let folders = is_folder(Some(&source)) || is_folder(target.as_ref());
    let failures = match &target {
        Some(target) if folders => replace(&asked.view, path, &to, target).await?,
        _ => {
            let mode = match target {
                None => RenameMode::NoReplace,
                Some(_) => RenameMode::Replace,
            };
            asked.view.rename(path, &to, mode).await.map_err(|e| late(&e))?;
            Failures::default()
        }
    };
    asked.locks.forget(path);
    Ok(failures.answer(if target.is_some() { StatusCode::NO_CONTENT } else { StatusCode::CREATED }))
}

/// A name beside this one that nobody has: hidden, and not to be taken for anything else.
fn beside(path: &TreePath, what: &str) -> Result<TreePath, Refusal> {
    let (folder, _) = path.split().unwrap_or_default();
    let name = format!(".ashlar-{what}-{}", Uuid::new_v4().simple());
    folder.join(name.as_bytes()).map_err(|e| Refusal::new(Code::BadRequest, e.to_string()))
}

/// Puts what is at `from` in the place of `target`, which is at `to` and is deleted then; or leaves both as they are.
/// Whatever breaks it off, neither is lost: what was replaced has a name of its own until it is deleted.
async fn replace(
    view: &View,
    from: &TreePath,
    to: &TreePath,
    target: &Attr,
) -> Result<Failures, Refusal> {
    let aside = beside(to, "replaced")?;
    view.rename(to, &aside, RenameMode::NoReplace).await.map_err(|e| late(&e))?;
    let moved = match view.stat_itself(&aside).await {
        Ok(attr) if attr.ino == target.ino => {
            view.rename(from, to, RenameMode::NoReplace).await.map_err(|e| late(&e))
        }
        Ok(_) => Err(Refusal::new(Code::Precondition, CHANGED)),
        Err(e) => Err(late(&e)),
    };
    if let Err(refusal) = moved {
        if let Err(e) = view.rename(&aside, to, RenameMode::NoReplace).await {
            let (aside, to) = (write(&aside, false), write(to, false));
            tracing::error!("what was at {to} is at {aside} now, and cannot be put back: {e}");
        }
        return Err(refusal);
    }
    Ok(remove(view, &aside, target.ino).await)
}

/// COPY.
pub(super) async fn copy(asked: &Asked) -> Result<Response, Refusal> {
    let path = &asked.at.path;
    let all = match depth(&asked.headers)? {
        None | Some(Depth::Infinity) => true,
        Some(Depth::Zero) => false,
        Some(Depth::One) => {
            let why = "a folder is copied with all that is in it (infinity) or nothing (0)";
            return Err(Refusal::new(Code::BadRequest, why));
        }
    };
    let Ends { to, target, .. } = ends(asked).await?;
    let (view, source) = (&asked.view, asked.view.stat(path).await.map_err(|e| refused(&e))?);
    let status = if target.is_some() { StatusCode::NO_CONTENT } else { StatusCode::CREATED };
    let folder = is_folder(Some(&source));
    let replaced = target.filter(|target| folder || is_folder(Some(target)));
    let place = match replaced {
        Some(_) => beside(&to, "copied")?,
        None => to.clone(),
    };
    let failures = match folder {
        true => copy_tree(view, path, &place, all).await,
        false => {
            let replaces = match target {
                Some(target) if replaced.is_none() => Replaces::Only(target.ino),
                _ => Replaces::Nothing,
            };
            view.copy(path, &place, replaces).await.map_err(|e| late(&e))?;
            Failures::default()
        }
    };
    let Some(replaced) = replaced else { return Ok(failures.answer(status)) };
    let failures = match failures.all.is_empty() {
        true => replace(view, &place, &to, &replaced).await,
        false => Ok(failures),
    };
    if !failures.as_ref().is_ok_and(|failures| failures.all.is_empty())
        && let Ok(copied) = view.stat_itself(&place).await
    {
        // It did not get its place.
        remove(view, &place, copied.ino).await;
    }
    Ok(failures?.answer(status))
}

/// Whatever is there, with all that is in it, if it is this one.
async fn remove(view: &View, path: &TreePath, which: Ino) -> Failures {
    let mut failures = Failures::default();
    match view.stat_itself(path).await {
        Ok(attr) if attr.ino != which => {}
        Ok(attr) if attr.kind == Kind::Directory => return remove_tree(view, path, which).await,
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
async fn remove_tree(view: &View, path: &TreePath, which: Ino) -> Failures {
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
                        let removed = view.remove(&at, which).await;
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
                match if keeps { Ok(()) } else { view.remove(&at, which).await } {
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

/// A folder, and all in it, a page of one folder at a time: each is entered before what is in it, and left behind it.
struct Walk<'a> {
    view: &'a View,
    /// To be entered next.
    next: Option<(TreePath, Ino)>,
    within: Vec<Within>,
}

/// A folder that is being walked through.
struct Within {
    path: TreePath,
    ino: Ino,
    listing: Option<Listing>,
    /// Folders of the page that was listed last.
    folders: IntoIter<DirEntry>,
}

enum Step {
    /// A folder begins.
    Enter(TreePath),
    /// What in it is no folder, a part of it at a time.
    Others(TreePath, Vec<DirEntry>),
    /// It has ended.
    Leave(TreePath, Ino),
    /// The rest of it cannot be listed.
    Failed(TreePath, TreeError),
}

impl<'a> Walk<'a> {
    fn from(view: &'a View, path: &TreePath, ino: Ino) -> Self {
        Self { view, next: Some((path.clone(), ino)), within: Vec::new() }
    }

    /// Does not go into the folder that was entered last.
    fn skip(&mut self) {
        self.within.pop();
    }

    async fn next(&mut self) -> Option<Step> {
        if let Some((path, ino)) = self.next.take() {
            let folders = Vec::new().into_iter();
            self.within.push(Within { path: path.clone(), ino, listing: None, folders });
            return Some(Step::Enter(path));
        }
        let within = self.within.last_mut()?;
        if let Some(folder) = within.folders.next() {
            return match within.path.join(&folder.name) {
                Ok(path) => {
                    self.next = Some((path, folder.attr.ino));
                    Box::pin(self.next()).await
                }
                Err(e) => Some(Step::Failed(within.path.clone(), e.into())),
            };
        }
        let page = async {
            if within.listing.is_none() {
                within.listing = Some(self.view.list_only(&within.path, within.ino).await?);
            }
            match &mut within.listing {
                Some(listing) => listing.next().await,
                None => Ok(Vec::new()),
            }
        };
        let entries = match page.await {
            Ok(entries) => entries,
            Err(e) => {
                let path = within.path.clone();
                self.within.pop();
                return Some(Step::Failed(path, e));
            }
        };
        if entries.is_empty() {
            return self.within.pop().map(|within| Step::Leave(within.path, within.ino));
        }
        let (folders, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.attr.kind == Kind::Directory);
        within.folders = folders.into_iter();
        Some(Step::Others(within.path.clone(), others))
    }
}
