//! `ashlar fsck`: is everything that metadata promises really there?
//!
//! 1. The metadata itself: names, links, extents, counts ([`meta::Volume::check`]).
//! 2. Every blob that metadata knows: all its parts are on some slot. A blob is acknowledged only
//!    with all parts durable, so a missing one was lost later.
//! 3. Every blob that slots hold: metadata knows it. Blobs of a session that ended badly are the
//!    sweep's at the next mount; others are leaked room, which is told but harms nothing.
//!
//! Nothing is written, unless it shall repair: then it leads the volume, as a mount does, and puts right what is wrong
//! in 1 and can be ([`meta::Volume::repair`]). Which files have bytes in blobs that cannot be read, it says when
//! it is asked ([`self::lost`]).
//!
//! All that it finds goes to stdout, the verdict last; stderr is for why it could not look.

mod lost;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use meta::{BlobRecord, MetaSettings, MountedBy, ProxyStores, Volume, VolumeLock, is_inline};
use proto::cluster::Cluster;
use proto::id::{BlobId, PartSet, SessionId};
use proto::program::say;
use proxy::{BlobStore, Proxy, SlotHolds};
use serde::Serialize;

use super::directories;
use super::setup::{ClusterFile, block_on};
use crate::mount;
use crate::mount::embedded::Store;
use crate::mount::outage::Outage;
use crate::mount::roll_call::{self, Called};

/// Blobs looked at at once.
const AT_ONCE: usize = 16;
/// Records fetched at once.
const PAGE: usize = 1024;
/// Findings that are told; the rest is counted.
const TOLD: usize = 1000;

/// Repaired, and something is left that cannot be.
const LEFT: u8 = 4;
/// It could not be repaired, for a reason that is told.
const IN_VAIN: u8 = 8;

/// Check a volume that is not mounted, and repair it
///
/// Walks the metadata and asks the disks for every part of every blob. Writes nothing, unless it shall
/// repair. Exits with 0 if all is in order, and with 1 if something is damaged or missing. With
/// --repair: 0 if all was in order, 1 if everything could be put right, 4 if something is left that
/// cannot be, 8 if it could not work.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  ashlar fsck photos --cluster cluster.toml\n  \
    ashlar fsck photos --lost --cluster cluster.toml\n  \
    ashlar fsck photos --repair --cluster cluster.toml")]
