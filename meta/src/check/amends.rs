//! What is put right only where it is known why it is wrong: entries of the journal are lost, and what is left of it was put
//! together ([`crate::salvage`]). Then each record is as it was at some time, and it is known what becomes of such that do
//! not fit together, which otherwise would be guessing: a directory that was moved has a name where it was and one where it
//! came to; of two directories each is in the other; an extent lies over another that should have gone before it.
//!
//! Of files that this is about nobody can say that they are as they ever were.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::judge::put;
use super::report::Mend;
use super::walk::{Walk, each};
use crate::key;
use crate::record::dentry;
use crate::rules::extent;
use crate::store::{Extent, Ino, MetaError};
use crate::txn::Txn;

/// Where a symbolic link leads whose target is lost.
const TARGET: &[u8] = b"(the target of this link is lost)";

/// Names, each with its directory.
type Names = Vec<(Ino, Vec<u8>)>;

impl Walk {
    /// Says what is done about what is adrift.
    ///
    /// # Errors
    /// When the engine fails.
    pub(super) fn amend(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        if !self.blind.sees_tree() {
            return Ok(());
        }
        self.aim();
        self.set_modes();
        self.straighten(txn)?;
        self.keep_one_name(txn)?;
        // As long as anything else is put right, directories may be nowhere for a moment.
        if self.report.mends.is_empty() {
            self.cut_circles(txn)?;
        }
        Ok(())
    }

    fn aim(&mut self) {
        for ino in &self.adrift.aimless {
            let text = format!("inode {} has no link target", ino.0);
            let mend = put(key::symlink::key(*ino), TARGET);
            self.report.mendable(true, text, "it leads nowhere from now on", mend);
        }
    }

    fn set_modes(&mut self) {
        for (ino, mode) in &self.adrift.modes {
            let Some(mut inode) = self.inodes.get(ino).copied() else { continue };
            inode.attr.mode = *mode;
            let text = format!("the mode of inode {} is not that of its access list", ino.0);
            let mend = put(key::inode::key(*ino), &inode.encode());
            self.report.mendable(true, text, "set as the list says", mend);
        }
    }

    /// Of extents that overlap the later ones count.
    fn straighten(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        for ino in &self.adrift.crooked {
            let (mut found, mut damaged) = (BTreeMap::new(), false);
            each(txn, key::extent::of(*ino), |key, value| {
                let end = key::extent::parse(key).map(|(_, end)| end);
                match end.and_then(|end| key::extent::decode(end, value)) {
                    Some(extent) => drop(found.insert(extent::end(&extent), extent)),
                    None => damaged = true,
                }
            })?;
            if damaged {
                continue;
            }
            let all: Vec<Extent> = found.values().copied().collect();
            let straight = extent::straightened(&all);
            let right: BTreeMap<u64, Extent> =
                straight.into_iter().map(|extent| (extent::end(&extent), extent)).collect();
            self.report.about(*ino);
            let text = format!("extents of inode {} overlap", ino.0);
            self.report.told(text, "what was written last counts, as far as that can be told");
            for end in found.keys().filter(|end| !right.contains_key(*end)) {
                self.report.mend(Mend::Write(key::extent::key(*ino, *end), None));
            }
            for (end, extent) in right.iter().filter(|(end, to)| found.get(*end) != Some(*to)) {
                let (value, used) = key::extent::encode(extent);
                self.report.mend(put(key::extent::key(*ino, *end), &value[..used]));
            }
        }
        Ok(())
    }

    /// A directory with several names keeps the one where its record says that it is, if there is such.
    fn keep_one_name(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        for (ino, mut names) in names_of(txn, &self.adrift.several)? {
            let home = self.inodes.get(&ino).map(|inode| inode.parent);
            let kept = names.iter().position(|(parent, _)| Some(*parent) == home);
            drop(names.swap_remove(kept.unwrap_or(0)));
            self.unname(ino, names, "one of its names is left");
        }
        Ok(())
    }

    /// Of directories that are in one another, one goes to `lost+found`, and with it the others.
    fn cut_circles(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        let (mut seen, mut cut) = (HashSet::new(), BTreeSet::new());
        for start in &self.adrift.unreachable {
            let (mut at, mut path) = (*start, HashSet::new());
            while !seen.contains(&at) && path.insert(at) {
                let Some(inode) = self.inodes.get(&at) else { break };
                at = inode.parent;
            }
            // It ended where it had been, on its own way.
            if path.contains(&at) && !seen.contains(&at) {
                cut.insert(at);
            }
            seen.extend(path);
        }
        for (ino, names) in names_of(txn, &cut)? {
            self.unname(ino, names, "its name is removed, and it is in lost+found");
        }
        Ok(())
    }

    fn unname(&mut self, ino: Ino, names: Names, how: &str) {
        self.report.about(ino);
        for (parent, name) in names {
            let shown = String::from_utf8_lossy(&name);
            let text = format!("inode {} is in several places, {shown:?} in {}", ino.0, parent.0);
            self.report.mendable(true, text, how, Mend::Unname(parent, name));
        }
    }
}

/// All names of these inodes.
fn names_of(txn: &Txn<'_>, inos: &BTreeSet<Ino>) -> Result<BTreeMap<Ino, Names>, MetaError> {
    let mut found: BTreeMap<Ino, Names> = BTreeMap::new();
    if inos.is_empty() {
        return Ok(found);
    }
    each(txn, key::dentry::all(), |key, bucket| {
        let Some((parent, _)) = key::dentry::parse(key) else { return };
        for entry in dentry::entries(bucket).flatten().filter(|entry| inos.contains(&entry.ino)) {
            found.entry(entry.ino).or_default().push((parent, entry.name.to_vec()));
        }
    })?;
    Ok(found)
}
