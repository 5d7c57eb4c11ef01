//! Makes one layer out of two adjacent ones, to test that merging is associative.

use anyhow::Result;

use super::model::{Inodes, LayerTree, Place, remove_below};
use super::paths::Components;
use super::stack::{Content, Entry, Frame, Layer, Node};
use super::text::{opaque_marker_in, whiteout_of};

/// Returns a layer with the same effect on the layers below as `lower` and then `upper`, or `None` if a tar cannot
/// express it.
///
/// # Errors
/// If either is refused.
pub fn flatten(lower: &Layer, upper: &Layer) -> Result<Option<Layer>> {
    let mut inodes = Inodes::default();
    let lower = LayerTree::build(lower, &mut inodes)?;
    let upper = LayerTree::build(upper, &mut inodes)?;
    Ok(combine(lower, &upper, &inodes).and_then(|tree| write(&tree, &inodes)))
}

fn combine(lower: LayerTree, upper: &LayerTree, inodes: &Inodes) -> Option<LayerTree> {
    let before = lower.clone();
    let mut both = lower;
    for hidden in &upper.whiteouts {
        remove_below(&mut both.places, hidden);
        both.places.remove(hidden);
    }
    for directory in &upper.opaque {
        remove_below(&mut both.places, directory);
    }
    both.whiteouts.extend(upper.whiteouts.iter().cloned());
    both.opaque.extend(upper.opaque.iter().cloned());
    for (path, place) in &upper.places {
        let place = match place {
            Place::Below(target) => seen_through(&before, target, inodes)?,
            other => other.clone(),
        };
        match both.places.get(path).map(|there| there.is_directory(inodes)) {
            Some(true) if place == Place::ImplicitDirectory => continue,
            Some(true) if !place.is_directory(inodes) => remove_below(&mut both.places, path),
            // The layers below may have a directory there, which the lower of the two hides.
            Some(false) if place.is_directory(inodes) => drop(both.whiteouts.insert(path.clone())),
            _ => {}
        }
        both.places.insert(path.clone(), place);
    }
    Some(both)
}

/// Returns what a hard link of the upper layer finds at `target` in the lower one.
fn seen_through(lower: &LayerTree, target: &Components, inodes: &Inodes) -> Option<Place> {
    if let Some(place) = lower.places.get(target) {
        return (!place.is_directory(inodes)).then(|| place.clone());
    }
    let hidden = (0..=target.len()).any(|end| {
        let above = &target[..end].to_vec();
        let by_a_file = lower.places.get(above).is_some_and(|place| !place.is_directory(inodes));
        by_a_file || lower.whiteouts.contains(above) || (end < target.len() && lower.opaque.contains(above))
    });
    (!hidden).then(|| Place::Below(target.clone()))
}

fn joined(path: &Components) -> Vec<u8> {
    path.join(&b'/')
}

fn write(tree: &LayerTree, inodes: &Inodes) -> Option<Layer> {
    let empty = || Node::File(Content::Literal(Vec::new()));
    let mut entries: Vec<Entry> = Vec::new();
    entries.extend(tree.whiteouts.iter().map(|path| Entry::new(whiteout_of(&joined(path)), empty())));
    entries.extend(tree.opaque.iter().map(|path| Entry::new(opaque_marker_in(&joined(path)), empty())));
    let mut first_names = std::collections::BTreeMap::new();
    for (path, place) in &tree.places {
        match place {
            Place::Own(id) => {
                let mut entry = inodes.entry(*id)?.clone();
                entry.path = joined(path);
                if entry.path.is_empty() {
                    entry.path = b"./".to_vec();
                }
                if let Some(first) = first_names.insert(*id, entry.path.clone()) {
                    entry = Entry::new(entry.path, Node::HardLink(first.clone()));
                    first_names.insert(*id, first);
                }
                entries.push(entry);
            }
            Place::ImplicitDirectory => {
                let has_content = tree.places.keys().any(|other| other.len() > path.len() && other.starts_with(path));
                if !has_content {
                    return None;
                }
            }
            Place::Below(target) => {
                // A link finds the path of its own layer before the one below.
                if tree.places.get(target).is_some_and(|there| there != place) {
                    return None;
                }
                entries.push(Entry::new(joined(path), Node::HardLink(joined(target))));
            }
            Place::Pending(_) => return None,
        }
    }
    Some(Layer { entries, frame: Frame::default() })
}
