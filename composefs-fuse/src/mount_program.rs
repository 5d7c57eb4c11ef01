//! A program that mounts an image and serves it, in the background unless told otherwise. `lamina mount` and
//! `composefs-fuse` are two command lines for it.

#[cfg(target_os = "linux")]
use crate::linux::{ServeError, ServeOptions, serve};
use crate::mount::{self, BackgroundError, Ended, MountError, MountPoint, Served};
#[cfg(not(target_os = "linux"))]
use crate::portable::{ServeError, ServeOptions, serve};
use crate::server::Server;
use layer_store::user_dirs;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;

/// What such a program is told.
#[derive(Debug)]
pub struct MountProgram {
    /// Where to mount.
    pub mount_point: PathBuf,
    /// How to serve.
    pub options: ServeOptions,
    /// Which process serves.
    pub server: ServerProcess,
    /// The file for messages once the server is in the background. By default this is `mount.log` in the user's state
    /// directory, if there is one.
    pub log: Option<PathBuf>,
}

/// Which process serves a mount.
#[derive(Debug)]
pub enum ServerProcess {
    /// This one, until the mount ends.
    Foreground,
    /// A new process of this program, which is started with these arguments and must then use
    /// [`ServerProcess::Background`].
    Start(Vec<OsString>),
    /// This one, which was started for it.
    Background,
}

/// How such a program ends.
#[derive(Debug)]
pub enum ProgramEnd {
    /// The mount is served by a process in the background.
    InBackground,
    /// The process in the background failed with this status, after it had reported why.
    Reported(ExitStatus),
    /// The mount has ended.
    Served(Served),
}

/// Why such a program failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The mount point cannot be used.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The mount could not be served to its end.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// No process could be started in the background.
    #[error(transparent)]
    Background(#[from] BackgroundError),
    /// This process could not leave the session of its terminal.
    #[error("cannot leave the terminal: {0}")]
    Detach(#[source] io::Error),
}

/// Mounts what `open` returns and serves it as `program` says.
///
/// # Errors
/// That of `open`, or a [`ProgramError`].
pub fn run_mount_program<E: From<ProgramError>>(
    program: &MountProgram,
    open: impl FnOnce() -> Result<Server, E>,
) -> Result<ProgramEnd, E> {
    if let ServerProcess::Start(arguments) = &program.server {
        return match mount::start(arguments) {
            Ok(()) => Ok(ProgramEnd::InBackground),
            Err(BackgroundError::Ended(status)) => Ok(ProgramEnd::Reported(status)),
            Err(error) => Err(ProgramError::from(error).into()),
        };
    }
    let in_background = matches!(program.server, ServerProcess::Background);
    if in_background {
        mount::detach().map_err(ProgramError::Detach)?;
    }
    // Before the store is opened: the most common mistake is the cheapest to find.
    let mount_point = MountPoint::new(&program.mount_point).map_err(ProgramError::from)?;
    let server = Arc::new(open()?);
    let log = program.log.clone().or_else(|| Some(user_dirs::state().ok()?.join("mount.log")));
    let ready = || if in_background { mount::report_ready(log.as_deref()) } else { Ok(()) };
    let served = serve(server, &mount_point, &program.options, ready).map_err(ProgramError::from)?;
    if let Ended::SignalWhileBusy(_) = served.ended {
        tracing::warn!("{}: files were still open; reading them fails from now on", mount_point.path().display());
    }
    Ok(ProgramEnd::Served(served))
}
