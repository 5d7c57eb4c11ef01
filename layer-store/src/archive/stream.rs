//! Reads an archive that can be read only once: from a pipe, or from a decompressor.
//!
//! Layers may come before the manifest that names them, and the stream cannot be rewound. So everything
//! that looks like a layer is ingested when it is read, and JSON files are kept in memory until the end.
//! A layer that turns out to belong to no image is left to garbage collection.

use std::io::{self, Cursor, Read};

use super::entries::{Entries, Member, cut_off};
use super::error::ImportError;
use super::files::{Files, Passed, Supply};
use super::sniff::{self, Form};
use super::tarball::Names;
use super::watch::Counted;
use crate::observer::Halt;
use crate::oci::manifest::CONFIG_LIMIT;
use crate::oci::sink::LayerSink;
use crate::{BlobDigest, DiffId, ExpectedLayer, ImageError, LayerProgress, LayerState, Observer};

/// The most bytes of JSON files kept in memory. An archive of a hundred images has some megabytes.
const DOCUMENTS_LIMIT: u64 = 64 << 20;

/// What is kept of an archive after its stream ended.
pub(super) struct Stream {
    names: Names<Kept>,
    source_name: String,
}

enum Kept {
    Document(Vec<u8>),
    Layer(Passed),
    Refused(String),
    /// Too large for a JSON file, and not a layer.
    Skipped,
}

/// What is needed to ingest layers from the stream.
pub(super) struct Reception<'a> {
    pub(super) sink: &'a dyn LayerSink,
    pub(super) progress: &'a dyn Observer,
    pub(super) cancellation: &'a Halt,
    pub(super) source_name: &'a str,
}

impl Stream {
    /// Reads the archive to its end.
    pub(super) fn receive(archive: impl Read + Send, reception: &Reception<'_>) -> Result<Self, ImportError> {
        let failed = |cause| match reception.cancellation.cancelled() {
            true => ImportError::Cancelled,
            false => ImportError::Read { source_name: reception.source_name.to_owned(), cause },
        };
        let mut names = Names::default();
        let mut documents = 0;
        let mut entries = Entries::new(archive, skip);
        while let Some(entry) = entries.next().map_err(failed)? {
            match entry {
                Member::File { path, length } => {
                    let kept = reception.keep(&path, &mut entries, length, &mut documents).map_err(failed)?;
                    if reception.cancellation.cancelled() {
                        return Err(ImportError::Cancelled);
                    }
                    names.insert_file(&path, kept);
                }
                Member::Link { path, target, symbolic } => names.insert_link(&path, &target, symbolic),
            }
        }
        Ok(Self { names, source_name: reception.source_name.to_owned() })
    }
}

fn skip(archive: &mut impl Read, length: u64) -> io::Result<()> {
    let skipped = io::copy(&mut archive.take(length), &mut io::sink())?;
    if skipped < length { Err(cut_off()) } else { Ok(()) }
}

impl Reception<'_> {
    fn keep(&self, path: &str, entry: &mut (dyn Read + Send), length: u64, documents: &mut u64) -> io::Result<Kept> {
        let mut head = Vec::new();
        entry.take(sniff::HEAD).read_to_end(&mut head)?;
        match sniff::form(&head) {
            Form::Tar | Form::Compressed => Ok(self.ingest(path, &mut Cursor::new(head).chain(entry), length)),
            Form::Other if head.trim_ascii_start().starts_with(b"{") || head.trim_ascii_start().starts_with(b"[") => {
                if length > CONFIG_LIMIT || *documents + length > DOCUMENTS_LIMIT {
                    return Ok(Kept::Skipped);
                }
                *documents += length;
                entry.read_to_end(&mut head)?;
                Ok(Kept::Document(head))
            }
            Form::Other => Ok(Kept::Skipped),
        }
    }

    fn ingest(&self, path: &str, content: &mut (dyn Read + Send), length: u64) -> Kept {
        // The name of a blob in a layout is its digest: if the store has that layer, the blob need not be read.
        let promised =
            path.strip_prefix("blobs/").and_then(|blob| blob.replacen('/', ":", 1).parse::<BlobDigest>().ok());
        let known = promised.and_then(|promised| {
            let digest = promised.sha256()?;
            let plain = Some(DiffId(digest)).filter(|layer| self.sink.has_layer(layer));
            Some((promised, plain.or_else(|| self.sink.layer_by_compressed(&digest))?))
        });
        let name = promised.map_or_else(|| path.to_owned(), |digest| digest.hex().chars().take(12).collect());
        let report = |state, bytes| {
            self.progress.layer(&LayerProgress { name: &name, state, bytes, total: Some(length) });
        };
        if let Some((compressed, diff_id)) = known {
            report(LayerState::Present, length);
            return Kept::Layer(Passed { diff_id, compressed, length, blob_bytes: None, was_present: true });
        }
        let expected = ExpectedLayer { compressed: promised, diff_id: None };
        let mut counted = Counted::new(content, self.cancellation, |bytes| report(LayerState::Fetching, bytes));
        match self.sink.ingest(&mut counted, &expected) {
            Ok(layer) => {
                report(LayerState::Done, length);
                Kept::Layer(Passed {
                    diff_id: layer.diff_id,
                    compressed: promised.unwrap_or_else(|| layer.compressed_digest.into()),
                    length,
                    blob_bytes: Some(layer.blob_bytes),
                    was_present: layer.was_present,
                })
            }
            // Perhaps no image needs it: this is only known at the end.
            Err(cause) => Kept::Refused(cause.to_string()),
        }
    }
}

impl Files for Stream {
    fn document(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError> {
        match self.names.resolve(path) {
            Some(Kept::Document(bytes)) if bytes.len() as u64 <= limit => Ok(Some(bytes.clone())),
            None => Ok(None),
            Some(_) => Err(ImportError::Image {
                source_name: self.source_name.clone(),
                cause: ImageError::Malformed {
                    what: path.to_owned(),
                    cause: "it is not a manifest, index or config of an image".to_owned(),
                },
            }),
        }
    }

    fn has_layer(&self, path: &str) -> bool {
        self.names.resolve(path).is_some()
    }

    fn layer(&self, path: &str) -> Result<Option<Supply<'_>>, ImportError> {
        Ok(self.names.resolve(path).map(|kept| match kept {
            Kept::Layer(passed) => Supply::Ingested(passed.clone()),
            Kept::Refused(cause) => Supply::Refused(cause.clone()),
            Kept::Document(_) | Kept::Skipped => Supply::Refused("it is not a tar archive".to_owned()),
        }))
    }
}
