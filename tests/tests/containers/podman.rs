//! The same words for podman and for `lamina --engine container`: each habit does what it does there.
//!
//! What differs by intent is not in the tables: a file system in memory is `noexec`, as in docker; no entry is added to
//! `/etc/passwd` for a number; and states are lower case, as in docker.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use end_to_end::{Finished, Image, Session};
use serde_json::Value;

use crate::fixture::{Containers, REFERENCE};

/// Debian's rootless podman, with a store of its own.
struct Podman<'a> {
    session: &'a Session,
}

impl<'a> Podman<'a> {
    /// Gives podman the image, under the name that it has in the store of `session`.
    fn new(session: &'a Session) -> Self {
        let podman = Self { session };
        let pulled = podman.run(&["pull", "-q", &format!("oci:{}", Image::Debian.layout().display())]).succeeded();
        podman.run(&["tag", pulled.stdout.trim(), REFERENCE]).succeeded();
        podman.run(&["untag", REFERENCE, &format!("localhost{}:latest", Image::Debian.layout().display())]).succeeded();
        podman
    }

    /// The limits are this user's, because podman's own are higher than an ordinary user may set.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.session.command(Path::new("/usr/bin/podman"));
        let (root, runroot) = (self.session.work("podman/root"), self.session.work("podman/run"));
        command.env("XDG_RUNTIME_DIR", &runroot).arg("--root").arg(root).arg("--runroot").arg(runroot);
        command.args(["--log-level", "error", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
        // Its other driver copies the image for each container.
        command.args(["--storage-driver", "overlay", "--storage-opt", "overlay.mount_program=/usr/bin/fuse-overlayfs"]);
        command.args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Finished {
        Finished::of(&mut self.command(words))
    }
}

impl Drop for Podman<'_> {
    /// Ends the process that keeps podman's user namespace.
    fn drop(&mut self) {
        let _ = self.command(&["system", "migrate"]).output();
    }
}

fn with_input(mut command: Command, input: &str) -> Finished {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command may end without reading it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Finished {
        command: format!("{command:?}"),
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Options and the command that follows the image.
type Row<'a> = (&'a [&'a str], &'a [&'a str]);

#[test]
fn options_of_run_do_what_they_do_in_podman() {
    let containers = Containers::new();
    let session = &containers.session;
    let podman = Podman::new(session);
    let work = session.work("shared");
    std::fs::write(work.join("file"), "shared\n").unwrap();
    std::fs::write(work.join("env"), "# comment\nA=1 2\nB=\"q\"\nUNSET_HERE\n").unwrap();
    let at = |rest: &str| format!("{}{rest}", work.display());
    let (shared, single, env) = (at(":/w:ro,z"), at("/file:/etc/one"), at("/env"));
    let bind = format!("type=bind,src={},dst=/w,ro", work.display());
    let sh = |script: &'static str| ["sh", "-c", script];
    let capabilities = sh("grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status");
    let sizes = sh(
        "df -k --output=size /dev/shm /t 2>/dev/null; stat -c %a /t; findmnt -no OPTIONS /t | tr , '\\n' | grep -v noexec | sort",
    );
    let rows: &[Row<'_>] = &[
        (&[], &["id"]),
        (&[], &sh("exit 7")),
        (&[], &["no-such-command"]),
        (&[], &["/etc"]),
        (&[], &["/etc/passwd"]),
        (&["-i"], &["cat"]),
        (&[], &["cat"]),
        (&["-u", "33"], &sh("id; echo $HOME; cat /etc/shadow 2>/dev/null || echo closed")),
        (&["--user", "www-data:daemon"], &["id"]),
        (&["--user=1234:77"], &sh("id -u; id -g; id -G")),
        (&["-w", "/srv"], &["pwd"]),
        (&["-e", "A=b", "--env", "C=d=e", "-e", "HOME=/h"], &sh("echo $A $C $HOME")),
        (&["--env-file", &env], &sh("echo \"$A|$B|${UNSET_HERE-unset}\"")),
        (&["--entrypoint", "echo"], &["a", "b"]),
        (&["--entrypoint", ""], &["echo", "c"]),
        (&["-h", "box.example.test"], &["hostname"]),
        (&["--name", "named"], &sh("test -n \"$HOSTNAME\" && echo set")),
        (&["--add-host", "db:192.0.2.7", "--add-host", "six:2001:db8::1"], &sh("getent hosts db; getent hosts six")),
        (&["--shm-size", "3m", "--tmpfs", "/t:size=2m"], &sizes),
        (&["--shm-size=1g", "--tmpfs", "/t:rw,exec,mode=0700,size=64k"], &sizes),
        (&["--shm-size", "1048576", "--mount", "type=tmpfs,destination=/t,tmpfs-size=1m"], &sizes),
        (&["--read-only"], &sh("touch /x 2>/dev/null || echo read-only")),
        (&["--read-only", "--tmpfs", "/srv"], &sh("touch /srv/x && echo written")),
        (&["--sysctl", "net.core.somaxconn=99"], &["cat", "/proc/sys/net/core/somaxconn"]),
        (
            &["--sysctl", "kernel.shmmni=71", "--sysctl", "fs.mqueue.msg_max=12"],
            &["cat", "/proc/sys/kernel/shmmni", "/proc/sys/fs/mqueue/msg_max"],
        ),
        (&["--cap-drop", "ALL"], &capabilities),
        (&["--cap-drop=all", "--cap-add", "CAP_CHOWN", "--cap-add=net_bind_service"], &capabilities),
        (&["--cap-drop", "ALL"], &sh("chown 33 /srv 2>/dev/null || echo refused")),
        (&["--group-add", "42", "--group-add", "games"], &["id", "-G"]),
        (&["--device", "/dev/fuse"], &sh("test -c /dev/fuse && echo device")),
        (&["--device", "/dev/null:/dev/other"], &sh("echo x > /dev/other && echo taken")),
        (&["-v", &shared], &sh("cat /w/file; touch /w/x 2>/dev/null || echo read-only")),
        (&["-v", &single], &["cat", "/etc/one"]),
        (&["--mount", &bind], &["cat", "/w/file"]),
        (&["-v", "vol:/etc/apt"], &sh("ls /etc/apt; touch /etc/apt/mine")),
        (&["-v", "vol:/data"], &sh("ls -A /data")),
        (&["--mount", "type=volume,src=vol,target=/data,ro"], &sh("touch /data/x 2>/dev/null || echo read-only")),
        (&["-v", "lists:/var/lib/apt/lists"], &sh("stat -c '%U %a' /var/lib/apt/lists /var/lib/apt/lists/partial")),
        (&["-v", "/anonymous"], &sh("touch /anonymous/x && echo written")),
        (
            &["--init", "--rm", "-l", "a=b", "--annotation", "c=d", "--stop-signal", "INT", "--stop-timeout", "3"],
            &["true"],
        ),
        (&["--network", "host"], &sh("cut -d: -f1 /proc/net/dev | sort; hostname; grep ^nameserver /etc/resolv.conf")),
        (&["--network", "host"], &sh("touch /sys/x 2>/dev/null || echo closed; ls -d /sys/class/net/lo")),
        (
            &["--network", "host", "--dns", "2001:db8::1", "--dns-search=x.test"],
            &sh("grep -E '^(nameserver|search)' /etc/resolv.conf | sort"),
        ),
        (&["--security-opt", "no-new-privileges"], &["grep", "NoNewPrivs", "/proc/self/status"]),
        (&["--security-opt=no-new-privileges:true"], &["grep", "NoNewPrivs", "/proc/self/status"]),
        (&["--security-opt", "label=disable"], &["grep", "NoNewPrivs", "/proc/self/status"]),
        (&["--pids-limit", "-1"], &["true"]),
        (&["--pids-limit=0", "--ipc=private", "--pid=private", "--uts=private", "--cgroupns=private"], &["true"]),
        (
            &["--rm=true", "--tty=false", "--privileged=false", "--read-only=false", "-i=false", "--sig-proxy=true"],
            &sh("touch /x && echo written; cat"),
        ),
        (&["-e", "EMPTY=", "-e", "NOT_SET_HERE"], &sh("echo \"[${EMPTY-unset}] ${NOT_SET_HERE-unset}\"")),
        (&["-w=/srv", "-u=33:33", "-e=A=b"], &sh("pwd; id -u; echo $A")),
        (&["--pull", "never", "-q", "--no-healthcheck", "--platform", "linux/amd64"], &["true"]),
    ];
    let mut different = Vec::new();
    for (options, words) in rows {
        let (mut ours, mut theirs) = (vec!["run", "--engine", "container"], vec!["run", "--rm", "--ulimit", "host"]);
        for command in [&mut ours, &mut theirs] {
            let network: &[&str] = if options.contains(&"--network") { &[] } else { &["--network", "none"] };
            command.extend(network.iter().chain(*options).chain(&[REFERENCE]).chain(*words));
        }
        let ours = with_input(session.lamina(&ours), "input\n");
        let theirs = with_input(podman.command(&theirs), "input\n");
        let seen = |finished: &Finished| (finished.status.code(), finished.stdout.clone());
        if seen(&ours) != seen(&theirs) {
            different.push(format!("{options:?} {words:?}\nlamina: {ours}\npodman: {theirs}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
    drop(podman);
    session.traces().assert_nothing_left();
}

#[test]
fn lists_and_templates_show_what_they_show_in_podman() {
    let containers = Containers::new();
    let session = &containers.session;
    let podman = Podman::new(session);
    let create =
        ["--name", "box", "--label", "team=a", "-p", "127.0.0.1:61997:80", "--hostname", "h", "-v", "vol:/data"];
    let create: Vec<&str> =
        create.into_iter().chain(["-e", "A=1", "-w", "/srv", "-u", "33", REFERENCE, "sleep", "9"]).collect();
    session.ok(["create", "--engine", "container"].iter().chain(&create));
    podman.run(&[&["create", "--ulimit", "host", "--network", "slirp4netns"], &create[..]].concat()).succeeded();
    let (_, tag) = REFERENCE.rsplit_once(':').unwrap();
    let rows: &[&[&str]] = &[
        &["ps", "-a", "--format", "{{.Names}} {{.Image}} {{.Ports}}"],
        &["ps", "--format", "{{.Names}}"],
        &["ps", "-a", "--format", "{{.Names}}", "--filter", "label=team=a", "--filter", "name=bo"],
        &["ps", "-a", "--format", "{{.Names}}", "--filter", "label=team=b"],
        &["ps", "-a", "--format", "{{.Names}}", "--filter", "name=^box$", "--filter", "status=created"],
        &["ps", "-a", "--format", "{{.Names}}", "--filter", "volume=vol"],
        &["ps", "-a", "--format", "{{.Names}}", "--filter", "since=box"],
        &["container", "exists", "box"],
        &["container", "exists", "other"],
        &["image", "exists", REFERENCE],
        &["image", "exists", "lamina.test/other:1"],
        &["volume", "exists", "vol"],
        &["volume", "ls", "-q"],
        &["volume", "ls", "--format", "{{.Name}} {{.Driver}}"],
        &["volume", "inspect", "vol", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"],
        &["inspect", "box", "--format", "{{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.Name}}"],
        &["inspect", "-f", "{{.Config.Hostname}} {{.Config.User}} {{.Config.WorkingDir}} {{.Config.Tty}}", "box"],
        &["inspect", "-f", "{{index .Config.Labels \"team\"}} {{len .Mounts}}", "box"],
        &["inspect", "-f", "{{json .Config.Cmd}}", "box"],
        &["inspect", "-f", "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}}{{end}}", "box"],
        &["inspect", "-f", "{{(index (index .HostConfig.PortBindings \"80/tcp\") 0).HostPort}}", "box"],
        &["inspect", "-f", "{{if .State.Running}}up{{else}}down{{end}}", "--type", "container", "box"],
        &["image", "inspect", "--format", "{{.Os}}/{{.Architecture}} {{json .Config.Env}}", REFERENCE],
        &["image", "inspect", "--format", "{{len .RootFS.Layers}} {{.RootFS.Type}}", REFERENCE],
        &["rm", "no-such-machine"],
        &["rmi", "lamina.test/no-such-image:1"],
    ];
    let mut different = Vec::new();
    for row in rows {
        let (ours, theirs) = (session.run(*row), podman.run(row));
        let seen = |finished: &Finished| (finished.status.code() == Some(0), finished.stdout.clone());
        if seen(&ours) != seen(&theirs) {
            different.push(format!("{row:?}\nlamina: {ours}\npodman: {theirs}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
    let images = ["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", &format!("reference=*:{tag}")];
    assert_eq!(session.ok(images), podman.run(&images).stdout);
    for (name, pointers) in [
        ("box", &["/0/Name", "/0/Config/Cmd", "/0/Config/Labels", "/0/State/Status", "/0/HostConfig/PortBindings"][..]),
        (REFERENCE, &["/0/RootFS", "/0/Architecture", "/0/Os", "/0/Config/Env", "/0/Config/Cmd"]),
    ] {
        let (ours, theirs): (Value, Value) = (session.json(["inspect", name]), {
            serde_json::from_str(&podman.run(&["inspect", name]).succeeded().stdout).unwrap()
        });
        for pointer in pointers {
            assert!(theirs.pointer(pointer).is_some(), "{pointer}: {theirs}");
            assert_eq!(ours.pointer(pointer), theirs.pointer(pointer), "{pointer}");
        }
    }
    session.ok(["rm", "box"]);
    podman.run(&["rm", "box"]).succeeded();
    drop(podman);
    session.traces().assert_nothing_left();
}
