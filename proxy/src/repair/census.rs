//! A census: every blob of a volume, how safe it is, and what is to be done about it.
//!
//! Slots are asked for lists only, no data: a page of each at a time. A slot that fails is unheard from there on, and
//! the census has a gap: then nothing is called lost, and no slot whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use proto::id::{BlobId, PartSet, VolumeId};
use proto::limits::{MAX_LIST, footprint};
use proto::part_store::{Page, Scope};
use proto::scheme::Scheme;

use crate::placement::Group;
use crate::placement::quorum::{SlotSet, Spread};
use crate::proxy::Proxy;
use crate::repair::layout::{Attendance, Case, Lying, Plan};
use crate::repair::merge::{Merge, Of, Sighting};
use crate::repair::report::Counts;
use crate::rules::VolumeRules;
use crate::slots::slot_client::Ask;

/// Some of the blobs that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In order of id; not empty unless `complete`.
    pub blobs: Vec<BlobId>,
    /// Nothing follows the last one.
    pub complete: bool,
}

/// What knows which blobs a volume needs: a blob that is not wanted is not missed.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Those after `after`, about `limit` of them; `None`: it cannot say at present.
    async fn wanted(&self, after: Option<BlobId>, limit: usize) -> Option<Wanted>;

    /// Is this one wanted? `None`: it cannot say at present.
    async fn wants(&self, blob: BlobId) -> Option<bool>;
}

/// How the parts of a blob may lie by such rules, or the map's where there are none: those of metadata never share
/// a unit.
fn spread_of(blob: &BlobId, group: &Group, rules: Option<VolumeRules>) -> Spread {
    let by_map = || VolumeRules::unknown(group.layout(blob.scheme().parity_parts()));
    let rules = rules.unwrap_or_else(by_map);
    match blob.session().is_metadata() {
        true => Spread::Apart(rules.layout),
        false => Spread::AsPossible { spare: rules.min_spare.into() },
    }
}

/// What there is to do about a blob that a census has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It is to be mended; it has so much to spare, and so many bytes of parts are to be put. `counts`: it is counted as
    /// one that has.
    Mend { spare: usize, bytes: u64, counts: bool },
    /// Fewer than k parts of it are there, and silent slots cannot have the others: it may have been deleted meanwhile, or put,
    /// as slots tell what they have one after the other. It counts as nothing before it was looked at.
    Short,
}

/// Parts that belong on one slot and are nowhere: it has no room for them, and no other has a place that would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) parts: u64,
    /// Bytes of disks that they would take.
    pub(crate) bytes: u64,
}

/// What a census has come to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) counts: Counts,
    /// Every slot of the group has told all it has.
    pub(crate) whole: bool,
    /// One that was up has not.
    pub(crate) failed: bool,
    /// Bytes of parts that are to be put.
    pub(crate) bytes: u64,
    /// Blobs that are to be mended.
    pub(crate) mends: u64,
    /// Parts that there is no place for, and those that stay on slots that are to be left.
    pub(crate) placeless: u64,
    pub(crate) staying: u64,
    /// By the slot that they belong on, what there is no place for of the blobs that count.
    pub(crate) missing: BTreeMap<usize, Missing>,
    /// Slots that say of themselves that they do not have all that they should.
    pub(crate) rebuilding: SlotSet,
}

/// Judges blobs one after the other.
struct Judge<'a> {
    group: &'a Group,
    rules: Option<VolumeRules>,
    attendance: Attendance,
    /// What a blob of each scheme can have to spare.
    best: BTreeMap<(Scheme, bool), usize>,
    outcome: Outcome,
}

