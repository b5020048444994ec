//! Promise: whoever looks at the page goes on with two of eight daemons killed; what he sends goes on by itself after the process that
//! serves it was killed and is there again; and of a film or a sound only what he plays is sent.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tests::browser::{Browser, Screen, key};
use tests::cluster::{Mode, Stop, can_mount};
use tests::door::Door;
use tests::page::{Site, choose};
use tests::seed::content;

/// A file that is sent in pieces, and takes a while.
const LARGE: usize = 24 << 20;
/// Bytes of a sound that takes hours: far more than anybody would fetch ahead.
const SOUND: u32 = 400 << 20;
/// Bytes of a second of it.
const SECOND: u32 = 16_000;

#[test]
fn the_page_goes_on_with_two_of_eight_daemons_killed() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Served)?;
    // What is in no memory has to be read.
    site.demo.remount()?;
    site.demo.kill_daemon(1)?;
    site.demo.kill_daemon(6)?;
    let browser = site.browser(Screen::Desktop)?;
    browser.double_click(&browser.row("notes.txt")?)?;
    browser.reads(".preview pre", "Hello from the mount.")?;
    browser.press(key::ESCAPE)?;
    browser.gone("dialog")?;
    let (small, large) = (content(20, 70_000), content(21, 6 << 20));
    let sources = [site.source("small.bin", &small)?, site.source("large.bin", &large)?];
    browser.choose("pick-files", &sources)?;
    site.arrives("small.bin", &small)?;
    site.arrives("large.bin", &large)?;
    browser.reads(".uploads", "2 files uploaded")?;
    choose(&browser, "large.bin", "Download")?;
    ensure!(browser.downloaded("large.bin")? == large, "the download is another file");
    choose(&browser, "small.bin", "Delete")?;
    browser.no_row("small.bin")?;
    ensure!(!site.demo.file("small.bin").exists(), "it is deleted, and there");
    browser.click(&browser.button("#toasts", "Undo")?)?;
    browser.row("small.bin")?;
    ensure!(fs::read(site.demo.file("small.bin"))? == small, "back from the trash");
    browser.is_clean()?;
    drop(browser);
    site.demo.remount()?;
    site.arrives("large.bin", &large)?;
    site.demo.stop(Stop::Umount)?;
    site.demo.switch(Mode::Embedded)?;
    site.demo.fsck()
}

#[test]
fn an_upload_goes_on_by_itself_after_its_server_was_killed() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Served)?;
    // Nothing else is to be missing afterwards.
    nix::unistd::syncfs(File::open(site.demo.path())?)?;
    let browser = site.browser(Screen::Desktop)?;
    browser.row("notes.txt")?;
    let bytes = content(22, LARGE);
    browser.slow_down(2 << 20)?;
    browser.choose("pick-files", &[site.source("killed.bin", &bytes)?])?;
    let sent = "return document.querySelector('.uploads li progress')?.value > 0.1";
    browser.until("some of it to be sent", sent, json!([]))?;
    site.demo.kill_mount()?;
    browser.find(".uploads li[data-state=broken]")?;
    browser.reads(".uploads", "Goes on by itself")?;
    site.demo.mount()?;
    ensure!(!site.demo.file("killed.bin").exists(), "it is seen before it is whole");
    browser.slow_down(-1)?;
    site.arrives("killed.bin", &bytes)?;
    browser.reads(".uploads", "1 file uploaded")?;
    browser.row("killed.bin")?;
    browser.row("notes.txt")?;
    browser.is_clean()
}

/// Paints for two seconds, and keeps that as a film.
const FILM: &str = "const canvas = document.createElement('canvas'); \
    Object.assign(canvas, {width: 160, height: 120}); \
    const pen = canvas.getContext('2d'); \
    let frames = 0; \
    const painting = setInterval(() => { \
      frames += 1; \
      pen.fillStyle = `hsl(${frames * 7} 90% 50%)`; \
      pen.fillRect(0, 0, 160, 120); \
    }, 40); \
    const recorder = new MediaRecorder(canvas.captureStream(25), {mimeType: 'video/webm;codecs=vp8'}); \
    const parts = []; \
    recorder.ondataavailable = (event) => { \
      parts.push(event.data); \
      if (frames > 50 && recorder.state === 'recording') recorder.stop(); \
    }; \
    recorder.onstop = () => { \
      clearInterval(painting); \
      const reader = new FileReader(); \
      reader.onload = () => { document.film = reader.result; }; \
      reader.readAsDataURL(new Blob(parts)); \
    }; \
    recorder.start(100)";

