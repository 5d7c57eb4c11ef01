//! What programs expect because containers have it: streams, names, limits, and a root that is one file system.

use end_to_end::layout::Layer;
use end_to_end::{Engine, Image, on_engines, until};
use serde_json::json;

use crate::fixture::Machines;

on_engines! {
    [qemu container]: what_init_could_not_set_up_is_told_and_the_command_runs;
    with_kernel: inodes_of_a_kept_machine_are_the_same_after_a_new_start;
    every:
        command_of_any_user_can_open_its_streams_by_name,
        signal_goes_to_the_command_and_not_to_its_children;
}

fn command_of_any_user_can_open_its_streams_by_name(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let script = "echo out > /dev/stdout; echo err > /dev/stderr; cat /dev/stdin; echo fd >> /proc/self/fd/1";
    let run = machines.run(&["-u", "1000:1000", "--network", "none"], &["sh", "-c", script]).succeeded();
    assert_eq!((run.stdout.as_str(), run.stderr.contains("denied")), ("out\nfd\n", false), "{run}");
    assert!(run.stderr.ends_with("err\n"), "{run}");
    machines.sleeper("m", &["--network", "none"]);
    for user in ["1000:1000", "daemon", "0:0"] {
        let exec = machines.session.run(["exec", "-u", user, "m", "--", "sh", "-c", script]).succeeded();
        assert_eq!((exec.stdout.as_str(), exec.stderr.as_str()), ("out\nfd\n", "err\n"), "{exec}");
    }
    // A server that gives up root after its start, as nginx does.
    let dropped =
        "setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'echo out > /dev/stdout; echo err > /dev/stderr'";
    let exec = machines.session.exec("m", dropped).succeeded();
    assert_eq!((exec.stdout.as_str(), exec.stderr.as_str()), ("out\n", "err\n"), "{exec}");
    machines.session.ok(["rm", "--force", "m"]);
}

