//! Resolves names in a stack of layers: the core of the merge.

use crate::layer::{EntryTarget, InodeRecord, LayerIndex, NameEntry, SYMLINKS_MAX};
use crate::tar::NormalPath;
use crate::{DiffId, Kind};

/// An inode of one layer of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LayerInode {
    /// The layer, counted from the bottom.
    pub(crate) layer: u32,
    /// The inode in it.
    pub(crate) inode: u32,
}

/// Layers from the bottom to the top.
#[derive(Debug)]
pub(super) struct Stack<'stack, L>(pub(super) &'stack [L]);

/// One layer's part of a directory in the merged tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) place: LayerInode,
    pub(super) ghost: bool,
}

/// A directory of the merged tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directory {
    /// The inode with its attributes.
    pub(super) attributes: LayerInode,
    /// The layer directories whose names are visible in it, topmost first.
    pub(super) parts: Vec<Part>,
}

/// What a name refers to in the merged tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolved<'stack> {
    Nothing,
    File {
        place: LayerInode,
        kind: Kind,
    },
    Directory(Directory),
    /// A hard link in the layer to this path in the layers below it.
    Foreign {
        layer: u32,
        target: &'stack [u8],
    },
}

/// What one layer has under a name.
pub(super) type Statement<'stack> = (u32, EntryTarget<'stack>);

