//! Extended attributes, written after their inode, or once for all inodes that have them.
//!
//! ```text
//! header   12 bytes: how many places follow (see `XattrHeader`)
//! places   of shared attributes, 4 bytes each: the offset of the entry in the part of the image for them, in units of 4 bytes
//! entries  of the other attributes
//!
//! entry    name length (u8), name index (u8), value length (u16), name without the prefix that its index stands for,
//!          value, zeros up to a multiple of 4; entries are contiguous, in byte order of their whole names
//! ```

use std::collections::HashMap;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::format::{BLOCK, XATTR_HEADER, XATTR_UNIT, XattrHeader};
use crate::{Digest, Ino, View, ViewError};

/// Name prefixes and their indexes. A longer prefix comes before a shorter one that also matches.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// The most bytes after the attributes' header: the count in the inode has 16 bits.
const MOST: usize = (u16::MAX as usize - 1) * XATTR_UNIT;

/// The most shared attributes of an inode: their count has 8 bits.
const MOST_SHARED: usize = u8::MAX as usize;

/// The attributes of one inode that EROFS can store.
#[derive(Debug, Default)]
struct Entries {
    entries: Vec<Vec<u8>>,
    bytes: usize,
    left_out: u64,
}

impl Entries {
    fn of(view: &View, ino: Ino) -> Result<Self, ViewError> {
        let mut found = Self::default();
        for name in view.xattr_names(ino)? {
            let value = view.xattr(ino, name)?.unwrap_or_default();
            found.add(name, value);
        }
        Ok(found)
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        let known = PREFIXES.iter().find_map(|(prefix, index)| Some((name.strip_prefix(*prefix)?, *index)));
        let entry = known.and_then(|(rest, index)| entry(rest, index, value));
        match entry.filter(|entry| self.bytes + entry.len() <= MOST) {
            Some(entry) => {
                self.bytes += entry.len();
                self.entries.push(entry);
            }
            None => self.left_out += 1,
        }
    }
}

/// How many inodes have each attribute.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// By the digest of the entry, so that an attribute that only one inode has is not kept.
    counts: HashMap<Digest, u64>,
    /// The entries that were met a second time, in that order.
    repeated: Vec<Vec<u8>>,
}

impl Counts {
    /// Counts the attributes of an inode.
    pub(super) fn add(&mut self, view: &View, ino: Ino) -> Result<(), ViewError> {
        Entries::of(view, ino)?.entries.into_iter().for_each(|entry| self.count(entry));
        Ok(())
    }

    fn count(&mut self, entry: Vec<u8>) {
        let count = self.counts.entry(Digest::of(&entry)).or_default();
        *count += 1;
        if *count == 2 {
            self.repeated.push(entry);
        }
    }

    /// Returns the attributes that are worth sharing.
    pub(super) fn shared(self) -> Shared {
        let (mut shared, mut saved) = (Shared::default(), 0);
        for entry in &self.repeated {
            let (digest, length) = (Digest::of(entry), entry.len() as u64);
            let uses = self.counts.get(&digest).copied().unwrap_or_default();
            let without = uses.saturating_mul(length);
            let with = length.saturating_add(uses.saturating_mul(XATTR_UNIT as u64));
            if with < without
                && let Ok(place) = u32::try_from(shared.bytes.len() / XATTR_UNIT)
            {
                shared.places.insert(digest, place);
                shared.bytes.extend_from_slice(entry);
                saved += without - with;
            }
        }
        // They begin a block of their own.
        if saved > BLOCK { shared } else { Shared::default() }
    }
}

/// The attributes that are stored once for all inodes that have them.
#[derive(Debug, Default)]
pub(super) struct Shared {
    places: HashMap<Digest, u32>,
    bytes: Vec<u8>,
}

impl Shared {
    /// Returns the part of the image that they are in.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn place(&self, entry: &[u8]) -> Option<u32> {
        if self.places.is_empty() { None } else { self.places.get(&Digest::of(entry)).copied() }
    }
}

/// The attributes of one inode, in the format of the image.
#[derive(Debug, Default)]
pub(super) struct Xattrs {
    /// Header, places and entries; empty if there are no attributes.
    pub(super) bytes: Vec<u8>,
    /// Attributes that EROFS cannot store: of a namespace that no Linux process can read, or too large.
    pub(super) left_out: u64,
}

