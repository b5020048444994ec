//! Random system calls: numbers become calls, so that a failing sequence shrinks well.
//!
//! The alphabet is small on purpose: few names, few open files, sizes around the edges, so that calls
//! meet each other's files. A call is by root or by one of two others, of whom one is in the other's group.

use std::fmt;
use std::ops::Deref;

use rustix::fs::{Access, FallocateFlags, OFlags, RenameFlags, XattrFlags};

/// Numbers that one call is made of.
pub type Raw = [u16; 8];

/// Who calls: user, group and supplementary groups.
pub const CALLERS: [(u32, u32, &[u32]); 3] =
    [(0, 0, &[]), (1001, 1001, &[]), (1002, 1002, &[1001])];
/// Open files there may be at once.
pub const SLOTS: usize = 4;

/// One call and its caller.
#[derive(Clone, Debug)]
pub struct Step {
    /// Index into [`CALLERS`].
    pub who: usize,
    /// umask(2) before the call.
    pub umask: u32,
    /// What to call.
    pub call: Call,
}

/// Bytes of a path, a name or a value, shown as text and cut when long.
#[derive(Clone)]
pub struct Text(Vec<u8>);

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = String::from_utf8_lossy(&self.0[..self.0.len().min(40)]);
        let dots = if self.0.len() > 40 {
            format!("... of {} bytes", self.0.len())
        } else {
            String::new()
        };
        write!(f, "{shown:?}{dots}")
    }
}

/// A file as a call names it.
#[derive(Clone, Debug)]
pub enum At {
    /// By its path; a symbolic link at the end is followed or not.
    Path(Text, bool),
    /// By the number of an open file.
    Slot(usize),
}

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub enum Stamp {
    /// UTIME_OMIT.
    Omit,
    /// UTIME_NOW.
    Now,
    /// Seconds and nanoseconds, far from now.
    To(i64, i64),
}

/// A system call.
#[allow(missing_docs, reason = "fields are the call's arguments, as its manual page names them")]
#[derive(Clone, Debug)]
pub enum Call {
    Open { slot: usize, path: Text, flags: OFlags, mode: u32 },
    Close { slot: usize },
    Read { slot: usize, offset: Option<u64>, len: usize },
    Write { slot: usize, offset: Option<u64>, len: usize, byte: u8 },
    Seek { slot: usize, offset: i64, whence: Whence },
    Truncate { at: At, size: u64 },
    Fallocate { slot: usize, mode: FallocateFlags, offset: u64, len: u64 },
    Copy { from: usize, start: u64, to: usize, at: u64, len: usize },
    Sync { slot: usize },
    Mkdir { path: Text, mode: u32 },
    Mknod { path: Text, kind: rustix::fs::FileType, mode: u32 },
    Symlink { target: Text, path: Text },
    Link { from: Text, to: Text, follow: bool },
    Unlink { path: Text },
    Rmdir { path: Text },
    Rename { from: Text, to: Text, flags: RenameFlags },
    Chmod { at: At, mode: u32 },
    Chown { at: At, uid: Option<u32>, gid: Option<u32> },
    Utimens { at: At, atime: Stamp, mtime: Stamp },
    Access { path: Text, mode: Access },
    List { path: Text },
    Readlink { path: Text },
    Stat { path: Text, follow: bool },
    SetXattr { at: At, name: Text, value: Text, flags: XattrFlags },
    GetXattr { at: At, name: Text, room: usize },
    ListXattr { at: At, room: usize },
    RemoveXattr { at: At, name: Text },
}

/// Where lseek(2) counts from.
#[allow(missing_docs, reason = "named as the manual page names them")]
#[derive(Clone, Copy, Debug)]
pub enum Whence {
    Set,
    Current,
    End,
    Data,
    Hole,
}

fn pick<T: Clone>(from: &[T], number: u16) -> T {
    from[usize::from(number) % from.len()].clone()
}

/// Mostly a name of up to three parts; now and then one with an odd end, or too long.
fn path(number: u16) -> Text {
    let names: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
    let (first, more) = (pick(&names, number), number / 5);
    let (second, more) = (pick(&names, more), more / 5);
    let third = pick(&names, more);
    let joined = |parts: &[&[u8]]| parts.join(&b"/"[..]);
    Text(match number % 97 {
        0..50 => first.to_vec(),
        50..80 => joined(&[first, second]),
        80..86 => joined(&[first, second, third]),
        86 => joined(&[first, b""]),
        87 => joined(&[first, b"."]),
        88 => joined(&[first, b".."]),
        89 => joined(&[first, second, b"..", third]),
        90 => b"/".to_vec(),
        91 => b".".to_vec(),
        92 => [b"/", first, b"//", second].concat(),
        93 => vec![b'n'; 255],
        94 => vec![b'n'; 256],
        95 => b"a/".repeat(2100),
        _ => Vec::new(),
    })
}

