//! Images of one layer, made of the tar of a file system.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use layer_store::{Acquired, Digest, ImportError, ImportSource, Observer, RootfsOptions, Silent};
use serde_json::Value;

use crate::fixture::{Place, gzip};
use crate::support::image::{Image, Layer, Packing, bzip2, noise, xz};
use crate::support::run;

fn import(place: &Place, path: &Path, name: &str, options: &RootfsOptions) -> Result<Acquired, ImportError> {
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    place.store().images().import_rootfs(
        &ImportSource::from(path.as_os_str()),
        &name.parse().unwrap(),
        options,
        &observer,
    )
}

#[test]
fn a_root_file_system_becomes_an_image_of_one_layer() {
    let layer = Layer::new("etc/hostname", &noise(1, 40_000), Packing::Plain);
    let image = Image::new(vec![layer.clone()]);
    let options = RootfsOptions {
        changes: vec![r#"CMD ["/bin/sh"]"#.parse().unwrap(), "ENV A=b".parse().unwrap()],
        comment: Some("why".to_owned()),
        ..RootfsOptions::default()
    };
    let place = Place::new();
    let mut manifests = Vec::new();
    for packed in [
        layer.tar.clone(),
        gzip(&layer.tar),
        xz(&layer.tar),
        bzip2(&layer.tar),
        zstd::encode_all(&*layer.tar, 1).unwrap(),
    ] {
        let acquired = import(&place, &place.write("root", &packed), "box:1", &options).unwrap();
        assert_eq!(acquired.references[0].to_string(), "docker.io/library/box:1");
        place.assert_holds("docker.io/library/box:1", &image);
        manifests.push(acquired.manifest_digest);
    }
    manifests.dedup();
    assert_eq!(manifests.len(), 1, "without a time the same tar gives the same image");
    let config = place.store().images().get("docker.io/library/box:1").unwrap().config;
    let config: Value = serde_json::to_value(&config).unwrap();
    assert_eq!(config["config"]["Cmd"][0], "/bin/sh");
    assert_eq!(config["config"]["Env"][0], "A=b");
    assert_eq!(config["history"][0]["comment"], "why");

    let fifo = place.path("pipe");
    run("mkfifo", &[fifo.to_str().unwrap()]);
    let piped = std::thread::scope(|scope| {
        scope.spawn(|| std::fs::OpenOptions::new().write(true).open(&fifo).unwrap().write_all(&layer.tar).unwrap());
        import(&place, &fifo, "box:2", &options).unwrap()
    });
    assert_eq!(piped.manifest_digest, manifests[0]);
}

#[test]
fn what_is_no_root_file_system_is_refused_and_nothing_is_named() {
    let place = Place::new();
    let tar = Layer::new("a", b"a", Packing::Plain).tar;
    let table = [
        (place.path("absent"), "No such file"),
        (place.path(""), "it is a directory"),
        (place.write("empty", b""), "it is empty"),
        (place.write("text", b"hello"), "does not begin like a tar"),
        (place.write("x.lz4", b"\x04\x22\x4d\x18\0\0\0\0"), "lz4"),
        (place.write("cut", &tar[..700]), "layer"),
    ];
    for (path, hint) in table {
        let error = import(&place, &path, "box:1", &RootfsOptions::default()).unwrap_err().to_string();
        assert!(error.contains(hint), "{error}");
    }
    let name = format!("box@{}", Digest::of(b"another"));
    let error = import(&place, &place.write("root", &tar), &name, &RootfsOptions::default()).unwrap_err().to_string();
    assert!(error.contains("promises another digest"), "{error}");
    place.assert_nothing_named();
}
