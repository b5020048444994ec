//! Whoever has the volume, or takes itself for the one who has: a proxy by its own ways to the slots, and its repair.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use proto::id::{BlobId, DiskId, Epoch, Generation, GroupId, OwnerId, SessionId, VolumeId};
use proxy::repair::{HealSettings, Healer, Ledger, Wanted};
use proxy::{BlobError, BlobStore, LiveProxy, Proxy, ProxySettings, SlotConfig};

use crate::dice::Dice;
use crate::machine::Machine;
use crate::model::{Fate, Model};
use crate::wire::{Weather, Wire};

/// The volume that everybody wants.
pub const VOLUME: VolumeId = VolumeId(1);
/// A disk that is away for longer is done without.
const GRACE: Duration = Duration::from_secs(30);

/// The group as somebody knows it: for each machine the disk that should be there, and the one in whose place it is.
#[derive(Clone)]
pub struct Map {
    /// Its generation.
    pub generation: Generation,
    /// Its disks.
    pub disks: Vec<(DiskId, DiskId)>,
}

/// One that leads, or did.
pub struct Leader {
    /// Its number, and that of its session.
    pub number: u64,
    /// By which it asks.
    pub live: Arc<LiveProxy>,
    /// How its ways are, one for each machine.
    pub weather: Vec<Arc<Mutex<Weather>>>,
    /// What repairs in its name, once it leads.
    pub healer: Mutex<Option<Arc<Healer>>>,
    /// In whose name it leads.
    owner: OwnerId,
    /// Another has taken the volume over.
    deposed: Mutex<bool>,
    dice: Mutex<Dice>,
}

impl Leader {
    /// One that leads nothing yet.
    pub fn new(number: u64, machines: &[Arc<Machine>], map: &Map, mut dice: Dice) -> Arc<Self> {
        let weather: Vec<_> = machines.iter().map(|_| Arc::default()).collect();
        let proxy = proxy(machines, map, &weather, &mut dice);
        Arc::new(Self {
            number,
            live: LiveProxy::new(proxy),
            weather,
            healer: Mutex::default(),
            owner: OwnerId::random(),
            deposed: Mutex::new(false),
            dice: Mutex::new(dice),
        })
    }

    /// The session that its blobs of data are of.
    pub fn session(&self) -> SessionId {
        SessionId(self.number)
    }

    /// The group has changed.
    pub async fn follow(&self, machines: &[Arc<Machine>], map: &Map) {
        let next = proxy(machines, map, &self.weather, &mut self.dice.lock());
        self.live.replace(next).await;
    }

    /// Takes the volume over.
    ///
    /// # Errors
    /// What the proxy says. Some slots may be promised to it.
    pub async fn take_over(&self, m: usize) -> Result<Epoch, BlobError> {
        let last = self.live.promised(VOLUME, m).await?;
        let epoch = Epoch(last.map_or(0, |promise| promise.epoch.0) + 1);
        self.live.fence(VOLUME, epoch, self.owner, m).await?;
        Ok(epoch)
    }

    /// Repairs from now on.
    pub fn heal(&self, model: &Arc<Model>) {
        let settings = HealSettings { grace: GRACE, ..HealSettings::default() };
        let books = Arc::new(Books(model.clone()));
        *self.healer.lock() = Some(Healer::start(self.live.clone(), VOLUME, books, settings));
    }

    /// Another has the volume.
    pub fn depose(&self) {
        *self.deposed.lock() = true;
    }

    /// Has another the volume?
    pub fn is_deposed(&self) -> bool {
        *self.deposed.lock()
    }

    /// The machines that it cannot rely on, because of its ways.
    pub fn cut_off(&self) -> Vec<usize> {
        let fine = |weather: &Arc<Mutex<Weather>>| weather.lock().is_fine();
        let ways = self.weather.iter().enumerate();
        ways.filter(|(_, weather)| !fine(weather)).map(|(machine, _)| machine).collect()
    }
}

fn proxy(
    machines: &[Arc<Machine>],
    map: &Map,
    weather: &[Arc<Mutex<Weather>>],
    dice: &mut Dice,
) -> Arc<Proxy> {
    let slot = |(n, machine): (usize, &Arc<Machine>)| {
        let ((disk, stands_for), weather) = (map.disks[n], weather[n].clone());
        let wire = Wire::new(machine.clone(), disk, map.generation, weather, dice.split());
        let name = format!("machine{n}");
        SlotConfig {
            disk,
            stands_for,
            place: name.clone(),
            domain: name,
            rack: String::new(),
            drains: false,
            store: Arc::new(wire),
        }
    };
    let slots = machines.iter().enumerate().map(slot).collect();
    Proxy::new(GroupId(0), slots, ProxySettings::default())
}

/// Which blobs are wanted: those that the model does not know to be deleted, or to go.
struct Books(Arc<Model>);

fn wanted(fate: Fate) -> bool {
    matches!(fate, Fate::Stored { .. })
}

#[async_trait]
impl Ledger for Books {
    async fn wanted(&self, after: Option<BlobId>, limit: usize) -> Option<Wanted> {
        let rest = self.0.those(wanted).into_iter();
        let rest = rest.filter(|blob| after.is_none_or(|after| *blob > after));
        let blobs: Vec<BlobId> = rest.take(limit).collect();
        let complete = blobs.len() < limit;
        Some(Wanted { blobs, complete })
    }

    async fn wants(&self, blob: BlobId) -> Option<bool> {
        Some(self.0.fate(blob).is_some_and(wanted))
    }
}
