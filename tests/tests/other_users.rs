//! What another local user does can neither stop this user nor decide what is deleted or ended.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::layout::Layer;
use end_to_end::programs::installed;
use end_to_end::{Actor, Finished, Layout, Session};
use serde_json::{Value, json};

const IMAGE: &str = "lamina.test/image:1";

fn image() -> Layout {
    Layout::of(&[Layer::of_files(&[("etc/motd", b"welcome\n")])])
}

/// A session of root with an image.
fn root() -> Session {
    let session = Session::new(Actor::Root);
    session.import(image().path(), IMAGE);
    session
}

/// A program that the ordinary user runs.
fn as_user(program: &str) -> Command {
    Actor::User.command(&installed(program))
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap_or_else(|error| panic!("{}: {error}", path.display())).mode() & 0o7777
}

/// Every file and directory below a path.
fn below(path: &Path) -> Vec<PathBuf> {
    let found = Finished::of(Command::new(installed("find")).arg(path).args(["!", "-type", "l"])).succeeded();
    found.stdout.lines().map(PathBuf::from).collect()
}

#[test]
fn locks_of_a_store_can_be_taken_by_its_owner_alone() {
    let session = root();
    let lock = session.store().join("lock");
    assert_eq!(mode(&lock), 0o600);
    let taken = Finished::of(as_user("flock").args(["--exclusive", "--nonblock"]).arg(&lock).arg("true"));
    assert!(!taken.status.success() && taken.stderr.contains("denied"), "{taken}");
    // While something is made, only the owner can open its lock and the lease, too.
    let made = session.start(session.faulty(layer_store::FaultPoint::BaseClaimed, true, &["prepare", IMAGE]));
    made.await_stop();
    for directory in ["locks", "leases"] {
        let files = std::fs::read_dir(session.store().join(directory)).expect("a directory of the store");
        let files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
        assert!(!files.is_empty(), "{directory}");
        files.iter().for_each(|file| assert_eq!(mode(file), 0o600, "{}", file.display()));
    }
    made.signal(rustix::process::Signal::KILL);
    drop(made.finish());
    session.ok(["prepare", IMAGE]);
}

/// A store of the last version has a lock that everybody may open.
#[test]
fn lock_that_another_user_holds_since_the_last_version_does_not_stop_the_owner() {
    let session = root();
    let lock = session.store().join("lock");
    std::fs::set_permissions(&lock, PermissionsExt::from_mode(0o644)).expect("as the last version made it");
    let mut holder = as_user("flock");
    holder.arg("--exclusive").arg(&lock).args(["sh", "-c", "echo taken >&2; exec sleep 1000"]);
    let mut holder = session.start(holder);
    holder.await_line("taken");
    for arguments in [&["images"][..], &["prepare", IMAGE], &["gc"]] {
        session.ok(arguments);
    }
    assert_eq!(mode(&lock), 0o600);
    holder.child.kill().expect("the holder still runs");
    let _ = holder.child.wait();
}

#[test]
fn whatever_others_put_into_open_leases_neither_stops_the_owner_nor_holds_anything() {
    let session = root();
    let leases = session.store().join("leases");
    std::fs::set_permissions(&leases, PermissionsExt::from_mode(0o1777)).expect("leases for everybody");
    let script = "cd \"$0\" && mkfifo pipe && ln -s /etc/shadow link && mkdir directory && touch directory/file && truncate --size=6G huge \
                  && echo nothing > unreadable && chmod 000 unreadable && head -c 100000 /dev/urandom > noise";
    Finished::of(as_user("sh").arg("-c").arg(script).arg(&leases)).succeeded();
    // These hold locks on files that cannot be leases.
    let mut holder = as_user("sh");
    let hold = "exec 3<\"$0/huge\" 4<\"$0/noise\" && flock 3 && flock 4 && echo taken >&2 && exec sleep 1000";
    let mut holder = session.start({
        holder.arg("-c").arg(hold).arg(&leases);
        holder
    });
    holder.await_line("taken");
    for arguments in [&["images"][..], &["prepare", IMAGE], &["gc", "--dry-run"], &["gc"], &["rmi", IMAGE], &["gc"]] {
        session.ok(arguments);
    }
    assert_eq!(std::fs::read_dir(session.store().join("layers/sha256")).expect("layers").count(), 0);
    assert!(std::fs::metadata("/etc/shadow").is_ok(), "what a link leads to is left alone");
    let left: Vec<_> = std::fs::read_dir(&leases).expect("leases").flatten().map(|file| file.file_name()).collect();
    assert!(left.iter().all(|name| name == "noise" || name == "huge"), "{left:?}");
    holder.child.kill().expect("the holder still runs");
    let _ = holder.child.wait();
}

