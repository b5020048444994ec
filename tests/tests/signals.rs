//! Promise: a signal never costs a byte. Closing the terminal, Ctrl-C, Ctrl-Z, logrotate's SIGHUP and
//! what else is sent to a program either end it in good order or do nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::binaries::{ashlar, storaged};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount, is_mounted};
use tests::process::{PATIENCE, Process, answer, output, run, wait_until};
use tests::seed::content;
use tests::site::{Site, is_gone, pid_in};

/// What a demo that serves a mount must not be: stopped by Ctrl-Z, or ended.
fn serves(pid: Pid) -> Result<()> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
    ensure!(matches!(state, Some('S' | 'R' | 'D')), "process {pid} is {state:?}");
    Ok(())
}

#[test]
fn every_signal_that_ends_a_demo_ends_it_with_everything_stored() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    for mode in [Mode::Embedded, Mode::Daemons] {
        let mut demo = Demo::start(Setup { size: "4GiB", ..Setup::new(mode) })?;
        let signals =
            [Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGXCPU, Signal::SIGTERM, Signal::SIGINT];
        for (round, signal) in (1..).zip(signals) {
            // Not synced: in memory only, for a second or so.
            fs::write(demo.file(format!("file{round}")), content(round, 3 << 20))?;
            demo.signal_and_wait(&[signal]).with_context(|| format!("{mode:?}: {signal}"))?;
            demo.mount()?;
            let kept = fs::read(demo.file(format!("file{round}")));
            let kept = kept.with_context(|| format!("{mode:?}: after {signal}"))?;
            ensure!(kept == content(round, 3 << 20), "{mode:?}: {signal} cost bytes");
        }
        // Whoever is impatient loses nothing either.
        fs::write(demo.file("last"), content(9, 8 << 20))?;
        demo.signal_and_wait(&[Signal::SIGINT, Signal::SIGINT, Signal::SIGTERM])?;
        demo.mount()?;
        ensure!(fs::read(demo.file("last"))? == content(9, 8 << 20), "twice Ctrl-C cost bytes");
        demo.stop(Stop::Umount)?;
    }
    Ok(())
}

#[test]
fn signals_that_mean_nothing_to_a_demo_change_nothing() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup { size: "4GiB", ..Setup::new(Mode::Embedded) })?;
    let pid = demo.mount_pid();
    let signals = [
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGPIPE,
        Signal::SIGXFSZ,
    ];
    for (round, signal) in (0..).zip(signals) {
        kill(pid, signal)?;
        // Whatever was sent has arrived by the time that the kernel has an answer to this.
        fs::write(demo.file("file"), content(round, 1 << 20))
            .with_context(|| format!("{signal}"))?;
        fs::File::open(demo.file("file"))?.sync_all()?;
        serves(pid).with_context(|| format!("after {signal}"))?;
        ensure!(fs::read(demo.file("file"))? == content(round, 1 << 20), "{signal}: other bytes");
    }
    ensure!(demo.said().contains("Ctrl-C"), "Ctrl-Z is not answered: {}", demo.said());
    demo.stop(Stop::Umount)
}

#[test]
fn a_terminal_that_closes_ends_the_demo_with_everything_stored() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    for daemons in [false, true] {
        let place = Place::new()?;
        let mut command = place.demo();
        command.args(daemons.then_some("--daemons"));
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        // script(1) gives it a terminal of its own, which closes when script is killed.
        let mut script = Command::new("script");
        script.args(["-qec", &format!("exec {}", words.join(" ")), "/dev/null"]);
        let mut terminal =
            Process::start_ready(script.stdin(Stdio::null()), "ready", &place.at("terminal"))?;
        let pid = place.pid()?;
        fs::write(place.point().join("file"), content(5, 3 << 20))?;
        terminal.kill_9()?;
        wait_until("the demo to end with its terminal", PATIENCE, || is_gone(pid))?;
        ensure!(!is_mounted(&place.point()), "a dead mount is left behind");
        place.start(&[])?;
        let kept = fs::read(place.point().join("file")).context("after the terminal closed")?;
        ensure!(kept == content(5, 3 << 20), "daemons: {daemons}: bytes are lost");
    }
    Ok(())
}

#[test]
fn a_demo_in_the_background_outlives_its_terminal_and_opens_its_log_anew() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let place = Place::new()?;
    let mut command = place.demo();
    command.arg("--background");
    // Its output ends when it returns: nothing in the background holds the pipe.
    let said = run(&mut command, PATIENCE)?;
    ensure!(said.contains("ready") && said.contains("ashlar umount"), "{said}");
    ensure!(is_mounted(&place.point()), "demo --background returned, and nothing is mounted");
    let pid = place.pid()?;
    ensure!(nix::unistd::getsid(Some(pid))? == pid, "it is in the session of who started it");
    fs::write(place.point().join("file"), content(6, 1 << 20))?;
    let log = place.at("demo/demo.log");
    fs::rename(&log, place.at("moved"))?;
    kill(pid, Signal::SIGHUP)?;
    wait_until("a new log", PATIENCE, || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("SIGHUP"))
    })?;
    ensure!(is_mounted(&place.point()), "SIGHUP ended a demo in the background");
    // A second one says where the first is.
    let mut second = place.demo();
    second.args(["--background"]);
    let answer = output(&mut second, PATIENCE)?;
    let words = String::from_utf8_lossy(&answer.stderr).into_owned();
    ensure!(!answer.status.success() && words.contains("mounted"), "{words}");
    run(Command::new(ashlar()).arg("umount").arg(place.point()), PATIENCE)?;
    ensure!(is_gone(pid), "umount returned before the demo had ended");
    place.start(&[])?;
    ensure!(fs::read(place.point().join("file"))? == content(6, 1 << 20), "bytes are lost");
    Ok(())
}

