//! The habits of users of docker and podman: each is accepted and does what it does there, or is refused with one line
//! that names the alternative.

use std::path::Path;

use end_to_end::layout::Layer;
use end_to_end::{Finished, Layout, Session};
use serde_json::json;

const IMAGE: &str = "lamina.test/habits:1";

/// A session with a small image that has an entrypoint and a command.
fn session() -> Session {
    let session = Session::user();
    let layer = Layer::of_files(&[("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n")]);
    let config = json!({ "Entrypoint": ["/entry"], "Cmd": ["serve"], "Env": ["PATH=/bin"] });
    session.import(Layout::of_config(&[layer], &config).path(), IMAGE);
    session
}

/// Runs `lamina run --dry-run` with further words, where `IMAGE` stands for the image.
fn dry_run(session: &Session, words: &[&str]) -> Finished {
    let fixed = ["run", "--accel", "tcg", "--dry-run"];
    let words = words.iter().map(|&word| if word == "IMAGE" { IMAGE } else { word });
    session.run(fixed.into_iter().chain(words))
}

#[test]
fn options_of_run_are_taken_as_people_write_them() {
    let session = session();
    let work = session.work("shared");
    std::fs::write(work.join("env"), "A=1\n").unwrap();
    let shared = |rest: &str| format!("{}:{rest}", work.display());
    let (z, cached, many) = (shared("/a:z"), shared("/a:cached"), shared("/a:ro,Z,rshared,uid=5"));
    let secret = format!("id=token,src={}", work.join("env").display());
    let rows: &[&[&str]] = &[
        &["IMAGE"],
        &["IMAGE", "ls", "-l"],
        &["IMAGE", "--", "ls", "-l"],
        &["IMAGE", "--help"],
        &["IMAGE", "-v", "--cpus"],
        &["-i", "IMAGE"],
        &["-t", "IMAGE"],
        &["-it", "IMAGE", "sh"],
        &["-dit", "IMAGE"],
        &["-d", "-i", "-t", "IMAGE"],
        &["--rm", "IMAGE"],
        &["-it", "--rm", "IMAGE", "sh"],
        &["-d", "--rm", "IMAGE"],
        &["--pull", "never", "IMAGE"],
        &["--pull=missing", "-q", "IMAGE"],
        &["--platform", "linux/amd64", "IMAGE"],
        &["-m", "1.5g", "IMAGE"],
        &["-m", "512mb", "IMAGE"],
        &["--memory=1GiB", "IMAGE"],
        &["--memory", "536870912", "IMAGE"],
        &["--cpus", "2", "IMAGE"],
        &["--cpus=1.5", "IMAGE"],
        &["-v", &z, "IMAGE"],
        &["-v", &cached, "IMAGE"],
        &["-v", &many, "IMAGE"],
        &["--secret", &secret, "IMAGE"],
        &["--entrypoint", "", "IMAGE", "sh"],
        &["--entrypoint=", "IMAGE", "sh"],
        &["-e", "A=1", "-e", "HOME", "--user", "web", "--workdir", "/srv", "IMAGE"],
        &["-u", "1000:1000", "-w", "/srv", "IMAGE"],
        &["--name", "web", "--stop-signal", "SIGINT", "IMAGE"],
        &["--network", "none", "IMAGE"],
        &["--read-only", "IMAGE"],
    ];
    for row in rows {
        let finished = dry_run(&session, row);
        assert!(finished.status.success(), "{row:?}: {finished}");
    }
    let rounded = dry_run(&session, &["--cpus", "1.5", "IMAGE"]).succeeded();
    assert!(rounded.stderr.contains("this one gets 2") && rounded.stdout.contains("-smp"), "{rounded}");
    session.traces().assert_nothing_left();
}

