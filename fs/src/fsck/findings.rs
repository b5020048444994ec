//! What a check has found, as data and in words. The process of a mount tells it as JSON.

use proto::id::BlobId;
use serde::{Deserialize, Serialize};

use super::lost::{File, Why};

/// Findings of one kind that are told; the rest is counted.
const TOLD: usize = 1000;
/// Blobs of one kind that are told to people.
const SHOWN: usize = 20;

/// What was found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) inodes: u64,
    pub(crate) entries: u64,
    pub(crate) extents: u64,
    pub(crate) blobs: u64,
    /// Blobs of sessions that ended badly: the next mount sweeps them.
    pub(crate) to_sweep: u64,
    /// Blobs that only take room.
    pub(crate) leaked: u64,
    /// Blobs of which too few parts are left.
    pub(crate) lost: Blobs,
    /// Blobs that can be read, and can lose less than they could.
    pub(crate) restorable: Blobs,
    /// Blobs of which parts may be on disks that do not answer, and are not missed otherwise.
    pub(crate) away: Blobs,
    /// Blobs that can be read by how many disks (or hosts) they can lose, from none on.
    pub(crate) spare: Spare,
    /// Disks that could not be asked.
    pub(crate) disks_away: usize,
    /// Which these are, and what that means.
    pub(crate) outage: Option<String>,
    /// What is wrong in the metadata, or could not be looked at: all of it, of which the first are told.
    pub(crate) problem_count: u64,
    pub(crate) problems: Vec<String>,
    /// What was put right, and how: all of it, of which the first is told.
    pub(crate) mended_count: u64,
    pub(crate) mended: Vec<String>,
    /// Unlinked files of crashed mounts that were deleted.
    pub(crate) reaped: u64,
    /// Files with bytes that are lost, or lie on disks that are away; `None`: nobody asked.
    pub(crate) files: Option<Vec<File>>,
    /// How the cluster file and the disks differ from what the volume was stored by.
    pub(crate) warnings: Vec<String>,
}

/// Blobs of which the same is to be told.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Blobs {
    /// All of them.
    pub(crate) count: u64,
    /// The first of them.
    pub(crate) blobs: Vec<Blob>,
}

/// A blob, and what of it is not as it should be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub(crate) blob: String,
    /// Metadata are in it, and no data.
    pub(crate) metadata: bool,
    pub(crate) why: String,
}

/// Blobs by spare losses.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Spare {
    pub(crate) data: Vec<u64>,
    pub(crate) metadata: Vec<u64>,
}

impl Blobs {
    pub(super) fn push(&mut self, id: &BlobId, why: String) {
        self.count += 1;
        if self.blobs.len() < TOLD {
            let metadata = id.session().is_metadata();
            self.blobs.push(Blob { blob: id.to_string(), metadata, why });
        }
    }

    /// A line each, for people.
    fn lines(&self, what: &str, lines: &mut Vec<String>) {
        let line = |Blob { blob, metadata, why }: &Blob| {
            let of = if *metadata { " (of metadata)" } else { "" };
            format!("blob {blob}{of} {what}: {why}")
        };
        lines.extend(self.blobs.iter().take(SHOWN).map(line));
        if self.count > SHOWN as u64 {
            lines.push(format!("... and {} more {what}", self.count - SHOWN as u64));
        }
    }
}

