//! Keeps every OCI image layer once and shows a stack of layers as one read-only tree.

mod attr;
mod digest;
mod view;

pub use attr::{Attr, Ino, Kind, Timestamp};
pub use digest::{DiffId, Digest, DigestError};
pub use view::{DirEntry, Entries, Totals, View, ViewError, XattrNames};
