//! Who works on a volume from elsewhere: its session, and when that is over.
//!
//! One session at a time has a volume: nobody tells one what another changes, and its kernel keeps what it knows. A session
//! goes on with another connection after one broke: it proves by its secret that it is the one. Of each only the newest
//! connection is served, and only when nothing more is read from those before it, and nothing that they asked is under way,
//! so that what was sent first is done first, or never. It is over when nothing was heard from it for [`LEASE`], when it has closed
//! itself, or when somebody takes the volume over. It outlives whoever leads the volume: the next leader knows it by what is
//! durable of it, and waits for it as for one whose connection broke. One that is over without having closed itself is dead: what it
//! left is for the volume's keeper to reap and sweep, and no leader knows it again.
//!
//! Invariants:
//! * A session that is over is never served again, and what of it is under way still ends.
//! * A connection with a lower number than one that was ever admitted of its session, or the same, is not served.
//! * While a session is served, or something that it asked is under way, no other is.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::id::{OwnerId, SessionId};
use proto::metad::LEASE;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::work::{Keeper, Work};
use crate::record::window::Window;
use crate::volume::opened::Volume;

/// What proves that a session is the one.
#[derive(Clone, Copy)]
pub(super) struct Proof([u8; 32]);

impl Proof {
    fn random() -> Self {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(OwnerId::random().as_bytes());
        bytes[16..].copy_from_slice(OwnerId::random().as_bytes());
        Self(bytes)
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The one that was a session's before.
    fn known(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Is this it? How long it takes does not tell where they differ.
    fn is(&self, bytes: &[u8]) -> bool {
        let differs = self.0.iter().zip(bytes).fold(0, |all, (a, b)| all | (a ^ b));
        bytes.len() == self.0.len() && differs == 0
    }
}

/// Whose connection it is, as it says.
pub(super) struct Claim {
    /// `None`: a new session's.
    pub(super) session: Option<(SessionId, Vec<u8>)>,
    /// Its number among those of its session, rising.
    pub(super) connection: u64,
    /// Who it is, for people.
    pub(super) name: String,
    /// A new session ends whoever has the volume.
    pub(super) take_over: bool,
}

/// Why a connection is not served.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Another session has the volume.
    InUse {
        /// Its name.
        by: String,
        /// It has a connection.
        connected: bool,
    },
    /// There is no such session, in a sentence.
    No(String),
    /// Whether there is cannot be said here: whoever leads the volume knows.
    Elsewhere,
}

/// One session.
struct Known {
    work: Arc<Work>,
    proof: Proof,
    name: String,
    heard: Instant,
    /// The newest connection.
    connection: u64,
    /// Tells that connection to end.
    leave: CancellationToken,
    /// Cancelled once it has ended with all that it asked, and of those before it that were there when it came.
    ended: Vec<CancellationToken>,
    /// Cancelled once the session is over.
    over: CancellationToken,
}

impl Known {
    fn is_connected(&self) -> bool {
        self.ended.iter().any(|ended| !ended.is_cancelled())
    }
}

/// The sessions of one volume.
pub(super) struct Sessions {
    volume: Arc<Volume>,
    keeper: Arc<dyn Keeper>,
    /// Held by who begins a session.
    beginning: tokio::sync::Mutex<()>,
    /// Cancelled once connections of sessions that are over have ended, with all that they asked.
    ending: Mutex<Vec<CancellationToken>>,
    book: Mutex<HashMap<SessionId, Known>>,
    /// Tells this leader from those before it.
    leader: OwnerId,
    /// Cancelled once it leads no more.
    deposed: CancellationToken,
}

/// A connection, for as long as it is read from or something that it asked is under way.
pub(super) struct Presence(CancellationToken);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// One connection of a session, for as long as it is read from.
pub(super) struct Stay {
    /// All of the volume.
    pub(super) sessions: Arc<Sessions>,
    /// Its session.
    pub(super) work: Arc<Work>,
    /// What proves that.
    pub(super) proof: Proof,
    /// To be held by what it asks.
    pub(super) presence: Arc<Presence>,
    leave: CancellationToken,
    over: CancellationToken,
}

impl Sessions {
    /// Nobody works on it yet, but for those who are waited for since it was taken over.
    pub(super) fn new(volume: Arc<Volume>, keeper: Arc<dyn Keeper>) -> Arc<Self> {
        let (beginning, ending, deposed) = Default::default();
        let awaited = volume.take_awaited().into_iter().map(|(id, before)| {
            tracing::info!(session = id.0, name = before.name, "a session is waited for");
            let (proof, name) = (Proof::known(before.secret), before.name.clone());
            let work = Work::resumed(volume.resume_session(id), keeper.clone(), before);
            let (leave, over) = Default::default();
            let (heard, connection, ended) = (Instant::now(), 0, Vec::new());
            (id, Known { work, proof, name, heard, connection, leave, ended, over })
        });
        let (book, leader) = (Mutex::new(awaited.collect()), OwnerId::random());
        Arc::new(Self { volume, keeper, beginning, ending, book, leader, deposed })
    }

