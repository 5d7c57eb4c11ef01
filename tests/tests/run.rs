//! An image as a running VM, started by an ordinary user.

use std::path::{Path, PathBuf};

use end_to_end::Started;
use end_to_end::layout::Layer;
use end_to_end::{Finished, Image, Layout, Session, TreeDump, deviations, oracle, programs};
use rustix::process::Signal;

const REFERENCE: &str = "lamina.test/image:1";

/// A session with one image in its store, and a directory that its guests write to.
struct Guests {
    session: Session,
    /// Mounted in every guest at /media, an empty directory of the Debian image.
    shared: PathBuf,
}

impl Guests {
    fn of(image: Image) -> Self {
        let session = Session::user();
        session.import(&image.layout(), REFERENCE);
        let shared = session.work("shared");
        Self { session, shared }
    }

    /// `lamina run` with the shared directory; `options` come before the image, `command` is what the guest runs.
    fn run(&self, options: &[&str], command: &[&str]) -> Finished {
        Finished::of(&mut self.command(options, command))
    }

    fn start(&self, options: &[&str], command: &[&str]) -> Started {
        self.session.start(self.command(options, command))
    }

    fn command(&self, options: &[&str], command: &[&str]) -> std::process::Command {
        let share = format!("{}:/media", self.shared.display());
        let mut lamina = self.session.lamina(["run", "--accel", "tcg", "-v", &share]);
        lamina.args(options).arg(REFERENCE).arg("--").args(command);
        lamina
    }

    /// Runs a shell script as root of the guest.
    fn shell(&self, options: &[&str], script: &str) -> Finished {
        self.run(options, &["/bin/sh", "-c", script])
    }

