//! What stands behind the `?` of an address. Pure.

use std::collections::HashSet;

use percent_encoding::percent_decode_str;

use super::error::{S3Error, S3Result, Wrong};

/// What is a key, or begins as one does: any bytes.
const KEYS: [&str; 5] = ["delimiter", "key-marker", "marker", "prefix", "start-after"];

/// Names and values, decoded, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, Vec<u8>)>);

impl Query {
    /// Of this text.
    ///
    /// # Errors
    /// When something else than a key is not in UTF-8.
    pub(super) fn parse(text: &str) -> S3Result<Self> {
        let not_text = || S3Error::new(Wrong::InvalidURI, "it is not in UTF-8");
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // What is signed has no plus for a space; a plus that is one is not signed by anybody.
            let name = percent_decode_str(name).decode_utf8().map_err(|_| not_text())?.into_owned();
            let value: Vec<u8> = percent_decode_str(value).collect();
            match KEYS.contains(&name.as_str()) || std::str::from_utf8(&value).is_ok() {
                true => Ok((name, value)),
                false => Err(not_text()),
            }
        });
        pairs.collect::<S3Result<_>>().map(Self)
    }

    /// Each name is there once.
    ///
    /// # Errors
    /// When one is not: others might take another of its values for the one that counts.
    pub(super) fn once(&self) -> S3Result<()> {
        let mut names = HashSet::new();
        for (name, _) in &self.0 {
            if !names.insert(name.as_str()) {
                let why = format!("{name} is there twice: one of them says what is meant");
                return Err(S3Error::new(Wrong::InvalidArgument, why));
            }
        }
        Ok(())
    }

    /// The bytes of the first value of this name, if it is there.
    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &value[..])
    }

    /// The first value of this name, which is no key.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Is it there?
    pub(super) fn has(&self, name: &str) -> bool {
        self.bytes(name).is_some()
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), &value[..]))
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
        assert!(Query::parse("a=%ff").is_err() && Query::parse("%ff=a").is_err());
        let query = Query::parse("marker=a%ff&x=&marker=b").unwrap();
        assert_eq!((query.bytes("marker"), query.bytes("y")), (Some(&b"a\xff"[..]), None));
        assert!(query.has("marker") && query.once().is_err());
        assert!(Query::parse("a=b&b=a").unwrap().once().is_ok());
    }
}
