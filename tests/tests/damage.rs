//! Promise: damage costs what it hit. One inode whose record makes no sense costs its own file, with
//! EIO, and nothing else of the volume; `ashlar fsck` names it.

use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::libc::EIO;
use redb::{Database, TableDefinition};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::seed::content;

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("metadata");

/// Writes nonsense where the record of an inode is, in the metadata file of a volume that is not mounted.
fn damage(directory: &Path, ino: u64) -> Result<()> {
    let is_metadata = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "redb");
    let mut files = fs::read_dir(directory.join("meta"))?.filter_map(|e| Some(e.ok()?.path()));
    let db = Database::open(files.find(is_metadata).context("no metadata")?)?;
    let txn = db.begin_write()?;
    let key = [&b"I"[..], &ino.to_be_bytes()].concat();
    let old = txn.open_table(TABLE)?.insert(&key[..], &[0xee; 40][..])?.map(|v| v.value().len());
    ensure!(old.is_some(), "inode {ino} has no record");
    Ok(txn.commit()?)
}

fn errno<T>(answer: std::io::Result<T>) -> i32 {
    answer.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

#[test]
fn a_damaged_inode_costs_its_own_file_and_nothing_else() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    fs::create_dir(demo.file("d"))?;
    let name = |n: usize| format!("d/file-{n}");
    (0..20).try_for_each(|n| fs::write(demo.file(name(n)), content(n as u64, 5000)))?;
    let bad = fs::metadata(demo.file(name(7)))?.ino();
    demo.stop(Stop::Umount)?;
    // What the log holds goes over to the database when the volume is opened.
    demo.mount()?;
    demo.stop(Stop::Umount)?;
    damage(&demo.directory(), bad)?;
    demo.mount()?;

    // An entry keeps its directory open.
    let inodes = fs::read_dir(demo.file("d"))?.map(|entry| Ok(entry?.ino()));
    let listed = inodes.collect::<std::io::Result<Vec<_>>>()?;
    ensure!(listed.len() == 20, "{} of 20 entries are listed", listed.len());
    ensure!(listed.contains(&bad), "the damaged one is not listed");
    ensure!(errno(fs::metadata(demo.file(name(7)))) == EIO, "stat of the damaged file");
    ensure!(errno(fs::read(demo.file(name(7)))) == EIO, "open of the damaged file");
    for n in (0..20).filter(|n| *n != 7) {
        ensure!(fs::read(demo.file(name(n)))? == content(n as u64, 5000), "file {n}");
        let file = fs::File::create(demo.file(name(n)))?;
        std::io::Write::write_all(&mut &file, b"new")?;
        file.sync_all()?;
    }
    fs::rename(demo.file(name(3)), demo.file("d/renamed"))?;
    fs::remove_file(demo.file(name(4)))?;
    ensure!(fs::read(demo.file("d/renamed"))? == b"new");
    demo.stop(Stop::Umount)?;
    let said = format!("{:#}", demo.fsck().expect_err("fsck says that all is well"));
    ensure!(said.contains("inode") && said.contains("damaged"), "{said}");
    Ok(())
}
