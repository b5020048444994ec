//! Promise: the far ends work: huge sparse files, huge directories, the longest names and paths, very
//! many open files, very many threads.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode as Permissions, mkdirat};
use nix::unistd::{Whence, lseek64};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::bounded;
use tests::seed::{content, first_difference};

const LONG: Duration = Duration::from_secs(180);

fn demo() -> Result<Option<Demo>> {
    if can_mount() { Demo::start(Setup::new(Mode::Embedded)).map(Some) } else { Ok(None) }
}

#[test]
fn a_file_of_one_tib_with_three_written_bytes() -> Result<()> {
    const LEN: u64 = 1 << 40;
    let Some(mut demo) = demo()? else { return Ok(()) };
    let path = demo.file("huge");
    let places = [0, LEN / 2 + 12_345, LEN - 1];
    let file = File::create_new(&path)?;
    for place in places {
        file.write_all_at(b"x", place)?;
    }
    file.sync_all()?;
    drop(file);
    demo.remount()?;
    let file = File::options().read(true).write(true).open(&path)?;
    let meta = file.metadata()?;
    ensure!(meta.len() == LEN, "the file is {} bytes long", meta.len());
    ensure!(meta.blocks() * 512 <= 1 << 20, "three bytes take {} blocks", meta.blocks());
    for place in places {
        let start = place.saturating_sub(100);
        let mut bytes = vec![0xff; 201];
        let read = file.read_at(&mut bytes, start)?;
        let want: Vec<u8> =
            (start..(start + 201).min(LEN)).map(|at| if at == place { b'x' } else { 0 }).collect();
        ensure!(bytes[..read] == want, "around {place}");
    }
    let mut nothing = [0xff; 8192];
    ensure!(
        file.read_at(&mut nothing, LEN / 3)? == 8192 && nothing == [0; 8192],
        "a hole is not zeros"
    );
    let at = i64::try_from(LEN / 4)?;
    let data = lseek64(&file, at, Whence::SeekData)?;
    ensure!(u64::try_from(data)? <= places[1] && data > at, "data is said to begin at {data}");
    file.set_len(10)?;
    ensure!(fs::read(&path)? == b"x\0\0\0\0\0\0\0\0\0", "cut to ten bytes");
    file.set_len(LEN)?;
    ensure!(
        file.read_at(&mut nothing, places[1])? == 8192 && nothing == [0; 8192],
        "cut bytes came back"
    );
    drop(file);
    demo.stop(Stop::Umount)
}

#[test]
fn a_directory_of_100_000_files() -> Result<()> {
    const FILES: usize = 100_000;
    let Some(mut demo) = demo()? else { return Ok(()) };
    let directory = demo.file("many");
    fs::create_dir(&directory)?;
    let name = |number: usize| format!("file-{number:06}");
    let path = directory.clone();
    bounded("creating 100,000 files", LONG, move || -> Result<()> {
        for number in 0..FILES {
            let mut file = File::create_new(path.join(name(number)))?;
            if number % 100 == 0 {
                writeln!(file, "{number}")?;
            }
        }
        Ok(())
    })??;
    let list = |path: PathBuf| {
        bounded("listing 100,000 files", LONG, move || -> io::Result<Vec<OsString>> {
            fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect()
        })
    };
    let all: BTreeSet<OsString> = (0..FILES).map(|number| name(number).into()).collect();
    for remounted in [false, true] {
        if remounted {
            demo.remount()?;
        }
        let listed = list(directory.clone())??;
        ensure!(listed.len() == FILES, "{} entries (remounted: {remounted})", listed.len());
        ensure!(
            listed.into_iter().collect::<BTreeSet<_>>() == all,
            "other names (remounted: {remounted})"
        );
        for number in (0..FILES).step_by(5000) {
            let text = fs::read_to_string(directory.join(name(number)))?;
            ensure!(text == format!("{number}\n"), "file {number} has {text:?}");
        }
    }
    let path = directory.clone();
    bounded("removing 100,000 files", LONG, move || fs::remove_dir_all(path))??;
    ensure!(fs::read_dir(demo.path())?.count() == 0, "the directory is still there");
    demo.stop(Stop::Umount)
}

#[test]
fn a_path_of_4095_bytes() -> Result<()> {
    let Some(mut demo) = demo()? else { return Ok(()) };
    // The path counts from the root directory; the last name makes it 4,095 bytes long exactly.
    let mut path = demo.path().into_os_string();
    let mut directory =
        openat(AT_FDCWD, demo.path().as_path(), OFlag::O_DIRECTORY, Permissions::empty())?;
    while path.len() + 202 < 4095 {
        let name = "d".repeat(200);
        mkdirat(&directory, name.as_str(), Permissions::S_IRWXU)?;
        directory = openat(&directory, name.as_str(), OFlag::O_DIRECTORY, Permissions::empty())?;
        path.push("/");
        path.push(name);
    }
    let rest = 4095 - path.len() - 1;
    path.push("/");
    path.push("f".repeat(rest));
    ensure!(path.len() == 4095, "the path is {} bytes long", path.len());
    drop(directory);
    let path = PathBuf::from(path);
    fs::write(&path, "deep down")?;
    demo.remount()?;
    ensure!(fs::read_to_string(&path)? == "deep down");
    let mut longer = path.into_os_string();
    longer.push("f");
    let error = fs::read(&longer).err().and_then(|error| error.raw_os_error());
    ensure!(error == Some(libc::ENAMETOOLONG), "a path of 4,096 bytes: {error:?}");
    let top = demo.file("d".repeat(200));
    bounded("removing the deep tree", LONG, move || {
        tests::process::run(std::process::Command::new("rm").arg("-rf").arg(top), LONG)
    })??;
    demo.stop(Stop::Umount)
}

