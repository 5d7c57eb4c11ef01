//! Extended attributes.

use super::Server;
use crate::reply::Reply;
use crate::request::{FuseRequest, name};
use crate::wire::{GetxattrIn, GetxattrOut};
use layer_store::{Ino, View};
use rustix::io::Errno;

/// The attributes that `ls -l` asks of every file, until a file system answers `EOPNOTSUPP` once. The kernel caches no
/// extended attribute of a FUSE mount, so without this one file capability in an image would cost two messages for
/// every file listed, every time.
///
/// Two callers do not stop asking: `execve` wants `security.capability` each time (on mounts without `nosuid`, so in
/// VMs), and overlayfs in a VM wants `trusted.overlay.metacopy` of every regular file that it meets for the first time.
/// They cost no message only if no inode has any attribute.
const OFTEN_ASKED: [&[u8]; 3] = [b"security.selinux", b"system.posix_acl_access", b"system.posix_acl_default"];

/// Returns those of [`OFTEN_ASKED`] that no inode of `view` has.
pub(super) fn unsupported(view: &View) -> Vec<&'static [u8]> {
    OFTEN_ASKED.into_iter().filter(|name| !view.uses_xattr(name)).collect()
}

impl Server {
    pub(super) fn getxattr(&self, request: &FuseRequest<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        if !self.view.has_xattrs() && !self.namespace.is_some_and(|namespace| namespace.below_fuse_overlayfs) {
            // The kernel remembers this for the whole mount, so that asking again costs no message.
            return Err(Errno::NOSYS);
        }
        let (wanted, rest) = request.structure::<GetxattrIn>()?;
        let ino = Ino::from_raw(request.header.nodeid);
        let name = name(rest)?;
        if self.unsupported_xattrs.contains(&name) {
            return Err(Errno::OPNOTSUPP);
        }
        let value = self.view.xattr(ino, name).map_err(|error| self.errno(&error))?;
        let value = value.ok_or(Errno::NODATA)?;
        put_sized(wanted, std::iter::once(value), reply)
    }

    pub(super) fn listxattr(&self, request: &FuseRequest<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        let (wanted, _) = request.structure::<GetxattrIn>()?;
        let ino = Ino::from_raw(request.header.nodeid);
        let names = self.view.xattr_names(ino).map_err(|error| self.errno(&error))?;
        // xattr(7): only root can read this name space, which the kernel ensures, and only root sees its names, which
        // each file system must ensure. The root of a user namespace cannot.
        let is_root = request.header.uid == 0 && self.namespace.is_none();
        let names = names.filter(|name| is_root || !name.starts_with(b"trusted."));
        put_sized(wanted, names.flat_map(|name| [name, b"\0".as_slice()]), reply)
    }
}

/// Writes `parts` one after the other, or only their size if the caller asked for that. Fails with `ERANGE` if they are
/// longer than the caller has room for.
fn put_sized<'a>(
    wanted: GetxattrIn,
    parts: impl Iterator<Item = &'a [u8]>,
    reply: &mut Reply<'_>,
) -> Result<(), Errno> {
    let mut size = 0_u32;
    for part in parts {
        size = u32::try_from(part.len()).ok().and_then(|more| size.checked_add(more)).ok_or(Errno::TOOBIG)?;
        if wanted.size > 0 {
            if size > wanted.size {
                return Err(Errno::RANGE);
            }
            reply.put(part)?;
        }
    }
    if wanted.size == 0 {
        return reply.put_structure(&GetxattrOut { size, padding: 0 });
    }
    Ok(())
}
