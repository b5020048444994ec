//! A volume that was promised to an owner is changed by no older one, whatever happens to the disk.

use proto::client::Daemon;
use proto::id::{Epoch, OwnerId};
use proto::part_store::{Beat, Issuer, LastBeat};

use super::daemon::{Running, address};
use super::*;

const VOLUME: VolumeId = VolumeId(1);

fn issuer(epoch: u64, owner: OwnerId) -> Option<Issuer> {
    Some(Issuer { epoch: Epoch(epoch), owner })
}

fn fenced<T>(epoch: u64) -> Result<T, PartError> {
    Err(PartError::Fenced { epoch: Epoch(epoch) })
}

async fn put_as(
    store: &Arc<dyn PartStore>,
    key: PartKey,
    issuer: Option<Issuer>,
) -> Result<(), PartError> {
    store.put(key, Checked::compute(content(key)), issuer).await
}

/// All the rules, over numbers of blobs from `first` on. Leaves the volume at epoch 7.
async fn rules(store: &Arc<dyn PartStore>, first: u64) {
    let [one, other] = [OwnerId::random(), OwnerId::random()];
    let key = |n| key(first + n, 300);
    let owned = Checked::compute(content(key(0)));
    assert_eq!(store.promised(VOLUME).await, Ok(None));
    for (n, anybody) in [None, issuer(0, other), issuer(9, one)].into_iter().enumerate() {
        put_as(store, key(n as u64), anybody).await.unwrap();
    }
    store.fence(VOLUME, Epoch(5), one).await.unwrap();
    store.fence(VOLUME, Epoch(5), one).await.unwrap();
    assert_eq!(store.promised(VOLUME).await, Ok(issuer(5, one)));
    assert_eq!(store.fence(VOLUME, Epoch(5), other).await, fenced(5));
    assert_eq!(store.fence(VOLUME, Epoch(4), one).await, fenced(5));
    for refused in [None, issuer(4, one), issuer(5, other), issuer(0, one)] {
        assert_eq!(put_as(store, key(3), refused).await, fenced(5), "{refused:?}");
        assert_eq!(put_as(store, key(0), refused).await, fenced(5), "the same bytes, {refused:?}");
        assert_eq!(store.delete(&[key(0).blob], refused).await, fenced(5), "{refused:?}");
        assert_eq!(store.forget(&[key(0).blob], refused).await, fenced(5), "{refused:?}");
    }
    assert_eq!(store.held(key(3).blob).await.unwrap().parts.len(), 0);
    assert_eq!(get(store, key(0)).await.unwrap(), *owned.data(), "reads go on");
    put_as(store, key(3), issuer(5, one)).await.unwrap();
    // One that a fence of which this slot does not know made the owner.
    put_as(store, key(4), issuer(6, other)).await.unwrap();
    put_as(store, key(5), issuer(5, one)).await.unwrap();
    store.fence(VOLUME, Epoch(7), other).await.unwrap();
    assert_eq!(put_as(store, key(6), issuer(5, one)).await, fenced(7));
    assert_eq!(put_as(store, key(6), issuer(6, other)).await, fenced(7));
    store.delete(&[key(0).blob], issuer(7, other)).await.unwrap();
    store.forget(&[key(0).blob], issuer(7, other)).await.unwrap();
    // Another volume is nobody's.
    let scheme = "copies(3)".parse().unwrap();
    let beside = BlobId::new(VolumeId(2), SessionId(1), first, GroupId(0), 300, scheme).unwrap();
    put_as(store, PartKey::new(beside, 0).unwrap(), None).await.unwrap();
    let both = [beside, key(3).blob];
    assert_eq!(store.delete(&both, issuer(5, one)).await, fenced(7));
    assert_eq!(store.held(beside).await.unwrap().parts.len(), 1, "nothing of it is done");
    assert_eq!(store.promised(VolumeId(2)).await, Ok(None));
}

