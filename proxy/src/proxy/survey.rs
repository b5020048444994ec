//! What every slot is asked alike, and what their answers add up to: listings, fences, promises and beats.
//!
//! None of this needs a machine: nothing is decided before the answers are there, and what is decided then are
//! the predicates of [`crate::placement::quorum`].

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use proto::id::{BlobId, GroupId, SessionId, VolumeId};
use proto::limits::{MAX_BLOB, MAX_LIST};
use proto::part_store::{Beat, Issuer, LastBeat, PartError, Scope};
use proto::scheme::Scheme;
use tokio::time::{Instant, timeout_at};

use crate::blob_store::{BlobError, Listing, Volumes};
use crate::placement::quorum::{SlotSet, Sought, Spread};
use crate::proxy::Proxy;
use crate::slots::slot_client::{Ask, SlotClient};

/// How long those are waited for that can be done without.
const A_MOMENT: Duration = Duration::from_millis(100);

/// Answers of slots, where not all of them are needed.
struct Asked<T> {
    answers: Vec<T>,
    silent: SlotSet,
    reasons: Vec<(usize, PartError)>,
}

impl Proxy {
    /// Asks every slot of a volume that survives `m` losses, and waits until all have answered, or a moment longer
    /// than for all that are needed.
    async fn ask_all<T, F>(
        &self,
        of: (VolumeId, usize),
        ask: impl Fn(Arc<SlotClient>) -> F,
    ) -> Asked<T>
    where
        F: Future<Output = Result<T, PartError>>,
    {
        let asking = |(slot, client): (usize, &Arc<SlotClient>)| {
            let answer = ask(client.clone());
            async move { (slot, answer.await) }
        };
        let mut asking: FuturesUnordered<_> = self.slots.iter().enumerate().map(asking).collect();
        let silent = SlotSet::first(self.slots.len());
        let mut asked = Asked { answers: Vec::new(), silent, reasons: Vec::new() };
        let mut until = None;
        loop {
            let next = match until {
                Some(until) => timeout_at(until, asking.next()).await.unwrap_or(None),
                None => asking.next().await,
            };
            let Some((slot, answer)) = next else { return asked };
            match answer {
                Ok(answer) => {
                    asked.answers.push(answer);
                    asked.silent = asked.silent.minus(SlotSet::only(slot));
                }
                Err(why) => asked.reasons.push((slot, why)),
            }
            if until.is_none() && self.may_be_silent(of, asked.silent) {
                until = Some(Instant::now() + A_MOMENT);
            }
        }
    }

    /// Have all slots answered that are needed to know something of a volume's journal?
    fn may_be_silent(&self, (volume, m): (VolumeId, usize), silent: SlotSet) -> bool {
        self.group.may_be_silent(self.rules(volume, m).layout, m, silent)
    }

    fn too_few<T>(&self, doing: String, reasons: &[(usize, PartError)]) -> Result<T, BlobError> {
        let mut why = self.explain(SlotSet::EMPTY, reasons);
        let is_emptied = |(_, why): &(usize, PartError)| matches!(why, PartError::NotRebuilt);
        let emptied = reasons.iter().any(is_emptied);
        if emptied && reasons.iter().all(is_emptied) {
            // All answer, and nobody can fill them: that is for a human to decide.
            why.push_str(" (more disks were emptied than can be: ashlar cluster accept-loss)");
        }
        Err(BlobError::TooFewSlots { doing, why, emptied })
    }

    /// Is there a volume, or could there be one, of which nobody can say what it has, for want of what was on disks
    /// that were emptied? Other damage waits for nothing of theirs.
    pub async fn waits_for_emptied(&self) -> bool {
        let emptied = |e: &BlobError| matches!(e, BlobError::TooFewSlots { emptied: true, .. });
        let Volumes { volumes, missed, .. } = self.list_volumes().await;
        if missed.as_ref().is_some_and(emptied) {
            return true;
        }
        for volume in volumes {
            let sought = Sought::Apart(volume, None);
            let listed = self.list_scope(Scope::Volume(volume), None, sought).await;
            if listed.as_ref().is_err_and(emptied) {
                return true;
            }
        }
        false
    }

