//! Bodies: into a file that is being written, and out of one that is read.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fs::tree::{OpenFile, Sending, Upload};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use http_range_header::{EndPosition, StartPosition};
use meta::Attr;

use crate::conditions;
use crate::metrics;
use crate::refusal::{Code, Refusal};

/// How long a client may send nothing of a body.
pub(crate) const STALLED: Duration = Duration::from_secs(30);

/// Bytes of a refused body that are read all the same, and for how long.
const DRAINED: u64 = 32 << 20;
const DRAINING: Duration = Duration::from_secs(5);

/// Receives a body of at most `limit` bytes into a file.
///
/// # Errors
/// When it breaks off, stalls, or is too long, or cannot be stored.
pub(crate) async fn receive(
    headers: &HeaderMap,
    body: &mut Body,
    upload: &mut Upload,
    limit: u64,
) -> Result<(), Refusal> {
    let too_long = || {
        let why = format!("{limit} bytes are possible here, and no more");
        Err(Refusal::new(Code::TooLarge, why))
    };
    if said(headers).is_some_and(|len| len > limit) {
        return too_long();
    }
    while let Some(bytes) = next(body).await? {
        metrics::received(bytes.len());
        if upload.written() + bytes.len() as u64 > limit {
            return too_long();
        }
        let written = upload.write(bytes).await;
        written.map_err(|e| Refusal::of(&e, Code::Conflict))?;
    }
    Ok(())
}

/// The next bytes of a body. `None`: there are no more.
///
/// # Errors
/// When it breaks off, or stalls.
pub(crate) async fn next(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = match tokio::time::timeout(STALLED, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(e))) => {
                return Err(Refusal::new(Code::BadRequest, format!("the body broke off: {e}")));
            }
            Err(_) => {
                let why = format!("nothing more of the body came for {} s", STALLED.as_secs());
                return Err(Refusal::new(Code::TooSlow, why));
            }
        };
        // Trailers are not content.
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
}

/// How long a body is said to be.
pub(crate) fn said(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// All of a body that says what is to be done, of at most `limit` bytes.
///
/// # Errors
/// When it breaks off, stalls, or is too long.
pub(crate) async fn small(
    headers: &HeaderMap,
    body: &mut Body,
    limit: usize,
) -> Result<Vec<u8>, Refusal> {
    let too_long = || {
        let why = format!("a body of more than {limit} bytes, where it says what is to be done");
        Refusal::new(Code::TooLarge, why)
    };
    if said(headers).is_some_and(|len| len > limit as u64) {
        return Err(too_long());
    }
    let mut whole = Vec::new();
    while let Some(bytes) = next(body).await? {
        if whole.len() + bytes.len() > limit {
            return Err(too_long());
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole)
}

/// What came of a body. Of one that was refused the rest is read, within bounds: who sends it hears the answer only when it has
/// sent everything, or asked before.
pub(crate) async fn settled<T>(
    stored: Result<T, Refusal>,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Refusal> {
    if stored.is_err() {
        drain(headers, body).await;
    }
    stored
}

/// Reads the rest of a body that nobody wants, within bounds, unless its sender asked before he sent it.
pub(crate) async fn drain(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let drain = async {
        let mut left = DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            let len = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            if len >= left {
                return;
            }
            left -= len;
        }
    };
    // Whoever is slower than that hears that the connection ends.
    let _late = tokio::time::timeout(DRAINING, drain).await;
}

/// What of a file is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Whole,
    Part(Range<u64>),
    /// None of it is there.
    Beyond,
}

/// One range is obeyed. Several in one request are answered by the whole, as is what is no range.
pub(crate) fn wanted(headers: &HeaderMap, attr: &Attr) -> Wanted {
    let Some(text) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Wanted::Whole;
    };
    if conditions::is_outdated(headers, attr) {
        return Wanted::Whole;
    }
    let Ok(parsed) = http_range_header::parse_range_header(text) else { return Wanted::Whole };
    let [one] = parsed.ranges.as_slice() else { return Wanted::Whole };
    let range = match (one.start, one.end) {
        (StartPosition::FromLast(len), _) => attr.size.saturating_sub(len)..attr.size,
        (StartPosition::Index(from), EndPosition::LastByte) => from..attr.size,
        (StartPosition::Index(from), EndPosition::Index(last)) if last < from => {
            return Wanted::Whole;
        }
        (StartPosition::Index(from), EndPosition::Index(last)) => {
            from..last.saturating_add(1).min(attr.size)
        }
    };
    if range.is_empty() { Wanted::Beyond } else { Wanted::Part(range) }
}

