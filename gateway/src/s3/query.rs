//! What stands behind the `?` of an address. Pure.

use percent_encoding::percent_decode_str;

use super::error::{S3Error, S3Result, Wrong};

/// Names and values, decoded, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Of this text.
    ///
    /// # Errors
    /// When it is not in UTF-8.
    pub(super) fn parse(text: &str) -> S3Result<Self> {
        let decoded = |text: &str| {
            let text = percent_decode_str(text).decode_utf8();
            let text = text.map_err(|_| S3Error::new(Wrong::InvalidURI, "it is not in UTF-8"))?;
            Ok::<_, S3Error>(text.into_owned())
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // What is signed has no plus for a space; a plus that is one is not signed by anybody.
            Ok((decoded(name)?, decoded(value)?))
        });
        pairs.collect::<S3Result<_>>().map(Self)
    }

    /// The first value of this name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Is it there?
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A number, if it is there.
    ///
    /// # Errors
    /// When it is none up to `most`.
    pub(super) fn number(&self, name: &str, most: u32) -> S3Result<Option<u32>> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number <= most);
        let wrong = || {
            let why = format!("{name}={text}: a number from 0 to {most} belongs there");
            S3Error::new(Wrong::InvalidArgument, why)
        };
        number.map(Some).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values() {
        let query = Query::parse("uploads&prefix=a%2Fb%20c+&max-keys=7&x=").unwrap();
        assert!(query.has("uploads") && !query.has("upload"));
        assert_eq!(query.get("prefix"), Some("a/b c+"));
        assert_eq!(query.number("max-keys", 1000), Ok(Some(7)));
        assert_eq!(query.number("x", 1000), Ok(None));
        assert!(query.number("max-keys", 6).is_err() && query.number("prefix", 6).is_err());
        assert!(Query::parse("a=%ff").is_err());
    }
}
