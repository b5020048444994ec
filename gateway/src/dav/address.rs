//! Addresses below `/dav/`, as paths of the tree and back. Pure.

use fs::tree::TreePath;
use http::{HeaderMap, Uri, header};

use crate::address;
use crate::refusal::{Code, Refusal};

/// What all addresses of this door begin with.
const PREFIX: &str = "/dav";

/// Where something is, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) path: TreePath,
    /// It ends with a slash, as that of a folder does.
    pub(super) slash: bool,
}

fn bad(why: impl ToString) -> Refusal {
    Refusal::new(Code::BadRequest, why.to_string())
}

/// The path of an address, as the request says it.
///
/// # Errors
/// When it is of another door, or leads to no place that a tree could have.
pub(super) fn read(text: &str) -> Result<Address, Refusal> {
    let below = text.strip_prefix(PREFIX).filter(|rest| matches!(rest.as_bytes(), [] | [b'/', ..]));
    let Some(below) = below else {
        return Err(bad("an address outside of /dav/"));
    };
    let names = below.strip_prefix('/').unwrap_or(below);
    let slash = names.is_empty() || names.ends_with('/');
    Ok(Address { path: address::read(names)?, slash })
}

/// The address of a path. `folder`: with a slash at its end.
pub(super) fn write(path: &TreePath, folder: bool) -> String {
    let end = if folder && !path.names().is_empty() { "/" } else { "" };
    format!("{PREFIX}/{}{end}", address::write(path))
}

/// An address in a header: with or without the server, which has to be this one.
///
/// # Errors
/// When it is none, or of another server.
pub(super) fn named(headers: &HeaderMap, text: &str) -> Result<Address, Refusal> {
    let uri: Uri = text.parse().map_err(|_| bad(format!("{text:?} is no address")))?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match uri.authority() {
        Some(authority) if !authority.as_str().eq_ignore_ascii_case(host) => {
            let why = format!("{authority} is another server than {host}");
            Err(Refusal::new(Code::OtherServer, why))
        }
        _ if uri.query().is_some() => Err(bad("a ? in an address: in a name it is %3F")),
        _ => read(uri.path()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(names: &[&[u8]]) -> TreePath {
        names.iter().fold(TreePath::default(), |path, name| path.join(name).unwrap())
    }

    #[test]
    fn addresses_lead_down_or_are_refused() {
        let cases: [(&str, &[&[u8]], bool); 8] = [
            ("/dav", &[], true),
            ("/dav/", &[], true),
            ("/dav/a", &[b"a"], false),
            ("/dav/a/b/", &[b"a", b"b"], true),
            ("/dav/a%20b/%c3%bc", &[b"a b", b"\xc3\xbc"], false),
            ("/dav/%ff%FE", &[b"\xff\xfe"], false),
            ("/dav/100%25/%zz", &[b"100%", b"%zz"], false),
            ("/dav/...", &[b"..."], false),
        ];
        for (text, names, slash) in cases {
            let found = read(text).unwrap();
            assert_eq!(found, Address { path: path(names), slash }, "{text}");
        }
        let long = format!("/dav/{}", "a".repeat(256));
        let longer = format!("/dav/{}", "abcdefg/".repeat(600));
        for text in [
            "/davx",
            "/refs/a",
            "",
            "/dav//a",
            "/dav/a//b",
            "/dav/..",
            "/dav/a/../b",
            "/dav/%2e%2E/etc/passwd",
            "/dav/a%2fb",
            "/dav/..%2f..%2fetc",
            "/dav/a%00",
            "/dav/./a",
            &long,
            &longer,
        ] {
            assert_eq!(read(text).unwrap_err().code, Code::BadRequest, "{text}");
        }
    }

    #[test]
    fn only_this_server_is_meant() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "localhost:7480".parse().unwrap());
        for text in ["/dav/a", "http://localhost:7480/dav/a", "http://LOCALHOST:7480/dav/a"] {
            assert_eq!(named(&headers, text).unwrap().path, path(&[b"a"]), "{text}");
        }
        for (text, code) in [
            ("http://example.org/dav/a", Code::OtherServer),
            ("http://localhost:7481/dav/a", Code::OtherServer),
            ("http://localhost:7480/refs/a", Code::BadRequest),
            ("/dav/a?b", Code::BadRequest),
            ("dav/a b", Code::BadRequest),
            ("", Code::BadRequest),
        ] {
            assert_eq!(named(&headers, text).unwrap_err().code, code, "{text}");
        }
    }

    proptest! {
        #[test]
        fn each_path_is_found_again_by_its_address(names: Vec<Vec<u8>>, folder: bool) {
            let joined = names.iter().try_fold(TreePath::default(), |path, name| path.join(name));
            if let Ok(path) = joined {
                prop_assert_eq!(read(&write(&path, folder)).unwrap().path, path);
            }
        }
    }
}
