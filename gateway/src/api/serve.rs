//! Which request is answered by what.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use fs::access::Return;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use meta::Directories;
use proto::metrics_server::Metrics;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::asked::{Asked, json, said};
use super::door::{Door, LOOKS};
use super::entry::milliseconds;
use super::query::Query;
use super::routes::{Change, Operation, Tell, find};
use super::shares::Shares;
use super::tickets::Tickets;
use super::volumes::Volumes;
use super::{admin, archive, change, content, entries, links, search, status, trash};
use crate::refusal::{Code, Refusal};
use crate::server::{Server, peer};
use crate::through::in_turn;
use crate::who::{Who, logged_in};
use crate::{address, guard, metrics, transfer};

/// What there is to be asked, as OpenAPI 3.1.
const DESCRIPTION: &str = include_str!("openapi.json");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Longest body that says what is to be done, in bytes.
const BODY: usize = 64 << 10;

/// By this header the page says that it asks for names and passwords itself.
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");
const PAGE: &str = "ashlar";

/// What the API is about.
pub(crate) struct About<'a> {
    /// Who may come in.
    pub(crate) who: Arc<Who>,
    /// What this process counts.
    pub(crate) counted: Metrics,
    /// Which doors are open.
    pub(crate) doors: Vec<&'static str>,
    /// Where this machine keeps what is its own of the cluster.
    pub(crate) own: Directories,
    /// As long as this goes on, what was begun and nobody goes on with is given up in the background.
    pub(crate) server: &'a Server,
}

/// All that begins with `/api/v1`.
///
/// # Errors
/// When there is no randomness to be had.
pub(crate) fn routes(about: About<'_>) -> Result<Router, getrandom::Error> {
    let About { who, counted, doors, own, server } = about;
    let volumes = Arc::new(Volumes::of(who.filesystem().clone(), own));
    let door = Arc::new(Door {
        who,
        uploads: Arc::default(),
        archives: Arc::default(),
        looks: Shares::new(LOOKS.0, LOOKS.1),
        trash: Shares::new(LOOKS.0, LOOKS.1),
        tickets: Tickets::new()?,
        linking: Mutex::default(),
        volumes,
        check: Arc::default(),
        server: server.clone(),
        counted,
        doors,
        since: milliseconds(meta::wall_clock()),
    });
    let (stop, sweeping) = (server.stop.clone(), door.uploads.clone().sweep_forever());
    server.tasks.spawn(async move { stop.run_until_cancelled(sweeping).await });
    let routes = Router::new()
        .route("/api/v1", any(answer))
        .route("/api/v1/", any(answer))
        .route("/api/v1/{*rest}", any(answer))
        .layer(from_fn_with_state(door.clone(), let_in))
        .layer(from_fn(not_from_elsewhere))
        .layer(from_fn(without_a_box))
        .layer(from_fn(async |request: Request, next: Next| {
            metrics::counted("api", request, next).await
        }));
    Ok(routes.with_state(door))
}

/// What has no site of its own, as a video that was opened by its address, fetches itself.
async fn not_from_elsewhere(request: Request, next: Next) -> Response {
    match find(request.method(), request.uri().path()) {
        Ok((Operation::Tell(Tell::Content), _)) => next.run(request).await,
        _ => guard::not_from_elsewhere(request, next).await,
    }
}

