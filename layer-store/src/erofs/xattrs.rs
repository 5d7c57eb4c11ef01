//! Extended attributes, written after their inode.
//!
//! ```text
//! header   12 bytes, all zero: no filter, no shared attributes
//! entry    name length (u8), name index (u8), value length (u16), name without the prefix that its index stands for,
//!          value, zeros up to a multiple of 4; entries are contiguous, in byte order of their whole names
//! ```

use super::format::XATTR_HEADER;
use crate::{Ino, View, ViewError};

/// Name prefixes and their indexes. A longer prefix comes before a shorter one that also matches.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// The most bytes after the attributes' header: the count in the inode has 16 bits.
const MOST: usize = (u16::MAX as usize - 1) * 4;

/// The attributes of one inode, in the format of the image.
#[derive(Debug, Default)]
pub(super) struct Xattrs {
    /// Header and entries; empty if there are no attributes.
    pub(super) bytes: Vec<u8>,
    /// Attributes that EROFS cannot store: of a namespace that no Linux process can read, or too large.
    pub(super) left_out: u64,
}

impl Xattrs {
    pub(super) fn of(view: &View, ino: Ino) -> Result<Self, ViewError> {
        let mut xattrs = Self::default();
        for name in view.xattr_names(ino)? {
            let value = view.xattr(ino, name)?.unwrap_or_default();
            xattrs.add(name, value);
        }
        Ok(xattrs)
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        let known = PREFIXES.iter().find_map(|(prefix, index)| Some((name.strip_prefix(*prefix)?, *index)));
        let Some(entry) = known.and_then(|(rest, index)| entry(rest, index, value)) else {
            self.left_out += 1;
            return;
        };
        if self.bytes.is_empty() {
            self.bytes.resize(XATTR_HEADER, 0);
        }
        if self.bytes.len() - XATTR_HEADER + entry.len() > MOST {
            self.left_out += 1;
        } else {
            self.bytes.extend_from_slice(&entry);
        }
    }

    /// Returns the `xattr_count` field of the inode.
    pub(super) fn count(&self) -> u16 {
        match self.bytes.len().checked_sub(XATTR_HEADER) {
            None => 0,
            Some(entries) => u16::try_from(1 + entries / 4).unwrap_or(u16::MAX),
        }
    }
}

fn entry(name: &[u8], index: u8, value: &[u8]) -> Option<Vec<u8>> {
    let mut entry = vec![u8::try_from(name.len()).ok()?, index];
    entry.extend_from_slice(&u16::try_from(value.len()).ok()?.to_le_bytes());
    entry.extend_from_slice(name);
    entry.extend_from_slice(value);
    entry.resize(entry.len().next_multiple_of(4), 0);
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_split_at_its_namespace_and_padded_to_four() {
        let mut xattrs = Xattrs::default();
        assert_eq!(xattrs.count(), 0);
        xattrs.add(b"user.a", b"12");
        assert_eq!(xattrs.bytes, [&[0; 12][..], &[1, 1, 2, 0, b'a', b'1', b'2', 0]].concat());
        assert_eq!(xattrs.count(), 3);
        xattrs.add(b"system.posix_acl_access", b"1234");
        assert_eq!(xattrs.bytes[20..], [0, 2, 4, 0, b'1', b'2', b'3', b'4']);
        assert_eq!(xattrs.left_out, 0);
    }

    #[test]
    fn what_has_no_place_is_counted() {
        let mut xattrs = Xattrs::default();
        xattrs.add(b"system.unheard_of", b"");
        xattrs.add(b"user.large", &vec![0; 1 << 16]);
        assert_eq!((xattrs.left_out, xattrs.count()), (2, 0));
    }
}
