//! Which user of the volume whoever comes in stands for.
//!
//! A request says whose it is: by `Authorization: Basic`, a name and a password, by `Authorization: Bearer`, a token, or,
//! to read, by a share link (`?link=`). Accounts are the volume's ([`fs::access`]), and are asked for each request: what
//! was revoked lets nobody in any more.
//!
//! Whoever shows nothing is let in at doors for this machine alone, as long as the volume has no users, or where they are
//! said not to matter: he acts as whoever serves the volume, with all that this user may.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fs::access::orders::{Answer, Order, OrderError};
use fs::access::{Access, Credentials, Refused, Return, Visitor};
use fs::filesystem::Filesystem;
use fs::filesystem::status::Status;
use fs::tree::{Sending, View, Viewer};
use http::{Extensions, HeaderMap, Method, Uri, header};
use meta::{Ino, Secret};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::refusal::{Code, Refusal};
use crate::server::{Peer, peer};
use crate::{guard, transfer};

/// What clients are told who do not say whose they are.
const LOG_IN: &str =
    "log in with a name and password, or with a token: Authorization: Basic, or Bearer";

/// Of a stranger's body so many bytes are waited for, so long, for him to hear why he is not let in.
const SMALL: u64 = 64 << 10;
const STRANGERS: Duration = Duration::from_secs(1);
/// And of so many at once: the others hear it or not, and keep no connection from those who come in.
static HEARD_OUT: Semaphore = Semaphore::const_new(64);

/// Somebody who was let in.
#[derive(Clone)]
pub(crate) struct Entered {
    /// What he sees.
    pub(crate) view: View,
    /// In whose name, and by what. `None`: he has shown nothing, and acts as whoever serves the volume.
    pub(crate) visitor: Option<Visitor>,
}

/// Who may come in, and what is shared by all of them.
pub(crate) struct Who {
    filesystem: Arc<Filesystem>,
    /// What is shown of the volume.
    root: Ino,
    access: Access,
    /// Nobody has to log in, though there are users.
    no_login: bool,
    sending: Sending,
}

impl Who {
    /// Those who come in to this directory.
    pub(crate) fn new(filesystem: Arc<Filesystem>, root: Ino, no_login: bool) -> Self {
        let access = Access::to(&filesystem, root);
        Self { filesystem, root, access, no_login, sending: Sending::default() }
    }

    /// Lets him in who shows this, or nothing. `log_in`: what he is told who would have to show something.
    ///
    /// # Errors
    /// When he is not let in.
    pub(crate) async fn let_in(
        &self,
        shown: Option<&Credentials>,
        peer: Peer,
        log_in: &str,
    ) -> Result<Entered, Refusal> {
        let Some(shown) = shown else {
            let open = peer.within
                && (self.no_login || !self.access.has_users().await.map_err(refused)?);
            return match open {
                true => Ok(Entered { view: self.view(self.whoever_serves()), visitor: None }),
                false => Err(Refusal::new(Code::NotLoggedIn, log_in)),
            };
        };
        let visitor = self.access.who(shown, peer.from).await.map_err(refused)?;
        let Visitor { uid, gids, root, write, .. } = visitor.clone();
        let view = self.view(Viewer { uid, gids, root, write });
        Ok(Entered { view, visitor: Some(visitor) })
    }

    /// By what somebody comes in again without showing anything: `None`, where he has shown nothing.
    ///
    /// # Errors
    /// When he is not let in any more.
    pub(crate) async fn return_of(&self, entered: &Entered) -> Result<Option<Return>, Refusal> {
        match &entered.visitor {
            None => Ok(None),
            Some(visitor) => self.access.return_of(visitor).await.map(Some).map_err(refused),
        }
    }

    /// Lets him in again so, to read.
    ///
    /// # Errors
    /// When he is not let in any more.
    pub(crate) async fn again(
        &self,
        known: Option<&Return>,
        peer: Peer,
    ) -> Result<Entered, Refusal> {
        let (viewer, visitor) = match known {
            None => {
                let entered = self.let_in(None, peer, LOG_IN).await?;
                (entered.view.viewer().clone(), None)
            }
            Some(known) => {
                let visitor = self.access.again(known).await.map_err(refused)?;
                let Visitor { uid, gids, root, write, .. } = visitor.clone();
                (Viewer { uid, gids, root, write }, Some(visitor))
            }
        };
        let view = self.view(Viewer { write: false, ..viewer });
        Ok(Entered { view, visitor })
    }

