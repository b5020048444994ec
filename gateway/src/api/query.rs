//! What stands behind the `?` of an address. Values are bytes: names of files may be any. Pure.

use http::Uri;
use percent_encoding::percent_decode;

use crate::refusal::{Code, Refusal};

/// What stands behind the `?` of an address, in order. What nobody asks for is nothing.
pub(super) struct Query(Vec<(Vec<u8>, Vec<u8>)>);

/// The years 1 to 9999, in milliseconds since 1970: what calendars can tell.
const YEARS: std::ops::Range<i64> = -62_135_596_800_000..253_402_300_800_000;

fn bad(why: String) -> Refusal {
    Refusal::new(Code::BadRequest, why)
}

fn decoded(part: &str) -> Vec<u8> {
    let spaced = part.replace('+', " ");
    percent_decode(spaced.as_bytes()).collect()
}

impl Query {
    /// Of an address.
    pub(super) fn of(uri: &Uri) -> Self {
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self(pairs.map(|(name, value)| (decoded(name), decoded(value))).collect())
    }

    /// All values of this name.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |pair| pair.0 == name.as_bytes()).map(|pair| &pair.1[..])
    }

    /// The value of this name, if it has one.
    ///
    /// # Errors
    /// When it has two.
    pub(super) fn one(&self, name: &str) -> Result<Option<&[u8]>, Refusal> {
        let mut all = self.all(name);
        match (all.next(), all.next()) {
            (first, None) => Ok(first),
            _ => Err(bad(format!("{name} stands there twice"))),
        }
    }

    /// The same, as a number, a truth or whatever else can be read.
    ///
    /// # Errors
    /// When it is none. `what`: what it should be.
    pub(super) fn read<T: std::str::FromStr>(
        &self,
        name: &str,
        what: &str,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.one(name)? else { return Ok(None) };
        let read = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        read.map(Some).ok_or_else(|| bad(format!("{name} has to be {what}")))
    }

    /// When a file was last changed, if that is said.
    ///
    /// # Errors
    /// When it is no time of the years 1 to 9999.
    pub(super) fn modified(&self) -> Result<Option<i64>, Refusal> {
        let modified: Option<i64> = self.read("modified", "milliseconds since 1970")?;
        match modified.is_some_and(|at| !YEARS.contains(&at)) {
            true => Err(bad("modified is a time of the years 1 to 9999".to_owned())),
            false => Ok(modified),
        }
    }

    /// Does this name stand there, without a value, or with `true`?
    ///
    /// # Errors
    /// When it has another value.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.one(name)? {
            None | Some(b"false") => Ok(false),
            Some(b"" | b"true") => Ok(true),
            Some(_) => Err(bad(format!("{name} has to be true or false"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bytes_numbers_and_truths() {
        let uri: Uri =
            "/x?name=a%20b&name=%ff+c&limit=7&download&replace=false&&e=".parse().unwrap();
        let query = Query::of(&uri);
        assert_eq!(query.all("name").collect::<Vec<_>>(), [&b"a b"[..], b"\xff c"]);
        assert!(query.one("name").is_err() && query.one("none").unwrap().is_none());
        assert_eq!(query.read("limit", "a number"), Ok(Some(7)));
        assert!(query.read::<u64>("e", "a number").is_err());
        assert_eq!(query.flag("download"), Ok(true));
        assert_eq!((query.flag("replace"), query.flag("none")), (Ok(false), Ok(false)));
        assert!(query.flag("limit").is_err());
        assert!(Query::of(&"/x".parse().unwrap()).0.is_empty());
    }
}
