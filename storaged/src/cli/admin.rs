//! The admin commands: what an operator asks of disks, and how it is printed.

use std::io::{ErrorKind, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::statvfs::statvfs;
use proto::id::{ClusterId, PartKey};
use proto::program::{self, complain, sentence};
use proto::touch::touch;
use serde_json::{Value, json};

use crate::cli::arguments::{Disks, InitArgs, PartArgs};
use crate::disk::Disk;
use crate::disk::open::DiskOptions;
use crate::error::{DiskError, DiskProblem};
use crate::format::init::{InitOptions, init_disk};
use crate::format::room::Room;
use crate::format::superblock::{Superblock, lock};
use crate::io::system::disk_dir;
use crate::log::block_file;
use crate::scrub::position::Position;
use crate::scrub::seconds_now;

/// One line: JSON, or words. Answers whether anybody may still read.
pub(crate) fn print(
    json: bool,
    value: &Value,
    words: impl FnOnce() -> String,
) -> Result<bool, program::Unsaid> {
    program::say(if json { value.to_string() } else { words() })
}

/// A size as people read it.
pub(crate) fn human(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

pub(crate) fn init(args: &InitArgs) -> anyhow::Result<ExitCode> {
    let cluster = args.belongs.cluster.unwrap_or_else(ClusterId::random);
    let options =
        InitOptions { capacity: args.capacity.map(|size| size.0), block_file: args.block_file.0 };
    answers(&args.dir)?;
    let room = Room::around(&args.dir);
    let disk = init_disk(&args.dir, cluster, options)?;
    let capacity = Superblock::read(&args.dir)?.capacity;
    if let Ok(room) = room.as_ref()
        && capacity > room.unpromised()
    {
        complain("storaged", too_much(capacity, room));
    }
    let value = json!({ "path": args.dir, "cluster": cluster, "disk": disk, "capacity": capacity });
    print(args.json, &value, || {
        let capacity = human(capacity);
        format!(
            "cluster {cluster}\ndisk    {disk}\n{} is ready, with {capacity}",
            args.dir.display()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Does work on a disk that may hang, which takes no time where it does not.
fn soon<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce(&Path) -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    let owned = dir.to_owned();
    touch(move || work(&owned)).map_err(|e| DiskError::new(dir, DiskProblem::Io(e)))?
}

/// Does the filesystem answer that a directory is on, or will be? No cache knows how full it is.
fn answers(dir: &Path) -> Result<(), DiskError> {
    soon(dir, |dir| {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let there = dir.ancestors().find(|dir| dir.exists());
        // What is wrong with it is told by whoever uses it.
        there.map(statvfs);
        Ok(())
    })
}

/// What to expect of a disk that was made larger than what is left.
fn too_much(capacity: u64, room: &Room) -> String {
    let [free, promised, capacity] = [room.free, room.promised, capacity].map(human);
    format!(
        "warning: {free} are free, and the other disks on this filesystem ({}) have still to take {promised}: \
         the {capacity} of this one are not all there, and some disk will be full before it should be",
        room.disks
    )
}

/// Runs `one` for each disk; a disk that fails is reported and does not stop the others.
fn each(
    disks: &Disks,
    mut one: impl FnMut(&Path) -> anyhow::Result<bool>,
) -> anyhow::Result<ExitCode> {
    let mut good = true;
    for dir in &disks.dirs {
        match one(dir) {
            Ok(fine) => good &= fine,
            Err(e) => {
                complain("storaged", sentence(e.as_ref()));
                good = false;
            }
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many parts of a disk are damaged, in words.
pub(crate) fn said_damaged(parts: u64) -> String {
    match parts {
        0 => String::new(),
        parts => format!("  {parts} damaged"),
    }
}

/// When all of a disk was read and verified for the last time, in words.
pub(crate) fn said_scrubbed(ended: u64) -> String {
    let ago = seconds_now().saturating_sub(ended);
    match ago {
        _ if ended == 0 => "never scrubbed whole".to_owned(),
        0..3600 => format!("scrubbed {} min ago", ago / 60),
        3600..172_800 => format!("scrubbed {} h ago", ago / 3600),
        _ => format!("scrubbed {} days ago", ago / 86_400),
    }
}

fn in_use(dir: &Path) -> Result<bool, DiskError> {
    match lock(dir) {
        Ok(_) => Ok(false),
        Err(e) if matches!(e.problem, DiskProblem::InUse) => Ok(true),
        Err(e) => Err(e),
    }
}

pub(crate) fn list(disks: &Disks) -> anyhow::Result<ExitCode> {
    each(disks, |dir| {
        let (superblock, used, scrub) = soon(dir, |dir| {
            let superblock = Superblock::read(dir)?;
            Ok((superblock, in_use(dir)?, Position::read(dir, superblock.disk)))
        })?;
        let Superblock { cluster, disk, capacity, .. } = superblock;
        let (ended, damaged) = scrub.map_or((0, 0), |scrub| (scrub.ended, scrub.damaged.len()));
        let value = json!({
            "path": dir, "cluster": cluster, "disk": disk, "capacity": capacity, "in_use": used,
            "scrub_ended": ended, "damaged": damaged,
        });
        print(disks.json, &value, || {
            let state = if used { "in use" } else { "idle" };
            let damaged = said_damaged(damaged as u64);
            format!(
                "{}  disk {disk}  cluster {cluster}  {}  {state}  {}{damaged}",
                dir.display(),
                human(capacity),
                said_scrubbed(ended)
            )
        })?;
        Ok(true)
    })
}

pub(crate) fn info(disks: &Disks) -> anyhow::Result<ExitCode> {
    each(disks, |dir| {
        let (superblock, files, used) = soon(dir, |dir| {
            let io = |e| DiskError::new(dir, DiskProblem::Io(e));
            let files = block_file::numbers(&disk_dir(dir)).map_err(io);
            Ok((Superblock::read(dir)?, files?.len(), in_use(dir)?))
        })?;
        let Superblock { cluster, disk, capacity, block_file } = superblock;
        let value = json!({
            "path": dir, "cluster": cluster, "disk": disk, "capacity": capacity,
            "block_file": block_file, "block_files": files, "in_use": used,
        });
        print(disks.json, &value, || {
            format!(
                "{}\n  disk         {disk}\n  cluster      {cluster}\n  capacity     {}\n  \
                 block file   {}\n  block files  {files}\n  in use       {}",
                dir.display(),
                human(capacity),
                human(block_file),
                if used { "yes" } else { "no" }
            )
        })?;
        Ok(true)
    })
}

/// Opens a disk that answers. Reading its records may take as long as it likes.
fn open(dir: &Path, rebuild_index: bool) -> Result<Arc<Disk>, DiskError> {
    answers(dir)?;
    Superblock::read_soon(dir)?;
    Disk::open(dir, DiskOptions { rebuild_index, scrub_days: 0, ..DiskOptions::default() })
}

pub(crate) fn verify(disks: &Disks) -> anyhow::Result<ExitCode> {
    each(disks, |dir| {
        let disk = open(dir, false)?;
        let (mut good, mut bytes, mut bad) = (0u64, 0u64, Vec::new());
        let mut hangs = Ok(());
        let bar = progress(disk.state().parts, &dir.display().to_string());
        disk.each_part(|slot, key| {
            let reader = disk.clone();
            let read = touch(move || reader.read_part(slot, key));
            if read.as_ref().is_err_and(|e| e.kind() == ErrorKind::TimedOut) {
                hangs = read.map(drop);
                return false;
            }
            match read.map_err(anyhow::Error::from).and_then(|read| Ok(read?)) {
                Ok(data) => {
                    good += 1;
                    bytes += data.data().len() as u64;
                }
                Err(e) => {
                    let what = format!("{}: slot {slot}, part {key}: {e}", dir.display());
                    bar.suspend(|| complain("storaged", what));
                    bad.push(key.to_string());
                }
            }
            bar.inc(1);
            true
        })
        .with_context(|| dir.display().to_string())?;
        bar.finish_and_clear();
        hangs.with_context(|| dir.display().to_string())?;
        let value = json!({ "path": dir, "good": good, "bytes": bytes, "bad": bad });
        print(disks.json, &value, || {
            format!(
                "{}: {good} parts ({}) are good, {} are bad",
                dir.display(),
                human(bytes),
                bad.len()
            )
        })?;
        Ok(bad.is_empty())
    })
}

fn progress(parts: u64, name: &str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} parts, {eta} left")
        .expect("the template is valid");
    ProgressBar::with_draw_target(Some(parts), target)
        .with_style(style)
        .with_message(name.to_owned())
}

pub(crate) fn rebuild_index(disks: &Disks) -> anyhow::Result<ExitCode> {
    each(disks, |dir| {
        let parts = open(dir, true)?.state().parts;
        print(disks.json, &json!({ "path": dir, "parts": parts }), || {
            format!("{}: the index is made anew, with {parts} parts", dir.display())
        })?;
        Ok(true)
    })
}

pub(crate) fn parts_ls(disks: &Disks) -> anyhow::Result<ExitCode> {
    each(disks, |dir| {
        let disk = open(dir, false)?;
        let mut printed = Ok(true);
        disk.each_part(|slot, key| {
            let len = key.blob.part_len();
            let value = json!({
                "slot": slot, "blob": key.blob.to_string(), "part": key.part.get(), "len": len,
            });
            printed = print(disks.json, &value, || {
                format!("slot {slot}  {}  part {}  {len} bytes", key.blob, key.part)
            });
            matches!(printed, Ok(true))
        })
        .with_context(|| dir.display().to_string())?;
        printed?;
        Ok(true)
    })
}

pub(crate) async fn part_stat(args: &PartArgs) -> anyhow::Result<ExitCode> {
    let disk = open(&args.dir, false)?;
    let held = disk.held(args.slot, args.blob).await?;
    let parts: Vec<usize> = held.parts.iter().map(proto::id::PartIndex::get).collect();
    let (blob, len) = (args.blob.to_string(), args.blob.part_len());
    let value = json!({ "blob": blob, "parts": parts, "len": len, "deleted": held.deleted });
    print(args.json, &value, || {
        let deleted = if held.deleted { "deleted" } else { "not deleted" };
        format!("{blob}  parts {parts:?} of {len} bytes each  {deleted}")
    })?;
    disk.close().await;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn part_get(args: &PartArgs) -> anyhow::Result<ExitCode> {
    let Some(key) = PartKey::new(args.blob, args.part) else {
        bail!("{} has no part {}", args.blob, args.part);
    };
    let data = open(&args.dir, false)?
        .read_part(args.slot, key)
        .with_context(|| format!("{}: part {key}", args.dir.display()))?;
    program::write(data.data())?;
    Ok(ExitCode::SUCCESS)
}
