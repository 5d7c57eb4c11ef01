//! Content that several layers have is kept once, and readers see no difference.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use layer_store::{DiffId, GarbageKind, Silent, Store, StoreError, View, ViewError};
use test_support::noise;

use crate::fixture::{find, ingest};
use crate::lifecycle::tag;

const LARGE: usize = 1 << 20;

pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).expect("an entry");
    }
    builder.into_inner().expect("a tar")
}

pub(crate) struct Kept {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Kept {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        Self { directory, store }
    }

    /// The store, opened as by another process.
    pub(crate) fn reopen(&mut self) {
        self.store = Store::open(self.directory.path()).expect("the store");
    }

    pub(crate) fn file(&self, layer: &DiffId, name: &str) -> PathBuf {
        self.directory.path().join("layers/sha256").join(layer.0.hex()).join(name)
    }

    pub(crate) fn is_thin(&self, layer: &DiffId) -> bool {
        let (whole, thin) = (self.file(layer, "blob").exists(), self.file(layer, "thin").exists());
        assert_ne!(whole, thin, "a layer is either whole or thin");
        assert_eq!(self.file(layer, "shared").exists(), thin);
        thin
    }

    /// Bytes that a layer's tar takes on the disk.
    pub(crate) fn on_disk(&self, layer: &DiffId) -> u64 {
        let name = if self.is_thin(layer) { "thin" } else { "blob" };
        fs::metadata(self.file(layer, name)).expect("the tar").blocks() * 512
    }

    pub(crate) fn is_sound(&self, layer: &DiffId) {
        assert_eq!(self.store.layers().verify(layer, &Silent).expect("verified"), None);
    }

    pub(crate) fn view(&self, layers: &[DiffId]) -> View {
        let base = self.store.bases().prepare_layers(layers, &[], &Silent).expect("a base");
        self.store.bases().open(&base).expect("a view")
    }

    pub(crate) fn flip(&self, layer: &DiffId, name: &str, content: &[u8]) {
        let path = self.file(layer, name);
        let bytes = fs::read(&path).expect("the tar");
        let at = bytes.windows(64).position(|window| window == &content[..64]).expect("the content") + 50_000;
        let file = fs::File::options().write(true).open(&path).expect("the tar");
        file.write_all_at(&[!bytes[at]], at as u64).expect("written");
    }
}

pub(crate) fn read(view: &View, path: &str) -> Result<Vec<u8>, ViewError> {
    let ino = find(view, path).unwrap_or_else(|| panic!("no {path}"));
    let size = view.attr(ino).expect("attributes").size;
    let mut bytes = vec![1; usize::try_from(size).expect("a size")];
    // In pieces of odd sizes, so that reads begin and end inside and outside of holes.
    for (number, piece) in bytes.chunks_mut(12_345).enumerate() {
        let filled = view.read(ino, number as u64 * 12_345, piece)?;
        assert_eq!(filled, piece.len());
    }
    Ok(bytes)
}

#[test]
fn content_that_another_layer_has_is_kept_once_and_reads_the_same() {
    let (moved, small, own) = (noise(1, LARGE), noise(2, 70_000), noise(3, 100_000));
    let kept = Kept::new();
    let first = ingest(&kept.store, &tar_of(&[("a/moved", &moved), ("a/small", &small)]));
    let tar = tar_of(&[("own", &own), ("b/moved", &moved), ("tiny", b"tiny"), ("b/small", &small), ("empty", b"")]);
    let second = ingest(&kept.store, &tar);
    assert!(!kept.is_thin(&first) && kept.is_thin(&second));
    // Everything except its own content and, for each twin, partial blocks.
    assert!(kept.on_disk(&second) <= 100_000 + 8 * 4096, "{}", kept.on_disk(&second));
    assert_eq!(kept.store.layers().bytes(&second), Some(tar.len() as u64));

    let check = || {
        kept.is_sound(&second);
        let view = kept.view(&[first, second]);
        for (path, content) in [("a/moved", &moved), ("b/moved", &moved), ("b/small", &small), ("own", &own)] {
            assert!(read(&view, path).expect("content") == *content, "{path}");
        }
        assert_eq!(read(&view, "tiny").expect("content"), b"tiny");
        let blocks = |path| view.attr(find(&view, path).expect("a file")).expect("attributes").blocks;
        assert_eq!(blocks("a/moved"), blocks("b/moved"), "where the bytes lie is no property of a file");
    };
    check();
    let index = fs::read(kept.file(&second, "index")).expect("the index");
    fs::remove_file(kept.file(&second, "index")).expect("the index");
    check();
    assert!(fs::read(kept.file(&second, "index")).expect("the index") == index, "an index is made of the tar alone");

    let image = tag(&kept.store, "registry.example/a:1", &[first, second]);
    let out = tempfile::tempdir().expect("a directory");
    kept.store.images().export(&image, &out.path().join("layout"), &Silent).expect("exported");
    let exported = fs::read(out.path().join("layout/blobs/sha256").join(second.0.hex())).expect("a layer");
    assert!(exported == tar, "it is exported byte for byte");

    let described = fs::read_to_string(kept.directory.path().join("store.json")).expect("store.json");
    assert!(described.contains("thin-layers"), "a program that does not know it must refuse the store: {described}");
}

