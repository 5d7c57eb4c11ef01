//! An image as a tree through kernel FUSE, mounted by an ordinary user.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use end_to_end::layout::Layer;
use end_to_end::programs::installed;
use end_to_end::{Actor, Finished, Image, Layout, Session, Transport, deviations, oracle, until};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

const REFERENCE: &str = "lamina.test/image:1";

end_to_end::on_transports! {
    mounted_debian_equals_what_umoci_unpacks,
    mounted_npm_and_pypi_trees_equal_what_umoci_unpacks,
    mounted_corner_cases_equal_what_umoci_unpacks,
    mounted_tree_takes_no_change,
    programs_that_keep_extended_attributes_find_none_and_say_nothing,
    fusermount_ends_the_server_too,
    mount_of_a_killed_server_is_cleared_by_umount,
    late_end_of_a_server_leaves_the_next_mount_at_its_place,
    umount_returns_when_the_server_has_let_go_of_the_store,
    lazy_umount_does_not_wait_for_open_files,
    collection_waits_for_a_server_whose_mount_another_program_took_away,
    aborted_connection_ends_the_server_and_takes_the_mount_away,
    image_can_be_mounted_several_times,
}

fn session_with(image: Image) -> Session {
    let session = Session::user();
    session.import(&image.layout(), REFERENCE);
    session
}

fn session_with_small_image() -> Session {
    let session = Session::user();
    session.import(Layout::of(&[Layer::of_files(&[("etc/os-release", b"ID=small\n")])]).path(), REFERENCE);
    session
}

/// The process that serves the mount: the one in the session that has /dev/fuse open. fusermount3 has it open too, and
/// may still be running when the tree can already be read.
fn server(session: &Session) -> u32 {
    let servers: Vec<u32> = session
        .traces()
        .processes()
        .iter()
        .filter(|process| !process.command.starts_with("fusermount3"))
        .filter_map(|process| u32::try_from(process.pid.as_raw_nonzero().get()).ok())
        .filter(|pid| descriptors(*pid).iter().any(|target| target == Path::new("/dev/fuse")))
        .collect();
    assert_eq!(servers.len(), 1, "processes that serve a mount: {:?}", session.traces().processes());
    servers[0]
}

fn descriptors(pid: u32) -> Vec<std::path::PathBuf> {
    let list = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    list.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the server's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("VmRSS in kB")
}

fn mounted_tree_equals_the_oracle(image: Image) {
    let session = session_with(image);
    let point = session.mount(REFERENCE, "mounted");
    oracle::tree_of(image).assert_same(&session.tree(&point), deviations::MOUNTED, image.name());
    session.umount(&point);
    session.traces().assert_nothing_left();
}

fn mounted_debian_equals_what_umoci_unpacks() {
    mounted_tree_equals_the_oracle(Image::Debian);
}

fn mounted_npm_and_pypi_trees_equal_what_umoci_unpacks() {
    mounted_tree_equals_the_oracle(Image::Trees);
}

fn mounted_corner_cases_equal_what_umoci_unpacks() {
    mounted_tree_equals_the_oracle(Image::Corners);
}

#[test]
fn mount_program_shows_the_same_tree_as_lamina_mount() {
    let session = session_with(Image::Corners);
    let base = session.ok(["prepare", REFERENCE]);
    let point = session.work("mounted");
    for transport in [Transport::Device, Transport::Fuser] {
        let mut program = session.program("composefs-fuse");
        Finished::of(program.args(["--transport", transport.word(), base.trim()]).arg(&point)).succeeded();
        oracle::tree_of(Image::Corners).assert_same(&session.tree(&point), deviations::MOUNTED, "composefs-fuse");
        session.umount(&point);
    }
    session.traces().assert_nothing_left();
}

#[test]
fn added_layer_directory_lies_on_top_and_belongs_to_root() {
    let session = session_with(Image::Debian);
    let agent = session.work("agent");
    std::fs::create_dir_all(agent.join("etc")).unwrap();
    std::fs::write(agent.join("etc/os-release"), "ID=replaced\n").unwrap();
    assert!(Command::new("chown").args(["-R", "--reference"]).arg(&agent).arg(&agent).status().unwrap().success());
    let base = session.ok(["prepare", REFERENCE, "--layer", agent.to_str().unwrap()]);
    let point = session.work("mounted");
    Finished::of(session.program("composefs-fuse").arg(base.trim()).arg(&point)).succeeded();
    let tree = session.tree(&point);
    let added = tree.get("etc/os-release").unwrap();
    assert_eq!((added["size"].as_str(), added["owner"].as_str()), ("12", "0:0"));
    assert!(tree.get("usr/bin/python3").is_some(), "the image is below");
    session.umount(&point);
}

