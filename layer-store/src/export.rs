//! Writes an image of the store as an OCI layout.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndexBuilder, ImageManifest, MediaType, OciLayoutBuilder};
use serde::Serialize;
use serde_json::Value;

use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::oci::manifest;
use crate::push::{self, Document, Layout, PushError, PushOptions};
use crate::sharing::blob::Blob;
use crate::space::Shortage;
use crate::store::{Image, Images, Store};
use crate::{DiffId, Digest, Observer, Reference};

/// The files of a layout besides its blobs.
const INDEX: &str = "index.json";
const MARKER: &str = "oci-layout";

/// The annotation with the name of an image in a layout.
const NAME: &str = "org.opencontainers.image.ref.name";

/// How many bytes are copied at once from a layer that is stored in several files.
const PIECE: usize = 1 << 20;

/// How many bytes the kernel is asked to copy at once.
const CHUNK: u64 = 64 << 20;

/// Why an image could not be exported. Nothing is left in its place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The directory has something else in it than an OCI layout.
    #[error("{0} is not empty, and no OCI layout; give a new directory or a layout")]
    NotEmpty(PathBuf),
    /// The layout that the image would be added to cannot be read.
    #[error("{path}: {cause}")]
    Layout {
        /// Its list of images.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
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
    /// The image cannot be had in the form that it came in.
    #[error(transparent)]
    Original(#[from] PushError),
}

impl Images<'_> {
    /// Writes an image to `directory` as an OCI layout whose layers are plain tars. The digest of each is its DiffID,
    /// so importing the layout does not read layers that the store already has. If `directory` is a layout, the image is added
    /// to it, and takes its name from another image there. Returns the digest of the manifest in the layout.
    ///
    /// This digest differs from that of the image's manifest if the latter describes compressed layers. A digest in the
    /// image's name is then left out of the name in the layout.
    ///
    /// The kernel clones or copies the content of a layer that is completely in its own file. Each blob's digest is
    /// verified. `observer` is told about every byte of a layer twice: when it is copied, and when it is verified.
    pub fn export(&self, image: &Image, directory: &Path, observer: &dyn Observer) -> Result<Digest, ExportError> {
        let needed = image.layers.iter().filter_map(|layer| self.store.layers().bytes(layer)).sum();
        let exported =
            into_layout(&image.reference, directory, |layout| self.store.write_plain(image, layout, observer));
        exported.map_err(|error| match error {
            ExportError::Host { path, cause, shortage } => {
                ExportError::Host { path, cause, shortage: shortage.map(|shortage| Shortage { needed, ..shortage }) }
            }
            other => other,
        })
    }

    /// Does the same with layers in another form: as they came, or compressed as `options` say. With `all_platforms`, the images
    /// for all platforms that are kept are written, with their index.
    pub fn export_as(
        &self,
        image: &Image,
        directory: &Path,
        options: &PushOptions,
        observer: &Arc<dyn Observer>,
    ) -> Result<Digest, ExportError> {
        into_layout(&image.reference, directory, |layout| {
            let (document, _) = push::into_layout(self.store, image, layout, options, observer)?;
            Ok(document)
        })
    }
}

