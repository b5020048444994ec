//! How one blob is, by what its slots say now: whether it is whole, what of it can be restored, what is away with disks
//! that do not answer, and what is lost. For whoever checks a volume; nothing is changed.
//!
//! Three things are kept apart:
//! * *lost*: fewer than k parts are there, and silent slots cannot have enough of the others;
//! * *can be restored*: k parts are there, and repair would put some anew;
//! * *away*: what is missing is where slots do not answer, as far as can be known.
//!
//! What repair would do is what it plans ([`crate::repair::layout`]), so that nothing is called restorable that it would
//! leave, and what is restored for a check is mended as everything else is ([`crate::repair::mend`]).

use std::time::Duration;

use proto::id::{BlobId, PartIndex, PartSet};
use proto::limits::footprint;
use tokio::time::Instant;

use crate::placement::quorum::{SlotSet, Spread};
use crate::proxy::Proxy;
use crate::proxy::sound::Read;
use crate::repair::layout::Attendance;
use crate::repair::mend::{End, Found};
use crate::repair::presence::{Presence, Seen};
use crate::slots::slot_client::SlotClient;

/// A slot with room for fewer parts than this, as long as those of large blobs, is given none.
const SHORT: u64 = 16;

/// How soon a blob that others are at is tried again, and how often.
const BUSY: (Duration, u32) = (Duration::from_millis(100), 50);

/// What has become of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// All its parts are there, as far apart as can be.
    Whole,
    /// It can be read, and can lose less than it could; repair would change that, once there is a place.
    Restorable,
    /// What is missing may be on slots that do not answer.
    Away,
    /// Fewer than k of its parts are left.
    Lost,
}

/// A blob as its slots say it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// What has become of it.
    pub fate: Fate,
    /// How many units it can lose, as far as it is seen; `None`: it cannot be read.
    pub spare: Option<usize>,
    /// Parts of which no good copy was found.
    pub missing: PartSet,
    /// Copies that do not read well, each with its part and place.
    pub damaged: Vec<(PartIndex, String)>,
    /// A slot says that it is deleted.
    pub deleted: bool,
}

impl Proxy {
    /// How the slots stand.
    pub(crate) fn seen(&self) -> Seen {
        let room = SHORT * footprint(1 << 20);
        Seen {
            down: self.slots_that(SlotClient::is_down),
            read_only: self.slots_that(SlotClient::takes_no_writes),
            full: self.slots_that(|slot| !slot.has_room_for_repair(room)),
            drains: self.slots_that(|slot| slot.drains),
            changes: self.slots.iter().map(|slot| slot.changes()).sum(),
        }
    }

    /// The same, when all that are away may be back.
    fn attendance(&self) -> Attendance {
        let mut presence = Presence::new(self.slots.len(), Duration::MAX);
        presence.look(self.seen(), Instant::now());
        presence.attendance()
    }

    /// How a blob is. `read`: every copy of a part is read and verified; all of one blob are in memory then, no more.
    pub(crate) async fn examine(&self, id: BlobId, read: bool) -> Examined {
        let mut found = self.find_parts(id, self.attendance()).await;
        let mut damaged = Vec::new();
        if read {
            let said = self.read_parts(id, &found.lying).await;
            found.lying.clear();
            for ((part, slot), read) in said {
                match read {
                    Read::Sound => found.lying.push((part, slot)),
                    Read::Rotten => damaged.push((part, self.slots[slot].place.clone())),
                    Read::Unanswered => found.attendance = found.attendance.without(slot),
                }
            }
        }
        let parts: PartSet = found.lying.iter().map(|(part, _)| *part).collect();
        let missing = PartSet::first(id.scheme().parts()).minus(parts);
        let (fate, spare) = self.fate(id, &found, missing, !damaged.is_empty());
        Examined { fate, spare, missing, damaged, deleted: found.deleted }
    }

    fn fate(
        &self,
        id: BlobId,
        found: &Found,
        missing: PartSet,
        damaged: bool,
    ) -> (Fate, Option<usize>) {
        if found.deleted {
            return (Fate::Lost, None);
        }
        let case = self.case(&id, found.attendance);
        let plan = case.plan(&found.lying);
        let Some(spare) = plan.spare else {
            let there = id.scheme().parts() - missing.len();
            let enough = there + self.may_hide(id, found.attendance.up) >= id.scheme().data_parts();
            // Nor is anything lost by what slots of an outdated group say.
            let enough = enough || self.newer_generation().is_some();
            return (if enough { Fate::Away } else { Fate::Lost }, None);
        };
        let awaits = plan.awaited == missing.len();
        let fate = match missing.is_empty() {
            _ if damaged => Fate::Restorable,
            false if awaits => Fate::Away,
            false => Fate::Restorable,
            true if plan.spare_after > Some(spare) => Fate::Restorable,
            true => Fate::Whole,
        };
        (fate, Some(spare))
    }

    /// Most parts of a blob that slots have which say nothing.
    fn may_hide(&self, id: BlobId, up: SlotSet) -> usize {
        let rules = self.rules(id.volume(), id.scheme().parity_parts());
        let spread = match id.session().is_metadata() {
            true => Spread::Apart(rules.layout),
            false => Spread::AsPossible { spare: rules.least_spare.into() },
        };
        self.group.hidden(id.scheme(), spread, self.group.all().minus(up))
    }

    /// Mends a blob, as repair does, by who leads its volume.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) async fn make_whole(&self, id: BlobId) -> Result<(), String> {
        let mut mended = self.mend(id, self.attendance(), true).await;
        for _ in 0..BUSY.1 {
            if mended.end != End::Busy {
                break;
            }
            tokio::time::sleep(BUSY.0).await;
            mended = self.mend(id, self.attendance(), true).await;
        }
        match mended.end {
            End::Done if mended.unheard => Err("a disk did not say what it has of it".to_owned()),
            End::Done => Ok(()),
            End::Deleted { .. } => Err("it was deleted".to_owned()),
            End::Busy => Err("it is being put or deleted".to_owned()),
            End::Short { .. } => Err("too few of its parts are there".to_owned()),
            End::Fenced(epoch) => Err(format!("its volume has another owner, at epoch {epoch}")),
            End::Failed(why) => Err(why),
        }
    }
}
