//! Layers of another store that must stay available here after its owner collects them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use layer_store::{DiffId, Provenance, Silent, Store};
use test_support::noise;

use crate::fixture::{Node, content, ingest, tar};
use crate::lifecycle::tag;
use crate::sharing::tar_of;

const IMAGE: &str = "registry.example/lent:1";
const MADE: &str = "registry.example/made:1";

/// A store with an image, and a second store that reads it.
struct Beside {
    lender: tempfile::TempDir,
    own: tempfile::TempDir,
    layers: Vec<DiffId>,
}

impl Beside {
    fn new(tars: &[Vec<u8>]) -> Self {
        let directory = || tempfile::tempdir().expect("a directory");
        let (lender, own) = (directory(), directory());
        let store = Store::open(lender.path()).expect("a store");
        let layers: Vec<_> = tars.iter().map(|tar| ingest(&store, tar)).collect();
        tag(&store, IMAGE, &layers);
        Self { lender, own, layers }
    }

    fn small() -> Self {
        Self::new(&[tar(&[Node::File("lent", "1")])])
    }

    fn store(&self) -> Store {
        let own = Store::open(self.own.path()).expect("the own store");
        own.with_additional(&[self.lender.path().to_owned()]).expect("both stores")
    }

    /// Removes everything from the other store.
    fn lender_collects(&self) {
        let store = Store::open(self.lender.path()).expect("the store");
        store.images().untag(IMAGE).expect("untagged");
        store.collect(false).expect("a collection");
        let left = fs::read_dir(self.lender.path().join("layers/sha256")).expect("layers").count();
        assert_eq!(left, 0, "nothing keeps what nobody there needs");
    }

    fn tar_in(&self, store: &Path) -> fs::Metadata {
        let blob = store.join("layers/sha256").join(self.layers[0].0.hex()).join("blob");
        fs::metadata(blob).expect("the tar")
    }
}

#[test]
fn committed_image_has_all_it_needs_in_the_own_store() {
    let beside = Beside::small();
    let store = beside.store();
    let image = store.images().get(IMAGE).expect("the image");
    let top = ingest(&store, &tar(&[Node::File("written", "2")]));
    store.images().commit(&image.manifest_digest, &[top], &[], &Provenance::default(), MADE).expect("committed");
    drop(store);
    beside.lender_collects();
    let store = beside.store();
    let image = store.images().get(MADE).expect("the image");
    let base = store.bases().prepare(&image, &[], &Silent).expect("a base");
    let view = store.bases().open(&base).expect("a view");
    assert_eq!((content(&view, "lent"), content(&view, "written")), ("1".into(), "2".into()));
}

#[test]
fn pin_of_adopted_layers_keeps_an_image_that_the_other_store_lost() {
    let beside = Beside::small();
    let holder = beside.own.path().with_extension("machine");
    fs::create_dir(&holder).expect("a holder");
    let store = beside.store();
    let image = store.images().get(IMAGE).expect("the image");
    store.layers().adopt(&image.layers).expect("adopted");
    store.pins().add(&holder, "machine m", &image.manifest_digest, &image.layers, &[]).expect("pinned");
    let base = store.bases().prepare(&image, &[], &Silent).expect("a base");
    drop(store);
    beside.lender_collects();
    let store = beside.store();
    store.collect(false).expect("a collection");
    assert_eq!(content(&store.bases().open(&base).expect("a view"), "lent"), "1");
    // The manifest and configuration too, for a commit.
    store.images().commit(&image.manifest_digest, &[], &[], &Provenance::default(), MADE).expect("committed");
    fs::remove_dir(&holder).expect("removed");
}

#[test]
fn whole_tar_of_the_same_owner_takes_no_space_again() {
    let beside = Beside::small();
    beside.store().layers().adopt_if_free(&beside.layers).expect("adopted");
    let (lent, own) = (beside.tar_in(beside.lender.path()), beside.tar_in(beside.own.path()));
    // On a file system with reflinks it is a separate file.
    assert!(lent.ino() == own.ino() || lent.nlink() == 1, "{lent:?} {own:?}");
    assert_eq!(beside.store().layers().verify(&beside.layers[0], &Silent).expect("verified"), None);
}

/// Its holes are filled, or remain holes if layers of the reading store have the content.
#[test]
fn thin_layer_is_adopted_with_its_content() {
    let common = noise(1, 300_000);
    let tars =
        [tar_of(&[("a", &common), ("own", &noise(2, 5_000))]), tar_of(&[("b", &noise(3, 5_000)), ("c", &common)])];
    let beside = Beside::new(&tars);
    let thin = beside.layers[1];
    assert!(beside.lender.path().join("layers/sha256").join(thin.0.hex()).join("thin").is_file());
    beside.store().layers().adopt_if_free([&thin]).expect("nothing to do");
    assert_eq!(beside.store().layers().store_of(&thin), Some(beside.lender.path()), "that would take space");
    beside.store().layers().adopt([&thin]).expect("adopted");
    tag(&beside.store(), MADE, &[thin]);
    beside.lender_collects();
    let store = beside.store();
    store.collect(false).expect("a collection");
    assert_eq!(store.layers().store_of(&thin), Some(beside.own.path()));
    assert_eq!(store.layers().verify(&thin, &Silent).expect("verified"), None);
}

#[test]
fn layer_that_no_store_has_is_an_error_that_names_it() {
    let beside = Beside::small();
    let missing = DiffId(layer_store::Digest::of(b"nowhere"));
    let error = beside.store().layers().adopt([&missing]).expect_err("refused");
    assert!(error.to_string().contains(&missing.to_string()), "{error}");
}

/// The own user's other store is used in place, but what enters this store is verified.
#[test]
fn changed_layer_of_an_additional_store_enters_the_own_store_by_no_way() {
    let beside = Beside::small();
    let blob = beside.lender.path().join("layers/sha256").join(beside.layers[0].0.hex()).join("blob");
    let mut bytes = fs::read(&blob).expect("the tar");
    bytes[600] ^= 1;
    fs::write(&blob, bytes).expect("a changed tar");
    let store = beside.store();
    let image = store.images().get(IMAGE).expect("the image");
    for adopted in [store.layers().adopt(&beside.layers), store.layers().adopt_if_free(&beside.layers)] {
        let error = adopted.expect_err("a wrong digest").to_string();
        assert!(error.contains(&beside.layers[0].to_string()) && error.contains("digest"), "{error}");
    }
    let committed = store.images().commit(&image.manifest_digest, &[], &[], &Provenance::default(), MADE);
    let error = committed.expect_err("a wrong digest").to_string();
    assert!(error.contains(&beside.layers[0].to_string()), "{error}");
    assert_eq!(fs::read_dir(beside.own.path().join("layers/sha256")).expect("layers").count(), 0);
}
