//! Promise: programs meet a filesystem that behaves. Smoke tests of what programs lean on; the full
//! suites are elsewhere.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::libc;
use nix::unistd::{Whence, lseek64};
use tests::checks;
use tests::cluster::{Demo, Mode, Setup, Stop, allocated, can_mount};
use tests::mapped::Mapped;
use tests::metad;
use tests::process::{PATIENCE, output, shell};
use tests::seed::content;

/// A check in a directory of its own.
type Check = fn(&Path) -> Result<()>;

/// All checks, by name; on a mount of any mode, whose page cache is dropped before the last look.
const CHECKS: [(&str, Check); 17] = [
    ("rename over an open file", rename_over_an_open_file),
    ("rename exchange and noreplace", rename_exchange_and_noreplace),
    ("rename leaves a whiteout", rename_whiteout),
    ("an unlinked file stays usable while open", unlinked_but_open),
    ("hard links share one inode", hard_links),
    ("holes read as zeros and take no room", holes),
    ("punching, zeroing and allocating ranges", fallocate_modes),
    ("two appenders do not overwrite each other", appending),
    ("a shared mapping and read and write agree", mapping),
    ("truncation cuts and extends with zeros", truncation),
    ("extended attributes", extended_attributes),
    ("times, modes and owners are kept", attributes),
    ("set-user-id is cleared by a write of another user", privileges),
    ("directories: not empty, loops, dot-dot", directories),
    ("any range is copied from file to file", copying_ranges),
    ("symbolic links to anything", symbolic_links),
    ("locks exclude each other", locks),
];

#[test]
fn programs_meet_a_filesystem_that_behaves() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    behaves(&mut Demo::start(Setup::new(Mode::Embedded))?)
}

#[test]
fn programs_meet_it_also_where_a_metad_leads_the_volume() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (metad, mut demo) = metad::mounted(Setup::new(Mode::Served))?;
    behaves(&mut demo).with_context(|| metad.said())?;
    metad.stop()
}

/// On a mount, which has ended then.
fn behaves(demo: &mut Demo) -> Result<()> {
    checks::run(demo, &CHECKS, |check, _, directory| check(directory))?;
    let before = tests::tree::manifest(&demo.path())?;
    demo.drop_caches()?;
    ensure!(
        tests::tree::manifest(&demo.path())? == before,
        "something changed with the page cache"
    );
    demo.remount()?;
    tests::tree::assert_same("mounted again", &before, &demo.path())?;
    demo.stop(Stop::Umount)
}

