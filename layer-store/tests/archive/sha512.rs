//! Images whose manifests name blobs by SHA-512.

use std::path::Path;

use layer_store::{BlobDigest, ImportOptions, Silent};
use serde_json::{Value, json};

use crate::fixture::{Place, names_of, packed};
use crate::support::image::{Image, Layer, MANIFEST, Packing, descriptor, entry, noise};

/// The SHA-512 of bytes, as a manifest writes it.
fn sha512(bytes: &[u8]) -> String {
    BlobDigest::Sha512([0; 64]).of_same_kind(bytes).to_string()
}

/// The files of a layout of an image that names everything by SHA-512.
fn layout(image: &Image) -> Vec<(String, Vec<u8>)> {
    let path = |bytes: &[u8]| format!("blobs/sha512/{}", &sha512(bytes)[7..]);
    let strong = |mut descriptor: Value, bytes: &[u8]| {
        descriptor["digest"] = json!(sha512(bytes));
        descriptor
    };
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["config"] = strong(manifest["config"].clone(), &image.config);
    for (number, layer) in image.layers.iter().enumerate() {
        manifest["layers"][number] = strong(manifest["layers"][number].clone(), &layer.packed);
    }
    let manifest = manifest.to_string().into_bytes();
    let mut listed = strong(descriptor(MANIFEST, &manifest), &manifest);
    listed["annotations"] = json!({"org.opencontainers.image.ref.name": "x:1"});
    let index = json!({"schemaVersion": 2, "manifests": [listed]}).to_string().into_bytes();
    let layers = image.layers.iter().map(|layer| (path(&layer.packed), layer.packed.clone()));
    let documents = [
        (path(&image.config), image.config.clone()),
        (path(&manifest), manifest),
        ("index.json".to_owned(), index),
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
    ];
    layers.chain(documents).collect()
}

fn unpacked(directory: &Path, files: &[(String, Vec<u8>)]) {
    for (name, content) in files {
        std::fs::create_dir_all(directory.join(name).parent().unwrap()).unwrap();
        std::fs::write(directory.join(name), content).unwrap();
    }
}

fn image() -> Image {
    Image::new(vec![
        Layer::new("a", &noise(1, 40_000), Packing::Gzip),
        Layer::new("b", &noise(2, 40_000), Packing::Plain),
    ])
}

#[test]
fn what_a_manifest_names_by_sha512_is_read_and_kept() {
    let image = image();
    let files = layout(&image);
    for form in 0..3 {
        let place = Place::new();
        let acquired = match form {
            0 => {
                unpacked(&place.path("l"), &files);
                place.import(&place.path("l"))
            }
            1 => place.import(&place.write("x.tar", &packed(&files))),
            _ => place.import_piped(&packed(&files)),
        };
        let acquired = acquired.unwrap();
        assert_eq!(names_of(&acquired), ["docker.io/library/x:1"]);
        assert_eq!(acquired[0].layers[0].source.compressed.to_string(), sha512(&image.layers[0].packed));
        place.assert_holds("docker.io/library/x:1", &image);
        let store = place.store();
        store.collect(false).unwrap();
        let kept = store.images().get("docker.io/library/x:1").unwrap();
        store.images().export(&kept, &place.path("out"), &Silent).unwrap();
        drop(store);
        place.import(&place.path("out")).unwrap();
    }
}

#[test]
fn a_blob_without_its_sha512_is_refused() {
    let image = image();
    for number in 0..4 {
        let mut files = layout(&image);
        let last = files[number].1.len() - 30;
        files[number].1[last] ^= 1;
        let place = Place::new();
        unpacked(&place.path("l"), &files);
        let hex = files[number].0.rsplit('/').next().unwrap().to_owned();
        let error = place.refusal(&place.path("l"));
        assert!(error.contains(&hex), "{error}");
        assert!(place.import_piped(&packed(&files)).is_err());
        place.assert_nothing_named();
    }
}

#[test]
fn a_sha512_diff_id_is_refused_by_name() {
    let image = image();
    let mut config: Value = serde_json::from_slice(&image.config).unwrap();
    let diff_id = sha512(&image.layers[0].tar);
    config["rootfs"]["diff_ids"][0] = json!(diff_id);
    let config = config.to_string().into_bytes();
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["config"] = descriptor("application/vnd.oci.image.config.v1+json", &config);
    let odd = Image { config, manifest: manifest.to_string().into_bytes(), layers: image.layers };
    let place = Place::new();
    let path = place.write("x.tar", &packed(&crate::fixture::layout_files(&[&odd], &[entry(&odd, Some("x:1"))])));
    let error = place.import_with(&path, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains(&diff_id) && error.contains("SHA-256"), "{error}");
}
