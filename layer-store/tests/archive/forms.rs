//! One image in every form that it is stored in.

use std::sync::Arc;

use layer_store::{ImportOptions, ImportSource, Limits, Observer, Silent};
use serde_json::json;

use crate::fixture::{Place, archive, docker_archive_with_link, docker_files, gzip, layout_of, names_of, packed};
use crate::support::image::{Image, Layer, Packing, bzip2, noise, xz};
use crate::support::skopeo;

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
        for (name, packed) in [
            ("x.tar.gz", gzip(&bytes)),
            ("x.tar.zst", zstd::encode_all(&*bytes, 1).unwrap()),
            ("x.tar.xz", xz(&bytes)),
            ("x.tar.bz2", bzip2(&bytes)),
        ] {
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
fn files_that_are_no_archives_and_unreadable_files_get_different_errors() {
    let place = Place::new();
    let write = |name: &str, content: &[u8]| place.write(name, content);
    std::fs::create_dir(place.path("directory")).unwrap();
    let no_image = archive(&[("README", b"hello")]);
    let table = [
        (place.path("absent"), "No such file"),
        (place.path("directory"), "has no file index.json"),
        (write("text", b"hello, this is text\n"), "does not begin like a tar"),
        (write("empty", b""), "it is empty"),
        (write("packed.lz4", b"\x04\x22\x4d\x18\0\0\0\0\0\0"), "it is compressed with lz4"),
        (write("packed.zip", b"PK\x03\x04\0\0\0\0\0\0"), "it is compressed with zip"),
        (write("other.tar", &no_image), "neither index.json nor manifest.json"),
        (write("other.tar.gz", &gzip(&no_image)), "neither index.json nor manifest.json"),
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
fn names_in_archives_are_paths_and_may_be_written_in_any_way() {
    let image = Image::new(vec![
        Layer::new("a", &noise(1, 40_000), Packing::Plain),
        Layer::new("b", &noise(2, 40_000), Packing::Plain),
    ]);
    let entries = [
        ["c.json", "l/a.tar", "l/b.tar"],
        ["./c.json", ".//l/a.tar", "l/./b.tar"],
        ["/c.json", "/l/a.tar", "l//b.tar"],
    ];
    let mentions = [
        ["c.json", "l/a.tar", "l/b.tar"],
        ["./c.json", "./l/a.tar", "./l/b.tar"],
        ["l/../c.json", "l//a.tar", "l/./b.tar"],
        ["/c.json", "/l/a.tar", "//l/b.tar"],
    ];
    for entry in entries {
        for [config, one, two] in mentions {
            let list = json!([{"Config": config, "RepoTags": ["x:1"], "Layers": [one, two]}]).to_string();
            let bytes = archive(&[
                (entry[0], &image.config),
                (entry[1], &image.layers[0].tar),
                (entry[2], &image.layers[1].tar),
                ("./manifest.json", list.as_bytes()),
            ]);
            let place = Place::new();
            place.import(&place.write("x.tar", &bytes)).unwrap_or_else(|e| panic!("{config} {one}: {e}"));
            place.assert_holds("docker.io/library/x:1", &image);
            let place = Place::new();
            place.import_piped(&bytes).unwrap_or_else(|e| panic!("{config} {one}: {e}"));
            place.assert_holds("docker.io/library/x:1", &image);
        }
    }
}

#[test]
fn a_layer_twice_in_an_image_is_one_layer_of_the_store() {
    let (base, empty) = (Layer::new("a", &noise(1, 40_000), Packing::Gzip), Layer::empty(Packing::Gzip));
    let plain = |layer: &Layer| Layer { packed: layer.tar.clone(), packing: Packing::Plain, ..layer.clone() };
    for layers in [
        vec![base.clone(), base.clone()],
        vec![base.clone(), empty.clone(), empty.clone()],
        vec![empty.clone(), base.clone(), empty.clone(), base.clone()],
        // The same tar, stored as other bytes.
        vec![base.clone(), plain(&base)],
    ] {
        let image = Image::new(layers);
        let place = Place::new();
        place.import(&layout_of(&place, &image, Some("1"))).unwrap();
        place.assert_holds("localhost/debian-layout:1", &image);
        let saved = packed(&docker_files(&image, &json!(["x:1"])));
        for piped in [false, true] {
            let place = Place::new();
            let acquired = if piped { place.import_piped(&saved) } else { place.import(&place.write("x.tar", &saved)) };
            assert_eq!(acquired.unwrap()[0].layers.len(), image.layers.len());
            place.assert_holds("docker.io/library/x:1", &image);
        }
        assert_eq!(place.notices(), "", "nothing waits for itself");
    }
}

#[test]
fn layers_are_read_in_every_compression() {
    let layers = [Packing::Gzip, Packing::Zstd, Packing::Xz, Packing::Bzip2];
    let layers = layers.iter().zip(1..).map(|(packing, seed)| Layer::new("a", &noise(seed, 40_000), *packing));
    let image = Image::new(layers.collect());
    let place = Place::new();
    place.import(&layout_of(&place, &image, Some("1"))).unwrap();
    place.assert_holds("localhost/debian-layout:1", &image);
    let mut files = docker_files(&image, &json!(["x:1"]));
    for (layer, (_, content)) in image.layers.iter().zip(&mut files) {
        content.clone_from(&layer.packed);
    }
    let bytes = packed(&files);
    let place = Place::new();
    place.import(&place.write("x.tar", &bytes)).unwrap();
    place.assert_holds("docker.io/library/x:1", &image);
    let place = Place::new();
    place.import_piped(&bytes).unwrap();
    place.assert_holds("docker.io/library/x:1", &image);
}

#[test]
fn an_archive_that_unpacks_to_far_more_than_it_is_is_refused() {
    let limits = Limits { ratio_free_bytes: 1 << 20, ratio: 50, ..Limits::default() };
    let zeros = vec![0; 20 << 20];
    let layer = Layer::new("zeros", &zeros, Packing::Plain);
    let image = Image::new(vec![layer]);
    let whole = packed(&docker_files(&image, &json!(["x:1"])));
    let place = Place::new();
    for (name, bytes) in [("x.gz", gzip(&whole)), ("x.xz", xz(&whole)), ("x.bz2", bzip2(&whole))] {
        let path = place.write(name, &bytes);
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        let store = place.store().with_limits(limits);
        let source = ImportSource::from(path.as_os_str());
        let error = store.images().import(&source, &ImportOptions::default(), &observer).unwrap_err().to_string();
        assert!(error.contains("50 times"), "{error}");
        drop(store);
        place.import(&path).unwrap();
    }
}
