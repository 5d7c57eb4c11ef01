//! An additional store that another user can change: what that user does to it delays or fails a command, and never changes
//! content.

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::layout::{Layer, digest};
use end_to_end::programs::installed;
use end_to_end::store_checks::{leftovers, sound_layers};
use end_to_end::{Actor, Finished, Inventory, Layout, Registry, Session};

const IMAGE: &str = "lamina.test/image:1";

/// The store of an ordinary user, and root, who reads it as an additional store.
struct Strange {
    other: Session,
    own: Session,
    layers: [Layer; 2],
    image: Layout,
}

impl Strange {
    fn new() -> Self {
        let layers = [
            Layer::of_files(&[("etc/motd", b"welcome\n"), ("etc/os-release", b"ID=strange\n")]),
            Layer::of_files(&[("etc/passwd", b"root:x:0:0::/root:/bin/sh\n")]),
        ];
        let image = Layout::of(&layers);
        let strange = Self { other: Session::user(), own: Session::new(Actor::Root), layers, image };
        strange.other.import(strange.image.path(), IMAGE);
        strange
    }

    fn lamina<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.own.lamina(arguments);
        command.env("LAMINA_ADDITIONAL_STORES", self.other.store());
        command
    }

    fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Finished {
        Finished::of(&mut self.lamina(arguments))
    }

    /// What root reads in the image's `etc/motd`.
    fn motd(&self) -> String {
        let point = self.own.work("mounted");
        self.run([OsStr::new("mount"), OsStr::new(IMAGE), point.as_os_str()]).succeeded();
        let seen = String::from_utf8(self.own.read(&point.join("etc/motd"))).expect("text");
        self.own.umount(&point);
        seen
    }

    fn lowest(&self) -> PathBuf {
        let layer = self.layers[0].diff_id();
        self.other.store().join("layers").join(layer.replace(':', "/"))
    }
}

/// Changes the content of `etc/motd` in a tar, without changing anything else.
fn change(blob: &Path) {
    let bytes = std::fs::read(blob).expect("a blob");
    let at = bytes.windows(8).position(|part| part == b"welcome\n").expect("the content");
    let mut changed = bytes;
    changed[at..at + 8].copy_from_slice(b"pwned!!\n");
    std::fs::write(blob, changed).expect("a changed blob");
}

#[test]
fn image_is_copied_verified_and_used_from_the_own_store_from_then_on() {
    let strange = Strange::new();
    let before = Inventory::of(&strange.other.store());
    let listed = strange.run(["images"]).succeeded();
    assert!(listed.stdout.contains(IMAGE), "{listed}");
    strange.run(["inspect", IMAGE]).succeeded();
    assert_eq!(sound_layers(&strange.own.store()), Vec::<String>::new(), "nothing is copied before it is used");
    let copied = strange.run(["prepare", IMAGE]).succeeded();
    assert!(copied.stderr.contains("user lamina-test can change"), "{copied}");
    assert_eq!(sound_layers(&strange.own.store()), sound_layers(&strange.other.store()));
    assert_eq!(Inventory::of(&strange.other.store()), before, "the other store is as it was");
    assert_eq!(leftovers(&strange.other.store()), Vec::<PathBuf>::new());

    // What happens there afterwards has no effect.
    change(&strange.lowest().join("blob"));
    std::fs::write(strange.lowest().join("index"), "").expect("an empty index");
    let again = strange.run(["prepare", IMAGE]).succeeded();
    assert_eq!(again.stderr, "", "nothing is copied again");
    assert_eq!(strange.motd(), "welcome\n");
    strange.run(["verify", IMAGE]).succeeded();
    strange.own.traces().assert_nothing_left();
}

