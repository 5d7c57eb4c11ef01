//! What names of images refer to: by themselves, by a digest, and for other platforms.

use std::fs;
use std::path::Path;

use super::features::OTHER_PLATFORMS;
use super::handle::Store;
use super::image_file::ImageFile;
use super::images::{Image, ImageSummary, Images};
use crate::error::StoreError;
use crate::oci::choose::INDEX_DEPTH;
use crate::oci::manifest::{self, Document};
use crate::oci::platform::Platform;
use crate::oci::sink::Named;
use crate::{DiffId, Digest, Reference};

/// What a manifest that is kept besides that of an image needs.
pub(super) enum Other {
    Image(Box<Image>),
    /// An index, or a manifest of documents, with everything that it names.
    Documents(Vec<Digest>),
}

impl Images<'_> {
    /// Returns the images for other platforms that are kept with an image.
    pub fn others(&self, image: &Image) -> Result<Vec<Image>, StoreError> {
        let mut images = Vec::new();
        for other in &image.others {
            if let Other::Image(found) = self.store.other(&image.reference, other)? {
                self.store.hold_where_they_are(&found.layers, &[])?;
                images.push(*found);
            }
        }
        Ok(images)
    }

    /// Returns the image for a platform: this one, or one that is kept with it. `None` if neither is for that platform.
    pub fn for_platform(&self, image: &Image, wanted: &Platform) -> Result<Option<Image>, StoreError> {
        let candidates = std::iter::once(image.clone()).chain(self.others(image)?);
        let distance = |image: &Image| {
            let config = &image.config;
            let variant = config.variant().as_deref();
            let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
            wanted.distance_to(&Platform::normalised(&os, &architecture, variant))
        };
        let fitting = candidates.filter_map(|image| Some((distance(&image)?, image)));
        Ok(fitting.min_by_key(|(distance, _)| *distance).map(|(_, image)| image))
    }

    /// Returns the names, in this store, of the image that `reference` means: its own, or, if it has a digest, those of its
    /// repository with that digest.
    pub fn names_of(&self, reference: &Reference) -> Result<Vec<String>, StoreError> {
        let names = self.store.own_images()?;
        let own = reference.to_string();
        if names.iter().any(|image| image.reference == own) {
            return Ok(vec![own]);
        }
        let is_meant = |image: &ImageSummary| self.store.named_by_digest(image, reference).is_some();
        Ok(names.into_iter().filter(is_meant).map(|image| image.reference).collect())
    }

    /// Gives another name to what `reference` refers to, with its index and its other platforms.
    pub fn copy_name(&self, image: &Image, reference: &str) -> Result<(), StoreError> {
        let others = image.others.iter().map(|other| self.store.other(&image.reference, other));
        let mut documents: Vec<Digest> = image.documents().chain(image.index).chain(image.others.clone()).collect();
        for other in others {
            match other? {
                Other::Image(image) => documents.extend(image.documents()),
                Other::Documents(needed) => documents.extend(needed),
            }
        }
        // They may be in an additional store only.
        documents.iter().try_for_each(|document| self.store.adopt_document(document))?;
        let named = Named { manifest: image.manifest_digest, index: image.index, others: image.others.clone() };
        self.name(reference, &named)
    }
}

impl Store {
    /// Returns what a name of this store refers to: the name itself, or, if it has a digest, a name of the same repository
    /// with that digest.
    pub(super) fn own_named(&self, reference: &str) -> Result<Named, StoreError> {
        let path = self.layout.image(reference);
        if let Some(file) = ImageFile::read(&path)? {
            self.check_name(&path, &file)?;
            if file.reference != reference {
                let cause = format!("it is the name {:?}", file.reference);
                return Err(StoreError::Document { path, cause });
            }
            return Ok(file.named());
        }
        let missing = || StoreError::NoSuchImage(reference.to_owned());
        let wanted: Reference = reference.parse().map_err(|_| missing())?;
        if wanted.digest().is_none() {
            return Err(missing());
        }
        let names = self.own_images()?;
        names.iter().find_map(|image| self.named_by_digest(image, &wanted)).ok_or_else(missing)
    }

    /// Returns what a name refers to if it is one of the same repository and has the digest of `wanted`.
    fn named_by_digest(&self, image: &ImageSummary, wanted: &Reference) -> Option<Named> {
        let digest = wanted.digest()?;
        let name: Reference = image.reference.parse().ok()?;
        if (name.registry(), name.repository()) != (wanted.registry(), wanted.repository()) {
            return None;
        }
        let main = image.manifest_digest;
        let named = Named { manifest: main, index: image.index, others: image.others.clone() };
        let is_index = || image.index == Some(digest) && self.index_lists(&digest, &main, 0);
        if main == digest || is_index() {
            return Some(named);
        }
        let is_other =
            image.others.contains(&digest) && matches!(self.other(&image.reference, &digest), Ok(Other::Image(_)));
        let others = || image.others.iter().copied().filter(|other| *other != digest).chain([main]).collect();
        is_other.then(|| Named { manifest: digest, others: others(), ..named })
    }

