//! The images of an OCI layout (image specification, `image-layout.md`).

use super::error::ImportError;
use super::files::Files;
use super::naming;
use super::{Found, FoundLayer};
use crate::oci::choose::{Choice, ChoiceError, Chosen, Documents};
use crate::oci::manifest::{self, Descriptor, Entry, Index, MANIFEST_LIMIT};
use crate::oci::platform::{Described, Platform};
use crate::{Digest, ImageError};

/// The file that makes a directory or archive a layout.
pub(super) const MARK: &str = "oci-layout";
const INDEX: &str = "index.json";

/// Reads a layout whose mark is there.
pub(super) struct Layout<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) source_name: &'a str,
    pub(super) wanted: &'a Platform,
    /// Whether the user asked for that platform.
    pub(super) is_asked_for: bool,
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
    /// Every image, for the wanted platform where an image has several.
    pub(super) fn images(&self) -> Result<Vec<Found>, ImportError> {
        let bytes = self.file(INDEX, MANIFEST_LIMIT)?;
        let index = manifest::parse_index(INDEX, &bytes).map_err(|e| self.bad(e))?;
        let mut images = Vec::new();
        let mut refused = index.refused;
        for (written, entries) in by_name(index.entries) {
            for entries in apart(entries) {
                match self.image(entries, written.as_deref()) {
                    Ok(found) => images.push(found),
                    // Signatures and attestations are stored beside images.
                    Err(ImportError::Image { cause: cause @ ImageError::NotAnImage(_), .. }) => refused = Some(cause),
                    Err(error) => return Err(error),
                }
            }
        }
        match refused {
            Some(cause) if images.is_empty() => Err(self.bad(cause)),
            _ => Ok(images),
        }
    }

    /// The image of the wanted platform among entries with one name.
    fn image(&self, entries: Vec<Entry>, written: Option<&str>) -> Result<Found, ImportError> {
        let listed = match entries.as_slice() {
            [only] => Some(only.descriptor.digest),
            _ => None,
        };
        let choice = Choice { documents: self, wanted: self.wanted, is_asked_for: self.is_asked_for };
        let chosen = choice.of_entries(Index { entries, refused: None }).map_err(|error| match error {
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
            written: written.map(str::to_owned).into_iter().collect(),
            digests: listed.into_iter().chain([manifest_digest]).collect(),
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

    fn bad(&self, cause: ImageError) -> ImportError {
        ImportError::Image { source_name: self.source_name.to_owned(), cause }
    }
}

/// Where a layout keeps the blob with this digest.
fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Entries with one name are platforms of one image where any of them has a platform, else each is an image.
fn apart(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    match entries.iter().all(|entry| entry.platform == Described::default()) {
        true => entries.into_iter().map(|entry| vec![entry]).collect(),
        false => vec![entries],
    }
}

/// The entries of an index by the names they are annotated with, in the order of first mention.
fn by_name(entries: Vec<Entry>) -> Vec<(Option<String>, Vec<Entry>)> {
    let mut groups: Vec<(Option<String>, Vec<Entry>)> = Vec::new();
    let has_none = |entry: &Entry| entry.platform == Described::default();
    for entry in entries {
        let name = naming::annotated(Some(&entry.annotations)).map(str::to_owned);
        match groups.iter_mut().find(|(known, _)| *known == name) {
            // A later entry of the same name and no platform replaces the earlier, as a tag moves.
            Some((Some(_), group)) if has_none(&entry) && group.iter().all(has_none) => {
                *group = vec![entry];
            }
            Some((_, group)) => group.push(entry),
            None => groups.push((name, vec![entry])),
        }
    }
    groups
}
