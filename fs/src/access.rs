//! Who comes by a door that the kernel does not watch, and what of the tree he sees.
//!
//! Somebody shows a password, a token, an access key or a share link, and is let in as the [`Visitor`] that this stands
//! for, or refused. What he may do there is then [`meta::may`]'s to decide. Accounts are the volume's, in its metadata
//! ([`meta::Account`]); `ashlar user`, `key`, `token` and `link` make them ([`orders`]).
//!
//! * Of passwords there are argon2id hashes ([`password`]), of tokens SHA-256 ones ([`pass`]): whoever reads the metadata
//!   cannot come in by them. The secret of an access key is kept as it is, since signatures are made with it.
//! * Nothing tells by its words or its time whether there is such a user: a password is hashed in any case.
//! * Failures with passwords are counted by user and address, and from the sixth on each has the next wait longer
//!   ([`slow_down`]). Tokens, keys and links cannot be guessed.
//! * Few passwords are hashed at once, 19 MiB each; one that was right a moment ago is not hashed again ([`known`]).

mod folder;
pub(crate) mod known;
pub mod listed;
pub mod orders;
pub mod pass;
pub(crate) mod password;
pub(crate) mod slow_down;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meta::{Account, AccountKind, Ino, MetaError, MetaStore, Pass, ROOT, Secret, User};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

pub use self::folder::as_kept;
use self::folder::{common, is_within, way_to};
use self::known::Known;
use self::slow_down::SlowDown;
use crate::filesystem::Filesystem;

/// Passwords that are hashed at once: each takes 19 MiB and some 20 ms of a core.
const HASHED_AT_ONCE: usize = 2;
/// How long somebody waits for his turn, and how many do.
const HASHED_WITHIN: Duration = Duration::from_secs(5);
const HASHED_NEXT: usize = 64;

/// By so many seconds clocks may differ between machines that serve a volume. By one that is wrong by more, what is over would not
/// be.
const CLOCKS: u64 = 24 * 3600;

/// What somebody shows.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// Name of a user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A bearer token, as it was printed.
    Token(String),
    /// The end of a share link's path.
    Link(String),
}

/// Somebody who was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// The user in whose name.
    pub user: String,
    /// By what: `User` is by password.
    pub by: AccountKind,
    /// The token, key or link, if it was by one.
    pub pass: Option<String>,
    /// Whom he is in the tree.
    pub uid: u32,
    /// Groups there, the first is that of what he creates.
    pub gids: Vec<u32>,
    /// The folder that is all he sees, from the volume's root.
    pub folder: String,
    /// The same, as it is now.
    pub root: Ino,
    /// May change things, as far as permissions allow.
    pub write: bool,
    /// When that ends, in seconds since the epoch.
    pub expires: Option<u64>,
}

/// By what somebody comes in again who was let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Return {
    by: AccountKind,
    /// Of the user or the pass.
    name: String,
    /// A digest of all that was kept of them then.
    state: [u8; 32],
}

/// A digest of all that is kept of a user, and of a pass of his.
fn state(user: &User, pass: Option<&Pass>) -> [u8; 32] {
    let kept = serde_json::to_vec(&(user, pass)).expect("an account is plain data");
    Sha256::digest(kept).into()
}

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing like that lets anybody in.
    #[error("not let in: the name and password, or the token or key, are not valid (any more)")]
    Wrong,
    /// The link lets nobody in.
    #[error("this link has expired or was withdrawn: ask whoever sent it for another")]
    LinkEnded,
    /// There were failures. `wait`: seconds until another try counts.
    #[error("too many failed attempts: try again in {wait} s")]
    Slow {
        /// Seconds, at least one.
        wait: u64,
    },
    /// The account is for a folder that is not there.
    #[error("the folder {0}, which this account is for, is not there")]
    NoFolder(String),
    /// Accounts cannot be read.
    #[error("who may come in cannot be looked up: {0}")]
    Meta(#[from] MetaError),
}

/// Lets people in, to one volume.
pub struct Access {
    meta: Arc<dyn MetaStore>,
    /// The directory that is all there is for anybody.
    shown: Ino,
    tries: Mutex<SlowDown>,
    known: Mutex<Known>,
    hashing: Semaphore,
    /// For that, and those who wait for it.
    waiting: Semaphore,
}

impl Access {
    /// To a filesystem, of which this directory and what is in it is shown.
    pub fn to(filesystem: &Filesystem, shown: Ino) -> Self {
        Self::new(filesystem.meta.clone(), shown)
    }

    fn new(meta: Arc<dyn MetaStore>, shown: Ino) -> Self {
        Self {
            meta,
            shown,
            tries: Mutex::default(),
            known: Mutex::new(Known::new()),
            hashing: Semaphore::new(HASHED_AT_ONCE),
            waiting: Semaphore::new(HASHED_AT_ONCE + HASHED_NEXT),
        }
    }

