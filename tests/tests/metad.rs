//! Promise: a volume that a metad leads is mounted as one that the mount leads itself, by one mount at a time; what was synced is
//! there whoever of them is killed, a mount goes on where its metad is started again, with all that it was told, and whoever has lost
//! the volume is told so.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use tests::accounts::Accounts;
use tests::binaries;
use tests::cluster::{DEMO_VOLUME, Demo, Mode, Setup, Stop, can_mount};
use tests::metad::{self, Metad};
use tests::process::{PATIENCE, output, shell, wait_until};
use tests::seed::content;
use tests::tree::{assert_same, manifest};

/// How long whoever has the volume may be silent, and what else it takes until that is noticed.
const OVER: Duration = Duration::from_secs(30);
/// How long a mount may stand still when its metad is killed and started again.
const GOES_ON: Duration = Duration::from_secs(5);

/// A mounted demo whose volume a metad leads.
fn mounted() -> Result<(Metad, Demo)> {
    metad::mounted(Setup::new(Mode::Served))
}

/// Ends all in good order, and checks all that is stored.
fn end(mut demo: Demo, metad: Metad) -> Result<()> {
    demo.stop(Stop::Umount)?;
    metad.stop()?;
    demo.switch(Mode::Embedded)?;
    demo.fsck_data()
}

/// What the mount's root says of inodes in use.
fn inodes(demo: &Demo) -> Result<u64> {
    demo.status()?["mount"]["inodes"].as_u64().context("inodes")
}

#[test]
fn what_is_written_through_a_metad_is_there_for_whoever_mounts_next() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (metad, mut demo) = mounted()?;
    ensure!(demo.status()?["mount"]["epoch"].is_null(), "the mount leads the volume itself");
    // Whoever speaks of something else is nobody's trouble.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\xa5ASHLMD1 and nothing of use", &[0; 4096]] {
        let mut stranger = TcpStream::connect(metad.address())?;
        stranger.write_all(bytes)?;
    }
    let long = content(7, 5 << 20);
    fs::create_dir(demo.file("dir"))?;
    fs::write(demo.file("dir/long"), &long)?;
    for number in 0..300 {
        fs::write(demo.file(format!("dir/{number}")), format!("number {number}"))?;
    }
    shell(
        &demo.path(),
        "cd dir; ln 1 link; mv 2 moved; rm 3; chmod 600 4; ln -s 5 symlink",
        PATIENCE,
    )?;
    let names = fs::read_dir(demo.file("dir"))?.count();
    ensure!(names == 1 + 300 + 2 - 1, "{names} names");
    File::open(demo.file("dir/long"))?.sync_all()?;
    demo.drop_caches()?;
    ensure!(fs::read(demo.file("dir/long"))? == long, "other bytes come back");
    let before = manifest(&demo.path())?;
    remount(&demo)?;
    demo.remount()?;
    assert_same("mounted again", &before, &demo.path())?;
    // The same volume without a metad.
    demo.stop(Stop::Umount)?;
    metad.stop()?;
    demo.switch(Mode::Embedded)?;
    demo.mount()?;
    assert_same("mounted without a metad", &before, &demo.path())?;
    demo.stop(Stop::Umount)?;
    demo.fsck_data()
}

#[test]
fn one_mount_at_a_time_has_the_volume_and_a_killed_one_not_for_long() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (metad, mut demo) = mounted()?;
    let second = demo.outside("second");
    fs::create_dir(&second)?;
    let refused = refused(&demo, &second)?;
    let by = format!("in use by mount {}", demo.path().display());
    ensure!(refused.contains(&by), "{refused}");
    let refused = metad.refused_beside_it()?;
    ensure!(refused.contains(DEMO_VOLUME), "{refused}");
    fs::write(demo.file("kept"), "synced")?;
    File::open(demo.file("kept"))?.sync_all()?;
    // Unlinked and open when its mount is killed: nobody has it open then.
    let before = inodes(&demo)?;
    let mut open = File::create_new(demo.file("open"))?;
    open.write_all(&content(1, 1 << 20))?;
    open.sync_all()?;
    fs::remove_file(demo.file("open"))?;
    File::open(demo.path())?.sync_all()?;
    ensure!(inodes(&demo)? == before + 1, "it lives as long as it is open");
    demo.kill_mount()?;
    drop(open);
    demo.mount().with_context(|| metad.said())?;
    ensure!(fs::read(demo.file("kept"))? == b"synced", "what was synced is not there");
    wait_until("what was open to be gone", PATIENCE, || {
        inodes(&demo).is_ok_and(|now| now == before)
    })?;
    // One that is alive is ended when somebody says so, and hears of it.
    let mut command = mount(&demo, &second);
    let log = demo.outside("second.log");
    let taken = command.arg("--take-over");
    let mut taken = tests::process::Process::start_ready(taken, "mounted", &log)?;
    ensure!(fs::read(second.join("kept"))? == b"synced", "what was synced is not there");
    let late = demo.file("late");
    wait_until("the first mount to hear that it has lost the volume", OVER, || {
        fs::write(&late, "late").is_err_and(|e| e.raw_os_error() == Some(Errno::EIO as i32))
    })?;
    ensure!(!second.join("late").exists(), "it changes what another has by now");
    taken.signal(nix::sys::signal::Signal::SIGTERM)?;
    ensure!(taken.wait(PATIENCE)?.success(), "{}", taken.said());
    demo.kill_mount()?;
    demo.mount()?;
    ensure!(fs::read(demo.file("kept"))? == b"synced", "what was synced is not there");
    demo.stop(Stop::Umount)?;
    metad.stop()
}

