//! Whom a root has taken into the cluster, and by which tokens: decisions, without any I/O.
//!
//! A machine is who has its key ([`Authority::node_of`](proto::tls::authority::Authority::node_of)): what answers got
//! lost it may ask again, also by a token that is for one.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::id::{DiskId, NodeId};
use proto::tls::identity::{Revoked, Role, Serial};
use proto::tls::token::{LONGEST_NAME, Token, TokenKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Tokens that are kept, at most: those that expired first go.
const MOST_TOKENS: usize = 1000;
/// Certificates of one machine, at most: those of forty years, and no more of who asks again and again.
const MOST_CERTIFICATES: usize = 1000;

/// Tokens and machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ledger {
    #[serde(rename = "token", default, skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<Offer>,
    #[serde(rename = "machine", default, skip_serializing_if = "Vec::is_empty")]
    machines: Vec<Machine>,
}

/// A token that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Offer {
    id: Uuid,
    /// The token's key, in base64 for URLs.
    key: String,
    roles: BTreeSet<Role>,
    /// Seconds since 1970.
    expires: u64,
    #[serde(default)]
    reusable: bool,
    /// Whom it has taken in; of one that is reusable, last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used_by: Option<NodeId>,
}

/// A machine that was taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    /// Who it is.
    pub(crate) node: NodeId,
    /// For people.
    pub(crate) name: String,
    /// What it may be.
    pub(crate) roles: BTreeSet<Role>,
    /// It is of the cluster no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) revoked: bool,
    /// The disks that are its own.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) disks: BTreeSet<DiskId>,
    /// Its certificates, also those that are over: a connection lasts longer than the one that it was made with, and ends
    /// with the machine.
    #[serde(rename = "certificate", default, skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<Certificate>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    serial: String,
    /// Seconds since 1970.
    until: u64,
}

impl Machine {
    /// Until when it has a certificate, in seconds since 1970; `None`: it has none any more.
    pub(crate) fn until(&self) -> Option<u64> {
        self.certificates.iter().map(|one| one.until).max()
    }
}

/// What somebody asks who wants to be of the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The token's id.
    pub(crate) token: Uuid,
    /// What is to be signed.
    pub(crate) request: &'a [u8],
    /// Who asks it.
    pub(crate) node: NodeId,
    /// For people.
    pub(crate) name: &'a str,
    /// That he has the token.
    pub(crate) proof: &'a [u8],
}

/// Why somebody is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Nobody has made it, or it is too long ago; or whoever asks does not have it.
    #[error("this root knows no such token: make one (ashlar cluster token)")]
    Token,
    /// Its time is over.
    #[error("the token has expired: make another one (ashlar cluster token)")]
    Expired,
    /// It was for one.
    #[error("the token was used by another machine: make one for each (ashlar cluster token)")]
    Used,
    /// The key of this machine is worth nothing any more.
    #[error("this machine was revoked: remove its node.key, and join with a new one")]
    Revoked,
    /// A name that is too long, or would not be shown as it is.
    #[error(
        "the name of the machine has more than {LONGEST_NAME} bytes, or some that cannot be shown"
    )]
    Name,
    /// Certificates for certificates' sake.
    #[error(
        "this machine has got {MOST_CERTIFICATES} certificates: remove its node.key, and join with a new one"
    )]
    Often,
    /// Somebody who was never taken in.
    #[error("this root does not know the machine")]
    Machine,
    /// The disk of another machine.
    #[error("disk {0} is another machine's")]
    Disk(DiskId),
}

