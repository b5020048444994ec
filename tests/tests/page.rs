//! Promise: the file page is served as it is, may ask nobody else for anything, and what it needs beside files is there: search, share
//! links, where a file lies, and, for administrators, how the volume is.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::accounts::Accounts;
use tests::binaries::{ashlar, workspace};
use tests::cluster::{DEMO_VOLUME, can_mount};
use tests::described::Description;
use tests::door::{ANN, Door, PASSWORD, start};
use tests::process::{PATIENCE, run};
use tests::seed::content;

fn get(door: &Door, path: &str) -> Result<Value> {
    door.get(&format!("/api/v1/{path}"))?.expect(200)?.json()
}

#[test]
fn the_page_is_there_and_asks_nobody_else() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    // Whoever comes, also when others log in.
    Accounts(&demo).with_password("user add ann --uid 1000 --gid 1000", PASSWORD)?;
    for entry in fs::read_dir(workspace().join("gateway/page"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let got = door.get(&format!("/page/{name}"))?.expect(200)?;
        ensure!(got.body == fs::read(entry.path())?, "{name} is another");
        ensure!(
            got.headers["content-type"].ends_with("; charset=utf-8"),
            "{name}: {:?}",
            got.headers
        );
    }
    let page = door.get("/?link=1.a")?.expect(200)?;
    ensure!(page.headers["content-type"].starts_with("text/html"));
    let may = &page.headers["content-security-policy"];
    for word in ["default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        ensure!(may.contains(word), "{may}");
    }
    ensure!(!may.contains("unsafe") && page.headers["x-content-type-options"] == "nosniff");
    ensure!(page.headers["referrer-policy"] == "no-referrer", "{:?}", page.headers);
    let tag = page.headers["etag"].as_str();
    door.ask("GET", "/", &[("If-None-Match", tag)], b"")?.expect(304)?;
    ensure!(door.ask("OPTIONS", "/", &[], b"")?.expect(200)?.headers["dav"] == "1, 2");
    for path in ["/page/", "/page/none.js", "/page/..%2fCargo.toml", "/page/../Cargo.toml"] {
        door.get(path)?.expect(404)?;
    }
    Ok(())
}

#[test]
fn names_are_found_wherever_they_are() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    fs::create_dir_all(demo.file("a/Needles/deep"))?;
    fs::write(demo.file("a/Needles/deep/one NEEDLE.txt"), b"1")?;
    fs::write(demo.file("a/other"), b"2")?;
    symlink("Needles", demo.file("a/needle-link"))?;
    symlink("..", demo.file("a/up"))?;
    let search = |query: &str| {
        let got = door.get(&format!("/api/v1/search/{query}"))?.expect(200)?;
        let text = String::from_utf8(got.body)?;
        let lines = text.lines().map(|line| anyhow::Ok(serde_json::from_str::<Value>(line)?));
        lines.collect::<Result<Vec<_>>>()
    };
    let mut found = search("?name=needle")?;
    let end = found.pop().context("an end")?;
    ensure!(end == json!({"done": true, "looked_at": 7, "more": false}), "{end}");
    let mut paths: Vec<_> = found.iter().filter_map(|found| found["path"].as_str()).collect();
    paths.sort_unstable();
    ensure!(
        paths == ["a/Needles", "a/Needles/deep/one%20NEEDLE.txt", "a/needle-link"],
        "{found:?}"
    );
    ensure!(found.iter().all(|found| found["entry"]["kind"].is_string()), "{found:?}");
    let some = search("a?name=E&limit=2")?;
    ensure!(some.len() == 3 && some[2]["more"] == true, "{some:?}");
    for query in
        ["", "?name=", "?name=%ff", "?name=a&limit=0", "?name=a&limit=10001", "?name=a&name=b"]
    {
        door.get(&format!("/api/v1/search/{query}"))?.expect(400)?;
    }
    door.get("/api/v1/search/a/other?name=a")?.expect(409)?;
    Ok(())
}

