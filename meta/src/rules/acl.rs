//! POSIX access control lists: their bytes, and what they and a mode do to each other. Pure.
//!
//! An access list refines the permission bits of one inode; a default list, which only directories
//! have, is what new entries start from. The classes of a mode are entries of the access list, so
//! either change carries over to the other: the owner's and the others' bits to their entries, the
//! group's bits to the mask, or to the group's own entry where there is no mask. A list that has
//! nothing but the three classes *is* a mode, and is not stored.
//!
//! Bytes, as the kernel hands them over in an extended attribute:
//!
//! ```text
//! offset  size  field                                       (little-endian)
//! 0       4     version    2
//! 4       8n    entries, in the order of their tags:
//!   0     2       tag      1 owner, 2 a user, 4 group, 8 a group, 16 mask, 32 others
//!   2     2       permissions, 0 to 7
//!   4     4       user or group; all ones where the tag names none
//! ```

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::store::MetaError;

/// Extended attribute that holds the access list.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Extended attribute that holds a directory's default list.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Longest list, in bytes: what the kernel reads.
const BYTES_MAX: usize = 4096;
const VERSION: u32 = 2;
const NOBODY: u32 = u32::MAX;

const OWNER: u16 = 1;
const USER: u16 = 2;
const GROUP: u16 = 4;
const NAMED_GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHERS: u16 = 32;

/// All permission bits of a mode.
const CLASSES: u32 = 0o777;

#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    tag: U16,
    permissions: U16,
    id: U32,
}

/// Whom an entry of a list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// The owner of the inode.
    Owner,
    /// A user, by number.
    User(u32),
    /// The group of the inode.
    Group,
    /// A group, by number.
    NamedGroup(u32),
    /// Nobody: it bounds what all but the owner and others may.
    Mask,
    /// Whoever no other entry is about.
    Others,
}

/// A list whose entries are in order and complete.
#[derive(Clone, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<Entry>,
}

/// Is it one of the two attributes that hold lists?
pub(crate) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

impl Acl {
    /// The list of an attribute's value; `None`: it has no entry, which means none at all.
    pub fn parse(value: &[u8]) -> Result<Option<Self>, MetaError> {
        const SENSELESS: MetaError = MetaError::Invalid("an access list that makes no sense");
        if value.len() > BYTES_MAX {
            return Err(MetaError::AttributeTooLarge);
        }
        let (version, entries) = U32::read_from_prefix(value).map_err(|_| SENSELESS)?;
        if version.get() != VERSION {
            return Err(MetaError::NotSupported);
        }
        let entries = <[Entry]>::ref_from_bytes(entries).map_err(|_| SENSELESS)?;
        match entries {
            [] => Ok(None),
            _ if !in_order(entries) => Err(SENSELESS),
            _ => Ok(Some(Self { entries: entries.to_vec() })),
        }
    }

    /// Its entries, in order: each with its permissions, in the bits of a class.
    pub fn entries(&self) -> impl Iterator<Item = (Grantee, u32)> {
        self.entries.iter().map(|entry| {
            let grantee = match entry.tag.get() {
                OWNER => Grantee::Owner,
                USER => Grantee::User(entry.id.get()),
                GROUP => Grantee::Group,
                NAMED_GROUP => Grantee::NamedGroup(entry.id.get()),
                MASK => Grantee::Mask,
                // No list has any other.
                _ => Grantee::Others,
            };
            (grantee, entry.permissions.get().into())
        })
    }

