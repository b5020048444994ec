//! Compares what was gathered, and says how each thing that is wrong is put right.

use std::collections::HashSet;

use proto::id::{BlobId, SessionId};

use super::report::{Mend, Report};
use super::walk::{Seen, Walk, each};
use crate::engine::Value;
use crate::key::counters::Counters;
use crate::key::numbers::Numbers;
use crate::key::{self, Key};
use crate::record::inode::Inode;
use crate::store::{Attr, BlobRecord, Ino, Kind, MetaError, Place, ROOT, Usage, is_inline};
use crate::txn::{Txn, on_disks};

/// So far beyond the last one that is known numbers go on where the record of the next ones is lost.
const INODES_SKIPPED: u64 = 1 << 32;
/// The same for sessions: blobs of later ones may have been deleted.
const SESSIONS_SKIPPED: u64 = 1 << 20;

/// What is done about a number that is wrong.
const COUNTED: &str = "counted anew";

/// A record that another takes the place of.
pub(super) fn put(key: Key, value: &[u8]) -> Mend {
    Mend::Write(key, Some(Value::from(value)))
}

impl Walk {
    /// What belongs to inodes that are not there, or whose records make no sense.
    pub(super) fn judge_missing(&mut self, txn: &Txn<'_>) {
        let known = |ino: &&Ino| !self.inodes.contains_key(ino);
        let mut missing: Vec<Ino> = self.seen.keys().filter(known).copied().collect();
        missing.extend(self.damaged.iter().filter(|ino| !self.seen.contains_key(ino)));
        if !self.inodes.contains_key(&ROOT) && !missing.contains(&ROOT) {
            missing.push(ROOT);
        }
        missing.sort_unstable();
        let sure = self.blind.sees_tree();
        for ino in missing {
            let damaged = self.damaged.contains(&ino);
            let seen = self.seen.remove(&ino).unwrap_or_default();
            let belongs = seen.entries + seen.stored + seen.xattrs > 0 || seen.target.is_some();
            self.report.about(ino);
            if belongs || ino == ROOT {
                let text = match damaged {
                    true => format!("the record of inode {} is damaged", ino.0),
                    false if ino == ROOT => "there is no root directory".to_owned(),
                    false => format!("something belongs to inode {}, which is not there", ino.0),
                };
                let how = "made anew from what belongs to it: whose it was, its mode and its times are lost";
                let inode = made_anew(txn, ino, &seen);
                let lost = inode.orphan_of.is_none() && !inode.in_trash;
                let adopted = lost && seen.names == 0 && ino != ROOT;
                let mend = match adopted {
                    true => Mend::Adopt(inode),
                    false => put(key::inode::key(ino), &inode.encode()),
                };
                self.report.mendable(sure, text, how, mend);
                continue;
            }
            if damaged {
                let text = format!("the record of inode {} is damaged", ino.0);
                let how = "removed: what it was is lost, and nothing belonged to it";
                let mend = Mend::Write(key::inode::key(ino), None);
                self.report.mendable(sure, text, how, mend);
            }
            if let Some(session) = seen.orphan_of {
                let text = format!("inode {} is an orphan, and not there", ino.0);
                let mend = Mend::Write(key::orphan::key(session, ino), None);
                self.report.mendable(sure, text, "its mark is removed", mend);
            }
            if let Some(dir) = seen.trashed {
                let text = format!("inode {} is in the trash, and not there", ino.0);
                let mend = Mend::Write(key::trash::key(dir, ino), None);
                self.report.mendable(sure, text, "it is taken out", mend);
            }
            for (parent, name, _) in self.naming_nothing.extract_if(.., |(.., of)| *of == ino) {
                let (shown, dir) = (String::from_utf8_lossy(&name), parent.0);
                let text =
                    format!("{shown:?} in inode {dir} names inode {}, which is not there", ino.0);
                self.report.about(parent);
                self.report.mendable(sure, text, "the name is removed", Mend::Unname(parent, name));
            }
        }
    }

