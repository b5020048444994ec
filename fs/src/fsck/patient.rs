//! The volume that is checked, what is asked for, and what the volume is at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use meta::{Losses, MetaSettings, Report, Volume, VolumeStores, is_inline};
use proto::id::BlobId;
use proxy::Proxy;
use proxy::repair::Examiner;
use serde::Deserialize;

/// Records fetched at once.
const PAGE: usize = 1024;
/// Looks at a volume that others change, whose blobs go while they are read.
const LOOKS: usize = 5;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    /// What is wrong is put right.
    pub repair: bool,
    /// Every byte is read.
    pub data: bool,
    /// Files of which bytes cannot be read are named.
    pub lost: bool,
}

impl Wish {
    const WORDS: [&str; 3] = ["repair", "data", "lost"];

    /// As words, for the process of a mount.
    pub(crate) fn words(self) -> String {
        let wanted = [self.repair, self.data, self.lost];
        let words = Self::WORDS.into_iter().zip(wanted).filter(|(_, wanted)| *wanted);
        words.map(|(word, _)| word).collect::<Vec<_>>().join(" ")
    }

    /// Reads them back.
    pub(crate) fn of(words: &str) -> Option<Self> {
        let words: Vec<&str> = words.split_whitespace().collect();
        let [repair, data, lost] = Self::WORDS.map(|word| words.contains(&word));
        words.iter().all(|word| Self::WORDS.contains(word)).then_some(Self { repair, data, lost })
    }
}

/// The volume that is checked.
pub(crate) struct Patient<'a> {
    pub(crate) stores: &'a dyn VolumeStores,
    pub(crate) proxy: &'a Proxy,
    /// Reads its blobs, and gives way to whoever uses it.
    pub(crate) examiner: Examiner<'a>,
    pub(crate) name: &'a str,
    /// As this process leads it: then its blobs can be mended.
    pub(crate) led: Option<&'a Volume>,
    /// Others work on it meanwhile.
    pub(crate) in_use: bool,
    /// It is led with what was left of its metadata, which had lost this.
    pub(crate) salvaged: Option<&'a Losses>,
}

/// Hears how many blobs of how many were examined.
pub(crate) type Told<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// A volume at one moment.
pub(super) struct Moment {
    pub(super) volume: Arc<Volume>,
    /// Blobs that metadata know, and whether bytes of them are needed from slots.
    pub(super) known: BTreeMap<BlobId, bool>,
}

impl Moment {
    /// Those that must be there.
    pub(super) fn needed(&self) -> impl Iterator<Item = BlobId> {
        let data = self.known.iter().filter(|(_, needed)| **needed).map(|(id, _)| *id);
        self.volume.lies_in().iter().copied().chain(data)
    }
}

impl Patient<'_> {
    /// May it change meanwhile? Who leads it takes snapshots, at least.
    pub(super) fn changes(&self) -> bool {
        self.in_use || self.led.is_some()
    }

    pub(super) async fn look(&self) -> Result<Arc<Volume>> {
        let looked = meta::look(self.stores, self.name, None, MetaSettings::default()).await;
        looked.context("looking at the metadata")
    }

    /// Looks at it from this one on.
    pub(super) fn looks(&self, first: Arc<Volume>) -> Looks<'_> {
        Looks { patient: self, volume: first, left: LOOKS }
    }

    /// Walks over the metadata.
    pub(super) async fn walk(&self) -> Result<(Moment, Report)> {
        let mut looks = self.looks(self.look().await?);
        loop {
            let walked = walk(&looks.volume).await;
            let clean = walked.as_ref().is_ok_and(|(_, report)| report.is_clean());
            if clean || !looks.again().await? {
                return walked;
            }
        }
    }
}

/// Looks at a volume that may change meanwhile. Then what is found wrong with it says nothing if what was looked at has
/// gone: a later look will do.
pub(super) struct Looks<'a> {
    patient: &'a Patient<'a>,
    /// The last one.
    pub(super) volume: Arc<Volume>,
    left: usize,
}

impl Looks<'_> {
    /// Looks again, where that can change anything. `false`: what was found wrong is.
    ///
    /// # Errors
    /// When it cannot be looked at, or changes too fast.
    pub(super) async fn again(&mut self) -> Result<bool> {
        if !self.patient.changes() {
            return Ok(false);
        }
        let again = self.patient.look().await?;
        let still: BTreeSet<&BlobId> = again.lies_in().iter().collect();
        if self.volume.lies_in().iter().all(|id| still.contains(id)) {
            return Ok(false);
        }
        self.left -= 1;
        if self.left == 0 {
            bail!(
                "the metadata change faster than they can be looked at: run this again when less is changed"
            );
        }
        self.volume = again;
        Ok(true)
    }
}

async fn walk(volume: &Arc<Volume>) -> Result<(Moment, Report)> {
    let report = volume.check().await.context("walking the metadata")?;
    Ok((list(volume).await?, report))
}

/// Lists the blobs that metadata know.
pub(super) async fn list(volume: &Arc<Volume>) -> Result<Moment> {
    let (mut known, mut after) = (BTreeMap::new(), None);
    loop {
        let page = volume.blobs(after, PAGE).await.context("listing blobs")?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        // Garbage may be half deleted. Of an inline one metadata have the bytes, and were checked.
        let needed =
            page.iter().map(|record| (record.id, record.live > 0 && !is_inline(&record.id)));
        known.extend(needed);
    }
    Ok(Moment { volume: volume.clone(), known })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_told_in_words() {
        for bits in 0..8 {
            let [repair, data, lost] = [1, 2, 4].map(|bit| bits & bit > 0);
            let wish = Wish { repair, data, lost };
            assert_eq!(Wish::of(&wish.words()), Some(wish));
        }
        assert_eq!(Wish::of("data now"), None);
    }
}
