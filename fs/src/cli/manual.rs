//! `ashlar man` and `ashlar completions`: manual pages and shell completions, made of the command
//! lines as they are. They cover all three programs, as one package has them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::helper;

/// Print what lets a shell complete command lines
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ashlar completions bash > /usr/share/bash-completion/completions/ashlar
  ashlar completions zsh --program storaged > ~/.zfunc/_storaged
  source <(ashlar completions bash)")]
pub(super) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
    /// Which program's command lines
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Program::Ashlar)]
    program: Program,
}

/// Write manual pages of all programs and their commands
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  ashlar man /tmp/pages && man /tmp/pages/ashlar-mount.1")]
pub(super) struct ManArgs {
    /// Directory for the pages; made if it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Program {
    Ashlar,
    Storaged,
    Proxyd,
}

impl Program {
    /// What it understands, and the section of the manual that it belongs to.
    fn command(self, ashlar: &Command) -> (Command, &'static str) {
        match self {
            Self::Ashlar => (ashlar.clone(), "1"),
            Self::Storaged => (storaged::cli::command(), "8"),
            Self::Proxyd => (proxy::cli::Cli::command(), "8"),
        }
    }
}

pub(super) fn completions(args: &CompletionsArgs, ashlar: &Command) -> Result<ExitCode> {
    let (mut command, _) = args.program.command(ashlar);
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    proto::program::write(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes `ashlar.1`, `ashlar-mount.1`, ..., `storaged.8` and so on.
pub(super) fn write_pages(args: &ManArgs, ashlar: &Command) -> Result<ExitCode> {
    fs::create_dir_all(&args.dir).with_context(|| args.dir.display().to_string())?;
    for program in Program::value_variants() {
        let (command, section) = program.command(ashlar);
        pages(command, section, &args.dir)?;
    }
    for command in helper::commands() {
        pages(command, "8", &args.dir)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The page of a command and those of the commands in it.
fn pages(command: Command, section: &str, dir: &Path) -> Result<()> {
    let mut command = command.disable_help_subcommand(true);
    // Gives the inner ones their whole names.
    command.build();
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        pages(inner.clone(), section, dir)?;
    }
    let page = clap_mangen::Man::new(command)
        .section(section)
        .source(format!("Ashlar {}", env!("CARGO_PKG_VERSION")))
        .manual("Ashlar");
    let path = dir.join(page.get_filename());
    let write = || page.render(&mut File::create(&path)?);
    write().with_context(|| path.display().to_string())
}
