//! What comes by S3: see [`crate::decoders`].

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use meta::Secret;

use super::attributes::{Described, Seen};
use super::chunks::Chunks;
use super::elements;
use super::keys::{self, Key};
use super::object::FolderMark;
use super::query::Query;
use super::signature::{self, Head};
use super::tags::Tags;
use super::xml::Xml;
use super::{checksums, conditions, delete, multipart, times};
use crate::samples::{a_file, headers, leads_down};

/// When the examples were signed.
const NOW: u64 = 1_369_353_600;
const TIME: &str = "20130524T000000Z";

pub(crate) fn an_xml() -> Vec<u8> {
    b"<?xml version='1.0'?><Delete xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Object><Key>a &amp; &#65;</Key>\
      <VersionId>null</VersionId><ETag>\"x\"</ETag></Object><Part><PartNumber>1</PartNumber><ETag>\"x\"</ETag></Part>\
      <TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet><Quiet/></Delete>"
        .to_vec()
}

pub(crate) fn read_xml(bytes: &[u8]) {
    let mut said = Vec::new();
    let read = elements::read(bytes, |_, seen| {
        if let elements::Seen::Leaf(text) = seen {
            said.push(text.to_owned());
        }
        Ok(())
    });
    // A zero byte is in no document that is made here: no key has one.
    if read.is_ok() && !said.iter().any(|text| text.contains('\0')) {
        let mut written = Xml::new("All");
        for text in &said {
            written.text("Key", text);
        }
        let mut again = Vec::new();
        let read = elements::read(written.end("All").as_bytes(), |_, seen| {
            if let elements::Seen::Leaf(text) = seen {
                again.push(text.to_owned());
            }
            Ok(())
        });
        assert_eq!((read, again), (Ok(()), said), "texts come back as they are written");
    }
    drop(delete::read(bytes));
    drop(multipart::read(bytes));
    drop(Tags::of_document(bytes, 10));
}

pub(crate) fn an_address() -> Vec<u8> {
    b"/photos/2026/May%20%c3%bc?list-type=2&max-keys=7&prefix=a%2Fb%20c+&uploads&partNumber=1"
        .to_vec()
}

pub(crate) fn read_address(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let (bucket, key) = keys::split(path);
    let _ = keys::may_be_made(&bucket);
    if let Ok(folder) = keys::bucket(&bucket) {
        leads_down(&folder);
        if let Ok(key) = Key::of(&folder, key) {
            leads_down(&key.path);
            assert!(key.path.names().len() > 1, "an object is in its bucket");
            drop(key.text());
        }
    }
    if let Ok(query) = Query::parse(query) {
        drop(query.number("max-keys", 1000));
        let _ = (query.has("uploads"), query.all().count());
    }
    drop(multipart::source_range(Some(text), 9000));
    let _ = (times::of_http(text), times::of_basic(text));
}

pub(crate) fn a_signature() -> Vec<u8> {
    b"AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
      SignedHeaders=host;range;x-amz-date,Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41&\
      X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&\
      X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02e"
        .to_vec()
}

/// A header, and behind the first `&` an address.
pub(crate) fn read_signature(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'&').unwrap_or(bytes.len());
    let (shown, query) = bytes.split_at(at);
    let mut signed = headers(&["authorization", "range"], shown);
    signed.insert("x-amz-date", HeaderValue::from_static(TIME));
    signed.insert(header::HOST, HeaderValue::from_static("localhost"));
    is_not_signed(&signed, &Query::default());
    let query = std::str::from_utf8(query).ok().and_then(|text| Query::parse(text).ok());
    signed.remove(header::AUTHORIZATION);
    is_not_signed(&signed, &query.unwrap_or_default());
}

fn is_not_signed(headers: &HeaderMap, query: &Query) {
    if let Ok(Some(signed)) = signature::find(headers, query, NOW) {
        let head = Head { method: "GET", path: "/a%20b", query, headers };
        let checked = signed.check(&Secret(b"nobody knows it".to_vec()), &head, "UNSIGNED-PAYLOAD");
        assert!(checked.is_err(), "signed without the secret");
    }
}

pub(crate) fn a_body() -> Vec<u8> {
    b"\x073\r\nabc\r\n2;x=y\r\nde\r\n0\r\nx-amz-checksum-crc32:QUJD\r\n\r\n".to_vec()
}

/// In pieces as large as the first byte says.
pub(crate) fn read_chunks(bytes: &[u8]) {
    let Some((piece, body)) = bytes.split_first() else { return };
    let (mut chunks, mut content) = (Chunks::new(None), 0);
    for piece in body.chunks(usize::from(*piece).max(1)) {
        let mut came = Bytes::copy_from_slice(piece);
        loop {
            match chunks.take(&mut came) {
                Ok(Some(bytes)) => content += bytes.len(),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(content <= body.len(), "more content than came");
    if let Ok(trailers) = chunks.end() {
        assert!(trailers.len() <= 16, "more trailers than may be");
    }
}

pub(crate) fn an_attribute() -> Vec<u8> {
    br#"{"tag":"900150983cd24fb0d6963f7d28e17f72","size":3,"secs":5,"nanos":7,"parts":[[2,1],[1,1]]}"#.to_vec()
}

/// What whoever may write a file may have set beside it, and headers that are kept so.
pub(crate) fn read_attributes(bytes: &[u8]) {
    let file = a_file();
    let seen = Seen::of(&file, Some(bytes));
    if let Some(state) = &seen.state {
        for number in [0, 1, 2, 3, state.part_count(), u32::MAX] {
            let part = state.part(number).unwrap_or_default();
            assert!(part.0 <= part.1 && part.1 <= file.size, "{part:?}");
        }
    }
    Described::read(Some(bytes)).write(&mut HeaderMap::new());
    drop(Tags::read(Some(bytes)).kept());
    if let Some(mark) = FolderMark::read(Some(bytes)) {
        drop(mark.seen());
    }
    let all = headers(&["x-amz-meta-a", "content-type", "content-encoding", "if-match"], bytes);
    if let Ok(described) = Described::of(&all) {
        assert_eq!(Described::read(described.kept().as_deref()), described, "as it is kept");
    }
    drop(checksums::said(&headers(&["x-amz-checksum-crc32"], bytes)));
    drop(conditions::replaces(&all, Some((&seen, &file))));
    drop(conditions::read(&all, "", &seen, &file));
}
