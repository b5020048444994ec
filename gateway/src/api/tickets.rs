//! Tickets: words by which a browser fetches what a page shows or saves, where it sends no header. One is for reading at or
//! below one place, for an hour, by whoever got it; it is no secret of his, and of no use once his account has changed. They are
//! signed with a key that only this process has.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fs::access::Return;
use fs::tree::TreePath;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::address::{is_in, read, write};
use crate::refusal::{Code, Refusal};

/// How long one is good for, in seconds.
const GOOD_FOR: i64 = 3600;

/// What signs them.
pub(super) struct Tickets(Hmac<Sha256>);

/// What one says.
#[derive(Serialize, Deserialize)]
struct Ticket {
    /// By what whoever has it comes in; `None`: as he who shows nothing.
    known: Option<Return>,
    path: String,
    /// In seconds since 1970.
    until: i64,
}

impl Tickets {
    /// With a new key.
    ///
    /// # Errors
    /// When there is no randomness to be had.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 64];
        getrandom::fill(&mut key)?;
        Ok(Self(Hmac::new(&key.into())))
    }

    /// One for whoever comes in so, to read at or below a path.
    ///
    /// # Errors
    /// None that there should be: when it cannot be written.
    pub(super) fn issue(
        &self,
        known: Option<Return>,
        path: &TreePath,
        now: i64,
    ) -> Result<String, Refusal> {
        let ticket = Ticket { known, path: write(path), until: now.saturating_add(GOOD_FOR) };
        let said = serde_json::to_vec(&ticket);
        let said = said.map_err(|e| Refusal::new(Code::Broken, e.to_string()))?;
        let signature = self.0.clone().chain_update(&said).finalize().into_bytes();
        let (said, signature) = (URL_SAFE_NO_PAD.encode(said), URL_SAFE_NO_PAD.encode(signature));
        Ok(format!("{said}.{signature}"))
    }

    /// By what somebody comes in who shows one at a path.
    ///
    /// # Errors
    /// When it is none of ours, over, or for another place.
    pub(super) fn check(
        &self,
        text: &[u8],
        path: &TreePath,
        now: i64,
    ) -> Result<Option<Return>, Refusal> {
        let wrong = || {
            let why = "this ticket is over, or for something else: ask for another one";
            Refusal::new(Code::Denied, why)
        };
        let (said, signature) = split(text).ok_or_else(wrong)?;
        let signed = self.0.clone().chain_update(&said);
        signed.verify_slice(&signature).map_err(|_| wrong())?;
        let ticket: Ticket = serde_json::from_slice(&said).map_err(|_| wrong())?;
        if ticket.until <= now || !is_in(path, &read(&ticket.path)?) {
            return Err(wrong());
        }
        Ok(ticket.known)
    }
}

fn split(text: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (said, signature) = std::str::from_utf8(text).ok()?.split_once('.')?;
    Some((URL_SAFE_NO_PAD.decode(said).ok()?, URL_SAFE_NO_PAD.decode(signature).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_for_its_place_and_its_hour_and_nobody_makes_one() {
        let (tickets, others) = (Tickets::new().unwrap(), Tickets::new().unwrap());
        let path = |text| read(text).unwrap();
        let ticket = tickets.issue(None, &path("a/b%20c"), 1000).unwrap();
        let check = |text: &str, at, now| tickets.check(text.as_bytes(), &path(at), now).is_ok();
        assert!(check(&ticket, "a/b%20c", 1000) && check(&ticket, "a/b%20c/d", 4599));
        assert!(!check(&ticket, "a/b%20c", 4600), "over");
        for other in ["a", "", "a/b%20cd", "a/b"] {
            assert!(!check(&ticket, other, 1000), "{other}");
        }
        assert!(others.check(ticket.as_bytes(), &path("a/b%20c"), 1000).is_err(), "another key");
        let forged = URL_SAFE_NO_PAD.encode(r#"{"known":null,"path":"","until":9999}"#);
        let (_, signature) = ticket.split_once('.').unwrap();
        for text in ["", ".", "a.b", &forged, &format!("{forged}.{signature}"), &ticket[1..]] {
            assert!(!check(text, "", 1000) && !check(text, "a/b%20c", 1000), "{text}");
        }
        assert!(tickets.check(b"\xff.\xff", &path(""), 0).is_err());
    }
}
