//! Files out and in.
//!
//! What goes out is never shown as a page of this address: it is one of a few types that run nothing, or just bytes, and has no
//! rights. What comes in takes its name in one step once it is whole and durable, and takes after what it replaces.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use meta::{FILE_MAX, Kind};
use serde_json::json;

use super::asked::{Asked, json};
use super::entry::{Entry, time};
use crate::address::write_name;
use crate::place::{no_folder, refused, replaced, takes_after};
use crate::refusal::{Code, Refusal};
use crate::who::Who;
use crate::{conditions, transfer};

/// Types that a browser shows without running anything, by the ends of names. All else is bytes.
const TYPES: [(&str, &str); 44] = [
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("gif", "image/gif"),
    ("ico", "image/x-icon"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("png", "image/png"),
    ("webp", "image/webp"),
    ("m4v", "video/mp4"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp4", "video/mp4"),
    ("ogv", "video/ogg"),
    ("webm", "video/webm"),
    ("aac", "audio/aac"),
    ("flac", "audio/flac"),
    ("m4a", "audio/mp4"),
    ("mp3", "audio/mpeg"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("opus", "audio/ogg"),
    ("wav", "audio/wav"),
    (PDF.0, PDF.1),
    ("c", TEXT),
    ("conf", TEXT),
    ("cpp", TEXT),
    ("css", TEXT),
    ("csv", TEXT),
    ("go", TEXT),
    ("h", TEXT),
    ("htm", TEXT),
    ("html", TEXT),
    ("ini", TEXT),
    ("js", TEXT),
    ("json", TEXT),
    ("log", TEXT),
    ("md", TEXT),
    ("py", TEXT),
    ("rs", TEXT),
    ("sh", TEXT),
    ("toml", TEXT),
    ("txt", TEXT),
    ("xml", TEXT),
    ("yaml", TEXT),
];
const TEXT: &str = "text/plain; charset=utf-8";
const PDF: (&str, &str) = ("pdf", "application/pdf");

/// What a PDF may: viewers of browsers work in no sandbox, and are shown in a frame of the page.
const PDF_MAY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'self'");

/// The type of a file of this name.
fn type_of(name: &[u8]) -> &'static str {
    let dot = name.iter().rposition(|byte| *byte == b'.');
    let end = dot.map_or(&[][..], |dot| &name[dot + 1..]);
    let known = TYPES.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(end));
    known.map_or("application/octet-stream", |(_, kind)| kind)
}

/// What has a browser keep something as a file of this name (RFC 6266).
pub(super) fn attachment(name: &[u8]) -> HeaderValue {
    let text = String::from_utf8_lossy(name);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ' ');
    let ascii: String = text.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let encoded = write_name(text.as_bytes());
    let said = format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{encoded}");
    HeaderValue::from_str(&said).expect("it is made of digits and letters")
}

/// GET and HEAD of a file.
pub(super) async fn get(who: &Who, asked: &Asked) -> Result<Response, Refusal> {
    let attr = asked.view.stat(&asked.path).await.map_err(|e| refused(&e))?;
    if attr.kind == Kind::Directory {
        let why = "this is a folder: /api/v1/entries/ lists it";
        return Err(Refusal::new(Code::Conflict, why));
    }
    let download = asked.query.flag("download")?;
    let file = asked.view.open(&asked.path).await.map_err(|e| refused(&e))?;
    let mut response = transfer::send(&asked.headers, file, who.sending());
    let name = asked.path.names().last().map_or(&[][..], |name| name);
    let (status, kind) = (response.status(), type_of(name));
    let headers = response.headers_mut();
    if kind == PDF.1 {
        // With what is known already, too: browsers put its headers in the place of those that they know.
        headers.insert(header::CONTENT_SECURITY_POLICY, PDF_MAY);
    }
    if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Ok(response);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if download {
        headers.insert(header::CONTENT_DISPOSITION, attachment(name));
    }
    Ok(response)
}

/// PUT: all of the body, in its place.
///
/// # Errors
/// Whatever is wrong; nothing has changed then.
pub(super) async fn put(asked: &Asked, body: &mut Body) -> Result<Response, Refusal> {
    let path = &asked.path;
    if asked.headers.contains_key(header::CONTENT_RANGE) {
        let why = "a part of a file (Content-Range) cannot be put, only the whole";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    let modified = asked.query.modified()?;
    let look = async || replaced(&asked.view, path, &asked.headers, Code::Conflict).await;
    look().await?;
    let mut upload = asked.view.upload(path).await.map_err(|e| no_folder(&e))?;
    transfer::receive(&asked.headers, body, &mut upload, FILE_MAX).await?;
    // What is there may have changed since; and again, as others put something there, too.
    let mut looks = 0;
    let replaces = loop {
        let (before, replaces) = look().await?;
        if takes_after(&upload, before.as_ref(), &mut looks).await? {
            break replaces;
        }
    };
    if let Some(at) = modified {
        upload.modified_at(time(at)).await.map_err(|e| refused(&e))?;
    }
    let attr = upload.finish(replaces).await.map_err(|e| conditions::refused(&e, replaces))?;
    let entry = Entry::of(&asked.view, path, &attr).await.map_err(|e| refused(&e))?;
    let mut response = json(StatusCode::CREATED, &json!({ "entry": entry }))?;
    transfer::describe(&mut response, &attr);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_run_nothing_are_said() {
        for (name, kind) in [
            (&b"a.PNG"[..], "image/png"),
            (b"b.c.pdf", "application/pdf"),
            (b"index.html", TEXT),
            (b"a.svg", "application/octet-stream"),
            (b"png", "application/octet-stream"),
            (b".", "application/octet-stream"),
            (b"\xff.txt", TEXT),
        ] {
            assert_eq!(type_of(name), kind, "{name:?}");
        }
        for (_, kind) in TYPES {
            let runs = ["html", "svg", "xml", "javascript"].iter().any(|word| kind.contains(word));
            assert!(!runs, "{kind}");
        }
    }

    #[test]
    fn names_for_files_are_no_headers() {
        let of = |name: &[u8]| attachment(name).to_str().unwrap().to_owned();
        assert_eq!(of(b"a b.txt"), "attachment; filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt");
        let odd = of("\u{fc}\"; x=\r\n\\".as_bytes());
        assert_eq!(
            odd,
            "attachment; filename=\"__; x____\"; filename*=UTF-8''%C3%BC%22%3B%20x%3D%0D%0A%5C"
                .replace("__; x____", "___ x____")
        );
        assert!(of(b"\xff").ends_with("UTF-8''%EF%BF%BD"));
    }
}
