//! The disks that a machine brings into its cluster, and where others reach them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use proto::id::{ClusterId, DiskId};
use proto::size::Size;
use proto::touch::touch;
use storaged::superblock::Superblock;
use storaged::{InitOptions, init_disk};

use crate::cli::node::root::is_reachable;

/// What a machine serves.
#[derive(clap::Args)]
pub(super) struct ServedArgs {
    /// Directory of a disk, which is made if it is empty or not there; repeat for each
    #[arg(long = "disk", value_name = "DIR")]
    disks: Vec<PathBuf>,
    /// Space to use of each disk [default: 90 % of what is free there]
    #[arg(long, value_name = "SIZE")]
    capacity: Option<Size>,
    /// Port at which disks are served [default: 7411]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

/// Where disks are served, unless told otherwise.
const DEFAULT_PORT: u16 = 7411;

impl ServedArgs {
    /// Are there any?
    pub(super) fn has_disks(&self) -> bool {
        !self.disks.is_empty()
    }

    /// Is it said at which port?
    pub(super) fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// Where they are served, on this host.
    ///
    /// # Errors
    /// When it is the name of none.
    pub(super) fn address(&self, host: &str) -> Result<String> {
        let address = at(host, self.port.unwrap_or(DEFAULT_PORT));
        ensure!(is_reachable(&address), "{address:?} is no name or address of a host with a port");
        Ok(address)
    }

    /// Makes them disks of the cluster, but for those that are already.
    ///
    /// # Errors
    /// At the first that cannot be one.
    pub(super) fn prepare(&self, cluster: ClusterId) -> Result<Vec<(PathBuf, DiskId)>> {
        let disks = self.disks.iter().map(std::path::absolute);
        let disks: Vec<PathBuf> = disks.collect::<Result<_, _>>().context("--disk")?;
        // Nothing is made of one when another is somebody else's.
        let known = disks.iter().map(|disk| known(disk, cluster)).collect::<Result<Vec<_>>>()?;
        let capacity = self.capacity.map(|size| size.0);
        let make = |(path, known): (PathBuf, Option<DiskId>)| -> Result<(PathBuf, DiskId)> {
            let made = match known {
                Some(disk) => disk,
                None => init_disk(&path, cluster, InitOptions { capacity, ..Default::default() })?,
            };
            Ok((path, made))
        };
        disks.into_iter().zip(known).map(make).collect()
    }
}

/// `HOST:PORT`.
pub(super) fn at(host: &str, port: u16) -> String {
    // An address with colons is told from a port by brackets.
    let bare = host.contains(':') && !host.starts_with('[');
    if bare { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The disk that is there, if it is one of the cluster.
fn known(path: &std::path::Path, cluster: ClusterId) -> Result<Option<DiskId>> {
    let owned = path.to_owned();
    let read =
        touch(move || Superblock::read(&owned)).with_context(|| path.display().to_string())?;
    match read {
        Ok(found) if found.cluster == cluster => Ok(Some(found.disk)),
        Ok(found) => bail!(
            "{} is a disk of cluster {}: give an empty directory, or remove what is in it",
            path.display(),
            found.cluster
        ),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_told_from_an_address() {
        assert_eq!(at("10.0.0.1", 7411), "10.0.0.1:7411");
        assert_eq!(at("host-a", 1), "host-a:1");
        assert_eq!(at("fd00::1", 1), "[fd00::1]:1");
        assert_eq!(at("[fd00::1]", 1), "[fd00::1]:1");
    }

    #[test]
    fn a_host_that_nobody_can_connect_to_is_refused() {
        let args = ServedArgs { disks: Vec::new(), capacity: None, port: None };
        for host in ["10.0.0.1", "host-a", "fd00::1", "[fd00::1]"] {
            assert!(args.address(host).is_ok_and(|address| address.ends_with(":7411")), "{host}");
        }
        for host in ["", "my host", "h\n", "h/1", "h\u{1b}"] {
            let refused = args.address(host).map_err(|why| why.to_string());
            assert!(refused.is_err_and(|why| why.contains("no name or address")), "{host:?}");
        }
    }

    #[test]
    fn a_disk_of_another_cluster_is_not_taken_and_no_other_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let (mine, theirs) = (directory.path().join("mine"), directory.path().join("theirs"));
        let cluster = ClusterId::random();
        let capacity = Some(Size(1 << 30));
        let options = InitOptions { capacity: Some(1 << 30), ..Default::default() };
        init_disk(&theirs, ClusterId::random(), options).unwrap();
        let disks = vec![mine.clone(), theirs];
        let args = ServedArgs { disks, capacity, port: Some(1) };
        let refused = args.prepare(cluster).unwrap_err().to_string();
        assert!(refused.contains("theirs") && !mine.exists(), "{refused}");
        let args = ServedArgs { disks: vec![mine], ..args };
        let made = args.prepare(cluster).unwrap();
        assert_eq!(args.prepare(cluster).unwrap(), made, "it is one already");
    }
}
