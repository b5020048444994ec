//! The extended attributes of an inode that share a hash: a bucket, nearly always of one.
//!
//! ```text
//! offset  size  field of one attribute; the next follows   (little-endian)
//! 0       1     length of the name
//! 1       4     length of the value
//! 5       -     name
//! -       -     value
//! ```

use crate::store::MetaError;

const HEAD: usize = 5;

/// Name and value of each attribute of a bucket. Ends early, with `None`, at bytes that make no
/// sense.
pub(crate) fn entries(mut bytes: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let parse = || {
            let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
            let value_len = u32::from_le_bytes(head[1..].try_into().ok()?);
            let (name, rest) = rest.split_at_checked(head[0].into())?;
            let (value, rest) = rest.split_at_checked(value_len as usize)?;
            Some(((name, value), rest))
        };
        let parsed = parse();
        bytes = parsed.map_or(&[], |(_, rest)| rest);
        Some(parsed.map(|(entry, _)| entry))
    })
}

/// The value of a name.
pub(crate) fn find<'a>(bucket: &'a [u8], name: &[u8]) -> Result<Option<&'a [u8]>, MetaError> {
    for entry in entries(bucket) {
        let (this, value) = entry.ok_or_else(damaged)?;
        if this == name {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The bucket with another value of a name, or without it.
pub(crate) fn set(bucket: &[u8], name: &[u8], value: Option<&[u8]>) -> Result<Vec<u8>, MetaError> {
    let mut out =
        Vec::with_capacity(bucket.len() + HEAD + name.len() + value.map_or(0, <[u8]>::len));
    let mut push = |name: &[u8], value: &[u8]| {
        out.push(name.len() as u8);
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    };
    for entry in entries(bucket) {
        let (this, old) = entry.ok_or_else(damaged)?;
        if this != name {
            push(this, old);
        }
    }
    if let Some(value) = value {
        push(name, value);
    }
    Ok(out)
}

/// What a bucket that makes no sense is answered with.
pub(crate) fn damaged() -> MetaError {
    MetaError::Damaged("an extended attribute is damaged".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_one_hash_live_together() {
        let mut bucket = Vec::new();
        bucket = set(&bucket, b"user.a", Some(b"1")).unwrap();
        bucket = set(&bucket, b"user.b", Some(&[7; 70_000])).unwrap();
        bucket = set(&bucket, b"user.a", Some(b"")).unwrap();
        assert_eq!(find(&bucket, b"user.a"), Ok(Some(&b""[..])));
        assert_eq!(find(&bucket, b"user.b"), Ok(Some(&[7; 70_000][..])));
        bucket = set(&bucket, b"user.b", None).unwrap();
        assert_eq!(find(&bucket, b"user.b"), Ok(None));
        assert!(find(&bucket[..3], b"user.a").is_err());
        assert!(set(&bucket, b"user.a", None).unwrap().is_empty());
    }
}
