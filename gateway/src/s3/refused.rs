//! What is refused before this door is asked, by the guard that all doors share: as a document, since clients of S3 read no
//! other.

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http::header;

use super::error::S3Error;
use crate::refusal::{Code, Refusal};

/// Bytes of what is said there, at most.
const SAID: usize = 16 << 10;

/// These routes, with all that is refused as a document.
pub(crate) fn in_documents(routes: Router) -> Router {
    routes.layer(from_fn(async |request: Request, next: Next| {
        let path = request.uri().path().to_owned();
        written(&path, next.run(request).await).await
    }))
}

async fn written(path: &str, response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind == "application/json");
    // An object may be JSON, too: it has no code.
    let code = response.extensions().get::<Code>().copied().filter(|_| is_json);
    let Some(code) = code else { return response };
    let (head, body) = response.into_parts();
    let said = to_bytes(body, SAID).await.unwrap_or_default();
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
    let why = Refusal::new(code, said["message"].as_str().unwrap_or_default());
    let id = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
    let mut answer = S3Error::from(why).answer(path, &id);
    for (name, value) in &head.headers {
        if *name != header::CONTENT_LENGTH && !answer.headers().contains_key(name) {
            answer.headers_mut().insert(name.clone(), value.clone());
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http::{HeaderValue, StatusCode};

    use super::*;

    #[tokio::test]
    async fn what_the_guard_refuses_is_a_document_and_objects_stay_as_they_are() {
        let refused = Refusal::new(Code::OtherSite, "it comes from a <page>").into_response();
        let answer = written("/b/k", refused).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/xml");
        let body = to_bytes(answer.into_body(), 1000).await.unwrap();
        let text = String::from_utf8_lossy(&body).into_owned();
        for part in ["<Code>AccessDenied</Code>", "it comes from a &lt;page&gt;", "/b/k"] {
            assert!(text.contains(part), "{text}");
        }
        let mut object = "{}".into_response();
        let json = HeaderValue::from_static("application/json");
        object.headers_mut().insert(header::CONTENT_TYPE, json);
        let body = to_bytes(written("/b/k", object).await.into_body(), 1000).await.unwrap();
        assert_eq!(&body[..], b"{}");
    }
}