/// The answer to GET of a file, and the head of it to HEAD.
pub(crate) fn send(headers: &HeaderMap, file: OpenFile, memory: Sending) -> Response {
    let attr = *file.attr();
    let mut response = if conditions::is_known(headers, &attr) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match wanted(headers, &attr) {
            Wanted::Whole => content(file, 0..attr.size, memory),
            Wanted::Part(range) => {
                let said = format!("bytes {}-{}/{}", range.start, range.end - 1, attr.size);
                let mut response = content(file, range, memory);
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                insert(&mut response, header::CONTENT_RANGE, &said);
                response
            }
            Wanted::Beyond => {
                let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
                insert(&mut response, header::CONTENT_RANGE, &format!("bytes */{}", attr.size));
                response
            }
        }
    };
    describe(&mut response, &attr);
    response
}

/// Seconds since the epoch.
const YEAR_10000: u64 = 253_402_300_800;

/// Says of an answer which state of a file it is about.
pub(crate) fn describe(response: &mut Response, attr: &Attr) {
    insert(response, header::ETAG, &conditions::tag(attr));
    // A year has four digits there.
    if let Some(secs) = u64::try_from(attr.mtime.secs).ok().filter(|secs| *secs < YEAR_10000) {
        let modified: SystemTime = UNIX_EPOCH + Duration::from_secs(secs);
        insert(response, header::LAST_MODIFIED, &httpdate::fmt_http_date(modified));
    }
}

fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    let value = HeaderValue::from_str(value).expect("it is made of digits and letters");
    response.headers_mut().insert(name, value);
}

/// Bytes of a file, as they come.
pub(crate) fn content(file: OpenFile, range: Range<u64>, memory: Sending) -> Response {
    let len = range.end - range.start;
    let stream = file.stream(range, memory).inspect(|chunk| match chunk {
        Ok(bytes) => metrics::sent(bytes.len()),
        // The client sees that the content breaks off.
        Err(e) => tracing::error!("a door breaks off what it sends: {e}"),
    });
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, len.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::a_file;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_waited_for_and_one_of_which_nothing_comes_is_not() {
        const PAUSE: Duration = STALLED.saturating_sub(Duration::from_secs(1));
        const PIECES: u32 = 10;
        let (sender, receiver) = futures::channel::mpsc::unbounded::<std::io::Result<Bytes>>();
        let mut body = Body::from_stream(receiver);
        let began = tokio::time::Instant::now();
        let trickles = async {
            for _ in 0..PIECES {
                tokio::time::sleep(PAUSE).await;
                sender.unbounded_send(Ok(Bytes::from_static(b"x"))).unwrap();
            }
        };
        let reads = async {
            for _ in 0..PIECES {
                assert_eq!(next(&mut body).await, Ok(Some(Bytes::from_static(b"x"))));
            }
        };
        tokio::join!(trickles, reads);
        let refused = next(&mut body).await.unwrap_err();
        assert_eq!((refused.code, refused.code.status().as_u16()), (Code::TooSlow, 408));
        let (took, expected) = (began.elapsed(), PAUSE * PIECES + STALLED);
        assert!((expected..expected + Duration::from_secs(1)).contains(&took), "{took:?}");
        drop(sender);
        assert_eq!(next(&mut body).await, Ok(None), "it ends");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_refused() {
        let broken = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let pieces = [Ok(Bytes::from_static(b"x")), Err(broken)];
        let mut body = Body::from_stream(futures::stream::iter(pieces));
        assert_eq!(next(&mut body).await, Ok(Some(Bytes::from_static(b"x"))));
        assert_eq!(next(&mut body).await.unwrap_err().code, Code::BadRequest);
    }

    #[test]
    fn one_range_is_a_part_and_what_is_none_means_the_whole() {
        let attr = Attr { size: 10, ..a_file() };
        for (text, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2-5", Wanted::Part(2..6)),
            ("bytes=2-", Wanted::Part(2..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-30", Wanted::Part(0..10)),
            ("bytes=5-100", Wanted::Part(5..10)),
            ("bytes=10-", Wanted::Beyond),
            ("bytes=10-20", Wanted::Beyond),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("bytes=5-2", Wanted::Whole),
            // A server may ignore what asks for nothing.
            ("bytes=-0", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, text.parse().unwrap());
            assert_eq!(wanted(&headers, &attr), expected, "{text}");
            headers.insert(header::IF_RANGE, "\"another\"".parse().unwrap());
            assert_eq!(wanted(&headers, &attr), Wanted::Whole, "{text} of another state");
        }
    }
}
