//! The directory of the snapshotter's state.
//!
//! ```text
//! <root>/
//!   lock                       locked by the process that serves
//!   snapshots/<id>/record.json what is known about the snapshot (see `record.rs`)
//!   snapshots/<id>/upper       what was written to it, if it is active
//!   snapshots/<id>/work        what overlayfs needs for that
//!   new/<id>                   a snapshot that is being made
//!   removed/<id>               one that is being removed
//!   damaged/<id>-<new id>      one whose record is missing or damaged
//! ```
//!
//! A database would add nothing: a snapshot is a directory in any case, because its writes are. It gets its place by a
//! rename when it is complete, and its record is always replaced as a whole; the record and the directory `snapshots` are
//! synced before a call is answered. So a process that is killed, or a power cut, leaves a snapshot or none. What is in
//! `new` is deleted at the next start, and what is in `removed` by the next collection of garbage, too.
//!
//! The layers of a committed snapshot are kept in the store by a pin whose holder is the snapshot's directory, and the pin
//! carries a copy of the record. So the directory alone decides what is kept, and committed snapshots survive the loss of
//! this directory: at the next start they are made again from the pins (`heal.rs`). The pin of a snapshot in `removed` is
//! deleted before the snapshot is.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::error::Error;
use crate::record::{Kind, Record};

const RECORD: &str = "record.json";

/// Why a commit was not recorded.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// The old record is in place.
    Undone(Error),
    /// The record may be either: after a restart the snapshot may be committed.
    Unknown(Error),
}

/// The directory, locked by this process.
#[derive(Debug)]
pub(crate) struct State {
    root: PathBuf,
    _lock: File,
}