impl<'stack, L: AsRef<LayerIndex>> Stack<'stack, L> {
    pub(super) fn layer(&self, number: u32) -> Option<&'stack LayerIndex> {
        self.0.get(number as usize).map(AsRef::as_ref)
    }

    pub(super) fn diff_id(&self, number: u32) -> Option<DiffId> {
        self.layer(number).map(LayerIndex::diff_id)
    }

    fn is(&self, place: LayerInode, property: fn(&InodeRecord) -> bool) -> bool {
        self.layer(place.layer).and_then(|layer| layer.inode(place.inode)).is_some_and(property)
    }

    /// Returns the root directory, merged from the roots of all layers down to the first opaque one.
    pub(super) fn root(&self) -> Option<Directory> {
        let layers = (0..u32::try_from(self.0.len()).ok()?).rev();
        match self.resolve(layers.map(|layer| (layer, EntryTarget::Inode { number: 0, kind: Kind::Directory }))) {
            Resolved::Directory(root) => Some(root),
            _ => None,
        }
    }

    /// Merges what the layers have under one name, topmost first.
    pub(super) fn resolve(&self, statements: impl Iterator<Item = Statement<'stack>>) -> Resolved<'stack> {
        let mut parts: Vec<Part> = Vec::new();
        let mut attributes = None;
        let mut exists = false;
        // Below an opaque directory, lower ones add no names, but they may still provide its attributes.
        let mut sealed = false;
        for (layer, target) in statements {
            let (number, ghost) = match target {
                EntryTarget::Inode { number, kind: Kind::Directory } => (number, false),
                EntryTarget::Ghost(number) => (number, true),
                EntryTarget::Whiteout => break,
                _ if exists => break,
                EntryTarget::Inode { number, kind } => {
                    return Resolved::File { place: LayerInode { layer, inode: number }, kind };
                }
                EntryTarget::Foreign(target) => return Resolved::Foreign { layer, target },
            };
            let place = LayerInode { layer, inode: number };
            exists |= !ghost;
            if !sealed {
                parts.push(Part { place, ghost });
            }
            sealed |= self.is(place, InodeRecord::is_opaque);
            if !self.is(place, InodeRecord::is_implicit) {
                attributes = attributes.or(Some(place));
            }
            if sealed && attributes.is_some() {
                break;
            }
        }
        let topmost = parts.iter().find(|part| !part.ghost).or(parts.first()).map(|part| part.place);
        match attributes.or(topmost) {
            Some(attributes) if exists => Resolved::Directory(Directory { attributes, parts }),
            _ => Resolved::Nothing,
        }
    }

    /// Returns what the merged directory has under `name`.
    fn lookup(&self, dir: &Directory, name: &[u8]) -> Resolved<'stack> {
        self.resolve(dir.parts.iter().filter_map(|part| {
            let layer = self.layer(part.place.layer)?;
            let inode = layer.inode(part.place.inode)?;
            let control = || layer.control(inode, name);
            layer.lookup(inode, name).or_else(control).map(|entry| (part.place.layer, entry.target))
        }))
    }

    /// Finds the target of a hard link in `layer`, given as a normal path: in the merge of the layers below it,
    /// following symbolic links in the directory part. If those lead to a file of `layer` itself, that file is the
    /// target.
    pub(super) fn linked_file(&self, layer: u32, target: &[u8]) -> Option<(LayerInode, Kind)> {
        self.linked(layer, target, &mut SYMLINKS_MAX.clone())
    }

    /// Links of lower layers are followed into the layers below those, so the recursion ends.
    fn linked(&self, layer: u32, target: &[u8], symlinks: &mut usize) -> Option<(LayerInode, Kind)> {
        let (mut layer, mut target) = (layer, target);
        loop {
            let below = Stack(self.0.get(..layer as usize)?);
            let asked = NormalPath::of_link_target(target).ok()?;
            let (path, found) = below.walk(asked.clone(), symlinks)?;
            if path != asked
                && let Some(own) = self.own_file(layer, &path)
            {
                return Some(own);
            }
            match found {
                Resolved::File { place, kind } => return Some((place, kind)),
                Resolved::Foreign { layer: lower, target: next } => (layer, target) = (lower, next),
                Resolved::Directory(_) | Resolved::Nothing => return None,
            }
        }
    }

    /// Walks a path from the root, following symbolic links in its directory part. Returns the path without those
    /// links, and what it refers to.
    fn walk(&self, path: NormalPath, symlinks: &mut usize) -> Option<(NormalPath, Resolved<'stack>)> {
        let mut path = path;
        'again: loop {
            let mut current = Resolved::Directory(self.root()?);
            let mut length = 0;
            for name in path.as_bytes().split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
                if length > 0
                    && let Some(link) = self.symlink(&current, symlinks)
                {
                    *symlinks = symlinks.checked_sub(1)?;
                    path = path.through_link(length, link).ok()?;
                    continue 'again;
                }
                let Resolved::Directory(dir) = &current else { return Some((path, Resolved::Nothing)) };
                current = self.lookup(dir, name);
                // Counts the slash before it, except for the first name.
                length += usize::from(length > 0) + name.len();
            }
            return Some((path, current));
        }
    }

    /// Returns the target of a symbolic link, if the name refers to one.
    fn symlink(&self, resolved: &Resolved<'stack>, symlinks: &mut usize) -> Option<&'stack [u8]> {
        let place = match *resolved {
            Resolved::File { place, kind: Kind::Symlink } => place,
            Resolved::Foreign { layer, target } => {
                // Each foreign link counts too, which limits the recursion.
                *symlinks = symlinks.checked_sub(1)?;
                let (place, kind) = self.linked(layer, target, symlinks)?;
                (kind == Kind::Symlink).then_some(place)?
            }
            _ => return None,
        };
        let layer = self.layer(place.layer)?;
        Some(layer.link_target(layer.inode(place.inode)?))
    }

    /// Returns what one layer itself has at a path, if that is neither a directory nor a link to a lower layer.
    fn own_file(&self, layer: u32, path: &NormalPath) -> Option<(LayerInode, Kind)> {
        let index = self.layer(layer)?;
        let mut inode = 0;
        let mut kind = Kind::Directory;
        for name in path.as_bytes().split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let directory = index.inode(inode).filter(|_| kind == Kind::Directory)?;
            let found = index.lookup(directory, name).or_else(|| index.control(directory, name))?;
            (inode, kind) = match found.target {
                EntryTarget::Inode { number, kind } => (number, kind),
                EntryTarget::Ghost(number) => (number, Kind::Directory),
                EntryTarget::Whiteout | EntryTarget::Foreign(_) => return None,
            };
        }
        (kind != Kind::Directory).then_some((LayerInode { layer, inode }, kind))
    }

    /// Walks the names of all parts of a directory in byte order, and calls `visit` with each name and what it refers
    /// to.
    pub(super) fn each_name(&self, dir: &Directory, mut visit: impl FnMut(&'stack [u8], Resolved<'stack>)) {
        let mut cursors: Vec<Cursor<'stack>> = dir
            .parts
            .iter()
            .filter_map(|part| {
                let layer = self.layer(part.place.layer)?;
                let inode = layer.inode(part.place.inode)?;
                let mut names: Vec<_> = layer.visible(inode, 0).chain(layer.controls(inode)).collect();
                if layer.controls(inode).len() > 0 {
                    names.sort_unstable_by_key(|entry| entry.name);
                }
                Some(Cursor { layer: part.place.layer, names: names.into_iter().peekable() })
            })
            .collect();
        while let Some(name) = cursors.iter_mut().filter_map(|cursor| Some(cursor.names.peek()?.name)).min() {
            let statements: Vec<_> = cursors
                .iter_mut()
                .filter_map(|cursor| {
                    let entry = cursor.names.next_if(|entry| entry.name == name)?;
                    Some((cursor.layer, entry.target))
                })
                .collect();
            visit(name, self.resolve(statements.into_iter()));
        }
    }
}

struct Cursor<'stack> {
    layer: u32,
    names: std::iter::Peekable<std::vec::IntoIter<NameEntry<'stack>>>,
}
