//! Promise: the page shows the same tree as the mount. Everything that it offers works by clicks, keys, drops and fingers in a real browser;
//! what is uploaded and downloaded is the same byte for byte, also after the line was cut; and nobody is kept out by what he sees with.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::accounts::Accounts;
use tests::browser::{Browser, Screen, key};
use tests::cluster::{Mode, can_mount};
use tests::door::{Door, PASSWORD};
use tests::page::{Site, answer, choose};
use tests::process::{PATIENCE, run, wait_until};
use tests::seed::content;

/// A file that is sent in pieces, and takes a while.
const LARGE: usize = 24 << 20;
const MANY: usize = 100_000;

/// The names that the list shows, from its top.
fn names(browser: &Browser) -> Result<Vec<String>> {
    let script = "return [...document.querySelectorAll('.space .row')].sort((a, b) => \
         a.ariaRowIndex - b.ariaRowIndex) \
         .map(row => row.querySelector('.title').textContent)";
    Ok(serde_json::from_value(browser.script(script, json!([]))?)?)
}

/// Waits until this alone is selected.
fn selected(browser: &Browser, name: &str) -> Result<()> {
    let script = "const rows = [...document.querySelectorAll('.row[aria-selected=true]')]; \
         return rows.length === 1 && rows[0].querySelector('.title').textContent === arguments[0]";
    browser.until(&format!("{name} to be selected"), script, json!([name])).map(drop)
}

/// Presses what deletes for good what is selected, behind other keys.
fn delete_for_good(browser: &Browser, keys: &str) -> Result<()> {
    browser.press(&format!("{keys}{}{}{}", key::SHIFT, key::DELETE, key::NONE))
}

#[test]
fn one_goes_about_in_the_tree() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    for (name, since) in [("report 9.md", 1_000_000), ("notes.txt", 4_000_000_000)] {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(since);
        File::options().write(true).open(site.demo.file(name))?.set_modified(modified)?;
    }
    let browser = site.browser(Screen::Desktop)?;
    browser.row("notes.txt")?;
    let first = [
        "Holidays",
        "Документы",
        "<b>bold & \"quoted\".txt",
        "notes.txt",
        "report 9.md",
        "report 10.md",
    ];
    ensure!(names(&browser)? == first, "{:?}", names(&browser)?);
    browser.is_accessible("files")?;
    browser.prefers("dark")?;
    browser.is_accessible("files-dark")?;
    browser.prefers("light")?;

    browser.click(&browser.find(".cell.size .sort")?)?;
    ensure!(names(&browser)?[2] == "notes.txt", "{:?}", names(&browser)?);
    browser.click(&browser.find(".cell.size .sort")?)?;
    ensure!(names(&browser)?[5] == "notes.txt", "{:?}", names(&browser)?);
    // By time, either way round; folders stay above.
    browser.click(&browser.find(".cell.modified .sort")?)?;
    let first = names(&browser)?;
    browser.click(&browser.find(".cell.modified .sort")?)?;
    let second = names(&browser)?;
    let ends = [&first, &second].map(|names| (names[2].clone(), names[5].clone()));
    let (old, new) = ("report 9.md".to_owned(), "notes.txt".to_owned());
    ensure!(
        ends == [(new.clone(), old.clone()), (old.clone(), new.clone())]
            || ends == [(old.clone(), new.clone()), (new, old)],
        "{first:?}, {second:?}"
    );
    browser.click(&browser.find(".cell.name .sort")?)?;
    browser.type_into(&browser.find(".filter")?, "REPORT")?;
    browser.reads(".status-line", "2 items of 6")?;
    ensure!(names(&browser)? == ["report 9.md", "report 10.md"], "{:?}", names(&browser)?);
    browser.type_into(
        &browser.find(".filter")?,
        &format!("{0}a{1}{2}", key::CONTROL, key::NONE, key::BACKSPACE),
    )?;

    // Folders, addresses, history.
    browser.double_click(&browser.row("Документы")?)?;
    browser.row("план.txt")?;
    let within = browser.address()?;
    browser.history("refresh")?;
    browser.row("план.txt")?;
    browser.history("back")?;
    browser.row("notes.txt")?;
    browser.history("forward")?;
    browser.row("план.txt")?;
    browser.go(&site.address(""))?;
    browser.row("notes.txt")?;
    browser.go(&within)?;
    browser.row("план.txt")?;
    browser.click(&browser.find(".crumbs a")?)?;
    browser.row("notes.txt")?;

    a_folder_says_how_safe_it_is(&browser)?;
    by_keys_alone(&browser)
}

