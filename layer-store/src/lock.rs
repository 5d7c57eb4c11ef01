//! Locks that are released when their holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::error::StoreError;
use crate::observer::Observer;

/// How often a wait checks whether it is cancelled: a user does not notice the delay, and it costs little processor
/// time.
const POLL: Duration = Duration::from_millis(50);

/// An exclusive `flock` on a file of `locks/`, or of `leases/`. The kernel releases it when the holder dies.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
    path: PathBuf,
    remove: bool,
}

impl FileLock {
    /// Waits for the lock, and takes it as soon as its holder releases it or dies. `observer` is told once, before the
    /// first wait, what `work` the other process does, and can end the wait.
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
                observer.waiting(work);
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
            let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
            let file = file.map_err(StoreError::io(path))?;
            match file.try_lock() {
                Ok(()) => {}
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
        // Removed while still held, so that a process that opened it meanwhile sees that it is gone.
        if self.remove {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Waits for a lock in a separate thread, so that only that thread is blocked. The thread releases the lock at once,
/// and the channel closes then. A cancelled wait leaves the thread blocked until the holder releases the lock or dies.
fn until_free(path: &Path) -> Receiver<()> {
    let (ends, free) = sync_channel(0);
    let file = File::open(path);
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
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// The store's own lock: shared while something is added to a lease, exclusive while garbage is collected.
pub(crate) fn shared(path: &Path) -> Result<File, StoreError> {
    let file = open(path)?;
    file.lock_shared().map_err(StoreError::io(path))?;
    Ok(file)
}

/// Waits until no process is adding anything, and then keeps all processes from adding.
pub(crate) fn exclusive(path: &Path) -> Result<File, StoreError> {
    let file = open(path)?;
    file.lock().map_err(StoreError::io(path))?;
    Ok(file)
}

fn open(path: &Path) -> Result<File, StoreError> {
    match OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path) {
        // A process that may only read the store can still lock it, which keeps others from collecting what it reads.
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            File::open(path).map_err(StoreError::io(path))
        }
        opened => opened.map_err(StoreError::io(path)),
    }
}