/// A film that this browser has made.
fn film(browser: &Browser) -> Result<Vec<u8>> {
    browser.script(FILM, json!([]))?;
    let made = browser.until("a film to be made", "return document.film ?? null", json!([]))?;
    let parts = made.as_str().and_then(|address| address.split_once(";base64,"));
    let (_, text) = parts.context("a film in an address")?;
    Ok(STANDARD.decode(text)?)
}

/// The head of a sound with one channel of 8,000 numbers per second; what follows is silence.
fn sound_head() -> Vec<u8> {
    let mut head = Vec::new();
    head.extend_from_slice(b"RIFF");
    head.extend_from_slice(&(36 + SOUND).to_le_bytes());
    head.extend_from_slice(b"WAVEfmt ");
    head.extend_from_slice(&16_u32.to_le_bytes());
    head.extend([1_u16, 1].iter().flat_map(|number| number.to_le_bytes()));
    head.extend([8000, SECOND].iter().flat_map(|number| number.to_le_bytes()));
    head.extend([2_u16, 16].iter().flat_map(|number| number.to_le_bytes()));
    head.extend_from_slice(b"data");
    head.extend_from_slice(&SOUND.to_le_bytes());
    head
}

#[test]
fn of_films_and_sounds_only_what_is_played_is_sent() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::start(Mode::Embedded)?;
    let browser = site.browser(Screen::Desktop)?;
    browser.row("notes.txt")?;
    fs::write(site.demo.file("film.webm"), film(&browser)?)?;
    let (sound, head) = (site.demo.file("long.wav"), sound_head());
    fs::write(&sound, &head)?;
    File::options().write(true).open(&sound)?.set_len(head.len() as u64 + u64::from(SOUND))?;
    browser.click(&browser.button(".tools", "Read again")?)?;
    browser.double_click(&browser.row("film.webm")?)?;
    browser.until(
        "the film to be played",
        "const film = document.querySelector('.stage video'); \
         return film?.videoWidth === 160 && film.currentTime > 0.3",
        json!([]),
    )?;

    let door = Door::at(&site.way.address());
    let sent = || door.metric("ashlar_door_sent_bytes_total");
    let before = sent()?;
    browser.click(&browser.button(".preview", "Next")?)?;
    browser.reads(".preview h2", "long.wav")?;
    // To its last seconds.
    let near_the_end = "const sound = document.querySelector('.stage audio'); \
         if (!(sound?.readyState >= 1)) return false; \
         sound.pause(); \
         sound.addEventListener('seeked', () => { sound.dataset.seeked = 'yes'; }, {once: true}); \
         sound.currentTime = sound.duration - 3; \
         return sound.duration";
    let lasts = browser.until("a sound", near_the_end, json!([]))?;
    ensure!(lasts.as_f64() == Some(f64::from(SOUND) / f64::from(SECOND)), "{lasts}");
    let is_there = "const sound = document.querySelector('.stage audio'); \
         return sound?.dataset.seeked === 'yes' && sound.readyState >= 2 && \
         sound.currentTime > arguments[0] - 4";
    browser.until("its end to be found", is_there, json!([lasts]))?;
    let fetched = sent()? - before;
    println!("{fetched} bytes were sent of {SOUND}");
    ensure!(fetched > 0.0 && fetched < f64::from(SOUND / 4), "{fetched} bytes of {SOUND}");

    browser.click(&browser.button(".preview", "Previous")?)?;
    browser.reads(".preview h2", "film.webm")?;
    browser.find(".stage video")?;
    for name in ["long.wav", "notes.txt"] {
        browser.click(&browser.button(".preview", "Next")?)?;
        browser.reads(".preview h2", name)?;
    }
    browser.reads(".preview pre", "Hello from the mount.")?;
    browser.press(key::ESCAPE)?;
    browser.gone("dialog")?;
    browser.is_clean()
}