    /// Tells this leader from those before it.
    pub(super) fn leader(&self) -> OwnerId {
        self.leader
    }

    /// The volume.
    pub(super) fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Takes a connection in: a new session, or one that goes on. Returns when all older connections of it have ended, with
    /// all that they asked.
    ///
    /// # Errors
    /// Why it is not served.
    pub(super) async fn enter(self: &Arc<Self>, claim: Claim) -> Result<Stay, Refused> {
        let Some(id) = claim.session.as_ref().map(|(id, _)| *id) else {
            return self.begin(claim).await;
        };
        let (stay, older) = match self.go_on(id, &claim) {
            Ok(found) => found,
            Err(why) => return Err(self.surely(why).await),
        };
        for ended in older {
            ended.cancelled().await;
        }
        Ok(stay)
    }

    /// Nothing is worse for a session than to be over. Whoever leads the volume no more, and has not heard so yet, cannot say that: it
    /// stores nothing.
    async fn surely(&self, why: String) -> Refused {
        match self.volume.mark_over().await {
            Ok(()) => Refused::No(why),
            Err(unsure) => {
                tracing::warn!("a session is sent on: {why}; and nothing can be stored: {unsure}");
                Refused::Elsewhere
            }
        }
    }

    async fn begin(self: &Arc<Self>, claim: Claim) -> Result<Stay, Refused> {
        let _alone = self.beginning.lock().await;
        if claim.take_over {
            self.end_all();
        }
        if let Some(known) = self.book.lock().values().next() {
            return Err(Refused::InUse { by: known.name.clone(), connected: known.is_connected() });
        }
        self.ended().await;
        let over = self.volume.mark_over().await;
        over.map_err(|why| Refused::No(format!("who had the volume cannot be ended: {why}")))?;
        let proof = Proof::random();
        let window = Window::new(proof.0, claim.name.clone());
        let session = self.volume.open_session_elsewhere(&window).await;
        let session =
            session.map_err(|why| Refused::No(format!("no session can be opened: {why}")))?;
        let work = Work::new(session, self.keeper.clone());
        let ended = CancellationToken::new();
        let (leave, over) = Default::default();
        let presence = Arc::new(Presence(ended.clone()));
        let stay = Stay { sessions: self.clone(), work, proof, presence, leave, over };
        let Claim { connection, name, .. } = claim;
        tracing::info!(session = stay.work.id().0, name, "a session begins");
        let known = Known {
            work: stay.work.clone(),
            proof,
            name,
            heard: Instant::now(),
            connection,
            leave: stay.leave.clone(),
            ended: vec![ended],
            over: stay.over.clone(),
        };
        self.book.lock().insert(stay.work.id(), known);
        Ok(stay)
    }

