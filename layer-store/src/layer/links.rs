//! Binds the hard links of a layer whose targets came after them, or come from the layers below.

use super::nodes::Target;
use super::refusal::{Cause, EntryRefused};
use super::tree::TreeBuilder;
use crate::Kind;

impl TreeBuilder {
    /// Binds every pending link: to an inode of this layer, through other pending links if need be, or,
    /// where this layer has no such path, to the layers below. Links in directories that are not `reachable`, because
    /// a later entry took their place, need no target.
    pub(super) fn bind_pending_links(&mut self, reachable: &[bool]) -> Result<(), EntryRefused> {
        for slot in self.slots.iter_mut().filter(|slot| matches!(slot.target, Target::Pending(_))) {
            if !reachable.get(slot.dir as usize).copied().unwrap_or_default() {
                slot.target = Target::Nothing;
            }
        }
        // The walk on which a link was met last, so that each link is looked at once.
        let mut met = vec![None; self.pending.len()];
        for first in 0..self.pending.len() {
            self.bind(first, &mut met)?;
        }
        Ok(())
    }

    /// Follows the chain of pending links from `first` and gives all of them what the last one leads to.
    fn bind(&mut self, first: usize, met: &mut [Option<usize>]) -> Result<(), EntryRefused> {
        let mut chain: Vec<u32> = Vec::new();
        let mut current = first;
        let end = loop {
            let Some((link, met)) = self.pending.get(current).zip(met.get_mut(current)) else { return Ok(()) };
            let number = u32::try_from(current).unwrap_or(u32::MAX);
            if self.target(link.slot) != Target::Pending(number) {
                // A later entry took the name.
                return Ok(());
            }
            if met.replace(first) == Some(first) {
                return Err(self.refuse(first, Cause::LinkLoop));
            }
            chain.push(link.slot);
            let foreign = Target::Foreign(number);
            match self.resolve(&link.target) {
                // A link to itself means the file that a lower layer has under this name.
                Some(found) if found == link.slot => break foreign,
                Some(found) => match self.target(found) {
                    Target::Pending(next) => current = next as usize,
                    Target::Inode(inode) => {
                        if self.inode(inode).is_some_and(|inode| inode.kind == Kind::Directory) {
                            return Err(self.refuse(first, Cause::LinkToDirectory));
                        }
                        break Target::Inode(inode);
                    }
                    Target::Foreign(next) => break Target::Foreign(next),
                    Target::Nothing => break foreign,
                },
                None => break foreign,
            }
        };
        for slot in chain {
            self.point(slot, end);
        }
        Ok(())
    }

    fn refuse(&self, link: usize, cause: Cause) -> EntryRefused {
        EntryRefused::new(self.pending.get(link).map_or(&[], |link| link.path.as_bytes()), cause)
    }
}
