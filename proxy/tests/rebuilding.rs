//! Slots that came to a group later: what they do not hold proves nothing, until they were declared rebuilt.

#![allow(clippy::unwrap_used)] // it is a test throughout
#![allow(dead_code)] // each test binary uses its own share of what supports them

mod support;

use std::sync::Arc;

use proto::id::{DiskId, Epoch, OwnerId, VolumeId};
use proto::part_store::{PartStore, Standing};
use proxy::{BlobError, BlobStore, Founded, NotGivenUp, Proxy};

use support::{MemorySlot, another_over, blob, noise, proxy_over};

const VOLUME: VolumeId = VolumeId(1);

async fn get(proxy: &Proxy, sequence: u64) -> Result<(), BlobError> {
    let id = blob(sequence, 1000, "copies(3)");
    proxy.get(id, 0..1000).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn what_rebuilding_slots_do_not_hold_is_not_absent() {
    let (proxy, slots) = proxy_over(3);
    let (stored, never) = (1, 2);
    proxy.put(blob(stored, 1000, "copies(3)"), noise(1000, 1)).await.unwrap();
    let absent = BlobError::NotFound(blob(never, 1000, "copies(3)"));
    assert_eq!(get(&proxy, never).await, Err(absent.clone()));
    slots[0].wipe();
    assert_eq!(get(&proxy, stored).await, Ok(()));
    assert_eq!(get(&proxy, never).await, Err(absent.clone()), "one of three cannot hide it");
    slots[1].wipe();
    assert_eq!(get(&proxy, stored).await, Ok(()));
    let said = get(&proxy, never).await.unwrap_err();
    assert!(matches!(said, BlobError::Unavailable { .. }), "{said}");
    assert!(said.to_string().contains("slot 1 (memory1): the slot is being rebuilt"), "{said}");
    slots[2].wipe();
    let said = get(&proxy, stored).await.unwrap_err();
    assert!(matches!(said, BlobError::Unavailable { .. }), "it was acknowledged: {said}");
    for slot in &slots {
        slot.rebuilt(VOLUME, None).await.unwrap();
    }
    assert_eq!(get(&proxy, never).await, Err(absent));
}

#[tokio::test(start_paused = true)]
async fn a_restore_read_fills_the_slots_that_are_rebuilt() {
    let (proxy, slots) = proxy_over(6);
    let id = blob(1, 100_000, "ec(4,2)");
    let data = noise(100_000, 1);
    proxy.put_apart(id, data.clone()).await.unwrap();
    let place = |slot: &Arc<MemorySlot>| slot.parts_of(id);
    let before: Vec<_> = slots.iter().map(place).collect();
    slots[2].wipe();
    slots[5].wipe();
    assert_eq!(proxy.restore_read(id).await, Ok(data.clone()));
    assert_eq!(slots.iter().map(place).collect::<Vec<_>>(), before);
    // Any two may go now.
    slots[0].wipe();
    slots[1].wipe();
    assert_eq!(proxy.get(id, 0..100_000).await, Ok(data));
    slots[3].wipe();
    let said = proxy.restore_read(id).await.unwrap_err();
    assert!(matches!(said, BlobError::Unavailable { .. }), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_promise_that_a_slot_may_have_lost_is_not_taken_for_none() {
    let (proxy, slots) = proxy_over(5);
    let owner = OwnerId::random();
    slots[0].set(support::Mood::Dead);
    slots[1].set(support::Mood::Dead);
    proxy.fence(VOLUME, Epoch(4), owner, 2).await.unwrap();
    // Those that did not hear of it are all that is left with a memory.
    slots[0].set(support::Mood::Good);
    slots[1].set(support::Mood::Good);
    let other = another_over(&slots);
    slots[2].wipe();
    slots[3].wipe();
    let promised = other.promised(VOLUME, 2).await.unwrap();
    assert_eq!(promised.map(|promise| promise.epoch), Some(Epoch(4)));
    slots[4].wipe();
    let said = other.promised(VOLUME, 2).await.unwrap_err();
    assert!(matches!(said, BlobError::TooFewSlots { .. }), "{said}");
    assert!(said.to_string().contains("is being rebuilt"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn listings_say_that_slots_which_are_rebuilt_may_have_had_more() {
    let (proxy, slots) = proxy_over(4);
    let id = blob(1, 1000, "copies(3)");
    proxy.put(id, noise(1000, 1)).await.unwrap();
    let list = async || proxy.list(VOLUME, id.session(), None).await;
    assert_eq!(list().await.map(|page| (page.blobs, page.whole)), Ok((vec![id], true)));
    slots[0].wipe();
    assert_eq!(list().await.map(|page| (page.blobs, page.whole)), Ok((vec![id], false)));
    slots[0].rebuilt(VOLUME, None).await.unwrap();
    assert_eq!(list().await.map(|page| (page.blobs, page.whole)), Ok((vec![id], true)));
    for slot in &slots {
        slot.wipe();
    }
    let said = list().await.map(|page| page.blobs).unwrap_err();
    assert!(said.to_string().contains("is being rebuilt"), "{said}");
    let volumes = proxy.volumes().await;
    assert!(!volumes.whole && volumes.missed.is_some());
    for slot in &slots {
        slot.serve().await.unwrap();
    }
    assert_eq!(list().await.map(|page| (page.blobs, page.whole)), Ok((vec![], true)));
}

#[tokio::test(start_paused = true)]
async fn a_group_is_founded_when_none_of_its_slots_holds_anything() {
    let (proxy, slots) = proxy_over(4);
    slots.iter().for_each(|slot| slot.wipe());
    proxy.roll_call(std::time::Duration::from_secs(5)).await;
    let volumes = proxy.volumes().await;
    assert!(volumes.whole && volumes.missed.is_none(), "it is new, and has none: {volumes:?}");
    slots[3].set(support::Mood::Dead);
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(proxy.found().await, Ok(Founded::Unheard(1)));
    assert!(proxy.volumes().await.missed.is_some());
    slots[3].set(support::Mood::Good);
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    // An attempt that was interrupted is gone on with.
    slots[0].serve().await.unwrap();
    assert_eq!(proxy.found().await, Ok(Founded::Now));
    let standings = proxy.standings().await;
    let serves = |told: &Option<Option<Standing>>| told.flatten().is_some_and(|s| !s.rebuilding);
    assert!(standings.iter().all(serves), "{standings:?}");
    // Now one of them has something.
    proxy.put(blob(1, 1000, "copies(3)"), noise(1000, 1)).await.unwrap();
    let empty = slots.iter().position(|slot| slot.parts_of(blob(1, 1000, "copies(3)")).is_empty());
    slots[empty.unwrap()].wipe();
    assert_eq!(proxy.found().await, Ok(Founded::Before));
    let standing = slots[empty.unwrap()].standing().await.unwrap();
    assert!(standing.is_none_or(|standing| standing.rebuilding), "{standing:?}");
}

#[tokio::test(start_paused = true)]
async fn only_what_waits_for_emptied_slots_is_to_be_given_up() {
    let (proxy, slots) = proxy_over(8);
    for sequence in 1..=4 {
        proxy.put_apart(blob(sequence, 1000, "copies(3)"), noise(1000, sequence)).await.unwrap();
    }
    assert!(!proxy.waits_for_emptied().await);
    // Too many are away, and what is left reads badly: nothing of that is on disks that were emptied.
    for slot in &slots[..3] {
        slot.set(support::Mood::Dead);
    }
    slots[3..].iter().for_each(|slot| slot.set(support::Mood::Rotten));
    assert!(proxy.volumes().await.missed.is_some());
    assert!(!proxy.waits_for_emptied().await);
    slots.iter().for_each(|slot| slot.set(support::Mood::Good));
    tokio::time::sleep(std::time::Duration::from_secs(15)).await;
    slots[0].wipe();
    assert!(!proxy.waits_for_emptied().await, "one can be done without");
    slots[1].wipe();
    assert!(proxy.waits_for_emptied().await, "a volume of two copies may have been there alone");
    slots[2].wipe();
    assert!(proxy.waits_for_emptied().await);
    let said = proxy.list_volume(VOLUME, None, Some(2)).await.unwrap_err().to_string();
    assert!(said.contains("ashlar cluster accept-loss"), "{said}");
    // One of the others is away: that is to be brought back first.
    slots[7].set(support::Mood::Dead);
    tokio::time::sleep(std::time::Duration::from_secs(15)).await;
    assert!(proxy.waits_for_emptied().await);
    let said = proxy.list_volume(VOLUME, None, Some(2)).await.unwrap_err().to_string();
    assert!(!said.contains("accept-loss"), "{said}");
    for slot in &slots[..3] {
        slot.serve().await.unwrap();
    }
    assert!(!proxy.waits_for_emptied().await);
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_half_way_can_be_given_up_again() {
    let (proxy, slots) = proxy_over(5);
    let disk = |nth: u8| DiskId::from_slice(&[nth + 1; 16]).unwrap();
    slots.iter().for_each(|slot| slot.wipe());
    proxy.roll_call(std::time::Duration::from_secs(5)).await;
    assert_eq!(proxy.found().await, Ok(Founded::Now));
    proxy.put_apart(blob(1, 1000, "copies(3)"), noise(1000, 1)).await.unwrap();
    slots[..3].iter().for_each(|slot| slot.wipe());
    let emptied = [disk(0), disk(1), disk(2)];
    slots[1].set(support::Mood::RefusesToServe);
    let said = proxy.give_up(&emptied).await.unwrap_err();
    assert!(matches!(said, NotGivenUp::Failed(failed, _) if failed == disk(1)), "{said}");
    slots[1].set(support::Mood::Good);
    proxy.give_up(&emptied).await.unwrap();
    let standings = proxy.standings().await;
    let serves = |told: &Option<Option<Standing>>| told.flatten().is_some_and(|s| !s.rebuilding);
    assert!(standings.iter().all(serves), "{standings:?}");
    // Nothing is left to be given up, whoever is away meanwhile; and of one that is away nobody knows.
    slots[4].set(support::Mood::Dead);
    tokio::time::sleep(std::time::Duration::from_secs(15)).await;
    let said = proxy.give_up(&emptied).await.unwrap_err();
    assert!(matches!(said, NotGivenUp::Serves(serves) if serves == disk(0)), "{said}");
    let said = proxy.give_up(&[disk(0), disk(4)]).await.unwrap_err();
    assert!(matches!(said, NotGivenUp::Silent(1)), "{said}");
    let said = proxy.give_up(&[disk(9)]).await.unwrap_err();
    assert!(matches!(said, NotGivenUp::Stranger(stranger) if stranger == disk(9)), "{said}");
}
