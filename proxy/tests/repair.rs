//! Repair over slots in memory that fail, come back, rot and forget. Time is paused: waits are measured, not waited for.

#![allow(clippy::unwrap_used)] // clippy takes helpers of tests for something else
#![allow(dead_code)] // each test binary uses its own share of what supports them

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use parking_lot::Mutex;
use proto::id::{BlobId, Epoch, GroupId, OwnerId, PartSet, VolumeId};
use proto::part_store::{Issuer, PartError, PartStore};
use proxy::repair::{Examiner, Fate, HealSettings, Healer, Health, Ledger, Report, Users, Wanted};
use proxy::{BlobError, BlobStore, LiveProxy, Proxy, ProxySettings, SlotConfig, Stored};
use support::{MemorySlot, Mood, SCRUB_LEFT, another_over, blob, config, noise, proxy_over};
use tokio::task::JoinHandle;

const VOLUME: VolumeId = VolumeId(1);
const GRACE: Duration = Duration::from_secs(60);

/// The blobs that are wanted.
#[derive(Default)]
struct Books(Mutex<Vec<BlobId>>);

#[async_trait]
impl Ledger for Books {
    async fn wanted(&self, after: Option<BlobId>, limit: usize) -> Option<Wanted> {
        let mut all = self.0.lock().clone();
        all.sort_unstable();
        let rest = all.into_iter().filter(|blob| after.is_none_or(|after| *blob > after));
        let blobs: Vec<BlobId> = rest.take(limit).collect();
        let complete = blobs.len() < limit;
        Some(Wanted { blobs, complete })
    }

    async fn wants(&self, blob: BlobId) -> Option<bool> {
        Some(self.0.lock().contains(&blob))
    }
}

/// A group whose volume is led and repaired.
struct Led {
    proxy: Arc<Proxy>,
    slots: Vec<Arc<MemorySlot>>,
    books: Arc<Books>,
    healer: Option<Arc<Healer>>,
}

/// A put that waits for slots.
struct WaitingPut {
    id: BlobId,
    putting: JoinHandle<Result<Stored, BlobError>>,
}

impl Led {
    async fn over(count: usize) -> Self {
        let (proxy, slots) = proxy_over(count);
        proxy.fence(VOLUME, Epoch(1), OwnerId::random(), 2).await.unwrap();
        Self { proxy, slots, books: Arc::default(), healer: None }
    }

    /// Begins to repair.
    fn heal(&mut self) -> Arc<Healer> {
        self.heal_by(HealSettings { grace: GRACE, ..HealSettings::default() })
    }

    fn heal_by(&mut self, settings: HealSettings) -> Arc<Healer> {
        let healer =
            Healer::start(LiveProxy::new(self.proxy.clone()), VOLUME, self.books.clone(), settings);
        self.healer = Some(healer.clone());
        healer
    }

    async fn put(&self, count: u64) -> Vec<BlobId> {
        let mut ids = Vec::new();
        for sequence in 1..=count {
            let scheme = if sequence % 3 == 0 { "copies(3)" } else { "ec(4,2)" };
            let id = blob(sequence, 5000 * sequence as u32, scheme);
            self.proxy.put(id, noise(id.len(), sequence)).await.unwrap();
            self.books.0.lock().push(id);
            ids.push(id);
        }
        ids
    }

    /// Begins a put, of a blob that is wanted already, that waits for five of the slots; others have parts of it by now.
    async fn begin_put(&self, sequence: u64) -> WaitingPut {
        let id = blob(sequence, 9000, "ec(4,2)");
        self.slots.iter().take(5).for_each(|slot| slot.keep_waiting(id, true));
        self.books.0.lock().push(id);
        let proxy = self.proxy.clone();
        let putting = tokio::spawn(async move { proxy.put(id, noise(9000, sequence)).await });
        while self.lying(id).iter().all(Vec::is_empty) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        WaitingPut { id, putting }
    }

    /// Lets the slots take their parts: it is stored.
    async fn end_put(&self, WaitingPut { id, putting }: WaitingPut) {
        self.slots.iter().for_each(|slot| slot.keep_waiting(id, false));
        putting.await.unwrap().unwrap();
    }

