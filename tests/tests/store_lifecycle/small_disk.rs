//! Small real file systems for a session's store.

use std::ffi::CString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::programs::installed;
use end_to_end::{Actor, Finished, Session};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// The file system that holds a session's store.
pub(super) struct Disk<'session> {
    session: &'session Session,
    /// The file that contains the file system, if there is one.
    pub(super) image: Option<PathBuf>,
    /// The mount below it, to be unmounted after it.
    below: Option<PathBuf>,
}

impl<'session> Disk<'session> {
    /// A file system on a loop device: `ext4`, `xfs` or `btrfs`.
    pub(super) fn of(session: &'session Session, kind: &str, bytes: u64) -> Self {
        let image = session.directory().join(kind);
        make(kind, &image, bytes, if kind == "ext4" { &["-m", "0"] } else { &[] });
        let disk = Self { session, image: Some(image), below: None };
        disk.mount();
        Actor::User.own(&session.store());
        disk
    }

    /// An ext4 whose device can be made to fail: its file is on a btrfs, and if btrfs refuses a write because of its
    /// quota, ext4 gets an I/O error.
    pub(super) fn on_failing_device(session: &'session Session, bytes: u64) -> Self {
        let (below, device) = (session.directory().join("below"), session.directory().join("btrfs"));
        std::fs::create_dir(&below).expect("a mount point");
        make("btrfs", &device, 192 << 20, &[]);
        run(Command::new(installed("mount")).args(["-o", "loop"]).arg(&device).arg(&below));
        run(Command::new(installed("btrfs")).args(["quota", "enable"]).arg(&below));
        let image = below.join("ext4");
        // Without a journal, so that the file system continues when its device works again.
        make("ext4", &image, bytes, &["-O", "^has_journal"]);
        let disk = Self { session, image: Some(image), below: Some(below) };
        disk.mount();
        Actor::User.own(&session.store());
        disk
    }

    /// A tmpfs of `bytes` bytes as the store.
    pub(super) fn tmpfs(session: &'session Session, bytes: u64) -> Self {
        let options = tmpfs_options(bytes);
        mount("tmpfs", session.store(), "tmpfs", MountFlags::empty(), Some(options.as_c_str())).expect("a tmpfs");
        Actor::User.own(&session.store());
        Self { session, image: None, below: None }
    }

    /// An overlay whose upper directory is on a tmpfs: overlayfs takes no overlay below it, which `/tmp` may be.
    pub(super) fn overlay(session: &'session Session) -> Self {
        let below = session.directory().join("below");
        std::fs::create_dir(&below).expect("a mount point");
        mount("tmpfs", &below, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>).expect("a tmpfs");
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(below.join(name)).expect("a directory of the overlay");
        }
        Actor::User.own(&below.join("upper"));
        let at = |name: &str| below.join(name).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
        let options = CString::new(options).expect("no NUL");
        mount("overlay", session.store(), "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .expect("an overlay");
        Self { session, image: None, below: Some(below) }
    }

    pub(super) fn mount(&self) {
        let image = self.image.as_ref().expect("a file system in a file");
        run(Command::new(installed("mount")).args(["-o", "loop"]).arg(image).arg(self.session.store()));
    }

    /// Unmounts the file system and waits until all of it is in its file.
    pub(super) fn unmount(&self) {
        run(Command::new(installed("umount")).arg(self.session.store()));
    }

    /// Makes the device of [`Disk::on_failing_device`] fail every write, and then makes it work again.
    pub(super) fn fail_writes(&self, fail: bool) {
        let below = self.below.as_ref().expect("a device of its own");
        if fail {
            // What was written before is there.
            for path in [&self.session.store(), below] {
                run(Command::new(installed("sync")).arg("-f").arg(path));
            }
        }
        // Another limit would take a transaction, for which the limit leaves no room.
        let quota: &[&str] = if fail { &["qgroup", "limit", "1M"] } else { &["quota", "disable"] };
        run(Command::new(installed("btrfs")).args(quota).arg(below));
    }

    pub(super) fn resize_tmpfs(&self, bytes: u64) {
        mount_remount(self.session.store(), MountFlags::empty(), format!("size={bytes}"))
            .expect("a tmpfs of another size");
    }

    pub(super) fn make_read_only(&self) {
        mount_remount(self.session.store(), MountFlags::RDONLY, "").expect("a file system that may only be read");
    }

    pub(super) fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.session.store()).expect("the file system's size");
        stat.f_bavail * stat.f_frsize
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.session.store()).expect("the file system's size");
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }

    /// Takes all space but about `left` bytes. Root owns the file, so no command of the user can free its space.
    pub(super) fn fill(&self, left: u64) -> PathBuf {
        let path = self.session.store().join("filler");
        let mut filler = std::fs::File::create(&path).expect("a file on the small disk");
        // The file system takes some space for itself as the file grows, so the file's final size is not known in
        // advance.
        for piece in [1 << 20, 64 << 10, 4 << 10, 512] {
            while self.free_bytes() >= left + piece {
                if filler.write_all(&vec![1; usize::try_from(piece).expect("a small piece")]).is_err() {
                    break;
                }
                filler.sync_all().expect("the disk takes what was written");
            }
        }
        path
    }

    /// Changes bytes of the unmounted file system wherever `content` is in its file, as a failing disk does.
    pub(super) fn rot(&self, content: &[u8]) {
        let image = self.image.as_ref().expect("a file system in a file");
        let mut bytes = std::fs::read(image).expect("the file system's file");
        let places: Vec<usize> =
            bytes.windows(content.len()).enumerate().filter(|(_, part)| *part == content).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "the content is on the disk");
        for at in places {
            bytes[at] ^= 0xff;
        }
        std::fs::write(image, bytes).expect("the file system's file");
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        for point in [Some(self.session.store()), self.below.clone()].iter().flatten() {
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
}

/// Makes a file system in a new file.
fn make(kind: &str, image: &Path, bytes: u64, options: &[&str]) {
    std::fs::File::create(image).and_then(|file| file.set_len(bytes)).expect("the file system's file");
    run(Command::new(installed(&format!("mkfs.{kind}"))).arg("-q").args(options).arg(image));
}

fn tmpfs_options(bytes: u64) -> CString {
    CString::new(format!("size={bytes},mode=755")).expect("no NUL")
}

pub(super) fn run(command: &mut Command) {
    Finished::of(command).succeeded();
}

/// Whether a path is on a file system of this kind, as the kernel says.
pub(super) fn kind_of(path: &Path) -> String {
    Finished::of(Command::new(installed("stat")).args(["-f", "-c", "%T"]).arg(path))
        .succeeded()
        .stdout
        .trim()
        .to_owned()
}
