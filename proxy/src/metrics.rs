//! What the proxy counts. Handles are made once: the recorder must be installed before the proxy.

use metrics::{Counter, Histogram, counter, histogram};

/// Seconds from receiving a put to answering it.
pub const PUT_SECONDS: &str = "proxy_put_seconds";
/// Seconds from receiving a get to answering it.
pub const GET_SECONDS: &str = "proxy_get_seconds";
/// Bytes of user data in acknowledged puts.
pub const PUT_BYTES: &str = "proxy_put_bytes_total";
/// Bytes of user data that gets answered with.
pub const GET_BYTES: &str = "proxy_get_bytes_total";
/// Puts whose parts had to share fail domains.
pub const DEGRADED_PUTS: &str = "proxy_degraded_puts_total";
/// Gets that needed more than the main slots of their range.
pub const DEGRADED_GETS: &str = "proxy_degraded_gets_total";
/// Parts sent or asked for again because a slot failed.
pub const RETRIES: &str = "proxy_retries_total";
/// Slots given up on as slow, once per request.
pub const HEDGES: &str = "proxy_hedges_total";
/// Puts that failed.
pub const FAILED_PUTS: &str = "proxy_failed_puts_total";
/// Gets that ended with neither data nor proven absence.
pub const FAILED_GETS: &str = "proxy_failed_gets_total";

/// Blobs of a volume by how many more fail domains they can lose, `unavailable` or `lost`.
pub const REPAIR_BLOBS: &str = "proxy_repair_blobs";
/// Blobs that can lose fewer fail domains than they could.
pub const REPAIR_AT_RISK: &str = "proxy_repair_at_risk_blobs";
/// Blobs that wait to be mended.
pub const REPAIR_QUEUE: &str = "proxy_repair_queue_blobs";
/// Bytes of parts that are to be put.
pub const REPAIR_LEFT_BYTES: &str = "proxy_repair_left_bytes";
/// Seconds since the last census ended; -1: none has.
pub const REPAIR_CENSUS_AGE: &str = "proxy_repair_census_age_seconds";
/// Blobs that could not be mended.
pub const REPAIR_STUCK: &str = "proxy_repair_stuck_blobs";
/// Blobs mended.
pub const REPAIR_MENDED_BLOBS: &str = "proxy_repair_mended_blobs_total";
/// Bytes of parts put to mend blobs.
pub const REPAIR_MENDED_BYTES: &str = "proxy_repair_mended_bytes_total";

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
