//! Entry points for the fuzz targets in `fuzz/`. They take any bytes. The result must be an error or a tree that can be
//! walked completely. Those for JSON and other text are in [`documents`]; tests run them too.
//!
//! A checksum would stop damaged bytes before the checks that a fuzzer is meant to reach, so [`seal`] writes a header
//! with the right checksum.

pub mod documents;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Cursor;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::base::{Base, MergedTree};
use crate::erofs::map::BlockMap;
use crate::layer::{LayerIndex, TreeBuilder};
use crate::mapped::IndexBytes;
use crate::section_file::Format;
use crate::sharing::map::SharingMap;
use crate::sharing::{Blob, map};
use crate::tar::Parser;
use crate::view::ViewLayer;
use crate::{DiffId, Digest, Ino, Kind, Silent, View};

/// The range of the checksum in a file. The checksum covers everything after it.
const CHECKSUM: std::ops::Range<usize> = 24..32;

/// The longest file that a target reads; larger ones only cost time.
const READ_MAX: usize = 4096;

/// Writes the magic, version, length and checksum that [`Format`] requires.
fn seal(bytes: &mut [u8], format: Format) {
    let length = bytes.len() as u64;
    let parts: [(std::ops::Range<usize>, &[u8]); 3] =
        [(0..8, &format.magic), (8..12, &format.version.to_le_bytes()), (16..24, &length.to_le_bytes())];
    for (range, value) in parts {
        if let Some(field) = bytes.get_mut(range) {
            field.copy_from_slice(value);
        }
    }
    let checksum = bytes.get(CHECKSUM.end..).map(xxh3_64).unwrap_or_default();
    if let Some(field) = bytes.get_mut(CHECKSUM) {
        field.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Parses bytes as a tar, in pieces of different sizes, and makes its index. Returns the index, if the bytes are a tar.
pub fn tar(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut parser = Parser::new();
    let mut tree = TreeBuilder::new(1 << 16);
    let (first, second) = bytes.split_at(bytes.len() / 3);
    for piece in [first, second] {
        parser.feed(piece, &mut tree).ok()?;
    }
    parser.finish::<crate::layer::EntryRefused>().ok()?;
    let diff_id = DiffId(Digest::of(bytes));
    let index = tree.write_index(Cursor::new(Vec::new()), &diff_id, bytes.len() as u64).ok()?.into_inner();
    assert!(LayerIndex::open(IndexBytes::Owned(index.clone())).is_ok(), "an index that we wrote must open");
    Some(index)
}

/// Opens bytes as a layer index, merges it alone and walks the result.
pub fn layer_index(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    seal(&mut bytes, crate::layer::FORMAT);
    if let Some(view) = LayerIndex::open(IndexBytes::Owned(bytes)).ok().and_then(|index| stack(vec![index])) {
        walk(&view);
    }
}

/// Opens bytes as the sharing map of a layer, and calls every method.
pub fn sharing_map(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    seal(&mut bytes, map::FORMAT);
    let Ok(map) = SharingMap::open(IndexBytes::Owned(bytes)) else { return };
    let mut end_before = 0;
    for run in map.runs() {
        let range = run.range();
        assert!(range.start >= end_before && range.end > range.start && range.end <= map.length(), "{run:?}");
        assert!(!map.holds(&range) && run.donor <= map.donors().len(), "{run:?}");
        assert!(run.donor > 0 || map.holds(&run.donor_range()), "{run:?}");
        assert_eq!(map.runs_from(range.start).next(), Some(run));
        end_before = range.end;
    }
}

/// Returns the bytes of a sharing map, for a corpus.
#[must_use]
pub fn sharing_map_of(layer: &[u8], donor: &[u8]) -> Option<Vec<u8>> {
    let [layer, donor] = [layer, donor].map(|bytes| DiffId(Digest::of(bytes)));
    let run = |(offset, donor, donor_offset)| map::Run { offset, length: 4096, donor, donor_offset };
    map::write(&layer, 1 << 20, &[donor], &[(4096, 1, 512), (65536, 0, 12800)].map(run)).ok()
}

/// Opens bytes as the map of a block device.
pub fn block_map(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    seal(&mut bytes, crate::erofs::map::FORMAT);
    if let Ok(map) = BlockMap::parse(IndexBytes::Owned(bytes)) {
        map.check_extents();
    }
}

/// Opens bytes as the base of valid layers, and walks the result.
pub fn base(bytes: &[u8], layers: &[Vec<u8>]) {
    let mut bytes = bytes.to_vec();
    seal(&mut bytes, crate::base::FORMAT);
    let indexes = layers.iter().map(|layer| LayerIndex::open(IndexBytes::Owned(layer.clone())));
    let Ok(indexes) = indexes.collect::<Result<Vec<_>, _>>() else { return };
    let Ok(base) = Base::open(IndexBytes::Owned(bytes)) else { return };
    if base.check(&indexes).is_ok() {
        walk(&View::new(base, indexes.into_iter().map(without_blob).collect(), Vec::new()));
    }
}

/// Parses bytes as the tars of a stack of layers, split at a marker, merges them and walks the result.
pub fn view(bytes: &[u8]) {
    let tars = bytes.chunk_by(|a, b| !(*a == 0xff && *b == 0xff));
    let indexes: Vec<_> =
        tars.filter_map(tar).filter_map(|index| LayerIndex::open(IndexBytes::Owned(index)).ok()).collect();
    if let Some(view) = stack(indexes) {
        walk(&view);
    }
}

/// Writes the base of a stack of indexes, opens it again and makes a view.
fn stack(indexes: Vec<LayerIndex>) -> Option<View> {
    let merged = MergedTree::of(&indexes).ok()?;
    let bytes = merged.write(Cursor::new(Vec::new())).ok()?.into_inner();
    let base = Base::open(IndexBytes::Owned(bytes)).ok();
    assert!(base.as_ref().is_some_and(|base| base.check(&indexes).is_ok()), "a base that we wrote must open");
    base.map(|base| View::new(base, indexes.into_iter().map(without_blob).collect(), Vec::new()))
}

/// Returns the bytes of the base of a stack of indexes, for a corpus.
#[must_use]
pub fn base_of(layers: &[Vec<u8>]) -> Option<Vec<u8>> {
    let indexes = layers.iter().map(|layer| LayerIndex::open(IndexBytes::Owned(layer.clone())).ok());
    let indexes: Vec<_> = indexes.collect::<Option<_>>()?;
    Some(MergedTree::of(&indexes).ok()?.write(Cursor::new(Vec::new())).ok()?.into_inner())
}

/// Returns the bytes of the map of the block device of a stack of indexes, for a corpus.
#[must_use]
pub fn block_map_of(layers: &[Vec<u8>]) -> Option<Vec<u8>> {
    let indexes = layers.iter().map(|layer| LayerIndex::open(IndexBytes::Owned(layer.clone())).ok());
    let view = stack(indexes.collect::<Option<_>>()?)?;
    Some(crate::erofs::map::write(&view, [7; 16], Cursor::new(Vec::new()), &Silent).ok()?.into_inner())
}

/// Returns a layer with an empty blob: every read of content must fail with an error, and nothing worse may happen.
fn without_blob(index: LayerIndex) -> ViewLayer {
    #[allow(clippy::expect_used, reason = "a fuzz target may end when there is no /dev/null")]
    let blob = Arc::new(Blob::of_file(File::open("/dev/null").expect("/dev/null")));
    ViewLayer { index: Arc::new(index), blob }
}

/// Visits everything that a transport could request. Ends because a view is a tree.
fn walk(view: &View) {
    let mut todo = vec![Ino::ROOT];
    let mut buffer = vec![0; READ_MAX];
    let mut visited = 0u64;
    let bound = 64 + view.totals().inodes.saturating_mul(1 + view.layers().len() as u64);
    while let Some(dir) = todo.pop() {
        visited += 1;
        assert!(visited <= bound.saturating_mul(bound), "the walk does not end");
        let Ok(entries) = view.entries(dir, 0) else { continue };
        for entry in entries {
            assert_eq!(view.lookup(dir, entry.name).ok().flatten(), Some(entry.ino), "readdir and lookup agree");
            let _ = view.xattr_names(entry.ino).map(Iterator::count);
            let attr = view.attr(entry.ino).ok();
            assert_eq!(attr.map(|attr| attr.kind), Some(entry.kind), "readdir and stat agree");
            match entry.kind {
                Kind::Directory => {
                    assert_eq!(view.parent(entry.ino).ok(), Some(dir), "a child knows its parent");
                    todo.push(entry.ino);
                }
                Kind::Symlink => assert!(view.readlink(entry.ino).is_ok_and(|target| !target.is_empty())),
                Kind::Regular => {
                    let _ = view.read(entry.ino, 0, &mut buffer);
                    let _ = view.read(entry.ino, u64::MAX - 1, &mut buffer);
                }
                _ => {}
            }
        }
    }
}