fn mounted_tree_takes_no_change() {
    let session = session_with_small_image();
    let point = session.mount(REFERENCE, "mounted");
    let before = session.tree(&point);
    for script in [
        "echo x > etc/os-release",
        "touch new",
        "rm etc/os-release",
        "mkdir directory",
        "chmod 777 etc",
        "ln etc/os-release link",
    ] {
        let finished = Finished::of(session.command(&installed("sh")).args(["-c", script]).current_dir(&point));
        assert!(finished.stderr.contains("Read-only file system"), "{finished}");
    }
    assert_eq!(session.tree(&point), before);
    session.umount(&point);
}

fn programs_that_keep_extended_attributes_find_none_and_say_nothing() {
    let session = session_with_small_image();
    let point = session.mount(REFERENCE, "mounted");
    let copy = session.work("copy");
    for script in [
        "tar --xattrs -cf - . | tar --xattrs -tf -",
        "cp -a --preserve=xattr . \"$0\"",
        "find . -exec getfattr -h -m - {} +",
        "mv etc/os-release \"$0\" 2> /dev/null; test -e etc/os-release",
    ] {
        let finished =
            Finished::of(session.command(&installed("sh")).args(["-c", script]).arg(&copy).current_dir(&point));
        assert!(finished.status.success() && finished.stderr.is_empty(), "{script}: {finished}");
    }
    session.umount(&point);
    session.traces().assert_nothing_left();
}

fn fusermount_ends_the_server_too() {
    let session = session_with_small_image();
    let point = session.mount(REFERENCE, "mounted");
    server(&session);
    Finished::of(session.command(&installed("fusermount3")).arg("-u").arg(&point)).succeeded();
    session.traces().assert_nothing_left();
}

#[test]
fn foreground_server_serves_until_it_is_told_to_end() {
    for signal in [Signal::INT, Signal::TERM] {
        let session = session_with_small_image();
        let point = session.work("mounted");
        let mut mount = session.start(session.lamina(["mount", "--foreground", REFERENCE, point.to_str().unwrap()]));
        while session.traces().mounts().is_empty() {
            assert!(mount.child.try_wait().unwrap().is_none(), "{}", mount.finish());
        }
        // The helper mounts before the server has the device. An answer shows that the server has it.
        assert!(session.tree(&point).get("etc/os-release").is_some());
        assert_eq!(server(&session), mount.child.id());
        mount.signal(signal);
        let finished = mount.finish();
        assert!(!finished.stderr.contains("panicked"), "{finished}");
        session.traces().assert_nothing_left();
    }
}

