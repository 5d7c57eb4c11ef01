//! The tree that `umoci unpack`, run as root, makes of a layout: every view is compared with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::tree::FORMAT;
use crate::{Image, TreeDump, images, programs};

/// The oracle's tree of one of the three images. Made once; kept beside the images as text (`NAME-IDENTITY.tree`),
/// so that no setuid file and no device node of an image stays on the host.
///
/// # Panics
/// When umoci fails, or the dump cannot be kept.
#[must_use]
pub fn tree_of(image: Image) -> TreeDump {
    let layout = image.layout();
    let index = std::fs::read(layout.join("index.json")).expect("the layout's index.json can be read");
    let identity: String = Sha256::digest(&index).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let kept = images::directory().join(format!("{}-{identity}-{FORMAT}.tree", image.name()));

    // Tests run in processes of their own: the first one unpacks, the others wait for it.
    let lock = std::fs::File::create(images::directory().join(format!("{}.lock", image.name())))
        .expect("the images' directory can be written");
    flock(&lock, FlockOperation::LockExclusive).expect("the lock of the oracle's tree");
    if let Ok(text) = std::fs::read_to_string(&kept) {
        return TreeDump::parse(&text).unwrap_or_else(|error| panic!("{}: {error}; remove it", kept.display()));
    }
    let dump = unpack(&layout, &images::directory());
    let unfinished = kept.with_extension("unfinished");
    std::fs::write(&unfinished, dump.to_string()).expect("the oracle's tree can be written");
    std::fs::rename(&unfinished, &kept).expect("the oracle's tree can be kept");
    dump
}

/// Unpacks the image `latest` of a layout below `scratch`, reads the tree, and removes it again.
///
/// # Panics
/// When umoci or the reading fails.
#[must_use]
pub fn unpack(layout: &Path, scratch: &Path) -> TreeDump {
    let unpacked = Unpacked::of(&format!("{}:latest", layout.display()), scratch);
    TreeDump::of(&unpacked.root()).unwrap_or_else(|error| panic!("the oracle's tree: {error}"))
}

/// An image unpacked by umoci. Removed when dropped.
#[derive(Debug)]
pub struct Unpacked {
    bundle: tempfile::TempDir,
}

impl Unpacked {
    /// Unpacks `LAYOUT:TAG` below `scratch`, where only root has access.
    ///
    /// # Panics
    /// When umoci fails.
    #[must_use]
    pub fn of(image: &str, scratch: &Path) -> Self {
        let bundle = tempfile::Builder::new().prefix("oracle.").tempdir_in(scratch).expect("a scratch directory");
        let output = Command::new(programs::installed("umoci"))
            .args(["unpack", "--image", image])
            .arg(bundle.path().join("bundle"))
            .output()
            .expect("umoci can be started");
        assert!(output.status.success(), "umoci unpack {image}: {}", String::from_utf8_lossy(&output.stderr));
        Self { bundle }
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.bundle.path().join("bundle/rootfs")
    }
}
