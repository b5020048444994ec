//! Promise: what is stored or allocated can be overwritten on a full volume, in any pieces, for ever;
//! what df says is what a writer gets.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::ENOSPC;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::{PATIENCE, shell, wait_until};
use tests::seed::{Seed, content, first_difference};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
/// What df may be wrong by.
const TOLERANCE: u64 = 4 * MIB;
/// How often a full volume is overwritten in pieces of each size.
const TIMES: u64 = 10;
/// For one system call on a full volume, on a busy machine.
const CALL: Duration = Duration::from_secs(60);

fn small(mode: Mode) -> Result<Demo> {
    Demo::start(Setup { size: "640MiB", ..Setup::new(mode) })
}

/// As small as a demo of eight disks can be.
fn smallest(mode: Mode) -> Result<Demo> {
    Demo::start(Setup { size: "512MiB", ..Setup::new(mode) })
}

/// As small as can be overwritten at a good rate, since that is done many times over.
fn tiny(mode: Mode) -> Result<Demo> {
    Demo::start(Setup { size: "576MiB", ..Setup::new(mode) })
}

/// Writes one file until the volume is full; its length.
fn fill(file: &File) -> Result<u64> {
    let mut at = 0;
    loop {
        match file.write_all_at(&content(at, MIB as usize), at) {
            Ok(()) => at += MIB,
            Err(error) => {
                ensure!(error.raw_os_error() == Some(ENOSPC), "a full volume said: {error}");
                file.set_len(at)?;
                file.sync_all().context("fsync of what was written before the volume was full")?;
                return Ok(at);
            }
        }
    }
}

#[test]
fn df_says_what_a_writer_gets() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = small(Mode::Embedded)?;
    for round in 0..2 {
        let said = demo.available()?;
        let file = File::create_new(demo.file("big"))?;
        let got = fill(&file)?;
        println!("round {round}: df said {said}, {got} could be written");
        ensure!(said.abs_diff(got) <= TOLERANCE + said / 100, "df said {said}, {got} were written");
        let left = demo.available()?;
        ensure!(left < MIB + said / 100, "df says {left} bytes are left on a full volume");
        // A copy by copy_file_range moves no byte, and is a copy all the same.
        let copied = fs::copy(demo.file("big"), demo.file("copy"));
        let why = copied.as_ref().err().and_then(std::io::Error::raw_os_error);
        ensure!(why == Some(ENOSPC), "a copy of all there is: {copied:?}");
        drop(file);
        fs::remove_file(demo.file("big"))?;
        fs::remove_file(demo.file("copy"))?;
        wait_until("df to show what was deleted", PATIENCE, || {
            demo.available().is_ok_and(|now| now.abs_diff(said) <= said / 100)
        })?;
    }
    demo.stop(Stop::Umount)
}

#[test]
fn a_full_volume_is_overwritten_again_and_again_embedded() -> Result<()> {
    a_full_volume_is_overwritten_again_and_again(Mode::Embedded)
}

#[test]
fn a_full_volume_is_overwritten_again_and_again_with_daemons() -> Result<()> {
    a_full_volume_is_overwritten_again_and_again(Mode::Daemons)
}

/// In 4 KiB pieces, some of them synced one by one, in 1 MiB pieces, and in 64 KiB pieces, ten times the
/// volume's size each: the smaller the pieces, the more half-dead blobs there are for the ones that follow.
fn a_full_volume_is_overwritten_again_and_again(mode: Mode) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("overwriting a full volume");
    let mut demo = smallest(mode)?;
    let file = File::create_new(demo.file("database"))?;
    let len = fill(&file)?;
    let mut stamps: Vec<(u64, usize)> = Vec::new();
    for piece in [PAGE, MIB, 16 * PAGE] {
        let pieces = len / piece;
        stamps = vec![(u64::MAX, 0); usize::try_from(pieces)?];
        let began = Instant::now();
        let mut longest = Duration::ZERO;
        for step in 0..TIMES * pieces {
            let index = if step < pieces { step } else { seed.below(pieces) };
            let started = Instant::now();
            file.write_all_at(&content(step, piece as usize), index * piece)
                .with_context(|| format!("piece {index} of {piece} bytes, step {step}"))?;
            longest = longest.max(started.elapsed());
            stamps[index as usize] = (step, piece as usize);
            if step % 997 == 0 {
                file.sync_data().with_context(|| format!("fdatasync at step {step}"))?;
            }
            if step % 50_000 == 0 {
                demo.goes_on();
            }
        }
        let rate = TIMES * len / MIB / began.elapsed().as_secs().max(1);
        println!("{mode:?}: pieces of {piece}: {rate} MiB/s, the longest write took {longest:?}");
        ensure!(longest < CALL, "a write took {longest:?}");
    }
    file.sync_all()?;
    drop(file);
    demo.remount()?;
    demo.goes_on();
    let bytes = fs::read(demo.file("database"))?;
    let mut at = 0;
    for (index, (stamp, piece)) in stamps.into_iter().enumerate() {
        let wrong = first_difference(stamp, 0, &bytes[at..at + piece]);
        ensure!(wrong.is_none(), "piece {index} is not that of step {stamp}");
        at += piece;
    }
    // Small synced writes are kept as whole copies, four times the room of their bytes.
    let file = File::options().write(true).open(demo.file("database"))?;
    for step in 0..2000 {
        let at = seed.below(len / PAGE) * PAGE;
        file.write_all_at(&content(step, PAGE as usize), at)?;
        file.sync_data().with_context(|| format!("small synced write {step}"))?;
    }
    drop(file);
    demo.stop(Stop::Umount)?;
    demo.fsck()
}

