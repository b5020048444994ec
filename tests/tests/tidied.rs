//! Promise: what a door was about to replace or copy when its process was killed is tidied up when doors are open again: nothing that
//! was there is lost, nothing half made stays, and what others gave such a name is left alone.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{XattrFlags, listxattr, setxattr};
use serde_json::json;
use tests::cluster::{Demo, can_mount};
use tests::door::{Door, start};
use tests::process::{PATIENCE, wait_until};

/// What of a folder has a name that begins so.
fn hidden(folder: &Path, what: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let begins = format!(".ashlar-{what}-");
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begins))
    };
    entries.filter(named).collect()
}

/// Notes in the volume.
fn notes(demo: &Demo) -> Result<usize> {
    let mut list = vec![0; 64 << 10];
    let len = listxattr(demo.path(), &mut list)?;
    Ok(list[..len]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"trusted.ashlar."))
        .count())
}

/// Kills the process when it is in the middle of what is asked: with so much in what lies beside its place.
fn killed_at(
    demo: &mut Demo,
    door: &Door,
    (path, from, to): (&str, &str, &str),
    (what, in_the_middle): (&str, fn(usize) -> bool),
) -> Result<()> {
    // What is there before is somebody else's.
    let others = hidden(&demo.path(), what);
    let (asking, said) = (door.clone(), json!({"from": from, "to": to, "replace": true}));
    let path = path.to_owned();
    let asks = std::thread::spawn(move || asking.post(&path, said.to_string().as_bytes()));
    let is_there = |path: &PathBuf| {
        let entries = fs::read_dir(path).map_or(0, Iterator::count);
        !others.contains(path) && in_the_middle(entries)
    };
    while !hidden(&demo.path(), what).iter().any(is_there) {
        ensure!(!asks.is_finished(), "it was done before it was seen");
    }
    demo.kill_mount()?;
    let answer = asks.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
    ensure!(answer.is_err(), "it was answered before it was killed: {answer:?}");
    demo.mount()
}

#[test]
fn what_is_left_by_a_process_that_is_killed_is_tidied_up() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (mut demo, door) = start()?;
    for folder in ["many", "old"] {
        fs::create_dir(demo.file(folder))?;
        for n in 0..1500 {
            fs::write(demo.file(folder).join(n.to_string()), "")?;
        }
        let mut which = File::create(demo.file(folder).join("which"))?;
        which.write_all(folder.as_bytes())?;
        which.sync_all()?;
    }
    // Of whoever it is.
    fs::create_dir(demo.file(".ashlar-copied-0123456789abcdef0123456789abcdef"))?;
    File::open(demo.path())?.sync_all()?;

    killed_at(&mut demo, &door, ("/api/v1/copy", "many", "old"), ("copied", |all| all > 200))?;
    wait_until("the half copy to go", PATIENCE, || hidden(&demo.path(), "copied").len() == 1)?;
    wait_until("its note to go", PATIENCE, || notes(&demo).is_ok_and(|left| left == 0))?;
    ensure!(
        fs::read_to_string(demo.file("old/which"))? == "old",
        "what was to be replaced is gone"
    );

    killed_at(
        &mut demo,
        &door,
        ("/api/v1/move", "many", "old"),
        ("replaced", |all| (1..1300).contains(&all)),
    )?;
    wait_until("what was replaced to go", PATIENCE, || {
        hidden(&demo.path(), "replaced").is_empty()
    })?;
    wait_until("its note to go", PATIENCE, || notes(&demo).is_ok_and(|left| left == 0))?;
    ensure!(fs::read_to_string(demo.file("old/which"))? == "many", "it has not got its place");
    ensure!(hidden(&demo.path(), "copied").len() == 1, "what others made is gone");
    Ok(())
}

#[test]
fn what_was_put_aside_and_not_replaced_is_back_at_its_place() -> Result<()> {
    if !can_mount() || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let (mut demo, _) = start()?;
    // As they are in the moment between two steps: put aside, and nothing there yet; and with another there.
    for name in ["gone", "taken"] {
        let aside = format!(".ashlar-replaced-{name}");
        fs::create_dir(demo.file(&aside))?;
        fs::write(demo.file(&aside).join("x"), name)?;
        let which = fs::metadata(demo.file(&aside))?.ino();
        let replaced = json!({"name": name.as_bytes(), "which": which, "by": 999_999});
        let note = json!({"process": "another", "folder": fs::metadata(demo.path())?.ino(),
            "uid": 0, "gids": [0], "what": {"replaced": replaced}});
        let attribute = format!("trusted.ashlar.note.{aside}");
        setxattr(demo.path(), attribute, note.to_string().as_bytes(), XattrFlags::empty())?;
    }
    fs::create_dir(demo.file("taken"))?;
    demo.remount()?;
    wait_until("it to be back", PATIENCE, || demo.file("gone/x").exists())?;
    wait_until("the notes to go", PATIENCE, || notes(&demo).is_ok_and(|left| left == 0))?;
    let left = hidden(&demo.path(), "replaced");
    ensure!(left.len() == 1, "{left:?}");
    let kept = fs::read_to_string(left.first().context("nothing is left")?.join("x"))?;
    ensure!(kept == "taken" && demo.file("taken").is_dir(), "its name was taken, and it is lost");
    Ok(())
}
