//! Promise: what is deleted by the page, or by anybody where the volume says so, is in the trash, in one step and whole; it comes
//! back as it was, byte for byte, with modes, times and attributes; nobody else sees it; and after so many days, or when somebody
//! says so, it is gone for good.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Timespec, Timestamps, XattrFlags, lgetxattr, lsetxattr};
use serde_json::{Value, json};
use tests::accounts::Accounts;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::door::{Answer, Door, free_address};
use tests::process::{PATIENCE, shell, wait_until};
use tests::seed::content;
use tests::tree::{Manifest, assert_same, manifest};

const PASSWORD: &str = "correct horse battery";

struct Site {
    demo: Demo,
    door: Door,
}

impl Site {
    fn start() -> Result<Self> {
        let http = free_address()?;
        let demo_arguments = vec!["--http".to_owned(), http.clone()];
        let demo = Demo::start(Setup { demo_arguments, ..Setup::new(Mode::Embedded) })?;
        Ok(Self { demo, door: Door::at(&http) })
    }

    /// Where whatever is deleted is kept.
    fn keeping() -> Result<Self> {
        let site = Self::start()?;
        let said = site.say("volume set --trash-days 7")?;
        ensure!(said.contains("for 7 days"), "{said}");
        Ok(site)
    }

    fn say(&self, words: &str) -> Result<String> {
        Accounts(&self.demo).say(words)
    }

    /// Everything in the trash, what was deleted last first.
    fn listed(&self, words: &str) -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&self.say(&format!("trash list --json {words}"))?)?)
    }

    fn paths(&self, words: &str) -> Result<Vec<String>> {
        let all = self.listed(words)?;
        Ok(all.iter().map(|one| one["path"].as_str().unwrap_or_default().to_owned()).collect())
    }

    fn run(&self, line: &str) -> Result<String> {
        shell(&self.demo.path(), line, PATIENCE)
    }
}

fn at(path: &str) -> String {
    format!("/api/v1/{path}")
}

fn post(door: &Door, path: &str, said: &Value) -> Result<Answer> {
    door.post(&at(path), said.to_string().as_bytes())
}

/// A tree with what a copy would lose: modes, owners, times, attributes, long names, links, holes.
fn make_tree(root: &Path) -> Result<()> {
    let deep = root.join("sub").join("d".repeat(255)).join("deep");
    fs::create_dir_all(&deep)?;
    fs::write(deep.join("x".repeat(255)), content(1, 3 << 20))?;
    fs::write(root.join("small"), b"small")?;
    fs::write(root.join(OsStr::from_bytes(b"\xff\xfe\n")), b"odd")?;
    fs::write(root.join("empty"), b"")?;
    symlink("nowhere", root.join("link"))?;
    shell(root, "mkfifo pipe && chmod 2750 sub && chmod 4711 small", PATIENCE)?;
    std::os::unix::fs::chown(root.join("sub"), Some(1234), Some(4321))?;
    std::os::unix::fs::chown(root.join("empty"), Some(1234), Some(4321))?;
    let sparse = File::create(root.join("sparse"))?;
    sparse.set_len(64 << 20)?;
    sparse.write_all_at(b"in the middle", 30 << 20)?;
    for name in ["small", "sub", "empty"] {
        lsetxattr(root.join(name), "user.color", name.as_bytes(), XattrFlags::empty())?;
    }
    shell(root, "setfacl -m u:77:rwx empty 2>/dev/null || true", PATIENCE)?;
    for (at, name) in ["small", "empty", "sparse"].iter().enumerate() {
        set_times(&root.join(name), 1_000_000_000 + at as i64)?;
    }
    Ok(())
}