    /// The value of an attribute that holds the list.
    pub(crate) fn to_value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        value.extend_from_slice(self.entries.as_bytes());
        value
    }

    /// Does it say what a mode cannot? Else it need not be stored.
    pub(crate) fn is_extended(&self) -> bool {
        self.entries.len() > 3
    }

    /// Does it grant all of `wanted`, in the bits of a class, to one who is not the owner? To a user
    /// whom it names what it says there; to others that are in groups of it, if any one of these
    /// grants all; to none of these what it says for others. `group`: the inode's.
    pub(crate) fn grants(&self, uid: u32, gids: &[u32], group: u32, wanted: u32) -> bool {
        let mask = self.permissions(MASK).unwrap_or(7);
        let mut in_a_group = false;
        for entry in &self.entries {
            let (permissions, id) = (u32::from(entry.permissions.get()), entry.id.get());
            let grants = |within: u32| permissions & within & wanted == wanted;
            match entry.tag.get() {
                USER if id == uid => return grants(mask),
                GROUP if gids.contains(&group) => in_a_group = true,
                NAMED_GROUP if gids.contains(&id) => in_a_group = true,
                OTHERS => return !in_a_group && grants(7),
                _ => continue,
            }
            if grants(mask) {
                return true;
            }
        }
        false
    }

    fn permissions(&self, tag: u16) -> Option<u32> {
        let entry = self.entries.iter().find(|e| e.tag.get() == tag)?;
        Some(entry.permissions.get().into())
    }

    /// Keeps, of an entry's permissions, what `mode` has at its class, and of the mode's class what
    /// the entry had: what both grant.
    fn intersect(&mut self, tag: u16, mode: u32, shift: u32) -> Option<u32> {
        let entry = self.entries.iter_mut().find(|e| e.tag.get() == tag)?;
        let both = u32::from(entry.permissions.get()) & (mode >> shift) & 7;
        entry.permissions.set(both as u16);
        Some(both << shift)
    }

    fn set(&mut self, tag: u16, permissions: u32) -> bool {
        let entry = self.entries.iter_mut().find(|e| e.tag.get() == tag);
        entry.map(|entry| entry.permissions.set(permissions as u16 & 7)).is_some()
    }

    /// A mode with the permissions that the list grants its classes.
    pub(crate) fn applied_to(&self, mode: u32) -> u32 {
        let class = |tag| self.permissions(tag).unwrap_or_default();
        let group = self.permissions(MASK).unwrap_or_else(|| class(GROUP));
        mode & !CLASSES | class(OWNER) << 6 | group << 3 | class(OTHERS)
    }

    /// The access list after chmod(2).
    pub(crate) fn chmod(&mut self, mode: u32) {
        self.set(OWNER, mode >> 6);
        if !self.set(MASK, mode >> 3) {
            self.set(GROUP, mode >> 3);
        }
        self.set(OTHERS, mode);
    }

    /// The access list and the mode of something new that starts from this default list: what both
    /// the list and the mode it was asked for grant. The umask has no say.
    pub(crate) fn inherited(&self, mode: u32) -> (Self, u32) {
        let mut list = self.clone();
        let owner = list.intersect(OWNER, mode, 6).unwrap_or_default();
        let group = list.intersect(MASK, mode, 3).or_else(|| list.intersect(GROUP, mode, 3));
        let others = list.intersect(OTHERS, mode, 0).unwrap_or_default();
        (list, mode & !CLASSES | owner | group.unwrap_or_default() | others)
    }
}