/// In the panel beside the list: of one that is selected, and of the one that is shown.
fn a_folder_says_how_safe_it_is(browser: &Browser) -> Result<()> {
    browser.click(&browser.row("Holidays")?)?;
    browser.click(&browser.button(".chosen", "Details")?)?;
    for words in ["Holidays", "Folder", "Who may", "ec(4,2)", "2 more disks", "Reading survives"] {
        browser.reads(".details", words)?;
    }
    browser.is_accessible("folder")?;
    browser.click(&browser.button(".chosen", "Select nothing")?)?;
    browser.reads(".details", "The top folder")?;
    browser.reads(".details", "2 more disks")?;
    browser.click(&browser.button(".details", "Close details")?)?;
    browser.gone(".details")
}

fn by_keys_alone(browser: &Browser) -> Result<()> {
    browser.press("/")?;
    browser.press(&format!("ПЛАН{}", key::ENTER))?;
    browser.row("план.txt")?;
    browser.reads(".where", "in /Документы")?;
    browser.is_accessible("search")?;
    browser.right_click(&browser.row("план.txt")?)?;
    browser.is_accessible("menu")?;
    browser.click(&browser.button(".menu", "Show in its folder")?)?;
    selected(browser, "план.txt")?;
    browser.press(key::BACKSPACE)?;
    selected(browser, "Документы")?;
    browser.press(&format!("{}{}", key::END, key::ENTER))?;
    browser.reads(".preview pre", "# Ten")?;
    browser.press(key::ESCAPE)?;
    browser.gone("dialog")?;
    browser.press(&format!("{}{}{}{}", key::HOME, key::SHIFT, key::DOWN, key::NONE))?;
    browser.reads(".chosen .count", "2 items")?;
    browser.press(&format!("{}a{}", key::CONTROL, key::NONE))?;
    browser.reads(".chosen .count", "6 items")?;
    browser.press(key::ESCAPE)?;
    browser.gone(".chosen")?;
    browser.press("?")?;
    browser.reads("dialog", "To the folder above")?;
    browser.is_accessible("help")?;
    browser.press(key::ESCAPE)?;
    browser.is_clean()
}

#[test]
fn files_are_made_moved_copied_and_deleted() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let browser = site.browser(Screen::Desktop)?;
    let there = |name: &str| site.demo.file(name).exists();
    let seen = |name: &str| wait_until(name, PATIENCE, || there(name));
    browser.click(&browser.button(".tools", "New folder")?)?;
    browser.find("dialog input")?;
    browser.press(&format!("a/b{}", key::ENTER))?;
    browser.reads("dialog .wrong", "A name has no slash.")?;
    let again = format!("{}a{}100% new{}", key::CONTROL, key::NONE, key::ENTER);
    browser.press(&again)?;
    browser.row("100% new")?;
    ensure!(there("100% new"));
    browser.press(key::F2)?;
    browser.find("dialog input")?;
    browser.press(&again.replace("100% new", "#new?"))?;
    browser.row("#new?")?;
    browser.no_row("100% new")?;
    ensure!(there("#new?") && !there("100% new"));

    // Onto a folder, with the mouse; and back by a dialog.
    browser.drag(&browser.row("report 9.md")?, &browser.row("#new?")?)?;
    browser.no_row("report 9.md")?;
    ensure!(fs::read(site.demo.file("#new?/report 9.md"))? == b"# Nine");
    choose(&browser, "report 10.md", "Move")?;
    let folder = ".branch[data-path='%23new%3F']";
    browser.click(&browser.find(folder)?)?;
    browser.is_accessible("tree")?;
    answer(&browser, "Move here")?;
    browser.no_row("report 10.md")?;
    ensure!(there("#new?/report 10.md") && !there("report 10.md"));
    choose(&browser, "notes.txt", "Copy")?;
    browser.click(&browser.find(folder)?)?;
    answer(&browser, "Copy here")?;
    seen("#new?/notes.txt")?;
    // The name is taken there now.
    for (how, name) in [
        ("Keep both", "#new?/notes (2).txt"),
        ("Skip", "notes.txt"),
        ("Replace", "#new?/notes.txt"),
    ] {
        fs::write(site.demo.file("notes.txt"), how)?;
        choose(&browser, "notes.txt", "Copy")?;
        browser.click(&browser.find(folder)?)?;
        answer(&browser, "Copy here")?;
        browser.reads("dialog", "There is already notes.txt")?;
        answer(&browser, how)?;
        wait_until(name, PATIENCE, || {
            fs::read(site.demo.file(name)).is_ok_and(|bytes| bytes == how.as_bytes())
        })?;
    }
    choose(&browser, "#new?", "Copy")?;
    answer(&browser, "Copy here")?;
    browser.row("#new? (2)")?;
    ensure!(fs::read_dir(site.demo.file("#new? (2)"))?.count() == 4);

    // Deleted for good, with a word about how many; or into the trash, without.
    fs::set_permissions(site.demo.file("Holidays"), fs::Permissions::from_mode(0o750))?;
    browser.click(&browser.row("Holidays")?)?;
    delete_for_good(&browser, &format!("{}{}{}", key::SHIFT, key::DOWN, key::NONE))?;
    browser.reads("dialog", "2 folders")?;
    browser.is_accessible("delete")?;
    answer(&browser, "Cancel")?;
    ensure!(there("Holidays"));
    delete_for_good(&browser, "")?;
    answer(&browser, "Delete for good")?;
    browser.no_row("Holidays")?;
    browser.no_row("Документы")?;
    ensure!(!there("Holidays") && !there("Документы"));
    // What the mount does meanwhile is seen when the list is read again.
    fs::write(site.demo.file("by the mount"), "x")?;
    browser.click(&browser.button(".tools", "Read again")?)?;
    browser.row("by the mount")?;
    browser.is_clean()
}

