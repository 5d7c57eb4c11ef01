//! The implementation under test. This is the only file of the suite that calls its library.

use std::io::Cursor;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use layer_store::{BaseId, DiffId, Digest, DirEntry, ExpectedLayer, Ino, Kind, Limits, Silent, Store, View};

use super::dump::{Line, TreeDump};
use super::layout::{TAG, documents};
use super::paths::{Components, image_path};
use super::stack::{Layer, Mtime, Stack, content_mark};

/// A store in memory, which is removed when it is dropped.
#[derive(Debug)]
pub struct Subject {
    store: Store,
    _scratch: tempfile::TempDir,
}

impl Subject {
    /// An empty store.
    ///
    /// # Errors
    /// If the host has no place for it.
    pub fn new() -> Result<Self> {
        let scratch = super::scratch()?;
        Ok(Self { store: Store::open(&scratch.path().join("store"))?, _scratch: scratch })
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Ingests one layer as if it came from a registry.
    ///
    /// # Errors
    /// If the implementation refuses it.
    pub fn ingest(&self, layer: &Layer) -> Result<()> {
        let expected = ExpectedLayer {
            compressed: Some(Digest::of(&layer.packed()).into()),
            diff_id: Some(DiffId(Digest::of(&layer.tar()))),
        };
        self.store.layers().ingest(&mut Cursor::new(layer.packed()), &expected)?;
        Ok(())
    }

    /// The same store with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { store: self.store.with_limits(limits), ..self }
    }

    /// Returns all files of the store except its leases, which belong to this running process.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let mut waiting = vec![self.store.root().to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in std::fs::read_dir(directory)? {
                let entry = entry?;
                if !entry.file_type()?.is_dir() {
                    files.push(entry.path());
                } else if entry.file_name() != "leases" {
                    waiting.push(entry.path());
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// Ingests all layers and prepares their base.
    ///
    /// # Errors
    /// If the implementation refuses the stack.
    pub fn prepare(&self, stack: &Stack) -> Result<BaseId> {
        stack.layers.iter().try_for_each(|layer| self.ingest(layer))?;
        let (manifest, config) = documents(stack)?;
        self.prepare_documents(&manifest, &config, &[])
    }

    fn prepare_documents(&self, manifest: &[u8], config: &[u8], variant: &[DiffId]) -> Result<BaseId> {
        self.store.images().put_manifest(config)?;
        let manifest = self.store.images().put_manifest(manifest)?;
        self.store.images().tag(TAG, &manifest)?;
        Ok(self.store.bases().prepare(&self.store.images().get(TAG)?, variant, &Silent)?)
    }

    /// Returns the view of layers in the store.
    ///
    /// # Errors
    /// If the implementation refuses them.
    pub fn view_of(&self, layers: &[DiffId]) -> Result<View> {
        let (manifest, config) = documents(&Stack::default())?;
        Ok(self.store.bases().open(&self.prepare_documents(&manifest, &config, layers)?)?)
    }

    /// Returns the view of the stack.
    ///
    /// # Errors
    /// If the implementation refuses the stack.
    pub fn view(&self, stack: &Stack) -> Result<View> {
        Ok(self.store.bases().open(&self.prepare(stack)?)?)
    }

    /// Returns what the implementation shows of the stack.
    ///
    /// # Errors
    /// If the implementation refuses the stack, or its view contradicts itself.
    pub fn shown(&self, stack: &Stack) -> Result<TreeDump> {
        dump(&self.view(stack)?)
    }
}

/// Returns the whole tree of a view, from the root.
///
/// # Errors
/// If the view fails, or answers two questions differently.
pub fn dump(view: &View) -> Result<TreeDump> {
    let mut lines = Vec::new();
    let mut waiting = vec![(Components::new(), Ino::ROOT, Ino::ROOT)];
    while let Some((path, ino, parent)) = waiting.pop() {
        let line = line_of(view, ino).with_context(|| String::from_utf8_lossy(&image_path(&path)).into_owned())?;
        if line.kind == Kind::Directory {
            ensure!(view.parent(ino)? == parent, "{path:?} has another parent than the one it was found in");
            for entry in entries(view, ino)? {
                waiting.push(([&path[..], &[entry.name.to_vec()]].concat(), entry.ino, ino));
            }
        }
        lines.push((image_path(&path), ino, line));
    }
    Ok(TreeDump::of(lines))
}

/// Returns the entries of a directory, after checking them against `lookup`, `attr` and the cookies.
fn entries(view: &View, directory: Ino) -> Result<Vec<DirEntry<'_>>> {
    let all: Vec<DirEntry<'_>> = view.entries(directory, 0)?.collect();
    for (position, entry) in all.iter().enumerate() {
        ensure!(view.lookup(directory, entry.name)? == Some(entry.ino), "lookup and entries differ: {entry:?}");
        ensure!(view.attr(entry.ino)?.kind == entry.kind, "attr and entries differ: {entry:?}");
        let rest = view.entries(directory, entry.cookie)?.next();
        ensure!(rest == all.get(position + 1).copied(), "the cookie of {entry:?} leads to {rest:?}");
    }
    ensure!(all.is_sorted_by(|left, right| left.name < right.name), "the names are not in byte order");
    ensure!(view.lookup(directory, b"no such name")?.is_none(), "a name is found that no layer has");
    Ok(all)
}

fn line_of(view: &View, ino: Ino) -> Result<Line> {
    let attr = view.attr(ino)?;
    ensure!(attr.ino == ino, "attr of {ino:?} says that it is {:?}", attr.ino);
    let target = if attr.kind == Kind::Symlink { Some(view.readlink(ino)?.to_vec()) } else { None };
    let content = match attr.kind {
        Kind::Regular => {
            let mark = content_mark(attr.size, |offset, buffer| view.read(ino, offset, buffer))?;
            Some((attr.size, mark))
        }
        Kind::Symlink => {
            ensure!(
                Some(attr.size) == target.as_ref().map(|target| target.len() as u64),
                "the size is not the target's"
            );
            None
        }
        Kind::Directory => {
            ensure!(attr.size == 4096, "a directory of {} bytes", attr.size);
            None
        }
        _ => {
            ensure!(attr.size == 0, "a special file of {} bytes", attr.size);
            None
        }
    };
    let mut xattrs = std::collections::BTreeMap::new();
    for name in view.xattr_names(ino)? {
        let value = view.xattr(ino, name)?.with_context(|| format!("a listed xattr without a value: {name:?}"))?;
        ensure!(xattrs.insert(name.to_vec(), value.to_vec()).is_none(), "an xattr is listed twice: {name:?}");
    }
    ensure!(xattrs.is_empty() || view.has_xattrs(), "there are xattrs, but the view denies it");
    Ok(Line {
        kind: attr.kind,
        permissions: attr.permissions,
        uid: attr.uid,
        gid: attr.gid,
        mtime: Mtime { seconds: attr.mtime.seconds, nanoseconds: attr.mtime.nanoseconds },
        nlink: attr.nlink.into(),
        first_name: Vec::new(),
        target,
        rdev: (attr.rdev_major, attr.rdev_minor),
        content,
        xattrs,
    })
}
