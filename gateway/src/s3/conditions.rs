//! Conditions of a request: by the tag, and by times. Pure.

use fs::tree::TreeError;
use http::{HeaderMap, header};
use meta::{Attr, Replaces};

use super::attributes::Seen;
use super::error::{S3Error, S3Result, Wrong};
use super::times;

/// What becomes of a request that reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Goes,
    NotModified,
}

/// What headers of this name say together: a list may come in several.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
    let all: Vec<&str> = all.collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// Is the tag in a list, or any meant?
fn names(list: &str, tag: &str) -> bool {
    let plain = |word: &str| word.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    list.trim() == "*" || list.split(',').any(|word| plain(word) == tag)
}

fn failed(what: &str) -> S3Error {
    let why = format!("what is there is not what {what} says");
    S3Error::new(Wrong::PreconditionFailed, why)
}

/// May what is so be read? `prefix`: what the names of the headers begin with.
///
/// # Errors
/// When a condition does not hold.
pub(super) fn read(headers: &HeaderMap, prefix: &str, seen: &Seen, attr: &Attr) -> S3Result<Read> {
    let get = |name: &str| text(headers, &format!("{prefix}{name}"));
    let since = |name: &str| get(name).and_then(|text| times::of_http(&text));
    let changed = u64::try_from(attr.mtime.secs).unwrap_or(0);
    match (get("if-match"), since("if-unmodified-since")) {
        (Some(list), _) if !names(&list, &seen.tag) => return Err(failed("If-Match")),
        (None, Some(time)) if changed > time => return Err(failed("If-Unmodified-Since")),
        _ => {}
    }
    match (get("if-none-match"), since("if-modified-since")) {
        (Some(list), _) if names(&list, &seen.tag) => Ok(Read::NotModified),
        (None, Some(time)) if changed <= time => Ok(Read::NotModified),
        _ => Ok(Read::Goes),
    }
}

/// Is a range of another state of the file meant?
pub(super) fn is_outdated(headers: &HeaderMap, seen: &Seen) -> bool {
    text(headers, "if-range").is_some_and(|known| known.trim_matches('"') != seen.tag)
}

/// What a client who writes allows to be replaced, where this is there so far.
///
/// # Errors
/// When it is not what the client wants to replace.
pub(super) fn replaces(headers: &HeaderMap, before: Option<(&Seen, &Attr)>) -> S3Result<Replaces> {
    let (wanted, unwanted) = (text(headers, "if-match"), text(headers, "if-none-match"));
    match (wanted, unwanted, before) {
        (Some(list), _, Some((seen, attr))) if names(&list, &seen.tag) => {
            Ok(Replaces::Only(attr.ino))
        }
        (Some(_), _, Some(_)) => Err(failed("If-Match")),
        (Some(_), _, None) => {
            let why = "nothing is there that If-Match could be about";
            Err(S3Error::new(Wrong::NoSuchKey, why))
        }
        (None, Some(list), Some((seen, _))) if names(&list, &seen.tag) => {
            Err(failed("If-None-Match"))
        }
        (None, Some(_), Some((_, attr))) => Ok(Replaces::Only(attr.ino)),
        (None, Some(_), None) => Ok(Replaces::Nothing),
        (None, None, _) => Ok(Replaces::Anything),
    }
}

/// Does a client who writes say anything of what may be there?
pub(super) fn are_there(headers: &HeaderMap) -> bool {
    [header::IF_MATCH, header::IF_NONE_MATCH].iter().any(|name| headers.contains_key(name))
}

/// What is said of what may be deleted.
const OF_DELETES: [&str; 3] =
    ["if-match", "x-amz-if-match-last-modified-time", "x-amz-if-match-size"];

/// Does a client who deletes say anything of what may be there?
pub(super) fn of_deletes(headers: &HeaderMap) -> bool {
    OF_DELETES.iter().any(|name| headers.contains_key(*name))
}

