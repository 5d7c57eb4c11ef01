//! Imports images from archives and layouts.
//!
//! An OCI layout in a directory or a plain tar file is read with random access, several layers at once. An
//! archive from a pipe, or a compressed one, is read once from start to end. Either way every digest that
//! the archive names is checked, and no name in it is looked up on the host.

mod change;
mod daemon;
mod docker;
mod entries;
mod error;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod import;
mod layout;
mod lists;
mod naming;
mod open;
mod rootfs;
mod sniff;
mod source;
mod stream;
mod tarball;
mod watch;

use std::sync::Arc;

pub use change::{ConfigChange, ConfigChangeError};
pub use error::ImportError;
pub use rootfs::RootfsOptions;
pub use source::{ImportSource, Located};

pub(crate) use rootfs::import_into as import_rootfs_into;

use import::Import;
use stream::Reception;

use crate::observer::Halt;
use crate::oci::Acquired;
use crate::oci::manifest::Descriptor;
use crate::oci::platform::Platform;
use crate::oci::sink::LayerSink;
use crate::policy::ImagePolicy;
use crate::{DiffId, Digest, Observer, Reference};

/// The form of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An OCI layout: its images are those that `index.json` lists.
    Layout,
    /// What `docker save` writes: its images are those that `manifest.json` lists.
    Docker,
}

/// Options for an import.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The platform to choose if there are several; `None` is [`Platform::host`].
    pub platform: Option<Platform>,
    /// Only the image with this name, tag, digest or beginning of a digest (6 digits or more), or, as `@N`, the one at
    /// this position in the archive's list, counted from 0.
    pub image: Option<String>,
    /// The name for the image, instead of its names in the archive. A digest in the name must be the image's.
    pub tag: Option<Reference>,
    /// Read only the list of this form, even if the archive has both.
    pub form: Option<Form>,
    /// How many layers to read at once, at least 1, if the archive allows random access.
    pub parallel: usize,
    /// Which images may enter the store.
    pub policy: ImagePolicy,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            platform: None,
            image: None,
            tag: None,
            form: None,
            parallel: std::thread::available_parallelism().map_or(4, usize::from),
            policy: ImagePolicy::default(),
        }
    }
}

/// One image of an archive.
struct Found {
    /// Its names as the archive writes them.
    written: Vec<String>,
    /// The digests that a name of it may have: those of the indexes that lead to its manifest, and last that of the
    /// manifest.
    proved: Vec<Digest>,
    /// The digest of its config.
    config: Digest,
    platform: Platform,
    /// From the bottom up.
    layers: Vec<FoundLayer>,
    config_bytes: Vec<u8>,
    /// `None` if the archive has no manifest and one must be made.
    manifest_bytes: Option<Vec<u8>>,
}

impl Found {
    /// Returns every digest that users may know the image by, the best last.
    fn digests(&self) -> impl DoubleEndedIterator<Item = &Digest> {
        [&self.config].into_iter().chain(&self.proved)
    }

    /// Returns a name for messages.
    fn label(&self) -> String {
        match self.written.as_slice() {
            [] => self.digests().next_back().map_or_else(String::new, ToString::to_string),
            names => names.join(" ").escape_debug().to_string(),
        }
    }

    /// Adds the names that the other list of the archive has for this image. Full names replace tags.
    fn add_names(&mut self, names: Vec<String>) {
        if names.iter().any(|name| !naming::is_tag(name)) {
            self.written.retain(|name| !naming::is_tag(name));
        }
        let new: Vec<String> = names.into_iter().filter(|name| !self.written.contains(name)).collect();
        self.written.extend(new);
    }
}

#[derive(Clone)]
struct FoundLayer {
    path: String,
    diff_id: DiffId,
    /// What the manifest says about it; a docker archive says nothing.
    blob: Option<Descriptor>,
}

impl FoundLayer {
    /// Returns a name for the layer, for progress messages.
    fn name(&self) -> String {
        self.blob.as_ref().map_or_else(|| self.path.clone(), Descriptor::short)
    }
}

/// Imports the images of an archive into the store and names them.
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
    let repository = naming::repository(source.path());
    let images = import.images(&*files, &repository)?;
    let brought = import.layers(&*files, &images)?;
    import.finish(&images, &brought, &repository)
}
