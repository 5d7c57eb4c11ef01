//! A machine's lock, and the record of how the machine ended. Commands that wait for the machine read the record, even
//! if nothing else of the machine is left.
//!
//! The record is a line of JSON, a [`State`], at the end of the lock's file: a process that has the file open can read
//! it even after the file has been removed. Each run adds one line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::record::State;
use crate::failure::{About, Failure};

/// The file that a machine's supervisor keeps locked. The kernel releases it when the supervisor dies, however it dies.
pub(super) const LOCK: &str = "lock";

/// How long another process may hold a lock while it checks the machine.
const LOOK: Duration = Duration::from_millis(500);

/// Takes the lock of the machine called `name`.
///
/// # Errors
/// The machine runs.
pub(super) fn lock(state: &Path, name: &str) -> Result<File, Failure> {
    let path = state.join(LOCK);
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).about(path.display())?;
    let start = Instant::now();
    while file.try_lock().is_err() {
        if start.elapsed() > LOOK {
            return Err(Failure::new(format_args!("machine {name}"), "it is already running"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(file)
}

/// Writes the record to the lock, which must be open for appending.
pub(super) fn write(mut lock: &File, state: &State) -> io::Result<()> {
    let mut line = serde_json::to_vec(state)?;
    line.push(b'\n');
    lock.write_all(&line)
}

/// The record of the present run, which has not been written yet.
#[derive(Debug)]
pub(crate) struct ExitRecord {
    lock: File,
    /// The offset at which it will be.
    from: u64,
}

impl ExitRecord {
    /// Finds the record of the machine whose directory is `state`.
    pub(super) fn of(state: &Path) -> io::Result<Self> {
        let lock = File::open(state.join(LOCK))?;
        let from = lock.metadata()?.len();
        Ok(Self { lock, from })
    }

    /// Returns the record once it has been written.
    pub(super) fn read(&self) -> Option<State> {
        let length = self.lock.metadata().ok()?.len().checked_sub(self.from)?;
        let mut lines = vec![0; usize::try_from(length).ok()?];
        self.lock.read_exact_at(&mut lines, self.from).ok()?;
        let (first, _) = lines.split_at_checked(lines.iter().position(|&byte| byte == b'\n')?)?;
        serde_json::from_slice(first).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_that_was_waited_for_is_heard_by_all_though_nothing_of_the_machine_is_left() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("m");
        std::fs::create_dir(&state).unwrap();
        let lock = lock(&state, "m").unwrap();
        write(&lock, &State::Exited { status: 1, at: 1 }).unwrap();
        let waiting = [(); 3].map(|()| ExitRecord::of(&state).unwrap());
        assert!(waiting.iter().all(|record| record.read().is_none()), "an earlier end is not this one's");
        let end = State::Failed { reason: "two\nlines".into(), status: 5, at: 2 };
        write(&lock, &end).unwrap();
        write(&lock, &State::Exited { status: 6, at: 3 }).unwrap();
        std::fs::remove_dir_all(&state).unwrap();
        drop(lock);
        assert!(waiting.iter().all(|record| record.read().as_ref() == Some(&end)));
    }
}
