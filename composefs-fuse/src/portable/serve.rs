//! A mount by `fuser` from its beginning to its end.

use super::calls::Calls;
use crate::mount::{EXIT_PATIENCE, Ended, MountError, MountOptions, MountPoint, Served, SignalThread};
use crate::server::Server;
use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often to look whether the thread of a mount has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// How a mount is served.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// How it is mounted. `suid` and `dev` have no effect.
    pub mount: MountOptions,
}

/// Why a mount could not be served to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// It could not be mounted or unmounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The kernel's requests could not be answered.
    #[error("FUSE: {0}")]
    Session(#[source] io::Error),
    /// Signals cannot be waited for, or no thread could be started.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
    /// The process that waits for the tree has ended, so the mount was taken away.
    #[error("no process waits for the mount any more: {0}")]
    Unwanted(#[source] io::Error),
}

/// What happens while a mount is served.
enum Event {
    SessionEnded(io::Result<()>),
    Signal(i32),
}

/// Mounts the view of `server` on `mount_point` and serves it until it is unmounted, or until `SIGTERM`, `SIGINT` or
/// `SIGHUP` arrives. Calls `ready` once the tree can be read; if that fails, the mount is taken away.
///
/// The requests are answered by one thread: `fuser` has more on Linux only.
///
/// # Errors
/// Says what could not be done.
pub fn serve(
    server: Arc<Server>,
    mount_point: &MountPoint,
    options: &ServeOptions,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<Served, ServeError> {
    let stats = Arc::clone(server.stats());
    // Before anything is mounted: a signal from here on is kept until it can be handled.
    let (sender, events) = channel();
    let told = sender.clone();
    let signals = SignalThread::start(move |signal| told.send(Event::Signal(signal)).is_ok());
    let signals = signals.map_err(ServeError::Signals)?;
    let refused = |source| MountError::Refused { path: mount_point.path().to_owned(), source };
    let session = Session::new(Calls::new(&server), mount_point.path(), &config(&options.mount)).map_err(refused);
    drop(server);
    let mut session = session?;
    let mut mount = session.unmount_callable();
    let session = start(session, sender).map_err(ServeError::Signals)?;
    let ended = match ready() {
        Ok(()) => wait(&events, &mut mount, mount_point),
        Err(error) => {
            drop(mount.unmount());
            Err(ServeError::Unwanted(error))
        }
    };
    drop(signals);
    // While files are open, the mount keeps its thread until this process ends.
    let deadline = Instant::now() + EXIT_PATIENCE;
    while !session.is_finished() && Instant::now() < deadline && !matches!(ended, Ok(Ended::SignalWhileBusy(_))) {
        std::thread::sleep(PAUSE);
    }
    Ok(Served { ended: ended?, stats })
}

/// Starts a thread for the requests of `session`, which ends when the mount has.
fn start(session: Session<Calls>, events: Sender<Event>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("fuser".to_owned()).spawn(move || {
        let outcome = session.run();
        // Fails if nothing waits for the mount any more, and then it does not matter.
        drop(events.send(Event::SessionEnded(outcome)));
    })
}

/// Waits until the mount ends.
fn wait(events: &Receiver<Event>, mount: &mut SessionUnmounter, at: &MountPoint) -> Result<Ended, ServeError> {
    let mut ended = Ended::Unmounted;
    loop {
        let event = match ended {
            Ended::Unmounted => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            _ => events.recv_timeout(EXIT_PATIENCE),
        };
        match event {
            Ok(Event::SessionEnded(Ok(()))) => return Ok(ended),
            Ok(Event::SessionEnded(Err(error))) => return Err(ServeError::Session(error)),
            Ok(Event::Signal(signal)) if ended == Ended::Unmounted => match mount.unmount() {
                Ok(()) => ended = Ended::Signal(signal),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Ok(Ended::SignalWhileBusy(signal)),
                Err(source) => return Err(MountError::Refused { path: at.path().to_owned(), source }.into()),
            },
            Ok(Event::Signal(_)) => {}
            Err(_) => return Ok(ended),
        }
    }
}

/// Returns the options of a mount as `fuser` and the programs that it calls take them.
fn config(options: &MountOptions) -> Config {
    let mut words = vec![MountOption::RO, MountOption::NoSuid, MountOption::NoDev];
    words.push(MountOption::FSName(options.fsname.clone()));
    if cfg!(target_os = "macos") {
        // A read-only tree keeps no attributes in files named `._NAME`, and the Finder need not look for any.
        words.push(MountOption::CUSTOM("noappledouble".to_owned()));
    } else {
        words.push(MountOption::Subtype(options.subtype.clone()));
    }
    words.extend(options.noexec.then_some(MountOption::NoExec));
    words.extend(options.noatime.then_some(MountOption::NoAtime));
    let checked = options.allow_other || options.default_permissions;
    words.extend(checked.then_some(MountOption::DefaultPermissions));
    let mut config = Config::default();
    config.mount_options = words;
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config
}
