//! Proxies of one group, one generation after the other.
//!
//! A [`Proxy`] has its slots for good. When the group changes, another one takes its place: what is asked from then
//! on is asked of that, and what is under way ends with the slots that it began with. Those may have learnt of the
//! newer generation meanwhile, and refuse it; then it is asked once more, of the new ones. So it is where slots know
//! of a generation before whoever feeds this does: that one is told ([`LiveProxy::outdated`]), and waited for. Nothing
//! is called absent by one that others know to be outdated, nor is anything stored by it that is degraded: what doubles
//! up then does so on slots that may not be in the newer one.
//!
//! Every wait is bounded by [`PATIENCE`], and there is none while it is known that no newer map is to be had.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use proto::id::{BlobId, Epoch, Generation, GroupId, OwnerId, SessionId, VolumeId};
use proto::part_store::{Beat, Issuer, LastBeat};
use proto::scheme::Scheme;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::blob_store::{BlobError, BlobStore, Listing, SlotStatus, Space, Stored, Volumes};
use crate::proxy::Proxy;
use crate::rules::VolumeRules;

/// How long a request waits for a newer map, once slots have said that there is one.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether slots know a newer generation, when nobody asks.
const LOOK: Duration = Duration::from_secs(1);

/// A group that may change while it is used.
pub struct LiveProxy {
    current: watch::Sender<Arc<Proxy>>,
    /// The newest generation of which no map is to be had.
    given_up: watch::Sender<Option<Generation>>,
    /// Somebody waits for a newer one.
    wanted: Notify,
    /// How blobs lie, told to each proxy before it is asked for any.
    rules: Mutex<HashMap<VolumeId, VolumeRules>>,
}

impl LiveProxy {
    /// Begins with this one.
    pub fn new(first: Arc<Proxy>) -> Arc<Self> {
        let (current, given_up) = (watch::Sender::new(first), watch::Sender::new(None));
        Arc::new(Self { current, given_up, wanted: Notify::new(), rules: Mutex::default() })
    }

    /// The newest one.
    pub fn current(&self) -> Arc<Proxy> {
        self.current.borrow().clone()
    }

    /// Sees each that takes the place of another.
    pub fn changes(&self) -> watch::Receiver<Arc<Proxy>> {
        self.current.subscribe()
    }

    /// From now on it is this one. Slots that are new to the group are told who has the volumes that are led by
    /// this.
    pub async fn replace(&self, next: Arc<Proxy>) {
        next.inherit(&self.current()).await;
        {
            let rules = self.rules.lock();
            rules.iter().for_each(|(volume, rules)| next.abide_by(*volume, *rules));
            next.adopt_from(&self.current());
            self.current.send_replace(next);
        }
        self.give_up(None);
    }

    /// Returns when slots know a newer generation than the current proxy, and it was not given up: which.
    pub async fn outdated(&self) -> Generation {
        loop {
            let known = self.current().newer_generation();
            let given_up = *self.given_up.borrow();
            match known {
                Some(known) if given_up.is_none_or(|given_up| known > given_up) => return known,
                _ => drop(timeout(LOOK, self.wanted.notified()).await),
            }
        }
    }

    /// No map of this generation is to be had: nobody waits for it any more. `None`: it is looked for again.
    pub fn give_up(&self, generation: Option<Generation>) {
        self.given_up.send_replace(generation);
    }

    /// Is there another proxy by now than the one that was asked, or will there be one in a moment?
    async fn superseded(&self, asked: &Arc<Proxy>) -> bool {
        let mut changes = self.current.subscribe();
        let is_other = |now: &Arc<Proxy>| !Arc::ptr_eq(now, asked);
        if is_other(&changes.borrow()) {
            return true;
        }
        let Some(known) = asked.newer_generation() else { return false };
        let mut given_up = self.given_up.subscribe();
        self.wanted.notify_one();
        let changed = async {
            tokio::select! {
                biased;
                other = changes.wait_for(is_other) => other.is_ok(),
                _ = given_up.wait_for(|newest| newest.is_some_and(|newest| newest >= known)) => false,
            }
        };
        timeout(PATIENCE, changed).await.unwrap_or(false)
    }

