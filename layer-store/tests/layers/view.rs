//! Layers are stored as tars and shown as one tree.

use std::io::Write;

use layer_store::{Ino, Kind, Store};

use crate::fixture::{Fixture, Node, content, find, ingest, names, tar};

#[test]
fn upper_layers_add_replace_and_delete() {
    use Node::{Dir, File, Symlink};
    let fixture = Fixture::new(&[
        &[Dir("etc", 0o755), File("etc/keep", "1"), File("etc/old", "1"), Dir("gone", 0o755), File("gone/x", "1")],
        &[File("etc/old", "2"), File(".wh.gone", ""), File("etc/.wh.none", ""), Symlink("etc/link", "keep")],
        &[Dir("etc", 0o700), File("etc/new", "3")],
    ]);
    let view = fixture.view();
    assert_eq!(names(&view, ""), ["etc"]);
    assert_eq!(names(&view, "etc"), ["keep", "link", "new", "old"]);
    assert_eq!(content(&view, "etc/old"), "2");
    let etc = view.attr(find(&view, "etc").expect("etc")).expect("attributes");
    assert_eq!((etc.kind, etc.permissions, etc.nlink), (Kind::Directory, 0o700, 2));
    assert_eq!(view.readlink(find(&view, "etc/link").expect("link")).expect("a link"), b"keep");
}

#[test]
fn opaque_directories_hide_what_is_below_in_any_order() {
    use Node::{Dir, File};
    let lower: &[Node<'_>] = &[Dir("d", 0o755), File("d/old", "1")];
    for upper in [
        &[File("d/new", "2"), File("d/.wh..wh..opq", "")][..],
        &[File("d/.wh..wh..opq", ""), File("d/new", "2")][..],
        &[Dir("d", 0o755), File("d/new", "2"), File(".wh.d", "")][..],
    ] {
        let view = Fixture::new(&[lower, upper]).view();
        assert_eq!(names(&view, "d"), ["new"]);
    }
}

#[test]
fn hard_links_share_one_inode_and_count_visible_names() {
    use Node::{File, Link};
    let fixture = Fixture::new(&[
        &[Link("before", "a"), File("a", "1"), Link("dir/b", "a")],
        &[Link("across", "a"), File("dir/.wh.b", "")],
    ]);
    let view = fixture.view();
    let a = find(&view, "a").expect("a");
    assert_eq!(find(&view, "before"), Some(a));
    assert_eq!(find(&view, "across"), Some(a));
    assert_eq!(find(&view, "dir/b"), None);
    assert_eq!(view.attr(a).expect("attributes").nlink, 3);
}

#[test]
fn block_counts_are_whole_blocks_as_on_ext4() {
    use Node::{Dir, File, Symlink};
    let content = "x".repeat(4097);
    let (short, long) = ("t".repeat(59), "t".repeat(60));
    let view = Fixture::new(&[&[
        Dir("dir", 0o755),
        File("empty", ""),
        File("byte", &content[..1]),
        File("block", &content[..4096]),
        File("more", &content),
        Symlink("short", &short),
        Symlink("long", &long),
    ]])
    .view();
    let blocks = |path| view.attr(find(&view, path).expect(path)).expect("attributes").blocks;
    let counts = ["", "dir", "empty", "byte", "block", "more", "short", "long"].map(blocks);
    assert_eq!(counts, [8, 8, 0, 8, 8, 16, 0, 8]);
}

#[test]
fn a_directory_of_one_layer_knows_its_parents_in_the_merged_tree() {
    use Node::{Dir, File};
    let fixture = Fixture::new(&[&[Dir("a/b/c", 0o755), File("a/x", "")], &[File("a/y", "")]]);
    let view = fixture.view();
    let (a, b, c) = (find(&view, "a"), find(&view, "a/b"), find(&view, "a/b/c"));
    assert_eq!(view.parent(c.expect("c")).ok(), b);
    assert_eq!(view.parent(b.expect("b")).ok(), a);
    assert_eq!(view.parent(a.expect("a")).expect("a parent"), Ino::ROOT);
}

#[test]
fn gzip_zstd_and_plain_are_one_layer() {
    let tar = tar(&[Node::File("a", "content")]);
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("a store");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&tar).expect("gzip");
    let zstd = zstd::stream::encode_all(&*tar, 3).expect("zstd");
    let layers = [tar.clone(), gzip.finish().expect("gzip"), zstd].map(|bytes| ingest(&store, &bytes));
    assert!(layers.iter().all(|layer| *layer == layers[0]));
    let blob = directory.path().join("layers/sha256").join(layers[0].0.hex()).join("blob");
    assert_eq!(std::fs::read(blob).expect("the blob"), tar);
}

#[test]
fn a_damaged_index_or_base_is_rebuilt_from_the_blob() {
    use Node::File;
    let fixture = Fixture::new(&[&[File("a", "1")], &[File("b", "2")]]);
    drop(fixture.view());
    let root = fixture.store.root();
    let mut damaged: Vec<_> = fixture.layers.iter().map(|l| root.join("layers/sha256").join(l.0.hex())).collect();
    damaged.extend(std::fs::read_dir(root.join("bases")).expect("bases").map(|base| base.expect("a base").path()));
    for index in damaged.iter().map(|place| place.join("index")) {
        let mut bytes = std::fs::read(&index).expect("an index");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::remove_file(&index).expect("removed");
        std::fs::write(&index, &bytes).expect("written");
    }
    let view = fixture.view();
    assert_eq!(content(&view, "a") + &content(&view, "b"), "12");
}

#[test]
fn a_directory_of_many_names_is_listed_from_any_cookie() {
    let files: Vec<String> = (0..1000).map(|number| format!("d/{number:04}")).collect();
    let nodes: Vec<_> = files.iter().map(|path| Node::File(path, "")).collect();
    let view = Fixture::new(&[&nodes, &[Node::File("other", "")]]).view();
    let dir = find(&view, "d").expect("d");
    let all: Vec<_> = view.entries(dir, 0).expect("entries").collect();
    assert_eq!(all.len(), 1000);
    for after in [0usize, 1, 500, 999, 1000, 5000] {
        let rest: Vec<_> = view.entries(dir, after as u64).expect("entries").collect();
        assert_eq!(rest, all[after.min(1000)..]);
    }
}

/// A search of the lower layer, or of the directory's links, for each of them would take minutes.
#[test]
fn a_hundred_thousand_hard_links_into_a_lower_layer_count_as_names() {
    const LINKS: usize = 100_000;
    let files: Vec<String> = (0..LINKS).map(|number| format!("files/{number:06}")).collect();
    let links: Vec<String> = (0..LINKS).map(|number| format!("links/{number:06}")).collect();
    let chained: Vec<String> = (0..LINKS).map(|number| format!("chained/{number:06}")).collect();
    let lower: Vec<_> = files.iter().map(|file| Node::File(file, "")).collect();
    let middle: Vec<_> = links.iter().zip(&files).map(|(link, file)| Node::Link(link, file)).collect();
    let upper: Vec<_> = chained.iter().zip(&links).map(|(link, file)| Node::Link(link, file)).collect();
    let view = Fixture::new(&[&lower, &middle, &upper]).view();
    for number in [0, LINKS / 2, LINKS - 1] {
        let inodes = [&files, &links, &chained].map(|paths| find(&view, &paths[number]).expect("a file"));
        assert!(inodes.iter().all(|inode| *inode == inodes[0]));
        assert_eq!(view.attr(inodes[0]).expect("attributes").nlink, 3);
    }
}
