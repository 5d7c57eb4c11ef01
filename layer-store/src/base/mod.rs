//! The merge of a stack of layers, and the base that stores it.
//!
//! # The rule
//!
//! **The merged tree equals what kernel overlayfs shows when every layer is a lower directory**, in which
//! whiteouts are character devices 0/0 and opaque directories carry the opaque attribute. Each layer's own tree
//! is built first (the last entry of a path wins inside a layer), then the trees are merged directory by
//! directory in two passes: whiteouts and opaque flags of the upper layer act on the lower result, then the upper
//! entries are added. The order of entries in a tar therefore never changes the result.
//!
//! # Decisions
//!
//! Where implementations disagree, or where overlayfs does not apply:
//!
//! - *A directory over something that is not a directory* hides it, and also hides any directory in the layers below
//!   that.
//! - *A whiteout next to a directory of the same name* in one layer makes the directory opaque; next to
//!   anything else it has no effect.
//! - *A path through a name that is a symbolic link in a lower layer* makes a directory that replaces the link.
//!   Unpackers that extract into the merged tree follow the link instead.
//! - *A directory that a layer implies but does not describe* takes its attributes from the next lower layer that
//!   has it as a directory; if no layer does, it is `0755 root:root` with time 0.
//! - *A directory that would contain only whiteouts* (a "ghost") is not created by them.
//! - *A hard link to a file of a lower layer* is another name of the inode that the layers below the linking layer
//!   have there. A target that no lower layer has is an error that names the link.
//! - *Symbolic links in the directory of a hard link's target* are followed within the image's root, as umoci and
//!   containerd do: at most 40, first those that come before the link in the layer itself, then those in the merge of
//!   the layers below it. The resulting path is looked up in the layer itself first, then below. Symbolic links that
//!   come later in the layer count only if they lead to a file of the layer. The last name is not followed.
//! - *The link count* is the number of names that are visible in the merged tree (overlayfs without an index shows
//!   that of the lower directory's inode). For a directory it is 2 plus its subdirectories, as on ext4.
//! - *A real character device 0/0* is a device and deletes nothing: the image format marks deletion by names.
//! - *Extended attributes private to overlayfs* (`trusted.overlay.*`, `user.overlay.*`) are not shown, as
//!   overlayfs does not show them, so that an overlay over the view does not act on those from an image.

mod check;
mod format;
mod index;
mod links;
mod merge;
mod stack;
mod write;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use format::FORMAT;
pub(crate) use index::{Base, BaseDir, BaseTarget};
pub(crate) use merge::MergedTree;
