//! `ashlar fsck`: is everything that metadata promises really there?
//!
//! 1. The metadata itself: names, links, extents, counts ([`meta::Volume::check`]).
//! 2. Every blob that metadata knows: all its parts are on some slot. A blob is acknowledged only
//!    with all parts durable, so a missing one was lost later.
//! 3. Every blob that slots hold: metadata knows it. Blobs of a session that ended badly are the
//!    sweep's at the next mount; others are leaked room, which is told but harms nothing.
//!
//! All that it finds goes to stdout, the verdict last; stderr is for why it could not look.

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

/// Check a volume that is not mounted
///
/// Walks the metadata and asks the disks for every part of every blob. Exits with 1 if something is
/// damaged or missing.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  ashlar fsck photos --cluster cluster.toml")]
pub(super) struct Args {
    /// Name of the volume
    volume: String,
    #[command(flatten)]
    cluster: ClusterFile,
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
    let cluster = args.cluster.read()?;
    let findings = block_on(async {
        let by = MountedBy { pid: std::process::id(), mountpoint: PathBuf::from("(fsck)") };
        let lock = VolumeLock::take(&directories::of(&cluster)?, &args.volume, &by)?;
        let store = Store::open(&cluster).await?;
        let checked = with_disks(&store, &lock, &cluster).await;
        store.close().await;
        checked
    })?;
    say(match args.json {
        true => serde_json::to_string_pretty(&findings).expect("findings are plain data"),
        false => told(&args.volume, &findings),
    })?;
    let sure = findings.problem_count == 0 && findings.unseen == 0;
    Ok(if sure { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks it on the disks of a cluster file that can be right.
async fn with_disks(store: &Store, lock: &VolumeLock, cluster: &Cluster) -> Result<Findings> {
    let called = Called::of(&store.blobs.current()).await;
    called.check(cluster)?;
    let meta = match mount::check_first(store, cluster, lock, &called).await? {
        Some(looked) => looked,
        None => {
            let stores = ProxyStores::new(store.blobs.clone());
            meta::look(&stores, lock, MetaSettings::default()).await?
        }
    };
    let meta = &meta;
    let warnings = roll_call::call(meta, cluster, &called, None).await?;
    let outage = store.outage(meta.info().scheme).await;
    let disks_away = outage.as_ref().map_or(0, Outage::away);
    let outage = outage.map(|outage| outage.to_string());
    let found = check(meta, &store.blobs.current()).await?;
    Ok(Findings { warnings, disks_away, outage, ..found })
}

fn told(volume: &str, findings: &Findings) -> String {
    let Findings { inodes, entries, extents, blobs, .. } = findings;
    let warnings = findings.warnings.iter().map(|warning| format!("warning: {warning}"));
    let mut lines: Vec<String> = warnings.chain(findings.outage.clone()).collect();
    lines.extend(findings.problems.iter().cloned());
    if findings.problem_count > findings.problems.len() as u64 {
        lines.push(format!(
            "... and {} more",
            findings.problem_count - findings.problems.len() as u64
        ));
    }
    lines.push(format!("{inodes} inodes, {entries} entries, {extents} extents, {blobs} blobs"));
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
        (0, 0) => format!("{volume} is in order"),
        (0, _) => format!("{volume} is in order, as far as the disks that are up can tell"),
        (n, _) => format!("{volume} has {n} problems"),
    });
    lines.join("\n")
}

async fn check(meta: &Volume, blobs: &Proxy) -> Result<Findings> {
    let report = meta.check().await.context("walking the metadata")?;
    let mut findings = Findings {
        inodes: report.inodes,
        entries: report.entries,
        extents: report.extents,
        blobs: report.blobs,
        ..Findings::default()
    };
    report.problems.into_iter().for_each(|problem| findings.problem(problem));
    let bar = ProgressBar::new(report.blobs).with_style(
        ProgressStyle::with_template("{bar:40} {pos} of {len} blobs, {eta} left")
            .expect("the template is one"),
    );
    let known = check_known(meta, blobs, &bar, &mut findings).await?;
    bar.finish_and_clear();
    check_unknown(meta, blobs, &known, &mut findings).await?;
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
                Verdict::Problem(problem) => findings.problem(problem),
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
    /// What is wrong with it.
    Problem(String),
}

/// What is wrong with a blob, by what the slots say of it.
fn judge(id: BlobId, slots: &[SlotHolds]) -> Verdict {
    let held = slots.iter().filter_map(|slot| slot.held.as_ref().ok());
    let found = held.clone().fold(PartSet::EMPTY, |all, held| all.union(held.parts));
    let scheme = id.scheme();
    let lost = PartSet::first(scheme.parts()).minus(found);
    if held.clone().any(|held| held.deleted) {
        let problem = format!("blob {id} is in use, and a disk says that it was deleted");
        return Verdict::Problem(problem);
    }
    if lost.is_empty() {
        return Verdict::Whole;
    }
    let silent = slots.iter().filter(|slot| slot.held.is_err()).count();
    let parts: Vec<String> = lost.iter().map(|part| part.to_string()).collect();
    let which = format!("parts {} of {}", parts.join(", "), scheme.parts());
    Verdict::Problem(match (found.len() >= scheme.data_parts(), silent) {
        (true, 0) => format!("blob {id} has lost {which}, and can be restored from the others"),
        (false, 0) => format!("blob {id} has lost {which}: its bytes are gone"),
        // Each disk that is away may hold one of them.
        (true, n) if lost.len() <= n => return Verdict::Unseen,
        (true, n) => format!("blob {id}: {which} not found, {n} disks do not answer"),
        (false, n) => {
            format!("blob {id} cannot be read: {which} not found, {n} disks do not answer")
        }
    })
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