fn set_times(path: &Path, secs: i64) -> Result<()> {
    let time = Timespec { tv_sec: secs, tv_nsec: 123_000_000 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
}

fn attribute(path: &Path, name: &str) -> Result<Vec<u8>> {
    let mut value = vec![0; 1000];
    let len = lgetxattr(path, name, value.as_mut_slice())?;
    value.truncate(len);
    Ok(value)
}

/// All that stays of a tree when its files are deleted one by one: of directories not the times.
fn kept(root: &Path) -> Result<(Manifest, Vec<Vec<u8>>)> {
    let directories = shell(root, "find . -type d -print0 | xargs -0 touch -d @1000", PATIENCE);
    directories.context("setting times of directories")?;
    let mut attributes = Vec::new();
    for name in ["small", "sub", "empty"] {
        attributes.push(attribute(&root.join(name), "user.color")?);
    }
    attributes.extend(attribute(&root.join("empty"), "system.posix_acl_access").ok());
    Ok((manifest(root)?, attributes))
}

#[test]
fn a_tree_that_is_removed_by_the_mount_comes_back_as_it_was() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::keeping()?;
    let root = site.demo.file("docs/tree");
    fs::create_dir_all(&root)?;
    make_tree(&root)?;
    let before = kept(&root)?;
    let (mode, owner) =
        (fs::metadata(root.join("sub"))?.mode(), fs::metadata(root.join("sub"))?.uid());
    site.run("rm -rf docs/tree")?;
    ensure!(!root.exists());
    // One line for the tree, and with --all each of what was in it.
    ensure!(site.paths("")? == ["/docs/tree"], "{:?}", site.paths("")?);
    let all = site.paths("--all")?;
    ensure!(all.len() == before.0.len() + 1, "{all:?}");
    let usage = |site: &Site| site.demo.available();
    let available = usage(&site)?;

    let said = site.say("trash restore /docs/tree")?;
    ensure!(said.trim() == format!("{} restored", all.len()), "{said}");
    let after = kept(&root)?;
    assert_same("what came back", &before.0, &root)?;
    ensure!(after.1 == before.1, "attributes");
    ensure!(fs::metadata(root.join("sub"))?.mode() == mode && owner == 1234);
    ensure!(site.paths("--all")?.is_empty(), "{:?}", site.paths("--all")?);

    // The same again, while nothing is mounted; a folder above goes, too.
    site.run("rm -rf docs")?;
    site.demo.stop(Stop::Umount)?;
    site.demo.fsck()?;
    ensure!(site.paths("")? == ["/docs"], "{:?}", site.paths("")?);
    site.say("trash restore /docs/tree/small")?;
    site.demo.mount()?;
    ensure!(fs::read(root.join("small"))? == b"small" && fs::read_dir(&root)?.count() == 1);
    ensure!(fs::metadata(root.join("small"))?.mode() & 0o7777 == 0o4711);
    // All that is left below a folder that is there.
    site.say("trash restore /docs")?;
    kept(&root)?;
    assert_same("what came back at last", &before.0, &root)?;
    ensure!(site.paths("--all")?.is_empty());
    site.run("rm -rf docs")?;
    site.say("trash empty")?;
    ensure!(site.paths("--all")?.is_empty());
    wait_until("room to be there again", PATIENCE, || {
        usage(&site).is_ok_and(|now| now > available)
    })?;
    site.demo.stop(Stop::Umount)?;
    site.demo.fsck()
}

