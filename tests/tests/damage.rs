//! Promise: damage costs what it hit. One inode whose record makes no sense costs its own file, with
//! EIO, and nothing else of the volume; `ashlar fsck` names it.
//!
//! No disk does that to a volume: what is read is what was written. It is what an error of the software would
//! have left, so all checksums over it are right here.

use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};

use anyhow::{Result, ensure};
use nix::libc::EIO;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::records::{Disks, Role};
use tests::seed::content;

/// Where an entry of the journal has its checksum.
const ENTRY_CRC: usize = 72;

/// Writes nonsense where the record of an inode is, into every entry of the journal that has it, on all disks of
/// a volume that is not mounted.
fn damage(demo: &Demo, ino: u64) -> Result<()> {
    let disks = Disks::read(demo.disks())?;
    let key = [&[9, b'I'][..], &ino.to_be_bytes()].concat();
    let mut copies = 0;
    for blob in disks.blobs(Role::Entry) {
        for copy in disks.copies(blob) {
            copy.rewrite(|entry| {
                let keys = entry.windows(key.len()).enumerate().filter(|(_, at)| *at == key);
                let values = keys.map(|(at, _)| at + key.len()).collect::<Vec<_>>();
                for at in values {
                    let len = u32::from_le_bytes(entry[at..at + 4].try_into()?) as usize;
                    entry[at + 4..at + 4 + len].fill(0xee);
                    copies += 1;
                }
                let crc = crc32c::crc32c(&entry[..ENTRY_CRC]);
                let crc = crc32c::crc32c_append(crc, &entry[ENTRY_CRC + 4..]);
                entry[ENTRY_CRC..ENTRY_CRC + 4].copy_from_slice(&crc.to_le_bytes());
                Ok(())
            })?;
        }
    }
    ensure!(copies >= 3, "inode {ino} has {copies} records in the journal");
    Ok(())
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
    damage(&demo, bad)?;
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
