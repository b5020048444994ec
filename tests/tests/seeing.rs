//! Promise: one can see what it does. `ashlar status` tells the truth about lost disks, metrics count,
//! the log says once which program runs with which settings.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::binaries::{ashlar, storaged};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::{PATIENCE, Process, answer, output, run, wait_until};
use tests::seed::content;

/// Until a lost disk, or one that is back, must show in the status of a mount that uses it.
const NOTICED: Duration = Duration::from_secs(30);

#[test]
fn status_shows_lost_disks_and_dirty_bytes_and_metrics_count() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let metrics = free_address()?;
    let mount_arguments = vec!["--metrics".to_owned(), metrics.clone()];
    let mut demo = Demo::start(Setup { mount_arguments, ..Setup::new(Mode::Served) })?;
    let status = demo.status()?;
    ensure!(
        status["mount"]["volume"] == "demo" && status["mount"]["scheme"] == "ec(4,2)",
        "{status}"
    );
    ensure!(up(&status) == 8, "a fresh mount: {status}");
    let number = |field: &str| status["mount"][field].as_u64().unwrap_or(0);
    let (taken, share) = (number("metadata_bytes"), number("metadata_share"));
    ensure!(taken > 0 && taken < share && number("epoch") > 0, "of its metadata: {status}");
    fs::write(demo.file("file"), content(1, 3 << 20))?;
    fs::File::open(demo.file("file"))?.sync_all()?;
    ensure!(demo.status()?["mount"]["dirty_bytes"] == 0, "bytes are dirty after fsync");

    demo.kill_daemon(2)?;
    demo.kill_daemon(5)?;
    let mut number = 0;
    wait_until("status to show two lost disks", NOTICED, || {
        number += 1;
        let written = fs::write(demo.file(format!("more-{number}")), content(number, 1 << 20));
        written.is_ok() && demo.status().is_ok_and(|status| up(&status) == 6)
    })?;
    let (code, table) = answer(Command::new(ashlar()).arg("status").arg(demo.path()), PATIENCE)?;
    ensure!(code == 1, "degraded, and it exits with {code}");
    let health = table.lines().find(|line| line.starts_with("health")).unwrap_or_default();
    ensure!(health.contains("DEGRADED: 2 of 8 disks away"), "{table}");
    ensure!(table.contains("6 of 8 disks up") && table.contains("ec(4,2)"), "{table}");
    let metadata = table.lines().find(|line| line.starts_with("metadata")).unwrap_or_default();
    ensure!(
        metadata.contains(" kept for them, epoch ") && metadata.contains("snapshot"),
        "{table}"
    );
    demo.restart_daemon(2)?;
    demo.restart_daemon(5)?;
    wait_until("status to show all disks again", NOTICED, || {
        number += 1;
        let written = fs::write(demo.file(format!("more-{number}")), content(number, 1 << 20));
        written.is_ok() && demo.status().is_ok_and(|status| up(&status) == 8)
    })?;

    metrics_count(&metrics)?;
    let said = demo.said();
    let starts = said.lines().filter(|line| line.contains("starting") && line.contains("version"));
    ensure!(starts.count() == 1, "no single start line in:\n{said}");
    ensure!(said.contains("options=rw") && !said.contains("Some("), "not for people:\n{said}");
    demo.stop(Stop::Umount)
}

/// Each metric says what it is, and Prometheus has nothing against any.
fn metrics_are_described(text: &str) -> Result<()> {
    let body = text.split_once("\r\n\r\n").map_or(text, |(_, body)| body);
    tests::promtool::check(&["metrics"], body)?;
    let all: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    ensure!(!all.is_empty(), "no metrics:\n{text}");
    for metric in all.iter().filter_map(|line| line.split(' ').next()) {
        ensure!(text.contains(&format!("# HELP {metric} ")), "{metric} has no help text");
    }
    Ok(())
}