#[test]
fn what_is_replaced_or_still_open_is_kept_and_goes_on() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::keeping()?;
    let file = |name: &str| site.demo.file(name);
    // Three states of one name, two replaced and one removed.
    for state in ["one", "two", "three"] {
        fs::write(file("new"), state)?;
        fs::rename(file("new"), file("name"))?;
    }
    fs::remove_file(file("name"))?;
    let states = site.listed("--under /name")?;
    ensure!(states.len() == 3, "{states:?}");
    // The kernel knows that it is not there, until it is.
    ensure!(!file("name").exists());
    site.say("trash restore /name")?;
    ensure!(fs::read(file("name"))? == b"three", "what was deleted last");
    let refused = Accounts(&site.demo).refused("trash restore /name")?;
    ensure!(refused.contains("--replace") && refused.contains("--to"), "{refused}");
    site.say(&format!("trash restore {} --to /other", states[2]["id"]))?;
    ensure!(fs::read(file("other"))? == b"one");
    site.say("trash restore /name --replace")?;
    ensure!(fs::read(file("name"))? == b"two");
    ensure!(site.paths("")? == ["/name"], "what was there is in the trash");

    // Hard links: a name that is not the last just goes.
    fs::hard_link(file("other"), file("another"))?;
    fs::remove_file(file("other"))?;
    ensure!(site.paths("--under /other")?.is_empty() && fs::read(file("another"))? == b"one");
    fs::remove_file(file("another"))?;
    ensure!(site.paths("--under /another")?.len() == 1);

    // Deleted while it is open: as on any filesystem, for whoever has it open.
    fs::write(file("open"), b"begun")?;
    let mut open = File::options().read(true).write(true).open(file("open"))?;
    fs::remove_file(file("open"))?;
    ensure!(open.metadata()?.nlink() == 0, "{}", open.metadata()?.nlink());
    let linked = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
    ensure!(
        rustix::fs::linkat(
            rustix::fs::CWD,
            &linked,
            rustix::fs::CWD,
            file("linked"),
            rustix::fs::AtFlags::SYMLINK_FOLLOW
        )
        .is_err()
    );
    open.seek(std::io::SeekFrom::End(0))?;
    open.write_all(b", and done")?;
    site.say("trash restore /open")?;
    let mut read = String::new();
    open.rewind()?;
    open.read_to_string(&mut read)?;
    ensure!(read == "begun, and done" && fs::read_to_string(file("open"))? == read, "{read}");
    ensure!(open.metadata()?.nlink() == 1);
    open.write_all_at(b"B", 0)?;
    ensure!(fs::read_to_string(file("open"))? == "Begun, and done", "it is one file");
    // What is nobody's but ours for a moment goes for good.
    fs::write(file(".ashlar-anything"), b"x")?;
    fs::remove_file(file(".ashlar-anything"))?;
    ensure!(site.paths("--under /.ashlar-anything")?.is_empty());
    Ok(())
}

#[test]
fn a_folder_that_somebody_is_still_in_comes_back_for_all() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::keeping()?;
    fs::create_dir_all(site.demo.file("work/sub"))?;
    fs::write(site.demo.file("work/sub/x"), b"x")?;
    // Somebody stays in there while it is removed.
    let mut sitting = std::process::Command::new("bash")
        .args(["-c", "cd work/sub && exec sleep 1000"])
        .current_dir(site.demo.path())
        .spawn()?;
    let there = |pid: u32| fs::read_link(format!("/proc/{pid}/cwd"));
    let place = site.demo.file("work/sub");
    wait_until("it to sit there", PATIENCE, || there(sitting.id()).is_ok_and(|at| at == place))?;
    let done = (|| {
        for _ in 0..2 {
            site.run("rm -rf work")?;
            site.say("trash restore /work")?;
            fs::write(site.demo.file("work/sub/new"), b"new")?;
            ensure!(fs::read(site.demo.file("work/sub/x"))? == b"x");
            ensure!(fs::read_dir(site.demo.file("work/sub"))?.count() == 2);
        }
        Ok(())
    })();
    sitting.kill()?;
    sitting.wait()?;
    done
}

#[test]
fn a_crash_leaves_what_is_deleted_in_the_tree_or_in_the_trash() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::keeping()?;
    let name = |at: usize| format!("file {at}");
    for at in 0..200 {
        fs::write(site.demo.file(name(at)), content(at as u64, 3000))?;
        File::open(site.demo.file(name(at)))?.sync_all()?;
    }
    for at in 0..100 {
        fs::remove_file(site.demo.file(name(at)))?;
    }
    File::open(site.demo.path())?.sync_all()?;
    for at in 100..200 {
        fs::remove_file(site.demo.file(name(at)))?;
    }
    site.demo.kill_mount()?;
    site.demo.fsck()?;
    site.demo.mount()?;
    let in_trash = site.paths("")?;
    for at in 0..200 {
        let (there, kept) =
            (site.demo.file(name(at)).exists(), in_trash.contains(&format!("/{}", name(at))));
        ensure!(there != kept, "{at}: in the tree {there}, in the trash {kept}");
        ensure!(kept || at >= 100, "{at}: its deletion was synced");
    }
    site.say("trash restore / --all")?;
    for at in 0..200 {
        ensure!(fs::read(site.demo.file(name(at)))? == content(at as u64, 3000), "{at}");
    }
    site.demo.stop(Stop::Umount)?;
    site.demo.fsck()
}

