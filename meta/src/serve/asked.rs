//! What a metad does with an op: one call of the session's [`MetaStore`]. Decides nothing itself.

use std::sync::Arc;

use bytes::Bytes;
use proto::guard::caught_in;

use crate::record::window::Outcome;
use crate::store::{MetaStore, Unlinked};
use crate::wire::accounts::{AccountOp, secret_to_wire};
use crate::wire::answer::{Answer, Answered};
use crate::wire::content::ContentOp;
use crate::wire::look::Look;
use crate::wire::names::{AttrOp, NameOp};
use crate::wire::op::Op;
use crate::wire::trash::TrashOp;
use crate::wire::{bad, owned};

/// Does it, and answers also for a panic.
pub(super) async fn answer(meta: &dyn MetaStore, op: Op) -> Answered {
    let answered = caught_in("an operation of a session", done(meta, op)).await;
    answered.unwrap_or_else(|panicked| Err(panicked.into()))
}

/// Answers what was done before, and came to this: attributes as they are now.
pub(super) async fn again(meta: &dyn MetaStore, op: Op, outcome: Outcome) -> Answered {
    match (outcome, op) {
        // The same whoever asks for it, and however often.
        (Outcome::Done, op @ Op::Accounts(AccountOp::KeepSigning(_))) => answer(meta, op).await,
        (Outcome::Done, _) => Ok(Answer::Done),
        (Outcome::Attr(ino), _) => meta.getattr(ino).await.map(Answer::Attr),
        (Outcome::Unlinked(unlinked), _) => Ok(Answer::Unlinked(unlinked)),
    }
}

async fn done(meta: &dyn MetaStore, op: Op) -> Answered {
    match op {
        Op::Look(op) => look(meta, op).await,
        Op::Names(op) => names(meta, op).await,
        Op::Attrs(op) => attrs(meta, op).await,
        Op::Content(op) => content(meta, op).await,
        Op::Trash(op) => trash(meta, op).await,
        Op::Accounts(op) => accounts(meta, op).await,
        Op::SetMinSpare(min_spare) => {
            meta.set_min_spare(min_spare).await?;
            Ok(Answer::Volume(meta.volume(), meta.trash_days()))
        }
        Op::SetTrashDays(days) => {
            meta.set_trash_days(days).await?;
            Ok(Answer::Volume(meta.volume(), meta.trash_days()))
        }
        Op::Sync => meta.sync().await.map(|()| Answer::Done),
        Op::Close => meta.close_session().await.map(|()| Answer::Done),
    }
}

async fn look(meta: &dyn MetaStore, op: Look) -> Answered {
    Ok(match op {
        Look::Lookup(parent, name) => Answer::Attr(meta.lookup(parent, &name).await?),
        Look::At { parent, names, attribute } => {
            let names: Vec<Vec<u8>> = names.into_iter().map(owned).collect();
            Answer::Looks(meta.look(parent, &names, &attribute).await?)
        }
        Look::Readdir { ino, cookie, limit } => {
            Answer::Entries(meta.readdir(ino, cookie, limit).await?)
        }
        Look::Getattr(ino) => Answer::Attr(meta.getattr(ino).await?),
        Look::Readlink(ino) => Answer::Bytes(Some(meta.readlink(ino).await?.into())),
        Look::Getxattr(ino, name) => Answer::Bytes(Some(meta.getxattr(ino, &name).await?.into())),
        Look::Listxattr(ino) => Answer::Names(meta.listxattr(ino).await?),
        Look::Extents { ino, range, limit } => {
            Answer::Extents(meta.extents(ino, range, limit).await?)
        }
        Look::InlineBytes(id) => {
            let bytes: Option<Arc<[u8]>> = meta.inline_bytes(id).await?;
            Answer::Bytes(bytes.map(Bytes::from_owner))
        }
        Look::Usage => Answer::Usage(meta.usage().await?, meta.disk_bytes()),
    })
}

async fn names(meta: &dyn MetaStore, op: NameOp) -> Answered {
    let unlinked = |unlinked: Unlinked| Answer::Unlinked(Some(unlinked));
    Ok(match op {
        NameOp::Create { caller, parent, name, mode, node } => {
            Answer::Attr(meta.create(caller, parent, &name, mode, node).await?)
        }
        NameOp::CreateNameless { caller, parent, mode } => {
            Answer::Attr(meta.create_nameless(caller, parent, mode).await?)
        }
        NameOp::Place { ino, parent, name, replaces, fate } => {
            Answer::Unlinked(meta.place(ino, parent, &name, replaces, fate).await?)
        }
        NameOp::Link { ino, parent, name } => Answer::Attr(meta.link(ino, parent, &name).await?),
        NameOp::Unlink(parent, name) => unlinked(meta.unlink(parent, &name).await?),
        NameOp::Rmdir(parent, name) => unlinked(meta.rmdir(parent, &name).await?),
        NameOp::Rename { from, to, mode, fate } => {
            let (from, to) = ((from.0, &from.1[..]), (to.0, &to.1[..]));
            Answer::Unlinked(meta.rename(from, to, mode, fate).await?)
        }
        NameOp::Reap(inos) => {
            meta.reap(&inos).await?;
            Answer::Done
        }
    })
}

