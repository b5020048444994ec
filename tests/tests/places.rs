//! Promise: a volume can be seen at several places of one machine, as any local filesystem: mounted a
//! second time by mount(8), or bound. It lives until the last of them goes, and nobody waits for the
//! others. Users mount without being root, fstab without anybody.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::binaries::ashlar;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount, is_mounted, umount, until_unused};
use tests::process::{PATIENCE, answer, bounded, output, run, wait_until};
use tests::seed::content;
use tests::site::{
    CLUSTER, Site, VOLUME, embedded, format, is_gone, is_read_only, pid_in, refused,
};

/// Leaving one of several places takes a system call: nothing is waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// The kernel gives a mount's device number to the next mount at once.
const SAME_NUMBER_TRIES: usize = 10;

/// Directories beside the mount point, for further places; unmounted when they are dropped.
struct Places<'a> {
    site: &'a Site,
    names: Vec<&'static str>,
}

impl<'a> Places<'a> {
    fn new(site: &'a Site, names: &[&'static str]) -> Result<Self> {
        names.iter().try_for_each(|name| fs::create_dir(site.outside(name)))?;
        Ok(Self { site, names: names.to_vec() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.outside(name)
    }

    fn mount_command(&self, name: &str, options: &str) -> Command {
        self.site.mount_at(&self.path(name), options)
    }

    fn mount(&self, name: &str, options: &str) -> Result<()> {
        run(&mut self.mount_command(name, options), PATIENCE)?;
        ensure!(is_mounted(&self.path(name)), "mount returned, and nothing is at {name}");
        Ok(())
    }

    fn umount(&self, name: &str) -> Result<()> {
        let since = Instant::now();
        until_unused(|| umount(&self.path(name)))?;
        ensure!(!is_mounted(&self.path(name)), "{name} is still mounted");
        ensure!(since.elapsed() < AT_ONCE, "leaving {name} took {:?}", since.elapsed());
        Ok(())
    }
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        for name in self.names.iter().filter(|name| is_mounted(&self.path(name))) {
            let mut umount = Command::new("umount");
            if let Err(e) = run(umount.arg("-l").arg(self.path(name)), PATIENCE) {
                eprintln!("{e:#}");
            }
        }
    }
}

#[test]
fn a_mounted_volume_appears_at_a_second_place() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    let places = Places::new(&site, &["second", "part", "mine"])?;
    site.mount("")?;
    fs::create_dir_all(site.file("a/b"))?;
    fs::write(site.file("a/file"), "here")?;
    let pid = site.pid()?;
    places.mount("second", "nosuid,noatime")?;
    places.mount("part", "ro,subdir=/a/")?;
    // One filesystem: what happens at one place has happened at all.
    let (second, part) = (places.path("second"), places.path("part"));
    fs::rename(second.join("a/file"), second.join("a/b/moved"))?;
    ensure!(fs::read_to_string(site.file("a/b/moved"))? == "here", "it is not one volume");
    fs::rename(site.file("a/b/moved"), site.file("a/file"))?;
    ensure!(fs::read_to_string(part.join("file"))? == "here", "the part is another");
    let held = File::options().write(true).open(second.join("a/file"))?;
    held.lock()?;
    let other = File::open(site.file("a/file"))?;
    ensure!(other.try_lock().is_err(), "a lock held at one place is not held at another");
    drop((held, other));
    // Each has options of its own, and root cannot get out of a part.
    ensure!(is_read_only(fs::write(part.join("new"), "x")), "a part mounted ro was written to");
    fs::write(site.file("new"), "x")?;
    ensure!(!part.join("new").exists() && !part.join("../a").exists(), "more than the part");
    let table = fs::read_to_string("/proc/mounts")?;
    let line = |path: &Path| table.lines().find(|line| line.contains(path.to_str().unwrap_or("")));
    let shown = line(&second).context("second is not in the table")?;
    ensure!(shown.contains("rw,nosuid,noatime"), "{shown}");
    let shown = line(&site.point()).context("the first is not in the table")?;
    ensure!(shown.contains("rw,relatime"), "the first was changed: {shown}");

    // The first goes, and the others stay.
    places.umount("mnt")?;
    fs::write(second.join("late"), content(1, 3 << 20))?;
    ensure!(fs::metadata(part.join("b"))?.is_dir() && !is_gone(pid), "all of it is gone");
    // One's own mount of it is refused still, naming a place where it is.
    let mut ours = Command::new(ashlar());
    ours.args(["mount", VOLUME]).arg(places.path("mine")).arg("--cluster").arg(site.cluster());
    let said = refused(&mut ours, AT_ONCE)?;
    let names = [&second, &part].iter().any(|place| said.contains(&*place.to_string_lossy()));
    ensure!(said.contains("is mounted at") && names, "{said}");
    // By force only one place goes, too.
    run(Command::new("umount").arg("-f").arg(&part), AT_ONCE)?;
    ensure!(fs::read(second.join("late"))? == content(1, 3 << 20), "the other one is dead");
    run(Command::new(ashlar()).arg("umount").arg(&second), PATIENCE)?;
    ensure!(is_gone(pid), "umount of the last place returned before process {pid} had ended");
    let table = fs::read_to_string("/run/mount/utab").unwrap_or_default();
    let left = table.contains(&*site.home.path().to_string_lossy());
    ensure!(!left, "lines are left in mount's table:\n{table}");
    site.mount("")?;
    ensure!(fs::read(site.file("late"))? == content(1, 3 << 20), "other bytes");
    site.umount()
}