/// A file that fills the volume, whose pages remember what was written to them last.
struct Stamped {
    file: File,
    stamps: Vec<u64>,
    last: u64,
}

impl Stamped {
    fn fill(demo: &Demo) -> Result<Self> {
        let mut options = File::options();
        let file = options.create_new(true).read(true).write(true).open(demo.file("stamped"))?;
        let pages = usize::try_from(fill(&file)? / PAGE)?;
        let mut stamped = Self { file, stamps: vec![0; pages], last: 0 };
        stamped.overwrite(0, stamped.len())?;
        stamped.file.sync_all()?;
        Ok(stamped)
    }

    fn len(&self) -> u64 {
        self.stamps.len() as u64 * PAGE
    }

    /// Writes a piece that begins at a page.
    fn write(&mut self, at: u64, len: u64) -> std::io::Result<()> {
        let mut bytes = vec![0; len as usize];
        let stamp = self.last + 1;
        tests::seed::fill(stamp, at, &mut bytes);
        self.file.write_all_at(&bytes, at)?;
        self.last = stamp;
        self.stamps[(at / PAGE) as usize..((at + len) / PAGE) as usize].fill(stamp);
        Ok(())
    }

    /// Writes it all from `at` on, piece by piece.
    fn overwrite(&mut self, at: u64, len: u64) -> std::io::Result<()> {
        (at..at + len).step_by(MIB as usize).try_for_each(|at| self.write(at, MIB))
    }

    /// Writes it in order until there is no room; how much was written, and is stored.
    fn overwrite_until_refused(&mut self) -> Result<u64> {
        for at in (0..self.len()).step_by(MIB as usize) {
            let began = Instant::now();
            let Err(error) = self.write(at, MIB) else { continue };
            let took = began.elapsed();
            ensure!(error.raw_os_error() == Some(ENOSPC), "{error}, and not ENOSPC");
            ensure!(took < CALL, "refused after {took:?}");
            self.file.sync_all().context("fsync of what was taken")?;
            return Ok(at);
        }
        self.file.sync_all()?;
        Ok(self.len())
    }

    fn cut(&mut self, len: u64) -> Result<()> {
        self.stamps.truncate((len / PAGE) as usize);
        Ok(self.file.set_len(len)?)
    }

    /// Makes it longer, up to `len`, until there is no room; its length then.
    fn extend_until_refused(&mut self, len: u64) -> Result<u64> {
        for at in (self.len()..len).step_by(MIB as usize) {
            self.stamps.resize(((at + MIB) / PAGE) as usize, 0);
            if let Err(error) = self.write(at, MIB) {
                ensure!(error.raw_os_error() == Some(ENOSPC), "{error}, and not ENOSPC");
                self.cut(at)?;
                break;
            }
        }
        self.file.sync_all()?;
        Ok(self.len())
    }

    /// Writes `amount` bytes in pieces anywhere below `end`, and syncs now and then. Nothing may fail.
    fn overwrite_anywhere(
        &mut self,
        amount: u64,
        piece: u64,
        end: u64,
        seed: &mut Seed,
    ) -> Result<()> {
        let mut longest = Duration::ZERO;
        let began = Instant::now();
        for step in 0..amount / piece {
            let at = seed.below(end / piece) * piece;
            let started = Instant::now();
            self.write(at, piece).with_context(|| format!("{piece} bytes at {at}, step {step}"))?;
            longest = longest.max(started.elapsed());
            if step % 997 == 0 {
                self.file.sync_data().with_context(|| format!("fdatasync at step {step}"))?;
            }
        }
        self.file.sync_data().context("fdatasync after it all")?;
        println!(
            "{} MiB in pieces of {piece}: {:?}, the longest {longest:?}",
            amount / MIB,
            began.elapsed()
        );
        ensure!(longest < CALL, "a write took {longest:?}");
        Ok(())
    }
}

