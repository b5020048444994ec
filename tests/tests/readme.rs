//! Promise: the commands in README.md work as typed. Its blocks are taken from the page itself, and each is
//! run by bash as it stands, with an empty home, in an empty directory, with nothing of ours on PATH but
//! what cargo has built; whatever it starts it must have ended. Only the clone's own block is changed: it
//! builds as tools/test does instead of with `--release`, which takes minutes and which the package needs.
//!
//! As root, each has mounts, a network and process numbers of its own, so that what it does to /etc,
//! /srv, /mnt and ports is gone afterwards, and is nothing that other tests could meet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::binaries::{ashlar, workspace};
use tests::cluster::can_mount;
use tests::process::{output, run};

/// What a block may take on a busy machine: it copies some hundred megabytes in small files.
const BOUND: Duration = Duration::from_secs(900);
/// Where Linux has its own programs.
const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The indented blocks of the page that are commands: all of them. Empty lines within one count.
fn blocks() -> Result<Vec<String>> {
    let page = fs::read_to_string(workspace().join("README.md"))?;
    let mut blocks: Vec<String> = Vec::new();
    let (mut fenced, mut inside) = (false, false);
    for line in page.lines() {
        fenced ^= line.starts_with("```");
        match line.strip_prefix("    ") {
            Some(code) if !fenced => {
                if !inside {
                    blocks.push(String::new());
                }
                inside = true;
                *blocks.last_mut().expect("one was begun") += &format!("{code}\n");
            }
            None if line.is_empty() && inside => *blocks.last_mut().expect("inside of one") += "\n",
            _ => inside = false,
        }
    }
    ensure!(blocks.len() >= 5, "the page has {} blocks: {blocks:#?}", blocks.len());
    Ok(blocks)
}

/// The folder that cargo has built the programs into.
fn built() -> PathBuf {
    ashlar().parent().expect("a program lies in a folder").to_owned()
}

/// One at a time: cargo may put programs anew where the others run them from.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What surrounds a block of root's: nothing that it changes is anybody else's.
const APART: &str = r#"set -eu
scratch=$1 block=$2
mounts() { grep fuse.ashlar /proc/self/mountinfo || true; }
before=$(mounts)
for dir in /etc /usr/sbin /srv /mnt /var/cache /var/lib/ashlar; do
    mkdir -p "$dir" "$scratch$dir"
    case $dir in /etc | /usr/sbin) cp -a "$dir/." "$scratch$dir/" ;; esac
    mount --bind "$scratch$dir" "$dir"
