//! Merges a stack of layers into the directories to which more than one of them contributes.

use std::collections::HashMap;

use super::format::MERGED;
use super::stack::{Directory, LayerInode, Resolved, Stack};
use crate::layer::LayerIndex;
use crate::{DiffId, Kind};

/// Why a stack cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MergeError {
    #[error("layer {layer}: {link:?} is a hard link to {target:?}, which is not a file in this layer or in one below")]
    LinkTargetMissing { layer: DiffId, link: String, target: String },
    #[error("an image has at most 65534 layers")]
    TooManyLayers,
    #[error("the merged directories have too many names")]
    TooManyNames,
}

/// What a name of a merged directory refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergedTarget {
    Layer(LayerInode),
    Merged(u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct MergedEntry {
    pub(super) name_start: u32,
    pub(super) name_length: u8,
    pub(super) kind: Kind,
    pub(super) target: MergedTarget,
    /// Whether it is another layer's hard link to the inode, and not a name of the inode in its own layer.
    pub(super) foreign: bool,
}

#[derive(Clone, Debug)]
pub(super) struct MergedDir {
    pub(super) attributes: LayerInode,
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) subdirectories: u32,
    pub(super) parent: u32,
}

/// The merged directories of a stack, ready to be written.
#[derive(Debug, Default)]
pub(crate) struct MergedTree {
    pub(super) layers: Vec<DiffId>,
    pub(super) dirs: Vec<MergedDir>,
    pub(super) entries: Vec<MergedEntry>,
    pub(super) heap: Vec<u8>,
    /// Directories of one layer that are directly in a merged one, and which one that is.
    pub(super) attached: HashMap<LayerInode, u32>,
    /// The merged directory that each layer directory is part of.
    pub(super) part_of: HashMap<LayerInode, u32>,
    /// For each file with foreign links, how many more names it has in the merged tree than those from its own layer.
    pub(super) foreign_names: HashMap<LayerInode, u32>,
    /// Link counts that differ from the layer's own.
    pub(super) nlinks: Vec<(LayerInode, u32)>,
}

impl MergedTree {
    /// Merges layers, bottom first.
    pub(crate) fn of<L: AsRef<LayerIndex>>(layers: &[L]) -> Result<Self, MergeError> {
        if layers.len() >= usize::from(MERGED) {
            return Err(MergeError::TooManyLayers);
        }
        let stack = Stack(layers);
        let mut tree =
            Self { layers: layers.iter().map(|layer| layer.as_ref().diff_id()).collect(), ..Self::default() };
        let Some(root) = stack.root() else {
            return Ok(tree);
        };
        tree.add_dir(&root, 0);
        // Directories are numbered when they are found and filled in the order of a walk.
        let mut todo = vec![(0u32, root)];
        while let Some((number, dir)) = todo.pop() {
            let mut below = tree.fill(&stack, number, &dir)?;
            below.reverse();
            todo.append(&mut below);
        }
        tree.count_links(&stack);
        Ok(tree)
    }

    fn add_dir(&mut self, dir: &Directory, parent: u32) -> u32 {
        let number = u32::try_from(self.dirs.len()).unwrap_or(u32::MAX);
        self.dirs.push(MergedDir { attributes: dir.attributes, first: 0, count: 0, subdirectories: 0, parent });
        self.part_of.extend(dir.parts.iter().map(|part| (part.place, number)));
        number
    }

    /// Merges one directory. Returns the merged directories found in it.
    fn fill<L: AsRef<LayerIndex>>(
        &mut self,
        stack: &Stack<'_, L>,
        number: u32,
        dir: &Directory,
    ) -> Result<Vec<(u32, Directory)>, MergeError> {
        let first = position(self.entries.len())?;
        let mut below = Vec::new();
        let mut subdirectories = 0;
        let mut outcome = Ok(());
        stack.each_name(dir, |name, resolved| {
            if outcome.is_err() {
                return;
            }
            let foreign = matches!(resolved, Resolved::Foreign { .. });
            let (kind, target) = match resolved {
                Resolved::Nothing => return,
                Resolved::File { place, kind } => (kind, MergedTarget::Layer(place)),
                Resolved::Directory(dir) => {
                    subdirectories += 1;
                    match straight(stack, &dir) {
                        Some(place) => {
                            self.attached.insert(place, number);
                            (Kind::Directory, MergedTarget::Layer(place))
                        }
                        None => {
                            let child = self.add_dir(&dir, number);
                            below.push((child, dir));
                            (Kind::Directory, MergedTarget::Merged(child))
                        }
                    }
                }
                Resolved::Foreign { layer, target } => match stack.linked_file(layer, target) {
                    Some((place, kind)) => {
                        *self.foreign_names.entry(place).or_default() += 1;
                        (kind, MergedTarget::Layer(place))
                    }
                    None => {
                        outcome = Err(missing_target(stack, layer, name, target));
                        return;
                    }
                },
            };
            outcome = self.push_entry(name, kind, target, foreign);
        });
        outcome?;
        let count = position(self.entries.len())? - first;
        if let Some(dir) = self.dirs.get_mut(number as usize) {
            *dir = MergedDir { first, count, subdirectories, ..dir.clone() };
        }
        Ok(below)
    }

    fn push_entry(&mut self, name: &[u8], kind: Kind, target: MergedTarget, foreign: bool) -> Result<(), MergeError> {
        let name_start = position(self.heap.len())?;
        self.heap.extend_from_slice(name);
        let name_length = u8::try_from(name.len()).map_err(|_| MergeError::TooManyNames)?;
        self.entries.push(MergedEntry { name_start, name_length, kind, target, foreign });
        Ok(())
    }

    pub(super) fn name(&self, entry: &MergedEntry) -> &[u8] {
        let start = entry.name_start as usize;
        self.heap.get(start..start + usize::from(entry.name_length)).unwrap_or_default()
    }
}

/// Returns the layer directory from which a directory can be served without the other layers, if there is one.
fn straight<L: AsRef<LayerIndex>>(stack: &Stack<'_, L>, dir: &Directory) -> Option<LayerInode> {
    let &[part] = dir.parts.as_slice() else { return None };
    let inode = stack.layer(part.place.layer)?.inode(part.place.inode)?;
    let alone = part.place == dir.attributes && !part.ghost && !inode.has_foreign_below();
    alone.then_some(part.place)
}

fn missing_target<L: AsRef<LayerIndex>>(stack: &Stack<'_, L>, layer: u32, name: &[u8], target: &[u8]) -> MergeError {
    MergeError::LinkTargetMissing {
        layer: stack.diff_id(layer).unwrap_or(DiffId(crate::Digest::from_bytes([0; 32]))),
        link: String::from_utf8_lossy(name).into_owned(),
        target: String::from_utf8_lossy(target).into_owned(),
    }
}

fn position(length: usize) -> Result<u32, MergeError> {
    u32::try_from(length).map_err(|_| MergeError::TooManyNames)
}
