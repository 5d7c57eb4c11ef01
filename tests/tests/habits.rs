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
        &["--network", "none", "--network=bridge", "--cpus", "2", "--cpus=1", "-i", "-i", "IMAGE"],
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
        &["-h", "box.example.test", "IMAGE"],
        &["--hostname=box", "--add-host", "db:10.0.2.2", "--add-host=h:host-gateway", "IMAGE"],
        &["--dns", "192.0.2.1", "--dns-search=corp.test", "--dns-opt", "ndots:2", "IMAGE"],
        &["--shm-size", "64m", "--ulimit", "nofile=1024:2048", "--sysctl", "net.core.somaxconn=99", "IMAGE"],
        &["--cap-drop", "ALL", "--cap-add=NET_BIND_SERVICE", "--cap-drop", "cap_net_raw", "IMAGE"],
        &["--group-add", "web", "--device", "/dev/null", "--init", "IMAGE"],
        &["-l", "a=b", "--label", "c", "--annotation", "d=e", "IMAGE"],
        &["--stop-timeout", "3", "--no-healthcheck", "--expose", "80", "IMAGE"],
        &["--tmpfs", "/run:size=64m,exec", "--tmpfs=/tmp", "IMAGE"],
        &["--mount", "type=tmpfs,dst=/t,tmpfs-size=1m", "IMAGE"],
        &["-v", "named:/data", "IMAGE"],
        &["-v", "/data", "IMAGE"],
        &["--mount", "type=volume,src=named,dst=/data", "IMAGE"],
        &["--network", "bridge", "IMAGE"],
        &["--net=none", "IMAGE"],
        &["-p", "80", "IMAGE"],
        &["-p", "127.0.0.1::80", "-p", "82/udp", "IMAGE"],
        &["-p", "[::1]:61083:80", "-p", "localhost:61084:80", "-p", "[::1]::81/udp", "IMAGE"],
        &["-p", "61080-61081:80-81/tcp", "-P", "IMAGE"],
        &["--rm=false", "--tty=false", "--init=true", "IMAGE"],
        &["--pull", "never", "--rm=false", "IMAGE"],
        &["--restart=no", "--pid=private", "--ipc", "private", "--uts=private", "--cgroupns=private", "IMAGE"],
        &["--security-opt", "seccomp=unconfined", "--security-opt=label=disable", "IMAGE"],
        &["--security-opt", "no-new-privileges", "--security-opt=apparmor:unconfined", "IMAGE"],
        &["--privileged=false", "--http-proxy=false", "--replace=false", "--sig-proxy=true", "IMAGE"],
        &["--pids-limit", "-1", "--pids-limit=0", "IMAGE"],
        &["-e", "A=", "-e", "NOT_SET_HERE", "-e=B=c", "-w=/x", "-u=0:0", "-h=box", "-l=a=b", "-p=61082:80", "IMAGE"],
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
fn a_name_that_is_also_a_directory_here_is_refused_with_both_spellings() {
    let session = session();
    let work = session.work("");
    std::fs::create_dir(work.join("data")).unwrap();
    let refused = dry_run(&session, &["-v", "data:/x", "IMAGE"]);
    refused.failed("-v ./data:/x");
    assert!(refused.stderr.contains("--mount src=data,dst=/x"), "{refused}");
    dry_run(&session, &["--mount", "src=data,dst=/x", "IMAGE"]).succeeded();
    dry_run(&session, &["-v", "./data:/x", "IMAGE"]).succeeded();
    let refused = dry_run(&session, &["--network", "host", "IMAGE"]);
    refused.failed("10.0.2.2");
    assert!(refused.stderr.contains("--engine container"), "{refused}");
    dry_run(&session, &["--dns", "2001:db8::1", "IMAGE"]).failed("--engine container --network host");
    for other in ["container:web", "my-net", "ns:/run/netns/x"] {
        dry_run(&session, &["--network", other, "IMAGE"]).failed_usage("joins no other network");
    }
}

