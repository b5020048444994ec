//! The state of a mount or a cluster: as JSON in an extended attribute of the mount's root, as a
//! table for people.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meta::{MetaError, ProxyStores};
use proxy::repair::{Health, Report};
use proxy::{Safety, SlotStatus, TooManySpare, VolumeRules};
use serde::{Deserialize, Serialize};

use crate::error::FsResult;
use crate::filesystem::Filesystem;
use crate::filesystem::lost_files::LostNames;

/// How long whoever asks waits for the first census, which is short where there are few blobs.
const FIRST_CENSUS: Duration = Duration::from_secs(1);

/// What `ashlar status` tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program that mounts.
    pub version: String,
    /// The mount; none when only the disks were asked.
    pub mount: Option<MountStatus>,
    /// Its disks, as last seen.
    pub disks: Vec<SlotStatus>,
    /// Of a cluster how safe its volumes are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeHealth>,
    /// Why there may be more of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes_missed: Option<String>,
}

/// How safe a volume of a cluster is, as far as that is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeHealth {
    /// What it is called.
    pub volume: String,
    /// What whoever has it open here says of it.
    pub heal: Option<Report>,
    /// Why that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

impl VolumeHealth {
    /// As it was told of, or why it was not.
    pub fn of(told: Result<Report, String>, volume: String) -> Self {
        match told {
            Ok(heal) => Self { volume, heal: Some(heal), unknown: None },
            Err(why) => Self { volume, heal: None, unknown: Some(why) },
        }
    }
}

/// What only a mount knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// The volume.
    pub volume: String,
    /// How its data are protected, as `ec(4,2)`.
    pub scheme: String,
    /// Number of this mount's session.
    pub session: u64,
    /// Process that mounts.
    pub pid: u32,
    /// Bytes of user data that may be stored in all.
    pub capacity: u64,
    /// Bytes that may still be stored.
    pub available: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Bytes of file content that are stored.
    pub live_bytes: u64,
    /// Blobs, and how many bytes they have, live or not.
    pub blobs: u64,
    /// See `blobs`.
    pub blob_bytes: u64,
    /// How safe all blobs are, and what is being done about it.
    #[serde(default)]
    pub heal: Option<Report>,
    /// Files of which bytes are lost.
    #[serde(default)]
    pub lost_files: LostNames,
    /// Bytes of user room that metadata take.
    #[serde(default)]
    pub metadata_bytes: u64,
    /// Their share of the room. They may take more, for as long as there is any.
    #[serde(default)]
    pub metadata_share: u64,
    /// Epoch under which the volume is led.
    #[serde(default)]
    pub epoch: Option<u64>,
    /// When this mount took its last snapshot of the metadata, in seconds since 1970.
    #[serde(default)]
    pub last_snapshot: Option<u64>,
    /// Bytes written and not yet stored.
    pub dirty_bytes: u64,
    /// Bytes cached in memory.
    pub cache_bytes: u64,
    /// Blocks found in the cache.
    pub cache_hits: u64,
    /// Blocks that had to be fetched.
    pub cache_misses: u64,
    /// Why nothing, or little, can be written at present, whatever room there is.
    #[serde(default)]
    pub no_writes: Option<String>,
    /// Why storing failed, if it does at present.
    pub last_error: Option<String>,
    /// What losses reads and writes survive with all disks up.
    #[serde(default)]
    pub safety: String,
    /// Disks that can still be lost once something is stored, however many are away.
    #[serde(default)]
    pub min_spare: u8,
    /// What there is to beware of.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Why it is not to be stored by another number of disks to lose.
