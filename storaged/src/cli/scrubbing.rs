//! `storaged disk scrub`: has a running daemon read and verify its disks now, and waits for that if it is asked to.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::client::Daemon;
use proto::id::DiskId;
use proto::program;
use proto::rpc::storaged::DiskStatus;
use proto::tls::Connector;
use serde_json::json;

use crate::cli::arguments::ScrubArgs;

/// How long a daemon may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How often it is asked how far it is.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) async fn scrub(args: &ScrubArgs) -> Result<ExitCode> {
    let connector = Connector::with(args.identity.as_deref())?;
    let daemon = Daemon::through(&args.address, connector)?;
    let mut begun = 0;
    for disk in named(args) {
        let asked = tokio::time::timeout(ANSWER, daemon.scrub(disk)).await;
        let asked = asked.with_context(|| format!("{}: no answer within {ANSWER:?}", args.address));
        begun += asked?.with_context(|| args.address.clone())?;
    }
    ensure!(begun > 0, "{}: none of its disks can be read", args.address);
    if !args.wait {
        program::say(match args.json {
            true => json!({ "disks": begun }).to_string(),
            false => format!(
                "{begun} disks read and verify all they hold: storaged status --address {} says how far they are, and \
                 what is damaged is mended by whoever has its volume mounted",
                args.address
            ),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let disks = until_read(&daemon, args).await?;
    for disk in &disks {
        let id = DiskId::from_slice(&disk.disk);
        let value =
            json!({ "disk": id, "path": disk.path, "parts": disk.parts, "damaged": disk.damaged });
        program::say(match (args.json, disk.damaged) {
            (true, _) => value.to_string(),
            (false, 0) => format!("{}: all {} parts are good", disk.path, disk.parts),
            (false, n) => format!("{}: {n} of {} parts are damaged", disk.path, disk.parts),
        })?;
    }
    let good = disks.iter().all(|disk| disk.damaged == 0);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The disks that are named; of no name: all.
fn named(args: &ScrubArgs) -> Vec<Option<DiskId>> {
    match args.disks.is_empty() {
        true => vec![None],
        false => args.disks.iter().copied().map(Some).collect(),
    }
}

/// Waits until they are through: how they are then.
async fn until_read(daemon: &Daemon, args: &ScrubArgs) -> Result<Vec<DiskStatus>> {
    loop {
        let status = tokio::time::timeout(ANSWER, daemon.status()).await;
        let status = status.with_context(|| format!("{}: no answer", args.address))?;
        let mut disks = status.with_context(|| args.address.clone())?.disks;
        let is_named = |disk: &DiskStatus| {
            DiskId::from_slice(&disk.disk).is_some_and(|id| args.disks.contains(&id))
        };
        disks.retain(|disk| args.disks.is_empty() || is_named(disk));
        for disk in disks.iter().filter(|disk| disk.scrub.is_none()) {
            ensure!(args.disks.is_empty(), "{}: {}", disk.path, disk.state);
        }
        disks.retain(|disk| disk.scrub.is_some());
        if !disks.iter().any(|disk| disk.scrub.is_some_and(|scrub| scrub.asked)) {
            return Ok(disks);
        }
        tokio::time::sleep(LOOK).await;
    }
}
