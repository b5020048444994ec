//! A mounted volume with some files, as a browser looks at it; and what is clicked again and again.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::browser::{Browser, Screen};
use crate::cluster::{Demo, Mode, Setup};
use crate::cut::Link;
use crate::door::free_address;
use crate::process::{PATIENCE, wait_until};

/// A mounted volume, and its page by a way that can be cut.
pub struct Site {
    /// The volume.
    pub demo: Demo,
    /// The way to its door.
    pub way: Link,
}

impl Site {
    /// Mounts one, with some files.
    pub fn start(mode: Mode) -> Result<Self> {
        let http = free_address()?;
        let words = ["--http", &http].map(str::to_owned).to_vec();
        let (mount_arguments, demo_arguments) = (words.clone(), words);
        let demo = Demo::start(Setup { mount_arguments, demo_arguments, ..Setup::new(mode) })?;
        let way = Link::to(&http)?;
        fs::create_dir(demo.file("Holidays"))?;
        fs::create_dir(demo.file("Документы"))?;
        fs::write(demo.file("notes.txt"), "Hello from the mount.\n".repeat(200))?;
        fs::write(demo.file("report 9.md"), "# Nine")?;
        fs::write(demo.file("report 10.md"), "# Ten, and longer")?;
        fs::write(demo.file("<b>bold & \"quoted\".txt"), "no markup")?;
        fs::write(demo.file("Документы/план.txt"), "план")?;
        Ok(Self { demo, way })
    }

    /// The page, with this behind its address.
    pub fn address(&self, rest: &str) -> String {
        format!("http://{}/{rest}", self.way.address())
    }

    /// A browser that looks at the page.
    pub fn browser(&self, screen: Screen) -> Result<Browser> {
        let browser = Browser::start(screen)?;
        browser.go(&self.address(""))?;
        Ok(browser)
    }

    /// A file to be uploaded, outside of the mount.
    pub fn source(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.demo.outside("sources").join(name);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(&path, bytes)?;
        Ok(path)
    }

    /// What was sent is on the mount, soon and whole.
    pub fn arrives(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.demo.file(name);
        wait_until(name, PATIENCE, || path.exists())?;
        ensure!(fs::read(&path)? == bytes, "{name} is not what was sent");
        Ok(())
    }
}

/// Answers a dialog by one of its buttons.
pub fn answer(browser: &Browser, name: &str) -> Result<()> {
    browser.click(&browser.button("dialog", name)?)
}

/// Selects something, and clicks what is to be done with it.
pub fn choose(browser: &Browser, name: &str, action: &str) -> Result<()> {
    browser.click(&browser.row(name)?)?;
    browser.click(&browser.button(".chosen", action)?)
}