#[test]
fn two_mounts_at_once_are_one_volume_at_two_places() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    let places = Places::new(&site, &["second"])?;
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let options = format!("metrics={free}");
    for round in 0..5 {
        // As at boot: whoever is second finds the volume and the address taken, and nothing to be
        // seen yet.
        std::thread::scope(|scope| {
            let other = scope.spawn(|| places.mount("second", &options));
            site.mount(&options).and(other.join().expect("it does not panic"))
        })?;
        fs::write(site.file("file"), content(round, 1 << 20))?;
        let seen = fs::read(places.path("second").join("file"))?;
        ensure!(seen == content(round, 1 << 20), "round {round}: two volumes");
        places.umount("mnt")?;
        places.umount("second")?;
    }
    Ok(())
}

#[test]
fn a_second_place_that_cannot_be_is_refused_in_one_sentence() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    let places = Places::new(&site, &["second", "third"])?;
    site.mount("")?;
    fs::create_dir_all(site.file("a/b"))?;
    symlink(site.home.path(), site.file("link"))?;
    fs::write(site.file("file"), "")?;
    let refuse = |options: &str, names: &[&str]| {
        let said = refused(&mut places.mount_command("third", options), PATIENCE)?;
        let good = said.lines().count() == 1 && names.iter().all(|name| said.contains(name));
        ensure!(good, "{options:?}: {said}");
        ensure!(!is_mounted(&places.path("third")), "{options:?} has mounted something");
        anyhow::Ok(())
    };
    for wrong in
        ["subdir=/none", "subdir=/link", "subdir=/link/mnt", "subdir=/../x", "subdir=/file"]
    {
        refuse(wrong, &[wrong.trim_start_matches("subdir=/")])?;
    }
    site.remount("ro")?;
    let first = site.point().display().to_string();
    refuse("", &["read-only", &first])?;
    places.mount("second", "ro")?;
    places.umount("second")?;
    site.umount()?;
    site.mount("subdir=/a")?;
    refuse("", &[&first, "/a"])?;
    refuse("subdir=/other", &[&first, "/a"])?;
    places.mount("second", "subdir=/a/b")?;
    places.umount("second")?;
    site.umount()
}

#[test]
fn a_bound_mount_keeps_a_volume_until_it_goes() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    let places = Places::new(&site, &["bound"])?;
    site.mount("")?;
    let (pid, bound) = (site.pid()?, places.path("bound"));
    fs::create_dir(site.file("dir"))?;
    run(Command::new("mount").arg("--bind").arg(site.file("dir")).arg(&bound), PATIENCE)?;
    places.umount("mnt")?;
    fs::write(bound.join("late"), content(2, 1 << 20))?;
    // Mounted again while it lives on, it is the same.
    places.mount("mnt", "subdir=/dir")?;
    ensure!(fs::read(site.file("late"))? == content(2, 1 << 20), "another volume");
    // A process that is asked to end takes all its places along.
    kill(pid, Signal::SIGTERM)?;
    wait_until("the process to end", PATIENCE, || is_gone(pid))?;
    ensure!(!is_mounted(&bound) && !is_mounted(&site.point()), "dead mounts are left behind");
    site.mount("")?;
    ensure!(fs::read(site.file("dir/late"))? == content(2, 1 << 20), "other bytes");
    site.umount()
}

