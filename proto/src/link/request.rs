//! What a link carries: a request to a slot and its answer, as both ends mean them and as they travel.
//!
//! What arrives is checked here, once: a [`Request`] makes sense in itself. Payloads are beside it, in the
//! frame.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::frame::{self, Kind};
use crate::checksum::widen;
use crate::convert::{
    Address, blob_from_wire, blob_to_wire, blobs_from_wire, blobs_to_wire, issuer_from_wire,
    issuer_to_wire, part_from_wire, scrub_from_wire, scrub_to_wire,
};
use crate::id::{BlobId, ClientId, PartKey, PartSet, SessionId, VolumeId};
use crate::limits::MAX_LIST;
use crate::part_store::{
    Beat, Condition, Held, Issuer, LastBeat, MAX_HOLDER, Page, PartError, Scope,
};
use crate::rpc::storaged as wire;

/// Bytes of an entry of a listing on its way, at most.
const ENTRY_LEN: usize = 48;

/// The first frame of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who connects.
    pub client: ClientId,
    /// Number of the connection, which rises with each that the client makes.
    pub connection: u64,
}

impl Hello {
    /// Its frame.
    pub fn frame(&self) -> Bytes {
        let client = Bytes::copy_from_slice(self.client.as_bytes());
        let message = wire::Hello { client, connection: self.connection };
        frame::encode(0, Kind::Hello, &message, 0)
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`PartError::Invalid`].
    pub fn decode(message: Bytes) -> Result<Self, PartError> {
        let wire::Hello { client, connection } = decode(message)?;
        let client = ClientId::from_slice(&client);
        let client = client.ok_or_else(|| invalid("the client's id is not 16 bytes"))?;
        Ok(Self { client, connection })
    }
}

/// What is asked of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Store the part that is the payload.
    Put {
        /// Which part.
        key: PartKey,
        /// Checksums of the payload.
        checks: Vec<u32>,
        /// Who says so.
        issuer: Option<Issuer>,
    },
    /// Bytes of a part. `range` is not empty and lies within it.
    Get {
        /// Which part.
        key: PartKey,
        /// Which of its bytes.
        range: Range<u32>,
    },
    /// What is here of a blob.
    Held(BlobId),
    /// Delete blobs.
    Delete(Vec<BlobId>, Option<Issuer>),
    /// Forget deletes.
    Forget(Vec<BlobId>, Option<Issuer>),
    /// Take a part away.
    DropPart(PartKey, Option<Issuer>),
    /// The slot holds all that it should of a volume.
    Rebuilt(VolumeId, Option<Issuer>),
    /// The slot holds all that it should of every volume.
    Serve,
    /// Promise a volume.
    Fence(VolumeId, Issuer),
    /// To whom a volume is promised.
    Promised(VolumeId),
    /// Whoever has a volume says how it is.
    Beat(VolumeId, Issuer, Beat),
    /// What whoever has a volume said last.
    LastBeat(VolumeId),
    /// How what is here of a volume is.
    Condition(VolumeId),
    /// A page of a listing.
    List {
        /// Of which blobs.
        scope: Scope,
        /// The last blob of the page before.
        after: Option<BlobId>,
        /// Most entries; not 0.
        limit: u32,
    },
}

/// The answer to a request that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing more to say.
    Done,
    /// The payload has these checksums.
    Got(Vec<u32>),
    /// What is here.
    Held(Held),
    /// A page.
    Page(Page),
    /// The promise there is.
    Promised(Option<Issuer>),
    /// What was heard last.
    LastBeat(Option<LastBeat>),
    /// How it is.
    Condition(Condition),
}

