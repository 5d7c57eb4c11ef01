//! Keeps every OCI image layer once and shows a stack of layers as one read-only tree.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod attr;
mod base;
mod container;
mod digest;
mod layer;
mod mapped;
mod tar;
mod view;

pub use attr::{Attr, Ino, Kind, Timestamp};
pub use base::{BaseId, BaseIdError};
pub use digest::{DiffId, Digest, DigestError};
pub use view::{DirEntry, Entries, Totals, View, ViewError, XattrNames};
