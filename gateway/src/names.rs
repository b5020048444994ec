//! Keys and refs, which may be any bytes, as names of files. Pure.
//!
//! A name is its key, but for what no name can be: a slash, a zero byte and other control bytes, and a dot at the
//! beginning, are written as `%` and two upper-case hexadecimal digits, and so is `%` itself. So each key has one name,
//! most are the same as their keys, and what a name is the key of can be read. A name that no key has is none of a key:
//! whoever makes such a file through the mount finds it there alone.

use std::fmt::Write as _;

use meta::NAME_MAX;
use percent_encoding::percent_decode;

use crate::refusal::{Code, Refusal};

/// The name of a key.
///
/// # Errors
/// When it is empty, or longer than a name may be.
pub(crate) fn name_of(key: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut name = String::new();
    let mut bytes = Vec::with_capacity(key.len());
    for (at, byte) in key.iter().enumerate() {
        match byte {
            b'%' | b'/' | 0..0x20 | 0x7f => {}
            b'.' if at == 0 => {}
            _ => {
                bytes.push(*byte);
                continue;
            }
        }
        name.clear();
        write!(name, "%{byte:02X}").expect("a string takes everything");
        bytes.extend_from_slice(name.as_bytes());
    }
    match bytes.len() {
        0 => Err(Refusal::new(Code::BadRequest, "an empty key")),
        len if len > NAME_MAX => {
            let why = format!(
                "a key of {len} bytes, as a file's name; at most {NAME_MAX} are possible (what no name can hold counts as three)"
            );
            Err(Refusal::new(Code::BadRequest, why))
        }
        _ => Ok(bytes),
    }
}

/// The key of a name. `None`: it is that of no key.
pub(crate) fn key_of(name: &[u8]) -> Option<Vec<u8>> {
    let key: Vec<u8> = percent_decode(name).collect();
    name_of(&key).is_ok_and(|again| again == name).then_some(key)
}

/// The bytes that a part of an address stands for.
pub(crate) fn decoded(part: &str) -> Vec<u8> {
    percent_decode(part.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_keys_have() {
        let cases: [(&[u8], &[u8]); 10] = [
            (b"a", b"a"),
            (b"a b", b"a b"),
            (b"a/b", b"a%2Fb"),
            (b".", b"%2E"),
            (b"..", b"%2E."),
            (b".hidden", b"%2Ehidden"),
            (b"a.b", b"a.b"),
            (b"100%", b"100%25"),
            (b"\0\n\x7f", b"%00%0A%7F"),
            ("\u{fc}\u{4e2d}".as_bytes(), "\u{fc}\u{4e2d}".as_bytes()),
        ];
        for (key, name) in cases {
            assert_eq!(name_of(key).as_deref(), Ok(name), "{key:?}");
            assert_eq!(key_of(name).as_deref(), Some(key), "{name:?}");
        }
        for name in [&b"100%"[..], b"a%2fb", b"%61", b".hidden", b"", b"%", b"a%2"] {
            assert_eq!(key_of(name), None, "{name:?}");
        }
        assert!(name_of(b"").is_err());
        assert!(name_of(&[b'a'; NAME_MAX]).is_ok() && name_of(&[b'a'; NAME_MAX + 1]).is_err());
        assert!(
            name_of(&[b'/'; NAME_MAX / 3]).is_ok() && name_of(&[b'/'; NAME_MAX / 3 + 1]).is_err()
        );
    }

    proptest! {
        #[test]
        fn each_key_has_one_name_and_no_other_key_has_it(key: Vec<u8>) {
            if let Ok(name) = name_of(&key) {
                prop_assert!(fs::tree::TreePath::of_name(&name).is_ok());
                prop_assert_eq!(key_of(&name), Some(key));
            }
        }
    }
}
