//! The trash: what was deleted and is kept for a while.
//!
//! What is in it is out of the tree, and reached by no name; but all else of it is as it was: its attributes, its content, of a
//! directory all that is in it. Its record counts as its last name ([`Inode::in_trash`]), says which directory it was in and what it
//! was called there, and is written in one step with taking that name away. So nothing is ever in both, nor in neither.
//!
//! Invariant: the directory that something was in is there as long as that is in the trash. One that would go goes to the trash
//! itself. So where something was is known by the directory, and not by a path of then: when that was moved since, what it
//! held goes back to where it is now.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::last_name::{anything_of, drop_name, lose_name, nanoseconds, put, take_out};
use super::list;
use super::names::{living_directory, named, take_away};
use crate::key::{self, Key};
use crate::record::inode::Inode;
use crate::record::trash::Deletion;
use crate::rules::name::Name;
use crate::store::{Above, Fate, Ino, MetaError, ROOT, Takes, Time, Trashed, Unlinked};
use crate::txn::{Txn, damaged};

/// Entries of a directory that are looked through at once for names of some of them.
const LOOK: usize = 4096;

fn time(nanos: u64) -> Time {
    Time { secs: (nanos / 1_000_000_000).cast_signed(), nanos: (nanos % 1_000_000_000) as u32 }
}

/// Takes a name away, and what it named into the trash; with a name that stays, just that one.
pub(crate) fn discard(
    txn: &mut Txn<'_>,
    parent: Ino,
    name: &[u8],
    takes: Takes,
    by: u32,
) -> Result<Unlinked, MetaError> {
    let name = Name::entry(name, MetaError::Invalid("a directory cannot take itself away"))?;
    txn.look_ahead_at_entry(parent, name)?;
    let dir = txn.directory(parent)?;
    let ino = txn.entry(parent, name)?.ok_or(MetaError::NotFound)?;
    let inode = named(txn, ino)?;
    match (takes, inode.is_dir()) {
        (Takes::NoDirectory, true) => return Err(MetaError::IsDirectory),
        (Takes::EmptyDirectory, false) => return Err(MetaError::NotDirectory),
        (Takes::EmptyDirectory, true) if inode.attr.size > 0 => return Err(MetaError::NotEmpty),
        (Takes::Only(only), _) if only != ino => return Err(MetaError::Exists),
        _ => {}
    }
    take_away(txn, dir, name, inode, Fate::Trash { by })
}

/// What is in the trash by its number, be it that somebody wants it gone.
fn find(txn: &Txn<'_>, ino: Ino) -> Result<(Inode, Deletion), MetaError> {
    let inode = txn.inode(ino)?;
    if !inode.in_trash {
        return Err(MetaError::NotFound);
    }
    let value = txn.get(&key::trash::key(inode.parent, ino))?;
    let deletion = value.and_then(|value| Deletion::decode(&value));
    Ok((inode, deletion.ok_or_else(|| damaged("what is known of something in the trash"))?))
}

fn told(inode: &Inode, deletion: Deletion) -> Trashed {
    let Deletion { when, by, name } = deletion;
    Trashed { attr: inode.stat(), dir: inode.parent, name, when: time(when), by }
}

/// What is in the trash by its number.
pub(crate) fn one(txn: &Txn<'_>, ino: Ino) -> Result<Trashed, MetaError> {
    match find(txn, ino)? {
        (_, Deletion { when: 0, .. }) => Err(MetaError::NotFound),
        (inode, deletion) => Ok(told(&inode, deletion)),
    }
}

/// What was in a directory, in the order of its numbers, behind `after`; and what is wanted gone, too.
pub(crate) fn of(
    txn: &Txn<'_>,
    dir: Ino,
    after: Option<Ino>,
    limit: usize,
) -> Result<Vec<Trashed>, MetaError> {
    let start = key::trash::of(dir);
    let from = after.map_or(start, |after| key::trash::key(dir, after).successor());
    readable(txn, limit, |behind, wanted| {
        let from = behind.map_or(from, |last| last.successor());
        let mut found = Vec::new();
        let _ = txn.scan(from..start.after_prefix(), &mut |key, _| {
            found.extend(key::trash::parse(key).map(|(_, ino)| (*key, ino)));
            Ok(goes_on(found.len() < wanted))
        })?;
        Ok(found)
    })
}