#[test]
fn files_go_up_and_down_whole_and_uploads_outlive_a_cut() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let browser = site.browser(Screen::Desktop)?;
    browser.row("notes.txt")?;
    let (small, large) = (content(1, 70_000), content(2, LARGE));
    let empty = site.source("empty", b"")?;
    let sources = [site.source("small.bin", &small)?, site.source("large.bin", &large)?, empty];
    browser.choose("pick-files", &sources)?;
    site.arrives("small.bin", &small)?;
    site.arrives("large.bin", &large)?;
    site.arrives("empty", b"")?;
    browser.reads(".uploads", "3 files uploaded")?;
    browser.is_accessible("uploaded")?;

    a_cut_line_comes_back(&site, &browser)?;

    // Whole folders are dropped, names are taken.
    site.source("dropped/deep/er/x.bin", &small)?;
    site.source("dropped/y.txt", b"y")?;
    fs::create_dir_all(site.demo.outside("sources/dropped/nothing in it"))?;
    browser.drop_files(
        ".scroller",
        &[site.demo.outside("sources/dropped"), site.source("small.bin", b"other")?],
    )?;
    browser.reads("dialog", "There is already small.bin")?;
    browser.is_accessible("conflict")?;
    answer(&browser, "Keep both")?;
    site.arrives("dropped/deep/er/x.bin", &small)?;
    site.arrives("dropped/y.txt", b"y")?;
    site.arrives("small (2).bin", b"other")?;
    wait_until("an empty folder", PATIENCE, || site.demo.file("dropped/nothing in it").is_dir())?;
    browser.choose("pick-files", &[site.source("small.bin", b"replaced")?])?;
    answer(&browser, "Replace")?;
    wait_until("it to be replaced", PATIENCE, || {
        fs::read(site.demo.file("small.bin")).is_ok_and(|bytes| bytes == b"replaced")
    })?;
    // Onto a folder in the list, which takes it.
    let onto = ".space .row[title='Holidays']";
    browser.row("Holidays")?;
    browser.drop_files(onto, &[site.source("onto.txt", b"onto a folder")?])?;
    site.arrives("Holidays/onto.txt", b"onto a folder")?;
    ensure!(!site.demo.file("onto.txt").exists(), "it is beside the folder");
    an_answer_for_all_ends_with_them(&site, &browser)?;
    let left = site.demo.file("cancelled.bin");
    ensure!(!left.exists(), "what was cancelled is there");

    // And down again.
    choose(&browser, "large.bin", "Download")?;
    ensure!(browser.downloaded("large.bin")? == large, "the download is another file");
    choose(&browser, "dropped", "Download")?;
    archive_is(&browser, "dropped.zip", &[("deep/er/x.bin", &small), ("y.txt", b"y")])?;
    browser.click(&browser.row("empty")?)?;
    let more = "const row = [...document.querySelectorAll('.space .row')].find(one => \
         one.querySelector('.title').textContent === arguments[0]); \
         row.querySelector('input').click()";
    browser.script(more, json!(["large.bin"]))?;
    browser.click(&browser.button(".chosen", "Download")?)?;
    archive_is(&browser, "demo.zip", &[("large.bin", &large), ("empty", b"")])?;
    browser.is_clean()
}

