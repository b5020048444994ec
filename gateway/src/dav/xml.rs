//! The little XML that requests come with, and how elements are written again. Pure.
//!
//! What is read is bounded: in bytes ([`BODY`]), in depth, and in namespaces. There are no document types, so no entities
//! but the five that every document has: nothing expands. What is written again is made anew of what was read, so that
//! it is well-formed wherever it is put: each element says its namespace where that is another than its parent's.

use std::fmt::Write as _;

use quick_xml::NsReader;
use quick_xml::XmlVersion;
use quick_xml::escape::{escape, resolve_predefined_entity, unescape};
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{QName, ResolveResult};

use crate::refusal::{Code, Refusal};

/// The namespace of WebDAV itself.
const DAV: &str = "DAV:";
/// Longest body, in bytes.
pub(super) const BODY: usize = 64 << 10;
/// How deep elements may lie in one another.
const DEPTH: usize = 32;
/// Namespaces that may be declared at once.
const NAMESPACES: usize = 64;
/// Longest name of one, in bytes: each element has its own.
const NAMESPACE: usize = 256;
/// Elements of a document.
const ELEMENTS: usize = 4096;
/// The namespace of declarations of namespaces.
const XMLNS: &str = "http://www.w3.org/2000/xmlns/";
/// The namespace of what is bound to `xml:` in every document.
const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// The name of an element or attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    /// Empty: none.
    pub(super) space: String,
    pub(super) local: String,
}

/// An element with all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: Name,
    attributes: Vec<(Name, String)>,
    pub(super) inner: Vec<Node>,
}

/// What is in an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Element(Element),
    Text(String),
}

impl Name {
    /// Is it this one of WebDAV's?
    pub(super) fn is(&self, local: &str) -> bool {
        self.space == DAV && self.local == local
    }
}

fn bad(why: impl ToString) -> Refusal {
    Refusal::new(Code::BadRequest, format!("the XML of the request: {}", why.to_string()))
}

impl Element {
    /// Without anything in it.
    pub(super) fn empty(name: Name) -> Self {
        Self { name, ..Self::default() }
    }

