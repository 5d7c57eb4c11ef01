//! Machines that lack something: memory, space on the host's disk, a shell in the image.

use std::path::PathBuf;
use std::process::Command;

use end_to_end::layout::Layer;
use end_to_end::programs::installed;
use end_to_end::{Actor, Engine, Finished, Image, Layout, Session, on_engines, static_program, until};
use rustix::mount::{UnmountFlags, unmount};

use crate::fixture::Machines;

on_engines! {
    every: image_without_a_shell_runs_its_program_and_names_what_is_missing;
}

#[test]
fn guest_without_memory_left_for_writes_or_processes_tells_the_user() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    machines.sleeper("m", &["-m", "192M", "--network", "none", "--tmpfs-size", "8M"]);
    let full = "the memory for the guest's writes is full (8M); give it more with --tmpfs-size";
    assert!(!machines.session.exec("m", "head -c 6M /dev/zero > /srv/file; exit 1").status.success());
    // Warnings that a process of the guest writes to its console or its kernel's log are ignored.
    let forged = "lamina: the memory for writes is full (1M); Out of memory: Killed process 7 (x) total-vm:1kB";
    machines.session.exec("m", &format!("echo '{forged}' > /dev/console; echo '<0>{forged}' > /dev/kmsg")).succeeded();
    assert_eq!(machines.session.seen("m")["warnings"].as_array().map_or(0, Vec::len), 0);
    let wrote = machines.session.exec("m", "head -c 6M /dev/zero > /srv/more");
    assert!(wrote.stderr.contains("No space left on device"), "{wrote}");
    until("the warning of it", || machines.session.seen("m")["warnings"][0] == full);
    machines.session.exec("m", "rm /srv/file /srv/more").succeeded();

    // Keeps everything that it reads in memory: the last lines might be in it.
    let greedy = machines.session.exec("m", "exec tail /dev/zero");
    assert_eq!(greedy.status.code(), Some(137), "{greedy}");
    let told = "the guest's memory ran out and its kernel killed tail; give it more with --memory";
    until("the warning", || session.ok(["inspect", "--text", "m"]).contains(told));
    assert_eq!(machines.session.seen("m")["warnings"][1], told);
    assert_eq!(machines.session.exec("m", "echo still here").succeeded().stdout, "still here\n");
    session.ok(["rm", "--force", "m"]);
    session.traces().assert_nothing_left();
}

/// A small file system of the host that holds a session's machines.
struct SmallDisk<'session>(&'session Session);

impl<'session> SmallDisk<'session> {
    fn of(session: &'session Session, bytes: u64) -> Self {
        let image = session.directory().join("ext4");
        std::fs::File::create(&image).and_then(|file| file.set_len(bytes)).unwrap();
        Finished::of(Command::new(installed("mkfs.ext4")).args(["-q", "-m", "0"]).arg(&image)).succeeded();
        let disk = Self(session);
        Finished::of(Command::new(installed("mount")).args(["-o", "loop"]).arg(&image).arg(disk.path())).succeeded();
        Actor::User.own(&disk.path());
        disk
    }

    fn path(&self) -> PathBuf {
        self.0.directory().join("state")
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn hosts_disk_that_fills_under_a_kept_machine_is_an_error_in_it_and_costs_nothing_that_was_synced() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    let disk = SmallDisk::of(session, 256 << 20);
    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![1; 160 << 20]).unwrap();
    let options = ["--keep=1G", "--network", "none"];
    // There is no room for its output either.
    let script = "while :; do echo $(seq 200); sleep 0.1; done";
    Finished::of(&mut machines.detach("m", &options, script)).succeeded();
    machines.session.exec("m", "echo precious > /srv/precious && sync").succeeded();
    let fill = "dd if=/dev/urandom of=/srv/fill bs=1M count=150 conv=fsync";
    let full = machines.session.exec("m", fill);
    assert!(full.stderr.contains("Input/output error") || full.stderr.contains("Read-only"), "{full}");
    let told = "fails on this host, and so do the guest's writes: No space left on device";
    until("the warning", || session.ok(["inspect", "--text", "m"]).contains(told));
    assert_eq!(machines.session.seen("m")["state"], "running");
    machines.session.exec("m", "cat /srv/precious /etc/os-release > /dev/null").succeeded();
    session.ok(["stop", "m"]);

    // With space again, it continues from what was on its disk.
    std::fs::remove_file(filler).unwrap();
    session.ok(["start", "m"]);
    assert_eq!(machines.session.exec("m", "cat /srv/precious").succeeded().stdout, "precious\n");
    machines
        .session
        .exec("m", "rm -f /srv/fill; dd if=/dev/urandom of=/srv/more bs=1M count=20 conv=fsync")
        .succeeded();
    assert!(!session.ok(["inspect", "--text", "m"]).contains("warning"), "a new start has nothing to complain of");
    session.ok(["rm", "--force", "m"]);
    drop(disk);
    session.traces().assert_nothing_left();
}

/// One program, linked statically, and nothing else.
fn image_without_a_shell() -> Layout {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join(static_program::NAME);
    static_program::place(&program);
    Layout::of(&[Layer::of_script(&format!("cp '{}' .", program.display()))])
}

fn image_without_a_shell_runs_its_program_and_names_what_is_missing(engine: Engine) {
    let machines = Machines::of_layout(engine, image_without_a_shell().path());
    let session = &machines.session;
    let ended = machines.run(&["--network", "none"], &["/count-words", "one"]);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(3), "2 words\n"), "{ended}");
    // The image asks for /bin/sh.
    let missing = machines.run(&["--network", "none"], &[]);
    assert_eq!(missing.status.code(), Some(127), "{missing}");
    assert!(missing.stderr.contains("/bin/sh: command not found"), "{missing}");

    let options = ["--network", "none", "--detach", "--name", "m"];
    machines.run(&options, &["/count-words", "and", "wait"]).succeeded();
    let shell = session.run(["exec", "m", "--", "sh"]);
    assert_eq!(shell.status.code(), Some(127), "{shell}");
    assert!(shell.stderr.contains("sh: command not found"), "{shell}");
    assert_eq!(session.run(["exec", "m", "--", "/count-words"]).stdout, "1 words\n");
    // Lamina needs no program of the image in a guest.
    let copied = session.work("copied").join("count-words");
    session.ok(["cp", "m:/count-words", copied.to_str().unwrap()]);
    session.ok(["cp", copied.to_str().unwrap(), "m:/copied"]);
    assert_eq!(session.ok(["diff", "m"]), "A /copied\n");
    session.ok(["stop", "--timeout", "1", "m"]);
    assert_eq!(session.ok(["logs", "m"]), "3 words\n");
    session.ok(["rm", "m"]);
    session.traces().assert_nothing_left();
}