/// Makes a layout of what `write` writes in a directory beside `directory`, and renames it or merges it into the layout
/// that is there.
fn into_layout(
    reference: &str,
    directory: &Path,
    write: impl FnOnce(&Layout<'_>) -> Result<Document, ExportError>,
) -> Result<Digest, ExportError> {
    let is_layout = directory.join(MARKER).is_file();
    if !is_layout && fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(ExportError::NotEmpty(directory.to_owned()));
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(target(parent))?;
    let staging = tempfile::Builder::new().prefix(".lamina-export-").tempdir_in(parent);
    let staging = staging.map_err(target(parent))?;
    let blobs = staging.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(target(&blobs))?;
    let layout = Layout { there: is_layout.then_some(directory), staging: staging.path() };
    let document = write(&layout)?;
    put(&blobs, &document.bytes)?;
    let mut entry = descriptor(document.media_type.as_str().into(), document.digest, document.bytes.len() as u64)?;
    let name = name_for(reference, &document.digest);
    let name = name.map(|name| (NAME.to_owned(), name));
    entry.set_annotations(Some(name.into_iter().collect()));
    match is_layout {
        true => {
            fault::point(FaultPoint::ExportStaged);
            merge(staging.path(), directory, &entry)?;
        }
        false => {
            let index = ImageIndexBuilder::default().schema_version(2u32).manifests(vec![entry]).build();
            let index = json("index", &index.map_err(|error| bad("index", error))?)?;
            self::write(&staging.path().join(INDEX), &index)?;
            let marker = OciLayoutBuilder::default().image_layout_version("1.0.0").build();
            let marker = json("layout", &marker.map_err(|error| bad("layout", error))?)?;
            self::write(&staging.path().join(MARKER), &marker)?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(staging.path(), mode).map_err(target(directory))?;
            fault::point(FaultPoint::ExportStaged);
            // A rename may replace an empty directory.
            fs::rename(staging.path(), directory).map_err(|cause| match cause.kind() {
                // Another export was faster.
                io::ErrorKind::DirectoryNotEmpty => ExportError::NotEmpty(directory.to_owned()),
                _ => target(directory)(cause),
            })?;
        }
    }
    Ok(document.digest)
}

/// Moves new blobs into a layout and adds an entry to its list, which is replaced last and as a whole.
fn merge(staging: &Path, layout: &Path, entry: &Descriptor) -> Result<(), ExportError> {
    // Two exports to one layout must not lose each other's entry.
    let directory = File::open(layout).map_err(target(layout))?;
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| target(layout)(error.into()))?;
    for algorithm in fs::read_dir(staging.join("blobs")).map_err(target(staging))? {
        let algorithm = algorithm.map_err(target(staging))?;
        let to = layout.join("blobs").join(algorithm.file_name());
        fs::create_dir_all(&to).map_err(target(&to))?;
        for blob in fs::read_dir(algorithm.path()).map_err(target(staging))? {
            let blob = blob.map_err(target(staging))?;
            let to = to.join(blob.file_name());
            fs::rename(blob.path(), &to).map_err(target(&to))?;
        }
    }
    let path = layout.join(INDEX);
    let unreadable = |cause: String| ExportError::Layout { path: path.clone(), cause };
    let text = fs::read(&path).map_err(|error| unreadable(error.to_string()))?;
    let mut index: Value = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    let entry = serde_json::to_value(entry).map_err(|error| bad("index", error))?;
    let Some(entries) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
        return Err(unreadable("it has no list of images".to_owned()));
    };
    let name = |entry: &Value| entry.get("annotations")?.get(NAME)?.as_str().map(str::to_owned);
    let is_replaced = |old: &Value| match name(&entry) {
        Some(new) => name(old).is_some_and(|old| old == new),
        None => name(old).is_none() && old.get("digest") == entry.get("digest"),
    };
    entries.retain(|old| !is_replaced(old));
    entries.push(entry);
    let new = staging.join(INDEX);
    write(&new, &json("index", &index)?)?;
    fs::rename(&new, &path).map_err(target(&path))
}

impl Store {
    fn write_plain(
        &self,
        image: &Image,
        layout: &Layout<'_>,
        observer: &dyn Observer,
    ) -> Result<Document, ExportError> {
        let blobs = layout.staging.join("blobs/sha256");
        let config_digest = image.config_digest;
        let config = self.images().manifest_bytes(&config_digest)?;
        put(&blobs, &config)?;
        // An image may have the same layer several times.
        let mut lengths: HashMap<DiffId, u64> = HashMap::new();
        let layers = image.layers.iter().map(|layer| {
            let length = match lengths.get(layer) {
                Some(length) => *length,
                None if layout.there.is_some() && layout.has(&layer.0.into()) => {
                    self.layers().bytes(layer).ok_or(StoreError::NoSuchLayer(*layer))?
                }
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
        Ok(Document::new(manifest, MediaType::ImageManifest.as_ref()))
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
