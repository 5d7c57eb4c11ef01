//! Which images of an archive are taken.

use layer_store::{Digest, Form, ImportOptions};
use serde_json::json;

use crate::fixture::{Place, archive, docker_files, layout_files, names_of, packed};
use crate::support::image::{
    INDEX, Image, Layer, MANIFEST, Packing, blob_path, descriptor, entry, go_architecture, three_layers, write_layout,
};

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
        let store = place.store();
        assert!(!store.layers().has(&first.diff_ids()[0].parse().unwrap()), "only what was asked for");
    }
    let absent = ImportOptions { image: Some("absent".to_owned()), ..ImportOptions::default() };
    let error = place.import_with(&layout, &absent).unwrap_err().to_string();
    assert!(error.contains("has no image absent; it has ghcr.io/a/b:1, next"), "{error}");

    assert_eq!(names_of(&place.import(&layout).unwrap()), ["ghcr.io/a/b:1", "localhost/two:next"]);
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
    let mut beside = descriptor(MANIFEST, &signature);
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

fn small(text: &str) -> Image {
    Image::new(vec![Layer::new(text, text.as_bytes(), Packing::Plain)])
}

#[test]
fn a_broken_neighbour_does_not_matter_to_the_image_that_is_chosen() {
    let (good, gone) = (small("good"), small("gone"));
    let odd = Image { config: b"{\"rootfs\": 3}".to_vec(), ..small("odd") };
    let mut unreadable = entry(&gone, Some("unreadable"));
    unreadable["size"] = json!("many");
    let mut sha512 = entry(&gone, Some("sha512"));
    sha512["digest"] = json!(format!("sha512:{}", "0".repeat(128)));
    let mut foreign = entry(&gone, Some("foreign"));
    foreign["platform"] = json!({"os": "plan9", "architecture": "mips"});
    let neighbours = [
        entry(&gone, Some("gone")),
        entry(&gone, None),
        entry(&odd, Some("odd")),
        unreadable,
        sha512,
        foreign.clone(),
        json!({"annotations": {"org.opencontainers.image.ref.name": "empty"}}),
        json!({"mediaType": MANIFEST, "digest": 3, "annotations": 3}),
        json!(null),
    ];
    for neighbour in neighbours {
        let entries = [neighbour.clone(), entry(&good, Some("good")), foreign.clone()];
        let place = Place::new();
        let files = layout_files(&[&good, &odd], &entries);
        write_layout(&place.path("l"), &[&good, &odd], &entries);
        for image in ["good", "localhost/l:good", &good.digest(), &Digest::of(&good.config).hex()] {
            let acquired =
                place.import_one(&place.path("l"), image).unwrap_or_else(|e| panic!("{image}: {neighbour}: {e}"));
            assert_eq!(names_of(&acquired), ["localhost/l:good"]);
        }
        let place = Place::new();
        place.import_one(&place.write("l.tar", &packed(&files)), "good").unwrap();
        let options = ImportOptions { image: Some("good".to_owned()), ..ImportOptions::default() };
        place.import_piped_with(&packed(&files), &options).unwrap();
    }
    let list = |neighbour: serde_json::Value| {
        let mut files = docker_files(&good, &json!(["good:1"]));
        let (_, list) = files.last_mut().unwrap();
        let mut items: Vec<serde_json::Value> = serde_json::from_slice(list).unwrap();
        items.insert(0, neighbour);
        *list = json!(items).to_string().into_bytes();
        packed(&files)
    };
    for neighbour in [
        json!({"Config": "absent.json", "RepoTags": ["gone:1"], "Layers": []}),
        json!({"Config": "0.tar", "RepoTags": ["odd:1"], "Layers": ["0.tar"]}),
        json!({"RepoTags": ["odd:1"]}),
        json!({"Config": 3, "RepoTags": 3}),
        json!(null),
    ] {
        let bytes = list(neighbour);
        let place = Place::new();
        let path = place.write("saved.tar", &bytes);
        for image in ["good:1", "docker.io/library/good:1", &Digest::of(&good.config).hex()] {
            assert_eq!(names_of(&place.import_one(&path, image).unwrap()), ["docker.io/library/good:1"]);
        }
        let options = ImportOptions { image: Some("good:1".to_owned()), ..ImportOptions::default() };
        place.import_piped_with(&bytes, &options).unwrap();
        assert!(place.import(&path).is_err(), "all were asked for");
    }
}

#[test]
fn an_image_is_chosen_by_its_position() {
    let (first, second) = (small("first"), small("second"));
    let place = Place::new();
    write_layout(&place.path("l"), &[&first, &second], &[entry(&first, None), entry(&second, Some("2"))]);
    assert_eq!(place.import_one(&place.path("l"), "@0").unwrap()[0].manifest_digest.to_string(), first.digest());
    assert_eq!(place.import_one(&place.path("l"), "@1").unwrap()[0].manifest_digest.to_string(), second.digest());
    let error = place.import_one(&place.path("l"), "@2").unwrap_err().to_string();
    assert!(error.contains("has no image @2"), "{error}");
}

/// An image whose manifest is not the one that is made for the same layers as plain tars.
fn packed_app() -> Image {
    Image::new(vec![Layer::new("app", b"app", Packing::Gzip)])
}

