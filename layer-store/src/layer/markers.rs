//! Applies a layer's whiteouts and opaque markers to its complete tree.

use super::nodes::{Inode, ROOT, SlotTarget};
use super::refusal::{Cause, EntryRefused};
use super::tree::TreeBuilder;
use crate::Kind;

impl TreeBuilder {
    /// Applies all markers. Their order, and their position among the entries, makes no difference.
    pub(super) fn apply_markers(&mut self) -> Result<(), EntryRefused> {
        for marker in std::mem::take(&mut self.markers) {
            let dir = marker.dir.as_bytes();
            self.apply_marker(dir, marker.whited.as_deref()).map_err(|cause| EntryRefused::new(dir, cause))?;
        }
        self.replace_whited_directories();
        Ok(())
    }

    fn apply_marker(&mut self, dir: &[u8], whited: Option<&[u8]>) -> Result<(), Cause> {
        let Some(dir) = self.directory_for_marker(dir)? else { return Ok(()) };
        match whited {
            Some(name) => {
                let slot = self.slot(dir, name)?;
                if let Some(slot) = self.slots.get_mut(slot as usize) {
                    slot.whited = true;
                }
            }
            None => {
                if let Some(inode) = self.inodes.get_mut(dir as usize) {
                    inode.opaque = true;
                }
            }
        }
        Ok(())
    }

    /// Returns the directory that contains a marker. If the layer has no such directory, creates one that only holds
    /// markers. Returns `None` if a component of the path is not a directory in the layer: the marker has no effect
    /// then.
    fn directory_for_marker(&mut self, path: &[u8]) -> Result<Option<u32>, Cause> {
        let mut dir = ROOT;
        for component in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let slot = self.slot(dir, component)?;
            dir = match (self.directory(slot), self.target(slot)) {
                (Some(dir), _) => dir,
                (None, SlotTarget::Nothing) => {
                    let inode = self.new_inode(Inode::implicit_directory())?;
                    self.point(slot, SlotTarget::Inode(inode));
                    inode
                }
                (None, _) => return Ok(None),
            };
        }
        Ok(Some(dir))
    }

    /// A whiteout next to a directory of the same name means that the layer has replaced the directory: nothing of the
    /// lower directory is visible, not even its attributes.
    fn replace_whited_directories(&mut self) {
        for slot in self.slots.iter().filter(|slot| slot.whited) {
            if let SlotTarget::Inode(number) = slot.target
                && let Some(inode) = self.inodes.get_mut(number as usize)
                && inode.kind == Kind::Directory
            {
                inode.opaque = true;
                inode.replaced = true;
            }
        }
    }
}
