//! Resolves a layer's hard links: those through symbolic links in the directory of the target, and those to targets
//! that came later in the archive or that the layers below have.

use super::nodes::{Payload, ROOT, SlotTarget};
use super::refusal::{Cause, EntryRefused};
use super::tree::TreeBuilder;
use crate::Kind;
use crate::tar::NormalPath;

/// How many symbolic links one path may lead through: as many as Linux follows.
pub(crate) const SYMLINKS_MAX: usize = 40;

/// How many bytes of paths the links of one layer may walk again because of symbolic links: a few seconds of work.
const FOLLOWED_MAX: u64 = 1 << 26;

impl TreeBuilder {
    /// Binds every pending link: to an inode of this layer, through other pending links if necessary, or, if this layer
    /// has no such path, to the layers below. Links in directories that are not `reachable`, because a later entry
    /// replaced them, need no target.
    pub(super) fn bind_pending_links(&mut self, reachable: &[bool]) -> Result<(), EntryRefused> {
        for slot in self.slots.iter_mut().filter(|slot| matches!(slot.target, SlotTarget::Pending(_))) {
            if !reachable.get(slot.dir as usize).copied().unwrap_or_default() {
                slot.target = SlotTarget::Nothing;
            }
        }
        // The last walk that visited each link, so that each link is visited once.
        let mut met = vec![None; self.pending.len()];
        for first in 0..self.pending.len() {
            self.bind(first, &mut met)?;
        }
        Ok(())
    }

    /// Follows the symbolic links of this layer in the directory part of a link target. The last name is not followed:
    /// a hard link to a symbolic link is a second name of the symbolic link.
    ///
    /// If this layer has nothing at a directory of the path, the layers below may have it, so the rest of the path is
    /// left unchanged. Returns `None` for a path through more than [`SYMLINKS_MAX`] symbolic links.
    pub(super) fn follow(&mut self, target: &NormalPath) -> Result<Option<NormalPath>, Cause> {
        let mut path = target.clone();
        for _ in 0..=SYMLINKS_MAX {
            let Some((length, link)) = self.symlink_on(&path) else { return Ok(Some(path)) };
            let next = path.through_link(length, link).map_err(Cause::LinkTarget)?;
            self.followed += path.as_bytes().len() as u64;
            if self.followed > FOLLOWED_MAX {
                return Err(Cause::TooManySymlinks);
            }
            path = next;
        }
        Ok(None)
    }

    /// Finds the first symbolic link in a path. Returns the length of the path to it, and its target.
    fn symlink_on(&self, path: &NormalPath) -> Option<(usize, &[u8])> {
        let (parent, _) = path.split()?;
        let mut dir = ROOT;
        let mut length = 0;
        for component in parent.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            length += component.len();
            let SlotTarget::Inode(inode) = self.target(self.find(dir, component)?) else { return None };
            match self.inode(inode)?.payload {
                Payload::Symlink { start, length: bytes } => {
                    let start = start as usize;
                    return Some((length, self.heap.get(start..start + bytes as usize)?));
                }
                _ if self.inode(inode)?.kind == Kind::Directory => dir = inode,
                _ => return None,
            }
            // Counts the slash.
            length += 1;
        }
        None
    }

    /// Follows the chain of pending links from `first`, and binds all of them to what the last one leads to.
    fn bind(&mut self, first: usize, met: &mut [Option<usize>]) -> Result<(), EntryRefused> {
        let mut chain: Vec<u32> = Vec::new();
        let mut current = first;
        let end = loop {
            let Some((link, met)) = self.pending.get(current).zip(met.get_mut(current)) else { return Ok(()) };
            let number = u32::try_from(current).unwrap_or(u32::MAX);
            if self.target(link.slot) != SlotTarget::Pending(number) {
                // A later entry has replaced the name.
                return Ok(());
            }
            if met.replace(first) == Some(first) {
                return Err(self.refuse(first, Cause::LinkLoop));
            }
            chain.push(link.slot);
            let foreign = SlotTarget::Foreign(number);
            let (slot, target) = (link.slot, link.target.clone());
            let mut found = self.resolve(&target).filter(|found| self.target(*found) != SlotTarget::Nothing);
            if found.is_none() {
                found =
                    self.found_through_later_link(current, slot, &target).map_err(|cause| self.refuse(first, cause))?;
            }
            match found {
                // A link to itself means the file that a lower layer has under this name.
                Some(found) if found == slot => break foreign,
                Some(found) => match self.target(found) {
                    SlotTarget::Pending(next) => current = next as usize,
                    SlotTarget::Inode(inode) => {
                        if self.inode(inode).is_some_and(|inode| inode.kind == Kind::Directory) {
                            return Err(self.refuse(first, Cause::LinkToDirectory));
                        }
                        break SlotTarget::Inode(inode);
                    }
                    SlotTarget::Foreign(next) => break SlotTarget::Foreign(next),
                    SlotTarget::Nothing => break foreign,
                },
                None => break foreign,
            }
        };
        for slot in chain {
            self.point(slot, end);
        }
        Ok(())
    }

    /// Looks for a file of this layer through symbolic links that came after the hard link. A reader that follows the
    /// order of the archive does not see those symbolic links, so what is not found this way is left to the layers
    /// below.
    fn found_through_later_link(&mut self, link: usize, slot: u32, target: &NormalPath) -> Result<Option<u32>, Cause> {
        let Some(followed) = self.follow(target)?.filter(|followed| followed != target) else { return Ok(None) };
        let is_file = |found: &u32| {
            *found != slot && self.target(*found) != SlotTarget::Nothing && self.directory(*found).is_none()
        };
        let Some(found) = self.resolve(&followed).filter(is_file) else { return Ok(None) };
        if let Some(link) = self.pending.get_mut(link) {
            link.target = followed;
        }
        Ok(Some(found))
    }

    fn refuse(&self, link: usize, cause: Cause) -> EntryRefused {
        EntryRefused::new(self.pending.get(link).map_or(&[], |link| link.path.as_bytes()), cause)
    }
}
