//! What a user may ask of a guest and its processes besides the defaults of containers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What a user asks of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestOptions {
    /// Addresses with a name each, for `/etc/hosts`.
    pub hosts: Vec<(IpAddr, String)>,
    /// The size of `/dev/shm` in bytes, or the kernel's default (half of the memory).
    pub shm_size: Option<u64>,
    /// System controls with their values. The names are paths below `/proc/sys`.
    pub sysctls: Vec<(String, String)>,
    /// File systems in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Devices that the guest must have.
    pub devices: Vec<Device>,
}

/// A file system in the guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// The absolute path of the mount point, made when missing.
    pub target: String,
    /// The words of its options: flags as in mount(8) (`ro`, `noexec`, `nosuid`, `nodev` and their opposites), and what tmpfs
    /// itself reads (`size=N`, `mode=N` and so on).
    pub options: Vec<String>,
}

/// A device of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The path in the guest's `/dev`.
    pub path: String,
    /// Another path at which it appears too.
    pub also: Option<String>,
}

/// What a user asks of a process, and gives to further processes beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Privileges {
    /// Further groups: names of the root's group file, or numbers.
    pub groups: Vec<String>,
    /// Its resource limits, where they are not the guest's.
    pub limits: Vec<Limit>,
    /// The capabilities that it can never have. Bit N is the capability with this number.
    pub dropped_capabilities: u64,
    /// The capabilities that it has besides those of every container. In a VM, root has all capabilities anyway.
    pub added_capabilities: u64,
    /// Whether no program that it executes gives it more rights (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
}

/// The names of the capabilities without `CAP_`, in the order of their numbers (`include/uapi/linux/capability.h`).
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A resource limit. `None` is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The resource, named as in [`RESOURCES`].
    pub resource: String,
    /// The limit that applies.
    pub soft: Option<u64>,
    /// The highest limit that the process may set.
    pub hard: Option<u64>,
}

/// The names of resources, as `ulimit` options of container engines have them.
pub const RESOURCES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];
