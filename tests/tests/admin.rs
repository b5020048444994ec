//! Promise: an administrator does by the API what commands do: accounts, options, volumes of the cluster, scrub and check. Nobody else
//! does, and a secret is told once.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::accounts::Accounts;
use tests::binaries::ashlar;
use tests::cluster::{DEMO_VOLUME, Demo, Mode, Setup, can_mount};
use tests::described::Description;
use tests::door::{ANN, Answer, Door, PASSWORD, start, start_as};
use tests::process::{PATIENCE, run, wait_until};

/// All that is for administrators, but what is asked for by GET.
const CHANGES: [(&str, &str); 14] = [
    ("POST", "users"),
    ("PATCH", "users/ann"),
    ("DELETE", "users/ann"),
    ("POST", "keys"),
    ("DELETE", "keys/x"),
    ("POST", "tokens"),
    ("DELETE", "tokens/x"),
    ("POST", "links"),
    ("DELETE", "links/x"),
    ("PATCH", "options"),
    ("POST", "scrub"),
    ("POST", "check"),
    ("PATCH", "users/root"),
    ("DELETE", "users/root"),
];
const LOOKS: [&str; 7] = ["users", "keys", "tokens", "links", "options", "volumes", "check"];

fn ask(door: &Door, method: &str, path: &str, said: &Value) -> Result<Answer> {
    let body = if method == "DELETE" { String::new() } else { said.to_string() };
    door.ask(method, &format!("/api/v1/admin/{path}"), &[], body.as_bytes())
}

fn get(door: &Door, path: &str) -> Result<Value> {
    door.get(&format!("/api/v1/{path}"))?.expect(200)?.json()
}

fn text<'a>(said: &'a Value, field: &str) -> Result<&'a str> {
    said[field].as_str().with_context(|| format!("no {field} in {said}"))
}

/// A volume with an administrator who logs in.
fn site() -> Result<(Demo, Door, Door)> {
    let (demo, door) = start()?;
    Accounts(&demo).with_password("user add root --uid 0 --gid 0", PASSWORD)?;
    let root = door.of("root", PASSWORD);
    Ok((demo, door, root))
}

#[test]
fn accounts_are_made_listed_and_taken_back() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    ensure!(get(&door, "admin/users")? == json!({"users": []}), "an open door");
    fs::create_dir(demo.file("photos"))?;
    let wanted = json!({"name": "ann", "password": "a word of Ann's", "uid": ANN, "gid": ANN,
        "groups": [44], "folder": "/photos/"});
    // Whoever has not logged in makes nobody.
    let refused = ask(&door, "POST", "users", &wanted)?.expect(409)?.json()?;
    ensure!(text(&refused, "message")?.contains("ashlar user add"), "{refused}");
    Accounts(&demo).with_password("user add root --uid 0 --gid 0", PASSWORD)?;
    let root = door.of("root", PASSWORD);
    let described = Description::of(&root)?;

    let made = ask(&root, "POST", "users", &wanted)?.expect(201)?;
    ensure!(!String::from_utf8_lossy(&made.body).contains("a word"), "{made:?}");
    described.says(("POST", "/admin/users"), 201, &made.json()?)?;
    let listed = get(&root, "admin/users")?;
    described.says(("GET", "/admin/users"), 200, &listed)?;
    ensure!(listed["users"][0] == made.json()? && listed["users"][1]["name"] == "root", "{listed}");
    ensure!(json!(Accounts(&demo).list("user")?) == listed["users"], "as the command lists them");
    ensure!(ask(&root, "POST", "users", &wanted)?.expect(409)?.error() == "conflict");
    let ann = door.of("ann", "a word of Ann's");
    ensure!(get(&ann, "me")?["folder"] == "/photos");

    let with = |field: &str, value: Value| {
        let mut other = wanted.clone();
        (other["name"], other[field]) = (json!("bob"), value);
        other
    };
    for (wrong, status) in [
        (with("name", json!("-x")), 400),
        (with("password", json!("short")), 400),
        (with("folder", json!("/nowhere")), 404),
        (with("folder", json!("nowhere")), 400),
        (with("uid", json!(-1)), 400),
        (with("admin", json!(true)), 400),
        (json!({"name": "bob"}), 400),
    ] {
        let refused = ask(&root, "POST", "users", &wrong)?.expect(status)?.json()?;
        ensure!(text(&refused, "message")?.len() > 10, "{wrong}: {refused}");
    }
    ask(&root, "PATCH", "users/ann", &json!({}))?.expect(400)?;
    ask(&root, "PATCH", "users/nobody", &json!({"disabled": true}))?.expect(404)?;
    ask(&root, "PATCH", "users/ann", &json!({"password": "short"}))?.expect(400)?;
    ask(&root, "PATCH", "users/ann", &json!({"password": "another word"}))?.expect(204)?;
    ann.get("/api/v1/me")?.expect(401)?;
    let ann = door.of("ann", "another word");
    ask(&root, "PATCH", "users/a%6en", &json!({"disabled": true}))?.expect(204)?;
    ann.get("/api/v1/me")?.expect(401)?;
    ask(&root, "PATCH", "users/ann", &json!({"disabled": false}))?.expect(204)?;
    get(&ann, "me")?;
    ask(&root, "DELETE", "users/ann", &json!(null))?.expect(204)?;
    ask(&root, "DELETE", "users/ann", &json!(null))?.expect(404)?;
    ann.get("/api/v1/me")?.expect(401)?;
    Ok(())
}

