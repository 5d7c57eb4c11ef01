//! Containers on a host with systemd, which delegates control groups to its users: a VM of ours.

use end_to_end::{Image, programs, until};

use crate::fixture::{Machines, REFERENCE};

/// The user of the VM whose containers are limited.
const UID: &str = "1000";

#[test]
fn limits_of_a_container_hold_where_systemd_delegates_control_groups() {
    let machines = Machines::of(Image::Outer);
    let session = &machines.session;
    let shared = session.work("programs");
    let lamina = programs::built("lamina");
    if std::fs::hard_link(&lamina, shared.join("lamina")).is_err() {
        std::fs::copy(&lamina, shared.join("lamina")).unwrap();
    }
    let programs = format!("{}:/programs:ro", shared.display());
    let image = format!("{}:/image:ro", Image::Debian.layout().display());
    let options = ["--detach", "--name", "host", "--memory", "2G", "--network", "none", "-v", &programs, "-v", &image];
    machines.run(&options, &["/sbin/init"]).succeeded();
    let root = |script: &str| session.exec("host", script);
    until("systemd", || root("systemctl is-system-running --wait").stdout.trim_end() != "");
    root("chmod 666 /dev/fuse; useradd --create-home --uid 1000 user && loginctl enable-linger user").succeeded();
    until("the user's service manager", || root(&format!("systemctl is-active user@{UID}")).stdout == "active\n");

    let user = |script: &str| {
        let become_user =
            ["exec", "-u", UID, "-w", "/home/user", "-e", "HOME=/home/user", "-e", "XDG_RUNTIME_DIR=/run/user/1000"];
        session.run(become_user.iter().chain(&["host", "--", "/bin/sh", "-c", script]))
    };
    let run = "/programs/lamina run --engine container --network none";
    user(&format!("/programs/lamina import /image --tag {REFERENCE}")).succeeded();
    // The scope of a container that runs, and what it says.
    let limited = "--memory 64M --cpus 0.5 --pids-limit 100 --detach --name limited";
    user(&format!("{run} {limited} {REFERENCE} -- sleep 1000")).succeeded();
    let group = "for process in /proc/[0-9]*; do
            [ \"$(tr '\\0' ' ' < $process/cmdline)\" = 'sleep 1000 ' ] && cd /sys/fs/cgroup$(cut -d: -f3- $process/cgroup)
        done 2>/dev/null; echo $(cat memory.max cpu.max pids.max)";
    assert_eq!(root(group).succeeded().stdout, "67108864 50000 100000 132\n");
    // They hold: what needs more memory is killed, and the container goes on.
    let greedy = user("/programs/lamina exec limited -- sh -c 'exec tail /dev/zero'");
    assert_eq!(greedy.status.code(), Some(137), "{greedy}");
    let forks = user("/programs/lamina exec limited -- sh -c 'for n in $(seq 200); do sleep 100 & done'");
    assert!(forks.stderr.contains("fork"), "{forks}");
    user("/programs/lamina rm --force limited").succeeded();
    let none = user(&format!("{run} {REFERENCE} -- echo ran")).succeeded();
    assert_eq!((none.stdout.as_str(), none.stderr.as_str()), ("ran\n", ""), "{none}");
    session.ok(["rm", "--force", "host"]);
    session.traces().assert_nothing_left();
}
