//! One machine from its start to its removal.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use end_to_end::{Engine, Finished, Image, on_engines, until};
use serde_json::json;

use crate::fixture::{Machines, REFERENCE};

on_engines! {
    every:
        detached_machine_is_seen_asked_stopped_started_and_removed,
        run_in_the_foreground_gives_its_outcome_as_one_object,
        ready_means_that_something_listens_when_that_is_asked_for;
}

fn detached_machine_is_seen_asked_stopped_started_and_removed(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let script = "echo said; echo complained >&2; trap 'echo asked; exit 5' TERM; trap 'echo signal 40' 40; while :; do sleep 0.1; done";
    let started = Finished::of(&mut machines.detach("web", &["-e", "TOKEN=hush-hush"], script)).succeeded();
    assert_eq!(started.stdout, "web\n");
    assert_eq!(machines.session.seen("web")["state"], "running");

    looks_at_a_running_machine(&machines);
    commands_beside_the_first_one(&machines);
    copies(&machines);
    results_as_json(&machines);

    // An image that loses its name keeps what the machine needs, even while the machine is paused.
    session.ok(["rmi", REFERENCE]);
    session.ok(["gc"]);
    assert_eq!(session.ok(["stop", "web"]), "web: stopped\n");
    assert_eq!(session.ok(["wait", "web"]), "5\n");
    assert_eq!(session.ok(["logs", "web"]), "said\nsignal 40\nasked\n");
    session.ok(["gc"]);
    assert_eq!(machines.session.seen("web")["state"], "exited");
    Finished::of(&mut machines.detach("web", &[], "true")).failed("no image \"lamina.test/image:1\" in the store");

    session.ok(["start", "web"]);
    assert_eq!(machines.session.exec("web", "echo again").succeeded().stdout, "again\n");
    assert_eq!(session.ok(["kill", "web"]), "web: killed\n");
    assert_eq!(machines.session.seen("web")["status"], 137);
    session.ok(["rm", "web"]);
    assert_eq!(session.ok(["ps", "--all", "--quiet"]), "");
    let collected = session.ok(["gc"]);
    assert!(collected.contains("removed layer"), "nothing needs the layers any more: {collected}");
    session.traces().assert_nothing_left();
}

fn looks_at_a_running_machine(machines: &Machines) {
    let session = &machines.session;
    until("both lines of the log", || session.run(["logs", "web"]).stderr.contains("complained"));
    let logs = session.run(["logs", "web"]).succeeded();
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("said\n", "complained\n"));
    let entries = session.ok(["logs", "--json", "web"]);
    // Two channels have no order between them.
    let entries: Vec<serde_json::Value> = entries.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(entries.iter().any(|entry| entry["stream"] == "stdout" && entry["text"] == "said"), "{entries:?}");
    // The name of a secret may be visible; its value only in the guest.
    let inspected = session.ok(["inspect", "web"]) + &session.ok(["inspect", "--type", "machine", "--json", "web"]);
    assert!(inspected.contains("TOKEN") && !inspected.contains("hush-hush"), "{inspected}");
    assert!(!session.ok(["ps", "--json"]).contains("hush-hush"));
    let command_lines = session.traces().processes();
    assert!(command_lines.iter().all(|process| !process.command.contains("hush-hush")), "{command_lines:?}");
    let twice = Finished::of(&mut machines.detach("web", &[], "true"));
    twice.failed("machine web: it is already running");
    session.run(["rm", "web"]).refused("lamina rm --force web");
    session.run(["start", "web"]).refused("already running");
    session.run(["logs", "nobody"]).refused("machine nobody: no machine has this name");
}

