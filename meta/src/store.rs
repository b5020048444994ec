//! The seam between a filesystem and its metadata: filesystem operations on one volume.
//!
//! Each method is one atomic transaction, visible to every later call at once. (What changes many
//! thousands of extents of one file, truncate, clear, clone or reap, goes in several, each leaving a
//! file such as a smaller call of the same kind would have left.) A change is durable
//! only after a later [`MetaStore::sync`] has returned (or the periodic one, at least every second);
//! changes become durable in order. All methods are safe to call from many tasks. The local
//! implementation never waits except in [`MetaStore::sync`] and between the steps of those long ones,
//! so its futures are ready when first polled.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use proto::guard::Panicked;
use proto::id::{BlobId, SessionId};
use proto::scheme::Scheme;
use proxy::VolumeRules;

use crate::account::{Account, AccountKind, Secret, UserChange};
use crate::missing::Missing;

/// Number of an inode. 1 is the root directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

/// The root directory.
pub const ROOT: Ino = Ino(1);

/// Longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes.
pub const SYMLINK_MAX: usize = 4095;
/// Longest value of one extended attribute, in bytes.
pub const XATTR_VALUE_MAX: usize = 65_536;
/// Most extended attributes of one inode.
pub const XATTR_COUNT_MAX: u32 = 4096;
/// Most names of one inode.
pub const LINK_MAX: u32 = 65_000;
/// Largest file, in bytes (2^62: offsets never overflow in sums).
pub const FILE_MAX: u64 = 1 << 62;

/// Kind of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Nanoseconds since the epoch, before or after: 64-bit seconds and nanoseconds below 10^9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since the epoch.
    pub secs: i64,
    /// 0 to 999,999,999, always added to `secs`.
    pub nanos: u32,
}

/// What stat(2) tells of an inode, and how many extended attributes there are to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// Its kind.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u32,
    /// Names it has.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device, else 0.
    pub rdev: u32,
    /// Extended attributes it has.
    pub xattrs: u32,
    /// Bytes of a file or of a symlink's target; directories: a small constant.
    pub size: u64,
    /// Bytes of its extents: what is stored, holes not counted.
    pub stored: u64,
    /// Last read.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
}

/// Who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Permissions that what the caller creates does not get, unless a default access list decides.
    pub umask: u32,
}

/// What to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewNode {
    /// An empty regular file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A pipe, socket or device with its device number.
    Special(Kind, u32),
}

/// Changes of attributes; `None` leaves a field as it is. Size is [`MetaStore::truncate`]'s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last read.
    pub atime: Option<Time>,
    /// Last change of the content.
    pub mtime: Option<Time>,
    /// Explicit change time; `None`: now.
    pub ctime: Option<Time>,
    /// Who changes owner or group is not in the inode's group: a setgid bit goes even where the
    /// group may not execute.
    pub outsider: bool,
}

/// How rename(2) treats an existing target, and what it leaves at the old name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Replaces it, if it is this one, whatever it is: it goes to the trash, a directory with all that is in it. What does not
    /// go there ([`Fate::Gone`]) is replaced as by [`RenameMode::Replace`].
    ReplaceWhole(Ino),
    /// Refuses with [`MetaError::Exists`].
    NoReplace,
    /// Swaps both.
    Exchange,
    /// Leaves a whiteout: a character device with the number 0, by which overlay filesystems hide
    /// what is below.
    Whiteout {
        /// An existing target is replaced, not refused.
        replace: bool,
        /// Who owns the whiteout.
        owner: Caller,
    },
}

impl RenameMode {
    /// May an existing target go?
    pub fn replaces(self) -> bool {
        matches!(self, Self::Replace | Self::ReplaceWhole(_) | Self::Whiteout { replace: true, .. })
    }
}

/// What may have the name so far that a file is given which was made without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaces {
    /// Anything but a directory, or nothing.
    Anything,
    /// Nothing.
    Nothing,
    /// This inode, and no other.
    Only(Ino),
}