#[test]
fn a_mount_in_another_namespace_is_not_waited_for() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    site.mount("")?;
    let pid = site.pid()?;
    let file = site.file("file");
    fs::write(&file, "before")?;
    // As a container has it: with a copy of every mount there is.
    let mut container = Command::new("unshare");
    let held = format!("echo ready; read line; echo inside >> {0}; cat {0}", file.display());
    container.args(["--mount", "--propagation", "private", "sh", "-c", &held]);
    let mut container = container.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(container.stdout.take().context("stdout")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    let umount = output(Command::new("umount").arg(site.point()), PATIENCE)?;
    let words = String::from_utf8_lossy(&umount.stderr);
    ensure!(umount.status.success() && words.contains("another mount namespace"), "{words}");
    ensure!(!is_mounted(&site.point()) && !is_gone(pid), "it is mounted, or gone");
    drop(container.stdin.take());
    let mut inside = String::new();
    said.read_to_string(&mut inside)?;
    ensure!(inside == "beforeinside\n", "the container reads {inside:?}");
    bounded("the container", PATIENCE, move || container.wait())??;
    // With that gone, the volume is; and what was written there is kept.
    site.mount("")?;
    ensure!(fs::read_to_string(&file)? == "beforeinside\n", "other bytes");
    site.umount()
}

#[test]
fn fstab_mounts_volumes() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    let places = Places::new(&site, &["part"])?;
    site.mount("")?;
    fs::create_dir(site.file("dir"))?;
    site.umount()?;
    let (table, cluster) = (site.outside("fstab"), site.cluster());
    let (point, part, cluster) = (site.point(), places.path("part"), cluster.display());
    let of_all = format!(
        "{VOLUME} {} fuse.ashlar cluster={cluster},_netdev,nofail,noexec,x-systemd.mount-timeout=30 0 0\n\
         {VOLUME} {} fuse.ashlar cluster={cluster},subdir=/dir,ro,noauto 0 0\n",
        point.display(),
        part.display(),
    );
    fs::write(&table, of_all)?;
    let by_table = |what: &[&str]| {
        let mut mount = Command::new("mount");
        run(mount.arg("--fstab").arg(&table).args(what), PATIENCE).map(drop)
    };
    by_table(&["-a"])?;
    ensure!(is_mounted(&point) && !is_mounted(&part), "mount -a has mounted others");
    ensure!(site.shown()?.contains(&"noexec".to_owned()), "{:?}", site.shown()?);
    // What is mounted already is left alone.
    by_table(&["-a"])?;
    by_table(&[&part.display().to_string()])?;
    fs::write(point.join("dir/file"), "seen")?;
    ensure!(fs::read_to_string(part.join("file"))? == "seen", "another directory");
    ensure!(is_read_only(fs::write(part.join("file"), "x")), "it was written to");
    places.umount("part")?;
    site.umount()
}

/// A volume of somebody who is not root.
struct Mine {
    home: tempfile::TempDir,
}

impl Mine {
    /// Who that is: nobody.
    const USER: u32 = 65534;

    fn as_user(program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        let id = Self::USER.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Formats it.
    fn format() -> Result<Self> {
        let mine = Self { home: tempfile::Builder::new().prefix("ashlar-user-").tempdir()? };
        chown(mine.home.path(), Some(Self::USER), Some(Self::USER))?;
        format(mine.home.path(), Self::as_user, |number, _| Ok(embedded(number)))?;
        fs::create_dir(mine.path("mnt"))?;
        chown(mine.path("mnt"), Some(Self::USER), Some(Self::USER))?;
        Ok(mine)
    }

    /// A command of ours, by that user, with the cluster's file.
    fn ashlar(&self, words: &[&str]) -> Result<String> {
        run(&mut self.command(words), PATIENCE)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Self::as_user(&ashlar());
        command.args(words).env("ASHLAR_CLUSTER", self.path(CLUSTER));
        command.current_dir(self.home.path());
        command
    }

    fn pid(&self) -> Result<Pid> {
        pid_in(&answer(&mut self.command(&["status", "mnt", "--json"]), PATIENCE)?.1)
    }
}

/// The kernel's door, open to everybody, as udev makes it. Where that does not run it is root's alone,
/// and is so again when this is dropped.
struct OpenDoor(Permissions);

impl OpenDoor {
    const DEVICE: &str = "/dev/fuse";

