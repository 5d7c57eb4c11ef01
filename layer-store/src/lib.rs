//! Stores every OCI image layer once and shows a stack of layers as one read-only tree.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod archive;
mod attr;
mod base;
mod base_id;
mod digest;
mod directory_layer;
mod durable;
mod erofs;
mod error;
mod export;
mod fault;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod ingest;
mod layer;
mod lease;
mod lock;
mod lock_holder;
mod mapped;
#[cfg(target_os = "linux")]
mod materialize;
mod observer;
mod oci;
mod policy;
pub mod printable;
mod push;
mod reference;
mod registries;
mod registry;
mod regular;
mod remove;
mod section_file;
mod sharing;
mod space;
mod store;
mod tar;
pub mod user_dirs;
mod view;

pub use archive::{
    ConfigChange, ConfigChangeError, Form, ImportError, ImportOptions, ImportSource, Located, RootfsOptions,
};
pub use attr::{Attr, Ino, Kind, Timestamp};
pub use base_id::{BaseId, BaseIdError};
pub use digest::{BlobDigest, DiffId, Digest, DigestError};
pub use erofs::{BlockDevice, ErofsError, ErofsSummary};
pub use error::StoreError;
pub use export::ExportError;
pub use fault::FaultPoint;
pub use ingest::{ExpectedLayer, IngestError, IngestedLayer, LimitExceeded, Limits};
#[cfg(target_os = "linux")]
pub use materialize::{MaterializeError, MaterializeOptions, Materialized};
pub use observer::{Cancellation, LayerProgress, LayerState, Observer, Silent};
pub use oci::platform::{Platform, PlatformError};
pub use oci::{Acquired, AcquiredLayer, ImageError, LayerSource, Origin};
pub use oci_spec::image::ImageConfiguration;
pub use policy::{ImagePolicy, PolicyError, PolicyFiles};
pub use push::{Packing, PushError, PushOptions, Pushed, PushedLayer, Transfer};
pub use reference::{Reference, ReferenceError};
pub use registries::{Registries, RegistriesError, RegistriesFiles};
pub use registry::{Login, LoginError, Logins, Logout, Patience, PullError, PullOptions, Server};
pub use space::Shortage;
#[cfg(target_os = "linux")]
pub use store::TreeError;
pub use store::{
    Bases, BlockImageError, Collected, Damage, Footprint, Garbage, GarbageKind, Image, ImageSummary, ImageUsage,
    Images, LayerLock, LayerUsage, Layers, Pin, PinUsage, Pins, Provenance, RepairError, Store, Usage,
};
pub use view::{CopyError, DirEntry, Entries, Totals, View, ViewError};
