//! Containers on a host with systemd, which delegates control groups to its users: a VM of ours.

use end_to_end::{Finished, Image, programs, until};

use crate::fixture::{Machines, REFERENCE};

/// The user of the VM who runs containers.
const UID: &str = "1000";

/// A VM with systemd and this build of `lamina`, and a user in it.
struct Host {
    machines: Machines,
}

impl Host {
    fn new() -> Self {
        let machines = Machines::of(Image::Outer);
        let session = &machines.session;
        let shared = session.work("programs");
        let lamina = programs::built("lamina");
        if std::fs::hard_link(&lamina, shared.join("lamina")).is_err() {
            std::fs::copy(&lamina, shared.join("lamina")).unwrap();
        }
        let programs = format!("{}:/programs:ro", shared.display());
        // To import an image takes an emulated processor minutes.
        let store = format!("{}:/store:ro,uid={UID},gid={UID}", session.store().display());
        let options =
            ["--detach", "--name", "host", "--memory", "2G", "--network", "none", "-v", &programs, "-v", &store];
        machines.run(&options, &["/sbin/init"]).succeeded();
        let host = Self { machines };
        let answers = || {
            matches!(
                host.root("systemctl is-system-running").stdout.trim_end(),
                "initializing" | "starting" | "running" | "degraded"
            )
        };
        until("systemd", answers);
        host.root("systemctl is-system-running --wait; chmod 666 /dev/fuse; useradd --create-home --uid 1000 user");
        until("its logind", || host.root("loginctl enable-linger user").status.success());
        let active = format!("systemctl is-active user@{UID}");
        until("the user's service manager", || host.root(&active).stdout == "active\n");
        host
    }

    fn root(&self, script: &str) -> Finished {
        self.machines.session.exec("host", script)
    }

    /// Runs a script as the user. Its `lamina` has the session's store as an additional one.
    fn user(&self, script: &str) -> Finished {
        let environment = ["HOME=/home/user", "XDG_RUNTIME_DIR=/run/user/1000", "LAMINA_ADDITIONAL_STORES=/store"];
        let variables = environment.iter().flat_map(|variable| ["-e", variable]);
        let become_user = ["exec", "-u", UID, "-w", "/home/user"].into_iter().chain(variables);
        let script = format!("export PATH=/programs:$PATH; {script}");
        self.machines.session.run(become_user.chain(["host", "--", "/bin/sh", "-c", &script]))
    }
}

#[test]
fn limits_hold_and_systemd_runs_in_a_container_where_control_groups_are_delegated() {
    let host = Host::new();
    let run = "lamina run --engine container --network none";
    // The scope of a container that runs, and what it says.
    let limited = "--memory 64M --cpus 0.5 --pids-limit 100 --detach --name limited";
    host.user(&format!("{run} {limited} {REFERENCE} -- sleep 1000")).succeeded();
    let group = "for process in /proc/[0-9]*; do
            [ \"$(tr '\\0' ' ' < $process/cmdline)\" = 'sleep 1000 ' ] && cd /sys/fs/cgroup$(cut -d: -f3- $process/cgroup)
        done 2>/dev/null; echo $(cat memory.max cpu.max pids.max)";
    assert_eq!(host.root(group).succeeded().stdout, "67108864 50000 100000 132\n");
    // Programs in it find them, and cannot change them.
    let seen = host.user("lamina exec limited -- sh -c 'cd /sys/fs/cgroup; cat memory.max; echo 1 > memory.max'");
    assert_eq!(seen.stdout, "67108864\n", "{seen}");
    assert!(seen.stderr.contains("Read-only file system"), "{seen}");
    // They hold: what needs more memory is killed, and the container goes on.
    let greedy = host.user("lamina exec limited -- sh -c 'exec tail /dev/zero'");
    assert_eq!(greedy.status.code(), Some(137), "{greedy}");
    let forks = host.user("lamina exec limited -- sh -c 'for n in $(seq 200); do sleep 100 & done'");
    assert!(forks.stderr.contains("fork"), "{forks}");
    host.user("lamina rm --force limited").succeeded();
    let none = host.user(&format!("{run} {REFERENCE} -- echo ran")).succeeded();
    assert_eq!((none.stdout.as_str(), none.stderr.as_str()), ("ran\n", ""), "{none}");

    // systemd is process 1, makes groups for its services, limits them, and is asked to stop by its own signal.
    host.user(&format!("{run} --memory 512M --detach --name system {REFERENCE} -- /sbin/init")).succeeded();
    let inside = |script: &str| host.user(&format!("lamina exec system -- sh -c '{script}'"));
    until("systemd in the container", || inside("test -S /run/systemd/private").status.success());
    let state = inside("systemctl is-system-running --wait");
    assert!(["running\n", "degraded\n"].contains(&state.stdout.as_str()), "{state}");
    let seen = inside(
        "cat /proc/1/comm; systemctl is-active dbus
        systemd-run --quiet --wait --pipe --property=MemoryMax=64M sh -c \"cat /proc/self/cgroup; cat /sys/fs/cgroup\\$(cut -d: -f3- /proc/self/cgroup)/memory.max\"
        test -e /sys/fs/cgroup/memory.max || echo the root of its groups",
    );
    let lines: Vec<&str> = seen.stdout.lines().collect();
    let [first, bus, group, limit, ..] = lines[..] else { panic!("{seen}") };
    assert_eq!((first, bus, limit), ("systemd", "active", "67108864"), "{seen}");
    assert!(group.starts_with("0::/system.slice/run-"), "{seen}");
    host.user("lamina stop system").succeeded();
    assert_eq!(host.user("lamina wait system").stdout, "0\n");
    host.user("lamina rm system").succeeded();
    let left = host.root("find /sys/fs/cgroup/user.slice -name 'run-*.scope'");
    assert_eq!(left.stdout, "", "{left}");

    let session = &host.machines.session;
    session.ok(["rm", "--force", "host"]);
    session.traces().assert_nothing_left();
}
