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
    Me,
    Entries,
    Entry,
    Delete,
    MakeFolder,
    Content,
    Put,
    Move,
    Copy,
    BeginUpload,
    Uploads,
    Upload,
    AddToUpload,
    FinishUpload,
    EndUpload,
    Archive,
    Search,
    Ticket,
    Status,
    Places,
    Links,
    MakeLink,
    RevokeLink,
    Trash,
    Restore,
    DeleteTrashed,
    EmptyTrash,
    Accounts(AccountKind),
    AddAccount(AccountKind),
    ChangeUser,
    RemoveAccount(AccountKind),
    Options,
    SetOptions,
    Volumes,
    Scrub,
    LastCheck,
    BeginCheck,
    Description,
}

impl Operation {
    /// Is nobody else answered?
    pub(super) fn is_for_administrators(self) -> bool {
        match self {
            Self::Status
            | Self::Accounts(_)
            | Self::AddAccount(_)
            | Self::ChangeUser
            | Self::RemoveAccount(_)
            | Self::Options
            | Self::SetOptions
            | Self::Volumes
            | Self::Scrub
            | Self::LastCheck
            | Self::BeginCheck => true,
            Self::Me
            | Self::Entries
            | Self::Entry
            | Self::Delete
            | Self::MakeFolder
            | Self::Content
            | Self::Put
            | Self::Move
            | Self::Copy
            | Self::BeginUpload
            | Self::Uploads
            | Self::Upload
            | Self::AddToUpload
            | Self::FinishUpload
            | Self::EndUpload
            | Self::Archive
            | Self::Search
            | Self::Ticket
            | Self::Places
            | Self::Links
            | Self::MakeLink
            | Self::RevokeLink
            | Self::Trash
            | Self::Restore
            | Self::DeleteTrashed
            | Self::EmptyTrash
            | Self::Description => false,
        }
    }
}

/// A method, an address below the prefix, and what it asks for. `{path}` is the path of something in the tree, and may be
/// empty; `{id}` is of an upload, `{link}` of a link, `{trashed}` of something in the trash, `{account}` the name of a user or
/// the id of what lets somebody in.
type Route = (&'static str, &'static str, Operation);

