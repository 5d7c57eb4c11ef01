//! Small images made by a test: OCI layouts whose layers are given as tar entries.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Image;
use crate::programs::installed;

/// One layer: an uncompressed tar.
#[derive(Debug, Clone)]
pub struct Layer {
    tar: Vec<u8>,
}

impl Layer {
    /// A layer of regular files `(path, content)`, mode 0644, owner 0:0, dated one second after the epoch.
    ///
    /// # Panics
    /// When a path is not one that a tar can hold.
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

    /// What a shell script leaves in an empty directory in which root runs it (umask 022): with owners, modes, devices,
    /// hard links and extended attributes of any namespace.
    ///
    /// # Panics
    /// When the script or tar fails.
    #[must_use]
    pub fn of_script(script: &str) -> Self {
        Self::archive_of_script(script, &[])
    }

    /// The same, where the holes of files are holes in the tar (PAX 1.0).
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
        // What would make two runs differ.
        archive.arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime");
        Self { tar: output_of(archive.args(options).arg("--directory").arg(&root).arg(".")) }
    }

    /// The tar, uncompressed.
    #[must_use]
    pub fn tar(&self) -> &[u8] {
        &self.tar
    }

    /// The layer that this uncompressed tar is.
    #[must_use]
    pub fn of_tar(tar: Vec<u8>) -> Self {
        Self { tar }
    }

    /// One layer of a real image, the lowest being number 0.
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
        let mut layout = Self::empty();
        let manifest = layout.put_image(architecture(), layers);
        layout.finish(manifest)
    }

    /// Writes a layout whose tag names an index: one image of one layer for each architecture.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn of_platforms(platforms: &[(&str, Layer)]) -> Self {
        let mut layout = Self::empty();
        let manifests = platforms.iter().map(|(architecture, layer)| {
            let mut manifest = layout.put_image(architecture, std::slice::from_ref(layer));
            manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
            manifest
        });
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests.collect::<Vec<_>>()});
        let index = layout.put_json(media_type, &index);
        layout.finish(index)
    }

    fn empty() -> Self {
        let directory =
            tempfile::Builder::new().prefix("lamina-layout-").tempdir_in("/tmp").expect("a directory in /tmp");
        std::fs::create_dir_all(directory.path().join("blobs/sha256")).expect("the layout's blobs");
        Self { directory, layer_digests: Vec::new() }
    }

    fn finish(self, mut tagged: Value) -> Self {
        tagged["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        self.put_file("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}));
        self.put_file("index.json", &json!({"schemaVersion": 2, "manifests": [tagged]}));
        crate::Actor::User.own(self.path());
        self
    }

    fn put_image(&mut self, architecture: &str, layers: &[Layer]) -> Value {
        let descriptors: Vec<Value> = layers.iter().map(|layer| self.put_layer(layer)).collect();
        self.layer_digests.extend(descriptors.iter().filter_map(|each| Some(each["digest"].as_str()?.to_owned())));
        let config = self.put_json(
            "application/vnd.oci.image.config.v1+json",
            &json!({
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": ["/bin/sh"]},
                "rootfs": {"type": "layers", "diff_ids": layers.iter().map(Layer::diff_id).collect::<Vec<_>>()},
            }),
        );
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors});
        self.put_json(media_type, &manifest)
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
        self.path().join("blobs").join(digest.replace(':', "/"))
    }

    fn put_layer(&self, layer: &Layer) -> Value {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&layer.tar).expect("gzip into memory");
        self.put("application/vnd.oci.image.layer.v1.tar+gzip", &gzip.finish().expect("gzip into memory"))
    }

    fn put_json(&self, media_type: &str, value: &Value) -> Value {
        self.put(media_type, value.to_string().as_bytes())
    }

    fn put(&self, media_type: &str, blob: &[u8]) -> Value {
        let name = digest(blob);
        std::fs::write(self.blob(&name), blob).expect("a blob of the layout");
        json!({"mediaType": media_type, "digest": name, "size": blob.len()})
    }

    fn put_file(&self, name: &str, value: &Value) {
        std::fs::write(self.path().join(name), value.to_string()).expect("a file of the layout");
    }
}

fn output_of(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Bytes that gzip cannot shrink and no two seeds share.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// `sha256:<hex>` of bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The host's architecture as OCI images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