#[test]
fn what_lets_in_is_told_once_and_no_more_when_it_is_revoked() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door, root) = site()?;
    fs::create_dir(demo.file("photos"))?;
    let ann = format!("user add ann --uid {ANN} --gid {ANN} --folder /photos");
    Accounts(&demo).with_password(&ann, PASSWORD)?;
    let described = Description::of(&root)?;
    let mut ids = Vec::new();
    for (kind, secret) in [("keys", "secret"), ("tokens", "token"), ("links", "link")] {
        let wanted = json!({"user": "ann", "expires": 3600});
        let made = ask(&root, "POST", kind, &wanted)?.expect(201)?.json()?;
        described.says(("POST", &format!("/admin/{kind}")), 201, &made)?;
        let listed = root.get(&format!("/api/v1/admin/{kind}"))?.expect(200)?;
        let told = text(&made, secret)?;
        ensure!(!String::from_utf8_lossy(&listed.body).contains(told), "{kind}: {listed:?}");
        let listed = listed.json()?;
        described.says(("GET", &format!("/admin/{kind}")), 200, &listed)?;
        ensure!(json!(Accounts(&demo).list(kind.trim_end_matches('s'))?) == listed[kind]);
        let one = &listed[kind][0];
        ensure!(one["id"] == made["id"] && one["folder"] == "/photos", "{listed}");
        ensure!(one["write"] == (kind != "links") && one["expires"].is_u64(), "{listed}");
        ids.push((kind, text(&made, "id")?.to_owned(), told.to_owned()));
        for (wrong, status) in [
            (json!({"user": "nobody"}), 404),
            (json!({"user": "ann", "folder": "/"}), 403),
            (json!({"user": "ann", "folder": "/photos/none"}), 404),
            (json!({"user": "ann", "expires": 0}), 400),
        ] {
            ask(&root, "POST", kind, &wrong)?.expect(status)?;
        }
    }
    let let_in = || -> Result<[u16; 2]> {
        let (token, link) = (&ids[1].2, &ids[2].2);
        let by_token = door.with_token(token).get("/api/v1/me")?.status;
        Ok([by_token, door.get(&format!("/api/v1/me?link={link}"))?.status])
    };
    ensure!(let_in()? == [200, 200], "{:?}", let_in()?);
    for (kind, id, _) in &ids {
        ask(&root, "DELETE", &format!("{kind}/{id}"), &json!(null))?.expect(204)?;
        ask(&root, "DELETE", &format!("{kind}/{id}"), &json!(null))?.expect(404)?;
        ensure!(get(&root, &format!("admin/{kind}"))?[kind] == json!([]), "{kind}");
    }
    ensure!(let_in()? == [401, 403], "{:?}", let_in()?);
    Ok(())
}

