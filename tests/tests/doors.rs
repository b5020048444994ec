//! Promise: what comes in by a door is in the tree, whole or not at all, durable when it is answered, and the mount sees
//! it at once; what the mount changes, doors see. Refs give back what they got; databases do not see each other.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::binaries::ashlar;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::door::{Door, Lines, answer, free_address};
use tests::mapped::Mapped;
use tests::process::{PATIENCE, Process, bounded, output, wait_until};
use tests::seed::{Seed, content, fill, first_difference};

/// A mounted volume, with its doors.
struct Site {
    demo: Demo,
    door: Door,
    kv: String,
}

impl Site {
    fn start(mode: Mode) -> Result<Self> {
        let (http, kv) = (free_address()?, free_address()?);
        let words = ["--http", &http, "--kv", &kv].map(str::to_owned).to_vec();
        let (mount_arguments, demo_arguments) = (words.clone(), words);
        let demo = Demo::start(Setup { mount_arguments, demo_arguments, ..Setup::new(mode) })?;
        Ok(Self { demo, door: Door::at(&http), kv })
    }

    fn lines(&self) -> Result<Lines> {
        Lines::connect(&self.kv)
    }
}

/// `ashlar kv ...`, at this door.
fn shell_kv(door: &Door, words: &[&str], input: &[u8]) -> Result<(bool, Vec<u8>, String)> {
    let mut command = Command::new(ashlar());
    command.arg("kv").args(words).args(["--at", &door.address]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("ashlar kv")?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let input = input.to_vec();
    let ended = bounded("ashlar kv", PATIENCE, move || {
        // One who fails at once does not read.
        let _unread = stdin.write_all(&input);
        drop(stdin);
        child.wait_with_output()
    })??;
    let why = String::from_utf8_lossy(&ended.stderr).into_owned();
    Ok((ended.status.success(), ended.stdout, why))
}

/// The names in a directory.
fn names(directory: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[test]
fn refs_give_back_what_they_got_embedded() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    refs_give_back_what_they_got(Site::start(Mode::Embedded)?)
}

#[test]
fn refs_give_back_what_they_got_with_two_of_eight_daemons_killed() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Served)?;
    site.demo.kill_daemon(2)?;
    site.demo.kill_daemon(5)?;
    refs_give_back_what_they_got(site)
}

fn refs_give_back_what_they_got(site: Site) -> Result<()> {
    let Site { mut demo, door, .. } = site;
    for (number, len) in [0, 1, 100, 65_536, 65_537, 1 << 20, 9_000_001].into_iter().enumerate() {
        let (stamp, path) = (number as u64, format!("/refs/whole-{number}"));
        let bytes = content(stamp, len);
        let posted = match number % 2 {
            0 => door.post(&path, &bytes)?.expect(201)?,
            _ => door.post_chunked(&path, &bytes, 40_000)?.expect(201)?,
        };
        ensure!(posted.json()?["size"] == len, "{posted:?}");
        let got = door.get(&path)?.expect(200)?;
        ensure!(got.body == bytes, "{len} bytes come back as other ones");
        ensure!(got.headers.get("etag") == posted.headers.get("etag"), "{:?}", got.headers);
        let head = door.ask("HEAD", &path, &[], &[])?.expect(200)?;
        ensure!(head.headers["content-length"] == len.to_string() && head.body.is_empty());
        ensure!(fs::read(demo.file(format!("refs/whole-{number}")))? == bytes, "in the mount");
    }
    ranges(&door, "/refs/whole-6", 6, 9_000_001)?;
    conditions(&door)?;

    // What the mount makes there is a ref, and links lead to what is in the tree.
    fs::write(demo.file("refs/by the mount"), b"hello")?;
    ensure!(door.get("/refs/by%20the%20mount")?.expect(200)?.body == b"hello");
    std::os::unix::fs::symlink("../refs/by the mount", demo.file("refs/link"))?;
    ensure!(door.get("/refs/link")?.expect(200)?.body == b"hello");
    std::os::unix::fs::symlink("/etc/passwd", demo.file("refs/passwd"))?;
    std::os::unix::fs::symlink("../../../../etc/passwd", demo.file("refs/above"))?;
    for path in ["/refs/passwd", "/refs/above"] {
        ensure!(door.get(path)?.expect(403)?.error() == "denied", "{path}");
    }
    door.delete("/refs/whole-3")?.expect(204)?;
    ensure!(door.get("/refs/whole-3")?.expect(404)?.error() == "no_such_ref");
    ensure!(door.delete("/refs/whole-3")?.expect(404)?.error() == "no_such_ref");
    ensure!(!demo.file("refs/whole-3").exists());

    // Durable, and nothing left over, with and without the doors.
    demo.remount()?;
    ensure!(fs::read(demo.file("refs/whole-6"))? == content(6, 9_000_001), "after a remount");
    demo.stop(Stop::Umount)?;
    demo.switch(Mode::Embedded)?;
    demo.fsck()
}

