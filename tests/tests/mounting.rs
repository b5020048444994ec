//! Promise: a volume mounts like a local filesystem. mount(8), umount(8) and their options do what they
//! say, through the helpers that `ashlar install-helper` puts into /sbin; and what cannot be stored is
//! never lost silently.
//!
//! Only root mounts by mount(8).

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode as Bits, SFlag, makedev, mknod};
use tests::binaries::ashlar;
use tests::cluster::is_mounted;
use tests::process::{PATIENCE, bounded, output, run, shell, wait_until};
use tests::seed::content;
use tests::site::{FORCED, Site, VOLUME, is_gone, is_read_only, refused};

/// What a umount may take that cannot succeed: it tries for some seconds, in case the disks come back.
const REFUSED: Duration = Duration::from_secs(40);

#[test]
fn umount_and_mount_again_at_once_keep_everything() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    for round in 0..12 {
        // By its mount point, as an absolute path or not, and by its source.
        site.mount("")?;
        if round > 0 {
            let before = fs::read(site.file(&format!("file{}", round - 1)))?;
            ensure!(before == content(round - 1, 3 << 20), "round {round}: other bytes");
        }
        let pid = site.pid()?;
        fs::write(site.file(&format!("file{round}")), content(round, 3 << 20))?;
        let line = ["umount \"$PWD/mnt\"", "umount mnt", "umount photos"][round as usize % 3];
        shell(site.home.path(), line, PATIENCE)?;
        ensure!(is_gone(pid), "{line} returned before process {pid} had ended");
    }
    // Without the helper umount does not wait, and the next mount has to.
    for round in 0..4 {
        site.mount("")?;
        fs::write(site.file("last"), content(100 + round, 6 << 20))?;
        run(Command::new("umount").arg("-i").arg(site.point()), PATIENCE)?;
        site.mount("")?;
        ensure!(fs::read(site.file("last"))? == content(100 + round, 6 << 20), "other bytes");
        site.umount()?;
    }
    Ok(())
}

#[test]
fn a_mount_holds_nothing_of_who_made_it() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    // A shell waits for its pipe until nobody has it open any more; so with descriptor 9.
    let options = format!("cluster={}", site.cluster().display());
    let mount = format!("mount -t fuse.ashlar {VOLUME} mnt -o {options}");
    shell(site.home.path(), &format!("({mount}) 2>&1 | cat; umount mnt"), PATIENCE)?;
    shell(site.home.path(), &format!("{{ {mount}; }} 9>&1 | cat"), PATIENCE)?;
    let pid = site.pid()?;
    let proc = Path::new("/proc").join(pid.to_string());
    ensure!(fs::read_link(proc.join("cwd"))? == Path::new("/"), "it keeps a directory in use");
    ensure!(nix::unistd::getsid(Some(pid))? == pid, "it is in the session of who mounted it");
    site.umount()
}

#[test]
fn remounts_change_what_the_kernel_does() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    site.mount("")?;
    fs::write(site.file("file"), "before")?;
    site.remount("ro")?;
    ensure!(site.shown()?.contains(&"ro".to_owned()), "{:?}", site.shown()?);
    ensure!(is_read_only(fs::write(site.file("file"), "x")), "a file was written");
    ensure!(is_read_only(fs::create_dir(site.file("dir"))), "a directory was made");
    site.remount("rw")?;
    fs::write(site.file("file"), "after")?;
    // A file that is open for writing keeps it writable, as anywhere.
    let open = File::options().append(true).open(site.file("file"))?;
    let mut command = Command::new("mount");
    let said = refused(command.args(["-o", "remount,ro"]).arg(site.point()), PATIENCE)?;
    ensure!(said.contains("busy"), "{said}");
    drop(open);
    for (options, shown, hidden) in [
        ("nosuid,nodev,noexec", &["nosuid", "nodev", "noexec"][..], &[][..]),
        (
            "suid,dev,exec,noatime,lazytime",
            &["noatime", "lazytime"],
            &["nosuid", "nodev", "noexec"],
        ),
        (
            "strictatime,nodiratime,nolazytime",
            &["nodiratime"],
            &["noatime", "relatime", "lazytime"],
        ),
        ("relatime,diratime,sync", &["relatime", "sync", "rw"], &["nodiratime"]),
    ] {
        site.remount(options)?;
        let have = site.shown()?;
        let has = |word: &&str| have.iter().any(|shown| shown == word);
        ensure!(shown.iter().all(has) && !hidden.iter().any(has), "{options}: {have:?}");
    }
    // Our own command changes what it names, and nothing else.
    let mut command = Command::new(ashlar());
    run(command.args(["mount", VOLUME]).arg(site.point()).args(["-o", "remount,ro"]), PATIENCE)?;
    let have = site.shown()?.join(",");
    ensure!(have.starts_with("ro,sync,relatime"), "{have}");
    site.umount()?;
    site.mount("ro")?;
    ensure!(is_read_only(fs::write(site.file("file"), "x")), "a file was written");
    ensure!(fs::read_to_string(site.file("file"))? == "after", "other bytes");
    site.umount()
}

