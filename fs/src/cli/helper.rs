//! The helpers of mount(8) and umount(8), and their installation.
//!
//! mount(8) runs `/sbin/mount.TYPE SOURCE DIRECTORY [-sfnv] [-o OPTIONS]` for every type that the
//! kernel does not mount alone, umount(8) `/sbin/umount.TYPE DIRECTORY [-flnrv]`. Both are links to
//! this program, which knows by the name it is called with what it shall be. The source is the
//! volume's name. One that is mounted already appears at a second place, as with every filesystem
//! that mount(8) knows.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser};

use proto::program::{self, say};

use super::options::Options;
use super::request::Request;
use super::setup::{exit_code, with_logs};
use super::{mount, umount};

/// How mount(8) and umount(8) tell that it did not work.
const FAILURE: u8 = 32;
const MOUNT: &str = "mount.fuse.ashlar";
const UMOUNT: &str = "umount.fuse.ashlar";

/// What this program is called as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Helper {
    /// By mount(8).
    Mount,
    /// By umount(8).
    Umount,
}

/// Mounts a volume for mount(8); run by: mount -t fuse.ashlar VOLUME DIRECTORY -o OPTIONS
#[derive(Parser)]
#[command(name = MOUNT, version = proto::VERSION, after_help = mount::OPTIONS)]
struct MountArgs {
    /// Name of the volume
    volume: String,
    /// Where to mount it
    mountpoint: PathBuf,
    /// Options, separated by commas; cluster=FILE names the cluster's file
    /// [default: $ASHLAR_CLUSTER, or /etc/ashlar/cluster.toml]
    #[arg(short = 'o', value_name = "OPTS")]
    options: Vec<String>,
    /// Leave out options that are not known
    #[arg(short = 's')]
    sloppy: bool,
    /// Check everything, and do not mount
    #[arg(short = 'f')]
    fake: bool,
    #[command(flatten)]
    _ignored: Ignored,
}

/// Unmounts a volume for umount(8); run by: umount DIRECTORY
#[derive(Parser)]
#[command(name = UMOUNT, version = proto::VERSION, after_help = "Example:\n  umount /mnt/photos")]
struct UmountArgs {
    #[command(flatten)]
    umount: umount::Args,
    #[command(flatten)]
    _ignored: Ignored,
}

/// What both are called with, and what does not matter here.
#[derive(clap::Args)]
struct Ignored {
    /// Nothing is written to a table here anyway
    #[arg(short = 'n')]
    no_table: bool,
    /// Nothing is to be told
    #[arg(short = 'v')]
    verbose: bool,
    /// The type with which it was called
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

/// What both helpers understand, for their manual pages.
pub(super) fn commands() -> [clap::Command; 2] {
    [MountArgs::command(), UmountArgs::command()]
}

impl Helper {
    /// By the name that the program was called with.
    pub(super) fn by_name(name: Option<&OsStr>) -> Option<Self> {
        match Path::new(name?).file_name()?.to_str()? {
            MOUNT => Some(Self::Mount),
            UMOUNT => Some(Self::Umount),
            _ => None,
        }
    }

    /// Does what it was called for.
    pub(super) fn run(self) -> ExitCode {
        let result = match self {
            Self::Mount => parse().map(run_mount),
            Self::Umount => parse()
                .map(|args: UmountArgs| with_logs(None, "warn", || umount::run(&args.umount))),
        };
        let result = match result {
            Ok(result) => result,
            Err(code) => return code,
        };
        exit_code(result, ExitCode::from(FAILURE))
    }
}

fn parse<C: Parser>() -> Result<C, ExitCode> {
    program::parse(std::env::args_os())
}

fn run_mount(args: MountArgs) -> Result<ExitCode> {
    let text = args.options.join(",");
    let options = if args.sloppy { Options::known(&text)? } else { text.parse()? };
    if args.fake {
        return Ok(ExitCode::SUCCESS);
    }
    mount::run_request(Request::of_helper(args.volume, args.mountpoint, options))
}

/// Let mount(8), fstab and systemd mount volumes
///
/// Puts links to this program into /sbin, by which `mount -t fuse.ashlar` and `umount` find it. From
/// then on umount(8) waits until everything is stored.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ashlar install-helper
  mount -t fuse.ashlar photos /mnt/photos -o cluster=/etc/ashlar/cluster.toml
  ashlar install-helper --uninstall

A line of /etc/fstab:
  photos /mnt/photos fuse.ashlar cluster=/etc/ashlar/cluster.toml,_netdev,nofail 0 0")]
pub(super) struct InstallArgs {
    /// Take the links away again
    #[arg(long)]
    uninstall: bool,
    /// Where they are; mount(8) looks nowhere but in /sbin
    #[arg(long, value_name = "DIR", default_value = "/sbin")]
    dir: PathBuf,
}

/// Puts the helpers where mount(8) finds them, or takes them away.
pub(super) fn install(args: &InstallArgs) -> Result<ExitCode> {
    let program = std::env::current_exe().context("finding this program")?;
    for name in [MOUNT, UMOUNT] {
        let link = args.dir.join(name);
        check_ours(&link)?;
        let done = match args.uninstall {
            true => remove(&link),
            false => replace(&link, &program),
        };
        done.with_context(|| link.display().to_string())?;
        say(match args.uninstall {
            true => format!("{} is gone", link.display()),
            false => format!("{} -> {}", link.display(), program.display()),
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A program that somebody else has put there stays.
fn check_ours(link: &Path) -> Result<()> {
    match fs::symlink_metadata(link) {
        Ok(metadata) if !metadata.is_symlink() => {
            bail!("{}: there is another program by that name: remove it first", link.display())
        }
        _ => Ok(()),
    }
}

fn remove(link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// At no time is there none.
fn replace(link: &Path, program: &Path) -> io::Result<()> {
    let new = link.with_extension(format!("new-{}", std::process::id()));
    remove(&new)?;
    symlink(program, &new)?;
    fs::rename(&new, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helpers_understand_how_they_are_called() {
        MountArgs::command().debug_assert();
        UmountArgs::command().debug_assert();
        let words =
            [MOUNT, "photos", "/mnt/photos", "-n", "-o", "rw,cluster=/c", "-t", "fuse.ashlar"];
        let args = MountArgs::try_parse_from(words).unwrap();
        assert_eq!(
            (args.volume.as_str(), args.options),
            ("photos", vec!["rw,cluster=/c".to_owned()])
        );
        let args = UmountArgs::try_parse_from([UMOUNT, "/mnt/photos", "-f", "-l"]).unwrap().umount;
        assert!(args.force && args.lazy && !args.read_only);
        assert_eq!(
            Helper::by_name(Some("/sbin/umount.fuse.ashlar".as_ref())),
            Some(Helper::Umount)
        );
        assert_eq!(Helper::by_name(Some("ashlar".as_ref())), None);
    }
}
