//! What the proxy counts. Handles are made once: the recorder must be installed before the proxy.

use metrics::{Counter, Histogram, counter, histogram};

proto::metric_names! {
    histogram PUT_SECONDS = "proxy_put_seconds": "Seconds from receiving a put to answering it";
    histogram GET_SECONDS = "proxy_get_seconds": "Seconds from receiving a get to answering it";
    counter PUT_BYTES = "proxy_put_bytes_total": "Bytes of user data in acknowledged puts";
    counter GET_BYTES = "proxy_get_bytes_total": "Bytes of user data that gets answered with";
    counter DEGRADED_PUTS = "proxy_degraded_puts_total":
        "Puts whose parts are less spread out than with all disks up";
    counter DEGRADED_GETS = "proxy_degraded_gets_total":
        "Gets that needed more than the main slots of their range";
    counter RETRIES = "proxy_retries_total": "Parts sent or asked for again because a slot failed";
    counter HEDGES = "proxy_hedges_total": "Slots given up on as slow, once per request";
    counter FAILED_PUTS = "proxy_failed_puts_total": "Puts that failed";
    counter FAILED_GETS = "proxy_failed_gets_total":
        "Gets that ended with neither data nor proven absence";
    gauge SLOTS = "proxy_slots": "Slots of the group of a volume";
    gauge SLOTS_UP = "proxy_slots_up": "Slots of the group of a volume that answer";
    gauge SLOTS_WRITABLE = "proxy_slots_writable": "Slots that answer and take writes";
    gauge REPAIR_BLOBS = "proxy_repair_blobs":
        "Blobs of a volume by how many more disks (or hosts) they can lose, `unavailable` or `lost`";
    gauge REPAIR_AT_RISK = "proxy_repair_at_risk_blobs":
        "Blobs that can lose fewer disks (or hosts) than they could";
    gauge REPAIR_QUEUE = "proxy_repair_queue_blobs": "Blobs that wait to be mended";
    gauge REPAIR_LEFT_BYTES = "proxy_repair_left_bytes": "Bytes of parts that are to be put";
    gauge REPAIR_RATE = "proxy_repair_bytes_per_second": "Bytes of parts put per second, lately";
    gauge REPAIR_LEFT_SECONDS = "proxy_repair_left_seconds":
        "Seconds until those bytes are put, at the rate of lately; -1: nothing is put now";
    gauge REPAIR_CENSUS_AGE = "proxy_repair_census_age_seconds":
        "Seconds since the last census ended; -1: none has";
    gauge REPAIR_STUCK = "proxy_repair_stuck_blobs": "Blobs that could not be mended";
    gauge REPAIR_DAMAGED = "proxy_repair_damaged_blobs":
        "Blobs of which disks know that parts are damaged";
    counter REPAIR_MENDED_BLOBS = "proxy_repair_mended_blobs_total": "Blobs mended";
    counter REPAIR_MENDED_BYTES = "proxy_repair_mended_bytes_total":
        "Bytes of parts put to mend blobs";
}

pub(crate) struct Metrics {
    pub(crate) put_seconds: Histogram,
    pub(crate) get_seconds: Histogram,
    pub(crate) put_bytes: Counter,
    pub(crate) get_bytes: Counter,
    pub(crate) degraded_puts: Counter,
    pub(crate) degraded_gets: Counter,
    pub(crate) retries: Counter,
    pub(crate) hedges: Counter,
    pub(crate) failed_puts: Counter,
    pub(crate) failed_gets: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe();
        Self {
            put_seconds: histogram!(PUT_SECONDS),
            get_seconds: histogram!(GET_SECONDS),
            put_bytes: counter!(PUT_BYTES),
            get_bytes: counter!(GET_BYTES),
            degraded_puts: counter!(DEGRADED_PUTS),
            degraded_gets: counter!(DEGRADED_GETS),
            retries: counter!(RETRIES),
            hedges: counter!(HEDGES),
            failed_puts: counter!(FAILED_PUTS),
            failed_gets: counter!(FAILED_GETS),
        }
    }
}