#[test]
fn what_a_layer_repeats_is_kept_once() {
    let content = noise(1, LARGE);
    let kept = Kept::new();
    let layer = ingest(&kept.store, &tar_of(&[("a", &content), ("b", &content), ("c", &content)]));
    assert!(kept.is_thin(&layer) && kept.on_disk(&layer) < 2 * LARGE as u64);
    kept.is_sound(&layer);
    let view = kept.view(&[layer]);
    assert!(["a", "b", "c"].iter().all(|path| read(&view, path).expect("content") == content));
    // Other layers may still borrow it.
    let other = ingest(&kept.store, &tar_of(&[("d", &content)]));
    assert!(kept.on_disk(&other) < 100_000);
    kept.is_sound(&other);
}

#[test]
fn layers_with_little_in_common_and_layers_stored_without_sharing_stay_whole() {
    let content = noise(1, 60_000);
    let kept = Kept::new();
    ingest(&kept.store, &tar_of(&[("a", &content), ("c", &noise(2, LARGE))]));
    assert!(!kept.is_thin(&ingest(&kept.store, &tar_of(&[("b", &content)]))));
    let Kept { directory, store } = kept;
    let kept = Kept { store: store.with_file_sharing(false), directory };
    assert!(!kept.is_thin(&ingest(&kept.store, &tar_of(&[("b", &noise(2, LARGE))]))));
    let described = fs::read_to_string(kept.directory.path().join("store.json")).expect("store.json");
    assert!(!described.contains("thin-layers"), "without thin layers older programs may use the store");
}

#[test]
fn content_of_equal_hash_that_differs_is_not_shared() {
    let (first, second) = (noise(1, LARGE), noise(2, LARGE));
    let kept = Kept::new();
    let donor = ingest(&kept.store, &tar_of(&[("a", &first), ("b", &second)]));
    // Its table is unchanged; its bytes are not.
    kept.flip(&donor, "blob", &first);
    let tar = tar_of(&[("x/b", &second), ("x/a", &first)]);
    let layer = ingest(&kept.store, &tar);
    assert!(kept.is_thin(&layer) && kept.on_disk(&layer) > LARGE as u64, "one of both is shared");
    kept.is_sound(&layer);
    let view = kept.view(&[layer]);
    assert!(read(&view, "x/a").expect("content") == first && read(&view, "x/b").expect("content") == second);

    // A table that is wrong about everything: every hash names another place.
    let table = kept.file(&donor, "contents");
    let mut bytes = fs::read(&table).expect("the table");
    // After the frame's header and the place of its one section.
    let (one, other) = bytes[48..].split_at_mut(32);
    one[..16].swap_with_slice(&mut other[..16]);
    fs::write(&table, &bytes).expect("written");
    let lied_to = ingest(&kept.store, &tar_of(&[("y/b", &second), ("y/a", &first)]));
    kept.is_sound(&lied_to);
}

#[test]
fn any_damage_to_a_table_of_contents_does_no_harm() {
    let content = noise(1, 2 * LARGE);
    let mut kept = Kept::new();
    let donor = ingest(&kept.store, &tar_of(&[("a", &content[..LARGE]), ("b", &content[LARGE..])]));
    let table = kept.file(&donor, "contents");
    let whole = fs::read(&table).expect("the table");
    let tar = tar_of(&[("c", &content[..LARGE])]);
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x10;
        fs::write(&table, &bytes).expect("written");
        let layer = ingest(&kept.store, &tar);
        kept.is_sound(&layer);
        kept.reopen();
        fs::remove_dir_all(kept.file(&layer, "")).expect("removed");
    }
}

/// Names of kind `kind` in what a collection removed.
fn taken(collected: &layer_store::Collected, kind: GarbageKind) -> Vec<&str> {
    collected.garbage.iter().filter(|each| each.kind == kind).map(|each| each.name.as_str()).collect()
}

