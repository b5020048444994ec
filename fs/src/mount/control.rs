//! How `umount` and `mount -o remount` talk to the process that serves a mount.
//!
//! Each mount has a desk: a Unix socket with an abstract name made of the mount's device number and
//! its volume, so that it is found from /proc/self/mountinfo alone, without touching a mount that may
//! hang. The number alone would not do: the kernel gives it to the next mount at once, while the
//! process that had it before may still be ending. Only root and the user who mounts are heard.
//! Requests are lines, and each is answered with a line:
//!
//! | request | answer |
//! |---|---|
//! | `store`: store and sync everything, and go on | `stored`, or `failed WHY` |
//! | `remounted WORDS`: its options are these now, as the kernel shows them | `done` |
//! | `settings`: what it was started with, that a remount cannot change | its `-o` words |
//! | `log FILTER`: log by this filter from now on | `done`, or `failed WHY` |
//! | `cluster`: read the cluster file again; `cluster PATH`: that one, from now on | `done`, or `failed WHY` |
//! | `min-spare N`: store only while so many more disks may be lost | `done`, or `failed WHY` |
//! | `status`: how the volume is, as `ashlar status` tells it | `answer JSON`, or `failed WHY` |
//! | `scrub`: have all disks read and verify everything | `begun N`, of so many disks, or `failed WHY` |
//! | `fsck WORDS`: check the volume ([`crate::fsck`]) | `at N M`, of so many blobs, again and again; then `found JSON`, or `failed WHY` |
//! | `trash ORDER`: what is in the trash, or comes out of it ([`crate::trash::orders`]), as JSON | `answer JSON`, or `failed WHY` |
//! | `trash-days N`: what is deleted stays in the trash for so many days | `done`, or `failed WHY` |
//! | `accounts ORDER`: who may come by a door ([`crate::access::orders`]), as JSON | `answer JSON`, or `failed WHY` |
//! | `mounted`: does the kernel still have it, in any mount namespace? | `elsewhere`, or `done` |
//! | `quit`: at the end, give up what cannot be stored | `done` |
//!
//! When the mount has ended, every caller is told `ended stored` or `ended failed WHY`. The
//! connection lasts as long as the process: where it breaks without such a word, the process died.

use std::io::{self, BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use proto::guard::caught_in;
use proto::observe::change_filter;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::orders::Order;
use crate::error::DataError;
use crate::filesystem::Filesystem;
use crate::filesystem::atime::AtimeRules;
use crate::fsck::Wish;
use crate::fuse::NOISE;
use crate::fuse::synced::Synced;
use crate::mount::follow::Way;
use crate::mount::mountpoint::{self, MountEntry};
use crate::mount::tasks;
use crate::trash;

/// How long `store` goes on trying: disks that come back soon do not make an umount fail.
const TRY_TO_STORE: Duration = Duration::from_secs(8);
/// Wait between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// A name is taken until the last mount of the volume has noticed that the kernel let go of it.
const WAIT_FOR_NAME: Duration = Duration::from_secs(2);
/// Wait between two calls of one who does not answer.
const CALL_AGAIN: Duration = Duration::from_millis(10);
/// How often who has a volume checked hears how far that is.
const TELL_HOW_FAR: Duration = Duration::from_millis(500);
/// How long callers may take to be told of the end.
const TELLING: Duration = Duration::from_secs(1);

fn address(mount: &MountEntry) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("ashlar-mount/{}/{}", mount.device, mount.source))
}

