//! How a machine ended, told to those who wait for it, also where its directory goes right behind.
//!
//! The word is a line of JSON, a [`State`], at the end of the machine's lock: who has that file open reads it there when
//! the file has lost its name. Each run adds one line.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::directory::LOCK;
use super::record::State;

/// Leaves the word in the lock, which must have been opened to append.
pub(super) fn leave(mut lock: &File, state: &State) -> io::Result<()> {
    let mut line = serde_json::to_vec(state)?;
    line.push(b'\n');
    lock.write_all(&line)
}

/// Hears the word of the run that is under way.
#[derive(Debug)]
pub(super) struct ExitRecord {
    lock: File,
    /// Where it will stand.
    from: u64,
}

impl ExitRecord {
    /// Listens beside the machine whose directory is `state`.
    pub(super) fn of(state: &Path) -> io::Result<Self> {
        let lock = File::open(state.join(LOCK))?;
        let from = lock.metadata()?.len();
        Ok(Self { lock, from })
    }

    /// The word, once it has been left.
    pub(super) fn heard(&self) -> Option<State> {
        let length = self.lock.metadata().ok()?.len().checked_sub(self.from)?;
        let mut lines = vec![0; usize::try_from(length).ok()?];
        self.lock.read_exact_at(&mut lines, self.from).ok()?;
        let (first, _) = lines.split_at_checked(lines.iter().position(|&byte| byte == b'\n')?)?;
        serde_json::from_slice(first).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::lock;
    use super::*;

    #[test]
    fn the_end_that_was_waited_for_is_heard_by_all_though_nothing_of_the_machine_is_left() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("m");
        std::fs::create_dir(&state).unwrap();
        let lock = lock(&state, "m").unwrap();
        leave(&lock, &State::Exited { status: 1, at: 1 }).unwrap();
        let waiting = [(); 3].map(|()| ExitRecord::of(&state).unwrap());
        assert!(waiting.iter().all(|word| word.heard().is_none()), "an earlier end is not this one's");
        let end = State::Failed { reason: "two\nlines".into(), status: 5, at: 2 };
        leave(&lock, &end).unwrap();
        leave(&lock, &State::Exited { status: 6, at: 3 }).unwrap();
        std::fs::remove_dir_all(&state).unwrap();
        drop(lock);
        assert!(waiting.iter().all(|word| word.heard().as_ref() == Some(&end)));
    }
}
