//! A small filesystem for one disk: an ext4 on a loop device, which can be full, break down, and be taken away.
//!
//! Dropping it (also while a test panics) takes mount and device away, whoever still has files open there.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use tempfile::TempDir;

use crate::cluster::{umount, until_unused};
use crate::process::{PATIENCE, output, run};

/// Room is taken in pieces of up to so many bytes.
const PIECE: i64 = 64 << 20;
/// One block: less room than that is none.
const BLOCK: i64 = 4096;

/// An ext4 filesystem in a file of its own.
pub struct Small {
    home: TempDir,
    device: PathBuf,
}

impl Small {
    /// One of so many bytes, mounted. `None`, loudly, where that cannot be.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(len: u64) -> Result<Option<Self>> {
        let home = tempfile::Builder::new().prefix("ashlar-small-").tempdir()?;
        let image = home.path().join("image");
        std::fs::create_dir(home.path().join("mnt"))?;
        File::create(&image)?.set_len(len)?;
        // Nothing is kept for root: full is full.
        run(Command::new("mkfs.ext4").args(["-q", "-b", "4096", "-m", "0"]).arg(&image), PATIENCE)?;
        let attached =
            output(Command::new("losetup").args(["--find", "--show"]).arg(&image), PATIENCE)?;
        if !attached.status.success() {
            let why = String::from_utf8_lossy(&attached.stderr);
            eprintln!("NOT TESTED: no loop device can be had here: {}", why.trim_end());
            return Ok(None);
        }
        let device = String::from_utf8(attached.stdout)?.trim().into();
        // From here on it is taken away when this is dropped.
        let small = Self { home, device };
        match small.attach() {
            Ok(()) => Ok(Some(small)),
            Err(why) => {
                eprintln!("NOT TESTED: ext4 cannot be mounted from a file here: {why:#}");
                Ok(None)
            }
        }
    }

    /// The mount point.
    pub fn path(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all the room there is.
    ///
    /// # Errors
    /// When that fails for another reason than that there is none left.
    pub fn fill(&self) -> Result<()> {
        let file = File::create(self.filler())?;
        let (mut end, mut piece) = (0, PIECE);
        while piece >= BLOCK {
            match fallocate(&file, FallocateFlags::empty(), end, piece) {
                Ok(()) => end += piece,
                Err(Errno::ENOSPC) => piece /= 2,
                Err(Errno::EINTR) => {}
                Err(why) => return Err(why).context("filling a small filesystem"),
            }
        }
        Ok(())
    }

    /// Gives the room back that [`Self::fill`] has taken.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.filler()).context("freeing a small filesystem")
    }

    /// Has the kernel find an error, upon which it lets nothing be written any more. Whether this kernel can be told
    /// to.
    ///
    /// # Errors
    /// When it can, and does not.
    pub fn break_down(&self) -> Result<bool> {
        let name = self.device.file_name().context("a loop device has a name")?;
        let trigger = Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error");
        if !trigger.exists() {
            eprintln!("NOT TESTED: this kernel's ext4 cannot be told to fail");
            return Ok(false);
        }
        std::fs::write(&trigger, "as a test wants it").context("breaking a small filesystem")?;
        Ok(true)
    }

    /// Repairs what broke down, and mounts it again. Nobody has files open there.
    ///
    /// # Errors
    /// When it cannot be repaired.
    pub fn repair(&self) -> Result<()> {
        until_unused(|| umount(&self.path()))?;
        let checked =
            output(Command::new("e2fsck").args(["-f", "-p"]).arg(&self.device), PATIENCE)?;
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        // 1: all that was wrong is put right.
        ensure!(matches!(checked.status.code(), Some(0 | 1)), "{}: {said}", checked.status);
        self.attach()
    }

    /// Takes it out of sight. Whoever has files open there keeps them.
    ///
    /// # Errors
    /// When it is not mounted.
    pub fn detach(&self) -> Result<()> {
        run(umount(&self.path()).arg("-l"), PATIENCE).map(drop)
    }

    /// Mounts it.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn attach(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "errors=remount-ro"]).arg(&self.device).arg(self.path());
        run(&mut mount, PATIENCE).map(drop)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let (path, device) = (self.path(), self.device.clone());
        let words: [&[&OsStr]; 2] = [
            &["umount".as_ref(), "-lq".as_ref(), path.as_os_str()],
            &["losetup".as_ref(), "-d".as_ref(), device.as_os_str()],
        ];
        for words in words {
            // It may be detached already.
            if let Err(error) = output(Command::new(words[0]).args(&words[1..]), PATIENCE) {
                eprintln!("{error:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cluster::is_mounted;
    use crate::process::wait_until;

    const LEN: u64 = 64 << 20;

    #[test]
    fn it_can_be_full_broken_and_away_and_is_as_it_was_afterwards() {
        let Some(small) = Small::new(LEN).unwrap() else { return };
        let (kept, more) = (small.path().join("kept"), small.path().join("more"));
        std::fs::write(&kept, "kept").unwrap();
        File::open(&kept).unwrap().sync_all().unwrap();
        small.fill().unwrap();
        let full = std::fs::write(&more, vec![1; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        small.free().unwrap();
        std::fs::write(&more, vec![1; 1 << 20]).unwrap();

        small.detach().unwrap();
        assert!(!kept.exists());
        small.attach().unwrap();
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "kept");

        if small.break_down().unwrap() {
            let write = || File::create(&more)?.write_all(b"more");
            assert!(write().is_err(), "it is broken, and takes writes");
            small.repair().unwrap();
            write().unwrap();
        }
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "kept");
    }

    #[test]
    fn nothing_of_it_is_left_when_a_test_panics() {
        let Some(small) = Small::new(LEN).unwrap() else { return };
        let (path, device) = (small.path(), small.device.clone());
        let open = File::create(path.join("open")).unwrap();
        let test = move || {
            let _small = small;
            panic!("as tests do");
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).unwrap_err();
        drop(open);
        assert!(!is_mounted(&path) && !path.exists());
        let image = path.with_file_name("image").display().to_string();
        let used = || {
            let devices = run(Command::new("losetup").args(["--list", "--noheadings"]), PATIENCE);
            devices.unwrap().contains(&image)
        };
        // The last close of a device that is detached already is the kernel's.
        wait_until(&format!("{device:?} to be free"), PATIENCE, || !used()).unwrap();
    }
}
