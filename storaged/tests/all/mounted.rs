//! A filesystem for one test: an ext4 in a file. Where it cannot be made or mounted (without root or loop
//! devices) whoever wants one says so and is over.

use std::path::PathBuf;
use std::process::Command;

use super::*;

/// A mounted filesystem of its own.
pub(crate) struct Mounted {
    dir: TempDir,
}

impl Mounted {
    pub(crate) fn new() -> Option<Self> {
        let mounted = Self { dir: tempfile::tempdir().unwrap() };
        let image = mounted.dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(300 * MIB).unwrap();
        std::fs::create_dir(mounted.path()).unwrap();
        let image = image.to_str().unwrap();
        let made = run("mkfs.ext4", &["-q", "-F", image])
            .and_then(|()| run("mount", &["-o", "loop", image, mounted.path().to_str().unwrap()]));
        if let Err(why) = made {
            eprintln!("SKIPPED: no filesystem can be mounted here: {why}");
            return None;
        }
        Some(mounted)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub(crate) fn remount(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}"), self.path().to_str().unwrap()]).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It was perhaps never mounted.
        let _ = run("umount", &["-l", self.path().to_str().unwrap()]);
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output =
        Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}
