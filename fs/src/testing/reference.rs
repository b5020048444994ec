//! A filesystem as it should be: a tree of small values, and what a crash may leave of it.
//!
//! One [`Reference`] is one task's subtree. It keeps, since the last moment at which everything was
//! durable, every state the names were in, and of each file every content it had: after a crash the
//! names must be as they were at *one* of these moments, and each byte of a file as it was at one of
//! them, not before the file was last synced.

use std::collections::BTreeMap;
use std::sync::Arc;

use meta::{Ino, Kind, RenameMode};

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) links: u32,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    /// Of a directory.
    pub(crate) entries: BTreeMap<Vec<u8>, Ino>,
    /// Of a symbolic link.
    pub(crate) target: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Everything but the contents.
pub(crate) type Names = BTreeMap<Ino, Node>;

/// A file's bytes at one moment.
#[derive(Clone)]
struct Version {
    moment: usize,
    bytes: Arc<Vec<u8>>,
}

/// A file's contents since it was last durable. Never empty.
#[derive(Clone, Default)]
struct Contents(Vec<Version>);

/// One task's subtree.
pub(crate) struct Reference {
    pub(crate) root: Ino,
    pub(crate) names: Names,
    contents: BTreeMap<Ino, Contents>,
    /// States of the names, from the durable one to the last.
    history: Vec<(usize, Names)>,
    /// From this moment on, if the names are of then or later, the file's content is at least of then.
    stored: Vec<(usize, Ino)>,
    moment: usize,
}

impl Reference {
    /// An empty directory.
    pub(crate) fn new(root: Ino) -> Self {
        let node = node(Kind::Directory, 0o755, (0, 0));
        Self::found(root, BTreeMap::from([(root, node)]), BTreeMap::new())
    }

    /// What was found after a crash, all of it durable.
    pub(crate) fn found(root: Ino, names: Names, bytes: BTreeMap<Ino, Vec<u8>>) -> Self {
        let contents = bytes.into_iter().map(|(ino, bytes)| {
            (ino, Contents(vec![Version { moment: 0, bytes: Arc::new(bytes) }]))
        });
        let contents = contents.collect();
        let history = vec![(0, names.clone())];
        Self { root, names, contents, history, stored: Vec::new(), moment: 0 }
    }

    /// Notes that something has changed.
    fn changed(&mut self) {
        self.moment += 1;
        if self.history.last().is_none_or(|(_, names)| *names != self.names) {
            self.history.push((self.moment, self.names.clone()));
        }
    }

    pub(crate) fn kind(&self, ino: Ino) -> Kind {
        self.names[&ino].kind
    }

    /// All inodes of a kind, unlinked files too.
    pub(crate) fn all(&self, kind: Kind) -> Vec<Ino> {
        self.names.iter().filter(|(_, node)| node.kind == kind).map(|(ino, _)| *ino).collect()
    }

    pub(crate) fn entry(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        self.names[&dir].entries.get(name).copied()
    }

    pub(crate) fn create(&mut self, dir: Ino, name: &[u8], ino: Ino, new: Node) {
        if new.kind == Kind::File {
            let version = Version { moment: self.moment + 1, bytes: Arc::default() };
            self.contents.insert(ino, Contents(vec![version]));
        }
        self.names.insert(ino, new);
        self.dir(dir).insert(name.to_vec(), ino);
        self.changed();
    }

    fn dir(&mut self, ino: Ino) -> &mut BTreeMap<Vec<u8>, Ino> {
        &mut self.names.get_mut(&ino).expect("a directory of the model").entries
    }

    pub(crate) fn node(&mut self, ino: Ino, change: impl FnOnce(&mut Node)) {
        change(self.names.get_mut(&ino).expect("a file of the model"));
        self.changed();
    }

