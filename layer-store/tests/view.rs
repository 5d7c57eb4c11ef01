//! Layers go in as tars and come out as one tree.

use std::io::Write;

use layer_store::{DiffId, ExpectedLayer, Ino, Kind, Store, View};

/// A store of its own with layers made of tar entries.
struct Fixture {
    store: Store,
    _directory: tempfile::TempDir,
    layers: Vec<DiffId>,
}

enum Node<'a> {
    Dir(&'a str, u32),
    File(&'a str, &'a str),
    Link(&'a str, &'a str),
    Symlink(&'a str, &'a str),
}

fn tar(nodes: &[Node<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for node in nodes {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(7);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match *node {
            Node::Dir(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(mode);
                builder.append_data(&mut header, path, std::io::empty()).expect("an entry");
            }
            Node::File(path, content) => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, content.as_bytes()).expect("an entry");
            }
            Node::Link(path, target) => {
                header.set_entry_type(tar::EntryType::Link);
                builder.append_link(&mut header, path, target).expect("an entry");
            }
            Node::Symlink(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, target).expect("an entry");
            }
        }
    }
    builder.into_inner().expect("a tar")
}

impl Fixture {
    fn new(layers: &[&[Node<'_>]]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        let layers = layers.iter().map(|nodes| ingest(&store, &tar(nodes))).collect();
        Self { store, _directory: directory, layers }
    }

    fn view(&self) -> View {
        let base = self.store.prepare_layers(&self.layers, &[], &mut || {}).expect("a base");
        self.store.open_view(&base).expect("a view")
    }
}

fn ingest(store: &Store, tar: &[u8]) -> DiffId {
    store.ingest(&mut &*tar, &ExpectedLayer::default()).expect("a layer").diff_id
}

fn find(view: &View, path: &str) -> Option<Ino> {
    path.split('/')
        .filter(|name| !name.is_empty())
        .try_fold(Ino::ROOT, |dir, name| view.lookup(dir, name.as_bytes()).expect("a directory"))
}

fn content(view: &View, path: &str) -> String {
    let mut bytes = vec![0; 1000];
    let length = view.read(find(view, path).expect(path), 0, &mut bytes).expect("content");
    bytes.truncate(length);
    String::from_utf8(bytes).expect("text")
}

fn names(view: &View, path: &str) -> Vec<String> {
    let dir = find(view, path).expect(path);
    let entries = view.entries(dir, 0).expect("a directory");
    entries.map(|entry| String::from_utf8(entry.name.to_vec()).expect("text")).collect()
}

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
fn opaque_directories_hide_what_is_below_whatever_the_order() {
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
fn a_damaged_index_or_base_is_made_anew_from_the_blob() {
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