async fn attrs(meta: &dyn MetaStore, op: AttrOp) -> Answered {
    match op {
        AttrOp::Setattr(ino, set) => return Ok(Answer::Attr(meta.setattr(ino, set).await?)),
        AttrOp::Accessed(reads) => meta.accessed(&reads).await?,
        AttrOp::ClearPrivileges { ino, outsider } => meta.clear_privileges(ino, outsider).await?,
        AttrOp::Setxattr { ino, name, value, must } => {
            meta.setxattr(ino, &name, &value, must).await?;
        }
        AttrOp::Removexattr(ino, name) => meta.removexattr(ino, &name).await?,
    }
    Ok(Answer::Done)
}

async fn content(meta: &dyn MetaStore, op: ContentOp) -> Answered {
    let attr = match op {
        ContentOp::Commit { blobs, inline, files } => {
            match (inline, &blobs[..]) {
                (None, blobs) => meta.commit(blobs, &files).await?,
                (Some(bytes), [id]) => meta.commit_inline(*id, &bytes, &files).await?,
                (Some(_), _) => return Err(bad("the bytes of one blob, and not one blob")),
            }
            return Ok(Answer::Done);
        }
        ContentOp::AdoptGarbage(blobs) => {
            meta.adopt_garbage(&blobs).await?;
            return Ok(Answer::Done);
        }
        ContentOp::Truncate { ino, size } => meta.truncate(ino, size).await?,
        ContentOp::ClearRange { ino, range, allocate, grow } => {
            meta.clear_range(ino, range, allocate, grow).await?
        }
        ContentOp::Allocate { ino, range, grow } => meta.allocate(ino, range, grow).await?,
        ContentOp::CloneRange { from, range, to, to_offset } => {
            meta.clone_range(from, range, to, to_offset).await?
        }
    };
    Ok(Answer::Attr(attr))
}

async fn trash(meta: &dyn MetaStore, op: TrashOp) -> Answered {
    Ok(match op {
        TrashOp::Discard { parent, name, takes, by } => {
            Answer::Unlinked(Some(meta.discard(parent, &name, takes, by).await?))
        }
        TrashOp::Trashed(ino) => Answer::Trash(vec![meta.trashed(ino).await?]),
        TrashOp::Newest { before, limit } => Answer::Trash(meta.newest_trash(before, limit).await?),
        TrashOp::Oldest { until, after, limit } => {
            Answer::Trash(meta.oldest_trash(until, after, limit).await?)
        }
        TrashOp::Of { dir, after, limit } => Answer::Trash(meta.trash_of(dir, after, limit).await?),
        TrashOp::Above(dirs) => Answer::Places(meta.above(&dirs).await?),
        TrashOp::Restore { ino, to, replaces, by } => {
            Answer::Unlinked(meta.restore(ino, (to.0, &to.1), replaces, by).await?)
        }
        TrashOp::GiveUp(inos) => {
            meta.give_up_trash(&inos).await?;
            Answer::Done
        }
        TrashOp::Delete(ino) => Answer::Unlinked(Some(meta.delete_trash(ino).await?)),
    })
}

async fn accounts(meta: &dyn MetaStore, op: AccountOp) -> Answered {
    match op {
        AccountOp::Find(kind, name) => {
            let found = meta.account(kind, &name).await?;
            return Ok(Answer::Accounts(found.into_iter().collect()));
        }
        AccountOp::List { kind, after, limit } => {
            let page = meta.accounts(kind, after.as_deref(), limit).await?;
            return Ok(Answer::Accounts(page));
        }
        AccountOp::HasUsers => return Ok(Answer::Yes(meta.has_users().await?)),
        AccountOp::Signing => {
            let secret = meta.signing_secret().await?;
            return Ok(Answer::Bytes(secret.as_ref().map(secret_to_wire)));
        }
        AccountOp::KeepSigning(bytes) => {
            let secret = meta.keep_signing_secret(&bytes.0).await?;
            return Ok(Answer::Bytes(Some(secret_to_wire(&secret))));
        }
        AccountOp::Add(account) => meta.add_account(&account).await?,
        AccountOp::Change(name, change) => meta.change_user(&name, &change).await?,
        AccountOp::Remove(kind, name) => meta.remove_account(kind, &name).await?,
    }
    Ok(Answer::Done)
}
