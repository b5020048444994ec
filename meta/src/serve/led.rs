//! The volumes that a metad leads: who comes is taken in by the one that it names.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use proto::id::{ClusterId, SessionId};
use proto::rpc::metad as wire;
use proto::rpc::metad::from_metad::Said;

use super::sessions::{Claim, Refused, Sessions, Stay};
use super::work::Keeper;
use crate::volume::opened::Volume;

/// Most characters of a session's name that are kept.
const LONGEST_NAME: usize = 255;

/// Volumes of one cluster, by their names.
pub(super) struct Led {
    cluster: ClusterId,
    volumes: RwLock<HashMap<String, Arc<Sessions>>>,
    /// Of volumes that another leads next. They live on here, so that nobody takes them for dead meanwhile.
    handed_over: Mutex<Vec<Arc<Sessions>>>,
}

impl Led {
    /// None yet.
    pub(super) fn new(cluster: ClusterId) -> Self {
        Self { cluster, volumes: RwLock::default(), handed_over: Mutex::default() }
    }

    /// One more, whose house this one keeps.
    pub(super) fn add(&self, volume: Arc<Volume>, keeper: Arc<dyn Keeper>) {
        let name = volume.info().name;
        self.volumes.write().insert(name, Sessions::new(volume, keeper));
    }

    /// One less: whoever leads it next goes on with its sessions.
    pub(super) fn hand_over(&self, volume: &str) {
        if let Some(sessions) = self.volumes.write().remove(volume) {
            sessions.hand_over();
            self.handed_over.lock().push(sessions);
        }
    }

    /// A volume that another has taken over, and why that is known. Its sessions are sent on.
    pub(super) fn lost(&self) -> Option<String> {
        let all: Vec<_> = self.volumes.read().values().cloned().collect();
        let mut lost = None;
        for sessions in all {
            if let Some(why) = sessions.volume().ended() {
                sessions.note_deposed();
                lost.get_or_insert_with(|| {
                    format!("volume {}: {why}", sessions.volume().info().name)
                });
            }
        }
        lost
    }

    /// Ends the sessions that were silent for too long; none, where this process itself stood still (`stopped`).
    pub(super) fn end_silent(&self, stopped: bool) {
        let all: Vec<_> = self.volumes.read().values().cloned().collect();
        for sessions in all {
            if stopped {
                sessions.forgive();
            }
            sessions.end_silent();
        }
    }

    /// Takes a connection in, or answers what its client is told instead.
    pub(super) async fn enter(&self, hello: wire::Hello) -> Result<Stay, Box<Said>> {
        let fenced = |why| Box::new(Said::Fenced(wire::Fenced { why }));
        if hello.cluster != self.cluster.as_bytes()[..] {
            let own = self.cluster;
            return Err(fenced(format!("this metad serves cluster {own}, which is another one")));
        }
        let sessions = self.volumes.read().get(&hello.volume).cloned();
        // Of others it knows nothing.
        let elsewhere = || Box::new(Said::Elsewhere(wire::Elsewhere { addresses: Vec::new() }));
        let sessions = sessions.filter(|sessions| !sessions.is_deposed()).ok_or_else(elsewhere)?;
        let goes_on = hello.session != 0;
        let session = goes_on.then(|| (SessionId(hello.session), hello.secret.to_vec()));
        let name = hello.name.chars().take(LONGEST_NAME).collect();
        let wire::Hello { connection, take_over, .. } = hello;
        let entered = sessions.enter(Claim { session, connection, name, take_over }).await;
        entered.map_err(|refused| match refused {
            Refused::InUse { by, connected } => {
                Box::new(Said::InUse(wire::InUse { by, connected }))
            }
            Refused::No(why) => fenced(why),
            Refused::Elsewhere => elsewhere(),
        })
    }
}
