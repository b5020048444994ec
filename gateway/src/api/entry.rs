//! What is known of a file, folder or link, as JSON.

use fs::tree::{AccessLists, TreePath, TreeResult, View};
use meta::{Acl, Attr, Grantee, Kind, Time};
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
    /// Who may what, where that is more than the mode says, whose group is the mask then. Not told in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    access_list: Option<Vec<Grant>>,
    /// What new entries of a folder start from. Not told in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    default_list: Option<Vec<Grant>>,
}

/// An entry of an access list.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Grant {
    /// `owner`, `user`, `group`, `mask` or `others`.
    who: &'static str,
    /// Of a user or group that is named; `group` without it is the one of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    /// 4 to read, 2 to write, 1 to run or enter.
    may: u32,
}

fn grants(list: &Acl) -> Vec<Grant> {
    let grant = |(grantee, may)| {
        let (who, id) = match grantee {
            Grantee::Owner => ("owner", None),
            Grantee::User(id) => ("user", Some(id)),
            Grantee::Group => ("group", None),
            Grantee::NamedGroup(id) => ("group", Some(id)),
            Grantee::Mask => ("mask", None),
            Grantee::Others => ("others", None),
        };
        Grant { who, id, may }
    };
    list.entries().map(grant).collect()
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
            access_list: None,
            default_list: None,
        })
    }

    /// With its lists, if it has any.
    pub(super) fn with(self, lists: &AccessLists) -> Self {
        let AccessLists { access, default } = lists;
        let [access_list, default_list] = [access, default].map(|list| list.as_ref().map(grants));
        Self { access_list, default_list, ..self }
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
            access_list: None,
            default_list: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_told_by_whom_they_name() {
        // Owner rwx, user 10 rw, group r, group 77 x, mask r, others none.
        let entries: [(u16, u16, u32); 6] = [
            (1, 7, u32::MAX),
            (2, 6, 10),
            (4, 4, u32::MAX),
            (8, 1, 77),
            (16, 4, u32::MAX),
            (32, 0, u32::MAX),
        ];
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, may, id) in entries {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&may.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        let list = Acl::parse(&value).unwrap().unwrap();
        let told = serde_json::to_value(grants(&list)).unwrap();
        let expected = serde_json::json!([
            { "who": "owner", "may": 7 },
            { "who": "user", "id": 10, "may": 6 },
            { "who": "group", "may": 4 },
            { "who": "group", "id": 77, "may": 1 },
            { "who": "mask", "may": 4 },
            { "who": "others", "may": 0 },
        ]);
        assert_eq!(told, expected);
    }

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
