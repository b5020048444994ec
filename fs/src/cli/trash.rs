//! `ashlar trash`: what was deleted and is kept for a while, and how it is had back.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use proto::program::{complain, say};
use serde::Serialize;

use super::accounts::{Of, table};
use crate::trash::orders::{Answer, Listed, Order, Which, shown};

/// What is asked for at once.
const PAGE: usize = 1000;
/// Paths that something is in the way of, which are told.
const TAKEN_MOST: usize = 10;

/// Show what was deleted from a volume, put it back, or delete it for good
///
/// What is deleted by the page goes to the trash for 30 days. With `ashlar volume set VOLUME --trash-days N` whatever anybody
/// deletes goes there, by the mount and by all doors, and everything in it is kept for N days. It counts as used until then. The
/// volume may be mounted on this machine, or nowhere.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    ashlar trash list photos --cluster cluster.toml\n  \
    ashlar trash restore photos /holidays/rome --cluster cluster.toml\n  \
    ashlar trash empty photos --older-than 7 --cluster cluster.toml")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List what is in the trash, what was deleted last first
    ///
    /// What was deleted from a folder that is in the trash itself comes back with it, and is shown with --all.
    List(ListArgs),
    /// Put something back
    ///
    /// It comes back to where it was, as it was: with its owner, permissions, times and attributes. Folders that it was in and that
    /// are in the trash, too, come back before it. A folder that was deleted with all in it comes back with all in it; one that was
    /// empty when it was deleted comes back with what the same user had deleted from it just before: that is what `rm -r` leaves.
    Restore(RestoreArgs),
    /// Delete what is in the trash for good
    ///
    /// All of it, or what is named by its number. It is out of the trash at once; its room comes back in the background, while the
    /// volume is mounted.
    Empty(EmptyArgs),
}

#[derive(clap::Args)]
struct ListArgs {
    #[command(flatten)]
    of: Of,
    /// Only what is at this path or below, from the root of the volume
    #[arg(long, value_name = "PATH")]
    under: Option<OsString>,
    /// Also what comes back with a folder
    #[arg(long)]
    all: bool,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct RestoreArgs {
    #[command(flatten)]
    of: Of,
    /// Its number, as `ashlar trash list` shows it, or its path from the root of the volume, with a slash before it: of several
    /// what was deleted last; where nothing at that path was deleted, all that was below
    what: OsString,
    /// Path to put it at instead
    #[arg(long, value_name = "PATH")]
    to: Option<OsString>,
    /// What is there goes to the trash
    #[arg(long)]
    replace: bool,
    /// With the path /: all that is in the trash, of all users
    #[arg(long)]
    all: bool,
}

#[derive(clap::Args)]
struct EmptyArgs {
    #[command(flatten)]
    of: Of,
    /// Numbers of what shall go
    #[arg(value_name = "ID", conflicts_with = "older_than")]
    ids: Vec<u64>,
    /// Only what was deleted so many days ago, or earlier
    #[arg(long, value_name = "DAYS")]
    older_than: Option<u16>,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let said = match args.command {
        Command::List(args) => list(&args)?,
        Command::Restore(args) => return restore(args),
        Command::Empty(EmptyArgs { of, ids, older_than }) => {
            match of.have_of_trash(Order::Empty { ids, older_than })? {
                Answer::Emptied(0) => "there was nothing to delete".to_owned(),
                Answer::Emptied(count) => format!("{count} deleted for good"),
                answer => return Err(strange(&answer)),
            }
        }
    };
    say(said)?;
    Ok(ExitCode::SUCCESS)
}

fn strange(answer: &Answer) -> anyhow::Error {
    anyhow!("the mount answers something else: {answer:?}")
}

/// The names of a path from the root of the volume.
fn names(path: OsString) -> Result<Vec<Vec<u8>>> {
    let bytes = path.into_vec();
    let Some(path) = bytes.strip_prefix(b"/") else {
        let path = String::from_utf8_lossy(&bytes);
        bail!("{path} is no path from the root of the volume: that begins with a slash");
    };
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    let names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
    if names.iter().any(|name| matches!(&name[..], b"." | b"..")) {
        bail!("{} has the name . or .. in it", shown(&names));
    }
    Ok(names)
}

/// A line of the list.
#[derive(Serialize)]
struct Line {
    id: u64,
    path: String,
    kind: String,
    size: u64,
    deleted: String,
    by: u32,
    owner: u32,
}

impl Line {
    fn of(listed: Listed) -> Self {
        let Listed { id, path, kind, size, deleted, by, owner } = listed;
        let since = Duration::from_secs(u64::try_from(deleted).unwrap_or(0));
        let deleted = humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string();
        Self { id, path: shown(&path), kind, size, deleted, by, owner }
    }
}

fn list(args: &ListArgs) -> Result<String> {
    let under = args.under.clone().map(names).transpose()?.unwrap_or_default();
    let (mut lines, mut after) = (Vec::new(), None);
    loop {
        let (under, all) = (under.clone(), args.all);
        let order = Order::List { under, all, after, limit: PAGE };
        match args.of.have_of_trash(order)? {
            Answer::List(listed, next) => {
                lines.extend(listed.into_iter().map(Line::of));
                after = next;
            }
            answer => return Err(strange(&answer)),
        }
        if after.is_none() {
            break;
        }
    }
    if args.json {
        return serde_json::to_string_pretty(&lines).context("a list is plain data");
    }
    if lines.is_empty() {
        return Ok("nothing is in the trash".to_owned());
    }
    let rows = lines.into_iter().map(|line| {
        let size = if line.kind == "file" { line.size.to_string() } else { "-".to_owned() };
        [line.id.to_string(), line.deleted, line.by.to_string(), line.kind, size, line.path]
    });
    Ok(table(["ID", "DELETED", "BY", "KIND", "BYTES", "PATH"], rows.collect()))
}

fn restore(args: RestoreArgs) -> Result<ExitCode> {
    let RestoreArgs { of, what, to, replace, all } = args;
    let which = match what.to_str().and_then(|text| text.parse().ok()) {
        Some(id) => Which::Id(id),
        None => Which::Path(names(what).context("what shall be put back")?),
    };
    let is_all = matches!(&which, Which::Path(names) if names.is_empty());
    match (is_all, all) {
        (true, false) => bail!(
            "/ is all that is in the trash, of all users: give --all with it if that is meant"
        ),
        (false, true) => {
            bail!("--all is for all that is in the trash: give / with it, or leave it out")
        }
        _ => {}
    }
    let to = to.map(names).transpose().context("where it shall be put")?;
    let (count, taken) = match of.have_of_trash(Order::Restore { which, to, replace })? {
        Answer::Restored(count, taken) => (count, taken),
        answer => return Err(strange(&answer)),
    };
    say(format!("{count} restored"))?;
    for path in taken.iter().take(TAKEN_MOST) {
        complain("ashlar", format!("something is at {}: it stays in the trash", shown(path)));
    }
    match taken.len() {
        0 => Ok(ExitCode::SUCCESS),
        left if left > TAKEN_MOST => {
            bail!("{left} stay in the trash, as something has their names")
        }
        _ => Ok(ExitCode::FAILURE),
    }
}