    /// Returns when nothing is under way any more of sessions that are over.
    async fn ended(&self) {
        loop {
            let next = self.ending.lock().iter().find(|ended| !ended.is_cancelled()).cloned();
            match next {
                Some(ended) => ended.cancelled().await,
                None => return self.ending.lock().clear(),
            }
        }
    }

    fn go_on(
        self: &Arc<Self>,
        id: SessionId,
        claim: &Claim,
    ) -> Result<(Stay, Vec<CancellationToken>), String> {
        let gone = || {
            format!(
                "session {id} is not known here: it was silent for too long, or somebody has taken the volume over"
            )
        };
        let mut book = self.book.lock();
        let known = book.get_mut(&id).ok_or_else(gone)?;
        let secret = claim.session.as_ref().map(|(_, secret)| &secret[..]);
        if !secret.is_some_and(|secret| known.proof.is(secret)) {
            return Err(gone());
        }
        if known.connection >= claim.connection {
            return Err("the session has a newer connection".to_owned());
        }
        known.leave.cancel();
        let mut older = std::mem::take(&mut known.ended);
        older.retain(|ended| !ended.is_cancelled());
        let (leave, ended) = (CancellationToken::new(), CancellationToken::new());
        (known.connection, known.heard) = (claim.connection, Instant::now());
        known.leave = leave.clone();
        known.ended = older.iter().cloned().chain([ended.clone()]).collect();
        let (work, proof, over) = (known.work.clone(), known.proof, known.over.clone());
        let presence = Arc::new(Presence(ended));
        Ok((Stay { sessions: self.clone(), work, proof, presence, leave, over }, older))
    }

    /// A session has closed itself, and was answered.
    pub(super) fn forget(&self, work: &Work) {
        work.closed();
        if let Some(mut known) = self.book.lock().remove(&work.id()) {
            tracing::info!(session = work.id().0, name = known.name, "a session has ended");
            self.end(&mut known);
        }
    }

    /// A session is over.
    fn end(&self, known: &mut Known) {
        self.ending.lock().append(&mut known.ended);
        known.over.cancel();
    }

    /// Nobody could be heard for a while: all are taken to have said something just now.
    pub(super) fn forgive(&self) {
        let now = Instant::now();
        self.book.lock().values_mut().for_each(|known| known.heard = now);
    }

    /// Ends the sessions that were silent for too long.
    pub(super) fn end_silent(&self) {
        let mut book = self.book.lock();
        book.retain(|id, known| {
            let alive = known.heard.elapsed() < LEASE;
            if !alive {
                let name = &known.name;
                tracing::warn!(
                    session = id.0,
                    name,
                    "a session was silent for {LEASE:?}: it is over"
                );
                self.end(known);
            }
            alive
        });
    }

    /// Whoever leads the volume next goes on with all of them: nobody hears that they are over.
    pub(super) fn hand_over(&self) {
        self.book.lock().values().for_each(|known| known.work.closed());
    }

    /// This leader was deposed: whoever comes is sent on.
    pub(super) fn note_deposed(&self) {
        self.deposed.cancel();
    }

    /// Was it?
    pub(super) fn is_deposed(&self) -> bool {
        self.deposed.is_cancelled()
    }

    /// Ends all, for good.
    fn end_all(&self) {
        let mut all = std::mem::take(&mut *self.book.lock());
        all.values_mut().for_each(|known| self.end(known));
    }
}

impl Stay {
    /// The session has said something.
    pub(super) fn heard(&self) {
        if let Some(known) = self.sessions.book.lock().get_mut(&self.work.id()) {
            known.heard = Instant::now();
        }
    }

    /// Lasts until a newer connection of the session has come.
    pub(super) async fn replaced(&self) {
        self.leave.cancelled().await;
    }

    /// Lasts until this leader was deposed.
    pub(super) async fn deposed(&self) {
        self.sessions.deposed.cancelled().await;
    }

    /// Lasts until the session is over.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt;