#[derive(Debug, thiserror::Error)]
pub enum SpareError {
    /// The scheme cannot lose as many.
    #[error(transparent)]
    TooMany(#[from] TooManySpare),
    /// It cannot be kept.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

impl Filesystem {
    /// Disks that can still be lost once something is stored, however many are away.
    pub fn min_spare(&self) -> u8 {
        self.meta.volume().rules.min_spare
    }

    /// Stores only while so many more disks may be lost, from now on.
    ///
    /// # Errors
    /// Why not: then it is as it was.
    pub async fn set_min_spare(&self, disks: u8) -> Result<(), SpareError> {
        let spare = VolumeRules::spare(self.meta.volume().scheme, disks)?;
        // Who looks for blobs later must know that they may lie so, before one does.
        self.meta.set_min_spare(spare).await?;
        let volume = self.meta.volume();
        self.blobs.abide_by(volume.id, volume.rules);
        self.data.learn_space().await;
        Ok(())
    }

    /// Why not everything can be stored now, for people. `None`: it can.
    pub async fn why_not_ready(&self) -> Option<String> {
        if self.is_stopped() {
            return Some("the volume is not served any more".to_owned());
        }
        if let Err(why) = self.meta.sync().await {
            return Some(why.to_string());
        }
        self.data.learn_space().await;
        self.data.space.why_no_writes()
    }

    /// Files that have bytes in blobs that are lost.
    async fn lost_names(&self) -> LostNames {
        let (Some(healer), Some((_, blobs))) = (self.healer.get(), self.inside.get()) else {
            return LostNames::default();
        };
        let stores = ProxyStores::new(blobs.current());
        let name = self.meta.volume().name;
        let names = self.lost_files.of(&stores, &name, healer.lost()).await;
        let names =
            names.inspect_err(|why| tracing::warn!("looking for the names of lost files: {why}"));
        names.unwrap_or_default()
    }

    /// How it is.
    ///
    /// # Errors
    /// When metadata cannot be had.
    pub async fn status(&self) -> FsResult<Status> {
        let volume = self.meta.volume();
        let usage = self.meta.usage().await?;
        self.data.learn_space().await;
        let data = self.data.status();
        let disks = self.blobs.slots().await;
        let (metadata_bytes, metadata_share) = self.data.space.metadata();
        let journal = self.meta.journal();
        let known = self.warnings();
        let heal = match self.healer.get() {
            Some(healer) => Some(healer.report(FIRST_CENSUS).await),
            None => None,
        };
        let safety = Safety::of_slots(volume.scheme, volume.rules, &disks);
        let (told, warnings) =
            safety.map_or_else(Default::default, |safety| (safety.to_string(), safety.warnings));
        let mount = MountStatus {
            volume: volume.name,
            scheme: volume.scheme.to_string(),
            session: self.meta.session().0,
            pid: std::process::id(),
            capacity: self.data.space.shown().0,
            available: data.available.unwrap_or(0),
            inodes: usage.inodes,
            live_bytes: usage.live_bytes,
            blobs: usage.blobs,
            blob_bytes: usage.blob_bytes,
            heal,
            lost_files: self.lost_names().await,
            metadata_bytes,
            metadata_share,
            epoch: journal.map(|journal| journal.epoch),
            last_snapshot: journal.and_then(|journal| journal.snapshot_at),
            dirty_bytes: data.dirty_bytes,
            cache_bytes: data.cache_bytes,
            cache_hits: data.cache_hits,
            cache_misses: data.cache_misses,
            no_writes: self.data.space.why_no_writes(),
            last_error: data.last_error,
            safety: match &*known {
                [] => told,
                _ => format!("of new data: {told}; of older data: see the warnings"),
            },
            min_spare: volume.rules.min_spare,
            warnings: warnings.into_iter().chain(known.iter().cloned()).collect(),
        };
        Ok(Status { mount: Some(mount), ..Status::of_disks(disks) })
    }
}

impl Status {
    /// Of disks alone.
    pub fn of_disks(disks: Vec<SlotStatus>) -> Self {
        let version = proto::VERSION.to_owned();
        Self { version, mount: None, disks, volumes: Vec::new(), volumes_missed: None }
    }

    /// How it is, in one word. Of a cluster its disks are judged, and those of its volumes of which somebody here knows.
    pub fn health(&self) -> Health {
        let up = self.disks.iter().filter(|disk| disk.state == "up").count();
        let disks = match &self.mount {
            Some(mount) => return mount.heal.as_ref().map_or(Health::Unknown, |heal| heal.health),
            None if up == self.disks.len() => Health::Healthy,
            None if up > 0 => Health::Degraded,
            None => Health::DataUnavailable,
        };
        let known = self.volumes.iter().filter_map(|volume| volume.heal.as_ref());
        known.fold(disks, |worst, heal| worst.and(heal.health))
    }

    /// Indented JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a status is plain data")
    }
}

/// `1.5 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How long ago that was, by this machine's clock.
fn seconds_since(at: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs().saturating_sub(at)
}

fn percent(part: u64, of: u64) -> String {
    if of == 0 { "-".to_owned() } else { format!("{:.0} %", part as f64 * 100.0 / of as f64) }
}

/// A row of the table of disks. What a disk has not said has no figure, and of an id the first group is shown: JSON has
/// all of it.
fn row_of(slot: &SlotStatus) -> [String; 9] {
    let size = |n: u64| if slot.capacity == 0 { "-".to_owned() } else { bytes(n) };
    let host = match slot.rack.as_str() {
        "" => slot.domain.clone(),
        rack => format!("{} in {rack}", slot.domain),
    };
    [
        slot.index.to_string(),
        slot.disk.split('-').next().unwrap_or_default().to_owned(),
        slot.state.clone(),
        slot.fill.clone(),
        percent(slot.used, slot.capacity),
        size(slot.available),
        size(slot.capacity),
        host,
        slot.place.clone(),
    ]
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mount) = &self.mount {
            mount.fmt(f)?;
            writeln!(f)?;
        }
        self.volumes.iter().try_for_each(|volume| writeln!(f, "{volume}"))?;
        if let Some(why) = &self.volumes_missed {
            writeln!(f, "{:<12}{why}", "volumes")?;
        }
        if !self.volumes.is_empty() || self.volumes_missed.is_some() {
            writeln!(f)?;
        }
        let rows: Vec<[String; 9]> = self.disks.iter().map(row_of).collect();
        let head = ["disk", "id", "state", "fill", "used", "free", "capacity", "host", "place"]
            .map(str::to_owned);
        let width = |column: usize| {
            rows.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        for row in [&head].into_iter().chain(&rows) {
            let mut line = String::new();
            for (cell, &width) in row.iter().zip(&widths) {
                write!(line, "{cell:<width$}  ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        let down = self.disks.iter().filter(|slot| slot.state != "up").count();
        write!(f, "{} of {} disks up", self.disks.len() - down, self.disks.len())
    }
}

impl fmt::Display for VolumeHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let volume = &self.volume;
        let Some(heal) = &self.heal else {
            let why = self.unknown.as_deref().unwrap_or("nobody says why");
            return write!(f, "{:<12}{volume}: not known how safe it is: {why}", "volume");
        };
        write!(f, "{:<12}{volume}: {}", "volume", heal.line)?;
        let mut losses = heal.details().into_iter().filter(|(name, _)| *name == "losses");
        losses.try_for_each(|(name, text)| write!(f, "\n{name:<12}{text}"))
    }
}

impl fmt::Display for MountStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, name: &str, value: String| {
            writeln!(f, "{name:<12}{value}")
        };
        if let Some(heal) = &self.heal {
            line(f, "health", heal.line.clone())?;
        }
        line(f, "volume", format!("{} ({})", self.volume, self.scheme))?;
        line(f, "safety", self.safety.clone())?;
        let stored = match self.min_spare {
            0 => "0: storing goes on while what is stored can be read".to_owned(),
            1 => "1: storing goes on while one more disk may be lost".to_owned(),
            spare => format!("{spare}: storing goes on while {spare} more disks may be lost"),
        };
        line(f, "min-spare", stored)?;
        line(f, "mounted by", format!("process {}, session {}", self.pid, self.session))?;
        let (free, all) = (bytes(self.available), bytes(self.capacity));
        line(f, "room", format!("{free} of {all} free, after redundancy"))?;
        line(f, "files", format!("{} inodes, {} of data", self.inodes, bytes(self.live_bytes)))?;
        line(f, "blobs", format!("{} with {}", self.blobs, bytes(self.blob_bytes)))?;
        for line_of in self.heal.iter().flat_map(Report::details) {
            line(f, line_of.0, line_of.1)?;
        }
        let LostNames { named, more } = &self.lost_files;
        for path in named {
            line(f, "lost", format!("bytes of {path}"))?;
        }
        if *more > 0 {
            line(f, "lost", format!("bytes of {more} more files"))?;
        }
        if !named.is_empty() {
            let volume = &self.volume;
            line(
                f,
                "",
                format!(
                    "ashlar fsck {volume} --online --lost names all, with what is lost of each"
                ),
            )?;
        }
        for heal in self.heal.iter().filter(|heal| heal.counts.unavailable > 0) {
            let blobs = heal.counts.unavailable;
            let away = format!(
                "{blobs} blobs cannot be read while {} of {} disks are away: they are not lost; bring the disks back, and \
                 they can be read again",
                heal.disks_away, heal.disks
            );
            line(f, "away", away)?;
        }
        let (taken, share) = (bytes(self.metadata_bytes), bytes(self.metadata_share));
        let epoch = self.epoch.map_or(String::new(), |epoch| format!(", epoch {epoch}"));
        let snapshot = match self.last_snapshot {
            Some(at) => format!("snapshot taken {} s ago", seconds_since(at)),
            None => "no snapshot taken by this mount yet".to_owned(),
        };
        line(f, "metadata", format!("{taken} of {share} kept for them{epoch}, {snapshot}"))?;
        line(f, "dirty", format!("{} written and not yet stored", bytes(self.dirty_bytes)))?;
        let looked = self.cache_hits + self.cache_misses;
        let hits = percent(self.cache_hits, looked);
        line(f, "cache", format!("{}, hits {hits}", bytes(self.cache_bytes)))?;
        if let Some(why) = &self.no_writes {
            line(f, "writes", why.clone())?;
        }
        if let Some(error) = &self.last_error {
            line(f, "storing", format!("fails: {error}"))?;
        }
        for warning in &self.warnings {
            line(f, "warning", warning.clone())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (n, expected) in cases {
            assert_eq!(bytes(n), expected);
        }
    }

