//! Which blobs are being put, deleted or mended by this proxy at the moment: those who must not meet.
//!
//! A part that repair puts must not land after the blob's delete was forgotten: it would be there again for ever. So
//! a blob under repair is not deleted, but asked for again later, and one that is being deleted is not mended. Nor is
//! one that is being put: what it lacks is on its way. Who looks for parts asks here whether they may be moving.
//!
//! Invariants:
//! * No blob is mended and deleted at once.
//! * A claim ends when it is dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use proto::id::BlobId;
use tokio::sync::watch;

/// Mends that have ended and are remembered, the last ones: as many as may end while one blob is looked for.
const REMEMBERED: usize = 256;

/// What is being done to one blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Doing {
    puts: u32,
    deletes: u32,
    mends: bool,
}

/// All that are claimed.
#[derive(Debug)]
pub(crate) struct Claims {
    claimed: Arc<Mutex<HashMap<BlobId, Doing>>>,
    mended: Arc<watch::Sender<Mended>>,
}

/// Mends that have ended.
#[derive(Debug, Default)]
struct Mended {
    count: u64,
    /// What the last of them were of.
    last: VecDeque<BlobId>,
}

impl Mended {
    fn add(&mut self, blob: BlobId) {
        self.count += 1;
        self.last.push_front(blob);
        self.last.truncate(REMEMBERED);
    }
}

impl Default for Claims {
    fn default() -> Self {
        let mended = Arc::new(watch::Sender::new(Mended::default()));
        Self { claimed: Arc::default(), mended }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Put,
    Delete,
    Mend,
}

/// Some blobs that one thing is done to.
#[derive(Debug)]
pub(crate) struct Claim {
    claimed: Arc<Mutex<HashMap<BlobId, Doing>>>,
    mended: Arc<watch::Sender<Mended>>,
    what: What,
    blobs: Vec<BlobId>,
}

impl Claims {
    /// A put of the blob begins.
    pub(crate) fn put(&self, blob: BlobId) -> Claim {
        self.claimed.lock().entry(blob).or_default().puts += 1;
        self.claim(What::Put, vec![blob])
    }

    /// These are to be deleted: those that can be now, and those that are under repair.
    pub(crate) fn delete(&self, blobs: Vec<BlobId>) -> (Claim, Vec<BlobId>) {
        let mut claimed = self.claimed.lock();
        let mends = |blob: &BlobId| claimed.get(blob).is_some_and(|doing| doing.mends);
        let (mending, free): (Vec<_>, Vec<_>) = blobs.into_iter().partition(mends);
        free.iter().for_each(|blob| claimed.entry(*blob).or_default().deletes += 1);
        drop(claimed);
        (self.claim(What::Delete, free), mending)
    }

    /// The blob is to be mended; `None`: not now.
    pub(crate) fn mend(&self, blob: BlobId) -> Option<Claim> {
        let mut claimed = self.claimed.lock();
        let doing = claimed.entry(blob).or_default();
        if *doing != Doing::default() {
            return None;
        }
        doing.mends = true;
        drop(claimed);
        Some(self.claim(What::Mend, vec![blob]))
    }

    /// How many mends have ended.
    pub(crate) fn mended(&self) -> u64 {
        self.mended.borrow().count
    }

    /// May parts of the blob have moved since so many mends had ended?
    pub(crate) fn has_moved(&self, blob: BlobId, since: u64) -> bool {
        if self.is_mended(blob) {
            return true;
        }
        let mended = self.mended.borrow();
        let later = (mended.count - since) as usize;
        later > mended.last.len() || mended.last.iter().take(later).any(|other| *other == blob)
    }

    fn is_mended(&self, blob: BlobId) -> bool {
        self.claimed.lock().get(&blob).is_some_and(|doing| doing.mends)
    }

