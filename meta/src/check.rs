//! The walk over all of a volume's metadata that proves it is in order, behind `ashlar fsck`.
//!
//! It reads every key once, gathers what refers to what, and compares: names with inodes, link
//! counts, directories' counts and parents, extents with sizes and blobs, blobs' references with
//! extents, live bytes, orphans, counters. It changes nothing. It needs memory in proportion to the inodes and blobs, and sees one
//! moment: operations that change something wait for its end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use proto::guard::caught;
use proto::id::{BlobId, SessionId};
use xxhash_rust::xxh3::xxh3_64;

use crate::acl::{self, Acl};
use crate::dentry;
use crate::extent;
use crate::inode::Inode;
use crate::key::{self, Key};
use crate::opened::Volume;
use crate::store::{
    BlobRecord, Extent, FILE_MAX, Ino, Kind, MetaError, Place, ROOT, Usage, is_inline,
};
use crate::txn::{Txn, on_disks};
use crate::xattr;

/// Most problems that are spelt out.
const PROBLEMS_MOST: usize = 1000;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inodes seen.
    pub inodes: u64,
    /// Entries of directories seen.
    pub entries: u64,
    /// Extents seen.
    pub extents: u64,
    /// Blobs seen.
    pub blobs: u64,
    /// What is wrong, one sentence each; at most a thousand.
    pub problems: Vec<String>,
}

impl Report {
    /// Is everything in order?
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MOST {
            self.problems.push(text);
        }
    }

    fn expect<T: PartialEq + std::fmt::Display>(&mut self, what: &str, recorded: T, found: T) {
        if recorded != found {
            self.problem(format!("{what} is recorded as {recorded}, but there are {found}"));
        }
    }
}

impl Volume {
    /// Walks over everything and reports what is not in order.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn check(&self) -> Result<Report, MetaError> {
        self.read_patiently(|txn| {
            let mut walk = Walk::default();
            let steps: [(&str, Step); 10] = [
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
            ];
            for (what, step) in steps {
                let walked = caught("walking the metadata", || step(&mut walk, txn));
                walk.seen_all(what, walked.unwrap_or_else(|panicked| Err(panicked.into())));
            }
            walk.judge_inodes();
            walk.judge_paths();
            walk.judge_blobs();
            let judged = walk.judge_references(txn);
            walk.seen_all("references", judged);
            let judged = walk.judge_counters(txn);
            walk.seen_all("counters", judged);
            Ok(walk.report)
        })
        .await
    }
}