/// What is said for all that was chosen at once holds for nothing that is chosen later, though some of it is still under way.
fn an_answer_for_all_ends_with_them(site: &Site, browser: &Browser) -> Result<()> {
    browser.slow_down(1 << 20)?;
    browser.choose("pick-files", &[site.source("paused.bin", &content(6, LARGE))?])?;
    browser.click(&browser.button(".uploads", "Pause paused.bin")?)?;
    browser.find(".uploads li[data-state=paused]")?;
    browser.slow_down(-1)?;
    let both = ["small.bin", "small (2).bin"];
    let sources = both.map(|name| site.source(name, b"for all"));
    browser.choose("pick-files", &sources.into_iter().collect::<Result<Vec<_>>>()?)?;
    browser.reads("dialog", "There is already small")?;
    browser.click(&browser.find("#for-all")?)?;
    answer(browser, "Replace")?;
    for name in both {
        wait_until(name, PATIENCE, || {
            fs::read(site.demo.file(name)).is_ok_and(|bytes| bytes == b"for all")
        })?;
    }
    browser.choose("pick-files", &[site.source("notes.txt", b"for none")?])?;
    browser.reads("dialog", "There is already notes.txt")?;
    answer(browser, "Skip")?;
    browser.find(".uploads li[data-state=skipped]")?;
    ensure!(fs::read(site.demo.file("notes.txt"))?.starts_with(b"Hello"), "it was replaced");
    browser.click(&browser.button(".uploads", "Cancel paused.bin")?)?;
    browser.find(".uploads li[data-state=cancelled]").map(drop)
}

/// The line is cut in the middle of an upload, which goes on when it is there again.
fn a_cut_line_comes_back(site: &Site, browser: &Browser) -> Result<()> {
    let cut = content(3, LARGE);
    let source = site.source("cut.bin", &cut)?;
    browser.slow_down(2 << 20)?;
    browser.choose("pick-files", &[source])?;
    let begun =
        "return document.querySelector('.uploads li[data-state=sending] progress')?.value > 0.1";
    browser.until("some of it to be sent", begun, json!([]))?;
    site.way.cut();
    browser.find(".uploads li[data-state=broken]")?;
    browser.reads(".banner", "No connection")?;
    browser.is_accessible("cut")?;
    // The list stays where it cannot be read again.
    browser.click(&browser.button(".tools", "Read again")?)?;
    browser.reads("#toasts", "does not answer")?;
    browser.row("notes.txt")?;
    browser.click(&browser.button("#toasts", "Close")?)?;
    site.way.mend();
    browser.find(".uploads li[data-state=sending]")?;
    browser.gone(".banner")?;
    browser.click(&browser.button(".uploads", "Pause cut.bin")?)?;
    browser.find(".uploads li[data-state=paused]")?;
    ensure!(!site.demo.file("cut.bin").exists(), "it is seen before it is whole");
    browser.click(&browser.button(".uploads", "Resume cut.bin")?)?;
    browser.find(".uploads li[data-state=sending]")?;
    browser.slow_down(-1)?;
    site.arrives("cut.bin", &cut)?;
    browser.slow_down(1 << 20)?;
    browser.choose("pick-files", &[site.source("cancelled.bin", &cut)?])?;
    browser.click(&browser.button(".uploads", "Cancel cancelled.bin")?)?;
    browser.find(".uploads li[data-state=cancelled]")?;
    browser.slow_down(-1)
}

#[test]
fn an_upload_that_is_not_finished_is_shown_and_can_be_ended() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let browser = site.browser(Screen::Desktop)?;
    browser.row("notes.txt")?;
    browser.slow_down(2 << 20)?;
    browser.choose("pick-files", &[site.source("left.bin", &content(8, LARGE))?])?;
    let sent = "return document.querySelector('.uploads li progress')?.value > 0.1";
    browser.until("some of it to be sent", sent, json!([]))?;
    browser.history("refresh")?;
    browser.row("notes.txt")?;
    browser.slow_down(-1)?;
    browser.reads(".uploads h2", "1 upload not finished")?;
    browser.reads(".uploads .begun", "left.bin")?;
    browser.reads(".uploads .begun", "of 24 MiB came")?;
    browser.is_accessible("unfinished")?;
    browser.click(&browser.button(".uploads", "End left.bin")?)?;
    answer(&browser, "End it")?;
    browser.gone(".uploads")?;
    let door = Door::at(&site.way.address());
    wait_until("the server to know of none", PATIENCE, || {
        let listed = door.get("/api/v1/uploads").and_then(|listed| listed.expect(200)?.json());
        listed.is_ok_and(|listed| listed["uploads"] == json!([]))
    })?;
    ensure!(!site.demo.file("left.bin").exists(), "what was ended is there");
    browser.is_clean()
}