    /// Each inode against what refers to it.
    pub(super) fn judge_inodes(&mut self) {
        let (seen, report) = (&mut self.seen, &mut self.report);
        let sure = self.blind.sees_tree();
        for inode in self.inodes.values() {
            let seen = seen.remove(&inode.attr.ino).unwrap_or_default();
            if inode.is_dir() && seen.names > 1 {
                self.adrift.several.insert(inode.attr.ino);
            }
            if inode.attr.kind == Kind::Symlink && seen.target.is_none() {
                self.adrift.aimless.insert(inode.attr.ino);
            }
            judge_inode(inode, &seen, sure, report);
        }
    }

    /// Each directory leads up to the root.
    pub(super) fn judge_paths(&mut self) {
        let mut good: HashSet<Ino> = HashSet::from([ROOT]);
        for start in self.inodes.values().filter(|i| i.is_dir() && i.attr.nlink > 0) {
            let mut path = HashSet::new();
            let mut at = start.attr.ino;
            while !good.contains(&at) {
                let parent = self.inodes.get(&at).map(|inode| inode.parent);
                if !path.insert(at) || parent.is_none() {
                    let ino = start.attr.ino.0;
                    self.adrift.unreachable.insert(start.attr.ino);
                    self.report.problem(format!("directory {ino} cannot be reached"));
                    break;
                }
                at = parent.unwrap_or(ROOT);
            }
            good.extend(path);
        }
    }

    /// Each blob against the extents that lie in it.
    pub(super) fn judge_blobs(&mut self) {
        let sure = self.blind.sees_content();
        let mut known: Vec<BlobId> = self.blobs.keys().copied().collect();
        known.extend(self.live.keys().filter(|id| !self.blobs.contains_key(id)));
        let garbage = self.garbage.iter().chain(&self.damaged_blobs).chain(&self.inline);
        let more = garbage.filter(|id| !self.blobs.contains_key(id) && !self.live.contains_key(id));
        known.extend(more.copied().collect::<HashSet<_>>());
        known.sort_unstable();
        for id in known {
            let live = self.live.get(&id).copied().unwrap_or(0);
            self.judge_blob(id, live, sure);
        }
    }

    fn judge_blob(&mut self, id: BlobId, live: u64, sure: bool) {
        let report = &mut self.report;
        let record = self.blobs.get(&id).copied();
        let text = match record {
            Some(record) if record.live == live => None,
            Some(record) => Some(format!(
                "live bytes of blob {id} are recorded as {}, but there are {live}",
                record.live
            )),
            None if self.damaged_blobs.contains(&id) => {
                Some(format!("the record of blob {id} is damaged"))
            }
            None if live > 0 => Some(format!("blob {id} is in use but has no record")),
            None => Some(format!("blob {id} is garbage without a record")),
        };
        if let Some(text) = text {
            let right = key::blob::encode(&BlobRecord { id, live });
            report.mendable(sure, text, COUNTED, put(key::blob::key(&id), &right));
        }
        let marked = self.garbage.contains(&id);
        if marked != (live == 0) {
            let text = format!("blob {id} is not marked as the garbage it is, or is");
            let (how, value) = match marked {
                true => ("the mark is removed", None),
                false => ("marked: the next mount deletes it", Some(Value::default())),
            };
            let mend = Mend::Write(key::garbage::key(&id), value);
            report.mendable(sure, text, how, mend);
        }
        let kept = self.inline.contains(&id);
        if is_inline(&id) && live > 0 && !kept {
            report.problem(format!("the bytes of inline blob {id} are gone"));
            report.gone.push(id);
        }
        if kept && live == 0 {
            let text = format!("inline blob {id} is kept and not in use");
            report.mendable(sure, text, "removed", Mend::Write(key::inline::key(&id), None));
        }
    }

