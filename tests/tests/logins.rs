//! Promise: once a volume has a user, whoever comes by a door says who he is, and then may what his account may: in his
//! folder, with his uid, to read or to write. What is wrong, over or revoked lets nobody in, at once.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::accounts::Accounts;
use tests::binaries::ashlar;
use tests::cluster::{Demo, Mode, Setup, can_mount};
use tests::door::{ANN, Door, Lines, PASSWORD, free_address};
use tests::process::{PATIENCE, run, wait_until};

const OTHER: &str = "another password";

/// A mounted volume with doors, and a folder of Ann's with a file in it.
struct Site {
    demo: Demo,
    door: Door,
    kv: String,
}

impl Site {
    fn start(further: &[&str]) -> Result<Self> {
        let (http, kv) = (free_address()?, free_address()?);
        let mut words = ["--http", &http, "--kv", &kv].map(str::to_owned).to_vec();
        words.extend(further.iter().map(|word| (*word).to_owned()));
        let demo = Demo::start(Setup { demo_arguments: words, ..Setup::new(Mode::Embedded) })?;
        fs::create_dir(demo.file("photos"))?;
        chown(demo.file("photos"), Some(ANN), Some(ANN))?;
        fs::write(demo.file("secret"), "secret")?;
        Ok(Self { demo, door: Door::at(&http), kv })
    }

    fn accounts(&self) -> Accounts<'_> {
        Accounts(&self.demo)
    }

    fn with_ann_and_bob(further: &[&str]) -> Result<Self> {
        let site = Self::start(further)?;
        site.add_ann_and_bob()?;
        Ok(site)
    }

    /// Ann, who writes in her folder, and Bob, who reads there.
    fn add_ann_and_bob(&self) -> Result<()> {
        let ann = format!("user add ann --uid {ANN} --gid {ANN} --folder /photos");
        self.accounts().with_password(&ann, PASSWORD)?;
        let bob = "user add bob --uid 12346 --gid 12346 --folder /photos --read-only";
        self.accounts().with_password(bob, OTHER).map(drop)
    }
}

#[test]
fn whoever_comes_by_http_acts_as_his_account() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(&[])?;
    site.door.post("/refs/open", b"before there were users")?.expect(201)?;
    site.add_ann_and_bob()?;
    let refused = site.door.get("/refs/open")?.expect(401)?;
    ensure!(refused.error() == "not_logged_in", "{refused:?}");
    ensure!(refused.headers["www-authenticate"].starts_with("Basic "), "{refused:?}");
    site.door.post("/refs/open", &[7; 1 << 20])?.expect(401)?;
    site.door.delete("/kv/0/a")?.expect(401)?;
    site.door.of("ann", OTHER).get("/refs/open")?.expect(401)?;
    site.door.of("nobody", PASSWORD).get("/refs/open")?.expect(401)?;
    for path in ["/healthz", "/readyz", "/metrics"] {
        site.door.get(path)?.expect(200)?;
    }

    let (ann, bob) = (site.door.of("ann", PASSWORD), site.door.of("bob", OTHER));
    ann.get("/refs/open")?.expect(404)?;
    ann.post("/refs/may", b"hers")?.expect(201)?;
    ann.put("/kv/0/k", b"v")?.expect(204)?;
    let file = fs::metadata(site.demo.file("photos/refs/may"))?;
    ensure!((file.uid(), file.gid()) == (ANN, ANN), "{} {}", file.uid(), file.gid());
    ensure!(bob.get("/refs/may")?.expect(200)?.body == b"hers");
    for refused in [bob.post("/refs/may", b"his")?, bob.delete("/kv/0/k")?] {
        ensure!(refused.status == 403 && refused.error() == "denied", "{refused:?}");
    }
    // What the mount would not let Bob read.
    fs::set_permissions(site.demo.file("photos/refs/may"), fs::Permissions::from_mode(0o600))?;
    bob.get("/refs/may")?.expect(403)?;
    ensure!(ann.get("/refs/may")?.expect(200)?.body == b"hers");
    ensure!(fs::read(site.demo.file("refs/open"))? == b"before there were users");
    site.accounts().say("user revoke ann")?;
    ann.get("/refs/may")?.expect(401)?;
    Ok(())
}

