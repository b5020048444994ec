//! Commands about who may come to a volume by a door.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::binaries::ashlar;
use crate::cluster::{DEMO_VOLUME, Demo};
use crate::process::{PATIENCE, output, run};

/// Commands about the accounts of a demo's volume.
pub struct Accounts<'a>(pub &'a Demo);

impl Accounts<'_> {
    /// A command, such as `user list --json`, about the volume.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(ashlar());
        let (subject, rest) = words.split_once(' ').expect("a command and its words");
        let (verb, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        command.args([subject, verb, DEMO_VOLUME]).args(rest.split_whitespace());
        command.env("ASHLAR_CLUSTER", self.0.cluster_file());
        command
    }

    /// What it says.
    pub fn say(&self, words: &str) -> Result<String> {
        run(&mut self.command(words), PATIENCE).with_context(|| words.to_owned())
    }

    /// All of a kind.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&self.say(&format!("{kind} list --json"))?)?)
    }

    /// With a password on standard input.
    pub fn with_password(&self, words: &str, password: &str) -> Result<String> {
        let command = self.command(words);
        let mut piped = Command::new("bash");
        let script = format!("printf '%s\\n' '{password}' | \"$@\"");
        piped.args(["-o", "pipefail", "-c", &script, "bash"]);
        piped.arg(command.get_program()).args(command.get_args());
        run(piped.env("ASHLAR_CLUSTER", self.0.cluster_file()), PATIENCE)
    }

    /// The sentence by which it is refused.
    pub fn refused(&self, words: &str) -> Result<String> {
        let answer = output(&mut self.command(words), PATIENCE)?;
        let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
        ensure!(answer.status.code() == Some(1), "{words}: {} and {said}", answer.status);
        ensure!(said.lines().count() == 1, "{words}: not one sentence: {said}");
        Ok(said)
    }

    /// Makes an access key of S3 with these words behind `key add`: its id, and its secret.
    pub fn access_key(&self, words: &str) -> Result<(String, String)> {
        let said = self.say(&format!("key add {words}"))?;
        let is_id = |word: &&str| word.starts_with("AKIA");
        let id = said.split_whitespace().find(is_id).context("an access key")?;
        let secret = said.split_whitespace().find(|word| word.len() == 40 && !is_id(word));
        Ok((id.to_owned(), secret.context("a secret")?.to_owned()))
    }
}
