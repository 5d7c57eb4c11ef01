//! A temporary store, filled with layers made of tar entries.

use layer_store::{DiffId, ExpectedLayer, Ino, Silent, Store, View};

/// A temporary store with layers made of tar entries.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) layers: Vec<DiffId>,
}

/// One entry of a tar.
pub(crate) enum Node<'a> {
    Dir(&'a str, u32),
    File(&'a str, &'a str),
    Link(&'a str, &'a str),
    Symlink(&'a str, &'a str),
}

pub(crate) fn tar(nodes: &[Node<'_>]) -> Vec<u8> {
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
    pub(crate) fn new(layers: &[&[Node<'_>]]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        let layers = layers.iter().map(|nodes| ingest(&store, &tar(nodes))).collect();
        Self { store, directory, layers }
    }

    pub(crate) fn view(&self) -> View {
        let base = self.store.bases().prepare_layers(&self.layers, &[], &Silent).expect("a base");
        self.store.bases().open(&base).expect("a view")
    }
}

pub(crate) fn ingest(store: &Store, tar: &[u8]) -> DiffId {
    store.layers().ingest(&mut &*tar, &ExpectedLayer::default()).expect("a layer").diff_id
}

pub(crate) fn find(view: &View, path: &str) -> Option<Ino> {
    path.split('/')
        .filter(|name| !name.is_empty())
        .try_fold(Ino::ROOT, |dir, name| view.lookup(dir, name.as_bytes()).expect("a directory"))
}

pub(crate) fn content(view: &View, path: &str) -> String {
    let mut bytes = vec![0; 1000];
    let length = view.read(find(view, path).expect(path), 0, &mut bytes).expect("content");
    bytes.truncate(length);
    String::from_utf8(bytes).expect("text")
}

pub(crate) fn names(view: &View, path: &str) -> Vec<String> {
    let dir = find(view, path).expect(path);
    let entries = view.entries(dir, 0).expect("a directory");
    entries.map(|entry| String::from_utf8(entry.name.to_vec()).expect("text")).collect()
}
