//! Promise: a copy moves no byte, whether `cp` makes it or a door does; and it keeps no more room than what is left of it.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::door::{Door, free_address};
use tests::process::{PATIENCE, shell, wait_until};
use tests::seed::{content, first_difference};

const FILES: u64 = 8000;
const SIZE: usize = 20_000;
/// Of so many copies one is kept.
const KEPT: usize = 20;
/// Dead bytes for which the cleaner does not look, twice.
const TOLERATED: u64 = 32 << 20;

/// A number of bytes that the mount tells of itself.
fn bytes(demo: &Demo, what: &str) -> Result<u64> {
    demo.status()?["mount"][what].as_u64().with_context(|| what.to_owned())
}

/// Bytes in blobs.
fn stored(demo: &Demo) -> Result<u64> {
    bytes(demo, "blob_bytes")
}

fn all_stored(demo: &Demo) -> Result<()> {
    wait_until("all to be stored", PATIENCE, || {
        bytes(demo, "dirty_bytes").is_ok_and(|dirty| dirty == 0)
    })
}

#[test]
fn copies_by_doors_move_no_data() -> Result<()> {
    const LARGE: usize = 24 << 20;
    if !can_mount() {
        return Ok(());
    }
    let (http, s3) = (free_address()?, free_address()?);
    let demo_arguments = ["--http", &http, "--s3", &s3].map(str::to_owned).to_vec();
    let mut demo = Demo::start(Setup { demo_arguments, ..Setup::new(Mode::Embedded) })?;
    let (door, objects) = (Door::at(&http), Door::at(&s3));
    fs::create_dir_all(demo.file("bucket/deep"))?;
    let whole = content(1, LARGE);
    fs::write(demo.file("bucket/deep/large"), &whole)?;
    all_stored(&demo)?;
    let before = stored(&demo)?;
    ensure!(before >= LARGE as u64, "{before} bytes are stored of {LARGE}");

    let way = |from: &str, to: &str| json!({"from": from, "to": to}).to_string();
    let file = way("bucket/deep/large", "bucket/by-api");
    door.post("/api/v1/copy", file.as_bytes())?.expect(204)?;
    let folder = way("bucket/deep", "bucket/folder-by-api");
    door.post("/api/v1/copy", folder.as_bytes())?.expect(204)?;
    let source = [("x-amz-copy-source", "/bucket/deep/large")];
    objects.ask("PUT", "/bucket/by-s3", &source, b"")?.expect(200)?;
    for (from, to) in [("deep/large", "by-dav"), ("deep", "folder-by-dav")] {
        let to = format!("http://{http}/dav/bucket/{to}");
        let headers = [("Destination", &*to)];
        door.ask("COPY", &format!("/dav/bucket/{from}"), &headers, b"")?.expect(201)?;
    }
    all_stored(&demo)?;
    let after = stored(&demo)?;
    println!("{before} bytes in blobs before five copies, {after} behind them");
    ensure!(after < before + LARGE as u64 / 8, "data was moved: {before} bytes became {after}");
    demo.remount()?;
    for copy in ["by-api", "folder-by-api/large", "by-s3", "by-dav", "folder-by-dav/large"] {
        ensure!(fs::read(demo.file("bucket").join(copy))? == whole, "{copy} is another");
    }
    demo.stop(Stop::Umount)?;
    demo.fsck()
}

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
    all_stored(&demo)?;
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
