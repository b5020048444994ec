//! What is kept between requests for somebody, under an id that nobody guesses: so many in all, so many for each, and none
//! after a long silence.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

/// All that are kept at once.
const ALL: usize = 1024;
/// Those of one owner.
const EACH: usize = 256;
/// How long one is kept that nobody asks about.
pub(super) const SILENCE: Duration = Duration::from_secs(24 * 3600);

/// How long one is kept that is done with.
const CLOSED: Duration = Duration::from_secs(600);

/// Things by their ids.
pub(super) struct Kept<Owner, T>(Mutex<All<Owner, T>>);

struct All<Owner, T> {
    by_id: HashMap<Uuid, One<Owner, T>>,
    /// Those that are done with, the oldest first.
    closed: VecDeque<Uuid>,
}

struct One<Owner, T> {
    owner: Owner,
    thing: Arc<T>,
    /// When somebody asked about it last.
    asked: Instant,
    /// It is done with, and kept for those who have not heard of it: it takes nobody's room.
    closed: bool,
}

/// There is no room for another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// This owner has so many.
    Own(usize),
    /// All have so many.
    All(usize),
}

impl<Owner, T> Default for Kept<Owner, T> {
    fn default() -> Self {
        Self(Mutex::new(All { by_id: HashMap::new(), closed: VecDeque::new() }))
    }
}

impl<Owner: PartialEq, T> Kept<Owner, T> {
    /// Is there room for another one of this owner?
    ///
    /// # Errors
    /// When there is not.
    pub(super) fn has_room(&self, owner: &Owner) -> Result<(), Full> {
        self.0.lock().has_room(owner)
    }

    /// Keeps another one. Answers its id.
    ///
    /// # Errors
    /// When there is no room.
    pub(super) fn keep(&self, owner: Owner, thing: T, now: Instant) -> Result<Uuid, Full> {
        let mut all = self.0.lock();
        all.has_room(&owner)?;
        let id = Uuid::new_v4();
        all.by_id.insert(id, One { owner, thing: Arc::new(thing), asked: now, closed: false });
        Ok(id)
    }

    /// It is done with: kept for [`CLOSED`] still, unless there are too many of them.
    pub(super) fn close(&self, id: Uuid, now: Instant) {
        let mut guard = self.0.lock();
        let all = &mut *guard;
        let Some(one) = all.by_id.get_mut(&id).filter(|one| !one.closed) else { return };
        (one.closed, one.asked) = (true, now);
        all.closed.push_back(id);
        let oldest = if all.closed.len() > ALL { all.closed.pop_front() } else { None };
        let dropped = oldest.and_then(|oldest| all.by_id.remove(&oldest));
        drop(guard);
        drop(dropped);
    }

    /// Those of an owner that are not done with, with how long nobody has asked about each; the one of the longest silence first.
    pub(super) fn all_of(&self, owner: &Owner, now: Instant) -> Vec<(Uuid, Arc<T>, Duration)> {
        let all = self.0.lock();
        let own = all.by_id.iter().filter(|(_, one)| !one.closed && one.owner == *owner);
        let own =
            own.map(|(id, one)| (*id, one.thing.clone(), now.saturating_duration_since(one.asked)));
        let mut own: Vec<_> = own.collect();
        own.sort_by_key(|(id, _, silent)| (std::cmp::Reverse(*silent), *id));
        own
    }

    /// The one with this id, if it is this owner's.
    pub(super) fn of(&self, id: Uuid, owner: &Owner, now: Instant) -> Option<Arc<T>> {
        let mut all = self.0.lock();
        let one = all.by_id.get_mut(&id).filter(|one| one.owner == *owner)?;
        one.asked = now;
        Some(one.thing.clone())
    }

    /// Keeps it no longer.
    pub(super) fn end(&self, id: Uuid) {
        let ended = self.0.lock().by_id.remove(&id);
        // What goes with it is done when nobody waits for this lock.
        drop(ended);
    }

