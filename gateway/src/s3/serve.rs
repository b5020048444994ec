//! Which request is answered by what.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::any;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, header};

use super::asked::Asked;
use super::body::Incoming;
use super::document::insert;
use super::door::Door;
use super::error::{S3Error, S3Result, Wrong};
use super::object;
use super::{answers, buckets, checksums, delete, list, multipart, put, tagging, uploads};
use crate::refusal::Refusal;
use crate::server::{Peer, peer};
use crate::through::carried;
use crate::who::heard_out;
use crate::{guard, metrics, transfer};

/// Longest document, in bytes: 10,000 parts, or 1,000 keys.
const DOCUMENT: usize = 4 << 20;
/// Those up to here are read however many there are.
const SMALL: u64 = 64 << 10;
/// How long a larger one waits for its turn.
const TURN: Duration = Duration::from_secs(30);
/// How long a document may take to come: it may hold a turn meanwhile.
const COMES: Duration = Duration::from_secs(60);

/// What of a bucket is asked for, beside what is in it.
const OF_BUCKETS: [&str; 24] = [
    "accelerate",
    "analytics",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metadataConfiguration",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "session",
    "usage",
    "versioning",
    "website",
];
/// What of an object is asked for that there is not.
const OF_OBJECTS: [&str; 8] = [
    "append",
    "encryption",
    "legal-hold",
    "renameObject",
    "restore",
    "retention",
    "select",
    "torrent",
];

/// All addresses.
pub(crate) fn routes(door: Arc<Door>) -> Router {
    Router::new()
        .route("/", any(answer))
        .route("/{*path}", any(answer))
        .layer(from_fn(async |request: Request, next: Next| {
            metrics::counted("s3", request, next).await
        }))
        .with_state(door)
}

async fn answer(State(door): State<Arc<Door>>, request: Request) -> Response {
    let id = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
    let from = (peer(&request), guard::named(&request));
    let (head, body) = request.into_parts();
    let answered = answered(&door, &head, body, from).await;
    let mut response = answered.unwrap_or_else(|why| why.answer(head.uri.path(), &id));
    insert(&mut response, "x-amz-request-id", &id);
    response
}

async fn answered(
    door: &Arc<Door>,
    head: &Parts,
    body: Body,
    from: (Peer, Result<(), Refusal>),
) -> S3Result<Response> {
    let asked = Asked::of(door, head, from).await;
    let mut asked = match asked.and_then(|asked| meant(&asked).map(|()| asked)) {
        Ok(asked) => asked,
        Err(why) => {
            heard_out(&head.headers, body).await;
            return Err(why);
        }
    };
    if matches!(asked.method, Method::GET | Method::HEAD) {
        // It changes nothing, so it ends when nobody waits for it any more.
        return Box::pin(without(&asked)).await;
    }
    if !matches!(asked.method, Method::PUT | Method::POST) {
        return carried("a request by S3", async move { without(&asked).await }).await;
    }
    let is_document = is_document(&asked);
    let chain = asked.chain.take();
    let incoming = match Incoming::of(&said_of_body(&asked), &asked.payload, chain) {
        Ok(incoming) => incoming.of_body(body),
        Err(why) => {
            heard_out(&head.headers, body).await;
            return Err(why);
        }
    };
    match is_document {
        true => with_document(asked, head, incoming).await,
        false => with_content(asked, head, incoming).await,
    }
}