#[test]
fn collecting_a_donor_keeps_what_is_borrowed_of_it_and_no_more() {
    let (shared, own) = (noise(1, 2 * LARGE), noise(2, 3 * LARGE));
    let mut kept = Kept::new();
    let old_tar = tar_of(&[("shared", &shared), ("own", &own)]);
    let old = ingest(&kept.store, &old_tar);
    let new = ingest(&kept.store, &tar_of(&[("new", b"new"), ("shared", &shared)]));
    tag(&kept.store, "registry.example/a:old", &[old]);
    tag(&kept.store, "registry.example/a:new", &[new]);
    let unique = |kept: &Kept, name: &str| {
        let usage = kept.store.usage().expect("usage");
        usage.images.iter().find(|image| image.reference == name).expect("the image").unique
    };
    let said_to_free = unique(&kept, "registry.example/a:old");
    kept.store.images().untag("registry.example/a:old").expect("untagged");
    kept.reopen();
    let view = kept.view(&[new]);
    let announced = kept.store.collect(true).expect("a dry run");
    let done = kept.store.collect(false).expect("a collection");
    assert_eq!(announced, done, "the dry run says what the run does");
    assert_eq!(taken(&done, GarbageKind::Part), [old.to_string()]);
    let part = done.garbage.iter().find(|each| each.kind == GarbageKind::Part).expect("the part");
    assert!(part.bytes.abs_diff(said_to_free) < 16 << 10, "{} for {said_to_free}", part.bytes);
    assert!((3 * LARGE as u64..4 * LARGE as u64).contains(&part.bytes), "what only it had: {}", part.bytes);

    assert!(!kept.store.layers().has(&old), "it is no layer any more");
    let remnant = fs::metadata(kept.file(&old, "rest")).expect("the remnant").blocks() * 512;
    assert!(remnant <= 2 * LARGE as u64 + 8192, "{remnant}");
    let usage = kept.store.usage().expect("usage");
    assert_eq!(usage.remnants, remnant);
    assert_eq!(serde_json::to_value(&usage).expect("JSON")["rests"], remnant, "programs read it under this name");
    let names = fs::read_dir(kept.file(&old, "")).expect("what is left").count();
    assert_eq!(names, 1, "nothing but the remnant");
    kept.is_sound(&new);
    assert!(read(&view, "shared").expect("content") == shared, "an open view goes on");
    assert!(read(&kept.view(&[new]), "shared").expect("content") == shared);
    let explained = kept.store.layers().holders(&old).expect("holders").join("\n");
    assert!(explained.contains(&new.to_string()), "{explained}");
    assert_eq!(kept.store.collect(false).expect("another collection").garbage, []);

    // It is stored again next to its remnant, which is then no longer needed.
    assert_eq!(ingest(&kept.store, &old_tar), old);
    kept.is_sound(&old);
    tag(&kept.store, "registry.example/a:old", &[old]);
    kept.store.collect(false).expect("a collection");
    assert!(!kept.file(&old, "rest").exists());
    kept.is_sound(&new);
    kept.is_sound(&old);

    drop(view);
    kept.store.images().untag("registry.example/a:old").expect("untagged");
    kept.store.images().untag("registry.example/a:new").expect("untagged");
    kept.reopen();
    kept.store.collect(false).expect("a collection");
    let left = fs::read_dir(kept.directory.path().join("layers/sha256")).expect("layers").count();
    assert_eq!(left, 0, "without borrowers nothing stays");
}

#[test]
fn donors_hold_what_they_lend_so_there_are_no_chains() {
    let content = noise(1, LARGE);
    let mut kept = Kept::new();
    let layers: Vec<_> = (0..4)
        .map(|number| {
            let own = noise(10 + number, 200_000);
            let layer = ingest(&kept.store, &tar_of(&[(&format!("own-{number}"), &own), ("shared", &content)]));
            tag(&kept.store, &format!("registry.example/{number}:1"), &[layer]);
            layer
        })
        .collect();
    for layer in &layers[1..] {
        assert_eq!(kept.store.layers().donors(layer), [layers[0]], "all borrow from the one that has it");
    }
    // In the order in which a rebuilt image loses its old versions.
    for number in 0..4 {
        kept.store.images().untag(&format!("registry.example/{number}:1")).expect("untagged");
        kept.reopen();
        kept.store.collect(false).expect("a collection");
        for layer in &layers[number + 1..] {
            kept.is_sound(layer);
        }
    }
}