/// Access times of a file, a symbolic link and a directory that are read past every cache.
fn read_all(site: &Site) -> Result<[(i64, i64); 3]> {
    // Another mount has nothing cached; FUSE keeps pages, links and listings otherwise.
    fs::read(site.file("file"))?;
    fs::read_link(site.file("link"))?;
    fs::read_dir(site.file("dir"))?.count();
    let at = |name| {
        let meta = fs::symlink_metadata(site.file(name))?;
        anyhow::Ok((meta.atime(), meta.atime_nsec()))
    };
    Ok([at("file")?, at("link")?, at("dir")?])
}

#[test]
fn access_times_follow_the_options_of_the_mount() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    site.mount("noatime")?;
    fs::write(site.file("file"), "some bytes")?;
    symlink("file", site.file("link"))?;
    fs::create_dir(site.file("dir"))?;
    let made = {
        let at = |name| fs::symlink_metadata(site.file(name)).map(|m| (m.atime(), m.atime_nsec()));
        [at("file")?, at("link")?, at("dir")?]
    };
    let mut last = made;
    for (options, remount, moves) in [
        ("noatime", None, [false; 3]),
        ("ro", None, [false; 3]),
        // Nothing was read since it was made, by what these times say.
        ("relatime", None, [true; 3]),
        ("", None, [false; 3]),
        ("strictatime,nodiratime", None, [true, true, false]),
        ("strictatime", None, [true; 3]),
        ("strictatime", Some("noatime"), [false; 3]),
        ("noatime", Some("strictatime"), [true; 3]),
        ("strictatime", Some("ro"), [false; 3]),
        ("noatime", None, [false; 3]),
    ] {
        site.umount()?;
        site.mount(options)?;
        remount.map_or(Ok(()), |options| site.remount(options))?;
        let now = read_all(&site)?;
        // What has been read stays read, whatever the mount is told then.
        site.remount("noatime")?;
        ensure!(read_all(&site)? == now, "{options:?}, {remount:?}: it was otherwise afterwards");
        let moved: Vec<bool> = now.iter().zip(&last).map(|(now, last)| now > last).collect();
        ensure!(moved == moves, "{options:?}, {remount:?}: {last:?}, and read {now:?}");
        last = now;
    }
    site.umount()
}

#[test]
fn setuid_programs_devices_and_programs_are_obeyed_or_not() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    site.mount("")?;
    fs::set_permissions(site.home.path(), fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(site.point(), fs::Permissions::from_mode(0o755))?;
    fs::copy("/usr/bin/id", site.file("id"))?;
    fs::set_permissions(site.file("id"), fs::Permissions::from_mode(0o4755))?;
    mknod(&site.file("null"), SFlag::S_IFCHR, Bits::from_bits_truncate(0o666), makedev(1, 3))?;
    let id = || {
        let mut command = Command::new("setpriv");
        let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
        command.args(nobody).arg(site.file("id")).arg("-u");
        command
    };
    let device = || File::options().write(true).open(site.file("null"))?.write_all(b"x");
    for options in ["suid,dev,exec", "", "nosuid,nodev"] {
        site.umount()?;
        site.mount(options)?;
        let obeyed = options != "nosuid,nodev";
        let who = run(&mut id(), PATIENCE)?;
        ensure!(who.trim() == if obeyed { "0" } else { "65534" }, "{options:?}: id says {who}");
        ensure!(device().is_ok() == obeyed, "{options:?}: the device says {:?}", device());
    }
    site.remount("noexec")?;
    let said = refused(&mut id(), PATIENCE)?;
    ensure!(said.contains("Permission denied"), "{said}");
    site.umount()
}

