//! What a process in the background says on stderr, in a file that does not grow for ever.
//!
//! The file is stderr itself, so that the words of a panic are in it too. Past [`LIMIT`] it becomes
//! `FILE.1`, in place of the last one, and a new one is begun. Whoever moves it away (logrotate) sends
//! SIGHUP, upon which [`reopen`] begins a new one; a process that finds another file by that name (an
//! earlier mount's, which is ending, had to begin it) goes on in that.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// Bytes of a file, and of the one before it.
pub const LIMIT: u64 = 4 << 20;
/// How much is written before the file is looked at again.
const LOOK_AGAIN: u64 = 64 << 10;

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

struct Kept {
    path: PathBuf,
    limit: u64,
    unlooked: u64,
}

/// Opens such a file, for stderr of this process or of another. Others may not read it: it names files.
pub fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

/// From now on stderr is this file.
pub fn keep(path: &Path) -> io::Result<()> {
    let mut kept = Kept { path: path.to_owned(), limit: LIMIT, unlooked: 0 };
    kept.look(true)?;
    *KEPT.lock() = Some(kept);
    Ok(())
}

/// Opens the file anew, if there is one: it may have been moved away.
pub fn reopen() -> io::Result<()> {
    KEPT.lock().as_mut().map_or(Ok(()), |kept| kept.look(true))
}

impl Kept {
    /// Sees to it that stderr is the file of that name, and a short one.
    fn look(&mut self, anew: bool) -> io::Result<()> {
        let file = open(&self.path)?;
        let (named, ours) = (file.metadata()?, stderr()?);
        self.unlooked = 0;
        if named.len() > self.limit {
            std::fs::rename(&self.path, one_before(&self.path))?;
            return become_stderr(&open(&self.path)?);
        }
        match anew || (named.dev(), named.ino()) != ours {
            true => become_stderr(&file),
            false => Ok(()),
        }
    }
}

fn one_before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn stderr() -> io::Result<(u64, u64)> {
    let stat = nix::sys::stat::fstat(io::stderr())?;
    Ok((stat.st_dev, stat.st_ino))
}

fn become_stderr(file: &File) -> io::Result<()> {
    Ok(nix::unistd::dup2_stderr(file)?)
}

/// Where logs are written to: stderr, whichever file that is.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(kept) = KEPT.lock().as_mut() {
            kept.unlooked += bytes.len() as u64;
            if kept.unlooked > LOOK_AGAIN.min(kept.limit) {
                // It goes on in the file that it has.
                let _ = kept.look(false);
            }
        }
        io::stderr().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
