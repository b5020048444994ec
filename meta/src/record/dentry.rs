//! The entries of a directory that share a hash: a bucket, nearly always of one.
//!
//! ```text
//! offset  size  field of one entry; the next follows       (little-endian)
//! 0       1     disc       tells entries of one hash apart; rising within the bucket
//! 1       8     inode
//! 9       1     length     of the name
//! 10      -     name
//! ```
//!
//! An entry keeps its `disc` for life, so its cookie (hash and disc) is stable.

use crate::store::{Ino, MetaError};

const HEAD: usize = 10;

/// One entry of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dentry<'a> {
    /// Tells it apart from others with its hash.
    pub(crate) disc: u8,
    /// What it names.
    pub(crate) ino: Ino,
    /// Its name.
    pub(crate) name: &'a [u8],
}

/// The entries of an encoded bucket. Ends early, with `None`, at bytes that make no sense.
pub(crate) fn entries(mut bytes: &[u8]) -> impl Iterator<Item = Option<Dentry<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let parse = || {
            let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
            let (name, rest) = rest.split_at_checked(head[9].into())?;
            let ino = u64::from_le_bytes(head[1..9].try_into().ok()?);
            Some((Dentry { disc: head[0], ino: Ino(ino), name }, rest))
        };
        let parsed = parse();
        bytes = parsed.map_or(&[], |(_, rest)| rest);
        Some(parsed.map(|(entry, _)| entry))
    })
}

/// Bytes of an entry within its bucket.
pub(crate) fn len(entry: &Dentry<'_>) -> usize {
    HEAD + entry.name.len()
}

/// The inode of a name.
pub(crate) fn find(bucket: &[u8], name: &[u8]) -> Result<Option<Ino>, MetaError> {
    for entry in entries(bucket) {
        let entry = entry.ok_or_else(damaged)?;
        if entry.name == name {
            return Ok(Some(entry.ino));
        }
    }
    Ok(None)
}

/// The bucket with one more entry. The name must not be in it.
pub(crate) fn insert(bucket: &[u8], name: &[u8], ino: Ino) -> Result<Vec<u8>, MetaError> {
    let mut free = 0u8;
    let mut at = 0;
    for entry in entries(bucket) {
        let entry = entry.ok_or_else(damaged)?;
        if entry.disc != free {
            break;
        }
        free = free
            .checked_add(1)
            .ok_or_else(|| MetaError::Engine("256 names of a directory share a hash".to_owned()))?;
        at += HEAD + entry.name.len();
    }
    let mut out = Vec::with_capacity(bucket.len() + HEAD + name.len());
    out.extend_from_slice(&bucket[..at]);
    out.push(free);
    out.extend_from_slice(&ino.0.to_le_bytes());
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    out.extend_from_slice(&bucket[at..]);
    Ok(out)
}

/// The bucket without an entry; empty when it was the last.
pub(crate) fn remove(bucket: &[u8], name: &[u8]) -> Result<Vec<u8>, MetaError> {
    edit(bucket, name, |_| {})
}

/// The bucket with another inode under a name.
pub(crate) fn replace(bucket: &[u8], name: &[u8], ino: Ino) -> Result<Vec<u8>, MetaError> {
    edit(bucket, name, |out| {
        let at = out.len();
        out.resize(at + 8, 0);
        out[at..].copy_from_slice(&ino.0.to_le_bytes());
    })
}

/// Copies all entries but the named one, which goes without its inode unless `put_ino` writes one.
fn edit(bucket: &[u8], name: &[u8], put_ino: impl Fn(&mut Vec<u8>)) -> Result<Vec<u8>, MetaError> {
    let mut out = Vec::with_capacity(bucket.len());
    let mut at = 0;
    for entry in entries(bucket) {
        let entry = entry.ok_or_else(damaged)?;
        let end = at + HEAD + entry.name.len();
        if entry.name == name {
            let start = out.len();
            out.push(entry.disc);
            put_ino(&mut out);
            if out.len() == start + 1 {
                out.truncate(start);
            } else {
                out.extend_from_slice(&bucket[at + 9..end]);
            }
        } else {
            out.extend_from_slice(&bucket[at..end]);
        }
        at = end;
    }
    Ok(out)
}

/// What a bucket that makes no sense is answered with.
pub(crate) fn damaged() -> MetaError {
    MetaError::Damaged("a directory entry is damaged".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bucket: &[u8]) -> Vec<(u8, u64, &[u8])> {
        entries(bucket).map(|e| e.unwrap()).map(|e| (e.disc, e.ino.0, e.name)).collect()
    }

    #[test]
    fn entries_keep_their_disc_while_others_come_and_go() {
        let mut bucket = Vec::new();
        for (ino, name) in [(1, &b"a"[..]), (2, b"bb"), (3, b"ccc")] {
            bucket = insert(&bucket, name, Ino(ino)).unwrap();
        }
        bucket = remove(&bucket, b"bb").unwrap();
        assert_eq!(names(&bucket), [(0, 1, &b"a"[..]), (2, 3, b"ccc")]);
        bucket = insert(&bucket, b"d", Ino(4)).unwrap();
        bucket = replace(&bucket, b"ccc", Ino(9)).unwrap();
        assert_eq!(names(&bucket), [(0, 1, &b"a"[..]), (1, 4, b"d"), (2, 9, b"ccc")]);
        assert_eq!(find(&bucket, b"d"), Ok(Some(Ino(4))));
        assert_eq!(find(&bucket, b"bb"), Ok(None));
        for name in [&b"a"[..], b"d", b"ccc"] {
            bucket = remove(&bucket, name).unwrap();
        }
        assert!(bucket.is_empty());
    }

    #[test]
    fn a_full_bucket_refuses_and_a_damaged_one_is_an_error() {
        let mut bucket = Vec::new();
        for i in 0..=255u8 {
            bucket = insert(&bucket, &[b'n', i], Ino(7)).unwrap_or_else(|_| {
                assert_eq!(i, 255, "room for 255");
                Vec::new()
            });
        }
        let one = insert(&[], b"name", Ino(1)).unwrap();
        for cut in 1..one.len() {
            assert!(find(&one[..cut], b"x").is_err(), "cut at {cut}");
        }
    }
}
