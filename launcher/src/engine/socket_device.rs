//! The control channel of an engine whose guests have a virtio socket device in place of named serial ports: Cloud
//! Hypervisor and Firecracker.
//!
//! The engine makes a Unix socket for the device. When a guest connects to a port of the host, the engine connects to the
//! Unix socket with the same path, followed by `_` and the port; init connects to [`guest_protocol::SOCKET_PORT`]. All
//! these sockets are in a directory that only the engine's process uses, because a confined engine must be able to make
//! them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use guest_protocol::SOCKET_PORT;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Gid, Uid};

use super::contract::{Event, Events};
use super::plan::{Plan, check_socket};
use crate::failure::{About, Failure};
use crate::host::confine::{Account, Confinement};
use crate::host::process::Handle;

/// The context id of the guest. Each machine has a socket device of its own, so all may have the first that is free.
pub(super) const GUEST: u32 = 3;

/// Where the sockets of an engine with a socket device are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketDevice {
    directory: PathBuf,
    account: Option<Account>,
}

impl SocketDevice {
    /// Returns where they are for a plan: in a directory with the name of its control channel.
    #[must_use]
    pub(super) fn of(plan: &Plan) -> Self {
        Self { directory: plan.control.with_extension(""), account: plan.confine.account.clone() }
    }

    /// Returns the socket that the engine makes for the device.
    #[must_use]
    pub(super) fn path(&self) -> PathBuf {
        self.file("vsock")
    }

    /// Returns the path of another file that the engine makes or opens.
    #[must_use]
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Returns the socket at which the engine says that init has connected.
    fn listener(&self) -> PathBuf {
        self.file(&format!("vsock_{SOCKET_PORT}"))
    }

    /// Checks that the sockets' paths are not too long.
    ///
    /// # Errors
    /// As [`check_socket`].
    pub(super) fn check(&self) -> Result<(), Failure> {
        check_socket(&self.listener())
    }

    /// Makes the directory, without what an earlier engine left there, and listens for init.
    ///
    /// # Errors
    /// The directory or the socket cannot be made.
    pub(super) fn listen(&self) -> Result<Listener, Failure> {
        // Fails if it does not exist.
        let _ = fs::remove_dir_all(&self.directory);
        DirBuilder::new().mode(0o700).create(&self.directory).about(self.directory.display())?;
        let path = self.listener();
        let socket = UnixListener::bind(&path).about(path.display())?;
        self.hand_over(&path)?;
        Ok(Listener { socket, path })
    }

    /// Makes a pipe that the engine writes to.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn make_pipe(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.file(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .about(path.display())?;
        self.hand_over(&path)?;
        Ok(path)
    }

    /// Lets the user that the engine runs as use a file. The directory follows when the engine is started.
    fn hand_over(&self, path: &Path) -> Result<(), Failure> {
        let Some(Account { uid, gid, .. }) = &self.account else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
        rustix::fs::chown(path, Some(uid), Some(gid)).about(path.display())
    }

    /// Returns what the engine's `program` may reach, or `None` if it is not confined.
    #[must_use]
    pub(super) fn confinement(&self, plan: &Plan, program: &Path) -> Option<Confinement> {
        plan.confinement(program, &[], Some(self.directory.clone()))
    }
}

/// Opens a pipe to read from, also for writing, so that it has no end before the engine opens it.
///
/// # Errors
/// It cannot be opened.
pub(super) fn open_pipe(path: &Path) -> Result<File, Failure> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(path).about(path.display())
}

/// Waits for init.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Reports when init connects, which it does once. Returns when it has, or when the engine has ended.
    ///
    /// Init is the guest's first process and connects before it starts another, so what connects first is init. From then
    /// on nothing in the guest reaches this host by its socket device.
    pub(super) fn connect(self, engine: &Handle, events: &Events) {
        let stream = engine.accept(&self.socket);
        drop(self.socket);
        // Fails if it was removed with its directory.
        let _ = fs::remove_file(&self.path);
        if let Some(stream) = stream {
            events(Event::Connected(stream));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::engine::plan::example;

    #[test]
    fn sockets_are_in_a_private_directory_beside_those_of_the_machine() {
        let place = tempfile::tempdir().unwrap();
        let plan = Plan { control: place.path().join("control.sock"), ..example(0) };
        let device = SocketDevice::of(&plan);
        device.check().unwrap();
        for _ in 0..2 {
            // A second start finds what the first one left.
            let listener = device.listen().unwrap();
            fs::write(device.path(), "stale").unwrap_or_default();
            assert_eq!(listener.path, place.path().join("control/vsock_1024"));
            UnixStream::connect(&listener.path).unwrap();
            device.make_pipe("events").unwrap();
        }
        assert_eq!(fs::metadata(place.path().join("control")).unwrap().permissions().mode() & 0o777, 0o700);
        let confinement = device.confinement(&plan, Path::new("/usr/bin/env"));
        assert_eq!(confinement, None, "the example is not confined");
    }

    #[test]
    fn path_that_is_too_long_for_the_port_is_refused_before_anything_starts() {
        let plan = |length: usize| Plan { control: format!("/{}.sock", "x".repeat(length)).into(), ..example(0) };
        // 107 bytes, with "/" before and "/vsock_1024" after.
        SocketDevice::of(&plan(95)).check().unwrap();
        let failure = SocketDevice::of(&plan(96)).check().unwrap_err().to_string();
        assert!(failure.contains("this one has 108; set XDG_RUNTIME_DIR"), "{failure}");
    }
}
