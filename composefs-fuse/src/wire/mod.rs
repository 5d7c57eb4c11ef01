//! The FUSE protocol as bytes: the structures of `include/uapi/linux/fuse.h`, and nothing that acts on them.
//!
//! Every structure is `repr(C)`, has no implicit padding and is read and written in the host's byte order, as the
//! protocol demands. Over virtio the order is the guest's. The virtio specification (section 5.11.6.1) makes that
//! little-endian, which is the order of all hosts of Lamina too.
//!
//! The version is 7.31 (Linux 5.4). It has everything that a read-only tree needs, and the structures below have not
//! changed since.

mod header;
mod init;
mod inode;
mod opcode;

pub use header::{InHeader, OutHeader};
pub use init::{InitFlags, InitIn, InitOut, KERNEL_MINOR, KERNEL_VERSION};
pub use inode::{AttrOut, Dirent, DirentPlus, EntryOut, FileAttr, GetxattrIn, GetxattrOut, ReadIn, Statfs, padded};
pub use opcode::Opcode;

#[cfg(target_endian = "big")]
compile_error!("virtio-fs carries FUSE in little-endian order; this code assumes that the host's is the same");