fn target(number: u16) -> Text {
    let targets: [&[u8]; 8] = [b"a", b"b", b"/a/b", b"../a", b"c/", b".", b"nowhere", b"/"];
    Text(match number % 20 {
        0 => vec![b't'; 4095],
        1 => vec![b't'; 4096],
        2 => Vec::new(),
        _ => pick(&targets, number / 20).to_vec(),
    })
}

fn mode(number: u16) -> u32 {
    const MODES: [u32; 12] =
        [0o644, 0o755, 0o777, 0o600, 0o000, 0o4755, 0o2755, 0o6777, 0o1777, 0o444, 0o2770, 0o070];
    pick(&MODES, number)
}

fn owner(number: u16) -> Option<u32> {
    pick(&[None, Some(0), Some(1001), Some(1002), Some(77)], number)
}

fn stamp(number: u16) -> Stamp {
    match number % 8 {
        0 | 1 => Stamp::Omit,
        2 | 3 => Stamp::Now,
        4 => Stamp::To(0, 0),
        5 => Stamp::To(1_000_000_000, 123_456_789),
        6 => Stamp::To(5_000_000_000, 999_999_999),
        _ => Stamp::To(-1_000, 1),
    }
}

fn at(number: u16) -> At {
    match number % 4 {
        0 => At::Slot(usize::from(number / 4) % SLOTS),
        1 => At::Path(path(number / 4), false),
        _ => At::Path(path(number / 4), true),
    }
}

/// Lengths and offsets around pages, blocks and nothing.
fn size(number: u16) -> u64 {
    const EDGES: [u64; 12] =
        [0, 1, 5, 100, 4095, 4096, 4097, 8192, 10_000, 65_536, 70_001, 131_072];
    match number % 64 {
        0 => 1 << 40,
        1 => 3 << 20,
        _ => pick(&EDGES, number / 64),
    }
}

fn len(number: u16) -> usize {
    usize::try_from(size(number | 2)).expect("short")
}

fn xattr_name(number: u16) -> Text {
    let names: [&[u8]; 10] = [
        b"user.a",
        b"user.b",
        b"user.c",
        b"trusted.t",
        b"security.s",
        b"user.",
        b"nothing",
        b"odd.x",
        b"system.nothing",
        b"",
    ];
    Text(match number % 31 {
        0 => [b"user.".to_vec(), vec![b'n'; 250]].concat(),
        1 => [b"user.".to_vec(), vec![b'n'; 251]].concat(),
        2..20 => pick(&names[..3], number / 31).to_vec(),
        _ => pick(&names, number / 31).to_vec(),
    })
}

fn value(number: u16) -> Text {
    let len = pick(&[0, 1, 10, 100, 1000, 3000, 65_537], number);
    Text(vec![number as u8; len])
}

