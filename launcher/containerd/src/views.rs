//! The views of stacks of layers: one FUSE mount and one server process for each stack, shared by all snapshots on it.
//!
//! A server is a process of its own in its own session, so it lives on when this process ends, however it does: the
//! containers on its view read on, and the next snapshotter finds the mount. It holds a lease in the store for what it
//! serves. A server whose mount is taken away lives for as long as a container's overlay still uses it.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use composefs_fuse::linux::{Unmount, unmount};
use composefs_fuse::mount::MountError;
use layer_store::{BaseId, DiffId, Silent};
use rustix::fs::statfs;
use rustix::io::Errno;

use crate::error::Error;
use crate::store::StoreOptions;
use crate::view_server;

/// For how long a view stays mounted after its last use: a container that is started soon after another one has ended
/// need not wait for a server.
pub(crate) const IDLE: Duration = Duration::from_secs(30);

/// `FUSE_SUPER_MAGIC` (linux/magic.h).
const FUSE: i64 = 0x6573_5546;

/// The views that are mounted below one directory.
#[derive(Debug)]
pub(crate) struct Views {
    directory: PathBuf,
    store: StoreOptions,
    /// For each view, when it was last found without a user. The lock is held while the view is mounted or unmounted.
    known: Mutex<HashMap<BaseId, Arc<Mutex<Option<Instant>>>>>,
}

enum Found {
    Nothing,
    Mounted,
    /// A mount whose server has ended.
    Dead,
}

impl Views {
    /// Takes over the views that are mounted in `directory`.
    pub(crate) fn open(directory: &Path, store: StoreOptions) -> Result<Self, Error> {
        // Nobody but root may reach an image's set-user-ID programs this way.
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(Error::io(directory))?;
        let views = Self { directory: directory.to_owned(), store, known: Mutex::default() };
        for entry in directory.read_dir().map_err(Error::io(directory))? {
            let name = entry.map_err(Error::io(directory))?.file_name();
            if let Some(base) = name.to_str().and_then(|name| name.parse().ok()) {
                views.lock_of(&base);
            }
        }
        Ok(views)
    }

    /// Returns where a view of these layers is mounted, bottom first, and mounts it if it is not.
    pub(crate) fn ensure(&self, layers: &[DiffId]) -> Result<PathBuf, Error> {
        let base = BaseId::of(layers, &[]);
        let lock = self.lock_of(&base);
        let mut idle = lock.lock().unwrap_or_else(PoisonError::into_inner);
        *idle = None;
        let point = self.point(&base);
        match look(&point)? {
            Found::Mounted => return Ok(point),
            Found::Dead => {
                tracing::warn!("{}: its server has ended; it is mounted again for new containers", point.display());
                rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH)
                    .map_err(|errno| Error::io(&point)(errno.into()))?;
            }
            Found::Nothing => {}
        }
        // This store's lease keeps the base until its server has one.
        let store = self.store.open()?.with_purpose("containerd, which starts a container");
        store.bases().prepare_layers(layers, &[], &Silent)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&point).map_err(Error::io(&point))?;
        self.start(&base, &point)?;
        Ok(point)
    }

    /// Unmounts the views that `is_used` does not know, and that were not used for `idle`. A server keeps its layers in the
    /// store until it ends, which is when nothing has its view mounted any more, such as the overlay of a container.
    pub(crate) fn close_unused(&self, idle: Duration, is_used: impl Fn(&BaseId) -> bool) {
        let known: Vec<_> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().map(|(base, lock)| (*base, Arc::clone(lock))).collect()
        };
        for (base, lock) in known {
            let mut since = lock.lock().unwrap_or_else(PoisonError::into_inner);
            // A snapshot is recorded before its view is looked for, so what is not used now was not missed.
            if is_used(&base) {
                *since = None;
                continue;
            }
            if since.get_or_insert_with(Instant::now).elapsed() < idle {
                continue;
            }
            let point = self.point(&base);
            match close(&point) {
                Ok(()) => {
                    drop(std::fs::remove_dir(&point));
                    self.forget(&base, &lock);
                }
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }

    fn point(&self, base: &BaseId) -> PathBuf {
        self.directory.join(base.hex())
    }

    fn lock_of(&self, base: &BaseId) -> Arc<Mutex<Option<Instant>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(*base).or_default())
    }

    /// Forgets a view that was closed, unless a call is waiting to mount it again. The caller holds its lock.
    fn forget(&self, base: &BaseId, lock: &Arc<Mutex<Option<Instant>>>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // This caller's, and the one in the map.
        if Arc::strong_count(lock) == 2 {
            known.remove(base);
        }
    }

    /// Starts the server of a view, and returns once the tree can be read.
    fn start(&self, base: &BaseId, point: &Path) -> Result<(), Error> {
        // This path leads to the running program even if the file has been replaced.
        let mut command = Command::new("/proc/self/exe");
        command.args(view_server::arguments(&self.store, base, point, &self.directory.with_file_name("views.log")));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Error::View(format!("its server cannot start: {error}")))?;
        let mut line = String::new();
        let is_ready = child
            .stdout
            .take()
            .is_some_and(|output| BufReader::new(output).read_line(&mut line).is_ok() && line.trim_end() == "ready");
        if is_ready {
            // From now on it writes to its log.
            drop(child.stderr.take());
            // It outlives this process, but while this one lives it must not become a zombie.
            std::thread::spawn(move || child.wait());
            return Ok(());
        }
        Err(Error::View(complaint(child)))
    }
}

/// Waits for the end of a server that failed, and returns what it said.
fn complaint(mut child: Child) -> String {
    let mut said = String::new();
    if let Some(mut errors) = child.stderr.take() {
        let _ = errors.read_to_string(&mut said);
    }
    let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    let said = said.trim_end().replace('\n', "; ");
    if said.is_empty() { format!("its server ended ({status})") } else { said }
}

fn look(point: &Path) -> Result<Found, Error> {
    match statfs(point) {
        #[allow(clippy::unnecessary_cast, reason = "the type differs between processors")]
        Ok(found) if found.f_type as i64 == FUSE => Ok(Found::Mounted),
        Ok(_) | Err(Errno::NOENT) => Ok(Found::Nothing),
        Err(Errno::NOTCONN) => Ok(Found::Dead),
        Err(errno) => Err(Error::io(point)(errno.into())),
    }
}

/// Unmounts a view, if it is mounted.
fn close(point: &Path) -> Result<(), MountError> {
    match unmount(point, Unmount::Clean) {
        Err(MountError::Busy(_)) => unmount(point, Unmount::Lazy).map(drop),
        Err(MountError::NotMounted(_)) => Ok(()),
        done => done.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_that_was_closed_is_forgotten_and_one_that_is_waited_for_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let views = Views::open(&directory.path().join("views"), StoreOptions::at(&directory.path().join("store")));
        let views = views.unwrap();
        let bases = [b"a", b"b", b"c"].map(|text| BaseId::of(&[DiffId(layer_store::Digest::of(text))], &[]));
        for base in &bases {
            views.lock_of(base);
            std::fs::create_dir(views.point(base)).unwrap();
        }
        let waiting = views.lock_of(&bases[1]);
        views.close_unused(Duration::ZERO, |base| *base == bases[2]);
        let known = || -> Vec<bool> {
            let known = views.known.lock().unwrap();
            bases.iter().map(|base| known.contains_key(base)).collect()
        };
        assert_eq!(known(), [false, true, true]);
        drop(waiting);
        views.close_unused(Duration::ZERO, |base| *base == bases[2]);
        assert_eq!(known(), [false, false, true]);
    }
}
