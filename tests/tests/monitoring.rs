//! Promise: the alert rules and the board that come with the documentation ask for metrics that there are, the board
//! shows each gauge, and operators are told of each metric.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::binaries::workspace;

/// Where metrics are declared (`metric_names!`).
const DECLARED: [&str; 7] = [
    "fs/src/metrics.rs",
    "gateway/src/metrics.rs",
    "meta/src/metrics.rs",
    "proto/src/metrics_server.rs",
    "proto/src/tls.rs",
    "proxy/src/metrics.rs",
    "storaged/src/metrics.rs",
];

fn text(path: &str) -> Result<String> {
    fs::read_to_string(workspace().join(Path::new(path))).with_context(|| path.to_owned())
}

/// The words of a text that can only be metrics of ours.
fn named(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let ours = |word: &&str| {
        ["ashlar_", "proxy_", "storaged_", "meta_"].iter().any(|crate_| word.starts_with(crate_))
    };
    text.split(|c| !is_word(c)).filter(ours).map(str::to_owned).collect()
}

/// The metrics that are declared as one of these kinds.
fn declared_as(kinds: &[&str]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for path in DECLARED {
        let text = text(path)?;
        let lines = text.lines().map(str::trim_start);
        let declares = |line: &&str| kinds.iter().any(|kind| line.starts_with(kind));
        names.extend(
            lines.filter(declares).filter_map(|line| line.split('"').nth(1)).map(str::to_owned),
        );
    }
    Ok(names)
}

fn declared() -> Result<BTreeSet<String>> {
    let names = declared_as(&["counter ", "gauge ", "histogram "])?;
    ensure!(names.len() > 50, "only {names:?}");
    Ok(names)
}

#[test]
fn rules_and_board_ask_for_metrics_that_there_are() -> Result<()> {
    let declared = declared()?;
    for path in ["docs/monitoring/alerts.yml", "docs/monitoring/grafana.json"] {
        let asked = named(&text(path)?);
        ensure!(!asked.is_empty(), "{path} asks for nothing");
        let of_histogram = |name: &str| {
            ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|part| name.strip_suffix(part))
                .map(str::to_owned)
        };
        let missing: Vec<_> = asked
            .iter()
            .filter(|name| {
                let whole = of_histogram(name).is_some_and(|name| declared.contains(&name));
                !whole && !declared.contains(*name)
            })
            .collect();
        ensure!(missing.is_empty(), "{path} asks for {missing:?}");
    }
    let board = text("docs/monitoring/grafana.json")?;
    serde_json::from_str::<serde_json::Value>(&board).context("the board is no JSON")?;
    Ok(())
}

#[test]
fn the_board_shows_each_gauge() -> Result<()> {
    let gauges = declared_as(&["gauge "])?;
    ensure!(gauges.len() > 25, "only {gauges:?}");
    let board: serde_json::Value = serde_json::from_str(&text("docs/monitoring/grafana.json")?)?;
    let panels = board["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let shown: BTreeSet<String> =
        targets.filter_map(|target| target["expr"].as_str()).flat_map(named).collect();
    let unseen: Vec<_> = gauges.difference(&shown).collect();
    ensure!(unseen.is_empty(), "no panel of the board shows {unseen:?}");
    Ok(())
}

#[test]
fn prometheus_takes_the_rules() -> Result<()> {
    let rules = workspace().join(Path::new("docs/monitoring/alerts.yml"));
    tests::promtool::check(&["rules", rules.to_str().context("a path of text")?], "")
}

#[test]
fn operators_are_told_of_each_metric() -> Result<()> {
    let told = named(&text("docs/operations.md")?);
    let untold: Vec<_> = declared()?.into_iter().filter(|name| !told.contains(name)).collect();
    ensure!(untold.is_empty(), "docs/operations.md does not tell of {untold:?}");
    Ok(())
}
