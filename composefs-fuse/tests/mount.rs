//! Real mounts, served by threads of the test itself, and the messages they cost.

#[path = "support/mod.rs"]
mod support;

use composefs_fuse::Server;
use composefs_fuse::linux::{ServeEvent, Unmount, Workers};
use composefs_fuse::mount::{MountError, MountOptions, MountPoint};
use composefs_fuse::stats::Snapshot;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use support::{Layer, MTIME, Stored as _};
use tempfile::TempDir;
use test_support::RingsOn;

/// A mount that ends with its test.
struct Mounted {
    server: Arc<Server>,
    point: MountPoint,
    workers: Option<Workers>,
    events: Receiver<ServeEvent>,
    _directories: [TempDir; 2],
}

impl Mounted {
    fn new(layer: Layer) -> Self {
        let (view, store) = layer.into_view();
        let directory = TempDir::new().unwrap();
        let server = Arc::new(Server::new(Arc::new(view)));
        let point = MountPoint::new(directory.path()).unwrap();
        let device = point.mount(&MountOptions::default()).unwrap_or_else(|error| panic!("cannot mount here: {error}"));
        let (sender, events) = channel();
        let workers = Workers::start(&server, device, 2, &sender).unwrap();
        Self { server, point, workers: Some(workers), events, _directories: [directory, store] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.point.path().join(name)
    }

    /// The messages that the kernel sends because of `act`.
    fn asked(&self, act: impl FnOnce()) -> Snapshot {
        let before = self.server.stats().snapshot();
        act();
        self.server.stats().snapshot().since(&before)
    }

    /// Lets the kernel learn what this server declines: it asks once for each mount.
    fn warm_up(&self, file: &str) {
        fs::read(self.path(file)).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        match self.point.unmount(Unmount::Lazy) {
            Ok(()) | Err(MountError::NotMounted(_)) => {}
            Err(error) => eprintln!("left behind: {error}"),
        }
        if let Some(workers) = self.workers.take() {
            workers.join();
        }
    }
}

/// A tree of `directories` with `files` files each.
fn forest(directories: usize, files: usize) -> Layer {
    let mut layer = Layer::new();
    for directory in 0..directories {
        layer = layer.directory(&format!("d{directory:03}"), 0o755);
        for file in 0..files {
            layer = layer.file(&format!("d{directory:03}/f{file:05}"), format!("{directory} {file}").as_bytes());
        }
    }
    layer.file("top", b"top").symlink("link", "top")
}

/// Looks at everything below `path` as `find -ls` does. Returns how many entries there are.
fn walk(path: &Path) -> u64 {
    let mut count = 1;
    assert!(path.symlink_metadata().unwrap().is_dir());
    for entry in path.read_dir().unwrap() {
        let entry = entry.unwrap().path();
        let metadata = entry.symlink_metadata().unwrap();
        if metadata.is_symlink() {
            entry.read_link().unwrap();
        }
        count += if metadata.is_dir() { walk(&entry) } else { 1 };
    }
    count
}

#[test]
fn a_first_walk_costs_two_messages_a_directory_and_no_lookup() {
    let mounted = Mounted::new(forest(40, 300));
    let mut entries = 0;
    let asked = mounted.asked(|| entries = walk(mounted.point.path()));
    assert_eq!(entries, 1 + 40 * 301 + 2);
    assert_eq!(asked.count("LOOKUP"), 0, "{asked}");
    assert!(asked.total() <= 2 * 41 + entries / 100, "{entries} entries:\n{asked}");
}

#[test]
fn a_second_walk_costs_nothing() {
    let mounted = Mounted::new(forest(10, 50));
    walk(mounted.point.path());
    let asked = mounted.asked(|| {
        walk(mounted.point.path());
        walk(mounted.point.path());
    });
    assert_eq!(asked.total(), 0, "{asked}");
}

#[test]
fn a_missing_name_is_asked_for_once() {
    let mounted = Mounted::new(forest(1, 1));
    let asked = mounted.asked(|| {
        for _ in 0..1000 {
            assert!(!mounted.path("d000/missing").exists());
        }
    });
    // One message for the directory, which was not listed before, and one for the name.
    assert_eq!((asked.count("LOOKUP"), asked.total()), (2, 2), "{asked}");
}

#[test]
fn a_small_file_costs_one_read_and_nothing_when_read_again() {
    let mounted = Mounted::new(forest(1, 20));
    mounted.warm_up("top");
    walk(mounted.point.path());
    let file = mounted.path("d000/f00007");
    let first = mounted.asked(|| assert_eq!(fs::read(&file).unwrap(), b"0 7"));
    assert_eq!((first.count("READ"), first.total()), (1, 1), "{first}");
    let again = mounted.asked(|| assert_eq!(fs::read(&file).unwrap(), b"0 7"));
    assert_eq!(again.total(), 0, "{again}");
}

#[test]
fn a_program_run_again_and_a_link_read_again_cost_nothing() {
    let script = Layer::new().file_with_mode("script", 0o755, b"#!/bin/sh\necho ran\n").symlink("link", "script");
    let mounted = Mounted::new(script);
    let act = || {
        assert_eq!(Command::new(mounted.path("script")).output().unwrap().stdout, b"ran\n");
        assert_eq!(fs::read_link(mounted.path("link")).unwrap(), Path::new("script"));
    };
    assert!(mounted.asked(act).count("READLINK") == 1);
    let again = mounted.asked(act);
    assert_eq!(again.total(), 0, "{again}");
}

#[test]
fn extended_attributes_of_a_tree_that_has_none_are_asked_for_once() {
    let mounted = Mounted::new(forest(10, 100));
    walk(mounted.point.path());
    let asked = mounted.asked(|| {
        for directory in 0..10 {
            for file in 0..100 {
                let path = mounted.path(&format!("d{directory:03}/f{file:05}"));
                let errno = rustix::fs::getxattr(&path, "user.any", &mut [0_u8; 16][..]).unwrap_err();
                assert_eq!(errno, rustix::io::Errno::NOTSUP);
            }
        }
    });
    assert!(asked.total() <= 1, "{asked}");
}

#[test]
fn a_tree_without_extended_attributes_lists_none_of_any_kind_of_file() {
    let mounted = Mounted::new(forest(1, 1).fifo("fifo"));
    for name in ["", "d000", "top", "link", "fifo"] {
        for _ in 0..2 {
            assert_eq!(rustix::fs::llistxattr(mounted.path(name), &mut [0_u8; 16][..]), Ok(0), "{name}");
            assert_eq!(rustix::fs::llistxattr_query(mounted.path(name)), Ok(0), "the size of {name}");
        }
    }
}

/// What a container engine or an administrator does with an image: overlayfs on top, and then changes, each of which
/// copies a file of the mount up.
#[test]
fn kernel_overlayfs_on_top_copies_files_of_the_mount_up() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root, to mount overlayfs");
    let layer = forest(2, 2).xattr("user.name", b"value").file_with_mode("marked", 0o640, b"marked");
    let mounted = Mounted::new(layer);
    let room = TempDir::new().unwrap();
    let tmpfs = Scratch::mount(room.path(), "tmpfs", "mode=0755");
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| room.path().join(name));
    for directory in [&upper, &work, &merged] {
        fs::create_dir(directory).unwrap();
    }
    let lower = mounted.point.path().display();
    let options = format!("lowerdir={lower},upperdir={},workdir={},xino=on", upper.display(), work.display());
    let overlay = Scratch::mount(&merged, "overlay", &options);

    // Inode numbers of a mount have room for overlayfs to mark their layer, so that everything is on one device.
    let number = |path: &Path| path.symlink_metadata().map(|found| (found.dev(), found.ino())).unwrap();
    let file = merged.join("d000/f00000");
    let device = merged.metadata().unwrap().dev();
    for path in [&file, &merged.join("d000"), &merged.join("link"), &merged.join("d001/f00001")] {
        assert_eq!(number(path).0, device, "{}", path.display());
    }
    let before = number(&file);
    fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b" more").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"0 0 more");
    assert_eq!(number(&file), before, "a file keeps its number when it is copied up");
    fs::set_permissions(merged.join("marked"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(upper.join("marked"), "user.name", &mut value[..]).unwrap();
    assert_eq!((&value[..length], fs::read(upper.join("marked")).unwrap()), (&b"value"[..], b"marked".to_vec()));
    fs::hard_link(merged.join("top"), merged.join("top again")).unwrap();
    fs::rename(merged.join("link"), merged.join("renamed")).unwrap();
    fs::remove_dir_all(merged.join("d001")).unwrap();
    fs::create_dir(merged.join("d001")).unwrap();
    assert_eq!(fs::read_link(merged.join("renamed")).unwrap(), Path::new("top"));
    assert_eq!(merged.join("d001").read_dir().unwrap().count(), 0);
    drop((overlay, tmpfs));
    assert_eq!(fs::read(mounted.path("d000/f00000")).unwrap(), b"0 0");

    // As lsattr does on the mount itself.
    let open = File::open(mounted.path("top")).unwrap();
    let asked = mounted.asked(|| assert_eq!(rustix::fs::ioctl_getflags(&open), Err(rustix::io::Errno::NOTTY)));
    assert_eq!((asked.count("IOCTL"), asked.total()), (1, 1), "{asked}");
}

/// A file system that is mounted for a part of a test.
struct Scratch(PathBuf);

impl Scratch {
    fn mount(at: &Path, kind: &str, options: &str) -> Self {
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount(kind, at, kind, flags, Some(options.as_c_str()))
            .unwrap_or_else(|error| panic!("{kind} on {}: {error}", at.display()));
        Self(at.to_owned())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_large_file_read_in_order_costs_one_message_per_window_of_readahead() {
    const MIB: usize = 1 << 20;
    let content: Vec<u8> = (0..16 * MIB).map(|byte| (byte / 4096 % 251) as u8).collect();
    let mounted = Mounted::new(Layer::new().file("large", &content).file("top", b""));
    mounted.warm_up("top");
    let device = mounted.point.path().metadata().unwrap().dev();
    let window = fs::read_to_string(format!("/sys/class/bdi/0:{device}/read_ahead_kb")).unwrap();
    let window = window.trim().parse::<usize>().unwrap() << 10;

    let mut found = Vec::new();
    let asked = mounted.asked(|| {
        let mut file = File::open(mounted.path("large")).unwrap();
        file.read_to_end(&mut found).unwrap();
    });
    assert!(found == content, "the content differs");
    assert!(asked.count("READ") <= (content.len() / window + 8) as u64, "{asked}");
    assert_eq!(asked.content_bytes, content.len() as u64);
}

#[test]
fn what_is_mounted_is_what_the_layer_says() {
    let layer = Layer::new()
        .directory("sticky", 0o1777)
        .file_with_mode("sticky/setuid", 0o4755, b"program")
        .hard_link("again", "sticky/setuid")
        .symlink("link", "sticky/setuid")
        .fifo("fifo")
        .char_device("null", 1, 3)
        .xattr("user.name", b"value")
        .file("marked", &[7; 5000]);
    let mounted = Mounted::new(layer);
    let stat = |name| mounted.path(name).symlink_metadata().unwrap();

    assert_eq!(stat("sticky").mode(), 0o041_777);
    let file = stat("sticky/setuid");
    assert_eq!((file.mode(), file.uid(), file.gid(), file.size(), file.nlink()), (0o104_755, 0, 0, 7, 2));
    assert_eq!((file.mtime(), file.mtime_nsec()), (MTIME.0, i64::from(MTIME.1)));
    assert_eq!(stat("again").ino(), file.ino());
    assert_eq!((stat("marked").size(), stat("marked").blocks()), (5000, 16));
    assert!(stat("fifo").file_type().is_fifo());
    assert_eq!(stat("fifo").permissions().mode() & 0o7777, 0o620);
    let device = stat("null");
    assert!(device.file_type().is_char_device());
    assert_eq!(device.rdev(), rustix::fs::makedev(1, 3));
    let mut value = [0; 16];
    assert_eq!(rustix::fs::getxattr(mounted.path("marked"), "user.name", &mut value[..]).unwrap(), 5);
    assert_eq!(&value[..5], b"value");
}

#[test]
fn nothing_can_be_written() {
    let mounted = Mounted::new(forest(1, 1));
    let file = mounted.path("top");
    let refusals = [
        fs::write(&file, b"x").unwrap_err(),
        fs::remove_file(&file).unwrap_err(),
        fs::create_dir(mounted.path("new")).unwrap_err(),
        fs::rename(&file, mounted.path("other")).unwrap_err(),
        fs::set_permissions(&file, fs::Permissions::from_mode(0o777)).unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
}

#[test]
fn many_readers_at_once_all_read_what_is_there() {
    let mounted = Mounted::new(forest(8, 60));
    std::thread::scope(|scope| {
        for reader in 0..16 {
            let root = mounted.point.path();
            scope.spawn(move || {
                for step in 0..480 {
                    let number = (step * 7 + reader * 31) % 480;
                    let (directory, file) = (number / 60, number % 60);
                    let path = root.join(format!("d{directory:03}/f{file:05}"));
                    assert_eq!(fs::read_to_string(path).unwrap(), format!("{directory} {file}"));
                }
            });
        }
    });
    let counted = mounted.server.stats().snapshot();
    assert_eq!((counted.panics, counted.malformed, counted.damaged), (0, 0, 0));
}

#[test]
fn serving_ends_when_another_process_unmounts() {
    let mut mounted = Mounted::new(forest(1, 1));
    composefs_fuse::linux::unmount(mounted.point.path(), Unmount::Clean).unwrap();
    mounted.workers.take().unwrap().join();
    assert!(mounted.events.try_iter().all(|event| matches!(event, ServeEvent::WorkerEnded(Ok(())))));
    assert_eq!(mounted.point.path().read_dir().unwrap().count(), 0);
    let again = composefs_fuse::linux::unmount(mounted.point.path(), Unmount::Clean);
    assert!(matches!(again, Err(MountError::NotMounted(_))), "{again:?}");
}

#[test]
fn a_busy_mount_is_not_unmounted_cleanly() {
    let mounted = Mounted::new(forest(1, 1));
    let open = File::open(mounted.path("top")).unwrap();
    assert!(matches!(mounted.point.unmount(Unmount::Clean), Err(MountError::Busy(_))));
    mounted.point.unmount(Unmount::Lazy).unwrap();
    let mut content = [0; 3];
    open.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"top");
}

#[test]
fn mounts_of_other_programs_are_left_alone() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root, to mount something else");
    let mounted = Mounted::new(forest(1, 1));
    let elsewhere = TempDir::new().unwrap();
    for place in [mounted.point.path(), elsewhere.path()] {
        rustix::mount::mount("none", place, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        for how in [Unmount::Clean, Unmount::Lazy] {
            let refused = composefs_fuse::linux::unmount(place, how);
            assert!(matches!(refused, Err(MountError::Foreign(_))), "{refused:?}");
        }
        // This unmounts it: the refused calls did not.
        rustix::mount::unmount(place, rustix::mount::UnmountFlags::empty()).unwrap();
    }
    assert_eq!(fs::read(mounted.path("top")).unwrap(), b"top");
    let inside = composefs_fuse::linux::unmount(&mounted.path("d000"), Unmount::Lazy);
    assert!(matches!(inside, Err(MountError::NotMounted(_))), "{inside:?}");
    mounted.point.unmount(Unmount::Clean).unwrap();
}

#[test]
fn a_mount_point_must_be_an_empty_directory() {
    let directory = TempDir::new().unwrap();
    let inside = directory.path().join("inside");
    assert!(matches!(MountPoint::new(&inside), Err(MountError::Missing(_))));
    fs::write(&inside, b"").unwrap();
    assert!(matches!(MountPoint::new(&inside), Err(MountError::NotDirectory(_))));
    assert!(matches!(MountPoint::new(directory.path()), Err(MountError::NotEmpty(_))));
    assert!(matches!(MountPoint::new(&inside.join("deeper")), Err(MountError::NotDirectory(_))));
}

/// How many threads of this process have a name that begins like this.
fn threads(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|found| found.starts_with(name)).count()
}

#[test]
fn what_comes_over_rings_and_how_many_messages_that_takes_is_the_same() {
    let Some(on) = RingsOn::new() else {
        eprintln!("nothing to test: this user cannot switch on FUSE over io_uring");
        return;
    };
    let large: Vec<u8> = (0..5_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mounted = Mounted::new(forest(40, 300).file("large", &large));
    drop(on);
    assert!(threads("fuse-ring-") >= 2, "requests come over rings");
    let mut entries = 0;
    let asked = mounted.asked(|| entries = walk(mounted.point.path()));
    assert_eq!((entries, asked.count("LOOKUP")), (1 + 40 * 301 + 3, 0), "{asked}");
    assert!(asked.total() <= 2 * 41 + entries / 100, "{entries} entries:\n{asked}");
    let again = mounted.asked(|| assert_eq!(walk(mounted.point.path()), entries));
    assert_eq!(again.total(), 0, "{again}");

    mounted.warm_up("top");
    let read = mounted.asked(|| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let root = mounted.path("");
                scope.spawn(move || {
                    for number in (thread..4000).step_by(4) {
                        let (directory, file) = (number % 40, number / 40);
                        let path = root.join(format!("d{directory:03}/f{file:05}"));
                        assert_eq!(fs::read_to_string(path).unwrap(), format!("{directory} {file}"));
                    }
                });
            }
        });
    });
    assert_eq!((read.count("READ"), read.total()), (4000, 4000), "{read}");
    assert!(fs::read(mounted.path("large")).unwrap() == large, "requests and replies of 1 MiB");
    assert_eq!(fs::read_link(mounted.path("link")).unwrap(), Path::new("top"));
    let missing = mounted.asked(|| {
        for _ in 0..100 {
            assert_eq!(fs::read(mounted.path("d000/missing")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        }
    });
    assert_eq!(missing.total(), 1, "{missing}");
    assert_eq!(File::create(mounted.path("new")).unwrap_err().raw_os_error(), Some(30), "EROFS");
    // Every thread must end with the mount, which is what the end of the test waits for.
    drop(mounted);
    assert_eq!(threads("fuse-"), 0);
}