/// A look at all records of one kind.
type Step = fn(&mut Walk, &Txn<'_>) -> Result<(), MetaError>;

/// What refers to an inode, as found.
#[derive(Default)]
struct Seen {
    names: u64,
    named_in: Option<Ino>,
    entries: u64,
    subdirs: u64,
    stored: u64,
    xattrs: u64,
    has_target: bool,
    orphan_of: Option<SessionId>,
}

#[derive(Default)]
struct Walk {
    report: Report,
    inodes: BTreeMap<Ino, Inode>,
    seen: HashMap<Ino, Seen>,
    live: HashMap<BlobId, u64>,
    /// Of each blob, what extents refer to it less what references say, as numbers: 0 where both are the same.
    unsettled: HashMap<(SessionId, u64), (i64, u64)>,
    allocated: u64,
    blobs: HashMap<BlobId, BlobRecord>,
    garbage: HashSet<BlobId>,
    inline: HashSet<BlobId>,
}

/// Shows all keys of one kind.
fn each(txn: &Txn<'_>, start: Key, mut visit: impl FnMut(&Key, &[u8])) -> Result<(), MetaError> {
    txn.scan(start..start.after_prefix(), &mut |key, value| {
        visit(key, value);
        Ok(ControlFlow::Continue(()))
    })
    .map(drop)
}

impl Walk {
    /// Damage that hides further records is a problem like others: what can be seen is checked.
    fn seen_all(&mut self, what: &str, walked: Result<(), MetaError>) {
        if let Err(error) = walked {
            self.report.problem(format!("not all {what} can be read: {error}"));
        }
    }

    fn inodes(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::inode::all(), |key, value| {
            let inode = key::inode::parse(key).and_then(|ino| Inode::decode(ino, value));
            match inode {
                Some(inode) => drop(self.inodes.insert(inode.attr.ino, inode)),
                None => self.report.problem(format!("inode record {key:?} is damaged")),
            }
            self.report.inodes += 1;
        })
    }

    fn entries(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::dentry::all(), |key, bucket| {
            let Some((parent, hash)) = key::dentry::parse(key) else {
                return self.report.problem(format!("directory entry {key:?} is damaged"));
            };
            let mut last_disc = None;
            for entry in dentry::entries(bucket) {
                let Some(entry) = entry else {
                    return self.report.problem(format!("directory entry {key:?} is damaged"));
                };
                self.report.entries += 1;
                let name = String::from_utf8_lossy(entry.name);
                if txn.hash(entry.name) != hash || last_disc >= Some(entry.disc) {
                    self.report.problem(format!("{name:?} in inode {} is misplaced", parent.0));
                }
                last_disc = Some(entry.disc);
                let is_dir = match self.inodes.get(&entry.ino) {
                    Some(inode) => inode.is_dir(),
                    None => {
                        let (parent, ino) = (parent.0, entry.ino.0);
                        self.report.problem(format!(
                            "{name:?} in inode {parent} names inode {ino}, which is not there"
                        ));
                        false
                    }
                };
                let dir = self.seen.entry(parent).or_default();
                dir.entries += 1;
                dir.subdirs += u64::from(is_dir);
                let named = self.seen.entry(entry.ino).or_default();
                named.names += 1;
                named.named_in = Some(parent);
            }
        })
    }

    fn extents(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        let mut last: Option<(Ino, Extent)> = None;
        each(txn, key::extent::all(), |key, value| {
            self.report.extents += 1;
            let parsed = key::extent::parse(key)
                .and_then(|(ino, end)| Some((ino, key::extent::decode(end, value)?)));
            let Some((ino, this)) = parsed else {
                return self.report.problem(format!("extent {key:?} is damaged"));
            };
            let at = format!("extent {} of inode {}", this.offset, ino.0);
            if this.len == 0 || extent::end(&this) > FILE_MAX {
                self.report.problem(format!("{at} has an impossible length of {}", this.len));
            }
            if let Some((_, before)) = last.filter(|(of, _)| *of == ino) {
                if extent::end(&before) > this.offset {
                    self.report.problem(format!("{at} overlaps the one before"));
                } else if extent::joins(&before, &this) {
                    self.report.problem(format!("{at} should be one with the one before"));
                }
            }
            last = Some((ino, this));
            self.seen.entry(ino).or_default().stored += this.len;
            if let Some(place) = this.place {
                if u64::from(place.offset) + this.len > u64::from(place.blob.len()) {
                    self.report.problem(format!("{at} reaches beyond blob {}", place.blob));
                }
                *self.live.entry(place.blob).or_default() += this.len;
                let end = extent::end(&this);
                if key::reference::key(&place.blob, ino, end).is_some() {
                    self.refer((place.blob.session(), place.blob.sequence()), ino, end, 1);
                } else {
                    self.report.problem(format!("{at} cannot have a reference"));
                }
            } else {
                self.allocated += this.len;
            }
        })
    }

    fn references(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::reference::all(), |key, _| match key::reference::parse(key) {
            Some((session, sequence, ino, end)) => self.refer((session, sequence), ino, end, -1),
            None => self.report.problem(format!("reference {key:?} is damaged")),
        })
    }

    /// Counts what an extent says of a blob, or takes off what a reference does.
    fn refer(&mut self, blob: (SessionId, u64), ino: Ino, end: u64, count: i64) {
        let run = [ino.0.to_le_bytes(), end.to_le_bytes()];
        let hash = xxh3_64(run.as_flattened());
        let (counted, sum) = self.unsettled.entry(blob).or_default();
        *counted += count;
        *sum = sum.wrapping_add(hash.wrapping_mul(count as u64));
    }

    fn blobs(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::blob::all(), |key, value| {
            self.report.blobs += 1;
            match key::blob::parse(key).and_then(|id| key::blob::decode(id, value)) {
                Some(record) => drop(self.blobs.insert(record.id, record)),
                None => self.report.problem(format!("blob record {key:?} is damaged")),
            }
        })
    }

    fn garbage(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::garbage::all(), |key, _| match key::garbage::parse(key) {
            Some(id) => drop(self.garbage.insert(id)),
            None => self.report.problem(format!("garbage mark {key:?} is damaged")),
        })
    }

    fn inline(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::inline::all(), |key, bytes| match key::inline::parse(key) {
            Some(id) if bytes.len() == id.len() as usize => drop(self.inline.insert(id)),
            Some(id) => self.report.problem(format!("inline blob {id} has {} bytes", bytes.len())),
            None => self.report.problem(format!("the name {key:?} of an inline blob is damaged")),
        })
    }

    fn orphans(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::orphan::all(), |key, _| match key::orphan::parse(key) {
            Some((session, ino)) => self.seen.entry(ino).or_default().orphan_of = Some(session),
            None => self.report.problem(format!("orphan {key:?} is damaged")),
        })
    }

    fn xattrs(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::xattr::all(), |key, bucket| {
            let Some((ino, hash)) = key::xattr::parse(key) else {
                return self.report.problem(format!("extended attribute {key:?} is damaged"));
            };
            for entry in xattr::entries(bucket) {
                match entry {
                    Some((name, value)) if txn.hash(name) == hash => {
                        self.seen.entry(ino).or_default().xattrs += 1;
                        self.access_list(ino, name, value);
                    }
                    _ => self.report.problem(format!("extended attribute {key:?} is damaged")),
                }
            }
        })
    }

    /// An access list says more than the mode and agrees with it; a default list is a directory's.
    fn access_list(&mut self, ino: Ino, name: &[u8], value: &[u8]) {
        let Some(inode) = self.inodes.get(&ino).filter(|_| acl::is_acl(name)) else { return };
        let good = Acl::parse(value).ok().flatten().is_some_and(|list| match name {
            acl::ACCESS => {
                list.is_extended() && list.applied_to(inode.attr.mode) == inode.attr.mode
            }
            _ => inode.is_dir(),
        });
        if !good {
            let name = String::from_utf8_lossy(name);
            self.report.problem(format!("{name} of inode {} makes no sense", ino.0));
        }
    }

    fn symlinks(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::symlink::all(), |key, target| {
            let Some(ino) = key::symlink::parse(key) else {
                return self.report.problem(format!("symbolic link {key:?} is damaged"));
            };
            self.seen.entry(ino).or_default().has_target = true;
            let size = self.inodes.get(&ino).map_or(0, |inode| inode.attr.size);
            let what = format!("length of symbolic link {}", ino.0);
            self.report.expect(&what, size, target.len() as u64);
        })
    }

    /// Each inode against what refers to it.
    fn judge_inodes(&mut self) {
        for ino in self.seen.keys().filter(|ino| !self.inodes.contains_key(ino)) {
            self.report
                .problem(format!("something belongs to inode {}, which is not there", ino.0));
        }
        for inode in self.inodes.values() {
            let ino = inode.attr.ino;
            let seen = self.seen.remove(&ino).unwrap_or_default();
            let of = |what: &str| format!("{what} of inode {}", ino.0);
            let report = &mut self.report;
            let nlink = u64::from(inode.attr.nlink);
            if inode.is_dir() {
                report.expect(&of("number of entries"), inode.attr.size, seen.entries);
                let alive = ino == ROOT || seen.names > 0;
                let links = if alive { 2 + seen.subdirs } else { 0 };
                report.expect(&of("number of links"), nlink, links);
                let home = if ino == ROOT { Some(ROOT) } else { seen.named_in };
                if alive && (home != Some(inode.parent) || seen.names > 1) {
                    report.problem(format!("directory {} has another place or several", ino.0));
                }
            } else {
                report.expect(&of("number of links"), nlink, seen.names);
                if seen.entries > 0 {
                    report.problem(format!("inode {} has entries but is no directory", ino.0));
                }
            }
            if (nlink == 0) != inode.orphan_of.is_some() || seen.orphan_of != inode.orphan_of {
                report.problem(format!("inode {} is not marked as the orphan it is, or is", ino.0));
            }
            report.expect(&of("stored bytes"), inode.attr.stored, seen.stored);
            report.expect(&of("number of attributes"), inode.xattrs.into(), seen.xattrs);
            if seen.has_target != (inode.attr.kind == Kind::Symlink) {
                report.problem(format!("inode {} has a wrong link target or none", ino.0));
            }
        }
    }

    /// Each directory leads up to the root.
    fn judge_paths(&mut self) {
        let mut good: HashSet<Ino> = HashSet::from([ROOT]);
        for start in self.inodes.values().filter(|i| i.is_dir() && i.attr.nlink > 0) {
            let mut path = HashSet::new();
            let mut at = start.attr.ino;
            while !good.contains(&at) {
                let parent = self.inodes.get(&at).map(|inode| inode.parent);
                if !path.insert(at) || parent.is_none() {
                    let ino = start.attr.ino.0;
                    self.report.problem(format!("directory {ino} cannot be reached"));
                    break;
                }
                at = parent.unwrap_or(ROOT);
            }
            good.extend(path);
        }
        if !self.inodes.contains_key(&ROOT) {
            self.report.problem("there is no root directory".to_owned());
        }
    }

    fn judge_blobs(&mut self) {
        for (id, live) in &self.live {
            match self.blobs.get(id) {
                Some(record) => {
                    self.report.expect(&format!("live bytes of blob {id}"), record.live, *live);
                }
                None => self.report.problem(format!("blob {id} is in use but has no record")),
            }
        }
        for record in self.blobs.values() {
            let id = record.id;
            if !self.live.contains_key(&id) {
                self.report.expect(&format!("live bytes of blob {id}"), record.live, 0);
            }
            if self.garbage.contains(&id) != (record.live == 0) {
                self.report.problem(format!("blob {id} is not marked as the garbage it is, or is"));
            }
        }
        let alive = self.blobs.values().filter(|record| is_inline(&record.id) && record.live > 0);
        for id in alive.map(|record| record.id).filter(|id| !self.inline.contains(id)) {
            self.report.problem(format!("the bytes of inline blob {id} are gone"));
        }
        let live = |id| self.blobs.get(id).is_some_and(|record| record.live > 0);
        for id in self.inline.iter().filter(|id| !live(id)) {
            self.report.problem(format!("inline blob {id} is kept and not in use"));
        }
        for id in self.garbage.iter().filter(|id| !self.blobs.contains_key(id)) {
            self.report.problem(format!("blob {id} is garbage without a record"));
        }
    }

    /// Where extents and references differ, each of both is looked up in the other.
    fn judge_references(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        self.unsettled.retain(|_, difference| *difference != (0, 0));
        let unsettled = std::mem::take(&mut self.unsettled);
        let report = &mut self.report;
        for (session, sequence) in unsettled.keys().copied() {
            let mut said = Vec::new();
            each(txn, key::reference::of(session, sequence), |key, _| {
                said.extend(key::reference::parse(key).map(|(_, _, ino, end)| (ino, end)));
            })?;
            for (ino, end) in said {
                let extent = txn.extent(ino, end).unwrap_or(None);
                let blob = extent.and_then(|e| e.place).map(|place| place.blob);
                if blob.map(|id| (id.session(), id.sequence())) != Some((session, sequence)) {
                    report.problem(format!(
                        "a reference is dangling: inode {} has no bytes of blob {session}-{sequence} up to {end}",
                        ino.0
                    ));
                }
            }
        }
        if unsettled.is_empty() {
            return Ok(());
        }
        each(txn, key::extent::all(), |key, value| {
            let parsed = key::extent::parse(key)
                .and_then(|(ino, end)| Some((ino, end, key::extent::decode(end, value)?.place?)));
            let Some((ino, end, Place { blob, .. })) = parsed else { return };
            if unsettled.contains_key(&(blob.session(), blob.sequence()))
                && let Some(key) = key::reference::key(&blob, ino, end)
                && !matches!(txn.get(&key), Ok(Some(_)))
            {
                report.problem(format!(
                    "a reference is missing: inode {} has bytes of blob {blob} up to {end}",
                    ino.0
                ));
            }
        })
    }

    fn judge_counters(&mut self, txn: &mut Txn<'_>) -> Result<(), MetaError> {
        let counters = txn.counters()?;
        let Usage {
            inodes,
            live_bytes,
            blob_bytes,
            dead_bytes,
            blobs,
            degraded_blobs,
            allocated_bytes,
            disk_bytes,
        } = counters.usage();
        let all = self.blobs.values();
        let bytes = all.clone().map(|r| u64::from(r.id.len())).sum();
        let dead = all.clone().map(BlobRecord::dead).sum();
        let disk = all.clone().map(|r| on_disks(&r.id)).sum();
        let degraded = all.filter(|r| r.degraded).count() as u64;
        let report = &mut self.report;
        report.expect("number of inodes", inodes, self.inodes.len() as u64);
        report.expect("number of live bytes", live_bytes, self.live.values().sum());
        report.expect("number of blobs", blobs, self.blobs.len() as u64);
        report.expect("number of bytes in blobs", blob_bytes, bytes);
        report.expect("number of dead bytes", dead_bytes, dead);
        report.expect("number of degraded blobs", degraded_blobs, degraded);
        report.expect("number of allocated bytes", allocated_bytes, self.allocated);
        report.expect("number of bytes on disks", disk_bytes, disk);
        let next = txn.numbers()?.next_ino;
        let report = &mut self.report;
        if self.inodes.last_key_value().is_some_and(|(last, _)| last.0 >= next) {
            report.problem("the next inode number is in use".to_owned());
        }
        Ok(())
    }
}
