//! What comes by the API: see [`crate::decoders`].

use http::Uri;

use super::asked::said;
use super::query::Query;
use super::{change, links};
use crate::address;
use crate::samples::leads_down;

pub(crate) fn a_json() -> Vec<u8> {
    br#"{"from":"photos/a%20b","to":"photos/c","replace":true}"#.to_vec()
}

pub(crate) fn read_json(bytes: &[u8]) {
    let mut paths = Vec::new();
    if let Ok(change::Way { from, to, .. }) = said(bytes) {
        paths.extend([from, to]);
    }
    if let Ok(links::Wanted { path, .. }) = said(bytes) {
        paths.push(path);
    }
    paths.iter().filter_map(|path| address::read(path).ok()).for_each(|path| leads_down(&path));
}

pub(crate) fn a_query() -> Vec<u8> {
    b"name=a%20b&name=%ff+c&limit=7&modified=1764200000000&download&replace=false&path=a%252Fb"
        .to_vec()
}

pub(crate) fn read_query(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from([&b"/x?"[..], bytes].concat()) else { return };
    let query = Query::of(&uri);
    for name in ["name", "limit", "modified", "download", "replace", "path", "after"] {
        let _ = (query.all(name).count(), query.flag(name).is_ok());
        drop(query.read::<u64>(name, "a number"));
        if let Ok(Some(Ok(path))) = query.one(name).map(|value| value.map(address::read_bytes)) {
            leads_down(&path);
        }
    }
    drop(query.modified());
}
