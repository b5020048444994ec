//! Who has volumes, and when each was last heard from. In memory, and forgotten with the process: it tells people
//! whom they would take a volume from, and keeps nobody from anything.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use proto::id::{SlotId, VolumeId};
use proto::part_store::{Beat, Issuer, LastBeat};
use tokio::time::Instant;

/// Volumes that are remembered, at most. Beyond them the one that was heard longest ago is forgotten: the
/// processes of one cluster that have a volume are far fewer.
const MOST: usize = 4096;
/// Who was not heard from for so long has a volume no more, as far as a disk knows: owners say every 3 s that they are there.
const LIVE: Duration = Duration::from_secs(15);

/// The last beat of each volume's owner.
#[derive(Default)]
pub(crate) struct Beats(Mutex<BTreeMap<(SlotId, VolumeId), Heard>>);

struct Heard {
    issuer: Issuer,
    beat: Beat,
    at: Instant,
}

impl Beats {
    /// Remembers a beat. Of one who has ended nothing more is heard: what was on its way is late.
    pub(crate) fn heard(&self, slot: SlotId, volume: VolumeId, issuer: Issuer, beat: Beat) {
        let mut beats = self.0.lock();
        let last = beats.get(&(slot, volume));
        if last.is_some_and(|last| last.issuer == issuer && last.beat == Beat::Ended) {
            return;
        }
        if last.is_none() && beats.len() >= MOST {
            let oldest = beats.iter().min_by_key(|(_, heard)| heard.at).map(|(key, _)| *key);
            oldest.and_then(|oldest| beats.remove(&oldest));
        }
        beats.insert((slot, volume), Heard { issuer, beat, at: Instant::now() });
    }

    /// Volumes whose owners were heard from lately, and have not ended.
    pub(crate) fn held(&self) -> Vec<(SlotId, VolumeId)> {
        let beats = self.0.lock();
        let held =
            |heard: &Heard| matches!(heard.beat, Beat::Alive(_)) && heard.at.elapsed() < LIVE;
        beats.iter().filter(|(_, heard)| held(heard)).map(|(key, _)| *key).collect()
    }

    /// The last one of a volume.
    pub(crate) fn last(&self, slot: SlotId, volume: VolumeId) -> Option<LastBeat> {
        let beats = self.0.lock();
        let Heard { issuer, beat, at } = beats.get(&(slot, volume))?;
        Some(LastBeat { issuer: *issuer, beat: beat.clone(), ago: at.elapsed() })
    }
}

#[cfg(test)]
mod tests {
    use proto::id::{Epoch, OwnerId};

    use super::*;

    const SLOT: SlotId = SlotId(0);

    fn alive() -> Beat {
        Beat::Alive("somebody".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_beat_is_remembered_with_its_age_and_an_end_is_final() {
        let beats = Beats::default();
        let issuer = |epoch| Issuer { epoch: Epoch(epoch), owner: OwnerId::random() };
        let (one, other, volume) = (issuer(1), issuer(2), VolumeId(1));
        assert_eq!(beats.last(SLOT, volume), None);
        beats.heard(SLOT, volume, one, alive());
        tokio::time::advance(Duration::from_secs(7)).await;
        let ago = Duration::from_secs(7);
        assert_eq!(beats.last(SLOT, volume), Some(LastBeat { issuer: one, beat: alive(), ago }));
        assert_eq!(beats.last(SLOT, VolumeId(2)), None);
        assert_eq!(beats.held(), [(SLOT, volume)]);
        tokio::time::advance(Duration::from_secs(8)).await;
        assert!(beats.held().is_empty(), "silent for too long");
        beats.heard(SLOT, volume, one, alive());
        beats.heard(SLOT, volume, one, Beat::Ended);
        beats.heard(SLOT, volume, one, alive());
        assert_eq!(beats.last(SLOT, volume).unwrap().beat, Beat::Ended);
        assert!(beats.held().is_empty(), "it has ended");
        beats.heard(SLOT, volume, other, alive());
        assert_eq!(beats.last(SLOT, volume).unwrap().issuer, other);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_for_beats_is_bounded() {
        let beats = Beats::default();
        let issuer = Issuer { epoch: Epoch(1), owner: OwnerId::random() };
        for volume in 0..=MOST as u32 {
            beats.heard(SLOT, VolumeId(volume), issuer, alive());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(beats.0.lock().len(), MOST);
        assert_eq!(beats.last(SLOT, VolumeId(0)), None, "the oldest went");
        assert!(beats.last(SLOT, VolumeId(MOST as u32)).is_some());
    }
}
