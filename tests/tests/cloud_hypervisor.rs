//! Cloud Hypervisor without a processor to run it on: a stand-in plays it, with its command line, its sockets, its events
//! and its guest's init. What only the real one shows is in `machines`, whose tests of it need its program.
//!
//! Only root may open `/dev/kvm` of every host, so root starts these machines.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use end_to_end::Actor;
use end_to_end::stand_in::{NO_HYPERVISORS, StandIn};

/// Its guest reports the command line, or ends the way that MODE says.
const STAND_IN: &str = r#"#!/usr/bin/python3
import json, os, socket, struct, sys, time
args = sys.argv[1:]
if args == ['--version']:
    print('VERSION'); sys.exit(0)
after = lambda flag, key: args[args.index(flag) + 1].split(key + '=', 1)[1].strip('"')
if 'MODE' == 'gives-up':
    sys.stderr.write('cloud-hypervisor: 0.1s: <vmm> WARN:vmm/src/vm.rs:1 -- odd\n'
        'Error: Cloud Hypervisor exited with the following chain of errors:\n'
        '  0: Error booting VM\n  1: The VM could not boot\n  2: Cannot open disk path\n')
    sys.exit(1)
console = open(after('--serial', 'file'), 'w')
console.write('lamina: init is up\n'); console.flush()
vsock = after('--vsock', 'socket')
device = socket.socket(socket.AF_UNIX); device.bind(vsock)
api = socket.socket(socket.AF_UNIX); api.bind(args[args.index('--api-socket') + 1])
events = open(after('--event-monitor', 'path'), 'w')
def event(source, name):
    what = {'timestamp': {'secs': 0, 'nanos': 1}, 'source': source, 'event': name, 'properties': None}
    events.write(json.dumps(what, indent=2) + '\n\n'); events.flush()
for what in [('vmm', 'starting'), ('vm', 'booting'), ('vm', 'booted')]: event(*what)
INIT
if 'MODE' == 'reboots':
    event('vm', 'rebooting'); event('vm', 'rebooted'); time.sleep(1000)
if 'MODE' == 'reboots-as-of-v38':
    event('vm', 'shutdown'); event('vm', 'booted'); time.sleep(1000)
if 'MODE' == 'powers-off':
    for what in [('vm', 'shutdown'), ('vm', 'deleted'), ('vmm', 'shutdown')]: event(*what)
    sys.exit(0)
if 'MODE' == 'panics':
    console.write('[    1.5] Kernel panic - not syncing: Attempted to kill init!\n'); console.flush()
    event('vm', 'rebooting'); time.sleep(1000)
if 'MODE' == 'is-killed': os.kill(os.getpid(), 9)
again = socket.socket(socket.AF_UNIX)
try: again.connect(vsock + '_1024'); second = 'a second connection is accepted'
except OSError: second = 'refused'
send(1, 7, json.dumps({'args': args, 'second': second}).encode())
send(1, 12, json.dumps({'status': 0}).encode())
while receive()[1] != 15: pass
send(0, 17)
for what in [('vm', 'shutdown'), ('vm', 'deleted'), ('vmm', 'shutdown')]: event(*what)
"#;

fn stand_in(actor: Actor) -> StandIn {
    StandIn::of(actor, "cloud-hypervisor", STAND_IN)
}

/// Returns the words after `flag` up to the next flag.
fn values<'a>(arguments: &'a [String], flag: &str) -> Vec<&'a str> {
    let start = arguments.iter().position(|word| word == flag).map_or(arguments.len(), |at| at + 1);
    arguments[start..].iter().map(String::as_str).take_while(|word| !word.starts_with("--")).collect()
}