/// Refuses what would be done otherwise than it is meant: where something is changed, a word that nobody knows here might say
/// that another thing is; and a bucket that is to be somebody else's is not.
fn meant(asked: &Asked) -> S3Result<()> {
    for name in ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"] {
        if asked.header(name).is_some_and(|owner| owner != asked.user) {
            let why =
                format!("{name} names somebody else than {}, whose buckets these are", asked.user);
            return Err(S3Error::new(Wrong::AccessDenied, why));
        }
    }
    let of_object = !asked.key.is_empty();
    let known: &[&str] = match (asked.method.as_str(), of_object) {
        ("PUT", true) => &["acl", "partNumber", "tagging", "uploadId", "versionId"],
        ("PUT", false) => &["acl", "tagging"],
        ("DELETE", true) => &["tagging", "uploadId", "versionId"],
        ("DELETE", false) => &["tagging"],
        _ => return Ok(()),
    };
    let others: &[&str] = if of_object { &OF_OBJECTS } else { &OF_BUCKETS };
    let is_known = |name: &str| {
        let of_all = name == "x-id" || name.to_ascii_lowercase().starts_with("x-amz-");
        of_all || known.contains(&name) || others.contains(&name)
    };
    match asked.query.all().map(|(name, _)| name).find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(S3Error::not_there(&format!("{} of ?{name}", asked.method))),
    }
}

/// What the head says of its body: of an upload that is completed, the checksum is that of the object.
fn said_of_body(asked: &Asked) -> HeaderMap {
    let mut headers = asked.headers.clone();
    let is_complete = asked.method == Method::POST && asked.query.has("uploadId");
    let is_copy = headers.contains_key("x-amz-copy-source");
    if is_complete || is_copy {
        for name in checksums::names() {
            headers.remove(name);
        }
    }
    // Nothing is sent, by some clients without saying so.
    let has_length = headers.contains_key(header::CONTENT_LENGTH)
        || headers.contains_key(header::TRANSFER_ENCODING);
    if !has_length && (is_document(asked) || is_copy) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    headers
}

/// Is the body a document, or nothing, and not the content of an object?
fn is_document(asked: &Asked) -> bool {
    let of_object = asked.method == Method::PUT && !asked.key.is_empty();
    let other = ["acl", "tagging"].iter().chain(&OF_OBJECTS).any(|name| asked.query.has(name));
    !of_object || other || asked.headers.contains_key("x-amz-copy-source")
}

/// The content of an object, or of a part of one.
async fn with_content(asked: Asked, head: &Parts, mut body: Incoming) -> S3Result<Response> {
    let asked = Arc::new(asked);
    let stored = match asked.query.has("uploadId") {
        true => multipart::put(&asked, &mut body).await,
        false => put::put(&asked, &mut body).await,
    };
    settled(stored, &head.headers, body).await
}

async fn with_document(asked: Asked, head: &Parts, mut body: Incoming) -> S3Result<Response> {
    let len: Option<u64> =
        head.headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    let door = asked.door.clone();
    let turn = match len {
        Some(len) if len <= SMALL => None,
        _ => match tokio::time::timeout(TURN, door.documents.acquire()).await {
            Ok(turn) => turn.ok(),
            Err(_) => {
                let why = "others have long documents read right now: try again";
                return Err(S3Error::new(Wrong::SlowDown, why));
            }
        },
    };
    let read = body.whole(DOCUMENT, Wrong::MalformedXML);
    let read = tokio::time::timeout(COMES, read).await.unwrap_or_else(|_| {
        let why = format!("the document did not come within {} s", COMES.as_secs());
        Err(S3Error::new(Wrong::RequestTimeout, why))
    });
    let (text, _) = settled(read, &head.headers, body).await?;
    let done = carried("a request by S3", async move { with(&asked, &text).await }).await;
    drop(turn);
    done
}

/// What came of a body. Of one that was refused the rest is read, within bounds.
async fn settled<T>(done: S3Result<T>, headers: &HeaderMap, body: Incoming) -> S3Result<T> {
    if done.is_err() {
        let refused = Err::<(), _>(Refusal::new(crate::refusal::Code::BadRequest, ""));
        let _refused = transfer::settled(refused, headers, body.rest()).await;
    }
    done
}

fn wrong_method(asked: &Asked) -> S3Error {
    S3Error::new(Wrong::MethodNotAllowed, format!("{} is not possible there", asked.method))
}