/// All of them. What is asked for by GET is by HEAD, too.
pub(super) const ROUTES: [Route; 47] = [
    ("GET", "/me", Operation::Me),
    ("GET", "/entries/{path}", Operation::Entries),
    ("GET", "/entry/{path}", Operation::Entry),
    ("DELETE", "/entries/{path}", Operation::Delete),
    ("POST", "/folders/{path}", Operation::MakeFolder),
    ("GET", "/content/{path}", Operation::Content),
    ("PUT", "/content/{path}", Operation::Put),
    ("POST", "/move", Operation::Move),
    ("POST", "/copy", Operation::Copy),
    // Before that of any path: no path has such a name for a folder, as `is_id` says.
    ("POST", "/uploads/{id}/finish", Operation::FinishUpload),
    ("POST", "/uploads/{path}", Operation::BeginUpload),
    ("GET", "/uploads", Operation::Uploads),
    ("GET", "/uploads/{id}", Operation::Upload),
    ("PATCH", "/uploads/{id}", Operation::AddToUpload),
    ("DELETE", "/uploads/{id}", Operation::EndUpload),
    ("GET", "/archive/{path}", Operation::Archive),
    ("GET", "/search/{path}", Operation::Search),
    ("POST", "/ticket", Operation::Ticket),
    ("GET", "/status", Operation::Status),
    ("GET", "/places/{path}", Operation::Places),
    ("GET", "/links", Operation::Links),
    ("POST", "/links", Operation::MakeLink),
    ("DELETE", "/links/{link}", Operation::RevokeLink),
    ("GET", "/trash", Operation::Trash),
    ("DELETE", "/trash", Operation::EmptyTrash),
    ("POST", "/trash/restore", Operation::Restore),
    ("DELETE", "/trash/{trashed}", Operation::DeleteTrashed),
    ("GET", "/admin/users", Operation::Accounts(AccountKind::User)),
    ("POST", "/admin/users", Operation::AddAccount(AccountKind::User)),
    ("DELETE", "/admin/users/{account}", Operation::RemoveAccount(AccountKind::User)),
    ("GET", "/admin/keys", Operation::Accounts(AccountKind::Key)),
    ("POST", "/admin/keys", Operation::AddAccount(AccountKind::Key)),
    ("DELETE", "/admin/keys/{account}", Operation::RemoveAccount(AccountKind::Key)),
    ("GET", "/admin/tokens", Operation::Accounts(AccountKind::Token)),
    ("POST", "/admin/tokens", Operation::AddAccount(AccountKind::Token)),
    ("DELETE", "/admin/tokens/{account}", Operation::RemoveAccount(AccountKind::Token)),
    ("GET", "/admin/links", Operation::Accounts(AccountKind::Link)),
    ("POST", "/admin/links", Operation::AddAccount(AccountKind::Link)),
    ("DELETE", "/admin/links/{account}", Operation::RemoveAccount(AccountKind::Link)),
    ("PATCH", "/admin/users/{account}", Operation::ChangeUser),
    ("GET", "/admin/options", Operation::Options),
    ("PATCH", "/admin/options", Operation::SetOptions),
    ("GET", "/admin/volumes", Operation::Volumes),
    ("POST", "/admin/scrub", Operation::Scrub),
    ("GET", "/admin/check", Operation::LastCheck),
    ("POST", "/admin/check", Operation::BeginCheck),
    ("GET", "/openapi.json", Operation::Description),
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
        let token = Operation::RemoveAccount(AccountKind::Token);
        assert_eq!(of("DELETE", "/api/v1/admin/tokens/0f"), Ok((token, "0f")));
        assert_eq!(of("PATCH", "/api/v1/admin/users/a%40b"), Ok((Operation::ChangeUser, "a%40b")));
        assert_eq!(of("PATCH", "/api/v1/admin/keys/a"), Err(Code::WrongMethod));
        assert_eq!(of("DELETE", "/api/v1/admin/users/"), Err(Code::NoSuchPage));
        assert_eq!(of("DELETE", "/api/v1/admin/users/a/b"), Err(Code::NoSuchPage));
    }

    #[test]
    fn requests_are_found_by_method_and_address() {
        let of = |method: &str, address: &'static str| {
            find(&method.parse().unwrap(), address).map_err(|(refusal, _)| refusal.code)
        };
        assert_eq!(of("GET", "/api/v1/me"), Ok((Operation::Me, "")));
        assert_eq!(of("GET", "/api/v1/entries"), Ok((Operation::Entries, "")));
        assert_eq!(of("HEAD", "/api/v1/entries/"), Ok((Operation::Entries, "")));
        assert_eq!(of("DELETE", "/api/v1/entries/a/b"), Ok((Operation::Delete, "a/b")));
        assert_eq!(of("GET", "/api/v1/entry/me"), Ok((Operation::Entry, "me")));
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
        assert_eq!(of("POST", "/api/v1/uploads/!1f/finish"), Ok((Operation::FinishUpload, "!1f")));
        let path = "a/finish";
        assert_eq!(of("POST", "/api/v1/uploads/a/finish"), Ok((Operation::BeginUpload, path)));
        let path = "%211f/finish";
        assert_eq!(of("POST", "/api/v1/uploads/%211f/finish"), Ok((Operation::BeginUpload, path)));
        assert_eq!(of("PATCH", "/api/v1/uploads/!1f"), Ok((Operation::AddToUpload, "!1f")));
        assert_eq!(of("PATCH", "/api/v1/uploads/a"), Err(Code::WrongMethod));
        assert_eq!(of("PUT", "/api/v1/me"), Err(Code::WrongMethod));
        let (_, allowed) = find(&Method::POST, "/api/v1/entries/a").unwrap_err();
        assert_eq!(allowed, "GET, DELETE, HEAD");
    }
}
