//! What only WebDAV says in headers: how deep, whether over what is there, for how long, and under which conditions. Pure.

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};

use crate::refusal::{Code, Refusal};

/// How long a lock lasts of a client who does not say, and at most.
const LOCKED: Duration = Duration::from_secs(600);
/// Conditions of one request: each may be a look into the tree.
const CONDITIONS: usize = 64;
const LOCKED_MAX: Duration = Duration::from_secs(3600);

/// How far below a folder a request reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Zero,
    One,
    Infinity,
}

/// One of several ways in which `If` may hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct List {
    /// What it is about, where that is not the address of the request.
    pub(super) about: Option<String>,
    /// All of them have to hold.
    pub(super) conditions: Vec<Condition>,
}

/// What is demanded of a resource.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) not: bool,
    pub(super) what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    /// It is locked by this token.
    Token(String),
    /// It has this tag.
    Tag(String),
}

fn bad(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadRequest, why)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let value = headers.get(name).map(|value| value.to_str());
    value.transpose().map_err(|_| bad(format!("a header {name} that is no text")))
}

/// `Depth`. `None`: nothing is said.
///
/// # Errors
/// When it is none.
pub(super) fn depth(headers: &HeaderMap) -> Result<Option<Depth>, Refusal> {
    match text(headers, "depth")?.map(str::trim) {
        None => Ok(None),
        Some("0") => Ok(Some(Depth::Zero)),
        Some("1") => Ok(Some(Depth::One)),
        Some(word) if word.eq_ignore_ascii_case("infinity") => Ok(Some(Depth::Infinity)),
        Some(word) => Err(bad(format!("a depth of {word:?}: 0, 1 and infinity are possible"))),
    }
}

/// `Overwrite`: may what is there be replaced?
///
/// # Errors
/// When it is neither `T` nor `F`.
pub(super) fn overwrite(headers: &HeaderMap) -> Result<bool, Refusal> {
    match text(headers, "overwrite")?.map(str::trim) {
        None | Some("T" | "t") => Ok(true),
        Some("F" | "f") => Ok(false),
        Some(word) => Err(bad(format!("Overwrite: {word}: T and F are possible"))),
    }
}

/// `Destination`.
///
/// # Errors
/// When there is none.
pub(super) fn destination(headers: &HeaderMap) -> Result<&str, Refusal> {
    text(headers, "destination")?.ok_or_else(|| bad("a header Destination is missing"))
}

/// The token in `Lock-Token`.
///
/// # Errors
/// When there is none.
pub(super) fn token(headers: &HeaderMap) -> Result<&str, Refusal> {
    let token = text(headers, "lock-token")?.unwrap_or_default().trim();
    let token = token.strip_prefix('<').and_then(|token| token.strip_suffix('>'));
    token.ok_or_else(|| bad("a header Lock-Token with the token between < and > is missing"))
}

/// `Timeout`: the first that makes sense, within bounds.
///
/// # Errors
/// When it is no text.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Duration, Refusal> {
    let wanted = |word: &str| match word.trim() {
        word if word.eq_ignore_ascii_case("infinite") => Some(LOCKED_MAX),
        word => word.get(7..).filter(|_| word[..7].eq_ignore_ascii_case("second-")).and_then(
            // Whatever is too large for a number is too large.
            |digits| match digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() {
                true => Some(digits.parse().map_or(LOCKED_MAX, Duration::from_secs)),
                false => None,
            },
        ),
    };
    let said = text(headers, "timeout")?.unwrap_or_default();
    let found = said.split(',').find_map(wanted);
    Ok(found.unwrap_or(LOCKED).clamp(Duration::from_secs(1), LOCKED_MAX))
}

/// `If`. Empty: nothing is demanded.
///
/// # Errors
/// When it makes no sense.
pub(super) fn lists(headers: &HeaderMap) -> Result<Vec<List>, Refusal> {
    let all: Result<Vec<&str>, _> =
        headers.get_all(header_if()).iter().map(|v| v.to_str()).collect();
    let all = all.map_err(|_| bad("a header If that is no text"))?.join(" ");
    let mut rest = all.trim();
    let (mut lists, mut about, mut demanded) = (Vec::new(), None, 0);
    while !rest.is_empty() {
        if let Some(tagged) = rest.strip_prefix('<') {
            let (resource, behind) = until(tagged, '>')?;
            about = Some(resource.to_owned());
            rest = behind.trim_start();
        }
        let inner = rest
            .strip_prefix('(')
            .ok_or_else(|| bad("a header If without a ( where one belongs"))?;
        let (conditions, behind) = conditions(inner)?;
        demanded += conditions.len();
        if demanded > CONDITIONS {
            return Err(bad(format!("a header If with more than {CONDITIONS} conditions")));
        }
        lists.push(List { about: about.clone(), conditions });
        rest = behind.trim_start();
    }
    Ok(lists)
}

