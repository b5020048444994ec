//! Promise: WebDAV shows the same tree as the mount, at once and whole, class 1 and 2, as the public suite litmus asks
//! for it; what is no path, no XML or too much of it gets a sentence; and it goes on with two of eight daemons killed.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tests::accounts::Accounts;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::door::{ANN, Answer, Door, PASSWORD, answer, free_address};
use tests::process::{PATIENCE, bounded, output, run, shell};
use tests::seed::{content, first_difference};

/// A mounted volume, with its door.
struct Site {
    demo: Demo,
    door: Door,
}

impl Site {
    fn start(mode: Mode) -> Result<Self> {
        let http = free_address()?;
        let words = vec!["--http".to_owned(), http.clone()];
        let (mount_arguments, demo_arguments) = (words.clone(), words);
        let demo = Demo::start(Setup { mount_arguments, demo_arguments, ..Setup::new(mode) })?;
        Ok(Self { demo, door: Door::at(&http) })
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer> {
        self.door.ask(method, path, headers, body.as_bytes())
    }

    fn list(&self, path: &str) -> Result<String> {
        let found = self.ask("PROPFIND", path, &[("Depth", "1")], "")?.expect(207)?;
        Ok(text(&found))
    }

    /// COPY or MOVE.
    fn send(&self, method: &str, from: &str, to: &str, more: &[(&str, &str)]) -> Result<Answer> {
        let to = format!("http://{}{to}", self.door.address);
        let mut headers = vec![("Destination", &*to)];
        headers.extend(more);
        self.ask(method, from, &headers, "")
    }
}

/// The body of an answer.
fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Runs litmus, and answers what it said. `None`, said loudly: it is not installed.
fn litmus(door: &Door, folder: &str) -> Result<Option<String>> {
    if !Path::new("/usr/bin/litmus").exists() {
        eprintln!("NOT TESTED: litmus is not installed (Debian: litmus)");
        return Ok(None);
    }
    let home = tempfile::tempdir()?;
    let mut command = Command::new("litmus");
    command.arg("-k").arg(format!("http://{}{folder}", door.address)).current_dir(home.path());
    let ended = output(&mut command, 4 * PATIENCE)?;
    Ok(Some(String::from_utf8_lossy(&ended.stdout).into_owned()))
}

#[test]
fn litmus_embedded() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    litmus_passes(&Site::start(Mode::Embedded)?)
}

#[test]
fn litmus_with_two_of_eight_daemons_killed() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Served)?;
    site.demo.kill_daemon(2)?;
    site.demo.kill_daemon(5)?;
    litmus_passes(&site)
}

fn litmus_passes(site: &Site) -> Result<()> {
    let Some(said) = litmus(&site.door, "/dav/")? else { return Ok(()) };
    println!("{said}");
    let sums: Vec<&str> = said.lines().filter(|line| line.contains("<- summary for")).collect();
    ensure!(sums.len() == 5, "litmus has five parts:\n{said}");
    for sum in sums {
        ensure!(sum.contains(" 0 failed"), "{sum}\n{said}");
    }
    Ok(())
}

