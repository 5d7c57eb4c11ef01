//! The meaning of a name in a layer: an ordinary entry, a whiteout, or a file left by AUFS.
//!
//! Image specification, `layer.md`, "Whiteouts".

/// The prefix of all markers.
const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// The name that makes its directory opaque. With one dot less, `.wh..wh.opq` is the whiteout of `.wh.opq`.
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

/// Names at a layer's root under which AUFS kept its own files. They are not part of the tree, but hard links
/// may refer to files in the first.
const AUFS_NAMES: [&[u8]; 3] = [b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh.orph"];

/// Extended attributes with which overlayfs itself marks whiteouts, opaque directories and redirects
/// (`fs/overlayfs/overlayfs.h`). Kernel overlayfs never shows them, and a guest that uses the view as a
/// lower directory must not act on those from an image.
const PRIVATE_XATTR_PREFIXES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// The meaning of the last component of an entry's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<'path> {
    /// An ordinary name.
    Ordinary,
    /// A whiteout, which deletes this name from the layers below.
    Whiteout(&'path [u8]),
    /// The directory hides everything that the layers below have in it.
    Opaque,
    /// A whiteout of nothing, of `.` or of `..`.
    Invalid,
}

impl<'path> Name<'path> {
    pub(super) fn of(name: &'path [u8]) -> Self {
        match name.strip_prefix(WHITEOUT_PREFIX) {
            None => Self::Ordinary,
            Some(_) if name == OPAQUE_MARKER => Self::Opaque,
            Some(b"" | b"." | b"..") => Self::Invalid,
            Some(whited) => Self::Whiteout(whited),
        }
    }
}

/// Whether `name` at the root of a layer belongs to AUFS.
pub(super) fn is_aufs(name: &[u8]) -> bool {
    AUFS_NAMES.contains(&name)
}

/// Whether an extended attribute is private to overlayfs.
pub(super) fn is_private_xattr(name: &[u8]) -> bool {
    PRIVATE_XATTR_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_told_apart() {
        assert_eq!(Name::of(b"a"), Name::Ordinary);
        assert_eq!(Name::of(b".wh"), Name::Ordinary);
        assert_eq!(Name::of(b".wh.a"), Name::Whiteout(b"a"));
        assert_eq!(Name::of(b".wh.\xff"), Name::Whiteout(b"\xff"));
        assert_eq!(Name::of(b".wh..wh..opq"), Name::Opaque);
        assert_eq!(Name::of(b".wh..wh.opq"), Name::Whiteout(b".wh.opq"));
        for invalid in [&b".wh."[..], b".wh..", b".wh..."] {
            assert_eq!(Name::of(invalid), Name::Invalid);
        }
    }
}
