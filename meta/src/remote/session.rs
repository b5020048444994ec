//! [`RemoteSession`]: a session on a volume that a metad leads.
//!
//! Each method is one op that metad does; nothing is kept here but what the volume is, which each beat says anew, and how many
//! bytes metadata take.
//! What keeps house is done where the volume is led: here there are no orphans, no garbage, no blobs to look at, and
//! nothing of the kind can be changed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use proto::id::{BlobId, SessionId};
use proto::limits::{MAX_ENTRIES, MAX_LOOKS};
use proto::part_store::Issuer;
use tokio::sync::watch;

use super::connection::Known;
use super::link::{Link, RemoteError, Target};
use crate::account::{Account, AccountKind, Secret, UserChange};
use crate::rules::extent;
use crate::store::{
    Above, Attr, BlobRecord, Caller, DirEntry, Extent, ExtentPage, Fate, FileUpdate, Ino, Looked,
    MetaError, MetaStore, NewNode, Relocation, RenameMode, Replaces, SetAttr, Takes, Time, Trashed,
    Unlinked, Usage, VolumeInfo,
};
use crate::wire::accounts::{AccountOp, secret_from_wire};
use crate::wire::answer::{Answer, senseless};
use crate::wire::content::ContentOp;
use crate::wire::look::Look;
use crate::wire::names::{AttrOp, NameOp};
use crate::wire::op::Op;
use crate::wire::trash::TrashOp;
use crate::wire::values::volume_from_wire;
use crate::wire::{bad, owned};

/// A session on a volume that a metad leads. One that is dropped without [`MetaStore::close_session`] is dead once metad
/// has not heard from it for a while.
pub struct RemoteSession {
    link: Link,
    id: SessionId,
    /// Under whose authority blobs of the volume are put.
    issuer: watch::Sender<Option<Issuer>>,
    volume: watch::Sender<Known>,
    /// Bytes of disk that metadata took when that was last asked.
    metadata: AtomicU64,
}

/// An answer to another question.
fn unexpected<T>() -> Result<T, MetaError> {
    Err(senseless(&bad("it answers another question")))
}

fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// What a name, or something in the trash, was: it was something.
fn some(unlinked: Option<Unlinked>) -> Result<Unlinked, MetaError> {
    unlinked.map_or_else(unexpected, Ok)
}