#[test]
fn the_mount_sees_what_comes_by_webdav_and_the_other_way_round() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let file = |name: &str| site.demo.file(name);
    site.ask("MKCOL", "/dav/f", &[], "")?.expect(201)?;
    ensure!(file("f").is_dir() && !file("f/a").exists());
    site.door.put("/dav/f/a", &content(1, 300_000))?.expect(201)?;
    ensure!(fs::read(file("f/a"))? == content(1, 300_000), "put, and read on the mount");
    let part =
        site.door.ask("GET", "/dav/f/a", &[("Range", "bytes=1000-1999")], &[])?.expect(206)?;
    ensure!(part.body == content(1, 300_000)[1000..2000]);

    // A put over a file is another file with the same permissions.
    fs::set_permissions(file("f/a"), fs::Permissions::from_mode(0o750))?;
    let root = nix::unistd::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(file("f/a"), Some(1234), Some(4321))?;
    }
    site.door.put("/dav/f/a", b"shorter")?.expect(204)?;
    ensure!(fs::read(file("f/a"))? == b"shorter");
    ensure!(file("f/a").metadata()?.permissions().mode() & 0o777 == 0o750, "its mode is another");
    ensure!(!root || file("f/a").metadata()?.uid() == 1234, "its owner is another");

    // Moved over another, swapped with a folder, copied without its bytes.
    fs::write(file("f/b"), b"b by the mount")?;
    ensure!(site.list("/dav/f/")?.contains("<D:href>/dav/f/b</D:href>"));
    site.send("MOVE", "/dav/f/b", "/dav/f/a", &[])?.expect(204)?;
    ensure!(fs::read(file("f/a"))? == b"b by the mount" && !file("f/b").exists());
    fs::create_dir_all(file("old/deep/deeper"))?;
    fs::write(file("old/deep/deeper/x"), b"x")?;
    site.send("MOVE", "/dav/f/", "/dav/old", &[("Overwrite", "F")])?.expect(412)?;
    site.send("MOVE", "/dav/f/", "/dav/old/deep", &[])?.expect(204)?;
    ensure!(fs::read(file("old/deep/a"))? == b"b by the mount");
    ensure!(!file("old/deep/deeper").exists() && !file("f").exists(), "what was replaced is gone");
    symlink("a", file("old/deep/link"))?;
    symlink("/etc/passwd", file("old/deep/out"))?;
    site.send("COPY", "/dav/old", "/dav/new", &[])?.expect(201)?;
    ensure!(fs::read(file("new/deep/a"))? == b"b by the mount");
    ensure!(fs::read_link(file("new/deep/link"))? == Path::new("a"), "a link stays a link");
    let listed = site.list("/dav/new/deep/")?;
    ensure!(listed.contains("/deep/link</D:href>") && !listed.contains("/deep/out<"), "{listed}");
    site.door.get("/dav/new/deep/out")?.expect(403)?;
    site.door.delete("/dav/new")?.expect(204)?;
    folders_by_two_addresses(&site)?;
    ensure!(!file("new").exists() && file("old/deep/out").symlink_metadata().is_ok());
    Ok(())
}

/// Links lead to one folder by two addresses: neither is lost for being put to the other, or into itself.
fn folders_by_two_addresses(site: &Site) -> Result<()> {
    let file = |name: &str| site.demo.file(name);
    symlink("old", file("alias"))?;
    fs::create_dir(file("old/deep/sub"))?;
    for (method, from, to) in [
        ("MOVE", "/dav/old/deep", "/dav/alias/deep"),
        ("COPY", "/dav/old/deep", "/dav/alias/deep"),
        ("COPY", "/dav/old/deep/a", "/dav/alias/deep/a"),
        ("COPY", "/dav/old", "/dav/alias/within"),
        ("COPY", "/dav/alias", "/dav/old/within"),
        ("MOVE", "/dav/old", "/dav/alias/within"),
        ("COPY", "/dav/old/deep/sub", "/dav/alias/deep"),
        ("MOVE", "/dav/old/deep/sub", "/dav/alias/deep"),
        ("MOVE", "/dav/old/deep/sub", "/dav/old"),
        ("COPY", "/dav/old", "/dav/old/deep/sub/more"),
    ] {
        let refused = site.send(method, from, to, &[])?;
        ensure!(refused.status == 403, "{method} {from} {to}: {refused:?}");
        ensure!(fs::read(file("old/deep/a"))? == b"b by the mount", "{method} {from} {to}");
        ensure!(file("old/deep/sub").is_dir() && !file("old/within").exists());
    }
    Ok(())
}

