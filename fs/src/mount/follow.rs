//! A cluster file that changes while the volume is mounted: it is read again, and from then on followed.
//!
//! That is when somebody says so (SIGHUP, `mount -o remount`), and when slots refuse what they are asked because they
//! know a newer generation of their group: then by itself, and again every [`AGAIN`] until the file says as much. The
//! file is held against the volume and its disks as one that is mounted by ([`crate::mount::roll_call`]); one that is
//! refused changes nothing. What is under way ends with the disks that it began with ([`proxy::LiveProxy`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meta::{Members, MetaError, Volume};
use proto::cluster::{Cluster, Slot, Unreadable};
use proto::guard::caught_in;
use proto::id::{Generation, SessionId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::embedded::{OpenError, Store};
use super::roll_call::{self, Called, RollCallError, WrongFile};
use crate::filesystem::Filesystem;

/// How often a file is read again that is older than what disks know.
const AGAIN: Duration = Duration::from_secs(2);
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

/// Somebody who wants the file to be read again, or another one from now on.
struct Call {
    file: Option<PathBuf>,
    answer: oneshot::Sender<Result<(), NotFollowed>>,
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
        self.0.send(Call { file, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// The task of a mount that follows its cluster file.
pub(crate) struct Follower {
    way: Way,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Follower {
    /// Starts it with what is followed so far. `hangup` is told when the file may have changed.
    pub(crate) fn start(
        (file, cluster): (PathBuf, Cluster),
        hangup: Arc<Notify>,
        (volume, session, store, filesystem): (Arc<Volume>, SessionId, Arc<Store>, Arc<Filesystem>),
    ) -> Self {
        let (sender, calls) = mpsc::channel(CALLERS);
        let stop = CancellationToken::new();
        let following = Following { file, cluster, volume, session, store, filesystem };
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
    volume: Arc<Volume>,
    session: SessionId,
    store: Arc<Store>,
    filesystem: Arc<Filesystem>,
}

impl Following {
    async fn run(mut self, hangup: Arc<Notify>, mut calls: mpsc::Receiver<Call>) {
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
                Some(Call { file, answer }) = calls.recv() => {
                    // One who has gone does not want to know.
                    let _ = answer.send(self.read_again(file).await);
                }
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

    /// The disks that the volume is stored on, but for those that the file does not list any more after they were
    /// emptied.
    async fn without_emptied(
        &self,
        cluster: &Cluster,
    ) -> Result<(Option<Members>, bool), MetaError> {
        let (mut members, mut changed) = (self.volume.members().await?, false);
        let emptied = self.filesystem.emptied_disks();
        let goes = |slot: &&Slot| {
            let listed = cluster.slots.iter().any(|other| other.stands_for() == slot.stands_for());
            !listed && emptied.contains(&slot.disk.to_string())
        };
        for slot in self.cluster.slots.iter().filter(goes) {
            if members.as_mut().is_some_and(|members| members.let_go(slot.stands_for())) {
                changed = true;
                tracing::info!(disk = %slot.disk, "a disk that was emptied has left the cluster file");
            }
        }
        Ok((members, changed))
    }

    /// Goes on by another file.
    async fn follow(&mut self, cluster: Cluster) -> Result<(), NotFollowed> {
        let known = self.cluster.generation;
        let volume = self.volume.info();
        if cluster.generation < known {
            let (file, who) = (cluster.generation, "this mount".to_owned());
            return Err(RollCallError::from(WrongFile::Old { file, who, known }).into());
        }
        let (members, changed) =
            self.without_emptied(&cluster).await.map_err(RollCallError::from)?;
        let check = roll_call::check_file(&volume, members.as_ref(), &cluster);
        check.map_err(RollCallError::from)?;
        let successor = self.store.successor(&cluster).await?;
        let called = Called::of(&successor.blobs).await;
        if let Err(why) = called.check_for(volume.scheme, &cluster) {
            successor.close().await;
            return Err(RollCallError::from(why).into());
        }
        if let Some(members) = members.filter(|_| changed)
            && let Err(why) = self.volume.note_members(&members).await
        {
            tracing::warn!("that a disk was emptied before it went is not noted: {why}");
        }
        self.store.succeed(successor, &cluster).await;
        tracing::info!(
            generation = %cluster.generation, disks = cluster.slots.len(),
            "the cluster file has changed, and is followed from now on"
        );
        self.cluster = cluster;
        // What is noted of it is made up for by the next mount, if that fails.
        match roll_call::call(&self.volume, &self.cluster, &called, Some(self.session)).await {
            Ok(warnings) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                self.filesystem.warn_of(warnings);
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
