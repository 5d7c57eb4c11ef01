//! The snapshotter as a service of systemd, on a host that is restarted: a VM of ours with the units of the package, and
//! the containerd and runc of this host.

use std::path::Path;

use end_to_end::programs::{built, installed};
use end_to_end::{Engine, Finished, Image, Layout, Session, until};

use super::fixture::{base, containerd_program};

const REFERENCE: &str = "lamina.test/outer:1";

/// Makes the host: overlayfs cannot write to a directory that is on overlayfs, as the root of the VM is, so what containers
/// write is on a file system of its own.
const SET_UP: &str = r#"set -e
modprobe loop; modprobe fuse; modprobe overlay || true
printf 'loop\nfuse\n' > /etc/modules-load.d/test.conf
truncate -s 200M /var/disk && mkfs.ext4 -q /var/disk
mkdir -p /var/lib/lamina-containerd
echo '/var/disk /var/lib/lamina-containerd ext4 loop 0 0' >> /etc/fstab
for name in lamina-containerd containerd containerd-shim-runc-v2 ctr runc; do ln -s /programs/$name /usr/bin/$name; done
cp /programs/*.service /programs/*.socket /etc/systemd/system/
mkdir -p /etc/containerd && cp /programs/config.toml /etc/containerd/
systemctl daemon-reload
mount /var/lib/lamina-containerd
systemctl enable --quiet --now lamina-containerd.socket lamina-containerd containerd
"#;

/// What is asked of a container, and of new ones. Their numbers differ, because the names of containers and of commands in
/// them are used once. `ctr task exec` may end before it has printed everything, so the shim writes to a file.
const CALLS: &str = r#"set -e
answer() { until ctr snapshot --snapshotter lamina ls > /dev/null 2>&1; do sleep 1; done; }
look() {
    ctr task exec --exec-id look$1 --log-uri file:///run/look$1 a /bin/sh -c 'tail -c 4 /large; cat /etc/layer; echo ok'
    until grep -q '^ok$' /run/look$1; do sleep 1; done
    grep -v '^ok$' /run/look$1
}
new() { ctr run --rm --snapshotter lamina test.test/one:1 new$1 /bin/sh -c 'tail -c 4 /large; cat /etc/layer'; }
"#;

const BEFORE: &str = r#"
ctr image import --snapshotter lamina --index-name test.test/one:1 /programs/image.tar > /dev/null
ctr run --detach --null-io --snapshotter lamina test.test/one:1 a /bin/sleep 100000
echo began; look 1
systemctl restart lamina-containerd
echo restarted; look 2; answer; new 1
systemctl kill --kill-who=main --signal=KILL lamina-containerd
echo killed; look 3; answer; new 2
systemctl stop lamina-containerd.socket lamina-containerd
echo stopped; look 4
systemctl start lamina-containerd.socket lamina-containerd
ctr task exec --exec-id write a /bin/sh -c 'echo written > /etc/layer'
echo started; look 5; answer; new 3
sync
"#;

const AFTER: &str = r#"
systemctl is-active lamina-containerd containerd
new 4
ctr task start --detach --null-io a
echo again; look 6
ctr task rm --force a > /dev/null; ctr container rm a
ctr image rm --sync test.test/one:1 > /dev/null
"#;

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
        for unit in ["lamina-containerd.service", "lamina-containerd.socket"] {
            std::fs::copy(units.join(unit), shared.join(unit)).unwrap();
        }
        std::fs::copy("/lib/systemd/system/containerd.service", shared.join("containerd.service")).unwrap();
        std::fs::write(shared.join("config.toml"), configuration()).unwrap();
        archive(Layout::of(&[base()]).path(), &shared.join("image.tar"));
        let share = |from: &Path, to: &str| format!("{}:{to}:ro", from.display());
        let shares = [share(&shared, "/programs"), share(Path::new("/lib/modules"), "/lib/modules")];
        let machine = ["--detach", "--keep=600M", "--name", "host", "--memory", "1G", "--network", "none"];
        let shared = ["-v", &shares[0], "-v", &shares[1], REFERENCE, "--", "/sbin/init"];
        let run = [&["run"], Engine::Qemu.options(), &machine, &shared].concat();
        session.run(run).succeeded();
        let host = Self(session);
        host.await_boot();
        host
    }

    fn await_boot(&self) {
        let answers = || {
            matches!(
                self.run("systemctl is-system-running").stdout.trim_end(),
                "initializing" | "starting" | "running" | "degraded"
            )
        };
        until("systemd", answers);
        self.run("systemctl is-system-running --wait");
    }

    fn run(&self, script: &str) -> Finished {
        self.0.exec("host", script)
    }

    /// Runs a script once containerd answers. Returns its output.
    fn calls(&self, script: &str) -> String {
        until("containerd", || self.run("ctr snapshot --snapshotter lamina ls").status.success());
        let finished = self.run(&format!("{CALLS}{script}"));
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
fn configuration() -> &'static str {
    "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[proxy_plugins.lamina]\ntype = \"snapshot\"\n\
     address = \"/run/lamina-containerd/lamina.sock\"\n"
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
    let seen = host.calls(BEFORE);
    let (base, written) = ("end\nbase\n", "end\nwritten\n");
    let expected =
        format!("began\n{base}restarted\n{base}{base}killed\n{base}{base}stopped\n{base}started\n{written}{base}");
    assert_eq!(seen, expected);
    let boot = host.boot();
    host.0.ok(["kill", "host"]);
    host.0.ok(["wait", "host"]);
    host.0.ok(["start", "host"]);
    host.await_boot();
    assert_ne!(host.boot(), boot);
    assert_eq!(host.calls(AFTER), format!("active\nactive\n{base}again\n{written}"));
    until("the views to be unmounted", || !host.run("cat /proc/mounts").stdout.contains("fuse.lamina"));
    host.0.ok(["rm", "--force", "host"]);
    host.0.traces().assert_nothing_left();
}
