//! A store, the archives beside it, and what an import said.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use layer_store::{Acquired, Digest, ImportError, ImportOptions, ImportSource, Observer, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::image::{Image, entry, write_layout};
use crate::support::{names, run};

pub(crate) struct Place {
    directory: TempDir,
    notices: Arc<Notices>,
}

/// Remembers what the user is told.
#[derive(Debug, Default)]
struct Notices(Mutex<Vec<String>>);

impl Observer for Notices {
    fn notice(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), notices: Arc::default() }
    }

    /// A file or directory beside the store.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("store")
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.root()).unwrap()
    }

    pub(crate) fn import(&self, path: &Path) -> Result<Vec<Acquired>, ImportError> {
        self.import_with(path, &ImportOptions::default())
    }

    pub(crate) fn import_with(&self, path: &Path, options: &ImportOptions) -> Result<Vec<Acquired>, ImportError> {
        self.import_from(&ImportSource::from(path.as_os_str()), options)
    }

    pub(crate) fn import_from(
        &self,
        source: &ImportSource,
        options: &ImportOptions,
    ) -> Result<Vec<Acquired>, ImportError> {
        let observer: Arc<dyn Observer> = self.notices.clone();
        self.store().images().import(source, options, &observer)
    }

    /// Imports one image of an archive.
    pub(crate) fn import_one(&self, path: &Path, image: &str) -> Result<Vec<Acquired>, ImportError> {
        self.import_with(path, &ImportOptions { image: Some(image.to_owned()), ..ImportOptions::default() })
    }

    /// Imports through a pipe, as from standard input.
    pub(crate) fn import_piped(&self, archive: &[u8]) -> Result<Vec<Acquired>, ImportError> {
        self.import_piped_with(archive, &ImportOptions::default())
    }

    pub(crate) fn import_piped_with(
        &self,
        archive: &[u8],
        options: &ImportOptions,
    ) -> Result<Vec<Acquired>, ImportError> {
        let fifo = self.path("fifo");
        if !fifo.exists() {
            run("mkfifo", &[fifo.to_str().unwrap()]);
        }
        std::thread::scope(|scope| {
            // A reader that gives up closes the pipe, and writing fails.
            scope.spawn(|| std::fs::OpenOptions::new().write(true).open(&fifo).unwrap().write_all(archive).ok());
            self.import_with(&fifo, options)
        })
    }

    /// What the imports said since the last call.
    pub(crate) fn notices(&self) -> String {
        self.notices.0.lock().unwrap().drain(..).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn refusal(&self, path: &Path) -> String {
        let error = self.import(path).expect_err(&path.display().to_string()).to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    pub(crate) fn assert_nothing_named(&self) {
        for directory in ["images", "tmp", "leases", "locks"] {
            assert_eq!(names(&self.root().join(directory)), [""; 0], "{directory}");
        }
    }

    pub(crate) fn assert_holds(&self, name: &str, image: &Image) {
        let store = self.store();
        let kept = store.images().get(name).unwrap();
        assert_eq!(kept.layers.iter().map(ToString::to_string).collect::<Vec<_>>(), image.diff_ids());
        for layer in &image.layers {
            let blob = self.root().join("layers/sha256").join(Digest::of(&layer.tar).hex()).join("blob");
            assert!(std::fs::read(blob).unwrap() == layer.tar);
        }
        drop(store);
        for directory in ["tmp", "leases", "locks"] {
            assert_eq!(names(&self.root().join(directory)), [""; 0], "{directory}");
        }
    }
}

pub(crate) fn layout_of(place: &Place, image: &Image, name: Option<&str>) -> PathBuf {
    let layout = place.path("debian-layout");
    write_layout(&layout, &[image], &[entry(image, name)]);
    layout
}

pub(crate) fn names_of(acquired: &[Acquired]) -> Vec<String> {
    acquired.iter().flat_map(|image| &image.references).map(ToString::to_string).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar archive of the named files, in this order.
pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // As written: the builder would refuse some paths.
        match header.as_gnu_mut().unwrap().name.get_mut(..path.len()) {
            Some(name) => {
                name.copy_from_slice(path.as_bytes());
                header.set_cksum();
                builder.append(&header, *content).unwrap();
            }
            None => builder.append_data(&mut header, path, *content).unwrap(),
        }
    }
    builder.into_inner().unwrap()
}

/// The files of a docker archive of one image: config, layers, and the list with the names.
pub(crate) fn docker_files(image: &Image, repo_tags: &Value) -> Vec<(String, Vec<u8>)> {
    let config = format!("{}.json", Digest::of(&image.config).hex());
    let layers: Vec<String> = (0..image.layers.len()).map(|number| format!("{number}.tar")).collect();
    let list = json!([{"Config": config, "RepoTags": repo_tags, "Layers": layers}]).to_string().into_bytes();
    let tars = image.layers.iter().map(|layer| layer.tar.clone());
    layers.into_iter().zip(tars).chain([(config, image.config.clone()), ("manifest.json".to_owned(), list)]).collect()
}

/// The files of a layout.
pub(crate) fn layout_files(images: &[&Image], entries: &[Value]) -> Vec<(String, Vec<u8>)> {
    let blobs = images.iter().flat_map(|image| image.blobs());
    let blobs = blobs.map(|blob| (format!("blobs/sha256/{}", Digest::of(blob).hex()), blob.to_vec()));
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes();
    let marker = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
    blobs.chain([("index.json".to_owned(), index), ("oci-layout".to_owned(), marker)]).collect()
}

/// A tar archive of files.
pub(crate) fn packed(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut files: Vec<(&str, &[u8])> =
        files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
    files.dedup_by_key(|(path, _)| *path);
    archive(&files)
}

/// A docker archive as old versions wrote it: a layer that another image has is a link to it.
pub(crate) fn docker_archive_with_link(image: &Image, packed: bool) -> Vec<u8> {
    let config = format!("{}.json", Digest::of(&image.config).hex());
    let list = json!([{"Config": config, "RepoTags": ["app:1", "app:latest"],
        "Layers": ["one/layer.tar", "two/layer.tar", "three/layer.tar"]}]);
    let list = list.to_string();
    let content = |number: usize| match packed {
        true => image.layers[number].packed.as_slice(),
        false => image.layers[number].tar.as_slice(),
    };
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "three/layer.tar", "../one/layer.tar").unwrap();
    for (path, bytes) in [
        ("one/VERSION", b"1.0".as_slice()),
        ("one/json", b"{}"),
        ("one/layer.tar", content(0)),
        ("./two/layer.tar", content(1)),
        (&config, &image.config),
        ("manifest.json", list.as_bytes()),
        ("repositories", b"{}"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}
