//! Archives that are damaged, incomplete, or not what they say.

use std::sync::Arc;

use layer_store::{Cancellation, Digest, ImportError, ImportOptions, ImportSource, Observer};
use serde_json::json;

use crate::fixture::{Place, archive, docker_archive_with_link, docker_files, gzip, layout_of, packed};
use crate::support::image::{Image, Layer, Packing, blob_path, three_layers};
use crate::support::run;

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
            place.store().images().import(&source, &ImportOptions::default(), &observer)
        });
        // Opened by both sides, then nothing is written.
        let _writer = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
        cancellation.cancel();
        import.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, ImportError::Cancelled), "{error}");
    place.assert_nothing_named();
}

#[test]
fn a_docker_archive_may_lack_the_layers_that_the_store_has() {
    let image = three_layers(1);
    let place = Place::new();
    let whole = docker_files(&image, &json!(["x:1"]));
    let first = place.import(&place.write("x.tar", &packed(&whole))).unwrap();
    let without_files: Vec<_> = whole.iter().filter(|(name, _)| !name.ends_with(".tar")).cloned().collect();
    let mut without_names = without_files.clone();
    let (_, list) = without_names.last_mut().unwrap();
    let config = format!("{}.json", Digest::of(&image.config).hex());
    *list = json!([{"Config": config, "RepoTags": ["x:1"], "Layers": ["", "", ""]}]).to_string().into_bytes();
    let mut damaged = without_files.clone();
    damaged.extend((0..3).map(|number| (format!("{number}.tar"), b"no tar".to_vec())));
    for files in [&without_files, &without_names, &damaged] {
        let bytes = packed(files);
        let path = place.write("y.tar", &bytes);
        for acquired in [place.import(&path).unwrap(), place.import_piped(&bytes).unwrap()] {
            assert_eq!(acquired[0].manifest_digest, first[0].manifest_digest);
            assert!(acquired[0].layers.iter().all(|layer| layer.was_present));
        }
        place.assert_holds("docker.io/library/x:1", &image);
        Place::new().refusal(&path);
        assert!(Place::new().import_piped(&bytes).is_err());
    }
    let path = place.write("y.tar", &packed(&without_names));
    assert!(Place::new().refusal(&path).contains(&image.diff_ids()[0]), "it says which layer");
}