#[test]
fn links_are_made_listed_and_withdrawn_by_whose_they_are() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    let wanted = json!({"path": "may", "expires": 3600}).to_string();
    let post = |door: &Door, wanted: &str| door.post("/api/v1/links", wanted.as_bytes());
    let refused = post(&door, &wanted)?.expect(409)?;
    ensure!(refused.json()?["message"].as_str().is_some_and(|why| why.contains("ashlar user add")));
    fs::create_dir_all(demo.file("photos/may"))?;
    fs::write(demo.file("photos/may/a"), b"a")?;
    symlink("may", demo.file("photos/alias"))?;
    let accounts = Accounts(&demo);
    let ann = format!("user add ann --uid {ANN} --gid {ANN} --folder /photos");
    accounts.with_password(&ann, PASSWORD)?;
    accounts.with_password("user add bob --uid 12346 --gid 12346 --folder /photos", PASSWORD)?;
    let (ann, bob) = (door.of("ann", PASSWORD), door.of("bob", PASSWORD));
    let made = post(&ann, &wanted)?.expect(201)?.json()?;
    let (id, link) = (&made["id"], made["link"].as_str().context("a link")?);
    ensure!(made["url"] == format!("/?link={link}"), "{made}");
    ensure!(get(&door, &format!("me?link={link}"))?["write"] == false);
    ensure!(door.get(&format!("/api/v1/content/a?link={link}"))?.expect(200)?.body == b"a");
    let listed = get(&ann, "links")?;
    ensure!(listed["links"][0]["id"] == *id && listed["links"][0]["path"] == "may", "{listed}");
    ensure!(get(&bob, "links")? == json!({"links": []}), "another's");
    let revoke = format!("/api/v1/links/{}", id.as_str().context("an id")?);
    bob.delete(&revoke)?.expect(404)?;
    door.get(&format!("/api/v1/links?link={link}"))?.expect(403)?;
    ann.delete(&revoke)?.expect(204)?;
    door.get(&format!("/api/v1/content/a?link={link}"))?.expect(403)?;
    for (path, status) in [("none", 404), ("may/a", 409), ("alias", 409), ("../x", 400)] {
        let wanted = json!({ "path": path }).to_string();
        ensure!(post(&ann, &wanted)?.status == status, "{path}");
    }
    post(&ann, &json!({"path": "may", "expires": 0}).to_string())?.expect(400)?;
    // What a token made would outlive it.
    let token = accounts.say("token add ann")?.trim().to_owned();
    let token = door.with_token(&token);
    ensure!(get(&token, "links")? == json!({"links": []}));
    ensure!(post(&token, &wanted)?.expect(403)?.error() == "denied");
    ensure!(get(&token, "me")?["share"] == false && get(&ann, "me")?["share"] == true);
    // Who only reads shares what he reads.
    let reader = "user add cid --uid 12347 --gid 12347 --folder /photos --read-only";
    accounts.with_password(reader, PASSWORD)?;
    let cid = door.of("cid", PASSWORD);
    ensure!(get(&cid, "me")?["share"] == true);
    post(&cid, &wanted)?.expect(201)?;
    // Where nothing is written, no link is made; one is withdrawn.
    let made = post(&ann, &wanted)?.expect(201)?.json()?;
    let remounted = |how: &str| {
        let mut command = Command::new(ashlar());
        command.args(["mount", DEMO_VOLUME]).arg(demo.path());
        command.args(["-o", &format!("remount,{how}")]).env("ASHLAR_CLUSTER", demo.cluster_file());
        run(&mut command, PATIENCE)
    };
    remounted("ro")?;
    let refused = post(&ann, &wanted)?.expect(403)?.json()?;
    ensure!(refused["message"].as_str().is_some_and(|why| why.contains("only read here")));
    ensure!(get(&ann, "me")?["share"] == false);
    let id = made["id"].as_str().context("an id")?;
    ann.delete(&format!("/api/v1/links/{id}"))?.expect(204)?;
    remounted("rw")?;
    Ok(())
}

#[test]
fn of_one_user_there_are_so_many_links_however_many_are_made_at_once() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    Accounts(&demo).with_password("user add ann --uid 0 --gid 0", PASSWORD)?;
    let ann = door.of("ann", PASSWORD);
    let make = || -> Result<usize> {
        for made in 0.. {
            match ann.post("/api/v1/links", b"{\"path\":\"\"}")?.status {
                201 => {}
                409 => return Ok(made),
                other => bail!("{other}"),
            }
        }
        Ok(0)
    };
    let all: Vec<Result<usize>> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..16).map(|_| scope.spawn(make)).collect();
        makers.into_iter().filter_map(|maker| maker.join().ok()).collect()
    });
    let all: usize = all.into_iter().sum::<Result<usize>>()?;
    ensure!(all == 1000, "{all}");
    Ok(())
}

