//! Taking a volume over: fences, what they stop, and what is found of the one before.

#![allow(clippy::unwrap_used)] // clippy takes helpers of tests for something else
#![allow(dead_code)] // each test binary uses its own share of what supports them

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::id::{BlobId, Epoch, GroupId, OwnerId, SessionId, VolumeId};
use proto::part_store::{Beat, Issuer};
use proxy::{BlobError, BlobStore, Listing, Proxy, ProxySettings, SlotConfig, Stored};
use support::{MemorySlot, Mood, another_over, blob, config, noise, proxy_over};

/// Of blobs that `support` makes.
const VOLUME: VolumeId = VolumeId(1);
const M: usize = 2;
const STORED: Result<Stored, BlobError> = Ok(Stored { degraded: false });

/// A journal's blob.
fn entry(sequence: u64) -> BlobId {
    blob(sequence, 5000, "copies(3)")
}

async fn append(proxy: &Proxy, sequence: u64) -> Result<Stored, BlobError> {
    proxy.put_apart(entry(sequence), noise(5000, sequence)).await
}

async fn take_over(proxy: &Proxy, epoch: u64) -> Result<OwnerId, BlobError> {
    let owner = OwnerId::random();
    proxy.fence(VOLUME, Epoch(epoch), owner, M).await.map(|()| owner)
}

fn all(slots: &[Arc<MemorySlot>], mood: impl Fn(usize) -> Mood) {
    slots.iter().enumerate().for_each(|(n, slot)| slot.set(mood(n)));
}

/// Some time, in which those that were away are found to be back.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

#[tokio::test(start_paused = true)]
async fn a_fence_needs_all_but_m_domains_and_then_stops_whoever_was_there() {
    for lost in 0u32..1 << 6 {
        for mood in [Mood::Dead, Mood::Hung, Mood::HungDisk] {
            let (old, slots) = proxy_over(6);
            take_over(&old, 1).await.unwrap();
            for sequence in [0, 1] {
                assert_eq!(append(&old, sequence).await, STORED);
            }
            all(&slots, |n| if lost >> n & 1 == 1 { mood } else { Mood::Good });
            let new = another_over(&slots);
            let taken = take_over(&new, 2).await;
            let context = format!("{lost:06b} {mood:?}: {taken:?}");
            if lost.count_ones() as usize > M {
                let Err(BlobError::TooFewSlots { why, .. }) = taken else { panic!("{context}") };
                let named = |n: &usize| why.contains(&format!("slot {n} "));
                assert!((0..6).filter(|n| lost >> n & 1 == 1).all(|n| named(&n)), "{context}");
                continue;
            }
            assert!(taken.is_ok(), "{context}");
            // Those come back that have not heard of it.
            all(&slots, |_| Mood::Good);
            a_while().await;
            for sequence in 2..12 {
                let late = append(&old, sequence).await;
                let fenced = BlobError::Fenced { volume: VOLUME, epoch: Epoch(2) };
                assert_eq!(late, Err(fenced), "{context}");
            }
            assert_eq!(old.delete(&[entry(0)]).await, [entry(0)], "{context}");
            assert_eq!(append(&new, 100).await, STORED, "{context}");
            let kept = new.restore_read(entry(1)).await;
            assert_eq!(kept, Ok(noise(5000, 1)), "{context}");
        }
    }
}

/// A proxy over hosts of three slots each.
fn over_hosts(slots: &[Arc<MemorySlot>]) -> Arc<Proxy> {
    let on_host = |(n, slot): (usize, &Arc<MemorySlot>)| SlotConfig {
        domain: format!("host{}", n / 3),
        ..config(n, slot.clone())
    };
    let configs = slots.iter().enumerate().map(on_host).collect();
    Proxy::new(GroupId(0), configs, ProxySettings::default())
}

/// Which slots have answered decides, not how many: without one host of three two takers meet at a third slot all the
/// same, without as many slots of several hosts they need not.
#[tokio::test(start_paused = true)]
async fn whoever_does_without_a_host_does_not_do_without_as_many_slots_of_several() {
    let mut relied_on = Vec::new();
    for silent in (0u32..1 << 9).filter(|silent| silent.count_ones() == 3) {
        let slots: Vec<_> = (0..9).map(|_| MemorySlot::new()).collect();
        let old = over_hosts(&slots);
        take_over(&old, 1).await.unwrap();
        assert_eq!(append(&old, 1).await, STORED);
        all(&slots, |n| if silent >> n & 1 == 1 { Mood::Dead } else { Mood::Good });
        let new = over_hosts(&slots);
        let promised = new.promised(VOLUME, M).await.is_ok();
        let listed = new.list_volume(VOLUME, None, Some(M)).await.is_ok();
        let taken = take_over(&new, 2).await.is_ok();
        assert_eq!((promised, listed), (taken, taken), "{silent:09b}");
        relied_on.extend(taken.then_some(silent));
    }
    assert_eq!(relied_on, [0b111, 0b111_000, 0b111_000_000]);
}

