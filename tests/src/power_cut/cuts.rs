//! The disks that a power cut may leave.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use super::disk::{Disk, Names, Node, Number, TOP};

/// Which of the unsynced changes are on the disk anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    None,
    All,
    /// The first half of the changes to each directory.
    FirstHalf,
    /// The changes to this directory, and no others.
    Only(Number),
    /// The changes to every directory except this one.
    AllBut(Number),
}

/// How much of a file's unsynced content is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Nothing,
    FirstHalf,
    /// The right number of bytes, all of them zero.
    Zeros,
}

/// One disk that a cut at some moment may leave.
#[derive(Debug, Clone)]
pub struct Cut {
    /// When, and what is kept: for messages.
    pub label: String,
    tree: Tree,
}

#[derive(Debug, Clone, Hash)]
enum Tree {
    File(Vec<u8>),
    Directory(Vec<(std::path::PathBuf, Tree)>),
}

impl Disk {
    /// Every disk that a cut now may leave and that is not in `seen`.
    #[must_use]
    pub fn cuts(&self, moment: &str, seen: &mut HashSet<u64>) -> Vec<Cut> {
        let changed: Vec<Number> = (0..self.nodes.len()).filter(|number| self.is_changed(*number)).collect();
        let mut kept = vec![Kept::None, Kept::All, Kept::FirstHalf];
        kept.extend(changed.iter().flat_map(|number| [Kept::Only(*number), Kept::AllBut(*number)]));
        let mut cuts = Vec::new();
        for kept in kept {
            for content in [Content::Nothing, Content::FirstHalf, Content::Zeros] {
                let tree = self.tree(TOP, kept, content);
                let mut hasher = DefaultHasher::new();
                tree.hash(&mut hasher);
                if seen.insert(hasher.finish()) {
                    cuts.push(Cut { label: format!("{moment}: names {kept:?}, content {content:?}"), tree });
                }
            }
        }
        cuts
    }

    fn is_changed(&self, number: Number) -> bool {
        matches!(&self.nodes[number], Node::Directory { pending, .. } if !pending.is_empty())
    }

    fn tree(&self, number: Number, kept: Kept, content: Content) -> Tree {
        match &self.nodes[number] {
            Node::File { synced: Some(synced), .. } => Tree::File(synced.clone()),
            Node::File { content: written, synced: None } => Tree::File(match content {
                Content::Nothing => Vec::new(),
                Content::FirstHalf => written[..written.len() / 2].to_vec(),
                Content::Zeros => vec![0; written.len()],
            }),
            Node::Directory { synced, pending, .. } => {
                let count = match kept {
                    Kept::None => 0,
                    Kept::All => pending.len(),
                    Kept::FirstHalf => pending.len().div_ceil(2),
                    Kept::Only(only) => {
                        if only == number {
                            pending.len()
                        } else {
                            0
                        }
                    }
                    Kept::AllBut(but) => {
                        if but == number {
                            0
                        } else {
                            pending.len()
                        }
                    }
                };
                let mut names: Names = synced.clone();
                for (name, node) in &pending[..count] {
                    match node {
                        Some(node) => names.insert(name.clone(), *node),
                        None => names.remove(name),
                    };
                }
                let below = names.into_iter().map(|(name, node)| (name, self.tree(node, kept, content)));
                Tree::Directory(below.collect())
            }
        }
    }
}

impl Cut {
    /// Writes the disk below an empty directory.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, to: &Path) {
        let Tree::Directory(names) = &self.tree else { return };
        for (name, tree) in names {
            write(tree, &to.join(name)).unwrap_or_else(|error| panic!("{}: {error}", to.join(name).display()));
        }
    }
}

fn write(tree: &Tree, path: &Path) -> std::io::Result<()> {
    match tree {
        Tree::File(content) => std::fs::write(path, content),
        Tree::Directory(names) => {
            std::fs::create_dir(path)?;
            names.iter().try_for_each(|(name, tree)| write(tree, &path.join(name)))
        }
    }
}
