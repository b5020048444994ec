//! `storaged status`: how a daemon's disks are, in one word and one line and by the exit code, and each of them.
//!
//! A daemon knows its own disks, and no blob: whether something can be read that lies on one that is out depends on
//! the disks of others. So *data unavailable* is said only where not one disk of the daemon can be read.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use proto::client::Daemon;
use proto::health::Health;
use proto::id::{ClusterId, DiskId};
use proto::part_store::{FillLevel, HANGS};
use proto::rpc::storaged::DiskStatus;
use proto::tls::Connector;
use serde_json::{Value, json};

use crate::cli::admin::{human, print, said_damaged, said_scrubbed};
use crate::cli::arguments::StatusArgs;

/// How long a daemon may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(crate) async fn status(args: &StatusArgs) -> Result<ExitCode> {
    let connector = Connector::with(args.identity.as_deref())?;
    let daemon = Daemon::through(&args.address, connector)?;
    let status = tokio::time::timeout(ANSWER, daemon.status())
        .await
        .with_context(|| format!("{}: no answer within {ANSWER:?}", args.address))?
        .with_context(|| args.address.clone())?;
    let cluster = ClusterId::from_slice(&status.cluster).context("the answer names no cluster")?;
    let (health, line) = judged(&status.disks);
    let disks: Vec<Value> = status.disks.iter().map(as_json).collect();
    let value = json!({
        "health": health, "line": line, "version": status.version, "cluster": cluster,
        "disks": disks,
    });
    print(args.json, &value, || {
        let version = status.version.clone();
        let head = [line.clone(), format!("storaged {version} of cluster {cluster}")];
        head.into_iter().chain(status.disks.iter().map(in_words)).collect::<Vec<_>>().join("\n")
    })?;
    Ok(health.into())
}

/// How many of a daemon's disks are so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    all: usize,
    serving: usize,
    opening: usize,
    out: usize,
    hanging: usize,
    read_only: usize,
    filling: usize,
    full: usize,
    /// Parts on all of them.
    damaged: u64,
}

impl Count {
    fn of(disks: &[DiskStatus]) -> Self {
        let mut count = Self { all: disks.len(), ..Self::default() };
        for disk in disks {
            let state = match disk.state.as_str() {
                "ok" => &mut count.serving,
                "opening" => &mut count.opening,
                state if state.starts_with("read-only") => &mut count.read_only,
                state if state.starts_with(HANGS) => &mut count.hanging,
                _ => &mut count.out,
            };
            *state += 1;
            let level = FillLevel::from_word(&disk.fill);
            count.full += usize::from(level.is_some_and(|level| level >= FillLevel::Orange));
            count.filling += usize::from(disk.filling > 0);
            count.damaged += disk.damaged;
        }
        count
    }

    /// What is not as it should be.
    fn troubles(&self) -> Vec<String> {
        let disks = [
            (self.out, "out"),
            (self.hanging, "not answering"),
            (self.opening, "being opened"),
            (self.read_only, "read-only"),
            (self.filling, "being filled again"),
            (self.full, "full"),
        ];
        let are = disks.into_iter().filter(|(count, _)| *count > 0);
        let mut troubles: Vec<String> =
            are.map(|(count, how)| format!("{count} of {} disks {how}", self.all)).collect();
        match self.damaged {
            0 => {}
            1 => troubles.push("1 part damaged".to_owned()),
            parts => troubles.push(format!("{parts} parts damaged")),
        }
        troubles
    }

    fn health(&self) -> Health {
        match (self.serving + self.read_only, self.opening) {
            (0, 0) => Health::DataUnavailable,
            (0, _) => Health::Unknown,
            _ if self.troubles().is_empty() => Health::Healthy,
            _ => Health::Degraded,
        }
    }
}

/// In one word, and in one line that begins with it.
fn judged(disks: &[DiskStatus]) -> (Health, String) {
    let count = Count::of(disks);
    let (health, mut said) = (count.health(), count.troubles());
    if said.is_empty() {
        said.push(format!("{} of {} disks serve", count.serving, count.all));
    }
    (health, format!("{health}: {}", said.join(", ")))
}

fn as_json(disk: &DiskStatus) -> Value {
    json!({
        "disk": DiskId::from_slice(&disk.disk), "path": disk.path, "state": disk.state,
        "fill": disk.fill, "capacity": disk.capacity, "used": disk.used,
        "available": disk.available, "parts": disk.parts, "damaged": disk.damaged,
        "filling": disk.filling,
        "scrub_ended": disk.scrub.map(|scrub| scrub.ended),
        "scrub_percent": disk.scrub.map(|scrub| scrub.percent),
    })
}

fn in_words(disk: &DiskStatus) -> String {
    let id = DiskId::from_slice(&disk.disk).map_or("?".to_owned(), |id| id.to_string());
    if disk.fill.is_empty() {
        return format!("{id}  {}  {}", disk.path, disk.state);
    }
    let (used, capacity) = (human(disk.used), human(disk.capacity));
    let filling = if disk.filling > 0 { "  being filled again" } else { "" };
    let scrub = disk.scrub.map_or("not scrubbed".to_owned(), |scrub| match scrub.percent {
        100 => said_scrubbed(scrub.ended),
        percent => format!("{} ({percent} % of the next pass)", said_scrubbed(scrub.ended)),
    });
    format!(
        "{id}  {}  {}  {used} of {capacity} ({})  {} parts{}{filling}  {scrub}",
        disk.path,
        disk.state,
        disk.fill,
        disk.parts,
        said_damaged(disk.damaged)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(state: &str, fill: &str) -> DiskStatus {
        DiskStatus { state: state.to_owned(), fill: fill.to_owned(), ..DiskStatus::default() }
    }

    #[test]
    fn a_daemon_is_told_of_in_one_word_and_one_line() {
        let ok = || disk("ok", "green");
        let out = || disk("out: no such directory", "");
        let (opening, hangs) = (|| disk("opening", ""), || disk("hangs: no answer for 9 s", "red"));
        for (disks, code, line) in [
            (vec![ok(), ok()], 0, "HEALTHY: 2 of 2 disks serve"),
            (vec![ok(), out()], 1, "DEGRADED: 1 of 2 disks out"),
            (vec![ok(), opening()], 1, "DEGRADED: 1 of 2 disks being opened"),
            (vec![ok(), disk("ok", "yellow")], 0, "HEALTHY: 2 of 2 disks serve"),
            (vec![ok(), disk("ok", "orange")], 1, "DEGRADED: 1 of 2 disks full"),
            (vec![disk("read-only: writing: EIO", "green")], 1, "DEGRADED: 1 of 1 disks read-only"),
            (
                vec![DiskStatus { damaged: 1, filling: 2, ..ok() }, ok()],
                1,
                "DEGRADED: 1 of 2 disks being filled again, 1 part damaged",
            ),
            (vec![DiskStatus { damaged: 12, ..ok() }], 1, "DEGRADED: 12 parts damaged"),
            (vec![out(), out()], 2, "DATA UNAVAILABLE: 2 of 2 disks out"),
            (
                vec![out(), hangs()],
                2,
                "DATA UNAVAILABLE: 1 of 2 disks out, 1 of 2 disks not answering, 1 of 2 disks full",
            ),
            (vec![out(), opening()], 3, "UNKNOWN: 1 of 2 disks out, 1 of 2 disks being opened"),
        ] {
            let (health, said) = judged(&disks);
            assert_eq!((health.exit_code(), said.as_str()), (code, line));
        }
    }
}