/// May what is so be deleted, by the headers?
///
/// # Errors
/// When a condition does not hold.
pub(super) fn deletes(headers: &HeaderMap, seen: &Seen, attr: &Attr) -> S3Result<()> {
    let is = [None, Some(times::http(attr.mtime)), Some(attr.size.to_string())];
    for (name, is) in OF_DELETES.into_iter().zip(is) {
        let said = text(headers, name);
        let holds = match (said, is) {
            (None, _) => true,
            (Some(list), None) => names(&list, &seen.tag),
            (Some(said), Some(is)) => said.trim() == is,
        };
        if !holds {
            return Err(failed(name));
        }
    }
    Ok(())
}

/// Why something that was written did not get its place.
pub(super) fn refused(error: &TreeError, replaces: Replaces) -> S3Error {
    let changed = error.is_not_found() || error.is_there_already();
    match replaces {
        Replaces::Nothing | Replaces::Only(_) if changed => {
            let why = "what is there has changed meanwhile";
            S3Error::new(Wrong::PreconditionFailed, why)
        }
        _ => S3Error::of(error, Wrong::NoSuchBucket),
    }
}

#[cfg(test)]
mod tests {
    use meta::{Ino, Time};

    use super::*;
    use crate::samples::a_file;

    fn attr() -> Attr {
        let mtime = Time { secs: 1_440_938_160, nanos: 5 };
        Attr { mtime, ..a_file() }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn who_reads() {
        let (attr, seen) = (attr(), Seen { tag: "abc".into(), state: None });
        let then = "Sun, 30 Aug 2015 12:36:00 GMT";
        let before = "Sun, 30 Aug 2015 12:35:59 GMT";
        let read = |pairs: &[_]| read(&headers(pairs), "", &seen, &attr).map_err(|e| e.wrong);
        let (goes, known) = (Ok(Read::Goes), Ok(Read::NotModified));
        let fails = Err(Wrong::PreconditionFailed);
        assert_eq!(read(&[]), goes);
        assert_eq!(read(&[("if-match", "\"x\", \"abc\"")]), goes);
        assert_eq!(read(&[("if-match", "\"x\"")]), fails);
        let mut several = HeaderMap::new();
        for tag in ["\"x\"", "\"abc\""] {
            several.append("if-match", tag.parse().unwrap());
        }
        assert_eq!(super::read(&several, "", &seen, &attr).map_err(|e| e.wrong), goes);
        assert_eq!(read(&[("if-none-match", "abc")]), known);
        assert_eq!(read(&[("if-none-match", "\"x\"")]), goes);
        assert_eq!(read(&[("if-modified-since", then)]), known);
        assert_eq!(read(&[("if-modified-since", before)]), goes);
        assert_eq!(read(&[("if-unmodified-since", then)]), goes);
        assert_eq!(read(&[("if-unmodified-since", before)]), fails);
        assert_eq!(read(&[("if-match", "abc"), ("if-unmodified-since", before)]), goes);
    }

    #[test]
    fn who_writes() {
        let (attr, seen) = (attr(), Seen { tag: "abc".into(), state: None });
        let there = |pairs: &[_]| replaces(&headers(pairs), Some((&seen, &attr))).ok();
        let absent = |pairs: &[_]| replaces(&headers(pairs), None).ok();
        let only = Some(Replaces::Only(Ino(9)));
        for (pairs, is_there, is_absent) in [
            (vec![], Some(Replaces::Anything), Some(Replaces::Anything)),
            (vec![("if-none-match", "*")], None, Some(Replaces::Nothing)),
            (vec![("if-none-match", "\"x\"")], only, Some(Replaces::Nothing)),
            (vec![("if-match", "\"abc\"")], only, None),
            (vec![("if-match", "*")], only, None),
            (vec![("if-match", "\"x\"")], None, None),
        ] {
            assert_eq!((there(&pairs), absent(&pairs)), (is_there, is_absent), "{pairs:?}");
        }
        let deletes = |pairs: &[_]| deletes(&headers(pairs), &seen, &attr).is_ok();
        assert!(deletes(&[]) && deletes(&[("if-match", "abc"), ("x-amz-if-match-size", "3")]));
        assert!(!deletes(&[("x-amz-if-match-size", "4")]) && !deletes(&[("if-match", "x")]));
    }
}
