//! What the options of docker's users do in a guest.

use end_to_end::Image;

use crate::fixture::Machines;

#[test]
fn options_about_the_guest_and_its_command_hold_in_the_guest() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    let options = [
        "--network",
        "none",
        "--hostname",
        "box",
        "--add-host",
        "db:192.0.2.7",
        "--shm-size",
        "3m",
        "--tmpfs",
        "/scratch:size=2m,exec",
        "--ulimit",
        "nofile=77:88",
        "--sysctl",
        "net.core.somaxconn=99",
        "--cap-drop",
        "ALL",
        "--cap-add",
        "CHOWN",
        "--group-add",
        "4242",
        "--device",
        "/dev/null:/dev/also",
        "-v",
        "etcs:/etc/apt",
        "-v",
        "/anonymous",
        "--read-only",
    ];
    let script = r#"hostname; getent hosts db | tr -s ' '; df -k --output=size /dev/shm /scratch | tail -2 | tr -d ' '
        findmnt -no OPTIONS /scratch | grep -c noexec; ulimit -Sn; ulimit -Hn; cat /proc/sys/net/core/somaxconn
        grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2; id -G; test -c /dev/also && echo device
        ls /etc/apt | head -1 > /etc/apt/seen; cat /etc/apt/seen; touch /anonymous/x && echo writable"#;
    let run = machines.run(&options, &["sh", "-c", script]).succeeded();
    let expected = "box\n192.0.2.7 db\n3072\n2048\n0\n77\n88\n99\n0000000000000001\n0000000000000001\n0000000000000001\n0 4242\ndevice\n";
    assert!(run.stdout.starts_with(expected) && run.stdout.ends_with("writable\n"), "{run}");
    // The volume was filled with what the image has, and keeps what was written.
    let inspected = session.json(["volume", "inspect", "etcs"]);
    let volume = std::path::Path::new(inspected[0]["Mountpoint"].as_str().unwrap());
    assert!(volume.join("seen").is_file() && std::fs::read_dir(volume).unwrap().count() > 1, "{inspected}");

    let refused = machines.run(&["--network", "none", "--sysctl", "net.no.such=1"], &["true"]);
    assert_eq!(refused.status.code(), Some(125), "{refused}");
    assert!(refused.stderr.contains("--sysctl net.no.such: the guest's kernel has no such control"), "{refused}");
    session.ok(["volume", "rm", "etcs"]);
    session.traces().assert_nothing_left();
}

#[test]
fn a_machine_with_an_open_input_runs_on_and_is_attached() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    let run = ["run", "--accel", "tcg", "--network", "none", "-dit", "--name", "box", crate::fixture::REFERENCE, "sh"];
    session.ok(run);
    session.ok(["exec", "-d", "box", "sh", "-c", "echo spawned > /tmp/spawned; echo much"]);
    let seen =
        session.ok(["exec", "box", "sh", "-c", "while ! [ -s /tmp/spawned ]; do sleep 0.1; done; cat /tmp/spawned"]);
    assert_eq!(seen, "spawned\n");
    let top = session.ok(["top", "box"]);
    assert!(top.lines().any(|line| line.ends_with(" sh")), "{top}");
    let mut attach = session.lamina(["attach", "box"]);
    attach.stdin(std::process::Stdio::piped());
    let mut attach = session.start(attach);
    std::io::Write::write_all(&mut attach.child.stdin.take().unwrap(), b"echo $((20 + 22)); exit 5\n").unwrap();
    let attached = attach.finish();
    assert_eq!(attached.status.code(), Some(5), "{attached}");
    assert!(attached.stdout.contains("42"), "{attached}");
    session.ok(["rm", "box"]);
    session.traces().assert_nothing_left();
}