    /// Fails if, in a store of another user, a name with a digest leads to a manifest that has neither that digest nor is
    /// listed in the index with that digest.
    pub(super) fn check_name(&self, path: &Path, file: &ImageFile) -> Result<(), StoreError> {
        let promised = file.reference.parse::<Reference>().ok().and_then(|reference| reference.digest());
        let keeps = |promised: Digest| {
            promised == file.manifest
                || (file.index == Some(promised) && self.index_lists(&promised, &file.manifest, 0))
        };
        if !self.is_source || promised.is_none_or(keeps) {
            return Ok(());
        }
        let cause =
            format!("{:?} leads to {}, and {} can change this", file.reference, file.manifest, self.owner_name());
        Err(StoreError::Document { path: path.to_owned(), cause })
    }

    /// Whether an index lists a manifest, itself or by an index within it. Its bytes are hashed before they are believed.
    fn index_lists(&self, index: &Digest, manifest: &Digest, depth: usize) -> bool {
        let Ok(bytes) = self.images().manifest_bytes(index) else { return false };
        let Ok(Document::Index(index)) = manifest::parse(&bytes, None) else { return false };
        index.entries.iter().filter_map(|entry| entry.descriptor.digest.sha256()).any(|listed| {
            listed == *manifest || (depth < INDEX_DEPTH && self.index_lists(&listed, manifest, depth + 1))
        })
    }

    fn summary(&self, file: ImageFile) -> ImageSummary {
        let ImageFile { reference, manifest, index, others } = file;
        ImageSummary { reference, manifest_digest: manifest, index, others, store: self.root().to_owned() }
    }

    /// Returns the layers of every image that a name leads to. One that cannot be read has none.
    pub(super) fn stacks(&self, reference: &str, named: &Named) -> Vec<Vec<DiffId>> {
        let main = self.image_by_manifest(reference, &named.manifest).map(|image| image.layers).unwrap_or_default();
        let others = named.others.iter().filter_map(|other| match self.other(reference, other) {
            Ok(Other::Image(image)) => Some(image.layers),
            _ => None,
        });
        std::iter::once(main).chain(others).collect()
    }

    /// Reads a manifest that is kept besides that of an image.
    pub(super) fn other(&self, reference: &str, digest: &Digest) -> Result<Other, StoreError> {
        let bytes = self.images().manifest_bytes(digest)?;
        match manifest::parse(&bytes, None) {
            Ok(Document::Manifest(_)) => {
                self.image_by_manifest(reference, digest).map(|image| Other::Image(Box::new(image)))
            }
            Ok(Document::Index(_)) => Ok(Other::Documents(vec![*digest])),
            Err(_) => {
                let blobs = manifest::blobs(&bytes).unwrap_or_default();
                let blobs = blobs.iter().filter_map(|blob| blob.digest.sha256());
                Ok(Other::Documents(std::iter::once(*digest).chain(blobs).collect()))
            }
        }
    }

    /// Notes that the store has names that an earlier version would not keep whole.
    pub(super) fn note_others(&self, named: &Named) -> Result<(), StoreError> {
        if named.others.is_empty() { Ok(()) } else { self.use_feature(OTHER_PLATFORMS) }
    }

    /// Returns what a new name refers to: it keeps the other platforms of the one that it replaces, if both come from the same
    /// index.
    pub(super) fn with_kept_others(&self, path: &Path, named: &Named) -> Named {
        let Ok(Some(before)) = ImageFile::read(path) else { return named.clone() };
        if before.others.is_empty() || before.index.is_none() || before.index != named.index {
            return named.clone();
        }
        let mut others = named.others.clone();
        let kept = before.others.into_iter().chain([before.manifest]);
        for other in kept.filter(|other| *other != named.manifest && self.other("", other).is_ok()) {
            if !others.contains(&other) {
                others.push(other);
            }
        }
        Named { others, ..named.clone() }
    }

    /// Returns the names of this store in byte order, and the errors of those that cannot be read.
    pub(super) fn own_names(&self) -> Result<(Vec<ImageSummary>, Vec<StoreError>), StoreError> {
        let directory = self.layout.join("images");
        let (mut images, mut damaged) = (std::collections::BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(&directory).map_err(StoreError::io(&directory))? {
            let path = entry.map_err(StoreError::io(&directory))?.path();
            let file = ImageFile::read(&path)
                .and_then(|file| file.as_ref().map_or(Ok(()), |file| self.check_name(&path, file)).map(|()| file));
            match file {
                Ok(Some(file)) => drop(images.insert(file.reference.clone(), file)),
                Ok(None) => {}
                Err(error) => damaged.push(error),
            }
        }
        Ok((images.into_values().map(|file| self.summary(file)).collect(), damaged))
    }
}