    /// Waits until a blob of such a number is wanted.
    async fn until_written(&self, sequence: u64) {
        while !self.books.0.lock().iter().any(|id| id.sequence() == sequence) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the report is as it should be.
    async fn until(&self, what: &str, done: impl Fn(&Report) -> bool) -> Report {
        let healer = self.healer.clone().expect("it is repaired");
        for _ in 0..4000 {
            let report = healer.glance();
            if done(&report) {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("waited for: {what}; it is {:#?}", healer.glance());
    }

    async fn until_healthy(&self) -> Report {
        let at_rest = |r: &Report| r.health == Health::Healthy && r.queue == 0 && !r.counting;
        self.until("healthy", at_rest).await
    }

    /// The slots that hold each part.
    fn lying(&self, id: BlobId) -> Vec<Vec<usize>> {
        let holds = |part| {
            let slots = self.slots.iter().enumerate();
            let holds = move |(n, slot): (usize, &Arc<MemorySlot>)| {
                slot.parts_of(id).iter().any(|held| held.get() == part).then_some(n)
            };
            slots.filter_map(holds).collect()
        };
        (0..id.scheme().parts()).map(holds).collect()
    }

    /// A part that came late to a slot, which it was handed to while its home was away, and that has rotted there.
    fn rotten_copy(&self, id: BlobId) -> usize {
        let lying = self.lying(id);
        let other = (0..8).find(|slot| !lying.iter().any(|at| at.contains(slot))).unwrap();
        self.slots[other].copy_of(&self.slots[lying[2][0]], id);
        self.slots[other].rot(id);
        other
    }

    /// Does every part lie on its main slot, and nowhere else?
    async fn assert_at_home(&self, ids: &[BlobId]) {
        for id in ids {
            let stat = self.proxy.stat(*id).await;
            let main = stat.iter().filter(|slot| slot.main).map(|slot| slot.slot);
            let main: Vec<usize> = main.collect();
            let lying = self.lying(*id);
            assert!(lying.iter().all(|slots| slots.len() == 1), "{id}: {lying:?}");
            let mut all: Vec<usize> = lying.into_iter().flatten().collect();
            all.sort_unstable();
            assert_eq!(all, main, "{id}");
        }
    }

    /// Can every blob be read without any two slots?
    fn assert_safe(&self, ids: &[BlobId], told: &str) {
        for id in ids {
            let lying = self.lying(*id);
            for (a, b) in (0..8).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let left = |slots: &&Vec<usize>| slots.iter().any(|slot| ![a, b].contains(slot));
                let left = lying.iter().filter(left).count();
                assert!(
                    left >= id.scheme().data_parts(),
                    "{id} is lost with slots {a} and {b}, while {told}: {lying:?}"
                );
            }
        }
    }

    async fn assert_readable(&self, ids: &[BlobId]) {
        for id in ids {
            let got = self.proxy.get(*id, 0..id.len()).await;
            assert!(got == Ok(noise(id.len(), id.sequence())), "{id}: {:?}", got.err());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn parts_go_home_when_their_slots_are_back() {
    let mut led = Led::over(8).await;
    led.slots[2].set(Mood::Dead);
    led.slots[5].set(Mood::Dead);
    let ids = led.put(30).await;
    led.heal();
    let report = led.until("counted", |report| report.census_age.is_some()).await;
    assert_eq!((report.health, report.disks_away), (Health::Degraded, 2), "{report}");
    led.slots[2].set(Mood::Good);
    led.slots[5].set(Mood::Good);
    let report = led.until_healthy().await;
    assert_eq!(report.counts.by_spare, [0, 0, 30], "{report}");
    led.assert_at_home(&ids).await;
    led.assert_readable(&ids).await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_away_for_a_moment_is_waited_for_and_for_long_done_without() {
    let mut led = Led::over(8).await;
    let ids = led.put(30).await;
    led.heal();
    led.until_healthy().await;
    led.slots[3].set(Mood::Dead);
    led.until("degraded", |report| report.disks_away == 1 && report.counts.at_risk > 0).await;
    tokio::time::sleep(GRACE / 2).await;
    let report = led.healer.as_ref().unwrap().glance();
    assert_eq!((report.mended_bytes, report.health), (0, Health::Degraded), "{report}");
    assert_eq!(report.waiting.len(), 1, "{report}");
    let report = led
        .until("as safe as before", |r| r.counts.at_risk == 0 && r.queue == 0 && !r.counting)
        .await;
    assert!(report.mended_bytes > 0 && report.health == Health::Degraded, "{report}");
    // Two more may go.
    for lost in [[0, 1], [4, 7], [2, 6]] {
        lost.iter().for_each(|slot| led.slots[*slot].set(Mood::Dead));
        led.assert_readable(&ids).await;
        lost.iter().for_each(|slot| led.slots[*slot].set(Mood::Good));
        tokio::time::sleep(Duration::from_secs(15)).await;
    }
    // It is back after all.
    led.slots[3].set(Mood::Good);
    led.until_healthy().await;
    led.assert_at_home(&ids).await;
}

#[tokio::test(start_paused = true)]
async fn a_read_that_meets_rot_or_a_hole_has_it_mended() {
    let mut led = Led::over(8).await;
    let ids = led.put(6).await;
    led.heal();
    led.until_healthy().await;
    let id = ids[0];
    let home = led.lying(id)[0][0];
    led.slots[home].rot(id);
    led.assert_readable(&ids).await;
    led.until("mended", |report| report.mended_blobs == 1).await;
    assert!(!led.slots[home].is_rotten(id), "it was put again");
    led.slots[home].lose(id);
    led.assert_readable(&ids).await;
    led.until("mended", |report| report.mended_blobs == 2).await;
    led.assert_at_home(&ids).await;
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_is_lost_is_named_and_keeps_no_other_from_being_mended() {
    let mut led = Led::over(8).await;
    let ids = led.put(9).await;
    let lost = ids[3];
    let lying = led.lying(lost);
    (0..3).for_each(|part| led.slots[lying[part][0]].lose(lost));
    let hole = ids[4];
    led.slots[led.lying(hole)[1][0]].lose(hole);
    // Remains of a put that failed are nobody's loss.
    let remains = blob(99, 4096, "ec(4,2)");
    led.proxy.put(remains, noise(4096, 99)).await.unwrap();
    led.lying(remains).iter().take(4).for_each(|slots| led.slots[slots[0]].lose(remains));
    led.heal();
    let report = led.until("named", |report| !report.lost.is_empty() && report.queue == 0).await;
    assert_eq!((report.counts.lost, report.lost), (1, vec![lost.to_string()]));
    assert_eq!((report.health, report.counts.by_spare), (Health::DataUnavailable, vec![0, 0, 8]));
    let rest: Vec<BlobId> = ids.into_iter().filter(|id| *id != lost).collect();
    led.assert_at_home(&rest).await;
    assert_eq!(led.lying(lost).iter().filter(|slots| !slots.is_empty()).count(), 3, "touched");
    // Nobody wants it any more.
    led.books.0.lock().retain(|id| *id != lost);
    assert!(led.proxy.delete(&[lost]).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_blob_under_repair_is_deleted_later_and_never_comes_back() {
    for delay_ms in [0, 100, 300, 500, 700, 1100] {
        let mut led = Led::over(8).await;
        led.slots[2].set(Mood::Dead);
        let ids = led.put(12).await;
        led.slots[2].set(Mood::Good);
        led.slots.iter().for_each(|slot| slot.set(Mood::Slow(Duration::from_millis(200))));
        led.heal();
        led.until("mending", |report| report.queue > 0).await;
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        led.books.0.lock().clear();
        let mut left = ids.clone();
        let mut rounds = 0;
        while !left.is_empty() {
            left = led.proxy.delete(&left).await;
            rounds += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(rounds < 100, "{left:?} are never deleted");
        }
        led.until("at rest", |report| report.queue == 0 && !report.counting).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        for id in ids {
            let held = led.slots.iter().map(|slot| slot.parts_of(id));
            let held = held.fold(PartSet::EMPTY, PartSet::union);
            assert!(held.is_empty(), "{id} is back after {delay_ms} ms: {held:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_slot_missed_of_a_delete_is_deleted_when_it_is_back() {
    let mut led = Led::over(8).await;
    let ids = led.put(6).await;
    led.slots[1].set(Mood::Dead);
    led.books.0.lock().clear();
    assert_eq!(led.proxy.delete(&ids).await, ids, "one slot has not confirmed");
    led.slots[1].set(Mood::Good);
    led.heal();
    led.until("healthy", |report| report.health == Health::Healthy && report.queue == 0).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(ids.iter().all(|id| led.lying(*id).iter().all(Vec::is_empty)));
}

#[tokio::test(start_paused = true)]
async fn repair_ends_when_somebody_else_has_the_volume() {
    let mut led = Led::over(8).await;
    led.slots[2].set(Mood::Dead);
    let ids = led.put(6).await;
    let other = another_over(&led.slots);
    led.slots[2].set(Mood::Good);
    other.fence(VOLUME, Epoch(2), OwnerId::random(), 2).await.unwrap();
    let before: Vec<_> = ids.iter().map(|id| led.lying(*id)).collect();
    led.heal();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(before, ids.iter().map(|id| led.lying(*id)).collect::<Vec<_>>());
    let put = led.proxy.put(blob(77, 100, "ec(4,2)"), noise(100, 77)).await;
    assert!(matches!(put, Err(BlobError::Fenced { .. })), "{put:?}");
}

/// Slots that were away when the volume was taken over, and one that comes back empty under its own id, know nothing of
/// whose it is: whoever repairs tells them, and whoever had it before stores nothing on all of them together.
#[tokio::test(start_paused = true)]
async fn slots_that_know_nothing_of_the_owner_are_told_of_it() {
    const AWAY: [usize; 2] = [0, 1];
    const EMPTIED: usize = 2;
    let mut led = Led::over(6).await;
    led.put(6).await;
    let old = std::mem::replace(&mut led.proxy, another_over(&led.slots));
    AWAY.iter().for_each(|slot| led.slots[*slot].set(Mood::Dead));
    let owner = OwnerId::random();
    led.proxy.fence(VOLUME, Epoch(2), owner, 2).await.unwrap();
    AWAY.iter().for_each(|slot| led.slots[*slot].set(Mood::Good));
    led.heal();
    led.until_healthy().await;
    led.slots[EMPTIED].wipe();
    tokio::time::sleep(Duration::from_secs(10)).await;
    led.until_healthy().await;
    let promise = Issuer { epoch: Epoch(2), owner };
    for slot in &led.slots {
        assert_eq!(slot.promised(VOLUME).await, Ok(Some(promise)));
    }
    for sequence in 100..200 {
        let late = old.put_apart(blob(sequence, 100, "copies(3)"), noise(100, sequence)).await;
        assert_eq!(late, Err(BlobError::Fenced { volume: VOLUME, epoch: Epoch(2) }));
    }
}

/// Of two that were emptied one can promise nobody anything: only that one is not called whole.
#[tokio::test(start_paused = true)]
async fn a_slot_that_promises_nothing_keeps_no_other_from_being_whole() {
    const REFUSES: usize = 5;
    let mut led = Led::over(6).await;
    led.put(6).await;
    led.heal();
    led.until_healthy().await;
    [4, REFUSES].iter().for_each(|slot| led.slots[*slot].wipe());
    led.slots[REFUSES].set(Mood::RefusesToPromise);
    tokio::time::sleep(Duration::from_secs(300)).await;
    let whole = |slot: usize| led.slots[slot].has_all_of(VOLUME);
    assert_eq!([4, REFUSES].map(whole), [true, false]);
}

/// Whoever was taken over, and has heard nothing of that, neither has a slot that was emptied promise it the volume, nor calls
/// it whole: it would be heard as one that knows whose the volume is.
#[tokio::test(start_paused = true)]
async fn who_was_taken_over_is_promised_nothing_by_a_slot_that_has_forgotten() {
    const EMPTIED: usize = 2;
    let mut led = Led::over(6).await;
    led.heal();
    led.until_healthy().await;
    let other = another_over(&led.slots);
    other.fence(VOLUME, Epoch(2), OwnerId::random(), 2).await.unwrap();
    led.slots[EMPTIED].wipe();
    led.until("noticed", |report| report.disks_rebuilding == 1).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(led.slots[EMPTIED].promised(VOLUME).await, Err(PartError::NotRebuilt));
}

#[tokio::test(start_paused = true)]
async fn what_a_scrub_finds_is_mended_though_nobody_reads_it() {
    let mut led = Led::over(6).await;
    let ids = led.put(9).await;
    let healer = led.heal();
    led.until_healthy().await;
    // One that can be mended at once, and one whose disk takes nothing now, nor has another a place for it.
    let (id, stuck) = (ids[0], ids[1]);
    let home = led.lying(id)[1][0];
    let full = led.lying(stuck).into_iter().map(|slots| slots[0]).find(|slot| *slot != home);
    let full = full.unwrap();
    led.slots[home].rot(id);
    led.slots[full].rot(stuck);
    led.slots[full].set(Mood::Full);
    assert_eq!(healer.scrub().await, Ok(6));
    let scrub = healer.glance().scrub;
    assert_eq!((scrub.asked, scrub.percent, scrub.bytes_left), (6, 50, 6 * SCRUB_LEFT), "at once");
    let report = led.until("found", |report| report.damaged_blobs == 1).await;
    assert_eq!(report.health, Health::Degraded, "{report}");
    assert!(report.line.contains("1 blob has damaged parts"), "{report}");
    assert!(!led.slots[home].is_rotten(id) && led.slots[full].is_rotten(stuck), "{report}");
    led.slots[full].set(Mood::Good);
    let report = led.until_healthy().await;
    assert_eq!((report.damaged_blobs, report.mended_blobs), (0, 2), "{report}");
    assert!(!led.slots[full].is_rotten(stuck));
    led.assert_at_home(&ids).await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_copy_that_is_not_needed_goes() {
    let mut led = Led::over(8).await;
    let ids = led.put(4).await;
    let id = ids[0];
    let healer = led.heal();
    led.until_healthy().await;
    let other = led.rotten_copy(id);
    healer.scrub().await.unwrap();
    led.until("gone", |_| !led.slots[other].is_rotten(id)).await;
    led.until_healthy().await;
    led.assert_at_home(&ids).await;
    led.assert_readable(&ids).await;
}

/// Also where the disk that has it has no room.
#[tokio::test(start_paused = true)]
async fn a_damaged_copy_on_a_full_disk_goes() {
    let mut led = Led::over(8).await;
    let id = led.put(1).await[0];
    let healer = led.heal();
    led.until_healthy().await;
    let other = led.rotten_copy(id);
    led.slots[other].leave_room(0);
    healer.scrub().await.unwrap();
    led.until("gone", |_| !led.slots[other].is_rotten(id)).await;
    led.until_healthy().await;
}

/// What is left of a put that failed is swept in time, and harms nobody when it rots before.
#[tokio::test(start_paused = true)]
async fn remains_of_what_nobody_wants_degrade_nothing_when_they_rot() {
    let mut led = Led::over(8).await;
    led.put(3).await;
    led.slots[1..].iter().for_each(|slot| slot.set(Mood::RefusesPuts));
    let id = blob(50, 5000, "ec(4,2)");
    assert!(led.proxy.put(id, noise(id.len(), 50)).await.is_err());
    led.slots.iter().for_each(|slot| slot.set(Mood::Good));
    assert!((1..4).contains(&led.slots[0].parts_of(id).len()));
    let healer = led.heal();
    led.until_healthy().await;
    led.slots[0].rot(id);
    healer.scrub().await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let report = led.until_healthy().await;
    assert!(led.slots[0].is_rotten(id), "{report}");
}

/// As many parts as a blob needs are there, one of which does not read well, and a disk that is filled again might have had
/// another: where nobody wants the blob that keeps the disk from nothing.
#[tokio::test(start_paused = true)]
async fn remains_of_what_nobody_wants_keep_no_disk_from_being_whole() {
    let mut led = Led::over(8).await;
    let ids = led.put(3).await;
    let id = blob(50, 5000, "ec(4,2)");
    led.proxy.put(id, noise(id.len(), 50)).await.unwrap();
    let lying = led.lying(id);
    [4, 5].iter().for_each(|part| led.slots[lying[*part][0]].lose(id));
    led.slots[lying[0][0]].rot(id);
    led.slots[lying[5][0]].wipe();
    led.heal();
    led.until_healthy().await;
    led.assert_at_home(&ids).await;
}

/// What was put while a slot was away for less time than there is between two looks is put right, and nobody says before
/// that all is well.
#[tokio::test(start_paused = true)]
async fn an_outage_that_nobody_looked_at_is_made_good() {
    for phase in (0..250).step_by(10) {
        let mut led = Led::over(8).await;
        let healer = led.heal();
        led.until_healthy().await;
        tokio::time::sleep(Duration::from_millis(phase)).await;
        led.slots[3].set(Mood::Dead);
        let ids = led.put(12).await;
        led.slots[3].set(Mood::Good);
        while healer.glance().disks_away > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        led.until_healthy().await;
        led.assert_at_home(&ids).await;
    }
}

/// Where all parts of a blob are to go to where another is, and some of them cannot, none of those that could is dropped
/// where it is needed.
#[tokio::test(start_paused = true)]
async fn a_put_that_fails_leaves_no_blob_with_less_to_spare() {
    for refusing in 0..8 {
        let mut led = Led::over(8).await;
        let ids = led.put(30).await;
        ids.iter().for_each(|id| MemorySlot::turn(&led.slots, *id));
        led.slots[refusing].set(Mood::RefusesPuts);
        led.heal();
        led.until("tried", |report| !report.stuck.is_empty() && report.queue == 0).await;
        led.assert_safe(&ids, &format!("{refusing} takes nothing"));
        led.slots[refusing].set(Mood::Good);
        led.until_healthy().await;
        led.assert_at_home(&ids).await;
        led.assert_readable(&ids).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_drop_is_not_answered_is_relied_on_no_more() {
    for (refusing, unheard) in (0..8).map(|n| (n, (n + 1) % 8)) {
        let mut led = Led::over(8).await;
        let ids = led.put(30).await;
        ids.iter().for_each(|id| MemorySlot::turn(&led.slots, *id));
        led.slots[refusing].set(Mood::RefusesPuts);
        led.slots[unheard].set(Mood::DropsUnheard);
        led.heal();
        led.until("tried", |report| !report.stuck.is_empty() && report.queue == 0).await;
        led.assert_safe(&ids, &format!("{refusing} takes nothing, {unheard} is not heard"));
        led.slots[refusing].set(Mood::Good);
        led.slots[unheard].set(Mood::Good);
        led.until_healthy().await;
        led.assert_at_home(&ids).await;
        led.assert_readable(&ids).await;
    }
}

/// What a slot has that is away for a moment counts, though it cannot be seen: others may be lost when it is back.
#[tokio::test(start_paused = true)]
async fn while_a_slot_is_silent_no_blob_gets_less_to_spare_with_what_it_has() {
    for (refusing, silent) in (0..8).flat_map(|n| [(n, (n + 1) % 8), (n, (n + 3) % 8)]) {
        let mut led = Led::over(8).await;
        let ids = led.put(30).await;
        ids.iter().for_each(|id| MemorySlot::turn(&led.slots, *id));
        led.slots[refusing].set(Mood::RefusesPuts);
        led.slots[silent].set(Mood::Dead);
        led.heal();
        led.until("tried", |report| !report.stuck.is_empty() && report.queue == 0).await;
        led.assert_safe(&ids, &format!("{refusing} takes nothing, {silent} is silent"));
        led.slots[refusing].set(Mood::Good);
        led.slots[silent].set(Mood::Good);
        led.until_healthy().await;
        led.assert_at_home(&ids).await;
        led.assert_readable(&ids).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_put_while_blobs_are_counted_is_counted_soon() {
    const LATE: usize = 0;
    let mut led = Led::over(8).await;
    led.put(30).await;
    let needs = |proxy: Arc<Proxy>, id| async move {
        proxy.stat(id).await.iter().any(|slot| slot.main && slot.slot == LATE)
    };
    let mut sequence = 100;
    while needs(led.proxy.clone(), blob(sequence, 9000, "ec(4,2)")).await {
        sequence += 1;
    }
    // The others have told what they have before it is put, and this one tells afterwards.
    led.slots[LATE].set(Mood::Slow(Duration::from_secs(1)));
    led.heal();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let id = blob(sequence, 9000, "ec(4,2)");
    led.proxy.put(id, noise(9000, sequence)).await.unwrap();
    led.books.0.lock().push(id);
    let report = led.until("counted", |report| report.censuses == 1).await;
    assert_eq!(report.counts.blobs(), 30, "{report}");
    led.until("counted again", |report| report.counts.blobs() == 31).await;
}

/// A part that is gone without anybody's noticing is found by the next census, which comes though nothing has happened.
#[tokio::test(start_paused = true)]
async fn all_is_counted_every_so_often_though_nothing_happens() {
    const EVERY: Duration = Duration::from_secs(1800);
    assert_eq!(
        HealSettings::default().every,
        Duration::from_secs(24 * 3600),
        "unless told otherwise"
    );
    let mut led = Led::over(8).await;
    let ids = led.put(6).await;
    let healer = led.heal_by(HealSettings { every: EVERY, ..HealSettings::default() });
    led.until_healthy().await;
    // What was put a moment ago is counted once more.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = led.until_healthy().await.censuses;
    let holder = led.slots.iter().find(|slot| !slot.parts_of(ids[0]).is_empty()).unwrap();
    holder.lose(ids[0]);
    tokio::time::sleep(EVERY - Duration::from_secs(120)).await;
    assert_eq!((healer.glance().censuses, healer.glance().mended_blobs), (before, 0), "{before}");
    let mended = |report: &Report| report.censuses > before && report.mended_blobs == 1;
    led.until("the part to be missed, and made anew", mended).await;
    led.until_healthy().await;
    led.assert_at_home(&ids).await;
    // And once more after as long again.
    let before = healer.glance().censuses;
    tokio::time::sleep(EVERY + Duration::from_secs(60)).await;
    assert!(healer.glance().censuses > before);
}

/// Another proxy over the same slots, one of which is to be emptied.
fn draining(slots: &[Arc<MemorySlot>], drained: usize) -> Arc<Proxy> {
    let configs = slots.iter().enumerate().map(|(n, slot)| {
        let config = config(n, slot.clone());
        SlotConfig { drains: n == drained, ..config }
    });
    Proxy::new(GroupId(0), configs.collect(), ProxySettings::default())
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_to_be_emptied_can_be_pulled_and_nothing_is_degraded() {
    const DRAINED: usize = 3;
    let mut led = Led::over(8).await;
    let mut ids = led.put(30).await;
    led.proxy = draining(&led.slots, DRAINED);
    led.proxy.fence(VOLUME, Epoch(2), OwnerId::random(), 2).await.unwrap();
    // Nothing more goes there, from the first put on.
    for sequence in 101..120 {
        let id = blob(sequence, 9000, "ec(4,2)");
        led.proxy.put(id, noise(id.len(), sequence)).await.unwrap();
        assert!(led.slots[DRAINED].parts_of(id).is_empty(), "{id}");
        led.books.0.lock().push(id);
        ids.push(id);
    }
    led.heal();
    let empty = |r: &Report| r.drains[0].empty && r.queue == 0 && !r.counting;
    let report = led.until("empty", empty).await;
    assert_eq!((report.health, &report.counts.by_spare[..]), (Health::Healthy, &[0, 0, 49][..]));
    assert!(report.line.contains("disk 3 is empty and can be pulled"), "{report}");
    led.slots[DRAINED].set(Mood::Dead);
    tokio::time::sleep(2 * GRACE).await;
    let report = led.until_healthy().await;
    assert_eq!((report.disks_away, report.drains[0].empty), (0, true), "{report}");
    assert!(report.waiting.is_empty(), "{report}");
    for lost in [[0, 1], [4, 7], [2, 6]] {
        lost.iter().for_each(|slot| led.slots[*slot].set(Mood::Dead));
        led.assert_readable(&ids).await;
        lost.iter().for_each(|slot| led.slots[*slot].set(Mood::Good));
        tokio::time::sleep(Duration::from_secs(15)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_other_disk_takes_stays_on_one_that_is_to_be_emptied() {
    let mut led = Led::over(6).await;
    let ids = led.put(6).await;
    led.proxy = draining(&led.slots, 2);
    led.proxy.fence(VOLUME, Epoch(2), OwnerId::random(), 2).await.unwrap();
    led.heal();
    let report = led.until("told", |report| !report.waiting.is_empty()).await;
    assert!(report.waiting[0].why.contains("there is no room for them"), "{report}");
    assert_eq!((report.health, report.drains[0].empty), (Health::Healthy, false), "{report}");
    led.assert_at_home(&ids.into_iter().filter(|id| id.scheme().parts() == 6).collect::<Vec<_>>())
        .await;
    // What is put finds a place there, too, before it is put where it would be less safe.
    let id = blob(99, 9000, "ec(4,2)");
    led.proxy.put(id, noise(id.len(), 99)).await.unwrap();
    assert_eq!(led.slots[2].parts_of(id).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn parts_do_not_stay_on_a_disk_that_takes_nothing_for_long() {
    let mut led = Led::over(8).await;
    let ids = led.put(30).await;
    led.heal();
    led.until_healthy().await;
    led.slots[3].set(Mood::ReadOnly);
    led.until("noticed", |report| report.disks_read_only == 1).await;
    let done = |r: &Report| r.mended_bytes > 0 && r.queue == 0 && !r.counting;
    let report = led.until("copied", done).await;
    assert_eq!((report.health, report.counts.at_risk), (Health::Degraded, 0), "{report}");
    // It goes at last, and two more.
    [3, 0, 5].iter().for_each(|slot| led.slots[*slot].set(Mood::Dead));
    led.assert_readable(&ids).await;
}

/// The disk in place of a lost one is too small: it must not say of parts that found no place that they were never there.
#[tokio::test(start_paused = true)]
async fn a_disk_that_has_no_room_for_all_its_parts_stays_one_that_is_filled_again() {
    const SMALL: usize = 2;
    let mut led = Led::over(6).await;
    let ids = led.put(30).await;
    led.slots[SMALL].wipe();
    led.slots[SMALL].leave_room(0);
    led.heal();
    let at_rest = |r: &Report| r.censuses > 2 && r.queue == 0 && !r.counting;
    let report = led.until("counted again and again", at_rest).await;
    assert!(!led.slots[SMALL].has_all_of(VOLUME), "{report}");
    assert_eq!((report.health, report.disks_rebuilding), (Health::Degraded, 1), "{report}");
    let missing = "1 of 6 disks being filled again, 1 MiB of room missing, ";
    assert!(report.line.contains(missing), "{report}");
    let told = report.waiting.iter().find(|waits| waits.what == "disk 2 at memory2").unwrap();
    for part in
        ["are missing, and it stays one that is being filled again", "storaged disk replace"]
    {
        assert!(told.why.contains(part), "{report}");
    }
    led.slots[SMALL].leave_room(64 << 20);
    let report = led.until_healthy().await;
    assert_eq!((report.disks_rebuilding, report.room_missing), (0, 0), "{report}");
    assert!(led.slots[SMALL].has_all_of(VOLUME) && report.waiting.is_empty(), "{report}");
    led.assert_at_home(&ids).await;
}

/// Whatever is put and deleted meanwhile, one census is enough to fill a disk again.
#[tokio::test(start_paused = true)]
async fn what_is_put_or_deleted_while_a_disk_is_filled_costs_no_second_census() {
    const WIPED: usize = 3;
    let filled = |report: &Report| report.disks_rebuilding == 0 && report.queue == 0;
    let mut led = Led::over(8).await;
    led.put(30).await;
    led.slots[WIPED].wipe();
    let waiting = led.begin_put(99).await;
    led.heal();
    let report = led.until("counted", |report| report.censuses == 1).await;
    assert_eq!(report.disks_rebuilding, 1, "{report}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = led.healer.as_ref().unwrap().glance();
    assert_eq!((report.queue, report.disks_rebuilding), (1, 1), "{report}");
    led.end_put(waiting).await;
    let report = led.until("filled", filled).await;
    assert_eq!(report.censuses, 1, "{report}");
    assert!(led.slots[WIPED].has_all_of(VOLUME));

    let mut led = Led::over(8).await;
    let ids = led.put(30).await;
    led.slots[WIPED].wipe();
    led.slots.iter().for_each(|slot| slot.set(Mood::Slow(Duration::from_millis(50))));
    led.heal();
    led.until("mending", |report| report.censuses == 1 && report.queue > 0).await;
    led.books.0.lock().clear();
    let mut left = ids.clone();
    while !left.is_empty() {
        left = led.proxy.delete(&left).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let report = led.until("filled", filled).await;
    assert_eq!(report.censuses, 1, "{report}");
    assert!(led.slots[WIPED].has_all_of(VOLUME));
}

/// However many blobs come and go, of which a disk that is full takes no part, another one is filled again.
#[tokio::test(start_paused = true)]
async fn a_disk_is_filled_though_another_is_full_and_users_write_all_the_time() {
    const FULL: usize = 1;
    const WIPED: usize = 3;
    let mut led = Led::over(8).await;
    let ids = led.put(30).await;
    led.slots.iter().for_each(|slot| slot.set(Mood::Slow(Duration::from_millis(40))));
    led.slots[FULL].set(Mood::Full);
    let (proxy, books) = (led.proxy.clone(), led.books.clone());
    let writing = tokio::spawn(async move {
        for sequence in 1000.. {
            let id = blob(sequence, 4096, "ec(4,2)");
            proxy.put(id, noise(4096, sequence)).await.unwrap();
            books.0.lock().push(id);
            if let Some(old) = sequence.checked_sub(60).filter(|old| *old >= 1000) {
                let old = blob(old, 4096, "ec(4,2)");
                books.0.lock().retain(|id| *id != old);
                // What is under repair is asked for again, by whoever sweeps.
                proxy.delete(&[old]).await;
            }
        }
    });
    led.until_written(1100).await;
    led.slots[WIPED].wipe();
    led.heal();
    let filled = led.until("filled", |r| r.censuses > 0 && r.disks_rebuilding == 0);
    let report = tokio::time::timeout(Duration::from_secs(120), filled).await;
    writing.abort();
    let report = report.expect("it is filled in time");
    assert!(report.disks_rebuilding == 0 && !writing.await.unwrap_err().is_panic(), "{report}");
    led.assert_safe(&ids, "one is full");
    led.slots[FULL].set(Mood::Good);
    led.until_healthy().await;
    led.assert_at_home(&ids).await;
}

/// Whoever checks a volume reads no faster than repair may, and gives way to users as it does.
#[tokio::test(start_paused = true)]
async fn a_check_reads_at_its_rate_and_gives_way_to_users() {
    let led = Led::over(8).await;
    let ids = led.put(12).await;
    let bytes = |id: &BlobId| id.scheme().parts() as u64 * u64::from(id.part_len());
    let rate = ids.iter().map(bytes).sum::<u64>() / 10;
    let took = async |users| {
        let examiner = Examiner::new(&led.proxy, users);
        let began = tokio::time::Instant::now();
        let examined = join_all(ids.iter().map(|id| examiner.examine(*id, true))).await;
        assert!(examined.iter().all(|examined| examined.fate == Fate::Whole), "{examined:?}");
        began.elapsed().as_secs()
    };
    // Nobody has asked for anything for a moment.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(took(Users::None).await, 0);
    // But for the last one, whose time is not waited for.
    let alone = took(Users::Here(rate)).await;
    assert!((7..=10).contains(&alone), "{alone} s");
    let beside = took(Users::Elsewhere(rate)).await;
    assert!((56..=80).contains(&beside), "{beside} s");
    let reads = async {
        loop {
            led.proxy.get(ids[0], 0..100).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let beside = tokio::select! {
        beside = took(Users::Here(rate)) => beside,
        () = reads => unreachable!("they never end"),
    };
    assert!((56..=80).contains(&beside), "{beside} s");
}

/// A slot that says early what it has, of which parts come later, and one that says it late, which they have left by
/// then, do not make up for a blob that is gone.
#[tokio::test(start_paused = true)]
async fn what_is_moved_while_it_is_read_is_neither_lost_nor_out_of_reach() {
    let mut led = Led::over(6).await;
    let id = blob(1, 200_000, "ec(4,2)");
    led.proxy.put(id, noise(id.len(), 1)).await.unwrap();
    led.books.0.lock().push(id);
    let homes: Vec<usize> = led.lying(id).iter().map(|slots| slots[0]).collect();
    MemorySlot::turn(&led.slots, id);
    led.slots.iter().for_each(|slot| slot.keep_waiting(id, true));
    led.heal();
    // By then repair waits for the first parts to be taken.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // What the others have now and what these will have are the same three parts.
    let late: Vec<_> = homes.iter().step_by(2).map(|slot| led.slots[*slot].clone()).collect();
    late.iter().for_each(|slot| slot.keep_quiet(id, true));
    let proxy = led.proxy.clone();
    let reading = tokio::spawn(async move { proxy.get(id, 0..id.len()).await });
    // And by then three of six have told the reader that they have what is about to go.
    tokio::time::sleep(Duration::from_millis(100)).await;
    led.slots.iter().for_each(|slot| slot.keep_waiting(id, false));
    let is_home =
        |lying: Vec<Vec<usize>>| lying.iter().zip(&homes).all(|(at, home)| at == &[*home]);
    for _ in 0..1000 {
        if is_home(led.lying(id)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(is_home(led.lying(id)), "{:?}", led.lying(id));
    late.iter().for_each(|slot| slot.keep_quiet(id, false));
    assert_eq!(reading.await.unwrap(), Ok(noise(id.len(), 1)));
}

/// Somebody stores a blob, and names it, just as repair asks which are wanted.
struct LateBooks {
    books: Books,
    proxy: Arc<Proxy>,
    late: Mutex<Option<BlobId>>,
    /// When it asks for all, or for that one.
    in_lists: bool,
}

impl LateBooks {
    async fn store(&self, now: bool) {
        let late = if now { self.late.lock().take() } else { None };
        if let Some(id) = late {
            self.proxy.put(id, noise(id.len(), id.sequence())).await.unwrap();
            self.books.0.lock().push(id);
        }
    }
}

#[async_trait]
impl Ledger for LateBooks {
    async fn wanted(&self, after: Option<BlobId>, limit: usize) -> Option<Wanted> {
        self.store(self.in_lists).await;
        self.books.wanted(after, limit).await
    }

    async fn wants(&self, blob: BlobId) -> Option<bool> {
        self.store(!self.in_lists).await;
        self.books.wants(blob).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_put_and_named_while_it_is_looked_for_is_not_lost() {
    for (in_lists, away) in [(false, None), (true, None), (true, Some(3))] {
        let mut led = Led::over(8).await;
        let id = blob(1, 200_000, "ec(4,2)");
        if !in_lists {
            // A put of it has failed before, and left a part.
            led.proxy.put(id, noise(id.len(), 1)).await.unwrap();
            let holders = led.slots.iter().filter(|slot| !slot.parts_of(id).is_empty());
            holders.skip(1).for_each(|slot| slot.lose(id));
        }
        away.into_iter().for_each(|slot: usize| led.slots[slot].set(Mood::Dead));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (books, proxy, late) = (Books::default(), led.proxy.clone(), Mutex::new(Some(id)));
        let books = Arc::new(LateBooks { books, proxy, late, in_lists });
        let settings = HealSettings { grace: GRACE, ..HealSettings::default() };
        let live = LiveProxy::new(led.proxy.clone());
        led.healer = Some(Healer::start(live, VOLUME, books.clone(), settings));
        let at_rest = |r: &Report| r.censuses > 0 && r.queue == 0;
        let report = led.until("the first census to be through", at_rest).await;
        assert!(books.late.lock().is_none(), "it was put");
        let counts = (report.counts.lost, report.counts.unavailable);
        assert_eq!((counts, report.censuses), ((0, 0), 1), "{in_lists} {away:?}: {report:?}");
        led.assert_readable(&[id]).await;
    }
}

/// Slots tell what they have one after the other: what is put or deleted meanwhile is met with too few parts by chance.
#[tokio::test(start_paused = true)]
async fn what_is_being_put_or_was_just_deleted_does_not_count_as_what_cannot_be_read() {
    let unread = |report: &Report| report.counts.unavailable + report.counts.lost;
    // Of a blob that is wanted already.
    let mut led = Led::over(8).await;
    led.put(30).await;
    let waiting = led.begin_put(99).await;
    led.heal();
    let report = led.until("counted", |report| report.censuses == 1).await;
    assert_eq!((unread(&report), report.health), (0, Health::Healthy), "{report}");
    led.end_put(waiting).await;
    let report = led.until_healthy().await;
    assert_eq!(report.counts.by_spare, [0, 0, 31], "{report}");

    // A delete between what three slots tell and what the others do.
    let mut led = Led::over(8).await;
    let ids = led.put(30).await;
    let slots = led.slots.clone();
    let slow = |ms| {
        let mood = Mood::Slow(Duration::from_millis(ms));
        slots.iter().skip(3).for_each(|slot| slot.set(mood));
    };
    slow(1000);
    led.heal();
    tokio::time::sleep(Duration::from_millis(500)).await;
    slow(0);
    led.books.0.lock().clear();
    assert!(led.proxy.delete(&ids).await.is_empty());
    // Looking at them takes a while.
    slow(300);
    let report = led.until("counted", |report| report.censuses == 1).await;
    assert!(report.queue > 0 && unread(&report) == 0, "{report}");
    let report = led.until_healthy().await;
    assert_eq!(unread(&report), 0, "{report}");
}
