//! Mending one blob.
//!
//! Every slot that is up is asked anew what it holds: a census is too old to act on. Then the plan is followed: parts
//! are read where they lie, or made from any k others; they are put where they belong; and copies are dropped whose home
//! has acknowledged them just now. Whatever stops it in between leaves the blob no worse than it was.

use bytes::Bytes;
use futures::future::join_all;
use proto::awake;
use proto::checksum::Checked;
use proto::id::{BlobId, Epoch, PartIndex, PartKey, PartSet, VolumeId};
use proto::limits::MAX_SLOTS;
use proto::part_store::PartError;

use crate::blob_store::{BlobError, BlobStore};
use crate::codec;
use crate::machines::driver::REQUEST_TIMEOUT;
use crate::placement::quorum::SlotSet;
use crate::proxy::sound::Read;
use crate::proxy::{Proxy, of_own_promise};
use crate::repair::layout::{Attendance, Lying, Plan};
use crate::slots::slot_client::Ask;

/// What mending a blob has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mended {
    /// What it had to spare, and what it has now; `None`: too few parts, or it was not looked at.
    pub(crate) before: Option<usize>,
    pub(crate) after: Option<usize>,
    /// Bytes of parts that were put.
    pub(crate) bytes: u64,
    /// A slot that was up has not said what it has of the blob, or whether that is sound.
    pub(crate) unheard: bool,
    /// Slots that do not have of it what they should, if not all was done: those of which something has failed, or all
    /// while the blob lacks a part, or has less to spare than it could.
    pub(crate) undone: SlotSet,
    pub(crate) end: End,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All that could be done is.
    Done,
    /// It is deleted. `lies`: parts of it may lie somewhere all the same.
    Deleted { lies: bool },
    /// It is being put or deleted.
    Busy,
    /// Fewer than k parts were found. `gap`: not every slot of the group was heard, or there is a newer group.
    Short { gap: bool },
    /// The volume has another owner, of this epoch.
    Fenced(Epoch),
    /// Something could not be done.
    Failed(String),
}

impl From<End> for Mended {
    fn from(end: End) -> Self {
        let undone = SlotSet::first(MAX_SLOTS);
        Self { before: None, after: None, bytes: 0, unheard: false, undone, end }
    }
}

/// Where the parts of a blob lie.
pub(crate) struct Found {
    pub(crate) lying: Vec<Lying>,
    /// Copies that slots say they hold and that do not read well.
    rotten: Vec<Lying>,
    /// With those that did not answer taken for away.
    pub(crate) attendance: Attendance,
    pub(crate) deleted: bool,
}

/// The parts of a plan, in its order, and whether some part did not read well.
struct Made {
    parts: Vec<Checked>,
    damaged: bool,
}

/// The copies that did not read well.
fn rotten(said: &[(Lying, Read)]) -> Vec<Lying> {
    said.iter().filter(|(_, read)| *read == Read::Rotten).map(|(home, _)| *home).collect()
}

impl Proxy {
    /// Mends a blob while the slots stand so. `verify`: parts that slots say they hold are read before they count.
    pub(crate) async fn mend(&self, id: BlobId, attendance: Attendance, verify: bool) -> Mended {
        let Some(claim) = self.claims.mend(id) else { return End::Busy.into() };
        let mended = self.mend_claimed(id, attendance, verify).await;
        drop(claim);
        if mended.end == (End::Deleted { lies: true }) {
            // A slot that was away then has parts of it still; they are asked for again if it fails now.
            self.delete(&[id]).await;
        }
        mended
    }

