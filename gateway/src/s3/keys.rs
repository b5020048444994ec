//! Buckets and keys as paths of the tree. Pure.
//!
//! **The rule.** A key is a path below its bucket: what lies between slashes are names of folders, and the last one is
//! that of the file. One that ends with a slash is the folder itself. So there are keys that cannot be: with an empty name
//! (`//`, a slash at the beginning), with the names `.` and `..`, with a zero byte, with a name of more than 255 bytes, and
//! all of more than 1,024. And `a` and `a/b` cannot both be there.

use fs::tree::{BadPath, TreePath};
use percent_encoding::percent_decode_str;

use super::error::{S3Error, S3Result, Wrong};

/// Longest key, in bytes.
pub(super) const KEY_MAX: usize = 1024;

/// A key, and the path that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// As it was sent.
    pub(super) bytes: Vec<u8>,
    /// From what the account sees.
    pub(super) path: TreePath,
    /// It ends with a slash.
    pub(super) folder: bool,
}

/// The folder of a bucket. Those that begin with a dot are none.
///
/// # Errors
/// When it is no name.
pub(super) fn bucket(name: &[u8]) -> S3Result<TreePath> {
    let path = TreePath::of_name(name).ok().filter(|_| is_shown(name));
    path.ok_or_else(|| S3Error::new(Wrong::InvalidBucketName, "this is no name of a bucket"))
}

/// Is a folder of this name a bucket?
pub(super) fn is_shown(name: &[u8]) -> bool {
    !name.starts_with(b".")
}

/// May a bucket of this name be made? 3 to 63 lower-case letters, digits, dots and hyphens, as AWS has it.
pub(super) fn may_be_made(name: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let of_address = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    (3..=63).contains(&name.len())
        && name.iter().all(|byte| plain(byte) || matches!(byte, b'.' | b'-'))
        && name.first().is_some_and(plain)
        && name.last().is_some_and(plain)
        && !name.windows(2).any(|two| matches!(two, b".." | b".-" | b"-."))
        && !(name.iter().all(of_address) && name.split(|byte| *byte == b'.').count() == 4)
}

impl Key {
    /// In this bucket.
    ///
    /// # Errors
    /// When no file can have it.
    pub(super) fn of(bucket: &TreePath, bytes: Vec<u8>) -> S3Result<Self> {
        if bytes.len() > KEY_MAX {
            let why = format!("a key of {} bytes; {KEY_MAX} are possible", bytes.len());
            return Err(S3Error::new(Wrong::KeyTooLongError, why));
        }
        let folder = bytes.ends_with(b"/");
        let names = bytes.strip_suffix(b"/").unwrap_or(&bytes);
        let mut path = bucket.clone();
        for name in names.split(|byte| *byte == b'/') {
            path = path.join(name).map_err(refused)?;
        }
        Ok(Self { bytes, path, folder })
    }

    /// As text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

fn refused(why: BadPath) -> S3Error {
    let wrong = match why {
        BadPath::LongName | BadPath::Long => Wrong::KeyTooLongError,
        _ => Wrong::InvalidKey,
    };
    S3Error::new(wrong, format!("a key is the path of a file here, and this is none: {why}"))
}

/// Bucket and key of an address, decoded.
pub(super) fn split(path: &str) -> (Vec<u8>, Vec<u8>) {
    let path: Vec<u8> = percent_decode_str(path.strip_prefix('/').unwrap_or(path)).collect();
    match path.iter().position(|byte| *byte == b'/') {
        Some(at) => (path[..at].to_vec(), path[at + 1..].to_vec()),
        None => (path, Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_or_refused() {
        let bucket = bucket(b"photos").unwrap();
        let of = |text: &[u8]| Key::of(&bucket, text.to_vec());
        let path = |text: &[u8]| TreePath::parse(text).unwrap();
        assert_eq!(of(b"a").unwrap().path, path(b"photos/a"));
        let folder = of(b"a/b/").unwrap();
        assert!(folder.folder && folder.path == path(b"photos/a/b"));
        assert_eq!(of(b" ...\xff").unwrap().path, path(b"photos/ ...\xff"));
        for bad in [&b"/"[..], b"/a", b"a//b", b"a//", b".", b"a/../b", b"a/./b", b"a\0"] {
            assert_eq!(of(bad).unwrap_err().wrong, Wrong::InvalidKey, "{bad:?}");
        }
        for long in [vec![b'a'; 256], b"a/".repeat(513)] {
            assert_eq!(of(&long).unwrap_err().wrong, Wrong::KeyTooLongError);
        }
    }

    #[test]
    fn names_of_buckets() {
        for good in ["abc", "a-b.c", "1ab", &"a".repeat(63)] {
            assert!(may_be_made(good.as_bytes()), "{good}");
        }
        let long = "a".repeat(64);
        for bad in
            ["", "ab", "Abc", "a_b", "-ab", "ab-", "a..b", "a.-b", "192.168.5.123", ".abc", &long]
        {
            assert!(!may_be_made(bad.as_bytes()), "{bad}");
        }
        assert!(
            bucket(b"Photos of May").is_ok() && bucket(b".trash").is_err() && bucket(b"").is_err()
        );
        assert_eq!(split("/a/b%2Fc//d"), (b"a".to_vec(), b"b/c//d".to_vec()));
        assert_eq!(split("/"), (Vec::new(), Vec::new()));
    }
}