    pub(crate) fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) {
        self.dir(dir).insert(name.to_vec(), ino);
        self.node(ino, |node| node.links += 1);
    }

    /// The inode, if that was its last name.
    pub(crate) fn remove(&mut self, dir: Ino, name: &[u8]) -> Option<Ino> {
        let ino = self.dir(dir).remove(name).expect("a name of the model");
        let gone = self.drop_name(ino);
        self.changed();
        gone.then_some(ino)
    }

    fn drop_name(&mut self, ino: Ino) -> bool {
        let node = self.names.get_mut(&ino).expect("a file of the model");
        node.links -= 1;
        if node.links == 0 && node.kind != Kind::File {
            self.names.remove(&ino);
        }
        self.names.get(&ino).is_none_or(|node| node.links == 0)
    }

    /// Is `ino` at `below` or above it?
    pub(crate) fn is_above(&self, ino: Ino, below: Ino) -> bool {
        ino == below || self.names[&ino].entries.values().any(|child| self.is_above(*child, below))
    }

    /// A rename that is allowed, and the whiteout that it left. The inode that lost its last name.
    pub(crate) fn rename(
        &mut self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        whiteout: Option<Ino>,
    ) -> Option<Ino> {
        let source = self.entry(from.0, from.1).expect("a name of the model");
        let target = self.entry(to.0, to.1);
        if target == Some(source) {
            return None;
        }
        self.dir(from.0).remove(from.1);
        if let Some(ino) = whiteout {
            self.names.insert(ino, node(Kind::CharDevice, 0, (0, 0)));
            self.dir(from.0).insert(from.1.to_vec(), ino);
        }
        self.dir(to.0).insert(to.1.to_vec(), source);
        let mut gone = None;
        match target {
            Some(target) if mode == RenameMode::Exchange => {
                self.dir(from.0).insert(from.1.to_vec(), target);
            }
            Some(target) => gone = self.drop_name(target).then_some(target),
            None => {}
        }
        self.changed();
        if target.is_some() && mode.replaces() {
            self.stored.push((self.moment, source));
        }
        gone
    }

    /// Nobody has the unlinked file open any more.
    pub(crate) fn forget(&mut self, ino: Ino) {
        self.names.remove(&ino);
        self.changed();
    }

    pub(crate) fn bytes(&self, ino: Ino) -> &Arc<Vec<u8>> {
        &self.contents[&ino].0.last().expect("a file has a content").bytes
    }

    pub(crate) fn write(&mut self, ino: Ino, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::clone(self.bytes(ino));
        change(&mut bytes);
        self.changed();
        let version = Version { moment: self.moment, bytes: Arc::new(bytes) };
        self.contents.get_mut(&ino).expect("a file of the model").0.push(version);
    }

    /// fsync(2) of a file has returned: so have all names until now, and the bytes of this file.
    pub(crate) fn synced(&mut self, ino: Option<Ino>) {
        self.changed();
        self.history = vec![(self.moment, self.names.clone())];
        let (names, stored) = (&self.names, std::mem::take(&mut self.stored));
        self.contents.retain(|ino, _| names.contains_key(ino));
        let durable = stored.into_iter().map(|(moment, ino)| (ino, moment));
        for (ino, moment) in durable.chain(ino.map(|ino| (ino, self.moment))) {
            if let Some(contents) = self.contents.get_mut(&ino) {
                contents.begin_at(moment);
            }
        }
    }

    /// Everything is durable.
    pub(crate) fn all_synced(&mut self) {
        self.synced(None);
        let moment = self.moment;
        self.contents.values_mut().for_each(|contents| contents.begin_at(moment));
    }

    /// Whether a crash may have left these names: as at some moment since everything was durable.
    /// The first such moment.
    pub(crate) fn moment_of(&self, found: &Names) -> Option<usize> {
        let same = |names: &Names| {
            let named = names.iter().filter(|(_, node)| node.links > 0);
            named.eq(found.iter())
        };
        self.history.iter().find(|(_, names)| same(names)).map(|(moment, _)| *moment)
    }

    /// Whether a crash may have left these bytes of a file, when it left the names of `moment`.
    pub(crate) fn may_hold(&self, ino: Ino, found: &[u8], moment: usize) -> Result<(), String> {
        let mut contents = self.contents[&ino].clone();
        let stored = self.stored.iter().filter(|(at, file)| *file == ino && *at <= moment);
        stored.for_each(|(at, _)| contents.begin_at(*at));
        let sizes = contents.0.iter().map(|version| version.bytes.len());
        let (least, most) = (sizes.clone().min().unwrap_or(0), sizes.max().unwrap_or(0));
        if found.len() < least || found.len() > most {
            return Err(format!("{} bytes long, not {least} to {most}", found.len()));
        }
        let wrong = (0..found.len()).find(|at| {
            let was = |version: &Version| version.bytes.get(*at).copied().unwrap_or(0);
            !contents.0.iter().any(|version| was(version) == found[*at])
        });
        wrong.map_or(Ok(()), |at| Err(format!("byte {at} never was {}", found[at])))
    }
}

impl Contents {
    /// Nothing older than what was at `moment` may come back.
    fn begin_at(&mut self, moment: usize) {
        let first = self.0.iter().rposition(|version| version.moment <= moment);
        self.0.drain(..first.unwrap_or(0));
    }
}

/// A new node without anything in it.
pub(crate) fn node(kind: Kind, mode: u32, owner: (u32, u32)) -> Node {
    Node {
        kind,
        links: 1,
        mode,
        owner,
        entries: BTreeMap::new(),
        target: Vec::new(),
        xattrs: BTreeMap::new(),
    }
}
