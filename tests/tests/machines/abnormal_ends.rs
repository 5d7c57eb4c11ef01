//! However a machine ends, its record says how, and nothing else is left.

use end_to_end::{Engine, Finished, Image, on_engines, until};
use rustix::process::{Signal, kill_process};

use crate::fixture::Machines;

on_engines! {
    every:
        death_of_any_helper_fails_the_machine_and_ends_the_rest,
        machine_that_does_not_start_leaves_nothing_not_even_its_name;
    with_kernel:
        kernel_panic_that_hangs_is_noticed_and_ended,
        panic_power_off_and_reboot_are_told_apart;
}

fn death_of_any_helper_fails_the_machine_and_ends_the_rest(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let share = format!("{}:/media", machines.session.work("shared").display());
    let ended = format!("{} ended", engine.role());
    let mut cases = vec![(engine.role(), vec![], ended.as_str()), ("lamina", vec![], "its launcher (process ")];
    if engine == Engine::Qemu {
        // The root is mounted here, so a mount must go too.
        cases[1].1.extend(["--backend", "virtiofsd"]);
    }
    if matches!(engine, Engine::Qemu | Engine::CloudHypervisor) {
        cases.push(("share1", vec!["-v", share.as_str()], "server of its share1 ended"));
    }
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

fn kernel_panic_that_hangs_is_noticed_and_ended(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
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

fn machine_that_does_not_start_leaves_nothing_not_even_its_name(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    // A container is ready before it can be told to give up.
    if engine.has_kernel() {
        let finished = Finished::of(&mut machines.detach("m", &["--ready-timeout", "1"], "true"));
        assert_eq!(finished.status.code(), Some(125), "{finished}");
        assert!(finished.stderr.contains("the guest was not ready after 1 s"), "{finished}");
        session.traces().assert_nothing_left();

        // Ctrl-C while it boots.
        let running = session.start(machines.detach("m", &[], "true"));
        let is_engine = |process: &serde_json::Value| process["role"] == engine.role();
        let boots = || session.seen("m")["processes"].as_array().is_some_and(|all| all.iter().any(is_engine));
        until("the engine", boots);
        running.signal(Signal::INT);
        assert_eq!(running.finish().status.code(), Some(130));
        session.traces().assert_nothing_left();
    }

    // It starts and cannot run the command.
    let finished = machines.run(&["-d", "--name", "m"], &["/nowhere"]);
    assert_eq!(finished.status.code(), Some(127), "{finished}");
    assert!(finished.stderr.contains("/nowhere: command not found"), "{finished}");
    assert_eq!(session.ok(["ps", "--all", "--quiet"]), "");
    session.traces().assert_nothing_left();
}

/// A kill is one of the cases of `death_of_any_helper_fails_the_machine_and_ends_the_rest`.
fn panic_power_off_and_reboot_are_told_apart(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    for (key, words) in [('c', "kernel panicked"), ('o', "powered off"), ('b', "rebooted")] {
        let script = format!("echo 1 > /proc/sys/kernel/sysrq; echo {key} > /proc/sysrq-trigger; sleep 60");
        let finished = machines.run(&["-u", "0:0", "--network", "none"], &["/bin/sh", "-c", &script]);
        assert_eq!(finished.status.code(), Some(125), "{finished}");
        assert!(finished.stderr.lines().last().is_some_and(|line| line.contains(words)), "{words}: {finished}");
    }
    machines.session.traces().assert_nothing_left();
}
