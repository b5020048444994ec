//! What comes by WebDAV: see [`crate::decoders`].

use http::header::HOST;
use http::{HeaderMap, HeaderValue};

use super::xml::{self, Element};
use super::{address, find, headers, locking, patch};
use crate::samples::{headers as with, leads_down};

pub(crate) fn an_xml() -> Vec<u8> {
    b"<?xml version='1.0'?><D:propertyupdate xmlns:D='DAV:' xmlns='u:x'><D:set><D:prop xml:lang='de'>\
      <a b='&quot;' D:c='1'>1 &lt; 2 &#x41;<![CDATA[<]]></a></D:prop></D:set><D:remove><D:prop><b/></D:prop></D:remove>\
      </D:propertyupdate>"
        .to_vec()
}

pub(crate) fn read_xml(bytes: &[u8]) {
    if let Ok(element) = xml::read(bytes) {
        let mut written = String::new();
        element.write(&mut written);
        // It may be more than may be read: whoever keeps it looks at that.
        if let Ok(again) = xml::read(written.as_bytes()) {
            assert_eq!(again, element, "what is written again means the same");
        }
        let _ = element.elements().filter_map(Element::language).count();
    }
    drop(find::wanted(bytes));
    drop(patch::changes(bytes));
    drop(locking::wanted(bytes));
}

pub(crate) fn a_header() -> Vec<u8> {
    b"<http://localhost/dav/x> (<urn:a> [\"t\"]) (Not <DAV:no-lock>)".to_vec()
}

pub(crate) fn read_headers(bytes: &[u8]) {
    let all = with(&["depth", "overwrite", "destination", "lock-token", "timeout", "if"], bytes);
    drop(headers::depth(&all));
    drop(headers::overwrite(&all));
    drop(headers::token(&all));
    drop(headers::timeout(&all));
    if let Ok(lists) = headers::lists(&all) {
        lists.iter().filter_map(|list| list.about.as_deref()).for_each(read_address);
    }
    if let Ok(destination) = headers::destination(&all) {
        read_address(destination);
    }
}

fn read_address(text: &str) {
    let host: HeaderMap = [(HOST, HeaderValue::from_static("localhost"))].into_iter().collect();
    for found in [address::named(&host, text), address::read(text)].into_iter().flatten() {
        leads_down(&found.path);
        let again = address::read(&address::write(&found.path, found.slash));
        assert_eq!(again.map(|again| again.path), Ok(found.path), "by its address");
    }
}
