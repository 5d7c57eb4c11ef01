//! Writes an image of the store as an OCI layout.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndexBuilder, ImageManifest, MediaType, OciLayoutBuilder};
use serde::Serialize;

use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::oci::manifest;
use crate::sharing::blob::Blob;
use crate::space::Shortage;
use crate::store::{Image, Images, Store};
use crate::{DiffId, Digest, Observer, Reference};

/// How many bytes are copied at once from a layer that is stored in several files.
const PIECE: usize = 1 << 20;

/// How many bytes the kernel is asked to copy at once.
const CHUNK: u64 = 64 << 20;

/// Why an image could not be exported. Nothing is left in its place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The directory exists and is not empty.
    #[error("{0} is not empty; give a new directory")]
    NotEmpty(PathBuf),
    /// The image could not be read from the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host refused an operation at the destination.
    #[error("{path}: {cause}{}", shortage.as_ref().map(ToString::to_string).unwrap_or_default())]
    Host {
        /// The file or directory.
        path: PathBuf,
        /// The error of the host.
        #[source]
        cause: io::Error,
        /// If the disk is full: how much does not fit.
        shortage: Option<Shortage>,
    },
    /// A manifest, config or index could not be serialized.
    #[error("the image's {0} cannot be written: {1}")]
    Document(&'static str, String),
}

impl Images<'_> {
    /// Writes an image to `directory` as an OCI layout whose layers are plain tars. The digest of each is its DiffID,
    /// so importing the layout does not read layers that the store already has. Returns the digest of the layout's
    /// manifest.
    ///
    /// This digest differs from that of the image's manifest if the latter describes compressed layers. A digest in the
    /// image's name is then left out of the name in the layout.
    ///
    /// The kernel clones or copies the content of a layer that is completely in its own file. Each blob's digest is
    /// verified. `observer` is told about every byte of a layer twice: when it is copied, and when it is verified.
    pub fn export(&self, image: &Image, directory: &Path, observer: &dyn Observer) -> Result<Digest, ExportError> {
        if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(ExportError::NotEmpty(directory.to_owned()));
        }
        let parent = match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let needed = image.layers.iter().filter_map(|layer| self.store.layers().bytes(layer)).sum();
        self.store.export_beside(image, parent, directory, observer).map_err(|error| match error {
            ExportError::Host { path, cause, shortage } => {
                ExportError::Host { path, cause, shortage: shortage.map(|shortage| Shortage { needed, ..shortage }) }
            }
            other => other,
        })
    }
}

impl Store {
    /// Makes a layout in a temporary directory in `parent` and renames it.
    fn export_beside(
        &self,
        image: &Image,
        parent: &Path,
        directory: &Path,
        observer: &dyn Observer,
    ) -> Result<Digest, ExportError> {
        fs::create_dir_all(parent).map_err(target(parent))?;
        let staging = tempfile::Builder::new().prefix(".lamina-export-").tempdir_in(parent);
        let staging = staging.map_err(target(parent))?;
        let digest = self.write_layout(image, staging.path(), observer)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(staging.path(), mode).map_err(target(directory))?;
        fault::point(FaultPoint::ExportStaged);
        // A rename may replace an empty directory.
        fs::rename(staging.path(), directory).map_err(|cause| match cause.kind() {
            // Another export was faster.
            io::ErrorKind::DirectoryNotEmpty => ExportError::NotEmpty(directory.to_owned()),
            _ => target(directory)(cause),
        })?;
        Ok(digest)
    }

