//! A real browser: Chromium without a screen, driven by WebDriver, which is JSON over HTTP. Clicks and keys are the browser's own, drops and
//! broken lines come by its debugging protocol.
//!
//! Whatever is looked for is waited for. [`Browser::drop`] ends the browser, then the driver.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binaries::workspace;
use crate::door::{Door, free_address};
use crate::process::{Process, run, wait_until};

/// What WebDriver calls an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// How long something may take to be seen, on a busy machine.
const SEEN: Duration = Duration::from_secs(30);
/// Fetching axe-core, once.
const FETCHED: Duration = Duration::from_secs(120);
/// Where screenshots are kept, if somebody wants to look at them.
const SHOTS: &str = "ASHLAR_SCREENSHOTS";

/// Keys by their names in WebDriver.
pub mod key {
    /// Held with the next one.
    pub const CONTROL: &str = "\u{e009}";
    /// Held with the next one.
    pub const SHIFT: &str = "\u{e008}";
    /// Lets go of those that are held.
    pub const NONE: &str = "\u{e000}";
    /// Enter.
    pub const ENTER: &str = "\u{e007}";
    /// Escape.
    pub const ESCAPE: &str = "\u{e00c}";
    /// Backspace.
    pub const BACKSPACE: &str = "\u{e003}";
    /// Delete.
    pub const DELETE: &str = "\u{e017}";
    /// Arrow down.
    pub const DOWN: &str = "\u{e015}";
    /// Home.
    pub const HOME: &str = "\u{e011}";
    /// End.
    pub const END: &str = "\u{e010}";
    /// F2.
    pub const F2: &str = "\u{e032}";
}

/// What it is to be taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// A window of 1,280 by 800 pixels, and a mouse.
    Desktop,
    /// 390 by 780 pixels, and a finger.
    Phone,
}

/// A browser with one window.
pub struct Browser {
    session: String,
    pid: Option<Pid>,
    door: Door,
    home: TempDir,
    /// Ends after the browser.
    _driver: Process,
}

/// Something on the page.
#[derive(Clone, Debug)]
pub struct Element(String);