fn ranges(door: &Door, path: &str, stamp: u64, len: usize) -> Result<()> {
    let last = len - 1;
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=65535-65536".to_owned(), 65_535, 65_537),
        ("bytes=8999990-".to_owned(), 8_999_990, len),
        ("bytes=-11".to_owned(), len - 11, len),
        (format!("bytes=1000000-{last}"), 1_000_000, len),
    ] {
        let got = door.ask("GET", path, &[("Range", &range)], &[])?.expect(206)?;
        ensure!(got.body.len() == to - from, "{range}: {} bytes", got.body.len());
        ensure!(first_difference(stamp, from as u64, &got.body).is_none(), "{range}");
        let said = format!("bytes {from}-{}/{len}", to - 1);
        ensure!(got.headers["content-range"] == said, "{range}: {:?}", got.headers);
    }
    let beyond = [("Range", "bytes=9000001-")];
    let got = door.ask("GET", path, &beyond, &[])?.expect(416)?;
    ensure!(got.headers["content-range"] == format!("bytes */{len}"), "{:?}", got.headers);
    Ok(())
}

fn conditions(door: &Door) -> Result<()> {
    let path = "/refs/conditional";
    let first = door.ask("POST", path, &[("If-None-Match", "*")], b"one")?.expect(201)?;
    let tag = first.headers["etag"].clone();
    let again = door.ask("POST", path, &[("If-None-Match", "*")], b"two")?.expect(412)?;
    ensure!(again.error() == "precondition_failed", "{again:?}");
    door.ask("POST", path, &[("If-Match", &tag)], b"three")?.expect(201)?;
    door.ask("POST", path, &[("If-Match", &tag)], b"four")?.expect(412)?;
    let got = door.get(path)?.expect(200)?;
    ensure!(got.body == b"three", "{got:?}");
    let now = got.headers["etag"].clone();
    ensure!(door.ask("GET", path, &[("If-None-Match", &now)], &[])?.expect(304)?.body.is_empty());
    door.ask("DELETE", path, &[("If-Match", &tag)], &[])?.expect(412)?;
    door.ask("DELETE", path, &[("If-Match", &now)], &[])?.expect(204)?;
    door.get(path)?.expect(404)?;
    Ok(())
}

#[test]
fn the_mount_sees_at_once_what_doors_change_and_doors_what_the_mount_changes() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let (demo, door) = (&site.demo, &site.door);
    fs::create_dir(demo.file("refs"))?;
    for round in 0..50u64 {
        let name = format!("r{round}");
        let (file, path) = (demo.file("refs").join(&name), format!("/refs/{name}"));
        // Everything that the kernel keeps: a missing name, a listing, times.
        ensure!(!file.exists() && !names(&demo.file("refs"))?.contains(&name));
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + round);
        File::open(demo.file("refs"))?.set_modified(long_ago)?;
        ensure!(fs::metadata(demo.file("refs"))?.modified()? == long_ago);
        let bytes = content(round, 100_000);
        door.post(&path, &bytes)?.expect(201)?;
        ensure!(file.metadata()?.len() == 100_000, "round {round}: a name that was missing");
        ensure!(names(&demo.file("refs"))?.contains(&name), "round {round}: a listing");
        let modified = fs::metadata(demo.file("refs"))?.modified()?;
        ensure!(modified != long_ago, "round {round}: the directory's times");
        ensure!(fs::read(&file)? == bytes, "round {round}: pages");

        // Replaced: who has it open or mapped keeps what that was, who opens it gets the new one.
        let open = File::options().read(true).write(true).open(&file)?;
        let mapped = Mapped::shared(&open, 4096)?;
        ensure!(mapped.read(0, 4096) == bytes[..4096]);
        let others = content(1000 + round, 50_000);
        door.post(&path, &others)?.expect(201)?;
        ensure!(file.metadata()?.len() == 50_000 && fs::read(&file)? == others, "replaced");
        ensure!(mapped.read(0, 4096) == bytes[..4096] && open.metadata()?.nlink() == 0, "open");
        let mut kept = vec![0; 100_000];
        open.read_exact_at(&mut kept, 0)?;
        ensure!(kept == bytes, "round {round}: what is open has changed");

        // The other way round: bytes, cut, names, stores into a mapping.
        fs::write(&file, b"by the mount")?;
        ensure!(door.get(&path)?.expect(200)?.body == b"by the mount", "round {round}");
        let now = File::options().read(true).write(true).open(&file)?;
        let mut mapped = Mapped::shared(&now, 12)?;
        mapped.write(0, b"BY");
        mapped.sync()?;
        ensure!(door.get(&path)?.expect(200)?.body == b"BY the mount", "stored into a mapping");
        fs::rename(&file, demo.file("refs").join(format!("moved{round}")))?;
        ensure!(door.get(&path)?.expect(404)?.error() == "no_such_ref", "round {round}");
        let moved = format!("/refs/moved{round}");
        ensure!(door.get(&moved)?.expect(200)?.body == b"BY the mount", "round {round}");

        // Gone by the door, with everything that the kernel knew of it.
        let moved_file = demo.file("refs").join(format!("moved{round}"));
        ensure!(moved_file.exists());
        door.delete(&moved)?.expect(204)?;
        ensure!(!moved_file.exists(), "round {round}: a name that is gone");
        ensure!(!names(&demo.file("refs"))?.contains(&format!("moved{round}")));
    }
    Ok(())
}