    async fn mend_claimed(&self, id: BlobId, attendance: Attendance, verify: bool) -> Mended {
        let mut found = self.find_parts(id, attendance).await;
        if found.deleted {
            // Where nothing is left there is nothing to be written for it either, under load least of all.
            return End::Deleted { lies: !found.lying.is_empty() }.into();
        }
        let mut unheard = found.attendance.up != attendance.up;
        if verify {
            let said = self.read_parts(id, &found.lying).await;
            unheard |= said.iter().any(|(_, read)| *read == Read::Unanswered);
            found.lying.retain(|home| !said.contains(&(*home, Read::Rotten)));
            found.rotten = rotten(&said);
        }
        let plan = self.case(&id, found.attendance).plan(&found.lying);
        let (Some(before), Some(_)) = (plan.spare, plan.spare_after) else {
            return End::Short { gap: self.has_gap(found.attendance) }.into();
        };
        let (before, after) = (Some(before), plan.spare);
        let done = Mended { before, after, unheard, ..End::Done.into() };
        if plan.is_empty() && found.rotten.is_empty() {
            return done;
        }
        match self.make_parts(id, &plan, &found.lying).await {
            Ok(Made { damaged: true, .. }) if !verify => {
                // What the plan took for good is not.
                Box::pin(self.mend_claimed(id, attendance, true)).await
            }
            Ok(made) => self.carry_out(id, &plan, made.parts, found, done).await,
            Err(BlobError::NotFound(_)) => {
                End::Short { gap: self.has_gap(found.attendance) }.into()
            }
            // Of those that were said to be there too few may be left: that is not to be tried for ever.
            Err(BlobError::Unavailable { .. }) if !verify => {
                Box::pin(self.mend_claimed(id, attendance, true)).await
            }
            Err(why) => Mended { end: End::Failed(why.to_string()), ..done },
        }
    }

    /// May slots have more of a blob than those have said that stood so? All of the group were not heard, or there is
    /// another one by now.
    fn has_gap(&self, attendance: Attendance) -> bool {
        attendance.up != SlotSet::first(self.slots.len()) || self.newer_generation().is_some()
    }

    pub(crate) async fn find_parts(&self, id: BlobId, mut attendance: Attendance) -> Found {
        let asking = attendance
            .up
            .iter()
            .map(|slot| async move { (slot, self.slots[slot].held(Ask::IfUp, id).await) });
        let (mut lying, mut deleted) = (Vec::new(), false);
        for (slot, held) in join_all(asking).await {
            match held {
                Ok(held) => {
                    deleted |= held.deleted;
                    lying.extend(held.parts.iter().map(|part| (part, slot)));
                }
                Err(_) => attendance = attendance.without(slot),
            }
        }
        Found { lying, rotten: Vec::new(), attendance, deleted }
    }

    /// The parts that a plan puts: read where they lie, or made of others.
    async fn make_parts(
        &self,
        id: BlobId,
        plan: &Plan,
        lying: &[Lying],
    ) -> Result<Made, BlobError> {
        let copied = plan.puts.iter().map(|(part, _)| self.copy_of(id, *part, lying));
        if let Some(parts) = join_all(copied).await.into_iter().collect() {
            return Ok(Made { parts, damaged: false });
        }
        if let Some(parts) = self.parts_of_parts(id, plan, lying).await {
            return Ok(Made { parts, damaged: false });
        }
        // One of them did not come, or does not read well: then in all the ways that users have.
        let (whole, noticed) = self.get_range(id, 0..id.len()).await;
        let all = codec::encode(id, &whole?);
        let parts = plan.puts.iter().map(|(part, _)| all[part.get()].clone()).collect();
        let damaged = noticed == Some(crate::machines::notices::Why::Damaged);
        Ok(Made { parts, damaged })
    }

    /// The parts that a plan puts, of k whole ones.
    async fn parts_of_parts(
        &self,
        id: BlobId,
        plan: &Plan,
        lying: &[Lying],
    ) -> Option<Vec<Checked>> {
        let k = id.scheme().data_parts();
        let there: PartSet = lying.iter().map(|(part, _)| *part).collect();
        let reads = there.iter().take(k).map(|part| async move {
            self.read_part(id, part, lying).await.map(|bytes| (part, bytes))
        });
        let given: Option<Vec<_>> = join_all(reads).await.into_iter().collect();
        let wanted: Vec<PartIndex> = plan.puts.iter().map(|(part, _)| *part).collect();
        codec::restore(id, &given?, &wanted).ok()
    }

    /// A part as some slot has it.
    async fn copy_of(&self, id: BlobId, part: PartIndex, lying: &[Lying]) -> Option<Checked> {
        self.read_part(id, part, lying).await.map(Checked::compute)
    }

    /// The bytes of a part as some slot has it.
    async fn read_part(&self, id: BlobId, part: PartIndex, lying: &[Lying]) -> Option<Bytes> {
        let key = PartKey { blob: id, part };
        for (_, slot) in lying.iter().filter(|(p, _)| *p == part) {
            let read = self.slots[*slot].get(Ask::IfUp, key, 0..id.part_len());
            if let Ok(Ok(bytes)) = awake::timeout(REQUEST_TIMEOUT, read).await {
                return Some(bytes);
            }
        }
        None
    }

