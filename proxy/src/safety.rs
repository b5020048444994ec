//! How many losses a volume survives: what its scheme promises on the fail domains that there are. Pure.
//!
//! Reads and writes are two questions. A blob that is stored whole has one part on each of k+m domains,
//! so any m domains, or any m disks, may go. A put needs a home for every part among the domains that
//! are left, none of them home to more than [`room`] (see [`crate::put`]), so what it can do without
//! depends on how many domains there are beyond the fewest that will do.

use std::collections::BTreeMap;
use std::fmt;

use proto::cluster::{Cluster, Slot};
use proto::scheme::Scheme;

use crate::quorum::{Spread, room};

/// So many of one kind of thing may be lost, whichever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Losses {
    /// And what is stored can still be read.
    pub reads: usize,
    /// And new data can still be stored.
    pub writes: usize,
}

/// What a scheme promises on a map of fail domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Safety {
    /// Disks there are.
    pub disks: usize,
    /// Fail domains there are: hosts, racks, or each disk for itself.
    pub domains: usize,
    /// Losses of single disks.
    pub of_disks: Losses,
    /// Losses of whole domains.
    pub of_domains: Losses,
    /// Fewest domains on which writes go on when one of them is lost.
    pub enough: usize,
    scheme: Scheme,
}

impl Safety {
    /// On a map that is given as the fail domain of each disk.
    pub fn new<'a>(scheme: Scheme, domains: impl IntoIterator<Item = &'a str>) -> Self {
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        domains.into_iter().for_each(|domain| *sizes.entry(domain).or_default() += 1);
        let mut sizes: Vec<usize> = sizes.into_values().collect();
        sizes.sort_unstable();
        let (disks, domains) = (sizes.iter().sum(), sizes.len());
        let fewest = scheme.parts().div_ceil(room(scheme, Spread::AsPossible));
        let writes = domains.saturating_sub(fewest);
        // The smallest domains go first: one more than can be spared, less its last disk.
        let smallest: usize = sizes.iter().take(writes + 1).sum();
        let of_disks = if domains < fewest { 0 } else { smallest - 1 };
        let reads = scheme.parity_parts();
        Self {
            disks,
            domains,
            of_disks: Losses { reads, writes: of_disks },
            of_domains: Losses { reads, writes },
            enough: fewest + 1,
            scheme,
        }
    }

    /// On the map of a cluster file.
    pub fn of(scheme: Scheme, cluster: &Cluster) -> Self {
        let domains: Vec<String> = cluster.slots.iter().map(Slot::domain).collect();
        Self::new(scheme, domains.iter().map(String::as_str))
    }

    /// What is to be warned of, in one sentence.
    pub fn warning(&self) -> Option<String> {
        let Self { scheme, enough, .. } = self;
        let (what, have) = match self.domains == self.disks {
            true => ("disk", self.disks),
            false => ("fail domain", self.domains),
        };
        (self.of_domains.writes == 0 && self.of_domains.reads > 0).then(|| {
            format!(
                "writes stop with the first {what} that is lost, and go on when it is back: \
                 {scheme} on {have} {what}s has none to spare; {enough} would do"
            )
        })
    }
}

/// `reads go on with any 2 of the 8 disks lost, writes with any 5`.
impl fmt::Display for Safety {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tell = |f: &mut fmt::Formatter<'_>, losses: Losses, all, what| {
            let Losses { reads, writes } = losses;
            match (reads, writes) {
                (0, 0) => write!(f, "no {what} of the {all} may be lost"),
                (0, writes) => {
                    write!(
                        f,
                        "no {what} may be lost without its data; writes go on with any {writes} of the {all} lost"
                    )
                }
                (reads, 0) => write!(
                    f,
                    "reads go on with any {reads} of the {all} {what}s lost, writes with none"
                ),
                (reads, writes) => write!(
                    f,
                    "reads go on with any {reads} of the {all} {what}s lost, writes with any {writes}"
                ),
            }
        };
        if self.domains == self.disks {
            return tell(f, self.of_disks, self.disks, "disk");
        }
        tell(f, self.of_domains, self.domains, "fail domain")?;
        write!(f, "; ")?;
        tell(f, self.of_disks, self.disks, "disk")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(scheme: &str, sizes: &[usize]) -> Safety {
        let names: Vec<String> = (0..sizes.len()).map(|n| n.to_string()).collect();
        let domains = names.iter().zip(sizes).flat_map(|(name, n)| vec![name.as_str(); *n]);
        Safety::new(scheme.parse().unwrap(), domains)
    }

    #[test]
    fn it_is_told_in_words() {
        let cases = [
            (
                "ec(4,2)",
                &[1; 8][..],
                "reads go on with any 2 of the 8 disks lost, writes with any 5",
            ),
            ("ec(2,1)", &[1; 3], "reads go on with any 1 of the 3 disks lost, writes with none"),
            ("ec(2,1)", &[1; 4], "reads go on with any 1 of the 4 disks lost, writes with any 1"),
            (
                "copies(3)",
                &[2, 2, 2],
                "reads go on with any 2 of the 3 fail domains lost, writes with any 1; \
                 reads go on with any 2 of the 6 disks lost, writes with any 3",
            ),
            ("copies(1)", &[1; 1], "no disk of the 1 may be lost"),
        ];
        for (scheme, sizes, expected) in cases {
            assert_eq!(on(scheme, sizes).to_string(), expected, "{scheme} on {sizes:?}");
        }
    }

    #[test]
    fn writes_that_stop_with_the_first_loss_are_warned_of() {
        let cases = [
            ("ec(2,1)", &[1; 3][..], Some("4 would do")),
            ("ec(2,1)", &[1; 4], None),
            ("copies(2)", &[1; 2], Some("3 would do")),
            ("copies(2)", &[3, 3], Some("first fail domain")),
            ("ec(4,2)", &[1; 6], None),
            // Nothing was promised to begin with.
            ("copies(1)", &[1; 1], None),
        ];
        for (scheme, sizes, expected) in cases {
            let warning = on(scheme, sizes).warning();
            let as_expected = match (expected, &warning) {
                (Some(part), Some(text)) => text.contains(part),
                (None, None) => true,
                _ => false,
            };
            assert!(as_expected, "{scheme} on {sizes:?}: {warning:?}");
        }
    }
}
