//! The files of `images/`: what a name refers to.
//!
//! ```text
//! { "reference": "docker.io/library/debian:12", "manifest": "sha256:...", "index": "sha256:...", "others": ["sha256:..."] }
//! ```
//!
//! - **reference**: the canonical name. The file is called by its SHA-256.
//! - **manifest**: the manifest of the image, for one platform.
//! - **index**: the image index that the name referred to in its registry or archive, if it was one. It is in `manifests/`, byte
//!   for byte, so the image is also found by the digest of the index. The file is believed only as far as that document,
//!   which is hashed when it is read, lists the manifest. Absent in the files of earlier versions, which keep the name and
//!   collect the index.
//! - **others**: what else of the index is kept, if the image was pulled for all platforms: manifests of other platforms,
//!   indexes within the index, and documents such as attestations. A store with such a name has the feature
//!   `other-platforms`, because an earlier version would collect them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::error::StoreError;
use crate::oci::sink::Named;
use crate::regular;

/// One file of `images/`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ImageFile {
    pub(super) reference: String,
    pub(super) manifest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) others: Vec<Digest>,
}

impl ImageFile {
    pub(super) fn new(reference: &str, named: &Named) -> Self {
        let Named { manifest, index, others } = named.clone();
        Self { reference: reference.to_owned(), manifest, index, others }
    }

    pub(super) fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        let text = match regular::read(path, regular::NOTE_MAX) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(StoreError::io(path)(cause)),
        };
        let file = serde_json::from_slice(&text);
        file.map(Some).map_err(|error| StoreError::Document { path: path.to_owned(), cause: error.to_string() })
    }

    pub(super) fn named(&self) -> Named {
        Named { manifest: self.manifest, index: self.index, others: self.others.clone() }
    }
}
