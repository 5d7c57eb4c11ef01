//! Faults outside a machine's run: its start, its record, and the commands that look at it.

use std::path::Path;

use end_to_end::{Finished, Image, until};

use crate::fixture::{Machines, REFERENCE};

#[test]
fn start_that_lacks_something_leaves_no_machine_and_the_corrected_one_runs() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    let secret = session.work("secrets").join("token");
    let given = format!("token={}", secret.display());
    let options = ["--secret", given.as_str(), "--network", "none", "--ready", "root"];
    let mut lamina = machines.detach("m", &options, "cat /run/secrets/token");
    Finished::of(&mut lamina).failed(secret.to_str().unwrap());
    assert_eq!(session.ok(["ps", "--all", "--quiet"]), "");
    std::fs::write(&secret, "now it is there").unwrap();
    Finished::of(&mut lamina).succeeded();
    assert_eq!(session.ok(["wait", "m"]), "0\n");
    assert_eq!(session.ok(["logs", "m"]), "now it is there");

    // After it was ready, a machine whose command does not exist is a failed machine, not a missing one.
    let run = ["run", "--accel", "tcg", "--network", "none", "--detach", "--ready", "root", "--name", "n", REFERENCE];
    session.ok(run.into_iter().chain(["--", "/nowhere"]));
    assert_eq!(session.ok(["wait", "n"]), "127\n");
    assert!(machines.session.seen("n")["reason"].as_str().unwrap().contains("/nowhere: command not found"));
    session.ok(["rm", "m", "n"]);
    session.traces().assert_nothing_left();
}

#[test]
fn record_that_cannot_be_read_costs_no_machine_its_disk() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    let run = ["run", "--accel", "tcg", "--network", "none", "--keep=64M", "--name", "m", "-u", "0:0", REFERENCE, "--"];
    session.ok(run.into_iter().chain(["/bin/sh", "-c", "echo kept > /srv/kept"]));
    let record = machines.session.machine_directory("m").join("machine.json");
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, "{").unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
    std::fs::File::open(machines.session.machine_directory("m")).unwrap().set_modified(long_ago).unwrap();
    let listed = session.run(["ps", "--all"]).succeeded();
    assert!(listed.stderr.contains("machine.json"), "{listed}");
    session.run(["run", "--accel", "tcg", "--network", "none", REFERENCE, "--", "true"]).succeeded();
    std::fs::write(&record, whole).unwrap();
    assert_eq!(session.ok(["diff", "m"]), "C /srv\nA /srv/kept\n");
    session.ok(["rm", "m"]);
    session.traces().assert_nothing_left();
}

/// script(1) provides `lamina start --attach` with a terminal.
#[test]
fn kept_machine_is_entered_again_at_a_terminal() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    let run = ["run", "--accel", "tcg", "--network", "none", "--keep=64M", "--name", "m", "-u", "0:0", REFERENCE, "--"];
    let command = "echo more >> /srv/kept; wc -l < /srv/kept; test -t 0 && echo terminal; read word && echo got $word";
    let first = session.run(run.into_iter().chain(["/bin/sh", "-c", command]));
    assert_eq!(first.stdout, "1\n", "{first}");

    let lamina = session.lamina(["start", "--attach", "m"]);
    let words: Vec<String> = std::iter::once(lamina.get_program())
        .chain(lamina.get_args())
        .map(|word| word.to_string_lossy().into())
        .collect();
    let lamina = words.iter().find(|word| word.ends_with("/lamina")).expect("the path of lamina");
    let mut shell = session.command(Path::new("sh"));
    let script =
        format!("(sleep 1; echo typed) | script --quiet --return --command '{lamina} start --attach m' /dev/null");
    let again = Finished::of(shell.args(["-c", &script]));
    assert!(again.stdout.contains("2\r\n") && again.stdout.contains("terminal"), "{again}");
    assert!(again.stdout.contains("got typed"), "{again}");
    assert_eq!(machines.session.seen("m")["status"], 0);
    session.run(["start", "--attach", "m", "m"]).refused_usage("one machine at a time");
    session.ok(["rm", "m"]);
    session.traces().assert_nothing_left();
}

#[test]
fn command_beside_one_in_the_foreground_has_its_user_directory_and_environment() {
    let machines = Machines::of(Image::Debian);
    let session = &machines.session;
    let run = ["run", "--accel", "tcg", "--network", "none", "--name", "m", "-w", "/srv/here"];
    let script = "while :; do sleep 0.1; done";
    let given = ["-u", "daemon", "-e", "GIVEN=1", REFERENCE, "--", "/bin/sh", "-c", script];
    let running = session.start(session.lamina(run.into_iter().chain(given)));
    until("the command", || session.run(["exec", "m", "--", "true"]).status.success());
    assert_eq!(machines.session.exec("m", "id -un; pwd; echo $GIVEN").succeeded().stdout, "daemon\n/srv/here\n1\n");
    // A command that looks at it need not have the environment of the one that started it.
    let mut elsewhere = session.lamina(["exec", "m", "--", "echo", "found"]);
    elsewhere.env("XDG_RUNTIME_DIR", session.work("another-runtime-directory"));
    assert_eq!(Finished::of(&mut elsewhere).succeeded().stdout, "found\n");
    session.ok(["kill", "m"]);
    assert_eq!(running.finish().status.code(), Some(137));
    session.traces().assert_nothing_left();
}
