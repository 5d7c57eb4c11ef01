//! What a host can do, and what its user has chosen.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use end_to_end::programs::installed;
use end_to_end::{Finished, Session};
use serde_json::Value;

use crate::fixture::{Containers, REFERENCE};

/// A directory with these programs of the host and no others.
fn programs(session: &Session, names: &[&str]) -> PathBuf {
    let directory = session.work("programs");
    for name in names {
        symlink(installed(name), directory.join(name)).unwrap();
    }
    directory
}

/// No VM is tried, because there is no QEMU.
#[test]
fn doctor_tries_every_way_to_write_and_says_why_one_fails() {
    let session = Session::user();
    let path = programs(&session, &["newuidmap", "newgidmap", "runc", "fusermount3"]);
    let mut lamina = session.lamina(["doctor", "--json"]);
    let finished = Finished::of(lamina.env("PATH", &path));
    let findings: Vec<Value> = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished}"));
    let finding = |subject: &str| {
        let found = findings.iter().find(|finding| finding["subject"] == subject);
        found.unwrap_or_else(|| panic!("no {subject} in {finished}")).clone()
    };
    for (way, works) in [("overlay", true), ("fuse-overlayfs", false), ("read-only", true)] {
        assert_eq!(finding(&format!("container {way}"))["works"], works, "{finished}");
    }
    let detail = finding("container fuse-overlayfs")["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("it is not installed"), "{finished}");
    // A run does not try again what has failed.
    let known = session.read(&session.directory().join("home/.cache/lamina/found.json"));
    let known: Value = serde_json::from_slice(&known).unwrap();
    let known = known["found"].as_object().unwrap();
    let (_, failed) = known.iter().find(|(what, _)| what.starts_with("container fuse-overlayfs host")).unwrap();
    assert!(failed["value"]["Err"]["cause"].as_str().unwrap().contains("not installed"), "{failed}");
    assert!(failed["until"].as_u64().is_some(), "{failed}");
    session.traces().assert_nothing_left();
}

#[test]
fn engine_is_chosen_by_one_line_of_configuration() {
    let containers = Containers::new();
    let session = &containers.session;
    let directory = session.directory().join("home/.config/lamina");
    let configure = |text: &str| {
        let script = format!("mkdir -p {0} && printf '{text}' > {0}/config.toml", directory.display());
        Finished::of(session.command(Path::new("sh")).args(["-c", &script])).succeeded();
    };
    let run = |options: &[&str]| {
        session.run([&["run"], options, &["--network", "none", REFERENCE, "--", "hostname"]].concat())
    };
    configure("engine = \"container\"\\n");
    assert_eq!(run(&["--name", "of-a-container"]).succeeded().stdout, "of-a-container\n");
    assert!(run(&["--engine", "qemu", "--dry-run"]).succeeded().stdout.contains("qemu-system"));
    configure("engine = \"bochs\"\\n");
    run(&[]).failed("config.toml: engine: expected auto, qemu");
    configure("engin = \"qemu\"\\n");
    run(&[]).failed("unknown field `engin`");
    session.traces().assert_nothing_left();
}

#[test]
fn limits_without_control_groups_of_version_2_are_a_warning() {
    let containers = Containers::new();
    let session = &containers.session;
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        // The machine tests have a guest with systemd for this.
        return;
    }
    let finished = containers.run(&["--memory", "64M", "--cpus", "0.5", "--pids-limit", "100"], &["echo", "ran"]);
    assert_eq!(finished.stdout, "ran\n", "{finished}");
    assert!(finished.stderr.contains("--memory, --cpus and --pids-limit have no effect here"), "{finished}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    let vm = ["run", "--engine", "qemu", "--pids-limit", "100", REFERENCE, "--", "true"];
    session.run(vm).failed("--ulimit nproc");
    session.run(["run", "--engine", "qemu", "--memory", "32M", REFERENCE, "--", "true"]).failed("at least 96M");
    session.traces().assert_nothing_left();
}
