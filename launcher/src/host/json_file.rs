//! Small JSON files that are always replaced as a whole.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{About, Failure};

/// Reads the file at `path`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let json = fs::read(path).about(path.display())?;
    serde_json::from_slice(&json).about(path.display())
}

/// Writes the file at `path`, readable only by its owner (mode 0600), and renames it into place, so that a power cut
/// leaves either the old or the new document. On a full disk it overwrites the old document, because that needs no new
/// block.
pub(crate) fn write(path: &Path, document: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_vec_pretty(document).about(path.display())?;
    let written = match replace(path, &json) {
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            write_over(path, &json).map_err(|_| error)
        }
        other => other,
    };
    written.about(path.display())
}

fn replace(path: &Path, json: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(json)?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}

fn write_over(path: &Path, json: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(json, 0)?;
    file.set_len(json.len() as u64)
}
