//! Reads the bytes of one layer's tar, wherever they are stored.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use super::map::{Run, SharingMap};
use crate::DiffId;
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::mapped::IndexBytes;
use crate::regular;

/// The name of a layer's tar if it is whole.
pub(crate) const WHOLE: &str = "blob";
/// The name of a layer's tar if it has holes.
pub(crate) const THIN: &str = "thin";
/// The name of the map of those holes.
pub(crate) const MAP: &str = "shared";
/// The name of a remnant, which others borrow from a layer that is no longer in the store: its tar, with holes where it
/// is not needed.
pub(crate) const REMNANT: &str = "rest";

/// A layer's tar, opened for reading as if it were one file.
#[derive(Debug)]
pub(crate) struct Blob {
    file: File,
    length: u64,
    borrowed: Option<Borrowed>,
}

#[derive(Debug)]
struct Borrowed {
    map: SharingMap,
    /// Donor n is element n - 1. A donor that cannot be read affects only the content that is borrowed from it.
    donors: Vec<Result<File, String>>,
}

/// How often opening is tried when another process replaces a thin tar with a whole one.
const TRIES: u32 = 3;

impl Blob {
    /// Opens a layer below the directory of layers.
    ///
    /// All names are looked up in one directory that stays open, so that all files belong to the same layer even if it
    /// is collected and added again in the meantime.
    pub(crate) fn open(layers: &Path, layer: &DiffId) -> Result<Self, StoreError> {
        let path = layers.join(layer.0.hex());
        let io = |cause| StoreError::io(&path)(cause);
        let directory = open_directory(&path).map_err(io)?.ok_or(StoreError::NoSuchLayer(*layer))?;
        for _ in 0..TRIES {
            if let Some(file) = open_in(&directory, WHOLE).map_err(StoreError::io(&path.join(WHOLE)))? {
                let length = file.metadata().map_err(io)?.len();
                return Ok(Self { file, length, borrowed: None });
            }
            let damaged = |cause| StoreError::DamagedLayer { layer: *layer, cause };
            let Some(map) = open_map(&directory, layer).map_err(damaged)? else { continue };
            let Some(file) = open_in(&directory, THIN).map_err(StoreError::io(&path.join(THIN)))? else { continue };
            let length = map.length();
            let donors = (1..).zip(map.donors()).map(|(number, donor)| {
                let needed: Vec<_> =
                    map.runs().filter(|run| run.donor == number).map(|run| run.donor_range()).collect();
                open_donor(layers, &donor, &needed)
            });
            let donors = donors.collect();
            return Ok(Self { file, length, borrowed: Some(Borrowed { map, donors }) });
        }
        Err(StoreError::NoSuchLayer(*layer))
    }

    /// Wraps a tar that is not a layer of a store.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_file(file: File) -> Self {
        Self { file, length: 0, borrowed: None }
    }

    /// Returns every file that it reads.
    pub(crate) fn files(&self) -> impl Iterator<Item = &File> {
        let donors = self.borrowed.iter().flat_map(|borrowed| borrowed.donors.iter().flatten());
        std::iter::once(&self.file).chain(donors)
    }

    /// Returns the file, if all of the tar is in it.
    pub(crate) fn whole(&self) -> Option<&File> {
        self.borrowed.is_none().then_some(&self.file)
    }

    /// Reads exactly `buffer.len()` bytes. A tar that is shorter than its index says is damaged, so this is an error.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_by(read_all, buffer, offset)
    }

    /// Does the same if all of it is in the page cache. Otherwise fails with [`io::ErrorKind::WouldBlock`].
    pub(crate) fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_by(read_cached, buffer, offset)
    }

    fn read_by(&self, read: ReadFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let Some(borrowed) = &self.borrowed else { return read(&self.file, buffer, offset) };
        let end = offset.checked_add(buffer.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        let mut rest = buffer;
        let mut at = offset;
        for run in borrowed.map.runs_from(offset).take_while(|run| run.offset < end) {
            let (own, others) = cut(rest, run.offset.saturating_sub(at));
            read(&self.file, own, at)?;
            at += own.len() as u64;
            let (part, others) = cut(others, run.offset + run.length - at);
            read(self.file_of(borrowed, &run)?, part, run.donor_offset + (at - run.offset))?;
            at += part.len() as u64;
            rest = others;
        }
        read(&self.file, rest, at)
    }

    /// Returns the file that has the bytes of a run.
    fn file_of<'a>(&'a self, borrowed: &'a Borrowed, run: &Run) -> io::Result<&'a File> {
        match run.donor.checked_sub(1) {
            None => Ok(&self.file),
            Some(number) => match borrowed.donors.get(number) {
                Some(Ok(donor)) => Ok(donor),
                Some(Err(cause)) => Err(io::Error::new(io::ErrorKind::NotFound, cause.clone())),
                None => Err(io::ErrorKind::InvalidData.into()),
            },
        }
    }

    /// Returns a reader that starts at the beginning of the tar.
    pub(crate) fn reader(&self) -> BlobReader<'_> {
        BlobReader { blob: self, at: 0 }
    }
}