    /// Asks the current proxy, and once more the one that has taken its place, when that may be why it failed.
    async fn ask<T, F>(&self, ask: impl Fn(Arc<Proxy>) -> F) -> Result<T, BlobError>
    where
        F: Future<Output = Result<T, BlobError>>,
    {
        let proxy = self.current();
        let result = ask(proxy.clone()).await;
        // What one generation's slots do not have, nor have room for, another's may.
        let failed = |e: &BlobError| {
            matches!(
                e,
                BlobError::Unavailable { .. }
                    | BlobError::TooFewSlots { .. }
                    | BlobError::NotFound(_)
                    | BlobError::Full
            )
        };
        match result.as_ref().is_err_and(failed) && self.superseded(&proxy).await {
            true => ask(self.current()).await,
            false => result,
        }
    }
}

#[async_trait]
impl BlobStore for LiveProxy {
    fn group(&self) -> GroupId {
        self.current().group()
    }

    fn abide_by(&self, volume: VolumeId, rules: VolumeRules) {
        let mut all = self.rules.lock();
        all.insert(volume, rules);
        self.current().abide_by(volume, rules);
    }

    fn act_for(&self, volume: VolumeId, issuer: Issuer) {
        // No other proxy takes its place meanwhile.
        let _rules = self.rules.lock();
        self.current().act_for(volume, issuer);
    }

    async fn put(&self, id: BlobId, data: Bytes) -> Result<Stored, BlobError> {
        let data = &data;
        self.ask(|proxy| async move { proxy.put(id, data.clone()).await }).await
    }

    async fn put_apart(&self, id: BlobId, data: Bytes) -> Result<Stored, BlobError> {
        let data = &data;
        self.ask(|proxy| async move { proxy.put_apart(id, data.clone()).await }).await
    }

    async fn get(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, BlobError> {
        let range = &range;
        self.ask(|proxy| async move { proxy.get(id, range.clone()).await }).await
    }

    async fn restore_read(&self, id: BlobId) -> Result<Bytes, BlobError> {
        self.ask(|proxy| async move { proxy.restore_read(id).await }).await
    }

    async fn fence(
        &self,
        volume: VolumeId,
        epoch: Epoch,
        owner: OwnerId,
        m: usize,
    ) -> Result<(), BlobError> {
        self.ask(|proxy| async move { proxy.fence(volume, epoch, owner, m).await }).await
    }

    async fn promised(&self, volume: VolumeId, m: usize) -> Result<Option<Issuer>, BlobError> {
        self.ask(|proxy| async move { proxy.promised(volume, m).await }).await
    }

    async fn beat(&self, volume: VolumeId, beat: Beat) -> Result<(), BlobError> {
        self.current().beat(volume, beat).await
    }

    async fn last_beats(&self, volume: VolumeId, m: usize) -> Result<Vec<LastBeat>, BlobError> {
        self.ask(|proxy| async move { proxy.last_beats(volume, m).await }).await
    }

    async fn delete(&self, ids: &[BlobId]) -> Vec<BlobId> {
        self.current().delete(ids).await
    }

    async fn list(
        &self,
        volume: VolumeId,
        session: SessionId,
        after: Option<BlobId>,
    ) -> Result<Listing, BlobError> {
        self.ask(|proxy| async move { proxy.list(volume, session, after).await }).await
    }

    async fn list_volume(
        &self,
        volume: VolumeId,
        after: Option<BlobId>,
        m: Option<usize>,
    ) -> Result<Listing, BlobError> {
        self.ask(|proxy| async move { proxy.list_volume(volume, after, m).await }).await
    }

    async fn volumes(&self) -> Volumes {
        self.current().volumes().await
    }

    async fn space(&self, volume: VolumeId, scheme: Scheme) -> Space {
        let proxy = self.current();
        let space = proxy.space(volume, scheme).await;
        // Slots that have learnt of a newer generation are not away: they are waited for, as by a put.
        match space.is_cut_off() && self.superseded(&proxy).await {
            true => self.current().space(volume, scheme).await,
            false => space,
        }
    }

    async fn in_reach(&self, id: BlobId) -> usize {
        self.current().in_reach(id).await
    }

    async fn slots(&self) -> Vec<SlotStatus> {
        self.current().slots().await
    }
}