#[test]
fn what_sync_and_dirsync_promise_survives_a_kill() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    for round in 0..5 {
        site.mount(if round % 2 == 0 { "sync" } else { "" })?;
        if round % 2 == 1 {
            site.remount("sync")?;
        }
        let mut file = File::create(site.file(&format!("file{round}")))?;
        file.write_all(&content(round, 300_000))?;
        fs::rename(site.file(&format!("file{round}")), site.file(&format!("kept{round}")))?;
        fs::set_permissions(site.file(&format!("kept{round}")), fs::Permissions::from_mode(0o640))?;
        site.kill_mount()?;
        site.mount("dirsync")?;
        let kept = site.file(&format!("kept{round}"));
        let bytes = fs::read(&kept).with_context(|| format!("round {round}"))?;
        ensure!(bytes == content(round, 300_000), "round {round}: {} bytes", bytes.len());
        ensure!(fs::metadata(&kept)?.mode() & 0o777 == 0o640, "the mode is lost");
        fs::create_dir(site.file(&format!("dir{round}")))?;
        site.kill_mount()?;
        site.mount("")?;
        ensure!(site.file(&format!("dir{round}")).is_dir(), "round {round}: the directory is lost");
        site.umount()?;
    }
    Ok(())
}

#[test]
fn a_write_to_a_file_opened_with_o_sync_or_o_dsync_survives_a_kill() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    site.mount("")?;
    for (round, flag) in (0..).zip([OFlag::O_SYNC, OFlag::O_DSYNC, OFlag::O_SYNC, OFlag::O_DSYNC]) {
        let (path, bytes) = (site.file(&format!("file{round}")), content(round, 300_000));
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).custom_flags(flag.bits());
        let file = file.open(&path)?;
        // A part in its midst: what was not stored with the first write must be with the second.
        file.write_all_at(&bytes, 0)?;
        file.write_all_at(b"written over", 100_000)?;
        site.kill_mount()?;
        drop(file);
        site.mount("")?;
        let mut expected = bytes;
        expected[100_000..100_012].copy_from_slice(b"written over");
        let kept = fs::read(&path).with_context(|| format!("round {round}"))?;
        ensure!(kept == expected, "round {round}: {} bytes, or others", kept.len());
    }
    site.umount()
}

#[test]
fn wrong_mounts_are_refused_in_one_sentence() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    let with = |options: &str| site.mount_command(options);
    let other = |volume: &str, options: &str| {
        let mut command = Command::new("mount");
        command.args(["-t", "fuse.ashlar", volume]).arg(site.point()).args(["-o", options]);
        command
    };
    let cluster = format!("cluster={}", site.cluster().display());
    fs::write(site.outside("file"), "")?;
    for (mut command, names) in [
        (with("shiny"), "shiny"),
        (with("shiny=1,ro"), "shiny"),
        (with("uid=1000"), "uid"),
        (with("cache-size=big"), "cache-size"),
        (with("subdir=/none"), "/none"),
        (with("subdir=../mnt"), "../mnt"),
        (other("photoz", &cluster), "photoz"),
        (other("../photos", &cluster), "../photos"),
        (other(VOLUME, "cluster=/nonexistent/file"), "/nonexistent/file"),
        (other(VOLUME, "rw"), "cluster"),
    ] {
        let said = refused(command.env_remove("ASHLAR_CLUSTER"), PATIENCE)?;
        let lines = said.lines().count();
        ensure!(lines == 1 && said.contains(names), "{command:?} says in {lines} lines: {said}");
        ensure!(!is_mounted(&site.point()), "{command:?} has mounted something");
    }
    site.mount("x-systemd.automount,_netdev,nofail,noauto,user,comment=mine,defaults")?;
    site.umount()
}