#[test]
fn an_upload_outlives_the_page_that_began_it() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let browser = site.browser(Screen::Desktop)?;
    browser.row("notes.txt")?;
    let bytes = content(5, LARGE);
    let source = [site.source("half.bin", &bytes)?];
    browser.slow_down(2 << 20)?;
    browser.choose("pick-files", &source)?;
    let sent = "return document.querySelector('.uploads li progress')?.value";
    browser.until("a quarter to be sent", &format!("{sent} > 0.25"), json!([]))?;
    browser.history("refresh")?;
    browser.row("notes.txt")?;
    browser.slow_down(2 << 20)?;
    browser.choose("pick-files", &source)?;
    let first = browser.until("it to go on", &format!("{sent} || null"), json!([]))?;
    ensure!(first.as_f64().is_some_and(|part| part > 0.2), "it goes on from {first}");
    browser.slow_down(-1)?;
    site.arrives("half.bin", &bytes)?;

    site.source("picked/a/b.txt", b"b")?;
    browser.choose("pick-folder", &[site.demo.outside("sources/picked")])?;
    site.arrives("picked/a/b.txt", b"b")?;

    // Colours that somebody has chosen stay.
    let dark = "return document.documentElement.dataset.theme === 'dark'";
    for _ in 0..2 {
        browser.click(&browser.find("button[aria-label^='Colours']")?)?;
    }
    browser.until("the dark", dark, json!([]))?;
    browser.history("refresh")?;
    browser.row("picked")?;
    browser.until("the dark again", dark, json!([]))?;
    browser.is_accessible("chosen-dark")?;
    browser.is_clean()
}

/// A downloaded archive has these files, whole, perhaps below a folder of its own.
fn archive_is(browser: &Browser, name: &str, files: &[(&str, &[u8])]) -> Result<()> {
    browser.downloaded(name)?;
    let directory = browser.downloads().join(format!("{name}.d"));
    let script = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(browser.downloads().join(name)).arg(&directory);
    run(&mut python, PATIENCE)?;
    for (path, bytes) in files {
        let stem = name.trim_end_matches(".zip");
        let places = [directory.join(path), directory.join(stem).join(path)];
        let place = places.iter().find(|place| place.exists());
        let place = place.with_context(|| format!("{name} has no {path}"))?;
        ensure!(fs::read(place)? == *bytes, "{path} in {name} is another file");
    }
    Ok(())
}

#[test]
fn one_looks_into_files_and_where_they_lie() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Served)?;
    let pixel = run(Command::new("python3").args(["-c", MEDIA]).arg(site.demo.path()), PATIENCE)?;
    ensure!(pixel.is_empty());
    fs::write(site.demo.file("data.bin"), content(4, 300_000))?;
    let browser = site.browser(Screen::Desktop)?;
    let open = |name: &str| browser.double_click(&browser.row(name)?);
    let close = || -> Result<()> {
        browser.press(key::ESCAPE)?;
        browser.gone("dialog")
    };
    open("notes.txt")?;
    browser.reads(".preview pre", "Hello from the mount.")?;
    browser.is_accessible("text")?;
    close()?;
    open("picture.png")?;
    browser.until(
        "a picture",
        "return document.querySelector('.stage img')?.naturalWidth === 40",
        json!([]),
    )?;
    browser.is_accessible("picture")?;
    close()?;
    open("sound.wav")?;
    browser.until(
        "a sound",
        "return document.querySelector('.stage audio')?.duration === 1",
        json!([]),
    )?;
    close()?;
    open("paper.pdf")?;
    browser.find(".stage iframe")?;
    browser.until(
        "the paper to be shown",
        "return document.querySelector('.stage \
         iframe').contentDocument?.contentType === 'application/pdf'",
        json!([]),
    )?;
    browser.shoot("paper")?;
    close()?;
    open("data.bin")?;
    browser.reads(".preview", "There is no preview")?;
    close()?;

    browser.click(&browser.row("data.bin")?)?;
    browser.press(&format!("{}i{}", key::CONTROL, key::NONE))?;
    browser.reads(".details", "300,000 bytes")?;
    browser.reads(".details", "ec(4,2)")?;
    browser.reads(".details", "2 more disks")?;
    browser.reads(".details", "read, write")?;
    browser.until(
        "the disks of a file",
        "return document.querySelectorAll('.details .disks li').length >= 6",
        json!([]),
    )?;
    browser.is_accessible("details")?;
    if nix::unistd::geteuid().is_root() {
        who_may_is_seen(&site, &browser)?;
    }
    browser.is_clean()
}