/// What is replaced goes when the new one has its place, and not before; nothing is left beside it.
#[test]
fn what_cannot_be_put_in_its_place_leaves_what_was_there() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let file = |name: &str| site.demo.file(name);
    fs::create_dir_all(file("new/sub"))?;
    fs::write(file("new/a"), b"new")?;
    fs::create_dir_all(file("old/sub"))?;
    fs::write(file("old/sub/kept"), b"old")?;
    // A pipe cannot be copied, so the copy is not whole.
    run(Command::new("mkfifo").arg(file("new/sub/pipe")), PATIENCE)?;
    let said = text(&site.send("COPY", "/dav/new", "/dav/old", &[])?.expect(207)?);
    ensure!(said.contains("/dav/new/sub/pipe"), "{said}");
    ensure!(fs::read(file("old/sub/kept"))? == b"old" && !file("old/a").exists());
    fs::remove_file(file("new/sub/pipe"))?;
    // A link to what lies in what it would replace.
    symlink("old/sub", file("link"))?;
    symlink("old/sub/kept", file("file"))?;
    for link in ["/dav/link", "/dav/file"] {
        site.send("COPY", link, "/dav/old", &[])?.expect(403)?;
    }
    ensure!(fs::read(file("old/sub/kept"))? == b"old");
    // Clients that delete a folder by what is in it do not go over links.
    let listed = site.list("/dav/")?;
    ensure!(listed.contains("/dav/file<") && !listed.contains("/dav/link<"), "{listed}");
    // Nobody gets more of a copy than of what it is a copy of.
    fs::set_permissions(file("new"), fs::Permissions::from_mode(0o700))?;
    site.send("COPY", "/dav/new", "/dav/old", &[])?.expect(204)?;
    ensure!(fs::read(file("old/a"))? == b"new" && !file("old/sub/kept").exists());
    ensure!(file("old").metadata()?.permissions().mode() & 0o777 == 0o700, "it is open to others");
    fs::write(file("new/b"), b"newer")?;
    site.send("MOVE", "/dav/new", "/dav/old", &[])?.expect(204)?;
    ensure!(fs::read(file("old/b"))? == b"newer" && !file("new").exists());
    site.send("MOVE", "/dav/old/b", "/dav/old/sub", &[])?.expect(204)?;
    ensure!(fs::read(file("old/sub"))? == b"newer", "a file in the place of a folder");
    for entry in fs::read_dir(site.demo.path())?.chain(fs::read_dir(file("old"))?) {
        let name = entry?.file_name();
        ensure!(!name.to_string_lossy().starts_with(".ashlar-"), "{name:?} is left");
    }
    Ok(())
}

/// Who may what stays what it is when a file is put over another.
#[test]
fn a_put_keeps_the_access_list_and_what_the_group_may() -> Result<()> {
    if !can_mount() || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let path = site.demo.file("f");
    let list = || {
        let said = output(Command::new("getfacl").args(["-cpn"]).arg(&path), PATIENCE)?;
        anyhow::Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    };
    fs::write(&path, b"1")?;
    run(Command::new("setfacl").args(["-m", "g::-,u:1234:r"]).arg(&path), PATIENCE)?;
    let before = list()?;
    ensure!(before.contains("user:1234:r--") && before.contains("group::---"), "{before}");
    site.door.put("/dav/f", b"22")?.expect(204)?;
    ensure!(fs::read(&path)? == b"22" && list()? == before, "{}\n{before}", list()?);
    // Nor does it get what the directory gives to new ones.
    run(Command::new("setfacl").arg("-b").arg(&path), PATIENCE)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
    let before = list()?;
    run(Command::new("setfacl").args(["-d", "-m", "u:1234:rw"]).arg(site.demo.path()), PATIENCE)?;
    site.door.put("/dav/f", b"333")?.expect(204)?;
    ensure!(fs::read(&path)? == b"333" && list()? == before, "{}\n{before}", list()?);
    Ok(())
}

/// Who edits a file under the name of a link says by tag or date what it was that the link led to.
#[test]
fn a_put_over_a_link_goes_by_what_it_leads_to() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    fs::write(site.demo.file("f"), b"1")?;
    fs::create_dir(site.demo.file("folder"))?;
    symlink("f", site.demo.file("link"))?;
    symlink("folder", site.demo.file("to-folder"))?;
    let seen = site.ask("GET", "/dav/link", &[], "")?.expect(200)?;
    let long_ago = "Sat, 29 Oct 1994 19:43:31 GMT";
    for stale in [("If-Match", "\"a\""), ("If-Unmodified-Since", long_ago)] {
        site.ask("PUT", "/dav/link", &[stale], "22")?.expect(412)?;
        site.ask("DELETE", "/dav/f", &[stale], "")?.expect(412)?;
    }
    site.ask("PUT", "/dav/link", &[("If-Match", &seen.headers["etag"])], "22")?.expect(204)?;
    ensure!(fs::read(site.demo.file("link"))? == b"22" && fs::read(site.demo.file("f"))? == b"1");
    site.ask("PUT", "/dav/to-folder", &[], "22")?.expect(405)?;
    let known = site.ask("GET", "/dav/f", &[], "")?.expect(200)?;
    let again = [("If-Modified-Since", &*known.headers["last-modified"])];
    site.ask("GET", "/dav/f", &again, "")?.expect(304)?;
    site.ask("GET", "/dav/f", &[("If-Modified-Since", long_ago)], "")?.expect(200).map(drop)
}

