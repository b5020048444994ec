//! The file page: what is in `gateway/page/`, as it is, in the program. It is for everybody; what it shows it asks the API for, as
//! whoever has logged in there.
//!
//! It runs its own scripts and no others, asks this address and no other, and is shown in no frame.

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::conditions;
use crate::guard;

/// What is in that folder.
#[derive(RustEmbed)]
#[folder = "page/"]
struct Parts;

/// What it may.
const MAY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'self'";

/// Of a name that has one of these ends.
const TYPES: [(&str, &str); 4] = [
    (".html", "text/html; charset=utf-8"),
    (".css", "text/css; charset=utf-8"),
    (".js", "text/javascript; charset=utf-8"),
    (".svg", "image/svg+xml; charset=utf-8"),
];

/// `/`, and all that begins with `/page/`.
pub(crate) fn routes() -> Router {
    Router::new().route("/", get(async |headers: HeaderMap| part("index.html", &headers))).route(
        "/page/{name}",
        get(async |Path(name): Path<String>, headers: HeaderMap| part(&name, &headers)),
    )
}

fn part(name: &str, headers: &HeaderMap) -> Response {
    let kind = TYPES.iter().find(|(end, _)| name.ends_with(end));
    let (Some((_, kind)), Some(EmbeddedFile { data, metadata })) = (kind, Parts::get(name)) else {
        return guard::no_page().into_response();
    };
    let tag: String = metadata.sha256_hash()[..16].iter().map(|b| format!("{b:02x}")).collect();
    let tag = format!("\"{tag}\"");
    let mut response = match conditions::knows(headers, &tag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => data.into_owned().into_response(),
    };
    let said: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, MAY),
        (header::ETAG, &tag),
    ];
    for (name, value) in said {
        let value = HeaderValue::from_str(value).expect("it is made of digits and letters");
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_have_a_type_and_ask_no_other_host() {
        let none = HeaderMap::new();
        assert_eq!(part("index.html", &none).status(), StatusCode::OK);
        for name in Parts::iter() {
            assert_eq!(part(&name, &none).status(), StatusCode::OK, "{name} has no type");
            let text = Parts::get(&name).unwrap().data.into_owned();
            let text = String::from_utf8(text).unwrap_or_else(|_| panic!("{name} is no text"));
            let others = text.split("https://").skip(1).chain(text.split("http://").skip(1));
            for other in others {
                assert!(other.starts_with("www.w3.org/"), "{name} names another host: {other:.40}");
            }
        }
        for name in ["", "none.js", "../Cargo.toml", "..%2fCargo.toml", "/etc/passwd"] {
            assert_eq!(part(name, &none).status(), StatusCode::NOT_FOUND, "{name}");
        }
    }
}
