//! Mounts of unusual images, under damage, load and signals, and with other users.

mod load;
mod read_errors;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use composefs_fuse::stats::Snapshot;
use end_to_end::Started;
use end_to_end::layout::Layer;
use end_to_end::programs::installed;
use end_to_end::{Actor, Finished, Layout, Session, until};
use rustix::process::{Pid, Signal, kill_process};

const REFERENCE: &str = "lamina.test/image:1";

end_to_end::on_transports! {
    image_of_127_layers_shows_each_and_the_topmost_wins,
    sparse_file_of_40_gib_is_stored_small_and_read_anywhere,
    names_of_255_bytes_are_listed_and_found_and_longer_ones_refused,
    terminated_server_goes_although_files_are_open,
    mount_of_a_killed_server_is_cleared_although_files_are_open,
    mount_of_a_stopped_server_is_taken_away_and_a_busy_one_is_said_to_be_busy,
    read_that_fails_fails_alone_and_until_it_can_be_done_again,
    only_who_mounts_gets_in_and_reads_all_unless_others_are_let_in_and_checked,
}

fn session_with(layers: &[Layer]) -> Session {
    let session = Session::user();
    session.import(Layout::of(layers).path(), REFERENCE);
    session
}

/// Runs a shell script as the session's user, in `directory`.
fn shell(session: &Session, directory: &Path, script: &str) -> Finished {
    Finished::of(session.command(&installed("sh")).args(["-c", script]).current_dir(directory))
}

fn stats(session: &Session, point: &Path) -> Snapshot {
    serde_json::from_str(&session.ok(["stats", "--json", point.to_str().unwrap()])).unwrap()
}

/// The processes of the session that serve a mount.
fn servers(session: &Session) -> Vec<Pid> {
    let serves = |pid: Pid| {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).into_iter().flatten();
        descriptors.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|it| it == Path::new("/dev/fuse")))
    };
    session.traces().processes().iter().map(|process| process.pid).filter(|pid| serves(*pid)).collect()
}

/// A process of the session's user that has `file` open until it is ended.
fn holder(session: &Session, file: &Path) -> Started {
    let mut cat = session.command(&installed("sh"));
    cat.args(["-c", "exec 9< \"$0\"; echo open; exec sleep 600"]).arg(file);
    let mut holder = session.start(cat);
    let mut said = [0; 5];
    std::io::Read::read_exact(holder.child.stdout.as_mut().unwrap(), &mut said).expect("the file can be opened");
    holder
}

fn end(holder: Started) {
    holder.signal(Signal::KILL);
    assert!(!holder.finish().status.success());
}

fn image_of_127_layers_shows_each_and_the_topmost_wins() {
    const LAYERS: usize = 127;
    let layer = |number: usize| {
        let own = format!("own/{number}");
        let content = format!("layer {number}");
        Layer::of_files(&[(&own, content.as_bytes()), ("shared/file", content.as_bytes())])
    };
    let session = session_with(&(0..LAYERS).map(layer).collect::<Vec<_>>());
    let point = session.mount(REFERENCE, "mounted");
    let read = shell(&session, &point, "ls own | wc -l; cat shared/file; echo; cat own/0; echo; cat own/* | wc -c");
    let bytes: usize = (0..LAYERS).map(|number| format!("layer {number}").len()).sum();
    assert_eq!(read.succeeded().stdout, format!("{LAYERS}\nlayer 126\nlayer 0\n{bytes}\n"));
    let open = std::fs::read_dir(format!("/proc/{}/fd", servers(&session)[0].as_raw_nonzero())).unwrap().count();
    assert!(open <= 3 * LAYERS + 32, "{open} descriptors");
    session.umount(&point);
    session.traces().assert_nothing_left();
}

