//! Paths that come from outside: names that lead down, and nothing else. Pure.

use meta::NAME_MAX;

/// Longest path, in bytes.
pub const PATH_MAX: usize = 4096;

/// A path below what a viewer sees. Each name is one that a directory can hold; none of them is `.` or `..`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreePath(Vec<Box<[u8]>>);

/// Why some bytes are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// `a//b`.
    #[error("a path with an empty name in it")]
    Empty,
    /// `.` or `..`.
    #[error("a path with the name . or .. in it")]
    Dots,
    /// A byte that no name can have.
    #[error("a path with a zero byte in it")]
    Zero,
    /// Longer than [`NAME_MAX`].
    #[error("a path with a name of more than {NAME_MAX} bytes in it")]
    LongName,
    /// Longer than [`PATH_MAX`].
    #[error("a path of more than {PATH_MAX} bytes")]
    Long,
    /// It names what the viewer sees, as a whole.
    #[error("the root of the tree itself")]
    Root,
}

impl TreePath {
    /// Of names between slashes. One before them and one behind them mean nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, BadPath> {
        if text.len() > PATH_MAX {
            return Err(BadPath::Long);
        }
        let text = text.strip_prefix(b"/").unwrap_or(text);
        let text = text.strip_suffix(b"/").unwrap_or(text);
        match text {
            b"" => Ok(Self::default()),
            _ => text.split(|byte| *byte == b'/').map(checked).collect::<Result<_, _>>().map(Self),
        }
    }

    /// Of these names, from above.
    ///
    /// # Errors
    /// What is wrong with one of them, or with all together.
    pub fn of_names(names: impl Iterator<Item: AsRef<[u8]>>) -> Result<Self, BadPath> {
        let (mut path, mut len) = (Self::default(), 0);
        for name in names {
            let name = name.as_ref();
            len += name.len() + 1;
            match (name.contains(&b'/'), len > PATH_MAX) {
                (true, _) => return Err(BadPath::Empty),
                (_, true) => return Err(BadPath::Long),
                _ => path.0.push(checked(name)?),
            }
        }
        Ok(path)
    }

    /// Of one name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_name(name: &[u8]) -> Result<Self, BadPath> {
        Self::default().join(name)
    }

    /// This one with another name behind it.
    ///
    /// # Errors
    /// What is wrong with the name, or with all together.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        if name.contains(&b'/') {
            return Err(BadPath::Empty);
        }
        if self.0.iter().map(|name| name.len() + 1).sum::<usize>() + name.len() >= PATH_MAX {
            return Err(BadPath::Long);
        }
        let mut names = self.0.clone();
        names.push(checked(name)?);
        Ok(Self(names))
    }

    /// Its names, from above.
    pub fn names(&self) -> &[Box<[u8]>] {
        &self.0
    }

    /// The path of the directory that it lies in, and its name there. `None`: it is the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        let (name, above) = self.0.split_last()?;
        Some((Self(above.to_vec()), name))
    }
}

fn checked(name: &[u8]) -> Result<Box<[u8]>, BadPath> {
    match name {
        b"" => Err(BadPath::Empty),
        b"." | b".." => Err(BadPath::Dots),
        _ if name.contains(&0) => Err(BadPath::Zero),
        _ if name.len() > NAME_MAX => Err(BadPath::LongName),
        _ => Ok(name.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_down_or_are_refused() {
        let long = vec![b'a'; NAME_MAX + 1];
        let longer = b"a/".repeat(PATH_MAX / 2 + 1);
        type Names<'a> = &'a [&'a [u8]];
        let cases: [(&[u8], Result<Names<'_>, BadPath>); 18] = [
            (b"", Ok(&[])),
            (b"/", Ok(&[])),
            (b"a", Ok(&[b"a"])),
            (b"/a/b/", Ok(&[b"a", b"b"])),
            (b"a/..b/...", Ok(&[b"a", b"..b", b"..."])),
            (b"\xff\xfe", Ok(&[b"\xff\xfe"])),
            (&long[1..], Ok(&[&long[1..]])),
            (b"a//b", Err(BadPath::Empty)),
            (b"//", Ok(&[])),
            (b"//a", Err(BadPath::Empty)),
            (b"a/./b", Err(BadPath::Dots)),
            (b"..", Err(BadPath::Dots)),
            (b"a/../../b", Err(BadPath::Dots)),
            (b"a/..", Err(BadPath::Dots)),
            (b"a\0b", Err(BadPath::Zero)),
            (b"..\0", Err(BadPath::Zero)),
            (&long, Err(BadPath::LongName)),
            (&longer, Err(BadPath::Long)),
        ];
        for (text, expected) in cases {
            let found = TreePath::parse(text);
            let found = found.as_ref().map(|path| path.names().iter().map(|n| &**n).collect());
            assert_eq!(found.map_err(|e| *e), expected.map(<[_]>::to_vec), "{text:?}");
        }
    }

    #[test]
    fn a_name_is_one_name() {
        let path = TreePath::parse(b"refs").unwrap().join(b"a").unwrap();
        assert_eq!(path, TreePath::parse(b"refs/a").unwrap());
        let (above, name) = path.split().unwrap();
        assert_eq!((above, name), (TreePath::of_name(b"refs").unwrap(), &b"a"[..]));
        assert!(path.join(b"b/c").is_err() && path.join(b"..").is_err());
        assert_eq!(TreePath::default().split(), None);
    }
}
