//! Whoever has the volume, or takes itself for the one who has: a proxy by its own ways to the slots, and its repair.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use proto::id::{BlobId, Epoch, GroupId, OwnerId, SessionId, VolumeId};
use proxy::repair::{HealSettings, Healer, Health, Ledger, Wanted};
use proxy::{BlobError, BlobStore, LiveProxy, Proxy, ProxySettings, SlotConfig, VolumeRules};

use crate::dice::Dice;
use crate::ground::{Ground, Place};
use crate::model::{Fate, Model};
use crate::wire::{Client, Weather, Weathers, Wire};

/// The volume that everybody wants.
pub const VOLUME: VolumeId = VolumeId(1);
/// A disk that is away for longer is done without.
const GRACE: Duration = Duration::from_secs(30);

/// One that leads, or did.
pub struct Leader {
    /// Its number, and that of its session.
    pub number: u64,
    /// By which it asks.
    pub live: Arc<LiveProxy>,
    /// How its ways are, one for each machine.
    pub weather: Weathers,
    /// What repairs in its name, once it leads.
    pub healer: Mutex<Option<Arc<Healer>>>,
    /// In whose name it leads.
    owner: OwnerId,
    /// Another has taken the volume over.
    deposed: Mutex<bool>,
    dice: Mutex<Dice>,
}

impl Leader {
    /// One that leads nothing yet, and will abide by these rules.
    pub fn new(number: u64, ground: &Ground, rules: VolumeRules, mut dice: Dice) -> Arc<Self> {
        let weather: Weathers = ground.machines.iter().map(|_| Arc::default()).collect();
        let live = LiveProxy::new(proxy(number, ground, &weather, &mut dice));
        live.abide_by(VOLUME, rules);
        Arc::new(Self {
            number,
            live,
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
    pub async fn follow(&self, ground: &Ground) {
        let next = proxy(self.number, ground, &self.weather, &mut self.dice.lock());
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

    /// Repairs from now on, at so many bytes per second at most.
    pub fn heal(&self, books: Arc<dyn Ledger>, rate: u64) {
        let settings = HealSettings { grace: GRACE, rate, ..HealSettings::default() };
        *self.healer.lock() = Some(Healer::start(self.live.clone(), VOLUME, books, settings));
    }

    /// Has repair nothing to do, of what has happened since it was begun or told of another map?
    ///
    /// # Errors
    /// What there is to do.
    pub fn rests(&self) -> Result<(), String> {
        let Some(report) = self.healer.lock().as_ref().map(|healer| healer.glance()) else {
            return Ok(());
        };
        let done = report.health == Health::Healthy && report.disks_rebuilding == 0;
        let idle = report.queue == 0 && !report.counting && report.stuck.is_empty();
        if done && idle && report.censuses > 0 { Ok(()) } else { Err(format!("{report:?}")) }
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

fn proxy(number: u64, ground: &Ground, weathers: &Weathers, dice: &mut Dice) -> Arc<Proxy> {
    let slot = |place: &Place| {
        let machine = ground.machines[place.machine].clone();
        let (domain, rack) = machine.home.clone();
        let witness = ground.witness.clone();
        let client = Client { number, weathers: weathers.clone(), witness };
        let wire = Wire::new(machine, *place, ground.map.generation, client, dice.split());
        SlotConfig {
            disk: place.disk,
            stands_for: place.stands_for,
            place: format!("machine{}", place.machine),
            domain,
            rack,
            drains: place.drains,
            store: Arc::new(wire),
        }
    };
    let slots = ground.map.places.iter().map(slot).collect();
    Proxy::new(GroupId(0), slots, ProxySettings::default())
}

/// Which blobs are wanted: those that the model does not know to be deleted, or to go.
pub struct Books(pub Arc<Model>);

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
