//! Where an upload goes on, kept on disk, so that a push that was killed does not send everything again.
//!
//! A note is a cache like the parts of pulled layers (`oci::partial`), and is kept beside them: the file is locked while a
//! process sends the blob, and a collection removes it a day after the last change. What the registry has is asked for
//! before it is used, and the digest of the whole blob proves it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use reqwest::Url;

use crate::regular;
use crate::{BlobDigest, Digest};

/// The longest address that is kept, in bytes. Registries put signed states into them.
const LONGEST: usize = 16 << 10;

/// The note about the upload of one blob to one repository.
#[derive(Debug)]
pub(crate) struct UploadNote {
    file: File,
    path: PathBuf,
}

impl UploadNote {
    /// Opens the note about a blob for the repository called `repository`, or starts a new one. Returns `None` if another
    /// process sends the blob, or if nothing can be kept; the blob can still be sent.
    pub(crate) fn open(directory: &Path, repository: &str, blob: &BlobDigest) -> Option<Self> {
        // No layer has this digest, so it is the name of no part.
        let name = Digest::of(format!("upload of {blob} to {repository}").as_bytes());
        let opened = || -> io::Result<Self> {
            // An address may have a signature in it.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            let path = directory.join(name.hex());
            let file = regular::open_private(&path)?;
            file.try_lock()?;
            Ok(Self { file, path })
        };
        opened().inspect_err(|error| tracing::info!("{}: {error}; the upload is not noted", directory.display())).ok()
    }

    /// Returns where the upload goes on.
    pub(super) fn read(&self) -> Option<Url> {
        let mut text = vec![0; LONGEST];
        let length = self.file.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(text.get(..length)?).ok()?.parse().ok()
    }

    /// Notes where the upload goes on.
    pub(super) fn write(&self, url: &Url) {
        let text = url.as_str().as_bytes();
        let written = || -> io::Result<()> {
            self.file.set_len(0)?;
            self.file.write_all_at(text.get(..LONGEST.min(text.len())).unwrap_or_default(), 0)
        };
        written().unwrap_or_else(|error| tracing::info!("{}: {error}", self.path.display()));
    }

    /// Removes the note.
    pub(super) fn forget(&self) {
        fs::remove_file(&self.path).unwrap_or_else(|error| tracing::info!("{}: {error}", self.path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_of_one_blob_and_one_repository_and_used_by_one_process() {
        let directory = tempfile::tempdir().unwrap();
        let blob = |text: &[u8]| BlobDigest::Sha256(Digest::of(text));
        let open = |repository, text| UploadNote::open(&directory.path().join("x"), repository, &blob(text));
        let note = open("a.test/x", b"1").unwrap();
        assert_eq!(note.read(), None);
        let (long, short) =
            ("https://a.test/v2/x/blobs/uploads/1234?state=5".parse().unwrap(), "https://a.test/v2".parse().unwrap());
        note.write(&long);
        note.write(&short);
        assert_eq!(note.read(), Some(short.clone()));
        assert!(open("a.test/x", b"1").is_none(), "it is in use");
        assert_eq!(open("a.test/x", b"2").unwrap().read(), None);
        assert_eq!(open("a.test/y", b"1").unwrap().read(), None);
        drop(note);
        let again = open("a.test/x", b"1").unwrap();
        assert_eq!(again.read(), Some(short));
        again.forget();
        drop(again);
        assert_eq!(open("a.test/x", b"1").unwrap().read(), None);
    }
}
