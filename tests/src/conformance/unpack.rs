//! Unpacks one layer into a directory that kernel overlayfs can take as a lower directory.
//!
//! Deliberately simple: the entries are carried out in the order of the tar with plain system calls, then the whiteouts
//! and opaque markers become what overlayfs knows (character devices 0/0 and the attribute `overlay.opaque`,
//! kernel `Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories"). What needs the layers
//! below (hard links into them, attributes of directories without an entry) is read from an overlay mount of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use layer_store::Kind;
use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::host_tree::{At, HostTree, kind_of};
use super::model::{AUFS, Meaning};
use super::paths::{Components, Step, follow, normalise, target_components};
use super::stack::{Content, DEFAULT_MTIME, Entry, Layer, Mtime, Node};

/// Attributes to set: mode, owner, time and extended attributes.
#[derive(Clone, Debug, Default)]
struct Attributes {
    mode: u32,
    owner: (u32, u32),
    mtime: Mtime,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Where a layer is unpacked, and the layers below it.
pub(crate) struct Unpacking<'a> {
    /// The directory of this layer.
    pub(crate) own: &'a Path,
    /// The directories of the layers below, the highest first.
    pub(crate) below: &'a [PathBuf],
    /// An overlay mount of them.
    pub(crate) merged_below: &'a Path,
    /// `trusted.overlay.opaque` or `user.overlay.opaque`.
    pub(crate) opaque_xattr: &'a str,
    /// Whether owners, devices and all extended attributes can be set.
    pub(crate) privileged: bool,
}

impl Unpacking<'_> {
    /// Unpacks the layer.
    pub(crate) fn unpack(&self, layer: &Layer) -> Result<()> {
        let mut work = Work {
            place: self,
            own: HostTree::open(self.own)?,
            below: HostTree::open(self.merged_below)?,
            pending: BTreeMap::new(),
            directories: BTreeMap::new(),
            whiteouts: BTreeSet::new(),
            opaque: BTreeSet::new(),
        };
        for entry in &layer.entries {
            work.apply(entry).with_context(|| entry.to_string())?;
        }
        work.bind_pending()?;
        for name in AUFS {
            work.remove(&vec![name.to_vec()])?;
        }
        work.spell_out_opaque_root()?;
        work.place_whiteouts()?;
        work.place_opaque_markers()?;
        work.finish_directories()
    }
}

/// Returns what a tree has at a directory of a hard link's target.
fn step(tree: &HostTree, path: &[Vec<u8>]) -> Step {
    let Ok(Some((at, stat))) = tree.find(path) else { return Step::End };
    match kind_of(&stat) {
        Kind::Directory => Step::Directory,
        Kind::Symlink => sys::readlinkat(&at.directory, at.name(), Vec::new())
            .map_or(Step::End, |target| Step::Symlink(target.into_bytes())),
        _ => Step::End,
    }
}

struct Work<'a> {
    place: &'a Unpacking<'a>,
    own: HostTree,
    below: HostTree,
    /// Hard links whose target has not been read yet. An empty file is in their place.
    pending: BTreeMap<Components, Components>,
    /// Directories of this layer, with the attributes of their entry if they have one.
    directories: BTreeMap<Components, Option<Attributes>>,
    whiteouts: BTreeSet<Components>,
    opaque: BTreeSet<Components>,
}

