//! Random stacks: with few names, so that these collide, and with links only to what exists.

use std::collections::{BTreeMap, BTreeSet};

use end_to_end::conformance::model::{Inodes, LayerTree, Merged};
use end_to_end::conformance::paths::{Components, image_path, normalise};
use end_to_end::conformance::stack::{Content, Entry, Frame, Layer, Mtime, Node, Stack};
use proptest::prelude::*;
use proptest::sample::Index;

/// The names in paths: prefixes of each other, not UTF-8, larger and smaller than `/`.
const NAMES: [&[u8]; 6] = [b"a", b"b", b"a.b", b"\xff\xfe", b"a-", b"c"];

/// What an entry of a random layer creates at its path.
#[derive(Clone, Debug)]
enum Act {
    Directory,
    File(u8),
    Symlink,
    Fifo,
    Device(u8),
    /// Another name of an existing file, in this layer or below.
    Link(Index),
    Whiteout,
    Opaque,
}

/// One entry of a random layer.
#[derive(Clone, Debug)]
struct Step {
    path: Vec<usize>,
    act: Act,
    /// A number that mode, owner and time are made from.
    flavour: u16,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Directory),
        4 => (0..4_u8).prop_map(Act::File),
        1 => Just(Act::Symlink),
        1 => Just(Act::Fifo),
        1 => (1..3_u8).prop_map(Act::Device),
        3 => any::<Index>().prop_map(Act::Link),
        2 => Just(Act::Whiteout),
        1 => Just(Act::Opaque),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let path = prop_oneof![
        8 => prop::collection::vec(0..3_usize, 1..4),
        2 => prop::collection::vec(0..NAMES.len(), 0..7),
    ];
    (path, act(), any::<u16>()).prop_map(|(path, act, flavour)| Step { path, act, flavour })
}

/// Stacks of one to twelve layers, shallow and deep, some with a wide directory.
pub(crate) fn stacks() -> impl Strategy<Value = Stack> {
    let layer = (prop::collection::vec(step(), 0..14), prop::option::weighted(0.1, 2..60_usize));
    prop::collection::vec(layer, 1..=12).prop_map(|layers| build(&layers))
}

fn build(layers: &[(Vec<Step>, Option<usize>)]) -> Stack {
    let mut stack = Stack::default();
    let mut inodes = Inodes::default();
    let mut merged = Merged::nothing(&mut inodes);
    for (steps, wide) in layers {
        let below: Vec<Components> = merged.0.keys().cloned().collect();
        let mut layer = Layer { entries: Vec::new(), frame: Frame::default() };
        for step in steps {
            let entry = entry_of(step, &layer.entries, &below);
            add_if_taken(&mut layer, entry, &merged, &mut inodes);
        }
        for number in 0..wide.unwrap_or(0) {
            layer.entries.push(Entry::new(format!("wide/n{number}"), Node::Fifo));
        }
        let tree = LayerTree::build(&layer, &mut inodes).expect("only entries that are taken are in it");
        merged.add(&tree, &mut inodes).expect("only entries that are taken are in it");
        stack.layers.push(layer);
    }
    stack
}

/// Adds the entry unless the layer would then have to be refused.
fn add_if_taken(layer: &mut Layer, entry: Entry, merged: &Merged, inodes: &mut Inodes) {
    layer.entries.push(entry);
    let taken = inodes.trying(|inodes| LayerTree::build(layer, inodes).and_then(|tree| merged.takes(&tree, inodes)));
    if taken.is_err() {
        layer.entries.pop();
    }
}

fn entry_of(step: &Step, own: &[Entry], below: &[Components]) -> Entry {
    let path = step.path.iter().map(|&name| NAMES[name]).collect::<Vec<_>>().join(&b'/');
    let node = match &step.act {
        Act::Directory => Node::Directory,
        Act::File(content) => Node::File(Content::Literal(vec![b'0' + content; usize::from(*content)])),
        Act::Symlink => Node::Symlink(b"a/b".to_vec()),
        Act::Fifo => Node::Fifo,
        Act::Device(minor) => Node::CharDevice(1, u32::from(*minor)),
        Act::Link(chosen) => {
            let own = own.iter().map(|entry| entry.path.clone());
            let all: Vec<Vec<u8>> = own.chain(below.iter().map(|path| image_path(path))).collect();
            Node::HardLink(if all.is_empty() { path.clone() } else { chosen.get(&all).clone() })
        }
        Act::Whiteout | Act::Opaque => {
            let marker = if matches!(step.act, Act::Opaque) { &b".wh..wh..opq"[..] } else { b"" };
            let base = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
            let path = match &step.act {
                Act::Opaque if path.is_empty() => marker.to_vec(),
                Act::Opaque => [&path[..], b"/", marker].concat(),
                _ => [&path[..base], b".wh.", &path[base..]].concat(),
            };
            return Entry::new(path, Node::File(Content::Literal(Vec::new())));
        }
    };
    let mut entry = Entry::new(if path.is_empty() { b"./".to_vec() } else { path }, node);
    let flavour = step.flavour;
    entry.mode = (flavour & 1 != 0).then_some(u32::from(flavour >> 4));
    entry.uid = (flavour & 2 != 0).then_some(u64::from(flavour >> 8));
    entry.mtime = (flavour & 4 != 0).then_some(Mtime { seconds: i64::from(flavour), nanoseconds: u32::from(flavour) });
    if flavour & 8 != 0 {
        entry.xattrs.push((b"user.flavour".to_vec(), flavour.to_le_bytes().to_vec()));
    }
    entry
}

/// Leaves only entries whose order does not matter: one for each path, and none below a non-directory. The target of a
/// hard link is not below one either, and no links of a layer link to each other in a circle, of which the first links
/// to a file of a layer below.
pub(crate) fn without_collisions(stack: &Stack) -> Stack {
    let mut calm = stack.clone();
    for layer in &mut calm.layers {
        let mut files: BTreeSet<Components> = BTreeSet::new();
        let mut above: BTreeSet<Components> = BTreeSet::new();
        let mut seen: BTreeSet<Components> = BTreeSet::new();
        let mut links: BTreeMap<Components, Components> = BTreeMap::new();
        layer.entries.retain(|entry| {
            let path = normalise(&entry.path).expect("random paths stay in the root");
            let parents: Vec<Components> = (0..path.len()).map(|end| path[..end].to_vec()).collect();
            let is_directory = entry.node == Node::Directory;
            let collides =
                parents.iter().any(|parent| files.contains(parent)) || (!is_directory && above.contains(&path));
            if collides || !seen.insert(path.clone()) {
                return false;
            }
            if let Node::HardLink(target) = &entry.node
                && let Ok(target) = normalise(target)
            {
                if std::iter::successors(Some(&target), |target| links.get(*target)).any(|target| *target == path) {
                    return false;
                }
                links.insert(path.clone(), target);
            }
            above.extend(parents);
            if !is_directory {
                files.insert(path);
            }
            true
        });
        layer.entries.retain(|entry| match &entry.node {
            Node::HardLink(target) => {
                normalise(target).map_or(true, |target| (1..target.len()).all(|end| !files.contains(&target[..end])))
            }
            _ => true,
        });
    }
    calm
}