/// The errno of a failed call; 0 when it did not fail.
fn errno<T>(answer: std::io::Result<T>) -> i32 {
    answer.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

fn open(path: &Path) -> Result<File> {
    let options = File::options().read(true).write(true).create(true).truncate(false).open(path);
    options.with_context(|| format!("opening {path:?}"))
}

fn rename_over_an_open_file(root: &Path) -> Result<()> {
    let (old, new) = (root.join("old"), root.join("new"));
    fs::write(&old, "old content")?;
    fs::write(&new, "new content")?;
    let mut held = open(&old)?;
    fs::rename(&new, &old)?;
    let mut text = String::new();
    held.read_to_string(&mut text)?;
    ensure!(text == "old content", "the open file reads {text:?}");
    held.write_all(b" and more")?;
    held.sync_all()?;
    ensure!(
        held.metadata()?.nlink() == 0,
        "the replaced file has {} links",
        held.metadata()?.nlink()
    );
    ensure!(fs::read_to_string(&old)? == "new content");
    ensure!(errno(fs::metadata(&new)) == libc::ENOENT, "the old name is still there");
    Ok(())
}

fn rename_exchange_and_noreplace(root: &Path) -> Result<()> {
    let (a, b) = (root.join("a"), root.join("b"));
    fs::write(&a, "a")?;
    fs::create_dir(&b)?;
    fs::write(b.join("inside"), "b")?;
    let call = |flags| renameat2(nix::fcntl::AT_FDCWD, &a, nix::fcntl::AT_FDCWD, &b, flags);
    let answer = call(RenameFlags::RENAME_NOREPLACE);
    ensure!(answer == Err(nix::errno::Errno::EEXIST), "noreplace: {answer:?}");
    call(RenameFlags::RENAME_EXCHANGE)?;
    ensure!(fs::read_to_string(&b)? == "a" && fs::read_to_string(a.join("inside"))? == "b");
    Ok(())
}

/// As overlay filesystems ask for it.
fn rename_whiteout(root: &Path) -> Result<()> {
    let (a, b) = (root.join("a"), root.join("b"));
    let call = |flags| renameat2(nix::fcntl::AT_FDCWD, &a, nix::fcntl::AT_FDCWD, &b, flags);
    let whiteout = RenameFlags::RENAME_WHITEOUT;
    for kind in ["a file", "a directory"] {
        if kind == "a file" {
            fs::write(&a, kind)?
        } else {
            fs::create_dir(&a)?
        }
        let moved = fs::metadata(&a)?.ino();
        if kind == "a file" {
            fs::write(&b, "replaced")?;
            let answer = call(whiteout | RenameFlags::RENAME_NOREPLACE);
            ensure!(answer == Err(nix::errno::Errno::EEXIST), "noreplace: {answer:?}");
            let answer = call(whiteout | RenameFlags::RENAME_EXCHANGE);
            ensure!(answer == Err(nix::errno::Errno::EINVAL), "exchange: {answer:?}");
        }
        call(whiteout)?;
        ensure!(fs::metadata(&b)?.ino() == moved, "{kind} is not at its new name");
        let left = fs::metadata(&a)?;
        ensure!(left.mode() == libc::S_IFCHR && left.rdev() == 0, "{kind} left {left:?}");
        ensure!(fs::read_dir(root)?.count() == 2, "{kind}: other names");
        fs::remove_file(&a)?;
        if kind == "a file" {
            fs::remove_file(&b)?;
            continue;
        }
        ensure!(fs::metadata(root)?.nlink() == 3, "links of the directory");
    }
    Ok(())
}

fn unlinked_but_open(root: &Path) -> Result<()> {
    let path = root.join("gone");
    let file = open(&path)?;
    file.write_all_at(&content(1, 100_000), 0)?;
    fs::remove_file(&path)?;
    ensure!(fs::read_dir(root)?.count() == 0, "the name is still listed");
    file.write_all_at(b"more", 100_000)?;
    file.sync_all()?;
    let mut bytes = vec![0; 100_004];
    file.read_exact_at(&mut bytes, 0)?;
    ensure!(bytes[..100_000] == content(1, 100_000) && bytes[100_000..] == *b"more");
    file.set_len(5)?;
    ensure!(file.metadata()?.len() == 5 && file.metadata()?.nlink() == 0);
    Ok(())
}

fn hard_links(root: &Path) -> Result<()> {
    let (a, b) = (root.join("a"), root.join("b"));
    fs::write(&a, "one")?;
    fs::hard_link(&a, &b)?;
    fs::write(&b, "two")?;
    let (first, second) = (fs::metadata(&a)?, fs::metadata(&b)?);
    ensure!(first.ino() == second.ino() && first.nlink() == 2, "{} links", first.nlink());
    ensure!(fs::read_to_string(&a)? == "two");
    fs::remove_file(&a)?;
    ensure!(fs::metadata(&b)?.nlink() == 1 && fs::read_to_string(&b)? == "two");
    ensure!(errno(fs::hard_link(root, root.join("d"))) == libc::EPERM, "a directory was linked");
    Ok(())
}

fn holes(root: &Path) -> Result<()> {
    let path = root.join("sparse");
    let file = open(&path)?;
    file.write_all_at(b"end", 10 << 20)?;
    file.sync_all()?;
    ensure!(allocated(&path)? < 1 << 20, "a hole of 10 MiB takes {} bytes", allocated(&path)?);
    let bytes = fs::read(&path)?;
    ensure!(bytes.len() == (10 << 20) + 3 && bytes[..10 << 20].iter().all(|byte| *byte == 0));
    ensure!(lseek64(&file, 10 << 20, Whence::SeekHole)? == (10 << 20) + 3, "the hole at the end");
    let data = lseek64(&file, 0, Whence::SeekData)?;
    ensure!(data > 0 && data <= 10 << 20, "data is said to begin at {data}");
    Ok(())
}

fn fallocate_modes(root: &Path) -> Result<()> {
    let path = root.join("ranges");
    fs::write(&path, [1; 100_000])?;
    let file = open(&path)?;
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, keep | FallocateFlags::FALLOC_FL_PUNCH_HOLE, 10_000, 20_000)
        .context("punch")?;
    let mut want = vec![1; 100_000];
    want[10_000..30_000].fill(0);
    ensure!(fs::read(&path)? == want, "after punching a hole");
    fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 90_000, 20_000).context("zero")?;
    want[90_000..].fill(0);
    want.resize(110_000, 0);
    ensure!(fs::read(&path)? == want, "after zeroing a range over the end");
    fallocate(&file, keep, 0, 1 << 20).context("keep size")?;
    ensure!(file.metadata()?.len() == 110_000, "keep size changed the size");
    fallocate(&file, FallocateFlags::empty(), 0, 200_000).context("allocate")?;
    want.resize(200_000, 0);
    ensure!(fs::read(&path)? == want, "after allocating more");
    let answer = fallocate(&file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
    ensure!(answer == Err(nix::errno::Errno::EOPNOTSUPP), "collapse: {answer:?}");
    Ok(())
}