/// What docker writes since version 25: a layout, and its own list of the same files.
fn saved_by_docker(image: &Image, name: Option<&str>) -> Vec<(String, Vec<u8>)> {
    let mut listed = entry(image, None);
    if let Some(name) = name {
        listed["annotations"] = json!({"io.containerd.image.name": name});
    }
    let blob = |digest: &str| format!("blobs/sha256/{}", &digest[7..]);
    let item = json!([{"Config": blob(&Digest::of(&image.config).to_string()), "RepoTags": name.map(|name| vec![name]),
        "Layers": image.layers.iter().map(|layer| blob(&layer.digest())).collect::<Vec<_>>()}]);
    let mut files = layout_files(&[image], &[listed]);
    files.push(("manifest.json".to_owned(), item.to_string().into_bytes()));
    files
}

#[test]
fn of_two_lists_in_an_archive_the_sound_one_is_used() {
    let image = packed_app();
    let whole = saved_by_docker(&image, Some("docker.io/library/app:1"));
    let without = |path: &str| whole.iter().filter(|(name, _)| name != path).cloned().collect::<Vec<_>>();
    let with = |path: &str, content: &str| {
        let mut files = without(path);
        files.push((path.to_owned(), content.as_bytes().to_vec()));
        files
    };
    let manifest = format!("blobs/sha256/{}", &image.digest()[7..]);
    let broken = json!([{"Config": "absent", "RepoTags": ["app:1"], "Layers": ["absent"]}]).to_string();
    let stray = json!([{"Config": "absent", "RepoTags": ["other:1"], "Layers": ["absent"]}]).to_string();
    let empty = json!({"schemaVersion": 2, "manifests": []}).to_string();
    let cases = [
        ("both", whole.clone(), true),
        ("no oci-layout", without("oci-layout"), true),
        ("no manifest.json", without("manifest.json"), true),
        ("manifest.json is broken", with("manifest.json", "{"), true),
        ("manifest.json is empty", with("manifest.json", "[]"), true),
        ("manifest.json names what is not there", with("manifest.json", &broken), true),
        ("manifest.json names another image that is not there", with("manifest.json", &stray), true),
        ("no manifest", without(&manifest), false),
        ("no index.json", without("index.json"), false),
        ("index.json is broken", with("index.json", "{"), false),
        ("index.json is empty", with("index.json", &empty), false),
    ];
    for (what, files, keeps_manifest) in cases {
        let bytes = packed(&files);
        for image_option in [None, Some("app:1")] {
            let options = ImportOptions { image: image_option.map(str::to_owned), ..ImportOptions::default() };
            let place = Place::new();
            let path = place.write("x.tar", &bytes);
            for piped in [false, true] {
                let acquired =
                    if piped { place.import_piped_with(&bytes, &options) } else { place.import_with(&path, &options) };
                let acquired = acquired.unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(names_of(&acquired), ["docker.io/library/app:1"], "{what}");
                assert_eq!(acquired[0].manifest_digest.to_string() == image.digest(), keeps_manifest, "{what}");
                place.assert_holds("docker.io/library/app:1", &image);
            }
        }
    }
    let both_broken =
        with("manifest.json", &broken).into_iter().filter(|(name, _)| *name != manifest).collect::<Vec<_>>();
    let place = Place::new();
    let error = place.refusal(&place.write("x.tar", &packed(&both_broken)));
    assert!(error.contains("lacks"), "{error}");
}

#[test]
fn names_that_only_one_of_two_lists_has_are_kept() {
    let image = packed_app();
    let mut files = saved_by_docker(&image, None);
    let named = saved_by_docker(&image, Some("docker.io/library/app:1"));
    *files.last_mut().unwrap() = named.last().unwrap().clone();
    let place = Place::new();
    let acquired = place.import(&place.write("x.tar", &packed(&files))).unwrap();
    assert_eq!(names_of(&acquired), ["docker.io/library/app:1"]);
    assert_eq!(acquired[0].manifest_digest.to_string(), image.digest());
}

#[test]
fn a_form_that_is_asked_for_is_the_only_one_read() {
    let image = packed_app();
    let files = saved_by_docker(&image, Some("docker.io/library/app:1"));
    let place = Place::new();
    let path = place.write("x.tar", &packed(&files));
    for (form, keeps_manifest) in [(Form::Layout, true), (Form::Docker, false)] {
        let options = ImportOptions { form: Some(form), ..ImportOptions::default() };
        let acquired = place.import_with(&path, &options).unwrap();
        assert_eq!(acquired[0].manifest_digest.to_string() == image.digest(), keeps_manifest, "{form:?}");
    }
    let other = place.write("y.tar", &packed(&docker_files(&image, &json!(["app:1"]))));
    let options = ImportOptions { form: Some(Form::Layout), ..ImportOptions::default() };
    let error = place.import_with(&other, &options).unwrap_err().to_string();
    assert!(error.contains("it has no index.json"), "{error}");
    let nothing = place.write("z.tar", &archive(&[("README", b"hello")]));
    let options = ImportOptions { form: Some(Form::Docker), ..ImportOptions::default() };
    assert!(place.import_with(&nothing, &options).unwrap_err().to_string().contains("it has no manifest.json"));
}