    /// The elements in it.
    pub(super) fn elements(&self) -> impl Iterator<Item = &Self> {
        self.inner.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The first of this name of WebDAV's in it.
    pub(super) fn child(&self, local: &str) -> Option<&Self> {
        self.elements().find(|element| element.name.is(local))
    }

    /// In which language what is in it is written, if it says so.
    pub(super) fn language(&self) -> Option<&str> {
        let of = |(name, _): &&(Name, String)| name.space == XML && name.local == "lang";
        self.attributes.iter().find(of).map(|(_, value)| &**value)
    }

    /// Says so, unless it does already.
    pub(super) fn speaks(&mut self, language: Option<&str>) {
        if let (None, Some(language)) = (self.language(), language) {
            let name = Name { space: XML.to_owned(), local: "lang".to_owned() };
            self.attributes.push((name, language.to_owned()));
        }
    }

    /// Writes it where nothing, or no namespace by default, is around it.
    pub(super) fn write(&self, out: &mut String) {
        self.write_in("", out);
    }

    fn write_in(&self, around: &str, out: &mut String) {
        let Name { space, local } = &self.name;
        let written: std::fmt::Result = (|| {
            write!(out, "<{local}")?;
            if space != around {
                write!(out, " xmlns=\"{}\"", escape(space.as_str()))?;
            }
            for (number, (Name { space, local }, value)) in self.attributes.iter().enumerate() {
                let value = attribute(value);
                match space.as_str() {
                    "" => write!(out, " {local}=\"{value}\"")?,
                    XML => write!(out, " xml:{local}=\"{value}\"")?,
                    _ => {
                        let space = escape(space.as_str());
                        write!(out, " xmlns:a{number}=\"{space}\" a{number}:{local}=\"{value}\"")?;
                    }
                }
            }
            if self.inner.is_empty() {
                return write!(out, "/>");
            }
            out.push('>');
            for node in &self.inner {
                match node {
                    Node::Element(element) => element.write_in(space, out),
                    // As it is, a return would be read as the end of a line.
                    Node::Text(text) => out.push_str(&escape(text.as_str()).replace('\r', "&#13;")),
                }
            }
            write!(out, "</{local}>")
        })();
        written.expect("a string takes everything");
    }
}

/// The value of an attribute, in which white space stays what it is.
fn attribute(value: &str) -> String {
    let value = escape(value).replace('\t', "&#9;");
    value.replace('\n', "&#10;").replace('\r', "&#13;")
}

/// Reads a document.
///
/// # Errors
/// When it is none, or larger or deeper than may be.
pub(super) fn read(bytes: &[u8]) -> Result<Element, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not in UTF-8"))?;
    let mut reader = NsReader::from_str(text.trim_start_matches('\u{feff}'));
    reader.config_mut().check_comments = true;
    reader.resolver_mut().set_max_namespace_bindings(NAMESPACES);
    let (mut open, mut whole): (Vec<Element>, Option<Element>) = (Vec::new(), None);
    let mut elements = 0;
    loop {
        let event = reader.read_event().map_err(bad)?;
        match event {
            Event::Start(ref start) | Event::Empty(ref start) => {
                if whole.is_some() || open.len() >= DEPTH {
                    let why = format!("more than one element, or deeper than {DEPTH}");
                    return Err(bad(why));
                }
                elements += 1;
                if elements > ELEMENTS {
                    return Err(bad(format!("more than {ELEMENTS} elements")));
                }
                let element = element(&reader, start)?;
                open.push(element);
                if matches!(event, Event::Empty(_)) {
                    close(&mut open, &mut whole);
                }
            }
            Event::End(_) => close(&mut open, &mut whole),
            Event::Text(text) => say(&mut open, &text.xml10_content())?,
            Event::CData(text) => say(&mut open, &text.xml10_content())?,
            Event::GeneralRef(name) => {
                let one = name.resolve_char_ref().map_err(bad)?.map(String::from);
                let one = one.or_else(|| resolve_predefined_entity(&name).map(str::to_owned));
                let why = || bad(format!("an entity &{};, and there are none", &*name));
                say(&mut open, &one.ok_or_else(why)?)?;
            }
            Event::DocType(_) => return Err(bad("a document type, which may not be")),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    whole.filter(|_| open.is_empty()).ok_or_else(|| bad("it breaks off, or there is nothing"))
}

fn close(open: &mut Vec<Element>, whole: &mut Option<Element>) {
    let Some(closed) = open.pop() else { return };
    match open.last_mut() {
        Some(parent) => parent.inner.push(Node::Element(closed)),
        None => *whole = Some(closed),
    }
}

/// Text in the innermost element that is open.
fn say(open: &mut [Element], text: &str) -> Result<(), Refusal> {
    let outside = text.chars().any(|c| !c.is_ascii_whitespace());
    let Some(element) = open.last_mut() else {
        return if outside { Err(bad("text outside of any element")) } else { Ok(()) };
    };
    allowed(text)?;
    match element.inner.last_mut() {
        // An empty section is nothing that could be written again.
        _ if text.is_empty() => {}
        Some(Node::Text(before)) => before.push_str(text),
        _ => element.inner.push(Node::Text(text.to_owned())),
    }
    Ok(())
}

/// Refuses what no document can have.
fn allowed(text: &str) -> Result<(), Refusal> {
    let none = |c: char| matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    if text.chars().any(none) { Err(bad("a control character")) } else { Ok(()) }
}

fn element(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<Element, Refusal> {
    let resolver = reader.resolver();
    let (space, _) = resolver.resolve_element(start.name());
    let name = name(space, start.name())?;
    if name.space == XML || name.space == XMLNS {
        return Err(bad("an element in a namespace that none can be in"));
    }
    let mut attributes: Vec<(Name, String)> = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(bad)?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(bad)?;
        allowed(&value)?;
        if attribute.value.contains('<') {
            return Err(bad("a < in an attribute"));
        }
        match attribute.key.as_namespace_binding() {
            Some(_) if attribute.key.0 != "xmlns" && value.is_empty() => {
                return Err(bad("a prefix for no namespace"));
            }
            Some(_) => {}
            None => {
                let (space, _) = resolver.resolve_attribute(attribute.key);
                let name = self::name(space, attribute.key)?;
                if attributes.iter().any(|(other, _)| *other == name) {
                    return Err(bad("an attribute that is there twice"));
                }
                attributes.push((name, value.into_owned()));
            }
        }
    }
    Ok(Element { name, attributes, inner: Vec::new() })
}

fn name(space: ResolveResult<'_>, name: QName<'_>) -> Result<Name, Refusal> {
    let space = match space {
        ResolveResult::Unbound => String::new(),
        ResolveResult::Bound(space) => unescape(space.0).map_err(bad)?.into_owned(),
        ResolveResult::Unknown(prefix) => {
            return Err(bad(format!("the prefix {prefix:?} stands for nothing")));
        }
    };
    allowed(&space)?;
    if space.len() > NAMESPACE {
        return Err(bad(format!("a namespace of more than {NAMESPACE} bytes")));
    }
    let local = name.local_name().into_inner();
    // XML 1.0, production 4 and 4a.
    let begins = |c: char| {
        matches!(c, 'a'..='z' | 'A'..='Z' | '_' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
            | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}' | '\u{200d}' | '\u{2070}'..='\u{218f}'
            | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}'
            | '\u{fdf0}'..='\u{fffd}' | '\u{10000}'..='\u{effff}')
    };
    let more = |c: char| matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}' | '\u{2040}');
    let goes_on = |c: char| begins(c) || more(c);
    match local.starts_with(begins) && local.chars().all(goes_on) {
        true => Ok(Name { space, local: local.to_owned() }),
        false => Err(bad(format!("{local:?} is no name"))),
    }
}

