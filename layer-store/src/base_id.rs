//! The id of a base.

use std::fmt;
use std::str::FromStr;

use crate::{DiffId, Digest};

/// The version of the base format and of the merge. Any change to a record, or to the result of a merge, raises it.
pub(crate) const VERSION: u32 = 1;

/// The id of a base: a digest of the version of the merge and the DiffIDs of image and variant.
///
/// ```text
/// SHA-256 of "lamina-base\0", version of the base format (u32, little-endian),
///            number of image layers (u32), number of all layers (u32), each layer's 32-byte DiffID, bottom first
/// ```
///
/// Written as 64 hex digits. The same image and variant have the same base in every store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BaseId(Digest);

/// The text is not a base id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a base id: expected 64 lower-case hex digits, as `lamina prepare` prints them")]
pub struct BaseIdError(String);

impl BaseId {
    /// Computes the id of an image's layers with the layers of a variant on top, each bottom first.
    #[must_use]
    pub fn of(image: &[DiffId], variant: &[DiffId]) -> Self {
        let mut bytes = b"lamina-base\0".to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for count in [image.len(), image.len() + variant.len()] {
            bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        for layer in image.iter().chain(variant) {
            bytes.extend_from_slice(layer.0.as_bytes());
        }
        Self(Digest::of(&bytes))
    }

    /// Returns the first 16 bytes, to be used as a UUID.
    pub(crate) fn uuid(&self) -> [u8; 16] {
        self.0.as_bytes().first_chunk().copied().unwrap_or_default()
    }

    /// Returns the 64 hex digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.hex()
    }
}

impl fmt::Display for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseId({self})")
    }
}

impl FromStr for BaseId {
    type Err = BaseIdError;

    fn from_str(text: &str) -> Result<Self, BaseIdError> {
        Digest::from_hex(text).map(Self).map_err(|_| BaseIdError(text.to_owned()))
    }
}
