//! An entry point for fuzzing: the lists of archives.

use super::error::ImportError;
use super::files::{Files, Supply};
use super::{docker, layout};
use crate::oci::platform::Platform;

/// An archive in which every file has the same bytes.
struct Same<'a>(&'a [u8]);

impl Files for Same<'_> {
    fn document(&self, _: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError> {
        Ok((self.0.len() as u64 <= limit).then(|| self.0.to_vec()))
    }

    fn has_layer(&self, _: &str) -> bool {
        false
    }

    fn layer(&self, _: &str) -> Result<Option<Supply<'_>>, ImportError> {
        Ok(None)
    }
}

/// Reads bytes as both lists of an archive, and the images that they name.
pub(crate) fn lists(bytes: &[u8]) {
    let (files, wanted) = (Same(bytes), Platform::host());
    let layout = layout::Layout { files: &files, source_name: "x", wanted: &wanted, is_asked_for: false };
    if let Ok(entries) = layout.entries() {
        for entry in &entries {
            let _ = (entry.platform(), layout.image(&[entry]));
        }
        let _ = layout.image(&entries.iter().collect::<Vec<_>>());
    }
    if let Ok(items) = docker::items(&files, "x") {
        for item in &items {
            let _ = (item.config(), docker::image(&files, "x", item, &wanted));
        }
    }
}
