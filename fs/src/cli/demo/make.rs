//! The disks, the volume and the cluster's file of a demo: all there, or nothing.
//!
//! They are made in `DIR/formatting`. Its `cluster.toml` comes last, and says that all is whole; from
//! then on it is moved to `DIR`, again last. So whatever an interruption leaves, the next run goes on:
//! without that file it begins anew, with it only what was not moved yet is moved.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;
use proto::cluster::{Cluster, Slot};
use proto::id::{ClusterId, Generation, SlotId};
use proto::scheme::Scheme;
use proto::size::Size;
use proxy::VolumeRules;
use storaged::InitOptions;
use storaged::superblock::Superblock;

use crate::cli::format;
use crate::cli::setup::block_on;

/// The volume of a demo.
pub(super) const VOLUME: &str = "demo";
/// Disks, unless told otherwise.
const DISKS: usize = 8;
/// Smallest and largest block file of a demo's disk: a small disk needs several.
const BLOCK_FILE: (u64, u64) = (16 << 20, 256 << 20);
/// Block files that a disk should at least have room for.
const BLOCK_FILES: u64 = 16;
/// Fewest block files that a disk can have.
const FEWEST: u64 = 4;
/// What is moved, and the file that comes last.
const PARTS: [&str; 2] = ["disks", LAST];
pub(super) const LAST: &str = "cluster.toml";

/// What is asked for of the disks.
#[derive(clap::Args)]
pub(super) struct Wanted {
    /// Number of disks to format [default: 8]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    disks: Option<u16>,
    /// How data are protected: ec(K,M), readable with any M disks lost, or copies(N)
    /// [default: ec(4,2)]
    #[arg(long)]
    pub(super) scheme: Option<Scheme>,
    /// Room of all disks together [default: 80 % of what is free]
    #[arg(long)]
    size: Option<Size>,
}

/// The demo in this directory; a new one, if there is none.
pub(super) fn find_or_make(wanted: &Wanted, dir: &Path) -> Result<Cluster> {
    let made = Made::directory(dir)?;
    make(wanted, dir)?;
    made.keep();
    let cluster = Cluster::read(&dir.join(LAST))?;
    check_same(wanted, &cluster, dir)?;
    Ok(cluster)
}

fn make(wanted: &Wanted, dir: &Path) -> Result<()> {
    let named = || dir.display().to_string();
    let plan = Plan::of(wanted)?;
    let lock = Flock::lock(File::open(dir).with_context(named)?, FlockArg::LockExclusive);
    let _lock = lock.map_err(|(_, e)| e).with_context(named)?;
    if dir.join(LAST).exists() {
        return Ok(());
    }
    let staged = dir.join("formatting");
    if !staged.join(LAST).exists() {
        remove(&staged)?;
        refuse_halves(dir)?;
        if let Err(e) = plan.make(dir, &staged) {
            remove(&staged)?;
            return Err(e);
        }
    }
    for part in PARTS {
        match fs::rename(staged.join(part), dir.join(part)) {
            // It was moved before the interruption.
            Err(e) if e.kind() == io::ErrorKind::NotFound && dir.join(part).exists() => {}
            moved => moved.with_context(|| dir.join(part).display().to_string())?,
        }
    }
    fs::remove_dir(&staged).with_context(|| staged.display().to_string())
}

/// What no run of this program leaves: somebody has taken the file away that belongs to these.
fn refuse_halves(dir: &Path) -> Result<()> {
    match PARTS.iter().any(|part| dir.join(part).exists()) {
        true => {
            let dir = dir.display();
            bail!("{dir} has disks but no cluster.toml: choose another --dir, or remove {dir}")
        }
        false => Ok(()),
    }
}

fn remove(staged: &Path) -> Result<()> {
    match fs::remove_dir_all(staged) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| staged.display().to_string()),
    }
}

/// What was asked for, and can be.
struct Plan {
    disks: usize,
    scheme: Scheme,
    /// Of all disks together; `None`: by what is free.
    size: Option<u64>,
}

impl Plan {
    fn of(wanted: &Wanted) -> Result<Self> {
        let disks = wanted.disks.map_or(DISKS, usize::from);
        let scheme = wanted.scheme.map_or_else(|| Scheme::erasure(4, 2), Ok)?;
        if scheme.parts() > disks {
            bail!("{scheme} needs {} disks, and --disks says {disks}", scheme.parts());
        }
        let least = disks as u64 * FEWEST * BLOCK_FILE.0;
        match wanted.size {
            Some(size) if size.0 < least => {
                bail!("--size {size} is too small for {disks} disks: at least {}", Size(least))
            }
            size => Ok(Self { disks, scheme, size: size.map(|size| size.0) }),
        }
    }