/// Reads a [`Blob`] from start to end.
#[derive(Debug)]
pub(crate) struct BlobReader<'blob> {
    blob: &'blob Blob,
    at: u64,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.blob.length - self.at;
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        self.blob.read_exact_at(part, self.at)?;
        self.at += wanted as u64;
        Ok(wanted)
    }
}

/// Splits a buffer after `length` bytes, or at its end if it is shorter.
fn cut(buffer: &mut [u8], length: u64) -> (&mut [u8], &mut [u8]) {
    let length = usize::try_from(length).map_or(buffer.len(), |length| length.min(buffer.len()));
    buffer.split_at_mut(length)
}

/// Fills a buffer from an offset of a file.
type ReadFile = fn(&File, &mut [u8], u64) -> io::Result<()>;

/// Reads without waiting for the disk. Not every file system can do that.
#[cfg(target_os = "linux")]
fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    use rustix::io::{ReadWriteFlags, preadv2};

    if buffer.is_empty() {
        return Ok(());
    }
    let wanted = buffer.len();
    match preadv2(file, &mut [io::IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
        Ok(read) if read == wanted => Ok(()),
        // A read that waits finds out whether there is more, and reports what is wrong.
        Ok(_) | Err(_) => Err(io::ErrorKind::WouldBlock.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_: &File, buffer: &mut [u8], _: u64) -> io::Result<()> {
    if buffer.is_empty() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

fn read_all(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the blob is shorter than its index says"),
        _ => error,
    })
}

/// Opens a directory; `None` if it does not exist.
fn open_directory(path: &Path) -> io::Result<Option<File>> {
    // The path of anything else may block: a pipe waits for its other end.
    let opened = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    match opened.map(File::from).map_err(io::Error::from) {
        Ok(directory) => Ok(Some(directory)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Opens a file in a directory; `None` if it does not exist.
fn open_in(directory: &File, name: &str) -> io::Result<Option<File>> {
    match regular::open_at(directory, name) {
        Ok(file) => Ok(Some(file)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Opens the map of a thin layer; `None` if it does not exist.
fn open_map(directory: &File, layer: &DiffId) -> Result<Option<SharingMap>, String> {
    let Some(file) = open_in(directory, MAP).map_err(|cause| cause.to_string())? else { return Ok(None) };
    let bytes = IndexBytes::map(&file).map_err(|cause| cause.to_string())?;
    let map = SharingMap::open(bytes).map_err(|cause| format!("its sharing map cannot be used: {cause}"))?;
    if map.layer() == *layer { Ok(Some(map)) } else { Err("its sharing map belongs to another layer".into()) }
}

/// Returns the sharing map of a layer of the store, or `None` if its tar is whole or the layer does not exist.
pub(crate) fn map_of(layers: &Path, layer: &DiffId) -> Result<Option<SharingMap>, String> {
    let Some(directory) = open_directory(&layers.join(layer.0.hex())).map_err(|cause| cause.to_string())? else {
        return Ok(None);
    };
    // The map is opened first, because it is deleted last when a whole tar replaces a thin one.
    let map = open_map(&directory, layer);
    match open_in(&directory, WHOLE) {
        Ok(Some(_)) => Ok(None),
        Ok(None) => map,
        Err(cause) => Err(cause.to_string()),
    }
}

/// Opens the file of a donor, which must contain `needed` itself.
///
/// A collection may be turning the donor into a remnant, or a repair may be replacing it with a whole tar, so files
/// that were not found are looked for again.
pub(crate) fn open_donor(layers: &Path, donor: &DiffId, needed: &[Range<u64>]) -> Result<File, String> {
    let text = |cause: io::Error| format!("layer {donor}, from which it borrows content: {cause}");
    let gone = || format!("layer {donor}, from which it borrows content, is not in the store");
    let directory = open_directory(&layers.join(donor.0.hex())).map_err(text)?.ok_or_else(gone)?;
    for _ in 0..TRIES {
        for name in [WHOLE, REMNANT] {
            if let Some(file) = open_in(&directory, name).map_err(text)? {
                return Ok(file);
            }
        }
        fault::point(FaultPoint::DonorSought);
        let map = open_map(&directory, donor).map_err(|cause| format!("layer {donor}: {cause}"))?;
        let (Some(map), Some(file)) = (map, open_in(&directory, THIN).map_err(text)?) else { continue };
        return match needed.iter().all(|range| map.holds(range)) {
            true => Ok(file),
            false => Err(format!("layer {donor} no longer has the content that this one borrows from it")),
        };
    }
    Err(gone())
}
