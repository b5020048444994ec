//! Promise: kill -9 at any moment, of the mount or of everything at once, loses nothing that fsync
//! returned for, leaves a consistent tree, and leaves nothing behind in the store.
//!
//! `ASHLAR_CRASH_ROUNDS` says how many rounds each test makes (default: 10, for a quick run).

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::load::{BlockFile, Load};
use tests::process::{PATIENCE, bounded, shell};
use tests::seed::Seed;
use tests::tree::{assert_readable, manifest};

#[derive(Clone, Copy)]
enum Victim {
    Mount,
    Everything,
}

#[test]
fn the_embedded_mount_killed_under_load() -> Result<()> {
    killed_under_load(Mode::Embedded, Victim::Everything)
}

#[test]
fn the_mount_killed_under_load_with_the_daemons_running_on() -> Result<()> {
    killed_under_load(Mode::Served, Victim::Mount)
}

#[test]
fn everything_killed_at_once_under_load() -> Result<()> {
    killed_under_load(Mode::Daemons, Victim::Everything)
}

fn killed_under_load(mode: Mode, victim: Victim) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let rounds: u64 = std::env::var("ASHLAR_CRASH_ROUNDS").ok().map_or(Ok(10), |n| n.parse())?;
    let mut seed = Seed::announced("crash");
    let mut demo = Demo::start(Setup::new(mode))?;
    let mut blocks = BlockFile::create(&demo.path(), "blocks", 64, seed.next_u64())?;
    create_database(&demo.path())?;
    let mut committed = 0;
    for round in 0..rounds {
        let directory = demo.file(format!("round-{round}"));
        fs::create_dir(&directory)?;
        let mut load = Load::start(&directory, 2, 1, 100, &mut seed);
        let database = Inserts::start(&demo.path())?;
        let copy = start_copy(&demo.path(), round)?;
        let (path, mut work, mut fork) = (demo.path(), blocks, seed.fork());
        let overwriting = std::thread::spawn(move || {
            let error = work.work(&path, 100_000, &mut fork);
            (work, error)
        });
        load.progress(300 + seed.below(4000))?;
        match victim {
            Victim::Mount => demo.kill_mount()?,
            Victim::Everything => demo.kill_everything()?,
        }
        let seen = load.stop(PATIENCE)?;
        ensure!(seen.wrong.is_empty(), "wrong bytes before the crash: {:?}", seen.wrong);
        blocks = bounded("the overwriting thread", PATIENCE, move || overwriting.join())?
            .map(|(work, _)| work)
            .map_err(|_| anyhow::anyhow!("the overwriting thread panicked"))?;
        committed = committed.max(database.end()?);
        end(copy)?;

        if round % 2 == 1 {
            // What the machine keeps of metadata is lost as well.
            fs::remove_dir_all(demo.cache()?)?;
            demo.take_over()?;
        } else {
            demo.mount()?;
        }
        let verified = load.ledger().verify(&directory, true)?;
        blocks.verify(&demo.path())?;
        assert_database(&demo.path(), committed)?;
        assert_readable(&demo.path(), 4 * PATIENCE)?;
        println!("round {round}: {verified} synced files whole, {committed} transactions kept");
        // Older rounds make room; their removal is part of what the next crash meets.
        if round >= 2 {
            shell(
                &demo.path(),
                &format!("rm -rf round-{} copy-{}", round - 2, round - 2),
                PATIENCE,
            )?;
        }
    }
    let before = manifest(&demo.path())?;
    demo.stop(Stop::Umount)?;
    demo.switch(Mode::Embedded)?;
    demo.fsck()?;
    demo.mount()?;
    ensure!(manifest(&demo.path())? == before, "the tree changed between unmount and mount");
    demo.stop(Stop::Umount)
}

/// A plain `cp -a` of many files, without any fsync, for the crash to interrupt.
fn start_copy(mount: &Path, round: u64) -> Result<Child> {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg("/usr/include").arg(mount.join(format!("copy-{round}")));
    Ok(copy.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

fn end(mut child: Child) -> Result<()> {
    // It has ended by itself when the mount was killed: then there is nothing to kill.
    let _ = child.kill();
    bounded("the end of cp", PATIENCE, move || child.wait())??;
    Ok(())
}

fn create_database(mount: &Path) -> Result<()> {
    let sql = "PRAGMA journal_mode=wal; CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB);";
    shell(mount, &format!("sqlite3 base.db '{sql}'"), PATIENCE).map(drop)
}

fn assert_database(mount: &Path, committed: u64) -> Result<()> {
    let said = shell(
        mount,
        "sqlite3 base.db 'PRAGMA integrity_check; SELECT count(*) FROM t;'",
        PATIENCE,
    )?;
    let mut lines = said.lines();
    ensure!(lines.next() == Some("ok"), "integrity_check: {said}");
    let count: u64 = lines.next().unwrap_or_default().parse()?;
    ensure!(count >= committed, "{count} rows are left of {committed} that were committed");
    Ok(())
}

/// An sqlite3 that inserts rows, one synced transaction each, and says after each how many there are.
struct Inserts {
    sqlite: Child,
    committed: Arc<AtomicU64>,
}

impl Inserts {
    fn start(mount: &Path) -> Result<Self> {
        let script = "{ echo 'PRAGMA synchronous=FULL;'; while echo \
            'INSERT INTO t(v) VALUES(randomblob(2000)); SELECT max(k) FROM t;'; do :; done; } \
            | sqlite3 -bail base.db";
        let mut sqlite = Command::new("bash")
            .args(["-c", script])
            .current_dir(mount)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = sqlite.stdout.take().expect("stdout is piped");
        let committed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&committed);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                count.fetch_max(line.parse().unwrap_or(0), Ordering::SeqCst);
            }
        });
        Ok(Self { sqlite, committed })
    }

    /// Waits until it has noticed that its file system is gone; the rows it had committed.
    fn end(mut self) -> Result<u64> {
        bounded("the end of sqlite3", PATIENCE, move || self.sqlite.wait())??;
        Ok(self.committed.load(Ordering::SeqCst))
    }
}

#[test]
fn an_unlinked_open_file_is_collected_after_a_crash() -> Result<()> {
    const LEN: usize = 200 << 20;
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup { size: "2GiB", ..Setup::new(Mode::Embedded) })?;
    let empty = demo.available()?;
    let path = demo.file("orphan");
    fs::write(&path, vec![7; LEN])?;
    let handle = File::open(&path)?;
    handle.sync_all()?;
    fs::remove_file(&path)?;
    File::create(demo.file("kept"))?.sync_all()?;
    // The figure of df may lag behind a little; it must not come to count the open file as free.
    let held = empty + (32 << 20) - LEN as u64;
    tests::process::wait_until("the open file's room to be counted", PATIENCE, || {
        demo.available().is_ok_and(|available| available <= held)
    })?;
    demo.kill_mount()?;
    drop(handle);
    demo.mount()?;
    ensure!(
        fs::exists(demo.file("kept"))? && !fs::exists(&path)?,
        "the tree is not as it was left"
    );
    let enough = empty - (32 << 20);
    tests::process::wait_until("the orphan's room", Duration::from_secs(90), || {
        demo.available().is_ok_and(|available| available >= enough)
    })?;
    demo.stop(Stop::Umount)
}
