//! Machines that root starts: none of their programs runs as root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use end_to_end::{Actor, Finished, Image, Session, until};

use super::fixture::REFERENCE;

/// Runs a shell script as root of a guest, in a machine that root starts.
fn run(session: &Session, options: &[&str], script: &str) -> Finished {
    let run = ["run", "--accel", "tcg", "--network", "none", "--as", "lamina-test", "-u", "0:0", "-w", "/"];
    session.run(run.iter().chain(options).chain(&[REFERENCE, "--", "/bin/sh", "-c", script]))
}

/// A session of root with the image, and a directory to share that every user may change.
fn of_root() -> (Session, PathBuf) {
    let session = Session::new(Actor::Root);
    session.import(&Image::Debian.layout(), REFERENCE);
    let shared = session.work("shared");
    fs::set_permissions(&shared, PermissionsExt::from_mode(0o777)).unwrap();
    (session, shared)
}

fn owner(path: &Path) -> u32 {
    path.metadata().unwrap().uid()
}

#[test]
fn guest_of_root_makes_nobody_root_and_reads_only_what_its_user_may() {
    let (session, shared) = of_root();
    let (user, _) = Actor::User.ids();
    fs::write(shared.join("open"), "open\n").unwrap();
    fs::write(shared.join("closed"), "secret\n").unwrap();
    fs::set_permissions(shared.join("closed"), PermissionsExt::from_mode(0o600)).unwrap();
    let volumes = [format!("{}:/w", shared.display()), format!("{}/open:/one:ro", shared.display())];
    let options = ["-v", &volumes[0], "-v", &volumes[1]];
    let script = "cat /w/open /one; cat /w/closed; cp /bin/true /w/made; chown 0:0 /w/made
        chmod 4755 /w/made; chmod 2755 /w/made; mknod /w/device b 8 0; mknod /w/null c 1 3; setcap cap_net_raw+ep /w/made; true";
    let finished = run(&session, &options, script).succeeded();
    assert_eq!(finished.stdout, "open\nopen\n", "{finished}");
    let made = shared.join("made").metadata().unwrap();
    assert_eq!((made.uid(), made.mode() & 0o7000), (user, 0), "{finished}");
    assert!(!shared.join("device").exists() && !shared.join("null").exists(), "{finished}");

    let private = session.work("private");
    fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).unwrap();
    run(&session, &["-v", &format!("{}:/w", private.display())], "true").failed("lamina-test");
    session.traces().assert_nothing_left();
}

/// Root's home is closed to the user as whom the machine runs.
#[test]
fn named_volume_of_root_belongs_to_the_user_as_whom_its_machines_run() {
    let (session, _) = of_root();
    let (user, _) = Actor::User.ids();
    let name = format!("by-root-{}", std::process::id());
    let volume = format!("{name}:/etc/apt");
    run(&session, &["-v", &volume], "test -s /etc/apt/sources.list && echo mine > /etc/apt/mine").succeeded();
    assert_eq!(run(&session, &["-v", &volume], "cat /etc/apt/mine").succeeded().stdout, "mine\n");
    let directory = session.ok(["volume", "inspect", "--format", "{{.Mountpoint}}", &name]);
    assert_eq!(owner(&Path::new(directory.trim_end()).join("mine")), user);
    session.ok(["volume", "rm", &name]);
    assert!(!Path::new(directory.trim_end()).exists());
    session.traces().assert_nothing_left();
}

#[test]
fn every_backend_shows_a_guest_of_root_all_files_with_their_owners() {
    let session = Session::new(Actor::Root);
    session.import(&Image::Debian.layout(), REFERENCE);
    for backend in ["direct", "block", "virtiofsd", "materialize"] {
        let script = "stat -c '%a %u:%g' /etc/shadow /usr/bin/passwd; head -c 5 /etc/shadow";
        let finished = run(&session, &["--backend", backend], script).succeeded();
        assert_eq!(finished.stdout, "640 0:42\n4755 0:0\nroot:", "{backend}: {finished}");
    }
    // Nobody else reaches the set-user-ID programs of the tree that the last one unpacked.
    let bases = fs::read_dir(session.store().join("bases")).unwrap();
    let trees: Vec<_> = bases.map(|base| base.unwrap().path().join("tree-2")).filter(|tree| tree.exists()).collect();
    let [tree] = &trees[..] else { panic!("{trees:?}") };
    assert_eq!(tree.metadata().unwrap().mode() & 0o7777, 0o700);
    assert_eq!(tree.join("root/usr/bin/passwd").metadata().unwrap().mode() & 0o7777, 0o4755);
    let seen = Actor::User.command(Path::new("/usr/bin/stat")).arg(tree.join("root/usr/bin/passwd")).output().unwrap();
    assert!(!seen.status.success());
    session.traces().assert_nothing_left();
}

#[test]
fn no_program_of_a_machine_of_root_runs_as_root_and_its_disk_is_taken_over() {
    let (session, shared) = of_root();
    let (user, _) = Actor::User.ids();
    let volume = format!("{}:/w", shared.display());
    let run = ["run", "--accel", "tcg", "--as", "lamina-test", "--detach", "--keep=1G", "--name", "m", "-v", &volume];
    session.ok(run.iter().chain(&[REFERENCE, "--", "/bin/sh", "-c", "echo kept >> /kept; sleep 1000"]));
    let mut seen = Vec::new();
    for process in session.traces().processes() {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid.as_raw_nonzero())).unwrap_or_default();
        let id =
            status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse::<u32>().ok());
        let ours = ["__supervise", "__clean"].iter().any(|word| process.command.contains(word));
        assert!(ours || id == Some(user), "{process:?} runs as {id:?}");
        seen.push(process.command);
    }
    for program in ["qemu-system-x86_64", "__share", "passt"] {
        assert!(seen.iter().any(|command| command.contains(program)), "{program} in {seen:?}");
    }
    let has_written = |lines: usize| {
        until("the command writes", || {
            session.run(["exec", "m", "--", "cat", "/kept"]).stdout.lines().count() == lines
        });
    };
    has_written(1);
    session.ok(["stop", "m"]);
    let disk = session.machine_directory("m").join("disk.ext4");
    assert_eq!(owner(&disk), user);
    // As an earlier version left it.
    chown(&disk, Some(0), Some(0)).unwrap();
    session.ok(["start", "m"]);
    assert_eq!(owner(&disk), user);
    has_written(2);
    session.ok(["rm", "--force", "m"]);
    session.traces().assert_nothing_left();
}

/// Where `cargo install` puts it: in root's home, which no other user can enter.
#[test]
fn programs_of_a_machine_of_root_start_although_their_user_has_no_way_to_them() {
    let (session, shared) = of_root();
    let (user, _) = Actor::User.ids();
    let private = session.work("private");
    fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).unwrap();
    let program = private.join("lamina");
    fs::copy(session.program("lamina").get_program(), &program).unwrap();
    let volume = format!("{}:/w", shared.display());
    let mut lamina = session.command(&program);
    lamina.args(["run", "--accel", "tcg", "--as", "lamina-test", "-v", &volume, REFERENCE, "touch", "/w/made"]);
    Finished::of(&mut lamina).succeeded();
    assert_eq!(owner(&shared.join("made")), user);
    session.traces().assert_nothing_left();
}
