//! The merge of a stack of layers, and the base that keeps it.
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
//! Where implementations disagree, or overlayfs has no word on it:
//!
//! - *A directory over anything else* hides it: nothing of an older directory below shows through.
//! - *A whiteout beside a directory of the same name* in one layer makes the directory opaque; beside
//!   anything else it is moot.
//! - *A path below what a lower layer has as a symbolic link* makes a directory that replaces the link. Unpackers
//!   that run over the merged tree follow the link instead.
//! - *A directory that a layer implies but does not describe* takes its attributes from the next layer below that
//!   has it as a directory; where none has, it is `0755 root:root` of 1970.
//! - *A directory that would hold nothing but whiteouts* (a "ghost") is not created by them.
//! - *A hard link to a file of a lower layer* is another name of that very inode, as it stood below the layer that
//!   links to it. A target that no lower layer has is an error that names the link.
//! - *Symbolic links in the directory of a hard link's target* are followed within the image's root, as umoci and
//!   containerd do: at most 40, first those that the layer itself has in front of the link, then those of the merge of the
//!   layers below it. The path that results is looked up in the layer itself first, then below. Symbolic links that come
//!   later in the layer count only if they lead to a file of the layer. The last name is not followed.
//! - *The link count* is the number of names that are visible in the merged tree (overlayfs without an index shows
//!   that of the lower directory's inode). A directory's is 2 plus its subdirectories, as on ext4.
//! - *A real character device 0/0* is a device and deletes nothing: the image format marks deletion by names.
//! - *Extended attributes private to overlayfs* (`trusted.overlay.*`, `user.overlay.*`) are not shown, as
//!   overlayfs does not show them, so that an overlay over the view does not obey an image's.

mod check;
mod format;
mod index;
mod links;
mod merge;
mod stack;
mod write;

#[cfg(feature = "fuzzing")]
pub(crate) use format::FORMAT;
pub(crate) use index::{Base, BaseDir, BaseTarget};
pub(crate) use merge::MergedTree;