#[test]
fn what_doors_and_the_mount_do_in_one_directory_at_once_holds_nobody_up() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    fs::create_dir(site.demo.file("refs"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for worker in 0..4 {
        // Names made, looked up, moved and taken away: each of these takes the directory's lock.
        let (directory, stop) = (site.demo.file("refs"), stop.clone());
        workers.push(std::thread::spawn(move || -> Result<u64> {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                let (a, b) = (directory.join(format!("m{worker}")), directory.join("shared"));
                fs::write(&a, b"mount")?;
                let _any = fs::read(directory.join("d1"));
                fs::rename(&a, &b)?;
                names(&directory)?;
                // Somebody else may have been faster.
                let _gone = fs::remove_file(&b);
                rounds += 1;
            }
            Ok(rounds)
        }));
    }
    let mut doors = Vec::new();
    for worker in 0..4u64 {
        let door = site.door.clone();
        doors.push(std::thread::spawn(move || -> Result<()> {
            for round in 0..60 {
                let path = format!("/refs/d{worker}");
                door.post(&path, &content(round, 3000))?.expect(201)?;
                ensure!(door.get(&path)?.expect(200)?.body == content(round, 3000));
                door.post("/refs/shared", &content(round, 10))?.expect(201)?;
                door.delete(&path)?.expect(204)?;
            }
            Ok(())
        }));
    }
    let joined = bounded("doors and mount in one directory", 3 * PATIENCE, move || {
        let done: Result<()> = doors.into_iter().try_for_each(|one| one.join().expect("no panic"));
        stop.store(true, Ordering::Relaxed);
        let rounds = workers.into_iter().map(|one| one.join().expect("no panic"));
        done.and_then(|()| rounds.sum::<Result<u64>>())
    })??;
    ensure!(joined > 0, "the mount has done nothing meanwhile");
    Ok(())
}

#[test]
fn a_hundred_at_once_and_those_that_break_off() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Embedded)?;
    let mut seed = Seed::announced("doors");
    let mut threads = Vec::new();
    for worker in 0..100u64 {
        let (door, mut seed) = (site.door.clone(), seed.fork());
        threads.push(std::thread::spawn(move || -> Result<()> {
            for round in 0..4 {
                let len = 1 + usize::try_from(seed.below(300_000))?;
                let stamp = worker * 100 + round;
                let same = worker % 2 == 0;
                let path = if same { "/refs/same".into() } else { format!("/refs/own-{worker}") };
                if seed.chance(40) {
                    // It promises more than it sends.
                    let said = (len + 1 + usize::try_from(seed.below(1000))?).to_string();
                    let mut stream = door.begin("POST", &path, &[("Content-Length", &said)])?;
                    stream.write_all(&content(u64::MAX, len))?;
                    drop(stream);
                    continue;
                }
                let mut bytes = content(stamp, len + 8);
                bytes[..8].copy_from_slice(&stamp.to_le_bytes());
                door.post(&path, &bytes)?.expect(201)?;
                let got = door.get(&path)?.expect(200)?.body;
                let stamp = u64::from_le_bytes(got[..8].try_into()?);
                ensure!(first_difference(stamp, 8, &got[8..]).is_none(), "{path} is a mixture");
                ensure!(same || got == bytes, "{path} is another's");
            }
            Ok(())
        }));
    }
    bounded("a hundred clients", 4 * PATIENCE, move || {
        threads.into_iter().try_for_each(|one| one.join().expect("no panic"))
    })??;
    for name in names(&site.demo.file("refs"))? {
        let bytes = fs::read(site.demo.file("refs").join(&name))?;
        let stamp = u64::from_le_bytes(bytes[..8].try_into()?);
        ensure!(first_difference(stamp, 8, &bytes[8..]).is_none(), "{name} is a mixture");
        ensure!(name == "same" || name.starts_with("own-"), "{name} is left over");
    }
    site.demo.stop(Stop::Umount)?;
    site.demo.fsck()
}