#[test]
fn layer_changed_in_place_is_refused_however_it_would_be_used() {
    let strange = Strange::new();
    change(&strange.lowest().join("blob"));
    let store = strange.other.store();
    let store = store.to_str().expect("a plain path");
    let point = strange.own.work("mounted");
    let exported = strange.own.directory().join("work/exported");
    let on_top = strange.own.work("on-top");
    for arguments in [
        &["prepare", IMAGE][..],
        &["mount", IMAGE, point.to_str().expect("a plain path")],
        &["export", IMAGE, exported.to_str().expect("a plain path")],
        &["prepare", IMAGE, "--layer", on_top.to_str().expect("a plain path")],
    ] {
        let refused = strange.run(arguments);
        assert_eq!(refused.status.code(), Some(1), "{refused}");
        assert!(refused.stderr.contains(store) && refused.stderr.contains("is not used"), "{refused}");
    }
    let verified = strange.run(["verify", IMAGE]);
    assert_eq!(verified.status.code(), Some(1), "{verified}");
    let lowest = strange.layers[0].diff_id();
    assert!(!sound_layers(&strange.own.store()).contains(&lowest), "the changed layer is in the own store");

    // The registry has the layer that the name promises.
    let registry = Registry::plain();
    let reference = registry.push_layout(strange.image.path(), "test/image", "1");
    strange.run(["pull", "--quiet", &reference]).succeeded();
    assert!(sound_layers(&strange.own.store()).contains(&lowest));
    assert_eq!(strange.motd(), "welcome\n");
}

#[test]
fn index_that_lies_about_a_sound_layer_is_not_believed() {
    let strange = Strange::new();
    let index =
        |layer: &Layer| strange.other.store().join("layers").join(layer.diff_id().replace(':', "/")).join("index");
    let layers = &strange.layers;
    // The index of another layer, which claims to be this one's.
    let wrong = std::fs::read(index(&layers[1])).expect("an index");
    std::fs::write(index(&layers[0]), wrong).expect("a wrong index");
    assert_eq!(strange.motd(), "welcome\n");
}

#[test]
fn name_with_a_digest_leads_to_no_other_manifest() {
    let strange = Strange::new();
    let names = std::fs::read_dir(strange.other.store().join("images")).expect("names");
    let name = names.flatten().next().expect("a name").path();
    let text = std::fs::read_to_string(&name).expect("a name");
    let promised = format!("lamina.test/image@sha256:{}", "0".repeat(64));
    let lie = text.replace(IMAGE, &promised);
    let place = digest(promised.as_bytes()).replace("sha256:", "");
    std::fs::write(strange.other.store().join("images").join(format!("{place}.json")), lie).expect("a lie");
    strange.run(["prepare", &promised]).refused("leads to");
    let listed = strange.run(["images"]);
    assert!(!listed.stdout.contains(&"0".repeat(12)), "{listed}");
    // One name in the place of another.
    std::fs::copy(
        &name,
        strange.other.store().join("images").join(format!("{}.json", &digest(b"lamina.test/x:1")[7..])),
    )
    .expect("a copy");
    strange.run(["prepare", "lamina.test/x:1"]).refused(&format!("it is the name \"{IMAGE}\""));
}

type MakeFile = fn(&Path);

