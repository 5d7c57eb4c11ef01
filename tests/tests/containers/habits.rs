//! What docker's options and commands do with a container, as with a VM (`machines/habits.rs`).

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use end_to_end::{Finished, until};
use serde_json::json;

use crate::fixture::{Containers, REFERENCE};

#[test]
fn options_about_the_guest_and_its_command_hold_in_a_container() {
    let containers = Containers::new();
    let options =
        [
            &[
                "--hostname",
                "box",
                "--add-host",
                "db:192.0.2.7",
                "--shm-size",
                "3m",
                "--tmpfs",
                "/scratch:size=2m,exec",
            ][..],
            &["--ulimit", "nofile=77:88", "--sysctl", "net.core.somaxconn=99", "--sysctl", "kernel.shmmni=71"],
            &["--cap-drop", "ALL", "--cap-add", "CHOWN", "--group-add", "42", "--device", "/dev/null:/dev/also"],
            &["-v", "/anonymous", "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770", "--read-only"],
        ]
        .concat();
    let script = "hostname; getent hosts db | tr -s ' '
        df -k --output=size /dev/shm /scratch /t | tail -3 | tr -d ' '
        findmnt -no OPTIONS /scratch | grep -c noexec || true
        ulimit -Sn; ulimit -Hn; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni
        grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2; id -G; test -c /dev/also && echo device
        stat -c %a /t; touch /anonymous/x && echo writable; touch /x 2>/dev/null || echo read-only";
    let one = "0000000000000001\n";
    let expected = format!(
        "box\n192.0.2.7 db\n3072\n2048\n1024\n0\n77\n88\n99\n71\n{one}{one}{one}0 42\ndevice\n1770\nwritable\nread-only\n"
    );
    assert_eq!(containers.ok(&options, script), expected);
    let added = containers.ok(&["--cap-add", "NET_ADMIN"], "grep CapEff /proc/self/status | cut -f2");
    assert_eq!(u64::from_str_radix(added.trim(), 16).unwrap() >> 12 & 1, 1, "{added}");

    for (options, cause) in [
        (["--sysctl", "vm.swappiness=1"], "use a VM"),
        (["--device", "/dev/no-such-device"], "this host has no such device"),
        (["--group-add", "4000000"], "the container has no gid 4000000"),
        (["--ulimit", "nofile=9999999"], "at most"),
    ] {
        containers.run(&options, &["true"]).failed(cause);
    }
    containers.session.traces().assert_nothing_left();
}

#[test]
fn a_container_is_committed_with_changes_and_replaced_as_docker_does() {
    let containers = Containers::new();
    let session = &containers.session;
    containers.detach("web", &[], "exec sleep 1000");
    session.run(["container", "export", "web"]).refused_usage("lamina exec web tar");
    let tar = Finished::of(
        session.lamina(["exec", "web", "sh", "-c", "tar -C / --one-file-system -c . | wc -c"]).env("X", "y"),
    );
    assert!(tar.succeeded().stdout.trim().parse::<u64>().unwrap() > 1 << 20);
    let file = session.work("ids").join("id");
    let change = [
        "-c",
        "CMD [\"made\", \"here\"]",
        "--change=ENV MADE=1",
        "-c",
        "LABEL a=b",
        "-c",
        "USER 33",
        "-c",
        "ONBUILD RUN x",
    ];
    let commit = ["commit", "-q", "--pause=false", "-a", "me", "-m", "why", "--iidfile", file.to_str().unwrap()];
    let id = session.ok(commit.iter().chain(&change).chain(&["web", "lamina.test/changed:1"]));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), id.trim());
    let changed = session.json(["inspect", "lamina.test/changed:1"])[0].clone();
    assert_eq!((changed["Id"].as_str(), changed["Author"].as_str()), (Some(id.trim()), Some("me")));
    let config = &changed["Config"];
    assert_eq!((&config["Cmd"], &config["User"]), (&json!(["made", "here"]), &json!("33")), "{config}");
    assert!(config["Env"].to_string().contains("MADE=1") && config["Env"].to_string().contains("PATH="), "{config}");
    assert_eq!((&config["Labels"]["a"], &config["OnBuild"]), (&json!("b"), &json!(["RUN x"])), "{config}");
    assert!(changed["History"].to_string().contains("\"comment\":\"why\""), "{changed}");

    // The next machine of this name takes the place of this one.
    containers.run(&["--replace", "--name", "web"], &["true"]).succeeded();
    assert_eq!(session.ok(["ps", "-aq"]), "");
    containers.run(&["--replace", "--name", "web"], &["true"]).succeeded();
    containers.run(&["--replace"], &["true"]).failed_usage("--name");
    session.traces().assert_nothing_left();
}