#[test]
fn databases_keep_any_bytes_and_do_not_see_each_other() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let (demo, door) = (&site.demo, &site.door);
    let mut lines = site.lines()?;
    let none = json!({"operation": "get", "key": "a"});
    ensure!(lines.ask(&none)?["error"] == "no_such_database");
    ensure!(door.get("/kv/0/a")?.expect(404)?.error() == "no_such_database");

    // By each way in, read by the others.
    ensure!(
        lines.ask(&json!({"operation": "put", "key": "a", "value": "b", "id": 7}))?
            == json!({"ok": true, "id": 7})
    );
    ensure!(door.get("/kv/0/a")?.expect(200)?.body == b"b");
    door.put("/kv/1/a", b"\xff\0other")?.expect(204)?;
    let (ok, said, why) =
        shell_kv(door, &["put", "c d/e", "from a shell", "--database", "1"], b"")?;
    ensure!(ok && said.is_empty(), "{why}");
    ensure!(
        lines.ask(&json!({"operation": "get", "database": 1, "key": "c d/e"}))?["value"]
            == "from a shell"
    );
    let binary = lines.ask(&json!({"operation": "get", "database": 1, "key": "a"}))?;
    ensure!(
        binary == json!({"ok": true, "encoding": "base64", "value": "/wBvdGhlcg=="}),
        "{binary}"
    );
    let (ok, said, _) = shell_kv(door, &["get", "a", "--database", "1"], b"")?;
    ensure!(ok && said == b"\xff\0other");
    ensure!(fs::read(demo.file("kv/1/c d%2Fe"))? == b"from a shell", "in the mount");
    fs::write(demo.file("kv/1/by the mount"), b"m")?;

    // They do not see each other.
    ensure!(door.get("/kv/0/a")?.expect(200)?.body == b"b");
    ensure!(door.get("/kv/0/c%20d%2Fe")?.expect(404)?.error() == "no_such_key");
    ensure!(
        lines.ask(&json!({"operation": "get", "key": "by the mount"}))?["error"] == "no_such_key"
    );
    let (ok, said, _) = shell_kv(door, &["keys", "--database", "1"], b"")?;
    ensure!(ok && said == b"a\nby the mount\nc d/e\n", "{}", String::from_utf8_lossy(&said));
    let listed =
        lines.ask(&json!({"operation": "keys", "database": 1, "after": "a", "limit": 1}))?;
    ensure!(
        listed == json!({"ok": true, "keys": ["by the mount"], "next": "by the mount"}),
        "{listed}"
    );
    ensure!(
        lines.ask(&json!({"operation": "keys", "database": 3}))?["error"] == "no_such_database"
    );

    // Gone, everywhere.
    ensure!(
        lines.ask(&json!({"operation": "delete", "database": 1, "key": "a"}))?
            == json!({"ok": true})
    );
    ensure!(door.get("/kv/1/a")?.expect(404)?.error() == "no_such_key");
    let (ok, _, why) = shell_kv(door, &["delete", "a", "--database", "1"], b"")?;
    ensure!(!ok && why.contains("no_such_key: "), "{why}");

    many_keys(&site)?;
    large_values(&site)
}

