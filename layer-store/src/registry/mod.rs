//! Pulling images from registries.
//!
//! The protocol is that of the OCI distribution specification, 1.1. Everything that comes is checked:
//! manifests against the name's digest or the index's entry, configs and layers against the manifest,
//! and each layer's tar against the config. Layers are fetched and ingested side by side, and never as
//! a whole in memory.

mod auth;
mod backoff;
mod blob;
mod client;
mod connect;
mod credentials;
mod describe;
mod error;
mod trust;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Runtime;

pub use backoff::Patience;
pub use error::PullError;

use blob::LayerReader;
use client::Repository;
use describe::Describe;

use crate::observer::Halt;
use crate::oci::manifest::Descriptor;
use crate::oci::parallel;
use crate::oci::platform::Platform;
use crate::oci::sink::LayerSink;
use crate::oci::{Acquired, AcquiredLayer, ImageError, LayerSource, Origin};
use crate::{DiffId, ExpectedLayer, LayerProgress, LayerState, Observer, Reference};

/// How to pull.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// The platform to choose where there are several; `None` is [`Platform::host`].
    pub platform: Option<Platform>,
    /// Speak HTTP without TLS. Registries on this host without TLS are found out without it.
    pub plain_http: bool,
    /// PEM certificates to trust besides the system's (which `SSL_CERT_FILE` replaces).
    pub ca_file: Option<PathBuf>,
    /// Layers fetched at once, at least 1.
    pub parallel: usize,
    /// When to give up.
    pub patience: Patience,
    /// Files with logins, the first to be asked first, instead of those of docker and podman.
    pub credential_files: Option<Vec<PathBuf>>,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: None,
            plain_http: false,
            ca_file: None,
            parallel: 4,
            patience: Patience::default(),
            credential_files: None,
        }
    }
}

struct Layer {
    descriptor: Descriptor,
    diff_id: DiffId,
}

/// Brings the image that `reference` names into the store, and gives it that name there.
pub(crate) fn pull_into(
    sink: &dyn LayerSink,
    reference: &Reference,
    options: &PullOptions,
    progress: &Arc<dyn Observer>,
) -> Result<Acquired, PullError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("registry")
        .enable_all()
        .build()
        .map_err(|e| PullError::Client(e.to_string()))?;
    let outcome = pull_on(&runtime, sink, reference, options, progress);
    // A credential helper that waits for its user must not keep a cancelled pull.
    runtime.shutdown_background();
    outcome
}

fn pull_on(
    runtime: &Runtime,
    sink: &dyn LayerSink,
    reference: &Reference,
    options: &PullOptions,
    progress: &Arc<dyn Observer>,
) -> Result<Acquired, PullError> {
    let halt = Halt::new(progress);
    let repository = wait(runtime, &halt, Repository::open(reference, options, progress))?;
    let describe =
        Describe { runtime, sink, repository: &repository, reference, options, progress: &**progress, halt: &halt };
    let described = describe.image()?;
    let repository = Arc::new(repository);
    // An image may name a layer several times; it is fetched once.
    let mut layers: Vec<Layer> = Vec::new();
    for (descriptor, diff_id) in described.manifest.layers.iter().zip(&described.config.diff_ids) {
        if !layers.iter().any(|layer| layer.diff_id == *diff_id) {
            layers.push(Layer { descriptor: descriptor.clone(), diff_id: *diff_id });
        }
    }
    for layer in &layers {
        report(&**progress, layer, LayerState::Waiting, 0);
    }

    let weight = |layer: &Layer| layer.descriptor.size;
    let acquired = parallel::for_each(&layers, options.parallel, &|| halt.cancel(), weight, |layer| {
        acquire(runtime, sink, &repository, layer, &halt, &**progress)
    })?;
    if progress.cancelled() {
        return Err(PullError::Cancelled);
    }
    sink.put_manifest(&described.config_bytes).map_err(PullError::Store)?;
    let manifest_digest = sink.put_manifest(&described.manifest_bytes).map_err(PullError::Store)?;
    sink.tag(&reference.to_string(), &manifest_digest).map_err(PullError::Store)?;
    Ok(Acquired {
        references: vec![reference.clone()],
        manifest_digest,
        platform: described.platform,
        layers: each_time(&acquired, &described.config.diff_ids),
    })
}