    fn write_layout(&self, image: &Image, layout: &Path, observer: &dyn Observer) -> Result<Digest, ExportError> {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(target(&blobs))?;
        let config_digest = image.config_digest;
        let config = self.images().manifest_bytes(&config_digest)?;
        put(&blobs, &config)?;
        // An image may have the same layer several times.
        let mut lengths: HashMap<DiffId, u64> = HashMap::new();
        let layers = image.layers.iter().map(|layer| {
            let length = match lengths.get(layer) {
                Some(length) => *length,
                None => self.copy_blob(layer, &blobs.join(layer.0.hex()), observer)?,
            };
            lengths.insert(*layer, length);
            descriptor(MediaType::ImageLayer, layer.0, length)
        });
        let layers = layers.collect::<Result<Vec<_>, ExportError>>()?;
        let mut manifest: ImageManifest = image.manifest.clone();
        manifest.set_media_type(Some(MediaType::ImageManifest));
        manifest.set_config(descriptor(MediaType::ImageConfig, config_digest, config.len() as u64)?);
        manifest.set_layers(layers);
        // A manifest that already says the same keeps its digest, and so the names with that digest stay valid.
        let manifest = match manifest == image.manifest {
            true => self.images().manifest_bytes(&image.manifest_digest)?,
            false => json("manifest", &manifest)?,
        };
        let digest = put(&blobs, &manifest)?;
        let mut entry = descriptor(MediaType::ImageManifest, digest, manifest.len() as u64)?;
        let name = name_for(&image.reference, &digest);
        let name = name.map(|name| ("org.opencontainers.image.ref.name".to_owned(), name));
        entry.set_annotations(Some(name.into_iter().collect()));
        let index = ImageIndexBuilder::default().schema_version(2u32).manifests(vec![entry]).build();
        let index = json("index", &index.map_err(|error| bad("index", error))?)?;
        write(&layout.join("index.json"), &index)?;
        let marker = OciLayoutBuilder::default().image_layout_version("1.0.0").build();
        let marker = json("layout", &marker.map_err(|error| bad("layout", error))?)?;
        write(&layout.join("oci-layout"), &marker)?;
        Ok(digest)
    }

    /// Copies a layer's tar, verifies its digest and returns its length.
    fn copy_blob(&self, layer: &DiffId, to: &Path, observer: &dyn Observer) -> Result<u64, ExportError> {
        self.hold_layer(layer)?;
        let source = self.open_blob(layer)?;
        let mut copy = File::create_new(to).map_err(target(to))?;
        let copied = copy_pieces(&source, &mut copy, observer).map_err(target(to));
        if observer.cancelled() {
            return Err(StoreError::Cancelled.into());
        }
        // If the layer itself cannot be read, the destination is not at fault.
        match self.layers().verify(layer, observer)? {
            None => copied,
            Some(damage) => Err(StoreError::DamagedLayer { layer: *layer, cause: damage.cause }.into()),
        }
    }
}

/// Returns the name of the image in the layout, without a digest that its manifest there does not have. `None` if
/// nothing else is left of the name.
fn name_for(reference: &str, manifest: &Digest) -> Option<String> {
    let Ok(parsed) = reference.parse::<Reference>() else { return Some(reference.to_owned()) };
    match parsed.digest() {
        Some(digest) if digest != *manifest => parsed.without_digest().map(|name| name.to_string()),
        _ => Some(reference.to_owned()),
    }
}

fn bad(what: &'static str, error: impl std::fmt::Display) -> ExportError {
    ExportError::Document(what, error.to_string())
}

fn descriptor(media_type: MediaType, digest: Digest, size: u64) -> Result<Descriptor, ExportError> {
    manifest::descriptor(media_type, &digest, size).map_err(|error| bad("descriptor", error))
}

fn json(what: &'static str, document: &impl Serialize) -> Result<Vec<u8>, ExportError> {
    serde_json::to_vec_pretty(document).map_err(|error| bad(what, error))
}

fn put(blobs: &Path, bytes: &[u8]) -> Result<Digest, ExportError> {
    let digest = Digest::of(bytes);
    write(&blobs.join(digest.hex()), bytes)?;
    Ok(digest)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    fs::write(path, bytes).map_err(target(path))
}

/// Copies a layer's tar in pieces and returns its length. `observer` is told about each piece and can cancel the copy.
fn copy_pieces(source: &Blob, copy: &mut File, observer: &dyn Observer) -> io::Result<u64> {
    let mut pieces = BufReader::with_capacity(PIECE, source.reader());
    let mut length = 0;
    while !observer.cancelled() {
        let copied = match source.whole() {
            Some(file) => io::copy(&mut file.take(CHUNK), copy)?,
            None => io::copy(&mut (&mut pieces).take(CHUNK), copy)?,
        };
        if copied == 0 {
            break;
        }
        length += copied;
        observer.progress(copied);
    }
    Ok(length)
}

fn target(path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_owned();
    move |cause| {
        // Measured now, because the failed export is deleted afterwards.
        let shortage = Shortage::measure(&cause, &path, 0);
        ExportError::Host { path, cause, shortage }
    }
}
