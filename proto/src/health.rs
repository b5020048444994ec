//! How something is, in one word, and what a program says of that by its exit code: the same of a volume, of a
//! cluster's disks and of a daemon's, so that whoever monitors them learns it once.

use std::fmt;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// How something is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// All is as it should be: of a volume, all blobs are as safe as they can be here.
    Healthy,
    /// All can be read, and something is not as it should be: of a volume, some blobs can lose less than they should.
    Degraded,
    /// Something cannot be read, at present or for good.
    DataUnavailable,
    /// Nobody has looked yet, or nobody answers.
    Unknown,
}

impl Health {
    /// What programs say by their exit code, for monitoring.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Healthy => 0,
            Self::Degraded => 1,
            Self::DataUnavailable => 2,
            Self::Unknown => 3,
        }
    }

    /// How both are together: what is not known of one may be anything.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if other.exit_code() > self.exit_code() { other } else { self }
    }
}

impl From<Health> for ExitCode {
    fn from(health: Health) -> Self {
        Self::from(health.exit_code())
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "HEALTHY",
            Self::Degraded => "DEGRADED",
            Self::DataUnavailable => "DATA UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_two_counts_and_what_is_not_known_is_worst() {
        use Health::{DataUnavailable, Degraded, Healthy, Unknown};
        let all = [Healthy, Degraded, DataUnavailable, Unknown];
        for (code, health) in all.into_iter().enumerate() {
            assert_eq!(usize::from(health.exit_code()), code, "{health}");
            let worse = all.map(|other| health.and(other).exit_code());
            assert_eq!(worse, [0, 1, 2, 3].map(|other: u8| other.max(health.exit_code())));
        }
    }
}
