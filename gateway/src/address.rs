//! Paths of the tree as they are written in addresses: each name percent-encoded bytes, whatever they are, so that what is
//! no UTF-8 comes and goes as it is. Pure.

use fs::tree::TreePath;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

use crate::refusal::{Code, Refusal};

/// What is not written as it is in a name.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn bad(why: impl ToString) -> Refusal {
    Refusal::new(Code::BadRequest, why.to_string())
}

/// The path of names between slashes; one behind them means nothing.
///
/// # Errors
/// When it leads to no place that a tree could have.
pub(crate) fn read(names: &str) -> Result<TreePath, Refusal> {
    let names = names.strip_suffix('/').unwrap_or(names);
    if names.to_ascii_lowercase().contains("%2f") {
        return Err(bad("a name with a slash in it, which no file can have"));
    }
    let names = names.split('/').filter(|_| !names.is_empty());
    let names = names.map(|name| percent_decode(name.as_bytes()).collect::<Vec<u8>>());
    TreePath::of_names(names).map_err(bad)
}

/// The same, of bytes that should be such names.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_bytes(names: &[u8]) -> Result<TreePath, Refusal> {
    read(std::str::from_utf8(names).map_err(|_| bad("names in addresses are percent-encoded"))?)
}

/// A path in an address, without a slash before it or behind it.
pub(crate) fn write(path: &TreePath) -> String {
    path.names().iter().map(|name| write_name(name)).collect::<Vec<_>>().join("/")
}

/// A name in an address.
pub(crate) fn write_name(name: &[u8]) -> String {
    percent_encode(name, ENCODED).to_string()
}

/// Is the one in the other, at any depth, or the same?
pub(crate) fn is_in(path: &TreePath, folder: &TreePath) -> bool {
    path.names().starts_with(folder.names())
}
