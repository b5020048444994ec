//! Orders: what `ashlar user`, `key`, `token` and `link` have done to the accounts of a volume, by the mount that has it
//! ([`crate::mount::control`]) or by the command itself.
//!
//! What is done is durable before it is answered. No answer has a secret: who makes one knows it, and nobody else
//! is ever told.

use meta::{Account, AccountKind, MetaError, MetaStore, Pass, Secret, UserChange};
use serde::{Deserialize, Serialize};

use super::folder::{is_within, way_to};
use super::pass;

/// Accounts that are fetched at once.
const PAGE: usize = 1000;

/// What shall be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Tell all of a kind, without their secrets.
    List(AccountKind),
    /// Add one. Of a link, its text is answered.
    Add(Account),
    /// A user has this password from now on.
    Password(String, Secret),
    /// A user is let in no more, nor is anybody in his name, or is so again.
    Disable(String, bool),
    /// Take one away: a user with all that is in his name.
    Remove(AccountKind, String),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It.
    Done,
    /// These are all.
    Accounts(Vec<Account>),
    /// The text of a link.
    Link(String),
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// There is no such user.
    #[error("there is no user {0}")]
    NoUser(String),
    /// There is no such pass.
    #[error("there is no {0} {1}")]
    NoPass(AccountKind, String),
    /// That name is taken.
    #[error("there is a {0} {1} already")]
    Exists(AccountKind, String),
    /// The folder is not there.
    #[error("there is no folder {0} in the volume")]
    NoFolder(String),
    /// The folder is not the user's.
    #[error("{folder} is not within {above}, which is all that user {user} sees")]
    Outside {
        /// What was asked for.
        folder: String,
        /// The user.
        user: String,
        /// His.
        above: String,
    },
    /// It cannot be kept.
    #[error("{0}")]
    Senseless(&'static str),
    /// Others have passwords hashed.
    #[error("as many passwords are hashed as may be at once: try again")]
    Busy,
    /// Disks do not take it.
    #[error("it counts from now on, and is not durable yet: {0}")]
    NotDurable(MetaError),
    /// Metadata refused.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

impl Order {
    /// Has it done.
    ///
    /// # Errors
    /// See [`OrderError`]; then nothing has changed, but where it is not durable.
    pub async fn obey(self, meta: &dyn MetaStore) -> Result<Answer, OrderError> {
        let added = match &self {
            Self::Add(account) => Some((account.kind(), account.name().to_owned())),
            _ => None,
        };
        let answer = match self {
            Self::List(kind) => return list(meta, kind).await.map(Answer::Accounts),
            Self::Add(account) => add(meta, account).await?,
            Self::Password(name, password) => {
                change(meta, name, UserChange::Password(password)).await?
            }
            Self::Disable(name, disabled) => {
                change(meta, name, UserChange::Disabled(disabled)).await?
            }
            Self::Remove(kind, name) => match meta.remove_account(kind, &name).await {
                Ok(()) => Answer::Done,
                Err(MetaError::NotFound) => return Err(missing(kind, name)),
                Err(why) => return Err(why.into()),
            },
        };
        let Err(why) = meta.sync().await else { return Ok(answer) };
        match added {
            // Whoever made it tells nobody its secret.
            Some((kind, name)) if meta.remove_account(kind, &name).await.is_ok() => Err(why.into()),
            _ => Err(OrderError::NotDurable(why)),
        }
    }
}

fn missing(kind: AccountKind, name: String) -> OrderError {
    match kind {
        AccountKind::User => OrderError::NoUser(name),
        kind => OrderError::NoPass(kind, name),
    }
}

async fn list(meta: &dyn MetaStore, kind: AccountKind) -> Result<Vec<Account>, OrderError> {
    let mut all: Vec<Account> = Vec::new();
    loop {
        let after = all.last().map(Account::name);
        let page = meta.accounts(kind, after, PAGE).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        if is_last {
            break;
        }
    }
    for account in &mut all {
        match account {
            Account::User(user) => user.password = Secret::default(),
            Account::Pass(pass) => pass.secret = Secret::default(),
        }
    }
    Ok(all)
}

async fn user(meta: &dyn MetaStore, name: &str) -> Result<meta::User, OrderError> {
    match meta.account(AccountKind::User, name).await? {
        Some(Account::User(user)) => Ok(user),
        _ => Err(OrderError::NoUser(name.to_owned())),
    }
}

async fn change(
    meta: &dyn MetaStore,
    name: String,
    change: UserChange,
) -> Result<Answer, OrderError> {
    match meta.change_user(&name, &change).await {
        Err(MetaError::NotFound) => Err(OrderError::NoUser(name)),
        changed => Ok(changed.map(|()| Answer::Done)?),
    }
}

async fn add(meta: &dyn MetaStore, account: Account) -> Result<Answer, OrderError> {
    account.check().map_err(OrderError::Senseless)?;
    let folder = match &account {
        Account::User(user) => &user.folder,
        Account::Pass(pass) => {
            let user = user(meta, &pass.user).await?;
            if !is_within(&pass.folder, &user.folder) {
                let (folder, above) = (pass.folder.clone(), user.folder);
                return Err(OrderError::Outside { folder, user: user.name, above });
            }
            &pass.folder
        }
    };
    way_to(meta, folder).await?.ok_or_else(|| OrderError::NoFolder(folder.clone()))?;
    match (meta.add_account(&account).await, &account) {
        (Err(MetaError::Exists), account) => {
            return Err(OrderError::Exists(account.kind(), account.name().to_owned()));
        }
        // He has gone meanwhile.
        (Err(MetaError::NotFound), Account::Pass(pass)) => {
            return Err(OrderError::NoUser(pass.user.clone()));
        }
        (added, _) => added?,
    }
    let key = meta.keep_signing_secret(&pass::new_signing_secret()).await?;
    match account {
        Account::Pass(link @ Pass { kind: AccountKind::Link, .. }) => {
            Ok(Answer::Link(pass::sign(&link, &key)))
        }
        _ => Ok(Answer::Done),
    }
}
