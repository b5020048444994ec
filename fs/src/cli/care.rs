//! What is done for a volume by itself, and how often: the options of whatever serves one.
//!
//! Each has its bounds here, so that nothing behind sees a time that it cannot add to a clock.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use proto::size::Size;
use proxy::repair::HealSettings;
use storaged::scrub;

/// Shortest and longest time from one census to the next. Each asks the disks for all that they hold, so that one a
/// minute is much; after a year without one nobody knows anything.
const CENSUS: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(365 * 24 * 3600));

/// How a volume is repaired, and its disks are scrubbed, where that is not as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Care {
    /// How long a disk may be away before its parts are made anew on the others [default: 1h]
    #[arg(long, value_name = "TIME")]
    pub(super) disk_grace: Option<humantime::Duration>,
    /// Bytes that repair stores per second at most; an eighth of it while the volume is in use [default: 512MiB]
    #[arg(long, value_name = "SIZE")]
    pub(super) heal_rate: Option<Size>,
    /// Count all blobs, and how safe each is, this often, also when nothing has happened [default: 1day]
    #[arg(long, value_name = "TIME")]
    pub(super) census_every: Option<CensusEvery>,
    /// Where this process opens the disks itself: read and verify everything on them within so many days, again and
    /// again; 0: never [default: 14]
    #[arg(long, value_name = "DAYS")]
    pub(super) scrub_days: Option<ScrubDays>,
}

impl Care {
    /// What is said here, or else there.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            disk_grace: self.disk_grace.or(other.disk_grace),
            heal_rate: self.heal_rate.or(other.heal_rate),
            census_every: self.census_every.or(other.census_every),
            scrub_days: self.scrub_days.or(other.scrub_days),
        }
    }

    /// How the volume is repaired.
    pub(super) fn heal(&self) -> HealSettings {
        let usual = HealSettings::default();
        HealSettings {
            grace: self.disk_grace.map_or(usual.grace, Into::into),
            rate: self.heal_rate.map_or(usual.rate, |rate| rate.0),
            every: self.census_every.map_or(usual.every, |every| every.0),
        }
    }

    /// Days in which disks are read that this process opens; `None`: as usual.
    pub(super) fn scrub_days(&self) -> Option<u32> {
        self.scrub_days.map(|days| days.0)
    }
}

/// Time from one census to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CensusEvery(Duration);

impl FromStr for CensusEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let every = humantime::parse_duration(text).map_err(|e| e.to_string())?;
        match CENSUS.0 <= every && every <= CENSUS.1 {
            true => Ok(Self(every)),
            false => Err(format!("{text} is not between 1min and 365days")),
        }
    }
}

impl fmt::Display for CensusEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&humantime::format_duration(self.0).to_string().replace(' ', ""))
    }
}

/// Days in which everything on a disk is read; 0: it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScrubDays(u32);

impl FromStr for ScrubDays {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(days) if days <= scrub::MAX_DAYS => Ok(Self(days)),
            _ => Err(format!("{text} is no number of days up to {} (0: never)", scrub::MAX_DAYS)),
        }
    }
}

impl fmt::Display for ScrubDays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_usual_and_what_has_no_sense_is_refused() {
        assert_eq!(Care::default().heal(), HealSettings::default());
        let every = |text: &str| text.parse::<CensusEvery>();
        let care = Care { census_every: Some(every("90s").unwrap()), ..Care::default() };
        assert_eq!(care.heal().every, Duration::from_secs(90));
        let said = Care { scrub_days: Some(ScrubDays(3)), ..Care::default() }.or(care.clone());
        assert_eq!((said.scrub_days(), said.census_every), (Some(3), care.census_every));
        assert_eq!(every("24h").unwrap().to_string(), "1day");
        for text in ["0s", "59s", "366days", "1000000000000y", "soon", ""] {
            assert!(every(text).is_err(), "{text}");
        }
        for text in ["3651", "-1", "1.5", "4294967296", ""] {
            assert!(text.parse::<ScrubDays>().is_err(), "{text}");
        }
    }
}
