//! What a guest's processes get by default. The model is what Docker and Podman give a container.
//!
//! | what | Docker | Podman | here |
//! |---|---|---|---|
//! | `net.ipv4.ip_unprivileged_port_start` | 0 | 0 | 0 |
//! | `net.ipv4.ping_group_range` | 0 to 2147483647 | 0 to 0 | 0 to 2147483647 |
//! | `fs.protected_*`, `kernel.pid_max`, `vm.max_map_count`, `fs.inotify.*` | the host's | the host's | what a host with systemd has, see [`SYSTEM_CONTROLS`] |
//! | open files | 1024, at most 524288 (before 2025: 1048576) | 1048576 | 1024, at most 1048576 |
//! | processes | unlimited | 4194304 | unlimited |
//! | core files | unlimited | unlimited | none, at most unlimited: they would fill the guest's memory |
//! | locked memory | 8 MiB | 8 MiB | 8 MiB |
//! | `/dev/shm` | 64 MiB | 63 MiB | half of the memory |
//! | `/dev/pts`, `/dev/mqueue`, `/sys/fs/cgroup` | mounted | mounted | mounted |
//! | `/dev/fd`, `stdin`, `stdout`, `stderr`, `core`, `ptmx` | links | links | links, `ptmx` is the device |
//! | masked and read-only paths of `/proc` and `/sys` | yes | yes | none: the kernel is the guest's own |

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::MountFlags;
use rustix::process::{Resource, Rlimit};

use crate::boot::mount_at;
use crate::missing;

/// System controls, as paths below `/proc/sys`. Container engines set the first two; systemd and distributions set the
/// others on the hosts of containers.
const SYSTEM_CONTROLS: [(&str, &str); 12] = [
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_fifos", "1"),
    ("fs/protected_regular", "2"),
    ("fs/inotify/max_user_instances", "1024"),
    ("fs/inotify/max_user_watches", "524288"),
    ("kernel/pid_max", "4194304"),
    ("kernel/keys/maxkeys", "2000"),
    ("net/unix/max_dgram_qlen", "512"),
    ("vm/max_map_count", "1048576"),
];

/// Sets the limits of this process, which all others inherit.
pub(crate) fn set_limits() {
    let set = |resource, current, maximum| {
        let _ = rustix::process::setrlimit(resource, Rlimit { current, maximum });
    };
    // The kernel's own maximum of 4,096 breaks databases.
    set(Resource::Nofile, Some(1024), Some(1 << 20));
    // The kernel's default is as many as the guest's memory can hold. That limit still applies (`threads-max`).
    set(Resource::Nproc, None, None);
    set(Resource::Memlock, Some(8 << 20), Some(8 << 20));
}

/// Sets the system controls, except those that the kernel lacks.
pub(crate) fn set_system_controls() {
    for (name, value) in SYSTEM_CONTROLS {
        let _ = fs::write(Path::new("/proc/sys").join(name), value);
    }
}

/// Creates the mounts and links that programs expect on a running Linux system. A guest without one of them still runs.
pub(crate) fn mount_and_link(shm_size: Option<u64>) {
    let shm = shm_size.and_then(|bytes| CString::new(format!("mode=1777,size={bytes}")).ok());
    let shm = shm.as_deref().unwrap_or(c"mode=1777");
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    let hardened = quiet | MountFlags::NODEV;
    let mounts = [
        ("devpts", "/dev/pts", "devpts", quiet, Some(c"gid=5,mode=0620,ptmxmode=0666")),
        ("shm", "/dev/shm", "tmpfs", hardened, Some(shm)),
        ("mqueue", "/dev/mqueue", "mqueue", hardened, None),
        ("cgroup2", "/sys/fs/cgroup", "cgroup2", hardened, Some(c"nsdelegate,memory_recursiveprot")),
    ];
    for (source, target, kind, flags, options) in mounts {
        if let Err(cause) = mount_at(source, target, kind, flags, options) {
            missing::note(cause);
        }
    }
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("core", "/proc/kcore")]
    {
        // devtmpfs creates none of these. If a later kernel creates one, that is as good.
        let _ = symlink(target, Path::new("/dev").join(name));
    }
}
