//! Commands that are inits: they are process 1, as in a container.

use end_to_end::layout::Layer;
use end_to_end::until;
use serde_json::json;

use crate::fixture::Machines;

/// An init that prints what it sees, ends on the signals that end systemd, and powers off when it is asked to.
const INIT: &str = r#"#!/bin/bash
echo "process $$, $container"
[ $(ls -d /proc/[0-9]* | wc -l) -lt 9 ] && echo sees its own
trap 'echo halting; exit 4' RTMIN+3
touch /sys/no 2> /dev/null && echo writes /sys
mkdir /sys/fs/cgroup/a && echo has control groups
mountpoint -q /run && echo has /run
cat /run/secrets/key
while :; do
    [ -e /srv/off ] && perl -e 'syscall(169, 0xfee1dead, 672274793, 0x4321fedc, 0)'
    sleep 0.1
done
"#;

const SEES: &str = "process 1, lamina\nsees its own\nhas control groups\nhas /run\nsecret\n";

#[test]
fn init_of_an_image_is_process_one_and_ends_in_its_own_ways() {
    let layer = Layer::of_script(&format!("cat > init <<'END'\n{INIT}END\nchmod 755 init"));
    let machines = Machines::with_config(&[layer], &json!({"Cmd": ["/init"], "StopSignal": "SIGRTMIN+3"}));
    let session = &machines.session;
    let secret = session.work("secret").join("key");
    std::fs::write(&secret, "secret\n").unwrap();
    end_to_end::Actor::User.own(&secret);
    let secret = format!("key={}", secret.display());
    let start = || {
        machines.run(&["--detach", "--name", "m", "--network", "none", "--secret", &secret], &[]).succeeded();
        until("the init", || session.ok(["logs", "m"]) == SEES);
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
    assert_eq!(session.ok(["logs", "m"]), format!("{SEES}halting\n"));
    session.ok(["rm", "m"]);

    // It powers off. That is its normal end, and not a failure of the machine.
    start();
    machines.session.exec("m", "touch /srv/off");
    assert_eq!(session.ok(["wait", "m"]), "0\n");
    session.ok(["rm", "m"]);
}
