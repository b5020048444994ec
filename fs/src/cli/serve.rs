//! `ashlar serve`: one volume of a cluster by doors, without any mount.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use proto::program::say;
use proto::signals::{self, Hangup};
use proto::size::Size;
use proto::systemd;
use tokio::sync::Notify;

use super::care::Care;
use super::doors::{self, DoorArgs};
use super::request::at_least;
use super::setup::{ClusterFile, block_on};
use super::{background, directories};
use crate::data::DataSettings;
use crate::doors::WantedDoors;
use crate::mount::{OpenVolume, Server, VolumePlan};

/// Serve a volume by HTTP, and as key-value, without mounting it
///
/// Runs in the foreground until it is told to end (SIGTERM, Ctrl-C), and stores everything first. SIGHUP has it read
/// the cluster file again. A volume that is served cannot be mounted, and the other way round: `ashlar mount --http`
/// does both in one process.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  ashlar serve photos --http 127.0.0.1:7480 --cluster /etc/ashlar/cluster.toml"
)]
pub(super) struct Args {
    /// Name of the volume, as given to `ashlar format`
    volume: String,
    #[command(flatten)]
    cluster: ClusterFile,
    #[command(flatten)]
    doors: DoorArgs,
    #[command(flatten)]
    care: Care,
    /// Memory for reading again [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<Size>,
    /// Memory for what is written and not yet stored [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    dirty_size: Option<Size>,
    /// Take the volume over though it is in use on another machine, which can write nothing from then on
    #[arg(long)]
    take_over: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let wanted = args.doors.clone().or(WantedDoors::default());
    if !wanted.any() {
        bail!("there is no door to serve the volume by: give --http, --kv or --s3");
    }
    wanted.check()?;
    let usual = DataSettings::default();
    let data = DataSettings {
        cache_bytes: args.cache_size.map_or(usual.cache_bytes, |size| size.0),
        dirty_bytes: args.dirty_size.map_or(usual.dirty_bytes, |size| at_least(size).0),
        ..usual
    };
    let cluster = args.cluster.read()?;
    let hangup = Arc::new(Notify::new());
    let plan = VolumePlan {
        volume: args.volume,
        directories: directories::of(&cluster)?,
        cluster,
        file: std::path::absolute(&args.cluster.path).context("the cluster file")?,
        hangup: hangup.clone(),
        data,
        heal: args.care.heal(),
        scrub_days: args.care.scrub_days(),
        metrics: None,
        take_over: args.take_over,
        leads: false,
        doors: None,
    };
    block_on(serve(plan, wanted, hangup))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(mut plan: VolumePlan, wanted: WantedDoors, hangup: Arc<Notify>) -> Result<()> {
    let reload = Hangup::of_terminal(move || hangup.notify_one());
    let stop = signals::take("ashlar", reload).context("waiting for signals")?;
    plan.doors = doors::take(&wanted)?;
    tracing::info!(
        version = proto::VERSION,
        volume = plan.volume,
        disks = plan.cluster.slots.len(),
        dirty_bytes = plan.data.dirty_bytes,
        cache_bytes = plan.data.cache_bytes,
        "starting"
    );
    let name = plan.volume.clone();
    let server = systemd::starting(Box::pin(Server::start(plan, stop))).await?;
    systemd::ready();
    server.open().warnings().iter().for_each(|warning| background::warn(warning));
    let outage = server.open().outage().await.map(|outage| outage.to_string());
    outage.iter().flat_map(|outage| outage.lines()).for_each(background::warn);
    say(told(&name, server.open()))?;
    Ok(server.run().await?)
}

/// Where it is served.
fn told(name: &str, open: &OpenVolume) -> String {
    let doors = open.doors().expect("it was opened with doors");
    let http = doors.http_address();
    let kv = doors.kv.map(|address| format!("{address} (lines of JSON)"));
    let s3 = doors.s3_address().map(|address| format!("{address} (S3)"));
    let all: Vec<String> = http.into_iter().chain(kv).chain(s3).collect();
    let known = doors.fingerprint.as_ref();
    let known = known.map(|print| format!(", with the certificate SHA-256 {print}"));
    format!("serving {name} at {}{}", all.join(" and "), known.unwrap_or_default())
}
