//! What of a disk is not answered for, since a sync has failed: block files whose records may look written, and not be.
//!
//! [`crate::owner::read_back`] reads them from the device, and ends the doubt of each.

use std::collections::BTreeSet;

use parking_lot::RwLock;
use proto::part_store::PartError;

/// The doubts of one disk.
#[derive(Debug, Default)]
pub(crate) struct Doubts(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    files: BTreeSet<u32>,
    /// What became of those that were read back.
    told: Vec<String>,
}

impl Doubts {
    /// From now on nothing in the file is answered for. `false`: so it was before.
    pub(crate) fn raise(&self, file: u32) -> bool {
        self.0.write().files.insert(file)
    }

    /// What is in the file was read back, as this says.
    pub(crate) fn end(&self, file: u32, told: String) {
        let mut state = self.0.write();
        state.files.remove(&file);
        state.told.push(told);
    }

    /// Is what lies in the file answered for?
    ///
    /// # Errors
    /// [`PartError::Io`]: not yet.
    pub(crate) fn check(&self, file: u32) -> Result<(), PartError> {
        if self.0.read().files.contains(&file) { Err(not_yet(file)) } else { Ok(()) }
    }

    /// The same of all that the disk has.
    ///
    /// # Errors
    /// [`PartError::Io`]: not yet.
    pub(crate) fn check_all(&self) -> Result<(), PartError> {
        self.0.read().files.first().map_or(Ok(()), |file| Err(not_yet(*file)))
    }

    /// In words; empty where nothing was ever in doubt.
    pub(crate) fn told(&self) -> String {
        let state = self.0.read();
        let doubted =
            state.files.iter().map(|file| format!("; block file {file} is being read back"));
        let ended = state.told.iter().map(|told| format!("; {told}"));
        ended.chain(doubted).collect()
    }
}

fn not_yet(file: u32) -> PartError {
    PartError::Io(format!("a sync has failed, and block file {file} is being read back"))
}