impl Xattrs {
    pub(super) fn of(view: &View, ino: Ino, shared: &Shared) -> Result<Self, ViewError> {
        Entries::of(view, ino).map(|entries| Self::new(&entries, shared))
    }

    fn new(found: &Entries, shared: &Shared) -> Self {
        let (mut places, mut own) = (Vec::new(), Vec::new());
        for entry in &found.entries {
            match shared.place(entry).filter(|_| places.len() < MOST_SHARED) {
                Some(place) => places.push(U32::from(place)),
                None => own.extend_from_slice(entry),
            }
        }
        let mut bytes = Vec::new();
        if !found.entries.is_empty() {
            let header = XattrHeader::new(u8::try_from(places.len()).unwrap_or_default());
            bytes = [header.as_bytes(), places.as_bytes(), &own].concat();
        }
        Self { bytes, left_out: found.left_out }
    }

    /// Returns the `xattr_count` field of the inode.
    pub(super) fn count(&self) -> u16 {
        match self.bytes.len().checked_sub(XATTR_HEADER) {
            None => 0,
            Some(rest) => u16::try_from(1 + rest / XATTR_UNIT).unwrap_or(u16::MAX),
        }
    }
}

fn entry(name: &[u8], index: u8, value: &[u8]) -> Option<Vec<u8>> {
    let mut entry = vec![u8::try_from(name.len()).ok()?, index];
    entry.extend_from_slice(&u16::try_from(value.len()).ok()?.to_le_bytes());
    entry.extend_from_slice(name);
    entry.extend_from_slice(value);
    entry.resize(entry.len().next_multiple_of(XATTR_UNIT), 0);
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(attributes: &[(&[u8], &[u8])]) -> Entries {
        let mut entries = Entries::default();
        attributes.iter().for_each(|(name, value)| entries.add(name, value));
        entries
    }

    #[test]
    fn a_name_is_split_at_its_namespace_and_padded_to_four() {
        let of = |attributes| Xattrs::new(&entries(attributes), &Shared::default());
        assert_eq!(of(&[]).count(), 0);
        let one = of(&[(b"user.a", b"12")]);
        assert_eq!(one.bytes, [&[0; 12][..], &[1, 1, 2, 0, b'a', b'1', b'2', 0]].concat());
        assert_eq!(one.count(), 3);
        let two = of(&[(b"user.a", b"12"), (b"system.posix_acl_access", b"1234")]);
        assert_eq!(two.bytes[20..], [0, 2, 4, 0, b'1', b'2', b'3', b'4']);
        assert_eq!(two.left_out, 0);
    }

    #[test]
    fn what_has_no_place_is_counted() {
        let found = entries(&[(b"system.unheard_of", b""), (b"user.large", &vec![0; 1 << 16])]);
        let xattrs = Xattrs::new(&found, &Shared::default());
        assert_eq!((xattrs.left_out, xattrs.count()), (2, 0));
    }

    #[test]
    fn an_attribute_of_many_inodes_is_stored_once() {
        let counted = |uses: usize| {
            let mut counts = Counts::default();
            for number in 0..uses {
                let own = number.to_string();
                let found = entries(&[(b"security.selinux", b"label"), (b"user.own", own.as_bytes())]);
                found.entries.into_iter().for_each(|entry| counts.count(entry));
            }
            counts.shared()
        };
        // 4 + 7 + 5 bytes, in units of 4.
        let shared = counted(400);
        assert_eq!(shared.bytes(), [&[7, 6, 5, 0][..], b"selinuxlabel"].concat());
        let found = entries(&[(b"security.selinux", b"label"), (b"user.own", b"7")]);
        let xattrs = Xattrs::new(&found, &shared);
        let own = [3, 1, 1, 0, b'o', b'w', b'n', b'7'];
        assert_eq!(xattrs.bytes, [&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], &[0; 4], &own].concat());
        assert_eq!(xattrs.count(), 4);
        // What is saved must be more than the block that they begin.
        assert!(counted(300).bytes().is_empty());
    }
}