/// Ends all mounts of volumes but those of the arguments, in this namespace of mounts; then says how all is.
const STATUS_AMONG: &str = r#"
findmnt -rn -t fuse.ashlar -o TARGET | while read -r at; do
    for kept in "$@"; do [ "$kept" = "$at" ] && continue 2; done
    umount -i -l "$at"
done
exec "$ASHLAR" status $WORDS
"#;

/// What `ashlar status` says, and how it exits, where no volume is mounted but these.
fn status_among(kept: &[&Demo], words: &str) -> Result<(i32, String)> {
    let mut alone = Command::new("unshare");
    alone.args(["--mount", "--propagation", "private", "sh", "-c", STATUS_AMONG, "sh"]);
    alone.args(kept.iter().map(|demo| demo.path()));
    let answer = output(alone.env("ASHLAR", ashlar()).env("WORDS", words), PATIENCE)?;
    let code = answer.status.code().context("it was ended by a signal")?;
    Ok((code, String::from_utf8_lossy(&answer.stdout).into_owned()))
}

#[test]
fn status_without_a_mount_point_is_of_all_volumes_that_are_mounted() -> Result<()> {
    let namespaces = Command::new("unshare").args(["--mount", "true"]).output();
    if !can_mount() || !namespaces.is_ok_and(|tried| tried.status.success()) {
        eprintln!("NOT TESTED: status of all mounts, which takes a namespace of mounts");
        return Ok(());
    }
    let (code, said) = status_among(&[], "")?;
    ensure!(code == 3, "nothing is mounted, and it exits with {code}: {said}");
    let mut whole = Demo::start(Setup::new(Mode::Embedded))?;
    whole.until_healthy(NOTICED)?;
    let (code, said) = status_among(&[&whole], "")?;
    ensure!(code == 0 && said.starts_with("health "), "{code}: {said}");
    let mut lacking = Demo::start(Setup::new(Mode::Served))?;
    lacking.kill_daemon(3)?;
    lacking.up(7, NOTICED)?;
    let both = [&whole, &lacking];
    let (code, said) = status_among(&both, "")?;
    ensure!(code == 1, "one is degraded, and it exits with {code}: {said}");
    for demo in both {
        ensure!(said.contains(&format!("{}:\n", demo.path().display())), "{said}");
    }
    let (code, json) = status_among(&both, "--json")?;
    let all: Vec<Value> = serde_json::from_str(&json).with_context(|| json.clone())?;
    let mut points: Vec<&str> = all.iter().filter_map(|one| one["mountpoint"].as_str()).collect();
    points.sort_unstable();
    let mut expected = both.map(|demo| demo.path().display().to_string());
    expected.sort_unstable();
    ensure!(code == 1 && points == expected, "{code}: {json}");
    for disk in all.iter().flat_map(|one| one["disks"].as_array().into_iter().flatten()) {
        ensure!(disk["state"] != "up" || disk["available"].as_u64() > Some(0), "{disk}");
    }
    // What is watched ends by itself when there is nothing left to mend, and says how it is then.
    for (demo, code, word) in [(&whole, 0, "HEALTHY"), (&lacking, 1, "DEGRADED")] {
        let mut watch = Command::new(ashlar());
        let watched = watch.args(["heal", "status", "--watch"]).arg(demo.path());
        let (ended, said) = answer(watched, PATIENCE)?;
        let last = said.lines().last().unwrap_or_default();
        ensure!(ended == code && last.starts_with(word), "{ended}: {said}");
    }
    whole.stop(Stop::Umount)?;
    lacking.stop(Stop::Umount)
}

