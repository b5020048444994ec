//! Promise: the API is as the description says that it serves: of every operation an answer has the status, the kind, and in JSON the
//! fields, types and values that are described, and so has every refusal.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::accounts::Accounts;
use tests::cluster::{Demo, can_mount};
use tests::described::{Description, Operation};
use tests::door::{Answer, Door, PASSWORD, start};
use tests::process::{PATIENCE, run};
use tests::seed::content;

/// A mounted volume, whoever asks, and what is described.
struct Site {
    demo: Demo,
    door: Door,
    described: Description,
}

impl Site {
    /// An administrator asks, who may make links.
    fn start() -> Result<Self> {
        let (demo, door) = start()?;
        Accounts(&demo).with_password("user add ann --uid 0 --gid 0", PASSWORD)?;
        let door = door.of("ann", PASSWORD);
        let described = Description::of(&door)?;
        Ok(Self { demo, door, described })
    }

    /// Asks, and is answered with this status as it is described.
    fn ask(
        &self,
        (method, template): Operation<'_>,
        address: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        status: u16,
    ) -> Result<Answer> {
        let answer = self.door.ask(method, &format!("/api/v1/{address}"), headers, body)?;
        let answer = self.described.answers((method, template), answer)?;
        answer.expect(status).with_context(|| format!("{method} {address}"))
    }

    /// The same, of JSON.
    fn say(
        &self,
        operation: Operation<'_>,
        address: &str,
        said: &Value,
        status: u16,
    ) -> Result<Answer> {
        self.ask(operation, address, &[], said.to_string().as_bytes(), status)
    }

    fn get(&self, template: &str, address: &str) -> Result<Value> {
        self.ask(("GET", template), address, &[], b"", 200)?.json()
    }
}

fn id_in(said: &Value) -> Result<String> {
    Ok(said["id"].as_str().with_context(|| said.to_string())?.to_owned())
}

#[test]
fn every_operation_answers_as_it_is_described() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start()?;
    entries_and_content(&site)?;
    changes(&site)?;
    uploads(&site)?;
    links_and_tickets(&site)?;
    trash(&site)?;
    let status = site.get("/status", "status")?;
    ensure!(status["sessions"][0]["doors"] == json!(["http"]), "{status}");
    site.get("/openapi.json", "openapi.json")?;
    // Those of administrators are tried in admin.rs.
    site.described.is_reached(|path| !path.starts_with("/admin/"))
}

fn entries_and_content(site: &Site) -> Result<()> {
    let me = site.get("/me", "me")?;
    ensure!(me["user"] == "ann" && me["admin"] == true, "{me}");
    site.ask(("POST", "/folders/{path}"), "folders/f", &[], b"", 201)?;
    site.ask(("POST", "/folders/{path}"), "folders/f", &[], b"", 409)?;
    let put = ("PUT", "/content/{path}");
    site.ask(put, "content/f/a", &[], &content(1, 300_000), 201)?;
    site.ask(put, "content/f/%FF%20b", &[], b"", 201)?;
    site.ask(put, "content/none/a", &[], b"x", 409)?;
    site.ask(put, "content/f/a", &[("If-None-Match", "*")], b"x", 412)?;
    symlink("a", site.demo.file("f/link"))?;
    symlink("nowhere", site.demo.file("f/broken"))?;
    run(Command::new("mkfifo").arg(site.demo.file("f/pipe")), PATIENCE)?;

    let all = site.get("/entries/{path}", "entries/f")?;
    let mut kinds: Vec<_> = all["entries"].as_array().context("entries")?.iter().collect();
    kinds.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let kinds: Vec<_> = kinds.into_iter().map(|entry| &entry["kind"]).collect();
    ensure!(kinds == ["file", "link", "link", "other", "file"], "{all}");
    let first = site.get("/entries/{path}", "entries/f?limit=1")?;
    let next = first["next"].as_str().context("it goes on")?;
    site.get("/entries/{path}", &format!("entries/f?limit=1&after={next}"))?;
    site.get("/entries/{path}", "entries/")?;
    for name in ["f", "f/a", "f/link", "f/broken", "f/pipe"] {
        site.get("/entry/{path}", &format!("entry/{name}"))?;
    }
    let none = site.ask(("GET", "/entry/{path}"), "entry/none", &[], b"", 404)?;
    ensure!(none.error() == "no_such_file", "{none:?}");

    let get = ("GET", "/content/{path}");
    let whole = site.ask(get, "content/f/a", &[], b"", 200)?;
    ensure!(whole.body == content(1, 300_000));
    site.ask(get, "content/f/a", &[("Range", "bytes=1-2")], b"", 206)?;
    site.ask(get, "content/f/a", &[("Range", "bytes=300000-")], b"", 416)?;
    site.ask(get, "content/f/a", &[("If-None-Match", &whole.headers["etag"])], b"", 304)?;
    site.ask(("GET", "/archive/{path}"), "archive/f", &[], b"", 200)?;
    site.ask(("GET", "/search/{path}"), "search/?name=A", &[], b"", 200)?;
    site.ask(("GET", "/search/{path}"), "search/?name=", &[], b"", 400)?;
    for name in ["", "f", "f/a", "f/%FF%20b"] {
        site.get("/places/{path}", &format!("places/{name}"))?;
    }
    Ok(())
}

