//! Faults outside a machine's run: its start, its record, and the commands that look at it.

use std::path::Path;

use end_to_end::{Engine, Finished, Image, on_engines, until};

use crate::fixture::Machines;

on_engines! {
    every:
        start_that_lacks_something_leaves_no_machine_and_the_corrected_one_runs,
        record_that_cannot_be_read_costs_no_machine_its_disk,
        kept_machine_is_entered_again_at_a_terminal,
        command_beside_one_in_the_foreground_has_its_user_directory_and_environment;
}

fn start_that_lacks_something_leaves_no_machine_and_the_corrected_one_runs(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
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
    let options = ["--network", "none", "--detach", "--ready", "root", "--name", "n"];
    machines.run(&options, &["/nowhere"]).succeeded();
    assert_eq!(session.ok(["wait", "n"]), "127\n");
    assert!(machines.session.seen("n")["reason"].as_str().unwrap().contains("/nowhere: command not found"));
    session.ok(["rm", "m", "n"]);
    session.traces().assert_nothing_left();
}

fn record_that_cannot_be_read_costs_no_machine_its_disk(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    machines.ok(&["--network", "none", "--keep=64M", "--name", "m"], "echo kept > /srv/kept");
    let record = machines.session.machine_directory("m").join("machine.json");
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, "{").unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
    std::fs::File::open(machines.session.machine_directory("m")).unwrap().set_modified(long_ago).unwrap();
    let listed = session.run(["ps", "--all"]).succeeded();
    assert!(listed.stderr.contains("machine.json"), "{listed}");
    machines.run(&["--network", "none"], &["true"]).succeeded();
    std::fs::write(&record, whole).unwrap();
    assert_eq!(session.ok(["diff", "m"]), "C /srv\nA /srv/kept\n");
    session.ok(["rm", "m"]);
    session.traces().assert_nothing_left();
}

/// script(1) provides `lamina start --attach` with a terminal.
fn kept_machine_is_entered_again_at_a_terminal(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let options = ["--network", "none", "--keep=64M", "--name", "m", "-u", "0:0"];
    let command = "echo more >> /srv/kept; wc -l < /srv/kept; test -t 0 && echo terminal; read word && echo got $word";
    let first = machines.run(&options, &["/bin/sh", "-c", command]);
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

fn command_beside_one_in_the_foreground_has_its_user_directory_and_environment(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let options = ["--network", "none", "--name", "m", "-w", "/srv/here", "-u", "daemon", "-e", "GIVEN=1"];
    let script = "while :; do sleep 0.1; done";
    let running = session.start(machines.command(&options, &["/bin/sh", "-c", script]));
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
