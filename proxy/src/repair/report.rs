//! How safe the blobs of a volume are, and what is being done about it: in one word, one line, and in numbers.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::health::Health;
use proto::part_store::ScrubState;
use serde::{Deserialize, Serialize};

/// As what a blob is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Counted {
    /// As nothing: it was not looked at yet, or there is none such any more.
    Not,
    /// As one that cannot be read.
    Unread,
    /// As one that has so much to spare.
    Spare(usize),
}

/// What has become of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Change {
    /// As what it was counted.
    pub(crate) before: Counted,
    /// And as what it is counted now.
    pub(crate) after: Counted,
    /// What it could have.
    pub(crate) best: usize,
}

/// What a census has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Blobs of which enough parts were found, by how many units (disks, or hosts) each can lose: from none on.
    pub by_spare: Vec<u64>,
    /// Of these, those that could lose more if their parts lay where they belong.
    pub at_risk: u64,
    /// Blobs that cannot be read while slots are away.
    pub unavailable: u64,
    /// Blobs that cannot be read although every slot was heard.
    pub lost: u64,
}

impl Counts {
    /// One more blob has so much to spare, and could have as much as `best`.
    pub(crate) fn add(&mut self, spare: usize, best: usize) {
        if self.by_spare.len() <= spare.max(best) {
            self.by_spare.resize(spare.max(best) + 1, 0);
        }
        self.by_spare[spare] += 1;
        self.at_risk += u64::from(spare < best);
    }

    /// Something has become of a blob since it was counted.
    pub(crate) fn change(&mut self, change: Change) {
        let Change { before, after, best } = change;
        match before {
            Counted::Not => {}
            Counted::Unread => self.unavailable = self.unavailable.saturating_sub(1),
            Counted::Spare(spare) => {
                self.at_risk = self.at_risk.saturating_sub((spare < best).into());
                let count = self.by_spare.get_mut(spare);
                count.into_iter().for_each(|count| *count = count.saturating_sub(1));
            }
        }
        match after {
            Counted::Not => {}
            Counted::Unread => self.unavailable += 1,
            Counted::Spare(spare) => self.add(spare, best),
        }
    }

    /// All of them.
    pub fn blobs(&self) -> u64 {
        self.by_spare.iter().sum::<u64>() + self.unavailable + self.lost
    }

    /// The fewest losses that some blob survives, if any survives fewer than it could, and how many such there are.
    fn worst(&self) -> Option<(usize, u64)> {
        let first = self.by_spare.iter().position(|count| *count > 0)?;
        (self.at_risk > 0).then(|| (first, self.by_spare[first]))
    }
}

/// Something that repair cannot do, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// A blob, or a slot.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// A disk that is to be emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Its number.
    pub disk: usize,
    /// Its id.
    pub id: String,
    /// Where it is.
    pub place: String,
    /// Parts that are on it still, of whatever volume; `None`: it does not say, as it is away.
    pub parts: Option<u64>,
    /// Bytes that those take.
    pub bytes: u64,
    /// It holds nothing, or held nothing before it went away: it can be pulled.
    pub empty: bool,
}

impl Drain {
    fn short(&self) -> String {
        match (self.empty, self.parts) {
            (true, _) => format!("disk {} is empty and can be pulled", self.disk),
            (false, Some(parts)) => {
                format!("disk {} is being emptied, {} parts left", self.disk, counted(parts))
            }
            (false, None) => format!("disk {} was to be emptied, and is away", self.disk),
        }
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { disk, id, place, parts, bytes, empty } = self;
        write!(f, "disk {disk} at {place} ")?;
        match (empty, parts) {
            (true, _) => write!(
                f,
                "is empty: it can be pulled, and storaged disk lost {id} takes it out of the cluster file"
            ),
            (false, Some(parts)) => {
                write!(f, "has {} parts left, {} MiB", counted(*parts), bytes >> 20)
            }
            (false, None) => f.write_str("is away, and was not empty"),
        }
    }
}