#[test]
fn key_value_goes_on_with_two_of_eight_daemons_killed() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Served)?;
    let value = |number: u64| content(number, [0, 1, 100, 70_000, 3 << 20][number as usize % 5]);
    for number in 0..20 {
        site.door.put(&format!("/kv/0/before-{number:02}"), &value(number))?.expect(204)?;
    }
    // What is in no memory has to be read.
    site.demo.remount()?;
    site.demo.kill_daemon(0)?;
    site.demo.kill_daemon(4)?;
    let (door, mut lines) = (&site.door, site.lines()?);
    let by_line = |lines: &mut Lines, key: &str| -> Result<Vec<u8>> {
        let key = STANDARD.encode(key);
        let got = lines.ask(&json!({"operation": "get", "key": key, "encoding": "base64"}))?;
        Ok(decoded(got["value"].as_str().with_context(|| got.to_string())?))
    };
    for number in 0..20 {
        let key = format!("before-{number:02}");
        let bytes = match number % 2 {
            0 => door.get(&format!("/kv/0/{key}"))?.expect(200)?.body,
            _ => by_line(&mut lines, &key)?,
        };
        ensure!(bytes == value(number), "{key}");
    }
    // Put by one way, got by the other.
    for number in 0..10 {
        let (http, line) = (format!("http-{number}"), format!("line-{number}"));
        door.put(&format!("/kv/0/{http}"), &value(number))?.expect(204)?;
        let put = json!({
            "operation": "put",
            "key": STANDARD.encode(&line),
            "value": STANDARD.encode(value(number)),
            "encoding": "base64",
        });
        ensure!(lines.ask(&put)? == json!({"ok": true}), "{line}");
        ensure!(by_line(&mut lines, &http)? == value(number), "{http}");
        ensure!(door.get(&format!("/kv/0/{line}"))?.expect(200)?.body == value(number), "{line}");
    }
    door.delete("/kv/0/before-00")?.expect(204)?;
    let delete = json!({"operation": "delete", "key": "before-01"});
    ensure!(lines.ask(&delete)? == json!({"ok": true}));
    let mut all: Vec<String> = (2..20).map(|number| format!("before-{number:02}")).collect();
    all.extend((0..10).flat_map(|number| [format!("http-{number}"), format!("line-{number}")]));
    all.sort();
    ensure!(door.get("/kv/0")?.expect(200)?.json()?["keys"] == json!(all), "by HTTP");
    ensure!(lines.ask(&json!({"operation": "keys"}))?["keys"] == json!(all), "by a line");

    site.demo.remount()?;
    for number in 0..10 {
        let path = format!("/kv/0/line-{number}");
        ensure!(site.door.get(&path)?.expect(200)?.body == value(number), "{path}, mounted anew");
    }
    site.demo.stop(Stop::Umount)?;
    site.demo.switch(Mode::Embedded)?;
    site.demo.fsck()
}

/// Any bytes are a key, lists are in order, and go on where they were.
fn many_keys(site: &Site) -> Result<()> {
    let mut seed = Seed::announced("doors");
    let mut keys: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut lines = site.lines()?;
    while keys.len() < 300 {
        let len = 1 + usize::try_from(seed.below(20))?;
        let mut key = vec![0; len];
        fill(seed.next_u64(), 0, &mut key);
        let encoded: String = key.iter().map(|byte| format!("%{byte:02x}")).collect();
        site.door.put(&format!("/kv/9/{encoded}"), &key)?.expect(204)?;
        ensure!(site.door.get(&format!("/kv/9/{encoded}"))?.expect(200)?.body == key);
        keys.insert(key);
    }
    let (mut found, mut after) = (Vec::new(), Some(String::new()));
    while let Some(from) = after {
        let asked = json!({"operation": "keys", "database": 9, "limit": 47, "after": from, "encoding": "base64"});
        let page = lines.ask(&asked)?;
        let texts = page["keys"].as_array().with_context(|| page.to_string())?;
        found.extend(texts.iter().filter_map(Value::as_str).map(decoded));
        after = page["next"].as_str().map(str::to_owned);
    }
    ensure!(found == keys.into_iter().collect::<Vec<_>>(), "the keys, in the order of their bytes");
    Ok(())
}

fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).expect("what the door sends is base64")
}

