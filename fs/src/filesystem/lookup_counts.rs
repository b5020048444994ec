//! How long an inode without a name lives: until the kernel, and whoever else holds it, have forgotten it.
//!
//! The kernel counts, per inode, every answer that named it, and gives the counts back with FORGET
//! when it evicts the inode: after the last close, when nothing maps it any more. An unlinked inode
//! is an orphan until then. Counting, instead of trusting that a FORGET means the end, matters: the
//! FORGET of an earlier life may be processed after the inode was looked up, opened and unlinked
//! again.
//!
//! Invariant: an inode is handed out for reaping at most once, and only when it is an orphan that
//! the kernel holds no count of.

use std::collections::HashMap;

use meta::{Ino, ROOT};
use parking_lot::Mutex;

/// Session threads rarely meet in one shard.
const SHARDS: usize = 64;

#[derive(Default)]
struct Life {
    lookups: u64,
    orphan: bool,
    /// The kernel has taken this directory away, and lets nobody use what it knows of it.
    dead: bool,
    /// How often such a one has come back meanwhile: by another number the kernel takes it for another.
    generation: u64,
}

/// Counts of what the kernel knows.
pub(crate) struct LookupCounts {
    shards: Vec<Mutex<HashMap<Ino, Life>>>,
}

impl LookupCounts {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Life>> {
        &self.shards[ino.0 as usize % SHARDS]
    }

    /// Inodes that the kernel remembers.
    pub(crate) fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// An answer names the inode. To be called before the answer is sent: its FORGET may follow at
    /// once.
    pub(crate) fn named(&self, ino: Ino) {
        if ino != ROOT {
            self.shard(ino).lock().entry(ino).or_default().lookups += 1;
        }
    }

    /// Somebody has made an inode that has no name yet, and holds it.
    pub(crate) fn nameless(&self, ino: Ino) {
        self.shard(ino).lock().insert(ino, Life { lookups: 1, orphan: true, ..Life::default() });
    }

    /// It has got its name. Called by who holds it.
    pub(crate) fn placed(&self, ino: Ino) {
        if let Some(life) = self.shard(ino).lock().get_mut(&ino) {
            life.orphan = false;
        }
    }

    /// The kernel took this directory away, which is in the trash.
    pub(crate) fn died(&self, ino: Ino) {
        if let Some(life) = self.shard(ino).lock().get_mut(&ino) {
            life.dead = true;
        }
    }

    /// It has come back.
    pub(crate) fn revived(&self, ino: Ino) {
        if let Some(life) = self.shard(ino).lock().get_mut(&ino) {
            life.generation += u64::from(std::mem::take(&mut life.dead));
        }
    }

    /// By which number the kernel is to know it.
    pub(crate) fn generation(&self, ino: Ino) -> u64 {
        self.shard(ino).lock().get(&ino).map_or(0, |life| life.generation)
    }

    /// Can anybody know of this inode who asks by its number?
    pub(crate) fn knows(&self, ino: Ino) -> bool {
        ino == ROOT || self.shard(ino).lock().contains_key(&ino)
    }

    /// The inode lost its last name. True: nothing has it open, reap it now.
    #[must_use]
    pub(crate) fn orphaned(&self, ino: Ino) -> bool {
        match self.shard(ino).lock().get_mut(&ino) {
            Some(life) => {
                life.orphan = true;
                false
            }
            None => true,
        }
    }

    /// The kernel gives `count` answers back. True: it was an orphan and was held by nothing else,
    /// reap it now.
    #[must_use]
    pub(crate) fn forgotten(&self, ino: Ino, count: u64) -> bool {
        let mut shard = self.shard(ino).lock();
        let Some(life) = shard.get_mut(&ino) else { return false };
        life.lookups = life.lookups.saturating_sub(count);
        if life.lookups > 0 {
            return false;
        }
        let orphan = life.orphan;
        shard.remove(&ino);
        orphan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: Ino = Ino(77);

    #[test]
    fn an_open_orphan_lives_until_it_is_forgotten() {
        let lives = LookupCounts::new();
        lives.named(INO);
        lives.named(INO);
        assert!(!lives.orphaned(INO));
        assert!(!lives.forgotten(INO, 1));
        assert!(lives.forgotten(INO, 1));
        assert!(!lives.forgotten(INO, 1), "reaped once only");
    }

    #[test]
    fn what_has_no_name_yet_is_reaped_unless_it_gets_one() {
        let lives = LookupCounts::new();
        assert!(!lives.knows(INO) && lives.knows(ROOT));
        lives.nameless(INO);
        assert!(lives.knows(INO));
        assert!(lives.forgotten(INO, 1), "nobody wants it");
        lives.nameless(INO);
        lives.placed(INO);
        assert!(!lives.forgotten(INO, 1), "it has a name");
        assert!(lives.orphaned(INO), "and loses it");
    }

    #[test]
    fn a_directory_that_the_kernel_took_away_comes_back_as_another() {
        let lives = LookupCounts::new();
        lives.died(INO);
        lives.revived(INO);
        assert_eq!(lives.generation(INO), 0, "the kernel does not know it");
        lives.named(INO);
        lives.revived(INO);
        assert_eq!(lives.generation(INO), 0, "it was not dead");
        for comes_back in 1..3 {
            lives.died(INO);
            lives.revived(INO);
            assert_eq!(lives.generation(INO), comes_back);
        }
        assert!(!lives.forgotten(INO, 1));
        assert_eq!(lives.generation(INO), 0);
    }

    #[test]
    fn a_late_forget_of_an_earlier_life_does_not_end_this_one() {
        let lives = LookupCounts::new();
        lives.named(INO); // the life whose FORGET is late
        lives.named(INO); // this one
        assert!(!lives.orphaned(INO));
        assert!(!lives.forgotten(INO, 1), "the late one");
        assert!(lives.forgotten(INO, 1));
    }

    #[test]
    fn an_inode_with_names_is_not_reaped_and_an_unknown_orphan_is() {
        let lives = LookupCounts::new();
        lives.named(INO);
        assert!(!lives.forgotten(INO, 1));
        assert!(lives.orphaned(INO));
        lives.named(ROOT);
        assert!(!lives.forgotten(ROOT, 1));
    }
}