#[test]
fn names_of_255_bytes_and_not_of_256() -> Result<()> {
    let Some(mut demo) = demo()? else { return Ok(()) };
    let letters = "n".repeat(255);
    // 85 characters of three bytes each: a name is counted in bytes.
    let signs = "\u{20ac}".repeat(85);
    for name in [&letters, &signs] {
        fs::write(demo.file(name), name)?;
    }
    demo.remount()?;
    for name in [&letters, &signs] {
        ensure!(fs::read_to_string(demo.file(name))? == *name, "{name}");
    }
    let long = demo.file("n".repeat(256));
    let short = demo.file("short");
    fs::write(&short, "")?;
    let refused: [(&str, io::Result<()>); 7] = [
        ("create", File::create(&long).map(drop)),
        ("mkdir", fs::create_dir(&long)),
        ("rename", fs::rename(&short, &long)),
        ("link", fs::hard_link(&short, &long)),
        ("symlink", std::os::unix::fs::symlink("to", &long)),
        ("unlink", fs::remove_file(&long)),
        ("stat", fs::metadata(&long).map(drop)),
    ];
    for (call, answer) in refused {
        let error = answer.err().and_then(|error| error.raw_os_error());
        ensure!(error == Some(libc::ENAMETOOLONG), "{call} with a name of 256 bytes: {error:?}");
    }
    demo.stop(Stop::Umount)
}

#[test]
fn ten_thousand_open_files() -> Result<()> {
    const FILES: usize = 10_000;
    let Some(mut demo) = demo()? else { return Ok(()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = FILES as u64 + 500;
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))
        .context("raising RLIMIT_NOFILE")?;
    fs::create_dir(demo.file("open"))?;
    let root = demo.file("open");
    let files = bounded("opening 10,000 files", LONG, move || -> Result<Vec<File>> {
        let open = |number: usize| {
            let path = root.join(number.to_string());
            let file = File::options().create_new(true).read(true).write(true).open(path)?;
            file.write_all_at(&content(number as u64, 100), 0)?;
            Ok(file)
        };
        (0..FILES).map(open).collect()
    })??;
    demo.drop_caches()?;
    // Half of them lose their names, and stay readable while they are open.
    for number in (0..FILES).step_by(2) {
        fs::remove_file(demo.file("open").join(number.to_string()))?;
    }
    let files = bounded("using 10,000 open files", LONG, move || -> Result<Vec<File>> {
        for (number, file) in files.iter().enumerate() {
            let mut bytes = [0; 100];
            file.read_exact_at(&mut bytes, 0)?;
            ensure!(first_difference(number as u64, 0, &bytes).is_none(), "file {number}");
            file.write_all_at(b"!", 100)?;
        }
        Ok(files)
    })??;
    drop(files);
    ensure!(fs::read_dir(demo.file("open"))?.count() == FILES / 2, "entries are missing");
    demo.remount()?;
    for number in (1..FILES).step_by(500).filter(|number| number % 2 == 1) {
        let mut want = content(number as u64, 100);
        want.push(b'!');
        ensure!(fs::read(demo.file("open").join(number.to_string()))? == want, "file {number}");
    }
    demo.stop(Stop::Umount)
}

#[test]
fn sixty_four_threads_on_one_file() -> Result<()> {
    const THREADS: u64 = 64;
    const PIECE: u64 = 5_000;
    const PIECES: u64 = 60;
    let Some(mut demo) = demo()? else { return Ok(()) };
    let path = demo.file("shared");
    let file = Arc::new(File::options().create_new(true).read(true).write(true).open(&path)?);
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let file = Arc::clone(&file);
            std::thread::spawn(move || -> Result<()> {
                for piece in 0..PIECES {
                    // Neighbouring pieces, none on a page border, belong to different threads.
                    let offset = (piece * THREADS + thread) * PIECE;
                    let mut bytes = vec![0; usize::try_from(PIECE)?];
                    tests::seed::fill(4, offset, &mut bytes);
                    file.write_all_at(&bytes, offset)?;
                    if piece % 10 == thread % 10 {
                        file.sync_data()?;
                    }
                    let mut back = vec![0; bytes.len()];
                    file.read_exact_at(&mut back, offset)?;
                    ensure!(back == bytes, "thread {thread} reads at {offset} other than it wrote");
                }
                Ok(())
            })
        })
        .collect();
    bounded("64 threads on one file", LONG, move || -> Result<()> {
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })??;
    drop(file);
    demo.drop_caches()?;
    for remounted in [false, true] {
        if remounted {
            demo.remount()?;
        }
        let bytes = fs::read(&path)?;
        ensure!(bytes.len() as u64 == THREADS * PIECE * PIECES, "{} bytes", bytes.len());
        let wrong = first_difference(4, 0, &bytes);
        ensure!(wrong.is_none(), "wrong byte at {wrong:?} (remounted: {remounted})");
    }
    demo.stop(Stop::Umount)
}
