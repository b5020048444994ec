//! A group that changes while it is used: what is asked goes on with the newer one.

#![allow(clippy::unwrap_used)] // it is a test throughout
#![allow(dead_code)] // each test binary uses its own share of what supports them

mod support;

use std::sync::Arc;
use std::time::Duration;

use proto::id::{Epoch, Generation, GroupId, OwnerId, VolumeId};
use proto::part_store::{Issuer, PartStore};
use proxy::{BlobError, BlobStore, LiveProxy, Proxy, ProxySettings, VolumeRules};
use tokio::time::Instant;

use support::{MemorySlot, Mood, another_over, blob, config, noise, proxy_over};

/// Slots that refuse who goes by the old generation, as one generation's proxy meets them.
fn refuse(slots: &[Arc<MemorySlot>]) {
    slots.iter().for_each(|slot| slot.set(Mood::Newer(Generation(2))));
}

#[tokio::test(start_paused = true)]
async fn a_newer_generation_is_waited_for_and_what_was_refused_is_asked_again() {
    let (first, old) = proxy_over(3);
    let live = LiveProxy::new(first);
    let id = blob(1, 1000, "copies(3)");
    live.put(id, noise(1000, 1)).await.unwrap();
    refuse(&old);
    let new: Vec<_> = (0..3).map(|_| MemorySlot::new()).collect();
    another_over(&new).put(id, noise(1000, 1)).await.unwrap();
    let feeding = {
        let (live, new) = (live.clone(), new.clone());
        tokio::spawn(async move {
            assert_eq!(live.outdated().await, Generation(2));
            tokio::time::sleep(Duration::from_millis(300)).await;
            live.replace(another_over(&new)).await;
        })
    };
    let (got, put) =
        tokio::join!(live.get(id, 0..1000), live.put(blob(2, 1000, "copies(3)"), noise(1000, 2)));
    assert_eq!((got, put.map(|stored| stored.degraded)), (Ok(noise(1000, 1)), Ok(false)));
    feeding.await.unwrap();
    assert!(new.iter().all(|slot| !slot.parts_of(blob(2, 1000, "copies(3)")).is_empty()));
}