impl Judge<'_> {
    fn case(&self, blob: &BlobId) -> Case<'_> {
        case(self.group, self.rules, blob, self.attendance)
    }

    fn best(&mut self, blob: &BlobId) -> usize {
        let key = (blob.scheme(), blob.session().is_metadata());
        if let Some(best) = self.best.get(&key) {
            return *best;
        }
        let best = self.case(blob).best();
        self.best.insert(key, best);
        best
    }

    /// What is to be done about a blob, if anything. `busy`: it is being put or deleted.
    fn judge(&mut self, sighting: &Sighting, busy: bool) -> Option<Finding> {
        let Sighting { blob, lying, wanted } = sighting;
        let counts = *wanted != Some(false) || blob.session().is_metadata();
        let plan = self.case(blob).plan(lying);
        let Some(spare) = plan.spare else {
            // Of what nobody wants it is the remains of a put that failed, or of a delete that was missed.
            if !self.may_be_silent(blob, lying) {
                return Some(Finding::Short);
            }
            self.outcome.counts.unavailable += u64::from(counts && !busy);
            return None;
        };
        if counts {
            let best = self.best(blob);
            self.outcome.counts.add(spare, best);
        }
        self.outcome.placeless += plan.placeless.len() as u64;
        self.outcome.staying += plan.staying as u64;
        if counts {
            self.miss(blob, plan.placeless, lying);
        }
        if plan.is_empty() {
            return None;
        }
        let bytes = bytes_of(blob, &plan);
        self.outcome.bytes += bytes;
        self.outcome.mends += 1;
        Some(Finding::Mend { spare, bytes, counts })
    }

    /// May slots that say nothing have what a blob lacks that lies so? Else it is looked at: what was put since slots
    /// gave their lists is not in these.
    fn may_be_silent(&self, blob: &BlobId, lying: &[Lying]) -> bool {
        let silent = self.group.all().minus(self.attendance.up);
        let found: PartSet = lying.iter().map(|(part, _)| *part).collect();
        let hidden = self.group.hidden(blob.scheme(), Spread::ANY, silent);
        found.len() + hidden >= blob.scheme().data_parts()
    }

    /// Counts those of the parts without a place that lie nowhere. One that belongs on no slot, as there are fewer
    /// slots than parts, is missed by none.
    fn miss(&mut self, blob: &BlobId, placeless: PartSet, lying: &[Lying]) {
        let placement = self.group.place(*blob);
        for part in placeless.iter().filter(|part| lying.iter().all(|(other, _)| other != part)) {
            if let Some(main) = placement.main(part.get()) {
                let missing = self.outcome.missing.entry(main).or_default();
                missing.parts += 1;
                missing.bytes += footprint(blob.part_len());
            }
        }
    }
}

/// A blob of a group while the slots stand so.
fn case<'a>(
    group: &'a Group,
    rules: Option<VolumeRules>,
    blob: &BlobId,
    attendance: Attendance,
) -> Case<'a> {
    let (placement, spread) = (group.place(*blob), spread_of(blob, group, rules));
    Case { group, placement, scheme: blob.scheme(), spread, attendance }
}

/// Bytes of parts that a plan puts.
pub(crate) fn bytes_of(blob: &BlobId, plan: &Plan) -> u64 {
    plan.puts.len() as u64 * u64::from(blob.part_len())
}

