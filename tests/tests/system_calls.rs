//! Promise: system calls answer as on a local filesystem, at their limits too: the errno of what is
//! refused, the sizes that are told, the order of listings, times beyond 32 bits.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use nix::libc;
use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FileType, Mode as Permissions, OFlags, RenameFlags,
    Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags, copy_file_range, fallocate, getxattr,
    getxattr_query, lgetxattr, listxattr, listxattr_query, lsetxattr, mknodat, open, removexattr,
    renameat_with, setxattr, utimensat,
};
use rustix::io::Errno;
use tests::checks;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::direct::{Aligned, BLOCK, Queue};
use tests::handles::Handle;

/// A check in a directory of its own.
type Check = fn(&Path) -> Result<()>;

const CHECKS: [(&str, Check); 12] = [
    ("extended attributes: sizes and refusals", attributes),
    ("a thousand extended attributes, and the largest", many_attributes),
    ("rename: flags and loops", renames),
    ("fallocate: what is done and what is refused", allocation),
    ("offsets that are far away", far_away),
    ("holes and data are found", holes),
    ("copy_file_range within and between files", copies),
    ("times: nanoseconds, 64 bits, now and omitted", times),
    ("a directory that changes while it is read", listings),
    ("appending and opening", opening),
    ("locks of open files exclude each other", locks),
    ("what was written directly is what is read through the cache", direct_writes),
];

#[test]
fn system_calls_answer_as_they_should() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    checks::run(&demo, &CHECKS, |check, _, directory| check(directory))?;
    demo.stop(Stop::Umount)
}

/// Files are found by their handles: wherever they were moved, when the kernel has forgotten them, and in
/// later mounts; and none is found that is gone.
#[test]
fn file_handles_are_good_as_long_as_their_files() -> Result<()> {
    if !can_mount() || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    fs::create_dir_all(demo.file("a/b"))?;
    fs::write(demo.file("a/b/file"), "content")?;
    symlink("target", demo.file("a/link"))?;
    fs::write(demo.file("gone"), "")?;
    let handle = |name: &str| Handle::of(&demo.file(name));
    let (file, directory, link) = (handle("a/b/file")?, handle("a/b")?, handle("a/link")?);
    let (root, gone) = (handle("")?, handle("gone")?);
    let parent = fs::metadata(demo.file("a"))?.ino();
    fs::write(demo.file("open"), "still there")?;
    let (held, held_handle) = (File::open(demo.file("open"))?, handle("open")?);
    fs::remove_file(demo.file("open"))?;
    let all_found = |mount: &File| -> Result<()> {
        let mut text = String::new();
        file.open(mount, libc::O_RDONLY)?.read_to_string(&mut text)?;
        ensure!(text == "content", "the file holds {text:?}");
        let inside = directory.open(mount, libc::O_RDONLY | libc::O_DIRECTORY)?;
        let above = rustix::fs::statat(&inside, "..", AtFlags::empty())?;
        ensure!(above.st_ino == parent, "the directory above");
        ensure!(rustix::fs::statat(&inside, "file", AtFlags::empty()).is_ok(), "the entry");
        let target = rustix::fs::readlinkat(link.open(mount, libc::O_PATH)?, "", Vec::new())?;
        ensure!(target.as_bytes() == b"target", "the link points to {target:?}");
        ensure!(root.open(mount, libc::O_RDONLY)?.metadata()?.ino() == 1, "the root");
        Ok(())
    };
    let is_stale = |handle: &Handle, mount: &File| {
        let answer = handle.open(mount, libc::O_RDONLY);
        ensure!(answer.as_ref().err().and_then(std::io::Error::raw_os_error) == Some(libc::ESTALE));
        Ok(())
    };
    let mount = File::open(demo.path())?;
    all_found(&mount)?;
    held_handle.open(&mount, libc::O_RDONLY)?;
    drop(held);
    fs::rename(demo.file("a/b"), demo.file("a/moved"))?;
    fs::remove_file(demo.file("gone"))?;
    demo.drop_caches()?;
    all_found(&mount)?;
    is_stale(&gone, &mount)?;
    is_stale(&held_handle, &mount)?;
    drop(mount);
    demo.remount()?;
    let mount = File::open(demo.path())?;
    all_found(&mount)?;
    is_stale(&gone, &mount)?;
    drop(mount);
    demo.stop(Stop::Umount)
}