/// With an access list, whose mask is not what the group may.
fn who_may_is_seen(site: &Site, browser: &Browser) -> Result<()> {
    let list = ["-m", "u:1234:rwx,g::r,g:77:x,m::rx"];
    run(Command::new("setfacl").args(list).arg(site.demo.file("data.bin")), PATIENCE)?;
    browser.click(&browser.row("notes.txt")?)?;
    browser.reads(".details", "notes.txt")?;
    browser.click(&browser.row("data.bin")?)?;
    let of = |name: &str, may: &str| {
        let script = "return [...document.querySelectorAll('.details dl div')].some(one => \
             one.querySelector('dt').textContent === arguments[0] && \
             one.querySelector('dd').textContent.startsWith(arguments[1]))";
        browser.until(&format!("{name} may {may}"), script, json!([name, may])).map(drop)
    };
    of("User 1234", "read, enter or run (and not write")?;
    of("Group 0", "read")?;
    of("Group 77", "enter or run")?;
    of("Users and groups at most", "read, enter or run")?;
    browser.is_accessible("details-list")
}

/// Makes a picture, a sound of one second, and a paper.
const MEDIA: &str = r#"
import struct, sys, wave, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
rows = b"".join(b"\0" + bytes([200, 90, 60 + y]) * 40 for y in range(30))
with open(sys.argv[1] + "/picture.png", "wb") as file:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 30, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    file.write(b"\x89PNG\r\n\x1a\n" + head + body)
with wave.open(sys.argv[1] + "/sound.wav", "wb") as file:
    file.setparams((1, 2, 8000, 8000, "NONE", ""))
    file.writeframes(bytes(16000))
