//! Pulling images from registries, and the requests of a push.
//!
//! The protocol is that of the OCI distribution specification, 1.1. Everything that arrives is checked:
//! manifests against the name's digest or the index's entry, configs and layers against the manifest,
//! and each layer's tar against the config. Layers are fetched and ingested in parallel, and no layer is ever
//! completely in memory.

mod ahead;
mod attachments;
mod auth;
mod authorize;
mod backoff;
mod blob;
mod causes;
mod certificates;
mod client;
mod connect;
mod content;
mod credential;
mod credentials;
mod describe;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod login;
mod login_file;
mod login_helper;
mod options;
mod places;
mod platforms;
mod proxy;
mod range;
mod reach;
mod server;
mod spool;
mod tags;
mod target;
mod trust;
mod upload;
mod upload_note;

use std::sync::Arc;

use tokio::runtime::Runtime;

pub use backoff::Patience;
pub use credential::Login;
pub use error::PullError;
pub use login::{LoginError, Logins, Logout};
pub use options::PullOptions;
pub use server::Server;
pub(crate) use spool::{copy_hashed, digest_of, fetch_compressed};
pub(crate) use tags::tags;
pub(crate) use target::{Target, UploadBlob};
pub(crate) use trust::no_tls;

use blob::{Connections, LayerReader};
use client::Repository;
use describe::Describe;
use platforms::Everything;

use crate::observer::Halt;
use crate::oci::choose::Chosen;
use crate::oci::manifest::{Config, Descriptor, Manifest};
use crate::oci::parallel;
use crate::oci::partial::Partial;
use crate::oci::sink::{LayerSink, Named};
use crate::oci::{Acquired, AcquiredLayer, ImageError, LayerSource, Origin};
use crate::policy::{Demand, Place};
use crate::{DiffId, Digest, ExpectedLayer, LayerProgress, LayerState, Observer, Reference};

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
    places::first(runtime, reference, options, observer, |repository, halt| {
        let describe = Describe { runtime, sink, repository, reference, options, halt };
        let (described, index) = describe.image()?;
        let everything = match &index {
            Some(index) if options.all_platforms => describe.everything(index, options)?,
            _ => Everything::default(),
        };
        let pull = Pull { runtime, sink, repository, reference, halt, observer: &**observer };
        if let Some(demand) = &demand {
            // What is checked are these manifests, and from here on all content is named by digests in them.
            pull.check(demand, &described.manifest_digest)?;
            everything.images.iter().try_for_each(|image| pull.check(demand, &image.manifest_digest))?;
        }
        pull.bring(&described, index.as_deref(), &everything, options)
    })
}

/// An image whose documents have been fetched.
struct Pull<'a> {
    runtime: &'a Runtime,
    sink: &'a dyn LayerSink,
    repository: &'a Arc<Repository>,
    reference: &'a Reference,
    halt: &'a Halt,
    observer: &'a dyn Observer,
}