/// Every call with its answer and the errno it must have.
fn refused<T: std::fmt::Debug>(table: Vec<(&str, Result<T, Errno>, Errno)>) -> Result<()> {
    for (what, answer, errno) in table {
        ensure!(answer.as_ref().err() == Some(&errno), "{what}: {answer:?}, not {errno}");
    }
    Ok(())
}

fn make(path: &Path) -> Result<File> {
    let options = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    Ok(options)
}

fn attributes(root: &Path) -> Result<()> {
    let file = root.join("f");
    make(&file)?;
    let set = |name: &str, value: &[u8], flags| setxattr(&file, name, value, flags);
    let (any, create, replace) = (XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE);
    set("user.a", b"12345", create)?;
    set("user.empty", b"", any)?;
    set(&format!("user.{}", "n".repeat(250)), b"v", any)?;
    symlink("f", root.join("l"))?;
    let link = root.join("l");
    refused(vec![
        ("made twice", set("user.a", b"", create), Errno::EXIST),
        ("replaced where none is", set("user.b", b"", replace), Errno::NODATA),
        ("there and new", set("user.a", b"", create | replace), Errno::EXIST),
        ("new and there", set("user.b", b"", create | replace), Errno::NODATA),
        ("a name of 256", set(&format!("user.{}", "n".repeat(251)), b"", any), Errno::RANGE),
        ("64 KiB and one", set("user.c", &vec![1; 65_537], any), Errno::TOOBIG),
        ("no name of its own", set("user.", b"", any), Errno::INVAL),
        ("no such namespace", set("other.a", b"", any), Errno::OPNOTSUPP),
        ("of the system", set("system.a", b"", any), Errno::OPNOTSUPP),
        ("of a link", lsetxattr(&link, "user.a", b"", any), Errno::PERM),
        ("none to remove", removexattr(&file, "user.none"), Errno::NODATA),
    ])?;
    let mut short = [0; 4];
    let mut room = [0; 100];
    refused(vec![
        ("none to get", getxattr(&file, "user.none", &mut room[..]), Errno::NODATA),
        ("a short buffer", getxattr(&file, "user.a", &mut short[..]), Errno::RANGE),
        ("a short list", listxattr(&file, &mut short[..]), Errno::RANGE),
        ("none of a link", lgetxattr(&link, "trusted.a", &mut room[..]), Errno::NODATA),
    ])?;
    ensure!(getxattr_query(&file, "user.a")? == 5, "the size of a value");
    ensure!(getxattr(&file, "user.a", &mut room[..])? == 5 && &room[..5] == b"12345");
    ensure!(getxattr(&file, "user.empty", &mut room[..])? == 0, "an empty value");
    ensure!(listxattr_query(&file)? == 7 + 11 + 256, "the size of a list");
    removexattr(&file, "user.a")?;
    ensure!(listxattr_query(&file)? == 11 + 256, "a removed name is listed");
    Ok(())
}

fn many_attributes(root: &Path) -> Result<()> {
    let file = root.join("f");
    make(&file)?;
    let name = |i: usize| format!("user.number-{i}");
    let value = |i: usize| vec![i as u8; if i.is_multiple_of(100) { 65_536 } else { i }];
    for i in 0..1000 {
        setxattr(&file, name(i), &value(i), XattrFlags::CREATE)?;
    }
    let mut list = vec![0; 65_536];
    let len = listxattr(&file, &mut list[..])?;
    let names: BTreeSet<&[u8]> = list[..len].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    ensure!(names.len() == 1000, "{} names", names.len());
    let mut room = vec![0; 65_536];
    for i in 0..1000 {
        let len = getxattr(&file, name(i), &mut room[..])?;
        ensure!(room[..len] == value(i), "{}", name(i));
    }
    (0..1000).step_by(2).try_for_each(|i| removexattr(&file, name(i)))?;
    let left = listxattr(&file, &mut list[..])?;
    ensure!(list[..left].split(|b| *b == 0).filter(|n| !n.is_empty()).count() == 500);
    Ok(())
}

