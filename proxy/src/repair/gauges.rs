//! What monitoring sees of repair: gauges with the volume's number as a label, each with a help text.

use metrics::{counter, gauge};
use proto::id::VolumeId;

use crate::metrics::{
    REPAIR_AT_RISK, REPAIR_BLOBS, REPAIR_CENSUS_AGE, REPAIR_DAMAGED, REPAIR_LEFT_BYTES,
    REPAIR_LEFT_SECONDS, REPAIR_MENDED_BLOBS, REPAIR_MENDED_BYTES, REPAIR_QUEUE, REPAIR_RATE,
    REPAIR_STUCK, SLOTS, SLOTS_UP, SLOTS_WRITABLE,
};
use crate::proxy::Proxy;
use crate::repair::report::{Counts, Report};

/// Brings up to date how many slots there are.
pub(crate) fn set_slots(volume: VolumeId, proxy: &Proxy) {
    let up = proxy.slots_that(|slot| !slot.is_down()).len();
    let writable = proxy.slots_that(|slot| !slot.takes_no_writes()).len();
    let all = proxy.slots.len();
    for (name, count) in [(SLOTS, all), (SLOTS_UP, up), (SLOTS_WRITABLE, writable)] {
        gauge!(name, "volume" => volume.to_string()).set(count as f64);
    }
}

/// Brings them up to date.
pub(crate) fn set(volume: VolumeId, report: &Report) {
    let volume = volume.to_string();
    let of = |name: &'static str, value: f64| gauge!(name, "volume" => volume.clone()).set(value);
    let Counts { by_spare, at_risk, unavailable, lost } = &report.counts;
    let counts = by_spare.iter().enumerate().map(|(spare, count)| (spare.to_string(), *count));
    let others = [("unavailable", *unavailable), ("lost", *lost)];
    let others = others.map(|(name, count)| (name.to_owned(), count));
    for (spare, count) in counts.chain(others) {
        gauge!(REPAIR_BLOBS, "volume" => volume.clone(), "spare" => spare).set(count as f64);
    }
    of(REPAIR_AT_RISK, *at_risk as f64);
    of(REPAIR_QUEUE, report.queue as f64);
    of(REPAIR_LEFT_BYTES, report.bytes_left as f64);
    of(REPAIR_CENSUS_AGE, report.census_age.map_or(-1.0, |age| age as f64));
    of(REPAIR_STUCK, report.stuck_blobs as f64);
    of(REPAIR_RATE, report.rate as f64);
    let left = report.seconds_left.map_or(-1.0, |left| left as f64);
    of(REPAIR_LEFT_SECONDS, if report.bytes_left == 0 { 0.0 } else { left });
    of(REPAIR_DAMAGED, report.damaged_blobs as f64);
    let total =
        |name: &'static str, value| counter!(name, "volume" => volume.clone()).absolute(value);
    total(REPAIR_MENDED_BLOBS, report.mended_blobs);
    total(REPAIR_MENDED_BYTES, report.mended_bytes);
}
