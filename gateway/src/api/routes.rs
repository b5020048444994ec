//! Which requests there are. Pure.
//!
//! A path of the tree is the end of an address, with its slashes, so a request is found by the first word behind the prefix, and by its
//! method.

use http::Method;
use meta::AccountKind;

use crate::refusal::{Code, Refusal};

/// What all addresses of this door begin with.
pub(super) const PREFIX: &str = "/api/v1";

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// The body is a file's content.
    Put,
    /// The body is some of it.
    AddToUpload,
    EndUpload,
    Tell(Tell),
    Change(Change),
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    Me,
    Entries,
    Entry,
    Content,
    Uploads,
    Upload,
    Archive,
    Search,
    Ticket,
    Status,
    Places,
    Links,
    Trash,
    Description,
    Admin(AdminTell),
}

/// What administrators alone are told, beside the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdminTell {
    Accounts(AccountKind),
    Options,
    Volumes,
    LastCheck,
}

/// What is changed: in turn, and carried through whoever goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    MakeFolder,
    Delete,
    Move,
    Copy,
    BeginUpload,
    FinishUpload,
    MakeLink,
    RevokeLink,
    Restore,
    DeleteTrashed,
    EmptyTrash,
    Admin(AdminChange),
}

/// What administrators alone change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdminChange {
    AddAccount(AccountKind),
    ChangeUser,
    RemoveAccount(AccountKind),
    SetOptions,
    Scrub,
    BeginCheck,
}

impl Operation {
    /// Is nobody else answered?
    pub(super) fn is_for_administrators(self) -> bool {
        matches!(self, Self::Tell(Tell::Status | Tell::Admin(_)) | Self::Change(Change::Admin(_)))
    }

    /// Is what stands at the end of its address no path of the tree?
    pub(super) fn is_about_an_id(self) -> bool {
        match self {
            Self::AddToUpload | Self::EndUpload => true,
            Self::Put => false,
            Self::Tell(tell) => tell == Tell::Upload,
            Self::Change(change) => matches!(
                change,
                Change::FinishUpload
                    | Change::RevokeLink
                    | Change::DeleteTrashed
                    | Change::Admin(AdminChange::ChangeUser | AdminChange::RemoveAccount(_))
            ),
        }
    }
}

const fn tell(what: Tell) -> Operation {
    Operation::Tell(what)
}

const fn change(what: Change) -> Operation {
    Operation::Change(what)
}

const fn admin_tell(what: AdminTell) -> Operation {
    tell(Tell::Admin(what))
}

const fn admin_change(what: AdminChange) -> Operation {
    change(Change::Admin(what))
}

/// A method, an address below the prefix, and what it asks for. `{path}` is the path of something in the tree, and may be
/// empty; `{id}` is of an upload, `{link}` of a link, `{trashed}` of something in the trash, `{account}` the name of a user or
/// the id of what lets somebody in.
type Route = (&'static str, &'static str, Operation);

