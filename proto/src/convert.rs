//! Between the wire and our own types: what arrives is checked here, once, and nothing else reads
//! generated messages.
//!
//! An error travels as a [`PartFailure`] over a [`crate::link`]. The status of a call by gRPC comes from the
//! transport and says nothing about a part.

use bytes::Bytes;
use tonic::{Code, Status};

use crate::checksum::Checked;
use crate::id::{BlobId, ClusterId, DiskId, Epoch, Generation, GroupId, OwnerId, PartKey, SlotId};
use crate::limits::MAX_BLOBS_PER_REQUEST;
use crate::part_store::{Issuer, PartError, ScrubState};
use crate::rpc::storaged as wire;
use crate::rpc::storaged::PartFailure;
use crate::rpc::storaged::part_failure::Kind;

/// Names a slot so exactly that a message that went astray is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The cluster.
    pub cluster: ClusterId,
    /// The disk.
    pub disk: DiskId,
    /// Number of the slot on the disk.
    pub slot: SlotId,
    /// The group it belongs to.
    pub group: GroupId,
    /// The group's generation, as the sender knows it.
    pub generation: Generation,
}

impl Address {
    /// Its message.
    pub fn to_wire(self) -> wire::Address {
        wire::Address {
            cluster: Bytes::copy_from_slice(self.cluster.as_bytes()),
            disk: Bytes::copy_from_slice(self.disk.as_bytes()),
            slot: self.slot.0,
            group: self.group.0,
            generation: self.generation.0,
        }
    }

    /// Reads the message; `Invalid` when it is missing or an id is not 16 bytes.
    pub fn from_wire(to: Option<&wire::Address>) -> Result<Self, PartError> {
        let to = to.ok_or_else(|| invalid("the address is missing"))?;
        let cluster = ClusterId::from_slice(&to.cluster);
        let disk = DiskId::from_slice(&to.disk);
        let (Some(cluster), Some(disk)) = (cluster, disk) else {
            return Err(invalid("the address holds an id that is not 16 bytes"));
        };
        Ok(Self {
            cluster,
            disk,
            slot: SlotId(to.slot),
            group: GroupId(to.group),
            generation: Generation(to.generation),
        })
    }
}

/// An issuer, as it travels.
pub fn issuer_to_wire(issuer: Issuer) -> wire::Issuer {
    let owner = Bytes::copy_from_slice(issuer.owner.as_bytes());
    wire::Issuer { epoch: issuer.epoch.0, owner }
}

/// Reads an issuer.
///
/// # Errors
/// [`PartError::Invalid`] when the token is not 16 bytes.
pub fn issuer_from_wire(issuer: &wire::Issuer) -> Result<Issuer, PartError> {
    let owner = OwnerId::from_slice(&issuer.owner);
    let owner = owner.ok_or_else(|| invalid("the owner's token is not 16 bytes"))?;
    Ok(Issuer { epoch: Epoch(issuer.epoch), owner })
}

fn invalid(why: &str) -> PartError {
    PartError::Invalid(why.to_owned())
}

/// How far a scrub is, as it travels.
pub fn scrub_to_wire(state: ScrubState) -> wire::ScrubStatus {
    let ScrubState { ended, percent, asked, left } = state;
    wire::ScrubStatus { ended, percent, asked, left }
}

/// Reads how far a scrub is.
pub fn scrub_from_wire(state: wire::ScrubStatus) -> ScrubState {
    let wire::ScrubStatus { ended, percent, asked, left } = state;
    ScrubState { ended, percent, asked, left }
}

/// A blob id's bytes, as they travel.
pub fn blob_to_wire(blob: BlobId) -> Bytes {
    Bytes::copy_from_slice(&blob.to_bytes())
}

/// Reads a blob id.
pub fn blob_from_wire(bytes: &[u8]) -> Result<BlobId, PartError> {
    BlobId::from_bytes(bytes).ok_or_else(|| invalid("not a blob id"))
}

/// Ids of blobs, as they travel.
pub fn blobs_to_wire(blobs: &[BlobId]) -> Vec<Bytes> {
    blobs.iter().copied().map(blob_to_wire).collect()
}

/// Reads a list of blob ids, bounded.
pub fn blobs_from_wire(blobs: &[Bytes]) -> Result<Vec<BlobId>, PartError> {
    if blobs.len() > MAX_BLOBS_PER_REQUEST {
        return Err(invalid("too many blobs in one request"));
    }
    blobs.iter().map(|bytes| blob_from_wire(bytes)).collect()
}

/// Reads which part of which blob.
pub fn part_from_wire(blob: &[u8], part: u32) -> Result<PartKey, PartError> {
    let blob = blob_from_wire(blob)?;
    PartKey::new(blob, part as usize).ok_or_else(|| invalid("the blob has no such part"))
}

