//! A cluster file that a command changes: by one command at a time, and whole or not at all.
//!
//! It is locked (flock) from before it is read until the change is in its place, so that of two commands at once the
//! second changes what the first has made of it. A change takes its place by a rename, which leaves the lock behind on
//! the file that had the name before: whoever gets a lock looks whether the name is still that file's.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use proto::cluster::Cluster;
use proto::id::{DiskId, Generation};
use proto::touch::touch;

use crate::cli::cluster_text::ClusterText;

/// How long a command waits for another that changes the same file.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between two attempts.
const AGAIN: Duration = Duration::from_millis(20);

/// A cluster file that is to be changed, and that nobody else changes meanwhile.
pub(crate) struct ClusterFile {
    /// Where it is, whatever links lead there.
    pub(crate) path: PathBuf,
    pub(crate) cluster: Cluster,
    pub(crate) text: ClusterText,
    _lock: Flock<File>,
}

/// A lock on a file that has a name, or who has it, as far as the kernel tells.
enum Attempt {
    Locked(PathBuf, Flock<File>),
    Held(Option<u32>),
}

impl ClusterFile {
    /// Waits until no other command changes the file, and reads it.
    ///
    /// # Errors
    /// When it cannot be read, or another command takes longer than [`PATIENCE`].
    pub(crate) fn lock(named: &Path) -> anyhow::Result<Self> {
        Self::lock_within(named, PATIENCE)
    }

    fn lock_within(named: &Path, patience: Duration) -> anyhow::Result<Self> {
        let shown = || named.display().to_string();
        let began = Instant::now();
        let (path, lock) = loop {
            let tried = named.to_owned();
            let attempt = touch(move || {
                // What is wrong with it is told as to everybody who reads it.
                Cluster::read(&tried)?;
                anyhow::Ok(attempt(&tried)?)
            });
            match attempt.with_context(shown)?? {
                Attempt::Locked(path, lock) => break (path, lock),
                Attempt::Held(holder) if began.elapsed() >= patience => {
                    let holder = holder.map_or(String::new(), |pid| format!(", process {pid},"));
                    bail!(
                        "{} is being changed by another command{holder} for longer than {patience:?}: nothing was \
                         changed, try again when that has ended",
                        shown()
                    );
                }
                Attempt::Held(_) => thread::sleep(AGAIN),
            }
        };
        let reading = path.clone();
        let read =
            touch(move || anyhow::Ok((Cluster::read(&reading)?, fs::read_to_string(&reading)?)));
        let (cluster, text) = read.with_context(shown)??;
        let text = ClusterText::parse(&text).with_context(shown)?;
        Ok(Self { path, cluster, text, _lock: lock })
    }

    /// The slot that is on the disk.
    pub(crate) fn slot_of(&self, disk: DiskId) -> anyhow::Result<usize> {
        let slots = &self.cluster.slots;
        if let Some(nth) = slots.iter().position(|slot| slot.disk == disk) {
            return Ok(nth);
        }
        match slots.iter().find(|slot| slot.replaces == Some(disk)) {
            Some(by) => bail!("disk {disk} is replaced already, by {}", by.disk),
            None => bail!("{} lists no disk {disk}", self.path.display()),
        }
    }

    /// Raises its generation.
    pub(crate) fn raise(&mut self) -> anyhow::Result<Generation> {
        let next = Generation(self.cluster.generation.0 + 1);
        self.text.raise(next)?;
        Ok(next)
    }

    /// Writes it, if it still is a cluster file: when this returns the change is durable.
    ///
    /// # Errors
    /// Why there is no change, or, in these words, why it is made and may not outlast a power cut.
    pub(crate) fn write(&self) -> anyhow::Result<Cluster> {
        self.write_and(|directory| File::open(directory)?.sync_all())
    }

    fn write_and(&self, sync: impl FnOnce(&Path) -> io::Result<()>) -> anyhow::Result<Cluster> {
        let text = self.text.to_string();
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let cluster = Cluster::parse(&text, directory)?;
        let shown = self.path.display();
        self.put_in_place(&text).with_context(|| shown.to_string())?;
        sync(directory).with_context(|| {
            format!(
                "{shown} is changed, to generation {}, and whoever reads it sees that; but it may not outlast a power \
                 cut, as its directory was not synced (type sync, then copy the file and tell the mounts of it)",
                cluster.generation
            )
        })?;
        Ok(cluster)
    }

