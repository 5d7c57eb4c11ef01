//! Fetches the compressed bytes of a layer again, as they are, to pass them on.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use sha2::{Digest as _, Sha256, Sha512};

use super::blob::{Connections, LayerReader};
use super::{PullError, PullOptions, from_origin};
use crate::oci::{ImageError, LayerSource};
use crate::{BlobDigest, Digest, Observer};

/// How many bytes are read at once.
const PIECE: usize = 256 << 10;

/// Fetches a layer from the registry that it came from into `file`, and verifies its digest.
pub(crate) fn fetch_compressed(
    source: &LayerSource,
    file: &mut File,
    options: &PullOptions,
    observer: &Arc<dyn Observer>,
) -> Result<(), PullError> {
    from_origin(source, options, observer, |runtime, (repository, reference), descriptor, halt| {
        let mut reader = LayerReader::start(runtime.handle(), repository, descriptor, None, Connections::One, halt);
        let copied = copy_hashed(&mut reader, file, &source.compressed);
        let actual =
            copied.map_err(|error| reader.take_failure().unwrap_or_else(|| PullError::Store(Box::new(error))))?;
        if actual == source.compressed {
            return Ok(());
        }
        let (expected, actual) = (source.compressed.to_string(), actual.to_string());
        let cause = ImageError::WrongDigest { what: format!("layer {expected}"), expected, actual };
        Err(PullError::Image { image: reference.familiar(), cause })
    })
}

/// Copies to the start of a file, and returns the digest of what was copied, of the same kind as `like`.
pub(crate) fn copy_hashed(from: &mut dyn Read, to: &mut File, like: &BlobDigest) -> io::Result<BlobDigest> {
    io::Seek::rewind(to)?;
    to.set_len(0)?;
    hashed(from, to, like)
}

/// Returns the digest of what is read, of the same kind as `like`.
pub(crate) fn digest_of(from: &mut dyn Read, like: &BlobDigest) -> io::Result<BlobDigest> {
    hashed(from, &mut io::sink(), like)
}

fn hashed(from: &mut dyn Read, to: &mut dyn Write, like: &BlobDigest) -> io::Result<BlobDigest> {
    let (mut sha256, mut sha512) = (Sha256::new(), Sha512::new());
    let mut piece = vec![0; PIECE];
    loop {
        let length = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = piece.get(..length).unwrap_or_default();
        match like {
            BlobDigest::Sha256(_) => sha256.update(bytes),
            BlobDigest::Sha512(_) => sha512.update(bytes),
        }
        to.write_all(bytes)?;
    }
    Ok(match like {
        BlobDigest::Sha256(_) => BlobDigest::Sha256(Digest::from_bytes(sha256.finalize().into())),
        BlobDigest::Sha512(_) => BlobDigest::Sha512(sha512.finalize().into()),
    })
}
