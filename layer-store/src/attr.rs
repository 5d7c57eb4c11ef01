//! The attributes of an inode, as for `stat`, independent of any transport.

use std::fmt;

/// The number of an inode in a view.
///
/// It depends only on the layer's position in the base and the record within that layer, so a server needs no
/// table, numbers survive a restart, and all hard links to a file have the same number. The root is always
/// [`Ino::ROOT`]. Zero is never a valid number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(u64);

impl Ino {
    /// The root directory of every view.
    pub const ROOT: Self = Self(1);

    /// Makes an inode number from the number in a request. The view checks whether such an inode exists.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the number for a reply.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ino({:#x})", self.0)
    }
}

/// The type of an inode, as in `st_mode & S_IFMT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A FIFO.
    Fifo,
    /// A socket. No tar entry makes one.
    Socket,
}

impl Kind {
    /// Returns the type bits of `st_mode`, from `0o010000` (FIFO) to `0o140000` (socket).
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDevice => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }

    /// Returns the kind for the type bits of `mode`, or `None` if they are not valid.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o010_000 => Self::Fifo,
            0o020_000 => Self::CharDevice,
            0o040_000 => Self::Directory,
            0o060_000 => Self::BlockDevice,
            0o100_000 => Self::Regular,
            0o120_000 => Self::Symlink,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// Returns the `d_type` of `readdir(3)`: the type bits shifted right by 12.
    #[must_use]
    pub const fn d_type(self) -> u32 {
        self.mode_bits() >> 12
    }
}

/// A point in time: seconds since 1970 (negative before) and nanoseconds from 0 to 999,999,999.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Whole seconds since the epoch, rounded towards the past.
    pub seconds: i64,
    /// Nanoseconds to add, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// The attributes of one inode in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Its number in this view.
    pub ino: Ino,
    /// Its type.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: `0` to `0o7777`.
    pub permissions: u32,
    /// The number of its names in the merged tree; for a directory, 2 plus its subdirectories.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The size of its content or link target in bytes; 4096 for a directory.
    pub size: u64,
    /// The space that it takes in units of 512 bytes, as on ext4: whole blocks of 4 KiB of stored content (without the
    /// holes of sparse files), 8 for a directory, and 0 for a symbolic link unless its target has 60 bytes or more.
    pub blocks: u64,
    /// The time of last modification, the only time that every layer records.
    pub mtime: Timestamp,
    /// Major number of a device, otherwise 0.
    pub rdev_major: u32,
    /// Minor number of a device, otherwise 0.
    pub rdev_minor: u32,
}

impl Attr {
    /// Returns the device number in 32 bits, in the encoding of the kernel's `new_encode_dev`: 12 bits for the major
    /// and 20 for the minor number, with the low 8 bits of the minor first. Bits that do not fit are lost, as in any
    /// 32-bit `rdev`. Returns 0 for an inode that is not a device.
    #[must_use]
    pub const fn device_number(&self) -> u32 {
        let (major, minor) = (self.rdev_major, self.rdev_minor);
        (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_number_is_packed_as_the_kernel_does() {
        let number = |rdev_major, rdev_minor| {
            let attr = Attr {
                ino: Ino::ROOT,
                kind: Kind::CharDevice,
                permissions: 0,
                nlink: 1,
                uid: 0,
                gid: 0,
                size: 0,
                blocks: 0,
                mtime: Timestamp::default(),
                rdev_major,
                rdev_minor,
            };
            attr.device_number()
        };
        assert_eq!(number(1, 3), 0x103);
        assert_eq!(number(0xabc, 0x1_2345), 0x123a_bc45);
    }
}
