//! Promise: the kernel caches what it may. How many requests reach the mount for what programs do,
//! access lists and all, by the mount's own count. The figures in docs/performance.md are these.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::{PATIENCE, shell};

/// Files that each step works on.
const FILES: usize = 200;
/// Requests more or less than belong to the files: of directories, of the shell, at either end.
const SLACK: u64 = 20;

/// Requests by kind.
type Asked = BTreeMap<String, u64>;

/// What a step asks for each of the files.
struct Step {
    what: &'static str,
    run: fn(&Path) -> Result<()>,
    each: &'static [(&'static str, u64)],
}

const STEPS: [Step; 14] = [
    Step { what: "create", run: create, each: &[("lookup", 1), ("create", 1), PARENT] },
    Step { what: "first small write", run: write, each: &[("write", 1), ("getxattr", 1)] },
    Step { what: "next small write", run: write, each: &[("write", 1)] },
    Step { what: "stat after a write", run: stat, each: &[("getattr", 1)] },
    Step { what: "stat again", run: stat, each: &[] },
    Step { what: "read from the page cache", run: read, each: &[] },
    Step { what: "write after a stat", run: write, each: &[("write", 1), ("getxattr", 1)] },
    Step { what: "open by another user", run: open_as_other, each: &[("getxattr", 1)] },
    Step { what: "open by another user again", run: open_as_other, each: &[] },
    Step { what: "no such name, asked again", run: missing, each: &[] },
    Step { what: "chmod", run: chmod, each: &[("setattr", 1)] },
    Step { what: "rename", run: rename, each: &[("lookup", 1), ("rename", 1), PARENT] },
    Step {
        what: "create by another user",
        run: create_as_other,
        // The attributes of the directory, then its access list.
        each: &[("lookup", 1), ("create", 1), PARENT, ("getxattr", 1)],
    },
    Step { what: "unlink", run: unlink, each: &[("unlink", 1), PARENT] },
];

/// After each change of a directory the kernel asks for its attributes, to check the next one.
const PARENT: (&str, u64) = ("getattr", 1);

#[test]
fn the_kernel_asks_once_for_what_it_may_keep() -> Result<()> {
    if !can_mount() || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let mut mount = Counted::start()?;
    let directory = mount.demo.file("directory");
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
    missing(&directory)?;
    let mut wrong = Vec::new();
    for step in &STEPS {
        let asked = mount.asked(|| (step.run)(&directory))?;
        println!("{}, {FILES} times: {asked:?}", step.what);
        let all = asked.keys().map(String::as_str).chain(step.each.iter().map(|(op, _)| *op));
        for op in all.collect::<std::collections::BTreeSet<_>>() {
            let each = step.each.iter().find(|(of, _)| *of == op).map_or(0, |(_, each)| *each);
            let (count, expected) = (asked.get(op).copied().unwrap_or(0), each * FILES as u64);
            if count.abs_diff(expected) > SLACK {
                wrong.push(format!("{}: {count} {op}, not {expected}", step.what));
            }
        }
    }
    ensure!(wrong.is_empty(), "too many or too few requests:\n{}", wrong.join("\n"));
    mount.demo.stop(Stop::Umount)
}

#[test]
fn a_listing_asks_for_many_entries_at_once() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut mount = Counted::start()?;
    let directory = mount.demo.file("directory");
    fs::create_dir(&directory)?;
    (0..1000).try_for_each(|i| File::create(directory.join(format!("f{i}"))).map(drop))?;
    // To drop the machine's caches would disturb whoever counts beside this test.
    mount.demo.remount()?;
    let list = || shell(&directory, "ls -l | wc -l", PATIENCE).map(drop);
    let first = mount.asked(list)?;
    let again = mount.asked(list)?;
    println!("ls -l of 1000 entries: {first:?}, again {again:?}");
    let of = |asked: &Asked, op: &str| asked.get(op).copied().unwrap_or(0);
    ensure!(of(&first, "readdir") <= 100, "{first:?}");
    ensure!(of(&first, "getattr") + of(&first, "lookup") <= SLACK, "{first:?}");
    // ls asks for each entry's access list; the kernel keeps the answer.
    ensure!(of(&first, "getxattr") <= 1000 + SLACK, "{first:?}");
    ensure!(again.values().sum::<u64>() <= SLACK, "listed again: {again:?}");
    mount.demo.remount()?;
    // As find, du, rm and chmod do: the whole list first, and then each entry.
    let walk = || {
        let names = fs::read_dir(&directory)?.collect::<Result<Vec<_>, _>>()?;
        names.iter().try_for_each(|name| fs::symlink_metadata(name.path()).map(drop))?;
        Ok(())
    };
    let walked = mount.asked(walk)?;
    println!("a list of 1000 entries, then each: {walked:?}");
    ensure!(walked.values().sum::<u64>() <= 100 + SLACK, "walked: {walked:?}");
    mount.demo.stop(Stop::Umount)
}

