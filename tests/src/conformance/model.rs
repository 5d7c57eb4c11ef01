//! The naive model: what a stack of layers must show, computed with flat maps and nothing clever.
//!
//! It states the rules, in this order:
//!
//! 1. Each layer first becomes a tree of its own ([`LayerTree::build`]): the last entry of a path wins; an entry below
//!    a non-directory turns it into a directory; a non-directory over a directory removes its content.
//! 2. Whiteouts and opaque markers are not part of that tree. They are a set, without order, and act only on the layers
//!    below. They never create a directory.
//! 3. Trees are merged from the lowest up ([`Merged::add`]): whiteouts and opaque markers act on what is below, and
//!    then the layer's own tree is added on top. Two directories merge: the attributes of the upper one, the children
//!    of both. Anything else in the upper layer replaces what is below.
//! 4. A directory without an entry of its own takes its attributes from the directory below, if one is left
//!    after the whiteouts. Otherwise it is `0755 root:root` with time 0.
//! 5. A hard link is bound to an inode, not to a name. Its target is searched for in its own layer's tree as it
//!    is at that moment, then in the layer's finished tree, then in the merged layers below, as they are before
//!    this layer's whiteouts. Symbolic links in its directory part are followed: in the layer's own tree, then in the
//!    merged layers below, and if that leads to a file of the layer itself, the link is to that file.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use layer_store::Kind;

use super::dump::{Line, TreeDump};
use super::paths::{Components, Step, follow, image_path, normalise, target_components};
use super::stack::{DEFAULT_MTIME, Entry, Layer, Mtime, Node, Stack, content_mark};

/// An inode of the model: its number in the arena.
pub type InodeId = usize;

/// All inodes of a stack, each with the entry that made it.
#[derive(Clone, Debug, Default)]
pub struct Inodes(Vec<(Line, Option<Entry>)>);

impl Inodes {
    fn of_entry(&mut self, entry: &Entry) -> Result<InodeId> {
        self.0.push((line_of(entry)?, Some(entry.clone())));
        Ok(self.0.len() - 1)
    }

    /// Adds a directory that no layer has an entry for.
    fn default_directory(&mut self) -> InodeId {
        self.0.push((directory_line(0o755, Mtime::default()), None));
        self.0.len() - 1
    }

    /// Runs `step`, and removes the inodes that it added.
    pub fn trying<T>(&mut self, step: impl FnOnce(&mut Self) -> T) -> T {
        let known = self.0.len();
        let outcome = step(self);
        self.0.truncate(known);
        outcome
    }

    pub(crate) fn is_directory(&self, id: InodeId) -> bool {
        self.0[id].0.kind == Kind::Directory
    }

    /// Returns what an inode is to a path that leads through it.
    fn step(&self, id: InodeId) -> Step {
        let line = &self.0[id].0;
        match (line.kind, &line.target) {
            (Kind::Directory, _) => Step::Directory,
            (Kind::Symlink, Some(target)) => Step::Symlink(target.clone()),
            _ => Step::End,
        }
    }

    /// Returns the entry that an inode of a layer is from.
    pub(crate) fn entry(&self, id: InodeId) -> Option<&Entry> {
        self.0[id].1.as_ref()
    }
}

/// What a layer's own tree has at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An inode of this layer.
    Own(InodeId),
    /// A directory that is known only from paths below it.
    ImplicitDirectory,
    /// A hard link to what the layers below have at this path.
    Below(Components),
    /// A hard link to a path of this layer that has not been read yet. This occurs only while a layer is built.
    Pending(Components),
}

impl Place {
    pub(crate) fn is_directory(&self, inodes: &Inodes) -> bool {
        match self {
            Self::Own(id) => inodes.is_directory(*id),
            Self::ImplicitDirectory => true,
            Self::Below(_) | Self::Pending(_) => false,
        }
    }
}

/// A layer's own tree, and what it does to the layers below.
#[derive(Clone, Debug, Default)]
pub struct LayerTree {
    /// Every path of the layer. The root is among them only if it has an entry.
    pub places: BTreeMap<Components, Place>,
    /// Paths that are hidden in the layers below.
    pub whiteouts: BTreeSet<Components>,
    /// Directories whose content is hidden in the layers below.
    pub opaque: BTreeSet<Components>,
}

/// Removes everything strictly below `directory`.
pub(crate) fn remove_below<T>(map: &mut BTreeMap<Components, T>, directory: &Components) {
    map.retain(|path, _| !(path.len() > directory.len() && path.starts_with(directory)));
}

