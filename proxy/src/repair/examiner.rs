//! Who checks a volume beside its users: blobs are read at the pace of repair ([`crate::repair::pace`]), which gives
//! way to what users ask for.

use parking_lot::Mutex;
use proto::id::BlobId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::proxy::Proxy;
use crate::repair::examine::Examined;
use crate::repair::pace::{Charge, Pace};

/// Who else wants anything of the disks while a volume is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// Nobody: as fast as can be.
    None,
    /// Who asks by the same proxy, which knows when: so many bytes a second at most while nobody does.
    Here(u64),
    /// Somebody who is not seen from here, and is taken to ask all the time.
    Elsewhere(u64),
}

/// Examines blobs, one call for each, as many at once as its callers want and the pace allows.
pub struct Examiner<'a> {
    proxy: &'a Proxy,
    users: Users,
    course: Mutex<Course>,
    /// Some call has ended that read.
    ended: Notify,
}

struct Course {
    pace: Pace,
    under_way: usize,
}

impl<'a> Examiner<'a> {
    /// Of the blobs of a proxy.
    pub fn new(proxy: &'a Proxy, users: Users) -> Self {
        let rate = match users {
            Users::None => u64::MAX,
            Users::Here(rate) | Users::Elsewhere(rate) => rate,
        };
        let course = Mutex::new(Course { pace: Pace::new(rate), under_way: 0 });
        Self { proxy, users, course, ended: Notify::new() }
    }

    /// How a blob is. `read`: every copy of a part is read and verified, when it is the blob's turn; all of one blob are
    /// in memory then, no more.
    pub async fn examine(&self, id: BlobId, read: bool) -> Examined {
        if !read {
            return self.proxy.examine(id, false).await;
        }
        let charge = self.turn(id).await;
        let examined = self.proxy.examine(id, true).await;
        self.end(charge);
        examined
    }

    /// Mends a blob, when it is its turn, as repair does, by who leads its volume.
    ///
    /// # Errors
    /// Why not, for people.
    pub async fn make_whole(&self, id: BlobId) -> Result<(), String> {
        let charge = self.turn(id).await;
        let made = self.proxy.make_whole(id).await;
        self.end(charge);
        made
    }

    /// Waits until all parts of a blob may be read.
    async fn turn(&self, id: BlobId) -> Charge {
        let bytes = id.scheme().parts() as u64 * u64::from(id.part_len());
        loop {
            match self.begin(bytes) {
                Ok(charge) => return charge,
                Err(Some(next)) => sleep_until(next).await,
                Err(None) => self.ended.notified().await,
            }
        }
    }

    /// `Err`: not now, but then, or when another has ended.
    fn begin(&self, bytes: u64) -> Result<Charge, Option<Instant>> {
        let now = Instant::now();
        let busy = match self.users {
            Users::None => false,
            Users::Here(_) => self.proxy.traffic.is_busy(now),
            Users::Elsewhere(_) => true,
        };
        let mut course = self.course.lock();
        if !course.pace.may_begin(course.under_way, busy, now).map_err(Some)? {
            return Err(None);
        }
        course.under_way += 1;
        Ok(course.pace.begin(bytes, busy, now))
    }

    fn end(&self, charge: Charge) {
        let mut course = self.course.lock();
        course.under_way -= 1;
        course.pace.end(charge, charge.bytes, Instant::now());
        drop(course);
        self.ended.notify_one();
    }
}