impl Replaces {
    /// May what the name names `before` be replaced?
    ///
    /// # Errors
    /// [`MetaError::Exists`] where something else is there, [`MetaError::NotFound`] where nothing is.
    pub fn allow(self, before: Option<Ino>) -> Result<(), MetaError> {
        match (self, before) {
            (Self::Nothing, Some(_)) => Err(MetaError::Exists),
            (Self::Only(_), None) => Err(MetaError::NotFound),
            (Self::Only(only), Some(before)) if only != before => Err(MetaError::Exists),
            _ => Ok(()),
        }
    }
}

/// What becomes of what loses its last name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is deleted, once nothing has it open any more.
    Gone,
    /// It goes to the trash.
    Trash {
        /// The user who deletes it.
        by: u32,
    },
}

/// What may be put into the trash by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Anything but a directory, as unlink(2) does.
    NoDirectory,
    /// A directory that nothing is in, as rmdir(2) does.
    EmptyDirectory,
    /// This inode, a directory with all that is in it.
    Only(Ino),
}

/// Something in the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trashed {
    /// It, as stat(2) tells whoever still has it open: without a link.
    pub attr: Attr,
    /// The directory that it was in.
    pub dir: Ino,
    /// The name that it had there.
    pub name: Vec<u8>,
    /// When it was deleted; the epoch: somebody wants it gone for good.
    pub when: Time,
    /// The user who deleted it.
    pub by: u32,
}

/// Where a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Above {
    /// The directory that it is in, or was.
    pub dir: Ino,
    /// Its name there.
    pub name: Vec<u8>,
    /// It is in the trash.
    pub in_trash: bool,
}

/// A name went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlinked {
    /// What it named.
    pub ino: Ino,
    /// That was its last name, and it is not in the trash: the inode is an orphan of this session now, to be reaped
    /// ([`MetaStore::reap`]) when nothing has it open any more.
    pub orphan: bool,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Where to go on after this entry: stable while entries come and go, at least 1, below 2^63.
    pub cookie: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// The inode it names, with its attributes.
    pub attr: Attr,
    /// The inode cannot be read, or is gone: of the attributes, its number alone is true.
    pub damaged: bool,
}

/// What a name of a directory is, with an extended attribute of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// It.
    pub attr: Attr,
    /// The attribute's value, if it has that.
    pub value: Option<Vec<u8>>,
}

/// A run of a file's bytes and where they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Where: `None` is room that was allocated and reads as zeros.
    pub place: Option<Place>,
}

/// A place in a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The blob.
    pub blob: BlobId,
    /// First byte within it.
    pub offset: u32,
}

/// Bytes of a file that were just put: what one flush makes of one inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileUpdate {
    /// The inode. One that is gone by now is skipped: its bytes are dead on arrival.
    pub ino: Ino,
    /// Where its bytes lie now; not overlapping each other.
    pub extents: Vec<Extent>,
    /// Size is at least this from now on; `None` leaves it.
    pub size_at_least: Option<u64>,
    /// Time of the last of these writes; `None` leaves mtime and ctime.
    pub mtime: Option<Time>,
}

/// Bit of a blob's sequence: it is an inline one.
pub const INLINE: u64 = 1 << 63;

/// Are the bytes of a blob kept by metadata, and not on the slots?
pub fn is_inline(id: &BlobId) -> bool {
    !id.session().is_metadata() && id.sequence() & INLINE != 0
}

/// What metadata knows of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRecord {
    /// The blob.
    pub id: BlobId,
    /// Bytes of it that extents refer to. 0: garbage, waiting to be deleted.
    pub live: u64,
}

impl BlobRecord {
    /// Bytes beyond the live ones.
    pub(crate) fn dead(&self) -> u64 {
        u64::from(self.id.len()).saturating_sub(self.live)
    }
}