fn appending(root: &Path) -> Result<()> {
    let path = root.join("log");
    let threads: Vec<_> = (0..4_u8)
        .map(|thread| {
            let path = path.clone();
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut file = File::options().append(true).create(true).open(path)?;
                (0..500).try_for_each(|_| file.write_all(&[b'a' + thread; 10]))
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("an appender panicked"))??;
    }
    let bytes = fs::read(&path)?;
    ensure!(bytes.len() == 4 * 500 * 10, "{} bytes were appended", bytes.len());
    let whole = bytes.chunks(10).all(|record| record.iter().all(|byte| *byte == record[0]));
    ensure!(whole, "records are mixed up");
    Ok(())
}

fn mapping(root: &Path) -> Result<()> {
    const LEN: usize = 300_000;
    let path = root.join("mapped");
    let file = open(&path)?;
    file.write_all_at(&content(5, LEN), 0)?;
    let mut mapped = Mapped::shared(&file, LEN)?;
    ensure!(
        mapped.read(0, LEN) == content(5, LEN),
        "the mapping shows other bytes than were written"
    );
    mapped.write(123_456, b"through memory");
    let mut bytes = [0; 14];
    file.read_exact_at(&mut bytes, 123_456)?;
    ensure!(&bytes == b"through memory", "read() does not see what was stored in memory");
    file.write_all_at(b"through a call", 200_000)?;
    ensure!(mapped.read(200_000, 14) == b"through a call", "memory does not see what was written");
    mapped.sync()?;
    Ok(())
}

fn truncation(root: &Path) -> Result<()> {
    let path = root.join("cut");
    fs::write(&path, content(6, 200_000))?;
    let mut file = open(&path)?;
    file.set_len(70_001)?;
    file.set_len(150_000)?;
    let mut want = content(6, 70_001);
    want.resize(150_000, 0);
    ensure!(fs::read(&path)? == want, "cut bytes came back");
    file.seek(SeekFrom::End(10))?;
    file.write_all(b"x")?;
    want.resize(150_010, 0);
    want.push(b'x');
    ensure!(fs::read(&path)? == want, "after a write behind the end");
    drop(File::create(&path)?);
    ensure!(
        fs::metadata(&path)?.len() == 0 && fs::read(&path)?.is_empty(),
        "O_TRUNC left something"
    );
    Ok(())
}

fn extended_attributes(root: &Path) -> Result<()> {
    fs::write(root.join("f"), "")?;
    let large = "v".repeat(60_000);
    let script = "setfattr -n user.one -v 1 f; setfattr -n user.two -v 2 f; setfattr -x user.one f; \
                  getfattr -n user.two --only-values f; getfattr -d f | grep -c =";
    let said = shell(root, script, PATIENCE)?;
    ensure!(said == "21\n", "{said:?}");
    shell(root, &format!("setfattr -n user.large -v {large} f"), PATIENCE)?;
    let value = shell(root, "getfattr -n user.large --only-values f", PATIENCE)?;
    ensure!(value == large, "a value of 60,000 bytes came back as {} bytes", value.len());
    let refused = shell(
        root,
        &format!("setfattr -n user.{} -v 1 f 2>&1 || true", "n".repeat(260)),
        PATIENCE,
    )?;
    ensure!(!refused.is_empty(), "a name of 265 bytes was taken");
    let missing = shell(root, "getfattr -n user.none f 2>&1 || true", PATIENCE)?;
    ensure!(missing.contains("No such attribute"), "{missing}");
    Ok(())
}

fn attributes(root: &Path) -> Result<()> {
    let path = root.join("f");
    let file = open(&path)?;
    let time = UNIX_EPOCH + Duration::new(5_000_000_000, 123_456_789);
    file.set_modified(time)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o641))?;
    let meta = fs::metadata(&path)?;
    ensure!(
        meta.modified()? == time,
        "64-bit seconds and nanoseconds became {:?}",
        meta.modified()?
    );
    ensure!(meta.mode() & 0o7777 == 0o641, "mode {:o}", meta.mode());
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12), Some(34))?;
        let meta = fs::metadata(&path)?;
        ensure!((meta.uid(), meta.gid()) == (12, 34), "{}:{}", meta.uid(), meta.gid());
    }
    let before = fs::metadata(&path)?.modified()?;
    file.write_all_at(b"x", 0)?;
    ensure!(fs::metadata(&path)?.modified()? != before, "a write leaves the time as it was");
    Ok(())
}

