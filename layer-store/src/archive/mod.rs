//! Importing images from archives and layouts.
//!
//! An OCI layout in a directory or a plain tar file is read from any place, its layers side by side. An
//! archive from a pipe, or a compressed one, passes by once. Either way every digest that the archive
//! names is checked, and no name in it is looked up on the host.

mod docker;
mod entries;
mod error;
mod files;
mod layout;
mod naming;
mod open;
mod sniff;
mod stream;
mod tarball;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Cursor, Read};
use std::path::PathBuf;

pub use error::ImportError;

use files::{Files, Supply};
use sniff::Form;
use stream::Reception;

use crate::oci::manifest::{Descriptor, short};
use crate::oci::parallel;
use crate::oci::platform::Platform;
use crate::oci::sink::LayerSink;
use crate::oci::{Acquired, AcquiredLayer, ImageError, LayerSource, Origin};
use crate::{Cancellation, DiffId, Digest, ExpectedLayer, LayerProgress, LayerState, Progress, Reference};

/// Where an import reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportSource {
    /// Descriptor 0.
    StandardInput,
    /// A layout directory, an archive, or a FIFO that gives one.
    Path(PathBuf),
}

impl From<&OsStr> for ImportSource {
    /// `-` is standard input.
    fn from(argument: &OsStr) -> Self {
        if argument == "-" { Self::StandardInput } else { Self::Path(argument.into()) }
    }
}

impl fmt::Display for ImportSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardInput => f.write_str("standard input"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// How to import.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The platform to choose where there are several; `None` is [`Platform::host`].
    pub platform: Option<Platform>,
    /// Only the image with this name, tag, digest or beginning of a digest (6 digits or more).
    pub image: Option<String>,
    /// What to call the image, instead of its names in the archive.
    pub tag: Option<Reference>,
    /// Layers read at once, at least 1, where the archive lets itself be read from any place.
    pub parallel: usize,
    /// Ends the import early.
    pub cancellation: Cancellation,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            platform: None,
            image: None,
            tag: None,
            parallel: std::thread::available_parallelism().map_or(4, usize::from),
            cancellation: Cancellation::default(),
        }
    }
}

/// One image of an archive.
struct Found {
    /// Its names as the archive writes them.
    written: Vec<String>,
    /// What may be asked for: the digests of its manifest, of the index it is in, or of its config.
    digests: Vec<Digest>,
    platform: Platform,
    /// From the bottom up.
    layers: Vec<FoundLayer>,
    config_bytes: Vec<u8>,
    /// `None` where the archive has none and one must be made.
    manifest_bytes: Option<Vec<u8>>,
}

#[derive(Clone)]
struct FoundLayer {
    path: String,
    diff_id: DiffId,
    /// What the manifest says of it; a docker archive says nothing.
    blob: Option<Descriptor>,
}

/// A layer that is in the store.
#[derive(Clone)]
struct Brought {
    source: LayerSource,
    blob_bytes: Option<u64>,
    was_present: bool,
}

/// Brings the images of an archive into the store, and names them there.
pub(crate) fn import_into(
    sink: &dyn LayerSink,
    source: &ImportSource,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<Vec<Acquired>, ImportError> {
    let source_name = source.to_string();
    let halt = options.cancellation.child();
    let reception = Reception { sink, progress, cancellation: &halt, source_name: &source_name };
    let files = open::open(source, &reception)?;
    let import = Import { sink, source, source_name: &source_name, options, progress, halt: &halt };
    let images = import.select(import.images(&*files)?)?;
    let brought = import.layers(&*files, &images)?;
    images.iter().map(|image| import.finish(image, &brought)).collect()
}

struct Import<'a> {
    sink: &'a dyn LayerSink,
    source: &'a ImportSource,
    source_name: &'a str,
    options: &'a ImportOptions,
    progress: &'a dyn Progress,
    halt: &'a Cancellation,
}