fn large_values(site: &Site) -> Result<()> {
    const MOST: usize = 16 << 20;
    let mut lines = site.lines()?;
    let most = content(5, MOST);
    site.door.put("/kv/5/most", &most)?.expect(204)?;
    ensure!(site.door.get("/kv/5/most")?.expect(200)?.body == most);
    let got = lines.ask(&json!({"operation": "get", "database": 5, "key": "most"}))?;
    ensure!(decoded(got["value"].as_str().context("a value")?) == most, "by a line");
    let text = "x".repeat(MOST);
    let put =
        lines.ask(&json!({"operation": "put", "database": 5, "key": "text", "value": text}))?;
    ensure!(put == json!({"ok": true}), "{put}");
    let more = vec![0; MOST + 1];
    ensure!(site.door.put("/kv/5/more", &more)?.expect(413)?.error() == "too_large");
    let (ok, _, why) = shell_kv(&site.door, &["put", "more", "--database", "5"], &more)?;
    ensure!(!ok && why.contains("too_large: "), "{why}");
    let put = json!({"operation": "put", "database": 5, "key": "m", "value": "x".repeat(MOST + 1)});
    ensure!(lines.ask(&put)?["error"] == "too_large");
    // What can be no line ends the connection, and nothing else.
    let long = lines.line(&"y".repeat(25 << 20));
    ensure!(long.is_err() || long?["error"] == "too_large");
    ensure!(
        site.lines()?.ask(&json!({"operation": "get", "database": 5, "key": "m"}))?["error"]
            == "no_such_key"
    );
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused_and_nothing_of_it_is_done() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let door = &site.door;
    fs::write(site.demo.file("secret"), b"not below refs")?;
    let long = "k".repeat(256);
    for (method, path, status, error) in [
        ("GET", "/none", 404, "no_such_page"),
        ("PUT", "/", 405, "wrong_method"),
        ("GET", "/refs", 404, "no_such_page"),
        ("GET", "/refs/", 404, "no_such_page"),
        ("PATCH", "/refs/a", 405, "wrong_method"),
        ("GET", "/refs/../secret", 404, "no_such_ref"),
        ("GET", "/refs/..%2fsecret", 404, "no_such_ref"),
        ("GET", "/refs/%2e%2e/secret", 404, "no_such_ref"),
        ("GET", "/refs/%2e%2e%2fsecret", 404, "no_such_ref"),
        ("GET", "/refs//etc/passwd", 404, "no_such_ref"),
        ("GET", "/refs/a%00b", 404, "no_such_ref"),
        ("GET", &format!("/refs/{long}"), 400, "bad_request"),
        ("PUT", &format!("/kv/0/{long}"), 400, "bad_request"),
        ("PUT", "/kv/x/a", 400, "bad_request"),
        ("PUT", "/kv/-1/a", 400, "bad_request"),
        ("PUT", "/kv/4294967296/a", 400, "bad_request"),
        ("PUT", "/kv/00/a", 400, "bad_request"),
        ("GET", "/kv/..%2f..%2fsecret/a", 400, "bad_request"),
        ("GET", "/kv/0?limit=x", 400, "bad_request"),
        ("GET", "/kv/0?nonsense=1", 400, "bad_request"),
        ("GET", "/kv/0?encoding=base64&after=!", 400, "bad_request"),
    ] {
        let got = door.ask(method, path, &[], &[])?;
        ensure!(got.status == status && got.error() == error, "{method} {path}: {got:?}");
    }
    // From elsewhere: other names of this machine, pages of other sites.
    for (method, headers, may) in [
        ("GET", vec![("Host", "evil.example")], false),
        ("POST", vec![("Origin", "http://evil.example")], false),
        ("POST", vec![("Sec-Fetch-Site", "cross-site")], false),
        ("POST", vec![("Sec-Fetch-Site", "same-origin")], true),
    ] {
        let got = door.ask(method, "/refs/b", &headers, b"")?;
        ensure!((got.error() != "other_site") == may, "{method} {headers:?}: {got:?}");
    }
    // A head that never ends, and one that injects another.
    let huge = "h".repeat(200_000);
    let got = door.ask("GET", "/refs/a", &[("X-Huge", &huge)], &[]);
    ensure!(got.is_err() || got?.status == 431);
    let got = door.get("/refs/a%0d%0aSet-Cookie:%20x=1")?.expect(404)?;
    ensure!(!got.headers.contains_key("set-cookie"), "{got:?}");
    for name in ["x-content-type-options", "content-security-policy", "referrer-policy"] {
        ensure!(got.headers.contains_key(name), "{name} is missing: {:?}", got.headers);
    }

    lines_that_make_no_sense(&site)?;
    let top = names(&site.demo.path())?;
    ensure!(top == ["refs", "secret"].map(str::to_owned).into(), "left over: {top:?}");
    ensure!(names(&site.demo.file("refs"))? == ["b".to_owned()].into());
    Ok(())
}

fn lines_that_make_no_sense(site: &Site) -> Result<()> {
    let mut lines = site.lines()?;
    for line in ["", "nonsense", "[]", " GET /kv/0/a HTTP/1.1"] {
        let mut lines = site.lines()?;
        ensure!(lines.line(line)?["error"] == "bad_request", "{line}");
        ensure!(lines.line("{}").is_err(), "{line}: it ends the connection");
    }
    for line in [
        "{}",
        r#"{"operation":"get","key":"a","id":[1]}"#,
        r#"{"operation":"get","key":"a","id":{}}"#,
        r#"{"operation":"drop","key":"a"}"#,
        r#"{"operation":"get"}"#,
        r#"{"operation":"get","key":""}"#,
        r#"{"operation":"put","key":"a"}"#,
        r#"{"operation":"get","key":"a","database":-1}"#,
        r#"{"operation":"get","key":"a","database":4294967296}"#,
        r#"{"operation":"get","key":"a","more":1}"#,
        r#"{"operation":"get","key":"!","encoding":"base64"}"#,
        r#"{"operation":"get","key":7}"#,
    ] {
        ensure!(lines.line(line)?["error"] == "bad_request", "{line}");
    }
    Ok(())
}