impl Ledger {
    /// Reads its text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| anyhow::anyhow!("{}", e.to_string().trim_end()))
    }

    /// The text that [`Self::parse`] reads.
    pub(crate) fn to_text(&self) -> Result<String> {
        toml::to_string(self).context("whom this root has taken in")
    }

    /// All machines that were taken in.
    pub(crate) fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// A token was made, for machines with these roles.
    pub(crate) fn offer(&mut self, token: &Token, roles: BTreeSet<Role>, reusable: bool) {
        let (id, key) = (Uuid::from_bytes(token.id()), token.key());
        let key = URL_SAFE_NO_PAD.encode(key.as_bytes());
        let expires = token.expires;
        self.tokens.push(Offer { id, key, roles, expires, reusable, used_by: None });
        self.tokens.sort_by_key(|offer| offer.expires);
        let many = self.tokens.len().saturating_sub(MOST_TOKENS);
        self.tokens.drain(..many);
    }

    /// No token takes anybody in any more who was not taken in by it.
    pub(crate) fn withdraw(&mut self) {
        self.tokens.retain(|offer| !offer.reusable && offer.used_by.is_some());
    }

    /// Takes a machine in: with which roles.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admit(&mut self, asked: Asked<'_>, now: u64) -> Result<BTreeSet<Role>, Refused> {
        if !is_name(asked.name) {
            return Err(Refused::Name);
        }
        let offer = self.tokens.iter_mut().find(|offer| offer.id == asked.token);
        let offer = offer.ok_or(Refused::Token)?;
        let key = URL_SAFE_NO_PAD.decode(&offer.key).ok();
        let key = key.and_then(|key| TokenKey::from_slice(&key)).ok_or(Refused::Token)?;
        if !key.is_proven(asked.request, asked.name, asked.proof) {
            return Err(Refused::Token);
        }
        if offer.expires <= now {
            return Err(Refused::Expired);
        }
        if offer.used_by.is_some_and(|by| by != asked.node) && !offer.reusable {
            return Err(Refused::Used);
        }
        let known = self.machines.iter().find(|machine| machine.node == asked.node);
        if known.is_some_and(|machine| machine.revoked) {
            return Err(Refused::Revoked);
        }
        offer.used_by = Some(asked.node);
        Ok(offer.roles.clone())
    }

    /// A machine gets a certificate, until so many seconds since 1970.
    ///
    /// # Errors
    /// [`Refused::Often`].
    pub(crate) fn note(
        &mut self,
        node: NodeId,
        (name, roles): (&str, BTreeSet<Role>),
        (serial, until): (&Serial, u64),
    ) -> Result<(), Refused> {
        let found = self.machines.iter().position(|machine| machine.node == node);
        let index = found.unwrap_or_else(|| {
            let (name, disks) = (name.to_owned(), BTreeSet::new());
            let (roles, certificates) = (roles.clone(), Vec::new());
            let revoked = false;
            self.machines.push(Machine { node, name, roles, revoked, disks, certificates });
            self.machines.len() - 1
        });
        let machine = &mut self.machines[index];
        if machine.certificates.len() >= MOST_CERTIFICATES {
            return Err(Refused::Often);
        }
        machine.roles = roles;
        machine.certificates.push(Certificate { serial: serial.to_string(), until });
        Ok(())
    }

    /// One that is of the cluster.
    ///
    /// # Errors
    /// [`Refused::Machine`], [`Refused::Revoked`].
    pub(crate) fn machine(&self, node: NodeId) -> Result<&Machine, Refused> {
        let found = self.machines.iter().find(|machine| machine.node == node);
        match found {
            None => Err(Refused::Machine),
            Some(machine) if machine.revoked => Err(Refused::Revoked),
            Some(machine) => Ok(machine),
        }
    }

    /// These disks are a machine's own from now on. Those of one that was revoked are anybody's: they are moved when a
    /// machine is dead.
    ///
    /// # Errors
    /// When one is another's: then nothing has changed.
    pub(crate) fn own(
        &mut self,
        node: NodeId,
        disks: impl Iterator<Item = DiskId>,
    ) -> Result<(), Refused> {
        self.machine(node)?;
        let disks: BTreeSet<DiskId> = disks.collect();
        let others = self.machines.iter().filter(|one| one.node != node && !one.revoked);
        let mut theirs = others.flat_map(|machine| &machine.disks);
        if let Some(disk) = theirs.find(|disk| disks.contains(disk)) {
            return Err(Refused::Disk(*disk));
        }
        let own = self.machines.iter_mut().find(|machine| machine.node == node);
        if let Some(own) = own {
            own.disks.extend(disks);
        }
        Ok(())
    }

    /// A machine is of the cluster no more.
    ///
    /// # Errors
    /// [`Refused::Machine`].
    pub(crate) fn revoke(&mut self, node: NodeId) -> Result<(), Refused> {
        let found = self.machines.iter_mut().find(|machine| machine.node == node);
        found.ok_or(Refused::Machine)?.revoked = true;
        Ok(())
    }

    /// All certificates that are worth nothing any more. One whose number makes no sense was never issued.
    pub(crate) fn revoked(&self) -> Revoked {
        let mut revoked = Revoked::default();
        let machines = self.machines.iter().filter(|machine| machine.revoked);
        let certificates = machines.flat_map(|machine| &machine.certificates);
        certificates.filter_map(|one| one.serial.parse().ok()).for_each(|one| revoked.add(one));
        revoked
    }
}

