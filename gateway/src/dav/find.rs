//! PROPFIND: properties of a file or folder, and of what is in a folder, streamed as it is listed.
//!
//! A listing that cannot be had to its end breaks the answer off: no client takes a part of a folder for all of it. What is in folders
//! within the folder is not answered at once (`Depth: infinity`); clients ask for one after the other.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fs::tree::{Listing, TreePath, TreeResult, View};
use http::{HeaderValue, StatusCode, header};
use meta::{Attr, DirEntry, Kind};

use super::asked::Asked;
use super::door::Door;
use super::headers::{Depth, depth};
use super::properties::{LIVE, Outcomes, Resource, dead, failed};
use super::xml::{Element, HEAD, Name, document, read};
use crate::place::refused;
use crate::refusal::{Code, Refusal};

/// Bytes of an answer that are made at once.
const CHUNK: usize = 32 << 10;
/// Properties that may be asked for by name.
const ASKED: usize = 256;

/// What of each is wanted.
pub(super) enum Wanted {
    /// Everything, with these by name.
    All,
    /// What there is, without what it says.
    Names,
    /// These.
    These(Vec<Name>),
}

/// XML, with this status.
pub(super) fn answer(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = (status, body.into()).into_response();
    let kind = HeaderValue::from_static("application/xml; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// PROPFIND.
pub(super) async fn find(asked: &Asked, body: &[u8]) -> Result<Response, Refusal> {
    let depth = depth(&asked.headers)?.unwrap_or(Depth::Infinity);
    let wanted = wanted(body)?;
    let path = asked.at.path.clone();
    let attr = asked.view.stat(&path).await.map_err(|e| refused(&e))?;
    let resource = Resource { path: path.clone(), attr };
    if depth == Depth::Infinity && resource.folder() {
        let why = document("error", "<D:propfind-finite-depth/>");
        return Ok(answer(StatusCode::FORBIDDEN, why));
    }
    let (view, door) = (asked.view.clone(), asked.door.clone());
    let listing = match depth == Depth::One && resource.folder() {
        true => Some(view.list(&path).await.map_err(|e| refused(&e))?),
        false => None,
    };
    let mut finding = Finding { view, door, folder: path, listing, page: Vec::new(), wanted };
    let mut first = format!("{HEAD}<D:multistatus xmlns:D=\"DAV:\">");
    finding.write(&resource, &mut first).await.map_err(|e| refused(&e))?;
    // What goes wrong at once is still said with a status.
    finding.fill(&mut first).await.map_err(|e| refused(&e))?;
    let more = futures::stream::try_unfold(Some((finding, first)), |state| async move {
        let Some((mut finding, ready)) = state else { return Ok(None) };
        if !finding.is_at_end() {
            let mut next = String::new();
            finding.fill(&mut next).await.inspect_err(|e| {
                tracing::error!("a door breaks off a list of a folder: {e}");
            })?;
            return TreeResult::Ok(Some((Bytes::from(ready), Some((finding, next)))));
        }
        Ok(Some((Bytes::from(ready + "</D:multistatus>\n"), None)))
    });
    Ok(answer(StatusCode::MULTI_STATUS, Body::from_stream(more)))
}

/// What a request wants to know.
pub(super) fn wanted(body: &[u8]) -> Result<Wanted, Refusal> {
    if body.is_empty() {
        return Ok(Wanted::All);
    }
    let bad = |why: &str| Err(Refusal::new(Code::BadRequest, why));
    let root = read(body)?;
    if !root.name.is("propfind") {
        return bad("the XML of a PROPFIND is a propfind of DAV:");
    }
    let (all, names, these) = (root.child("allprop"), root.child("propname"), root.child("prop"));
    match (all, names, these) {
        (Some(_), None, None) => Ok(Wanted::All),
        (None, Some(_), None) => Ok(Wanted::Names),
        (None, None, Some(these)) => {
            let names: Vec<Name> = these.elements().map(|one| one.name.clone()).collect();
            if names.len() > ASKED {
                let why = format!("{} properties at once; {ASKED} are possible", names.len());
                return Err(Refusal::new(Code::TooLarge, why));
            }
            Ok(Wanted::These(names))
        }
        _ => bad("a propfind has one of allprop, propname and prop"),
    }
}

/// A folder whose list is being written.
struct Finding {
    view: View,
    door: Arc<Door>,
    folder: TreePath,
    /// `None`: it is at its end.
    listing: Option<Listing>,
    /// Entries that are next, the last of them first.
    page: Vec<DirEntry>,
    wanted: Wanted,
}

impl Finding {
    fn is_at_end(&self) -> bool {
        self.listing.is_none() && self.page.is_empty()
    }

    /// Writes on, until that is enough for now.
    async fn fill(&mut self, out: &mut String) -> TreeResult<()> {
        while out.len() < CHUNK {
            if let Some(entry) = self.page.pop() {
                self.write_entry(&entry, out).await?;
                continue;
            }
            let Some(listing) = &mut self.listing else { return Ok(()) };
            self.page = listing.next().await?;
            self.page.reverse();
            if self.page.is_empty() {
                self.listing = None;
            }
            // A long listing lets others go in between.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn write_entry(&self, entry: &DirEntry, out: &mut String) -> TreeResult<()> {
        let path = self.folder.join(&entry.name)?;
        if entry.damaged {
            let at = super::address::write(&path, false);
            failed(&at, StatusCode::INTERNAL_SERVER_ERROR, "what was stored is damaged", out);
            return Ok(());
        }
        // A link is the file that it leads to. One to a folder is not shown: clients that delete a folder by deleting what is
        // in it, one thing after another, would go over it. Nor is one that leads to nothing here.
        let is_file = |attr: &Attr| attr.kind == Kind::File;
        let attr = match entry.attr.kind {
            Kind::Symlink => self.view.stat(&path).await.ok().filter(is_file),
            _ => Some(entry.attr),
        };
        match attr.filter(|attr| matches!(attr.kind, Kind::File | Kind::Directory)) {
            Some(attr) => self.write(&Resource { path, attr }, out).await,
            None => Ok(()),
        }
    }

    async fn write(&self, resource: &Resource, out: &mut String) -> TreeResult<()> {
        let locks = self.door.locks(self.view.viewer().root).of(&resource.path, Instant::now());
        let mut outcomes = Outcomes::default();
        let live = |local: &str| resource.live(&locks, local);
        match &self.wanted {
            Wanted::All => {
                for local in LIVE {
                    if let Some(inner) = live(local) {
                        outcomes.add(StatusCode::OK, &format!("<D:{local}>{inner}</D:{local}>"));
                    }
                }
                for property in self.dead(resource).await? {
                    outcomes.add_element(StatusCode::OK, &property);
                }
            }
            Wanted::Names => {
                for local in LIVE.into_iter().filter(|local| live(local).is_some()) {
                    outcomes.add(StatusCode::OK, &format!("<D:{local}/>"));
                }
                for property in self.dead(resource).await? {
                    outcomes.add_element(StatusCode::OK, &Element::empty(property.name));
                }
            }
            Wanted::These(names) => {
                let is_live = |name: &Name| LIVE.iter().any(|live| name.is(live));
                let dead = match names.iter().all(is_live) {
                    true => Vec::new(),
                    false => self.dead(resource).await?,
                };
                for name in names {
                    let found =
                        Some(name).filter(|name| is_live(name)).and_then(|name| live(&name.local));
                    let local = &name.local;
                    match (found, dead.iter().find(|property| property.name == *name)) {
                        (Some(inner), _) => {
                            let element = format!("<D:{local}>{inner}</D:{local}>");
                            outcomes.add(StatusCode::OK, &element);
                        }
                        (None, Some(property)) => outcomes.add_element(StatusCode::OK, property),
                        (None, None) => {
                            let none = Element::empty(name.clone());
                            outcomes.add_element(StatusCode::NOT_FOUND, &none);
                        }
                    }
                }
            }
        }
        outcomes.write(&resource.address(), None, out);
        Ok(())
    }

    /// Those that clients have set; none of what may not be read, or is gone by now.
    async fn dead(&self, resource: &Resource) -> TreeResult<Vec<Element>> {
        use fs::tree::Trouble;
        match dead(&self.view, &resource.path).await {
            Err(e) if matches!(e.trouble(), Trouble::Denied | Trouble::NotFound) => Ok(Vec::new()),
            found => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_said_in_one_way() {
        let of = |inner: &str| {
            wanted(format!("<D:propfind xmlns:D='DAV:'>{inner}</D:propfind>").as_bytes())
        };
        assert!(matches!(wanted(b""), Ok(Wanted::All)));
        assert!(matches!(of("<D:allprop/><D:include/>"), Ok(Wanted::All)));
        assert!(matches!(of("<D:propname/>"), Ok(Wanted::Names)));
        let these = of("<D:prop><D:getetag/><x xmlns='u:x'/></D:prop>");
        let Ok(Wanted::These(names)) = these else { panic!("those by name") };
        assert_eq!(
            names,
            [
                Name { space: "DAV:".into(), local: "getetag".into() },
                Name { space: "u:x".into(), local: "x".into() }
            ]
        );
        for wrong in ["", "<D:prop/><D:allprop/>", "<prop/>"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(wanted(b"<propfind/>").is_err() && wanted(b"<").is_err());
        let many = format!("<D:prop>{}</D:prop>", "<a/>".repeat(ASKED + 1));
        assert_eq!(of(&many).err().map(|e| e.code), Some(Code::TooLarge));
    }
}
