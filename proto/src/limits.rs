//! Every bound that both ends of a connection, or two crates, must agree on.

/// Unit of checksums and of verified reads within a part, in bytes.
pub const CHECK_BLOCK: u32 = 64 << 10;
/// Unit of direct I/O: every offset, length and buffer address on disk is a multiple of it.
pub const DISK_BLOCK: usize = 4096;
/// Largest blob, in bytes.
pub const MAX_BLOB: u32 = 8 << 20;
/// Blob size the write path aims at, in bytes.
pub const TARGET_BLOB: u32 = 4 << 20;
/// Largest part, in bytes: a whole blob, as `copies(n)` keeps it, rounded up to its padding.
pub const MAX_PART: u32 = MAX_BLOB + DISK_BLOCK as u32;
/// Bytes of a record's header on disk, without the checksum table behind it.
pub const RECORD_HEADER: usize = 96;
/// Most parts a blob may be cut into (k + m); a set of parts is a 32-bit mask.
pub const MAX_PARTS: usize = 32;
/// Most slots in one group.
pub const MAX_SLOTS: usize = 64;
/// Most blobs named in one delete or forget request.
pub const MAX_BLOBS_PER_REQUEST: usize = 1024;
/// Most entries in one page of a listing.
pub const MAX_LIST: u32 = 1024;
/// Largest gRPC message either side accepts, in bytes: a part with its address, checks and framing.
pub const MAX_MESSAGE: usize = MAX_PART as usize + (64 << 10);

/// Longest message between a session and its metad, in bytes.
pub const MAX_SESSION_MESSAGE: u32 = 8 << 20;
/// Most ops in one ask of a session.
pub const MAX_OPS: usize = 256;
/// Sessions that one metad serves.
pub const MAX_SESSIONS: usize = 4096;
/// Most entries of any list between a session and its metad.
pub const MAX_ENTRIES: usize = 4096;
/// Most names that a session looks at by one op: each may come with an extended attribute, the longest of which has 64 KiB.
pub const MAX_LOOKS: usize = 64;

/// Where a payload of so many bytes starts within its record on disk: behind header and checksum
/// table if that saves a disk block, else in the next one.
pub fn payload_offset(payload_len: u32) -> usize {
    let blocks = payload_len.div_ceil(CHECK_BLOCK) as usize;
    let (head, len) = (RECORD_HEADER + 4 * blocks, payload_len as usize);
    let at_once = (head + len).div_ceil(DISK_BLOCK) <= len.div_ceil(DISK_BLOCK);
    if payload_len < CHECK_BLOCK && at_once { head } else { DISK_BLOCK }
}

/// Bytes of disk that a record with a payload of so many bytes takes.
pub fn footprint(payload_len: u32) -> u64 {
    (payload_offset(payload_len) + payload_len as usize).next_multiple_of(DISK_BLOCK) as u64
}
