//! What the host and the first process of a guest agree on, and the parts of that process that are
//! pure enough to be tested on the host.
//!
//! The binary `guest-init` is the guest's `/init`; the launcher links this library for the protocol.

pub mod account;
pub mod archive;
pub mod changes;
pub mod protocol;
pub mod sockets;
pub mod window;

/// The line that init prints on the kernel's console before anything else: proof that a kernel has booted
/// as far as user space.
pub const UP: &str = "lamina: init is up";

/// How init begins the line on the console by which it tells, once, that the memory for the guest's writes is full; its
/// size follows in parentheses.
pub const WRITES_FULL: &str = "lamina: the memory for the guest's writes is full";

/// The directory of the initramfs that holds the kernel modules, loaded in byte order of their names. A directory in
/// it holds those of a [`Part`], which are loaded when that is asked for.
pub const MODULES: &str = "/modules";

/// What only some guests need drivers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Virtio disks.
    Disk,
    /// EROFS images.
    Erofs,
    /// Disks that machines keep what they write on.
    Ext4,
    /// Virtio network cards.
    Network,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Disk, Self::Erofs, Self::Ext4, Self::Network];

    /// The name of its directory.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Erofs => "erofs",
            Self::Ext4 => "ext4",
            Self::Network => "network",
        }
    }
}
