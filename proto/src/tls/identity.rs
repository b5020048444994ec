//! Who a certificate says somebody is: a machine of a cluster, and what it may be there.
//!
//! It is said by URIs among the certificate's names, `ashlar://CLUSTER/node/ID` and one `ashlar://CLUSTER/role/ROLE` for
//! each role. A certificate that says anything else of Ashlar says nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use webpki::EndEntityCert;

use crate::id::{ClusterId, NodeId};

/// How the URIs begin.
const SCHEME: &str = "ashlar://";
/// Bytes of a serial number, at most (RFC 5280).
const LONGEST_SERIAL: usize = 20;

/// What a machine may be in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It leads volumes, takes machines in, and signs their certificates.
    Root,
    /// It serves disks.
    Node,
    /// It mounts volumes and serves doors; nobody takes it for a server.
    Client,
}

impl Role {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Root, Self::Node, Self::Client];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Node => "node",
            Self::Client => "client",
        })
    }
}

/// No role is called that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: root, node or client")]
pub struct NoRole(String);

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        let found = Self::ALL.into_iter().find(|role| role.to_string() == text);
        found.ok_or_else(|| NoRole(text.to_owned()))
    }
}

/// A machine of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The machine.
    pub node: NodeId,
    /// What it may be; at least one.
    pub roles: BTreeSet<Role>,
}

/// A certificate that says of nobody who he is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// It is none.
    #[error("it is no certificate: {0}")]
    Certificate(String),
    /// A name that means nothing.
    #[error("the name {0:?} means nothing")]
    Name(String),
    /// Names that do not go together.
    #[error("its names do not say of one machine what it is")]
    Names,
    /// Its number is none.
    #[error("its serial number is none")]
    Serial,
}

impl Identity {
    /// Does it have this role?
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// May others take it for a server?
    pub fn may_serve(&self) -> bool {
        self.is(Role::Root) || self.is(Role::Node)
    }

    /// The names in its certificate.
    pub fn uris(&self) -> Vec<String> {
        let Self { cluster, node, roles } = self;
        let role = |role: &Role| format!("{SCHEME}{cluster}/role/{role}");
        let node = format!("{SCHEME}{cluster}/node/{node}");
        std::iter::once(node).chain(roles.iter().map(role)).collect()
    }

    /// From these names.
    ///
    /// # Errors
    /// When they are not those of one machine.
    pub fn from_uris<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Self, BadIdentity> {
        let (mut cluster, mut node, mut roles) = (None, None, BTreeSet::new());
        for uri in uris {
            let bad = || BadIdentity::Name(uri.to_owned());
            let rest = uri.strip_prefix(SCHEME).ok_or_else(bad)?;
            let (of, rest) = rest.split_once('/').ok_or_else(bad)?;
            let of: ClusterId = of.parse().map_err(|_| bad())?;
            if *cluster.get_or_insert(of) != of {
                return Err(BadIdentity::Names);
            }
            match rest.split_once('/').ok_or_else(bad)? {
                ("node", id) => {
                    let id: NodeId = id.parse().map_err(|_| bad())?;
                    if node.replace(id).is_some() {
                        return Err(BadIdentity::Names);
                    }
                }
                ("role", role) => {
                    roles.insert(role.parse().map_err(|_| bad())?);
                }
                _ => return Err(bad()),
            }
        }
        match (cluster, node) {
            (Some(cluster), Some(node)) if !roles.is_empty() => Ok(Self { cluster, node, roles }),
            _ => Err(BadIdentity::Names),
        }
    }

    /// Whom a certificate is for, and its number. Who has signed it is not looked at.
    ///
    /// # Errors
    /// When it does not say so.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<(Self, Serial), BadIdentity> {
        let bad = |e: webpki::Error| BadIdentity::Certificate(e.to_string());
        let certificate = EndEntityCert::try_from(certificate).map_err(bad)?;
        let serial = Serial::from_bytes(certificate.serial()).ok_or(BadIdentity::Serial)?;
        Ok((Self::from_uris(certificate.valid_uri_names())?, serial))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<String> = self.roles.iter().map(Role::to_string).collect();
        write!(f, "{} ({})", self.node, roles.join(", "))
    }
}

/// The number of a certificate, which no other of its CA has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// From its bytes in a certificate; `None`: too many, or none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (1..=LONGEST_SERIAL).contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// It is no number of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no serial number of a certificate (hexadecimal)")]
pub struct NoSerial(String);

