//! The whole proxy over slots in memory that fail, hang, rot and fill up. Time is paused: waits are
//! measured, not waited for.

#![allow(clippy::unwrap_used)] // clippy takes helpers of tests for something else
#![allow(dead_code)] // each test binary uses its own share of what supports them

mod support;

use std::time::Duration;

use proto::id::{PartSet, SessionId, VolumeId};
use proto::limits::{MAX_LIST, footprint};
use proxy::{BlobError, BlobStore, Stored};
use support::{MemorySlot, Mood, blob, noise, proxy_over};
use tokio::time::Instant;

const SCHEMES: [&str; 4] = ["ec(4,2)", "copies(3)", "ec(2,1)", "copies(1)"];
const LENGTHS: [u32; 6] = [1, 63, 4096, 100_000, 1 << 20, (4 << 20) - 7];

#[tokio::test(start_paused = true)]
async fn what_was_put_is_got_whole_and_by_range() {
    let (proxy, _slots) = proxy_over(8);
    let mut sequence = 0;
    for scheme in SCHEMES {
        for len in LENGTHS {
            sequence += 1;
            let (id, data) = (blob(sequence, len, scheme), noise(len, sequence));
            assert_eq!(proxy.put(id, data.clone()).await, Ok(Stored { degraded: false }));
            assert_eq!(proxy.put(id, data.clone()).await, Ok(Stored { degraded: false }));
            for (start, end) in [(0, len), (len / 3, len / 3 + 1), (len / 4, len - len / 5)] {
                let got = proxy.get(id, start..end).await.unwrap();
                assert!(got == data.slice(start as usize..end as usize), "{id} {start}..{end}");
            }
        }
    }
}

async fn store(proxy: &proxy::Proxy, sequence: u64, len: u32, scheme: &str) -> proto::id::BlobId {
    let id = blob(sequence, len, scheme);
    assert_eq!(proxy.put(id, noise(len, sequence)).await, Ok(Stored { degraded: false }));
    id
}

async fn assert_whole(proxy: &proxy::Proxy, id: proto::id::BlobId) {
    let got = proxy.get(id, 0..id.len()).await;
    assert!(got == Ok(noise(id.len(), id.sequence())), "{id}: {:?}", got.err());
    let middle = id.len() / 2..id.len() / 2 + 1;
    let got = proxy.get(id, middle.clone()).await.unwrap();
    assert_eq!(
        got,
        noise(id.len(), id.sequence()).slice(middle.start as usize..middle.end as usize)
    );
}

/// Every set of at most `most` of `slots`.
fn sets_of(slots: usize, most: u32) -> impl Iterator<Item = Vec<usize>> {
    let sets = (0u32..1 << slots).filter(move |set| set.count_ones() <= most);
    sets.map(move |set| (0..slots).filter(|slot| set >> slot & 1 == 1).collect())
}

fn in_mood(slots: &[std::sync::Arc<MemorySlot>], chosen: &[usize], mood: Mood) {
    slots.iter().for_each(|slot| slot.set(Mood::Good));
    chosen.iter().for_each(|slot| slots[*slot].set(mood));
}