/// Has the mount read its cluster file again, as after a change of it. That is root's to do.
fn remount(demo: &Demo) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let mut command = Command::new(binaries::ashlar());
    command.arg("mount").arg(DEMO_VOLUME).arg(demo.path()).args(["-o", "remount"]);
    command.arg("--cluster").arg(demo.cluster_file());
    let answer = output(&mut command, PATIENCE)?;
    ensure!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    Ok(())
}

/// The command that mounts the volume at another place.
fn mount(demo: &Demo, at: &Path) -> Command {
    let mut command = Command::new(binaries::ashlar());
    command.arg("mount").arg(DEMO_VOLUME).arg(at).arg("--foreground");
    command.arg("--cluster").arg(demo.cluster_file());
    command
}

/// What whoever mounts it there is told.
fn refused(demo: &Demo, at: &Path) -> Result<String> {
    let answer = output(&mut mount(demo, at), 2 * PATIENCE)?;
    ensure!(answer.status.code().is_some_and(|code| code != 0), "it ended with {}", answer.status);
    Ok(String::from_utf8_lossy(&answer.stderr).into_owned())
}

/// Makes files in a directory until told to stop, each with its number in it, and half of them under another name in the end.
/// Answers their names, and how long one of them took at most. What is done twice, or is not done, is an error.
fn make_files(dir: &Path, made: &AtomicU64, stop: &AtomicBool) -> Result<(Vec<String>, Duration)> {
    let (mut names, mut longest) = (Vec::new(), Duration::ZERO);
    while !stop.load(Ordering::SeqCst) {
        let number = made.load(Ordering::SeqCst);
        let (name, began) = (format!("{number:06}"), Instant::now());
        let mut file = File::create_new(dir.join(&name)).with_context(|| name.clone())?;
        file.write_all(name.as_bytes()).with_context(|| name.clone())?;
        drop(file);
        let last = if number.is_multiple_of(2) { name.clone() } else { format!("{name} moved") };
        if last != name {
            fs::rename(dir.join(&name), dir.join(&last)).with_context(|| name.clone())?;
            ensure!(fs::symlink_metadata(dir.join(&name)).is_err(), "{name} is there twice");
        }
        longest = longest.max(began.elapsed());
        names.push(last);
        made.fetch_add(1, Ordering::SeqCst);
    }
    Ok((names, longest))
}

/// Somebody who makes files.
struct Maker {
    dir: PathBuf,
    made: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(Vec<String>, Duration)>>,
}

impl Maker {
    fn start(demo: &Demo) -> Result<Self> {
        let dir = demo.file("made");
        fs::create_dir(&dir)?;
        let (made, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (making, stopped, there) = (made.clone(), stop.clone(), dir.clone());
        let thread = thread::spawn(move || make_files(&there, &making, &stopped));
        Ok(Self { dir, made, stop, thread })
    }

    /// Returns when some more are made, or it has failed.
    fn goes_on(&self) -> Result<()> {
        let before = self.made.load(Ordering::SeqCst);
        wait_until("files to be made", PATIENCE, || {
            self.made.load(Ordering::SeqCst) > before + 20 || self.thread.is_finished()
        })
    }

    /// Ends it: all that it was told is there, once, and it never stood still for long.
    fn end(self, demo: &Demo, bound: Duration) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        let (mut names, longest) = self.thread.join().expect("it does not panic")?;
        ensure!(longest < bound, "somebody waited for {longest:?}");
        demo.drop_caches()?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name().into_string().expect("a name that was made here");
            let content = fs::read_to_string(self.dir.join(&name))?;
            ensure!(name.starts_with(&content) && content.len() == 6, "{name} holds {content:?}");
            found.push(name);
        }
        names.sort();
        found.sort();
        ensure!(found == names, "{} names were told, and {} are there", names.len(), found.len());
        Ok(())
    }
}

