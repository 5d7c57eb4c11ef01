//! Small images made by a test: OCI layouts whose layers are given as tar entries.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use test_support::image::{self, INDEX, Packing, descriptor, entry, go_architecture, put_blob, write_layout};
pub use test_support::image::{blob_path, digest};
pub use test_support::noise;

use crate::programs::installed;
use crate::{Actor, Image};

/// One layer: an uncompressed tar.
#[derive(Debug, Clone)]
pub struct Layer {
    tar: Vec<u8>,
}

impl Layer {
    /// A layer of regular files `(path, content)`, mode 0644, owner 0:0, dated one second after the epoch.
    ///
    /// # Panics
    /// When a tar cannot hold a path.
    #[must_use]
    pub fn of_files(files: &[(&str, &[u8])]) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            archive.append_data(&mut header, path, *content).expect("a tar entry");
        }
        Self { tar: archive.into_inner().expect("the end of a tar") }
    }

    /// A layer of what a shell script creates in an empty directory as root (umask 022): with owners, modes, devices,
    /// hard links and extended attributes of any namespace.
    ///
    /// # Panics
    /// When the script or tar fails.
    #[must_use]
    pub fn of_script(script: &str) -> Self {
        Self::archive_of_script(script, &[])
    }

    /// The same, but the holes of files are also holes in the tar (PAX 1.0).
    ///
    /// # Panics
    /// When the script or tar fails.
    #[must_use]
    pub fn of_script_sparse(script: &str) -> Self {
        Self::archive_of_script(script, &["--sparse"])
    }

    fn archive_of_script(script: &str, options: &[&str]) -> Self {
        let directory =
            tempfile::Builder::new().prefix("lamina-layer-").tempdir_in("/tmp").expect("a directory in /tmp");
        let root = directory.path().join("root");
        std::fs::create_dir(&root).expect("the layer's directory");
        let script = format!("umask 022; {script}");
        output_of(Command::new(installed("sh")).args(["-euc", &script]).current_dir(&root));
        let mut archive = Command::new(installed("tar"));
        archive.args([
            "--create",
            "--format=posix",
            "--sort=name",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
        ]);
        // These would make two runs differ.
        archive.arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime");
        Self { tar: output_of(archive.args(options).arg("--directory").arg(&root).arg(".")) }
    }

    /// The tar, uncompressed.
    #[must_use]
    pub fn tar(&self) -> &[u8] {
        &self.tar
    }

    /// Creates a layer from an uncompressed tar.
    #[must_use]
    pub fn of_tar(tar: Vec<u8>) -> Self {
        Self { tar }
    }

    /// One layer of a real image. The lowest is number 0.
    ///
    /// # Panics
    /// When `scripts/images` has not made the image, or it has no such layer.
    #[must_use]
    pub fn of_image(image: Image, number: usize) -> Self {
        let layout = image.layout();
        let blob = |digest: &Value| layout.join("blobs").join(digest.as_str().expect("a digest").replace(':', "/"));
        let json = |path: PathBuf| -> Value {
            let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let index = json(layout.join("index.json"));
        let manifest = json(blob(&index["manifests"][0]["digest"]));
        let path = blob(&manifest["layers"][number]["digest"]);
        let packed = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut tar = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut tar).expect("a gzip layer");
        Self { tar }
    }

    /// The length of the tar in bytes.
    #[must_use]
    pub fn tar_bytes(&self) -> u64 {
        self.tar.len() as u64
    }

    /// The DiffID, `sha256:<hex>`.
    #[must_use]
    pub fn diff_id(&self) -> String {
        digest(&self.tar)
    }
}

/// An OCI layout directory with one image, tag `latest`, of gzip layers. Removed when dropped.
#[derive(Debug)]
pub struct Layout {
    directory: tempfile::TempDir,
    layer_digests: Vec<String>,
}

impl Layout {
    /// Writes a layout of one image for the host's platform, readable by every user.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn of(layers: &[Layer]) -> Self {
        Self::of_image(&image_of(go_architecture(), layers))
    }

    /// The same with another `config` in the image's configuration.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn of_config(layers: &[Layer], config: &Value) -> Self {
        let layers = layers.iter().map(|layer| image::Layer::of_tar(layer.tar.clone(), Packing::Gzip));
        Self::of_image(&image::Image::with_config(layers.collect(), go_architecture(), config))
    }

    fn of_image(image: &image::Image) -> Self {
        let layout = Self::write(&[image], entry(image, Some("latest")));
        Actor::User.own(layout.path());
        layout
    }

    /// Writes a layout whose tag names an index: one image of one layer for each architecture.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn of_platforms(platforms: &[(&str, Layer)]) -> Self {
        let images = platforms.iter().map(|(architecture, layer)| image_of(architecture, std::slice::from_ref(layer)));
        let images: Vec<image::Image> = images.collect();
        let manifests: Vec<Value> = images.iter().map(|image| entry(image, None)).collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string();
        let mut tagged = descriptor(INDEX, index.as_bytes());
        tagged["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let layout = Self::write(&images.iter().collect::<Vec<_>>(), tagged);
        put_blob(layout.path(), index.as_bytes());
        Actor::User.own(layout.path());
        layout
    }

    fn write(images: &[&image::Image], tagged: Value) -> Self {
        let directory =
            tempfile::Builder::new().prefix("lamina-layout-").tempdir_in("/tmp").expect("a directory in /tmp");
        write_layout(directory.path(), images, &[tagged]);
        let layers = images.iter().flat_map(|image| &image.layers);
        Self { layer_digests: layers.map(image::Layer::digest).collect(), directory }
    }

    /// The layout's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The digest of each layer as stored (gzip), lowest first.
    #[must_use]
    pub fn layer_digests(&self) -> &[String] {
        &self.layer_digests
    }

    /// The file of a blob.
    #[must_use]
    pub fn blob(&self, digest: &str) -> PathBuf {
        blob_path(self.path(), digest)
    }
}

fn image_of(architecture: &str, layers: &[Layer]) -> image::Image {
    let layers = layers.iter().map(|layer| image::Layer::of_tar(layer.tar.clone(), Packing::Gzip));
    image::Image::for_platform(layers.collect(), architecture)
}

fn output_of(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
