//! The cluster file: which slots there are, where, and what fails together.
//!
//! ```toml
//! cluster = "5ad0c2f0-..."        # printed by `storaged disk init`
//! generation = 1                  # raise it with every change of the list below
//! cache = "/srv/cache/ashlar"     # where this machine keeps what makes volumes fast; may be left out
//! metad = ["10.0.0.1:7413"]       # who leads the volumes; left out: whoever mounts one leads it
//! identity = "/var/lib/ashlar/node" # certificate of this machine in the cluster; left out: that one, if it is there
//! insecure = true                 # speak to other machines without TLS, over a network that is trusted
//!
//! [[slot]]
//! disk = "0b6c..."                # printed by `storaged disk init`
//! # replaces = "77aa..."          # the lost disk in whose place it is
//! # drain = true                  # it is to be emptied, and goes
//! address = "10.0.0.1:7411"       # the storaged that serves it, or
//! # path = "/srv/disk0"           # the disk's directory, to be opened by the mount itself
//! domain = "host-a"               # the host: disks that fail together; default: the disk itself
//! rack = "rack-1"                 # hosts that fail together; on all slots or on none
//! ```
//!
//! [`Cluster::read`] reads and validates it; nothing else believes the text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::id::{ClusterId, DiskId, Generation, GroupId, SlotId};
use crate::limits::MAX_SLOTS;
use crate::scheme::Scheme;

/// What fails together, in levels: the disks of a host, the hosts of a rack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// A disk alone.
    Disk,
    /// All disks of a host: those whose slots have the same `domain`.
    Host,
    /// All hosts of a rack.
    Rack,
}

impl Level {
    /// From the lowest on.
    pub const ALL: [Self; 3] = [Self::Disk, Self::Host, Self::Rack];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::Host => "host",
            Self::Rack => "rack",
        })
    }
}

/// A cluster as its file describes it: one group of slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Id that every disk of the cluster carries.
    pub cluster: ClusterId,
    /// Rises with every change of the slots.
    #[serde(default = "first_generation")]
    pub generation: Generation,
    /// Directory in which this machine keeps what makes volumes fast, of whichever clusters. Relative to the
    /// cluster file. `None`: where the system, or the user, keeps such things. In older files it is called `meta`.
    #[serde(default, alias = "meta", skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// `HOST:PORT` of each metad that may lead the volumes. Empty: whoever mounts one leads it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metad: Vec<String>,
    /// Directory of this machine's certificate ([`crate::tls::credentials`]). Relative to the cluster file. `None`: where
    /// such a thing is by default, if it is there and of this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<PathBuf>,
    /// Other machines are spoken to without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// The slots of the group, in the order that numbers them from 0.
    #[serde(rename = "slot", default)]
    pub slots: Vec<Slot>,
}

fn first_generation() -> Generation {
    Generation(1)
}

/// Where a cluster's file is, unless told otherwise.
pub const DEFAULT_FILE: &str = "/etc/ashlar/cluster.toml";

/// A cluster file that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not where it is looked for when nobody names one.
    #[error(
        "no cluster is named (with --cluster FILE, -o cluster=FILE or $ASHLAR_CLUSTER), and {DEFAULT_FILE} is not there"
    )]
    Unnamed,
    /// It cannot be read.
    #[error("cluster file {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It makes no sense.
    #[error("cluster file {}: {source}", path.display())]
    Bad {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: BadCluster,
    },
}

/// One slot of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The disk it is on.
    pub disk: DiskId,
    /// `HOST:PORT` of the daemon that serves the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Directory of the disk, when the mount opens it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The disk in whose place it is, if it is in another's. Parts are placed as if it were that one, so that none
    /// moves but those that are lost. Of several that were there one after the other: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<DiskId>,
    /// Number of the slot on its disk.
    #[serde(default)]
    pub slot: SlotId,
    /// The disk is to be emptied: parts go elsewhere as long as others take them, and so do those that are on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// The host, whose disks fail together. Empty: the disk alone, by the name of the one in whose place it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// The rack, whose hosts fail together. Empty: the host alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rack: String,
}

