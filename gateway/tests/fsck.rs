//! `ashlar fsck` on a volume whose metadata does not fit together: it says so and changes nothing, and with
//! `--repair` puts right what can be. On real disks, by the commands.

#![allow(clippy::unwrap_used)] // it is a test throughout

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ::fs::mount::embedded::Store;
use meta::{Directories, MetaSettings, MountedBy, ProxyStores, VolumeLock};
use proto::cluster::Cluster;
use proto::id::ClusterId;
use storaged::{InitOptions, init_disk};
use tempfile::TempDir;

const DISKS: usize = 4;
/// More than rides in the journal: it has blobs of its own, and these have references.
const LEN: usize = 300_000;

struct Site {
    home: TempDir,
    mounted: bool,
}

impl Site {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let id = ClusterId::random();
        let mut text = format!("cluster = \"{id}\"\ncache = \"cache\"\n");
        for number in 0..DISKS {
            let dir = home.path().join(number.to_string());
            let options = InitOptions { capacity: Some(1 << 30), block_file: 16 << 20 };
            let disk = init_disk(&dir, id, options).unwrap();
            let slot = format!("[[slot]]\ndisk = \"{disk}\"\npath = \"{}\"\n", dir.display());
            text.push_str(&slot);
        }
        fs::create_dir(home.path().join("mnt")).unwrap();
        fs::write(home.path().join("cluster.toml"), text).unwrap();
        let site = Self { home, mounted: false };
        site.said(0, &["format", "photos", "--scheme", "ec(2,1)"]);
        site
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("cluster.toml")
    }

    fn mountpoint(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut ashlar = Command::new(env!("CARGO_BIN_EXE_ashlar"));
        ashlar.args(arguments).arg("--cluster").arg(self.file()).output().unwrap()
    }

    /// What a command says to stdout, which must end so.
    fn said(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stdout).unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}{why}");
        said
    }

    fn mount(&mut self) {
        let at = self.mountpoint();
        self.said(0, &["mount", "photos", at.to_str().unwrap()]);
        self.mounted = true;
    }

    fn umount(&mut self) {
        let mut ashlar = Command::new(env!("CARGO_BIN_EXE_ashlar"));
        assert!(ashlar.arg("umount").arg(self.mountpoint()).status().unwrap().success());
        self.mounted = false;
    }

    /// Has records of its metadata no longer fit together.
    fn disarray(&self) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::read(&self.file()).unwrap();
            let by = MountedBy { pid: std::process::id(), mountpoint: PathBuf::from("/mnt") };
            let own = self.home.path().join("own");
            let lock = VolumeLock::take(&Directories::only(&own), "photos", &by).unwrap();
            let store = Store::open(&cluster).await.unwrap();
            let stores = ProxyStores::new(store.blobs.clone());
            let volume = meta::open(&stores, lock, MetaSettings::default()).await.unwrap();
            meta::testing::disarray(&volume, b"nameless", b"miscounted").await.unwrap();
            volume.close().await;
            store.close().await;
        });
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.mounted {
            let mut umount = Command::new("umount");
            let _gone = umount.arg("-l").arg(self.mountpoint()).status();
        }
    }
}

fn bytes(seed: u8) -> Vec<u8> {
    (0..LEN).map(|at| (at / 7) as u8 ^ seed).collect()
}

/// Every file below, with its bytes.
fn contents(dir: &Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(contents(&entry.path())),
            false => files.push(fs::read(entry.path()).unwrap()),
        }
    }
    files.sort();
    files
}

#[test]
fn what_does_not_fit_together_is_told_and_put_right() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("not tried: it takes root and /dev/fuse");
        return;
    }
    let mut site = Site::new();
    site.mount();
    let mnt = site.mountpoint();
    fs::write(mnt.join("nameless"), bytes(1)).unwrap();
    fs::write(mnt.join("miscounted"), bytes(2)).unwrap();
    fs::write(mnt.join("small"), b"rides in the journal").unwrap();
    let written = contents(&mnt);
    site.umount();
    assert!(site.said(0, &["fsck", "photos"]).ends_with("photos is in order\n"));
    assert!(site.said(0, &["fsck", "photos", "--repair"]).ends_with("photos is in order\n"));

    site.disarray();
    let told = site.said(1, &["fsck", "photos"]);
    let kinds = ["links", "name", "reference", "number of inodes"];
    kinds.iter().for_each(|kind| assert!(told.contains(kind), "nothing of {kind} in: {told}"));
    assert_eq!(site.said(1, &["fsck", "photos"]), told, "it has changed something");

    let mended = site.said(1, &["fsck", "photos", "--repair"]);
    assert!(mended.ends_with("photos is in order now\n"), "{mended}");
    assert!(site.said(0, &["fsck", "photos"]).ends_with("photos is in order\n"));
    assert!(site.said(0, &["fsck", "photos", "--repair"]).ends_with("photos is in order\n"));

    site.mount();
    assert_eq!(contents(&mnt), written);
    assert!(mnt.join("lost+found").is_dir());
    fs::remove_dir_all(mnt.join("lost+found")).unwrap();
    ["miscounted", "small"].iter().for_each(|name| fs::remove_file(mnt.join(name)).unwrap());
    assert_eq!(fs::read_dir(&mnt).unwrap().count(), 0);
    site.umount();
    assert!(site.said(0, &["fsck", "photos"]).ends_with("photos is in order\n"));
}
