//! How the slots stand to their group: which it has had for how long, and who may be sure of what it does not hold.
//!
//! A group is *founded* once, when it is new: then all its slots serve, for there is nothing that any of them could
//! have lost. Whatever comes to it later is rebuilding, until it was declared rebuilt of every volume there is.

use futures::future::join_all;
use proto::id::DiskId;
use proto::part_store::{PartError, Standing};

use crate::proxy::Proxy;

/// What became of a group that was to be founded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Founded {
    /// It was new, and all its slots serve now.
    Now,
    /// It was there before: some slot holds something, or has promised something.
    Before,
    /// Nobody knows: so many slots have not said how they stand.
    Unheard(usize),
}

/// Why a slot goes on as it is.
#[derive(Debug, thiserror::Error)]
pub enum NotGivenUp {
    /// No slot is on such a disk.
    #[error("no slot of the cluster file is on disk {0}")]
    Stranger(DiskId),
    /// It holds all it should.
    #[error("disk {0} holds all that it should: there is nothing to give up")]
    Serves(DiskId),
    /// Others may have what it lost.
    #[error(
        "{0} disks do not answer, and may hold what is missing: bring them back, or take them out of the cluster file (storaged disk lost)"
    )]
    Silent(usize),
    /// It did not take it.
    #[error("disk {0}: {1}")]
    Failed(DiskId, PartError),
}

impl Proxy {
    /// Has slots on emptied disks count as if they held all they should: what only they had is given up, and no
    /// proof of absence waits for them any more. To be asked when all have answered a roll call.
    ///
    /// # Errors
    /// Where that would give up what can be had, or makes no sense. All but [`NotGivenUp::Failed`]: none has changed.
    pub async fn give_up(&self, disks: &[DiskId]) -> Result<(), NotGivenUp> {
        let standings = self.standings().await;
        let mut slots = Vec::new();
        for disk in disks {
            let slot = self.slots.iter().position(|slot| slot.disk == *disk);
            let slot = slot.ok_or(NotGivenUp::Stranger(*disk))?;
            // One that serves was perhaps given up before something went wrong.
            if !matches!(standings[slot], Some(Some(Standing { rebuilding: false, .. }))) {
                slots.push(slot);
            }
        }
        if let (true, Some(disk)) = (slots.is_empty(), disks.first()) {
            return Err(NotGivenUp::Serves(*disk));
        }
        match standings.iter().filter(|standing| standing.is_none()).count() {
            0 => {}
            silent => return Err(NotGivenUp::Silent(silent)),
        }
        for slot in slots {
            let slot = &self.slots[slot];
            slot.serve().await.map_err(|why| NotGivenUp::Failed(slot.disk, why))?;
        }
        Ok(())
    }

    /// Of every slot that is up how it stands to the group; the inner `None`: nothing was ever asked of it. Changes
    /// nothing.
    pub async fn standings(&self) -> Vec<Option<Option<Standing>>> {
        join_all(self.slots.iter().map(|slot| async move { slot.standing().await.ok() })).await
    }

    /// Is the group new: does each of its slots say that it has promised no volume, and holds nothing? To be asked
    /// when all have answered a roll call.
    ///
    /// # Errors
    /// How many do not say how they stand, where none says that it is old.
    pub(crate) async fn is_new(&self) -> Result<bool, usize> {
        let standings = self.standings().await;
        let old = |standing: &Standing| !standing.pristine;
        if standings.iter().flatten().flatten().any(old) {
            return Ok(false);
        }
        match standings.iter().filter(|standing| standing.is_none()).count() {
            0 => Ok(true),
            unheard => Err(unheard),
        }
    }

    /// Has all slots serve if the group is new. One that was interrupted in that is new still.
    ///
    /// # Errors
    /// The slot that did not take it, and why.
    pub async fn found(&self) -> Result<Founded, (usize, PartError)> {
        match self.is_new().await {
            Ok(true) => {}
            Ok(false) => return Ok(Founded::Before),
            Err(unheard) => return Ok(Founded::Unheard(unheard)),
        }
        let serving = self.slots.iter().map(|slot| slot.serve());
        for (slot, served) in join_all(serving).await.into_iter().enumerate() {
            served.map_err(|why| (slot, why))?;
        }
        Ok(Founded::Now)
    }
}