/// Everything that is not a regular file of a sensible size.
fn odd_kinds() -> [(&'static str, MakeFile); 5] {
    [
        ("pipe", |path| {
            Finished::of(Command::new(installed("mkfifo")).arg(path)).succeeded();
        }),
        ("link", |path| symlink("/etc/shadow", path).expect("a link")),
        ("directory", |path| std::fs::create_dir(path).expect("a directory")),
        ("socket", |path| {
            // The path of a socket has at most 107 bytes.
            let short = tempfile::tempdir().expect("a directory");
            let made = short.path().join("socket");
            drop(UnixListener::bind(&made).expect("a socket"));
            std::fs::rename(&made, path).expect("a socket in its place");
        }),
        ("huge", |path| {
            let file = std::fs::File::create(path).expect("a file");
            file.set_len(6 << 30).expect("a file of 6 GiB");
        }),
    ]
}

#[test]
fn odd_files_in_any_place_are_errors_that_name_them() {
    let strange = Strange::new();
    let store = strange.other.store();
    let first = |directory: &str| {
        let entries = std::fs::read_dir(store.join(directory)).expect("a directory of the store");
        entries.flatten().next().expect("an entry").path()
    };
    let places = [
        store.join("store.json"),
        first("images"),
        first("manifests/sha256"),
        strange.lowest().join("blob"),
        strange.lowest().join("thin"),
        strange.lowest(),
    ];
    let aside = store.join("aside");
    for place in places {
        let was_there = place.exists();
        if was_there {
            std::fs::rename(&place, &aside).expect("set aside");
        }
        // A thin layer is one without a whole tar.
        let hidden = strange.lowest().join("blob");
        let is_thin = place.ends_with("thin");
        if is_thin {
            std::fs::rename(&hidden, strange.lowest().join("hidden")).expect("hidden");
            std::fs::copy(strange.lowest().join("index"), strange.lowest().join("shared")).expect("a map");
        }
        for (kind, make) in odd_kinds() {
            if kind == "huge" && place.starts_with(strange.lowest()) {
                // A layer may be that large.
                continue;
            }
            make(&place);
            let what = format!("{kind} at {}", place.display());
            strange.run(["images"]);
            for arguments in [&["prepare", IMAGE][..], &["verify", IMAGE], &["gc"], &["du"]] {
                let finished = strange.run(arguments);
                assert!(finished.status.code().is_some(), "{what}: ended by a signal: {finished}");
                let text = format!("{}{}", finished.stdout, finished.stderr);
                assert!(!text.contains("root:") && !text.contains("panicked"), "{what}: {finished}");
            }
            let prepared = strange.run(["prepare", IMAGE]);
            assert_eq!(prepared.status.code(), Some(1), "{what}: {prepared}");
            let names_it =
                [&place, &strange.lowest()].iter().any(|path| prepared.stderr.contains(path.to_str().unwrap()));
            let names_layer = prepared.stderr.contains(&strange.layers[0].diff_id());
            assert!(names_it || names_layer, "{what}: {prepared}");
            let removed = if kind == "directory" { std::fs::remove_dir(&place) } else { std::fs::remove_file(&place) };
            removed.expect("removed again");
        }
        if is_thin {
            std::fs::rename(strange.lowest().join("hidden"), &hidden).expect("shown");
            std::fs::remove_file(strange.lowest().join("shared")).expect("no map");
        }
        if was_there {
            std::fs::rename(&aside, &place).expect("put back");
        }
    }
    assert_eq!(strange.motd(), "welcome\n");
}

#[test]
fn store_cut_off_under_a_mount_has_no_effect_on_it() {
    let strange = Strange::new();
    let point = strange.own.work("served");
    strange.run([OsStr::new("mount"), OsStr::new(IMAGE), point.as_os_str()]).succeeded();
    let mut cut_off = Command::new(installed("find"));
    cut_off.arg(strange.other.store()).args(["-type", "f", "-exec", "truncate", "--size=0", "{}", ";"]);
    Finished::of(&mut cut_off).succeeded();
    assert_eq!(strange.own.read(&point.join("etc/motd")), b"welcome\n");
    assert_eq!(strange.own.read(&point.join("etc/os-release")), b"ID=strange\n");
    strange.own.umount(&point);
    strange.own.traces().assert_nothing_left();
}

#[test]
fn store_of_another_user_is_refused_as_the_own_one() {
    let strange = Strange::new();
    let store = strange.other.store();
    let before = Inventory::of(&store);
    let path = store.to_str().expect("a plain path");
    for arguments in [&["images", "--store", path][..], &["gc", "--store", path], &["prepare", IMAGE, "--store", path]]
    {
        strange.own.run(arguments).refused(&format!("--additional-store {path}"));
    }
    assert_eq!(Inventory::of(&store), before);
}

#[test]
fn store_that_everybody_can_write_is_only_a_source_even_if_root_owns_it() {
    let (system, user) = (Session::new(Actor::Root), Session::user());
    let image = Layout::of(&[Layer::of_files(&[("etc/motd", b"welcome\n")])]);
    system.import(image.path(), IMAGE);
    let run = || {
        let mut command = user.lamina(["prepare", IMAGE]);
        Finished::of(command.env("LAMINA_ADDITIONAL_STORES", system.store())).succeeded()
    };
    assert_eq!(run().stderr, "", "root's store is used in place");
    assert_eq!(sound_layers(&user.store()), Vec::<String>::new());
    let layers = system.store().join("layers/sha256");
    std::fs::set_permissions(&layers, PermissionsExt::from_mode(0o777)).expect("open to everybody");
    run();
    user.ok(["gc"]);
    assert_eq!(run().status.code(), Some(0));
    assert_eq!(sound_layers(&user.store()).len(), 1, "the layer is copied");
}
