//! Images: names, manifests and configs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::image::{ImageConfiguration, ImageManifest};

use super::handle::Store;
use super::image_file::ImageFile;
use crate::durable;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::lease::Held;
use crate::oci::sink::Named;
use crate::oci::tolerant;
use crate::regular;
use crate::{BlobDigest, DiffId, Digest, ImageError};

/// An image of the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its canonical name, such as `docker.io/library/debian:12`.
    pub reference: String,
    /// The digest of its manifest.
    pub manifest_digest: Digest,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The digest of its config: its name in the store, whatever algorithm the manifest uses.
    pub config_digest: Digest,
    /// The config: entrypoint, environment, user and so on.
    pub config: ImageConfiguration,
    /// Its layers, bottom first.
    pub layers: Vec<DiffId>,
    /// The digest of the image index that its name referred to where it came from, if it was one.
    pub index: Option<Digest>,
    /// The digests of other manifests of that index that are kept with it: see [`Images::others`].
    pub others: Vec<Digest>,
}

/// A name in the store and its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// The canonical name.
    pub reference: String,
    /// The digest of its manifest.
    pub manifest_digest: Digest,
    /// The digest of the image index that the name referred to where the image came from, if it was one.
    pub index: Option<Digest>,
    /// The digests of other manifests of that index that are kept with it.
    pub others: Vec<Digest>,
    /// The directory of the store that has the name.
    pub store: PathBuf,
}

impl Image {
    /// Returns the digests of its manifest and its config.
    pub(super) fn documents(&self) -> impl Iterator<Item = Digest> {
        [self.manifest_digest, self.config_digest].into_iter()
    }
}

/// The operations on a store's images: see [`Store::images`].
#[derive(Clone, Copy, Debug)]
pub struct Images<'store> {
    pub(crate) store: &'store Store,
}

impl Store {
    /// Returns the operations on its images and those of its additional stores.
    #[must_use]
    pub fn images(&self) -> Images<'_> {
        Images { store: self }
    }
}