/// Something else has the name of a folder that it was in: to replace it makes no sense, another place does.
fn a_file_that_has_a_folders_name_is_not_replaced(site: &Site) -> Result<()> {
    let (door, file) = (&site.door, |name: &str| site.demo.file(name));
    fs::create_dir_all(file("d/e"))?;
    fs::write(file("d/e/deep"), b"deep")?;
    let deep = door.delete(&at("entries/d/e/deep?trash"))?.expect(200)?.json()?["trash"].clone();
    site.run("rm -rf d")?;
    fs::write(file("d"), b"a file")?;
    let refused = post(door, "trash/restore", &json!({ "id": deep }))?.expect(409)?.json()?;
    ensure!(refused["error"] == "conflict" && refused.get("there").is_none(), "{refused}");
    post(door, "trash/restore", &json!({ "id": deep, "to": "deep" }))?.expect(200)?;
    ensure!(fs::read(file("deep"))? == b"deep");
    Ok(())
}

#[test]
fn what_the_page_deletes_is_in_the_trash_and_comes_back() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start()?;
    let (door, file) = (site.door.clone(), |site: &Site, name: &str| site.demo.file(name));
    fs::create_dir_all(file(&site, "a/tree"))?;
    make_tree(&file(&site, "a/tree"))?;
    let before = kept(&file(&site, "a/tree"))?;
    // The volume keeps nothing by itself.
    fs::write(file(&site, "gone"), b"x")?;
    fs::remove_file(file(&site, "gone"))?;
    ensure!(site.paths("--all")?.is_empty());

    let kept_as = door.delete(&at("entries/a/tree?trash"))?.expect(200)?.json()?;
    let id = kept_as["trash"].as_str().context("an id")?.to_owned();
    ensure!(!file(&site, "a/tree").exists());
    let listed = door.get(&at("trash"))?.expect(200)?.json()?;
    let one = &listed["entries"][0];
    ensure!(
        one["id"] == id.as_str() && one["path"] == "a/tree" && one["kind"] == "folder",
        "{one}"
    );
    ensure!(listed["days"] == 30 && listed["entries"].as_array().is_some_and(|all| all.len() == 1));
    // Something else has the name by then.
    fs::create_dir(file(&site, "a/tree"))?;
    fs::write(file(&site, "a/tree/other"), b"other")?;
    let taken = post(&door, "trash/restore", &json!({ "id": id }))?.expect(409)?.json()?;
    ensure!(taken["there"] == "folder", "{taken}");
    post(&door, "trash/restore", &json!({ "id": id, "to": "none/tree" }))?.expect(409)?;
    let put = post(&door, "trash/restore", &json!({ "id": id, "replace": true }))?.expect(200)?;
    ensure!(put.json()?["path"] == "a/tree");
    assert_same("what came back", &before.0, &file(&site, "a/tree"))?;
    post(&door, "trash/restore", &json!({ "id": id }))?.expect(404)?;
    let other = &door.get(&at("trash"))?.json()?["entries"][0];
    ensure!(other["path"] == "a/tree" && other["id"] != id.as_str(), "what was replaced: {other}");
    let to = json!({ "id": other["id"], "to": "b" });
    post(&door, "trash/restore", &to)?.expect(200)?;
    ensure!(fs::read(file(&site, "b/other"))? == b"other");

    // With a folder that went after it, and back with it.
    door.delete(&at("entries/a/tree/small?trash"))?.expect(200)?;
    let small = door.get(&at("trash"))?.json()?["entries"][0]["id"].clone();
    site.run("rm -rf a")?;
    ensure!(!file(&site, "a").exists());
    ensure!(
        site.paths("--all")?.len() >= 3,
        "folders that something was in are kept: {:?}",
        site.paths("--all")?
    );
    post(&door, "trash/restore", &json!({ "id": small }))?.expect(200)?;
    ensure!(fs::read(file(&site, "a/tree/small"))? == b"small");

    a_file_that_has_a_folders_name_is_not_replaced(&site)?;
    site.say("trash empty")?;

    // For good, one and all.
    for (name, how) in [("b", "?forever"), ("a", "?trash")] {
        door.delete(&at(&format!("entries/{name}{how}")))?;
    }
    ensure!(!file(&site, "b").exists() && site.paths("")? == ["/a"], "{:?}", site.paths("")?);
    fs::write(file(&site, "c"), b"c")?;
    let c = door.delete(&at("entries/c?trash"))?.expect(200)?.json()?;
    door.delete(&at(&format!("trash/{}", c["trash"].as_str().context("an id")?)))?.expect(200)?;
    ensure!(site.paths("")? == ["/a"]);
    ensure!(door.delete(&at("trash"))?.expect(200)?.json()?["denied"] == 0);
    ensure!(site.paths("--all")?.is_empty());
    for bad in ["trash/x", "trash?before=x"] {
        door.delete(&at(bad))?.expect(400)?;
    }
    door.get(&at("trash?after=1"))?.expect(400)?;
    door.delete(&at("entries/?trash"))?.expect(403)?;
    site.demo.stop(Stop::Umount)?;
    site.demo.fsck()
}

