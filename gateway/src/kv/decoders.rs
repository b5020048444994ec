//! What comes to key-value: see [`crate::decoders`].

use ::http::Uri;
use axum::extract::Query;

use super::http::{Asked, database};
use super::lines;
use super::text::Encoding;
use crate::names::{decoded, name_of};

pub(crate) fn a_line() -> Vec<u8> {
    br#"{"operation":"put","database":7,"key":"YQ==","value":"\u00fcYg==","after":"","limit":3,"encoding":"base64","id":1.5}"#
        .to_vec()
}

pub(crate) fn read_line(bytes: &[u8]) {
    let Ok(asked) = serde_json::from_slice::<lines::Asked<'_>>(bytes) else { return };
    for text in [&asked.key, &asked.value, &asked.after].into_iter().flatten() {
        if let Ok(read) = asked.encoding.read(text) {
            drop(name_of(&read));
            let encoding = asked.encoding.for_all(std::iter::once(&read[..]));
            let again = encoding.read(&encoding.write(&read));
            assert_eq!(again.as_ref(), Ok(&read), "bytes come back as they are written");
        }
    }
}

pub(crate) fn an_address() -> Vec<u8> {
    b"7/a%2fb?after=YQ%3D%3D&limit=10&encoding=base64".to_vec()
}

pub(crate) fn read_address(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from([&b"/kv/"[..], bytes].concat()) else { return };
    let path = uri.path().strip_prefix("/kv/").unwrap_or_default();
    let (number, key) = path.split_once('/').unwrap_or((path, ""));
    if let Ok(found) = database(number) {
        assert_eq!(found.to_string(), number, "a database has one number");
    }
    drop(name_of(&decoded(key)));
    if let Ok(Query(Asked { after, encoding, .. })) = Query::try_from_uri(&uri) {
        drop(encoding.read(&after));
        drop(Encoding::Base64.read(&after));
    }
}
