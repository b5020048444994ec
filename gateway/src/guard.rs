//! Whom a browser is not let in for, and what it is told about what it gets.
//!
//! Any page on the web can have a browser send requests to this machine. So one that changes something must not come from
//! another site's page; and what is told at a door for this machine alone to whoever shows no credentials is told only if
//! the request names this machine ([`named`]): else another name leads here, by which a page reads answers as its own. Content is never shown as a page of this address: it is not guessed at, and has no rights.

use std::net::IpAddr;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::refusal::{Code, Refusal};
use crate::server::peer;

/// Says of a request which page it comes from.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Says what for.
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// What is said of every answer, unless it says so itself.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-cache"),
];

/// All routes of HTTP, guarded.
pub(crate) fn guarded(routes: Router) -> Router {
    let wrong = async || Refusal::new(Code::WrongMethod, "this cannot be done there");
    let guarded = routes.fallback(async || no_page()).method_not_allowed_fallback(wrong);
    let guarded = guarded.layer(from_fn(checked));
    let with_headers = HEADERS.into_iter().fold(guarded, |routes, (name, value)| {
        let value = HeaderValue::from_static(value);
        routes.layer(SetResponseHeaderLayer::if_not_present(name, value))
    });
    with_headers.layer(CatchPanicLayer::custom(|_| {
        // What panicked was said where it did.
        Refusal::new(Code::Broken, "a fault of this program").into_response()
    }))
}

/// What an address gets that leads nowhere.
pub(crate) fn no_page() -> Refusal {
    Refusal::new(Code::NoSuchPage, "there is nothing at this address")
}

async fn checked(request: Request, next: Next) -> Response {
    match check(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Lets through what names this machine, where it has to.
pub(crate) async fn for_this_machine(request: Request, next: Next) -> Response {
    match named(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Lets no page of another site have a browser fetch what that is not shown: it would cost work, and nothing else. What people
/// are sent the address of they may open.
pub(crate) async fn not_from_elsewhere(request: Request, next: Next) -> Response {
    match from_elsewhere(request.headers()) {
        false => next.run(request).await,
        true => other_page().into_response(),
    }
}

fn from_elsewhere(headers: &HeaderMap) -> bool {
    let is = |name: &HeaderName, word: &str| headers.get(name).is_some_and(|said| said == word);
    is_of_other_page(headers) && !is(&FETCH_DEST, "document")
}

/// Does a browser say that the page of another site has it send this?
fn is_of_other_page(headers: &HeaderMap) -> bool {
    let site = headers.get(&FETCH_SITE).map(|site| site.to_str().unwrap_or(""));
    site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
}

fn other_page() -> Refusal {
    Refusal::new(Code::OtherSite, "the request comes from the page of another site")
}

/// Does a request name this machine, or has it come to a door that is for others, too?
///
/// # Errors
/// When it does not.
pub(crate) fn named(request: &Request) -> Result<(), Refusal> {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or(""));
    if peer(request).within && host.is_some_and(|host| !is_this_machine(host)) {
        return Err(Refusal::new(
            Code::OtherSite,
            "the request is for another machine than this one",
        ));
    }
    Ok(())
}

fn check(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    let other = |why: &str| Err(Refusal::new(Code::OtherSite, why));
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let host = text(&header::HOST);
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    if is_of_other_page(headers) {
        return Err(other_page());
    }
    let own = |origin: &str| {
        host.is_some_and(|host| origin.split_once("://").is_some_and(|o| o.1 == host))
    };
    if text(&header::ORIGIN).is_some_and(|origin| !own(origin)) {
        return other("the request comes from the page of another site");
    }
    Ok(())
}

/// Is it a name of this machine, with or without a port, that nobody else gives away?
fn is_this_machine(host: &str) -> bool {
    let end = host.rfind(']').map_or(0, |at| at + 1);
    let name = match host[end..].find(':') {
        Some(at) => &host[..end + at],
        None => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let name = name.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::server::Peer;

    #[test]
    fn at_a_door_for_this_machine_alone_a_request_names_this_machine() {
        let is_named = |host: &str, within| {
            let peer = Peer { from: IpAddr::from([127, 0, 0, 1]), within };
            let request = Request::builder().header(header::HOST, host).extension(peer);
            named(&request.body(Body::empty()).unwrap()).is_ok()
        };
        assert!(is_named("localhost:7480", true) && !is_named("evil.example:7480", true));
        assert!(is_named("photos.example:7480", false));
    }

    #[test]
    fn names_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:7480",
            "photos.localhost:1",
            "127.0.0.1:1",
            "127.1.2.3",
            "[::1]:7480",
            "[::1]",
        ] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org:7480",
            "mylocalhost",
            "10.0.0.1",
            "127.0.0.1.nip.io",
            "[::2]:1",
            "::1",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn pages_of_other_sites_have_nothing_fetched_that_they_are_not_shown() {
        for (site, dest, elsewhere) in [
            ("cross-site", "image", true),
            ("same-site", "iframe", true),
            ("cross-site", "document", false),
            ("same-origin", "image", false),
            ("none", "document", false),
        ] {
            let said = [(FETCH_SITE, site), (FETCH_DEST, dest)];
            let headers = said.map(|(name, value)| (name, HeaderValue::from_static(value)));
            assert_eq!(from_elsewhere(&headers.into_iter().collect()), elsewhere, "{site} {dest}");
        }
        assert!(!from_elsewhere(&HeaderMap::new()));
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let ok = |method: Method, pairs: &[(HeaderName, &str)]| {
            let headers = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
            check(&method, &headers.collect()).is_ok()
        };
        let host = (header::HOST, "localhost:7480");
        assert!(ok(Method::POST, &[]) && ok(Method::POST, std::slice::from_ref(&host)));
        let from = |origin| [host.clone(), (header::ORIGIN, origin)];
        assert!(ok(Method::PUT, &from("http://localhost:7480")));
        for origin in ["http://evil.example", "null", "http://localhost:7481", "localhost:7480"] {
            assert!(!ok(Method::PUT, &from(origin)), "{origin}");
            assert!(ok(Method::GET, &from(origin)), "{origin}");
        }
        for (site, may) in
            [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false)]
        {
            assert_eq!(ok(Method::DELETE, &[host.clone(), (FETCH_SITE, site)]), may, "{site}");
        }
    }
}