/// A live range moves from one blob to another: the cleaner's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// The inode.
    pub ino: Ino,
    /// Range of the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Where the bytes were read; ranges that lie elsewhere by now are left alone.
    pub from: Place,
    /// Where they are now as well.
    pub to: Place,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Its number within the cluster.
    pub id: proto::id::VolumeId,
    /// Its cluster.
    pub cluster: proto::id::ClusterId,
    /// How its data are protected.
    pub scheme: Scheme,
    /// How its blobs may lie.
    pub rules: VolumeRules,
}

/// Counters of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Inodes in use.
    pub inodes: u64,
    /// Bytes that extents refer to.
    pub live_bytes: u64,
    /// Bytes of all blobs, live or not.
    pub blob_bytes: u64,
    /// Bytes of blobs beyond their live ones. Not the difference of the two above: what clones
    /// share is live more than once.
    pub dead_bytes: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of extents that are allocated zeros: promised to whoever writes them.
    pub allocated_bytes: u64,
    /// Bytes of disk that all blobs take, live or not, with all their parts and headers.
    pub disk_bytes: u64,
}

/// How the journal of a volume's metadata is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalStatus {
    /// Epoch of who leads the volume.
    pub epoch: u64,
    /// When its last snapshot was taken, in seconds since 1970; `None`: none was since it leads.
    pub snapshot_at: Option<u64>,
    /// Bytes of metadata that the store still has room for, as far as is known.
    pub room: Option<u64>,
    /// Batches of changes that are not durable.
    pub waiting: usize,
    /// Bytes of memory of what is durable and in no snapshot.
    pub journaled_bytes: u64,
}

/// What a session may keep of an inode. Each takes in those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Nothing: it knows nothing of it.
    #[default]
    None,
    /// Its kernel knows the inode, so that it is not deleted. Nothing of it may be kept.
    Hold,
    /// Attributes, names, extents and bytes as metadata and the store have them.
    Read,
    /// Of a file: bytes, size and times that nobody else knows yet.
    Write,
}

/// An inode, and what is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The inode.
    pub ino: Ino,
    /// What is wanted.
    pub access: Access,
}

/// What one session has been granted of a volume that others use, too.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// What the session has of an inode at this moment. No I/O.
    fn access(&self, ino: Ino) -> Access;
    /// Returns when all of them have been granted together; each may have been wanted back since. Never to be called
    /// while using another grant.
    ///
    /// # Errors
    /// [`MetaError::Ended`] when nothing is granted any more.
    async fn obtain(&self, wishes: &[Wish]) -> Result<(), MetaError>;
    /// The session keeps no more than this of an inode: everything under what it had was committed. No I/O.
    fn gave_back(&self, ino: Ino, kept: Access);
}

/// Extents with their files, and where the next page begins: behind the extent of this file that ends
/// here; `None`: there is no next page. A page may be short, or empty, and not the last.
pub type ExtentPage = (Vec<(Ino, Extent)>, Option<(Ino, u64)>);

