//! Containers from start to removal, and however they end.

use std::io::Write;
use std::process::Stdio;

use end_to_end::traces::Process;
use end_to_end::{Finished, until};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::fixture::{Containers, REFERENCE};

#[test]
fn command_gets_its_streams_and_gives_its_status() {
    let containers = Containers::new();
    let run = |script: &str| containers.run(&[], &["/bin/sh", "-c", script]);
    let ended = run("echo out; echo err >&2; exit 7");
    assert_eq!((ended.status.code(), ended.stdout.as_str(), ended.stderr.as_str()), (Some(7), "out\n", "err\n"));
    assert_eq!(run("kill -TERM $$").status.code(), Some(143));
    assert_eq!(containers.run(&[], &["/nowhere"]).status.code(), Some(127));
    let mut child =
        containers.command(&["-i"], &["sort"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"b\na\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"a\nb\n");
    containers.session.traces().assert_nothing_left();
}

#[test]
fn engine_is_chosen_by_a_variable_and_recorded() {
    let containers = Containers::new();
    let mut lamina = containers.session.lamina(["run", "--detach", "--name", "web", "--network", "none", REFERENCE]);
    Finished::of(lamina.args(["--", "sleep", "1000"]).env("LAMINA_ENGINE", "container")).succeeded();
    assert_eq!(containers.session.seen("web")["engine"], "container");
    assert!(containers.session.ok(["ps"]).contains("  container  "));
    assert!(containers.session.ok(["inspect", "--text", "web"]).contains("engine      container\n"));
    // It is that of the machine, whatever the variable says later.
    containers.session.ok(["stop", "web"]);
    containers.session.ok(["start", "web"]);
    assert_eq!(containers.session.seen("web")["engine"], "container");
    containers.session.ok(["rm", "--force", "web"]);
    let explained = containers.session.ok(["run", "--engine", "container", "--dry-run", REFERENCE]);
    assert!(explained.contains("# engine container: asked for\n"), "{explained}");
    assert!(explained.contains("\"/proc/self/fd/4\""), "{explained}");
    containers.session.traces().assert_nothing_left();
}

#[test]
fn container_in_the_background_does_what_a_vm_does() {
    let containers = Containers::new();
    let session = &containers.session;
    containers.detach("web", &["-e", "COLOUR=red"], "echo begun; echo $COLOUR > /srv/colour; sleep 1000");
    assert_eq!(containers.session.seen("web")["state"], "running");
    until("its output", || session.ok(["logs", "web"]) == "begun\n");

    assert_eq!(containers.session.exec("web", "cat /srv/colour; hostname; exit 3").stdout, "red\nweb\n");
    assert_eq!(containers.session.exec("web", "exit 3").status.code(), Some(3));
    let seen = containers.session.exec("web", "cat /proc/1/comm; grep -w web /etc/hosts; ls /proc | grep -c '^[0-9]'");
    assert!(seen.stdout.contains("127.0.1.1\tweb"), "{seen}");

    let work = session.work("files");
    std::fs::write(work.join("given"), "given").unwrap();
    session.ok(["cp", work.join("given").to_str().unwrap(), "web:/srv/given"]);
    assert_eq!(containers.session.exec("web", "cat /srv/given").stdout, "given");
    session.ok(["cp", "web:/srv/colour", work.join("colour").to_str().unwrap()]);
    assert_eq!(session.read(&work.join("colour")), b"red\n");

    containers.session.exec("web", "rm -r /etc/default; mkdir /etc/default; echo x > /etc/default/only").succeeded();
    let listed = session.ok(["diff", "web"]);
    let lines: Vec<&str> = listed.lines().collect();
    for line in ["A /srv/colour", "A /srv/given", "C /etc/default", "A /etc/default/only"] {
        assert!(lines.contains(&line), "{line} is not in {listed}");
    }
    assert!(lines.iter().any(|line| line.starts_with("D /etc/default/")), "{listed}");
    assert!(!listed.contains("/etc/hosts") && !listed.contains("/proc"), "{listed}");
    session.ok(["commit", "web", "lamina.test/committed:1"]);
    let committed = session.ok([
        "run",
        "--engine",
        "container",
        "--network",
        "none",
        "lamina.test/committed:1",
        "--",
        "/bin/sh",
        "-c",
        "cat /srv/colour; ls /etc/default",
    ]);
    assert_eq!(committed, "red\nonly\n");

    session.ok(["stop", "web"]);
    assert_eq!(containers.session.seen("web")["state"], "exited");
    session.ok(["start", "web"]);
    until("the next run", || containers.session.exec("web", "test -e /srv/colour").status.success());
    assert!(!containers.session.exec("web", "test -e /srv/given").status.success(), "what it wrote is lost");
    session.ok(["rm", "--force", "web"]);
    session.traces().assert_nothing_left();
}

#[test]
fn ready_means_that_something_listens() {
    let containers = Containers::new();
    containers.detach("web", &["--ready", "port:8080"], "exec python3 -m http.server 8080");
    let get = "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:8080/etc/\").status)'";
    assert_eq!(containers.session.exec("web", get).succeeded().stdout, "200\n");
    containers.session.ok(["rm", "--force", "web"]);
    containers.session.traces().assert_nothing_left();
}

/// The supervisor serves the root, so a container without it would hang.
#[test]
fn nothing_is_left_of_a_container_whose_supervisor_is_killed() {
    let containers = Containers::new();
    for options in [&[][..], &["--keep"]] {
        containers.detach("web", options, "sleep 1000 & setsid sleep 1000 & sleep 1000");
        kill_process(containers.session.process("web", "lamina"), Signal::KILL).unwrap();
        until("the machine to be known as failed", || containers.session.seen("web")["state"] == "failed");
        containers.session.await_no_process();
        containers.session.ok(["rm", "web"]);
        assert!(!containers.session.machine_directory("web").exists());
    }
    containers.session.traces().assert_nothing_left();
}

/// Without its server, every read of the image would fail with "Transport endpoint is not connected".
#[test]
fn end_of_the_server_of_the_root_ends_the_container_and_is_named() {
    let containers = Containers::new();
    containers.detach("web", &[], "sleep 1000");
    let process = containers.session.process("web", "container").as_raw_nonzero();
    let mounts = std::fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
    // Its namespace has the mounts of other tests, too.
    let view = mounts.lines().find(|line| line.contains("/web/lower ")).expect("the mount of the view");
    assert!(view.contains(" - fuse.lamina "), "{view}");
    let connection = view.split(' ').nth(2).and_then(|device| device.strip_prefix("0:")).expect("a device number");
    let connections = containers.session.work("connections");
    mount("none", &connections, "fusectl", MountFlags::empty(), None).unwrap();
    std::fs::write(connections.join(connection).join("abort"), "1").unwrap();
    unmount(&connections, UnmountFlags::DETACH).unwrap();
    let reason = containers.failed("web");
    assert!(reason.contains("the server of its root ended"), "{reason}");
    containers.session.ok(["rm", "web"]);
    containers.session.traces().assert_nothing_left();
}

/// Every process of a container, by a part of its command line.
const PROCESSES: [&str; 7] =
    ["__supervise", "__clean", "__container", "crun", "pasta", "container control init", "sh -c sleep 1000"];

/// Each alone, and each after the one that would clean up.
#[test]
fn whichever_processes_of_a_container_are_killed_nothing_is_left() {
    let containers = Containers::new();
    let session = &containers.session;
    for victim in PROCESSES {
        for victims in [&[victim][..], &["__clean", victim]] {
            containers.detach("web", &["--network", "passt", "--keep"], "sleep 1000 & sleep 1000");
            until("the command's processes", || session.run(["top", "web"]).stdout.matches("sleep 1000").count() > 2);
            let running = below(&session.traces().processes());
            for part in victims {
                let found = running.iter().find(|process| process.command.contains(part));
                let found = found.unwrap_or_else(|| panic!("no {part} in {running:?}"));
                // One that has ended because of the other needs no end.
                let _ = kill_process(found.pid, Signal::KILL);
            }
            session.ok(["ps", "--all"]);
            let removed = session.run(["rm", "--force", "web"]);
            assert!(removed.status.success(), "{victims:?}: {removed}");
            assert!(!session.machine_directory("web").exists(), "{victims:?}");
            until(&format!("all processes to end after {victims:?}"), || {
                let left = below(&[]);
                !running.iter().any(|one| left.iter().any(|process| process.is(one)))
            });
            session.traces().assert_nothing_left();
        }
    }
}

/// A process of the host.
#[derive(Debug)]
struct Running {
    pid: Pid,
    parent: i32,
    command: String,
}

impl Running {
    fn is(&self, other: &Self) -> bool {
        self.pid == other.pid && self.command == other.command
    }
}

/// Returns the processes that descend from `first`, and those; all processes if there are none. A zombie does not count.
fn below(first: &[Process]) -> Vec<Running> {
    let read = |entry: std::fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let command = std::fs::read(entry.path().join("cmdline")).ok().filter(|command| !command.is_empty())?;
        let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
        Some(Running { pid, parent, command })
    };
    let mut all: Vec<Running> = std::fs::read_dir("/proc").unwrap().flatten().filter_map(read).collect();
    if first.is_empty() {
        return all;
    }
    let mut known: Vec<i32> = first.iter().map(|process| process.pid.as_raw_nonzero().get()).collect();
    loop {
        let children =
            all.iter().filter(|process| known.contains(&process.parent)).map(|child| child.pid.as_raw_nonzero().get());
        let new: Vec<i32> = children.filter(|pid| !known.contains(pid)).collect();
        if new.is_empty() {
            all.retain(|process| known.contains(&process.pid.as_raw_nonzero().get()));
            return all;
        }
        known.extend(new);
    }
}

#[test]
fn end_of_fuse_overlayfs_ends_the_container_and_is_named() {
    let containers = Containers::new();
    containers.detach("web", &["--machine", "fuse-overlayfs"], "sleep 1000");
    let running = below(&containers.session.traces().processes());
    let server = running.iter().find(|process| process.command.contains("fuse-overlayfs -f")).expect("its server");
    kill_process(server.pid, Signal::KILL).unwrap();
    let reason = containers.failed("web");
    assert!(reason.contains("fuse-overlayfs, the server of its root, ended"), "{reason}");
    containers.session.ok(["rm", "web"]);
    containers.session.traces().assert_nothing_left();
}

#[test]
fn container_that_is_killed_from_outside_is_told_apart_from_a_command_that_ends() {
    let containers = Containers::new();
    containers.detach("web", &[], "sleep 1000");
    kill_process(containers.session.process("web", "container"), Signal::KILL).unwrap();
    let reason = containers.failed("web");
    assert!(reason.starts_with("the container ended before its command ended"), "{reason}");
    containers.session.ok(["rm", "web"]);
    containers.session.traces().assert_nothing_left();
}

#[test]
fn many_containers_run_at_once_from_one_image() {
    let containers = Containers::new();
    containers.ok(&[], "true");
    let started: Vec<_> = (0..50)
        .map(|number| {
            let words = format!("echo {number} > /srv/mine; sleep 0.2; cat /srv/mine");
            containers.session.start(containers.command(&[], &["/bin/sh", "-c", &words]))
        })
        .collect();
    for (number, one) in started.into_iter().enumerate() {
        assert_eq!(one.finish().succeeded().stdout, format!("{number}\n"));
    }
    containers.session.traces().assert_nothing_left();
}

#[test]
fn read_only_root_takes_no_writes_and_secrets_are_files() {
    let containers = Containers::new();
    let secret = containers.session.work("secret").join("token");
    std::fs::write(&secret, "hush").unwrap();
    let option = format!("token={}", secret.display());
    let script =
        "! touch /srv/x 2>/dev/null; cat /run/secrets/token; grep -c m /etc/hostname; ! umount /proc 2>/dev/null";
    let seen = containers.ok(&["--read-only", "--secret", &option, "--name", "m"], script);
    assert_eq!(seen, "hush1\n");
    let run = ["run", "--engine", "container", "--network", "none", "--json", REFERENCE, "--", "echo", "x"];
    let object: serde_json::Value = containers.session.json(run);
    assert_eq!(object["stdout"], json!("x\n"));
    containers.session.traces().assert_nothing_left();
}
