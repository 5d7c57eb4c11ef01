//! However a machine ends, its record says how, and nothing else is left.

use end_to_end::{Finished, Image, until};
use rustix::process::{Signal, kill_process};

use crate::fixture::Machines;

#[test]
fn death_of_any_helper_fails_the_machine_and_ends_the_rest() {
    let machines = Machines::of(Image::Debian);
    let share = format!("{}:/media", machines.session.work("shared").display());
    let cases = [
        ("hypervisor", vec![], "hypervisor ended"),
        ("share1", vec!["-v", share.as_str()], "server of its share1 ended"),
        // The root is mounted here, so a mount must go too.
        ("lamina", vec!["--backend", "virtiofsd"], "its launcher (process "),
    ];
    for (role, options, reason) in cases {
        machines.sleeper("m", &options);
        let supervisor = machines.session.process("m", "lamina");
        kill_process(machines.session.process("m", role), Signal::KILL).unwrap();
        // The record is read directly, because `ps` itself reconciles records.
        let record = machines.session.machine_directory("m").join("machine.json");
        until("the mark", || std::fs::read_to_string(&record).is_ok_and(|text| text.contains("\"failed\"")));
        let seen = machines.session.seen("m");
        assert!(seen["reason"].as_str().unwrap().contains(reason), "{role}: {seen}");
        until("the supervisor's end", || {
            !std::path::Path::new(&format!("/proc/{}", supervisor.as_raw_nonzero())).exists()
        });
        assert_eq!(machines.session.traces().mounts(), Vec::<std::path::PathBuf>::new(), "{role}");
        machines.session.ok(["rm", "m"]);
        machines.session.traces().assert_nothing_left();
    }
}

#[test]
fn crash_of_the_hypervisor_fails_the_machine_and_no_memory_of_any_process_is_dumped() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    let secret = session.work("secrets").join("token");
    std::fs::write(&secret, "value-of-a-secret").unwrap();
    let share = format!("{}:/media", session.work("shared").display());
    let run = machines.detach("m", &["--secret", secret.to_str().unwrap(), "-v", &share], "sleep 1000");
    let mut unlimited = session.command("/bin/sh".as_ref());
    unlimited.args(["-c", "ulimit -c unlimited && exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
    Finished::of(&mut unlimited).succeeded();
    for process in session.traces().processes().iter().filter(|process| !process.command.contains("__clean")) {
        let of = |file: &str| {
            std::fs::read_to_string(format!("/proc/{}/{file}", process.pid.as_raw_nonzero())).unwrap_or_default()
        };
        let limits = of("limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{process:?}: {core}");
        assert_eq!(of("coredump_filter").trim(), "00000000", "{process:?}");
    }
    kill_process(machines.session.process("m", "hypervisor"), Signal::SEGV).unwrap();
    assert_eq!(session.ok(["wait", "m"]), "125\n");
    let seen = machines.session.seen("m");
    assert!(seen["reason"].as_str().unwrap().contains("SIGSEGV"), "{seen}");
    session.ok(["rm", "m"]);
    session.traces().assert_nothing_left();
}

#[test]
fn kernel_panic_that_hangs_is_noticed_and_ended() {
    let machines = Machines::of(Image::Debian);
    // With `panic=0` the guest hangs after a panic instead of resetting.
    let script =
        "echo 0 > /proc/sys/kernel/panic; echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 1000";
    Finished::of(&mut machines.detach("m", &[], script)).succeeded();
    assert_eq!(machines.session.ok(["wait", "m"]), "125\n");
    let seen = machines.session.seen("m");
    assert!(seen["reason"].as_str().unwrap().contains("kernel panicked: sysrq triggered crash"), "{seen}");
    assert!(machines.session.ok(["logs", "--console", "m"]).contains("Kernel panic - not syncing"));
    machines.session.ok(["rm", "m"]);
    machines.session.traces().assert_nothing_left();
}

#[test]
fn machine_that_does_not_start_leaves_nothing_not_even_its_name() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    let mut never = machines.detach("m", &["--ready-timeout", "1"], "true");
    let finished = Finished::of(&mut never);
    assert_eq!(finished.status.code(), Some(125), "{finished}");
    assert!(finished.stderr.contains("the guest was not ready after 1 s"), "{finished}");
    session.traces().assert_nothing_left();

    // Ctrl-C while it boots.
    let running = session.start(machines.detach("m", &[], "true"));
    until("the hypervisor", || session.traces().processes().iter().any(|process| process.command.contains("qemu")));
    running.signal(Signal::INT);
    assert_eq!(running.finish().status.code(), Some(130));
    session.traces().assert_nothing_left();

    // The guest boots and cannot run the command.
    let mut lamina =
        session.lamina(["run", "--accel", "tcg", "-d", "--name", "m", crate::fixture::REFERENCE, "--", "/nowhere"]);
    let finished = Finished::of(&mut lamina);
    assert_eq!(finished.status.code(), Some(127), "{finished}");
    assert!(finished.stderr.contains("/nowhere: command not found"), "{finished}");
    assert_eq!(session.ok(["ps", "--all", "--quiet"]), "");
    session.traces().assert_nothing_left();
}
