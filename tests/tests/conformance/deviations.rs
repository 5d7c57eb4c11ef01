//! Why an oracle differs. Each reason is here once, with the thread that discusses it, if there is one.

/// Umoci carries out entries in the order of the tar.
pub(crate) const UMOCI_LINKS_IN_TAPE_ORDER: &str = "umoci needs a hard link to come after its target: \
    https://github.com/opencontainers/umoci/issues/29";
/// Umoci follows symbolic links in the parents of an entry.
pub(crate) const UMOCI_FOLLOWS_PARENT_LINKS: &str = "umoci follows a symbolic link in the parents of an entry, within \
    the root: https://github.com/opencontainers/umoci/pull/245";
/// Umoci before 0.5.
pub(crate) const UMOCI_REFUSES_FILE_AS_PARENT: &str = "umoci before 0.5 fails where a parent is not a directory: \
    https://github.com/opencontainers/umoci/issues/546";
/// Umoci makes parents as `mkdir -p` does.
pub(crate) const UMOCI_MAKES_PARENTS_IN_PLACE: &str = "umoci makes missing parents with mkdir: the kernel passes on \
    setgid, and the directory above gets the time of unpacking";
/// Umoci keeps the directory whose content its layer replaces.
pub(crate) const UMOCI_KEEPS_WHITED_OUT_DIRECTORY: &str = "umoci keeps a directory that is whited out after entries \
    in it, as if it were opaque: https://github.com/opencontainers/umoci/issues/546";
/// Umoci does not know AUFS.
pub(crate) const UMOCI_UNPACKS_AUFS: &str = "umoci unpacks the files that AUFS keeps for itself";
/// Umoci does not know global headers.
pub(crate) const UMOCI_REFUSES_GLOBAL_HEADERS: &str = "umoci refuses the entry type g";
/// Umoci removes what is in the way of a link before it links.
pub(crate) const UMOCI_REMOVES_BEFORE_LINKING: &str = "umoci removes what is at the path of a hard link first, and with \
    it the target of a link to itself";
/// Umoci passes whole paths to the kernel.
pub(crate) const UMOCI_USES_WHOLE_PATHS: &str = "umoci passes whole paths to the kernel, which accepts 4,095 bytes";
/// Umoci knows only the types of Go's reader.
pub(crate) const UMOCI_REFUSES_VENDOR_TYPES: &str = "umoci refuses entry types that it does not know";
/// Umoci before 0.5.
pub(crate) const UMOCI_HAS_NO_ZSTD: &str = "umoci before 0.5 knows no zstd layers";
/// Go's reader does not know them.
pub(crate) const UMOCI_IGNORES_LIBARCHIVE_XATTRS: &str = "umoci reads SCHILY.xattr only";
/// The format of an overlay's own layers.
pub(crate) const OVERLAYFS_TAKES_CHAR_0_0_FOR_A_WHITEOUT: &str = "in a directory of overlayfs a character device 0/0 is \
    a whiteout; in an image it is a device: https://docs.kernel.org/filesystems/overlayfs.html";
/// `lgetxattr` of an empty value.
pub(crate) const UMOCI_LOSES_EMPTY_XATTRS: &str = "umoci treats an extended attribute without a value as absent";
/// `user.*` on what is neither a file nor a directory.
pub(crate) const UMOCI_SETS_XATTRS_OF_LINKS: &str = "umoci fails where the host refuses an extended attribute: \
    https://github.com/opencontainers/umoci/issues/49";
/// Nanoseconds in 64 bits.
pub(crate) const UMOCI_TIMES_END_IN_2262: &str = "umoci counts nanoseconds since 1970 in 64 bits";
/// Go's reader cuts digits off.
pub(crate) const UMOCI_CUTS_TIMES_TOWARDS_ZERO: &str = "Go's reader cuts digits off, which rounds up before 1970";
/// Go's reader passes type 7 on.
pub(crate) const UMOCI_REFUSES_OLD_TYPES: &str = "umoci refuses contiguous files (type 7)";
/// Go's reader passes type S on.
pub(crate) const UMOCI_REFUSES_OLD_SPARSE: &str = "umoci refuses sparse files of the old GNU format (type S)";
