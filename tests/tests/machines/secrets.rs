//! Secrets reach the command's user in the guest, and stay nowhere else.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use end_to_end::{Actor, Engine, Image, on_engines, until};

use crate::fixture::Machines;

on_engines! {
    every:
        secret_belongs_to_the_commands_user_and_is_read_again_at_each_start,
        supervisor_forgets_a_secret_once_the_guest_has_it;
}

fn secret_belongs_to_the_commands_user_and_is_read_again_at_each_start(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let file = session.work("secrets").join("token");
    let write = |content: &str| {
        std::fs::write(&file, content).unwrap();
        Actor::User.own(&file);
    };
    write("first");
    let secret = format!("token={}", file.display());
    let script = "stat -c '%a %u:%g' /run/secrets/token; cat /run/secrets/token; echo; sleep 1000";
    let options = ["--detach", "--name", "m", "--network", "none", "-u", "33:34", "-w", "/", "--secret", &secret];
    machines.run(&options, &["/bin/sh", "-c", script]).succeeded();
    until("the secret", || session.ok(["logs", "m"]) == "400 33:34\nfirst\n");
    let other = session.run(["exec", "-u", "65534", "m", "/bin/cat", "/run/secrets/token"]);
    assert!(!other.status.success() && other.stderr.contains("Permission denied"), "{other}");
    // The supervisor no longer has it, and leaves no core dump.
    let supervisor = machines.session.process("m", "lamina").as_raw_nonzero();
    let limits = std::fs::read_to_string(format!("/proc/{supervisor}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().filter(|word| *word == "0").count() == 2, "{core}");
    // The files in `/proc` of a process that leaves no core dump belong to root.
    assert_eq!(std::fs::metadata(format!("/proc/{supervisor}/fd")).unwrap().uid(), 0);
    write("second");
    session.ok(["stop", "--timeout", "1", "m"]);
    session.ok(["start", "m"]);
    until("the new secret", || session.ok(["logs", "m"]).ends_with("400 33:34\nsecond\n"));
    session.ok(["rm", "--force", "m"]);
    session.traces().assert_nothing_left();
}

/// Returns how often `needle` is in the memory of a process.
fn in_memory(process: i32, needle: &[u8]) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let ours = maps.lines().filter(|line| line.contains(" rw-p "));
    let mut found = 0;
    for line in ours {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            found += bytes.windows(needle.len()).filter(|window| *window == needle).count();
        }
    }
    found
}

fn supervisor_forgets_a_secret_once_the_guest_has_it(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let file = session.work("secrets").join("token");
    let token = "a-token-that-is-nowhere-else-7361".repeat(100);
    std::fs::write(&file, &token).unwrap();
    Actor::User.own(&file);
    let secret = format!("token={}", file.display());
    machines.sleeper("m", &["--network", "none", "--secret", &secret, "-e", "MARK=a-mark-that-is-kept-7361"]);
    let supervisor = machines.session.process("m", "lamina").as_raw_nonzero().get();
    // The environment is kept, for `exec`: this finds what is there.
    assert!(in_memory(supervisor, b"a-mark-that-is-kept-7361") > 0);
    assert_eq!(in_memory(supervisor, &token.as_bytes()[..100]), 0);
    assert_eq!(machines.session.exec("m", "cat /run/secrets/token").succeeded().stdout, token);
    session.ok(["rm", "--force", "m"]);
    session.traces().assert_nothing_left();
}
