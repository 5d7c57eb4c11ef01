//! A whole tree as text with one line for each path, to compare trees and to read the differences.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use layer_store::Kind;

use super::stack::Mtime;
use super::tokens::{quote, quote_always};

/// Every path of a tree, from `/` down, with what a reader can see of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeDump {
    /// The path in image form (`/`, `/a`, `/a/b`) and its line.
    pub lines: BTreeMap<Vec<u8>, Line>,
}

/// What can be seen of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its type.
    pub kind: Kind,
    /// Permission bits, `0` to `0o7777`.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Names that lead to it; for a directory 2 plus its subdirectories.
    pub nlink: u64,
    /// The first path of the inode in byte order: equal for all its hard links.
    pub first_name: Vec<u8>,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// Major and minor number of a device.
    pub rdev: (u32, u32),
    /// Size and content mark of a regular file.
    pub content: Option<(u64, String)>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl TreeDump {
    /// Creates a dump from lines, with `first_name` filled in from each path's inode identity.
    pub fn of<Id: Ord>(lines: impl IntoIterator<Item = (Vec<u8>, Id, Line)>) -> Self {
        let mut all: Vec<_> = lines.into_iter().collect();
        all.sort_by(|(left, ..), (right, ..)| left.cmp(right));
        let mut first_names: BTreeMap<Id, Vec<u8>> = BTreeMap::new();
        let mut dump = Self::default();
        for (path, id, mut line) in all {
            line.first_name = first_names.entry(id).or_insert_with(|| path.clone()).clone();
            dump.lines.insert(path, line);
        }
        dump
    }

    /// Changes every line, so that a comparison ignores differences that an oracle cannot avoid.
    #[must_use]
    pub fn map(mut self, mut change: impl FnMut(&[u8], &mut Line)) -> Self {
        self.lines.iter_mut().for_each(|(path, line)| change(path, line));
        self
    }

    /// Sets every `nlink` to the number of names in this tree.
    #[must_use]
    pub fn with_counted_links(mut self) -> Self {
        let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for (path, line) in &self.lines {
            if line.kind == Kind::Directory {
                *counts.entry(path.clone()).or_insert(0) += 2;
                if path != b"/" {
                    *counts.entry(parent(path).to_vec()).or_insert(0) += 1;
                }
            } else {
                *counts.entry(line.first_name.clone()).or_insert(0) += 1;
            }
        }
        for line in self.lines.values_mut() {
            line.nlink = counts[&line.first_name];
        }
        self
    }

    /// Returns the paths whose lines differ, or that only one of the two has.
    #[must_use]
    pub fn differing_paths(&self, other: &Self) -> BTreeSet<Vec<u8>> {
        let all: BTreeSet<&Vec<u8>> = self.lines.keys().chain(other.lines.keys()).collect();
        all.into_iter().filter(|path| self.lines.get(*path) != other.lines.get(*path)).cloned().collect()
    }

    /// Returns the lines that differ as text, with `-` for this tree and `+` for the other. Empty if they are equal.
    #[must_use]
    pub fn difference(&self, other: &Self) -> String {
        let mut text = String::new();
        for path in self.differing_paths(other) {
            for (sign, dump) in [('-', self), ('+', other)] {
                if let Some(line) = dump.lines.get(&path) {
                    text.push_str(&format!("{sign} {} {line}\n", quote(&path)));
                }
            }
        }
        text
    }
}

/// Returns the parent of `path`, which is `/` for names in the root.
fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&byte| byte == b'/') {
        None | Some(0) => b"/",
        Some(slash) => &path[..slash],
    }
}

impl fmt::Display for TreeDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|(path, line)| writeln!(f, "{}\t{line}", quote(path)))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, permissions, uid, gid, mtime, nlink, .. } = self;
        write!(f, "{kind:?} {permissions:04o} {uid}:{gid} mtime={mtime} nlink={nlink}")?;
        write!(f, " inode={}", quote(&self.first_name))?;
        if let Some(target) = &self.target {
            write!(f, " -> {}", quote(target))?;
        }
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            write!(f, " {},{}", self.rdev.0, self.rdev.1)?;
        }
        if let Some((size, mark)) = &self.content {
            write!(f, " size={size} {mark}")?;
        }
        for (name, value) in &self.xattrs {
            let shown = &value[..value.len().min(64)];
            write!(f, " xattr.{}={}", quote(name), quote_always(shown))?;
            if shown.len() < value.len() {
                write!(f, "...{} bytes", value.len())?;
            }
        }
        Ok(())
    }
}
