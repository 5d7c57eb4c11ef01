//! Updates the files of machines to match their processes, which are the truth.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

use composefs_fuse::linux::{Unmount, unmount};
use rustix::process::{Signal, pidfd_send_signal};

use super::exit_record::{self, LOCK};
use super::home;
use super::record::{self, MOUNT_POINT, Record};
use crate::failure::{About, Failure};
use crate::machine::kept::{self, remove_state};

/// Cleans up after killed supervisors, for every machine. What cannot be removed is left for the next time.
pub(super) fn reconcile_all(machines: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(machines).about(machines.display())?.flatten() {
        reconcile(&entry.path());
    }
    Ok(())
}

/// Updates the files of one machine to match its processes. If its supervisor was killed, this ends its other
/// processes, removes its mount and sockets, and marks it as failed; an ephemeral machine is removed.
pub(super) fn reconcile(state: &Path) {
    let Ok(record) = Record::read(state) else {
        // A record that cannot be read is left for the user to look at: the machine may have a disk.
        if is_half_made(state) {
            let _ = fs::remove_dir_all(state);
        }
        return;
    };
    let seen = record.clone().seen_now();
    if seen.state == record.state {
        return;
    }
    // A process that holds the lock is still alive, or is cleaning up too.
    let Ok(lock) = OpenOptions::new().append(true).open(state.join(LOCK)) else { return };
    if lock.try_lock().is_err() {
        return;
    }
    for process in record.processes.iter().skip(1) {
        if let Some(handle) = process.open(&record.boot_id) {
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }
    // Fails if nothing is mounted.
    let _ = unmount(&state.join(MOUNT_POINT), Unmount::Lazy);
    let _ = fs::remove_dir(state.join(MOUNT_POINT));
    if let Ok(sockets) = record.socket_directory()
        && home::is_for_sockets(&sockets, &record.name)
    {
        let _ = fs::remove_dir_all(sockets);
    }
    // Fails if the disk is full.
    let _ = exit_record::write(&lock, &seen.state);
    if record.ephemeral {
        let _ = remove_state(state);
    } else if let Err(failure) = seen.write(state) {
        tracing::warn!("{failure}");
    }
}

/// Returns whether a directory was left behind before it had a record, and is not just being created.
fn is_half_made(state: &Path) -> bool {
    let nothing = |name: &str| matches!(state.join(name).try_exists(), Ok(false));
    let age = fs::metadata(state).and_then(|directory| directory.modified()).map(|made| made.elapsed());
    matches!(age, Ok(Ok(age)) if age > Duration::from_secs(10))
        && [record::FILE, kept::DISK, kept::DIRECTORY].into_iter().all(nothing)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::exit_record::lock;
    use super::super::record::{ProcessRecord, State, new_record};
    use super::*;

    fn machine(state: &Path, ephemeral: bool) {
        let mut record = new_record("m", "image", &["true".into()], ephemeral);
        let ours = ProcessRecord::of("lamina", rustix::process::getpid()).unwrap();
        record.processes = vec![ProcessRecord { started: ours.started + 1, ..ours }];
        record.write(state).unwrap();
        fs::write(state.join(LOCK), "").unwrap();
    }

    #[test]
    fn a_machine_of_a_dead_supervisor_is_marked_and_an_ephemeral_one_goes() {
        let home = tempfile::tempdir().unwrap();
        for ephemeral in [false, true] {
            let state = home.path().join("m");
            fs::create_dir(&state).unwrap();
            machine(&state, ephemeral);
            reconcile(&state);
            assert_eq!(state.exists(), !ephemeral);
            if !ephemeral {
                assert!(matches!(Record::read(&state).unwrap().state, State::Failed { .. }));
                fs::remove_dir_all(&state).unwrap();
            }
        }
    }

    #[test]
    fn a_machine_whose_lock_is_held_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        machine(home.path(), true);
        let _lock = lock(home.path(), "m").unwrap();
        reconcile(home.path());
        assert_eq!(Record::read(home.path()).unwrap().state, State::Starting);
    }

    #[test]
    fn a_machine_whose_record_cannot_be_read_is_left_with_its_disk() {
        let home = tempfile::tempdir().unwrap();
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(1000);
        let make_old = || File::open(home.path()).unwrap().set_modified(long_ago).unwrap();
        fs::write(home.path().join(record::FILE), "").unwrap();
        make_old();
        reconcile(home.path());
        fs::remove_file(home.path().join(record::FILE)).unwrap();
        fs::write(home.path().join(kept::DISK), "").unwrap();
        make_old();
        reconcile(home.path());
        fs::remove_file(home.path().join(kept::DISK)).unwrap();
        make_old();
        reconcile(home.path());
        assert!(!home.path().exists(), "with neither it is nothing");
        fs::create_dir(home.path()).unwrap();
    }

    #[test]
    fn a_directory_that_is_just_being_made_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        reconcile(home.path());
        assert!(home.path().exists());
    }
}
