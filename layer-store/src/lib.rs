//! Keeps every OCI image layer once and shows a stack of layers as one read-only tree.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod archive;
mod attr;
mod base;
mod blocks;
mod container;
mod content;
mod digest;
mod directory_layer;
mod durable;
mod export;
mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod ingest;
mod layer;
mod lease;
mod mapped;
mod oci;
mod progress;
mod reference;
mod registry;
mod sharing;
mod store;
mod tar;
mod view;

pub use archive::{ImportError, ImportOptions, ImportSource};
pub use attr::{Attr, Ino, Kind, Timestamp};
pub use base::{BaseId, BaseIdError};
pub use digest::{DiffId, Digest, DigestError};
pub use export::ExportError;
pub use fault::FaultPoint;
pub use ingest::{ExpectedLayer, IngestError, IngestedLayer};
pub use oci::platform::{Platform, PlatformError};
pub use oci::{Acquired, AcquiredLayer, ImageError, LayerSource, Origin};
pub use oci_spec::image::ImageConfiguration;
pub use progress::{Cancellation, LayerProgress, LayerState, Progress, Silent};
pub use reference::{Reference, ReferenceError};
pub use registry::{Patience, PullError, PullOptions};
pub use store::{
    Collected, Damage, Garbage, GarbageKind, Image, ImageSummary, ImageUsage, LayerLock, LayerUsage, Limits,
    RepairError, Store, StoreError, Usage,
};
pub use view::{DirEntry, Entries, Totals, View, ViewError};