/// What was deleted last, before `before`, the newest first.
pub(crate) fn newest(
    txn: &Txn<'_>,
    before: Option<(Time, Ino)>,
    limit: usize,
) -> Result<Vec<Trashed>, MetaError> {
    // What is wanted gone has the time 0.
    let start = key::trash::key_by_time(1, Ino(0));
    let end = before.map_or(key::trash::all_by_time().after_prefix(), |(when, ino)| {
        key::trash::key_by_time(nanoseconds(when), ino)
    });
    readable(txn, limit, |behind, wanted| {
        let (end, mut found) = (behind.unwrap_or(end), Vec::new());
        if start < end {
            let _ = txn.scan_back(start..end, &mut |key, _| {
                found.extend(key::trash::parse_by_time(key).map(|(_, ino)| (*key, ino)));
                Ok(goes_on(found.len() < wanted))
            })?;
        }
        Ok(found)
    })
}

/// What is wanted gone, and then what was deleted before `until`, the oldest first.
pub(crate) fn oldest(
    txn: &Txn<'_>,
    until: Time,
    after: Option<(Time, Ino)>,
    limit: usize,
) -> Result<Vec<Trashed>, MetaError> {
    let start = key::trash::all_by_time();
    let from = after.map_or(start, |(when, ino)| {
        let when = if when == Time::default() { 0 } else { nanoseconds(when) };
        key::trash::key_by_time(when, ino).successor()
    });
    let end = key::trash::key_by_time(nanoseconds(until), Ino(0));
    readable(txn, limit, |behind, wanted| {
        let from = behind.map_or(from, |last| last.successor());
        let mut found = Vec::new();
        if from < end {
            let _ = txn.scan(from..end, &mut |key, _| {
                found.extend(key::trash::parse_by_time(key).map(|(_, ino)| (*key, ino)));
                Ok(goes_on(found.len() < wanted))
            })?;
        }
        Ok(found)
    })
}

