//! A base as a block device: the bytes of the written image, without a copy of any content.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use layer_store::{BaseId, BlockDevice, DiffId, Silent};
use test_support::{noise, programs::installed};

use crate::fixture::ingest;
use crate::sharing::{Kept, tar_of};

const LARGE: usize = 1 << 20;

/// A tar with a sparse file of 3 MB (PAX format 1.0), of which `first` and, at the end, `last` are stored.
fn sparse_tar(first: &[u8], last: &[u8]) -> Vec<u8> {
    const SIZE: usize = 3_000_001;
    let list = format!("2\n0\n{}\n{}\n{}\n", first.len(), SIZE - last.len(), last.len());
    let mut stored = list.into_bytes();
    stored.resize(stored.len().next_multiple_of(512), 0);
    stored.extend_from_slice(first);
    stored.extend_from_slice(last);
    let mut builder = tar::Builder::new(Vec::new());
    let size = SIZE.to_string();
    let records = [("major", "1"), ("minor", "0"), ("name", "holes"), ("realsize", &size)];
    let names = records.map(|(name, value)| (format!("GNU.sparse.{name}"), value.as_bytes()));
    builder.append_pax_extensions(names.iter().map(|(name, value)| (name.as_str(), *value))).expect("an entry");
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(stored.len() as u64);
    builder.append_data(&mut header, "GNUSparseFile.0/holes", stored.as_slice()).expect("an entry");
    builder.into_inner().expect("a tar")
}

/// A base whose content is at odd offsets, in other layers' tars, in pieces and in none.
struct Hard {
    kept: Kept,
    layers: Vec<DiffId>,
    base: BaseId,
}

impl Hard {
    fn new() -> Self {
        let kept = Kept::new();
        let moved = noise(1, LARGE);
        let many: Vec<_> =
            (0..300).map(|number| (format!("many/{number}"), noise(100 + number, number as usize * 7))).collect();
        let mut files: Vec<(&str, &[u8])> =
            many.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
        files.extend([("a/moved", moved.as_slice()), ("a/below", &moved[..5000]), ("empty", b"")]);
        let below = ingest(&kept.store, &tar_of(&files));
        let own = noise(2, 100_000);
        let thin = ingest(&kept.store, &tar_of(&[("own", &own), ("b/moved", &moved), ("a/below", b"replaced")]));
        assert!(kept.is_thin(&thin));
        let sparse = ingest(&kept.store, &sparse_tar(&own[..5000], &own[..4097]));
        let layers = vec![below, thin, sparse];
        let base = kept.store.bases().prepare_layers(&layers, &[], &Silent).expect("a base");
        Self { kept, layers, base }
    }

    fn device(&self) -> BlockDevice {
        let bases = self.kept.store.bases();
        let view = Arc::new(bases.open(&self.base).expect("a view"));
        bases.block_device(&self.base, view, &Silent).expect("a device")
    }

    fn map(&self) -> PathBuf {
        self.kept.directory.path().join("bases").join(self.base.hex()).join("erofs-4.map")
    }

    fn written(&self) -> Vec<u8> {
        let path = self.kept.directory.path().join("image");
        let file = File::create_new(&path).expect("a file");
        let summary = self.kept.store.bases().write_block_image(&self.base, (&path, &file), &Silent).expect("an image");
        let bytes = fs::read(&path).expect("the image");
        assert_eq!(bytes.len() as u64, summary.bytes);
        fs::remove_file(path).expect("removed");
        bytes
    }
}

/// Reads all of a device in pieces of one length.
fn all(device: &BlockDevice, piece: usize) -> Vec<u8> {
    let mut bytes = vec![0xaa; usize::try_from(device.length()).expect("a length")];
    for (number, part) in bytes.chunks_mut(piece).enumerate() {
        device.read_at(part, (number * piece) as u64).expect("content");
    }
    bytes
}

