//! The folder that is all an account sees: a path from the volume's root.

use meta::{Ino, Kind, MetaError, MetaStore, ROOT};

/// A folder as it is kept: without a slash at its end.
pub fn as_kept(text: &str) -> String {
    match text.trim_end_matches('/') {
        "" => "/".to_owned(),
        text => text.to_owned(),
    }
}

/// Is a folder the other one, or somewhere below it?
pub(crate) fn is_within(folder: &str, above: &str) -> bool {
    match folder.strip_prefix(above.trim_end_matches('/')) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// The directories on the way to a path from the root, this one and the last one included, without following links.
/// `None`: it leads to no directory.
pub(crate) async fn way_to(
    meta: &dyn MetaStore,
    folder: &str,
) -> Result<Option<Vec<Ino>>, MetaError> {
    let mut way = vec![ROOT];
    let mut at = ROOT;
    for name in folder.split('/').filter(|name| !name.is_empty()) {
        at = match meta.lookup(at, name.as_bytes()).await {
            Ok(attr) if attr.kind == Kind::Directory => attr.ino,
            Ok(_) | Err(MetaError::NotFound | MetaError::NotDirectory) => return Ok(None),
            Err(why) => return Err(why),
        };
        way.push(at);
    }
    Ok(Some(way))
}

/// What is in both: the directory that a way leads to, and what is shown of the volume. `None`: nothing is.
pub(crate) async fn common(
    meta: &dyn MetaStore,
    way: &[Ino],
    shown: Ino,
) -> Result<Option<Ino>, MetaError> {
    let last = way.last().copied().unwrap_or(ROOT);
    if way.contains(&shown) {
        return Ok(Some(last));
    }
    let mut at = shown;
    while at != ROOT {
        at = meta.lookup(at, b"..").await?.ino;
        if at == last {
            return Ok(Some(shown));
        }
    }
    Ok(None)
}
