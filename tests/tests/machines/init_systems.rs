//! Commands that are inits: they are process 1, as in a container.

use end_to_end::layout::Layer;
use end_to_end::{Engine, on_engines, until};
use serde_json::json;

use crate::fixture::Machines;

on_engines! {
    every: init_of_an_image_is_process_one_and_ends_in_its_own_ways;
}

/// An init that prints what it sees, ends on the signals that end systemd, and powers off when it is asked to.
const INIT: &str = r#"#!/bin/bash
echo "process $$, $container"
[ $(ls -d /proc/[0-9]* | wc -l) -lt 9 ] && echo sees its own
trap 'echo halting; exit 4' RTMIN+3
touch /sys/no 2> /dev/null && echo writes /sys
mkdir /sys/fs/cgroup/a 2> /dev/null && echo has control groups
mount -t tmpfs none /mnt 2> /dev/null && echo may mount
unshare --user true 2> /dev/null && echo may make a user namespace
mountpoint -q /run && echo has /run
cat /run/secrets/key
while :; do
    [ -e /srv/off ] && perl -e 'syscall(169, 0xfee1dead, 672274793, 0x4321fedc, 0)'
    [ -e /srv/again ] && perl -e 'syscall(169, 0xfee1dead, 672274793, 0x1234567, 0)'
    sleep 0.1
done
"#;

/// What it sees in a VM, whose kernel is its own.
const IN_VM: &str =
    "process 1, lamina\nsees its own\nhas control groups\nmay mount\nmay make a user namespace\nhas /run\nsecret\n";
/// And in a container whose user has no control groups.
const IN_CONTAINER: &str = "process 1, lamina\nsees its own\nhas /run\nsecret\n";

fn init_of_an_image_is_process_one_and_ends_in_its_own_ways(engine: Engine) {
    let layer = Layer::of_script(&format!("cat > init <<'END'\n{INIT}END\nchmod 755 init"));
    let machines = Machines::with_config(engine, &[layer], &json!({"Cmd": ["/init"], "StopSignal": "SIGRTMIN+3"}));
    let session = &machines.session;
    let sees = if engine.has_kernel() { IN_VM } else { IN_CONTAINER };
    let secret = session.work("secret").join("key");
    std::fs::write(&secret, "secret\n").unwrap();
    end_to_end::Actor::User.own(&secret);
    let secret = format!("key={}", secret.display());
    let start = || {
        machines.run(&["--detach", "--name", "m", "--network", "none", "--secret", &secret], &[]).succeeded();
        until("the init", || session.ok(["logs", "m"]) == sees);
    };
    start();
    // Others join it: they see its processes and its mounts.
    let seen =
        machines.session.exec("m", "cat /proc/1/comm; echo mine > /run/mine; test $$ -gt 1 && echo not the first");
    assert_eq!(seen.succeeded().stdout, "init\nnot the first\n");
    assert_eq!(session.ok(["cp", "m:/run/mine", "-"]).matches("mine\n").count(), 1);
    assert!(session.ok(["diff", "m"]).is_empty());
    session.ok(["stop", "m"]);
    assert_eq!(session.ok(["wait", "m"]), "4\n");
    assert_eq!(session.ok(["logs", "m"]), format!("{sees}halting\n"));
    session.ok(["rm", "m"]);

    // It powers off, or reboots. That is its normal end, and not a failure of the machine.
    for file in ["/srv/off", "/srv/again"] {
        start();
        machines.session.exec("m", &format!("touch {file}"));
        assert_eq!(session.ok(["wait", "m"]), "0\n", "{file}");
        session.ok(["rm", "m"]);
    }
}
