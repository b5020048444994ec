//! Gathers what refers to what: every key once, and for each inode and blob a few numbers in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use proto::id::{BlobId, SessionId};
use xxhash_rust::xxh3::xxh3_64;

use super::report::{MENDS_MOST, Mend, Report};
use crate::account::Account;
use crate::engine::Value;
use crate::key::{self, Key};
use crate::ops::accounts::SIGNING_LEN;
use crate::ops::last_name::nanoseconds;
use crate::record::dentry;
use crate::record::inode::Inode;
use crate::record::trash::Deletion;
use crate::record::xattr;
use crate::rules::acl::{self, Acl};
use crate::rules::extent;
use crate::store::{BlobRecord, Extent, FILE_MAX, Ino, MetaError, ROOT};
use crate::txn::Txn;

/// What refers to an inode, as found.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) names: u64,
    pub(super) named_in: Option<Ino>,
    pub(super) entries: u64,
    pub(super) subdirs: u64,
    pub(super) stored: u64,
    /// Where its last extent ends.
    pub(super) end: u64,
    pub(super) xattrs: u64,
    /// An access list of an inode that is not there.
    pub(super) access: Option<Acl>,
    /// Bytes of the target of a symbolic link.
    pub(super) target: Option<u64>,
    pub(super) orphan_of: Option<SessionId>,
    /// It is in the trash, and was in this directory.
    pub(super) trashed: Option<Ino>,
}

/// Of which records some cannot be read, so that nothing may be made of their absence.
#[derive(Clone, Copy, Default)]
pub(super) struct Blind {
    pub(super) inodes: bool,
    pub(super) entries: bool,
    pub(super) extents: bool,
    pub(super) others: bool,
}

impl Blind {
    /// Is everything seen that says what inodes there are, and what belongs to them?
    pub(super) fn sees_tree(self) -> bool {
        !self.inodes && !self.entries && !self.extents && !self.others
    }

    /// Is everything seen that says what lies in blobs?
    pub(super) fn sees_content(self) -> bool {
        !self.extents && !self.others
    }
}

/// What was gathered.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) report: Report,
    pub(super) blind: Blind,
    pub(super) inodes: BTreeMap<Ino, Inode>,
    /// Inodes whose records make no sense.
    pub(super) damaged: BTreeSet<Ino>,
    pub(super) seen: HashMap<Ino, Seen>,
    /// Entries whose inodes are not there: the directory, the name and the inode.
    pub(super) naming_nothing: Vec<(Ino, Vec<u8>, Ino)>,
    pub(super) live: HashMap<BlobId, u64>,
    /// Of each blob, what extents refer to it less what references say, as numbers: 0 where both are the same.
    pub(super) unsettled: HashMap<(SessionId, u64), (i64, u64)>,
    pub(super) allocated: u64,
    pub(super) blobs: HashMap<BlobId, BlobRecord>,
    /// Blobs whose records make no sense.
    pub(super) damaged_blobs: HashSet<BlobId>,
    pub(super) garbage: HashSet<BlobId>,
    pub(super) inline: HashSet<BlobId>,
    pub(super) last_session: SessionId,
    pub(super) adrift: Adrift,
}

/// What a whole journal never leaves: see [`super::amends`].
#[derive(Default)]
pub(super) struct Adrift {
    /// Directories that have several names.
    pub(super) several: BTreeSet<Ino>,
    /// Directories that do not lead up to the root.
    pub(super) unreachable: BTreeSet<Ino>,
    /// Symbolic links without a target.
    pub(super) aimless: BTreeSet<Ino>,
    /// Files of which extents overlap, or could be one.
    pub(super) crooked: BTreeSet<Ino>,
    /// Inodes whose mode does not agree with their access list, and the mode that does.
    pub(super) modes: BTreeMap<Ino, u32>,
}

/// Shows all keys of one kind.
pub(super) fn each(
    txn: &Txn<'_>,
    start: Key,
    mut visit: impl FnMut(&Key, &[u8]),
) -> Result<(), MetaError> {
    txn.scan(start..start.after_prefix(), &mut |key, value| {
        visit(key, value);
        Ok(ControlFlow::Continue(()))
    })
    .map(drop)
}

