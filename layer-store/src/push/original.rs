//! The compressed bytes of a layer as they came: fetched again, read again, or made again.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::compress::Packing;
use super::error::PushError;
use super::layer::{Sender, Unavailable};
use crate::ingest::Decoder;
use crate::oci::manifest::Descriptor;
use crate::registry::{self, UploadBlob};
use crate::{BlobDigest, DiffId, LayerSource, LayerState, Observer, Origin, PullError, PullOptions};

impl Sender<'_> {
    /// Returns the bytes that a manifest describes, verified, or why they cannot be had.
    pub(super) fn original(
        &self,
        wanted: &Descriptor,
        layer: &DiffId,
        sources: &[LayerSource],
    ) -> Result<Result<UploadBlob, Unavailable>, PushError> {
        if wanted.digest.sha256() == Some(layer.0) {
            return self.compress(layer, wanted, Packing::Plain).map(Ok);
        }
        let mut causes = Vec::new();
        for source in sources.iter().filter(|source| source.compressed == wanted.digest) {
            self.report(wanted, LayerState::Fetching, 0, wanted.size);
            match self.again(wanted, source)? {
                Ok(blob) => return Ok(Ok(blob)),
                Err(cause) => causes.push(cause),
            }
        }
        let mut made = None;
        if let Some(packing @ (Packing::Gzip | Packing::Zstd)) = Packing::of(&wanted.media_type) {
            let blob = self.compress(layer, wanted, packing)?;
            if blob.digest == wanted.digest {
                return Ok(Ok(blob));
            }
            made = Some((packing, blob));
        }
        let cause = match causes.is_empty() {
            true => "it is not known where it came from".to_owned(),
            false => causes.join("; "),
        };
        let notice =
            format!("the compressed layer {} cannot be had again ({cause}): it is compressed again", wanted.short());
        Ok(Err(Unavailable { cause, notice: Some(notice), made }))
    }

    /// Reads a layer again from where it came. The inner error says why that is not possible.
    fn again(&self, wanted: &Descriptor, source: &LayerSource) -> Result<Result<UploadBlob, String>, PushError> {
        let mut file = self.scratch()?;
        let blob = |file: File| UploadBlob { file: Arc::new(file), digest: wanted.digest, size: wanted.size };
        match &source.origin {
            Origin::Registry { registry, .. } => {
                let mut options: PullOptions = self.options.registry.clone();
                if !self.destination.shares_access_with(registry) {
                    (options.login, options.certificates) = (None, None);
                }
                match registry::fetch_compressed(source, &mut file, &options, self.observer) {
                    Ok(()) => Ok(Ok(blob(file))),
                    Err(PullError::Cancelled) => Err(PushError::Cancelled),
                    Err(error) if self.observer.cancelled() => Err(error.into()),
                    Err(error) => Ok(Err(error.to_string())),
                }
            }
            Origin::Archive(path) if path == "-" => Ok(Err("it came from a pipe".to_owned())),
            Origin::Archive(path) => match read_archive(Path::new(path), &wanted.digest, &mut file, &**self.observer) {
                Ok(()) => Ok(Ok(blob(file))),
                Err(_) if self.observer.cancelled() => Err(PushError::Cancelled),
                Err(error) => Ok(Err(format!("{path}: {error}"))),
            },
        }
    }
}

/// Copies a blob of a layout, or of the archive of one, into a file, and verifies it.
fn read_archive(path: &Path, digest: &BlobDigest, to: &mut File, observer: &dyn Observer) -> io::Result<()> {
    let name = format!("blobs/{}/{}", digest.algorithm(), digest.hex());
    let verified = |actual: BlobDigest| match actual == *digest {
        true => Ok(()),
        false => Err(io::Error::other(format!("its blob {digest} has the digest {actual}"))),
    };
    if path.is_dir() {
        let mut blob = File::open(path.join(&name))?;
        return verified(registry::copy_hashed(&mut Cancellable(&mut blob, observer), to, digest)?);
    }
    let decoder = Decoder::new(Cancellable(File::open(path)?, observer)).map_err(io::Error::other)?;
    let mut archive = tar::Archive::new(decoder);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let is_it = entry.path()?.strip_prefix("./").map(Path::to_owned).unwrap_or(entry.path()?.into_owned());
        if is_it == Path::new(&name) {
            return verified(registry::copy_hashed(&mut entry, to, digest)?);
        }
    }
    Err(io::Error::other(format!("it has no blob {digest} any more")))
}

/// Ends with an error when the observer cancels.
struct Cancellable<'a, R>(R, &'a dyn Observer);

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.cancelled() { Err(io::Error::other("cancelled")) } else { self.0.read(buffer) }
    }
}