    use super::*;
    use crate::engine::memory::{Failing, MemoryKv};
    use crate::store::MetaStore;
    use crate::volume::opened::Seams;
    use crate::volume::session::Session;
    use crate::volume::{MemoryVolume, in_memory, initialise};
    use crate::wire::samples;

    /// The dead that it was told of.
    #[derive(Default)]
    struct Told(Mutex<Vec<SessionId>>);

    impl Keeper for Told {
        fn session_died(&self, session: SessionId) {
            self.0.lock().push(session);
        }

        fn trash_changed(&self) {}

        fn rules_changed(&self) {}
    }

    fn claim(session: Option<(SessionId, Vec<u8>)>, connection: u64) -> Claim {
        Claim { session, connection, name: "a test".to_owned(), take_over: false }
    }

    /// With the session of the volume's keeper, and what that is told.
    fn sessions() -> (Arc<Sessions>, Arc<Session>, Arc<Told>) {
        let keeper = in_memory(&samples::a_volume(), (0, 0, 0o755));
        let told = Arc::<Told>::default();
        (Sessions::new(keeper.opened_on().clone(), told.clone()), keeper, told)
    }

    fn proof(stay: &Stay) -> Option<(SessionId, Vec<u8>)> {
        Some((stay.work.id(), stay.proof.bytes().to_vec()))
    }

