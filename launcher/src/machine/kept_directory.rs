//! What a container keeps: a directory of its own with an upper directory of an overlay. Its files belong to the ids of the
//! container.

use std::fs;
use std::io;
use std::path::Path;

use crate::engine;
use crate::failure::{About, Failure};

/// The directory's name in the machine's directory.
pub(crate) const NAME: &str = "writes";

/// Creates an empty one.
///
/// # Errors
/// It cannot be created.
pub(crate) fn make(path: &Path) -> Result<(), Failure> {
    fs::create_dir(path).about(path.display())
}

/// Removes the state of a machine, with what it has kept.
///
/// # Errors
/// Something cannot be removed.
pub(super) fn remove_state(state: &Path) -> Result<(), Failure> {
    engine::remove_writes(&state.join(NAME))?;
    match fs::remove_dir_all(state) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).about(state.display()),
        _ => Ok(()),
    }
}
