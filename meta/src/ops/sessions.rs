//! Sessions: each has its own number, never used before, and ranges of numbers for the inodes that it makes.

use std::ops::{ControlFlow, Range};

use proto::id::SessionId;

use crate::key;
use crate::key::numbers::INODES;
use crate::record::window::Window;
use crate::store::{Ino, MetaError};
use crate::txn::Txn;

/// Opens a new session; of one that is to be known again this is by what.
pub(crate) fn open(txn: &mut Txn<'_>, value: &[u8]) -> Result<SessionId, MetaError> {
    let mut numbers = txn.numbers()?;
    let session = SessionId(numbers.next_session);
    numbers.next_session += 1;
    txn.put_numbers(&numbers);
    txn.put(key::session::key(session), value);
    Ok(session)
}

/// Takes numbers for new inodes.
pub(crate) fn take_inodes(txn: &mut Txn<'_>) -> Result<Range<u64>, MetaError> {
    let mut numbers = txn.numbers()?;
    let first = numbers.next_ino;
    numbers.next_ino = first.saturating_add(INODES);
    txn.put_numbers(&numbers);
    Ok(first..numbers.next_ino)
}

/// Is this number of an inode taken, and no inode's? So is one by which an inode is made again that was lost.
///
/// # Errors
/// When it is not.
pub(crate) fn check_again(txn: &Txn<'_>, ino: Ino) -> Result<(), MetaError> {
    let taken = ino.0 < txn.numbers()?.next_ino;
    if !taken || txn.get(&key::inode::key(ino))?.is_some() {
        return Err(MetaError::Invalid("an inode is made again by a number that is not its own"));
    }
    Ok(())
}

/// Sessions that were not closed.
pub(crate) fn all(txn: &Txn<'_>) -> Result<Vec<SessionId>, MetaError> {
    let mut found = Vec::new();
    let _ = txn.scan(key::session::all()..key::session::all().after_prefix(), &mut |key, _| {
        match key::session::parse(key) {
            Some(session) => found.push(session),
            None => tracing::error!("session {key:?} is damaged"),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Sessions that were not closed and worked from elsewhere.
pub(crate) fn elsewhere(txn: &Txn<'_>) -> Result<Vec<(SessionId, Window)>, MetaError> {
    let mut found = Vec::new();
    let _ =
        txn.scan(key::session::all()..key::session::all().after_prefix(), &mut |key, value| {
            found.extend(key::session::parse(key).zip(Window::decode(value)));
            Ok(ControlFlow::Continue(()))
        })?;
    Ok(found)
}

/// A session that worked from elsewhere is over, and is not known again.
pub(crate) fn mark_over(txn: &mut Txn<'_>, session: SessionId) {
    txn.put(key::session::key(session), &[]);
}

/// A session is over and swept.
pub(crate) fn forget(txn: &mut Txn<'_>, session: SessionId) {
    txn.remove(key::session::key(session));
}