#[test]
fn damage_in_a_donor_is_named_for_every_layer_that_borrows_it() {
    let (shared, own) = (noise(1, LARGE), noise(2, 200_000));
    let kept = Kept::new();
    let donor = ingest(&kept.store, &tar_of(&[("d/shared", &shared), ("d/own", &own)]));
    let borrower = ingest(&kept.store, &tar_of(&[("b/shared", &shared), ("b/own", &noise(3, 200_000))]));
    kept.flip(&donor, "blob", &shared);
    for (layer, path) in [(donor, "/d/shared"), (borrower, "/b/shared")] {
        let damage = kept.store.layers().verify(&layer, &Silent).expect("verified").expect("damage");
        assert_eq!((damage.layer, damage.paths), (layer, vec![path.to_owned()]));
    }
    let view = kept.view(&[donor, borrower]).verifying();
    for (path, is_sound) in [("d/shared", false), ("b/shared", false), ("d/own", true), ("b/own", true)] {
        assert_eq!(read(&view, path).is_ok(), is_sound, "{path}");
    }
    // The donor was removed by hand: what is stored in it cannot be read, everything else can.
    fs::remove_file(kept.file(&donor, "blob")).expect("removed");
    let damage = kept.store.layers().verify(&borrower, &Silent).expect("verified").expect("damage");
    assert_eq!(damage.paths, ["/b/shared"]);
    let view = kept.view(&[borrower]);
    assert!(read(&view, "b/shared").is_err() && read(&view, "b/own").is_ok());
}

#[test]
fn damaged_sharing_map_is_reported_and_keeps_collections_from_removing_layers() {
    let shared = noise(1, LARGE);
    let mut kept = Kept::new();
    let donor = ingest(&kept.store, &tar_of(&[("a", &shared)]));
    let borrower = ingest(&kept.store, &tar_of(&[("b", &shared)]));
    tag(&kept.store, "registry.example/b:1", &[borrower]);
    let path = kept.file(&borrower, "shared");
    let whole = fs::read(&path).expect("the map");
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] ^= 1;
        fs::write(&path, &bytes).expect("written");
        let damage = kept.store.layers().verify(&borrower, &Silent).expect("verified").expect("damage");
        assert!(damage.cause.contains("map"), "byte {position}: {}", damage.cause);
        let base = kept.store.bases().prepare_layers(&[borrower], &[], &Silent).expect("a base");
        let error = kept.store.bases().open(&base).expect_err("a damaged layer");
        assert!(matches!(error, StoreError::DamagedLayer { layer, .. } if layer == borrower), "{error}");
    }
    kept.reopen();
    kept.store.collect(false).expect("a collection");
    fs::write(&path, &whole).expect("written");
    kept.is_sound(&borrower);
    kept.is_sound(&donor);
    fs::remove_file(&path).expect("removed");
    let damage = kept.store.layers().verify(&borrower, &Silent).expect("verified").expect("damage");
    assert!(damage.paths.is_empty() && !kept.file(&borrower, "blob").exists(), "no file is read as zeros: {damage:?}");
}

#[test]
fn layers_that_one_process_stores_at_once_find_each_other() {
    let kept = Kept::new();
    let content = noise(1, 4 * LARGE);
    let tars: Vec<_> = (0..4).map(|number| tar_of(&[(&format!("{number}"), &content)])).collect();
    let layers: Vec<DiffId> = std::thread::scope(|scope| {
        let threads: Vec<_> = tars.iter().map(|tar| scope.spawn(|| ingest(&kept.store, tar))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a layer")).collect()
    });
    layers.iter().for_each(|layer| kept.is_sound(layer));
    let whole = layers.iter().filter(|layer| !kept.is_thin(layer)).count();
    assert_eq!(whole, 1, "one holds it for all");
}

#[test]
fn usage_counts_borrowed_content_for_its_donor_alone() {
    let shared = noise(1, LARGE);
    let kept = Kept::new();
    let donor = ingest(&kept.store, &tar_of(&[("a", &shared), ("own", &noise(2, LARGE))]));
    let borrower = ingest(&kept.store, &tar_of(&[("b", &shared), ("own", &noise(3, LARGE))]));
    tag(&kept.store, "registry.example/a:1", &[donor]);
    tag(&kept.store, "registry.example/b:1", &[borrower]);
    let usage = kept.store.usage().expect("usage");
    let of = |layer: DiffId| usage.layers.iter().find(|usage| usage.diff_id == layer).expect("the layer");
    assert_eq!(of(donor).blob, kept.on_disk(&donor));
    assert_eq!(of(borrower).blob, kept.on_disk(&borrower));
    assert_eq!(usage.blobs, kept.on_disk(&donor) + kept.on_disk(&borrower));
    let saved = of(borrower).borrows[&donor];
    assert_eq!(of(donor).lends[&borrower], saved);
    assert_eq!(usage.saved_by_files, saved);
    let length = fs::metadata(kept.file(&borrower, "thin")).expect("the tar").len();
    assert_eq!(kept.on_disk(&borrower), length.next_multiple_of(4096) - saved, "a hole takes nothing");
    let image = usage.images.iter().find(|image| image.reference.ends_with("b:1")).expect("the image");
    assert_eq!((image.borrowed, image.shared, image.unique), (saved, 0, image.on_disk));
}