fn sparse_file_of_40_gib_is_stored_small_and_read_anywhere() {
    const SIZE: u64 = 40 << 30;
    let session = Session::user();
    let work = session.work("sparse");
    let file = File::create(work.join("disk")).unwrap();
    file.set_len(SIZE).unwrap();
    for (offset, content) in [(0, b"front"), (SIZE / 2 + 3, b"midst"), (SIZE - 5, b"behin")] {
        file.write_all_at(content, offset).unwrap();
    }
    let tar = Command::new(installed("tar"))
        .args(["--create", "--sparse", "--format=posix", "--directory"])
        .arg(&work)
        .arg("disk")
        .output()
        .unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    session.import(Layout::of(&[Layer::of_tar(tar.stdout)]).path(), REFERENCE);
    let point = session.mount(REFERENCE, "mounted");
    let script = format!(
        "stat -c '%s' disk; du --block-size=1M disk | cut -f1
         piece() {{ dd if=disk bs=1 count=5 skip=$1 status=none; echo; }}
         piece 0; piece {}; piece {}
         dd if=disk bs=1M count=1 skip=30000 status=none | tr -d '\\0' | wc -c",
        SIZE / 2 + 3,
        SIZE - 5
    );
    let read = shell(&session, &point, &script).succeeded();
    assert_eq!(read.stdout, format!("{SIZE}\n1\nfront\nmidst\nbehin\n0\n"));
    session.umount(&point);
    let stored = Finished::of(Command::new(installed("du")).args(["-sm"]).arg(session.store())).succeeded().stdout;
    let megabytes: u64 = stored.split_whitespace().next().unwrap().parse().unwrap();
    assert!(megabytes < 10, "{megabytes} MB stored");
}

fn names_of_255_bytes_are_listed_and_found_and_longer_ones_refused() {
    let long = "n".repeat(255);
    let path = [long.as_str(); 12].join("/");
    let session = session_with(&[Layer::of_files(&[(&path, b"deep")])]);
    let point = session.mount(REFERENCE, "mounted");
    // Step by step: the whole path is almost as long as one system call can take (PATH_MAX is 4,096 bytes).
    let script =
        format!("for step in 1 2 3 4 5 6 7 8 9 10 11; do cd {long} || exit 1; done; ls; cat {long}; cat {long}n");
    let read = shell(&session, &point, &script);
    assert_eq!(read.stdout, format!("{long}\ndeep"), "{read}");
    assert!(read.stderr.contains("File name too long"), "{read}");
    session.umount(&point);
}

#[test]
fn twenty_mounts_of_one_base_are_served_apart_and_leave_nothing() {
    let session = session_with(&[Layer::of_files(&[("file", b"content")])]);
    let points: Vec<PathBuf> = (0..20).map(|number| session.mount(REFERENCE, &format!("mounted-{number}"))).collect();
    assert_eq!(servers(&session).len(), points.len());
    for point in &points {
        assert_eq!(shell(&session, point, "cat file").succeeded().stdout, "content");
        assert_eq!(stats(&session, point).count("READ"), 1);
    }
    for point in &points {
        session.umount(point);
    }
    session.traces().assert_nothing_left();
}

fn terminated_server_goes_although_files_are_open() {
    let session = session_with(&[Layer::of_files(&[("file", b"content")])]);
    let point = session.mount(REFERENCE, "mounted");
    let holder = holder(&session, &point.join("file"));
    kill_process(servers(&session)[0], Signal::TERM).unwrap();
    until("the mount to go", || session.traces().mounts().is_empty());
    end(holder);
    session.traces().assert_nothing_left();
}

/// The server panics at the first read of content. The kernel, which wanted to read ahead, asks again.
#[test]
fn panic_of_the_server_costs_one_message_and_the_mount_goes_on() {
    let session = session_with(&[Layer::of_files(&[("first", b"one"), ("second", b"two")])]);
    let point = session.work("mounted");
    let mut lamina = session.lamina(["mount", REFERENCE, point.to_str().unwrap()]);
    Finished::of(lamina.env("LAMINA_FAULT", "content-asked:panic")).succeeded();
    let [server] = servers(&session)[..] else { panic!("one server: {:?}", servers(&session)) };
    let read = shell(&session, &point, "cat first second; ls").succeeded();
    assert_eq!(read.stdout, "onetwofirst\nsecond\n", "{read}");
    let counted = stats(&session, &point);
    assert_eq!((counted.panics, counted.count("READ")), (1, 3), "{counted}");
    assert_eq!(servers(&session), [server]);
    session.umount(&point);
    session.traces().assert_nothing_left();
}

