//! What cannot work is refused in one line, before anything is started.

use end_to_end::Finished;

use crate::fixture::Containers;

fn refused(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(125), "{finished}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    for word in words {
        assert!(finished.stderr.contains(word), "{finished}");
    }
}

#[test]
fn missing_runtime_is_named_with_the_package() {
    let containers = Containers::new();
    let mut command = containers.command(&[], &["true"]);
    refused(&Finished::of(command.env("LAMINA_RUNTIME", "no-such-runtime")), &["no-such-runtime", "LAMINA_RUNTIME"]);
    containers.session.traces().assert_nothing_left();
}

#[test]
fn what_a_container_lacks_is_refused_by_name() {
    let containers = Containers::new();
    for (options, words) in [
        (&["--backend", "block"][..], &["--backend block", "use --backend direct"][..]),
        (&["--accel", "kvm"], &["--accel kvm", "container does not have it"]),
        (&["--machine", "q35"], &["--machine q35"]),
        (&["--network", "slirp"], &["--network slirp", "container does not have it"]),
    ] {
        refused(&containers.run(options, &["true"]), words);
    }
    containers.session.traces().assert_nothing_left();
}

#[test]
fn both_runtimes_run_containers() {
    let containers = Containers::new();
    for runtime in ["crun", "runc"] {
        let mut command = containers.command(&[], &["cat", "/etc/hostname"]);
        let finished = Finished::of(command.env("LAMINA_RUNTIME", runtime));
        assert!(finished.status.success(), "{runtime}: {finished}");
    }
    containers.session.traces().assert_nothing_left();
}
