//! `ashlar key`, `ashlar token`, `ashlar link`: what lets in whoever has it, in the name of a user. Each is printed once,
//! when it is made.

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use meta::{Account, AccountKind};
use proto::program::say;

use super::accounts::{Of, now, table};
use crate::access::as_kept as folder;
use crate::access::listed::ListedPass;
use crate::access::orders::{Answer, Order};
use crate::access::pass::New;

/// Make access keys for S3, list and revoke them
///
/// A key and its secret, as programs for S3 want them, stand for a user of the volume (`ashlar user add`). The secret is
/// printed once; the volume keeps it as it is, since signatures are made with it, and whoever reads the volume's metadata
/// knows it.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    ashlar key add photos ann --cluster cluster.toml\n  \
    ashlar key add photos ann --folder /2026 --read-only --cluster cluster.toml\n  \
    ashlar key list photos --cluster cluster.toml\n  \
    ashlar key revoke photos AKIAEXAMPLE --cluster cluster.toml")]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: Command,
}

/// Make bearer tokens, list and revoke them
///
/// A token stands for a user of the volume (`ashlar user add`) in programs: `curl -H 'Authorization: Bearer TOKEN'`. It is
/// printed once; the volume keeps a hash of it.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    ashlar token add photos ann --expires 90d --cluster cluster.toml\n  \
    ashlar token list photos --cluster cluster.toml\n  \
    ashlar token revoke photos 0123456789abcdef --cluster cluster.toml")]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: Command,
}

/// Make share links, list and revoke them
///
/// A link shows a folder to whoever has it, to read only, in the name of a user of the volume (`ashlar user add`). It is
/// printed once.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    ashlar link add photos ann --folder /2026 --expires 7d --cluster cluster.toml\n  \
    ashlar link list photos --cluster cluster.toml\n  \
    ashlar link revoke photos 0123456789abcdef --cluster cluster.toml")]
pub(super) struct LinkArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make one, and print it
    Add(AddArgs),
    /// List them, without what proves them
    List(ListArgs),
    /// Take one back: it lets nobody in from then on
    Revoke(RevokeArgs),
}

#[derive(clap::Args)]
struct AddArgs {
    #[command(flatten)]
    of: Of,
    /// Name of the user whom it stands for
    user: String,
    /// Folder that is all it shows, from the root of the volume [default: the user's]
    #[arg(long, value_name = "PATH")]
    folder: Option<String>,
    /// May change nothing (links may not anyway)
    #[arg(long)]
    read_only: bool,
    /// Ends after this time, such as 90d or 12h [default: when it is revoked]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
}

#[derive(clap::Args)]
struct ListArgs {
    #[command(flatten)]
    of: Of,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct RevokeArgs {
    #[command(flatten)]
    of: Of,
    /// Its id, as it is listed
    id: String,
}

pub(super) fn run_key(args: KeyArgs) -> Result<ExitCode> {
    run(AccountKind::Key, args.command)
}

pub(super) fn run_token(args: TokenArgs) -> Result<ExitCode> {
    run(AccountKind::Token, args.command)
}

pub(super) fn run_link(args: LinkArgs) -> Result<ExitCode> {
    run(AccountKind::Link, args.command)
}

fn run(kind: AccountKind, command: Command) -> Result<ExitCode> {
    let said = match command {
        Command::Add(args) => add(kind, args)?,
        Command::List(args) => list(kind, &args)?,
        Command::Revoke(RevokeArgs { of, id }) => {
            of.have(Order::Remove(kind, id.clone()))?;
            format!("{kind} {id} is revoked")
        }
    };
    say(said)?;
    Ok(ExitCode::SUCCESS)
}

fn add(kind: AccountKind, args: AddArgs) -> Result<String> {
    let AddArgs { of, user, folder: path, read_only, expires } = args;
    let path = match path {
        Some(path) => folder(&path),
        None => folder_of(&of, &user)?,
    };
    let now = now();
    let expires = expires.map(|after| now.saturating_add(after.as_secs()));
    if expires == Some(now) {
        bail!("--expires 0 makes something that lets nobody in: give a time, such as 90d");
    }
    let write = kind != AccountKind::Link && !read_only;
    let new = New { user, folder: path, write, now, expires };
    match kind {
        AccountKind::Key => {
            let key = new.key();
            let secret = String::from_utf8_lossy(&key.secret.0).into_owned();
            let id = key.id.clone();
            of.have(Order::Add(Account::Pass(key)))?;
            Ok(format!("access key: {id}\nsecret key: {secret}"))
        }
        AccountKind::Token => {
            let (token, text) = new.token();
            of.have(Order::Add(Account::Pass(token)))?;
            Ok(text)
        }
        _ => match of.have(Order::Add(Account::Pass(new.link())))? {
            Answer::Link(text) => Ok(text),
            answer => Err(anyhow!("the mount answers something else: {answer:?}")),
        },
    }
}

fn folder_of(of: &Of, name: &str) -> Result<String> {
    let users = of.all(AccountKind::User)?;
    let found = users.into_iter().find_map(|account| match account {
        Account::User(user) if user.name == name => Some(user.folder),
        _ => None,
    });
    found.with_context(|| {
        format!("volume {}: there is no user {name} (ashlar user add adds one)", of.volume)
    })
}

fn list(kind: AccountKind, args: &ListArgs) -> Result<String> {
    let all = args.of.all(kind)?.into_iter().filter_map(|account| match account {
        Account::Pass(pass) => Some(ListedPass::from(pass)),
        Account::User(_) => None,
    });
    let all: Vec<ListedPass> = all.collect();
    if args.json {
        return serde_json::to_string_pretty(&all).context("a list is plain data");
    }
    if all.is_empty() {
        return Ok(format!(
            "volume {} has no {kind}s (ashlar {kind} add makes one)",
            args.of.volume
        ));
    }
    let at = |secs: u64| match UNIX_EPOCH.checked_add(Duration::from_secs(secs)) {
        Some(time) if secs < 250_000_000_000 => humantime::format_rfc3339_seconds(time).to_string(),
        _ => "in the far future".to_owned(),
    };
    let now = now();
    let rows = all.into_iter().map(|pass| {
        let ends = match pass.expires {
            None => "when it is revoked".to_owned(),
            Some(secs) if secs <= now => format!("has expired {}", at(secs)),
            Some(secs) => at(secs),
        };
        let may = if pass.write { "read and write" } else { "read" };
        [pass.id, pass.user, may.to_owned(), at(pass.created), ends, pass.folder]
    });
    Ok(table(["ID", "USER", "MAY", "MADE", "ENDS", "FOLDER"], rows.collect()))
}