fn renames(root: &Path) -> Result<()> {
    let at = |name: &str| root.join(name);
    fs::write(at("a"), "a")?;
    fs::write(at("b"), "b")?;
    fs::create_dir_all(at("d/sub"))?;
    let rename = |from: &str, to: &str, flags| renameat_with(CWD, at(from), CWD, at(to), flags);
    let (plain, exchange) = (RenameFlags::empty(), RenameFlags::EXCHANGE);
    refused(vec![
        ("over what must not be there", rename("a", "b", RenameFlags::NOREPLACE), Errno::EXIST),
        ("exchanged with nothing", rename("a", "none", exchange), Errno::NOENT),
        ("both flags", rename("a", "b", exchange | RenameFlags::NOREPLACE), Errno::INVAL),
        ("exchange and whiteout", rename("a", "b", exchange | RenameFlags::WHITEOUT), Errno::INVAL),
        ("into itself", rename("d", "d/sub/x", plain), Errno::INVAL),
        ("exchanged with its own child", rename("d", "d/sub", exchange), Errno::INVAL),
        ("over its own parent", rename("d/sub", "d", plain), Errno::NOTEMPTY),
        ("a file over a directory", rename("a", "d", plain), Errno::ISDIR),
        ("a directory over a file", rename("d", "a", plain), Errno::NOTDIR),
        ("nothing", rename("none", "x", plain), Errno::NOENT),
    ])?;
    rename("a", "d", exchange)?;
    ensure!(at("a/sub").is_dir() && fs::read(at("d"))? == b"a");
    rename("b", "new", RenameFlags::NOREPLACE)?;
    ensure!(fs::read(at("new"))? == b"b" && !at("b").exists());
    fs::hard_link(at("new"), at("other"))?;
    rename("new", "other", plain)?;
    ensure!(at("new").exists(), "a rename between names of one file does nothing");
    Ok(())
}

fn allocation(root: &Path) -> Result<()> {
    let file = make(&root.join("f"))?;
    file.write_all_at(&[7; 20_000], 0)?;
    let call = |flags, offset, len| fallocate(&file, flags, offset, len);
    let (keep, punch) = (FallocateFlags::KEEP_SIZE, FallocateFlags::PUNCH_HOLE);
    refused(vec![
        ("collapse", call(FallocateFlags::COLLAPSE_RANGE, 4096, 4096), Errno::OPNOTSUPP),
        ("insert", call(FallocateFlags::INSERT_RANGE, 4096, 4096), Errno::OPNOTSUPP),
        ("unshare", call(FallocateFlags::UNSHARE_RANGE, 0, 4096), Errno::OPNOTSUPP),
        ("punch that would grow", call(punch, 0, 4096), Errno::OPNOTSUPP),
        ("nothing", call(keep, 0, 0), Errno::INVAL),
        ("more than there are bytes", call(keep, i64::MAX as u64 - 9, 100), Errno::FBIG),
    ])?;
    let read_only = File::open(root.join("f"))?;
    let refusal = fallocate(&read_only, keep, 0, 10);
    ensure!(refusal == Err(Errno::BADF), "read-only: {refusal:?}");
    call(keep, 0, 1 << 20)?;
    ensure!(file.metadata()?.len() == 20_000 && file.metadata()?.blocks() >= 2048);
    call(punch | keep, 4096, 1 << 20)?;
    ensure!(file.metadata()?.len() == 20_000 && file.metadata()?.blocks() <= 16);
    call(FallocateFlags::empty(), 0, 30_000)?;
    call(FallocateFlags::ZERO_RANGE, 0, 40_000)?;
    ensure!(fs::read(root.join("f"))? == [0; 40_000]);
    Ok(())
}

fn far_away(root: &Path) -> Result<()> {
    let file = make(&root.join("f"))?;
    file.set_len(1 << 61)?;
    file.write_all_at(b"end", (1 << 61) - 3)?;
    let mut end = [0; 5];
    ensure!(file.read_at(&mut end, (1 << 61) - 5)? == 5 && &end == b"\0\0end");
    ensure!(file.metadata()?.blocks() <= 8, "{} blocks", file.metadata()?.blocks());
    let errno = |answer: std::io::Result<usize>| answer.err().and_then(|e| e.raw_os_error());
    ensure!(errno(file.write_at(b"x", i64::MAX as u64 - 5)) == Some(libc::EFBIG));
    ensure!(errno(file.set_len(i64::MAX as u64).map(|()| 0)) == Some(libc::EFBIG));
    ensure!(file.metadata()?.len() == 1 << 61);
    Ok(())
}

