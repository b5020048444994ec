//! What Prometheus itself says of metrics and rules, by its `promtool`.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Has `promtool check` look at something, of which `text` is given to it as input, and wants it to have nothing to say
/// against it. Without the program (Debian: `prometheus`) it says so, and nothing is tested.
///
/// # Errors
/// What it has found.
pub fn check(words: &[&str], text: &str) -> Result<()> {
    let mut command = Command::new("promtool");
    command.arg("check").args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = match command.spawn() {
        Err(why) if why.kind() == ErrorKind::NotFound => {
            eprintln!("NOT TESTED: there is no promtool here (apt-get install prometheus)");
            return Ok(());
        }
        started => started.context("starting promtool")?,
    };
    // It reads all before it says anything, and its input ends here.
    promtool.stdin.take().context("its input")?.write_all(text.as_bytes())?;
    let answer = promtool.wait_with_output()?;
    let (out, err) =
        (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    // What it would rather have otherwise is an error, too.
    ensure!(
        answer.status.success() && err.trim().is_empty(),
        "promtool check {words:?}: {out}{err}"
    );
    Ok(())
}
