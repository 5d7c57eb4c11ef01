//! Machine tests under real KVM, as an ordinary user, on a machine whose own KVM boots no stock kernel.
//!
//! QEMU's TCG emulates AMD SVM with nested paging, so KVM is real in a guest that it runs. `lamina run` itself starts that
//! outer guest. It has the directory with the programs and test binaries of this build as a read-only share, and runs
//! tests of the binaries `run*` and `machines` as they are, with `--accel kvm` instead of `--accel tcg`.

use std::fs;
use std::path::{Path, PathBuf};

use end_to_end::{Finished, Image, Session, images, programs};

const OUTER: &str = "lamina.test/outer:1";

/// What the outer guest runs as root: `kvm-tests BINARY FILTER...`, for each line of its input.
const SCRIPT: &str = r#"
set -e
modprobe kvm_amd
modprobe fuse
chmod 0666 /dev/kvm /dev/fuse
useradd --create-home lamina-test
echo user_allow_other >> /etc/fuse.conf
cp -r /store /tmp/store
chown -R lamina-test: /tmp/store
export LAMINA_TEST_ACCELERATOR=kvm LAMINA_TEST_STORE=/tmp/store LAMINA_PROGRAMS=/programs
status=0
while read -r binary tests; do
  "/programs/deps/$binary" --test-threads 1 $tests < /dev/null || status=1
done < /tests/list
exit $status
"#;

/// A dozen tests: each backend and each machine type once, shares, ports, exec, a kept disk with start and commit, and
/// the ways in which a machine ends.
const CHOSEN: [(&str, &[&str]); 4] = [
    (
        "run",
        &[
            "block_root_boots_on_q35_too_and_its_image_is_made_once_and_collected",
            "materialized_root_is_unpacked_once_and_unharmed_by_its_guests",
            "writable_share_carries_changes_both_ways_and_a_read_only_one_is_enforced_on_the_host",
            "panic_power_off_and_kill_are_told_apart",
            "interrupted_or_terminated_run_leaves_nothing_behind",
        ],
    ),
    ("run_options", &["network_by_slirp_reaches_out_and_in", "network_by_passt_reaches_out"]),
    ("run_streams", &["endings_of_commands_are_those_of_a_shell"]),
    (
        "machines",
        &[
            "lifecycle::detached_machine_is_seen_asked_stopped_started_and_removed",
            "lifecycle::ready_means_that_something_listens_when_that_is_asked_for",
            "persistence::kept_machine_has_what_it_wrote_after_its_end_and_gives_it_to_a_new_image",
            "wait::exit_status_of_an_ephemeral_machine_reaches_every_waiting_command",
        ],
    ),
];

#[test]
#[ignore = "takes minutes: runs a dozen machine tests under real KVM, in a guest of a guest"]
fn machines_run_under_real_kvm() {
    let list: Vec<String> =
        CHOSEN.iter().map(|(binary, tests)| format!("{} --exact {}", test_binary(binary), tests.join(" "))).collect();
    let finished = under_kvm(&list);
    let passed: Vec<&str> = finished.stdout.lines().filter(|line| line.starts_with("test result: ok.")).collect();
    let expected = CHOSEN.map(|(_, tests)| format!("test result: ok. {} passed; 0 failed; 0 ignored;", tests.len()));
    assert_eq!(passed.len(), expected.len(), "{finished}");
    for (line, expected) in passed.iter().zip(expected) {
        assert!(line.starts_with(&expected), "{expected} but {line}\n{finished}");
    }
    assert!(finished.status.success(), "{finished}");
}

#[test]
#[ignore = "takes an hour: runs every machine test under real KVM"]
fn every_machine_test_passes_under_real_kvm() {
    let list = ["run", "run_options", "run_streams", "machines"].map(test_binary);
    under_kvm(&list).succeeded();
}

/// Runs test binaries in an outer guest: a line of `list` for each, its name and its arguments.
fn under_kvm(list: &[String]) -> Finished {
    let session = Session::user();
    session.import(&Image::Outer.layout(), OUTER);
    let store = session.work("store");
    let store = store.to_str().expect("a path in UTF-8");
    let debian = Image::Debian.layout();
    let debian = debian.to_str().expect("a path in UTF-8");
    session.ok(["--store", store, "import", debian, "--tag", "lamina.test/image:1"]);
    let tests = session.work("tests");
    fs::write(tests.join("list"), list.join("\n") + "\n").unwrap();
    fs::write(tests.join("kvm-tests"), SCRIPT).unwrap();
    let modules = format!("/lib/modules/{}", guest_kernel());
    let programs = profile_directory();
    let virtiofsd = programs::installed("virtiofsd");
    let mut lamina = session.lamina(["run", "--accel", "tcg", "--cpus", "2", "--memory", "4G", "--network", "slirp"]);
    for (host, guest) in [
        (programs.as_path(), Path::new("/programs")),
        (Path::new(store), Path::new("/store")),
        (&tests, Path::new("/tests")),
        (&images::directory(), &images::directory()),
        (Path::new("/boot"), Path::new("/boot")),
        (Path::new(&modules), Path::new(&modules)),
        (&virtiofsd, Path::new("/usr/local/bin/virtiofsd")),
    ] {
        lamina.arg("-v").arg(format!("{}:{}:ro", host.display(), guest.display()));
    }
    Finished::of(lamina.args(["-u", "0:0", "-w", "/", OUTER, "--", "/bin/sh", "/tests/kvm-tests"]))
}

/// `target/<profile>`, where programs and test binaries are.
fn profile_directory() -> PathBuf {
    let lamina = programs::built("lamina");
    lamina.parent().expect("a program is in a directory").to_owned()
}

/// The file name of the test binary `name` of this build: `NAME-<16 digits>`, the newest.
fn test_binary(name: &str) -> String {
    let built = fs::read_dir(profile_directory().join("deps")).expect("the directory of test binaries").flatten();
    let is_one = |file: &str| {
        file.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|hash| hash.len() == 16 && !hash.contains('.'))
    };
    let newest = built
        .filter(|entry| entry.file_name().to_str().is_some_and(is_one))
        .max_by_key(|entry| entry.metadata().and_then(|file| file.modified()).ok());
    let newest = newest.unwrap_or_else(|| panic!("no test binary {name}: run cargo build --workspace --all-targets"));
    newest.file_name().to_string_lossy().into_owned()
}

/// The release of the kernel that guests boot, the newest under /boot.
fn guest_kernel() -> String {
    let mut releases: Vec<String> = fs::read_dir("/lib/modules")
        .expect("/lib/modules")
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|release| Path::new("/boot").join(format!("vmlinuz-{release}")).is_file())
        .collect();
    releases.sort();
    releases.pop().expect("a kernel for guests: run scripts/setup")
}
