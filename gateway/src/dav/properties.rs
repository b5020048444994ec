//! Properties: those that the tree knows, and those that clients set, which are kept in one extended attribute of the file
//! or folder ([`ATTRIBUTE`]), as XML. So they are changed together or not at all, move with it, and are seen on the mount.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fs::tree::{TreePath, TreeResult, View};
use http::StatusCode;
use meta::{Attr, Kind, Time};

use super::address;
use super::locks::Lock;
use super::xml::{Element, Name, document, read};
use crate::conditions;

/// Where those are that clients set.
pub(super) const ATTRIBUTE: &[u8] = b"user.dav.properties";
/// Bytes that those of one file or folder may have.
pub(super) const MOST: usize = 60_000;

/// Those of WebDAV's that the tree knows, or that say what can be locked. Nobody sets them.
pub(super) const LIVE: [&str; 7] = [
    "resourcetype",
    "getcontentlength",
    "getetag",
    "getlastmodified",
    "creationdate",
    "lockdiscovery",
    "supportedlock",
];
/// Others of WebDAV's that clients cannot set, and that nothing has.
const NEVER: [&str; 3] = ["getcontenttype", "quota-available-bytes", "quota-used-bytes"];

/// Years have four digits, and none is before 1970.
const LATEST: i64 = 253_402_300_800;

/// What is locked how.
const LOCKABLE: &str = "<D:lockentry><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>\
    <D:lockentry><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>";

/// A file or folder, as it is found.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub(super) path: TreePath,
    pub(super) attr: Attr,
}

impl Resource {
    /// Is it a folder?
    pub(super) fn folder(&self) -> bool {
        self.attr.kind == Kind::Directory
    }

    /// Its address.
    pub(super) fn address(&self) -> String {
        address::write(&self.path, self.folder())
    }

    /// What is in a property that the tree knows. `None`: this has none of it.
    pub(super) fn live(&self, locks: &[Lock], local: &str) -> Option<String> {
        let Attr { size, mtime, btime, .. } = self.attr;
        match local {
            "resourcetype" if self.folder() => Some("<D:collection/>".to_owned()),
            "resourcetype" => Some(String::new()),
            "getcontentlength" if !self.folder() => Some(size.to_string()),
            "getetag" if !self.folder() => Some(conditions::tag(&self.attr)),
            "getlastmodified" => moment(mtime).map(httpdate::fmt_http_date),
            "creationdate" => {
                moment(btime).map(|t| humantime::format_rfc3339_seconds(t).to_string())
            }
            "lockdiscovery" => Some(locks.iter().map(active).collect()),
            "supportedlock" => Some(LOCKABLE.to_owned()),
            _ => None,
        }
    }
}

fn moment(time: Time) -> Option<SystemTime> {
    let secs = u64::try_from(time.secs).ok().filter(|_| time.secs < LATEST)?;
    Some(UNIX_EPOCH + Duration::from_secs(secs))
}

/// Can no client set it?
pub(super) fn is_protected(name: &Name) -> bool {
    LIVE.iter().chain(&NEVER).any(|live| name.is(live))
}

/// A lock, as clients are told of it.
pub(super) fn active(lock: &Lock) -> String {
    let scope = if lock.shared { "shared" } else { "exclusive" };
    let depth = if lock.deep { "infinity" } else { "0" };
    let left = lock.left(Instant::now()).as_secs();
    let (token, root) = (&lock.token, address::write(&lock.path, false));
    let owner = lock.owner.as_deref().unwrap_or_default();
    format!(
        "<D:activelock><D:locktype><D:write/></D:locktype><D:lockscope><D:{scope}/></D:lockscope>\
         <D:depth>{depth}</D:depth>{owner}<D:timeout>Second-{left}</D:timeout>\
         <D:locktoken><D:href>{token}</D:href></D:locktoken>\
         <D:lockroot><D:href>{root}</D:href></D:lockroot></D:activelock>"
    )
}

/// Those that clients have set.
///
/// # Errors
/// When they cannot be had.
pub(super) async fn dead(view: &View, path: &TreePath) -> TreeResult<Vec<Element>> {
    let Some(value) = view.attribute(path, ATTRIBUTE).await? else { return Ok(Vec::new()) };
    match read(&value) {
        Ok(all) => Ok(all.elements().cloned().collect()),
        Err(e) => {
            // Anybody may set attributes; what is no XML has no property in it.
            tracing::warn!("an attribute for properties of WebDAV has none: {}", e.message);
            Ok(Vec::new())
        }
    }
}

/// Them, as they are kept.
pub(super) fn kept(properties: &[Element]) -> String {
    let mut inner = String::new();
    properties.iter().for_each(|property| property.write(&mut inner));
    document("prop", &inner)
}

/// What comes of properties, by status: for the answer about one file or folder.
#[derive(Default)]
pub(super) struct Outcomes(Vec<(StatusCode, String)>);

impl Outcomes {
    /// One more, as an element with what is in it.
    pub(super) fn add(&mut self, status: StatusCode, element: &str) {
        match self.0.iter_mut().find(|(other, _)| *other == status) {
            Some((_, all)) => all.push_str(element),
            None => self.0.push((status, element.to_owned())),
        }
    }

    /// The same, as it was read.
    pub(super) fn add_element(&mut self, status: StatusCode, element: &Element) {
        let mut text = String::new();
        element.write(&mut text);
        self.add(status, &text);
    }

    /// The whole of it. `why`: in words.
    pub(super) fn write(mut self, address: &str, why: Option<&str>, out: &mut String) {
        if self.0.is_empty() {
            self.0.push((StatusCode::OK, String::new()));
        }
        let mut written = || -> std::fmt::Result {
            write!(out, "<D:response><D:href>{address}</D:href>")?;
            for (status, properties) in &self.0 {
                write!(out, "<D:propstat><D:prop>{properties}</D:prop>")?;
                write!(out, "<D:status>HTTP/1.1 {status}</D:status></D:propstat>")?;
            }
            if let Some(why) = why {
                let why = quick_xml::escape::escape(why);
                write!(out, "<D:responsedescription>{why}</D:responsedescription>")?;
            }
            write!(out, "</D:response>")
        };
        written().expect("a string takes everything");
    }
}

/// Of what as a whole only a status can be said.
pub(super) fn failed(address: &str, status: StatusCode, why: &str, out: &mut String) {
    let why = quick_xml::escape::escape(why);
    let written = write!(
        out,
        "<D:response><D:href>{address}</D:href><D:status>HTTP/1.1 {status}</D:status>\
         <D:responsedescription>{why}</D:responsedescription></D:response>"
    );
    written.expect("a string takes everything");
}