    /// Where extents and references differ, each of both is looked up in the other.
    pub(super) fn judge_references(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        self.unsettled.retain(|_, difference| *difference != (0, 0));
        let unsettled = std::mem::take(&mut self.unsettled);
        let sure = self.blind.sees_content();
        let report = &mut self.report;
        for (session, sequence) in unsettled.keys().copied() {
            let mut said = Vec::new();
            each(txn, key::reference::of(session, sequence), |key, _| {
                said.extend(key::reference::parse(key).map(|(_, _, ino, end)| (*key, ino, end)));
            })?;
            for (key, ino, end) in said {
                let extent = txn.extent(ino, end).unwrap_or(None);
                let blob = extent.and_then(|e| e.place).map(|place| place.blob);
                if blob.map(|id| (id.session(), id.sequence())) != Some((session, sequence)) {
                    let text = format!(
                        "a reference is dangling: inode {} has no bytes of blob {session}-{sequence} up to {end}",
                        ino.0
                    );
                    report.mendable(sure, text, "removed", Mend::Write(key, None));
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
                let text = format!(
                    "a reference is missing: inode {} has bytes of blob {blob} up to {end}",
                    ino.0
                );
                report.mendable(true, text, "made anew", put(key, &[]));
            }
        })
    }

    /// The numbers that are handed out next are beyond all that were.
    pub(super) fn judge_numbers(&mut self, txn: &Txn<'_>) {
        let last_ino = self.inodes.last_key_value().map_or(ROOT, |(last, _)| *last).0;
        let sessions = self.blobs.keys().map(|id| id.session());
        let last_session = sessions.fold(self.last_session, SessionId::max).0;
        let (text, numbers) = match txn.numbers() {
            Ok(numbers) if last_ino >= numbers.next_ino => {
                ("the next inode number is in use".to_owned(), Some(numbers))
            }
            Ok(numbers) if last_session >= numbers.next_session => {
                ("the next session's number is in use".to_owned(), Some(numbers))
            }
            Ok(_) => return,
            Err(error) => (error.to_string(), None),
        };
        let right = Numbers {
            next_ino: numbers.map_or(0, |n| n.next_ino).max(last_ino + INODES_SKIPPED),
            next_session: numbers
                .map_or(0, |n| n.next_session)
                .max(last_session + SESSIONS_SKIPPED),
        };
        let sure = !self.blind.inodes && !self.blind.others;
        self.report.mendable(
            sure,
            text,
            "they go on far beyond all that are known",
            Mend::Number(right),
        );
    }

    /// Counted last: as long as anything else is put right, the sums are not final.
    pub(super) fn judge_counters(&mut self, txn: &Txn<'_>) {
        let all = self.blobs.values();
        let right = Counters {
            inodes: self.inodes.len() as i64,
            live_bytes: self.live.values().sum::<u64>() as i64,
            blobs: self.blobs.len() as i64,
            blob_bytes: all.clone().map(|r| i64::from(r.id.len())).sum(),
            dead_bytes: all.clone().map(|r| r.dead() as i64).sum(),
            disk_bytes: all.map(|r| on_disks(&r.id) as i64).sum(),
            allocated_bytes: self.allocated as i64,
        };
        let sure = self.blind.sees_tree() && self.report.mends.is_empty();
        let wrong = match txn.counters() {
            Ok(recorded) if recorded == right => return,
            Ok(recorded) => differences(&recorded.usage(), &right.usage()),
            Err(error) => vec![error.to_string()],
        };
        for text in wrong {
            match sure {
                true => self.report.told(text, COUNTED),
                false => self.report.problem(text),
            }
        }
        if sure {
            self.report.mend(Mend::Count(right));
        }
    }
}

/// Where counters differ from what there is.
fn differences(recorded: &Usage, found: &Usage) -> Vec<String> {
    let pairs = [
        ("inodes", recorded.inodes, found.inodes),
        ("live bytes", recorded.live_bytes, found.live_bytes),
        ("blobs", recorded.blobs, found.blobs),
        ("bytes in blobs", recorded.blob_bytes, found.blob_bytes),
        ("dead bytes", recorded.dead_bytes, found.dead_bytes),
        ("allocated bytes", recorded.allocated_bytes, found.allocated_bytes),
        ("bytes on disks", recorded.disk_bytes, found.disk_bytes),
    ];
    let wrong = pairs.into_iter().filter(|(_, recorded, found)| recorded != found);
    let told = |(what, recorded, found): (&str, u64, u64)| {
        format!("number of {what} is recorded as {recorded}, but there are {found}")
    };
    let told: Vec<String> = wrong.map(told).collect();
    match told.is_empty() {
        true => vec!["a counter is below zero".to_owned()],
        false => told,
    }
}