/// Lets in whoever has a ticket for what he reads, and others who log in.
async fn let_in(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let known = match by_ticket(&door, &request) {
        Ok(None) => return logged_in(State(door.who.clone()), request, next).await,
        Ok(Some(known)) => known,
        Err(refusal) => return refusal.into_response(),
    };
    let peer = peer(&request);
    match door.who.again(known.as_ref(), peer).await {
        Ok(entered) => {
            request.extensions_mut().insert(entered);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// By what somebody comes in who shows a ticket; `None`: nobody does.
fn by_ticket(door: &Door, request: &Request) -> Result<Option<Option<Return>>, Refusal> {
    let (query, address) = (Query::of(request.uri()), request.uri().path());
    let Some(ticket) = query.one("ticket")? else { return Ok(None) };
    let (Operation::Tell(Tell::Content | Tell::Archive), path) =
        find(request.method(), address).map_err(|(refusal, _)| refusal)?
    else {
        return Err(Refusal::new(Code::Denied, "a ticket is for files and archives, to read"));
    };
    let path = address::read(path)?;
    let known = door.tickets.check(ticket, &path, meta::wall_clock().secs)?;
    if known.is_none() {
        guard::named(request)?;
    }
    Ok(Some(known))
}

/// Browsers open a box of their own for a name and a password, unless the page does.
async fn without_a_box(request: Request, next: Next) -> Response {
    let of_page = request.headers().get(REQUESTED_WITH).is_some_and(|with| with == PAGE);
    let mut response = next.run(request).await;
    if of_page {
        response.headers_mut().remove(header::WWW_AUTHENTICATE);
    }
    response
}

async fn answer(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let (operation, path) = match find(&parts.method, parts.uri.path()) {
        Ok(found) => found,
        Err((refusal, allowed)) => {
            let settled = transfer::settled::<()>(Err(refusal), &parts.headers, body).await;
            let mut response = settled.into_response();
            if let Some(allowed) = HeaderValue::from_str(&allowed).ok().filter(|a| !a.is_empty()) {
                response.headers_mut().insert(header::ALLOW, allowed);
            }
            return response;
        }
    };
    let answered = answered(&door, (&parts, operation, path), &mut body).await;
    transfer::settled(answered, &parts.headers, body).await.into_response()
}

async fn answered(
    door: &Arc<Door>,
    (parts, operation, path): (&Parts, Operation, &str),
    body: &mut Body,
) -> Result<Response, Refusal> {
    let asked = Asked::of(parts, if operation.is_about_an_id() { "" } else { path })?;
    if operation.is_for_administrators() {
        entries::administrator(&asked)?;
    }
    match operation {
        Operation::Put => content::put(&asked, body).await,
        Operation::AddToUpload => door.uploads.add(&asked, path, body).await,
        Operation::EndUpload => {
            small(parts, body).await?;
            door.uploads.give_up(&asked, path)
        }
        Operation::Tell(what) => {
            let body = small(parts, body).await?;
            told(door, (&asked, &parts.method), (what, path), &body).await
        }
        Operation::Change(what) => {
            let body = small(parts, body).await?;
            let (door, id) = (door.clone(), path.to_owned());
            let changed = async move { changed(&door, &asked, (what, &id), &body).await };
            in_turn("a request by the API", changed).await
        }
    }
}

/// A body that says what is to be done.
async fn small(parts: &Parts, body: &mut Body) -> Result<Vec<u8>, Refusal> {
    transfer::small(&parts.headers, body, BODY).await
}

/// What only tells.
async fn told(
    door: &Door,
    (asked, method): (&Asked, &Method),
    (what, id): (Tell, &str),
    body: &[u8],
) -> Result<Response, Refusal> {
    match what {
        Tell::Me => entries::me(asked),
        Tell::Entries => entries::list(asked).await,
        Tell::Entry => entries::entry(asked).await,
        Tell::Content => content::get(&door.who, asked).await,
        Tell::Uploads => door.uploads.list(asked),
        Tell::Upload => door.uploads.state(asked, id),
        Tell::Archive => archive::send(&door.archives, door.who.sending(), asked, method).await,
        Tell::Search => search::search(&door.looks, asked, method).await,
        Tell::Ticket => ticket(door, asked, body).await,
        Tell::Status => status::status(door).await,
        Tell::Places => status::places(door, asked).await,
        Tell::Links => links::list(&door.who, asked).await,
        Tell::Trash => trash::list(door, asked).await,
        Tell::Description => Ok(([(header::CONTENT_TYPE, JSON)], DESCRIPTION).into_response()),
        Tell::Admin(what) => admin::told(door, what).await,
    }
}

/// POST /ticket.
async fn ticket(door: &Door, asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        path: String,
    }
    let Wanted { path } = said(body)?;
    let known = door.who.return_of(&asked.entered).await?;
    let ticket = door.tickets.issue(known, &address::read(&path)?, meta::wall_clock().secs)?;
    json(StatusCode::OK, &serde_json::json!({ "ticket": ticket }))
}

/// What changes something.
async fn changed(
    door: &Door,
    asked: &Asked,
    (what, id): (Change, &str),
    body: &[u8],
) -> Result<Response, Refusal> {
    match what {
        Change::MakeFolder => change::make_folder(asked).await,
        Change::Delete => change::delete(asked).await,
        Change::Move => change::move_to(asked, body).await,
        Change::Copy => change::copy(asked, body).await,
        Change::BeginUpload => door.uploads.begin(asked).await,
        Change::FinishUpload => door.uploads.finish(asked, id).await,
        Change::MakeLink => links::make(door, asked, body).await,
        Change::RevokeLink => links::revoke(&door.who, asked, id).await,
        Change::Restore => trash::restore(asked, body).await,
        Change::DeleteTrashed => trash::delete(door, asked, id).await,
        Change::EmptyTrash => trash::empty(door, asked).await,
        Change::Admin(what) => admin::done(door, asked, (what, id), body).await,
    }
}