impl LayerTree {
    /// Builds the tree of one layer.
    ///
    /// # Errors
    /// For entries that a reader must refuse: paths that leave the root, impossible names, whiteouts of nothing,
    /// hard links in a cycle or to a directory, owners beyond 32 bits.
    pub fn build(layer: &Layer, inodes: &mut Inodes) -> Result<Self> {
        let mut tree = Self::default();
        for entry in &layer.entries {
            tree.apply(entry, inodes).with_context(|| entry.to_string())?;
        }
        tree.resolve_pending(inodes)?;
        Ok(tree)
    }

    fn apply(&mut self, entry: &Entry, inodes: &mut Inodes) -> Result<()> {
        if matches!(entry.node, Node::Global | Node::Junk(_)) {
            return Ok(());
        }
        let path = normalise(&entry.path)?;
        match Meaning::of(&path)? {
            Meaning::Whiteout(hidden) => drop(self.whiteouts.insert(hidden)),
            Meaning::Opaque(directory) => drop(self.opaque.insert(directory)),
            Meaning::Aufs => self.keep_aufs_link(path, entry, inodes)?,
            Meaning::Addition => self.add(path, entry, inodes)?,
        }
        Ok(())
    }

    /// Keeps a file of `.wh..wh.plnk`, where AUFS keeps the inodes of hard links: they are not shown, but links lead to
    /// them.
    fn keep_aufs_link(&mut self, path: Components, entry: &Entry, inodes: &mut Inodes) -> Result<()> {
        if matches!(entry.node, Node::File(_)) {
            self.places.insert(path, Place::Own(inodes.of_entry(entry)?));
        }
        Ok(())
    }

    fn add(&mut self, path: Components, entry: &Entry, inodes: &mut Inodes) -> Result<()> {
        let is_directory = entry.node == Node::Directory;
        ensure!(!path.is_empty() || is_directory, "the root is a directory");
        for end in 1..path.len() {
            self.make_implicit(path[..end].to_vec(), inodes);
        }
        let place = match &entry.node {
            Node::HardLink(target) => {
                // A later entry may break a cycle of symbolic links.
                let target = target_components(target);
                let target = follow(&target, |path| self.step(path, inodes)).unwrap_or(target);
                if target == path {
                    return self.link_to_itself(path);
                }
                match self.places.get(&target) {
                    Some(place) if place.is_directory(inodes) => bail!("a hard link to a directory"),
                    Some(place) => place.clone(),
                    None => Place::Pending(target),
                }
            }
            _ => Place::Own(inodes.of_entry(entry)?),
        };
        if !is_directory {
            remove_below(&mut self.places, &path);
        }
        self.places.insert(path, place);
        Ok(())
    }

    /// Makes sure that a directory is at `path`.
    fn make_implicit(&mut self, path: Components, inodes: &Inodes) {
        if !self.places.get(&path).is_some_and(|place| place.is_directory(inodes)) {
            self.places.insert(path, Place::ImplicitDirectory);
        }
    }

    /// Returns what this layer has at a directory of a hard link's target.
    fn step(&self, path: &[Vec<u8>], inodes: &Inodes) -> Step {
        match self.places.get(path) {
            Some(Place::Own(id)) => inodes.step(*id),
            Some(Place::ImplicitDirectory) => Step::Directory,
            _ => Step::End,
        }
    }

    /// Changes nothing if the path exists in this layer or below.
    fn link_to_itself(&mut self, path: Components) -> Result<()> {
        self.places.entry(path.clone()).or_insert(Place::Below(path));
        Ok(())
    }

    /// Binds links whose targets did not exist when they were read: to the finished tree, or else to the layers below.
    fn resolve_pending(&mut self, inodes: &Inodes) -> Result<()> {
        let pending: Vec<(Components, Components)> = self
            .places
            .iter()
            .filter_map(|(path, place)| match place {
                Place::Pending(target) => Some((path.clone(), target.clone())),
                _ => None,
            })
            .collect();
        let finished = self.places.clone();
        let tree = self.clone();
        for (path, mut target) in pending {
            let mut seen = BTreeSet::from([path.clone()]);
            let mut current = path.clone();
            let place = loop {
                if !finished.contains_key(&target) {
                    // The way leads through symbolic links that were read later, but only to a file of this layer.
                    let followed = follow(&target, |path| tree.step(path, inodes)).unwrap_or_else(|_| target.clone());
                    let there = finished.get(&followed).is_some_and(|place| !place.is_directory(inodes));
                    if there && followed != current {
                        target = followed;
                    }
                }
                if target == current {
                    break Place::Below(target);
                }
                current = target.clone();
                ensure!(seen.insert(target.clone()), "a cycle of hard links at {}", image_path_text(&path));
                match finished.get(&target) {
                    None => break Place::Below(target),
                    Some(place) if place.is_directory(inodes) => bail!("a hard link to a directory"),
                    Some(Place::Pending(next)) => target = next.clone(),
                    Some(place) => break place.clone(),
                }
            };
            self.places.insert(path, place);
        }
        Ok(())
    }
}

