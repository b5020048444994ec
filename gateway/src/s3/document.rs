//! What answers are made of: a document, and headers.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};

/// A document as an answer.
pub(super) fn document(text: String) -> Response {
    let mut response = text.into_response();
    let kind = HeaderValue::from_static("application/xml");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Says something in an answer.
pub(super) fn insert(response: &mut Response, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.as_bytes());
    if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
        response.headers_mut().insert(name, value);
    }
}