/// Where a slot is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// Served by the daemon at this address.
    Remote(&'a str),
    /// A directory that this process opens.
    Local(&'a Path),
}

impl Slot {
    /// The disk by which parts are placed on it: its own, or the one in whose place that is.
    pub fn stands_for(&self) -> DiskId {
        self.replaces.unwrap_or(self.disk)
    }

    /// Its host: the one given, or the disk that it stands for.
    pub fn domain(&self) -> String {
        if self.domain.is_empty() { self.stands_for().to_string() } else { self.domain.clone() }
    }

    /// What it is called together with all that fails with it at a level.
    pub fn unit(&self, level: Level) -> String {
        match level {
            Level::Disk => self.stands_for().to_string(),
            Level::Rack if !self.rack.is_empty() => self.rack.clone(),
            Level::Host | Level::Rack => self.domain(),
        }
    }

    /// Where it is. Invariant of a validated cluster: exactly one of address and path is set.
    pub fn endpoint(&self) -> Endpoint<'_> {
        match (&self.address, &self.path) {
            (Some(address), _) => Endpoint::Remote(address),
            (None, Some(path)) => Endpoint::Local(path),
            (None, None) => unreachable!("a validated slot has an address or a path"),
        }
    }
}

/// What is wrong with a cluster file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCluster {
    /// Not TOML, an unknown or a missing key.
    #[error("{0}")]
    Text(String),
    /// A key and its older name.
    #[error("meta is the older name of cache: leave one of the two lines out")]
    CacheTwice,
    /// No slots at all.
    #[error("no slots: add one [[slot]] per disk")]
    Empty,
    /// More slots than a group can have.
    #[error("{0} slots: a group has at most {MAX_SLOTS}")]
    TooMany(usize),
    /// Neither or both of address and path.
    #[error("slot {0}: give either address (a storaged serves it) or path (the mount opens it)")]
    Place(usize),
    /// An address that is not HOST:PORT.
    #[error("slot {index}: {address:?} is not HOST:PORT")]
    Address {
        /// Which slot, from 0.
        index: usize,
        /// What was given.
        address: String,
    },
    /// The same disk and slot number twice.
    #[error("slots {first} and {second} name the same disk {disk}")]
    DuplicateDisk {
        /// The first, from 0.
        first: usize,
        /// The second.
        second: usize,
        /// Their disk.
        disk: DiskId,
    },
    /// Two in the place of one.
    #[error(
        "slots {first} and {second} are in the place of the same disk {disk}: one that is replaced is not in the file any more"
    )]
    DuplicatePlace {
        /// The first, from 0.
        first: usize,
        /// The second.
        second: usize,
        /// The disk.
        disk: DiskId,
    },
    /// The same directory twice.
    #[error("slots {first} and {second} name the same path {path:?}")]
    DuplicatePath {
        /// The first, from 0.
        first: usize,
        /// The second.
        second: usize,
        /// Their path.
        path: PathBuf,
    },
    /// One daemon cannot be in two explicit fail domains.
    #[error(
        "slots {first} and {second} have the same address {address} but different domains: a daemon fails as one"
    )]
    DuplicateAddress {
        /// The first, from 0.
        first: usize,
        /// The second.
        second: usize,
        /// Their address.
        address: String,
    },
    /// A host cannot be in two racks, nor a disk in two hosts.
    #[error("slots {first} and {second} are of the same {inner} but of different {outer}s")]
    Split {
        /// The first, from 0.
        first: usize,
        /// The second.
        second: usize,
        /// What they share.
        inner: Level,
        /// What they do not.
        outer: Level,
    },
    /// A certificate that is not to be used.
    #[error("insecure is true, and identity is given: leave one of the two lines out")]
    Insecure,
    /// Some slots have a rack and others have none.
    #[error("slot {0} has no rack, and others have: give all slots a rack, or none")]
    NoRack(usize),
    /// A metad's address that is not HOST:PORT.
    #[error("metad: {0:?} is not HOST:PORT")]
    MetadAddress(String),
    /// Whoever asks a metad reaches no disk that only a mount can open.
    #[error(
        "slot {0} has a path, and metad is named: storaged has to serve all disks (address), or leave metad out"
    )]
    MetadLocal(usize),
    /// Some slots are opened here and others are served by daemons.
    #[error("slots must be all served (address) or all local (path), not a mix of both")]
    Mixed,
}

/// A scheme that needs more disks than the cluster has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{scheme} needs {needed} disks, and the cluster file has {have}: add slots or choose a narrower scheme"
)]
pub struct TooNarrow {
    /// The scheme.
    pub scheme: Scheme,
    /// Its k+m.
    pub needed: usize,
    /// Disks there are.
    pub have: usize,
}