#[test]
fn administrators_are_told_how_it_is() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    door.put("/api/v1/content/a", &content(1, 3_000_000))?.expect(201)?;
    door.get("/api/v1/content/a")?.expect(200)?;
    let status = get(&door, "status")?;
    ensure!(status["disks"].as_array().is_some_and(|disks| disks.len() == 8), "{status}");
    ensure!(status["mount"]["scheme"] == "ec(4,2)" && status["mount"]["volume"] == DEMO_VOLUME);
    let own = &status["volumes"][0];
    ensure!(own["name"] == DEMO_VOLUME && own["scheme"] == "ec(4,2)", "{status}");
    ensure!(own["state"] == "whole" && own["mounted"]["pid"] == status["mount"]["pid"], "{status}");
    let throughput = &status["throughput"];
    ensure!(throughput["written_bytes"].as_u64() >= Some(3_000_000), "{throughput}");
    ensure!(throughput["read_bytes"].as_u64() >= Some(3_000_000), "{throughput}");
    ensure!(throughput["latency_us"]["read_p50"].is_u64(), "{throughput}");
    ensure!(status["sessions"][0]["doors"] == json!(["http"]), "{status}");

    let places = get(&door, "places/a")?;
    ensure!(places["scheme"] == "ec(4,2)" && places["spare"] == 2, "{places}");
    let disks = places["disks"].as_array().context("disks")?;
    let bytes: u64 = disks.iter().filter_map(|disk| disk["bytes"].as_u64()).sum();
    ensure!(disks.len() >= 6 && bytes >= 4_500_000, "{places}");
    let folder = get(&door, "places/")?;
    ensure!(folder["spare"] == 2 && folder["disks"] == json!([]), "{folder}");

    Accounts(&demo).with_password("user add ann --uid 1000 --gid 1000", PASSWORD)?;
    let refused = door.of("ann", PASSWORD).get("/api/v1/status")?.expect(403)?;
    ensure!(refused.error() == "denied", "{refused:?}");
    Ok(())
}

#[test]
fn who_may_is_told_with_the_lists_that_setfacl_gives() -> Result<()> {
    if !can_mount() || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let (demo, door) = start()?;
    let described = Description::of(&door)?;
    fs::create_dir(demo.file("d"))?;
    fs::write(demo.file("d/plain"), b"1")?;
    let plain = get(&door, "entry/d/plain")?;
    ensure!(plain.get("access_list").is_none() && plain.get("default_list").is_none(), "{plain}");
    let setfacl = |words: &[&str], name: &str| {
        run(Command::new("setfacl").args(words).arg(demo.file(name)), PATIENCE)
    };
    fs::write(demo.file("d/f"), b"2")?;
    setfacl(&["-m", "u::rw,u:1234:rw,g::r,g:77:rwx,m::rw,o::-"], "d/f")?;
    setfacl(&["-d", "-m", "u::rwx,u:1234:rx,g::-,m::rx,o::-"], "d")?;
    let told = get(&door, "entry/d/f")?;
    described.says(("GET", "/entry/{path}"), 200, &told)?;
    let expected = json!([
        {"who": "owner", "may": 6},
        {"who": "user", "id": 1234, "may": 6},
        {"who": "group", "may": 4},
        {"who": "group", "id": 77, "may": 7},
        {"who": "mask", "may": 6},
        {"who": "others", "may": 0},
    ]);
    ensure!(told["access_list"] == expected && told.get("default_list").is_none(), "{told}");
    let folder = get(&door, "entry/d")?;
    described.says(("GET", "/entry/{path}"), 200, &folder)?;
    ensure!(folder.get("access_list").is_none(), "{folder}");
    ensure!(folder["default_list"][1] == json!({"who": "user", "id": 1234, "may": 5}), "{folder}");
    // What the mount takes away is told no more.
    setfacl(&["-b"], "d/f")?;
    ensure!(get(&door, "entry/d/f")?.get("access_list").is_none());
    Ok(())
}
