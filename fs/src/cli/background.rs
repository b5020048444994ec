//! A process in the background that is this program again, with the same words: who started it waits
//! until the mount is there, or is told why not.
//!
//! ```text
//! the command                     the process in the background
//!   | starts it; stdout is a pipe  | a session of its own, nothing inherited; stderr is its log
//!   | prints what is relayed  <--- | say(), warn()
//!   | ends, exit code 0       <--- | succeed(): from now on nobody ends it but by a signal or umount
//!   | ends, the error's words <--- | fail()
//! ```
//!
//! Until it has succeeded it ends with the command: Ctrl-C there leaves nothing behind.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use proto::log_file;
use proto::program::{self, sentence};

/// Set in such a process: the pid of the one that waits.
const WAITS: &str = "ASHLAR_BACKGROUND";
/// First letter of a line that is not to be relayed, and what may follow.
const WORD: char = '\u{1}';
const MOUNTED: &str = "mounted";
const FAILED: &str = "failed ";
const WARNING: &str = "warning: ";

/// Is this one?
pub(super) fn is_here() -> bool {
    std::env::var_os(WAITS).is_some()
}

/// Starts this command again as such a process, and waits for its word.
pub(super) fn start(log: &Path) -> Result<ExitCode> {
    let named = || format!("log file {}", log.display());
    let stderr = log_file::open(log).with_context(named)?;
    let mut words = std::env::args_os();
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    if let Some(name) = words.next() {
        // The mount helper is known by its name.
        command.arg0(name);
    }
    let mut child = command
        .args(words)
        .env(WAITS, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .context("starting the background process")?;
    let out = child.stdout.take().expect("stdout is piped");
    for line in BufReader::new(out).lines() {
        let line = line.context("waiting for the background process")?;
        match line.strip_prefix(WORD) {
            Some(MOUNTED) => return Ok(ExitCode::SUCCESS),
            Some(warning) if warning.starts_with(WARNING) => program::complain("ashlar", warning),
            Some(failed) => {
                child.wait().context("waiting for the background process")?;
                return Err(anyhow!("{}", failed.trim_start_matches(FAILED)));
            }
            None => drop(program::say(line)?),
        }
    }
    let status = child.wait().context("waiting for the background process")?;
    bail!("the background process ended without a word ({status}): see {}", log.display())
}

/// Runs what such a process is for, cut off from who started it: whatever that had open must end with
/// it, and not with the mount. Why it failed is told to who waits, too.
pub(super) fn run(work: impl FnOnce() -> Result<ExitCode>) -> Result<ExitCode> {
    let done = cut_off().context("letting go of the terminal").and_then(|()| work());
    if let Err(e) = &done {
        // Whoever waits does not read the log. Once mounted, nobody waits.
        let _ = program::say(format!("{WORD}{FAILED}{}", sentence(e.as_ref())));
    }
    done
}

fn cut_off() -> Result<()> {
    set_pdeathsig(Signal::SIGTERM)?;
    let waits = std::env::var(WAITS).ok().and_then(|pid| pid.parse().ok());
    if waits.is_none_or(|waits| getppid() != Pid::from_raw(waits)) {
        bail!("the command that started it has ended");
    }
    nix::unistd::setsid()?;
    let inherited: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in inherited {
        // The listing had one of its own, which is closed by now.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// All paths are absolute by now: no other filesystem shall be in use because of us. What is said on
/// stderr goes to this log from now on.
pub(super) fn settle(log: &Path) -> Result<()> {
    std::env::set_current_dir("/").context("/")?;
    log_file::keep(log).with_context(|| format!("log file {}", log.display()))
}

/// Warns whoever waits, or who reads stderr.
pub(super) fn warn(text: &str) {
    if is_here() {
        // One who did not wait has ended us before.
        let _ = program::say(format!("{WORD}{WARNING}{text}"));
    } else {
        program::complain("ashlar", format!("{WARNING}{text}"));
    }
}

/// Tells who waits that it is mounted.
pub(super) fn succeed() -> Result<()> {
    set_pdeathsig(None)?;
    // One who did not wait has ended us before.
    let _ = program::say(format!("{WORD}{MOUNTED}"));
    let null = File::options().write(true).open("/dev/null").context("/dev/null")?;
    nix::unistd::dup2_stdout(&null).context("letting go of stdout")
}

/// SIGHUP: the log may have been moved away.
pub(super) fn reload() {
    match log_file::reopen() {
        Ok(()) => tracing::info!("the log is opened anew, by SIGHUP"),
        Err(e) => tracing::error!("the log cannot be opened anew: {e}"),
    }
}
