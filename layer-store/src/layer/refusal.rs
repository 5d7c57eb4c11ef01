//! Why an entry is refused.

use crate::tar::PathError;

/// A refused entry, with its name. A layer that contains it is not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {path:?}: {cause}")]
pub(crate) struct EntryRefused {
    /// The path as the archive writes it, lossy if it is not UTF-8.
    path: String,
    cause: Cause,
}

impl EntryRefused {
    pub(super) fn new(path: &[u8], cause: Cause) -> Self {
        // A path may be as long as a mebibyte, which is too long for a message.
        let shown = path.get(..256).unwrap_or(path);
        Self { path: String::from_utf8_lossy(shown).into_owned(), cause }
    }
}

impl EntryRefused {
    /// Returns the inode limit, if the entry was refused because of it.
    pub(crate) fn inode_limit(&self) -> Option<u32> {
        match self.cause {
            Cause::TooManyInodes(most) => Some(most),
            _ => None,
        }
    }
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cause {
    #[error("{0}")]
    Path(PathError),
    #[error("its link target cannot be followed: {0}")]
    LinkTarget(PathError),
    #[error("it is a hard link to a directory")]
    LinkToDirectory,
    #[error("its hard links form a cycle")]
    LinkLoop,
    #[error("the layer's hard links lead through too many symbolic links")]
    TooManySymlinks,
    #[error("it is a whiteout of an empty name, of \".\" or of \"..\"")]
    InvalidWhiteout,
    #[error("it is below a whiteout")]
    BelowMarker,
    #[error("the root of a layer must be a directory")]
    RootNotDirectory,
    #[error("the target of a symbolic link has 1 to 4095 bytes and no NUL")]
    SymlinkTarget,
    #[error("a file has at most 2^63 - 1 bytes")]
    FileTooLarge,
    #[error("extended attribute {0}")]
    Xattr(String),
    #[error("the layer has more than {0} inodes")]
    TooManyInodes(u32),
    #[error("the layer has more than 1 GiB of names, link targets and extended attributes")]
    TooManyNames,
}
