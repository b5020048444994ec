//! Promise: a folder, or some of what is in it, is downloaded as a zip file that others read, while it is made; one that could not
//! be made whole is no zip file; and browsers fetch it by a ticket, for one place and one account.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::accounts::Accounts;
use tests::cluster::{Demo, can_mount};
use tests::door::{ANN, PASSWORD, start};
use tests::process::{PATIENCE, output, run, wait_until};
use tests::seed::content;

fn archive(path: &str) -> String {
    format!("/api/v1/archive/{path}")
}

/// Names and contents in a zip file, as Python reads it, which verifies them. `None`, said loudly: it is not installed.
fn read(bytes: &[u8]) -> Result<Option<String>> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), bytes)?;
    if Path::new("/usr/bin/unzip").exists() {
        run(Command::new("unzip").arg("-tq").arg(file.path()), PATIENCE)?;
    } else {
        eprintln!("NOT TESTED: unzip is not installed");
    }
    let script = "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\nassert z.testzip() is None\n\
        print(*sorted(f'{i.filename} {i.file_size} {oct(i.external_attr >> 16)}' for i in z.infolist()), sep='\\n')";
    let mut python = Command::new("python3");
    if output(Command::new("python3").arg("-V"), PATIENCE).is_err() {
        eprintln!("NOT TESTED: python3 is not installed");
        return Ok(None);
    }
    Ok(Some(run(python.args(["-c", script]).arg(file.path()), PATIENCE)?))
}

fn fill(demo: &Demo) -> Result<()> {
    fs::create_dir_all(demo.file("f/sub/empty"))?;
    fs::write(demo.file("f/a \u{fc}"), content(1, 3_000_000))?;
    fs::write(demo.file("f/sub/x"), b"x")?;
    fs::write(demo.file("f/sub/nothing"), b"")?;
    fs::set_permissions(demo.file("f/sub/x"), fs::Permissions::from_mode(0o755))?;
    fs::write(demo.file("f").join(OsStr::from_bytes(b"..\\up\xff")), b"odd")?;
    symlink("sub/x", demo.file("f/link"))?;
    symlink("sub", demo.file("f/folder"))?;
    symlink("/etc/passwd", demo.file("f/out"))?;
    run(Command::new("mkfifo").arg(demo.file("f/pipe")), PATIENCE).map(drop)
}

#[test]
fn a_folder_is_a_zip_file_that_others_read() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    fill(&demo)?;
    let whole = door.get(&archive("f"))?.expect(200)?;
    ensure!(whole.headers["content-disposition"].starts_with("attachment; filename=\"f.zip\""));
    ensure!(whole.headers["content-type"] == "application/zip");
    let Some(said) = read(&whole.body)? else { return Ok(()) };
    let expected = "f/ 0 0o40755\nf/..%5Cup%FF 3 0o100644\nf/a \u{fc} 3000000 0o100644\nf/link 1 0o100755\n\
        f/sub/ 0 0o40755\nf/sub/empty/ 0 0o40755\nf/sub/nothing 0 0o100644\nf/sub/x 1 0o100755\n";
    ensure!(said == expected, "{said}");

    // Some of it, and all there is.
    let some = door.get(&archive("f?name=sub&name=a%2520%25C3%25BC"))?.expect(200)?;
    let said = read(&some.body)?.context("read before")?;
    ensure!(said.starts_with("a \u{fc} 3000000 ") && said.contains("\nsub/x 1 "), "{said}");
    let all = read(&door.get(&archive(""))?.expect(200)?.body)?.context("read before")?;
    ensure!(all.contains("f/sub/x 1 "), "{all}");
    let empty = door.get(&archive("f/sub/empty"))?.expect(200)?;
    ensure!(read(&empty.body)?.context("read before")? == "empty/ 0 0o40755\n");
    ensure!(door.ask("HEAD", &archive("f"), &[], b"")?.expect(200)?.body.is_empty());
    for (path, status) in [
        ("none", 404),
        ("f/sub/x", 409),
        ("f?name=none", 404),
        ("f?name=..", 400),
        ("f?name=sub%2Fx", 400),
        ("f?name=%252e%252e", 400),
        ("f?name=", 400),
        ("f/folder/..", 400),
    ] {
        ensure!(door.get(&archive(path))?.status == status, "{path}");
    }
    Ok(())
}

