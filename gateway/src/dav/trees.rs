//! DELETE, COPY and MOVE: of files, and of folders with all that is in them.
//!
//! A move is one step, also where it replaces something: a folder that is replaced changes places with what comes, and is
//! deleted where that was. Copies of files move no data. What of a folder cannot be deleted or copied is named in the answer, and the
//! rest is done.

use std::vec::IntoIter;

use axum::response::{IntoResponse, Response};
use fs::tree::{Listing, TreeError, TreePath, TreeResult, View};
use futures::StreamExt;
use http::{HeaderValue, StatusCode, header};
use meta::{Attr, DirEntry, Ino, Kind, RenameMode, Replaces};

use super::address::{is_in, named, write};
use super::asked::{Asked, no_folder, refused};
use super::find::answer;
use super::headers::{Depth, depth, destination, overwrite};
use super::locks::Reach;
use super::properties::{ATTRIBUTE, failed};
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
            let Refusal { code, message } = refused(error);
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
        Kind::Directory => remove_tree(&asked.view, path).await,
        _ => {
            let removed = asked.view.remove(path, which).await;
            removed.map_err(|e| match which {
                Replaces::Only(_) => conditions::refused(&e, which),
                _ => refused(&e),
            })?;
            Failures::default()
        }
    };
    asked.door.locks.forget(path);
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

/// Why something did not get its place, where nothing was or this.
fn late(error: &TreeError) -> Refusal {
    match error.is_there_already() {
        true => Refusal::new(Code::Precondition, "what is there has changed meanwhile"),
        false => no_folder(error),
    }
}

/// MOVE.
pub(super) async fn move_to(asked: &Asked) -> Result<Response, Refusal> {
    let path = &asked.at.path;
    let Ends { source, to, target } = ends(asked).await?;
    asked.unlocked(path, WHOLE)?;
    let folders = is_folder(Some(&source)) || is_folder(target.as_ref());
    let mode = match &target {
        None => RenameMode::NoReplace,
        Some(_) if folders => RenameMode::Exchange,
        Some(_) => RenameMode::Replace,
    };
    let swapped = target.filter(|_| matches!(mode, RenameMode::Exchange));
    asked.view.rename(path, &to, mode).await.map_err(|e| late(&e))?;
    asked.door.locks.forget(path);
    let failures = match swapped {
        // What was there is where the other one was.
        Some(target) => remove(&asked.view, path, target.ino).await,
        None => Failures::default(),
    };
    Ok(failures.answer(if target.is_some() { StatusCode::NO_CONTENT } else { StatusCode::CREATED }))
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
    let source = asked.view.stat(path).await.map_err(|e| refused(&e))?;
    let status = if target.is_some() { StatusCode::NO_CONTENT } else { StatusCode::CREATED };
    if let Some(target) =
        target.filter(|target| is_folder(Some(target)) || is_folder(Some(&source)))
    {
        let failures = remove(&asked.view, &to, target.ino).await;
        if !failures.all.is_empty() {
            return Ok(failures.answer(status));
        }
    }
    if is_folder(Some(&source)) {
        return Ok(copy_tree(&asked.view, path, &to, all).await.answer(status));
    }
    let replaces = match target {
        Some(target) if target.kind != Kind::Directory => Replaces::Only(target.ino),
        _ => Replaces::Nothing,
    };
    asked.view.copy(path, &to, replaces).await.map_err(|e| late(&e))?;
    Ok(Failures::default().answer(status))
}

/// Whatever is there, with all that is in it, if it is this one.
async fn remove(view: &View, path: &TreePath, which: Ino) -> Failures {
    let mut failures = Failures::default();
    match view.stat_itself(path).await {
        Ok(attr) if attr.ino != which => {}
        Ok(attr) if attr.kind == Kind::Directory => return remove_tree(view, path).await,
        Ok(_) => {
            if let Err(e) = view.remove(path, Replaces::Anything).await {
                failures.add(path, e);
            }
        }
        Err(e) if e.is_not_found() => {}
        Err(e) => failures.add(path, e),
    }
    failures
}

async fn remove_tree(view: &View, path: &TreePath) -> Failures {
    let mut failures = Failures::default();
    let mut walk = Walk::from(view, path);
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
                        let removed = view.remove(&at, Replaces::Anything).await;
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
            Step::Leave(at) => {
                let keeps = kept.iter().any(|kept| is_in(kept, &at));
                kept.retain(|kept| !is_in(kept, &at));
                match if keeps { Ok(()) } else { view.remove(&at, Replaces::Anything).await } {
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
    let mut walk = Walk::from(view, from);
    let place = |at: &TreePath| {
        let below = &at.names()[from.names().len()..];
        below.iter().try_fold(to.clone(), |path, name| path.join(name))
    };
    while let Some(step) = walk.next().await {
        match step {
            Step::Leave(_) => {}
            Step::Failed(at, error) => failures.add(&at, error),
            Step::Enter(at) => {
                let made = async {
                    let new = place(&at)?;
                    view.make_directory(&new).await?;
                    if let Some(properties) = view.attribute(&at, ATTRIBUTE).await? {
                        view.set_attribute(&new, ATTRIBUTE, &properties).await?;
                    }
                    TreeResult::Ok(())
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
                        // What went away meanwhile is not there to be copied.
                        copied
                            .await
                            .or_else(|e| if e.is_not_found() { Ok(()) } else { Err((at, e)) })
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

/// A folder, and all in it, a page of one folder at a time: each is entered before what is in it, and left behind it.
struct Walk<'a> {
    view: &'a View,
    /// To be entered next.
    next: Option<TreePath>,
    within: Vec<Within>,
}

/// A folder that is being walked through.
struct Within {
    path: TreePath,
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
    Leave(TreePath),
    /// The rest of it cannot be listed.
    Failed(TreePath, TreeError),
}

impl<'a> Walk<'a> {
    fn from(view: &'a View, path: &TreePath) -> Self {
        Self { view, next: Some(path.clone()), within: Vec::new() }
    }

    /// Does not go into the folder that was entered last.
    fn skip(&mut self) {
        self.within.pop();
    }

    async fn next(&mut self) -> Option<Step> {
        if let Some(path) = self.next.take() {
            let folders = Vec::new().into_iter();
            self.within.push(Within { path: path.clone(), listing: None, folders });
            return Some(Step::Enter(path));
        }
        let within = self.within.last_mut()?;
        if let Some(folder) = within.folders.next() {
            return match within.path.join(&folder.name) {
                Ok(path) => {
                    self.next = Some(path);
                    Box::pin(self.next()).await
                }
                Err(e) => Some(Step::Failed(within.path.clone(), e.into())),
            };
        }
        let page = async {
            if within.listing.is_none() {
                within.listing = Some(self.view.list(&within.path).await?);
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
            return self.within.pop().map(|within| Step::Leave(within.path));
        }
        let (folders, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.attr.kind == Kind::Directory);
        within.folders = folders.into_iter();
        Some(Step::Others(within.path.clone(), others))
    }
}
