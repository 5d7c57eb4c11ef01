//! One import: brings the images that were found in an archive into the store.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use super::files::{Files, Passed, Supply};
use super::lists::{Context, Lists};
use super::naming::{Nameable, Names};
use super::watch::Counted;
use super::{Found, FoundLayer, ImportError, ImportOptions, ImportSource, docker};
use crate::observer::Halt;
use crate::oci::parallel;
use crate::oci::platform::Platform;
use crate::oci::sink::{LayerSink, Named, SinkError};
use crate::oci::{Acquired, AcquiredLayer, ImageError, LayerSource, Origin};
use crate::policy::{self, Place};
use crate::{BlobDigest, DiffId, Digest, ExpectedLayer, LayerProgress, LayerState, Observer, Reference};

/// A layer that is in the store.
#[derive(Clone)]
pub(super) struct Brought {
    source: LayerSource,
    blob_bytes: Option<u64>,
    was_present: bool,
}

/// The state of one import.
pub(super) struct Import<'a> {
    pub(super) sink: &'a dyn LayerSink,
    pub(super) source: &'a ImportSource,
    pub(super) source_name: &'a str,
    pub(super) options: &'a ImportOptions,
    pub(super) progress: &'a dyn Observer,
    pub(super) halt: &'a Halt,
}

