//! Notes for whoever serves the volume next: what is under way, and has to be tidied up where the process ends before it does. They
//! are attributes of the volume's root that no user can set, and in the journal before whatever is changed after them.

use meta::{MetaError, ROOT};

use super::{TreeResult, View};

/// What their names begin with.
const NOTE: &[u8] = b"trusted.ashlar.note.";

fn attribute(name: &str) -> Vec<u8> {
    [NOTE, name.as_bytes()].concat()
}

impl View {
    /// Leaves a note.
    ///
    /// # Errors
    /// When it has no room, or metadata cannot be had.
    pub async fn leave_note(&self, name: &str, text: &[u8]) -> TreeResult<()> {
        Ok(self.filesystem.meta.setxattr(ROOT, &attribute(name), text, None).await?)
    }

    /// Takes one away that is of no use any more.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn drop_note(&self, name: &str) -> TreeResult<()> {
        match self.filesystem.meta.removexattr(ROOT, &attribute(name)).await {
            Err(MetaError::NoAttribute) => Ok(()),
            dropped => Ok(dropped?),
        }
    }

    /// All that there are: names and texts.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn notes(&self) -> TreeResult<Vec<(String, Vec<u8>)>> {
        let mut notes = Vec::new();
        for attribute in self.filesystem.meta.listxattr(ROOT).await? {
            let Some(name) = attribute.strip_prefix(NOTE) else { continue };
            let text = self.filesystem.meta.getxattr(ROOT, &attribute).await?;
            notes.push((String::from_utf8_lossy(name).into_owned(), text));
        }
        Ok(notes)
    }
}
