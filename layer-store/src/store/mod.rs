//! The store: one place where layers, indexes, bases and images are kept.

mod additional;
mod adopt;
mod bases;
mod block_device;
mod block_image;
mod commit;
mod disk;
mod features;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod garbage;
mod gc;
mod handle;
mod hashed;
mod image_file;
mod images;
mod layers;
mod layout;
mod lend;
mod names;
mod open;
mod partials;
mod pins;
mod remnant;
mod repair;
mod sink;
#[cfg(target_os = "linux")]
mod tree;
mod untrusted;
mod usage;
mod verify;

pub use bases::Bases;
pub use block_image::BlockImageError;
pub use commit::Provenance;
pub use garbage::{Collected, Garbage, GarbageKind};
pub use handle::Store;
pub use images::{Image, ImageSummary, Images};
pub use layers::{LayerLock, Layers};
pub use pins::{Pin, Pins};
pub use repair::RepairError;
#[cfg(target_os = "linux")]
pub use tree::TreeError;
pub use usage::{Footprint, ImageUsage, LayerUsage, PinUsage, Usage};
pub use verify::Damage;