#[test]
fn volumes_are_created_listed_and_removed() {
    let session = session();
    assert_eq!(session.ok(["volume", "create", "--label", "a=b", "one"]), "one\n");
    session.ok(["volume", "create", "two"]);
    assert_eq!(session.ok(["volume", "ls", "-q"]), "one\ntwo\n");
    let inspected = session.json(["volume", "inspect", "one"]);
    let mountpoint = Path::new(inspected[0]["Mountpoint"].as_str().unwrap());
    assert!(mountpoint.is_dir() && inspected[0]["Labels"]["a"] == "b", "{inspected}");
    session.ok(["create", "--accel", "tcg", "--name", "user", "-v", "one:/data", IMAGE]);
    session.run(["volume", "rm", "one"]).refused("lamina rm user");
    assert_eq!(session.ok(["volume", "prune", "-f"]), "two\n");
    session.ok(["rm", "user"]);
    assert_eq!(session.ok(["volume", "rm", "one"]), "one\n");
    assert!(!mountpoint.exists());
    session.ok(["volume", "rm", "--force", "one"]);
    session.run(["volume", "inspect", "one"]).refused("no such volume");
}

#[test]
fn a_created_machine_is_listed_inspected_renamed_and_removed() {
    let session = session();
    let file = session.work("files").join("id");
    let id = file.to_str().unwrap();
    let create = ["create", "--accel", "tcg", "--name", "box", "-l", "team=a", "--hostname", "h", "--cidfile", id];
    let created =
        session.ok(create.into_iter().chain(["-p", "61999:80", "-v", "/data", "-m", "1.5g", IMAGE, "ls", "-l"]));
    assert_eq!(created, "box\n");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "box");
    let format = |words: &[&str]| session.ok(words).trim_end().to_owned();
    assert_eq!(format(&["ps", "-q"]), "");
    assert_eq!(format(&["ps", "-aq", "--filter", "label=team=a"]), "box");
    assert_eq!(format(&["ps", "-aq", "--filter", "label=team=b"]), "");
    assert_eq!(
        format(&["ps", "-l", "--format", "{{.Names}} {{.State}} {{.Ports}}"]),
        "box created 127.0.0.1:61999->80/tcp"
    );
    assert_eq!(format(&["container", "ls", "-a", "--format", "table {{.Names}}\t{{.Image}}"]).lines().count(), 2);
    let template =
        "{{.State.Running}} {{.State.Status}} {{.Config.Hostname}} {{.HostConfig.Memory}} {{json .Config.Cmd}}";
    assert_eq!(format(&["inspect", "-f", template, "box"]), "false created h 1610612736 [\"/entry\",\"ls\",\"-l\"]");
    assert_eq!(format(&["container", "inspect", "--format", "{{index .Config.Labels \"team\"}}", "box"]), "a");
    assert_eq!(format(&["port", "box"]), "80/tcp -> 127.0.0.1:61999");
    assert_eq!(format(&["port", "box", "80"]), "127.0.0.1:61999");
    assert_eq!(session.run(["port", "box", "81"]).status.code(), Some(1));
    session.ok(["rename", "box", "other"]);
    assert_eq!(format(&["ps", "-aq"]), "other");
    session.ok(["rmi", IMAGE]);
    assert!(!session.ok(["gc"]).contains("removed layer"), "the renamed machine keeps its layers");
    session.run(["container", "prune"]).refused_usage("--force");
    session.ok(["system", "prune", "--force"]);
    assert_eq!(format(&["ps", "-aq"]), "");
    session.traces().assert_nothing_left();
}

