//! Binds the hard links of a layer whose targets came after them, or come from the layers below.

use super::refusal::{Cause, EntryRefused};
use super::tree::{Target, TreeBuilder};
use crate::Kind;

impl TreeBuilder {
    /// Binds every pending link: to an inode of this layer, through other pending links if need be, or,
    /// where this layer has no such path, to the layers below.
    pub(super) fn bind_pending_links(&mut self) -> Result<(), EntryRefused> {
        for number in 0..self.pending.len() {
            self.bind(number)?;
        }
        Ok(())
    }

    fn bind(&mut self, first: usize) -> Result<(), EntryRefused> {
        // The slots of a chain a -> b -> c of pending links all get what the last one leads to.
        let mut chain: Vec<u32> = Vec::new();
        let mut current = first;
        let end = loop {
            let Some(link) = self.pending.get(current) else { return Ok(()) };
            let slot = link.slot;
            if self.target(slot) != Target::Pending(u32::try_from(current).unwrap_or(u32::MAX)) {
                // A later entry took the name.
                return Ok(());
            }
            if chain.contains(&slot) {
                return Err(self.refuse(first, Cause::LinkLoop));
            }
            chain.push(slot);
            let foreign = Target::Foreign(u32::try_from(current).unwrap_or(u32::MAX));
            match self.resolve(&link.target) {
                // A link to itself means the file that a lower layer has under this name.
                Some(found) if found == slot => break foreign,
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
            if let Some(slot) = self.slots.get_mut(slot as usize) {
                slot.target = end;
            }
        }
        Ok(())
    }

    fn refuse(&self, link: usize, cause: Cause) -> EntryRefused {
        let name = self.pending.get(link).and_then(|link| self.slots.get(link.slot as usize));
        EntryRefused::new(name.map_or(&[][..], |slot| self.name(slot)), cause)
    }
}
