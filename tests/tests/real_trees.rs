//! Promise: real programs copy real trees in and out, and every byte is equal: at once, with the page
//! cache dropped, and after unmount and mount.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::{PATIENCE, bounded, shell};
use tests::seed::{Seed, fill, first_difference};
use tests::tree::{Manifest, Source, assert_same, assert_same_content, manifest};

/// Memory that a mount, and each daemon, may take at the default settings.
const MOUNT_MEMORY: u64 = 512 << 20;
const DAEMON_MEMORY: u64 = 128 << 20;
/// For one program over a tree of thousands of files, on a busy machine.
const LONG: Duration = Duration::from_secs(180);

#[test]
fn copied_trees_are_equal_embedded() -> Result<()> {
    copied_trees_are_equal(Mode::Embedded, Stop::Interrupt)
}

#[test]
fn copied_trees_are_equal_with_daemons() -> Result<()> {
    copied_trees_are_equal(Mode::Daemons, Stop::AshlarUmount)
}

fn copied_trees_are_equal(mode: Mode, stop: Stop) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let source = Source::gather()?;
    let original = manifest(source.path())?;
    let mut demo = Demo::start(Setup::new(mode))?;
    let mount = demo.path();
    let from = source.path().display();
    shell(&mount, &format!("cp -a {from} cp"), LONG)?;
    shell(&mount, &format!("rsync -aH {from}/ rsync/"), LONG)?;
    shell(&mount, &format!("mkdir tar && tar cf - -C {from} . | tar xf - -C tar"), LONG)?;
    let again = shell(&mount, &format!("rsync -aH --itemize-changes {from}/ rsync/"), LONG)?;
    ensure!(again.is_empty(), "the second rsync transferred:\n{again}");
    git_clone(&demo, source.path())?;
    all_equal("at once", &mount, &original)?;
    demo.drop_caches()?;
    all_equal("without page cache", &mount, &original)?;
    let again = shell(&mount, &format!("rsync -aH --checksum -i {from}/ rsync/"), LONG)?;
    ensure!(again.is_empty(), "rsync by checksum transferred:\n{again}");

    demo.stop(stop)?;
    demo.mount()?;
    all_equal("mounted again", &mount, &original)?;
    let again = shell(&mount, &format!("rsync -aH -i {from}/ rsync/"), LONG)?;
    ensure!(again.is_empty(), "rsync after the remount transferred:\n{again}");
    shell(&mount, "git -C git fsck --full && test -z \"$(git -C git status --short)\"", LONG)?;
    shell(&mount, "rm -rf cp rsync tar git && test -z \"$(ls -A)\"", LONG)?;
    demo.stop(Stop::Umount)
}

/// Makes a repository of the tree outside and clones it into the mount.
fn git_clone(demo: &Demo, source: &Path) -> Result<()> {
    let repository = demo.outside("repository");
    let work = format!(
        "cp -a {} {repo} && cd {repo} && find . -name '.git*' -exec rm -rf {{}} + \
         && git -c init.defaultBranch=main init -q . && git add -A -f . \
         && git -c user.name=t -c user.email=t@localhost commit -q -m tree",
        source.display(),
        repo = repository.display()
    );
    shell(&demo.outside(""), &work, LONG)?;
    let clone =
        format!("git clone -q --no-local {} git && git -C git fsck --full", repository.display());
    shell(&demo.path(), &clone, LONG)?;
    let tree = |root: &Path| -> Result<Manifest> {
        Ok(manifest(root)?.into_iter().filter(|(name, _)| !name.starts_with(".git")).collect())
    };
    let cloned = demo.file("git-tree");
    shell(&demo.path(), "cp -a git git-tree && rm -rf git-tree/.git", LONG)?;
    assert_same_content("git clone", &tree(&repository)?, &cloned)?;
    shell(&demo.path(), "rm -rf git-tree", LONG).map(drop)
}

fn all_equal(when: &str, mount: &Path, original: &Manifest) -> Result<()> {
    for copy in ["cp", "rsync", "tar"] {
        let (what, copy, original) =
            (format!("{copy}, {when}"), mount.join(copy), original.clone());
        // tar without -a knows no more of times than their seconds; every other field is compared.
        let loose = what.starts_with("tar");
        bounded(&what.clone(), LONG, move || {
            if loose {
                assert_same_content(&what, &original, &copy)
            } else {
                assert_same(&what, &original, &copy)
            }
        })??;
    }
    Ok(())
}

#[test]
fn two_gib_through_dd_are_equal_embedded() -> Result<()> {
    two_gib_through_dd_are_equal(Mode::Embedded)
}

#[test]
fn two_gib_through_dd_are_equal_with_daemons() -> Result<()> {
    two_gib_through_dd_are_equal(Mode::Daemons)
}