/// What a user wants root to do: end a process, and delete a directory.
fn hostile_record(session: &Session, state: &Path, victim: &Path, process: u32) {
    let machine = state.join("lamina/machines/m");
    std::fs::create_dir_all(&machine).expect("a directory of a machine");
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
    // proc_pid_stat(5): the start time is field 22; the second is the last with spaces.
    let started: u64 =
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).unwrap().parse().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot's id");
    let record = json!({
        "name": "m", "root": "x", "command": ["x"], "created": 1, "ephemeral": true, "boot_id": boot.trim(),
        "state": "running", "since": 1, "sockets": victim,
        "processes": [{ "role": "lamina", "pid": 1, "started": 1 }, { "role": "hypervisor", "pid": process, "started": started }],
    });
    std::fs::write(machine.join("machine.json"), record.to_string()).expect("a record");
    std::fs::write(machine.join("lock"), "").expect("a lock");
    assert!(session.directory().exists());
}

#[test]
fn state_directory_of_another_user_is_refused() {
    let session = Session::new(Actor::Root);
    let (victim, state) = (session.work("victim"), session.directory().join("theirs"));
    std::fs::write(victim.join("precious"), "kept").expect("a file");
    let mut sleeper = session.start({
        let mut sleep = Command::new(installed("sleep"));
        sleep.arg("1000");
        sleep
    });
    hostile_record(&session, &state, &victim, sleeper.child.id());
    Finished::of(Command::new(installed("chown")).args(["-R", "lamina-test:"]).arg(&state)).succeeded();
    let ps = |arguments: &[&str]| Finished::of(session.lamina(arguments).env("XDG_STATE_HOME", &state));
    for arguments in [&["ps", "--all"][..], &["rm", "m"], &["rm", "--force", "m"]] {
        let refused = ps(arguments);
        assert!(!refused.status.success() && refused.stderr.contains("belongs to user lamina-test"), "{refused}");
    }
    // A directory that root owns, in which everybody may write.
    Finished::of(Command::new(installed("chown")).args(["-R", "root:"]).arg(&state)).succeeded();
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o777)).expect("open to everybody");
    let refused = ps(&["ps", "--all"]);
    assert!(!refused.status.success() && refused.stderr.contains("others can write to it"), "{refused}");
    // A record of another user in root's own directory.
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o755)).expect("closed again");
    Actor::User.own(&state.join("lamina/machines/m/machine.json"));
    drop(ps(&["ps", "--all"]));
    assert!(victim.join("precious").exists() && state.join("lamina/machines/m").exists());
    assert_eq!(sleeper.child.try_wait().expect("a child"), None, "the process runs on");
    sleeper.child.kill().expect("the process still runs");
    let _ = sleeper.child.wait();
}

#[test]
fn only_a_directory_for_sockets_is_deleted_because_a_record_names_it() {
    let session = Session::user();
    let victim = session.work("victim");
    std::fs::write(victim.join("precious"), "kept").expect("a file");
    let state = session.directory().join("state");
    hostile_record(&session, &state, &victim, std::process::id());
    let record = state.join("lamina/machines/m/machine.json");
    let mut text: Value = serde_json::from_slice(&std::fs::read(&record).expect("a record")).expect("a record");
    text["processes"] = json!([{ "role": "lamina", "pid": 1, "started": 1 }]);
    text["name"] = json!("victim");
    std::fs::write(&record, text.to_string()).expect("a record");
    Finished::of(Command::new(installed("chown")).args(["-R", "lamina-test:"]).arg(state.join("lamina"))).succeeded();
    session.ok(["ps", "--all"]);
    assert!(!state.join("lamina/machines/m").exists(), "the machine of a killed supervisor is removed");
    assert!(victim.join("precious").exists(), "and nothing else");
}

#[test]
fn odd_record_of_a_machine_neither_hangs_nor_hides_the_others() {
    let session = Session::user();
    let machines = session.directory().join("state/lamina/machines");
    let script = "mkdir -p \"$0/pipe\" \"$0/link\" \"$0/huge\" && chmod 700 \"$0\" && mkfifo \"$0/pipe/machine.json\" && \
                  ln -s /etc/passwd \"$0/link/machine.json\" && truncate --size=6G \"$0/huge/machine.json\"";
    Finished::of(session.command(&installed("sh")).arg("-c").arg(script).arg(&machines)).succeeded();
    session.ok(["ps", "--all"]);
    for name in ["pipe", "link", "huge"] {
        let removed = session.run(["rm", name]);
        assert!(removed.status.code().is_some() && !removed.stderr.contains("root:"), "{removed}");
    }
}

