//! Times as S3 writes them. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meta::Time;

/// Last second that has a year of four digits.
const LAST: i64 = 253_402_300_799;

/// A time of the tree, which may be before the epoch, as the system has it.
pub(super) fn system(time: Time) -> SystemTime {
    let secs = u64::try_from(time.secs.clamp(0, LAST)).unwrap_or(0);
    UNIX_EPOCH + Duration::new(secs, time.nanos)
}

/// As in XML: `2026-11-27T02:10:08.123Z`.
pub(super) fn iso(time: Time) -> String {
    humantime::format_rfc3339_millis(system(time)).to_string()
}

/// As in headers: whole seconds.
pub(super) fn http(time: Time) -> String {
    httpdate::fmt_http_date(system(time))
}

/// Seconds since the epoch of a date in a header. Python's clients write the zone as mails have it.
pub(super) fn of_http(text: &str) -> Option<u64> {
    let text = text.trim();
    let bare = ["-0000", "+0000"].iter().find_map(|zone| text.strip_suffix(zone));
    let text = bare.map_or(text.to_owned(), |bare| format!("{bare}GMT"));
    let time = httpdate::parse_http_date(&text).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Seconds since the epoch of `20261127T021008Z`.
pub(super) fn of_basic(text: &str) -> Option<u64> {
    let is_one = text.len() == 16
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
    if !is_one {
        return None;
    }
    let (year, month, day) = (&text[..4], &text[4..6], &text[6..8]);
    let (hour, minute, second) = (&text[9..11], &text[11..13], &text[13..15]);
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    let time = humantime::parse_rfc3339(&text).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_there_and_back() {
        assert_eq!(of_basic("20150830T123600Z"), Some(1_440_938_160));
        for bad in
            ["", "20150830T123600", "20150830T1236 0Z", "2015083\u{e4}T12360Z", "20151330T123600Z"]
        {
            assert_eq!(of_basic(bad), None, "{bad}");
        }
        let time = Time { secs: 1_440_938_160, nanos: 123_456_789 };
        assert_eq!(iso(time), "2015-08-30T12:36:00.123Z");
        assert_eq!(of_http(&http(time)), Some(1_440_938_160));
        assert_eq!(of_http("Sun, 30 Aug 2015 12:36:00 -0000"), Some(1_440_938_160));
        assert_eq!(iso(Time { secs: -5, nanos: 0 }), "1970-01-01T00:00:00.000Z");
    }
}