/// All of them. What is asked for by GET is by HEAD, too.
pub(super) const ROUTES: [Route; 47] = [
    ("GET", "/me", tell(Tell::Me)),
    ("GET", "/entries/{path}", tell(Tell::Entries)),
    ("GET", "/entry/{path}", tell(Tell::Entry)),
    ("DELETE", "/entries/{path}", change(Change::Delete)),
    ("POST", "/folders/{path}", change(Change::MakeFolder)),
    ("GET", "/content/{path}", tell(Tell::Content)),
    ("PUT", "/content/{path}", Operation::Put),
    ("POST", "/move", change(Change::Move)),
    ("POST", "/copy", change(Change::Copy)),
    // Before that of any path: no path has such a name for a folder, as `is_id` says.
    ("POST", "/uploads/{id}/finish", change(Change::FinishUpload)),
    ("POST", "/uploads/{path}", change(Change::BeginUpload)),
    ("GET", "/uploads", tell(Tell::Uploads)),
    ("GET", "/uploads/{id}", tell(Tell::Upload)),
    ("PATCH", "/uploads/{id}", Operation::AddToUpload),
    ("DELETE", "/uploads/{id}", Operation::EndUpload),
    ("GET", "/archive/{path}", tell(Tell::Archive)),
    ("GET", "/search/{path}", tell(Tell::Search)),
    ("POST", "/ticket", tell(Tell::Ticket)),
    ("GET", "/status", tell(Tell::Status)),
    ("GET", "/places/{path}", tell(Tell::Places)),
    ("GET", "/links", tell(Tell::Links)),
    ("POST", "/links", change(Change::MakeLink)),
    ("DELETE", "/links/{link}", change(Change::RevokeLink)),
    ("GET", "/trash", tell(Tell::Trash)),
    ("DELETE", "/trash", change(Change::EmptyTrash)),
    ("POST", "/trash/restore", change(Change::Restore)),
    ("DELETE", "/trash/{trashed}", change(Change::DeleteTrashed)),
    ("GET", "/admin/users", admin_tell(AdminTell::Accounts(AccountKind::User))),
    ("POST", "/admin/users", admin_change(AdminChange::AddAccount(AccountKind::User))),
    (
        "DELETE",
        "/admin/users/{account}",
        admin_change(AdminChange::RemoveAccount(AccountKind::User)),
    ),
    ("GET", "/admin/keys", admin_tell(AdminTell::Accounts(AccountKind::Key))),
    ("POST", "/admin/keys", admin_change(AdminChange::AddAccount(AccountKind::Key))),
    ("DELETE", "/admin/keys/{account}", admin_change(AdminChange::RemoveAccount(AccountKind::Key))),
    ("GET", "/admin/tokens", admin_tell(AdminTell::Accounts(AccountKind::Token))),
    ("POST", "/admin/tokens", admin_change(AdminChange::AddAccount(AccountKind::Token))),
    (
        "DELETE",
        "/admin/tokens/{account}",
        admin_change(AdminChange::RemoveAccount(AccountKind::Token)),
    ),
    ("GET", "/admin/links", admin_tell(AdminTell::Accounts(AccountKind::Link))),
    ("POST", "/admin/links", admin_change(AdminChange::AddAccount(AccountKind::Link))),
    (
        "DELETE",
        "/admin/links/{account}",
        admin_change(AdminChange::RemoveAccount(AccountKind::Link)),
    ),
    ("PATCH", "/admin/users/{account}", admin_change(AdminChange::ChangeUser)),
    ("GET", "/admin/options", admin_tell(AdminTell::Options)),
    ("PATCH", "/admin/options", admin_change(AdminChange::SetOptions)),
    ("GET", "/admin/volumes", admin_tell(AdminTell::Volumes)),
    ("POST", "/admin/scrub", admin_change(AdminChange::Scrub)),
    ("GET", "/admin/check", admin_tell(AdminTell::LastCheck)),
    ("POST", "/admin/check", admin_change(AdminChange::BeginCheck)),
    ("GET", "/openapi.json", tell(Tell::Description)),
];

/// What a request asks for, and what its address has in the place of what is in braces.
///
/// # Errors
/// When there is no such thing; with the methods that there are, where it is the method alone that makes no sense.
pub(super) fn find<'a>(
    method: &Method,
    address: &'a str,
) -> Result<(Operation, &'a str), (Refusal, String)> {
    let below = address.strip_prefix(PREFIX).unwrap_or_default();
    let found: Vec<_> = ROUTES
        .into_iter()
        .filter_map(|(method, template, operation)| {
            fits(template, below).map(|rest| (method, operation, rest))
        })
        .collect();
    let wanted = if method == Method::HEAD { "GET" } else { method.as_str() };
    if let Some((_, operation, rest)) = found.iter().find(|(method, ..)| *method == wanted) {
        return Ok((*operation, rest));
    }
    if found.is_empty() {
        let why = "there is no such request: /api/v1/openapi.json says which there are";
        return Err((Refusal::new(Code::NoSuchPage, why), String::new()));
    }
    let mut allowed: Vec<&str> = found.iter().map(|(method, ..)| *method).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    let allowed = allowed.join(", ");
    let why = format!("{method} cannot be done there, but {allowed}");
    Err((Refusal::new(Code::WrongMethod, why), allowed))
}

/// What an address has in the place of what a template has in braces, if it is one of those.
fn fits<'a>(template: &str, address: &'a str) -> Option<&'a str> {
    if let Some((before, _)) = template.split_once("/{path}") {
        let rest = address.strip_prefix(before)?;
        return if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') };
    }
    let named =
        ["{link}", "{trashed}", "{account}"].iter().find_map(|named| template.split_once(named));
    if let Some((before, _)) = named {
        let id = address.strip_prefix(before)?;
        return (!id.is_empty() && !id.contains('/')).then_some(id);
    }
    let Some((before, behind)) = template.split_once("{id}") else {
        return (template == address).then_some("");
    };
    let id = address.strip_prefix(before)?.strip_suffix(behind)?;
    is_id(id).then_some(id)
}