impl Proxy {
    /// A blob while the slots stand so.
    pub(crate) fn case(&self, blob: &BlobId, attendance: Attendance) -> Case<'_> {
        case(&self.group, self.known_rules(blob.volume()), blob, attendance)
    }

    /// Counts the blobs of a volume; `find` is told of those about which there is something to do.
    pub(crate) async fn census(
        &self,
        volume: VolumeId,
        attendance: Attendance,
        ledger: &Arc<dyn Ledger>,
        mut find: impl FnMut(BlobId, Finding) + Send,
    ) -> Outcome {
        let slots = self.slots.len();
        let mut merge = Merge::new(slots, SlotSet::first(slots).minus(attendance.up), true);
        let outcome = Outcome::default();
        let (group, rules) = (&*self.group, self.known_rules(volume));
        let mut judge = Judge { group, rules, attendance, best: BTreeMap::new(), outcome };
        loop {
            let hungry = merge.hungry();
            if hungry.is_empty() {
                break;
            }
            let asking = hungry
                .into_iter()
                .map(|(of, after)| async move { (of, self.page(volume, of, after, ledger).await) });
            for (of, page) in join_all(asking).await {
                match (of, page) {
                    (_, Some(page)) => merge.feed(of, page),
                    (of, None) => merge.break_off(of),
                }
                if let Of::Slot(slot) = of
                    && !merge.heard().contains(slot)
                {
                    judge.attendance = judge.attendance.without(slot);
                }
            }
            while let Some(sighting) = merge.next() {
                let busy = self.claims.is_written(&sighting.blob);
                if let Some(finding) = judge.judge(&sighting, busy) {
                    find(sighting.blob, finding);
                }
            }
            tokio::task::yield_now().await;
        }
        let heard = merge.heard();
        let (whole, failed) =
            (heard == SlotSet::first(slots), !attendance.up.minus(heard).is_empty());
        Outcome { whole, failed, rebuilding: merge.rebuilding(), ..judge.outcome }
    }

    async fn page(
        &self,
        volume: VolumeId,
        of: Of,
        after: Option<BlobId>,
        ledger: &Arc<dyn Ledger>,
    ) -> Option<Page> {
        match of {
            Of::Slot(slot) => {
                let scope = Scope::Volume(volume);
                self.slots[slot].list(Ask::IfUp, scope, after, MAX_LIST).await.ok()
            }
            Of::Wanted => {
                let Wanted { blobs, complete } = ledger.wanted(after, MAX_LIST as usize).await?;
                let entries = blobs.into_iter().map(|blob| (blob, PartSet::EMPTY)).collect();
                Some(Page { entries, complete, rebuilding: false })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{DiskId, GroupId, PartIndex, SessionId};
    use std::time::Instant;

    /// A million parts on eight slots, one of which is empty, so that every sixth blob or so wants mending.
    #[test]
    #[ignore = "measures; says how long"]
    fn a_census_of_a_million_parts() {
        const BLOBS: u64 = 1_000_000 / 6;
        let disks: Vec<_> = (0..8u8).map(|n| DiskId::from_slice(&[n; 16]).unwrap()).collect();
        let names: Vec<String> = disks.iter().map(DiskId::to_string).collect();
        let group = Group::new(disks.iter().zip(&names).map(|(disk, name)| (*disk, name.as_str())));
        let scheme = "ec(4,2)".parse().unwrap();
        let mut lists = vec![Vec::new(); 9];
        for sequence in 0..BLOBS {
            let blob =
                BlobId::new(VolumeId(1), SessionId(7), sequence, GroupId(0), 4 << 20, scheme);
            let blob = blob.unwrap();
            for (part, slot) in group.place(blob).order().take(6).enumerate() {
                let parts: PartSet = [PartIndex::new(part).unwrap()].into_iter().collect();
                if slot != 3 {
                    lists[slot].push((blob, parts));
                }
            }
            lists[8].push((blob, PartSet::EMPTY));
        }
        let parts: usize = lists[..8].iter().map(Vec::len).sum();
        let mut pages: Vec<_> = lists.iter().map(|list| list.chunks(MAX_LIST as usize)).collect();
        let attendance = Attendance::all(8);
        let (best, outcome) = (BTreeMap::new(), Outcome::default());
        let rules = Some(VolumeRules::default());
        let mut judge = Judge { group: &group, rules, attendance, best, outcome };
        let (mut merge, mut mends) = (Merge::new(8, SlotSet::EMPTY, true), 0);
        let began = Instant::now();
        loop {
            let hungry = merge.hungry();
            if hungry.is_empty() {
                break;
            }
            for (of, _) in hungry {
                let n = if let Of::Slot(slot) = of { slot } else { 8 };
                let entries = pages[n].next().map(<[_]>::to_vec).unwrap_or_default();
                let complete = pages[n].len() == 0;
                merge.feed(of, Page { entries, complete, rebuilding: false });
            }
            while let Some(sighting) = merge.next() {
                mends += u64::from(judge.judge(&sighting, false).is_some());
            }
        }
        let took = began.elapsed();
        println!("{parts} parts of {BLOBS} blobs, {mends} to mend: {took:?}");
        assert_eq!(judge.outcome.counts.blobs(), BLOBS);
        assert!(took.as_secs() < 5, "{took:?}");
    }
}