with open(sys.argv[1] + "/paper.pdf", "wb") as file:
    file.write(b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n")
    file.write(b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n")
    file.write(b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 100]>>endobj\n")
    file.write(b"trailer<</Root 1 0 R>>\n")
"#;

#[test]
fn who_logs_in_sees_his_folder_and_shares_it() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    fs::create_dir(site.demo.file("Holidays/2025"))?;
    fs::write(site.demo.file("Holidays/2025/beach.txt"), "sand")?;
    fs::set_permissions(site.demo.file("Holidays"), fs::Permissions::from_mode(0o777))?;
    Accounts(&site.demo)
        .with_password("user add ann --uid 12345 --gid 12345 --folder /Holidays", PASSWORD)?;
    let browser = site.browser(Screen::Desktop)?;
    let log_in = |password: &str| -> Result<()> {
        let name = browser.find("#login-name")?;
        browser.type_into(&name, &format!("{0}a{1}ann", key::CONTROL, key::NONE))?;
        let field = browser.find("#login-password")?;
        browser.type_into(
            &field,
            &format!("{0}a{1}{password}{2}", key::CONTROL, key::NONE, key::ENTER),
        )
    };
    browser.find("#login-name")?;
    browser.is_accessible("login")?;
    log_in("not this one")?;
    browser.until(
        "a refusal",
        "return document.querySelector('.login .wrong').innerText.length > 10",
        json!([]),
    )?;
    log_in(PASSWORD)?;
    browser.row("2025")?;
    browser.gone(".tab[href='#status']")?;
    ensure!(names(&browser)? == ["2025"], "{:?}", names(&browser)?);
    // What the browser fetches by itself has a ticket.
    browser.double_click(&browser.row("2025")?)?;
    choose(&browser, "beach.txt", "Download")?;
    ensure!(browser.downloaded("beach.txt")? == b"sand");
    browser.click(&browser.find(".crumbs a")?)?;

    a_link_lets_a_guest_read(&browser)?;
    browser.click(&browser.button(".top", "Log out")?)?;
    browser.find("#login-name")?;
    // A reload does not bring him in again.
    browser.history("refresh")?;
    browser.find("#login-name")?;
    let token = Accounts(&site.demo).say("token add ann --expires 1d")?;
    browser.click(&browser.button(".login", "Log in with a token instead")?)?;
    browser
        .type_into(&browser.find("#login-token")?, &format!("{}{}", token.trim(), key::ENTER))?;
    browser.row("2025")?;
    browser.is_clean()
}

#[test]
fn what_is_deleted_comes_back_from_the_trash() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let browser = site.browser(Screen::Desktop)?;
    let there = |name: &str| site.demo.file(name).exists();
    fs::write(site.demo.file("Holidays/beach.txt"), "sand")?;
    // Without a question, as there is a way back.
    choose(&browser, "Holidays", "Delete")?;
    browser.no_row("Holidays")?;
    browser.reads("#toasts", "in the trash")?;
    ensure!(!there("Holidays"));
    browser.click(&browser.button("#toasts", "Undo")?)?;
    browser.row("Holidays")?;
    ensure!(fs::read(site.demo.file("Holidays/beach.txt"))? == b"sand");

    choose(&browser, "Holidays", "Delete")?;
    browser.no_row("Holidays")?;
    browser.click(&browser.row("notes.txt")?)?;
    browser.press(key::DELETE)?;
    browser.no_row("notes.txt")?;
    // Somebody has given its name to another.
    fs::write(site.demo.file("notes.txt"), "new notes")?;
    browser.click(&browser.find(".tab[href='#trash']")?)?;
    browser.reads(".trash", "Holidays")?;
    browser.reads(".trash .bar", "2 items · kept for 30 days")?;
    browser.is_accessible("trash")?;
    browser.shoot("trash")?;
    browser.click(&browser.find("input[aria-label='Select notes.txt']")?)?;
    browser.click(&browser.button(".trash .tools", "Restore")?)?;
    browser.reads("dialog", "There is already notes.txt")?;
    browser.is_accessible("restore")?;
    answer(&browser, "Keep both")?;
    browser.reads(".trash .bar", "1 item ·")?;
    ensure!(fs::read_to_string(site.demo.file("notes.txt"))? == "new notes");
    ensure!(fs::read_to_string(site.demo.file("notes (2).txt"))?.starts_with("Hello"));
    browser.click(&browser.find("input[aria-label='Select Holidays']")?)?;
    browser.click(&browser.button(".trash .tools", "Restore")?)?;
    browser.reads(".trash", "The trash is empty")?;
    ensure!(fs::read(site.demo.file("Holidays/beach.txt"))? == b"sand");
    browser.click(&browser.find(".tab[href='#/']")?)?;
    browser.row("notes (2).txt")?;

    // For good, one and all.
    for name in ["report 9.md", "report 10.md", "notes.txt"] {
        choose(&browser, name, "Delete")?;
        browser.no_row(name)?;
    }
    browser.click(&browser.find(".tab[href='#trash']")?)?;
    browser.click(&browser.find("input[aria-label='Select report 9.md']")?)?;
    browser.click(&browser.button(".trash .tools", "Delete for good")?)?;
    answer(&browser, "Delete for good")?;
    browser.reads(".trash .bar", "2 items")?;
    browser.click(&browser.button(".trash .tools", "Empty the trash")?)?;
    answer(&browser, "Empty the trash")?;
    browser.reads(".trash", "The trash is empty")?;
    ensure!(Accounts(&site.demo).list("trash")?.is_empty());
    browser.is_clean()
}

/// A link is made, and lets somebody read on a phone, until it is revoked.
fn a_link_lets_a_guest_read(browser: &Browser) -> Result<()> {
    choose(browser, "2025", "Share")?;
    answer(browser, "Make a link")?;
    let link = browser.until(
        "a link",
        "return document.querySelector('.made input')?.value",
        json!([]),
    )?;
    let link = link.as_str().context("a link")?.to_owned();
    browser.find(".links li")?;
    browser.is_accessible("share")?;
    let guest = Browser::start(Screen::Phone)?;
    guest.go(&link)?;
    guest.row("beach.txt")?;
    guest.reads(".top", "Shared with you")?;
    let offered = guest.script(
        "return [...document.querySelectorAll('button')].map(one => \
         one.innerText.trim() || one.ariaLabel)",
        json!([]),
    )?;
    let offered: BTreeSet<String> = serde_json::from_value(offered)?;
    ensure!(!offered.contains("Upload") && !offered.contains("New folder"), "{offered:?}");
    guest.tap(&guest.row("beach.txt")?)?;
    guest.reads(".preview pre", "sand")?;
    browser.click(&browser.find(".links button")?)?;
    browser.reads(".share", "There is none.")?;
    guest.history("refresh")?;
    guest.reads(".alone", "This link opens nothing")?;
    guest.is_accessible("revoked")?;
    browser.press(key::ESCAPE)?;
    browser.gone("dialog")?;
    Ok(())
}

