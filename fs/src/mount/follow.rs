//! A cluster file that changes while the volume is mounted: it is read again, and from then on followed.
//!
//! Whoever leads the volume holds it against what that was stored on, and notes what it is stored on from then on. Where a
//! metad leads it, a mount follows what that has found right: a file that is newer than what disks know is not taken.
//!
//! That is when somebody says so (SIGHUP, `mount -o remount`), and when slots refuse what they are asked because they
//! know a newer generation of their group: then by itself, and again every [`AGAIN`] until the file says as much. The
//! file is held against the volume and its disks as one that is mounted by ([`crate::mount::roll_call`]); one that is
//! refused changes nothing. What is under way ends with the disks that it began with ([`proxy::LiveProxy`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meta::{Members, MetaError, MetaStore, Volume};
use proto::cluster::{Cluster, Slot, Unreadable};
use proto::guard::caught_in;
use proto::id::Generation;
use proxy::repair::Healer;
use proxy::repair::report::Drain;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use super::embedded::{OpenError, Store};
use super::roll_call::{self, Called, RollCallError, WrongFile};

/// How often a file is read again that is older than what disks know.
const AGAIN: Duration = Duration::from_secs(2);
/// How often it is looked whether a disk that is to be emptied is, and how all lies.
const LOOK: Duration = Duration::from_secs(5);
/// How long the last such note may take.
const LAST_NOTE: Duration = Duration::from_secs(5);
/// Callers that may wait.
const CALLERS: usize = 8;