#[test]
fn device_shows_the_bytes_of_the_written_image_wherever_a_read_begins() {
    let hard = Hard::new();
    let (device, written) = (hard.device(), hard.written());
    for piece in [512, 4096, 12_345, 128 << 10, LARGE] {
        assert!(all(&device, piece) == written, "pieces of {piece} bytes");
    }
    let image = hard.kept.directory.path().join("exported");
    fs::write(&image, all(&device, LARGE)).expect("a file");
    let checked = Command::new(installed("fsck.erofs")).arg(&image).output().expect("fsck.erofs");
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn device_stores_no_content() {
    let hard = Hard::new();
    let device = hard.device();
    let map = fs::read(hard.map()).expect("the map");
    let contents = [noise(1, LARGE), noise(2, 100_000), noise(101, 7), noise(399, 2093)];
    for content in &contents {
        let start = &content[..content.len().min(16)];
        assert!(!map.windows(start.len()).any(|window| window == start), "{} bytes of content", content.len());
    }
    assert!(map.len() < 64 << 10 && device.metadata_length() < map.len() as u64, "{}", map.len());
}

/// A base of one layer.
struct Files {
    kept: Kept,
    base: BaseId,
}

impl Files {
    const NAME: usize = "d/0000".len();

    /// Files of one length, each with the time that `time` returns for it.
    fn new(count: u64, length: usize, time: impl Fn(u64) -> u64) -> Self {
        let mut tree = Tree::new();
        for number in 0..count {
            tree.file(&format!("d/{number:04}"), length, time(number));
        }
        Self::of(tree)
    }

    fn of(tree: Tree) -> Self {
        let kept = Kept::new();
        let layer = ingest(&kept.store, &tree.builder.into_inner().expect("a tar"));
        let base = kept.store.bases().prepare_layers(&[layer], &[], &Silent).expect("a base");
        Self { kept, base }
    }

    fn device(&self) -> BlockDevice {
        let bases = self.kept.store.bases();
        let view = Arc::new(bases.open(&self.base).expect("a view"));
        bases.block_device(&self.base, view, &Silent).expect("a device")
    }

    /// Bytes of the map.
    fn stored(&self) -> u64 {
        let place = self.kept.directory.path().join("bases").join(self.base.hex()).join("erofs-4.map");
        place.metadata().expect("the map").len()
    }
}

/// A tar that grows entry by entry.
struct Tree {
    builder: tar::Builder<Vec<u8>>,
    files: u64,
    content: u64,
}

impl Tree {
    fn new() -> Self {
        Self { builder: tar::Builder::new(Vec::new()), files: 0, content: 0 }
    }

    fn header(length: usize, time: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(length as u64);
        header.set_mtime(time);
        header
    }

    fn file(&mut self, path: &str, length: usize, time: u64) {
        let content = noise(self.files, length);
        self.builder.append_data(&mut Self::header(length, time), path, content.as_slice()).expect("an entry");
        self.files += 1;
        self.content += length as u64;
    }

    fn xattr(&mut self, name: &str, value: &str) {
        let name = format!("SCHILY.xattr.{name}");
        self.builder.append_pax_extensions([(name.as_str(), value.as_bytes())]).expect("an entry");
    }

    fn link(&mut self, kind: tar::EntryType, path: &str, target: &str) {
        let mut header = Self::header(0, TIME);
        header.set_entry_type(kind);
        self.builder.append_link(&mut header, path, target).expect("an entry");
    }
}

/// The time of most files.
const TIME: u64 = 1_000_000_000;

/// Trees of files of 6 KiB that have more metadata than usual in one way, and how many bytes each file may have of it.
fn trees(count: u64) -> Vec<(&'static str, Tree, u64)> {
    const LENGTH: usize = 6 << 10;
    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";
    let of = |fill: &dyn Fn(&mut Tree, u64)| {
        let mut tree = Tree::new();
        (0..count).for_each(|number| fill(&mut tree, number));
        tree
    };
    let short = |number: u64| format!("d/{number:04}");
    let long = |number: u64| format!("d/{number:0200}");
    let name = |length: u64| 12 + length;
    let (inode, timed, extent) = (32, 64, 24);
    vec![
        ("equal times", of(&|tree, number| tree.file(&short(number), LENGTH, TIME)), inode + name(4) + extent),
        ("unequal times", of(&|tree, number| tree.file(&short(number), LENGTH, number)), timed + name(4) + extent),
        ("names of 200 bytes", of(&|tree, number| tree.file(&long(number), LENGTH, TIME)), inode + name(200) + extent),
        (
            "names of 200 bytes and unequal times",
            of(&|tree, number| tree.file(&long(number), LENGTH, number)),
            timed + name(200) + extent,
        ),
        (
            "three hard links to each file",
            of(&|tree, number| {
                tree.file(&short(number), LENGTH, TIME);
                (0..3)
                    .for_each(|link| tree.link(tar::EntryType::Link, &format!("l/{number:04}{link}"), &short(number)));
            }),
            inode + name(4) + 3 * name(5) + extent,
        ),
        (
            "a symbolic link of 100 bytes to each file",
            of(&|tree, number| {
                tree.file(&short(number), LENGTH, TIME);
                tree.link(tar::EntryType::Symlink, &format!("l/{number:04}"), &format!("{number:0100}"));
            }),
            // 132 bytes, in slots of 32.
            inode + name(4) + extent + 160 + name(4),
        ),
        (
            "one label on all files",
            of(&|tree, number| {
                tree.xattr("security.selinux", LABEL);
                tree.file(&short(number), LENGTH, TIME);
            }),
            // The header and one place, in slots of 32.
            inode + 32 + name(4) + extent,
        ),
        (
            "one label on all files, and unequal times",
            of(&|tree, number| {
                tree.xattr("security.selinux", LABEL);
                tree.file(&short(number), LENGTH, number);
            }),
            timed + 32 + name(4) + extent,
        ),
        (
            "an attribute of 20 bytes on each file, and a label on all",
            of(&|tree, number| {
                tree.xattr("security.selinux", LABEL);
                tree.xattr("user.own", &format!("{number:020}"));
                tree.file(&short(number), LENGTH, TIME);
            }),
            // 12 + 4 + (4 + 3 + 20), in slots of 32.
            inode + 64 + name(4) + extent,
        ),
        (
            "directories of ten names of 200 bytes, and unequal times",
            of(&|tree, number| tree.file(&format!("{:03}/{number:0200}", number / 10), LENGTH, number)),
            // A directory must not cross into another block, so there is one in each. The inodes of the files fit in beside it.
            4096 / 10 + name(3) / 10 + extent,
        ),
        (
            "the same, and one label on all files",
            of(&|tree, number| {
                tree.xattr("security.selinux", LABEL);
                tree.file(&format!("{:03}/{number:0200}", number / 10), LENGTH, number);
            }),
            // The inodes of the files still fit in.
            4096 / 10 + name(3) / 10 + extent,
        ),
    ]
}

#[test]
fn metadata_of_any_kind_of_tree_is_little_more_than_its_names_numbers_and_attributes() {
    const COUNT: u64 = 1000;
    for (kind, tree, each) in trees(COUNT) {
        let content = tree.content;
        let files = Files::of(tree);
        let device = files.device();
        let stored = files.stored();
        println!(
            "{kind}: {:.2} % of the content, {} bytes a file",
            stored as f64 * 100.0 / content as f64,
            stored / COUNT
        );
        // A block of names is not always full. Superblock, header and the last block of each part come in addition.
        let bound = COUNT * each * 103 / 100 + 7 * 4096;
        assert!(stored <= bound, "{kind}: {stored} bytes, and not {bound}");
        let exported = files.kept.directory.path().join("exported");
        fs::write(&exported, all(&device, LARGE)).expect("a file");
        let checked = Command::new(installed("fsck.erofs")).arg(&exported).output().expect("fsck.erofs");
        assert!(checked.status.success(), "{kind}: {checked:?}");
    }
}

#[test]
fn metadata_takes_at_most_two_percent_of_files_of_6_kib_and_a_bounded_number_of_bytes_of_any() {
    const COUNT: u64 = 1000;
    // Inode, directory entry and extent of each file, then superblock, the last blocks of each part, and the header.
    let bound = |inode: u64| COUNT * (inode + 12 + Files::NAME as u64 + 24) + 5 * 4096;
    let small = Files::new(COUNT, 6 << 10, |_| 1_000_000_000);
    small.device();
    assert!(small.stored() * 50 <= COUNT * (6 << 10), "{} bytes of metadata", small.stored());
    assert!(small.stored() <= bound(32), "{} bytes of metadata", small.stored());
    let tiny = Files::new(COUNT, 1, |number| number);
    tiny.device();
    assert!(tiny.stored() <= bound(64), "{} bytes of metadata", tiny.stored());
    // An empty file has no extent.
    let empty = Files::new(COUNT, 0, |_| 1_000_000_000);
    empty.device();
    assert!(empty.stored() <= bound(32) - COUNT * 24, "{} bytes of metadata", empty.stored());
}

#[test]
fn files_that_follow_each_other_in_a_tar_are_read_at_once_and_metadata_needs_no_tar() {
    const COUNT: u64 = 64;
    let files = Files::new(COUNT, 700, |_| 0);
    let device = files.device();
    let mut metadata = vec![0; usize::try_from(device.metadata_length()).expect("a length")];
    device.read_at(&mut metadata, 0).expect("metadata");
    assert_eq!(device.tar_reads(), 0, "a walk reads no content");
    let mut content = vec![0; usize::try_from(device.length()).expect("a length") - metadata.len()];
    device.read_at(&mut content, device.metadata_length()).expect("content");
    assert_eq!(device.tar_reads(), 1, "{COUNT} files");
    for (number, block) in (0..).zip(content.chunks(4096)) {
        assert!(block[..700] == noise(number, 700) && block[700..].iter().all(|byte| *byte == 0), "file {number}");
    }
    // All of it and the metadata, in requests of the length that the server reads by.
    let before = device.tar_reads();
    assert_eq!(all(&device, 128 << 10)[metadata.len()..], content);
    let requests = device.length().div_ceil(128 << 10);
    assert!(device.tar_reads() - before <= requests, "{} reads for {requests} requests", device.tar_reads() - before);

    // One extent, however long, is one read; a tar further apart is another.
    let large = Files::new(1, 3 << 20, |_| 0);
    let device = large.device();
    let mut content = vec![0; 3 << 20];
    device.read_at(&mut content, device.metadata_length()).expect("content");
    assert_eq!(device.tar_reads(), 1);
    let apart = Files::new(3, 20_000, |_| 0);
    let device = apart.device();
    let mut block = vec![0; 4096];
    for number in 0..3 {
        device.read_at(&mut block, device.metadata_length() + number * 20_480).expect("content");
        assert_eq!(device.tar_reads(), number + 1, "one block of a file");
    }
}

#[test]
fn metadata_is_made_once_and_again_when_it_is_damaged() {
    let hard = Hard::new();
    let expected = all(&hard.device(), LARGE);
    let whole = fs::read(hard.map()).expect("the map");
    let made = |hard: &Hard| hard.map().metadata().and_then(|made| made.modified()).expect("the map");
    let first = made(&hard);
    assert!(all(&hard.device(), LARGE) == expected);
    assert_eq!(made(&hard), first);
    for damage in [0, 20, 100, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[damage] ^= 1;
        fs::write(hard.map(), &bytes).expect("written");
        assert!(all(&hard.device(), LARGE) == expected, "byte {damage}");
        assert!(fs::read(hard.map()).expect("the map") == whole, "byte {damage}");
    }
    for length in [0, 31, 4096, whole.len() - 8] {
        fs::write(hard.map(), &whole[..length]).expect("written");
        assert!(all(&hard.device(), LARGE) == expected, "{length} bytes");
    }
    // That of another base.
    let other = hard.kept.store.bases().prepare_layers(&hard.layers[..1], &[], &Silent).expect("a base");
    let view = Arc::new(hard.kept.store.bases().open(&other).expect("a view"));
    hard.kept.store.bases().block_device(&other, view, &Silent).expect("a device");
    fs::copy(hard.kept.directory.path().join("bases").join(other.hex()).join("erofs-4.map"), hard.map())
        .expect("copied");
    assert!(all(&hard.device(), LARGE) == expected, "the map of another base");
}

#[test]
fn store_that_may_not_be_changed_is_read_without_a_map() {
    let hard = Hard::new();
    let expected = all(&hard.device(), LARGE);
    fs::remove_file(hard.map()).expect("the map");
    let file = hard.kept.directory.path().join("store.json");
    let described = fs::read_to_string(&file).expect("store.json");
    let mut described: serde_json::Value = serde_json::from_str(&described).expect("JSON");
    described["read_only_compatible"] = serde_json::json!(["a-feature-of-tomorrow"]);
    fs::write(&file, described.to_string()).expect("written");
    let Hard { mut kept, layers, base } = hard;
    kept.reopen();
    let hard = Hard { kept, layers, base };
    assert!(all(&hard.device(), LARGE) == expected);
    assert!(!hard.map().exists());
}

#[test]
fn old_images_are_removed_when_the_device_is_made() {
    let hard = Hard::new();
    let old =
        ["erofs-1", "erofs-2", "erofs-2.map", "erofs-3", "erofs-3.map"].map(|name| hard.map().with_file_name(name));
    old.iter().for_each(|old| fs::write(old, "of an earlier version").expect("written"));
    hard.device();
    assert!(old.iter().all(|old| !old.exists()));
}

#[test]
fn damaged_blob_fails_for_its_own_blocks_only() {
    let hard = Hard::new();
    let device = hard.device();
    let expected = all(&device, LARGE);
    let blob = hard.kept.file(&hard.layers[2], "blob");
    File::options().write(true).open(blob).and_then(|file| file.set_len(512)).expect("truncated");
    let (mut failed, mut block) = (0, vec![0; 4096]);
    for (number, good) in expected.chunks(4096).enumerate() {
        match device.read_at(&mut block, number as u64 * 4096) {
            Ok(()) => assert!(block == good, "block {number}"),
            Err(_) => failed += 1,
        }
    }
    // 5,000 bytes at the start, and 4,097 bytes from the middle of a block on.
    assert_eq!(failed, 2 + 2);
    // A range with good and bad blocks fails as a whole.
    let mut large = vec![0; expected.len()];
    device.read_at(&mut large, 0).expect_err("content that is missing");
}

#[test]
fn what_was_just_read_is_read_again_without_waiting() {
    let hard = Hard::new();
    let device = hard.device();
    let expected = all(&device, LARGE);
    let mut bytes = vec![0xaa; expected.len()];
    if device.read_cached_at(&mut bytes, 0).expect("content") {
        assert!(bytes == expected);
    }
    let metadata = usize::try_from(device.metadata_length()).expect("a length");
    assert!(device.read_cached_at(&mut bytes[..metadata], 0).expect("metadata"), "it is in memory");
}

#[test]
fn range_past_the_end_is_an_error() {
    let hard = Hard::new();
    let device = hard.device();
    let mut block = [0; 512];
    for offset in [device.length() - 511, device.length(), u64::MAX - 100] {
        device.read_at(&mut block, offset).expect_err("past the end");
        device.read_cached_at(&mut block, offset).expect_err("past the end");
    }
    device.read_at(&mut block, device.length() - 512).expect("the last sector");
    device.read_at(&mut [], device.length()).expect("nothing");
}

#[test]
fn map_belongs_to_its_owner_and_goes_with_its_base() {
    let hard = Hard::new();
    hard.device();
    assert!(hard.map().exists());
    let usage = hard.kept.store.usage().expect("usage");
    assert!(usage.bases >= hard.map().metadata().expect("the map").len());
    let Hard { kept, base, .. } = hard;
    let place = kept.directory.path().join("bases").join(base.hex());
    let mut kept = kept;
    kept.reopen();
    kept.store.collect(false).expect("collected");
    assert!(!place.exists());
}
