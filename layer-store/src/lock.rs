//! Locks that are released when their holder dies.
//!
//! A file that can be opened can be locked (flock(2)), even by a user who may only read it. So a lock's file is open to
//! its owner alone (mode 0600): nobody else can hold a lock that the owner of a store waits for.

use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::fs::{Gid, Uid, fchown};
use rustix::process::geteuid;

use crate::error::StoreError;
use crate::lock_holder::Holders;
use crate::observer::Observer;
use crate::regular;

/// How often a wait checks whether it is cancelled: a user does not notice the delay, and it costs little processor
/// time.
const POLL: Duration = Duration::from_millis(50);

/// How long a wait for the store's own lock lasts before it is reported: the lock is held for a few system calls.
const SHORT: Duration = Duration::from_millis(500);

/// An exclusive `flock` on a file of `locks/`, or of `leases/`. The kernel releases it when the holder dies.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
    path: PathBuf,
    remove: bool,
}

impl FileLock {
    /// Waits for the lock, and takes it as soon as its holder releases it or dies. `observer` is told once, before the
    /// first wait, what `work` the other process does and which process that is, and can end the wait.
    pub(crate) fn wait(path: &Path, observer: &dyn Observer, work: &str) -> Result<Self, StoreError> {
        let mut told = false;
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            if observer.cancelled() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Err(StoreError::Interrupted(name));
            }
            if !told {
                let holders = regular::open(path).map(|file| Holders::of(&file)).unwrap_or_default();
                observer.waiting(&format!("{work}{holders}"));
                told = true;
            }
            let free = until_free(path);
            // Ends when the lock is free, even if another process takes it first.
            while free.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) && !observer.cancelled() {}
        }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>, StoreError> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if was_taken_by_others(&file, path) => continue,
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(cause)) => return Err(StoreError::io(path)(cause)),
            }
            // If the file was removed between opening and locking, this lock excludes no one.
            if is_at(&file, path) {
                return Ok(Some(Self { file, path: path.to_owned(), remove: true }));
            }
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Removed while still held, so that a process that opened it in the meantime sees that it is gone.
        if self.remove {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Waits for a lock in a separate thread, so that only that thread is blocked. The thread releases the lock at once,
/// and the channel closes then. A cancelled wait leaves the thread blocked until the holder releases the lock or dies.
fn until_free(path: &Path) -> Receiver<()> {
    let (ends, free) = sync_channel(0);
    let file = regular::open(path);
    let wait = move || {
        // An error shows when the lock is tried again.
        let _ = file.and_then(|file| file.lock_shared());
        drop::<SyncSender<()>>(ends);
    };
    if thread::Builder::new().name("lock".to_owned()).stack_size(64 << 10).spawn(wait).is_err() {
        // If no thread can be created, the wait only takes longer.
        thread::sleep(POLL);
    }
    free
}

/// Whether an open file is the one at this path.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// The store's own lock: shared while something is added to a lease, exclusive while garbage is collected.
///
/// Returns `None` if this process may not open it: a reader of another user's store goes without, so that it cannot stop
/// the owner.
pub(crate) fn shared(path: &Path, observer: &dyn Observer) -> Result<Option<File>, StoreError> {
    store_lock(path, observer, File::try_lock_shared, File::lock_shared)
}

/// Waits until no process is adding anything, and then keeps all processes from adding. `None` as for [`shared`].
pub(crate) fn exclusive(path: &Path, observer: &dyn Observer) -> Result<Option<File>, StoreError> {
    store_lock(path, observer, File::try_lock, File::lock)
}

fn store_lock(
    path: &Path,
    observer: &dyn Observer,
    try_lock: fn(&File) -> Result<(), TryLockError>,
    lock: fn(&File) -> io::Result<()>,
) -> Result<Option<File>, StoreError> {
    loop {
        let file = match open(path) {
            Err(error) if error.is_closed() && !is_own(path, &error) => return Ok(None),
            file => file?,
        };
        let file = match try_lock(&file) {
            Ok(()) => file,
            Err(TryLockError::WouldBlock) if was_taken_by_others(&file, path) => continue,
            Err(TryLockError::WouldBlock) => wait_for(file, path, observer, lock)?,
            Err(TryLockError::Error(cause)) => return Err(StoreError::io(path)(cause)),
        };
        if is_at(&file, path) {
            return Ok(Some(file));
        }
    }
}

/// Whether the lock of a store of this user cannot be opened although the store can be written.
fn is_own(path: &Path, error: &StoreError) -> bool {
    let is_denied = matches!(error, StoreError::Io { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied);
    let directory = path.parent().and_then(|directory| directory.metadata().ok());
    is_denied && directory.is_some_and(|found| found.uid() == geteuid().as_raw())
}

/// Waits for a lock in a separate thread, which returns the locked file.
fn wait_for(
    file: File,
    path: &Path,
    observer: &dyn Observer,
    lock: fn(&File) -> io::Result<()>,
) -> Result<File, StoreError> {
    let (ends, taken) = sync_channel(1);
    let name = file.try_clone().map_err(StoreError::io(path))?;
    let wait = move || {
        let locked = lock(&file).map(|()| file);
        // If the wait was cancelled, no thread receives it: the lock is then released.
        drop(ends.send(locked));
    };
    let thread = thread::Builder::new().name("lock".to_owned()).stack_size(64 << 10).spawn(wait);
    thread.map_err(StoreError::io(path))?;
    let mut waited = Duration::ZERO;
    loop {
        match taken.recv_timeout(POLL) {
            Ok(locked) => return locked.map_err(StoreError::io(path)),
            Err(RecvTimeoutError::Disconnected) => return Err(StoreError::io(path)(io::ErrorKind::Interrupted.into())),
            Err(RecvTimeoutError::Timeout) if observer.cancelled() => {
                return Err(StoreError::Interrupted(path.display().to_string()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if waited < SHORT && waited + POLL >= SHORT {
            observer.waiting(&format!("has {} locked{}", path.display(), Holders::of(&name)));
        }
        waited += POLL;
    }
}

/// Opens the file of a lock, or creates it, for its owner alone.
fn open(path: &Path) -> Result<File, StoreError> {
    let opened = regular::open_private(path).and_then(|file| {
        let found = file.metadata()?;
        // Earlier versions made it readable for everybody.
        if found.mode() & 0o077 != 0 && found.uid() == geteuid().as_raw() {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        give_to_owner(&file, path);
        Ok(file)
    });
    opened.map_err(StoreError::io(path))
}

/// Makes a lock that root has created in a store of another user usable for that user.
fn give_to_owner(file: &File, path: &Path) {
    let (Some(directory), true) = (path.parent(), geteuid().is_root()) else { return };
    let (Ok(directory), Ok(found)) = (directory.metadata(), file.metadata()) else { return };
    if directory.uid() != found.uid() {
        let owner = (Some(Uid::from_raw(directory.uid())), Some(Gid::from_raw(directory.gid())));
        // If this fails, the user has to wait until root has removed the lock.
        let _ = fchown(file, owner.0, owner.1);
    }
}

/// Removes a lock of this user's whose holders are other users' processes: they opened it when an earlier version of this
/// program let everybody read it. Returns whether it did.
fn was_taken_by_others(file: &File, path: &Path) -> bool {
    let is_own = file.metadata().is_ok_and(|found| found.uid() == geteuid().as_raw());
    let removed = is_own && Holders::of(file).are_all_others() && is_at(file, path);
    removed && std::fs::remove_file(path).is_ok()
}
