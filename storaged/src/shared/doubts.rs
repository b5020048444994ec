//! What of a disk is not answered for, since a sync has failed: block files whose records may look written, and not be.
//!
//! [`crate::owner::read_back`] reads them from the device, and ends the doubt of each.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use proto::part_store::PartError;

/// The doubts of one disk.
#[derive(Debug, Default)]
pub(crate) struct Doubts(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    /// Why it stays so, of those that could not be read back.
    files: BTreeMap<u32, Option<String>>,
    /// What became of those that were read back.
    told: Vec<String>,
}

impl Doubts {
    /// From now on nothing in the file is answered for. `false`: so it was before.
    pub(crate) fn raise(&self, file: u32) -> bool {
        let mut state = self.0.write();
        let new = !state.files.contains_key(&file);
        state.files.entry(file).or_default();
        new
    }

    /// What is in the file cannot be read back, and is not answered for before the disk is opened anew.
    pub(crate) fn stays(&self, file: u32, why: String) {
        self.0.write().files.insert(file, Some(why));
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
        self.0.read().files.get(&file).map_or(Ok(()), |why| Err(not_yet(file, why.as_deref())))
    }

    /// The same of all that the disk has.
    ///
    /// # Errors
    /// [`PartError::Io`]: not yet.
    pub(crate) fn check_all(&self) -> Result<(), PartError> {
        let state = self.0.read();
        state
            .files
            .first_key_value()
            .map_or(Ok(()), |(file, why)| Err(not_yet(*file, why.as_deref())))
    }

    /// In words; empty where nothing was ever in doubt.
    pub(crate) fn told(&self) -> String {
        let state = self.0.read();
        let doubted =
            state.files.iter().map(|(file, why)| format!("; {}", said(*file, why.as_deref())));
        let ended = state.told.iter().map(|told| format!("; {told}"));
        ended.chain(doubted).collect()
    }
}

fn not_yet(file: u32, why: Option<&str>) -> PartError {
    PartError::Io(format!("a sync has failed, and {}", said(file, why)))
}

fn said(file: u32, why: Option<&str>) -> String {
    match why {
        None => format!("block file {file} is being read back"),
        Some(why) => format!("block file {file} could not be read back: {why}"),
    }
}
