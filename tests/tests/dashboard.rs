//! Promise: the page says how the volume is, to whoever may know: how healthy, on which disks, what goes in and out, and what
//! becomes of it while disks go away and come back.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::binaries::ashlar;
use tests::browser::{Browser, Screen};
use tests::cluster::{Demo, Mode, can_mount};
use tests::door::Door;
use tests::page::Site;
use tests::process::{PATIENCE, run};
use tests::seed::content;

/// What the dashboard says under this name.
fn figure(browser: &Browser, name: &str) -> Result<String> {
    let script = "const figure = [...document.querySelectorAll('.dashboard .figures div')].find(one \
         => one.querySelector('dt').innerText === arguments[0]); \
         return figure?.querySelector('dd').innerText ?? null";
    let said = browser.until(&format!("a figure {name}"), script, json!([name]))?;
    Ok(said.as_str().context("a text")?.to_owned())
}

#[test]
fn the_dashboard_says_how_the_volume_is_while_two_disks_go_away() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::start(Mode::Served)?;
    fs::write(site.demo.file("data.bin"), content(4, 300_000))?;
    let browser = site.browser(Screen::Desktop)?;
    browser.go(&site.address("#status"))?;
    browser.reads(".health .word", "Healthy")?;
    browser.reads(".dashboard", "8 of 8 up")?;
    // All volumes, once the disks have answered.
    browser.reads(".dashboard", &format!("mounted at {}", site.demo.path().display()))?;
    format_another(&site.demo, "letters")?;
    browser.reads(".dashboard", "letters")?;
    browser.reads(".dashboard", "not mounted on this machine")?;
    browser.is_accessible("status")?;
    browser.prefers("dark")?;
    browser.is_accessible("status-dark")?;
    ensure!(figure(&browser, "Spare losses")? == "2", "{}", figure(&browser, "Spare losses")?);
    ensure!(figure(&browser, "Disks away")? == "0 of 8", "{}", figure(&browser, "Disks away")?);
    browser.reads(".dashboard", "Nothing to mend.")?;
    // Each disk with what is on it, on its machine.
    browser.until(
        "eight disks with something on each",
        "const all = [...document.querySelectorAll('.dashboard .host .disk-cards > li')]; \
         return all.length === 8 && all.every(one => one.dataset.state === 'up' && \
         one.querySelector('meter').value > 0 && / of .*B/.test(one.innerText))",
        json!([]),
    )?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    browser.reads(".dashboard [aria-label=Sessions]", host.trim())?;
    it_is_plotted(&site, &browser)?;

    for (disk, up) in [(3, "7 of 8 up"), (5, "6 of 8 up")] {
        site.demo.kill_daemon(disk)?;
        browser.reads(".health .word", "Degraded")?;
        browser.reads(".dashboard", up)?;
    }
    let away = "return document.querySelectorAll('.disk-cards [data-state=down]').length === 2";
    browser.until("two disks to be away", away, json!([]))?;
    browser.reads(".dashboard", "2 of 8")?;
    let less = "return [...document.querySelectorAll('.health .figures div')].some(one => \
         one.querySelector('dt').innerText === 'Spare losses' && \
         ['0', '1'].includes(one.querySelector('dd').innerText))";
    browser.until("fewer spare losses", less, json!([]))?;
    browser.is_accessible("degraded")?;
    // While they come back, what is said of mending has a rate and an end, or there is none.
    for disk in [3, 5] {
        site.demo.restart_daemon(disk)?;
    }
    browser.reads(".dashboard", "8 of 8 up")?;
    let told = "const figures = new Map([...document.querySelectorAll('.dashboard .figures \
         div')].map(one => [one.querySelector('dt').innerText, one.querySelector('dd').innerText])); \
         const busy = document.querySelector('progress[aria-label=Healing]'); \
         return figures.has('Time left') && (busy ? figures.get('Rate').endsWith('/s') : \
         figures.get('Rate') === '–')";
    browser.until("healing to be told of", told, json!([]))?;
    site.demo.until_healthy(2 * PATIENCE)?;
    browser.reads(".health .word", "Healthy")?;
    browser.reads(".dashboard", "Nothing to mend.")?;
    browser.reads(".dashboard", "Last errors")?;
    browser.is_clean()
}

/// What goes in and out by a door is a line that is not flat, and has a latency.
fn it_is_plotted(site: &Site, browser: &Browser) -> Result<()> {
    let door = Door::at(&site.way.address());
    let bytes = content(12, 8 << 20);
    door.put("/api/v1/content/plotted.bin", &bytes)?.expect(201)?;
    ensure!(door.get("/api/v1/content/plotted.bin")?.expect(200)?.body == bytes);
    let moves = "const line = document.querySelectorAll('.plot')[0].querySelector(`.line.${arguments[0]}`); \
         const places = (line.getAttribute('d') ?? '').split(/[ML]/).slice(1); \
         return new Set(places.map(place => place.split(' ')[1])).size > 1";
    for line in ["one", "two"] {
        browser.until(
            &format!("line {line} of what goes through to move"),
            moves,
            json!([line]),
        )?;
    }
    let latency = "const plot = document.querySelectorAll('.plot')[1]; \
         const words = plot.querySelector(`.legend .${arguments[0]} strong`).innerText; \
         return plot.querySelector(`.line.${arguments[0]}`).getAttribute('d')?.length > 20 && \
         /[0-9] (µs|ms|s)$/.test(words)";
    for line in ["one", "two"] {
        browser.until(&format!("line {line} of latency"), latency, json!([line]))?;
    }
    Ok(())
}

fn format_another(demo: &Demo, name: &str) -> Result<()> {
    let mut format = Command::new(ashlar());
    format.args(["format", name]).env("ASHLAR_CLUSTER", demo.cluster_file());
    run(&mut format, PATIENCE).map(drop)
}