fn commands_beside_the_first_one(machines: &Machines) {
    let session = &machines.session;
    let finished = machines.session.exec("web", "echo $TOKEN; echo oops >&2; exit 7");
    assert_eq!(
        (finished.status.code(), finished.stdout.as_str(), finished.stderr.as_str()),
        (Some(7), "hush-hush\n", "oops\n")
    );
    let options = ["exec", "-u", "daemon", "-w", "/srv/deep", "-e", "MORE=1", "web", "--"];
    let shell = ["/bin/sh", "-c", "id -un; pwd; echo $MORE"];
    assert_eq!(session.ok(options.into_iter().chain(shell)), "daemon\n/srv/deep\n1\n");
    assert_eq!(session.run(["exec", "web", "--", "/nowhere"]).status.code(), Some(127));
    assert_eq!(session.run(["exec", "web", "--", "/etc/passwd"]).status.code(), Some(126));
    assert_eq!(machines.session.exec("web", "kill -KILL $$").status.code(), Some(137));

    // Many at once, each with more than a window of input, byte for byte.
    let sent: Vec<u8> = (0..700_000_u32).map(|number| (number % 251) as u8).collect();
    let expected = sent.clone();
    std::thread::scope(|scope| {
        let running: Vec<_> =
            (0..4).map(|_| scope.spawn(|| echoed(session.lamina(["exec", "-i", "web", "--", "cat"]), &sent))).collect();
        for echo in running {
            assert!(echo.join().unwrap() == expected, "what cat echoed differs");
        }
    });

    // `lamina exec` passes a signal to the command.
    let trap = "trap 'echo caught; exit 3' INT; echo set >&2; while :; do sleep 0.1; done";
    let mut running = session.start(session.lamina(["exec", "web", "--", "/bin/sh", "-c", trap]));
    running.await_line("set");
    running.signal(rustix::process::Signal::INT);
    let finished = running.finish();
    assert_eq!((finished.status.code(), finished.stdout.as_str()), (Some(3), "caught\n"), "{finished}");

    // `lamina exec` ignores a signal that its caller ignores.
    let lamina = session.lamina(["exec", "web", "--", "/bin/sh", "-c", "echo on >&2; sleep 1; echo done"]);
    let mut shell = session.command(Path::new("sh"));
    let given: Vec<_> = std::iter::once(lamina.get_program()).chain(lamina.get_args()).collect();
    let from = given.iter().position(|word| word.to_string_lossy().ends_with("/lamina")).expect("the path of lamina");
    let mut running = session.start({
        shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).args(&given[from..]);
        shell
    });
    running.await_line("on");
    running.signal(rustix::process::Signal::HUP);
    assert_eq!(running.finish().succeeded().stdout, "done\n");

    // A signal without a name arrives too.
    session.ok(["kill", "--signal", "40", "web"]);
    until("signal 40", || session.run(["logs", "web"]).stdout.contains("signal 40"));

    // When it is killed with -9, its command ends too.
    let mut running =
        session.start(session.lamina(["exec", "web", "--", "/bin/sh", "-c", "echo on >&2; exec sleep 4242"]));
    running.await_line("on");
    running.signal(rustix::process::Signal::KILL);
    assert!(!running.finish().status.success());
    let gone =
        "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $file; echo; done 2>/dev/null | grep -c '^sleep 4242'";
    until("the end of the command", || machines.session.exec("web", gone).stdout == "0\n");

    a_terminal(machines);
}

