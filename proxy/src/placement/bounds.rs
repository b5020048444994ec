//! How many parts of one blob may lie where, and where one more fits best. Pure.
//!
//! Parts of data double up where they must, no more than [`room`] on a disk; those that are to lie apart never do
//! ([`Spread`]). As long as nothing has more than its share ([`Group::shares`]), a blob is as safe as it can be.

use proto::cluster::Level;
use proto::id::PartIndex;
use proto::scheme::Scheme;

use crate::placement::quorum::{Spread, room};
use crate::placement::{Group, Shares};

/// How one more part fits where others are, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// Nothing gets more than its share.
    Share,
    /// Something does, but nothing more than it may hold.
    Room,
    Not,
}

/// How many parts of a blob may lie where.
pub(crate) struct Bounds<'a> {
    group: &'a Group,
    scheme: Scheme,
    spread: Spread,
    shares: Shares,
}

impl<'a> Bounds<'a> {
    pub(crate) fn new(group: &'a Group, scheme: Scheme, spread: Spread) -> Self {
        Self { group, scheme, spread, shares: group.shares(scheme) }
    }

    /// What parts are to have for themselves.
    pub(crate) fn unit(&self) -> Level {
        match self.spread {
            Spread::AsPossible { .. } => self.shares.unit(),
            Spread::Apart(layout) => layout.unit,
        }
    }

    /// Most parts of a blob on one member of a level while it is as safe as it can be; below the unit any number.
    pub(crate) fn share(&self, level: Level) -> usize {
        if level < self.unit() { self.scheme.parts() } else { self.shares.most(level) }
    }

    /// May so many parts be on one member of the level?
    fn allow(&self, level: Level, parts: usize) -> bool {
        match self.spread {
            Spread::AsPossible { spare } => {
                level != Level::Disk || parts <= room(self.scheme, spare)
            }
            Spread::Apart(layout) => {
                let whole = layout.wholes().any(|whole| whole == level);
                (level != layout.unit || parts <= 1)
                    && (!whole || parts <= self.scheme.parity_parts())
            }
        }
    }

    /// How one more part fits on the slot, where `parts` are on the members of levels. Where parts lie apart anyway,
    /// beyond a share is fine.
    pub(crate) fn fit(&self, slot: usize, parts: impl Fn(Level, usize) -> usize) -> Fit {
        let with = |level| parts(level, self.group.at(level, slot)) + 1;
        let levels = Level::ALL.map(|level| (level, with(level)));
        if levels.iter().any(|(level, parts)| !self.allow(*level, *parts)) {
            return Fit::Not;
        }
        let over = levels.iter().any(|(level, parts)| self.shares.are_exceeded(*level, *parts));
        match self.spread {
            Spread::AsPossible { .. } if over => Fit::Room,
            _ => Fit::Share,
        }
    }

    /// The same, and how many parts are where one more would be, what matters most first: the least of these is the
    /// best slot.
    pub(crate) fn crowd(
        &self,
        slot: usize,
        parts: impl Fn(Level, usize) -> usize,
    ) -> (Fit, [usize; 4]) {
        let levels = [self.unit(), Level::Rack, Level::Host, Level::Disk];
        (self.fit(slot, &parts), levels.map(|level| parts(level, self.group.at(level, slot))))
    }

    /// Are parts with these homes less spread out than they can be? Repair moves those.
    pub(crate) fn are_exceeded(&self, homes: &[usize]) -> bool {
        self.group.is_degraded(&self.shares, homes)
    }

    /// Are parts with these homes where they may be?
    pub(crate) fn hold(&self, homes: &[usize]) -> bool {
        Level::ALL.into_iter().all(|level| {
            homes.iter().all(|home| {
                let here =
                    |other: &&usize| self.group.at(level, **other) == self.group.at(level, *home);
                self.allow(level, homes.iter().filter(here).count())
            })
        })
    }
}

/// Of parts and slots that hold them, one slot for each part so that they lie as they should: as many as a single
/// pass finds.
pub(crate) fn homes_apart(
    bounds: &Bounds<'_>,
    located: &[(PartIndex, usize)],
) -> Vec<(PartIndex, usize)> {
    let mut homes: Vec<(PartIndex, usize)> = Vec::new();
    for (part, slot) in located {
        let here = |level, member| {
            homes.iter().filter(|(_, home)| bounds.group.at(level, *home) == member).count()
        };
        let free = homes.iter().all(|(other, _)| other != part);
        if free && bounds.fit(*slot, here) == Fit::Share {
            homes.push((*part, *slot));
        }
    }
    homes
}