    #[test]
    fn a_cluster_is_as_its_disks_and_as_those_of_its_volumes_that_somebody_knows_of() {
        let up = SlotStatus { state: "up".into(), ..slot(0) };
        let unknown = |why: &str| VolumeHealth::of(Err(why.to_owned()), "music".to_owned());
        let volumes = vec![unknown("nobody has it open")];
        let cluster = Status { volumes, ..Status::of_disks(vec![up]) };
        assert_eq!(cluster.health(), Health::Healthy);
        let text = cluster.to_string();
        let first = "volume      music: not known how safe it is: nobody has it open\n\ndisk";
        assert!(text.starts_with(first) && text.ends_with("1 of 1 disks up"), "{text}");
        let json = cluster.to_json();
        assert!(json.contains("\"unknown\": \"nobody has it open\""), "{json}");
        assert!(!Status::of_disks(Vec::new()).to_json().contains("volumes"));
    }

    fn slot(index: usize) -> SlotStatus {
        SlotStatus {
            index,
            disk: format!("0b6c000{index}-0000-4000-8000-000000000000"),
            place: format!("127.0.0.1:{index}"),
            domain: "shelf".into(),
            rack: if index == 0 { "cellar".into() } else { String::new() },
            state: "not heard from yet".into(),
            fill: "green".into(),
            capacity: 1 << 30,
            used: 1 << 29,
            available: 1 << 28,
        }
    }

    #[test]
    fn a_table_names_what_is_down() {
        let slot = |index: usize, state: &str| SlotStatus { state: state.into(), ..slot(index) };
        let text =
            Status::of_disks(vec![slot(0, "up"), slot(1, "down: connection refused")]).to_string();
        assert!(text.contains("connection refused") && text.contains("50 %"), "{text}");
        let row: Vec<&str> = text.lines().nth(1).unwrap().split("  ").map(str::trim).collect();
        let row: Vec<&str> = row.into_iter().filter(|cell| !cell.is_empty()).collect();
        let expected = [
            "0",
            "0b6c0000",
            "up",
            "green",
            "50 %",
            "256.0 MiB",
            "1.0 GiB",
            "shelf in cellar",
            "127.0.0.1:0",
        ];
        assert_eq!(row, expected);
        assert!(text.ends_with("1 of 2 disks up"), "{text}");
    }
}
