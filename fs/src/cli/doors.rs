//! Doors beside the kernel's: where they are wanted, and who opens them.

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Result;
use proto::listen::Listen;

use crate::doors::{DoorPlan, Entry, Opener, Tls, WantedDoors};

/// Who opens doors in this program.
static OPENER: OnceLock<Opener> = OnceLock::new();

/// What a command that serves a volume takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct DoorArgs {
    /// Serve the file page, the API, WebDAV, refs, key-value, metrics and health by HTTP at this address of this machine (127.0.0.1:7480, say)
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) http: Option<Listen>,
    /// Serve key-value as lines of JSON over TCP at this address of this machine
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) kv: Option<Listen>,
    /// Serve S3 at this address of this machine (127.0.0.1:7482, say)
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) s3: Option<Listen>,
    /// TLS with a certificate that is made and kept here, and whose fingerprint is printed
    #[arg(long, conflicts_with_all = ["tls_cert", "insecure_no_tls"])]
    tls: bool,
    /// TLS with this certificate, in PEM; it may be exchanged while it is in use
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// No TLS, though others than this machine come in: passwords and files can be listened to on their way
    #[arg(long, conflicts_with = "tls_cert")]
    insecure_no_tls: bool,
    /// Nobody has to log in at these doors, though the volume has users: whoever comes, from this machine alone, acts as
    /// whoever serves the volume
    #[arg(long)]
    pub(super) no_login: bool,
}

/// What was said of TLS, as it is said again, with a space before each word.
pub(super) struct TlsWords<'a>(pub(super) &'a DoorArgs);

impl DoorArgs {
    /// What is wanted here, or else there.
    pub(super) fn or(self, other: WantedDoors) -> WantedDoors {
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Tls::Files(absolute(cert), absolute(key)),
            _ if self.tls => Tls::Own,
            _ if self.insecure_no_tls => Tls::Insecure,
            _ => other.entry.tls,
        };
        let entry = Entry { no_login: self.no_login || other.entry.no_login, tls };
        let (http, kv, s3) = (self.http.or(other.http), self.kv.or(other.kv), self.s3.or(other.s3));
        WantedDoors { http, kv, s3, entry }
    }
}

impl fmt::Display for TlsWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DoorArgs { tls, tls_cert, tls_key, insecure_no_tls, .. } = self.0;
        for (name, file) in [("cert", tls_cert), ("key", tls_key)] {
            if let Some(file) = file {
                write!(f, " --tls-{name} {}", file.display())?;
            }
        }
        let words = [(*tls, " --tls"), (*insecure_no_tls, " --insecure-no-tls")];
        words.into_iter().filter(|(set, _)| *set).try_for_each(|(_, word)| f.write_str(word))
    }
}

/// Says who opens doors. Once only.
pub(super) fn opened_by(opener: Opener) {
    OPENER.get_or_init(|| opener);
}

/// Takes the addresses of the doors that are wanted, and begins to count what they do. To be called before the volume
/// is opened, and within a tokio runtime.
pub(super) fn take(wanted: &WantedDoors) -> Result<Option<DoorPlan>> {
    if !wanted.any() {
        wanted.check()?;
        return Ok(None);
    }
    let opener = OPENER.get().expect("the program says who opens doors before it runs a command");
    let plan = wanted.take(*opener)?;
    proto::metrics_server::count()?;
    Ok(Some(plan))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_tls_is_said_again() {
        let again = |args: DoorArgs| TlsWords(&args).to_string();
        assert_eq!(again(DoorArgs::default()), "");
        assert_eq!(again(DoorArgs { tls: true, ..DoorArgs::default() }), " --tls");
        let insecure = DoorArgs { insecure_no_tls: true, ..DoorArgs::default() };
        assert_eq!(again(insecure), " --insecure-no-tls");
        let [tls_cert, tls_key] = ["c.pem", "k.pem"].map(|name| Some(name.into()));
        let files = DoorArgs { tls_cert, tls_key, ..DoorArgs::default() };
        assert_eq!(again(files), " --tls-cert c.pem --tls-key k.pem");
    }
}
