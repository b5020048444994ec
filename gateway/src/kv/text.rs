//! Any bytes in JSON: as text where they are text, else in base64, which is said then.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Page;

/// How keys and values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    /// As they are.
    #[default]
    Text,
    /// In base64.
    Base64,
}

impl Encoding {
    /// The bytes that are meant.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) fn read(self, text: &str) -> Result<Vec<u8>, String> {
        match self {
            Self::Text => Ok(text.as_bytes().to_vec()),
            Self::Base64 => STANDARD.decode(text).map_err(|e| format!("no base64: {e}")),
        }
    }

    /// This one, unless some of it is no text.
    pub(super) fn for_all<'a>(self, mut all: impl Iterator<Item = &'a [u8]>) -> Self {
        match all.all(|bytes| std::str::from_utf8(bytes).is_ok()) {
            true => self,
            false => Self::Base64,
        }
    }

    /// The bytes as they are written. Those that are no text are not for [`Self::Text`].
    pub(super) fn write(self, bytes: &[u8]) -> String {
        match self {
            Self::Text => String::from_utf8_lossy(bytes).into_owned(),
            Self::Base64 => STANDARD.encode(bytes),
        }
    }

    /// Says so, where it is not the usual one.
    pub(super) fn told(self, answer: &mut Map<String, Value>) {
        if self == Self::Base64 {
            answer.insert("encoding".to_owned(), "base64".into());
        }
    }
}

/// A page of keys, as it is written.
pub(super) struct Keys {
    keys: Vec<String>,
    next: Option<String>,
    encoding: Encoding,
}

impl Keys {
    /// Of this page, as it was asked for.
    pub(super) fn of(page: &Page, asked: Encoding) -> Self {
        let encoding = asked.for_all(page.keys.iter().map(Vec::as_slice));
        let keys: Vec<String> = page.keys.iter().map(|key| encoding.write(key)).collect();
        let next = keys.last().filter(|_| page.more).cloned();
        Self { keys, next, encoding }
    }

    /// Its fields: `keys`, and `next`, behind which there are more.
    pub(super) fn told(self, answer: &mut Map<String, Value>) {
        answer.insert("keys".to_owned(), self.keys.into());
        if let Some(next) = self.next {
            answer.insert("next".to_owned(), next.into());
        }
        self.encoding.told(answer);
    }

    /// As JSON.
    pub(super) fn json(self) -> Value {
        let mut answer = Map::new();
        self.told(&mut answer);
        Value::Object(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_told_in_base64() {
        let page =
            |keys: &[&[u8]], more| Page { keys: keys.iter().map(|k| k.to_vec()).collect(), more };
        let told = |page: &Page, asked| Keys::of(page, asked).json().to_string();
        let plain = page(&[b"a", b"b"], true);
        assert_eq!(told(&plain, Encoding::Text), r#"{"keys":["a","b"],"next":"b"}"#);
        let expected = r#"{"encoding":"base64","keys":["YQ==","Yg=="],"next":"Yg=="}"#;
        assert_eq!(told(&plain, Encoding::Base64), expected);
        let other = page(&[b"\xff"], false);
        assert_eq!(told(&other, Encoding::Text), r#"{"encoding":"base64","keys":["/w=="]}"#);
        assert_eq!(Encoding::Base64.read("/w==").unwrap(), b"\xff");
        assert!(Encoding::Base64.read("/w=").is_err());
    }
}
