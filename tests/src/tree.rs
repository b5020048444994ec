//! Trees of files: a real one to copy, and what must be equal of two of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use xxhash_rust::xxh3::Xxh3;

use crate::process::bounded;

/// Where real files are taken from, as many as are there, in this order.
const ROOTS: [&str; 5] =
    ["/usr/include", "/usr/share/doc", "/usr/lib/python3", "/usr/share/perl", "/usr/share"];
/// Files that a source tree has at least.
pub const FILES: usize = 5_000;
/// Bytes that a source tree has at most.
const BYTES: u64 = 100 << 20;
/// Files larger than this stay out, so that many fit.
const LARGEST: u64 = 4 << 20;

/// A tree of at least [`FILES`] real files of this machine, with links, odd modes and holes added;
/// removed when dropped.
pub struct Source {
    directory: TempDir,
}

impl Source {
    /// Gathers it.
    pub fn gather() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ashlar-source-").tempdir()?;
        let mut gathered = Gathered { to: directory.path().to_owned(), files: 0, bytes: 0 };
        for root in ROOTS {
            if gathered.wants_more() {
                gathered.take(Path::new(root))?;
            }
        }
        ensure!(gathered.files >= FILES, "only {} real files on this machine", gathered.files);
        curiosities(&directory.path().join("curiosities"))?;
        println!("source tree: {} files, {} MiB", gathered.files, gathered.bytes >> 20);
        Ok(Self { directory })
    }

    /// Its root.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

struct Gathered {
    to: PathBuf,
    files: usize,
    bytes: u64,
}

impl Gathered {
    fn wants_more(&self) -> bool {
        self.files < FILES + 500 && self.bytes < BYTES
    }

    /// Copies from one directory what is still wanted, depth first.
    fn take(&mut self, from: &Path) -> Result<()> {
        let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
        let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for path in entries {
            if !self.wants_more() {
                return Ok(());
            }
            let meta = fs::symlink_metadata(&path)?;
            let to = self.to.join(path.strip_prefix("/").expect("an absolute path"));
            let parent = to.parent().expect("within the tree");
            if meta.is_dir() {
                self.take(&path)?;
            } else if meta.is_symlink() {
                fs::create_dir_all(parent)?;
                symlink(fs::read_link(&path)?, &to)?;
            } else if meta.is_file() && meta.len() <= LARGEST && fs::File::open(&path).is_ok() {
                fs::create_dir_all(parent)?;
                fs::copy(&path, &to).with_context(|| format!("copying {path:?}"))?;
                File::open(&to)?.set_modified(meta.modified()?)?;
                self.files += 1;
                self.bytes += meta.len();
            }
        }
        Ok(())
    }
}

/// What real trees have now and then: hard links, dangling links, odd modes, holes, strange names.
fn curiosities(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory.join("empty directory"))?;
    fs::write(directory.join("empty"), "")?;
    fs::write(directory.join("one byte"), "x")?;
    fs::write(directory.join("linked"), "one inode, two names")?;
    fs::hard_link(directory.join("linked"), directory.join("linked too"))?;
    symlink("nowhere", directory.join("dangling"))?;
    fs::write(directory.join("name with \n, * and \u{fc}"), "still a name")?;
    for mode in [0o400, 0o600, 0o755, 0o4755, 0o2750, 0o1777] {
        let path = directory.join(format!("mode {mode:o}"));
        fs::write(&path, "mode")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let sparse = File::create(directory.join("sparse"))?;
    sparse.set_len(64 << 20)?;
    sparse.write_all_at(b"in the middle", 30 << 20)?;
    Ok(())
}

/// Everything of a file that a faithful copy keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    len: u64,
    links: u64,
    /// Hash of the content, or the target of a symbolic link.
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Directory,
    Bytes(u128),
    Link(PathBuf),
    /// A pipe, socket or device: its numbers.
    Special(u64),
}

/// A tree's files by their relative names.
pub type Manifest = BTreeMap<PathBuf, Entry>;

