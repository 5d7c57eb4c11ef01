//! Imports of layouts and archives: those that skopeo writes, and broken ones.

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layer_store::{Acquired, Cancellation, Digest, ImportError, ImportOptions, ImportSource, Observer, Silent, Store};
use serde_json::json;
use support::image::{
    INDEX, Image, Layer, Packing, blob_path, descriptor, entry, go_architecture, noise, three_layers, write_layout,
};
use support::{names, run, skopeo};
use tempfile::TempDir;

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// A file or directory beside the store.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("store")
    }

    fn import(&self, path: &Path) -> Result<Vec<Acquired>, ImportError> {
        self.import_with(path, &ImportOptions::default())
    }

    fn import_with(&self, path: &Path, options: &ImportOptions) -> Result<Vec<Acquired>, ImportError> {
        Store::open(&self.root()).unwrap().images().import(
            &ImportSource::from(path.as_os_str()),
            options,
            &(Arc::new(Silent) as Arc<dyn Observer>),
        )
    }

    /// Imports through a pipe, as from standard input.
    fn import_piped(&self, archive: &[u8]) -> Result<Vec<Acquired>, ImportError> {
        let fifo = self.path("fifo");
        if !fifo.exists() {
            run("mkfifo", &[fifo.to_str().unwrap()]);
        }
        std::thread::scope(|scope| {
            // A reader that gives up closes the pipe, and writing fails.
            scope.spawn(|| std::fs::OpenOptions::new().write(true).open(&fifo).unwrap().write_all(archive).ok());
            self.import(&fifo)
        })
    }

    fn refusal(&self, path: &Path) -> String {
        let error = self.import(path).expect_err(&path.display().to_string()).to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    fn assert_nothing_named(&self) {
        for directory in ["images", "tmp", "leases", "locks"] {
            assert_eq!(names(&self.root().join(directory)), [""; 0], "{directory}");
        }
    }

    fn assert_holds(&self, name: &str, image: &Image) {
        let store = Store::open(&self.root()).unwrap();
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

fn layout_of(place: &Place, image: &Image, name: Option<&str>) -> PathBuf {
    let layout = place.path("debian-layout");
    write_layout(&layout, &[image], &[entry(image, name)]);
    layout
}

fn names_of(acquired: &[Acquired]) -> Vec<String> {
    acquired.iter().flat_map(|image| &image.references).map(ToString::to_string).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar archive of the named files, in this order.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn every_form_of_one_image_gives_the_same_layers() {
    // Docker archives cannot hold zstd layers.
    let image = Image::new(vec![
        Layer::new("etc/os-release", &noise(1, 300_000), Packing::Gzip),
        Layer::new("var/lib/state", &noise(2, 100_000), Packing::Plain),
    ]);
    let place = Place::new();
    let layout = layout_of(&place, &image, Some("12"));
    let source = format!("oci:{}:12", layout.display());
    let (oci, docker) = (place.path("oci.tar"), place.path("docker.tar"));
    skopeo(&["copy", &source, &format!("oci-archive:{}:ghcr.io/team/app:1", oci.display())]);
    skopeo(&["copy", &source, &format!("docker-archive:{}:team/app:1", docker.display())]);

    for (path, expected) in
        [(layout, "localhost/debian-layout:12"), (oci, "ghcr.io/team/app:1"), (docker, "docker.io/team/app:1")]
    {
        let place = Place::new();
        let acquired = place.import(&path).unwrap();
        assert_eq!(names_of(&acquired), [expected]);
        place.assert_holds(expected, &image);
        if path.is_dir() {
            assert_eq!(acquired[0].manifest_digest.to_string(), image.digest());
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let place = Place::new();
        let plain = acquired;
        for (name, packed) in [("x.tar.gz", gzip(&bytes)), ("x.tar.zst", zstd::encode_all(&*bytes, 1).unwrap())] {
            std::fs::write(place.path(name), packed).unwrap();
            let acquired = place.import(&place.path(name)).unwrap();
            assert_eq!(acquired[0].manifest_digest, plain[0].manifest_digest, "{name}");
            place.assert_holds(expected, &image);
        }
        let place = Place::new();
        let piped = place.import_piped(&bytes).unwrap();
        assert_eq!(piped[0].manifest_digest, plain[0].manifest_digest);
        assert!(piped[0].layers.iter().all(|layer| !layer.was_present));
        place.assert_holds(expected, &image);
        let again = place.import_piped(&bytes).unwrap();
        assert_eq!(again[0].manifest_digest, plain[0].manifest_digest);
        assert!(again[0].layers.iter().all(|layer| layer.was_present));
    }
}

/// A docker archive as old versions wrote it: a layer that another image has is a link to it.
fn docker_archive_with_link(image: &Image, packed: bool) -> Vec<u8> {
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

#[test]
fn docker_archives_with_linked_and_packed_layers_are_the_same_image() {
    let base = Layer::new("a", &noise(1, 40_000), Packing::Gzip);
    let image = Image::new(vec![base.clone(), Layer::new("b", &noise(2, 40_000), Packing::Zstd), base]);
    let mut manifests = Vec::new();
    for packed in [false, true] {
        let bytes = docker_archive_with_link(&image, packed);
        let place = Place::new();
        std::fs::write(place.path("saved.tar"), &bytes).unwrap();
        for _ in 0..2 {
            let acquired = place.import(&place.path("saved.tar")).unwrap();
            assert_eq!(names_of(&acquired), ["docker.io/library/app:1", "docker.io/library/app:latest"]);
            manifests.push(acquired[0].manifest_digest);
        }
        place.assert_holds("docker.io/library/app:1", &image);
        place.assert_holds("docker.io/library/app:latest", &image);
        let place = Place::new();
        manifests.push(place.import_piped(&bytes).unwrap()[0].manifest_digest);
        manifests.push(place.import_piped(&bytes).unwrap()[0].manifest_digest);
    }
    manifests.dedup();
    assert_eq!(manifests.len(), 1, "however it was packed, and whatever was in the store");
}

#[test]
fn images_are_chosen_by_name_tag_and_digest_and_renamed() {
    let (first, second) = (three_layers(1), three_layers(4));
    let place = Place::new();
    let layout = place.path("two");
    write_layout(&layout, &[&first, &second], &[entry(&first, Some("ghcr.io/a/b:1")), entry(&second, Some("next"))]);
    let tag: layer_store::Reference = "mine:1".parse().unwrap();

    let both = ImportOptions { tag: Some(tag.clone()), ..ImportOptions::default() };
    let error = place.import_with(&layout, &both).unwrap_err().to_string();
    assert!(error.contains("2 images") && error.contains("ghcr.io/a/b:1, next"), "{error}");
    place.assert_nothing_named();

    let digest = second.digest();
    for wanted in ["next", "localhost/two:next", &digest, &digest[7..20]] {
        let place = Place::new();
        let options =
            ImportOptions { image: Some(wanted.to_owned()), tag: Some(tag.clone()), ..ImportOptions::default() };
        let acquired = place.import_with(&layout, &options).unwrap();
        assert_eq!(names_of(&acquired), ["docker.io/library/mine:1"], "{wanted}");
        place.assert_holds("docker.io/library/mine:1", &second);
        let store = Store::open(&place.root()).unwrap();
        assert!(!store.layers().has(&first.diff_ids()[0].parse().unwrap()), "only what was asked for");
    }
    let absent = ImportOptions { image: Some("absent".to_owned()), ..ImportOptions::default() };
    let error = place.import_with(&layout, &absent).unwrap_err().to_string();
    assert!(error.contains("holds no image absent; there is ghcr.io/a/b:1, next"), "{error}");

    assert_eq!(names_of(&place.import(&layout).unwrap()), ["ghcr.io/a/b:1", "localhost/two:next"]);
}

#[test]
fn an_image_without_a_name_is_named_after_its_archive() {
    let image = three_layers(1);
    let place = Place::new();
    let layout = layout_of(&place, &image, None);
    assert_eq!(names_of(&place.import(&layout).unwrap()), ["localhost/debian-layout:latest"]);
    let config = format!("{}.json", Digest::of(&image.config).hex());
    let list = json!([{"Config": config, "RepoTags": null, "Layers": ["0.tar", "1.tar", "2.tar"]}]).to_string();
    let [one, two, three] = [0, 1, 2].map(|number: usize| image.layers[number].tar.as_slice());
    let files = [
        ("0.tar", one),
        ("1.tar", two),
        ("2.tar", three),
        (&*config, &*image.config),
        ("manifest.json", list.as_bytes()),
    ];
    let piped = place.import_piped(&archive(&files)).unwrap();
    assert_eq!(names_of(&piped), ["localhost/fifo:latest"]);
}

#[test]
fn a_layout_with_several_platforms_yields_that_of_the_host() {
    let layer = |text: &str| vec![Layer::new("arch", text.as_bytes(), Packing::Gzip)];
    let (host, other) = (Image::new(layer("host")), Image::for_platform(layer("s390x"), "s390x"));
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(&other, None), entry(&host, None)]});
    let index = index.to_string().into_bytes();
    let place = Place::new();
    let (nested, flat) = (place.path("nested"), place.path("flat"));
    let mut top = descriptor(INDEX, &index);
    top["annotations"] = json!({"io.containerd.image.name": "docker.io/library/app:1"});
    write_layout(&nested, &[&host, &other], &[top]);
    std::fs::write(blob_path(&nested, &Digest::of(&index).to_string()), &index).unwrap();
    write_layout(&flat, &[&host, &other], &[entry(&other, Some("1")), entry(&host, Some("1"))]);
    for layout in [&nested, &flat] {
        let acquired = place.import(layout).unwrap();
        assert_eq!(acquired.len(), 1);
        assert_eq!(acquired[0].manifest_digest.to_string(), host.digest());
        assert_eq!(acquired[0].platform.to_string(), format!("linux/{}", go_architecture()));
        let asked = ImportOptions { platform: Some("linux/s390x".parse().unwrap()), ..ImportOptions::default() };
        let acquired = place.import_with(layout, &asked).unwrap();
        assert_eq!(acquired[0].manifest_digest.to_string(), other.digest());
        let absent = ImportOptions { platform: Some("linux/riscv64".parse().unwrap()), ..ImportOptions::default() };
        let error = place.import_with(layout, &absent).unwrap_err().to_string();
        assert!(error.contains("no image for linux/riscv64; there is linux/s390x, linux/"), "{error}");
    }
}

#[test]
fn signatures_beside_an_image_are_ignored() {
    let image = three_layers(1);
    let place = Place::new();
    let layout = place.path("signed");
    let signature = json!({"schemaVersion": 2, "config": descriptor("application/vnd.dev.sigstore.bundle+json", b"{}"),
        "layers": []});
    let signature = signature.to_string().into_bytes();
    let mut beside = descriptor(support::image::MANIFEST, &signature);
    beside["annotations"] = json!({"org.opencontainers.image.ref.name": "sig"});
    write_layout(&layout, &[&image], &[beside.clone(), entry(&image, Some("1"))]);
    std::fs::write(blob_path(&layout, &Digest::of(&signature).to_string()), &signature).unwrap();
    assert_eq!(names_of(&place.import(&layout).unwrap()), ["localhost/signed:1"]);
    let index = json!({"schemaVersion": 2, "manifests": [beside]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    assert!(
        place.refusal(&layout).contains("not a container image: it is an artifact of the type \"application/vnd.dev")
    );
}

#[test]
fn changed_and_missing_blobs_are_named() {
    let image = three_layers(1);
    let config = Digest::of(&image.config).to_string();
    let layer = image.layers[1].digest();
    for digest in [&config, &layer, &image.digest()] {
        let place = Place::new();
        let layout = layout_of(&place, &image, Some("1"));
        let path = blob_path(&layout, digest);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 30;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(place.refusal(&layout).contains(&digest[7..]), "{digest}");
        place.assert_nothing_named();
        std::fs::remove_file(&path).unwrap();
        let error = place.refusal(&layout);
        assert!(error.contains(&digest[7..]) && error.contains("incomplete"), "{error}");
        place.assert_nothing_named();
    }
}

#[test]
fn a_layout_may_lack_the_layers_that_the_store_has() {
    let image = three_layers(1);
    let place = Place::new();
    let layout = layout_of(&place, &image, Some("1"));
    place.import(&layout).unwrap();
    for layer in &image.layers {
        std::fs::remove_file(blob_path(&layout, &layer.digest())).unwrap();
    }
    let acquired = place.import(&layout).unwrap();
    assert!(acquired[0].layers.iter().all(|layer| layer.was_present));
    assert!(Place::new().refusal(&layout).contains("incomplete"));
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_refused_in_every_form() {
    let image = three_layers(1);
    let config = format!("{}.json", Digest::of(&image.config).hex());
    let list = json!([{"Config": config, "RepoTags": ["app:1"], "Layers": ["0.tar", "1.tar", "2.tar"]}]).to_string();
    let wrong = Layer::new("wrong", b"wrong", Packing::Plain);
    let [one, three] = [0, 2].map(|number: usize| image.layers[number].tar.as_slice());
    let bytes = archive(&[
        ("0.tar", one),
        ("1.tar", &wrong.tar),
        ("2.tar", three),
        (&config, &image.config),
        ("manifest.json", list.as_bytes()),
    ]);
    let place = Place::new();
    std::fs::write(place.path("saved.tar"), &bytes).unwrap();
    let error = place.refusal(&place.path("saved.tar"));
    assert!(error.contains("layer \"1.tar\""), "{error}");
    let error = place.import_piped(&bytes).unwrap_err().to_string();
    assert!(error.contains("layer \"1.tar\"") && error.contains(&wrong.diff_id()), "{error}");
    place.assert_nothing_named();
}

#[test]
fn files_that_are_no_archives_and_unreadable_files_get_different_errors() {
    let place = Place::new();
    let write = |name: &str, content: &[u8]| {
        std::fs::write(place.path(name), content).unwrap();
        place.path(name)
    };
    std::fs::create_dir(place.path("directory")).unwrap();
    let no_image = archive(&[("README", b"hello")]);
    let table = [
        (place.path("absent"), "No such file"),
        (place.path("directory"), "has no file oci-layout"),
        (write("text", b"hello, this is text\n"), "does not begin like a tar"),
        (write("empty", b""), "it is empty"),
        (write("packed.xz", &[0xfd, b'7', b'z', b'X', b'Z', 0]), "xz"),
        (write("other.tar", &no_image), "neither oci-layout nor manifest.json"),
        (write("other.tar.gz", &gzip(&no_image)), "neither oci-layout nor manifest.json"),
        (write("none.tar", &archive(&[("manifest.json", b"[]")])), "list of images is empty"),
        (write("bad.tar", &archive(&[("manifest.json", b"{}")])), "bad manifest.json"),
        (write("text.gz", &gzip(&[b'x'; 2000])), "damaged tar header"),
    ];
    for (path, hint) in table {
        let error = place.refusal(&path);
        assert!(error.contains(hint) && error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    }
    place.assert_nothing_named();
}

#[test]
fn an_archive_cut_off_is_refused_in_every_form() {
    let image = three_layers(1);
    let bytes = docker_archive_with_link(&Image::new(vec![image.layers[0].clone(); 3]), false);
    let place = Place::new();
    for length in [bytes.len() / 3, bytes.len() / 2] {
        let cut = &bytes[..length];
        std::fs::write(place.path("cut.tar"), cut).unwrap();
        assert!(place.refusal(&place.path("cut.tar")).contains("ends in the middle"));
        assert!(place.import_piped(cut).unwrap_err().to_string().contains("ends in the middle"));
        let packed = gzip(&bytes);
        std::fs::write(place.path("cut.tar.gz"), &packed[..packed.len() / 2]).unwrap();
        place.refusal(&place.path("cut.tar.gz"));
    }
    place.assert_nothing_named();
}

#[test]
fn names_that_leave_the_archive_are_refused() {
    let image = Image::new(vec![Layer::new("a", b"a", Packing::Plain)]);
    let place = Place::new();
    let outside = place.path("outside.tar");
    std::fs::write(&outside, &image.layers[0].tar).unwrap();
    let config = format!("{}.json", Digest::of(&image.config).hex());
    for layer in ["../outside.tar", outside.to_str().unwrap(), "link"] {
        let list = json!([{"Config": config, "RepoTags": ["app:1"], "Layers": [layer]}]).to_string();
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "link", &outside).unwrap();
        for (path, bytes) in [(&*config, &*image.config), ("manifest.json", list.as_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, bytes).unwrap();
        }
        std::fs::write(place.path("evil.tar"), builder.into_inner().unwrap()).unwrap();
        let error = place.refusal(&place.path("evil.tar"));
        assert!(error.contains("lacks"), "{error}");
    }
}

#[test]
fn a_silent_pipe_can_be_cancelled() {
    let place = Place::new();
    let fifo = place.path("fifo");
    run("mkfifo", &[fifo.to_str().unwrap()]);
    let cancellation = Cancellation::default();
    let observer: Arc<dyn Observer> = Arc::new(cancellation.clone());
    let error = std::thread::scope(|scope| {
        let import = scope.spawn(|| {
            let source = ImportSource::from(fifo.as_os_str());
            Store::open(&place.root()).unwrap().images().import(&source, &ImportOptions::default(), &observer)
        });
        // Opened by both sides, then nothing is written.
        let _writer = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
        cancellation.cancel();
        import.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, ImportError::Cancelled), "{error}");
    place.assert_nothing_named();
}