    /// What the guest wrote to a file of the shared directory.
    fn written(&self, name: &str) -> String {
        let path = self.shared.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Starts a guest that says in the shared directory that it runs, and then sleeps; returns when it has said so.
    fn sleeper(&self, options: &[&str]) -> Started {
        let mut guest = self.start(options, &["/bin/sh", "-c", "echo here > /media/here; exec sleep 600"]);
        guest.await_file(&self.shared.join("here"));
        guest
    }
}

/// A directory that holds nothing but tree-dump, to be shared with a guest.
fn tools(session: &Session) -> PathBuf {
    let tools = session.work("tools");
    std::fs::copy(programs::built("tree-dump"), tools.join("tree-dump")).expect("a copy of tree-dump");
    tools
}

fn tree_in_guest_equals_the_oracle(image: Image, backend: &str) {
    let guests = Guests::of(image);
    let tools = format!("{}:/mnt:ro", tools(&guests.session).display());
    // A network comes with an /etc/resolv.conf.
    let options = ["--backend", backend, "--network", "none", "-v", &tools, "-u", "0:0", "-w", "/"];
    let finished = guests.run(&options, &["/mnt/tree-dump", "/", "/media/tree"]);
    assert!(finished.status.success(), "{finished}");
    let tree = TreeDump::parse(&guests.written("tree")).expect("tree-dump writes its own format");
    oracle::tree_of(image).assert_same(&tree, deviations::IN_GUEST, &format!("{} by {backend}", image.name()));
    guests.session.traces().assert_nothing_left();
}

#[test]
fn debian_in_a_guest_by_direct_equals_what_umoci_unpacks() {
    tree_in_guest_equals_the_oracle(Image::Debian, "direct");
}

#[test]
fn debian_in_a_guest_by_virtiofsd_equals_what_umoci_unpacks() {
    tree_in_guest_equals_the_oracle(Image::Debian, "virtiofsd");
}

#[test]
fn npm_and_pypi_trees_in_a_guest_by_direct_equal_what_umoci_unpacks() {
    tree_in_guest_equals_the_oracle(Image::Trees, "direct");
}

#[test]
fn npm_and_pypi_trees_in_a_guest_by_virtiofsd_equal_what_umoci_unpacks() {
    tree_in_guest_equals_the_oracle(Image::Trees, "virtiofsd");
}

#[test]
fn corner_cases_in_a_guest_by_direct_equal_what_umoci_unpacks() {
    tree_in_guest_equals_the_oracle(Image::Corners, "direct");
}

#[test]
fn corner_cases_in_a_guest_by_virtiofsd_equal_what_umoci_unpacks() {
    tree_in_guest_equals_the_oracle(Image::Corners, "virtiofsd");
}

#[test]
fn corner_cases_in_a_guest_by_block_equal_what_umoci_unpacks() {
    tree_in_guest_equals_the_oracle(Image::Corners, "block");
}

/// Such an attribute is stored once, and each inode says where.
#[test]
fn an_attribute_of_many_files_is_read_in_a_guest_by_block() {
    let session = Session::user();
    let value = "of-many-files".repeat(3);
    let script = format!(
        "mkdir -p usr/bin usr/lib usr/lib64 etc proc dev sys tmp run media labelled && ln -s usr/bin usr/lib usr/lib64 .
         for name in sh getfattr; do
             path=$(command -v $name)
             cp --dereference $path usr/bin/$name
             ldd $path | grep -o '/[^ ]*' | while read -r needed; do cp --dereference --parents $needed .; done
         done
         for number in $(seq 400); do echo $number > labelled/$number; done
         setfattr -n user.label -v {value} labelled/*; setfattr -n user.own -v of-one labelled/7"
    );
    session.import(Layout::of(&[Layer::of_script(&script)]).path(), REFERENCE);
    let shared = session.work("shared");
    let guests = Guests { session, shared };
    let script = "getfattr --absolute-names --only-values -n user.label /labelled/* > /media/labels
        getfattr --absolute-names --only-values -n user.own /labelled/7 > /media/own; read number < /labelled/7; echo $number > /media/seven";
    guests.shell(&["--backend", "block", "--network", "none", "-u", "0:0", "-w", "/"], script).succeeded();
    assert_eq!(guests.written("labels"), value.repeat(400));
    assert_eq!((guests.written("own"), guests.written("seven")), ("of-one".to_owned(), "7\n".to_owned()));
}

#[test]
fn block_root_boots_on_q35_too_and_stores_only_metadata_which_is_made_once_and_collected() {
    let guests = Guests::of(Image::Debian);
    guests.run(&["--backend", "block", "--machine", "q35", "-w", "/"], &["/bin/rm", "-r", "/usr/share"]).succeeded();
    let store = guests.session.store();
    let base = std::fs::read_dir(store.join("bases")).unwrap().next().unwrap().unwrap().path();
    let map = base.join("erofs-4.map");
    let made = map.metadata().unwrap().modified().unwrap();
    let layers = std::fs::read_dir(store.join("layers/sha256")).unwrap();
    let tar = |layer: PathBuf| ["blob", "thin"].iter().find_map(|name| layer.join(name).metadata().ok());
    let blobs: u64 = layers.map(|layer| tar(layer.unwrap().path()).expect("a tar").len()).sum();
    let metadata = map.metadata().unwrap().len();
    assert!(metadata * 50 <= blobs, "{metadata} bytes of metadata for {blobs} bytes of layers");
    assert!(!base.join("erofs-4").exists(), "no image with content is made");
    let again = ["--backend", "block", "-w", "/"];
    let finished = guests.shell(&again, "ls /usr/share > /media/seen; mount > /media/mounts").succeeded();
    assert!(guests.written("seen").contains("doc"), "the image was changed: {finished}");
    assert_eq!(map.metadata().unwrap().modified().unwrap(), made);
    guests.session.ok(["rmi", REFERENCE]);
    guests.session.ok(["gc"]);
    assert!(!base.exists());
    guests.session.traces().assert_nothing_left();
}

#[test]
fn block_root_in_a_guest_has_the_bytes_of_the_written_image() {
    let guests = Guests::of(Image::Corners);
    let image = guests.session.work("images").join("written");
    guests.session.ok(["build-image", REFERENCE, image.to_str().unwrap()]);
    Finished::of(std::process::Command::new(programs::installed("fsck.erofs")).arg(&image)).succeeded();
    let written = Finished::of(std::process::Command::new("sha256sum").arg(&image)).succeeded();
    let options = ["--backend", "block", "--network", "none", "-u", "0:0", "-w", "/"];
    let script = "sha256sum < /dev/vda; echo changed 2> /dev/null > /dev/vda || echo refused; sha256sum < /dev/vda";
    let seen = guests.shell(&options, script).succeeded();
    let digests: Vec<&str> = seen.stdout.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    let digest = written.stdout.split(' ').next().unwrap_or_default();
    assert_eq!(digests, [digest, "refused", digest], "{seen}");
    guests.session.traces().assert_nothing_left();
}

#[test]
fn materialized_root_is_unpacked_once_and_unharmed_by_its_guests() {
    let guests = Guests::of(Image::Debian);
    let run = |script: &str| guests.shell(&["--backend", "materialize", "-w", "/"], script);
    let finished = run("rm -r /usr/share; stat -c %u:%g /etc > /media/owner").succeeded();
    assert!(finished.stderr.contains("belong to root in the guest"), "{finished}");
    let store = guests.session.store();
    let base = std::fs::read_dir(store.join("bases")).unwrap().next().unwrap().unwrap().path();
    let tree = base.join("tree-1-own");
    assert_eq!(guests.written("owner").trim_end(), "0:0");
    assert!(tree.join("usr/share/doc").is_dir());
    guests.session.ok(["rmi", REFERENCE]);
    guests.session.ok(["gc"]);
    assert!(!base.exists());
    guests.session.traces().assert_nothing_left();
}

#[test]
fn command_runs_as_the_image_says_with_its_packages_and_gives_its_exit_status() {
    let guests = Guests::of(Image::Trees);
    // Entrypoint /usr/bin/env, User 1000:1000, WorkingDir and Env of the image; one variable more.
    let python = "import numpy, requests; print(int(numpy.arange(10).sum()), requests.__version__)";
    let script = format!("id -u; id -g; pwd; echo $NODE_PATH $ADDED; python3 -c '{python}'; exit 42");
    let finished = guests.run(&["-e", "ADDED=by-hand"], &["/bin/sh", "-c", &script]);
    assert_eq!(finished.status.code(), Some(42), "{finished}");
    let console: Vec<&str> = finished.stdout.lines().map(str::trim_end).collect();
    let expected = ["1000", "1000", "/srv/web", "/srv/web/node_modules by-hand", "45 2.32.3"];
    assert_eq!(console, expected, "{finished}");
    guests.session.traces().assert_nothing_left();
}

#[test]
fn what_the_caller_says_replaces_what_the_image_says() {
    let guests = Guests::of(Image::Trees);
    let options = ["-u", "root", "-w", "/usr", "-e", "NODE_PATH=/elsewhere", "--cpus", "2", "--memory", "768M"];
    let script = "id -un; pwd; echo $NODE_PATH; nproc; grep MemTotal /proc/meminfo";
    let finished = guests.run(&options, &["/bin/sh", "-c", script]).succeeded();
    let console: Vec<&str> = finished.stdout.lines().map(str::trim_end).collect();
    assert_eq!(console[..4], ["root", "/usr", "/elsewhere", "2"], "{finished}");
    let kib: u64 = console[4].split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("MemTotal in kB");
    assert!((512 << 10..=768 << 10).contains(&kib), "{kib} KiB of memory in a guest of 768M");
}

#[test]
fn writable_share_carries_changes_both_ways_and_a_read_only_one_is_enforced_on_the_host() {
    let guests = Guests::of(Image::Debian);
    let protected = guests.session.work("protected");
    std::fs::write(protected.join("file"), "as it was").unwrap();
    std::fs::write(guests.shared.join("from-host"), "hello guest").unwrap();
    let share = format!("{}:/opt:ro", protected.display());
    // Even a guest that gets a writable mount of the share cannot write to the host.
    let script = "
        mount -o remount,rw /opt; echo changed > /opt/file; touch /opt/new; rm /opt/file; cat /opt/file > /media/read
        set -e
        cat /media/from-host > /media/copy; mkdir /media/directory; ln -s copy /media/link; rm /media/from-host
    ";
    guests.shell(&["-v", &share], script).succeeded();
    assert_eq!(std::fs::read_to_string(protected.join("file")).unwrap(), "as it was");
    assert!(!protected.join("new").exists());
    assert_eq!(guests.written("read"), "as it was");
    assert_eq!(guests.written("copy"), "hello guest");
    assert!(guests.shared.join("directory").is_dir());
    assert_eq!(std::fs::read_link(guests.shared.join("link")).unwrap(), Path::new("copy"));
    assert!(!guests.shared.join("from-host").exists());
}

#[test]
fn guest_that_destroys_its_root_changes_no_base() {
    let guests = Guests::of(Image::Debian);
    let script = "echo broken > /etc/os-release && chmod 000 /usr/bin/python3 && rm -rf /usr/share /var/lib && ls / > /media/seen";
    guests.shell(&[], script).succeeded();
    assert!(guests.written("seen").contains("usr"));
    let point = guests.session.mount(REFERENCE, "mounted");
    oracle::tree_of(Image::Debian).assert_same(
        &guests.session.tree(&point),
        deviations::MOUNTED,
        "the base after the guest",
    );
    guests.session.umount(&point);
}

#[test]
fn interrupted_or_terminated_run_leaves_nothing_behind() {
    let guests = Guests::of(Image::Debian);
    for (backend, signal) in [("direct", Signal::INT), ("virtiofsd", Signal::INT), ("direct", Signal::TERM)] {
        let guest = guests.sleeper(&["--backend", backend]);
        guest.signal(signal);
        let finished = guest.finish();
        assert!(!finished.status.success(), "{finished}");
        guests.session.traces().assert_nothing_left();
        std::fs::remove_file(guests.shared.join("here")).expect("what the guest wrote");
    }
}

#[test]
fn accelerator_is_chosen_by_trying_and_a_command_that_is_not_in_the_image_is_named() {
    let guests = Guests::of(Image::Debian);
    let mut lamina = guests.session.lamina(["run", "--accel", "auto", REFERENCE, "--", "/nowhere/program"]);
    // The status comes from the guest, so a guest has run. Shells use the same one (POSIX, "Exit Status for Commands").
    let finished = Finished::of(&mut lamina);
    assert_eq!(finished.status.code(), Some(127), "{finished}");
    assert!(format!("{}{}", finished.stdout, finished.stderr).contains("/nowhere/program"), "{finished}");
    let mut forced = guests.session.lamina(["run", "--accel", "abacus", REFERENCE, "--", "/bin/true"]);
    Finished::of(&mut forced).failed_usage("abacus");
}

#[test]
fn dry_run_prints_command_lines_and_starts_nothing() {
    let guests = Guests::of(Image::Debian);
    for (backend, program) in [("direct", "qemu-system-x86_64"), ("virtiofsd", "virtiofsd")] {
        let finished = guests.run(&["--dry-run", "--backend", backend], &["/bin/touch", "/media/started"]).succeeded();
        assert!(finished.stdout.contains(program), "{finished}");
        assert!(finished.stdout.contains("vhost-user-fs"), "{finished}");
    }
    assert!(!guests.shared.join("started").exists());
    guests.session.traces().assert_nothing_left();
}

#[test]
fn what_a_guest_needs_and_is_missing_is_refused_by_name() {
    let guests = Guests::of(Image::Debian);
    guests.run(&["-v", "/nowhere/at-all:/mnt"], &["/bin/true"]).failed("/nowhere/at-all");
    guests.run(&["--kernel", "/nowhere/vmlinuz"], &["/bin/true"]).failed("/nowhere/vmlinuz");
    guests.run(&["-v", "no-guest-path"], &["/bin/true"]).failed_usage("no-guest-path");
    guests.run(&["--memory", "many"], &["/bin/true"]).failed_usage("many");
    guests.session.traces().assert_nothing_left();
}

#[test]
fn doctor_tells_what_this_host_can_do() {
    let session = Session::user();
    let finished = session.run(["doctor"]);
    for word in ["FUSE", "KVM", "TCG", "QEMU", "virtiofsd", "kernel", "store"] {
        assert!(
            finished.stdout.to_lowercase().contains(&word.to_lowercase()),
            "doctor says nothing of {word}\n{finished}"
        );
    }
    session.traces().assert_nothing_left();
}
