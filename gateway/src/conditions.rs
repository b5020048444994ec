//! Conditions of a request: what is there so far has to be what the client believes. Pure.

use fs::tree::TreeError;
use http::{HeaderMap, header};
use meta::{Attr, Replaces};

use crate::refusal::{Code, Refusal};

/// The tag of a file as it is: another one after each change.
pub(crate) fn tag(attr: &Attr) -> String {
    let (secs, nanos) = (attr.mtime.secs, attr.mtime.nanos);
    format!("\"{:x}-{secs:x}.{nanos:x}-{:x}\"", attr.ino.0, attr.size)
}

/// Is this tag in a header's list of them, or any of them meant?
fn names(list: &str, tag: &str) -> bool {
    let plain = |word: &str| word.trim().trim_start_matches("W/").to_owned();
    list.trim() == "*" || list.split(',').any(|word| plain(word) == tag)
}

/// All values of a header, in one. One that is no text says nothing that could hold.
fn header(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
    let values: Vec<&str> = values.collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// Does the client say what may be there?
pub(crate) fn are_there(headers: &HeaderMap) -> bool {
    [header::IF_MATCH, header::IF_NONE_MATCH].iter().any(|name| headers.contains_key(name))
}

/// Has the client, who reads, this already?
pub(crate) fn is_known(headers: &HeaderMap, attr: &Attr) -> bool {
    knows(headers, &tag(attr))
}

/// Has the client, who reads, what has this tag?
pub(crate) fn knows(headers: &HeaderMap, tag: &str) -> bool {
    header(headers, &header::IF_NONE_MATCH).is_some_and(|list| names(&list, tag))
}

/// Is a range of another state of the file meant?
pub(crate) fn is_outdated(headers: &HeaderMap, attr: &Attr) -> bool {
    header(headers, &header::IF_RANGE).is_some_and(|known| known != tag(attr))
}

/// What a client who writes allows to be replaced, where `before` is there.
///
/// # Errors
/// When it is not what the client wants to replace.
pub(crate) fn replaces(headers: &HeaderMap, before: Option<&Attr>) -> Result<Replaces, Refusal> {
    let failed = |why: &str| Err(Refusal::new(Code::Precondition, why));
    let (wanted, unwanted) =
        (header(headers, &header::IF_MATCH), header(headers, &header::IF_NONE_MATCH));
    match (wanted, unwanted, before) {
        (Some(wanted), _, Some(before)) if names(&wanted, &tag(before)) => {
            Ok(Replaces::Only(before.ino))
        }
        (Some(_), _, Some(_)) => failed("what is there is another than If-Match says"),
        (Some(_), _, None) => failed("nothing is there that If-Match could be about"),
        (None, Some(unwanted), Some(before)) if names(&unwanted, &tag(before)) => {
            failed("what is there is what If-None-Match excludes")
        }
        (None, Some(_), Some(before)) => Ok(Replaces::Only(before.ino)),
        (None, Some(_), None) => Ok(Replaces::Nothing),
        (None, None, _) => Ok(Replaces::Anything),
    }
}

/// Why something that was written did not get its place.
pub(crate) fn refused(error: &TreeError, replaces: Replaces) -> Refusal {
    match replaces {
        Replaces::Nothing | Replaces::Only(_)
            if error.is_not_found() || error.is_there_already() =>
        {
            Refusal::new(Code::Precondition, "what is there has changed meanwhile")
        }
        _ => Refusal::of(error, Code::Conflict),
    }
}

#[cfg(test)]
mod tests {
    use meta::{Ino, Kind, Time};

    use super::*;

    fn attr(ino: u64) -> Attr {
        let mtime = Time { secs: 5, nanos: 7 };
        Attr {
            ino: Ino(ino),
            kind: Kind::File,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 3,
            stored: 3,
            atime: mtime,
            mtime,
            ctime: mtime,
            btime: mtime,
        }
    }

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_may_be_replaced() {
        let (here, other) = (attr(9), "\"8-5.7-3\"");
        let own = tag(&here);
        let both = format!("{other}, W/{own}");
        let (is, not) = (header::IF_MATCH, header::IF_NONE_MATCH);
        let cases = [
            (vec![], Some(Replaces::Anything), Some(Replaces::Anything)),
            (vec![(not.clone(), "*")], None, Some(Replaces::Nothing)),
            (vec![(not.clone(), &*own)], None, Some(Replaces::Nothing)),
            (vec![(not, other)], Some(Replaces::Only(Ino(9))), Some(Replaces::Nothing)),
            (vec![(is.clone(), "*")], Some(Replaces::Only(Ino(9))), None),
            (vec![(is.clone(), &*both)], Some(Replaces::Only(Ino(9))), None),
            (vec![(is, other)], None, None),
        ];
        for (pairs, there, absent) in cases {
            let headers = headers(&pairs);
            assert_eq!(replaces(&headers, Some(&here)).ok(), there, "{pairs:?}");
            assert_eq!(replaces(&headers, None).ok(), absent, "{pairs:?}");
        }
    }

    #[test]
    fn what_a_reader_knows() {
        let here = attr(9);
        let own = tag(&here);
        assert!(is_known(&headers(&[(header::IF_NONE_MATCH, &own)]), &here));
        assert!(!is_known(&headers(&[(header::IF_NONE_MATCH, "\"a\"")]), &here));
        assert!(is_outdated(&headers(&[(header::IF_RANGE, "\"a\"")]), &here));
        assert!(!is_outdated(&headers(&[(header::IF_RANGE, &own)]), &here));
        assert!(!is_known(&headers(&[]), &here) && !is_outdated(&headers(&[]), &here));
    }
}