/// What a mount has done so far shows in its metrics.
fn metrics_count(metrics: &str) -> Result<()> {
    let text = get(metrics)?;
    metrics_are_described(&text)?;
    let kinds =
        ["dirty", "cache", "flights", "pools", "metadata", "extents", "allocated", "resident"];
    for kind in kinds {
        let shown = format!("ashlar_memory_bytes{{kind=\"{kind}\"}}");
        ensure!(text.contains(&shown), "{shown} is missing in:\n{text}");
    }
    let metadata = [
        "meta_journal_entries_total",
        "meta_journal_bytes_total",
        "meta_journal_batch_seconds",
        "meta_syncs_total",
        "meta_waiting_batches",
        "meta_unsynced_bytes",
        "meta_journaled_bytes",
        "meta_disk_bytes",
        "meta_epoch",
    ];
    let others = ["ashlar_op_seconds", "ashlar_written_bytes_total", "ashlar_cache_hits_total"];
    for metric in metadata.into_iter().chain(others) {
        ensure!(text.contains(metric), "{metric} is missing in:\n{text}");
    }
    let written = text.lines().find_map(|line| line.strip_prefix("ashlar_written_bytes_total "));
    let written: f64 = written.context("no count of written bytes")?.parse()?;
    ensure!(written >= f64::from(3 << 20), "{written} bytes are said to be written");
    Ok(())
}

/// Disks that a status counts as up.
fn up(status: &Value) -> usize {
    let disks = status["disks"].as_array().map(Vec::as_slice).unwrap_or_default();
    disks.iter().filter(|disk| disk["state"] == "up").count()
}

#[test]
fn a_daemon_serves_metrics_and_says_once_what_it_is() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let (disk, log) = (scratch.path().join("disk"), scratch.path().join("log"));
    let mut init = Command::new(storaged());
    init.args(["disk", "init", "--new-cluster", "--capacity", "1GiB"]).arg(&disk);
    run(&mut init, PATIENCE)?;
    let (listen, metrics) = (free_address()?, free_address()?);
    let mut command = Command::new(storaged());
    command.args(["run", "--listen", &listen, "--metrics", &metrics, "--disk"]).arg(&disk);
    let mut daemon = Process::start(&mut command, &log)?;
    wait_until("the daemon to listen", PATIENCE, || {
        !daemon.runs() || TcpStream::connect(&listen).is_ok()
    })?;
    let status = run(Command::new(storaged()).args(["status", "--address", &listen]), PATIENCE)?;
    ensure!(!status.is_empty(), "an empty status");
    let json =
        run(Command::new(storaged()).args(["status", "--address", &listen, "--json"]), PATIENCE)?;
    serde_json::from_str::<Value>(&json).with_context(|| json.clone())?;
    wait_until("metrics of the daemon's own", NOTICED, || {
        get(&metrics).is_ok_and(|text| text.contains("storaged_"))
    })?;
    metrics_are_described(&get(&metrics)?)?;
    let said = daemon.said();
    let starts = said.lines().filter(|line| line.contains("version") && line.contains(&listen));
    ensure!(starts.count() == 1, "no single start line in:\n{said}");
    daemon.signal(nix::sys::signal::Signal::SIGTERM)?;
    ensure!(daemon.wait(PATIENCE)?.success(), "SIGTERM: {}", daemon.said());
    Ok(())
}

/// Some programs live on signals, and many of those come in the midst of a request.
const SIGNALLED: &str = "import os, signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
for _ in range(1000):
    with open('f', 'wb', 0) as f: f.write(b'x' * 70000)
    os.rename('f', 'g'); os.unlink('g')
signal.setitimer(signal.ITIMER_REAL, 0)
";

#[test]
fn signals_to_a_program_are_nothing_to_log() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    run(Command::new("python3").args(["-c", SIGNALLED]).current_dir(demo.path()), PATIENCE)?;
    let said = demo.said();
    ensure!(!said.contains("ERROR") && !said.contains("WARN"), "logged:\n{said}");
    demo.stop(Stop::Umount)
}

/// A loopback address that nobody listens on now.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// The metrics that are served at an address.
fn get(address: &str) -> Result<String> {
    let mut connected = None;
    wait_until(&format!("metrics at {address}"), PATIENCE, || {
        connected = TcpStream::connect(address).ok();
        connected.is_some()
    })?;
    let mut stream = connected.context("connected")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