#[test]
fn too_few_disks_are_told_and_all_is_well_when_they_are_back() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Served)?;
    let door = site.door.clone();
    ensure!(door.get("/readyz")?.expect(200)?.body == b"ready\n");
    let large = content(3, 3 << 20);
    door.put("/kv/0/large", &large)?.expect(204)?;
    door.put("/kv/0/small", b"small")?.expect(204)?;
    for number in 0..6 {
        site.demo.kill_daemon(number)?;
    }
    let mut lines = site.lines()?;
    let put = json!({"operation": "put", "key": "small", "value": "other"});
    wait_until("a put to be refused", PATIENCE, || {
        lines.ask(&put).is_ok_and(|said| said["error"] == "too_few_disks")
    })?;
    let put = door.put("/kv/0/small", b"other")?.expect(503)?;
    ensure!(put.error() == "too_few_disks" && put.headers.contains_key("retry-after"), "{put:?}");
    let (ok, _, why) = shell_kv(&door, &["put", "small", "other"], b"")?;
    ensure!(!ok && why.contains("too_few_disks: "), "{why}");
    // What it has found is remembered for a second.
    wait_until("the door to say that it is not ready", PATIENCE, || {
        door.get("/readyz").is_ok_and(|ready| ready.status == 503)
    })?;
    door.get("/healthz")?.expect(200)?;
    for number in 0..6 {
        site.demo.restart_daemon(number)?;
    }
    wait_until("the door to be ready again", 2 * PATIENCE, || {
        door.get("/readyz").is_ok_and(|ready| ready.status == 200)
    })?;
    door.put("/kv/0/small", b"third")?.expect(204)?;
    ensure!(door.get("/kv/0/small")?.expect(200)?.body == b"third");
    ensure!(door.get("/kv/0/large")?.expect(200)?.body == large);
    site.demo.stop(Stop::Umount)?;
    let (ok, _, why) = shell_kv(&door, &["get", "small"], b"")?;
    ensure!(!ok && why.contains("not_connected: "), "{why}");
    Ok(())
}

#[test]
fn many_who_put_at_once_share_the_syncs() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Served)?;
    let entries = || site.door.metric("meta_journal_entries_total");
    let put = |clients: usize, each: usize| -> Result<f64> {
        let before = entries()?;
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                let address = site.kv.clone();
                std::thread::spawn(move || -> Result<()> {
                    let mut lines = Lines::connect(&address)?;
                    for number in 0..each {
                        let key = format!("{client}-{number}");
                        let put = json!({"operation": "put", "key": key, "value": "v".repeat(100)});
                        ensure!(lines.ask(&put)? == json!({"ok": true}));
                    }
                    Ok(())
                })
            })
            .collect();
        bounded("clients that put", 2 * PATIENCE, move || {
            threads.into_iter().try_for_each(|one| one.join().expect("no panic"))
        })??;
        Ok(entries()? - before)
    };
    let alone = put(1, 64)?;
    let together = put(64, 20)?;
    println!("64 puts of one client: {alone} entries; 1280 of 64: {together}");
    ensure!(alone >= 60.0, "a put was answered before it was synced: {alone} entries for 64");
    ensure!(together <= 1280.0 / 4.0, "puts do not share syncs: {together} entries for 1280");
    Ok(())
}

#[test]
fn a_volume_is_served_without_a_mount() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Served)?;
    fs::write(site.demo.file("by the mount"), b"m")?;
    fs::create_dir(site.demo.file("refs"))?;
    fs::write(site.demo.file("refs/a"), b"before")?;
    let serve = |http: &str| {
        let mut command = Command::new(ashlar());
        command.args(["serve", "demo", "--http", http, "--cluster"]);
        command.arg(site.demo.cluster_file());
        command
    };
    let refused = output(&mut serve(&free_address()?), PATIENCE)?;
    let why = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && why.contains("is mounted at"), "{why}");
    let address = free_address()?;
    let public = output(&mut serve("0.0.0.0:0"), PATIENCE)?;
    let why = String::from_utf8_lossy(&public.stderr);
    ensure!(public.status.code() == Some(1) && why.contains("--tls"), "{why}");
    let mut first = serve(&address);
    let mut second = serve(&free_address()?);
    site.demo.stop(Stop::Umount)?;

    let log = site.demo.outside("serve.log");
    let mut server = Process::start_ready(&mut first, "serving", &log)?;
    let door = Door::at(&address);
    ensure!(door.get("/refs/a")?.expect(200)?.body == b"before");
    door.post("/refs/a", b"after")?.expect(201)?;
    door.put("/kv/0/k", b"v")?.expect(204)?;
    let refused = output(&mut second, PATIENCE)?;
    let why = String::from_utf8_lossy(&refused.stderr);
    let by = format!("volume demo is served by process {}", server.pid());
    ensure!(!refused.status.success() && why.contains(&by), "{why}");
    let why = site.demo.refused()?;
    ensure!(why.contains(&by), "{why}");
    // Told to end in the middle of an upload: that is cut off, and leaves nothing.
    let mut stream = door.begin("POST", "/refs/half", &[("Content-Length", "1000000")])?;
    stream.write_all(&content(1, 300_000))?;
    server.signal(Signal::SIGTERM)?;
    let status = server.wait(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", server.said());
    ensure!(answer(stream, "POST").map_or(true, |half| half.status != 201));
    site.demo.mount()?;
    ensure!(fs::read(site.demo.file("refs/a"))? == b"after");
    ensure!(names(&site.demo.file("refs"))? == ["a".to_owned()].into());
    ensure!(fs::read(site.demo.file("kv/0/k"))? == b"v");
    site.demo.stop(Stop::Umount)?;
    site.demo.switch(Mode::Embedded)?;
    site.demo.fsck()
}

