//! The images of an OCI layout (image specification, `image-layout.md`).

use oci_distribution::manifest::{ImageIndexEntry, OciImageIndex};

use super::error::ImportError;
use super::files::Files;
use super::naming;
use super::{Found, FoundLayer};
use crate::oci::manifest::{self, CONFIG_LIMIT, Descriptor, Document, MANIFEST_LIMIT, Manifest};
use crate::oci::platform::{self, Platform};
use crate::{Digest, ImageError};

/// The file that makes a directory or archive a layout.
pub(super) const MARK: &str = "oci-layout";
const INDEX: &str = "index.json";
/// Indexes within indexes that are followed.
const INDEX_DEPTH: usize = 3;

/// Reads a layout whose mark is there.
pub(super) struct Layout<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) source_name: &'a str,
    pub(super) wanted: &'a Platform,
}

impl Layout<'_> {
    /// Every image, for the wanted platform where an image has several.
    pub(super) fn images(&self) -> Result<Vec<Found>, ImportError> {
        let bytes = self.document(INDEX, MANIFEST_LIMIT)?;
        let index: OciImageIndex = serde_json::from_slice(&bytes).map_err(|e| self.malformed(INDEX, &e.to_string()))?;
        let mut images = Vec::new();
        let mut refused = None;
        for (written, entries) in by_name(index.manifests) {
            for entry in self.chosen(&entries)? {
                match self.image(entry, written.as_deref()) {
                    Ok(found) => images.push(found),
                    // Signatures and attestations lie beside images.
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

    /// Which of the entries with one name to take: one, or, where they have no name and no platform that
    /// tells them apart, each.
    fn chosen<'e>(&self, entries: &'e [ImageIndexEntry]) -> Result<Vec<&'e ImageIndexEntry>, ImportError> {
        if entries.iter().all(|entry| entry.platform.is_none()) || entries.len() == 1 {
            return Ok(entries.iter().collect());
        }
        match platform::choose(entries, self.wanted) {
            Some(entry) => Ok(vec![entry]),
            None => Err(self.no_platform(entries)),
        }
    }

    fn image(&self, entry: &ImageIndexEntry, written: Option<&str>) -> Result<Found, ImportError> {
        let (digest, manifest_bytes, manifest) = self.manifest(entry)?;
        let config_bytes = self.blob("config", &manifest.config, CONFIG_LIMIT)?;
        let config = manifest::parse_config(&config_bytes, manifest.layers.len()).map_err(|e| self.bad(e))?;
        let layers = manifest.layers.into_iter().zip(&config.diff_ids).map(|(descriptor, diff_id)| FoundLayer {
            path: path(&descriptor.digest),
            diff_id: *diff_id,
            blob: Some(descriptor),
        });
        Ok(Found {
            written: written.map(str::to_owned).into_iter().collect(),
            digests: vec![entry_digest(entry), Some(digest)].into_iter().flatten().collect(),
            platform: config.platform,
            layers: layers.collect(),
            config_bytes,
            manifest_bytes: Some(manifest_bytes),
        })
    }

    /// The manifest behind an entry, through indexes.
    fn manifest(&self, entry: &ImageIndexEntry) -> Result<(Digest, Vec<u8>, Manifest), ImportError> {
        let read = |entry: &ImageIndexEntry| {
            Descriptor::new(&entry.media_type, &entry.digest, entry.size).map_err(|e| self.bad(e))
        };
        let mut descriptor = read(entry)?;
        for _ in 0..=INDEX_DEPTH {
            let bytes = self.blob("manifest", &descriptor, MANIFEST_LIMIT)?;
            match manifest::parse(&bytes, Some(&descriptor.media_type)).map_err(|e| self.bad(e))? {
                Document::Manifest(manifest) => return Ok((descriptor.digest, bytes, manifest)),
                Document::Index(entries) => {
                    let chosen = platform::choose(&entries, self.wanted);
                    descriptor = read(chosen.ok_or_else(|| self.no_platform(&entries))?)?;
                }
            }
        }
        Err(self.malformed(INDEX, "its indexes lead to indexes without end"))
    }

    fn blob(&self, what: &str, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, ImportError> {
        let bytes = self.document(&path(&descriptor.digest), limit)?;
        descriptor.verify(what, &bytes).map_err(|e| self.bad(e))?;
        Ok(bytes)
    }

    fn document(&self, file: &str, limit: u64) -> Result<Vec<u8>, ImportError> {
        self.files
            .document(file, limit)?
            .ok_or_else(|| ImportError::Missing { source_name: self.source_name.to_owned(), file: file.to_owned() })
    }

    fn no_platform(&self, entries: &[ImageIndexEntry]) -> ImportError {
        self.bad(ImageError::NoSuchPlatform { wanted: self.wanted.clone(), offered: platform::offered(entries) })
    }

    fn malformed(&self, what: &str, cause: &str) -> ImportError {
        self.bad(ImageError::Malformed { what: what.to_owned(), cause: cause.to_owned() })
    }

    fn bad(&self, cause: ImageError) -> ImportError {
        ImportError::Image { source_name: self.source_name.to_owned(), cause }
    }
}

/// Where a layout keeps the blob with this digest.
fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn entry_digest(entry: &ImageIndexEntry) -> Option<Digest> {
    entry.digest.parse().ok()
}

/// The entries of an index by the names they are annotated with, in the order of first mention.
fn by_name(entries: Vec<ImageIndexEntry>) -> Vec<(Option<String>, Vec<ImageIndexEntry>)> {
    let mut groups: Vec<(Option<String>, Vec<ImageIndexEntry>)> = Vec::new();
    for entry in entries {
        let name = naming::annotated(entry.annotations.as_ref()).map(str::to_owned);
        match groups.iter_mut().find(|(known, _)| *known == name) {
            // A later entry of the same name and no platform replaces the earlier, as a tag moves.
            Some((Some(_), group)) if entry.platform.is_none() && group.iter().all(|e| e.platform.is_none()) => {
                *group = vec![entry];
            }
            Some((_, group)) => group.push(entry),
            None => groups.push((name, vec![entry])),
        }
    }
    groups
}