fn names(directory: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let directory = directory.to_owned();
    (0..FILES).map(move |i| directory.join(format!("f{i}")))
}

fn create(directory: &Path) -> Result<()> {
    Ok(names(directory).try_for_each(|name| File::create_new(name).map(drop))?)
}

fn write(directory: &Path) -> Result<()> {
    let mut files = names(directory).map(|name| File::options().write(true).open(name));
    Ok(files.try_for_each(|file| file?.write_all_at(&[7; 4096], 0))?)
}

fn stat(directory: &Path) -> Result<()> {
    for name in names(directory) {
        ensure!(fs::metadata(name)?.size() == 4096);
    }
    Ok(())
}

fn read(directory: &Path) -> Result<()> {
    for name in names(directory) {
        ensure!(fs::read(name)? == [7; 4096]);
    }
    Ok(())
}

fn missing(directory: &Path) -> Result<()> {
    for name in names(directory) {
        ensure!(fs::metadata(name.with_extension("none")).is_err());
    }
    Ok(())
}

fn chmod(directory: &Path) -> Result<()> {
    let mode = fs::Permissions::from_mode(0o640);
    Ok(names(directory).try_for_each(|name| fs::set_permissions(name, mode.clone()))?)
}

fn rename(directory: &Path) -> Result<()> {
    Ok(names(directory).try_for_each(|name| fs::rename(&name, name.with_extension("new")))?)
}

fn unlink(directory: &Path) -> Result<()> {
    Ok(names(directory).try_for_each(fs::remove_file)?)
}

const OTHER: &str = "setpriv --reuid 10 --regid 10 --clear-groups bash -c";

fn open_as_other(directory: &Path) -> Result<()> {
    let script = format!("{OTHER} 'for ((i = 0; i < {FILES}; i++)); do : < f$i; done'");
    shell(directory, &script, PATIENCE).map(drop)
}

fn create_as_other(directory: &Path) -> Result<()> {
    let script = format!("{OTHER} 'for ((i = 0; i < {FILES}; i++)); do : > f$i; done'");
    shell(directory, &script, PATIENCE).map(drop)
}

/// A mount that counts.
struct Counted {
    demo: Demo,
    address: String,
}

impl Counted {
    fn start() -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mount_arguments = vec!["--metrics".to_owned(), address.clone()];
        let demo = Demo::start(Setup { mount_arguments, ..Setup::new(Mode::Served) })?;
        Ok(Self { demo, address })
    }

    /// The requests that `work` causes.
    fn asked(&self, work: impl FnOnce() -> Result<()>) -> Result<Asked> {
        let before = self.count()?;
        work()?;
        let mut asked = self.count()?;
        asked.retain(|op, count| {
            *count -= before.get(op).copied().unwrap_or(0);
            *count > 0
        });
        Ok(asked)
    }

    fn count(&self) -> Result<Asked> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let address = &self.address;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let mut asked = Asked::new();
        let prefix = "ashlar_op_seconds_count{op=\"";
        for line in text.lines().filter_map(|line| line.strip_prefix(prefix)) {
            let (op, count) = line.split_once("\"} ").context("a count of a kind of request")?;
            asked.insert(op.to_owned(), count.trim().parse()?);
        }
        ensure!(asked.contains_key("create"), "the mount counts nothing:\n{text}");
        Ok(asked)
    }
}
