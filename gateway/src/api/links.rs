//! Share links of whoever asks: what he lets others read who have no account ([`fs::access`]). Who only reads may share, too: it is
//! nothing that he could not send himself.

use axum::response::{IntoResponse, Response};
use fs::access::Visitor;
use fs::access::orders::{Answer, Order, OrderError};
use fs::access::pass::New;
use fs::tree::TreePath;
use http::{HeaderMap, StatusCode, header};
use meta::{Account, AccountKind, Kind, Pass};
use serde::Deserialize;
use serde_json::json;

use super::asked::{Asked, json, said};
use super::door::Door;
use crate::address;
use crate::place::refused;
use crate::refusal::{Code, Refusal};
use crate::who::Who;

/// How long one lasts unless something else is said, in seconds.
const EXPIRES: u64 = 7 * 24 * 3600;
const EXPIRES_MAX: u64 = 10 * 366 * 24 * 3600;
/// Those of one user.
const EACH: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) path: String,
    expires: Option<u64>,
}

/// In whose name a link is.
fn visitor(asked: &Asked) -> Result<&Visitor, Refusal> {
    let visitor = asked.entered.visitor.as_ref().ok_or_else(|| {
        let why = "share links are of users, and nobody has logged in: make one (ashlar user add), and log in";
        Refusal::new(Code::Conflict, why)
    })?;
    match visitor.by {
        AccountKind::Link => Err(Refusal::new(Code::Denied, "a share link is for reading")),
        _ => Ok(visitor),
    }
}

/// Why an order about accounts was not carried out.
pub(super) fn wrong(error: &OrderError) -> Refusal {
    let code = match error {
        OrderError::Meta(_) => Code::Broken,
        OrderError::NotDurable(_) => Code::TooFewDisks,
        OrderError::NoFolder(_) | OrderError::NoPass(..) | OrderError::NoUser(_) => {
            Code::NoSuchFile
        }
        OrderError::Outside { .. } => Code::Denied,
        OrderError::Exists(..) => Code::Conflict,
        OrderError::Senseless(_) => Code::BadRequest,
        OrderError::Busy => Code::Busy,
    };
    Refusal::new(code, error.to_string())
}

/// A folder from the volume's root.
fn folder_of(visitor: &Visitor, path: &TreePath) -> Result<String, Refusal> {
    let mut folder = visitor.folder.trim_end_matches('/').to_owned();
    for name in path.names() {
        let text = std::str::from_utf8(name).map_err(|_| {
            Refusal::new(Code::BadRequest, "a folder whose path is no text cannot be shared")
        })?;
        folder.push('/');
        folder.push_str(text);
    }
    Ok(if folder.is_empty() { "/".to_owned() } else { folder })
}

/// Does whoever asks make links?
pub(super) fn may_make(asked: &Asked) -> bool {
    let by_password = |visitor: &Visitor| visitor.by == AccountKind::User;
    asked.entered.visitor.as_ref().is_some_and(by_password) && !asked.view.is_read_only()
}

/// POST /links.
pub(super) async fn make(door: &Door, asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    let (who, visitor) = (&door.who, visitor(asked)?);
    if visitor.by != AccountKind::User {
        // Else what was made by a token would outlive it.
        let why = "links are made by whoever logs in with a name and a password";
        return Err(Refusal::new(Code::Denied, why));
    }
    if asked.view.is_read_only() {
        let why = "the volume is only read here (ro), and a link would be written: make it where it is written to";
        return Err(Refusal::new(Code::Denied, why));
    }
    let Wanted { path, expires } = said(body)?;
    let path = address::read(&path)?;
    let attr = asked.view.stat(&path).await.map_err(|e| refused(&e))?;
    if attr.kind != Kind::Directory {
        return Err(Refusal::new(Code::Conflict, "a link is for a folder, and this is none"));
    }
    let folder = folder_of(visitor, &path)?;
    if !who.is_at(&folder, attr.ino).await? {
        let why = "a folder is shared by its own path, not by one over a link";
        return Err(Refusal::new(Code::Conflict, why));
    }
    let now = u64::try_from(meta::wall_clock().secs).unwrap_or(0);
    let until = now.saturating_add(expires.unwrap_or(EXPIRES));
    if until <= now || until - now > EXPIRES_MAX {
        let why = "expires is how many seconds a link lasts, ten years at most";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    // They are counted and added by one at a time.
    let _alone = door.linking.lock().await;
    if own(who, asked).await?.len() >= EACH {
        let why = format!("{EACH} links are yours, and no more can be: withdraw some");
        return Err(Refusal::new(Code::Conflict, why));
    }
    let user = visitor.user.clone();
    let link = New { user, folder, write: false, now, expires: Some(until) }.link();
    let id = link.id.clone();
    match who.obey(Order::Add(Account::Pass(link))).await.map_err(|e| wrong(&e))? {
        Answer::Link(link) => {
            let url = format!("{}/?link={link}", origin(&asked.headers));
            json(StatusCode::CREATED, &json!({ "id": id, "link": link, "url": url }))
        }
        _ => Err(Refusal::new(Code::Broken, "a link that has no text")),
    }
}

/// Where the page is that asks, if it is one: `https://photos.example`. Else addresses begin with their path.
pub(super) fn origin(headers: &HeaderMap) -> &str {
    headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default()
}

/// His links, with where they lead for him: what is not in his folder is none of those.
async fn own(who: &Who, asked: &Asked) -> Result<Vec<(Pass, TreePath)>, Refusal> {
    let visitor = visitor(asked)?;
    let all = match who.obey(Order::List(AccountKind::Link)).await.map_err(|e| wrong(&e))? {
        Answer::Accounts(all) => all,
        _ => Vec::new(),
    };
    let above = visitor.folder.trim_end_matches('/');
    let own = |account| match account {
        Account::Pass(pass) if pass.user == visitor.user => {
            let below = pass.folder.strip_prefix(above);
            let below = below.filter(|below| below.is_empty() || below.starts_with('/'));
            let path = below.and_then(|below| TreePath::parse(below.as_bytes()).ok());
            path.map(|path| (pass, path))
        }
        _ => None,
    };
    Ok(all.into_iter().filter_map(own).collect())
}

/// GET /links.
pub(super) async fn list(who: &Who, asked: &Asked) -> Result<Response, Refusal> {
    let own = own(who, asked).await?;
    let said = own.iter().map(|(pass, path)| {
        json!({
            "id": pass.id,
            "path": address::write(path),
            "created": pass.created,
            "expires": pass.expires,
        })
    });
    json(StatusCode::OK, &json!({ "links": said.collect::<Vec<_>>() }))
}

/// DELETE /links/ID.
pub(super) async fn revoke(who: &Who, asked: &Asked, id: &str) -> Result<Response, Refusal> {
    let own = own(who, asked).await?;
    if !own.iter().any(|(pass, _)| pass.id == id) {
        return Err(Refusal::new(Code::NoSuchFile, "there is no such link of yours"));
    }
    let revoked = who.obey(Order::Remove(AccountKind::Link, id.to_owned())).await;
    revoked.map_err(|e| wrong(&e))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