/// Has every page what was written to it last?
fn verify(demo: &Demo, stamps: &[u64]) -> Result<()> {
    let bytes = fs::read(demo.file("stamped"))?;
    ensure!(bytes.len() == stamps.len() * PAGE as usize, "{} bytes are left", bytes.len());
    for (page, stamp) in stamps.iter().enumerate() {
        let at = page * PAGE as usize;
        let wrong = first_difference(*stamp, at as u64, &bytes[at..at + PAGE as usize]);
        ensure!(wrong.is_none(), "page {page} is not that of write {stamp}");
    }
    Ok(())
}

/// While disks are away, each byte that was stored before takes more room on the others than it has
/// there. So only some of a full volume can be overwritten, and that for ever; more is refused in bounded
/// time and without harm, and is taken again when there is room or the disks are back.
#[test]
fn a_full_volume_is_overwritten_while_two_disks_are_away_and_after() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("overwriting with two disks away");
    let mut demo = tiny(Mode::Daemons)?;
    let mut file = Stamped::fill(&demo)?;
    let len = file.len();
    for number in [2, 5] {
        demo.kill_daemon(number)?;
    }
    demo.up(6, PATIENCE)?;
    let done = file.overwrite_until_refused()?;
    println!("{} of {} MiB overwritten in order", done / MIB, len / MIB);
    for piece in [MIB, PAGE].into_iter().filter(|_| done > 0) {
        file.overwrite_anywhere(TIMES * done, piece, done, &mut seed)?;
    }
    demo.drop_caches()?;
    verify(&demo, &file.stamps).context("with two disks away")?;
    // Half of it has room on six disks.
    file.cut(len / MIB / 2 * MIB)?;
    file.overwrite(0, file.len()).context("overwriting half of what there was")?;
    for piece in [MIB, PAGE] {
        file.overwrite_anywhere(TIMES / 2 * file.len(), piece, file.len(), &mut seed)?;
    }
    verify(&demo, &file.stamps).context("with two disks away")?;
    for number in [2, 5] {
        demo.restart_daemon(number)?;
    }
    demo.all_up(PATIENCE)?;
    // The six are fuller than the two now, so that it may be somewhat shorter than it was.
    let len = file.extend_until_refused(len)?;
    println!("{} MiB with all disks back", len / MIB);
    for piece in [MIB, PAGE] {
        file.overwrite_anywhere(2 * len, piece, len, &mut seed).context("with all disks back")?;
    }
    let Stamped { file, stamps, .. } = file;
    drop(file);
    demo.remount()?;
    verify(&demo, &stamps).context("with all disks back")?;
    demo.stop(Stop::Umount)?;
    demo.fsck()
}

#[test]
fn what_fallocate_promised_is_there_on_a_full_volume_and_after_a_crash() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = small(Mode::Embedded)?;
    let said = demo.available()?;
    let len = (said / 2 / MIB * MIB) as i64;
    let promised = File::create_new(demo.file("promised"))?;
    fallocate(&promised, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, len)?;
    let left = demo.available()?;
    ensure!(left.abs_diff(said - len as u64) < TOLERANCE, "df: {said}, then {left} less {len}");
    let other = File::create_new(demo.file("other"))?;
    let more = fallocate(&other, FallocateFlags::empty(), 0, len + 64 * MIB as i64);
    ensure!(more == Err(nix::errno::Errno::ENOSPC), "more than there is was promised: {more:?}");
    fill(&other)?;
    promised.sync_all()?;
    drop((promised, other));
    demo.kill_mount()?;
    demo.mount()?;
    let left = demo.available()?;
    ensure!(left < TOLERANCE, "df says {left} are left after the crash");
    let promised = File::options().write(true).open(demo.file("promised"))?;
    for at in (0..len as u64).step_by(MIB as usize) {
        promised
            .write_all_at(&content(at, MIB as usize), at)
            .with_context(|| format!("writing what was promised at {at}"))?;
    }
    promised.sync_all()?;
    promised.set_len(0)?;
    // How unevenly the disks are filled by now is kept back, and is chance.
    let mut shown = 0;
    wait_until("df to show what was given up", PATIENCE, || {
        shown = demo.available().unwrap_or(0);
        shown + 4 * TOLERANCE > len as u64
    })
    .with_context(|| format!("df shows {shown} of {len}"))?;
    drop(promised);
    demo.stop(Stop::Umount)?;
    demo.fsck()
}

