//! Promise: the public suites pass on real mounts: pjdfstest with all its features and the cases that
//! remount, and fsx without one wrong byte, also while its file is packed, stored and read back.
//!
//! The scripts in `tools/posix` run them and keep what they say; long runs and xfstests are theirs
//! alone (docs/posix.md). A suite that cannot be installed is left out, loudly.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::binaries::workspace;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::metad;
use tests::process::output;

/// Longest run of one suite, on a busy machine.
const LONG: Duration = Duration::from_secs(420);
/// Installing is building.
const BUILD: Duration = Duration::from_secs(900);
/// Operations of each mix of fsx.
const OPERATIONS: &str = "5000";

/// The cases of pjdfstest that do not apply, with the suite's reason.
const SKIPPED: &str = include_str!("../../tools/posix/pjdfstest.skipped");

fn tool(name: &str) -> PathBuf {
    workspace().join("tools/posix").join(name)
}

/// Whether this suite can be run here; says so, loudly, when it cannot.
fn can_run(suite: &str) -> Result<bool> {
    if !can_mount() {
        return Ok(false);
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: {suite} needs root");
        return Ok(false);
    }
    let installed = output(Command::new(tool("install")).arg(suite), BUILD)?;
    if !installed.status.success() {
        let why = String::from_utf8_lossy(&installed.stderr);
        eprintln!("NOT TESTED: {suite} cannot be installed: {}", why.trim_end());
    }
    Ok(installed.status.success())
}

/// Runs a suite on a mount; the names of what it skipped, with its reasons.
fn run(suite: &str, demo: &Demo, settings: &[(&str, &str)], arguments: &[&str]) -> Result<String> {
    let out = demo.outside("posix");
    let mut command = Command::new(tool(suite));
    command.arg(demo.path()).args(arguments).envs(settings.iter().copied()).env("POSIX_OUT", &out);
    let answer = output(&mut command, LONG)?;
    let said = String::from_utf8_lossy(&answer.stdout);
    println!("{}", said.lines().last().unwrap_or_default());
    if !answer.status.success() {
        let log = std::fs::read_to_string(out.join(format!("{suite}.log"))).unwrap_or_default();
        let all = format!("{said}{}\n{log}", String::from_utf8_lossy(&answer.stderr));
        ensure!(answer.status.success(), "{suite}: {}\n{all}", answer.status);
    }
    let skipped = out.join(format!("{suite}.skipped"));
    std::fs::read_to_string(&skipped).with_context(|| format!("reading {skipped:?}"))
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect()
}

fn pjdfstest(mode: Mode) -> Result<()> {
    if !can_run("pjdfstest")? {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(mode))?;
    pjdfstest_on(&mut demo)?;
    if mode == Mode::Embedded { demo.fsck() } else { Ok(()) }
}

/// On a mount, which has ended then.
fn pjdfstest_on(demo: &mut Demo) -> Result<()> {
    let skipped = run("pjdfstest", demo, &[], &[])?;
    // A feature that is lost makes cases "skipped", and nothing fails.
    let (now, listed) = (lines(&skipped), lines(SKIPPED));
    let more: Vec<_> = now.difference(&listed).collect();
    let less: Vec<_> = listed.difference(&now).collect();
    ensure!(
        more.is_empty() && less.is_empty(),
        "other cases are skipped than tools/posix/pjdfstest.skipped lists: {more:#?} more, {less:#?} less"
    );
    demo.stop(Stop::Umount)
}

#[test]
fn pjdfstest_passes_embedded() -> Result<()> {
    pjdfstest(Mode::Embedded)
}

#[test]
fn pjdfstest_passes_with_daemons() -> Result<()> {
    pjdfstest(Mode::Daemons)
}

#[test]
fn pjdfstest_passes_through_a_metad() -> Result<()> {
    if !can_run("pjdfstest")? {
        return Ok(());
    }
    let (metad, mut demo) = metad::mounted(Setup::new(Mode::Served))?;
    pjdfstest_on(&mut demo).with_context(|| metad.said())?;
    metad.stop()
}

#[test]
fn fsx_finds_no_wrong_byte_through_a_metad() -> Result<()> {
    if !can_run("fsx")? {
        return Ok(());
    }
    let (metad, mut demo) = metad::mounted(Setup::new(Mode::Served))?;
    run("fsx", &demo, &[], &[OPERATIONS]).with_context(|| metad.said())?;
    demo.stop(Stop::Umount)?;
    metad.stop()
}

#[test]
fn fsx_finds_no_wrong_byte_embedded() -> Result<()> {
    if !can_run("fsx")? {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    run("fsx", &demo, &[], &[OPERATIONS])?;
    demo.stop(Stop::Umount)?;
    demo.fsck()
}

#[test]
fn fsx_finds_no_wrong_byte_while_its_file_is_stored_and_read_back() -> Result<()> {
    if !can_run("fsx")? {
        return Ok(());
    }
    let mut setup = Setup::new(Mode::Served);
    setup.mount_arguments =
        ["--dirty-size", "8MiB", "--cache-size", "1MiB"].map(String::from).into();
    let mut demo = Demo::start(setup)?;
    let settings = [("FSX_DISTURB", "1"), ("FSX_ONLY", "basic|falloc|big"), ("FSX_SEED", "2")];
    run("fsx", &demo, &settings, &[OPERATIONS])?;
    demo.stop(Stop::Umount)
}