/// Can people read it as it is, in a line?
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= LONGEST_NAME && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proto::id::ClusterId;

    use super::*;

    fn token(secret: u8) -> Token {
        let (cluster, fingerprint, expires) = (ClusterId::random(), [0; 32], 1000);
        let addresses = vec!["h:1".to_owned()];
        Token { cluster, fingerprint, secret: [secret; 32], expires, addresses }
    }

    fn ask(ledger: &mut Ledger, token: &Token, node: NodeId, now: u64) -> Result<(), Refused> {
        let (request, name) = (node.as_bytes(), "m");
        let proof = token.key().prove(request, name);
        let token = Uuid::from_bytes(token.id());
        let asked = Asked { token, request, node, name, proof: &proof };
        let roles = ledger.admit(asked, now)?;
        let serial = Serial::from_bytes(&node.as_bytes()[..]).unwrap();
        ledger.note(node, (name, roles), (&serial, now + 500))
    }

    #[test]
    fn a_token_is_for_one_machine_until_it_expires() {
        let (one, two) = (NodeId::random(), NodeId::random());
        let (single, many, unknown) = (token(1), token(2), token(3));
        let mut ledger = Ledger::default();
        let roles: BTreeSet<Role> = [Role::Node].into();
        ledger.offer(&single, roles.clone(), false);
        ledger.offer(&many, roles.clone(), true);
        assert_eq!(ask(&mut ledger, &unknown, one, 10), Err(Refused::Token));
        assert_eq!(ask(&mut ledger, &single, one, 10), Ok(()));
        assert_eq!(ask(&mut ledger, &single, one, 11), Ok(()), "whose answer was lost");
        assert_eq!(ask(&mut ledger, &single, two, 12), Err(Refused::Used));
        assert_eq!(ask(&mut ledger, &many, one, 13), Ok(()));
        assert_eq!(ask(&mut ledger, &many, two, 14), Ok(()));
        for token in [&single, &many] {
            assert_eq!(ask(&mut ledger, token, one, 1000), Err(Refused::Expired));
        }
        assert_eq!(ledger.machines().len(), 2);
        let mut withdrawn = ledger.clone();
        withdrawn.offer(&unknown, roles, false);
        withdrawn.withdraw();
        for token in [&many, &unknown] {
            assert_eq!(ask(&mut withdrawn, token, two, 15), Err(Refused::Token));
        }
        assert_eq!(ask(&mut withdrawn, &single, one, 16), Ok(()), "whose answer was lost");
        // Who says it of another question does not have the token.
        let proof = many.key().prove(b"another", "m");
        let token = Uuid::from_bytes(many.id());
        let asked = Asked { token, request: b"this", node: one, name: "m", proof: &proof };
        assert_eq!(ledger.admit(asked, 15), Err(Refused::Token));
        assert_eq!(Ledger::parse(&ledger.to_text().unwrap()).unwrap(), ledger);
    }

    #[test]
    fn who_was_revoked_has_no_certificate_and_gets_none() {
        let (one, two) = (NodeId::random(), NodeId::random());
        let mut ledger = Ledger::default();
        let many = token(1);
        ledger.offer(&many, [Role::Node].into(), true);
        for (node, now) in [(one, 10), (two, 20)] {
            ask(&mut ledger, &many, node, now).unwrap();
        }
        assert_eq!(ledger.revoked(), Revoked::default());
        assert_eq!(ledger.revoke(NodeId::random()), Err(Refused::Machine));
        ledger.revoke(one).unwrap();
        let serial = |node: NodeId| Serial::from_bytes(&node.as_bytes()[..]).unwrap();
        assert!(ledger.revoked().has(&serial(one)) && !ledger.revoked().has(&serial(two)));
        assert_eq!(ask(&mut ledger, &many, one, 30), Err(Refused::Revoked));
        assert_eq!(ledger.machine(one), Err(Refused::Revoked));
        assert!(ledger.machine(two).is_ok());
    }

    #[test]
    fn a_disk_is_one_machines_own() {
        let (one, two) = (NodeId::random(), NodeId::random());
        let mut ledger = Ledger::default();
        let many = token(1);
        ledger.offer(&many, [Role::Node].into(), true);
        assert_eq!(ledger.own(one, std::iter::empty()), Err(Refused::Machine));
        for node in [one, two] {
            ask(&mut ledger, &many, node, 10).unwrap();
        }
        let (disk, other) = (DiskId::random(), DiskId::random());
        assert_eq!(ledger.own(one, [disk].into_iter()), Ok(()));
        assert_eq!(ledger.own(one, [disk, other].into_iter()), Ok(()));
        assert_eq!(ledger.own(two, [other].into_iter()), Err(Refused::Disk(other)));
        assert!(ledger.machine(two).unwrap().disks.is_empty());
        ledger.revoke(one).unwrap();
        assert_eq!(ledger.own(two, [other].into_iter()), Ok(()), "the machine it was in is dead");
        assert_eq!(ledger.own(one, [disk].into_iter()), Err(Refused::Revoked));
    }

    #[test]
    fn who_is_revoked_loses_what_was_made_with_certificates_that_are_over() {
        let (mut ledger, node) = (Ledger::default(), NodeId::random());
        let serial = |number: u16| Serial::from_bytes(&number.to_be_bytes()).unwrap();
        let mut issue = |number: u16| {
            let until = u64::from(number) * 10;
            ledger.note(node, ("m", [Role::Node].into()), (&serial(number), until))
        };
        for number in 0..1000 {
            assert_eq!(issue(number), Ok(()));
        }
        assert_eq!(issue(1000), Err(Refused::Often));
        ledger.revoke(node).unwrap();
        let revoked = ledger.revoked();
        assert!((0..1000).all(|number| revoked.has(&serial(number))));
    }

    #[test]
    fn a_name_is_shown_as_it_is() {
        assert!(is_name("m1.example") && is_name("Zürich 3") && is_name(&"m".repeat(LONGEST_NAME)));
        for name in ["m\n7d1c revoked", "\u{1b}[2K", "\0", &"m".repeat(LONGEST_NAME + 1)] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