/// How far the disks of a group are that read and verify everything that they hold, again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Disks that do so.
    pub disks: usize,
    /// Those of them that somebody has asked to, and that are not through yet.
    pub asked: usize,
    /// How much of that is done, in percent, by the slowest.
    pub percent: u64,
    /// Bytes that those are still to read.
    #[serde(default)]
    pub bytes_left: u64,
    /// Those that were never read whole.
    pub never: usize,
    /// When the one that was read longest ago was, in seconds since 1970.
    pub oldest: u64,
}

impl ScrubReport {
    pub(crate) fn of(scrubs: impl Iterator<Item = ScrubState>) -> Self {
        let mut report = Self { percent: 100, oldest: u64::MAX, ..Self::default() };
        for ScrubState { ended, percent, asked, left } in scrubs {
            report.disks += 1;
            report.asked += usize::from(asked);
            report.never += usize::from(ended == 0);
            if asked {
                report.percent = report.percent.min(percent);
                report.bytes_left = report.bytes_left.saturating_add(left);
            }
            report.oldest = report.oldest.min(ended);
        }
        report
    }
}

impl fmt::Display for ScrubReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { disks, asked, percent, never, oldest, .. } = self;
        if *disks == 0 {
            return f.write_str("no disk has said yet how far it is");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if *asked > 0 {
            write!(f, "{asked} of {disks} disks read everything now, {percent} % done; ")?;
        }
        match never {
            0 => write!(
                f,
                "all {disks} disks were read whole within {}",
                span(now.saturating_sub(*oldest))
            ),
            never => write!(f, "{never} of {disks} disks were not read whole yet"),
        }
    }
}

/// How the repair of a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// In one word.
    pub health: Health,
    /// In one line, which begins with the word.
    pub line: String,
    /// Disks in all, those that do not answer, and those that are being filled again.
    pub disks: usize,
    /// See `disks`.
    pub disks_away: usize,
    /// See `disks`.
    pub disks_rebuilding: usize,
    /// Bytes of room that disks lack for parts that belong there and have no place elsewhere.
    pub room_missing: u64,
    /// Disks that can be read, and take nothing.
    pub disks_read_only: usize,
    /// Blobs of which some part is known to be damaged: they are mended, or named as lost or stuck.
    pub damaged_blobs: u64,
    /// How far disks are that read and verify everything.
    pub scrub: ScrubReport,
    /// Disks that are to be emptied.
    pub drains: Vec<Drain>,
    /// What the last census has counted, and what was mended since; none has ended yet if there is no `census_age`.
    pub counts: Counts,
    /// Seconds since the last census ended.
    pub census_age: Option<u64>,
    /// Censuses that have ended, and that one is under way or due.
    pub censuses: u64,
    /// See `censuses`.
    pub counting: bool,
    /// Blobs that wait to be mended, or are being mended, as far as they are remembered.
    pub queue: u64,
    /// Bytes of parts that are still to be put.
    pub bytes_left: u64,
    /// Bytes of parts put per second, lately.
    pub rate: u64,
    /// Seconds until that is done, at that rate.
    pub seconds_left: Option<u64>,
    /// Blobs mended, and bytes of parts put, since the volume was mounted.
    pub mended_blobs: u64,
    /// See `mended_blobs`.
    pub mended_bytes: u64,
    /// Blobs that are lost, by name: the first of them.
    pub lost: Vec<String>,
    /// Blobs that cannot be mended.
    #[serde(default)]
    pub stuck_blobs: u64,
    /// Some of those, and why.
    pub stuck: Vec<Stuck>,
    /// What repair waits for.
    pub waiting: Vec<Stuck>,
}

impl Report {
    /// Fills in the word and the line.
    pub(crate) fn conclude(mut self) -> Self {
        self.health = self.word();
        self.line = self.words();
        self
    }