#[tokio::test(start_paused = true)]
async fn any_m_slots_lost_in_any_way_lose_nothing_and_hang_nothing() {
    for mood in [Mood::Dead, Mood::Hung, Mood::HungDisk, Mood::Rotten, Mood::Empty] {
        for chosen in sets_of(8, 2) {
            let (proxy, slots) = proxy_over(8);
            let ids = [
                store(&proxy, 1, 300_000, "ec(4,2)").await,
                store(&proxy, 2, 5000, "copies(3)").await,
                store(&proxy, 3, 10, "ec(4,2)").await,
            ];
            in_mood(&slots, &chosen, mood);
            for id in ids {
                let start = Instant::now();
                assert_whole(&proxy, id).await;
                let took = start.elapsed();
                assert!(took < Duration::from_millis(200), "{mood:?} {chosen:?} {id}: {took:?}");
            }
            // Writes go on, and can be read with those slots and without them.
            let start = Instant::now();
            let late = store(&proxy, 4, 300_000, "ec(4,2)").await;
            let took = start.elapsed();
            assert!(took < Duration::from_secs(2), "{mood:?} {chosen:?}: put took {took:?}");
            assert_whole(&proxy, late).await;
            in_mood(&slots, &[], Mood::Good);
            assert_whole(&proxy, late).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn with_more_lost_reads_are_unavailable_and_come_back() {
    for mood in [Mood::Dead, Mood::Hung] {
        let (proxy, slots) = proxy_over(6);
        let id = store(&proxy, 1, 300_000, "ec(4,2)").await;
        in_mood(&slots, &[0, 1, 2], mood);
        let start = Instant::now();
        let error = proxy.get(id, 0..id.len()).await.unwrap_err();
        assert!(matches!(&error, BlobError::Unavailable { .. }), "{mood:?}: {error}");
        assert!(
            ["slot 0", "slot 1", "slot 2"].iter().all(|s| error.to_string().contains(s)),
            "{error}"
        );
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        in_mood(&slots, &[], mood);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_whole(&proxy, id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn parts_double_up_only_while_one_more_domain_can_be_lost() {
    // (scheme, slots alive of eight, what follows)
    let cases = [
        ("ec(4,2)", 6, Some(false)),
        ("ec(4,2)", 5, Some(true)),
        ("ec(4,2)", 3, Some(true)),
        ("ec(4,2)", 2, None),
        ("copies(3)", 3, Some(false)),
        ("copies(3)", 2, Some(true)),
        ("copies(3)", 1, None),
        ("ec(2,1)", 3, Some(false)),
        ("ec(2,1)", 2, None),
        ("copies(1)", 1, Some(false)),
        ("copies(1)", 0, None),
    ];
    for (n, (scheme, alive, expected)) in cases.into_iter().enumerate() {
        for mood in [Mood::Dead, Mood::Hung] {
            let (proxy, slots) = proxy_over(8);
            in_mood(&slots, &(alive..8).collect::<Vec<_>>(), mood);
            let id = blob(n as u64, 100_000, scheme);
            let start = Instant::now();
            let result = proxy.put(id, noise(id.len(), id.sequence())).await;
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
            match expected {
                Some(degraded) => assert_eq!(result, Ok(Stored { degraded }), "{scheme} {alive}"),
                None => assert!(
                    matches!(&result, Err(BlobError::Unavailable { .. })),
                    "{scheme} {alive} {mood:?}: {result:?}"
                ),
            }
            if expected == Some(true) {
                for lost in 0..alive {
                    in_mood(&slots, &(alive..8).chain([lost]).collect::<Vec<_>>(), Mood::Dead);
                    assert_whole(&proxy, id).await;
                    in_mood(&slots, &(alive..8).collect::<Vec<_>>(), Mood::Dead);
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn absence_is_said_only_when_proven() {
    let (proxy, slots) = proxy_over(8);
    let never = blob(99, 300_000, "ec(4,2)");
    for chosen in sets_of(8, 8) {
        in_mood(&slots, &chosen, Mood::Dead);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let expected_absent = chosen.len() <= 2;
        let answer = proxy.get(never, 0..10).await.unwrap_err();
        assert_eq!(
            matches!(answer, BlobError::NotFound(_)),
            expected_absent,
            "{chosen:?}: {answer}"
        );
    }
    // What was stored on three slots while five were away is not absent when these three are.
    let (proxy, slots) = proxy_over(8);
    in_mood(&slots, &[3, 4, 5, 6, 7], Mood::Dead);
    let id = blob(1, 300_000, "ec(4,2)");
    assert_eq!(proxy.put(id, noise(300_000, 1)).await, Ok(Stored { degraded: true }));
    in_mood(&slots, &[0, 1, 2], Mood::Dead);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answer = proxy.get(id, 0..10).await;
    assert!(matches!(answer, Err(BlobError::Unavailable { .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hung_slot_is_waited_for_once_and_used_again_when_it_is_back() {
    let (proxy, slots) = proxy_over(8);
    tokio::time::sleep(Duration::from_millis(10)).await;
    in_mood(&slots, &[2], Mood::Hung);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let start = Instant::now();
    for sequence in 0..50 {
        store(&proxy, sequence, 10_000, "ec(4,2)").await;
    }
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
    assert_eq!(proxy.slots().await[2].state, "no sign of life for 2 s");
    slots[2].set(Mood::Good);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(proxy.slots().await[2].state, "up");
    for sequence in 50..100 {
        store(&proxy, sequence, 10_000, "ec(4,2)").await;
    }
    assert!(slots[2].parts_of(blob(0, 10_000, "ec(4,2)")).is_empty());
    assert!((50..100).any(|n| !slots[2].parts_of(blob(n, 10_000, "ec(4,2)")).is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_behind_a_lively_daemon_costs_little() {
    let (proxy, slots) = proxy_over(8);
    in_mood(&slots, &[2], Mood::HungDisk);
    let start = Instant::now();
    for sequence in 0..1000 {
        store(&proxy, sequence, 1000, "ec(4,2)").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let waited = start.elapsed() - Duration::from_secs(10);
    assert!(waited < Duration::from_secs(5), "{waited:?} in ten seconds of puts");
}

#[tokio::test(start_paused = true)]
async fn a_slow_slot_is_hedged() {
    let (proxy, slots) = proxy_over(8);
    let id = store(&proxy, 1, 4 << 20, "ec(4,2)").await;
    in_mood(&slots, &[0, 1], Mood::Slow(Duration::from_millis(900)));
    let start = Instant::now();
    assert_whole(&proxy, id).await;
    assert!(start.elapsed() < Duration::from_millis(200), "get: {:?}", start.elapsed());
    let start = Instant::now();
    store(&proxy, 2, 1 << 20, "ec(4,2)").await;
    assert!(start.elapsed() < Duration::from_millis(800), "put: {:?}", start.elapsed());
    // When all are slow, there is nothing to hedge with: everything still succeeds.
    in_mood(&slots, &[0, 1, 2, 3, 4, 5, 6, 7], Mood::Slow(Duration::from_millis(900)));
    assert_whole(&proxy, id).await;
    store(&proxy, 3, 1 << 20, "ec(4,2)").await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_is_slow_loses_no_slot_and_fails_no_request() {
    for takes in [1400, 2600, 3300].map(Duration::from_millis) {
        let (proxy, slots) = proxy_over(8);
        let id = store(&proxy, 1, 300_000, "ec(4,2)").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        in_mood(&slots, &[0, 1, 2, 3, 4, 5, 6, 7], Mood::Slow(takes));
        for round in 0..8 {
            let writes = (0..6).map(|n| {
                let proxy = proxy.clone();
                let scheme = if n % 2 == 0 { "ec(4,2)" } else { "copies(3)" };
                tokio::spawn(async move {
                    store(&proxy, 100 * (round + 1) + n, 20_000, scheme).await;
                })
            });
            let reads = (0..2).map(|_| {
                let proxy = proxy.clone();
                tokio::spawn(async move { assert!(proxy.get(id, 0..id.len()).await.is_ok()) })
            });
            let all: Vec<_> = writes.chain(reads).collect();
            let start = Instant::now();
            for one in all {
                one.await.unwrap();
            }
            assert!(start.elapsed() < Duration::from_secs(5), "{takes:?}: {:?}", start.elapsed());
            for slot in proxy.slots().await {
                let fine = slot.state == "up" || slot.state.starts_with("slow");
                assert!(fine, "{takes:?}, round {round}: slot {}: {}", slot.index, slot.state);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_slow_slots_among_eight_are_done_without_and_taken_back() {
    let (proxy, slots) = proxy_over(8);
    tokio::time::sleep(Duration::from_millis(10)).await;
    in_mood(&slots, &[2, 5], Mood::Slow(Duration::from_secs(3)));
    for sequence in 0..20 {
        store(&proxy, sequence, 20_000, "ec(4,2)").await;
    }
    let start = Instant::now();
    for sequence in 20..40 {
        store(&proxy, sequence, 20_000, "ec(4,2)").await;
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let states = proxy.slots().await;
    assert!([2, 5].iter().all(|slot| states[*slot].state != "up"), "{states:?}");
    in_mood(&slots, &[], Mood::Good);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(proxy.slots().await.iter().all(|slot| slot.state == "up"));
}

#[tokio::test(start_paused = true)]
async fn full_slots_are_passed_over_until_too_few_are_left() {
    for full in 0..=8 {
        let (proxy, slots) = proxy_over(8);
        in_mood(&slots, &(0..full).collect::<Vec<_>>(), Mood::Full);
        let id = blob(1, 100_000, "ec(4,2)");
        let result = proxy.put(id, noise(100_000, 1)).await;
        let expected =
            if full <= 2 { Ok(Stored { degraded: false }) } else { Err(BlobError::Full) };
        assert_eq!(result, expected, "{full} full slots");
    }
}

#[tokio::test(start_paused = true)]
async fn parts_are_found_wherever_they_are() {
    // Stored while two slots were away, read when other two are: the parts lie on handoff slots.
    for away in sets_of(8, 2) {
        let (proxy, slots) = proxy_over(8);
        in_mood(&slots, &away, Mood::Dead);
        let id = store(&proxy, 1, 500_000, "ec(4,2)").await;
        let small = store(&proxy, 2, 500, "copies(3)").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        for other in sets_of(8, 2).filter(|other| other.iter().all(|slot| !away.contains(slot))) {
            in_mood(&slots, &other, Mood::Dead);
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_whole(&proxy, id).await;
            assert_whole(&proxy, small).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn deletes_are_confirmed_by_all_or_asked_again() {
    let (proxy, slots) = proxy_over(8);
    let mut ids = Vec::new();
    for sequence in 0..2000 {
        ids.push(store(&proxy, sequence, 10, "copies(3)").await);
    }
    assert_eq!(proxy.list(VolumeId(1), SessionId(7), None).await.unwrap().blobs, ids);
    assert_eq!(proxy.list(VolumeId(2), SessionId(7), None).await.unwrap().blobs, []);
    in_mood(&slots, &[4], Mood::Dead);
    assert_eq!(proxy.delete(&ids[..2]).await, &ids[..2]);
    assert_eq!(proxy.get(ids[0], 0..1).await, Err(BlobError::NotFound(ids[0])));
    assert_eq!(
        proxy.put(ids[0], noise(10, 0)).await,
        Err(BlobError::Invalid(format!("blob {} was deleted", ids[0])))
    );
    slots[4].set(Mood::Good);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(proxy.delete(&ids).await, []);
    assert_eq!(proxy.list(VolumeId(1), SessionId(7), None).await.unwrap().blobs, []);
    assert_eq!(proxy.get(ids[0], 0..1).await, Err(BlobError::NotFound(ids[0])));
    assert!(slots.iter().all(|slot| slot.forgot(ids[0])));
}

/// Slots whose pages end at different blobs, and some of them with pages that go on.
#[tokio::test(start_paused = true)]
async fn a_long_listing_comes_in_pages_that_hold_every_blob_once() {
    let (proxy, slots) = proxy_over(8);
    let mut ids = Vec::new();
    for sequence in 0..20_000 {
        ids.push(store(&proxy, sequence, 10, "copies(3)").await);
    }
    let (mut listed, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        if pages == 1 {
            in_mood(&slots, &[2], Mood::Dead);
        }
        let page = proxy.list(VolumeId(1), SessionId(7), after).await.unwrap();
        assert!(page.blobs.len() <= 8 * MAX_LIST as usize);
        assert_eq!(page.whole, pages == 0, "a slot that goes away is missed in its pages");
        let Some(last) = page.blobs.last() else { break };
        after = Some(*last);
        listed.extend(page.blobs);
        pages += 1;
    }
    assert_eq!(listed, ids);
    assert!(pages > 1, "all came at once");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_could_miss_a_blob_is_refused() {
    let (proxy, slots) = proxy_over(8);
    let ids = [store(&proxy, 1, 10, "copies(3)").await, store(&proxy, 2, 90, "ec(4,2)").await];
    for chosen in sets_of(8, 3) {
        in_mood(&slots, &chosen, Mood::Dead);
        let listed = proxy.list(VolumeId(1), SessionId(7), None).await;
        match chosen.len() {
            away @ (0 | 1) => {
                let listed = listed.unwrap();
                assert_eq!(listed.blobs, ids, "{chosen:?}");
                assert_eq!(listed.whole, away == 0, "{chosen:?}");
            }
            _ => assert!(matches!(listed, Err(BlobError::TooFewSlots { .. })), "{chosen:?}"),
        }
        in_mood(&slots, &[], Mood::Good);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn other_bytes_under_one_id_are_a_conflict() {
    let (proxy, _slots) = proxy_over(8);
    let id = store(&proxy, 1, 1000, "ec(4,2)").await;
    assert_eq!(proxy.put(id, noise(1000, 2)).await, Err(BlobError::Conflict(id)));
    assert!(matches!(proxy.put(id, noise(999, 1)).await, Err(BlobError::Invalid(_))));
    for (start, end) in [(0, 1001), (5, 5), (7, 6)] {
        assert!(matches!(proxy.get(id, start..end).await, Err(BlobError::Invalid(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_available_can_be_written() {
    for (scheme, dead) in [("ec(4,2)", 0), ("copies(3)", 0), ("ec(4,2)", 2)] {
        let (proxy, slots) = proxy_over(8);
        in_mood(&slots, &(0..dead).collect::<Vec<_>>(), Mood::Dead);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let scheme_of = scheme.parse().unwrap();
        let space = proxy.space(VolumeId(1), scheme_of).await;
        let raw = (8 - dead as u64) * (64 << 20);
        assert!(
            space.available * 6 / 4 <= raw && space.available > raw / 3 - (16 << 20),
            "{space:?}"
        );
        slots.iter().for_each(|slot| slot.limit());
        let len = 1 << 20;
        // What a blob takes on the disks, in bytes of user data.
        let id = blob(0, len, scheme);
        let taken = footprint(id.part_len()) * scheme_of.data_parts() as u64;
        for sequence in 0..(space.available - space.uneven) / taken {
            let id = blob(sequence, len, scheme);
            let result = proxy.put(id, noise(64, 1).repeat(len as usize / 64).into()).await;
            assert_eq!(
                result,
                Ok(Stored { degraded: false }),
                "{scheme}: blob {sequence} of {space:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_healthy_get_of_one_part_is_one_request() {
    let (proxy, slots) = proxy_over(8);
    let id = store(&proxy, 1, 4 << 20, "ec(4,2)").await;
    let small = store(&proxy, 2, 4096, "copies(3)").await;
    let requests = |slots: &[std::sync::Arc<MemorySlot>]| -> u32 {
        slots.iter().map(|slot| slot.requests.load(std::sync::atomic::Ordering::Relaxed)).sum()
    };
    let before = requests(&slots);
    proxy.get(id, 70_000..90_000).await.unwrap();
    proxy.get(small, 0..4096).await.unwrap();
    assert_eq!(requests(&slots) - before, 2);
    assert!(
        proxy
            .stat(id)
            .await
            .iter()
            .all(|slot| { slot.held.as_ref().unwrap().parts.len() == usize::from(slot.main) })
    );
    assert_eq!(slots.iter().map(|s| s.parts_of(id)).fold(PartSet::EMPTY, PartSet::union).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn slots_that_are_back_are_used_at_once_by_what_needs_them() {
    for mood in [Mood::Dead, Mood::Hung] {
        for request in ["get", "put", "list"] {
            let (proxy, slots) = proxy_over(6);
            let id = store(&proxy, 1, 300_000, "ec(4,2)").await;
            in_mood(&slots, &[0, 1, 2, 3, 4], mood);
            // Long enough for the watchers' pauses to have grown.
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert!((0..5).all(|slot| slots[slot].parts_of(id).len() == 1));
            assert!(proxy.slots().await[..5].iter().all(|slot| slot.state != "up"));
            in_mood(&slots, &[], mood);
            let start = Instant::now();
            match request {
                "get" => assert_whole(&proxy, id).await,
                "put" => drop(store(&proxy, 2, 300_000, "ec(4,2)").await),
                _ => assert_eq!(
                    proxy.list(VolumeId(1), SessionId(7), None).await.unwrap().blobs,
                    [id]
                ),
            }
            let took = start.elapsed();
            assert!(took < Duration::from_millis(20), "{request} after {mood:?}: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slots_that_are_not_back_cost_one_wait_at_most() {
    for (mood, most) in [(Mood::Dead, 20), (Mood::Hung, 2100)] {
        let (proxy, slots) = proxy_over(6);
        let id = store(&proxy, 1, 300_000, "ec(4,2)").await;
        in_mood(&slots, &[0, 1, 2, 3, 4], mood);
        tokio::time::sleep(Duration::from_secs(10)).await;
        for request in ["get", "put", "list"] {
            let start = Instant::now();
            let error = match request {
                "get" => proxy.get(id, 0..id.len()).await.unwrap_err(),
                "put" => proxy.put(blob(2, 9, "ec(4,2)"), noise(9, 2)).await.unwrap_err(),
                _ => proxy.list(VolumeId(1), SessionId(7), None).await.unwrap_err(),
            };
            let expected = match request {
                "list" => matches!(error, BlobError::TooFewSlots { .. }),
                _ => matches!(error, BlobError::Unavailable { .. }),
            };
            assert!(expected, "{request}: {error}");
            let took = start.elapsed();
            assert!(took <= Duration::from_millis(most), "{request}, {mood:?}: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn space_follows_puts_at_once_and_deletes_soon() {
    let (proxy, _slots) = proxy_over(6);
    let scheme = "ec(4,2)".parse().unwrap();
    let empty = proxy.space(VolumeId(1), scheme).await.available;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    let mut ids = Vec::new();
    for sequence in 0..8 {
        ids.push(store(&proxy, sequence, 4 << 20, "ec(4,2)").await);
    }
    let filled = proxy.space(VolumeId(1), scheme).await.available;
    assert!(start.elapsed() < Duration::from_millis(50), "no poll came between");
    assert!(filled + (31 << 20) < empty + (2 << 20), "{filled} left of {empty}");
    // The slot's own answer takes the place of what was counted: nothing is counted twice.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(proxy.space(VolumeId(1), scheme).await.available, filled);

    assert_eq!(proxy.delete(&ids).await, []);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(proxy.space(VolumeId(1), scheme).await.available, empty);
}

/// Chance alone would fill three of the slots long before the others, and what is left on those be of no use.
#[tokio::test(start_paused = true)]
async fn what_is_said_to_be_available_is_stored_to_the_last_blobs() {
    for session in 0..4 {
        let (proxy, slots) = proxy_over(8);
        slots.iter().for_each(|slot| slot.limit());
        tokio::time::sleep(Duration::from_secs(3)).await;
        let said = proxy.space(VolumeId(1), "ec(4,2)".parse().unwrap()).await.available >> 20;
        // A part of 256 KiB has a header of 4 KiB.
        let said = said * 64 / 65;
        let (mut stored, len) = (0, 1 << 20);
        while proxy.put(blob(session * 1000 + stored, len, "ec(4,2)"), noise(len, 1)).await.is_ok()
        {
            stored += 1;
        }
        assert!(stored + 6 > said, "{stored} blobs of 1 MiB were stored, and {said} MiB said");
    }
}