impl State {
    /// Opens the directory, and creates it if it is missing. Fails if another process uses it. What killed processes were
    /// making is removed.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        // Nobody but root may reach what containers write: it has set-user-ID programs.
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(Error::io(root))?;
        let path = root.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::Invalid(format!(
                "{} is in use by another lamina-containerd; stop that, or choose another directory with --root",
                root.display()
            )));
        }
        let state = Self { root: root.to_owned(), _lock: lock };
        for name in ["new", "removed", "damaged", "snapshots"] {
            let path = root.join(name);
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(Error::io(&path))?;
            if name == "new" {
                empty(&path)?;
            }
        }
        // They may be new. Otherwise the first snapshots would be lost with them.
        for directory in [Some(root), root.parent()].into_iter().flatten() {
            Directory::open(directory)?.sync()?;
        }
        Ok(state)
    }

    /// Returns all snapshots, by id. One whose record cannot be read is set aside.
    pub(crate) fn load(&self) -> Result<Vec<(String, Record)>, Error> {
        let mut found = Vec::new();
        let all = self.root.join("snapshots");
        for entry in fs::read_dir(&all).map_err(Error::io(&all))? {
            let id = entry.map_err(Error::io(&all))?.file_name().to_string_lossy().into_owned();
            let path = self.directory(&id).join(RECORD);
            let text = match fs::read(&path) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(Error::io(&path)(cause)),
                text => text,
            };
            match text.and_then(|text| Ok(serde_json::from_slice::<Record>(&text)?)) {
                Ok(record) => {
                    // A commit that was interrupted after its record was written.
                    if record.kind == Kind::Committed {
                        self.drop_upper(&id);
                    }
                    found.push((id, record));
                }
                Err(error) => {
                    // A snapshot that is made again from its pin has the same id.
                    let aside = self.root.join("damaged").join(format!("{id}-{}", Self::new_id()));
                    tracing::warn!("{}: {error}; the snapshot is moved to {}", path.display(), aside.display());
                    fs::rename(self.directory(&id), &aside).map_err(Error::io(&aside))?;
                }
            }
        }
        Ok(found)
    }

    /// Deletes what earlier calls and killed processes were removing. Before that, `forget` is called with each id: something
    /// outside this directory may still know the snapshot. Returns the ids for which that failed; what they name stays.
    pub(crate) fn finish_removals(
        &self,
        mut forget: impl FnMut(&str) -> Result<(), Error>,
    ) -> Result<BTreeSet<String>, Error> {
        let removed = self.root.join("removed");
        let mut left = BTreeSet::new();
        for entry in fs::read_dir(&removed).map_err(Error::io(&removed))? {
            let entry = entry.map_err(Error::io(&removed))?;
            let id = entry.file_name().to_string_lossy().into_owned();
            match forget(&id) {
                Ok(()) => delete(&entry.path()),
                Err(error) => {
                    tracing::warn!("what the removed snapshot {id} needed of the store is not freed: {error}");
                    left.insert(id);
                }
            }
        }
        Ok(left)
    }

    /// Returns the directory of a snapshot.
    pub(crate) fn directory(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(id)
    }

    /// Returns the id of the snapshot that had this directory, if it is one here.
    pub(crate) fn id_of(&self, directory: &Path) -> Option<String> {
        let id = directory.strip_prefix(self.root.join("snapshots")).ok()?.to_str()?;
        (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
    }

    pub(crate) fn upper(&self, id: &str) -> PathBuf {
        self.directory(id).join("upper")
    }

    pub(crate) fn work(&self, id: &str) -> PathBuf {
        self.directory(id).join("work")
    }

    /// Returns an id that was never used before, so that an old pin is not taken for the new snapshot's.
    pub(crate) fn new_id() -> String {
        use std::hash::{BuildHasher, Hasher};
        // It differs for each RandomState, and is seeded by the operating system.
        format!("{:016x}", std::hash::RandomState::new().build_hasher().finish())
    }

    /// Makes the directory of a snapshot. `prepare` is called with it before it gets its place.
    pub(crate) fn create(
        &self,
        id: &str,
        record: &Record,
        prepare: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new = self.root.join("new").join(id);
        let made = || {
            DirBuilder::new().mode(0o700).create(&new).map_err(Error::io(&new))?;
            if record.kind != Kind::Committed {
                for (name, mode) in [("upper", 0o755), ("work", 0o700)] {
                    let path = new.join(name);
                    fs::create_dir(&path).map_err(Error::io(&path))?;
                    // Whatever the umask is: the first becomes the root of a container.
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(Error::io(&path))?;
                }
            }
            write_record(&new, record)?.sync()?;
            prepare(&new)?;
            let place = self.directory(id);
            let all = Directory::open(&self.root.join("snapshots"))?;
            fs::rename(&new, &place).map_err(Error::io(&place))?;
            all.sync().inspect_err(|_| {
                let _ = fs::rename(&place, &new);
            })
        };
        let outcome = made();
        if outcome.is_err() {
            let _ = fs::remove_dir_all(&new);
        }
        outcome
    }

    /// Replaces the record of a snapshot.
    pub(crate) fn save(&self, id: &str, record: &Record) -> Result<(), Error> {
        write_record(&self.directory(id), record)?.sync()
    }

    /// Replaces the record of a snapshot by that of a commit. If this fails, the old record is in place again; the error is
    /// [`CommitError::Unknown`] if that fails too.
    pub(crate) fn save_commit(&self, id: &str, record: &Record, old: &Record) -> Result<(), CommitError> {
        let directory = self.directory(id);
        let replaced = write_record(&directory, record).map_err(CommitError::Undone)?;
        replaced.sync().map_err(|error| match self.save(id, old) {
            Ok(()) => CommitError::Undone(error),
            Err(again) => {
                tracing::warn!("{again}; the record may say that the snapshot is committed");
                CommitError::Unknown(error)
            }
        })
    }

    /// Deletes what was written to a snapshot that is now a layer. If this fails, the next start tries again.
    pub(crate) fn drop_upper(&self, id: &str) {
        for path in [self.upper(id), self.work(id)] {
            if let Err(error) = fs::remove_dir_all(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("{}: {error}; the next start tries again to delete it", path.display());
            }
        }
    }

    /// Takes a snapshot away, so that it no longer exists. [`State::delete`] frees its space. If this fails, the snapshot is
    /// as it was.
    pub(crate) fn retire(&self, id: &str) -> Result<(), Error> {
        let place = self.directory(id);
        let all = Directory::open(&self.root.join("snapshots"))?;
        fs::rename(&place, self.root.join("removed").join(id)).map_err(Error::io(&place))?;
        if let Err(error) = all.sync() {
            // Moving it back would not help: its pin ends with its place, so its layers may be gone already.
            tracing::warn!(
                "{error}; a power cut may bring the removed snapshot {id} back, until containerd removes it again"
            );
        }
        Ok(())
    }

    /// Deletes a snapshot that was taken away. If this fails, the next collection tries again.
    pub(crate) fn delete(&self, id: &str) {
        delete(&self.root.join("removed").join(id));
    }
}

/// Deletes what is in a directory.
fn empty(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::io(directory))? {
        delete(&entry.map_err(Error::io(directory))?.path());
    }
    Ok(())
}

/// Deletes a file or a tree. What cannot be deleted, such as an immutable file of a container, stays with a warning.
fn delete(path: &Path) {
    let deleted = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match deleted {
        // Two calls may delete the same.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{}: {error}; delete it by hand", path.display());
        }
        _ => {}
    }
}

