//! A file of which all is known by its name: what it has to hold, and whether that is there as a whole.

use anyhow::{Context, Result, ensure};

use crate::seed::{Seed, content, first_difference};

/// A file, of which all is known by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What its bytes come from.
    pub stamp: u64,
    /// So many of them.
    pub len: usize,
}

impl Stored {
    /// One of more than one byte, of at most `longest` and one.
    pub fn any(seed: &mut Seed, longest: u64) -> Result<Self> {
        let len = usize::try_from(2 + seed.below(longest))?;
        Ok(Self { stamp: seed.next_u64(), len })
    }

    /// The one that has this name.
    ///
    /// # Errors
    /// When none has.
    pub fn of_name(name: &str) -> Result<Self> {
        let (stamp, len) =
            name.split_once('-').with_context(|| format!("{name} is none of ours"))?;
        let parsed = (stamp.parse().ok(), len.parse().ok());
        let (Some(stamp), Some(len)) = parsed else { anyhow::bail!("{name} is none of ours") };
        Ok(Self { stamp, len })
    }

    /// Its name.
    pub fn name(self) -> String {
        format!("{}-{}", self.stamp, self.len)
    }

    /// What it has to hold.
    pub fn bytes(self) -> Vec<u8> {
        content(self.stamp, self.len)
    }

    /// That is what it holds.
    ///
    /// # Errors
    /// When it holds anything else.
    pub fn is_whole(self, bytes: &[u8]) -> Result<()> {
        let wrong = first_difference(self.stamp, 0, bytes);
        ensure!(
            bytes.len() == self.len && wrong.is_none(),
            "{} has {} bytes, other ones at {wrong:?}",
            self.name(),
            bytes.len()
        );
        Ok(())
    }
}