fn copies(machines: &Machines) {
    let session = &machines.session;
    let work = session.work("copied");
    let made = "mkdir -p from/sub/closed && head -c 900000 /dev/urandom > from/sub/big && ln from/sub/big from/sub/second \
        && ln -s big from/sub/link && chmod 2750 from/sub && chmod 4711 from/sub/big && chmod 555 from/sub/closed \
        && touch -d '2001-02-03 04:05:06.789' from/sub/big";
    Finished::of(session.command(Path::new("sh")).args(["-c", made]).current_dir(&work)).succeeded();
    let from = work.join("from");
    let path = |name: &str| work.join(name).display().to_string();
    session.ok(["cp", &path("from"), "web:/srv/new"]);
    session.ok(["cp", &path("from"), "web:/srv"]);
    let look =
        "cd /srv/$1 && stat -c '%n %a %u %h %Y' sub sub/big sub/closed && readlink sub/link && sha256sum < sub/big";
    let in_guest = |name| session.ok(["exec", "web", "--", "/bin/sh", "-c", look, "sh", name]);
    let sum = Finished::of(session.command(Path::new("sha256sum")).arg(from.join("sub/big"))).succeeded().stdout;
    let seen = in_guest("new");
    assert_eq!(in_guest("from"), seen);
    let expected = "sub 2750 0 3 ";
    assert!(seen.starts_with(expected) && seen.contains("sub/big 4711 0 2 981173106\nsub/closed 555 0 2 "), "{seen}");
    assert!(seen.contains("\nbig\n") && seen.contains(&sum[..64]), "{seen}");

    session.ok(["cp", "web:/srv/new", &path("back")]);
    let compared = Finished::of(session.command(Path::new("diff")).args(["-r", &path("from"), &path("back")]));
    compared.succeeded();
    let mode = |name: &str| std::fs::metadata(work.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode("back/sub/big"), mode("back/sub/closed")),
        (0o711, 0o555),
        "no set-user-id bit comes from a guest"
    );

    // Streams, both ways.
    let tar = session.lamina(["cp", "web:/srv/new", "-"]).output().unwrap();
    assert!(tar.status.success());
    let mut archive = tar::Archive::new(tar.stdout.as_slice());
    assert!(archive.entries().unwrap().any(|entry| entry.unwrap().path().unwrap() == Path::new("new/sub/link")));
    machines.session.exec("web", "mkdir /srv/streamed").succeeded();
    let mut child = session.lamina(["cp", "-", "web:/srv/streamed"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
    assert!(child.wait().unwrap().success());
    machines.session.exec("web", "cmp /srv/streamed/new/sub/big /srv/new/sub/big").succeeded();

    assert!(session.run(["cp", "web:/nowhere", &path("x")]).stderr.contains("/nowhere: No such file"));
    assert!(!work.join("x").exists());
    session.run(["cp", &path("nowhere"), "web:/srv"]).refused("nowhere: No such file");
    session.run(["cp", &path("a"), &path("b")]).refused_usage("NAME:PATH");
    session.run(["cp", "web:", &path("b")]).refused_usage("is empty");
}

fn results_as_json(machines: &Machines) {
    let session = &machines.session;
    let object = |finished: &Finished| -> serde_json::Value { serde_json::from_str(&finished.stdout).unwrap() };
    let shell = |script: &str| session.run(["exec", "--json", "web", "--", "/bin/sh", "-c", script]);
    let ended = shell("printf 'a\\377\\n'; echo oops >&2; exit 7");
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(7), ""), "{ended}");
    let expected = json!({ "name": "web", "status": 7, "signal": null, "stdout": "a\u{fffd}\n", "stderr": "oops\n" });
    assert_eq!(object(&ended), expected);
    let killed = shell("kill -KILL $$");
    assert_eq!(killed.status.code(), Some(137));
    assert_eq!((&object(&killed)["status"], &object(&killed)["signal"]), (&json!(137), &json!(9)));
    let much = shell("head -c 3000000 /dev/zero | tr '\\0' x");
    assert_eq!(object(&much)["stdout"].as_str().map(str::len), Some(3_000_000));
    session
        .run(["exec", "--json", "-t", "web", "--", "true"])
        .failed_usage("--json: standard output carries a terminal");

    // Failing to write the result is a failure.
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let cause = "standard output: No space left on device";
    Finished::of(session.lamina(["exec", "web", "--", "pwd"]).stdout(full())).failed(cause);
    Finished::of(session.lamina(["cp", "web:/etc/hostname", "-"]).stdout(full())).refused(cause);
    let missing = session.run(["exec", "--json", "web", "--", "/nowhere"]);
    assert_eq!((missing.status.code(), missing.stdout.as_str()), (Some(127), ""), "{missing}");

    let work = session.work("counted");
    let made = "mkdir -p from/sub && head -c 70000 /dev/zero > from/a && ln from/a from/b && ln -s a from/sub/link";
    Finished::of(session.command(Path::new("sh")).args(["-c", made]).current_dir(&work)).succeeded();
    let path = |name: &str| work.join(name).display().to_string();
    let arrived = json!({ "name": "web", "files": 3, "bytes": 70000 });
    for (from, to) in [(path("from"), "web:/srv/counted".to_owned()), ("web:/srv/counted".to_owned(), path("back"))] {
        assert_eq!(object(&session.run(["cp", "--json", &from, &to]).succeeded()), arrived, "{from}");
    }
    session.run(["cp", "--json", "web:/srv/counted", "-"]).refused_usage("--json: standard output carries the tar");
    if machines.engine.has_kernel() {
        let console = session.ok(["logs", "--console", "--json", "web"]);
        let mut lines = console.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        assert!(lines.any(|line| line == json!({ "stream": "console", "text": "lamina: init is up" })), "{console}");
    }
    assert_eq!(session.ok(["logs", "--launcher", "--json", "web"]), "");
}

