//! Promise: `ashlar fsck` tells apart what is lost, what can be restored, and what is only away with disks that do not
//! answer; it reads every byte when that is wanted, checks a volume that is in use as one that is not, looks at the blobs
//! that metadata are in as well, and writes nothing unless it shall repair. `ashlar status` names what is lost by file.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::id::BlobId;
use serde_json::Value;
use tests::binaries::ashlar;
use tests::cluster::{DEMO_VOLUME, Demo, Mode, Setup, Stop, allocated, can_mount};
use tests::machine::Machine;
use tests::process::{PATIENCE, answer, output, shell, wait_until};
use tests::records::{Disks, Role};
use tests::seed::{Seed, content, fill};

/// How long repair may take to see to something on a busy machine.
const SEEN: Duration = Duration::from_secs(120);
/// Bytes of each file: a blob of its own, in four parts of data and two of parity.
const FILE: usize = 256 << 10;

fn demo(mode: Mode) -> Result<Demo> {
    let mount_arguments = match mode {
        Mode::Served => ["--cache-size", "1MiB"].map(str::to_owned).to_vec(),
        _ => Vec::new(),
    };
    Demo::start(Setup { mount_arguments, size: "4GiB", ..Setup::new(mode) })
}

/// Writes a file that is stored on its own.
fn write(demo: &Demo, number: u64) -> Result<()> {
    let mut file = File::create(demo.file(format!("file-{number}")))?;
    file.write_all(&content(number, FILE))?;
    Ok(file.sync_all()?)
}

/// What fsck says: its exit code, and what it has found.
fn fsck(cluster: &Path, words: &[&str]) -> Result<(i32, Value)> {
    let mut command = Command::new(ashlar());
    command.args(["fsck", DEMO_VOLUME, "--json", "--cluster"]).arg(cluster).args(words);
    let answer = output(&mut command, 4 * PATIENCE)?;
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    let why = String::from_utf8_lossy(&answer.stderr).into_owned();
    let found = serde_json::from_str(&said).with_context(|| format!("{words:?}: {said}{why}"))?;
    Ok((answer.status.code().context("it was killed")?, found))
}

/// The same in words, to stdout and to stderr.
fn told(cluster: &Path, words: &[&str]) -> Result<(String, String)> {
    let mut command = Command::new(ashlar());
    command.args(["fsck", DEMO_VOLUME, "--cluster"]).arg(cluster).args(words);
    let answer = output(&mut command, 4 * PATIENCE)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&answer.stdout), text(&answer.stderr)))
}

/// How many are lost, can be restored, and are away; and the exit code.
fn three(cluster: &Path, words: &[&str]) -> Result<(i32, [u64; 3], Value)> {
    let (code, found) = fsck(cluster, words)?;
    ensure!(found["problem_count"] == 0, "{words:?}: {found}");
    let count = |what: &str| found[what]["count"].as_u64().unwrap_or(u64::MAX);
    Ok((code, ["lost", "restorable", "away"].map(count), found))
}

/// Sentences about blobs of one kind.
fn whys<'a>(found: &'a Value, kind: &str) -> Vec<&'a str> {
    let blobs = found[kind]["blobs"].as_array().map(Vec::as_slice).unwrap_or_default();
    blobs.iter().filter_map(|blob| blob["why"].as_str()).collect()
}

/// Flips a bit of some parts of data of a file, the first ones, wherever they lie.
fn damage(demo: &Demo, number: u64, parts: u64) -> Result<()> {
    let mut damaged = 0;
    for part in 0..parts {
        let mut needle = [0; 64];
        fill(number, part * (FILE as u64 / 4) + 5000, &mut needle);
        for disk in 0..demo.setup().disks {
            for path in demo.block_files(disk)? {
                let used = allocated(&path)?.min(fs::metadata(&path)?.len());
                let file = File::options().read(true).write(true).open(&path)?;
                let mut bytes = vec![0; usize::try_from(used)?];
                file.read_exact_at(&mut bytes, 0)?;
                let found = bytes.windows(needle.len()).position(|window| window == needle);
                let Some(at) = found else { continue };
                file.write_all_at(&[bytes[at] ^ 1], at as u64)?;
                file.sync_all()?;
                damaged += 1;
            }
        }
    }
    ensure!(damaged == parts, "{damaged} of {parts} parts of file {number} were found");
    Ok(())
}

