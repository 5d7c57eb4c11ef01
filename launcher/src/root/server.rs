//! Who serves a machine's root.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use composefs_fuse::Server;
use composefs_fuse::linux::{MountOptions, MountPoint, Unmount, Workers};
use layer_store::View;
use vhost_user::VhostUserFs;

use crate::failure::{About, Failure};
use crate::host::command_line::CommandLine;
use crate::host::virtiofsd::{Owner, Purpose, Virtiofsd};
use crate::machine::Children;
use crate::machine::Directory;

/// A way to serve a root as a vhost-user-fs device. Dropping it ends the service and removes what it needed
/// (a mount, threads); processes are the [`Children`]'s, and are gone by then.
pub(crate) trait RootServer: fmt::Debug {
    /// Starts to serve on `socket`, which exists when this returns, or soon after.
    ///
    /// # Errors
    /// What it needs is not there.
    fn start(&mut self, socket: &Path, children: &mut Children, directory: &Directory) -> Result<(), Failure>;

    /// Whether it serves on the socket at all: a root that the hypervisor reads by itself does not.
    fn is_device(&self) -> bool {
        true
    }

    /// Whether threads of this process served it and have ended. A program's end is for [`Children`] to tell.
    fn has_ended(&self) -> bool {
        false
    }

    /// The command line of the program that serves, for `--dry-run`, when it is a program.
    ///
    /// # Errors
    /// As for [`RootServer::start`].
    fn command_line(&self, socket: &Path, directory: &Directory) -> Result<Option<CommandLine>, Failure>;
}

/// A view, served by threads of this process.
#[derive(Debug)]
pub(crate) struct DirectRoot {
    server: Arc<Server>,
    device: Option<VhostUserFs>,
}

impl DirectRoot {
    /// Will serve what `server` answers.
    #[must_use]
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Self { server, device: None }
    }
}

impl RootServer for DirectRoot {
    fn start(&mut self, socket: &Path, _children: &mut Children, _directory: &Directory) -> Result<(), Failure> {
        let device = VhostUserFs::listen(Arc::clone(&self.server), socket).about("root")?;
        self.device = Some(device);
        Ok(())
    }

    fn has_ended(&self) -> bool {
        self.device.as_ref().is_some_and(VhostUserFs::has_ended)
    }

    fn command_line(&self, _socket: &Path, _directory: &Directory) -> Result<Option<CommandLine>, Failure> {
        Ok(None)
    }
}

/// An image of a view, which the hypervisor reads. Keeps the view, so that no collection takes the image.
#[derive(Debug)]
pub(crate) struct ImageRoot {
    /// The view that the image was made of.
    pub(crate) _view: Arc<View>,
}

impl RootServer for ImageRoot {
    fn start(&mut self, _socket: &Path, _children: &mut Children, _directory: &Directory) -> Result<(), Failure> {
        Ok(())
    }

    fn is_device(&self) -> bool {
        false
    }

    fn command_line(&self, _socket: &Path, _directory: &Directory) -> Result<Option<CommandLine>, Failure> {
        Ok(None)
    }
}

/// A directory of the host, served by virtiofsd.
#[derive(Debug)]
pub(crate) struct DirectoryRoot {
    /// The directory.
    pub(crate) path: PathBuf,
    /// The virtiofsd that serves it.
    pub(crate) virtiofsd: Virtiofsd,
    /// Whose the files are: [`Purpose::Root`] or [`Purpose::OwnRoot`].
    pub(crate) purpose: Purpose,
    /// The view that the directory was made of, if one was: keeps it from being collected.
    pub(crate) _view: Option<Arc<View>>,
}

impl RootServer for DirectoryRoot {
    fn start(&mut self, socket: &Path, children: &mut Children, directory: &Directory) -> Result<(), Failure> {
        let command = self.virtiofsd.command(&self.path, socket, self.purpose, &Owner::ourselves())?;
        children.spawn("root", &command, directory).map(drop)
    }

    fn command_line(&self, socket: &Path, _directory: &Directory) -> Result<Option<CommandLine>, Failure> {
        self.virtiofsd.command(&self.path, socket, self.purpose, &Owner::ourselves()).map(Some)
    }
}

/// A view, mounted by FUSE in the machine's directory, and served from there by virtiofsd.
#[derive(Debug)]
pub(crate) struct MountedRoot {
    server: Arc<Server>,
    virtiofsd: Virtiofsd,
    mounted: Option<(MountPoint, Option<Workers>)>,
}

/// Threads that answer virtiofsd's requests: it makes one at a time.
const THREADS: usize = 2;

impl MountedRoot {
    /// Will mount what `server` answers.
    #[must_use]
    pub(crate) fn new(server: Arc<Server>, virtiofsd: Virtiofsd) -> Self {
        Self { server, virtiofsd, mounted: None }
    }
}

impl RootServer for MountedRoot {
    fn start(&mut self, socket: &Path, children: &mut Children, directory: &Directory) -> Result<(), Failure> {
        let path = directory.mount_point();
        fs::create_dir(&path).about(path.display())?;
        let point = MountPoint::new(&path).about("root")?;
        // Only this user gets in, and no mode is checked: the guest's kernel does that.
        let device = point.mount(&MountOptions::default()).about("root")?;
        let (_, workers) = self.mounted.insert((point, None));
        // Whether its threads live is asked of the workers.
        let (events, _) = channel();
        *workers = Some(Workers::start(&self.server, device, THREADS, &events).about("root")?);
        if let Some(command) = self.command_line(socket, directory)? {
            children.spawn("root", &command, directory)?;
        }
        Ok(())
    }

    fn has_ended(&self) -> bool {
        self.mounted.as_ref().and_then(|(_, workers)| workers.as_ref()).is_some_and(Workers::has_ended)
    }

    fn command_line(&self, socket: &Path, directory: &Directory) -> Result<Option<CommandLine>, Failure> {
        self.virtiofsd.command(&directory.mount_point(), socket, Purpose::Root, &Owner::ourselves()).map(Some)
    }
}

impl Drop for MountedRoot {
    fn drop(&mut self) {
        let Some((point, workers)) = self.mounted.take() else { return };
        // Busy is who looks into it from outside; they lose it.
        let gone = point.unmount(Unmount::Clean).or_else(|_| point.unmount(Unmount::Lazy));
        match (gone, workers) {
            (Ok(()), Some(workers)) => workers.join(),
            (Err(error), _) => tracing::warn!("{error}"),
            (Ok(()), None) => {}
        }
    }
}
