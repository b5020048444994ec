//! The command line: one file per command. Text becomes domain types here and nowhere deeper; an
//! error is one sentence on stderr and exit code 1 (2 for a command line that makes no sense; of `status` and `heal` 3, which is
//! "unknown" to monitoring).

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use proto::program;

mod accounts;
mod background;
mod care;
mod cluster;
mod daemons;
mod demo;
mod directories;
mod doors;
mod format;
mod fsck;
mod heal;
mod helper;
mod kv;
mod manual;
mod metad;
mod mount;
mod node;
mod options;
mod pass;
mod progress;
mod remount;
mod request;
mod serve;
mod setup;
mod status;
mod trash;
mod umount;
mod user;
mod volume;
mod whole_cluster;

use setup::{exit_code, with_logs};

use crate::doors::Opener;

/// A filesystem that keeps every byte erasure-coded across many disks.
#[derive(Parser)]
#[command(name = "ashlar", version = proto::VERSION, max_term_width = 100)]
struct Cli {
    /// What to log: error, warn, info, debug, or a filter such as fs=debug,proxy=info
    /// [default: $RUST_LOG, or info for mount, serve, node and demo --background, error for format, status, fsck, volume, user, key,
    /// token, link and trash, warn for the others]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Cluster(cluster::Args),
    Format(format::Args),
    Mount(mount::Args),
    Serve(serve::Args),
    Metad(metad::Args),
    Node(node::Args),
    Kv(kv::Args),
    Status(status::Args),
    Heal(heal::Args),
    Umount(umount::Args),
    Fsck(fsck::Args),
    Volume(volume::Args),
    User(user::Args),
    Key(pass::KeyArgs),
    Token(pass::TokenArgs),
    Link(pass::LinkArgs),
    Trash(trash::Args),
    InstallHelper(helper::InstallArgs),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
    /// The storage daemon, as `storaged` (the demo starts it with --daemons)
    #[command(hide = true, disable_help_flag = true)]
    Storaged {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// Commands that say by their exit code how a volume is.
const TELLING: [&str; 2] = ["status", "heal"];

/// Runs the program on its arguments. Called `mount.fuse.ashlar` or `umount.fuse.ashlar` it is the
/// helper of mount(8) or umount(8). Doors beside the kernel's are opened by `doors`.
pub fn main(doors: Opener) -> ExitCode {
    doors::opened_by(doors);
    if let Some(helper) = helper::Helper::by_name(std::env::args_os().next().as_deref()) {
        return helper.run();
    }
    let Cli { log, command } = match program::parse_telling(std::env::args_os(), &TELLING) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let log = log.as_deref();
    let result = match command {
        Command::Storaged { args } => return daemons::run_storaged(args),
        Command::Demo(args) => with_logs(log, args.log(), || demo::run(args)),
        Command::Cluster(args) => with_logs(log, "warn", || cluster::run(args)),
        Command::Format(args) => with_logs(log, "error", || format::run(args)),
        Command::Mount(args) => mount::run(args, log),
        Command::Serve(args) => with_logs(log, "info", || serve::run(args)),
        Command::Metad(args) => with_logs(log, "info", || metad::run(args)),
        Command::Node(args) => with_logs(log, "info", || node::run(args)),
        Command::Kv(args) => with_logs(log, "error", || kv::run(args)),
        Command::Status(args) => {
            let shown = with_logs(log, "error", || status::run(&args));
            return exit_code(shown, status::unknown());
        }
        Command::Heal(args) => {
            let shown = with_logs(log, "error", || heal::run(&args));
            return exit_code(shown, status::unknown());
        }
        Command::Umount(args) => with_logs(log, "warn", || umount::run(&args)),
        Command::Fsck(args) => with_logs(log, "error", || fsck::run(args)),
        Command::Volume(args) => with_logs(log, "error", || volume::run(args)),
        Command::User(args) => with_logs(log, "error", || user::run(args)),
        Command::Key(args) => with_logs(log, "error", || pass::run_key(args)),
        Command::Token(args) => with_logs(log, "error", || pass::run_token(args)),
        Command::Link(args) => with_logs(log, "error", || pass::run_link(args)),
        Command::Trash(args) => with_logs(log, "error", || trash::run(args)),
        Command::InstallHelper(args) => helper::install(&args),
        Command::Completions(args) => manual::completions(&args, &Cli::command()),
        Command::Man(args) => manual::write_pages(&args, &Cli::command()),
    };
    exit_code(result, ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_one_sentence_without_repetition() {
        let inner = anyhow::anyhow!("no\n  such  disk");
        let error = inner.context("disk 3: no\n  such  disk").context("mounting");
        assert_eq!(program::sentence(error.as_ref()), "mounting: disk 3: no such disk");
    }
}