fn volume(containers: &Containers, name: &str) -> PathBuf {
    let inspected = containers.session.ok(["volume", "inspect", "--format", "{{.Mountpoint}}", name]);
    PathBuf::from(inspected.trim_end())
}

/// As docker does it: with the owners of the image, so that a service finds the directory that its package made.
#[test]
fn named_volume_is_filled_from_the_image_keeps_owners_and_is_removed_whole() {
    let containers = Containers::new();
    let fill = ["-v", "lists:/var/lib/apt/lists"];
    let seen = containers.ok(&fill, "stat -c '%U %a' /var/lib/apt/lists/partial; echo 1 > /var/lib/apt/lists/mine");
    assert_eq!(seen, "_apt 700\n");
    let script = "cat /var/lib/apt/lists/mine; su -s /bin/sh _apt -c 'touch /var/lib/apt/lists/partial/x' && echo kept";
    assert_eq!(containers.ok(&fill, script), "1\nkept\n");
    // A volume that something is in stays as it is, and a read-only one takes no writes.
    let seen = containers.ok(&["-v", "lists:/etc/apt:ro"], "ls /etc/apt; ! touch /etc/apt/x 2>/dev/null");
    assert!(seen.contains("mine") && !seen.contains("sources.list\n"), "{seen}");
    let directory = volume(&containers, "lists");
    assert_ne!(directory.join("partial").metadata().unwrap().uid(), directory.metadata().unwrap().uid());
    // Its user cannot remove what belongs to other users of the container without their namespace.
    containers.session.ok(["volume", "rm", "lists"]);
    assert!(!directory.exists());
    containers.session.traces().assert_nothing_left();
}

#[test]
fn volume_in_use_is_not_removed_and_nocopy_leaves_it_empty() {
    let containers = Containers::new();
    containers.detach("web", &["-v", "data:/etc/apt:nocopy"], "ls /etc/apt | wc -l; exec sleep 1000");
    until("the command runs", || containers.session.ok(["logs", "web"]) == "0\n");
    containers.session.run(["volume", "rm", "data"]).refused("lamina rm web");
    assert_eq!(containers.session.ok(["volume", "ls", "--quiet", "--filter", "dangling=false"]), "data\n");
    assert_eq!(containers.session.ok(["volume", "prune", "--force"]), "");
    assert_eq!(containers.session.ok(["ps", "--quiet", "--filter", "volume=data"]), "web\n");
    containers.session.ok(["rm", "--force", "web"]);
    containers.session.ok(["volume", "rm", "data"]);
    containers.session.traces().assert_nothing_left();
}