    /// What enough slots answer, or more of them; `doing` says what for.
    async fn ask_most<T, F>(
        &self,
        of: (VolumeId, usize),
        doing: String,
        ask: impl Fn(Arc<SlotClient>) -> F,
    ) -> Result<Vec<T>, BlobError>
    where
        F: Future<Output = Result<T, PartError>>,
    {
        let asked = self.ask_all(of, ask).await;
        match self.may_be_silent(of, asked.silent) {
            true => Ok(asked.answers),
            false => self.too_few(doing, &asked.reasons),
        }
    }

    /// See [`crate::BlobStore::fence`].
    pub(crate) async fn fence_volume(
        &self,
        volume: VolumeId,
        issuer: Issuer,
        m: usize,
    ) -> Result<(), BlobError> {
        let fence = |slot: Arc<SlotClient>| async move { slot.fence(volume, issuer).await };
        let asked = self.ask_all((volume, m), fence).await;
        if self.may_be_silent((volume, m), asked.silent) {
            self.leads(volume, issuer, m);
            return Ok(());
        }
        let epochs = asked.reasons.iter().filter_map(|(_, why)| match why {
            PartError::Fenced { epoch } => Some(*epoch),
            _ => None,
        });
        match epochs.max() {
            Some(epoch) => Err(BlobError::Fenced { volume, epoch }),
            None => {
                let doing = format!("taking volume {volume} over at epoch {}", issuer.epoch);
                self.too_few(doing, &asked.reasons)
            }
        }
    }

    /// Has these slots promise the volume to whoever has taken it over by this proxy; nothing is to be done where others
    /// have, or nobody has. One that was away then knows nothing of that, nor does one that has come back empty: whoever
    /// had it before could change what they hold, and store on enough of them, together, what nobody finds.
    ///
    /// # Errors
    /// [`Proxy::leads_still`]'s, and none was asked to promise anything; or what the first of them said that does not promise
    /// it.
    pub(crate) async fn promise_again(
        &self,
        volume: VolumeId,
        slots: SlotSet,
    ) -> Result<(), PartError> {
        let Some(issuer) = self.leads_still(volume).await? else { return Ok(()) };
        let promising = slots.iter().map(|slot| self.slots[slot].fence(volume, issuer));
        join_all(promising).await.into_iter().collect()
    }

    /// In whose name the volume was taken over by this proxy, if it is that one's still; `None`: it was not.
    ///
    /// A slot that has forgotten what it had promised is not to promise less: it would be heard as one that knows whose the
    /// volume is. So more slots than whoever takes it over can do without have to say first that they have promised it so, or
    /// all have to say that they know of nobody else.
    ///
    /// # Errors
    /// It is another's by now, or too few say that it is not.
    pub(crate) async fn leads_still(&self, volume: VolumeId) -> Result<Option<Issuer>, PartError> {
        let Some((issuer, m)) = self.led(volume) else { return Ok(None) };
        let ask = |(slot, client): (usize, &Arc<SlotClient>)| {
            let client = client.clone();
            async move { (slot, client.promised(volume).await) }
        };
        let mut asking: FuturesUnordered<_> = self.slots.iter().enumerate().map(ask).collect();
        let (mut knowing, mut all_heard) = (SlotSet::EMPTY, true);
        while self.may_be_silent((volume, m), knowing) {
            match asking.next().await {
                Some((slot, Ok(Some(promise)))) if promise == issuer => knowing.insert(slot),
                Some((_, Ok(Some(Issuer { epoch, .. })))) if epoch > issuer.epoch => {
                    return Err(PartError::Fenced { epoch });
                }
                Some((_, Ok(_) | Err(PartError::NotRebuilt))) => {}
                Some((_, Err(_))) => all_heard = false,
                None if all_heard => break,
                None => {
                    let why = format!("too few slots know whose volume {volume} is");
                    return Err(PartError::Unreachable(why));
                }
            }
        }
        Ok(Some(issuer))
    }

