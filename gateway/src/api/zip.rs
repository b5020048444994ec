//! A zip file as it is written from its beginning to its end, without going back (APPNOTE 6.3). Pure.
//!
//! Content is stored as it is. How long it is, and its CRC, stand behind it (data descriptor), and in the directory at the
//! end, without which nothing is a zip file: one that breaks off is taken for whole by nobody. Whatever is larger than 4 GiB, lies
//! behind so much, or comes in more than 65,535 pieces has the fields of zip64.
//!
//! ```text
//! | header, name | content | CRC, lengths | ... | directory: an entry for each | where the directory is |
//! ```

use meta::{Attr, Kind, Time};

const HEADER: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const ENTRY: u32 = 0x0201_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;
const END: u32 = 0x0605_4b50;
/// The program that made it knew Unix modes and zip64.
const MADE_BY: u16 = 3 << 8 | 45;
/// Flags: lengths behind the content; names in UTF-8.
const BEHIND: u16 = 1 << 3;
const UTF8: u16 = 1 << 11;
/// Instead of a number that is too large for its field.
const LARGE: u32 = u32::MAX;
const MANY: u16 = u16::MAX;
/// Extra fields: lengths of zip64; a time in UTC.
const ZIP64: u16 = 1;
const TIME: u16 = 0x5455;
/// Seconds from 1970 to 1980, before which it knows no time.
const YEAR_1980: i64 = 315_532_800;
const YEAR_2108: i64 = 4_354_819_200;

/// A zip file that is being written.
#[derive(Default)]
pub(super) struct Zip {
    /// Bytes so far.
    at: u64,
    directory: Vec<u8>,
    entries: u64,
}

/// A file in it whose content comes.
pub(super) struct Open {
    name: String,
    mode: u32,
    time: Time,
    offset: u64,
    large: bool,
}

