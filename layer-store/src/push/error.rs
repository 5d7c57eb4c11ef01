//! Why a push or an export in the original form failed.

use std::io;
use std::path::PathBuf;

use crate::error::StoreError;
use crate::space::Shortage;
use crate::{BlobDigest, Digest, PullError};

/// Why an image could not be pushed. A name in the registry changes last, so it still refers to what it did before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The registry cannot be reached, or refuses something.
    #[error(transparent)]
    Registry(#[from] PullError),
    /// The image could not be read from the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be written, here or in a layout.
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
    /// The manifest must be sent byte for byte, and a layer that it describes cannot be had.
    #[error("the manifest cannot be kept: the compressed layer {layer} cannot be had again: {cause}")]
    Lost {
        /// The digest in the manifest.
        layer: Box<BlobDigest>,
        /// Why not.
        cause: String,
    },
    /// The index must be sent byte for byte, and something that it lists is not there.
    #[error("the index cannot be kept: {0} of it is neither in the store nor at the destination")]
    Incomplete(Digest),
    /// The name has a digest that neither the manifest nor the index has.
    #[error("{name} promises a digest that the image does not have: it has {actual}")]
    OtherDigest {
        /// The name.
        name: String,
        /// The digest that it has.
        actual: Digest,
    },
    /// A manifest or an index could not be made.
    #[error("the image's {0} cannot be written: {1}")]
    Document(&'static str, String),
    /// The caller cancelled the push.
    #[error("cancelled")]
    Cancelled,
}

impl PushError {
    /// Makes the error for a file of the host.
    pub(crate) fn host(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| {
            let shortage = Shortage::measure(&cause, &path, 0);
            Self::Host { path, cause, shortage }
        }
    }
}
