//! The ways to serve a machine's root.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use composefs_fuse::Server;
use composefs_fuse::linux::{Unmount, Workers};
use composefs_fuse::mount::{MountOptions, MountPoint};
use layer_store::{BlockDevice, View};
use vhost_user::VhostUserDevice;

use crate::failure::{About, Failure};
use crate::host::command_line::CommandLine;
use crate::host::confine::{self, Confined, Confinement, Namespace};
use crate::host::fuse_socket::{FuseSocket, Told};
use crate::host::virtiofsd::{Owner, Purpose, Virtiofsd};

/// A way to serve a root as a vhost-user device. Dropping it ends the service and removes what it needed (a mount,
/// threads). If a program serves the root, the caller starts it, and ends it before this is dropped.
pub(crate) trait RootServer: fmt::Debug {
    /// Starts to serve on `socket`. The socket exists when this returns, or soon after the caller has started the
    /// program that this returns. If a mount is needed, it is created at `mount_point`.
    ///
    /// # Errors
    /// Something that it needs is missing.
    fn start(&mut self, socket: &Path, mount_point: &Path) -> Result<Option<Confined>, Failure>;

    /// Returns whether it serves on the socket. A root that the hypervisor reads itself does not.
    fn is_device(&self) -> bool {
        true
    }

    /// Calls `told` at once when threads of this process no longer serve it although they should. Must come before the
    /// start. A root that cannot tell is asked by [`RootServer::has_ended`].
    fn tell_end(&mut self, _told: Told) {}

    /// Returns whether a command that ends now may have ended because its root could not be read any more.
    fn is_useless(&self) -> bool {
        self.has_ended()
    }

    /// Returns whether threads of this process served it and have ended. The caller watches a program.
    fn has_ended(&self) -> bool {
        false
    }

    /// Returns the command line for `--dry-run`, if a program serves the root.
    ///
    /// # Errors
    /// As for [`RootServer::start`].
    fn command_line(&self, _socket: &Path, _mount_point: &Path) -> Result<Option<CommandLine>, Failure> {
        Ok(None)
    }
}

/// A view, served by threads of this process.
#[derive(Debug)]
pub(crate) struct DirectRoot {
    server: Arc<Server>,
    device: Option<VhostUserDevice>,
}

impl DirectRoot {
    /// Creates a root that `server` answers.
    #[must_use]
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Self { server, device: None }
    }
}

impl RootServer for DirectRoot {
    fn start(&mut self, socket: &Path, _mount_point: &Path) -> Result<Option<Confined>, Failure> {
        let device = VhostUserDevice::file_system(Arc::clone(&self.server), socket).about("root")?;
        self.device = Some(device);
        Ok(None)
    }

    fn has_ended(&self) -> bool {
        self.device.as_ref().is_some_and(VhostUserDevice::has_ended)
    }
}

/// A view as a read-only disk, served by threads of this process.
#[derive(Debug)]
pub(crate) struct DiskRoot {
    disk: Arc<BlockDevice>,
    serial: &'static str,
    queues: u16,
    device: Option<VhostUserDevice>,
}

impl DiskRoot {
    /// Creates a root on `disk`, which the guest finds by its serial, and which has as many queues as the engine is told.
    #[must_use]
    pub(crate) fn new(disk: BlockDevice, serial: &'static str, queues: u16) -> Self {
        Self { disk: Arc::new(disk), serial, queues, device: None }
    }
}

impl RootServer for DiskRoot {
    fn start(&mut self, socket: &Path, _mount_point: &Path) -> Result<Option<Confined>, Failure> {
        let disk: Arc<BlockDevice> = Arc::clone(&self.disk);
        self.device = Some(VhostUserDevice::disk(disk, self.serial, self.queues, socket).about("root")?);
        Ok(None)
    }

    fn has_ended(&self) -> bool {
        self.device.as_ref().is_some_and(VhostUserDevice::has_ended)
    }
}

/// A root that nothing serves: an image of a view, which the hypervisor reads, or a directory of the host, which a
/// container mounts itself.
#[derive(Debug)]
pub(crate) struct UnservedRoot {
    /// The view that an image was made of. Keeps `gc` from removing the image.
    pub(crate) _view: Option<Arc<View>>,
}

impl RootServer for UnservedRoot {
    fn start(&mut self, _socket: &Path, _mount_point: &Path) -> Result<Option<Confined>, Failure> {
        Ok(None)
    }

    fn is_device(&self) -> bool {
        false
    }
}

/// A view that a container mounts in its own namespaces, served by threads of this process.
#[derive(Debug)]
pub(crate) struct InsideRoot {
    server: Arc<Server>,
    socket: Option<FuseSocket>,
    told: Ending,
}

/// Whom to tell of the end.
struct Ending(Option<Told>);

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ending").field(&self.0.is_some()).finish()
    }
}

impl InsideRoot {
    /// Creates a root that `server` answers.
    #[must_use]
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Self { server, socket: None, told: Ending(None) }
    }
}

impl RootServer for InsideRoot {
    fn start(&mut self, socket: &Path, _mount_point: &Path) -> Result<Option<Confined>, Failure> {
        let told = self.told.0.take().unwrap_or_else(|| Box::new(|| {}));
        self.socket = Some(FuseSocket::listen(Arc::clone(&self.server), socket, told)?);
        Ok(None)
    }

    fn tell_end(&mut self, told: Told) {
        self.told = Ending(Some(told));
    }

    fn is_useless(&self) -> bool {
        self.socket.as_ref().is_some_and(FuseSocket::is_useless)
    }

