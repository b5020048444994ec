//! Promise: the HTTP API shows the same tree as the mount, to whoever logs in what his account lets him see: lists, files in
//! and out, folders, and whatever is moved, copied and deleted; what makes no sense gets a sentence, and changes nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::accounts::Accounts;
use tests::cluster::{Demo, can_mount};
use tests::door::{ANN, Answer, Door, PASSWORD, start};
use tests::process::{PATIENCE, run};
use tests::seed::content;

/// A mounted volume, with its door.
struct Site {
    demo: Demo,
    door: Door,
}

impl Site {
    fn start() -> Result<Self> {
        let (demo, door) = start()?;
        Ok(Self { demo, door })
    }

    /// With a folder of Ann's, in which she writes and Bob reads.
    fn with_users() -> Result<Self> {
        let site = Self::start()?;
        fs::create_dir(site.demo.file("photos"))?;
        std::os::unix::fs::chown(site.demo.file("photos"), Some(ANN), Some(ANN))?;
        fs::write(site.demo.file("secret"), "secret")?;
        let accounts = Accounts(&site.demo);
        let ann = format!("user add ann --uid {ANN} --gid {ANN} --folder /photos");
        accounts.with_password(&ann, PASSWORD)?;
        let bob = "user add bob --uid 12346 --gid 12346 --folder /photos --read-only";
        accounts.with_password(bob, PASSWORD)?;
        accounts.with_password("user add root --uid 0 --gid 0", PASSWORD)?;
        Ok(site)
    }
}

/// With an address below the prefix.
fn at(path: &str) -> String {
    format!("/api/v1/{path}")
}

fn post(door: &Door, path: &str, said: &Value) -> Result<Answer> {
    door.post(&at(path), said.to_string().as_bytes())
}

/// The addresses of what a folder has.
fn names(door: &Door, folder: &str) -> Result<BTreeSet<String>> {
    let listed = door.get(&at(&format!("entries/{folder}")))?.expect(200)?.json()?;
    let all = listed["entries"].as_array().context("entries")?;
    Ok(all.iter().map(|entry| entry["address"].as_str().unwrap_or_default().to_owned()).collect())
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_mount_sees_what_comes_by_the_api_and_the_other_way_round() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start()?;
    let (door, file) = (&site.door, |name: &str| site.demo.file(name));
    let me = door.get(&at("me"))?.expect(200)?.json()?;
    ensure!(me["user"].is_null() && me["folder"] == "/" && me["write"] == true, "{me}");
    ensure!(me["uid"] == nix::unistd::geteuid().as_raw() && me["admin"] == true, "{me}");

    let made = door.post(&at("folders/f"), b"")?.expect(201)?.json()?;
    ensure!(made["name"] == "f" && made["kind"] == "folder", "{made}");
    ensure!(door.post(&at("folders/f"), b"")?.expect(409)?.error() == "conflict");
    door.post(&at("folders/none/f"), b"")?.expect(409)?;
    let put =
        door.put(&at("content/f/a%20%C3%BC.png?modified=1234567890123"), &content(1, 300_000))?;
    let put = put.expect(201)?.json()?;
    ensure!(put["entry"]["size"] == 300_000 && put["entry"]["modified"] == 1_234_567_890_123_i64);
    ensure!(fs::read(file("f/a \u{fc}.png"))? == content(1, 300_000), "put, and read on the mount");
    let metadata = fs::metadata(file("f/a \u{fc}.png"))?;
    ensure!((metadata.mtime(), metadata.mtime_nsec()) == (1_234_567_890, 123_000_000));

    // What the mount makes, and names that are no text.
    let odd = site.demo.file("f").join(OsStr::from_bytes(b"\xff\xfe"));
    fs::write(&odd, b"odd")?;
    symlink("a \u{fc}.png", file("f/link"))?;
    symlink("../..", file("f/out"))?;
    ensure!(names(door, "f")? == set(&["a%20%C3%BC.png", "%FF%FE", "link", "out"]));
    ensure!(door.get(&at("content/f/%FF%FE"))?.expect(200)?.body == b"odd");
    let link = door.get(&at("entry/f/link"))?.expect(200)?.json()?;
    ensure!(link["target"] == "a \u{fc}.png" && link["leads_to"] == "file", "{link}");
    let out = door.get(&at("entry/f/out"))?.expect(200)?.json()?;
    ensure!(out["kind"] == "link" && out["leads_to"].is_null() && out.get("leads_to").is_some());
    door.get(&at("entries/f/out"))?.expect(403)?;
    what_is_sent(door)?;

    fs::set_permissions(file("f/a \u{fc}.png"), fs::Permissions::from_mode(0o750))?;
    door.put(&at("content/f/a%20%C3%BC.png"), b"shorter")?.expect(201)?;
    ensure!(fs::metadata(file("f/a \u{fc}.png"))?.permissions().mode() & 0o777 == 0o750);
    let only_new = [("If-None-Match", "*")];
    let refused = door.ask("PUT", &at("content/f/link"), &only_new, b"x")?.expect(412)?;
    ensure!(refused.error() == "precondition_failed");
    ensure!(fs::read(file("f/link"))? == b"shorter", "what a condition excludes is not replaced");
    Ok(())
}

