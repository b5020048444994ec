//! The trash of the volume, as far as it concerns what is deleted here and how it ends.
//!
//! Where the volume says so ([`MetaStore::trash_days`]), whatever anybody deletes goes there, and is deleted for good when it has
//! been there for so many days; else only what is put there on purpose does, and stays [`DAYS`]. What was deleted too long ago, or
//! somebody wants gone, goes in the background, in small steps, and after a restart too.

use std::sync::Arc;
use std::time::Duration;

use meta::{Attr, Fate, Ino, Kind, MetaError, Outdated, Steady, Takes, Time, Trashed, Unlinked};
use tokio::time::Instant;

use super::Filesystem;
use crate::error::FsResult;

/// Days that something is kept in the trash where the volume does not say how many.
pub const DAYS: u16 = 30;
/// Seconds of a day.
const DAY: i64 = 86_400;
/// How often it is looked for what has been there too long.
const EVERY: Duration = Duration::from_secs(600);
/// So much is deleted before others get their turn.
const AT_ONCE: usize = 64;
/// What begins so is nobody's but ours for a moment, and never goes to the trash.
const TEMPORARY: &[u8] = b".ashlar-";

/// Days that what is in the trash is kept, where the volume says so many.
fn kept(trash_days: u16) -> u16 {
    match trash_days {
        0 => DAYS,
        days => days,
    }
}

