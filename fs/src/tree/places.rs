//! Where a file lies, and what losses it survives, as its disks say now.

use std::collections::BTreeSet;

use meta::may::READ;
use meta::{Attr, Extent, Kind, is_inline};
use proto::id::{BlobId, PartSet};
use proxy::{Proxy, Safety, SlotStatus};

use super::{TreePath, TreeResult, View};

/// Extents of a file that are looked at.
const EXTENTS: usize = 4096;
/// Blobs that its disks are asked for.
const BLOBS: usize = 64;

/// Where a file lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// How data are protected, as `ec(4,2)`.
    pub scheme: String,
    /// Disks that may still be lost, as it is now, before something of it cannot be read; `None`: some cannot.
    pub spare: Option<usize>,
    /// Disks that may be lost when all are up, and everything can still be read.
    pub losses_reads: usize,
    /// The same, and more can still be stored.
    pub losses_writes: usize,
    /// It is so small that it lies in the metadata, or nothing of it is stored.
    pub inline: bool,
    /// All of it was looked at.
    pub complete: bool,
    /// The disks that have parts of it.
    pub disks: Vec<OnDisk>,
}

/// What a disk has of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnDisk {
    /// The disk, as last seen.
    pub disk: SlotStatus,
    /// Bytes of parts of the blobs that the file lies in, which may have bytes of other files, too.
    pub bytes: u64,
}

impl View {
    /// Where a file lies that may be read. Of a folder it is said what may be lost, and no disks.
    ///
    /// # Errors
    /// When there is no such file, or it may not be read.
    pub async fn places(&self, path: &TreePath) -> TreeResult<Places> {
        let attr = self.stat(path).await?;
        self.may(&attr, |who, inode| who.access(inode, READ)).await?;
        let (volume, slots) = (self.filesystem.meta.volume(), self.filesystem.blobs.slots().await);
        let safety = Safety::of_slots(volume.scheme, volume.rules, &slots);
        let losses = safety.map(|safety| safety.of_disks());
        let away = slots.iter().filter(|slot| slot.state != "up").count();
        let mut places = Places {
            scheme: volume.scheme.to_string(),
            spare: losses.and_then(|losses| losses.reads.checked_sub(away)),
            losses_reads: losses.map_or(0, |losses| losses.reads),
            losses_writes: losses.map_or(0, |losses| losses.writes),
            inline: false,
            complete: true,
            disks: Vec::new(),
        };
        if attr.kind == Kind::File
            && let Some((_, blobs)) = self.filesystem.inside.get()
        {
            let (blobs_of, complete) = self.blobs_of(&attr).await?;
            (places.inline, places.complete) = (blobs_of.is_empty(), complete);
            look(&blobs.current(), &blobs_of, &slots, &mut places).await;
        }
        Ok(places)
    }

    /// The blobs of a file that are on disks, and whether these are all.
    async fn blobs_of(&self, attr: &Attr) -> TreeResult<(BTreeSet<BlobId>, bool)> {
        let extents = self.filesystem.meta.extents(attr.ino, 0..attr.size, EXTENTS).await?;
        let blob = |extent: &Extent| extent.place.map(|place| place.blob);
        let all: BTreeSet<BlobId> =
            extents.iter().filter_map(blob).filter(|id| !is_inline(id)).collect();
        let complete = extents.len() < EXTENTS && all.len() <= BLOBS;
        Ok((all.into_iter().take(BLOBS).collect(), complete))
    }
}

/// Asks the disks.
async fn look(proxy: &Proxy, blobs: &BTreeSet<BlobId>, slots: &[SlotStatus], places: &mut Places) {
    let mut bytes = vec![0; slots.len()];
    for id in blobs {
        let mut parts = PartSet::EMPTY;
        for holds in proxy.stat(*id).await {
            let Ok(held) = holds.held else { continue };
            if let Some(bytes) = bytes.get_mut(holds.slot) {
                *bytes += held.parts.len() as u64 * u64::from(id.part_len());
            }
            parts = parts.union(held.parts);
        }
        let spare = parts.len().checked_sub(id.scheme().data_parts());
        places.spare = match (places.spare, spare) {
            (Some(least), Some(spare)) => Some(least.min(spare)),
            _ => None,
        };
    }
    let on = slots.iter().zip(bytes).filter(|(_, bytes)| *bytes > 0);
    places.disks = on.map(|(disk, bytes)| OnDisk { disk: disk.clone(), bytes }).collect();
}
