//! The program `composefs-fuse`, run as users run it.

#[path = "support/mod.rs"]
mod support;

use composefs_fuse::linux::{Unmount, Unmounted, fetch_stats, unmount};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use support::{Layer, Stored as _};
use tempfile::TempDir;
use test_support::until;

/// The user `nobody` that every Debian has.
const NOBODY: u32 = 65_534;

/// A store with a base, a mount point, and directories for everything else that the program writes.
struct Stage {
    base: String,
    store: TempDir,
    room: TempDir,
}

impl Stage {
    fn new() -> Self {
        let layer = Layer::new().file("hello", b"world").file_with_mode("secret", 0o600, b"root's");
        let (base, _, store) = layer.into_base();
        let room = TempDir::new().unwrap();
        for name in ["mnt", "run", "state"] {
            fs::create_dir(room.path().join(name)).unwrap();
        }
        Self { base: base.to_string(), store, room }
    }

    fn mount_point(&self) -> PathBuf {
        self.room.path().join("mnt")
    }

    fn socket(&self) -> PathBuf {
        self.room.path().join("stats")
    }

    /// The program, which writes nothing outside of the stage.
    fn program(&self) -> Command {
        self.prepared(Command::new(env!("CARGO_BIN_EXE_composefs-fuse")))
    }

    /// The same as an ordinary user, who owns the stage from now on.
    fn program_of_nobody(&self) -> Command {
        if !rustix::process::geteuid().is_root() {
            return self.program();
        }
        for directory in [self.store.path(), self.room.path()] {
            give_away(directory);
        }
        let copy = self.room.path().join("composefs-fuse");
        fs::copy(env!("CARGO_BIN_EXE_composefs-fuse"), &copy).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy);
        self.prepared(command)
    }

    fn prepared(&self, mut command: Command) -> Command {
        command
            .env("XDG_RUNTIME_DIR", self.room.path().join("run"))
            .env("XDG_STATE_HOME", self.room.path().join("state"))
            .arg("--store")
            .arg(self.store.path())
            .arg("--stats")
            .arg(self.socket());
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.room.path().join("state/lamina/mount.log")).unwrap_or_default()
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.mount_point().to_str())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_mounted() {
            unmount(&self.mount_point(), Unmount::Lazy).unwrap();
        }
    }
}

fn give_away(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        path.read_dir().unwrap().for_each(|entry| give_away(&entry.unwrap().path()));
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

#[test]
fn it_returns_when_the_tree_can_be_read_and_serves_until_unmounted() {
    let stage = Stage::new();
    // Output is read to its end: a process in the background that kept the pipe would block this.
    // After `--` nothing is an option, not even the argument that the program adds for itself.
    let output = stage.program().args(["--", &stage.base, stage.mount_point().to_str().unwrap()]).output().unwrap();
    assert_success(&output);
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&[][..], &[][..]));
    assert_eq!(fs::read(stage.mount_point().join("hello")).unwrap(), b"world");
    assert_eq!(fetch_stats(&stage.socket()).unwrap().count("READ"), 1);
    assert_eq!(unmount(&stage.mount_point(), Unmount::Clean).unwrap(), Unmounted::Released);
    until("the socket to vanish", || !stage.socket().exists());
    assert_eq!(stage.log(), "");
}

#[test]
fn an_ordinary_user_mounts_and_reads_files_of_root() {
    let stage = Stage::new();
    let output = stage.program_of_nobody().arg(&stage.base).arg(stage.mount_point()).output().unwrap();
    assert_success(&output);
    let read = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"])
            .arg(stage.mount_point().join("secret"));
        command.output().unwrap()
    } else {
        Command::new("cat").arg(stage.mount_point().join("secret")).output().unwrap()
    };
    assert_success(&read);
    assert_eq!(read.stdout, b"root's");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(stage.mount_point().to_str().unwrap())).unwrap();
    assert!(line.contains("fuse.lamina ro,nosuid,nodev"), "{line}");
    assert_eq!(unmount(&stage.mount_point(), Unmount::Clean).unwrap(), Unmounted::Released);
    until("the socket to vanish", || !stage.socket().exists());
}