    /// Is it being put, or mended?
    pub(crate) fn is_put_or_mended(&self, blob: BlobId) -> bool {
        self.claimed.lock().get(&blob).is_some_and(|doing| doing.mends || doing.puts > 0)
    }

    /// Waits until it is not being mended.
    pub(crate) async fn until_mended(&self, blob: BlobId) {
        let mut mended = self.mended.subscribe();
        let _ = mended.wait_for(|_| !self.is_mended(blob)).await;
    }

    /// Is the blob being put or deleted?
    pub(crate) fn is_written(&self, blob: &BlobId) -> bool {
        self.claimed.lock().get(blob).is_some_and(|doing| doing.puts + doing.deletes > 0)
    }

    fn claim(&self, what: What, blobs: Vec<BlobId>) -> Claim {
        Claim { claimed: self.claimed.clone(), mended: self.mended.clone(), what, blobs }
    }
}

impl Claim {
    /// What is claimed.
    pub(crate) fn blobs(&self) -> &[BlobId] {
        &self.blobs
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = self.claimed.lock();
        for blob in &self.blobs {
            let Some(doing) = claimed.get_mut(blob) else { continue };
            match self.what {
                What::Put => doing.puts -= 1,
                What::Delete => doing.deletes -= 1,
                What::Mend => doing.mends = false,
            }
            if *doing == Doing::default() {
                claimed.remove(blob);
            }
        }
        drop(claimed);
        if self.what == What::Mend {
            self.mended.send_modify(|mended| self.blobs.iter().for_each(|blob| mended.add(*blob)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{GroupId, SessionId, VolumeId};

    fn blob(sequence: u64) -> BlobId {
        let scheme = "ec(4,2)".parse().unwrap();
        BlobId::new(VolumeId(1), SessionId(7), sequence, GroupId(0), 4096, scheme).unwrap()
    }

    #[test]
    fn a_blob_is_mended_or_deleted_or_put_and_never_two_of_them() {
        let claims = Claims::default();
        let mend = claims.mend(blob(1)).unwrap();
        assert!(claims.mend(blob(1)).is_none());
        let (delete, later) = claims.delete(vec![blob(1), blob(2)]);
        assert_eq!((delete.blobs(), later), (&[blob(2)][..], vec![blob(1)]));
        assert!(claims.mend(blob(2)).is_none(), "it is being deleted");
        assert!(claims.is_written(&blob(2)) && !claims.is_written(&blob(1)));
        let put = claims.put(blob(3));
        let again = claims.put(blob(3));
        drop(put);
        assert!(claims.mend(blob(3)).is_none(), "it is being put");
        assert!(claims.is_written(&blob(3)));
        drop((mend, delete, again));
        assert!(!claims.is_written(&blob(3)));
        assert!([1, 2, 3].iter().all(|n| claims.mend(blob(*n)).is_some()));
        assert!(claims.claimed.lock().is_empty());
    }

    #[tokio::test]
    async fn who_looks_for_a_blob_learns_when_its_parts_are_at_rest() {
        let claims = Claims::default();
        claims.until_mended(blob(1)).await;
        let begun = claims.mended();
        let (mend, put) = (claims.mend(blob(1)).unwrap(), claims.put(blob(2)));
        assert!(claims.has_moved(blob(1), begun) && !claims.has_moved(blob(2), begun));
        assert!(claims.is_put_or_mended(blob(1)) && claims.is_put_or_mended(blob(2)));
        tokio::join!(claims.until_mended(blob(1)), async { drop(mend) });
        assert!(claims.has_moved(blob(1), begun), "it was mended meanwhile");
        assert!(!claims.has_moved(blob(1), claims.mended()), "and is at rest since");
        drop(put);
        assert!(!claims.is_put_or_mended(blob(2)) && !claims.has_moved(blob(2), begun));
        (0..300).for_each(|_| drop(claims.mend(blob(3))));
        assert!(claims.has_moved(blob(2), begun), "nobody knows any more");
    }
}
