//! Where this machine keeps what is its own of a cluster's volumes: chunks of their snapshots, their locks, what their
//! mounts have said, and a certificate of their doors. Nothing of it is needed, but a place for a lock; without its
//! certificate a machine makes another one.
//!
//! ```text
//!                 the cluster file says    else, for root        for others
//! cache           cache = DIR: DIR/ID      /var/cache/ashlar/ID  $XDG_CACHE_HOME or ~/.cache, ashlar/ID
//! if that fails   /run/ashlar/ID for root, $XDG_RUNTIME_DIR/ashlar/ID for others: locks and messages
//! ```
//!
//! ID is the cluster's: volumes of one name in two clusters have nothing in common.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use meta::Directories;
use proto::cluster::Cluster;
use proto::log_file;

/// Of this cluster, for whoever runs this program.
///
/// # Errors
/// When the cluster file names no directory, and nothing says where the user keeps such.
pub(super) fn of(cluster: &Cluster) -> Result<Directories> {
    let root = nix::unistd::geteuid().is_root();
    find(cluster, root, |name| std::env::var_os(name))
}

/// The file for what a mount says in the background: in the first directory that takes it.
pub(super) fn messages(directories: &Directories, volume: &str) -> PathBuf {
    let name = format!("{volume}.messages");
    let takes = |file: &PathBuf| {
        let dir = file.parent().expect("a file has a directory");
        meta::make_directory(dir).and_then(|()| log_file::open(file)).is_ok()
    };
    let found = directories.all().map(|dir| dir.join(&name)).find(takes);
    // It will be said why this one does not.
    found.unwrap_or_else(|| directories.cache.join(name))
}

/// The files that it may be, and the one before.
pub(super) fn messages_of(directories: &Directories, volume: &str) -> Vec<PathBuf> {
    let names = [format!("{volume}.messages"), format!("{volume}.messages.1")];
    directories.all().flat_map(|dir| names.iter().map(move |name| dir.join(name))).collect()
}

fn find(
    cluster: &Cluster,
    root: bool,
    var: impl Fn(&str) -> Option<OsString>,
) -> Result<Directories> {
    // A relative path in one of these counts for nothing, says their specification.
    let var = |name| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = match &cluster.cache {
        Some(dir) => dir.clone(),
        None if root => PathBuf::from("/var/cache/ashlar"),
        None => {
            let users = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
            let why =
                "there is no $HOME to keep a cache in: say cache = \"DIR\" in the cluster file";
            users.context(why)?.join("ashlar")
        }
    };
    let runtime = if root { Some(PathBuf::from("/run")) } else { var("XDG_RUNTIME_DIR") };
    let id = cluster.cluster.to_string();
    let runtime = runtime.map(|dir| dir.join("ashlar").join(&id));
    Ok(Directories { cache: cache.join(&id), runtime })
}

/// Directories that a mount of the cluster's volumes must keep off.
pub(super) fn needed(cluster: &Cluster, own: &Directories) -> Vec<PathBuf> {
    let disks = cluster.slots.iter().filter_map(|slot| slot.path.clone());
    disks.chain(own.all().map(Path::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "5ad0c2f0-0000-4000-8000-000000000000";

    fn cluster(cache: &str) -> Cluster {
        let slot = "[[slot]]\ndisk = \"0b6c0000-0000-4000-8000-000000000000\"\npath = \"d\"\n";
        Cluster::parse(&format!("cluster = \"{ID}\"\n{cache}\n{slot}"), Path::new("/c")).unwrap()
    }

    #[test]
    fn each_cluster_has_its_own_where_the_system_or_the_user_keeps_such() {
        let all = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("XDG_RUNTIME_DIR", "/r")];
        let relative = [("HOME", "/h"), ("XDG_CACHE_HOME", "x"), ("XDG_RUNTIME_DIR", "r")];
        type Case<'a> = (&'a str, bool, &'a [(&'a str, &'a str)], &'a str, Option<&'a str>);
        let cases: [Case<'_>; 6] = [
            ("", true, &[], "/var/cache/ashlar", Some("/run/ashlar")),
            ("", true, &all, "/var/cache/ashlar", Some("/run/ashlar")),
            ("", false, &all, "/x/ashlar", Some("/r/ashlar")),
            ("", false, &relative, "/h/.cache/ashlar", None),
            ("cache = \"here\"", false, &[], "/c/here", None),
            ("cache = \"/there\"", true, &all, "/there", Some("/run/ashlar")),
        ];
        for (line, root, vars, cache, runtime) in cases {
            let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
            let found = find(&cluster(line), root, var).unwrap();
            assert_eq!(found.cache, Path::new(cache).join(ID), "{line} {root}");
            assert_eq!(found.runtime, runtime.map(|dir| Path::new(dir).join(ID)), "{line} {root}");
        }
        let why = find(&cluster(""), false, |_| None).unwrap_err().to_string();
        assert!(why.contains("no $HOME") && why.contains("cache = "), "{why}");
    }
}