    /// Has the volume any user? One that has none cannot tell people apart.
    ///
    /// # Errors
    /// When that cannot be looked up.
    pub async fn has_users(&self) -> Result<bool, Refused> {
        Ok(self.meta.has_users().await?)
    }

    /// Who shows these credentials, coming from this address.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn who(&self, shown: &Credentials, from: IpAddr) -> Result<Visitor, Refused> {
        match shown {
            Credentials::Password { user, password } => {
                self.by_password(user, password, from).await
            }
            Credentials::Token(text) => {
                let parsed = pass::Token::parse(text);
                let id = parsed.as_ref().map(|token| token.id.as_str());
                let proven = |pass: &Pass| parsed.as_ref().is_some_and(|t| t.is_right(pass));
                self.by_pass((AccountKind::Token, id), proven).await
            }
            Credentials::Link(text) => {
                let parsed = pass::Signed::parse(text);
                let id = parsed.as_ref().map(|signed| signed.id.as_str());
                let key = match id {
                    Some(_) => self.meta.signing_secret().await?,
                    None => None,
                };
                let proven = |pass: &Pass| {
                    let both = parsed.as_ref().zip(key.as_ref());
                    both.is_some_and(|(signed, key)| signed.is_right(pass, key))
                };
                let let_in = self.by_pass((AccountKind::Link, id), proven).await;
                let_in.map_err(|why| if why == Refused::Wrong { Refused::LinkEnded } else { why })
            }
        }
    }

    /// The secret that requests by this access key are signed with, and who signs them.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn access_key(&self, id: &str) -> Result<(Secret, Visitor), Refused> {
        let mut secret = Secret::default();
        let visitor = self.by_pass((AccountKind::Key, Some(id)), |pass| {
            secret = pass.secret.clone();
            true
        });
        let visitor = visitor.await?;
        Ok((secret, visitor))
    }

    /// By what somebody who was let in comes in again without showing anything: no secret, and of no use once his account, or the pass
    /// that he came by, has changed or is gone.
    ///
    /// # Errors
    /// When it is by now.
    pub async fn return_of(&self, visitor: &Visitor) -> Result<Return, Refused> {
        let name = visitor.pass.as_ref().unwrap_or(&visitor.user).clone();
        let (user, pass) = self.accounts(visitor.by, &name).await?;
        Ok(Return { by: visitor.by, name, state: state(&user, pass.as_ref()) })
    }

    /// Who comes in again.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn again(&self, known: &Return) -> Result<Visitor, Refused> {
        let (user, pass) = self.accounts(known.by, &known.name).await?;
        match state(&user, pass.as_ref()) == known.state {
            true => self.visit(&user, pass.as_ref()).await,
            false => Err(Refused::Wrong),
        }
    }

    /// A user, and the pass in his name, if it is by one.
    async fn accounts(&self, by: AccountKind, name: &str) -> Result<(User, Option<Pass>), Refused> {
        let (user, pass) = match self.meta.account(by, name).await? {
            Some(Account::User(user)) => return Ok((user, None)),
            Some(Account::Pass(pass)) => {
                (self.meta.account(AccountKind::User, &pass.user).await?, pass)
            }
            None => return Err(Refused::Wrong),
        };
        match user {
            Some(Account::User(user)) => Ok((user, Some(pass))),
            _ => Err(Refused::Wrong),
        }
    }

    /// Is this folder, a path from the volume's root, that directory?
    ///
    /// # Errors
    /// When that cannot be looked up.
    pub async fn is_at(&self, folder: &str, directory: Ino) -> Result<bool, Refused> {
        let way = way_to(&*self.meta, folder).await?;
        Ok(way.is_some_and(|way| way.last() == Some(&directory)))
    }

    /// Has an order carried out ([`orders`]).
    ///
    /// # Errors
    /// See [`orders::OrderError`].
    pub async fn obey(&self, order: orders::Order) -> Result<orders::Answer, orders::OrderError> {
        order.obey(&*self.meta).await
    }

    /// The hash of a password that somebody is given.
    ///
    /// # Errors
    /// When it is none that may be, or too many are hashed already.
    pub async fn hash(&self, password: Secret) -> Result<Secret, orders::OrderError> {
        password::check(&password).map_err(orders::OrderError::Senseless)?;
        let busy = || orders::OrderError::Busy;
        let _waits = self.waiting.try_acquire().map_err(|_| busy())?;
        let turn = tokio::time::timeout(HASHED_WITHIN, self.hashing.acquire()).await;
        let turn = turn.map_err(|_| busy())?;
        let _turn = turn.expect("it is never closed");
        let hashed = tokio::task::spawn_blocking(move || password::hash(&password)).await;
        hashed.map_err(|_| busy())
    }

    async fn by_password(
        &self,
        name: &str,
        password: &Secret,
        from: IpAddr,
    ) -> Result<Visitor, Refused> {
        let user = match self.meta.account(AccountKind::User, name).await? {
            Some(Account::User(user)) => Some(user),
            _ => None,
        };
        let hash = user.as_ref().map(|user| user.password.clone()).unwrap_or_default();
        if password.0.len() > password::PASSWORD_MAX {
            // Nobody has one like that, and nothing is computed of it.
            self.may_try(name, from)?;
            self.tries.lock().failed(name, from, Instant::now());
            return Err(Refused::Wrong);
        }
        if !self.is_known(name, password, &hash) {
            // Who has to wait anyway keeps nobody waiting here.
            self.may_try(name, from)?;
            let late = || Refused::Slow { wait: HASHED_WITHIN.as_secs() };
            let _waits = self.waiting.try_acquire().map_err(|_| late())?;
            let turn = tokio::time::timeout(HASHED_WITHIN, self.hashing.acquire()).await;
            let turn = turn.map_err(|_| late())?;
            let _turn = turn.expect("it is never closed");
            // Requests come in numbers, and the first of them has had it hashed.
            if !self.is_known(name, password, &hash) {
                self.may_try(name, from)?;
                let (shown, kept) = (password.clone(), hash.clone());
                let right = tokio::task::spawn_blocking(move || password::is_right(&shown, &kept));
                if !right.await.unwrap_or(false) {
                    self.tries.lock().failed(name, from, Instant::now());
                    return Err(Refused::Wrong);
                }
                self.tries.lock().succeeded(name, from);
                self.known.lock().learn(name, password, &hash, Instant::now());
            }
        }
        let user = user.ok_or(Refused::Wrong)?;
        self.visit(&user, None).await
    }

    /// By what a pass is, if it is one and `proven`.
    async fn by_pass(
        &self,
        (kind, id): (AccountKind, Option<&str>),
        proven: impl FnOnce(&Pass) -> bool,
    ) -> Result<Visitor, Refused> {
        let found = match id {
            Some(id) => self.meta.account(kind, id).await?,
            None => None,
        };
        let pass = match found {
            Some(Account::Pass(pass)) if proven(&pass) => pass,
            // Nobody guesses one, so nobody is counted: a program with one that has ended would keep others out who come from
            // where it does.
            _ => return Err(Refused::Wrong),
        };
        let Some(Account::User(user)) = self.meta.account(AccountKind::User, &pass.user).await?
        else {
            return Err(Refused::Wrong);
        };
        self.visit(&user, Some(&pass)).await
    }

    fn may_try(&self, name: &str, from: IpAddr) -> Result<(), Refused> {
        let wait = self.tries.lock().wait(name, from, Instant::now());
        match wait {
            Duration::ZERO => Ok(()),
            wait => Err(Refused::Slow { wait: wait.as_secs().saturating_add(1) }),
        }
    }

    fn is_known(&self, name: &str, password: &Secret, hash: &Secret) -> bool {
        self.known.lock().has(name, password, hash, Instant::now())
    }

    async fn visit(&self, user: &User, pass: Option<&Pass>) -> Result<Visitor, Refused> {
        let now = u64::try_from(meta::wall_clock().secs).unwrap_or(0);
        if let Some(pass) = pass.filter(|pass| pass.created > now.saturating_add(CLOCKS)) {
            let (kind, id) = (pass.kind, &pass.id);
            tracing::warn!(
                "{kind} {id} is not let in: it was made later than it is by this machine's clock"
            );
            return Err(Refused::Wrong);
        }
        let visitor = stands_for(user, pass, now).ok_or(Refused::Wrong)?;
        let root = match way_to(&*self.meta, &visitor.folder).await? {
            Some(way) => common(&*self.meta, &way, self.shown).await?,
            None => None,
        };
        match root {
            Some(root) => Ok(Visitor { root, ..visitor }),
            None => Err(Refused::NoFolder(visitor.folder)),
        }
    }
}

/// Whom a user stands for, by password or by a pass of his, at this time; its root is still the volume's. `None`: it
/// stands for nobody any more.
fn stands_for(user: &User, pass: Option<&Pass>, now: u64) -> Option<Visitor> {
    let expires = pass.and_then(|pass| pass.expires);
    if user.disabled || expires.is_some_and(|at| at <= now) {
        return None;
    }
    let folder = pass.map_or(&user.folder, |pass| &pass.folder);
    is_within(folder, &user.folder).then(|| Visitor {
        user: user.name.clone(),
        by: pass.map_or(AccountKind::User, |pass| pass.kind),
        pass: pass.map(|pass| pass.id.clone()),
        uid: user.uid,
        gids: user.gids.clone(),
        folder: folder.clone(),
        root: ROOT,
        write: user.write && pass.is_none_or(|pass| pass.write),
        expires,
    })
}

#[cfg(test)]
mod tests;
