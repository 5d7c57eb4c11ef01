//! The handshake: `FUSE_INIT`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `FUSE_KERNEL_VERSION`: the major version of the protocol.
pub const KERNEL_VERSION: u32 = 7;

/// The minor version of this server. Both sides use the lower of their two versions.
pub const KERNEL_MINOR: u32 = 31;

/// The part of `struct fuse_init_in` that every version since 7.6 sends, 16 bytes; later ones append to it.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitIn {
    /// Must be [`KERNEL_VERSION`].
    pub major: u32,
    /// The highest minor version the kernel speaks.
    pub minor: u32,
    /// The most bytes that it would read ahead.
    pub max_readahead: u32,
    /// What it supports: bits of [`InitFlags`].
    pub flags: u32,
}

/// `struct fuse_init_out`, 64 bytes since 7.23.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitOut {
    /// [`KERNEL_VERSION`].
    pub major: u32,
    /// The minor version that the server speaks.
    pub minor: u32,
    /// The most bytes to read ahead, not more than was offered.
    pub max_readahead: u32,
    /// Which of the offered features to use.
    pub flags: u32,
    /// How many requests that no process waits for may be in flight: read-ahead and forgets.
    pub max_background: u16,
    /// The number of those from which on the kernel treats the mount as congested.
    pub congestion_threshold: u16,
    /// The bytes of one `WRITE`. The kernel also derives from it the smallest buffer that may be passed to `read`.
    pub max_write: u32,
    /// Granularity of time stamps in nanoseconds, a power of ten.
    pub time_gran: u32,
    /// Pages in one request, with [`InitFlags::MAX_PAGES`].
    pub max_pages: u16,
    /// Unused here (DAX).
    pub map_alignment: u16,
    /// Bits 32 to 63 of the flags, if they have [`InitFlags::INIT_EXT`].
    pub flags2: u32,
    /// Unused here.
    pub unused: [u32; 7],
}

const _: () = assert!(size_of::<InitIn>() == 16 && size_of::<InitOut>() == 64);

/// The flags of `FUSE_INIT` that matter to a read-only tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitFlags(pub u32);

impl InitFlags {
    /// `FUSE_ASYNC_READ`: several reads of one file may be in flight.
    pub const ASYNC_READ: Self = Self(1 << 0);
    /// `FUSE_EXPORT_SUPPORT`: `LOOKUP` of `.` and `..` is answered for any inode, so file handles never go stale.
    pub const EXPORT_SUPPORT: Self = Self(1 << 4);
    /// `FUSE_DO_READDIRPLUS`: names come with attributes.
    pub const DO_READDIRPLUS: Self = Self(1 << 13);
    /// `FUSE_NO_OPEN_SUPPORT`: the kernel stops sending `OPEN` after one `ENOSYS`.
    pub const NO_OPEN_SUPPORT: Self = Self(1 << 17);
    /// `FUSE_PARALLEL_DIROPS`: several lookups and listings of one directory may be in flight.
    pub const PARALLEL_DIROPS: Self = Self(1 << 18);
    /// `FUSE_POSIX_ACL`: the kernel asks for access control lists, and checks modes and owners by them.
    pub const POSIX_ACL: Self = Self(1 << 20);
    /// `FUSE_ABORT_ERROR`: reading from the device of an aborted connection fails with `ECONNABORTED`, and with
    /// `ENODEV` only once the mount is gone.
    pub const ABORT_ERROR: Self = Self(1 << 21);
    /// `FUSE_MAX_PAGES`: [`InitOut::max_pages`] counts.
    pub const MAX_PAGES: Self = Self(1 << 22);
    /// `FUSE_CACHE_SYMLINKS`: link targets stay in the page cache.
    pub const CACHE_SYMLINKS: Self = Self(1 << 23);
    /// `FUSE_NO_OPENDIR_SUPPORT`: the kernel stops sending `OPENDIR` after one `ENOSYS` and caches listings.
    pub const NO_OPENDIR_SUPPORT: Self = Self(1 << 24);
    /// `FUSE_INIT_EXT`: bits 32 to 63 of the flags are in [`InitOut::flags2`], and after [`InitIn`].
    pub const INIT_EXT: Self = Self(1 << 30);

    /// Of the bits 32 to 63, `FUSE_OVER_IO_URING` (since 7.42): requests come over rings of io_uring.
    pub const OVER_IO_URING: u32 = 1 << (41 - 32);

    /// Returns the flags of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the flags that are also in `offered`.
    #[must_use]
    pub const fn within(self, offered: u32) -> Self {
        Self(self.0 & offered)
    }

    /// Returns whether all flags of `other` are among these.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
