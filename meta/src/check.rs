//! The walk over all of a volume's metadata that proves it is in order, behind `ashlar fsck`.
//!
//! It reads every key once, gathers what refers to what ([`walk`]), and compares ([`judge`]): names with inodes, link
//! counts, directories' counts and parents, extents with sizes and blobs, blobs' references with
//! extents, live bytes, orphans, what is in the trash, passes with their users, counters. It changes nothing; of what is wrong it says how it is put right, where
//! that is known ([`Mend`]), and [`repair`] does it. It needs memory in proportion to the inodes and blobs, and sees
//! one moment: operations that change something wait for its end.
//!
//! Invariant: what cannot be read is not taken for absent. Where extents are damaged, no blob and no reference is
//! called needless; where names are, no inode is called nameless.

pub(crate) mod repair;

mod amends;
mod judge;
mod paths;
mod report;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use proto::guard::caught;

pub(crate) use self::report::Mend;
pub use self::report::Report;
use self::walk::Walk;
use crate::store::{Ino, MetaError};
use crate::txn::Txn;
use crate::volume::opened::Volume;

/// Why metadata may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Nobody knows: of two records that contradict each other either may be.
    Unknown,
    /// They are what was left of a journal: each record is as it was once, and some are older than others.
    Salvaged,
}

/// A look at all records of one kind.
type Step = fn(&mut Walk, &Txn<'_>) -> Result<(), MetaError>;

impl Volume {
    /// Walks over everything and reports what is not in order.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn check(&self) -> Result<Report, MetaError> {
        self.check_for(Cause::Unknown).await
    }

    /// Walks over everything; says how things are put right, as far as that is known where this is why they are wrong.
    async fn check_for(&self, cause: Cause) -> Result<Report, MetaError> {
        self.read_patiently(move |txn| {
            let mut walk = Walk::default();
            let steps: [(&str, Step); 13] = [
                ("inodes", Walk::inodes),
                ("directory entries", Walk::entries),
                ("extents", Walk::extents),
                ("references", Walk::references),
                ("blobs", Walk::blobs),
                ("garbage", Walk::garbage),
                ("inline blobs", Walk::inline),
                ("orphans", Walk::orphans),
                ("extended attributes", Walk::xattrs),
                ("symbolic links", Walk::symlinks),
                ("sessions", Walk::sessions),
                ("accounts", Walk::accounts),
                ("deletions", Walk::trash),
            ];
            for (what, step) in steps {
                let walked = caught("walking the metadata", || step(&mut walk, txn));
                walk.seen_all(what, walked.unwrap_or_else(|panicked| Err(panicked.into())));
            }
            walk.judge_missing(txn);
            walk.judge_inodes();
            walk.judge_paths();
            if cause == Cause::Salvaged {
                let amended = walk.amend(txn);
                walk.seen_all("names", amended);
            }
            walk.judge_blobs();
            let judged = walk.judge_references(txn);
            walk.seen_all("references", judged);
            walk.judge_numbers(txn);
            walk.judge_counters(txn);
            let mut report = walk.report;
            // Where names cannot be read, numbers have to do.
            report.paths = paths::of(txn, &report.about).unwrap_or_default();
            Ok(report)
        })
        .await
    }

    /// Paths of inodes, from the volume's root, where they have any: of several one.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn paths(&self, inos: BTreeSet<Ino>) -> Result<BTreeMap<Ino, String>, MetaError> {
        self.read_patiently(move |txn| paths::of(txn, &inos)).await
    }
}