    /// Formats the disks and the volume.
    fn make(&self, dir: &Path, staged: &Path) -> Result<()> {
        let named = |path: &Path| path.display().to_string();
        fs::create_dir_all(staged.join("disks")).with_context(|| named(staged))?;
        let total = match self.size {
            Some(size) => size,
            None => {
                let free = statvfs(staged).with_context(|| named(staged))?;
                free.blocks_available() * free.fragment_size() / 10 * 8
            }
        };
        let capacity = capacity(total, self.disks);
        let block_file =
            (capacity / BLOCK_FILES).next_power_of_two().clamp(BLOCK_FILE.0, BLOCK_FILE.1);
        let id = ClusterId::random();
        let (generation, cache) = (Generation(1), Some(staged.join("cache")));
        let (metad, slots) = (Vec::new(), Vec::new());
        let (identity, insecure) = (None, false);
        let mut cluster =
            Cluster { cluster: id, generation, cache, metad, identity, insecure, slots };
        for number in 0..self.disks {
            let (now, path) = (disk(staged, number), disk(dir, number));
            let options = InitOptions { capacity: Some(capacity), block_file };
            let disk = storaged::init_disk(&now, id, options).with_context(|| named(&path))?;
            let (slot, (domain, rack)) = (SlotId(0), Default::default());
            let (replaces, address, path) = (None, None, Some(now));
            cluster.slots.push(Slot {
                disk,
                replaces,
                address,
                path,
                slot,
                domain,
                rack,
                drain: false,
            });
        }
        block_on(format::create(&cluster, VOLUME, self.scheme, VolumeRules::MIN_SPARE))?;
        remove(&staged.join("cache"))?;
        cluster.cache = Some(dir.join("cache"));
        for (number, slot) in cluster.slots.iter_mut().enumerate() {
            slot.path = Some(disk(dir, number));
        }
        write_cluster(&staged.join(LAST), &cluster)
    }
}

fn disk(dir: &Path, number: usize) -> PathBuf {
    dir.join("disks").join(number.to_string())
}

fn capacity(total: u64, disks: usize) -> u64 {
    total / disks as u64
}

/// A formatted demo is what it is: asked for another one, it says so.
fn check_same(wanted: &Wanted, cluster: &Cluster, dir: &Path) -> Result<()> {
    let have = cluster.slots.len();
    let other = |have: String, asked: String| {
        let dir = dir.display();
        bail!("the demo in {dir} has {have}, not {asked}: choose another --dir, or remove it")
    };
    if let Some(asked) = wanted.disks.filter(|&asked| usize::from(asked) != have) {
        return other(format!("{have} disks"), asked.to_string());
    }
    // One that cannot be read, or is another, is for the mount to judge.
    let disks = cluster.slots.iter().filter_map(|slot| {
        let disk = Superblock::read(slot.path.as_deref()?).ok()?;
        (disk.disk == slot.disk).then_some(disk)
    });
    let capacities: Vec<u64> = disks.map(|disk| disk.capacity).collect();
    if let Some(asked) = wanted.size
        && let Some(&found) = capacities.iter().find(|&&found| found != capacity(asked.0, have))
    {
        return other(
            format!("disks of {}", Size(found)),
            format!("{} each", Size(capacity(asked.0, have))),
        );
    }
    Ok(())
}

/// Whole or not at all.
pub(super) fn write_cluster(file: &Path, cluster: &Cluster) -> Result<()> {
    let new = file.with_extension("toml.new");
    let write = || {
        fs::write(&new, cluster.to_toml())?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, file)
    };
    write().with_context(|| file.display().to_string())
}

/// Directories that were made for a demo which may not come to be: then they are taken away again.
pub(super) struct Made(Vec<PathBuf>);

impl Made {
    /// Makes the directory, and those above it, if it is not there.
    pub(super) fn directory(path: &Path) -> Result<Self> {
        let failed = |e: io::Error| format!("{} cannot be made: {e}", path.display());
        let mut made = Self(Vec::new());
        let missing = |path: &&Path| {
            fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
        };
        let path = std::path::absolute(path).map_err(|e| anyhow::anyhow!(failed(e)))?;
        let all: Vec<&Path> = path.ancestors().take_while(missing).collect();
        for path in all.into_iter().rev() {
            fs::create_dir(path).map_err(|e| anyhow::anyhow!(failed(e)))?;
            made.0.push(path.to_owned());
        }
        Ok(made)
    }

    /// It has come to be.
    pub(super) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // If somebody uses it by now, it stays.
            let _ = fs::remove_dir(path);
        }
    }
}
