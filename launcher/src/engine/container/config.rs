//! The configuration of a container as an OCI runtime reads it (`config.md` of the OCI runtime specification). The
//! defaults are podman's.

use std::path::Path;

use guest_protocol::{Device, Tmpfs};
use serde_json::{Value, json};

use super::ids::Ids;
use super::runtime::has_unified_cgroups;
use super::stage::{COPIED, GROUPS};
use super::{options, seccomp};
use crate::engine::plan::{Bind, Container, Upper};

/// What root in a container may do: podman's default list (`containers.conf(5)`, `default_capabilities`), and
/// `CAP_NET_RAW`, which docker's has and podman's had. Debian's `ping` has it as a file capability, and does not start
/// without. It reaches only the container's own network.
const CAPABILITIES: [&str; 12] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// What init has besides where the command is an init: it makes namespaces, and keeps the first and the last from every
/// process that it starts. The second ends only the namespace of a process.
const OF_INIT: [&str; 3] = ["CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_PTRACE"];

/// Paths of the kernel's file systems that are hidden: they show what the host is, or reach its devices.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/fs/selinux",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
];

/// What else is hidden of the host's `/sys`, which is not mounted read-only below its top: other file systems are mounted
/// there. The first has the means to end the user's other FUSE mounts.
const MASKED_OF_HOST: [&str; 5] =
    ["/sys/fs/fuse", "/sys/fs/bpf", "/sys/kernel/config", "/sys/kernel/debug", "/sys/kernel/tracing"];

const READ_ONLY: [&str; 6] = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Bytes of `/dev/shm`.
pub(super) const SHARED_MEMORY: u64 = 65_536_000;

/// What a container sees of the host's control groups (of version 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Groups {
    None,
    /// Its own one, read-only: programs find their limits there.
    Seen,
    /// One in which it may make others.
    Own,
}

impl Groups {
    /// Returns what a container sees if `own` says whether it may make groups.
    pub(super) fn of(own: bool) -> Self {
        match own {
            true => Self::Own,
            false if has_unified_cgroups() => Self::Seen,
            false => Self::None,
        }
    }
}

/// The descriptors that the container's init inherits from number 3 on, by what it is told about each. `groups` says whether
/// it has control groups.
pub(super) fn descriptors(container: &Container, groups: bool) -> Vec<&'static str> {
    let of_root: &[&str] = match container.upper {
        Upper::Nowhere => &["root"],
        _ => &["writes", "lower"],
    };
    let of_groups = groups.then_some("groups");
    ["control", "init"].into_iter().chain(of_root.iter().copied()).chain(of_groups).collect()
}

/// The number of the descriptor of init's own program.
const INIT: u32 = 4;

/// Returns the configuration of `container`, whose root is the directory `root` beside its bundle. `groups` is
/// mounted in its place.
pub(super) fn config(container: &Container, ids: &Ids, groups: Groups) -> Value {
    let program = format!("/proc/self/fd/{INIT}");
    let args: Vec<&str> =
        [program.as_str(), "container"].into_iter().chain(descriptors(container, groups == Groups::Own)).collect();
    let further = options::capabilities(container.added_capabilities);
    let own: Vec<&str> = CAPABILITIES.into_iter().chain(further.iter().map(String::as_str)).collect();
    let of_init = OF_INIT.into_iter().filter(|name| container.init_system && !own.contains(name));
    let capabilities: Vec<&str> = own.iter().copied().chain(of_init).collect();
    let of_host = MASKED_OF_HOST.into_iter().filter(|_| container.host_network);
    let masked: Vec<&str> = MASKED.into_iter().chain(of_host).collect();
    let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": "../root", "readonly": container.upper == Upper::Nowhere },
        "hostname": container.hostname,
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "noNewPrivileges": false,
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        },
        "mounts": mounts(container, ids, groups),
        "linux": {
            "namespaces": namespaces,
            "sysctl": options::system_controls_of_runtime(&container.options),
            "seccomp": seccomp::filter(&own, container.init_system),
            "maskedPaths": masked,
            "readonlyPaths": READ_ONLY,
        },
    })
}

