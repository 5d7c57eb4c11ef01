//! Why an import failed, and what to do about it.

use crate::oci::ImageError;

/// Why an import failed. Each text is one line that names the thing and the remedy. No image was
/// named; layers that were complete by then stay until the store is next collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file or directory cannot be opened or read.
    #[error("{source_name}: {cause}")]
    Read {
        /// The path as given, or `standard input`.
        source_name: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file or directory holds no image in a known form.
    #[error(
        "{source_name} is no image archive: {reason}; import takes an OCI layout (directory or tar) or what \
         `docker save` writes, plain or compressed with gzip or zstd"
    )]
    NotAnArchive {
        /// The path as given, or `standard input`.
        source_name: String,
        /// What is there instead.
        reason: String,
    },
    /// The archive lacks a file that it names itself.
    #[error("{source_name} lacks {file:?}, which its own manifest names: it is incomplete, make or copy it again")]
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
        cause: ImageError,
    },
    /// The archive is sound but holds no such image.
    #[error("{source_name} holds no image {wanted}; there is {there}")]
    NoSuchImage {
        /// The path as given, or `standard input`.
        source_name: String,
        /// What was asked for.
        wanted: String,
        /// The names and digests there are.
        there: String,
    },
    /// One name was given for several images.
    #[error("{source_name} holds {count} images and --tag names one: choose with --image, of {there}")]
    SeveralImages {
        /// The path as given, or `standard input`.
        source_name: String,
        /// How many.
        count: usize,
        /// The names and digests there are.
        there: String,
    },
    /// A layer could not be read, verified or kept.
    #[error("{source_name}: layer {layer:?}: {cause}")]
    Layer {
        /// The path as given, or `standard input`.
        source_name: String,
        /// The path of the layer in the archive.
        layer: String,
        /// What the store said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A manifest, config or tag could not be kept.
    #[error("{0}")]
    Store(Box<dyn std::error::Error + Send + Sync>),
    /// The caller asked for the end.
    #[error("cancelled")]
    Cancelled,
}