    fn in_use(connected: bool) -> Option<Refused> {
        Some(Refused::InUse { by: "a test".to_owned(), connected })
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_newest_connection_of_who_proves_it_is_served() {
        let (sessions, _keeper, _) = sessions();
        let first = sessions.enter(claim(None, 1)).await.unwrap();
        let mine = proof(&first);
        let mut forged = mine.clone().unwrap();
        forged.1[31] ^= 1;
        assert!(sessions.enter(claim(Some(forged), 2)).await.is_err());
        let short = (first.work.id(), Vec::new());
        assert!(sessions.enter(claim(Some(short), 2)).await.is_err());
        assert!(sessions.enter(claim(mine.clone(), 1)).await.is_err(), "not a newer one");
        assert!(first.replaced().now_or_never().is_none());
        let mut second = Box::pin(sessions.enter(claim(mine.clone(), 2)));
        assert!(second.as_mut().now_or_never().is_none(), "the first may still be read from");
        assert!(first.replaced().now_or_never().is_some());
        let asked = first.presence.clone();
        drop(first);
        assert!(second.as_mut().now_or_never().is_none(), "what it asked is under way");
        drop(asked);
        let second = second.now_or_never().unwrap().unwrap();
        assert_eq!(Some(second.work.id()), mine.map(|(id, _)| id));
    }

    #[tokio::test(start_paused = true)]
    async fn one_session_at_a_time_has_the_volume() {
        let (sessions, _keeper, told) = sessions();
        let first = sessions.enter(claim(None, 1)).await.unwrap();
        let mine = proof(&first);
        assert_eq!(sessions.enter(claim(None, 1)).await.err(), in_use(true));
        drop(first);
        assert_eq!(sessions.enter(claim(None, 1)).await.err(), in_use(false));
        let again = sessions.enter(claim(mine.clone(), 2)).await.unwrap();
        let dead = again.work.id();
        let taken = Claim { take_over: true, ..claim(None, 1) };
        let mut second = Box::pin(sessions.enter(taken));
        assert!(second.as_mut().now_or_never().is_none(), "the first may still be doing something");
        assert!(again.over().now_or_never().is_some() && told.0.lock().is_empty());
        drop(again);
        assert_eq!(*told.0.lock(), [dead]);
        let second = second.await.unwrap();
        assert!(second.work.id() != dead);
        assert!(sessions.enter(claim(mine, 3)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_over_and_who_says_something_is_not() {
        let (sessions, _keeper, told) = sessions();
        let silent = sessions.enter(claim(None, 1)).await.unwrap();
        tokio::time::advance(LEASE / 2).await;
        silent.heard();
        tokio::time::advance(LEASE / 2).await;
        sessions.end_silent();
        assert!(silent.over().now_or_never().is_none());
        // What was said while nobody listened is still to be heard.
        tokio::time::advance(LEASE).await;
        sessions.forgive();
        sessions.end_silent();
        assert!(silent.over().now_or_never().is_none());
        tokio::time::advance(LEASE).await;
        sessions.end_silent();
        assert!(silent.over().now_or_never().is_some());
        assert!(sessions.enter(claim(proof(&silent), 2)).await.is_err());
        let id = silent.work.id();
        drop(silent);
        assert_eq!(sessions.volume().dead_sessions().await, Ok(vec![id]));
        assert_eq!(*told.0.lock(), [id]);
        let alive = sessions.enter(claim(None, 1)).await.unwrap();
        alive.work.session.close_session().await.unwrap();
        sessions.forget(&alive.work);
        assert!(sessions.enter(claim(proof(&alive), 2)).await.is_err());
        drop(alive);
        assert_eq!(sessions.volume().dead_sessions().await, Ok(vec![id]));
        assert_eq!(*told.0.lock(), [id], "one that closed itself leaves nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_said_to_be_over_by_who_can_store_nothing() {
        let kv = Arc::new(Failing { kv: MemoryKv::default(), fails: AtomicBool::new(false) });
        let record = initialise(&kv.kv, &samples::a_volume(), (0, 0, 0o755)).unwrap();
        let volume = Volume::new(kv.clone(), record, Seams::default(), None);
        let sessions = Sessions::new(volume, Arc::<Told>::default());
        let silent = proof(&sessions.enter(claim(None, 1)).await.unwrap());
        tokio::time::advance(LEASE).await;
        sessions.end_silent();
        // It may lead no more without knowing it, and the session go on elsewhere.
        kv.fails.store(true, Ordering::SeqCst);
        let refused = sessions.enter(claim(silent.clone(), 2)).await.err();
        assert_eq!(refused, Some(Refused::Elsewhere));
        kv.fails.store(false, Ordering::SeqCst);
        let refused = sessions.enter(claim(silent, 3)).await.err();
        assert!(matches!(refused, Some(Refused::No(_))), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_worked_when_the_leader_died_goes_on_and_who_was_over_does_not() {
        let memory = MemoryVolume::format(&samples::a_volume(), (0, 0, 0o755));
        let first = Sessions::new(memory.open().opened_on().clone(), Arc::<Told>::default());
        let dead = first.enter(claim(None, 1)).await.unwrap();
        let over = proof(&dead);
        drop(dead);
        let taken = Claim { take_over: true, ..claim(None, 1) };
        let alive = proof(&first.enter(taken).await.unwrap());
        let memory = memory.after_crash();
        let (keeper, told) = (memory.open(), Arc::<Told>::default());
        keeper.opened_on().await_sessions().await.unwrap();
        let next = Sessions::new(keeper.opened_on().clone(), told.clone());
        assert_eq!(next.enter(claim(None, 1)).await.err(), in_use(false));
        assert!(next.enter(claim(over, 9)).await.is_err(), "it was over before");
        let again = next.enter(claim(alive.clone(), 9)).await.unwrap();
        assert_eq!(Some(again.work.id()), alive.as_ref().map(|(id, _)| *id));
        drop(again);
        tokio::time::advance(LEASE).await;
        next.end_silent();
        let id = alive.as_ref().map(|(id, _)| *id).unwrap();
        assert_eq!(*told.0.lock(), [id]);
        assert!(keeper.dead_sessions().await.unwrap().contains(&id));
        // What is left of it was somebody's to sweep: nobody waits for it again.
        let keeper = memory.after_crash().open();
        keeper.opened_on().await_sessions().await.unwrap();
        let last = Sessions::new(keeper.opened_on().clone(), told);
        assert!(last.enter(claim(alive, 10)).await.is_err());
        assert!(last.enter(claim(None, 1)).await.is_ok());
    }
}