#[test]
fn ctrl_c_in_the_foreground_unmounts_and_shows_what_was_asked() {
    let stage = Stage::new();
    let mut command = stage.program();
    command.arg("--foreground").arg("--verbose").arg(&stage.base).arg(stage.mount_point()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    until("the mount", || stage.socket().exists());
    assert_eq!(fs::read(stage.mount_point().join("hello")).unwrap(), b"world");
    signal(&child, rustix::process::Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_success(&output);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.lines().any(|line| line.starts_with("READ ")), "{told}");
    assert!(!stage.is_mounted() && !stage.socket().exists());
}

#[test]
fn sigterm_ends_it_although_files_are_open() {
    let stage = Stage::new();
    let child = stage.program().arg("--foreground").arg(&stage.base).arg(stage.mount_point()).spawn().unwrap();
    until("the mount", || stage.socket().exists());
    let open = File::open(stage.mount_point().join("hello")).unwrap();
    signal(&child, rustix::process::Signal::TERM);
    assert_success(&child.wait_with_output().unwrap());
    assert!(!stage.is_mounted() && !stage.socket().exists());
    assert_eq!(open.read_at(&mut [0; 5], 0).unwrap_err().kind(), std::io::ErrorKind::NotConnected);
}

#[test]
fn sigterm_leaves_mounts_of_others_on_top_alone_and_says_so() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root, to mount something else");
    let stage = Stage::new();
    let mut command = stage.program();
    command.arg("--foreground").arg(&stage.base).arg(stage.mount_point()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    until("the mount", || stage.socket().exists());
    rustix::mount::mount("none", stage.mount_point(), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    signal(&child, rustix::process::Signal::TERM);
    let output = child.wait_with_output().unwrap();
    rustix::mount::unmount(stage.mount_point(), rustix::mount::UnmountFlags::empty()).unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("not a mount of Lamina") && !told.contains("files were still open"), "{told}");
}

#[test]
fn a_mount_whose_server_was_killed_is_named_and_can_be_cleared() {
    let stage = Stage::new();
    let mut child = stage.program().arg("--foreground").arg(&stage.base).arg(stage.mount_point()).spawn().unwrap();
    until("the mount", || stage.socket().exists());
    let _open = File::open(stage.mount_point().join("hello")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let output = stage.program().arg(&stage.base).arg(stage.mount_point()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("whose server has died") && told.lines().count() == 1, "{told}");
    // Even while files are open, which fusermount3 refuses.
    assert!(told.contains(&format!("lamina umount {}", stage.mount_point().display())), "{told}");
    unmount(&stage.mount_point(), Unmount::Clean).unwrap();
    assert!(!stage.is_mounted());
    // The socket that the killed server left does not get in the way.
    assert_success(&stage.program().arg(&stage.base).arg(stage.mount_point()).output().unwrap());
}

#[test]
fn mistakes_are_reported_in_one_line_and_leave_nothing() {
    let stage = Stage::new();
    let missing = stage.room.path().join("missing");
    let output = stage.program().arg(&stage.base).arg(&missing).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("no such directory") && told.lines().count() == 1, "{told}");

    let nowhere = stage.base.replace(|digit: char| digit.is_ascii_hexdigit(), "0");
    let output = stage.program().arg(nowhere).arg(stage.mount_point()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);

    for (wrong, said) in
        [("windows", "windows: not an option"), ("rw", "rw: an image cannot be changed"), ("uid=5", "uid=5")]
    {
        let output = stage.program().args(["-o", wrong]).arg(&stage.base).arg(stage.mount_point()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(said) && told.lines().count() == 1, "{told}");
    }
    assert!(!stage.is_mounted() && !stage.socket().exists());
}

/// `mount.fuse3` puts the options last, and always adds `dev` and `suid`.
#[test]
fn options_of_mount_are_accepted_as_mount_fuse3_passes_them() {
    let stage = Stage::new();
    for (options, shown) in [
        ("ro", "ro,nosuid,nodev,relatime"),
        ("defaults", "ro,nosuid,nodev,relatime"),
        ("ro,relatime,nofail,_netdev,x-systemd.automount,dev,suid", "ro,nosuid,nodev,relatime"),
        ("ro,noatime,noexec,nosuid,nodev", "ro,nosuid,nodev,noexec,noatime"),
    ] {
        let mut command = stage.program();
        command.arg(&stage.base).arg(stage.mount_point()).args(["-o", options]);
        assert_success(&command.output().unwrap());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let line = mounts.lines().find(|line| line.contains(stage.mount_point().to_str().unwrap())).unwrap();
        assert!(line.contains(&format!(" fuse.lamina {shown},")), "{options}: {line}");
        unmount(&stage.mount_point(), Unmount::Clean).unwrap();
        // The next server has the same socket.
        until("the socket to vanish", || !stage.socket().exists());
    }
    let mut command = stage.program();
    command.args(["-o", r"fsname=a\,b,subtype=image"]).arg(&stage.base).arg(stage.mount_point());
    assert_success(&command.output().unwrap());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(stage.mount_point().to_str().unwrap())).unwrap();
    assert!(line.starts_with("a,b ") && line.contains(" fuse.image ro,"), "{line}");
    assert!(Command::new("umount").arg(stage.mount_point()).status().unwrap().success());
    until("the socket to vanish", || !stage.socket().exists());
}

#[test]
fn a_mount_that_no_process_waits_for_any_more_is_unmounted() {
    let stage = Stage::new();
    // The background process finds this when Ctrl-C has ended the command that started it.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = stage.program();
    command.arg("--background-child").arg(&stage.base).arg(stage.mount_point()).stdout(writer);
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    assert!(!stage.is_mounted() && !stage.socket().exists());
}

#[test]
fn other_users_get_access_on_request_and_modes_are_checked_then() {
    let stage = Stage::new();
    fs::set_permissions(stage.room.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(rustix::process::geteuid().is_root(), "this test needs root, to be two users");
    let as_nobody = |name: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]).arg(stage.mount_point().join(name));
        command.output().unwrap().status.success()
    };
    assert_success(&stage.program().arg(&stage.base).arg(stage.mount_point()).output().unwrap());
    assert!(!as_nobody("hello"));
    assert_eq!(unmount(&stage.mount_point(), Unmount::Clean).unwrap(), Unmounted::Released);
    until("the socket to vanish", || !stage.socket().exists());
    let mut command = stage.program();
    assert_success(&command.args(["-o", "allow_other"]).arg(&stage.base).arg(stage.mount_point()).output().unwrap());
    assert!(as_nobody("hello"));
    assert!(!as_nobody("secret"));
}
