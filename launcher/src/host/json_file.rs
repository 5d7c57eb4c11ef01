//! Small JSON files that are always replaced as a whole.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use layer_store::user_dirs;
use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{About, Failure};

/// The most bytes of a document. The longest command line and environment of Linux have 6 MiB (`MAX_ARG_STRINGS`).
const MOST: u64 = 16 << 20;

/// Reads the file at `path`, which must be this user's own or root's: what another user writes must not choose which
/// processes are ended and which files are removed.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let json = read_own(path).about(path.display())?;
    serde_json::from_slice(&json).about(path.display())
}

fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    // NONBLOCK: a pipe has no other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = file.metadata()?;
    let refuse = |cause: String| Err(io::Error::new(ErrorKind::InvalidData, cause));
    if !found.is_file() {
        return refuse("it is not a regular file".to_owned());
    }
    if found.uid() != geteuid().as_raw() && found.uid() != 0 {
        return refuse(format!("it belongs to {}, so it is not used", user_dirs::user_name(found.uid())));
    }
    if found.mode() & 0o002 != 0 {
        return refuse("everybody can write it, so it is not used".to_owned());
    }
    let mut json = Vec::new();
    file.take(MOST + 1).read_to_end(&mut json)?;
    if json.len() as u64 > MOST { refuse(format!("it has more than {MOST} bytes")) } else { Ok(json) }
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