/// Ranges, tags, types, and what a browser is told.
fn what_is_sent(door: &Door) -> Result<()> {
    let path = at("content/f/a%20%C3%BC.png");
    let whole = door.get(&path)?.expect(200)?;
    ensure!(whole.body == content(1, 300_000) && whole.headers["content-type"] == "image/png");
    ensure!(whole.headers["content-security-policy"].contains("sandbox"), "{:?}", whole.headers);
    ensure!(!whole.headers.contains_key("content-disposition"));
    let part = door.ask("GET", &path, &[("Range", "bytes=1000-1999")], &[])?.expect(206)?;
    ensure!(part.body == content(1, 300_000)[1000..2000]);
    let tag = whole.headers["etag"].clone();
    door.ask("GET", &path, &[("If-None-Match", &tag)], &[])?.expect(304)?;
    let head = door.ask("HEAD", &path, &[], &[])?.expect(200)?;
    ensure!(head.headers["content-length"] == "300000" && head.body.is_empty());
    let entry = door.get(&at("entry/f/a%20%C3%BC.png"))?.expect(200)?.json()?;
    ensure!(entry["tag"] == tag.as_str(), "{entry}");
    let down = door.get(&format!("{path}?download"))?.expect(200)?;
    let name = "attachment; filename=\"a _.png\"; filename*=UTF-8''a%20%C3%BC.png";
    ensure!(down.headers["content-disposition"] == name, "{:?}", down.headers);
    door.put(&at("content/f/x.html"), b"<script>")?.expect(201)?;
    door.put(&at("content/f/x.svg"), b"<svg/>")?.expect(201)?;
    door.put(&at("content/f/x.pdf"), b"%PDF")?.expect(201)?;
    let html = door.get(&at("content/f/x.html"))?.expect(200)?;
    ensure!(html.headers["content-type"].starts_with("text/plain"), "{:?}", html.headers);
    ensure!(html.headers["x-content-type-options"] == "nosniff");
    let svg = door.get(&at("content/f/x.svg"))?.expect(200)?;
    ensure!(svg.headers["content-type"] == "application/octet-stream");
    let pdf = door.get(&at("content/f/x.pdf"))?.expect(200)?;
    ensure!(pdf.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'self'");
    for name in ["html", "svg", "pdf"] {
        door.delete(&at(&format!("entries/f/x.{name}")))?.expect(204)?;
    }
    door.get(&at("content/f"))?.expect(409)?;
    Ok(())
}

#[test]
fn whole_folders_are_moved_copied_and_deleted() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start()?;
    let (door, file) = (&site.door, |name: &str| site.demo.file(name));
    fs::create_dir_all(file("a/sub/deep"))?;
    fs::write(file("a/sub/deep/x"), content(2, 200_000))?;
    symlink("deep/x", file("a/sub/link"))?;
    let way = |from: &str, to: &str, replace| json!({"from": from, "to": to, "replace": replace});
    post(door, "copy", &way("a", "b", false))?.expect(204)?;
    ensure!(fs::read(file("b/sub/deep/x"))? == content(2, 200_000));
    ensure!(fs::read_link(file("b/sub/link"))?.as_os_str() == "deep/x", "a link stays a link");
    let taken = post(door, "move", &way("a", "b", false))?.expect(409)?;
    ensure!(taken.error() == "conflict" && file("a").is_dir(), "{taken:?}");
    for (from, to) in [("a", "a/sub/new"), ("a", "a"), ("a/sub", "a")] {
        let refused = post(door, "move", &way(from, to, true))?;
        ensure!(refused.status == 403, "{from} {to}: {refused:?}");
    }
    fs::write(file("a/new"), b"new")?;
    post(door, "move", &way("a", "b", true))?.expect(204)?;
    ensure!(fs::read(file("b/new"))? == b"new" && !file("a").exists());
    post(door, "move", &json!({"from": "b/new", "to": "n%20n"}))?.expect(204)?;
    ensure!(fs::read(file("n n"))? == b"new");
    post(door, "copy", &way("n%20n", "b/sub/link", true))?.expect(204)?;
    ensure!(
        fs::read(file("b/sub/link"))? == b"new" && file("b/sub/link").symlink_metadata()?.is_file()
    );

    // Whoever names a file does not mean all that is in a folder, nor the other way round.
    for way_of in ["move", "copy"] {
        for (from, to, there) in [("n%20n", "b", "folder"), ("b", "n%20n", "file")] {
            let refused = post(door, way_of, &way(from, to, true))?.expect(409)?.json()?;
            ensure!(refused["there"] == there, "{way_of} {from} {to}: {refused}");
        }
    }
    ensure!(file("b/sub/deep/x").exists() && fs::read(file("n n"))? == b"new");

    // What cannot be done of it is named, and the rest is done.
    run(Command::new("mkfifo").arg(file("b/sub/pipe")), PATIENCE)?;
    let said = post(door, "copy", &way("b", "c", false))?.expect(200)?.json()?;
    ensure!(said["failures"][0]["path"] == "b/sub/pipe" && said["more"] == 0, "{said}");
    ensure!(fs::read(file("c/sub/deep/x"))? == content(2, 200_000));
    door.delete(&at("entries/b"))?.expect(204)?;
    ensure!(door.delete(&at("entries/b"))?.expect(404)?.error() == "no_such_file");
    ensure!(door.delete(&at("entries/"))?.expect(403)?.error() == "denied");
    ensure!(names(door, "")? == set(&["c", "n%20n"]));
    Ok(())
}

