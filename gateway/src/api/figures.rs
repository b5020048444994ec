//! How fast it is, as the process counts: totals and quantiles, read from what it shows to Prometheus. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

/// Content that went out and in, by the mount and by doors.
const READ: [&str; 2] = ["ashlar_read_bytes_total", "ashlar_door_sent_bytes_total"];
const WRITTEN: [&str; 2] = ["ashlar_written_bytes_total", "ashlar_door_received_bytes_total"];
/// Requests of the mount, and of doors; which of them read, and which write.
const OPS: [(&str, &str, &str); 2] =
    [("ashlar_op_seconds", "read", "write"), ("ashlar_door_seconds", "get", "put")];

/// Totals since the process began, of reads and writes.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Throughput {
    read_bytes: u64,
    written_bytes: u64,
    reads: u64,
    writes: u64,
    latency_us: Latency,
}

/// In so many microseconds, or less, half of all requests and 99 of 100 were answered.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Latency {
    #[serde(skip_serializing_if = "Option::is_none")]
    read_p50: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_p99: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_p50: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_p99: Option<u64>,
}

/// Requests that took so many microseconds or less, for each bound.
type Buckets = BTreeMap<u64, u64>;

/// Of what a process shows to Prometheus.
pub(super) fn throughput(shown: &str) -> Throughput {
    let lines = || shown.lines().filter(|line| !line.starts_with('#'));
    let total = |names: [&str; 2]| -> u64 {
        let of = |line: &&str| names.iter().any(|name| is_of(line, name));
        lines().filter(of).filter_map(value).sum()
    };
    let (mut reads, mut writes) = (Buckets::new(), Buckets::new());
    for (name, read, write) in OPS {
        let bucket = format!("{name}_bucket");
        for line in lines().filter(|line| is_of(line, &bucket)) {
            let buckets = match label(line, "op") {
                Some(op) if op == read => &mut reads,
                Some(op) if op == write => &mut writes,
                _ => continue,
            };
            if let (Some(bound), Some(count)) = (bound(line), value(line)) {
                *buckets.entry(bound).or_default() += count;
            }
        }
    }
    let count = |buckets: &Buckets| buckets.last_key_value().map_or(0, |(_, count)| *count);
    Throughput {
        read_bytes: total(READ),
        written_bytes: total(WRITTEN),
        reads: count(&reads),
        writes: count(&writes),
        latency_us: Latency {
            read_p50: quantile(&reads, 50),
            read_p99: quantile(&reads, 99),
            write_p50: quantile(&writes, 50),
            write_p99: quantile(&writes, 99),
        },
    }
}

fn is_of(line: &str, name: &str) -> bool {
    line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
}

fn value(line: &str) -> Option<u64> {
    line.rsplit(' ').next()?.parse().ok()
}

fn label<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(&format!("{name}=\""))?.1.split('"').next()
}

/// In microseconds.
fn bound(line: &str) -> Option<u64> {
    match label(line, "le")? {
        "+Inf" => Some(u64::MAX),
        // Bounds are ours, and no more than some seconds.
        secs => secs.parse::<f64>().ok().map(|secs| (secs * 1e6).round() as u64),
    }
}

/// The bound that so many of a hundred are within. `None`: there are none, or it is beyond all bounds.
fn quantile(buckets: &Buckets, of_100: u64) -> Option<u64> {
    let (_, all) = buckets.last_key_value().filter(|(_, all)| **all > 0)?;
    let within = buckets.iter().find(|(_, count)| **count * 100 >= all * of_100);
    within.map(|(bound, _)| *bound).filter(|bound| *bound != u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_and_quantiles_are_read_from_what_prometheus_is_shown() {
        let shown = "# HELP ashlar_read_bytes_total Bytes\n\
            ashlar_read_bytes_total 1000\n\
            ashlar_read_bytes_total_other 9\n\
            ashlar_door_sent_bytes_total 24\n\
            ashlar_written_bytes_total 7\n\
            ashlar_op_seconds_bucket{op=\"read\",le=\"0.0001\"} 60\n\
            ashlar_op_seconds_bucket{op=\"read\",le=\"0.01\"} 98\n\
            ashlar_op_seconds_bucket{op=\"read\",le=\"+Inf\"} 99\n\
            ashlar_op_seconds_sum{op=\"read\"} 1.5\n\
            ashlar_op_seconds_bucket{op=\"lookup\",le=\"+Inf\"} 5000\n\
            ashlar_door_seconds_bucket{door=\"api\",op=\"get\",le=\"0.0001\"} 0\n\
            ashlar_door_seconds_bucket{door=\"api\",op=\"get\",le=\"0.01\"} 1\n\
            ashlar_door_seconds_bucket{door=\"api\",op=\"get\",le=\"+Inf\"} 1\n";
        let found = throughput(shown);
        let latency_us =
            Latency { read_p50: Some(100), read_p99: Some(10_000), ..Latency::default() };
        let expected =
            Throughput { read_bytes: 1024, written_bytes: 7, reads: 100, writes: 0, latency_us };
        assert_eq!(found, expected);
        assert_eq!(throughput(""), Throughput::default());
    }
}
