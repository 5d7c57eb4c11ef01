//! Drivers that only some guests need.

/// What only some guests need drivers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Virtio disks.
    Disk,
    /// EROFS images.
    Erofs,
    /// The file system of disks on which machines keep what they write.
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
