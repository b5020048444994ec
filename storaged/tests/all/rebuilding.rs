//! A slot that comes to a group says of nothing that it was never here, until it was declared rebuilt; and parts
//! that are taken away one by one stay away.

use proto::client::Daemon;
use proto::id::{Epoch, OwnerId};
use proto::part_store::{Held, Issuer};

use super::daemon::{Running, address};
use super::*;

const VOLUME: VolumeId = VolumeId(1);
const OTHER: VolumeId = VolumeId(2);

/// What a slot is sure of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sure {
    of_volume: bool,
    of_other: bool,
    of_all: bool,
}

const NOTHING: Sure = Sure { of_volume: false, of_other: false, of_all: false };
const ALL: Sure = Sure { of_volume: true, of_other: true, of_all: true };

fn key_of(volume: VolumeId, sequence: u64) -> PartKey {
    let scheme = "copies(3)".parse().unwrap();
    let blob = BlobId::new(volume, SessionId(1), sequence, GroupId(0), 300, scheme).unwrap();
    PartKey::new(blob, 1).unwrap()
}

/// Asks everything that a slot may be unsure of, about blobs that nobody has put.
async fn sure(store: &Arc<dyn PartStore>) -> Sure {
    let of = async |volume: VolumeId| {
        let key = key_of(volume, 999);
        let session = Scope::Session(volume, SessionId(1));
        let answers = [
            !store.held(key.blob).await.unwrap().rebuilding,
            !store.list(Scope::Volume(volume), None, 100).await.unwrap().rebuilding,
            !store.list(session, None, 100).await.unwrap().rebuilding,
            match store.get(key, 0..1).await {
                Err(PartError::NotFound) => true,
                Err(PartError::NotRebuilt) => false,
                other => panic!("{other:?}"),
            },
        ];
        assert!(answers.iter().all(|sure| *sure == answers[0]), "{volume}: {answers:?}");
        answers[0]
    };
    let of_all = !store.list(Scope::All, None, 100).await.unwrap().rebuilding;
    assert_eq!(store.standing().await.unwrap().unwrap().rebuilding, !of_all);
    Sure { of_volume: of(VOLUME).await, of_other: of(OTHER).await, of_all }
}