#[test]
fn an_account_does_not_hold_all_that_can_be_sent_at_once() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    fs::create_dir(demo.file("f"))?;
    // More than what lies between the two ends takes.
    fs::write(demo.file("f/large"), content(2, 48 << 20))?;
    fs::create_dir(demo.file("small"))?;
    for name in ["ann", "bob"] {
        let account = format!("user add {name} --uid 0 --gid 0");
        Accounts(&demo).with_password(&account, PASSWORD)?;
    }
    let (ann, bob) = (door.of("ann", PASSWORD), door.of("bob", PASSWORD));
    let take_little = |_| -> Result<TcpStream> {
        let mut stream = ann.begin("GET", &archive("f"), &[])?;
        let mut begin = [0; 12];
        stream.read_exact(&mut begin)?;
        ensure!(begin == *b"HTTP/1.1 200", "{begin:?}");
        Ok(stream)
    };
    let slow = (0..4).map(take_little).collect::<Result<Vec<_>>>()?;
    let refused = ann.get(&archive("small"))?.expect(503)?;
    ensure!(refused.error() == "busy" && refused.headers.contains_key("retry-after"));
    bob.get(&archive("small"))?.expect(200)?;
    drop(slow);
    wait_until("her turns to be given back", PATIENCE, || {
        ann.get(&archive("small")).is_ok_and(|got| got.status == 200)
    })
}

/// Folders within one another whose path is longer than a path may be, and a file in the last.
fn deep(root: &Path) -> Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let name = "deep".repeat(50);
    let mut at = openat(CWD, root, OFlags::DIRECTORY, Mode::empty())?;
    for _ in 0..25 {
        mkdirat(&at, &name, Mode::from_raw_mode(0o755))?;
        at = openat(&at, &name, OFlags::DIRECTORY, Mode::empty())?;
    }
    openat(&at, "needle", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644))?;
    Ok(())
}

#[test]
fn what_is_too_deep_to_have_a_path_is_left_out_and_named() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    fs::create_dir(demo.file("f"))?;
    deep(&demo.file("f"))?;
    fs::write(demo.file("f/z needle"), b"found")?;
    let found = door.get("/api/v1/search/?name=needle")?.expect(200)?;
    let found = String::from_utf8(found.body)?;
    let lines: Vec<Value> = found.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() == 2 && lines[0]["path"] == "f/z%20needle", "{found}");
    let too_deep = lines[1]["too_deep"][0].as_str().context("nothing is named")?;
    ensure!(
        lines[1]["done"] == true && lines[1]["more"] == false && too_deep.starts_with("f/deep")
    );
    let whole = door.get(&archive("f"))?.expect(200)?;
    let Some(said) = read(&whole.body)? else { return Ok(()) };
    ensure!(said.contains("f/z needle 5 ") && !said.contains("/needle"), "{said}");
    ensure!(said.contains("LEFT OUT%20.txt "), "{said}");
    Ok(())
}

#[test]
fn what_cannot_be_read_whole_is_no_zip_file_and_a_ticket_is_for_one_place() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (demo, door) = start()?;
    fill(&demo)?;
    std::os::unix::fs::chown(demo.file("f"), Some(ANN), Some(ANN))?;
    let ann = format!("user add ann --uid {ANN} --gid {ANN} --read-only");
    Accounts(&demo).with_password(&ann, PASSWORD)?;
    let ann = door.of("ann", PASSWORD);
    ann.get(&archive("f"))?.expect(200)?;
    let ticket = |path: &str| {
        let asked = json!({ "path": path }).to_string();
        let said = ann.post("/api/v1/ticket", asked.as_bytes())?.expect(200)?.json()?;
        anyhow::Ok(said["ticket"].as_str().context("a ticket")?.to_owned())
    };
    let (all, sub) = (ticket("f")?, ticket("f/sub")?);
    ensure!(read(&door.get(&archive(&format!("f?ticket={all}")))?.expect(200)?.body)?.is_some());
    let of = |path: &str, ticket: &str| door.get(&format!("/api/v1/{path}?ticket={ticket}"));
    ensure!(of("content/f/sub/x", &all)?.expect(200)?.body == b"x");
    ensure!(of("content/f/sub/x", &sub)?.expect(200)?.body == b"x");
    ensure!(of("archive/f", &sub)?.expect(403)?.error() == "denied");
    of("content/f/a%20%C3%BC", &sub)?.expect(403)?;
    of("content/f/sub/x", &format!("{sub}A"))?.expect(403)?;
    of("entries/f/sub", &sub)?.expect(403)?;
    door.put(&format!("/api/v1/content/f/sub/x?ticket={sub}"), b"y")?.expect(403)?;

    // What may not be read breaks it off.
    fs::write(demo.file("f/sub/hers"), b"not for her")?;
    fs::set_permissions(demo.file("f/sub/hers"), fs::Permissions::from_mode(0o600))?;
    let broken = ann.get(&archive("f"));
    ensure!(broken.is_err(), "it ends as if it were whole: {:?}", broken.map(|got| got.body.len()));
    // A changed account has no tickets.
    Accounts(&demo).with_password("user password ann", "another password")?;
    of("content/f/sub/x", &sub)?.expect(401)?;
    Ok(())
}