#[test]
fn container_with_an_open_input_is_attached_listed_and_asked() {
    let containers = Containers::new();
    let session = &containers.session;
    let run = ["run", "--engine", "container", "--network", "none", "-dit", "--name", "box", REFERENCE, "sh"];
    session.ok(run);
    session.ok(["exec", "-d", "box", "sh", "-c", "echo spawned > /tmp/spawned; echo much"]);
    until("the command runs", || session.run(["exec", "box", "cat", "/tmp/spawned"]).stdout == "spawned\n");
    let top = session.ok(["top", "box"]);
    assert!(top.lines().any(|line| line.ends_with(" sh")), "{top}");
    let stats = session.ok(["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]);
    let processes = stats.trim_end().strip_prefix("box ").and_then(|count| count.parse::<u32>().ok());
    assert!(processes.is_some_and(|count| count > 1), "{stats}");
    let piped = |words: &[&str], input: &str| {
        let mut command = session.lamina(words);
        command.stdin(Stdio::piped());
        let mut started = session.start(command);
        started.child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        started.finish()
    };
    assert_eq!(piped(&["shell", "box"], "cat /tmp/spawned\n").succeeded().stdout, "spawned\n");
    let attached = piped(&["attach", "box"], "echo $((20 + 22)); exit 5\n");
    assert_eq!(attached.status.code(), Some(5), "{attached}");
    assert!(attached.stdout.contains("42"), "{attached}");
    session.run(["shell", "box"]).failed("it does not run");
    session.ok(["rm", "box"]);
    let shell = ["shell", "--engine", "container", "--network", "none", "-e", "A=7", REFERENCE];
    assert_eq!(piped(&shell, "echo $A $0; exit 3\n").stdout, "7 bash\n");
    session.traces().assert_nothing_left();
}

#[test]
fn ports_of_a_machine_in_the_foreground_are_shown() {
    let containers = Containers::new();
    let mut command =
        containers.command(&["--name", "web", "-p", "127.0.0.1::80"], &["sh", "-c", "echo up; exec sleep 1000"]);
    command.stdout(Stdio::piped());
    let started = containers.session.start(command);
    until("the command runs", || containers.session.run(["top", "web"]).stdout.contains("sleep 1000"));
    let shown = containers.session.ok(["port", "web"]);
    assert!(shown.starts_with("80/tcp -> 127.0.0.1:"), "{shown}");
    let format = ["ps", "--format", "{{.Ports}}", "--filter", "publish=80"];
    assert_eq!(containers.session.ok(format).trim_end(), shown.trim_end().replace("80/tcp -> ", "") + "->80/tcp");
    containers.session.ok(["stop", "--all", "--time", "0"]);
    let ended = started.finish();
    assert!(!ended.stdout.is_empty(), "{ended}");
    containers.session.traces().assert_nothing_left();
}

fn copy(containers: &Containers, words: &[&str]) -> Finished {
    containers.session.run(["cp"].iter().chain(words))
}

#[test]
fn copies_follow_links_keep_owners_and_take_what_is_in_a_directory() {
    let containers = Containers::new();
    containers.detach("web", &[], "mkdir /srv/d; echo 1 > /srv/d/f; ln -s d/f /srv/link; echo done; exec sleep 1000");
    until("the command has made its files", || containers.session.ok(["logs", "web"]) == "done\n");
    let work = containers.session.work("copies");
    let path = |name: &str| work.join(name).to_str().unwrap().to_owned();
    copy(&containers, &["web:/srv/link", &path("link")]).succeeded();
    assert!(Path::new(&path("link")).is_symlink());
    copy(&containers, &["-L", "web:/srv/link", &path("followed")]).succeeded();
    assert_eq!(std::fs::read(path("followed")).unwrap(), b"1\n");
    assert!(!Path::new(&path("followed")).is_symlink());
    // Twice: the second copy does not go into the first one.
    for _ in 0..2 {
        copy(&containers, &["web:srv/d/.", &path("content")]).succeeded();
    }
    let names: Vec<_> = std::fs::read_dir(path("content")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["f"]);
    copy(&containers, &[&format!("{}/.", path("content")), "web:/opt"]).succeeded();
    copy(&containers, &["--archive", &path("content"), "web:/opt/owned"]).succeeded();
    let stat = ["exec", "web", "stat", "-c", "%n %u", "/opt/f", "/opt/owned/f", "/opt/owned"];
    let owner = work.metadata().unwrap().uid();
    assert_eq!(containers.session.ok(stat), format!("/opt/f 0\n/opt/owned/f {owner}\n/opt/owned {owner}\n"));
    containers.session.ok(["rm", "--force", "web"]);
    containers.session.traces().assert_nothing_left();
}