#[test]
fn a_long_list_comes_in_parts() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start()?;
    fs::create_dir(site.demo.file("many"))?;
    let all: BTreeSet<String> = (0..1500).map(|n| format!("file-{n}")).collect();
    for name in &all {
        fs::write(site.demo.file("many").join(name), b"")?;
    }
    for limit in [1, 256, 700, 10_000] {
        let (mut found, mut after) = (BTreeSet::new(), String::new());
        // Of one at a time the first few will do.
        for _ in 0..10 {
            let path = at(&format!("entries/many?limit={limit}{after}"));
            let part = site.door.get(&path)?.expect(200)?.json()?;
            ensure!(part["folder"]["name"] == "many", "{part}");
            let entries = part["entries"].as_array().context("entries")?;
            ensure!(entries.len() <= limit, "{} of {limit}", entries.len());
            for entry in entries {
                let name = entry["name"].as_str().context("a name")?.to_owned();
                ensure!(found.insert(name.clone()), "{name} is there twice");
            }
            match part["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        ensure!(
            if limit == 1 { found.len() == 10 } else { found == all },
            "{limit}: {}",
            found.len()
        );
    }
    for limit in ["0", "10001", "x", "-1", "1&limit=2"] {
        site.door.get(&at(&format!("entries/many?limit={limit}")))?.expect(400)?;
    }
    Ok(())
}

#[test]
fn whoever_logs_in_sees_what_is_his() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::with_users()?;
    let refused = site.door.get(&at("me"))?.expect(401)?;
    ensure!(refused.error() == "not_logged_in" && refused.headers.contains_key("www-authenticate"));
    let of_page = [("X-Requested-With", "ashlar")];
    let refused = site.door.ask("GET", &at("me"), &of_page, b"")?.expect(401)?;
    ensure!(!refused.headers.contains_key("www-authenticate"), "a box would open: {refused:?}");

    let [ann, bob, root] = ["ann", "bob", "root"].map(|name| site.door.of(name, PASSWORD));
    let me = ann.get(&at("me"))?.expect(200)?.json()?;
    ensure!(me["user"] == "ann" && me["uid"] == ANN && me["folder"] == "/photos", "{me}");
    ensure!(me["write"] == true && me["admin"] == false, "{me}");
    let his = bob.get(&at("me"))?.expect(200)?.json()?;
    ensure!(his["write"] == false && his["admin"] == false, "{his}");
    ensure!(root.get(&at("me"))?.expect(200)?.json()?["admin"] == true);

    ann.put(&at("content/a.txt"), b"hers")?.expect(201)?;
    ensure!(fs::metadata(site.demo.file("photos/a.txt"))?.uid() == ANN);
    ensure!(bob.get(&at("content/a.txt"))?.expect(200)?.body == b"hers");
    let way = json!({"from": "a.txt", "to": "b.txt"});
    for refused in [
        bob.put(&at("content/a.txt"), b"his")?,
        bob.delete(&at("entries/a.txt"))?,
        bob.post(&at("folders/f"), b"")?,
        post(&bob, "move", &way)?,
        post(&bob, "copy", &way)?,
    ] {
        ensure!(refused.status == 403 && refused.error() == "denied", "{refused:?}");
    }
    ensure!(names(&ann, "")? == set(&["a.txt"]));
    nobody_leaves_his_folder(&site, &ann)?;

    let said = Accounts(&site.demo).say("link add ann --folder /photos --expires 1h")?;
    let link = said.split_whitespace().last().context("a link")?.to_owned();
    let link = link.rsplit(['/', '=']).next().unwrap_or_default().to_owned();
    let read = site.door.get(&at(&format!("content/a.txt?link={link}")))?.expect(200)?;
    ensure!(read.body == b"hers");
    site.door.put(&at(&format!("content/a.txt?link={link}")), b"x")?.expect(403)?;
    Ok(())
}