impl Browser {
    /// Starts one.
    pub fn start(screen: Screen) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("ashlar-browser-").tempdir()?;
        let address = free_address()?;
        let port = address.rsplit(':').next().context("a port")?;
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).env("TMPDIR", home.path());
        let driver =
            Process::start_ready(&mut command, "successfully", &home.path().join("log"))
                .context("chromedriver does not start: apt-get install chromium chromium-driver")?;
        let door = Door::at(&address);
        let wanted = json!({"capabilities": {"alwaysMatch": capabilities(screen, home.path())}});
        let made = door.post("/session", wanted.to_string().as_bytes())?.json()?;
        let session = made["value"]["sessionId"].as_str();
        let session = session.with_context(|| format!("no browser: {made}"))?.to_owned();
        let pid = made["value"]["capabilities"]["goog:processID"].as_i64();
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        Ok(Self { session, pid, door, home, _driver: driver })
    }

    /// Asks the driver.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let path = format!("/session/{}{path}", self.session);
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let answer = self.door.ask(method, &path, &[], body.as_bytes())?;
        let value = answer.json()?["value"].take();
        ensure!(answer.status == 200, "{method} {path} {body}: {value}");
        Ok(value)
    }

    /// Goes to an address.
    pub fn go(&self, address: &str) -> Result<()> {
        self.ask("POST", "/url", &json!({"url": address})).map(drop)
    }

    /// Where it is.
    pub fn address(&self) -> Result<String> {
        Ok(self.ask("GET", "/url", &Value::Null)?.as_str().unwrap_or_default().to_owned())
    }

    /// `back`, `forward` or `refresh`.
    pub fn history(&self, how: &str) -> Result<()> {
        self.ask("POST", &format!("/{how}"), &json!({})).map(drop)
    }

    /// Runs a script in the page, and answers what it returns.
    pub fn script(&self, script: &str, arguments: Value) -> Result<Value> {
        self.ask("POST", "/execute/sync", &json!({"script": script, "args": arguments}))
    }

    /// Says something to the browser itself, by its debugging protocol.
    pub fn debug(&self, command: &str, parameters: Value) -> Result<Value> {
        self.ask("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Waits until a script returns something that is true. Answers it.
    pub fn until(&self, what: &str, script: &str, arguments: Value) -> Result<Value> {
        let mut seen = Value::Null;
        let mut wrong = None;
        let waited = wait_until(what, SEEN, || match self.script(script, arguments.clone()) {
            Ok(value) => {
                seen = value;
                !matches!(&seen, Value::Null | Value::Bool(false)) && seen != "" && seen != 0
            }
            Err(why) => {
                wrong = Some(why);
                false
            }
        });
        if let Err(late) = waited {
            self.shoot("failed")?;
            let text = self.script("return document.body.innerText", json!([]))?;
            bail!("{late:#}; {wrong:?}; the page says {text}");
        }
        Ok(seen)
    }

    fn element(&self, what: &str, script: &str, arguments: Value) -> Result<Element> {
        let found = self.until(what, script, arguments)?;
        Ok(Element(found[ELEMENT].as_str().context("an element")?.to_owned()))
    }

    /// The first that is seen of those that a selector of CSS says.
    pub fn find(&self, selector: &str) -> Result<Element> {
        let script = "return [...document.querySelectorAll(arguments[0])].find(one => \
             one.checkVisibility()) ?? null";
        self.element(selector, script, json!([selector]))
    }

    /// The button with this text or name, within what a selector says.
    pub fn button(&self, within: &str, name: &str) -> Result<Element> {
        let script = "return [...document.querySelectorAll(arguments[0] + ' button')].find(one \
             => one.checkVisibility() && !one.disabled && \
             (one.innerText.trim() === arguments[1] || one.ariaLabel === arguments[1])) ?? null";
        self.element(&format!("a button {name}"), script, json!([within, name]))
    }

    /// The row of a name in the list.
    pub fn row(&self, name: &str) -> Result<Element> {
        let script = "const row = [...document.querySelectorAll('.space .row')] \
             .find(one => one.querySelector('.title').textContent === arguments[0]); \
             row?.scrollIntoView({block: 'nearest'}); return row ?? null";
        self.element(&format!("a row {name}"), script, json!([name]))
    }

    /// The list has no such row.
    pub fn no_row(&self, name: &str) -> Result<()> {
        let script = "return ![...document.querySelectorAll('.space .row .title')].some(one => \
             one.textContent === arguments[0])";
        self.until(&format!("no row {name}"), script, json!([name])).map(drop)
    }

    /// The text of what a selector says has this in it.
    pub fn reads(&self, selector: &str, text: &str) -> Result<()> {
        let script = "return \
             document.querySelector(arguments[0])?.innerText.includes(arguments[1]) ?? false";
        self.until(&format!("{selector} to read {text:?}"), script, json!([selector, text]))
            .map(drop)
    }

    /// Nothing is there, or seen, of what a selector says.
    pub fn gone(&self, selector: &str) -> Result<()> {
        let script = "return ![...document.querySelectorAll(arguments[0])].some(one => \
             one.checkVisibility())";
        self.until(&format!("{selector} to be gone"), script, json!([selector])).map(drop)
    }

    /// Clicks, as a mouse does.
    pub fn click(&self, element: &Element) -> Result<()> {
        self.ask("POST", &format!("/element/{}/click", element.0), &json!({})).map(drop)
    }

    /// Types into something; a field for files takes their paths, a line each.
    pub fn type_into(&self, element: &Element, text: &str) -> Result<()> {
        let path = format!("/element/{}/value", element.0);
        self.ask("POST", &path, &json!({"text": text})).map(drop)
    }

    /// Chooses files, as the box of a browser does.
    pub fn choose(&self, id: &str, files: &[PathBuf]) -> Result<()> {
        let field =
            self.element(id, "return document.getElementById(arguments[0])", json!([id]))?;
        let lines: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
        self.type_into(&field, &lines.join("\n"))
    }

    /// Types where the focus is.
    pub fn press(&self, keys: &str) -> Result<()> {
        let active = self.ask("GET", "/element/active", &Value::Null)?;
        let active = active[ELEMENT].as_str().context("something has the focus")?.to_owned();
        self.type_into(&Element(active), keys)
    }

    /// Touches, as a finger does.
    pub fn tap(&self, element: &Element) -> Result<()> {
        self.point("touch", &[to(element), press(0), release(0)])
    }

    fn mouse(&self, steps: &[Value]) -> Result<()> {
        self.point("mouse", steps)
    }

    /// Moves a mouse or a finger by these steps; each is an action of WebDriver.
    fn point(&self, with: &str, steps: &[Value]) -> Result<()> {
        let how = json!({"pointerType": with});
        let pointer = json!({"type": "pointer", "id": with, "parameters": how, "actions": steps});
        self.ask("POST", "/actions", &json!({"actions": [pointer]}))?;
        self.ask("DELETE", "/actions", &Value::Null).map(drop)
    }

    /// Clicks twice.
    pub fn double_click(&self, element: &Element) -> Result<()> {
        let (down, up) = (press(0), release(0));
        self.mouse(&[to(element), down.clone(), up.clone(), down, up])
    }

    /// Clicks with the other button.
    pub fn right_click(&self, element: &Element) -> Result<()> {
        self.mouse(&[to(element), press(2), release(2)])
    }

    /// Turns a mouse's wheel over something, so many times, by so many pixels each; upwards where they are negative.
    pub fn wheel(&self, over: &Element, pixels: i64, times: usize) -> Result<()> {
        let step = json!({
            "type": "scroll",
            "duration": 20,
            "x": 0,
            "y": 0,
            "deltaX": 0,
            "deltaY": pixels,
            "origin": {ELEMENT: over.0},
        });
        let wheel = json!({"type": "wheel", "id": "wheel", "actions": vec![step; times]});
        self.ask("POST", "/actions", &json!({"actions": [wheel]})).map(drop)
    }

    /// Drags one thing onto another.
    pub fn drag(&self, from: &Element, onto: &Element) -> Result<()> {
        let near =
            json!({"type": "pointerMove", "duration": 100, "x": 5, "y": 5, "origin": "pointer"});
        self.mouse(&[to(from), press(0), near, to(onto), to(onto), release(0)])
    }

    /// Drops files and folders of this machine onto what a selector says.
    pub fn drop_files(&self, selector: &str, paths: &[PathBuf]) -> Result<()> {
        let script = "const box = document.querySelector(arguments[0]).getBoundingClientRect(); \
             return [box.x + box.width / 2, box.y + box.height - 20]";
        let at = self.script(script, json!([selector]))?;
        let data = json!({"items": [], "files": paths, "dragOperationsMask": 1});
        for step in ["dragEnter", "dragOver", "drop"] {
            let event = json!({"type": step, "x": at[0], "y": at[1], "data": data});
            self.debug("Input.dispatchDragEvent", event)?;
        }
        Ok(())
    }

    /// Sends so many bytes per second at most.
    pub fn slow_down(&self, bytes_per_second: i64) -> Result<()> {
        let mut rate = json!({"offline": false, "latency": 0, "downloadThroughput": -1});
        rate["uploadThroughput"] = bytes_per_second.into();
        self.debug("Network.enable", json!({}))?;
        self.debug("Network.emulateNetworkConditions", rate).map(drop)
    }

    /// Shows the page dark or light, as the device says.
    pub fn prefers(&self, scheme: &str) -> Result<()> {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.debug("Emulation.setEmulatedMedia", json!({"features": features})).map(drop)
    }

    /// Opens another window, and goes on in it.
    pub fn open_window(&self) -> Result<()> {
        let made = self.ask("POST", "/window/new", &json!({"type": "tab"}))?;
        self.ask("POST", "/window", &json!({"handle": made["handle"]})).map(drop)
    }

    /// Where downloads are.
    pub fn downloads(&self) -> PathBuf {
        self.home.path().join("downloads")
    }

    /// A download, when it is whole.
    pub fn downloaded(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.downloads().join(name);
        // Until then it has another name, and at most an empty file keeps this one for it.
        let is_there = || path.metadata().is_ok_and(|file| file.len() > 0);
        wait_until(&format!("the download {name}"), SEEN, is_there)?;
        Ok(std::fs::read(path)?)
    }

    /// Keeps a picture of what is seen, if somebody wants to look at them.
    pub fn shoot(&self, name: &str) -> Result<()> {
        let Some(directory) = std::env::var_os(SHOTS) else { return Ok(()) };
        let picture = self.ask("GET", "/screenshot", &Value::Null)?;
        let picture = STANDARD.decode(picture.as_str().context("a picture")?)?;
        std::fs::create_dir_all(&directory)?;
        Ok(std::fs::write(Path::new(&directory).join(format!("{name}.png")), picture)?)
    }

    /// Nothing is in the way of those who use the page by keyboard, or by its words alone, as axe-core sees it.
    pub fn is_accessible(&self, what: &str) -> Result<()> {
        let axe = run(&mut Command::new(workspace().join("tools/axe")), FETCHED)?;
        self.script(&std::fs::read_to_string(axe.trim())?, json!([]))?;
        let script = "const tell = arguments[0]; axe.run().then(found => \
             tell(found.violations.map(one => \
             `${one.id}: ${one.nodes.map(node => node.html + ' ' + node.failureSummary).join('; \
             ')}`)))";
        let body = json!({"script": script, "args": []});
        let found = self.ask("POST", "/execute/async", &body)?;
        self.shoot(&format!("axe-{what}"))?;
        ensure!(found == json!([]), "{what}: {found:#}");
        Ok(())
    }

    /// The page has asked nothing of any other host, and broken no rule of its own: its content policy, or a script that fails.
    pub fn is_clean(&self) -> Result<()> {
        let script = "return performance.getEntriesByType('resource').map(one => \
             one.name).filter(name => !name.startsWith(location.origin))";
        let elsewhere = self.script(script, json!([]))?;
        ensure!(elsewhere == json!([]), "the page asks elsewhere: {elsewhere}");
        let said = self.ask("POST", "/se/log", &json!({"type": "browser"}))?;
        let said = said.as_array().cloned().unwrap_or_default();
        // What the server answers with an error is said in any case, and that a page nobody has touched asks nobody whether
        // to leave it.
        let told = |one: &Value| one["source"] == "network" || one["source"] == "intervention";
        let wrong = |one: &&Value| one["level"] == "SEVERE" && !told(one);
        let wrong: Vec<_> = said.iter().filter(wrong).collect();
        ensure!(wrong.is_empty(), "{wrong:?}");
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Else it goes on without its driver.
        if let Err(why) = self.ask("DELETE", "", &Value::Null) {
            eprintln!("ending the browser: {why:#}");
            let killed = self.pid.map(|pid| kill(pid, Signal::SIGKILL));
            eprintln!("killing it: {killed:?}");
        }
    }
}

fn capabilities(screen: Screen, home: &Path) -> Value {
    let profile = format!("--user-data-dir={}", home.join("profile").display());
    // A sandbox needs another user than root.
    let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
    let arguments = arguments.into_iter().chain(["--window-size=1280,800", &profile]);
    let mut options = json!({
        "args": arguments.collect::<Vec<_>>(),
        "prefs": {"download.default_directory": home.join("downloads")},
    });
    if screen == Screen::Phone {
        let metrics = json!({"width": 390, "height": 780, "pixelRatio": 2, "touch": true});
        options["mobileEmulation"] = json!({"deviceMetrics": metrics});
    }
    json!({
        "browserName": "chrome",
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL"},
        "timeouts": {"script": 60_000},
    })
}

fn to(element: &Element) -> Value {
    let origin = json!({ELEMENT: element.0});
    json!({"type": "pointerMove", "duration": 50, "x": 0, "y": 0, "origin": origin})
}

fn press(button: u8) -> Value {
    json!({"type": "pointerDown", "button": button})
}

fn release(button: u8) -> Value {
    json!({"type": "pointerUp", "button": button})
}
