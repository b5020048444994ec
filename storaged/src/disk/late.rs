//! Waiting for many disks at once, when any of them may hang.
//!
//! What opening a disk takes is not known beforehand: a moment, or an hour when its index has to be
//! made anew. So a disk is late only beside the others: once half of them have answered, the rest get
//! as long again, and [`LATE`] at least.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout_at};

/// Nothing is late before this.
const LATE: Duration = Duration::from_secs(5);

/// What `total` threads say, of which any may never do: all of it, but for what is late.
pub(crate) async fn all_but_late<T>(total: usize, said: &mut UnboundedReceiver<T>) -> Vec<T> {
    let began = Instant::now();
    let mut all = Vec::new();
    let mut deadline = None;
    while all.len() < total {
        let next = match deadline {
            Some(deadline) => timeout_at(deadline, said.recv()).await.ok().flatten(),
            None => said.recv().await,
        };
        let Some(next) = next else { break };
        all.push(next);
        if deadline.is_none() && 2 * all.len() >= total {
            deadline = Some(Instant::now() + began.elapsed().max(LATE));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::time::sleep;

    /// What arrives when each answers after so many seconds, and how long that took.
    async fn gathered(seconds: &[u64]) -> (usize, u64) {
        let (sender, mut said) = unbounded_channel();
        for after in seconds {
            let (sender, after) = (sender.clone(), *after);
            tokio::spawn(async move {
                sleep(Duration::from_secs(after)).await;
                let _late = sender.send(());
            });
        }
        let began = Instant::now();
        (all_but_late(seconds.len(), &mut said).await.len(), began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_is_late_only_beside_the_others() {
        assert_eq!(gathered(&[0, 0, 0]).await, (3, 0));
        assert_eq!(gathered(&[0, 0, 4]).await, (3, 4));
        assert_eq!(gathered(&[0, 0, 1 << 20]).await, (2, 5), "one hangs");
        assert_eq!(gathered(&[3000, 3000, 5000]).await, (3, 5000), "all are slow");
        assert_eq!(gathered(&[3000, 3000, 7000]).await, (2, 6000));
        assert_eq!(gathered(&[9000]).await, (1, 9000), "there is no other");
    }
}