    /// Ends those that nobody has asked about for [`SILENCE`], or [`CLOSED`], and that are not in use.
    pub(super) fn sweep(&self, now: Instant) {
        let is_over = |one: &mut One<Owner, T>| {
            now.saturating_duration_since(one.asked) >= if one.closed { CLOSED } else { SILENCE }
                && Arc::strong_count(&one.thing) == 1
        };
        let mut guard = self.0.lock();
        let All { by_id, closed } = &mut *guard;
        let ended: Vec<_> = by_id.extract_if(|_, one| is_over(one)).collect();
        closed.retain(|id| by_id.contains_key(id));
        drop(guard);
        let given_up = ended.iter().filter(|(_, one)| !one.closed).count();
        if given_up > 0 {
            tracing::info!("{given_up} uploads that nobody went on with are given up");
        }
    }
}

impl<Owner: PartialEq, T> All<Owner, T> {
    fn has_room(&self, owner: &Owner) -> Result<(), Full> {
        let open = self.by_id.values().filter(|one| !one.closed);
        if open.clone().count() >= ALL {
            return Err(Full::All(ALL));
        }
        match open.filter(|one| one.owner == *owner).count() {
            own if own >= EACH => Err(Full::Own(EACH)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_his_own_and_no_more_than_there_is_room_for() {
        let (kept, now) = (Kept::<u32, u32>::default(), Instant::now());
        let mine = kept.keep(1, 7, now).unwrap();
        assert_eq!(kept.of(mine, &1, now).as_deref(), Some(&7));
        assert_eq!(kept.of(mine, &2, now), None, "another's");
        assert_eq!(kept.of(Uuid::nil(), &1, now), None);
        let later = now + SILENCE / 2;
        assert_eq!(kept.all_of(&1, later), [(mine, Arc::new(7), SILENCE / 2)]);
        assert!(kept.all_of(&2, later).is_empty());
        for n in 1..EACH {
            kept.keep(1, 0, now).unwrap_or_else(|why| panic!("{n}: {why:?}"));
        }
        assert_eq!(kept.keep(1, 0, now), Err(Full::Own(EACH)));
        for owner in 2..5 {
            (0..EACH).for_each(|_| assert!(kept.keep(owner, 0, now).is_ok()));
        }
        assert_eq!(kept.has_room(&9), Err(Full::All(ALL)));
        kept.end(mine);
        assert!(kept.of(mine, &1, now).is_none() && kept.has_room(&9).is_ok());
    }

    #[test]
    fn those_that_nobody_asks_about_end() {
        let (kept, begin) = (Kept::<u32, u32>::default(), Instant::now());
        let [silent, asked, used] = [0, 1, 2].map(|n| kept.keep(1, n, begin).unwrap());
        let in_use = kept.of(used, &1, begin);
        kept.of(asked, &1, begin + SILENCE / 2).unwrap();
        kept.sweep(begin + SILENCE - Duration::from_secs(1));
        let later = begin + SILENCE;
        kept.sweep(later);
        assert!(kept.of(silent, &1, later).is_none(), "nobody has asked about it");
        assert!(kept.of(asked, &1, later).is_some());
        drop(in_use);
        assert!(kept.of(used, &1, later).is_some(), "in use");
    }

    #[test]
    fn those_that_are_done_with_take_no_room_and_stay_a_while() {
        let (kept, now) = (Kept::<u32, u32>::default(), Instant::now());
        let ids: Vec<_> = (0..2 * ALL)
            .map(|n| {
                let id = kept.keep(1, 0, now).unwrap_or_else(|why| panic!("{n}: {why:?}"));
                kept.close(id, now + Duration::from_millis(n as u64));
                id
            })
            .collect();
        let last = ids[2 * ALL - 1];
        assert!(kept.of(ids[0], &1, now).is_none(), "the oldest");
        assert!(kept.of(last, &1, now).is_some());
        kept.sweep(now + CLOSED);
        assert!(kept.of(last, &1, now).is_none());
    }
}