/// Replaces a record. If this fails, the old one is still there. The directory must then be synced.
fn write_record(directory: &Path, record: &Record) -> Result<Directory, Error> {
    let path = directory.join(RECORD);
    let text = serde_json::to_vec(record).unwrap_or_default();
    let open = Directory::open(directory)?;
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(open)
    };
    write().map_err(Error::io(&path))
}

/// A directory that is open before something in it is renamed, so that after that only its sync can fail.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    file: File,
}

impl Directory {
    fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { path: path.to_owned(), file: File::open(path).map_err(Error::io(path))? })
    }

    fn sync(&self) -> Result<(), Error> {
        #[cfg(test)]
        if let Some(act) = AT_SYNC.take() {
            act();
        }
        #[cfg(test)]
        if SYNCS_TO_FAIL.get() > 0 {
            SYNCS_TO_FAIL.set(SYNCS_TO_FAIL.get() - 1);
            return Err(Error::io(&self.path)(io::ErrorKind::StorageFull.into()));
        }
        self.file.sync_all().map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
thread_local! {
    /// How many of this thread's next syncs of directories fail, as on a disk that fails.
    pub(crate) static SYNCS_TO_FAIL: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };

    /// What this thread does once before its next sync of a directory.
    pub(crate) static AT_SYNC: std::cell::Cell<Option<Box<dyn FnOnce()>>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn record(name: &str, kind: Kind) -> Record {
        Record::new(name, "", kind, BTreeMap::new())
    }

    #[test]
    fn snapshots_are_found_again_and_unfinished_ones_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        assert!(State::open(directory.path()).is_err(), "two processes with one directory");
        let [first, second] = [State::new_id(), State::new_id()];
        state.create(&first, &record("a", Kind::Active), |_| Ok(())).unwrap();
        state.create(&second, &record("b", Kind::Active), |_| Ok(())).unwrap();
        // As after a kill in the middle of a commit, and in the middle of a creation and a removal.
        state.save(&first, &record("committed", Kind::Committed)).unwrap();
        state.retire(&second).unwrap();
        fs::create_dir(directory.path().join("new/x")).unwrap();
        fs::create_dir(directory.path().join("snapshots/y")).unwrap();
        drop(state);
        let state = State::open(directory.path()).unwrap();
        let refuse = |_: &str| Err(Error::Invalid("no".into()));
        assert_eq!(state.finish_removals(refuse).unwrap(), BTreeSet::from([second.clone()]));
        assert!(directory.path().join("removed").join(&second).exists());
        let mut forgotten = Vec::new();
        let forget = |id: &str| {
            forgotten.push(id.to_owned());
            Ok(())
        };
        assert_eq!(state.finish_removals(forget).unwrap(), BTreeSet::new());
        assert_eq!(forgotten, [second]);
        let found = state.load().unwrap();
        assert_eq!(found, [(first.clone(), found[0].1.clone())]);
        assert_eq!(found[0].1.name, "committed");
        assert!(!state.upper(&first).exists());
        for name in ["new", "removed"] {
            assert_eq!(fs::read_dir(directory.path().join(name)).unwrap().count(), 0, "{name}");
        }
        let mut damaged = fs::read_dir(directory.path().join("damaged")).unwrap();
        assert!(damaged.next().unwrap().unwrap().file_name().to_string_lossy().starts_with("y-"));
    }

    #[test]
    fn a_snapshot_is_not_there_if_its_creation_or_its_removal_cannot_be_synced() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let fail_next = || SYNCS_TO_FAIL.set(1);
        let count = |name: &str| fs::read_dir(directory.path().join(name)).unwrap().count();
        let create = || {
            let prepare = |_: &Path| {
                fail_next();
                Ok(())
            };
            state.create("aa", &record("a", Kind::Active), prepare)
        };
        create().unwrap_err();
        assert_eq!((count("snapshots"), count("new")), (0, 0));
        state.create("aa", &record("a", Kind::Active), |_| Ok(())).unwrap();
        fail_next();
        state.retire("aa").unwrap();
        assert_eq!((count("snapshots"), count("removed")), (0, 1));
        state.retire("bb").unwrap_err();
    }

    #[test]
    fn a_snapshot_that_cannot_be_made_whole_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let refuse = |_: &Path| Err(Error::Invalid("no".into()));
        state.create("aa", &record("a", Kind::Active), refuse).unwrap_err();
        assert!(state.load().unwrap().is_empty());
        assert_eq!(state.id_of(&state.directory("aa")).as_deref(), Some("aa"));
        assert_eq!(state.id_of(Path::new("/other/snapshots/aa")), None);
        assert_eq!(state.id_of(&state.directory("../x")), None);
    }
}
