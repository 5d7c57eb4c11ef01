//! Images that other tools pull, although their documents do not follow the specification to the letter.

use layer_store::{Digest, Store};
use serde_json::{Value, json};

use super::support::fake::{Fake, Reply};
use super::support::image::{Image, Layer, Packing, descriptor, noise};
use super::support::skopeo;
use super::{Place, options};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// An image with its config and manifest changed. The manifest names the config that results.
fn changed(layers: usize, config: impl Fn(&mut Value), manifest: impl Fn(&mut Value)) -> Image {
    let layer = Layer::new("a", &noise(1, 1000), Packing::Gzip);
    let mut image = Image::new(vec![layer; layers]);
    let mut document: Value = serde_json::from_slice(&image.config).unwrap();
    config(&mut document);
    image.config = document.to_string().into_bytes();
    let mut document: Value = serde_json::from_slice(&image.manifest).unwrap();
    let media_type = document["config"]["mediaType"].as_str().unwrap().to_owned();
    document["config"] = descriptor(&media_type, &image.config);
    manifest(&mut document);
    image.manifest = document.to_string().into_bytes();
    image
}

#[test]
fn what_skopeo_copies_is_pulled_and_read_again() {
    let nothing = |_: &mut Value| {};
    let remove = |name: &'static str| move |config: &mut Value| drop(config.as_object_mut().unwrap().remove(name));
    let set = |name: &'static str, value: Value| move |config: &mut Value| config[name] = value.clone();
    let docker = |media_type: &'static str| {
        move |manifest: &mut Value| {
            manifest["mediaType"] = json!(DOCKER_MANIFEST);
            manifest["config"]["mediaType"] = json!(media_type);
            manifest["layers"][0]["mediaType"] = json!(DOCKER_LAYER);
        }
    };
    let mut images = vec![
        ("no history", changed(1, remove("history"), nothing)),
        (
            "null everywhere",
            changed(
                1,
                |config| {
                    for name in ["history", "created", "author", "variant", "config", "os.features"] {
                        config[name] = Value::Null;
                    }
                },
                nothing,
            ),
        ),
        (
            "a root file system without a type",
            changed(
                1,
                |config| {
                    config["rootfs"].as_object_mut().unwrap().remove("type");
                },
                nothing,
            ),
        ),
        (
            "no layers: null",
            changed(0, set("rootfs", json!({"type": "layers", "diff_ids": null})), set("layers", Value::Null)),
        ),
        ("no layers: empty", changed(0, set("rootfs", json!({})), nothing)),
        (
            "null in maps",
            changed(
                1,
                |config| {
                    config["config"] =
                        json!({"Volumes": {"/data": null}, "ExposedPorts": {"80/tcp": null}, "Labels": {"a": null}});
                },
                nothing,
            ),
        ),
        (
            "null annotations",
            changed(1, nothing, |manifest| {
                manifest["annotations"] = Value::Null;
                manifest["subject"] = Value::Null;
                manifest["layers"][0]["annotations"] = Value::Null;
            }),
        ),
    ];
    for media_type in ["application/octet-stream", "application/json", "text/html", ""] {
        images.push((media_type, changed(1, nothing, docker(media_type))));
    }
    for (name, image) in images {
        let content_type = serde_json::from_slice::<Value>(&image.manifest).unwrap()["mediaType"].to_string();
        let (header, body) = (format!("Content-Type: {}", content_type.trim_matches('"')), image.manifest.clone());
        let fake = Fake::start(&[&image], move |request| match request.path.as_str() {
            "/v2/" => Reply::Answer(200, Vec::new(), "{}".to_owned()),
            path if path.contains("/manifests/") => Reply::Bytes(200, vec![header.clone()], body.clone()),
            _ => Reply::Serve,
        });
        let copy = tempfile::tempdir().unwrap();
        let to = format!("dir:{}", copy.path().display());
        skopeo(&["copy", "-q", "--src-tls-verify=false", &format!("docker://{}", fake.name("test:0")), &to]);
        let place = Place::new();
        let pulled = place.pull(&fake.name("test:0"), &options()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(pulled.manifest_digest, Digest::of(&image.manifest), "{name}: it is kept as it was");
        let store = Store::open(place.root()).unwrap();
        store.images().get(&fake.name("test:0")).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
