//! Promise: however fragmented a file is, it is read at a good pace, at many places at once, and
//! meanwhile everybody else is answered.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::{Whence, lseek64};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::{bounded, shell};

/// One byte at each multiple of this.
const STEP: u64 = 64;
const COUNT: u64 = 60_000;
const LEN: u64 = (COUNT - 1) * STEP + 1;
/// Within this a thing that is not itself long is answered, also on a busy machine. Quiet ones take
/// milliseconds.
const ANSWERED: Duration = Duration::from_secs(10);
/// Within this all of it is read, copied, cut: less than a second on a quiet machine.
const DONE: Duration = Duration::from_secs(60);

fn fragment(n: u64) -> u8 {
    (1 + n % 250) as u8
}

fn right(bytes: &[u8], from: u64) -> bool {
    let expected = |at: u64| if at.is_multiple_of(STEP) { fragment(at / STEP) } else { 0 };
    bytes.iter().zip(from..).all(|(byte, at)| *byte == expected(at))
}

/// Somebody who works beside, in a directory of their own.
struct Other {
    stop: Arc<AtomicBool>,
    works: JoinHandle<Result<(u64, Duration)>>,
}

impl Other {
    fn start(directory: PathBuf) -> Result<Self> {
        fs::create_dir(&directory)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let works = std::thread::spawn(move || {
            let (mut rounds, mut longest) = (0, Duration::ZERO);
            while !stopped.load(Relaxed) {
                let since = Instant::now();
                one_round(&directory, rounds)?;
                longest = longest.max(since.elapsed());
                rounds += 1;
            }
            Ok((rounds, longest))
        });
        Ok(Self { stop, works })
    }

    /// Ends; how long did they wait at the longest?
    fn end(self, while_: &str) -> Result<()> {
        self.stop.store(true, Relaxed);
        let ended = bounded("work beside", DONE, move || self.works.join())?;
        let (rounds, longest) = ended.map_err(|_| anyhow::anyhow!("the other panicked"))??;
        println!("{while_}: {rounds} rounds of other work, the longest took {longest:?}");
        ensure!(rounds > 0 && longest < ANSWERED, "{while_}: others waited {longest:?}");
        Ok(())
    }
}

/// What others do: names, attributes, a small file that is stored.
fn one_round(directory: &Path, round: u64) -> Result<()> {
    let file = directory.join(format!("file-{}", round % 50));
    fs::write(&file, "small")?;
    File::open(&file)?.sync_all()?;
    let listed = fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>()?;
    ensure!(!listed.is_empty() && fs::metadata(&file)?.len() == 5);
    ensure!(fs::read(&file)? == b"small");
    let made = directory.join("made");
    fs::create_dir(&made)?;
    Ok(fs::remove_dir(&made)?)
}

fn write_fragments(path: &Path) -> Result<()> {
    let file = File::create_new(path)?;
    for n in 0..COUNT {
        file.write_all_at(&[fragment(n)], n * STEP)?;
    }
    Ok(file.sync_all()?)
}

/// Reads the file from `start` on to its end, and from its begin.
fn read_from(path: &Path, start: u64) -> Result<()> {
    let file = File::open(path)?;
    for range in [start..LEN, 0..start] {
        let mut at = range.start;
        while at < range.end {
            let mut bytes = vec![0; (128 << 10).min((range.end - at) as usize)];
            let read = file.read_at(&mut bytes, at)?;
            ensure!(read > 0 && right(&bytes[..read], at), "wrong at {at}");
            at += read as u64;
        }
    }
    Ok(())
}

/// Every reader has its end within [`DONE`].
fn read_at_many_places(path: &Path, places: u64) -> Result<()> {
    let since = Instant::now();
    let readers: Vec<_> = (0..places)
        .map(|nth| {
            let path = path.to_owned();
            std::thread::spawn(move || read_from(&path, LEN * nth / places))
        })
        .collect();
    for reader in readers {
        let left = DONE.saturating_sub(since.elapsed());
        let read = bounded("a reader of a fragmented file", left, move || reader.join())?;
        read.map_err(|_| anyhow::anyhow!("a reader panicked"))??;
    }
    println!("{places} readers took {:?}", since.elapsed());
    Ok(())
}

#[test]
fn a_fragmented_file_is_read_at_many_places_and_others_are_answered_meanwhile() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    let (file, copy) = (demo.file("fragmented"), demo.file("copy"));
    let other = Other::start(demo.file("others"))?;
    write_fragments(&file)?;
    other.end("writing")?;
    // Nothing of it is in any cache.
    demo.remount()?;
    let others = demo.file("others");
    fs::rename(&others, demo.file("others before"))?;

    let other = Other::start(others.clone())?;
    read_at_many_places(&file, 6)?;
    other.end("reading")?;
    fs::remove_dir_all(&others)?;

    let other = Other::start(others.clone())?;
    let (from, to) = (file.clone(), copy.clone());
    bounded("a copy", DONE, move || fs::copy(from, to))??;
    let opened = File::open(&copy)?;
    let edge = bounded("a seek", DONE, move || lseek64(&opened, 0, Whence::SeekHole))??;
    ensure!(edge as u64 == LEN, "each block has data, but there is a hole at {edge}");
    other.end("copying and seeking")?;
    fs::remove_dir_all(&others)?;
    read_at_many_places(&copy, 2)?;

    let other = Other::start(others)?;
    let opened = File::options().write(true).open(&copy)?;
    bounded("a cut", DONE, move || opened.set_len(100))??;
    ensure!(right(&fs::read(&copy)?, 0), "wrong after the cut");
    bounded("a removal", DONE, move || fs::remove_file(copy))??;
    other.end("cutting")?;
    ensure!(shell(&demo.path(), "ls", ANSWERED)?.contains("fragmented"));
    demo.stop(Stop::Umount).context("it ends as ever")
}
