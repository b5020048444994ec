//! Where a program listens, as people write it: `10.0.0.1:7411`, `[::1]:7411`, `localhost:7411`, or
//! `:7411` for every address of the machine.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use serde::Deserialize;

/// An address to listen on. A name may stand for several: the first that can be had is meant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Listen {
    text: String,
    addresses: Vec<SocketAddr>,
}

/// Text that is not one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadListen {
    /// Something else.
    #[error(
        "{0:?} is not an address to listen on (expected HOST:PORT, as in 10.0.0.1:7411 or localhost:7411, or :7411 for every address of this machine)"
    )]
    Text(String),
    /// No such name.
    #[error("{text}: no address is known by that name: {why}")]
    Name {
        /// What was given.
        text: String,
        /// What the resolver says.
        why: String,
    },
}

impl FromStr for Listen {
    type Err = BadListen;

    fn from_str(text: &str) -> Result<Self, BadListen> {
        let bad = || BadListen::Text(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port: u16 = port.parse().map_err(|_| bad())?;
        let plain = host.starts_with('[') || !host.contains([':', '/', ' ', '@']);
        let mut addresses: Vec<SocketAddr> = match host {
            // The first hears both kinds, where there are both.
            "" | "*" => {
                vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
            }
            _ if !plain => return Err(bad()),
            _ => (text.to_socket_addrs())
                .map_err(|e| BadListen::Name { text: text.to_owned(), why: e.to_string() })?
                .collect(),
        };
        if !matches!(host, "" | "*") {
            // Whoever is told a name may try only the older kind.
            addresses.sort_by_key(SocketAddr::is_ipv6);
        }
        Ok(Self { text: text.to_owned(), addresses })
    }
}

impl TryFrom<String> for Listen {
    type Error = BadListen;

    fn try_from(text: String) -> Result<Self, BadListen> {
        text.parse()
    }
}

impl Listen {
    /// What it stands for, the best first.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Can only this machine reach it?
    pub fn is_here(&self) -> bool {
        self.addresses.iter().all(|address| address.ip().to_canonical().is_loopback())
    }

    /// Can anybody reach it who reaches this machine?
    pub fn is_everywhere(&self) -> bool {
        self.addresses.iter().any(|address| address.ip().is_unspecified())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_an_address() {
        let first =
            |text: &str| text.parse::<Listen>().map(|listen| listen.addresses()[0].to_string());
        assert_eq!(first("10.0.0.1:7411").as_deref(), Ok("10.0.0.1:7411"));
        assert_eq!(first("[::1]:7411").as_deref(), Ok("[::1]:7411"));
        assert_eq!(first("localhost:7411").as_deref(), Ok("127.0.0.1:7411"));
        assert_eq!(first(":7411").as_deref(), Ok("[::]:7411"));
        let everywhere = |text: &str| text.parse::<Listen>().unwrap().is_everywhere();
        assert!(everywhere(":1") && everywhere("*:1") && everywhere("0.0.0.0:1"));
        assert!(!everywhere("127.0.0.1:1") && !everywhere("localhost:0"));
        let here = |text: &str| text.parse::<Listen>().unwrap().is_here();
        assert!(here("127.0.0.2:1") && here("[::1]:1") && here("localhost:1"));
        assert!(!here(":1") && !here("10.0.0.1:1") && !here("[::]:1"));
    }

    #[test]
    fn what_is_none_is_refused_with_an_example() {
        for text in ["", "here", "7411", "10.0.0.1", "::1", "h:", "h:port", "h:70000", "http://h:1"]
        {
            let error = text.parse::<Listen>().expect_err(text).to_string();
            assert!(error.contains("10.0.0.1:7411") && error.contains(text), "{text}: {error}");
        }
        let error = "no.such.host.invalid:7411".parse::<Listen>().unwrap_err().to_string();
        assert!(error.contains("no.such.host.invalid"), "{error}");
    }
}