fn found<'a>(asked: &Asked, names: &[&'a str]) -> Option<&'a str> {
    names.iter().copied().find(|name| asked.query.has(name))
}

/// Requests that have no body.
async fn without(asked: &Asked) -> S3Result<Response> {
    let has = |name: &str| asked.query.has(name);
    let (bucket, key) = (!asked.bucket.is_empty(), !asked.key.is_empty());
    match asked.method.as_str() {
        "GET" if !bucket => buckets::all(asked).await,
        "GET" | "DELETE" if !key && has("tagging") => tagging::of_bucket(asked, &[]).await,
        "GET" | "DELETE" if key && has("tagging") => tagging::of_object(asked, &[]).await,
        "GET" if has("acl") => answers::access(asked, &[]).await,
        "GET" if key && has("attributes") => object::attributes(asked).await,
        "GET" if key && has("uploadId") => uploads::parts_of_one(asked).await,
        "DELETE" if key && has("uploadId") => multipart::abort(asked).await,
        "GET" | "DELETE" if !key && bucket && found(asked, &OF_BUCKETS).is_some() => {
            answers::of_bucket(asked, found(asked, &OF_BUCKETS).unwrap_or_default(), &[]).await
        }
        "GET" | "DELETE" if key && found(asked, &OF_OBJECTS).is_some() => {
            answers::of_object(asked, found(asked, &OF_OBJECTS).unwrap_or_default())
        }
        "GET" | "HEAD" if key => object::get(asked).await,
        "GET" if has("uploads") => uploads::all(asked).await,
        "GET" if has("versions") => list::versions(asked).await,
        "GET" => match asked.query.get("list-type") {
            None => list::first_version(asked).await,
            Some("2") => list::second_version(asked).await,
            Some(_) => Err(S3Error::new(Wrong::InvalidArgument, "list-type is 2, or not there")),
        },
        "HEAD" if bucket => buckets::head(asked).await,
        "DELETE" if key => delete::one(asked).await,
        "DELETE" if bucket => buckets::remove(asked).await,
        "OPTIONS" => {
            let why = "pages of other sites may not come in here (CORS)";
            Err(S3Error::new(Wrong::AccessDenied, why))
        }
        _ => Err(wrong_method(asked)),
    }
}

/// Requests with a document.
async fn with(asked: &Asked, body: &[u8]) -> S3Result<Response> {
    let has = |name: &str| asked.query.has(name);
    let (bucket, key) = (!asked.bucket.is_empty(), !asked.key.is_empty());
    let is_form =
        asked.header("content-type").is_some_and(|kind| kind.starts_with("multipart/form-data"));
    match asked.method.as_str() {
        _ if !bucket => Err(wrong_method(asked)),
        "PUT" if has("acl") => answers::access(asked, body).await,
        "PUT" if has("tagging") && key => tagging::of_object(asked, body).await,
        "PUT" if has("tagging") => tagging::of_bucket(asked, body).await,
        "PUT" if key && found(asked, &OF_OBJECTS).is_some() => {
            answers::of_object(asked, found(asked, &OF_OBJECTS).unwrap_or_default())
        }
        "PUT" if key && has("uploadId") => multipart::copy(asked).await,
        "PUT" if key => put::copy(asked).await,
        "PUT" => match found(asked, &OF_BUCKETS) {
            Some(what) => answers::of_bucket(asked, what, body).await,
            None => buckets::make(asked, body).await,
        },
        "POST" if key && has("uploads") => multipart::create(asked).await,
        "POST" if key && has("uploadId") => multipart::complete(asked, body).await,
        "POST" if !key && has("delete") => delete::many(asked, body).await,
        "POST" if !key && is_form => Err(S3Error::not_there("an upload by a form (POST)")),
        "POST" => match found(asked, &OF_OBJECTS) {
            Some(what) => answers::of_object(asked, what),
            None => Err(wrong_method(asked)),
        },
        _ => Err(wrong_method(asked)),
    }
}
