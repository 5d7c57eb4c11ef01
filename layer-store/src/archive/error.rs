//! Errors of an import.

use crate::oci::ImageError;
use crate::policy::PolicyError;

/// Why an import failed. Each message is one line that names the thing and the remedy. No image was
/// named; layers that were already complete stay until the next garbage collection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file or directory cannot be opened or read.
    #[error("{source_name}: {cause}")]
    Read {
        /// The path as given, or `standard input`.
        source_name: String,
        /// The error of the host.
        #[source]
        cause: std::io::Error,
    },
    /// The file or directory holds no image in a known form.
    #[error(
        "{source_name} is not an image archive: {reason}; an image archive is an OCI layout (directory or tar) or what \
         `docker save` writes, plain or compressed"
    )]
    NotAnArchive {
        /// The path as given, or `standard input`.
        source_name: String,
        /// What is there instead.
        reason: String,
    },
    /// The file is not the tar of a root file system.
    #[error("{source_name} is not the tar of a root file system: {reason}")]
    NotARootfs {
        /// The path as given, or `standard input`.
        source_name: String,
        /// What is there instead.
        reason: String,
    },
    /// The archive lacks a file that it names itself.
    #[error("{source_name} lacks {file:?}, which its own list names: it is incomplete; make or copy it again")]
    Missing {
        /// The path as given, or `standard input`.
        source_name: String,
        /// The path of the file in the archive.
        file: String,
    },
    /// Something is wrong with an image in the archive.
    #[error("{source_name}: {cause}")]
    Image {
        /// The path as given, or `standard input`.
        source_name: String,
        /// What is wrong.
        #[source]
        cause: ImageError,
    },
    /// The archive can be read but has no such image.
    #[error("{source_name} has no image {wanted}; it has {there}")]
    NoSuchImage {
        /// The path as given, or `standard input`.
        source_name: String,
        /// The name, digest or position that was given.
        wanted: String,
        /// The names and digests there are.
        there: String,
    },
    /// One name was given for several images.
    #[error("{source_name} has {count} images, but the given name is for one: {there}")]
    SeveralImages {
        /// The path as given, or `standard input`.
        source_name: String,
        /// How many.
        count: usize,
        /// The names and digests there are.
        there: String,
    },
    /// The given name has a digest that is not the image's.
    #[error("{source_name}: the image is {actual}, and {name} promises another digest")]
    WrongName {
        /// The path as given, or `standard input`.
        source_name: String,
        /// The name.
        name: String,
        /// The digest of the image's manifest.
        actual: crate::Digest,
    },
    /// A layer could not be read, verified or stored.
    #[error("{source_name}: layer {layer:?}: {cause}")]
    Layer {
        /// The path as given, or `standard input`.
        source_name: String,
        /// The path of the layer in the archive.
        layer: String,
        /// The error of the store.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A manifest, config or tag could not be stored.
    #[error("{0}")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The policy for images keeps the image out.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The import was cancelled.
    #[error("cancelled")]
    Cancelled,
}
