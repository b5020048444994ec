//! How the tree is served beside the kernel: by doors that this crate does not know. Whoever links the program hands it
//! one function that opens them ([`Opener`]); who mounts or serves a volume says where ([`DoorPlan`]), and closes them
//! again before the volume ends.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use meta::{Directories, Ino};
use proto::listen::Listen;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::filesystem::Filesystem;

/// How long requests that are under way get to end, once doors are closed. What was begun is carried through all the
/// same, and answered to nobody.
const GRACE: Duration = Duration::from_secs(5);

/// Opens the doors of a volume: takes connections from now on. To be called within a tokio runtime.
pub type Opener = fn(Opening) -> Pin<Box<dyn Future<Output = Result<OpenDoors, DoorError>> + Send>>;

/// What doors are opened with.
pub struct Opening {
    /// What they lead to.
    pub filesystem: Arc<Filesystem>,
    /// What of it is shown.
    pub root: Ino,
    /// For HTTP.
    pub http: Option<TcpListener>,
    /// For key-value, as lines of JSON.
    pub kv: Option<TcpListener>,
    /// For S3.
    pub s3: Option<TcpListener>,
    /// How they are entered.
    pub entry: Entry,
    /// Names and addresses by which clients know this machine.
    pub names: Vec<String>,
    /// Where a certificate that is made here is kept.
    pub keep: PathBuf,
    /// Where this machine keeps what is its own of the volume's cluster.
    pub own: Directories,
}

/// How doors are entered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Nobody has to log in, though there are users: whoever comes acts as whoever serves the volume. For this machine
    /// alone.
    pub no_login: bool,
    /// Whether others can listen.
    pub tls: Tls,
}

/// Whether what goes through a door can be listened to on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// It can, on this machine alone.
    #[default]
    Within,
    /// It can: somebody has said that this is fine.
    Insecure,
    /// It cannot: a certificate of this file, with its key in that one.
    Files(PathBuf, PathBuf),
    /// It cannot: a certificate that is made here.
    Own,
}

impl Entry {
    /// As words behind `-o`, each with a comma before it.
    pub(crate) fn words(&self) -> String {
        let no_login = if self.no_login { ",no-login" } else { "" };
        let tls = match &self.tls {
            Tls::Within => String::new(),
            Tls::Insecure => ",insecure-no-tls".to_owned(),
            Tls::Own => ",tls".to_owned(),
            Tls::Files(cert, key) => {
                format!(",tls-cert=\"{}\",tls-key=\"{}\"", cert.display(), key.display())
            }
        };
        format!("{no_login}{tls}")
    }
}

/// Why a door is not open.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// It cannot be listened there.
    #[error("{what} on {address}: {why}")]
    Listen {
        /// Which door.
        what: &'static str,
        /// Where.
        address: Listen,
        /// Why not.
        why: std::io::Error,
    },
    /// Everybody who reaches this machine could come in.
    #[error(
        "{what} on {address}: all who reach this machine could come in, where nobody logs in: leave out --no-login, or listen on 127.0.0.1 or [::1]"
    )]
    Public {
        /// Which door.
        what: &'static str,
        /// Where.
        address: Listen,
    },
    /// Passwords could be listened to.
    #[error(
        "{what} on {address}: passwords and files could be listened to on their way: give --tls for a certificate that is made here, or --tls-cert and --tls-key, or --insecure-no-tls if that is fine"
    )]
    Clear {
        /// Which door.
        what: &'static str,
        /// Where.
        address: Listen,
    },
    /// Something else.
    #[error("opening doors: {0}")]
    Open(String),
}

/// The doors that are to be opened, whose addresses are taken already.
#[derive(Clone)]
pub struct DoorPlan {
    opener: Opener,
    wanted: WantedDoors,
    http: Option<Arc<TcpListener>>,
    kv: Option<Arc<TcpListener>>,
    s3: Option<Arc<TcpListener>>,
}

impl fmt::Debug for DoorPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorPlan").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

/// Where doors are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedDoors {
    /// HTTP.
    pub http: Option<Listen>,
    /// Key-value, as lines of JSON over TCP.
    pub kv: Option<Listen>,
    /// S3.
    pub s3: Option<Listen>,
    /// How they are entered.
    pub entry: Entry,
}

impl WantedDoors {
    /// Is any?
    pub fn any(&self) -> bool {
        self.http.is_some() || self.kv.is_some() || self.s3.is_some()
    }

