//! Puts right what the check found and knows how to: behind `ashlar fsck --repair`.
//!
//! A walk says what is wrong and how it is put right ([`crate::check`]); that is done, and another walk begins, until
//! one finds nothing that it could: what is put right may show more. Whoever repairs leads the volume, and nobody else
//! works on it. At last what dead sessions had unlinked is deleted, as their next mount would have done.
//!
//! No blob is deleted here: one that nothing lies in is marked, and the next mount's sweep does the rest.

use std::collections::BTreeSet;

use proto::id::SessionId;

use crate::check::{Cause, Mend, Report};
use crate::engine::{Change, Counting};
use crate::ops::{Step, names, orphans, sessions};
use crate::record::inode::Inode;
use crate::store::{Attr, Ino, Kind, MetaError, ROOT};
use crate::txn::Txn;
use crate::volume::opened::Volume;

/// Most walks. Each but the last puts something right.
const WALKS_MOST: usize = 20;
/// So much is put right in one transaction.
const AT_ONCE: usize = 1000;
/// Where inodes without a name get one, in the root directory.
const LOST_FOUND: &str = "lost+found";

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was wrong and was put right, and how, one sentence each.
    pub mended: Vec<String>,
    /// Inodes that this was about, as far as it names them.
    pub inodes: u64,
    /// Unlinked inodes of dead sessions that were deleted.
    pub reaped: u64,
    /// What the last walk found: nothing, or what cannot be put right.
    pub left: Report,
}

impl Volume {
    /// Puts right what can be, durably.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn repair(&self) -> Result<Repaired, MetaError> {
        self.put_right(Cause::Unknown).await
    }

    /// The same of metadata that are what was left of a journal ([`crate::salvage`]): of two records that contradict each
    /// other the newer one counts, where that can be told, and else one of them.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn repair_remains(&self) -> Result<Repaired, MetaError> {
        self.put_right(Cause::Salvaged).await
    }

    async fn put_right(&self, cause: Cause) -> Result<Repaired, MetaError> {
        let mut repaired = Repaired::default();
        let mut about: BTreeSet<Ino> = BTreeSet::new();
        for _ in 0..WALKS_MOST {
            let mut report = self.check_for(cause).await?;
            about.extend(&report.about);
            let mends = std::mem::take(&mut report.mends);
            if mends.is_empty() {
                repaired.left = report;
                break;
            }
            let mending = std::mem::take(&mut report.mending);
            repaired.mended.extend(mending.into_iter().map(|text| report.named(text)));
            for some in mends.chunks(AT_ONCE) {
                self.mend(some).await?;
            }
            repaired.left = report;
        }
        repaired.inodes = about.len() as u64;
        if repaired.left.is_clean() {
            repaired.reaped = self.reap_dead().await?;
        }
        self.kv.sync().await?;
        Ok(repaired)
    }

    async fn mend(&self, mends: &[Mend]) -> Result<(), MetaError> {
        for counted in mends.iter().filter_map(|mend| match mend {
            Mend::Count(counters) => {
                Some(Change { counting: Counting::Set(*counters), ..Change::default() })
            }
            _ => None,
        }) {
            let mut counted = Some(counted);
            self.kv.transact(&mut |_| Ok(counted.take().unwrap_or_default()))?;
        }
        let (adopted, others): (Vec<_>, Vec<_>) =
            mends.iter().partition(|mend| matches!(mend, Mend::Adopt(_)));
        let nobody = SessionId(0);
        self.write(nobody, |txn| others.iter().try_for_each(|mend| apply(txn, mend))).await?;
        if adopted.is_empty() {
            return Ok(());
        }
        let home = self.write(nobody, lost_found).await?;
        self.write(nobody, |txn| {
            adopted.iter().try_for_each(|mend| match mend {
                Mend::Adopt(inode) => adopt(txn, inode, home),
                _ => Ok(()),
            })
        })
        .await
    }

    /// Deletes what dead sessions had unlinked; nobody has it open.
    async fn reap_dead(&self) -> Result<u64, MetaError> {
        let alive = self.alive();
        let all = self.read(|txn| orphans::all(txn)).await?;
        let dead = all.into_iter().filter(|(session, _)| !alive.contains(session));
        let inos: Vec<Ino> = dead.map(|(_, ino)| ino).collect();
        let mut done = 0;
        while done < inos.len() {
            let step = self.write(SessionId(0), |txn| orphans::reap(txn, &inos[done..])).await?;
            match step {
                Step::More(more) => done += more,
                Step::Done(()) => break,
            }
        }
        Ok(inos.len() as u64)
    }
}

/// The directory for what has no name. Something else may be called so.
fn lost_found(txn: &mut Txn<'_>) -> Result<Ino, MetaError> {
    for number in 0.. {
        let name = match number {
            0 => LOST_FOUND.to_owned(),
            more => format!("{LOST_FOUND}.{more}"),
        };
        let Some(there) = txn.entry(ROOT, name.as_bytes())? else {
            return make_lost_found(txn, &name);
        };
        match txn.find_inode(there) {
            Ok(Some(inode)) if inode.is_dir() => return Ok(there),
            Ok(_) | Err(MetaError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    unreachable!("some name is free")
}

fn make_lost_found(txn: &mut Txn<'_>, name: &str) -> Result<Ino, MetaError> {
    let ino = Ino(sessions::take_inodes(txn)?.start);
    let mut root = txn.directory(ROOT)?;
    let now = txn.now();
    let attr = Attr {
        ino,
        kind: Kind::Directory,
        mode: 0o700,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        xattrs: 0,
        size: 0,
        stored: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    txn.put_inode(&Inode { attr, parent: ROOT, orphan_of: None, in_trash: false });
    txn.add_entry(ROOT, name.as_bytes(), ino)?;
    root.attr.size += 1;
    root.attr.nlink += 1;
    txn.put_inode(&root);
    txn.count_inodes(1);
    Ok(ino)
}

fn apply(txn: &mut Txn<'_>, mend: &Mend) -> Result<(), MetaError> {
    match mend {
        Mend::Write(key, Some(value)) => txn.share(*key, value),
        Mend::Write(key, None) => txn.remove(*key),
        Mend::Unname(parent, name) => txn.remove_entry(*parent, name)?,
        Mend::Number(numbers) => txn.put_numbers(numbers),
        // Whoever calls does these.
        Mend::Adopt(_) | Mend::Count(_) => {}
    }
    Ok(())
}

/// Gives an inode that has no name one, by its number.
fn adopt(txn: &mut Txn<'_>, inode: &Inode, home: Ino) -> Result<(), MetaError> {
    let name = format!("#{}", inode.attr.ino.0);
    let mut home = names::living_directory(txn, home)?;
    if txn.entry(home.attr.ino, name.as_bytes())?.is_some() {
        return Ok(());
    }
    txn.add_entry(home.attr.ino, name.as_bytes(), inode.attr.ino)?;
    home.attr.size += 1;
    let mut inode = *inode;
    if inode.is_dir() {
        home.attr.nlink += 1;
        inode.parent = home.attr.ino;
    }
    home.touch_content(txn.now());
    txn.put_inode(&home);
    txn.put_inode(&inode);
    Ok(())
}
