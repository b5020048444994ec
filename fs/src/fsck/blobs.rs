//! The blobs that a volume needs, one after the other: whole, restorable, away or lost ([`proxy::repair::Fate`]).
//!
//! Of those that metadata are in every copy is read and verified, of data only if that is wanted: else it is asked for.
//! Memory holds the parts of [`READ_AT_ONCE`] blobs, and the names of those that are not whole.

use std::collections::BTreeSet;

use anyhow::Result;
use futures::{Stream, StreamExt, stream};
use proto::id::{BlobId, PartSet};
use proxy::repair::{Examined, Fate};

use super::findings::Findings;
use super::lost::Why;
use super::patient::{Moment, Patient, Told, Wish, list};

/// Blobs asked for at once, and read at once.
const ASKED_AT_ONCE: usize = 16;
const READ_AT_ONCE: usize = 4;

/// Examines all of them. Answers which cannot be read, of data.
pub(super) async fn examine(
    patient: &Patient<'_>,
    moment: &Moment,
    wish: Wish,
    told: Told<'_>,
    findings: &mut Findings,
) -> Result<Vec<(BlobId, Why)>> {
    let (own, data): (Vec<BlobId>, Vec<BlobId>) =
        moment.needed().partition(|id| id.session().is_metadata());
    let all = (own.len() + data.len()) as u64;
    let (mut done, mut suspects) = (0, Vec::new());
    for (ids, read) in [(own, true), (data, wish.data)] {
        let mut looked = examined(patient, ids, read);
        while let Some((id, examined)) = looked.next().await {
            done += 1;
            told(done, all);
            match examined.fate {
                Fate::Whole => findings.count(&id, examined.spare),
                _ => suspects.push((id, examined)),
            }
        }
    }
    if patient.changes() {
        suspects = reconsidered(patient, wish, suspects, findings).await?;
    }
    settle(patient, wish, suspects, findings).await
}

/// How each of these is, in their order.
fn examined<'a>(
    patient: &'a Patient<'_>,
    ids: Vec<BlobId>,
    read: bool,
) -> impl Stream<Item = (BlobId, Examined)> + Unpin + 'a {
    let look = move |id: BlobId| async move { (id, patient.examiner.examine(id, read).await) };
    let at_once = if read { READ_AT_ONCE } else { ASKED_AT_ONCE };
    Box::pin(stream::iter(ids.into_iter().map(look)).buffered(at_once))
}

/// Of those that are not whole in a volume that changes, the ones that are not so because they were just being moved,
/// and that are needed afterwards: what was needed then was needed all the time.
async fn reconsidered(
    patient: &Patient<'_>,
    wish: Wish,
    suspects: Vec<(BlobId, Examined)>,
    findings: &mut Findings,
) -> Result<Vec<(BlobId, Examined)>> {
    if suspects.is_empty() {
        return Ok(suspects);
    }
    let ids = suspects.into_iter().map(|(id, _)| id);
    let (own, data): (Vec<BlobId>, Vec<BlobId>) = ids.partition(|id| id.session().is_metadata());
    let mut again = Vec::new();
    for (ids, read) in [(own, true), (data, wish.data)] {
        let mut looked = examined(patient, ids, read);
        while let Some((id, examined)) = looked.next().await {
            again.push((id, examined));
        }
    }
    let needed: BTreeSet<BlobId> = list(&patient.look().await?).await?.needed().collect();
    again.retain(|(id, examined)| {
        let whole = examined.fate == Fate::Whole;
        if whole {
            findings.count(id, examined.spare);
        }
        !whole && needed.contains(id)
    });
    Ok(again)
}

/// A blob that was not whole: how it is now, and what is told of it.
struct Settled {
    id: BlobId,
    examined: Examined,
    why: String,
}

/// Of those that are not whole: what they are after a repair, and what is told of them.
async fn settle(
    patient: &Patient<'_>,
    wish: Wish,
    suspects: Vec<(BlobId, Examined)>,
    findings: &mut Findings,
) -> Result<Vec<(BlobId, Why)>> {
    let (mut settled, repairs) = (Vec::new(), wish.repair && patient.led.is_some());
    for (id, examined) in suspects {
        settled.push(match repairs && examined.fate == Fate::Restorable {
            true => restored(patient, wish, id, &examined).await,
            false => Settled { id, why: sentence(&id, &examined), examined },
        });
    }
    let is_whole = |settled: &Settled| settled.examined.fate == Fate::Whole;
    if repairs && patient.changes() && !settled.iter().all(is_whole) {
        // Restoring took a while: what was deleted meanwhile is not missed.
        let needed: BTreeSet<BlobId> = list(&patient.look().await?).await?.needed().collect();
        settled.retain(|settled| is_whole(settled) || needed.contains(&settled.id));
    }
    let mut unreadable = Vec::new();
    for Settled { id, examined, why } in settled {
        findings.count(&id, examined.spare);
        let list = match examined.fate {
            Fate::Whole => {
                findings.mended(format!("blob {id}: {why}: restored"));
                continue;
            }
            Fate::Restorable => &mut findings.restorable,
            Fate::Away => &mut findings.away,
            Fate::Lost => &mut findings.lost,
        };
        list.push(&id, why);
        if examined.spare.is_none() && !id.session().is_metadata() {
            let lost = examined.fate == Fate::Lost;
            unreadable.push((id, if lost { Why::Lost } else { Why::Away }));
        }
    }
    Ok(unreadable)
}

/// Makes one whole that can be restored.
async fn restored(patient: &Patient<'_>, wish: Wish, id: BlobId, before: &Examined) -> Settled {
    let read = wish.data || id.session().is_metadata();
    let restored = patient.examiner.make_whole(id).await;
    let examined = patient.examiner.examine(id, read).await;
    let why = match (examined.fate, restored) {
        (Fate::Whole, _) => sentence(&id, before),
        (_, Ok(())) => format!("{}; no disk takes more of it", sentence(&id, &examined)),
        (_, Err(failed)) => format!("{}; {failed}", sentence(&id, &examined)),
    };
    Settled { id, examined, why }
}

/// `parts 0, 3 of 6`.
fn parts(id: &BlobId, parts: PartSet) -> String {
    let numbers: Vec<String> = parts.iter().map(|part| part.to_string()).collect();
    let s = if numbers.len() == 1 { "" } else { "s" };
    format!("part{s} {} of {}", numbers.join(", "), id.scheme().parts())
}

/// What of a blob is not as it should be.
fn sentence(id: &BlobId, examined: &Examined) -> String {
    let Examined { fate, spare, missing, damaged, deleted } = examined;
    if *deleted {
        return "it is in use, and a disk says that it was deleted".to_owned();
    }
    let mut said = Vec::new();
    if !missing.is_empty() {
        let which = parts(id, *missing);
        said.push(match (fate, spare) {
            (Fate::Away, Some(_)) => {
                format!("it can be read, and {which} may be on disks that are away")
            }
            (Fate::Away, None) => {
                format!("it cannot be read until disks are back that may have {which}")
            }
            (Fate::Lost, _) => format!("no good copy is left of {which}"),
            _ => format!("no good copy is found of {which}"),
        });
    }
    let copy =
        |(part, place): &(_, String)| format!("the copy of part {part} at {place} is damaged");
    said.extend(damaged.iter().map(copy));
    if said.is_empty() {
        said.push("its parts lie closer together than they could".to_owned());
    }
    said.join("; ")
}
