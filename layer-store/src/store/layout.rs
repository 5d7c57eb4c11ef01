//! Where things are in a store.
//!
//! ```text
//! <store>/
//!   store.json                       format and feature flags
//!   lock                             held shared by whoever adds, exclusively by whoever collects
//!   images/<hex>.json                one name: SHA-256 of the canonical reference -> manifest digest
//!   manifests/sha256/<hex>           manifests and configs, verbatim
//!   layers/sha256/<diffid>/blob      the uncompressed tar
//!   layers/sha256/<diffid>/index     the layer index (a cache)
//!   layers/sha256/<diffid>/sources   JSON: as what the layer came, and from where
//!   compressed/sha256/<hex>          the DiffID of the layer that came with this digest
//!   bases/<base-id>/index            the merge index (a cache)
//!   bases/<base-id>/recipe           JSON: DiffIDs of image and variant
//!   leases/<id>                      what a live process uses, locked by it
//!   pins/<hex>                       what something outside the store uses: see `pins.rs`
//!   locks/<name>                     one thing that is being made
//!   tmp/<id>/                        where the holder of lease <id> makes things
//! ```
//!
//! No name of an image becomes a file name, so the host's file system may fold case as it likes.

use std::path::{Path, PathBuf};

use crate::{BaseId, DiffId, Digest};

/// The paths of one store.
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
        self.layer(diff_id).join("blob")
    }

    pub(super) fn layer_index(&self, diff_id: &DiffId) -> PathBuf {
        self.layer(diff_id).join("index")
    }

    pub(super) fn compressed(&self, digest: &Digest) -> PathBuf {
        self.join("compressed/sha256").join(digest.hex())
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

    pub(super) fn lock(&self, name: &str) -> PathBuf {
        self.join("locks").join(name)
    }
}