#[test]
fn nobody_leaves_his_folder() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::with_ann_and_bob(&[])?;
    let ann = site.door.of("ann", PASSWORD);
    ann.post("/refs/in", b"in")?.expect(201)?;
    let refs = site.demo.file("photos/refs");
    symlink("../../secret", refs.join("up"))?;
    symlink("/secret", refs.join("absolute"))?;
    symlink(site.demo.file("secret"), refs.join("mounted"))?;
    symlink("in", refs.join("within"))?;
    ensure!(ann.get("/refs/within")?.expect(200)?.body == b"in");
    for path in ["/refs/up", "/refs/absolute", "/refs/mounted"] {
        let got = ann.get(path)?;
        ensure!(got.status == 403 && got.error() == "denied", "{path}: {got:?}");
    }
    let out = [
        "/refs/../../secret",
        "/refs/..%2f..%2fsecret",
        "/refs/%2e%2e/%2e%2e/secret",
        "/refs/..",
        "/kv/0/..%2f..%2f..%2fsecret",
        "/kv/..%2f..%2fsecret/a",
    ];
    for path in out {
        let got = ann.get(path)?;
        ensure!(matches!(got.status, 400 | 404), "{path}: {got:?}");
    }
    // They are names of refs and keys like any others, or none.
    for path in out {
        let put = ann.put(path, b"overwritten")?;
        ensure!(matches!(put.status, 201 | 204 | 400), "{path}: {put:?}");
    }
    ensure!(fs::read(site.demo.file("secret"))? == b"secret");
    let mut top: Vec<_> = fs::read_dir(site.demo.path())?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    top.sort();
    ensure!(top == ["photos", "secret"], "something was made outside: {top:?}");
    Ok(())
}

#[test]
fn who_fails_again_and_again_has_to_wait() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::with_ann_and_bob(&[])?;
    let wrong = site.door.of("ann", "wrong password");
    for _ in 0..5 {
        wrong.get("/refs/a")?.expect(401)?;
    }
    // Each further failure doubles the wait.
    let mut slowed = None;
    let is_slowed = || {
        let Ok(got) = wrong.get("/refs/a") else { return false };
        let wait: u64 =
            got.headers.get("retry-after").and_then(|wait| wait.parse().ok()).unwrap_or(0);
        slowed = Some(got);
        wait >= 8
    };
    wait_until("a wait of eight seconds", PATIENCE, is_slowed)?;
    let slowed = slowed.context("an answer")?.expect(429)?;
    ensure!(slowed.error() == "too_many_tries", "{slowed:?}");
    // Others come from here, too.
    site.door.of("bob", OTHER).get("/refs/a")?.expect(404)?;
    let ann = site.door.of("ann", PASSWORD);
    let let_in = || ann.get("/refs/a").is_ok_and(|got| got.status == 404);
    wait_until("the right password to be tried again", PATIENCE, let_in)?;
    // Who is known is not kept out by others' failures.
    let kept_out = || wrong.get("/refs/a").is_ok_and(|got| got.status == 429);
    wait_until("another to be slowed", PATIENCE, kept_out)?;
    ann.get("/refs/a")?.expect(404)?;
    Ok(())
}

#[test]
fn who_fails_again_and_again_by_lines_has_to_wait_whatever_connection_he_comes_by() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::with_ann_and_bob(&[])?;
    let auth = |user: &str, password: &str| -> Result<Value> {
        let said = json!({"operation": "auth", "user": user, "password": password, "id": 7});
        let answer = Lines::connect(&site.kv)?.ask(&said)?;
        ensure!(answer["id"] == 7, "{answer}");
        Ok(answer)
    };
    for _ in 0..5 {
        let answer = auth("ann", "wrong password")?;
        ensure!(answer["error"] == "not_logged_in", "{answer}");
    }
    wait_until("another try to be refused unseen", PATIENCE, || {
        auth("ann", "wrong password").is_ok_and(|answer| answer["error"] == "too_many_tries")
    })?;
    // Others come from here, too; and in the end she is let in.
    ensure!(auth("bob", OTHER)?["ok"] == true);
    wait_until("the right password to be tried again", PATIENCE, || {
        auth("ann", PASSWORD).is_ok_and(|answer| answer["ok"] == true)
    })
}

#[test]
fn tokens_and_links_end_when_they_are_revoked_or_over() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::with_ann_and_bob(&[])?;
    let accounts = site.accounts();
    site.door.of("ann", PASSWORD).post("/refs/a", b"hers")?.expect(201)?;
    let token = accounts.say("token add ann --expires 1d")?.trim().to_owned();
    let by_token = site.door.with_token(&token);
    by_token.put("/kv/0/k", b"v")?.expect(204)?;
    let mut lines = Lines::connect(&site.kv)?;
    let get = json!({"operation": "get", "key": "k", "id": 7});
    let before = lines.ask(&get)?;
    ensure!(before["error"] == "not_logged_in" && before["id"] == 7, "{before}");
    let ok = json!({"ok": true});
    ensure!(lines.ask(&json!({"operation": "auth", "token": token}))? == ok);
    ensure!(lines.ask(&get)?["value"] == "v");
    let id = accounts.list("token")?[0]["id"].as_str().context("an id")?.to_owned();
    accounts.say(&format!("token revoke {id}"))?;
    by_token.get("/kv/0/k")?.expect(401)?;
    ensure!(lines.ask(&get)?["error"] == "not_logged_in", "a connection that was there before");
    let wrong = json!({"operation": "auth", "user": "ann", "password": OTHER});
    ensure!(lines.ask(&wrong)?["error"] == "not_logged_in");
    let right = json!({"operation": "auth", "user": "ann", "password": PASSWORD});
    ensure!(lines.ask(&right)? == ok && lines.ask(&get)?["value"] == "v");
    let neither = json!({"operation": "auth", "user": "ann"});
    ensure!(lines.ask(&neither)?["error"] == "bad_request");
    ensure!(lines.ask(&get)?["error"] == "not_logged_in", "who fails to log in is nobody");

    let link = accounts.say("link add ann")?.trim().to_owned();
    let short = accounts.say("link add ann --expires 3s")?.trim().to_owned();
    let by = |link: &str, path: &str| format!("{path}?link={link}");
    ensure!(site.door.get(&by(&short, "/refs/a"))?.expect(200)?.body == b"hers");
    ensure!(site.door.get(&by(&link, "/refs/a"))?.expect(200)?.body == b"hers");
    ensure!(site.door.get(&by(&link, "/kv/0"))?.expect(200)?.json()?["keys"] == json!(["k"]));
    site.door.post(&by(&link, "/refs/a"), b"other")?.expect(403)?;
    let forged = format!("{}A", &link[..link.len() - 1]);
    let forged = if forged == link { format!("{}B", &link[..link.len() - 1]) } else { forged };
    site.door.get(&by(&forged, "/refs/a"))?.expect(403)?;
    let is_over = || site.door.get(&by(&short, "/refs/a")).is_ok_and(|got| got.status == 403);
    wait_until("a link to be over", Duration::from_secs(30), is_over)?;
    let id = link.split('.').next().context("an id")?;
    accounts.say(&format!("link revoke {id}"))?;
    site.door.get(&by(&link, "/refs/a"))?.expect(403)?;
    Ok(())
}

