//! Pulling images from registries.
//!
//! The protocol is that of the OCI distribution specification, 1.1. Everything that arrives is checked:
//! manifests against the name's digest or the index's entry, configs and layers against the manifest,
//! and each layer's tar against the config. Layers are fetched and ingested in parallel, and no layer is ever
//! completely in memory.

mod attachments;
mod auth;
mod authorize;
mod backoff;
mod blob;
mod client;
mod connect;
mod content;
mod credential;
mod credentials;
mod describe;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod login_file;
mod login_helper;
mod proxy;
mod range;
mod reach;
mod server;
mod trust;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Runtime;

pub use backoff::Patience;
pub use error::PullError;
pub use server::Server;

use blob::LayerReader;
use client::Repository;
use describe::Describe;

use crate::observer::Halt;
use crate::oci::manifest::Descriptor;
use crate::oci::parallel;
use crate::oci::partial::Partial;
use crate::oci::platform::Platform;
use crate::oci::sink::LayerSink;
use crate::oci::{Acquired, AcquiredLayer, ImageError, LayerSource, Origin};
use crate::policy::{ImagePolicy, Place};
use crate::{DiffId, Digest, ExpectedLayer, LayerProgress, LayerState, Observer, Reference};

/// How to pull.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// The platform to choose if there are several. `None` means [`Platform::host`].
    pub platform: Option<Platform>,
    /// Use HTTP without TLS. A registry on this host that does not use TLS is detected without this.
    pub plain_http: bool,
    /// PEM certificates to trust in addition to the system's (which `SSL_CERT_FILE` replaces).
    pub ca_file: Option<PathBuf>,
    /// How many layers are fetched at once, at least 1.
    pub parallel: usize,
    /// When to give up.
    pub patience: Patience,
    /// Files with logins, in the order in which they are searched, instead of those of docker and podman.
    pub credential_files: Option<Vec<PathBuf>>,
    /// Which images may enter the store.
    pub policy: ImagePolicy,
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
            policy: ImagePolicy::default(),
        }
    }
}

struct Layer {
    descriptor: Descriptor,
    diff_id: DiffId,
}

/// Fetches the image that `reference` names into the store, and names it there.
pub(crate) fn pull_into(
    sink: &dyn LayerSink,
    reference: &Reference,
    options: &PullOptions,
    observer: &Arc<dyn Observer>,
) -> Result<Acquired, PullError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("registry")
        .enable_all()
        .build()
        .map_err(|e| PullError::Client(Box::new(e)))?;
    let outcome = pull_on(&runtime, sink, reference, options, observer);
    // A credential helper that waits for its user must not delay the end of a cancelled pull.
    runtime.shutdown_background();
    outcome
}