fn two_gib_through_dd_are_equal(mode: Mode) -> Result<()> {
    const LEN: u64 = 2 << 30;
    if !can_mount() {
        return Ok(());
    }
    let stamp = Seed::announced("dd").next_u64();
    let mut demo = Demo::start(Setup::new(mode))?;
    let file = demo.file("big");
    let mut dd = Command::new("dd")
        .arg(format!("of={}", file.display()))
        .args(["bs=1M", "iflag=fullblock", "conv=fsync", "status=none"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut pipe = dd.stdin.take().expect("stdin is piped");
    bounded("dd into the mount", LONG, move || -> Result<()> {
        let mut chunk = vec![0; 1 << 20];
        for offset in (0..LEN).step_by(chunk.len()) {
            fill(stamp, offset, &mut chunk);
            pipe.write_all(&chunk)?;
        }
        drop(pipe);
        ensure!(dd.wait()?.success(), "dd failed");
        Ok(())
    })??;
    ensure!(fs::metadata(&file)?.len() == LEN, "dd wrote another length");
    demo.drop_caches()?;
    assert_stamped("without page cache", &file, stamp, LEN)?;
    for (who, peak) in demo.peak_memory()? {
        let most = if who.is_none() { MOUNT_MEMORY } else { DAEMON_MEMORY };
        println!("peak memory of {who:?}: {} MiB", peak >> 20);
        ensure!(peak <= most, "daemon {who:?} (none: the mount) took {} MiB", peak >> 20);
    }
    demo.remount()?;
    assert_stamped("mounted again", &file, stamp, LEN)?;
    fs::remove_file(&file)?;
    demo.stop(Stop::Terminate)
}

fn assert_stamped(what: &str, file: &Path, stamp: u64, len: u64) -> Result<()> {
    let mut dd = Command::new("dd")
        .arg(format!("if={}", file.display()))
        .args(["bs=1M", "status=none"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pipe = dd.stdout.take().expect("stdout is piped");
    bounded(what, LONG, move || -> Result<()> {
        let (mut offset, mut chunk) = (0, vec![0; 1 << 20]);
        loop {
            let read = pipe.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            let wrong = first_difference(stamp, offset, &chunk[..read]);
            ensure!(wrong.is_none(), "wrong byte at {wrong:?}");
            offset += read as u64;
        }
        ensure!(dd.wait()?.success() && offset == len, "dd read {offset} bytes");
        Ok(())
    })?
    .with_context(|| what.to_owned())
}

#[test]
fn sqlite_under_write_load_stays_whole() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    for journal in ["delete", "wal"] {
        let file = demo.file(format!("{journal}.db"));
        let open = format!("sqlite3 -cmd '.timeout 30000' {} ", file.display());
        shell(
            &demo.path(),
            &format!(
                "{open} 'PRAGMA journal_mode={journal}; CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB);'"
            ),
            PATIENCE,
        )?;
        // Two writers at once, each transaction on its own, under the database's own locks.
        let writer = format!(
            "{{ echo 'PRAGMA synchronous=FULL;'; for i in $(seq 200); do \
             echo 'BEGIN IMMEDIATE; INSERT INTO t(v) VALUES(randomblob(3000)); \
             UPDATE t SET v=randomblob(500) WHERE k%7=0; COMMIT;'; done; }} | {open}"
        );
        shell(
            &demo.path(),
            &format!("set -m; ({writer}) & a=$!; ({writer}) & b=$!; wait $a; wait $b"),
            LONG,
        )?;
        assert_database(&demo, &open)?;
    }
    demo.drop_caches()?;
    demo.remount()?;
    for journal in ["delete", "wal"] {
        assert_database(
            &demo,
            &format!("sqlite3 {}", demo.file(format!("{journal}.db")).display()),
        )?;
    }
    demo.stop(Stop::Umount)
}

fn assert_database(demo: &Demo, open: &str) -> Result<()> {
    let said = shell(
        &demo.path(),
        &format!("{open} 'PRAGMA integrity_check; SELECT count(*) FROM t;'"),
        PATIENCE,
    )?;
    ensure!(said == "ok\n400\n", "{open}: {said}");
    Ok(())
}

#[test]
fn a_volume_made_embedded_is_the_same_with_daemons_and_back() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let stamp = Seed::announced("switch").next_u64();
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    for (round, mode) in
        [Mode::Embedded, Mode::Daemons, Mode::Served, Mode::Embedded].into_iter().enumerate()
    {
        if round > 0 {
            demo.stop(Stop::Umount)?;
            demo.switch(mode)?;
            demo.mount()?;
        }
        for earlier in 0..round as u64 {
            let bytes = fs::read(demo.file(earlier.to_string()))?;
            ensure!(
                bytes.len() == 3 << 20,
                "{mode:?}: file {earlier} is {} bytes long",
                bytes.len()
            );
            ensure!(
                first_difference(stamp ^ earlier, 0, &bytes).is_none(),
                "{mode:?}: file {earlier}"
            );
        }
        fs::write(
            demo.file(round.to_string()),
            tests::seed::content(stamp ^ round as u64, 3 << 20),
        )?;
    }
    demo.stop(Stop::Umount)
}