#[test]
fn each_version_gets_its_dialect_and_nothing_is_left_of_a_run() {
    let stand = stand_in(Actor::Root);
    for (version, names_formats) in
        [("v39.0", false), ("v50.2", false), ("v51.2", true), ("v52.0", true), ("v53.0-dirty", true)]
    {
        stand.puts(&format!("cloud-hypervisor {version}"), "reports");
        let shared = [stand.session.work("one"), stand.session.work("two, with a comma")];
        shared.iter().for_each(|path| fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap());
        let volumes = ["/one", "/two"].iter().zip(&shared).map(|(at, path)| format!("{}:{at}:ro", path.display()));
        let volumes: Vec<String> = volumes.flat_map(|volume| ["-v".to_owned(), volume]).collect();
        let volumes: Vec<&str> = volumes.iter().map(String::as_str).collect();
        let options = [&volumes[..], &["--name", "stand", "--keep=64M", "--network", "none", "--cpus", "2"]].concat();
        let finished = stand.run(&options).succeeded();
        assert_eq!(finished.stderr, "", "{finished}");
        let report: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
        assert_eq!(report["second"], "refused", "only init reaches the launcher");
        let arguments: Vec<String> = serde_json::from_value(report["args"].clone()).unwrap();
        assert_eq!(arguments.iter().filter(|word| *word == "--fs").count(), 1, "{version}: {arguments:?}");
        let tags = values(&arguments, "--fs");
        assert_eq!(tags.len(), 3, "{version}: {tags:?}");
        let [disk] = values(&arguments, "--disk")[..] else { panic!("{version}: {arguments:?}") };
        assert!(disk.contains("readonly=off,serial=kept"), "{disk}");
        assert_eq!(disk.contains(",image_type=raw"), names_formats, "{version}: {disk}");
        assert_eq!(disk.contains(",_disable_aio=on"), version == "v51.2", "{version}: {disk}");
        assert_eq!(values(&arguments, "--cpus"), ["boot=2"]);
        assert_eq!(values(&arguments, "--memory"), ["size=512M,shared=on"]);
        assert_eq!(values(&arguments, "--seccomp"), ["true"]);
        assert!(!arguments.iter().any(|word| word == "--net"), "{arguments:?}");
        let shown = stand.session.ok(["inspect", "--text", "stand"]);
        assert!(shown.contains("cloud-hypervisor"), "{shown}");
        stand.session.ok(["rm", "stand"]);
    }
    stand.session.traces().assert_nothing_left();
}

#[test]
fn block_root_is_a_disk_and_needs_no_share() {
    let stand = stand_in(Actor::Root);
    stand.puts("cloud-hypervisor v53.0", "reports");
    let finished = stand.run(&["--backend", "block", "--network", "none"]).succeeded();
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let arguments: Vec<String> = serde_json::from_value(report["args"].clone()).unwrap();
    let [disk] = values(&arguments, "--disk")[..] else { panic!("{arguments:?}") };
    assert!(disk.starts_with("vhost_user=on,socket=") && disk.contains("root.sock"), "{disk}");
    assert!(!arguments.iter().any(|word| word == "--fs"), "{arguments:?}");
    stand.session.traces().assert_nothing_left();
}

#[test]
fn reboot_power_off_panic_kill_and_failure_are_told_apart() {
    let stand = stand_in(Actor::Root);
    stand.runs_that_fail("cloud-hypervisor v53.0", &[
        ("reboots", "the guest rebooted before its command ended"),
        ("reboots-as-of-v38", "the guest rebooted before its command ended"),
        ("powers-off", "the guest powered off before its command ended"),
        ("panics", "the guest's kernel panicked: Attempted to kill init!"),
        ("is-killed", "the hypervisor ended before its command ended (signal: 9 (SIGKILL))"),
        (
            "gives-up",
            "the hypervisor ended before its command was started (exit status: 1): Error booting VM: The VM could not \
             boot: Cannot open disk path",
        ),
    ]);
}