    fn open() -> Result<Self> {
        let before = fs::metadata(Self::DEVICE)?.permissions();
        fs::set_permissions(Self::DEVICE, Permissions::from_mode(0o666))?;
        Ok(Self(before))
    }
}

impl Drop for OpenDoor {
    fn drop(&mut self) {
        if let Err(e) = fs::set_permissions(Self::DEVICE, self.0.clone()) {
            eprintln!("{}: {e}", Self::DEVICE);
        }
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        if is_mounted(&self.path("mnt"))
            && let Err(e) = run(Command::new("umount").arg("-l").arg(self.path("mnt")), PATIENCE)
        {
            eprintln!("{e:#}");
        }
    }
}

/// `MAJOR:MINOR` of what is mounted there.
fn device(path: &Path) -> Result<String> {
    let stat = nix::sys::stat::stat(path)?;
    Ok(format!("{}:{}", nix::sys::stat::major(stat.st_dev), nix::sys::stat::minor(stat.st_dev)))
}

/// Unmounts a place behind the back of its process, which is stopped then. Who looks at the mounts of this machine just
/// then has it in hand for a moment, or until the process goes on.
fn unmount_unheard(pid: Pid, place: &Path) -> Result<()> {
    wait_until("a moment when nobody looks at a mount", PATIENCE, || {
        let unmounted = kill(pid, Signal::SIGSTOP).is_ok() && nix::mount::umount(place).is_ok();
        unmounted || kill(pid, Signal::SIGCONT).is_err()
    })
}

#[test]
fn the_end_of_a_mount_leaves_the_next_one_of_that_number_and_name_alone() -> Result<()> {
    if !can_mount() || !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can unmount behind the back of a process");
        return Ok(());
    }
    let mut ending = Demo::start(Setup::new(Mode::Embedded))?;
    let mut next = Demo::start(Setup::new(Mode::Embedded))?;
    next.stop(Stop::Umount)?;
    for _ in 0..SAME_NUMBER_TRIES {
        let (pid, number) = (ending.mount_pid(), device(&ending.path())?);
        // It does not hear of its end before the other volume is mounted.
        unmount_unheard(pid, &ending.path())?;
        let mounted = next.mount();
        kill(pid, Signal::SIGCONT)?;
        mounted?;
        wait_until("the end of a mount that nobody uses", PATIENCE, || is_gone(pid))?;
        ending.stop(Stop::Terminate)?;
        ensure!(is_mounted(&next.path()), "the end of one mount has taken another away");
        fs::write(next.file("file"), "still served")?;
        let same = device(&next.path())? == number;
        next.stop(Stop::Umount)?;
        if same {
            return Ok(());
        }
        ending.mount()?;
    }
    eprintln!("NOT TESTED: other mounts on this machine took the number each time");
    Ok(())
}

#[test]
fn users_mount_what_is_theirs() -> Result<()> {
    // Programs may lie where only root can reach them.
    let Some(_site) = Site::embedded()? else { return Ok(()) };
    if run(Mine::as_user(&ashlar()).arg("--version"), PATIENCE).is_err() {
        eprintln!("NOT TESTED: user {} cannot run {}", Mine::USER, ashlar().display());
        return Ok(());
    }
    let _door = OpenDoor::open()?;
    let mine = Mine::format()?;
    let in_it = |line: &str| {
        let mut shell = Mine::as_user(Path::new("/bin/sh"));
        run(shell.args(["-ec", line]).current_dir(mine.home.path()), PATIENCE)
    };
    for end in ["ashlar umount mnt", "fusermount3 -u mnt"] {
        mine.ashlar(&["mount", VOLUME, "mnt"])?;
        let pid = mine.pid()?;
        in_it("echo some bytes > mnt/file; mkdir -p mnt/dir; ln -f mnt/file mnt/dir/link")?;
        let owner = in_it("stat -c %u:%h mnt/file")?;
        ensure!(owner.trim() == format!("{}:2", Mine::USER), "{owner}");
        // Without allow_other it is nobody else's, not even root's.
        let entered = fs::metadata(mine.path("mnt/file"));
        ensure!(entered.is_err(), "root is in it: {entered:?}");
        match end.strip_prefix("ashlar ") {
            Some(words) => {
                mine.ashlar(&words.split(' ').collect::<Vec<_>>())?;
                ensure!(is_gone(pid), "{end} returned before process {pid} had ended");
            }
            None => drop(in_it(end)?),
        }
        ensure!(!is_mounted(&mine.path("mnt")), "{end}: it is still mounted");
    }
    // The last one may still be storing; the next waits for it.
    mine.ashlar(&["mount", VOLUME, "mnt"])?;
    ensure!(in_it("cat mnt/dir/link")?.trim() == "some bytes", "other bytes");
    mine.ashlar(&["umount", "mnt"])?;
    // It ends with another exit code where something is wrong.
    mine.ashlar(&["fsck", VOLUME]).map(drop)
}
