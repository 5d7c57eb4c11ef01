//! The real images that `scripts/images` makes.

use std::path::PathBuf;

/// One of the three images that the tests compare entry by entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// Debian 12 with packages; a layer of settings that also removes a file.
    Debian,
    /// Debian 12 with an npm and a PyPI tree.
    Trees,
    /// Debian 12 with whiteouts, opaque directories, hard links across directories, devices, xattrs, odd names.
    Corners,
    /// Debian 12 with git, node, npm and pip, to work in; see [`Image::WORK_FILES`].
    Work,
    /// Debian 12 with QEMU, FUSE and passt, in which `lamina` itself runs: see `tests/nested_kvm.rs`.
    Outer,
}

impl Image {
    /// The directory next to the layouts with the files that tests in [`Image::Work`] use.
    pub const WORK_FILES: &str = "work-files";

    /// All images that are compared entry by entry.
    pub const ALL: [Self; 3] = [Self::Debian, Self::Trees, Self::Corners];

    /// The name of its layout.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Trees => "trees",
            Self::Corners => "corners",
            Self::Work => "work",
            Self::Outer => "outer",
        }
    }

    /// The OCI layout directory; its one image has the tag `latest`.
    ///
    /// # Panics
    /// When `scripts/images` has not made it.
    #[must_use]
    pub fn layout(self) -> PathBuf {
        let path = directory().join(self.name());
        assert!(path.join("index.json").is_file(), "the image {} is missing: run scripts/images", path.display());
        path
    }
}

/// Where the images are: `$LAMINA_IMAGES`, as `scripts/test` sets it, or else where `scripts/images` puts them for
/// root.
#[must_use]
pub fn directory() -> PathBuf {
    std::env::var_os("LAMINA_IMAGES").map_or_else(|| PathBuf::from("/var/cache/lamina-images"), PathBuf::from)
}
