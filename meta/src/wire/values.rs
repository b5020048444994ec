//! Values that ops and answers have in common.

use std::ops::Range;

use bytes::Bytes;
use proto::cluster::Level;
use proto::id::{BlobId, ClusterId, Epoch, OwnerId, VolumeId};
use proto::part_store::Issuer;
use proto::rpc::metad as wire;
use proxy::{Layout, VolumeRules};

use super::{bad, few, owned, there};
use crate::store::{
    Attr, Caller, DirEntry, Extent, Fate, Ino, Kind, Looked, MetaError, Place, Time, Usage,
    VolumeInfo,
};

/// By the numbers that they travel as.
const KINDS: [Kind; 7] = [
    Kind::File,
    Kind::Directory,
    Kind::Symlink,
    Kind::Fifo,
    Kind::Socket,
    Kind::CharDevice,
    Kind::BlockDevice,
];

pub(crate) fn kind_to_wire(kind: Kind) -> u32 {
    match kind {
        Kind::File => 0,
        Kind::Directory => 1,
        Kind::Symlink => 2,
        Kind::Fifo => 3,
        Kind::Socket => 4,
        Kind::CharDevice => 5,
        Kind::BlockDevice => 6,
    }
}

pub(crate) fn kind_from_wire(kind: u32) -> Result<Kind, MetaError> {
    KINDS.get(kind as usize).copied().ok_or(bad("an unknown kind of inode"))
}

pub(crate) fn time_to_wire(Time { secs, nanos }: Time) -> wire::Time {
    wire::Time { secs, nanos }
}

pub(crate) fn time_from_wire(time: wire::Time) -> Result<Time, MetaError> {
    let wire::Time { secs, nanos } = time;
    if nanos >= 1_000_000_000 {
        return Err(bad("a time of more nanoseconds than a second has"));
    }
    Ok(Time { secs, nanos })
}

/// A time that may be left out.
pub(crate) fn maybe_time(time: Option<wire::Time>) -> Result<Option<Time>, MetaError> {
    time.map(time_from_wire).transpose()
}

pub(crate) fn attr_to_wire(attr: &Attr) -> wire::Attr {
    let time = |time| Some(time_to_wire(time));
    wire::Attr {
        ino: attr.ino.0,
        kind: kind_to_wire(attr.kind),
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size: attr.size,
        stored: attr.stored,
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        btime: time(attr.btime),
        xattrs: attr.xattrs,
    }
}

pub(crate) fn attr_from_wire(attr: wire::Attr) -> Result<Attr, MetaError> {
    let time = |time: Option<wire::Time>| there(time).and_then(time_from_wire);
    Ok(Attr {
        ino: Ino(attr.ino),
        kind: kind_from_wire(attr.kind)?,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        xattrs: attr.xattrs,
        size: attr.size,
        stored: attr.stored,
        atime: time(attr.atime)?,
        mtime: time(attr.mtime)?,
        ctime: time(attr.ctime)?,
        btime: time(attr.btime)?,
    })
}

pub(crate) fn caller_to_wire(Caller { uid, gid, umask }: Caller) -> wire::Caller {
    wire::Caller { uid, gid, umask }
}

pub(crate) fn caller_from_wire(caller: Option<wire::Caller>) -> Result<Caller, MetaError> {
    let wire::Caller { uid, gid, umask } = there(caller)?;
    Ok(Caller { uid, gid, umask })
}

/// The user into whose trash it goes.
pub(crate) fn fate_to_wire(fate: Fate) -> Option<u32> {
    match fate {
        Fate::Gone => None,
        Fate::Trash { by } => Some(by),
    }
}

pub(crate) fn fate_from_wire(trash_by: Option<u32>) -> Fate {
    trash_by.map_or(Fate::Gone, |by| Fate::Trash { by })
}

pub(crate) fn name_to_wire(parent: Ino, name: &Bytes) -> wire::Name {
    wire::Name { parent: parent.0, name: name.clone() }
}

