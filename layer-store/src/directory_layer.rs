//! Makes a layer from a host directory. Variants are made this way.

use std::fs;
use std::io::{self, PipeWriter, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tree_packer::{PackError, Packer};

use crate::error::StoreError;
use crate::{DiffId, Digest, ExpectedLayer, IngestError, Layers};

impl Layers<'_> {
    /// Stores the content of a host directory as a layer: the directory becomes the root, everything in it belongs to
    /// root, modes and times are kept, and hard links stay hard links. Sockets are left out, because tar cannot store
    /// them.
    ///
    /// A name such as `.wh.x` means the same as in any layer: `x` is deleted from the layers below.
    ///
    /// The same content makes the same layer. If the store already has it, nothing is written.
    pub fn add_directory(&self, directory: &Path) -> Result<DiffId, IngestError> {
        let diff_id = digest_of(directory)?;
        if self.store.hold_layer(&diff_id).is_ok() {
            return Ok(diff_id);
        }
        let expected = ExpectedLayer { compressed: None, diff_id: Some(diff_id) };
        let (mut reader, writer) = io::pipe().map_err(StoreError::io(directory))?;
        std::thread::scope(|scope| {
            let packing = scope.spawn(|| pack(directory, writer));
            let ingested = self.ingest(&mut reader, &expected);
            // If the store stopped reading, this makes the packer end with its own error.
            drop(reader);
            let packed =
                packing.join().unwrap_or_else(|_| Err(PackError::Stream(io::Error::other("packing ended early"))));
            match (ingested, packed) {
                (Ok(layer), Ok(())) => Ok(layer.diff_id),
                (Err(error), Err(packing @ PackError::File { .. })) => Err(changed(directory, &error, packing)),
                (Err(error), _) => Err(error),
                (Ok(_), Err(error)) => Err(failed(error)),
            }
        })
    }
}

/// Returns why packing failed, which explains why the store saw the tar end.
fn changed(directory: &Path, seen: &IngestError, packing: PackError) -> IngestError {
    tracing::debug!("{}: {seen}", directory.display());
    failed(packing)
}

fn failed(error: PackError) -> IngestError {
    match error {
        PackError::File { path, cause } => StoreError::Io { path, cause }.into(),
        PackError::Stream(cause) => IngestError::Source(cause),
    }
}

/// Computes the DiffID of the directory's tar without writing anything.
fn digest_of(directory: &Path) -> Result<DiffId, IngestError> {
    let (mut reader, writer) = io::pipe().map_err(StoreError::io(directory))?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(|| pack(directory, writer));
        let mut hasher = Sha256::new();
        let mut piece = vec![0; 64 << 10];
        let hashed = loop {
            match reader.read(&mut piece) {
                Ok(0) => break Ok(()),
                Ok(length) => hasher.update(piece.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(IngestError::Source(error)),
            }
        };
        packing
            .join()
            .unwrap_or_else(|_| Err(PackError::Stream(io::Error::other("packing ended early"))))
            .map_err(failed)?;
        hashed.map(|()| DiffId(Digest::from_bytes(hasher.finalize().into())))
    })
}

fn pack(directory: &Path, out: PipeWriter) -> Result<(), PackError> {
    let mut packer = Packer::new(io::BufWriter::with_capacity(64 << 10, out)).owned_by_root();
    let mut todo = vec![PathBuf::new()];
    while let Some(name) = todo.pop() {
        let path = directory.join(&name);
        let metadata = fs::symlink_metadata(&path).map_err(|cause| PackError::File { path: path.clone(), cause })?;
        // An entry for the root would give the image's root this directory's mode.
        let packed = name.as_os_str().is_empty() || packer.entry(&path, &name, &metadata, &[])?;
        if !packed {
            tracing::warn!("{}: sockets cannot be part of a layer; it is left out", path.display());
        }
        if metadata.is_dir() {
            todo.extend(tree_packer::names_in(&path)?.into_iter().rev().map(|child| name.join(child)));
        }
    }
    packer.finish().map(drop).map_err(PackError::Stream)
}
