//! Machine tests under real KVM, as an ordinary user, on a machine whose own KVM cannot boot a stock kernel.
//!
//! QEMU's TCG emulates AMD SVM with nested paging, so KVM is real in a guest that it runs. `lamina run` itself starts that
//! outer guest. It has the programs and test binaries of this build in a read-only share, and runs tests of the binaries
//! `run*` and `machines` as they are, with `--accel kvm` instead of `--accel tcg`.
//!
//! The inner guests' programs and images come from the outer guest's shares, which the host's user `lamina-test`
//! serves: anything in a directory closed to that user (a clone below `/root`) is linked or copied first.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use end_to_end::{Finished, Image, Session, images, programs, static_program};

const OUTER: &str = "lamina.test/outer:1";

/// What the outer guest runs as root: `kvm-tests IMAGES`. A line of `/tests/jobs` is a test binary and its arguments.
const SCRIPT: &str = r#"
set -e
modprobe kvm_amd
modprobe fuse
chmod 0666 /dev/kvm /dev/fuse
useradd --create-home lamina-test
echo user_allow_other >> /etc/fuse.conf
cp -r /store /tmp/store
chown -R lamina-test: /tmp/store
export LAMINA_TEST_ACCELERATOR=kvm LAMINA_TEST_STORE=/tmp/store LAMINA_PROGRAMS=/programs LAMINA_IMAGES="$1"
for program in cloud-hypervisor firecracker passt; do
  variable=LAMINA_$(echo $program | tr a-z- A-Z_)
  if test -e /programs/engines/$program; then export $variable=/programs/engines/$program; fi
done
echo "ready after $(cut -d ' ' -f 1 /proc/uptime) s"
all=passed
while read -r job; do
  begin=$(date +%s)
  if "/programs/"$job < /dev/null 2>&1; then status=passed; else status=failed all=failed; fi
  echo "$status after $(($(date +%s) - begin)) s: $job"
done < /tests/jobs
test $all = passed
"#;

/// A dozen tests: each backend and each machine type once, shares, ports, exec, a kept disk with start and commit, and
/// the ways in which a machine ends. Each list runs in its own outer guest, at the same time.
const CHOSEN: [&[(&str, &[&str])]; 2] = [
    &[
        ("machines", &["lifecycle::detached_machine_is_seen_asked_stopped_started_and_removed::qemu"]),
        (
            "run_options",
            &["network_by_slirp_reaches_out_and_in", "network_by_passt_reaches_out_and_in_and_not_the_hosts_loopback"],
        ),
        ("run", &["block_root_boots_on_q35_too_and_stores_only_metadata_which_is_made_once_and_collected"]),
        ("run_streams", &["a_signal_reaches_the_command_which_may_end_as_it_likes"]),
    ],
    &[
        (
            "machines",
            &[
                "persistence::kept_machine_and_its_image_outlive_a_collection_in_the_store_that_lent_the_base::qemu",
                "abnormal_ends::panic_power_off_and_reboot_are_told_apart::qemu",
            ],
        ),
        (
            "run",
            &[
                "interrupted_or_terminated_run_leaves_nothing_behind",
                "materialized_root_is_unpacked_once_and_unharmed_by_its_guests",
                "writable_share_carries_changes_both_ways_and_a_read_only_one_is_enforced_on_the_host",
            ],
        ),
        (
            "run_streams",
            &[
                "input_and_output_of_many_windows_are_byte_exact_and_standard_error_stays_apart",
                "output_of_a_command_that_ends_at_once_is_whole",
            ],
        ),
    ],
];

