//! Promise: an upload by the HTTP API that breaks off goes on where it was, for whoever sent it, and gets its name in one
//! step when it is whole; nobody sees anything of it before, and what is given up leaves nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::accounts::Accounts;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::door::{Answer, Door, PASSWORD, start, start_as};
use tests::process::{PATIENCE, wait_until};
use tests::seed::content;

fn at(path: &str) -> String {
    format!("/api/v1/uploads/{path}")
}

/// Begins one. Answers its id.
fn begin(door: &Door, path: &str) -> Result<String> {
    let begun = door.post(&at(path), b"")?.expect(201)?.json()?;
    ensure!(begun["offset"] == 0, "{begun}");
    Ok(begun["id"].as_str().context("an id")?.to_owned())
}

fn add(door: &Door, id: &str, offset: u64, bytes: &[u8]) -> Result<Answer> {
    door.ask(
        "PATCH",
        &at(&format!("{id}?offset={offset}")),
        &[("Content-Length", &bytes.len().to_string())],
        bytes,
    )
}

fn finish(door: &Door, id: &str, query: &str) -> Result<Answer> {
    door.post(&at(&format!("{id}/finish{query}")), b"")
}

fn offset(door: &Door, id: &str) -> Result<u64> {
    let said: Value = door.get(&at(id))?.expect(200)?.json()?;
    said["offset"].as_u64().context("an offset")
}

fn listed(door: &Door) -> Result<Vec<Value>> {
    let said = door.get("/api/v1/uploads")?.expect(200)?.json()?;
    Ok(said["uploads"].as_array().context("uploads")?.clone())
}

fn names(demo: &Demo) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(demo.path())?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[test]
fn an_upload_that_breaks_off_goes_on_where_it_was() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    let whole = content(3, 3_000_000);
    let id = begin(&door, "new/deep/a%20b?size=3000000&modified=1234567890123")?;
    ensure!(add(&door, &id, 0, &whole[..1_000_000])?.expect(200)?.json()?["offset"] == 1_000_000);
    // What came before it broke off counts.
    let path = at(&format!("{id}?offset=1000000"));
    let mut stream = door.begin("PATCH", &path, &[("Content-Length", "2000000")])?;
    stream.write_all(&whole[1_000_000..1_700_000])?;
    wait_until("half of it to come", Duration::from_secs(30), || {
        offset(&door, &id).is_ok_and(|offset| offset > 1_500_000)
    })?;
    let second = add(&door, &id, 1_700_000, b"x")?.expect(503)?;
    ensure!(second.error() == "busy", "two at once: {second:?}");
    drop(stream);
    let wrong = || add(&door, &id, 0, b"x").is_ok_and(|wrong| wrong.status == 409);
    wait_until("the first to end", Duration::from_secs(30), wrong)?;
    let there = offset(&door, &id)?;
    ensure!((1_500_000..=1_700_000).contains(&there), "{there}");
    let wrong = add(&door, &id, 3, b"x")?.expect(409)?;
    ensure!(wrong.error() == "conflict" && wrong.json()?["offset"] == there, "{wrong:?}");
    ensure!(finish(&door, &id, "")?.expect(409)?.json()?["offset"] == there, "it is not whole");
    ensure!(add(&door, &id, there, &vec![0; 2_000_000])?.expect(413)?.error() == "too_large");
    let there = offset(&door, &id)? as usize;
    ensure!(fs::read_dir(demo.file("new/deep"))?.next().is_none(), "it is seen before it is whole");

    // The rest of it, and what was too much comes to nothing.
    let id = match there > 1_700_000 {
        true => {
            door.delete(&at(&id))?.expect(204)?;
            let id = begin(&door, "new/deep/a%20b?modified=1234567890123")?;
            add(&door, &id, 0, &whole)?.expect(200)?;
            id
        }
        false => {
            add(&door, &id, there as u64, &whole[there..])?.expect(200)?;
            id
        }
    };
    let done = finish(&door, &id, "")?.expect(201)?.json()?;
    ensure!(
        done["entry"]["size"] == 3_000_000 && done["entry"]["modified"] == 1_234_567_890_123_i64
    );
    ensure!(fs::read(demo.file("new/deep/a b"))? == whole, "other bytes");
    ensure!(fs::metadata(demo.file("new/deep/a b"))?.mtime() == 1_234_567_890);
    // Whose answer was lost asks again.
    ensure!(finish(&door, &id, "")?.expect(201)?.json()? == done);
    ensure!(add(&door, &id, 3_000_000, b"x")?.expect(409)?.error() == "conflict");
    ensure!(door.delete(&at(&id))?.status == 409, "something has come of it");
    Ok(())
}

#[test]
fn what_got_its_name_and_could_not_be_made_durable_is_finished_later() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (mut demo, door) = start_as(Setup::new(Mode::Daemons))?;
    // One without content needs nothing but its name.
    let id = begin(&door, "a")?;
    for disk in 0..6 {
        demo.kill_daemon(disk)?;
    }
    let failed = finish(&door, &id, "")?.expect(503)?;
    ensure!(failed.error() == "too_few_disks", "{failed:?}");
    for disk in 0..6 {
        demo.restart_daemon(disk)?;
    }
    demo.all_up(PATIENCE)?;
    let done = finish(&door, &id, "")?.expect(201)?.json()?;
    ensure!(done["entry"]["name"] == "a", "{done}");
    fs::write(demo.file("a"), b"by the mount")?;
    ensure!(finish(&door, &id, "")?.expect(201)?.json()? == done);
    ensure!(fs::read(demo.file("a"))? == b"by the mount");
    demo.stop(Stop::Umount)
}

