//! Debian's podman without root, on images of the store.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::Stdio;

use end_to_end::layout::Layer;
use end_to_end::programs::installed;
use end_to_end::{Finished, Layout, Session};

/// A user's podman that looks for images where `lamina podman` puts them.
struct Podman {
    session: Session,
}

impl Podman {
    fn new() -> Self {
        let session = Session::user();
        let directory = session.directory().join("home/.config/containers");
        let store = session.directory().join("state/lamina/podman");
        let configuration = format!(
            "[storage]\ndriver = \"overlay\"\n[storage.options]\nadditionalimagestores = [{:?}]\n",
            store.display().to_string()
        );
        let make = format!(
            "mkdir -p {1} {0} && cat > {0}/storage.conf <<'EOF'\n{configuration}EOF",
            directory.display(),
            store.display()
        );
        Finished::of(session.command(&installed("sh")).args(["-ec", &make])).succeeded();
        Self { session }
    }

    fn podman(&self, words: &[&str]) -> Finished {
        // crun of Debian 12 refuses hosts with two versions of cgroups, and runc warns where it has none.
        let mut command = self.session.command(&installed("podman"));
        Finished::of(command.args(["--runtime", "runc", "--log-level", "error"]).args(words))
    }

    /// Runs a script in a new container of an image.
    fn run(&self, reference: &str, script: &str) -> Finished {
        self.podman(&["run", "--rm", "--network", "none", reference, "/bin/sh", "-ec", script])
    }

    fn stored(&self) -> PathBuf {
        self.session.directory().join("home/.local/share/containers/storage/overlay-images/images.json")
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // It ends the process that keeps podman's namespaces.
        self.podman(&["system", "migrate"]);
    }
}

fn programs() -> Layer {
    Layer::of_script(
        "mkdir -p usr/bin usr/lib usr/lib64 etc proc dev sys tmp && ln -s usr/bin usr/lib usr/lib64 .
         for name in sh cat stat id; do
             path=$(command -v $name)
             cp --dereference $path usr/bin/$name
             ldd $path | grep -o '/[^ ]*' | while read -r needed; do cp --dereference --parents $needed .; done
         done
         echo base > etc/layer; echo private > etc/private; chown 33:44 etc/private; chmod 600 etc/private",
    )
}

#[test]
fn podman_runs_images_of_the_store_in_place_and_writes_elsewhere() {
    let podman = Podman::new();
    let session = &podman.session;
    let top = [Layer::of_files(&[("top", b"one\n")]), Layer::of_files(&[("top", b"two\n")])];
    for (layer, name) in top.into_iter().zip(["localhost/one:1", "localhost/two:1"]) {
        session.import(Layout::of(&[programs(), layer]).path(), name);
    }
    let told = session.run(["podman", "localhost/one:1", "localhost/two:1"]).succeeded();
    // Of podman, where the host's root directory is not a shared mount.
    let lines: Vec<&str> = told.stderr.lines().filter(|line| !line.contains("is not a shared mount")).collect();
    assert_eq!((told.stdout.as_str(), lines), ("localhost/one:1\nlocalhost/two:1\n", vec![]));
    let script = "cat /top /etc/layer; stat -c %u:%g:%a /etc/private; id -u; echo mine > /etc/layer; cat /etc/layer";
    let one = podman.run("localhost/one:1", script).succeeded();
    assert_eq!(one.stdout, "one\nbase\n33:44:600\n0\nmine\n");
    assert_eq!(podman.run("localhost/two:1", "cat /top /etc/layer").succeeded().stdout, "two\nbase\n");
    let stored = std::fs::read_to_string(podman.stored()).unwrap_or_default();
    assert!(!stored.contains("localhost/one"), "podman has no image of its own: {stored}");
    let listed = podman.podman(&["images", "--format", "{{.Repository}} {{.ReadOnly}}"]).succeeded().stdout;
    assert_eq!(listed.lines().filter(|line| line.ends_with(" true")).count(), 2, "{listed}");
    // What is there already is left as it is, and what has ended is mounted again.
    session.ok(["podman", "localhost/one:1"]);
    podman.podman(&["system", "migrate"]).succeeded();
    session.ok(["podman", "localhost/one:1"]);
    assert_eq!(podman.run("localhost/one:1", "cat /top").succeeded().stdout, "one\n");
    session.ok(["podman", "--remove", "localhost/one:1"]);
    assert!(!podman.run("localhost/one:1", "cat /top").status.success());
    session.run(["podman", "--remove", "localhost/one:1"]).refused("localhost/one:1");
}