/// Who is heard, and of whom nothing is any more.
async fn beats(store: &Arc<dyn PartStore>) {
    let volume = VolumeId(9);
    let [one, other] = [3, 4].map(|epoch| Issuer { epoch: Epoch(epoch), owner: OwnerId::random() });
    let alive = || Beat::Alive("process 7 of a host at /mnt".to_owned());
    let said = |last: Option<LastBeat>| last.map(|last| (last.issuer, last.beat));
    assert_eq!(store.last_beat(volume).await, Ok(None));
    store.fence(volume, one.epoch, one.owner).await.unwrap();
    assert_eq!(store.last_beat(volume).await, Ok(None), "a fence is no sign of life");
    store.beat(volume, one, alive()).await.unwrap();
    let last = store.last_beat(volume).await.unwrap();
    assert!(last.as_ref().is_some_and(|last| last.ago < std::time::Duration::from_secs(60)));
    assert_eq!(said(last), Some((one, alive())));
    assert_eq!(store.last_beat(VolumeId(8)).await, Ok(None), "of another volume");
    store.fence(volume, other.epoch, other.owner).await.unwrap();
    assert_eq!(store.last_beat(volume).await, Ok(None), "it is another's by now");
    assert_eq!(store.beat(volume, one, alive()).await, fenced(4));
    // One that a fence of which this slot does not know made the owner.
    let newer = Issuer { epoch: Epoch(5), owner: one.owner };
    for beat in [alive(), Beat::Ended] {
        store.beat(volume, newer, beat.clone()).await.unwrap();
        assert_eq!(said(store.last_beat(volume).await.unwrap()), Some((newer, beat)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_of_the_newest_epoch_changes_a_volume() {
    let dir = fresh();
    let disk = open(dir.path());
    rules(&slot(&disk), 0).await;
    // Each slot has its own promises.
    let beside = disk.slot(SlotId(3), GroupId(0), Generation(1));
    beside.serve().await.unwrap();
    rules(&beside, 100).await;
    beats(&slot(&disk)).await;
    beats(&beside).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_over_a_link() {
    let dir = fresh();
    let path = dir.path().join("d");
    let running = Running::start(&[&path]);
    let store: Arc<dyn PartStore> =
        Arc::new(Daemon::new(&running.address).unwrap().slot(address(&path)));
    rules(&store, 0).await;
    beats(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_survive_crashes_and_the_loss_of_the_index() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    let owners: Vec<OwnerId> = (0..40).map(|_| OwnerId::random()).collect();
    for (n, owner) in owners.iter().enumerate() {
        let volume = VolumeId(n as u32 % 10);
        put_as(&store, key(n as u64, 300), issuer(n as u64, *owner)).await.unwrap();
        store.fence(volume, Epoch(n as u64), *owner).await.unwrap();
    }
    let crashed = tempfile::tempdir().unwrap();
    for (round, what) in ["the log", "a checkpoint", "block files alone"].into_iter().enumerate() {
        let dir = crashed.path().join(round.to_string());
        std::fs::create_dir(&dir).unwrap();
        if round == 0 {
            copy(disk.path(), &dir.join("d"));
        } else {
            let before = crashed.path().join((round - 1).to_string());
            // Opened and closed, which leaves a checkpoint.
            drop(open(&before));
            copy(&before.join("d"), &dir.join("d"));
        }
        if round == 2 {
            std::fs::remove_file(dir.join("d/index.redb")).unwrap();
        }
        let disk = open(&dir);
        let store = slot(&disk);
        for (n, owner) in owners.iter().enumerate().skip(30) {
            let volume = VolumeId(n as u32 % 10);
            let promise = issuer(n as u64, *owner);
            assert_eq!(store.promised(volume).await, Ok(promise), "from {what}");
            let stale = store.fence(volume, Epoch(n as u64 - 1), *owner).await;
            assert_eq!(stale, fenced(n as u64), "from {what}");
        }
        assert_eq!(store.promised(VolumeId(10)).await, Ok(None));
    }
}