fn invalid(why: &str) -> PartError {
    PartError::Invalid(why.to_owned())
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, PartError> {
    M::decode(message).map_err(|e| PartError::Invalid(e.to_string()))
}

impl Request {
    /// Its frame, with so much payload to follow.
    pub fn frame(&self, id: u32, to: Address, payload: usize) -> Bytes {
        let to = Some(to.to_wire());
        let encode = |kind, blobs: &[BlobId], issuer: &Option<Issuer>| {
            let (to, issuer) = (to.clone(), issuer.map(issuer_to_wire));
            let message = wire::BlobsRequest { to, blobs: blobs_to_wire(blobs), issuer };
            frame::encode(id, kind, &message, payload)
        };
        match self {
            Self::Put { key, checks, issuer } => {
                let (blob, part) = (blob_to_wire(key.blob), key.part.get() as u32);
                let (checks, issuer) = (checks.clone(), issuer.map(issuer_to_wire));
                let message = wire::PutRequest { to, blob, part, checks, issuer };
                frame::encode(id, Kind::Put, &message, payload)
            }
            Self::Get { key, range } => {
                let (blob, part) = (blob_to_wire(key.blob), key.part.get() as u32);
                let (offset, len) = (range.start, range.end - range.start);
                let message = wire::GetRequest { to, blob, part, offset, len };
                frame::encode(id, Kind::Get, &message, payload)
            }
            Self::Held(blob) => {
                let message = wire::HeldRequest { to, blob: blob_to_wire(*blob) };
                frame::encode(id, Kind::Held, &message, payload)
            }
            Self::Delete(blobs, issuer) => encode(Kind::Delete, blobs, issuer),
            Self::Forget(blobs, issuer) => encode(Kind::Forget, blobs, issuer),
            Self::DropPart(key, issuer) => {
                let (blob, part) = (blob_to_wire(key.blob), key.part.get() as u32);
                let issuer = issuer.map(issuer_to_wire);
                let message = wire::DropRequest { to, blob, part, issuer };
                frame::encode(id, Kind::DropPart, &message, payload)
            }
            Self::Rebuilt(volume, issuer) => {
                let (volume, issuer) = (volume.0, issuer.map(issuer_to_wire));
                let message = wire::RebuiltRequest { to, volume, issuer };
                frame::encode(id, Kind::Rebuilt, &message, payload)
            }
            Self::Serve => frame::encode(id, Kind::Serve, &wire::ServeRequest { to }, payload),
            Self::Fence(volume, issuer) => {
                let issuer = Some(issuer_to_wire(*issuer));
                let message = wire::FenceRequest { to, volume: volume.0, issuer };
                frame::encode(id, Kind::Fence, &message, payload)
            }
            Self::Promised(volume) => {
                let message = wire::PromisedRequest { to, volume: volume.0 };
                frame::encode(id, Kind::Promised, &message, payload)
            }
            Self::Beat(volume, issuer, beat) => {
                let (issuer, holder) = (Some(issuer_to_wire(*issuer)), holder_to_wire(beat));
                let message = wire::BeatRequest { to, volume: volume.0, issuer, holder };
                frame::encode(id, Kind::Beat, &message, payload)
            }
            Self::LastBeat(volume) => {
                let message = wire::LastBeatRequest { to, volume: volume.0 };
                frame::encode(id, Kind::LastBeat, &message, payload)
            }
            Self::Condition(volume) => {
                let message = wire::ConditionRequest { to, volume: volume.0 };
                frame::encode(id, Kind::Condition, &message, payload)
            }
            Self::List { scope, after, limit } => {
                let (volume, session) = match scope {
                    Scope::All => (None, None),
                    Scope::Volume(volume) => (Some(volume.0), None),
                    Scope::Session(volume, session) => (Some(volume.0), Some(session.0)),
                };
                let after = after.map(blob_to_wire).unwrap_or_default();
                let message = wire::ListRequest { to, volume, session, after, limit: *limit };
                frame::encode(id, Kind::List, &message, payload)
            }
        }
    }

    /// Reads a request and where it goes. `None`: frames of this kind are no requests.
    ///
    /// # Errors
    /// [`PartError::Invalid`] for one that makes no sense.
    pub fn decode(kind: Kind, message: Bytes) -> Option<Result<(Address, Self), PartError>> {
        Some(match kind {
            Kind::Put => decode(message).and_then(Self::put),
            Kind::Get => decode(message).and_then(Self::get),
            Kind::Held => decode(message).and_then(|wire::HeldRequest { to, blob }| {
                Ok((Address::from_wire(to.as_ref())?, Self::Held(blob_from_wire(&blob)?)))
            }),
            Kind::Delete => blobs(message, Self::Delete),
            Kind::Forget => blobs(message, Self::Forget),
            Kind::List => decode(message).and_then(Self::list),
            Kind::DropPart => decode(message).and_then(Self::drop_part),
            Kind::Rebuilt => decode(message).and_then(Self::rebuilt),
            Kind::Serve => decode(message).and_then(|wire::ServeRequest { to }| {
                Ok((Address::from_wire(to.as_ref())?, Self::Serve))
            }),
            Kind::Fence => decode(message).and_then(Self::fence),
            Kind::Promised => decode(message).and_then(|wire::PromisedRequest { to, volume }| {
                Ok((Address::from_wire(to.as_ref())?, Self::Promised(VolumeId(volume))))
            }),
            Kind::Beat => decode(message).and_then(Self::beat),
            Kind::LastBeat => decode(message).and_then(|wire::LastBeatRequest { to, volume }| {
                Ok((Address::from_wire(to.as_ref())?, Self::LastBeat(VolumeId(volume))))
            }),
            Kind::Condition => decode(message).and_then(|wire::ConditionRequest { to, volume }| {
                Ok((Address::from_wire(to.as_ref())?, Self::Condition(VolumeId(volume))))
            }),
            Kind::Hello | Kind::Done | Kind::Failed | Kind::Say | Kind::Said => return None,
        })
    }

    fn put(request: wire::PutRequest) -> Result<(Address, Self), PartError> {
        let wire::PutRequest { to, blob, part, checks, issuer } = request;
        let key = part_from_wire(&blob, part)?;
        let issuer = issuer.as_ref().map(issuer_from_wire).transpose()?;
        Ok((Address::from_wire(to.as_ref())?, Self::Put { key, checks, issuer }))
    }

    fn drop_part(request: wire::DropRequest) -> Result<(Address, Self), PartError> {
        let wire::DropRequest { to, blob, part, issuer } = request;
        let key = part_from_wire(&blob, part)?;
        let issuer = issuer.as_ref().map(issuer_from_wire).transpose()?;
        Ok((Address::from_wire(to.as_ref())?, Self::DropPart(key, issuer)))
    }

    fn rebuilt(request: wire::RebuiltRequest) -> Result<(Address, Self), PartError> {
        let wire::RebuiltRequest { to, volume, issuer } = request;
        let issuer = issuer.as_ref().map(issuer_from_wire).transpose()?;
        Ok((Address::from_wire(to.as_ref())?, Self::Rebuilt(VolumeId(volume), issuer)))
    }

    fn fence(request: wire::FenceRequest) -> Result<(Address, Self), PartError> {
        let wire::FenceRequest { to, volume, issuer } = request;
        let issuer = issuer.ok_or_else(|| invalid("the issuer is missing"))?;
        let fence = Self::Fence(VolumeId(volume), issuer_from_wire(&issuer)?);
        Ok((Address::from_wire(to.as_ref())?, fence))
    }

    fn beat(request: wire::BeatRequest) -> Result<(Address, Self), PartError> {
        let wire::BeatRequest { to, volume, issuer, holder } = request;
        let issuer = issuer.ok_or_else(|| invalid("the issuer is missing"))?;
        let beat = beat_from_wire(holder)?;
        let beat = Self::Beat(VolumeId(volume), issuer_from_wire(&issuer)?, beat);
        Ok((Address::from_wire(to.as_ref())?, beat))
    }

    fn get(request: wire::GetRequest) -> Result<(Address, Self), PartError> {
        let wire::GetRequest { to, blob, part, offset, len } = request;
        let key = part_from_wire(&blob, part)?;
        let end = offset.checked_add(len).filter(|end| len > 0 && *end <= key.blob.part_len());
        let end = end.ok_or_else(|| {
            PartError::Invalid(format!("no {len} bytes at {offset} in a part of {}", key.blob))
        })?;
        Ok((Address::from_wire(to.as_ref())?, Self::Get { key, range: offset..end }))
    }

    fn list(request: wire::ListRequest) -> Result<(Address, Self), PartError> {
        let wire::ListRequest { to, volume, session, after, limit } = request;
        let scope = match (volume, session) {
            (None, None) => Scope::All,
            (Some(volume), None) => Scope::Volume(VolumeId(volume)),
            (Some(volume), Some(session)) => Scope::Session(VolumeId(volume), SessionId(session)),
            (None, Some(_)) => return Err(invalid("a session without its volume")),
        };
        let after = if after.is_empty() { None } else { Some(blob_from_wire(&after)?) };
        if limit == 0 {
            return Err(invalid("a page of no entries"));
        }
        let limit = limit.min(MAX_LIST);
        Ok((Address::from_wire(to.as_ref())?, Self::List { scope, after, limit }))
    }

    /// Most bytes of payload that come with it, and with its answer.
    pub fn payloads(&self) -> (usize, usize) {
        match self {
            Self::Put { key, .. } => (key.blob.part_len() as usize, 0),
            Self::Get { key, range } => (0, widen(range.clone(), key.blob.part_len()).len()),
            _ => (0, 0),
        }
    }

    /// Bytes of memory that it takes at either end, about.
    pub fn memory(&self) -> usize {
        let (sent, received) = self.payloads();
        let message = match self {
            Self::Delete(blobs, _) | Self::Forget(blobs, _) => blobs.len() * ENTRY_LEN,
            Self::List { limit, .. } => *limit as usize * ENTRY_LEN,
            Self::Condition(_) => MAX_LIST as usize * ENTRY_LEN,
            _ => 0,
        };
        sent + received + message
    }

    /// Reads the message of its answer.
    ///
    /// # Errors
    /// [`PartError::Corrupt`] for one that makes no sense.
    pub fn reply(&self, message: Bytes) -> Result<Reply, PartError> {
        let reply = match self {
            Self::Put { .. }
            | Self::Delete(..)
            | Self::Forget(..)
            | Self::DropPart(..)
            | Self::Rebuilt(..)
            | Self::Serve
            | Self::Fence(..)
            | Self::Beat(..) => decode(message).map(|wire::Done {}| Reply::Done),
            Self::Promised(_) => decode(message).and_then(|wire::PromisedReply { promise }| {
                Ok(Reply::Promised(promise.as_ref().map(issuer_from_wire).transpose()?))
            }),
            Self::LastBeat(_) => decode(message).and_then(|wire::LastBeatReply { heard }| {
                Ok(Reply::LastBeat(heard.map(last_beat).transpose()?))
            }),
            Self::Get { .. } => decode(message).map(|wire::GetReply { checks }| Reply::Got(checks)),
            Self::Held(_) => decode(message).map(|reply| {
                let wire::HeldReply { parts, deleted, rebuilding } = reply;
                Reply::Held(Held { parts: PartSet(parts), deleted, rebuilding })
            }),
            Self::Condition(_) => decode(message).and_then(condition).map(Reply::Condition),
            Self::List { .. } => decode(message).and_then(page).map(Reply::Page),
        };
        reply.map_err(|e| {
            PartError::Corrupt(format!("the daemon's answer makes no sense: {}", e.reason()))
        })
    }
}

fn blobs(
    message: Bytes,
    request: impl Fn(Vec<BlobId>, Option<Issuer>) -> Request,
) -> Result<(Address, Request), PartError> {
    let wire::BlobsRequest { to, blobs, issuer } = decode(message)?;
    let issuer = issuer.as_ref().map(issuer_from_wire).transpose()?;
    Ok((Address::from_wire(to.as_ref())?, request(blobs_from_wire(&blobs)?, issuer)))
}

fn holder_to_wire(beat: &Beat) -> Option<String> {
    match beat {
        Beat::Alive(holder) => Some(holder.clone()),
        Beat::Ended => None,
    }
}

fn beat_from_wire(holder: Option<String>) -> Result<Beat, PartError> {
    match holder {
        Some(holder) if holder.len() > MAX_HOLDER => Err(invalid("the holder's name is too long")),
        Some(holder) => Ok(Beat::Alive(holder)),
        None => Ok(Beat::Ended),
    }
}

fn last_beat(heard: wire::last_beat_reply::Heard) -> Result<LastBeat, PartError> {
    let wire::last_beat_reply::Heard { issuer, holder, ago } = heard;
    let issuer = issuer.ok_or_else(|| invalid("the issuer is missing"))?;
    let (issuer, beat) = (issuer_from_wire(&issuer)?, beat_from_wire(holder)?);
    Ok(LastBeat { issuer, beat, ago: Duration::from_millis(ago) })
}

fn condition(reply: wire::ConditionReply) -> Result<Condition, PartError> {
    let wire::ConditionReply { rebuilding, damaged, parts, scrub } = reply;
    let damaged = blobs_from_wire(&damaged)?;
    Ok(Condition { rebuilding, damaged, parts, scrub: scrub.map(scrub_from_wire) })
}

fn page(reply: wire::ListReply) -> Result<Page, PartError> {
    let entry = |e: &wire::list_reply::Entry| Ok((blob_from_wire(&e.blob)?, PartSet(e.parts)));
    let entries = reply.entries.iter().map(entry).collect::<Result<_, PartError>>()?;
    Ok(Page { entries, complete: reply.complete, rebuilding: reply.rebuilding })
}

impl Reply {
    /// Its frame, with so much payload to follow.
    pub fn frame(&self, id: u32, payload: usize) -> Bytes {
        let kind = Kind::Done;
        match self {
            Self::Done => frame::encode(id, kind, &wire::Done {}, payload),
            Self::Got(checks) => {
                frame::encode(id, kind, &wire::GetReply { checks: checks.clone() }, payload)
            }
            Self::Held(Held { parts, deleted, rebuilding }) => {
                let (parts, deleted, rebuilding) = (parts.0, *deleted, *rebuilding);
                let message = wire::HeldReply { parts, deleted, rebuilding };
                frame::encode(id, kind, &message, payload)
            }
            Self::Promised(promise) => {
                let message = wire::PromisedReply { promise: promise.map(issuer_to_wire) };
                frame::encode(id, kind, &message, payload)
            }
            Self::LastBeat(heard) => {
                let heard = heard.as_ref().map(|LastBeat { issuer, beat, ago }| {
                    let (issuer, holder) = (Some(issuer_to_wire(*issuer)), holder_to_wire(beat));
                    wire::last_beat_reply::Heard { issuer, holder, ago: ago.as_millis() as u64 }
                });
                frame::encode(id, kind, &wire::LastBeatReply { heard }, payload)
            }
            Self::Condition(Condition { rebuilding, damaged, parts, scrub }) => {
                let (rebuilding, parts) = (*rebuilding, *parts);
                let (damaged, scrub) = (blobs_to_wire(damaged), scrub.map(scrub_to_wire));
                let message = wire::ConditionReply { rebuilding, damaged, parts, scrub };
                frame::encode(id, kind, &message, payload)
            }
            Self::Page(Page { entries, complete, rebuilding }) => {
                let entry = |(blob, parts): &(BlobId, PartSet)| wire::list_reply::Entry {
                    blob: blob_to_wire(*blob),
                    parts: parts.0,
                };
                let entries = entries.iter().map(entry).collect();
                let (complete, rebuilding) = (*complete, *rebuilding);
                let message = wire::ListReply { entries, complete, rebuilding };
                frame::encode(id, kind, &message, payload)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ClusterId, DiskId, Epoch, Generation, GroupId, OwnerId, SlotId};
    use crate::limits::MAX_BLOBS_PER_REQUEST;
    use crate::part_store::ScrubState;

    fn blob(sequence: u64) -> BlobId {
        let scheme = "ec(4,2)".parse().unwrap();
        let (volume, session) = (VolumeId(u32::MAX), SessionId(u64::MAX));
        BlobId::new(volume, session, sequence, GroupId(u32::MAX), 8 << 20, scheme).unwrap()
    }

    fn to() -> Address {
        Address {
            cluster: ClusterId::random(),
            disk: DiskId::random(),
            slot: SlotId(u32::MAX),
            group: GroupId(u32::MAX),
            generation: Generation(u64::MAX),
        }
    }

    async fn arrived(frame: Bytes) -> frame::Arrived {
        frame::read(&mut &frame[..]).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn requests_arrive_as_they_were_sent_however_large() {
        let blobs: Vec<BlobId> = (0..MAX_BLOBS_PER_REQUEST as u64).map(|n| blob(!n)).collect();
        let key = PartKey::new(blob(1), 5).unwrap();
        let issuer = Issuer { epoch: Epoch(u64::MAX), owner: OwnerId::random() };
        let list = |scope, after| Request::List { scope, after, limit: MAX_LIST };
        let requests = [
            Request::Put { key, checks: vec![u32::MAX; 129], issuer: Some(issuer) },
            Request::Put { key, checks: vec![1], issuer: None },
            Request::DropPart(key, Some(issuer)),
            Request::DropPart(key, None),
            Request::Rebuilt(VolumeId(u32::MAX), Some(issuer)),
            Request::Rebuilt(VolumeId(0), None),
            Request::Serve,
            Request::Fence(VolumeId(u32::MAX), issuer),
            Request::Promised(VolumeId(u32::MAX)),
            Request::Beat(VolumeId(1), issuer, Beat::Alive("x".repeat(MAX_HOLDER))),
            Request::Beat(VolumeId(1), issuer, Beat::Ended),
            Request::LastBeat(VolumeId(u32::MAX)),
            Request::Condition(VolumeId(u32::MAX)),
            Request::Get { key, range: 3..key.blob.part_len() },
            Request::Held(blob(1)),
            Request::Delete(blobs.clone(), Some(issuer)),
            Request::Forget(blobs, None),
            list(Scope::All, None),
            list(Scope::Volume(VolumeId(0)), Some(blob(7))),
            list(Scope::Session(VolumeId(0), SessionId(0)), None),
        ];
        let to = to();
        for request in requests {
            let frame = arrived(request.frame(1, to, 0)).await;
            let read = Request::decode(frame.kind, frame.message).unwrap().unwrap();
            assert_eq!(read, (to, request));
        }
        let hello = Hello { client: ClientId::random(), connection: u64::MAX };
        assert_eq!(Hello::decode(arrived(hello.frame()).await.message), Ok(hello));
    }

    #[tokio::test]
    async fn answers_arrive_as_they_were_sent_however_large() {
        let key = PartKey::new(blob(1), 5).unwrap();
        let issuer = Issuer { epoch: Epoch(0), owner: OwnerId::random() };
        let heard = |beat| LastBeat { issuer, beat, ago: Duration::from_millis(1234) };
        let entry = |n: u64| (blob(n), PartSet(u32::MAX));
        let entries: Vec<_> = (0..u64::from(MAX_LIST)).map(entry).collect();
        let list = Request::List { scope: Scope::All, after: None, limit: MAX_LIST };
        let condition = Condition {
            rebuilding: true,
            damaged: (0..u64::from(MAX_LIST)).map(blob).collect(),
            parts: u64::MAX,
            scrub: Some(ScrubState { ended: u64::MAX, percent: 99, asked: true, left: 1 << 40 }),
        };
        assert!(list.memory() >= entries.len() * 40, "what a page takes is accounted for");
        for (request, reply) in [
            (Request::Put { key, checks: Vec::new(), issuer: None }, Reply::Done),
            (Request::Promised(VolumeId(1)), Reply::Promised(None)),
            (Request::Promised(VolumeId(1)), Reply::Promised(Some(issuer))),
            (Request::LastBeat(VolumeId(1)), Reply::LastBeat(None)),
            (Request::LastBeat(VolumeId(1)), Reply::LastBeat(Some(heard(Beat::Ended)))),
            (
                Request::LastBeat(VolumeId(1)),
                Reply::LastBeat(Some(heard(Beat::Alive("me".to_owned())))),
            ),
            (Request::Get { key, range: 0..1 }, Reply::Got(vec![u32::MAX; 129])),
            (Request::Serve, Reply::Done),
            (Request::Condition(VolumeId(1)), Reply::Condition(condition)),
            (Request::Condition(VolumeId(1)), Reply::Condition(Condition::default())),
            (
                Request::Held(blob(1)),
                Reply::Held(Held { parts: PartSet(5), deleted: true, rebuilding: false }),
            ),
            (Request::Held(blob(1)), Reply::Held(Held { rebuilding: true, ..Held::default() })),
            (list.clone(), Reply::Page(Page { entries, complete: true, rebuilding: true })),
            (list, Reply::Page(Page::default())),
        ] {
            let frame = arrived(reply.frame(1, 0)).await;
            assert_eq!(frame.kind, Kind::Done);
            assert_eq!(request.reply(frame.message), Ok(reply));
        }
    }

    #[test]
    fn requests_that_make_no_sense_are_invalid() {
        let (to, blob) = (Some(to().to_wire()), blob_to_wire(blob(1)));
        let put = |to: &Option<wire::Address>, blob: &Bytes, part| {
            let (to, blob) = (to.clone(), blob.clone());
            let put = wire::PutRequest { to, blob, part, checks: vec![1], issuer: None };
            (Kind::Put, put.encode_to_vec())
        };
        let get = |offset, len| {
            let (to, blob) = (to.clone(), blob.clone());
            (Kind::Get, wire::GetRequest { to, blob, part: 0, offset, len }.encode_to_vec())
        };
        let many = vec![blob.clone(); MAX_BLOBS_PER_REQUEST + 1];
        let many = wire::BlobsRequest { to: to.clone(), blobs: many, issuer: None };
        let short = wire::Issuer { epoch: 1, owner: Bytes::from_static(b"me") };
        let fence = |issuer| {
            (Kind::Fence, wire::FenceRequest { to: to.clone(), volume: 1, issuer }.encode_to_vec())
        };
        let beat = |issuer: Option<wire::Issuer>, len: usize| {
            let (to, holder) = (to.clone(), Some("x".repeat(len)));
            let message = wire::BeatRequest { to, volume: 1, issuer, holder };
            (Kind::Beat, message.encode_to_vec())
        };
        let good = Issuer { epoch: Epoch(1), owner: OwnerId::random() };
        let list = |volume, session, limit| {
            let request =
                wire::ListRequest { to: to.clone(), volume, session, after: Bytes::new(), limit };
            (Kind::List, request.encode_to_vec())
        };
        for (kind, message) in [
            put(&None, &blob, 0),
            put(&to, &blob.slice(1..), 0),
            put(&to, &blob, 6),
            get(0, 0),
            get(0, (2 << 20) + 1),
            get(2 << 20, 1),
            get(u32::MAX, 2),
            (Kind::Delete, many.encode_to_vec()),
            fence(None),
            fence(Some(short)),
            beat(None, 1),
            beat(Some(issuer_to_wire(good)), MAX_HOLDER + 1),
            list(None, Some(1), 1),
            list(Some(1), Some(1), 0),
            (Kind::Held, b"noise".to_vec()),
        ] {
            let read = Request::decode(kind, message.into()).unwrap();
            assert!(matches!(read, Err(PartError::Invalid(_))), "{kind:?}: {read:?}");
        }
        for kind in [Kind::Hello, Kind::Done, Kind::Failed] {
            assert!(Request::decode(kind, Bytes::new()).is_none());
        }
    }
}