    /// Puts, then drops.
    async fn carry_out(
        &self,
        id: BlobId,
        plan: &Plan,
        parts: Vec<Checked>,
        Found { lying, rotten, attendance, .. }: Found,
        mut mended: Mended,
    ) -> Mended {
        let issuer = self.issuer(id.volume());
        let putting = plan.puts.iter().zip(parts).map(|((part, slot), data)| async move {
            let key = PartKey { blob: id, part: *part };
            let put = self.slots[*slot].put(Ask::IfUp, key, data, issuer);
            let put = awake::timeout(REQUEST_TIMEOUT, put).await;
            let late = || PartError::Unreachable("no answer in time".to_owned());
            ((*part, *slot), of_own_promise(put.unwrap_or_else(|_| Err(late())), issuer))
        });
        let (mut proven, mut failed) = (Vec::<Lying>::new(), SlotSet::EMPTY);
        for (home, put) in join_all(putting).await {
            match put {
                Ok(()) => proven.push(home),
                Err(why) => {
                    failed.insert(home.1);
                    mended.end = self.worse(mended.end, home.1, &why);
                }
            }
        }
        mended.bytes = proven.len() as u64 * u64::from(id.part_len());
        let case = self.case(&id, attendance);
        let mut after: Vec<Lying> = lying.into_iter().chain(proven.iter().copied()).collect();
        mended.after = case.spare(after.iter().copied());
        if let End::Deleted { .. } = mended.end {
            return mended;
        }
        let is_proven =
            |(part, slot): &&Lying| proven.iter().any(|(p, home)| p == part && home != slot);
        // What is rotten and was not put anew is where its part does not belong.
        let held = after.clone();
        let is_useless = |copy: &&Lying| {
            attendance.writable.contains(copy.1)
                && !plan.puts.contains(*copy)
                && held.iter().any(|(part, _)| *part == copy.0)
        };
        let drops = plan.drops.iter().filter(is_proven);
        for copy in drops.chain(rotten.iter().filter(is_useless)) {
            // The plan is safe as a whole: of one of which a put has failed, a drop may not be.
            let left: Vec<Lying> = after.iter().filter(|lying| *lying != copy).copied().collect();
            if left.len() < after.len() && !case.may_drop_to(&left, mended.before) {
                continue;
            }
            let (part, slot) = *copy;
            let dropped = self.slots[slot].drop_part(PartKey { blob: id, part }, issuer);
            if let Err(why) = dropped.await {
                failed.insert(slot);
                mended.end = self.worse(mended.end, slot, &why);
            }
            // An answer may be lost of what was done: the copy is relied on no more either way.
            after = left;
        }
        mended.after = case.spare(after.iter().copied());
        let found: PartSet = after.iter().map(|(part, _)| *part).collect();
        if found.len() == id.scheme().parts() && mended.after >= Some(case.best()) {
            mended.undone = failed;
        }
        mended
    }

    /// Of how it ended so far and what a slot has said, what counts more.
    fn worse(&self, so_far: End, slot: usize, why: &PartError) -> End {
        match (so_far, why) {
            (End::Fenced(epoch), _) => End::Fenced(epoch),
            (_, PartError::Fenced { epoch }) => End::Fenced(*epoch),
            (End::Deleted { .. }, _) | (_, PartError::Deleted) => End::Deleted { lies: true },
            (End::Failed(first), _) => End::Failed(first),
            _ => End::Failed(format!("slot {slot} ({}): {why}", self.slots[slot].place)),
        }
    }

    /// Tells the slots that they have again all that they should of the volume. Before that each promises it to whoever has
    /// it: one that is whole is believed when it says that it has promised it to nobody. One that does not keeps no other.
    ///
    /// # Errors
    /// What the first of them said that does not know it now, or [`Proxy::leads_still`]'s, and none was told anything.
    pub(crate) async fn all_rebuilt(
        &self,
        volume: VolumeId,
        slots: SlotSet,
    ) -> Result<(), PartError> {
        let led = self.leads_still(volume).await?;
        let issuer = self.issuer(volume);
        let telling = slots.iter().map(|slot| {
            let slot = self.slots[slot].clone();
            async move {
                if let Some(issuer) = led {
                    slot.fence(volume, issuer).await?;
                }
                slot.rebuilt(volume, issuer).await
            }
        });
        join_all(telling).await.into_iter().collect()
    }
}
