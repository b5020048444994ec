//! Ops on accounts.

use bytes::Bytes;
use proto::rpc::metad as wire;
use proto::rpc::metad::account_op::Op as Wire;
use proto::rpc::metad::{account, change_user};

use super::{bad, limit_from_wire, limit_to_wire, owned, there};
use crate::account::{Account, AccountKind, Pass, Secret, User, UserChange};
use crate::store::MetaError;

/// One of them: a method of [`crate::store::MetaStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AccountOp {
    Find(AccountKind, String),
    List { kind: AccountKind, after: Option<String>, limit: usize },
    HasUsers,
    Add(Account),
    Change(String, UserChange),
    Remove(AccountKind, String),
    Signing,
    KeepSigning(Secret),
}

impl AccountOp {
    /// Does it only look?
    pub(crate) fn looks(&self) -> bool {
        match self {
            Self::Find(..) | Self::List { .. } | Self::HasUsers | Self::Signing => true,
            Self::Add(_) | Self::Change(..) | Self::Remove(..) | Self::KeepSigning(_) => false,
        }
    }

    pub(crate) fn to_wire(&self) -> wire::AccountOp {
        let op = match self {
            Self::Find(kind, name) => Wire::Find(name_to_wire(*kind, name)),
            Self::List { kind, after, limit } => {
                let (kind, after) = (kind_to_wire(*kind), after.clone());
                Wire::List(wire::AccountPage { kind, after, limit: limit_to_wire(*limit) })
            }
            Self::HasUsers => Wire::HasUsers(wire::Done {}),
            Self::Add(account) => Wire::Add(account_to_wire(account)),
            Self::Change(name, change) => {
                let change = match change {
                    UserChange::Password(hash) => {
                        change_user::Change::Password(secret_to_wire(hash))
                    }
                    UserChange::Disabled(disabled) => change_user::Change::Disabled(*disabled),
                };
                Wire::Change(wire::ChangeUser { name: name.clone(), change: Some(change) })
            }
            Self::Remove(kind, name) => Wire::Remove(name_to_wire(*kind, name)),
            Self::Signing => Wire::Signing(wire::Done {}),
            Self::KeepSigning(secret) => Wire::KeepSigning(secret_to_wire(secret)),
        };
        wire::AccountOp { op: Some(op) }
    }

    /// # Errors
    /// For what makes no sense, or is not known.
    pub(crate) fn from_wire(op: wire::AccountOp) -> Result<Self, MetaError> {
        Ok(match op.op.ok_or(MetaError::NotSupported)? {
            Wire::Find(wire::AccountName { kind, name }) => Self::Find(kind_from_wire(kind)?, name),
            Wire::List(wire::AccountPage { kind, after, limit }) => {
                Self::List { kind: kind_from_wire(kind)?, after, limit: limit_from_wire(limit)? }
            }
            Wire::HasUsers(wire::Done {}) => Self::HasUsers,
            Wire::Add(account) => Self::Add(account_from_wire(account)?),
            Wire::Change(wire::ChangeUser { name, change }) => {
                let change = match there(change)? {
                    change_user::Change::Password(hash) => {
                        UserChange::Password(secret_from_wire(hash))
                    }
                    change_user::Change::Disabled(disabled) => UserChange::Disabled(disabled),
                };
                Self::Change(name, change)
            }
            Wire::Remove(wire::AccountName { kind, name }) => {
                Self::Remove(kind_from_wire(kind)?, name)
            }
            Wire::Signing(wire::Done {}) => Self::Signing,
            Wire::KeepSigning(secret) => Self::KeepSigning(secret_from_wire(secret)),
        })
    }
}

fn kind_to_wire(kind: AccountKind) -> u32 {
    match kind {
        AccountKind::User => 0,
        AccountKind::Key => 1,
        AccountKind::Token => 2,
        AccountKind::Link => 3,
    }
}

fn kind_from_wire(kind: u32) -> Result<AccountKind, MetaError> {
    let all = AccountKind::ALL.into_iter();
    let mut named = all.filter(|known| kind_to_wire(*known) == kind);
    named.next().ok_or(bad("an unknown kind of account"))
}

fn name_to_wire(kind: AccountKind, name: &str) -> wire::AccountName {
    wire::AccountName { kind: kind_to_wire(kind), name: name.to_owned() }
}

pub(crate) fn secret_to_wire(secret: &Secret) -> Bytes {
    Bytes::copy_from_slice(&secret.0)
}

pub(crate) fn secret_from_wire(secret: Bytes) -> Secret {
    Secret(owned(secret))
}

pub(crate) fn account_to_wire(account: &Account) -> wire::Account {
    let account = match account {
        Account::User(user) => account::Account::User(wire::User {
            name: user.name.clone(),
            password: secret_to_wire(&user.password),
            uid: user.uid,
            gids: user.gids.clone(),
            folder: user.folder.clone(),
            write: user.write,
            disabled: user.disabled,
        }),
        Account::Pass(pass) => account::Account::Pass(wire::Pass {
            kind: kind_to_wire(pass.kind),
            id: pass.id.clone(),
            user: pass.user.clone(),
            folder: pass.folder.clone(),
            write: pass.write,
            created: pass.created,
            expires: pass.expires,
            secret: secret_to_wire(&pass.secret),
        }),
    };
    wire::Account { account: Some(account) }
}

pub(crate) fn account_from_wire(account: wire::Account) -> Result<Account, MetaError> {
    Ok(match there(account.account)? {
        account::Account::User(user) => Account::User(User {
            name: user.name,
            password: secret_from_wire(user.password),
            uid: user.uid,
            gids: user.gids,
            folder: user.folder,
            write: user.write,
            disabled: user.disabled,
        }),
        account::Account::Pass(pass) => Account::Pass(Pass {
            kind: kind_from_wire(pass.kind)?,
            id: pass.id,
            user: pass.user,
            folder: pass.folder,
            write: pass.write,
            created: pass.created,
            expires: pass.expires,
            secret: secret_from_wire(pass.secret),
        }),
    })
}
