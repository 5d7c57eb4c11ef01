//! Importing images from archives and layouts.
//!
//! An OCI layout in a directory or a plain tar file is read from any place, its layers side by side. An
//! archive from a pipe, or a compressed one, passes by once. Either way every digest that the archive
//! names is checked, and no name in it is looked up on the host.

mod docker;
mod entries;
mod error;
mod files;
mod import;
mod layout;
mod naming;
mod open;
mod sniff;
mod stream;
mod tarball;
mod watch;

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

pub use error::ImportError;

use import::Import;
use stream::Reception;

use crate::observer::Halt;
use crate::oci::Acquired;
use crate::oci::manifest::Descriptor;
use crate::oci::platform::Platform;
use crate::oci::sink::LayerSink;
use crate::{DiffId, Digest, Observer, Reference};

/// Where an import reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportSource {
    /// Descriptor 0.
    StandardInput,
    /// A layout directory, an archive, or a FIFO that gives one.
    Path(PathBuf),
}

impl From<&OsStr> for ImportSource {
    /// `-` is standard input.
    fn from(argument: &OsStr) -> Self {
        if argument == "-" { Self::StandardInput } else { Self::Path(argument.into()) }
    }
}

impl fmt::Display for ImportSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardInput => f.write_str("standard input"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// How to import.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The platform to choose where there are several; `None` is [`Platform::host`].
    pub platform: Option<Platform>,
    /// Only the image with this name, tag, digest or beginning of a digest (6 digits or more).
    pub image: Option<String>,
    /// What to call the image, instead of its names in the archive.
    pub tag: Option<Reference>,
    /// Layers read at once, at least 1, where the archive lets itself be read from any place.
    pub parallel: usize,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            platform: None,
            image: None,
            tag: None,
            parallel: std::thread::available_parallelism().map_or(4, usize::from),
        }
    }
}

/// One image of an archive.
struct Found {
    /// Its names as the archive writes them.
    written: Vec<String>,
    /// What may be asked for: the digests of its manifest, of the index it is in, or of its config.
    digests: Vec<Digest>,
    platform: Platform,
    /// From the bottom up.
    layers: Vec<FoundLayer>,
    config_bytes: Vec<u8>,
    /// `None` where the archive has none and one must be made.
    manifest_bytes: Option<Vec<u8>>,
}

impl Found {
    /// What to call it in a message.
    fn label(&self) -> String {
        match self.written.as_slice() {
            [] => self.digests.last().map_or_else(String::new, ToString::to_string),
            names => names.join(" ").escape_debug().to_string(),
        }
    }
}

#[derive(Clone)]
struct FoundLayer {
    path: String,
    diff_id: DiffId,
    /// What the manifest says of it; a docker archive says nothing.
    blob: Option<Descriptor>,
}

impl FoundLayer {
    /// What to call it while it comes in.
    fn name(&self) -> String {
        self.blob.as_ref().map_or_else(|| self.path.clone(), Descriptor::short)
    }
}

/// Brings the images of an archive into the store, and names them there.
pub(crate) fn import_into(
    sink: &dyn LayerSink,
    source: &ImportSource,
    options: &ImportOptions,
    observer: &Arc<dyn Observer>,
) -> Result<Vec<Acquired>, ImportError> {
    let source_name = source.to_string();
    let halt = Halt::new(observer);
    let progress = &**observer;
    let reception = Reception { sink, progress, cancellation: &halt, source_name: &source_name };
    let files = open::open(source, &reception)?;
    let import = Import { sink, source, source_name: &source_name, options, progress, halt: &halt };
    let images = import.select(import.images(&*files)?)?;
    let brought = import.layers(&*files, &images)?;
    images.iter().map(|image| import.finish(image, &brought)).collect()
}