#[test]
fn what_a_move_replaces_is_in_the_trash_whole_and_a_refused_one_loses_nothing() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::keeping()?;
    for name in ["shared", "shared/in"] {
        fs::create_dir(site.demo.file(name))?;
        fs::set_permissions(site.demo.file(name), fs::Permissions::from_mode(0o777))?;
    }
    for (name, uid) in [("ann", 1001), ("bob", 1002)] {
        let user = format!("user add {name} --uid {uid} --gid {uid} --folder /");
        Accounts(&site.demo).with_password(&user, PASSWORD)?;
    }
    let of = |site: &Site, name: &str| site.door.of(name, PASSWORD);
    let (ann, bob) = (of(&site, "ann"), of(&site, "bob"));
    ann.post(&at("folders/shared/old"), b"")?.expect(201)?;
    ann.put(&at("content/shared/old/deleted"), b"deleted")?.expect(201)?;
    ann.delete(&at("entries/shared/old/deleted"))?.expect(204)?;
    bob.post(&at("folders/shared/in/bobs"), b"")?.expect(201)?;
    let over = |from: &str| json!({ "from": from, "to": "shared/old", "replace": true });
    post(&ann, "move", &over("shared/in/bobs"))?.expect(403)?;
    ensure!(fs::read_dir(site.demo.file("shared/old"))?.count() == 0, "what was deleted is back");
    ensure!(site.paths("--all")? == ["/shared/old/deleted"], "{:?}", site.paths("--all")?);
    // The mount sees what has come in its place.
    ann.put(&at("content/shared/old/x"), b"old")?.expect(201)?;
    ensure!(fs::read(site.demo.file("shared/old/x"))? == b"old");
    ann.post(&at("folders/shared/new"), b"")?.expect(201)?;
    ann.put(&at("content/shared/new/x"), b"new")?.expect(201)?;
    post(&ann, "move", &over("shared/new"))?.expect(204)?;
    ensure!(fs::read(site.demo.file("shared/old/x"))? == b"new");
    ensure!(!site.demo.file("shared/new").exists());
    ensure!(site.paths("")? == ["/shared/old"], "{:?}", site.paths("")?);
    site.say("trash restore /shared/old --to /shared/back")?;
    ensure!(fs::read(site.demo.file("shared/back/x"))? == b"old");
    site.demo.stop(Stop::Umount)?;
    site.demo.fsck()
}

/// The paths of what somebody sees in the trash.
fn seen(site: &Site, name: &str) -> Result<Vec<String>> {
    let listed = site.door.of(name, PASSWORD).get(&at("trash"))?.expect(200)?.json()?;
    let all = listed["entries"].as_array().context("entries")?.iter();
    Ok(all.map(|one| one["path"].as_str().unwrap_or_default().to_owned()).collect())
}