impl Findings {
    pub(super) fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < TOLD {
            self.problems.push(text);
        }
    }

    pub(super) fn mended(&mut self, text: String) {
        self.mended_count += 1;
        if self.mended.len() < TOLD {
            self.mended.push(text);
        }
    }

    /// A blob can lose so much; `None`: it cannot be read.
    pub(super) fn count(&mut self, id: &BlobId, spare: Option<usize>) {
        let Some(spare) = spare else { return };
        let counts = match id.session().is_metadata() {
            true => &mut self.spare.metadata,
            false => &mut self.spare.data,
        };
        counts.resize(counts.len().max(spare + 1), 0);
        counts[spare] += 1;
    }

    /// What is wrong whatever disks come back.
    fn wrong(&self) -> u64 {
        self.problem_count + self.lost.count + self.restorable.count
    }

    /// Is there nothing wrong, and nothing away?
    pub(crate) fn is_in_order(&self) -> bool {
        self.wrong() == 0 && self.away.count == 0
    }

    /// Was something put right?
    pub(crate) fn has_mended(&self) -> bool {
        self.mended_count > 0
    }

    /// All of it for people, the verdict last.
    pub(crate) fn told(&self, volume: &str) -> String {
        let mut lines: Vec<String> =
            self.warnings.iter().map(|warning| format!("warning: {warning}")).collect();
        lines.extend(self.outage.clone());
        some(&self.mended, self.mended_count, &mut lines, |mended| format!("mended: {mended}"));
        some(&self.problems, self.problem_count, &mut lines, ToOwned::to_owned);
        self.lost.lines("is lost", &mut lines);
        self.restorable.lines("can be restored", &mut lines);
        self.away.lines("is away", &mut lines);
        let Self { inodes, entries, extents, blobs, .. } = self;
        lines.push(format!("{inodes} inodes, {entries} entries, {extents} extents, {blobs} blobs"));
        lines.extend(self.files.iter().flatten().map(ToString::to_string));
        if self.reaped > 0 {
            let reaped = self.reaped;
            lines.push(format!("{reaped} unlinked files of crashed mounts were deleted"));
        }
        if self.to_sweep > 0 {
            let swept = self.to_sweep;
            lines.push(format!("{swept} blobs of a crashed mount will be swept by the next one"));
        }
        if self.leaked > 0 {
            lines.push(format!("{} blobs take room that nothing refers to", self.leaked));
        }
        lines.push(format!("blobs of data: {}", losses(&self.spare.data)));
        lines.push(format!("blobs of metadata: {}", losses(&self.spare.metadata)));
        let (lost, restorable, away) = (self.lost.count, self.restorable.count, self.away.count);
        lines.push(format!("{lost} blobs are lost, {restorable} can be restored, {away} are away"));
        lines.extend(self.advice());
        lines.push(match (self.wrong(), away) {
            (0, 0) if self.has_mended() => format!("{volume} is in order now"),
            (0, 0) => format!("{volume} is in order"),
            (0, _) => format!("{volume} is in order, as far as the disks that are up can tell"),
            (n, _) => format!("{volume} has {n} problems"),
        });
        lines.join("\n")
    }

    /// What to do.
    fn advice(&self) -> impl Iterator<Item = String> {
        let files = self.files.iter().flatten();
        let away = self.away.count > 0 || files.clone().any(|file| file.is(Why::Away));
        let lost = self.lost.count > 0 || files.clone().any(|file| file.is(Why::Lost));
        let advice = [
            (
                away,
                "what is away is not lost: it is there again when the disks are back that do not answer",
            ),
            (
                self.restorable.count > 0,
                "what can be restored is, by whoever mounts the volume, or by --repair",
            ),
            (lost && self.files.is_none(), "which files have lost bytes says --lost"),
            (lost, "what is lost has to come from elsewhere: no disk that is missing here has it"),
        ];
        advice.into_iter().filter(|(is, _)| *is).map(|(_, text)| text.to_owned())
    }
}

/// The first of them, and how many more there are.
fn some(told: &[String], count: u64, lines: &mut Vec<String>, line: impl Fn(&String) -> String) {
    lines.extend(told.iter().map(line));
    if count > told.len() as u64 {
        lines.push(format!("... and {} more", count - told.len() as u64));
    }
}

/// `3 can lose 1, 40 can lose 2`.
fn losses(spare: &[u64]) -> String {
    let some = spare.iter().enumerate().filter(|(_, count)| **count > 0);
    let told: Vec<String> =
        some.map(|(spare, count)| format!("{count} can lose {spare}")).collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_things_are_told_apart_and_what_to_do_about_each() {
        let blobs = |count| Blobs { count, blobs: Vec::new() };
        let told = |lost, restorable, away| {
            let lists = (blobs(lost), blobs(restorable), blobs(away));
            let (lost, restorable, away) = lists;
            let findings = Findings { lost, restorable, away, ..Findings::default() };
            (findings.is_in_order(), findings.told("v"))
        };
        let (well, text) = told(0, 0, 0);
        assert!(well && text.ends_with("0 are away\nv is in order"), "{text}");
        let (well, text) = told(0, 0, 3);
        assert!(!well && text.contains("3 are away\nwhat is away is not lost"), "{text}");
        assert!(text.ends_with("as far as the disks that are up can tell"), "{text}");
        let (well, text) = told(0, 2, 0);
        assert!(!well && text.contains("2 can be restored") && text.contains("--repair"), "{text}");
        let (well, text) = told(1, 0, 3);
        assert!(!well && text.contains("--lost") && text.ends_with("v has 1 problems"), "{text}");
    }
}