fn run_in_the_foreground_gives_its_outcome_as_one_object(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let options = ["-i", "--json", "--network", "none", "--name", "m"];
    let script = "cat; echo complained >&2; kill -TERM $$";
    let mut lamina = machines.command(&options, &["/bin/sh", "-c", script]);
    let mut child = lamina.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"given").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143));
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = json!({ "name": "m", "status": 143, "signal": 15, "stdout": "given", "stderr": "complained\n" });
    assert_eq!(seen, expected);
    machines.session.traces().assert_nothing_left();
}

/// script(1) provides `lamina exec -t` with a terminal of a known size.
fn a_terminal(machines: &Machines) {
    let mut script = machines.session.command(Path::new("script"));
    let lamina = machines.session.lamina(["exec", "-it", "web", "--", "/bin/sh", "-c"]);
    let program = lamina.get_program().to_string_lossy().into_owned();
    let lamina = lamina_path(&lamina, &program);
    let said = machines.session.work("terminal").join("said");
    let said = said.display();
    // Without input, the terminal still turns keys into signals.
    let inner = format!(
        "stty rows 31 cols 97
        (until grep -q on {said} 2>/dev/null; do sleep 0.1; done; stty -a < /dev/tty | grep -ow -e '-*isig'
        {lamina} exec web -- touch /tmp/looked) &
        {lamina} exec -t web -- /bin/sh -c 'echo on; until [ -e /tmp/looked ]; do sleep 0.1; done' > {said}; wait
        {lamina} exec -it web -- /bin/sh -c 'stty size; test -t 0 && echo yes; exit 9'",
    );
    script.args(["--quiet", "--return", "--command", &inner, "/dev/null"]);
    let finished = Finished::of(&mut script);
    assert_eq!(finished.status.code(), Some(9), "{finished}");
    assert!(finished.stdout.contains("31 97") && finished.stdout.contains("yes"), "{finished}");
    assert!(finished.stdout.contains("isig") && !finished.stdout.contains("-isig"), "{finished}");
}

/// The program of a command that may be wrapped to run as another user: the last word that is a path to it.
fn lamina_path(command: &Command, program: &str) -> String {
    let words =
        std::iter::once(program.to_owned()).chain(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.filter(|word| word.ends_with("/lamina")).last().expect("the path of lamina")
}

fn echoed(mut command: Command, sent: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(sent).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    })
}

fn ready_means_that_something_listens_when_that_is_asked_for(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let serve = "sleep 1; exec python3 -m http.server 8080";
    let options = ["--ready", "port:8080", "--network", "none"];
    Finished::of(&mut machines.detach("web", &options, serve)).succeeded();
    let get =
        "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:8080/etc/hostname\").status)'";
    assert_eq!(machines.session.exec("web", get).succeeded().stdout, "200\n");
    machines.session.ok(["rm", "--force", "web"]);

    let finished = Finished::of(&mut machines.detach("web", &options, "echo no such port; exit 4"));
    assert!(finished.stderr.contains("it ended (status 4) before anything listened on port 8080"), "{finished}");
    assert_eq!(machines.session.ok(["logs", "web"]), "no such port\n");
    machines.session.ok(["rm", "web"]);
    machines.session.traces().assert_nothing_left();
}
