//! Tokens: with one a machine is taken into a cluster that it knows nothing else of.
//!
//! ```text
//! "ashlar1." base64url of
//!   version 1 | cluster 16 | SHA-256 of the CA's certificate 32 | secret 32 | expires u64, seconds since 1970 |
//!   n 1 | n x (length 1, HOST:PORT) | CRC-32C of all before u32
//! ```
//!
//! All numbers are big-endian. The machine knows the root by the CA, and the root the machine by the secret, which is not
//! sent: what is asked is proven with a key made of it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::cluster::is_address;
use crate::id::ClusterId;

/// What tokens begin with, so that who finds one knows what it is.
const PREFIX: &str = "ashlar1.";
const VERSION: u8 = 1;
/// Addresses of roots, at most.
pub const MOST_ADDRESSES: usize = 8;
/// Bytes of a name of whoever joins that are kept.
pub const LONGEST_NAME: usize = 255;

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The cluster.
    pub cluster: ClusterId,
    /// SHA-256 of the certificate of its CA.
    pub fingerprint: [u8; 32],
    /// What is known to who has the token, and to the root.
    pub secret: [u8; 32],
    /// Seconds since 1970 after which it is worth nothing.
    pub expires: u64,
    /// `HOST:PORT` of roots, 1 to [`MOST_ADDRESSES`].
    pub addresses: Vec<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, expires, addresses, .. } = self;
        f.debug_struct("Token")
            .field("cluster", cluster)
            .field("expires", expires)
            .field("addresses", addresses)
            .finish_non_exhaustive()
    }
}

/// Text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Something else.
    #[error("it is no token: one begins with {PREFIX}")]
    Prefix,
    /// Something is missing, or was changed.
    #[error("it is not a whole token: copy all of it")]
    Damaged,
    /// Made by a later version.
    #[error("it was made by a later version of Ashlar, which is needed to join by it")]
    Version,
}

/// What a root keeps of a token: enough to know who has it, and not to make it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenKey([u8; 32]);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

impl TokenKey {
    /// From its bytes; `None`: it is none.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn mac(&self, request: &[u8], name: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key may have any length");
        for part in [&b"ashlar join 1"[..], request, name.as_bytes()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    /// Proves that whoever asks this, and is called that, has the token.
    pub fn prove(&self, request: &[u8], name: &str) -> [u8; 32] {
        self.mac(request, name).finalize().into_bytes().into()
    }

    /// Is this the proof?
    pub fn is_proven(&self, request: &[u8], name: &str, proof: &[u8]) -> bool {
        self.mac(request, name).verify_slice(proof).is_ok()
    }
}

fn derive(what: &str, secret: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(what).chain_update(secret).finalize().into()
}

impl Token {
    /// By which a root knows it.
    pub fn id(&self) -> [u8; 16] {
        let whole = derive("ashlar token id", &self.secret);
        let mut id = [0; 16];
        id.copy_from_slice(&whole[..16]);
        id
    }

    /// With which what is asked is proven.
    pub fn key(&self) -> TokenKey {
        TokenKey(derive("ashlar token key", &self.secret))
    }

    /// Is it worth nothing any more, at this time?
    pub fn has_expired(&self, now: SystemTime) -> bool {
        let end = UNIX_EPOCH.checked_add(Duration::from_secs(self.expires));
        end.is_some_and(|end| end <= now)
    }