done
python3 -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x41))'
bash -eu -o pipefail "$block"
for process in /proc/[0-9]*; do
    program=$(readlink "$process/exe") || continue
    case $program in "$BUILT"/*) echo "left running: $(tr '\0' ' ' < "$process/cmdline")" >&2; exit 70 ;; esac
done
[ "$(mounts)" = "$before" ] || { mounts >&2; echo "left mounted" >&2; exit 71; }
"#;

/// Runs lines of bash as a block of the page is run. Answers what they say.
fn run_block(block: &str) -> Result<String> {
    let scratch = tempfile::Builder::new().prefix("ashlar-readme-").tempdir()?;
    let at = |name: &str| scratch.path().join(name);
    for name in ["home", "here", "apart"] {
        fs::create_dir(at(name))?;
    }
    fs::write(at("block"), block)?;
    fs::write(at("surroundings"), APART)?;
    let root = nix::unistd::geteuid().is_root();
    let mut command = Command::new(if root { "unshare" } else { "bash" });
    if root {
        let own = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"];
        command.args(own).arg(at("surroundings")).arg(at("apart"));
    } else {
        command.args(["-eu", "-o", "pipefail"]);
    }
    command.arg(at("block")).current_dir(at("here")).env_clear();
    command.env("HOME", at("home")).env("PATH", format!("{}:{SYSTEM}", built().display()));
    command.env("BUILT", built());
    let answer = output(&mut command, BOUND)?;
    let said = [&answer.stdout[..], &answer.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(answer.status.success(), "{}\n--- in:\n{block}--- it says:\n{said}", answer.status);
    ensure!(!said.contains("panicked"), "{said}");
    Ok(said.into_owned())
}

fn is_root_only(block: &str) -> bool {
    block.contains("/etc/")
}

#[test]
fn the_clone_builds_every_program_that_the_page_names() -> Result<()> {
    let _alone = alone();
    let all = blocks()?;
    let build: Vec<&String> = all.iter().filter(|block| block.contains("cargo ")).collect();
    ensure!(build.len() == 1 && all[0] == *build[0], "the first block, alone, builds: {build:?}");
    // The one thing that is not as typed.
    let typed =
        build[0].replace("--release", "--bins --tests").replace("target/release", "target/debug");
    ensure!(typed != *build[0], "it builds with --release: {typed}");
    let target = built();
    let script = format!("{typed}command -v ashlar storaged proxyd\n");
    let cargo = Path::new(env!("CARGO")).parent().context("cargo lies in a folder")?;
    let mut command = Command::new("bash");
    command.args(["-eu", "-c", &script]).current_dir(workspace());
    command.env("CARGO_TARGET_DIR", target.parent().context("a profile's folder lies in another")?);
    // Where cargo builds into another folder than the clone's own, that one is looked in next.
    command.env("PATH", format!("{}:{SYSTEM}:{}", cargo.display(), target.display()));
    let found = run(&mut command, BOUND)?;
    ensure!(found.lines().count() >= 3, "{found}");
    Ok(())
}

#[test]
fn every_other_block_works_as_typed_and_leaves_nothing_running() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let _alone = alone();
    let root = nix::unistd::geteuid().is_root();
    let mut failed = Vec::new();
    for block in blocks()?.iter().filter(|block| !block.contains("cargo ")) {
        if is_root_only(block) && !root {
            eprintln!("NOT TESTED: only root mounts by fstab, and this is not root:\n{block}");
            continue;
        }
        if let Err(error) = run_block(block) {
            failed.push(format!("{error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}

/// The examples in a help text: whole lines of one of our programs, or of what runs them.
fn examples(help: &str) -> Vec<String> {
    let after = help.split_once("Example").map_or("", |(_, after)| after);
    let lines =
        after.lines().map(|line| line.trim_start_matches("s: ").trim_start_matches(": ").trim());
    let ours = |line: &&str| {
        let first = line.split(' ').next().unwrap_or_default();
        ["ashlar", "storaged", "proxyd", "mount", "umount", "head"].contains(&first)
    };
    lines.filter(ours).map(str::to_owned).collect()
}

/// Help texts of a command and of all below it.
fn help(program: &Path, command: &[String], texts: &mut Vec<String>) -> Result<()> {
    let text = run(Command::new(program).args(command).arg("--help"), BOUND)?;
    let below = text.split_once("Commands:\n").map_or("", |(_, rest)| rest);
    let names = below.lines().take_while(|line| line.starts_with("  "));
    let names = names.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    for name in names.filter(|name| !name.is_empty() && *name != "help") {
        help(program, &[command, &[name.to_owned()]].concat(), texts)?;
    }
    texts.push(text);
    Ok(())
}

#[test]
fn every_example_of_the_help_is_understood() -> Result<()> {
    if !can_mount() || !nix::unistd::geteuid().is_root() {
        eprintln!(
            "NOT TESTED: the examples are run where nobody else is, which only root can make"
        );
        return Ok(());
    }
    let _alone = alone();
    let mut texts = Vec::new();
    for program in ["ashlar", "storaged", "proxyd"] {
        help(&built().join(program), &[], &mut texts)?;
    }
    let examples: Vec<String> = texts.iter().flat_map(|text| examples(text)).collect();
    ensure!(examples.len() > 25, "there are only {}: {examples:#?}", examples.len());
    // Most of them miss the disks that they are about, which status calls unknown (3), and fsck --repair a thing that
    // it could not look at (8); a command line that makes no sense is code 2.
    let mut script = String::new();
    for example in &examples {
        let quoted = example.replace('\'', "'\\''");
        script += &format!("timeout 8 bash -c '{quoted}' < /dev/null || code=$?\n");
        script += &format!(
            "case ${{code:-0}} in 0 | 1 | 3 | 8 | 32 | 124) ;; *) echo \"WRONG: code $code:\" '{quoted}' ;; esac\ncode=0\n"
        );
        script += "umount -f -l /mnt/* 2> /dev/null || true\n";
    }
    script += "ashlar umount ~/ashlar\n";
    let said = run_block(&script)?;
    let wrong: Vec<&str> = said.lines().filter(|line| line.starts_with("WRONG")).collect();
    ensure!(wrong.is_empty(), "{}\n{said}", wrong.join("\n"));
    Ok(())
}
