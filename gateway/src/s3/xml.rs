//! XML as S3 has it, written element by element. Pure.

use std::fmt::{Display, Write as _};

/// What documents of S3 are in.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
/// What each begins with.
const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
/// A document that is being written.
pub(super) struct Xml(String);

impl Xml {
    /// With this root.
    pub(super) fn new(root: &str) -> Self {
        Self(format!("{HEAD}<{root} xmlns=\"{NAMESPACE}\">"))
    }

    /// The same, in no namespace.
    pub(super) fn plain(root: &str) -> Self {
        Self(format!("{HEAD}<{root}>"))
    }

    /// An element with text.
    pub(super) fn text(&mut self, name: &str, value: impl Display) -> &mut Self {
        let value = value.to_string();
        self.0.reserve(value.len() + 2 * name.len() + 5);
        self.open(name);
        for c in value.chars() {
            match c {
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '&' => self.0.push_str("&amp;"),
                '"' => self.0.push_str("&quot;"),
                // As AWS does, though XML 1.0 has no other control characters than these three.
                c if c < ' ' => write!(self.0, "&#{};", u32::from(c)).expect("a string takes all"),
                c => self.0.push(c),
            }
        }
        self.close(name)
    }

    /// An element with text, if there is any.
    pub(super) fn maybe(&mut self, name: &str, value: Option<impl Display>) -> &mut Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// An element begins.
    pub(super) fn open(&mut self, name: &str) -> &mut Self {
        write!(self.0, "<{name}>").expect("a string takes all");
        self
    }

    /// It ends.
    pub(super) fn close(&mut self, name: &str) -> &mut Self {
        write!(self.0, "</{name}>").expect("a string takes all");
        self
    }

    /// Somebody, as owner of things.
    pub(super) fn owner(&mut self, name: &str, user: &str) -> &mut Self {
        self.open(name).text("ID", user).text("DisplayName", user).close(name)
    }

    /// The whole document.
    pub(super) fn end(mut self, root: &str) -> String {
        self.close(root);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut xml = Xml::plain("a");
        xml.text("b", "<&>\n\"");
        assert!(xml.end("a").ends_with("<a><b>&lt;&amp;&gt;&#10;&quot;</b></a>"));
    }
}