#[test]
fn what_is_lost_what_can_be_restored_and_what_is_away_are_three_things() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("checks");
    let mut demo = demo(Mode::Served)?;
    (0..20).try_for_each(|number| write(&demo, number))?;
    demo.until_healthy(SEEN)?;
    demo.stop(Stop::Umount)?;
    let cluster = demo.cluster_file();
    let (code, counts, found) = three(&cluster, &["--data"])?;
    ensure!((code, counts) == (0, [0, 0, 0]), "{found}");
    let spare = |kind: &str| found["spare"][kind].as_array().cloned().unwrap_or_default();
    let can_lose_two = |counts: Vec<Value>| counts[..2] == [0, 0] && counts[2].as_u64() > Some(0);
    ensure!(spare("data").len() == 3 && can_lose_two(spare("data")), "{found}");
    ensure!(spare("metadata").len() == 3 && can_lose_two(spare("metadata")), "{found}");

    // One disk does not answer: what it has is away.
    let disk = seed.below(8) as usize;
    demo.kill_daemon(disk)?;
    let (code, [lost, restorable, away], found) = three(&cluster, &[])?;
    ensure!((code, lost, restorable) == (1, 0, 0) && away > 0, "{found}");
    let (said, _) = told(&cluster, &[])?;
    ensure!(said.contains("what is away is not lost"), "{said}");
    // Three do not: nothing can be looked at, and nothing is said to be lost.
    let others = [(disk + 1) % 8, (disk + 2) % 8];
    others.iter().try_for_each(|disk| demo.kill_daemon(*disk))?;
    let (said, why) = told(&cluster, &["--lost"])?;
    ensure!(said.is_empty() && why.lines().count() == 1, "{said}{why}");
    ensure!(why.contains("3 of 8 disks do not answer") && why.contains("bring them back"), "{why}");
    ensure!(why.contains("none of it is known to be lost"), "{why}");

    // They are back, and one has lost all it had: that can be restored.
    shell(&demo.disk(disk), "rm -rf index.redb blocks/*", PATIENCE)?;
    others.iter().chain([&disk]).try_for_each(|disk| demo.restart_daemon(*disk))?;
    let (code, [lost, restorable, away], found) = three(&cluster, &[])?;
    ensure!((code, lost, away) == (1, 0, 0) && restorable > 0, "{found}");
    let (_, again, found) = three(&cluster, &[])?;
    ensure!(again == [0, restorable, 0], "it has changed something: {found}");
    let (code, counts, found) = three(&cluster, &["--repair"])?;
    ensure!((code, counts) == (1, [0, 0, 0]), "{found}");
    ensure!(found["mended_count"].as_u64() > Some(0), "{found}");
    let (code, counts, found) = three(&cluster, &["--repair", "--data"])?;
    ensure!((code, counts) == (0, [0, 0, 0]), "{found}");

    // Of one file too little is left.
    damage(&demo, 7, 3)?;
    let (code, counts, found) = three(&cluster, &[])?;
    ensure!((code, counts) == (0, [0, 0, 0]), "nothing was read: {found}");
    let (code, counts, found) = three(&cluster, &["--data", "--lost"])?;
    ensure!((code, counts) == (1, [1, 0, 0]), "{found}");
    ensure!(
        found["files"][0]["path"] == "/file-7" && found["files"][0]["why"] == "lost",
        "{found}"
    );
    let (code, counts, found) = three(&cluster, &["--data", "--repair"])?;
    ensure!((code, counts) == (4, [1, 0, 0]), "{found}");
    Ok(())
}