fn changes(site: &Site) -> Result<()> {
    let way = |from: &str, to: &str| json!({"from": from, "to": to});
    let (copy, moved) = (("POST", "/copy"), ("POST", "/move"));
    site.say(copy, "copy", &way("f/a", "f/copy"), 204)?;
    let failed = site.say(copy, "copy", &way("f", "g"), 200)?.json()?;
    ensure!(failed["failures"][0]["path"] == "f/pipe", "{failed}");
    site.say(copy, "copy", &way("f/a", "f/copy"), 409)?;
    site.say(copy, "copy", &json!({"from": 1}), 400)?;
    site.say(moved, "move", &way("f/copy", "f/moved"), 204)?;
    site.say(moved, "move", &way("f/none", "f/x"), 404)?;
    let delete = ("DELETE", "/entries/{path}");
    site.ask(delete, "entries/g", &[], b"", 204)?;
    site.ask(delete, "entries/g", &[], b"", 404)?;
    Ok(())
}

fn uploads(site: &Site) -> Result<()> {
    let (begin, add) = (("POST", "/uploads/{path}"), ("PATCH", "/uploads/{id}"));
    let finish = ("POST", "/uploads/{id}/finish");
    let begun = site.ask(begin, "uploads/f/up?size=3", &[], b"", 201)?.json()?;
    let id = id_in(&begun)?;
    site.get("/uploads", "uploads")?;
    site.get("/uploads/{id}", &format!("uploads/{id}"))?;
    let wrong = site.ask(add, &format!("uploads/{id}?offset=7"), &[], b"abc", 409)?.json()?;
    ensure!(wrong["offset"] == 0, "{wrong}");
    site.ask(add, &format!("uploads/{id}?offset=0"), &[], b"abc", 200)?;
    site.ask(finish, &format!("uploads/{id}/finish"), &[], b"", 201)?;
    let taken = site.ask(begin, "uploads/f/up", &[], b"", 409)?.json()?;
    ensure!(taken["there"] == "file", "{taken}");
    let begun = site.ask(begin, "uploads/f/other", &[], b"", 201)?.json()?;
    let end = ("DELETE", "/uploads/{id}");
    let address = format!("uploads/{}", id_in(&begun)?);
    site.ask(end, &address, &[], b"", 204)?;
    site.ask(end, &address, &[], b"", 404)?;
    Ok(())
}

fn links_and_tickets(site: &Site) -> Result<()> {
    let made = site.say(("POST", "/links"), "links", &json!({"path": "f"}), 201)?.json()?;
    site.say(("POST", "/links"), "links", &json!({"path": "f/a"}), 409)?;
    let listed = site.get("/links", "links")?;
    ensure!(listed["links"][0]["id"] == made["id"], "{listed}");
    let address = format!("links/{}", id_in(&made)?);
    site.ask(("DELETE", "/links/{link}"), &address, &[], b"", 204)?;
    site.ask(("DELETE", "/links/{link}"), &address, &[], b"", 404)?;
    site.say(("POST", "/ticket"), "ticket", &json!({"path": "f"}), 200)?;
    Ok(())
}

fn trash(site: &Site) -> Result<()> {
    let delete = |name: &str| -> Result<String> {
        let address = format!("entries/f/{name}?trash=true");
        let said = site.ask(("DELETE", "/entries/{path}"), &address, &[], b"", 200)?.json()?;
        Ok(said["trash"].as_str().with_context(|| said.to_string())?.to_owned())
    };
    let (id, restore) = (delete("moved")?, ("POST", "/trash/restore"));
    site.say(restore, "trash/restore", &json!({"id": id}), 200)?;
    let ids = [delete("moved")?, delete("link")?, delete("up")?];
    fs::write(site.demo.file("f/up"), "another")?;
    let taken = site.say(restore, "trash/restore", &json!({"id": ids[2]}), 409)?.json()?;
    ensure!(taken["there"] == "file", "{taken}");
    let listed = site.get("/trash", "trash")?;
    ensure!(listed["entries"].as_array().is_some_and(|all| all.len() == 3), "{listed}");
    let first = site.get("/trash", "trash?limit=1")?;
    let next = first["next"].as_str().context("it goes on")?;
    site.get("/trash", &format!("trash?limit=1&after={next}"))?;
    let forever = ("DELETE", "/trash/{trashed}");
    site.ask(forever, &format!("trash/{}", ids[0]), &[], b"", 200)?;
    site.ask(forever, &format!("trash/{}", ids[0]), &[], b"", 404)?;
    let emptied = site.ask(("DELETE", "/trash"), "trash", &[], b"", 200)?.json()?;
    ensure!(emptied == json!({"deleted": 2, "denied": 0}), "{emptied}");
    Ok(())
}

#[test]
fn who_may_not_is_refused_as_it_is_described() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start()?;
    site.ask(("POST", "/folders/{path}"), "folders/f", &[], b"", 201)?;
    let bob = "user add bob --uid 12346 --gid 12346 --folder /f --read-only";
    Accounts(&site.demo).with_password(bob, PASSWORD)?;
    fs::write(site.demo.file("f/x"), "x")?;
    let nobody = Door { authorization: None, ..site.door.clone() };
    for (door, status) in [(nobody, 401), (site.door.of("bob", PASSWORD), 403)] {
        for (method, template, address) in [
            ("GET", "/status", "status"),
            ("PUT", "/content/{path}", "content/x"),
            ("POST", "/folders/{path}", "folders/x"),
            ("DELETE", "/entries/{path}", "entries/x"),
        ] {
            let answer = door.ask(method, &format!("/api/v1/{address}"), &[], b"")?;
            let answer = site.described.answers((method, template), answer)?;
            answer.expect(status).with_context(|| format!("{method} {address}"))?;
        }
    }
    Ok(())
}
