//! Where a log ends, decided from what a scan found. Pure.
//!
//! A batch is one write, and only the last batch of the last file can be torn: every one before it
//! was made durable before the next began. So what is wrong in the last batch is a tear, and ends
//! the log; what is wrong before it is rot, and is stepped over.

/// A good header that a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Where the record starts.
    pub(crate) block: u32,
    /// The block behind it.
    pub(crate) end: u32,
    /// Where its batch starts.
    pub(crate) batch: u32,
}

/// The records, of those seen in a log's last file, whose payload must be looked at.
pub(crate) fn suspects(seen: &[Seen]) -> &[Seen] {
    let last_batch = seen.last().map_or(0, |last| last.batch);
    &seen[seen.partition_point(|record| record.block < last_batch)..]
}

/// The block behind the last record that counts. The scan began at `start`; `whole` says of a
/// suspect whether its payload is good.
pub(crate) fn end_of_log(start: u32, seen: &[Seen], mut whole: impl FnMut(&Seen) -> bool) -> u32 {
    let suspects = suspects(seen);
    let sure = seen.len() - suspects.len();
    let mut end = seen[..sure].last().map_or(start, |record| record.end);
    // A gap before the last batch is rot.
    if let Some(first) = suspects.first() {
        end = end.max(first.batch);
    }
    for record in suspects {
        if record.block != end || !whole(record) {
            return end;
        }
        end = record.end;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(block: u32, end: u32, batch: u32) -> Seen {
        Seen { block, end, batch }
    }

    #[test]
    fn ends() {
        let good = [seen(0, 2, 0), seen(2, 3, 2), seen(3, 6, 2), seen(6, 7, 2)];
        let torn = |bad: u32| move |record: &Seen| record.block != bad;
        assert_eq!(end_of_log(5, &[], |_| true), 5, "nothing new");
        assert_eq!(end_of_log(0, &good, |_| true), 7, "all whole");
        assert_eq!(end_of_log(0, &good, torn(3)), 3, "a torn payload ends the log");
        assert_eq!(end_of_log(0, &good, torn(2)), 2, "so does the first of the batch");
        assert_eq!(end_of_log(0, &good, torn(0)), 7, "what is before the last batch is not asked");
        let gap = [good[0], good[1], good[3]];
        assert_eq!(end_of_log(0, &gap, |_| true), 3, "a header torn within the last batch");
        let headless = [good[0], good[2], good[3]];
        assert_eq!(end_of_log(0, &headless, |_| true), 2, "the last batch without its first");
        let rot = [seen(0, 2, 0), seen(4, 5, 4)];
        assert_eq!(end_of_log(0, &rot, |_| true), 5, "a gap before the last batch is rot");
    }
}