#[test]
fn a_store_without_enough_disks_says_so_in_its_status() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = small(Mode::Served)?;
    for number in 0..6 {
        demo.kill_daemon(number)?;
    }
    let mut said = String::new();
    wait_until("status to say why nothing can be written", PATIENCE, || {
        let status =
            Command::new(tests::binaries::ashlar()).arg("status").arg(demo.path()).output();
        said = status.map(|s| String::from_utf8_lossy(&s.stdout).into_owned()).unwrap_or_default();
        said.lines().any(|line| line.starts_with("writes") && line.contains("3 are needed"))
    })
    .with_context(|| said.clone())?;
    ensure!(demo.available()? == 0, "df says that something can be written");
    for number in 0..6 {
        demo.restart_daemon(number)?;
    }
    demo.all_up(PATIENCE)?;
    demo.stop(Stop::Umount)
}

/// Where Debian keeps PostgreSQL's programs.
fn postgres() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut all: Vec<PathBuf> = versions.flatten().map(|e| e.path().join("bin")).collect();
    all.retain(|bin| bin.join("initdb").exists() && bin.join("pgbench").exists());
    all.sort();
    all.pop()
}

/// A server on a full volume must refuse what grows and go on: its log is recycled in place.
#[test]
fn postgresql_on_a_full_volume_refuses_and_goes_on() -> Result<()> {
    let Some(bin) = postgres().filter(|_| can_mount() && nix::unistd::geteuid().is_root()) else {
        eprintln!("NOT TESTED: PostgreSQL is not installed, or this is not root");
        return Ok(());
    };
    let mut demo = Demo::start(Setup { size: "1536MiB", ..Setup::new(Mode::Embedded) })?;
    let bin = bin.display();
    let data = demo.file("pg");
    fs::create_dir(&data)?;
    fs::set_permissions(
        demo.directory().parent().context("a home")?,
        fs::Permissions::from_mode(0o755),
    )?;
    let sockets = demo.outside("sockets");
    fs::create_dir(&sockets)?;
    let (data, sockets) = (data.display(), sockets.display());
    let as_postgres = |line: &str, bound| {
        let command = format!("runuser -u postgres -- bash -euo pipefail -c {}", quoted(line));
        shell(Path::new("/"), &command, bound)
    };
    shell(Path::new("/"), &format!("chown postgres {data} {sockets}"), PATIENCE)?;
    let log = format!("{sockets}/log");
    as_postgres(&format!("{bin}/initdb -D {data} >/dev/null"), 3 * PATIENCE)?;
    let options =
        format!("-k {sockets} -c listen_addresses= -c max_wal_size=64MB -c min_wal_size=48MB");
    as_postgres(
        &format!("{bin}/pg_ctl -D {data} -l {log} -w -t 120 -o '{options}' start"),
        3 * PATIENCE,
    )?;
    let ended = (|| {
        let sql = |line: &str| {
            as_postgres(
                &format!("{bin}/psql -h {sockets} -d postgres -Atc \"{line}\""),
                2 * PATIENCE,
            )
        };
        as_postgres(&format!("{bin}/pgbench -h {sockets} -i -s 2 -q postgres"), 3 * PATIENCE)?;
        let work = format!("{bin}/pgbench -h {sockets} -c 2 -T 5 -n postgres");
        as_postgres(&work, 2 * PATIENCE)?;
        sql("CHECKPOINT")?;
        let ballast = File::create_new(demo.file("ballast"))?;
        fill(&ballast)?;
        sql("CREATE TABLE grows (t text)").ok();
        let insert =
            "INSERT INTO grows SELECT repeat(md5(n::text), 60) FROM generate_series(1, 200000) n";
        let refused = sql(insert);
        let why = refused.err().map(|e| format!("{e:#}")).unwrap_or_default();
        ensure!(why.contains("No space left on device"), "a table grew on a full volume: {why}");
        // What overwrites goes on: the log's recycled files, and rows in place.
        for round in 0..3 {
            sql("UPDATE pgbench_branches SET bbalance = bbalance + 1")
                .with_context(|| format!("an update after the refusal, round {round}"))?;
            sql("CHECKPOINT")?;
        }
        let rows = sql("SELECT count(*) FROM pgbench_accounts")?;
        ensure!(rows.trim() == "200000", "{rows} accounts");
        drop(ballast);
        fs::remove_file(demo.file("ballast"))?;
        wait_until("room", PATIENCE, || demo.available().is_ok_and(|now| now > 100 * MIB))?;
        as_postgres(&work, 2 * PATIENCE).map(drop)
    })();
    let stopped =
        as_postgres(&format!("{bin}/pg_ctl -D {data} -m fast -w -t 120 stop"), 3 * PATIENCE);
    let said = fs::read_to_string(&log).unwrap_or_default();
    ended.with_context(|| said.clone())?;
    stopped?;
    ensure!(!said.contains("PANIC"), "the server panicked:\n{said}");
    demo.stop(Stop::Umount)
}

fn quoted(line: &str) -> String {
    format!("'{}'", line.replace('\'', "'\\''"))
}
