//! Extended attributes.

use super::Server;
use crate::reply::Reply;
use crate::request::{Request, name};
use crate::wire::{GetxattrIn, GetxattrOut};
use layer_store::{Ino, View};
use rustix::io::Errno;

/// What `ls -l` asks of every file, and asks no more of a file system that has answered `EOPNOTSUPP` once. The kernel
/// keeps no extended attribute of a FUSE mount, so one file capability in an image would else cost two messages for
/// every file listed, every time.
///
/// Two askers cannot be told so: `execve` wants `security.capability` each time (of mounts without `nosuid`, so of VMs),
/// and overlayfs in a VM `trusted.overlay.metacopy` of every regular file when it first meets it. Both cost nothing
/// only where no inode has any attribute at all.
const OFTEN_ASKED: [&[u8]; 3] = [b"security.selinux", b"system.posix_acl_access", b"system.posix_acl_default"];

/// Those that no inode of `view` has: it does not support them.
pub(super) fn unsupported(view: &View) -> Vec<&'static [u8]> {
    OFTEN_ASKED.into_iter().filter(|name| !view.uses_xattr(name)).collect()
}

impl Server {
    pub(super) fn getxattr(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        self.need_xattrs()?;
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

    pub(super) fn listxattr(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        self.need_xattrs()?;
        let (wanted, _) = request.structure::<GetxattrIn>()?;
        let ino = Ino::from_raw(request.header.nodeid);
        let names = self.view.xattr_names(ino).map_err(|error| self.errno(&error))?;
        // xattr(7): others cannot read what is in this name space (the kernel sees to that), and are not told of it
        // (each file system sees to that).
        let is_root = request.header.uid == 0;
        let names = names.filter(|name| is_root || !name.starts_with(b"trusted."));
        put_sized(wanted, names.flat_map(|name| [name, b"\0".as_slice()]), reply)
    }

    /// `ENOSYS`, which the kernel remembers for the whole mount, where no inode has any.
    fn need_xattrs(&self) -> Result<(), Errno> {
        if self.view.has_xattrs() { Ok(()) } else { Err(Errno::NOSYS) }
    }
}

/// Puts `parts` one behind the other, or only their size where that was asked; `ERANGE` where they are longer than
/// the caller has room for.
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