/// Reads a put's payload and verifies it: its length is the part's, its bytes are what was sent.
pub fn payload_from_wire(
    key: PartKey,
    data: Bytes,
    checks: Vec<u32>,
) -> Result<Checked, PartError> {
    if data.len() != key.blob.part_len() as usize {
        return Err(PartError::Invalid(format!(
            "the payload has {} bytes, a part of {} has {}",
            data.len(),
            key.blob,
            key.blob.part_len()
        )));
    }
    let checked = Checked::received(data, checks)
        .ok_or_else(|| invalid("the payload and its checksums do not add up"))?;
    checked
        .verify()
        .map_err(|e| PartError::Invalid(format!("the payload arrived damaged: {e}")))?;
    Ok(checked)
}

/// The message that carries an error to the client.
pub fn failure_from(error: &PartError) -> PartFailure {
    let kind = match error {
        PartError::NotFound => Kind::NotFound,
        PartError::NotRebuilt => Kind::NotRebuilt,
        PartError::Deleted => Kind::Deleted,
        PartError::Conflict => Kind::Conflict,
        PartError::Corrupt(_) => Kind::Corrupt,
        PartError::Full => Kind::Full,
        PartError::WrongAddress(_) => Kind::WrongAddress,
        PartError::StaleGeneration(_) => Kind::StaleGeneration,
        PartError::Fenced { .. } => Kind::Fenced,
        PartError::Invalid(_) => Kind::Invalid,
        PartError::Io(_) => Kind::Io,
        // Not the server, but the disk that it has not got.
        PartError::Unreachable(_) => Kind::Out,
    };
    let generation = match error {
        PartError::StaleGeneration(newer) => newer.0,
        _ => 0,
    };
    let epoch = match error {
        PartError::Fenced { epoch } => epoch.0,
        _ => 0,
    };
    PartFailure { kind: kind.into(), message: error.reason(), generation, epoch }
}

/// The error that a message carries.
pub fn error_from_failure(failure: PartFailure) -> PartError {
    match failure.kind() {
        Kind::NotFound => PartError::NotFound,
        Kind::NotRebuilt => PartError::NotRebuilt,
        Kind::Deleted => PartError::Deleted,
        Kind::Conflict => PartError::Conflict,
        Kind::Corrupt => PartError::Corrupt(failure.message),
        Kind::Full => PartError::Full,
        Kind::WrongAddress => PartError::WrongAddress(failure.message),
        Kind::StaleGeneration => PartError::StaleGeneration(Generation(failure.generation)),
        Kind::Fenced => PartError::Fenced { epoch: Epoch(failure.epoch) },
        Kind::Invalid => PartError::Invalid(failure.message),
        Kind::Io => PartError::Io(failure.message),
        Kind::Out | Kind::Unspecified => PartError::Unreachable(failure.message),
    }
}

/// Why a daemon could not be asked by gRPC.
pub fn transport_error(status: &Status) -> PartError {
    let text = || format!("{}: {}", status.code(), status.message());
    match status.code() {
        // Both are how the transport refuses a message that is too large or makes no sense.
        Code::OutOfRange | Code::InvalidArgument | Code::Unimplemented => {
            PartError::Invalid(text())
        }
        Code::FailedPrecondition => PartError::Invalid(status.message().to_owned()),
        Code::NotFound => PartError::WrongAddress(status.message().to_owned()),
        _ => PartError::Unreachable(text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{SessionId, VolumeId};

    #[test]
    fn every_error_survives_the_wire() {
        let text = || "why".to_owned();
        for error in [
            PartError::NotFound,
            PartError::NotRebuilt,
            PartError::Deleted,
            PartError::Conflict,
            PartError::Corrupt(text()),
            PartError::Full,
            PartError::WrongAddress(text()),
            PartError::StaleGeneration(Generation(9)),
            PartError::Fenced { epoch: Epoch(7) },
            PartError::Invalid(text()),
            PartError::Io(text()),
            PartError::Unreachable(text()),
        ] {
            assert_eq!(error_from_failure(failure_from(&error)), error);
        }
    }

    #[test]
    fn a_status_of_the_transport_says_nothing_about_the_part() {
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled] {
            let error = transport_error(&Status::new(code, "connection reset"));
            assert!(matches!(error, PartError::Unreachable(_)), "{code:?} became {error:?}");
        }
    }

    #[test]
    fn payloads_that_do_not_add_up_are_refused() {
        let scheme = "ec(4,2)".parse().unwrap();
        let blob = BlobId::new(VolumeId(1), SessionId(1), 1, GroupId(0), 400_000, scheme).unwrap();
        let key = PartKey::new(blob, 5).unwrap();
        let data = Bytes::from(vec![3; blob.part_len() as usize]);
        let checks = Checked::compute(data.clone()).into_parts().1;
        assert!(payload_from_wire(key, data.clone(), checks.clone()).is_ok());
        assert!(payload_from_wire(key, data.slice(1..), checks.clone()).is_err());
        assert!(payload_from_wire(key, data.clone(), checks[1..].to_vec()).is_err());
        let mut rotten = data.to_vec();
        rotten[70_000] ^= 1;
        assert!(payload_from_wire(key, rotten.into(), checks).is_err());
        assert!(part_from_wire(&blob.to_bytes(), 6).is_err());
        assert!(part_from_wire(&blob.to_bytes()[1..], 0).is_err());
    }
}