fn holes(root: &Path) -> Result<()> {
    let file = make(&root.join("f"))?;
    file.set_len(1 << 20)?;
    file.write_all_at(&[7; 4096], 8192)?;
    // A byte makes its whole block data.
    file.write_all_at(b"x", 20_000)?;
    let seek = |offset, data: bool| {
        let to = if data { rustix::fs::SeekFrom::Data } else { rustix::fs::SeekFrom::Hole };
        rustix::fs::seek(&file, to(offset))
    };
    let look = || -> Result<()> {
        let found = [seek(0, true)?, seek(0, false)?, seek(9000, true)?, seek(9000, false)?];
        ensure!(found == [8192, 0, 9000, 12_288], "{found:?}");
        let found = [seek(12_288, true)?, seek(16_384, false)?, seek(20_100, true)?];
        ensure!(found == [16_384, 20_480, 20_100], "{found:?}");
        refused(vec![
            ("data behind the last", seek(20_480, true), Errno::NXIO),
            ("a hole at the end", seek(1 << 20, false), Errno::NXIO),
        ])
    };
    look()?;
    file.sync_all()?;
    look()
}

fn copies(root: &Path) -> Result<()> {
    let (a, b) = (make(&root.join("a"))?, make(&root.join("b"))?);
    a.write_all_at(b"0123456789", 0)?;
    let copy = |from, mut at: u64, to, mut to_at: u64, len| {
        copy_file_range(from, Some(&mut at), to, Some(&mut to_at), len)
    };
    ensure!(copy(&a, 4, &b, 10, 100)? == 6, "cut at the end of the source");
    ensure!(fs::read(root.join("b"))? == [&[0; 10], &b"456789"[..]].concat());
    ensure!(copy(&a, 10, &b, 0, 5)? == 0, "nothing at the end");
    ensure!(copy(&a, 0, &a, 5, 5)? == 5, "side by side in one file");
    ensure!(fs::read(root.join("a"))? == b"0123401234");
    let (large, taken) = (make(&root.join("large"))?, make(&root.join("taken"))?);
    large.set_len(5 << 30)?;
    let whole = copy(&large, 0, &taken, 0, 5 << 30)?;
    ensure!(whole == 0x7fff_f000, "{whole} bytes at once: more than what an int holds, or less");
    ensure!(taken.metadata()?.len() == 0x7fff_f000);
    let appending = File::options().append(true).open(root.join("b"))?;
    let writing = File::options().write(true).open(root.join("a"))?;
    let reading = File::open(root.join("b"))?;
    let directory = File::open(root)?;
    refused(vec![
        ("onto itself", copy(&a, 0, &a, 3, 5), Errno::INVAL),
        ("to an appender", copy(&a, 0, &appending, 0, 1), Errno::BADF),
        ("to a reader", copy(&a, 0, &reading, 0, 1), Errno::BADF),
        ("from a writer", copy(&writing, 0, &b, 0, 1), Errno::BADF),
        ("from a directory", copy(&directory, 0, &b, 0, 1), Errno::ISDIR),
    ])
}