    /// Are those that are for others than this machine entered as they have to be?
    ///
    /// # Errors
    /// Which one is not.
    pub fn check(&self) -> Result<(), DoorError> {
        if !self.any() && self.entry != Entry::default() {
            let why = "there is none that this is for: give http, kv or s3, too";
            return Err(DoorError::Open(why.to_owned()));
        }
        if let Tls::Files(cert, key) = &self.entry.tls
            && (cert.as_os_str().is_empty() || key.as_os_str().is_empty())
        {
            let why = "a certificate goes with its key: give both tls-cert and tls-key";
            return Err(DoorError::Open(why.to_owned()));
        }
        let all = [("http", &self.http), ("kv", &self.kv), ("s3", &self.s3)];
        for (what, address) in all.into_iter().filter_map(|(what, at)| Some((what, at.as_ref()?))) {
            if address.addresses().iter().all(|address| address.ip().is_loopback()) {
                continue;
            }
            if self.entry.no_login {
                return Err(DoorError::Public { what, address: address.clone() });
            }
            if self.entry.tls == Tls::Within {
                return Err(DoorError::Clear { what, address: address.clone() });
            }
        }
        Ok(())
    }

    /// Takes their addresses.
    ///
    /// # Errors
    /// When one cannot be had, or must not be entered so.
    pub fn take(&self, opener: Opener) -> Result<DoorPlan, DoorError> {
        self.check()?;
        let take = |what, address: &Option<Listen>| {
            let taken = address.as_ref().map(|address| take(what, address)).transpose()?;
            Ok::<_, DoorError>(taken.map(Arc::new))
        };
        let (http, kv, s3) =
            (take("http", &self.http)?, take("kv", &self.kv)?, take("s3", &self.s3)?);
        Ok(DoorPlan { opener, wanted: self.clone(), http, kv, s3 })
    }
}

fn take(what: &'static str, address: &Listen) -> Result<TcpListener, DoorError> {
    let failed = |why| DoorError::Listen { what, address: address.clone(), why };
    let listener = TcpListener::bind(address.addresses()).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Addresses by which others reach this machine: those of links are none without the name of the link.
fn addresses() -> Vec<IpAddr> {
    let all = if_addrs::get_if_addrs().unwrap_or_else(|why| {
        tracing::warn!("what addresses this machine has is not known: {why}");
        Vec::new()
    });
    all.iter().filter(|one| !one.is_link_local()).map(if_addrs::Interface::ip).collect()
}

impl DoorPlan {
    /// Where they are wanted, as words behind `-o`, each with a comma before it.
    pub(crate) fn words(&self) -> String {
        let WantedDoors { http, kv, s3, entry } = &self.wanted;
        let word = |name, address: &Option<Listen>| {
            address.as_ref().map(|address| format!(",{name}={address}")).unwrap_or_default()
        };
        word("http", http) + &word("kv", kv) + &word("s3", s3) + &entry.words()
    }

    /// Names and addresses by which clients may know this machine.
    fn names(&self) -> Vec<String> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = Some(host.trim().to_owned()).filter(|name| !name.is_empty() && name.is_ascii());
        let WantedDoors { http, kv, s3, .. } = &self.wanted;
        let wanted = [http, kv, s3].into_iter().flatten();
        let listens = wanted.flat_map(|listen| listen.addresses().iter().map(|at| at.ip()));
        let listens: Vec<IpAddr> = listens.collect();
        // Who listens at all of this machine's addresses is known by any of them.
        let anywhere = listens.iter().any(IpAddr::is_unspecified).then(addresses);
        let listens = listens.into_iter().filter(|ip| !ip.is_unspecified());
        let listens = listens.chain(anywhere.into_iter().flatten()).map(|ip| ip.to_string());
        let always = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let names: BTreeSet<String> = always.into_iter().chain(host).chain(listens).collect();
        names.into_iter().collect()
    }

    /// Opens them. `own`: where this machine keeps what is its own of the cluster; a certificate that is made for them, too.
    ///
    /// # Errors
    /// When the system has no descriptor for one, or a certificate makes no sense.
    pub async fn open(
        &self,
        filesystem: Arc<Filesystem>,
        (root, read_only): (Ino, bool),
        own: &Directories,
    ) -> Result<OpenDoors, DoorError> {
        let another = |listener: &Option<Arc<TcpListener>>| {
            listener.as_ref().map(|listener| listener.try_clone()).transpose()
        };
        let failed = |e: std::io::Error| DoorError::Open(e.to_string());
        let http = another(&self.http).map_err(failed)?;
        let kv = another(&self.kv).map_err(failed)?;
        let s3 = another(&self.s3).map_err(failed)?;
        filesystem.reads_only(read_only);
        let (entry, names, own) = (self.wanted.entry.clone(), self.names(), own.clone());
        let keep = own.all().find(|dir| meta::make_directory(dir).is_ok());
        let keep = keep.unwrap_or(&own.cache).to_owned();
        (self.opener)(Opening { filesystem, root, http, kv, s3, entry, names, keep, own }).await
    }
}