pub(crate) fn name_from_wire(name: Option<wire::Name>) -> Result<(Ino, Bytes), MetaError> {
    let wire::Name { parent, name } = there(name)?;
    Ok((Ino(parent), name))
}

pub(crate) fn range_from_wire(start: u64, end: u64) -> Result<Range<u64>, MetaError> {
    if start > end {
        return Err(bad("a range that ends before it starts"));
    }
    Ok(start..end)
}

pub(crate) fn blob_to_wire(blob: BlobId) -> Bytes {
    Bytes::copy_from_slice(&blob.to_bytes())
}

pub(crate) fn blob_from_wire(blob: &[u8]) -> Result<BlobId, MetaError> {
    BlobId::from_bytes(blob).ok_or(bad("not a blob id"))
}

pub(crate) fn blobs_to_wire(blobs: &[BlobId]) -> Vec<Bytes> {
    blobs.iter().copied().map(blob_to_wire).collect()
}

pub(crate) fn blobs_from_wire(blobs: &[Bytes]) -> Result<Vec<BlobId>, MetaError> {
    few(blobs)?;
    blobs.iter().map(|blob| blob_from_wire(blob)).collect()
}

pub(crate) fn extent_to_wire(extent: &Extent) -> wire::Extent {
    let Extent { offset, len, place } = *extent;
    let (blob, at) =
        place.map_or_else(Default::default, |Place { blob, offset }| (blob_to_wire(blob), offset));
    wire::Extent { offset, len, blob, at }
}

pub(crate) fn extent_from_wire(extent: wire::Extent) -> Result<Extent, MetaError> {
    let wire::Extent { offset, len, blob, at } = extent;
    let place = match blob.is_empty() {
        true => None,
        false => Some(Place { blob: blob_from_wire(&blob)?, offset: at }),
    };
    Ok(Extent { offset, len, place })
}

pub(crate) fn extents_to_wire(extents: &[Extent]) -> Vec<wire::Extent> {
    extents.iter().map(extent_to_wire).collect()
}

pub(crate) fn extents_from_wire(extents: Vec<wire::Extent>) -> Result<Vec<Extent>, MetaError> {
    few(&extents)?;
    extents.into_iter().map(extent_from_wire).collect()
}

pub(crate) fn entry_to_wire(entry: DirEntry) -> wire::Entry {
    let DirEntry { cookie, name, attr, damaged } = entry;
    wire::Entry { cookie, name: name.into(), attr: Some(attr_to_wire(&attr)), damaged }
}

pub(crate) fn entry_from_wire(entry: wire::Entry) -> Result<DirEntry, MetaError> {
    let wire::Entry { cookie, name, attr, damaged } = entry;
    Ok(DirEntry { cookie, name: owned(name), attr: attr_from_wire(there(attr)?)?, damaged })
}

/// What a name is; `None`: it is not there.
pub(crate) fn looked_to_wire(looked: Option<Looked>) -> wire::Looked {
    looked.map_or_else(wire::Looked::default, |Looked { attr, value }| wire::Looked {
        attr: Some(attr_to_wire(&attr)),
        value: value.map(Bytes::from),
    })
}

pub(crate) fn looked_from_wire(looked: wire::Looked) -> Result<Option<Looked>, MetaError> {
    let wire::Looked { attr, value } = looked;
    let value = value.map(owned);
    attr.map(|attr| Ok(Looked { attr: attr_from_wire(attr)?, value })).transpose()
}

pub(crate) fn usage_to_wire(usage: Usage) -> wire::Counters {
    let Usage { inodes, live_bytes, blob_bytes, dead_bytes, blobs, allocated_bytes, disk_bytes } =
        usage;
    wire::Counters {
        inodes,
        live_bytes,
        blob_bytes,
        dead_bytes,
        blobs,
        allocated_bytes,
        disk_bytes,
        metadata: 0,
    }
}

pub(crate) fn usage_from_wire(counters: wire::Counters) -> Usage {
    let wire::Counters {
        inodes,
        live_bytes,
        blob_bytes,
        dead_bytes,
        blobs,
        allocated_bytes,
        disk_bytes,
        metadata: _,
    } = counters;
    Usage { inodes, live_bytes, blob_bytes, dead_bytes, blobs, allocated_bytes, disk_bytes }
}

