//! Accounts: who may come in by a door.
//!
//! Invariant: each pass has its user. It is refused where there is none, and goes with him.

use std::ops::ControlFlow;

use crate::account::{Account, AccountKind, Secret, UserChange};
use crate::key;
use crate::key::Key;
use crate::store::MetaError;
use crate::txn::{Txn, damaged};

/// Bytes that links are signed with.
pub(crate) const SIGNING_LEN: usize = 32;

fn decode(key: &Key, value: &[u8]) -> Result<Account, MetaError> {
    key::account::parse(key)
        .and_then(|(kind, name)| Account::decode(kind, name, value))
        .ok_or_else(|| damaged("an account"))
}

/// An account, if it is there.
pub(crate) fn find(
    txn: &Txn<'_>,
    kind: AccountKind,
    name: &str,
) -> Result<Option<Account>, MetaError> {
    // Whoever comes may call himself as he likes.
    let Some(key) = key::account::of(kind).with_any_bytes(name.as_bytes()) else { return Ok(None) };
    txn.get(&key)?.map(|value| decode(&key, &value)).transpose()
}

/// Accounts of a kind in the order of their names, those behind `after`. A damaged one is passed over, and logged.
pub(crate) fn list(
    txn: &Txn<'_>,
    kind: AccountKind,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Account>, MetaError> {
    let mut found = Vec::new();
    let all = key::account::of(kind);
    let start = match after {
        Some(name) => {
            all.with_any_bytes(name.as_bytes()).map_or(all.after_prefix(), Key::successor)
        }
        None => all,
    };
    if limit == 0 {
        return Ok(found);
    }
    let _ = txn.scan(start..all.after_prefix(), &mut |key, value| {
        match decode(key, value) {
            Ok(account) => found.push(account),
            Err(why) => tracing::error!("{key:?}: {why} (ashlar fsck --repair removes it)"),
        }
        Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(found)
}

/// Has there ever been a user? What links are signed with comes with the first one, and stays: a volume whose last user is gone,
/// or damaged beyond repair, is not open to everybody again.
pub(crate) fn any_user(txn: &Txn<'_>) -> Result<bool, MetaError> {
    let all = key::account::of(AccountKind::User);
    let mut found = txn.get(&key::account::signing())?.is_some();
    let _ = txn.scan(all..all.after_prefix(), &mut |_, _| {
        found = true;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// Adds an account.
pub(crate) fn add(txn: &mut Txn<'_>, account: &Account) -> Result<(), MetaError> {
    account.check().map_err(MetaError::Invalid)?;
    let key = key::account::key(account.kind(), account.name());
    if txn.get(&key)?.is_some() {
        return Err(MetaError::Exists);
    }
    if let Account::Pass(pass) = account
        && txn.get(&key::account::key(AccountKind::User, &pass.user))?.is_none()
    {
        return Err(MetaError::NotFound);
    }
    txn.put(key, &account.encode());
    Ok(())
}

/// Changes a user.
pub(crate) fn change(txn: &mut Txn<'_>, name: &str, change: &UserChange) -> Result<(), MetaError> {
    let Some(Account::User(mut user)) = find(txn, AccountKind::User, name)? else {
        return Err(MetaError::NotFound);
    };
    match change {
        UserChange::Password(hash) => user.password = hash.clone(),
        UserChange::Disabled(disabled) => user.disabled = *disabled,
    }
    let account = Account::User(user);
    account.check().map_err(MetaError::Invalid)?;
    txn.put(key::account::key(AccountKind::User, name), &account.encode());
    Ok(())
}

/// Takes an account away, and with a user all his passes.
pub(crate) fn remove(txn: &mut Txn<'_>, kind: AccountKind, name: &str) -> Result<(), MetaError> {
    let key = key::account::of(kind).with_any_bytes(name.as_bytes()).ok_or(MetaError::NotFound)?;
    if txn.get(&key)?.is_none() {
        return Err(MetaError::NotFound);
    }
    txn.remove(key);
    if kind == AccountKind::User {
        for kind in AccountKind::PASSES {
            for pass in list(txn, kind, None, usize::MAX)? {
                if matches!(&pass, Account::Pass(pass) if pass.user == name) {
                    txn.remove(key::account::key(kind, pass.name()));
                }
            }
        }
    }
    Ok(())
}

/// What links are signed with, if any ever was.
pub(crate) fn signing(txn: &Txn<'_>) -> Result<Option<Secret>, MetaError> {
    match txn.get(&key::account::signing())? {
        Some(kept) if kept.len() == SIGNING_LEN => Ok(Some(Secret(kept.to_vec()))),
        Some(_) => Err(damaged("what links are signed with")),
        None => Ok(None),
    }
}

/// The same, which is these bytes from now on where there was nothing.
pub(crate) fn keep_signing(txn: &mut Txn<'_>, bytes: &[u8]) -> Result<Secret, MetaError> {
    if bytes.len() != SIGNING_LEN {
        return Err(MetaError::Invalid("links are signed with 32 bytes"));
    }
    if let Some(kept) = signing(txn)? {
        return Ok(kept);
    }
    txn.put(key::account::signing(), bytes);
    Ok(Secret(bytes.to_vec()))
}
