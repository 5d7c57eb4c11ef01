//! What the layer reader and the merge must show, computed independently of them.
//!
//! A case is a few lines of text ([`text`]) that an encoder writes as tars ([`tar_writer`]) and a naive model
//! understands ([`model`]). What the implementation under test shows ([`subject`]) must equal the model, and the model
//! must equal what kernel overlayfs ([`overlayfs`]) and `umoci unpack` ([`umoci`]) make of the same layers, except for
//! the deviations that the case lists.

pub mod case;
pub mod dump;
pub mod flatten;
mod header;
pub mod host_tree;
pub mod layout;
pub mod model;
pub mod overlayfs;
pub mod paths;
mod sparse;
pub mod stack;
pub mod subject;
pub mod tar_writer;
pub mod text;
mod tokens;
pub mod umoci;
mod unpack;

/// Creates a directory in memory, which is removed when it is dropped. The cases test trees and not disks.
///
/// # Errors
/// If there is neither `/dev/shm` nor a directory for temporary files.
pub fn scratch() -> std::io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("lamina-conformance-");
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir())
}