#[test]
fn what_is_not_there_is_refused_with_one_line_that_names_the_alternative() {
    let session = session();
    let of_run = [
        ("--restart=always", "systemd-run"),
        ("--restart", "systemd-run"),
        ("--health-cmd", "--ready port:N"),
        ("--health-interval=5s", "lamina exec"),
        ("--log-driver=none", "lamina logs"),
        ("--link", "host.docker.internal"),
        ("--gpus", "on the host"),
        ("--privileged", "already root"),
        ("--volumes-from", "-v NAME:/path"),
        ("--ip", "-p"),
        ("--cpu-shares", "--cpus"),
        ("--memory-swap", "--memory"),
        ("--pids-limit", "--ulimit nproc"),
        ("--pid=host", "leave it out"),
        ("--userns=keep-id", "uid=N"),
        ("--runtime", "--engine"),
        ("--security-opt", "--cap-drop"),
        ("--replace", "lamina rm --force"),
        ("--tz", "-e TZ="),
    ];
    for (option, alternative) in of_run {
        session.run(["run", option, "x", IMAGE]).failed(alternative);
    }
    let commands = [
        ("build", "buildah build"),
        ("compose", "lamina run --detach"),
        ("network", "-p"),
        ("search", "skopeo list-tags"),
        ("swarm", "ssh HOST"),
        ("pause", "--signal STOP"),
        ("unpause", "--signal CONT"),
        ("events", "lamina wait"),
        ("update", "lamina run"),
        ("info", "lamina doctor"),
        ("pod", "lamina run --detach"),
    ];
    for (command, alternative) in commands {
        let finished = session.run([command, "x"]);
        finished.refused_usage(alternative);
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    }
}

#[test]
fn a_tip_for_an_unknown_word_is_right_or_absent() {
    let session = session();
    for (words, tip) in [
        (&["run", "--memroy", "1G", IMAGE][..], Some("--memory")),
        (&["run", "--volum", "/a:/b", IMAGE], Some("--volume")),
        (&["imagse"], Some("images")),
        (&["rum", IMAGE], Some("run")),
        (&["run", "--frobnicate", IMAGE], None),
        (&["frobnicate"], None),
        (&["login"], None),
        (&["pull", "--all-platform", IMAGE], None),
    ] {
        let finished = session.run(words);
        assert!(!finished.status.success(), "{finished}");
        match tip {
            Some(tip) => assert!(finished.stderr.contains(&format!("'{tip}'")), "{tip}: {finished}"),
            None => assert!(!finished.stderr.contains("tip:"), "{finished}"),
        }
    }
}

#[test]
fn wrong_usage_of_run_and_exec_ends_with_125_and_of_others_with_2() {
    let session = session();
    for words in [
        &["run"][..],
        &["run", "--frobnicate", IMAGE],
        &["run", "-m", "512", IMAGE],
        &["run", "--cpus", "0", IMAGE],
        &["run", "--entrypoint", "", IMAGE],
        &["run", "--entrypoint", "", IMAGE, "--cpus", "2"],
        &["--json", "run", "-v", "nothing", IMAGE],
        &["run", "Upper/CASE"],
        &["exec"],
        &["exec", "web"],
        &["exec", "--frobnicate", "web", "ls"],
    ] {
        let finished = session.run(words);
        assert_eq!(finished.status.code(), Some(125), "{finished}");
    }
    for words in [&["pull"][..], &["images", "--frobnicate"], &["frobnicate"], &[]] {
        assert_eq!(session.run(words).status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn a_missing_image_is_pulled_or_named_with_what_to_do() {
    let session = Session::user();
    let nowhere = "registry.invalid/app:1";
    session.run(["run", nowhere]).failed("no image \"registry.invalid/app:1\" in the store, and it cannot be pulled");
    session.run(["run", "--pull=never", nowhere]).failed("lamina pull");
    session.run(["run", "--pull", "always", nowhere]).failed(nowhere);
    let _: &Path = &session.store();
}

#[test]
fn an_image_is_found_by_name_tag_digest_and_the_digits_of_its_id() {
    let session = session();
    let inspected = session.json(["inspect", "--json", IMAGE]);
    let manifest = inspected["manifest"].as_str().unwrap();
    let hex = manifest.strip_prefix("sha256:").unwrap();
    for name in [IMAGE, "lamina.test/habits:1", manifest, hex, &hex[..12], &manifest[..19], &hex[..4]] {
        assert_eq!(session.json(["inspect", "--json", name])["reference"], IMAGE, "{name}");
    }
    dry_run(&session, &[&hex[..12]]).succeeded();
    session.run(["rmi", &hex[..12]]).succeeded();
    session.run(["inspect", "--type", "image", &hex[..12]]).refused(&hex[..12]);
}