/// An inode by what belongs to it: root's, and for nobody else until root has looked at it.
fn made_anew(txn: &Txn<'_>, ino: Ino, seen: &Seen) -> Inode {
    let (kind, mode, size) = match (seen.entries, seen.target) {
        (0, Some(target)) => (Kind::Symlink, 0o777, target),
        (0, None) if ino != ROOT => (Kind::File, 0o600, seen.end),
        (entries, _) => (Kind::Directory, 0o700, entries),
    };
    let mode = seen.access.as_ref().map_or(mode, |list| list.applied_to(mode));
    let is_dir = kind == Kind::Directory;
    let trashed = seen.trashed.filter(|_| seen.names == 0 && ino != ROOT);
    let orphan_of = seen.orphan_of.filter(|_| seen.names == 0 && ino != ROOT && trashed.is_none());
    let nlink = match (orphan_of, is_dir) {
        (Some(_), _) => 0,
        (None, true) => 2 + seen.subdirs,
        (None, false) => seen.names.max(1),
    };
    let now = txn.now();
    let attr = Attr {
        ino,
        kind,
        mode,
        nlink: nlink as u32,
        uid: 0,
        gid: 0,
        rdev: 0,
        xattrs: seen.xattrs as u32,
        size,
        stored: seen.stored,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    let parent = match (trashed, is_dir) {
        (Some(dir), _) => dir,
        (None, true) => seen.named_in.unwrap_or(ROOT),
        (None, false) => Ino(0),
    };
    let in_trash = trashed.is_some();
    Inode { attr, parent, orphan_of, in_trash }
}

fn judge_inode(inode: &Inode, seen: &Seen, sure: bool, report: &mut Report) {
    let ino = inode.attr.ino;
    let named = ino == ROOT || seen.names > 0;
    let mut right = *inode;
    let mut problems = Vec::new();
    let trashed = seen.trashed.filter(|_| !named);
    // A mark alone makes no orphan of what says that it has a name.
    let orphan_of = inode
        .orphan_of
        .or(seen.orphan_of.filter(|_| inode.attr.nlink == 0))
        .filter(|_| !named && trashed.is_none());
    let lost = !named && orphan_of.is_none() && trashed.is_none();
    right.attr.nlink = match (orphan_of, inode.is_dir()) {
        (Some(_), _) => 0,
        (None, true) => 2 + seen.subdirs as u32,
        (None, false) => seen.names.max(1) as u32,
    };
    right.orphan_of = orphan_of;
    if lost {
        problems.push(format!("inode {} has no name", ino.0));
    } else if right.attr.nlink != inode.attr.nlink {
        let (was, is) = (inode.attr.nlink, right.attr.nlink);
        problems.push(format!(
            "number of links of inode {} is recorded as {was}, but there are {is}",
            ino.0
        ));
    }
    judge_mark(inode, seen, orphan_of, sure, report, &mut problems);
    judge_trash(inode, (seen.trashed, trashed), (sure, report), (&mut right, &mut problems));
    let mut number = |what: &str, recorded: u64, found: u64| {
        if recorded != found {
            let ino = ino.0;
            problems.push(format!(
                "{what} of inode {ino} is recorded as {recorded}, but there are {found}"
            ));
        }
    };
    number("stored bytes", inode.attr.stored, seen.stored);
    number("number of attributes", inode.attr.xattrs.into(), seen.xattrs);
    right.attr.stored = seen.stored;
    right.attr.xattrs = seen.xattrs as u32;
    if inode.is_dir() {
        number("number of entries", inode.attr.size, seen.entries);
        right.attr.size = seen.entries;
    } else if let Some(target) = seen.target.filter(|_| inode.attr.kind == Kind::Symlink) {
        number("length of the target", inode.attr.size, target);
        right.attr.size = target;
    }
    if inode.is_dir() && named {
        judge_place(inode, seen, report, (&mut right, &mut problems));
    }
    judge_kind(inode, seen, sure, report);
    if problems.is_empty() {
        return;
    }
    report.about(ino);
    let how = if lost { "put into lost+found" } else { "set right" };
    for text in problems {
        match sure {
            true => report.told(text, how),
            false => report.problem(text),
        }
    }
    if sure {
        report.mend(match lost {
            true => Mend::Adopt(right),
            false => put(key::inode::key(ino), &right.encode()),
        });
    }
}

/// Whether a directory is where its only name is.
fn judge_place(
    inode: &Inode,
    seen: &Seen,
    report: &mut Report,
    (right, problems): (&mut Inode, &mut Vec<String>),
) {
    let ino = inode.attr.ino;
    right.parent = if ino == ROOT { ROOT } else { seen.named_in.unwrap_or(ROOT) };
    if seen.names > 1 {
        report.problem(format!("directory {} has several places", ino.0));
        right.parent = inode.parent;
    } else if right.parent != inode.parent {
        problems.push(format!("directory {} has another place", ino.0));
    }
}

/// Whether it is in the trash as its record says.
fn judge_trash(
    inode: &Inode,
    (recorded, trashed): (Option<Ino>, Option<Ino>),
    (sure, report): (bool, &mut Report),
    (right, problems): (&mut Inode, &mut Vec<String>),
) {
    let ino = inode.attr.ino;
    if let Some(dir) = recorded.filter(|_| trashed.is_none()) {
        let text = format!("inode {} is in the trash, and has a name", ino.0);
        let mend = Mend::Write(key::trash::key(dir, ino), None);
        report.mendable(sure, text, "it is taken out", mend);
    }
    right.in_trash = trashed.is_some();
    match trashed {
        Some(dir) => right.parent = dir,
        None if !inode.is_dir() => right.parent = Ino(0),
        None => {}
    }
    let said = |inode: &Inode| inode.in_trash.then_some(inode.parent);
    if said(inode) != said(right) {
        problems.push(format!("inode {} is not marked as in the trash, or is", ino.0));
    }
}

/// Whether it is marked as the orphan that it is.
fn judge_mark(
    inode: &Inode,
    seen: &Seen,
    orphan_of: Option<SessionId>,
    sure: bool,
    report: &mut Report,
    problems: &mut Vec<String>,
) {
    if orphan_of == inode.orphan_of && orphan_of == seen.orphan_of {
        return;
    }
    let ino = inode.attr.ino;
    let text = format!("inode {} is not marked as the orphan it is, or is", ino.0);
    if let Some(mark) = seen.orphan_of.filter(|mark| Some(*mark) != orphan_of) {
        let mend = Mend::Write(key::orphan::key(mark, ino), None);
        report.mendable(sure, text.clone(), "the mark is removed", mend);
    } else if let Some(session) = orphan_of.filter(|_| seen.orphan_of.is_none()) {
        let mend = put(key::orphan::key(session, ino), &[]);
        report.mendable(sure, text.clone(), "marked", mend);
    }
    if orphan_of != inode.orphan_of {
        problems.push(text);
    }
}

/// What belongs only to inodes of another kind.
fn judge_kind(inode: &Inode, seen: &Seen, sure: bool, report: &mut Report) {
    let ino = inode.attr.ino;
    if !inode.is_dir() && seen.entries > 0 {
        report.about(ino);
        report.problem(format!("inode {} has entries but is no directory", ino.0));
    }
    match (seen.target, inode.attr.kind) {
        (None, Kind::Symlink) => {
            report.about(ino);
            report.problem(format!(
                "inode {} has no link target: it is lost, and the link has to be removed",
                ino.0
            ));
        }
        (Some(_), kind) if kind != Kind::Symlink => {
            let text = format!("inode {} has a link target, and is no symbolic link", ino.0);
            let mend = Mend::Write(key::symlink::key(ino), None);
            report.mendable(sure, text, "removed", mend);
        }
        _ => {}
    }
}