    fn decode(bytes: &[u8]) -> Option<Result<Self, BadToken>> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        let (version, rest) = body.split_first()?;
        if *version != VERSION {
            return Some(Err(BadToken::Version));
        }
        let (cluster, rest) = rest.split_first_chunk::<16>()?;
        let (fingerprint, rest) = rest.split_first_chunk::<32>()?;
        let (secret, rest) = rest.split_first_chunk::<32>()?;
        let (expires, rest) = rest.split_first_chunk::<8>()?;
        let (count, mut rest) = rest.split_first()?;
        let mut addresses = Vec::new();
        for _ in 0..*count {
            let (len, after) = rest.split_first()?;
            let (address, after) = after.split_at_checked(usize::from(*len))?;
            addresses.push(std::str::from_utf8(address).ok()?.to_owned());
            rest = after;
        }
        let whole = rest.is_empty()
            && (1..=MOST_ADDRESSES).contains(&addresses.len())
            && addresses.iter().all(|address| is_address(address));
        whole.then_some(Ok(Self {
            cluster: ClusterId::from_slice(cluster)?,
            fingerprint: *fingerprint,
            secret: *secret,
            expires: u64::from_be_bytes(*expires),
            addresses,
        }))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(self.cluster.as_bytes());
        bytes.extend_from_slice(&self.fingerprint);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.expires.to_be_bytes());
        // Longer names than that are none of hosts.
        let addresses = self.addresses.iter().filter(|address| address.len() <= 255);
        let addresses: Vec<_> = addresses.take(MOST_ADDRESSES).collect();
        bytes.push(addresses.len() as u8);
        for address in addresses {
            bytes.push(address.len() as u8);
            bytes.extend_from_slice(address.as_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(BadToken::Prefix)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| BadToken::Damaged)?;
        Self::decode(&bytes).unwrap_or(Err(BadToken::Damaged))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn a_token() -> impl Strategy<Value = Token> {
        let addresses = vec("[a-z0-9.-]{1,40}:[1-9][0-9]{0,3}", 1..=MOST_ADDRESSES);
        let known = (any::<[u8; 16]>(), any::<[u8; 32]>(), any::<[u8; 32]>());
        (known, any::<u64>(), addresses).prop_map(
            |((cluster, fingerprint, secret), expires, addresses)| {
                let cluster = ClusterId::from_slice(&cluster).unwrap();
                Token { cluster, fingerprint, secret, expires, addresses }
            },
        )
    }

    proptest! {
        #[test]
        fn a_token_is_read_as_it_is_written(token in a_token()) {
            prop_assert_eq!(token.to_string().parse(), Ok(token.clone()));
            let shown = format!("{token:?}");
            prop_assert!(!shown.contains("secret"));
        }

        #[test]
        fn one_that_was_changed_or_cut_is_none(token in a_token(), at: prop::sample::Index, by in 1..=255u8) {
            let text = token.to_string();
            let cut = &text[..at.index(text.len())];
            prop_assert!(cut.parse::<Token>().is_err(), "{cut}");
            let mut bytes = text.into_bytes();
            let index = at.index(bytes.len());
            bytes[index] ^= by;
            if let Ok(text) = String::from_utf8(bytes) {
                let read = text.parse::<Token>();
                prop_assert!(read.is_err() || read == Ok(token), "{text}");
            }
        }

        #[test]
        fn a_proof_is_of_one_question_by_one_token(
            one in a_token(), two in a_token(), asked in vec(any::<u8>(), 0..40), name in ".{0,20}",
        ) {
            prop_assume!(one.secret != two.secret);
            let proof = one.key().prove(&asked, &name);
            prop_assert!(one.key().is_proven(&asked, &name, &proof));
            prop_assert!(!two.key().is_proven(&asked, &name, &proof));
            let other = format!("{name}x");
            prop_assert!(!one.key().is_proven(&asked, &other, &proof));
            prop_assert!(!one.key().is_proven(&[&asked[..], b"x"].concat(), &name, &proof));
            prop_assert!(!one.key().is_proven(&asked, &name, &proof[..31]));
            prop_assert_ne!(one.id(), two.id());
        }
    }

    #[test]
    fn what_is_no_token_is_refused_in_words() {
        let refused = |text: &str| text.parse::<Token>().unwrap_err();
        assert_eq!(refused("ashlar_0123"), BadToken::Prefix);
        assert_eq!(refused(""), BadToken::Prefix);
        assert_eq!(refused("ashlar1."), BadToken::Damaged);
        assert_eq!(refused("ashlar1.???"), BadToken::Damaged);
        let mut later = vec![2, 1, 2, 3];
        later.extend_from_slice(&crc32c::crc32c(&later).to_be_bytes());
        let later = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(later));
        assert_eq!(refused(&later), BadToken::Version);
    }
}