pub(super) struct Args {
    /// Name of the volume
    volume: String,
    #[command(flatten)]
    cluster: ClusterFile,
    /// Puts right what is wrong in the metadata, as far as that is known
    #[arg(long)]
    repair: bool,
    /// Names the files of which bytes cannot be read
    #[arg(long)]
    lost: bool,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Findings {
    inodes: u64,
    entries: u64,
    extents: u64,
    blobs: u64,
    /// Blobs of sessions that ended badly: the next mount sweeps them.
    to_sweep: u64,
    /// Blobs that only take room.
    leaked: u64,
    /// Blobs of which parts are not found, which may lie on disks that are away; the others do.
    unseen: u64,
    /// Disks that could not be asked.
    disks_away: usize,
    /// Which these are, and what that means.
    outage: Option<String>,
    /// Problems in all, of which the first are told.
    problem_count: u64,
    problems: Vec<String>,
    /// What was put right, and how.
    mended: Vec<String>,
    /// Unlinked files of crashed mounts that were deleted.
    reaped: u64,
    /// Files with bytes that are lost, or lie on disks that are away; `None`: nobody asked.
    files: Option<Vec<lost::File>>,
    /// Blobs that cannot be read.
    #[serde(skip)]
    unreadable: Vec<(BlobId, lost::Why)>,
    /// How the cluster file and the disks differ from what the volume was stored by.
    warnings: Vec<String>,
}

impl Findings {
    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < TOLD {
            self.problems.push(text);
        }
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    match (checked(&args), args.repair) {
        (Err(why), true) => {
            let why: Box<dyn std::error::Error + Send + Sync> = why.into();
            Ok(proto::program::exit_code("ashlar", Err(why), ExitCode::from(IN_VAIN)))
        }
        (checked, _) => checked,
    }
}

fn checked(args: &Args) -> Result<ExitCode> {
    let cluster = args.cluster.read()?;
    let findings = block_on(async {
        let by = MountedBy { pid: std::process::id(), mountpoint: PathBuf::from("(fsck)") };
        let lock = VolumeLock::take(&directories::of(&cluster)?, &args.volume, &by)?;
        let store = Store::open(&cluster).await?;
        let checked = with_disks(&store, lock, &cluster, args).await;
        store.close().await;
        checked
    })?;
    say(match args.json {
        true => serde_json::to_string_pretty(&findings).expect("findings are plain data"),
        false => told(&args.volume, &findings),
    })?;
    let sure = findings.problem_count == 0 && findings.unseen == 0;
    Ok(match (sure, args.repair, findings.mended.is_empty()) {
        (true, false, _) | (true, true, true) => ExitCode::SUCCESS,
        (false, true, _) => ExitCode::from(LEFT),
        (false, false, _) | (true, true, false) => ExitCode::FAILURE,
    })
}

/// Checks it on the disks of a cluster file that can be right.
async fn with_disks(
    store: &Store,
    lock: VolumeLock,
    cluster: &Cluster,
    args: &Args,
) -> Result<Findings> {
    let called = Called::of(&store.blobs.current()).await;
    called.check(cluster)?;
    let looked = mount::check_first(store, cluster, &lock, &called).await?;
    let stores = ProxyStores::new(store.blobs.clone());
    let looked = match looked {
        Some(looked) => looked,
        None => meta::look(&stores, &lock, MetaSettings::default()).await?,
    };
    let volume = if args.repair {
        let settings = MetaSettings { uncounted: true, ..MetaSettings::default() };
        meta::open(&stores, lock, settings).await?
    } else {
        looked
    };
    let warnings = roll_call::call(&volume, cluster, &called, None).await?;
    let outage = store.outage(&volume.info()).await;
    let disks_away = outage.as_ref().map_or(0, Outage::away);
    let outage = outage.map(|outage| outage.to_string());
    let found = check(&volume, &store.blobs.current(), args).await;
    volume.close().await;
    Ok(Findings { warnings, disks_away, outage, ..found? })
}

fn told(volume: &str, findings: &Findings) -> String {
    let Findings { inodes, entries, extents, blobs, .. } = findings;
    let warnings = findings.warnings.iter().map(|warning| format!("warning: {warning}"));
    let mut lines: Vec<String> = warnings.chain(findings.outage.clone()).collect();
    lines.extend(findings.mended.iter().map(|mended| format!("mended: {mended}")));
    lines.extend(findings.problems.iter().cloned());
    if findings.problem_count > findings.problems.len() as u64 {
        lines.push(format!(
            "... and {} more",
            findings.problem_count - findings.problems.len() as u64
        ));
    }
    lines.push(format!("{inodes} inodes, {entries} entries, {extents} extents, {blobs} blobs"));
    lines.extend(findings.files.iter().flatten().map(ToString::to_string));
    if findings.reaped > 0 {
        let reaped = findings.reaped;
        lines.push(format!("{reaped} unlinked files of crashed mounts were deleted"));
    }
    if findings.to_sweep > 0 {
        let swept = findings.to_sweep;
        lines.push(format!("{swept} blobs of a crashed mount will be swept by the next one"));
    }
    if findings.leaked > 0 {
        lines.push(format!("{} blobs take room that nothing refers to", findings.leaked));
    }
    let (away, unseen) = (findings.disks_away, findings.unseen);
    if unseen > 0 {
        lines.push(format!(
            "{unseen} blobs can be read, and have parts that may lie on the {away} disks that are away"
        ));
    }
    lines.push(match (findings.problem_count, unseen) {
        (0, 0) if !findings.mended.is_empty() => format!("{volume} is in order now"),
        (0, 0) => format!("{volume} is in order"),
        (0, _) => format!("{volume} is in order, as far as the disks that are up can tell"),
        (n, _) => format!("{volume} has {n} problems"),
    });
    lines.join("\n")
}

async fn check(meta: &Volume, blobs: &Proxy, args: &Args) -> Result<Findings> {
    let mut findings = Findings::default();
    let report = match args.repair {
        true => {
            let repaired = meta.repair().await.context("repairing the metadata")?;
            findings.mended.extend(repaired.mended);
            findings.reaped = repaired.reaped;
            repaired.left
        }
        false => meta.check().await.context("walking the metadata")?,
    };
    (findings.inodes, findings.entries) = (report.inodes, report.entries);
    (findings.extents, findings.blobs) = (report.extents, report.blobs);
    report.sentences().for_each(|problem| findings.problem(problem));
    findings.unreadable.extend(report.gone.iter().map(|id| (*id, lost::Why::Lost)));
    let bar = ProgressBar::new(report.blobs).with_style(
        ProgressStyle::with_template("{bar:40} {pos} of {len} blobs, {eta} left")
            .expect("the template is one"),
    );
    let known = check_known(meta, blobs, &bar, &mut findings).await?;
    bar.finish_and_clear();
    check_unknown(meta, blobs, &known, &mut findings).await?;
    if args.lost {
        findings.files = Some(lost::files(meta, &findings.unreadable).await?);
    }
    Ok(findings)
}

/// Looks for every part of every blob that metadata knows.
async fn check_known(
    meta: &Volume,
    blobs: &Proxy,
    bar: &ProgressBar,
    findings: &mut Findings,
) -> Result<BTreeSet<BlobId>> {
    let mut known = BTreeSet::new();
    let mut after = None;
    loop {
        let page = meta.blobs(after, PAGE).await.context("listing blobs")?;
        let Some(last) = page.last() else { return Ok(known) };
        after = Some(last.id);
        let look = |record: BlobRecord| async move { (record, blobs.stat(record.id).await) };
        let mut looked = stream::iter(page.iter().copied().map(look)).buffered(AT_ONCE);
        while let Some((record, slots)) = looked.next().await {
            bar.inc(1);
            // Garbage may be half deleted.
            // Of an inline one metadata have the bytes, and were checked.
            if record.live == 0 || is_inline(&record.id) {
                continue;
            }
            match judge(record.id, &slots) {
                Verdict::Whole => {}
                Verdict::Unseen => findings.unseen += 1,
                Verdict::Problem(problem, unreadable) => {
                    findings.problem(problem);
                    findings.unreadable.extend(unreadable.map(|why| (record.id, why)));
                }
            }
        }
        known.extend(page.iter().map(|record| record.id));
    }
}

/// What the slots say of a blob.
enum Verdict {
    /// All its parts are there.
    Whole,
    /// It can be read, and the parts that are not found may lie on disks that are away.
    Unseen,
    /// What is wrong with it, and why it cannot be read, if so.
    Problem(String, Option<lost::Why>),
}

/// What is wrong with a blob, by what the slots say of it.
fn judge(id: BlobId, slots: &[SlotHolds]) -> Verdict {
    let held = slots.iter().filter_map(|slot| slot.held.as_ref().ok());
    let found = held.clone().fold(PartSet::EMPTY, |all, held| all.union(held.parts));
    let scheme = id.scheme();
    let lost = PartSet::first(scheme.parts()).minus(found);
    if held.clone().any(|held| held.deleted) {
        let problem = format!("blob {id} is in use, and a disk says that it was deleted");
        return Verdict::Problem(problem, None);
    }
    if lost.is_empty() {
        return Verdict::Whole;
    }
    let silent = slots.iter().filter(|slot| slot.held.is_err()).count();
    let parts: Vec<String> = lost.iter().map(|part| part.to_string()).collect();
    let which = format!("parts {} of {}", parts.join(", "), scheme.parts());
    let (problem, unreadable) = match (found.len() >= scheme.data_parts(), silent) {
        (true, 0) => {
            (format!("blob {id} has lost {which}, and can be restored from the others"), None)
        }
        (false, 0) => {
            (format!("blob {id} has lost {which}: its bytes are gone"), Some(lost::Why::Lost))
        }
        // Each disk that is away may hold one of them.
        (true, n) if lost.len() <= n => return Verdict::Unseen,
        (true, n) => (format!("blob {id}: {which} not found, {n} disks do not answer"), None),
        (false, n) => (
            format!("blob {id} cannot be read: {which} not found, {n} disks do not answer"),
            // Of what all disks that are away could hold.
            Some(match found.len() + n >= scheme.data_parts() {
                true => lost::Why::Away,
                false => lost::Why::Lost,
            }),
        ),
    };
    Verdict::Problem(problem, unreadable)
}

/// Looks for blobs on the slots that metadata does not know.
async fn check_unknown(
    meta: &Volume,
    blobs: &Proxy,
    known: &BTreeSet<BlobId>,
    findings: &mut Findings,
) -> Result<()> {
    let volume = meta.info().id;
    let dead = meta.dead_sessions().await.context("listing sessions")?;
    let next = meta.next_session().await.context("counting sessions")?;
    for session in (1..next.0).map(SessionId) {
        let mut after = None;
        loop {
            let page = match blobs.list(volume, session, after).await {
                Ok(page) => page.blobs,
                Err(e) => {
                    findings.problem(format!("blobs of session {session} cannot be listed: {e}"));
                    break;
                }
            };
            let Some(last) = page.last() else { break };
            after = Some(*last);
            let unknown = page.iter().filter(|id| !known.contains(id)).count() as u64;
            if dead.contains(&session) {
                findings.to_sweep += unknown;
            } else {
                findings.leaked += unknown;
            }
        }
    }
    Ok(())
}