impl Walk {
    /// Damage that hides further records is a problem like others: what can be seen is checked.
    pub(super) fn seen_all(&mut self, what: &str, walked: Result<(), MetaError>) {
        if let Err(error) = walked {
            self.report.problem(format!("not all {what} can be read: {error}"));
            match what {
                "inodes" => self.blind.inodes = true,
                "directory entries" => self.blind.entries = true,
                "extents" => self.blind.extents = true,
                _ => self.blind.others = true,
            }
        }
    }

    fn is_orphan(&self, ino: Ino) -> bool {
        self.inodes.get(&ino).is_some_and(|inode| inode.orphan_of.is_some())
    }

    pub(super) fn inodes(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::inode::all(), |key, value| {
            let ino = key::inode::parse(key);
            match (ino, ino.and_then(|ino| Inode::decode(ino, value))) {
                (_, Some(inode)) => drop(self.inodes.insert(inode.attr.ino, inode)),
                (Some(ino), None) => drop(self.damaged.insert(ino)),
                (None, None) => self.report.problem(format!("inode record {key:?} is damaged")),
            }
            self.report.inodes += 1;
        })
    }

    pub(super) fn entries(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::dentry::all(), |key, bucket| {
            let Some((parent, hash)) = key::dentry::parse(key) else {
                return self.report.problem(format!("directory entry {key:?} is damaged"));
            };
            let (mut last_disc, mut readable) = (None, 0);
            for entry in dentry::entries(bucket) {
                let Some(entry) = entry else {
                    self.blind.entries = true;
                    self.report.about(parent);
                    let kept = bucket.get(..readable).filter(|kept| !kept.is_empty());
                    return self.report.mendable(
                        true,
                        format!("directory entry {key:?} of inode {} is damaged", parent.0),
                        "its names are lost, and what they named is in lost+found",
                        Mend::Write(*key, kept.map(Value::from)),
                    );
                };
                readable += dentry::len(&entry);
                self.report.entries += 1;
                let name = String::from_utf8_lossy(entry.name);
                if txn.hash(entry.name) != hash || last_disc >= Some(entry.disc) {
                    self.report.problem(format!("{name:?} in inode {} is misplaced", parent.0));
                }
                last_disc = Some(entry.disc);
                let is_dir = match self.inodes.get(&entry.ino) {
                    Some(inode) => inode.is_dir(),
                    None => {
                        if self.naming_nothing.len() < MENDS_MOST {
                            self.naming_nothing.push((parent, entry.name.to_vec(), entry.ino));
                        }
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

    pub(super) fn extents(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        let mut last: Option<(Ino, Extent)> = None;
        each(txn, key::extent::all(), |key, value| {
            self.report.extents += 1;
            let parsed = key::extent::parse(key)
                .and_then(|(ino, end)| Some((ino, key::extent::decode(end, value)?)));
            let Some((ino, this)) = parsed else { return self.damaged_extent(key) };
            let at = format!("extent {} of inode {}", this.offset, ino.0);
            if this.len == 0 || extent::end(&this) > FILE_MAX {
                self.report.problem(format!("{at} has an impossible length of {}", this.len));
            }
            if let Some((_, before)) = last.filter(|(of, _)| *of == ino) {
                if extent::end(&before) > this.offset {
                    self.adrift.crooked.insert(ino);
                    self.report.problem(format!("{at} overlaps the one before"));
                } else if extent::joins(&before, &this) {
                    self.adrift.crooked.insert(ino);
                    self.report.problem(format!("{at} should be one with the one before"));
                }
            }
            last = Some((ino, this));
            let seen = self.seen.entry(ino).or_default();
            seen.stored += this.len;
            seen.end = extent::end(&this);
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

    /// Where the bytes were is not known any more. As long as the file has a name that is an error of who reads
    /// them, and better than zeros.
    fn damaged_extent(&mut self, key: &Key) {
        let Some((ino, end)) = key::extent::parse(key) else {
            self.blind.extents = true;
            return self.report.problem(format!("extent {key:?} is damaged"));
        };
        self.report.about(ino);
        let unnamed = self.is_orphan(ino);
        self.blind.extents |= !unnamed;
        let text = format!(
            "an extent of inode {} is damaged: its bytes up to {end} are lost, and the file has to be removed",
            ino.0
        );
        self.report.mendable(unnamed, text, "removed", Mend::Write(*key, None));
    }

    pub(super) fn references(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::reference::all(), |key, _| match key::reference::parse(key) {
            Some((session, sequence, ino, end)) => self.refer((session, sequence), ino, end, -1),
            None => self.remove_damaged("reference", key),
        })
    }

    /// A key that says all there is to say, and says nothing.
    fn remove_damaged(&mut self, what: &str, key: &Key) {
        let text = format!("{what} {key:?} is damaged");
        self.report.mendable(true, text, "removed", Mend::Write(*key, None));
    }

    /// Counts what an extent says of a blob, or takes off what a reference does.
    fn refer(&mut self, blob: (SessionId, u64), ino: Ino, end: u64, count: i64) {
        let run = [ino.0.to_le_bytes(), end.to_le_bytes()];
        let hash = xxh3_64(run.as_flattened());
        let (counted, sum) = self.unsettled.entry(blob).or_default();
        *counted += count;
        *sum = sum.wrapping_add(hash.wrapping_mul(count as u64));
    }

    pub(super) fn blobs(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::blob::all(), |key, value| {
            self.report.blobs += 1;
            let id = key::blob::parse(key);
            match (id, id.and_then(|id| key::blob::decode(id, value))) {
                (_, Some(record)) => drop(self.blobs.insert(record.id, record)),
                (Some(id), None) => drop(self.damaged_blobs.insert(id)),
                (None, None) => self.remove_damaged("blob record", key),
            }
        })
    }

    pub(super) fn garbage(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::garbage::all(), |key, _| match key::garbage::parse(key) {
            Some(id) => drop(self.garbage.insert(id)),
            None => self.remove_damaged("garbage mark", key),
        })
    }

    pub(super) fn inline(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::inline::all(), |key, bytes| match key::inline::parse(key) {
            Some(id) if bytes.len() == id.len() as usize => drop(self.inline.insert(id)),
            Some(id) => self.report.problem(format!("inline blob {id} has {} bytes", bytes.len())),
            None => self.report.problem(format!("the name {key:?} of an inline blob is damaged")),
        })
    }

    pub(super) fn orphans(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::orphan::all(), |key, _| match key::orphan::parse(key) {
            Some((session, ino)) => self.seen.entry(ino).or_default().orphan_of = Some(session),
            None => self.remove_damaged("orphan", key),
        })
    }

    pub(super) fn xattrs(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
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
        if !acl::is_acl(name) {
            return;
        }
        let Some(inode) = self.inodes.get(&ino) else {
            if name == acl::ACCESS {
                self.seen.entry(ino).or_default().access = Acl::parse(value).ok().flatten();
            }
            return;
        };
        let good = Acl::parse(value).ok().flatten().is_some_and(|list| match name {
            acl::ACCESS => {
                list.is_extended() && list.applied_to(inode.attr.mode) == inode.attr.mode
            }
            _ => inode.is_dir(),
        });
        if !good {
            let list = Acl::parse(value).ok().flatten().filter(Acl::is_extended);
            let mode = list.map(|list| list.applied_to(inode.attr.mode));
            self.adrift.modes.extend(mode.filter(|_| name == acl::ACCESS).map(|mode| (ino, mode)));
            let name = String::from_utf8_lossy(name);
            self.report.about(ino);
            self.report.problem(format!("{name} of inode {} makes no sense", ino.0));
        }
    }

    pub(super) fn symlinks(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::symlink::all(), |key, target| {
            let Some(ino) = key::symlink::parse(key) else {
                return self.report.problem(format!("symbolic link {key:?} is damaged"));
            };
            self.seen.entry(ino).or_default().target = Some(target.len() as u64);
        })
    }

    pub(super) fn sessions(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        each(txn, key::session::all(), |key, _| match key::session::parse(key) {
            Some(session) => self.last_session = self.last_session.max(session),
            None => self.remove_damaged("session", key),
        })
    }

    /// What is in the trash, and the same by time.
    pub(super) fn trash(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        let mut times = BTreeMap::new();
        each(txn, key::trash::all_by_time(), |key, value| {
            let found = key::trash::parse_by_time(key).zip(key::trash::decode_dir(value));
            match found {
                Some(((when, ino), dir)) => drop(times.insert((when, ino), dir)),
                None => self.remove_damaged("time of a deletion", key),
            }
        })?;
        each(txn, key::trash::all(), |key, value| {
            let Some((dir, ino)) = key::trash::parse(key) else {
                return self.remove_damaged("something in the trash", key);
            };
            let Some(deletion) = Deletion::decode(value) else {
                return self.undated(txn, key, (dir, ino));
            };
            if !self.inodes.get(&dir).is_some_and(Inode::is_dir) {
                return self.homeless(key, value, (dir, ino));
            }
            self.seen.entry(ino).or_default().trashed = Some(dir);
            if times.remove(&(deletion.when, ino)) != Some(dir) {
                let text = format!("inode {} in the trash is not found by its time", ino.0);
                let value = Value::from(&key::trash::encode_dir(dir)[..]);
                let mend = Mend::Write(key::trash::key_by_time(deletion.when, ino), Some(value));
                self.report.mendable(true, text, "noted", mend);
            }
        })?;
        for (when, ino) in times.into_keys() {
            let text = format!("inode {} was deleted at a time, and is not in the trash", ino.0);
            let mend = Mend::Write(key::trash::key_by_time(when, ino), None);
            self.report.mendable(!self.blind.others, text, "the time is removed", mend);
        }
        Ok(())
    }

    /// What is known of a deletion makes no sense, but what and where it was.
    fn undated(&mut self, txn: &Txn<'_>, key: &Key, (dir, ino): (Ino, Ino)) {
        self.report.about(ino);
        let text = format!("what is known of inode {} in the trash is damaged", ino.0);
        let name = format!("#{}", ino.0).into_bytes();
        let made = Deletion { when: nanoseconds(txn.now()), by: 0, name }.encode();
        let how = "its name and when it was deleted are lost";
        self.seen.entry(ino).or_default().trashed = Some(dir);
        self.report.mendable(true, text, how, Mend::Write(*key, Some(Value::from(made))));
    }

    /// The directory that something in the trash was in is not there.
    fn homeless(&mut self, key: &Key, value: &[u8], (dir, ino): (Ino, Ino)) {
        self.report.about(ino);
        let text =
            format!("inode {} in the trash was in inode {}, which is no directory", ino.0, dir.0);
        let sure = !self.blind.inodes && !self.damaged.contains(&dir);
        self.seen.entry(ino).or_default().trashed = Some(ROOT);
        if sure {
            let there = Mend::Write(key::trash::key(ROOT, ino), Some(Value::from(value)));
            self.report.mend(there);
        }
        let how = "it is restored to the root directory";
        self.report.mendable(sure, text, how, Mend::Write(*key, None));
    }

    /// Who may come in by a door. What makes no sense lets nobody in, nor does a pass without its user.
    pub(super) fn accounts(&mut self, txn: &Txn<'_>) -> Result<(), MetaError> {
        let (mut users, mut passes) = (BTreeSet::new(), Vec::new());
        each(txn, key::account::all(), |key, value| {
            if *key == key::account::signing() {
                if value.len() != SIGNING_LEN {
                    // All links end with it, and the next one made has another.
                    self.remove_damaged("what share links are signed with", key);
                }
                return;
            }
            let account = key::account::parse(key);
            match account.and_then(|(kind, name)| Account::decode(kind, name, value)) {
                Some(Account::User(user)) => drop(users.insert(user.name)),
                Some(Account::Pass(pass)) => passes.push((*key, pass)),
                None => self.remove_damaged("account", key),
            }
        })?;
        for (key, pass) in passes.into_iter().filter(|(_, pass)| !users.contains(&pass.user)) {
            let text = format!("{} {} is of no user: {}", pass.kind, pass.id, pass.user);
            self.report.mendable(true, text, "removed", Mend::Write(key, None));
        }
        Ok(())
    }
}
