//! Puts a layer's tree into the order of its index.

use super::names::is_aufs;
use super::nodes::{NONE, NameSlot, ROOT, SlotTarget};
use super::tree::TreeBuilder;
use crate::Kind;

/// What a name of a directory becomes in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Visible(u32),
    Ghost(u32),
    Whiteout,
    Foreign(u32),
}

/// The names of every directory, indexed by the directory's inode.
#[derive(Debug)]
pub(super) struct Children {
    /// The position in `slots` of the first slot of inode n; has one more element than there are inodes.
    starts: Vec<u32>,
    slots: Vec<u32>,
}

impl Children {
    /// Sorts all slots by directory and then by name.
    pub(super) fn of(tree: &TreeBuilder) -> Self {
        let mut starts = vec![0u32; tree.inodes.len() + 1];
        for slot in &tree.slots {
            if let Some(count) = starts.get_mut(slot.dir as usize + 1) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut next = starts.clone();
        let mut slots = vec![0u32; tree.slots.len()];
        for (number, slot) in (0u32..).zip(&tree.slots) {
            if let Some(place) = next.get_mut(slot.dir as usize) {
                if let Some(element) = slots.get_mut(*place as usize) {
                    *element = number;
                }
                *place += 1;
            }
        }
        let mut children = Self { starts, slots };
        for dir in 0..tree.inodes.len() {
            let range = children.range(dir);
            if let Some(slots) = children.slots.get_mut(range) {
                slots.sort_unstable_by(|&a, &b| slot_name(tree, a).cmp(slot_name(tree, b)));
            }
        }
        children
    }

    /// Returns which directories a walk from the root visits. Later entries may have made others unreachable.
    pub(super) fn reachable(&self, tree: &TreeBuilder) -> Vec<bool> {
        let mut met = vec![false; tree.inodes.len()];
        set(&mut met, ROOT, true);
        let mut todo = vec![ROOT];
        while let Some(dir) = todo.pop() {
            let numbers = self.slots.get(self.range(dir as usize)).unwrap_or_default();
            let slots = numbers.iter().filter_map(|&number| tree.slots.get(number as usize));
            for child in slots.filter_map(|slot| directory(tree, slot)) {
                set(&mut met, child, true);
                todo.push(child);
            }
        }
        met
    }

    fn range(&self, dir: usize) -> std::ops::Range<usize> {
        let at = |index: usize| self.starts.get(index).map_or(0, |&start| start as usize);
        at(dir)..at(dir + 1)
    }

    fn slots<'plan>(&'plan self, tree: &'plan TreeBuilder, dir: u32) -> impl Iterator<Item = &'plan NameSlot> {
        let numbers = self.slots.get(self.range(dir as usize)).unwrap_or_default();
        numbers
            .iter()
            .filter_map(|&number| tree.slots.get(number as usize))
            .filter(move |slot| dir != ROOT || !is_aufs(tree.name(slot)))
    }
}

fn slot_name(tree: &TreeBuilder, slot: u32) -> &[u8] {
    tree.slots.get(slot as usize).map_or(&[], |slot| tree.name(slot))
}

/// The order of inodes and entries in the index.
#[derive(Debug)]
pub(super) struct Plan {
    children: Children,
    /// The tree's inodes, indexed by their number in the index.
    pub(super) order: Vec<u32>,
    /// The numbers in the index, indexed by inode of the tree; `NONE` for inodes that no longer have a name.
    numbers: Vec<u32>,
    ghosts: Vec<bool>,
    foreign_below: Vec<bool>,
}

impl Plan {
    pub(super) fn of(tree: &TreeBuilder) -> Self {
        let mut plan = Self {
            children: Children::of(tree),
            order: Vec::with_capacity(tree.inodes.len()),
            numbers: vec![NONE; tree.inodes.len()],
            ghosts: vec![false; tree.inodes.len()],
            foreign_below: vec![false; tree.inodes.len()],
        };
        plan.find_ghosts(tree);
        plan.number(tree);
        plan
    }

