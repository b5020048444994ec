//! Paths to inodes, within what a viewer sees.
//!
//! The rule of symbolic links: one is followed where its target is relative and stays within the subtree, `..` and all;
//! any other leads out, and is refused, as an absolute one is: it is about the machine where the volume is mounted. At
//! most [`LINKS`] are followed. Whatever a path says, the directories that it has led through are remembered here, so
//! that nothing leads above the first of them.

use std::collections::VecDeque;

use meta::{Attr, Ino, Kind, MetaError};

use super::path::{BadPath, TreePath};
use super::{TreeError, TreeResult, View};

/// Symbolic links that one path may lead over, as in the kernel.
const LINKS: usize = 40;

/// Is a symbolic link at the end of a path followed, too?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// What it leads to is meant.
    Followed,
    /// The link itself is.
    Itself,
}

/// Where a path leads.
pub(super) struct Place {
    /// The directory that it lies in, and its name there; `None`: what it leads to is a directory that was walked
    /// through, the root say.
    pub(super) named: Option<(Attr, Box<[u8]>)>,
    /// What is there, if anything is.
    pub(super) found: Option<Attr>,
    /// The directories that it lies in, from the root.
    through: Vec<Attr>,
}

impl Place {
    /// What is there.
    pub(super) fn there(self) -> TreeResult<Attr> {
        self.found.ok_or_else(|| MetaError::NotFound.into())
    }

    /// The directory, the name and what it names so far.
    pub(super) fn entry(self) -> TreeResult<(Attr, Box<[u8]>, Option<Attr>)> {
        let (dir, name) = self.named.ok_or(BadPath::Root)?;
        Ok((dir, name, self.found))
    }
}

enum Step {
    Down(Box<[u8]>),
    Up,
}

/// The steps of a link's target.
fn steps(target: &[u8]) -> TreeResult<Vec<Step>> {
    if target.starts_with(b"/") {
        return Err(TreeError::LeadsOut);
    }
    let names = target.split(|byte| *byte == b'/').filter(|name| !matches!(name, [] | [b'.']));
    Ok(names.map(|name| if name == b".." { Step::Up } else { Step::Down(name.into()) }).collect())
}

impl View {
    /// Where a path leads. Whatever it leads through has to be there.
    pub(super) async fn walk(&self, path: &TreePath, last: Last) -> TreeResult<Place> {
        let mut ahead: VecDeque<Step> = path.names().iter().cloned().map(Step::Down).collect();
        let mut through = vec![self.filesystem.getattr(self.viewer().root).await?];
        let mut links = 0;
        while let Some(step) = ahead.pop_front() {
            let dir = *through.last().expect("the root stays");
            if dir.kind != Kind::Directory {
                return Err(MetaError::NotDirectory.into());
            }
            self.may(&dir, |who, dir| who.search(dir)).await?;
            let Step::Down(name) = step else {
                through.pop();
                if through.is_empty() {
                    return Err(TreeError::LeadsOut);
                }
                continue;
            };
            let at_end = ahead.is_empty();
            match self.filesystem.glance(dir.ino, &name).await? {
                Some(attr) if attr.kind == Kind::Symlink && !(at_end && last == Last::Itself) => {
                    links += 1;
                    if links > LINKS {
                        return Err(TreeError::TooManyLinks);
                    }
                    let target = self.filesystem.readlink(attr.ino).await?;
                    steps(&target)?.into_iter().rev().for_each(|step| ahead.push_front(step));
                }
                found if at_end => return Ok(Place { named: Some((dir, name)), found, through }),
                Some(attr) => through.push(attr),
                None => return Err(MetaError::NotFound.into()),
            }
        }
        let found = through.pop();
        Ok(Place { named: None, found, through })
    }

    /// stat(2): what a path leads to.
    ///
    /// # Errors
    /// When nothing is there, or may not be looked for.
    pub async fn stat(&self, path: &TreePath) -> TreeResult<Attr> {
        self.walk(path, Last::Followed).await?.there()
    }

    /// lstat(2): the same, of a link itself.
    ///
    /// # Errors
    /// When nothing is there, or may not be looked for.
    pub async fn stat_itself(&self, path: &TreePath) -> TreeResult<Attr> {
        self.walk(path, Last::Itself).await?.there()
    }

    /// readlink(2): the target of a link that was found.
    ///
    /// # Errors
    /// When it is none, or is gone.
    pub async fn target(&self, link: &Attr) -> TreeResult<Vec<u8>> {
        Ok(self.filesystem.readlink(link.ino).await?)
    }

    /// Does what has this path, or is to have it, lie in this directory, however the path leads there? So does a link
    /// that leads to what lies there.
    ///
    /// # Errors
    /// When the path leads through something that is not there.
    pub async fn lies_in(&self, path: &TreePath, directory: Ino) -> TreeResult<bool> {
        let is_above = |place: &Place| place.through.iter().any(|above| above.ino == directory);
        let itself = self.walk(path, Last::Itself).await?;
        let is_link = itself.found.is_some_and(|attr| attr.kind == Kind::Symlink);
        Ok(is_above(&itself)
            || is_link && self.walk(path, Last::Followed).await.is_ok_and(|place| is_above(&place)))
    }

    /// A directory that a path leads to.
    pub(super) async fn directory(&self, path: &TreePath) -> TreeResult<Attr> {
        let attr = self.stat(path).await?;
        match attr.kind {
            Kind::Directory => Ok(attr),
            _ => Err(MetaError::NotDirectory.into()),
        }
    }
}