#[test]
fn many_put_the_same_at_once() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    site.door.put("/dav/f", b"first")?.expect(201)?;
    std::thread::scope(|scope| {
        let site = &site;
        let put = |n| move || site.door.put("/dav/f", &content(n, 20_000));
        let putting: Vec<_> = (0..20).map(|n| scope.spawn(put(n))).collect();
        for put in putting {
            put.join().expect("no panic")?.expect(204)?;
        }
        anyhow::Ok(())
    })?;
    ensure!(fs::read(site.demo.file("f"))?.len() == 20_000);
    Ok(())
}

#[test]
fn properties_are_kept_and_go_where_their_file_goes() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Embedded)?;
    let set = |inner: &str| {
        format!(
            "<D:propertyupdate xmlns:D='DAV:'><D:set><D:prop>{inner}</D:prop></D:set></D:propertyupdate>"
        )
    };
    let wanted =
        "<D:propfind xmlns:D='DAV:'><D:prop><c xmlns='u:x'/><D:getetag/></D:prop></D:propfind>";
    let colour = "<c xmlns=\"u:x\">a &amp; <d/>b</c>";
    site.ask("MKCOL", "/dav/f", &[], "")?.expect(201)?;
    site.door.put("/dav/f/a", b"a")?.expect(201)?;
    for path in ["/dav/f/a", "/dav/f/"] {
        let done = text(&site.ask("PROPPATCH", path, &[], &set(colour))?.expect(207)?);
        ensure!(done.contains("200 OK"), "{done}");
    }
    // All of them or none, and no more than there is room for.
    let both =
        text(&site.ask("PROPPATCH", "/dav/f/a", &[], &set("<D:getetag>x</D:getetag><e/>"))?);
    ensure!(both.contains("403 Forbidden") && both.contains("424 Failed"), "{both}");
    let large = set(&format!("<l>{}</l>", "l".repeat(61_000)));
    let large = text(&site.ask("PROPPATCH", "/dav/f/a", &[], &large)?.expect(207)?);
    ensure!(large.contains("507 Insufficient") && large.contains("60000 are possible"), "{large}");

    site.send("COPY", "/dav/f/", "/dav/g", &[])?.expect(201)?;
    site.send("MOVE", "/dav/f/a", "/dav/moved", &[])?.expect(201)?;
    site.door.put("/dav/moved", b"other bytes")?.expect(204)?;
    site.demo.remount()?;
    for path in ["/dav/f/", "/dav/g/", "/dav/g/a", "/dav/moved"] {
        let found = text(&site.ask("PROPFIND", path, &[("Depth", "0")], wanted)?.expect(207)?);
        ensure!(found.contains(colour), "{path}: {found}");
        ensure!(!found.contains("<e"), "one of several that could not be set was: {found}");
    }
    let attribute = properties_on_the_mount(&site.demo.file("moved"))?;
    ensure!(attribute.contains("u:x"), "on the mount: {attribute}");
    Ok(())
}

/// The attribute that holds properties, as getfattr(1) shows it.
fn properties_on_the_mount(path: &Path) -> Result<String> {
    let mut command = Command::new("getfattr");
    command.args(["--only-values", "-n", "user.dav.properties"]).arg(path);
    run(&mut command, PATIENCE)
}