    /// Finds ghosts, from the deepest directories upwards: a ghost contains only whiteouts and ghosts.
    fn find_ghosts(&mut self, tree: &TreeBuilder) {
        let mut dirs = vec![ROOT];
        let mut at = 0;
        while let Some(&dir) = dirs.get(at) {
            dirs.extend(self.children.slots(tree, dir).filter_map(|slot| directory(tree, slot)));
            at += 1;
        }
        for &dir in dirs.iter().rev() {
            let implicit = tree.inode(dir).is_some_and(|inode| inode.implicit);
            let (mut ghost, mut foreign) = (implicit, false);
            for slot in self.children.slots(tree, dir) {
                match slot.target {
                    SlotTarget::Inode(inode) => {
                        ghost &= flag(&self.ghosts, inode);
                        foreign |= flag(&self.foreign_below, inode);
                    }
                    SlotTarget::Foreign(_) => (ghost, foreign) = (false, true),
                    SlotTarget::Nothing | SlotTarget::Pending(_) => {}
                }
            }
            set(&mut self.ghosts, dir, ghost && dir != ROOT);
            set(&mut self.foreign_below, dir, foreign);
        }
    }

    /// Numbers the inodes in the order of a walk: all children of a directory before their own children.
    fn number(&mut self, tree: &TreeBuilder) {
        Self::give(&mut self.numbers, &mut self.order, ROOT);
        let mut stack = vec![ROOT];
        while let Some(dir) = stack.pop() {
            let mut below = Vec::new();
            for control in [false, true] {
                for slot in self.children.slots(tree, dir) {
                    let inode = match self.role(slot) {
                        Some(Role::Visible(inode)) if !control => inode,
                        Some(Role::Ghost(inode)) if control => inode,
                        _ => continue,
                    };
                    if self.numbers.get(inode as usize) == Some(&NONE) {
                        Self::give(&mut self.numbers, &mut self.order, inode);
                    }
                    below.extend(directory(tree, slot));
                }
            }
            stack.extend(below.into_iter().rev());
        }
    }

    fn give(numbers: &mut [u32], order: &mut Vec<u32>, inode: u32) {
        if let Some(number) = numbers.get_mut(inode as usize) {
            // Inodes are counted in 32 bits when they are made.
            *number = u32::try_from(order.len()).unwrap_or(NONE);
            order.push(inode);
        }
    }

    /// Returns what a slot becomes in the index; `None` if nothing.
    fn role(&self, slot: &NameSlot) -> Option<Role> {
        match slot.target {
            SlotTarget::Inode(inode) if flag(&self.ghosts, inode) && slot.whited => Some(Role::Whiteout),
            SlotTarget::Inode(inode) if flag(&self.ghosts, inode) => Some(Role::Ghost(inode)),
            SlotTarget::Inode(inode) => Some(Role::Visible(inode)),
            SlotTarget::Foreign(link) => Some(Role::Foreign(link)),
            SlotTarget::Nothing | SlotTarget::Pending(_) => slot.whited.then_some(Role::Whiteout),
        }
    }

    /// Returns the names of a directory in byte order, with what they become in the index.
    pub(super) fn names<'plan>(
        &'plan self,
        tree: &'plan TreeBuilder,
        dir: u32,
    ) -> impl Iterator<Item = (&'plan NameSlot, Role)> {
        self.children.slots(tree, dir).filter_map(|slot| self.role(slot).map(|role| (slot, role)))
    }

    /// Returns the number of an inode in the index.
    pub(super) fn number_of(&self, inode: u32) -> u32 {
        self.numbers.get(inode as usize).copied().unwrap_or(NONE)
    }

    pub(super) fn is_ghost(&self, inode: u32) -> bool {
        flag(&self.ghosts, inode)
    }

    pub(super) fn has_foreign_below(&self, inode: u32) -> bool {
        flag(&self.foreign_below, inode)
    }
}

fn directory(tree: &TreeBuilder, slot: &NameSlot) -> Option<u32> {
    match slot.target {
        SlotTarget::Inode(inode) if tree.inode(inode)?.kind == Kind::Directory => Some(inode),
        _ => None,
    }
}

fn flag(flags: &[bool], inode: u32) -> bool {
    flags.get(inode as usize).copied().unwrap_or_default()
}

fn set(flags: &mut [bool], inode: u32, value: bool) {
    if let Some(flag) = flags.get_mut(inode as usize) {
        *flag = value;
    }
}
