//! `storaged disk replace`, `lost` and `drain`: what a disk that goes changes in the cluster file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use proto::cluster::{Cluster, Endpoint, Level};
use proto::id::{DiskId, Generation};
use proto::program;
use proto::scheme::Scheme;
use proto::touch::touch;
use serde_json::json;

use crate::cli::arguments::{DrainArgs, LostArgs, ReplaceArgs};
use crate::cli::cluster_text::ClusterText;
use crate::error::DiskProblem;
use crate::format::init::{InitOptions, init_disk};
use crate::format::superblock::Superblock;

/// A cluster file that is to be changed.
struct ClusterFile {
    /// Where it is, whatever links lead there.
    path: PathBuf,
    cluster: Cluster,
    text: ClusterText,
}

impl ClusterFile {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let reading = path.to_owned();
        let read = touch(move || {
            let cluster = Cluster::read(&reading)?;
            let path = fs::canonicalize(&reading)?;
            let text = fs::read_to_string(&path)?;
            anyhow::Ok((cluster, path, text))
        });
        let (cluster, real, text) = read.with_context(|| path.display().to_string())??;
        let text = ClusterText::parse(&text).with_context(|| path.display().to_string())?;
        Ok(Self { path: real, cluster, text })
    }

    /// The slot that is on the disk.
    fn slot_of(&self, disk: DiskId) -> anyhow::Result<usize> {
        let slots = &self.cluster.slots;
        if let Some(nth) = slots.iter().position(|slot| slot.disk == disk) {
            return Ok(nth);
        }
        match slots.iter().find(|slot| slot.replaces == Some(disk)) {
            Some(by) => bail!("disk {disk} is replaced already, by {}", by.disk),
            None => bail!("{} lists no disk {disk}", self.path.display()),
        }
    }

    /// Raises its generation.
    fn raise(&mut self) -> anyhow::Result<Generation> {
        let next = Generation(self.cluster.generation.0 + 1);
        self.text.raise(next)?;
        Ok(next)
    }

    /// Writes it, whole or not at all, if it still is a cluster file.
    fn write(&self) -> anyhow::Result<Cluster> {
        let text = self.text.to_string();
        let base = self.path.parent().unwrap_or(Path::new("/"));
        let cluster = Cluster::parse(&text, base)?;
        let new = self.path.with_extension("toml.new");
        let write = || -> io::Result<()> {
            fs::write(&new, &text)?;
            fs::set_permissions(&new, fs::metadata(&self.path)?.permissions())?;
            fs::File::open(&new)?.sync_all()?;
            fs::rename(&new, &self.path)
        };
        write().with_context(|| self.path.display().to_string())?;
        Ok(cluster)
    }
}