    fn word(&self) -> Health {
        let Counts { at_risk, unavailable, lost, .. } = self.counts;
        if self.census_age.is_none() {
            Health::Unknown
        } else if unavailable + lost > 0 {
            Health::DataUnavailable
        } else if at_risk > 0
            || self.disks_away + self.disks_rebuilding + self.disks_read_only > 0
            || self.stuck_blobs > 0
            || self.damaged_blobs > 0
        {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// Do all parts of all blobs lie where they belong, as far as was counted, with all disks there?
    pub fn is_settled(&self) -> bool {
        let gone = self.disks_away + self.disks_rebuilding + self.disks_read_only;
        let all_there = self.health == Health::Healthy && gone == 0 && self.waiting.is_empty();
        all_there && self.queue == 0 && !self.counting
    }

    /// `DEGRADED: 2 of 8 disks away, 41,210 of 1,203,551 blobs have 0 spare losses left, healing 312 MiB/s, 4 min left`.
    fn words(&self) -> String {
        let Self { disks, disks_away, disks_rebuilding, disks_read_only, counts, .. } = self;
        let mut said = Vec::new();
        if *disks_away > 0 {
            said.push(format!("{disks_away} of {disks} disks away"));
        }
        if *disks_read_only > 0 {
            said.push(format!("{disks_read_only} of {disks} disks read-only"));
        }
        if *disks_rebuilding > 0 {
            said.push(format!("{disks_rebuilding} of {disks} disks being filled again"));
        }
        if self.room_missing > 0 {
            let missing = self.room_missing.div_ceil(1 << 20);
            said.push(format!("{} MiB of room missing", counted(missing)));
        }
        if self.health == Health::Unknown {
            said.push("the blobs are not counted yet".to_owned());
        }
        let all = counted(counts.blobs());
        if counts.lost > 0 {
            said.push(format!("{} of {all} blobs are lost", counted(counts.lost)));
        }
        if counts.unavailable > 0 {
            said.push(format!("{} of {all} blobs cannot be read", counted(counts.unavailable)));
        }
        if let Some((spare, blobs)) = counts.worst() {
            let losses = if spare == 1 { "loss" } else { "losses" };
            let blobs = counted(blobs);
            said.push(format!("{blobs} of {all} blobs have {spare} spare {losses} left"));
        }
        match self.damaged_blobs {
            0 => {}
            1 => said.push("1 blob has damaged parts".to_owned()),
            blobs => said.push(format!("{} blobs have damaged parts", counted(blobs))),
        }
        if let [first, ..] = &self.stuck[..] {
            let stuck = counted(self.stuck_blobs);
            said.push(format!("{stuck} stuck: {}: {}", first.what, first.why));
        }
        if self.queue > 0 {
            said.push(format!("healing {} MiB/s", self.rate >> 20));
            said.extend(self.seconds_left.map(|left| format!("{} left", span(left))));
        }
        if said.is_empty() {
            let blobs = counts.blobs();
            let least = counts.by_spare.iter().position(|count| *count > 0);
            said.push(match least {
                Some(spare) => {
                    let can = if blobs == 1 { "blob can" } else { "blobs can" };
                    format!("all {} {can} lose {spare} more", counted(blobs))
                }
                None => "there is nothing to lose".to_owned(),
            });
        }
        said.extend(self.drains.iter().map(Drain::short));
        format!("{}: {}", self.health, said.join(", "))
    }
}

impl Report {
    /// What there is to tell beside the line, as a name and a text each.
    pub fn details(&self) -> Vec<(&'static str, String)> {
        let mut told = Vec::new();
        let Counts { by_spare, unavailable, lost, .. } = &self.counts;
        let spare = |(spare, count): (usize, &u64)| format!("{} can lose {spare}", counted(*count));
        let counts = by_spare.iter().enumerate().filter(|(_, count)| **count > 0).map(spare);
        let others = [(unavailable, "cannot be read at present"), (lost, "are lost")];
        let others = others.into_iter().filter(|(count, _)| **count > 0);
        let others = others.map(|(count, what)| format!("{} {what}", counted(*count)));
        let counts: Vec<String> = counts.chain(others).collect();
        if !counts.is_empty() {
            told.push(("losses", format!("of blobs: {}", counts.join(", "))));
        }
        told.push(("scrub", self.scrub.to_string()));
        told.extend(self.drains.iter().map(|drain| ("drain", drain.to_string())));
        let (left, done) = (self.bytes_left >> 20, self.mended_bytes >> 20);
        let mut healing = format!("{} blobs to mend, {left} MiB", counted(self.queue));
        if self.queue > 0 {
            healing += &format!(" at {} MiB/s", self.rate >> 20);
        }
        healing += &format!("; {} mended, {done} MiB", counted(self.mended_blobs));
        told.push(("healing", healing));
        let age = self.census_age.map(|age| format!("{} ago", span(age)));
        let counting = if self.counting { ", one is under way" } else { "" };
        let age = age.as_deref().unwrap_or("none has ended");
        told.push(("census", format!("{age}{counting}")));
        told.extend(self.lost.iter().map(|blob| ("lost", format!("blob {blob}"))));
        told.extend(
            self.waiting.iter().map(|Stuck { what, why }| ("waiting", format!("{what}: {why}"))),
        );
        told.extend(
            self.stuck.iter().map(|Stuck { what, why }| ("stuck", format!("{what}: {why}"))),
        );
        told
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.line)?;
        self.details().iter().try_for_each(|(name, text)| write!(f, "\n{name:<12}{text}"))
    }
}

/// `1,203,551`.
fn counted(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `4 min`: rounded up.
pub fn span(seconds: u64) -> String {
    let rest = Duration::from_secs(seconds);
    match seconds {
        0..=99 => format!("{} s", rest.as_secs()),
        100..=5999 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            health: Health::Unknown,
            line: String::new(),
            disks: 8,
            disks_away: 0,
            disks_rebuilding: 0,
            room_missing: 0,
            disks_read_only: 0,
            damaged_blobs: 0,
            scrub: ScrubReport::default(),
            drains: Vec::new(),
            counts: Counts { by_spare: vec![0, 0, 1_203_551], ..Counts::default() },
            census_age: Some(3),
            censuses: 1,
            counting: false,
            queue: 0,
            bytes_left: 0,
            rate: 0,
            seconds_left: None,
            mended_blobs: 0,
            mended_bytes: 0,
            lost: Vec::new(),
            stuck_blobs: 0,
            stuck: Vec::new(),
            waiting: Vec::new(),
        }
    }

    #[test]
    fn a_disk_that_is_emptied_is_no_trouble_and_is_told_of() {
        let drain = |parts, empty| Drain {
            disk: 3,
            id: "d3".to_owned(),
            place: "/srv/3".to_owned(),
            parts,
            bytes: 5 << 20,
            empty,
        };
        for (drain, line, detail) in [
            (
                drain(Some(1234), false),
                "disk 3 is being emptied, 1,234 parts left",
                "disk 3 at /srv/3 has 1,234 parts left, 5 MiB",
            ),
            (
                drain(None, true),
                "disk 3 is empty and can be pulled",
                "disk 3 at /srv/3 is empty: it can be pulled, and storaged disk lost d3 takes it out of the cluster file",
            ),
        ] {
            let report = Report { drains: vec![drain], ..report() }.conclude();
            assert_eq!(report.health, Health::Healthy);
            assert_eq!(
                report.line,
                format!("HEALTHY: all 1,203,551 blobs can lose 2 more, {line}")
            );
            assert!(report.details().contains(&("drain", detail.to_owned())), "{report}");
        }
    }

    #[test]
    fn health_is_one_word_and_one_line() {
        let counts = |by_spare: &[u64], at_risk, unavailable, lost| Counts {
            by_spare: by_spare.to_vec(),
            at_risk,
            unavailable,
            lost,
        };
        let healing = Report {
            disks_away: 2,
            counts: counts(&[41_210, 0, 1_162_341], 41_210, 0, 0),
            queue: 9,
            rate: 312 << 20,
            seconds_left: Some(200),
            ..report()
        };
        let stuck = Stuck { what: "blob 7".to_owned(), why: "the disk is full".to_owned() };
        let cases = [
            (report(), Health::Healthy, "HEALTHY: all 1,203,551 blobs can lose 2 more"),
            (
                healing,
                Health::Degraded,
                "DEGRADED: 2 of 8 disks away, 41,210 of 1,203,551 blobs have 0 spare losses left, \
                 healing 312 MiB/s, 4 min left",
            ),
            (
                Report { counts: counts(&[0, 0, 5], 0, 0, 2), ..report() },
                Health::DataUnavailable,
                "DATA UNAVAILABLE: 2 of 7 blobs are lost",
            ),
            (
                Report { disks_away: 3, counts: counts(&[1, 0, 0], 1, 6, 0), ..report() },
                Health::DataUnavailable,
                "DATA UNAVAILABLE: 3 of 8 disks away, 6 of 7 blobs cannot be read, \
                 1 of 7 blobs have 0 spare losses left",
            ),
            (
                Report { census_age: None, counts: Counts::default(), ..report() },
                Health::Unknown,
                "UNKNOWN: the blobs are not counted yet",
            ),
            (
                Report { stuck_blobs: 1203, stuck: vec![stuck], ..report() },
                Health::Degraded,
                "DEGRADED: 1,203 stuck: blob 7: the disk is full",
            ),
            (
                Report { disks_rebuilding: 1, ..report() },
                Health::Degraded,
                "DEGRADED: 1 of 8 disks being filled again",
            ),
            (
                Report { disks_read_only: 1, ..report() },
                Health::Degraded,
                "DEGRADED: 1 of 8 disks read-only",
            ),
            (
                Report { damaged_blobs: 2, ..report() },
                Health::Degraded,
                "DEGRADED: 2 blobs have damaged parts",
            ),
            (
                Report { counts: Counts::default(), ..report() },
                Health::Healthy,
                "HEALTHY: there is nothing to lose",
            ),
        ];
        for (report, health, line) in cases {
            let report = report.conclude();
            assert_eq!((report.health, report.line.as_str()), (health, line));
        }
    }

    #[test]
    fn a_disk_that_is_too_small_is_said_to_be_by_how_much() {
        let small = Report { disks_rebuilding: 1, room_missing: (312 << 20) - 1, ..report() };
        let expected = "DEGRADED: 1 of 8 disks being filled again, 312 MiB of room missing";
        assert_eq!(small.conclude().line, expected);
    }

    #[test]
    fn what_is_mended_is_counted_anew() {
        let mut counts = Counts::default();
        counts.add(0, 2);
        counts.add(2, 2);
        assert_eq!((counts.blobs(), counts.at_risk, counts.worst()), (2, 1, Some((0, 1))));
        let change = |before, after| Change { before, after, best: 2 };
        counts.change(change(Counted::Spare(0), Counted::Spare(2)));
        assert_eq!((counts.by_spare.as_slice(), counts.at_risk), (&[0, 0, 2][..], 0));
        assert_eq!(counts.worst(), None);
        counts.change(change(Counted::Not, Counted::Unread));
        counts.change(change(Counted::Spare(2), Counted::Not));
        assert_eq!((counts.by_spare.as_slice(), counts.unavailable), (&[0, 0, 1][..], 1));
        counts.change(change(Counted::Unread, Counted::Spare(1)));
        assert_eq!((counts.blobs(), counts.at_risk, counts.unavailable), (2, 1, 0));
    }
}