/// `/tmp/lamina-UID` is where sockets are without `XDG_RUNTIME_DIR` and a login session.
#[test]
fn directory_that_somebody_made_first_in_tmp_is_no_obstacle() {
    let session = Session::user();
    session.import(image().path(), IMAGE);
    let (uid, _) = Actor::User.ids();
    let made_first = PathBuf::from(format!("/tmp/lamina-{uid}"));
    let _ = std::fs::remove_dir(&made_first);
    let was_made = std::fs::create_dir(&made_first).is_ok();
    let point = session.work("mounted");
    let command = |arguments: &[&str]| {
        let mut command = session.lamina(arguments);
        command.env_remove("XDG_RUNTIME_DIR");
        Finished::of(&mut command)
    };
    let path = point.to_str().expect("a plain path");
    let mounted = command(&["mount", IMAGE, path]);
    let counted = command(&["stats", path]);
    let ended = command(&["umount", path]);
    if was_made {
        std::fs::remove_dir(&made_first).expect("still empty");
    }
    mounted.succeeded();
    counted.succeeded();
    ended.succeeded();
    session.await_no_process();
}

/// A command with a umask.
fn with_umask(session: &Session, umask: &str, arguments: &[&str]) -> Finished {
    let lamina = session.lamina(arguments);
    let mut command = session.command(&installed("sh"));
    command
        .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")])
        .arg(lamina.get_program())
        .args(lamina.get_args());
    Finished::of(&mut command)
}

#[test]
fn umask_decides_neither_who_can_change_a_store_nor_who_can_read_what_is_in_it() {
    for umask in ["000", "077", "022"] {
        let session = Session::new(Actor::Root);
        let layout = image();
        let path = layout.path().to_str().expect("a plain path");
        with_umask(&session, umask, &["import", path, "--tag", IMAGE]).succeeded();
        with_umask(&session, umask, &["prepare", IMAGE]).succeeded();
        for found in below(&session.store()) {
            assert_eq!(mode(&found) & 0o022, 0, "umask {umask}: others can write {}", found.display());
        }
        assert_eq!(mode(&session.store().join("lock")), 0o600, "umask {umask}");
        // The directory of the store is the session's: everybody may enter it.
        let reader = Session::user();
        let mut command = reader.lamina(["prepare", IMAGE]);
        let read = Finished::of(command.env("LAMINA_ADDITIONAL_STORES", session.store())).succeeded();
        assert!(!read.stderr.contains("copying"), "umask {umask}: {read}");
        // The umask decides who may enter a new store.
        let made = session.directory().join("work/made");
        with_umask(&session, umask, &["import", path, "--store", made.to_str().expect("a plain path")]).succeeded();
        assert_eq!(mode(&made), if umask == "077" { 0o700 } else { 0o755 }, "umask {umask}");
    }
}

#[test]
fn links_in_a_store_are_not_followed() {
    let session = root();
    let name =
        std::fs::read_dir(session.store().join("images")).expect("names").flatten().next().expect("a name").path();
    std::fs::remove_file(&name).expect("removed");
    symlink("/etc/shadow", &name).expect("a link");
    let refused = session.run(["prepare", IMAGE]);
    refused.refused("it is a symbolic link");
    assert!(refused.stderr.contains(name.to_str().expect("a plain path")), "{refused}");
}

#[test]
fn wait_for_the_lock_of_a_store_names_its_holder_and_can_be_interrupted() {
    let session = root();
    let collector = session.start(session.faulty(layer_store::FaultPoint::GarbageFound, true, &["gc"]));
    collector.await_stop();
    let mut waiting = session.start(session.lamina(["prepare", IMAGE]));
    let line = waiting.await_line("locked");
    let holder = format!("(process {})", collector.child.id());
    assert!(line.contains(&holder) && line.contains(session.store().to_str().expect("a plain path")), "{line}");
    waiting.signal(rustix::process::Signal::INT);
    assert!(!waiting.finish().status.success());
    collector.signal(rustix::process::Signal::CONT);
    assert!(collector.finish().status.success());
    session.ok(["prepare", IMAGE]);
}
