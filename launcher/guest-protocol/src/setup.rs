//! What a guest is made of.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::GuestOptions;

/// What init says about itself when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`](crate::VERSION) of the guest's build.
    pub version: u32,
    /// The release of the running kernel, as `uname -r` prints it.
    pub kernel: String,
}

/// What a guest is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The host name: 1 to 64 bytes (`HOST_NAME_MAX`).
    pub hostname: String,
    /// The host's clock: seconds since 1970. The guest's hardware clock may be absent or coarse.
    pub seconds: i64,
    /// Nanoseconds to add, below 1,000,000,000.
    pub nanoseconds: u32,
    /// What the root is read from.
    pub root: RootSource,
    /// What is mounted over the root.
    pub overlay: Overlay,
    /// Further shares, mounted in this order.
    pub shares: Vec<Share>,
    /// What its one network card is set to, if it has one.
    #[serde(default)]
    pub network: Option<Network>,
    /// Directories of the root that are created if missing, even in a root that is read-only: the command's working
    /// directory.
    #[serde(default)]
    pub directories: Vec<String>,
    /// Directories of the root that take writes although the root is read-only: the image's volumes. What is written
    /// there stays in the guest's memory.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Whether the command is an init system, for which `/run` is a file system in memory.
    #[serde(default)]
    pub init_system: bool,
    /// The command's user, as in [`Process::user`](crate::Process::user): the files that were sent by
    /// [`Message::Secret`](crate::Message::Secret) belong to it.
    #[serde(default)]
    pub user: Option<String>,
    /// What the user asks for besides.
    #[serde(default)]
    pub options: Box<GuestOptions>,
}

/// The setting of a network card, or of the host's own network, which a container may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// How many leading bits of the address name the network, 0 to 32.
    pub prefix: u8,
    /// Where packets for other networks go.
    pub gateway: Ipv4Addr,
    /// For `/etc/resolv.conf`.
    pub name_servers: Vec<IpAddr>,
    /// The domains of its `search` line.
    #[serde(default)]
    pub search: Vec<String>,
    /// The words of its `options` line.
    #[serde(default)]
    pub options: Vec<String>,
    /// Whether the gateway leads to the loopback of the host. `/etc/hosts` then has names for it.
    #[serde(default)]
    pub host_loopback: bool,
    /// Whether it is the network of the host, which is set up already.
    #[serde(default)]
    pub is_hosts: bool,
}

/// A file that only the guest can see. It appears in `/run/secrets`, which is in the guest's memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its name, which is not a path: 1 to 255 bytes.
    pub name: String,
    /// Its content, at most [`MAX_SECRET`] bytes.
    pub content: Vec<u8>,
}

impl Drop for Secret {
    /// Overwrites the content.
    fn drop(&mut self) {
        self.content.zeroize();
    }
}

impl std::fmt::Debug for Secret {
    /// Leaves out the content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The largest secret in bytes.
pub const MAX_SECRET: usize = 256 << 10;

/// What a root is read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootSource {
    /// The virtiofs share with this tag.
    Share(String),
    /// The EROFS image on the virtio disk with this serial, which has 1 to 20 bytes (`VIRTIO_BLK_ID_BYTES`).
    Image(String),
}

/// Where a guest's writes to its root go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlay {
    /// To a tmpfs of at most this many bytes, which is lost when the guest ends.
    Memory {
        /// The size in bytes, or the kernel's default (half of the memory).
        limit: Option<u64>,
    },
    /// To the ext4 file system on the virtio disk with this serial, where they stay.
    Disk {
        /// 1 to 20 bytes.
        serial: String,
    },
    /// Nowhere: the root is read-only.
    ReadOnly,
}

/// One virtiofs share besides the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Its tag: 1 to 36 bytes.
    pub tag: String,
    /// The absolute path of the mount point in the guest, made when missing.
    pub target: String,
    /// Whether the guest mounts it read-only. The host enforces that too.
    pub read_only: bool,
    /// Whether an empty share gets what the root has at `target`.
    #[serde(default)]
    pub fill: bool,
    /// For a share of a single file: the name of the file in the share that appears at `target`.
    pub file: Option<String>,
}

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
    /// Virtio sockets, by which init reaches a host that has no named serial ports.
    Socket,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Disk, Self::Erofs, Self::Ext4, Self::Network, Self::Socket];

    /// The name of its directory.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Erofs => "erofs",
            Self::Ext4 => "ext4",
            Self::Network => "network",
            Self::Socket => "socket",
        }
    }
}
