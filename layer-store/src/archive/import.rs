//! One import: from the images found to the images kept.

use std::collections::HashMap;
use std::io::{Cursor, Read};

use super::files::{Files, Passed, Supply};
use super::sniff::{self, Form};
use super::watch::Counted;
use super::{Found, FoundLayer, ImportError, ImportOptions, ImportSource, docker, layout, naming};
use crate::observer::Halt;
use crate::oci::manifest::{MANIFEST_LIMIT, short};
use crate::oci::parallel;
use crate::oci::platform::Platform;
use crate::oci::sink::{LayerSink, SinkError};
use crate::oci::{Acquired, AcquiredLayer, ImageError, LayerSource, Origin};
use crate::{DiffId, Digest, ExpectedLayer, LayerProgress, LayerState, Observer, Reference};

/// A layer that is in the store.
#[derive(Clone)]
pub(super) struct Brought {
    source: LayerSource,
    blob_bytes: Option<u64>,
    was_present: bool,
}

/// What an import works with.
pub(super) struct Import<'a> {
    pub(super) sink: &'a dyn LayerSink,
    pub(super) source: &'a ImportSource,
    pub(super) source_name: &'a str,
    pub(super) options: &'a ImportOptions,
    pub(super) progress: &'a dyn Observer,
    pub(super) halt: &'a Halt,
}

