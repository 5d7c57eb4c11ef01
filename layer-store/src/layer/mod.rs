//! One layer: the tree that its tar describes, and the index that stores this tree.

mod check;
mod contents;
mod format;
mod index;
mod links;
mod markers;
mod names;
mod nodes;
mod plan;
mod refusal;
mod tree;
mod write;
mod xattrs;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use format::FORMAT;
pub(crate) use format::{InodeRecord, LinkRecord};
pub(crate) use index::{EntryTarget, LayerIndex, NameEntry, Segments};
pub(crate) use links::SYMLINKS_MAX;
pub(crate) use refusal::EntryRefused;
pub(crate) use tree::TreeBuilder;
pub(crate) use write::WriteError;