fn mounts(container: &Container, ids: &Ids, groups: Groups) -> Vec<Value> {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !ids.is_single() {
        terminals.push("gid=5");
    }
    let size = format!("size={}", container.options.shm_size.unwrap_or(SHARED_MEMORY));
    let memory = ["nosuid", "noexec", "nodev", "mode=1777", size.as_str()];
    let mut all = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &terminals),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", &memory),
    ];
    if container.host_network {
        // The kernel mounts no /sys for a network that belongs to another user namespace. The host's control groups are left out.
        all.push(json!({
            "destination": "/sys",
            "type": "bind",
            "source": "/sys",
            "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro"],
        }));
    } else {
        all.push(mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]));
    }
    if groups != Groups::None {
        let access = if groups == Groups::Own { "rw" } else { "ro" };
        all.push(json!({
            "destination": "/sys/fs/cgroup",
            "type": "bind",
            "source": container.place.join(GROUPS),
            "options": ["bind", "nosuid", "noexec", "nodev", access],
        }));
    } else if container.host_network {
        all.push(mount("/sys/fs/cgroup", "tmpfs", &["nosuid", "noexec", "nodev", "ro", "mode=555"]));
    }
    if container.init_system {
        all.extend(["/run", "/run/lock"].map(|target| mount(target, "tmpfs", &["nosuid", "nodev", "mode=755"])));
    }
    if container.has_secrets {
        all.push(mount("/run/secrets", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755"]));
    }
    // What the image has in a volume is copied there.
    all.extend(container.volumes.iter().map(|volume| {
        let target = format!("/{}", volume.trim_start_matches('/'));
        mount(&target, "tmpfs", &["nosuid", "nodev", COPIED, "mode=755"])
    }));
    // What is inside another one comes after it.
    let depth = |target: &str| Path::new(target).components().count();
    let binds = container.binds.iter().map(|share| (depth(&share.target), bind(share)));
    let memory = container.options.tmpfs.iter().map(|place| (depth(&place.target), tmpfs(place)));
    let mut further: Vec<(usize, Value)> = binds.chain(memory).collect();
    further.sort_by_key(|(depth, _)| *depth);
    all.extend(further.into_iter().map(|(_, mount)| mount));
    all.extend(container.options.devices.iter().map(device));
    all
}

/// Flags that only undo others.
const UNDOING: [&str; 4] = ["rw", "exec", "suid", "dev"];

fn tmpfs(tmpfs: &Tmpfs) -> Value {
    // Not all runtimes let a later flag undo an earlier one.
    let is_undone =
        |flag: &&str| flag.strip_prefix("no").is_some_and(|undone| tmpfs.options.iter().any(|own| own == undone));
    let own = tmpfs.options.iter().map(String::as_str).filter(|own| !UNDOING.contains(own));
    let options =
        ["nosuid", "nodev", "noexec"].into_iter().filter(|flag| !is_undone(flag)).chain(["mode=1777"]).chain(own);
    json!({
        "destination": tmpfs.target,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": options.collect::<Vec<_>>(),
    })
}

/// A device of the host is bound, because a user namespace cannot make one.
fn device(device: &Device) -> Value {
    json!({
        "destination": device.also.as_ref().unwrap_or(&device.path),
        "type": "bind",
        "source": device.path,
        "options": ["bind", "nosuid", "noexec", "rprivate", "rw"],
    })
}

fn bind(bind: &Bind) -> Value {
    let access = if bind.read_only { "ro" } else { "rw" };
    // A mount below the shared directory is shared too, as it is with a machine that is a VM.
    json!({
        "destination": bind.target,
        "type": "bind",
        "source": bind.source.to_string_lossy(),
        "options": ["rbind", "nosuid", "nodev", "rprivate", access],
    })
}

#[cfg(test)]
mod tests {
    use guest_protocol::GuestOptions;

    use super::*;
    use crate::engine::plan::ContainerRoot;

    fn container(upper: Upper) -> Container {
        Container {
            root: ContainerRoot::View("/run/m/root.sock".into()),
            upper,
            binds: vec![Bind { source: "/home/u/site".into(), target: "/srv".into(), read_only: true, fills: false }],
            volumes: vec!["/var/lib/data".into()],
            has_secrets: true,
            owner: (0, 0),
            init: "/cache/init".into(),
            place: "/run/m".into(),
            check: None,
            host_loopback: false,
            host_network: false,
            hostname: "m".into(),
            options: GuestOptions::default(),
            added_capabilities: 0,
            init_system: false,
            may_be_systemd: false,
            limits: crate::engine::plan::Limits::default(),
        }
    }

    #[test]
    fn the_root_of_a_container_has_podmans_capabilities_and_can_become_other_users() {
        let config = config(&container(Upper::Memory { limit: None }), &Ids::single(None), Groups::None);
        let capabilities = config["process"]["capabilities"]["bounding"].to_string();
        assert!(capabilities.contains("CAP_SETUID") && !capabilities.contains("CAP_SYS_ADMIN"), "{capabilities}");
        assert_eq!(config["process"]["noNewPrivileges"], false);
        assert!(!config["linux"]["namespaces"].to_string().contains("user"), "it is in one already");
        assert_eq!(config["root"]["readonly"], false);
    }

    #[test]
    fn control_groups_are_read_only_unless_they_are_its_own() {
        for (groups, access, descriptors) in
            [(Groups::Seen, Some("ro"), 4), (Groups::Own, Some("rw"), 5), (Groups::None, None, 4)]
        {
            let config = config(&container(Upper::Memory { limit: None }), &Ids::single(None), groups);
            let mounts = config["mounts"].as_array().unwrap();
            let mount = mounts.iter().find(|mount| mount["destination"] == "/sys/fs/cgroup");
            assert_eq!(mount.and_then(|mount| mount["options"].as_array()?.last()?.as_str()), access);
            assert_eq!(config["process"]["args"].as_array().unwrap().len(), 2 + descriptors);
        }
    }

    #[test]
    fn a_container_in_the_hosts_network_sees_the_hosts_sys_without_control_groups() {
        let container = Container { host_network: true, ..container(Upper::Memory { limit: None }) };
        let config = config(&container, &Ids::single(None), Groups::None);
        let mounts = config["mounts"].as_array().unwrap();
        let of = |target: &str| mounts.iter().find(|mount| mount["destination"] == target).unwrap();
        assert_eq!((&of("/sys")["type"], &of("/sys/fs/cgroup")["type"]), (&json!("bind"), &json!("tmpfs")));
        assert!(of("/sys")["options"].to_string().contains("\"ro\""));
    }

    #[test]
    fn shares_come_last_and_a_read_only_root_is_one() {
        let config = config(&container(Upper::Nowhere), &Ids::single(None), Groups::None);
        assert_eq!(config["root"]["readonly"], true);
        let mounts = config["mounts"].as_array().unwrap();
        let last = mounts.last().unwrap();
        assert_eq!((&last["destination"], &last["options"][4]), (&json!("/srv"), &json!("ro")));
        assert!(mounts.iter().any(|mount| mount["destination"] == "/var/lib/data"));
        assert_eq!(config["process"]["args"], json!(["/proc/self/fd/4", "container", "control", "init", "root"]));
    }

    #[test]
    fn what_the_user_asks_for_is_in_the_configuration() {
        let tmpfs = |target: &str| Tmpfs { target: target.into(), options: vec!["size=7".into(), "exec".into()] };
        let options = GuestOptions {
            shm_size: Some(4096),
            sysctls: vec![("kernel/shmmni".into(), "5".into()), ("net/core/somaxconn".into(), "9".into())],
            tmpfs: vec![tmpfs("/srv/cache/deep"), tmpfs("/t")],
            devices: vec![Device { path: "/dev/fuse".into(), also: None }],
            ..GuestOptions::default()
        };
        let added_capabilities = 1 << 12;
        let container = Container { options, added_capabilities, ..container(Upper::Memory { limit: None }) };
        let config = config(&container, &Ids::single(None), Groups::None);
        let mounts = config["mounts"].as_array().unwrap();
        let targets: Vec<&str> = mounts.iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
        assert!(targets.ends_with(&["/srv", "/t", "/srv/cache/deep", "/dev/fuse"]), "{targets:?}");
        let shm = mounts.iter().find(|mount| mount["destination"] == "/dev/shm").unwrap();
        assert!(shm["options"].to_string().contains("size=4096"), "{shm}");
        // The others are set by the stage, whose network namespace it is.
        assert_eq!(config["linux"]["sysctl"], json!({ "kernel.shmmni": "5" }));
        assert!(config["process"]["capabilities"]["effective"].to_string().contains("CAP_NET_ADMIN"));
    }
}