#[test]
fn who_has_no_token_of_a_lock_changes_nothing_by_webdav() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let info = "<D:lockinfo xmlns:D='DAV:'><D:lockscope><D:exclusive/></D:lockscope>\
        <D:locktype><D:write/></D:locktype><D:owner>me</D:owner></D:lockinfo>";
    site.door.put("/dav/a", b"a")?.expect(201)?;
    let locked = site.ask("LOCK", "/dav/a", &[("Timeout", "Second-100")], info)?.expect(200)?;
    let token = locked.headers.get("lock-token").context("a token")?.clone();
    ensure!(text(&locked).contains("<owner xmlns=\"DAV:\">me</owner>"), "{}", text(&locked));
    let held = [("If", &*format!("({token})"))];
    ensure!(site.door.put("/dav/a", b"b")?.expect(423)?.error() == "locked");
    site.send("MOVE", "/dav/a", "/dav/b", &[])?.expect(423)?;
    site.door.delete("/dav/a")?.expect(423)?;
    site.ask("LOCK", "/dav/a", &[], info)?.expect(423)?;
    // One of all that is in a folder meets it.
    site.ask("LOCK", "/dav/", &[], info)?.expect(423)?;
    site.ask("PUT", "/dav/a", &held, "c")?.expect(204)?;
    site.ask("PUT", "/dav/a", &[("If", "(<urn:uuid:0>)")], "d")?.expect(412)?;
    let longer = [held[0], ("Timeout", "Second-200")];
    ensure!(text(&site.ask("LOCK", "/dav/a", &longer, "")?.expect(200)?).contains("Second-"));
    ensure!(fs::read(site.demo.file("a"))? == b"c");
    site.ask("UNLOCK", "/dav/a", &[("Lock-Token", &token)], "")?.expect(204)?;
    site.door.put("/dav/a", b"d")?.expect(204)?;

    // One who began before the lock, and ends within it, has no token either.
    let mut stream = site.door.begin("PUT", "/dav/new", &[("Content-Length", "200000")])?;
    stream.write_all(&[1; 100_000])?;
    site.ask("LOCK", "/dav/new", &[], info)?.expect(201)?;
    stream.write_all(&[1; 100_000])?;
    answer(stream, "PUT")?.expect(423)?;
    ensure!(fs::metadata(site.demo.file("new"))?.len() == 0, "locked, and yet written");
    Ok(())
}

/// Locks something. Answers the token, as `If` has it.
fn lock(door: &Door, path: &str) -> Result<String> {
    let info = "<D:lockinfo xmlns:D='DAV:'><D:lockscope><D:exclusive/></D:lockscope>\
        <D:locktype><D:write/></D:locktype></D:lockinfo>";
    let locked = door.ask("LOCK", path, &[("Depth", "0")], info.as_bytes())?.expect(200)?;
    let token = locked.headers.get("lock-token").context("a token")?;
    Ok(format!("<{path}> ({token})"))
}

#[test]
fn locks_are_of_what_is_there_and_go_with_it() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let file = |name: &str| site.demo.file(name);
    fs::create_dir_all(file("d/keep"))?;
    fs::create_dir_all(file("t/sub"))?;
    for name in ["d/gone", "d/keep/x", "t/sub/x"] {
        fs::write(file(name), b"x")?;
    }
    // What Ann deletes of it is not all.
    for name in ["d", "d/gone"] {
        std::os::unix::fs::chown(file(name), Some(ANN), Some(ANN))?;
    }
    let ann = format!("user add ann --uid {ANN} --gid {ANN}");
    Accounts(&site.demo).with_password(&ann, PASSWORD)?;
    Accounts(&site.demo).with_password("user add root --uid 0 --gid 0", PASSWORD)?;
    let [ann, root] = ["ann", "root"].map(|name| site.door.of(name, PASSWORD));
    let told = format!("{} {}", lock(&ann, "/dav/d/keep/x")?, lock(&ann, "/dav/d/gone")?);
    let some = ann.ask("DELETE", "/dav/d", &[("If", &told)], b"")?.expect(207)?;
    ensure!(text(&some).contains("/dav/d/keep/x") && !file("d/gone").exists(), "{}", text(&some));
    ensure!(root.put("/dav/d/keep/x", b"y")?.expect(423)?.error() == "locked", "it is still there");
    root.put("/dav/d/gone", b"y")?.expect(201)?;

    let told = lock(&root, "/dav/t/sub/x")?;
    let to = format!("http://{}/dav/t", root.address);
    let headers = [("If", &*told), ("Destination", &to)];
    root.ask("COPY", "/dav/d", &headers, b"")?.expect(204)?;
    root.ask("MKCOL", "/dav/t/sub", &[], b"")?.expect(201)?;
    root.put("/dav/t/sub/x", b"new")?.expect(201).context("a lock of what was replaced")?;
    // A link may lie in what it leads to.
    symlink("t", file("link"))?;
    let to = format!("http://{}/dav/t/link", root.address);
    root.ask("MOVE", "/dav/link", &[("Destination", &to)], b"")?.expect(201)?;
    ensure!(fs::read_link(file("t/link"))?.as_os_str() == "t");
    Ok(())
}