fn times(root: &Path) -> Result<()> {
    let path = root.join("f");
    make(&path)?;
    symlink("f", root.join("l"))?;
    let time = |secs, nanos| Timespec { tv_sec: secs, tv_nsec: nanos };
    let set = |path: &Path, atime, mtime, flags| {
        let times = Timestamps { last_access: atime, last_modification: mtime };
        utimensat(CWD, path, &times, flags)
    };
    let (follow, link) = (AtFlags::empty(), AtFlags::SYMLINK_NOFOLLOW);
    let get = |path: &Path| -> Result<[i64; 4]> {
        let meta = fs::symlink_metadata(path)?;
        Ok([meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec()])
    };
    let seconds =
        [0, 1, -1, -1_000_000_000, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 34, 253_402_300_800];
    for secs in seconds {
        set(&path, time(secs, 999_999_999), time(-secs, 1), follow)?;
        ensure!(get(&path)? == [secs, 999_999_999, -secs, 1], "{secs}: {:?}", get(&path)?);
    }
    set(&path, time(5, 6), time(7, 8), follow)?;
    set(&path, time(0, UTIME_OMIT), time(9, 9), follow)?;
    ensure!(get(&path)? == [5, 6, 9, 9]);
    let before = fs::metadata(&path)?;
    set(&path, time(0, UTIME_OMIT), time(0, UTIME_OMIT), follow)?;
    ensure!(fs::metadata(&path)?.ctime_nsec() == before.ctime_nsec(), "nothing was to be set");
    set(&path, time(0, UTIME_NOW), time(0, UTIME_OMIT), follow)?;
    let after = fs::metadata(&path)?;
    ensure!(after.atime() >= before.ctime() && get(&path)?[2..] == [9, 9]);
    ensure!(set(&path, time(0, 1_000_000_000), time(0, 0), follow) == Err(Errno::INVAL));
    set(&root.join("l"), time(1, 2), time(3, 4), link)?;
    ensure!(get(&root.join("l"))? == [1, 2, 3, 4] && get(&path)?[2..] == [9, 9]);
    Ok(())
}

fn entries(directory: &mut Dir) -> Result<Vec<String>> {
    let names = directory.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Result<Vec<String>> = names.collect();
    Ok(names?.into_iter().filter(|name| name != "." && name != "..").collect())
}

fn listings(root: &Path) -> Result<()> {
    let path = root.join("d");
    fs::create_dir(&path)?;
    let name = |i: usize| format!("name-{i}-{}", "x".repeat(i % 50));
    (0..1000).try_for_each(|i| File::create(path.join(name(i))).map(drop))?;
    let mut directory = Dir::read_from(open(&path, OFlags::DIRECTORY, Permissions::empty())?)?;
    ensure!(entries(&mut directory)?.len() == 1000);
    File::create(path.join("late"))?;
    fs::remove_file(path.join(name(3)))?;
    directory.rewind();
    let again = entries(&mut directory)?;
    ensure!(again.contains(&"late".to_owned()) && !again.contains(&name(3)), "not read anew");
    ensure!(again.len() == 1000 && again.iter().collect::<BTreeSet<_>>().len() == 1000);
    // Back to where an entry was, while others go.
    let places = places(&path)?;
    for at in [0, 1, 7, 400, 998] {
        let (found, expected) = (name_at(&path, places[at].1)?, &places[at + 1].0);
        ensure!(found.as_ref() == Some(expected), "after entry {at}: {found:?}");
    }
    // Each name is seen once, although each goes when it is seen.
    directory.rewind();
    let mut seen = Vec::new();
    while let Some(entry) = directory.read() {
        let entry = entry?;
        if entry.file_type() == FileType::RegularFile {
            fs::remove_file(path.join(entry.file_name().to_string_lossy().as_ref()))?;
            seen.push(entry.file_name().to_owned());
        }
    }
    ensure!(seen.len() == 1000, "{} names were seen", seen.len());
    fs::remove_dir(&path)?;
    directory.rewind();
    let gone = entries(&mut directory);
    ensure!(gone.as_ref().is_ok_and(Vec::is_empty) || gone.is_err(), "{gone:?}");
    Ok(())
}

/// The names of a directory, each with the offset behind it.
fn places(path: &Path) -> Result<Vec<(String, u64)>> {
    let directory = Dir::read_from(open(path, OFlags::DIRECTORY, Permissions::empty())?)?;
    let place = |entry: rustix::fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), entry.offset() as u64)
    };
    Ok(directory.map(|entry| entry.map(place)).collect::<Result<_, _>>()?)
}