impl Import<'_> {
    pub(super) fn images(&self, files: &dyn Files) -> Result<Vec<Found>, ImportError> {
        let nothing = |reason: &str| {
            Err(ImportError::NotAnArchive { source_name: self.source_name.to_owned(), reason: reason.to_owned() })
        };
        let wanted = self.options.platform.clone().unwrap_or_else(Platform::host);
        let marked = |mark| files.document(mark, MANIFEST_LIMIT).map(|found| found.is_some());
        // Docker writes both since version 25; the layout has the manifest as it was.
        let images = if marked(layout::MARK)? {
            let is_asked_for = self.options.platform.is_some();
            layout::Layout { files, source_name: self.source_name, wanted: &wanted, is_asked_for }.images()?
        } else if marked(docker::MARK)? {
            docker::images(files, self.source_name, &wanted)?
        } else {
            return nothing("it has neither oci-layout nor manifest.json");
        };
        if images.is_empty() {
            return nothing("its list of images is empty");
        }
        for image in images.iter().filter(|image| wanted.distance_to(&image.platform).is_none()) {
            if self.options.platform.is_some() {
                let cause = ImageError::NoSuchPlatform { wanted, offered: vec![image.platform.clone()] };
                return Err(ImportError::Image { source_name: self.source_name.to_owned(), cause });
            }
            self.progress.notice(&format!("{} is for {}, this host is {wanted}", image.label(), image.platform));
        }
        Ok(images)
    }

    /// Those images that the options ask for.
    pub(super) fn select(&self, images: Vec<Found>) -> Result<Vec<Found>, ImportError> {
        let there = || images.iter().map(Found::label).collect::<Vec<_>>().join(", ");
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
    pub(super) fn layers(&self, files: &dyn Files, images: &[Found]) -> Result<HashMap<DiffId, Brought>, ImportError> {
        let mut distinct: HashMap<DiffId, FoundLayer> = HashMap::new();
        for layer in images.iter().flat_map(|image| &image.layers) {
            distinct.entry(layer.diff_id).or_insert_with(|| layer.clone());
        }
        let layers: Vec<FoundLayer> = distinct.into_values().collect();
        let weight = |layer: &FoundLayer| layer.blob.as_ref().map_or(0, |blob| blob.size);
        let brought = parallel::for_each(&layers, self.options.parallel, &|| self.halt.cancel(), weight, |layer| {
            let brought = self.bring(files, layer)?;
            // An archive may be gone when another store's owner collects, so nobody could bring it in then.
            self.sink.adopt(&layer.diff_id).map_err(|cause| self.failed(layer, cause))?;
            Ok(brought)
        })?;
        if self.halt.cancelled() {
            return Err(ImportError::Cancelled);
        }
        Ok(layers.iter().map(|layer| layer.diff_id).zip(brought).collect())
    }

    /// Brings in one layer, unless it is there.
    fn bring(&self, files: &dyn Files, layer: &FoundLayer) -> Result<Brought, ImportError> {
        match files.layer(&layer.path)? {
            Some(Supply::Bytes { reader, length }) => self.read(layer, reader, length),
            Some(Supply::Ingested(passed)) => self.passed(layer, &passed),
            Some(Supply::Refused(cause)) => Err(self.failed(layer, cause.into())),
            None => match &layer.blob {
                // A layout may leave out what its receiver has.
                Some(blob) if self.sink.has_layer(&layer.diff_id) => Ok(self.present(layer, blob.size, None)),
                _ => Err(ImportError::Missing { source_name: self.source_name.to_owned(), file: layer.path.clone() }),
            },
        }
    }

    /// A layer that went into the store while the archive passed by, if it is the one that the image means.
    fn passed(&self, layer: &FoundLayer, passed: &Passed) -> Result<Brought, ImportError> {
        if passed.diff_id != layer.diff_id {
            let what = "its tar".to_owned();
            let (expected, actual) = (layer.diff_id.0, passed.diff_id.0);
            return Err(self.failed(layer, Box::new(ImageError::WrongDigest { what, expected, actual })));
        }
        let source = self.layer_source(layer, passed.compressed, passed.length);
        Ok(Brought { source, blob_bytes: passed.blob_bytes, was_present: passed.was_present })
    }

    /// Reads a layer of `length` bytes into the store, unless it is there.
    fn read(
        &self,
        layer: &FoundLayer,
        mut reader: Box<dyn Read + Send + '_>,
        length: u64,
    ) -> Result<Brought, ImportError> {
        let failed = |cause| self.failed(layer, cause);
        let mut head = Vec::new();
        let mut blob_bytes = None;
        if layer.blob.is_none() {
            (&mut reader).take(sniff::HEAD).read_to_end(&mut head).map_err(|e| failed(Box::new(e)))?;
            blob_bytes = Some(length).filter(|_| sniff::form(&head) == Form::Tar);
        }
        // A docker archive does not say how long a compressed layer's tar is: only reading it tells.
        let is_there = || (layer.blob.is_some() || blob_bytes.is_some()) && self.sink.has_layer(&layer.diff_id);
        if is_there() {
            return Ok(self.present(layer, length, blob_bytes));
        }
        let _claim = self.sink.claim(&layer.diff_id, &layer.name(), self.halt).map_err(failed)?;
        if is_there() {
            return Ok(self.present(layer, length, blob_bytes));
        }
        self.report(layer, LayerState::Fetching, 0, length);
        let compressed = layer.blob.as_ref().map(|blob| blob.digest);
        let expected = ExpectedLayer { compressed, diff_id: Some(layer.diff_id) };
        let mut whole = Cursor::new(head).chain(reader);
        let tell = |bytes| self.report(layer, LayerState::Fetching, bytes, length);
        let ingested = self.sink.ingest(&mut Counted::new(&mut whole, self.halt, tell), &expected).map_err(failed)?;
        self.report(layer, LayerState::Done, length, length);
        Ok(Brought {
            source: self.layer_source(layer, ingested.compressed_digest, length),
            blob_bytes: Some(ingested.blob_bytes),
            was_present: ingested.was_present,
        })
    }

    /// A layer that the store had; its archive has `length` bytes of it.
    fn present(&self, layer: &FoundLayer, length: u64, blob_bytes: Option<u64>) -> Brought {
        self.report(layer, LayerState::Present, length, length);
        let digest = layer.blob.as_ref().map_or(layer.diff_id.0, |blob| blob.digest);
        Brought { source: self.layer_source(layer, digest, length), blob_bytes, was_present: true }
    }

    fn report(&self, layer: &FoundLayer, state: LayerState, bytes: u64, total: u64) {
        self.progress.layer(&LayerProgress { name: &layer.name(), state, bytes, total: Some(total) });
    }

    fn failed(&self, layer: &FoundLayer, cause: SinkError) -> ImportError {
        if self.halt.cancelled() {
            return ImportError::Cancelled;
        }
        ImportError::Layer { source_name: self.source_name.to_owned(), layer: layer.path.clone(), cause }
    }

    fn layer_source(&self, layer: &FoundLayer, compressed: Digest, bytes: u64) -> LayerSource {
        let origin = match self.source {
            ImportSource::StandardInput => "-".to_owned(),
            // For a repair from any other directory.
            ImportSource::Path(path) => {
                std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string()
            }
        };
        let media_type = match &layer.blob {
            Some(blob) => blob.media_type.clone(),
            None => "application/vnd.docker.image.rootfs.diff.tar".to_owned(),
        };
        LayerSource { origin: Origin::Archive(origin), compressed, media_type, bytes }
    }

    /// Keeps the documents of an image whose layers are there, and names it.
    pub(super) fn finish(&self, image: &Found, brought: &HashMap<DiffId, Brought>) -> Result<Acquired, ImportError> {
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