#[test]
fn what_makes_no_sense_gets_a_sentence() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    fs::write(site.demo.outside("secret"), b"secret")?;
    for path in [
        "/dav/../secret",
        "/dav/%2e%2e/secret",
        "/dav/..%2fsecret",
        "/dav/a%2f..%2f..%2fsecret",
        "/dav/%00",
        "/dav/a//b",
        &format!("/dav/{}", "a".repeat(256)),
        &format!("/dav/{}", "abc/".repeat(1100)),
    ] {
        for method in ["GET", "PUT", "DELETE", "PROPFIND", "MKCOL", "LOCK"] {
            let got = site.ask(method, path, &[("Depth", "0")], "")?;
            ensure!(got.status == 400 && got.error() == "bad_request", "{method} {path}: {got:?}");
        }
    }
    site.door.put("/dav/a", b"a")?.expect(201)?;
    for (to, status) in [("/dav/../b", 400), ("/refs/b", 400), ("/dav/a", 403), ("/dav/a/b", 409)] {
        site.send("MOVE", "/dav/a", to, &[])?.expect(status).context(to.to_owned())?;
    }
    let elsewhere = [("Destination", "http://example.org/dav/b")];
    ensure!(site.ask("COPY", "/dav/a", &elsewhere, "")?.expect(502)?.error() == "other_server");
    site.ask("MOVE", "/dav/a", &[], "")?.expect(400)?;
    site.door.delete("/dav/")?.expect(403)?;

    bodies_that_are_refused(&site)?;
    // From other sites' pages, and for other machines.
    let origin = [("Origin", "http://evil.example"), ("Depth", "0")];
    ensure!(site.ask("PROPFIND", "/dav/", &origin, "")?.expect(403)?.error() == "other_site");
    let host = [("Host", "evil.example")];
    ensure!(site.ask("GET", "/dav/a", &host, "")?.expect(403)?.error() == "other_site");
    ensure!(site.door.get("/dav/a")?.expect(200)?.body == b"a", "it is there as it was");
    Ok(())
}

/// Bombs, what is too large, too deep, or no XML.
fn bodies_that_are_refused(site: &Site) -> Result<()> {
    let bomb = "<!DOCTYPE a [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>\
        <!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'>]><propfind xmlns='DAV:'><prop><x>&c;</x></prop></propfind>";
    let space = format!("<propfind xmlns='DAV:'><prop xmlns='{}'/></propfind>", "x".repeat(300));
    site.ask("PROPFIND", "/dav/", &[("Depth", "0")], &space)?.expect(400)?;
    let many = format!("<propfind xmlns='DAV:'><prop>{}</prop></propfind>", "<a/>".repeat(5000));
    site.ask("PROPFIND", "/dav/", &[("Depth", "0")], &many)?.expect(400)?;
    let began = Instant::now();
    site.door.get(&format!("/dav/{}", "a/".repeat(25_000)))?.expect(400)?;
    ensure!(began.elapsed() < PATIENCE, "a long address takes long");
    let deep = "<a>".repeat(9_000) + &"</a>".repeat(9_000);
    let deep = format!("<propfind xmlns='DAV:'><prop>{deep}</prop></propfind>");
    for body in [bomb, &deep, "<a", "<propfind/>", "\u{1}"] {
        for method in ["PROPFIND", "PROPPATCH", "LOCK"] {
            let got = site.ask(method, "/dav/a", &[("Depth", "0")], body)?.expect(400)?;
            ensure!(got.error() == "bad_request", "{method} {body:.40}: {got:?}");
        }
    }
    let large = "<a>".to_owned() + &"a".repeat(100_000);
    let got = site.ask("PROPFIND", "/dav/a", &[("Depth", "0")], &large)?.expect(413)?;
    ensure!(got.error() == "too_large", "{got:?}");
    site.ask("MKCOL", "/dav/f", &[], "<a/>")?.expect(415)?;
    site.ask("POST", "/dav/a", &[], "a")?.expect(405)?;
    for depth in [None, Some(("Depth", "infinity"))] {
        let headers: Vec<_> = depth.into_iter().collect();
        let got = text(&site.ask("PROPFIND", "/dav/", &headers, "")?.expect(403)?);
        ensure!(got.contains("<D:propfind-finite-depth/>"), "{got}");
    }
    Ok(())
}