impl Images<'_> {
    /// Returns the image with this canonical name: from this store, or else from the first additional store that has
    /// it. The image is kept until this `Store` is dropped, even if the name moves to another image.
    pub fn get(&self, reference: &str) -> Result<Image, StoreError> {
        for store in self.store.each() {
            match store.own_image(reference) {
                // Its layers are held when they are used, because they are copied then.
                Ok(image) if store.is_source => return Ok(image),
                Err(StoreError::NoSuchImage(_)) => {}
                found => {
                    let image = found?;
                    // A missing layer is an error only when it is used.
                    self.store.hold_where_they_are(&image.layers, &[])?;
                    return Ok(image);
                }
            }
        }
        Err(StoreError::NoSuchImage(reference.to_owned()))
    }

    /// Returns all names in byte order: those of this store, and those of additional stores that no earlier store has.
    pub fn list(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let mut images = BTreeMap::new();
        for store in self.store.each() {
            for image in store.own_images()? {
                images.entry(image.reference.clone()).or_insert(image);
            }
        }
        Ok(images.into_values().collect())
    }

    /// Returns why names of this store or of an additional store cannot be read.
    pub fn unreadable(&self) -> Result<Vec<StoreError>, StoreError> {
        let damaged = self.store.each().map(|store| store.own_names().map(|(_, damaged)| damaged));
        Ok(damaged.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Returns a manifest or config, byte for byte. Its digest is verified.
    pub fn manifest_bytes(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let own = self.store.own_manifest_bytes(digest);
        let of_others = || self.store.additional.iter().find_map(|other| other.own_manifest_bytes(digest).ok());
        own.or_else(|error| of_others().ok_or(error))
    }

    /// Stores a manifest or config, byte for byte.
    pub fn put_manifest(&self, document: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(document);
        let path = self.store.layout.manifest(&digest);
        let staging = self.store.staging()?;
        self.store.holding(|| {
            if regular::read(&path, regular::DOCUMENT_MAX).is_ok_and(|kept| kept == document) {
                return Ok(((), vec![Held::Manifest(digest)]));
            }
            let written = staging.path().join("manifest");
            durable::write(&written, document)?;
            fault::point(FaultPoint::ManifestStaged);
            durable::publish(&written, &path)?;
            fault::point(FaultPoint::ManifestPublished);
            Ok(((), vec![Held::Manifest(digest)]))
        })?;
        Ok(digest)
    }

    /// Gives the canonical name `reference` to the image whose manifest has this digest.
    ///
    /// Fails if the target of a hard link in the image does not exist: such an image could not be used.
    pub fn tag(&self, reference: &str, manifest: &Digest) -> Result<(), StoreError> {
        self.name(reference, &Named::of(*manifest))
    }

    /// Does the same for an image with its index, and with what else of the index is in the store.
    pub(crate) fn name(&self, reference: &str, named: &Named) -> Result<(), StoreError> {
        let path = self.store.layout.image(reference);
        let named = self.store.with_kept_others(&path, named);
        // A name that cannot be read does not count, and this replaces it.
        let is_meant = |file: ImageFile| file.reference == reference && file.named() == named;
        // Another process may have moved layers, manifests or configs to their places without having synced them yet.
        durable::sync_directory(&self.store.layout.layers())?;
        durable::sync_directory(&self.store.layout.join("manifests/sha256"))?;
        let stacks = self.store.stacks(reference, &named);
        stacks.iter().try_for_each(|layers| self.store.sync_places(layers))?;
        if ImageFile::read(&path).is_ok_and(|file| file.is_some_and(is_meant)) {
            // The same is true of the name.
            return durable::sync_directory(&self.store.layout.join("images"));
        }
        stacks.iter().try_for_each(|layers| self.store.check_links(layers))?;
        self.store.note_others(&named)?;
        let file = ImageFile::new(reference, &named);
        let staging = self.store.staging()?;
        let written = staging.path().join("image");
        durable::write(&written, &serde_json::to_vec(&file).unwrap_or_default())?;
        fault::point(FaultPoint::ImageStaged);
        // Otherwise a collection could read the names before this one is written, and the leases after this process has
        // ended: it would see neither.
        self.store.holding(|| {
            fs::rename(&written, &path).map_err(StoreError::io(&path))?;
            fault::point(FaultPoint::ImagePublished);
            durable::sync_directory(&self.store.layout.join("images"))?;
            let manifests = [named.manifest].into_iter().chain(named.index).chain(named.others.iter().copied());
            Ok(((), manifests.map(Held::Manifest).collect()))
        })
    }

    /// Removes a name. The next collection deletes what only this name needed.
    pub fn untag(&self, reference: &str) -> Result<(), StoreError> {
        self.store.may_change()?;
        let path = self.store.layout.image(reference);
        match fs::remove_file(&path) {
            Ok(()) => {
                fault::point(FaultPoint::ImageRemoved);
                durable::sync_directory(&self.store.layout.join("images"))
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                let elsewhere =
                    self.store.additional.iter().find(|other| other.layout.image(reference).symlink_metadata().is_ok());
                Err(elsewhere.map_or_else(
                    || StoreError::NoSuchImage(reference.to_owned()),
                    |other| StoreError::OnlyRead { reference: reference.to_owned(), store: other.root().to_owned() },
                ))
            }
            Err(cause) => Err(StoreError::io(&path)(cause)),
        }
    }
}

impl Store {
    fn own_image(&self, reference: &str) -> Result<Image, StoreError> {
        let find = || {
            let Named { manifest, index, others } = self.own_named(reference)?;
            let image = self.image_by_manifest(reference, &manifest)?;
            let documents = image.documents().chain(index).chain(others.iter().copied());
            let held = documents.map(Held::Manifest).chain(image.layers.iter().copied().map(Held::Layer));
            let held = held.collect();
            Ok((Image { index, others, ..image }, held))
        };
        // No lease is taken in a store that is only a source.
        if self.is_source { find().map(|(image, _)| image) } else { self.holding(find) }
    }

    pub(super) fn image_by_manifest(&self, reference: &str, digest: &Digest) -> Result<Image, StoreError> {
        let manifest: ImageManifest = self.document(digest, tolerant::manifest)?;
        let bad = |cause: String| StoreError::Document { path: self.layout.manifest(digest), cause };
        let promised: BlobDigest =
            manifest.config().digest().to_string().parse().map_err(|error| bad(format!("{error}")))?;
        let config_digest = match promised {
            BlobDigest::Sha256(digest) => digest,
            sha512 => {
                let found = self.each().find_map(|store| store.document_by(&sha512, manifest.config().size()));
                found.ok_or_else(|| bad(format!("its config {sha512} is not in the store")))?
            }
        };
        let config: ImageConfiguration = self.document(&config_digest, tolerant::config)?;
        // In a store of another user, the file may have changed since it was found by its other digest.
        if promised.sha256().is_none()
            && promised.of_same_kind(&self.images().manifest_bytes(&config_digest)?) != promised
        {
            return Err(bad(format!("its config {promised} is not in the store")));
        }
        let layers = config.rootfs().diff_ids().iter().map(|diff_id| diff_id.parse()).collect::<Result<_, _>>();
        let layers = layers.map_err(|error: crate::DigestError| StoreError::Document {
            path: self.layout.manifest(&config_digest),
            cause: error.to_string(),
        })?;
        Ok(Image {
            reference: reference.to_owned(),
            manifest_digest: *digest,
            manifest,
            config_digest,
            config,
            layers,
            index: None,
            others: Vec::new(),
        })
    }

    /// Finds the config of `length` bytes with a digest that is not its name in the store (SHA-512).
    fn document_by(&self, digest: &BlobDigest, length: u64) -> Option<Digest> {
        let documents = fs::read_dir(self.layout.join("manifests/sha256")).ok()?;
        let fits = |path: &Path| fs::symlink_metadata(path).is_ok_and(|status| status.len() == length);
        let read = |path: &Path| regular::read(path, regular::DOCUMENT_MAX);
        let is_it = |path: &PathBuf| read(path).is_ok_and(|bytes| digest.of_same_kind(&bytes) == *digest);
        let paths = documents.flatten().map(|entry| entry.path()).filter(|path| fits(path));
        paths.filter(is_it).find_map(|path| Digest::from_hex(path.file_name()?.to_str()?).ok())
    }

    fn own_manifest_bytes(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.layout.manifest(digest);
        let bytes = regular::read(&path, regular::DOCUMENT_MAX).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => StoreError::NoSuchManifest(*digest),
            _ => StoreError::io(&path)(cause),
        })?;
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        Err(StoreError::Document { path, cause: "its content does not have the digest of its name".into() })
    }

    fn document<T>(&self, digest: &Digest, read: fn(&[u8]) -> Result<T, ImageError>) -> Result<T, StoreError> {
        let bytes = self.images().manifest_bytes(digest)?;
        read(&bytes)
            .map_err(|error| StoreError::Document { path: self.layout.manifest(digest), cause: error.to_string() })
    }

    /// Waits until the names of the layers' files are on the disk: they may have been added one by one next to a
    /// remnant.
    pub(super) fn sync_places(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        let own = layers.iter().filter(|layer| self.has_own_layer(layer));
        own.map(|layer| self.layout.layer(layer)).try_for_each(|place| durable::sync_directory(&place))
    }

    /// Returns the names of this store that can be read, in byte order.
    pub(super) fn own_images(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let (images, damaged) = self.own_names()?;
        for error in damaged {
            tracing::warn!("skipped: {error}");
        }
        Ok(images)
    }
}