impl Work<'_> {
    fn apply(&mut self, entry: &Entry) -> Result<()> {
        if matches!(entry.node, Node::Global | Node::Junk(_)) {
            return Ok(());
        }
        let path = normalise(&entry.path)?;
        match Meaning::of(&path)? {
            Meaning::Whiteout(hidden) => drop(self.whiteouts.insert(hidden)),
            Meaning::Opaque(directory) => drop(self.opaque.insert(directory)),
            Meaning::Aufs if !matches!(entry.node, Node::File(_)) => {}
            Meaning::Aufs | Meaning::Addition => self.add(path, entry)?,
        }
        Ok(())
    }

    fn add(&mut self, path: Components, entry: &Entry) -> Result<()> {
        for end in 1..path.len() {
            self.make_directory(&path[..end].to_vec())?;
        }
        match &entry.node {
            Node::Directory => {
                self.make_directory(&path)?;
                self.directories.insert(path, Some(attributes_of(entry, 0o755)?));
            }
            Node::HardLink(target) => self.link(path, target_components(target))?,
            node => {
                self.remove(&path)?;
                let at = self.own.at(&path)?;
                let default_mode = if matches!(node, Node::Symlink(_)) { 0o777 } else { 0o644 };
                create(&at, node, self.place.privileged)?;
                self.give(&at, &attributes_of(entry, default_mode)?)?;
            }
        }
        Ok(())
    }

    fn make_directory(&mut self, path: &Components) -> Result<()> {
        if path.is_empty() || self.own.is_directory(path)? {
            return Ok(());
        }
        self.remove(path)?;
        let at = self.own.at(path)?;
        sys::mkdirat(&at.directory, at.name(), Mode::RWXU)?;
        self.directories.insert(path.clone(), None);
        Ok(())
    }

    /// Removes what this layer has at `path`, with everything below it.
    fn remove(&mut self, path: &Components) -> Result<()> {
        let Some((at, stat)) = self.own.find(path)? else { return Ok(()) };
        if kind_of(&stat) == Kind::Directory {
            for name in self.own.names(path)? {
                self.remove(&[&path[..], &[name]].concat())?;
            }
            self.directories.remove(path);
            sys::unlinkat(&at.directory, at.name(), AtFlags::REMOVEDIR)?;
        } else {
            self.pending.remove(path);
            sys::unlinkat(&at.directory, at.name(), AtFlags::empty())?;
        }
        Ok(())
    }

    fn link(&mut self, path: Components, target: Components) -> Result<()> {
        // A later entry may break a cycle of symbolic links.
        let target = follow(&target, |path| step(&self.own, path)).unwrap_or(target);
        if path == target {
            if self.own.find(&path)?.is_none() {
                self.link_below(&path, &target)?;
            }
            return Ok(());
        }
        if let Some(further) = self.pending.get(&target).cloned() {
            self.hold_place(path, further)
        } else if self.own.find(&target)?.is_some() {
            self.link_own(&path, &target)
        } else {
            self.hold_place(path, target)
        }
    }

    fn hold_place(&mut self, path: Components, target: Components) -> Result<()> {
        self.remove(&path)?;
        create(&self.own.at(&path)?, &Node::File(Content::Literal(Vec::new())), true)?;
        self.pending.insert(path, target);
        Ok(())
    }

    fn link_own(&mut self, path: &Components, target: &Components) -> Result<()> {
        let from = self.own.at(target)?;
        self.link_to(path, &from)
    }

    fn link_to(&mut self, path: &Components, from: &At) -> Result<()> {
        // The old name is removed last, because the target may be the only other name of what is replaced.
        let temporary = self.own.at(&[b".wh.being-linked".to_vec()])?;
        sys::linkat(&from.directory, from.name(), &temporary.directory, temporary.name(), AtFlags::empty())?;
        self.remove(path)?;
        let to = self.own.at(path)?;
        sys::linkat(&temporary.directory, temporary.name(), &to.directory, to.name(), AtFlags::empty())?;
        Ok(sys::unlinkat(&temporary.directory, temporary.name(), AtFlags::empty())?)
    }

    /// Links to what the overlay of the layers below shows at `target`. Inode numbers there are those of the
    /// directories that it is made of.
    fn link_below(&mut self, path: &Components, target: &Components) -> Result<()> {
        let asked = target;
        let target = &follow(asked, |path| step(&self.below, path))?;
        // Through a symbolic link below, the path may lead to a file of the layer itself.
        if target != asked
            && !self.pending.contains_key(target)
            && let Some((_, stat)) = self.own.find(target)?
            && kind_of(&stat) != Kind::Directory
        {
            return self.link_own(path, target);
        }
        let (_, shown) = self.below.find(target)?.context("a hard link to what is nowhere")?;
        for layer in self.place.below {
            if let Some((at, stat)) = HostTree::open(layer)?.find(target)?
                && stat.st_ino == shown.st_ino
            {
                return self.link_to(path, &at);
            }
        }
        bail!("no layer has the inode that the overlay shows");
    }

    /// Returns a target that leads to a file of this layer through symbolic links that were read after the link.
    fn through_later_link(&self, path: &Components, target: Components) -> Result<Components> {
        if self.own.find(&target)?.is_some() {
            return Ok(target);
        }
        let followed = follow(&target, |path| step(&self.own, path)).unwrap_or_else(|_| target.clone());
        let there = self.own.find(&followed)?.is_some_and(|(_, stat)| kind_of(&stat) != Kind::Directory);
        Ok(if there && followed != *path { followed } else { target })
    }

    fn bind_pending(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            let before = self.pending.len();
            for (path, target) in self.pending.clone() {
                let target = self.through_later_link(&path, target)?;
                // A link to itself through another one means the file that the layers below have there.
                let is_itself = target == path;
                if !is_itself && self.pending.contains_key(&target) {
                    continue;
                }
                if !is_itself && self.own.find(&target)?.is_some() {
                    self.link_own(&path, &target)?;
                } else {
                    self.link_below(&path, &target)?;
                }
                self.pending.remove(&path);
            }
            ensure!(self.pending.len() < before, "a cycle of hard links");
        }
        Ok(())
    }

    /// Returns whether something in this layer already hides what is below at `path`.
    fn hidden_above(&self, path: &Components) -> Result<bool> {
        for end in 0..path.len() {
            let ancestor = path[..end].to_vec();
            if let Some((_, stat)) = self.own.find(&ancestor)?
                && kind_of(&stat) != Kind::Directory
            {
                return Ok(true);
            }
            if self.whiteouts.contains(&ancestor) || self.opaque.contains(&ancestor) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Replaces an opaque root by whiteouts of its names, because overlayfs ignores an opaque root
    /// (`fs/overlayfs/super.c` merges the roots of all layers).
    fn spell_out_opaque_root(&mut self) -> Result<()> {
        if self.opaque.remove(&Components::new()) {
            let names = self.below.names(&[])?;
            self.whiteouts.extend(names.into_iter().map(|name| vec![name]));
        }
        Ok(())
    }

    fn place_whiteouts(&mut self) -> Result<()> {
        for path in self.whiteouts.clone() {
            if let Some((_, stat)) = self.own.find(&path)? {
                if kind_of(&stat) == Kind::Directory {
                    self.mark_opaque(&path)?;
                }
                continue;
            }
            // If it hides nothing, overlayfs would list the whiteout itself: containers/fuse-overlayfs#306.
            if self.hidden_above(&path)? || self.below.find(&path)?.is_none() {
                continue;
            }
            for end in 1..path.len() {
                self.make_directory(&path[..end].to_vec())?;
            }
            let at = self.own.at(&path)?;
            sys::mknodat(&at.directory, at.name(), FileType::CharacterDevice, Mode::empty(), sys::makedev(0, 0))?;
        }
        Ok(())
    }

    fn place_opaque_markers(&mut self) -> Result<()> {
        for path in self.opaque.clone() {
            if self.own.is_directory(&path)? {
                self.mark_opaque(&path)?;
            } else if self.own.find(&path)?.is_none()
                && !self.whiteouts.contains(&path)
                && !self.hidden_above(&path)?
                && self.below.is_directory(&path)?
            {
                for end in 1..=path.len() {
                    self.make_directory(&path[..end].to_vec())?;
                }
                self.mark_opaque(&path)?;
            }
        }
        Ok(())
    }

    fn mark_opaque(&self, path: &Components) -> Result<()> {
        Ok(sys::lsetxattr(self.own.at(path)?.proc_path(), self.place.opaque_xattr, b"y", XattrFlags::empty())?)
    }

    /// Sets the attributes of directories, the deepest first, after everything that changes their times.
    fn finish_directories(&mut self) -> Result<()> {
        self.directories.entry(Components::new()).or_default();
        for (path, attributes) in self.directories.iter().rev() {
            let attributes = match attributes {
                Some(attributes) => attributes.clone(),
                None => self.inherited(path)?,
            };
            self.give(&self.own.at(path)?, &attributes)?;
        }
        Ok(())
    }

    /// Returns the attributes of a directory without an entry.
    fn inherited(&self, path: &Components) -> Result<Attributes> {
        let hidden = (0..=path.len()).any(|end| {
            let ancestor = &path[..end].to_vec();
            self.whiteouts.contains(ancestor) || (end < path.len() && self.opaque.contains(ancestor))
        });
        let found = if hidden { None } else { self.below.find(path)? };
        match found {
            Some((at, stat)) if kind_of(&stat) == Kind::Directory => Ok(Attributes {
                mode: stat.st_mode & 0o7777,
                owner: (stat.st_uid, stat.st_gid),
                mtime: Mtime { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec)? },
                xattrs: at.xattrs()?.into_iter().collect(),
            }),
            _ => Ok(Attributes { mode: 0o755, ..Attributes::default() }),
        }
    }

    fn give(&self, at: &At, attributes: &Attributes) -> Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let kind = kind_of(&at.stat()?);
        if self.place.privileged {
            let (uid, gid) = attributes.owner;
            let (uid, gid) = (sys::Uid::from_raw(uid), sys::Gid::from_raw(gid));
            sys::chownat(&at.directory, at.name(), Some(uid), Some(gid), nofollow)?;
        }
        if kind != Kind::Symlink {
            sys::chmodat(&at.directory, at.name(), Mode::from_raw_mode(attributes.mode), AtFlags::empty())?;
        }
        for (name, value) in &attributes.xattrs {
            if can_be_set(name, kind, self.place.privileged) {
                let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&name[..]);
                sys::lsetxattr(at.proc_path(), name, value, XattrFlags::empty())
                    .with_context(|| format!("setting {name:?}"))?;
            }
        }
        let time = Timespec { tv_sec: attributes.mtime.seconds, tv_nsec: attributes.mtime.nanoseconds.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(sys::utimensat(&at.directory, at.name(), &times, nofollow)?)
    }
}