/// The layers of an image that names some several times.
fn each_time(acquired: &[AcquiredLayer], diff_ids: &[DiffId]) -> Vec<AcquiredLayer> {
    let named = |diff_id: &DiffId| acquired.iter().find(|layer| layer.diff_id == *diff_id).cloned();
    diff_ids.iter().filter_map(named).collect()
}

/// Waits for `work`, or for the end that the caller asks for.
fn wait<T>(runtime: &Runtime, halt: &Halt, work: impl Future<Output = Result<T, PullError>>) -> Result<T, PullError> {
    runtime.block_on(async {
        tokio::select! {
            done = work => done,
            () = halt.wait() => Err(PullError::Cancelled),
        }
    })
}

/// Brings one layer in again from the registry that it once came from.
pub(crate) fn fetch_layer(
    sink: &dyn LayerSink,
    diff_id: &DiffId,
    source: &LayerSource,
    options: &PullOptions,
    progress: &Arc<dyn Observer>,
) -> Result<AcquiredLayer, PullError> {
    let Origin::Registry { registry, repository } = &source.origin else {
        return Err(PullError::Client(format!("{} is no registry", source.origin)));
    };
    let reference: Reference =
        format!("{registry}/{repository}").parse().map_err(|error| PullError::Client(format!("{error}")))?;
    let bad = |cause| PullError::Image { image: reference.familiar(), cause };
    let descriptor = Descriptor::new(&source.media_type, &source.compressed.to_string(), source.bytes).map_err(bad)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| PullError::Client(error.to_string()))?;
    let halt = Halt::new(progress);
    let repository = wait(&runtime, &halt, Repository::open(&reference, options, progress));
    let layer = Layer { descriptor, diff_id: *diff_id };
    let outcome =
        repository.and_then(|repository| acquire(&runtime, sink, &Arc::new(repository), &layer, &halt, &**progress));
    runtime.shutdown_background();
    outcome
}

/// Brings one layer into the store, unless it is there or another process is about to have it there.
fn acquire(
    runtime: &Runtime,
    sink: &dyn LayerSink,
    repository: &Arc<Repository>,
    layer: &Layer,
    halt: &Halt,
    progress: &dyn Observer,
) -> Result<AcquiredLayer, PullError> {
    let descriptor = &layer.descriptor;
    let failed = |cause| PullError::Layer { layer: descriptor.digest, cause };
    let finished = |was_present: bool| {
        let state = if was_present { LayerState::Present } else { LayerState::Done };
        report(progress, layer, state, descriptor.size);
        AcquiredLayer { diff_id: layer.diff_id, source: source(repository, descriptor), was_present }
    };
    if sink.has_layer(&layer.diff_id) {
        return Ok(finished(true));
    }
    let claim = sink.claim(&layer.diff_id, &descriptor.short(), halt);
    let _claim = claim.map_err(|e| if halt.cancelled() { PullError::Cancelled } else { failed(e) })?;
    if sink.has_layer(&layer.diff_id) {
        return Ok(finished(true));
    }
    if let Some(known) = sink.layer_by_compressed(&descriptor.digest).filter(|known| *known != layer.diff_id) {
        let expected = layer.diff_id.0;
        let cause = ImageError::WrongDigest { what: "its tar".to_owned(), expected, actual: known.0 };
        return Err(failed(Box::new(cause)));
    }
    report(progress, layer, LayerState::Fetching, 0);
    let expected = ExpectedLayer { compressed: Some(descriptor.digest), diff_id: Some(layer.diff_id) };
    let mut reader = LayerReader::start(runtime.handle(), repository, descriptor, halt, progress);
    match sink.ingest(&mut reader, &expected) {
        Ok(_) => Ok(finished(false)),
        Err(cause) => Err(reader.into_failure().unwrap_or_else(|| failed(cause))),
    }
}

fn source(repository: &Repository, descriptor: &Descriptor) -> LayerSource {
    let (registry, path) = repository.place();
    LayerSource {
        origin: Origin::Registry { registry: registry.to_owned(), repository: path.to_owned() },
        compressed: descriptor.digest,
        media_type: descriptor.media_type.clone(),
        bytes: descriptor.size,
    }
}

fn report(progress: &dyn Observer, layer: &Layer, state: LayerState, bytes: u64) {
    let name = layer.descriptor.short();
    progress.layer(&LayerProgress { name: &name, state, bytes, total: Some(layer.descriptor.size) });
}