#[test]
fn any_name_comes_and_goes_by_its_bytes() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let long = [b'l'; 255];
    let names: [&[u8]; 7] =
        [b"a b", b"100%", b"%41", "\u{fc}\u{4e2d}".as_bytes(), b"\xff\xfe", b"<&>'\"#?;\n", &long];
    let encoded = |name: &[u8]| name.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
    for (number, name) in names.iter().enumerate() {
        let (path, stamp) = (format!("/dav/{}", encoded(name)), number as u64);
        site.door.put(&path, &content(stamp, 1000))?.expect(201)?;
        let file = site.demo.file(std::ffi::OsStr::from_bytes(name));
        ensure!(fs::read(&file)? == content(stamp, 1000), "{name:?} on the mount");
        ensure!(site.door.get(&path)?.expect(200)?.body == content(stamp, 1000), "{name:?}");
    }
    // Each address of the listing leads back to its file.
    let listed = site.list("/dav/")?;
    let mut found = 0;
    for part in listed.split("<D:href>").skip(1) {
        let address = part.split('<').next().context("an address")?;
        if !address.ends_with('/') {
            let got = site.door.get(address)?.expect(200)?;
            ensure!(got.body.len() == 1000, "{address}");
            site.door.delete(address)?.expect(204)?;
            found += 1;
        }
    }
    ensure!(found == names.len(), "{found} of {}: {listed}", names.len());
    Ok(())
}

#[test]
fn a_folder_of_10000_is_listed_and_deleted_within_bounds() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    fs::create_dir(site.demo.file("many"))?;
    for number in 0..10_000 {
        fs::write(site.demo.file(format!("many/a file with the number {number}")), b"")?;
    }
    let before = site.demo.peak_memory()?[&None];
    let begun = Instant::now();
    let listed = site.list("/dav/many/")?;
    println!("10,000 entries in {:?}, {} KiB of XML", begun.elapsed(), listed.len() >> 10);
    ensure!(listed.matches("<D:response>").count() == 10_001, "not all of them");
    ensure!(listed.trim_end().ends_with("</D:multistatus>"));
    let more = site.demo.peak_memory()?[&None] - before;
    println!("{} KiB more memory", more >> 10);
    ensure!(more < 32 << 20, "{more} bytes more for a listing");
    let door = site.door.clone();
    bounded("deleting 10,000", 2 * PATIENCE, move || door.delete("/dav/many"))??.expect(204)?;
    ensure!(!site.demo.file("many").exists());
    Ok(())
}

#[test]
fn killed_in_the_middle_of_a_put() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Served)?;
    site.demo.kill_daemon(1)?;
    site.demo.kill_daemon(6)?;
    site.door.put("/dav/whole", &content(1, 2_000_000))?.expect(201)?;
    site.door.put("/dav/over", &content(2, 100_000))?.expect(201)?;
    let mut streams = Vec::new();
    for path in ["/dav/half", "/dav/over"] {
        let mut stream = site.door.begin("PUT", path, &[("Content-Length", "9000000")])?;
        stream.write_all(&content(3, 8_000_000))?;
        streams.push(stream);
    }
    site.demo.kill_mount()?;
    site.demo.mount()?;
    let mut names: Vec<_> = fs::read_dir(site.demo.path())?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    ensure!(names == ["over", "whole"], "left over: {names:?}");
    let whole = fs::read(site.demo.file("whole"))?;
    ensure!(whole.len() == 2_000_000 && first_difference(1, 0, &whole).is_none());
    ensure!(fs::read(site.demo.file("over"))? == content(2, 100_000));
    ensure!(site.demo.file("over").metadata()?.nlink() == 1);
    site.demo.stop(Stop::Umount)?;
    site.demo.switch(Mode::Embedded)?;
    site.demo.fsck()
}