pub(crate) fn issuer_to_wire(Issuer { epoch, owner }: Issuer) -> wire::Issuer {
    wire::Issuer { epoch: epoch.0, owner: Bytes::copy_from_slice(owner.as_bytes()) }
}

pub(crate) fn issuer_from_wire(issuer: wire::Issuer) -> Result<Issuer, MetaError> {
    let owner = OwnerId::from_slice(&issuer.owner).ok_or(bad("an owner is 16 bytes"))?;
    Ok(Issuer { epoch: Epoch(issuer.epoch), owner })
}

/// What the volume is, with the days that what is deleted stays in its trash.
pub(crate) fn volume_to_wire(info: &VolumeInfo, trash_days: u16) -> wire::Volume {
    let VolumeInfo { name, id, cluster, scheme, rules } = info;
    let VolumeRules { layout: Layout { unit, whole }, min_spare, least_spare } = *rules;
    wire::Volume {
        name: name.clone(),
        id: id.0,
        cluster: Bytes::copy_from_slice(cluster.as_bytes()),
        scheme: scheme.to_string(),
        min_spare: min_spare.into(),
        least_spare: least_spare.into(),
        unit: unit as u32,
        whole: whole.into(),
        trash_days: trash_days.into(),
    }
}

pub(crate) fn volume_from_wire(volume: wire::Volume) -> Result<(VolumeInfo, u16), MetaError> {
    let cluster =
        ClusterId::from_slice(&volume.cluster).ok_or(bad("a cluster's id is 16 bytes"))?;
    let scheme = volume.scheme.parse().map_err(|_| bad("not a scheme"))?;
    let unit = Level::ALL.get(volume.unit as usize).copied().ok_or(bad("an unknown level"))?;
    let rules = VolumeRules {
        layout: Layout { unit, whole: small(volume.whole)? },
        min_spare: small(volume.min_spare)?,
        least_spare: small(volume.least_spare)?,
    };
    let (name, id) = (volume.name, VolumeId(volume.id));
    Ok((VolumeInfo { name, id, cluster, scheme, rules }, small(volume.trash_days)?))
}

/// A number that is kept in fewer bytes than it travels in.
pub(crate) fn small<T: TryFrom<u32>>(number: u32) -> Result<T, MetaError> {
    T::try_from(number).map_err(|_| bad("a number out of its range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back() {
        for kind in KINDS {
            assert_eq!(kind_from_wire(kind_to_wire(kind)), Ok(kind));
        }
        assert!(kind_from_wire(KINDS.len() as u32).is_err());
    }

    #[test]
    fn a_volume_is_read_back() {
        for unit in Level::ALL {
            let info = VolumeInfo {
                name: "photos".to_owned(),
                id: VolumeId(u32::MAX),
                cluster: ClusterId::random(),
                scheme: "ec(4,2)".parse().unwrap(),
                rules: VolumeRules {
                    layout: Layout { unit, whole: 0b110 },
                    min_spare: 2,
                    least_spare: 1,
                },
            };
            let read = volume_from_wire(volume_to_wire(&info, u16::MAX));
            assert_eq!(read, Ok((info, u16::MAX)));
        }
        assert!(volume_from_wire(wire::Volume::default()).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(time_from_wire(wire::Time { secs: 1, nanos: 1_000_000_000 }).is_err());
        assert!(range_from_wire(2, 1).is_err());
        assert!(attr_from_wire(wire::Attr::default()).is_err(), "without times");
        let blob = Bytes::from_static(b"noise");
        assert!(extent_from_wire(wire::Extent { offset: 0, len: 1, blob, at: 0 }).is_err());
        assert!(blobs_from_wire(&vec![Bytes::new(); proto::limits::MAX_ENTRIES + 1]).is_err());
        let owner = Bytes::from_static(b"me");
        assert!(issuer_from_wire(wire::Issuer { epoch: 1, owner }).is_err());
    }
}
