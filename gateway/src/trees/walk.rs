//! A way through a folder and all that is in it. Links are not followed; what has come to be elsewhere since it was listed,
//! over a link say, is not gone into.

use std::vec::IntoIter;

use fs::tree::{Listing, TreeError, TreePath, View};
use meta::{DirEntry, Ino, Kind};

/// A folder, and all in it, a page of one folder at a time: each is entered before what is in it, and left behind it.
pub(crate) struct Walk<'a> {
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

/// What is met on it.
pub(crate) enum Step {
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
    /// Begins with this folder, if it is still what the path leads to.
    pub(crate) fn from(view: &'a View, path: &TreePath, ino: Ino) -> Self {
        Self { view, next: Some((path.clone(), ino)), within: Vec::new() }
    }

    /// Does not go into the folder that was entered last.
    pub(crate) fn skip(&mut self) {
        self.within.pop();
    }

    /// What comes next. `None`: that was all.
    pub(crate) async fn next(&mut self) -> Option<Step> {
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