impl Import<'_> {
    /// Reads the images that the options select, but not their layers.
    pub(super) fn images(&self, files: &dyn Files, repository: &str) -> Result<Vec<Found>, ImportError> {
        let wanted = self.options.platform.clone().unwrap_or_else(Platform::host);
        let (sink, progress, source_name) = (self.sink, self.progress, self.source_name);
        let is_asked_for = self.options.platform.is_some();
        let context = Context { files, sink, progress, source_name, repository, wanted: &wanted, is_asked_for };
        let lists = Lists::read(context, self.options.form)?;
        let images = lists.images(self.options.image.as_deref())?;
        for image in images.iter().filter(|image| wanted.distance_to(&image.platform).is_none()) {
            if self.options.platform.is_some() {
                let cause = ImageError::NoSuchPlatform { wanted, offered: vec![image.platform.clone()] };
                return Err(ImportError::Image { source_name: self.source_name.to_owned(), cause });
            }
            self.progress.notice(&format!("{} is for {}, this host is {wanted}", image.label(), image.platform));
        }
        for image in &images {
            // Whatever is demanded beyond acceptance needs a registry, so there is nothing left to check.
            self.options.policy.demand(&format!("{} in {source_name}", image.label()), self.place(image))?;
        }
        if let Some(tag) = &self.options.tag {
            if images.len() > 1 {
                return Err(ImportError::SeveralImages {
                    source_name: self.source_name.to_owned(),
                    count: images.len(),
                    there: images.iter().map(Found::label).collect::<Vec<_>>().join(", "),
                });
            }
            // The manifest of a docker archive is made later.
            for image in images.iter().filter(|image| image.manifest_bytes.is_some()) {
                self.prove(tag, &image.proved)?;
            }
        }
        Ok(images)
    }

    /// Returns where an image comes from, as a policy tells places apart. For an archive with both lists, that is the
    /// list from which the image was read.
    fn place(&self, image: &Found) -> Place {
        let is_layout = image.manifest_bytes.is_some();
        match self.source {
            ImportSource::Daemon { image, .. } => {
                // Anything else is the id of an image, which has no name.
                let name = Some(image).filter(|image| !image.starts_with("sha256:")).and_then(|name| name.parse().ok());
                Place::Daemon(name.map(Box::new))
            }
            _ if !is_layout => Place::DockerArchive,
            ImportSource::Path(path) if path.is_dir() => Place::Layout(policy::absolute(path)),
            ImportSource::Path(path) => Place::LayoutArchive(Some(policy::absolute(path))),
            ImportSource::StandardInput => Place::LayoutArchive(None),
        }
    }

    /// Returns an error if the name has a digest that is not the image's.
    fn prove(&self, tag: &Reference, proved: &[Digest]) -> Result<(), ImportError> {
        match (tag.digest(), proved.last()) {
            (Some(digest), Some(actual)) if !proved.contains(&digest) => Err(ImportError::WrongName {
                source_name: self.source_name.to_owned(),
                name: tag.familiar(),
                actual: *actual,
            }),
            _ => Ok(()),
        }
    }

    /// Brings every layer of the images into the store, each once.
    pub(super) fn layers(&self, files: &dyn Files, images: &[Found]) -> Result<HashMap<DiffId, Brought>, ImportError> {
        let mut distinct: HashMap<DiffId, FoundLayer> = HashMap::new();
        for layer in images.iter().flat_map(|image| &image.layers) {
            let known = distinct.entry(layer.diff_id).or_insert_with(|| layer.clone());
            // The archive may have a layer at the path that one image gives for it, and not at that of another.
            if !files.has_layer(&known.path) && files.has_layer(&layer.path) {
                *known = layer.clone();
            }
        }
        let layers: Vec<FoundLayer> = distinct.into_values().collect();
        let weight = |layer: &FoundLayer| layer.blob.as_ref().map_or(0, |blob| blob.size);
        let brought = parallel::for_each(&layers, self.options.parallel, &|| self.halt.cancel(), weight, |layer| {
            let brought = self.bring(files, layer)?;
            // When the owner of the additional store collects garbage, the archive may no longer exist to import the
            // layer from.
            self.sink.adopt(&layer.diff_id).map_err(|cause| self.failed(layer, cause))?;
            Ok::<_, ImportError>(brought)
        })?;
        if self.halt.cancelled() {
            return Err(ImportError::Cancelled);
        }
        Ok(layers.iter().map(|layer| layer.diff_id).zip(brought).collect())
    }

    /// Brings in one layer, unless the store has it. A layer that the store has may be missing or damaged in the
    /// archive.
    fn bring(&self, files: &dyn Files, layer: &FoundLayer) -> Result<Brought, ImportError> {
        let supply = files.layer(&layer.path);
        if let Ok(Some(Supply::Ingested(passed))) = &supply
            && passed.diff_id == layer.diff_id
        {
            return Ok(self.passed(layer, passed));
        }
        if self.sink.has_layer(&layer.diff_id) {
            return Ok(self.present(layer, supply.ok().flatten().and_then(|supply| supply.length())));
        }
        match supply? {
            Some(Supply::Bytes { reader, length }) => self.read(layer, reader, length),
            Some(Supply::Ingested(passed)) => {
                let what = "its tar".to_owned();
                let (expected, actual) = (layer.diff_id.to_string(), passed.diff_id.to_string());
                Err(self.failed(layer, Box::new(ImageError::WrongDigest { what, expected, actual })))
            }
            Some(Supply::Refused(cause)) => Err(self.failed(layer, cause.into())),
            None => Err(ImportError::Missing { source_name: self.source_name.to_owned(), file: layer.path.clone() }),
        }
    }

    /// Describes a layer that was ingested while the archive streamed.
    fn passed(&self, layer: &FoundLayer, passed: &Passed) -> Brought {
        let source = self.layer_source(layer, passed.compressed, passed.length);
        let blob_bytes = passed.blob_bytes.or_else(|| self.sink.layer_bytes(&layer.diff_id));
        Brought { source, blob_bytes, was_present: passed.was_present }
    }

    /// Reads a layer of `length` bytes into the store, unless another process has added it in the meantime.
    fn read(
        &self,
        layer: &FoundLayer,
        mut reader: Box<dyn Read + Send + '_>,
        length: u64,
    ) -> Result<Brought, ImportError> {
        let failed = |cause| self.failed(layer, cause);
        let _claim = self.sink.claim(&layer.diff_id, &layer.name(), self.halt).map_err(failed)?;
        if self.sink.has_layer(&layer.diff_id) {
            return Ok(self.present(layer, Some(length)));
        }
        self.report(layer, LayerState::Fetching, 0, length);
        let compressed = layer.blob.as_ref().map(|blob| blob.digest);
        let expected = ExpectedLayer { compressed, diff_id: Some(layer.diff_id) };
        let tell = |bytes| self.report(layer, LayerState::Fetching, bytes, length);
        let ingested = self.sink.ingest(&mut Counted::new(&mut reader, self.halt, tell), &expected).map_err(failed)?;
        self.report(layer, LayerState::Done, length, length);
        Ok(Brought {
            source: self.layer_source(layer, compressed.unwrap_or_else(|| ingested.compressed_digest.into()), length),
            blob_bytes: Some(ingested.blob_bytes),
            was_present: ingested.was_present,
        })
    }

    /// Describes a layer that was already in the store; the archive has `length` bytes of it, if any.
    fn present(&self, layer: &FoundLayer, length: Option<u64>) -> Brought {
        let blob_bytes = self.sink.layer_bytes(&layer.diff_id);
        let described = layer.blob.as_ref().map(|blob| blob.size);
        let length = described.or(length).or(blob_bytes).unwrap_or_default();
        self.report(layer, LayerState::Present, length, length);
        let digest = layer.blob.as_ref().map_or(layer.diff_id.0.into(), |blob| blob.digest);
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

    fn layer_source(&self, layer: &FoundLayer, compressed: BlobDigest, bytes: u64) -> LayerSource {
        // Absolute, so that a repair works from any directory. What came from a pipe or a daemon cannot be read again.
        let again = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
        let origin = self.source.path().map_or_else(|| "-".to_owned(), again);
        let media_type = match &layer.blob {
            Some(blob) => blob.media_type.clone(),
            None => "application/vnd.docker.image.rootfs.diff.tar".to_owned(),
        };
        LayerSource { origin: Origin::Archive(origin), compressed, media_type, bytes, urls: Vec::new() }
    }

    /// Stores the manifests and configs of images whose layers are in the store, and then names the images.
    pub(super) fn finish(
        &self,
        images: &[Found],
        brought: &HashMap<DiffId, Brought>,
        repository: &str,
    ) -> Result<Vec<Acquired>, ImportError> {
        let kept: Vec<(Digest, Vec<Digest>)> = images
            .iter()
            .map(|image| {
                let manifest = self.keep(image, brought)?;
                Ok((manifest, image.proved.iter().copied().chain([manifest]).collect()))
            })
            .collect::<Result<_, ImportError>>()?;
        let names = Names {
            repository,
            may_be_latest: self.source.path().is_some(),
            in_store: &|name| self.sink.named(name),
            notice: &|line| self.progress.notice(&line.escape_debug().to_string()),
        };
        let references = match &self.options.tag {
            None => {
                let nameable = images.iter().zip(&kept).map(|(image, (manifest, proved))| Nameable {
                    written: &image.written,
                    proved,
                    manifest: *manifest,
                });
                names.assign(&nameable.collect::<Vec<_>>())
            }
            Some(tag) => {
                for (manifest, proved) in &kept {
                    self.prove(tag, proved)?;
                    names.say_moved(std::slice::from_ref(tag), *manifest);
                }
                vec![vec![tag.clone()]; images.len()]
            }
        };
        let named = images.iter().zip(kept).zip(references).filter(|(_, references)| !references.is_empty());
        named
            .map(|((image, (manifest_digest, _)), references)| {
                for reference in &references {
                    self.sink.name(&reference.to_string(), &Named::of(manifest_digest)).map_err(ImportError::Store)?;
                }
                let layer = |layer: &FoundLayer| {
                    let Brought { source, was_present, .. } = brought.get(&layer.diff_id)?.clone();
                    Some(AcquiredLayer { diff_id: layer.diff_id, source, was_present })
                };
                let layers = image.layers.iter().filter_map(layer).collect();
                Ok(Acquired {
                    references,
                    manifest_digest,
                    platform: image.platform.clone(),
                    layers,
                    others: Vec::new(),
                })
            })
            .collect()
    }

    /// Stores the manifest and config of an image, and returns the digest of the manifest.
    fn keep(&self, image: &Found, brought: &HashMap<DiffId, Brought>) -> Result<Digest, ImportError> {
        let made = || {
            let layers = image.layers.iter().filter_map(|layer| Some((layer.diff_id, brought.get(&layer.diff_id)?)));
            let sizes = layers.map(|(id, layer)| (id, layer.blob_bytes.unwrap_or(layer.source.bytes)));
            docker::manifest(&image.config_bytes, &sizes.collect::<Vec<_>>())
        };
        self.sink.put_manifest(&image.config_bytes).map_err(ImportError::Store)?;
        let manifest = image.manifest_bytes.clone().unwrap_or_else(made);
        self.sink.put_manifest(&manifest).map_err(ImportError::Store)
    }
}