    fn has_ended(&self) -> bool {
        self.socket.as_ref().is_some_and(FuseSocket::has_failed)
    }
}

impl Drop for InsideRoot {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            socket.await_end();
        }
    }
}

/// A directory of the host, served by virtiofsd.
#[derive(Debug)]
pub(crate) struct DirectoryRoot {
    /// The directory.
    pub(crate) path: PathBuf,
    /// The virtiofsd that serves it.
    pub(crate) virtiofsd: Virtiofsd,
    /// Which user the files belong to: [`Purpose::Root`] or [`Purpose::OwnRoot`].
    pub(crate) purpose: Purpose,
    /// How it is confined.
    pub(crate) confine: confine::Decision,
    /// The view that the directory was unpacked from, if it was. Keeps `gc` from removing the directory.
    pub(crate) _view: Option<Arc<View>>,
}

impl RootServer for DirectoryRoot {
    fn start(&mut self, socket: &Path, mount_point: &Path) -> Result<Option<Confined>, Failure> {
        let Some(command) = self.command_line(socket, mount_point)? else { return Ok(None) };
        // The server must read all files of a tree that was unpacked here, regardless of their owners.
        let reads_all = self._view.is_some();
        let confinement = match self.purpose {
            // It enters namespaces itself.
            Purpose::OwnRoot => None,
            Purpose::Root => confinement(&command, &self.path, socket, &self.confine, reads_all),
        };
        Ok(Some((command, confinement)))
    }

    fn command_line(&self, socket: &Path, _mount_point: &Path) -> Result<Option<CommandLine>, Failure> {
        self.virtiofsd
            .command(
                &self.path,
                &confine::socket_in_place(socket, self.confine.account.as_ref()),
                self.purpose,
                &Owner::ourselves(),
            )
            .map(Some)
    }
}

/// Returns how a virtiofsd is confined that serves `tree` with its owners: to that tree. If root starts it, it runs as
/// another user in namespaces. If an ordinary user starts it, only Landlock confines it, because the owners of files
/// would be unknown in a user namespace.
fn confinement(
    command: &CommandLine,
    tree: &Path,
    socket: &Path,
    decision: &confine::Decision,
    reads_all: bool,
) -> Option<Confinement> {
    let mut confinement = Confinement::of_program(&command.program).without(Namespace::User);
    confinement.readable.push(tree.to_owned());
    (confinement.open_files, confinement.proc, confinement.reads_all) = (u64::MAX, true, reads_all);
    let own = socket.parent().map(Path::to_owned);
    if decision.account.is_some() {
        confinement.account.clone_from(&decision.account);
        confinement.directory = own;
        return Some(confinement);
    }
    decision.support.as_ref()?;
    (confinement.namespaces, confinement.processes, confinement.reads_all) = (Vec::new(), u64::MAX, false);
    confinement.writable.extend(own);
    Some(confinement)
}

/// A view, mounted by FUSE in the machine's directory, and served from there by virtiofsd.
#[derive(Debug)]
pub(crate) struct MountedRoot {
    server: Arc<Server>,
    virtiofsd: Virtiofsd,
    confine: confine::Decision,
    mounted: Option<(MountPoint, Option<Workers>)>,
}

/// Threads that answer virtiofsd's requests. virtiofsd makes one at a time.
const THREADS: usize = 2;

impl MountedRoot {
    /// Creates a root that mounts what `server` answers.
    #[must_use]
    pub(crate) fn new(server: Arc<Server>, virtiofsd: Virtiofsd, confine: confine::Decision) -> Self {
        Self { server, virtiofsd, confine, mounted: None }
    }
}

impl RootServer for MountedRoot {
    fn start(&mut self, socket: &Path, mount_point: &Path) -> Result<Option<Confined>, Failure> {
        fs::create_dir(mount_point).about(mount_point.display())?;
        let point = MountPoint::new(mount_point).about("root")?;
        // Only this user can enter the mount, and no modes are checked: the guest's kernel does that. If virtiofsd runs as
        // another user, only the directory above the mount keeps others out.
        let options = MountOptions { allow_other: self.confine.account.is_some(), ..MountOptions::default() };
        let device = point.mount(&options).about("root")?;
        let (_, workers) = self.mounted.insert((point, None));
        // The workers themselves say whether their threads still run.
        let (events, _) = channel();
        *workers = Some(Workers::start(&self.server, device, THREADS, &events).about("root")?);
        let Some(command) = self.command_line(socket, mount_point)? else { return Ok(None) };
        // A mount that is open to another user checks modes.
        let confinement = confinement(&command, mount_point, socket, &self.confine, true);
        Ok(Some((command, confinement)))
    }

    fn has_ended(&self) -> bool {
        self.mounted.as_ref().and_then(|(_, workers)| workers.as_ref()).is_some_and(Workers::has_ended)
    }

    fn command_line(&self, socket: &Path, mount_point: &Path) -> Result<Option<CommandLine>, Failure> {
        self.virtiofsd
            .command(
                mount_point,
                &confine::socket_in_place(socket, self.confine.account.as_ref()),
                Purpose::Root,
                &Owner::ourselves(),
            )
            .map(Some)
    }
}

impl Drop for MountedRoot {
    fn drop(&mut self) {
        let Some((point, workers)) = self.mounted.take() else { return };
        // The mount is busy if another process uses it; that process loses it.
        let gone = point.unmount(Unmount::Clean).or_else(|_| point.unmount(Unmount::Lazy));
        match (gone, workers) {
            (Ok(()), Some(workers)) => workers.join(),
            (Err(error), _) => tracing::warn!("{error}"),
            (Ok(()), None) => {}
        }
    }
}