/// What he has deleted he sees, though she removes the folder that it was in; that is hers to have back.
fn what_he_deleted_stays_his(site: &Site) -> Result<()> {
    let of = |name: &str| site.door.of(name, PASSWORD);
    let seen = |name: &str| seen(site, name);
    of("ann").post(&at("folders/shared/in/hers"), b"")?.expect(201)?;
    fs::set_permissions(site.demo.file("shared/in/hers"), fs::Permissions::from_mode(0o777))?;
    of("bob").put(&at("content/shared/in/hers/his"), b"his")?.expect(201)?;
    of("bob").delete(&at("entries/shared/in/hers/his"))?.expect(204)?;
    of("ann").delete(&at("entries/shared/in/hers"))?.expect(204)?;
    ensure!(seen("bob")? == ["shared/in/hers/his", "shared/b"], "{:?}", seen("bob")?);
    ensure!(seen("ann")?.contains(&"shared/in/hers".to_owned()), "{:?}", seen("ann")?);
    let his = site.listed("--under /shared/in/hers/his --all")?[0]["id"].to_string();
    let refused = post(&of("bob"), "trash/restore", &json!({ "id": his }))?.expect(403)?.json()?;
    ensure!(refused["message"].to_string().contains("somebody else"), "{refused}");
    let elsewhere = json!({ "id": his, "to": "shared/his" });
    post(&of("bob"), "trash/restore", &elsewhere)?.expect(200)?;
    ensure!(fs::read(site.demo.file("shared/his"))? == b"his" && seen("bob")? == ["shared/b"]);
    of("ann").delete(&at("trash"))?.expect(200)?;
    Ok(())
}

/// A folder goes there as a whole for who may delete all that is in it; else what he may does, and the rest is named.
fn a_folder_takes_nothing_of_others_along(site: &Site) -> Result<()> {
    let of = |name: &str| site.door.of(name, PASSWORD);
    let seen = |name: &str| seen(site, name);
    of("ann").post(&at("folders/shared/anns"), b"")?.expect(201)?;
    fs::set_permissions(site.demo.file("shared/anns"), fs::Permissions::from_mode(0o777))?;
    of("bob").post(&at("folders/shared/anns/bobs"), b"")?.expect(201)?;
    of("bob").put(&at("content/shared/anns/bobs/x"), b"x")?.expect(201)?;
    for (name, how) in [("one", "?trash"), ("other", "?forever")] {
        of("ann").put(&at(&format!("content/shared/anns/{name}")), b"anns")?.expect(201)?;
        let answer = of("ann").delete(&at(&format!("entries/shared/anns{how}")))?;
        let answer = answer.expect(200)?.json()?;
        let failures = answer["failures"].as_array().context("failures")?;
        ensure!(failures.len() == 1 && answer["trash"].is_null(), "{answer}");
        ensure!(failures[0]["path"] == "shared/anns/bobs/x", "{answer}");
        ensure!(!site.demo.file(format!("shared/anns/{name}")).exists());
    }
    ensure!(fs::read(site.demo.file("shared/anns/bobs/x"))? == b"x");
    ensure!(seen("ann")? == ["shared/anns/one"], "{:?}", seen("ann")?);
    // Nor is it deleted for good there by another than who sees all that was deleted from it.
    for name in ["shared/anns/bobs/x", "shared/anns/bobs"] {
        of("bob").delete(&at(&format!("entries/{name}")))?.expect(204)?;
    }
    let kept = of("ann").delete(&at("entries/shared/anns?trash"))?.expect(200)?.json()?;
    let id = kept["trash"].as_str().context("an id")?;
    of("ann").delete(&at(&format!("trash/{id}")))?.expect(403)?;
    ensure!(of("ann").delete(&at("trash"))?.expect(200)?.json()?["denied"] == 1);
    ensure!(seen("ann")? == ["shared/anns"], "{:?}", seen("ann")?);
    ensure!(seen("bob")? == ["shared/anns/bobs", "shared/b"], "{:?}", seen("bob")?);
    Ok(())
}