#[test]
fn images_are_tagged_listed_and_saved_as_docker_does() {
    let session = session();
    let other = "registry.test:5000/team/app:2";
    session.ok(["tag", IMAGE, other]);
    session.run(["tag", IMAGE, &format!("app@sha256:{}", "0".repeat(64))]).refused_usage("digest");
    let format = |words: &[&str]| session.ok(words).trim_end().to_owned();
    let id = format(&["images", "--format", "{{.ID}}", other]);
    assert_eq!(id.len(), 12);
    assert_eq!(
        format(&["images", "--format", "{{.Repository}}|{{.Tag}}|{{.ID}}", "registry.test:5000/team/app"]),
        format!("registry.test:5000/team/app|2|{id}")
    );
    assert_eq!(format(&["images", "-q", "--filter", "reference=*habits*"]), IMAGE);
    assert_eq!(format(&["images", "-q", "--filter", "dangling=true"]), "");
    assert!(format(&["image", "inspect", "--format", "{{index .RepoDigests 0}}", &id]).contains("@sha256:"));
    assert_eq!(format(&["inspect", "--format", "{{join .Config.Entrypoint \" \"}} {{.Os}}", IMAGE]), "/entry linux");
    assert!(format(&["history", "-q", IMAGE]).len() >= 12);
    session.run(["images", "--format", "{{.Nothing}}"]).refused_usage(".Repository");
    session.run(["images", "--filter", "size=1"]).refused_usage("reference");
    let archive = session.work("archives").join("both.tar");
    let archive = archive.to_str().unwrap();
    session.ok(["save", "-o", archive, IMAGE, other]);
    session.ok(["rmi", IMAGE, other]);
    session.ok(["load", "-q", "-i", archive]);
    let mut names: Vec<String> = session.ok(["images", "-q"]).lines().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, [IMAGE, other]);
    session.ok(["image", "rm", IMAGE]);
    session.ok(["rmi", "-f", IMAGE]);
    assert!(session.ok(["version", "--format", "{{.Client.Version}}"]).starts_with("0."));
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
        ("--privileged", "--cap-add ALL"),
        ("--volumes-from", "-v NAME:/path"),
        ("--ip", "-p"),
        ("--cpu-shares", "--cpus"),
        ("--memory-swap", "--memory"),
        ("--pid=host", "leave it out"),
        ("--userns=keep-id", "uid=N"),
        ("--runtime", "--engine"),
        ("--security-opt", "--cap-drop"),
        ("--tz", "-e TZ="),
        ("--security-opt=seccomp=/profile.json", "--cap-drop"),
        ("--restart=unless-stopped", "systemd-run"),
        ("--pid=container:web", "leave it out"),
        ("--cgroupns=host", "leave it out"),
        ("--sig-proxy=false", "leave it out"),
        ("--net-alias", "-p"),
        ("--hooks-dir", "by a command of its own"),
        ("--oom-kill-disable", "--memory"),
        ("--requires", "a unit of systemd"),
        ("--preserve-fds", "-i < FILE"),
        ("--group-entry", "--user UID:GID"),
        ("--http-proxy", "-e http_proxy"),
        ("--uidmap", "uid=N"),
        ("--device-cgroup-rule", "leave it out"),
        ("--cgroup-parent", "leave it out"),
        ("--memory-swappiness", "--memory"),
        ("--kernel-memory", "--memory"),
        ("--log-opt", "--log-max-size"),
        ("--pod", "-p"),
        ("--arch", "--platform"),
        ("--init-path", "a unit of systemd"),
        ("--conmon-pidfile", "--cidfile"),
        ("--read-only-tmpfs", "--tmpfs"),
        ("--ipc=host", "leave it out"),
        ("--uts", "leave it out"),
        ("--oom-score-adj", "--memory"),
        ("--blkio-weight", "IOWeight"),
        ("--cpuset-cpus", "CPUQuota"),
        ("-c", "--cpus"),
        ("--mac-address", "-p"),
        ("--domainname", "--hostname NAME.DOMAIN"),
        ("--storage-opt", "--keep=SIZE"),
        ("--detach-keys", "lamina logs"),
        ("--attach", "-i"),
        ("--env-host", "-e NAME"),
        ("--unsetenv", "env -u"),
        ("--umask", "umask 077"),
        ("--no-hosts", "--add-host"),
        ("--passwd", "--user UID:GID"),
        ("--image-volume", "-v NAME:/path"),
        ("--pidfile", "--cidfile"),
        ("--sdnotify", "--ready"),
        ("--timeout", "timeout SECONDS"),
        ("--rmi", "lamina rmi"),
        ("--latest", "lamina ps --latest"),
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
        ("untag", "lamina rmi"),
        ("auto-update", "pull the image"),
        ("secret", "lamina run --secret"),
        ("context", "ssh HOST"),
        ("generate", "systemd"),
        ("healthcheck", "lamina exec"),
        ("manifest", "lamina --help"),
        ("kube", "systemd"),
        ("play", "systemd"),
        ("buildx", "buildah build"),
        ("builder", "buildah build"),
        ("plugin", "lamina --help"),
        ("machine", "ssh HOST"),
        ("unshare", "lamina mount"),
        ("checkpoint", "lamina --help"),
        ("clone", "lamina container"),
    ];
    for (words, alternative) in [
        (&["-H", "tcp://x", "ps"][..], "ssh HOST"),
        (&["--log-level", "debug", "ps"], "--verbose"),
        (&["ps", "--sort", "created"], "| sort"),
        (&["volume", "export", "x"], "tar -C"),
        (&["volume", "create", "--opt", "type=nfs", "x"], "-v DIR:/path"),
        (&["system", "prune", "--filter", "until=24h"], "lamina ps"),
        (&["rmi", "--all"], "lamina image prune --all --force"),
        (&["commit", "--change", "RUN make", "x", "y"], "ONBUILD"),
        (&["pull", "--arch", "arm64", "x"], "--platform"),
        (&["push", "--all-tags", "x"], "name each tag"),
        (&["pull", "--disable-content-trust", "x"], "leave it out"),
        (&["save", "-m", "x"], "several images anyway"),
        (&["diff", "--format", "json", "x"], "--json"),
        (&["commit", "--include-volumes", "x", "y"], "leave it out"),
        (&["volume", "create", "--name", "x"], "lamina volume create NAME"),
        (&["--runtime", "runc", "ps"], "leave it out"),
        (&["push", "--sign-by", "me", "x"], "skopeo copy"),
        (&["rm", "--ignore", "x"], "--force"),
        (&["stop", "--cidfile", "f"], "lamina ps --quiet --filter"),
        (&["restart", "--running"], "lamina ps --quiet"),
        (&["image", "diff", "x"], "lamina diff"),
        (&["image", "scp", "x"], "lamina load"),
        (&["image", "build", "."], "buildah build"),
        (&["container", "clone", "x"], "lamina commit"),
        (&["container", "pause", "x"], "--signal STOP"),
        (&["container", "update", "x"], "lamina run"),
        (&["volume", "reload"], "lamina volume ls"),
        (&["system", "service"], "no daemon"),
        (&["system", "events"], "lamina wait"),
        (&["--config", "/x", "ps"], "leave it out"),
        (&["ps", "--sort=names"], "| sort"),
        (&["start", "--all"], "--filter status=exited"),
        (&["volume", "prune"], "--force"),
        (&["container", "prune"], "--force"),
    ] {
        session.run(words).refused_usage(alternative);
    }
    session.run(["exec", "--preserve-fds", "1", "x", "y"]).failed("-i < FILE");
    for (command, alternative) in commands {
        let finished = session.run([command, "x"]);
        finished.refused_usage(alternative);
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    }
}

