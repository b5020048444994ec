//! Is everything that metadata promises really there? What `ashlar fsck` does, on its own or in the process of a mount.
//!
//! 1. The metadata itself: names, links, extents, counts ([`meta::Volume::check`]).
//! 2. The blobs that metadata need, those that they are in themselves, too: what is lost, what can be restored, and what
//!    is only away ([`blobs`]).
//! 3. The blobs that slots hold: metadata know each. Those of a session that ended badly are the sweeper's at the next
//!    mount; others take room for nothing.
//!
//! All of it is held against the volume as it is in the store at one moment ([`meta::look`]). So nobody who works on
//! it has to wait, and what they do meanwhile is no finding: what seems to be missing is looked for again, and what the
//! metadata of a later moment do not need is not missed.
//!
//! Nothing is written, unless it shall repair. Then metadata are put right by who alone has the volume
//! ([`meta::Volume::repair`]), and blobs are mended as repair mends them ([`proxy::Proxy::make_whole`]).

mod blobs;
mod findings;
pub(crate) mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use meta::{MetaSettings, Report, Volume, VolumeError, VolumeStores, is_inline};
use proto::id::{BlobId, SessionId};
use proxy::{BlobStore, Proxy};

pub(crate) use self::findings::Findings;

/// Records fetched at once.
const PAGE: usize = 1024;
/// Looks at a volume that others change, whose blobs go while they are read.
const LOOKS: usize = 5;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// What is wrong is put right.
    pub(crate) repair: bool,
    /// Every byte is read.
    pub(crate) data: bool,
    /// Files of which bytes cannot be read are named.
    pub(crate) lost: bool,
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
    pub(crate) name: &'a str,
    /// As this process leads it: then its blobs can be mended.
    pub(crate) led: Option<&'a Volume>,
    /// Others work on it meanwhile.
    pub(crate) in_use: bool,
}

/// Hears how many blobs of how many were examined.
pub(crate) type Told<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// A volume at one moment.
struct Moment {
    volume: Arc<Volume>,
    /// Blobs that metadata know, and whether bytes of them are needed from slots.
    known: BTreeMap<BlobId, bool>,
}

impl Moment {
    /// Those that must be there.
    fn needed(&self) -> impl Iterator<Item = BlobId> {
        let data = self.known.iter().filter(|(_, needed)| **needed).map(|(id, _)| *id);
        self.volume.lies_in().iter().copied().chain(data)
    }
}

impl Patient<'_> {
    /// May it change meanwhile? Who leads it takes snapshots, at least.
    fn changes(&self) -> bool {
        self.in_use || self.led.is_some()
    }

    async fn look(&self) -> Result<Arc<Volume>> {
        let looked = meta::look(self.stores, self.name, None, MetaSettings::default()).await;
        looked.context("looking at the metadata")
    }

    /// Walks over the metadata. Where they change, what is found wrong in a snapshot that goes meanwhile says nothing.
    async fn walk(&self) -> Result<(Moment, Report)> {
        let mut volume = self.look().await?;
        for _ in 1..LOOKS {
            let walked = walk(&volume).await;
            if !self.changes() || walked.as_ref().is_ok_and(|(_, report)| report.is_clean()) {
                return walked;
            }
            let again = self.look().await?;
            let still: BTreeSet<&BlobId> = again.lies_in().iter().collect();
            if volume.lies_in().iter().all(|id| still.contains(id)) {
                return walked;
            }
            volume = again;
        }
        walk(&volume).await
    }
}

async fn walk(volume: &Arc<Volume>) -> Result<(Moment, Report)> {
    let report = volume.check().await.context("walking the metadata")?;
    Ok((list(volume).await?, report))
}

/// Lists the blobs that metadata know.
async fn list(volume: &Arc<Volume>) -> Result<Moment> {
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

/// Checks a volume, and repairs it if that is wanted and it is led.
///
/// # Errors
/// Why it could not look, or could not repair.
pub(crate) async fn check(patient: &Patient<'_>, wish: Wish, told: Told<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    if let (true, false, Some(led)) = (wish.repair, patient.in_use, patient.led) {
        let repaired = led.repair().await.context("repairing the metadata")?;
        repaired.mended.into_iter().for_each(|mended| findings.mended(mended));
        findings.reaped = repaired.reaped;
    }
    let (moment, report) = patient.walk().await?;
    (findings.inodes, findings.entries) = (report.inodes, report.entries);
    (findings.extents, findings.blobs) = (report.extents, report.blobs);
    report.sentences().for_each(|problem| findings.problem(problem));
    let mut unreadable: Vec<_> = report.gone.iter().map(|id| (*id, lost::Why::Lost)).collect();
    unreadable.extend(blobs::examine(patient, &moment, wish, told, &mut findings).await?);
    find_unknown(patient, &moment, &mut findings).await?;
    if wish.lost {
        // What a mount needs for it does not go meanwhile.
        let volume = patient.led.unwrap_or(&moment.volume);
        findings.files = Some(lost::files(volume, &unreadable).await?);
    }
    Ok(findings)
}

/// Says of an error what of it is no more than that disks are away.
pub(crate) async fn explained(blobs: &dyn BlobStore, why: anyhow::Error) -> anyhow::Error {
    let slots = blobs.slots().await;
    let (all, away) = (slots.len(), slots.iter().filter(|slot| slot.state != "up").count());
    let is_of_disks = why.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(VolumeError::Store(_) | VolumeError::Damaged { .. }))
    });
    if away == 0 || !is_of_disks {
        return why;
    }
    anyhow!(
        "{why:#}; {away} of {all} disks do not answer, so what is missing is away, and none of it is known to be lost: \
         bring them back, and run this again"
    )
}

/// Looks for blobs on the slots that metadata do not know.
async fn find_unknown(
    patient: &Patient<'_>,
    moment: &Moment,
    findings: &mut Findings,
) -> Result<()> {
    let id = moment.volume.info().id;
    let open = moment.volume.dead_sessions().await.context("listing sessions")?;
    let next = moment.volume.next_session().await.context("counting sessions")?;
    for session in (1..next.0).map(SessionId) {
        // One that is at work has blobs that it has not told metadata of yet.
        if patient.in_use && open.contains(&session) {
            continue;
        }
        let mut after = None;
        loop {
            let page = match patient.proxy.list(id, session, after).await {
                Ok(page) => page.blobs,
                Err(e) => {
                    findings.problem(format!("blobs of session {session} cannot be listed: {e}"));
                    break;
                }
            };
            let Some(last) = page.last() else { break };
            after = Some(*last);
            let unknown = page.iter().filter(|id| !moment.known.contains_key(id)).count() as u64;
            match open.contains(&session) {
                true => findings.to_sweep += unknown,
                false => findings.leaked += unknown,
            }
        }
    }
    Ok(())
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
