//! A disk whose filesystem is mounted read-only: what is on it is served.

use std::path::PathBuf;

use proto::client::Daemon;

use super::daemon::{Running, address};
use super::mounted::Mounted;
use super::*;

/// What all files of the disk hold.
fn image(disk: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = ["superblock", "index.redb"].map(|name| disk.join(name)).into();
    let blocks = std::fs::read_dir(disk.join("blocks")).unwrap();
    files.extend(blocks.map(|file| file.unwrap().path()));
    files.retain(|path| path.exists());
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

async fn serves(disk: &Path, kept: &[PartKey], gone: &[PartKey]) {
    let running = Running::start(&[disk]);
    let daemon = Daemon::new(&running.address).unwrap();
    // A proxy may know a newer generation than the disk can remember.
    for generation in [5, 6] {
        let to = proto::convert::Address { generation: Generation(generation), ..address(disk) };
        let store: Arc<dyn PartStore> = Arc::new(daemon.slot(to));
        for key in kept {
            assert_eq!(get(&store, *key).await.unwrap(), content(*key));
        }
        for key in gone {
            let got = get(&store, *key).await;
            assert!(matches!(got, Err(PartError::Deleted | PartError::NotFound)), "{got:?}");
        }
        let refused = put(&store, key(999, 1000)).await.unwrap_err().to_string();
        assert!(refused.contains("mounted read-only"), "{refused}");
        assert!(store.fill().await.is_err());
    }
    let status = daemon.status().await.unwrap();
    assert_eq!(status.disks[0].state, "read-only: its filesystem is mounted read-only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_on_a_read_only_filesystem_is_served_for_reads_after_a_restart_too() {
    let Some(mounted) = Mounted::new() else { return };
    let disk = mounted.path().join("d");
    init_disk(&disk, ClusterId::random(), SMALL).unwrap();
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    // Some of it in the index, and some only in the log, as a crash leaves it.
    for round in 0..2 {
        let mut running = Running::start(&[&disk]);
        let store: Arc<dyn PartStore> =
            Arc::new(Daemon::new(&running.address).unwrap().slot(address(&disk)));
        for n in 0..40 {
            let key = key(round * 100 + n, if n % 2 == 0 { 100 } else { 400_000 });
            put(&store, key).await.unwrap();
            kept.push(key);
        }
        let deleted = kept.remove(0);
        store.delete(&[deleted.blob], None).await.unwrap();
        gone.push(deleted);
        if round == 1 {
            running.child.kill().unwrap();
            running.child.wait().unwrap();
        } else {
            assert!(running.stop());
        }
    }
    mounted.remount("ro");
    let before = image(&disk);
    for _ in 0..2 {
        serves(&disk, &kept, &gone).await;
    }
    assert!(image(&disk) == before, "nothing was changed");
    // Without an index that can be used.
    mounted.remount("rw");
    std::fs::write(disk.join("index.redb"), "no index").unwrap();
    mounted.remount("ro");
    serves(&disk, &kept, &gone).await;
    assert!(!disk.join("index.redb.damaged").exists());
    mounted.remount("rw");
    let running = Running::start(&[&disk]);
    let store: Arc<dyn PartStore> =
        Arc::new(Daemon::new(&running.address).unwrap().slot(address(&disk)));
    put(&store, key(999, 1000)).await.unwrap();
    for key in kept {
        assert_eq!(get(&store, key).await.unwrap(), content(key));
    }
    assert!(running.stop());
}