/// Returns whether Linux accepts an extended attribute of this name on this type (`xattr(7)`).
///
/// `overlay.*` is left out, because overlayfs would obey it in an unpacked layer.
pub(crate) fn can_be_set(name: &[u8], kind: Kind, privileged: bool) -> bool {
    if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
        return false;
    }
    let user = name.starts_with(b"user.") && matches!(kind, Kind::Regular | Kind::Directory);
    user || (privileged && (name.starts_with(b"trusted.") || name.starts_with(b"security.")))
}

fn attributes_of(entry: &Entry, default_mode: u32) -> Result<Attributes> {
    Ok(Attributes {
        mode: entry.mode.unwrap_or(default_mode),
        owner: (u32::try_from(entry.uid.unwrap_or(0))?, u32::try_from(entry.gid.unwrap_or(0))?),
        mtime: entry.mtime.unwrap_or(DEFAULT_MTIME),
        xattrs: entry.xattrs.clone(),
    })
}

/// Creates a node. A device becomes an empty file if devices cannot be created.
fn create(at: &At, node: &Node, privileged: bool) -> Result<()> {
    let special = |kind, major, minor| -> Result<(), Errno> {
        sys::mknodat(&at.directory, at.name(), kind, Mode::RUSR, sys::makedev(major, minor))
    };
    match node {
        Node::CharDevice(major, minor) if privileged => special(FileType::CharacterDevice, *major, *minor)?,
        Node::BlockDevice(major, minor) if privileged => special(FileType::BlockDevice, *major, *minor)?,
        Node::CharDevice(..) | Node::BlockDevice(..) => special(FileType::RegularFile, 0, 0)?,
        Node::Fifo => special(FileType::Fifo, 0, 0)?,
        Node::Symlink(target) => {
            let target: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&target[..]);
            sys::symlinkat(target, &at.directory, at.name())?;
        }
        Node::File(content) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = sys::openat(&at.directory, at.name(), flags, Mode::RUSR)?;
            fill(&file.into(), content)?;
        }
        Node::Directory | Node::HardLink(_) | Node::Global | Node::Junk(_) => bail!("not made here"),
    }
    Ok(())
}

fn fill(file: &std::fs::File, content: &Content) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let extents = match content {
        Content::Sparse { extents, .. } => extents.clone(),
        whole => vec![(0, whole.size())],
    };
    file.set_len(content.size())?;
    for (offset, length) in extents {
        let mut bytes = vec![0; usize::try_from(length)?];
        content.read_at(offset, &mut bytes);
        file.write_all_at(&bytes, offset)?;
    }
    Ok(())
}
