//! Who serves a machine's root.

use std::fmt;
use std::path::{Path, PathBuf};

use super::children::Children;
use super::directory::Directory;
use crate::failure::Failure;
use crate::virtiofsd::{Purpose, Virtiofsd};

/// A way to serve a root as a vhost-user-fs device. Dropping it ends the service and removes what it needed
/// (a mount, threads); processes are the [`Children`]'s.
pub trait RootServer: fmt::Debug {
    /// Starts to serve on `socket`, which exists when this returns, or soon after.
    ///
    /// # Errors
    /// What it needs is not there.
    fn start(&mut self, socket: &Path, children: &mut Children, directory: &Directory) -> Result<(), Failure>;

    /// The command line of the program that serves, for `--dry-run`, when it is a program.
    ///
    /// # Errors
    /// As for [`RootServer::start`].
    fn command_line(&self, socket: &Path) -> Result<Option<crate::hypervisor::CommandLine>, Failure>;
}

/// A directory of the host, served by virtiofsd: a mounted view, or any tree.
#[derive(Debug)]
pub struct DirectoryRoot {
    /// The directory.
    pub path: PathBuf,
    /// The virtiofsd that serves it.
    pub virtiofsd: Virtiofsd,
}

impl RootServer for DirectoryRoot {
    fn start(&mut self, socket: &Path, children: &mut Children, directory: &Directory) -> Result<(), Failure> {
        if let Some(command) = self.command_line(socket)? {
            children.spawn("root", &command, directory)?;
        }
        Ok(())
    }

    fn command_line(&self, socket: &Path) -> Result<Option<crate::hypervisor::CommandLine>, Failure> {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        self.virtiofsd.command(&self.path, socket, Purpose::Root, uid, gid).map(Some)
    }
}
