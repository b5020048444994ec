//! Promise: times of files are those of a local filesystem, also beside others, and where a mapping
//! is written.

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use tests::checks;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::mapped::Mapped;
use tests::process::{PATIENCE, shell};

/// A check in a directory of its own.
type Check = fn(&Path) -> Result<()>;

const CHECKS: [(&str, Check); 5] = [
    ("times set after a mapping was written stay", set_after_a_mapping),
    ("a mapping that is written after times were set counts", mapping_after_set),
    ("times that another process sets of a mapped file stay", set_by_another),
    ("the cache is kept of files whose times are set and that nobody maps", cache_is_kept),
    ("a file written first is not newer than one written elsewhere later", order_with_others),
];

#[test]
fn times_are_those_of_a_local_filesystem() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    checks::run(&demo, &CHECKS, |check, _, directory| check(directory))?;
    demo.stop(Stop::Umount)
}

const LEN: usize = 64 << 10;

fn old() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_600_000_000)
}

fn open(path: &Path) -> Result<File> {
    Ok(File::options().read(true).write(true).create(true).truncate(false).open(path)?)
}

/// A file whose pages come from the store, or (written before) are in the kernel's cache already.
fn files(root: &Path) -> Result<Vec<(&'static str, File)>> {
    let (hole, written) = (open(&root.join("hole"))?, open(&root.join("written"))?);
    hole.set_len(LEN as u64)?;
    fs::write(root.join("written"), vec![1; LEN])?;
    Ok(vec![("a file of zeros", hole), ("a file just written", written)])
}

fn set_after_a_mapping(root: &Path) -> Result<()> {
    for (what, file) in files(root)? {
        let mut mapped = Mapped::shared(&file, LEN)?;
        mapped.write(9, b"stored");
        mapped.write(LEN - 9, b"stored");
        file.set_times(FileTimes::new().set_modified(old()))?;
        ensure!(file.metadata()?.modified()? == old(), "{what}: at once");
        mapped.sync()?;
        ensure!(file.metadata()?.modified()? == old(), "{what}: after msync");
        drop(mapped);
        file.sync_all()?;
        ensure!(file.metadata()?.modified()? == old(), "{what}: after munmap and fsync");
        let mut bytes = [0; 6];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 9)?;
        ensure!(&bytes == b"stored", "{what}: the bytes");
    }
    Ok(())
}

fn mapping_after_set(root: &Path) -> Result<()> {
    for (what, file) in files(root)? {
        let mut mapped = Mapped::shared(&file, LEN)?;
        mapped.write(9, b"before");
        file.set_times(FileTimes::new().set_modified(old()))?;
        mapped.write(9, b"behind");
        mapped.sync()?;
        ensure!(file.metadata()?.modified()? > old(), "{what}: the time of the last store is lost");
    }
    Ok(())
}

fn set_by_another(root: &Path) -> Result<()> {
    for (what, file) in files(root)? {
        let name = if what.contains("zeros") { "hole" } else { "written" };
        // Begun before anything is mapped: a process that is forked, and ends, has the kernel send it
        // all; and so has one that opens and closes the file, as touch(1) does.
        let program = "import os, sys; sys.stdin.readline(); \
                       os.utime(sys.argv[1], (1600000000, 1600000000))";
        let mut other = Command::new("python3");
        other.args(["-c", program, name]).current_dir(root).stdin(Stdio::piped());
        let mut other = other.spawn()?;
        let mut mapped = Mapped::shared(&file, LEN)?;
        // What has been sent once says that there is a mapping.
        mapped.write(9, b"first");
        mapped.sync()?;
        mapped.write(9, b"again");
        other.stdin.take().context("its standard input")?.write_all(b"go\n")?;
        ensure!(other.wait()?.success(), "setting the time");
        mapped.sync()?;
        ensure!(file.metadata()?.modified()? == old(), "{what}");
    }
    Ok(())
}

/// Of the file's pages, as many are in memory as there are.
fn cached(root: &Path, name: &str) -> Result<bool> {
    let line = format!("fincore --noheadings --bytes --output PAGES {name}");
    Ok(shell(root, &line, PATIENCE)?.trim() == (LEN / 4096).to_string())
}

fn cache_is_kept(root: &Path) -> Result<()> {
    fs::write(root.join("f"), vec![1; LEN])?;
    ensure!(cached(root, "f")?, "a file that was just written is in the cache");
    shell(root, "touch -d @1600000000 f", PATIENCE)?;
    ensure!(cached(root, "f")?, "its pages went because a time was set");
    Ok(())
}

fn order_with_others(root: &Path) -> Result<()> {
    let elsewhere = tempfile::tempdir_in("/dev/shm")?;
    let other = elsewhere.path().join("other");
    for round in 0..2000 {
        let path = root.join(format!("f{}", round % 50));
        let mut file = File::create(&path)?;
        file.write_all(b"x")?;
        drop(file);
        fs::write(&other, "y")?;
        let (here, there) = (fs::metadata(&path)?.modified()?, fs::metadata(&other)?.modified()?);
        ensure!(here <= there, "round {round}: newer by {:?}", here.duration_since(there));
    }
    // Times that are set to now, and those of directories, come from the same clock.
    for round in 0..200 {
        let directory = root.join(format!("d{round}"));
        fs::create_dir(&directory)?;
        let set = root.join("f0");
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        utimensat(CWD, &set, &times, AtFlags::empty())?;
        fs::write(&other, "z")?;
        let there = fs::metadata(&other)?.modified()?;
        for path in [&directory, &set, root] {
            ensure!(fs::metadata(path)?.modified()? <= there, "round {round}: {path:?}");
        }
    }
    Ok(())
}
