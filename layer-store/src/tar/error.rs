//! Why a tar is refused.

use super::header::HeaderError;
use super::pax::PaxError;
use super::sparse::MapError;

/// Why a stream is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError<R> {
    /// The bytes are not a tar, or a damaged one.
    #[error("at byte {offset}, entry {entry:?}: {cause}")]
    Malformed {
        /// Where the entry's header begins, in bytes.
        offset: u64,
        /// The entry's path, lossy; if its name is not known yet, that of the entry before it.
        entry: String,
        /// What is wrong.
        cause: Malformed,
    },
    /// The sink refused an entry.
    #[error("{0}")]
    Refused(R),
}

/// What is wrong with a tar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("{0}")]
    Pax(String),
    #[error("its sparse map is malformed")]
    Sparse,
    #[error("its {0} is out of range")]
    Range(&'static str),
    #[error("its extended header is longer than 1 MiB")]
    ExtensionTooLong,
    #[error("the extended headers before the next entry are longer than 4 MiB together")]
    ExtensionsTooLong,
    #[error("it is continued from another volume, and multi-volume archives are not supported")]
    MultiVolume,
    #[error("the archive ends within this entry")]
    Truncated,
    #[error("there is a single zero block before it")]
    LoneZeroBlock,
}

impl From<PaxError> for Malformed {
    fn from(error: PaxError) -> Self {
        Self::Pax(error.to_string())
    }
}

impl From<MapError> for Malformed {
    fn from(MapError: MapError) -> Self {
        Self::Sparse
    }
}
