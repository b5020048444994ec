//! The whole proxy over slots in memory that fail, hang, rot and fill up. Time is paused: waits are
//! measured, not waited for.

mod support;

use std::time::Duration;

use proto::id::{PartSet, SessionId, VolumeId};
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