fn header_if() -> HeaderName {
    HeaderName::from_static("if")
}

fn until(text: &str, end: char) -> Result<(&str, &str), Refusal> {
    text.split_once(end)
        .ok_or_else(|| bad(format!("a header If without a {end} where one belongs")))
}

/// Those up to the closing bracket, and what is behind that.
fn conditions(mut rest: &str) -> Result<(Vec<Condition>, &str), Refusal> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(behind) = rest.strip_prefix(')') {
            return match found.is_empty() {
                true => Err(bad("a header If with nothing between ( and )")),
                false => Ok((found, behind)),
            };
        }
        let not = rest.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("not"));
        rest = if not { rest[3..].trim_start() } else { rest };
        let what = if let Some(token) = rest.strip_prefix('<') {
            let (token, behind) = until(token, '>')?;
            rest = behind;
            What::Token(token.to_owned())
        } else if let Some(tag) = rest.strip_prefix('[') {
            let (tag, behind) = until(tag, ']')?;
            rest = behind;
            What::Tag(tag.to_owned())
        } else {
            return Err(bad("a header If that demands neither a <token> nor a [tag]"));
        };
        found.push(Condition { not, what });
    }
}

/// Does a request have a part of a body alone?
pub(super) fn is_part(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_RANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn words_that_make_sense_and_that_do_not() {
        for (word, depth_of) in
            [("0", Depth::Zero), ("1", Depth::One), ("Infinity", Depth::Infinity)]
        {
            assert_eq!(depth(&headers("depth", word)).unwrap(), Some(depth_of));
        }
        assert!(depth(&headers("depth", "2")).is_err());
        assert_eq!(depth(&HeaderMap::new()).unwrap(), None);
        assert!(
            overwrite(&HeaderMap::new()).unwrap() && overwrite(&headers("overwrite", "T")).unwrap()
        );
        assert!(!overwrite(&headers("overwrite", "F")).unwrap());
        assert!(overwrite(&headers("overwrite", "no")).is_err());
        assert_eq!(token(&headers("lock-token", "<urn:a>")).unwrap(), "urn:a");
        for value in ["urn:a", "<urn:a", ""] {
            assert!(token(&headers("lock-token", value)).is_err(), "{value}");
        }
    }

    #[test]
    fn locks_last_as_long_as_is_asked_within_bounds() {
        for (value, seconds) in [
            ("Second-100", 100),
            ("Second-0", 1),
            ("Infinite, Second-4100000000", 3600),
            ("second-99999999999999999999999999", 3600),
            ("Extend, Second-7", 7),
            ("Second-", 600),
            ("S\u{e4}cond-5", 600),
            ("nonsense", 600),
        ] {
            let mut all = HeaderMap::new();
            all.insert("timeout", http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
            match timeout(&all) {
                Ok(found) => assert_eq!(found, Duration::from_secs(seconds), "{value}"),
                Err(_) => assert!(!value.is_ascii(), "{value}"),
            }
        }
    }

    #[test]
    fn conditions_are_read() {
        let of = |value| lists(&headers("if", value));
        let token = |not, text: &str| Condition { not, what: What::Token(text.into()) };
        let tag = |not, text: &str| Condition { not, what: What::Tag(text.into()) };
        let list =
            |about: Option<&str>, conditions| List { about: about.map(Into::into), conditions };
        assert_eq!(of("(<a>)").unwrap(), [list(None, vec![token(false, "a")])]);
        assert_eq!(
            of(r#"(<a> ["t"]) (Not <b>not[W/"u"])"#).unwrap(),
            [
                list(None, vec![token(false, "a"), tag(false, "\"t\"")]),
                list(None, vec![token(true, "b"), tag(true, "W/\"u\"")]),
            ]
        );
        assert_eq!(
            of("<http://h/dav/x> (<a>)(<b>) </dav/y> (Not <c>)").unwrap(),
            [
                list(Some("http://h/dav/x"), vec![token(false, "a")]),
                list(Some("http://h/dav/x"), vec![token(false, "b")]),
                list(Some("/dav/y"), vec![token(true, "c")]),
            ]
        );
        for wrong in ["<a>", "(", "()", "(<a)", "(a)", "x", "(<a>", "([a)", "<a (<b>)", "(Not)"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(lists(&HeaderMap::new()).unwrap().is_empty());
    }
}
