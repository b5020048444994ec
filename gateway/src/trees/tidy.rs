//! What processes have left beside its place that were killed: tidied up when doors are opened again, in the background, as whoever
//! had it done. A copy that was not whole goes, and what was replaced once what replaces it has its place; else it gets that
//! back. What has such a name and no note was made by others, and stays.

use std::sync::Arc;

use fs::filesystem::Filesystem;
use fs::tree::{TreePath, TreeResult, Trouble, View, Viewer};
use meta::{ROOT, RenameMode};

use super::beside::{Note, What};
use super::{Failures, remove};
use crate::address::write;

/// What processes before this one have left.
pub(crate) struct Left(Vec<(String, Note)>);

impl Left {
    /// By their notes. To be called before anybody comes in.
    pub(crate) async fn by_others(filesystem: &Arc<Filesystem>) -> Self {
        let viewer = Viewer { uid: 0, gids: Vec::new(), root: ROOT, write: false };
        let notes = match View::new(filesystem.clone(), viewer).notes().await {
            Ok(notes) => notes,
            Err(e) => {
                tracing::warn!("what doors may have left cannot be looked up: {e}");
                Vec::new()
            }
        };
        let by_others = |(name, text): (String, Vec<u8>)| Some((name, Note::of_others(&text)?));
        Self(notes.into_iter().filter_map(by_others).collect())
    }

    /// Tidies it up, one after the other.
    pub(crate) async fn tidy(self, filesystem: Arc<Filesystem>) {
        for (name, note) in self.0 {
            let view = View::new(filesystem.clone(), note.viewer());
            let failures = match tidied(&view, &name, note.what).await {
                Ok(failures) => failures,
                Err(e) if e.is_not_found() => Failures::default(),
                Err(e) => {
                    tracing::warn!("{name} stays, which a door has left: {e}");
                    continue;
                }
            };
            if let Some((path, why)) = failures.all.first() {
                let path = write(path);
                tracing::warn!("not all of what a door has left can be deleted: {path}: {why}");
            }
            // What may not be deleted by whose it is stays; what could not be is tried again.
            let is_done = failures.all.iter().all(|(_, e)| e.trouble() == Trouble::Denied);
            if is_done && let Err(e) = view.drop_note(&name).await {
                tracing::warn!("the note of {name} stays: {e}");
            }
        }
    }
}

async fn tidied(view: &View, name: &str, what: What) -> TreeResult<Failures> {
    let left = TreePath::of_name(name.as_bytes())?;
    let there = view.stat_itself(&left).await?;
    let (was, which, by) = match what {
        What::Copied => {
            tracing::info!("a copy that was not whole is deleted: {name}");
            return Ok(remove(view, &left, there.ino).await);
        }
        What::Replaced { name, which, by } => (TreePath::of_name(&name)?, which, by),
    };
    match view.stat_itself(&was).await {
        _ if there.ino.0 != which => tracing::warn!("{name} is another than a door has left"),
        Ok(now) if now.ino.0 == by => {
            tracing::info!("what was replaced is deleted: {name}");
            return Ok(remove(view, &left, there.ino).await);
        }
        Ok(_) => tracing::warn!("what was at {} is at {name}: its name is taken", write(&was)),
        Err(e) if e.is_not_found() => {
            tracing::info!("{} is back at its place, which nothing else has got", write(&was));
            view.rename(&left, &was, RenameMode::NoReplace).await?;
        }
        Err(e) => return Err(e),
    }
    Ok(Failures::default())
}
