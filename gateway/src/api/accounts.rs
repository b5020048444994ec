//! Users, access keys, tokens and share links of the volume, for administrators: what `ashlar user`, `key`, `token` and `link` do, by
//! the same orders. A secret is told once, to whoever makes it.
//!
//! Whoever changes accounts has logged in, and whoever makes what lets somebody in has done so with a password: what was made
//! by a token would outlive it.

use axum::response::{IntoResponse, Response};
use fs::access::as_kept;
use fs::access::listed::{ListedPass, ListedUser};
use fs::access::orders::{Answer, Order};
use fs::access::pass::New;
use http::StatusCode;
use meta::{Account, AccountKind, Pass, Secret, User};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

use super::asked::{Asked, json, said};
use super::entries;
use super::links::{origin, wrong};
use crate::refusal::{Code, Refusal};
use crate::who::Who;

/// A user that is to be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    name: String,
    password: String,
    uid: u32,
    gid: u32,
    #[serde(default)]
    groups: Vec<u32>,
    folder: Option<String>,
    #[serde(default)]
    read_only: bool,
}

/// What shall be otherwise with a user.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OtherUser {
    password: Option<String>,
    disabled: Option<bool>,
}

/// A key, token or link that is to be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPass {
    user: String,
    folder: Option<String>,
    #[serde(default)]
    read_only: bool,
    /// In so many seconds.
    expires: Option<u64>,
}

/// Does whoever asks change accounts? `lets_in`: somebody comes in by it who did not.
fn may_change(asked: &Asked, lets_in: bool) -> Result<(), Refusal> {
    let Some(visitor) = &asked.entered.visitor else {
        let why = "accounts are changed by whoever has logged in, and nobody has: make the first user with ashlar user add";
        return Err(Refusal::new(Code::Conflict, why));
    };
    if lets_in && visitor.by != AccountKind::User {
        let why = "what lets somebody in is made by whoever logs in with a name and a password";
        return Err(Refusal::new(Code::Denied, why));
    }
    entries::may_change(asked, lets_in)
}

async fn all(who: &Who, kind: AccountKind) -> Result<Vec<Account>, Refusal> {
    match who.obey(Order::List(kind)).await.map_err(|e| wrong(&e))? {
        Answer::Accounts(all) => Ok(all),
        _ => Err(Refusal::new(Code::Broken, "accounts that are no list")),
    }
}

/// GET /admin/users, /admin/keys, /admin/tokens, /admin/links.
pub(super) async fn list(who: &Who, kind: AccountKind) -> Result<Response, Refusal> {
    let (mut users, mut passes) = (Vec::new(), Vec::new());
    for account in all(who, kind).await? {
        match account {
            Account::User(user) => users.push(ListedUser::from(user)),
            Account::Pass(pass) => passes.push(ListedPass::from(pass)),
        }
    }
    let said = match kind {
        AccountKind::User => json!({ "users": users }),
        AccountKind::Key => json!({ "keys": passes }),
        AccountKind::Token => json!({ "tokens": passes }),
        AccountKind::Link => json!({ "links": passes }),
    };
    json(StatusCode::OK, &said)
}

/// POST /admin/users.
pub(super) async fn add_user(who: &Who, asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    may_change(asked, true)?;
    let NewUser { name, password, uid, gid, groups, folder, read_only } = said(body)?;
    let mut user = User {
        name,
        password: Secret::default(),
        uid,
        gids: [&[gid], &groups[..]].concat(),
        folder: as_kept(folder.as_deref().unwrap_or("/")),
        write: !read_only,
        disabled: false,
    };
    // What cannot be costs no hash.
    let checked = Account::User(user.clone()).check();
    checked.map_err(|why| Refusal::new(Code::BadRequest, why))?;
    user.password = who.hash(password).await.map_err(|e| wrong(&e))?;
    let told = ListedUser::from(user.clone());
    who.obey(Order::Add(Account::User(user))).await.map_err(|e| wrong(&e))?;
    json(StatusCode::CREATED, &told)
}

