//! `ashlar user`: who may come to a volume by a door, with a password.

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use meta::{Account, AccountKind, Secret, User};
use proto::program::say;

use super::accounts::{Of, table};
use crate::access::as_kept as folder;
use crate::access::listed::ListedUser;
use crate::access::orders::Order;
use crate::access::password;

/// Say who may come to a volume by a door, with a password
///
/// Doors are the file page, WebDAV, S3 and what else `ashlar` serves over a network; the mount itself knows the users of
/// its machine. A user stands for a user and groups of the tree, by their numbers: permissions and access lists are
/// obeyed as on the mount. The volume may be mounted on this machine, or nowhere.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    ashlar user add photos ann --uid 1000 --gid 1000 --groups 44 --cluster cluster.toml\n  \
    ashlar user list photos --cluster cluster.toml\n  \
    ashlar user password photos ann --cluster cluster.toml\n  \
    ashlar user revoke photos ann --cluster cluster.toml")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Add a user
    ///
    /// The password is asked for, without showing it, or is the first line of standard input where that is no terminal.
    Add(AddArgs),
    /// List users
    List(ListArgs),
    /// Give a user another password
    ///
    /// It is asked for as by add. Whoever knows the old one is not let in from then on.
    Password(NamedArgs),
    /// Let a user in no more, nor anybody by a key, token or link in his name
    ///
    /// The account stays, and can be allowed again. With --delete it goes, with all keys, tokens and links.
    Revoke(RevokeArgs),
    /// Let a user in again whose access was revoked
    Allow(NamedArgs),
}

#[derive(clap::Args)]
struct AddArgs {
    #[command(flatten)]
    of: Of,
    /// Name of the user: up to 29 of a-z, A-Z, 0-9, dot, dash, underscore, + and @
    user: String,
    /// Number of the user in the tree; 0 may everything
    #[arg(long, value_name = "N")]
    uid: u32,
    /// Number of the group that new files get
    #[arg(long, value_name = "N")]
    gid: u32,
    /// Numbers of further groups
    #[arg(long, value_name = "N,N...", value_delimiter = ',')]
    groups: Vec<u32>,
    /// Folder that is all the user sees, from the root of the volume
    #[arg(long, value_name = "PATH", default_value = "/")]
    folder: String,
    /// May change nothing
    #[arg(long)]
    read_only: bool,
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
struct NamedArgs {
    #[command(flatten)]
    of: Of,
    /// Name of the user
    user: String,
}

#[derive(clap::Args)]
struct RevokeArgs {
    #[command(flatten)]
    of: Of,
    /// Name of the user
    user: String,
    /// Delete the account, with all keys, tokens and links in its name
    #[arg(long)]
    delete: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let said = match args.command {
        Command::Add(args) => add(args)?,
        Command::List(args) => list(&args)?,
        Command::Password(NamedArgs { of, user }) => {
            // A typing error shall not cost a password.
            find(&of, &user)?;
            of.have(Order::Password(user.clone(), password::hash(&ask_password(&user)?)))?;
            format!("user {user} has another password")
        }
        Command::Revoke(RevokeArgs { of, user, delete: false }) => {
            of.have(Order::Disable(user.clone(), true))?;
            format!("user {user} is let in no more (ashlar user allow lets him in again)")
        }
        Command::Revoke(RevokeArgs { of, user, delete: true }) => {
            of.have(Order::Remove(AccountKind::User, user.clone()))?;
            format!("user {user} is deleted, with all keys, tokens and links in this name")
        }
        Command::Allow(NamedArgs { of, user }) => {
            of.have(Order::Disable(user.clone(), false))?;
            format!("user {user} is let in again")
        }
    };
    say(said)?;
    Ok(ExitCode::SUCCESS)
}

fn add(args: AddArgs) -> Result<String> {
    let AddArgs { of, user: name, uid, gid, groups, folder: path, read_only } = args;
    let mut user = User {
        name: name.clone(),
        password: Secret::default(),
        uid,
        gids: [&[gid], &groups[..]].concat(),
        folder: folder(&path),
        write: !read_only,
        disabled: false,
    };
    // What cannot be is said before a password is asked for.
    Account::User(user.clone()).check().map_err(|why| anyhow!(why))?;
    user.password = password::hash(&ask_password(&name)?);
    of.have(Order::Add(Account::User(user)))?;
    let may = if read_only { "read" } else { "read and write" };
    Ok(format!("user {name} may {may} in {} of volume {}", folder(&path), of.volume))
}

fn find(of: &Of, name: &str) -> Result<()> {
    match of.all(AccountKind::User)?.iter().any(|user| user.name() == name) {
        true => Ok(()),
        false => bail!("volume {}: there is no user {name}", of.volume),
    }
}

fn list(args: &ListArgs) -> Result<String> {
    let users = args.of.all(AccountKind::User)?.into_iter().filter_map(|account| match account {
        Account::User(user) => Some(ListedUser::from(user)),
        Account::Pass(_) => None,
    });
    let users: Vec<ListedUser> = users.collect();
    if args.json {
        return serde_json::to_string_pretty(&users).context("a list is plain data");
    }
    if users.is_empty() {
        return Ok(format!("volume {} has no users (ashlar user add adds one)", args.of.volume));
    }
    let rows = users.into_iter().map(|user| {
        let gids: Vec<String> = user.gids.iter().map(u32::to_string).collect();
        let may = match (user.disabled, user.write) {
            (true, _) => "revoked",
            (false, true) => "read and write",
            (false, false) => "read",
        };
        [user.name, user.uid.to_string(), gids.join(","), may.to_owned(), user.folder]
    });
    Ok(table(["NAME", "UID", "GROUPS", "MAY", "FOLDER"], rows.collect()))
}

/// A password from whoever sits at the terminal, twice; or the first line of standard input.
fn ask_password(user: &str) -> Result<Secret> {
    let password = if io::stdin().is_terminal() {
        let first = ask_hidden(&format!("password for {user}: "))?;
        if first != ask_hidden("the same again: ")? {
            bail!("the two passwords are not the same: nothing has changed");
        }
        first
    } else {
        read_line()?
    };
    password::check(&password).map_err(|why| anyhow!(why))?;
    Ok(password)
}

fn read_line() -> Result<Secret> {
    let mut line = Vec::new();
    io::stdin().lock().read_until(b'\n', &mut line).context("reading the password")?;
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    Ok(Secret(line))
}

/// What is typed at the terminal, which does not show it.
fn ask_hidden(prompt: &str) -> Result<Secret> {
    let typed = rpassword::prompt_password(prompt).context("asking for the password")?;
    Ok(Secret(typed.into_bytes()))
}
