//! Stores for tests to damage.

use std::fs;
use std::path::{Path, PathBuf};

use end_to_end::conformance::dump::TreeDump;
use end_to_end::conformance::{scratch, subject};
use end_to_end::layout::Layer;
use layer_store::{BaseId, DiffId, ExpectedLayer, Silent, Store, View};

/// A store with one prepared stack of layers, and the tree that it shows.
pub(crate) struct Kept {
    root: tempfile::TempDir,
    pub(crate) layers: Vec<DiffId>,
    pub(crate) base: BaseId,
    pub(crate) tree: TreeDump,
}

impl Kept {
    pub(crate) fn of(layers: &[Layer]) -> Self {
        let root = scratch().expect("a directory");
        let store = Store::open(root.path()).expect("a store");
        let ingest = |layer: &Layer| {
            store.layers().ingest(&mut layer.tar(), &ExpectedLayer::default()).expect("a layer").diff_id
        };
        let layers: Vec<_> = layers.iter().map(ingest).collect();
        let base = store.bases().prepare_layers(&layers, &[], &Silent).expect("a base");
        let tree = subject::dump(&store.bases().open(&base).expect("a view")).expect("a tree");
        Self { root, layers, base, tree }
    }

    /// The store, opened as by a new command.
    pub(crate) fn store(&self) -> Store {
        Store::open(self.root.path()).expect("the store")
    }

    /// Prepares and opens the stack as every command does.
    pub(crate) fn view(&self) -> Result<View, layer_store::StoreError> {
        let store = self.store();
        let base = store.bases().prepare_layers(&self.layers, &[], &Silent)?;
        assert_eq!(base, self.base);
        store.bases().open(&base)
    }

    /// Checks that the stack shows the tree that it should; `damage` says what was done to the store.
    pub(crate) fn assert_shows_its_tree(&self, damage: &str) {
        let view = self.view().unwrap_or_else(|error| panic!("{damage}: {error}"));
        let tree = subject::dump(&view).unwrap_or_else(|error| panic!("{damage}: {error:#}"));
        assert!(tree == self.tree, "{damage}:\n{}", self.tree.difference(&tree));
    }

    /// A file of a layer: `blob` or `index`.
    pub(crate) fn of_layer(&self, number: usize, name: &str) -> PathBuf {
        self.root.path().join("layers/sha256").join(self.layers[number].0.hex()).join(name)
    }

    /// A file of the base: `index` or `recipe`.
    pub(crate) fn of_base(&self, name: &str) -> PathBuf {
        self.root.path().join("bases").join(self.base.to_string().trim_start_matches("sha256:")).join(name)
    }
}

/// Replaces a file that processes may have mapped.
pub(crate) fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, bytes).expect("a file of the store");
    fs::rename(&new, path).expect("a file of the store");
}

/// Changes a bit of one byte of a file, in place.
pub(crate) fn flip(path: &Path, position: usize) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().read(true).write(true).open(path).expect("a file of the store");
    let mut byte = [0];
    file.read_exact_at(&mut byte, position as u64).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], position as u64).expect("a byte");
}

/// Two layers with merged directories, whiteouts, links across layers, attributes and a sparse file.
pub(crate) fn small_layers() -> [Layer; 2] {
    let lower = "
        mkdir -p both/deep lower hidden; echo one > both/one; ln both/one lower/one; echo two > both/deep/two
        ln -s one both/link; mkfifo lower/fifo; mknod lower/null c 1 3; echo hidden > hidden/file; echo gone > gone
        setfattr -n user.mime -v text/plain both/one; truncate -s 100000 lower/sparse
        echo data | dd of=lower/sparse bs=1 seek=50000 conv=notrunc status=none
        find . -exec touch -hd @1000000000 {} +
    ";
    let upper = "
        mkdir -p both/new hidden upper; echo three > both/new/three; touch .wh.gone hidden/.wh..wh..opq
        chmod 700 both; chown 1001:1001 upper; find . -exec touch -hd @1000000001 {} +
    ";
    [Layer::of_script_sparse(lower), Layer::of_script(upper)]
}

/// Positions of a file of `length` bytes, at most `count` of them, evenly spread, including the first and the last.
pub(crate) fn sampled(length: usize, count: usize) -> Vec<usize> {
    let last = length.saturating_sub(1);
    let mut positions: Vec<_> = (0..count).map(|step| last * step / (count - 1)).collect();
    positions.dedup();
    positions
}
