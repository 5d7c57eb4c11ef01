//! What cannot work is refused in one line, before anything is started; what works in part says what it lacks.

use std::os::unix::fs::PermissionsExt;

use end_to_end::layout::Layer;
use end_to_end::{Finished, Image, Layout, Session, on_other_host};
use serde_json::json;

use crate::fixture::{Containers, REFERENCE};

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
fn what_the_host_lacks_is_named_with_the_remedy() {
    let containers = Containers::new();
    let hide = |path: &str| format!("mount --bind /dev/null {path}");
    let no_runtime = format!("{}; {}", hide("/usr/bin/crun"), hide("/usr/sbin/runc"));
    // A device that only root may open.
    let closed =
        "mount -t tmpfs none /mnt; mknod -m 600 /mnt/fuse c 10 229; mount --bind /mnt/fuse /dev/fuse; umount -l /mnt";
    let network: &[&str] = &["--network", "passt"];
    for (setup, options, words) in [
        (no_runtime.as_str(), &[][..], &["neither crun nor runc", "apt-get install crun"][..]),
        ("mount -t tmpfs none /dev/net", network, &["/dev/net/tun", "modprobe tun", "--network none"]),
        (&hide("/usr/bin/pasta"), network, &["not found in PATH", "apt-get install passt", "--network none"]),
        (closed, &[], &["/dev/fuse", "Permission denied", "chmod 666 /dev/fuse"]),
    ] {
        let command = containers.command(options, &["echo", "ran"]);
        let finished = Finished::of(&mut on_other_host(setup, &command));
        refused(&finished, words);
        assert!(!finished.stdout.contains("ran"), "{finished}");
    }
    containers.session.traces().assert_nothing_left();
}

#[test]
fn user_without_subordinate_ids_is_told_what_that_costs() {
    let containers = Containers::new();
    let hide = |path: &str| format!("mount --bind /dev/null {path}");
    for (setup, words) in [
        (hide("/etc/subuid"), ["/etc/subuid", "usermod --add-subuids"]),
        (hide("/etc/subgid"), ["/etc/subgid", "--add-subgids"]),
        (hide("/usr/bin/newuidmap"), ["newuidmap", "apt-get install uidmap"]),
    ] {
        let command = containers.command(&[], &["stat", "-c", "%u:%g", "/etc/shadow"]);
        let finished = Finished::of(&mut on_other_host(&setup, &command)).succeeded();
        assert_eq!(finished.stdout, "0:0\n", "{finished}");
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
        assert!(finished.stderr.contains("without subordinate ids"), "{finished}");
        for word in words {
            assert!(finished.stderr.contains(word), "{finished}");
        }
    }
    containers.session.traces().assert_nothing_left();
}

/// Fails every mount of an overlay, as a kernel before Linux 5.11 does in a user namespace.
const REFUSE_OVERLAYS: &str = "exec strace -f --quiet=attach,exit,path-resolution -o /dev/null -u lamina-test \
    -e trace=mount -P root -e inject=mount:error=EPERM -- \"$@\"";

#[test]
fn kernel_without_overlays_in_user_namespaces_needs_fuse_overlayfs() {
    let containers = Containers::new();
    let command = containers.command(&[], &["sh", "-c", "echo x >> /etc/issue && findmnt -no FSTYPE /"]);
    let hidden = format!("mount --bind /dev/null /usr/bin/fuse-overlayfs; {REFUSE_OVERLAYS}");
    let words = ["an overlay in a user namespace", "Linux 5.11", "install fuse-overlayfs"];
    refused(&Finished::of(&mut on_other_host(&hidden, &command)), &words);
    let finished = Finished::of(&mut on_other_host(REFUSE_OVERLAYS, &command)).succeeded();
    assert_eq!(finished.stdout, "fuse.fuse-overlayfs\n", "{finished}");
    containers.session.traces().assert_nothing_left();
}

/// It would stop without a message.
#[test]
fn systemd_without_control_groups_is_refused() {
    let systemd =
        "mkdir -p sbin lib/systemd; cp -P /bin/true lib/systemd/systemd; ln -s /lib/systemd/systemd sbin/init";
    let layers = [Layer::of_image(Image::Debian, 0), Layer::of_script(systemd)];
    let session = Session::user();
    session.import(Layout::of_config(&layers, &json!({"Cmd": ["/sbin/init"]})).path(), REFERENCE);
    for runtime in ["crun", "runc"] {
        let mut command = session.lamina(["run", "--engine", "container", "--network", "none", REFERENCE]);
        let finished = Finished::of(command.env("LAMINA_RUNTIME", runtime));
        refused(&finished, &["systemd needs control groups of its own", "--engine auto"]);
    }
    session.traces().assert_nothing_left();
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

/// A VM's run only mentions that a container would start at once, and trying one takes longer than starting the VM.
#[test]
fn run_of_a_vm_tries_no_container_again_soon_after_one_has_failed() {
    let containers = Containers::new();
    let session = &containers.session;
    let (runtime, log) = (session.work("bin").join("crun"), session.work("tried").join("log"));
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--version*) exec /usr/bin/crun \"$@\" ;; *run*|*create*) echo >> {} ;; esac\nexit 1\n",
        log.display()
    );
    std::fs::write(&runtime, script).unwrap();
    std::fs::set_permissions(&runtime, PermissionsExt::from_mode(0o755)).unwrap();
    let tried = || std::fs::read(&log).map_or(0, |log| log.len());
    let vm = || {
        let mut command = session.lamina(["run", "--accel", "tcg", "--network", "none", "--dry-run", REFERENCE]);
        Finished::of(command.env("LAMINA_RUNTIME", &runtime)).succeeded();
        tried()
    };
    let once = vm();
    assert!(once > 0, "a container was tried");
    assert_eq!(vm(), once);
    // A user who asks for a container is told what is so now.
    let mut command = containers.command(&[], &["true"]);
    assert!(!Finished::of(command.env("LAMINA_RUNTIME", &runtime)).status.success());
    assert!(tried() > once);
}
