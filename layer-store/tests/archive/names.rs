//! What imported images are called.

use layer_store::{Digest, ImportOptions, Silent};
use serde_json::{Value, json};

use crate::fixture::{Place, archive, docker_files, layout_files, layout_of, names_of, packed};
use crate::support::image::{
    Image, Layer, MANIFEST, Packing, blob_path, descriptor, entry, three_layers, write_layout,
};
use crate::support::{names, skopeo};

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

fn small(text: &str) -> Image {
    Image::new(vec![Layer::new(text, text.as_bytes(), Packing::Plain)])
}

fn without_platform(image: &Image) -> Value {
    descriptor(MANIFEST, &image.manifest)
}

#[test]
fn images_without_a_name_get_names_of_their_own() {
    let (a, b) = (small("a"), small("b"));
    let other = Image::for_platform(vec![Layer::new("other", b"other", Packing::Plain)], "s390x");
    for entries in [
        vec![without_platform(&a), without_platform(&b)],
        vec![entry(&a, None), entry(&b, None)],
        vec![entry(&a, None), without_platform(&b)],
        vec![entry(&a, None), entry(&b, Some("latest"))],
        vec![entry(&other, None), entry(&a, None), entry(&b, None)],
    ] {
        let place = Place::new();
        write_layout(&place.path("l"), &[&a, &b, &other], &entries);
        let acquired = place.import(&place.path("l")).unwrap();
        let mut found: Vec<String> = acquired.iter().map(|image| image.manifest_digest.to_string()).collect();
        found.sort();
        let mut expected = [a.digest(), b.digest()];
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(names(&place.root().join("images")).len(), 2, "{:?}", names_of(&acquired));
        let said = place.notices();
        assert_eq!(said.contains(&other.digest()), entries.len() == 3, "{said}");
        let piped = Place::new();
        piped.import_piped(&packed(&layout_files(&[&a, &b, &other], &entries))).unwrap();
        assert_eq!(names(&piped.root().join("images")).len(), 2);
    }
    // Two images without a name in a docker archive.
    let (mut files, more) = (docker_files(&a, &Value::Null), docker_files(&b, &json!([])));
    let rename = |name: &str| name.replace(".tar", ".b.tar");
    let [mut items, other]: [Vec<Value>; 2] =
        [&files, &more].map(|files| serde_json::from_slice(&files.last().unwrap().1).unwrap());
    items.extend(other.into_iter().map(|mut item| {
        item["Layers"] = json!(["0.b.tar"]);
        item
    }));
    files.pop();
    files.extend(
        more.into_iter().filter(|(name, _)| name != "manifest.json").map(|(name, bytes)| (rename(&name), bytes)),
    );
    files.push(("manifest.json".to_owned(), json!(items).to_string().into_bytes()));
    let place = Place::new();
    place.import(&place.write("saved.tar", &packed(&files))).unwrap();
    assert_eq!(names(&place.root().join("images")).len(), 2);
}

#[test]
fn layouts_of_the_same_directory_name_do_not_take_each_other_s_names() {
    let (a, b) = (small("a"), small("b"));
    let place = Place::new();
    for (directory, image) in [("one", &a), ("two", &b), ("one", &a)] {
        write_layout(&place.path(directory).join("l"), &[image], &[entry(image, None)]);
        place.import(&place.path(directory).join("l")).unwrap();
    }
    place.assert_holds("localhost/l:latest", &a);
    place.assert_holds(&format!("localhost/l:{}", &b.digest()[7..19]), &b);
    let said = place.notices();
    assert!(said.contains("localhost/l:latest is another image"), "{said}");
}

#[test]
fn a_name_with_the_digest_of_something_else_is_not_given() {
    let (good, evil) = (small("good"), small("evil"));
    let pins = [format!("example.test/app@{}", good.digest()), format!("example.test/app:1@{}", good.digest())];
    for pin in &pins {
        for key in ["org.opencontainers.image.ref.name", "io.containerd.image.name"] {
            let mut listed = entry(&evil, None);
            listed["annotations"] = json!({key: pin});
            let files = layout_files(&[&evil], &[listed]);
            assert_pin_is_not_given(&packed(&files), pin, &good);
        }
        assert_pin_is_not_given(&packed(&docker_files(&evil, &json!([pin]))), pin, &good);
        // The user cannot give it either, even if the image already has that name.
        let place = Place::new();
        let options = ImportOptions { tag: Some(pin.parse().unwrap()), ..ImportOptions::default() };
        let layout = layout_of(&place, &evil, Some("x"));
        let saved = place.write("x.tar", &packed(&docker_files(&evil, &json!(["x:1"]))));
        for path in [&layout, &saved] {
            let error = place.import_with(path, &options).unwrap_err().to_string();
            assert!(error.contains("promises another digest") && error.contains("sha256:"), "{error}");
            assert_eq!(names(&place.root().join("images")), [""; 0]);
        }
        let error = place.import_one(&layout, pin).unwrap_err().to_string();
        assert!(error.contains("has no image"), "{error}");
    }
}

fn assert_pin_is_not_given(archive: &[u8], pin: &str, good: &Image) {
    let place = Place::new();
    let path = place.write("x.tar", archive);
    for acquired in [place.import(&path).unwrap(), place.import_piped(archive).unwrap()] {
        assert!(names_of(&acquired).iter().all(|name| !name.contains('@')), "{acquired:?}");
        assert!(!acquired.is_empty());
    }
    let said = place.notices();
    assert!(said.contains("promises") && said.contains(&good.digest()), "{said}");
    assert!(place.import_one(&path, pin).is_err(), "nor chosen by it");
    assert!(place.store().images().list().unwrap().iter().all(|image| !image.reference.contains('@')));
}