/// Why a changed file is not followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotFollowed {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] Unreadable),
    /// It is wrong.
    #[error(transparent)]
    RollCall(#[from] RollCallError),
    /// Its disks cannot be had.
    #[error(transparent)]
    Disks(#[from] OpenError),
    /// The mount is ending, or something panicked.
    #[error("{0}")]
    Ended(String),
}

/// What somebody wants.
enum Call {
    /// The file is to be read again, or another one from now on.
    Read { file: Option<PathBuf>, answer: oneshot::Sender<Result<(), NotFollowed>> },
    /// What is known of the disks is to be noted.
    Note { noted: oneshot::Sender<()> },
}

/// How the task is asked.
#[derive(Clone)]
pub(crate) struct Way(mpsc::Sender<Call>);

impl Way {
    /// Has the cluster file read again, or this one from now on, and followed if it has changed.
    ///
    /// # Errors
    /// When it is refused: then nothing has changed.
    pub(crate) async fn read_again(&self, file: Option<PathBuf>) -> Result<(), NotFollowed> {
        let ended = || NotFollowed::Ended("the mount is ending".to_owned());
        let (answer, answered) = oneshot::channel();
        self.0.send(Call::Read { file, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// Told what there is to warn of, once the disks have changed: all of it, each time.
pub(crate) type Warn = Box<dyn Fn(Vec<String>) + Send + Sync>;

/// What whoever leads a volume has of it.
pub(crate) struct Leads {
    pub(crate) volume: Arc<Volume>,
    pub(crate) healer: Arc<Healer>,
}

/// The task that follows the cluster file of a volume.
pub(crate) struct Follower {
    way: Way,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Follower {
    /// Starts it with what is followed so far, for a session, and whoever leads the volume, if that is this process.
    /// `hangup` is told when the file may have changed.
    pub(crate) fn start(
        (file, cluster): (PathBuf, Cluster),
        hangup: Arc<Notify>,
        (session, leads, store): (Arc<dyn MetaStore>, Option<Leads>, Arc<Store>),
        warn: Warn,
    ) -> Self {
        let (sender, calls) = mpsc::channel(CALLERS);
        let stop = CancellationToken::new();
        let following = Following { file, cluster, session, leads, store, warn, warned: true };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let work = following.run(hangup, calls);
            let _stopped = stopped.run_until_cancelled(work).await;
        });
        Self { way: Way(sender), stop, task }
    }

    /// How it is asked.
    pub(crate) fn way(&self) -> Way {
        self.way.clone()
    }

    /// The mount ends soon: what it knows of the disks is noted, as the file may change while nobody sees it.
    pub(crate) async fn take_leave(&self) {
        let (noted, end) = oneshot::channel();
        let noting = async {
            // One that has ended notes nothing any more.
            if self.way.0.send(Call::Note { noted }).await.is_ok() {
                let _ = end.await;
            }
        };
        if timeout(LAST_NOTE, noting).await.is_err() {
            tracing::warn!("what is known of the disks is not noted within {LAST_NOTE:?}");
        }
    }

    /// Ends it; nothing of the mount is in use by it then.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap_or_else(|e| tracing::error!("following the cluster file: {e}"));
    }
}

struct Following {
    file: PathBuf,
    /// What is followed.
    cluster: Cluster,
    session: Arc<dyn MetaStore>,
    leads: Option<Leads>,
    store: Arc<Store>,
    warn: Warn,
    /// There may be something that was warned of.
    warned: bool,
}

impl Following {
    async fn run(mut self, hangup: Arc<Notify>, mut calls: mpsc::Receiver<Call>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // While this is some, disks know what the file does not say.
        let mut missed: Option<Generation> = None;
        loop {
            let blobs = self.store.blobs.clone();
            let outdated = async {
                if missed.is_some() {
                    tokio::time::sleep(AGAIN).await;
                    blobs.give_up(None);
                }
                blobs.outdated().await
            };
            tokio::select! {
                known = outdated => {
                    let taken = self.read_again(None).await;
                    let generation = self.cluster.generation;
                    let told = missed.replace(known) == Some(known);
                    match taken {
                        _ if generation >= known => missed = None,
                        _ if told => blobs.give_up(Some(known)),
                        taken => {
                            blobs.give_up(Some(known));
                            let why = match taken {
                                Err(why) => why.to_string(),
                                Ok(()) => format!("{} is of generation {generation}", self.file.display()),
                            };
                            tracing::warn!(
                                "disks are of a group of generation {known}, and nothing works until the newer \
                                 cluster file is here: {why}"
                            );
                        }
                    }
                }
                () = hangup.notified() => {
                    if let Err(why) = self.read_again(None).await {
                        tracing::warn!("the cluster file is not taken, and nothing has changed: {why}");
                    }
                }
                _ = look.tick() => self.note().await,
                // One who has gone does not want to know.
                Some(call) = calls.recv() => match call {
                    Call::Read { file, answer } => drop(answer.send(self.read_again(file).await)),
                    Call::Note { noted } => {
                        self.note().await;
                        let _ = noted.send(());
                    }
                },
            }
        }
    }

    async fn read_again(&mut self, file: Option<PathBuf>) -> Result<(), NotFollowed> {
        let work = caught_in("following the cluster file", self.try_again(file)).await;
        work.unwrap_or_else(|e| Err(NotFollowed::Ended(e.to_string())))
    }

    async fn try_again(&mut self, file: Option<PathBuf>) -> Result<(), NotFollowed> {
        let file = file.unwrap_or_else(|| self.file.clone());
        let reading = file.clone();
        let read = tokio::task::spawn_blocking(move || Cluster::read(&reading)).await;
        let cluster = read.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        if !is_same(&cluster, &self.cluster) {
            self.follow(cluster).await?;
        }
        self.file = file;
        Ok(())
    }

    /// Notes which of the disks that are to be emptied hold nothing, so that nobody misses them when they are not
    /// in the file any more; and that all lies by the names of now, once it does.
    async fn note(&mut self) {
        if let Err(why) = self.try_to_note().await {
            tracing::warn!("which disks were emptied is not noted: {why}");
        }
    }

    async fn try_to_note(&mut self) -> Result<(), MetaError> {
        let Some(Leads { volume, healer }) = &self.leads else { return Ok(()) };
        let healing = healer.glance_over(&self.store.blobs.current());
        let Some(report) = healing else { return Ok(()) };
        let Some(mut members) = volume.members().await? else { return Ok(()) };
        let said = |slot: &Slot| {
            let of = |drain: &&Drain| drain.id == slot.disk.to_string();
            // Of one that does not say how much it has nothing is known that was not before.
            report.drains.iter().find(of).filter(|drain| drain.empty || drain.parts.is_some())
        };
        let slots = &self.cluster.slots;
        let emptied = members.note_emptied(|disk| {
            let slot = slots.iter().find(|slot| slot.stands_for() == disk)?;
            if slot.drain { said(slot).map(|drain| drain.empty) } else { Some(false) }
        });
        let settled = report.is_settled() && members.settle();
        if emptied || settled {
            volume.note_members(&members).await?;
        }
        if report.is_settled() && self.warned {
            self.warn_again(&members);
        }
        Ok(())
    }

    /// All parts lie where they belong: what there was to warn of is gone, but for what the file says.
    fn warn_again(&mut self, members: &Members) {
        match roll_call::check_file(&self.session.volume(), Some(members), &self.cluster) {
            Ok(warnings) => self.tell(warnings),
            Err(why) => tracing::warn!("{why}"),
        }
    }

    fn tell(&mut self, warnings: Vec<String>) {
        self.warned = !warnings.is_empty();
        (self.warn)(warnings);
    }

    /// Goes on by another file.
    async fn follow(&mut self, cluster: Cluster) -> Result<(), NotFollowed> {
        let known = self.cluster.generation;
        let volume = self.session.volume();
        if cluster.generation < known {
            let (file, who) = (cluster.generation, "this mount".to_owned());
            return Err(RollCallError::from(WrongFile::Old { file, who, known }).into());
        }
        self.try_to_note().await.map_err(RollCallError::from)?;
        let members = match &self.leads {
            Some(leads) => leads.volume.members().await.map_err(RollCallError::from)?,
            None => None,
        };
        let check = roll_call::check_file(&volume, members.as_ref(), &cluster);
        check.map_err(RollCallError::from)?;
        let successor = self.store.successor(&cluster).await?;
        let called = Called::of(&successor.blobs).await;
        let fits = called.check_for(volume.scheme, &cluster);
        let fits = fits.and_then(|()| match &self.leads {
            Some(_) => called.check_joined(&volume, members.as_ref(), &cluster),
            None => called.check_known(&cluster),
        });
        if let Err(why) = fits {
            successor.close().await;
            return Err(RollCallError::from(why).into());
        }
        self.store.succeed(successor, &cluster).await;
        tracing::info!(
            generation = %cluster.generation, disks = cluster.slots.len(),
            "the cluster file has changed, and is followed from now on"
        );
        self.cluster = cluster;
        let Some(Leads { volume, .. }) = &self.leads else { return Ok(()) };
        // What is noted of it is made up for by the next mount, if that fails.
        let session = Some(self.session.session());
        match roll_call::call(volume, &self.cluster, &called, session).await {
            Ok(warnings) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                self.tell(warnings);
            }
            Err(why) => tracing::warn!("which disks the volume is stored on is not noted: {why}"),
        }
        Ok(())
    }
}

/// Do both say the same of the group?
fn is_same(one: &Cluster, other: &Cluster) -> bool {
    (one.cluster, one.generation, &one.slots) == (other.cluster, other.generation, &other.slots)
}
