//! Promise: the Debian package installs, its daemon, its mount and its doors start by the command lines of their
//! units and say when they are ready, an upgrade keeps settings and what runs, and removing it takes
//! away the programs and nothing of anybody's data.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::binaries::workspace;
use tests::cluster::can_mount;
use tests::process::{output, run};

/// Making the package is building everything, optimised, on two busy cores; the second is quick.
const BUILD: Duration = Duration::from_secs(3600);
/// Everything that is done with it.
const USE: Duration = Duration::from_secs(300);

#[test]
fn it_installs_runs_is_upgraded_and_removed() -> Result<()> {
    if !can_mount() || !can_install() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (old, new) = (package("0.0.1")?, package("0.0.2")?);
    let script = workspace().join("tests/tests/package.sh");
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "--kill-child",
        "--fork",
        "--pid",
        "bash",
    ]);
    let done = output(command.arg(script).args([&old, &new]).arg(dir.path()), USE)?;
    let said = String::from_utf8_lossy(&done.stdout);
    let complaints = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success() && said.contains("== done"), "{said}\n{complaints}");
    Ok(())
}

/// Is this a Debian machine, and are we its root? Says so, loudly, when not.
fn can_install() -> bool {
    let debian = Command::new("dpkg").arg("--version").output().is_ok_and(|o| o.status.success());
    let able = debian && nix::unistd::geteuid().is_root();
    if !able {
        eprintln!("NOT TESTED: installing the package needs root on a Debian machine");
    }
    able
}

/// A package of what is built from these sources, under this version.
fn package(version: &str) -> Result<PathBuf> {
    let mut command = Command::new(workspace().join("tools/package"));
    let said = run(command.args(["--version", version]), BUILD)?;
    Ok(said.lines().last().context("tools/package says nothing")?.into())
}