#[test]
fn inspect_prints_the_array_that_scripts_read() {
    let session = session();
    session.ok(["create", "--accel", "tcg", "--name", "box", "-e", "SECRET=hush", IMAGE]);
    session.ok(["create", "--accel", "tcg", "--name", "other", "--network", "none", IMAGE]);
    let both = session.json(["inspect", "box", "other"]);
    let names: Vec<&str> = both.as_array().unwrap().iter().map(|machine| machine["Name"].as_str().unwrap()).collect();
    assert_eq!(names, ["box", "other"]);
    assert_eq!((&both[0]["State"]["Status"], &both[0]["State"]["OOMKilled"]), (&json!("created"), &json!(false)));
    assert_eq!((&both[0]["Path"], &both[0]["Args"]), (&json!("/entry"), &json!(["serve"])));
    assert_eq!(both[0]["HostConfig"]["NetworkMode"], "bridge");
    assert_eq!(both[1]["HostConfig"]["NetworkMode"], "none");
    for (options, bytes) in [
        (&["--memory", "256m"][..], 128 << 20),
        (&["--memory", "256m", "--shm-size", "3m"], 3 << 20),
        (&["--engine", "container", "--memory", "256m"], 65_536_000),
    ] {
        session.ok([&["create", "--name", "sized"], options, &[IMAGE]].concat());
        assert_eq!(session.json(["inspect", "sized"])[0]["HostConfig"]["ShmSize"], json!(bytes), "{options:?}");
        session.ok(["rm", "sized"]);
    }
    assert!(!both.to_string().contains("hush"), "the values of a machine's environment are not shown");
    let image = session.json(["image", "inspect", IMAGE]);
    assert_eq!((&image[0]["RepoTags"], &image[0]["Os"]), (&json!([IMAGE]), &json!("linux")));
    assert_eq!(image[0]["Config"]["Entrypoint"], json!(["/entry"]));
    assert_eq!(session.json(["inspect", "--format", "json", IMAGE]), image);

    // What is found is printed although another name is unknown.
    let partly = session.run(["inspect", "box", "missing"]);
    assert_eq!(partly.status.code(), Some(1), "{partly}");
    let shown: serde_json::Value = serde_json::from_str(&partly.stdout).unwrap();
    assert_eq!(shown[0]["Name"], "box");
    assert!(partly.stderr.contains("missing"), "{partly}");
    session.run(["inspect", "missing"]).refused("missing");
    let text = session.ok(["inspect", "--text", "box"]);
    assert!(text.starts_with("machine     box\n") && text.contains("env         SECRET\n"), "{text}");
    session.run(["inspect", "--text", "--format", "json", "box"]).refused_usage("--format");
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
        (&["pull", "--all-platform", IMAGE], Some("--all-platforms")),
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
