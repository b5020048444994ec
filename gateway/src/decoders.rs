//! What comes by a door before anything is done about it, to be tried with whatever clients may send: see
//! [`proto::decoders`]. Those of a door are in a file of the same name in its folder.

use fs::tree::TreePath;
use http::{HeaderValue, header};
use proto::decoders::{Decoder, unsealed};

use crate::names::{decoded, key_of, name_of};
use crate::samples::{a_file, headers, leads_down};
use crate::{address, api, conditions, dav, kv, s3, transfer};

/// Those of this crate.
pub const DECODERS: &[Decoder] = &[
    of("path of an address", read_path, || b"photos/May%202026/a%2Bb/%c3%bc%ff".to_vec()),
    of("key as a name", read_key, || b"a/b%2F..\0.x".to_vec()),
    of("conditions and ranges", read_conditions, || b"bytes=2-5, W/\"9-5.7-3\"".to_vec()),
    of("JSON of the API", api::decoders::read_json, api::decoders::a_json),
    of("query of the API", api::decoders::read_query, api::decoders::a_query),
    of("line of key-value", kv::decoders::read_line, kv::decoders::a_line),
    of("address of key-value", kv::decoders::read_address, kv::decoders::an_address),
    of("XML of WebDAV", dav::decoders::read_xml, dav::decoders::an_xml),
    of("headers of WebDAV", dav::decoders::read_headers, dav::decoders::a_header),
    of("XML of S3", s3::decoders::read_xml, s3::decoders::an_xml),
    of("address of S3", s3::decoders::read_address, s3::decoders::an_address),
    of("signature of S3", s3::decoders::read_signature, s3::decoders::a_signature),
    of("body in chunks of S3", s3::decoders::read_chunks, s3::decoders::a_body),
    of("attributes of S3", s3::decoders::read_attributes, s3::decoders::an_attribute),
];

const fn of(name: &'static str, decode: fn(&[u8]), example: fn() -> Vec<u8>) -> Decoder {
    Decoder { name, decode, example, seal: unsealed }
}

fn read_path(bytes: &[u8]) {
    if let Ok(path) = TreePath::parse(bytes) {
        leads_down(&path);
    }
    if let Ok(path) = address::read_bytes(bytes) {
        leads_down(&path);
        let again = address::read(&address::write(&path));
        assert_eq!(again.as_ref(), Ok(&path), "a path is found again by its address");
        assert!(address::is_in(&path, &TreePath::default()), "all is below the root");
    }
}

fn read_key(bytes: &[u8]) {
    drop(std::str::from_utf8(bytes).map(decoded));
    if let Some(key) = key_of(bytes) {
        assert_eq!(name_of(&key).as_deref(), Ok(bytes), "a name that is that of a key");
    }
    if let Ok(name) = name_of(bytes) {
        leads_down(&TreePath::of_name(&name).expect("the name of a key is one of a file"));
        assert_eq!(key_of(&name).as_deref(), Some(bytes), "a key is that of its name");
    }
}

fn read_conditions(bytes: &[u8]) {
    let file = a_file();
    for names in [
        &["if-match"][..],
        &["if-none-match"],
        &["if-match", "if-none-match"],
        &["if-modified-since", "if-unmodified-since"],
        &["if-none-match", "if-unmodified-since"],
    ] {
        let headers = headers(names, bytes);
        let _ = (conditions::is_known(&headers, &file), conditions::are_there(&headers));
        drop(conditions::replaces(&headers, Some(&file)));
        drop(conditions::replaces(&headers, None));
    }
    let mut ranges = headers(&["range"], bytes);
    for _ in 0..2 {
        if let transfer::Wanted::Part(part) = transfer::wanted(&ranges, &file) {
            assert!(part.start < part.end && part.end <= file.size, "{part:?}");
        }
        ranges.insert(header::IF_RANGE, HeaderValue::from_static("\"9-5.7-3\""));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn whatever_comes_is_read_or_refused() {
        proto::decoders::hold(super::DECODERS);
    }
}