    /// How the volume is.
    ///
    /// # Errors
    /// When that cannot be known.
    pub(crate) async fn status(&self) -> Result<Status, Refusal> {
        let status = self.filesystem.status().await;
        status.map_err(|e| Refusal::of(&e.into(), Code::NotConnected))
    }

    /// What is served.
    pub(crate) fn filesystem(&self) -> &Arc<Filesystem> {
        &self.filesystem
    }

    /// The hash of a password that somebody is given.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub(crate) async fn hash(&self, password: String) -> Result<Secret, OrderError> {
        self.access.hash(Secret(password.into_bytes())).await
    }

    /// Has an order about accounts carried out.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub(crate) async fn obey(&self, order: Order) -> Result<Answer, OrderError> {
        self.access.obey(order).await
    }

    /// Is this folder, a path from the volume's root, that directory?
    ///
    /// # Errors
    /// When that cannot be looked up.
    pub(crate) async fn is_at(&self, folder: &str, directory: Ino) -> Result<bool, Refusal> {
        self.access.is_at(folder, directory).await.map_err(refused)
    }

    /// The secret that requests by this access key are signed with, whose it is, and what he sees.
    ///
    /// # Errors
    /// When there is none, or he is not let in.
    pub(crate) async fn signed_by(&self, key: &str) -> Result<(Secret, String, View), Refusal> {
        let (secret, visitor) = self.access.access_key(key).await.map_err(refused)?;
        let Visitor { user, uid, gids, root, write, .. } = visitor;
        Ok((secret, user, self.view(Viewer { uid, gids, root, write })))
    }

    /// All that is shown, as whoever serves the volume sees it.
    pub(crate) fn own_view(&self) -> View {
        self.view(self.whoever_serves())
    }

    fn view(&self, viewer: Viewer) -> View {
        View::new(self.filesystem.clone(), viewer)
    }

    fn whoever_serves(&self) -> Viewer {
        let own = nix::unistd::getegid();
        let more = nix::unistd::getgroups().unwrap_or_default();
        let gids = std::iter::once(own).chain(more).map(nix::unistd::Gid::as_raw).collect();
        let uid = nix::unistd::geteuid().as_raw();
        Viewer { uid, gids, root: self.root, write: true }
    }

    /// Memory for what is being sent.
    pub(crate) fn sending(&self) -> Sending {
        self.sending.clone()
    }
}

/// Lets in whoever sends a request, and says in it what he sees.
pub(crate) async fn logged_in(
    State(who): State<Arc<Who>>,
    mut request: Request,
    next: Next,
) -> Response {
    let (peer, shown) = (peer(&request), shown_by(&request));
    let let_in = async { who.let_in(shown?.as_ref(), peer, LOG_IN).await };
    match let_in.await {
        Ok(entered) => {
            request.extensions_mut().insert(entered);
            next.run(request).await
        }
        Err(refusal) => {
            let (head, body) = request.into_parts();
            heard_out(&head.headers, body).await;
            refusal.into_response()
        }
    }
}

/// Waits for a stranger's body where it is small, and not for long, for him to hear why he is not let in.
pub(crate) async fn heard_out(headers: &HeaderMap, body: Body) {
    if is_small(headers)
        && let Ok(_turn) = HEARD_OUT.try_acquire()
    {
        let _late = tokio::time::timeout(STRANGERS, transfer::drain(headers, body)).await;
    }
}

/// Is the body said to be so small that it is there soon?
fn is_small(headers: &HeaderMap) -> bool {
    transfer::said(headers).is_some_and(|len| len <= SMALL)
}

