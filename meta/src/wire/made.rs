//! How a change was made, as it travels.

use proto::rpc::metad as wire;

use super::there;
use super::values::{time_from_wire, time_to_wire};
use crate::store::{Ino, MetaError, Time};

/// How a change was made: what it takes to make it again as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// Its place among all changes of its session.
    pub(crate) order: u64,
    /// The batch of changes that it is in, or one behind that: once that is durable, it is.
    pub(crate) batch: u64,
    /// The time of it.
    pub(crate) at: Time,
    /// The number that an inode got, if one was made.
    pub(crate) ino: Option<Ino>,
}

impl Made {
    pub(crate) fn to_wire(self) -> wire::Made {
        let Self { order, batch, at, ino } = self;
        wire::Made { order, batch, at: Some(time_to_wire(at)), ino: ino.map_or(0, |ino| ino.0) }
    }

    /// # Errors
    /// For what makes no sense.
    pub(crate) fn from_wire(made: wire::Made) -> Result<Self, MetaError> {
        let wire::Made { order, batch, at, ino } = made;
        let (at, ino) = (time_from_wire(there(at)?)?, Some(Ino(ino)).filter(|ino| ino.0 != 0));
        Ok(Self { order, batch, at, ino })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_arrives_as_it_was_sent(
            order: u64, batch: u64, secs: i64, nanos in 0..1_000_000_000u32, ino: u64,
        ) {
            let at = Time { secs, nanos };
            let ino = Some(Ino(ino)).filter(|ino| ino.0 != 0);
            let made = Made { order, batch, at, ino };
            prop_assert_eq!(Made::from_wire(made.to_wire()), Ok(made));
        }
    }

    #[test]
    fn a_change_without_a_time_is_none() {
        assert!(Made::from_wire(wire::Made::default()).is_err());
    }
}
