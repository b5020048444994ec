//! Whose requests those of `ashlar kv` are. A password is never an argument, which all users of the machine could read.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

/// Where a name and password, or a token, may be given to a program.
const VARIABLE: &str = "ASHLAR_LOGIN";

/// How one logs in.
#[derive(clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Login")]
pub(super) struct Args {
    /// Name of the user (ashlar user add); the password is asked for. Programs set $ASHLAR_LOGIN to NAME:PASSWORD or to a token
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "login_file")]
    user: Option<String>,
    /// File whose first line is NAME:PASSWORD or a token
    #[arg(long, global = true, value_name = "FILE", env = "ASHLAR_LOGIN_FILE")]
    login_file: Option<PathBuf>,
}

impl Args {
    /// What requests say of it; `None`: nothing.
    pub(super) fn header(&self) -> Result<Option<HeaderValue>> {
        let given = match (&self.user, &self.login_file) {
            (Some(user), _) => {
                let asked = rpassword::prompt_password(format!("password for {user}: "));
                Some(format!("{user}:{}", asked.context("asking for the password")?))
            }
            (None, Some(file)) => {
                let text = fs::read_to_string(file);
                let text = text.with_context(|| format!("reading {}", file.display()))?;
                Some(text.lines().next().unwrap_or_default().to_owned())
            }
            (None, None) => std::env::var(VARIABLE).ok(),
        };
        given.filter(|text| !text.is_empty()).map(|text| header(&text)).transpose()
    }
}

/// NAME:PASSWORD, or a token, which has no colon.
fn header(text: &str) -> Result<HeaderValue> {
    let value = match text.contains(':') {
        true => format!("Basic {}", STANDARD.encode(text)),
        false => format!("Bearer {text}"),
    };
    let value = HeaderValue::from_str(&value);
    let mut value = value.map_err(|_| anyhow!("bad_request: a token is plain text"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_tells_passwords_from_tokens() {
        let text = |text| header(text).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(text("ann:pass:word").unwrap(), "Basic YW5uOnBhc3M6d29yZA==");
        assert_eq!(text("ashlar_1_2").unwrap(), "Bearer ashlar_1_2");
        assert!(text("a\nb").is_err());
    }
}
