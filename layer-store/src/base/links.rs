//! Counts the names in the merged tree of files that have several.

use std::collections::{BTreeSet, HashSet};

use super::merge::{MergedTarget, MergedTree};
use super::stack::{LayerInode, Stack};
use crate::layer::{LayerIndex, LinkRecord};

impl MergedTree {
    /// Finds every file whose link count in the merged tree differs from that in its own layer.
    pub(super) fn count_links<L: AsRef<LayerIndex>>(&mut self, stack: &Stack<'_, L>) {
        let mut nlinks = Vec::new();
        for (layer, index) in (0u32..).zip(stack.0) {
            let index = index.as_ref();
            for names in index.links().chunk_by(|a, b| a.inode == b.inode) {
                let Some(inode) = names.first().map(|link| link.inode.get()) else { continue };
                let place = LayerInode { layer, inode };
                let visible = names.iter().filter(|link| self.shows(layer, index, link)).count();
                let foreign = self.foreign_names.remove(&place).unwrap_or_default();
                let nlink = u32::try_from(visible).unwrap_or(u32::MAX).saturating_add(foreign);
                if index.inode(inode).is_some_and(|record| record.nlink.get() != nlink) {
                    nlinks.push((place, nlink));
                }
            }
        }
        // Files with only one name in their own layer are not in its link table.
        let shown = self.shown_by_their_only_name(stack);
        for (&place, &foreign) in &self.foreign_names {
            let own = u32::from(shown.contains(&place));
            nlinks.push((place, own.saturating_add(foreign)));
        }
        nlinks.sort_unstable();
        self.nlinks = nlinks;
    }

    /// Whether one name of a layer is visible in the merged tree.
    fn shows(&self, layer: u32, index: &LayerIndex, link: &LinkRecord) -> bool {
        let dir = LayerInode { layer, inode: link.dir.get() };
        match self.part_of.get(&dir) {
            Some(&merged) => self.has_name(merged, index.entry_name(link.entry.get()), layer, link.inode.get()),
            None => self.hangs_below_attached(index, dir),
        }
    }

    /// Whether this name in a merged directory refers to this inode.
    fn has_name(&self, merged: u32, name: &[u8], layer: u32, inode: u32) -> bool {
        let Some(dir) = self.dirs.get(merged as usize) else { return false };
        let (first, count) = (dir.first as usize, dir.count as usize);
        let entries = self.entries.get(first..first + count).unwrap_or_default();
        let found = entries.binary_search_by(|entry| self.name(entry).cmp(name)).ok().and_then(|at| entries.get(at));
        found.is_some_and(|entry| !entry.foreign && entry.target == MergedTarget::Layer(LayerInode { layer, inode }))
    }

    /// Whether a directory to which no other layer contributes is part of the merged tree: it is attached, or, going
    /// up from it, an attached directory comes before any merged one.
    fn hangs_below_attached(&self, index: &LayerIndex, dir: LayerInode) -> bool {
        let mut current = dir;
        loop {
            if self.attached.contains_key(&current) {
                return true;
            }
            let Some(parent) = index.inode(current.inode).map(|inode| inode.parent.get()) else { return false };
            if parent == current.inode || self.part_of.contains_key(&current) {
                return false;
            }
            current.inode = parent;
        }
    }

    /// Of the files for which only foreign links were counted, returns those whose own name is visible. Every layer
    /// with such files is searched only once, regardless of how many there are.
    fn shown_by_their_only_name<L: AsRef<LayerIndex>>(&self, stack: &Stack<'_, L>) -> HashSet<LayerInode> {
        let layers: BTreeSet<u32> = self.foreign_names.keys().map(|place| place.layer).collect();
        let mut shown = HashSet::new();
        for (layer, index) in layers.into_iter().filter_map(|layer| Some((layer, stack.layer(layer)?))) {
            for link in index.names() {
                let place = LayerInode { layer, inode: link.inode.get() };
                if self.foreign_names.contains_key(&place) && self.shows(layer, index, &link) {
                    shown.insert(place);
                }
            }
        }
        shown
    }
}