#[test]
fn a_name_with_the_right_digest_is_kept() {
    let image = small("good");
    let index = json!({"schemaVersion": 2, "manifests": [entry(&image, None)]}).to_string().into_bytes();
    let index_digest = Digest::of(&index).to_string();
    let mut nested = descriptor(crate::support::image::INDEX, &index);
    for digest in [image.digest(), index_digest] {
        let pin = format!("example.test/app:1@{digest}");
        nested["annotations"] = json!({"org.opencontainers.image.ref.name": pin});
        let mut files = layout_files(&[&image], &[nested.clone()]);
        files.push((format!("blobs/sha256/{}", Digest::of(&index).hex()), index.clone()));
        let place = Place::new();
        let path = place.write("x.tar", &packed(&files));
        assert_eq!(names_of(&place.import(&path).unwrap()), std::slice::from_ref(&pin));
        assert_eq!(place.notices(), "");
        let place = Place::new();
        let options = ImportOptions { tag: Some(pin.parse().unwrap()), ..ImportOptions::default() };
        place.import_with(&path, &options).unwrap();
        place.assert_holds(&pin, &image);
        assert_eq!(names_of(&place.import_one(&path, &pin).unwrap()), [pin]);
    }
}

#[test]
fn what_is_left_out_or_replaced_is_said() {
    let (a, b) = (small("a"), small("b"));
    let place = Place::new();
    write_layout(&place.path("l"), &[&a, &b], &[without_named(&a, "x:1"), without_named(&b, "x:1")]);
    place.import(&place.path("l")).unwrap();
    let said = place.notices();
    assert!(said.contains("left out x:1") && said.contains(&a.digest()), "{said}");
    place.assert_holds("docker.io/library/x:1", &b);
    place.import(&place.write("x.tar", &packed(&docker_files(&a, &json!(["x:1", "not a name"]))))).unwrap();
    let said = place.notices();
    assert!(said.contains(&format!("x:1 was {} until now", b.digest())), "{said}");
    assert!(said.contains("\\\"not a name\\\", which is not an image name") || said.contains("not a name"), "{said}");
}

fn without_named(image: &Image, name: &str) -> Value {
    let mut entry = without_platform(image);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    entry
}

#[test]
fn an_exported_image_is_named_by_no_digest_that_its_manifest_lacks() {
    let image = Image::new(vec![Layer::new("a", b"a", Packing::Gzip)]);
    for (name, in_layout) in [
        (format!("example.test/app:1@{}", image.digest()), Some("example.test/app:1")),
        (format!("example.test/app@{}", image.digest()), None),
        ("example.test/app:1".to_owned(), Some("example.test/app:1")),
    ] {
        let place = Place::new();
        let options = ImportOptions { tag: Some(name.parse().unwrap()), ..ImportOptions::default() };
        place.import_with(&layout_of(&place, &image, None), &options).unwrap();
        let index = exported(&place, &name, "out");
        assert_eq!(index["annotations"]["org.opencontainers.image.ref.name"].as_str(), in_layout, "{index}");
        place.import(&place.path("out")).unwrap();
    }
    // The manifest of plain layers is as it was, and so is a name that promises it.
    let plain = small("a");
    let name = format!("example.test/app@{}", plain.digest());
    let place = Place::new();
    let options = ImportOptions { tag: Some(name.parse().unwrap()), ..ImportOptions::default() };
    place.import_with(&layout_of(&place, &plain, None), &options).unwrap();
    let index = exported(&place, &name, "out");
    assert_eq!(index["digest"], plain.digest());
    assert_eq!(index["annotations"]["org.opencontainers.image.ref.name"], name);
    assert_eq!(names_of(&place.import(&place.path("out")).unwrap()), [name]);
}

/// Exports an image; returns the only entry of the layout's index.
fn exported(place: &Place, name: &str, directory: &str) -> Value {
    let store = place.store();
    let image = store.images().get(name).unwrap();
    store.images().export(&image, &place.path(directory), &Silent).unwrap();
    let index = std::fs::read(place.path(directory).join("index.json")).unwrap();
    let mut index: Value = serde_json::from_slice(&index).unwrap();
    index["manifests"].as_array_mut().unwrap().pop().unwrap()
}

#[test]
fn a_layer_twice_in_an_image_is_exported_once_and_named_as_often() {
    let (base, empty) = (Layer::new("a", b"a", Packing::Gzip), Layer::empty(Packing::Gzip));
    let image = Image::new(vec![base.clone(), empty.clone(), base, empty.clone(), empty]);
    let place = Place::new();
    let layout = layout_of(&place, &image, Some("x:1"));
    place.import(&layout).unwrap();
    let index = exported(&place, "docker.io/library/x:1", "out");
    let manifest = blob_path(&place.path("out"), index["digest"].as_str().unwrap());
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let digests: Vec<&str> =
        manifest["layers"].as_array().unwrap().iter().map(|l| l["digest"].as_str().unwrap()).collect();
    assert_eq!(digests, image.diff_ids());
    let again = Place::new();
    again.import(&place.path("out")).unwrap();
    again.assert_holds("docker.io/library/x:1", &image);
    skopeo(&["copy", &format!("oci:{}", place.path("out").display()), &format!("dir:{}", place.path("dir").display())]);
}