/// Takes the desk's name, as soon as the last mount of that number has let go of it.
async fn listen(mount: &MountEntry) -> io::Result<tokio::net::UnixListener> {
    let address = address(mount)?;
    loop {
        match UnixListener::bind_addr(&address) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                tokio::time::sleep(TRY_AGAIN / 10).await;
            }
            bound => {
                let listener = bound?;
                listener.set_nonblocking(true)?;
                return tokio::net::UnixListener::from_std(listener);
            }
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The serving side.
pub(crate) struct Desk {
    /// No further callers.
    closed: CancellationToken,
    given_up: CancellationToken,
    ended: watch::Sender<Option<String>>,
    callers: TaskTracker,
    serving: Option<JoinHandle<()>>,
}

impl Desk {
    /// Opens the desk of this mount.
    pub(crate) async fn open(
        mount: &MountEntry,
        settings: String,
        filesystem: Arc<Filesystem>,
        synced: Arc<Synced>,
        way: Way,
    ) -> io::Result<Self> {
        let listener = match tokio::time::timeout(WAIT_FOR_NAME, listen(mount)).await {
            Ok(listener) => Some(listener?),
            // The process of the last mount of that number is stopped, or hangs: later, then.
            Err(_) => None,
        };
        let (ended, _) = watch::channel(None);
        let (closed, given_up) = (CancellationToken::new(), CancellationToken::new());
        let callers = TaskTracker::new();
        let mut desk = Self { closed, given_up, ended, callers, serving: None };
        let (closed, given_up) = (desk.closed.clone(), desk.given_up.clone());
        let answering = Answering { fs: filesystem, synced, settings, way, closed, given_up };
        desk.serving = Some(tokio::spawn(desk.serve(mount.clone(), listener, answering)));
        Ok(desk)
    }

    fn serve(
        &self,
        mount: MountEntry,
        listener: Option<tokio::net::UnixListener>,
        answering: Answering,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (closed, callers, ended) =
            (self.closed.clone(), self.callers.clone(), self.ended.clone());
        let attend = move |stream: tokio::net::UnixStream| {
            let owner = nix::unistd::geteuid().as_raw();
            if stream.peer_cred().is_ok_and(|peer| [0, owner].contains(&peer.uid())) {
                callers.spawn(answering.clone().attend(stream, ended.subscribe()));
            }
        };
        async move {
            let listener = match listener {
                Some(listener) => listener,
                None => match closed.run_until_cancelled(listen(&mount)).await {
                    Some(Ok(listener)) => listener,
                    _ => return,
                },
            };
            while let Some(accepted) = closed.run_until_cancelled(listener.accept()).await {
                match accepted {
                    Ok((stream, _)) => attend(stream),
                    // For want of file descriptors, say: who calls waits until there are some.
                    Err(_) => tokio::time::sleep(TRY_AGAIN).await,
                }
            }
            // Who has called before the end is heard.
            let Ok(listener) = listener.into_std() else { return };
            while let Ok((stream, _)) = listener.accept() {
                let stream = stream.set_nonblocking(true).map(|()| stream);
                stream.and_then(tokio::net::UnixStream::from_std).into_iter().for_each(&attend);
            }
        }
    }

    /// The kernel has let go of the mount: its device number may be another's from now on.
    pub(crate) async fn close(&mut self) {
        self.closed.cancel();
        if let Some(serving) = self.serving.take() {
            // What is left to do at the end is more than to answer.
            serving.await.unwrap_or_else(|e| tracing::error!("the desk of the mount: {e}"));
        }
    }

    /// Returns when somebody asks not to wait for what cannot be stored.
    pub(crate) async fn given_up(&self) {
        self.given_up.cancelled().await;
    }

    /// Tells every caller how it ended.
    pub(crate) async fn tell(&self, failed: Option<String>) {
        let words = failed.map_or("stored".to_owned(), |why| format!("failed {}", one_line(&why)));
        self.ended.send_replace(Some(words));
        self.callers.close();
        // One who does not read is not waited for.
        let _ = tokio::time::timeout(TELLING, self.callers.wait()).await;
    }
}

/// What it takes to answer one caller.
#[derive(Clone)]
struct Answering {
    fs: Arc<Filesystem>,
    synced: Arc<Synced>,
    settings: String,
    way: Way,
    closed: CancellationToken,
    given_up: CancellationToken,
}

impl Answering {
    /// Serves a caller until it goes, or until the end, of which it is told.
    async fn attend(
        self,
        stream: tokio::net::UnixStream,
        mut ended: watch::Receiver<Option<String>>,
    ) {
        let (requests, mut answers) = stream.into_split();
        let mut requests = tokio::io::BufReader::new(requests).lines();
        let outcome = loop {
            let request = tokio::select! {
                Ok(outcome) = ended.wait_for(Option::is_some) => break outcome.clone(),
                request = requests.next_line() => request,
            };
            let Ok(Some(request)) = request else { return };
            if let Some(words) = request.strip_prefix("fsck") {
                tokio::select! {
                    Ok(outcome) = ended.wait_for(Option::is_some) => break outcome.clone(),
                    told = self.fsck(words, &mut answers) => match told {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                }
            }
            let answer = caught_in("answering umount or mount", self.answer(&request)).await;
            let answer = answer.unwrap_or_else(|e| format!("failed {}", one_line(&e.to_string())));
            if answers.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                return;
            }
        };
        let words = format!("ended {}\n", outcome.unwrap_or_default());
        // A caller that has gone does not want to know.
        let _ = answers.write_all(words.as_bytes()).await;
        // The process closes it with its end, which the caller waits for.
        std::mem::forget((requests, answers));
    }

    async fn answer(&self, request: &str) -> String {
        match request {
            "store" => return self.store().await,
            "mounted" if !self.closed.is_cancelled() => return "elsewhere".to_owned(),
            "mounted" => {}
            "quit" => self.given_up.cancel(),
            "settings" => return self.settings.clone(),
            "cluster" => return self.read_again(None).await,
            "scrub" => return self.scrub().await,
            other => match other.split_once(' ') {
                Some(("status", _)) => return self.status().await,
                Some(("accounts", order)) => return self.accounts(order).await,
                Some(("trash", order)) => return self.trash(order).await,
                Some(("trash-days", days)) => return self.trash_days(days).await,
                Some(("remounted", words)) => self.remounted(words).await,
                Some(("cluster", file)) => return self.read_again(Some(file.into())).await,
                Some(("min-spare", disks)) => match disks.parse() {
                    Ok(disks) => match self.fs.set_min_spare(disks).await {
                        Ok(()) => {}
                        Err(why) => return format!("failed {}", one_line(&why.to_string())),
                    },
                    Err(_) => return format!("failed {disks} is no number of disks"),
                },
                Some(("log", filter)) => match change_filter(Some(filter), "info", Some(NOISE)) {
                    Ok(()) => {}
                    Err(e) => return format!("failed {}", one_line(&e.to_string())),
                },
                _ => return format!("failed there is no request {other}"),
            },
        }
        "done".to_owned()
    }

    async fn read_again(&self, file: Option<PathBuf>) -> String {
        match self.way.read_again(file).await {
            Ok(()) => "done".to_owned(),
            Err(why) => format!("failed {}", one_line(&why.to_string())),
        }
    }

    /// No word of an order is logged, nor is it repeated: it may have secrets.
    async fn accounts(&self, order: &str) -> String {
        let Ok(order) = serde_json::from_str::<Order>(order) else {
            return "failed this is no order about accounts that is known here".to_owned();
        };
        match order.obey(&*self.fs.meta).await {
            Ok(answer) => match serde_json::to_string(&answer) {
                Ok(json) => format!("answer {json}"),
                Err(why) => format!("failed {}", one_line(&why.to_string())),
            },
            Err(why) => format!("failed {}", one_line(&why.to_string())),
        }
    }

    async fn trash_days(&self, days: &str) -> String {
        let Ok(days) = days.parse() else { return format!("failed {days} is no number of days") };
        match self.fs.set_trash_days(days).await {
            Ok(()) => "done".to_owned(),
            Err(why) => format!("failed {}", one_line(&why.to_string())),
        }
    }

    async fn trash(&self, order: &str) -> String {
        let Ok(order) = serde_json::from_str::<trash::orders::Order>(order) else {
            return "failed this is no order about the trash that is known here".to_owned();
        };
        if self.fs.is_read_only() && !order.only_looks() {
            return "failed it is mounted for reading only".to_owned();
        }
        let by = nix::unistd::geteuid().as_raw();
        let told = |attr| self.fs.overlay(attr);
        let mut done = trash::back::Done::default();
        let answer = order.obey(&*self.fs.meta, by, &told, &mut done).await;
        self.fs.came_back(done.outdated, &done.inos).await;
        let json = answer.map_err(|why| why.to_string());
        match json.and_then(|answer| serde_json::to_string(&answer).map_err(|e| e.to_string())) {
            Ok(json) => format!("answer {json}"),
            Err(why) => format!("failed {}", one_line(&why)),
        }
    }

    async fn status(&self) -> String {
        let status = Box::pin(self.fs.status()).await.map_err(|why| why.to_string());
        match status.and_then(|status| serde_json::to_string(&status).map_err(|e| e.to_string())) {
            Ok(json) => format!("answer {json}"),
            Err(why) => format!("failed {}", one_line(&why)),
        }
    }

    async fn scrub(&self) -> String {
        match tasks::scrub(&self.fs).await {
            Ok(disks) => format!("begun {disks}"),
            Err(why) => format!("failed {}", one_line(&why)),
        }
    }

    /// Checks the volume, and says how far it is meanwhile.
    ///
    /// # Errors
    /// When the caller has gone: then nobody wants to know.
    async fn fsck(&self, words: &str, answers: &mut OwnedWriteHalf) -> io::Result<()> {
        let at = watch::Sender::new((0, 0));
        let checking = caught_in("checking the volume", self.checked(words, &at));
        tokio::pin!(checking);
        let mut tick = tokio::time::interval(TELL_HOW_FAR);
        let found = loop {
            tokio::select! {
                found = &mut checking => break found,
                _ = tick.tick() => {
                    let (done, all) = *at.borrow();
                    answers.write_all(format!("at {done} {all}\n").as_bytes()).await?;
                }
            }
        };
        let answer = match found {
            Ok(Ok(found)) => format!("found {found}\n"),
            Ok(Err(why)) => format!("failed {}\n", one_line(&format!("{why:#}"))),
            Err(why) => format!("failed {}\n", one_line(&why.to_string())),
        };
        answers.write_all(answer.as_bytes()).await
    }

    async fn checked(&self, words: &str, at: &watch::Sender<(u64, u64)>) -> anyhow::Result<String> {
        let wish = Wish::of(words).context("these are no words of fsck")?;
        let told = |done, all| {
            at.send_replace((done, all));
        };
        Ok(serde_json::to_string(&tasks::checked(&self.fs, wish, &told).await?)?)
    }

    async fn remounted(&self, words: &str) {
        self.synced.set(words.split(',').any(|word| word == "sync"));
        self.fs.reads_only(words.split(',').any(|word| word == "ro"));
        self.fs.tell_reads().await;
        self.fs.atimes.obey(AtimeRules::shown(words));
    }

    async fn store(&self) -> String {
        let deadline = Instant::now() + TRY_TO_STORE;
        loop {
            match self.fs.data.sync_all().await {
                Ok(()) => return "stored".to_owned(),
                Err(e @ DataError::Gone(_)) => {
                    return format!("failed {}", one_line(&e.to_string()));
                }
                Err(_) if !self.fs.is_stopped() && Instant::now() < deadline => {
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(e) => return format!("failed {}", one_line(&e.to_string())),
            }
        }
    }
}

/// How a mount has ended, as its process said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything is stored.
    Stored,
    /// Something is not: why.
    Failed(String),
    /// The process died before it had stored everything.
    Died,
    /// It has not: it is mounted in another mount namespace.
    Elsewhere,
}

/// The calling side: one connection to the process that serves a mount.
pub(crate) struct ControlClient {
    stream: BufReader<UnixStream>,
    /// The process.
    pub(crate) pid: u32,
    /// How it has ended, once it has said so.
    ended: Option<Ended>,
}

impl ControlClient {
    /// Calls the process that serves this mount. `None`: nobody answers.
    pub(crate) fn call(mount: &MountEntry) -> Option<Self> {
        let stream = UnixStream::connect_addr(&address(mount).ok()?).ok()?;
        let peer = getsockopt(&stream, PeerCredentials).ok()?;
        // Names are anybody's: only root and ourselves are believed.
        let believed = [0, nix::unistd::geteuid().as_raw()].contains(&peer.uid());
        let pid = u32::try_from(peer.pid()).ok()?;
        believed.then(|| Self { stream: BufReader::new(stream), pid, ended: None })
    }

    /// The same, for a mount that may not have opened its desk yet: the kernel shows it a moment before.
    pub(crate) fn call_patiently(mount: &MountEntry, patience: Duration) -> Option<Self> {
        let deadline = Instant::now() + patience;
        loop {
            let caller = Self::call(mount);
            if caller.is_some() || Instant::now() >= deadline || mountpoint::is_dead(&mount.path) {
                return caller;
            }
            std::thread::sleep(CALL_AGAIN);
        }
    }

    /// The next line, if it comes in time; empty at the end.
    fn hear(&mut self, deadline: Instant) -> io::Result<String> {
        let left = deadline.saturating_duration_since(Instant::now());
        let bound = left.max(Duration::from_millis(1));
        self.stream.get_ref().set_read_timeout(Some(bound))?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn say(&mut self, request: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())
    }

    /// Has everything stored.
    ///
    /// # Errors
    /// Why not. The mount goes on.
    pub(crate) fn store(&mut self, patience: Duration) -> Result<(), String> {
        let asked = self.say("store").and_then(|()| self.hear(Instant::now() + patience));
        match asked.map_err(|_| format!("process {} does not answer", self.pid))?.as_str() {
            "stored" => Ok(()),
            words => Err(words.trim_start_matches("failed ").to_owned()),
        }
    }

    /// Tells that the mount was remounted, and which options the kernel shows since.
    pub(crate) fn remounted(&mut self, options: &str, patience: Duration) -> io::Result<()> {
        self.say(&format!("remounted {options}"))?;
        self.hear(Instant::now() + patience).map(drop)
    }

    /// What it was started with, as `-o` words.
    pub(crate) fn settings(&mut self, patience: Duration) -> io::Result<String> {
        self.say("settings")?;
        self.hear(Instant::now() + patience)
    }

    /// Has it log by another filter.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn log(&mut self, filter: &str, patience: Duration) -> Result<(), String> {
        let asked = self.say(&format!("log {filter}"));
        match asked.and_then(|()| self.hear(Instant::now() + patience)).as_deref() {
            Ok("done") => Ok(()),
            Ok(words) => Err(words.trim_start_matches("failed ").to_owned()),
            Err(_) => Err(format!("process {} does not answer", self.pid)),
        }
    }

    /// Has it read its cluster file again, or this one from now on.
    ///
    /// # Errors
    /// Why it goes on by what it had.
    pub(crate) fn read_again(
        &mut self,
        file: Option<&Path>,
        patience: Duration,
    ) -> Result<(), String> {
        let request =
            file.map_or("cluster".to_owned(), |file| format!("cluster {}", file.display()));
        self.have(&request, patience)
    }

    /// Has it store only while so many more disks may be lost.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn set_min_spare(&mut self, disks: u8, patience: Duration) -> Result<(), String> {
        self.have(&format!("min-spare {disks}"), patience)
    }

    /// Has it keep what is deleted in the trash for so many days.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn set_trash_days(&mut self, days: u16, patience: Duration) -> Result<(), String> {
        self.have(&format!("trash-days {days}"), patience)
    }

    /// Has it do what it answers with `done`, or why not.
    fn have(&mut self, request: &str, patience: Duration) -> Result<(), String> {
        let asked = self.say(request);
        match asked.and_then(|()| self.hear(Instant::now() + patience)).as_deref() {
            Ok("done") => Ok(()),
            Ok(words) => Err(words.trim_start_matches("failed ").to_owned()),
            Err(_) => Err(format!("process {} does not answer", self.pid)),
        }
    }

    /// Has it do something about the volume's accounts. What it answers, as JSON.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn accounts(&mut self, order: &str, patience: Duration) -> Result<String, String> {
        self.order("accounts", order, patience)
    }

    /// Has it do something about the volume's trash. What it answers, as JSON.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn trash(&mut self, order: &str, patience: Duration) -> Result<String, String> {
        self.order("trash", order, patience)
    }

    /// How its volume is, as JSON.
    ///
    /// # Errors
    /// Why it does not say.
    pub(crate) fn status(&mut self, patience: Duration) -> Result<String, String> {
        self.order("status", "", patience)
    }

    fn order(&mut self, what: &str, order: &str, patience: Duration) -> Result<String, String> {
        let asked = self.say(&format!("{what} {order}"));
        let words = asked.and_then(|()| self.hear(Instant::now() + patience));
        let words = words.map_err(|_| format!("process {} does not answer", self.pid))?;
        match words.strip_prefix("answer ") {
            Some(json) => Ok(json.to_owned()),
            None => Err(words.trim_start_matches("failed ").to_owned()),
        }
    }

    /// Has all disks read and verify everything: how many have begun.
    ///
    /// # Errors
    /// Why none has.
    pub(crate) fn scrub(&mut self, patience: Duration) -> Result<usize, String> {
        let asked = self.say("scrub").and_then(|()| self.hear(Instant::now() + patience));
        let words = asked.map_err(|_| format!("process {} does not answer", self.pid))?;
        let begun = words.strip_prefix("begun ").and_then(|disks| disks.parse().ok());
        begun.ok_or_else(|| words.trim_start_matches("failed ").to_owned())
    }

    /// Has it check its volume; `told` hears how many blobs of how many are examined. What it has found, as JSON.
    ///
    /// # Errors
    /// Why it could not.
    pub(crate) fn fsck(
        &mut self,
        words: &str,
        patience: Duration,
        told: impl Fn(u64, u64),
    ) -> Result<String, String> {
        let dumb = |pid| move |_| format!("process {pid} does not answer");
        self.say(&format!("fsck {words}")).map_err(dumb(self.pid))?;
        loop {
            let line = self.hear(Instant::now() + patience).map_err(dumb(self.pid))?;
            match line.split_once(' ') {
                Some(("at", numbers)) => {
                    let numbers = numbers.split_once(' ');
                    let number = |text: &str| text.parse().unwrap_or_default();
                    numbers.into_iter().for_each(|(done, all)| told(number(done), number(all)));
                }
                Some(("found", json)) => return Ok(json.to_owned()),
                Some(("failed", why)) => return Err(why.to_owned()),
                // It has ended meanwhile, one way or the other.
                _ => return Err("it was unmounted before the check had ended".to_owned()),
            }
        }
    }

    /// Asks whether the kernel still has the mount, out of our sight: [`ControlClient::end`] hears it.
    pub(crate) fn ask_elsewhere(&mut self) {
        let _ = self.say("mounted");
    }

    /// Asks that what cannot be stored be given up when the mount has ended.
    pub(crate) fn quit(&mut self) {
        // One who does not hear it is waited for in vain anyway.
        let _ = self.say("quit");
    }

    /// Waits until the mount has ended and with it the process. `None`: it has not, in this time.
    pub(crate) fn end(&mut self, patience: Duration) -> Option<Ended> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(ended) = self.ended.clone() {
                return self.gone(deadline).then_some(ended);
            }
            let line = match self.hear(deadline) {
                Ok(line) => line,
                Err(e) if is_timeout(&e) => return None,
                Err(_) => String::new(),
            };
            match line.strip_prefix("ended ") {
                _ if line.is_empty() => return Some(Ended::Died),
                _ if line == "elsewhere" => return Some(Ended::Elsewhere),
                None => {}
                Some("stored") => self.ended = Some(Ended::Stored),
                Some(words) => {
                    let why = words.trim_start_matches("failed ").to_owned();
                    self.ended = Some(Ended::Failed(why));
                }
            }
        }
    }

    /// Waits for the end of the process: that of its connection, unless a thread of it waits for a disk
    /// that hangs, which no kernel interrupts.
    fn gone(&mut self, deadline: Instant) -> bool {
        loop {
            match self.hear(deadline.min(Instant::now() + TRY_AGAIN)) {
                Err(e) if is_timeout(&e) && !runs(self.pid) => return true,
                Err(e) if is_timeout(&e) && Instant::now() < deadline => {}
                Err(e) if is_timeout(&e) => return false,
                _ => return true,
            }
        }
    }
}