#[test]
fn a_directory_of_a_volume_is_mounted_alone() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    site.mount("")?;
    fs::create_dir_all(site.file("a/b/deep"))?;
    fs::write(site.file("a/b/file"), "inside")?;
    fs::write(site.file("a/outside"), "outside")?;
    site.umount()?;
    site.mount("subdir=/a/b")?;
    ensure!(fs::read_to_string(site.file("file"))? == "inside", "another file");
    ensure!(site.file("deep").is_dir() && !site.file("a").exists(), "not the directory alone");
    ensure!(!site.file("../outside").exists(), "the way up leads out of the mount");
    fs::write(site.file("deep/new"), "new")?;
    // It is a mount like any other: asked, remounted, unmounted.
    site.pid()?;
    site.remount("ro")?;
    ensure!(is_read_only(fs::write(site.file("file"), "x")), "a file was written");
    site.umount()?;
    site.mount("")?;
    ensure!(fs::read_to_string(site.file("a/b/deep/new"))? == "new", "it was written elsewhere");
    site.umount()
}

#[test]
fn umount_does_not_lose_what_cannot_be_stored() -> Result<()> {
    let Some(mut site) = Site::served()? else { return Ok(()) };
    site.mount("")?;
    fs::write(site.file("safe"), content(1, 1 << 20))?;
    File::open(site.file("safe"))?.sync_all()?;
    // Of three disks, each can take two parts of a blob; two are too few.
    site.kill_daemons(4)?;
    fs::write(site.file("unsafe"), content(2, 1 << 20))?;
    let mut ours = Command::new(ashlar());
    ours.arg("umount").arg(site.point());
    let mut theirs = Command::new("umount");
    theirs.arg(site.point());
    for command in [&mut theirs, &mut ours] {
        let said = refused(command, REFUSED)?;
        ensure!(said.contains("still mounted") && said.contains("stored"), "{command:?}: {said}");
        ensure!(is_mounted(&site.point()), "{command:?}: it is not mounted any more");
    }
    ensure!(fs::read(site.file("unsafe"))? == content(2, 1 << 20), "the bytes are lost");
    // By force it goes, within a bound, and says what that costs.
    let since = Instant::now();
    let said = refused(Command::new("umount").arg("-f").arg(site.point()), FORCED)?;
    ensure!(said.contains("not stored") || said.contains("could be stored"), "{said}");
    ensure!(!is_mounted(&site.point()), "still mounted {:?} after umount -f", since.elapsed());
    Ok(())
}

#[test]
fn umount_waits_for_a_process_that_is_slow() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    site.mount("")?;
    let pid = site.pid()?;
    fs::write(site.file("file"), content(7, 8 << 20))?;
    kill(pid, Signal::SIGSTOP)?;
    let point = site.point();
    let umount = std::thread::spawn(move || {
        output(Command::new(ashlar()).arg("umount").arg(point), PATIENCE)
    });
    wait_until("umount to call the process", PATIENCE, || {
        let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        table.matches("@ashlar-mount/").count() > 1
    })?;
    ensure!(is_mounted(&site.point()), "unmounted before anything was stored");
    kill(pid, Signal::SIGCONT)?;
    let answer = umount.join().expect("umount was run")?;
    ensure!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    site.mount("")?;
    ensure!(fs::read(site.file("file"))? == content(7, 8 << 20), "other bytes");
    site.umount()
}

