//! Access keys, tokens and share links: how they are made, how they look, and what proves them.
//!
//! ```text
//! access key   AKIA..., 20 letters and digits, and a secret of 40 letters
//! token        ashlar_ID_SECRET: 16 hexadecimal digits, and 32 random bytes in base64 for URLs
//! link         ID.SIGNATURE: 16 hexadecimal digits, and 32 bytes in base64 for URLs
//! ```
//!
//! The secret of a token is random and long, so that a plain hash of it is enough. A link is signed with the volume's
//! secret over all that its record says: it ends with the record, with its time, or when that secret is changed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use meta::{AccountKind, Pass, Secret};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What tokens begin with, so that who finds one knows what it is.
const PREFIX: &str = "ashlar_";
/// Letters of an access key's id.
const KEY_LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Whose a new pass is, and for what.
#[derive(Clone, Debug)]
pub struct New {
    /// The user.
    pub user: String,
    /// The folder, from the volume's root.
    pub folder: String,
    /// May change things there.
    pub write: bool,
    /// Now, in seconds since the epoch.
    pub now: u64,
    /// When it ends, in seconds since the epoch.
    pub expires: Option<u64>,
}

impl New {
    fn pass(self, kind: AccountKind, id: String, secret: Secret) -> Pass {
        let Self { user, folder, write, now, expires } = self;
        Pass { kind, id, user, folder, write, created: now, expires, secret }
    }

    /// A new access key; its secret is in the record.
    pub fn key(self) -> Pass {
        let letter = |byte: u8| char::from(KEY_LETTERS[usize::from(byte) % KEY_LETTERS.len()]);
        let id = format!("AKIA{}", random::<16>().map(letter).iter().collect::<String>());
        let secret = URL_SAFE_NO_PAD.encode(random::<30>());
        self.pass(AccountKind::Key, id, Secret(secret.into_bytes()))
    }

    /// A new token: its record, and its text, which is not kept.
    pub fn token(self) -> (Pass, String) {
        let (id, secret) = (new_id(), random::<32>());
        let text = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        (self.pass(AccountKind::Token, id, digest(&secret)), text)
    }

    /// A new link, to be signed.
    pub fn link(self) -> Pass {
        self.pass(AccountKind::Link, new_id(), Secret::default())
    }
}

/// A token as it is shown.
pub(crate) struct Token {
    pub(crate) id: String,
    digest: Secret,
}

impl Token {
    /// `None`: it does not look like one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?;
        Some(Self { id: id.to_owned(), digest: digest(&secret) })
    }

    /// Is it the one of this record?
    pub(crate) fn is_right(&self, pass: &Pass) -> bool {
        pass.id == self.id && bool::from(pass.secret.0.ct_eq(&self.digest.0))
    }
}

/// A link as it is shown.
pub(crate) struct Signed {
    pub(crate) id: String,
    signature: Vec<u8>,
}

impl Signed {
    /// `None`: it does not look like one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, signature) = text.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        Some(Self { id: id.to_owned(), signature })
    }

    /// Is it the one of this record?
    pub(crate) fn is_right(&self, pass: &Pass, key: &Secret) -> bool {
        pass.id == self.id && signing(pass, key).verify_slice(&self.signature).is_ok()
    }
}

/// A link's text: the end of its path.
pub(crate) fn sign(pass: &Pass, key: &Secret) -> String {
    let signature = signing(pass, key).finalize().into_bytes();
    format!("{}.{}", pass.id, URL_SAFE_NO_PAD.encode(signature))
}

fn signing(pass: &Pass, key: &Secret) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("a key may have any length");
    for text in ["ashlar link 1", &pass.id, &pass.user, &pass.folder] {
        mac.update(&(text.len() as u64).to_le_bytes());
        mac.update(text.as_bytes());
    }
    mac.update(&[u8::from(pass.write)]);
    mac.update(&pass.created.to_le_bytes());
    mac.update(&pass.expires.unwrap_or(0).to_le_bytes());
    mac
}

/// A new secret to sign links with.
pub(crate) fn new_signing_secret() -> [u8; 32] {
    random()
}

fn digest(secret: &[u8]) -> Secret {
    Secret(Sha256::digest(secret).to_vec())
}

fn new_id() -> String {
    random::<8>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that nobody can foretell.
///
/// # Panics
/// When the system has none: nothing is safe then.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel has randomness");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> New {
        let (user, folder) = ("ann".to_owned(), "/photos".to_owned());
        New { user, folder, write: false, now: 5, expires: Some(9) }
    }

    #[test]
    fn a_token_is_known_by_its_text_alone() {
        let ((pass, text), (other, _)) = (new().token(), new().token());
        let token = Token::parse(&text).unwrap();
        assert_eq!((token.id.as_str(), token.is_right(&pass)), (pass.id.as_str(), true));
        assert!(!token.is_right(&other));
        assert!(!token.is_right(&Pass { secret: other.secret, ..pass.clone() }));
        assert!(!token.is_right(&Pass { secret: Secret::default(), ..pass.clone() }));
        let kept = String::from_utf8_lossy(&pass.secret.0).into_owned();
        assert!(!text.contains(&kept) && pass.secret.0.len() == 32);
        let shorter = &text[..text.len() - 4];
        assert!(!Token::parse(shorter).is_some_and(|token| token.is_right(&pass)));
        for bad in ["", "ashlar_", "ashlar_12", "ashlar_12_?", &text[1..], "ashlar_a_b_c"] {
            assert!(!Token::parse(bad).is_some_and(|token| token.is_right(&pass)), "{bad}");
        }
    }

    #[test]
    fn a_link_is_right_for_what_it_was_signed_for() {
        let (pass, key) = (new().link(), Secret(random::<32>().to_vec()));
        let text = sign(&pass, &key);
        let signed = Signed::parse(&text).unwrap();
        assert!(signed.is_right(&pass, &key));
        let others = [
            Pass { id: new().link().id, ..pass.clone() },
            Pass { user: "bob".into(), ..pass.clone() },
            Pass { folder: "/".into(), ..pass.clone() },
            Pass { write: true, ..pass.clone() },
            Pass { created: 6, ..pass.clone() },
            Pass { expires: None, ..pass.clone() },
            // The same letters, cut otherwise.
            Pass { user: "an".into(), folder: "n/photos".into(), ..pass.clone() },
        ];
        for other in others {
            assert!(!signed.is_right(&other, &key), "{other:?}");
        }
        assert!(!signed.is_right(&pass, &Secret(random::<32>().to_vec())));
        for bad in ["", ".", "a.", &text[..text.len() - 2], &pass.id] {
            assert!(!Signed::parse(bad).is_some_and(|s| s.is_right(&pass, &key)), "{bad}");
        }
    }

    #[test]
    fn access_keys_look_as_programs_want_them() {
        let (one, other) = (new().key(), new().key());
        let letters = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
        assert!(one.id.len() == 20 && one.id.chars().all(letters) && one.id != other.id);
        assert!(one.secret.0.len() == 40 && one.secret != other.secret);
        assert_eq!(meta::Account::Pass(one).check(), Ok(()));
    }
}
