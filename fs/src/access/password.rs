//! Passwords: argon2id with a salt for each, as a text that says by which parameters it was made.

use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use meta::Secret;

use super::pass::random;

/// Longest that is hashed: who comes may send what he likes.
pub(crate) const PASSWORD_MAX: usize = 1024;
/// Shortest that is taken, in bytes.
const PASSWORD_MIN: usize = 8;

/// Of no password: what is hashed against for users that are not there, or have none.
static NOBODY: LazyLock<String> = LazyLock::new(|| text_of(&random::<32>()));

/// May somebody be given this password?
///
/// # Errors
/// Why not.
pub(crate) fn check(password: &Secret) -> Result<(), &'static str> {
    match password.0.len() {
        ..PASSWORD_MIN => Err("a password has at least 8 bytes"),
        len if len > PASSWORD_MAX => Err("a password has at most 1024 bytes"),
        _ => Ok(()),
    }
}

/// The hash of a password.
pub(crate) fn hash(password: &Secret) -> Secret {
    Secret(text_of(&password.0).into_bytes())
}

fn text_of(password: &[u8]) -> String {
    // 19 MiB, two passes, one lane: what OWASP recommends, and the crate's default.
    let hashed = Argon2::default().hash_password_with_salt(password, &random::<16>());
    hashed.expect("the default parameters are valid").to_string()
}

/// Is it the password of this hash? Takes as long for a hash that is none.
pub(crate) fn is_right(password: &Secret, hash: &Secret) -> bool {
    let known = std::str::from_utf8(&hash.0).ok().filter(|text| !text.is_empty());
    let shown = &password.0[..password.0.len().min(PASSWORD_MAX)];
    let against = known.unwrap_or(&NOBODY);
    let right = PasswordVerifier::<str>::verify_password(&Argon2::default(), shown, against);
    right.is_ok() && known.is_some() && shown.len() == password.0.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret(text.as_bytes().to_vec())
    }

    #[test]
    fn a_password_is_neither_short_nor_endless() {
        let of = |len: usize| check(&secret(&"a".repeat(len)));
        assert!(of(PASSWORD_MIN).is_ok() && of(PASSWORD_MAX).is_ok());
        for (len, bound) in [(PASSWORD_MIN - 1, PASSWORD_MIN), (PASSWORD_MAX + 1, PASSWORD_MAX)] {
            assert!(of(len).is_err_and(|why| why.contains(&bound.to_string())), "{len}");
        }
    }

    #[test]
    fn only_the_password_is_right() {
        let (one, other) = (hash(&secret("correct horse")), hash(&secret("correct horse")));
        assert!(one != other, "each has a salt of its own");
        assert!(one.0.starts_with(b"$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(is_right(&secret("correct horse"), &one));
        for wrong in ["", "correct hors", "correct horsf", "correct horse "] {
            assert!(!is_right(&secret(wrong), &one), "{wrong:?}");
        }
        for none in ["", "$argon2id$", "plain"] {
            assert!(!is_right(&secret(none), &secret(none)), "{none:?}");
        }
        let long = secret(&"a".repeat(PASSWORD_MAX));
        let longer = secret(&"a".repeat(PASSWORD_MAX + 1));
        assert!(!is_right(&longer, &hash(&long)), "what is cut off counts");
    }
}