#[test]
fn every_copy_is_read_of_metadata_always_and_of_data_when_that_is_wanted() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("rotten");
    let mut demo = demo(Mode::Served)?;
    (0..20).try_for_each(|number| write(&demo, number))?;
    demo.until_healthy(SEEN)?;
    demo.stop(Stop::Umount)?;
    let (cluster, disk) = (demo.cluster_file(), seed.below(8) as usize);
    for path in demo.block_files(disk)? {
        let used = allocated(&path)?.min(fs::metadata(&path)?.len());
        let file = File::options().read(true).write(true).open(&path)?;
        for page in (0..used).step_by(4096) {
            let (mut byte, at) = ([0], page + seed.below(4096));
            if file.read_at(&mut byte, at)? == 1 {
                file.write_all_at(&[byte[0] ^ 1], at)?;
            }
        }
        file.sync_all()?;
    }
    let place = demo.address(disk)?.to_owned();
    let (_, [lost, of_metadata, away], found) = three(&cluster, &[])?;
    ensure!(lost == 0 && away == 0, "{found}");
    println!("{of_metadata} blobs of metadata have a copy on disk {disk}");
    let blobs = found["restorable"]["blobs"].as_array().context("blobs")?;
    ensure!(blobs.iter().all(|blob| blob["metadata"] == true), "data were read: {found}");
    let (code, [lost, all, away], found) = three(&cluster, &["--data"])?;
    ensure!((code, lost, away) == (1, 0, 0) && all > of_metadata, "{found}");
    let whys = whys(&found, "restorable");
    ensure!(whys.iter().all(|why| why.contains(&place)), "not by place: {found}");
    // Parity as well as data: of 20 blobs on 8 disks some have a part of parity there.
    let of_part = |part: usize| whys.iter().any(|why| why.contains(&format!("of part {part} at")));
    ensure!((4..6).any(of_part) && (0..4).any(of_part), "{found}");
    let (code, counts, found) = three(&cluster, &["--data", "--repair"])?;
    ensure!((code, counts) == (1, [0, 0, 0]), "{found}");
    let (code, counts, found) = three(&cluster, &["--data"])?;
    ensure!((code, counts) == (0, [0, 0, 0]), "{found}");
    demo.mount()?;
    for number in 0..20 {
        let bytes = fs::read(demo.file(format!("file-{number}")))?;
        ensure!(bytes == content(number, FILE), "file {number} has other bytes");
    }
    demo.stop(Stop::Umount)
}

/// Checked again and again while it is used, nothing is found.
fn in_use(mode: Mode, cluster: &Path, demo: &Demo) -> Result<()> {
    let (stop, written) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<()> {
            for number in 0u64.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                write(demo, number % 30)?;
                fs::rename(demo.file(format!("file-{}", number % 30)), demo.file("renamed"))?;
                fs::create_dir(demo.file(format!("dir-{number}")))?;
                if number % 3 == 0 {
                    fs::remove_file(demo.file("renamed"))?;
                }
                written.store(true, Ordering::SeqCst);
            }
            Ok(())
        });
        let checks = || -> Result<()> {
            while !written.load(Ordering::SeqCst) && !writer.is_finished() {
                std::thread::yield_now();
            }
            for round in 0..6 {
                let words: &[&str] =
                    if round % 2 == 0 { &["--online"] } else { &["--online", "--data"] };
                let (code, counts, found) = three(cluster, words)?;
                ensure!((code, counts) == (0, [0, 0, 0]), "{mode:?}, round {round}: {found}");
                ensure!(found["leaked"] == 0 && found["to_sweep"] == 0, "{mode:?}: {found}");
            }
            Ok(())
        };
        let checked = checks();
        stop.store(true, Ordering::SeqCst);
        writer.join().expect("the writer does not panic")?;
        checked
    })
}

#[test]
fn a_volume_is_checked_by_the_mount_that_has_its_disks_while_it_is_used() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = demo(Mode::Embedded)?;
    let cluster = demo.cluster_file();
    let (said, why) = told(&cluster, &[])?;
    ensure!(said.is_empty() && why.contains("is mounted at") && why.contains("--online"), "{why}");
    in_use(Mode::Embedded, &cluster, &demo)?;
    // Nothing is put right where nothing is wrong.
    let (code, counts, found) = three(&cluster, &["--online", "--repair"])?;
    ensure!((code, counts) == (0, [0, 0, 0]) && found["mended_count"] == 0, "{found}");
    demo.stop(Stop::Umount)?;
    let (code, counts, found) = three(&cluster, &["--online"])?;
    ensure!((code, counts) == (0, [0, 0, 0]), "of one that is mounted nowhere: {found}");
    let (said, why) = told(&cluster, &["--online", "--repair"])?;
    ensure!(said.is_empty() && why.contains("is not mounted on this machine"), "{said}{why}");
    Ok(())
}

