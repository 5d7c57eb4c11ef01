//! Layers added on top of an image before it is prepared.

use std::fs::File;
use std::path::{Path, PathBuf};

use layer_store::{DiffId, ExpectedLayer, Store};
use transfer_cli::SharingArgs;

use super::variant::{self, Layer};
use super::{Global, store};
use crate::failure::{About, Failure};

/// Options that add layers on top of an image.
#[derive(Debug, clap::Args)]
pub(super) struct OnTop {
    /// Add a variant's layers on top: a name from variants.toml in the store, FILE, or FILE:NAME
    #[arg(long, value_name = "NAME|FILE")]
    variant: Option<String>,
    /// Add the content of this directory on top, owned by root (repeatable)
    #[arg(long = "layer", value_name = "DIR")]
    layers: Vec<PathBuf>,
    #[command(flatten)]
    sharing: SharingArgs,
}

impl OnTop {
    /// Opens the store that the command line names, with the file sharing it asks for.
    pub(super) fn open(&self, global: &Global) -> Result<Store, Failure> {
        Ok(store::open(global)?.with_file_sharing(self.sharing.shares_files()))
    }

    /// Returns the layers, lowest first: the variant's, then the directories'.
    pub(super) fn layers(&self, store: &Store) -> Result<Vec<DiffId>, Failure> {
        let mut layers = Vec::new();
        if let Some(asked) = &self.variant {
            for layer in variant::find(asked, store.root())? {
                match layer {
                    Layer::Directory(path) => layers.push(add_directory(store, &path)?),
                    Layer::Archive(path) => layers.push(add_archive(store, &path)?),
                    Layer::Image(name) => layers.extend(store::image(store, &name)?.layers),
                }
            }
        }
        for directory in &self.layers {
            layers.push(add_directory(store, directory)?);
        }
        Ok(layers)
    }
}

fn add_directory(store: &Store, directory: &Path) -> Result<DiffId, Failure> {
    if !directory.is_dir() {
        let cause = if directory.exists() { "it is not a directory" } else { "no such directory" };
        return Err(Failure::new(directory.display(), cause));
    }
    store.layers().add_directory(directory).about(directory.display())
}

fn add_archive(store: &Store, archive: &Path) -> Result<DiffId, Failure> {
    let mut file = File::open(archive).about(archive.display())?;
    let expected = ExpectedLayer { compressed: None, diff_id: None };
    Ok(store.layers().ingest(&mut file, &expected).about(archive.display())?.diff_id)
}
