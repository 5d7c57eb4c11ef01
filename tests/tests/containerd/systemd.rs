//! The snapshotter as a service of systemd, on a host that is restarted: a VM of ours with the units of the package, and
//! the containerd of this host.

use std::path::Path;
use std::sync::OnceLock;

use end_to_end::layout::Layer;
use end_to_end::programs::{built, installed};
use end_to_end::{Engine, Finished, Image, Layout, Session, until};

use super::fixture::{containerd_program, is_version_2, programs};

const REFERENCE: &str = "lamina.test/outer:1";

/// Where the layers are in the VM.
const LAYERS: &str = "/var/lib/lamina-containerd/store/layers/sha256";

/// Makes the host: overlayfs cannot write to a directory that is on overlayfs, as the root of the VM is, so what containers
/// write is on a file system of its own. That and the store are written to the disk when something is synced, and at no other
/// time.
const SET_UP: &str = r#"set -e
modprobe loop; modprobe fuse; modprobe overlay || true
printf 'loop\nfuse\n' > /etc/modules-load.d/test.conf
truncate -s 100M /var/disk && mkfs.ext4 -q /var/disk
mkdir -p /var/lib/lamina-containerd
echo '/var/disk /var/lib/lamina-containerd ext4 loop,commit=3600 0 0' >> /etc/fstab
ln -s /programs/lamina-containerd /programs/containerd /programs/containerd-shim-runc-v2 /programs/ctr /usr/bin/
mkdir -p /etc/containerd && cp /programs/config.toml /etc/containerd/
mount /var/lib/lamina-containerd
mkdir -p /var/lib/lamina-containerd/store /root/.local/share && ln -s /var/lib/lamina-containerd/store /root/.local/share/lamina
systemctl enable --quiet --now lamina-containerd.socket lamina-containerd containerd
sync
"#;

/// What is asked of a container, and of new ones. Their numbers differ, because the names of containers and of commands in
/// them are used once. `ctr task exec` may end before it has printed everything, so the shim writes to a file. What the kernel
/// has in memory is dropped before a container reads. crun is smaller than runc: an emulated processor starts it in less time.
const CALLS: &str = r#"set -e
answer() { until ctr snapshot --snapshotter lamina ls > /dev/null 2>&1; do sleep 0.2; done; }
run() { ctr run --runc-binary $RUNTIME --snapshotter lamina "$@"; }
look() {
    echo 3 > /proc/sys/vm/drop_caches
    ctr task exec --exec-id look$1 --log-uri file:///run/look$1 a /bin/sh -c "tail -c 4 /large; cat /etc/layer; $2 echo ok"
    until grep -q '^ok$' /run/look$1; do sleep 0.2; done
    grep -v '^ok$' /run/look$1
}
new() { run --rm test.test/one:1 new$1 /bin/sh -c 'tail -c 4 /large; cat /etc/layer'; }
"#;

/// One container lives through a restart, a crash and an end of the service, and reads and writes while it does not run. The
/// last calls are followed by the power cut, and nothing is written to the disk in between.
const BEFORE: &str = r#"
echo 0 > /proc/sys/vm/dirty_writeback_centisecs
ctr image import LOCAL --snapshotter lamina --index-name test.test/one:1 /programs/image.tar > /dev/null
run --detach --null-io test.test/one:1 a /bin/sleep 100000
systemctl restart lamina-containerd
echo restarted; answer
systemctl kill --kill-who=main --signal=KILL lamina-containerd
echo killed; answer; new 1
systemctl stop lamina-containerd.socket lamina-containerd
echo stopped; look 1 'echo written > /etc/layer; sync /etc/layer;'
systemctl start lamina-containerd.socket lamina-containerd
echo started; answer
ctr snapshot --snapshotter lamina prepare made CHAIN
ctr snapshot --snapshotter lamina commit committed made
ctr snapshot --snapshotter lamina prepare prepared committed
"#;

const AFTER: &str = r#"
systemctl is-active lamina-containerd containerd
ctr snapshot --snapshotter lamina ls | tail -n +2 | sed 's/  */ /g; s/ $//' | sort
new 2
ctr task start --detach --null-io a
echo again; look 2
ctr task rm --force a > /dev/null; ctr container rm a
ctr snapshot --snapshotter lamina rm prepared
ctr snapshot --snapshotter lamina rm committed
ctr image rm --sync $(ctr image ls --quiet) > /dev/null
"#;

/// Units of Debian that no container needs. Each takes an emulated processor a while.
const MASKED: [&str; 12] = [
    "dbus.service",
    "dbus.socket",
    "getty.target",
    "ldconfig.service",
    "systemd-firstboot.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-user-sessions.service",
];

struct Host(Session);

