//! What pulls and imports share: the documents of the image specification, and bringing layers into a store.

pub(crate) mod choose;
pub(crate) mod manifest;
pub(crate) mod media_type;
pub(crate) mod parallel;
pub(crate) mod partial;
pub(crate) mod platform;
pub(crate) mod sink;
pub(crate) mod tolerant;

use std::fmt;

use crate::{BlobDigest, DiffId, Digest, Reference};

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Bytes do not have the digest that they should have.
    #[error("{what}: the digest is {actual}, not {expected}: it was changed or damaged on the way, or at its source")]
    WrongDigest {
        /// What was read.
        what: String,
        /// The digest that it should have.
        expected: String,
        /// The digest of what arrived.
        actual: String,
    },
    /// A document is shorter or longer than it should be.
    #[error("{what}: {actual} bytes, not {expected}: it was changed or cut off on the way, or at its source")]
    WrongSize {
        /// What was read.
        what: String,
        /// How many bytes it should have.
        expected: u64,
        /// How many bytes arrived.
        actual: u64,
    },
    /// A document is larger than any real one.
    #[error("{what}: more than {limit} bytes, which no image has")]
    TooLarge {
        /// What was read.
        what: String,
        /// The most that is read, in bytes.
        limit: u64,
    },
    /// A document is not what the image specification says.
    #[error("bad {what}: {cause}")]
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The manifest is valid, but it does not describe a root file system.
    #[error("not a container image: {0}")]
    NotAnImage(String),
    /// The image exists, but not for this platform. Choosing one of the offered platforms helps.
    #[error("no image for {wanted}; there is {}", listed(.offered))]
    NoSuchPlatform {
        /// The platform asked for.
        wanted: platform::Platform,
        /// The platforms that it exists for, at least one.
        offered: Vec<platform::Platform>,
    },
}

fn listed(platforms: &[platform::Platform]) -> String {
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// An image that a pull or an import brought into the store.
#[derive(Clone, Debug)]
pub struct Acquired {
    /// Its names in the store, at least one, except for an image for another platform.
    pub references: Vec<Reference>,
    /// The digest of its manifest: that of the platform chosen, never that of an index.
    pub manifest_digest: Digest,
    /// The platform that its config names.
    pub platform: platform::Platform,
    /// Its layers from the bottom up.
    pub layers: Vec<AcquiredLayer>,
    /// The images for other platforms that came with it. They have no names of their own.
    pub others: Vec<Acquired>,
}

/// One layer of an [`Acquired`] image.
#[derive(Clone, Debug)]
pub struct AcquiredLayer {
    /// The layer.
    pub diff_id: DiffId,
    /// Where its bytes can be fetched again.
    pub source: LayerSource,
    /// Whether the store had it before, so that nothing was fetched.
    pub was_present: bool,
}

/// Where the bytes of a layer can be fetched again, to repair a store or to push the layer unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct LayerSource {
    /// The registry or archive.
    pub origin: Origin,
    /// The digest of the bytes as they are transferred.
    pub compressed: BlobDigest,
    /// What they are, as the manifest says: `application/vnd.oci.image.layer.v1.tar+gzip`.
    pub media_type: String,
    /// How many bytes are transferred.
    pub bytes: u64,
    /// Other places that have the bytes, for a layer that its registry may not keep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

/// Where an image came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A registry.
    Registry {
        /// As in [`Reference::registry`].
        registry: String,
        /// As in [`Reference::repository`].
        repository: String,
    },
    /// An archive or layout: its path as given, or `-` for standard input.
    Archive(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry { registry, repository } => write!(f, "{registry}/{repository}"),
            Self::Archive(path) => f.write_str(path),
        }
    }
}