pub(crate) fn replace(args: &ReplaceArgs) -> anyhow::Result<ExitCode> {
    let mut file = ClusterFile::read(&args.file.cluster)?;
    let nth = file.slot_of(args.old)?;
    let dir = std::path::absolute(&args.dir).with_context(|| args.dir.display().to_string())?;
    let options =
        InitOptions { capacity: args.capacity.map(|size| size.0), block_file: args.block_file.0 };
    let disk = disk_in(&dir, &file.cluster, options)?;
    let slot = file.cluster.slots[nth].clone();
    let generation = file.raise()?;
    file.text.replace(nth, disk, slot.stands_for(), &dir)?;
    let shown = file.path.display().to_string();
    if args.print {
        let lines = file.text.slot(nth)?;
        program::say(format!(
            "# In {shown}, with generation = {generation}:\n{}",
            lines.trim_end()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    file.write()?;
    if args.json {
        program::say(json!({
            "disk": disk, "replaces": slot.stands_for(), "path": dir, "cluster_file": file.path,
            "generation": generation,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let next = match slot.endpoint() {
        Endpoint::Remote(address) => format!(
            "have the storaged at {address} serve {} (storaged.toml), and start it again;\nthen ",
            dir.display()
        ),
        Endpoint::Local(_) => String::new(),
    };
    program::say(format!(
        "disk {disk} in {} is in the place of {}; {shown} is of generation {generation} now\n\
         next: {next}copy the file to every machine that mounts, and tell its mounts: SIGHUP \
         (systemctl reload ashlar@VOLUME),\nor ashlar mount VOLUME DIR -o remount",
        dir.display(),
        args.old
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The new disk: made, or one that was made for the cluster and is in no slot.
fn disk_in(dir: &Path, cluster: &Cluster, options: InitOptions) -> anyhow::Result<DiskId> {
    let found = match Superblock::read_soon(dir) {
        Ok(found) => found,
        Err(e) if matches!(e.problem, DiskProblem::NotADisk) || !dir.exists() => {
            return Ok(init_disk(dir, cluster.cluster, options)?);
        }
        Err(e) => return Err(e.into()),
    };
    let named = dir.display();
    let (is, wanted) = (found.cluster, cluster.cluster);
    ensure!(is == wanted, "{named} is a disk of cluster {is}, and the file is of {wanted}");
    let listed = cluster.slots.iter().any(|slot| slot.disk == found.disk);
    ensure!(!listed, "{named} is disk {}, which the file lists", found.disk);
    Ok(found.disk)
}

pub(crate) fn lost(args: &LostArgs) -> anyhow::Result<ExitCode> {
    let mut file = ClusterFile::read(&args.file.cluster)?;
    let nth = file.slot_of(args.disk)?;
    let left: Vec<_> = {
        let others = file.cluster.slots.iter().enumerate().filter(|(other, _)| *other != nth);
        others.map(|(_, slot)| slot.clone()).collect()
    };
    let remaining = Cluster { slots: left, ..file.cluster.clone() };
    check_what_is_left(&file.cluster, &remaining, args.scheme)?;
    let drained = file.cluster.slots[nth].drain;
    let generation = file.raise()?;
    file.text.remove(nth)?;
    let cluster = file.write()?;
    let shown = file.path.display();
    let held = match drained {
        true => {
            "what had not been moved from it when it was taken out is lost: nothing, if all mounts called it empty"
        }
        false => {
            "what it held is lost: of the disks that older data lie on, one less may be lost from now on, until they \
             are stored anew"
        }
    };
    program::say(format!(
        "disk {} is not in {shown} any more, which is of generation {generation} now, with {} slots\n{}{held}\n{TELL}",
        args.disk,
        cluster.slots.len(),
        no_more_apart(&file.cluster, &cluster, args.scheme)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What there is to be done with a changed file.
const TELL: &str = "next: copy the file to every machine that mounts, and tell its mounts: SIGHUP (systemctl reload \
                    ashlar@VOLUME),\nor ashlar mount VOLUME DIR -o remount";

pub(crate) fn drain(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let mut file = ClusterFile::read(&args.file.cluster)?;
    let nth = file.slot_of(args.disk)?;
    let (disk, shown) = (args.disk, file.path.display().to_string());
    let is = file.cluster.slots[nth].drain;
    if is != args.undo {
        let said = if is { "is to be emptied already" } else { "is not to be emptied" };
        bail!("disk {disk} {said}, by {shown}");
    }
    if !args.undo {
        let others = file.cluster.slots.iter().enumerate();
        let stays = others.filter(|(other, slot)| *other != nth && !slot.drain);
        let slots = stays.map(|(_, slot)| slot.clone()).collect();
        let left = Cluster { slots, ..file.cluster.clone() };
        check_what_is_left(&file.cluster, &left, args.scheme)?;
    }
    let generation = file.raise()?;
    file.text.drain(nth, !args.undo)?;
    file.write()?;
    let (what, then) = match args.undo {
        true => ("takes parts again", ""),
        false => (
            "is to be emptied",
            "\nthen every mount moves what its volume has on it; ashlar heal status says how much is left, and when it \
             is empty.\nWhen all mounts say so, storaged disk lost takes it out of the file",
        ),
    };
    program::say(format!(
        "disk {disk} {what}: {shown} is of generation {generation} now\n{TELL}{then}"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Can a volume of the scheme go on with what is left, its metadata too?
fn check_what_is_left(before: &Cluster, left: &Cluster, scheme: Scheme) -> anyhow::Result<()> {
    if let Err(why) = left.check_scheme(scheme) {
        bail!(
            "{} needs {} disks, and {} would be left: put another disk in its place (storaged disk replace), or \
             name the scheme of your volumes (--scheme)",
            why.scheme,
            why.needed,
            why.have
        );
    }
    let needed = scheme.as_copies().units();
    for level in [Level::Rack, Level::Host].into_iter().filter(|level| before.names(*level)) {
        let (had, have) = (before.count(level), left.count(level));
        ensure!(
            had < needed || have >= needed,
            "metadata of volumes of {scheme} lie apart by {level}s, which needs {needed} {level}s, and {have} would \
             be left: put another disk in its place (storaged disk replace), or name the scheme of your volumes \
             (--scheme)"
        );
    }
    Ok(())
}

/// What new data are not any more, in a line: apart by racks, or hosts.
fn no_more_apart(before: &Cluster, left: &Cluster, scheme: Scheme) -> String {
    let needed = scheme.units();
    let falls = |level: &Level| {
        before.names(*level) && before.count(*level) >= needed && left.count(*level) < needed
    };
    let fallen = [Level::Rack, Level::Host].into_iter().find(falls);
    fallen.map_or(String::new(), |level| {
        let have = left.count(level);
        format!(
            "warning: {have} {level}s are too few to keep parts of {scheme} apart: one {level} has several of a blob \
             from now on\n"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk on each of the hosts.
    fn cluster(hosts: &str) -> Cluster {
        let mut text = String::from("cluster = \"5ad0c2f0-0000-4000-8000-000000000000\"\n");
        for (n, host) in hosts.chars().enumerate() {
            text += &format!("[[slot]]\ndisk = \"0b6c0000-0000-4000-8000-0000000000{n:02}\"\n");
            text += &format!("path = \"/d{n}\"\ndomain = \"{host}\"\n");
        }
        Cluster::parse(&text, Path::new("/")).unwrap()
    }

    #[test]
    fn what_would_be_left_too_few_is_refused_and_what_is_less_apart_is_said() {
        let cases = [
            ("aabbcc", "aabbc", Some("ec(4,2) needs 6 disks, and 5"), None),
            ("aabbccd", "aabbcc", None, None),
            ("abcdef", "abcdee", None, Some("5 hosts are too few to keep parts of ec(4,2) apart")),
            ("aabcde", "aaaabcd", Some("needs 5 hosts, and 4 would be left"), None),
            ("aabbcdef", "abbcdef", None, None),
        ];
        for (before, left, refused, warned) in cases {
            let (before, left) = (cluster(before), cluster(left));
            let scheme: Scheme = "ec(4,2)".parse().unwrap();
            let said = check_what_is_left(&before, &left, scheme).map_err(|why| why.to_string());
            match (&said, refused) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{why}"),
                _ => panic!("{said:?}, expected {refused:?}"),
            }
            let said = no_more_apart(&before, &left, scheme);
            assert_eq!(said.is_empty(), warned.is_none_or(str::is_empty), "{said}");
            assert!(warned.is_none_or(|part| said.contains(part)), "{said}");
        }
    }
}