    /// See [`crate::BlobStore::promised`].
    pub(crate) async fn highest_promise(
        &self,
        volume: VolumeId,
        m: usize,
    ) -> Result<Option<Issuer>, BlobError> {
        let promised = |slot: Arc<SlotClient>| async move { slot.promised(volume).await };
        let doing = format!("asking for the owner of volume {volume}");
        let promises = self.ask_most((volume, m), doing, promised);
        Ok(promises.await?.into_iter().flatten().max_by_key(|promise| promise.epoch))
    }

    /// See [`crate::BlobStore::beat`].
    pub(crate) async fn beat_all(&self, volume: VolumeId, beat: Beat) -> Result<(), BlobError> {
        let Some(issuer) = self.issuer(volume) else { return Ok(()) };
        let beats = self.slots.iter().map(|slot| slot.beat(volume, issuer, beat.clone()));
        for heard in join_all(beats).await {
            match heard {
                Err(PartError::Fenced { epoch }) => {
                    return Err(BlobError::Fenced { volume, epoch });
                }
                Err(error) => tracing::debug!("a sign of life is not heard: {error}"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// See [`crate::BlobStore::last_beats`].
    pub(crate) async fn ask_last_beats(
        &self,
        volume: VolumeId,
        m: usize,
    ) -> Result<Vec<LastBeat>, BlobError> {
        let last = |slot: Arc<SlotClient>| async move { slot.last_beat(volume).await };
        let doing = format!("asking whether volume {volume} is in use");
        let beats = self.ask_most((volume, m), doing, last);
        Ok(beats.await?.into_iter().flatten().collect())
    }

    /// Could the silent slots hide a blob of these?
    fn may_miss(&self, found: &BTreeSet<BlobId>, sought: Sought, silent: SlotSet) -> bool {
        if let Sought::Apart(volume, m) = sought {
            let least = found.iter().map(|id| id.scheme().parity_parts()).min();
            return !self.may_be_silent((volume, m.or(least).unwrap_or(1)), silent);
        }
        let mut schemes: BTreeSet<Scheme> = found.iter().map(BlobId::scheme).collect();
        schemes.insert(Scheme::copies(2).expect("two copies are possible"));
        let hides = |s: Scheme| self.group.hidden(s, Spread::ANY, silent) >= s.parts();
        schemes.iter().any(|s| hides(*s) || hides(s.as_copies()))
    }

    /// The blobs that slots tell of when they are asked so. Slots that are down are asked, too, when they might
    /// hide one.
    async fn gather<F>(
        &self,
        doing: String,
        sought: Sought,
        ask: impl Fn(Ask, Arc<SlotClient>) -> F,
    ) -> Gathered
    where
        F: Future<Output = Result<Told, PartError>>,
    {
        let (mut told, mut found) = (Vec::new(), BTreeSet::new());
        let mut silent = SlotSet::first(self.slots.len());
        // They have told all they hold, and might have held more.
        let mut rebuilding = SlotSet::EMPTY;
        for round in [Ask::IfUp, Ask::Anyway] {
            let down = self.slots_that(SlotClient::is_down);
            let mut reasons = Vec::new();
            let asking = |slot: usize| {
                let answer = ask(round, self.slots[slot].clone());
                async move { (slot, answer.await) }
            };
            for (slot, answer) in join_all(silent.iter().map(asking)).await {
                match answer {
                    Ok(answer) => {
                        found.extend(answer.blobs.iter().copied());
                        silent = silent.minus(SlotSet::only(slot));
                        if answer.rebuilding {
                            rebuilding.insert(slot);
                        }
                        told.push(answer);
                    }
                    Err(why) => reasons.push((slot, why)),
                }
            }
            if !self.may_miss(&found, sought, silent.union(rebuilding)) {
                break;
            }
            // What was asked in vain need not be asked again.
            if round == Ask::Anyway || down.is_empty() {
                reasons.extend(rebuilding.iter().map(|slot| (slot, PartError::NotRebuilt)));
                let missed = self.too_few(doing, &reasons);
                return Gathered { told, whole: false, missed };
            }
        }
        let whole = silent.union(rebuilding).is_empty();
        Gathered { told, whole, missed: Ok(()) }
    }

    /// A page of the blobs of a scope.
    ///
    /// Each slot's pages are in order, so what lies up to the last blob of every page that is not its
    /// slot's last is whole: a page of a listing holds no more than a page of each slot does.
    pub(crate) async fn list_scope(
        &self,
        scope: Scope,
        after: Option<BlobId>,
        sought: Sought,
    ) -> Result<Listing, BlobError> {
        let page = |ask, slot: Arc<SlotClient>| async move {
            let page = slot.list(ask, scope, after, MAX_LIST).await?;
            let (goes_on, rebuilding) = (!page.complete, page.rebuilding);
            let blobs: Vec<BlobId> = page.entries.into_iter().map(|(blob, _)| blob).collect();
            Ok::<_, PartError>(Told { goes_on, blobs, rebuilding })
        };
        let doing = match scope {
            Scope::All => "listing all blobs".to_owned(),
            Scope::Volume(volume) => format!("listing volume {volume}"),
            Scope::Session(volume, session) => {
                format!("listing session {session} of volume {volume}")
            }
        };
        let Gathered { told, whole, missed } = self.gather(doing, sought, page).await;
        missed?;
        let lasts = told.iter().filter(|page| page.goes_on).filter_map(|page| page.blobs.last());
        let reach = lasts.min().copied();
        let found: BTreeSet<BlobId> = told.iter().flat_map(|page| &page.blobs).copied().collect();
        let within = |id: &BlobId| reach.is_none_or(|reach| *id <= reach);
        Ok(Listing { blobs: found.into_iter().take_while(within).collect(), whole })
    }

    /// The volumes of which slots hold parts.
    pub(crate) async fn list_volumes(&self) -> Volumes {
        // Nothing can have been lost of a group that has never had anything, whoever is rebuilding in it.
        if self.is_new().await == Ok(true) {
            return Volumes { volumes: Vec::new(), whole: true, missed: None };
        }
        let first_of_each = |ask, slot: Arc<SlotClient>| async move {
            let (mut blobs, mut after, mut rebuilding) = (Vec::new(), None, false);
            loop {
                let page = slot.list(ask, Scope::All, after, 1).await?;
                rebuilding |= page.rebuilding;
                let Some((blob, _)) = page.entries.first() else { break };
                blobs.push(*blob);
                after = Some(last_of(blob.volume()));
                if page.complete {
                    break;
                }
            }
            Ok::<_, PartError>(Told { goes_on: false, blobs, rebuilding })
        };
        let gathering = self.gather("listing volumes".to_owned(), Sought::All, first_of_each);
        let Gathered { told, whole, missed } = gathering.await;
        let blobs = told.iter().flat_map(|told| &told.blobs);
        let volumes: BTreeSet<VolumeId> = blobs.map(BlobId::volume).collect();
        Volumes { volumes: volumes.into_iter().collect(), whole, missed: missed.err() }
    }
}

/// What slots have told of.
struct Gathered {
    told: Vec<Told>,
    /// All have.
    whole: bool,
    /// Why a blob could be missed.
    missed: Result<(), BlobError>,
}

/// Blobs that a slot has told of, in order.
struct Told {
    blobs: Vec<BlobId>,
    /// It has more.
    goes_on: bool,
    /// It might have had others.
    rebuilding: bool,
}

/// An id behind all blobs of the volume.
fn last_of(volume: VolumeId) -> BlobId {
    let (session, group) = (SessionId(u64::MAX), GroupId(u32::MAX));
    let scheme = Scheme::copies(2).expect("two copies are possible");
    BlobId::new(volume, session, u64::MAX, group, MAX_BLOB, scheme).expect("a valid id")
}