fn mount_of_a_killed_server_is_cleared_although_files_are_open() {
    let session = session_with(&[Layer::of_files(&[("file", b"content")])]);
    let point = session.mount(REFERENCE, "mounted");
    let holder = holder(&session, &point.join("file"));
    session.run(["umount", point.to_str().unwrap()]).refused("busy");
    kill_process(servers(&session)[0], Signal::KILL).unwrap();
    until("the server to end", || servers(&session).is_empty());
    session.umount(&point);
    assert!(session.traces().mounts().is_empty());
    end(holder);
    let again = session.mount(REFERENCE, "mounted");
    assert_eq!(shell(&session, &again, "cat file").succeeded().stdout, "content");
    session.umount(&again);
    session.traces().assert_nothing_left();
}

/// A server that is about to end is not asked anything: a stopped one would never answer.
fn mount_of_a_stopped_server_is_taken_away_and_a_busy_one_is_said_to_be_busy() {
    let session = session_with(&[Layer::of_files(&[("file", b"content")])]);
    let point = session.mount(REFERENCE, "mounted");
    let server = servers(&session)[0];
    kill_process(server, Signal::STOP).unwrap();
    session.umount(&point);
    assert!(session.traces().mounts().is_empty());
    kill_process(server, Signal::CONT).unwrap();
    session.traces().assert_nothing_left();

    let point = session.mount(REFERENCE, "mounted");
    let holder = holder(&session, &point.join("file"));
    let server = servers(&session)[0];
    kill_process(server, Signal::STOP).unwrap();
    session.run(["umount", point.to_str().unwrap()]).refused("busy");
    session.ok(["umount", "--lazy", point.to_str().unwrap()]);
    kill_process(server, Signal::CONT).unwrap();
    end(holder);
    session.traces().assert_nothing_left();
}

fn read_that_fails_fails_alone_and_until_it_can_be_done_again() {
    let session = session_with(&[Layer::of_files(&[("first", &[b'a'; 8192]), ("last", &[b'z'; 8192])])]);
    let point = session.mount(REFERENCE, "mounted");
    let blobs =
        Finished::of(Command::new(installed("find")).arg(session.store().join("layers")).args(["-name", "blob"]));
    let path = PathBuf::from(blobs.succeeded().stdout.trim_end());
    let whole = std::fs::read(&path).unwrap();
    let begin_of_last = whole.iter().position(|byte| *byte == b'z').unwrap();
    let mut blob =
        File::options().write(true).open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    blob.set_len(begin_of_last as u64).unwrap();

    let read = shell(&session, &point, "cat last > /dev/null; cat first | wc -c; ls");
    assert!(read.stderr.contains("Input/output error"), "{read}");
    assert_eq!(read.stdout, "8192\nfirst\nlast\n", "{read}");
    assert!(stats(&session, &point).damaged > 0);

    blob.write_all(&whole).unwrap();
    assert_eq!(shell(&session, &point, "cat last | tr -d z | wc -c").succeeded().stdout, "0\n");
    session.umount(&point);
    session.traces().assert_nothing_left();
}

/// A file that every user may read, and one that only root may read.
fn open_and_closed() -> Layer {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode) in [("open", 0o644), ("closed", 0o600)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(4);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        archive.append_data(&mut header, path, &b"text"[..]).unwrap();
    }
    Layer::of_tar(archive.into_inner().unwrap())
}

/// Which files of a mount the user who mounted, root, and `nobody` can read: each the open and the closed one.
fn readers(session: &Session, point: &Path) -> [[bool; 2]; 3] {
    let nobody = || {
        let mut command = Command::new(installed("setpriv"));
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]);
        command
    };
    let reads = |mut command: Command, name: &str| command.arg(point.join(name)).output().unwrap().status.success();
    let of = |command: &dyn Fn() -> Command| ["open", "closed"].map(|name| reads(command(), name));
    let cat = installed("cat");
    [of(&|| session.command(&cat)), of(&|| Actor::Root.command(&cat)), of(&nobody)]
}

fn only_who_mounts_gets_in_and_reads_all_unless_others_are_let_in_and_checked() {
    let session = session_with(&[open_and_closed()]);
    let point = session.mount(REFERENCE, "private");
    assert_eq!(readers(&session, &point), [[true, true], [false, false], [false, false]]);
    session.umount(&point);

    let point = session.mount_with(REFERENCE, "public", &["--allow-other"]);
    assert_eq!(readers(&session, &point), [[true, false], [true, true], [true, false]]);
    session.umount(&point);
    session.traces().assert_nothing_left();
}