/// The life of a slot that comes to a group which was there before. Leaves it rebuilt of one volume.
async fn comes_to_a_group(store: &Arc<dyn PartStore>) {
    assert_eq!(store.standing().await, Ok(None));
    let [owner, stranger] = [OwnerId::random(), OwnerId::random()];
    let issuer = |owner| Some(Issuer { epoch: Epoch(7), owner });
    assert_eq!(store.promised(VOLUME).await, Err(PartError::NotRebuilt));
    assert_eq!(sure(store).await, NOTHING);
    let standing = store.standing().await.unwrap().unwrap();
    assert!(standing.rebuilding && standing.pristine, "{standing:?}");
    // It takes whatever it is asked to.
    put(store, key_of(VOLUME, 1)).await.unwrap();
    store.fence(VOLUME, Epoch(7), owner).await.unwrap();
    assert_eq!(store.promised(VOLUME).await, Ok(issuer(owner)));
    assert_eq!(get(store, key_of(VOLUME, 1)).await.unwrap(), content(key_of(VOLUME, 1)));
    let held = Held {
        rebuilding: true,
        parts: [key_of(VOLUME, 1).part].into_iter().collect(),
        deleted: false,
    };
    assert_eq!(store.held(key_of(VOLUME, 1).blob).await, Ok(held));
    let gone = key_of(VOLUME, 2);
    store.delete(&[gone.blob], issuer(owner)).await.unwrap();
    assert_eq!(get(store, gone).await, Err(PartError::Deleted));
    assert!(!store.standing().await.unwrap().unwrap().pristine);
    assert_eq!(sure(store).await, NOTHING);
    // It is declared rebuilt, by nobody but the owner.
    let fenced = Err(PartError::Fenced { epoch: Epoch(7) });
    assert_eq!(store.rebuilt(VOLUME, issuer(stranger)).await, fenced);
    assert_eq!(store.rebuilt(VOLUME, None).await, fenced);
    assert_eq!(sure(store).await, NOTHING);
    store.rebuilt(VOLUME, issuer(owner)).await.unwrap();
    store.rebuilt(VOLUME, issuer(owner)).await.unwrap();
    assert_eq!(sure(store).await, Sure { of_volume: true, ..NOTHING });
    assert_eq!(store.promised(OTHER).await, Err(PartError::NotRebuilt));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_comes_to_a_group_is_sure_of_nothing_until_it_is_rebuilt() {
    let dir = bare();
    let disk = open(dir.path());
    let store = slot(&disk);
    comes_to_a_group(&store).await;
    // Each slot of a disk by itself.
    let beside = disk.slot(SlotId(3), GroupId(0), Generation(1));
    assert_eq!(sure(&beside).await, NOTHING);
    beside.serve().await.unwrap();
    assert_eq!(sure(&beside).await, ALL);
    assert_eq!(sure(&store).await, Sure { of_volume: true, ..NOTHING });
    store.serve().await.unwrap();
    assert_eq!(sure(&store).await, ALL);
    assert_eq!(store.promised(OTHER).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_over_a_link() {
    let dir = bare();
    let path = dir.path().join("d");
    let running = Running::start(&[&path]);
    let daemon = Daemon::new(&running.address).unwrap();
    let store: Arc<dyn PartStore> = Arc::new(daemon.slot(address(&path)));
    comes_to_a_group(&store).await;
    store.serve().await.unwrap();
    assert_eq!(sure(&store).await, ALL);
    let (kept, dropped) = (key_of(OTHER, 1), key_of(OTHER, 2));
    put(&store, kept).await.unwrap();
    put(&store, dropped).await.unwrap();
    store.drop_part(dropped, None).await.unwrap();
    assert_eq!(get(&store, dropped).await, Err(PartError::NotFound));
    assert_eq!(get(&store, kept).await.unwrap(), content(kept));
}

/// The directory after a crash, after that and an end in order, and after the index was lost.
async fn after_each(disk: &Arc<Disk>, mut check: impl AsyncFnMut(&str, &Arc<dyn PartStore>)) {
    let crashed = tempfile::tempdir().unwrap();
    for (round, what) in ["the log", "a checkpoint", "block files alone"].into_iter().enumerate() {
        let dir = crashed.path().join(round.to_string());
        std::fs::create_dir(&dir).unwrap();
        let before = crashed.path().join(round.saturating_sub(1).to_string());
        if round == 0 {
            copy(disk.path(), &dir.join("d"));
        } else {
            // Opened and closed, which leaves a checkpoint.
            drop(open(&before));
            copy(&before.join("d"), &dir.join("d"));
        }
        if round == 2 {
            std::fs::remove_file(dir.join("d/index.redb")).unwrap();
        }
        check(what, &slot(&open(&dir))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slot_is_sure_of_survives_crashes_and_the_loss_of_the_index() {
    let dir = bare();
    let disk = open(dir.path());
    let store = slot(&disk);
    comes_to_a_group(&store).await;
    after_each(&disk, async |what, store| {
        assert_eq!(sure(store).await, Sure { of_volume: true, ..NOTHING }, "from {what}");
    })
    .await;
    // A newer generation changes nothing of it.
    let newer = disk.slot(SlotId(0), GroupId(0), Generation(2));
    assert_eq!(sure(&newer).await, Sure { of_volume: true, ..NOTHING });
    newer.serve().await.unwrap();
    let newest = disk.slot(SlotId(0), GroupId(0), Generation(3));
    assert_eq!(sure(&newest).await, ALL);
    let crashed = tempfile::tempdir().unwrap();
    copy(disk.path(), &crashed.path().join("d"));
    for _ in 0..2 {
        let disk = open(crashed.path());
        assert_eq!(sure(&disk.slot(SlotId(0), GroupId(0), Generation(3))).await, ALL);
        drop(disk);
        std::fs::remove_file(crashed.path().join("d/index.redb")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_dropped_is_gone_and_may_be_put_again() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    let scheme = "copies(3)".parse().unwrap();
    let blob = BlobId::new(VOLUME, SessionId(1), 5, GroupId(0), 70_000, scheme).unwrap();
    let [first, second] = [0, 1].map(|part| PartKey::new(blob, part).unwrap());
    put(&store, first).await.unwrap();
    put(&store, second).await.unwrap();
    let used = store.fill().await.unwrap().used;
    store.drop_part(first, None).await.unwrap();
    store.drop_part(first, None).await.unwrap();
    assert!(store.fill().await.unwrap().used < used);
    assert_eq!(disk.state().parts, 1);
    let again = key(9, 3000);
    put(&store, again).await.unwrap();
    store.drop_part(again, None).await.unwrap();
    put(&store, again).await.unwrap();
    let deleted = key(10, 3000);
    put(&store, deleted).await.unwrap();
    store.delete(&[deleted.blob], None).await.unwrap();
    store.drop_part(deleted, None).await.unwrap();
    let check = async |what: &str, store: &Arc<dyn PartStore>| {
        assert_eq!(get(store, first).await, Err(PartError::NotFound), "from {what}");
        assert_eq!(get(store, second).await.unwrap(), content(second), "from {what}");
        assert_eq!(get(store, again).await.unwrap(), content(again), "from {what}");
        assert_eq!(get(store, deleted).await, Err(PartError::Deleted), "from {what}");
        let held = store.held(blob).await.unwrap();
        assert_eq!((held.parts, held.deleted), ([second.part].into_iter().collect(), false));
    };
    check("memory", &store).await;
    after_each(&disk, check).await;
    // Of a volume that is promised only its owner takes parts away.
    let owner = OwnerId::random();
    store.fence(VOLUME, Epoch(3), owner).await.unwrap();
    let fenced = Err(PartError::Fenced { epoch: Epoch(3) });
    assert_eq!(store.drop_part(second, None).await, fenced);
    assert_eq!(get(&store, second).await.unwrap(), content(second));
    store.drop_part(second, Some(Issuer { epoch: Epoch(3), owner })).await.unwrap();
    assert_eq!(get(&store, second).await, Err(PartError::NotFound));
}
