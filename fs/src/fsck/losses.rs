//! What a volume's metadata have lost, in words: told once it was opened with what is left.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use meta::{Losses, LostEntries, Time, Volume};

/// Gaps that are told; the rest is counted.
const TOLD: usize = 20;
/// Records fetched at once.
const PAGE: usize = 1024;

/// A sentence for each thing that is lost.
pub(super) fn sentences(losses: &Losses) -> Vec<String> {
    let count = losses.entry_count();
    let mut said: Vec<String> = losses.entries.iter().take(TOLD).map(gap).collect();
    if losses.entries.len() > TOLD {
        said.push(format!("{} more gaps of the journal", losses.entries.len() - TOLD));
    }
    let applied = losses.applied;
    said.push(format!(
        "the metadata were put together from what is left: {count} entries of the journal are lost, {applied} were applied"
    ));
    if losses.manifest {
        let text = "the list of the snapshot's chunks is lost: they were taken in the order in which they were written";
        said.push(text.to_owned());
    }
    if losses.chunks > 0 {
        said.push(format!("{} chunks of the snapshot are lost, and all they had", losses.chunks));
    }
    if losses.kept_here > 0 {
        let text = "chunks of the snapshot were on no disk, and in the cache of this machine: they are stored again";
        said.push(format!("{} {text}", losses.kept_here));
    }
    said
}

/// What came of it: inodes that did not fit together any more, and blobs that nobody names. Those are deleted by
/// whoever mounts the volume next, and not here.
pub(super) async fn afterwards(led: &Volume, inodes: u64) -> Result<String> {
    let (mut nameless, mut bytes, mut after) = (0u64, 0u64, None);
    loop {
        let page = led.blobs(after, PAGE).await.context("listing blobs")?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        for record in page.iter().filter(|record| record.live == 0) {
            nameless += 1;
            bytes += u64::from(record.id.len());
        }
    }
    Ok(format!(
        "{inodes} files and directories had to be set right; {nameless} blobs ({bytes} bytes) are nobody's now, and the next mount deletes them"
    ))
}

/// Entries that are gone, and between which times.
fn gap(lost: &LostEntries) -> String {
    let LostEntries { first, last, after, before } = lost;
    let which = match first == last {
        true => format!("entry {first} of the journal is lost"),
        false => format!("entries {first} to {last} of the journal are lost"),
    };
    let time = match (after.map(moment), before.map(moment)) {
        (Some(after), Some(before)) => format!("what changed between {after} and {before}"),
        (Some(after), None) => format!("what changed after {after}"),
        (None, Some(before)) => format!("what changed before {before}, and is in no snapshot"),
        (None, None) => "when its changes were made is not known".to_owned(),
    };
    format!("{which}: {time}")
}

fn moment(time: Time) -> String {
    let since = Duration::from_secs(time.secs.max(0).unsigned_abs());
    match UNIX_EPOCH.checked_add(since) {
        Some(at) if since.as_secs() < 250_000_000_000 => {
            humantime::format_rfc3339_seconds(at).to_string()
        }
        _ => "a time in the far future".to_owned(),
    }
}