fn pull_on(
    runtime: &Runtime,
    sink: &dyn LayerSink,
    reference: &Reference,
    options: &PullOptions,
    observer: &Arc<dyn Observer>,
) -> Result<Acquired, PullError> {
    // Before anything is asked: a registry that is refused need not know.
    let demand = options.policy.demand(&reference.familiar(), Place::Registry(Box::new(reference.clone())))?;
    let halt = Halt::new(observer);
    let repository = wait(runtime, &halt, Repository::open(reference, options, observer))?;
    let describe = Describe { runtime, sink, repository: &repository, reference, options, halt: &halt };
    let described = describe.image()?;
    if let Some(demand) = demand {
        // What is checked is this manifest, and from here on all content is named by digests in it.
        let manifest = Digest::of(&described.manifest_bytes);
        demand.check(&manifest, || wait(runtime, &halt, repository.signatures(&manifest)))?;
    }
    let repository = Arc::new(repository);
    // An image may name a layer several times; it is fetched once.
    let mut layers: Vec<Layer> = Vec::new();
    for (descriptor, diff_id) in described.manifest.layers.iter().zip(&described.config.diff_ids) {
        if !layers.iter().any(|layer| layer.diff_id == *diff_id) {
            layers.push(Layer { descriptor: descriptor.clone(), diff_id: *diff_id });
        }
    }
    for layer in &layers {
        report(&**observer, layer, LayerState::Waiting, 0);
    }

    let weight = |layer: &Layer| layer.descriptor.size;
    let acquired = parallel::for_each(&layers, options.parallel, &|| halt.cancel(), weight, |layer| {
        acquire(runtime, sink, &repository, layer, &halt, &**observer)
    })?;
    if observer.cancelled() {
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

/// Waits for `work`, or until the caller cancels.
fn wait<T>(runtime: &Runtime, halt: &Halt, work: impl Future<Output = Result<T, PullError>>) -> Result<T, PullError> {
    runtime.block_on(async {
        tokio::select! {
            done = work => done,
            () = halt.wait() => Err(PullError::Cancelled),
        }
    })
}

/// Fetches one layer again from the registry that it came from.
pub(crate) fn fetch_layer(
    sink: &dyn LayerSink,
    diff_id: &DiffId,
    source: &LayerSource,
    options: &PullOptions,
    observer: &Arc<dyn Observer>,
) -> Result<AcquiredLayer, PullError> {
    let Origin::Registry { registry, repository } = &source.origin else {
        return Err(PullError::Client(format!("{} is not a registry", source.origin).into()));
    };
    let reference = format!("{registry}/{repository}").parse::<Reference>();
    let reference = reference.map_err(|error| PullError::Client(Box::new(error)))?;
    let bad = |cause| PullError::Image { image: reference.familiar(), cause };
    let descriptor = Descriptor::new(&source.media_type, &source.compressed.to_string(), source.bytes).map_err(bad)?;
    let descriptor = Descriptor { urls: source.urls.clone(), ..descriptor };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| PullError::Client(Box::new(error)))?;
    let halt = Halt::new(observer);
    let repository = wait(&runtime, &halt, Repository::open(&reference, options, observer));
    let layer = Layer { descriptor, diff_id: *diff_id };
    let outcome =
        repository.and_then(|repository| acquire(&runtime, sink, &Arc::new(repository), &layer, &halt, &**observer));
    runtime.shutdown_background();
    outcome
}

/// Brings one layer into the store, unless it is there. If another process is bringing it in, waits for that.
fn acquire(
    runtime: &Runtime,
    sink: &dyn LayerSink,
    repository: &Arc<Repository>,
    layer: &Layer,
    halt: &Halt,
    observer: &dyn Observer,
) -> Result<AcquiredLayer, PullError> {
    let descriptor = &layer.descriptor;
    let failed = |cause| PullError::Layer { layer: descriptor.digest, cause };
    let finished = |was_present: bool| {
        let state = if was_present { LayerState::Present } else { LayerState::Done };
        report(observer, layer, state, descriptor.size);
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
    let known = descriptor.digest.sha256().and_then(|digest| sink.layer_by_compressed(&digest));
    if let Some(known) = known.filter(|known| *known != layer.diff_id) {
        let (expected, actual) = (layer.diff_id.to_string(), known.to_string());
        let cause = ImageError::WrongDigest { what: "its tar".to_owned(), expected, actual };
        return Err(failed(Box::new(cause)));
    }
    report(observer, layer, LayerState::Fetching, 0);
    let expected = ExpectedLayer { compressed: Some(descriptor.digest), diff_id: Some(layer.diff_id) };
    let partial = descriptor.digest.sha256().and_then(|digest| sink.partial(&digest, descriptor.size));
    match transfer(runtime, sink, repository, layer, &expected, partial, halt) {
        Ok(()) => Ok(finished(false)),
        Err(refused) if refused.may_be_pieced_wrong => {
            let (name, error) = (descriptor.short(), refused.error);
            observer.notice(&format!(
                "layer {name} arrived in parts that do not fit together ({error}): fetching all of it again"
            ));
            let again = transfer(runtime, sink, repository, layer, &expected, None, halt);
            again.map(|()| finished(false)).map_err(|refused| refused.error)
        }
        Err(refused) => Err(refused.error),
    }
}

/// Why a layer is not stored.
struct Refused {
    error: PullError,
    /// Whether its bytes arrived in several parts. The fault may then be in how they were put together.
    may_be_pieced_wrong: bool,
}

/// Streams one layer from the registry into the store.
fn transfer(
    runtime: &Runtime,
    sink: &dyn LayerSink,
    repository: &Arc<Repository>,
    layer: &Layer,
    expected: &ExpectedLayer,
    partial: Option<Partial>,
    halt: &Halt,
) -> Result<(), Box<Refused>> {
    let mut reader = LayerReader::start(runtime.handle(), repository, &layer.descriptor, partial, halt);
    let outcome = sink.ingest(&mut reader, expected);
    let may_be_pieced_wrong = reader.is_pieced_together();
    match outcome {
        Ok(_) => {
            reader.forget();
            Ok(())
        }
        Err(cause) => match reader.take_failure() {
            // What arrived is kept for the next attempt.
            Some(error) => Err(Box::new(Refused { error, may_be_pieced_wrong: false })),
            None => {
                reader.forget();
                let error = PullError::Layer { layer: layer.descriptor.digest, cause };
                Err(Box::new(Refused { error, may_be_pieced_wrong }))
            }
        },
    }
}

fn source(repository: &Repository, descriptor: &Descriptor) -> LayerSource {
    let (registry, path) = repository.place();
    LayerSource {
        origin: Origin::Registry { registry: registry.to_owned(), repository: path.to_owned() },
        compressed: descriptor.digest,
        media_type: descriptor.media_type.clone(),
        bytes: descriptor.size,
        urls: descriptor.urls.clone(),
    }
}

fn report(observer: &dyn Observer, layer: &Layer, state: LayerState, bytes: u64) {
    let name = layer.descriptor.short();
    observer.layer(&LayerProgress { name: &name, state, bytes, total: Some(layer.descriptor.size) });
}
