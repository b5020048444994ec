//! What an op is answered with.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::rpc::metad as wire;
use proto::rpc::metad::answer::Answer as Wire;

use super::accounts::{account_from_wire, account_to_wire};
use super::failure::{failure_from_wire, failure_to_wire};
use super::trash::{above_from_wire, above_to_wire, trashed_from_wire, trashed_to_wire};
use super::values::{
    attr_from_wire, attr_to_wire, entry_from_wire, entry_to_wire, extents_from_wire,
    extents_to_wire, looked_from_wire, looked_to_wire, usage_from_wire, usage_to_wire,
    volume_from_wire, volume_to_wire,
};
use super::{few, owned};
use crate::account::Account;
use crate::store::{
    Above, Attr, DirEntry, Extent, Ino, Looked, MetaError, Trashed, Unlinked, Usage, VolumeInfo,
};

/// An op that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Attr(Attr),
    Entries(Vec<DirEntry>),
    /// Of names in their order, those that are there.
    Looks(Vec<Option<Looked>>),
    /// What lost a name, if anything did.
    Unlinked(Option<Unlinked>),
    /// Bytes, if there are any.
    Bytes(Option<Bytes>),
    Names(Vec<Vec<u8>>),
    Extents(Vec<Extent>),
    /// The counters, and the bytes of disk that metadata take.
    Usage(Usage, u64),
    Trash(Vec<Trashed>),
    /// Where directories are.
    Places(BTreeMap<Ino, Above>),
    Accounts(Vec<Account>),
    Yes(bool),
    /// What the volume is, and the days that what is deleted stays in its trash.
    Volume(VolumeInfo, u16),
}

/// What became of an op.
pub(crate) type Answered = Result<Answer, MetaError>;

/// As it travels.
pub(crate) fn to_wire(answered: Answered) -> wire::Answer {
    let answer = match answered {
        Err(error) => Wire::Failure(failure_to_wire(&error)),
        Ok(answer) => done_to_wire(answer),
    };
    wire::Answer { answer: Some(answer) }
}

fn done_to_wire(answer: Answer) -> Wire {
    match answer {
        Answer::Done => Wire::Done(wire::Done {}),
        Answer::Attr(attr) => Wire::Attr(attr_to_wire(&attr)),
        Answer::Entries(entries) => {
            let entries = entries.into_iter().map(entry_to_wire).collect();
            Wire::Entries(wire::Entries { entries })
        }
        Answer::Looks(looked) => {
            let looked = looked.into_iter().map(looked_to_wire).collect();
            Wire::Looks(wire::Looks { looked })
        }
        Answer::Unlinked(None) => Wire::Unlinked(wire::Unlinked { ino: 0, orphan: false }),
        Answer::Unlinked(Some(Unlinked { ino, orphan })) => {
            Wire::Unlinked(wire::Unlinked { ino: ino.0, orphan })
        }
        Answer::Bytes(bytes) => Wire::Bytes(wire::Bytes { bytes }),
        Answer::Names(names) => {
            Wire::Names(wire::Names { names: names.into_iter().map(Bytes::from).collect() })
        }
        Answer::Extents(extents) => {
            let extents = extents_to_wire(&extents);
            Wire::Extents(wire::ExtentList { extents })
        }
        Answer::Usage(usage, metadata) => {
            Wire::Usage(wire::Counters { metadata, ..usage_to_wire(usage) })
        }
        Answer::Trash(trashed) => {
            let trashed = trashed.into_iter().map(trashed_to_wire).collect();
            Wire::Trash(wire::TrashList { trashed })
        }
        Answer::Places(places) => {
            let places = places.into_iter().map(above_to_wire).collect();
            Wire::Places(wire::Places { places })
        }
        Answer::Accounts(accounts) => {
            let accounts = accounts.iter().map(account_to_wire).collect();
            Wire::Accounts(wire::Accounts { accounts })
        }
        Answer::Yes(yes) => Wire::Yes(yes),
        Answer::Volume(info, trash_days) => Wire::Volume(volume_to_wire(&info, trash_days)),
    }
}

/// Reads it.
///
/// # Errors
/// Why the op failed; for an answer that makes no sense [`MetaError::Engine`].
pub(crate) fn from_wire(answer: wire::Answer) -> Answered {
    match answer.answer {
        // As it is: that it failed makes sense.
        Some(Wire::Failure(failure)) => Err(failure_from_wire(failure)),
        Some(answer) => done_from_wire(answer).map_err(|why| senseless(&why)),
        None => Err(senseless(&MetaError::NotSupported)),
    }
}

/// Metad has answered what is no answer.
pub(crate) fn senseless(why: &MetaError) -> MetaError {
    MetaError::Engine(format!("metad's answer makes no sense: {why}"))
}

fn done_from_wire(answer: Wire) -> Answered {
    Ok(match answer {
        Wire::Done(wire::Done {}) => Answer::Done,
        Wire::Attr(attr) => Answer::Attr(attr_from_wire(attr)?),
        Wire::Entries(wire::Entries { entries }) => Answer::Entries(all(entries, entry_from_wire)?),
        Wire::Looks(wire::Looks { looked }) => Answer::Looks(all(looked, looked_from_wire)?),
        Wire::Unlinked(wire::Unlinked { ino: 0, .. }) => Answer::Unlinked(None),
        Wire::Unlinked(wire::Unlinked { ino, orphan }) => {
            Answer::Unlinked(Some(Unlinked { ino: Ino(ino), orphan }))
        }
        Wire::Bytes(wire::Bytes { bytes }) => Answer::Bytes(bytes),
        Wire::Names(wire::Names { names }) => Answer::Names(all(names, |name| Ok(owned(name)))?),
        Wire::Extents(wire::ExtentList { extents }) => Answer::Extents(extents_from_wire(extents)?),
        Wire::Usage(counters) => {
            let metadata = counters.metadata;
            Answer::Usage(usage_from_wire(counters), metadata)
        }
        Wire::Trash(wire::TrashList { trashed }) => Answer::Trash(all(trashed, trashed_from_wire)?),
        Wire::Places(wire::Places { places }) => {
            let places = all(places, |place| Ok(above_from_wire(place)))?;
            Answer::Places(places.into_iter().collect())
        }
        Wire::Accounts(wire::Accounts { accounts }) => {
            Answer::Accounts(all(accounts, account_from_wire)?)
        }
        Wire::Yes(yes) => Answer::Yes(yes),
        Wire::Volume(volume) => {
            let (info, trash_days) = volume_from_wire(volume)?;
            Answer::Volume(info, trash_days)
        }
        Wire::Failure(failure) => return Err(failure_from_wire(failure)),
    })
}

fn all<W, T>(
    list: Vec<W>,
    read: impl FnMut(W) -> Result<T, MetaError>,
) -> Result<Vec<T>, MetaError> {
    few(&list)?;
    list.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::samples;

    proptest! {
        #[test]
        fn answers_arrive_as_they_were_given(answer in samples::answer()) {
            prop_assert_eq!(from_wire(to_wire(Ok(answer.clone()))), Ok(answer));
        }
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_an_error_of_its_own() {
        let answer = |answer| wire::Answer { answer };
        for nonsense in [None, Some(Wire::Attr(wire::Attr::default()))] {
            assert!(matches!(from_wire(answer(nonsense)), Err(MetaError::Engine(_))));
        }
        let failed = to_wire(Err(MetaError::NotEmpty));
        assert_eq!(from_wire(failed), Err(MetaError::NotEmpty));
    }
}