/// PATCH /admin/users/NAME.
pub(super) async fn change_user(
    who: &Who,
    asked: &Asked,
    (name, body): (&str, &[u8]),
) -> Result<Response, Refusal> {
    let OtherUser { password, disabled } = said(body)?;
    if password.is_none() && disabled.is_none() {
        let why = "nothing of the user is to be changed: give password or disabled";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    may_change(asked, password.is_some() || disabled == Some(false))?;
    let name = decoded(name)?;
    if let Some(password) = password {
        let hash = who.hash(password).await.map_err(|e| wrong(&e))?;
        who.obey(Order::Password(name.clone(), hash)).await.map_err(|e| wrong(&e))?;
    }
    if let Some(disabled) = disabled {
        who.obey(Order::Disable(name, disabled)).await.map_err(|e| wrong(&e))?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// POST /admin/keys, /admin/tokens, /admin/links.
pub(super) async fn add_pass(
    who: &Who,
    asked: &Asked,
    (kind, body): (AccountKind, &[u8]),
) -> Result<Response, Refusal> {
    may_change(asked, true)?;
    let NewPass { user, folder, read_only, expires } = said(body)?;
    let folder = match folder {
        Some(folder) => as_kept(&folder),
        None => folder_of(who, &user).await?,
    };
    if expires == Some(0) {
        let why =
            "expires is in how many seconds it ends, and 0 lets nobody in: leave it out for no end";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    let now = u64::try_from(meta::wall_clock().secs).unwrap_or(0);
    let expires = expires.map(|after| now.saturating_add(after));
    let write = kind != AccountKind::Link && !read_only;
    let (pass, secret) = made(New { user, folder, write, now, expires }, kind);
    let id = pass.id.clone();
    let said = match (who.obey(Order::Add(Account::Pass(pass))).await, secret) {
        (Err(why), _) => return Err(wrong(&why)),
        (Ok(Answer::Link(link)), _) => {
            let url = format!("{}/?link={link}", origin(&asked.headers));
            json!({ "id": id, "link": link, "url": url })
        }
        (Ok(_), Some((what, secret))) => json!({ "id": id, what: secret }),
        (Ok(_), None) => return Err(Refusal::new(Code::Broken, "a link that has no text")),
    };
    json(StatusCode::CREATED, &said)
}

/// A pass, and what its secret is called and is, where it has one that nobody signs.
fn made(new: New, kind: AccountKind) -> (Pass, Option<(&'static str, Value)>) {
    match kind {
        AccountKind::Key => {
            let key = new.key();
            let secret = String::from_utf8_lossy(&key.secret.0).into_owned();
            (key, Some(("secret", secret.into())))
        }
        AccountKind::Token => {
            let (token, text) = new.token();
            (token, Some(("token", text.into())))
        }
        AccountKind::Link | AccountKind::User => (new.link(), None),
    }
}

/// All that a user sees.
async fn folder_of(who: &Who, name: &str) -> Result<String, Refusal> {
    let found = all(who, AccountKind::User).await?.into_iter().find_map(|account| match account {
        Account::User(user) if user.name == name => Some(user.folder),
        _ => None,
    });
    found.ok_or_else(|| Refusal::new(Code::NoSuchFile, format!("there is no user {name}")))
}

/// DELETE /admin/users/NAME, /admin/keys/ID, /admin/tokens/ID, /admin/links/ID.
pub(super) async fn remove(
    who: &Who,
    asked: &Asked,
    (kind, name): (AccountKind, &str),
) -> Result<Response, Refusal> {
    may_change(asked, false)?;
    let order = Order::Remove(kind, decoded(name)?);
    who.obey(order).await.map_err(|e| wrong(&e))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A name as it stands in an address.
fn decoded(name: &str) -> Result<String, Refusal> {
    let name = percent_decode_str(name).decode_utf8();
    let name = name.map_err(|_| Refusal::new(Code::BadRequest, "a name that is no text"))?;
    Ok(name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_pass_has_a_secret_of_its_own_and_no_user_is_one() {
        let new = || New {
            user: "ann".to_owned(),
            folder: "/".to_owned(),
            write: true,
            now: 5,
            expires: None,
        };
        let (key, secret) = made(new(), AccountKind::Key);
        let (name, secret) = secret.unwrap();
        assert_eq!((key.kind, name), (AccountKind::Key, "secret"));
        assert_eq!(secret.as_str().map(str::as_bytes), Some(&key.secret.0[..]));
        let (token, text) = made(new(), AccountKind::Token);
        let (name, text) = text.unwrap();
        assert_eq!((token.kind, name), (AccountKind::Token, "token"));
        assert!(
            text.as_str().is_some_and(|text| text.starts_with(&format!("ashlar_{}_", token.id)))
        );
        let (link, nothing) = made(new(), AccountKind::Link);
        assert_eq!((link.kind, nothing), (AccountKind::Link, None));
    }

    #[test]
    fn names_in_addresses_are_percent_encoded() {
        let of = |name: &str| decoded(name).map_err(|refusal| refusal.code);
        assert_eq!(of("ann%40home+1"), Ok("ann@home+1".to_owned()));
        assert_eq!(of("%ff"), Err(Code::BadRequest));
    }
}
