//! Every field of an image's config counts when it is run, or is reported.

use end_to_end::layout::Layer;
use end_to_end::{Engine, on_engines, until};
use serde_json::{Value, json};

use crate::fixture::Machines;

on_engines! {
    every:
        every_field_of_a_config_reaches_the_command,
        what_is_not_done_for_an_image_is_said_and_its_command_runs,
        stop_sends_the_signal_of_the_image_or_of_the_user,
        volumes_and_the_working_directory_are_there_in_a_root_that_takes_no_change;
}

/// Runs the image's own command to its end.
fn run(engine: Engine, config: &Value) -> end_to_end::Finished {
    Machines::with_config(engine, &[], config).run(&["--network", "none"], &[])
}

fn every_field_of_a_config_reaches_the_command(engine: Engine) {
    let shell = |script: &str| json!(["/bin/sh", "-c", script]);
    for (config, stdout) in [
        (json!({"Entrypoint": ["/bin/echo", "a"], "Cmd": ["b", "c d"]}), "a b c d\n"),
        (json!({"Entrypoint": "/bin/pwd", "Cmd": null}), "/\n"),
        (
            json!({
                "Entrypoint": [],
                "Cmd": shell("pwd; stat -c '%u %a' .; echo $A-$B-$C; id -u; id -g; id -G; echo $HOME"),
                "WorkingDir": "/not/there yet",
                "Env": ["A=1", "B=x=y", "C="],
                "User": "daemon",
            }),
            "/not/there yet\n0 755\n1-x=y-\n1\n1\n1\n/usr/sbin\n",
        ),
        (
            json!({
                "Cmd": shell("id -u; id -g; id -G; echo $HOME; stat -c %F /data /log/deep"),
                "User": "1234:mail",
                "Volumes": {"/data": {}, "/log/deep": {}},
                "ExposedPorts": {"80/tcp": {}},
                "Labels": {"a": "b"},
                "Shell": ["/x"],
            }),
            "1234\n8\n8\n/\ndirectory\ndirectory\n",
        ),
    ] {
        let ended = run(engine, &config).succeeded();
        assert_eq!(ended.stdout, stdout, "{config}: {ended}");
    }
    let unknown = run(engine, &json!({"Cmd": ["true"], "User": "nobody-knows"}));
    assert_eq!(unknown.status.code(), Some(125), "{unknown}");
    assert!(unknown.stderr.contains("user \"nobody-knows\" is not in the image's /etc/passwd"), "{unknown}");
}

fn what_is_not_done_for_an_image_is_said_and_its_command_runs(engine: Engine) {
    let config = json!({
        "Cmd": ["echo", "ran"],
        "Healthcheck": {"Test": ["CMD-SHELL", "curl -f http://localhost/"]},
        "StopSignal": "NO-SUCH",
    });
    let ended = run(engine, &config).succeeded();
    assert_eq!(ended.stdout, "ran\n", "{ended}");
    for told in ["the image has a health check, and nothing runs it", "StopSignal \"NO-SUCH\" is no signal"] {
        assert!(ended.stderr.contains(told), "{ended}");
    }
}

fn volumes_and_the_working_directory_are_there_in_a_root_that_takes_no_change(engine: Engine) {
    let config = json!({"WorkingDir": "/work/here", "Volumes": {"/data": {}, "/new": {}}});
    let made = "mkdir data; echo old > data/file; chmod 1777 data; chown 7:8 data";
    let machines = Machines::with_config(engine, &[Layer::of_script(made)], &config);
    let script = "pwd; stat -c '%u %g %a' /data; cat /data/file; echo new > /data/file && cat /data/file; \
                  echo x > /new/x && cat /new/x; echo x > /etc/x || echo refused";
    let ended = machines.run(&["--read-only", "--network", "none"], &["sh", "-c", script]).succeeded();
    assert_eq!(ended.stdout, "/work/here\n7 8 1777\nold\nnew\nx\nrefused\n", "{ended}");
}

fn stop_sends_the_signal_of_the_image_or_of_the_user(engine: Engine) {
    let script = "for signal in QUIT TERM WINCH RTMIN+3; do trap \"echo $signal; exit 0\" $signal; done; \
                  echo up; while :; do sleep 0.1; done";
    for (written, options, heard) in [
        (json!("SIGQUIT"), &[][..], "QUIT"),
        (json!("SIGRTMIN+3"), &["--stop-signal", "28"], "WINCH"),
        (json!(null), &[], "TERM"),
    ] {
        let config = json!({"StopSignal": written, "Cmd": ["/bin/bash", "-c", script]});
        let machines = Machines::with_config(engine, &[], &config);
        let options: Vec<&str> =
            ["--detach", "--name", "m", "--network", "none"].iter().chain(options).copied().collect();
        machines.run(&options, &[]).succeeded();
        until("the traps", || machines.session.ok(["logs", "m"]) == "up\n");
        machines.session.ok(["stop", "m"]);
        assert_eq!(machines.session.ok(["wait", "m"]), "0\n", "{config}");
        assert_eq!(machines.session.ok(["logs", "m"]), format!("up\n{heard}\n"), "{config}");
        machines.session.ok(["rm", "m"]);
    }
}