impl Cluster {
    /// Reads and validates a cluster's file.
    pub fn read(path: &Path) -> Result<Self, Unreadable> {
        let unread = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound if path == Path::new(DEFAULT_FILE) => Unreadable::Unnamed,
            _ => Unreadable::File { path: path.to_owned(), source },
        };
        let text = std::fs::read_to_string(path).map_err(unread)?;
        let absolute = std::path::absolute(path).map_err(unread)?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        Self::parse(&text, base).map_err(|source| Unreadable::Bad { path: path.to_owned(), source })
    }

    /// Reads and validates the text of a cluster file. Relative paths are taken relative to `base`.
    pub fn parse(text: &str, base: &Path) -> Result<Self, BadCluster> {
        let bad = |e: toml::de::Error| BadCluster::Text(e.to_string().trim_end().into());
        let keys = toml::from_str::<toml::Table>(text).map_err(bad)?;
        if ["meta", "cache"].iter().all(|key| keys.contains_key(*key)) {
            return Err(BadCluster::CacheTwice);
        }
        let mut cluster: Self = toml::from_str(text).map_err(bad)?;
        cluster.cache = cluster.cache.take().map(|path| base.join(path));
        cluster.identity = cluster.identity.take().map(|path| base.join(path));
        for slot in &mut cluster.slots {
            slot.path = slot.path.take().map(|path| base.join(path));
        }
        cluster.validate()?;
        Ok(cluster)
    }

    fn validate(&self) -> Result<(), BadCluster> {
        match self.slots.len() {
            0 => return Err(BadCluster::Empty),
            n if n > MAX_SLOTS => return Err(BadCluster::TooMany(n)),
            _ if self.insecure && self.identity.is_some() => return Err(BadCluster::Insecure),
            _ => {}
        }
        let (mut disks, mut stand_for) = (BTreeMap::new(), BTreeMap::new());
        let mut paths = BTreeMap::new();
        let mut addresses: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, slot) in self.slots.iter().enumerate() {
            match (&slot.address, &slot.path) {
                (Some(address), None) => {
                    check_address(index, address)?;
                    let first = *addresses.entry(address).or_insert(index);
                    let at = |slot: &Slot| (slot.domain.clone(), slot.rack.clone());
                    if at(&self.slots[first]) != at(slot) {
                        let address = address.clone();
                        return Err(BadCluster::DuplicateAddress { first, second: index, address });
                    }
                }
                (None, Some(path)) => {
                    if let Some(first) = paths.insert(path, index) {
                        let path = path.clone();
                        return Err(BadCluster::DuplicatePath { first, second: index, path });
                    }
                }
                _ => return Err(BadCluster::Place(index)),
            }
            if let Some(first) = disks.insert((slot.disk, slot.slot), index) {
                let disk = slot.disk;
                return Err(BadCluster::DuplicateDisk { first, second: index, disk });
            }
            if let Some(first) = stand_for.insert((slot.stands_for(), slot.slot), index) {
                let disk = slot.stands_for();
                return Err(BadCluster::DuplicatePlace { first, second: index, disk });
            }
        }
        if !paths.is_empty() && !addresses.is_empty() {
            return Err(BadCluster::Mixed);
        }
        self.validate_metad()?;
        self.validate_levels()
    }

    /// Who leads volumes for others can be reached, and the disks by whoever asks it.
    fn validate_metad(&self) -> Result<(), BadCluster> {
        if let Some(address) = self.metad.iter().find(|address| !is_address(address)) {
            return Err(BadCluster::MetadAddress(address.clone()));
        }
        match self.slots.iter().position(|slot| slot.path.is_some()) {
            Some(local) if !self.metad.is_empty() => Err(BadCluster::MetadLocal(local)),
            _ => Ok(()),
        }
    }

    /// A disk is in one host, and a host in one rack.
    fn validate_levels(&self) -> Result<(), BadCluster> {
        let racks = self.slots.iter().any(|slot| !slot.rack.is_empty());
        if let Some(without) = self.slots.iter().position(|slot| slot.rack.is_empty() && racks) {
            return Err(BadCluster::NoRack(without));
        }
        for (inner, outer) in [(Level::Disk, Level::Host), (Level::Host, Level::Rack)] {
            let mut found: BTreeMap<String, (usize, String)> = BTreeMap::new();
            for (second, slot) in self.slots.iter().enumerate() {
                let at = (second, slot.unit(outer));
                let (first, within) = found.entry(slot.unit(inner)).or_insert(at.clone());
                if *within != at.1 {
                    return Err(BadCluster::Split { first: *first, second, inner, outer });
                }
            }
        }
        Ok(())
    }

    /// The text of the file that [`Cluster::parse`] reads back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a cluster is plain data")
    }

    /// The one group that these slots form.
    pub fn group(&self) -> GroupId {
        GroupId(0)
    }

    /// How many there are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.slots.iter().map(|slot| slot.unit(level)).collect::<BTreeSet<_>>().len()
    }

    /// Does it have names for what is of a level?
    pub fn names(&self, level: Level) -> bool {
        self.slots.iter().any(|slot| match level {
            Level::Disk => true,
            Level::Host => !slot.domain.is_empty(),
            Level::Rack => !slot.rack.is_empty(),
        })
    }

    /// Are there disks enough for every part to have its own?
    pub fn check_scheme(&self, scheme: Scheme) -> Result<(), TooNarrow> {
        let (needed, have) = (scheme.parts(), self.count(Level::Disk));
        if needed > have { Err(TooNarrow { scheme, needed, have }) } else { Ok(()) }
    }
}

