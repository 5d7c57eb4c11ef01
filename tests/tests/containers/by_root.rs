//! Containers that root starts belong to an ordinary user.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use end_to_end::{Actor, Finished, Image, Session, until};

use crate::fixture::REFERENCE;

fn of_root() -> Session {
    let session = Session::new(Actor::Root);
    session.import(&Image::Debian.layout(), REFERENCE);
    session
}

/// Runs a shell script as root of a container.
fn run(session: &Session, user: &str, options: &[&str], script: &str) -> Finished {
    let run = ["run", "--engine", "container", "--as", user, "--network", "none", "-u", "0:0", "-w", "/"];
    session.run(run.iter().chain(options).chain(&[REFERENCE, "--", "/bin/sh", "-c", script]))
}

/// The users of the host that a process and its descendants run as.
fn users_below(first: i32) -> Vec<u32> {
    let mut all: HashMap<i32, (i32, u32)> = HashMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        if let (Some(parent), Some(user)) = (field("PPid:"), field("Uid:")) {
            all.insert(id, (parent.parse().unwrap(), user.parse().unwrap()));
        }
    }
    let is_below = |mut id: i32| {
        while id != first {
            match all.get(&id) {
                Some((parent, _)) => id = *parent,
                None => return false,
            }
        }
        true
    };
    all.iter().filter(|(id, _)| is_below(**id)).map(|(_, (_, user))| *user).collect()
}

#[test]
fn no_process_of_a_container_of_root_is_root_of_the_host_and_what_it_keeps_stays() {
    let session = of_root();
    let (user, _) = Actor::User.ids();
    let shared = session.work("shared");
    fs::set_permissions(&shared, PermissionsExt::from_mode(0o777)).unwrap();
    let volume = format!("{}:/w", shared.display());
    // With a network, which another program carries.
    let start =
        ["run", "--engine", "container", "--as", "lamina-test", "--detach", "--keep", "--name", "m", "-v", &volume];
    let script = "echo kept >> /kept; setpriv --reuid 33 --regid 33 --clear-groups sleep 1000 & sleep 1000";
    session.ok(start.iter().chain(&["-u", "0:0", "-w", "/", REFERENCE, "--", "/bin/sh", "-c", script]));
    let stage = session.process("m", "container").as_raw_nonzero().get();
    until("the command's processes", || users_below(stage).contains(&(100_000 + 32)));
    let users = users_below(stage);
    assert!(users.len() > 4 && users.iter().all(|found| *found == user || *found >= 100_000), "{users:?}");
    let pasta = session.traces().processes().into_iter().find(|process| process.command.contains("--ns-ifname"));
    let pasta = pasta.expect("pasta runs").pid.as_raw_nonzero();
    assert_eq!(fs::metadata(format!("/proc/{pasta}")).unwrap().uid(), user);

    let seen =
        session.exec("m", "id -u; touch /w/made; stat -c '%u:%g' /etc/shadow /w/made; cat /kept; ls /sys/class/net");
    assert_eq!(seen.succeeded().stdout, "0\n0:42\n0:0\nkept\neth0\nlo\n");
    assert_eq!(shared.join("made").metadata().unwrap().uid(), user);
    session.ok(["stop", "--timeout", "1", "m"]);
    session.ok(["start", "m"]);
    until("the second run", || session.exec("m", "cat /kept").stdout == "kept\nkept\n");
    assert!(session.ok(["diff", "m"]).contains("A /kept\n"));
    session.ok(["rm", "--force", "m"]);
    assert!(!session.machine_directory("m").exists());
    session.traces().assert_nothing_left();
}

#[test]
fn container_of_root_reads_only_what_its_user_may_and_learns_nothing_of_roots_environment() {
    let session = of_root();
    let private = session.work("private");
    fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).unwrap();
    let volume = format!("{}:/w", private.display());
    run(&session, "lamina-test", &["-v", &volume], "true").failed("lamina-test");
    run(&session, "root", &[], "true").failed("root");
    let mut lamina = session.lamina(["run", "--engine", "container", "--as", "lamina-test", "--network", "none"]);
    lamina.args(["--detach", "--name", "m", REFERENCE, "--", "sleep", "1000"]).env("TOKEN", "a-secret-of-root");
    Finished::of(&mut lamina).succeeded();
    let stage = session.process("m", "container").as_raw_nonzero();
    let environment = fs::read(format!("/proc/{stage}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("a-secret-of-root"));
    session.ok(["rm", "--force", "m"]);
    session.traces().assert_nothing_left();
}

#[test]
fn user_without_subordinate_ids_gets_a_container_with_one_id_and_is_told() {
    let session = of_root();
    let finished = run(&session, "lamina", &[], "id -u; stat -c '%u:%g' /etc/shadow").succeeded();
    assert_eq!(finished.stdout, "0\n0:0\n", "{finished}");
    assert!(finished.stderr.contains("--add-subuids") && finished.stderr.contains("lamina"), "{finished}");
    session.traces().assert_nothing_left();
}

/// podman lays its own overlay over the mount (`:O`), as the container does over the view.
#[test]
fn podman_started_on_a_mounted_image_shows_what_a_container_shows() {
    let session = of_root();
    let tree = session.mount_with(REFERENCE, "tree", &["--allow-other"]);
    let script = r#"
cd /usr
find bin lib/x86_64-linux-gnu share/doc ../etc/apt ../var ../home -printf '%p %y %m %U:%G %s %l %T@\n' | sort | sha256sum
find bin lib/python3* -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum
mv /etc/apt /etc/moved && ls /etc/moved && rm /usr/bin/perl && echo x >> /etc/shadow
stat -c '%U:%G %a %n' /etc/shadow /etc/moved /tmp
chown 33:42 /srv && chmod 4711 /bin/su && stat -c '%u:%g %a' /srv /bin/su
"#;
    let ours = run(&session, "lamina-test", &[], script).succeeded();
    let (root, runroot) = (session.work("podman/root"), session.work("podman/run"));
    let mut podman = Command::new("/usr/bin/podman");
    podman.arg("--root").arg(&root).arg("--runroot").arg(&runroot);
    podman.args([
        "--log-level",
        "error",
        "--storage-driver",
        "vfs",
        "--runtime",
        "runc",
        "--cgroup-manager",
        "cgroupfs",
    ]);
    // Its default limits are higher than the limits of this host's root may be.
    podman.args([
        "run",
        "--rm",
        "--network",
        "none",
        "--ulimit",
        "nofile=1000:1000",
        "--ulimit",
        "nproc=1000:1000",
        "-w",
        "/",
    ]);
    podman.arg("--rootfs").arg(format!("{}:O", tree.display())).args(["/bin/sh", "-c", script]);
    let theirs = Finished::of(&mut podman).succeeded();
    assert_eq!(ours.stdout, theirs.stdout);
    session.umount(&tree);
    session.traces().assert_nothing_left();
}