impl Host {
    fn new() -> Self {
        let session = Session::user();
        session.import(&Image::Outer.layout(), REFERENCE);
        let shared = session.work("programs");
        for name in ["containerd", "containerd-shim-runc-v2", "ctr"] {
            std::fs::copy(containerd_program(name), shared.join(name)).unwrap();
        }
        std::fs::copy(installed("runc"), shared.join("runc")).unwrap();
        std::fs::copy(built("lamina-containerd"), shared.join("lamina-containerd")).unwrap();
        let units =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").join("scripts/package-parts");
        let provided = session.work("units");
        for unit in ["lamina-containerd.service", "lamina-containerd.socket"] {
            std::fs::copy(units.join(unit), provided.join(unit)).unwrap();
        }
        std::fs::copy("/lib/systemd/system/containerd.service", provided.join("containerd.service")).unwrap();
        for unit in MASKED {
            std::os::unix::fs::symlink("/dev/null", provided.join(unit)).unwrap();
        }
        std::fs::write(shared.join("config.toml"), configuration()).unwrap();
        archive(Layout::of(&[small_base()]).path(), &shared.join("image.tar"));
        let share = |from: &Path, to: &str| format!("{}:{to}:ro", from.display());
        let shares = [
            share(&shared, "/programs"),
            share(&provided, "/usr/local/lib/systemd/system"),
            share(Path::new("/lib/modules"), "/lib/modules"),
        ];
        let shares: Vec<&str> = shares.iter().flat_map(|share| ["-v", share]).collect();
        let machine = ["--detach", "--keep=600M", "--name", "host", "--memory", "1G", "--network", "none"];
        let run = [&["run"], Engine::Qemu.options(), &machine, &shares, &[REFERENCE, "--", "/sbin/init"]].concat();
        session.run(run).succeeded();
        let host = Self(session);
        host.await_systemd();
        host
    }

    fn await_systemd(&self) {
        let answers = || {
            matches!(
                self.run("systemctl is-system-running").stdout.trim_end(),
                "initializing" | "starting" | "running" | "degraded"
            )
        };
        until("systemd", answers);
    }

    fn run(&self, script: &str) -> Finished {
        self.0.exec("host", script)
    }

    /// Runs a script once containerd answers. Returns its output.
    fn calls(&self, script: &str) -> String {
        until("containerd", || self.run("ctr snapshot --snapshotter lamina ls").status.success());
        // containerd 2 writes a configuration that Debian's crun is too old for.
        let runtime = if is_version_2() { "/programs/runc" } else { "/usr/bin/crun" };
        let finished = self.run(&format!("RUNTIME={runtime}\n{CALLS}{script}"));
        if !finished.status.success() {
            let log = self.run("journalctl --no-pager -u lamina-containerd -u containerd | tail -60").stdout;
            panic!("{finished}\n{log}");
        }
        finished.stdout
    }

    /// The identity that the kernel gives itself at each boot.
    fn boot(&self) -> String {
        self.run("cat /proc/sys/kernel/random/boot_id").succeeded().stdout
    }
}

/// What the README says, without the plug-in for Kubernetes.
fn configuration() -> String {
    let version = if is_version_2() { 3 } else { 2 };
    format!(
        "version = {version}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[proxy_plugins.lamina]\n\
         type = \"snapshot\"\naddress = \"/run/lamina-containerd/lamina.sock\"\n"
    )
}

/// The programs of a container, and a file that is longer than what the kernel reads ahead.
fn small_base() -> Layer {
    static BASE: OnceLock<Layer> = OnceLock::new();
    BASE.get_or_init(|| programs("sh cat sleep tail sync", 1 << 20)).clone()
}

/// Makes an archive of a layout.
fn archive(layout: &Path, to: &Path) {
    let mut tar = std::process::Command::new(installed("tar"));
    Finished::of(tar.arg("-C").arg(layout).arg("-cf").arg(to).arg(".")).succeeded();
}

#[test]
fn containers_live_through_restarts_of_the_service_and_start_again_after_a_power_cut() {
    let host = Host::new();
    host.run(SET_UP).succeeded();
    let boot = host.boot();
    let chain = small_base().diff_id();
    // As in `Node::ctr_pull`.
    let local = if is_version_2() { "--local" } else { "" };
    let seen = host.calls(&BEFORE.replace("CHAIN", &chain).replace("LOCAL", local));
    host.0.ok(["kill", "host"]);
    let base = "end\nbase\n";
    assert_eq!(seen, format!("restarted\nkilled\n{base}stopped\n{base}started\n"));
    host.0.ok(["wait", "host"]);
    host.0.ok(["start", "host"]);
    host.await_systemd();
    assert_ne!(host.boot(), boot);
    let snapshots =
        format!("a {chain} Active\ncommitted {chain} Committed\nprepared committed Active\n{chain} Committed\n");
    assert_eq!(host.calls(AFTER), format!("active\nactive\n{snapshots}{base}again\nend\nwritten\n"));
    until("the layers to be freed", || host.run(&format!("ls {LAYERS}")).succeeded().stdout.is_empty());
    assert!(!host.run("cat /proc/mounts").stdout.contains("fuse.lamina"), "views");
    host.0.ok(["rm", "--force", "host"]);
    host.0.traces().assert_nothing_left();
}