fn image_path_text(path: &Components) -> String {
    String::from_utf8_lossy(&image_path(path)).into_owned()
}

/// Names in the root of a layer that AUFS keeps for itself.
pub(crate) const AUFS: [&[u8]; 3] = [b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk"];

/// What a path means by itself.
pub(crate) enum Meaning {
    /// The path is hidden in the layers below.
    Whiteout(Components),
    /// The directory's content is hidden in the layers below.
    Opaque(Components),
    /// One of AUFS' own files.
    Aufs,
    /// An entry of the tree.
    Addition,
}

impl Meaning {
    /// Image specification, `layer.md`, "Whiteouts".
    pub(crate) fn of(path: &Components) -> Result<Self> {
        let Some((base, parent)) = path.split_last() else { return Ok(Self::Addition) };
        if AUFS.contains(&path[0].as_slice()) {
            return Ok(Self::Aufs);
        }
        ensure!(!parent.iter().any(|name| name.starts_with(b".wh.")), "an entry below a whiteout");
        match base.strip_prefix(b".wh.") {
            None => Ok(Self::Addition),
            Some(b".wh..opq") => Ok(Self::Opaque(parent.to_vec())),
            Some(b"" | b"." | b"..") => bail!("a whiteout of no name"),
            Some(hidden) => Ok(Self::Whiteout([parent, &[hidden.to_vec()]].concat())),
        }
    }
}

/// Returns the attributes that an entry sets on its inode. The merged tree decides `nlink` and `first_name`.
fn line_of(entry: &Entry) -> Result<Line> {
    let (kind, default_mode) = match &entry.node {
        Node::Directory => (Kind::Directory, 0o755),
        Node::File(_) => (Kind::Regular, 0o644),
        Node::Symlink(_) => (Kind::Symlink, 0o777),
        Node::CharDevice(..) => (Kind::CharDevice, 0o644),
        Node::BlockDevice(..) => (Kind::BlockDevice, 0o644),
        Node::Fifo => (Kind::Fifo, 0o644),
        Node::HardLink(_) | Node::Global | Node::Junk(_) => bail!("not an inode"),
    };
    let owner = |id: Option<u64>| u32::try_from(id.unwrap_or(0)).context("an owner beyond 32 bits");
    let mut line = directory_line(entry.mode.unwrap_or(default_mode), entry.mtime.unwrap_or(DEFAULT_MTIME));
    (line.kind, line.uid, line.gid) = (kind, owner(entry.uid)?, owner(entry.gid)?);
    if kind == Kind::Symlink {
        // Linux has no other: symlink(7), "Permissions".
        line.permissions = 0o777;
    }
    let hidden = |name: &[u8]| name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    line.xattrs = entry.xattrs.iter().filter(|(name, _)| !hidden(name)).cloned().collect();
    match &entry.node {
        Node::Symlink(target) => {
            ensure!(!target.contains(&0), "a link target with NUL");
            line.target = Some(target.clone());
        }
        Node::CharDevice(major, minor) | Node::BlockDevice(major, minor) => line.rdev = (*major, *minor),
        Node::File(content) => {
            let read_at = |offset, buffer: &mut [u8]| anyhow::Ok(content.read_at(offset, buffer));
            line.content = Some((content.size(), content_mark(content.size(), read_at)?));
        }
        _ => {}
    }
    Ok(line)
}

fn directory_line(permissions: u32, mtime: Mtime) -> Line {
    Line {
        kind: Kind::Directory,
        permissions,
        uid: 0,
        gid: 0,
        mtime,
        nlink: 0,
        first_name: Vec::new(),
        target: None,
        rdev: (0, 0),
        content: None,
        xattrs: BTreeMap::new(),
    }
}

/// Layers merged so far: every visible path and its inode.
#[derive(Clone, Debug, Default)]
pub struct Merged(pub BTreeMap<Components, InodeId>);

impl Merged {
    /// Returns what a stack without layers shows: an empty root.
    #[must_use]
    pub fn nothing(inodes: &mut Inodes) -> Self {
        Self(BTreeMap::from([(Components::new(), inodes.default_directory())]))
    }

    /// Adds one more layer on top.
    ///
    /// # Errors
    /// For hard links to what does not exist, or to a directory.
    pub fn add(&mut self, layer: &LayerTree, inodes: &mut Inodes) -> Result<()> {
        let below = self.clone();
        self.hide(layer);
        for (path, place) in &layer.places {
            let id = match place {
                Place::Own(id) => *id,
                Place::ImplicitDirectory => match self.0.get(path) {
                    Some(id) if inodes.is_directory(*id) => *id,
                    _ => inodes.default_directory(),
                },
                Place::Below(target) => below.linked(path, target, layer, inodes)?,
                Place::Pending(_) => bail!("a layer is merged before it is finished"),
            };
            let both_directories =
                inodes.is_directory(id) && self.0.get(path).is_some_and(|lower| inodes.is_directory(*lower));
            if !both_directories {
                remove_below(&mut self.0, path);
            }
            self.0.insert(path.clone(), id);
        }
        self.0.retain(|path, _| !path.first().is_some_and(|name| name.starts_with(b".wh.")));
        Ok(())
    }

    /// Checks whether one more layer can be added on top, for all that [`Merged::add`] refuses.
    ///
    /// # Errors
    /// Those of [`Merged::add`].
    pub fn takes(&self, layer: &LayerTree, inodes: &Inodes) -> Result<()> {
        layer.places.iter().try_for_each(|(path, place)| match place {
            Place::Below(target) => self.linked(path, target, layer, inodes).map(drop),
            Place::Own(_) | Place::ImplicitDirectory => Ok(()),
            Place::Pending(_) => bail!("a layer is merged before it is finished"),
        })
    }

    /// Returns the inode that a hard link of the layer above leads to.
    fn linked(&self, path: &Components, target: &Components, layer: &LayerTree, inodes: &Inodes) -> Result<InodeId> {
        let asked = target;
        let target = &follow(asked, |path| self.0.get(path).map_or(Step::End, |id| inodes.step(*id)))?;
        // Through a symbolic link below, the path may lead to a file of the layer itself.
        if target != asked
            && let Some(Place::Own(id)) = layer.places.get(target)
            && !inodes.is_directory(*id)
        {
            return Ok(*id);
        }
        let id = self.0.get(target).with_context(|| {
            format!("{} links to {}, which is nowhere", image_path_text(path), image_path_text(target))
        })?;
        ensure!(!inodes.is_directory(*id), "{}: a hard link to a directory", image_path_text(path));
        Ok(*id)
    }

    /// Applies whiteouts and opaque markers to what is below.
    fn hide(&mut self, layer: &LayerTree) {
        for hidden in &layer.whiteouts {
            remove_below(&mut self.0, hidden);
            self.0.remove(hidden);
        }
        for directory in &layer.opaque {
            remove_below(&mut self.0, directory);
        }
    }

    /// Returns the tree as text.
    #[must_use]
    pub fn dump(&self, inodes: &Inodes) -> TreeDump {
        TreeDump::of(self.0.iter().map(|(path, id)| (image_path(path), *id, inodes.0[*id].0.clone())))
            .with_counted_links()
    }
}

impl Stack {
    /// Returns whether a directory in the target of a hard link may be a symbolic link, or a hard link to one.
    #[must_use]
    pub fn may_link_through_symlinks(&self) -> bool {
        let entries = || self.layers.iter().flat_map(|layer| &layer.entries);
        let links: BTreeSet<Components> = entries()
            .filter(|entry| matches!(entry.node, Node::Symlink(_) | Node::HardLink(_)))
            .filter_map(|entry| normalise(&entry.path).ok())
            .collect();
        entries().any(|entry| match &entry.node {
            Node::HardLink(target) => {
                let target = target_components(target);
                (1..target.len()).any(|end| links.contains(&target[..end]))
            }
            _ => false,
        })
    }

    /// Returns what the stack must show.
    ///
    /// # Errors
    /// If the stack must be refused.
    pub fn expected(&self) -> Result<TreeDump> {
        let mut inodes = Inodes::default();
        let mut merged = Merged::nothing(&mut inodes);
        for layer in &self.layers {
            let tree = LayerTree::build(layer, &mut inodes)?;
            merged.add(&tree, &mut inodes)?;
        }
        Ok(merged.dump(&inodes))
    }
}