/// A document of WebDAV's: this root, with what is in it.
pub(super) fn document(root: &str, inner: &str) -> String {
    format!("{HEAD}<D:{root} xmlns:D=\"DAV:\">{inner}</D:{root}>")
}

/// What each document begins with.
pub(super) const HEAD: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn again(text: &str) -> String {
        let mut out = String::new();
        read(text.as_bytes()).unwrap().write(&mut out);
        out
    }

    #[test]
    fn what_is_read_is_written_again_with_the_same_meaning() {
        for (text, written) in [
            ("<a/>", "<a/>"),
            ("<a></a>", "<a/>"),
            ("<?xml version='1.0'?><!-- x --><a>b</a>\n", "<a>b</a>"),
            ("\u{feff}<a xmlns='u:v'><b/></a>", "<a xmlns=\"u:v\"><b/></a>"),
            ("<p:a xmlns:p='u:v'><b/></p:a>", "<a xmlns=\"u:v\"><b xmlns=\"\"/></a>"),
            ("<a>1 &lt; 2 &amp; &#x41;<![CDATA[<]]></a>", "<a>1 &lt; 2 &amp; A&lt;</a>"),
            ("<a xml:lang='de' b='&quot;&#10;'/>", "<a xml:lang=\"de\" b=\"&quot;&#10;\"/>"),
            ("<a xmlns:q='u:q' q:b='c'/>", "<a xmlns:a0=\"u:q\" a0:b=\"c\"/>"),
            ("<a xmlns='x&amp;y'/>", "<a xmlns=\"x&amp;y\"/>"),
            ("<a><![CDATA[]]></a>", "<a/>"),
            ("<\u{fc}>\u{1f600}</\u{fc}>", "<\u{fc}>\u{1f600}</\u{fc}>"),
        ] {
            assert_eq!(again(text), written, "{text}");
            assert_eq!(read(written.as_bytes()), read(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_no_document_or_too_much_is_refused() {
        let deep = "<a>".repeat(10_000) + &"</a>".repeat(10_000);
        let spaces: String = (0..100).map(|n| format!("<a xmlns:n{n}='u:{n}'>")).collect();
        let many: String = (0..100).map(|n| format!(" xmlns:n{n}='u:{n}'")).collect();
        let bomb = "<!DOCTYPE a [<!ENTITY b 'cccc'><!ENTITY d '&b;&b;&b;'>]><a>&d;</a>";
        for text in [
            "",
            " ",
            "text",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>text",
            "<a b='1' b='2'/>",
            "<a b='<'/>",
            "<p:a/>",
            "<p:a xmlns:p=''/>",
            "<a>&d;</a>",
            "<a>&#0;</a>",
            "<a>\u{1}</a>",
            "<1a/>",
            "<a:/>",
            "<!DOCTYPE a><a/>",
            "<a><!-- -- --></a>",
            bomb,
            &deep,
            &spaces,
            &format!("<a{many}/>"),
        ] {
            let refused = read(text.as_bytes());
            assert_eq!(refused.map_err(|e| e.code), Err(Code::BadRequest), "{text:.60}");
        }
        assert!(read(b"<a>\xff</a>").is_err() && read(b"\xff\xfe<\0a\0/\0>\0").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_written_is_read_again(text in "[<>/&;='\"!\\[\\]a-c:x?# \\-]{0,40}") {
            if let Ok(element) = read(text.as_bytes()) {
                let mut out = String::new();
                element.write(&mut out);
                prop_assert_eq!(read(out.as_bytes()).unwrap(), element);
            }
        }

        #[test]
        fn any_text_survives(text in "\\PC*", space in "[a-z<&\"']{0,5}") {
            let mut element = Element::empty(Name { space, local: "a".into() });
            element.attributes.push((Name { space: String::new(), local: "b".into() }, text.clone()));
            if !text.is_empty() {
                element.inner.push(Node::Text(text));
            }
            let mut out = String::new();
            element.write(&mut out);
            prop_assert_eq!(read(out.as_bytes()).unwrap(), element);
        }
    }
}
