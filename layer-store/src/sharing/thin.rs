//! Makes a staged layer thin: compares the bytes, writes the map and makes the holes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::blob::{MAP, THIN, WHOLE};
use super::choose::Choice;
use super::map::{self, Run};
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::{DiffId, durable};

/// How many bytes are compared at once.
const PIECE: usize = 128 << 10;

/// Returns those of `runs` whose bytes are equal in `own` and in `donor`, which stores them from now on.
/// Bytes that cannot be read count as different.
pub(crate) fn compared(own: &File, donor: &File, runs: Vec<Run>) -> Vec<Run> {
    let (mut mine, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
    let mut same = |run: &Run| match same_bytes(own, donor, run, &mut mine, &mut theirs) {
        Ok(same) => same,
        Err(cause) => {
            tracing::info!("not shared: {cause}");
            false
        }
    };
    runs.into_iter().filter(|run| same(run)).collect()
}

fn same_bytes(own: &File, donor: &File, run: &Run, mine: &mut [u8], theirs: &mut [u8]) -> io::Result<bool> {
    let mut done = 0;
    while done < run.length {
        let wanted = usize::try_from(run.length - done).map_or(PIECE, |left| left.min(PIECE));
        let (Some(mine), Some(theirs)) = (mine.get_mut(..wanted), theirs.get_mut(..wanted)) else {
            return Ok(false);
        };
        own.read_exact_at(mine, run.offset + done)?;
        donor.read_exact_at(theirs, run.donor_offset + done)?;
        if mine != theirs {
            tracing::info!("not shared: content with the same hash differs");
            return Ok(false);
        }
        done += wanted as u64;
    }
    Ok(true)
}

/// Writes the map of a layer in `directory`, renames its file to `thin` and makes the holes of `fresh`, which are
/// among those of the choice.
///
/// Returns `false` if the map could not be written or the file system cannot make holes; nothing was changed then.
/// The caller syncs `file` and `directory`.
pub(crate) fn make(directory: &Path, file: &File, layer: &DiffId, length: u64, choice: &Choice, fresh: &[Run]) -> bool {
    let was_whole = directory.join(WHOLE).exists();
    if let Err(error) = write_map(directory, layer, length, choice) {
        tracing::info!("not shared: {error}");
        return false;
    }
    fault::point(FaultPoint::SharingMapped);
    if was_whole && fs::rename(directory.join(WHOLE), directory.join(THIN)).is_err() {
        let _ = fs::remove_file(directory.join(MAP));
        return false;
    }
    fault::point(FaultPoint::SharingNamed);
    for (number, run) in fresh.iter().enumerate() {
        let Err(cause) = punch(file, run) else {
            fault::point(FaultPoint::SharingFirstPunched);
            continue;
        };
        tracing::info!("{}: cannot make more holes: {cause}", directory.display());
        if number == 0 && was_whole && is_unable(cause) {
            // No hole was made, so the tar is still whole.
            let _ = fs::rename(directory.join(THIN), directory.join(WHOLE));
            let _ = fs::remove_file(directory.join(MAP));
            return false;
        }
        // The map is also correct for bytes that are still in the file.
        break;
    }
    fault::point(FaultPoint::SharingPunched);
    true
}

#[cfg(target_os = "linux")]
fn punch(file: &File, run: &Run) -> rustix::io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, run.offset, run.length)
}

/// Other systems make holes with other calls, if at all, so every tar stays whole.
#[cfg(not(target_os = "linux"))]
fn punch(_file: &File, _run: &Run) -> rustix::io::Result<()> {
    Err(rustix::io::Errno::OPNOTSUPP)
}

fn is_unable(cause: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(cause, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)
}

fn write_map(directory: &Path, layer: &DiffId, length: u64, choice: &Choice) -> Result<(), StoreError> {
    let staged = directory.join("shared.new");
    let bytes = map::write(layer, length, &choice.donors, &choice.runs).map_err(StoreError::io(&staged))?;
    let written = durable::write(&staged, &bytes);
    let to = directory.join(MAP);
    let written = written.and_then(|()| fs::rename(&staged, &to).map_err(StoreError::io(&to)));
    if written.is_err() {
        let _ = fs::remove_file(&staged);
    }
    written
}