/// Owner, users, group, groups, mask, others: the classes once each, and a mask if anybody is named.
fn in_order(entries: &[Entry]) -> bool {
    let mut last = 0;
    let mut named = false;
    let mut seen = 0;
    for entry in entries {
        let (tag, id) = (entry.tag.get(), entry.id.get());
        let again = tag == last && !matches!(tag, USER | NAMED_GROUP);
        let names = matches!(tag, USER | NAMED_GROUP);
        if tag < last || again || entry.permissions.get() > 7 || (names && id == NOBODY) {
            return false;
        }
        if !matches!(tag, OWNER | USER | GROUP | NAMED_GROUP | MASK | OTHERS) {
            return false;
        }
        named |= names;
        seen |= tag;
        last = tag;
    }
    let needed = OWNER | GROUP | OTHERS | if named { MASK } else { 0 };
    seen & needed == needed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&permissions.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    fn minimal(owner: u16, group: u16, others: u16) -> [(u16, u16, u32); 3] {
        [(OWNER, owner, NOBODY), (GROUP, group, NOBODY), (OTHERS, others, NOBODY)]
    }

    /// One named user and a mask.
    fn extended(user: u16, mask: u16) -> Vec<(u16, u16, u32)> {
        vec![
            (OWNER, 7, NOBODY),
            (USER, user, 10),
            (GROUP, 5, NOBODY),
            (MASK, mask, NOBODY),
            (OTHERS, 1, NOBODY),
        ]
    }

    fn parse(entries: &[(u16, u16, u32)]) -> Acl {
        Acl::parse(&list(entries)).unwrap().expect("entries")
    }

    #[test]
    fn entries_are_told_with_whom_they_name() {
        let mut entries = extended(6, 4);
        entries.insert(3, (NAMED_GROUP, 1, 77));
        let told: Vec<_> = parse(&entries).entries().collect();
        let expected = [
            (Grantee::Owner, 7),
            (Grantee::User(10), 6),
            (Grantee::Group, 5),
            (Grantee::NamedGroup(77), 1),
            (Grantee::Mask, 4),
            (Grantee::Others, 1),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn bytes_that_make_no_sense_are_refused() {
        let good = extended(7, 7);
        let without = |i: usize| [&good[..i], &good[i + 1..]].concat();
        let with = |i: usize, entry| [&good[..i], &[entry], &good[i..]].concat();
        let changed = |i: usize, entry| [&good[..i], &[entry], &good[i + 1..]].concat();
        let bad = [
            without(0),
            without(2),
            without(3),
            without(4),
            with(0, (OWNER, 7, NOBODY)),
            with(2, (64, 7, 5)),
            with(5, (USER, 7, 5)),
            changed(1, (USER, 8, 10)),
            changed(1, (USER, 7, NOBODY)),
            vec![good[0]],
        ];
        for entries in bad {
            let found = Acl::parse(&list(&entries)).map(|acl| acl.is_some());
            assert!(matches!(found, Err(MetaError::Invalid(_))), "{entries:?}: {found:?}");
        }
        let value = list(&good);
        for cut in [0, 3, 5, value.len() - 1] {
            assert!(Acl::parse(&value[..cut]).is_err(), "{cut} bytes");
        }
        let old = [&1u32.to_le_bytes()[..], &value[4..]].concat();
        assert!(matches!(Acl::parse(&old), Err(MetaError::NotSupported)));
        let mut many = good.clone();
        many.splice(1..2, (0..600).map(|id| (USER, 7, id)));
        assert!(matches!(Acl::parse(&list(&many)), Err(MetaError::AttributeTooLarge)));
        assert!(Acl::parse(&list(&[])).unwrap().is_none());
        assert!(parse(&good).to_value() == value);
    }

    #[test]
    fn a_list_of_three_classes_is_a_mode() {
        assert!(!parse(&minimal(6, 4, 0)).is_extended());
        assert_eq!(parse(&minimal(6, 4, 0)).applied_to(0o2777), 0o2640);
        assert!(parse(&extended(7, 3)).is_extended());
        assert_eq!(parse(&extended(7, 3)).applied_to(0o1000), 0o1731);
    }

    #[test]
    fn chmod_sets_the_mask_or_the_group() {
        let mut acl = parse(&extended(7, 7));
        acl.chmod(0o640);
        let mut expected = extended(7, 4);
        expected[0].1 = 6;
        expected[4].1 = 0;
        assert!(acl == parse(&expected));
        let mut acl = parse(&minimal(7, 7, 7));
        acl.chmod(0o640);
        assert!(acl == parse(&minimal(6, 4, 0)));
    }

    #[test]
    fn what_is_new_gets_what_both_the_default_and_the_mode_grant() {
        let (acl, mode) = parse(&extended(7, 7)).inherited(0o2666);
        assert_eq!(mode, 0o2660);
        assert!(acl.is_extended());
        assert_eq!(acl.applied_to(0), 0o660);
        assert_eq!((acl.permissions(GROUP), acl.permissions(MASK)), (Some(5), Some(6)));
        let (acl, mode) = parse(&minimal(7, 5, 5)).inherited(0o666);
        assert_eq!((mode, acl.is_extended()), (0o644, false));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_list_or_refused(bytes in proptest::collection::vec(0u8..40, 0..80)) {
            if let Ok(Some(acl)) = Acl::parse(&bytes) {
                proptest::prop_assert_eq!(acl.to_value(), bytes);
            }
        }
    }
}
