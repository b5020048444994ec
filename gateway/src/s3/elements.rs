//! XML as clients of S3 send it, read as the leaves of a small document. Pure.
//!
//! What is read is bounded in bytes by whoever received it, in depth ([`DEPTH`]) and in elements ([`ELEMENTS`]); no tree
//! is built. There are no document types, so no entities but the five that every document has.

use std::fmt::Display;

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

use super::error::{S3Error, S3Result, Wrong};

/// How deep elements may lie in one another.
const DEPTH: usize = 16;
/// Elements of a document: 10,000 parts with a checksum each have 30,000.
const ELEMENTS: usize = 65_536;
/// Longest text of one, in bytes.
const TEXT: usize = 16 << 10;

/// What is seen of a document while it is read.
pub(super) enum Seen<'a> {
    /// An element begins.
    Begin,
    /// One ends that has only text in it.
    Leaf(&'a str),
}

fn bad(why: impl Display) -> S3Error {
    S3Error::new(Wrong::MalformedXML, format!("the XML of the request: {why}"))
}

/// Reads a document, telling of each element where it is (names from the root, without their prefixes) and what.
///
/// # Errors
/// When it is none, or larger than may be, or `see` errs.
pub(super) fn read(
    bytes: &[u8],
    mut see: impl FnMut(&[&str], Seen<'_>) -> S3Result<()>,
) -> S3Result<()> {
    let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not in UTF-8"))?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    // Names of what is open, each within `names`.
    let (mut open, mut elements, mut roots) = (Vec::<String>::new(), 0, 0);
    let (mut said, mut is_leaf) = (String::new(), false);
    loop {
        let event = reader.read_event().map_err(bad)?;
        let is_empty = matches!(event, Event::Empty(_));
        match event {
            Event::Start(start) | Event::Empty(start) => {
                elements += 1;
                roots += usize::from(open.is_empty());
                if open.len() >= DEPTH || elements > ELEMENTS || roots > 1 {
                    return Err(bad("more elements than may be"));
                }
                open.push(start.local_name().into_inner().to_owned());
                see(&names(&open), Seen::Begin)?;
                (is_leaf, said) = (true, String::new());
                if is_empty {
                    see(&names(&open), Seen::Leaf(""))?;
                    (is_leaf, _) = (false, open.pop());
                }
            }
            Event::End(_) => {
                if is_leaf {
                    see(&names(&open), Seen::Leaf(&said))?;
                }
                (is_leaf, _) = (false, open.pop());
            }
            Event::Text(more) => said.push_str(&more.xml10_content()),
            Event::CData(more) => said.push_str(&more.xml10_content()),
            Event::GeneralRef(name) => {
                let one = name.resolve_char_ref().map_err(bad)?.map(String::from);
                let one = one.or_else(|| resolve_predefined_entity(&name).map(str::to_owned));
                said.push_str(&one.ok_or_else(|| bad("an entity that is not there"))?);
            }
            Event::DocType(_) => return Err(bad("a document type, which may not be")),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof if open.is_empty() && roots == 1 => return Ok(()),
            Event::Eof => return Err(bad("it breaks off, or there is nothing")),
        }
        if said.len() > TEXT {
            return Err(bad("a text that is too long"));
        }
    }
}

fn names(open: &[String]) -> Vec<&str> {
    open.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(text: &str) -> S3Result<Vec<(String, String)>> {
        let mut all = Vec::new();
        read(text.as_bytes(), |path, seen| {
            if let Seen::Leaf(text) = seen {
                all.push((path.join("/"), text.to_owned()));
            }
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn leaves_of_a_document() {
        let text = "<?xml version='1.0'?><a:Delete xmlns:a='u'><Object><Key>x &amp; &#65;</Key></Object>\n<Quiet/></a:Delete>";
        let expected = [("Delete/Object/Key", "x & A"), ("Delete/Quiet", "")];
        let expected = expected.map(|(path, text)| (path.to_owned(), text.to_owned()));
        assert_eq!(leaves(text).unwrap(), expected);
        let deep = "<a>".repeat(10_000);
        for bad in ["", "x", "<a>", "<a></b>", "<a/><b/>", "<!DOCTYPE a><a/>", "<a>&b;</a>", &deep]
        {
            assert_eq!(leaves(bad).unwrap_err().wrong, Wrong::MalformedXML, "{bad:.20}");
        }
    }
}
