//! An OCI layout as the destination: blobs of a new directory, which is then merged into the layout or becomes it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::destination::{Destination, Document};
use super::error::PushError;
use crate::registry::{UploadBlob, digest_of};
use crate::{BlobDigest, Digest, LayerSource};

/// How many bytes are copied at once.
const PIECE: usize = 1 << 20;

/// A layout, and the directory beside it in which what is new is made.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    /// Where it is, if it exists.
    pub(crate) there: Option<&'a Path>,
    pub(crate) staging: &'a Path,
}

impl Layout<'_> {
    fn path(&self, digest: &BlobDigest) -> PathBuf {
        self.staging.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    /// Whether the layout has a blob with this digest. Its bytes are hashed: a file of that name may have others.
    pub(crate) fn has(&self, digest: &BlobDigest) -> bool {
        let in_layout = self.there.map(|there| there.join("blobs").join(digest.algorithm()).join(digest.hex()));
        let is_sound = |path: PathBuf| File::open(path).and_then(|mut file| digest_of(&mut file, digest));
        self.path(digest).exists() || in_layout.is_some_and(|path| is_sound(path).is_ok_and(|found| found == *digest))
    }
}

impl Destination for Layout<'_> {
    fn has_blob(&self, digest: &BlobDigest) -> Result<bool, PushError> {
        Ok(self.has(digest))
    }

    fn mount(&self, _: &BlobDigest, _: &[LayerSource]) -> Result<bool, PushError> {
        Ok(false)
    }

    fn put_blob(&self, blob: &UploadBlob, _: &str) -> Result<(), PushError> {
        let path = self.path(&blob.digest);
        let failed = || PushError::host(&path);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed())?;
        // Two layers may have the same bytes. Both threads write the same file, under a name of their own.
        let mut new = tempfile::NamedTempFile::new_in(self.staging).map_err(failed())?;
        io::copy(&mut At { file: &blob.file, offset: 0 }, &mut new).map_err(failed())?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        new.as_file().set_permissions(mode).map_err(failed())?;
        new.persist(&path).map(drop).map_err(|error| failed()(error.error))
    }

    fn has_document(&self, digest: &Digest) -> Result<bool, PushError> {
        Ok(self.has(&(*digest).into()))
    }

    fn put_document(&self, document: &Document) -> Result<(), PushError> {
        let path = self.path(&document.digest.into());
        let failed = || PushError::host(&path);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed())?;
        fs::write(&path, &document.bytes).map_err(failed())
    }

    fn source(&self, _: &BlobDigest, _: &str, _: u64) -> Option<LayerSource> {
        None
    }

    fn shares_access_with(&self, _: &str) -> bool {
        true
    }

    fn cancel(&self) {}
}

/// Reads a file from its start, wherever its own position is.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(PIECE);
        let filled = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.offset)?;
        self.offset += filled as u64;
        Ok(filled)
    }
}
