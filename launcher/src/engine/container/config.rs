//! The configuration of a container as an OCI runtime reads it (`config.md` of the OCI runtime specification). The
//! defaults are podman's.

use serde_json::{Value, json};

use super::ids::Ids;
use super::seccomp;
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

const READ_ONLY: [&str; 6] = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The descriptors that the container's init inherits from number 3 on, by what it is told about each.
pub(super) fn descriptors(container: &Container) -> &'static [&'static str] {
    match container.upper {
        Upper::Nowhere => &["control", "init", "root"],
        _ => &["control", "init", "writes", "lower"],
    }
}

/// The number of the descriptor of init's own program.
const INIT: u32 = 4;

/// Returns the configuration of `container`, whose root is the directory `root` beside its bundle.
pub(super) fn config(name: &str, container: &Container, ids: &Ids) -> Value {
    let program = format!("/proc/self/fd/{INIT}");
    let args: Vec<&str> = [program.as_str(), "container"].into_iter().chain(descriptors(container).to_vec()).collect();
    let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": "../root", "readonly": container.upper == Upper::Nowhere },
        "hostname": name,
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "noNewPrivileges": false,
            "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
        },
        "mounts": mounts(container, ids),
        "linux": {
            "namespaces": namespaces,
            "seccomp": seccomp::filter(&CAPABILITIES),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    })
}

fn mounts(container: &Container, ids: &Ids) -> Vec<Value> {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !ids.is_single() {
        terminals.push("gid=5");
    }
    let memory = ["nosuid", "noexec", "nodev", "mode=1777"];
    let mut all = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &terminals),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", &memory),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    if container.has_secrets {
        all.push(mount("/run/secrets", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755"]));
    }
    // What the image has in a volume is copied there.
    all.extend(container.volumes.iter().map(|volume| {
        let target = format!("/{}", volume.trim_start_matches('/'));
        mount(&target, "tmpfs", &["nosuid", "nodev", "tmpcopyup", "mode=755"])
    }));
    all.extend(container.binds.iter().map(bind));
    all
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
    use super::*;
    use crate::engine::plan::ContainerRoot;

    fn container(upper: Upper) -> Container {
        Container {
            root: ContainerRoot::View("/run/m/root.sock".into()),
            upper,
            binds: vec![Bind { source: "/home/u/site".into(), target: "/srv".into(), read_only: true }],
            volumes: vec!["/var/lib/data".into()],
            has_secrets: true,
            owner: (0, 0),
            init: "/cache/init".into(),
            place: "/run/m".into(),
            check: None,
            host_loopback: false,
        }
    }

    #[test]
    fn the_root_of_a_container_has_podmans_capabilities_and_can_become_other_users() {
        let config = config("m", &container(Upper::Memory { limit: None }), &Ids::single());
        let capabilities = config["process"]["capabilities"]["bounding"].to_string();
        assert!(capabilities.contains("CAP_SETUID") && !capabilities.contains("CAP_SYS_ADMIN"), "{capabilities}");
        assert_eq!(config["process"]["noNewPrivileges"], false);
        assert!(!config["linux"]["namespaces"].to_string().contains("user"), "it is in one already");
        assert_eq!(config["root"]["readonly"], false);
    }

    #[test]
    fn shares_come_last_and_a_read_only_root_is_one() {
        let config = config("m", &container(Upper::Nowhere), &Ids::single());
        assert_eq!(config["root"]["readonly"], true);
        let mounts = config["mounts"].as_array().unwrap();
        let last = mounts.last().unwrap();
        assert_eq!((&last["destination"], &last["options"][4]), (&json!("/srv"), &json!("ro")));
        assert!(mounts.iter().any(|mount| mount["destination"] == "/var/lib/data"));
        assert_eq!(config["process"]["args"], json!(["/proc/self/fd/4", "container", "control", "init", "root"]));
    }
}