#[test]
fn a_volume_that_another_machine_has_mounted_is_checked_beside_it() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = demo(Mode::Served)?;
    let other = Machine::new(&demo)?;
    in_use(Mode::Served, &other.cluster_file(), &demo)?;
    // What is away is told of by the mount, too.
    demo.until_healthy(SEEN)?;
    demo.kill_daemon(4)?;
    demo.up(7, SEEN)?;
    for cluster in [demo.cluster_file(), other.cluster_file()] {
        let (code, [lost, restorable, away], found) = three(&cluster, &["--online"])?;
        ensure!((code, lost, restorable) == (1, 0, 0) && away > 0, "{found}");
        ensure!(found["outage"].as_str().is_some_and(|said| said.contains("7 of 8")), "{found}");
    }
    demo.restart_daemon(4)?;
    demo.all_up(SEEN)?;
    demo.stop(Stop::Umount)
}

/// Flips a bit of one part of each of these blobs, on a disk that is not `but`.
fn rot_one_part_of_each(demo: &Demo, blobs: &[BlobId], but: usize, seed: &mut Seed) -> Result<()> {
    let disks = Disks::read(demo.disks())?;
    for blob in blobs {
        let copies = disks.copies_by_disk(*blob);
        let mut others = copies.into_iter().filter(|(disk, _)| *disk != but);
        let (_, record) = others.next().with_context(|| format!("{blob} is nowhere"))?;
        record.flip(seed.next_u64())?;
    }
    Ok(())
}

/// How many blobs repair has mended, by itself.
fn mended_by_itself(demo: &Demo) -> Result<u64> {
    demo.heal()?.1["mended_blobs"].as_u64().context("blobs that were mended")
}

/// Parts are gone and bytes flipped on disks under their daemons, while the volume is mounted. What one finds repair is told
/// of, too, which asks disks every few seconds: so whoever is faster mends it.
#[test]
fn damage_under_a_mount_is_three_things_and_what_can_be_restored_is() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("damage under a mount");
    let mut demo = demo(Mode::Served)?;
    (0..20).try_for_each(|number| write(&demo, number))?;
    demo.until_healthy(SEEN)?;
    let cluster = demo.cluster_file();
    let disks = Disks::read(demo.disks())?;
    let blobs = disks.blobs(Role::Data);
    ensure!(blobs.len() >= 20, "not one for each file: {blobs:?}");

    // A disk does not answer; of one blob a single part is left, which is too few whatever the disk may have; and the blobs
    // that are looked at last have rot.
    let silent = seed.below(8) as usize;
    let copies = disks.copies(blobs[3]);
    ensure!(copies.len() == 6, "{copies:?}");
    copies.iter().skip(1).try_for_each(|record| record.flip(seed.next_u64()))?;
    rot_one_part_of_each(&demo, &blobs[blobs.len() - 3..], silent, &mut seed)?;
    demo.kill_daemon(silent)?;
    demo.up(7, SEEN)?;
    let words = ["--online", "--data", "--lost"];
    let (code, [lost, restorable, away], found) = three(&cluster, &words)?;
    ensure!(code == 1 && lost == 1 && away > 0, "{found}");
    ensure!((1..=3).contains(&restorable), "{found}");
    for (kind, said) in [
        ("lost", "no good copy is left of parts"),
        ("restorable", "is damaged"),
        ("away", "may be on disks that are away"),
    ] {
        let whys = whys(&found, kind);
        ensure!(!whys.is_empty() && whys.iter().all(|why| why.contains(said)), "{kind}: {found}");
    }
    ensure!(found["files"][0]["why"] == "lost", "{found}");
    let file = found["files"][0]["path"].as_str().context("a file that is lost")?.to_owned();
    let (said, _) = told(&cluster, &words)?;
    let named = format!(" bytes of {file}, from 0 on");
    for line in ["1 blobs are lost, ", "what is away is not lost", named.as_str()] {
        ensure!(said.contains(line), "{line:?} is not in {said}");
    }

    // It is back, another one has lost all it had, and there is more rot.
    demo.restart_daemon(silent)?;
    demo.all_up(SEEN)?;
    let emptied = (silent + 1 + seed.below(7) as usize) % 8;
    demo.kill_daemon(emptied)?;
    demo.up(7, SEEN)?;
    shell(&demo.disk(emptied), "rm -rf index.redb blocks/*", PATIENCE)?;
    demo.restart_daemon(emptied)?;
    demo.all_up(SEEN)?;
    let before = mended_by_itself(&demo)?;
    rot_one_part_of_each(&demo, &blobs[10..14], emptied, &mut seed)?;
    let (code, counts, found) = three(&cluster, &["--online", "--data", "--repair"])?;
    ensure!((code, counts) == (4, [1, 0, 0]), "{found}");
    let mended = found["mended_count"].as_u64().context("a count")?;
    let by_itself = mended_by_itself(&demo)? - before;
    println!("fsck has mended {mended}, and repair by itself {by_itself}");
    ensure!(mended + by_itself >= 4, "{by_itself} by itself: {found}");

    // What is lost goes with its file, and nothing is left to be found.
    fs::remove_file(demo.file(file.trim_start_matches('/')))?;
    demo.drop_caches()?;
    wait_until("the file's bytes to go", SEEN, || {
        three(&cluster, &words).is_ok_and(|(_, counts, _)| counts == [0, 0, 0])
    })?;
    for words in [&["--online", "--data"][..], &["--online", "--data", "--repair"]] {
        let (code, counts, found) = three(&cluster, words)?;
        ensure!((code, counts) == (0, [0, 0, 0]) && found["mended_count"] == 0, "{found}");
        let lose_two =
            |kind: &str| found["spare"][kind].as_array().map(|counts| counts[..2] == [0, 0]);
        ensure!(lose_two("data") == Some(true) && lose_two("metadata") == Some(true), "{found}");
    }
    for number in (0..20).filter(|number| file != format!("/file-{number}")) {
        let bytes = fs::read(demo.file(format!("file-{number}")))?;
        ensure!(bytes == content(number, FILE), "file {number} has other bytes");
    }
    demo.stop(Stop::Umount)
}

