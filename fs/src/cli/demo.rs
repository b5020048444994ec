//! `ashlar demo`: a mounted directory on a few small disks, with one command.
//!
//! ```text
//! DIR/disks/0 .. N-1   the disks
//! DIR/meta/            the volume's metadata
//! DIR/cluster.toml     the disks by path; written last, so that a half-formatted demo is known
//! DIR/daemons.toml     the same disks by the fixed ports of their daemons, once --daemons was used
//! DIR/daemons/N.pid    process of the daemon of disk N, while it runs; N.log what it says
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use proto::cluster::{Cluster, Slot};
use proto::id::{ClusterId, Generation, SlotId};
use proto::scheme::Scheme;
use storaged::InitOptions;

use super::daemons::{Daemons, free_ports};
use super::size::Size;
use super::{block_on, format, needed_directories, read_cluster};
use crate::data::DataSettings;
use crate::mount::{Mount, MountOptions, MountPlan};
use crate::mountpoint;
use crate::status::bytes;

/// The volume of a demo.
const VOLUME: &str = "demo";
/// Disks, unless told otherwise.
const DISKS: usize = 8;
/// Smallest and largest block file of a demo's disk: a small disk needs several.
const BLOCK_FILE: (u64, u64) = (16 << 20, 256 << 20);
/// Block files that a disk should at least have room for.
const BLOCK_FILES: u64 = 16;

/// Try it: a directory on a few small disks, mounted with one command
///
/// The first run formats the disks, which are directories; later runs mount the same volume with
/// everything in it. Runs until Ctrl-C or umount, which both store everything first.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  ashlar demo /mnt/ashlar\n  ashlar demo /mnt/ashlar --daemons --dir /srv/demo --disks 6 --scheme 'ec(3,2)'"
)]
pub(super) struct Args {
    /// An empty directory
    mountpoint: PathBuf,
    /// Where the disks and metadata lie [default: ~/.local/share/ashlar/demo]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Number of disks to format [default: 8]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    disks: Option<u16>,
    /// How data are protected: ec(K,M), any M of K+M disks may be lost, or copies(N)
    /// [default: ec(4,2)]
    #[arg(long)]
    scheme: Option<Scheme>,
    /// Room of all disks together [default: 80 % of what is free]
    #[arg(long)]
    size: Option<Size>,
    /// One storage daemon per disk, reached by gRPC, instead of everything in one process
    #[arg(long)]
    daemons: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => default_dir()?,
    };
    let dir = std::path::absolute(&dir).with_context(|| dir.display().to_string())?;
    let planned: Vec<PathBuf> = [dir.join("disks"), dir.join("meta")].into();
    let planned: Vec<&Path> = planned.iter().map(PathBuf::as_path).collect();
    let mountpoint = mountpoint::check(&args.mountpoint, &planned, false)?;
    let file = dir.join("cluster.toml");
    if file.exists() {
        check_same(&args, &read_cluster(&file)?, &dir)?;
    } else {
        init(&args, &dir)?;
    }
    let local = read_cluster(&file)?;
    let needed = needed_directories(&local);
    mountpoint::check(
        &mountpoint,
        &needed.iter().map(PathBuf::as_path).collect::<Vec<_>>(),
        false,
    )?;
    if let Some(holder) = meta::lock_holder(&local.meta, VOLUME)?
        && mountpoint::mounted_at(&holder.mountpoint).is_some()
    {
        let (at, pid) = (holder.mountpoint.display(), holder.pid);
        bail!("the demo in {} is mounted at {at} by process {pid} already", dir.display());
    }
    block_on(serve(&args, &dir, local, mountpoint))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &Args, dir: &Path, local: Cluster, mountpoint: PathBuf) -> Result<()> {
    let disks: Vec<PathBuf> = local.slots.iter().filter_map(|slot| slot.path.clone()).collect();
    let (cluster, daemons) = if args.daemons {
        let cluster = served_cluster(dir, &local)?;
        let daemons = Daemons::start(dir, &cluster, &disks).await?;
        (cluster, Some(daemons))
    } else {
        (local, None)
    };
    let hint = Daemons::by_hand(&cluster.slots[0], &disks[0]);
    let all = disks.len();
    let plan = MountPlan {
        volume: VOLUME.to_owned(),
        cluster,
        mountpoint: mountpoint.clone(),
        options: MountOptions::default(),
        data: DataSettings::default(),
    };
    super::mount::log_start(&plan);
    let mount = Mount::start(plan).await?;
    let scheme = mount.scheme();
    let (capacity, available) = mount.room().await;
    let at = mountpoint.display();
    println!("ready: {at} is mounted");
    println!(
        "  data      {} ({all} disks), metadata in {}",
        dir.join("disks").display(),
        dir.join("meta").display()
    );
    println!("  safety    {scheme}: any {} of the {all} disks may be lost", scheme.parity_parts());
    println!("  room      {} of {} free, after redundancy", bytes(available), bytes(capacity));
    println!("  try       cp -a /usr/include {at}/ && ashlar status {at}");
    if args.daemons {
        let pids = dir.join("daemons");
        println!(
            "  lose two  kill -9 $(cat {0}/2.pid) $(cat {0}/5.pid), and go on",
            pids.display()
        );
        println!("  get back  {hint}   # disk 0, likewise the others");
    } else {
        println!("  next      the same with one daemon per disk: ashlar demo {at} --daemons");
    }
    println!("  end       Ctrl-C, or: umount {at}");
    let ended = mount.run().await;
    drop(daemons);
    Ok(ended?)
}