impl Filesystem {
    /// What becomes of what this user deletes at this path, or under this name. Parts of uploads, and halves of copies, are nobody's
    /// to have back.
    pub(crate) fn fate<'a>(&self, by: u32, names: impl IntoIterator<Item = &'a [u8]>) -> Fate {
        let ours = names.into_iter().any(|name| name.starts_with(TEMPORARY));
        match self.meta.trash_days() {
            0 => Fate::Gone,
            _ if ours => Fate::Gone,
            _ => Fate::Trash { by },
        }
    }

    /// Days that what is deleted stays in the trash. 0: only what is put there on purpose does.
    pub fn trash_days(&self) -> u16 {
        self.meta.trash_days()
    }

    /// Days that what is in the trash is kept.
    pub fn kept_days(&self) -> u16 {
        kept(self.meta.trash_days())
    }

    /// Changes how long what is deleted stays in the trash. What has been there longer than it may from now on stays for some
    /// minutes yet: until then it can be kept by another change.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn set_trash_days(&self, days: u16) -> FsResult<()> {
        self.meta.set_trash_days(days).await?;
        self.trash_wake.notify_one();
        Ok(())
    }

    /// Days after which what is in the trash goes; `None`: somebody has changed them just now, here or in a session of a metad.
    fn settled_days(&self) -> Option<u16> {
        let mut seen = self.trash_days_seen.lock();
        let days = self.meta.trash_days();
        if seen.0 != days {
            *seen = (days, Some(Instant::now()));
        }
        seen.1.is_none_or(|changed| changed.elapsed() >= EVERY).then(|| kept(days))
    }

    /// Puts this inode into the trash, a directory with all that is in it, by taking its name away.
    pub(crate) async fn discard(
        &self,
        by: u32,
        (parent, name): (Ino, &[u8]),
        which: Ino,
    ) -> FsResult<()> {
        self.unlinked(self.meta.discard(parent, name, Takes::Only(which), by).await?);
        Ok(())
    }

    /// What has come back from the trash, or was given up there: whoever caches has forgotten it when this returns.
    pub(crate) async fn came_back(&self, outdated: Vec<Outdated>, inos: &[Ino]) {
        self.revived(inos);
        self.trash_wake.notify_one();
        self.outdate(outdated).await;
    }

    /// Those have come back from the trash.
    pub(crate) fn revived(&self, inos: &[Ino]) {
        inos.iter().for_each(|ino| self.lookup_counts.revived(*ino));
    }

    /// The kernel has taken a directory away that is in the trash.
    pub(super) fn died(&self, gone: Unlinked) {
        if !gone.orphan {
            self.lookup_counts.died(gone.ino);
        }
    }

    /// By which number the kernel is to know an inode that it is told of.
    pub(crate) fn generation(&self, ino: Ino) -> u64 {
        self.lookup_counts.generation(ino)
    }

    /// Somebody wants these gone, with all that is in them.
    pub(crate) async fn give_up_trash(&self, inos: &[Ino]) -> FsResult<()> {
        self.meta.give_up_trash(inos).await?;
        self.trash_wake.notify_one();
        Ok(())
    }

    pub(super) async fn empty_forever(self: Arc<Self>) {
        let mut clock = Steady::new(EVERY);
        loop {
            // Woken or not: it is looked again. The first to wake it is whoever says that something may be changed.
            let _ = tokio::time::timeout(EVERY, self.trash_wake.notified()).await;
            if self.is_stopped() {
                return;
            }
            let (now, days) = (clock.look(), self.settled_days());
            // What may not be changed is not emptied either.
            if self.is_read_only() {
                continue;
            }
            match now.zip(days) {
                Some((now, days)) => self.empty_trash(now, days).await,
                None => self.delete_until(Time::default()).await,
            }
        }
    }

    /// Deletes what somebody wants gone, and what has been in the trash for so many days at this time. What cannot be deleted
    /// stays for the next time.
    async fn empty_trash(&self, at: Time, days: u16) {
        let until = Time { secs: at.secs - i64::from(days) * DAY, ..at };
        self.delete_until(until).await;
    }

    /// Deletes what somebody wants gone, and what was deleted before this.
    async fn delete_until(&self, until: Time) {
        let mut after = None;
        while !self.is_stopped() {
            let page = match self.meta.oldest_trash(until, after, AT_ONCE).await {
                Ok(page) if page.is_empty() => return,
                Ok(page) => page,
                Err(why) => return tracing::error!("the trash is not emptied for now: {why}"),
            };
            for one in page {
                after = Some((one.when, one.attr.ino));
                if let Err(why) = self.burn(&one).await {
                    let (name, ino) = (String::from_utf8_lossy(&one.name), one.attr.ino.0);
                    tracing::error!("{name:?} ({ino}) stays in the trash for now: {why}");
                }
            }
        }
    }

    /// Deletes one thing in the trash, with all that is in it, and all in the trash that was.
    async fn burn(&self, one: &Trashed) -> FsResult<()> {
        let top = Burning::new(&one.attr, None);
        if top.kind != Kind::Directory {
            return self.burnt(&top).await;
        }
        if !self.take(top.ino).await? {
            return Ok(());
        }
        let mut path = vec![top];
        while let Some(at) = path.last_mut() {
            if self.is_stopped() {
                return Ok(());
            }
            if !self.is_there(at).await? {
                path.pop();
                continue;
            }
            let inside = self.some_in(at).await?;
            if inside.is_empty() {
                if std::mem::take(&mut at.found) {
                    // Folders were passed over, and something may have come meanwhile.
                    at.from = (None, 0);
                    continue;
                }
                self.burnt(at).await?;
                path.pop();
                continue;
            }
            at.found = true;
            let (folders, others): (Vec<_>, Vec<_>) =
                inside.into_iter().partition(|one| one.kind == Kind::Directory);
            for other in &others {
                self.burnt(other).await?;
            }
            // One that has a name is looked for by it when its turn comes.
            if let Some(folder) = folders.into_iter().next()
                && (folder.named.is_some() || self.take(folder.ino).await?)
            {
                path.push(folder);
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// From now on nobody has this directory back, which is in the trash itself. `false`: somebody has already.
    async fn take(&self, dir: Ino) -> FsResult<bool> {
        self.meta.give_up_trash(&[dir]).await?;
        match self.meta.getattr(dir).await {
            // What has come back has a name.
            Ok(attr) => Ok(attr.nlink == 0),
            Err(MetaError::NotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Is it where it was found? Whoever sits in it may have moved it out of what is deleted.
    async fn is_there(&self, dir: &Burning) -> FsResult<bool> {
        let Some((above, name)) = &dir.named else { return Ok(true) };
        match self.meta.lookup(*above, name).await {
            Ok(attr) => Ok(attr.ino == dir.ino),
            Err(MetaError::NotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Some of what is in a directory, or in the trash and was, behind what was looked at before: what was deleted since then would
    /// have to be passed over again and again.
    async fn some_in(&self, dir: &mut Burning) -> FsResult<Vec<Burning>> {
        let (ino, (after, cookie)) = (dir.ino, dir.from);
        let was = self.meta.trash_of(ino, after, AT_ONCE).await?;
        let entries = self.meta.readdir(ino, cookie, AT_ONCE).await?;
        let after = was.last().map_or(after, |last| Some(last.attr.ino));
        dir.from = (after, entries.last().map_or(cookie, |last| last.cookie));
        let mut all: Vec<Burning> = was.iter().map(|one| Burning::new(&one.attr, None)).collect();
        let entries = entries.into_iter().filter(|entry| !matches!(&entry.name[..], b"." | b".."));
        all.extend(entries.map(|entry| Burning::new(&entry.attr, Some((ino, entry.name)))));
        Ok(all)
    }

    /// Deletes one thing that nothing is in.
    async fn burnt(&self, one: &Burning) -> FsResult<()> {
        let gone = match (&one.named, one.kind) {
            (None, _) => self.meta.delete_trash(one.ino).await,
            (Some((dir, name)), Kind::Directory) => self.meta.rmdir(*dir, name).await,
            (Some((dir, name)), _) => self.meta.unlink(*dir, name).await,
        };
        match gone {
            Ok(gone) => self.unlinked(gone),
            // Somebody was faster, or has put something else there.
            Err(MetaError::NotFound | MetaError::IsDirectory | MetaError::NotDirectory) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Something that is being deleted.
struct Burning {
    ino: Ino,
    kind: Kind,
    /// Its directory and its name there; `None`: it is in the trash itself.
    named: Option<(Ino, Vec<u8>)>,
    /// What was in it, and what is, was looked at up to here.
    from: (Option<Ino>, u64),
    /// Something was found on the way there.
    found: bool,
}

impl Burning {
    fn new(attr: &Attr, named: Option<(Ino, Vec<u8>)>) -> Self {
        Self { ino: attr.ino, kind: attr.kind, named, from: (None, 0), found: false }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use meta::{Caller, Keeper, MetaStore, NewNode, ROOT, Replaces, VolumeInfo};
    use proto::id::{ClusterId, VolumeId};
    use proto::scheme::Scheme;

    use super::*;
    use crate::data::{Data, DataSettings, Housekeeping};
    use crate::filesystem::now;
    use crate::testing::MemoryBlobs;

    const CALLER: Caller = Caller { uid: 7, gid: 7, umask: 0 };

    fn started() -> (Arc<Filesystem>, Arc<meta::Session>) {
        started_where_the_house_is_kept(Housekeeping::Here)
    }

    fn started_where_the_house_is_kept(
        housekeeping: Housekeeping,
    ) -> (Arc<Filesystem>, Arc<meta::Session>) {
        let info = VolumeInfo {
            name: "v".to_owned(),
            id: VolumeId(1),
            cluster: ClusterId::random(),
            scheme: Scheme::erasure(4, 2).unwrap(),
            rules: proxy::VolumeRules::default(),
        };
        let meta = meta::in_memory(&info, (0, 0, 0o755));
        let blobs = Arc::new(MemoryBlobs::new());
        let settings = DataSettings { housekeeping, ..DataSettings::default() };
        let data = Data::start(meta.clone(), blobs.clone(), settings);
        (Filesystem::start(meta.clone(), data, blobs), meta)
    }

    async fn make(fs: &Filesystem, parent: Ino, name: &str, node: NewNode) -> Ino {
        let made = fs.create(CALLER, parent, name.as_bytes(), 0o755, node).await.unwrap().ino;
        fs.forget(made, 1);
        made
    }

    async fn trash(meta: &meta::Session) -> BTreeSet<Ino> {
        let all = meta.newest_trash(None, 1000).await.unwrap();
        all.into_iter().map(|one| one.attr.ino).collect()
    }

    async fn reaped(fs: &Filesystem, meta: &meta::Session, inodes: u64) {
        while meta.usage().await.unwrap().inodes > inodes || !fs.dead.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_goes_with_all_in_it_and_what_is_not_stays() {
        let (fs, meta) = started();
        let dir = make(&fs, ROOT, "dir", NewNode::Directory).await;
        let sub = make(&fs, dir, "sub", NewNode::Directory).await;
        for number in 0..200 {
            make(&fs, sub, &format!("f{number}"), NewNode::File).await;
        }
        // More folders than are looked at in one step.
        for number in 0..70 {
            let inner = make(&fs, sub, &format!("d{number}"), NewNode::Directory).await;
            make(&fs, inner, "f", NewNode::File).await;
        }
        let was = make(&fs, sub, "was there", NewNode::File).await;
        fs.discard(7, (sub, b"was there"), was).await.unwrap();
        fs.discard(7, (ROOT, b"dir"), dir).await.unwrap();
        assert_eq!(trash(&meta).await, [was, dir].into());
        let days = |days: i64| Time { secs: now().secs + days * DAY, ..now() };
        for (keeps, until) in [(0, 29), (3, 2)] {
            fs.set_trash_days(keeps).await.unwrap();
            fs.empty_trash(days(until), fs.kept_days()).await;
            assert_eq!(trash(&meta).await, [was, dir].into(), "{keeps} {until}");
        }
        fs.empty_trash(days(4), fs.kept_days()).await;
        assert_eq!(trash(&meta).await, [].into());
        reaped(&fs, &meta, 1).await;
        assert!(meta.opened_on().check().await.unwrap().is_clean());
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_a_door_has_taken_away_is_not_dead_for_the_kernel() {
        let (fs, _) = started();
        fs.set_trash_days(5).await.unwrap();
        for (name, by_a_door) in [("one", true), ("other", false)] {
            let dir = make(&fs, ROOT, name, NewNode::Directory).await;
            fs.lookup(ROOT, name.as_bytes()).await.unwrap().unwrap();
            match by_a_door {
                true => {
                    let fate = Fate::Trash { by: 7 };
                    let removed = fs.remove((ROOT, name.as_bytes()), Kind::Directory, fate).await;
                    assert_eq!(removed.unwrap().ino, dir);
                }
                false => fs.rmdir(7, ROOT, name.as_bytes()).await.unwrap(),
            }
            fs.revived(&[dir]);
            assert_eq!(fs.generation(dir), u64::from(!by_a_door), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_come_back_meanwhile_is_not_deleted() {
        let (fs, meta) = started();
        let dir = make(&fs, ROOT, "dir", NewNode::Directory).await;
        let sub = make(&fs, dir, "sub", NewNode::Directory).await;
        let file = make(&fs, sub, "file", NewNode::File).await;
        fs.discard(7, (ROOT, b"dir"), dir).await.unwrap();
        // It was found to be old, and somebody has it back before its turn comes.
        let found = meta.trashed(dir).await.unwrap();
        meta.restore(dir, (ROOT, b"back"), false, 7).await.unwrap();
        fs.burn(&found).await.unwrap();
        assert_eq!(meta.lookup(ROOT, b"back").await.unwrap().ino, dir);
        assert_eq!(meta.lookup(sub, b"file").await.unwrap().ino, file);
        assert!(meta.opened_on().check().await.unwrap().is_clean());
    }

    #[tokio::test(start_paused = true)]
    async fn who_shortens_the_time_by_mistake_can_take_that_back() {
        let (fs, meta) = started();
        assert_eq!(fs.settled_days(), Some(DAYS));
        for (days, here) in [(3, true), (2, false)] {
            match here {
                true => fs.set_trash_days(days).await.unwrap(),
                // By a session of a metad: who keeps the house is told that something has changed.
                false => {
                    meta.set_trash_days(days).await.unwrap();
                    fs.trash_changed();
                }
            }
            assert_eq!(fs.settled_days(), None);
            tokio::time::advance(EVERY - Duration::from_secs(1)).await;
            assert_eq!(fs.settled_days(), None);
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(fs.settled_days(), Some(days));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_wants_gone_goes_by_itself_and_after_a_restart() {
        let (fs, meta) = started();
        fs.set_trash_days(5).await.unwrap();
        make(&fs, ROOT, "one", NewNode::File).await;
        let other = make(&fs, ROOT, "other", NewNode::File).await;
        for name in ["one", "other"] {
            fs.unlink(7, ROOT, name.as_bytes()).await.unwrap();
        }
        assert_eq!(trash(&meta).await.len(), 2);
        // As a crash would leave it: given up, and nobody was woken.
        meta.give_up_trash(&[other]).await.unwrap();
        assert_eq!(trash(&meta).await.len(), 1);
        assert_eq!(meta.usage().await.unwrap().inodes, 3);
        fs.reads_only(true);
        tokio::task::yield_now().await;
        assert_eq!(meta.usage().await.unwrap().inodes, 3, "not while it is for reading only");
        fs.reads_only(false);
        reaped(&fs, &meta, 2).await;
        assert_eq!(trash(&meta).await.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_no_house_empties_no_trash_and_reaps_what_was_unlinked_here() {
        let (fs, meta) = started_where_the_house_is_kept(Housekeeping::Elsewhere);
        let given_up = make(&fs, ROOT, "given up", NewNode::File).await;
        make(&fs, ROOT, "unlinked", NewNode::File).await;
        fs.discard(7, (ROOT, b"given up"), given_up).await.unwrap();
        fs.give_up_trash(&[given_up]).await.unwrap();
        fs.unlink(7, ROOT, b"unlinked").await.unwrap();
        reaped(&fs, &meta, 2).await;
        tokio::time::sleep(2 * EVERY).await;
        assert_eq!(meta.usage().await.unwrap().inodes, 2, "it is another's to delete");
        fs.delete_until(Time::default()).await;
        reaped(&fs, &meta, 1).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_replaced_goes_there_whoever_replaces_it() {
        let (fs, meta) = started();
        fs.set_trash_days(5).await.unwrap();
        let old = make(&fs, ROOT, "name", NewNode::File).await;
        make(&fs, ROOT, "new", NewNode::File).await;
        fs.rename(8, (ROOT, b"new"), (ROOT, b"name"), meta::RenameMode::Replace).await.unwrap();
        let new = meta.lookup(ROOT, b"name").await.unwrap().ino;
        let held = fs.create_nameless(CALLER, ROOT, 0o644).await.unwrap();
        fs.place(&held, ROOT, b"name", (Replaces::Only(new), 9)).await.unwrap();
        let all = meta.newest_trash(None, 10).await.unwrap();
        let by: Vec<_> = all.iter().map(|one| (one.attr.ino, one.by, &one.name[..])).collect();
        assert_eq!(
            by.iter().copied().collect::<BTreeSet<_>>(),
            [(old, 8, &b"name"[..]), (new, 9, b"name")].into()
        );
        // What has a name for a moment only is nobody's to have back.
        make(&fs, ROOT, ".ashlar-x", NewNode::File).await;
        fs.unlink(7, ROOT, b".ashlar-x").await.unwrap();
        assert_eq!(trash(&meta).await.len(), 2);
    }
}