#[test]
fn a_metad_that_is_killed_and_started_again_goes_on_with_its_mount_and_all_it_was_told()
-> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (mut metad, mut demo) = mounted()?;
    let kept = content(3, 3 << 20);
    fs::write(demo.file("kept"), &kept)?;
    File::open(demo.file("kept"))?.sync_all()?;
    let maker = Maker::start(&demo)?;
    for round in 0..4 {
        maker.goes_on()?;
        // At some other moment each time, of what is gathered for the journal too.
        thread::sleep(Duration::from_millis(170 * round));
        metad.kill_9_and_start_again().with_context(|| metad.said())?;
    }
    maker.goes_on()?;
    maker.end(&demo, GOES_ON)?;
    ensure!(fs::read(demo.file("kept"))? == kept, "it is not as it was synced");
    // What it was told is there for whoever mounts next, too.
    let before = manifest(&demo.path())?;
    demo.remount()?;
    assert_same("mounted again", &before, &demo.path())?;
    end_unclean(demo, metad)
}

#[test]
fn a_metad_that_stands_by_goes_on_with_the_mount_of_one_that_is_killed() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    // On the same machine, and as if on another one: there it has to be silent for a while.
    for (elsewhere, bound) in [(false, GOES_ON), (true, 2 * GOES_ON)] {
        let setup = Setup::new(Mode::Served);
        let (first, second, mut demo) = metad::mounted_with_standby(setup, elsewhere)?;
        let maker = Maker::start(&demo)?;
        maker.goes_on()?;
        first.kill_9()?;
        maker.goes_on().with_context(|| second.said())?;
        maker.end(&demo, bound)?;
        let before = manifest(&demo.path())?;
        demo.remount()?;
        assert_same("mounted again", &before, &demo.path())?;
        end_unclean(demo, second)?;
    }
    Ok(())
}

#[test]
fn a_metad_that_stands_by_goes_on_with_the_mount_of_one_that_stands_still() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let setup = Setup::new(Mode::Served);
    let (first, second, mut demo) = metad::mounted_with_standby(setup, true)?;
    let maker = Maker::start(&demo)?;
    maker.goes_on()?;
    first.pause()?;
    maker.goes_on().with_context(|| second.said())?;
    // What was asked of it and lies there is nobody's any more.
    first.resume_deposed()?;
    maker.goes_on().with_context(|| second.said())?;
    // Its silence is noticed by the answer to a sign of life.
    maker.end(&demo, 3 * GOES_ON)?;
    let before = manifest(&demo.path())?;
    demo.remount()?;
    assert_same("mounted again", &before, &demo.path())?;
    end_unclean(demo, second)
}

/// Ends all in good order, where somebody was killed before: what that one left is swept some time later.
fn end_unclean(mut demo: Demo, metad: Metad) -> Result<()> {
    demo.stop(Stop::Umount)?;
    metad.stop()
}

#[test]
fn what_is_said_where_the_volume_is_led_counts_for_its_mount() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (metad, demo) = mounted()?;
    let said = Accounts(&demo).say("volume set --trash-days 7")?;
    ensure!(said.contains("for 7 days"), "{said}");
    let mut number = 0;
    // It hears of it with its next sign of life.
    wait_until("what is deleted to be in the trash", OVER, || {
        number += 1;
        let file = demo.file(format!("deleted {number}"));
        let deleted = fs::write(&file, "deleted").and_then(|()| fs::remove_file(&file));
        let listed = Accounts(&demo).say("trash list --json").unwrap_or_default();
        deleted.is_ok() && listed.contains("deleted ")
    })?;
    Accounts(&demo).say("trash empty")?;
    let listed = Accounts(&demo).say("trash list --json")?;
    ensure!(!listed.contains("deleted "), "{listed}");
    end(demo, metad)
}

#[test]
fn disks_that_only_a_mount_can_open_are_refused() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    demo.stop(Stop::Umount)?;
    let mut command = Command::new(binaries::ashlar());
    command.args(["metad", "run", "--listen", "127.0.0.1:0", "--cluster"]).arg(demo.cluster_file());
    let answer = output(&mut command, PATIENCE)?;
    let said = String::from_utf8_lossy(&answer.stderr);
    ensure!(answer.status.code() == Some(1) && said.contains("serve it by storaged"), "{said}");
    Ok(())
}