#[test]
fn a_name_that_is_taken_is_not_lost_nor_is_the_upload() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    let id = begin(&door, "a")?;
    add(&door, &id, 0, b"uploaded")?.expect(200)?;
    fs::write(demo.file("a"), b"by the mount")?;
    fs::set_permissions(demo.file("a"), fs::Permissions::from_mode(0o750))?;
    ensure!(finish(&door, &id, "")?.expect(409)?.json()?["there"] == "file");
    ensure!(fs::read(demo.file("a"))? == b"by the mount");
    door.post(&at("a"), b"")?.expect(409)?;
    finish(&door, &id, "?path=a%2Fb")?.expect(409)?;
    finish(&door, &id, "?path=..%2Fb")?.expect(400)?;
    finish(&door, &id, "?path=b%2520b")?.expect(201)?;
    ensure!(
        fs::read(demo.file("b b"))? == b"uploaded"
            && names(&demo)? == ["a", "b b"].map(str::to_owned).into()
    );

    let id = begin(&door, "a?replace=true")?;
    add(&door, &id, 0, b"replaced")?.expect(200)?;
    finish(&door, &id, "")?.expect(201)?;
    ensure!(fs::read(demo.file("a"))? == b"replaced");
    ensure!(fs::metadata(demo.file("a"))?.permissions().mode() & 0o777 == 0o750, "another mode");
    let id = begin(&door, "c")?;
    add(&door, &id, 0, b"given up")?.expect(200)?;
    door.delete(&at(&id))?.expect(204)?;
    ensure!(add(&door, &id, 8, b"x")?.expect(404)?.error() == "no_such_upload");
    // Folders of such names are no uploads.
    begin(&door, "%21f/finish")?;
    ensure!(demo.file("!f").is_dir());
    let times = "x?modified=9000000000000000000";
    for (path, status) in
        [("", 409), ("..%2fx", 400), ("x?size=-1", 400), ("a/x", 409), (times, 400)]
    {
        ensure!(door.post(&at(path), b"")?.status == status, "{path}");
    }
    for (path, status) in [("!0?offset=0", 404), ("!?offset=0", 405), ("x?offset=0", 405)] {
        ensure!(door.ask("PATCH", &at(path), &[], b"")?.status == status, "{path}");
    }
    Ok(())
}

#[test]
fn an_upload_is_of_whoever_began_it_and_there_are_not_too_many() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    let accounts = Accounts(&demo);
    for name in ["ann", "bob"] {
        accounts.with_password(&format!("user add {name} --uid 0 --gid 0"), PASSWORD)?;
    }
    let (ann, bob) = (door.of("ann", PASSWORD), door.of("bob", PASSWORD));
    let id = begin(&ann, "a")?;
    add(&ann, &id, 0, b"hers")?.expect(200)?;
    for got in [
        add(&bob, &id, 4, b"his")?,
        bob.get(&at(&id))?,
        finish(&bob, &id, "")?,
        bob.delete(&at(&id))?,
    ] {
        ensure!(got.status == 404 && got.error() == "no_such_upload", "{got:?}");
    }
    ensure!(offset(&ann, &id)? == 4);
    for n in 1..256 {
        begin(&ann, &format!("many-{n}"))?;
    }
    let refused = ann.post(&at("one-more"), b"")?.expect(503)?;
    ensure!(
        refused.error() == "busy" && refused.headers.contains_key("retry-after"),
        "{refused:?}"
    );
    // They are listed, and the one is named that is in the way.
    let same = ann.post(&at("many-7?replace=true"), b"")?.expect(503)?.json()?;
    let list = listed(&ann)?;
    ensure!(list.len() == 256 && list.iter().all(|one| one["age"].is_u64()), "{}", list.len());
    let of = |path: &str| list.iter().find(|one| one["path"] == path).context("not listed");
    let (seventh, first) = (of("many-7")?["id"].clone(), of("a")?);
    ensure!(first["id"] == id.as_str() && first["offset"] == 4, "{first}");
    let seventh = seventh.as_str().context("an id")?;
    ensure!(same["message"].as_str().is_some_and(|why| why.contains(seventh)), "{same}");
    ensure!(listed(&bob)?.is_empty(), "another's");
    // By whatever she comes, they are hers; by a token for reading, say, none of others.
    fs::create_dir(demo.file("sub"))?;
    let token = accounts.say("token add ann --folder /sub")?.trim().to_owned();
    let token = door.with_token(&token);
    ensure!(token.post(&at("x"), b"")?.expect(503)?.error() == "busy", "counted by user");
    ensure!(listed(&token)?.is_empty() && token.delete(&at(seventh))?.status == 404);
    ann.delete(&at(seventh))?.expect(204)?;
    let by_token = begin(&token, "x")?;
    let list = listed(&ann)?;
    let other = list.iter().find(|one| one["id"] == by_token.as_str()).context("not listed")?;
    ensure!(other.get("path").is_none(), "a path in another folder: {other}");
    ensure!(
        add(&ann, &by_token, 0, b"x")?.status == 404,
        "she ends it, and does not go on with it"
    );
    ann.delete(&at(&by_token))?.expect(204)?;
    fs::remove_dir(demo.file("sub"))?;
    begin(&ann, "many-7")?;
    begin(&bob, "his")?;
    finish(&ann, &id, "")?.expect(201)?;
    begin(&ann, "one-more")?;
    ensure!(names(&demo)? == ["a".to_owned()].into(), "{:?}", names(&demo)?);
    Ok(())
}
