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
//! ([`meta::Volume::repair`]), and blobs are mended as repair mends them ([`proxy::repair::Examiner::make_whole`]).

mod blobs;
mod findings;
mod losses;
pub(crate) mod lost;
mod patient;

use anyhow::{Context, Result, anyhow};
use meta::VolumeError;
use proto::id::{BlobId, SessionId};
use proxy::BlobStore;

pub(crate) use self::findings::Findings;
use self::patient::Moment;
pub use self::patient::Wish;
pub(crate) use self::patient::{Patient, Told};

/// Checks a volume, and repairs it if that is wanted and it is led.
///
/// # Errors
/// Why it could not look, or could not repair.
pub(crate) async fn check(patient: &Patient<'_>, wish: Wish, told: Told<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    if let (true, false, Some(led)) = (wish.repair, patient.in_use, patient.led) {
        let repairing = match patient.salvaged {
            Some(losses) => {
                losses::sentences(losses).into_iter().for_each(|lost| findings.mended(lost));
                led.repair_remains().await
            }
            None => led.repair().await,
        };
        let repaired = repairing.context("repairing the metadata")?;
        if patient.salvaged.is_some() {
            findings.mended(losses::afterwards(led, repaired.inodes).await?);
        }
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
        findings.files = Some(name_lost(patient, &moment, &unreadable).await?);
    }
    Ok(findings)
}

/// Names the files of which bytes cannot be read. Never by the volume as it is led: so long a look would hold up
/// whoever changes it.
async fn name_lost(
    patient: &Patient<'_>,
    moment: &Moment,
    unreadable: &[(BlobId, lost::Why)],
) -> Result<Vec<lost::File>> {
    let mut looks = patient.looks(moment.volume.clone());
    loop {
        let named = lost::files(&looks.volume, unreadable).await;
        if named.is_ok() || !looks.again().await? {
            return named;
        }
    }
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