impl Import<'_> {
    fn images(&self, files: &dyn Files) -> Result<Vec<Found>, ImportError> {
        let nothing = |reason: &str| {
            Err(ImportError::NotAnArchive { source_name: self.source_name.to_owned(), reason: reason.to_owned() })
        };
        let wanted = self.options.platform.clone().unwrap_or_else(Platform::host);
        let marked = |mark| files.document(mark, crate::oci::manifest::MANIFEST_LIMIT).map(|found| found.is_some());
        // Docker writes both since version 25; the layout has the manifest as it was.
        let images = if marked(layout::MARK)? {
            layout::Layout { files, source_name: self.source_name, wanted: &wanted }.images()?
        } else if marked(docker::MARK)? {
            docker::images(files, self.source_name)?
        } else {
            return nothing("it has neither oci-layout nor manifest.json");
        };
        if images.is_empty() {
            return nothing("its list of images is empty");
        }
        for image in images.iter().filter(|image| wanted.distance_to(&image.platform).is_none()) {
            if self.options.platform.is_some() {
                let cause = ImageError::NoSuchPlatform { wanted, offered: image.platform.to_string() };
                return Err(ImportError::Image { source_name: self.source_name.to_owned(), cause });
            }
            self.progress.notice(&format!("{} is for {}, this host is {wanted}", self.label(image), image.platform));
        }
        Ok(images)
    }

    /// Those images that the options ask for.
    fn select(&self, images: Vec<Found>) -> Result<Vec<Found>, ImportError> {
        let there = || images.iter().map(|image| self.label(image)).collect::<Vec<_>>().join(", ");
        let (source_name, there) = (self.source_name.to_owned(), there());
        let images = match &self.options.image {
            None => images,
            Some(wanted) => {
                let chosen: Vec<Found> = images.into_iter().filter(|image| self.is_called(image, wanted)).collect();
                if chosen.is_empty() {
                    return Err(ImportError::NoSuchImage { source_name, wanted: wanted.clone(), there });
                }
                chosen
            }
        };
        if self.options.tag.is_some() && images.len() > 1 {
            return Err(ImportError::SeveralImages { source_name, count: images.len(), there });
        }
        Ok(images)
    }

    fn is_called(&self, image: &Found, wanted: &str) -> bool {
        let as_reference = wanted.parse::<Reference>().ok();
        let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        image.written.iter().any(|name| name == wanted)
            || as_reference.is_some_and(|wanted| self.written_references(image).contains(&wanted))
            || (hex.len() >= 6 && image.digests.iter().any(|digest| digest.hex().starts_with(hex)))
    }

    /// What to call an image in a message.
    fn label(&self, image: &Found) -> String {
        match image.written.as_slice() {
            [] => image.digests.last().map_or_else(String::new, ToString::to_string),
            names => names.join(" "),
        }
    }

    fn repository(&self) -> String {
        match self.source {
            ImportSource::StandardInput => naming::repository(None),
            ImportSource::Path(path) => naming::repository(Some(path)),
        }
    }

    fn written_references(&self, image: &Found) -> Vec<Reference> {
        let repository = self.repository();
        image.written.iter().filter_map(|name| naming::reference(name, &repository)).collect()
    }

    /// The names under which an image is kept.
    fn references(&self, image: &Found) -> Vec<Reference> {
        if let Some(tag) = &self.options.tag {
            return vec![tag.clone()];
        }
        let written = self.written_references(image);
        if !written.is_empty() {
            return written;
        }
        let tag = match self.source {
            ImportSource::Path(_) if image.written.is_empty() => "latest".to_owned(),
            _ => image.digests.last().map_or_else(|| "latest".to_owned(), short),
        };
        naming::nameless(&self.repository(), &tag).into_iter().collect()
    }

    /// Brings in every layer of the images, each once.
    fn layers(&self, files: &dyn Files, images: &[Found]) -> Result<HashMap<DiffId, Brought>, ImportError> {
        let mut distinct: HashMap<DiffId, FoundLayer> = HashMap::new();
        for layer in images.iter().flat_map(|image| &image.layers) {
            distinct.entry(layer.diff_id).or_insert_with(|| layer.clone());
        }
        let layers: Vec<FoundLayer> = distinct.into_values().collect();
        let weight = |layer: &FoundLayer| layer.blob.as_ref().map_or(0, |blob| blob.size);
        let brought =
            parallel::for_each(&layers, self.options.parallel, self.halt, weight, |layer| self.bring(files, layer))?;
        if self.halt.is_cancelled() {
            return Err(ImportError::Cancelled);
        }
        Ok(layers.iter().map(|layer| layer.diff_id).zip(brought).collect())
    }

    /// Brings in one layer, unless it is there.
    fn bring(&self, files: &dyn Files, layer: &FoundLayer) -> Result<Brought, ImportError> {
        let failed = |cause| match self.halt.is_cancelled() {
            true => ImportError::Cancelled,
            false => ImportError::Layer { source_name: self.source_name.to_owned(), layer: layer.path.clone(), cause },
        };
        let supply = files.layer(&layer.path)?.ok_or_else(|| ImportError::Missing {
            source_name: self.source_name.to_owned(),
            file: layer.path.clone(),
        })?;
        let (mut reader, length) = match supply {
            Supply::Refused(cause) => return Err(failed(cause.into())),
            Supply::Ingested(passed) => {
                if passed.diff_id != layer.diff_id {
                    let what = "its tar".to_owned();
                    let (expected, actual) = (layer.diff_id.0, passed.diff_id.0);
                    return Err(failed(Box::new(ImageError::WrongDigest { what, expected, actual })));
                }
                let source = self.layer_source(layer, passed.compressed, passed.length);
                return Ok(Brought { source, blob_bytes: passed.blob_bytes, was_present: passed.was_present });
            }
            Supply::Bytes { reader, length } => (reader, length),
        };
        let mut head = Vec::new();
        (&mut reader).take(sniff::HEAD).read_to_end(&mut head).map_err(|e| failed(Box::new(e)))?;
        let is_tar = sniff::form(&head) == Form::Tar;
        let name = layer.blob.as_ref().map_or_else(|| layer.path.clone(), Descriptor::short);
        let report = |state, bytes| {
            self.progress.layer(&LayerProgress { name: &name, state, bytes, total: Some(length) });
        };
        // A docker archive does not say how long a compressed layer's tar is: only reading it tells.
        let may_skip = layer.blob.is_some() || is_tar;
        let present = || {
            report(LayerState::Present, length);
            let digest = layer.blob.as_ref().map_or(layer.diff_id.0, |blob| blob.digest);
            let source = self.layer_source(layer, digest, length);
            Brought { source, blob_bytes: is_tar.then_some(length), was_present: true }
        };
        if may_skip && self.sink.has_layer(&layer.diff_id) {
            return Ok(present());
        }
        let _claim = self.sink.claim(&layer.diff_id, &|| self.halt.is_cancelled()).map_err(failed)?;
        if may_skip && self.sink.has_layer(&layer.diff_id) {
            return Ok(present());
        }
        report(LayerState::Fetching, 0);
        let compressed = layer.blob.as_ref().map(|blob| blob.digest);
        let expected = ExpectedLayer { compressed, diff_id: Some(layer.diff_id) };
        let mut whole = Cursor::new(head).chain(reader);
        let mut counted = Counted::new(&mut whole, self.halt, |bytes| report(LayerState::Fetching, bytes));
        let ingested = self.sink.ingest(&mut counted, &expected).map_err(failed)?;
        report(LayerState::Done, length);
        Ok(Brought {
            source: self.layer_source(layer, ingested.compressed_digest, length),
            blob_bytes: Some(ingested.blob_bytes),
            was_present: ingested.was_present,
        })
    }

    fn layer_source(&self, layer: &FoundLayer, compressed: Digest, bytes: u64) -> LayerSource {
        let origin = match self.source {
            ImportSource::StandardInput => "-".to_owned(),
            ImportSource::Path(path) => path.display().to_string(),
        };
        let media_type = match &layer.blob {
            Some(blob) => blob.media_type.clone(),
            None => oci_distribution::manifest::IMAGE_DOCKER_LAYER_TAR_MEDIA_TYPE.to_owned(),
        };
        LayerSource { origin: Origin::Archive(origin), compressed, media_type, bytes }
    }

    /// Keeps the documents of an image whose layers are there, and names it.
    fn finish(&self, image: &Found, brought: &HashMap<DiffId, Brought>) -> Result<Acquired, ImportError> {
        let layers = || image.layers.iter().filter_map(|layer| Some((layer.diff_id, brought.get(&layer.diff_id)?)));
        let manifest_bytes = match &image.manifest_bytes {
            Some(bytes) => bytes.clone(),
            None => {
                let sizes: Vec<_> =
                    layers().map(|(id, layer)| (id, layer.blob_bytes.unwrap_or(layer.source.bytes))).collect();
                docker::manifest(&image.config_bytes, &sizes)
            }
        };
        self.sink.put_manifest(&image.config_bytes).map_err(ImportError::Store)?;
        let manifest_digest = self.sink.put_manifest(&manifest_bytes).map_err(ImportError::Store)?;
        let references = self.references(image);
        for reference in &references {
            self.sink.tag(&reference.to_string(), &manifest_digest).map_err(ImportError::Store)?;
        }
        Ok(Acquired {
            references,
            manifest_digest,
            platform: image.platform.clone(),
            layers: layers()
                .map(|(diff_id, layer)| AcquiredLayer {
                    diff_id,
                    source: layer.source.clone(),
                    was_present: layer.was_present,
                })
                .collect(),
        })
    }
}

/// Counts what is read, tells it every so often, and ends when the import is cancelled.
struct Counted<'a, F> {
    source: &'a mut (dyn Read + Send),
    cancellation: &'a Cancellation,
    tell: F,
    read: u64,
    told: u64,
}

/// Bytes between two reports.
const REPORT_EVERY: u64 = 256 << 10;

impl<'a, F: Fn(u64)> Counted<'a, F> {
    fn new(source: &'a mut (dyn Read + Send), cancellation: &'a Cancellation, tell: F) -> Self {
        Self { source, cancellation, tell, read: 0, told: 0 }
    }
}

impl<F: Fn(u64)> Read for Counted<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancellation.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let read = self.source.read(buffer)?;
        self.read += read as u64;
        if self.read - self.told >= REPORT_EVERY {
            self.told = self.read;
            (self.tell)(self.read);
        }
        Ok(read)
    }
}
