//! Signs of life of whoever leads a volume, so that nobody takes it from somebody who is alive without knowing.
//!
//! From its fence on a leader tells every slot every few seconds, and a metad every second, who it is, and at its end that it has ended. Slots
//! remember that in memory. It decides nothing: what keeps two leaders apart is the fence, and whoever was silent
//! for a while may still be alive. So a volume is refused to others while its leader was heard [`LIVE`] ago or less
//! by any slot, and is given at once when that leader has said that it ended, when it was of this machine, whose
//! lock it no longer has, or when it is to be taken over whatever happens.
//!
//! A metad is taken to be gone much sooner by another one, as what it does goes on there.
//!
//! A leader that was taken over all the same hears of it with its next sign of life, though it had nothing to write.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proto::id::OwnerId;
use proto::part_store::{Beat, LastBeat};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::volume_store::{StoreError, VolumeStore};

/// How often a leader says that it is alive. Each time is a message to each slot, and its answer, without I/O.
const EVERY: Duration = Duration::from_secs(3);
/// What the name of a metad begins with; how often it says so, and how long after the last time another one takes it to be alive.
pub(crate) const METAD: &str = "metad, ";
const METAD_EVERY: Duration = Duration::from_secs(1);
const METAD_LIVE: Duration = Duration::from_secs(3);
/// So long after its last sign of life it is taken to be alive: it may miss a few.
pub(crate) const LIVE: Duration = Duration::from_secs(15);
/// How long slots are waited for that are to hear of the end.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Who has a volume, and is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name for people.
    pub name: String,
    /// Its epoch.
    pub epoch: u64,
    /// When it was last heard from.
    pub ago: Duration,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, epoch, ago } = self;
        write!(f, "{name} (epoch {epoch}, heard from {:.1} s ago)", ago.as_secs_f32())
    }
}

/// Of what slots have heard: who has the volume, is alive, and is none of `own`. Nobody says anything before its
/// fence is whole, so whoever has a lower epoch than another that was heard has the volume no more. `metad`: that is who asks.
pub(crate) fn holder(heard: &[LastBeat], own: &[OwnerId], metad: bool) -> Option<Holder> {
    let epoch = heard.iter().map(|last| last.issuer.epoch).max()?;
    let newest = || heard.iter().filter(|last| last.issuer.epoch == epoch);
    let latest = newest().min_by_key(|last| last.ago)?;
    let ended = newest().any(|last| last.beat == Beat::Ended);
    let Beat::Alive(name) = latest.beat.clone() else { return None };
    let live = if metad && name.starts_with(METAD) { METAD_LIVE } else { LIVE };
    if ended || latest.ago >= live || own.contains(&latest.issuer.owner) {
        return None;
    }
    Some(Holder { name, epoch: epoch.0, ago: latest.ago })
}

/// The task that says so.
pub(crate) struct Pulse {
    stop: CancellationToken,
    task: JoinHandle<()>,
    deposed: Deposed,
}

/// How a leader hears that another has taken the volume over.
#[derive(Clone)]
pub(crate) struct Deposed(watch::Receiver<Option<StoreError>>);

impl Deposed {
    /// Waits until it has, and says by whom.
    pub(crate) async fn heard(&mut self) -> StoreError {
        match self.0.wait_for(Option::is_some).await.map(|error| error.clone()) {
            Ok(Some(error)) => error,
            // The signs of life have ended before.
            _ => std::future::pending().await,
        }
    }
}

impl Pulse {
    /// Begins. The store has fenced the volume; `name` is the leader's, for people.
    pub(crate) fn start(store: Arc<dyn VolumeStore>, name: String) -> Self {
        let stop = CancellationToken::new();
        let (tell, deposed) = watch::channel(None);
        let task = tokio::spawn(beat(store, name, stop.clone(), tell));
        Self { stop, task, deposed: Deposed(deposed) }
    }

    /// To hear by that another leads.
    pub(crate) fn deposed(&self) -> Deposed {
        self.deposed.clone()
    }

    /// Says that the leader has ended.
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::error!("signs of life: {error}");
        }
    }
}

impl Drop for Pulse {
    /// Ends at once, as a crash would.
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn beat(
    store: Arc<dyn VolumeStore>,
    name: String,
    stop: CancellationToken,
    deposed: watch::Sender<Option<StoreError>>,
) {
    let every = if name.starts_with(METAD) { METAD_EVERY } else { EVERY };
    let mut due = interval(every);
    while stop.run_until_cancelled(due.tick()).await.is_some() {
        let beat = timeout(every, store.beat(Beat::Alive(name.clone())));
        if let Some(Ok(Err(fenced @ StoreError::Fenced(_)))) = stop.run_until_cancelled(beat).await
        {
            deposed.send_replace(Some(fenced));
            return;
        }
    }
    match timeout(LAST_WORD, store.beat(Beat::Ended)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("the end of this mount is not told: {error}"),
        Err(_) => tracing::debug!("not every disk has heard in time that this mount has ended"),
    }
}

#[cfg(test)]
mod tests {
    use proto::id::Epoch;
    use proto::part_store::Issuer;

    use super::*;

    fn last(epoch: u64, owner: OwnerId, beat: Beat, ms: u64) -> LastBeat {
        let issuer = Issuer { epoch: Epoch(epoch), owner };
        LastBeat { issuer, beat, ago: Duration::from_millis(ms) }
    }

    fn alive(name: &str) -> Beat {
        Beat::Alive(name.to_owned())
    }

    #[test]
    fn a_holder_is_whoever_was_heard_lately_has_not_ended_and_is_none_of_our_own() {
        let [a, b, own] = [OwnerId::random(), OwnerId::random(), OwnerId::random()];
        let cases: [(&[LastBeat], Option<&str>); 8] = [
            (&[], None),
            (&[last(3, a, alive("a"), 14_999)], Some("a (epoch 3, heard from 15.0 s ago)")),
            (&[last(3, a, alive("a"), 15_000)], None),
            (
                &[last(3, a, alive("a"), 9000), last(3, a, alive("a"), 1250)],
                Some("a (epoch 3, heard from 1.2 s ago)"),
            ),
            // One slot has missed its end.
            (&[last(3, a, alive("a"), 900), last(3, a, Beat::Ended, 500)], None),
            (&[last(3, own, alive("own"), 10)], None),
            // Who ends says nothing of whoever comes next, on whichever slot.
            (
                &[last(3, a, Beat::Ended, 20), last(4, b, alive("b"), 10)],
                Some("b (epoch 4, heard from 0.0 s ago)"),
            ),
            // It was taken from it.
            (&[last(5, own, alive("own"), 30_000), last(4, b, alive("b"), 2000)], None),
        ];
        for (heard, expected) in cases {
            let found = holder(heard, &[own], false).map(|holder| holder.to_string());
            assert_eq!(found.as_deref(), expected, "{heard:?}");
        }
    }

    #[test]
    fn another_metad_takes_one_that_is_silent_to_be_gone_sooner() {
        let is_held = |name: &str, ms, metad| {
            holder(&[last(3, OwnerId::random(), alive(name), ms)], &[], metad).is_some()
        };
        let metad = format!("{METAD}host-a");
        assert!(is_held(&metad, 2999, true) && !is_held(&metad, 3000, true));
        assert!(is_held(&metad, 14_999, false), "by a mount it is not");
        assert!(is_held("mount /a of host-a", 14_999, true), "nor is a mount");
    }
}