#[test]
fn a_shell_logs_in_without_a_password_on_its_command_line() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::with_ann_and_bob(&[])?;
    let kv = |words: &[&str]| {
        let mut command = Command::new(ashlar());
        command.arg("kv").args(words).args(["--at", &site.door.address]);
        command
    };
    let refused = run(&mut kv(&["get", "a"]), PATIENCE).map_err(|e| format!("{e:#}"));
    ensure!(refused.as_ref().is_err_and(|why| why.contains("not_logged_in")), "{refused:?}");
    let login = format!("ann:{PASSWORD}");
    run(kv(&["put", "a", "b"]).env("ASHLAR_LOGIN", &login), PATIENCE)?;
    let file = site.demo.outside("login");
    fs::write(&file, format!("{login}\n"))?;
    ensure!(run(kv(&["get", "a"]).arg("--login-file").arg(&file), PATIENCE)? == "b");
    let token = site.accounts().say("token add ann --read-only")?;
    let mut denied = kv(&["put", "a", "c"]);
    let denied = run(denied.env("ASHLAR_LOGIN", token.trim()), PATIENCE);
    let why = denied.map_err(|e| format!("{e:#}"));
    ensure!(why.as_ref().is_err_and(|why| why.contains("denied")), "{why:?}");
    Ok(())
}

#[test]
fn a_door_without_login_is_open_though_there_are_users() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::with_ann_and_bob(&["--no-login"])?;
    site.door.post("/refs/a", b"everybody's")?.expect(201)?;
    ensure!(fs::read(site.demo.file("refs/a"))? == b"everybody's");
    // Who says who he is acts as that all the same, or is refused.
    site.door.of("ann", PASSWORD).get("/refs/a")?.expect(404)?;
    site.door.of("ann", OTHER).get("/refs/a")?.expect(401)?;
    Ok(())
}

#[test]
fn webdav_is_of_the_account_that_shows_itself() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::with_ann_and_bob(&[])?;
    let (ann, bob) = (site.door.of("ann", PASSWORD), site.door.of("bob", OTHER));
    let list = |door: &Door| door.ask("PROPFIND", "/dav/", &[("Depth", "1")], b"");
    list(&site.door)?.expect(401)?;
    site.door.put("/dav/mine", b"nobody's")?.expect(401)?;
    ann.put("/dav/mine", b"hers")?.expect(201)?;
    ensure!(fs::metadata(site.demo.file("photos/mine"))?.uid() == ANN);
    let listed = String::from_utf8_lossy(&list(&bob)?.expect(207)?.body).into_owned();
    ensure!(listed.contains("/dav/mine") && !listed.contains("secret"), "{listed}");
    ensure!(bob.get("/dav/mine")?.expect(200)?.body == b"hers");
    for (method, headers) in [
        ("PUT", vec![]),
        ("DELETE", vec![]),
        ("MKCOL", vec![]),
        ("MOVE", vec![("Destination", "/dav/his")]),
        ("COPY", vec![("Destination", "/dav/his")]),
    ] {
        let path = if method == "MKCOL" { "/dav/folder" } else { "/dav/mine" };
        let got = bob.ask(method, path, &headers, b"")?;
        ensure!(matches!(got.status, 403 | 207), "{method}: {got:?}");
    }
    ensure!(fs::read(site.demo.file("photos/mine"))? == b"hers");
    let mut there: Vec<_> = fs::read_dir(site.demo.file("photos"))?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    there.sort();
    ensure!(there == ["mine"], "{there:?}");
    Ok(())
}