#[test]
fn status_names_what_is_lost_by_file_and_says_of_what_is_away_that_it_is_not() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = demo(Mode::Served)?;
    (0..20).try_for_each(|number| write(&demo, number))?;
    demo.until_healthy(SEEN)?;
    let status =
        |demo: &Demo| answer(Command::new(ashlar()).arg("status").arg(demo.path()), PATIENCE);
    damage(&demo, 3, 3)?;
    demo.drop_caches()?;
    ensure!(fs::read(demo.file("file-3")).is_err(), "it can be read");
    let named = |report: &Value| report["lost"].as_array().is_some_and(|lost| !lost.is_empty());
    demo.until_heal("what is lost is named", SEEN, named)?;
    let (code, said) = status(&demo)?;
    ensure!(code == 2 && said.contains("bytes of /file-3\n"), "{said}");
    ensure!(!said.contains("bytes of /file-4"), "{said}");
    let names = &demo.status()?["mount"]["lost_files"];
    ensure!(names["named"][0] == "/file-3" && names["more"] == 0, "{names}");
    let (code, counts, found) = three(&demo.cluster_file(), &["--online", "--data", "--lost"])?;
    ensure!((code, counts) == (1, [1, 0, 0]), "{found}");
    ensure!(found["files"][0]["path"] == "/file-3", "{found}");
    // It goes with the file.
    fs::remove_file(demo.file("file-3"))?;
    for disk in [1, 2, 6] {
        demo.kill_daemon(disk)?;
    }
    let away = |report: &Value| report["counts"]["unavailable"].as_u64() > Some(0);
    demo.until_heal("blobs are away", SEEN, away)?;
    let (code, said) = status(&demo)?;
    ensure!(code == 2 && said.contains("they are not lost"), "{said}");
    for disk in [1, 2, 6] {
        demo.restart_daemon(disk)?;
    }
    demo.all_up(SEEN)?;
    demo.stop(Stop::Umount)
}
