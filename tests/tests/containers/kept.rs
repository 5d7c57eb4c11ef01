//! Containers that keep what they write, in each format.

use end_to_end::Finished;

use crate::fixture::Containers;

const CHANGES: &str = "
    test -e /srv/added && { cat /srv/added; exit 3; }
    echo first > /srv/added && chown 33:33 /srv/added && chmod 4750 /srv/added
    rm /etc/debian_version && rm -r /etc/default && mkdir /etc/default && echo only > /etc/default/only
    echo more >> /etc/issue
";

fn keeps(format: &str) {
    let containers = Containers::new();
    let session = &containers.session;
    containers.ok(&["--keep", "--machine", format, "--name", "m"], CHANGES);
    assert_eq!(containers.session.seen("m")["status"], 0);
    session.ok(["start", "m"]);
    assert_eq!(session.ok(["wait", "m"]), "3\n");
    assert_eq!(session.ok(["logs", "m"]), "first\n");

    let copied = session.work("copied").join("added");
    session.ok(["cp", "m:/srv/added", copied.to_str().unwrap()]);
    assert_eq!(session.read(&copied), b"first\n");
    let listed = session.ok(["diff", "m"]);
    let lines: Vec<&str> = listed.lines().collect();
    for line in ["A /srv/added", "D /etc/debian_version", "C /etc/default", "A /etc/default/only", "C /etc/issue"] {
        assert!(lines.contains(&line), "{line} is not in {listed}");
    }
    assert!(!listed.contains(".wh.") && !listed.contains("/etc/hosts"), "{listed}");
    assert_eq!(containers.session.seen("m")["status"], 3, "a look does not change how it ended");

    session.ok(["commit", "m", "lamina.test/committed:1"]);
    let look = "stat -c '%u:%g %a' /srv/added; ls /etc/default; ls /etc/debian_version 2>/dev/null || echo gone";
    let run = ["run", "--engine", "container", "--network", "none", "lamina.test/committed:1", "--", "/bin/sh", "-c"];
    assert_eq!(session.ok(run.into_iter().chain([look])), "33:33 4750\nonly\ngone\n");
    session.ok(["rm", "m"]);
    assert!(!containers.session.machine_directory("m").exists());
    session.traces().assert_nothing_left();
}

#[test]
fn kernel_overlay_keeps_what_a_container_wrote() {
    keeps("overlay");
}

#[test]
fn fuse_overlayfs_keeps_what_a_container_wrote() {
    keeps("fuse-overlayfs");
}

#[test]
fn kept_container_of_another_user_gives_its_files_the_same_owners_later() {
    let containers = Containers::new();
    let site = containers.session.work("site");
    let share = format!("{}:/site", site.display());
    let script = "id -u; touch /site/mine /tmp/own; stat -c %u /site/mine /tmp/own";
    let run = ["--keep", "--name", "m", "-v", &share, "-u", "33:33"];
    let first = containers.run(&run, &["/bin/sh", "-c", script]).succeeded().stdout;
    assert_eq!(first, "33\n33\n33\n");
    // Without the share, the user's own id would have another place.
    let listed = containers.session.ok(["diff", "m"]);
    assert!(listed.contains("A /tmp/own"), "{listed}");
    containers.session.ok(["commit", "m", "lamina.test/committed:1"]);
    let look =
        ["run", "--engine", "container", "--network", "none", "lamina.test/committed:1", "--", "stat", "-c", "%u"];
    assert_eq!(containers.session.ok(look.into_iter().chain(["/tmp/own"])), "33\n");
    containers.session.ok(["rm", "m"]);
    containers.session.traces().assert_nothing_left();
}

#[test]
fn root_without_an_overlay_is_read_only_and_has_places_for_temporary_files() {
    let containers = Containers::new();
    let script = "touch /srv/x 2>/dev/null || echo refused; touch /tmp/x && echo written";
    assert_eq!(containers.ok(&["--machine", "read-only"], script), "refused\nwritten\n");
    let refused = containers.run(&["--machine", "read-only", "--keep"], &["true"]);
    assert!(refused.stderr.contains("--keep: no overlay works"), "{refused}");
    containers.session.traces().assert_nothing_left();
}

#[test]
fn directory_of_the_host_is_a_root_too() {
    let containers = Containers::new();
    let tree = containers.session.work("tree");
    let copy = format!(
        "cp -a /bin/busybox {0} 2>/dev/null || true; mkdir -p {0}/etc; echo mine > {0}/etc/note",
        tree.display()
    );
    Finished::of(containers.session.command("sh".as_ref()).args(["-c", &copy])).succeeded();
    let run =
        ["run", "--engine", "container", "--network", "none", "--rootfs", tree.to_str().unwrap(), "--", "/nowhere"];
    assert_eq!(containers.session.run(run).status.code(), Some(127));
    containers.session.traces().assert_nothing_left();
}
