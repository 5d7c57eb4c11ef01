//! Keeps every OCI image layer once and shows a stack of layers as one read-only tree.

mod archive;
mod attr;
mod digest;
mod oci;
mod progress;
mod reference;
mod registry;
mod view;

pub use archive::{ImportError, ImportOptions, ImportSource};
pub use attr::{Attr, Ino, Kind, Timestamp};
pub use digest::{DiffId, Digest, DigestError};
pub use oci::platform::{Platform, PlatformError};
pub use oci::{Acquired, AcquiredLayer, ImageError, LayerSource, Origin};
pub use progress::{Cancellation, LayerProgress, LayerState, Progress, Silent};
pub use reference::{Reference, ReferenceError};
pub use registry::{Patience, PullError, PullOptions};
pub use view::{DirEntry, Entries, Totals, View, ViewError, XattrNames};
