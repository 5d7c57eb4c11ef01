//! Sends images of the store to registries, and into layouts, in the form that they came in.
//!
//! The manifest is sent byte for byte as it was pulled if every layer can be had in the form that it describes. Such a layer is
//! not sent if the destination has it or can take it from another repository; otherwise its compressed bytes are fetched again from
//! where they came, or made again if this program's compression makes the same bytes. Where all of this fails, the
//! layer is compressed for a new manifest, and the observer is told so.

mod compress;
mod destination;
mod error;
mod index;
mod layer;
mod layout;
mod manifest;
mod original;
mod registry;

use std::sync::Arc;

pub use compress::Packing;
pub(crate) use destination::Document;
pub use error::PushError;
pub(crate) use layout::Layout;

use layer::Sender;
use registry::RegistryDestination;

use crate::store::{Image, Images, Store};
use crate::{BlobDigest, Digest, Observer, PullOptions, Reference};

/// How to push.
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// How to reach registries: the one that is pushed to, and those that layers are fetched from again.
    pub registry: PullOptions,
    /// How layers are compressed that have to be compressed here.
    pub packing: Packing,
    /// Compress every layer that has another compression than `packing`.
    pub force_packing: bool,
    /// Push the images for all platforms that are kept, and their index.
    pub all_platforms: bool,
    /// Fail if the manifest cannot be sent byte for byte.
    pub preserve_digests: bool,
}

/// What a push did.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The name that the image has now.
    pub reference: Reference,
    /// The digest of the manifest or index that the name refers to.
    pub digest: Digest,
    /// Whether that is a new document, because layers had to be compressed in another way.
    pub is_new: bool,
    /// The layers of all images that were pushed.
    pub layers: Vec<PushedLayer>,
}

/// What was done with one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedLayer {
    /// Its digest in the manifest.
    pub digest: BlobDigest,
    /// Bytes as transferred.
    pub bytes: u64,
    /// How it came to its destination.
    pub transfer: Transfer,
}

/// How a layer came to its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transfer {
    /// The destination had it.
    Present,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was sent.
    Sent,
    /// The destination may not keep it: its descriptor says where else it is.
    Elsewhere,
}

impl Images<'_> {
    /// Pushes an image to a registry, under the name `to`. If `to` has a digest, that of the manifest or the index must be that
    /// digest.
    pub fn push(
        &self,
        image: &Image,
        to: &Reference,
        options: &PushOptions,
        observer: &Arc<dyn Observer>,
    ) -> Result<Pushed, PushError> {
        let mounted_from = mountable(self.store, image, to);
        let (registry, notes) = (&options.registry, self.store.partials());
        let destination = RegistryDestination::open(to, mounted_from, registry, notes, observer)?;
        let promised = to.digest();
        let all_platforms = options.all_platforms || (promised.is_some() && promised == image.index);
        let preserve_digests = options.preserve_digests || promised.is_some();
        let options = PushOptions { all_platforms, preserve_digests, ..options.clone() };
        let sender = Sender { store: self.store, destination: &destination, options: &options, observer };
        let (document, layers) = sender.send(image)?;
        match promised {
            Some(promised) if promised != document.digest => {
                return Err(PushError::OtherDigest { name: to.familiar(), actual: document.digest });
            }
            _ => destination.publish(&document)?,
        }
        let is_new = document.digest != image.manifest_digest && Some(document.digest) != image.index;
        Ok(Pushed { reference: to.clone(), digest: document.digest, is_new, layers })
    }
}

impl Sender<'_> {
    /// Sends everything but the name. Returns the document that the name is for.
    fn send(&self, image: &Image) -> Result<(Document, Vec<PushedLayer>), PushError> {
        match self.options.all_platforms {
            true => self.all(image),
            false => self.image(image),
        }
    }
}

/// Sends an image into a layout, except for its name.
pub(crate) fn into_layout(
    store: &Store,
    image: &Image,
    layout: &Layout<'_>,
    options: &PushOptions,
    observer: &Arc<dyn Observer>,
) -> Result<(Document, Vec<PushedLayer>), PushError> {
    Sender { store, destination: layout, options, observer }.send(image)
}

/// Returns the other repositories of a registry that have a layer of an image, as far as is known.
fn mountable(store: &Store, image: &Image, to: &Reference) -> Vec<String> {
    let mut repositories: Vec<String> = Vec::new();
    for source in image.layers.iter().flat_map(|layer| store.layers().sources(layer)) {
        if let Some(repository) = registry::repository_in(&source, to)
            && !repositories.iter().any(|known| known == repository)
        {
            repositories.push(repository.to_owned());
        }
    }
    // A token that allows many repositories may be too long for a header.
    repositories.truncate(8);
    repositories
}
