//! The images of an OCI layout (image specification, `image-layout.md`).

use serde_json::{Value, json};

use super::error::ImportError;
use super::files::Files;
use super::naming;
use super::{Found, FoundLayer};
use crate::oci::choose::{Choice, ChoiceError, Chosen, Documents};
use crate::oci::manifest::{self, Descriptor, Index, MANIFEST_LIMIT};
use crate::oci::platform::{Described, Platform};
use crate::{BlobDigest, Digest, ImageError};

/// The list of images. The file `oci-layout` next to it has nothing that is needed.
pub(super) const LIST: &str = "index.json";

/// Reads a layout.
pub(super) struct Layout<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) source_name: &'a str,
    pub(super) wanted: &'a Platform,
    /// Whether the user chose that platform.
    pub(super) is_asked_for: bool,
}

/// One entry of the list. A broken entry does not affect the others.
#[derive(Clone)]
pub(super) struct ListEntry {
    /// The name in its annotations.
    pub(super) written: Option<String>,
    pub(super) digest: Option<String>,
    described: Result<manifest::IndexEntry, String>,
}

impl ListEntry {
    fn read(entry: &Value) -> Self {
        let list = json!({ "manifests": [entry] }).to_string();
        let described = match manifest::parse_index(LIST, list.as_bytes()) {
            Ok(Index { mut entries, refused }) => entries.pop().ok_or_else(|| {
                refused.map_or_else(|| "it has an entry that is not a descriptor".to_owned(), |error| error.to_string())
            }),
            Err(error) => Err(error.to_string()),
        };
        Self {
            written: entry.get("annotations").and_then(naming::annotated).map(str::to_owned),
            digest: entry.get("digest").and_then(Value::as_str).map(str::to_owned),
            described,
        }
    }

    /// The platform of the image, if the list says it.
    pub(super) fn platform(&self) -> Option<&Described> {
        self.described.as_ref().ok().map(|entry| &entry.platform)
    }
}

impl Documents for Layout<'_> {
    type Error = ImportError;

    fn document(&self, what: &str, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, ImportError> {
        let bytes = self.file(&path(&descriptor.digest), limit)?;
        descriptor.verify(what, &bytes).map_err(|e| self.bad(e))?;
        Ok(bytes)
    }

    fn is_absent(&self, error: &ImportError) -> bool {
        matches!(error, ImportError::Missing { .. })
    }
}

impl Layout<'_> {
    /// Returns every entry of the list without reading the images.
    pub(super) fn entries(&self) -> Result<Vec<ListEntry>, ImportError> {
        let bytes = self.file(LIST, MANIFEST_LIMIT)?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let list: Value = serde_json::from_slice(bytes).map_err(|error| self.malformed(&error.to_string()))?;
        match list.get("manifests") {
            Some(Value::Array(entries)) => Ok(entries.iter().map(ListEntry::read).collect()),
            Some(Value::Null) | None if list.is_object() => Ok(Vec::new()),
            _ => Err(self.malformed("it is not an image index")),
        }
    }

    /// Reads the image that the entries with one name lead to: the one for the wanted platform.
    pub(super) fn image(&self, entries: &[&ListEntry]) -> Result<Found, ImportError> {
        let mut described = Index::default();
        for entry in entries {
            match &entry.described {
                Ok(entry) => described.entries.push(entry.clone()),
                Err(cause) => {
                    let refused = || ImageError::Malformed { what: LIST.to_owned(), cause: cause.clone() };
                    described.refused.get_or_insert_with(refused);
                }
            }
        }
        if described.entries.is_empty()
            && let Some(cause) = described.refused
        {
            return Err(self.bad(cause));
        }
        // Only if there is a single entry does its digest cover everything that was read.
        let entry = match described.entries.as_slice() {
            [only] => only.descriptor.digest.sha256(),
            _ => None,
        };
        let choice = Choice { documents: self, wanted: self.wanted, is_asked_for: self.is_asked_for };
        let chosen = choice.of_entries(described).map_err(|error| match error {
            ChoiceError::Image(cause) => self.bad(cause),
            ChoiceError::Document(error) => error,
        })?;
        let Chosen { manifest, manifest_digest, manifest_bytes, config, config_bytes, platform } = chosen;
        let layers = manifest.layers.into_iter().zip(config.diff_ids).map(|(descriptor, diff_id)| FoundLayer {
            path: path(&descriptor.digest),
            diff_id,
            blob: Some(descriptor),
        });
        Ok(Found {
            written: entries.first().and_then(|entry| entry.written.clone()).into_iter().collect(),
            proved: entry.into_iter().chain([manifest_digest]).collect(),
            config: Digest::of(&config_bytes),
            platform,
            layers: layers.collect(),
            config_bytes,
            manifest_bytes: Some(manifest_bytes),
        })
    }

    fn file(&self, file: &str, limit: u64) -> Result<Vec<u8>, ImportError> {
        self.files
            .document(file, limit)?
            .ok_or_else(|| ImportError::Missing { source_name: self.source_name.to_owned(), file: file.to_owned() })
    }

    fn malformed(&self, cause: &str) -> ImportError {
        self.bad(ImageError::Malformed { what: LIST.to_owned(), cause: cause.to_owned() })
    }

    fn bad(&self, cause: ImageError) -> ImportError {
        ImportError::Image { source_name: self.source_name.to_owned(), cause }
    }
}

/// Returns the path in a layout of the blob with this digest.
fn path(digest: &BlobDigest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}