#[tokio::test(start_paused = true)]
async fn writes_are_not_cut_off_while_a_newer_generation_is_on_its_way() {
    let (first, old) = proxy_over(3);
    let live = LiveProxy::new(first);
    live.put(blob(1, 1000, "copies(3)"), noise(1000, 1)).await.unwrap();
    refuse(&old);
    let new: Vec<_> = (0..3).map(|_| MemorySlot::new()).collect();
    let feeding = {
        let (live, new) = (live.clone(), new.clone());
        tokio::spawn(async move {
            live.outdated().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            live.replace(another_over(&new)).await;
        })
    };
    let asking = async {
        live.outdated().await;
        live.space(VolumeId(1), "copies(3)".parse().unwrap()).await
    };
    let (put, space) = tokio::join!(live.put(blob(2, 1000, "copies(3)"), noise(1000, 2)), asking);
    assert!(put.is_ok() && !space.is_cut_off(), "{put:?}, {space:?}");
    feeding.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_is_not_to_be_had_is_waited_for_no_longer() {
    let (first, old) = proxy_over(3);
    let live = LiveProxy::new(first);
    let id = blob(1, 1000, "copies(3)");
    refuse(&old);
    let waited = async |live: &LiveProxy| {
        let began = Instant::now();
        let failed = live.get(id, 0..1).await.unwrap_err();
        assert!(matches!(failed, BlobError::Unavailable { .. }), "{failed}");
        began.elapsed()
    };
    let bound = Duration::from_secs(2);
    assert!((bound..2 * bound).contains(&waited(&live).await), "nobody feeds it");
    live.give_up(Some(live.outdated().await));
    assert!(waited(&live).await < bound / 4);
    // A newer one yet is news.
    old.iter().for_each(|slot| slot.set(Mood::Newer(Generation(3))));
    assert_eq!(live.outdated().await, Generation(3));
}

#[tokio::test(start_paused = true)]
async fn slots_that_are_new_to_a_group_hear_who_has_its_volumes() {
    let (first, mut slots) = proxy_over(5);
    let live = LiveProxy::new(first);
    let (volume, owner) = (VolumeId(1), OwnerId::random());
    live.fence(volume, Epoch(4), owner, 2).await.unwrap();
    slots[2] = MemorySlot::new();
    live.replace(another_over(&slots)).await;
    let promise = Some(Issuer { epoch: Epoch(4), owner });
    assert_eq!(slots[2].promised(volume).await, Ok(promise));
    // It goes on in that name.
    let id = blob(1, 1000, "copies(5)");
    live.put(id, noise(1000, 1)).await.unwrap();
    assert_eq!(slots[2].parts_of(id).len(), 1);
}

/// A slot that is empty would be heard as one that knows whose the volume is.
#[tokio::test(start_paused = true)]
async fn slots_that_are_new_to_a_group_promise_nothing_to_whoever_was_taken_over() {
    let (first, mut slots) = proxy_over(5);
    let live = LiveProxy::new(first);
    let volume = VolumeId(1);
    live.fence(volume, Epoch(4), OwnerId::random(), 2).await.unwrap();
    another_over(&slots).fence(volume, Epoch(5), OwnerId::random(), 2).await.unwrap();
    slots[2] = MemorySlot::new();
    live.replace(another_over(&slots)).await;
    assert_eq!(slots[2].promised(volume).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn whoever_acts_for_another_goes_on_in_that_name_and_has_nobody_promise_anything() {
    let (leader, mut slots) = proxy_over(5);
    let (volume, owner) = (VolumeId(1), OwnerId::random());
    leader.fence(volume, Epoch(4), owner, 2).await.unwrap();
    let live = LiveProxy::new(another_over(&slots));
    live.act_for(volume, Issuer { epoch: Epoch(4), owner });
    slots[2] = MemorySlot::new();
    live.replace(another_over(&slots)).await;
    assert_eq!(slots[2].promised(volume).await, Ok(None), "that is the leader's to ask for");
    let id = blob(1, 1000, "copies(5)");
    live.put(id, noise(1000, 1)).await.unwrap();
    assert!(slots.iter().all(|slot| slot.parts_of(id).len() == 1));
}

#[tokio::test(start_paused = true)]
async fn a_volume_stores_as_it_wants_to_whatever_becomes_of_the_group() {
    let (first, slots) = proxy_over(3);
    let live = LiveProxy::new(first);
    // With one of three slots dead, two parts lie on one of the others, and no more slots may be lost.
    live.abide_by(VolumeId(1), VolumeRules::default().with_min_spare(0));
    live.replace(another_over(&slots)).await;
    slots[1].set(Mood::Dead);
    let put = live.put(blob(1, 200_000, "ec(2,1)"), noise(200_000, 1)).await;
    assert_eq!(put.map(|stored| stored.degraded), Ok(true));
    live.abide_by(VolumeId(1), VolumeRules::default());
    let put = live.put(blob(2, 200_000, "ec(2,1)"), noise(200_000, 2)).await;
    assert!(matches!(put, Err(BlobError::Unavailable { .. })), "{put:?}");
}

/// Of slots that know of the newer map one after the other, those that are not in it are the last to take what they are
/// asked to.
#[tokio::test(start_paused = true)]
async fn what_the_newer_map_leaves_too_few_of_is_not_called_stored() {
    let (first, slots) = proxy_over(8);
    let live = LiveProxy::new(first);
    let id = blob(1, 200_000, "ec(4,2)");
    refuse(&slots[..4]);
    let feeding = {
        let (live, slots) = (live.clone(), slots.clone());
        tokio::spawn(async move {
            live.outdated().await;
            slots[..4].iter().for_each(|slot| slot.set(Mood::Good));
            live.replace(another_over(&slots[..6])).await;
        })
    };
    let put = live.put(id, noise(id.len(), 1)).await;
    feeding.await.unwrap();
    assert_eq!(put.map(|stored| stored.degraded), Ok(false));
    let parts = slots[..6].iter().flat_map(|slot| slot.parts_of(id).iter().collect::<Vec<_>>());
    let parts: std::collections::BTreeSet<usize> = parts.map(|part| part.get()).collect();
    assert_eq!(parts.len(), 6, "all are where the newer map looks for them");
    assert_eq!(live.get(id, 0..id.len()).await, Ok(noise(id.len(), 1)));
}

/// What an outdated map's slots say of a blob that was put by the newer one.
#[tokio::test(start_paused = true)]
async fn what_an_outdated_map_does_not_find_is_looked_for_by_the_newer_one() {
    let (first, old) = proxy_over(8);
    let live = LiveProxy::new(first);
    let id = blob(1, 200_000, "ec(4,2)");
    let new: Vec<_> = (0..8).map(|_| MemorySlot::new()).collect();
    another_over(&new).put(id, noise(id.len(), 1)).await.unwrap();
    // One refuses it; the others cannot have had the blob, whatever that one has.
    refuse(&old[..1]);
    let feeding = {
        let live = live.clone();
        tokio::spawn(async move {
            live.outdated().await;
            live.replace(another_over(&new)).await;
        })
    };
    assert_eq!(live.get(id, 0..id.len()).await, Ok(noise(id.len(), 1)));
    feeding.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_disks_that_have_left_had_is_not_absent_while_another_is_silent() {
    let (first, slots) = proxy_over(8);
    let id = blob(1, 200_000, "ec(4,2)");
    first.put(id, noise(id.len(), 1)).await.unwrap();
    let (mut holders, mut others) = (Vec::new(), Vec::new());
    for (number, slot) in slots.iter().enumerate() {
        let holds = !slot.parts_of(id).is_empty();
        if holds { holders.push(number) } else { others.push(number) }
    }
    let stay = holders[2..].iter().chain(&others);
    let configs = stay.map(|number| config(*number, slots[*number].clone())).collect();
    let proxy = Proxy::new(GroupId(0), configs, ProxySettings::default());
    assert_eq!(proxy.get(id, 0..id.len()).await, Ok(noise(id.len(), 1)));
    slots[holders[2]].set(Mood::Dead);
    let read = proxy.get(id, 0..id.len()).await;
    assert!(matches!(read, Err(BlobError::Unavailable { .. })), "{read:?}");
    slots[holders[2]].set(Mood::Good);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(proxy.get(id, 0..id.len()).await, Ok(noise(id.len(), 1)));
}

/// One slot is full for a moment, and all that might take its part know of the newer map already.
#[tokio::test(start_paused = true)]
async fn what_an_outdated_map_has_no_room_for_is_put_by_the_newer_one() {
    let (first, slots) = proxy_over(8);
    let live = LiveProxy::new(first);
    let id = blob(1, 200_000, "ec(4,2)");
    refuse(&slots[..6]);
    slots[6].set(Mood::Full);
    let feeding = {
        let (live, slots) = (live.clone(), slots.clone());
        tokio::spawn(async move {
            live.outdated().await;
            slots.iter().for_each(|slot| slot.set(Mood::Good));
            live.replace(another_over(&slots)).await;
        })
    };
    let put = live.put(id, noise(id.len(), 1)).await;
    feeding.await.unwrap();
    assert_eq!(put.map(|stored| stored.degraded), Ok(false));
}
