//! The command line of `proxyd`: serves blobs over gRPC, and handles single blobs for debugging.

use std::ffi::OsString;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use proto::cluster::{Cluster, DEFAULT_FILE};
use proto::id::{BlobId, SessionId, VolumeId};
use proto::limits::MAX_BLOB;
use proto::listen::Listen;
use proto::observe::init_logs;
use proto::program::{self, complain};
use proto::signals::{self, Hangup};
use proto::tls::Acceptor;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::blob_store::BlobStore;
use crate::proxy::live::LiveProxy;
use crate::proxy::standing::Founded;
use crate::proxy::{Proxy, ProxySettings};
use crate::service::{ServeError, serve};

/// How long disks are waited for at the start.
const ROLL_CALL: Duration = Duration::from_millis(2500);

/// How often a cluster file is read again that is older than what disks know.
const AGAIN: Duration = Duration::from_secs(2);

/// Keeps erasure-coded blobs on the slots of an Ashlar cluster.
#[derive(Debug, Parser)]
#[command(name = "proxyd", version = proto::VERSION)]
pub struct Cli {
    /// What to log: error, warn, info, debug, or a filter such as proxy=debug
    /// [default: $RUST_LOG, or info for run and error for blob]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve blobs over gRPC until told to stop (SIGTERM or Ctrl-C). SIGHUP has the cluster file read again.
    #[command(after_help = "Example: proxyd run --cluster cluster.toml --listen 127.0.0.1:7412")]
    Run(Run),
    /// Put, get and inspect single blobs.
    #[command(subcommand)]
    Blob(Blob),
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    cluster: ClusterFile,
    /// Where to listen, as in 10.0.0.1:7412; :7412 is every address of the machine. Other machines are
    /// served by TLS, as far as they are of the cluster.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7412")]
    listen: Listen,
    /// Where to serve Prometheus metrics.
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<Listen>,
}

#[derive(Debug, Args)]
struct ClusterFile {
    /// The file that lists the cluster's slots.
    #[arg(
        long = "cluster",
        value_name = "FILE",
        env = "ASHLAR_CLUSTER",
        default_value = DEFAULT_FILE
    )]
    path: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Blob {
    /// Store a file, or standard input, as one blob.
    #[command(
        after_help = "Example: head -c 4096 /dev/urandom | proxyd blob put '1-3-17-0-4096-ec(4,2)' --cluster cluster.toml"
    )]
    Put {
        /// VOLUME-SESSION-SEQUENCE-GROUP-LENGTH-SCHEME.
        id: BlobId,
        /// The bytes: as many as the id says.
        file: Option<PathBuf>,
        #[command(flatten)]
        cluster: ClusterFile,
    },
    /// Write a blob, or a range of it, to standard output.
    #[command(
        after_help = "Example: proxyd blob get '1-3-17-0-4096-ec(4,2)' --range 0..100 --cluster cluster.toml"
    )]
    Get {
        /// VOLUME-SESSION-SEQUENCE-GROUP-LENGTH-SCHEME.
        id: BlobId,
        /// Only these bytes, from START to before END.
        #[arg(long, value_name = "START..END", value_parser = parse_range)]
        range: Option<Range<u32>>,
        #[command(flatten)]
        cluster: ClusterFile,
    },
    /// Show where each part of a blob is, slot by slot.
    #[command(
        after_help = "Example: proxyd blob stat '1-3-17-0-4096-ec(4,2)' --cluster cluster.toml"
    )]
    Stat {
        /// VOLUME-SESSION-SEQUENCE-GROUP-LENGTH-SCHEME.
        id: BlobId,
        #[command(flatten)]
        cluster: ClusterFile,
    },
    /// Delete blobs.
    #[command(
        after_help = "Example: proxyd blob rm '1-3-17-0-4096-ec(4,2)' --cluster cluster.toml"
    )]
    Rm {
        /// VOLUME-SESSION-SEQUENCE-GROUP-LENGTH-SCHEME, one or more.
        #[arg(required = true)]
        ids: Vec<BlobId>,
        #[command(flatten)]
        cluster: ClusterFile,
    },
    /// List the blobs of one session.
    #[command(after_help = "Example: proxyd blob ls 1 3 --cluster cluster.toml")]
    Ls {
        /// Number of the volume.
        volume: u32,
        /// Number of the session.
        session: u64,
        #[command(flatten)]
        cluster: ClusterFile,
    },
}