#[test]
fn a_phone_and_a_hundred_thousand_files() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let many = site.demo.file("many");
    fs::create_dir(&many)?;
    // A file may have 65,000 names.
    for first in [0, MANY / 2] {
        let file = many.join(format!("file {first}"));
        fs::write(&file, "x")?;
        for number in first + 1..first + MANY / 2 {
            fs::hard_link(&file, many.join(format!("file {number}")))?;
        }
    }
    let browser = site.browser(Screen::Phone)?;
    browser.row("notes.txt")?;
    browser.is_accessible("phone")?;
    browser.prefers("dark")?;
    browser.is_accessible("phone-dark")?;
    // A finger opens; boxes select.
    browser.tap(&browser.row("notes.txt")?)?;
    browser.reads(".preview pre", "Hello")?;
    browser.is_accessible("phone-preview")?;
    browser.tap(&browser.button(".preview", "Close")?)?;
    browser.gone("dialog")?;
    browser.tap(&browser.find("input[aria-label='Select notes.txt']")?)?;
    browser.find(".chosen")?;
    browser.is_accessible("phone-selected")?;
    browser.tap(&browser.button(".chosen", "Select nothing")?)?;
    browser.gone(".chosen")?;

    browser.tap(&browser.row("many")?)?;
    browser.reads(".status-line", "100,000 items")?;
    browser.until(
        "the list to be read",
        "return !document.querySelector('.status-line').innerText.includes('reading')",
        json!([]),
    )?;
    browser.script("document.querySelector('.scroller').scrollTop = 1e9", json!([]))?;
    browser.row("file 99999")?;
    browser.script("document.querySelector('.scroller').scrollTop = 3e6", json!([]))?;
    browser.row("file 50000")?;
    let rows =
        browser.script("return document.querySelectorAll('.space .row').length", json!([]))?;
    ensure!(rows.as_u64().is_some_and(|rows| rows < 100), "{rows} rows are there at once");
    browser.type_into(&browser.find(".filter")?, "77777")?;
    browser.reads(".status-line", "1 item of 100,000")?;
    browser.row("file 77777")?;
    browser.is_clean()?;
    drop(browser);
    wheels_show_no_blank_frame(&site)
}

/// By a mouse's wheel, far down and back: at each frame rows cover all that is seen, and there are never many of them.
fn wheels_show_no_blank_frame(site: &Site) -> Result<()> {
    let browser = site.browser(Screen::Desktop)?;
    browser.go(&site.address("#/many"))?;
    browser.reads(".status-line", "100,000 items")?;
    browser.row("file 0")?;
    browser.script(FRAMES, json!([]))?;
    let scroller = browser.find(".scroller")?;
    for (way, there) in [(1, "> 100000"), (-1, "=== 0")] {
        browser.wheel(&scroller, way * 2500, 60)?;
        let script = format!("return document.querySelector('.scroller').scrollTop {there}");
        browser.until("the list to be there", &script, json!([]))?;
    }
    let seen = browser.script("document.seen.over = true; return document.seen", json!([]))?;
    println!("by the wheel: {seen}");
    ensure!(seen["frames"].as_u64() > Some(10) && seen["blank"] == 0, "{seen}");
    ensure!(seen["most"].as_u64() < Some(100), "{seen}");
    browser.is_clean()
}

/// Looks at every frame. What is scrolled is drawn before that.
const FRAMES: &str = "const scroller = document.querySelector('.scroller'); \
    const seen = document.seen = {frames: 0, blank: 0, most: 0, over: false}; \
    const look = () => { \
      if (seen.over) return; \
      const view = scroller.getBoundingClientRect(); \
      const rows = [...scroller.querySelectorAll('.row')].map(row => row.getBoundingClientRect()); \
      const top = Math.min(...rows.map(row => row.top)); \
      const bottom = Math.max(...rows.map(row => row.bottom)); \
      const high = rows.reduce((sum, row) => sum + row.height, 0); \
      const isBlank = top > view.top + 1 || bottom < view.bottom - 1 || high < bottom - top - 1; \
      seen.frames += 1; \
      seen.blank += isBlank ? 1 : 0; \
      seen.most = Math.max(seen.most, rows.length); \
      requestAnimationFrame(look); \
    }; \
    requestAnimationFrame(look)";
