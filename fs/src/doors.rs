//! How the tree is served beside the kernel: by doors that this crate does not know. Whoever links the program hands it
//! one function that opens them ([`Opener`]); who mounts or serves a volume says where ([`DoorPlan`]), and closes them
//! again before the volume ends.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use meta::Ino;
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
        "{what} on {address}: this is open to all who reach this machine, and there are no users yet who could be told apart: listen on 127.0.0.1 or [::1]"
    )]
    Public {
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
}

impl WantedDoors {
    /// Is any?
    pub fn any(&self) -> bool {
        self.http.is_some() || self.kv.is_some()
    }

    /// Are they for this machine alone?
    ///
    /// # Errors
    /// Which one is not.
    pub fn check(&self) -> Result<(), DoorError> {
        let both = [("http", &self.http), ("kv", &self.kv)];
        for (what, address) in both.into_iter().filter_map(|(what, at)| Some((what, at.as_ref()?)))
        {
            if !address.addresses().iter().all(|address| address.ip().is_loopback()) {
                return Err(DoorError::Public { what, address: address.clone() });
            }
        }
        Ok(())
    }

    /// Takes their addresses.
    ///
    /// # Errors
    /// When one cannot be had, or is not for this machine alone.
    pub fn take(&self, opener: Opener) -> Result<DoorPlan, DoorError> {
        self.check()?;
        let take = |what, address: &Option<Listen>| {
            address.as_ref().map(|address| take(what, address)).transpose()
        };
        let (http, kv) = (take("http", &self.http)?, take("kv", &self.kv)?);
        let wanted = self.clone();
        Ok(DoorPlan { opener, wanted, http: http.map(Arc::new), kv: kv.map(Arc::new) })
    }
}

fn take(what: &'static str, address: &Listen) -> Result<TcpListener, DoorError> {
    let failed = |why| DoorError::Listen { what, address: address.clone(), why };
    let listener = TcpListener::bind(address.addresses()).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

impl DoorPlan {
    /// Where they are wanted, as words behind `-o`, each with a comma before it.
    pub(crate) fn words(&self) -> String {
        let WantedDoors { http, kv } = &self.wanted;
        let word = |name, address: &Option<Listen>| {
            address.as_ref().map(|address| format!(",{name}={address}")).unwrap_or_default()
        };
        word("http", http) + &word("kv", kv)
    }

    /// Opens them.
    ///
    /// # Errors
    /// When the system has no descriptor for one.
    pub async fn open(
        &self,
        filesystem: Arc<Filesystem>,
        (root, read_only): (Ino, bool),
    ) -> Result<OpenDoors, DoorError> {
        let another = |listener: &Option<Arc<TcpListener>>| {
            listener.as_ref().map(|listener| listener.try_clone()).transpose()
        };
        let failed = |e: std::io::Error| DoorError::Open(e.to_string());
        let http = another(&self.http).map_err(failed)?;
        let kv = another(&self.kv).map_err(failed)?;
        filesystem.reads_only(read_only);
        (self.opener)(Opening { filesystem, root, http, kv }).await
    }
}

/// Doors that are open.
pub struct OpenDoors {
    /// Where HTTP is heard.
    pub http: Option<SocketAddr>,
    /// Where key-value is.
    pub kv: Option<SocketAddr>,
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
        let http = self.http.map(|address| format!("  http      http://{address}/"));
        let kv = self.kv.map(|address| format!("  kv        {address}, lines of JSON"));
        http.into_iter().chain(kv).collect()
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
    fn doors_are_for_this_machine_alone() {
        for (address, public) in [
            ("127.0.0.1:0", false),
            ("localhost:0", false),
            ("0.0.0.0:0", true),
            (":0", true),
            ("192.0.2.1:0", true),
        ] {
            for kv in [false, true] {
                let address: Listen = address.parse().unwrap();
                let wanted = match kv {
                    true => WantedDoors { http: None, kv: Some(address) },
                    false => WantedDoors { http: Some(address), kv: None },
                };
                let taken = wanted.take(never);
                match taken {
                    Ok(_) => assert!(!public, "{wanted:?}"),
                    Err(DoorError::Public { .. }) => assert!(public, "{wanted:?}"),
                    Err(e) => panic!("{wanted:?}: {e}"),
                }
            }
        }
    }

    #[test]
    fn an_address_that_is_taken_is_named() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap().to_string();
        let wanted = WantedDoors { http: Some(address.parse().unwrap()), kv: None };
        let error = wanted.take(never).unwrap_err().to_string();
        assert!(error.starts_with(&format!("http on {address}: ")), "{error}");
    }
}