#[test]
fn machines_run_under_real_kvm() {
    let lane = |chosen: &[(&str, &[&str])]| {
        let one_by_one = chosen.iter().flat_map(|(binary, tests)| tests.iter().map(move |test| (binary, test)));
        let jobs: Vec<String> = one_by_one.map(|(binary, test)| format!("{binary} --exact {test}")).collect();
        let finished = under_kvm(&jobs);
        let passed = |test: &str| finished.stdout.lines().any(|line| line == format!("test {test} ... ok"));
        for test in chosen.iter().flat_map(|(_, tests)| *tests) {
            // Without a test of this name, the test binary runs nothing and succeeds.
            assert!(passed(test), "{test} did not run\n{finished}");
        }
    };
    thread::scope(|scope| {
        CHOSEN.map(|chosen| scope.spawn(move || lane(chosen))).map(|lane| lane.join().expect("its tests pass"))
    });
}

#[test]
#[ignore = "takes an hour: runs every machine test under real KVM"]
fn every_machine_test_passes_under_real_kvm() {
    // Containers need no KVM.
    let jobs = ["machines", "run", "run_options", "run_streams"]
        .map(|binary| format!("{binary} --test-threads 1 --skip ::container"));
    under_kvm(&jobs);
}

#[test]
#[ignore = "needs a real cloud-hypervisor: set LAMINA_CLOUD_HYPERVISOR"]
fn machines_run_by_cloud_hypervisor_under_real_kvm() {
    run_by("LAMINA_CLOUD_HYPERVISOR", "cloud_hypervisor");
}

#[test]
#[ignore = "needs a real firecracker: set LAMINA_FIRECRACKER"]
fn machines_run_by_firecracker_under_real_kvm() {
    run_by("LAMINA_FIRECRACKER", "firecracker");
}

/// Runs the machine tests of an engine that no registry has, one half of them in each of two outer guests. `LAMINA_TESTS`
/// chooses among them by parts of their names, with spaces in between.
fn run_by(variable: &str, engine: &str) {
    assert!(std::env::var_os(variable).is_some(), "set {variable} to the path of the program");
    let chosen = std::env::var("LAMINA_TESTS").unwrap_or_else(|_| engine.to_owned());
    let listed = Finished::of(
        Command::new(test_binary("machines")).args(["--ignored", "--list"]).args(chosen.split_whitespace()),
    )
    .succeeded();
    let tests: Vec<&str> = listed.stdout.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    assert!(!tests.is_empty(), "no ignored test has one of these in its name: {chosen}");
    let lane = |tests: Vec<&str>| {
        if tests.is_empty() {
            return;
        }
        let finished = under_kvm(&[format!("machines --ignored --test-threads 1 --exact {}", tests.join(" "))]);
        // A test may write between its name and its outcome.
        let passed = finished.stdout.lines().filter(|line| line.trim_end() == "ok" || line.ends_with(" ok")).count();
        assert_eq!(passed, tests.len(), "{finished}");
    };
    // Neighbours in the list take about as long as each other.
    let half = |rest: usize| tests.iter().skip(rest).step_by(2).copied().collect::<Vec<_>>();
    thread::scope(|scope| {
        [half(0), half(1)]
            .map(|tests| scope.spawn(move || lane(tests)))
            .map(|lane| lane.join().expect("its tests pass"))
    });
}

/// The variables with the paths of programs that no registry has, and the names of these programs.
const ENGINES: [(&str, &str); 3] = [
    ("LAMINA_CLOUD_HYPERVISOR", "cloud-hypervisor"),
    ("LAMINA_FIRECRACKER", "firecracker"),
    // Of 2025 or later, with --vhost-user: for the network card of Cloud Hypervisor.
    ("LAMINA_PASST", "passt"),
];