fn open_flags(number: u16) -> OFlags {
    let mut flags = pick(&[OFlags::RDONLY, OFlags::RDWR, OFlags::WRONLY, OFlags::RDWR], number);
    let optional = [
        (4, OFlags::CREATE, 2),
        (8, OFlags::EXCL, 5),
        (16, OFlags::TRUNC, 4),
        (32, OFlags::APPEND, 4),
        (64, OFlags::DIRECTORY, 9),
        (128, OFlags::NOFOLLOW, 6),
        (256, OFlags::SYNC, 7),
    ];
    for (divisor, flag, one_in) in optional {
        if (number / divisor).is_multiple_of(one_in) {
            flags |= flag;
        }
    }
    flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

impl Step {
    /// The call that these numbers stand for.
    pub fn from_raw([op, who, a, b, c, d, e, f]: Raw) -> Self {
        // Half of all calls are by root, so that there is something to meet.
        let who = [0, 0, 1, 2][usize::from(who) % 4];
        let umask = pick(&[0o022, 0o022, 0, 0o077, 0o027], f);
        let call = if op % 100 < 45 {
            on_data(op % 100, a, b, c, d, e)
        } else {
            on_names(op % 100, a, b, c, d)
        };
        // By others it may differ: docs/semantics.md says why.
        let to_nobody = matches!(call, Call::Chown { uid: None, gid: None, .. });
        Self { who: if to_nobody { 0 } else { who }, umask, call }
    }
}

/// As programs replace a file: another is written, and renamed over it. By root.
pub fn replacing() -> Vec<Step> {
    let name = |name: &[u8]| Text(name.to_vec());
    let kind = rustix::fs::FileType::RegularFile;
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let calls = [
        Call::Mknod { path: name(b"d"), kind, mode: 0o644 },
        Call::Open { slot: 0, path: name(b"e"), flags, mode: 0o600 },
        Call::Write { slot: 0, offset: Some(0), len: 5000, byte: 77 },
        Call::Rename { from: name(b"e"), to: name(b"d"), flags: RenameFlags::empty() },
    ];
    calls.map(|call| Step { who: 0, umask: 0o022, call }).to_vec()
}

fn on_data(op: u16, a: u16, b: u16, c: u16, d: u16, e: u16) -> Call {
    let slot = usize::from(a) % SLOTS;
    let some = |offset: u16| (!offset.is_multiple_of(3)).then(|| size(offset / 3));
    match op {
        0..14 => Call::Open { slot, path: path(b), flags: open_flags(c), mode: mode(d) },
        14..16 => Call::Close { slot },
        16..22 => Call::Read { slot, offset: some(b), len: len(c) },
        22..31 => Call::Write { slot, offset: some(b), len: len(c), byte: d as u8 | 1 },
        31..34 => {
            use Whence::{Current, Data, End, Hole, Set};
            let whence = pick(&[Set, Current, End, Data, Hole, Data, Hole], c);
            let offset = size(b) as i64;
            Call::Seek { slot, offset: if d.is_multiple_of(4) { -offset } else { offset }, whence }
        }
        34..38 => Call::Truncate { at: at(b), size: size(c) },
        38..41 => {
            let (keep, punch) = (FallocateFlags::KEEP_SIZE, FallocateFlags::PUNCH_HOLE);
            let zero = FallocateFlags::ZERO_RANGE;
            let modes = [FallocateFlags::empty(), keep, punch | keep, zero, zero | keep, punch];
            // A terabyte of room is another matter.
            Call::Fallocate { slot, mode: pick(&modes, b), offset: size(c | 2), len: size(d | 2) }
        }
        41..44 => Call::Copy {
            from: slot,
            start: size(b),
            to: usize::from(c) % SLOTS,
            at: size(d),
            len: len(e),
        },
        _ => Call::Sync { slot },
    }
}

fn on_names(op: u16, a: u16, b: u16, c: u16, d: u16) -> Call {
    use rustix::fs::FileType::{CharacterDevice, Fifo, RegularFile, Socket};
    match op {
        45..52 => Call::Mkdir { path: path(a), mode: mode(b) },
        52..54 => {
            let kind = pick(&[Fifo, Socket, RegularFile, CharacterDevice], b);
            Call::Mknod { path: path(a), kind, mode: mode(c) }
        }
        54..57 => Call::Symlink { target: target(a), path: path(b) },
        57..60 => Call::Link { from: path(a), to: path(b), follow: c.is_multiple_of(2) },
        60..63 => Call::Unlink { path: path(a) },
        63..66 => Call::Rmdir { path: path(a) },
        66..73 => {
            let (no, exchange) = (RenameFlags::NOREPLACE, RenameFlags::EXCHANGE);
            // Over a directory that is not empty, ext4 changes times for nothing.
            let white = RenameFlags::WHITEOUT | no;
            let flags = [no, exchange, white, no | exchange, white | exchange];
            let flags =
                if c.is_multiple_of(2) { RenameFlags::empty() } else { pick(&flags, c / 2) };
            Call::Rename { from: path(a), to: path(b), flags }
        }
        73..77 => Call::Chmod { at: at(a), mode: mode(b) },
        77..81 => Call::Chown { at: at(a), uid: owner(b), gid: owner(c) },
        81..84 => Call::Utimens { at: at(a), atime: stamp(b), mtime: stamp(c) },
        84..86 => Call::Access { path: path(a), mode: Access::from_bits_retain(u32::from(b % 8)) },
        86..88 => Call::List { path: path(a) },
        88 => Call::Readlink { path: path(a) },
        89..91 => Call::Stat { path: path(a), follow: b.is_multiple_of(2) },
        91..95 => {
            let flags = pick(&[XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE], d);
            Call::SetXattr { at: at(a), name: xattr_name(b), value: value(c), flags }
        }
        95..97 => Call::GetXattr { at: at(a), name: xattr_name(b), room: pick(&[0, 5, 70_000], c) },
        97 => Call::ListXattr { at: at(a), room: pick(&[0, 5, 70_000], b) },
        _ => Call::RemoveXattr { at: at(a), name: xattr_name(b) },
    }
}
