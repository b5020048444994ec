//! Putting, getting, deleting, listing; generations; who may open a disk.

use proto::part_store::FillLevel;

use super::*;

const LENGTHS: [u32; 9] = [1, 100, 3996, 3997, 4096, 65_536, 65_537, 300_000, 1 << 20];

async fn check_all(store: &Arc<dyn PartStore>) {
    for (n, len) in LENGTHS.iter().enumerate() {
        let key = key(n as u64, *len);
        assert_eq!(get(store, key).await.unwrap(), content(key), "{len}");
        for range in [0..1, len / 2..*len, len - 1..*len] {
            let want = content(key).slice(range.start as usize..range.end as usize);
            assert_eq!(store.get(key, range).await.unwrap(), want);
        }
    }
    assert_eq!(store.get(key(99, 5), 0..5).await, Err(PartError::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_there_whole_and_by_range_also_after_a_restart_or_a_crash() {
    let dir = fresh();
    let crashed = tempfile::tempdir().unwrap();
    {
        let store = slot(&open(dir.path()));
        for (n, len) in LENGTHS.iter().enumerate() {
            put(&store, key(n as u64, *len)).await.unwrap();
        }
        check_all(&store).await;
        copy(&dir.path().join("d"), &crashed.path().join("d"));
    }
    check_all(&slot(&open(dir.path()))).await;
    check_all(&slot(&open(crashed.path()))).await;
    for damage in [&b""[..], b"not a database", b"redb\x1a\x0a\xa9\x0d\x0a"] {
        std::fs::write(crashed.path().join("d/index.redb"), damage).unwrap();
        check_all(&slot(&open(crashed.path()))).await;
    }
    let index = std::fs::read(crashed.path().join("d/index.redb")).unwrap();
    for cut in [1, 4096, index.len() / 3, index.len() / 2, index.len() - 1] {
        std::fs::write(crashed.path().join("d/index.redb"), &index[..cut]).unwrap();
        check_all(&slot(&open(crashed.path()))).await;
    }
    std::fs::remove_file(crashed.path().join("d/index.redb")).unwrap();
    check_all(&slot(&open(crashed.path()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_again_are_fine_and_others_a_conflict() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    let key = key(1, 100_000);
    put(&store, key).await.unwrap();
    put(&store, key).await.unwrap();
    let other = Checked::compute(vec![1; 100_000].into());
    assert_eq!(store.put(key, other, None).await, Err(PartError::Conflict));
    store.delete(&[key.blob], None).await.unwrap();
    store.delete(&[key.blob], None).await.unwrap();
    assert_eq!(put(&store, key).await, Err(PartError::Deleted));
    let held = store.held(key.blob).await.unwrap();
    assert!(held.deleted && held.parts.is_empty());
    assert_eq!(store.fill().await.unwrap().level, FillLevel::Green);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_many_callers_is_kept_whole() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    let puts = (0..500).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { put(&store, key(n, 1 + n as u32 * 13)).await })
    });
    for done in futures::future::join_all(puts).await {
        done.unwrap().unwrap();
    }
    for n in 0..500 {
        let key = key(n, 1 + n as u32 * 13);
        assert_eq!(get(&store, key).await.unwrap(), content(key));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_contents_at_once_under_one_key_leave_one_winner() {
    let dir = fresh();
    let store = slot(&open(dir.path()));
    let key = key(1, 5000);
    let puts = (0..20u8).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            store.put(key, Checked::compute(vec![n % 4; 5000].into()), None).await
        })
    });
    let results: Vec<_> =
        futures::future::join_all(puts).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 5, "{results:?}");
    assert_eq!(results.iter().filter(|r| **r == Err(PartError::Conflict)).count(), 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_in_order_in_pages_and_of_what_was_asked_for() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    let mut all = Vec::new();
    for (volume, session) in [(0, u64::MAX), (1, 0), (1, 1), (1, u64::MAX), (2, 1), (u32::MAX, 1)] {
        for n in (0..12).rev().filter(|n| *n != 7) {
            let scheme = "copies(3)".parse().unwrap();
            let (volume, session) = (VolumeId(volume), SessionId(session));
            let blob = BlobId::new(volume, session, n, GroupId(0), 10, scheme).unwrap();
            for part in [0, 2] {
                put(&store, PartKey::new(blob, part).unwrap()).await.unwrap();
            }
            all.push(blob);
        }
    }
    let deleted = all.remove(3);
    store.delete(&[deleted], None).await.unwrap();
    all.sort_unstable();
    let (one, two) = (VolumeId(1), VolumeId(2));
    for scope in [
        Scope::All,
        Scope::Volume(one),
        Scope::Session(one, SessionId(1)),
        Scope::Session(one, SessionId(u64::MAX)),
        Scope::Volume(VolumeId(u32::MAX)),
        Scope::Volume(VolumeId(7)),
        Scope::Session(two, SessionId(2)),
    ] {
        let within = |blob: &&BlobId| match scope {
            Scope::All => true,
            Scope::Volume(volume) => blob.volume() == volume,
            Scope::Session(volume, session) => (blob.volume(), blob.session()) == (volume, session),
        };
        let expected: Vec<BlobId> = all.iter().filter(within).copied().collect();
        for limit in [1, 4, 11, 100] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = store.list(scope, after, limit).await.unwrap();
                assert!(page.entries.len() <= limit as usize);
                assert!(page.complete || !page.entries.is_empty(), "it goes on");
                assert!(page.entries.iter().all(|(_, parts)| parts.0 == 0b101), "{page:?}");
                seen.extend(page.entries.iter().map(|(blob, _)| *blob));
                after = seen.last().copied();
                assert_eq!(page.complete, seen.len() == expected.len(), "{scope:?} by {limit}");
                if page.complete {
                    break;
                }
            }
            assert_eq!(seen, expected, "{scope:?} by {limit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn older_generations_and_other_groups_are_refused_also_after_a_rebuild() {
    let dir = fresh();
    let held = |disk: &Arc<Disk>, group, generation| {
        let slot = disk.slot(SlotId(3), GroupId(group), Generation(generation));
        async move { slot.held(key(1, 1).blob).await }
    };
    for round in 0..3 {
        let disk = open(dir.path());
        if round == 0 {
            held(&disk, 7, 4).await.unwrap();
            held(&disk, 7, 9).await.unwrap();
        }
        held(&disk, 7, 9).await.unwrap();
        assert_eq!(held(&disk, 7, 8).await, Err(PartError::StaleGeneration(Generation(9))));
        assert!(matches!(held(&disk, 6, 10).await, Err(PartError::WrongAddress(_))));
        disk.close().await;
        drop(disk);
        if round == 1 {
            std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
        }
    }
}

#[test]
fn a_disk_is_opened_once_and_only_for_its_cluster() {
    let dir = fresh();
    let path = dir.path().join("d");
    let disk = open(dir.path());
    let again = Disk::open(&path, DiskOptions::default()).map(drop).unwrap_err().to_string();
    assert!(again.contains("in use"), "{again}");
    drop(disk);
    let other = DiskOptions { cluster: Some(ClusterId::random()), ..DiskOptions::default() };
    let foreign = Disk::open(&path, other).map(drop).unwrap_err().to_string();
    assert!(foreign.contains("belongs to cluster"), "{foreign}");
    drop(open(dir.path()));
}