fn default_dir() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share")));
    Ok(data.context("no $HOME to keep the demo in: give --dir")?.join("ashlar/demo"))
}

/// A formatted demo is what it is: asked for another one, it says so.
fn check_same(args: &Args, cluster: &Cluster, dir: &Path) -> Result<()> {
    let have = cluster.slots.len();
    match args.disks {
        Some(asked) if usize::from(asked) != have => {
            let dir = dir.display();
            bail!(
                "the demo in {dir} has {have} disks, not {asked}: choose another --dir, or remove it"
            )
        }
        _ => Ok(()),
    }
}

/// Formats the disks and the volume.
fn init(args: &Args, dir: &Path) -> Result<()> {
    let count = args.disks.map_or(DISKS, usize::from);
    let scheme = args.scheme.map_or_else(|| Scheme::erasure(4, 2), Ok)?;
    if scheme.parts() > count {
        bail!("{scheme} needs {} disks, and --disks says {count}", scheme.parts());
    }
    if dir.join("disks").exists() || dir.join("meta").exists() {
        let dir = dir.display();
        bail!("{dir} has disks but no cluster.toml, so formatting was interrupted: remove {dir}");
    }
    let named = |path: &Path| path.display().to_string();
    fs::create_dir_all(dir.join("disks")).with_context(|| named(dir))?;
    let total = match args.size {
        Some(Size(size)) => size,
        None => {
            let free = statvfs(dir).with_context(|| named(dir))?;
            free.blocks_available() * free.fragment_size() / 10 * 8
        }
    };
    let capacity = total / count as u64;
    let block_file = (capacity / BLOCK_FILES).next_power_of_two().clamp(BLOCK_FILE.0, BLOCK_FILE.1);
    let id = ClusterId::random();
    let mut cluster = Cluster {
        cluster: id,
        generation: Generation(1),
        meta: dir.join("meta"),
        slots: Vec::new(),
    };
    for number in 0..count {
        let path = dir.join("disks").join(number.to_string());
        let options = InitOptions { capacity: Some(capacity), block_file };
        let disk = storaged::init_disk(&path, id, options).with_context(|| named(&path))?;
        let (slot, domain) = (SlotId(0), String::new());
        cluster.slots.push(Slot { disk, address: None, path: Some(path), slot, domain });
    }
    format::create(&cluster, VOLUME, scheme)?;
    write_cluster(&dir.join("cluster.toml"), &cluster)
}

/// The same disks, served by daemons. Their ports are chosen once and remembered.
fn served_cluster(dir: &Path, local: &Cluster) -> Result<Cluster> {
    let file = dir.join("daemons.toml");
    if file.exists() {
        let served = read_cluster(&file)?;
        let same = served.cluster == local.cluster
            && served.slots.len() == local.slots.len()
            && served.slots.iter().zip(&local.slots).all(|(a, b)| a.disk == b.disk);
        if same {
            return Ok(served);
        }
    }
    let mut served = local.clone();
    for (slot, port) in served.slots.iter_mut().zip(free_ports(local.slots.len())?) {
        slot.path = None;
        slot.address = Some(format!("127.0.0.1:{port}"));
    }
    write_cluster(&file, &served)?;
    Ok(served)
}

/// Whole or not at all.
fn write_cluster(file: &Path, cluster: &Cluster) -> Result<()> {
    let new = file.with_extension("toml.new");
    let write = || {
        fs::write(&new, cluster.to_toml())?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, file)
    };
    write().with_context(|| file.display().to_string())
}