impl FromStr for Serial {
    type Err = NoSerial;

    fn from_str(text: &str) -> Result<Self, NoSerial> {
        let digits: Option<Vec<u8>> = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect();
        let bytes = digits.filter(|digits| digits.len() % 2 == 0).and_then(|digits| {
            let bytes: Vec<u8> = digits.chunks(2).map(|two| (two[0] << 4) | two[1]).collect();
            Self::from_bytes(&bytes)
        });
        bytes.ok_or_else(|| NoSerial(text.to_owned()))
    }
}

/// Certificates that are worth nothing any more, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked(BTreeSet<Serial>);

impl Revoked {
    /// Reads a list: a number a line. Empty lines, and what follows `#`, are for people.
    ///
    /// # Errors
    /// At a line that is none: a list of which one line is not understood lets nobody in by it.
    pub fn parse(text: &str) -> Result<Self, NoSerial> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        lines
            .filter(|line| !line.is_empty())
            .map(str::parse::<Serial>)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Is this one among them?
    pub fn has(&self, serial: &Serial) -> bool {
        self.0.contains(serial)
    }

    /// One more.
    pub fn add(&mut self, serial: Serial) {
        self.0.insert(serial);
    }

    /// The list that [`Self::parse`] reads.
    pub fn to_text(&self) -> String {
        self.0.iter().map(|serial| format!("{serial}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn somebody(roles: &[Role]) -> Identity {
        let (cluster, node) = (ClusterId::random(), NodeId::random());
        Identity { cluster, node, roles: roles.iter().copied().collect() }
    }

    fn read(uris: &[String]) -> Result<Identity, BadIdentity> {
        Identity::from_uris(uris.iter().map(String::as_str))
    }

    #[test]
    fn names_say_of_one_machine_what_it_is() {
        for roles in [&[Role::Client][..], &[Role::Root, Role::Node], &Role::ALL] {
            let identity = somebody(roles);
            assert_eq!(read(&identity.uris()), Ok(identity));
        }
        let (one, two) = (somebody(&[Role::Node]), somebody(&[Role::Client]));
        let [node, role]: [String; 2] = one.uris().try_into().unwrap();
        let of = |cluster: ClusterId, rest: &str| format!("ashlar://{cluster}/{rest}");
        for uris in [
            vec![],
            vec![node.clone()],
            vec![role.clone()],
            vec![node.clone(), node.clone(), role.clone()],
            vec![node.clone(), role.clone(), of(two.cluster, "role/root")],
            vec![node.clone(), role.clone(), of(one.cluster, "role/king")],
            vec![node.clone(), role.clone(), of(one.cluster, "role/root/x")],
            vec![node.clone(), role.clone(), of(one.cluster, "")],
            vec![node.clone(), role.clone(), "https://example.org/".to_owned()],
            vec![node.to_uppercase(), role],
        ] {
            assert!(read(&uris).is_err(), "{uris:?}");
        }
    }

    #[test]
    fn a_list_of_which_a_line_makes_no_sense_is_none() {
        let revoked = Revoked::parse("# of m2\n\n 0aff # lost\nff00\n").unwrap();
        assert!(revoked.has(&"0aff".parse().unwrap()) && revoked.has(&"FF00".parse().unwrap()));
        assert!(!revoked.has(&"0afe".parse().unwrap()));
        assert_eq!(Revoked::parse(&revoked.to_text()), Ok(revoked));
        for text in ["0a\nxy\n", "0\n", "0a 0b\n", &"00".repeat(21)] {
            assert!(Revoked::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_named_is_read_as_it_is_written_or_refused(uris in prop::collection::vec(
            "(ashlar://)?[0-9a-f-]{0,40}/(node|role|x)/(root|node|client|[0-9a-f-]{0,40}|.{0,9})", 0..4)
        ) {
            if let Ok(identity) = read(&uris) {
                prop_assert_eq!(read(&identity.uris()), Ok(identity));
            }
        }

        #[test]
        fn a_serial_number_is_read_as_it_is_shown(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            let serial = Serial::from_bytes(&bytes);
            prop_assert_eq!(serial.is_some(), (1..=20).contains(&bytes.len()));
            if let Some(serial) = serial {
                prop_assert_eq!(serial.to_string().parse(), Ok(serial));
            }
        }
    }
}