#[test]
fn force_frees_who_waits_for_a_mount_that_hangs() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    site.mount("")?;
    let pid = site.pid()?;
    kill(pid, Signal::SIGSTOP)?;
    let path = site.file("new");
    let (started, waits) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let _ = started.send(());
        fs::write(path, "x")
    });
    waits.recv()?;
    let freed = bounded("umount -f of a mount that hangs", 2 * FORCED, {
        let point = site.point();
        // Whoever is inside keeps it busy until it is freed.
        move || output(Command::new("umount").args(["-f", "-l"]).arg(point), FORCED)
    })??;
    let said = String::from_utf8_lossy(&freed.stderr).into_owned();
    ensure!(!is_mounted(&site.point()), "still mounted: {said}");
    let waited = bounded("the one who waits", PATIENCE, move || waiter.join())?;
    ensure!(waited.expect("it does not panic").is_err(), "a write to a frozen mount was taken");
    ensure!(!freed.status.success() && said.contains("does not end"), "it says {said:?}");
    kill(pid, Signal::SIGCONT)?;
    // It stores what it has, and the next mount waits for it.
    site.mount("")?;
    site.umount()
}

#[test]
fn a_remount_does_what_it_is_asked_for_or_refuses_it() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    site.mount("cache-size=32MiB,metrics=127.0.0.1:0")?;
    let other = site.another_cluster()?;
    let with = |options: &str| {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,{options}")]).arg(site.point());
        command
    };
    let ours = |volume: &str, more: &[&str]| {
        let mut command = Command::new(ashlar());
        command.args(["mount", volume]).arg(site.point()).args(["-o", "remount,ro"]).args(more);
        command
    };
    let cluster = site.cluster().display().to_string();
    for (mut command, names) in [
        (ours("letters", &[]), "photos"),
        (ours(VOLUME, &["--cluster", "/nonexistent/file"]), "/nonexistent/file"),
        (ours(VOLUME, &["--cluster", &other]), "other"),
        (ours(VOLUME, &["--cache-size", "1GiB"]), "32MiB"),
        (ours(VOLUME, &["--metrics", "127.0.0.1:9"]), "metrics"),
        (with("ro,cluster=/nonexistent/file"), "/nonexistent/file"),
        (with("ro,dirty-size=100MiB"), "dirty-size"),
        (with("ro,scrub-days=3"), "scrub-days is 14"),
        (with("ro,census-every=2h"), "census-every is 1day"),
        (with("ro,subdir=/elsewhere"), "/elsewhere"),
        (with("ro,log=a=b=c"), "a=b=c"),
    ] {
        let said = refused(command.env_remove("ASHLAR_CLUSTER"), PATIENCE)?;
        ensure!(said.lines().count() == 1 && said.contains(names), "{command:?} says: {said}");
        ensure!(site.shown()?[0] == "rw", "{command:?} was refused, and done all the same");
    }
    // What is as it was is nothing to refuse, however it is written.
    site.remount(&format!("rw,cluster={cluster},cache-size=32768K,metrics=127.0.0.1:0"))?;
    let mut same = vec!["--cluster", cluster.as_str(), "--cache-size", "32MiB"];
    same.extend(["--census-every", "24h", "--scrub-days", "14"]);
    run(&mut ours(VOLUME, &same), PATIENCE)?;
    ensure!(site.shown()?[0] == "ro", "{:?}", site.shown()?);
    site.umount()
}

#[test]
fn an_unmount_a_moment_after_the_mount_waits_for_everything() -> Result<()> {
    let Some(site) = Site::embedded()? else { return Ok(()) };
    for round in 0..10 {
        let mut mount = Command::new(ashlar());
        mount.args(["mount", VOLUME]).arg(site.point()).arg("--cluster").arg(site.cluster());
        let mut mount = mount.spawn()?;
        wait_until("the kernel to show the mount", PATIENCE, || is_mounted(&site.point()))?;
        let mut umount = Command::new(ashlar());
        let said = output(umount.arg("umount").arg(site.point()), PATIENCE)?;
        let words = String::from_utf8_lossy(&said.stderr).into_owned();
        mount.wait()?;
        ensure!(said.status.success() && words.is_empty(), "round {round}: {words}");
        ensure!(!is_mounted(&site.point()), "round {round}: still mounted");
        let mut fsck = Command::new(ashlar());
        // Nobody has it any more.
        run(fsck.args(["fsck", VOLUME, "--cluster"]).arg(site.cluster()), PATIENCE)?;
    }
    Ok(())
}