#[test]
fn missing_network_is_told_with_its_reason_and_what_cannot_be_is_refused_with_a_remedy() {
    let stand = stand_in(Actor::Root);
    stand.puts("cloud-hypervisor v53.0", "reports");
    // A passt that has no --vhost-user, as Debian 12's, and starts.
    let passt = stand.programs.join("passt");
    let script = "#!/bin/sh\ncase \"$*\" in *--help*) echo '  --stderr  --one-off';; *) exec python3 -c '\
        import socket, sys, time; s = socket.socket(socket.AF_UNIX)\n\
        s.bind(sys.argv[sys.argv.index(\"--socket\") + 1]); time.sleep(1000)' \"$@\";; esac\n";
    fs::write(&passt, script).unwrap();
    fs::set_permissions(&passt, PermissionsExt::from_mode(0o755)).unwrap();
    let finished = stand.run(&[]).succeeded();
    let notices: Vec<&str> = finished.stderr.lines().collect();
    assert_eq!(notices.len(), 1, "{finished}");
    assert!(notices[0].contains("network none: ") && notices[0].contains("has no --vhost-user"), "{finished}");
    for (options, cause, remedy) in [
        (
            &["--network", "passt"][..],
            "--network passt: the passt of this host has no --vhost-user",
            "use --network none",
        ),
        (&["--network", "slirp"], "--network slirp: cloud-hypervisor does not have it", ""),
        (&["--accel", "tcg"], "--accel tcg: cloud-hypervisor does not have it", ""),
        (&["--machine", "q35"], "--machine q35: cloud-hypervisor does not have it", ""),
        (&["--host-loopback"], "--host-loopback: passt cannot be used", ""),
    ] {
        let refused = stand.run(options);
        refused.failed(cause);
        assert!(refused.stderr.lines().count() == 1 && refused.stderr.contains(remedy), "{refused}");
    }
    let many: Vec<String> = (0..28).flat_map(|number| ["-v".to_owned(), format!("/usr:/share{number}:ro")]).collect();
    stand.run(&many.iter().map(String::as_str).collect::<Vec<_>>()).failed("share a directory that holds the others");
    stand.session.traces().assert_nothing_left();
}

#[test]
fn program_that_is_missing_too_old_or_another_one_is_refused_with_where_to_get_one() {
    let stand = stand_in(Actor::User);
    let refused = stand.run(&[]);
    refused.failed("--engine cloud-hypervisor: cloud-hypervisor: not found in PATH");
    assert!(refused.stderr.contains("/releases"), "{refused}");
    for (version, cause) in [
        ("cloud-hypervisor v38.0", "it is v38, and machines need v39 or newer"),
        ("cloud-hypervisor v0.9.0", "it is v0, and machines need v39 or newer"),
        ("QEMU emulator version 7.2.22", "it is not a Cloud Hypervisor"),
    ] {
        stand.puts(version, "reports");
        let refused = stand.run(&[]);
        refused.failed(cause);
        assert!(refused.stderr.lines().count() == 1 && refused.stderr.contains("/releases"), "{refused}");
    }
    for (program, cause) in NO_HYPERVISORS {
        stand.puts_program(program);
        let refused = stand.run(&[]);
        refused.failed(cause);
        assert!(refused.stderr.lines().count() == 1 && refused.stderr.contains("/releases"), "{refused}");
    }
    stand.session.traces().assert_nothing_left();
}

#[test]
fn no_start_but_the_first_starts_the_program_for_its_version() {
    stand_in(Actor::Root).is_asked_for_its_version_once("cloud-hypervisor v53.0");
}

#[test]
fn host_without_kvm_is_refused_with_another_engine_and_nothing_is_started() {
    let stand = stand_in(Actor::Root);
    stand.puts("cloud-hypervisor v53.0", "reports");
    let refused = stand.run_without_kvm(&["--network", "none"]);
    refused.failed("--engine cloud-hypervisor: Cloud Hypervisor: it needs KVM: /dev/kvm: ");
    assert!(refused.stderr.contains("use --engine qemu"), "{refused}");
    stand.session.traces().assert_nothing_left();
}

#[test]
fn auto_takes_it_where_there_is_no_qemu_and_says_why() {
    let stand = stand_in(Actor::Root);
    stand.puts("cloud-hypervisor v53.0", "reports");
    let finished = stand.run_by_choice(&["--network", "none"]).succeeded();
    for expected in [
        "engine cloud-hypervisor: the first that can be used here",
        "not qemu: qemu-system-x86_64: not found in PATH",
        "accelerator kvm: it runs a guest",
        "backend direct: ",
    ] {
        assert!(finished.stderr.contains(expected), "{expected}: {finished}");
    }
    stand.session.traces().assert_nothing_left();
}