fn mount_of_a_killed_server_is_cleared_by_umount() {
    let session = session_with_small_image();
    let point = session.mount(REFERENCE, "mounted");
    let pid = rustix::process::Pid::from_raw(server(&session).cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    session.umount(&point);
    session.traces().assert_nothing_left();
    let again = session.mount(REFERENCE, "mounted");
    assert!(session.tree(&again).get("etc/os-release").is_some());
    session.umount(&again);
}

#[test]
fn umount_leaves_mounts_of_other_programs_alone() {
    let session = Session::new(Actor::Root);
    let foreign = session.work("foreign");
    mount("none", &foreign, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
    for how in [&["umount"][..], &["umount", "--lazy"]] {
        let refused = session.run([how, &[foreign.to_str().unwrap()]].concat());
        refused.refused(&format!("not a mount of Lamina; take it away with: umount {}", foreign.display()));
    }
    unmount(&foreign, UnmountFlags::empty()).expect("the tmpfs is still there");
    session.traces().assert_nothing_left();
}

#[test]
fn stats_of_a_mount_that_was_made_without_a_runtime_directory_are_found_with_one() {
    let session = session_with_small_image();
    let point = session.work("mounted");
    let mut mount = session.lamina(["mount", "--", REFERENCE, point.to_str().unwrap()]);
    Finished::of(mount.env_remove("XDG_RUNTIME_DIR")).succeeded();
    session.ok(["stats", point.to_str().unwrap()]);
    session.umount(&point);
    session.traces().assert_nothing_left();
}

fn late_end_of_a_server_leaves_the_next_mount_at_its_place() {
    let session = session_with_small_image();
    let point = session.mount(REFERENCE, "mounted");
    let pid = rustix::process::Pid::from_raw(server(&session).cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    Finished::of(session.command(&installed("fusermount3")).arg("-u").arg(&point)).succeeded();
    // The kernel reuses the numbers of the mount that is just gone.
    let point = session.mount(REFERENCE, "mounted");
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    until("the first server to end", || session.traces().processes().iter().all(|process| process.pid != pid));
    assert!(session.tree(&point).get("etc/os-release").is_some());
    session.umount(&point);
    session.traces().assert_nothing_left();
}

/// The files in the store with which a process says that it uses something.
fn leases(session: &Session) -> usize {
    std::fs::read_dir(session.store().join("leases")).expect("the leases").count()
}

fn umount_returns_when_the_server_has_let_go_of_the_store() {
    let session = session_with_small_image();
    for _ in 0..5 {
        let point = session.mount(REFERENCE, "mounted");
        assert_eq!(leases(&session), 1);
        session.umount(&point);
        assert_eq!(leases(&session), 0);
    }
    // Even if the server is slow.
    let point = session.mount(REFERENCE, "mounted");
    let pid = rustix::process::Pid::from_raw(server(&session).cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let mut umount = session.start(session.lamina([OsStr::new("umount"), point.as_os_str()]));
    while !session.traces().mounts().is_empty() {
        assert!(umount.child.try_wait().unwrap().is_none(), "{}", umount.finish());
    }
    assert!(umount.child.try_wait().unwrap().is_none(), "{}", umount.finish());
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    let finished = umount.finish().succeeded();
    assert_eq!((leases(&session), finished.stderr.as_str()), (0, ""));
    session.traces().assert_nothing_left();
}

fn lazy_umount_does_not_wait_for_open_files() {
    let session = session_with_small_image();
    let point = session.mount(REFERENCE, "mounted");
    let open = Actor::User.act(|| std::fs::File::open(point.join("etc/os-release"))).unwrap();
    session.ok([OsStr::new("umount"), OsStr::new("--lazy"), point.as_os_str()]);
    assert_eq!((session.traces().mounts().len(), leases(&session)), (0, 1));
    let mut content = String::new();
    std::io::Read::read_to_string(&mut &open, &mut content).unwrap();
    assert_eq!(content, "ID=small\n");
    drop(open);
    session.traces().assert_nothing_left();
    assert_eq!(leases(&session), 0);
}

fn collection_waits_for_a_server_whose_mount_another_program_took_away() {
    let session = session_with_small_image();
    let point = session.mount(REFERENCE, "mounted");
    session.ok(["rmi", REFERENCE]);
    let pid = rustix::process::Pid::from_raw(server(&session).cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    Finished::of(session.command(&installed("fusermount3")).arg("-u").arg(&point)).succeeded();
    let collection = session.start(session.lamina(["gc"]));
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    let finished = collection.finish().succeeded();
    let layers = std::fs::read_dir(session.store().join("layers/sha256")).unwrap().count();
    assert_eq!(layers, 0, "{finished}");
    session.traces().assert_nothing_left();
}

fn aborted_connection_ends_the_server_and_takes_the_mount_away() {
    let session = session_with_small_image();
    let point = session.mount(REFERENCE, "mounted");
    let number = Actor::User.act(|| std::fs::metadata(&point)).unwrap().dev();
    let connections = session.work("connections");
    mount("none", &connections, "fusectl", MountFlags::empty(), None).expect("fusectl");
    let abort = connections.join(rustix::fs::minor(number).to_string()).join("abort");
    std::fs::write(&abort, "1").unwrap_or_else(|error| panic!("{}: {error}", abort.display()));
    unmount(&connections, UnmountFlags::DETACH).expect("fusectl");
    session.traces().assert_nothing_left();
}

#[test]
fn server_keeps_few_descriptors_and_little_memory_whatever_is_read() {
    let session = session_with(Image::Trees);
    let point = session.mount(REFERENCE, "mounted");
    let pid = server(&session);
    Finished::of(session.command(&installed("find")).arg(&point).arg("-ls").stdout(std::process::Stdio::null()))
        .succeeded();
    let resident = resident_kib(pid);
    assert!(resident <= 40 << 10, "{resident} KiB resident after a find of the whole tree");
    let entries = session.tree(&point).len();
    let open = descriptors(pid);
    let layers = 4;
    assert!(open.len() <= 3 * layers + 32, "{} descriptors after reading {entries} files: {open:?}", open.len());
    session.umount(&point);
}

#[test]
fn mount_point_that_does_not_fit_is_refused_by_name() {
    let session = session_with_small_image();
    let full = session.work("full");
    std::fs::write(full.join("file"), "in the way").unwrap();
    let missing = session.directory().join("work/missing");
    for point in [&full, &full.join("file"), &missing] {
        session.run(["mount", REFERENCE, point.to_str().unwrap()]).refused(point.to_str().unwrap());
    }
    let point = session.work("free");
    session.run(["mount", "lamina.test/nothing:1", point.to_str().unwrap()]).refused("lamina.test/nothing:1");
    session.run(["umount", point.to_str().unwrap()]).refused(point.to_str().unwrap());
    session.traces().assert_nothing_left();
}

fn image_can_be_mounted_several_times() {
    let session = session_with_small_image();
    let (first, second) = (session.mount(REFERENCE, "first"), session.mount(REFERENCE, "second"));
    session.umount(&first);
    assert!(session.tree(&second).get("etc/os-release").is_some());
    // A mount that cannot be unmounted does not prevent the others from being unmounted.
    let [missing, second] = [session.work("none"), second].map(|point| point.display().to_string());
    session.run(["umount", &missing, &second]).refused(&missing);
    session.traces().assert_nothing_left();
}