#[test]
fn nobody_else_does_any_of_it() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door, root) = site()?;
    fs::create_dir(demo.file("photos"))?;
    let accounts = Accounts(&demo);
    accounts.with_password(&format!("user add ann --uid {ANN} --gid {ANN}"), PASSWORD)?;
    accounts.with_password("user add part --uid 0 --gid 0 --folder /photos", PASSWORD)?;
    accounts.with_password("user add look --uid 0 --gid 0 --read-only", PASSWORD)?;
    let link = accounts.say("link add root --expires 1h")?.trim().to_owned();
    let others = [door.of("ann", PASSWORD), door.of("part", PASSWORD)];
    for path in LOOKS {
        door.get(&format!("/api/v1/admin/{path}"))?.expect(401)?;
        let by_link = door.get(&format!("/api/v1/admin/{path}?link={link}"))?;
        ensure!(by_link.expect(403)?.error() == "denied", "{path}");
        for other in &others {
            let refused = other.get(&format!("/api/v1/admin/{path}"))?.expect(403)?;
            ensure!(refused.error() == "denied", "{path}: {refused:?}");
        }
        get(&root, &format!("admin/{path}"))?;
    }
    let look = door.of("look", PASSWORD);
    let token = accounts.say("token add root")?.trim().to_owned();
    let token = door.with_token(&token);
    let evil = [("Origin", "http://evil.example")];
    for (method, path) in CHANGES {
        ask(&door, method, path, &json!({}))?.expect(401)?;
        for other in &others {
            let refused = ask(other, method, path, &json!({}))?.expect(403)?;
            ensure!(refused.error() == "denied", "{method} {path}: {refused:?}");
        }
        let refused =
            root.ask(method, &format!("/api/v1/admin/{path}"), &evil, b"")?.expect(403)?;
        ensure!(refused.error() == "other_site", "{method} {path}: {refused:?}");
    }
    // Who only reads looks, and does nothing; what a token made would outlive it.
    get(&look, "admin/users")?;
    let (off, days) = (json!({"disabled": true}), json!({"trash_days": 1}));
    for (method, path, said) in [
        ("PATCH", "users/ann", &off),
        ("DELETE", "users/ann", &off),
        ("PATCH", "options", &days),
        ("POST", "scrub", &days),
        ("POST", "check", &json!({})),
        ("POST", "tokens", &json!({"user": "root"})),
    ] {
        let refused = ask(&look, method, path, said)?.expect(403)?;
        ensure!(refused.error() == "denied", "{method} {path}: {refused:?}");
    }
    get(&token, "admin/users")?;
    for (method, path, said) in [
        ("POST", "keys", json!({"user": "ann"})),
        ("PATCH", "users/ann", json!({"password": PASSWORD})),
        ("PATCH", "users/ann", json!({"disabled": false})),
    ] {
        ensure!(ask(&token, method, path, &said)?.expect(403)?.error() == "denied", "{path}");
    }
    ask(&token, "PATCH", "users/ann", &off)?.expect(204)?;
    let users = get(&root, "admin/users")?;
    ensure!(users["users"].as_array().is_some_and(|all| all.len() == 4), "{users}");
    ensure!(get(&root, "admin/options")?["trash_days"] == 0, "nothing was done");
    Ok(())
}