fn goes_on(yes: bool) -> ControlFlow<()> {
    if yes { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// The first `limit` that can be read, of those that `next` finds behind a key: so many of them, or all that there are. Fewer
/// are the last.
fn readable(
    txn: &Txn<'_>,
    limit: usize,
    mut next: impl FnMut(Option<Key>, usize) -> Result<Vec<(Key, Ino)>, MetaError>,
) -> Result<Vec<Trashed>, MetaError> {
    let (mut found, mut behind) = (Vec::new(), None);
    loop {
        let wanted = limit - found.len();
        let page = next(behind, wanted)?;
        let inos: Vec<Ino> = page.iter().map(|(_, ino)| *ino).collect();
        found.extend(all_of(txn, &inos)?);
        match page.last() {
            Some((last, _)) if page.len() == wanted && found.len() < limit => behind = Some(*last),
            _ => return Ok(found),
        }
    }
}

/// A damaged one is passed over, and logged.
fn all_of(txn: &Txn<'_>, inos: &[Ino]) -> Result<Vec<Trashed>, MetaError> {
    txn.look_ahead_at_inodes(inos.iter().copied())?;
    let mut found = Vec::with_capacity(inos.len());
    for ino in inos {
        match find(txn, *ino) {
            Ok((inode, deletion)) => found.push(told(&inode, deletion)),
            Err(why @ (MetaError::Damaged(_) | MetaError::NotFound)) => {
                tracing::error!("inode {} in the trash: {why} (ashlar fsck --repair)", ino.0);
            }
            Err(why) => return Err(why),
        }
    }
    Ok(found)
}

/// Puts something back under a name, in place of what has it, which goes to the trash itself if that may be.
pub(crate) fn restore(
    txn: &mut Txn<'_>,
    ino: Ino,
    (parent, name): (Ino, &[u8]),
    replaces: bool,
    by: u32,
) -> Result<Option<Unlinked>, MetaError> {
    let name = Name::entry(name, MetaError::Exists)?;
    txn.look_ahead([key::inode::key(ino), key::inode::key(parent), txn.entry_key(parent, name)])?;
    let (mut inode, deletion) = find(txn, ino)?;
    if deletion.when == 0 {
        return Err(MetaError::NotFound);
    }
    let mut dir = living_directory(txn, parent)?;
    refuse_trash(txn, &dir)?;
    let gone = match txn.entry(parent, name)? {
        Some(_) if !replaces => return Err(MetaError::Exists),
        Some(before) => {
            let mut before = named(txn, before)?;
            txn.replace_entry(parent, name, ino)?;
            dir.attr.nlink -= u32::from(before.is_dir());
            Some(lose_name(txn, &mut before, (parent, name), Fate::Trash { by })?)
        }
        None => {
            txn.add_entry(parent, name, ino)?;
            dir.attr.size += 1;
            None
        }
    };
    take_out(txn, ino, inode.parent, deletion.when);
    inode.in_trash = false;
    inode.parent = if inode.is_dir() { parent } else { Ino(0) };
    inode.attr.ctime = txn.now();
    txn.put_inode(&inode);
    dir.attr.nlink += u32::from(inode.is_dir());
    dir.touch_content(txn.now());
    txn.put_inode(&dir);
    Ok(gone)
}

/// Refuses a directory that lies in one that is in the trash.
fn refuse_trash(txn: &Txn<'_>, dir: &Inode) -> Result<(), MetaError> {
    let mut at = *dir;
    while at.attr.ino != ROOT {
        if !at.has_name() {
            return Err(MetaError::NotFound);
        }
        if at.parent == at.attr.ino {
            return Err(damaged("the path of a directory"));
        }
        at = txn.directory(at.parent)?;
    }
    Ok(())
}

/// Somebody wants these gone for good, with all that is in them: from now on nobody sees them in the trash.
pub(crate) fn give_up(txn: &mut Txn<'_>, inos: &[Ino]) -> Result<(), MetaError> {
    txn.look_ahead_at_inodes(inos.iter().copied())?;
    for ino in inos {
        let (inode, deletion) = match find(txn, *ino) {
            // Somebody was faster.
            Err(MetaError::NotFound) => continue,
            found => found?,
        };
        take_out(txn, *ino, inode.parent, deletion.when);
        put(txn, *ino, inode.parent, &Deletion { when: 0, ..deletion });
    }
    Ok(())
}

/// Deletes something in the trash: a directory once nothing is in it any more, nor anything in the trash that was.
pub(crate) fn delete(txn: &mut Txn<'_>, ino: Ino) -> Result<Unlinked, MetaError> {
    let (mut inode, deletion) = find(txn, ino)?;
    if inode.is_dir() && (inode.attr.size > 0 || anything_of(txn, ino)?) {
        return Err(MetaError::NotEmpty);
    }
    take_out(txn, ino, inode.parent, deletion.when);
    inode.in_trash = false;
    if !inode.is_dir() {
        inode.parent = Ino(0);
    }
    Ok(drop_name(txn, &mut inode))
}

/// Where directories are.
#[derive(Default)]
pub(crate) struct Parents {
    /// Those in the trash: where they were.
    pub(crate) known: BTreeMap<Ino, Above>,
    /// The others, by the directory whose entries name them.
    pub(crate) named: BTreeMap<Ino, BTreeSet<Ino>>,
}

/// Where these directories are. Of those that are not there, or cannot be read, nothing is said.
pub(crate) fn parents(txn: &Txn<'_>, inos: &[Ino]) -> Result<Parents, MetaError> {
    txn.look_ahead_at_inodes(inos.iter().copied())?;
    let mut all = Parents::default();
    for ino in inos {
        let Some(dir) = readable_one(txn.directory(*ino))? else { continue };
        if !dir.in_trash {
            all.named.entry(dir.parent).or_default().insert(*ino);
        } else if let Some((_, deletion)) = readable_one(find(txn, *ino))? {
            all.known.insert(*ino, Above { dir: dir.parent, name: deletion.name, in_trash: true });
        }
    }
    Ok(all)
}

fn readable_one<T>(found: Result<T, MetaError>) -> Result<Option<T>, MetaError> {
    match found {
        Err(MetaError::NotFound | MetaError::Damaged(_)) => Ok(None),
        found => found.map(Some),
    }
}

/// What inodes are called.
pub(crate) type Names = Vec<(Ino, Vec<u8>)>;

/// What those that are wanted are called in a directory, as far as its entries behind `cookie` say; and where to look on.
pub(crate) fn names(
    txn: &Txn<'_>,
    dir: Ino,
    wanted: &BTreeSet<Ino>,
    cookie: u64,
) -> Result<(Names, Option<u64>), MetaError> {
    let page = list::page(txn, dir, cookie, LOOK)?;
    let next = page.last().filter(|_| page.len() == LOOK).map(|(last, ..)| *last);
    let found = page.into_iter().filter(|(.., ino)| wanted.contains(ino));
    Ok((found.map(|(_, name, ino)| (ino, name)).collect(), next))
}