/// One device for all of the root; the same inode before and after a file is copied up, and after the caches are dropped.
const ONE_FILE_SYSTEM: &str = r#"
tops=$(echo /* | tr ' ' '\n' | grep -vE '^/(proc|sys|dev)$')
find $tops -xdev -printf '%D\n' | sort -u | wc -l
[ "$(du -sx /usr | cut -f1)" = "$(du -s /usr | cut -f1)" ] && echo same size
before=$(stat -c %i /etc/debian_version); echo changed >> /etc/debian_version; after=$(stat -c %i /etc/debian_version)
[ "$before" = "$after" ] && echo same inode
find $tops -xdev -type f -links 1 -printf '%i\n' | sort | uniq -d | wc -l
"#;

#[test]
fn root_is_one_file_system_under_every_backend_and_with_a_disk() {
    let machines = Machines::of(Image::Debian);
    for options in [
        &["--backend", "direct"][..],
        &["--backend", "virtiofsd"],
        &["--backend", "block"],
        &["--backend", "materialize"],
        &["--keep=300M", "--name", "kept"],
    ] {
        let options: Vec<&str> = options.iter().chain(&["--network", "none"]).copied().collect();
        let seen = machines.run(&options, &["sh", "-c", ONE_FILE_SYSTEM]).succeeded();
        assert_eq!(seen.stdout, "1\nsame size\nsame inode\n0\n", "{options:?}: {seen}");
    }
    machines.session.ok(["rm", "kept"]);
}

fn inodes_of_a_kept_machine_are_the_same_after_a_new_start(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let script = "echo x >> /etc/debian_version; [ -e /srv/new ] || echo x > /srv/new; \
                  stat -c %i /usr/bin/perl /etc/debian_version /srv/new /etc";
    let inodes = |output: String| output.lines().map(str::to_owned).collect::<Vec<_>>();
    let first = machines.run(&["--keep=300M", "--name", "m", "--network", "none"], &["sh", "-c", script]);
    let again = machines.session.run(["start", "--attach", "m"]);
    let (first, again) = (inodes(first.succeeded().stdout), inodes(again.succeeded().stdout));
    assert_eq!(first, again);
    machines.session.ok(["rm", "m"]);
}

#[test]
fn name_of_a_machine_resolves_in_it_whatever_its_image_has_in_etc() {
    let script = "hostname; cat /etc/hostname; getent hosts $(hostname) | cut -d' ' -f1; \
                  getent hosts other | cut -d' ' -f1; grep -c '^127.0.0.1[[:space:]]localhost' /etc/hosts; \
                  readlink /etc/mtab; test -L /etc/hosts || echo a file";
    for (made, other) in [
        (
            "mkdir etc; printf '127.0.0.1\\tlocalhost\\n10.9.9.9 other\\n' > etc/hosts; echo builder > etc/hostname",
            "10.9.9.9\n",
        ),
        (
            "mkdir -p etc opt; echo 10.9.9.9 other > opt/hosts; ln -s /opt/hosts etc/hosts; ln -s /gone etc/hostname",
            "10.9.9.9\n",
        ),
        ("mkdir etc; : > etc/hosts", ""),
    ] {
        let machines = Machines::with_config(Engine::Qemu, &[Layer::of_script(made)], &json!({}));
        for (network, address) in [("none", "127.0.1.1"), ("slirp", "10.0.2.15")] {
            let seen = machines.run(&["--network", network, "--name", "myhost"], &["sh", "-c", script]).succeeded();
            let expected = format!("myhost\nmyhost\n{address}\n{other}1\n/proc/self/mounts\na file\n");
            assert_eq!(seen.stdout, expected, "{made}: {seen}");
        }
        // None of it is a change that the user made.
        let name = "m";
        machines.sleeper(name, &["--network", "none"]);
        assert_eq!(machines.session.ok(["diff", name]), "");
        machines.session.ok(["rm", "--force", name]);
    }
}

fn what_init_could_not_set_up_is_told_and_the_command_runs(engine: Engine) {
    let made = "mkdir -p etc/hosts etc/resolv.conf";
    let machines = Machines::with_config(engine, &[Layer::of_script(made)], &json!({}));
    // With a network comes a name server.
    let finished = machines.run(&["--network", "passt"], &["echo", "ran"]).succeeded();
    assert_eq!(finished.stdout, "ran\n", "{finished}");
    for path in ["/etc/hosts", "/etc/resolv.conf"] {
        let told = format!("could not be set up: {path}: cannot write it: Is a directory");
        assert!(finished.stderr.contains(&told), "{finished}");
    }
    machines.session.traces().assert_nothing_left();
}

fn signal_goes_to_the_command_and_not_to_its_children(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let script = "sh -c 'trap \"echo child\" USR1 TERM; while :; do sleep 0.1; done' & \
                  trap 'echo command' USR1; trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    machines.detach("m", &["--network", "none"], script).status().unwrap();
    let logs = || machines.session.ok(["logs", "m"]);
    until("the traps", || logs() == "up\n");
    machines.session.ok(["kill", "--signal", "USR1", "m"]);
    until("the signal", || logs() == "up\ncommand\n");
    machines.session.ok(["stop", "m"]);
    assert_eq!(machines.session.ok(["wait", "m"]), "0\n");
    assert_eq!(logs(), "up\ncommand\nbye\n");
    machines.session.ok(["rm", "m"]);
}

/// What a process of a machine finds, next to what it finds in a container of Docker 29 and of Podman 5 on a host with
/// systemd (`docs.docker.com/reference/cli/docker/container/run`, containers.conf(5), and the sources of both).
const DEFAULTS: [(&str, &str, &str, &str); 25] = [
    // What to look at, Docker, Podman, here.
    ("sysctl net.ipv4.ip_unprivileged_port_start", "0", "0", "0"),
    ("sysctl net.ipv4.ping_group_range", "0 2147483647", "0 0", "0 2147483647"),
    ("sysctl fs.protected_hardlinks", "1", "1", "1"),
    ("sysctl fs.protected_symlinks", "1", "1", "1"),
    ("sysctl kernel.pid_max", "4194304", "4194304", "4194304"),
    ("ulimit -Sn", "1024", "1048576", "1024"),
    ("ulimit -Hn", "524288", "1048576", "1048576"),
    ("ulimit -Su", "unlimited", "4194304", "unlimited"),
    ("ulimit -Sc", "unlimited", "0", "0"),
    ("ulimit -Hc", "unlimited", "unlimited", "unlimited"),
    ("ulimit -Ss", "8192", "8192", "8192"),
    ("ulimit -Sl", "8192", "8192", "8192"),
    ("umask", "0022", "0022", "0022"),
    ("signals", "0000000000000000", "0000000000000000", "0000000000000000"),
    ("mount /dev/shm", "tmpfs nosuid,nodev,noexec", "tmpfs nosuid,nodev,noexec", "tmpfs nosuid,nodev,noexec"),
    ("mount /dev/pts", "devpts nosuid,noexec", "devpts nosuid,noexec", "devpts nosuid,noexec"),
    ("mount /dev/mqueue", "mqueue nosuid,nodev,noexec", "mqueue nosuid,nodev,noexec", "mqueue nosuid,nodev,noexec"),
    (
        "mount /sys/fs/cgroup",
        "cgroup2 nosuid,nodev,noexec",
        "cgroup2 nosuid,nodev,noexec",
        "cgroup2 nosuid,nodev,noexec",
    ),
    ("mount /proc", "proc nosuid,nodev,noexec", "proc nosuid,nodev,noexec", "proc nosuid,nodev,noexec"),
    ("device null", "666 1:3", "666 1:3", "666 1:3"),
    ("device zero", "666 1:5", "666 1:5", "666 1:5"),
    ("device full", "666 1:7", "666 1:7", "666 1:7"),
    ("device random", "666 1:8", "666 1:8", "666 1:8"),
    ("device urandom", "666 1:9", "666 1:9", "666 1:9"),
    ("device tty", "666 5:0", "666 5:0", "666 5:0"),
];

/// Prints what each line of the table looks at.
const LOOK: &str = r#"
while read -r what name; do case $what in
  sysctl) tr '\t' ' ' < /proc/sys/$(echo $name | tr . /) ;;
  ulimit) ulimit $name ;;
  umask) umask ;;
  signals) sed -n 's/^SigIgn:\t//p' /proc/self/status ;;
  mount) while read -r _ at kind options _; do [ $at = $name ] && for option in $options; do
      flags=; for flag in nosuid nodev noexec; do case ,$option, in *,$flag,*) flags=$flags,$flag ;; esac; done
      echo $kind ${flags#,}; done; done < /proc/self/mounts ;;
  device) stat -c '%a %Hr:%Lr' /dev/$name ;;
esac; done
"#;

#[test]
fn defaults_of_a_machine_are_those_of_a_container() {
    let machines = Machines::of(Image::Debian);
    let questions: String = DEFAULTS.iter().map(|(what, ..)| format!("{what}\n")).collect();
    let script = format!("bash -c '{}' <<'END'\n{questions}END\n", LOOK.replace('\'', "'\\''"));
    let seen = machines.run(&["--network", "none"], &["sh", "-c", &script]).succeeded();
    let expected: Vec<String> = DEFAULTS.iter().map(|(what, _, _, here)| format!("{what}: {here}")).collect();
    let found: Vec<String> =
        DEFAULTS.iter().zip(seen.stdout.lines()).map(|((what, ..), line)| format!("{what}: {line}")).collect();
    assert_eq!(found, expected, "{seen}");
    // Lamina may differ from one of the two, but not from both.
    let differ = DEFAULTS.iter().filter(|(_, docker, podman, here)| here != docker && here != podman);
    assert_eq!(differ.count(), 0);
    let links = machines.run(&["--network", "none"], &["sh", "-c", "cd /dev; readlink fd stdin stdout stderr core"]);
    assert_eq!(links.succeeded().stdout, "/proc/self/fd\nfd/0\nfd/1\nfd/2\n/proc/kcore\n");
}
