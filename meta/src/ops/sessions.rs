//! Sessions: each mount has its own number, never used before.

use std::ops::ControlFlow;

use proto::id::SessionId;

use crate::key;
use crate::store::MetaError;
use crate::txn::Txn;

/// Opens a new session.
pub(crate) fn open(txn: &mut Txn<'_>) -> Result<SessionId, MetaError> {
    let mut counters = txn.counters()?;
    let session = SessionId(counters.next_session);
    counters.next_session += 1;
    txn.set_counters(counters);
    txn.put(key::session::key(session), &[]);
    Ok(session)
}

/// Sessions that were not closed, except one.
pub(crate) fn others(txn: &Txn<'_>, own: SessionId) -> Result<Vec<SessionId>, MetaError> {
    let mut found = Vec::new();
    let _ = txn.scan(key::session::all()..key::session::all().after_prefix(), &mut |key, _| {
        match key::session::parse(key) {
            Some(session) if session == own => {}
            Some(session) => found.push(session),
            None => tracing::error!("session {key:?} is damaged"),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// A session is over and swept.
pub(crate) fn forget(txn: &mut Txn<'_>, session: SessionId) {
    txn.remove(key::session::key(session));
}