#[test]
fn options_of_the_volume_count_at_once() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, _, root) = site()?;
    let described = Description::of(&root)?;
    let before = get(&root, "admin/options")?;
    described.says(("GET", "/admin/options"), 200, &before)?;
    ensure!(before == json!({"min_spare": 1, "trash_days": 0}), "{before}");
    for wrong in [
        json!({}),
        json!({"min_spare": 9}),
        json!({"min_spare": -1}),
        json!({"trash_days": 70_000}),
        json!({"scheme": "ec(2,1)"}),
    ] {
        ask(&root, "PATCH", "options", &wrong)?.expect(400)?;
    }
    ensure!(get(&root, "admin/options")? == before, "nothing has changed");
    let wanted = json!({"min_spare": 0, "trash_days": 30});
    let set = ask(&root, "PATCH", "options", &wanted)?.expect(200)?.json()?;
    described.says(("PATCH", "/admin/options"), 200, &set)?;
    ensure!(set == wanted && get(&root, "admin/options")? == wanted, "{set}");
    ensure!(get(&root, "status")?["mount"]["min_spare"] == 0);
    fs::write(demo.file("gone"), b"1")?;
    fs::remove_file(demo.file("gone"))?;
    if nix::unistd::geteuid().is_root() {
        ensure!(get(&root, "trash")?["entries"][0]["name"] == "gone", "{}", get(&root, "trash")?);
    }
    // Where nothing is written, nothing is changed.
    let mut command = Command::new(ashlar());
    command.args(["mount", DEMO_VOLUME]).arg(demo.path());
    command.args(["-o", "remount,ro"]).env("ASHLAR_CLUSTER", demo.cluster_file());
    run(&mut command, PATIENCE)?;
    let refused = ask(&root, "PATCH", "options", &json!({"trash_days": 1}))?.expect(403)?.json()?;
    ensure!(text(&refused, "message")?.contains("only read here"), "{refused}");
    ensure!(get(&root, "admin/options")? == wanted);
    Ok(())
}

#[test]
fn volumes_are_listed_and_disks_are_read_and_checked() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (mut demo, door) = start_as(Setup::new(Mode::Daemons))?;
    let volume = |words: &[&str]| {
        let mut command = Command::new(ashlar());
        command.args(words).env("ASHLAR_CLUSTER", demo.cluster_file());
        run(&mut command, PATIENCE)
    };
    volume(&["format", "letters"])?;
    let described = Description::of(&door)?;
    let listed = get(&door, "admin/volumes")?;
    described.says(("GET", "/admin/volumes"), 200, &listed)?;
    let by_command: Value = serde_json::from_str(&volume(&["volume", "list", "--json"])?)?;
    ensure!(listed["volumes"] == by_command && listed["missed"].is_null(), "{by_command} {listed}");
    ensure!(listed["volumes"][0]["name"] == DEMO_VOLUME, "{listed}");
    ensure!(listed["volumes"][1]["name"] == "letters", "{listed}");
    ensure!(listed["volumes"][1]["mounted"].is_null(), "{listed}");
    // What was found a moment ago is in the status, too.
    ensure!(get(&door, "status")?["volumes"] == listed["volumes"]);

    fs::write(demo.file("f"), vec![7u8; 300_000])?;
    fs::File::open(demo.file("f"))?.sync_all()?;
    let begun = ask(&door, "POST", "scrub", &json!({}))?.expect(202)?.json()?;
    described.says(("POST", "/admin/scrub"), 202, &begun)?;
    ensure!(begun["disks"] == 8, "{begun}");
    ensure!(get(&door, "admin/check")? == json!({"state": "never"}));
    ask(&door, "POST", "check", &json!({"everything": true}))?.expect(400)?;
    let found = checked(&door, &json!({"data": true, "lost": true}))?;
    described.says(("GET", "/admin/check"), 200, &found)?;
    ensure!(found["in_order"] == true && found["found"]["disks_away"] == 0, "{found}");
    ensure!(found["found"]["blobs"].as_u64() >= Some(1), "{found}");
    demo.kill_daemon(3)?;
    let found = checked(&door, &json!({}))?;
    ensure!(found["found"]["disks_away"] == 1, "{found}");
    Ok(())
}

/// Has the volume checked, and waits for what is found.
fn checked(door: &Door, wish: &Value) -> Result<Value> {
    let begun = ask(door, "POST", "check", wish)?.expect(202)?.json()?;
    ensure!(begun["state"] != "never" && begun["state"] != "failed", "{begun}");
    let mut found = Value::Null;
    wait_until("the check to end", PATIENCE, || {
        found = get(door, "admin/check").unwrap_or_default();
        found["state"] != "running" && !found.is_null()
    })?;
    ensure!(found["state"] == "done", "{found}");
    Ok(found)
}
