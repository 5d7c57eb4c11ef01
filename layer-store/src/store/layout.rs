//! The directory layout of a store.
//!
//! ```text
//! <store>/
//!   store.json                       format and feature flags
//!   lock                             held shared while something is added, exclusively while garbage is collected
//!   images/<hex>.json                one name (see `image_file.rs`); called by the SHA-256 of the canonical reference
//!   manifests/sha256/<hex>           manifests, configs, indexes and attestations, verbatim
//!   layers/sha256/<diffid>/blob      the uncompressed tar; or, where other layers have some of its content:
//!   layers/sha256/<diffid>/thin      the uncompressed tar with holes
//!   layers/sha256/<diffid>/shared    where the bytes of the holes are
//!   layers/sha256/<diffid>/index     the layer index (a cache)
//!   layers/sha256/<diffid>/contents  what content its file holds, by hash (a cache)
//!   layers/sha256/<diffid>/rest      the remnant of a removed layer: what others borrow from it
//!   layers/sha256/<diffid>/sources   JSON: where the layer came from, and in which form
//!   compressed/sha256/<hex>          the DiffID of the layer that came with this digest
//!   indexes/<diffid>                 the index of a layer of another store (a cache; see `additional.rs`)
//!   bases/<base-id>/index            the merge index (a cache)
//!   bases/<base-id>/recipe           JSON: DiffIDs of image and variant
//!   bases/<base-id>/erofs-4          the base as a block image, if one was requested (a cache)
//!   bases/<base-id>/erofs-4.map      the metadata of that image, and where its content is (a cache)
//!   bases/<base-id>/tree-2/root      the base as a directory, if one was requested (a cache); without owners tree-1-own
//!   partial/sha256/<hex>             the first bytes of the layer with this digest, if its transfer ended early (a cache)
//!   leases/<id>                      what a live process uses; locked by that process
//!   pins/<hex>                       what something outside the store uses: see `pins.rs`
//!   locks/<name>                     the lock for one thing that is being made
//!   tmp/<id>/                        where the holder of lease <id> makes things
//! ```
//!
//! Image names never become file names, so a file system that ignores case is not a problem.

use std::path::{Path, PathBuf};

use crate::sharing::blob;
use crate::{BaseId, DiffId, Digest};

/// The paths in one store.
#[derive(Clone, Debug)]
pub(super) struct Layout(PathBuf);

/// The directories that a store has from the start.
pub(super) const DIRECTORIES: [&str; 8] =
    ["images", "manifests/sha256", "layers/sha256", "compressed/sha256", "bases", "leases", "locks", "tmp"];

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    pub(super) fn join(&self, relative: &str) -> PathBuf {
        self.0.join(relative)
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.join("layers/sha256")
    }

    pub(super) fn layer(&self, diff_id: &DiffId) -> PathBuf {
        self.layers().join(diff_id.0.hex())
    }

    pub(super) fn blob(&self, diff_id: &DiffId) -> PathBuf {
        self.layer(diff_id).join(blob::WHOLE)
    }

    pub(super) fn thin(&self, diff_id: &DiffId) -> PathBuf {
        self.layer(diff_id).join(blob::THIN)
    }

    /// Returns the file of a layer's tar, whole or thin; `None` if the layer is not in the store. Opening it fails if it is
    /// not a regular file.
    pub(super) fn tar(&self, diff_id: &DiffId) -> Option<PathBuf> {
        [self.blob(diff_id), self.thin(diff_id)].into_iter().find(|path| path.symlink_metadata().is_ok())
    }

    pub(super) fn contents(&self, diff_id: &DiffId) -> PathBuf {
        self.layer(diff_id).join("contents")
    }

    pub(super) fn layer_index(&self, diff_id: &DiffId) -> PathBuf {
        self.layer(diff_id).join("index")
    }

    /// Returns the path for the index of a layer of another store.
    pub(super) fn borrowed_index(&self, diff_id: &DiffId) -> PathBuf {
        self.borrowed_indexes().join(diff_id.0.hex())
    }

    /// Returns a directory that a new store does not have.
    pub(super) fn borrowed_indexes(&self) -> PathBuf {
        self.join("indexes")
    }

    pub(super) fn compressed(&self, digest: &Digest) -> PathBuf {
        self.join("compressed/sha256").join(digest.hex())
    }

    /// Returns another directory that a new store does not have.
    pub(super) fn partials(&self) -> PathBuf {
        self.join("partial/sha256")
    }

    pub(super) fn manifest(&self, digest: &Digest) -> PathBuf {
        self.join("manifests/sha256").join(digest.hex())
    }

    pub(super) fn image(&self, reference: &str) -> PathBuf {
        self.join("images").join(format!("{}.json", Digest::of(reference.as_bytes()).hex()))
    }

    pub(super) fn base(&self, id: &BaseId) -> PathBuf {
        self.join("bases").join(id.hex())
    }

    /// The number in the name is the version of the image writer; images of another version are rebuilt.
    pub(super) fn block_image(&self, id: &BaseId) -> PathBuf {
        self.base(id).join("erofs-4")
    }

    /// The path of the map of a base's block device, whose bytes are those of the image of the same version.
    pub(super) fn block_map(&self, id: &BaseId) -> PathBuf {
        self.base(id).join("erofs-4.map")
    }

    /// Where earlier versions put block images and maps.
    pub(super) fn old_block_images(&self, id: &BaseId) -> [PathBuf; 5] {
        ["erofs-1", "erofs-2", "erofs-2.map", "erofs-3", "erofs-3.map"].map(|name| self.base(id).join(name))
    }

    /// The path of the tree of a base, with a version in the same way. A tree with owners has the image's privileged
    /// programs and devices, and is in a directory that nobody else can enter.
    #[cfg(target_os = "linux")]
    pub(super) fn tree(&self, id: &BaseId, without_owners: bool) -> PathBuf {
        self.base(id).join(if without_owners { "tree-1-own" } else { "tree-2/root" })
    }

    /// Where an earlier version put a tree with owners, which other users could enter.
    #[cfg(target_os = "linux")]
    pub(super) fn open_tree(&self, id: &BaseId) -> PathBuf {
        self.base(id).join("tree-1")
    }

    pub(super) fn lock(&self, name: &str) -> PathBuf {
        self.join("locks").join(name)
    }

    /// Returns the lock of the process that adds a layer.
    pub(super) fn layer_lock(&self, layer: &DiffId) -> PathBuf {
        self.lock(&format!("layer-{}", layer.0.hex()))
    }
}