/// Whether a process goes on. One that only waits for its parent to notice its end does not, nor does
/// one of which only threads are left that the kernel does not let go of.
fn runs(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| !stat.ended)
}

/// Whether any thread of a process is left. The one that stands for the process may have ended before
/// the others, and until they have, the process is there for its parent, and what it held is held.
pub(crate) fn has_threads(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.has_threads())
}

/// What `/proc/PID/stat` says of a process (proc_pid_stat(5)).
struct Stat {
    /// Its first thread has ended; the process stays for its parent and the other threads.
    ended: bool,
    threads: u32,
}

impl Stat {
    /// `None`: there is no such process.
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name may hold anything, also brackets and spaces: what follows it is field 3.
        let fields = stat.rsplit_once(')')?.1;
        let mut fields = fields.split_ascii_whitespace();
        let ended = fields.next()?.starts_with('Z');
        Some(Self { ended, threads: fields.nth(16)?.parse().ok()? })
    }

    fn has_threads(&self) -> bool {
        !self.ended || self.threads > 1
    }
}

/// Everywhere that this process shows this volume.
pub(crate) fn places(volume: &str, pid: u32) -> Vec<MountEntry> {
    let serves =
        |mount: &MountEntry| ControlClient::call(mount).is_some_and(|caller| caller.pid == pid);
    let of_it = mountpoint::volumes().into_iter().filter(|mount| mount.source == volume);
    of_it.filter(serves).collect()
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_that_had_the_same_number_have_different_names() {
        let mount = |source: &str| MountEntry::example(source, "/", "/mnt");
        let _ending = UnixListener::bind_addr(&address(&mount("photos")).unwrap()).unwrap();
        let longest = "x".repeat(64);
        let _new = UnixListener::bind_addr(&address(&mount(&longest)).unwrap()).unwrap();
        assert!(ControlClient::call(&mount(&longest)).is_some());
        assert!(ControlClient::call(&mount("letters")).is_none());
    }

    #[test]
    fn a_process_has_threads_until_its_last_one_has_ended() {
        let stat = |state: char, threads: u32| {
            let rest = "1 2 2 0 -1 4194304 10 0 0 0 5 6 0 0 20 0";
            Stat::parse(&format!("7 (an) odd) name) {state} {rest} {threads} 0 99 0 0")).unwrap()
        };
        assert!(stat('S', 9).has_threads());
        assert!(stat('Z', 2).has_threads(), "its first thread ended before another");
        assert!(!stat('Z', 1).has_threads(), "only its parent has not noticed");
        assert!(has_threads(std::process::id()) && runs(std::process::id()));
    }

    #[test]
    fn what_a_process_said_of_its_end_counts_however_long_it_takes_to_end() {
        let mount = MountEntry::example("slow", "/", "/mnt");
        let desk = UnixListener::bind_addr(&address(&mount).unwrap()).unwrap();
        let mut caller = ControlClient::call(&mount).unwrap();
        let (mut process, _) = desk.accept().unwrap();
        process.write_all(b"ended stored\n").unwrap();
        assert_eq!(caller.end(Duration::from_millis(50)), None, "it has not ended yet");
        drop(process);
        assert_eq!(caller.end(Duration::from_secs(10)), Some(Ended::Stored));
    }
}