#[test]
fn a_demo_under_nohup_goes_on_after_a_hangup() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let place = Place::new()?;
    let demo = place.demo();
    let mut command = Command::new("nohup");
    command.arg(demo.get_program()).args(demo.get_args());
    let mut process = Process::start_ready(&mut command, "ready", &place.at("log"))?;
    process.signal(Signal::SIGHUP)?;
    fs::write(place.point().join("file"), "written after it")?;
    ensure!(process.runs(), "SIGHUP ended it: {}", process.said());
    process.signal(Signal::SIGTERM)?;
    ensure!(process.wait(PATIENCE)?.success(), "SIGTERM: {}", process.said());
    Ok(())
}

#[test]
fn a_demo_that_is_told_to_end_while_it_starts_leaves_nothing_behind() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let place = Place::new()?;
    for round in 0..8u64 {
        let mut command = place.demo();
        command.args((round % 2 == 1).then_some("--daemons"));
        let mut process = Process::start(&mut command, &place.at("log"))?;
        // Any moment will do: the promise is the same before, in the midst of, and after it.
        std::thread::sleep(Duration::from_millis(round * round * 12));
        process.signal(Signal::SIGTERM)?;
        process.wait(PATIENCE).with_context(|| format!("round {round}: {}", process.said()))?;
        ensure!(!is_mounted(&place.point()), "round {round}: a dead mount is left behind");
    }
    place.start(&[])?;
    fs::write(place.point().join("file"), "works")?;
    Ok(())
}

#[test]
fn a_mount_in_the_background_bounds_its_log_and_opens_it_anew() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    site.mount("log=\"fs=info,fuser=debug\"")?;
    let pid = site.pid()?;
    let log = site.own("photos.messages");
    let old = site.own("photos.messages.1");
    wait_until("the log to be begun anew", 3 * PATIENCE, || {
        (0..2000).all(|_| fs::write(site.file("file"), "x").is_ok()) && old.exists()
    })?;
    let bound = 5 << 20;
    let len = |path: &Path| fs::metadata(path).map(|metadata| metadata.len());
    ensure!(len(&log)? <= bound && len(&old)? <= bound, "{} and {}", len(&log)?, len(&old)?);
    // The filter is one of the things that a remount changes.
    site.remount("log=info")?;
    fs::rename(&log, site.outside("moved"))?;
    kill(pid, Signal::SIGHUP)?;
    wait_until("a new log", PATIENCE, || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("SIGHUP"))
    })?;
    fs::write(site.file("file"), "still there")?;
    let text = fs::read_to_string(&log)?;
    ensure!(!text.contains("DEBUG"), "it still logs as before the remount: {text}");
    site.umount()
}

#[test]
fn a_daemon_serves_on_after_a_hangup_and_reads_its_log_level_again() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name);
    let mut init = Command::new(storaged());
    init.args(["disk", "init", "--new-cluster", "--capacity", "1GiB"]).arg(at("disk"));
    run(&mut init, PATIENCE)?;
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let config = |log: &str| {
        let disk = at("disk").display().to_string();
        let text = format!("disk = [\"{disk}\"]\nlisten = \"{address}\"\nlog = \"{log}\"\n");
        fs::write(at("config"), text)
    };
    config("error")?;
    let mut command = Command::new(storaged());
    command.arg("run").arg("--config").arg(at("config"));
    let mut daemon = Process::start(&mut command, &at("log"))?;
    let status = || {
        let mut status = Command::new(storaged());
        output(status.args(["status", "--address", &address]), PATIENCE)
            .is_ok_and(|answer| answer.status.success())
    };
    wait_until("the daemon to serve", PATIENCE, || !daemon.runs() || status())?;
    ensure!(daemon.said().is_empty(), "it logs more than errors: {}", daemon.said());
    config("info")?;
    daemon.signal(Signal::SIGHUP)?;
    wait_until("the new level", PATIENCE, || !daemon.runs() || daemon.said().contains("reloaded"))?;
    fs::write(at("config"), "nonsense")?;
    daemon.signal(Signal::SIGHUP)?;
    wait_until("the mistake to be told", PATIENCE, || {
        !daemon.runs() || daemon.said().contains("not reloaded")
    })?;
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTSTP, Signal::SIGXFSZ] {
        daemon.signal(signal)?;
        ensure!(status(), "after {signal}: {}", daemon.said());
    }
    daemon.signal(Signal::SIGQUIT)?;
    ensure!(daemon.wait(PATIENCE)?.success(), "SIGQUIT: {}", daemon.said());
    Ok(())
}

/// A demo of its own in a directory of its own, which is ended when this is dropped.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("ashlar-signals-").tempdir()?))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn point(&self) -> PathBuf {
        self.at("mnt")
    }

    fn demo(&self) -> Command {
        let mut command = Command::new(ashlar());
        command.arg("demo").arg(self.point()).arg("--dir").arg(self.at("demo"));
        command.args(["--size", "2GiB"]);
        command
    }

    fn start(&self, more: &[&str]) -> Result<()> {
        run(self.demo().arg("--background").args(more), PATIENCE).map(drop)
    }

    fn pid(&self) -> Result<Pid> {
        let mut status = Command::new(ashlar());
        pid_in(&answer(status.arg("status").arg(self.point()).arg("--json"), PATIENCE)?.1)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if is_mounted(&self.point()) {
            let mut umount = Command::new(ashlar());
            if let Err(e) = run(umount.args(["umount", "-f", "-l"]).arg(self.point()), PATIENCE) {
                eprintln!("{e:#}");
            }
        }
    }
}