#[test]
fn the_demo_says_where_its_door_is() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let demo = Demo::start(Setup::new(Mode::Embedded))?;
    let mut address = None;
    wait_until("an address in what it says", PATIENCE, || {
        let said = demo.said();
        let line = said.lines().find_map(|line| line.trim().strip_prefix("http "));
        let http = line.and_then(|line| line.trim().strip_prefix("http://"));
        address = http.map(|http| http.trim_end_matches('/').to_owned());
        address.is_some()
    })
    .with_context(|| demo.said())?;
    let door = Door::at(&address.context("an address")?);
    door.post("/refs/a", b"hello")?.expect(201)?;
    ensure!(fs::read(demo.file("refs/a"))? == b"hello");
    ensure!(door.get("/healthz")?.expect(200)?.body == b"alive\n");
    ensure!(door.metric("ashlar_door_seconds_count")? >= 1.0);
    Ok(())
}

#[test]
fn those_who_are_slow_cost_little_memory_and_keep_nobody_out() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    const SLOW: usize = 400;
    let site = Site::start(Mode::Embedded)?;
    let bytes = content(1, 64 << 20);
    site.door.post("/refs/large", &bytes)?.expect(201)?;
    let mut slow: Vec<TcpStream> = Vec::new();
    for number in 0..SLOW {
        // Readers that do not read, and writers that do not write.
        let stream = match number % 2 {
            0 => site.door.begin("GET", "/refs/large", &[])?,
            _ => {
                let path = format!("/refs/slow-{number}");
                let mut stream =
                    site.door.begin("POST", &path, &[("Content-Length", "1000000")])?;
                stream.write_all(&bytes[..100_000])?;
                stream
            }
        };
        slow.push(stream);
    }
    // Each of them has begun.
    for stream in slow.iter_mut().step_by(2) {
        let mut first = [0; 1];
        stream.read_exact(&mut first)?;
    }
    let got = site.door.get("/refs/large")?.expect(200)?;
    ensure!(got.body == bytes, "what the others are slow with has other bytes");
    site.door.post("/refs/quick", b"quick")?.expect(201)?;
    let peak = site.demo.peak_memory()?[&None];
    println!("{} MiB of memory with {SLOW} slow clients", peak >> 20);
    ensure!(peak < 420 << 20, "{} MiB of memory", peak >> 20);
    drop(slow);
    wait_until("all who were slow to be gone", PATIENCE, || {
        site.door.metric("ashlar_door_connections").is_ok_and(|open| open <= 2.0)
    })?;
    let left = names(&site.demo.file("refs"))?;
    ensure!(left == ["large", "quick"].map(str::to_owned).into(), "left over: {left:?}");
    Ok(())
}

/// Where its banner says, also where another one has the usual ports.
#[test]
fn a_demo_opens_all_doors_of_which_nothing_is_said() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let demos =
        [Demo::start(Setup::new(Mode::Embedded))?, Demo::start(Setup::new(Mode::Embedded))?];
    let mut places = BTreeSet::new();
    for demo in &demos {
        let said = demo.said();
        let at = |door: &str| {
            let mut lines = said.lines().filter_map(|line| line.trim_start().strip_prefix(door));
            let address = lines.find_map(|line| line.split_whitespace().next());
            let address = address.with_context(|| format!("no {door} in {said}"))?;
            let address = address.trim_start_matches("http://").trim_end_matches([',', '/']);
            anyhow::Ok(address.to_owned())
        };
        let (http, kv, s3) = (at("http ")?, at("kv ")?, at("s3 ")?);
        Door::at(&http).get("/healthz")?.expect(200)?;
        Door::at(&s3).get("/photos")?.expect(404)?;
        let kept = Lines::connect(&kv)?.ask(&json!({"operation": "keys", "database": 0}))?;
        ensure!(kept["error"] == "no_such_database", "{kept}");
        places.extend([http, kv, s3]);
    }
    ensure!(places.len() == 6, "two demos have the same address: {places:?}");
    Ok(())
}