/// Doors that are open.
pub struct OpenDoors {
    /// Where HTTP is heard.
    pub http: Option<SocketAddr>,
    /// Where key-value is.
    pub kv: Option<SocketAddr>,
    /// Where S3 is.
    pub s3: Option<SocketAddr>,
    /// SHA-256 of the certificate, where there is one.
    pub fingerprint: Option<String>,
    /// Told when they have to close: no further requests.
    pub stop: CancellationToken,
    /// Told when those have to end that are under way.
    pub cut: CancellationToken,
    /// All who serve them.
    pub tasks: TaskTracker,
}

impl OpenDoors {
    /// Where they are, a line for each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let http = self.http_address().map(|address| format!("  http      {address}"));
        let kv = self.kv.map(|address| format!("  kv        {address}, lines of JSON"));
        let known = self.fingerprint.iter().map(|print| format!("  tls       SHA-256 {print}"));
        let s3 = self.s3_address().map(|address| format!("  s3        {address}"));
        http.into_iter().chain(kv).chain(s3).chain(known).collect()
    }

    /// Where HTTP is, as browsers want it.
    pub(crate) fn http_address(&self) -> Option<String> {
        self.http.map(|address| format!("{}://{address}/", self.scheme()))
    }

    /// Where S3 is, as its clients want it (`--endpoint-url`).
    pub(crate) fn s3_address(&self) -> Option<String> {
        self.s3.map(|address| format!("{}://{address}", self.scheme()))
    }

    fn scheme(&self) -> &'static str {
        if self.fingerprint.is_some() { "https" } else { "http" }
    }

    /// Closes them: nobody comes in any more, and who is in leaves.
    pub async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!("requests that are under way at a door are cut off");
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never(_: Opening) -> Pin<Box<dyn Future<Output = Result<OpenDoors, DoorError>> + Send>> {
        unreachable!("nothing is opened")
    }

    #[test]
    fn doors_for_others_than_this_machine_are_not_open_to_all_nor_to_be_listened_to() {
        let check = |address: &str, kv: bool, no_login: bool, tls: &Tls| {
            let address: Option<Listen> = Some(address.parse().unwrap());
            let (http, kv) = if kv { (None, address) } else { (address, None) };
            let entry = Entry { no_login, tls: tls.clone() };
            WantedDoors { http, kv, entry, ..WantedDoors::default() }.check()
        };
        let nowhere = Entry { no_login: false, tls: Tls::Own };
        assert!(WantedDoors { entry: nowhere, ..WantedDoors::default() }.check().is_err());
        for kv in [false, true] {
            for within in ["127.0.0.1:0", "localhost:0", "[::1]:0"] {
                assert!(check(within, kv, true, &Tls::Within).is_ok(), "{within}");
                assert!(check(within, kv, false, &Tls::Own).is_ok(), "{within}");
            }
            for beyond in ["0.0.0.0:0", ":0", "192.0.2.1:0"] {
                let open = check(beyond, kv, true, &Tls::Own);
                assert!(matches!(open, Err(DoorError::Public { .. })), "{open:?}");
                let clear = check(beyond, kv, false, &Tls::Within);
                assert!(matches!(clear, Err(DoorError::Clear { .. })), "{clear:?}");
                for tls in [Tls::Insecure, Tls::Own, Tls::Files("c".into(), "k".into())] {
                    assert!(check(beyond, kv, false, &tls).is_ok(), "{beyond}");
                }
            }
        }
    }

    #[test]
    fn an_address_that_is_taken_is_named() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap().to_string();
        let http = Some(address.parse().unwrap());
        let wanted = WantedDoors { http, ..WantedDoors::default() };
        let error = wanted.take(never).unwrap_err().to_string();
        assert!(error.starts_with(&format!("http on {address}: ")), "{error}");
    }
}