/// Is it `HOST:PORT`?
pub fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0))
}

fn check_address(index: usize, address: &str) -> Result<(), BadCluster> {
    match is_address(address) {
        true => Ok(()),
        false => Err(BadCluster::Address { index, address: address.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "cluster = \"5ad0c2f0-0000-4000-8000-000000000000\"\n";

    fn slot(n: u8, rest: &str) -> String {
        format!("[[slot]]\ndisk = \"0b6c0000-0000-4000-8000-0000000000{n:02}\"\n{rest}\n")
    }

    fn parse(slots: &[String]) -> Result<Cluster, BadCluster> {
        Cluster::parse(&format!("{HEAD}{}", slots.concat()), Path::new("/etc/ashlar"))
    }

    #[test]
    fn a_good_file_survives_being_written_and_read() {
        let cluster = parse(&[slot(1, "path = \"d1\""), slot(2, "path = \"/d2\"")]).unwrap();
        assert_eq!(cluster.slots[0].endpoint(), Endpoint::Local(Path::new("/etc/ashlar/d1")));
        assert_eq!(cluster.cache, None);
        assert_eq!(Cluster::parse(&cluster.to_toml(), Path::new("/")), Ok(cluster.clone()));
        assert!(cluster.check_scheme("ec(4,2)".parse().unwrap()).is_err());
    }

    #[test]
    fn the_cache_is_relative_to_the_file_and_has_an_older_name() {
        let with = |line: &str| {
            let text = format!("{HEAD}{line}\n{}", slot(1, "path = \"d1\""));
            Cluster::parse(&text, Path::new("/etc/ashlar"))
        };
        for (line, expected) in [
            ("cache = \"here\"", "/etc/ashlar/here"),
            ("cache = \"/c\"", "/c"),
            ("meta = \"here\"", "/etc/ashlar/here"),
        ] {
            let cluster = with(line).unwrap();
            assert_eq!(cluster.cache.as_deref(), Some(Path::new(expected)));
            assert_eq!(Cluster::parse(&cluster.to_toml(), Path::new("/")), Ok(cluster.clone()));
        }
        assert_eq!(with("meta = \"a\"\ncache = \"b\""), Err(BadCluster::CacheTwice));
        assert!(matches!(with("meta = 3"), Err(BadCluster::Text(_))));
    }

    #[test]
    fn how_machines_know_each_other_is_said_once() {
        let with = |lines: &str| {
            let text = format!("{HEAD}{lines}\n{}", slot(1, "address = \"h:1\""));
            Cluster::parse(&text, Path::new("/etc/ashlar"))
        };
        let cluster = with("identity = \"node\"").unwrap();
        assert_eq!(cluster.identity.as_deref(), Some(Path::new("/etc/ashlar/node")));
        assert_eq!(Cluster::parse(&cluster.to_toml(), Path::new("/")), Ok(cluster));
        let cluster = with("insecure = true").unwrap();
        assert!(cluster.insecure);
        assert_eq!(Cluster::parse(&cluster.to_toml(), Path::new("/")), Ok(cluster));
        let plain = with("").unwrap();
        assert!(!plain.insecure && plain.identity.is_none());
        assert_eq!(with("identity = \"a\"\ninsecure = true"), Err(BadCluster::Insecure));
    }

    #[test]
    fn who_leads_volumes_is_named_by_address_and_needs_disks_that_are() {
        let with = |line: &str, slot: String| {
            Cluster::parse(&format!("{HEAD}{line}\n{slot}"), Path::new("/"))
        };
        let served = || slot(1, "address = \"h:1\"");
        let cluster = with("metad = [\"a:7413\", \"b:7413\"]", served()).unwrap();
        assert_eq!(cluster.metad, ["a:7413", "b:7413"]);
        assert_eq!(Cluster::parse(&cluster.to_toml(), Path::new("/")), Ok(cluster.clone()));
        assert!(with("", served()).unwrap().metad.is_empty());
        let bad = BadCluster::MetadAddress("7413".to_owned());
        assert_eq!(with("metad = [\"7413\"]", served()), Err(bad));
        let local = with("metad = [\"a:7413\"]", slot(1, "path = \"d\""));
        assert_eq!(local, Err(BadCluster::MetadLocal(0)));
    }

    /// A slot on one disk in the place of another.
    fn replacing(n: u8, old: u8, port: u16) -> String {
        let replaces = format!("replaces = \"0b6c0000-0000-4000-8000-0000000000{old:02}\"");
        slot(n, &format!("address = \"127.0.0.1:{port}\"\n{replaces}"))
    }

    #[test]
    fn a_disk_in_the_place_of_another_stands_for_it() {
        let first = parse(&[slot(1, "path = \"a\""), slot(2, "path = \"b\"")]).unwrap();
        let replaces = "replaces = \"0b6c0000-0000-4000-8000-000000000002\"";
        let second = slot(7, &format!("path = \"c\"\n{replaces}"));
        let second = parse(&[slot(1, "path = \"a\""), second]).unwrap();
        let stand_for = |cluster: &Cluster| -> Vec<DiskId> {
            cluster.slots.iter().map(Slot::stands_for).collect()
        };
        let hosts =
            |cluster: &Cluster| -> Vec<String> { cluster.slots.iter().map(Slot::domain).collect() };
        assert_eq!((stand_for(&first), hosts(&first)), (stand_for(&second), hosts(&second)));
        assert_ne!(first.slots[1].disk, second.slots[1].disk);
        assert_eq!(Cluster::parse(&second.to_toml(), Path::new("/")), Ok(second.clone()));
    }

    #[test]
    fn bad_files_say_what_is_wrong() {
        let a = |n, port| slot(n, &format!("address = \"127.0.0.1:{port}\""));
        let cases = [
            (vec![], "no slots"),
            (vec![a(1, 1), a(1, 2)], "slots 0 and 1 name the same disk"),
            (vec![slot(1, "path = \"x\""), slot(2, "path = \"x\"")], "the same path"),
            (vec![a(1, 1), replacing(2, 1, 2)], "in the place of the same disk"),
            (vec![replacing(2, 1, 2), replacing(3, 1, 3)], "in the place of the same disk"),
            (vec![slot(1, "path = \"x\""), a(2, 2)], "not a mix"),
            (vec![slot(1, "")], "give either address"),
            (vec![slot(1, "address = \"nonsense\"")], "not HOST:PORT"),
            (vec![slot(1, "path = \"x\"\ncolour = 3")], "unknown field `colour`"),
            (
                vec![
                    slot(1, "address = \"h:1\"\ndomain = \"a\""),
                    slot(2, "address = \"h:1\"\ndomain = \"b\""),
                ],
                "a daemon fails as one",
            ),
            (
                vec![
                    slot(1, "path = \"x\"\ndomain = \"h\"\nrack = \"a\""),
                    slot(2, "path = \"y\"\ndomain = \"h\"\nrack = \"b\""),
                ],
                "slots 0 and 1 are of the same host but of different racks",
            ),
            (
                vec![slot(1, "path = \"x\"\nrack = \"a\""), slot(2, "path = \"y\"")],
                "slot 1 has no rack",
            ),
            ((0..65).map(|n| a(n, 1000 + u32::from(n))).collect(), "65 slots"),
        ];
        for (slots, expected) in cases {
            let error = parse(&slots).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
