//! Small JSON files that are replaced whole.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{About, Failure};

/// Reads the file at `path`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let json = fs::read(path).about(path.display())?;
    serde_json::from_slice(&json).about(path.display())
}

/// Writes the file at `path` by a rename, for its owner's eyes only (mode 0600).
pub(crate) fn write(path: &Path, document: &impl Serialize) -> Result<(), Failure> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).about(path.display())?;
    serde_json::to_writer_pretty(&mut file, document).about(path.display())?;
    file.persist(path).about(path.display())?;
    Ok(())
}
