//! [`Metad`]: the one address where sessions elsewhere reach the volumes that this process leads.

use std::sync::Arc;
use std::time::Duration;

use proto::guests::{Guest, Guests, room_for};
use proto::id::ClusterId;
use proto::limits::MAX_SESSIONS;
use proto::tls::Acceptor;
use proto::tls::wire::Protocol;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::door;
use super::led::Led;
use super::work::Keeper;
use crate::volume::opened::Volume;

/// How often it is looked who was silent for too long.
const LOOK: Duration = Duration::from_secs(1);
/// When that was not done for so long, this process was stopped, or had no time: what was said meanwhile is still to be heard.
const STOPPED: Duration = Duration::from_secs(5);
/// How long what is under way may take once it is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Serves the volumes that one process leads.
pub struct Metad {
    led: Led,
    acceptor: Acceptor,
    /// A volume that another has taken over, and why that is known.
    lost: watch::Sender<Option<String>>,
}

impl Metad {
    /// Of this cluster, for those who may come in by this; it leads nothing yet.
    pub fn new(cluster: ClusterId, acceptor: Acceptor) -> Arc<Self> {
        Arc::new(Self { led: Led::new(cluster), acceptor, lost: watch::Sender::new(None) })
    }

    /// Takes sessions of the volume from now on. Its house is kept by this one.
    pub fn lead(&self, volume: Arc<Volume>, keeper: Arc<dyn Keeper>) {
        self.led.add(volume, keeper);
    }

    /// Leads it no more, and whoever leads it next goes on with its sessions. Connections have ended before.
    pub fn hand_over(&self, volume: &str) {
        self.led.hand_over(volume);
    }

    /// Lasts until another has taken over a volume that is led here: which, and why that is known. Somebody has to
    /// [serve](Self::serve) meanwhile.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.subscribe();
        let said = lost.wait_for(Option::is_some).await.map(|lost| lost.clone());
        match said {
            Ok(Some(lost)) => lost,
            _ => std::future::pending().await,
        }
    }

    /// Takes connections until told to stop, and then waits until what is under way has ended.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let guests = Guests::new(room_for(MAX_SESSIONS));
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                (stream, guest) = guests.accept(&listener) => {
                    let (metad, stop) = (self.clone(), stop.clone());
                    connections.spawn(metad.one(stream, Arc::new(guest), stop));
                }
                _ = look.tick() => {
                    self.led.end_silent(looked.elapsed() >= STOPPED);
                    if let Some(lost) = self.led.lost() {
                        self.lost.send_replace(Some(lost));
                    }
                    looked = Instant::now();
                }
                () = stop.cancelled() => break,
            }
        }
        drop(listener);
        connections.close();
        if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
            tracing::warn!("some of what sessions asked for is not done after {GRACE:?}");
        }
    }

    async fn one(self: Arc<Self>, stream: TcpStream, guest: Arc<Guest>, stop: CancellationToken) {
        let wire = tokio::select! {
            wire = self.acceptor.accept(stream, &[Protocol::Session]) => wire,
            () = guest.leave() => return,
            () = stop.cancelled() => return,
        };
        let served = match wire {
            Ok(wire) => {
                guest.know(wire.peer());
                door::serve(wire, &guest, &self.led, stop).await
            }
            Err(e) => Err(e),
        };
        if let Err(e) = served {
            tracing::debug!("a session's connection ended: {e}");
        }
    }
}
