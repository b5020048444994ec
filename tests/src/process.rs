//! Processes and waits, all with a bound.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program may take to start, to stop, or to answer a plain command, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `done` again and again until it says yes, `bound` at most.
pub fn wait_until(what: &str, bound: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + bound;
    while !done() {
        ensure!(Instant::now() < end, "waited {bound:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Runs `work` in a thread of its own and fails when it has not answered after `bound`: the way to
/// touch a mount that might hang. The thread is left behind then; ending the mount ends it.
pub fn bounded<T: Send + 'static>(
    what: &str,
    bound: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (tell, told) = mpsc::sync_channel(1);
    std::thread::spawn(move || tell.send(work()));
    match told.recv_timeout(bound) {
        Ok(answer) => Ok(answer),
        Err(mpsc::RecvTimeoutError::Timeout) => bail!("{what} hangs: no answer within {bound:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => bail!("{what} panicked"),
    }
}

/// Runs a command to its end, `bound` at most; what it printed, however it ended.
pub fn output(command: &mut Command, bound: Duration) -> Result<Output> {
    let shown = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {shown}"))?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    match bounded(&shown, bound, move || child.wait_with_output()) {
        Ok(output) => Ok(output?),
        Err(late) => {
            kill(pid, Signal::SIGKILL)?;
            Err(late)
        }
    }
}

/// Runs a command that must succeed; what it printed on stdout.
pub fn run(command: &mut Command, bound: Duration) -> Result<String> {
    let output = output(command, bound)?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command whose exit code is part of its answer; the code, and what it printed on stdout.
pub fn answer(command: &mut Command, bound: Duration) -> Result<(i32, String)> {
    let output = output(command, bound)?;
    let code = output.status.code();
    let code = code.with_context(|| format!("{command:?} died with {}", output.status))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.is_empty(), "{command:?} exits with {code} and says {said}");
    Ok((code, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Runs a line of shell that must succeed, in `directory`; what it printed on stdout.
pub fn shell(directory: &Path, line: &str, bound: Duration) -> Result<String> {
    run(
        Command::new("bash").arg("-euo").arg("pipefail").arg("-c").arg(line).current_dir(directory),
        bound,
    )
}

/// A long-running program of ours. Killed, if need be, when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says on stdout and stderr is appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Starts it and waits until a line on its stdout has the word by which it says that it is ready.
    pub fn start_ready(command: &mut Command, word: &str, log: &Path) -> Result<Self> {
        let mut file = File::options().create(true).append(true).open(log)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file.try_clone()?)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut process = Self { child, log: log.to_owned() };
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            // Reads to the end, so that the program never meets a closed pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Neither a full disk nor a test that has gone must stop the reading.
                let _ = writeln!(file, "{line}");
                let _ = tell.send(line.to_lowercase());
            }
        });
        let end = Instant::now() + PATIENCE;
        loop {
            match told.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.split(|c: char| !c.is_alphanumeric()).any(|one| one == word) => {
                    return Ok(process);
                }
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!("{command:?} was not ready after {PATIENCE:?}:\n{}", process.said())
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = process.wait(PATIENCE)?;
                    bail!("{command:?} ended before it was ready ({status}):\n{}", process.said())
                }
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid fits"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("{signal} to {}", self.pid()))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end, `bound` at most.
    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(&format!("the end of process {}", self.pid()), bound, || {
            status = self.child.try_wait().unwrap_or(Some(ExitStatus::from_raw(0xff00)));
            status.is_some()
        })?;
        Ok(status.expect("the wait ended with a status"))
    }

    /// kill -9, and waits until it is gone.
    pub fn kill_9(&mut self) -> Result<()> {
        if self.runs() {
            self.signal(Signal::SIGKILL)?;
        }
        self.wait(PATIENCE).map(drop)
    }

    /// The last lines of what it has said.
    pub fn said(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&text), 40)
    }
}

/// So many lines at the end of a text.
pub fn last_lines(text: &str, most: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(most)..].join("\n")
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kill_9().is_err() {
            eprintln!("process {} could not be ended", self.pid());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended_at_its_bound() {
        let started = Instant::now();
        let error = run(Command::new("sleep").arg("100"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("hangs"), "{error:#}");
        assert!(started.elapsed() < PATIENCE);
    }

    #[test]
    fn a_program_that_ends_before_it_is_ready_is_an_error_with_its_words() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo already; echo why not >&2; exit 3"]);
        let error = Process::start_ready(&mut command, "ready", &log).err().unwrap().to_string();
        assert!(error.contains("why not") && error.contains('3'), "{error}");
    }
}