/// Ids begin with a mark that paths have percent-encoded (`%21`), so that none is taken for the name of a folder.
fn is_id(text: &str) -> bool {
    text.strip_prefix('!').is_some_and(|id| !id.is_empty() && !id.contains('/'))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_described_is_what_there_is() {
        let described: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let paths = described["paths"].as_object().unwrap();
        let described: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(|method| (method.to_uppercase(), path.clone()))
            })
            .collect();
        let there: BTreeSet<_> = ROUTES
            .into_iter()
            .map(|(method, path, _)| (method.to_owned(), path.to_owned()))
            .collect();
        assert_eq!(described, there);
        assert_eq!(there.len(), ROUTES.len(), "one of them is there twice");
    }

    #[test]
    fn what_is_below_admin_is_for_administrators_alone() {
        for (method, path, operation) in ROUTES {
            let is = path.starts_with("/admin/") || path == "/status";
            assert_eq!(operation.is_for_administrators(), is, "{method} {path}");
        }
        let of = |method: &str, address: &'static str| {
            find(&method.parse().unwrap(), address).map_err(|(refusal, _)| refusal.code)
        };
        let token = admin_change(AdminChange::RemoveAccount(AccountKind::Token));
        assert_eq!(of("DELETE", "/api/v1/admin/tokens/0f"), Ok((token, "0f")));
        assert_eq!(
            of("PATCH", "/api/v1/admin/users/a%40b"),
            Ok((admin_change(AdminChange::ChangeUser), "a%40b"))
        );
        assert_eq!(of("PATCH", "/api/v1/admin/keys/a"), Err(Code::WrongMethod));
        assert_eq!(of("DELETE", "/api/v1/admin/users/"), Err(Code::NoSuchPage));
        assert_eq!(of("DELETE", "/api/v1/admin/users/a/b"), Err(Code::NoSuchPage));
    }

    #[test]
    fn requests_are_found_by_method_and_address() {
        let of = |method: &str, address: &'static str| {
            find(&method.parse().unwrap(), address).map_err(|(refusal, _)| refusal.code)
        };
        assert_eq!(of("GET", "/api/v1/me"), Ok((tell(Tell::Me), "")));
        assert_eq!(of("GET", "/api/v1/entries"), Ok((tell(Tell::Entries), "")));
        assert_eq!(of("HEAD", "/api/v1/entries/"), Ok((tell(Tell::Entries), "")));
        assert_eq!(of("DELETE", "/api/v1/entries/a/b"), Ok((change(Change::Delete), "a/b")));
        assert_eq!(of("GET", "/api/v1/entry/me"), Ok((tell(Tell::Entry), "me")));
        assert_eq!(of("PUT", "/api/v1/content//a"), Ok((Operation::Put, "/a")));
        for (method, address) in [
            ("GET", "/api/v1"),
            ("GET", "/api/v1/"),
            ("GET", "/api/v1/mean"),
            ("GET", "/api/v1/me/"),
            ("GET", "/api/v1/entriesx/a"),
            ("GET", "/api/v2/me"),
        ] {
            assert_eq!(of(method, address), Err(Code::NoSuchPage), "{address}");
        }
        assert_eq!(
            of("POST", "/api/v1/uploads/!1f/finish"),
            Ok((change(Change::FinishUpload), "!1f"))
        );
        let path = "a/finish";
        assert_eq!(of("POST", "/api/v1/uploads/a/finish"), Ok((change(Change::BeginUpload), path)));
        let path = "%211f/finish";
        assert_eq!(
            of("POST", "/api/v1/uploads/%211f/finish"),
            Ok((change(Change::BeginUpload), path))
        );
        assert_eq!(of("PATCH", "/api/v1/uploads/!1f"), Ok((Operation::AddToUpload, "!1f")));
        assert_eq!(of("PATCH", "/api/v1/uploads/a"), Err(Code::WrongMethod));
        assert_eq!(of("PUT", "/api/v1/me"), Err(Code::WrongMethod));
        let (_, allowed) = find(&Method::POST, "/api/v1/entries/a").unwrap_err();
        assert_eq!(allowed, "GET, DELETE, HEAD");
    }
}