/// Reads a whole tree.
pub fn manifest(root: &Path) -> Result<Manifest> {
    let mut manifest = Manifest::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let name = directory.join(entry?.file_name());
            let read = entry_of(&root.join(&name)).with_context(|| format!("reading {name:?}"))?;
            if read.content == Content::Directory {
                open.push(name.clone());
            }
            manifest.insert(name, read);
        }
    }
    Ok(manifest)
}

fn entry_of(path: &Path) -> Result<Entry> {
    let meta = fs::symlink_metadata(path)?;
    let content = if meta.is_dir() {
        Content::Directory
    } else if meta.is_symlink() {
        Content::Link(fs::read_link(path)?)
    } else if meta.is_file() {
        Content::Bytes(digest(path)?)
    } else {
        Content::Special(meta.rdev())
    };
    let directory = meta.is_dir();
    Ok(Entry {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        modified: (meta.mtime(), meta.mtime_nsec()),
        // A directory's size and link count are its file system's own business.
        len: if directory { 0 } else { meta.len() },
        links: if directory { 0 } else { meta.nlink() },
        content,
    })
}

/// Hash of a file's content.
pub fn digest(path: &Path) -> Result<u128> {
    let mut file = File::open(path)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.digest128()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Whether a copy has every file of the original, with all that [`Entry`] names.
pub fn assert_same(what: &str, original: &Manifest, copy: &Path) -> Result<()> {
    let copied = manifest(copy).with_context(|| format!("{what}: reading the copy"))?;
    compare(what, original, &copied)
}

/// As [`assert_same`], for what keeps contents and executability, but neither times nor links: git.
pub fn assert_same_content(what: &str, original: &Manifest, copy: &Path) -> Result<()> {
    let content = |manifest: Manifest| -> BTreeMap<PathBuf, Content> {
        let files = manifest.into_iter().filter(|(_, entry)| entry.content != Content::Directory);
        files.map(|(name, entry)| (name, entry.content)).collect()
    };
    compare(what, &content(original.clone()), &content(manifest(copy)?))
}

fn compare<E: PartialEq + std::fmt::Debug>(
    what: &str,
    original: &BTreeMap<PathBuf, E>,
    copied: &BTreeMap<PathBuf, E>,
) -> Result<()> {
    let names = original.keys().chain(copied.keys().filter(|name| !original.contains_key(*name)));
    let wrong: Vec<String> = names
        .filter(|name| original.get(*name) != copied.get(*name))
        .map(|name| format!("{name:?}: {:?}, copied as {:?}", original.get(name), copied.get(name)))
        .collect();
    let shown = wrong.iter().take(10).map(String::as_str).collect::<Vec<_>>().join("\n");
    ensure!(
        wrong.is_empty(),
        "{what}: {} of {} files differ:\n{shown}",
        wrong.len(),
        original.len()
    );
    Ok(())
}

/// Reads every file below `root` to its end, touching nothing else; fails when one cannot be read, or
/// when all together take longer than `bound`.
pub fn assert_readable(root: &Path, bound: Duration) -> Result<Manifest> {
    let path = root.to_owned();
    bounded(&format!("reading {root:?}"), bound, move || manifest(&path))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_differs_in_one_byte_or_one_mode_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        curiosities(&a).unwrap();
        crate::process::shell(directory.path(), "cp -a a b", Duration::from_secs(10)).unwrap();
        let original = manifest(&a).unwrap();
        assert_same("the copy", &original, &b).unwrap();
        File::options().write(true).open(b.join("sparse")).unwrap().write_all_at(b"x", 9).unwrap();
        assert!(assert_same("a changed byte", &original, &b).is_err());
        fs::set_permissions(a.join("empty"), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(assert_same("a changed mode", &original, &a).is_err());
        fs::remove_file(a.join("dangling")).unwrap();
        assert!(assert_same_content("a missing file", &original, &a).is_err());
    }
}