#[test]
fn nobody_sees_what_others_have_deleted() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::keeping()?;
    for name in ["shared", "shared/in"] {
        fs::create_dir(site.demo.file(name))?;
        fs::set_permissions(site.demo.file(name), fs::Permissions::from_mode(0o777))?;
    }
    let accounts = Accounts(&site.demo);
    for (name, uid, folder) in [("ann", 1001, "/"), ("bob", 1002, "/"), ("eve", 1001, "/shared/in")]
    {
        let user = format!("user add {name} --uid {uid} --gid {uid} --folder {folder}");
        accounts.with_password(&user, PASSWORD)?;
    }
    accounts.with_password("user add root --uid 0 --gid 0", PASSWORD)?;
    let of = |name: &str| site.door.of(name, PASSWORD);
    let seen = |name: &str| seen(&site, name);
    of("ann").put(&at("content/shared/a"), b"a")?.expect(201)?;
    of("ann").put(&at("content/shared/in/i"), b"i")?.expect(201)?;
    of("bob").put(&at("content/shared/b"), b"b")?.expect(201)?;
    // Any delete by any door goes there, and says by whom.
    of("ann").delete(&at("entries/shared/a"))?.expect(204)?;
    of("ann").delete(&at("entries/shared/in/i"))?.expect(204)?;
    of("bob").delete(&at("entries/shared/b"))?.expect(204)?;
    ensure!(seen("ann")? == ["shared/in/i", "shared/a"], "{:?}", seen("ann")?);
    ensure!(seen("bob")? == ["shared/b"] && seen("eve")? == ["i"], "{:?}", seen("eve")?);
    ensure!(seen("root")?.len() == 3);
    let listed = site.listed("--under /shared/a")?;
    ensure!(listed[0]["by"] == 1001 && listed[0]["owner"] == 1001, "{listed:?}");
    // Of another's there is nothing to be had, nor to be deleted.
    let anns = json!({ "id": listed[0]["id"].to_string() });
    post(&of("bob"), "trash/restore", &anns)?.expect(404)?;
    of("bob").delete(&at(&format!("trash/{}", listed[0]["id"])))?.expect(404)?;
    post(&of("eve"), "trash/restore", &anns)?.expect(404)?;
    // Where he may not write nothing comes back.
    fs::set_permissions(site.demo.file("shared"), fs::Permissions::from_mode(0o755))?;
    post(&of("ann"), "trash/restore", &anns)?.expect(403)?;
    fs::set_permissions(site.demo.file("shared"), fs::Permissions::from_mode(0o777))?;
    post(&of("ann"), "trash/restore", &anns)?.expect(200)?;
    ensure!(fs::metadata(site.demo.file("shared/a"))?.uid() == 1001);
    what_he_deleted_stays_his(&site)?;
    a_folder_takes_nothing_of_others_along(&site)?;
    of("root").delete(&at("trash"))?.expect(200)?;
    ensure!(seen("root")?.is_empty() && seen("bob")?.is_empty());
    Ok(())
}

#[test]
fn the_commands_say_what_makes_no_sense() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::keeping()?;
    let accounts = Accounts(&site.demo);
    ensure!(site.say("trash list")?.trim() == "nothing is in the trash");
    ensure!(site.say("trash empty")?.trim() == "there was nothing to delete");
    for (words, says) in [
        ("trash restore 99", "99 is not in the trash"),
        ("trash restore /none", "/none is not in the trash"),
        ("trash restore none", "begins with a slash"),
        ("trash restore /", "give --all"),
        ("trash restore /none --all", "give / with it"),
        ("trash restore /a/../b", "has the name . or .."),
        ("trash empty 99", "99 is not in the trash"),
        ("trash list --under none", "begins with a slash"),
    ] {
        let said = accounts.refused(words)?;
        ensure!(said.contains(says), "{words}: {said}");
    }
    fs::create_dir(site.demo.file("d"))?;
    for name in ["d/x", "d/y"] {
        fs::write(site.demo.file(name), name)?;
        fs::remove_file(site.demo.file(name))?;
    }
    let said = accounts.refused("trash restore /d/x --to /none/x")?;
    ensure!(said.contains("no folder /none"), "{said}");
    let said = accounts.refused("trash restore /d --to /e")?;
    ensure!(said.contains("--to"), "{said}");
    ensure!(site.say("trash empty --older-than 1")?.contains("nothing"));
    let table = site.say("trash list")?;
    ensure!(
        table.lines().count() == 3 && table.contains("/d/x") && table.contains("BYTES"),
        "{table}"
    );
    let id = site.listed("--under /d/x")?[0]["id"].to_string();
    ensure!(site.say(&format!("trash empty {id}"))?.trim() == "1 deleted for good");
    ensure!(site.paths("")? == ["/d/y"]);
    ensure!(site.say("trash empty --older-than 0")?.trim() == "1 deleted for good");
    // From now on what is deleted goes at once.
    ensure!(site.say("volume set --trash-days 0")?.contains("keeps nothing"));
    fs::write(site.demo.file("z"), "z")?;
    fs::remove_file(site.demo.file("z"))?;
    ensure!(site.paths("--all")?.is_empty());
    Ok(())
}