/// Runs test binaries in an outer guest: for each of `jobs`, the name of one and its arguments. All must succeed.
///
/// The outer guest has one processor: with two, QEMU's emulation of SVM made its kernel panic, or an inner guest hang.
fn under_kvm(jobs: &[String]) -> Finished {
    let session = Session::user();
    session.import(&Image::Outer.layout(), OUTER);
    let store = session.work("store");
    let store_path = store.to_str().expect("a path in UTF-8");
    let debian = Image::Debian.layout();
    session.ok([
        "--store",
        store_path,
        "import",
        debian.to_str().expect("a path in UTF-8"),
        "--tag",
        "lamina.test/image:1",
    ]);
    let tests = session.work("tests");
    fs::write(tests.join("jobs"), jobs.join("\n") + "\n").unwrap();
    fs::write(tests.join("kvm-tests"), SCRIPT).unwrap();
    let shared = session.work("programs");
    for program in ["lamina", "composefs-fuse", "tree-dump"] {
        place(&programs::built(program), &shared.join(program));
    }
    let mut binaries: Vec<&str> = jobs.iter().filter_map(|job| job.split(' ').next()).collect();
    binaries.sort_unstable();
    binaries.dedup();
    for binary in binaries {
        place(&test_binary(binary), &shared.join(binary));
    }
    place(&programs::installed("virtiofsd"), &shared.join("virtiofsd"));
    static_program::compile(&shared.join(static_program::NAME));
    fs::create_dir(shared.join("engines")).unwrap();
    for (variable, name) in ENGINES {
        if let Some(program) = std::env::var_os(variable) {
            // Copied, because a link would keep the mode of its directory's owner.
            fs::copy(&program, shared.join("engines").join(name)).unwrap_or_else(|error| panic!("{variable}: {error}"));
        }
    }
    let images = images::directory();
    let mut lamina = session.lamina(["run", "--accel", "tcg", "--cpus", "1", "--memory", "3G", "--network", "slirp"]);
    for (host, guest) in [
        (shared.as_path(), Path::new("/programs")),
        (&shared.join("virtiofsd"), Path::new("/usr/local/bin/virtiofsd")),
        (&store, Path::new("/store")),
        (&tests, Path::new("/tests")),
        (&images, &images),
        (Path::new("/boot"), Path::new("/boot")),
        (Path::new("/lib/modules"), Path::new("/lib/modules")),
    ] {
        lamina.arg("-v").arg(format!("{}:{}:ro", host.display(), guest.display()));
    }
    lamina.args(["-u", "0:0", "-w", "/", OUTER, "--", "/bin/sh", "/tests/kvm-tests"]).arg(&images);
    let finished = streamed(lamina).succeeded();
    session.traces().assert_nothing_left();
    finished
}

/// Runs a command to its end, and prints its output as it arrives, so finished tests are visible even if time runs out.
fn streamed(mut command: Command) -> Finished {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("lamina can be started");
    let mut stderr = child.stderr.take().expect("standard error is a pipe");
    let stderr = thread::spawn(move || std::io::read_to_string(&mut stderr));
    let mut stdout = String::new();
    for line in BufReader::new(child.stdout.take().expect("standard output is a pipe")).lines() {
        let line = line.expect("output in UTF-8");
        println!("{line}");
        stdout.push_str(&line);
        stdout.push('\n');
    }
    let stderr = stderr.join().expect("a reader").expect("standard error in UTF-8");
    let status = child.wait().expect("the end of a child");
    Finished { command: format!("{command:?}"), status, stdout, stderr }
}

/// Makes `program` available at `place`, in a directory that every user can enter: the build may be below `/root`.
fn place(program: &Path, place: &Path) {
    if fs::hard_link(program, place).is_err() {
        fs::copy(program, place).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    }
}

/// The test binary `name` of this build: the newest `NAME-<16 digits>` beside the one that runs.
fn test_binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    let directory = own.parent().expect("a test binary is in a directory");
    let built = fs::read_dir(directory).expect("the directory of test binaries").flatten();
    let is_one = |file: &str| {
        file.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|hash| hash.len() == 16 && !hash.contains('.'))
    };
    let newest = built
        .filter(|entry| entry.file_name().to_str().is_some_and(is_one))
        .max_by_key(|entry| entry.metadata().and_then(|file| file.modified()).ok());
    let newest = newest.unwrap_or_else(|| panic!("no test binary {name}: run cargo build --workspace --all-targets"));
    newest.path()
}
