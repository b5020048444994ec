//! What has a path in the tree, and what clients are told where nothing has. What a door puts there takes after what it
//! replaces.

use fs::tree::{TreeError, TreePath, Upload, View};
use http::HeaderMap;
use meta::{Attr, Kind, Replaces};

use crate::conditions;
use crate::refusal::{Code, Refusal};

/// Where a file was to be put.
const FOLDER: &str = "a folder has this name";

/// How often what is replaced may be replaced by others meanwhile.
const LOOKS: usize = 100;

/// Why something could not be done with what is at an address.
pub(crate) fn refused(error: &TreeError) -> Refusal {
    match error.is_not_found() {
        true => Refusal::new(Code::NoSuchFile, "there is nothing at this address"),
        false => Refusal::of(error, Code::NoSuchFile),
    }
}

/// The same, where it is the folder above that is not there.
pub(crate) fn no_folder(error: &TreeError) -> Refusal {
    match error.is_not_found() {
        true => Refusal::new(Code::Conflict, "there is no folder for it: make that first"),
        false => Refusal::of(error, Code::Conflict),
    }
}

/// What has a name, a link itself, if anything has.
///
/// # Errors
/// When that cannot be found out, or there is no folder for it.
pub(crate) async fn named(view: &View, path: &TreePath) -> Result<Option<Attr>, Refusal> {
    match view.stat_itself(path).await {
        Ok(attr) => Ok(Some(attr)),
        Err(e) if e.is_not_found() => has_folder(view, path).await.map(|()| None),
        Err(e) => Err(no_folder(&e)),
    }
}

async fn has_folder(view: &View, path: &TreePath) -> Result<(), Refusal> {
    let (folder, _) = path.split().unwrap_or_default();
    match view.stat(&folder).await {
        Ok(attr) if attr.kind == Kind::Directory => Ok(()),
        Ok(_) => Err(Refusal::new(Code::Conflict, "what is above it is no folder")),
        Err(e) => Err(no_folder(&e)),
    }
}

/// What something that is put would replace, and what it may replace at its end. Who says what may be there has seen what
/// a link leads to, not the link.
///
/// # Errors
/// When a folder has the name, which is `folder`, or what is there is not what may be.
pub(crate) async fn replaced(
    view: &View,
    path: &TreePath,
    headers: &HeaderMap,
    folder: Code,
) -> Result<(Option<Attr>, Replaces), Refusal> {
    let before = named(view, path).await?;
    let seen = match before {
        // One that leads nowhere, or out of the tree, is itself.
        Some(Attr { kind: Kind::Symlink, .. }) => view.stat(path).await.ok().or(before),
        _ => before,
    };
    if seen.is_some_and(|seen| seen.kind == Kind::Directory) {
        return Err(Refusal { code: folder, ..Refusal::taken(Kind::Directory, FOLDER) });
    }
    let replaces = match (conditions::replaces(headers, seen.as_ref())?, before) {
        (Replaces::Only(_), Some(before)) => Replaces::Only(before.ino),
        (replaces, _) => replaces,
    };
    Ok((before, replaces))
}

/// Gives what was put all that belongs to the file that it replaces beside its bytes. `false`: that has gone meanwhile, and
/// who puts has to look again; after [`LOOKS`] he is refused.
///
/// # Errors
/// When it has no room, or cannot be had; that.
pub(crate) async fn takes_after(
    upload: &Upload,
    before: Option<&Attr>,
    looks: &mut usize,
) -> Result<bool, Refusal> {
    let Some(file) = before.filter(|before| before.kind == Kind::File) else { return Ok(true) };
    *looks += 1;
    match upload.in_place_of(file).await {
        Err(e) if e.is_not_found() && *looks < LOOKS => Ok(false),
        done => done.map(|()| true).map_err(|e| refused(&e)),
    }
}