fn privileges(root: &Path) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let path = root.join("program");
    for write in ["echo x >> program", "truncate -s 1 program"] {
        fs::write(&path, "content")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777))?;
        shell(
            root,
            &format!("setpriv --reuid 65534 --regid 65534 --clear-groups bash -c '{write}'"),
            PATIENCE,
        )?;
        let mode = fs::metadata(&path)?.mode();
        ensure!(mode & 0o6000 == 0, "{write} by another user left mode {mode:o}");
    }
    fs::write(root.join("secret"), "")?;
    fs::set_permissions(root.join("secret"), fs::Permissions::from_mode(0o600))?;
    let script = "setpriv --reuid 65534 --regid 65534 --clear-groups cat secret";
    let denied = output(
        std::process::Command::new("bash").args(["-c", script]).current_dir(root),
        PATIENCE,
    )?;
    ensure!(!denied.status.success(), "another user reads a file of mode 600");
    Ok(())
}

fn directories(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("a/b/c"))?;
    fs::write(root.join("f"), "")?;
    let table = [
        ("rmdir of a full directory", errno(fs::remove_dir(root.join("a"))), libc::ENOTEMPTY),
        ("rmdir of a file", errno(fs::remove_dir(root.join("f"))), libc::ENOTDIR),
        ("unlink of a directory", errno(fs::remove_file(root.join("a"))), libc::EISDIR),
        ("rename into itself", errno(fs::rename(root.join("a"), root.join("a/b/x"))), libc::EINVAL),
        ("directory over file", errno(fs::rename(root.join("a"), root.join("f"))), libc::ENOTDIR),
        ("file over directory", errno(fs::rename(root.join("f"), root.join("a"))), libc::EISDIR),
        ("mkdir over a file", errno(fs::create_dir(root.join("f"))), libc::EEXIST),
        ("a file as a directory", errno(fs::metadata(root.join("f/x"))), libc::ENOTDIR),
        ("nothing", errno(fs::metadata(root.join("a/none"))), libc::ENOENT),
    ];
    for (what, got, want) in table {
        ensure!(got == want, "{what}: errno {got}, not {want}");
    }
    ensure!(
        fs::metadata(root.join("a"))?.nlink() == 3,
        "{} links",
        fs::metadata(root.join("a"))?.nlink()
    );
    fs::rename(root.join("a/b"), root.join("moved"))?;
    let up = fs::metadata(root.join("moved/.."))?.ino();
    ensure!(up == fs::metadata(root)?.ino(), "dot-dot of a moved directory");
    Ok(())
}

fn copying_ranges(root: &Path) -> Result<()> {
    let mut from = open(&root.join("from"))?;
    from.write_all_at(&content(8, 3 << 20), 0)?;
    let mut to = open(&root.join("to"))?;
    to.write_all_at(&[9; 100], 0)?;
    // Between two files, the library copies with copy_file_range(2).
    from.seek(SeekFrom::Start(12_345))?;
    to.seek(SeekFrom::Start(50))?;
    let copied = std::io::copy(&mut (&from).take(2 << 20), &mut to)?;
    ensure!(copied == 2 << 20, "{copied} bytes were copied");
    let mut want = vec![9; 50];
    want.extend_from_slice(&content(8, 3 << 20)[12_345..12_345 + (2 << 20)]);
    ensure!(fs::read(root.join("to"))? == want, "the copied range differs");
    from.write_all_at(&[0; 1 << 20], 0)?;
    ensure!(fs::read(root.join("to"))? == want, "the copy changed with its original");
    Ok(())
}

fn symbolic_links(root: &Path) -> Result<()> {
    let long = "t".repeat(4000);
    for (name, target) in
        [("up", ".."), ("none", "nowhere"), ("loop", "loop"), ("long", long.as_str())]
    {
        symlink(target, root.join(name))?;
        ensure!(fs::read_link(root.join(name))?.as_os_str() == target, "{name}");
        let len = fs::symlink_metadata(root.join(name))?.len();
        ensure!(len == target.len() as u64, "{name} is {len} bytes long");
    }
    ensure!(errno(fs::metadata(root.join("none"))) == libc::ENOENT);
    ensure!(errno(fs::metadata(root.join("loop"))) == libc::ELOOP);
    ensure!(fs::metadata(root.join("up"))?.is_dir());
    Ok(())
}

fn locks(root: &Path) -> Result<()> {
    let script = "touch l; exec 9>l; flock -n 9; if flock -n l true; then echo both; fi; \
                  exec 9>&-; flock -n l echo free";
    let said = shell(root, script, PATIENCE)?;
    ensure!(said == "free\n", "{said:?}");
    Ok(())
}
