//! What tests and [`crate::decoders`] have in common.

use fs::tree::TreePath;
use http::{HeaderMap, HeaderName, HeaderValue};
use meta::{Attr, Ino, Kind, NAME_MAX, Time};

/// A file whose state a client may know.
pub(crate) fn a_file() -> Attr {
    let t = Time { secs: 5, nanos: 7 };
    Attr {
        ino: Ino(9),
        kind: Kind::File,
        mode: 0o644,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        xattrs: 0,
        size: 3,
        stored: 3,
        atime: t,
        mtime: t,
        ctime: t,
        btime: t,
    }
}

/// These headers, all with the same value, as far as it can be one.
pub(crate) fn headers(names: &[&'static str], value: &[u8]) -> HeaderMap {
    let Ok(value) = HeaderValue::from_bytes(value) else { return HeaderMap::new() };
    names.iter().map(|name| (HeaderName::from_static(name), value.clone())).collect()
}

/// # Panics
/// When a path leads anywhere but down.
pub(crate) fn leads_down(path: &TreePath) {
    for name in path.names() {
        let outside = matches!(&**name, b"" | b"." | b"..");
        let split = name.iter().any(|byte| matches!(byte, b'/' | 0));
        assert!(!outside && !split && name.len() <= NAME_MAX, "{path:?}");
    }
}