impl RemoteSession {
    /// Opens a new session. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(target: Target) -> Result<Self, RemoteError> {
        let name = target.volume.clone();
        let known = watch::Sender::new(None);
        let issuer = watch::Sender::new(None);
        let (link, welcome) = Link::open(target, known.clone(), issuer.clone()).await?;
        let volume = welcome.volume.map_or_else(unexpected, volume_from_wire);
        let refused = |why: MetaError| RemoteError::Refused { volume: name, why: why.to_string() };
        known.send_replace(Some(volume.map_err(refused)?));
        let (id, metadata) = (SessionId(welcome.session), AtomicU64::new(0));
        Ok(Self { link, id, issuer, volume: known, metadata })
    }

    /// Tells what the volume is whenever somebody has changed that: soon after, and as long as the session lasts. Must be called
    /// within a tokio runtime.
    pub fn tell_changes(&self, tell: impl Fn(VolumeInfo) + Send + 'static) {
        let mut changes = self.volume.subscribe();
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let known = changes.borrow_and_update().clone();
                known.into_iter().for_each(|(info, _)| tell(info));
            }
        });
    }

    /// What the volume is.
    fn known(&self) -> (VolumeInfo, u16) {
        self.volume.borrow().clone().expect("the welcome has said it")
    }

    /// Tells under whose authority blobs of the volume are put, since slots refuse all others: now, and whenever somebody else leads
    /// the volume, as long as the session lasts. Where they ask for none it is not told. Must be called within a tokio runtime.
    pub fn tell_issuer(&self, tell: impl Fn(Issuer) + Send + 'static) {
        let mut issuers = self.issuer.subscribe();
        let now = *issuers.borrow_and_update();
        now.into_iter().for_each(&tell);
        tokio::spawn(async move {
            while issuers.changed().await.is_ok() {
                let next = *issuers.borrow_and_update();
                next.into_iter().for_each(&tell);
            }
        });
    }

    async fn done(&self, op: Op) -> Result<(), MetaError> {
        match self.link.ask(&op).await? {
            Answer::Done => Ok(()),
            _ => unexpected(),
        }
    }

    async fn attr(&self, op: Op) -> Result<Attr, MetaError> {
        match self.link.ask(&op).await? {
            Answer::Attr(attr) => Ok(attr),
            _ => unexpected(),
        }
    }

    async fn unlinked(&self, op: Op) -> Result<Option<Unlinked>, MetaError> {
        match self.link.ask(&op).await? {
            Answer::Unlinked(unlinked) => Ok(unlinked),
            _ => unexpected(),
        }
    }

    async fn maybe_bytes(&self, op: Op) -> Result<Option<Bytes>, MetaError> {
        match self.link.ask(&op).await? {
            Answer::Bytes(bytes) => Ok(bytes),
            _ => unexpected(),
        }
    }

    async fn bytes(&self, look: Look) -> Result<Vec<u8>, MetaError> {
        self.maybe_bytes(Op::Look(look)).await?.map_or_else(unexpected, |bytes| Ok(owned(bytes)))
    }

    async fn trash(&self, op: TrashOp) -> Result<Vec<Trashed>, MetaError> {
        match self.link.ask(&Op::Trash(op)).await? {
            Answer::Trash(trashed) => Ok(trashed),
            _ => unexpected(),
        }
    }

    async fn some_accounts(&self, op: AccountOp) -> Result<Vec<Account>, MetaError> {
        match self.link.ask(&Op::Accounts(op)).await? {
            Answer::Accounts(accounts) => Ok(accounts),
            _ => unexpected(),
        }
    }

    async fn set_volume(&self, op: Op) -> Result<(), MetaError> {
        match self.link.ask(&op).await? {
            Answer::Volume(info, trash_days) => {
                self.volume.send_replace(Some((info, trash_days)));
                Ok(())
            }
            _ => unexpected(),
        }
    }
}

/// What is kept in order where the volume is led, and nowhere else.
fn keepers_alone<T>() -> Result<T, MetaError> {
    Err(MetaError::NotSupported)
}

#[async_trait]
impl MetaStore for RemoteSession {
    fn volume(&self) -> VolumeInfo {
        self.known().0
    }

    async fn set_min_spare(&self, min_spare: u8) -> Result<(), MetaError> {
        self.set_volume(Op::SetMinSpare(min_spare)).await
    }

    fn trash_days(&self) -> u16 {
        self.known().1
    }

    async fn set_trash_days(&self, days: u16) -> Result<(), MetaError> {
        self.set_volume(Op::SetTrashDays(days)).await
    }

    fn session(&self) -> SessionId {
        self.id
    }

    async fn usage(&self) -> Result<Usage, MetaError> {
        match self.link.ask(&Op::Look(Look::Usage)).await? {
            Answer::Usage(usage, metadata) => {
                self.metadata.store(metadata, Ordering::Relaxed);
                Ok(usage)
            }
            _ => unexpected(),
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.metadata.load(Ordering::Relaxed)
    }

    async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, MetaError> {
        self.attr(Op::Look(Look::Lookup(parent, copied(name)))).await
    }

    async fn look(
        &self,
        parent: Ino,
        names: &[Vec<u8>],
        attribute: &[u8],
    ) -> Result<Vec<Option<Looked>>, MetaError> {
        let (mut found, attribute) = (Vec::with_capacity(names.len()), copied(attribute));
        for some in names.chunks(MAX_LOOKS) {
            let names = some.iter().map(|name| copied(name)).collect();
            let look = Look::At { parent, names, attribute: attribute.clone() };
            match self.link.ask(&Op::Look(look)).await? {
                Answer::Looks(looked) if looked.len() == some.len() => found.extend(looked),
                _ => return unexpected(),
            }
        }
        Ok(found)
    }

    async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        node: NewNode,
    ) -> Result<Attr, MetaError> {
        let name = copied(name);
        self.attr(Op::Names(NameOp::Create { caller, parent, name, mode, node })).await
    }

    async fn create_nameless(
        &self,
        caller: Caller,
        parent: Ino,
        mode: u32,
    ) -> Result<Attr, MetaError> {
        self.attr(Op::Names(NameOp::CreateNameless { caller, parent, mode })).await
    }

