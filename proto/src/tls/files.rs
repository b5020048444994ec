//! Certificates and keys in files: read, written, and looked at again, for doors and for connections between machines.
//!
//! A file is written whole or not at all. One that is exchanged while it is in use is seen within [`LOOK`].

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::crypto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

/// How often files are looked at.
pub const LOOK: Duration = Duration::from_secs(10);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The two are no certificate with its key.
    #[error("certificate {} with key {}: {why}", cert.display(), key.display())]
    Pair {
        /// One.
        cert: PathBuf,
        /// The other.
        key: PathBuf,
        /// Why not.
        why: String,
    },
    /// None could be made.
    #[error("making a certificate: {0}")]
    Making(String),
    /// It is of another cluster.
    #[error("{} is of a machine of cluster {found}, not of {expected}", path.display())]
    Foreign {
        /// The directory of the machine's certificate.
        path: PathBuf,
        /// Its cluster.
        found: crate::id::ClusterId,
        /// The one that is meant.
        expected: crate::id::ClusterId,
    },
}

/// Names the file that something is wrong with.
pub fn at(path: &Path) -> impl Fn(String) -> TlsError {
    move |why| TlsError::File { path: path.to_owned(), why }
}

/// By what a file is known to be another, or to have changed: also one that is older than what it replaces.
type Seen = (SystemTime, u64, u64);

fn look(file: &Path) -> Option<Seen> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// Files, and how they were when they were looked at last.
#[derive(Clone, Debug)]
pub struct Watched {
    files: Vec<PathBuf>,
    seen: Vec<Option<Seen>>,
}

impl Watched {
    /// Looks at them. To be done before they are read: what is exchanged meanwhile is seen then.
    pub fn new(files: Vec<PathBuf>) -> Self {
        let seen = files.iter().map(|file| look(file)).collect();
        Self { files, seen }
    }

    /// Lasts until one of them has changed. May be dropped and called again. Must be called within a tokio runtime.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let files = self.files.clone();
            let looked = move || files.iter().map(|file| look(file)).collect::<Vec<_>>();
            // A look that panics has logged why.
            let Ok(now) = tokio::task::spawn_blocking(looked).await else { continue };
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

/// The certificates in a file, the first of which may be somebody's, and others those that vouch for it.
///
/// # Errors
/// [`TlsError::File`], also when there is none.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|why| at(file)(why.to_string()))?;
    match all.is_empty() {
        true => Err(at(file)("there is no certificate in it".to_owned())),
        false => Ok(all),
    }
}

/// A certificate with its key.
///
/// # Errors
/// When they make no sense.
pub fn load(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(cert)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|why| at(key)(why.to_string()))?;
    if fs::metadata(key).is_ok_and(|metadata| metadata.mode() & 0o004 != 0) {
        tracing::warn!("everybody on this machine can read {}, a private key", key.display());
    }
    let pair = CertifiedKey::from_der(chain, private, &crypto::ring::default_provider());
    let (cert, key) = (cert.to_owned(), key.to_owned());
    pair.map_err(|why| TlsError::Pair { cert, key, why: why.to_string() })
}

/// SHA-256 of a certificate.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// A fingerprint, as browsers show it.
pub fn shown(fingerprint: &[u8]) -> String {
    let bytes: Vec<String> = fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

/// Writes a file that is not there yet: not where somebody else has been first.
///
/// # Errors
/// [`TlsError::File`]: then nothing is there.
pub fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let put = |new: &Path| {
        let linked = fs::hard_link(new, path);
        fs::remove_file(new)?;
        match linked {
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    };
    write(path, text, mode, put).map_err(|why| at(path)(why.to_string()))
}

/// Writes a file in the place of the one that may be there.
///
/// # Errors
/// [`TlsError::File`]: then the one of before is there.
pub fn replace(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    write(path, text, mode, |new| fs::rename(new, path)).map_err(|why| at(path)(why.to_string()))
}

fn write(
    path: &Path,
    text: &str,
    mode: u32,
    put: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let new = path.with_added_extension(format!("{}.new", std::process::id()));
    // One that was left half-written may have another mode.
    let _ = fs::remove_file(&new);
    let mut file = File::options().write(true).create_new(true).mode(mode).open(&new)?;
    // Whatever the process leaves out of what it makes.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    put(&new)?;
    // Else another is made after a power cut.
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