impl Pull<'_> {
    fn check(&self, demand: &Demand, manifest: &Digest) -> Result<(), PullError> {
        demand.check(manifest, || wait(self.runtime, self.halt, self.repository.signatures(manifest)))
    }

    /// Brings in the layers, keeps the documents, and names the image unless the options say otherwise.
    fn bring(
        &self,
        described: &Chosen,
        index: Option<&[u8]>,
        everything: &Everything,
        options: &PullOptions,
    ) -> Result<Acquired, PullError> {
        // An image may name a layer several times; it is fetched once.
        let mut layers: Vec<Layer> = Vec::new();
        let mut add = |manifest: &Manifest, config: &Config| {
            for (descriptor, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
                if !layers.iter().any(|layer| layer.diff_id == *diff_id) {
                    layers.push(Layer { descriptor: descriptor.clone(), diff_id: *diff_id });
                }
            }
        };
        add(&described.manifest, &described.config);
        everything.images.iter().for_each(|image| add(&image.manifest, &image.config));
        for layer in &layers {
            report(self.observer, layer, LayerState::Waiting, 0);
        }
        let weight = |layer: &Layer| layer.descriptor.size;
        let acquired = parallel::for_each(&layers, options.parallel, &|| self.halt.cancel(), weight, |layer| {
            acquire(self.runtime, self.sink, (self.repository, self.reference), layer, self.halt, self.observer)
        })?;
        if self.observer.cancelled() {
            return Err(PullError::Cancelled);
        }
        let put = |document: &[u8]| self.sink.put_manifest(document).map_err(PullError::Store);
        put(&described.config_bytes)?;
        let manifest_digest = put(&described.manifest_bytes)?;
        everything.documents.iter().try_for_each(|document| put(document).map(drop))?;
        let others = everything.manifests.iter().copied().filter(|other| *other != manifest_digest).collect();
        let named = Named { manifest: manifest_digest, index: index.map(put).transpose()?, others };
        if options.names_image {
            self.sink.name(&self.reference.to_string(), &named).map_err(PullError::Store)?;
        }
        let others = everything.images.iter().filter(|image| image.manifest_digest != manifest_digest);
        let others = others.map(|image| Acquired {
            references: Vec::new(),
            manifest_digest: image.manifest_digest,
            platform: image.platform.clone(),
            layers: each_time(&acquired, &image.config.diff_ids),
            others: Vec::new(),
        });
        Ok(Acquired {
            references: vec![self.reference.clone()],
            manifest_digest,
            platform: described.platform.clone(),
            layers: each_time(&acquired, &described.config.diff_ids),
            others: others.collect(),
        })
    }
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
    from_origin(source, options, observer, |runtime, (repository, reference), descriptor, halt| {
        let layer = Layer { descriptor: descriptor.clone(), diff_id: *diff_id };
        acquire(runtime, sink, (repository, reference), &layer, halt, &**observer)
    })
}

/// Calls `fetch` for each place from which the registry's layer `source` can be fetched again, until one has it.
fn from_origin<T>(
    source: &LayerSource,
    options: &PullOptions,
    observer: &Arc<dyn Observer>,
    mut fetch: impl FnMut(&Runtime, (&Arc<Repository>, &Reference), &Descriptor, &Halt) -> Result<T, PullError>,
) -> Result<T, PullError> {
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
    let outcome = places::first(&runtime, &reference, options, observer, |repository, halt| {
        fetch(&runtime, (repository, &reference), &descriptor, halt)
    });
    runtime.shutdown_background();
    outcome
}

/// Brings one layer into the store, unless it is there. If another process is bringing it in, waits for that.
fn acquire(
    runtime: &Runtime,
    sink: &dyn LayerSink,
    (repository, reference): (&Arc<Repository>, &Reference),
    layer: &Layer,
    halt: &Halt,
    observer: &dyn Observer,
) -> Result<AcquiredLayer, PullError> {
    let descriptor = &layer.descriptor;
    let failed = |cause| PullError::Layer { layer: descriptor.digest, cause };
    let finished = |was_present: bool| {
        let state = if was_present { LayerState::Present } else { LayerState::Done };
        report(observer, layer, state, descriptor.size);
        AcquiredLayer { diff_id: layer.diff_id, source: source(reference, descriptor), was_present }
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
    match transfer(runtime, sink, repository, layer, &expected, (partial, Connections::Several), halt) {
        Ok(()) => Ok(finished(false)),
        Err(refused) if refused.may_be_pieced_wrong => {
            let (name, error) = (descriptor.short(), refused.error);
            observer.notice(&format!(
                "layer {name} arrived in parts that do not fit together ({error}): fetching all of it again"
            ));
            let again = transfer(runtime, sink, repository, layer, &expected, (None, Connections::One), halt);
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
    (partial, connections): (Option<Partial>, Connections),
    halt: &Halt,
) -> Result<(), Box<Refused>> {
    let mut reader = LayerReader::start(runtime.handle(), repository, &layer.descriptor, partial, connections, halt);
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

/// Where a layer can be fetched again: under the name of its image, whatever place it came from this time.
fn source(reference: &Reference, descriptor: &Descriptor) -> LayerSource {
    LayerSource {
        origin: Origin::Registry {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
        },
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
