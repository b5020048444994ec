//! What is known of a file, folder or link, as JSON.

use fs::tree::{TreePath, TreeResult, View};
use meta::{Attr, Kind, Time};
use serde::Serialize;

use crate::address::write_name;
use crate::conditions;
use crate::refusal::word;

/// A file, folder, link, or something else.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    /// For people: bytes that are no text are replaced.
    name: String,
    /// The name in addresses.
    address: String,
    kind: &'static str,
    size: u64,
    /// In milliseconds since 1970.
    modified: i64,
    mode: u32,
    owner: u32,
    group: u32,
    /// As `ETag` has it.
    tag: String,
    #[serde(flatten)]
    link: Option<Link>,
    /// It cannot be read: of all this, its name alone is true.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
}

/// Where a link leads.
#[derive(Debug, Serialize)]
struct Link {
    target: String,
    /// What is there. `None`: nothing that could be seen from here.
    leads_to: Option<&'static str>,
}

/// Milliseconds since 1970.
pub(super) fn milliseconds(time: Time) -> i64 {
    time.secs.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000))
}

/// A time of so many milliseconds since 1970.
pub(super) fn time(milliseconds: i64) -> Time {
    let nanos = milliseconds.rem_euclid(1000) * 1_000_000;
    Time { secs: milliseconds.div_euclid(1000), nanos: u32::try_from(nanos).unwrap_or(0) }
}

impl Entry {
    /// Of what is at a path.
    ///
    /// # Errors
    /// When a link cannot be read.
    pub(super) async fn of(view: &View, path: &TreePath, attr: &Attr) -> TreeResult<Self> {
        let link = match attr.kind {
            Kind::Symlink => {
                let target = view.target(attr).await?;
                let there = view.stat(path).await.ok();
                Some(Link {
                    target: String::from_utf8_lossy(&target).into_owned(),
                    leads_to: there.map(|attr| word(attr.kind)),
                })
            }
            _ => None,
        };
        let name = path.names().last().map_or(&[][..], |name| name);
        Ok(Self {
            name: String::from_utf8_lossy(name).into_owned(),
            address: write_name(name),
            kind: word(attr.kind),
            size: attr.size,
            modified: milliseconds(attr.mtime),
            mode: attr.mode,
            owner: attr.uid,
            group: attr.gid,
            tag: conditions::tag(attr),
            link,
            damaged: false,
        })
    }

    /// Of what cannot be read.
    pub(super) fn damaged(name: &[u8]) -> Self {
        Self {
            name: String::from_utf8_lossy(name).into_owned(),
            address: write_name(name),
            kind: "other",
            size: 0,
            modified: 0,
            mode: 0,
            owner: 0,
            group: 0,
            tag: String::new(),
            link: None,
            damaged: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_before_1970_too() {
        for (secs, nanos, expected) in [(0, 0, 0), (1, 7_000_000, 1007), (-1, 999_000_000, -1)] {
            let there = Time { secs, nanos };
            assert_eq!(milliseconds(there), expected);
            assert_eq!(time(expected), there);
        }
        assert_eq!(milliseconds(Time { secs: i64::MAX, nanos: 0 }), i64::MAX);
    }
}
