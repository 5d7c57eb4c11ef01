//! Cases 48, 56 and 58: the name of a layer, and what a view promises to a server.

use std::collections::{BTreeMap, BTreeSet};

use end_to_end::conformance::stack::{Entry, Layer, Node, Packing, Stack};
use end_to_end::conformance::subject::{Subject, dump};
use layer_store::{DiffId, Digest, ExpectedLayer, IngestError, Ino, View};

fn subject() -> Subject {
    Subject::new().expect("a store in memory")
}

fn stack(text: &str) -> Stack {
    text.parse().expect("a stack")
}

/// Every path below `directory` and its inode number.
fn numbers(view: &View, directory: Ino, path: &str, into: &mut BTreeMap<String, Ino>) {
    into.insert(path.to_owned(), directory);
    for entry in view.entries(directory, 0).expect("a directory") {
        let path = format!("{path}/{}", entry.name.escape_ascii());
        if entry.kind == layer_store::Kind::Directory {
            numbers(view, entry.ino, &path, into);
        } else {
            into.insert(path, entry.ino);
        }
    }
}

/// Case 48.
#[test]
fn layer_is_stored_once_however_it_is_packed() {
    let subject = subject();
    let mut layer = stack("layer\n file a fill=5000").layers.remove(0);
    let name = DiffId(Digest::of(&layer.tar()));
    for (packing, members) in [(Packing::Gzip, 1), (Packing::Zstd, 1), (Packing::Plain, 1), (Packing::Gzip, 3)] {
        (layer.frame.packing, layer.frame.members) = (packing, members);
        let was_there = subject.store().layers().has(&name);
        let expected = ExpectedLayer { compressed: Some(Digest::of(&layer.packed()).into()), diff_id: Some(name) };
        let taken = subject.store().layers().ingest(&mut &layer.packed()[..], &expected).expect("the layer is taken");
        assert_eq!((taken.diff_id, taken.was_present), (name, was_there), "{packing:?}");
        assert_eq!(subject.store().layers().by_compressed(&Digest::of(&layer.packed())), Some(name), "{packing:?}");
    }
}

/// Case 48.
#[test]
fn layer_of_another_digest_is_refused() {
    let layer = stack("layer gzip\n file a \"a\"").layers.remove(0);
    let other = Digest::of(b"something else");
    let subject = subject();
    let expected = ExpectedLayer { compressed: Some(other.into()), diff_id: None };
    let refused = subject.store().layers().ingest(&mut &layer.packed()[..], &expected);
    assert!(matches!(refused, Err(IngestError::WrongDigest { .. })), "{refused:?}");
    let expected = ExpectedLayer { compressed: None, diff_id: Some(DiffId(other)) };
    let refused = subject.store().layers().ingest(&mut &layer.packed()[..], &expected);
    assert!(matches!(refused, Err(IngestError::WrongDiffId { .. })), "{refused:?}");
    assert!(!subject.store().layers().has(&DiffId(Digest::of(&layer.tar()))), "the refused layer is in the store");
}

/// Case 56.
#[test]
fn inode_numbers_are_the_same_when_the_base_is_opened_again() {
    let text = stack(
        "layer
           dir  d
           file d/a
           link d/b -> d/a
           dir  d/e
         layer
           file d/c
           link f -> d/a
           dir  g/h",
    );
    let subject = subject();
    let base = subject.prepare(&text).expect("the stack is taken");
    let [first, second] = [(), ()].map(|()| {
        let view = subject.store().bases().open(&base).expect("the base is there");
        let mut all = BTreeMap::new();
        numbers(&view, Ino::ROOT, "", &mut all);
        all
    });
    assert_eq!(first, second);
    assert_eq!(first["/d/a"], first["/f"]);
    let distinct: BTreeSet<Ino> = first.values().copied().collect();
    assert_eq!(distinct.len(), first.len() - 2, "only the three names of one file share a number: {first:?}");
}

/// Case 56: holes take no blocks; content takes whole ones of 4 KiB, as on ext4.
#[test]
fn blocks_count_content_and_not_holes() {
    let view = subject()
        .view(&stack("layer\n file whole fill=5000\n file hole size=1000000\n file some size=1000000 data=4096+1024"))
        .expect("the stack is taken");
    for (name, blocks) in [(&b"whole"[..], 16), (b"hole", 0), (b"some", 8)] {
        let ino = view.lookup(Ino::ROOT, name).expect("a directory").expect("the file");
        assert_eq!(view.attr(ino).expect("an inode").blocks, blocks, "{}", name.escape_ascii());
    }
}

/// Case 58: in one layer's own directory, and in one that two layers share.
#[test]
fn cookies_of_a_directory_of_200_000_entries_lead_on_from_anywhere() {
    const ENTRIES: usize = 200_000;
    let name = |number: usize| format!("d/entry-{number:07}");
    let whole = Layer {
        entries: (0..ENTRIES).map(|number| Entry::new(name(number), Node::Fifo)).collect(),
        ..Layer::default()
    };
    let (mut even, mut odd) = (Layer::default(), Layer::default());
    for (number, entry) in whole.entries.iter().enumerate() {
        if number % 2 == 0 { &mut even } else { &mut odd }.entries.push(entry.clone());
    }
    for layers in [vec![whole], vec![even, odd]] {
        let view = subject().view(&Stack { layers }).expect("the stack is taken");
        let directory = view.lookup(Ino::ROOT, b"d").expect("a directory").expect("d");
        std::thread::scope(|scope| {
            for start in 0..4 {
                let view = &view;
                scope.spawn(move || walk_from_everywhere(view, directory, start, ENTRIES));
            }
        });
    }
}

/// Reads the directory once from end to end, and then onwards from many places in it, the last one first.
fn walk_from_everywhere(view: &View, directory: Ino, start: usize, count: usize) {
    let all: Vec<_> = view.entries(directory, 0).expect("a directory").collect();
    assert_eq!(all.len(), count);
    assert!(all.is_sorted_by(|left, right| left.name < right.name));
    for position in (start..count).step_by(977).rev() {
        let rest = view.entries(directory, all[position].cookie).expect("a directory");
        assert!(rest.take(3).eq(all[position + 1..].iter().copied().take(3)), "after {position}");
    }
    let last = all[count - 1];
    assert!(view.entries(directory, last.cookie).expect("a directory").next().is_none());
}

/// Inode numbers that were never returned are an error.
#[test]
fn numbers_that_name_nothing_are_refused() {
    let view = subject().view(&stack("layer\n file a\nlayer\n file b")).expect("the stack is taken");
    let mut known = BTreeMap::new();
    numbers(&view, Ino::ROOT, "", &mut known);
    for raw in (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) + 1, (1 << bit) - 1, u64::MAX - (1 << bit)]) {
        let ino = Ino::from_raw(raw);
        if !known.values().any(|other| *other == ino) {
            // A record that the merged tree hides may still be read, but never as another inode.
            assert!(view.attr(ino).map_or(true, |attr| attr.ino == ino), "{ino:?}");
        }
        let _ = (view.lookup(ino, b"a"), view.parent(ino), view.readlink(ino), view.read(ino, u64::MAX, &mut [0; 8]));
        let _ = view.entries(ino, u64::MAX).map(Iterator::count);
    }
    dump(&view).expect("the view still answers");
}