/// Is there such a program? Else it is said what is not tested.
fn has(program: &str) -> bool {
    let is_there = output(Command::new("which").arg(program), PATIENCE)
        .is_ok_and(|said| said.status.success());
    if !is_there {
        eprintln!("NOT TESTED: {program} is not installed");
    }
    is_there
}

#[test]
fn clients_of_others_work() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let files = site.demo.outside("files");
    fs::create_dir_all(files.join("deep"))?;
    let large = content(1, 9_000_000);
    fs::write(files.join("large"), &large)?;
    fs::write(files.join("deep/small \u{fc} & +"), "small")?;
    let address = format!("{}/dav", site.door.address);
    if has("rclone") {
        let rclone = |words: &[&str]| {
            let mut command = Command::new("rclone");
            command.args(words).env("RCLONE_CONFIG_HERE_TYPE", "webdav");
            command.env("RCLONE_CONFIG_HERE_URL", format!("http://{address}/"));
            run(&mut command, 2 * PATIENCE)
        };
        let source = files.display().to_string();
        rclone(&["copy", &source, "here:by-rclone"])?;
        ensure!(fs::read(site.demo.file("by-rclone/large"))? == large, "by rclone");
        rclone(&["check", "--download", &source, "here:by-rclone"])?;
        rclone(&["moveto", "here:by-rclone/large", "here:by-rclone/moved"])?;
        ensure!(rclone(&["lsf", "-R", "here:by-rclone"])?.lines().count() == 3);
        rclone(&["purge", "here:by-rclone"])?;
        ensure!(!site.demo.file("by-rclone").exists());
    }
    if has("cadaver") {
        let said = "mkcol by-cadaver\ncd by-cadaver\nput large\nmove large moved\nget moved back\n\
            lock moved\nunlock moved\npropset moved of May\nls\nquit\n";
        fs::write(site.demo.outside("said"), said)?;
        let line = format!("cadaver http://{address}/ < {:?}", site.demo.outside("said"));
        let heard = shell(&files, &line, PATIENCE)?;
        ensure!(fs::read(files.join("back"))? == large, "by cadaver, and back: {heard}");
        ensure!(fs::read(site.demo.file("by-cadaver/moved"))? == large, "{heard}");
        ensure!(heard.matches("succeeded").count() >= 6, "{heard}");
    }
    if has("gio") && has("dbus-run-session") && has_backend() {
        let line = format!(
            "gio mount dav://{address}/ && gio mkdir dav://{address}/by-gio && \
             gio copy large dav://{address}/by-gio/large && gio cat dav://{address}/by-gio/large > back-by-gio && \
             gio move dav://{address}/by-gio/large dav://{address}/by-gio/moved && gio list dav://{address}/by-gio"
        );
        fs::write(site.demo.outside("by-gio"), line)?;
        let line = format!("dbus-run-session -- bash -e {:?}", site.demo.outside("by-gio"));
        let listed = shell(&files, &line, PATIENCE)?;
        ensure!(listed.trim() == "moved", "{listed}");
        ensure!(fs::read(files.join("back-by-gio"))? == large, "by gio, and back");
        ensure!(fs::read(site.demo.file("by-gio/moved"))? == large, "by gio");
    }
    Ok(())
}

/// Has a desktop's client its part for WebDAV?
fn has_backend() -> bool {
    let is_there = ["/usr/libexec/gvfsd-dav", "/usr/lib/gvfs/gvfsd-dav"]
        .into_iter()
        .any(|backend| Path::new(backend).exists());
    if !is_there {
        eprintln!("NOT TESTED: gvfs-backends is not installed");
    }
    is_there
}
