//! Conditions of a request: what is there so far has to be what the client believes. Pure.

use std::time::UNIX_EPOCH;

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
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Is the file newer than the second that a header names? `None`: it names none, and says nothing
/// (RFC 9110, 13.1.3 and 13.1.4).
fn is_newer(headers: &HeaderMap, name: &header::HeaderName, attr: &Attr) -> Option<bool> {
    let known = httpdate::parse_http_date(&header(headers, name)?).ok()?;
    let known = known.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Some(u64::try_from(attr.mtime.secs).is_ok_and(|modified| modified > known))
}

/// Has the client, who reads, this already?
pub(crate) fn is_known(headers: &HeaderMap, attr: &Attr) -> bool {
    match headers.contains_key(header::IF_NONE_MATCH) {
        true => knows(headers, &tag(attr)),
        false => is_newer(headers, &header::IF_MODIFIED_SINCE, attr) == Some(false),
    }
}

/// Has the client, who reads, what has this tag?
pub(crate) fn knows(headers: &HeaderMap, tag: &str) -> bool {
    header(headers, &header::IF_NONE_MATCH).is_some_and(|list| names(&list, tag))
}

/// Is a range of another state of the file meant? A second is too long to tell its states apart: none by its date.
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
        (None, _, Some(before))
            if is_newer(headers, &header::IF_UNMODIFIED_SINCE, before) == Some(true) =>
        {
            failed("what is there is newer than If-Unmodified-Since says")
        }
        (None, Some(unwanted), Some(before)) if names(&unwanted, &tag(before)) => {
            failed("what is there is what If-None-Match excludes")
        }
        (None, Some(_), Some(before)) => Ok(Replaces::Only(before.ino)),
        (None, Some(_), None) => Ok(Replaces::Nothing),
        (None, None, Some(before)) if headers.contains_key(header::IF_UNMODIFIED_SINCE) => {
            Ok(Replaces::Only(before.ino))
        }
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
    use std::time::Duration;

    use meta::Ino;

    use super::*;
    use crate::samples::a_file;

    fn attr(ino: u64) -> Attr {
        Attr { ino: Ino(ino), ..a_file() }
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
    fn what_is_newer_than_a_client_knows_is_not_replaced_and_is_read_again() {
        let here = attr(9);
        let at = |secs: u64| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(secs));
        let (before, since) = (header::IF_UNMODIFIED_SINCE, header::IF_MODIFIED_SINCE);
        let replaced = |when: &str| replaces(&headers(&[(before.clone(), when)]), Some(&here)).ok();
        assert_eq!(replaced(&at(4)), None);
        assert_eq!(replaced(&at(5)), Some(Replaces::Only(Ino(9))));
        let both = [(before.clone(), &*at(4)), (header::IF_MATCH, &tag(&here))];
        assert_eq!(replaces(&headers(&both), Some(&here)).ok(), Some(Replaces::Only(Ino(9))));
        let knows = |when: &str| is_known(&headers(&[(since.clone(), when)]), &here);
        assert!(!knows(&at(4)) && knows(&at(5)) && !knows("yesterday"));
        let both = [(since.clone(), &*at(9)), (header::IF_NONE_MATCH, "\"a\"")];
        assert!(!is_known(&headers(&both), &here));
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