    /// Gives the text the name of the file, or leaves everything as it is.
    fn put_in_place(&self, text: &str) -> io::Result<()> {
        let mut new = OsString::from(&self.path);
        new.push(".new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.set_permissions(fs::metadata(&self.path)?.permissions())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        };
        write().inspect_err(|_| {
            // What it says counts more than that what is half written stays.
            let _ = fs::remove_file(&new);
        })
    }
}

fn attempt(named: &Path) -> io::Result<Attempt> {
    loop {
        let path = fs::canonicalize(named)?;
        match Flock::lock(open(&path)?, FlockArg::LockExclusiveNonblock) {
            Err((file, Errno::EWOULDBLOCK)) => return Ok(Attempt::Held(holder(&file)?)),
            Err((_, why)) => return Err(why.into()),
            Ok(lock) if is_called(&lock, &path)? => return Ok(Attempt::Locked(path, lock)),
            // Whoever had it has put another in its place.
            Ok(_) => {}
        }
    }
}

/// Some network filesystems lock only what can be written.
fn open(path: &Path) -> io::Result<File> {
    let writable = File::options().read(true).write(true).open(path);
    writable.or_else(|_| File::open(path))
}

fn is_called(file: &File, path: &Path) -> io::Result<bool> {
    let (own, named) = (file.metadata()?, fs::metadata(path));
    match named {
        Ok(named) => Ok((own.dev(), own.ino()) == (named.dev(), named.ino())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The process that has a lock on the file, as /proc/locks tells.
fn holder(file: &File) -> io::Result<Option<u32>> {
    let inode = file.metadata()?.ino().to_string();
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return Ok(None) };
    let holder = |line: &str| {
        // `1: FLOCK  ADVISORY  WRITE 1234 fe:00:131083 0 EOF`
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, at, ..] = words[..] else { return None };
        (at.rsplit(':').next() == Some(&inode)).then(|| pid.parse().ok())?
    };
    Ok(locks.lines().find_map(holder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path) -> PathBuf {
        let mut text = String::from("cluster = \"5ad0c2f0-0000-4000-8000-000000000000\"\n");
        for n in 0..8 {
            text += &format!("[[slot]]\ndisk = \"0b6c0000-0000-4000-8000-0000000000{n:02}\"\n");
            text += &format!("path = \"/d{n}\"\n");
        }
        let path = dir.join("cluster.toml");
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn changes_at_once_are_all_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path());
        thread::scope(|scope| {
            for nth in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let mut file = ClusterFile::lock(path).unwrap();
                    file.raise().unwrap();
                    file.text.drain(nth, true).unwrap();
                    file.write().unwrap();
                });
            }
        });
        let cluster = Cluster::read(&path).unwrap();
        assert_eq!(cluster.generation, Generation(9));
        assert!(cluster.slots.iter().all(|slot| slot.drain), "{cluster:?}");
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["cluster.toml"], "nothing else is left");
    }

    #[test]
    fn a_change_that_may_not_be_durable_is_said_to_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = ClusterFile::lock(&file(dir.path())).unwrap();
        file.raise().unwrap();
        let failed = file.write_and(|_| Err(Errno::EIO.into())).unwrap_err();
        let said = format!("{failed:#}");
        assert!(said.contains("cluster.toml is changed, to generation 2, and whoever"), "{said}");
        assert!(said.ends_with("Input/output error (os error 5)"), "{said}");
        assert_eq!(Cluster::read(&file.path).unwrap().generation, Generation(2), "so it is");
        // What goes wrong before is no change.
        fs::create_dir(dir.path().join("cluster.toml.new")).unwrap();
        file.text.drain(0, true).unwrap();
        let said = format!("{:#}", file.write().unwrap_err());
        assert!(said.contains("Is a directory") && !said.contains("is changed"), "{said}");
        assert!(!Cluster::read(&file.path).unwrap().slots[0].drain);
    }

    #[test]
    fn who_is_waited_for_in_vain_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path());
        let link = dir.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let held = ClusterFile::lock(&path).unwrap();
        let refused = ClusterFile::lock_within(&link, Duration::ZERO).map(drop).unwrap_err();
        let expected = format!("by another command, process {}, for", std::process::id());
        assert!(refused.to_string().contains(&expected), "{refused}");
        drop(held);
        assert!(ClusterFile::lock_within(&link, Duration::ZERO).is_ok());
    }
}