    async fn place(
        &self,
        ino: Ino,
        parent: Ino,
        name: &[u8],
        replaces: Replaces,
        fate: Fate,
    ) -> Result<Option<Unlinked>, MetaError> {
        let name = copied(name);
        self.unlinked(Op::Names(NameOp::Place { ino, parent, name, replaces, fate })).await
    }

    async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, MetaError> {
        self.attr(Op::Names(NameOp::Link { ino, parent, name: copied(name) })).await
    }

    async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<Unlinked, MetaError> {
        some(self.unlinked(Op::Names(NameOp::Unlink(parent, copied(name)))).await?)
    }

    async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<Unlinked, MetaError> {
        some(self.unlinked(Op::Names(NameOp::Rmdir(parent, copied(name)))).await?)
    }

    async fn rename(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        fate: Fate,
    ) -> Result<Option<Unlinked>, MetaError> {
        let (from, to) = ((from.0, copied(from.1)), (to.0, copied(to.1)));
        self.unlinked(Op::Names(NameOp::Rename { from, to, mode, fate })).await
    }

    async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, MetaError> {
        self.bytes(Look::Readlink(ino)).await
    }

    async fn readdir(
        &self,
        ino: Ino,
        mut cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirEntry>, MetaError> {
        let mut found = Vec::new();
        loop {
            let some = (limit - found.len()).min(MAX_ENTRIES);
            let look = Look::Readdir { ino, cookie, limit: some };
            let page = match self.link.ask(&Op::Look(look)).await? {
                Answer::Entries(page) if page.len() <= some => page,
                _ => return unexpected(),
            };
            let complete = page.len() < some;
            cookie = page.last().map_or(cookie, |entry| entry.cookie);
            found.extend(page);
            if complete || found.len() >= limit {
                return Ok(found);
            }
        }
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr, MetaError> {
        self.attr(Op::Look(Look::Getattr(ino))).await
    }

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Attr, MetaError> {
        self.attr(Op::Attrs(AttrOp::Setattr(ino, set))).await
    }

    async fn accessed(&self, reads: &[(Ino, Time)]) -> Result<(), MetaError> {
        for some in reads.chunks(MAX_ENTRIES) {
            self.done(Op::Attrs(AttrOp::Accessed(some.to_vec()))).await?;
        }
        Ok(())
    }

    async fn clear_privileges(&self, ino: Ino, outsider: bool) -> Result<(), MetaError> {
        self.done(Op::Attrs(AttrOp::ClearPrivileges { ino, outsider })).await
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, MetaError> {
        self.bytes(Look::Getxattr(ino, copied(name))).await
    }

    async fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        must: Option<bool>,
    ) -> Result<(), MetaError> {
        let (name, value) = (copied(name), copied(value));
        self.done(Op::Attrs(AttrOp::Setxattr { ino, name, value, must })).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>, MetaError> {
        match self.link.ask(&Op::Look(Look::Listxattr(ino))).await? {
            Answer::Names(names) => Ok(names),
            _ => unexpected(),
        }
    }

    async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), MetaError> {
        self.done(Op::Attrs(AttrOp::Removexattr(ino, copied(name)))).await
    }

    async fn extents(
        &self,
        ino: Ino,
        mut range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<Extent>, MetaError> {
        let mut found: Vec<Extent> = Vec::new();
        loop {
            let some = (limit - found.len()).min(MAX_ENTRIES);
            let look = Look::Extents { ino, range: range.clone(), limit: some };
            let page = match self.link.ask(&Op::Look(look)).await? {
                Answer::Extents(page) if page.len() <= some => page,
                _ => return unexpected(),
            };
            let complete = page.len() < some;
            range.start = page.last().map_or(range.start, extent::end);
            found.extend(page);
            if complete || found.len() >= limit || range.start >= range.end {
                return Ok(found);
            }
        }
    }

    async fn commit(&self, blobs: &[BlobId], files: &[FileUpdate]) -> Result<(), MetaError> {
        let (blobs, files) = (blobs.to_vec(), files.to_vec());
        self.done(Op::Content(ContentOp::Commit { blobs, inline: None, files })).await
    }

    async fn commit_inline(
        &self,
        id: BlobId,
        bytes: &[u8],
        files: &[FileUpdate],
    ) -> Result<(), MetaError> {
        let (blobs, inline, files) = (vec![id], Some(copied(bytes)), files.to_vec());
        self.done(Op::Content(ContentOp::Commit { blobs, inline, files })).await
    }

    async fn inline_bytes(&self, id: BlobId) -> Result<Option<Arc<[u8]>>, MetaError> {
        let bytes = self.maybe_bytes(Op::Look(Look::InlineBytes(id))).await?;
        Ok(bytes.map(|bytes| Arc::from(&bytes[..])))
    }

    async fn inline_blobs(
        &self,
        _after: Option<BlobId>,
        _limit: usize,
    ) -> Result<Vec<BlobId>, MetaError> {
        Ok(Vec::new())
    }

    async fn truncate(&self, ino: Ino, size: u64) -> Result<Attr, MetaError> {
        self.attr(Op::Content(ContentOp::Truncate { ino, size })).await
    }

    async fn clear_range(
        &self,
        ino: Ino,
        range: Range<u64>,
        allocate: bool,
        grow: bool,
    ) -> Result<Attr, MetaError> {
        self.attr(Op::Content(ContentOp::ClearRange { ino, range, allocate, grow })).await
    }

    async fn allocate(&self, ino: Ino, range: Range<u64>, grow: bool) -> Result<Attr, MetaError> {
        self.attr(Op::Content(ContentOp::Allocate { ino, range, grow })).await
    }

    async fn clone_range(
        &self,
        from: Ino,
        range: Range<u64>,
        to: Ino,
        to_offset: u64,
    ) -> Result<Attr, MetaError> {
        self.attr(Op::Content(ContentOp::CloneRange { from, range, to, to_offset })).await
    }

    async fn orphans(&self) -> Result<Vec<Ino>, MetaError> {
        Ok(Vec::new())
    }

    async fn reap(&self, inos: &[Ino]) -> Result<(), MetaError> {
        for some in inos.chunks(MAX_ENTRIES) {
            self.done(Op::Names(NameOp::Reap(some.to_vec()))).await?;
        }
        Ok(())
    }

    async fn garbage(
        &self,
        _after: Option<BlobId>,
        _limit: usize,
    ) -> Result<Vec<BlobId>, MetaError> {
        Ok(Vec::new())
    }

    async fn forget_blobs(&self, _ids: &[BlobId]) -> Result<(), MetaError> {
        keepers_alone()
    }

    async fn blobs(
        &self,
        _after: Option<BlobId>,
        _limit: usize,
    ) -> Result<Vec<BlobRecord>, MetaError> {
        Ok(Vec::new())
    }

    async fn references(
        &self,
        _id: BlobId,
        _after: Option<(Ino, u64)>,
        _limit: usize,
    ) -> Result<ExtentPage, MetaError> {
        keepers_alone()
    }

    async fn blob(&self, _id: BlobId) -> Result<Option<BlobRecord>, MetaError> {
        keepers_alone()
    }

    async fn adopt_garbage(&self, ids: &[BlobId]) -> Result<(), MetaError> {
        for some in ids.chunks(MAX_ENTRIES) {
            self.done(Op::Content(ContentOp::AdoptGarbage(some.to_vec()))).await?;
        }
        Ok(())
    }

    async fn relocate(&self, _blobs: &[BlobId], _moves: &[Relocation]) -> Result<(), MetaError> {
        keepers_alone()
    }

    async fn dead_sessions(&self) -> Result<Vec<SessionId>, MetaError> {
        Ok(Vec::new())
    }

    async fn forget_session(&self, _session: SessionId) -> Result<(), MetaError> {
        keepers_alone()
    }

    async fn close_session(&self) -> Result<(), MetaError> {
        match self.link.close().await? {
            Answer::Done => Ok(()),
            _ => unexpected(),
        }
    }

    async fn sync(&self) -> Result<(), MetaError> {
        self.done(Op::Sync).await
    }

    async fn discard(
        &self,
        parent: Ino,
        name: &[u8],
        takes: Takes,
        by: u32,
    ) -> Result<Unlinked, MetaError> {
        let name = copied(name);
        some(self.unlinked(Op::Trash(TrashOp::Discard { parent, name, takes, by })).await?)
    }

    async fn trashed(&self, ino: Ino) -> Result<Trashed, MetaError> {
        self.trash(TrashOp::Trashed(ino)).await?.pop().map_or_else(unexpected, Ok)
    }

    async fn newest_trash(
        &self,
        before: Option<(Time, Ino)>,
        limit: usize,
    ) -> Result<Vec<Trashed>, MetaError> {
        self.trash(TrashOp::Newest { before, limit }).await
    }

    async fn oldest_trash(
        &self,
        until: Time,
        after: Option<(Time, Ino)>,
        limit: usize,
    ) -> Result<Vec<Trashed>, MetaError> {
        self.trash(TrashOp::Oldest { until, after, limit }).await
    }

    async fn trash_of(
        &self,
        dir: Ino,
        after: Option<Ino>,
        limit: usize,
    ) -> Result<Vec<Trashed>, MetaError> {
        self.trash(TrashOp::Of { dir, after, limit }).await
    }

    async fn above(&self, dirs: &[Ino]) -> Result<BTreeMap<Ino, Above>, MetaError> {
        let mut found = BTreeMap::new();
        for some in dirs.chunks(MAX_ENTRIES) {
            match self.link.ask(&Op::Trash(TrashOp::Above(some.to_vec()))).await? {
                Answer::Places(places) => found.extend(places),
                _ => return unexpected(),
            }
        }
        Ok(found)
    }

    async fn restore(
        &self,
        ino: Ino,
        to: (Ino, &[u8]),
        replaces: bool,
        by: u32,
    ) -> Result<Option<Unlinked>, MetaError> {
        let to = (to.0, copied(to.1));
        self.unlinked(Op::Trash(TrashOp::Restore { ino, to, replaces, by })).await
    }

    async fn give_up_trash(&self, inos: &[Ino]) -> Result<(), MetaError> {
        for some in inos.chunks(MAX_ENTRIES) {
            self.done(Op::Trash(TrashOp::GiveUp(some.to_vec()))).await?;
        }
        Ok(())
    }

    async fn delete_trash(&self, ino: Ino) -> Result<Unlinked, MetaError> {
        some(self.unlinked(Op::Trash(TrashOp::Delete(ino))).await?)
    }

    async fn account(&self, kind: AccountKind, name: &str) -> Result<Option<Account>, MetaError> {
        Ok(self.some_accounts(AccountOp::Find(kind, name.to_owned())).await?.pop())
    }

    async fn accounts(
        &self,
        kind: AccountKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Account>, MetaError> {
        let after = after.map(str::to_owned);
        self.some_accounts(AccountOp::List { kind, after, limit }).await
    }

    async fn has_users(&self) -> Result<bool, MetaError> {
        match self.link.ask(&Op::Accounts(AccountOp::HasUsers)).await? {
            Answer::Yes(yes) => Ok(yes),
            _ => unexpected(),
        }
    }

    async fn add_account(&self, account: &Account) -> Result<(), MetaError> {
        self.done(Op::Accounts(AccountOp::Add(account.clone()))).await
    }

    async fn change_user(&self, name: &str, change: &UserChange) -> Result<(), MetaError> {
        self.done(Op::Accounts(AccountOp::Change(name.to_owned(), change.clone()))).await
    }

    async fn remove_account(&self, kind: AccountKind, name: &str) -> Result<(), MetaError> {
        self.done(Op::Accounts(AccountOp::Remove(kind, name.to_owned()))).await
    }

    async fn signing_secret(&self) -> Result<Option<Secret>, MetaError> {
        let secret = self.maybe_bytes(Op::Accounts(AccountOp::Signing)).await?;
        Ok(secret.map(secret_from_wire))
    }

    async fn keep_signing_secret(&self, bytes: &[u8]) -> Result<Secret, MetaError> {
        let keep = AccountOp::KeepSigning(Secret(bytes.to_vec()));
        let secret = self.maybe_bytes(Op::Accounts(keep)).await?;
        secret.map_or_else(unexpected, |secret| Ok(secret_from_wire(secret)))
    }
}