fn nobody_leaves_his_folder(site: &Site, ann: &Door) -> Result<()> {
    symlink("../secret", site.demo.file("photos/up"))?;
    symlink("/secret", site.demo.file("photos/absolute"))?;
    for link in ["up", "absolute"] {
        let got = ann.get(&at(&format!("content/{link}")))?;
        ensure!(got.status == 403 && got.error() == "denied", "{link}: {got:?}");
    }
    for path in
        ["../secret", "%2e%2e/secret", "..%2fsecret", "a%00", "a//b", "./a", &"a".repeat(256)]
    {
        let requests = [
            ann.get(&at(&format!("content/{path}")))?,
            ann.put(&at(&format!("content/{path}")), b"x")?,
            ann.get(&at(&format!("entries/{path}")))?,
            ann.get(&at(&format!("entry/{path}")))?,
            ann.delete(&at(&format!("entries/{path}")))?,
            ann.post(&at(&format!("folders/{path}")), b"")?,
            post(ann, "copy", &json!({"from": path, "to": "x"}))?,
            post(ann, "move", &json!({"from": "a.txt", "to": path}))?,
        ];
        for got in requests {
            ensure!(got.status == 400 && got.error() == "bad_request", "{path}: {got:?}");
        }
    }
    ensure!(fs::read(site.demo.file("secret"))? == b"secret");
    Ok(())
}

#[test]
fn what_makes_no_sense_gets_a_sentence() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start()?;
    let door = &site.door;
    door.put(&at("content/a"), b"a")?.expect(201)?;
    for (method, path, status, error) in [
        ("GET", "", 404, "no_such_page"),
        ("GET", "nothing", 404, "no_such_page"),
        ("GET", "entry/none", 404, "no_such_file"),
        ("GET", "entries/a", 409, "conflict"),
        ("PATCH", "content/a", 405, "wrong_method"),
        ("POST", "me", 405, "wrong_method"),
        ("PUT", "content/", 409, "conflict"),
        ("PUT", "content/none/a", 409, "conflict"),
        ("PUT", "content/a/b", 409, "conflict"),
        ("PUT", "content/a?modified=x", 400, "bad_request"),
        ("GET", "content/a?download=x", 400, "bad_request"),
        ("POST", "move", 400, "bad_request"),
    ] {
        let got = door.ask(method, &at(path), &[], &[])?;
        ensure!(got.status == status && got.error() == error, "{method} {path}: {got:?}");
        let said = got.json()?;
        ensure!(
            said["message"].as_str().is_some_and(|why| why.len() > 10),
            "{method} {path}: {said}"
        );
    }
    ensure!(door.ask("PATCH", &at("entries/a"), &[], &[])?.headers["allow"] == "GET, DELETE, HEAD");
    for body in ["{", "[]", "{\"from\":\"a\"}", "{\"from\":1,\"to\":\"b\"}", "\u{ff}"] {
        door.post(&at("move"), body.as_bytes())?.expect(400)?;
    }
    let extra = json!({"from": "a", "to": "b", "overwrite": true});
    post(door, "move", &extra)?.expect(400)?;
    let large = json!({"from": "a", "to": "b".repeat(70_000)});
    ensure!(post(door, "move", &large)?.expect(413)?.error() == "too_large");
    let origin = [("Origin", "http://evil.example")];
    ensure!(
        door.ask("DELETE", &at("entries/a"), &origin, b"")?.expect(403)?.error() == "other_site"
    );
    let host = [("Host", "evil.example")];
    ensure!(door.ask("GET", &at("content/a"), &host, b"")?.expect(403)?.error() == "other_site");
    // What the page of another site is not shown costs no work; what it has the address of is opened from there.
    for (path, dest, status) in [
        ("search/?name=a", "image", 403),
        ("entries/", "iframe", 403),
        ("entries/", "document", 200),
        ("content/a", "video", 200),
    ] {
        let from = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Dest", dest)];
        ensure!(door.ask("GET", &at(path), &from, b"")?.status == status, "{path} {dest}");
    }
    // A body that breaks off leaves nothing.
    let mut stream = door.begin("PUT", &at("content/b"), &[("Content-Length", "1000")])?;
    std::io::Write::write_all(&mut stream, &[1; 500])?;
    drop(stream);
    ensure!(names(door, "")? == set(&["a"]) && door.get(&at("content/a"))?.body == b"a");
    Ok(())
}