/// Lets in whoever comes from this machine, and others who log in.
pub(crate) async fn logged_in_from_elsewhere(
    State(who): State<Arc<Who>>,
    request: Request,
    next: Next,
) -> Response {
    let (peer, shown) = (peer(&request), authorization(request.headers()));
    if peer.within {
        return next.run(request).await;
    }
    let let_in = async { who.let_in(shown?.as_ref(), peer, LOG_IN).await };
    match let_in.await {
        Ok(_) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// What whoever sends a request sees.
pub(crate) fn seen(request: &Request) -> View {
    seen_in(request.extensions())
}

/// The same, where its head is apart.
pub(crate) fn seen_in(extensions: &Extensions) -> View {
    entered(extensions).view.clone()
}

/// Who sends a request, as he was let in.
pub(crate) fn entered(extensions: &Extensions) -> &Entered {
    extensions.get().expect("whoever is asked was let in")
}

/// Why somebody is not let in, in a client's words.
fn refused(why: Refused) -> Refusal {
    let code = match &why {
        Refused::Wrong => Code::NotLoggedIn,
        Refused::Slow { wait } => {
            let wait = Some(*wait);
            return Refusal { wait, ..Refusal::new(Code::TooManyTries, why.to_string()) };
        }
        Refused::LinkEnded | Refused::NoFolder(_) => Code::Denied,
        Refused::Meta(_) => Code::Broken,
    };
    Refusal::new(code, why.to_string())
}

/// A share link, in an address.
#[derive(Deserialize)]
struct Linked {
    link: Option<String>,
}

/// What a request shows; one that shows nothing names this machine, where it has to.
fn shown_by(request: &Request) -> Result<Option<Credentials>, Refusal> {
    let shown = shown(request.method(), request.uri(), request.headers())?;
    if shown.is_none() {
        guard::named(request)?;
    }
    Ok(shown)
}

/// What a request shows.
fn shown(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Option<Credentials>, Refusal> {
    let by_header = authorization(headers)?;
    let linked = Query::<Linked>::try_from_uri(uri);
    let linked = linked.map_err(|e| Refusal::new(Code::BadRequest, e.body_text()))?;
    match (by_header, linked.0.link) {
        (shown, None) => Ok(shown),
        (None, Some(_)) if !matches!(*method, Method::GET | Method::HEAD) => {
            Err(Refusal::new(Code::Denied, "a share link is for reading"))
        }
        (None, Some(link)) => Ok(Some(Credentials::Link(link))),
        (Some(_), Some(_)) => {
            let why = "a header Authorization and a link: one says whose a request is";
            Err(Refusal::new(Code::BadRequest, why))
        }
    }
}

/// What the head of a request shows.
fn authorization(headers: &HeaderMap) -> Result<Option<Credentials>, Refusal> {
    let bad = |why| Err(Refusal::new(Code::BadRequest, why));
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (all.next(), all.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return bad("two headers Authorization: one says whose a request is"),
    };
    let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return bad(LOG_IN);
    };
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Some(Credentials::Token(rest.trim().to_owned())));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return bad(LOG_IN);
    }
    let decoded = STANDARD.decode(rest.trim()).unwrap_or_default();
    let Some(colon) = decoded.iter().position(|byte| *byte == b':') else {
        return bad("Authorization: Basic is followed by NAME:PASSWORD in base64");
    };
    let user = String::from_utf8_lossy(&decoded[..colon]).into_owned();
    Ok(Some(Credentials::Password { user, password: Secret(decoded[colon + 1..].to_vec()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, path: &str, values: &[&str]) -> Result<Option<Credentials>, Code> {
        let named = values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap()));
        let uri: Uri = path.parse().unwrap();
        shown(&method, &uri, &named.collect()).map_err(|refusal| refusal.code)
    }

    fn get(values: &[&str]) -> Result<Option<Credentials>, Code> {
        of(Method::GET, "/refs/a?encoding=base64", values)
    }

    #[test]
    fn what_heads_of_requests_show() {
        let password = |user: &str, password: &str| {
            let password = Secret(password.into());
            Ok(Some(Credentials::Password { user: user.to_owned(), password }))
        };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert!(get(&[]) == Ok(None));
        assert!(get(&[&basic("ann:pass:word")]) == password("ann", "pass:word"));
        assert!(get(&[&basic(":")]) == password("", ""));
        assert!(
            get(&[&basic("ann:pässword").replace("Basic", "bAsIc")]) == password("ann", "pässword")
        );
        assert!(get(&["Bearer  ashlar_1_2"]) == Ok(Some(Credentials::Token("ashlar_1_2".into()))));
        for bad in ["", "Basic", "Basic !", &basic("ann"), "Digest a=b", "Bearer\u{e4} x"] {
            assert!(get(&[bad]) == Err(Code::BadRequest), "{bad}");
        }
        assert!(get(&[&basic("ann:a"), "Bearer x"]) == Err(Code::BadRequest), "two of them");
    }

    #[test]
    fn a_link_is_for_reading_and_stands_alone() {
        let link = || Ok(Some(Credentials::Link("1.a-_".into())));
        assert!(of(Method::GET, "/refs/a?link=1.a-_", &[]) == link());
        assert!(of(Method::HEAD, "/kv/0?after=b&link=1.a-_", &[]) == link());
        for method in [Method::PUT, Method::POST, Method::DELETE] {
            assert!(of(method, "/refs/a?link=1.a-_", &[]) == Err(Code::Denied));
        }
        assert!(of(Method::GET, "/refs/a?link=1&link=2", &[]) == Err(Code::BadRequest));
        assert!(of(Method::GET, "/refs/a?link=1", &["Bearer x"]) == Err(Code::BadRequest));
    }
}