#[test]
fn an_image_whose_name_moves_is_unmounted_when_no_container_or_other_image_is_on_it() {
    const NAME: &str = "localhost/one:1";
    let podman = Podman::new();
    let session = &podman.session;
    let directory = session.directory().join("state/lamina/podman/overlay");
    // Names of layers, without the directory of short names.
    let layers = || {
        let names = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name != "l").count()
    };
    let mounts = || {
        let mounts = podman.podman(&["unshare", "cat", "/proc/self/mounts"]).succeeded().stdout;
        mounts.lines().filter(|line| line.contains(directory.to_str().unwrap())).count()
    };
    let give = |top: &[u8]| {
        session.import(Layout::of(&[programs(), Layer::of_files(&[("top", top)])]).path(), NAME);
        session.ok(["podman", NAME]);
    };
    give(b"one\n");
    give(b"two\n");
    assert_eq!((layers(), mounts()), (1, 1), "the first image is not needed any more");
    assert_eq!(podman.run(NAME, "cat /top").succeeded().stdout, "two\n");
    podman.podman(&["create", "--name", "kept", "--network", "none", NAME, "/bin/cat", "/top"]).succeeded();
    give(b"three\n");
    assert_eq!((layers(), mounts()), (2, 2), "a container is on the second image");
    assert_eq!(podman.run(NAME, "cat /top").succeeded().stdout, "three\n");
    assert_eq!(podman.podman(&["start", "--attach", "kept"]).succeeded().stdout, "two\n");
    podman.podman(&["rm", "kept"]).succeeded();
    session.ok(["podman", NAME]);
    assert_eq!((layers(), mounts()), (1, 1));
    // An image of podman's own on the third.
    podman.podman(&["create", "--name", "parent", "--network", "none", NAME, "/bin/cat", "/top"]).succeeded();
    podman.podman(&["commit", "--quiet", "parent", "localhost/child:1"]).succeeded();
    podman.podman(&["rm", "parent"]).succeeded();
    give(b"four\n");
    assert_eq!((layers(), mounts()), (2, 2), "another image is on the third image");
    assert_eq!(podman.run("localhost/child:1", "cat /top").succeeded().stdout, "three\n");
    podman.podman(&["rmi", "localhost/child:1"]).succeeded();
    session.ok(["podman", NAME]);
    assert_eq!((layers(), mounts()), (1, 1));
    // A process in the fourth, until its input ends.
    let mut trees = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path().join("diff"));
    let tree = trees.find(|tree| !tree.starts_with(directory.join("l"))).unwrap();
    let mut inside = session.command(&installed("podman"));
    inside.args(["unshare", "sh", "-c", "cd \"$1\" && echo in && cat", "sh"]).arg(&tree);
    let mut inside = inside.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 3];
    inside.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    session.import(Layout::of(&[programs(), Layer::of_files(&[("top", b"five\n")])]).path(), NAME);
    let told = session.run(["podman", NAME]).succeeded();
    assert!(told.stderr.contains("stays until") && told.stderr.contains(tree.to_str().unwrap()), "{told}");
    assert_eq!((layers(), mounts()), (2, 2), "a process is in the fourth image");
    drop(inside.stdin.take());
    assert!(inside.wait().unwrap().success());
    session.ok(["podman", NAME]);
    assert_eq!((layers(), mounts()), (1, 1), "it is found again");
    session.ok(["podman", "--remove", NAME]);
    assert_eq!((layers(), mounts()), (0, 0));
}

#[test]
fn an_additional_image_store_that_podman_does_not_read_is_named() {
    let podman = Podman::new();
    podman.session.import(Layout::of(&[programs()]).path(), "localhost/one:1");
    let other = podman.session.work("other").display().to_string();
    let told = podman.session.run(["podman", "--directory", &other, "localhost/one:1"]).succeeded();
    assert!(told.stderr.contains("additionalimagestores") && told.stderr.contains(&other), "{told}");
    podman.session.run(["podman", "localhost/none:1"]).refused("localhost/none:1");
}
