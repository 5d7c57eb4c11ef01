//! Listings, with and without attributes.
//!
//! The `off` of an entry is where a listing continues after it: 1 after `.`, 2 after `..`, then the view's cookie plus 2.

use super::Server;
use crate::reply::Reply;
use crate::request::FuseRequest;
use crate::wire::{Dirent, DirentPlus, EntryOut, ReadIn, padded};
use layer_store::{Ino, Kind};
use rustix::io::Errno;
use zerocopy::IntoBytes;

/// The entries before those of the view: `.` and `..`.
const DOTS: u64 = 2;

/// A name to list.
#[derive(Clone, Copy)]
struct Listed<'a> {
    name: &'a [u8],
    ino: Ino,
    kind: Kind,
    off: u64,
}

impl Server {
    pub(super) fn readdir(&self, request: &FuseRequest<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        self.list(request, reply, |server, listed, room| put_record(&[], listed, server.shown_number(listed.ino), room))
    }

    pub(super) fn readdirplus(&self, request: &FuseRequest<'_>, reply: &mut Reply<'_>) -> Result<(), Errno> {
        self.list(request, reply, |server, listed, room| {
            // Checked first, so that no attributes are fetched for an entry that does not fit.
            if room.len() < padded(size_of::<DirentPlus>() + listed.name.len()) {
                return None;
            }
            put_record(server.attributes(listed).as_bytes(), listed, server.shown_number(listed.ino), room)
        })
    }

    /// Returns the attributes of a listed inode. A `nodeid` of 0 makes the kernel ask with a `LOOKUP`: for `.` and `..`,
    /// which it never takes from a listing, and if the view fails, so that the error shows on that name only.
    fn attributes(&self, listed: Listed<'_>) -> EntryOut {
        if listed.off <= DOTS {
            return EntryOut::default();
        }
        match self.view.attr(listed.ino) {
            Ok(attr) => self.entry(&attr),
            Err(error) => {
                self.errno(&error);
                EntryOut::default()
            }
        }
    }

    /// Writes as many entries as fit. `put` returns the bytes that an entry took, or nothing if it did not fit.
    fn list(
        &self,
        request: &FuseRequest<'_>,
        reply: &mut Reply<'_>,
        put: impl Fn(&Self, Listed<'_>, &mut [u8]) -> Option<usize>,
    ) -> Result<(), Errno> {
        let (wanted, _) = request.structure::<ReadIn>()?;
        let dir = Ino::from_raw(request.header.nodeid);
        let room = reply.room();
        let size = usize::try_from(wanted.size).unwrap_or(usize::MAX).min(room.len());
        let room = room.get_mut(..size).unwrap_or_default();

        let mut used = 0;
        let mut full = false;
        for listed in self.listed(dir, wanted.offset)? {
            match put(self, listed, room.get_mut(used..).unwrap_or_default()) {
                Some(bytes) => used += bytes,
                None => {
                    full = true;
                    break;
                }
            }
        }
        if full && used == 0 {
            return Err(Errno::INVAL);
        }
        reply.extend(used);
        Ok(())
    }

    /// Returns the entries after `offset`, `.` and `..` first.
    fn listed(&self, dir: Ino, offset: u64) -> Result<impl Iterator<Item = Listed<'_>>, Errno> {
        let entries = self.view.entries(dir, offset.saturating_sub(DOTS)).map_err(|error| self.errno(&error))?;
        let this = Listed { name: b".", ino: dir, kind: Kind::Directory, off: 1 };
        let parent = self.view.parent(dir).map_err(|error| self.errno(&error))?;
        let parent = Listed { name: b"..", ino: parent, kind: Kind::Directory, off: 2 };
        let dots = [this, parent].into_iter().filter(move |dot| dot.off > offset);
        Ok(dots.chain(entries.map(|entry| Listed {
            name: entry.name,
            ino: entry.ino,
            kind: entry.kind,
            off: entry.cookie.saturating_add(DOTS),
        })))
    }
}

/// Writes `front`, the entry with the number that it shows, its name and zeros to the beginning of `room`. Returns the bytes used, if they fit.
fn put_record(front: &[u8], listed: Listed<'_>, number: u64, room: &mut [u8]) -> Option<usize> {
    let dirent = Dirent {
        ino: number,
        off: listed.off,
        namelen: u32::try_from(listed.name.len()).ok()?,
        kind: listed.kind.d_type(),
    };
    let bytes = padded(front.len() + size_of::<Dirent>() + listed.name.len());
    let mut rest = room.get_mut(..bytes)?;
    for part in [front, dirent.as_bytes(), listed.name] {
        let (place, after) = rest.split_at_mut_checked(part.len())?;
        place.copy_from_slice(part);
        rest = after;
    }
    rest.fill(0);
    Some(bytes)
}