/// An opened volume, as a filesystem uses it. Whoever calls has checked that its user may: that
/// takes groups, capabilities and user namespaces, which only the system there knows. For users
/// whom no system knows, [`crate::may`] decides.
#[async_trait]
pub trait MetaStore: Send + Sync + 'static {
    /// What the volume is.
    fn volume(&self) -> VolumeInfo;
    /// Changes how many disks can still be lost once a blob is stored. Durable when this returns: blobs are stored by
    /// it afterwards, and whoever finds them gone must know what they may have been stored by.
    async fn set_min_spare(&self, min_spare: u8) -> Result<(), MetaError>;
    /// Days that what is deleted stays in the trash; 0: it goes at once, unless somebody puts it there.
    fn trash_days(&self) -> u16 {
        0
    }
    /// Changes that. Durable when this returns.
    async fn set_trash_days(&self, _days: u16) -> Result<(), MetaError> {
        Err(MetaError::NotSupported)
    }
    /// This mount's session: prefix of the blob ids it makes.
    fn session(&self) -> SessionId;
    /// Counters; cheap.
    async fn usage(&self) -> Result<Usage, MetaError>;
    /// Bytes of memory that changes take which wait to be made durable.
    fn unsynced_bytes(&self) -> usize {
        0
    }

    /// Bytes of disk that metadata themselves take, with all copies; cheap.
    fn disk_bytes(&self) -> u64 {
        0
    }

    /// How their journal is; `None`: there is none. Cheap.
    fn journal(&self) -> Option<JournalStatus> {
        None
    }

    /// What this session has been granted; `None`: nobody else has the volume, so everything is its own.
    fn leases(&self) -> Option<Arc<dyn Leases>> {
        None
    }

    // Names.

    /// The inode that `name` is in `parent`. `.` and `..` work too.
    async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, MetaError>;
    /// What these names of a directory are, in their order, each with this extended attribute; `None`: it is not there.
    async fn look(
        &self,
        parent: Ino,
        names: &[Vec<u8>],
        attribute: &[u8],
    ) -> Result<Vec<Option<Looked>>, MetaError>;
    /// Creates an inode with a name. The caller's umask is taken off `mode`, or the parent's default
    /// access list decides; a setgid parent hands down its group (and, to directories, the bit).
    async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        node: NewNode,
    ) -> Result<Attr, MetaError>;
    /// Creates an empty file as [`Self::create`] would in `parent`, but without a name: an orphan of this session,
    /// until [`Self::place`] gives it one.
    async fn create_nameless(
        &self,
        caller: Caller,
        parent: Ino,
        mode: u32,
    ) -> Result<Attr, MetaError>;
    /// Gives a file of [`Self::create_nameless`] its name, in one step with taking it from what had it before; answers
    /// what that was. `fate`: what becomes of that.
    async fn place(
        &self,
        ino: Ino,
        parent: Ino,
        name: &[u8],
        replaces: Replaces,
        fate: Fate,
    ) -> Result<Option<Unlinked>, MetaError>;
    /// Another name for an inode that is no directory.
    async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, MetaError>;
    /// Takes a name of a non-directory away.
    async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<Unlinked, MetaError>;
    /// Takes an empty directory away. Where something in the trash was in it, it goes there, too.
    async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<Unlinked, MetaError>;
    /// Moves a name; answers what the target named before, if it was replaced. `fate`: what becomes of that.
    async fn rename(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        fate: Fate,
    ) -> Result<Option<Unlinked>, MetaError>;
    /// The target of a symbolic link.
    async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, MetaError>;
    /// Up to `limit` entries after `cookie` (0: from the start), `.` and `..` first.
    async fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirEntry>, MetaError>;

    // Attributes.

    /// stat(2).
    async fn getattr(&self, ino: Ino) -> Result<Attr, MetaError>;
    /// chmod, chown and utimens, by the rules of which bits are cleared.
    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Attr, MetaError>;
    /// Sets access times and nothing else, not even ctime. Inodes that are gone by now, or damaged,
    /// are skipped.
    async fn accessed(&self, reads: &[(Ino, Time)]) -> Result<(), MetaError>;
    /// Clears setuid and setgid (the latter when group-executable or the writer is an `outsider` to
    /// the group) and the file capability, as a write by an unprivileged caller must.
    async fn clear_privileges(&self, ino: Ino, outsider: bool) -> Result<(), MetaError>;
    /// Value of an extended attribute.
    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, MetaError>;
    /// Sets one. `must`: `Some(true)` it has to exist, `Some(false)` it must not. Access lists
    /// (`system.posix_acl_access`, `system.posix_acl_default`) are checked, and change the mode.
    async fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        must: Option<bool>,
    ) -> Result<(), MetaError>;
    /// Their names.
    async fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>, MetaError>;
    /// Removes one.
    async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), MetaError>;

    // Content.

    /// Extents that touch `range`, in order, not clipped; what is between them is a hole. At most
    /// `limit`.
    async fn extents(
        &self,
        ino: Ino,
        range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<Extent>, MetaError>;
    /// One flush: blobs that are durable now, and the files their bytes belong to. What the new
    /// extents cover is replaced and taken off its blobs' live bytes; blobs left with none become
    /// garbage. All of it or nothing: where [`MetaError::Damaged`] refuses one file, the others can be
    /// committed each by itself, with the same blob.
    async fn commit(&self, blobs: &[BlobId], files: &[FileUpdate]) -> Result<(), MetaError>;
    /// [`Self::commit`] of an inline blob ([`is_inline`]), with its bytes: once it is synced, so are they. They
    /// are there as long as any of them is alive. The same again is fine.
    async fn commit_inline(
        &self,
        id: BlobId,
        bytes: &[u8],
        files: &[FileUpdate],
    ) -> Result<(), MetaError>;
    /// The bytes of an inline blob; `None`: none of them is alive any more.
    async fn inline_bytes(&self, id: BlobId) -> Result<Option<Arc<[u8]>>, MetaError>;
    /// Inline blobs after `after`, in order, at most `limit`.
    async fn inline_blobs(
        &self,
        after: Option<BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobId>, MetaError>;
    /// Sets the size; extents beyond it go. Changes mtime and ctime.
    async fn truncate(&self, ino: Ino, size: u64) -> Result<Attr, MetaError>;
    /// Makes a range a hole (`place: None` extents if `allocate`). Grows the file to the end of the
    /// range if `grow`. Changes mtime and ctime.
    async fn clear_range(
        &self,
        ino: Ino,
        range: Range<u64>,
        allocate: bool,
        grow: bool,
    ) -> Result<Attr, MetaError>;
    /// fallocate(2): what is a hole in the range becomes allocated zeros; data stay.
    async fn allocate(&self, ino: Ino, range: Range<u64>, grow: bool) -> Result<Attr, MetaError>;
    /// copy_file_range(2) as a clone: `to` gets the extents of `from`'s range; no data move. Ranges
    /// within one file must not overlap.
    async fn clone_range(
        &self,
        from: Ino,
        range: Range<u64>,
        to: Ino,
        to_offset: u64,
    ) -> Result<Attr, MetaError>;

    // Keeping house.

    /// Orphans of dead sessions: nothing has them open. Those of this session are not among them;
    /// its filesystem knows them from [`Unlinked`] and reaps each when it is closed.
    async fn orphans(&self) -> Result<Vec<Ino>, MetaError>;
    /// Deletes orphans with all they have. Inodes that are no orphans are left alone, and so are
    /// damaged ones.
    async fn reap(&self, inos: &[Ino]) -> Result<(), MetaError>;
    /// Blobs without live bytes whose records are durable, after `after`, in order, at most
    /// `limit`: safe to delete now.
    async fn garbage(&self, after: Option<BlobId>, limit: usize) -> Result<Vec<BlobId>, MetaError>;
    /// Every slot has confirmed that these are deleted: their records go.
    async fn forget_blobs(&self, ids: &[BlobId]) -> Result<(), MetaError>;
    /// Records of blobs after `after`, in order, at most `limit`. A damaged one counts as alive.
    async fn blobs(
        &self,
        after: Option<BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobRecord>, MetaError>;
    /// Extents of any file that lie in a blob, clones included, at most `limit` (above 0), and where to go on:
    /// those behind the one of that file that ends there, in an order of their own. Damaged ones are left out.
    async fn references(
        &self,
        id: BlobId,
        after: Option<(Ino, u64)>,
        limit: usize,
    ) -> Result<ExtentPage, MetaError>;
    /// What is known of one blob; `None`: nothing, or no more.
    async fn blob(&self, id: BlobId) -> Result<Option<BlobRecord>, MetaError>;
    /// Records garbage that metadata never knew: blobs an earlier session put and never committed.
    async fn adopt_garbage(&self, ids: &[BlobId]) -> Result<(), MetaError>;
    /// The cleaner's commit: moves what still lies where it was read. The new blobs are accounted.
    /// What is damaged stays where it is.
    async fn relocate(&self, blobs: &[BlobId], moves: &[Relocation]) -> Result<(), MetaError>;
    /// Sessions that ended without [`MetaStore::close_session`]: their blobs must be swept.
    async fn dead_sessions(&self) -> Result<Vec<SessionId>, MetaError>;
    /// A dead session is swept.
    async fn forget_session(&self, session: SessionId) -> Result<(), MetaError>;
    /// The end of this mount: all its orphans are reaped and all is durable when this returns.
    async fn close_session(&self) -> Result<(), MetaError>;

    /// Returns when everything that was visible at the call is durable.
    async fn sync(&self) -> Result<(), MetaError>;

    // The trash. A store without one has nothing in it.

    /// Takes a name away, and with the last one what it named into the trash, whole.
    async fn discard(
        &self,
        _parent: Ino,
        _name: &[u8],
        _takes: Takes,
        _by: u32,
    ) -> Result<Unlinked, MetaError> {
        Err(MetaError::NotSupported)
    }
    /// Something in the trash, by its inode.
    async fn trashed(&self, _ino: Ino) -> Result<Trashed, MetaError> {
        Err(MetaError::NotFound)
    }
    /// What was deleted last, before that one, the newest first, at most `limit`. Damaged ones are left out, and others take
    /// their place: fewer than `limit` are the last.
    async fn newest_trash(
        &self,
        _before: Option<(Time, Ino)>,
        _limit: usize,
    ) -> Result<Vec<Trashed>, MetaError> {
        Ok(Vec::new())
    }
    /// What is wanted gone for good, and then what was deleted before `until`, behind `after`, the oldest first, at most
    /// `limit`. Damaged ones are left out, and others take their place: fewer than `limit` are the last.
    async fn oldest_trash(
        &self,
        _until: Time,
        _after: Option<(Time, Ino)>,
        _limit: usize,
    ) -> Result<Vec<Trashed>, MetaError> {
        Ok(Vec::new())
    }
    /// What is in the trash and was in this directory, behind `after`, in the order of inodes, at most `limit`; what is
    /// wanted gone is among it. Damaged ones are left out, and others take their place: fewer than `limit` are the last.
    async fn trash_of(
        &self,
        _dir: Ino,
        _after: Option<Ino>,
        _limit: usize,
    ) -> Result<Vec<Trashed>, MetaError> {
        Ok(Vec::new())
    }
    /// What these directories are called, and where they are, or were. Of those that are not there, have no name, or cannot
    /// be read, nothing is said. The entries of a directory are looked through once for all that it has of them.
    async fn above(&self, _dirs: &[Ino]) -> Result<BTreeMap<Ino, Above>, MetaError> {
        Err(MetaError::NotSupported)
    }
    /// Puts something in the trash back under this name. What has the name goes to the trash in its place, whatever it is, by
    /// this user, or is [`MetaError::Exists`]. [`MetaError::NotFound`]: it is not in the trash, or the directory is not in the tree.
    async fn restore(
        &self,
        _ino: Ino,
        _to: (Ino, &[u8]),
        _replaces: bool,
        _by: u32,
    ) -> Result<Option<Unlinked>, MetaError> {
        Err(MetaError::NotSupported)
    }
    /// Somebody wants these gone for good, with all that is in them: nobody sees them in the trash any more. Those that are not
    /// there are passed over.
    async fn give_up_trash(&self, _inos: &[Ino]) -> Result<(), MetaError> {
        Err(MetaError::NotSupported)
    }
    /// Deletes something in the trash. [`MetaError::NotEmpty`]: a directory that something is in, or something in the trash was.
    async fn delete_trash(&self, _ino: Ino) -> Result<Unlinked, MetaError> {
        Err(MetaError::NotSupported)
    }

    // Who may come in by a door. A store without such accounts lets nobody in.

    /// An account by its kind and name; `None`: there is none.
    async fn account(&self, _kind: AccountKind, _name: &str) -> Result<Option<Account>, MetaError> {
        Ok(None)
    }
    /// Those of a kind in the order of their names, behind `after`, at most `limit`. Damaged ones are left out.
    async fn accounts(
        &self,
        _kind: AccountKind,
        _after: Option<&str>,
        _limit: usize,
    ) -> Result<Vec<Account>, MetaError> {
        Ok(Vec::new())
    }
    /// Has there ever been a user, be it one whose record is damaged, or who is gone?
    async fn has_users(&self) -> Result<bool, MetaError> {
        Ok(false)
    }
    /// Adds an account, if there is none of its name ([`MetaError::Exists`]). A pass must have its user
    /// ([`MetaError::NotFound`]).
    async fn add_account(&self, _account: &Account) -> Result<(), MetaError> {
        Err(MetaError::NotSupported)
    }
    /// Changes a user, in one step.
    async fn change_user(&self, _name: &str, _change: &UserChange) -> Result<(), MetaError> {
        Err(MetaError::NotSupported)
    }
    /// Takes an account away: a user with all passes in his name.
    async fn remove_account(&self, _kind: AccountKind, _name: &str) -> Result<(), MetaError> {
        Err(MetaError::NotSupported)
    }
    /// What share links are signed with, if any ever was.
    async fn signing_secret(&self) -> Result<Option<Secret>, MetaError> {
        Ok(None)
    }
    /// Sees to it that there is something that share links are signed with: these 32 random bytes, where there was nothing
    /// yet.
    async fn keep_signing_secret(&self, _bytes: &[u8]) -> Result<Secret, MetaError> {
        Err(MetaError::NotSupported)
    }
}

/// Why a metadata operation was refused. One variant per errno of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST.
    #[error("it exists")]
    Exists,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDirectory,
    /// EISDIR.
    #[error("is a directory")]
    IsDirectory,
    /// ENOTEMPTY.
    #[error("directory is not empty")]
    NotEmpty,
    /// EPERM.
    #[error("operation not permitted")]
    NotPermitted,
    /// EACCES.
    #[error("permission denied")]
    AccessDenied,
    /// ENAMETOOLONG.
    #[error("name too long")]
    NameTooLong,
    /// EINVAL.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// EMLINK.
    #[error("too many links")]
    TooManyLinks,
    /// ENODATA.
    #[error("no such attribute")]
    NoAttribute,
    /// E2BIG / ENOSPC for extended attributes.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// EFBIG.
    #[error("file too large")]
    FileTooLarge,
    /// EOPNOTSUPP.
    #[error("not supported")]
    NotSupported,
    /// ENOSPC: the disks are full.
    #[error("no room for metadata")]
    NoSpace,
    /// EIO: the engine failed.
    #[error("metadata: {0}")]
    Engine(String),
    /// EIO: nothing can be changed here any more; another leads, or this is only looked at. Trying again is in
    /// vain.
    #[error("metadata: {0}")]
    Ended(String),
    /// EIO: what is recorded makes no sense, or could not even be looked at. It concerns what it was
    /// recorded of; all else is as good as ever.
    #[error("metadata: {0}")]
    Damaged(String),
    /// Not an error of the operation: what it looked for is not in memory yet. It is run again once
    /// that was fetched.
    #[doc(hidden)]
    #[error("metadata: not fetched yet")]
    Elsewhere(Missing),
}

impl From<Panicked> for MetaError {
    fn from(panicked: Panicked) -> Self {
        Self::Damaged(panicked.to_string())
    }
}