/// Bytes, as they are put together.
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(mut self, n: u16) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn all(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

/// A number in a field that may be too small for it.
fn small(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(LARGE)
}

/// A length of names and extra fields, which paths keep small.
fn short(bytes: &[u8]) -> u16 {
    u16::try_from(bytes.len()).expect("paths have 4096 bytes at most")
}

/// Day and time as MS-DOS had them, in UTC: in steps of two seconds.
fn dos_time(time: Time) -> (u16, u16) {
    let secs = time.secs.clamp(YEAR_1980, YEAR_2108 - 1) - YEAR_1980;
    let (mut days, second) = (secs / 86_400, secs % 86_400);
    let mut year = 0;
    // From 1980 to 2107, 2100 alone is no leap year though it is divisible by four.
    let leap = |year: i64| year % 4 == 0 && year != 120;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for (at, len) in [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate() {
        let len = len + i64::from(at == 1 && leap(year));
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    let date = year << 9 | month << 5 | (days + 1);
    let (hour, minute, half) = (second / 3600, second / 60 % 60, second % 60 / 2);
    let clock = hour << 11 | minute << 5 | half;
    (u16::try_from(clock).unwrap_or(0), u16::try_from(date).unwrap_or(0))
}

/// The time in UTC, for those who know that field; nothing where it is beyond it.
fn utc(time: Time) -> Vec<u8> {
    match i32::try_from(time.secs) {
        Ok(secs) => Bytes(Vec::new()).u16(TIME).u16(5).all(&[1]).all(&secs.to_le_bytes()).0,
        Err(_) => Vec::new(),
    }
}

impl Zip {
    /// Bytes of memory that it takes until it ends.
    pub(super) fn memory(&self) -> usize {
        self.directory.len()
    }

    /// A folder; its name ends with a slash.
    pub(super) fn folder(&mut self, name: String, attr: &Attr) -> Vec<u8> {
        let open = self.open(name, attr, false);
        let header = self.header(&open, UTF8);
        self.add(&open, UTF8, (0, 0));
        header
    }

    /// A file of so many bytes, whose content comes next.
    pub(super) fn begin(&mut self, name: String, attr: &Attr) -> (Vec<u8>, Open) {
        let open = self.open(name, attr, attr.size >= u64::from(LARGE));
        (self.header(&open, UTF8 | BEHIND), open)
    }

    /// That was its content, so long.
    pub(super) fn end(&mut self, open: &Open, crc: u32, len: u64) -> Vec<u8> {
        let descriptor = Bytes(Vec::new()).u32(DESCRIPTOR).u32(crc);
        let descriptor = match open.large {
            true => descriptor.u64(len).u64(len),
            false => descriptor.u32(small(len)).u32(small(len)),
        };
        self.at += len + descriptor.0.len() as u64;
        self.add(open, UTF8 | BEHIND, (crc, len));
        descriptor.0
    }

    fn open(&self, name: String, attr: &Attr, large: bool) -> Open {
        let kind = if attr.kind == Kind::Directory { 0o040_000 } else { 0o100_000 };
        let mode = kind | attr.mode & 0o777;
        Open { name, mode, time: attr.mtime, offset: self.at, large }
    }

    fn header(&mut self, open: &Open, flags: u16) -> Vec<u8> {
        let (clock, date) = dos_time(open.time);
        let mut extra = utc(open.time);
        let len = if open.large { LARGE } else { 0 };
        if open.large {
            extra.extend(Bytes(Vec::new()).u16(ZIP64).u16(16).u64(0).u64(0).0);
        }
        let needs = if open.large { 45 } else { 20 };
        let header = Bytes(Vec::new()).u32(HEADER).u16(needs).u16(flags).u16(0).u16(clock);
        let header = header.u16(date).u32(0).u32(len).u32(len).u16(short(open.name.as_bytes()));
        let header = header.u16(short(&extra)).all(open.name.as_bytes()).all(&extra).0;
        self.at += header.len() as u64;
        header
    }

    /// Enters it into the directory.
    fn add(&mut self, open: &Open, flags: u16, (crc, len): (u32, u64)) {
        let (clock, date) = dos_time(open.time);
        let mut large = Vec::new();
        if open.large {
            large = Bytes(large).u64(len).u64(len).0;
        }
        if small(open.offset) == LARGE {
            large = Bytes(large).u64(open.offset).0;
        }
        let mut extra = utc(open.time);
        if !large.is_empty() {
            extra.extend(Bytes(Vec::new()).u16(ZIP64).u16(short(&large)).all(&large).0);
        }
        let needs = if large.is_empty() { 20 } else { 45 };
        let said = if open.large { LARGE } else { small(len) };
        let attributes = open.mode << 16 | if open.name.ends_with('/') { 0x10 } else { 0 };
        let entry = Bytes(std::mem::take(&mut self.directory)).u32(ENTRY).u16(MADE_BY).u16(needs);
        let entry = entry.u16(flags).u16(0).u16(clock).u16(date).u32(crc).u32(said).u32(said);
        let entry = entry.u16(short(open.name.as_bytes())).u16(short(&extra)).u16(0).u16(0).u16(0);
        let entry = entry.u32(attributes).u32(small(open.offset));
        self.directory = entry.all(open.name.as_bytes()).all(&extra).0;
        self.entries += 1;
    }

    /// That was all.
    pub(super) fn finish(self) -> Vec<u8> {
        let Self { at, directory, entries } = self;
        let len = directory.len() as u64;
        let few = u16::try_from(entries).unwrap_or(MANY);
        let mut out = Bytes(directory);
        if few == MANY || small(at) == LARGE || small(len) == LARGE {
            out = out.u32(END64).u64(44).u16(MADE_BY).u16(45).u32(0).u32(0);
            out = out.u64(entries).u64(entries).u64(len).u64(at);
            out = out.u32(LOCATOR64).u32(0).u64(at + len).u32(1);
        }
        let out = out.u32(END).u16(0).u16(0).u16(few).u16(few).u32(small(len)).u32(small(at));
        out.u16(0).0
    }
}

/// A byte that a name has not as it is.
pub(super) fn escaped(byte: u8) -> String {
    format!("%{byte:02X}")
}

/// Does a text begin as what is [`escaped`]?
fn looks_escaped(text: &str) -> bool {
    let digits = text.strip_prefix('%').and_then(|rest| rest.as_bytes().get(..2));
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// A path in a zip file: nothing in it leads up or elsewhere, on whatever system it is unpacked. What is no text, or means
/// something else there, is percent-encoded; so is what would be taken for that, so that no two paths become one.
pub(super) fn safe<'a>(names: impl Iterator<Item = &'a [u8]>) -> String {
    let one = |name: &[u8]| {
        let mut safe = String::new();
        for chunk in name.utf8_chunks() {
            for (at, c) in chunk.valid().char_indices() {
                let is_taken = c == '%' && looks_escaped(&chunk.valid()[at..]);
                match is_taken || matches!(c, '\\' | ':') || c.is_control() {
                    true => safe.extend(c.encode_utf8(&mut [0; 4]).bytes().map(escaped)),
                    false => safe.push(c),
                }
            }
            safe.extend(chunk.invalid().iter().copied().map(escaped));
        }
        safe
    };
    names.map(one).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};
    use std::process::Command;

    use meta::Ino;
    use proptest::prelude::*;

    use super::*;

    fn attr(kind: Kind, size: u64, secs: i64) -> Attr {
        let time = Time { secs, nanos: 0 };
        Attr {
            ino: Ino(2),
            kind,
            mode: 0o640,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            xattrs: 0,
            size,
            stored: size,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        }
    }

    #[test]
    fn times_of_dos() {
        for (secs, clock, date) in [
            (0, 0, 0x21),
            (YEAR_1980, 0, 0x21),
            // 2000-02-29 12:34:56
            (951_827_696, 12 << 11 | 34 << 5 | 28, 20 << 9 | 2 << 5 | 29),
            // 2100-03-01 00:00:00
            (4_107_542_400, 0, 120 << 9 | 3 << 5 | 1),
            (i64::MAX, 23 << 11 | 59 << 5 | 29, 127 << 9 | 12 << 5 | 31),
        ] {
            assert_eq!(dos_time(Time { secs, nanos: 0 }), (clock, date), "{secs}");
        }
    }

    #[test]
    fn names_lead_down_only() {
        let of = |names: &[&[u8]]| safe(names.iter().copied());
        assert_eq!(of(&[b"a b", "\u{fc}".as_bytes()]), "a b/\u{fc}");
        assert_eq!(of(&[b"..\\..\\x", b"C:"]), "..%5C..%5Cx/C%3A");
        assert_eq!(of(&[b"\xff\n"]), "%FF%0A");
        assert_eq!(
            of(&[b"100%", b"50%c", b"%%5c", "%\u{fc}\u{85}".as_bytes()]),
            "100%/50%c/%%255c/%\u{fc}%C2%85"
        );
    }

    proptest! {
        /// Names that differ are told apart, so that none is unpacked over another.
        #[test]
        fn no_two_names_become_one(one in name(), other in name()) {
            let of = |name: &[u8]| safe(std::iter::once(name));
            prop_assert_eq!(one == other, of(&one) == of(&other), "{:?} {:?}", of(&one), of(&other));
        }
    }

    /// Of few letters, so that they meet.
    fn name() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(proptest::sample::select(&b"%5Cc\\F\xff"[..]), 1..7)
    }

    /// What others say of a file that has holes in place of content: `None`, said loudly, where they are not installed.
    fn python(path: &std::path::Path, script: &str) -> Option<String> {
        let Ok(said) = Command::new("python3").arg("-c").arg(script).arg(path).output() else {
            eprintln!("NOT TESTED: python3 is not installed");
            return None;
        };
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        Some(String::from_utf8_lossy(&said.stdout).into_owned())
    }

    #[test]
    fn what_is_larger_than_4_gib_or_lies_behind_it_is_found() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut zip = Zip::default();
        let large = 5 << 30;
        file.write_all(&zip.folder("f/".into(), &attr(Kind::Directory, 0, 7))).unwrap();
        let (header, open) = zip.begin("f/large".into(), &attr(Kind::File, large, 1_000_000_000));
        file.write_all(&header).unwrap();
        file.seek(SeekFrom::Current(large.cast_signed())).unwrap();
        file.write_all(&zip.end(&open, 0, large)).unwrap();
        let (header, open) = zip.begin("small".into(), &attr(Kind::File, 5, 1_000_000_000));
        file.write_all(&header).unwrap();
        file.write_all(b"hello").unwrap();
        file.write_all(&zip.end(&open, 0x3610_a686, 5)).unwrap();
        file.write_all(&zip.finish()).unwrap();
        let script = "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\n\
            print([(i.filename, i.file_size, i.date_time[0], oct(i.external_attr >> 16)) for i in z.infolist()], z.read('small'))";
        if let Some(said) = python(file.path(), script) {
            let expected = "[('f/', 0, 1980, '0o40640'), ('f/large', 5368709120, 2001, '0o100640'), ('small', 5, 2001, '0o100640')] b'hello'\n";
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn more_than_65535_entries_are_found() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut zip = Zip::default();
        for n in 0..70_000 {
            let (header, open) = zip.begin(format!("{n}"), &attr(Kind::File, 0, 0));
            file.write_all(&header).unwrap();
            file.write_all(&zip.end(&open, 0, 0)).unwrap();
        }
        file.write_all(&zip.finish()).unwrap();
        let script = "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\nprint(len(z.infolist()), z.testzip())";
        if let Some(said) = python(file.path(), script) {
            assert_eq!(said, "70000 None\n");
        }
    }
}