/// The name at an offset.
fn name_at(path: &Path, offset: u64) -> Result<Option<String>> {
    let directory = File::open(path)?;
    rustix::fs::seek(&directory, rustix::fs::SeekFrom::Start(offset))?;
    let mut room = Vec::with_capacity(4096);
    let mut entries = rustix::fs::RawDir::new(&directory, room.spare_capacity_mut());
    let entry = entries.next().transpose()?;
    Ok(entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
}

fn opening(root: &Path) -> Result<()> {
    let path = root.join("f");
    let append = |create| File::options().append(true).create(create).open(&path);
    let (mut a, mut b) = (append(true)?, append(false)?);
    a.write_all(b"1")?;
    b.write_all(b"2")?;
    a.seek(SeekFrom::Start(0))?;
    a.write_all(b"3")?;
    ensure!(fs::read(&path)? == b"123");
    symlink("f", root.join("l"))?;
    symlink("target", root.join("dangling"))?;
    fs::create_dir(root.join("d"))?;
    let mode = Permissions::RUSR | Permissions::WUSR;
    let call = |name: &str, flags| open(root.join(name), flags, mode).map(drop);
    let (read, write, create) = (OFlags::RDONLY, OFlags::WRONLY, OFlags::CREATE);
    refused(vec![
        ("a new file that is there", call("f", create | OFlags::EXCL | read), Errno::EXIST),
        ("a new file through a link", call("dangling", create | OFlags::EXCL | read), Errno::EXIST),
        ("a file as a directory", call("f", OFlags::DIRECTORY | read), Errno::NOTDIR),
        ("a link that may be none", call("l", OFlags::NOFOLLOW | read), Errno::LOOP),
        ("a directory for writing", call("d", write), Errno::ISDIR),
        ("a directory made as a file", call("d", create | write), Errno::ISDIR),
        ("a file with a slash", call("new/", create | write), Errno::ISDIR),
        ("a nameless file", call("d", OFlags::TMPFILE | OFlags::RDWR), Errno::OPNOTSUPP),
        ("a name of 256", call(&"n".repeat(256), create | write), Errno::NAMETOOLONG),
    ])?;
    call("dangling", create | write)?;
    ensure!(root.join("target").exists(), "made through a link");
    call("f", OFlags::RDWR | OFlags::DIRECT)?;
    call("f", write | OFlags::SYNC)?;
    mknodat(CWD, root.join("p"), FileType::Fifo, mode, 0)?;
    mknodat(CWD, root.join("s"), FileType::Socket, mode, 0)?;
    ensure!(call("s", read) == Err(Errno::NXIO), "a socket is opened");
    ensure!(File::options().custom_flags(libc::O_NONBLOCK).read(true).open(root.join("p")).is_ok());
    Ok(())
}

fn locks(root: &Path) -> Result<()> {
    let path = root.join("f");
    let (a, b) = (make(&path)?, make(&path)?);
    ensure!(a.try_lock().is_ok() && b.try_lock().is_err(), "flock");
    a.unlock()?;
    ensure!(b.try_lock().is_ok());
    let lock = |file: &File, start| {
        let what = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: start,
            l_len: 10,
            l_pid: 0,
        };
        nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&what))
    };
    ensure!(lock(&a, 0).is_ok() && lock(&b, 10).is_ok(), "ranges side by side");
    ensure!(lock(&b, 5) == Err(nix::errno::Errno::EAGAIN), "an overlapping range");
    drop(a);
    ensure!(lock(&b, 5).is_ok(), "closing a file lets its locks go");
    Ok(())
}

/// Readers through the cache fetch old pages again and again while a direct write is under way. Once
/// it is done, nobody may see them.
fn direct_writes(root: &Path) -> Result<()> {
    let path = root.join("f");
    make(&path)?.write_all_at(&[0; BLOCK], 0)?;
    let direct = File::options().write(true).custom_flags(libc::O_DIRECT).open(&path)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut bytes = [0; BLOCK];
                while !stop.load(Ordering::Relaxed) {
                    if File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, 0)).is_err()
                    {
                        break;
                    }
                }
            });
        }
        let checked = overwrite(&direct, &path);
        stop.store(true, Ordering::Relaxed);
        checked
    })
}

/// Writes other bytes again and again, and reads each time what was written.
fn overwrite(direct: &File, path: &Path) -> Result<()> {
    let mut queue = Queue::new()?;
    let mut bytes = [0; BLOCK];
    for round in 1..3000_u32 {
        let block = Aligned([(round % 251) as u8; BLOCK]);
        queue.write(direct, &block.0, 0)?;
        File::open(path)?.read_exact_at(&mut bytes, 0)?;
        ensure!(bytes == block.0, "round {round}: {} was read", bytes[0]);
    }
    Ok(())
}
