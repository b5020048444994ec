//! Promise: what `cp` copied without moving a byte keeps no more room than what is left of it.

use std::fs;

use anyhow::{Context, Result, ensure};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::{PATIENCE, shell, wait_until};
use tests::seed::{content, first_difference};

const FILES: u64 = 8000;
const SIZE: usize = 20_000;
/// Of so many copies one is kept.
const KEPT: usize = 20;
/// Dead bytes for which the cleaner does not look, twice.
const TOLERATED: u64 = 32 << 20;

#[test]
fn room_of_copies_comes_back_when_the_originals_and_most_copies_are_gone() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    fs::create_dir(demo.file("a"))?;
    for n in 0..FILES {
        fs::write(demo.file(format!("a/{n}")), content(n, SIZE))?;
    }
    let root = demo.path();
    let bytes = |demo: &Demo, what: &str| -> Result<u64> {
        demo.status()?["mount"][what].as_u64().with_context(|| what.to_owned())
    };
    let stored = |demo: &Demo| bytes(demo, "blob_bytes");
    wait_until("all to be stored", PATIENCE, || {
        bytes(&demo, "dirty_bytes").is_ok_and(|dirty| dirty == 0)
    })?;
    shell(&root, "cp -r a b", PATIENCE)?;
    let before = stored(&demo)?;
    let whole = FILES * SIZE as u64;
    ensure!(
        before < whole * 3 / 2,
        "{before} bytes are stored for {whole}: the copies are no clones"
    );
    shell(&root, "rm -r a", PATIENCE)?;
    for n in (0..FILES).filter(|n| n % KEPT as u64 != 0) {
        fs::remove_file(demo.file(format!("b/{n}")))?;
    }
    let alive = whole / KEPT as u64;
    let came = wait_until("the room of copies that are gone", PATIENCE, || {
        stored(&demo).is_ok_and(|now| now < alive + TOLERATED)
    });
    came.with_context(|| format!("{:?} bytes are stored of {before}", stored(&demo)))?;
    println!("{before} bytes in blobs with all copies, {} for {alive} of the last", stored(&demo)?);
    demo.remount()?;
    for n in (0..FILES).step_by(KEPT) {
        let bytes = fs::read(demo.file(format!("b/{n}")))?;
        ensure!(bytes.len() == SIZE, "copy {n} has {} bytes", bytes.len());
        ensure!(first_difference(n, 0, &bytes).is_none(), "copy {n} is not what was copied");
    }
    demo.stop(Stop::Umount)?;
    demo.fsck()
}
