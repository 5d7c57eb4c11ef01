//! Every wait ends, by its deadline or by a second signal; and input is taken only when it is asked for.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use end_to_end::layout::Layer;
use end_to_end::{Engine, Finished, Image, Layout, Started, on_engines, until};
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::fixture::{Machines, REFERENCE};

on_engines! {
    with_kernel: exec_in_a_guest_that_stands_still_ends_by_sigterm_or_by_a_second_signal;
    every:
        a_launcher_that_stands_still_is_named_and_can_be_killed,
        a_machine_whose_runtime_directory_was_emptied_answers_again,
        the_input_of_a_loop_is_left_to_the_loop_unless_it_is_asked_for,
        a_machine_is_stopped_by_the_signal_that_its_image_or_its_user_names;
}

/// A command in a machine whose guest does not run: its hypervisor is stopped.
fn exec_in_a_hung_guest(machines: &Machines) -> Started {
    let session = &machines.session;
    let started = session.start(session.lamina(["exec", "m", "--", "sleep", "1000"]));
    // A reader, a writer and a watcher of signals beside the main thread: it waits for the guest.
    let threads = format!("/proc/{}/task", started.child.id());
    until("the wait", || std::fs::read_dir(&threads).is_ok_and(|threads| threads.count() >= 5));
    started
}

fn exec_in_a_guest_that_stands_still_ends_by_sigterm_or_by_a_second_signal(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    machines.sleeper("m", &["--network", "none"]);
    let hypervisor = machines.session.process("m", "hypervisor");
    kill_process(hypervisor, Signal::STOP).unwrap();
    let told = "the command did not end when it was told to";
    let waiting = exec_in_a_hung_guest(&machines);
    waiting.signal(Signal::TERM);
    let finished = waiting.finish();
    assert_eq!(finished.status.code(), Some(128 + 15), "{finished}");
    assert!(finished.stderr.contains(told), "{finished}");
    let waiting = exec_in_a_hung_guest(&machines);
    waiting.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(500));
    waiting.signal(Signal::INT);
    let finished = waiting.finish();
    assert_eq!(finished.status.code(), Some(128 + 2), "{finished}");
    assert!(finished.stderr.contains(told), "{finished}");
    // Its supervisor still does what it is asked for.
    machines.session.ok(["stop", "--timeout", "1", "m"]);
    machines.session.ok(["rm", "m"]);
    machines.session.traces().assert_nothing_left();
}

fn a_launcher_that_stands_still_is_named_and_can_be_killed(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    machines.sleeper("m", &["--network", "none"]);
    kill_process(machines.session.process("m", "lamina"), Signal::STOP).unwrap();
    machines.session.exec("m", "true").failed("did not answer within");
    assert_eq!(machines.session.ok(["kill", "m"]), "m: killed\n");
    machines.session.ok(["rm", "m"]);
    machines.session.traces().assert_nothing_left();
}

fn a_machine_whose_runtime_directory_was_emptied_answers_again(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    machines.sleeper("m", &["--network", "none"]);
    let runtime = session.directory().join("run/lamina");
    std::fs::remove_dir_all(&runtime).unwrap();
    let asked = machines.session.exec("m", "echo here");
    assert!(!asked.stderr.contains("still starting"), "{asked}");
    until("an answer", || machines.session.exec("m", "echo here").stdout == "here\n");
    // While the directory cannot be created, the machine can still be ended.
    std::fs::remove_dir_all(&runtime).unwrap();
    std::fs::write(&runtime, "").unwrap();
    machines.session.exec("m", "true").failed("m: ");
    assert_eq!(session.ok(["stop", "m"]).trim_end(), "m: stopped");
    std::fs::remove_file(&runtime).unwrap();
    session.ok(["rm", "m"]);
    session.traces().assert_nothing_left();
}

fn the_input_of_a_loop_is_left_to_the_loop_unless_it_is_asked_for(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    machines.sleeper("m", &["--network", "none"]);
    let program = machines.command(&[], &[]).get_program().to_owned();
    let engine = engine.options().join(" ");
    let script = format!(
        "printf '1\\n2\\n3\\n' | while read line; do echo $line
            \"$LAMINA\" run {engine} --network none {REFERENCE} -- cat
            \"$LAMINA\" exec m -- cat; done
        echo given | \"$LAMINA\" run -i {engine} --network none {REFERENCE} -- cat
        echo too | \"$LAMINA\" exec -i m -- cat"
    );
    let mut lamina = session.command(Path::new("sh"));
    let output = lamina.args(["-c", &script]).env("LAMINA", program).stderr(Stdio::inherit()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n2\n3\ngiven\ntoo\n");
    session.ok(["rm", "--force", "m"]);
    session.traces().assert_nothing_left();
}

fn a_machine_is_stopped_by_the_signal_that_its_image_or_its_user_names(engine: Engine) {
    let layers: Vec<Layer> = (0..3).map(|number| Layer::of_image(Image::Debian, number)).collect();
    let image = Layout::of_config(&layers, &json!({ "Cmd": ["/bin/sh"], "StopSignal": "SIGRTMIN+3" }));
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    session.import(image.path(), "lamina.test/stop:1");
    let script = "trap 'exit 3' 37; trap 'exit 4' TERM; trap 'exit 5' QUIT; echo set; while :; do sleep 0.1; done";
    let start = |options: &[&str], reference: &str| {
        let run = ["run"].iter().chain(engine.options());
        let mut lamina = session.lamina(run.chain(&["--network", "none", "--detach", "--name", "m"]));
        Finished::of(lamina.args(options).args([reference, "--", "/bin/bash", "-c", script])).succeeded();
        until("the trap", || session.ok(["logs", "m"]) == "set\n");
    };
    let ended = |status: &str| {
        assert_eq!(session.ok(["wait", "m"]), status);
        session.ok(["rm", "m"]);
    };
    start(&[], "lamina.test/stop:1");
    session.ok(["stop", "m"]);
    ended("3\n");
    start(&["--stop-signal", "QUIT"], "lamina.test/stop:1");
    session.ok(["stop", "m"]);
    ended("5\n");
    start(&[], REFERENCE);
    session.ok(["kill", "--signal", "rtmin+3", "m"]);
    ended("3\n");
    // What ends a launcher ends its command in the same way.
    start(&[], "lamina.test/stop:1");
    kill_process(machines.session.process("m", "lamina"), Signal::TERM).unwrap();
    ended("3\n");
    session.traces().assert_nothing_left();
}