#[tokio::test(start_paused = true)]
async fn of_two_that_want_the_same_epoch_at_most_one_gets_it_and_goes_on() {
    let mut won = [0; 3];
    for seed in 0..200u64 {
        let (one, slots) = proxy_over(5);
        let other = another_over(&slots);
        let dice = |n: usize| (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (7 * n)) as usize % 6;
        let moody = |first: usize| {
            all(&slots, |n| match dice(first + n) {
                0 => Mood::Dead,
                ms => Mood::Slow(Duration::from_millis(ms as u64)),
            });
        };
        moody(0);
        let delay = Duration::from_millis(seed % 4);
        let late = async {
            tokio::time::sleep(delay).await;
            // What the first has asked is on its way; this one meets other delays.
            moody(4);
            take_over(&other, 1).await
        };
        let (first, second) = tokio::join!(take_over(&one, 1), late);
        assert!(first.is_err() || second.is_err(), "seed {seed}: both have it");
        won[first.is_ok() as usize + 2 * usize::from(second.is_ok())] += 1;
        all(&slots, |_| Mood::Good);
        a_while().await;
        // Whoever lost tries again, above what there is.
        let (loser, winner) = if first.is_ok() { (&other, &one) } else { (&one, &other) };
        if first.is_ok() || second.is_ok() {
            assert_eq!(append(winner, 1).await, STORED, "seed {seed}");
        }
        let promise = loser.promised(VOLUME, M).await.unwrap();
        let epoch = promise.map_or(1, |promise| promise.epoch.0 + 1);
        let owner = take_over(loser, epoch).await.unwrap();
        let promise = Some(Issuer { epoch: Epoch(epoch), owner });
        assert_eq!(winner.promised(VOLUME, M).await, Ok(promise), "seed {seed}");
        assert!(matches!(append(winner, 2).await, Err(BlobError::Fenced { .. })), "seed {seed}");
        assert_eq!(append(loser, 3).await, STORED, "seed {seed}");
    }
    assert!(won.iter().all(|n| *n > 5), "all of it happens: {won:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_acts_for_an_owner_stores_until_that_one_is_fenced() {
    let (leader, slots) = proxy_over(6);
    let owner = take_over(&leader, 1).await.unwrap();
    let helper = another_over(&slots);
    let fenced = |epoch| Err(BlobError::Fenced { volume: VOLUME, epoch: Epoch(epoch) });
    assert_eq!(append(&helper, 1).await, fenced(1), "in nobody's name");
    helper.act_for(VOLUME, Issuer { epoch: Epoch(1), owner });
    assert_eq!(append(&helper, 2).await, STORED);
    assert_eq!(append(&leader, 3).await, STORED, "it has the volume as before");
    take_over(&another_over(&slots), 2).await.unwrap();
    assert_eq!(append(&helper, 4).await, fenced(2));
    assert_eq!(append(&leader, 5).await, fenced(2));
}

#[tokio::test(start_paused = true)]
async fn whoever_hears_all_but_m_domains_hears_of_the_newest_owner() {
    for lost in (0u32..1 << 5).filter(|lost| lost.count_ones() as usize <= M) {
        let (proxy, slots) = proxy_over(5);
        assert_eq!(proxy.promised(VOLUME, M).await, Ok(None));
        take_over(&proxy, 3).await.unwrap();
        all(&slots, |n| if lost >> n & 1 == 1 { Mood::Dead } else { Mood::Good });
        let owner = take_over(&another_over(&slots), 7).await.unwrap();
        for away in 0u32..1 << 5 {
            all(&slots, |n| if away >> n & 1 == 1 { Mood::Hung } else { Mood::Good });
            let asked = another_over(&slots).promised(VOLUME, M).await;
            let context = format!("{lost:05b}, {away:05b}: {asked:?}");
            if away.count_ones() as usize > M {
                assert!(matches!(asked, Err(BlobError::TooFewSlots { .. })), "{context}");
            } else {
                assert_eq!(asked, Ok(Some(Issuer { epoch: Epoch(7), owner })), "{context}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_hears_all_but_m_domains_hears_who_is_alive() {
    let alive = || Beat::Alive("me".to_owned());
    let (proxy, slots) = proxy_over(5);
    proxy.beat(VOLUME, alive()).await.unwrap();
    assert_eq!(proxy.last_beats(VOLUME, M).await, Ok(Vec::new()), "nobody has it yet");
    let owner = take_over(&proxy, 3).await.unwrap();
    for away in 0u32..1 << 5 {
        all(&slots, |_| Mood::Good);
        a_while().await;
        proxy.beat(VOLUME, alive()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        all(&slots, |n| if away >> n & 1 == 1 { Mood::Hung } else { Mood::Good });
        let heard = another_over(&slots).last_beats(VOLUME, M).await;
        let context = format!("{away:05b}: {heard:?}");
        if away.count_ones() as usize > M {
            assert!(matches!(heard, Err(BlobError::TooFewSlots { .. })), "{context}");
            continue;
        }
        let heard = heard.unwrap();
        assert!(!heard.is_empty(), "{context}");
        for last in heard {
            assert_eq!((last.issuer.owner, last.beat), (owner, alive()), "{context}");
            assert!(last.ago >= Duration::from_secs(4), "{context}");
        }
    }
    all(&slots, |_| Mood::Good);
    take_over(&another_over(&slots), 4).await.unwrap();
    a_while().await;
    let fenced = Err(BlobError::Fenced { volume: VOLUME, epoch: Epoch(4) });
    assert_eq!(proxy.beat(VOLUME, alive()).await, fenced);
}

#[tokio::test(start_paused = true)]
async fn what_is_to_lie_apart_is_not_doubled_up() {
    let (proxy, slots) = proxy_over(6);
    all(&slots, |n| if n < 4 { Mood::Dead } else { Mood::Good });
    let doubled = proxy.put(entry(1), noise(5000, 1)).await;
    assert_eq!(doubled, Ok(Stored { degraded: true }));
    assert!(matches!(append(&proxy, 2).await, Err(BlobError::Unavailable { .. })));
    slots[0].set(Mood::Good);
    a_while().await;
    assert_eq!(append(&proxy, 3).await, STORED);
}

#[tokio::test(start_paused = true)]
async fn a_restore_read_leaves_every_part_on_a_domain_of_its_own() {
    // Of three copies on five slots, those that are kept, as many as there are sets of them.
    for (sequence, kept) in (0u64..).zip(0u32..8) {
        let (proxy, slots) = proxy_over(5);
        assert_eq!(append(&proxy, sequence).await, STORED);
        let id = entry(sequence);
        let mut copies = 0;
        for slot in slots.iter().filter(|slot| !slot.parts_of(id).is_empty()) {
            if kept >> copies & 1 == 0 {
                slot.lose(id);
            }
            copies += 1;
        }
        assert_eq!(copies, 3);
        let restored = another_over(&slots).restore_read(id).await;
        if kept == 0 {
            assert_eq!(restored, Err(BlobError::NotFound(id)));
            continue;
        }
        assert_eq!(restored, Ok(noise(5000, sequence)), "{kept:03b}");
        let homes = slots.iter().filter(|slot| !slot.parts_of(id).is_empty()).count();
        assert_eq!(homes, 3, "{kept:03b}");
        // Now any two may go.
        for lost in (0u32..1 << 5).filter(|lost| lost.count_ones() == 2) {
            all(&slots, |n| if lost >> n & 1 == 1 { Mood::Dead } else { Mood::Good });
            let got = another_over(&slots).get(id, 0..5000).await;
            assert_eq!(got, Ok(noise(5000, sequence)), "{kept:03b}, then {lost:05b}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_slot_takes_two_copies_of_what_is_restored() {
    let (proxy, slots) = proxy_over(5);
    assert_eq!(append(&proxy, 1).await, STORED);
    let id = entry(1);
    let has = |slot: usize| !slots[slot].parts_of(id).is_empty();
    let (one, other) = ((0..5).find(|n| has(*n)).unwrap(), (0..5).find(|n| !has(*n)).unwrap());
    all(&slots, |n| if n == one || n == other { Mood::Good } else { Mood::Dead });
    let restored = another_over(&slots).restore_read(id).await;
    assert!(matches!(restored, Err(BlobError::Unavailable { .. })), "{restored:?}");
    assert!(slots[one].parts_of(id).len() + slots[other].parts_of(id).len() <= 2);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_journal_is_found_with_m_domains_silent() {
    for lost in (0u32..1 << 5).filter(|lost| lost.count_ones() as usize <= M) {
        for mood in [Mood::Dead, Mood::Hung] {
            let (old, slots) = proxy_over(5);
            take_over(&old, 1).await.unwrap();
            for sequence in 0..5 {
                assert_eq!(append(&old, sequence).await, STORED);
            }
            all(&slots, |n| if lost >> n & 1 == 1 { mood } else { Mood::Good });
            let new = another_over(&slots);
            take_over(&new, 2).await.unwrap();
            let context = format!("{lost:05b} {mood:?}");
            for sequence in 0..5 {
                let got = new.restore_read(entry(sequence)).await;
                assert_eq!(got, Ok(noise(5000, sequence)), "{context}");
            }
            let end = new.restore_read(entry(5)).await;
            assert_eq!(end, Err(BlobError::NotFound(entry(5))), "{context}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_copy_of_what_is_restored_is_read_once() {
    let (old, slots) = proxy_over(5);
    take_over(&old, 1).await.unwrap();
    for sequence in 0..5 {
        assert_eq!(append(&old, sequence).await, STORED);
    }
    let new = another_over(&slots);
    take_over(&new, 2).await.unwrap();
    let reads = || slots.iter().map(|slot| slot.reads.load(Ordering::Relaxed)).sum::<u32>();
    for sequence in 0..5 {
        let before = reads();
        assert_eq!(new.restore_read(entry(sequence)).await, Ok(noise(5000, sequence)));
        assert_eq!(reads() - before, 3, "copies of entry {sequence}");
    }
}

#[tokio::test(start_paused = true)]
async fn volumes_and_their_blobs_are_listed_over_all_sessions() {
    let (proxy, slots) = proxy_over(6);
    let id = |volume, session, sequence| {
        let (volume, session) = (VolumeId(volume), SessionId(session));
        let scheme = "copies(3)".parse().unwrap();
        BlobId::new(volume, session, sequence, GroupId(0), 100, scheme).unwrap()
    };
    let mut ids = Vec::new();
    for (volume, session) in [(0, 1), (3, u64::MAX), (3, 1), (3, 2), (u32::MAX, 1)] {
        for sequence in 0..700 {
            let id = id(volume, session, sequence);
            assert_eq!(proxy.put(id, noise(100, sequence)).await, STORED);
            ids.push(id);
        }
    }
    ids.sort_unstable();
    let listed = async |volume: VolumeId| {
        let (mut found, mut after, mut whole) = (Vec::new(), None, true);
        loop {
            let page = proxy.list_volume(volume, after, Some(2)).await;
            let Listing { blobs, whole: all } = page.unwrap();
            whole &= all;
            let Some(last) = blobs.last() else { return (found, whole) };
            after = Some(*last);
            found.extend(blobs);
        }
    };
    for away in [&[][..], &[1, 4]] {
        all(&slots, |n| if away.contains(&n) { Mood::Dead } else { Mood::Good });
        let volumes = proxy.volumes().await;
        if away.len() > 1 {
            // Two silent domains could hide two copies, and no blob of which there are three.
            let missed = &volumes.missed;
            assert!(matches!(missed, Some(BlobError::TooFewSlots { .. })), "{missed:?}");
            assert!(volumes.volumes.contains(&VolumeId(3)));
            let expected = ids.iter().filter(|id| id.volume() == VolumeId(3)).count();
            assert_eq!(listed(VolumeId(3)).await.0.len(), expected);
            continue;
        }
        assert!(volumes.whole && volumes.missed.is_none());
        assert_eq!(volumes.volumes, [VolumeId(0), VolumeId(3), VolumeId(u32::MAX)]);
        for volume in [0, 1, 3, u32::MAX].map(VolumeId) {
            let expected: Vec<_> = ids.iter().filter(|id| id.volume() == volume).copied().collect();
            assert_eq!(listed(volume).await, (expected, true), "{volume}");
        }
    }
    all(&slots, |n| if n == 2 { Mood::Dead } else { Mood::Good });
    a_while().await;
    let volumes = proxy.volumes().await;
    assert_eq!((volumes.volumes.len(), volumes.whole), (3, false));
    let (found, whole) = listed(VolumeId(3)).await;
    assert_eq!((found.len(), whole), (2100, false));
}
