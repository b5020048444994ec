//! `storaged disk replace`, `lost` and `drain`: what a disk that goes changes in the cluster file.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use proto::cluster::{Cluster, Endpoint, Level};
use proto::id::DiskId;
use proto::program;
use proto::scheme::Scheme;
use serde_json::json;

use crate::cli::arguments::{DrainArgs, LostArgs, ReplaceArgs};
use crate::cli::cluster_file::ClusterFile;
use crate::error::DiskProblem;
use crate::format::init::{InitOptions, init_disk};
use crate::format::superblock::Superblock;

pub(crate) fn replace(args: &ReplaceArgs) -> anyhow::Result<ExitCode> {
    let mut file = ClusterFile::lock(&args.file.cluster)?;
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
    let mut file = ClusterFile::lock(&args.file.cluster)?;
    let nth = file.slot_of(args.disk)?;
    let left: Vec<_> = {
        let others = file.cluster.slots.iter().enumerate().filter(|(other, _)| *other != nth);
        others.map(|(_, slot)| slot.clone()).collect()
    };
    let remaining = Cluster { slots: left, ..file.cluster.clone() };
    let schemes = args.schemes.of_volumes();
    check_what_is_left(&file.cluster, &remaining, &schemes)?;
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
        no_more_apart(&file.cluster, &cluster, &schemes)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What there is to be done with a changed file.
const TELL: &str = "next: copy the file to every machine that mounts, and tell its mounts: SIGHUP (systemctl reload \
                    ashlar@VOLUME),\nor ashlar mount VOLUME DIR -o remount";

pub(crate) fn drain(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let mut file = ClusterFile::lock(&args.file.cluster)?;
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
        check_what_is_left(&file.cluster, &left, &args.schemes.of_volumes())?;
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

/// Can volumes of all the schemes go on with what is left, their metadata too?
fn check_what_is_left(before: &Cluster, left: &Cluster, schemes: &[Scheme]) -> anyhow::Result<()> {
    schemes.iter().try_for_each(|scheme| check_scheme(before, left, *scheme))
}

fn check_scheme(before: &Cluster, left: &Cluster, scheme: Scheme) -> anyhow::Result<()> {
    if let Err(why) = left.check_scheme(scheme) {
        bail!(
            "{} needs {} disks, and {} would be left: {OR_ELSE}",
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
             be left: {OR_ELSE}"
        );
    }
    Ok(())
}

/// What can be done where too few would be left.
const OR_ELSE: &str = "put another disk in its place (storaged disk replace), or name the schemes of all your volumes, \
                       if none is of this one (--scheme)";

/// What new data are not any more, in a line for each scheme: apart by racks, or hosts.
fn no_more_apart(before: &Cluster, left: &Cluster, schemes: &[Scheme]) -> String {
    let fallen = |scheme: &Scheme| {
        let needed = scheme.units();
        let falls = |level: &Level| {
            before.names(*level) && before.count(*level) >= needed && left.count(*level) < needed
        };
        let level = [Level::Rack, Level::Host].into_iter().find(falls)?;
        let have = left.count(level);
        Some(format!(
            "warning: {have} {level}s are too few to keep parts of {scheme} apart: one {level} has several of a blob \
             from now on\n"
        ))
    };
    schemes.iter().filter_map(fallen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::Schemes;

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
            let schemes = ["ec(4,2)".parse().unwrap()];
            let said = check_what_is_left(&before, &left, &schemes).map_err(|why| why.to_string());
            match (&said, refused) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{why}"),
                _ => panic!("{said:?}, expected {refused:?}"),
            }
            let said = no_more_apart(&before, &left, &schemes);
            assert_eq!(said.is_empty(), warned.is_none_or(str::is_empty), "{said}");
            assert!(warned.is_none_or(|part| said.contains(part)), "{said}");
        }
    }
    #[test]
    fn the_journal_of_every_scheme_needs_its_hosts() {
        let schemes = |named: &[&str]| Schemes {
            schemes: named.iter().map(|scheme| scheme.parse().unwrap()).collect(),
        };
        let check = |before: &str, left: &str, named: &[&str]| {
            let (before, left) = (cluster(before), cluster(left));
            let said = check_what_is_left(&before, &left, &schemes(named).of_volumes());
            said.map_err(|why| why.to_string())
        };
        // Three hosts carry the journal of a volume that survives one loss, and never had one of ec(4,2).
        let said = check("aaabbbc", "aaabbb", &[]).unwrap_err();
        assert!(
            said.contains("metadata of volumes of copies(2)") && said.contains("3 hosts"),
            "{said}"
        );
        assert_eq!(check("aaabbbc", "aaabbb", &["ec(4,2)"]), Ok(()), "there are no others");
        let said = check("aaabbbc", "aaabbb", &["ec(4,2)", "ec(2,1)"]).unwrap_err();
        assert!(said.contains("of ec(2,1)"), "{said}");
        let said = check("aabbccdde", "aabbccdd", &["ec(5,3)", "copies(3)"]).unwrap_err();
        assert!(said.contains("of copies(3)") && said.contains("5 hosts"), "{said}");
    }
}