fn parse_range(text: &str) -> Result<Range<u32>, String> {
    let parse = || {
        let (start, end) = text.split_once("..")?;
        Some(start.parse().ok()?..end.parse().ok()?)
    };
    let range: Option<Range<u32>> = parse().filter(|range: &Range<u32>| !range.is_empty());
    range.ok_or_else(|| "expected START..END with START below END, as in 0..100".to_owned())
}

/// The whole program; the first argument is its name. An error is one sentence on stderr and exit
/// code 1; wrong usage is exit code 2.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match program::parse::<Cli>(args) {
        Ok(cli) => program::exit_code("proxyd", cli.run(), ExitCode::FAILURE),
        Err(code) => code,
    }
}

impl Cli {
    /// Does what the command line says.
    fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Runtime::new().context("starting threads")?;
        let log = self.log.as_deref();
        match self.command {
            Command::Run(run) => {
                init_logs(log, "info", None)?;
                runtime.block_on(run.run())?;
            }
            Command::Blob(blob) => {
                // People are told by the command itself: they want no log beside it.
                init_logs(log, "error", None)?;
                runtime.block_on(blob.run())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl ClusterFile {
    async fn connect(&self) -> anyhow::Result<Arc<Proxy>> {
        let cluster = Cluster::read(&self.path)?;
        Ok(Proxy::from_cluster(&cluster, ProxySettings::default())?)
    }
}

impl Run {
    async fn run(self) -> anyhow::Result<()> {
        let hangup = Arc::new(Notify::new());
        let told = hangup.clone();
        let reload = move || told.notify_one();
        let stop = signals::take("proxyd", Hangup::Reloads(Box::new(reload)))?;
        // Before the proxy: it counts on the recorder that is there when it is made.
        if let Some(address) = &self.metrics {
            proto::metrics_server::serve_metrics(address)?;
        }
        let proxy = self.cluster.connect().await?;
        found(&proxy).await?;
        let cluster = Cluster::read(&self.cluster.path)?;
        let (id, identity, insecure) =
            (cluster.cluster, cluster.identity.clone(), cluster.insecure);
        let proxy = LiveProxy::new(proxy);
        let path = std::path::absolute(&self.cluster.path).context("the cluster file")?;
        let following = tokio::spawn(follow(proxy.clone(), path, cluster, hangup));
        let address = self.listen;
        let identity = identity.as_deref();
        let acceptor = Acceptor::listening(&address, identity, id, insecure)?;
        if !acceptor.is_secure() && !address.is_here() {
            tracing::warn!(
                "listening on {address} without TLS: whoever reaches it can read and delete"
            );
        }
        let listener = TcpListener::bind(address.addresses()).await;
        let listener = listener.map_err(|source| ServeError::Listen { address, source })?;
        tracing::info!(address = %listener.local_addr()?, "serving");
        serve(proxy, (listener, acceptor), async move { stop.cancelled().await }).await?;
        following.abort();
        tracing::info!("stopped");
        Ok(())
    }
}

/// Follows the cluster file: reads it again when told to, and when disks know a newer generation.
async fn follow(proxy: Arc<LiveProxy>, path: PathBuf, mut cluster: Cluster, hangup: Arc<Notify>) {
    let mut missed = false;
    loop {
        let outdated = async {
            if missed {
                tokio::time::sleep(AGAIN).await;
                proxy.give_up(None);
            }
            proxy.outdated().await
        };
        let known = tokio::select! {
            known = outdated => Some(known),
            () = hangup.notified() => None,
        };
        let followed = read_again(&proxy, &path, &cluster).await;
        let told = missed;
        missed = known.is_some();
        match followed {
            Ok(newer) => {
                missed &= known > Some(newer.generation);
                cluster = newer;
                tracing::info!(generation = %cluster.generation, "the cluster file was read again");
            }
            Err(why) if !told => tracing::warn!("the cluster file is not taken: {why:#}"),
            Err(_) => {}
        }
        proxy.give_up(known.filter(|_| missed));
    }
}

/// Goes on by the file as it is now, unless that is older.
async fn read_again(proxy: &LiveProxy, path: &Path, before: &Cluster) -> anyhow::Result<Cluster> {
    let reading = path.to_owned();
    let cluster = tokio::task::spawn_blocking(move || Cluster::read(&reading)).await??;
    ensure!(cluster.cluster == before.cluster, "it is of another cluster");
    let (is, was) = (cluster.generation, before.generation);
    ensure!(is >= was, "it is of generation {is}, and this program goes by {was}");
    if cluster != *before {
        let next = Proxy::from_cluster(&cluster, ProxySettings::default())?;
        next.roll_call(ROLL_CALL).await;
        proxy.replace(next).await;
    }
    Ok(cluster)
}

/// A group that is new begins to serve, when all of its disks are there.
async fn found(proxy: &Proxy) -> anyhow::Result<()> {
    proxy.roll_call(ROLL_CALL).await;
    match proxy.found().await {
        Ok(Founded::Now | Founded::Before) => {}
        Ok(Founded::Unheard(slots)) => tracing::warn!(
            "{slots} disks are not there: should the group be new, start again when they are, before it is used"
        ),
        Err((slot, why)) => anyhow::bail!("slot {slot} does not take part in a new group: {why}"),
    }
    Ok(())
}

impl Blob {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Put { id, file, cluster } => {
                let data = read_blob(file.as_deref())?;
                let (given, len) = (data.len(), id.len());
                ensure!(given == len as usize, "{given} bytes given, but {id} has {len}");
                let stored = cluster.connect().await?.put(id, data).await?;
                program::say(if stored.degraded { "stored, degraded" } else { "stored" })?;
            }
            Self::Get { id, range, cluster } => {
                let range = range.unwrap_or(0..id.len());
                let data = cluster.connect().await?.get(id, range).await?;
                program::write(&data)?;
            }
            Self::Stat { id, cluster } => stat(&*cluster.connect().await?, id).await?,
            Self::Rm { ids, cluster } => {
                let left = cluster.connect().await?.delete(&ids).await;
                for id in &left {
                    complain("proxyd", format!("not every slot has confirmed: {id}"));
                }
                ensure!(left.is_empty(), "{} of {} not deleted everywhere", left.len(), ids.len());
            }
            Self::Ls { volume, session, cluster } => {
                let proxy = cluster.connect().await?;
                let (volume, session, mut after) = (VolumeId(volume), SessionId(session), None);
                'pages: loop {
                    let page = proxy.list(volume, session, after).await?.blobs;
                    let Some(last) = page.last() else { break };
                    after = Some(*last);
                    for id in page {
                        if !program::say(id)? {
                            break 'pages;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// At most one byte more than a blob may have: enough to see that it is too much.
fn read_blob(file: Option<&Path>) -> anyhow::Result<Bytes> {
    let mut data = Vec::new();
    let limit = u64::from(MAX_BLOB) + 1;
    match file {
        Some(path) => {
            let name = || path.display().to_string();
            let file = std::fs::File::open(path).with_context(name)?;
            file.take(limit).read_to_end(&mut data).with_context(name)?;
        }
        None => {
            std::io::stdin().take(limit).read_to_end(&mut data).context("standard input")?;
        }
    }
    if data.len() as u64 == limit {
        bail!("a blob has at most {MAX_BLOB} bytes");
    }
    Ok(data.into())
}

async fn stat(proxy: &Proxy, id: BlobId) -> Result<(), program::Unsaid> {
    program::say(format!("{:>4}  {:<8}  {:<24}  parts", "slot", "role", "domain"))?;
    for slot in proxy.stat(id).await {
        let holds = match slot.held {
            Ok(held) if held.deleted => "deleted".to_owned(),
            Ok(held) if held.parts.is_empty() => "-".to_owned(),
            Ok(held) => {
                let parts: Vec<_> = held.parts.iter().map(|part| part.to_string()).collect();
                parts.join(" ")
            }
            Err(why) => why.to_string(),
        };
        let role = if slot.main { "main" } else { "handoff" };
        program::say(format!("{:>4}  {role:<8}  {:<24}  {holds}", slot.slot, slot.domain))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn ranges() {
        assert_eq!(parse_range("0..100"), Ok(0..100));
        for bad in ["", "1", "5..5", "7..3", "-1..4", "a..b", "0...3", "..", "0..99999999999"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
